//! Wycheproof `aes_gcm_test.json` (C2SP/wycheproof, Apache-2.0) and the NIST CAVP response files with 96-bit
//! IV (public domain), as they are in `tests/vectors/`.

use std::io::Read;

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wycheproof {
    number_of_tests: usize,
    test_groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    iv_size: usize,
    tests: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    tc_id: u32,
    #[serde(with = "hex")]
    key: Vec<u8>,
    #[serde(with = "hex")]
    iv: Vec<u8>,
    #[serde(with = "hex")]
    aad: Vec<u8>,
    #[serde(with = "hex")]
    msg: Vec<u8>,
    #[serde(with = "hex")]
    ct: Vec<u8>,
    #[serde(with = "hex")]
    tag: Vec<u8>,
    result: String,
}

#[derive(Deserialize)]
struct Cavp {
    vectors: Vec<CavpCase>,
}

#[derive(Deserialize)]
struct CavpCase {
    file: String,
    count: u32,
    valid: bool,
    #[serde(with = "hex")]
    key: Vec<u8>,
    #[serde(with = "hex")]
    iv: Vec<u8>,
    #[serde(default, with = "hex")]
    pt: Vec<u8>,
    #[serde(with = "hex")]
    aad: Vec<u8>,
    #[serde(with = "hex")]
    ct: Vec<u8>,
    #[serde(with = "hex")]
    tag: Vec<u8>,
}

mod hex {
    use serde::{Deserialize, Deserializer, de::Error};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(d)?;
        let digit = |c: u8| (c as char).to_digit(16).ok_or_else(|| D::Error::custom("not hex"));
        text.as_bytes().chunks(2).map(|b| Ok((digit(b[0])? * 16 + digit(b[1])?) as u8)).collect()
    }
}

/// One published case as the engines take it.
struct Known {
    name: String,
    key: Vec<u8>,
    nonce: [u8; 12],
    aad: Vec<u8>,
    plain: Vec<u8>,
    cipher: Vec<u8>,
    tag: Vec<u8>,
    valid: bool,
}

impl Known {
    /// Alone, and then every case in bursts.
    fn check(cases: &[Self]) {
        for engine in Engine::available() {
            let keys: Vec<_> =
                cases.iter().map(|c| GcmKey::with_engine(engine, &c.key).unwrap()).collect();
            for (case, key) in cases.iter().zip(&keys) {
                case.alone(key, engine);
            }
            let kept = [Keys::Near, Keys::Far, Keys::Farther];
            let chunks = cases.chunks(61).zip(keys.chunks(61));
            for ((chunk, keys), kept) in chunks.flat_map(|chunk| kept.map(|kept| (chunk, kept))) {
                let mut packets: Vec<_> = chunk.iter().enumerate().map(Self::packet).collect();
                let verdicts = open_packets(keys, &mut packets, kept);
                for ((case, packet), ok) in chunk.iter().zip(&packets).zip(verdicts) {
                    assert_eq!(ok, case.valid, "{} {}", engine.name(), case.name);
                    case.assert_opened(packet.output(), engine);
                }
            }
        }
    }

    fn packet((key, case): (usize, &Self)) -> Packet {
        let src = Margined::new(&case.cipher, key % 64);
        let dst = (key % 3 == 0).then(|| Margined::new(&vec![1; case.cipher.len()], key % 7));
        let tag = Margined::new(&case.tag, key % 5);
        Packet { key, nonce: case.nonce, aad: case.aad.clone(), src, dst, tag }
    }

    fn alone(&self, key: &GcmKey, engine: Engine) {
        let mut data = self.cipher.clone();
        let opened = open_one(key, self.nonce, &self.aad, &mut data, &self.tag);
        assert_eq!(opened.is_ok(), self.valid, "{} {}", engine.name(), self.name);
        self.assert_opened(&data, engine);
        if self.valid {
            let mut data = self.plain.clone();
            let mut tag = vec![0; self.tag.len()];
            seal_one(key, self.nonce, &self.aad, &mut data, &mut tag).unwrap();
            assert_eq!(data, self.cipher, "{} {}", engine.name(), self.name);
            assert_eq!(tag, self.tag, "{} {}", engine.name(), self.name);
        }
    }

    fn assert_opened(&self, data: &[u8], engine: Engine) {
        let wiped = vec![0; data.len()];
        let expected = if self.valid { &self.plain } else { &wiped };
        assert_eq!(data, expected, "{} {}", engine.name(), self.name);
    }
}

/// What the engine does not take is what ESP never has: other nonce lengths. Every case with 96 bits runs.
#[test]
fn wycheproof() {
    let json = include_str!("../../../tests/vectors/aes_gcm_test.json");
    let file: Wycheproof = serde_json::from_str(json).unwrap();
    let total: usize = file.test_groups.iter().map(|g| g.tests.len()).sum();
    assert_eq!(total, file.number_of_tests);
    let cases: Vec<_> = file
        .test_groups
        .into_iter()
        .filter(|group| group.iv_size == 96)
        .flat_map(|group| group.tests)
        .map(|case| Known {
            name: format!("tcId {}", case.tc_id),
            key: case.key,
            nonce: case.iv.try_into().unwrap(),
            aad: case.aad,
            plain: case.msg,
            cipher: case.ct,
            tag: case.tag,
            valid: case.result == "valid",
        })
        .collect();
    assert_eq!(cases.len(), 197);
    assert!(cases.iter().any(|c| !c.valid));
    Known::check(&cases);
}

#[test]
fn cavp_with_96_bit_iv() {
    let gz = include_bytes!("../../../tests/vectors/aes_gcm_iv96.json.gz");
    let mut json = String::new();
    flate2::read::GzDecoder::new(&gz[..]).read_to_string(&mut json).unwrap();
    let file: Cavp = serde_json::from_str(&json).unwrap();
    let cases: Vec<_> = file
        .vectors
        .into_iter()
        .map(|case| Known {
            name: format!("{} {}", case.file, case.count),
            key: case.key,
            nonce: case.iv.try_into().unwrap(),
            aad: case.aad,
            plain: case.pt,
            cipher: case.ct,
            tag: case.tag,
            valid: case.valid,
        })
        .collect();
    assert!(cases.len() > 1000 && cases.iter().any(|c| !c.valid), "{}", cases.len());
    for length in TAG_LENGTHS {
        assert!(cases.iter().any(|c| c.tag.len() == length), "no case with a tag of {length}");
    }
    Known::check(&cases);
}
