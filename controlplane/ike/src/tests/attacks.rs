//! The attack classes `ike2-*` that concern the engine, each by its name.
//!
//! Classes about bytes alone are tested beside `message`; `ike2-ts-narrow-empty` has a part in `narrowing`,
//! `ike2-id-dn-length` in `identity`, `ike2-simultaneous` in `collisions`.

use super::harness::{A, B, Pair, Who, changed, config, proposals, socket};
use crate::event::{ChildTarget, Command, Failure, IkeTarget, Path, Transmit};
use crate::message::v2::{
    self, Authentication, Delete, Identification, IdentificationI, KeyExchange, Nonce, Notify,
    SaPayload, Transform,
};
use crate::message::{
    AuthMethod, EncryptionId, ExchangeType, Flags, Header, IdType, IkeSpi, KeMethod, Message,
    MessageId, NotifyType, PayloadList, PrfId, ProtocolId,
};
use crate::proposal::ProposalProtocol;
use crate::proposal::select::{KeyExchangeUse, to_wire};
use crate::sa::Sa;
use crate::v2::sa::State;
use keyexchange::{Group, PrivateKey};
use std::time::Duration;

mod protected;

/// A first message, good unless changed.
#[derive(Clone)]
struct First {
    spi_i: u64,
    spi_r: u64,
    flags: Flags,
    id: u32,
    cookie: Option<Vec<u8>>,
    proposals: Option<Vec<v2::Proposal>>,
    ke: Option<(u16, Vec<u8>)>,
    nonce: Option<Vec<u8>>,
    extra: Vec<(u8, bool, Vec<u8>)>,
}

impl First {
    fn good(spi_i: u64) -> Self {
        let key = PrivateKey::generate(Group::Curve25519).unwrap();
        let offered = proposals(ProposalProtocol::Ike, "aes128gcm16-prfsha256-x25519");
        Self {
            spi_i,
            spi_r: 0,
            flags: Flags::INITIATOR,
            id: 0,
            cookie: None,
            proposals: Some(to_wire(&offered, &[], KeyExchangeUse::Offered)),
            ke: Some((31, key.public().to_vec())),
            nonce: Some(vec![7; 32]),
            extra: Vec::new(),
        }
    }

    fn datagram(&self) -> Vec<u8> {
        let mut list = PayloadList::new();
        if let Some(cookie) = &self.cookie {
            list.push(&Notify::new(NotifyType::Cookie, cookie));
        }
        if let Some(proposals) = &self.proposals {
            list.push(&SaPayload { proposals });
        }
        if let Some((group, data)) = &self.ke {
            list.push(&KeyExchange { method: KeMethod::from_number(*group), data });
        }
        if let Some(nonce) = &self.nonce {
            list.push_raw(40, false, nonce);
        }
        for (number, critical, body) in &self.extra {
            list.push_raw(*number, *critical, body);
        }
        let header = Header::v2(
            IkeSpi(self.spi_i.to_be_bytes()),
            IkeSpi(self.spi_r.to_be_bytes()),
            ExchangeType::IkeSaInit,
            self.flags,
            MessageId(self.id),
        );
        list.into_message(&header).unwrap()
    }
}

/// Sends a datagram to B and returns what B answers.
fn to_b(pair: &mut Pair, datagram: &[u8]) -> Vec<Transmit> {
    let path = Path { local: socket(A, 500), remote: socket(B, 500) };
    pair.deliver(Who::B, &Transmit { path, datagram: datagram.to_vec() });
    pair.to_a.drain(..).collect()
}

/// The first notify of the only answer.
#[track_caller]
fn notify_of(answers: &[Transmit]) -> (NotifyType, Vec<u8>) {
    assert_eq!(answers.len(), 1);
    let Ok(Message::V2(message)) = Message::parse(&answers[0].datagram) else {
        panic!("not IKEv2")
    };
    let notify = message.payloads.notifies().next().expect("no notify");
    (notify.kind, notify.data.to_vec())
}

