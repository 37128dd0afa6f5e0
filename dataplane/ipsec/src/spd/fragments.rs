//! Fragments against policies that name ports (RFC 4301 §7).
//!
//! A fragment that is not the first shows no ports, so a policy for some ports does not match it, and a later one for everything
//! would let it pass in clear: the rest of a packet whose first fragment was protected. So behind the policies that name ports,
//! and in front of the next one that lets packets pass, stands one that discards what might be theirs. Whole packets of protocols that
//! have no ports are nobody's fragments and pass it. Over IPv6 a later fragment may show an extension header in place of its protocol
//! (RFC 8200 §4.5): that might be any protocol's.

use crate::flow::EXTENSION_HEADER;
use crate::selector::{Action, Policy, Ports, Selector};
use wire::protocol;

/// The protocols whose packets show ports, or type and code.
const WITH_PORTS: [u8; 7] = [
    protocol::ICMP,
    protocol::TCP,
    protocol::UDP,
    protocol::DCCP,
    protocol::ICMPV6,
    protocol::SCTP,
    protocol::UDP_LITE,
];

/// The policies with those that discard fragments among them. A fragment goes into a tunnel where a policy without ports, or for
/// hidden ones, protects it.
pub fn guard_fragments(policies: &[Policy]) -> Vec<Policy> {
    let mut guarded = Vec::with_capacity(policies.len());
    let mut hidden: Vec<Policy> = Vec::new();
    for policy in policies {
        if policy.action == Action::Bypass {
            guarded.append(&mut hidden);
        } else {
            let selectors: Vec<Selector> = policy.selectors.iter().flat_map(of_fragments).collect();
            if !selectors.is_empty() {
                hidden.push(Policy { id: policy.id, selectors, action: Action::Discard });
            }
        }
        guarded.push(policy.clone());
    }
    guarded.append(&mut hidden);
    guarded
}

/// What later fragments of a selector's packets may show that does not match it.
fn of_fragments(selector: &Selector) -> impl Iterator<Item = Selector> {
    let hidden = with_hidden_ports(selector);
    let each = match (&hidden, selector.protocol) {
        (Some(_), None) => WITH_PORTS.as_slice(),
        _ => &[],
    };
    let each = each.iter().map(|protocol| Some(*protocol));
    let its_own = hidden.is_some().then_some(selector.protocol).filter(Option::is_some);
    let hidden = hidden.unwrap_or_else(|| selector.clone());
    let shown = selector.names_ports() || selector.protocol.is_some();
    let extension = (shown && !selector.local.first().is_ipv4()).then(|| Selector {
        protocol: Some(EXTENSION_HEADER),
        local_ports: Ports::Opaque,
        remote_ports: Ports::Opaque,
        ..hidden.clone()
    });
    let of = move |protocol| Selector { protocol, ..hidden.clone() };
    each.chain(its_own).map(of).chain(extension)
}

