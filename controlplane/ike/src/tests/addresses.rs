//! Virtual addresses by configuration payloads (RFC 7296 §2.19), as ladders.

use super::harness::{Pair, Who, change_child, changed, ts};
use crate::config::{Config, Identity, Pool, TrafficSelector};
use crate::event::{ChildTarget, Command, Failure, IkeTarget, Transmit};
use crate::message::v2::{ConfigAttribute, Configuration};
use crate::message::{
    ConfigAttributeType as Attribute, ConfigType, ExchangeType, Header, Message, MessageId,
    PayloadList,
};
use crate::sa::Sa;
use crate::v2::sa::State;
use core::net::IpAddr;
use ipsec::selector::{AddressRange, Ports};
use std::time::Duration;

const V4: &str = "10.9.0.1";
const V6: &str = "fd09::1";

fn dynamic() -> Vec<TrafficSelector> {
    vec![TrafficSelector { addresses: None, protocol: None, ports: Ports::Any }]
}

/// A road warrior who asks for these.
fn client(vips: &[&str]) -> Config {
    changed(Who::A, |c| {
        c.vips = vips.iter().map(|vip| vip.parse().unwrap()).collect();
        change_child(c, |child| {
            child.local_ts = dynamic();
            child.remote_ts = vec![ts("10.2.0.0/16"), ts("fd00:2::/32")];
        });
        c.children.truncate(1);
    })
}

fn gateway(pools: &[(&str, &str)]) -> Config {
    let mut config = changed(Who::B, |c| {
        c.pools = (0..pools.len()).map(|n| n.to_string()).collect();
        change_child(c, |child| {
            child.local_ts = vec![ts("10.2.0.0/16"), ts("fd00:2::/32")];
            child.remote_ts = dynamic();
        });
        c.children.truncate(1);
    });
    config.pools = pools
        .iter()
        .enumerate()
        .map(|(n, (first, last))| Pool {
            name: n.to_string(),
            addresses: AddressRange::new(first.parse().unwrap(), last.parse().unwrap()).unwrap(),
            dns: vec!["10.2.0.53".parse().unwrap(), "fd00:2::53".parse().unwrap()],
        })
        .collect();
    config
}

fn both() -> Config {
    gateway(&[(V4, "10.9.0.9"), (V6, "fd09::9")])
}

/// What the client's SAs carry of its own, and what the gateway's do of the peer.
fn agreed(pair: &Pair) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let [a, b] = [&pair.a, &pair.b]
        .map(|host| host.sad.values().next().unwrap().outbound.as_ref().unwrap().selectors.clone());
    let single = |range: AddressRange| {
        assert_eq!(range.first(), range.last());
        range.first()
    };
    let a = a.into_iter().map(|s| single(s.local)).collect();
    (a, b.into_iter().map(|s| single(s.remote)).collect())
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn virtual_events(pair: &Pair) -> Vec<&str> {
    let of = |event: &&String| event.starts_with(['+', '-']);
    pair.a.events.iter().filter(of).map(String::as_str).collect()
}

fn gw() -> IkeTarget {
    IkeTarget::Connection("gw".to_owned())
}

#[test]
fn a_road_warrior_has_an_address_of_each_family_it_asks_for() {
    for (vips, expected) in [
        (&["0.0.0.0"][..], &[V4][..]),
        (&["::"], &[V6]),
        (&["0.0.0.0", "::"], &[V4, V6]),
        (&["10.9.0.7"], &["10.9.0.7"]),
        (&["192.0.2.1", "fd09::5"], &[V4, "fd09::5"]),
    ] {
        let mut pair = Pair::new(client(vips), both());
        pair.initiate(Who::A);
        pair.settle();
        pair.assert_in_use(1, 1);
        assert_eq!(pair.trace.len(), 4, "no message more than without");
        assert_eq!(agreed(&pair), (addresses(expected), addresses(expected)));
        let held: Vec<_> = expected.iter().map(|address| format!("+{address}")).collect();
        assert_eq!(virtual_events(&pair), held);
        let (a, b) = (pair.a.engine.ike_sas(pair.now), pair.b.engine.ike_sas(pair.now));
        assert_eq!(a[0].local_vips, addresses(expected));
        assert_eq!(b[0].remote_vips, addresses(expected));

        pair.command(Who::A, Command::TerminateIke { target: gw(), force: false });
        pair.settle();
        pair.assert_empty();
        let gone: Vec<_> = expected.iter().map(|address| format!("-{address}")).collect();
        assert_eq!(virtual_events(&pair), [held, gone].concat());
    }
}

