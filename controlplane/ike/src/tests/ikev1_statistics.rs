//! Each main mode row moves for IKEv1 by exactly what happened; docs/statistics.md says which test is for which row.

use super::harness::{Pair, Who, psk};
use super::ikev1::{established, pair, v1, v1_with};
use super::statistics::moved;
use crate::event::{ChildTarget, Command, IkeTarget, Origin, Transmit};
use crate::message::v1::{DOI_IPSEC, Hash, Notify, NotifyType};
use crate::message::{ExchangeType, Flags, Header, MessageId, PayloadList, ProtocolId};
use crate::sa::Sa;
use crate::statistics::Statistics;
use crate::v1::phase1::Secured;
use crate::v1::sa::State;
use std::time::Duration;

fn zero() -> Statistics {
    Statistics::default()
}

/// Active Acquire, Acquire Heap Size, Total Acquire, Total Get SPI, Key Additions, Key Updates, ISADB List Size, Connection
/// List Size, IKE Main Mode, IKE Quick Mode.
#[test]
fn a_main_mode_and_a_quick_mode() {
    let mut pair = pair();
    pair.initiate(Who::A);
    let gauges = pair.a.engine.statistics();
    assert_eq!((gauges.active_acquire, gauges.acquire_heap_size), (1, 1));
    assert_eq!((gauges.isadb_list_size, gauges.connection_list_size), (1, 0));
    pair.deliver_next(Who::B);
    let gauges = pair.b.engine.statistics();
    assert_eq!((gauges.half_open, gauges.isadb_list_size), (1, 1));
    for _ in 0..2 {
        pair.deliver_next(Who::A);
        pair.deliver_next(Who::B);
    }
    assert_eq!(pair.a.engine.statistics().connection_list_size, 0);
    pair.deliver_next(Who::A);
    assert_eq!(pair.a.engine.statistics().connection_list_size, 1, "quick mode has begun");
    pair.deliver_next(Who::B);
    assert_eq!(pair.b.engine.statistics().connection_list_size, 1);
    pair.settle();
    let each = Statistics {
        total_get_spi: 1,
        key_additions: 1,
        key_updates: 1,
        ike_main_mode_initial: 1,
        ike_quick_mode: 1,
        ..zero()
    };
    moved(&pair, Who::A, &zero(), &Statistics { total_acquire_initiate: 1, ..each });
    moved(&pair, Who::B, &zero(), &each);
    for host in [&pair.a, &pair.b] {
        let gauges = host.engine.statistics();
        assert_eq!((gauges.active_acquire, gauges.acquire_heap_size), (0, 0));
        assert_eq!((gauges.isadb_list_size, gauges.connection_list_size), (1, 0));
        assert_eq!((gauges.active_receive, gauges.half_open), (0, 0));
    }
    pair.command(
        Who::A,
        Command::TerminateIke { target: IkeTarget::Connection("gw".to_owned()), force: false },
    );
    pair.settle();
    pair.advance(Duration::from_secs(60));
    for host in [&pair.a, &pair.b] {
        assert_eq!(host.engine.statistics().isadb_list_size, 0);
    }
}

/// IKE Main Mode by its label: a main mode that renews is a rekey to who begins it, and one like any other to who answers, as
/// nothing in it says what it is for.
#[test]
fn rekeys_of_both_kinds() {
    let mut pair = established();
    let (a, b) = (pair.a.engine.statistics(), pair.b.engine.statistics());
    let child = ChildTarget::Named { connection: None, child: "net".to_owned() };
    pair.command(Who::A, Command::RekeyChild(child));
    pair.settle();
    // The new pair takes the place of the old one when something comes in on it.
    assert!(pair.send_data(Who::B));
    pair.advance(Duration::ZERO);
    pair.command(Who::B, Command::RekeyIke(IkeTarget::Connection("gw".to_owned())));
    pair.settle();
    let each = Statistics {
        total_get_spi: 1,
        key_additions: 1,
        key_updates: 1,
        ike_quick_mode: 1,
        child_rekeys: 1,
        ..zero()
    };
    moved(&pair, Who::A, &a, &Statistics { ike_main_mode_initial: 1, ..each });
    moved(&pair, Who::B, &b, &Statistics { ike_main_mode_rekey: 1, ..each });
}

