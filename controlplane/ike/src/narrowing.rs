//! Traffic selectors: from the configuration to the wire and back, and what two sides have in common
//! (RFC 7296 §2.9).

use crate::config;
use crate::message::v2::{OPAQUE_PORTS, PortRange, SelectorRange, TrafficSelector};
use core::net::IpAddr;
use ipsec::selector::{AddressRange, Ports, Selector};

/// Selectors that one Child SA may end with, each pair of a local and a remote range counting one. Configurations in
/// use have a handful; a peer that offers 255 times 255 does not get a table of 65,025 entries out of us.
const MAX_SELECTORS: usize = 256;

/// The configured selectors of one side, `dynamic` ones filled in with `host`.
pub(crate) fn offered(
    configured: &[config::TrafficSelector],
    host: IpAddr,
) -> Vec<TrafficSelector> {
    offered_for(configured, &[AddressRange::host(host)])
}

/// The configured selectors of one side, each `dynamic` one filled in with every one of `hosts`.
pub(crate) fn offered_for(
    configured: &[config::TrafficSelector],
    hosts: &[AddressRange],
) -> Vec<TrafficSelector> {
    let one = |ts: &config::TrafficSelector, range| TrafficSelector {
        protocol: ts.protocol.unwrap_or(0),
        ports: to_range(&ts.ports),
        range: to_wire(range),
    };
    let mut all = Vec::with_capacity(configured.len());
    for ts in configured {
        match ts.addresses {
            Some(range) => all.push(one(ts, range)),
            None => all.extend(hosts.iter().map(|host| one(ts, *host))),
        }
    }
    all
}

/// What of `theirs` lies within `ours`: every overlap, without those that lie within another one. Empty when there is
/// none. The order of `theirs` is kept, so that what its first selector asked for comes first.
pub(crate) fn narrow(ours: &[TrafficSelector], theirs: &[TrafficSelector]) -> Vec<TrafficSelector> {
    let mut result: Vec<TrafficSelector> = Vec::new();
    for their in theirs {
        for our in ours {
            let Some(both) = intersect(our, their) else { continue };
            if result.iter().any(|known| within(&both, known)) {
                continue;
            }
            result.retain(|known| !within(known, &both));
            result.push(both);
            if result.len() > MAX_SELECTORS {
                return Vec::new();
            }
        }
    }
    result
}

/// Transport mode through a NAT (RFC 7296 §2.23.1): selectors of one address, which the NAT changed for everybody behind it,
/// with the address that is seen here. `None` where they are not of one address each, all the same.
pub(crate) fn substituted(
    selectors: &[TrafficSelector],
    seen: IpAddr,
) -> Option<Vec<TrafficSelector>> {
    let one = selectors.first()?.range;
    let range = from_wire(one)?;
    let single = range.first() == range.last() && range.first().is_ipv4() == seen.is_ipv4();
    (single && selectors.iter().all(|selector| selector.range == one)).then(|| {
        let range = to_wire(AddressRange::host(seen));
        selectors.iter().map(|selector| TrafficSelector { range, ..*selector }).collect()
    })
}

/// Whether every selector of `inner` lies within one of `outer`.
pub(crate) fn all_within(inner: &[TrafficSelector], outer: &[TrafficSelector]) -> bool {
    inner.iter().all(|i| outer.iter().any(|o| within(i, o)))
}

/// The selectors of the SAs: every pair of a local and a remote one that some packet could match. `None` when none
/// could, or when there are too many.
pub(crate) fn selectors(
    local: &[TrafficSelector],
    remote: &[TrafficSelector],
) -> Option<Vec<Selector>> {
    let mut pairs = Vec::new();
    for l in local {
        for r in remote {
            let (local, remote) = (from_wire(l.range)?, from_wire(r.range)?);
            let protocol = match (l.protocol, r.protocol) {
                (0, p) | (p, 0) => p,
                (a, b) if a == b => a,
                _ => continue,
            };
            if local.first().is_ipv4() != remote.first().is_ipv4() {
                continue;
            }
            pairs.push(Selector {
                local,
                remote,
                protocol: (protocol != 0).then_some(protocol),
                local_ports: to_ports(l.ports),
                remote_ports: to_ports(r.ports),
            });
            if pairs.len() > MAX_SELECTORS {
                return None;
            }
        }
    }
    (!pairs.is_empty()).then_some(pairs)
}

