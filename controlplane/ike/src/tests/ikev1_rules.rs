//! IKEv1's rules of the single message, as ladders: message IDs, vectors, repeats, liveness.

use super::harness::{Pair, Who};
use super::ikev1::{IKE, established, pair, v1, v1_with};
use crate::config::Connection;
use crate::crypto::v1::Iv;
use crate::event::{ChildTarget, Command, Transmit};
use crate::message::v1::{DOI_IPSEC, DpdNotify, Notify, NotifyType, Payload};
use crate::message::{ExchangeType, MessageId, PayloadList, ProtocolId};
use crate::sa::Sa;
use crate::v1::established::Established;
use crate::v1::sa::State;
use aws_lc_rs::digest;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const MAIN_MODE: u8 = 2;
const INFORMATIONAL: u8 = 5;
const QUICK_MODE: u8 = 32;

/// charon's times with the settings' defaults: 4 s, each further one 1.8 times as long, five repeats.
const REPEATED_AT: [u64; 6] = [0, 4_000, 11_200, 24_160, 47_488, 89_478];
const GIVEN_UP_AT: u64 = 165_061;

/// The established ISAKMP SA of `who` that came last.
fn sa(pair: &mut Pair, who: Who) -> &mut Established {
    let host = pair.host(who);
    let ike = *host.engine.table.ids().last().unwrap();
    let Sa::V1(sa) = host.engine.table.get_mut(ike).unwrap() else { panic!() };
    let State::Established(state) = &mut sa.state else { panic!() };
    state
}

pub(super) fn with(f: impl Fn(&mut Connection)) -> Pair {
    Pair::new(v1_with(Who::A, IKE, &f), v1_with(Who::B, IKE, &f))
}

fn exchange(transmit: &Transmit) -> u8 {
    transmit.datagram[18]
}

fn id(transmit: &Transmit) -> MessageId {
    MessageId(u32::from_be_bytes(transmit.datagram[20..24].try_into().unwrap()))
}

fn rekey() -> Command {
    let child = ChildTarget::Named { connection: None, child: "net".to_owned() };
    Command::RekeyChild(child)
}

/// A message of `who` with these payloads behind a right HASH.
fn sealed(
    pair: &mut Pair,
    who: Who,
    exchange: ExchangeType,
    id: MessageId,
    fill: impl FnOnce(&mut PayloadList),
) -> Transmit {
    let path = pair.trace.iter().rev().find(|(from, _)| *from == who).unwrap().1.path;
    let session = &sa(pair, who).session;
    let mut list = session.list();
    fill(&mut list);
    let (datagram, _) = session.seal(exchange, id, session.iv(id), &[], &list).unwrap();
    Transmit { path, datagram }
}

fn dpd(pair: &mut Pair, who: Who, id: u32, kind: NotifyType, number: u32) -> Transmit {
    let spi = sa(pair, who).session.cookies();
    let data = number.to_be_bytes();
    let protocol = ProtocolId::Ike;
    sealed(pair, who, ExchangeType::InformationalV1, MessageId(id), |list| {
        list.push(&Notify { doi: DOI_IPSEC, protocol, spi: &spi, kind, data: &data });
    })
}

/// The liveness notify that an informational exchange carries.
fn read_dpd(pair: &mut Pair, transmit: &Transmit) -> Option<(NotifyType, u32)> {
    let session = &sa(pair, Who::A).session;
    let iv = session.iv(id(transmit));
    let opened = session.sealer.open(transmit.datagram[16], &transmit.datagram[28..], iv)?;
    let payloads = opened.payloads().ok()?;
    payloads.iter().find_map(|payload| match payload {
        Payload::Notify(notify) => Some((notify.kind, DpdNotify::from_data(notify.data)?.sequence)),
        _ => None,
    })
}

