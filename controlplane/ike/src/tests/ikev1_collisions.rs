//! Both sides at once: main modes, quick modes, renewals and deletes that cross (RFC 2409 has no word on it).

use super::harness::{Host, Pair, Who, change_child};
use super::ikev1::{IKE, v1_with};
use crate::config::Config;
use crate::event::{ChildTarget, Command, IkeTarget, Origin};
use crate::random::Random;
use crate::view::IkeState;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Duration;

/// One end, with everything that ends what the other side has forgotten: IKEv1's deletes have no answer.
fn end(who: Who) -> Config {
    v1_with(who, IKE, |c| {
        c.dpd_delay = Duration::from_secs(30);
        c.reauth_time = Duration::from_secs(1500);
        c.over_time = Duration::from_secs(300);
        for at in 0..c.children.len() {
            c.children.swap(0, at);
            change_child(c, |child| {
                child.rekey_time = Duration::from_secs(1000);
                child.life_time = Duration::from_secs(1200);
                child.rand_time = Duration::from_secs(100);
            });
            c.children.swap(0, at);
        }
    })
}

fn pair(seed: u8) -> Pair {
    Pair::seeded_with(seed, end(Who::A), end(Who::B))
}

fn established(seed: u8) -> Pair {
    let mut pair = pair(seed);
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
    pair.advance(Duration::from_secs(1));
    pair
}

fn target(child: &str) -> ChildTarget {
    ChildTarget::Named { connection: None, child: child.to_owned() }
}

fn initiate(child: &str) -> Command {
    let child = child.to_owned();
    Command::InitiateChild { connection: None, child, origin: Origin::Initiate }
}

fn rekey_child() -> Command {
    Command::RekeyChild(target("net"))
}

fn gw() -> IkeTarget {
    IkeTarget::Connection("gw".to_owned())
}

fn renew() -> Command {
    Command::RekeyIke(gw())
}

fn delete_child() -> Command {
    Command::TerminateChild { target: target("net"), force: false }
}

fn delete_ike() -> Command {
    Command::TerminateIke { target: gw(), force: false }
}

/// Does a command, unless there is nothing left that it is about.
fn attempt(pair: &mut Pair, who: Who, command: Command) {
    let now = pair.now;
    let host = pair.host(who);
    let _ = host.engine.handle_command(now, command, &mut host.spis);
    pair.pump();
}

/// Whatever one side sends on, the other receives; SPIs are held for what is installed; each ISAKMP SA in use is there at both.
#[track_caller]
fn assert_alike(pair: &Pair, what: &str) {
    for (from, to) in [(&pair.a, &pair.b), (&pair.b, &pair.a)] {
        let inbound = |host: &Host| -> BTreeSet<u32> {
            host.sad.values().filter_map(|s| s.inbound.as_ref()).map(|sa| sa.spi.get()).collect()
        };
        assert_eq!(from.spis.held, inbound(from), "{what}: SPIs leak");
        for slot in from.sad.values().filter_map(|slot| slot.outbound.as_ref()) {
            assert!(
                inbound(to).contains(&slot.spi.get()),
                "{what}: nobody receives {:?}",
                slot.spi
            );
        }
    }
    // Which of two that both sides began at once has the children they can see differently after losses.
    let sas = |host: &Host, all: bool| {
        let views = host.engine.ike_sas(pair.now);
        let up = views.iter().filter(|sa| match sa.state {
            IkeState::Established | IkeState::Rekeying => true,
            IkeState::Rekeyed => all,
            _ => false,
        });
        up.map(|sa| (sa.spi_i, sa.spi_r)).collect::<BTreeSet<_>>()
    };
    for (from, to) in [(&pair.a, &pair.b), (&pair.b, &pair.a)] {
        assert!(
            sas(from, false).is_subset(&sas(to, true)),
            "{what}: the other has no such ISAKMP SA"
        );
        assert!(sas(from, true).len() <= 4, "{what}: more and more");
    }
}

/// `net` is up at both sides, and what each sends the other takes.
#[track_caller]
fn assert_serves(pair: &Pair, what: &str) {
    assert_alike(pair, what);
    for host in [&pair.a, &pair.b] {
        assert!(host.sad.values().any(|slot| slot.active), "{what}: {:?}", host.events);
    }
}

/// Did the traffic of `net` ever have no way, once it had one?
fn went_down(host: &Host) -> bool {
    host.events.iter().any(|event| event.starts_with("child net down"))
}

