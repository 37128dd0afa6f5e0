//! The identities of quick mode as traffic selectors (RFC 2407 §4.6.2, RFC 2409 §5.5).
//!
//! One identity says one address, subnet or range, with any protocol or one, and any port or one. There is no
//! narrowing: a responder takes what it is asked for, or refuses.

use crate::config::{self, TrafficSelector as Configured};
use crate::message::IdType;
use crate::message::v1::Identification;
use crate::message::v2::{PortRange, SelectorRange, TrafficSelector};
use crate::narrowing;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use ipsec::selector::Selector;

/// An ID payload's fields, owning its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    kind: IdType,
    protocol: u8,
    port: u16,
    data: Vec<u8>,
}

impl Client {
    pub(crate) fn payload(&self) -> Identification<'_> {
        let Self { kind, protocol, port, data } = self;
        Identification { kind: *kind, protocol: *protocol, port: *port, data }
    }

    /// `None` for what an identity cannot say: a range of ports, and ports that are hidden.
    pub(crate) fn of(selector: &TrafficSelector) -> Option<Self> {
        let port = match selector.ports {
            PortRange::ANY => 0,
            PortRange { start, end } if start == end && start != 0 && selector.protocol != 0 => {
                start
            }
            _ => return None,
        };
        let (kind, data) = match selector.range {
            SelectorRange::V4(first, last) => {
                let (first, last) = (u32::from(first), u32::from(last));
                let (a, b) = (first.to_be_bytes(), last.to_be_bytes());
                match span(first.into(), last.into(), 32) {
                    Span::Host => (IdType::Ipv4Addr, a.to_vec()),
                    Span::Prefix => {
                        (IdType::Ipv4AddrSubnet, [a, (!(first ^ last)).to_be_bytes()].concat())
                    }
                    Span::Range => (IdType::Ipv4AddrRange, [a, b].concat()),
                }
            }
            SelectorRange::V6(first, last) => {
                let (first, last) = (u128::from(first), u128::from(last));
                let (a, b) = (first.to_be_bytes(), last.to_be_bytes());
                match span(first, last, 128) {
                    Span::Host => (IdType::Ipv6Addr, a.to_vec()),
                    Span::Prefix => {
                        (IdType::Ipv6AddrSubnet, [a, (!(first ^ last)).to_be_bytes()].concat())
                    }
                    Span::Range => (IdType::Ipv6AddrRange, [a, b].concat()),
                }
            }
        };
        Some(Self { kind, protocol: selector.protocol, port, data })
    }
}

enum Span {
    Host,
    Prefix,
    Range,
}

fn span(first: u128, last: u128, bits: u32) -> Span {
    let differing = first ^ last;
    if differing == 0 {
        return Span::Host;
    }
    // Ones at the low end only, where the first has zeros.
    let is_prefix = differing & differing.wrapping_add(1) == 0
        && first & differing == 0
        && differing.count_ones() <= bits;
    if is_prefix { Span::Prefix } else { Span::Range }
}

/// What an identity of the peer means; `None` for a type that is no address (attacks.json ike1-quick-id-fqdn), data
/// that do not fit it, a mask with holes, a range that ends before it begins, or a port of no protocol.
pub(crate) fn selector(id: &Identification<'_>) -> Option<TrafficSelector> {
    let v4 = |octets: &[u8]| <[u8; 4]>::try_from(octets).ok().map(u32::from_be_bytes);
    let v6 = |octets: &[u8]| <[u8; 16]>::try_from(octets).ok().map(u128::from_be_bytes);
    let halves = || id.data.split_at_checked(id.data.len() / 2);
    let of_v4 = |first: u32, last: u32| {
        (first <= last).then(|| SelectorRange::V4(Ipv4Addr::from(first), Ipv4Addr::from(last)))
    };
    let of_v6 = |first: u128, last: u128| {
        (first <= last).then(|| SelectorRange::V6(Ipv6Addr::from(first), Ipv6Addr::from(last)))
    };
    let range = match id.kind {
        IdType::Ipv4Addr => of_v4(v4(id.data)?, v4(id.data)?)?,
        IdType::Ipv6Addr => of_v6(v6(id.data)?, v6(id.data)?)?,
        IdType::Ipv4AddrSubnet => {
            let (address, mask) = halves()?;
            let (address, mask) = (v4(address)?, v4(mask)?);
            (mask.count_ones() == mask.leading_ones()).then_some(())?;
            of_v4(address & mask, address | !mask)?
        }
        IdType::Ipv6AddrSubnet => {
            let (address, mask) = halves()?;
            let (address, mask) = (v6(address)?, v6(mask)?);
            (mask.count_ones() == mask.leading_ones()).then_some(())?;
            of_v6(address & mask, address | !mask)?
        }
        IdType::Ipv4AddrRange => {
            let (first, last) = halves()?;
            of_v4(v4(first)?, v4(last)?)?
        }
        IdType::Ipv6AddrRange => {
            let (first, last) = halves()?;
            of_v6(v6(first)?, v6(last)?)?
        }
        _ => return None,
    };
    let ports = match (id.protocol, id.port) {
        (_, 0) => PortRange::ANY,
        (0, _) => return None,
        (_, port) => PortRange { start: port, end: port },
    };
    Some(TrafficSelector { protocol: id.protocol, ports, range })
}