/// Loses everything from now on, and says what was sent when, by whom, since `pair.now`.
fn unheard(pair: &mut Pair, until: Duration) -> Vec<(u64, Who, Vec<u8>)> {
    let start = pair.now;
    let mut sent = Vec::new();
    for (who, queue) in [(Who::A, &mut pair.to_b), (Who::B, &mut pair.to_a)] {
        sent.extend(queue.drain(..).map(|transmit| (0, who, transmit.datagram)));
    }
    while let Some(at) = pair.next_timeout().filter(|at| *at <= start + until) {
        pair.now = pair.now.max(at);
        let before = pair.trace.len();
        pair.timeouts();
        let after = u64::try_from((pair.now - start).as_millis()).unwrap();
        let new = pair.trace[before..].iter();
        sent.extend(new.map(|(who, transmit)| (after, *who, transmit.datagram.clone())));
        pair.to_a.clear();
        pair.to_b.clear();
    }
    pair.now = start + until;
    sent
}

/// RFC 2408 §5.1: what is not answered is sent again, the same octets, five times at growing intervals; then the peer is given up. The
/// responder of main mode repeats nothing by itself; that of quick mode does, as it waits for the third message.
#[test]
fn what_is_not_answered_is_repeated() {
    for heard in 0..5 {
        let mut pair = pair();
        let request = pair.initiate(Who::A);
        for n in 0..2 * heard {
            pair.deliver_next(if n % 2 == 0 { Who::B } else { Who::A });
        }
        if heard == 4 {
            // Nothing is left to repeat but the third message, and that only for whoever asks.
            let sent = unheard(&mut pair, Duration::from_secs(160));
            let of_quick_mode: Vec<u64> = sent
                .iter()
                .filter(|(_, who, datagram)| *who == Who::B && datagram[18] == QUICK_MODE)
                .map(|(at, ..)| *at)
                .collect();
            assert_eq!(of_quick_mode, REPEATED_AT[1..]);
            continue;
        }
        let last = pair.to_b[0].datagram.clone();
        assert_eq!(last[18], if heard < 3 { MAIN_MODE } else { QUICK_MODE });
        let sent = unheard(&mut pair, Duration::from_millis(GIVEN_UP_AT - 1));
        let ours: Vec<_> = sent.iter().filter(|(_, who, _)| *who == Who::A).collect();
        assert_eq!(ours.iter().map(|(at, ..)| *at).collect::<Vec<_>>(), REPEATED_AT, "{heard}");
        assert!(ours.iter().all(|(_, _, datagram)| *datagram == last), "{heard}");
        assert!(!sent.iter().any(|(_, who, _)| *who == Who::B), "{heard}");
        assert!(!pair.a.done.contains_key(&request));
        unheard(&mut pair, Duration::from_millis(2));
        assert!(pair.a.done[&request].is_err(), "{heard}");
        assert!(pair.a.spis.held.is_empty());
        assert_eq!(pair.a.engine.statistics().retransmissions, 5);
    }
}

/// A message that comes again gets the answer that it got, octet for octet; one of a step before gets none (RFC 2408 §5.1).
#[test]
fn a_repeat_gets_the_same_answer() {
    let mut pair = pair();
    pair.initiate(Who::A);
    let mut older: Vec<Transmit> = Vec::new();
    // Three steps of main mode and the first two messages of quick mode.
    for step in 0..4 {
        let question = pair.to_b[0].clone();
        pair.deliver_next(Who::B);
        let answer = pair.to_a[0].datagram.clone();
        let repeated = pair.b.engine.statistics().answers_repeated;
        pair.deliver(Who::B, &question);
        assert_eq!(pair.to_a.len(), 2, "{step}");
        assert_eq!(pair.to_a[1].datagram, answer, "{step}");
        assert_eq!(pair.b.engine.statistics().answers_repeated, repeated + 1);
        pair.lose_next(Who::A);
        for transmit in &older {
            // The fifth message's answer is kept, as only a repeat of it says that the sixth was lost.
            if exchange(transmit) != exchange(&question) {
                continue;
            }
            pair.deliver(Who::B, transmit);
            assert_eq!(pair.to_a.len(), 1, "{step}: an old message is answered");
        }
        older.push(question);
        pair.deliver_next(Who::A);
    }
    let third = pair.to_b[0].clone();
    pair.settle();
    pair.assert_in_use(1, 1);
    // The third has no answer, and the second gets the third again.
    let before = pair.trace.len();
    pair.deliver(Who::B, &third);
    assert_eq!(pair.trace.len(), before);
    let second = pair.trace.iter().rev().find(|(from, _)| *from == Who::B).unwrap().1.clone();
    pair.deliver(Who::A, &second);
    assert_eq!(pair.trace.last().unwrap().1.datagram, third.datagram);
    pair.settle();
    // Long over: nothing of it is answered, and nothing begins.
    pair.advance(Duration::from_secs(400));
    let before = pair.trace.len();
    for transmit in &older {
        pair.deliver(Who::B, transmit);
    }
    let answers = pair.trace[before..].iter().filter(|(_, t)| exchange(t) == QUICK_MODE).count();
    assert_eq!(answers, 0);
    pair.settle();
    pair.assert_in_use(1, 1);
    assert_eq!(pair.b.engine.statistics().ike_quick_mode, 1);
}

