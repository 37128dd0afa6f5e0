//! IKEv1: main mode, quick mode and what is around them, as ladders.

use super::harness::{Pair, Who, changed, child, config_with, connection, proposals, psk};
use crate::config::{Config, Version};
use crate::event::{ChildTarget, Command, Failure, IkeTarget, Origin};
use crate::proposal::ProposalProtocol;
use crate::random::Random;
use crate::view::IkeState;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

pub(super) const IKE: &str = "aes128-sha256-ecp256";

/// The harness's connection, spoken by IKEv1: the child `net` with PFS, `more` without.
pub(super) fn v1(who: Who) -> Config {
    v1_with(who, IKE, |_| ())
}

pub(super) fn v1_with(
    who: Who,
    ike: &str,
    f: impl FnOnce(&mut crate::config::Connection),
) -> Config {
    let mut connection = connection(who);
    connection.version = Version::Ikev1;
    connection.proposals = proposals(ProposalProtocol::Ike, ike);
    let (near, far) = match who {
        Who::A => ("10.1.0.0/16", "10.2.0.0/16"),
        Who::B => ("10.2.0.0/16", "10.1.0.0/16"),
    };
    connection.children[0] = Arc::new(child("net", near, far, "aes128-sha256-ecp256"));
    f(&mut connection);
    config_with(connection)
}

pub(super) fn pair() -> Pair {
    Pair::new(v1(Who::A), v1(Who::B))
}

pub(super) fn established() -> Pair {
    let mut pair = pair();
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
    pair
}

fn named(child: &str) -> ChildTarget {
    ChildTarget::Named { connection: None, child: child.to_owned() }
}

fn gw() -> IkeTarget {
    IkeTarget::Connection("gw".to_owned())
}

fn commands() -> [Command; 6] {
    let initiate = |child: &str| Command::InitiateChild {
        connection: None,
        child: child.to_owned(),
        origin: Origin::Initiate,
    };
    [
        initiate("net"),
        initiate("more"),
        Command::RekeyIke(gw()),
        Command::RekeyChild(named("net")),
        Command::TerminateChild { target: named("more"), force: false },
        Command::TerminateIke { target: gw(), force: false },
    ]
}

/// RFC 2409 §5.4, §5.5: six messages, then three.
#[test]
fn main_mode_and_quick_mode_take_nine_messages() {
    let mut pair = pair();
    let request = pair.initiate(Who::A);
    for _ in 0..3 {
        assert_eq!(pair.a.states(pair.now), [(IkeState::Connecting, vec![])]);
        pair.deliver_next(Who::B);
        pair.deliver_next(Who::A);
    }
    assert_eq!(pair.trace.len(), 7);
    pair.settle();
    pair.assert_in_use(1, 1);
    assert_eq!(pair.trace.len(), 9);
    let outcome = pair.assert_done(Who::A, request);
    assert!(outcome.ike.is_some() && outcome.pair.is_some());
    for host in [&pair.a, &pair.b] {
        assert_eq!(host.events, ["ike up", "child net up"]);
        let statistics = host.engine.statistics();
        assert_eq!((statistics.ike_main_mode_initial, statistics.ike_quick_mode), (1, 1));
        assert_eq!((statistics.total_get_spi, statistics.key_additions), (1, 1));
        assert_eq!((statistics.invalid_packets_received, statistics.half_open), (0, 0));
    }
}

/// Every hash, key length and group that RFC 2409, RFC 3526 and RFC 5903 have for it.
#[test]
fn suites() {
    for suite in [
        "aes128-sha1-modp2048",
        "aes192-sha384-ecp384",
        "aes256-sha512-ecp521",
        "aes256-sha256-modp3072",
        "aes256-sha256-modp4096",
        "aes192-sha512-modp6144",
        "aes128-sha256-modp8192",
        "aes128gcm16-prfsha256-ecp256,aes128-sha256-ecp256",
    ] {
        let mut pair = Pair::new(v1_with(Who::A, suite, |_| ()), v1_with(Who::B, suite, |_| ()));
        pair.initiate(Who::A);
        pair.settle();
        pair.assert_in_use(1, 1);
    }
}

/// Several quick modes under one main mode, begun by either side, with PFS and without. One for the same traffic as
/// another takes its place: IKEv1 has no other word for a rekey.
#[test]
fn quick_modes_of_both_sides() {
    let mut pair = established();
    for (who, child) in [(Who::B, "more"), (Who::A, "more"), (Who::B, "net")] {
        pair.initiate_child(who, child);
        pair.settle();
    }
    pair.advance(Duration::from_secs(60));
    pair.assert_in_use(1, 2);
    assert_eq!(pair.b.engine.statistics().ike_quick_mode, 4);
}

