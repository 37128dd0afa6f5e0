//! Fragments against policies that name ports (RFC 4301 §7).
//!
//! A fragment that is not the first shows no ports, so a policy for some ports does not match it, and a later one for everything
//! would let it pass in clear: the rest of a packet whose first fragment was protected. So behind the policies that name ports,
//! and in front of the next one that lets packets pass, stands one that discards what might be theirs.

use crate::selector::{Action, Policy, Ports, Selector};

/// The policies with those that discard fragments among them. A fragment goes into a tunnel where a policy without ports, or for
/// hidden ones, protects it.
pub fn guard_fragments(policies: &[Policy]) -> Vec<Policy> {
    let mut guarded = Vec::with_capacity(policies.len());
    let mut hidden: Vec<Policy> = Vec::new();
    for policy in policies {
        if policy.action == Action::Bypass {
            guarded.append(&mut hidden);
        } else {
            let selectors: Vec<Selector> =
                policy.selectors.iter().filter_map(with_hidden_ports).collect();
            if !selectors.is_empty() {
                hidden.push(Policy { id: policy.id, selectors, action: Action::Discard });
            }
        }
        guarded.push(policy.clone());
    }
    guarded.append(&mut hidden);
    guarded
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
}
