//! Those that come within an IKE SA: encrypted, in fragments, or claiming to be.

use super::*;

#[test]
fn ike2_rekey_unestablished() {
    let mut pair = before_auth();
    let mut list = PayloadList::new();
    let ike = proposals(ProposalProtocol::Ike, "aes128gcm16-prfsha256-x25519");
    let ike = to_wire(&ike, &[7; 8], KeyExchangeUse::Offered);
    list.push(&SaPayload { proposals: &ike });
    list.push(&Nonce::new(&[3; 32]).unwrap());
    list.push(&KeyExchange { method: KeMethod::Curve25519, data: &[9; 32] });
    for exchange in [ExchangeType::CreateChildSa, ExchangeType::Informational] {
        let message = sealed(&mut pair, Who::A, exchange, 1, false, &list);
        pair.deliver(Who::B, &message);
        assert!(pair.to_a.is_empty());
    }
    assert_eq!(pair.b.engine.statistics().ike_main_mode(), 0);
    // IKE_AUTH itself still works.
    pair.settle();
    pair.assert_in_use(1, 1);
}

#[test]
fn ike2_eap_early_success() {
    for with_id in [true, false] {
        let mut pair = before_auth();
        let mut list = PayloadList::new();
        if with_id {
            let id = Identification { kind: IdType::Fqdn, data: b"b.example" };
            list.push(&v2::IdentificationR(id));
        }
        // EAP-Success.
        list.push_raw(48, false, &[3, 1, 0, 4]);
        let message = sealed(&mut pair, Who::B, ExchangeType::IkeAuth, 1, true, &list);
        pair.to_b.clear();
        pair.deliver(Who::A, &message);
        assert!(pair.a.states(pair.now).is_empty());
        assert!(pair.a.spis.held.is_empty());
        assert_eq!(pair.a.engine.statistics().ike_main_mode(), 0);
        assert_eq!(pair.a.done.values().next(), Some(&Err(Failure::Misbehaved)));
    }
}

#[test]
fn ike2_rekey_bad_protocol() {
    let spi = Pair::established().a.sad.values().next().unwrap().inbound.as_ref().unwrap().spi;
    for (protocol, spi) in [
        (0, spi.get().to_be_bytes().to_vec()),
        (1, spi.get().to_be_bytes().to_vec()),
        (2, spi.get().to_be_bytes().to_vec()),
        (4, spi.get().to_be_bytes().to_vec()),
        (3, vec![]),
        (3, vec![0; 8]),
        (3, vec![0, 0, 0, 0]),
    ] {
        let mut pair = Pair::established();
        let mut list = PayloadList::new();
        let protocol = ProtocolId::from_number(protocol);
        list.push(&Notify { protocol, spi: &spi, kind: NotifyType::RekeySa, data: &[] });
        let esp = proposals(ProposalProtocol::Esp, "aes128gcm16-x25519");
        let esp = to_wire(&esp, &[1, 2, 3, 4], KeyExchangeUse::Offered);
        list.push(&SaPayload { proposals: &esp });
        list.push(&Nonce::new(&[3; 32]).unwrap());
        let message = sealed(&mut pair, Who::A, ExchangeType::CreateChildSa, 2, false, &list);
        pair.deliver(Who::B, &message);
        let answer = pair.to_a.pop_front().unwrap();
        assert_eq!(notifies_read(&mut pair, Who::A, &answer), [NotifyType::ChildSaNotFound]);
        pair.assert_in_use(1, 1);
    }
}

#[test]
fn ike2_ts_malformed() {
    let bodies: [&[u8]; 5] = [
        &[0, 0, 0, 0],
        &[255, 0, 0, 0],
        &[1, 0, 0, 0, 7, 0, 0, 0],
        &[1, 0, 0, 0, 7, 0, 0, 15, 0, 0, 255, 255, 10, 0, 0, 0, 10, 0, 0],
        // The end before the start.
        &[1, 0, 0, 0, 7, 0, 0, 16, 0, 0, 255, 255, 10, 0, 0, 9, 10, 0, 0, 1],
    ];
    for body in bodies {
        let mut pair = Pair::established();
        let mut list = PayloadList::new();
        let esp = proposals(ProposalProtocol::Esp, "aes256gcm16");
        let esp = to_wire(&esp, &[1, 2, 3, 4], KeyExchangeUse::Offered);
        list.push(&SaPayload { proposals: &esp });
        list.push(&Nonce::new(&[3; 32]).unwrap());
        list.push_raw(44, false, body);
        list.push_raw(45, false, body);
        let message = sealed(&mut pair, Who::A, ExchangeType::CreateChildSa, 2, false, &list);
        pair.deliver(Who::B, &message);
        let answer = pair.to_a.pop_front().unwrap();
        assert_eq!(notifies_read(&mut pair, Who::A, &answer), [NotifyType::InvalidSyntax]);
        // Fatal, as RFC 7296 §2.21.3 says.
        assert!(pair.b.states(pair.now).is_empty());
    }
    // A selector of a type we do not know leaves nothing to agree on: the child is refused, the IKE SA stays.
    let mut pair = Pair::established();
    let mut list = PayloadList::new();
    let esp = proposals(ProposalProtocol::Esp, "aes256gcm16");
    let esp = to_wire(&esp, &[1, 2, 3, 4], KeyExchangeUse::Offered);
    list.push(&SaPayload { proposals: &esp });
    list.push(&Nonce::new(&[3; 32]).unwrap());
    list.push_raw(44, false, &[1, 0, 0, 0, 200, 0, 0, 8, 0, 0, 0, 0]);
    list.push_raw(45, false, &[1, 0, 0, 0, 200, 0, 0, 8, 0, 0, 0, 0]);
    let message = sealed(&mut pair, Who::A, ExchangeType::CreateChildSa, 2, false, &list);
    pair.deliver(Who::B, &message);
    let answer = pair.to_a.pop_front().unwrap();
    assert_eq!(notifies_read(&mut pair, Who::A, &answer), [NotifyType::TsUnacceptable]);
    pair.assert_in_use(1, 1);
}