/// Whether what each side would send now has a receiver: of several SAs in use the last one is taken.
fn flows(pair: &Pair) -> bool {
    [(&pair.a, &pair.b), (&pair.b, &pair.a)].into_iter().all(|(from, to)| {
        let last =
            from.sad.values().rfind(|slot| slot.active).and_then(|slot| slot.outbound.as_ref());
        last.is_some_and(|sa| {
            to.sad
                .values()
                .filter_map(|slot| slot.inbound.as_ref())
                .any(|there| there.spi == sa.spi)
        })
    })
}

/// Whether somebody said that something is to end.
fn is_ending(pair: &Pair) -> bool {
    [&pair.a, &pair.b].iter().any(|host| went_down(host))
}

/// Delivers in an order that `random` says, losing nothing, until nothing is under way.
fn shuffle(pair: &mut Pair, random: &mut Random) {
    let flowed = flows(pair) && !is_ending(pair);
    while !pair.is_quiet() {
        pair.random_step(random);
        assert!(!flowed || flows(pair), "a gap: {:?} {:?}", pair.a.events, pair.b.events);
    }
    (pair.a.hold_jobs, pair.b.hold_jobs) = (false, false);
    pair.settle();
}

/// Every way in which messages of both sides can cross: a hundred orders, with twenty sets of SPIs and cookies.
fn ladders(first: impl Fn(&mut Pair), begin: impl Fn(u8) -> Pair, then: impl Fn(&mut Pair, &str)) {
    for seed in 1..=100_u8 {
        if std::env::var("SEED").is_ok_and(|s| s != seed.to_string()) {
            continue;
        }
        let mut pair = begin(1 + seed % 20);
        first(&mut pair);
        let mut random = Random::new([seed; 32]);
        shuffle(&mut pair, &mut random);
        let what = format!("order {seed}");
        then(&mut pair, &what);
    }
}

/// Both begin at once, as two gateways do whose link comes back.
#[test]
fn simultaneous_main_modes() {
    let first = |pair: &mut Pair| {
        pair.command(Who::A, initiate("net"));
        pair.command(Who::B, initiate("net"));
    };
    ladders(first, pair, |pair, what| {
        assert_serves(pair, what);
        pair.advance(Duration::from_secs(5000));
        assert_serves(pair, what);
        assert!(
            !went_down(&pair.a) && !went_down(&pair.b),
            "{what}: {:?} {:?}",
            pair.a.events,
            pair.b.events
        );
        // One ISAKMP SA after some renewals, or two that live side by side; never more and more.
        assert!(pair.a.engine.ike_sas(pair.now).len() <= 2, "{what}");
        assert!(pair.a.sad.len() <= 4, "{what}: {}", pair.a.sad.len());
    });
}

/// Both ask for the same child at once under one ISAKMP SA.
#[test]
fn simultaneous_quick_modes() {
    let first = |pair: &mut Pair| {
        pair.command(Who::A, initiate("more"));
        pair.command(Who::B, initiate("more"));
    };
    ladders(first, established, |pair, what| {
        assert_serves(pair, what);
        pair.advance(Duration::from_secs(5000));
        assert_serves(pair, what);
        assert!(pair.a.sad.len() <= 4, "{what}: {}", pair.a.sad.len());
    });
}

/// Both renew the same child at once.
#[test]
fn simultaneous_quick_mode_rekeys() {
    let first = |pair: &mut Pair| {
        pair.command(Who::A, rekey_child());
        pair.command(Who::B, rekey_child());
    };
    ladders(first, established, |pair, what| {
        assert_serves(pair, what);
        pair.advance(Duration::from_secs(60));
        assert_serves(pair, what);
        assert!(pair.a.sad.len() <= 2, "{what}: {}", pair.a.sad.len());
        pair.advance(Duration::from_secs(3000));
        assert_serves(pair, what);
        assert!(!went_down(&pair.a) && !went_down(&pair.b), "{what}");
    });
}

/// Both renew the ISAKMP SA at once.
#[test]
fn simultaneous_renewals() {
    let first = |pair: &mut Pair| {
        pair.command(Who::A, renew());
        pair.command(Who::B, renew());
    };
    ladders(first, established, |pair, what| {
        assert_serves(pair, what);
        pair.advance(Duration::from_secs(60));
        assert_serves(pair, what);
        assert!(
            !went_down(&pair.a) && !went_down(&pair.b),
            "{what}: {:?} {:?}",
            pair.a.events,
            pair.b.events
        );
        pair.advance(Duration::from_secs(5000));
        assert_serves(pair, what);
        assert!(
            !went_down(&pair.a) && !went_down(&pair.b),
            "{what}: {:?} {:?}",
            pair.a.events,
            pair.b.events
        );
    });
}