/// RFC 2408 §3.1: each exchange after phase 1 has a message ID of its own, which neither side uses again.
#[test]
fn message_ids_are_not_used_again() {
    let mut pair = with(|c| c.dpd_delay = Duration::from_secs(10));
    pair.initiate(Who::A);
    pair.settle();
    for n in 0..20 {
        let who = if n % 2 == 0 { Who::A } else { Who::B };
        pair.command(who, rekey());
        pair.advance(Duration::from_secs(60));
    }
    pair.assert_in_use(1, 1);
    let mut exchanges: BTreeMap<u32, Vec<(Who, u8)>> = BTreeMap::new();
    for (who, transmit) in pair.trace.iter().filter(|(_, t)| exchange(t) != MAIN_MODE) {
        exchanges.entry(id(transmit).0).or_default().push((*who, exchange(transmit)));
    }
    assert!(exchanges.len() > 100 && !exchanges.contains_key(&0));
    for messages in exchanges.values() {
        let (first, kind) = messages[0];
        match kind {
            QUICK_MODE => {
                let turns = [(first, kind), (first.other(), kind), (first, kind)];
                assert_eq!(*messages, turns);
            }
            _ => assert_eq!(*messages, [(first, INFORMATIONAL)]),
        }
    }
}

/// An authentic message under an ID that either side has used already begins nothing.
#[test]
fn a_used_message_id_begins_nothing() {
    let mut pair = established();
    let quick = pair.trace.iter().map(|(_, t)| id(t)).find(|id| id.0 != 0).unwrap();
    let question = dpd(&mut pair, Who::B, 7, NotifyType::RUThere, 1);
    pair.deliver(Who::A, &question);
    assert_eq!(pair.under_way(Who::B), 1, "a new ID is answered");
    let ours = id(&pair.to_b[0]);
    pair.settle();
    for used in [MessageId(0), quick, MessageId(7), ours] {
        let invalid = pair.a.engine.statistics().invalid_packets_received;
        let again = dpd(&mut pair, Who::B, used.0, NotifyType::RUThere, 2);
        pair.deliver(Who::A, &again);
        assert_eq!(pair.under_way(Who::B), 0, "{used:?}");
        assert_eq!(pair.a.engine.statistics().invalid_packets_received, invalid + 1, "{used:?}");
    }
}

/// At three quarters of the IDs that one ISAKMP SA remembers another one is negotiated; at the end of them it begins nothing and takes nothing.
#[test]
fn an_isakmp_sa_out_of_message_ids() {
    let mut pair = with(|c| c.dpd_delay = Duration::from_secs(30));
    pair.initiate(Who::A);
    pair.settle();
    let before = pair.a.spi_pairs();
    (1..=12_288).for_each(|n| sa(&mut pair, Who::A).has_begun(MessageId(n)));
    pair.advance(Duration::from_secs(60));
    pair.assert_in_use(1, 1);
    assert_eq!(pair.a.engine.statistics().ike_main_mode_rekey, 1, "{:?}", pair.a.events);
    assert_eq!(pair.a.spi_pairs(), before);

    let mut pair = established();
    (1..=16_384).for_each(|n| sa(&mut pair, Who::A).has_begun(MessageId(n)));
    let sent = pair.trace.len();
    let request = pair.initiate_child(Who::A, "more");
    assert!(pair.a.done[&request].is_err());
    assert_eq!((pair.trace.len(), pair.a.spis.held.len()), (sent, 1));
    let question = dpd(&mut pair, Who::B, 0x00f0_0000, NotifyType::RUThere, 1);
    pair.deliver(Who::A, &question);
    pair.initiate_child(Who::B, "more");
    pair.deliver_next(Who::A);
    assert_eq!(pair.under_way(Who::B), 0);
    assert_eq!(pair.a.engine.statistics().invalid_packets_received, 2);
}