/// The two selectors of a packet that raised an acquire, local and remote: the first of the request
/// (RFC 7296 §2.9).
pub(crate) fn of_packet(packet: &Selector) -> (TrafficSelector, TrafficSelector) {
    let protocol = packet.protocol.unwrap_or(0);
    let one = |range: AddressRange, ports: &Ports| TrafficSelector {
        protocol,
        ports: to_range(ports),
        range: to_wire(range),
    };
    (one(packet.local, &packet.local_ports), one(packet.remote, &packet.remote_ports))
}

fn intersect(a: &TrafficSelector, b: &TrafficSelector) -> Option<TrafficSelector> {
    let protocol = match (a.protocol, b.protocol) {
        (0, p) | (p, 0) => p,
        (p, q) if p == q => p,
        _ => return None,
    };
    let ports = match (a.ports.is_opaque(), b.ports.is_opaque()) {
        (true, true) => OPAQUE_PORTS,
        // ANY contains OPAQUE (RFC 4301 §4.4.1.1); any other range does not.
        (true, false) if b.ports == PortRange::ANY => OPAQUE_PORTS,
        (false, true) if a.ports == PortRange::ANY => OPAQUE_PORTS,
        (true, false) | (false, true) => return None,
        (false, false) => {
            let both = PortRange {
                start: a.ports.start.max(b.ports.start),
                end: a.ports.end.min(b.ports.end),
            };
            if both.start > both.end {
                return None;
            }
            both
        }
    };
    let range = match (a.range, b.range) {
        (SelectorRange::V4(s, e), SelectorRange::V4(t, f)) if s.max(t) <= e.min(f) => {
            SelectorRange::V4(s.max(t), e.min(f))
        }
        (SelectorRange::V6(s, e), SelectorRange::V6(t, f)) if s.max(t) <= e.min(f) => {
            SelectorRange::V6(s.max(t), e.min(f))
        }
        _ => return None,
    };
    Some(TrafficSelector { protocol, ports, range })
}

fn within(inner: &TrafficSelector, outer: &TrafficSelector) -> bool {
    intersect(inner, outer) == Some(*inner)
}

fn to_wire(range: AddressRange) -> SelectorRange {
    match (range.first(), range.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => SelectorRange::V4(first, last),
        (IpAddr::V6(first), IpAddr::V6(last)) => SelectorRange::V6(first, last),
        // An `AddressRange` has one family.
        (IpAddr::V4(first), IpAddr::V6(_)) => SelectorRange::V4(first, first),
        (IpAddr::V6(first), IpAddr::V4(_)) => SelectorRange::V6(first, first),
    }
}

fn from_wire(range: SelectorRange) -> Option<AddressRange> {
    match range {
        SelectorRange::V4(first, last) => AddressRange::new(first.into(), last.into()),
        SelectorRange::V6(first, last) => AddressRange::new(first.into(), last.into()),
    }
}

fn to_range(ports: &Ports) -> PortRange {
    match ports {
        Ports::Any => PortRange::ANY,
        Ports::Opaque => OPAQUE_PORTS,
        Ports::Range(range) => PortRange { start: *range.start(), end: *range.end() },
    }
}

