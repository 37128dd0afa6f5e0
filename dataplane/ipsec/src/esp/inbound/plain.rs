//! The straight line that nearly all packets take: IPv4 out of an AES-GCM tunnel over IPv4, from where the peer is known to be, no
//! limit near and nothing unusual about it.
//!
//! ```text
//!  Ethernet │ outer IPv4 │ SPI, sequence │ IV │ IPv4 … │ padding, pad length, next │ ICV
//!  0        14           34              42   50
//! ```
//!
//! Whatever does not fit is left as it is, for the way that fits all: before the cipher the frame, after it the packet that was
//! [entered](Entered).

use super::{Admitted, InboundSa};
use crate::aead::{Keys, OpenJob};
use crate::drop_cause::DropCause;
use crate::esp::BURST;
use crate::esp::serial::Place;
use crate::esp::suite::{GCM_IV_LEN, Settled, Suite, aad, nonce};
use crate::flow::FlowIdV4;
use crate::replay::Candidate;
use crate::sa::DscpRule;
use arrayvec::ArrayVec;
use wire::{checksum, esp, ethernet, ipv4, protocol};

/// Outer header, ESP header and explicit IV.
const PLAIN_HEADERS: usize = ipv4::MIN_HEADER_LEN + esp::HEADER_LEN + GCM_IV_LEN;

/// Where the inner packet begins in a frame.
const INNER_AT: usize = ethernet::HEADER_LEN + PLAIN_HEADERS;

/// What text of AES-GCM is a multiple of (RFC 4303 §2.4).
const GCM_ALIGN: usize = 4;

/// Version and header length.
const V4_WITHOUT_OPTIONS: u8 = 0x45;

/// The last eight bytes of text with 0 to 3 bytes of padding behind an IPv4 packet, and which of them are not the packet's
/// (RFC 4303 §2.4 to §2.6).
const TRAILERS: [(u64, u64); GCM_ALIGN] = {
    const V4: u8 = protocol::IPV4;
    [
        (u64::from_be_bytes([0, 0, 0, 0, 0, 0, 0, V4]), 0xffff),
        (u64::from_be_bytes([0, 0, 0, 0, 0, 1, 1, V4]), 0xff_ffff),
        (u64::from_be_bytes([0, 0, 0, 0, 1, 2, 2, V4]), 0xffff_ffff),
        (u64::from_be_bytes([0, 0, 0, 1, 2, 3, 3, V4]), 0xff_ffff_ffff),
    ]
};

/// A packet that is being opened.
#[derive(Debug)]
pub struct Entered {
    candidate: Candidate,
    text_len: u16,
}

impl Entered {
    /// The same as the way that fits all has it.
    pub(crate) fn admitted(self, sa: &InboundSa, authentic: bool) -> Admitted {
        let Self { candidate, text_len } = self;
        let place = Place {
            esp: ipv4::MIN_HEADER_LEN,
            text: PLAIN_HEADERS,
            text_len: usize::from(text_len),
            sequence: candidate.sequence(),
            esn: sa.esn,
        };
        Admitted { candidate, spi: sa.spi, place, authentic }
    }
}

/// A packet that was opened and is in order.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Bytes in front of it.
    pub at: usize,
    /// Its length in bytes.
    pub len: usize,
    /// Its flow.
    pub flow: FlowIdV4,
    /// Whether it goes where the last one out of its SA went.
    pub goes_on: bool,
}

/// Why a packet did not leave the straight way.
#[derive(Debug)]
pub enum Left {
    /// It goes no further.
    Dropped(DropCause),
    /// It is for the way that fits all.
    Unusual,
}

