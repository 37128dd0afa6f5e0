//! What two ends agree on by IKEv1, as ladders: traffic, protocols and modes, lifetimes of both phases, reauthentication, INITIAL-CONTACT.

use super::harness::{Host, Pair, Who, change_child, proposals, ts};
use super::ikev1::{IKE, established, v1, v1_with};
use super::ikev1_rules::with;
use crate::config::{ChildMode, TrafficSelector};
use crate::event::{ChildTarget, Command, IkeTarget, Limit};
use crate::proposal::ProposalProtocol;
use crate::sa::Sa;
use crate::v1::sa::State;
use crate::view::IkeState;
use ipsec::sa::{Limits, Mode, Protocol};
use ipsec::selector::{AddressRange, Ports};
use std::time::Duration;

const MAIN_MODE: u8 = 2;

/// A soft limit in kilobytes has a quick mode negotiated, make before break, and no main mode; the hard one ends the pair at both sides.
#[test]
fn kilobytes() {
    let limits = |bytes| Limits { bytes: Some(bytes), ..Limits::default() };
    let mut pair = with(|c| {
        change_child(c, |child| {
            child.rekey_limits = limits(1 << 20);
            child.life_limits = limits(1 << 21);
        });
    });
    pair.initiate(Who::A);
    pair.settle();
    let (first, slot) = pair.a.sad.iter().next().unwrap();
    let (first, lifetime) = (*first, slot.outbound.as_ref().unwrap().lifetime);
    assert_eq!((lifetime.soft.bytes, lifetime.hard.bytes), (Some(1 << 20), Some(1 << 21)));
    let now = pair.now;
    pair.a.engine.handle_expire(now, first, Limit::Soft, &mut pair.a.spis);
    pair.settle();
    assert!(pair.a.sad.len() == 2, "the old pair still receives");
    assert!(pair.send_data(Who::B));
    pair.advance(Duration::from_secs(60));
    pair.assert_in_use(1, 1);
    assert!(!pair.a.sad.contains_key(&first));
    for host in [&pair.a, &pair.b] {
        let statistics = host.engine.statistics();
        assert_eq!((statistics.ike_quick_mode, statistics.ike_main_mode_rekey), (2, 0));
        assert!(!host.events.iter().any(|event| event.contains("down")), "{:?}", host.events);
    }
    let second = *pair.b.sad.keys().next().unwrap();
    let now = pair.now;
    pair.b.engine.handle_expire(now, second, Limit::Hard, &mut pair.b.spis);
    pair.settle();
    pair.assert_in_use(1, 0);
}

/// The lifetime of phase 1 that is offered binds the responder, whose own is longer (RFC 2409 §4).
#[test]
fn the_offered_lifetime_of_phase_1_binds_the_responder() {
    let lives = |who, seconds| {
        v1_with(who, IKE, |c| {
            c.reauth_time = Duration::from_secs(seconds);
            c.over_time = Duration::from_secs(60);
        })
    };
    let mut pair = Pair::new(lives(Who::A, 600), lives(Who::B, 3600));
    pair.initiate(Who::A);
    pair.settle();
    for host in [&pair.a, &pair.b] {
        let view = &host.engine.ike_sas(pair.now)[0];
        assert_eq!(view.expires_in, Some(Duration::from_secs(660)));
    }
}

/// Reauthentication is a main mode of its own, with other cookies, nonces and proofs; the children go over to it as they are.
#[test]
fn reauthentication() {
    for by_time in [true, false] {
        let mut pair = with(|c| {
            c.reauth_time = Duration::from_secs(if by_time { 300 } else { 0 });
            c.over_time = Duration::from_secs(60);
        });
        pair.initiate(Who::A);
        pair.settle();
        let before = pair.a.spi_pairs();
        let cookies = pair.trace[0].1.datagram[..8].to_vec();
        let start = pair.trace.len();
        if by_time {
            pair.advance(Duration::from_secs(299));
            assert_eq!(pair.trace.len(), start);
        } else {
            pair.command(Who::A, Command::RekeyIke(IkeTarget::Connection("gw".to_owned())));
        }
        pair.advance(Duration::from_secs(30));
        pair.assert_in_use(1, 1);
        assert_eq!(pair.a.spi_pairs(), before);
        let again: Vec<_> =
            pair.trace[start..].iter().filter(|(_, t)| t.datagram[18] == MAIN_MODE).collect();
        assert_eq!(again.len(), 6);
        assert!(again.iter().all(|(_, t)| t.datagram[..8] != cookies[..]));
        assert!(pair.a.events.contains(&"ike up rekeyed".to_owned()), "{:?}", pair.a.events);
        for host in [&pair.a, &pair.b] {
            let down = |event: &String| event.starts_with("child") && event.contains("down");
            assert!(!host.events.iter().any(down), "{:?}", host.events);
        }
    }
}