/// The responder's part: an answer wider than the offer is not installed, and the peer's half is deleted.
#[test]
fn ike2_ts_narrow_empty() {
    let mut pair = Pair::established();
    let request = pair.initiate_child(Who::A, "more");
    pair.to_b.clear();
    let mut list = PayloadList::new();
    let esp = proposals(ProposalProtocol::Esp, "aes256gcm16");
    let esp = to_wire(&esp, &[1, 2, 3, 4], KeyExchangeUse::Offered);
    list.push(&SaPayload { proposals: &esp });
    list.push(&Nonce::new(&[3; 32]).unwrap());
    let all = [&[1, 0, 0, 0, 8, 0, 0, 40, 0, 0, 255, 255][..], &[0; 16], &[255; 16]].concat();
    list.push_raw(44, false, &all);
    list.push_raw(45, false, &all);
    let message = sealed(&mut pair, Who::B, ExchangeType::CreateChildSa, 2, true, &list);
    pair.deliver(Who::A, &message);
    assert_eq!(pair.a.done[&request], Err(Failure::Selectors));
    assert_eq!(pair.a.sad.len(), 1);
    assert_eq!(pair.a.spis.held.len(), 1);
    let delete = pair.to_b.pop_front().unwrap();
    assert_eq!(delete.datagram[18], 37, "INFORMATIONAL");
}

#[test]
fn ike2_sk_short() {
    let mut pair = Pair::established();
    pair.command(
        Who::A,
        Command::InitiateChild {
            connection: None,
            child: "more".to_owned(),
            origin: crate::event::Origin::Initiate,
        },
    );
    let good = pair.to_b.pop_front().unwrap();
    let before = pair.b.engine.statistics().invalid_packets_received;
    let mut bad = 0;
    for at in (20..good.datagram.len()).step_by(7) {
        let mut cut = good.clone();
        cut.datagram.truncate(at);
        // With the header's and the payload's length made to fit.
        let mut fitted = cut.clone();
        if at >= 32 {
            fitted.datagram[24..28].copy_from_slice(&u32::try_from(at).unwrap().to_be_bytes());
            let payload = u16::try_from(at - 28).unwrap();
            fitted.datagram[30..32].copy_from_slice(&payload.to_be_bytes());
        }
        let mut flipped = good.clone();
        flipped.datagram[at] ^= 0x40;
        for transmit in [cut, fitted, flipped] {
            bad += 1;
            pair.deliver(Who::B, &transmit);
            assert!(pair.to_a.is_empty(), "no answer at {at}");
        }
    }
    let statistics = pair.b.engine.statistics();
    let counted = statistics.invalid_packets_received - before;
    // A flip in the exchange type or flags is counted too; one in an SPI counts as another row, none was made here.
    assert_eq!(counted, bad);
    pair.deliver(Who::B, &good);
    pair.settle();
    pair.assert_in_use(1, 2);
}

