//! Later fragments of packets for some ports: who may take which SA is agreed on (RFC 4301 §7, RFC 7296 §1.3.1).

use super::harness::*;
use crate::config::{Child, Config, Version};
use crate::event::{ChildTarget, Command};
use ipsec::selector::{AddressRange, Ports, Selector};
use std::sync::Arc;

/// A child for DNS at B, and one for what `and` says beside it.
fn dns(who: Who, version: Version, and: Option<Ports>) -> Config {
    changed(who, |c| {
        c.version = version;
        if version == Version::Ikev1 {
            c.proposals =
                proposals(crate::proposal::ProposalProtocol::Ike, "aes128-sha256-modp2048");
        }
        let for_ports = |child: &mut Child, ports: Ports| {
            let servers = match who {
                Who::A => &mut child.remote_ts,
                Who::B => &mut child.local_ts,
            };
            servers[0].protocol = Some(17);
            servers[0].ports = ports;
        };
        let mut rest = (*c.children[0]).clone();
        change_child(c, |child| for_ports(child, Ports::Range(53..=53)));
        c.children.truncate(1);
        if let Some(ports) = and {
            rest.name = "rest".to_owned();
            for_ports(&mut rest, ports);
            c.children.push(Arc::new(rest));
        }
    })
}

/// What both ends have installed: whether later fragments may take it, and the far ports as A has them.
fn agreed(pair: &Pair) -> Vec<(bool, Ports)> {
    let of = |host: &Host, far: fn(&ipsec::selector::Selector) -> &Ports| {
        let found: Vec<_> = host
            .sad
            .values()
            // An old pair still receives for a while.
            .filter(|slot| slot.outbound.is_some())
            .flat_map(|slot| [slot.inbound.as_ref(), slot.outbound.as_ref()])
            .map(|sa| sa.map(|sa| (sa.later_fragments, far(&sa.selectors[0]).clone())).unwrap())
            .collect();
        let one: Vec<_> = found.chunks(2).map(|both| both[0].clone()).collect();
        assert!(found.chunks(2).all(|both| both[0] == both[1]), "{found:?}");
        one
    };
    let (a, b) = (of(&pair.a, |s| &s.remote_ports), of(&pair.b, |s| &s.local_ports));
    assert_eq!(a, b);
    a
}

fn dns_ports() -> Ports {
    Ports::Range(53..=53)
}

#[test]
fn later_fragments_are_agreed_on_for_a_child_with_ports() {
    let v2 = |who, and| dns(who, Version::Ikev2, and);
    let mut pair = Pair::new(v2(Who::A, None), v2(Who::B, None));
    pair.initiate(Who::A);
    pair.settle();
    assert_eq!(agreed(&pair), [(true, dns_ports())]);
    // A rekey agrees on it anew.
    let net = ChildTarget::Named { connection: None, child: "net".to_owned() };
    pair.command(Who::B, Command::RekeyChild(net));
    pair.settle();
    assert!(agreed(&pair).iter().all(|(later, _)| *later));

    // A child for everything needs no word about it.
    let mut pair = Pair::with_defaults();
    pair.initiate(Who::A);
    pair.settle();
    assert!(agreed(&pair).iter().all(|(later, _)| !later));
}

#[test]
fn one_end_alone_does_not_agree() {
    let v2 = |who, and| dns(who, Version::Ikev2, and);
    // Who has a child for hidden ports keeps them out of the others.
    for (a, b) in [(None, Some(Ports::Opaque)), (Some(Ports::Opaque), None)] {
        let mut pair = Pair::new(v2(Who::A, a), v2(Who::B, b));
        pair.initiate(Who::A);
        pair.settle();
        assert_eq!(agreed(&pair), [(false, dns_ports())]);
    }
    // IKEv1 has no word for it.
    let v1 = |who| dns(who, Version::Ikev1, None);
    let mut pair = Pair::new(v1(Who::A), v1(Who::B));
    pair.initiate(Who::A);
    pair.settle();
    assert!(agreed(&pair).iter().all(|(later, _)| !later));
}

/// By name, and by a later fragment that asks for it.
#[test]
fn a_child_for_hidden_ports_comes_up() {
    let both = |who| dns(who, Version::Ikev2, Some(Ports::Opaque));
    let fragment = Selector {
        local: AddressRange::host([10, 1, 0, 5].into()),
        remote: AddressRange::host([10, 2, 0, 5].into()),
        protocol: Some(17),
        local_ports: Ports::Opaque,
        remote_ports: Ports::Opaque,
    };
    for packet in [None, Some(fragment)] {
        let mut pair = Pair::new(both(Who::A), both(Who::B));
        pair.initiate(Who::A);
        pair.settle();
        let (connection, child) = ("gw".to_owned(), "rest".to_owned());
        pair.command(Who::A, Command::Acquire { connection, child, packet });
        pair.settle();
        assert_eq!(agreed(&pair), [(false, dns_ports()), (false, Ports::Opaque)]);
    }
}
