//! Every exchange, as a ladder.

use super::harness::{Pair, Who, change_child, changed, config, psk};
use crate::config::Config;
use crate::event::{ChildTarget, Command, Failure, IkeTarget};
use crate::view::{ChildState, IkeState};
use std::time::Duration;

fn gw() -> IkeTarget {
    IkeTarget::Connection("gw".to_owned())
}

fn named(child: &str) -> ChildTarget {
    ChildTarget::Named { connection: None, child: child.to_owned() }
}

#[test]
fn an_ike_sa_with_a_child_takes_four_messages() {
    let mut pair = Pair::with_defaults();
    let request = pair.initiate(Who::A);
    assert_eq!(pair.a.states(pair.now), [(IkeState::Connecting, vec![])]);

    // HDR, SAi1, KEi, Ni  -->
    pair.deliver_next(Who::B);
    assert_eq!(pair.b.states(pair.now), [(IkeState::Connecting, vec![])]);
    // <--  HDR, SAr1, KEr, Nr
    pair.deliver_next(Who::A);
    // HDR, SK {IDi, IDr, AUTH, SAi2, TSi, TSr}  -->
    pair.deliver_next(Who::B);
    assert_eq!(pair.b.states(pair.now), [(IkeState::Established, vec![ChildState::Installed])]);
    // <--  HDR, SK {IDr, AUTH, SAr2, TSi, TSr}
    pair.deliver_next(Who::A);
    pair.assert_in_use(1, 1);
    assert_eq!(pair.trace.len(), 4);
    let outcome = pair.assert_done(Who::A, request);
    assert!(outcome.ike.is_some() && outcome.pair.is_some());
    assert_eq!(pair.a.events, ["ike up", "child net up"]);
    assert_eq!(pair.b.events, ["ike up", "child net up"]);
}

#[test]
fn the_answer_waits_for_the_inbound_sa() {
    let mut pair = Pair::with_defaults();
    pair.b.refuse_inbound = true;
    let request = pair.initiate(Who::A);
    pair.settle();
    // The IKE SA lives on without the child.
    pair.assert_in_use(1, 0);
    assert_eq!(pair.a.done[&request], Err(Failure::Refused(35)));
    assert_eq!(pair.b.engine.statistics().key_update_failures, 1);
}

#[test]
fn an_initiator_whose_dataplane_refuses_deletes_the_child() {
    let mut pair = Pair::with_defaults();
    pair.a.refuse_outbound = true;
    let request = pair.initiate(Who::A);
    pair.settle();
    assert_eq!(pair.a.done[&request], Err(Failure::Dataplane));
    pair.assert_in_use(1, 0);
}

#[test]
fn further_children_by_create_child_sa_without_and_with_pfs() {
    for (first, second) in [("net", "more"), ("more", "net")] {
        let mut pair = Pair::with_defaults();
        pair.initiate_child(Who::A, first);
        pair.settle();
        let request = pair.initiate_child(Who::B, second);
        // <--  HDR, SK {SA, Ni, [KEi,] TSi, TSr}
        pair.deliver_next(Who::A);
        // HDR, SK {SA, Nr, [KEr,] TSi, TSr}  -->
        pair.deliver_next(Who::B);
        pair.assert_in_use(1, 2);
        pair.assert_done(Who::B, request);
        assert_eq!(pair.trace.len(), 6);
    }
}

#[test]
fn children_asked_for_while_connecting_follow_the_first() {
    let mut pair = Pair::with_defaults();
    let net = pair.initiate_child(Who::A, "net");
    let again = pair.initiate_child(Who::A, "net");
    let more = pair.initiate_child(Who::A, "more");
    pair.settle();
    pair.assert_in_use(1, 2);
    for request in [net, again, more] {
        pair.assert_done(Who::A, request);
    }
    assert_eq!(pair.a.engine.statistics().total_acquire_initiate, 2);
}

#[test]
fn a_childless_ike_sa() {
    let mut pair = Pair::with_defaults();
    let request = pair.command(Who::A, Command::InitiateIke { connection: "gw".to_owned() });
    pair.settle();
    pair.assert_in_use(1, 0);
    pair.assert_done(Who::A, request);
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
}

