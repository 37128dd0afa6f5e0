//! Requests as a user sends them, with published answers.

use super::*;

const KDF: &str = include_str!("../../../controlplane/ike/tests/data/kdf.jsonl");
const DATAGRAMS: &str = include_str!("../../../controlplane/ike/tests/data/ike_datagrams.jsonl");
const SK: &str = include_str!("../../../controlplane/ike/tests/data/sk_payloads.jsonl");
const IKEV1: &str = include_str!("../../../controlplane/ike/tests/data/recorded_ikev1.jsonl");
const SIGNATURES: &str = include_str!("../../../controlplane/ike/tests/data/signatures.jsonl");
const DH: &str = include_str!("../../../controlplane/keyexchange/tests/data/wycheproof_dh.jsonl");
const KEM: &str =
    include_str!("../../../controlplane/keyexchange/tests/data/acvp_mlkem_keygen.jsonl");

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The answers to requests sent as one input.
pub(super) fn ask(requests: &[Value]) -> Vec<Value> {
    let input: String = requests.iter().map(|request| format!("{request}\n")).collect();
    ask_raw(input.as_bytes())
}

fn ask_raw(input: &[u8]) -> Vec<Value> {
    let mut output = Vec::new();
    run(input, &mut output).unwrap();
    rows(std::str::from_utf8(&output).unwrap())
}

#[test]
fn key_derivation_answers() {
    let requests = rows(KDF);
    for (request, answer) in requests.iter().zip(ask(&requests)) {
        assert_eq!(answer["id"], request["id"]);
        assert_eq!(answer["ok"], true, "{request} {answer}");
        for (name, value) in request["expect"].as_object().unwrap() {
            assert_eq!(&answer[name], value, "{name} of {}", request["id"]);
        }
    }
}

#[test]
fn groups_answer_or_refuse_the_peer_value() {
    let mut refused = 0;
    for row in rows(DH) {
        let request = json!({"id": row["id"], "op": "dh", "group": row["group"],
            "private": row["private"], "peer_public": row["public"]});
        let answer = &ask(&[request])[0];
        if answer["ok"] == true {
            assert_eq!(answer["shared"], row["shared"]);
        } else {
            refused += 1;
            assert_eq!(answer["error"], "peer_value");
            assert_ne!(row["result"], "valid");
        }
    }
    assert!(refused > 30);
    let kem = json!({"op": "dh", "group": "ML_KEM_768", "private": "", "peer_public": ""});
    assert_eq!(ask(&[kem])[0]["error"], "unsupported");
}

#[test]
fn kem_keygen_and_decapsulate() {
    for row in rows(KEM) {
        let keygen = json!({"op": "kem", "alg": row["group"], "do": "keygen", "seed": row["seed"]});
        let answer = &ask(&[keygen])[0];
        assert_eq!((&answer["ek"], &answer["dk"]), (&row["ek"], &row["dk"]));
        let group = keyexchange::Group::from_name(row["group"].as_str().unwrap()).unwrap();
        let ek = request::from_hex(row["ek"].as_str().unwrap()).unwrap();
        let (ct, shared) = keyexchange::respond(group, &ek).unwrap();
        let ct = request::to_hex(&ct);
        let decapsulate = |dk: &Value, ct: &str| {
            ask(&[
                json!({"op": "kem", "alg": row["group"], "do": "decapsulate", "dk": dk, "ct": ct}),
            ])
            .remove(0)
        };
        assert_eq!(decapsulate(&answer["dk"], &ct)["shared"], request::to_hex(shared.as_bytes()));
        assert_eq!(decapsulate(&answer["dk"], "00")["error"], "peer_value");
        assert_eq!(decapsulate(&json!("00"), &ct)["error"], "malformed");
    }
}

#[test]
fn signatures_of_wycheproof() {
    let requests = rows(SIGNATURES);
    let (mut valid, mut invalid) = (0, 0);
    for (request, answer) in requests.iter().zip(ask(&requests)) {
        assert_eq!(answer["ok"], true, "{request} {answer}");
        assert_eq!(answer["valid"], request["expect"], "{request}");
        *if answer["valid"] == true { &mut valid } else { &mut invalid } += 1;
    }
    assert!(valid > 80 && invalid > 150, "{valid} {invalid}");
}

#[test]
fn recorded_datagrams_parse() {
    for row in rows(DATAGRAMS) {
        let answer = &ask(&[json!({"op": "ike_parse", "datagram": row["datagram"]})])[0];
        assert_eq!(answer["ok"], true, "{row}");
        let text = row["datagram"].as_str().unwrap();
        assert_eq!(answer["spi_i"], text[..16]);
        assert_eq!(answer["spi_r"], text[16..32]);
        let octet = |at: usize| u64::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
        assert_eq!(answer["version"], octet(17) >> 4);
        assert_eq!(answer["exchange"], octet(18));
        let payloads = answer["payloads"].as_array().unwrap();
        let lengths: u64 = payloads.iter().map(|p| p["length"].as_u64().unwrap()).sum();
        if octet(17) == 0x10 && octet(19) & 1 == 1 {
            assert!(payloads.is_empty(), "encrypted");
        } else {
            assert_eq!(payloads[0]["type"], octet(16));
            assert!(lengths + 28 <= text.len() as u64 / 2);
        }
    }
    let bad = json!({"op": "ike_parse", "datagram": "00"});
    assert_eq!(ask(&[bad])[0]["error"], "malformed");
}

