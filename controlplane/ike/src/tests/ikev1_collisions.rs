//! Both sides at once: main modes, quick modes, renewals and deletes that cross (RFC 2409 has no word on it).

use super::harness::{Host, Installed, Pair, Who, change_child};
use super::ikev1::{IKE, v1_with};
use crate::config::Config;
use crate::event::{ChildTarget, Command, IkeTarget, Origin};
use crate::random::Random;
use crate::v2::child::Phase;
use crate::view::IkeState;
use ipsec::sa::{PairId, Spi};
use proptest::prelude::*;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One end, with everything that ends what the other side has forgotten: IKEv1's deletes have no answer. Lifetimes are short, the same
/// at both sides, and nothing keeps the two apart.
fn end(who: Who) -> Config {
    v1_with(who, IKE, |c| {
        c.dpd_delay = Duration::from_secs(10);
        c.reauth_time = Duration::from_secs(60);
        c.over_time = Duration::from_secs(40);
        for at in 0..c.children.len() {
            c.children.swap(0, at);
            change_child(c, |child| {
                child.rekey_time = Duration::from_secs(40);
                child.life_time = Duration::from_secs(70);
            });
            c.children.swap(0, at);
        }
    })
}

/// Longer than any SA lives that nobody renews.
const LONG: Duration = Duration::from_secs(160);

/// More than this many ISAKMP SAs, or pairs for one traffic, would be more and more.
const MANY: usize = 7;

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

/// Traffic of both sides: packets take a while, and each arrives.
#[derive(Default)]
struct Flow {
    under_way: VecDeque<(Who, Spi, Instant)>,
    begun: bool,
}

impl Flow {
    /// One packet of each side, on the newest of what it may send on. What was sent before comes in, once it is `age` old.
    #[track_caller]
    fn tick(&mut self, pair: &mut Pair, age: Duration, what: &str) {
        let sends = |host: &Host| {
            host.sad
                .values()
                .rfind(|slot| slot.active)
                .and_then(|s| s.outbound.as_ref())
                .map(|sa| sa.spi)
        };
        let (a, b) = (sends(&pair.a), sends(&pair.b));
        self.begun |= a.is_some() && b.is_some();
        if !self.begun {
            return;
        }
        for (who, spi) in [(Who::A, a), (Who::B, b)] {
            let spi = spi.unwrap_or_else(|| panic!("{what}: {who:?} has no way: {}", said(pair)));
            self.under_way.push_back((who.other(), spi, pair.now));
        }
        let now = pair.now;
        while self.under_way.front().is_some_and(|(_, _, at)| *at + age <= now) {
            let Some((to, spi, _)) = self.under_way.pop_front() else { return };
            let takes = |(_, slot): &(&PairId, &Installed)| {
                slot.inbound.as_ref().is_some_and(|sa| sa.spi == spi)
            };
            let taker = pair.host(to).sad.iter().find(takes).map(|(pair, _)| *pair);
            let Some(taker) = taker else {
                panic!("{what}: {to:?} loses a packet: {}", said(pair))
            };
            pair.host(to).engine.handle_inbound_traffic(now, taker);
            pair.pump();
        }
    }

    /// Time goes by, with all messages delivered and packets all the time; the number of SAs stays bounded.
    #[track_caller]
    fn run(&mut self, pair: &mut Pair, time: Duration, what: &str) {
        const STEP: Duration = Duration::from_millis(500);
        let until = pair.now + time;
        while pair.now < until {
            pair.advance(STEP);
            self.tick(pair, STEP, what);
            assert_bounded(pair, what);
        }
    }
}

fn said(pair: &Pair) -> String {
    format!("{:?} / {:?}", pair.a.events, pair.b.events)
}