#[test]
fn a_child_rekey_loses_no_moment() {
    for who in [Who::A, Who::B] {
        let mut pair = Pair::established();
        let request = pair.command(who, Command::RekeyChild(named("net")));
        // HDR, SK {N(REKEY_SA), SA, Ni, KEi, TSi, TSr}  -->
        pair.deliver_next(who.other());
        // The responder sends on the old one until traffic on the new.
        let active: Vec<bool> = pair.host(who.other()).sad.values().map(|s| s.active).collect();
        assert_eq!(active, [true, false]);
        // <--  HDR, SK {SA, Nr, KEr, TSi, TSr}
        pair.deliver_next(who);
        let active: Vec<bool> = pair.host(who).sad.values().map(|s| s.active).collect();
        assert_eq!(active, [false, true]);
        let new = *pair.host(who.other()).sad.keys().last().unwrap();
        let now = pair.now;
        pair.host(who.other()).engine.handle_inbound_traffic(now, new);
        pair.pump();
        assert!(pair.host(who.other()).sad[&new].active);
        // HDR, SK {D(old)}  -->  and its answer; both keep receiving for a while.
        pair.settle();
        pair.assert_done(who, request);
        for host in [&pair.a, &pair.b] {
            let old = host.sad.values().next().unwrap();
            assert!(old.inbound.is_some() && old.outbound.is_none());
        }
        pair.advance(Duration::from_secs(6));
        pair.assert_in_use(1, 1);
        assert_eq!(pair.a.engine.statistics().child_rekeys, 1);
        assert_eq!(pair.b.engine.statistics().child_rekeys, 1);
        assert_eq!(pair.a.events, ["ike up", "child net up", "child net up rekeyed"]);
    }
}

#[test]
fn the_delete_of_the_old_child_activates_the_new_one_without_traffic() {
    let mut pair = Pair::established();
    pair.command(Who::A, Command::RekeyChild(named("net")));
    pair.settle();
    let active: Vec<bool> = pair.b.sad.values().map(|s| s.active).collect();
    assert_eq!(active, [false, true]);
}

#[test]
fn an_ike_rekey_moves_the_children() {
    for who in [Who::A, Who::B] {
        let mut pair = Pair::established();
        let spis = pair.a.spi_pairs();
        let request = pair.command(who, Command::RekeyIke(gw()));
        // HDR, SK {SA, Ni, KEi}  -->
        pair.deliver_next(who.other());
        // <--  HDR, SK {SA, Nr, KEr}
        pair.deliver_next(who);
        // HDR, SK {D(IKE)}  -->  <--  HDR, SK {}
        pair.settle();
        pair.assert_in_use(1, 1);
        pair.assert_done(who, request);
        assert_eq!(pair.a.spi_pairs(), spis, "the child is the same");
        assert_eq!(pair.a.events, ["ike up", "child net up", "ike up rekeyed"]);
        // The new IKE SA works in both directions.
        pair.command(Who::A, Command::RekeyChild(named("net")));
        pair.settle();
        pair.command(Who::B, Command::RekeyIke(gw()));
        pair.settle();
        pair.advance(Duration::from_secs(20));
        pair.assert_in_use(1, 1);
        assert_eq!(pair.a.engine.statistics().ike_main_mode_rekey, 2);
        assert_eq!(pair.b.engine.statistics().ike_main_mode_rekey, 2);
    }
}

#[test]
fn deletes() {
    let mut pair = Pair::established();
    let request =
        pair.command(Who::B, Command::TerminateChild { target: named("net"), force: false });
    // <--  HDR, SK {D}
    pair.deliver_next(Who::A);
    // HDR, SK {D}  -->
    pair.deliver_next(Who::B);
    pair.assert_done(Who::B, request);
    pair.assert_in_use(1, 0);
    assert_eq!(pair.a.events[2], "child net down: deleted by the peer");

    let request = pair.command(Who::A, Command::TerminateIke { target: gw(), force: false });
    pair.settle();
    pair.assert_done(Who::A, request);
    pair.assert_empty();
    assert_eq!(pair.b.events.last().unwrap(), "ike down: deleted by the peer");
}

#[test]
fn forced_deletes_do_not_wait() {
    let mut pair = Pair::established();
    pair.command(Who::A, Command::TerminateIke { target: gw(), force: true });
    assert!(pair.a.states(pair.now).is_empty());
    pair.settle();
    pair.assert_empty();
}

