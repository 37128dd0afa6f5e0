//! Parsing and emission over recorded datagrams, the attack classes that concern parsing, and arbitrary bytes.

mod walk;

#[cfg(test)]
mod tests {
    use ike::message::*;
    use proptest::prelude::*;

    use super::walk::walk;

    const RECORDED: &str = include_str!("data/ike_datagrams.jsonl");

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    fn recorded() -> Vec<(String, Vec<u8>)> {
        RECORDED
            .lines()
            .map(|line| {
                let row: serde_json::Value = serde_json::from_str(line).unwrap();
                let name = format!("{} {}", row["origin"].as_str().unwrap(), row["frame"]);
                (name, hex(row["datagram"].as_str().unwrap()))
            })
            .collect()
    }

    fn header(exchange: ExchangeType) -> Header {
        let (spi_i, spi_r) = (IkeSpi([1; 8]), IkeSpi([2; 8]));
        Header::v2(spi_i, spi_r, exchange, Flags::INITIATOR, MessageId(0))
    }

    fn header_v1(exchange: ExchangeType) -> Header {
        Header::v1(IkeSpi([1; 8]), IkeSpi([2; 8]), exchange, Flags::NONE, MessageId(0))
    }

    /// A datagram of one IKEv2 payload.
    fn one_v2(number: u8, body: &[u8]) -> Vec<u8> {
        let mut list = PayloadList::new();
        list.push_raw(number, false, body);
        list.into_message(&header(ExchangeType::IkeSaInit)).unwrap()
    }

    /// A datagram of one IKEv1 payload.
    fn one_v1(number: u8, body: &[u8]) -> Vec<u8> {
        let mut list = PayloadList::new();
        list.push_raw(number, false, body);
        list.into_message(&header_v1(ExchangeType::IdentityProtection)).unwrap()
    }

    fn fault(datagram: &[u8]) -> Option<InvalidMessage> {
        walk(datagram);
        Message::parse(datagram).err()
    }

    /// A datagram whose chain is given as octets, after a header that names its first payload.
    fn chain(first: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let length = u32::try_from(HEADER_LEN + bytes.len()).unwrap();
        header(ExchangeType::IkeSaInit).emit(first, length, &mut out);
        out.extend_from_slice(bytes);
        out
    }

    #[test]
    fn recorded_datagrams_parse_and_emit_to_the_same_octets() {
        let mut other = Vec::new();
        for (name, datagram) in recorded() {
            let again = walk(&datagram).unwrap_or_else(|| panic!("{name}: {:?}", fault(&datagram)));
            if again != datagram {
                other.push(name);
            }
        }
        // The first was written by hand and has octets behind the last payload; the others' sender sets the critical bit
        // of known payloads, which is ignored and not sent by us (RFC 7296 §3.2).
        let expected = [
            "tcpdump/ikev2-id-normal.pcap 1",
            "tcpdump/ikev2pI2.pcap 1",
            "tcpdump/ikev2pI2.pcap 2",
        ];
        assert_eq!(other, expected);
        assert_eq!(recorded().len(), 72);
    }

    #[test]
    fn recorded_ike_sa_init_reads_as_sent() {
        let (_, datagram) = recorded()
            .into_iter()
            .find(|(name, _)| name == "rusticata/ike-sa-init-req.bin 1")
            .unwrap();
        let Message::V2(message) = Message::parse(&datagram).unwrap() else { panic!("version") };
        assert_eq!(message.header.exchange, ExchangeType::IkeSaInit);
        assert_eq!(message.header.flags, Flags::INITIATOR);
        assert_eq!(message.header.message_id, MessageId(0));
        assert!(message.header.spi_r.is_zero());
        assert!(message.encrypted().is_none());
        let sa = message.payloads.sa().unwrap();
        let proposal = sa.proposals().next().unwrap();
        let transforms: Vec<_> = proposal.transforms().map(|t| t.understood().unwrap()).collect();
        assert_eq!(
            transforms,
            [
                Transform::encryption(EncryptionId::AesCbc, Some(128)),
                Transform::encryption(EncryptionId::TripleDes, None),
                Transform::prf(PrfId::HmacSha1),
                Transform::integrity(IntegrityId::HmacSha1_96),
                Transform::key_exchange(KeMethod::Modp1024),
            ]
        );
        assert_eq!(message.payloads.key_exchange().unwrap().data.len(), 128);
    }

