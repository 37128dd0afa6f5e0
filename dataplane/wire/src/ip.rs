//! Either IP version behind one view.

use crate::ipv4::{self, Ipv4};
use crate::ipv6::{self, Ipv6};
use crate::udp::{self, Udp};
use crate::{Malformed, checksum, protocol, tcp};
use core::net::IpAddr;

/// A packet of either version.
#[derive(Clone, Copy, Debug)]
pub enum Ip<'a> {
    /// Version 4.
    V4(Ipv4<'a>),
    /// Version 6.
    V6(Ipv6<'a>),
}

/// How a packet relates to fragmentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// A whole packet.
    Whole,
    /// The first fragment: the upper-layer header may be there.
    First,
    /// A later fragment: no upper-layer header.
    Later,
}

/// What a fragment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Identification of the packet that it is of, unique for its addresses and, over IPv4, its protocol (RFC 791 §3.2, RFC 8200 §4.5).
    pub id: u32,
    /// Where its bytes belong in that packet's payload.
    pub offset: usize,
}

/// Where the upper layer of a packet begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper<'a> {
    /// Its protocol number.
    pub protocol: u8,
    /// Its offset from the start of the IP header.
    pub offset: usize,
    /// The offset of the field that names its protocol.
    pub named_at: usize,
    /// Whether these are the bytes of a whole packet.
    pub fragment: Fragment,
    /// Its bytes; for a later fragment, the piece.
    pub bytes: &'a [u8],
}

impl<'a> Ip<'a> {
    /// Parses by the version nibble.
    ///
    /// # Errors
    ///
    /// As [`Ipv4::parse`] and [`Ipv6::parse`]; [`Malformed::Version`] for any other version.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match bytes.first().map(|b| b >> 4) {
            Some(4) => Ipv4::parse(bytes).map(Self::V4),
            Some(6) => Ipv6::parse(bytes).map(Self::V6),
            Some(_) => Err(Malformed::Version),
            None => Err(Malformed::Truncated),
        }
    }

    /// Source address.
    #[inline]
    pub fn source(&self) -> IpAddr {
        match self {
            Self::V4(ip) => ip.source().into(),
            Self::V6(ip) => ip.source().into(),
        }
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> IpAddr {
        match self {
            Self::V4(ip) => ip.destination().into(),
            Self::V6(ip) => ip.destination().into(),
        }
    }

    /// DSCP and ECN.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        match self {
            Self::V4(ip) => ip.traffic_class(),
            Self::V6(ip) => ip.traffic_class(),
        }
    }

    /// TTL or hop limit.
    pub fn hop_limit(&self) -> u8 {
        match self {
            Self::V4(ip) => ip.ttl(),
            Self::V6(ip) => ip.hop_limit(),
        }
    }

    /// Bytes of the packet, header included.
    #[inline]
    pub fn total_len(&self) -> usize {
        match self {
            Self::V4(ip) => ip.total_len(),
            Self::V6(ip) => ip.total_len(),
        }
    }

    /// Whether the source may not fragment it on the way: DF, and always with IPv6.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        match self {
            Self::V4(ip) => ip.dont_fragment(),
            Self::V6(_) => true,
        }
    }

    /// What it says as a fragment; `None` for a whole packet, and for extension headers that cannot be walked over.
    pub fn piece(&self) -> Option<Piece> {
        match self {
            Self::V4(ip) => {
                ip.is_fragment().then(|| Piece { id: ip.id().into(), offset: ip.fragment_offset() })
            }
            Self::V6(ip) => {
                let upper = ip.upper_layer().ok()?;
                upper.fragment.map(|(offset, _)| Piece { id: upper.id, offset })
            }
        }
    }

    /// Finds the upper layer, over IPv4 options and IPv6 extension headers.
    ///
    /// # Errors
    ///
    /// [`Malformed::Options`] from the walk over extension headers.
    #[inline]
    pub fn upper(&self) -> Result<Upper<'a>, Malformed> {
        match self {
            Self::V4(ip) => Ok(Upper {
                protocol: ip.protocol(),
                offset: ip.header_len(),
                named_at: ipv4::PROTOCOL_AT,
                fragment: match (ip.is_fragment(), ip.fragment_offset()) {
                    (false, _) => Fragment::Whole,
                    (true, 0) => Fragment::First,
                    (true, _) => Fragment::Later,
                },
                bytes: ip.payload(),
            }),
            Self::V6(ip) => {
                let upper = ip.upper_layer()?;
                let start = upper.offset.saturating_sub(ipv6::HEADER_LEN);
                Ok(Upper {
                    protocol: upper.protocol,
                    offset: upper.offset,
                    named_at: upper.named_at,
                    fragment: match upper.fragment {
                        None => Fragment::Whole,
                        Some((0, _)) => Fragment::First,
                        Some(_) => Fragment::Later,
                    },
                    bytes: ip.payload().get(start..).ok_or(Malformed::Options)?,
                })
            }
        }
    }
}

impl Upper<'_> {
    /// Source and destination port, for the protocols that begin with them, when they are visible.
    #[inline]
    pub fn ports(&self) -> Option<(u16, u16)> {
        let has_ports = matches!(
            self.protocol,
            protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDP_LITE | protocol::DCCP
        );
        if !has_ports || self.fragment == Fragment::Later {
            return None;
        }
        let [s1, s0, d1, d0] = *self.bytes.first_chunk::<4>()?;
        Some((u16::from_be_bytes([s1, s0]), u16::from_be_bytes([d1, d0])))
    }
}