#[test]
fn ike2_frag_bomb() {
    let mut pair = Pair::established();
    // More fragments than are reassembled: none is kept.
    let mut list = PayloadList::new();
    list.push_raw(43, false, &[1; 40_000]);
    let exchange = ExchangeType::Informational;
    let fragments = sealed_within(&mut pair, Who::A, exchange, 2, false, &list, Some(200));
    assert!(fragments.len() > 128);
    for fragment in fragments {
        pair.deliver(Who::B, &fragment);
    }
    assert_eq!(pair.b.engine.statistics().receive_heap_size, 0);
    // An incomplete one waits; a smaller total is dropped; a forged one harms nothing; the last one completes it.
    let mut list = PayloadList::new();
    list.push_raw(43, false, &[1; 2000]);
    let many = sealed_within(&mut pair, Who::A, exchange, 2, false, &list, Some(500));
    let few = sealed_within(&mut pair, Who::A, exchange, 2, false, &list, Some(1200));
    assert!(few.len() < many.len());
    pair.deliver(Who::B, &many[1]);
    pair.deliver(Who::B, &few[0]);
    assert_eq!(pair.b.engine.statistics().receive_heap_size, 1);
    let mut forged = many[0].clone();
    *forged.datagram.last_mut().unwrap() ^= 1;
    pair.deliver(Who::B, &forged);
    pair.deliver(Who::B, &many[1]);
    for fragment in many.iter().rev() {
        pair.deliver(Who::B, fragment);
    }
    assert_eq!(pair.b.engine.statistics().receive_heap_size, 0);
    assert_eq!(pair.to_a.len(), 1, "one answer");
    // The repeat of the first fragment asks for the answer again (RFC 7383 §2.6.1), that of another does not.
    pair.to_a.clear();
    pair.deliver(Who::B, &many[0]);
    pair.deliver(Who::B, &many[2]);
    assert_eq!(pair.to_a.len(), 1);
    pair.to_a.clear();
    pair.assert_in_use(1, 1);
}

#[test]
fn ike2_frag_extra_outer_payloads() {
    let mut pair = Pair::established();
    let mut list = PayloadList::new();
    list.push_raw(43, false, &[1; 1000]);
    let exchange = ExchangeType::Informational;
    let fragments = sealed_within(&mut pair, Who::A, exchange, 2, false, &list, Some(400));
    for fragment in &fragments {
        // 200 unknown payloads before the fragment: too many for a message.
        let mut datagram = fragment.datagram[..28].to_vec();
        datagram[16] = 200;
        for n in 0..200 {
            let next = if n == 199 { 53 } else { 200 };
            datagram.extend_from_slice(&[next, 0, 0, 4]);
        }
        datagram.extend_from_slice(&fragment.datagram[28..]);
        let len = u32::try_from(datagram.len()).unwrap();
        datagram[24..28].copy_from_slice(&len.to_be_bytes());
        pair.deliver(Who::B, &Transmit { path: fragment.path, datagram });
    }
    assert!(pair.to_a.is_empty());
    assert_eq!(pair.b.engine.statistics().receive_heap_size, 0);
    pair.assert_in_use(1, 1);
    let target = ChildTarget::Named { connection: None, child: "net".to_owned() };
    pair.command(Who::A, Command::RekeyChild(target));
    pair.command(
        Who::B,
        Command::TerminateIke { target: IkeTarget::Connection("gw".to_owned()), force: false },
    );
    pair.settle();
    pair.advance(Duration::from_secs(30));
    pair.assert_empty();
}

#[test]
fn ike2_delete_spoof() {
    let mut pair = Pair::established();
    let (spi_i, spi_r) = {
        let view = &pair.a.engine.ike_sas(pair.now)[0];
        (IkeSpi(view.spi_i.to_be_bytes()), IkeSpi(view.spi_r.to_be_bytes()))
    };
    let spi = pair.a.sad.values().next().unwrap().inbound.as_ref().unwrap().spi;
    let spis = [spi.get().to_be_bytes()];
    type Fill = fn(&mut PayloadList, &[[u8; 4]]);
    let contents: [Fill; 4] = [
        |list, _| {
            list.push(&Delete::IKE);
        },
        |list, spis| {
            list.push(&Delete::children(ProtocolId::Esp, spis));
        },
        |list, _| {
            list.push(&Notify::new(NotifyType::InvalidIkeSpi, &[]));
        },
        |list, _| {
            list.push(&Notify::new(NotifyType::AuthenticationFailed, &[]));
        },
    ];
    for fill in contents {
        for (id, flags) in [(2, Flags::INITIATOR), (0, Flags::INITIATOR.with(Flags::RESPONSE))] {
            let mut list = PayloadList::new();
            fill(&mut list, &spis);
            let header =
                Header::v2(spi_i, spi_r, ExchangeType::Informational, flags, MessageId(id));
            let datagram = list.into_message(&header).unwrap();
            assert!(to_b(&mut pair, &datagram).is_empty());
        }
    }
    pair.assert_in_use(1, 1);
    // An SPI that another IKE SA made is nobody's here: the answer is empty (RFC 7296 §1.4.1).
    let mut list = PayloadList::new();
    list.push(&Delete::children(ProtocolId::Esp, &[[9, 9, 9, 9]]));
    let message = sealed(&mut pair, Who::A, ExchangeType::Informational, 2, false, &list);
    pair.deliver(Who::B, &message);
    assert_eq!(pair.to_a.len(), 1);
    pair.assert_in_use(1, 1);
}