#[track_caller]
fn assert_bounded(pair: &Pair, what: &str) {
    for host in [&pair.a, &pair.b] {
        let isakmp = host.engine.ike_sas(pair.now).len();
        assert!(
            isakmp <= MANY && host.sad.len() <= 2 * MANY,
            "{what}: {isakmp}, {}",
            host.sad.len()
        );
    }
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
        assert!(sas(from, true).len() <= MANY, "{what}: more and more");
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

/// Delivers in an order that `random` says, losing nothing, until nothing is under way; packets go on, and come in between messages.
fn shuffle(pair: &mut Pair, flow: &mut Flow, random: &mut Random, what: &str) {
    while !pair.is_quiet() {
        pair.random_step(random);
        flow.tick(pair, Duration::ZERO, what);
    }
    (pair.a.hold_jobs, pair.b.hold_jobs) = (false, false);
    pair.settle();
}

/// Ways in which messages of both sides can cross, with twenty sets of SPIs and cookies.
fn ladders(
    first: impl Fn(&mut Pair),
    begin: impl Fn(u8) -> Pair,
    then: impl Fn(&mut Pair, &mut Flow, &str),
) {
    for seed in 1..=30_u8 {
        let mut pair = begin(1 + seed % 20);
        first(&mut pair);
        let what = format!("order {seed}");
        let mut flow = Flow::default();
        shuffle(&mut pair, &mut flow, &mut Random::new([seed; 32]), &what);
        then(&mut pair, &mut flow, &what);
    }
}

/// What holds after all: everything serves, nothing was ever lost, and both sides end with the same few SAs.
fn serves_on(pair: &mut Pair, flow: &mut Flow, what: &str) {
    assert_serves(pair, what);
    flow.run(pair, LONG, what);
    assert_serves(pair, what);
    assert!(!went_down(&pair.a) && !went_down(&pair.b), "{what}: {}", said(pair));
    for who in [Who::A, Who::B] {
        attempt(pair, who, delete_ike());
    }
    pair.settle();
    pair.advance(Duration::from_secs(100));
    pair.assert_empty();
}

/// Both begin at once, as two gateways do whose link comes back.
#[test]
fn simultaneous_main_modes() {
    let first = |pair: &mut Pair| {
        pair.command(Who::A, initiate("net"));
        pair.command(Who::B, initiate("net"));
    };
    ladders(first, pair, serves_on);
}

/// After main modes of both at once, each end may have another of the two ISAKMP SAs in use, and begins its quick modes on that. What one
/// asks for under the one replaces what the other has under the other: it is a rekey at both (`quick_mode.rekeys`: begun by either side).
#[test]
fn a_rekey_under_either_isakmp_sa_counts_at_both_ends() {
    let end = |who| {
        let mut config = end(who);
        // Rekeys alone: what crosses a renewal one end may take for a rekey more than the other.
        let Some(Some(connection)) = config.connections.first_mut().map(Arc::get_mut) else {
            unreachable!()
        };
        connection.reauth_time = Duration::from_secs(1000);
        config
    };
    let counted = |pair: &Pair| [&pair.a, &pair.b].map(|h| h.engine.statistics().child_rekeys);
    let in_use = |pair: &Pair| {
        [&pair.a, &pair.b].map(|host| {
            let views = host.engine.ike_sas(pair.now);
            views.iter().find(|sa| !sa.children.is_empty()).map(|sa| sa.spi_i)
        })
    };
    let mut apart = 0;
    for (commands, seeds) in [(initiate as fn(&str) -> Command, 1..=30_u8), (|_| renew(), 31..=60)]
    {
        for seed in seeds {
            let what = format!("order {seed}");
            let mut pair = Pair::seeded_with(1 + seed % 20, end(Who::A), end(Who::B));
            if seed > 30 {
                pair.initiate(Who::A);
                pair.settle();
            }
            pair.command(Who::A, commands("net"));
            pair.command(Who::B, commands("net"));
            let mut flow = Flow::default();
            shuffle(&mut pair, &mut flow, &mut Random::new([seed; 32]), &what);
            // What crossed is over.
            flow.run(&mut pair, Duration::from_secs(20), &what);
            let [a, b] = in_use(&pair);
            apart += usize::from(a != b);
            let before = counted(&pair);
            flow.run(&mut pair, Duration::from_secs(120), &what);
            let [a, b] = [0, 1].map(|end| counted(&pair)[end] - before[end]);
            assert!(a == b && a >= 2, "{what}: {a} rekeys at one end, {b} at the other");
            assert_serves(&pair, &what);
            let [a, b] = in_use(&pair);
            assert_eq!(a, b, "{what}: one has heard from the other which it uses");
        }
    }
    assert!(apart >= 10, "{apart}");
}

/// Both ask for the same child at once under one ISAKMP SA.
#[test]
fn simultaneous_quick_modes() {
    let first = |pair: &mut Pair| {
        pair.command(Who::A, initiate("more"));
        pair.command(Who::B, initiate("more"));
    };
    ladders(first, established, serves_on);
}

/// Both renew the same child at once.
#[test]
fn simultaneous_quick_mode_rekeys() {
    let first = |pair: &mut Pair| {
        pair.command(Who::A, rekey_child());
        pair.command(Who::B, rekey_child());
    };
    ladders(first, established, serves_on);
}

/// Both renew the ISAKMP SA at once.
#[test]
fn simultaneous_renewals() {
    let first = |pair: &mut Pair| {
        pair.command(Who::A, renew());
        pair.command(Who::B, renew());
    };
    ladders(first, established, serves_on);
}

fn everything(pair: &mut Pair) {
    for who in [Who::A, Who::B] {
        pair.command(who, renew());
        pair.command(who, rekey_child());
    }
}

/// Both kinds at once from both sides.
#[test]
fn everything_is_renewed_at_once() {
    ladders(everything, established, serves_on);
}

/// The same, and both sides' own timers after it, with each message lost, or twice, or a second late.
#[test]
fn everything_is_renewed_with_loss_repeats_and_reordering() {
    let run = |fault: usize, at: usize| {
        let what = format!("fault {fault} at message {at}");
        let mut pair = established(1);
        let mut flow = Flow::default();
        everything(&mut pair);
        let (mut sent, mut late) = (0, Vec::new());
        let until = pair.now + Duration::from_secs(75);
        while pair.now < until {
            pair.pump();
            for who in [Who::B, Who::A] {
                while pair.under_way(who) > 0 {
                    let queue = if who == Who::A { &mut pair.to_a } else { &mut pair.to_b };
                    let Some(transmit) = queue.pop_front() else { break };
                    sent += 1;
                    match fault {
                        _ if sent != at => pair.deliver(who, &transmit),
                        0 => {}
                        1 => {
                            pair.deliver(who, &transmit);
                            pair.deliver(who, &transmit);
                        }
                        _ => late.push((pair.now + Duration::from_secs(1), who, transmit)),
                    }
                    flow.tick(&mut pair, Duration::ZERO, &what);
                }
            }
            if pair.under_way(Who::A) + pair.under_way(Who::B) > 0 {
                continue;
            }
            let now = pair.now;
            if let Some(due) = late.iter().position(|(at, _, _)| *at <= now) {
                let (_, who, transmit) = late.remove(due);
                pair.deliver(who, &transmit);
                continue;
            }
            let step = now + Duration::from_millis(250);
            pair.now = pair.next_timeout().map_or(step, |at| at.max(now).min(step));
            pair.timeouts();
            flow.tick(&mut pair, Duration::ZERO, &what);
            assert_bounded(&pair, &what);
        }
        serves_on(&mut pair, &mut flow, &what);
        sent
    };
    let messages = run(0, usize::MAX);
    assert!(messages > 30, "{messages}");
    for fault in 0..3 {
        for at in 1..=messages {
            run(fault, at);
        }
    }
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
                serves_on(&mut pair, &mut Flow::default(), &what);
            }
        }
    }
}