/// Both sides rekey, at once and in turn, and collide: the address stays, is held at every moment, and goes in the end.
#[test]
fn the_address_outlives_the_ike_sa() {
    for seed in 1..20 {
        let mut pair = Pair::seeded_with(seed, client(&["0.0.0.0"]), both());
        pair.initiate(Who::A);
        pair.settle();
        for who in [&[Who::A][..], &[Who::B], &[Who::A, Who::B]] {
            for who in who {
                pair.command(*who, Command::RekeyIke(gw()));
            }
            pair.settle();
            pair.advance(Duration::from_secs(400));
            pair.assert_in_use(1, 1);
        }
        let mut holders = 0;
        for event in virtual_events(&pair) {
            holders += if event == "+10.9.0.1" { 1 } else { -1 };
            assert!(holders > 0, "{:?}", pair.a.events);
        }
        assert_eq!(holders, 1);
        // A further child has it too, and it is nobody else's.
        assert_eq!(agreed(&pair).0, addresses(&[V4]));
        pair.command(Who::A, Command::TerminateIke { target: gw(), force: false });
        pair.settle();
        pair.advance(Duration::from_secs(400));
        assert_eq!(virtual_events(&pair).last(), Some(&"-10.9.0.1"));
        pair.assert_empty();
    }
}

#[test]
fn a_child_rekey_and_a_new_child_are_about_the_address() {
    let mut pair = Pair::new(client(&["0.0.0.0", "::"]), both());
    pair.initiate(Who::A);
    pair.settle();
    for who in [Who::A, Who::B] {
        let target = ChildTarget::Named { connection: None, child: "net".to_owned() };
        pair.command(who, Command::RekeyChild(target));
        pair.settle();
        pair.advance(Duration::from_secs(10));
        pair.assert_in_use(1, 1);
        assert_eq!(agreed(&pair), (addresses(&[V4, V6]), addresses(&[V4, V6])));
    }
}

/// RFC 7296 §2.8.3: the new IKE SA asks for what the old one had, and the gateway remembers it too.
#[test]
fn reauthentication_keeps_the_address() {
    let mut config = client(&["0.0.0.0"]);
    let mut c = (*config.connections[0]).clone();
    c.reauth_time = Duration::from_secs(600);
    config.connections = vec![c.into()];
    let mut pair = Pair::new(config, both());
    pair.initiate(Who::A);
    pair.settle();
    pair.advance(Duration::from_secs(610));
    pair.assert_in_use(1, 1);
    assert_eq!(agreed(&pair).0, addresses(&[V4]));
    assert_eq!(virtual_events(&pair), ["+10.9.0.1", "-10.9.0.1", "+10.9.0.1"]);
}

/// A configuration payload.
type Told = (ConfigType, Vec<(Attribute, Vec<u8>)>);

/// What an INFORMATIONAL request of the client with such a payload is answered with.
fn inform(
    pair: &mut Pair,
    id: u32,
    kind: ConfigType,
    asked: &[(Attribute, &[u8])],
) -> Option<Told> {
    let mut attributes = Vec::new();
    for (kind, value) in asked {
        ConfigAttribute { kind: *kind, value }.emit(&mut attributes);
    }
    let mut list = PayloadList::new();
    list.push(&Configuration::new(kind, &attributes).unwrap());
    let ike = *pair.a.engine.table.ids().last().unwrap();
    let Sa::V2(sa) = pair.a.engine.table.get_mut(ike).unwrap() else { panic!() };
    let path = sa.head.path;
    let header = Header::v2(
        sa.head.spi_i,
        sa.head.spi_r,
        ExchangeType::Informational,
        sa.head.flags(false),
        MessageId(id),
    );
    let State::Established(state) = &mut sa.state else { panic!() };
    let datagram = state.keys.seal(&header, &list, None).unwrap().remove(0);
    pair.deliver(Who::B, &Transmit { path, datagram });
    let answer = pair.to_a.drain(..).next().expect("an answer");
    let Sa::V2(sa) = pair.a.engine.table.get_mut(ike).unwrap() else { panic!() };
    let State::Established(state) = &sa.state else { panic!() };
    let Ok(Message::V2(message)) = Message::parse(&answer.datagram) else { panic!("not IKEv2") };
    let opened = state.keys.open(&message).expect("authentic");
    let payloads = opened.payloads().unwrap();
    let cp = payloads.configuration()?;
    Some((cp.kind, cp.attributes().map(|a| (a.kind, a.value.to_vec())).collect()))
}

