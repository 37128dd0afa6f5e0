//! A link that loses, repeats and reorders.

use super::harness::{Pair, Who, changed};
use crate::event::{ChildTarget, Command, IkeTarget, Origin};
use crate::random::Random;
use proptest::prelude::*;
use std::time::Duration;

fn commands() -> [Command; 6] {
    let gw = || IkeTarget::Connection("gw".to_owned());
    let named = |child: &str| ChildTarget::Named { connection: None, child: child.to_owned() };
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

/// Negotiation, child rekey, IKE rekey and delete, with every single message lost in turn.
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
        let wait = Duration::from_secs(30);
        let [net, more, ike, child, delete, _] = commands();
        pair.command(Who::A, net);
        run(pair, wait);
        for (who, command) in [
            (Who::B, more),
            (Who::A, child),
            (Who::B, ike.clone()),
            (Who::B, delete),
            (Who::A, ike),
        ] {
            pair.command(who, command);
            run(pair, wait);
        }
        pair.assert_in_use(1, 1);
        sent
    };
    let mut pair = Pair::with_defaults();
    let messages = script(&mut pair, usize::MAX);
    assert_eq!(messages, 4 + 2 + 4 + 4 + 2 + 4);
    for lose in 0..messages {
        let mut pair = Pair::with_defaults();
        script(&mut pair, lose);
        let statistics = [pair.a.engine.statistics(), pair.b.engine.statistics()];
        assert!(statistics.iter().any(|s| s.retransmissions == 1), "message {lose}");
    }
}

/// A repeated request is answered with the same bytes and done once.
#[test]
fn answers_are_repeated_byte_for_byte() {
    let mut pair = Pair::with_defaults();
    pair.initiate(Who::A);
    for _ in 0..2 {
        let request = pair.to_b[0].clone();
        pair.deliver_next(Who::B);
        let answer = pair.to_a[0].clone();
        pair.deliver(Who::B, &request);
        assert_eq!(pair.to_a[1], answer);
        pair.deliver_next(Who::A);
        // And the repeated answer is nothing new.
        pair.deliver_next(Who::A);
    }
    pair.assert_in_use(1, 1);
    assert_eq!(pair.b.engine.statistics().answers_repeated, 2);
    assert_eq!(pair.b.engine.statistics().ike_quick_mode, 1);
}

/// The peer closes a Child SA before its answer, which tells of it, has come: the SA does not outlive that delete
/// (RFC 7296 §1.4.1).
#[test]
fn a_delete_overtakes_the_answer() {
    for (rekey, left) in [(false, 1), (true, 0)] {
        let mut pair = Pair::established();
        let [_, more, _, rekey_net, delete_more, _] = commands();
        let (begin, end) = if rekey {
            let target = ChildTarget::Named { connection: None, child: "net".to_owned() };
            (rekey_net, Command::TerminateChild { target, force: false })
        } else {
            (more, delete_more)
        };
        pair.command(Who::B, begin);
        pair.deliver_next(Who::A);
        pair.command(Who::A, end);
        let answer = pair.to_b.pop_front().unwrap();
        pair.settle();
        pair.deliver(Who::B, &answer);
        pair.settle();
        pair.advance(Duration::from_secs(60));
        pair.assert_in_use(1, left);
    }
}

/// The peer rekeys a Child SA that we have yet to hear of: it is asked to wait, and nothing is lost (RFC 7296 §2.25).
#[test]
fn a_rekey_overtakes_the_answer() {
    let mut pair = Pair::established();
    let [_, more, ..] = commands();
    pair.command(Who::B, more);
    pair.deliver_next(Who::A);
    let target = ChildTarget::Named { connection: None, child: "more".to_owned() };
    pair.command(Who::A, Command::RekeyChild(target));
    let answer = pair.to_b.pop_front().unwrap();
    pair.settle();
    pair.deliver(Who::B, &answer);
    pair.settle();
    pair.assert_in_use(1, 2);
    pair.advance(Duration::from_secs(60));
    pair.assert_in_use(1, 2);
    assert!(pair.a.events.iter().any(|event| event == "child more up rekeyed"));
    assert!(!pair.a.events.iter().any(|event| event.contains("down")), "{:?}", pair.a.events);
}

/// Both sides rekey the IKE SA, one request is lost, and the other side goes on with its successor: what it asks there
/// waits until the collision is decided here too (RFC 7296 §2.8.2).
#[test]
fn a_successor_is_used_before_the_collision_is_seen() {
    let mut pair = Pair::established();
    let [_, _, rekey_ike, rekey_net, ..] = commands();
    pair.command(Who::A, rekey_ike.clone());
    pair.lose_next(Who::B);
    pair.command(Who::B, rekey_ike);
    pair.command(Who::B, rekey_net);
    pair.settle();
    pair.advance(Duration::from_secs(60));
    pair.assert_in_use(1, 1);
    for host in [&pair.a, &pair.b] {
        assert!(host.events.iter().any(|event| event == "child net up rekeyed"));
        assert!(!host.events.iter().any(|event| event.contains("down")), "{:?}", host.events);
    }
}

#[derive(Clone, Debug)]
enum Act {
    Command(Who, usize),
    Steps(u8),
    Lose(Who),
    Repeat(Who),
    Wait(u16),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let who = || prop_oneof![Just(Who::A), Just(Who::B)];
    let act = prop_oneof![
        3 => (who(), 0..6usize).prop_map(|(who, n)| Act::Command(who, n)),
        6 => (1..8u8).prop_map(Act::Steps),
        2 => who().prop_map(Act::Lose),
        2 => who().prop_map(Act::Repeat),
        2 => (0..60u16).prop_map(Act::Wait),
    ];
    proptest::collection::vec(act, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Whatever the link and the operators do: once the link works again and the liveness checks have had their time, both
    /// sides have the same SAs, and no SPI is held without one.
    #[test]
    fn both_sides_end_alike(seed in 1..250u8, acts in acts()) {
        let with_liveness = |who| changed(who, |c| c.dpd_delay = Duration::from_secs(30));
        let mut pair = Pair::seeded_with(seed, with_liveness(Who::A), with_liveness(Who::B));
        let mut random = Random::new([seed; 32]);
        for act in acts {
            match act {
                Act::Command(who, n) => {
                    let command = commands()[n].clone();
                    let now = pair.now;
                    let host = pair.host(who);
                    // Most are refused when there is nothing to rekey or delete.
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
                Act::Wait(seconds) => pair.wait_without_delivery(Duration::from_secs(seconds.into())),
            }
        }
        pair.a.hold_jobs = false;
        pair.b.hold_jobs = false;
        pair.settle();
        // The longest way to the end: a request given up after 165 s, twice over, and what was put off.
        pair.advance(Duration::from_secs(900));
        pair.assert_consistent("after all");
        prop_assert!(pair.trace.len() < 5000);
    }
}
