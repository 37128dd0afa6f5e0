//! Published examples and edges of every group.

use serde_json::Value;

use super::*;

fn hex(text: &str) -> Vec<u8> {
    assert_eq!(text.len() % 2, 0, "odd hex");
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

fn field(row: &Value, name: &str) -> Vec<u8> {
    hex(row[name].as_str().unwrap_or_else(|| panic!("no {name} in {row}")))
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn group(row: &Value) -> Group {
    Group::from_name(row["group"].as_str().unwrap()).unwrap()
}

#[test]
fn rfc5903_and_rfc8031_examples() {
    let file: Value = serde_json::from_str(include_str!("../tests/data/rfc_ke.json")).unwrap();
    let mut ecp = 0;
    for row in file["vectors"].as_array().unwrap() {
        let group = Group::from_number(row["group"].as_u64().unwrap().try_into().unwrap()).unwrap();
        if group == Group::Curve25519 {
            let i = PrivateKey::from_bytes(group, &field(row, "private_i")).unwrap();
            let r = PrivateKey::from_bytes(group, &field(row, "private_r")).unwrap();
            assert_eq!(i.public(), field(row, "pub_i"));
            assert_eq!(r.public(), field(row, "pub_r"));
            let shared = i.agree(&field(row, "pub_r")).unwrap();
            assert_eq!(shared.as_bytes(), field(row, "shared"));
            let shared = r.agree(&field(row, "pub_i")).unwrap();
            assert_eq!(shared.as_bytes(), field(row, "shared"));
            continue;
        }
        ecp += 1;
        let (public_i, public_r) = (
            [field(row, "gix"), field(row, "giy")].concat(),
            [field(row, "grx"), field(row, "gry")].concat(),
        );
        let i = PrivateKey::from_bytes(group, &field(row, "i")).unwrap();
        let r = PrivateKey::from_bytes(group, &field(row, "r")).unwrap();
        assert_eq!(i.public(), public_i);
        assert_eq!(r.public(), public_r);
        assert_eq!(i.public().len(), group.public_len());
        assert_eq!(i.agree(&public_r).unwrap().as_bytes(), field(row, "girx"));
        assert_eq!(r.agree(&public_i).unwrap().as_bytes(), field(row, "girx"));
        // The literal KE payloads of the RFC end in these values.
        assert!(field(row, "ke_i_payload").ends_with(&public_i));
    }
    assert_eq!(ecp, 3);
}

#[test]
fn wycheproof_ecdh_and_x25519() {
    let mut refused = 0;
    for row in rows(include_str!("../tests/data/wycheproof_dh.jsonl")) {
        let group = group(&row);
        let key = PrivateKey::from_bytes(group, &field(&row, "private")).unwrap();
        let shared = key.agree(&field(&row, "public"));
        let expected = field(&row, "shared");
        // RFC 8031 §3.1 and RFC 7748 §6.1: an all-zero result is refused. "acceptable" X25519 cases are otherwise
        // values on the twist and non-canonical ones, which give a result.
        let low_order = group == Group::Curve25519 && expected.iter().all(|&octet| octet == 0);
        let valid = row["result"] != "invalid" && !low_order;
        match shared {
            Ok(shared) => {
                assert!(valid, "accepted {row}");
                assert_eq!(shared.as_bytes(), expected, "{row}");
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error, KeyExchangeError::PeerValue);
                assert!(!valid, "refused {row}");
            }
        }
    }
    assert!(refused > 30);
}

#[test]
fn acvp_safe_prime_key_pairs() {
    let rows = rows(include_str!("../tests/data/acvp_safe_primes_modp2048.jsonl"));
    assert_eq!(rows.len(), 10);
    for row in rows {
        let matches = PrivateKey::from_bytes(Group::Modp2048, &field(&row, "x"))
            .is_ok_and(|key| key.public() == left_pad(&field(&row, "y"), 256).unwrap().as_slice());
        assert_eq!(matches, row["pass"].as_bool().unwrap(), "{row}");
    }
}

#[test]
fn recorded_handshakes_have_this_shared_secret() {
    for row in rows(include_str!("../tests/data/recorded_modp1024.jsonl")) {
        let key = PrivateKey::from_bytes(Group::Modp1024, &field(&row, "private")).unwrap();
        assert_eq!(key.public(), field(&row, "public"));
        let shared = key.agree(&field(&row, "peer")).unwrap();
        assert_eq!(shared.as_bytes(), field(&row, "shared"));
    }
}

#[test]
fn acvp_mlkem_keys_from_seed() {
    for row in rows(include_str!("../tests/data/acvp_mlkem_keygen.jsonl")) {
        let (public, private) = kem_keypair(group(&row), &field(&row, "seed")).unwrap();
        assert_eq!(public, field(&row, "ek"));
        assert_eq!(*private, field(&row, "dk"));
    }
}

#[test]
fn wycheproof_mlkem_decapsulation() {
    let mut refused = 0;
    for row in rows(include_str!("../tests/data/wycheproof_mlkem768_decaps.jsonl")) {
        let key = PrivateKey::from_bytes(Group::MlKem768, &field(&row, "seed")).ok();
        let shared = key.and_then(|key| key.agree(&field(&row, "c")).ok());
        match shared {
            Some(shared) => assert_eq!(shared.as_bytes(), field(&row, "K"), "{row}"),
            None => {
                refused += 1;
                assert_eq!(row["result"], "invalid", "{row}");
            }
        }
    }
    assert!(refused > 0);
}

/// addke-downgrade: a public key that fails the modulus check (FIPS 203 §7.2) or has the wrong length.
#[test]
fn mlkem_public_keys_out_of_range_are_refused() {
    for row in rows(include_str!("../tests/data/wycheproof_mlkem768_bad_ek.jsonl")) {
        let refused = respond(Group::MlKem768, &field(&row, "ek")).err();
        assert_eq!(refused, Some(KeyExchangeError::PeerValue), "{row}");
    }
}

#[test]
fn both_sides_agree_in_every_group() {
    for group in Group::ALL {
        let initiator = PrivateKey::generate(group).unwrap();
        assert_eq!(initiator.public().len(), group.public_len(), "{group:?}");
        let (response, theirs) = respond(group, initiator.public()).unwrap();
        assert_eq!(response.len(), group.response_len(), "{group:?}");
        let ours = initiator.agree(&response).unwrap();
        assert_eq!(ours.as_bytes(), theirs.as_bytes(), "{group:?}");
        assert_eq!(ours.as_bytes().len(), group.shared_len(), "{group:?}");
        assert_eq!(Group::from_number(group.number()), Some(group));
        assert_eq!(Group::from_name(group.name()), Some(group));
    }
}

/// ike2-ke-zero and ike2-ke-length-mismatch: 0, 1, p-1, p, p+1, empty, one octet short or long, 64 KiB.
#[test]
fn modp_values_outside_the_range_are_refused() {
    let file = include_str!("../tests/data/recorded_modp1024.jsonl");
    let prime = field(&rows(file)[0], "prime");
    let edge = |last: u8| {
        let mut value = prime.clone();
        *value.last_mut().unwrap() = last;
        value
    };
    let number = |n: u8| {
        let mut value = vec![0; 128];
        value[127] = n;
        value
    };
    let agree = |peer: &[u8]| {
        let key = PrivateKey::from_bytes(Group::Modp1024, &[5]).unwrap();
        key.agree(peer).map(|shared| shared.as_bytes().to_vec())
    };
    assert_eq!(prime[127], 0xff);
    let mut above = number(0);
    above[..].fill(0xff);
    let bad: [Vec<u8>; 10] = [
        number(0),
        number(1),
        edge(0xfe),
        edge(0xff),
        above,
        vec![],
        prime[1..].to_vec(),
        [&[0], &number(2)[..]].concat(),
        vec![2; 65_000],
        vec![2],
    ];
    for peer in bad {
        assert_eq!(agree(&peer).err(), Some(KeyExchangeError::PeerValue), "{peer:02x?}");
    }
    // 2^5, left-padded to the length of the group (RFC 7296 §2.14), and (p - 2)^5 = p - 32.
    assert_eq!(agree(&number(2)).unwrap(), number(32));
    assert_eq!(agree(&edge(0xfd)).unwrap(), edge(0xff - 32));
}

/// ike2-ke-zero: curve points that are not on the curve, infinity, X25519 values of small order, wrong lengths.
#[test]
fn curve_values_that_are_no_points_are_refused() {
    for group in [Group::Ecp256, Group::Ecp384, Group::Ecp521, Group::Curve25519] {
        let good = PrivateKey::generate(group).unwrap().public().to_vec();
        let mut bad = vec![vec![], vec![0; group.public_len()], good[1..].to_vec()];
        bad.push([&good[..], &[0]].concat());
        bad.push(vec![0xff; 65_000]);
        if group == Group::Curve25519 {
            let mut one = vec![0; 32];
            one[0] = 1;
            bad.push(one);
        } else {
            let mut off = good.clone();
            *off.last_mut().unwrap() ^= 1;
            bad.push(off);
            bad.push(vec![0xff; group.public_len()]);
        }
        for peer in bad {
            let key = PrivateKey::generate(group).unwrap();
            assert_eq!(key.agree(&peer).err(), Some(KeyExchangeError::PeerValue), "{group:?}");
        }
    }
}

#[test]
fn private_values_outside_the_range_are_refused() {
    for group in [Group::Modp1024, Group::Modp2048, Group::Ecp256, Group::Ecp521] {
        let zero = vec![0; group.shared_len()];
        let high = vec![0xff; group.shared_len()];
        let long = vec![1; group.shared_len() + 1];
        for private in [zero, high, long] {
            let refused = PrivateKey::from_bytes(group, &private).err();
            assert_eq!(refused, Some(KeyExchangeError::PrivateValue), "{group:?}");
        }
    }
    for length in [0, 31, 33] {
        assert!(PrivateKey::from_bytes(Group::Curve25519, &vec![7; length]).is_err());
    }
}

#[test]
fn an_even_modulus_is_no_crash() {
    assert!(libcrypto::mod_exp(&[6], &[2], &[3]).is_none());
}

proptest::proptest! {
    /// Against multiplication written out, below 2^32 where a machine integer can do it.
    #[test]
    fn exponentiation_matches_the_slow_way(half: u16, base: u16, exponent in 0u32..300) {
        let modulus = u64::from(half) * 2 + 3;
        let base = u64::from(base) % modulus;
        let slow = (0..exponent).fold(1 % modulus, |power, _| power * base % modulus);
        let fast = libcrypto::mod_exp(
            &modulus.to_be_bytes(),
            &base.to_be_bytes(),
            &exponent.to_be_bytes(),
        );
        proptest::prop_assert_eq!(fast.unwrap().to_vec(), slow.to_be_bytes().to_vec());
    }
}