fn to_ports(range: PortRange) -> Ports {
    if range == PortRange::ANY {
        Ports::Any
    } else if range.is_opaque() {
        Ports::Opaque
    } else {
        Ports::Range(range.start..=range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(first: [u8; 4], last: [u8; 4], protocol: u8, start: u16, end: u16) -> TrafficSelector {
        TrafficSelector {
            protocol,
            ports: PortRange { start, end },
            range: SelectorRange::V4(first.into(), last.into()),
        }
    }

    fn net(n: u8) -> TrafficSelector {
        ts([10, n, 0, 0], [10, n, 255, 255], 0, 0, 65535)
    }

    #[test]
    fn what_both_allow_is_taken() {
        let all = ts([0, 0, 0, 0], [255, 255, 255, 255], 0, 0, 65535);
        assert_eq!(narrow(&[net(1), net(2)], &[all]), [net(1), net(2)]);
        assert_eq!(narrow(&[all], &[net(2), net(1)]), [net(2), net(1)]);
        let tcp = ts([10, 1, 0, 5], [10, 1, 0, 5], 6, 80, 80);
        assert_eq!(narrow(&[net(1)], &[tcp]), [tcp]);
        // The packet's selector goes into the wider one behind it.
        assert_eq!(narrow(&[net(1)], &[tcp, all]), [net(1)]);
    }

    /// RFC 7296 §2.23.1: one address only, and every entry of it; ports and protocol stay.
    #[test]
    fn a_nat_changes_selectors_of_one_address() {
        let seen: IpAddr = [203, 0, 113, 7].into();
        let (real, new) = ([10, 1, 0, 5], [203, 0, 113, 7]);
        let both = [ts(real, real, 6, 80, 80), ts(real, real, 0, 0, 65535)];
        let expected = vec![ts(new, new, 6, 80, 80), ts(new, new, 0, 0, 65535)];
        assert_eq!(substituted(&both, seen), Some(expected));
        assert_eq!(substituted(&[net(1)], seen), None, "a network is not behind that address");
        let other = ts([10, 1, 0, 6], [10, 1, 0, 6], 0, 0, 65535);
        assert_eq!(substituted(&[both[0], other], seen), None);
        assert_eq!(substituted(&both, [0u16; 8].into()), None, "another family");
        assert_eq!(substituted(&[], seen), None);
    }

    /// attacks.json ike2-ts-narrow-empty.
    #[test]
    fn ike2_ts_narrow_empty() {
        assert_eq!(narrow(&[net(1)], &[net(2)]), []);
        let low = ts([10, 1, 0, 0], [10, 1, 0, 255], 6, 0, 99);
        let high = ts([10, 1, 0, 0], [10, 1, 0, 255], 6, 100, 200);
        assert_eq!(narrow(&[low], &[high]), []);
        let udp = ts([10, 1, 0, 0], [10, 1, 0, 255], 17, 0, 99);
        assert_eq!(narrow(&[low], &[udp]), []);
        let opaque = ts([10, 1, 0, 0], [10, 1, 0, 255], 6, 65535, 0);
        assert_eq!(narrow(&[low], &[opaque]), []);
        assert_eq!(narrow(&[net(1)], &[opaque]), [opaque]);
        assert!(!all_within(&[net(1)], &[low]));
        assert!(all_within(&[low], &[net(1)]));
    }

    #[test]
    fn a_peer_cannot_make_the_table_long() {
        let ours: Vec<_> =
            (0..=255).map(|n| ts([10, n, 0, 0], [10, n, 0, 9], 0, 0, 65535)).collect();
        let theirs: Vec<_> =
            (0..10).map(|n| ts([10, 0, 0, n], [10, 255, 0, n], 0, 0, 65535)).collect();
        assert!(narrow(&ours, &theirs).len() <= MAX_SELECTORS);
        assert_eq!(selectors(&ours, &ours), None);
    }

    #[test]
    fn selectors_pair_what_a_packet_could_be() {
        let tcp = ts([10, 1, 0, 5], [10, 1, 0, 5], 6, 80, 80);
        let pairs = selectors(&[tcp], &[net(2)]).unwrap();
        assert_eq!(pairs.len(), 1);
        assert_eq!(pairs[0].protocol, Some(6));
        assert_eq!(pairs[0].local_ports, Ports::Range(80..=80));
        assert_eq!(pairs[0].remote_ports, Ports::Any);
    }
}