fn sha256(parts: &[&[u8]]) -> Iv {
    let whole = digest::digest(&digest::SHA256, &parts.concat());
    Iv::from_bytes(&whole.as_ref()[..16]).unwrap()
}

fn last_block(datagram: &[u8]) -> Iv {
    Iv::from_bytes(&datagram[datagram.len() - 16..]).unwrap()
}

/// The key exchange value of a clear message.
fn key_exchange(datagram: &[u8]) -> Vec<u8> {
    let (mut next, mut at) = (datagram[16], 28);
    while next != 4 {
        next = datagram[at];
        at += usize::from(u16::from_be_bytes([datagram[at + 2], datagram[at + 3]]));
    }
    let length = usize::from(u16::from_be_bytes([datagram[at + 2], datagram[at + 3]]));
    datagram[at + 4..at + length].to_vec()
}

/// RFC 2409 appendix B, computed here once more: phase 1 begins with hash(g^xi | g^xr); each later exchange with hash(last block of phase 1 |
/// M-ID); and each further message of an exchange with the last block of the one before, whatever other exchanges are under way.
#[test]
fn vectors_are_chained() {
    let mut pair = with(|c| c.dpd_delay = Duration::from_secs(5));
    pair.initiate(Who::A);
    pair.settle();
    for who in [Who::A, Who::B] {
        pair.initiate_child(who, "net");
        pair.initiate_child(who, "more");
    }
    pair.advance(Duration::from_secs(60));
    let trace: Vec<Vec<u8>> = pair.trace.iter().map(|(_, t)| t.datagram.clone()).collect();
    // Identity protection: no name is in clear (RFC 2409 §5).
    for name in [b"a.example", b"b.example"] {
        assert!(trace.iter().all(|datagram| !datagram.windows(9).any(|octets| octets == name)));
    }
    let [gi, gr] = [2, 3].map(|n| key_exchange(&trace[n]));
    let base = last_block(&trace[5]);
    let mut chains: BTreeMap<u32, (Iv, u8)> = BTreeMap::new();
    chains.insert(0, (sha256(&[&gi, &gr]), 0));
    let session = &sa(&mut pair, Who::A).session;
    let opens = |datagram: &[u8], iv: Iv| {
        let opened = session.sealer.open(datagram[16], &datagram[28..], iv).unwrap();
        // Only the first block depends on the vector: HASH's or ID's generic header is in it.
        opened.payloads().is_ok()
    };
    let (mut quick, mut informational) = (0, 0);
    for datagram in &trace[4..] {
        let id: [u8; 4] = datagram[20..24].try_into().unwrap();
        let first = || (sha256(&[base.bytes(), &id]), 0);
        let (iv, n) = chains.get(&u32::from_be_bytes(id)).copied().unwrap_or_else(first);
        assert!(opens(datagram, iv), "message {n} of exchange {id:02x?}");
        chains.insert(u32::from_be_bytes(id), (last_block(datagram), n + 1));
        quick += usize::from(datagram[18] == QUICK_MODE);
        informational += usize::from(datagram[18] == INFORMATIONAL);
    }
    assert_eq!(quick, 5 * 3);
    assert!(informational > 10, "{informational}");
}

/// RFC 3706 §5.3, §5.4, §7: a number that begins below the half and grows by one with each question; the answer has it.
#[test]
fn liveness_is_numbered() {
    let mut pair =
        Pair::new(v1_with(Who::A, IKE, |c| c.dpd_delay = Duration::from_secs(30)), v1(Who::B));
    pair.initiate(Who::A);
    pair.settle();
    pair.advance(Duration::from_secs(100));
    let sent: Vec<_> = pair.trace[9..].to_vec();
    let said: Vec<_> =
        sent.iter().map(|(who, t)| (*who, read_dpd(&mut pair, t).unwrap())).collect();
    let first = said[0].1.1;
    assert!(first <= 1 << 31);
    let expected: Vec<_> = (first..first + 3)
        .flat_map(|n| [(Who::A, (NotifyType::RUThere, n)), (Who::B, (NotifyType::RUThereAck, n))])
        .collect();
    assert_eq!(said, expected);
}

