//! The classes of attack on IKEv1, by the names that catalogues of old vulnerabilities have for them.

use super::harness::{Pair, Who, change_child, proposals};
use super::ikev1::{IKE, established, pair, v1, v1_with};
use crate::event::{Failure, Transmit};
use crate::message::v1::{
    Attribute, DOI_IPSEC, Delete, Hash, Identification, IpsecAttributeType, Nonce, Notify,
    NotifyType, PayloadType, Proposal, SaPayload, Transform,
};
use crate::message::{
    Emit, ExchangeType, Flags, Header, IdType, IkeSpi, MessageId, PayloadList, ProtocolId,
};
use crate::proposal::ProposalProtocol;
use crate::sa::Sa;
use crate::v1::sa::State;
use std::time::Duration;

/// Seals `list`, which begins with a place for HASH, with `who`'s keys.
fn sealed(
    pair: &mut Pair,
    who: Who,
    exchange: ExchangeType,
    fill: impl FnOnce(&mut PayloadList),
) -> Transmit {
    let host = pair.host(who);
    let ike = *host.engine.table.ids().last().unwrap();
    let Sa::V1(sa) = host.engine.table.get_mut(ike).unwrap() else { panic!() };
    let path = sa.head.path;
    let State::Established(state) = &mut sa.state else { panic!() };
    let id = MessageId(0x0bad_cafe);
    let mut list = state.session.list();
    fill(&mut list);
    let (datagram, _) = state.session.seal(exchange, id, state.session.iv(id), &[], &list).unwrap();
    Transmit { path, datagram }
}

/// The same without or with a wrong HASH: encrypted as it is.
fn sealed_raw(pair: &mut Pair, who: Who, list: &PayloadList) -> Transmit {
    let host = pair.host(who);
    let ike = *host.engine.table.ids().last().unwrap();
    let Sa::V1(sa) = host.engine.table.get_mut(ike).unwrap() else { panic!() };
    let (path, i, r) = (sa.head.path, sa.head.spi_i, sa.head.spi_r);
    let State::Established(state) = &mut sa.state else { panic!() };
    let id = MessageId(0x0bad_cafe);
    let header = Header::v1(i, r, ExchangeType::InformationalV1, Flags::ENCRYPTED, id);
    let iv = state.session.iv(id);
    let (datagram, _) =
        state.session.sealer.seal(&header, list.first(), list.bytes().unwrap(), iv).unwrap();
    Transmit { path, datagram }
}

fn cookies(pair: &mut Pair) -> [u8; 16] {
    let ike = *pair.a.engine.table.ids().last().unwrap();
    let Some(Sa::V1(sa)) = pair.a.engine.table.get(ike) else { panic!() };
    let mut both = [0; 16];
    both[..8].copy_from_slice(&sa.head.spi_i.0);
    both[8..].copy_from_slice(&sa.head.spi_r.0);
    both
}

/// A first message to B with this content.
fn first_message(exchange: ExchangeType, list: PayloadList) -> Transmit {
    let mut pair = pair();
    pair.initiate(Who::A);
    let path = pair.to_b[0].path;
    let header = Header::v1(IkeSpi([7; 8]), IkeSpi::ZERO, exchange, Flags::NONE, MessageId(0));
    Transmit { path, datagram: list.into_message(&header).unwrap() }
}

#[track_caller]
fn dropped_without_state(transmit: &Transmit) {
    let mut pair = pair();
    pair.deliver(Who::B, transmit);
    let statistics = pair.b.engine.statistics();
    let counted = statistics.invalid_packets_received
        + statistics.invalid_cookies_received
        + statistics.negotiation_failures;
    assert_eq!(counted, 1);
    assert_eq!((statistics.half_open, statistics.isadb_list_size), (0, 0));
    assert!(pair.b.jobs.is_empty());
    for answer in &pair.to_a {
        assert!(answer.datagram.len() <= transmit.datagram.len());
    }
}

