//! Published packets and step lists, as requests (the dataplane's own test data, which names its origins).

use super::super::tests::ask;
use serde_json::{Value, json};

const PACKETS: &str = include_str!("../../../../dataplane/ipsec/tests/vectors/esp_ah_packets.json");

fn records() -> Vec<Value> {
    let file: Value = serde_json::from_str(PACKETS).unwrap();
    file["vectors"].as_array().unwrap().clone()
}

fn with(record: &Value, fields: Value) -> Value {
    let mut record = record.clone();
    record.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    record
}

fn op(record: &Value, what: &str) -> String {
    format!("{}_{what}", record["proto"].as_str().unwrap())
}

/// What the gateway has no transform for, and what an SA may not be: without integrity, or with a key that
/// was not published.
fn is_known(record: &Value) -> bool {
    let (enc, auth) = (record["enc"]["alg"].as_str(), &record["auth"]);
    enc != Some("DES_CBC") && (auth["alg"] == "AEAD" || !auth["key"].is_null())
}

#[test]
fn published_packets_are_opened_and_sealed() {
    let mut known = 0;
    for record in records() {
        let requests = [
            with(&record, json!({ "op": op(&record, "open") })),
            with(&record, json!({ "op": op(&record, "seal") })),
        ];
        let answers = ask(&requests);
        if !is_known(&record) {
            assert!(answers.iter().all(|answer| answer["ok"] == false), "{}", record["id"]);
            continue;
        }
        assert_eq!(answers[0]["plain"], record["plain"], "{} {}", record["id"], answers[0]);
        if record["proto"] == "esp" {
            assert_eq!(answers[0]["next_header"], record["next_header"], "{}", record["id"]);
        }
        assert_eq!(answers[1]["packet"], record["packet"], "{} {}", record["id"], answers[1]);
        known += 1;
    }
    assert_eq!(known, 17);
}

#[test]
fn faults_are_told_apart() {
    let record = &records()[0];
    let mut flipped = record["packet"].as_str().unwrap().to_owned();
    let last = if flipped.ends_with('0') { "1" } else { "0" };
    flipped.replace_range(flipped.len() - 1.., last);
    let answers = ask(&[
        with(record, json!({ "op": "esp_open", "packet": flipped })),
        with(record, json!({ "op": "esp_open", "spi": 4096 })),
        with(record, json!({ "op": "esp_open", "packet": "45" })),
        with(record, json!({ "op": "ah_open" })),
        with(record, json!({ "op": "esp_open", "enc": { "alg": "RC4", "key": "00" } })),
    ]);
    let errors: Vec<_> = answers.iter().map(|answer| answer["error"].as_str().unwrap()).collect();
    assert_eq!(errors, ["auth", "spi", "malformed", "malformed", "unsupported"]);
}

/// A burst gives what single requests give, and a packet that fails spoils no other.
#[test]
fn a_burst_is_its_packets() {
    let key = "000102030405060708090a0b0c0d0e0f";
    let seal = |alg: &str, key: &str, plain: &str| {
        json!({
            "op": "aead_seal", "alg": alg, "key": key, "nonce": "000000000000000000000001",
            "aad": "aabb", "plain": plain, "tag_len": 16,
        })
    };
    let long = key.repeat(2);
    let requests = [
        seal("AES_GCM", key, "00112233"),
        seal("AES_GCM", "00", ""),
        seal("CHACHA20_POLY1305", &long, "445566"),
        seal("AES_GCM", &long, &"77".repeat(100)),
    ];
    let burst = ask(&[json!({ "op": "aead_burst", "packets": requests })]);
    let single = ask(&requests);
    for (in_burst, mut alone) in burst[0]["answers"].as_array().unwrap().iter().zip(single) {
        alone.as_object_mut().unwrap().remove("id");
        assert_eq!(*in_burst, alone);
    }
    let mut opens: Vec<_> = [0, 2, 3]
        .map(|i| {
            let sealed = &burst[0]["answers"][i];
            with(
                &requests[i],
                json!({ "op": "aead_open", "cipher": sealed["cipher"], "tag": sealed["tag"] }),
            )
        })
        .into();
    opens[0]["aad"] = json!("aabc");
    let opened = ask(&[json!({ "op": "aead_burst", "packets": opens })]);
    let answers = &opened[0]["answers"];
    assert_eq!(answers[0], json!({ "ok": false, "error": "auth" }));
    assert_eq!(answers[1]["plain"], "445566");
    assert_eq!(answers[2]["plain"], "77".repeat(100));
}

#[test]
fn replay_steps_have_one_verdict_each() {
    let steps = json!([
        { "set_state": 4_294_967_400_u64 }, { "seq": 4_294_967_390_u64 }, { "seq": 21 },
        { "seq": 4_294_967_390_u64 }, { "seq": 8_589_934_602_u64 },
    ]);
    let request = json!({ "op": "replay", "window": 64, "esn": true, "steps": steps });
    let answer = &ask(&[request])[0];
    assert_eq!(answer["verdicts"], json!(["accept", "integrity", "replay", "accept"]));
    let request = json!({ "op": "replay", "window": 31, "steps": [] });
    assert_eq!(ask(&[request])[0]["error"], "unsupported");
}

/// SP 800-38A F.2.1 and F.5.1, RFC 4231 §4.2, RFC 3566 §4.6.
#[test]
fn single_transforms_give_published_answers() {
    let key = "2b7e151628aed2a6abf7158809cf4f3c";
    let plain = "6bc1bee22e409f96e93d7e117393172a";
    let iv = "000102030405060708090a0b0c0d0e0f";
    let answers = ask(&[
        json!({ "op": "cipher", "alg": "AES_CBC", "dir": "encrypt", "key": key, "iv": iv, "in": plain }),
        json!({ "op": "cipher", "alg": "AES_CBC", "dir": "decrypt", "key": key, "iv": iv,
                "in": "7649abac8119b246cee98e9b12e9197d" }),
        json!({ "op": "cipher", "alg": "AES_CTR", "dir": "encrypt", "key": key,
                "iv": "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", "in": plain }),
        json!({ "op": "cipher", "alg": "AES_CBC", "dir": "encrypt", "key": key, "iv": iv, "in": "00" }),
        json!({ "op": "mac", "alg": "HMAC_SHA2_256", "key": "0b".repeat(20), "msg": "4869205468657265", "len": 16 }),
        json!({ "op": "mac", "alg": "AES_XCBC", "key": iv, "msg": "000102" }),
    ]);
    assert_eq!(answers[0]["out"], "7649abac8119b246cee98e9b12e9197d");
    assert_eq!(answers[1]["out"], plain);
    assert_eq!(answers[2]["out"], "874d6191b620e3261bef6864990db6ce");
    assert_eq!(answers[3]["error"], "malformed");
    assert_eq!(answers[4]["tag"], "b0344c61d8db38535ca8afceaf0bf12b");
    assert_eq!(answers[5]["tag"], "5b376580ae2f19afe7219ceef172756f");
}
