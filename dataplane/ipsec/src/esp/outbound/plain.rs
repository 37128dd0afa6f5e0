//! The straight line that nearly all packets take: IPv4 in an AES-GCM tunnel over IPv4, no limit near, and room for everything.
//!
//! ```text
//!  in:             Ethernet │ IPv4 …
//!  out: Ethernet │ outer IPv4 │ SPI, sequence │ IV │ IPv4 … │ padding, pad length, next │ ICV
//!       ◄────── Template, filled in ─────────────►
//! ```
//!
//! Whatever does not fit is left as it is, for the way that fits all.

use super::{OUTER_TTL, OutboundSa};
use crate::aead::{Keys, SealJob};
use crate::esp::BURST;
use crate::esp::suite::{GCM_IV_LEN, Settled, aad, nonce};
use crate::sa::{DfRule, DscpRule, HeaderRules, Spi};
use arrayvec::ArrayVec;
use core::net::Ipv4Addr;
use wire::{checksum, esp, ethernet, ipv4, protocol};

/// What text of AES-GCM is a multiple of (RFC 4303 §2.4).
const GCM_ALIGN: usize = 4;

/// Tunnel header, ESP header and explicit IV.
const PLAIN_HEADERS: usize = ipv4::MIN_HEADER_LEN + esp::HEADER_LEN + GCM_IV_LEN;

/// Where the inner packet begins in a frame that is sent.
const INNER_AT: usize = ethernet::HEADER_LEN + PLAIN_HEADERS;

/// Version and header length.
const V4_WITHOUT_OPTIONS: u8 = 0x45;

/// The trailers of 0 to 3 bytes of padding behind an IPv4 packet (RFC 4303 §2.4 to §2.6).
const PLAIN_TRAILERS: [[u8; 8]; GCM_ALIGN] = {
    const V4: u8 = protocol::IPV4;
    [
        [0, V4, 0, 0, 0, 0, 0, 0],
        [1, 1, V4, 0, 0, 0, 0, 0],
        [1, 2, 2, V4, 0, 0, 0, 0],
        [1, 2, 3, 3, V4, 0, 0, 0],
    ]
};

/// The headers of IPv4 as far as they are the same in every packet: of the tunnel header TOS, length, identification and DF are
/// zero, and the sum is that of the rest. Of IPv6 they are made anew.
#[repr(C)]
pub(super) struct Template {
    front: [u8; INNER_AT],
    /// The number of the port whose Ethernet header is in it.
    egress: u16,
    sum: u16,
}

impl Template {
    pub(super) const NONE: Self = Self { front: [0; INNER_AT], egress: 0, sum: 0 };

    /// Writes the headers anew. What is of the link stays.
    pub(super) fn write(&mut self, local: Ipv4Addr, remote: Ipv4Addr, protocol: u8, spi: Spi) {
        let fixed = ipv4::Header {
            traffic_class: 0,
            total_len: 0,
            id: 0,
            dont_fragment: false,
            ttl: OUTER_TTL,
            protocol,
            source: local,
            destination: remote,
        };
        let mut header = fixed.emit();
        [header[10], header[11]] = [0, 0];
        let (_, front) = self.front.split_at_mut(ethernet::HEADER_LEN);
        front[..ipv4::MIN_HEADER_LEN].copy_from_slice(&header);
        front[ipv4::MIN_HEADER_LEN..][..4].copy_from_slice(&spi.get().to_be_bytes());
        self.sum = checksum::Sum::ZERO.add_bytes(&header).fold();
    }

    #[inline(always)]
    fn sum(&self) -> checksum::Sum {
        checksum::Sum::ZERO.add_u16(self.sum)
    }

    /// The tunnel header of a packet. With `dont_fragment` there is no fragment offset either.
    #[inline]
    pub(super) fn fill(
        &self,
        out: &mut [u8; ipv4::MIN_HEADER_LEN],
        tos: u8,
        len: u16,
        id: u16,
        df: bool,
    ) {
        out.copy_from_slice(&self.front[ethernet::HEADER_LEN..][..ipv4::MIN_HEADER_LEN]);
        let flags = if df { 0x4000 } else { 0 };
        let sum = self.sum().add_u16(tos.into()).add_u16(len).add_u16(id).add_u16(flags);
        out[1] = tos;
        [out[2], out[3]] = len.to_be_bytes();
        [out[4], out[5]] = id.to_be_bytes();
        [out[6], out[7]] = flags.to_be_bytes();
        [out[10], out[11]] = sum.checksum().to_be_bytes();
    }