#[test]
fn shutdown_deletes_everywhere() {
    let mut pair = Pair::established();
    let request = pair.command(Who::A, Command::TerminateAll);
    assert!(!pair.a.engine.is_idle());
    pair.settle();
    pair.assert_done(Who::A, request);
    assert!(pair.a.engine.is_idle());
    pair.assert_empty();
    let now = pair.now;
    let again = pair.a.engine.handle_command(now, Command::RekeyIke(gw()), &mut pair.a.spis);
    assert!(again.is_err());
}

#[test]
fn timers_rekey_and_expire() {
    let set = |c: &mut crate::config::Connection| {
        c.rekey_time = Duration::from_secs(1000);
        change_child(c, |child| {
            child.rekey_time = Duration::from_secs(300);
            child.life_time = Duration::from_secs(330);
        });
    };
    let mut pair = Pair::new(changed(Who::A, set), config(Who::B));
    pair.initiate(Who::A);
    pair.advance(Duration::from_secs(1300));
    pair.assert_in_use(1, 1);
    let statistics = pair.b.engine.statistics();
    assert_eq!((statistics.child_rekeys, statistics.ike_main_mode_rekey), (4, 1));
}

#[test]
fn reauthentication_closes_and_begins_anew() {
    let set = |c: &mut crate::config::Connection| c.reauth_time = Duration::from_secs(600);
    let mut pair = Pair::new(changed(Who::A, set), config(Who::B));
    pair.initiate_child(Who::A, "net");
    pair.initiate_child(Who::A, "more");
    pair.advance(Duration::from_secs(630));
    pair.assert_in_use(1, 2);
    assert_eq!(pair.a.engine.statistics().ike_main_mode_initial, 2);
    assert_eq!(pair.a.engine.statistics().total_acquire(), 2);
}

#[test]
fn liveness_only_when_idle_and_a_dead_peer_is_noticed() {
    let set = |c: &mut crate::config::Connection| c.dpd_delay = Duration::from_secs(30);
    let mut pair = Pair::new(changed(Who::A, set), config(Who::B));
    pair.initiate(Who::A);
    pair.settle();
    let sent = pair.trace.len();
    // ESP shows that the peer lives.
    for _ in 0..10 {
        pair.advance(Duration::from_secs(20));
        let child = *pair.a.sad.keys().next().unwrap();
        let now = pair.now;
        pair.a.engine.handle_inbound_traffic(now, child);
    }
    assert_eq!(pair.trace.len(), sent);
    // HDR, SK {}  -->  <--  HDR, SK {}
    pair.advance(Duration::from_secs(31));
    assert_eq!(pair.trace.len(), sent + 2);
    // The peer dies.
    let mut dropped = 0;
    while pair.now - pair.start < Duration::from_secs(600) {
        let Some(at) = pair.next_timeout() else { break };
        pair.now = at;
        pair.timeouts();
        dropped += pair.to_b.len();
        pair.to_b.clear();
    }
    // The request and charon's five repeats.
    assert_eq!(dropped, 6);
    assert!(pair.a.states(pair.now).is_empty());
    assert!(pair.a.sad.is_empty() && pair.a.spis.held.is_empty());
    assert_eq!(
        pair.a.events[2..],
        ["child net down: the peer does not answer", "ike down: the peer does not answer"]
    );
}

#[test]
fn a_wrong_preshared_key_is_an_authentication_failure_on_both_sides() {
    let wrong = Config { psks: vec![psk("wrong")], ..config(Who::B) };
    let mut pair = Pair::new(config(Who::A), wrong);
    let request = pair.initiate(Who::A);
    pair.settle();
    assert_eq!(pair.a.done[&request], Err(Failure::Authentication));
    pair.assert_empty();
    for host in [&pair.a, &pair.b] {
        let statistics = host.engine.statistics();
        assert_eq!(statistics.authentication_failures(), 1);
        assert_eq!(statistics.negotiation_failures, 1);
        assert_eq!(statistics.invalid_packets_received, 0);
    }
    assert_eq!(pair.a.engine.statistics().acquire_failures, 1);
    assert_eq!(pair.b.engine.statistics().isadb_list_size, 1, "remembered");
    pair.advance(Duration::from_secs(60));
    assert_eq!(pair.b.engine.statistics().isadb_list_size, 0);
}