#[test]
fn encrypted_payloads_of_another_implementation() {
    for row in rows(SK) {
        let alg = match row["cipher"].as_u64().unwrap() {
            12 => "AES_CBC",
            13 => "AES_CTR",
            14..=16 => "AES_CCM",
            18..=20 => "AES_GCM",
            _ => "CHACHA20_POLY1305",
        };
        let icv_len = match row["cipher"].as_u64().unwrap() {
            14 | 18 => 8,
            15 | 19 => 12,
            _ => 16,
        };
        let mut request = json!({"op": "ike_decrypt", "datagram": row["datagram"],
            "encr": {"alg": alg, "key": row["encryption"], "icv_len": icv_len}});
        if row["integ"].is_u64() {
            request["integ"] = json!({"alg": row["integ_name"], "key": row["integrity"]});
        }
        let answer = &ask(std::slice::from_ref(&request))[0];
        // Some have no payloads although their header names one.
        if row["content"] == "" {
            assert_eq!(answer["error"], "malformed");
            continue;
        }
        assert_eq!(answer["plain"], row["content"], "{row} {answer}");
        let text = request["datagram"].as_str().unwrap();
        let last = if text.ends_with('0') { "1" } else { "0" };
        request["datagram"] = json!(format!("{}{last}", &text[..text.len() - 1]));
        assert_eq!(ask(&[request])[0]["error"], "auth", "{row}");
    }
}

#[test]
fn recorded_ikev1_messages_decrypt() {
    for row in rows(IKEV1) {
        for known in row["decrypted"].as_array().unwrap() {
            let index = usize::try_from(known["message_index"].as_u64().unwrap()).unwrap();
            let request = json!({"op": "ike_decrypt", "datagram": row["messages"][index]["hex"],
                "encr": {"alg": "AES_CBC", "key": row["cipher_key"]}, "iv": known["iv"]});
            let answer = &ask(&[request])[0];
            let types: Value =
                answer["payloads"].as_array().unwrap().iter().map(|p| p["type"].clone()).collect();
            assert_eq!(types, known["payload_types"]);
            let plain = answer["plain"].as_str().unwrap();
            let padded = known["plaintext"].as_str().unwrap();
            assert!(padded.starts_with(plain));
            assert!(padded[plain.len()..].bytes().all(|digit| digit == b'0'));
            let text = row["messages"][index]["hex"].as_str().unwrap();
            assert_eq!(answer["next_iv"], text[text.len() - 32..]);
        }
    }
}

#[test]
fn lines_that_are_no_requests_get_an_answer_and_end_nothing() {
    let input = b"{not json\n\xff\xfe\n[1]\n{\"id\":7}\n{\"id\":8,\"op\":\"nonsense\"}\n\
        {\"id\":\"x\",\"op\":\"prf\",\"alg\":\"PRF_HMAC_SHA1\",\"key\":\"0\",\"data\":\"\"}\n\
        {\"id\":9,\"op\":\"prf_plus\",\"alg\":\"PRF_HMAC_SHA1\",\"key\":\"\",\"seed\":\"\",\"len\":18446744073709551615}\n\
        {\"id\":18446744073709551615,\"op\":\"prf\",\"alg\":\"PRF_HMAC_SHA1\",\"key\":\"AA\",\"data\":\"\",\"more\":1}";
    let answers = ask_raw(input);
    let short: Vec<_> = answers.iter().map(|a| (a["id"].clone(), a["error"].clone())).collect();
    let malformed = json!("malformed");
    assert_eq!(
        short,
        [
            (Value::Null, malformed.clone()),
            (Value::Null, malformed.clone()),
            (Value::Null, malformed.clone()),
            (json!(7), malformed.clone()),
            (json!(8), json!("unsupported")),
            (json!("x"), malformed.clone()),
            (json!(9), malformed),
            (json!(u64::MAX), Value::Null),
        ]
    );
    assert_eq!(answers[7]["ok"], true);
}

#[test]
fn every_answer_is_flushed_before_the_next_request_is_read() {
    struct Alternating<'a> {
        events: &'a std::cell::RefCell<String>,
        lines: std::vec::IntoIter<&'static [u8]>,
    }
    impl io::Read for Alternating<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.events.borrow_mut().push('r');
            let line = self.lines.next().unwrap_or_default();
            buffer[..line.len()].copy_from_slice(line);
            Ok(line.len())
        }
    }
    impl Write for Alternating<'_> {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            Ok(buffer.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            self.events.borrow_mut().push('f');
            Ok(())
        }
    }
    let events = std::cell::RefCell::default();
    let lines: Vec<&'static [u8]> = vec![b"{}\n", b"{}\n"];
    let input = Alternating { events: &events, lines: lines.into_iter() };
    let output = Alternating { events: &events, lines: Vec::new().into_iter() };
    run(io::BufReader::new(input), output).unwrap();
    assert_eq!(*events.borrow(), "rfrfr");
}

#[test]
fn the_list_names_every_operation() {
    let mut output = Vec::new();
    list(&mut output).unwrap();
    let text = String::from_utf8(output).unwrap();
    for name in ["prf_plus", "ikev1_keys", "dh", "kem", "sig_verify", "ike_parse", "ike_decrypt"] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name}");
    }
    assert!(text.contains("MODP_2048") && text.contains("ML_KEM_768"));
}