/// RFC 2407 §4.6.2, RFC 2409 §5.5, RFC 4304: ESP and AH, with extended sequence numbers and without, for a subnet, a range, an address, a protocol
/// with a port, and in transport mode; both sides have what was asked for.
#[test]
fn what_quick_mode_agrees_on() {
    let range = |first: &str, last: &str| {
        let range = AddressRange::new(first.parse().unwrap(), last.parse().unwrap()).unwrap();
        TrafficSelector { addresses: Some(range), protocol: None, ports: Ports::Any }
    };
    let tcp = |selector: TrafficSelector, port| TrafficSelector {
        protocol: Some(6),
        ports: Ports::Range(port..=port),
        ..selector
    };
    let dynamic = TrafficSelector { addresses: None, protocol: None, ports: Ports::Any };
    let kinds = [
        (Mode::Tunnel, ts("10.1.0.0/16"), ts("10.2.0.0/16")),
        (Mode::Tunnel, range("10.1.0.3", "10.1.0.9"), range("10.2.0.1", "10.2.7.77")),
        (Mode::Tunnel, ts("10.1.0.1/32"), range("10.2.0.7", "10.2.0.7")),
        (Mode::Tunnel, tcp(ts("10.1.0.1/32"), 80), tcp(ts("10.2.0.0/24"), 443)),
        (Mode::Transport, dynamic.clone(), dynamic),
    ];
    let suites = [
        (ProposalProtocol::Esp, "aes128-sha256", false),
        (ProposalProtocol::Esp, "aes256gcm16-ecp256-esn", true),
        (ProposalProtocol::Ah, "sha256", false),
        (ProposalProtocol::Ah, "sha384-ecp256-esn", true),
    ];
    for (protocol, text, esn) in suites {
        for (mode, near, far) in &kinds {
            let end = |who| {
                v1_with(who, IKE, |c| {
                    change_child(c, |child| {
                        child.proposals = proposals(protocol, text);
                        child.mode = ChildMode::Protect(*mode);
                        (child.local_ts, child.remote_ts) = match who {
                            Who::A => (vec![near.clone()], vec![far.clone()]),
                            Who::B => (vec![far.clone()], vec![near.clone()]),
                        };
                    });
                })
            };
            let mut pair = Pair::new(end(Who::A), end(Who::B));
            pair.initiate(Who::A);
            pair.settle();
            pair.assert_in_use(1, 1);
            for (host, near) in [(&pair.a, near), (&pair.b, far)] {
                let slot = host.sad.values().next().unwrap();
                for sa in [slot.inbound.as_ref().unwrap(), slot.outbound.as_ref().unwrap()] {
                    let is_ah = protocol == ProposalProtocol::Ah;
                    assert_eq!(sa.protocol == Protocol::Ah, is_ah, "{text}");
                    assert_eq!((sa.esn, sa.mode), (esn, *mode), "{text}");
                    let [selector] = &sa.selectors[..] else { panic!("{:?}", sa.selectors) };
                    if let Some(addresses) = near.addresses {
                        assert_eq!(selector.local, addresses);
                    }
                    assert_eq!(selector.protocol, near.protocol);
                    assert_eq!(selector.local_ports, near.ports);
                }
            }
        }
    }
}

/// A host that begins anew and knows of nothing says so (RFC 2407 §4.6.3.3): what it had goes, and the new one does not.
#[test]
fn initial_contact() {
    let mut pair = established();
    let old = pair.b.spi_pairs();
    pair.a = Host::new(v1(Who::A), 3, 9);
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
    assert_ne!(pair.b.spi_pairs(), old);
    assert!(pair.b.events.contains(&"ike down: replaced".to_owned()), "{:?}", pair.b.events);
    // A second main mode of one that knows of the first says no such thing.
    pair.command(Who::A, Command::RekeyIke(IkeTarget::Connection("gw".to_owned())));
    let before = pair.b.spi_pairs();
    pair.advance(Duration::from_secs(60));
    pair.assert_in_use(1, 1);
    assert_eq!(pair.b.spi_pairs(), before);
}

