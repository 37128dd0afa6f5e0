//! Both sides act at once (RFC 7296 §2.8, §2.25): attacks.json `ike2-simultaneous`.

use super::harness::{Host, Pair, Who};
use crate::event::{ChildTarget, Command, IkeTarget, Origin};
use crate::message::Message;
use crate::random::Random;
use crate::sa::Sa;
use crate::v2::sa::State;
use crate::view::ChildState;
use std::time::Duration;

fn gw() -> IkeTarget {
    IkeTarget::Connection("gw".to_owned())
}

fn net() -> ChildTarget {
    ChildTarget::Named { connection: None, child: "net".to_owned() }
}

fn rekey_child() -> Command {
    Command::RekeyChild(net())
}

fn rekey_ike() -> Command {
    Command::RekeyIke(gw())
}

fn delete_child() -> Command {
    Command::TerminateChild { target: net(), force: false }
}

fn delete_ike() -> Command {
    Command::TerminateIke { target: gw(), force: false }
}

fn create_child() -> Command {
    let child = "more".to_owned();
    Command::InitiateChild { connection: None, child, origin: Origin::Initiate }
}

/// Enough for what was put off (10 to 30 s) and for lingering pairs.
const AFTER: Duration = Duration::from_secs(60);

/// Both sides of the collision run whatever the nonces are: some seeds let A win, some B.
fn seeds() -> impl Iterator<Item = u8> {
    (1..=8).map(|n| n * 10)
}

fn begun(seed: u8, a: Command, b: Command) -> Pair {
    let mut pair = Pair::seeded(seed);
    pair.initiate(Who::A);
    pair.settle();
    pair.command(Who::A, a);
    pair.command(Who::B, b);
    assert_eq!((pair.to_a.len(), pair.to_b.len()), (1, 1), "both requests are under way");
    pair
}

fn rekeys(host: &Host) -> (u64, u64) {
    let statistics = host.engine.statistics();
    (statistics.child_rekeys, statistics.ike_main_mode_rekey)
}

/// The nonce and the sender's SPI in a protected message, read with the receiver's keys.
fn nonce_and_spi(pair: &mut Pair, at: usize) -> (Vec<u8>, u32) {
    let (from, transmit) = pair.trace[at].clone();
    let host = pair.host(from.other());
    let ike = host.engine.table.ids()[0];
    let Sa::V2(sa) = host.engine.table.get(ike).unwrap() else { panic!() };
    let State::Established(state) = &sa.state else { panic!() };
    let Ok(Message::V2(message)) = Message::parse(&transmit.datagram) else { panic!() };
    let opened = state.keys.open(&message).unwrap();
    let payloads = opened.payloads().unwrap();
    let spi = payloads.sa().unwrap().proposals().next().unwrap().esp_spi().unwrap();
    (payloads.nonce().unwrap().data().to_vec(), u32::from_be_bytes(spi))
}

/// Section 2.8.1: the SA made with the lowest of the four nonces goes, by the side that made it.
#[test]
fn child_rekey_meets_child_rekey() {
    let mut winners = [0, 0];
    for seed in seeds() {
        let mut pair = begun(seed, rekey_child(), rekey_child());
        // HDR, SK {N(REKEY_SA), SA, Ni, KEi, TSi, TSr}  -->  and  <--  the same
        pair.deliver_next(Who::B);
        pair.deliver_next(Who::A);
        for host in [&pair.a, &pair.b] {
            let (_, children) = &host.states(pair.now)[0];
            assert!(children.contains(&ChildState::Rekeyed));
        }
        // A's request and B's, B's answer and A's: whose exchange has the lowest of the four nonces?
        let last = pair.trace.len() - 4;
        let read: Vec<_> = (last..last + 4).map(|at| nonce_and_spi(&mut pair, at)).collect();
        let lowest = read.iter().map(|(nonce, _)| nonce).min().unwrap();
        let a_loses = read[0].0 == *lowest || read[2].0 == *lowest;
        let survivor = if a_loses { read[3].1 } else { read[0].1 };
        // HDR, SK {SA, Nr, KEr, TSi, TSr}  -->  and  <--  the same; then the deletes.
        pair.settle();
        let sent_delete = pair.trace.iter().rev().find(|(_, t)| t.datagram[18] == 37);
        assert!(sent_delete.is_some());
        let active: Vec<_> = pair.a.sad.iter().filter(|(_, slot)| slot.active).collect();
        assert_eq!(active.len(), 1, "one outbound SA is in use");
        winners[usize::from(pair.a.sad.len() > pair.b.sad.len())] += 1;
        pair.advance(AFTER);
        pair.assert_in_use(1, 1);
        assert_eq!(pair.a.spi_pairs()[0].0, Some(survivor));
        assert_eq!((rekeys(&pair.a), rekeys(&pair.b)), ((1, 0), (1, 0)), "a collision counts once");
    }
    assert!(winners[0] > 0 && winners[1] > 0, "{winners:?}");
}