/// Two quick modes at once do not disturb each other's vectors (RFC 2409 §5.5).
#[test]
fn quick_modes_at_once() {
    let mut pair = established();
    for who in [Who::A, Who::B] {
        pair.initiate_child(who, "net");
        pair.initiate_child(who, "more");
    }
    pair.settle();
    assert_eq!(pair.a.engine.statistics().ike_quick_mode, 5);
    assert_eq!(pair.a.engine.statistics().invalid_packets_received, 0);
    pair.advance(Duration::from_secs(60));
    pair.assert_sads_match(pair.a.sad.len());
    let more = |who: &super::harness::Host| who.sad.len();
    assert!(more(&pair.a) >= 2 && more(&pair.a) == more(&pair.b));
}

/// What each pair of a host does, oldest first.
fn sending(pair: &mut Pair, who: Who) -> Vec<bool> {
    pair.host(who).sad.values().map(|slot| slot.active).collect()
}

#[test]
fn a_child_is_rekeyed_make_before_break() {
    for who in [Who::A, Who::B] {
        let mut pair = established();
        pair.command(who, Command::RekeyChild(named("net")));
        pair.deliver_next(who.other());
        pair.deliver_next(who);
        // The third message is under way, and what is sent now may overtake it.
        assert_eq!(sending(&mut pair, who), [true, false]);
        pair.settle();
        assert_eq!(sending(&mut pair, who), [true, false]);
        assert_eq!(sending(&mut pair, who.other()), [false, true]);
        assert!(pair.send_data(who.other()));
        assert_eq!(sending(&mut pair, who), [true, true], "the newest is taken");
        pair.advance(Duration::ZERO);
        assert_eq!(sending(&mut pair, who), [false, true]);
        pair.advance(Duration::from_secs(60));
        pair.assert_in_use(1, 1);
        for host in [&pair.a, &pair.b] {
            assert_eq!(host.events[..2], ["ike up", "child net up"]);
            assert!(!host.events.iter().any(|event| event.contains("down")), "{:?}", host.events);
        }
        let rekeyed = "child net up rekeyed".to_owned();
        assert!(pair.host(who).events.contains(&rekeyed));
    }
}

/// Packets of both sides between all messages of a rekey, and of one side alone; with the third message lost too: all arrive, also where
/// the responder takes nothing on a new pair before the third message.
#[test]
fn packets_overtake_the_third_message() {
    for who in [Who::A, Who::B] {
        for (senders, lose) in [
            (vec![who, who.other()], false),
            (vec![who], false),
            (vec![who.other()], false),
            (vec![who], true),
            (vec![who.other()], true),
            (vec![who, who.other()], true),
        ] {
            let mut pair = established();
            let send = |pair: &mut Pair| {
                for who in &senders {
                    assert!(pair.send_data(*who), "{:?} {:?}", pair.a.events, pair.b.events);
                }
            };
            pair.command(who, Command::RekeyChild(named("net")));
            send(&mut pair);
            pair.deliver_next(who.other());
            send(&mut pair);
            pair.deliver_next(who);
            send(&mut pair);
            if lose {
                pair.lose_next(who.other());
            }
            send(&mut pair);
            for _ in 0..600 {
                pair.advance(Duration::from_millis(100));
                send(&mut pair);
            }
            // A flow of one direction does not stay on the old pair for ever.
            pair.assert_in_use(1, 1);
            assert_eq!(sending(&mut pair, who), [true]);
        }
    }
}

/// What was to take over goes before it does: the old pair is renewed again. And the old pair goes first: the new one takes over at once.
#[test]
fn one_of_two_goes_before_the_new_one_takes_over() {
    for (goes, stays) in [(0, 1), (1, 0)] {
        let long = |who| {
            v1_with(who, IKE, |c| {
                super::harness::change_child(c, |child| {
                    child.rekey_time = Duration::from_secs(1000);
                    child.life_time = Duration::from_secs(1200);
                });
            })
        };
        let mut pair = Pair::new(long(Who::A), long(Who::B));
        pair.initiate(Who::A);
        pair.settle();
        pair.command(Who::A, Command::RekeyChild(named("net")));
        pair.settle();
        let pairs: Vec<_> = pair.a.sad.keys().copied().collect();
        let target = |at: usize| ChildTarget::Pair(pairs[at]);
        pair.command(Who::A, Command::TerminateChild { target: target(goes), force: false });
        pair.settle();
        assert_eq!(sending(&mut pair, Who::A), [true], "{goes}");
        assert_eq!(pair.a.sad.keys().copied().collect::<Vec<_>>(), [pairs[stays]]);
        let state = pair.a.states(pair.now)[0].1.clone();
        assert_eq!(state, [crate::view::ChildState::Installed]);
    }
}