#[track_caller]
fn refused_with(first: &First, kind: NotifyType) {
    let mut pair = Pair::with_defaults();
    let answers = to_b(&mut pair, &first.datagram());
    assert_eq!(notify_of(&answers).0, kind);
    assert!(pair.b.states(pair.now).is_empty(), "no state is kept");
}

#[track_caller]
fn answered(first: &First) {
    let mut pair = Pair::with_defaults();
    let answers = to_b(&mut pair, &first.datagram());
    assert_eq!(answers.len(), 1);
    assert_eq!(pair.b.states(pair.now).len(), 1);
}

/// A protected message that `who` could send, with any content. Established SAs and initiators in IKE_AUTH.
fn sealed(
    pair: &mut Pair,
    who: Who,
    exchange: ExchangeType,
    id: u32,
    response: bool,
    list: &PayloadList,
) -> Transmit {
    sealed_within(pair, who, exchange, id, response, list, None).remove(0)
}

fn sealed_within(
    pair: &mut Pair,
    who: Who,
    exchange: ExchangeType,
    id: u32,
    response: bool,
    list: &PayloadList,
    limit: Option<usize>,
) -> Vec<Transmit> {
    let host = pair.host(who);
    let ike = *host.engine.table.ids().last().unwrap();
    let Sa::V2(sa) = host.engine.table.get_mut(ike).unwrap() else { panic!() };
    let head = &sa.head;
    let header = Header::v2(head.spi_i, head.spi_r, exchange, head.flags(response), MessageId(id));
    let path = head.path;
    let keys = match &mut sa.state {
        State::Established(state) => &mut state.keys,
        State::AuthSent(state) => &mut state.begin.keys,
        State::AuthExpected(state) => &mut state.keys,
        _ => panic!("no keys yet"),
    };
    let datagrams = keys.seal(&header, list, limit).unwrap();
    datagrams.into_iter().map(|datagram| Transmit { path, datagram }).collect()
}

/// What `who` reads in a protected message.
#[track_caller]
fn notifies_read(pair: &mut Pair, who: Who, transmit: &Transmit) -> Vec<NotifyType> {
    let host = pair.host(who);
    let ike = *host.engine.table.ids().last().unwrap();
    let Sa::V2(sa) = host.engine.table.get_mut(ike).unwrap() else { panic!() };
    let keys = match &sa.state {
        State::Established(state) => &state.keys,
        State::AuthSent(state) => &state.begin.keys,
        _ => panic!("no keys"),
    };
    let Ok(Message::V2(message)) = Message::parse(&transmit.datagram) else { panic!("not IKEv2") };
    let opened = keys.open(&message).expect("not authentic");
    opened.payloads().unwrap().notifies().map(|n| n.kind).collect()
}

/// A's engine has sent IKE_AUTH, B has not seen it.
fn before_auth() -> Pair {
    let mut pair = Pair::with_defaults();
    pair.initiate(Who::A);
    pair.deliver_next(Who::B);
    pair.deliver_next(Who::A);
    pair
}

#[test]
fn ike2_cookie_flood() {
    let mut b = config(Who::B);
    b.settings.cookie_threshold = 3;
    b.settings.block_threshold = 0;
    let mut pair = Pair::new(config(Who::A), b);
    for n in 1..=3 {
        assert_eq!(to_b(&mut pair, &First::good(n).datagram()).len(), 1);
    }
    // No key exchange is computed and nothing kept before the cookie comes back.
    pair.b.hold_jobs = true;
    let stranger = First::good(99);
    let answers = to_b(&mut pair, &stranger.datagram());
    let (kind, cookie) = notify_of(&answers);
    assert_eq!(kind, NotifyType::Cookie);
    let wrong = [
        First { cookie: Some(vec![]), ..stranger.clone() },
        First { cookie: Some(vec![1; 65]), ..stranger.clone() },
        First { cookie: Some(cookie.clone()), nonce: Some(vec![8; 32]), ..stranger.clone() },
        First { cookie: Some(cookie.clone()), spi_i: 100, ..stranger.clone() },
        First { cookie: Some([&cookie[..], &[0]].concat()), ..stranger.clone() },
    ];
    for first in wrong {
        assert_eq!(notify_of(&to_b(&mut pair, &first.datagram())).0, NotifyType::Cookie);
    }
    assert_eq!(pair.b.engine.statistics().half_open, 3);
    assert!(pair.b.jobs.is_empty());
    assert_eq!(pair.b.engine.statistics().cookies_sent, 6);
    let right = First { cookie: Some(cookie), ..stranger };
    to_b(&mut pair, &right.datagram());
    assert_eq!(pair.b.jobs.len(), 1);
    pair.b.hold_jobs = false;
    pair.pump();
    pair.to_a.clear();
    // A real client connects: N(COOKIE), and the same request with it first.
    let request = pair.initiate(Who::A);
    pair.settle();
    pair.assert_done(Who::A, request);
    assert_eq!(pair.b.engine.statistics().negotiation_failures, 0);
}