/// Whether a packet may be a fragment: of IPv4 it is one, of IPv6 it has an extension header.
#[inline]
pub fn may_be_fragment(packet: &[u8]) -> bool {
    match *packet {
        [version, _, _, _, _, _, high, low, ..] if version >> 4 == 4 => (high & 0x3f) | low != 0,
        [version, _, _, _, _, _, next, ..] if version >> 4 == 6 => matches!(
            next,
            protocol::FRAGMENT
                | protocol::HOP_BY_HOP
                | protocol::ROUTING
                | protocol::DESTINATION_OPTIONS
                | protocol::MOBILITY
                | protocol::HIP
                | protocol::SHIM6
        ),
        _ => false,
    }
}

/// Replaces the DSCP and ECN of a packet of either version.
pub fn set_traffic_class(packet: &mut [u8], traffic_class: u8) {
    match packet.first().map(|b| b >> 4) {
        Some(4) => ipv4::set_traffic_class(packet, traffic_class),
        Some(6) => ipv6::set_traffic_class(packet, traffic_class),
        _ => {}
    }
}

/// Takes one from TTL or hop limit of a packet of either version; `None`, and no change, when it would
/// reach zero.
#[inline]
pub fn decrement_hop_limit(packet: &mut [u8]) -> Option<u8> {
    match packet.first().map(|b| b >> 4) {
        Some(4) => ipv4::decrement_ttl(packet),
        Some(6) => ipv6::decrement_hop_limit(packet),
        _ => None,
    }
}

/// Computes the checksum of a TCP segment or UDP datagram anew, after a NAT changed the addresses it
/// covers (RFC 3948 §3.1.2). A UDP datagram over IPv4 that had none stays without; other protocols and
/// fragments stay as they are.
pub fn repair_upper_checksum(packet: &mut [u8]) {
    let Some((offset, end, at, pseudo)) = upper_checksum(packet) else { return };
    let Some(upper) = packet.get_mut(offset..end) else { return };
    let Some(field) = upper.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) else {
        return;
    };
    *field = [0, 0];
    let sum = match pseudo.add_bytes(upper).checksum() {
        // 0 would mean none (RFC 768).
        0 if at == UDP_CHECKSUM_AT => 0xffff,
        sum => sum,
    };
    if let Some(field) = upper.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) {
        *field = sum.to_be_bytes();
    }
}

/// Lowers the MSS that a TCP SYN in this packet announces to what an IP packet of `mtu` bytes has room for (RFC 9293 §3.7.1:
/// headers without options). Fragments and other packets stay as they are. Says whether something changed.
pub fn clamp_mss(packet: &mut [u8], mtu: u16) -> bool {
    // Less than this no path carries, and what asks for it is mistaken.
    const LEAST: u16 = 88;
    let Ok(ip) = Ip::parse(packet) else { return false };
    let Ok(upper) = ip.upper() else { return false };
    if upper.protocol != protocol::TCP || upper.fragment != Fragment::Whole {
        return false;
    }
    let ip_len = match ip {
        Ip::V4(_) => ipv4::MIN_HEADER_LEN,
        Ip::V6(_) => ipv6::HEADER_LEN,
    };
    let room = usize::from(mtu).saturating_sub(ip_len.saturating_add(tcp::MIN_HEADER_LEN));
    let limit = u16::try_from(room).unwrap_or(u16::MAX);
    let (from, to) = (upper.offset, upper.offset.saturating_add(upper.bytes.len()));
    match packet.get_mut(from..to) {
        Some(segment) if limit >= LEAST => tcp::clamp_mss(segment, limit),
        _ => false,
    }
}

const UDP_CHECKSUM_AT: usize = 6;
const TCP_CHECKSUM_AT: usize = 16;

/// Where the upper layer lies, where in it the checksum, and the sum of its pseudo header; `None` where
/// there is no checksum to be repaired.
fn upper_checksum(packet: &[u8]) -> Option<(usize, usize, usize, checksum::Sum)> {
    let ip = Ip::parse(packet).ok()?;
    let upper = ip.upper().ok().filter(|upper| upper.fragment == Fragment::Whole)?;
    let at = match upper.protocol {
        protocol::TCP => TCP_CHECKSUM_AT,
        protocol::UDP => UDP_CHECKSUM_AT,
        _ => return None,
    };
    // A datagram may end before its packet does.
    let covered = match upper.protocol {
        protocol::UDP => {
            Udp::parse(upper.bytes).ok()?.payload().len().saturating_add(udp::HEADER_LEN)
        }
        _ => upper.bytes.len(),
    };
    let len = u16::try_from(covered).ok()?;
    let pseudo = match ip {
        Ip::V4(ip) => {
            if at == UDP_CHECKSUM_AT && *upper.bytes.get(at..)?.first_chunk::<2>()? == [0, 0] {
                return None;
            }
            checksum::pseudo_v4(ip.source(), ip.destination(), upper.protocol, len)
        }
        Ip::V6(ip) => {
            checksum::pseudo_v6(ip.source(), ip.destination(), upper.protocol, u32::from(len))
        }
    };
    Some((upper.offset, upper.offset.checked_add(covered)?, at, pseudo))
}