impl<'a> Settled<'a, InboundSa> {
    /// Sizes and the replay check (RFC 4303 §3.4.2, §3.4.3) of an untagged frame for us that holds ESP over IPv4 without options;
    /// the job that opens it.
    #[inline(always)]
    pub(crate) fn enter(
        self,
        frame: &'a mut [u8],
        keys: Keys,
        jobs: &mut ArrayVec<OpenJob<'a>, BURST>,
    ) -> Option<Entered> {
        let sa = self.sa;
        let (front, rest) = frame.split_first_chunk_mut::<INNER_AT>()?;
        let outer_len = usize::from(u16::from_be_bytes([front[16], front[17]]));
        let icv = usize::from(sa.sizes.icv);
        let text_len = outer_len.checked_sub(PLAIN_HEADERS + icv)?;
        let is_plain = sa.is_straight
            && text_len >= ipv4::MIN_HEADER_LEN + 4
            && text_len.is_multiple_of(GCM_ALIGN);
        if !is_plain {
            return None;
        }
        let (key, salt) = self.gcm(text_len, keys)?;
        let (text, rest) = rest.split_at_mut_checked(text_len)?;
        let icv = rest.get(..icv)?;
        let [.., n3, n2, n1, n0, i7, i6, i5, i4, i3, i2, i1, i0] = *front;
        let candidate = sa.replay.check(u32::from_be_bytes([n3, n2, n1, n0])).ok()?;
        let aad = aad(sa.spi.get(), candidate.sequence(), sa.esn);
        let nonce = nonce(salt, [i7, i6, i5, i4, i3, i2, i1, i0]);
        jobs.push(OpenJob::in_place(key, nonce, aad, text, icv).ok()?);
        Some(Entered { candidate, text_len: text_len as u16 })
    }
}

impl InboundSa {
    /// Says whether its packets are forwarded. Without, none goes the straight way.
    pub fn set_forwarded(&mut self, forwarded: bool) {
        self.is_straight = forwarded
            && self.contribution.tunnel
            && !self.headers.clamp_mss
            && matches!(self.suite, Suite::Gcm { .. })
            && matches!(self.headers.dscp, DscpRule::Out | DscpRule::None);
    }

    /// What follows the decryption of an authentic packet (RFC 4303 §3.4.3, §3.4.4; RFC 4301 §5.2 steps 3 and 4), where nothing is unusual. Otherwise nothing
    /// changes. `version` is that of decisions about flows.
    #[inline(always)]
    pub(crate) fn leave(
        &mut self,
        entered: &Entered,
        frame: &[u8],
        version: u32,
    ) -> Result<Opened, Left> {
        let opened = self.read(entered, frame, version).ok_or(Left::Unusual)?;
        // Packets of the same burst may have been accepted since the check.
        self.replay
            .accept(&entered.candidate)
            .map_err(|replayed| Left::Dropped(replayed.into()))?;
        self.usage.charge_far(opened.len as u64);
        Ok(opened)
    }

    /// The inner packet, where nothing is unusual.
    #[inline(always)]
    fn read(&self, entered: &Entered, frame: &[u8], version: u32) -> Option<Opened> {
        let (front, rest) = frame.split_first_chunk::<INNER_AT>()?;
        let text_len = usize::from(entered.text_len);
        let text = rest.get(..text_len)?;
        let trailer = u64::from_be_bytes(*text.last_chunk()?);
        let pad_len = (trailer >> 8) as usize & 0xff;
        let (expected, mask) = *TRAILERS.get(pad_len)?;
        let inner = text.first_chunk::<{ ipv4::MIN_HEADER_LEN + 4 }>()?;
        let (header, _) = inner.split_first_chunk::<{ ipv4::MIN_HEADER_LEN }>()?;
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let flow = FlowIdV4::of(inner);
        let goes_on = self.goes_on(flow, version);
        let (outer_ecn, inner_ecn) = (front[15] & 3, header[1] & 3);
        let source = u32::from_be_bytes(*front[26..].first_chunk()?);
        let is_plain = self.seen
            && self.peer_v4 == source
            && (trailer ^ expected) & mask == 0
            && header[0] == V4_WITHOUT_OPTIONS
            && len >= inner.len()
            && len + pad_len + esp::TRAILER_LEN == text_len
            && u16::from_be_bytes([header[6], header[7]]) & 0x3fff == 0
            && checksum::is_right(header)
            // Where the outer field says nothing or the same, the inner one stays (RFC 6040 §4.2).
            && (outer_ecn == 0 || outer_ecn == inner_ecn || !self.headers.ecn)
            && self.usage.is_far(len as u64)
            // What went on before was of these protocols, and admitted.
            && (goes_on
                || matches!(header[ipv4::PROTOCOL_AT], protocol::UDP | protocol::TCP)
                    && self.quick.is_some_and(|quick| quick.admits_inbound(flow)));
        is_plain.then_some(Opened { at: INNER_AT, len, flow, goes_on })
    }
}