#[test]
fn ike2_cookie_loop() {
    let mut pair = Pair::with_defaults();
    pair.initiate(Who::A);
    let mut asked = 0;
    for n in 0..50u8 {
        let Some(request) = pair.to_b.pop_front() else { break };
        asked += 1;
        let spi: [u8; 8] = request.datagram[..8].try_into().unwrap();
        let (kind, data) = if n % 2 == 0 {
            (NotifyType::Cookie, vec![n; 20])
        } else {
            (NotifyType::InvalidKePayload, vec![0, 19])
        };
        let datagram = crate::v2::respond::refusal(IkeSpi(spi), kind, &data).unwrap();
        let path = Path { local: request.path.remote, remote: request.path.local };
        pair.deliver(Who::A, &Transmit { path, datagram });
    }
    assert!(asked <= 5, "{asked}");
}

#[test]
fn ike2_invalid_ke_loop() {
    let bad: [&[u8]; 6] = [&[], &[0], &[0, 31], &[0, 14], &[0, 0], &[0, 0, 19]];
    for data in bad {
        let mut pair = Pair::with_defaults();
        pair.initiate(Who::A);
        let request = pair.to_b.pop_front().unwrap();
        let spi = IkeSpi(request.datagram[..8].try_into().unwrap());
        let kind = NotifyType::InvalidKePayload;
        let datagram = crate::v2::respond::refusal(spi, kind, data).unwrap();
        let path = Path { local: request.path.remote, remote: request.path.local };
        pair.deliver(Who::A, &Transmit { path, datagram });
        assert!(pair.to_b.is_empty(), "{data:?}: nothing is tried with it");
        // The true answer still counts.
        pair.deliver(Who::B, &request);
        pair.settle();
        pair.assert_in_use(1, 1);
    }
}

#[test]
fn ike2_ke_zero() {
    let cases = [
        (31, vec![0; 32]),
        (31, [vec![1], vec![0; 31]].concat()),
        (19, vec![0; 64]),
        (19, vec![0xff; 64]),
    ];
    for (group, data) in cases {
        let offered = proposals(ProposalProtocol::Ike, "aes128gcm16-prfsha256-x25519-ecp256");
        let offered = to_wire(&offered, &[], KeyExchangeUse::Offered);
        let ke = Some((group, data));
        let first = First { ke, proposals: Some(offered), ..First::good(5) };
        refused_with(&first, NotifyType::InvalidSyntax);
    }
}

#[test]
fn ike2_ke_internal_group() {
    for group in [0, 1025, 14, 65535] {
        let first = First { ke: Some((group, vec![1; 32])), ..First::good(5) };
        refused_with(&first, NotifyType::InvalidKePayload);
    }
    let mut first = First::good(5);
    for proposal in first.proposals.iter_mut().flatten() {
        proposal.transforms.retain(|t| t.id.kind() != 4);
        proposal.transforms.push(Transform::key_exchange(KeMethod::Unknown(1025)));
    }
    refused_with(&first, NotifyType::NoProposalChosen);
}

#[test]
fn ike2_ke_length_mismatch() {
    for len in [0, 1, 31, 33, 60_000] {
        let first = First { ke: Some((31, vec![9; len])), ..First::good(5) };
        refused_with(&first, NotifyType::InvalidSyntax);
    }
}