    /// Everything in front of the inner packet.
    #[inline(always)]
    fn fill_all(&self, out: &mut [u8; INNER_AT], header: &Outer, sequence: u64) {
        *out = self.front;
        let Outer { tos, len, id, flags } = *header;
        let sum = self.sum().add_u16(tos.into()).add_u16(len).add_u16(id).add_u16(flags);
        out[15] = tos;
        [out[16], out[17]] = len.to_be_bytes();
        [out[18], out[19]] = id.to_be_bytes();
        [out[20], out[21]] = flags.to_be_bytes();
        [out[24], out[25]] = sum.checksum().to_be_bytes();
        if let Some(low) = out[38..].first_chunk_mut() {
            *low = (sequence as u32).to_be_bytes();
        }
        if let Some(iv) = out.last_chunk_mut() {
            *iv = sequence.to_be_bytes();
        }
    }
}

/// What of an inner header shows in the outer one: bits, so that it takes no more room than it is worth.
#[derive(Clone, Copy, Default)]
pub(super) struct Rules(u8);

const DF: u16 = 0x4000;

impl Rules {
    const ECN: u8 = 3;
    const DSCP: u8 = 4;
    const DF_COPY: u8 = 8;
    const DF_SET: u8 = 16;

    /// DSCP by the SA's rule and ECN by RFC 6040 §4.1: normal mode copies, otherwise not-ECT.
    pub(super) fn new(headers: &HeaderRules) -> Self {
        let dscp = match headers.dscp {
            DscpRule::Out | DscpRule::Both => Self::DSCP,
            DscpRule::In | DscpRule::None => 0,
        };
        let df = match headers.df {
            DfRule::Copy => Self::DF_COPY,
            DfRule::Set => Self::DF_SET,
            DfRule::Clear => 0,
        };
        Self(dscp | df | if headers.ecn { Self::ECN } else { 0 })
    }

    /// What of DSCP and ECN is copied.
    #[inline(always)]
    fn tos_kept(self) -> u8 {
        self.0 & Self::ECN | if self.0 & Self::DSCP != 0 { 0xfc } else { 0 }
    }

    /// The flags of the outer header.
    #[inline(always)]
    fn flags(self, inner: u16) -> u16 {
        let copied = if self.0 & Self::DF_COPY != 0 { inner & DF } else { 0 };
        copied | if self.0 & Self::DF_SET != 0 { DF } else { 0 }
    }
}

/// What differs from packet to packet in its tunnel header.
struct Outer {
    tos: u8,
    len: u16,
    id: u16,
    flags: u16,
}

/// A frame that an SA will seal when it is given the room.
#[derive(Debug)]
pub struct Plan<'a> {
    of: Settled<'a, OutboundSa>,
    /// Bytes of the inner packet.
    len: usize,
    text_len: usize,
    outer_len: usize,
}

impl<'a> Plan<'a> {
    /// How many bytes before its present beginning the frame will begin.
    pub const FRONT: usize = PLAIN_HEADERS;

    /// Bytes that the frame will have.
    #[inline(always)]
    pub fn frame_len(&self) -> usize {
        ethernet::HEADER_LEN + self.outer_len
    }

