use super::*;
use crate::flow::{Flow, PortView};
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
        let mut cache = FlowCache::new(16);
        for key in keys {
            let expected = policies
                .iter()
                .find(|policy| policy.selectors.iter().any(|selector| selector.matches(&key)))
                .map(|policy| Match { policy: policy.id, action: policy.action });
            prop_assert_eq!(spd.lookup(&key), expected);
            prop_assert_eq!(cache.lookup(&spd, &key), expected);
            prop_assert_eq!(cache.lookup(&spd, &key), expected);
        }
    }
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

/// Scenario `add/remove/readd`: a cached answer does not outlive its database.
#[test]
fn a_new_database_makes_cached_answers_stale() {
    let mut cache = FlowCache::new(64);
    let key = flow("10.1.0.1", "10.2.0.1").outbound();
    let policies = [policy(1, "10.1.0.0/16", "10.2.0.0/16", Action::Protect)];
    let first = Spd::compile(&policies, 1);
    assert!(cache.lookup(&first, &key).is_some());
    let second = Spd::compile(&[], 2);
    assert_eq!(cache.lookup(&second, &key), None);
    let third = Spd::compile(&policies, 3);
    assert!(cache.lookup(&third, &key).is_some());
    assert!(cache.lookup(&third, &key).is_some());
    assert_eq!((cache.hits(), cache.misses()), (1, 3));
}

/// Scenario `cache_collision`: more flows than entries are all answered right.
#[test]
fn flows_that_share_a_bucket_do_not_disturb_each_other() {
    let spd = Spd::compile(&[policy(1, "10.1.0.0/16", "10.2.0.0/24", Action::Protect)], 1);
    let mut cache = FlowCache::new(1);
    for n in 0..1000u32 {
        let destination = format!("10.2.{}.{}", n % 2, n / 4);
        let found = cache.lookup(&spd, &flow("10.1.0.1", &destination).outbound());
        assert_eq!(found.is_some(), n % 2 == 0);
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

/// Flows that differ in one field only, by counting, are spread as if by chance: of 4096 flows over 2048
/// buckets, 3510 share theirs with at most three others.
#[test]
fn neighbouring_flows_are_spread_over_the_cache() {
    let spd = Spd::compile(&[policy(1, "10.0.0.0/8", "10.0.0.0/8", Action::Protect)], 1);
    let base = flow("10.1.0.1", "10.2.0.1").outbound();
    let by_port = |n: u32| FlowKey { ports: Some((n as u16, 443)), ..base };
    let by_remote = |n: u32| FlowKey { remote: Ipv4Addr::from(0x0a02_0000 + n).into(), ..base };
    for flows in [&by_port as &dyn Fn(u32) -> FlowKey, &by_remote] {
        let mut cache = FlowCache::new(8192);
        for _ in 0..2 {
            for n in 0..4096 {
                cache.lookup(&spd, &flows(n));
            }
        }
        assert!(cache.hits() > 3350, "{} of 4096", cache.hits());
    }
}