/// RFC 7296 §3.15: what a client asks for again is told again; nobody gets more than it has, and nothing is set from outside.
#[test]
fn a_client_may_ask_again_for_what_it_has() {
    let mut pair = Pair::new(client(&["0.0.0.0"]), both());
    pair.initiate(Who::A);
    pair.settle();
    let v4 = (Attribute::InternalIp4Address, vec![10, 9, 0, 1]);
    let dns = (Attribute::InternalIp4Dns, vec![10, 2, 0, 53]);
    let what_it_has = Some((ConfigType::Reply, vec![v4, dns]));
    let other = [10, 9, 0, 5];
    for (n, asked) in [
        &[(Attribute::InternalIp4Address, &[][..])][..],
        &[(Attribute::InternalIp4Dns, &[]), (Attribute::InternalIp6Address, &[])],
        &[(Attribute::InternalIp4Address, &other), (Attribute::InternalIp4Address, &other)],
    ]
    .iter()
    .enumerate()
    {
        let answer = inform(&mut pair, 2 + n as u32, ConfigType::Request, asked);
        assert_eq!(answer, what_it_has, "{n}");
    }
    let nothing = inform(&mut pair, 5, ConfigType::Request, &[(Attribute::InternalIp6Dns, &[])]);
    assert_eq!(nothing, Some((ConfigType::Reply, Vec::new())));
    let set = [(Attribute::InternalIp4Dns, &[192, 0, 2, 1][..])];
    assert_eq!(inform(&mut pair, 6, ConfigType::Set, &set), Some((ConfigType::Ack, Vec::new())));
    assert_eq!(inform(&mut pair, 7, ConfigType::Reply, &set), None);
    assert_eq!(agreed(&pair).1, addresses(&[V4]), "and all is as it was");
}

/// RFC 7296 §3.10.1: the IKE SA stays, the child is not made, and both say why.
#[test]
fn no_address_no_child() {
    let none = gateway(&[]);
    let used = gateway(&[(V6, "fd09::9")]);
    for (vips, gateway, notify) in
        [(&["0.0.0.0"][..], none, 36), (&["0.0.0.0"], used, 36), (&[], both(), 37)]
    {
        let mut pair = Pair::new(client(vips), gateway);
        let request = pair.initiate(Who::A);
        pair.settle();
        assert_eq!(pair.a.done[&request], Err(Failure::NoAddress), "{notify}");
        pair.assert_in_use(1, 0);
        assert_eq!(virtual_events(&pair), [""; 0]);
        for host in [&pair.a, &pair.b] {
            assert_eq!(host.engine.statistics().negotiation_failures, 1);
        }
        pair.command(Who::A, Command::TerminateIke { target: gw(), force: false });
        pair.settle();
        pair.assert_empty();
    }
}

/// Who comes back has its address, and another one another.
#[test]
fn a_lease_is_remembered_by_identity() {
    let mut pair = Pair::new(client(&["0.0.0.0"]), both());
    for _ in 0..2 {
        pair.initiate(Who::A);
        pair.settle();
        assert_eq!(agreed(&pair).1, addresses(&[V4]));
        pair.command(Who::A, Command::TerminateIke { target: gw(), force: true });
        pair.settle();
        pair.advance(Duration::from_secs(60));
        pair.assert_empty();
    }
    let mut other = client(&["0.0.0.0"]);
    let mut c = (*other.connections[0]).clone();
    c.local.id = Identity::Fqdn("other.example".to_owned());
    other.connections = vec![c.into()];
    let secret = |config: &mut Config| {
        config.psks[0].owners.push(Identity::Fqdn("other.example".to_owned()));
    };
    secret(&mut other);
    pair.a.engine.set_config(other.into());
    let mut open = both();
    let mut c = (*open.connections[0]).clone();
    c.remote.id = Identity::Any;
    open.connections = vec![c.into()];
    secret(&mut open);
    pair.b.engine.set_config(open.into());
    pair.initiate(Who::A);
    pair.settle();
    assert_eq!(agreed(&pair).1, addresses(&["10.9.0.2"]));
}

/// Whatever is lost, comes twice or late, all is there in the end.
#[test]
fn with_loss() {
    for seed in 1..60 {
        let mut pair = Pair::seeded_with(seed, client(&["0.0.0.0", "::"]), both());
        pair.initiate(Who::A);
        pair.stumble(25, seed);
        pair.advance(Duration::from_secs(100));
        pair.assert_in_use(1, 1);
        assert_eq!(agreed(&pair).0, addresses(&[V4, V6]));
    }
}
