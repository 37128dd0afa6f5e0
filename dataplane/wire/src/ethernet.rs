//! Ethernet II frames, with up to two VLAN tags (IEEE 802.3, 802.1Q).

use crate::{Malformed, checksum, ipv4};

/// Bytes of an untagged header.
pub const HEADER_LEN: usize = 14;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of a customer VLAN tag.
pub const VLAN: u16 = 0x8100;
/// EtherType of a service VLAN tag.
pub const SERVICE_VLAN: u16 = 0x88a8;

/// Bytes of a VLAN tag.
pub const TAG_LEN: usize = 4;

/// A station address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set (broadcast included).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl core::fmt::Display for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What the headers of UDP, TCP and ESP begin with: both ports, or the SPI.
const BEGINNING_LEN: usize = 4;

/// The IP header of what nearly all frames are and four bytes behind it: an untagged frame to `station` with a whole IPv4 packet without
/// options, which says that it has those four, and whose checksum is right. Whether the frame holds all of it is not looked at.
#[inline(always)]
pub fn plain_ipv4(
    frame: &[u8],
    station: Mac,
) -> Option<&[u8; ipv4::MIN_HEADER_LEN + BEGINNING_LEN]> {
    /// Version and header length, more fragments and the offset: what the first eight bytes of a header have there.
    const MASK: u64 = u64::from_le_bytes([0xff, 0, 0, 0, 0, 0, 0x3f, 0xff]);
    const WHOLE: u64 = u64::from_le_bytes([0x45, 0, 0, 0, 0, 0, 0, 0]);
    let (link, packet) = frame.split_first_chunk::<HEADER_LEN>()?;
    let header: &[u8; ipv4::MIN_HEADER_LEN + BEGINNING_LEN] = packet.first_chunk()?;
    let fixed = header.first_chunk::<{ ipv4::MIN_HEADER_LEN }>()?;
    let Mac([s0, s1, s2, s3, s4, s5]) = station;
    let station = u64::from_be_bytes([s0, s1, s2, s3, s4, s5, 0, 0]);
    // Six bytes of the eight.
    let destination = u64::from_be_bytes(*link.first_chunk()?) >> 16 << 16;
    let ours = destination == station && link.last_chunk() == Some(&IPV4.to_be_bytes());
    let first = u64::from_le_bytes(*header.first_chunk()?);
    let total_len = u16::from_be_bytes([header[2], header[3]]);
    let is_plain = ours
        && first & MASK == WHOLE
        && usize::from(total_len) >= header.len()
        && checksum::is_right(fixed);
    is_plain.then_some(header)
}

/// A frame whose header lies inside the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    header: &'a [u8; HEADER_LEN],
    /// The tag control information of each VLAN tag, outermost first.
    tags: [Option<u16>; 2],
    ether_type: u16,
    payload: &'a [u8],
    header_len: usize,
}

impl<'a> Frame<'a> {
    /// Reads the header and at most two VLAN tags; the payload is not looked at.
    ///
    /// # Errors
    ///
    /// [`Malformed::Truncated`]; [`Malformed::Options`] for a third tag.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, mut payload) =
            bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let mut ether_type = u16::from_be_bytes([header[12], header[13]]);
        let mut tags = [None; 2];
        let mut header_len = HEADER_LEN;
        for slot in &mut tags {
            if !matches!(ether_type, VLAN | SERVICE_VLAN) {
                break;
            }
            let (tag, rest) = payload.split_first_chunk::<4>().ok_or(Malformed::Truncated)?;
            *slot = Some(u16::from_be_bytes([tag[0], tag[1]]));
            ether_type = u16::from_be_bytes([tag[2], tag[3]]);
            payload = rest;
            header_len = header_len.saturating_add(4);
        }
        if matches!(ether_type, VLAN | SERVICE_VLAN) {
            return Err(Malformed::Options);
        }
        Ok(Self { header, tags, ether_type, payload, header_len })
    }

    /// Station the frame is for.
    #[inline]
    pub fn destination(&self) -> Mac {
        let h = self.header;
        Mac([h[0], h[1], h[2], h[3], h[4], h[5]])
    }

    /// Station that sent it.
    pub fn source(&self) -> Mac {
        let h = self.header;
        Mac([h[6], h[7], h[8], h[9], h[10], h[11]])
    }

    /// VLAN identifiers of the tags, outermost first.
    #[inline]
    pub fn vlans(&self) -> impl Iterator<Item = u16> + '_ {
        self.tags.iter().flatten().map(|tci| tci & 0x0fff)
    }

    /// Whether the outermost tag is a service tag (IEEE 802.1ad).
    pub fn is_service_tagged(&self) -> bool {
        u16::from_be_bytes([self.header[12], self.header[13]]) == SERVICE_VLAN
    }

    /// The type behind all tags.
    #[inline]
    pub fn ether_type(&self) -> u16 {
        self.ether_type
    }

    /// Bytes of the header with its tags.
    #[inline]
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// What follows the header, padding of short frames included.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// An untagged header.
#[inline]
pub fn emit(destination: Mac, source: Mac, ether_type: u16) -> [u8; HEADER_LEN] {
    let Mac([d0, d1, d2, d3, d4, d5]) = destination;
    let Mac([s0, s1, s2, s3, s4, s5]) = source;
    let [high, low] = ether_type.to_be_bytes();
    [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, high, low]
}
