use super::*;
use crate::flow::{Flow, FlowId, PortView};
use crate::selector::Ports;
use core::net::{Ipv4Addr, Ipv6Addr};
use proptest::prelude::*;

/// Addresses from a small space, so that ranges meet.
fn address(v6: bool, n: u32) -> IpAddr {
    if v6 {
        let high = u128::from(n / 64) << 100;
        Ipv6Addr::from(0xfd00_u128 << 112 | high | u128::from(n % 64)).into()
    } else {
        Ipv4Addr::from(0x0a00_0000 | (n / 64) << 16 | (n % 64)).into()
    }
}

fn range(v6: bool) -> impl Strategy<Value = AddressRange> {
    prop_oneof![
        Just(AddressRange::prefix(address(v6, 0), 0).unwrap()),
        (0u32..256).prop_map(move |n| AddressRange::host(address(v6, n))),
        (0u32..256, 0u8..=32)
            .prop_map(move |(n, len)| AddressRange::prefix(address(v6, n), len).unwrap()),
        (0u32..256, 0u32..256).prop_map(move |(a, b)| {
            AddressRange::new(address(v6, a.min(b)), address(v6, a.max(b))).unwrap()
        }),
    ]
}

fn ports() -> impl Strategy<Value = Ports> {
    prop_oneof![
        4 => Just(Ports::Any),
        1 => Just(Ports::Opaque),
        2 => (0u16..8, 0u16..8).prop_map(|(a, b)| Ports::Range(a.min(b)..=a.max(b))),
        1 => Just(Ports::Range(0..=u16::MAX)),
    ]
}

fn selector() -> impl Strategy<Value = Selector> {
    any::<bool>().prop_flat_map(|v6| {
        (range(v6), range(v6), prop::option::of(prop_oneof![Just(6u8), Just(17)]), ports(), ports())
            .prop_map(|(local, remote, protocol, local_ports, remote_ports)| Selector {
                local,
                remote,
                protocol,
                local_ports,
                remote_ports,
            })
    })
}

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    let action = prop_oneof![Just(Action::Protect), Just(Action::Bypass), Just(Action::Discard)];
    prop::collection::vec((prop::collection::vec(selector(), 1..4), action), 0..40).prop_map(
        |entries| {
            let entries = entries.into_iter().enumerate();
            entries
                .map(|(n, (selectors, action))| Policy {
                    id: PolicyId(n as u32),
                    selectors,
                    action,
                })
                .collect()
        },
    )
}

