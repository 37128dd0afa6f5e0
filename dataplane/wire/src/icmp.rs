//! ICMP for IPv4 (RFC 792) and IPv6 (RFC 4443): the header both share, and the errors a gateway sends.

use crate::{Malformed, checksum, ipv4, ipv6, protocol};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of the header, its rest-of-header word included.
pub const HEADER_LEN: usize = 8;

/// A message whose header lies inside the bytes. The checksum is not verified.
#[derive(Clone, Copy, Debug)]
pub struct Icmp<'a> {
    header: &'a [u8; HEADER_LEN],
    body: &'a [u8],
}

impl<'a> Icmp<'a> {
    /// Checks the length.
    ///
    /// # Errors
    ///
    /// [`Malformed::Truncated`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, body) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        Ok(Self { header, body })
    }

    /// Type.
    pub fn kind(&self) -> u8 {
        self.header[0]
    }

    /// Code.
    pub fn code(&self) -> u8 {
        self.header[1]
    }

    /// The word behind the checksum: identifier and sequence, or an MTU.
    pub fn word(&self) -> u32 {
        u32::from_be_bytes([self.header[4], self.header[5], self.header[6], self.header[7]])
    }

    /// What follows the header; in an error, the packet that caused it.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }
}

/// The errors a gateway sends (type and code as each version has them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The packet is larger than the path to the peer takes; the argument is what fits, in bytes of the
    /// packet that is refused (RFC 1191 §4, RFC 4443 §3.2, RFC 4301 §8.2.1).
    TooBig(u16),
    /// TTL or hop limit ran out.
    TimeExceeded,
    /// A policy forbids it (RFC 1812 §5.2.7.1 code 13, RFC 4443 §3.1 code 1).
    Prohibited,
    /// No route or next hop.
    Unreachable,
}

/// The largest error written: what IPv6 requires of every link (RFC 4443 §2.4 c).
pub const MAX_ERROR_LEN: usize = 1280;

/// The largest ICMPv4 error written (RFC 1812 §4.3.2.3).
const MAX_V4_ERROR_LEN: usize = 576;

/// Whether an error about `packet` may be sent at all: not about errors, later fragments, or to
/// multicast, broadcast or unspecified addresses (RFC 1122 §3.2.2, RFC 4443 §2.4 e).
pub fn may_answer(packet: &[u8]) -> bool {
    let Ok(ip) = crate::ip::Ip::parse(packet) else { return false };
    let Ok(upper) = ip.upper() else { return false };
    let unicast = |address: IpAddr| match address {
        IpAddr::V4(a) => !a.is_multicast() && !a.is_broadcast() && !a.is_unspecified(),
        IpAddr::V6(a) => !a.is_multicast() && !a.is_unspecified(),
    };
    let about_error = match (upper.protocol, upper.bytes.first()) {
        (protocol::ICMP, Some(kind)) => !matches!(kind, 0 | 8..=10 | 13..=18),
        (protocol::ICMPV6, Some(kind)) => *kind < 128,
        _ => false,
    };
    upper.fragment != crate::ip::Fragment::Later
        && unicast(ip.source())
        && unicast(ip.destination())
        && !about_error
}

/// Writes into `out` the whole IP packet with the error about `packet`, from `source` (an address of
/// this gateway, of the same family), and gives its length. As much of the packet is quoted as fits.
/// `None` when no error may be sent about it or `out` is too short for an empty quote.
pub fn emit_error(error: Error, source: IpAddr, packet: &[u8], out: &mut [u8]) -> Option<usize> {
    if !may_answer(packet) {
        return None;
    }
    match (crate::ip::Ip::parse(packet).ok()?, source) {
        (crate::ip::Ip::V4(ip), IpAddr::V4(source)) => {
            emit_v4(error, source, ip.source(), packet.get(..ip.total_len())?, out)
        }
        (crate::ip::Ip::V6(ip), IpAddr::V6(source)) => {
            emit_v6(error, source, ip.source(), packet.get(..ip.total_len())?, out)
        }
        _ => None,
    }
}

fn emit_v4(
    error: Error,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    packet: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    let (kind, code, word) = match error {
        Error::TooBig(mtu) => (3, 4, u32::from(mtu)),
        Error::TimeExceeded => (11, 0, 0),
        Error::Prohibited => (3, 13, 0),
        Error::Unreachable => (3, 1, 0),
    };
    let headers = ipv4::MIN_HEADER_LEN.checked_add(HEADER_LEN)?;
    let room = out.len().min(MAX_V4_ERROR_LEN).checked_sub(headers)?;
    let quote = packet.get(..packet.len().min(room))?;
    let len = headers.checked_add(quote.len())?;
    let header = ipv4::Header {
        // Network control precedence (RFC 1812 §4.3.2.5).
        traffic_class: 0xc0,
        total_len: u16::try_from(len).ok()?,
        id: 0,
        dont_fragment: false,
        ttl: 64,
        protocol: protocol::ICMP,
        source,
        destination,
    };
    let (ip, rest) = out.split_first_chunk_mut::<{ ipv4::MIN_HEADER_LEN }>()?;
    *ip = header.emit();
    emit_message(kind, code, word, checksum::Sum::ZERO, quote, rest)?;
    Some(len)
}

fn emit_v6(
    error: Error,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    packet: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    let (kind, code, word) = match error {
        Error::TooBig(mtu) => (2, 0, u32::from(mtu)),
        Error::TimeExceeded => (3, 0, 0),
        Error::Prohibited => (1, 1, 0),
        Error::Unreachable => (1, 3, 0),
    };
    let headers = ipv6::HEADER_LEN.checked_add(HEADER_LEN)?;
    let room = out.len().min(MAX_ERROR_LEN).checked_sub(headers)?;
    let quote = packet.get(..packet.len().min(room))?;
    let message_len = HEADER_LEN.checked_add(quote.len())?;
    let payload_len = u16::try_from(message_len).ok()?;
    let header = ipv6::Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len,
        next_header: protocol::ICMPV6,
        hop_limit: 64,
        source,
        destination,
    };
    let pseudo = checksum::pseudo_v6(source, destination, protocol::ICMPV6, u32::from(payload_len));
    let (ip, rest) = out.split_first_chunk_mut::<{ ipv6::HEADER_LEN }>()?;
    *ip = header.emit();
    emit_message(kind, code, word, pseudo, quote, rest)?;
    headers.checked_add(quote.len())
}

fn emit_message(
    kind: u8,
    code: u8,
    word: u32,
    pseudo: checksum::Sum,
    quote: &[u8],
    out: &mut [u8],
) -> Option<()> {
    let [w3, w2, w1, w0] = word.to_be_bytes();
    let mut header = [kind, code, 0, 0, w3, w2, w1, w0];
    let sum = pseudo.add_bytes(&header).add_bytes(quote).checksum();
    [header[2], header[3]] = sum.to_be_bytes();
    let (to, rest) = out.split_first_chunk_mut::<HEADER_LEN>()?;
    *to = header;
    rest.get_mut(..quote.len())?.copy_from_slice(quote);
    Some(())
}
