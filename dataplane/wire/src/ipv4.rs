//! IPv4 (RFC 791), with the edits a router and a tunnel end make.
//!
//! ```text
//!  0 version, IHL │ 1 TOS │ 2-3 total length
//!  4-5 identification     │ 6-7 flags, fragment offset
//!  8 TTL │ 9 protocol     │ 10-11 checksum
//! 12-15 source            │ 16-19 destination
//! 20-59 options
//! ```

use crate::{Malformed, checksum};
use core::net::Ipv4Addr;

/// Bytes of a header without options.
pub const MIN_HEADER_LEN: usize = 20;

/// Offset of the protocol field.
pub const PROTOCOL_AT: usize = 9;

const DF: u16 = 0x4000;
const MF: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// A packet: the header lies inside the bytes, and the payload is cut to the total length.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    header: &'a [u8; MIN_HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Checks version, header length and total length against the bytes, which may be longer than the
    /// packet (link-layer padding). The checksum is not verified: [`Ipv4::checksum_ok`].
    ///
    /// # Errors
    ///
    /// [`Malformed::Truncated`], [`Malformed::Version`], [`Malformed::HeaderLength`],
    /// [`Malformed::TotalLength`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header = bytes.first_chunk::<MIN_HEADER_LEN>().ok_or(Malformed::Truncated)?;
        if header[0] >> 4 != 4 {
            return Err(Malformed::Version);
        }
        let header_len = usize::from(header[0] & 0x0f).saturating_mul(4);
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < MIN_HEADER_LEN || header_len > bytes.len() {
            return Err(Malformed::HeaderLength);
        }
        if total_len < header_len {
            return Err(Malformed::TotalLength);
        }
        let packet = bytes.get(..total_len).ok_or(Malformed::TotalLength)?;
        let options = packet.get(MIN_HEADER_LEN..header_len).ok_or(Malformed::HeaderLength)?;
        let payload = packet.get(header_len..).ok_or(Malformed::HeaderLength)?;
        Ok(Self { header, options, payload })
    }

    /// Bytes of the header with options.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.header[0] & 0x0f).saturating_mul(4)
    }

    /// TOS octet: DSCP and ECN.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        self.header[1]
    }

    /// Bytes of the packet, header included.
    #[inline]
    pub fn total_len(&self) -> usize {
        usize::from(u16::from_be_bytes([self.header[2], self.header[3]]))
    }

    /// Identification.
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    #[inline]
    fn flags_and_offset(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// Don't fragment.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.flags_and_offset() & DF != 0
    }

    /// More fragments follow.
    pub fn more_fragments(&self) -> bool {
        self.flags_and_offset() & MF != 0
    }

    /// Offset of this fragment in bytes.
    #[inline]
    pub fn fragment_offset(&self) -> usize {
        usize::from(self.flags_and_offset() & OFFSET).saturating_mul(8)
    }

    /// Whether this is a piece of a packet.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.flags_and_offset() & (MF | OFFSET) != 0
    }

    /// Time to live.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.header[8]
    }

    /// Protocol of the payload.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.header[9]
    }

    /// The checksum field.
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[10], self.header[11]])
    }

    /// Whether the header's checksum is right.
    #[inline]
    pub fn checksum_ok(&self) -> bool {
        checksum::Sum::ZERO.add_bytes(self.header).add_bytes(self.options).fold() == 0xffff
    }

    /// Source address.
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        let h = self.header;
        Ipv4Addr::new(h[12], h[13], h[14], h[15])
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        let h = self.header;
        Ipv4Addr::new(h[16], h[17], h[18], h[19])
    }

    /// The options with their padding, undecoded.
    pub fn options(&self) -> &'a [u8] {
        self.options
    }

    /// What follows the header, cut to the total length.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A header without options, to be emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Bytes of the whole packet.
    pub total_len: u16,
    /// Identification.
    pub id: u16,
    /// Don't fragment.
    pub dont_fragment: bool,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
}

impl Header {
    /// The bytes, checksum included.
    #[inline]
    pub fn emit(&self) -> [u8; MIN_HEADER_LEN] {
        let [l1, l0] = self.total_len.to_be_bytes();
        let [i1, i0] = self.id.to_be_bytes();
        let flags = if self.dont_fragment { 0x40 } else { 0 };
        let [s0, s1, s2, s3] = self.source.octets();
        let [d0, d1, d2, d3] = self.destination.octets();
        let (tos, ttl, protocol) = (self.traffic_class, self.ttl, self.protocol);
        let mut header = [
            0x45, tos, l1, l0, i1, i0, flags, 0, ttl, protocol, 0, 0, s0, s1, s2, s3, d0, d1, d2,
            d3,
        ];
        [header[10], header[11]] = checksum::of(&header).to_be_bytes();
        header
    }
}

/// Takes one from the TTL of a packet, keeping its checksum right. `None`, and no change, when it would
/// reach zero (RFC 1812 §5.3.1) or these bytes hold no IPv4 header.
#[inline]
pub fn decrement_ttl(packet: &mut [u8]) -> Option<u8> {
    let header = packet.first_chunk_mut::<MIN_HEADER_LEN>().filter(|h| h[0] >> 4 == 4)?;
    let ttl = header[8].checked_sub(1).filter(|&ttl| ttl > 0)?;
    // The TTL is the high half of its word: one less there is 0x100 more here (RFC 1624 §3), which is one more with the octets of
    // every word exchanged (RFC 1071 §2 (B)). As no sum that is computed is all ones, neither is this one.
    let sum = u16::from_le_bytes([header[10], header[11]]);
    let sum = sum.wrapping_add(if sum < 0xfffe { 1 } else { 2 });
    header[8] = ttl;
    [header[10], header[11]] = sum.to_le_bytes();
    Some(ttl)
}

/// Replaces the TOS octet, keeping the checksum right.
pub fn set_traffic_class(packet: &mut [u8], traffic_class: u8) {
    let Some(header) = packet.first_chunk_mut::<MIN_HEADER_LEN>() else { return };
    let old = u16::from_be_bytes([header[0], header[1]]);
    let new = u16::from_be_bytes([header[0], traffic_class]);
    let sum = checksum::update(u16::from_be_bytes([header[10], header[11]]), old, new);
    header[1] = traffic_class;
    [header[10], header[11]] = sum.to_be_bytes();
}

/// Replaces total length and protocol and computes the checksum anew, over options too.
pub fn set_len_and_protocol(packet: &mut [u8], total_len: u16, protocol: u8) {
    let Some(header_len) = packet.first().map(|b| usize::from(b & 0x0f).saturating_mul(4)) else {
        return;
    };
    let Some(header) = packet.get_mut(..header_len) else { return };
    if let Some(fixed) = header.first_chunk_mut::<MIN_HEADER_LEN>() {
        [fixed[2], fixed[3]] = total_len.to_be_bytes();
        fixed[PROTOCOL_AT] = protocol;
        [fixed[10], fixed[11]] = [0, 0];
    }
    let sum = checksum::of(header);
    if let Some(fixed) = header.first_chunk_mut::<MIN_HEADER_LEN>() {
        [fixed[10], fixed[11]] = sum.to_be_bytes();
    }
}