/// The same for packets that show no ports; `None` for a selector that they match as it is.
pub(crate) fn with_hidden_ports(selector: &Selector) -> Option<Selector> {
    let hide = |ports: &Ports| if ports.are_named() { Ports::Opaque } else { ports.clone() };
    selector.names_ports().then(|| Selector {
        local_ports: hide(&selector.local_ports),
        remote_ports: hide(&selector.remote_ports),
        ..selector.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowKey;
    use crate::selector::{AddressRange, PolicyId};
    use crate::spd::Spd;

    fn policy(id: u32, action: Action, protocol: Option<u8>, remote_ports: Ports) -> Policy {
        let range = |a: [u8; 4]| AddressRange::prefix(a.into(), 8).unwrap();
        let selector = Selector {
            local: range([10, 0, 0, 0]),
            remote: range([11, 0, 0, 0]),
            protocol,
            local_ports: Ports::Any,
            remote_ports,
        };
        Policy { id: PolicyId(id), selectors: vec![selector], action }
    }

    fn key(protocol: u8, ports: Option<(u16, u16)>) -> FlowKey {
        FlowKey { local: [10, 0, 0, 1].into(), remote: [11, 0, 0, 1].into(), protocol, ports }
    }

    #[test]
    fn a_later_fragment_of_a_protected_port_does_not_pass_in_clear() {
        let dns = || policy(1, Action::Protect, Some(17), Ports::Range(53..=53));
        let all = |action| policy(9, action, None, Ports::Any);
        let opaque = || policy(5, Action::Protect, None, Ports::Opaque);
        for (policies, expected) in [
            (vec![dns(), all(Action::Bypass)], Some(Action::Discard)),
            (vec![dns()], Some(Action::Discard)),
            // Another child carries it, wherever it stands.
            (vec![dns(), all(Action::Protect), all(Action::Bypass)], Some(Action::Protect)),
            (vec![dns(), opaque(), all(Action::Bypass)], Some(Action::Protect)),
            // What passes in clear before the port is asked for passes still.
            (vec![all(Action::Bypass), dns()], Some(Action::Bypass)),
            (vec![all(Action::Bypass)], Some(Action::Bypass)),
        ] {
            let spd = Spd::compile(&guard_fragments(&policies), 1);
            let found = spd.lookup(&key(17, None)).map(|found| found.action);
            assert_eq!(found, expected, "{policies:?}");
        }
    }

    #[test]
    fn whole_packets_are_judged_as_before() {
        let policies = [
            policy(1, Action::Protect, Some(17), Ports::Range(53..=53)),
            policy(2, Action::Discard, Some(6), Ports::Range(25..=25)),
            policy(3, Action::Bypass, None, Ports::Any),
        ];
        let (plain, guarded) =
            (Spd::compile(&policies, 1), Spd::compile(&guard_fragments(&policies), 2));
        for protocol in [1, 6, 17, 50] {
            for port in [25, 53, 80] {
                let key = key(protocol, Some((1000, port)));
                assert_eq!(plain.lookup(&key), guarded.lookup(&key), "{key:?}");
            }
        }
        // Another protocol's fragment is nobody's.
        assert_eq!(guarded.lookup(&key(1, None)).map(|f| f.action), Some(Action::Bypass));
    }

    /// Ports without a protocol are those of every protocol that has ports, and of no other.
    #[test]
    fn packets_without_ports_are_no_fragments() {
        for action in [Action::Protect, Action::Discard] {
            let policies = [
                policy(1, action, None, Ports::Range(53..=53)),
                policy(3, Action::Bypass, None, Ports::Any),
            ];
            let spd = Spd::compile(&guard_fragments(&policies), 1);
            let found = |protocol| spd.lookup(&key(protocol, None)).map(|found| found.action);
            for protocol in [2, 47, 50, 89] {
                assert_eq!(found(protocol), Some(Action::Bypass), "{protocol}");
            }
            for protocol in WITH_PORTS {
                assert_eq!(found(protocol), Some(Action::Discard), "{protocol}");
            }
        }
    }

    /// RFC 8200 §4.5: where destination options are fragmented with what is behind them, later fragments show those.
    #[test]
    fn an_extension_header_may_be_any_protocols_fragment() {
        let everywhere = AddressRange::prefix([0u16; 8].into(), 0).unwrap();
        let of_six = |policy: Policy| {
            let selectors = policy.selectors.into_iter();
            let selectors =
                selectors.map(|s| Selector { local: everywhere, remote: everywhere, ..s });
            Policy { selectors: selectors.collect(), ..policy }
        };
        let all = |action| of_six(policy(9, action, None, Ports::Any));
        for (protocol, ports) in [
            (Some(17), Ports::Any),
            (Some(17), Ports::Range(53..=53)),
            (None, Ports::Range(53..=53)),
        ] {
            let narrow = || of_six(policy(1, Action::Protect, protocol, ports.clone()));
            for (policies, expected) in [
                (vec![narrow(), all(Action::Bypass)], Some(Action::Discard)),
                (vec![narrow(), all(Action::Protect), all(Action::Bypass)], Some(Action::Protect)),
                (vec![all(Action::Bypass), narrow()], Some(Action::Bypass)),
            ] {
                let spd = Spd::compile(&guard_fragments(&policies), 1);
                let (local, remote) = ([1u16; 8].into(), [2u16; 8].into());
                let key = FlowKey { local, remote, protocol: EXTENSION_HEADER, ports: None };
                assert_eq!(spd.lookup(&key).map(|found| found.action), expected, "{policies:?}");
            }
        }
    }
}