/// Both kinds at once from both sides.
#[test]
fn everything_is_renewed_at_once() {
    let first = |pair: &mut Pair| {
        for who in [Who::A, Who::B] {
            pair.command(who, renew());
            pair.command(who, rekey_child());
        }
    };
    ladders(first, established, |pair, what| {
        assert_serves(pair, what);
        pair.advance(Duration::from_secs(60));
        assert_serves(pair, what);
        assert!(
            !went_down(&pair.a) && !went_down(&pair.b),
            "{what}: {:?} {:?}",
            pair.a.events,
            pair.b.events
        );
        pair.advance(Duration::from_secs(5000));
        assert_serves(pair, what);
    });
}

/// A new main mode takes the children over while one of them is being renewed, by the same side or by the other, and the quick mode
/// is at any of its messages: the renewed pair ends, and nothing that serves does.
#[test]
fn a_renewal_collides_with_a_quick_mode() {
    for renewing in [Who::A, Who::B] {
        for asking in [Who::A, Who::B] {
            for steps in 0..=3_usize {
                let what = format!("{renewing:?} renews, {asking:?} rekeys, {steps} messages");
                let mut pair = established(1);
                pair.command(asking, rekey_child());
                let mut to = asking.other();
                for _ in 0..steps {
                    pair.deliver_next(to);
                    to = to.other();
                }
                // What is under way waits while the new main mode comes and goes.
                let held =
                    core::mem::take(if to == Who::A { &mut pair.to_a } else { &mut pair.to_b });
                pair.command(renewing, renew());
                pair.settle();
                for transmit in held {
                    pair.deliver(to, &transmit);
                }
                pair.settle();
                assert_serves(&pair, &what);
                pair.advance(Duration::from_secs(90));
                assert_serves(&pair, &what);
                for host in [&pair.a, &pair.b] {
                    assert!(!went_down(host), "{what}: {:?}", host.events);
                    assert_eq!(host.sad.len(), 1, "{what}: {:?}", host.events);
                    assert_eq!(host.engine.ike_sas(pair.now).len(), 1, "{what}");
                }
                pair.advance(Duration::from_secs(5000));
                assert_serves(&pair, &what);
                assert!(!went_down(&pair.a) && !went_down(&pair.b), "{what}");
            }
        }
    }
}

/// One side ends what the other is renewing: the child, or everything.
#[test]
fn a_delete_crosses_a_rekey() {
    for (delete, rekey) in [
        (delete_child(), rekey_child()),
        (delete_ike(), rekey_child()),
        (delete_ike(), renew()),
        (delete_child(), renew()),
    ] {
        let first = |pair: &mut Pair| {
            attempt(pair, Who::A, delete.clone());
            attempt(pair, Who::B, rekey.clone());
        };
        ladders(first, established, |pair, what| {
            // A delete that overtakes another one under the same ISAKMP SA is the last that is heard of it: what the other one
            // was about ends with its lifetime.
            pair.advance(Duration::from_secs(2900));
            assert_alike(pair, what);
        });
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

fn commands() -> [Command; 8] {
    [
        initiate("net"),
        initiate("more"),
        rekey_child(),
        renew(),
        initiate("net"),
        rekey_child(),
        delete_child(),
        delete_ike(),
    ]
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let who = || prop_oneof![Just(Who::A), Just(Who::B)];
    let act = prop_oneof![
        3 => (who(), 0..8usize).prop_map(|(who, n)| Act::Command(who, n)),
        6 => (1..8u8).prop_map(Act::Steps),
        2 => who().prop_map(Act::Lose),
        2 => who().prop_map(Act::Repeat),
        2 => (0..60u16).prop_map(Act::Wait),
    ];
    proptest::collection::vec(act, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever the link and the operators do: once the link works again, and lifetimes and liveness checks have had their
    /// time, whatever one side sends on the other receives, and each ISAKMP SA in use is there at both.
    #[test]
    fn both_sides_end_alike(seed in 1..250u8, acts in acts()) {
        let mut pair = pair(seed);
        let mut random = Random::new([seed; 32]);
        for act in acts {
            match act {
                Act::Command(who, n) => attempt(&mut pair, who, commands()[n].clone()),
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
        (pair.a.hold_jobs, pair.b.hold_jobs) = (false, false);
        pair.settle();
        pair.advance(Duration::from_secs(2900));
        assert_alike(&pair, "after all");
        prop_assert!(pair.trace.len() < 20_000);
    }
}
