//! Known answers and edges of the key schedules and of message protection.

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use ike::crypto::v1::{Iv, Skeyid, SkeyidD, V1Cipher, V1Hash};
    use ike::crypto::{
        CookieSecret, DirectionKeys, IkeKeys, KeySizes, OpenError, Opened, Prf, SealError,
        SharedKeyAuth, SkCipher, SkD, SkIntegrity, SkOpener, SkSealer, SkSuite, Skeyseed,
        nat_detection_hash,
    };
    use ike::message::{
        EncryptionId, ExchangeType, Flags, Header, IdType, IkeSpi, IntegrityId, Message, MessageId,
        MessageTooLong, NotifyType, PayloadList, ProtocolId, v1, v2,
    };
    use ipsec::algorithm::KeyMaterial;
    use keyexchange::{Group, PrivateKey};
    use proptest::prelude::*;
    use serde_json::Value;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    fn rows(text: &str) -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn bytes(row: &Value, name: &str) -> Vec<u8> {
        hex(row[name].as_str().unwrap_or_else(|| panic!("no {name} in {row}")))
    }

    fn optional(row: &Value, name: &str) -> Option<Vec<u8>> {
        row[name].as_str().map(hex)
    }

    fn number(row: &Value, name: &str) -> usize {
        row[name].as_u64().unwrap().try_into().unwrap()
    }

    fn spi(row: &Value, name: &str) -> IkeSpi {
        IkeSpi(bytes(row, name).try_into().unwrap())
    }

    fn prf(row: &Value, name: &str) -> Prf {
        Prf::from_name(row[name].as_str().unwrap()).unwrap()
    }

    /// NIST CAVS samples, RFC 2202, 3566, 4231, 4434 and 4615 cases, and shapes computed with hashlib.
    #[test]
    fn key_derivation_known_answers() {
        let mut done = 0;
        for row in rows(include_str!("data/kdf.jsonl")) {
            let expect = &row["expect"];
            let check = |name: &str, value: &[u8]| {
                if let Some(expected) = optional(expect, name) {
                    assert_eq!(value, expected, "{name} of {}", row["id"]);
                }
            };
            match row["op"].as_str().unwrap() {
                "prf" => {
                    let (key, data) = (bytes(&row, "key"), bytes(&row, "data"));
                    check("out", &prf(&row, "alg").compute(&key, &[&data]).unwrap());
                    // However the data are cut into parts.
                    let (front, back) = data.split_at(data.len() / 3);
                    check("out", &prf(&row, "alg").compute(&key, &[front, &[], back]).unwrap());
                }
                "prf_plus" => {
                    let (key, seed) = (bytes(&row, "key"), bytes(&row, "seed"));
                    let len = number(&row, "len");
                    check("out", &prf(&row, "alg").plus(&key, &[&seed], len).unwrap());
                }
                "ikev2_keys" => ikev2_keys(&row, check),
                "ikev2_keymat" => {
                    let sk_d = SkD::from_bytes(prf(&row, "prf"), bytes(&row, "sk_d"));
                    let gir = optional(&row, "gir");
                    let (ni, nr) = (bytes(&row, "ni"), bytes(&row, "nr"));
                    let keymat =
                        sk_d.keymat(gir.as_deref(), &ni, &nr, &[], number(&row, "len")).unwrap();
                    check("keymat", keymat.expose());
                }
                "ikev1_keys" => {
                    let (ni, nr, gxy) = (bytes(&row, "ni"), bytes(&row, "nr"), bytes(&row, "gxy"));
                    let skeyid = match optional(&row, "psk") {
                        Some(psk) => Skeyid::from_psk(prf(&row, "prf"), &psk, &ni, &nr),
                        None => Skeyid::from_exchange(prf(&row, "prf"), &ni, &nr, &gxy),
                    };
                    let keys = skeyid
                        .unwrap()
                        .derive(&gxy, spi(&row, "cky_i"), spi(&row, "cky_r"))
                        .unwrap();
                    check("skeyid", keys.skeyid.expose());
                    check("skeyid_d", keys.d.expose());
                    check("skeyid_a", keys.a.expose());
                    check("skeyid_e", keys.e.expose());
                    if row["len"].is_u64() {
                        check("key", &keys.e.encryption_key(number(&row, "len")).unwrap());
                    }
                }
                "ikev1_keymat" => {
                    let d = SkeyidD::from_bytes(prf(&row, "prf"), bytes(&row, "skeyid_d"));
                    let protocol = ProtocolId::from_number(number(&row, "protocol") as u8);
                    let keymat = d
                        .keymat(
                            optional(&row, "gqmxy").as_deref(),
                            protocol,
                            &bytes(&row, "spi"),
                            &bytes(&row, "ni"),
                            &bytes(&row, "nr"),
                            number(&row, "len"),
                        )
                        .unwrap();
                    check("keymat", &keymat);
                }
                other => panic!("no test for {other}"),
            }
            done += 1;
        }
        assert_eq!(done, 48);
    }

    fn ikev2_keys(row: &Value, check: impl Fn(&str, &[u8])) {
        let (ni, nr) = (bytes(row, "ni"), bytes(row, "nr"));
        let shared = optional(row, "gir").or(optional(row, "shared")).unwrap();
        let new_prf = prf(row, "prf");
        let seed = match optional(row, "sk_d_old") {
            None => Skeyseed::initial(new_prf, &ni, &nr, &shared).unwrap(),
            Some(old) => {
                let old_prf =
                    if row["prf_old"].is_string() { prf(row, "prf_old") } else { new_prf };
                Skeyseed::rekey(&SkD::from_bytes(old_prf, old), &ni, &nr, &shared, &[]).unwrap()
            }
        };
        let size = |name: &str| number(&row["sizes"], name);
        let sizes = KeySizes { d: size("d"), a: size("a"), e: size("e"), p: size("p") };
        let (spi_i, spi_r) = (spi(row, "spi_i"), spi(row, "spi_r"));
        let mut keys = IkeKeys::derive(new_prf, &seed, &ni, &nr, spi_i, spi_r, sizes).unwrap();
        if let Some(ppk) = optional(row, "ppk") {
            keys = keys.mix_ppk(&ppk).unwrap();
        }
        check("skeyseed", seed.expose());
        check("sk_d", keys.d.expose());
        check("sk_ai", keys.initiator.integrity.expose());
        check("sk_ar", keys.responder.integrity.expose());
        check("sk_ei", keys.initiator.encryption.expose());
        check("sk_er", keys.responder.encryption.expose());
        check("sk_pi", keys.pi.expose());
        check("sk_pr", keys.pr.expose());
    }

    /// RFC 7296 §2.14: with the AES functions only 64 bits of each nonce make SKEYSEED.
    #[test]
    fn aes_prfs_take_eight_octets_of_each_nonce() {
        let (ni, nr, shared) = ([1u8; 32], [2u8; 32], [3u8; 32]);
        for prf in [Prf::Aes128Cmac, Prf::Aes128Xcbc] {
            let seed = Skeyseed::initial(prf, &ni, &nr, &shared).unwrap();
            let key = [[1u8; 8], [2; 8]].concat();
            assert_eq!(seed.expose(), prf.compute(&key, &[&shared]).unwrap().as_slice());
        }
    }

    #[test]
    fn prf_plus_ends_at_255_outputs() {
        let prf = Prf::HmacSha2_256;
        assert_eq!(prf.plus(b"key", &[b"seed"], 255 * 32).unwrap().len(), 255 * 32);
        assert!(prf.plus(b"key", &[b"seed"], 255 * 32 + 1).is_err());
        assert_eq!(prf.plus(b"key", &[b"seed"], 0).unwrap().len(), 0);
    }

    /// The order of RFC 7296 §2.17: initiator's encryption, initiator's integrity, then the responder's.
    #[test]
    fn child_keys_come_in_order() {
        let sk_d = SkD::from_bytes(Prf::HmacSha2_256, vec![9; 32]);
        let all = sk_d.keymat(None, &[1; 16], &[2; 16], &[], 2 * (20 + 32)).unwrap();
        let octets = all.expose().to_vec();
        let keys = all.split(20, 32).unwrap();
        assert_eq!(keys.from_initiator.encryption.expose(), &octets[..20]);
        assert_eq!(keys.from_initiator.integrity.expose(), &octets[20..52]);
        assert_eq!(keys.from_responder.encryption.expose(), &octets[52..72]);
        assert_eq!(keys.from_responder.integrity.expose(), &octets[72..]);
        let short = sk_d.keymat(None, &[1; 16], &[2; 16], &[], 103).unwrap();
        assert!(short.split(20, 32).is_err());
    }

    fn suite(row: &Value) -> SkSuite {
        let id = EncryptionId::from_number(number(row, "cipher") as u16);
        let bits = row["key_bits"].as_u64().map(|bits| bits as u16);
        let integrity = row["integ"]
            .as_u64()
            .map(|id| SkIntegrity::from_id(IntegrityId::from_number(id as u16)).unwrap());
        SkSuite::new(SkCipher::new(id, bits).unwrap(), integrity).unwrap()
    }

    fn direction(row: &Value) -> DirectionKeys {
        DirectionKeys {
            encryption: KeyMaterial::new(bytes(row, "encryption")),
            integrity: KeyMaterial::new(bytes(row, "integrity")),
        }
    }

    fn open(opener: &SkOpener, datagram: &[u8]) -> Result<Opened, OpenError> {
        let Message::V2(message) = Message::parse(datagram).unwrap() else { panic!("version") };
        opener.open(&message.encrypted().unwrap())
    }

    /// Messages made with another implementation (pyca/cryptography), every suite.
    #[test]
    fn sk_payloads_of_another_implementation() {
        let mut sealed = 0;
        for row in rows(include_str!("data/sk_payloads.jsonl")) {
            let datagram = bytes(&row, "datagram");
            let content = bytes(&row, "content");
            let opener = SkOpener::new(suite(&row), direction(&row)).unwrap();
            let opened = open(&opener, &datagram).unwrap();
            assert_eq!(*opened.content, content, "{row}");
            assert_eq!(u64::from(opened.first), row["inner"].as_u64().unwrap());
            let fragment = opened.fragment.map(|f| vec![f.number(), f.total()]);
            assert_eq!(serde_json::json!(fragment), row["fragment"]);
            // A flipped bit anywhere in the message is noticed.
            for at in 0..datagram.len() {
                let mut bad = datagram.clone();
                bad[at] ^= 0x01;
                if let Ok(Message::V2(message)) = Message::parse_any_spi(&bad)
                    && let Some(encrypted) = message.encrypted()
                {
                    let refused = opener.open(&encrypted).err();
                    assert!(refused.is_some(), "octet {at} of {row}");
                }
            }
            // The first message under a key, made here, is the same octet for octet.
            if row["first_of_key"] == true && row["fragment"].is_null() {
                let (header, _) = Header::parse(&datagram).unwrap();
                let mut list = PayloadList::new();
                list.push(&v2::Notify::new(NotifyType::InitialContact, &[]));
                let mut sealer = SkSealer::new(suite(&row), direction(&row)).unwrap();
                assert_eq!(sealer.seal(&header, &list).unwrap(), datagram, "{row}");
                sealed += 1;
            }
        }
        assert!(sealed > 35, "{sealed}");
    }

    fn header() -> Header {
        let (spi_i, spi_r) = (IkeSpi([1; 8]), IkeSpi([2; 8]));
        Header::v2(spi_i, spi_r, ExchangeType::Informational, Flags::INITIATOR, MessageId(1))
    }

    fn pair(suite: SkSuite) -> (SkSealer, SkOpener) {
        let sizes = suite.key_sizes(Prf::HmacSha2_256);
        let keys = || DirectionKeys {
            encryption: KeyMaterial::new((0..sizes.e).map(|n| n as u8).collect()),
            integrity: KeyMaterial::new((0..sizes.a).map(|n| n as u8 ^ 0x55).collect()),
        };
        (SkSealer::new(suite, keys()).unwrap(), SkOpener::new(suite, keys()).unwrap())
    }

    fn suites() -> Vec<SkSuite> {
        use EncryptionId as E;
        let mut all = Vec::new();
        for bits in [128, 192, 256] {
            let plain = [E::AesCbc, E::AesCtr].map(|id| SkCipher::new(id, Some(bits)).unwrap());
            for (cipher, integrity) in
                plain.iter().flat_map(|c| SkIntegrity::ALL.map(|integrity| (*c, integrity)))
            {
                all.push(SkSuite::new(cipher, Some(integrity)).unwrap());
                assert!(SkSuite::new(cipher, None).is_none());
            }
            for id in [E::AesGcm8, E::AesGcm12, E::AesGcm16, E::AesCcm8, E::AesCcm12, E::AesCcm16] {
                let cipher = SkCipher::new(id, Some(bits)).unwrap();
                all.push(SkSuite::new(cipher, None).unwrap());
                assert!(SkSuite::new(cipher, Some(SkIntegrity::HmacSha2_256_128)).is_none());
            }
        }
        all.push(SkSuite::new(SkCipher::new(E::ChaCha20Poly1305, None).unwrap(), None).unwrap());
        all
    }

    #[test]
    fn key_lengths_that_a_cipher_does_not_have() {
        for bits in [None, Some(0), Some(7), Some(64), Some(512), Some(65535)] {
            assert!(SkCipher::new(EncryptionId::AesCbc, bits).is_none());
            assert!(SkCipher::new(EncryptionId::AesGcm16, bits).is_none());
        }
        assert!(SkCipher::new(EncryptionId::ChaCha20Poly1305, Some(256)).is_none());
        assert!(SkCipher::new(EncryptionId::Null, None).is_none());
        assert!(SkCipher::new(EncryptionId::AesGcm16Iiv, Some(128)).is_none(), "RFC 8750 §3");
    }

    #[test]
    fn keys_of_other_sizes_are_refused() {
        for suite in suites() {
            let sizes = suite.key_sizes(Prf::HmacSha1);
            for (e, a) in [(sizes.e + 1, sizes.a), (sizes.e - 1, sizes.a), (sizes.e, sizes.a + 1)] {
                let keys = DirectionKeys {
                    encryption: KeyMaterial::new(vec![1; e]),
                    integrity: KeyMaterial::new(vec![1; a]),
                };
                assert!(SkOpener::new(suite, keys).is_err());
            }
        }
    }

    #[test]
    fn no_vector_comes_twice() {
        for suite in suites() {
            let (mut sealer, _) = pair(suite);
            let mut list = PayloadList::new();
            list.push_raw(43, false, &[0; 40]);
            let mut seen = std::collections::HashSet::new();
            for _ in 0..50 {
                let message = sealer.seal(&header(), &list).unwrap();
                assert!(seen.insert(message[32..40].to_vec()), "{suite:?}");
            }
        }
    }

    /// ike2-sk-short: content shorter than vector and checksum, partial blocks, and no content at all.
    #[test]
    fn ike2_sk_short() {
        for suite in suites() {
            let (mut sealer, opener) = pair(suite);
            let mut list = PayloadList::new();
            list.push_raw(43, false, &[0; 20]);
            let good = sealer.seal(&header(), &list).unwrap();
            assert!(open(&opener, &good).is_ok());
            for len in 0..good.len() - 32 {
                let mut body = PayloadList::new();
                body.push_encrypted(46, 43, &good[32..32 + len]);
                let short = body.into_message(&header()).unwrap();
                assert!(open(&opener, &short).is_err(), "{suite:?} cut to {len}");
            }
        }
    }

    /// ike2-sk-short: an authentic message whose pad length is the plaintext's length or more.
    #[test]
    fn ike2_sk_padding_longer_than_the_content() {
        // AES-CTR with a known key: a flipped pad length, under a checksum made anew.
        let cipher = SkCipher::new(EncryptionId::AesCtr, Some(128)).unwrap();
        let suite = SkSuite::new(cipher, Some(SkIntegrity::HmacSha2_256_128)).unwrap();
        let (mut sealer, opener) = pair(suite);
        let mut list = PayloadList::new();
        list.push_raw(43, false, &[0; 20]);
        let good = sealer.seal(&header(), &list).unwrap();
        let key: Vec<u8> = (0..32).map(|n| n ^ 0x55).collect();
        for (padding, expected) in
            [(24, None), (25, Some(OpenError::Padding)), (255, Some(OpenError::Padding))]
        {
            let mut message = good.clone();
            let text_end = message.len() - 16;
            message[text_end - 1] ^= padding;
            let icv = Prf::HmacSha2_256.compute(&key, &[&message[..text_end]]).unwrap();
            message[text_end..].copy_from_slice(&icv[..16]);
            assert_eq!(open(&opener, &message).err(), expected, "pad length {padding}");
        }
    }

    #[test]
    fn fragments_fit_and_reassemble() {
        for suite in suites() {
            let (mut sealer, opener) = pair(suite);
            let mut list = PayloadList::new();
            list.push_raw(37, false, &[7; 3000]).push_raw(43, false, &[8; 100]);
            for max in [128, 576, 1280, 2000] {
                let fragments = sealer.seal_within(&header(), &list, max).unwrap();
                assert!(fragments.len() > 1);
                let mut content = Vec::new();
                for (n, fragment) in (1..).zip(&fragments) {
                    assert!(fragment.len() <= max);
                    let opened = open(&opener, fragment).unwrap();
                    let number = opened.fragment.unwrap();
                    assert_eq!(
                        (number.number(), usize::from(number.total())),
                        (n, fragments.len())
                    );
                    assert_eq!(opened.first, if n == 1 { 37 } else { 0 });
                    content.extend_from_slice(&opened.content);
                }
                let payloads = v2::Payloads::parse_inner(37, &content).unwrap();
                assert_eq!(payloads.iter().count(), 2);
            }
            let whole = sealer.seal_within(&header(), &list, 4000).unwrap();
            assert_eq!(whole.len(), 1);
            assert!(open(&opener, &whole[0]).unwrap().fragment.is_none());
            let no_room = sealer.seal_within(&header(), &list, 45).err();
            assert_eq!(no_room, Some(SealError::TooLong(MessageTooLong)));
        }
    }

    /// RFC 7296 §2.15, against the formula written out.
    #[test]
    fn shared_key_auth() {
        let prf = Prf::HmacSha2_256;
        let seed = Skeyseed::initial(prf, &[1; 16], &[2; 16], &[3; 32]).unwrap();
        let sizes = KeySizes { d: 32, a: 0, e: 36, p: 32 };
        let keys =
            IkeKeys::derive(prf, &seed, &[1; 16], &[2; 16], IkeSpi([4; 8]), IkeSpi([5; 8]), sizes)
                .unwrap();
        let id = v2::Identification { kind: IdType::Fqdn, data: b"moon" }.body();
        let octets = keys.pi.signed_octets(b"message", &[2; 16], &id, &[]).unwrap();
        let maced = prf.compute(keys.pi.expose(), &[&[2, 0, 0, 0], b"moon"]).unwrap();
        assert_eq!(octets.as_bytes(), [&b"message"[..], &[2; 16], &maced].concat());
        let auth = SharedKeyAuth::new(prf, b"secret").unwrap();
        let data = auth.compute(&octets).unwrap();
        let padded = prf.compute(b"secret", &[b"Key Pad for IKEv2"]).unwrap();
        assert_eq!(data, *prf.compute(&padded, &[octets.as_bytes()]).unwrap());
        assert!(auth.verify(&octets, &data).unwrap());
        assert!(!auth.verify(&octets, &data[..31]).unwrap());
        assert!(!auth.verify(&octets, &[]).unwrap());
        let theirs = keys.pr.signed_octets(b"message", &[2; 16], &id, &[]).unwrap();
        assert!(!auth.verify(&theirs, &data).unwrap());
        assert!(!SharedKeyAuth::new(prf, b"other").unwrap().verify(&octets, &data).unwrap());
    }

    /// ike2-cookie-flood: cookies of length 0 and 65, a changed nonce, SPI, address, port or secret.
    #[test]
    fn ike2_cookie_flood_changed_cookies_are_refused() {
        let secret = CookieSecret::new(1, zeroize::Zeroizing::new([7; 32]));
        let from: SocketAddr = "192.0.2.1:500".parse().unwrap();
        let (ni, spi) = ([1; 32], IkeSpi([2; 8]));
        let cookie = secret.cookie(&ni, from, spi);
        assert!(secret.verify(&cookie, &ni, from, spi));
        assert!(!secret.verify(&[], &ni, from, spi));
        assert!(!secret.verify(&[1; 65], &ni, from, spi));
        assert!(!secret.verify(&cookie[..32], &ni, from, spi));
        assert!(!secret.verify(&cookie, &[1; 31], from, spi));
        assert!(!secret.verify(&cookie, &ni, from, IkeSpi([3; 8])));
        assert!(!secret.verify(&cookie, &ni, "192.0.2.2:500".parse().unwrap(), spi));
        assert!(!secret.verify(&cookie, &ni, "192.0.2.1:501".parse().unwrap(), spi));
        assert!(!secret.verify(&cookie, &ni, "[2001:db8::1]:500".parse().unwrap(), spi));
        let newer = CookieSecret::new(2, zeroize::Zeroizing::new([7; 32]));
        assert!(!newer.verify(&cookie, &ni, from, spi));
        for at in 0..cookie.len() {
            let mut bad = cookie;
            bad[at] ^= 1;
            assert!(!secret.verify(&bad, &ni, from, spi));
        }
    }

    /// Two recorded IKEv1 handshakes, from the DH private key to the last decrypted octet.
    #[test]
    fn recorded_ikev1_handshakes() {
        let all = rows(include_str!("data/recorded_ikev1.jsonl"));
        assert_eq!(all.len(), 2);
        for row in all {
            let messages: Vec<_> = row["messages"]
                .as_array()
                .unwrap()
                .iter()
                .map(|m| (m["dir"] == "i->r", bytes(m, "hex")))
                .collect();
            let plain: Vec<_> = messages
                .iter()
                .filter_map(|(from_i, datagram)| match Message::parse(datagram).unwrap() {
                    Message::V1(v1::Message { body: v1::Body::Plain(p), .. }) => Some((*from_i, p)),
                    _ => None,
                })
                .collect();
            let find = |from_i: bool, pick: &dyn Fn(v1::Payload<'_>) -> Option<Vec<u8>>| {
                let mut of_side = plain.iter().filter(|(side, _)| *side == from_i);
                of_side.find_map(|(_, p)| p.iter().find_map(pick)).unwrap()
            };
            let ke = |p: v1::Payload<'_>| match p {
                v1::Payload::KeyExchange(ke) => Some(ke.data.to_vec()),
                _ => None,
            };
            let nonce = |p: v1::Payload<'_>| match p {
                v1::Payload::Nonce(nonce) => Some(nonce.data().to_vec()),
                _ => None,
            };
            let (gx_i, gx_r) = (find(true, &ke), find(false, &ke));
            let (ni, nr) = (find(true, &nonce), find(false, &nonce));
            assert_eq!((&ni, &nr), (&bytes(&row, "ni"), &bytes(&row, "nr")));
            let private =
                PrivateKey::from_bytes(Group::Modp1024, &bytes(&row, "dh_private_i")).unwrap();
            assert_eq!(private.public(), gx_i.as_slice());
            let shared = private.agree(&gx_r).unwrap();
            assert_eq!(shared.as_bytes(), bytes(&row, "g_xy"));

            let hash = V1Hash::from_number(2).unwrap();
            let first = Message::parse(&messages[1].1).unwrap();
            let (cky_i, cky_r) = (first.header().spi_i, first.header().spi_r);
            let psk = row["psk_ascii"].as_str().unwrap().as_bytes();
            let keys = Skeyid::from_psk(hash.prf(), psk, &ni, &nr)
                .unwrap()
                .derive(shared.as_bytes(), cky_i, cky_r)
                .unwrap();
            assert_eq!(keys.skeyid.expose(), bytes(&row, "skeyid"));
            assert_eq!(keys.d.expose(), bytes(&row, "skeyid_d"));
            assert_eq!(keys.a.expose(), bytes(&row, "skeyid_a"));
            assert_eq!(keys.e.expose(), bytes(&row, "skeyid_e"));
            let key = keys.e.encryption_key(16).unwrap();
            assert_eq!(*key, bytes(&row, "cipher_key"));
            let cipher = V1Cipher::aes_cbc(&key).unwrap();
            let mut phase1 = Iv::phase1(hash, 16, &gx_i, &gx_r);
            assert_eq!(phase1.bytes()[..], bytes(&row, "phase1_iv"));

            let mut later: std::collections::HashMap<MessageId, Iv> = Default::default();
            let expected = row["decrypted"].as_array().unwrap();
            let mut decrypted = 0;
            for (index, (_, datagram)) in messages.iter().enumerate() {
                let Message::V1(message) = Message::parse(datagram).unwrap() else {
                    panic!("version")
                };
                let v1::Body::Encrypted { first, ciphertext } = message.body else { continue };
                let id = message.header.message_id;
                let iv = if id == MessageId(0) {
                    phase1
                } else {
                    *later.entry(id).or_insert_with(|| phase1.phase2(hash, id))
                };
                let (text, next) = cipher.decrypt(iv, ciphertext).unwrap();
                if id == MessageId(0) {
                    phase1 = next;
                } else {
                    later.insert(id, next);
                }
                let known = expected
                    .iter()
                    .find(|d| d["message_index"].as_u64() == Some(index as u64))
                    .unwrap();
                assert_eq!(iv.bytes()[..], bytes(known, "iv"));
                assert_eq!(*text, bytes(known, "plaintext"));
                let (payloads, padding) = v1::Payloads::parse(first, &text).unwrap();
                let types: Vec<u64> = payloads.chain().iter().map(|p| p.number.into()).collect();
                assert_eq!(serde_json::json!(types), known["payload_types"]);
                assert!(padding.iter().all(|&octet| octet == 0));
                // Encrypting it again gives the recorded ciphertext.
                let without = &text[..text.len() - padding.len()];
                assert_eq!(cipher.encrypt(iv, without).unwrap(), (ciphertext.to_vec(), next));
                // Every phase 2 message begins with HASH over what follows (RFC 2409 §5.5, §5.7).
                if id != MessageId(0) && message.header.exchange == ExchangeType::InformationalV1 {
                    let Some(v1::Payload::Hash(sent)) = payloads.iter().next() else {
                        panic!("hash")
                    };
                    let rest = &without[4 + sent.data.len()..];
                    let id = id.0.to_be_bytes();
                    assert!(keys.a.verify(&[&id, rest], sent.data).unwrap());
                    assert!(!keys.a.verify(&[&id, &rest[1..]], sent.data).unwrap());
                }
                decrypted += 1;
            }
            assert_eq!(decrypted, expected.len());

            // KEYMAT of both directions, where a quick mode was recorded.
            if let Some(esp) = row["esp"].as_object() {
                let (ni, nr) = (bytes(&row, "quick_ni"), bytes(&row, "quick_nr"));
                for (spi, keymat) in [
                    ("spi_inbound_of_initiator", "keymat_for_spi_i(16 enc+20 auth, computed here)"),
                    ("spi_inbound_of_responder", "keymat_for_spi_r(16 enc+20 auth, computed here)"),
                ] {
                    let spi = hex(esp[spi].as_str().unwrap());
                    let made = keys.d.keymat(None, ProtocolId::Esp, &spi, &ni, &nr, 36).unwrap();
                    assert_eq!(*made, hex(esp[keymat].as_str().unwrap()));
                }
            }
        }
    }

    /// HASH_I and HASH_R of the recorded main mode (RFC 2409 §5).
    #[test]
    fn recorded_main_mode_hashes_verify() {
        let row = &rows(include_str!("data/recorded_ikev1.jsonl"))[1];
        let datagrams: Vec<_> =
            row["messages"].as_array().unwrap().iter().map(|m| bytes(m, "hex")).collect();
        let body = |index: usize, number: u8| {
            let message = Message::parse(&datagrams[index]).unwrap();
            let raw = message.chain().iter().find(|p| p.number == number).unwrap();
            raw.body.to_vec()
        };
        let (sa, gx_i, gx_r) = (body(0, 1), body(2, 4), body(3, 4));
        let header = *Message::parse(&datagrams[1]).unwrap().header();
        let (ni, nr) = (bytes(row, "ni"), bytes(row, "nr"));
        let skeyid = Skeyid::from_psk(Prf::HmacSha1, b"AAAA", &ni, &nr).unwrap();
        for (index, first, second, cookies) in [
            (0, &gx_i, &gx_r, [header.spi_i, header.spi_r]),
            (1, &gx_r, &gx_i, [header.spi_r, header.spi_i]),
        ] {
            let text = bytes(&row["decrypted"][index], "plaintext");
            let (payloads, _) = v1::Payloads::parse(5, &text).unwrap();
            let raw: Vec<_> = payloads.chain().iter().collect();
            let [a, b] = cookies;
            let parts = [&first[..], second, &a.0, &b.0, &sa, raw[0].body];
            assert!(skeyid.verify(&parts, raw[1].body).unwrap(), "message {index}");
            assert!(!skeyid.verify(&parts[1..], raw[1].body).unwrap());
        }
    }

    #[test]
    fn ikev1_partial_blocks_are_refused() {
        let cipher = V1Cipher::aes_cbc(&[1; 16]).unwrap();
        let iv = Iv::from_bytes(&[0; 16]).unwrap();
        for length in [0, 1, 15, 17, 31] {
            assert!(cipher.decrypt(iv, &vec![0; length]).is_err(), "{length}");
        }
        assert!(cipher.encrypt(iv, &[]).is_err());
        assert!(V1Cipher::aes_cbc(&[1; 20]).is_err());
    }

    /// NAT_DETECTION_* against the digest written out, with the responder's SPI zero as in the first message.
    #[test]
    fn nat_detection_covers_spis_address_and_port() {
        let of = |r: u8, address: &str| {
            nat_detection_hash(IkeSpi([1; 8]), IkeSpi([r; 8]), address.parse().unwrap())
        };
        let written_out = V1Hash::Sha1.digest(&[&[1; 8], &[0; 8], &[192, 0, 2, 1], &[0x11, 0x94]]);
        assert_eq!(of(0, "192.0.2.1:4500")[..], written_out);
        assert_ne!(of(0, "192.0.2.1:4500"), of(1, "192.0.2.1:4500"));
        assert_ne!(of(0, "192.0.2.1:4500"), of(0, "192.0.2.1:500"));
        assert_ne!(of(0, "192.0.2.1:4500"), of(0, "[::ffff:192.0.2.1]:4500"));
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(
            pick in any::<prop::sample::Index>(),
            payloads in proptest::collection::vec((any::<u8>(), 0usize..200), 0..5),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let suites = suites();
            let (mut sealer, opener) = pair(suites[pick.index(suites.len())]);
            let mut list = PayloadList::new();
            for (octet, len) in &payloads {
                list.push_raw(43, false, &vec![*octet; *len]);
            }
            let mut datagram = sealer.seal(&header(), &list).unwrap();
            let opened = open(&opener, &datagram).unwrap();
            prop_assert_eq!(opened.content.as_slice(), list.bytes().unwrap());
            prop_assert_eq!(opened.payloads().unwrap().iter().count(), payloads.len());
            let at = at.index(datagram.len());
            datagram[at] ^= 1 << bit;
            if let Ok(Message::V2(message)) = Message::parse_any_spi(&datagram)
                && let Some(encrypted) = message.encrypted()
            {
                prop_assert!(opener.open(&encrypted).is_err());
            }
        }
    }
}