/// Section 2.8.1, the second ladder: one side's request is lost at first, so that it notices the collision late.
#[test]
fn child_rekey_meets_a_delayed_child_rekey() {
    for seed in seeds() {
        let mut pair = begun(seed, rekey_child(), rekey_child());
        let delayed = pair.to_a.pop_front().unwrap();
        // A's rekey goes through, answer and delete of the old SA included …
        pair.settle();
        // … and then B's request comes: the SA is gone, which B is told.
        pair.deliver(Who::A, &delayed);
        pair.settle();
        pair.advance(AFTER);
        pair.assert_in_use(1, 1);
        assert_eq!(rekeys(&pair.a).0, 1, "{:?}", pair.a.events);
    }
}

#[test]
fn child_rekey_meets_child_delete() {
    for seed in seeds() {
        for swapped in [false, true] {
            let (a, b) = if swapped {
                (delete_child(), rekey_child())
            } else {
                (rekey_child(), delete_child())
            };
            let mut pair = begun(seed, a, b);
            // §2.25.1: the delete is answered as usual, the rekey with TEMPORARY_FAILURE.
            pair.settle();
            pair.advance(AFTER);
            pair.assert_in_use(1, 0);
        }
    }
}

#[test]
fn child_delete_meets_child_delete() {
    let mut pair = begun(10, delete_child(), delete_child());
    pair.settle();
    pair.assert_in_use(1, 0);
    // Two requests, two empty answers (§1.4.1).
    assert_eq!(pair.trace.len(), 4 + 4);
}

/// §2.25.1: an IKE SA is not rekeyed while a child is; both are told to come again.
#[test]
fn child_rekey_meets_ike_rekey() {
    for seed in seeds() {
        let mut pair = begun(seed, rekey_child(), rekey_ike());
        pair.settle();
        assert_eq!((rekeys(&pair.a), rekeys(&pair.b)), ((0, 0), (0, 0)));
        pair.advance(AFTER);
        pair.assert_in_use(1, 1);
        assert_eq!((rekeys(&pair.a), rekeys(&pair.b)), ((1, 1), (1, 1)));
        assert_eq!(pair.a.engine.statistics().negotiation_failures, 0);
    }
}

#[test]
fn child_create_meets_ike_rekey() {
    for seed in seeds() {
        let mut pair = begun(seed, create_child(), rekey_ike());
        pair.settle();
        pair.advance(AFTER);
        pair.assert_in_use(1, 2);
        assert_eq!(rekeys(&pair.a), (0, 1));
    }
}

/// RFC 7296 §2.8.2, with the children inherited by the survivor.
#[test]
fn ike_rekey_meets_ike_rekey() {
    let mut survivors = [0, 0];
    for seed in seeds() {
        let mut pair = begun(seed, rekey_ike(), rekey_ike());
        let children = pair.a.spi_pairs();
        pair.settle();
        pair.assert_in_use(1, 1);
        assert_eq!(pair.a.spi_pairs(), children);
        assert_eq!((rekeys(&pair.a), rekeys(&pair.b)), ((0, 1), (0, 1)));
        let role = pair.a.engine.ike_sas(pair.now)[0].role;
        survivors[usize::from(role == crate::view::Role::Initiator)] += 1;
        pair.command(Who::B, rekey_child());
        pair.settle();
        pair.advance(AFTER);
        pair.assert_in_use(1, 1);
    }
    assert!(survivors[0] > 0 && survivors[1] > 0, "{survivors:?}");
}