/// `ike-dpd-null-state`: a question whether we live about an SA that is not.
#[test]
fn dpd_without_an_sa() {
    for kind in [NotifyType::RUThere, NotifyType::RUThereAck] {
        let mut list = PayloadList::new();
        let protocol = ProtocolId::Ike;
        list.push(&Notify { doi: DOI_IPSEC, protocol, spi: &[9; 16], kind, data: &[0, 0, 0, 1] });
        let transmit = first_message(ExchangeType::InformationalV1, list);
        dropped_without_state(&transmit);
        // And for one that is half open.
        let mut pair = pair();
        pair.initiate(Who::A);
        pair.deliver_next(Who::B);
        let mut half_open = transmit.clone();
        half_open.datagram[..16].copy_from_slice(&pair.to_a[0].datagram[..16]);
        pair.deliver(Who::B, &half_open);
        pair.settle();
        pair.assert_in_use(1, 1);
    }
}

/// `ike1-nested-length-log`, `ike1-bad-situation`: lengths, DOI and situation of the first message that do not agree.
#[test]
fn a_first_message_with_any_octet_changed() {
    let mut first = pair();
    first.initiate(Who::A);
    let first = first.to_b.pop_front().unwrap();
    for at in 28..first.datagram.len().min(28 + 120) {
        for by in [1, 0x80, 0xff] {
            let mut pair = pair();
            let mut forged = first.clone();
            forged.datagram[at] ^= by;
            pair.deliver(Who::B, &forged);
            // It is refused, or it still says what is wanted; then nothing was computed for it.
            assert!(pair.b.jobs.is_empty());
            assert!(pair.to_a.len() <= 1);
            for answer in &pair.to_a {
                assert!(answer.datagram.len() <= forged.datagram.len());
            }
        }
    }
}

/// `ike1-encrypted-no-state`.
#[test]
fn an_encrypted_message_for_nobody() {
    let mut old = established();
    for (_, transmit) in old.trace.split_off(4) {
        let mut pair = pair();
        pair.deliver(Who::B, &transmit);
        let statistics = pair.b.engine.statistics();
        assert_eq!(statistics.invalid_cookies_received, 1);
        assert!(pair.to_a.is_empty());
    }
}

/// `ike1-frag-null`: fragments without a number, without data, the last one alone.
#[test]
fn fragments_of_nothing() {
    for body in [&[][..], &[0, 1, 0, 0], &[0, 1, 0, 1], &[0, 1, 1, 1]] {
        let mut list = PayloadList::new();
        list.push_raw(132, false, body);
        let transmit = first_message(ExchangeType::IdentityProtection, list);
        let mut pair = pair();
        pair.deliver(Who::B, &transmit);
        assert!(pair.b.engine.ike_sas(pair.now).is_empty());
        assert_eq!(pair.b.engine.statistics().receive_heap_size, 0);
    }
    // The last of many, and no other: one entry of the half-open table for a while.
    let mut list = PayloadList::new();
    list.push_raw(132, false, &[0, 1, 255, 1, 0]);
    let transmit = first_message(ExchangeType::IdentityProtection, list);
    let mut pair = pair();
    pair.deliver(Who::B, &transmit);
    let statistics = pair.b.engine.statistics();
    assert_eq!((statistics.half_open, statistics.receive_heap_size), (1, 1));
    pair.advance(std::time::Duration::from_secs(60));
    let statistics = pair.b.engine.statistics();
    assert_eq!((statistics.half_open, statistics.receive_heap_size), (0, 0));
    assert!(pair.trace.is_empty());
}

/// `ike1-info-no-hash`: a delete, INITIAL-CONTACT or question with a HASH that is missing, wrong or not the first.
#[test]
fn an_informational_without_its_hash() {
    for hash in [None, Some([0; 32])] {
        let mut pair = established();
        let cookies = cookies(&mut pair);
        let protocol = ProtocolId::Ike;
        let contact = Notify {
            doi: DOI_IPSEC,
            protocol,
            spi: &cookies,
            kind: NotifyType::InitialContact,
            data: &[],
        };
        let mut lists = [PayloadList::new(), PayloadList::new()];
        for list in &mut lists {
            if let Some(hash) = &hash {
                list.push(&Hash { data: hash });
            }
        }
        lists[0].push(&Delete::isakmp(&cookies));
        lists[1].push(&contact);
        for list in &lists {
            let forged = sealed_raw(&mut pair, Who::A, list);
            pair.deliver(Who::B, &forged);
        }
        pair.settle();
        pair.assert_in_use(1, 1);
        assert_eq!(pair.b.engine.statistics().invalid_packets_received, 2);
    }
}