#[test]
fn ike2_no_dh_transform() {
    for kind in [1, 2, 4] {
        let mut first = First::good(5);
        for proposal in first.proposals.iter_mut().flatten() {
            proposal.transforms.retain(|t| t.id.kind() != kind);
        }
        refused_with(&first, NotifyType::NoProposalChosen);
    }
    // Types given twice are a choice, not a fault.
    let mut first = First::good(5);
    for proposal in first.proposals.iter_mut().flatten() {
        let again = proposal.transforms.clone();
        proposal.transforms.extend(again);
    }
    answered(&first);
}

#[test]
fn ike2_ignored_sa_proposals() {
    let gcm = EncryptionId::AesGcm16;
    for bits in [None, Some(0), Some(7), Some(129), Some(65535)] {
        let mut first = First::good(5);
        for proposal in first.proposals.iter_mut().flatten() {
            proposal.transforms.retain(|t| t.id.kind() != 1);
            proposal.transforms.push(Transform::encryption(gcm, bits));
        }
        refused_with(&first, NotifyType::NoProposalChosen);
    }
    // A key length on a transform that has none.
    let mut first = First::good(5);
    for proposal in first.proposals.iter_mut().flatten() {
        proposal.transforms.retain(|t| t.id.kind() != 2);
        let prf = Transform { key_length: Some(128), ..Transform::prf(PrfId::HmacSha2_256) };
        proposal.transforms.push(prf);
    }
    refused_with(&first, NotifyType::NoProposalChosen);
}

#[test]
fn ike2_missing_payloads() {
    refused_with(&First { ke: None, ..First::good(5) }, NotifyType::InvalidSyntax);
    refused_with(&First { nonce: None, ..First::good(5) }, NotifyType::InvalidSyntax);
    refused_with(&First { proposals: None, ..First::good(5) }, NotifyType::InvalidSyntax);

    // IKE_AUTH without IDi, without AUTH, and with SA but no selectors.
    let id = Identification { kind: IdType::Fqdn, data: b"a.example" };
    let auth = Authentication { method: AuthMethod::SharedKey, data: &[1; 32] };
    let esp = proposals(ProposalProtocol::Esp, "aes128gcm16");
    let esp = to_wire(&esp, &[1, 2, 3, 4], KeyExchangeUse::None);
    type Fill = fn(&mut PayloadList, &Identification<'_>, &Authentication<'_>, &[v2::Proposal]);
    let cases: [(Fill, NotifyType); 3] = [
        (
            |list, _, auth, _| {
                list.push(auth);
            },
            NotifyType::InvalidSyntax,
        ),
        (
            |list, id, _, _| {
                list.push(&IdentificationI(*id));
            },
            NotifyType::AuthenticationFailed,
        ),
        (
            |list, id, auth, esp| {
                list.push(&IdentificationI(*id));
                list.push(auth);
                list.push(&SaPayload { proposals: esp });
            },
            NotifyType::InvalidSyntax,
        ),
    ];
    for (fill, kind) in cases {
        let mut pair = before_auth();
        let mut list = PayloadList::new();
        fill(&mut list, &id, &auth, &esp);
        let message = sealed(&mut pair, Who::A, ExchangeType::IkeAuth, 1, false, &list);
        pair.deliver(Who::B, &message);
        let answer = pair.to_a.pop_front().unwrap();
        assert_eq!(notifies_read(&mut pair, Who::A, &answer), [kind]);
        assert!(pair.b.states(pair.now).is_empty());
    }

    // CREATE_CHILD_SA without SA: fatal at both ends (RFC 7296 §2.21.3).
    let mut pair = Pair::established();
    let mut list = PayloadList::new();
    list.push(&Nonce::new(&[3; 32]).unwrap());
    let message = sealed(&mut pair, Who::A, ExchangeType::CreateChildSa, 2, false, &list);
    pair.deliver(Who::B, &message);
    let answer = pair.to_a.pop_front().unwrap();
    assert_eq!(notifies_read(&mut pair, Who::A, &answer), [NotifyType::InvalidSyntax]);
    assert!(pair.b.states(pair.now).is_empty() && pair.b.sad.is_empty());
}

