//! Soft SAs: what becomes of an acquire whose peer does not speak IKE, when policy lets its traffic go in clear.

use super::harness::*;
use crate::config::{Unprotected, Version};
use crate::event::{ChildTarget, Command, Failure};
use core::time::Duration;

const AFTER: Duration = Duration::from_secs(3);

fn soft(who: Who, version: Version) -> crate::config::Config {
    changed(who, |c| {
        c.version = version;
        if version == Version::Ikev1 {
            c.proposals =
                proposals(crate::proposal::ProposalProtocol::Ike, "aes128-sha256-modp2048");
        }
        change_child(c, |child| {
            child.unprotected = Some(Unprotected { after: AFTER, lasts: Duration::from_secs(300) });
        });
    })
}

/// Nobody is there: after three seconds the acquire ends as a soft SA, which is no failure.
#[test]
fn a_silent_peer_ends_as_a_soft_sa() {
    for version in [Version::Ikev2, Version::Ikev1] {
        let mut pair = Pair::new(soft(Who::A, version), soft(Who::B, version));
        let request = pair.initiate(Who::A);
        pair.wait_without_delivery(AFTER - Duration::from_millis(1));
        assert!(!pair.a.done.contains_key(&request), "too early");
        pair.wait_without_delivery(Duration::from_millis(2));
        assert_eq!(pair.a.done.get(&request), Some(&Err(Failure::Unprotected)), "{version:?}");
        assert!(pair.a.events.iter().any(|e| e == "child net unprotected"), "{:?}", pair.a.events);
        let stats = pair.a.engine.statistics();
        assert_eq!((stats.soft_associations, stats.acquire_failures), (1, 0));
        assert_eq!((stats.total_acquire(), stats.active_acquire), (1, 0));
        assert_eq!((stats.acquire_heap_size, stats.isadb_list_size), (0, 0), "nothing is held");
        // The next acquire asks anew: there is no hold-down.
        pair.initiate(Who::A);
        pair.wait_without_delivery(AFTER + Duration::from_millis(1));
        assert_eq!(pair.a.engine.statistics().soft_associations, 2);
    }
}

/// Whoever answers at all speaks IKE: a refusal and a wrong key are no reason to go in clear.
#[test]
fn a_peer_that_answers_is_not_silent() {
    // No proposal in common, told in clear.
    let mut other = soft(Who::B, Version::Ikev2);
    let connection = std::sync::Arc::make_mut(&mut other.connections[0]);
    connection.proposals =
        proposals(crate::proposal::ProposalProtocol::Ike, "aes256-sha512-ecp384");
    // A key that does not match.
    let mut wrong = soft(Who::B, Version::Ikev2);
    wrong.psks = vec![psk("another")];
    for (what, b) in [("refused", other), ("wrong key", wrong)] {
        let mut pair = Pair::new(soft(Who::A, Version::Ikev2), b);
        let request = pair.initiate(Who::A);
        pair.settle();
        for _ in 0..400 {
            pair.advance(Duration::from_secs(1));
        }
        let result = pair.a.done.get(&request).copied();
        assert!(
            matches!(result, Some(Err(failure)) if failure != Failure::Unprotected),
            "{what}: {result:?}"
        );
        assert_eq!(pair.a.engine.statistics().soft_associations, 0, "{what}");
        assert_eq!(pair.a.engine.statistics().acquire_failures, 1, "{what}");
    }
}

/// Off unless configured, and only for the child that allows it.
#[test]
fn without_permission_the_acquire_fails() {
    let mut pair = Pair::new(soft(Who::A, Version::Ikev2), config(Who::B));
    let allowed = pair.initiate(Who::A);
    let other = pair.initiate_child(Who::A, "more");
    pair.wait_without_delivery(Duration::from_secs(400));
    assert_eq!(pair.a.done.get(&allowed), Some(&Err(Failure::Unprotected)));
    assert_eq!(pair.a.done.get(&other), Some(&Err(Failure::Timeout)));
    let stats = pair.a.engine.statistics();
    assert_eq!((stats.soft_associations, stats.acquire_failures), (1, 1));
}

/// A peer that comes back is protected again, whoever begins.
#[test]
fn a_peer_that_speaks_later_is_negotiated_with() {
    let mut pair = Pair::new(soft(Who::A, Version::Ikev2), soft(Who::B, Version::Ikev2));
    pair.initiate(Who::A);
    pair.wait_without_delivery(AFTER + Duration::from_millis(1));
    while pair.under_way(Who::B) > 0 {
        pair.lose_next(Who::B);
    }
    pair.initiate(Who::B);
    pair.settle();
    pair.assert_in_use(1, 1);
    // With an IKE SA in place a child is never soft.
    let child = ChildTarget::Named { connection: None, child: "net".into() };
    pair.command(Who::A, Command::TerminateChild { target: child, force: false });
    pair.settle();
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
    assert_eq!(pair.a.engine.statistics().soft_associations, 1);
}
