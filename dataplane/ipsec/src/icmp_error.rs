//! ICMP errors whose own addresses no policy speaks of: they travel by the SA of the traffic that they are about (RFC 4301 §6.2).

use crate::flow::{Flow, PortView};
use wire::ip::{Fragment, Ip};
use wire::{icmp, ipv6, protocol};

/// As much of the quoted packet as is looked at: its IP header, options or some extension headers, and the ports.
const LOOKED_AT: usize = 128;

/// The selector values of the answer to the packet that an ICMP error quotes: its addresses and ports exchanged. A sender's SA for that
/// answer carries the error, and a receiver takes it by an SA whose selectors admit that answer.
///
/// `None` for what is no such error: a query; a redirect or a source quench, which make a host change its mind and are nobody's to send
/// through a tunnel (RFC 6633, RFC 4301 §6.1.2); one whose quote is cut off before it says what it is; and one to another host than the
/// quoted packet's sender, which no honest router sends.
#[cold]
pub fn answered_traffic(packet: &[u8]) -> Option<Flow> {
    let ip = Ip::parse(packet).ok()?;
    let upper = ip.upper().ok()?;
    if upper.fragment == Fragment::Later {
        return None;
    }
    let message = icmp::Icmp::parse(upper.bytes).ok()?;
    // Unreachable, time exceeded, parameter problem; of IPv6 too big besides.
    let is_error = match upper.protocol {
        protocol::ICMP => matches!(message.kind(), 3 | 11 | 12),
        protocol::ICMPV6 => matches!(message.kind(), 1..=4),
        _ => false,
    };
    if !is_error {
        return None;
    }
    let quoted = quoted_flow(message.body())?;
    let ports = match quoted.ports {
        PortView::Visible { source, destination } => {
            PortView::Visible { source: destination, destination: source }
        }
        PortView::Hidden => PortView::Hidden,
    };
    let answer = Flow { source: quoted.destination, destination: quoted.source, ports, ..quoted };
    (quoted.source == ip.destination()).then_some(answer)
}

/// The selector values of a packet of which only the beginning is there.
fn quoted_flow(quote: &[u8]) -> Option<Flow> {
    let mut bytes = [0; LOOKED_AT];
    let len = quote.len().min(LOOKED_AT);
    let head = bytes.get_mut(..len)?;
    head.copy_from_slice(quote.get(..len)?);
    // Its length is said to be what is there, so that it is read as any packet.
    match head.first()? >> 4 {
        4 => head.get_mut(2..4)?.copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes()),
        6 => {
            let payload = u16::try_from(len.checked_sub(ipv6::HEADER_LEN)?).ok()?;
            head.get_mut(4..6)?.copy_from_slice(&payload.to_be_bytes());
        }
        _ => return None,
    }
    let ip = Ip::parse(head).ok()?;
    Flow::of(&ip).ok()
}