#[test]
fn ike2_zero_length_payload() {
    for length in [0u16, 1, 3, 400] {
        let mut datagram = First::good(5).datagram();
        datagram[30..32].copy_from_slice(&length.to_be_bytes());
        let mut pair = Pair::with_defaults();
        assert_eq!(notify_of(&to_b(&mut pair, &datagram)).0, NotifyType::InvalidSyntax);
        assert_eq!(pair.b.engine.statistics().invalid_packets_received, 1);
    }
    let mut many = First::good(5);
    many.extra = vec![(200, false, vec![]); 10_000];
    refused_with(&many, NotifyType::InvalidSyntax);
}

#[test]
fn ike2_critical_unknown() {
    let unknown = |critical| First { extra: vec![(200, critical, vec![1])], ..First::good(5) };
    answered(&unknown(false));
    let mut pair = Pair::with_defaults();
    let answers = to_b(&mut pair, &unknown(true).datagram());
    assert_eq!(notify_of(&answers), (NotifyType::UnsupportedCriticalPayload, vec![200]));
    // On a payload that everybody knows the bit means nothing.
    answered(&First { extra: vec![(43, true, vec![1])], ..First::good(5) });

    let mut pair = Pair::established();
    let mut list = PayloadList::new();
    list.push_raw(200, true, &[1]);
    let message = sealed(&mut pair, Who::A, ExchangeType::Informational, 2, false, &list);
    pair.deliver(Who::B, &message);
    let answer = pair.to_a.pop_front().unwrap();
    let kinds = notifies_read(&mut pair, Who::A, &answer);
    assert_eq!(kinds, [NotifyType::UnsupportedCriticalPayload]);
    pair.assert_in_use(1, 1);
}

#[test]
fn ike2_other_version_payload() {
    // IKEv1's SA, KE, ID and hash types are unknown payloads here.
    let extra = [1, 4, 5, 8, 10].map(|number| (number, false, vec![0; 12])).to_vec();
    answered(&First { extra, ..First::good(5) });
}

#[test]
fn ike2_certreq_bomb() {
    let mut pair = before_auth();
    // A CERTREQ of 1,500 hashes and one that is no whole number of them, in a request that is good otherwise: AUTH of a
    // stranger decides.
    let mut list = PayloadList::new();
    let id = Identification { kind: IdType::Fqdn, data: b"a.example" };
    list.push(&IdentificationI(id));
    list.push_raw(38, false, &[&[4][..], &[7; 30_000]].concat());
    list.push_raw(38, false, &[4, 1, 2, 3]);
    list.push_raw(38, false, &[4]);
    list.push_raw(37, false, &[&[4][..], &[8; 20_000]].concat());
    list.push(&Authentication { method: AuthMethod::SharedKey, data: &[1; 32] });
    let message = sealed(&mut pair, Who::A, ExchangeType::IkeAuth, 1, false, &list);
    pair.deliver(Who::B, &message);
    let answer = pair.to_a.pop_front().unwrap();
    let kinds = notifies_read(&mut pair, Who::A, &answer);
    assert_eq!(kinds, [NotifyType::AuthenticationFailed]);
}

#[test]
fn ike2_response_flag() {
    let mut pair = Pair::established();
    let request = pair.trace.iter().rev().find(|(who, _)| *who == Who::A).unwrap().1.clone();
    let answer = pair.trace.last().unwrap().1.clone();
    // The same request again: the same bytes come back.
    pair.deliver(Who::B, &request);
    assert_eq!(pair.to_a.pop_front().unwrap().datagram, answer.datagram);
    let mut expected = pair.b.engine.statistics().invalid_packets_received;
    let mut stays_silent = |pair: &mut Pair, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = request.clone();
        change(&mut bad.datagram);
        pair.deliver(Who::B, &bad);
        assert!(pair.to_a.is_empty());
        expected += 1;
        assert_eq!(pair.b.engine.statistics().invalid_packets_received, expected);
    };
    // As a response; another content under its ID; an ID outside the window; another exchange under it.
    stays_silent(&mut pair, &|d| d[19] |= 0x20);
    stays_silent(&mut pair, &|d| *d.last_mut().unwrap() ^= 1);
    stays_silent(&mut pair, &|d| d[23] = 7);
    stays_silent(&mut pair, &|d| d[18] = 36);
    stays_silent(&mut pair, &|d| d[18] = 34);
    // As if it came from the responder: those SPIs are not B's own.
    let mut bad = request.clone();
    bad.datagram[19] &= !0x08;
    pair.deliver(Who::B, &bad);
    assert!(pair.to_a.is_empty());
    pair.assert_in_use(1, 1);
}