    use v2::Transform;

    // ---- attack classes of parsing; the names are those of the catalogue ----

    #[test]
    fn ike2_zero_length_payload_loops_and_long_chains() {
        for length in 0..=3u8 {
            // The next payload is the payload itself: the chain is 43 → 43 → …
            assert_eq!(fault(&chain(43, &[43, 0, 0, length])), Some(InvalidMessage::BadLength));
        }
        assert_eq!(fault(&chain(43, &[0, 0, 0, 5])), Some(InvalidMessage::Truncated));
        assert_eq!(fault(&chain(43, &[0, 0, 0xff, 0xff])), Some(InvalidMessage::Truncated));
        assert_eq!(fault(&chain(43, &[0, 0, 0])), Some(InvalidMessage::Truncated));
        assert_eq!(fault(&chain(43, &[])), Some(InvalidMessage::Truncated));
        let mut bomb = [43, 0, 0, 4].repeat(10_000);
        *bomb.iter_mut().rev().nth(3).unwrap() = 0;
        assert_eq!(fault(&chain(43, &bomb)), Some(InvalidMessage::TooManyPayloads));
        let bomb = {
            let mut v1 = chain(13, &[13, 0, 0, 4].repeat(10_000));
            v1[17] = 0x10;
            v1
        };
        assert_eq!(fault(&bomb), Some(InvalidMessage::TooManyPayloads));
        // The bound itself is allowed.
        let mut full = [43, 0, 0, 4].repeat(MAX_PAYLOADS);
        *full.iter_mut().rev().nth(3).unwrap() = 0;
        assert_eq!(fault(&chain(43, &full)), None);
        let trailing = fault(&chain(43, &[0, 0, 0, 4, 0]));
        assert_eq!(trailing, None, "octets after the last payload are left alone in clear");
        let trailing = v2::Payloads::parse_inner(43, &[0, 0, 0, 4, 0]).err();
        assert_eq!(trailing, Some(InvalidMessage::TrailingBytes), "and refused inside SK");
        let nested = v2::Payloads::parse_inner(46, &[0, 0, 0, 4]).err();
        assert_eq!(nested, Some(InvalidMessage::EncryptedNotLast));
    }

    #[test]
    fn ike2_critical_unknown_is_refused_only_when_both() {
        let message = |number: u8, critical: bool| {
            let mut list = PayloadList::new();
            list.push_raw(number, critical, &[0; 16]);
            list.into_message(&header(ExchangeType::Informational)).unwrap()
        };
        assert_eq!(fault(&message(200, true)), Some(InvalidMessage::UnsupportedCritical(200)));
        assert_eq!(
            InvalidMessage::UnsupportedCritical(200).notify(),
            Some(NotifyType::UnsupportedCriticalPayload)
        );
        assert_eq!(fault(&message(200, false)), None);
        assert_eq!(fault(&message(40, true)), None, "critical bit on a known payload");
        let mut reserved = message(200, false);
        reserved[HEADER_LEN + 1] = 0x7f;
        assert_eq!(fault(&reserved), None, "reserved bits are ignored");
    }

    #[test]
    fn ike2_other_version_payload_is_an_unknown_one() {
        // IKEv1's SA (1) and nonce (10) inside IKEv2, with bodies that would be malformed.
        for number in [1, 4, 5, 10, 12] {
            let datagram = one_v2(number, &[0xff]);
            let Message::V2(message) = Message::parse(&datagram).unwrap() else {
                panic!("version")
            };
            assert!(matches!(message.payloads.iter().next(), Some(v2::Payload::Unknown(_))));
        }
        for number in 33..=53 {
            let datagram = one_v1(number, &[0xff]);
            let Message::V1(message) = Message::parse(&datagram).unwrap() else {
                panic!("version")
            };
            let v1::Body::Plain(payloads) = message.body else { panic!("body") };
            assert!(matches!(payloads.iter().next(), Some(v1::Payload::Unknown(_))), "{number}");
        }
    }