fn key() -> impl Strategy<Value = FlowKey> {
    (
        any::<bool>(),
        0u32..256,
        0u32..256,
        prop_oneof![Just(6u8), Just(17), Just(50)],
        prop::option::of((0u16..8, 0u16..8)),
    )
        .prop_map(|(v6, local, remote, protocol, ports)| FlowKey {
            local: address(v6, local),
            remote: address(v6, remote),
            protocol,
            ports,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_first_match_of_a_linear_scan_is_found(
        policies in policies(),
        keys in prop::collection::vec(key(), 50),
    ) {
        let spd = Spd::compile(&policies, 1);
        for key in keys {
            let expected = policies
                .iter()
                .find(|policy| policy.selectors.iter().any(|selector| selector.matches(&key)))
                .map(|policy| Match { policy: policy.id, action: policy.action });
            prop_assert_eq!(spd.lookup(&key), expected);
        }
    }
}

/// Few prefixes and many ports, so that rules meet in one bucket and are searched by port.
fn crowded() -> impl Strategy<Value = Vec<Policy>> {
    let port = || prop_oneof![0u16..40, 65_500u16..=u16::MAX];
    let ports = move || {
        prop_oneof![
            1 => Just(Ports::Any),
            1 => Just(Ports::Opaque),
            6 => (port(), port()).prop_map(|(a, b)| Ports::Range(a.min(b)..=a.max(b))),
        ]
    };
    let local = prop_oneof![
        8 => Just(("10.0.0.0", "10.0.0.255")),
        1 => Just(("10.0.0.1", "10.0.0.253")),
        1 => Just(("0.0.0.0", "255.255.255.255")),
    ];
    let entry = (local, prop::option::of(prop_oneof![Just(6u8), Just(17)]), ports(), ports());
    prop::collection::vec(entry, 0..120).prop_map(|entries| {
        let entries = entries.into_iter().enumerate();
        let policy = |(n, ((first, last), protocol, local_ports, remote_ports))| Policy {
            id: PolicyId(n as u32),
            selectors: vec![Selector {
                local: AddressRange::new(str::parse(first).unwrap(), str::parse(last).unwrap())
                    .unwrap(),
                remote: AddressRange::prefix("10.0.0.0".parse().unwrap(), 8).unwrap(),
                protocol,
                local_ports,
                remote_ports,
            }],
            action: Action::Protect,
        };
        entries.map(policy).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn many_rules_of_one_prefix_are_searched_by_port(
        policies in crowded(),
        keys in prop::collection::vec((0u8..=255, prop::option::of((any::<bool>(), any::<bool>(), 0u16..42, 0u16..42)), any::<bool>()), 60),
    ) {
        let spd = Spd::compile(&policies, 1);
        for (host, ports, tcp) in keys {
            let port = |high: bool, n: u16| if high { 65_496u16.saturating_add(n) } else { n };
            let key = FlowKey {
                local: Ipv4Addr::new(10, 0, 0, host).into(),
                remote: Ipv4Addr::new(10, 9, 9, 9).into(),
                protocol: if tcp { 6 } else { 17 },
                ports: ports.map(|(a, b, l, r)| (port(a, l), port(b, r))),
            };
            let matches = |policy: &&Policy| policy.selectors.iter().any(|s| s.matches(&key));
            let expected = policies.iter().find(matches).map(|policy| policy.id);
            prop_assert_eq!(spd.lookup(&key).map(|found| found.policy), expected);
        }
    }
}

/// RFC 4301 §4.4.1: the lookup says which of a policy's selectors it was.
#[test]
fn the_selector_of_a_packet_is_told() {
    let mut both = policy(1, "10.1.0.0/16", "10.2.0.0/16", Action::Protect);
    both.selectors.extend(policy(1, "10.1.0.0/16", "10.3.0.0/16", Action::Protect).selectors);
    let spd = Spd::compile(&[both], 1);
    assert_eq!(spd.selector_of(&flow("10.1.0.1", "10.2.0.1").outbound()), 0);
    assert_eq!(spd.selector_of(&flow("10.1.0.1", "10.3.0.1").outbound()), 1);
}

/// The worst packet's cost is bounded by prefix lengths and ports, not by the number of policies.
#[test]
fn the_worst_case_does_not_grow_with_the_policies() {
    let port = |n: u32| (n % 60_000) as u16;
    let many = |count: u32| -> Vec<Policy> {
        let ports = |first: u16, more: u32| Ports::Range(first..=first.saturating_add(more as u16));
        (0..count)
            .map(|n| {
                let mut policy = policy(n, "10.1.0.0/16", "10.2.0.0/16", Action::Protect);
                let selector = &mut policy.selectors[0];
                selector.local_ports = ports(port(n.wrapping_mul(2_654_435_761)), n % 977);
                selector.remote_ports = ports(port(n.wrapping_mul(40_503)), n % 4_001);
                policy
            })
            .collect()
    };
    let cost = Spd::compile(&many(4_000), 1).worst_case();
    assert!(cost.probes <= 1 + 17 && cost.comparisons <= 17 * 17 + 1, "{cost:?}");
}

fn policy(id: u32, local: &str, remote: &str, action: Action) -> Policy {
    let range = |text: &str| {
        let (address, len) = text.split_once('/').unwrap();
        AddressRange::prefix(address.parse().unwrap(), len.parse().unwrap()).unwrap()
    };
    Policy {
        id: PolicyId(id),
        selectors: vec![Selector {
            local: range(local),
            remote: range(remote),
            protocol: None,
            local_ports: Ports::Any,
            remote_ports: Ports::Any,
        }],
        action,
    }
}

fn flow(source: &str, destination: &str) -> Flow {
    Flow {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: 17,
        ports: PortView::Visible { source: 1000, destination: 53 },
    }
}

/// Scenario `overlap_priority`: the order of the list decides, not how narrow a policy is.
#[test]
fn the_earlier_policy_wins_over_the_narrower() {
    let wide = policy(1, "10.0.0.0/8", "0.0.0.0/0", Action::Protect);
    let narrow = policy(2, "10.0.0.0/8", "10.9.0.0/24", Action::Bypass);
    let key = flow("10.1.1.1", "10.9.0.1").outbound();
    let spd = Spd::compile(&[wide.clone(), narrow.clone()], 1);
    assert_eq!(spd.lookup(&key).unwrap().policy, PolicyId(1));
    let spd = Spd::compile(&[narrow, wide], 2);
    assert_eq!(spd.lookup(&key).unwrap().policy, PolicyId(2));
}

/// Scenario `inbound_protect`: the answer that comes back in clear is found by the same policy.
#[test]
fn both_directions_of_a_flow_meet_the_same_policy() {
    let spd = Spd::compile(&[policy(1, "10.1.0.0/16", "10.2.0.0/16", Action::Protect)], 1);
    let there = flow("10.1.0.1", "10.2.0.1");
    assert_eq!(spd.lookup(&there.outbound()).unwrap().action, Action::Protect);
    assert_eq!(spd.lookup(&there.inbound()), None);
    let back = flow("10.2.0.1", "10.1.0.1");
    assert_eq!(spd.lookup(&back.inbound()).unwrap().action, Action::Protect);
    assert_eq!(spd.lookup(&back.outbound()), None);
}

/// Scenario `add/remove/readd`: what was remembered does not outlive what it was made from.
#[test]
fn a_new_version_makes_what_is_remembered_stale() {
    let mut cache = FlowCache::<u32>::new(64);
    let id = FlowId::from(flow("10.1.0.1", "10.2.0.1"));
    let (place, context) = (cache.place(&id), Context(1));
    assert_eq!(cache.get(place, &id, context, 1), None);
    cache.insert(place, &id, context, 1, 7);
    assert_eq!(cache.get(place, &id, context, 1), Some(&7));
    assert_eq!(cache.get(place, &id, context, 2), None);
    assert_eq!(cache.get(place, &id, Context(2), 1), None, "another question");
    cache.insert(place, &id, context, 2, 8);
    assert_eq!(cache.get(place, &id, context, 2), Some(&8));
    assert_eq!(cache.get(place, &id, context, 1), None);
}

proptest! {
    /// Scenario `cache_collision`: more flows than places. What is found is the last that was said of exactly this flow, context
    /// and version; what was said last of all is found.
    #[test]
    fn a_cache_never_answers_for_another_flow(
        steps in prop::collection::vec((0u32..6, any::<bool>(), 0u8..2, 1u32..3, any::<bool>()), 1..200),
    ) {
        let mut cache = FlowCache::<u32>::new(2);
        let mut said = std::collections::HashMap::new();
        for (n, (destination, v6, context, version, ask)) in (0u32..).zip(steps) {
            let prefix = if v6 { "fd00::" } else { "10.2.0." };
            let source = if v6 { "fd00::1" } else { "10.1.0.1" };
            let id = FlowId::from(flow(source, &format!("{prefix}{destination}")));
            let (place, key) = (cache.place(&id), (destination, v6, context));
            let context = Context(context);
            if !ask {
                cache.insert(place, &id, context, version, n);
                said.insert(key, (version, n));
                prop_assert_eq!(cache.get(place, &id, context, version), Some(&n));
            } else if let Some(found) = cache.get(place, &id, context, version) {
                prop_assert_eq!(said.get(&key), Some(&(version, *found)));
            }
        }
    }
}

/// RFC 4301 §4.4.1.1: type and code of ICMP as ports, and what has none.
#[test]
fn icmp_types_and_hidden_ports_match_as_the_rfc_says() {
    let v4 = |protocol: u8, flags: u16, upper: &[u8]| {
        let mut packet = wire::ipv4::Header {
            traffic_class: 0,
            total_len: 20 + upper.len() as u16,
            id: 0,
            dont_fragment: false,
            ttl: 1,
            protocol,
            source: [10, 1, 0, 1].into(),
            destination: [10, 2, 0, 1].into(),
        }
        .emit()
        .to_vec();
        packet[6..8].copy_from_slice(&flags.to_be_bytes());
        packet.extend(upper);
        Flow::of(&wire::ip::Ip::parse(&packet).unwrap()).unwrap().outbound()
    };
    let echo = v4(1, 0, &[8, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(echo.ports, Some((0x0800, 0x0800)));
    assert!(Ports::Range(0x0800..=0x08ff).matches(echo.ports.map(|p| p.0)));
    assert_eq!(v4(17, 0x0001, &[0; 16]).ports, None, "later fragment");
    assert_eq!(v4(17, 0x2000, &[0, 5, 0, 6]).ports, Some((5, 6)), "first fragment");
    assert_eq!(v4(17, 0, &[0, 5]).ports, None, "cut short");
    assert_eq!(v4(47, 0, &[0; 8]).ports, None, "GRE has none");
    for (ports, hidden, visible) in [
        (Ports::Any, true, true),
        (Ports::Opaque, true, false),
        (Ports::Range(5..=6), false, true),
        (Ports::Range(0..=65535), true, true),
        (Ports::Range(6..=6), false, false),
    ] {
        assert_eq!(ports.matches(None), hidden, "{ports:?}");
        assert_eq!(ports.matches(Some(5)), visible, "{ports:?}");
    }
}

/// Flows that differ in one field only, by counting, are spread: of 4096 flows over 4096 buckets of two, with two of them for each
/// flow, nearly all find place.
#[test]
fn neighbouring_flows_are_spread_over_the_cache() {
    let by_port = |n: u32| Flow {
        ports: PortView::Visible { source: n as u16, destination: 443 },
        ..flow("10.1.0.1", "10.2.0.1")
    };
    let by_remote = |n: u32| Flow {
        destination: Ipv4Addr::from(0x0a02_0000 + n).into(),
        ..flow("10.1.0.1", "10.2.0.1")
    };
    let by_remote_v6 = |n: u32| Flow {
        destination: Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(n)).into(),
        ..flow("fd00::1", "fd00::2")
    };
    let by_subnet_v6 = |n: u32| Flow {
        source: Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(n) << 64).into(),
        ..flow("fd00::1", "fd00::2")
    };
    for flows in [&by_port as &dyn Fn(u32) -> Flow, &by_remote, &by_remote_v6, &by_subnet_v6] {
        let mut cache = FlowCache::<u32>::new(8192);
        let ids: Vec<FlowId> = (0..4096).map(|n| flows(n).into()).collect();
        for id in &ids {
            cache.insert(cache.place(id), id, Context(0), 1, 0);
        }
        let found = ids.iter().filter(|id| cache.get(cache.place(id), id, Context(0), 1).is_some());
        assert_eq!(found.count(), 4096);
    }
}

/// A flow that is forgotten is asked about again, and then pushes another one out: with half of the places taken none is.
#[test]
fn no_flow_is_forgotten_while_there_is_room() {
    const PLACES: u32 = 1 << 16;
    let id = |n: u32| {
        let destination = Ipv4Addr::from_bits(0x0b00_0000 + n).into();
        FlowId::from(Flow { destination, ..flow("10.1.0.1", "10.2.0.1") })
    };
    let mut cache = FlowCache::<u32>::new(PLACES as usize);
    let flows = PLACES / 2;
    for n in 0..flows {
        cache.insert(cache.place(&id(n)), &id(n), Context(1), 1, n);
    }
    let known = |n: &u32| cache.get(cache.place(&id(*n)), &id(*n), Context(1), 1) == Some(n);
    assert_eq!((0..flows).filter(known).count(), flows as usize);
    // Asked for in two steps it is the same.
    let v4 = |n: u32| id(n).v4().unwrap();
    let near = |n: &u32| {
        cache
            .get_near_v4(cache.place_v4(v4(*n)), v4(*n), Context(1), 1)
            .is_some_and(|found| found == n)
    };
    let far = |n: &u32| cache.get_v4(cache.place_v4(v4(*n)), v4(*n), Context(1), 1) == Some(n);
    assert!((0..flows).filter(near).count() > flows as usize / 2);
    assert_eq!((0..flows).filter(far).count(), flows as usize);
    // More than there is room for: it holds as many as it can, and what was said last.
    for n in flows..PLACES * 2 {
        cache.insert(cache.place(&id(n)), &id(n), Context(1), 1, n);
        assert_eq!(cache.get(cache.place(&id(n)), &id(n), Context(1), 1), Some(&n));
    }
    let kept = (0..PLACES * 2)
        .filter(|n| cache.get(cache.place(&id(*n)), &id(*n), Context(1), 1).is_some())
        .count();
    assert!(kept > PLACES as usize * 9 / 10, "{kept} of {PLACES}");
}
