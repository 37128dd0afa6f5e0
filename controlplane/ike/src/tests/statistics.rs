//! Each row moves by exactly what happened.

use super::harness::{Pair, Who};
use crate::event::{ChildTarget, Command, IkeTarget, Origin};
use crate::statistics::Statistics;
use std::time::Duration;

/// What one step changed.
#[track_caller]
pub(super) fn moved(pair: &Pair, who: Who, before: &Statistics, expected: &Statistics) {
    let host = if who == Who::A { &pair.a } else { &pair.b };
    let now = host.engine.statistics();
    let counters = |s: &Statistics| {
        [
            ("acquire_failures", s.acquire_failures),
            ("authentication_failures_psk", s.authentication_failures_psk),
            ("negotiation_failures", s.negotiation_failures),
            ("invalid_cookies_received", s.invalid_cookies_received),
            ("total_acquire_initiate", s.total_acquire_initiate),
            ("total_acquire_start_action", s.total_acquire_start_action),
            ("total_acquire_trap", s.total_acquire_trap),
            ("total_get_spi", s.total_get_spi),
            ("key_additions", s.key_additions),
            ("key_updates", s.key_updates),
            ("get_spi_failures", s.get_spi_failures),
            ("key_addition_failures", s.key_addition_failures),
            ("key_update_failures", s.key_update_failures),
            ("ike_main_mode_initial", s.ike_main_mode_initial),
            ("ike_main_mode_rekey", s.ike_main_mode_rekey),
            ("ike_quick_mode", s.ike_quick_mode),
            ("invalid_packets_received", s.invalid_packets_received),
            ("child_rekeys", s.child_rekeys),
            ("retransmissions", s.retransmissions),
            ("answers_repeated", s.answers_repeated),
        ]
    };
    for ((name, now), ((_, before), (_, by))) in
        counters(&now).into_iter().zip(counters(before).into_iter().zip(counters(expected)))
    {
        assert_eq!(now - before, by, "{who:?} {name}");
    }
}

#[test]
fn a_negotiation_with_a_child() {
    let mut pair = Pair::with_defaults();
    let zero = Statistics::default();
    pair.initiate(Who::A);
    let gauges = pair.a.engine.statistics();
    assert_eq!((gauges.active_acquire, gauges.acquire_heap_size), (1, 1));
    assert_eq!((gauges.isadb_list_size, gauges.connection_list_size), (1, 0));
    pair.deliver_next(Who::B);
    assert_eq!(pair.b.engine.statistics().half_open, 1);
    pair.deliver_next(Who::A);
    assert_eq!(pair.a.engine.statistics().connection_list_size, 1);
    pair.settle();
    let each = Statistics {
        total_get_spi: 1,
        key_additions: 1,
        key_updates: 1,
        ike_main_mode_initial: 1,
        ike_quick_mode: 1,
        ..zero
    };
    moved(&pair, Who::A, &zero, &Statistics { total_acquire_initiate: 1, ..each });
    moved(&pair, Who::B, &zero, &each);
    for host in [&pair.a, &pair.b] {
        let gauges = host.engine.statistics();
        assert_eq!((gauges.active_acquire, gauges.acquire_heap_size), (0, 0));
        assert_eq!((gauges.isadb_list_size, gauges.connection_list_size), (1, 0));
        assert_eq!((gauges.active_receive, gauges.half_open), (0, 0));
    }
}

#[test]
fn rekeys_of_both_kinds() {
    let mut pair = Pair::established();
    let (a, b) = (pair.a.engine.statistics(), pair.b.engine.statistics());
    let child = ChildTarget::Named { connection: None, child: "net".to_owned() };
    pair.command(Who::A, Command::RekeyChild(child));
    pair.settle();
    pair.command(Who::B, Command::RekeyIke(IkeTarget::Connection("gw".to_owned())));
    pair.settle();
    let each = Statistics {
        total_get_spi: 1,
        key_additions: 1,
        key_updates: 1,
        ike_main_mode_rekey: 1,
        ike_quick_mode: 1,
        child_rekeys: 1,
        ..Statistics::default()
    };
    moved(&pair, Who::A, &a, &each);
    moved(&pair, Who::B, &b, &each);
}

#[test]
fn refusals_of_the_dataplane() {
    let zero = Statistics::default();
    let mut pair = Pair::with_defaults();
    pair.a.spis.refuse = true;
    pair.initiate(Who::A);
    pair.settle();
    moved(
        &pair,
        Who::A,
        &zero,
        &Statistics {
            total_acquire_initiate: 1,
            acquire_failures: 1,
            total_get_spi: 1,
            get_spi_failures: 1,
            negotiation_failures: 1,
            ..zero
        },
    );

    let mut pair = Pair::with_defaults();
    pair.a.refuse_inbound = true;
    pair.initiate(Who::A);
    pair.settle();
    moved(
        &pair,
        Who::A,
        &zero,
        &Statistics {
            total_acquire_initiate: 1,
            acquire_failures: 1,
            total_get_spi: 1,
            key_update_failures: 1,
            key_additions: 1,
            negotiation_failures: 1,
            ike_main_mode_initial: 1,
            ..zero
        },
    );
    pair.assert_in_use(1, 0);

    let mut pair = Pair::with_defaults();
    pair.b.refuse_outbound = true;
    pair.initiate(Who::A);
    pair.settle();
    moved(
        &pair,
        Who::B,
        &zero,
        &Statistics {
            total_get_spi: 1,
            key_updates: 1,
            key_addition_failures: 1,
            negotiation_failures: 1,
            ike_main_mode_initial: 1,
            ..zero
        },
    );
    pair.assert_in_use(1, 0);
}

#[test]
fn a_silent_peer() {
    let zero = Statistics::default();
    let mut pair = Pair::with_defaults();
    pair.command(
        Who::A,
        Command::InitiateChild {
            connection: Some("gw".to_owned()),
            child: "net".to_owned(),
            origin: Origin::StartAction,
        },
    );
    pair.wait_without_delivery(Duration::from_secs(166));
    moved(
        &pair,
        Who::A,
        &zero,
        &Statistics {
            total_acquire_start_action: 1,
            acquire_failures: 1,
            negotiation_failures: 1,
            retransmissions: 5,
            ..zero
        },
    );
    let gauges = pair.a.engine.statistics();
    assert_eq!((gauges.active_acquire, gauges.acquire_heap_size), (0, 1), "held down");
    assert_eq!(gauges.isadb_list_size, 0);
    pair.wait_without_delivery(Duration::from_secs(5));
    assert_eq!(pair.a.engine.statistics().acquire_heap_size, 0);
}

#[test]
fn stray_messages() {
    let zero = Statistics::default();
    let mut pair = Pair::established();
    let other = {
        let mut other = Pair::seeded(77);
        other.initiate(Who::A);
        other.settle();
        other.trace[2].1.clone()
    };
    let before = pair.b.engine.statistics();
    pair.deliver(Who::B, &other);
    moved(&pair, Who::B, &before, &Statistics { invalid_cookies_received: 1, ..zero });
    // A stale repetition, of the first message.
    let first = pair.trace[0].1.clone();
    let before = pair.b.engine.statistics();
    pair.deliver(Who::B, &first);
    moved(&pair, Who::B, &before, &Statistics { invalid_packets_received: 1, ..zero });
    // A NAT keepalive is nothing.
    let before = pair.b.engine.statistics();
    let mut keepalive = first;
    keepalive.datagram = vec![0xff];
    pair.deliver(Who::B, &keepalive);
    moved(&pair, Who::B, &before, &zero);
}