/// The selector of one address: what a side without an identity stands for.
pub(crate) fn host(address: IpAddr) -> TrafficSelector {
    let range = match address {
        IpAddr::V4(a) => SelectorRange::V4(a, a),
        IpAddr::V6(a) => SelectorRange::V6(a, a),
    };
    TrafficSelector { protocol: 0, ports: PortRange::ANY, range }
}

/// The local and the remote selector that a quick mode for a child asks for: those that a packet is in, or the first.
pub(crate) fn wanted(
    child: &config::Child,
    local: IpAddr,
    remote: IpAddr,
    packet: Option<&Selector>,
) -> Option<(TrafficSelector, TrafficSelector)> {
    let side = |configured: &[Configured], host, packet: Option<TrafficSelector>| {
        let all = narrowing::offered(configured, host);
        let met = packet.and_then(|packet| {
            let packet = [packet];
            all.iter().find(|one| narrowing::all_within(&packet, &[**one])).copied()
        });
        met.or_else(|| all.first().copied())
    };
    let (near, far) = packet.map(narrowing::of_packet).unzip();
    Some((side(&child.local_ts, local, near)?, side(&child.remote_ts, remote, far)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(range: SelectorRange, protocol: u8, ports: PortRange) -> TrafficSelector {
        TrafficSelector { protocol, ports, range }
    }

    fn v4(first: [u8; 4], last: [u8; 4]) -> SelectorRange {
        SelectorRange::V4(first.into(), last.into())
    }

    #[test]
    fn identities_and_back() {
        let v6 = |first: &str, last: &str| {
            SelectorRange::V6(first.parse().unwrap(), last.parse().unwrap())
        };
        let cases = [
            (v4([10, 0, 0, 1], [10, 0, 0, 1]), IdType::Ipv4Addr),
            (v4([10, 0, 0, 0], [10, 0, 255, 255]), IdType::Ipv4AddrSubnet),
            (v4([0, 0, 0, 0], [255, 255, 255, 255]), IdType::Ipv4AddrSubnet),
            (v4([10, 0, 0, 1], [10, 0, 0, 6]), IdType::Ipv4AddrRange),
            (v4([10, 0, 0, 1], [10, 0, 0, 2]), IdType::Ipv4AddrRange),
            (v6("fd00::1", "fd00::1"), IdType::Ipv6Addr),
            (v6("fd00::", "fd00::ffff"), IdType::Ipv6AddrSubnet),
            (v6("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), IdType::Ipv6AddrSubnet),
            (v6("fd00::1", "fd00::9"), IdType::Ipv6AddrRange),
        ];
        for (range, kind) in cases {
            for (protocol, port) in [(0, 0), (6, 443), (47, 0)] {
                let ports = match port {
                    0 => PortRange::ANY,
                    port => PortRange { start: port, end: port },
                };
                let wanted = ts(range, protocol, ports);
                let client = Client::of(&wanted).unwrap();
                assert_eq!(client.kind, kind);
                assert_eq!(selector(&client.payload()), Some(wanted));
            }
        }
    }

    #[test]
    fn what_an_identity_cannot_say() {
        let host = v4([10, 0, 0, 1], [10, 0, 0, 1]);
        for (protocol, start, end) in [(6, 80, 90), (0, 80, 80), (6, 65535, 0), (6, 0, 0)] {
            assert_eq!(Client::of(&ts(host, protocol, PortRange { start, end })), None);
        }
    }

    /// attacks.json ike1-quick-id-fqdn.
    #[test]
    fn ike1_quick_id_fqdn() {
        let cases: &[(IdType, &[u8])] = &[
            (IdType::Fqdn, b"a.example"),
            (IdType::Unknown(99), &[10, 0, 0, 1]),
            (IdType::KeyId, &[10, 0, 0, 1]),
            (IdType::Ipv4Addr, &[10, 0, 0]),
            (IdType::Ipv4Addr, &[10, 0, 0, 1, 2]),
            (IdType::Ipv4AddrSubnet, &[10, 0, 0, 0, 255, 0, 255, 0]),
            (IdType::Ipv4AddrSubnet, &[10, 0, 0, 0]),
            (IdType::Ipv4AddrRange, &[10, 0, 0, 9, 10, 0, 0, 1]),
            (IdType::Ipv6Addr, &[0; 15]),
            (IdType::Ipv6AddrSubnet, &[0; 33]),
        ];
        for (kind, data) in cases {
            let id = Identification { kind: *kind, protocol: 0, port: 0, data };
            assert_eq!(selector(&id), None, "{kind:?} {data:?}");
        }
        let data = &[10, 0, 0, 1];
        let id = Identification { kind: IdType::Ipv4Addr, protocol: 0, port: 80, data };
        assert_eq!(selector(&id), None);
    }
}