/// Get SPI Failures, Key Update Failures, Key Addition Failures, Acquire Failures.
#[test]
fn refusals_of_the_dataplane() {
    let begun = Statistics {
        total_acquire_initiate: 1,
        acquire_failures: 1,
        total_get_spi: 1,
        negotiation_failures: 1,
        ike_main_mode_initial: 1,
        ..zero()
    };
    let mut refused = pair();
    refused.a.spis.refuse = true;
    refused.initiate(Who::A);
    refused.settle();
    moved(&refused, Who::A, &zero(), &Statistics { get_spi_failures: 1, ..begun });

    let mut refused = pair();
    refused.a.refuse_inbound = true;
    refused.initiate(Who::A);
    refused.settle();
    let failures = Statistics { key_update_failures: 1, key_additions: 1, ..begun };
    moved(&refused, Who::A, &zero(), &failures);
    refused.assert_in_use(1, 0);

    let mut refused = pair();
    refused.b.refuse_outbound = true;
    refused.initiate(Who::A);
    refused.settle();
    let failures = Statistics {
        key_updates: 1,
        key_addition_failures: 1,
        total_acquire_initiate: 0,
        acquire_failures: 0,
        ..begun
    };
    moved(&refused, Who::B, &zero(), &failures);
    refused.assert_in_use(1, 0);
}

/// Total Acquire and Acquire Failures by origin, Negotiation Failures; Acquire Heap Size while held down.
#[test]
fn a_silent_peer() {
    let mut pair = pair();
    pair.command(
        Who::A,
        Command::InitiateChild {
            connection: Some("gw".to_owned()),
            child: "net".to_owned(),
            origin: Origin::StartAction,
        },
    );
    pair.wait_without_delivery(Duration::from_secs(166));
    let failures = Statistics {
        total_acquire_start_action: 1,
        acquire_failures: 1,
        negotiation_failures: 1,
        retransmissions: 5,
        ..zero()
    };
    moved(&pair, Who::A, &zero(), &failures);
    let gauges = pair.a.engine.statistics();
    assert_eq!((gauges.active_acquire, gauges.acquire_heap_size), (0, 1), "held down");
    assert_eq!(gauges.isadb_list_size, 0);
    pair.wait_without_delivery(Duration::from_secs(5));
    assert_eq!(pair.a.engine.statistics().acquire_heap_size, 0);
}

/// Invalid Cookies Received, Invalid Packets Received.
#[test]
fn stray_messages() {
    let mut pair = established();
    let other = {
        let mut other = Pair::seeded_with(77, v1(Who::A), v1(Who::B));
        other.initiate(Who::A);
        other.settle();
        other.trace[2].1.clone()
    };
    let before = pair.b.engine.statistics();
    pair.deliver(Who::B, &other);
    moved(&pair, Who::B, &before, &Statistics { invalid_cookies_received: 1, ..zero() });
    // A header that names another exchange.
    let mut wrong = pair.trace[6].1.clone();
    wrong.datagram[18] = 31;
    let before = pair.b.engine.statistics();
    pair.deliver(Who::B, &wrong);
    moved(&pair, Who::B, &before, &Statistics { invalid_packets_received: 1, ..zero() });
    // A quick mode with a HASH that is not right.
    let mut wrong = pair.trace[6].1.clone();
    *wrong.datagram.last_mut().unwrap() ^= 1;
    let before = pair.b.engine.statistics();
    pair.deliver(Who::B, &wrong);
    moved(&pair, Who::B, &before, &Statistics { invalid_packets_received: 1, ..zero() });
    // A NAT keepalive is nothing.
    let before = pair.b.engine.statistics();
    let mut keepalive = wrong;
    keepalive.datagram = vec![0xff];
    pair.deliver(Who::B, &keepalive);
    moved(&pair, Who::B, &before, &zero());
}