#[test]
fn ike2_spi_zero() {
    let mut pair = before_auth();
    let auth = pair.to_b.pop_front().unwrap();
    let spi_i = auth.datagram[..8].to_vec();
    for (at, value) in [(0, vec![0; 8]), (8, vec![0; 8]), (8, spi_i)] {
        let mut bad = auth.clone();
        bad.datagram[at..at + 8].copy_from_slice(&value);
        pair.deliver(Who::B, &bad);
        assert!(pair.to_a.is_empty());
    }
    let statistics = pair.b.engine.statistics();
    assert_eq!(statistics.invalid_packets_received, 3);
    // An SPI that matches nothing is the other row.
    let mut bad = auth.clone();
    bad.datagram[8] ^= 1;
    pair.deliver(Who::B, &bad);
    assert_eq!(pair.b.engine.statistics().invalid_cookies_received, 1);
    pair.deliver(Who::B, &auth);
    pair.settle();
    pair.assert_in_use(1, 1);
}

#[test]
fn ike2_version() {
    let good = First::good(5).datagram();
    let mut pair = Pair::with_defaults();
    let mut higher = good.clone();
    higher[17] = 0x30;
    let answers = to_b(&mut pair, &higher);
    assert_eq!(notify_of(&answers), (NotifyType::InvalidMajorVersion, vec![0x20]));
    // To an answer there is no answer.
    higher[19] |= 0x20;
    assert!(to_b(&mut pair, &higher).is_empty());
    let mut minor = good.clone();
    minor[17] = 0x2f;
    assert_eq!(to_b(&mut pair, &minor).len(), 1, "the minor version means nothing");
    for (at, value) in [(17, 0x10), (17, 0x00), (18, 0), (18, 33), (18, 255), (27, 0), (27, 27)] {
        let mut bad = First::good(6).datagram();
        bad[at] = value;
        assert!(to_b(&mut pair, &bad).is_empty(), "octet {at} = {value}");
    }
    assert_eq!(pair.b.engine.statistics().invalid_packets_received, 9);
}

#[test]
fn ike2_half_open_table() {
    let mut b = config(Who::B);
    b.settings.cookie_threshold = 0;
    b.settings.half_open_limit = 20;
    let mut pair = Pair::new(config(Who::A), b);
    // One source gets no further than block_threshold …
    for n in 1..=100 {
        to_b(&mut pair, &First::good(n).datagram());
    }
    assert_eq!(pair.b.engine.statistics().half_open, 5);
    assert_eq!(pair.b.engine.statistics().initiations_dropped, 95);
    // … and all together no further than half_open_limit.
    let mut b = changed(Who::B, |c| c.remote_addrs = vec![]);
    b.settings.cookie_threshold = 0;
    b.settings.half_open_limit = 20;
    let mut pair = Pair::new(config(Who::A), b);
    for n in 1..=100u64 {
        let address = format!("198.51.100.{n}");
        let path = Path { local: socket(&address, 500), remote: socket(B, 500) };
        let datagram = First::good(n).datagram();
        pair.deliver(Who::B, &Transmit { path, datagram });
    }
    assert_eq!(pair.b.engine.statistics().half_open, 20);
    // They are forgotten in time, and room is there again.
    pair.to_a.clear();
    pair.advance(Duration::from_secs(31));
    assert_eq!(pair.b.engine.statistics().isadb_list_size, 0);
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
}