#[test]
fn an_initiator_that_finds_the_responders_key_wrong_tells_it() {
    // The responder's AUTH is made with another key than the initiator expects: two entries, by role.
    let mut pair = Pair::with_defaults();
    pair.initiate(Who::A);
    pair.deliver_next(Who::B);
    pair.deliver_next(Who::A);
    pair.deliver_next(Who::B);
    let changed = Config { psks: vec![psk("another")], ..config(Who::A) };
    pair.a.engine.set_config(std::sync::Arc::new(changed));
    // <--  HDR, SK {IDr, AUTH, …}   and  HDR, SK {N(AUTHENTICATION_FAILED)}  -->
    pair.settle();
    pair.assert_empty();
    assert_eq!(pair.a.engine.statistics().authentication_failures(), 1);
    assert_eq!(pair.b.engine.statistics().authentication_failures(), 1);
}

#[test]
fn identities_that_are_not_configured_are_refused() {
    let cases: [fn(&mut crate::config::Connection); 2] = [
        |c| c.local.id = crate::config::Identity::Fqdn("x.example".into()),
        |c| c.remote.id = crate::config::Identity::Fqdn("y.example".into()),
    ];
    for case in cases {
        let mut a = changed(Who::A, case);
        a.psks[0].owners.clear();
        let mut pair = Pair::new(a, config(Who::B));
        let request = pair.initiate(Who::A);
        pair.settle();
        assert_eq!(pair.a.done[&request], Err(Failure::Authentication));
        pair.assert_empty();
    }
}

#[test]
fn no_common_proposal_fails_after_the_answer_came_twice() {
    let set = |c: &mut crate::config::Connection| {
        c.proposals = super::harness::proposals(
            crate::proposal::ProposalProtocol::Ike,
            "aes256-sha512-ecp384",
        );
    };
    let mut pair = Pair::new(changed(Who::A, set), config(Who::B));
    let request = pair.initiate(Who::A);
    pair.settle();
    // An unauthenticated refusal alone changes nothing (RFC 7296 §2.4) …
    assert!(!pair.a.done.contains_key(&request));
    // … but when the repeated request is refused again, it is believed.
    pair.advance(Duration::from_secs(5));
    assert_eq!(pair.a.done[&request], Err(Failure::NoProposal));
    pair.assert_empty();
    assert_eq!(pair.b.engine.statistics().negotiation_failures, 2);
    assert_eq!(pair.b.engine.statistics().isadb_list_size, 0, "no state kept");
}

#[test]
fn a_child_that_cannot_be_agreed_leaves_the_ike_sa() {
    type Change = fn(&mut crate::config::Child);
    let cases: [(Change, Failure); 2] = [
        (|c| c.remote_ts = vec![super::harness::ts("10.9.0.0/16")], Failure::Selectors),
        (
            |c| {
                c.proposals =
                    super::harness::proposals(crate::proposal::ProposalProtocol::Esp, "aes256gcm8");
            },
            Failure::NoProposal,
        ),
    ];
    for (case, failure) in cases {
        let a = changed(Who::A, |c| change_child(c, case));
        let mut pair = Pair::new(a, config(Who::B));
        let request = pair.initiate(Who::A);
        pair.settle();
        assert_eq!(pair.a.done[&request], Err(failure));
        pair.assert_in_use(1, 0);
        assert_eq!(pair.b.engine.statistics().negotiation_failures, 1);
        assert_eq!(pair.a.engine.statistics().negotiation_failures, 1);
    }
}

#[test]
fn traffic_is_narrowed_to_what_both_allow() {
    let a = changed(Who::A, |c| {
        change_child(c, |child| {
            child.local_ts = vec![super::harness::ts("0.0.0.0/0")];
            child.remote_ts = vec![super::harness::ts("0.0.0.0/0")];
        });
    });
    let mut pair = Pair::new(a, config(Who::B));
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
    let sa = pair.a.sad.values().next().unwrap().outbound.as_ref().unwrap();
    assert_eq!(sa.selectors[0].local, super::harness::net("10.1.0.0/16"));
    assert_eq!(sa.selectors[0].remote, super::harness::net("10.2.0.0/16"));
}