/// A new main mode takes the children over.
#[test]
fn the_isakmp_sa_is_renewed() {
    for who in [Who::A, Who::B] {
        let mut pair = established();
        let before = pair.a.spi_pairs();
        pair.command(who, Command::RekeyIke(gw()));
        pair.settle();
        pair.advance(Duration::from_secs(60));
        pair.assert_in_use(1, 1);
        assert_eq!(pair.a.spi_pairs(), before);
        assert_eq!(pair.host(who).engine.statistics().ike_main_mode_rekey, 1);
        // And it serves: a quick mode on it.
        pair.initiate_child(who.other(), "more");
        pair.settle();
        pair.assert_in_use(1, 2);
    }
}

#[test]
fn deletes() {
    let mut pair = established();
    pair.initiate_child(Who::B, "more");
    pair.settle();
    pair.command(Who::A, Command::TerminateChild { target: named("more"), force: false });
    pair.settle();
    pair.assert_in_use(1, 1);
    pair.command(Who::B, Command::TerminateIke { target: gw(), force: false });
    pair.settle();
    pair.assert_empty();
    assert!(pair.a.events.iter().any(|event| event.starts_with("ike down")));
}

/// RFC 3947: the NAT is seen, the initiator goes to port 4500, and ESP is encapsulated.
#[test]
fn a_nat_between() {
    let anyone = v1_with(Who::B, IKE, |c| c.remote_addrs.clear());
    let mut pair = Pair::new(v1(Who::A), anyone);
    pair.nat = Some("198.51.100.7".parse().unwrap());
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
    let last = &pair.trace.last().unwrap().1;
    assert_eq!(last.path.local.port(), 4500);
    for host in [&pair.a, &pair.b] {
        assert!(host.sad.values().all(|slot| slot.inbound.as_ref().unwrap().encap.is_some()));
    }
}

/// Another key makes a fifth message that nobody can read (RFC 2409 §5.4).
#[test]
fn a_wrong_key() {
    let mut b = v1(Who::B);
    b.psks = vec![psk("another")];
    let mut pair = Pair::new(v1(Who::A), b);
    let request = pair.initiate(Who::A);
    pair.settle();
    pair.advance(Duration::from_secs(400));
    pair.assert_empty();
    assert!(pair.a.done[&request].is_err());
    let statistics = pair.b.engine.statistics();
    assert_eq!(statistics.authentication_failures_psk, 1);
    assert_eq!(statistics.invalid_packets_received, 1);
    assert_eq!(statistics.ike_main_mode_initial, 0);
}

#[test]
fn no_common_suite() {
    let mut pair = Pair::new(v1(Who::A), v1_with(Who::B, "aes256-sha512-ecp384", |_| ()));
    let request = pair.initiate(Who::A);
    pair.settle();
    pair.advance(Duration::from_secs(400));
    pair.assert_empty();
    assert_eq!(pair.a.done[&request], Err(Failure::NoProposal));
    assert!(pair.b.engine.statistics().negotiation_failures >= 1);
    assert_eq!(pair.b.engine.statistics().half_open, 0);
}

/// A quick mode that is refused leaves the ISAKMP SA.
#[test]
fn no_common_selectors() {
    let other = |c: &mut crate::config::Connection| {
        c.children[0] =
            Arc::new(child("net", "10.3.0.0/16", "10.9.0.0/16", "aes128-sha256-ecp256"));
    };
    let mut pair = Pair::new(v1(Who::A), v1_with(Who::B, IKE, other));
    let request = pair.initiate(Who::A);
    pair.settle();
    pair.advance(Duration::from_secs(200));
    pair.assert_in_use(1, 0);
    assert!(pair.a.done[&request].is_err());
}

/// RFC 9395: IKEv1 is not spoken where no connection says so.
#[test]
fn ikev1_needs_a_connection_that_says_so() {
    let mut pair = Pair::new(v1(Who::A), changed(Who::B, |_| ()));
    pair.initiate(Who::A);
    pair.settle();
    assert!(pair.b.engine.ike_sas(pair.now).is_empty());
    assert_eq!(pair.b.engine.statistics().invalid_packets_received, 1);
}

