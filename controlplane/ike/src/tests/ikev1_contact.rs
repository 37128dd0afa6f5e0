//! INITIAL-CONTACT (RFC 2407 §4.6.3.3) where both sides begin main modes: who says it, and whom it ends.

use super::harness::{Host, Pair, Who};
use super::ikev1::{IKE, established, pair, v1, v1_with};
use crate::event::{Command, Origin};
use crate::sa::Sa;
use crate::v1::sa::State;
use std::time::Duration;

/// Whether the fifth message of a host's main mode, which is on its way, says INITIAL-CONTACT.
fn says_contact(host: &Host) -> bool {
    let mut said = host.engine.table.iter().filter_map(|sa| match sa {
        Sa::V1(sa) => match &sa.state {
            State::AuthSent(state) => Some(state.has_contact),
            _ => None,
        },
        Sa::V2(_) => None,
    });
    said.next().expect("no fifth message is on its way")
}

fn initiate(pair: &mut Pair, who: Who) {
    let (child, origin) = ("net".to_owned(), Origin::Initiate);
    pair.command(who, Command::InitiateChild { connection: None, child, origin });
}

/// A host alone with its main mode says it; where the other's has come as far as the third message, nobody does: that one may be up
/// when it comes, and strongSwan would end it.
#[test]
fn who_says_it() {
    let mut alone = pair();
    initiate(&mut alone, Who::A);
    for to in [Who::B, Who::A, Who::B, Who::A] {
        alone.deliver_next(to);
    }
    assert!(says_contact(&alone.a));

    let mut both = pair();
    initiate(&mut both, Who::A);
    initiate(&mut both, Who::B);
    // The first messages of both, the second ones, the third ones.
    for _ in 0..3 {
        both.deliver_next(Who::B);
        both.deliver_next(Who::A);
    }
    both.deliver_next(Who::A);
    both.deliver_next(Who::B);
    assert!(!says_contact(&both.a) && !says_contact(&both.b));
    both.settle();
    for host in [&both.a, &both.b] {
        assert_eq!(host.engine.statistics().ike_main_mode_initial, 2);
        assert!(!host.events.iter().any(|event| event.starts_with("ike down")));
        assert!(host.engine.registry.callers.is_empty());
    }
}

/// A's fifth message, which says it, is lost, and B's own main mode is through before it is repeated. It is not: what it would say is no longer
/// so. Another main mode comes in its place, and what B began serves all the time.
#[test]
fn it_is_not_repeated_when_it_is_no_longer_so() {
    let mut pair = pair();
    initiate(&mut pair, Who::A);
    for to in [Who::B, Who::A, Who::B, Who::A] {
        pair.deliver_next(to);
    }
    assert!(says_contact(&pair.a));
    pair.lose_next(Who::B);
    let old = pair.trace.iter().rfind(|(who, _)| *who == Who::A).unwrap().1.datagram.clone();
    initiate(&mut pair, Who::B);
    pair.settle();
    assert!(pair.a.sad.values().any(|slot| slot.active));
    let before = pair.trace.len();
    for _ in 0..60 {
        pair.advance(Duration::from_secs(1));
        assert!(pair.send_data(Who::A) && pair.send_data(Who::B));
    }
    assert!(pair.trace[before..].iter().all(|(_, sent)| sent.datagram != old), "repeated");
    let statistics = pair.a.engine.statistics();
    assert_eq!((statistics.ike_main_mode_initial, statistics.negotiation_failures), (2, 0));
    for host in [&pair.a, &pair.b] {
        assert!(
            !host.events.iter().any(|event| event.starts_with("child net down")),
            "{:?}",
            host.events
        );
    }
    assert_eq!(
        (pair.a.engine.ike_sas(pair.now).len(), pair.b.engine.ike_sas(pair.now).len()),
        (1, 1)
    );
}

/// Without another SA the fifth message is repeated, octet by octet.
#[test]
fn it_is_repeated_while_it_is_so() {
    let mut pair = pair();
    initiate(&mut pair, Who::A);
    for to in [Who::B, Who::A, Who::B, Who::A] {
        pair.deliver_next(to);
    }
    pair.lose_next(Who::B);
    let fifth = pair.trace.iter().rfind(|(who, _)| *who == Who::A).unwrap().1.datagram.clone();
    let before = pair.trace.len();
    pair.advance(Duration::from_secs(10));
    assert!(pair.trace[before..].iter().any(|(_, sent)| sent.datagram == fifth));
    pair.assert_in_use(1, 1);
}

/// A peer that has lost everything sends nothing under what it had: what was heard after its main mode began is not forgotten, and stays.
/// What was silent since goes.
#[test]
fn whom_it_ends() {
    for is_heard in [false, true] {
        let mut pair = established();
        pair.advance(Duration::from_secs(1));
        let (old, _) = pair.b.spi_pairs()[0];
        let mut before = core::mem::replace(&mut pair.a, Host::new(v1(Who::A), 3, 9));
        initiate(&mut pair, Who::A);
        pair.deliver_next(Who::B);
        pair.now += Duration::from_millis(20);
        if is_heard {
            // It has made the two at once, and does not know.
            core::mem::swap(&mut pair.a, &mut before);
            assert!(pair.send_data(Who::A));
            core::mem::swap(&mut pair.a, &mut before);
        }
        pair.settle();
        let ended = pair.b.events.iter().filter(|event| *event == "ike down: replaced").count();
        assert_eq!(ended, usize::from(!is_heard), "{:?}", pair.b.events);
        // Its pair has been replaced, and receives for a while.
        assert_eq!(pair.b.spi_pairs().iter().any(|pair| pair.0 == old), is_heard);
    }
}

/// `unique = never` asks for nothing to be ended.
#[test]
fn a_host_that_never_replaces_says_nothing() {
    let never = |who| v1_with(who, IKE, |c| c.unique = crate::config::Unique::Never);
    let mut pair = Pair::new(never(Who::A), never(Who::B));
    initiate(&mut pair, Who::A);
    for to in [Who::B, Who::A, Who::B, Who::A] {
        pair.deliver_next(to);
    }
    assert!(!says_contact(&pair.a));
}