#[test]
fn the_group_is_corrected_once() {
    // HDR, SAi1, KEi(x25519), Ni  -->  <--  N(INVALID_KE_PAYLOAD, ecp256), and on with ecp256.
    let set = |c: &mut crate::config::Connection| {
        c.proposals = super::harness::proposals(
            crate::proposal::ProposalProtocol::Ike,
            "aes128gcm16-prfsha256-ecp256",
        );
        change_child(c, |child| {
            child.proposals = super::harness::proposals(
                crate::proposal::ProposalProtocol::Esp,
                "aes128gcm16-ecp256",
            );
        });
    };
    let mut pair = Pair::new(config(Who::A), changed(Who::B, set));
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
    assert_eq!(pair.trace.len(), 6);
    // The same for CREATE_CHILD_SA, of a child and of the IKE SA.
    pair.command(Who::A, Command::RekeyChild(named("net")));
    pair.settle();
    pair.command(Who::A, Command::RekeyIke(gw()));
    pair.settle();
    pair.advance(Duration::from_secs(6));
    pair.assert_in_use(1, 1);
    assert_eq!(pair.b.engine.statistics().negotiation_failures, 0);
}

#[test]
fn a_nat_moves_both_to_port_4500_and_encapsulates() {
    let forced = |c: &mut crate::config::Connection| c.encap = true;
    for (a, b) in [(true, false), (false, true)] {
        let config_of = |who, on| if on { changed(who, forced) } else { config(who) };
        let mut pair = Pair::new(config_of(Who::A, a), config_of(Who::B, b));
        pair.initiate(Who::A);
        pair.settle();
        pair.assert_in_use(1, 1);
        let ports: Vec<u16> = pair.trace.iter().map(|(_, t)| t.path.local.port()).collect();
        assert_eq!(ports, [500, 500, 4500, 4500]);
        for host in [&pair.a, &pair.b] {
            let slot = host.sad.values().next().unwrap();
            for sa in [slot.inbound.as_ref(), slot.outbound.as_ref()].into_iter().flatten() {
                let encap = sa.encap.expect("not encapsulated");
                assert_eq!((encap.local_port, encap.remote_port), (4500, 4500));
            }
        }
    }
}

#[test]
fn a_nat_before_us_is_kept_awake() {
    let mut pair = Pair::new(config(Who::A), changed(Who::B, |c| c.remote_addrs = vec![]));
    pair.nat = Some("203.0.113.9".parse().unwrap());
    pair.initiate(Who::A);
    pair.settle();
    let views = [&pair.a, &pair.b].map(|host| host.engine.ike_sas(pair.now).remove(0));
    assert!(views[0].nat_local && !views[0].nat_remote);
    assert!(!views[1].nat_local && views[1].nat_remote);
    assert_eq!(views[1].path.remote, super::harness::socket("203.0.113.9", 14_500));
    pair.assert_in_use(1, 1);
    let sa = pair.b.sad.values().next().unwrap().outbound.as_ref().unwrap();
    assert_eq!(sa.remote, "203.0.113.9".parse::<std::net::IpAddr>().unwrap());
    assert_eq!(sa.encap.unwrap().remote_port, 14_500);
    let sent = pair.trace.len();
    pair.advance(Duration::from_secs(61));
    let keepalives = &pair.trace[sent..];
    assert_eq!(keepalives.len(), 3);
    assert!(keepalives.iter().all(|(who, t)| *who == Who::A && t.is_keepalive()));
    assert_eq!(pair.b.engine.statistics().invalid_packets_received, 0);
}

#[test]
fn a_peer_behind_a_nat_is_followed() {
    let mut pair = Pair::new(changed(Who::A, |c| c.encap = true), config(Who::B));
    pair.initiate(Who::A);
    pair.settle();
    let child = *pair.b.sad.keys().next().unwrap();
    let now = pair.now;
    pair.b.engine.handle_peer_moved(now, child, super::harness::socket("192.0.2.1", 61_000));
    pair.pump();
    assert_eq!(pair.b.events.last().unwrap(), "moved to 192.0.2.1:61000");
    assert_eq!(pair.b.engine.ike_sas(now)[0].path.remote.port(), 61_000);
}

/// Children whose messages are long.
fn fragmented(who: Who) -> Config {
    let mut config = changed(who, |c| {
        for n in 0..60 {
            let side = if who == Who::A { 1 } else { 2 };
            let ts = super::harness::ts(&format!("10.{side}.7.{n}/32"));
            change_child(c, |child| child.local_ts.push(ts));
        }
    });
    config.settings.fragment_size = 576;
    config
}