/// RFC 3706: a silent peer is asked, and given up.
#[test]
fn dead_peer_detection() {
    let with_dpd = |who| v1_with(who, IKE, |c| c.dpd_delay = Duration::from_secs(30));
    let mut pair = Pair::new(with_dpd(Who::A), with_dpd(Who::B));
    pair.initiate(Who::A);
    pair.settle();
    pair.advance(Duration::from_secs(600));
    pair.assert_in_use(1, 1);
    assert!(pair.trace.len() > 9 + 20);
    for _ in 0..60 {
        pair.wait_without_delivery(Duration::from_secs(10));
        while pair.under_way(Who::A) > 0 {
            pair.lose_next(Who::A);
        }
        while pair.under_way(Who::B) > 0 {
            pair.lose_next(Who::B);
        }
    }
    pair.assert_empty();
}

/// A forged notify or delete in clear, and anything recorded that comes again, change nothing.
#[test]
fn nothing_unauthenticated_and_nothing_old_changes_anything() {
    let mut pair = established();
    pair.command(Who::A, Command::RekeyChild(named("net")));
    pair.settle();
    pair.advance(Duration::from_secs(60));
    let sent = pair.trace.clone();
    let spis = (pair.a.spi_pairs(), pair.b.spi_pairs());
    let quick_modes = pair.b.engine.statistics().ike_quick_mode;
    for (from, transmit) in &sent {
        pair.deliver(from.other(), transmit);
        pair.settle();
        // And mangled: each octet of the header's flags, exchange and message ID, and one of the content.
        for at in [18, 19, 20, 23, transmit.datagram.len() - 1] {
            let mut forged = transmit.clone();
            forged.datagram[at] ^= 1;
            pair.deliver(from.other(), &forged);
            pair.settle();
        }
    }
    pair.advance(Duration::from_secs(60));
    pair.assert_in_use(1, 1);
    assert_eq!((pair.a.spi_pairs(), pair.b.spi_pairs()), spis);
    assert_eq!(pair.b.engine.statistics().ike_quick_mode, quick_modes);
}

/// A flood of first messages costs a bounded table, no exponentiation and no message longer than what it answers.
#[test]
fn a_flood_of_first_messages() {
    let anyone = v1_with(Who::B, IKE, |c| c.remote_addrs.clear());
    let mut pair = Pair::new(v1(Who::A), anyone);
    pair.initiate(Who::A);
    let first = pair.to_b.pop_front().unwrap();
    for n in 0..10_000_u32 {
        let mut forged = first.clone();
        forged.datagram[..4].copy_from_slice(&n.to_be_bytes());
        let [_, b, c, d] = n.to_be_bytes();
        forged.path.local.set_ip(core::net::IpAddr::from([198, b, c, d]));
        let before = pair.trace.len();
        pair.deliver(Who::B, &forged);
        for (_, answer) in &pair.trace[before..] {
            assert!(answer.datagram.len() <= forged.datagram.len());
        }
        pair.to_a.clear();
    }
    let statistics = pair.b.engine.statistics();
    let limit = pair.b.engine.config().settings.half_open_limit;
    assert!(statistics.half_open <= u64::try_from(limit / 2).unwrap(), "{}", statistics.half_open);
    assert!(statistics.initiations_dropped > 0);
    assert!(pair.b.jobs.is_empty());
    // And it passes.
    pair.advance(Duration::from_secs(120));
    assert_eq!(pair.b.engine.statistics().half_open, 0);
}