    #[test]
    fn ike2_version_and_header_lengths() {
        let good = one_v2(43, b"vendor");
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut datagram = good.clone();
            change(&mut datagram);
            fault(&datagram)
        };
        assert_eq!(with(&|d| d[17] = 0x30), Some(InvalidMessage::HigherMajorVersion));
        assert_eq!(
            InvalidMessage::HigherMajorVersion.notify(),
            Some(NotifyType::InvalidMajorVersion)
        );
        assert_eq!(with(&|d| d[17] = 0x00), Some(InvalidMessage::Version));
        assert_eq!(with(&|d| d[17] = 0x2f), None, "the minor version is ignored");
        for length in [0u32, 27, 37, 39, u32::MAX] {
            let wrong = with(&|d| d[24..28].copy_from_slice(&length.to_be_bytes()));
            assert_eq!(wrong, Some(InvalidMessage::HeaderLength), "{length}");
        }
        assert_eq!(InvalidMessage::HeaderLength.notify(), None, "silence");
        for exchange in [0, 33, 255] {
            // Kept as a number: no exchange of the engine.
            let datagram = {
                let mut d = good.clone();
                d[18] = exchange;
                d
            };
            let number = Message::parse(&datagram).unwrap().header().exchange.number();
            assert_eq!(number, exchange);
        }
        for len in 0..HEADER_LEN {
            assert_eq!(fault(&good[..len]), Some(InvalidMessage::Truncated));
            assert!(Header::spis(&good[..len]).is_none());
        }
    }

    #[test]
    fn ike2_spi_zero_or_equal_is_dropped() {
        let mut datagram = one_v2(43, b"vendor");
        datagram[..8].fill(0);
        assert_eq!(fault(&datagram), Some(InvalidMessage::HeaderSpi));
        datagram[..16].fill(7);
        assert_eq!(fault(&datagram), Some(InvalidMessage::HeaderSpi));
        assert_eq!(InvalidMessage::HeaderSpi.notify(), None);
        // The responder's alone may be zero: the first message.
        datagram[8..16].fill(0);
        assert_eq!(fault(&datagram), None);
    }

    fn transform_body(attributes: &[u8]) -> Vec<u8> {
        let length = 8 + u8::try_from(attributes.len()).unwrap();
        let transform = [&[0, 0, 0, length, 1, 0, 0, 12], attributes].concat();
        let proposal = 8 + u8::try_from(transform.len()).unwrap();
        [&[0, 0, 0, proposal, 1, 1, 0, 1], &transform[..]].concat()
    }

    #[test]
    fn ike2_ignored_sa_proposals_key_length_attribute() {
        let understood = |attributes: &[u8]| {
            let datagram = one_v2(33, &transform_body(attributes));
            let Message::V2(message) = Message::parse(&datagram).unwrap() else {
                panic!("version")
            };
            let sa = message.payloads.sa().unwrap();
            sa.proposals().next().unwrap().transforms().next().unwrap().understood()
        };
        let bits = |n: u16| [0x80, 14, (n >> 8) as u8, n as u8];
        assert_eq!(
            understood(&bits(256)),
            Some(Transform::encryption(EncryptionId::AesCbc, Some(256)))
        );
        assert_eq!(understood(&[]), None, "missing on AES");
        assert_eq!(understood(&bits(0)), None);
        assert_eq!(understood(&bits(7)), None);
        assert_eq!(understood(&bits(65535)), None);
        assert_eq!(understood(&[bits(128), bits(128)].concat()), None, "twice");
        assert_eq!(understood(&[0, 14, 0, 2, 0, 128]), None, "TLV form");
        assert_eq!(understood(&[0x80, 99, 0, 1]), None, "another attribute");
        assert_eq!(understood(&[0x80, 14, 0]), None, "cut off");
        assert_eq!(understood(&[0x80, 99, 0, 1].repeat(17)), None, "many");
        // A key length on a transform that has none.
        let mut body = transform_body(&bits(256));
        body[15] = 3; // 3DES
        let datagram = one_v2(33, &body);
        let Message::V2(message) = Message::parse(&datagram).unwrap() else { panic!("version") };
        let sa = message.payloads.sa().unwrap();
        assert!(sa.proposals().next().unwrap().transforms().next().unwrap().understood().is_none());
    }

    #[test]
    fn ike2_no_dh_transform_and_duplicates_still_parse() {
        // An empty proposal and one with every type twice are for the engine to refuse.
        assert_eq!(fault(&one_v2(33, &[0, 0, 0, 8, 1, 1, 0, 0])), None);
    }

    #[test]
    fn sa_lengths_and_counts_that_disagree() {
        let good = transform_body(&[0x80, 14, 0, 128]);
        let with = |at: usize, value: u8| {
            let mut body = good.clone();
            body[at] = value;
            fault(&one_v2(33, &body))
        };
        assert_eq!(fault(&one_v2(33, &good)), None);
        assert_eq!(fault(&one_v2(33, &[])), Some(InvalidMessage::Truncated));
        assert_eq!(with(0, 2), Some(InvalidMessage::Truncated), "more, but there is none");
        assert_eq!(with(0, 1), Some(InvalidMessage::BadChaining));
        assert_eq!(with(3, 19), Some(InvalidMessage::Truncated));
        assert_eq!(with(3, 3), Some(InvalidMessage::BadLength));
        assert_eq!(with(3, 255), Some(InvalidMessage::Truncated));
        assert_eq!(with(4, 2), Some(InvalidMessage::ProposalNumber));
        assert_eq!(with(6, 4), Some(InvalidMessage::SpiSize));
        assert_eq!(with(6, 255), Some(InvalidMessage::Truncated));
        assert_eq!(with(7, 0), Some(InvalidMessage::BadLength), "transforms beyond the count");
        assert_eq!(with(7, 2), Some(InvalidMessage::BadCount));
        assert_eq!(with(8, 3), Some(InvalidMessage::Truncated));
        assert_eq!(with(11, 7), Some(InvalidMessage::Truncated));
        let long =
            [&[0, 0, 4, 8, 1, 1, 0, 128][..], &[3, 0, 0, 8, 1, 0, 0, 12].repeat(128)].concat();
        assert_eq!(fault(&one_v2(33, &long)), Some(InvalidMessage::TooManyElements));
        let many: Vec<u8> = (1..=65u8).flat_map(|n| [2, 0, 0, 8, n, 1, 0, 0]).collect();
        assert_eq!(fault(&one_v2(33, &many)), Some(InvalidMessage::TooManyElements));
    }

    #[test]
    fn ike2_ts_malformed() {
        let selector = |kind: u8, length: u8, ports: [u16; 2], range: [[u8; 4]; 2]| {
            let [start, end] = ports.map(u16::to_be_bytes);
            [&[kind, 0, 0, length][..], &start, &end, &range[0], &range[1]].concat()
        };
        let any = [[0; 4], [255; 4]];
        let payload =
            |count: u8, selectors: &[u8]| one_v2(44, &[&[count, 0, 0, 0], selectors].concat());
        let good = selector(7, 16, [0, 65535], any);
        assert_eq!(fault(&payload(1, &good)), None);
        assert_eq!(fault(&payload(0, &[])), Some(InvalidMessage::BadCount));
        assert_eq!(fault(&payload(0, &good)), Some(InvalidMessage::BadCount));
        assert_eq!(fault(&payload(2, &good)), Some(InvalidMessage::Truncated));
        assert_eq!(fault(&payload(255, &good.repeat(255))), None);
        assert_eq!(fault(&payload(255, &good)), Some(InvalidMessage::Truncated));
        for length in [0, 3] {
            let wrong = selector(7, length, [0, 65535], any);
            assert_eq!(fault(&payload(1, &wrong)), Some(InvalidMessage::BadLength), "{length}");
        }
        for length in [7, 15] {
            let wrong = selector(7, length, [0, 65535], any);
            assert!(fault(&payload(1, &wrong)).is_some(), "{length}");
        }
        assert!(
            fault(&payload(1, &selector(8, 16, [0, 65535], any))).is_some(),
            "IPv6 of 16 octets"
        );
        let backwards = selector(7, 16, [0, 65535], [[9; 4], [8; 4]]);
        assert_eq!(fault(&payload(1, &backwards)), Some(InvalidMessage::BadSelector));
        let ports = selector(7, 16, [80, 79], any);
        assert_eq!(fault(&payload(1, &ports)), Some(InvalidMessage::BadSelector));
        // OPAQUE and unknown types are sound; what is unknown is not among the selectors.
        let both = [selector(7, 16, [65535, 0], any), selector(9, 16, [0, 1], any)].concat();
        let datagram = payload(2, &both);
        let Message::V2(message) = Message::parse(&datagram).unwrap() else { panic!("version") };
        let selectors: Vec<_> = message.payloads.ts_i().unwrap().iter().collect();
        assert_eq!(selectors.len(), 1);
        assert!(selectors[0].ports.is_opaque());
    }

    #[test]
    fn ike2_id_dn_length_is_no_syntax_error_from_four_octets_on() {
        for length in 0..4 {
            assert_eq!(fault(&one_v2(35, &[1; 4][..length])), Some(InvalidMessage::Truncated));
            assert_eq!(fault(&one_v1(5, &[1; 4][..length])), Some(InvalidMessage::Truncated));
        }
        for data in [&[][..], &[1, 2, 3], &[1, 2, 3, 4, 5], b"a\0b"] {
            assert_eq!(fault(&one_v2(35, &[&[1, 0, 0, 0], data].concat())), None);
        }
    }

    #[test]
    fn ike2_certreq_bomb_is_linear() {
        let bomb = [&[4][..], &[7; 60_000]].concat();
        let datagram = one_v2(38, &bomb);
        let Message::V2(message) = Message::parse(&datagram).unwrap() else { panic!("version") };
        let Some(v2::Payload::CertRequest(request)) = message.payloads.iter().next() else {
            panic!("payload")
        };
        assert_eq!(request.hashes().count(), 3000);
        for length in [1, 20, 21] {
            assert_eq!(fault(&one_v2(38, &vec![4; length])), None);
        }
        assert_eq!(fault(&one_v2(38, &[])), Some(InvalidMessage::Truncated));
    }

    #[test]
    fn ike2_rekey_bad_protocol_is_kept_for_the_engine() {
        for protocol in [0, 1, 4] {
            for size in [0, 4, 16] {
                let body = [&[protocol, size, 0x40, 9][..], &[1; 16][..usize::from(size)]].concat();
                let datagram = one_v2(41, &body);
                let Message::V2(message) = Message::parse(&datagram).unwrap() else {
                    panic!("version")
                };
                let notify = message.payloads.notify(NotifyType::RekeySa).unwrap();
                assert_eq!(notify.protocol.number(), protocol);
                assert_eq!(notify.spi.len(), usize::from(size));
            }
        }
        assert_eq!(
            fault(&one_v2(41, &[3, 5, 0, 1, 1, 1, 1, 1][..7])),
            Some(InvalidMessage::Truncated)
        );
    }

    #[test]
    fn ike2_frag_bomb_numbers_out_of_range() {
        let fragment = |number: u16, total: u16| {
            let body = [&number.to_be_bytes()[..], &total.to_be_bytes(), &[0; 40]].concat();
            fault(&one_v2(53, &body))
        };
        assert_eq!(fragment(1, 65535), None);
        assert_eq!(fragment(0, 2), Some(InvalidMessage::FragmentNumber));
        assert_eq!(fragment(3, 2), Some(InvalidMessage::FragmentNumber));
        assert_eq!(fragment(0, 0), Some(InvalidMessage::FragmentNumber));
        assert_eq!(fault(&one_v2(53, &[0, 1, 0])), Some(InvalidMessage::Truncated));
    }

    #[test]
    fn ike2_frag_extra_outer_payloads_are_bounded_and_sk_is_last() {
        let mut many = [43, 0, 0, 4].repeat(MAX_PAYLOADS);
        *many.iter_mut().rev().nth(3).unwrap() = 53;
        many.extend_from_slice(&[41, 0, 0, 12, 0, 1, 0, 2, 1, 2, 3, 4]);
        assert_eq!(fault(&chain(43, &many)), Some(InvalidMessage::TooManyPayloads));
        let after = [&[41, 0, 0, 8, 1, 2, 3, 4][..], &[0, 0, 0, 4]].concat();
        assert_eq!(fault(&chain(46, &after)), Some(InvalidMessage::EncryptedNotLast));
    }

    #[test]
    fn ike2_delete_counts_and_sizes() {
        let delete = |body: &[u8]| fault(&one_v2(42, body));
        assert_eq!(delete(&[1, 0, 0, 0]), None);
        assert_eq!(delete(&[3, 4, 0, 1, 1, 2, 3, 4]), None);
        assert_eq!(delete(&[1, 8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), Some(InvalidMessage::SpiSize));
        assert_eq!(delete(&[3, 0, 0xff, 0xff]), Some(InvalidMessage::SpiSize));
        assert_eq!(delete(&[3, 4, 0xff, 0xff, 1, 2, 3, 4]), Some(InvalidMessage::BadCount));
        assert_eq!(delete(&[3, 4, 0, 0, 1, 2, 3, 4]), Some(InvalidMessage::BadCount));
        assert_eq!(delete(&[99, 0, 0xff, 0xff]), None, "an unknown protocol's, ignored");
    }

    #[test]
    fn ike2_nonce_lengths() {
        for (length, expected) in [
            (15, Some(InvalidMessage::NonceLength)),
            (16, None),
            (256, None),
            (257, Some(InvalidMessage::NonceLength)),
        ] {
            assert_eq!(fault(&one_v2(40, &vec![1; length])), expected, "{length}");
        }
    }

    #[test]
    fn ike2_eap_and_configuration_lengths() {
        assert_eq!(fault(&one_v2(48, &[1, 1, 0, 4])), None);
        assert_eq!(fault(&one_v2(48, &[1, 1, 0, 5])), Some(InvalidMessage::BadLength));
        assert_eq!(fault(&one_v2(48, &[1, 1, 0])), Some(InvalidMessage::Truncated));
        assert_eq!(fault(&one_v2(47, &[1, 0, 0, 0, 0, 1, 0, 0])), None);
        assert_eq!(fault(&one_v2(47, &[1, 0, 0, 0, 0, 1, 0, 1])), Some(InvalidMessage::Truncated));
        let many = [&[1, 0, 0, 0][..], &[0, 1, 0, 0].repeat(129)].concat();
        assert_eq!(fault(&one_v2(47, &many)), Some(InvalidMessage::TooManyElements));
    }

    // ---- IKEv1 ----

    fn sa_v1(doi: u32, situation: u32, rest: &[u8]) -> Vec<u8> {
        [&doi.to_be_bytes()[..], &situation.to_be_bytes(), rest].concat()
    }

    /// One proposal, one transform, one attribute.
    const OFFER: [u8; 20] = [0, 0, 0, 20, 1, 1, 0, 1, 0, 0, 0, 12, 1, 1, 0, 0, 0x80, 1, 0, 7];

    #[test]
    fn ike1_nested_length_log() {
        let with = |at: usize, value: u8| {
            let mut offer = OFFER;
            offer[at] = value;
            fault(&one_v1(1, &sa_v1(1, 1, &offer)))
        };
        assert_eq!(fault(&one_v1(1, &sa_v1(1, 1, &OFFER))), None);
        for (at, value, expected) in [
            (0, 2, InvalidMessage::Truncated),
            (0, 9, InvalidMessage::BadChaining),
            (3, 3, InvalidMessage::BadLength),
            (3, 21, InvalidMessage::Truncated),
            (6, 200, InvalidMessage::Truncated),
            (6, 17, InvalidMessage::Truncated),
            (7, 0, InvalidMessage::BadLength),
            (7, 9, InvalidMessage::BadCount),
            (8, 3, InvalidMessage::Truncated),
            (11, 3, InvalidMessage::BadLength),
            (11, 13, InvalidMessage::Truncated),
            (16, 0, InvalidMessage::Truncated),
        ] {
            assert_eq!(with(at, value), Some(expected), "octet {at} = {value}");
        }
        let bomb = [0x80, 1, 0, 7].repeat(33);
        let offer = [&[0, 0, 0, 148, 1, 1, 0, 1, 0, 0, 0, 140, 1, 1, 0, 0][..], &bomb].concat();
        assert_eq!(fault(&one_v1(1, &sa_v1(1, 1, &offer))), Some(InvalidMessage::TooManyElements));
    }

    #[test]
    fn ike1_bad_situation() {
        for (doi, situation, expected) in [
            (0xffff_ffff, 1, InvalidMessage::Doi),
            (0, 1, InvalidMessage::Doi),
            (1, 0xffff_ffff, InvalidMessage::Situation),
            (1, 3, InvalidMessage::Situation),
        ] {
            assert_eq!(fault(&one_v1(1, &sa_v1(doi, situation, &OFFER))), Some(expected));
        }
        // With an odd next payload besides.
        let mut datagram = one_v1(1, &sa_v1(u32::MAX, u32::MAX, &OFFER));
        datagram[HEADER_LEN] = 251;
        assert!(fault(&datagram).is_some());
    }

    #[test]
    fn ike1_frag_null() {
        assert_eq!(fault(&one_v1(132, &[0, 1, 1, 1, 9])), None);
        assert_eq!(fault(&one_v1(132, &[0, 1, 1, 1])), Some(InvalidMessage::Truncated), "no data");
        assert_eq!(fault(&one_v1(132, &[0, 1])), Some(InvalidMessage::Truncated));
        assert_eq!(fault(&one_v1(132, &[0, 1, 0, 1, 9])), Some(InvalidMessage::FragmentNumber));
    }

    #[test]
    fn ike1_encrypted_body_is_left_alone() {
        let mut datagram = one_v1(1, b"not an SA payload");
        datagram[19] = 1;
        let Message::V1(message) = Message::parse(&datagram).unwrap() else { panic!("version") };
        let v1::Body::Encrypted { first, ciphertext } = message.body else { panic!("body") };
        assert_eq!((first, ciphertext.len()), (1, datagram.len() - HEADER_LEN));
    }

    #[test]
    fn ike1_delete_and_notify_lengths() {
        let delete = |body: &[u8]| fault(&one_v1(12, body));
        assert_eq!(delete(&[&[0, 0, 0, 1, 1, 16, 0, 1][..], &[5; 16]].concat()), None);
        assert_eq!(delete(&[0, 0, 0, 1, 3, 4, 0, 2, 1, 2, 3, 4]), Some(InvalidMessage::BadCount));
        assert_eq!(delete(&[0, 0, 0, 1, 3, 0, 0xff, 0xff]), Some(InvalidMessage::SpiSize));
        assert_eq!(delete(&[0, 0, 0, 1, 77, 0, 0xff, 0xff]), None);
        let notify = |body: &[u8]| fault(&one_v1(11, body));
        assert_eq!(notify(&[0, 0, 0, 1, 1, 16, 0, 14]), Some(InvalidMessage::Truncated));
        assert_eq!(fault(&one_v1(21, &[1, 0, 0, 0, 1, 2, 3])), Some(InvalidMessage::Truncated));
        assert_eq!(fault(&one_v1(21, &[2, 0, 0, 0, 1, 2, 3, 4])), Some(InvalidMessage::BadLength));
    }

    #[test]
    fn ike1_draft_natt_numbers_mean_the_same() {
        for number in [20, 130] {
            let datagram = one_v1(number, &[3; 20]);
            let Message::V1(message) = Message::parse(&datagram).unwrap() else {
                panic!("version")
            };
            let v1::Body::Plain(payloads) = message.body else { panic!("body") };
            assert!(matches!(payloads.iter().next(), Some(v1::Payload::NatDetection(_))));
        }
    }

    #[test]
    fn messages_too_long_are_an_error_of_ours() {
        let mut list = PayloadList::new();
        list.push_raw(43, false, &vec![0; 65_532]);
        assert_eq!(list.bytes().err(), Some(MessageTooLong));
        assert!(list.into_message(&header(ExchangeType::IkeAuth)).is_err());
        let mut list = PayloadList::new();
        list.push_raw(43, false, &vec![0; 40_000]).push_raw(43, false, &vec![0; 40_000]);
        assert!(list.bytes().is_ok());
        assert!(list.into_message(&header(ExchangeType::IkeAuth)).is_err());
    }

    fn any_transform() -> impl Strategy<Value = Transform> {
        (1u8..=12, any::<u16>(), 1u16..=64).prop_map(|(kind, id, octets)| {
            let id = v2::TransformId::from_numbers(kind, id);
            let key_length = match id.key_length() {
                v2::KeyLength::Required => Some(octets * 8),
                v2::KeyLength::Forbidden | v2::KeyLength::Unspecified => None,
            };
            Transform { id, key_length }
        })
    }

    fn any_proposals() -> impl Strategy<Value = Vec<v2::Proposal>> {
        let spi = prop_oneof![Just((1u8, 0usize)), Just((1, 8)), Just((2, 4)), Just((3, 4))];
        let one = (spi, proptest::collection::vec(any_transform(), 0..20));
        proptest::collection::vec(one, 1..9).prop_map(|all| {
            (1..)
                .zip(all)
                .map(|(number, ((protocol, size), transforms))| v2::Proposal {
                    number,
                    protocol: ProtocolId::from_number(protocol),
                    spi: vec![7; size],
                    transforms,
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            walk(&bytes);
        }

        #[test]
        fn arbitrary_bodies_never_panic(
            number: u8,
            v1: bool,
            body in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            walk(&if v1 { one_v1(number, &body) } else { one_v2(number, &body) });
        }

        /// Whatever parses emits something that parses to the same again.
        #[test]
        fn mutated_recordings_never_panic_and_settle(
            pick in 0usize..72,
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
            truncate: bool,
        ) {
            let (_, mut datagram) = recorded().swap_remove(pick);
            for (at, value) in edits {
                let at = at.index(datagram.len());
                datagram[at] = value;
            }
            if truncate {
                datagram.truncate(cut.index(datagram.len()));
            }
            if datagram.len() >= HEADER_LEN {
                let length = u32::try_from(datagram.len()).unwrap().to_be_bytes();
                datagram[24..28].copy_from_slice(&length);
            }
            if let Some(once) = walk(&datagram) {
                let twice = walk(&once);
                prop_assert_eq!(twice.as_ref(), Some(&once));
            }
        }

        #[test]
        fn sa_payloads_read_back_as_written(proposals in any_proposals()) {
            let mut list = PayloadList::new();
            list.push(&v2::SaPayload { proposals: &proposals });
            let datagram = list.into_message(&header(ExchangeType::IkeSaInit)).unwrap();
            let Message::V2(message) = Message::parse(&datagram).unwrap() else { panic!("version") };
            let read: Vec<_> = message
                .payloads
                .sa()
                .unwrap()
                .proposals()
                .map(|p| v2::Proposal {
                    number: p.number,
                    protocol: p.protocol,
                    spi: p.spi.to_vec(),
                    transforms: p.transforms().map(|t| t.understood().unwrap()).collect(),
                })
                .collect();
            prop_assert_eq!(read, proposals);
        }
    }
}