/// Invalid Packets Received: a repeat of a message, in whatever state it finds the other side, is answered from store or counts as stale;
/// one whose first copy is still being worked on is neither.
#[test]
fn a_repeat_is_answered_or_counted() {
    let mut pair = pair();
    pair.initiate(Who::A);
    let mut delivered: Vec<(Who, Transmit)> = Vec::new();
    let mut stale = 0;
    while pair.under_way(Who::A) + pair.under_way(Who::B) > 0 {
        let to = if pair.under_way(Who::B) > 0 { Who::B } else { Who::A };
        let next = if to == Who::B { pair.to_b[0].clone() } else { pair.to_a[0].clone() };
        pair.deliver_next(to);
        delivered.push((to, next));
        for (to, transmit) in delivered.clone() {
            let before = pair.host(to).engine.statistics();
            let waiting = (pair.to_a.len(), pair.to_b.len());
            pair.deliver(to, &transmit);
            let after = pair.host(to).engine.statistics();
            let answered = after.answers_repeated - before.answers_repeated;
            let invalid = after.invalid_packets_received - before.invalid_packets_received;
            assert_eq!(answered + invalid, 1, "{} of {}", transmit.datagram[18], delivered.len());
            stale += invalid;
            // The answers that are repeated are not on their way.
            pair.to_a.truncate(waiting.0);
            pair.to_b.truncate(waiting.1);
        }
    }
    assert_eq!(delivered.len(), 9);
    assert!(stale > 9, "{stale}");
    pair.assert_in_use(1, 1);
}

/// Negotiation Failures: a quick mode whose pair goes before it is through has failed at both ends.
#[test]
fn a_quick_mode_whose_pair_is_deleted() {
    let mut pair = established();
    let rekey = ChildTarget::Named { connection: None, child: "net".to_owned() };
    pair.command(Who::A, Command::RekeyChild(rekey));
    pair.deliver_next(Who::B);
    let before = (pair.a.engine.statistics(), pair.b.engine.statistics());
    // B has answered. The answer is overtaken by the end of everything.
    let gw = IkeTarget::Connection("gw".to_owned());
    let answer = pair.to_a.pop_back().unwrap();
    let child = ChildTarget::Named { connection: None, child: "net".to_owned() };
    pair.command(Who::B, Command::TerminateChild { target: child, force: false });
    pair.settle();
    pair.deliver(Who::A, &answer);
    pair.settle();
    pair.command(Who::B, Command::TerminateIke { target: gw, force: false });
    pair.settle();
    let failed =
        |now: Statistics, then: &Statistics| now.negotiation_failures - then.negotiation_failures;
    assert_eq!(failed(pair.b.engine.statistics(), &before.1), 1);
    assert_eq!(failed(pair.a.engine.statistics(), &before.0), 0, "to A it was made, and went");
}

/// Authentication Failures by preshared key, with what docs/statistics.md says beside it: an invalid packet where nothing could
/// be read; Negotiation Failures without a proposal in common.
#[test]
fn a_wrong_key_and_no_proposal() {
    let mut other = v1(Who::B);
    other.psks = vec![psk("another")];
    let mut pair = Pair::new(v1(Who::A), other);
    pair.initiate(Who::A);
    pair.settle();
    let failures = Statistics {
        authentication_failures_psk: 1,
        negotiation_failures: 1,
        invalid_packets_received: 1,
        ..zero()
    };
    moved(&pair, Who::B, &zero(), &failures);
    let mut pair = Pair::new(v1(Who::A), v1_with(Who::B, "aes256-sha512-ecp384", |_| ()));
    pair.initiate(Who::A);
    pair.settle();
    moved(&pair, Who::B, &zero(), &Statistics { negotiation_failures: 1, ..zero() });
    assert_eq!(pair.b.engine.statistics().isadb_list_size, 0);
}