/// RFC 7296 §2.23: only what is new tells where the peer is, and a fragment that came before is not, although its message is not whole yet.
#[test]
fn replayed_messages_and_fragments_move_nobody() {
    let mut b = fragmented(Who::B);
    for connection in &mut b.connections {
        std::sync::Arc::make_mut(connection).remote_addrs = vec![];
    }
    let mut pair = Pair::new(fragmented(Who::A), b);
    pair.nat = Some("203.0.113.9".parse().unwrap());
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
    let seen = |pair: &Pair| pair.b.engine.ike_sas(pair.now)[0].path.remote;
    let before = seen(&pair);
    pair.command(Who::A, Command::RekeyChild(named("net")));
    pair.pump();
    let sent: Vec<_> = pair.to_b.iter().cloned().collect();
    assert!(sent.len() > 2, "{} fragments", sent.len());
    let elsewhere = "203.0.113.66".parse().unwrap();
    for fragment in &sent {
        pair.deliver_next(Who::B);
        assert_eq!(seen(&pair), before);
        let nat = pair.nat.replace(elsewhere);
        pair.deliver(Who::B, fragment);
        assert_eq!(seen(&pair), before);
        pair.nat = nat;
    }
    pair.advance(Duration::from_secs(6));
    pair.assert_in_use(1, 1);
    let trace = core::mem::take(&mut pair.trace);
    pair.nat = Some(elsewhere);
    for (_, old) in trace.iter().filter(|(who, _)| *who == Who::A) {
        pair.deliver(Who::B, old);
    }
    assert_eq!(seen(&pair), before);
    // What is new does.
    pair.command(Who::A, Command::RekeyChild(named("net")));
    pair.settle();
    assert_eq!(seen(&pair).ip(), elsewhere);
}

#[test]
fn large_messages_travel_in_fragments() {
    let mut pair = Pair::new(fragmented(Who::A), fragmented(Who::B));
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
    assert!(pair.trace.len() > 5, "{}", pair.trace.len());
    assert!(pair.trace.iter().all(|(_, t)| t.datagram.len() <= 576));
}

#[test]
fn soft_and_hard_limits_of_the_dataplane() {
    let mut pair = Pair::established();
    let child = *pair.a.sad.keys().next().unwrap();
    let now = pair.now;
    pair.a.engine.handle_expire(now, child, crate::event::Limit::Soft, &mut pair.a.spis);
    pair.advance(Duration::from_secs(6));
    pair.assert_in_use(1, 1);
    assert_eq!(pair.a.engine.statistics().child_rekeys, 1);
    let child = *pair.b.sad.keys().next().unwrap();
    let now = pair.now;
    pair.b.engine.handle_expire(now, child, crate::event::Limit::Hard, &mut pair.b.spis);
    pair.settle();
    pair.assert_in_use(1, 0);
}

/// RFC 7296 §2.8: of many SAs with the same limits, not all ask for a successor at once.
#[test]
fn soft_limits_differ_from_sa_to_sa_and_hard_ones_do_not() {
    use ipsec::sa::Limits;
    let limits = |bytes, packets| Limits { bytes: Some(bytes), packets: Some(packets) };
    let volumes = |who| {
        changed(who, |c| {
            for child in &mut c.children {
                let child = std::sync::Arc::make_mut(child);
                child.rekey_limits = limits(1 << 20, 1000);
                child.rand_limits = limits(1 << 18, 200);
                child.life_limits = limits(1 << 21, 2000);
            }
        })
    };
    let mut pair = Pair::new(volumes(Who::A), volumes(Who::B));
    pair.initiate(Who::A);
    pair.settle();
    let mut seen = Vec::new();
    for _ in 0..20 {
        let (child, slot) = pair.a.sad.iter().next_back().unwrap();
        let (child, halves) = (*child, [&slot.inbound, &slot.outbound]);
        seen.extend(halves.map(|sa| sa.as_ref().unwrap().lifetime));
        let now = pair.now;
        pair.a.engine.handle_expire(now, child, crate::event::Limit::Soft, &mut pair.a.spis);
        pair.advance(Duration::from_secs(6));
    }
    for lifetime in &seen {
        let (bytes, packets) = (lifetime.soft.bytes.unwrap(), lifetime.soft.packets.unwrap());
        assert!(((1 << 20) - (1 << 18)..=1 << 20).contains(&bytes), "{bytes}");
        assert!((800..=1000).contains(&packets), "{packets}");
        assert_eq!(lifetime.hard, limits(1 << 21, 2000));
    }
    let different: std::collections::BTreeSet<_> = seen.iter().map(|l| l.soft.packets).collect();
    assert!(different.len() > 20, "{different:?}");
}