/// The peer's request is late: §2.25.2, it meets an SA that is being closed.
#[test]
fn ike_rekey_meets_a_delayed_ike_rekey() {
    for seed in seeds() {
        let mut pair = begun(seed, rekey_ike(), rekey_ike());
        let delayed = pair.to_a.pop_front().unwrap();
        pair.deliver_next(Who::B);
        // B noticed the collision, A did not: A moves the children and closes the old SA.
        pair.deliver_next(Who::A);
        pair.deliver(Who::A, &delayed);
        pair.settle();
        pair.advance(AFTER);
        pair.assert_in_use(1, 1);
    }
}

#[test]
fn ike_delete_meets_everything() {
    for other in [rekey_child(), rekey_ike(), delete_child(), create_child(), delete_ike()] {
        let mut pair = begun(20, delete_ike(), other.clone());
        pair.settle();
        pair.advance(AFTER);
        pair.assert_empty();
        let mut pair = begun(30, other, delete_ike());
        pair.settle();
        pair.advance(AFTER);
        pair.assert_empty();
    }
}

#[test]
fn child_create_meets_child_create() {
    let mut pair = begun(40, create_child(), create_child());
    pair.settle();
    pair.advance(AFTER);
    // Both are kept: nothing says that they are the same.
    pair.assert_in_use(1, 3);
}

/// §2.25.1: CHILD_SA_NOT_FOUND, and what the peer lost is made anew.
#[test]
fn a_rekey_of_a_child_that_the_peer_has_not() {
    let mut pair = Pair::established();
    pair.command(Who::B, Command::TerminateChild { target: net(), force: true });
    pair.to_a.clear();
    pair.command(Who::A, rekey_child());
    pair.deliver_next(Who::B);
    pair.settle();
    // B's delete comes late, for a pair that is not there any more.
    pair.advance(AFTER);
    pair.assert_in_use(1, 1);
    assert!(pair.a.events.contains(&"child net down: deleted by the peer".to_owned()));
}

/// A message for the successor comes before the initiator has computed its keys: it waits.
#[test]
fn the_successor_is_used_before_its_keys_are_computed() {
    let mut pair = Pair::established();
    pair.command(Who::A, rekey_ike());
    pair.deliver_next(Who::B);
    pair.a.hold_jobs = true;
    pair.deliver_next(Who::A);
    // B begins at once on the new IKE SA.
    pair.command(Who::B, rekey_child());
    pair.deliver_next(Who::A);
    assert_eq!(pair.a.engine.statistics().active_receive, 1);
    pair.a.hold_jobs = false;
    pair.settle();
    assert_eq!(pair.a.engine.statistics().active_receive, 0);
    pair.advance(AFTER);
    pair.assert_in_use(1, 1);
    assert_eq!((rekeys(&pair.a), rekeys(&pair.b)), ((1, 1), (1, 1)));
    assert_eq!(pair.b.engine.statistics().retransmissions, 0);
}

/// Every pair of commands under every order of delivery and of jobs that the seeds give, without loss.
#[test]
fn every_two_commands_in_any_order() {
    let commands = [rekey_child, rekey_ike, delete_child, delete_ike, create_child];
    for (i, a) in commands.iter().enumerate() {
        for (j, b) in commands.iter().enumerate() {
            for seed in 0..12u8 {
                let mut random = Random::new([seed + 1; 32]);
                let mut pair = Pair::seeded(seed.wrapping_mul(17) + 3);
                pair.initiate(Who::A);
                pair.settle();
                pair.command(Who::A, a());
                pair.command(Who::B, b());
                let mut steps = 0;
                while !pair.is_quiet() && steps < 200 {
                    steps += 1;
                    pair.random_step(&mut random);
                }
                pair.a.hold_jobs = false;
                pair.b.hold_jobs = false;
                pair.settle();
                pair.advance(Duration::from_secs(200));
                pair.assert_consistent(&format!("commands {i} {j}, seed {seed}"));
            }
        }
    }
}