/// A's main mode up to its fifth message, which is lost, and a notify under the keys of phase 1 that refuses it.
fn refused(kind: NotifyType, is_right: bool) -> Pair {
    let mut pair = pair();
    pair.initiate(Who::A);
    for to in [Who::B, Who::A, Who::B, Who::A] {
        pair.deliver_next(to);
    }
    let mut notice = pair.to_b.pop_front().unwrap();
    let ike = pair.a.engine.table.ids()[0];
    let Some(Sa::V1(sa)) = pair.a.engine.table.get(ike) else { panic!() };
    let State::AuthSent(state) = &sa.state else { panic!() };
    let Secured { keys, sealer, iv, .. } = &state.secured;
    let (id, exchange) = (MessageId(77), ExchangeType::InformationalV1);
    let spi = [0; 16];
    let payloads = |hash: &[u8]| {
        let mut list = PayloadList::new();
        list.push(&Hash { data: hash });
        let protocol = ProtocolId::Ike;
        list.push(&Notify { doi: DOI_IPSEC, protocol, spi: &spi, kind, data: &[] });
        list
    };
    let len = sealer.hash.prf().output_len();
    let rest = payloads(&vec![0; len]).bytes().unwrap()[4 + len..].to_vec();
    let mut hash = keys.a.hash(&[id.0.to_be_bytes().as_slice(), rest.as_slice()]).unwrap().to_vec();
    hash[0] ^= u8::from(!is_right);
    let list = payloads(&hash);
    let header = Header::v1(sa.head.spi_i, sa.head.spi_r, exchange, Flags::ENCRYPTED, id);
    let iv = iv.phase2(sealer.hash, id);
    (notice.datagram, _) = sealer.seal(&header, list.first(), list.bytes().unwrap(), iv).unwrap();
    core::mem::swap(&mut notice.path.local, &mut notice.path.remote);
    pair.deliver(Who::A, &notice);
    pair
}

/// Authentication Failures and Negotiation Failures at the side that is told, under the keys of phase 1: at once. Where the HASH is not right nothing
/// happens.
#[test]
fn who_is_told() {
    let failures = |psk| Statistics {
        total_acquire_initiate: 1,
        acquire_failures: 1,
        authentication_failures_psk: psk,
        negotiation_failures: 1,
        ..zero()
    };
    let told = refused(NotifyType::AuthenticationFailed, true);
    moved(&told, Who::A, &zero(), &failures(1));
    let told = refused(NotifyType::InvalidIdInformation, true);
    moved(&told, Who::A, &zero(), &failures(0));
    for (kind, is_right) in
        [(NotifyType::AuthenticationFailed, false), (NotifyType::InitialContact, true)]
    {
        let told = refused(kind, is_right);
        let nothing = Statistics { total_acquire_initiate: 1, ..zero() };
        let invalid = Statistics { invalid_packets_received: 1, ..nothing };
        moved(&told, Who::A, &zero(), &invalid);
        assert_eq!(told.a.engine.statistics().isadb_list_size, 1);
    }
}

/// Active Receive, Receive Heap Size: what comes while a job is done is not kept, as the peer says it again.
#[test]
fn nothing_waits_for_a_job() {
    let mut pair = pair();
    pair.b.hold_jobs = true;
    pair.initiate(Who::A);
    pair.deliver_next(Who::B);
    pair.deliver_next(Who::A);
    let third = pair.to_b[0].clone();
    pair.deliver_next(Who::B);
    let mut fifth = third;
    fifth.datagram[19] |= 1;
    pair.deliver(Who::B, &fifth);
    let statistics = pair.b.engine.statistics();
    assert_eq!((statistics.active_receive, statistics.receive_heap_size), (0, 0));
    assert_eq!(statistics.parked_dropped, 1);
    pair.b.hold_jobs = false;
    pair.pump();
    pair.settle();
    pair.assert_in_use(1, 1);
}