/// `ike1-delete-twice`: the first delete is done, what stands behind it is for nobody.
#[test]
fn deletes_behind_the_delete_of_everything() {
    let mut pair = established();
    let cookies = cookies(&mut pair);
    let delete = sealed(&mut pair, Who::A, ExchangeType::InformationalV1, |list| {
        let protocol = ProtocolId::Ike;
        list.push(&Delete::isakmp(&cookies));
        list.push(&Delete::isakmp(&cookies));
        let kind = NotifyType::RUThere;
        list.push(&Notify { doi: DOI_IPSEC, protocol, spi: &cookies, kind, data: &[0; 4] });
        list.push(&Delete::children(ProtocolId::Esp, &[[0, 0, 1, 1]]));
    });
    pair.deliver(Who::B, &delete);
    assert!(pair.b.states(pair.now).is_empty());
    assert!(pair.b.sad.is_empty() && pair.b.spis.held.is_empty());
    assert!(pair.to_a.is_empty());
    pair.deliver(Who::B, &delete);
    assert!(pair.to_a.is_empty());
}

fn quick_mode(
    pair: &mut Pair,
    ids: [Option<Identification<'_>>; 2],
    transform: u8,
    attributes: &[Attribute<'_>],
) {
    let mut wire = Vec::new();
    for attribute in attributes {
        attribute.emit(&mut wire);
    }
    let transmit = sealed(pair, Who::A, ExchangeType::QuickMode, |list| {
        let proposals = [Proposal {
            number: 1,
            protocol: ProtocolId::Esp,
            spi: vec![0, 0, 0x77, 0x77],
            transforms: vec![Transform { number: 1, id: transform, attributes: wire }],
        }];
        list.push(&SaPayload { proposals: &proposals });
        list.push(&Nonce::new(&[5; 32]).unwrap());
        for id in ids.iter().flatten() {
            list.push_raw(PayloadType::Identification.number(), false, &id.body());
        }
    });
    pair.deliver(Who::B, &transmit);
    pair.settle();
    pair.advance(Duration::from_secs(60));
}

/// `ike1-quick-id-fqdn`: identities of a quick mode that are no addresses.
#[test]
fn quick_mode_identities_of_other_kinds() {
    for kind in [IdType::Fqdn, IdType::KeyId, IdType::Unknown(200)] {
        let mut pair = established();
        let id = Identification { kind, protocol: 0, port: 0, data: b"x.example" };
        quick_mode(&mut pair, [Some(id), Some(id)], 12, &[]);
        pair.assert_in_use(1, 1);
        let statistics = pair.b.engine.statistics();
        assert_eq!((statistics.ike_quick_mode, statistics.negotiation_failures), (1, 1));
    }
    // One alone, and one with three octets of address.
    for ids in [1, 2] {
        let mut pair = established();
        let id = Identification { kind: IdType::Ipv4Addr, protocol: 0, port: 0, data: &[10, 1, 0] };
        quick_mode(&mut pair, [Some(id), (ids == 2).then_some(id)], 12, &[]);
        pair.assert_in_use(1, 1);
    }
}

/// `ike1-quick-zero-keymat`: a suite without keys at all: NULL without integrity, GMAC without a length.
#[test]
fn quick_mode_without_key_material() {
    for transform in [11, 23, 0, 255] {
        let mut pair = established();
        quick_mode(&mut pair, [None, None], transform, &[]);
        pair.assert_in_use(1, 1);
        let statistics = pair.b.engine.statistics();
        assert_eq!((statistics.ike_quick_mode, statistics.negotiation_failures), (1, 1));
    }
}

/// ESP over AH: proposals of one number are to be taken together (RFC 2408 §4.2). Refused, and the peer is told why; an alternative
/// of its own number beside them is taken.
#[test]
fn a_bundle_of_esp_and_ah() {
    let proposal = |number, protocol, id, key_bits: Option<u16>| {
        let mut attributes = Vec::new();
        for (kind, value) in [
            (IpsecAttributeType::EncapsulationMode, Some(1)),
            (IpsecAttributeType::AuthenticationAlgorithm, Some(5)),
            (IpsecAttributeType::KeyLength, key_bits),
        ] {
            if let Some(value) = value {
                Attribute::basic(kind.number(), value).emit(&mut attributes);
            }
        }
        let transforms = vec![Transform { number: 1, id, attributes }];
        Proposal { number, protocol, spi: vec![0, 0, 0x77, number], transforms }
    };
    let esp = |number| proposal(number, ProtocolId::Esp, 12, Some(128));
    let ah = |number| proposal(number, ProtocolId::Ah, 5, None);
    let ours = [(ProposalProtocol::Esp, "aes128-sha256"), (ProposalProtocol::Ah, "sha256")];
    let offers = [
        (vec![esp(1)], [true, false]),
        (vec![ah(1)], [false, true]),
        (vec![esp(1), ah(1)], [false, false]),
        (vec![ah(1), esp(1)], [false, false]),
        (vec![ah(1), esp(1), esp(2)], [true, false]),
        (vec![esp(1), ah(2)], [true, true]),
    ];
    for (n, (protocol, text)) in ours.into_iter().enumerate() {
        let config = |who| {
            v1_with(who, IKE, |c| {
                change_child(c, |child| child.proposals = proposals(protocol, text))
            })
        };
        for (offered, taken) in &offers {
            let mut pair = Pair::new(config(Who::A), config(Who::B));
            pair.initiate(Who::A);
            pair.settle();
            pair.assert_in_use(1, 1);
            // A waits for the answer to a quick mode of its own when it is told, so that what it was told shows.
            let request = pair.initiate(Who::A);
            pair.lose_next(Who::B);
            let subnet = |data| {
                let (kind, protocol, port) = (IdType::Ipv4AddrSubnet, 0, 0);
                Identification { kind, protocol, port, data }
            };
            let ids = [&[10, 1, 0, 0, 255, 255, 0, 0], &[10, 2, 0, 0, 255, 255, 0, 0]];
            let message = sealed(&mut pair, Who::A, ExchangeType::QuickMode, |list| {
                list.push(&SaPayload { proposals: offered });
                list.push(&Nonce::new(&[5; 32]).unwrap());
                for id in ids {
                    list.push_raw(PayloadType::Identification.number(), false, &subnet(id).body());
                }
            });
            pair.deliver(Who::B, &message);
            let kind = pair.to_a.front().map(|answer| answer.datagram[18]);
            let failures = pair.b.engine.statistics().negotiation_failures;
            if taken[n] {
                assert_eq!((kind, failures), (Some(ExchangeType::QuickMode.number()), 0));
            } else {
                assert_eq!((kind, failures), (Some(ExchangeType::InformationalV1.number()), 1));
                pair.deliver_next(Who::A);
                assert_eq!(pair.a.done[&request], Err(Failure::NoProposal));
                pair.assert_in_use(1, 1);
            }
        }
    }
}

/// `ike1-aggressive-psk-offline`, `ike1-aggr-reuse-spi`: aggressive mode is not answered at all.
#[test]
fn aggressive_mode_is_not_spoken() {
    let mut main = pair();
    main.initiate(Who::A);
    let mut first = main.to_b.pop_front().unwrap();
    first.datagram[18] = ExchangeType::Aggressive.number();
    dropped_without_state(&first);
}

/// `ike1-amplification`: one forged first message gets one answer, no longer than it is, and none by a timer.
#[test]
fn a_forged_first_message_is_answered_once() {
    let mut pair = pair();
    pair.initiate(Who::A);
    let first = pair.to_b.pop_front().unwrap();
    pair.deliver(Who::B, &first);
    assert_eq!(pair.to_a.len(), 1);
    assert!(pair.to_a[0].datagram.len() <= first.datagram.len());
    pair.to_a.clear();
    for _ in 0..60 {
        pair.now += Duration::from_secs(1);
        let now = pair.now;
        pair.b.engine.handle_timeout(now, &mut pair.b.spis);
        assert!(pair.b.pump(now).is_empty());
    }
    assert_eq!(pair.b.engine.statistics().half_open, 0);
}

/// `ike2-ke-zero`, for IKEv1: key exchange values that are no point on the curve or of another length.
#[test]
fn key_exchange_values_that_nobody_has() {
    let values: [Vec<u8>; 5] =
        [vec![0; 64], vec![0xff; 64], vec![1; 63], vec![1; 65], [vec![1; 63], vec![2]].concat()];
    for value in values {
        let mut pair = pair();
        pair.initiate(Who::A);
        pair.deliver_next(Who::B);
        pair.deliver_next(Who::A);
        let third = pair.to_b.pop_front().unwrap();
        let header = third.datagram[..28].to_vec();
        let mut list = PayloadList::new();
        list.push_raw(PayloadType::KeyExchange.number(), false, &value);
        list.push(&Nonce::new(&[3; 32]).unwrap());
        let (mut i, mut r) = ([0; 8], [0; 8]);
        i.copy_from_slice(&header[..8]);
        r.copy_from_slice(&header[8..16]);
        let exchange = ExchangeType::IdentityProtection;
        let header = Header::v1(IkeSpi(i), IkeSpi(r), exchange, Flags::NONE, MessageId(0));
        let forged = Transmit { path: third.path, datagram: list.into_message(&header).unwrap() };
        pair.deliver(Who::B, &forged);
        assert_eq!(pair.b.engine.statistics().invalid_packets_received, 1);
        assert_eq!(pair.b.engine.statistics().ike_main_mode_initial, 0);
        assert!(pair.to_a.is_empty());
    }
}

/// `ike2-spi-zero`, `ike2-version`: an initiator's cookie of zero.
#[test]
fn a_cookie_of_zero() {
    let mut pair = Pair::new(v1(Who::A), v1_with(Who::B, IKE, |_| ()));
    pair.initiate(Who::A);
    let mut first = pair.to_b.pop_front().unwrap();
    first.datagram[..8].fill(0);
    pair.deliver(Who::B, &first);
    assert!(pair.b.engine.ike_sas(pair.now).is_empty());
    assert!(pair.to_a.is_empty());
}

/// A message with a payload of this number behind its last, so many times.
fn appended(message: &Transmit, number: u8, payload: &[u8], times: usize) -> Transmit {
    let mut forged = message.clone();
    let octets = &mut forged.datagram;
    let (mut next, mut at) = (16, 28);
    while at < octets.len() {
        next = at;
        at += usize::from(u16::from_be_bytes([octets[at + 2], octets[at + 3]]));
    }
    for _ in 0..times {
        octets[next] = number;
        next = octets.len();
        octets.extend([0, 0]);
        octets.extend(u16::try_from(payload.len() + 4).unwrap().to_be_bytes());
        octets.extend(payload);
    }
    let length = u32::try_from(octets.len()).unwrap().to_be_bytes();
    octets[24..28].copy_from_slice(&length);
    forged
}

/// `ike2-other-version-payload`, `ike2-zero-length-payload`, `ike2-certreq-bomb`, for IKEv1: payloads of the other version,
/// without a content, of lengths that are none, and requests for certificates by the thousand.
#[test]
fn payloads_behind_a_first_message() {
    let mut first = pair();
    first.initiate(Who::A);
    let first = first.to_b.pop_front().unwrap();
    let bare = |number, times| appended(&first, number, &[], times);
    let mut forged: Vec<Transmit> = (33..=48).map(|number| bare(number, 1)).collect();
    forged.extend((1..=20).map(|number| bare(number, 1)));
    forged.extend([bare(13, 10_000), appended(&first, 7, &[4, 0x30, 0], 5_000)]);
    for length in [0_u8, 1, 3, 200] {
        let mut wrong = bare(13, 1);
        *wrong.datagram.last_mut().unwrap() = length;
        forged.push(wrong);
    }
    for forged in forged {
        let mut pair = pair();
        pair.deliver(Who::B, &forged);
        // Refused, or answered as if it were not there.
        assert!(pair.b.jobs.is_empty() && pair.to_a.len() <= 1);
        assert!(pair.to_a.iter().all(|answer| answer.datagram.len() <= forged.datagram.len()));
    }
}