    /// Takes a sequence number, writes everything into the frame that needs no key, and gives the rest to the cipher. `frame` has the
    /// length of the plan, and its packet at [`Plan::FRONT`] more than before. `None` when it has not: the number is taken all the same.
    #[inline(always)]
    pub(crate) fn begin(
        &self,
        frame: &'a mut [u8],
        keys: Keys,
        jobs: &mut ArrayVec<SealJob<'a>, BURST>,
    ) -> Option<()> {
        let Self { of, len, text_len, outer_len } = *self;
        let sa = of.sa;
        let (key, salt) = of.gcm(text_len, keys)?;
        let sequence = sa.sequence.get() + 1;
        sa.sequence.set(sequence);
        sa.usage.charge_far(len as u64);
        let (front, rest) = frame.split_first_chunk_mut::<INNER_AT>()?;
        // Padding, pad length, next header, and what the cipher writes over with the ICV.
        let pad_len = text_len - len - esp::TRAILER_LEN;
        *rest.get_mut(len..)?.first_chunk_mut()? = PLAIN_TRAILERS[pad_len & (GCM_ALIGN - 1)];
        ipv4::decrement_ttl(rest);
        let inner: &[u8; ipv4::MIN_HEADER_LEN] = rest.first_chunk()?;
        let flags = sa.rules.flags(u16::from_be_bytes([inner[6], inner[7]]));
        let header = Outer {
            tos: inner[1] & sa.rules.tos_kept(),
            len: outer_len as u16,
            // A packet that may be fragmented needs an identification of its own (RFC 6864 §4).
            id: if flags == 0 { sequence as u16 } else { 0 },
            flags,
        };
        sa.template.fill_all(front, &header, sequence);
        let (text, icv) = rest.split_at_mut_checked(text_len)?;
        let aad = aad(sa.spi.get(), sequence, sa.esn);
        let nonce = nonce(salt, sequence.to_be_bytes());
        jobs.push(SealJob::in_place(key, nonce, aad, text, icv).ok()?);
        Some(())
    }

    /// Asks for what this frame needs of the key, by where `keys` are.
    #[inline(always)]
    pub(crate) fn prefetch_key(&self, keys: Keys) {
        self.of.prefetch_key(self.text_len, keys);
    }

    /// The port that it leaves by.
    #[inline(always)]
    pub fn egress(&self) -> u16 {
        self.of.sa.template.egress
    }

    /// Notes that the SA's usage has changed; whether that is new.
    #[inline(always)]
    pub fn fall_due(&self) -> bool {
        self.of.sa.usage.fall_due()
    }

    /// Bytes of the packet that is carried.
    #[inline(always)]
    pub(crate) fn carried(&self) -> u64 {
        self.len as u64
    }
}

impl<'a> Settled<'a, OutboundSa> {
    /// Whether this frame, an untagged one for us with an IPv4 packet that is to be forwarded, goes the straight way. Nothing changes.
    #[inline(always)]
    pub(crate) fn plan_frame(self, generation: u32, frame: &[u8]) -> Option<Plan<'a>> {
        let sa = self.sa;
        let inner: &[u8; ipv4::MIN_HEADER_LEN] =
            frame.get(ethernet::HEADER_LEN..)?.first_chunk()?;
        let len = usize::from(u16::from_be_bytes([inner[2], inner[3]]));
        let text_len = (len + esp::TRAILER_LEN + GCM_ALIGN - 1) & !(GCM_ALIGN - 1);
        let outer_len = PLAIN_HEADERS + text_len + usize::from(sa.sizes.icv);
        let is_plain = sa.is_straight
            && sa.generation == generation
            && inner[0] == V4_WITHOUT_OPTIONS
            // One goes off before the packet enters the tunnel, and zero is never sent.
            && inner[8] > 1
            && len >= ipv4::MIN_HEADER_LEN
            && len + ethernet::HEADER_LEN <= frame.len()
            && outer_len <= usize::from(sa.path_mtu)
            && sa.sequence.get() < sa.last_sequence
            && sa.usage.is_far(len as u64);
        is_plain.then_some(Plan { of: self, len, text_len, outer_len })
    }
}

impl OutboundSa {
    /// Tells by which port its packets leave and behind which Ethernet header, where that is known. Without, none goes the straight way.
    pub fn set_link(&mut self, link: Option<(u16, [u8; ethernet::HEADER_LEN])>) {
        self.is_linked = link.is_some();
        let (port, header) = link.unwrap_or_default();
        self.template.egress = port;
        self.template.front[..ethernet::HEADER_LEN].copy_from_slice(&header);
        self.judge();
    }
}