/// Kilobytes instead of seconds in A's offer, in the message and in what A's HASH covers; then phase 1 goes on to its end.
fn kilobytes_are_offered(kilobytes: u32) -> Pair {
    const OFFERED: Duration = Duration::from_secs(100_000);
    let mut pair = Pair::new(v1_with(Who::A, IKE, |c| c.reauth_time = OFFERED), v1(Who::B));
    pair.initiate(Who::A);
    let changed = |octets: &mut [u8]| {
        // Life type, seconds; life duration, four octets (RFC 2409 appendix A).
        const SECONDS: [u8; 8] = [0x80, 11, 0, 1, 0, 12, 0, 4];
        let mut found = 0;
        for at in 0..=octets.len() - 12 {
            if octets[at..at + 8] == SECONDS {
                octets[at + 3] = 2;
                octets[at + 8..at + 12].copy_from_slice(&kilobytes.to_be_bytes());
                found += 1;
            }
        }
        assert!(found > 0);
    };
    changed(&mut pair.to_b[0].datagram);
    let ike = pair.a.engine.table.ids()[0];
    let Some(Sa::V1(sa)) = pair.a.engine.table.get_mut(ike) else { panic!() };
    let State::SaSent(state) = &mut sa.state else { panic!() };
    changed(&mut state.sa);
    pair.settle();
    pair.assert_in_use(1, 1);
    pair
}

/// A limit of phase 1 in kilobytes that is offered binds both: at three quarters of it a new main mode, and the children stay. Below 64 it counts as 64.
#[test]
fn kilobytes_of_phase_1() {
    for (kilobytes, renewals) in [(100, 1), (1, 1), (1 << 20, 0)] {
        let mut pair = kilobytes_are_offered(kilobytes);
        let soft = u64::from(kilobytes.max(64)) * 1024 / 4 * 3;
        let (mut octets, mut main_modes) = (0, 0);
        for _ in 0..150 {
            let rekey = ChildTarget::Named { connection: None, child: "net".to_owned() };
            pair.command(Who::A, Command::RekeyChild(rekey));
            pair.advance(Duration::from_secs(60));
            pair.assert_in_use(1, 1);
            let later = pair.trace.iter().filter(|(_, t)| t.datagram[18] != MAIN_MODE);
            octets = later.map(|(_, t)| t.datagram.len() as u64 - 28).sum();
            let rekeys = |host: &Host| host.engine.statistics().ike_main_mode_rekey;
            main_modes = rekeys(&pair.a) + rekeys(&pair.b);
            if main_modes > 0 {
                break;
            }
            assert!(octets < soft, "{kilobytes}: {octets}");
        }
        assert_eq!(main_modes, renewals, "{kilobytes}: {octets}");
        assert_eq!(octets >= soft, renewals == 1);
        for host in [&pair.a, &pair.b] {
            let down = |event: &String| event.starts_with("child") && event.contains("down");
            assert!(!host.events.iter().any(down), "{:?}", host.events);
        }
    }
}

/// Where no successor comes, the SA ends with its kilobytes.
#[test]
fn the_last_of_the_kilobytes() {
    let mut pair = kilobytes_are_offered(64);
    for n in 0..400 {
        if pair.a.sad.is_empty() {
            assert!(n > 50, "{n}");
            let up = |host: &Host| {
                host.states(pair.now).iter().any(|(s, _)| *s == IkeState::Established)
            };
            assert!(!up(&pair.a) && !up(&pair.b));
            return;
        }
        let rekey = ChildTarget::Named { connection: None, child: "net".to_owned() };
        pair.command(Who::A, Command::RekeyChild(rekey));
        // Main modes get lost.
        for _ in 0..30 {
            for who in [Who::B, Who::A] {
                while pair.under_way(who) > 0 {
                    let queue = if who == Who::A { &pair.to_a } else { &pair.to_b };
                    match queue[0].datagram[18] {
                        MAIN_MODE => pair.lose_next(who),
                        _ => pair.deliver_next(who),
                    }
                }
            }
            let until = pair.now + Duration::from_secs(1);
            if let Some(at) = pair.next_timeout().filter(|at| *at <= until) {
                pair.now = pair.now.max(at);
                pair.timeouts();
            } else {
                pair.now = until;
            }
        }
    }
    panic!("it goes on for ever");
}