/// Negotiation, rekeys and delete, with every single message lost in turn.
#[test]
fn loss_at_every_message() {
    let script = |pair: &mut Pair, lose: usize| {
        let mut sent = 0;
        let mut run = |pair: &mut Pair, for_time: Duration| {
            let until = pair.now + for_time;
            loop {
                for who in [Who::B, Who::A] {
                    while pair.under_way(who) > 0 {
                        sent += 1;
                        if sent - 1 == lose {
                            pair.lose_next(who);
                        } else {
                            pair.deliver_next(who);
                        }
                    }
                }
                if pair.under_way(Who::A) + pair.under_way(Who::B) > 0 {
                    continue;
                }
                match pair.next_timeout().filter(|at| *at <= until) {
                    Some(at) => {
                        pair.now = pair.now.max(at);
                        pair.timeouts();
                    }
                    None => break,
                }
            }
            pair.now = until;
        };
        let wait = Duration::from_secs(60);
        let [net, more, ike, child, ..] = commands();
        pair.command(Who::A, net);
        run(pair, wait);
        for (who, command) in
            [(Who::B, more), (Who::A, child), (Who::B, ike.clone()), (Who::A, ike)]
        {
            pair.command(who, command);
            run(pair, wait);
        }
        sent
    };
    let mut whole = pair();
    let messages = script(&mut whole, usize::MAX);
    whole.assert_in_use(1, 2);
    for lose in 0..messages {
        let with_dpd = |who| v1_with(who, IKE, |c| c.dpd_delay = Duration::from_secs(30));
        let mut pair = Pair::new(with_dpd(Who::A), with_dpd(Who::B));
        script(&mut pair, lose);
        pair.advance(Duration::from_secs(600));
        let up = |host: &super::harness::Host| {
            let down = host.events.iter().filter(|event| event.contains("child more down")).count();
            let up = host.events.iter().filter(|event| *event == "child more up").count();
            up > down
        };
        assert!(
            up(&pair.a) && up(&pair.b),
            "message {lose}: {:?} {:?}",
            pair.a.events,
            pair.b.events
        );
    }
}

#[derive(Clone, Debug)]
enum Act {
    Command(Who, usize),
    Steps(u8),
    Lose(Who),
    Repeat(Who),
    Mangle(Who, u16, u8),
    Wait(u16),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let who = || prop_oneof![Just(Who::A), Just(Who::B)];
    let act = prop_oneof![
        3 => (who(), 0..6usize).prop_map(|(who, n)| Act::Command(who, n)),
        6 => (1..8u8).prop_map(Act::Steps),
        2 => who().prop_map(Act::Lose),
        2 => who().prop_map(Act::Repeat),
        2 => (who(), any::<u16>(), 1..=255u8).prop_map(|(who, at, by)| Act::Mangle(who, at, by)),
        2 => (0..60u16).prop_map(Act::Wait),
    ];
    proptest::collection::vec(act, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Whatever the link and the operators do, no SPI is held without an SA, and in the end nothing is left. (IKEv1's
    /// deletes are not answered: that both sides have the same is for the dead peer detection and the lifetimes to see to.)
    #[test]
    fn nothing_leaks(seed in 1..250u8, acts in acts()) {
        let with_dpd = |who| v1_with(who, IKE, |c| c.dpd_delay = Duration::from_secs(30));
        let mut pair = Pair::seeded_with(seed, with_dpd(Who::A), with_dpd(Who::B));
        let mut random = Random::new([seed; 32]);
        for act in acts {
            match act {
                Act::Command(who, n) => {
                    let command = commands()[n].clone();
                    let now = pair.now;
                    let host = pair.host(who);
                    let _ = host.engine.handle_command(now, command, &mut host.spis);
                    pair.pump();
                }
                Act::Steps(n) => {
                    for _ in 0..n {
                        pair.random_step(&mut random);
                    }
                }
                Act::Lose(who) => pair.lose_next(who),
                Act::Repeat(who) => pair.repeat_any(who, &mut random),
                Act::Mangle(who, at, by) => {
                    let sent = pair.trace.iter().rev().find(|(from, _)| *from != who).cloned();
                    if let Some((_, mut transmit)) = sent {
                        let at = usize::from(at) % transmit.datagram.len();
                        transmit.datagram[at] ^= by;
                        pair.deliver(who, &transmit);
                    }
                }
                Act::Wait(seconds) => pair.wait_without_delivery(Duration::from_secs(seconds.into())),
            }
        }
        pair.a.hold_jobs = false;
        pair.b.hold_jobs = false;
        pair.settle();
        pair.advance(Duration::from_secs(900));
        for host in [&pair.a, &pair.b] {
            let installed: std::collections::BTreeSet<u32> =
                host.sad.values().filter_map(|s| s.inbound.as_ref()).map(|sa| sa.spi.get()).collect();
            prop_assert_eq!(&host.spis.held, &installed);
        }
        for who in [Who::A, Who::B] {
            let now = pair.now;
            let host = pair.host(who);
            let _ = host.engine.handle_command(now, commands()[5].clone(), &mut host.spis);
            pair.pump();
        }
        pair.settle();
        pair.advance(Duration::from_secs(300));
        pair.assert_empty();
    }
}