/// A quick mode runs on the old ISAKMP SA while its successor is there already. strongSwan holds such a pair under the old one and ends
/// it with that: so it is renewed under the new one first, whoever of the two asked for it.
#[test]
fn an_isakmp_sa_stays_while_the_peer_may_hold_a_pair_under_it() {
    for (renewing, asking) in
        [(Who::A, Who::A), (Who::A, Who::B), (Who::B, Who::A), (Who::B, Who::B)]
    {
        let mut pair = established(3);
        let old = *pair.host(renewing).engine.table.ids().last().unwrap();
        pair.command(asking, rekey_child());
        let to = asking.other();
        let held = core::mem::take(if to == Who::A { &mut pair.to_a } else { &mut pair.to_b });
        pair.command(renewing, renew());
        pair.settle();
        for transmit in held {
            pair.deliver(to, &transmit);
        }
        let until = pair.now + Duration::from_secs(20);
        let mut flow = Flow::default();
        let mut was_under_old = false;
        while pair.now < until {
            pair.advance(Duration::from_millis(100));
            flow.tick(&mut pair, Duration::ZERO, "held");
            let host = pair.host(renewing);
            let table = &host.engine.table;
            let children =
                table.iter().filter_map(crate::sa::Sa::children).flat_map(|c| c.values());
            // The first pair was there before, and went over at both sides.
            let under_old = children
                .filter(|child| child.under == old && child.pair.0 > 1)
                .any(|child| matches!(child.phase, Phase::Installed | Phase::Rekeying));
            was_under_old |= under_old;
            assert!(!under_old || table.get(old).is_some(), "{renewing:?} {asking:?}");
        }
        assert!(was_under_old);
        assert!(pair.host(renewing).engine.table.get(old).is_none(), "{renewing:?} {asking:?}");
        serves_on(&mut pair, &mut flow, "after");
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
        for seed in 1..=30_u8 {
            let mut pair = established(1 + seed % 20);
            attempt(&mut pair, Who::A, delete.clone());
            attempt(&mut pair, Who::B, rekey.clone());
            let mut random = Random::new([seed; 32]);
            while !pair.is_quiet() {
                pair.random_step(&mut random);
            }
            (pair.a.hold_jobs, pair.b.hold_jobs) = (false, false);
            // A delete that overtakes another one under the same ISAKMP SA is the last that is heard of it: what the other one
            // was about ends with its lifetime.
            pair.advance(LONG);
            assert_alike(&pair, &format!("order {seed}"));
        }
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
        pair.advance(LONG);
        assert_alike(&pair, "after all");
        prop_assert!(pair.trace.len() < 20_000);
    }
}