#[test]
fn initial_contact_ends_what_the_peer_forgot() {
    let mut pair = Pair::established();
    // A restarts without a word.
    let fresh = Pair::new(config(Who::A), config(Who::B));
    pair.a = fresh.a;
    pair.a.engine = crate::Engine::new(std::sync::Arc::new(config(Who::A)), [9; 32]);
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
    assert!(pair.b.events.iter().any(|e| e == "ike down: replaced"));
}

#[test]
fn unique_replace_and_keep() {
    let unique = |who, unique| {
        changed(who, |c| {
            c.unique = unique;
            c.name = "gw".to_owned();
        })
    };
    use crate::config::Unique;
    // B accepts a second SA of the same peer by replacing, or refuses it.
    for (policy, survivors) in [(Unique::Replace, 1), (Unique::Keep, 1), (Unique::Never, 2)] {
        let mut pair = Pair::new(unique(Who::A, Unique::Never), unique(Who::B, policy));
        pair.command(Who::A, Command::InitiateIke { connection: "gw".to_owned() });
        pair.settle();
        pair.command(Who::A, Command::InitiateIke { connection: "gw".to_owned() });
        pair.settle();
        pair.assert_in_use(survivors, 0);
    }
}

#[test]
fn keyingtries_begin_anew_with_another_spi() {
    let mut pair = Pair::new(changed(Who::A, |c| c.keyingtries = 2), config(Who::B));
    let request = pair.initiate(Who::A);
    let mut spis = std::collections::BTreeSet::new();
    while !pair.a.done.contains_key(&request) {
        for transmit in pair.to_b.drain(..) {
            spis.insert(transmit.datagram[..8].to_vec());
        }
        pair.now = pair.next_timeout().unwrap();
        pair.timeouts();
    }
    assert_eq!(spis.len(), 2);
    assert_eq!(pair.a.done[&request], Err(Failure::Timeout));
    assert_eq!((pair.now - pair.start).as_secs(), 330, "twice charon's 165 s");
}

#[test]
fn a_failed_acquire_is_held_down_for_packets_only() {
    let mut pair = Pair::with_defaults();
    pair.a.spis.refuse = true;
    let acquire =
        || Command::Acquire { connection: "gw".to_owned(), child: "net".to_owned(), packet: None };
    let request = pair.command(Who::A, acquire());
    pair.settle();
    assert_eq!(pair.a.done[&request], Err(Failure::Dataplane));
    let now = pair.now;
    let refused = pair.a.engine.handle_command(now, acquire(), &mut pair.a.spis);
    assert_eq!(refused, Err(crate::event::CommandError::HeldDown));
    pair.a.spis.refuse = false;
    pair.advance(Duration::from_secs(5));
    let request = pair.command(Who::A, acquire());
    pair.settle();
    pair.assert_done(Who::A, request);
}

#[test]
fn a_packets_selectors_go_first() {
    let mut pair = Pair::with_defaults();
    let one = |a: &str| ipsec::selector::AddressRange::host(a.parse().unwrap());
    let packet = ipsec::selector::Selector {
        local: one("10.1.0.5"),
        remote: one("10.2.0.9"),
        protocol: Some(17),
        local_ports: ipsec::selector::Ports::Range(4000..=4000),
        remote_ports: ipsec::selector::Ports::Range(53..=53),
    };
    pair.command(
        Who::A,
        Command::Acquire {
            connection: "gw".to_owned(),
            child: "net".to_owned(),
            packet: Some(packet),
        },
    );
    pair.settle();
    pair.assert_in_use(1, 1);
    let sa = pair.b.sad.values().next().unwrap().inbound.as_ref().unwrap();
    assert_eq!(sa.selectors.len(), 1);
    assert_eq!(sa.selectors[0].protocol, None);
}