/// What proves that the peer lives is its answer with the right number, authentic. A wrong number, the number of an earlier question once more, an
/// answer in clear or under a wrong HASH: the question is asked again, with the same number in a message of its own, and then the peer is dead.
#[test]
fn only_the_right_answer_proves_life() {
    for how in 0..5 {
        let mut pair =
            Pair::new(v1_with(Who::A, IKE, |c| c.dpd_delay = Duration::from_secs(30)), v1(Who::B));
        pair.initiate(Who::A);
        pair.settle();
        pair.wait_without_delivery(Duration::from_secs(30));
        let question = pair.to_b[0].clone();
        let (_, number) = read_dpd(&mut pair, &question).unwrap();
        let kind = NotifyType::RUThereAck;
        let mut answer = match how {
            1 => dpd(&mut pair, Who::B, 77, kind, number.wrapping_sub(1)),
            _ => dpd(&mut pair, Who::B, 77, kind, number),
        };
        match how {
            2 => *answer.datagram.last_mut().unwrap() ^= 1,
            3 => answer.datagram[19] = 0,
            // Another message ID: HASH covers it.
            4 => answer.datagram[23] ^= 1,
            _ => {}
        }
        let invalid = pair.a.engine.statistics().invalid_packets_received;
        pair.deliver(Who::A, &answer);
        let lives = sa(&mut pair, Who::A).probe.is_none();
        assert_eq!(lives, how == 0, "{how}");
        let counted = pair.a.engine.statistics().invalid_packets_received - invalid;
        assert_eq!(counted, u64::from(how != 0), "{how}");
        if how == 0 {
            continue;
        }
        let sent = unheard(&mut pair, Duration::from_secs(200));
        assert!(pair.a.states(pair.now).is_empty() && pair.a.sad.is_empty(), "{how}");
        assert_eq!(sent.iter().filter(|(_, who, _)| *who == Who::A).count(), 6, "{how}");
        let times: Vec<u64> = sent.iter().map(|(at, ..)| *at).collect();
        assert_eq!(times, REPEATED_AT, "{how}");
        let datagrams: std::collections::BTreeSet<_> = sent.iter().map(|(.., d)| d).collect();
        assert_eq!(datagrams.len(), 6, "each in a message of its own");
    }
}

/// A recorded question is not asked again: the last one gets its answer as it was, an older one none.
#[test]
fn a_recorded_question_is_no_new_one() {
    let mut pair = established();
    let questions: Vec<Transmit> =
        (1..3).map(|n| dpd(&mut pair, Who::B, n, NotifyType::RUThere, n)).collect();
    let mut answers = Vec::new();
    for question in &questions {
        pair.deliver(Who::A, question);
        answers.push(pair.to_b.pop_front().unwrap().datagram);
    }
    pair.deliver(Who::A, &questions[1]);
    assert_eq!(pair.to_b.pop_front().unwrap().datagram, answers[1]);
    pair.deliver(Who::A, &questions[0]);
    assert_eq!(pair.under_way(Who::B), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Several quick modes under one main mode, begun by either side at once and delivered in any order: each chain stands for itself, and
    /// nothing is invalid.
    #[test]
    fn quick_modes_in_any_order(seed in 1..250u8) {
        let mut pair = established();
        for who in [Who::A, Who::B, Who::A] {
            pair.initiate_child(who, "more");
            pair.command(who, rekey());
        }
        let mut random = crate::random::Random::new([seed; 32]);
        for _ in 0..60 {
            pair.random_step(&mut random);
        }
        (pair.a.hold_jobs, pair.b.hold_jobs) = (false, false);
        pair.settle();
        pair.advance(Duration::from_secs(60));
        for host in [&pair.a, &pair.b] {
            prop_assert_eq!(host.engine.statistics().ike_main_mode_initial, 1);
            prop_assert!(host.engine.statistics().ike_quick_mode >= 3);
        }
        pair.assert_sads_match(pair.a.sad.len());
    }
}
