//! Operations of the key exchange: key derivation, groups, signatures, messages.

use ::ike::crypto::v1::{Iv, Skeyid, SkeyidD, V1Cipher};
use ::ike::crypto::{
    CryptoFailure, DirectionKeys, IkeKeys, KeySizes, OpenError, Prf, SignatureHash,
    SignatureScheme, SkCipher, SkD, SkIntegrity, SkOpener, SkSuite, Skeyseed,
};
use ::ike::message::{Chain, EncryptionId, IkeSpi, InvalidMessage, Message, ProtocolId, v1};
use ipsec::algorithm::KeyMaterial;
use keyexchange::{Group, KeyExchangeError, PrivateKey};
use serde_json::{Value, json};

use super::request::{Fault, Request, to_hex};
use super::{Answer, Operation};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "prf", algorithms: prf_names, run: prf },
    Operation { name: "prf_plus", algorithms: prf_names, run: prf_plus },
    Operation { name: "ikev1_keys", algorithms: prf_names, run: ikev1_keys },
    Operation { name: "ikev1_keymat", algorithms: prf_names, run: ikev1_keymat },
    Operation { name: "ikev2_keys", algorithms: prf_names, run: ikev2_keys },
    Operation { name: "ikev2_keymat", algorithms: prf_names, run: ikev2_keymat },
    Operation { name: "dh", algorithms: || group_names(false), run: dh },
    Operation { name: "kem", algorithms: || group_names(true), run: kem },
    Operation { name: "sig_verify", algorithms: || SIGNATURES.to_vec(), run: sig_verify },
    Operation { name: "ike_parse", algorithms: Vec::new, run: ike_parse },
    Operation { name: "ike_decrypt", algorithms: || CIPHERS.to_vec(), run: ike_decrypt },
];

const SIGNATURES: &[&str] = &["RSA_PKCS1", "RSA_PSS", "ECDSA", "ED25519"];
const CIPHERS: &[&str] = &["AES_CBC", "AES_CTR", "AES_GCM", "AES_CCM", "CHACHA20_POLY1305"];

impl From<CryptoFailure> for Fault {
    /// What the library refuses in a request are lengths: of a key, of an expansion.
    fn from(_: CryptoFailure) -> Self {
        Self::Malformed
    }
}

impl From<InvalidMessage> for Fault {
    fn from(_: InvalidMessage) -> Self {
        Self::Malformed
    }
}

impl From<KeyExchangeError> for Fault {
    fn from(error: KeyExchangeError) -> Self {
        match error {
            KeyExchangeError::PeerValue => Self::PeerValue,
            KeyExchangeError::PrivateValue | KeyExchangeError::Library => Self::Malformed,
        }
    }
}

impl From<OpenError> for Fault {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Integrity => Self::Auth,
            OpenError::Length | OpenError::Padding | OpenError::Crypto(_) => Self::Malformed,
        }
    }
}

fn prf_names() -> Vec<&'static str> {
    Prf::ALL.iter().map(|prf| prf.name()).collect()
}

fn group_names(kem: bool) -> Vec<&'static str> {
    Group::ALL.iter().filter(|group| group.is_kem() == kem).map(|group| group.name()).collect()
}

fn prf_of(request: &Request<'_>, field: &str) -> Result<Prf, Fault> {
    Prf::from_name(request.text(field)?).ok_or(Fault::Unsupported)
}

fn one(name: &str, bytes: &[u8]) -> Answer {
    [(name.to_owned(), Value::String(to_hex(bytes)))].into_iter().collect()
}

fn several(fields: &[(&str, &[u8])]) -> Answer {
    fields.iter().map(|(name, bytes)| ((*name).to_owned(), Value::String(to_hex(bytes)))).collect()
}

fn prf(request: &Request<'_>) -> Result<Answer, Fault> {
    let prf = prf_of(request, "alg")?;
    let out = prf.compute(&request.bytes("key")?, &[&request.bytes("data")?])?;
    Ok(one("out", &out))
}

fn prf_plus(request: &Request<'_>) -> Result<Answer, Fault> {
    let prf = prf_of(request, "alg")?;
    let (key, seed) = (request.bytes("key")?, request.bytes("seed")?);
    Ok(one("out", &prf.plus(&key, &[&seed], request.number("len")?)?))
}

fn ikev1_keys(request: &Request<'_>) -> Result<Answer, Fault> {
    let prf = prf_of(request, "prf")?;
    let (ni, nr, gxy) = (request.bytes("ni")?, request.bytes("nr")?, request.bytes("gxy")?);
    let skeyid = match request.text("auth")? {
        "psk" => Skeyid::from_psk(prf, &request.bytes("psk")?, &ni, &nr)?,
        "signature" | "gss" => Skeyid::from_exchange(prf, &ni, &nr, &gxy)?,
        _ => return Err(Fault::Unsupported),
    };
    let cky_i = IkeSpi(request.array("cky_i")?);
    let cky_r = IkeSpi(request.array("cky_r")?);
    let keys = skeyid.derive(&gxy, cky_i, cky_r)?;
    let mut answer = several(&[
        ("skeyid", keys.skeyid.expose()),
        ("skeyid_d", keys.d.expose()),
        ("skeyid_a", keys.a.expose()),
        ("skeyid_e", keys.e.expose()),
    ]);
    if let Some(len) = request.optional_number("len")? {
        answer.extend(one("key", &keys.e.encryption_key(len)?));
    }
    Ok(answer)
}

fn ikev1_keymat(request: &Request<'_>) -> Result<Answer, Fault> {
    let skeyid_d = SkeyidD::from_bytes(prf_of(request, "prf")?, request.bytes("skeyid_d")?);
    let keymat = skeyid_d.keymat(
        request.optional_bytes("gqmxy")?.as_deref(),
        ProtocolId::from_number(request.number("protocol")?),
        &request.bytes("spi")?,
        &request.bytes("ni")?,
        &request.bytes("nr")?,
        request.number("len")?,
    )?;
    Ok(one("keymat", &keymat))
}

fn ikev2_keys(request: &Request<'_>) -> Result<Answer, Fault> {
    let prf = prf_of(request, "prf")?;
    let (ni, nr) = (request.bytes("ni")?, request.bytes("nr")?);
    let (gir, shared) = (request.optional_bytes("gir")?, request.optional_bytes("shared")?);
    let seed = match request.optional_bytes("sk_d_old")? {
        None => Skeyseed::initial(prf, &ni, &nr, &gir.or(shared).ok_or(Fault::Malformed)?)?,
        Some(old) => {
            let old_prf = match request.optional("prf_old") {
                None => prf,
                Some(_) => prf_of(request, "prf_old")?,
            };
            // A rekey with an additional key exchange has both (RFC 9370 §2.2.4), an IKE_INTERMEDIATE only `shared`.
            let (first, additional) = match (gir, shared) {
                (Some(gir), Some(shared)) => (gir, vec![shared]),
                (Some(one), None) | (None, Some(one)) => (one, vec![]),
                (None, None) => return Err(Fault::Malformed),
            };
            let additional: Vec<&[u8]> = additional.iter().map(Vec::as_slice).collect();
            let old = SkD::from_bytes(old_prf, old);
            Skeyseed::rekey(&old, &ni, &nr, &first, &additional)?
        }
    };
    let sizes = request.object("sizes")?;
    let sizes = KeySizes {
        d: sizes.number("d")?,
        a: sizes.number("a")?,
        e: sizes.number("e")?,
        p: sizes.number("p")?,
    };
    let spi_i = IkeSpi(request.array("spi_i")?);
    let spi_r = IkeSpi(request.array("spi_r")?);
    let mut keys = IkeKeys::derive(prf, &seed, &ni, &nr, spi_i, spi_r, sizes)?;
    if let Some(ppk) = request.optional_bytes("ppk")? {
        keys = keys.mix_ppk(&ppk)?;
    }
    Ok(several(&[
        ("skeyseed", seed.expose()),
        ("sk_d", keys.d.expose()),
        ("sk_ai", keys.initiator.integrity.expose()),
        ("sk_ar", keys.responder.integrity.expose()),
        ("sk_ei", keys.initiator.encryption.expose()),
        ("sk_er", keys.responder.encryption.expose()),
        ("sk_pi", keys.pi.expose()),
        ("sk_pr", keys.pr.expose()),
    ]))
}

fn ikev2_keymat(request: &Request<'_>) -> Result<Answer, Fault> {
    let sk_d = SkD::from_bytes(prf_of(request, "prf")?, request.bytes("sk_d")?);
    let gir = request.optional_bytes("gir")?;
    let (ni, nr) = (request.bytes("ni")?, request.bytes("nr")?);
    let keymat = sk_d.keymat(gir.as_deref(), &ni, &nr, &[], request.number("len")?)?;
    Ok(one("keymat", keymat.expose()))
}

fn group_of(request: &Request<'_>, field: &str, kem: bool) -> Result<Group, Fault> {
    Group::from_name(request.text(field)?)
        .filter(|group| group.is_kem() == kem)
        .ok_or(Fault::Unsupported)
}

fn dh(request: &Request<'_>) -> Result<Answer, Fault> {
    let group = group_of(request, "group", false)?;
    let private = PrivateKey::from_bytes(group, &request.bytes("private")?)?;
    let public = private.public().to_vec();
    let shared = private.agree(&request.bytes("peer_public")?)?;
    Ok(several(&[("public", &public), ("shared", shared.as_bytes())]))
}

fn kem(request: &Request<'_>) -> Result<Answer, Fault> {
    let group = group_of(request, "alg", true)?;
    match request.text("do")? {
        "keygen" => {
            let (ek, dk) = keyexchange::kem_keypair(group, &request.bytes("seed")?)?;
            Ok(several(&[("ek", &ek), ("dk", &dk)]))
        }
        "decapsulate" => {
            let (dk, ct) = (request.bytes("dk")?, request.bytes("ct")?);
            let shared = keyexchange::kem_decapsulate(group, &dk, &ct)?;
            Ok(one("shared", shared.as_bytes()))
        }
        _ => Err(Fault::Unsupported),
    }
}

fn hash_of(request: &Request<'_>) -> Result<SignatureHash, Fault> {
    let name: String = request.text("hash")?.chars().filter(char::is_ascii_alphanumeric).collect();
    match name.to_ascii_uppercase().as_str() {
        "SHA1" => Ok(SignatureHash::Sha1),
        "SHA256" | "SHA2256" => Ok(SignatureHash::Sha2_256),
        "SHA384" | "SHA2384" => Ok(SignatureHash::Sha2_384),
        "SHA512" | "SHA2512" => Ok(SignatureHash::Sha2_512),
        _ => Err(Fault::Unsupported),
    }
}

fn sig_verify(request: &Request<'_>) -> Result<Answer, Fault> {
    let (spki, message) = (request.bytes("spki")?, request.bytes("msg")?);
    let signature = request.bytes("sig")?;
    let scheme = match request.text("alg")? {
        "RSA_PKCS1" => SignatureScheme::RsaPkcs1(hash_of(request)?),
        "RSA_PSS" => SignatureScheme::RsaPss(hash_of(request)?),
        // A fixed-length signature has twice the curve's length (RFC 4754 §7); it is not DER, which begins with a
        // SEQUENCE of the rest.
        "ECDSA" if matches!(signature.len(), 64 | 96 | 132) && !is_der_sequence(&signature) => {
            SignatureScheme::EcdsaFixed
        }
        "ECDSA" => SignatureScheme::Ecdsa(hash_of(request)?),
        "ED25519" => SignatureScheme::Ed25519,
        _ => return Err(Fault::Unsupported),
    };
    let valid = scheme.verify(&spki, &message, &signature);
    Ok([("valid".to_owned(), Value::Bool(valid))].into_iter().collect())
}

fn is_der_sequence(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, length, rest @ ..] if usize::from(*length) == rest.len())
}

fn payloads(chain: &Chain<'_>) -> Value {
    chain
        .iter()
        .map(|raw| json!({ "type": raw.number, "critical": raw.critical, "length": raw.length() }))
        .collect()
}

fn ike_parse(request: &Request<'_>) -> Result<Answer, Fault> {
    let datagram = request.bytes("datagram")?;
    let message = Message::parse_any_spi(&datagram)?;
    let header = message.header();
    let mut answer =
        several(&[("spi_i", header.spi_i.0.as_slice()), ("spi_r", header.spi_r.0.as_slice())]);
    answer.insert("version".to_owned(), header.version.number().into());
    answer.insert("exchange".to_owned(), header.exchange.number().into());
    answer.insert("message_id".to_owned(), header.message_id.0.into());
    answer.insert("payloads".to_owned(), payloads(&message.chain()));
    Ok(answer)
}

fn ike_decrypt(request: &Request<'_>) -> Result<Answer, Fault> {
    let datagram = request.bytes("datagram")?;
    let encryption = request.object("encr")?;
    let key = encryption.bytes("key")?;
    match Message::parse_any_spi(&datagram)? {
        Message::V1(message) => {
            let cipher = match encryption.text("alg")? {
                "AES_CBC" => V1Cipher::aes_cbc(&key)?,
                "3DES_CBC" => V1Cipher::triple_des_cbc(&key)?,
                _ => return Err(Fault::Unsupported),
            };
            let v1::Body::Encrypted { first, ciphertext } = message.body else {
                return Err(Fault::Malformed);
            };
            let iv = request.bytes("iv")?;
            if iv.len() != cipher.block_len() {
                return Err(Fault::Malformed);
            }
            let (plain, next) = cipher.decrypt(Iv::from_bytes(&iv)?, ciphertext)?;
            let (chain, _) = Chain::parse_v1(first, &plain)?;
            let mut answer = several(&[("plain", chain.bytes()), ("next_iv", next.bytes())]);
            answer.insert("payloads".to_owned(), payloads(&chain));
            Ok(answer)
        }
        Message::V2(message) => {
            let encrypted = message.encrypted().ok_or(Fault::Malformed)?;
            let integrity = request.optional_object("integ")?;
            let (integrity, integrity_key) = match integrity {
                None => (None, Vec::new()),
                Some(field) => (Some(integrity_of(&field)?), field.bytes("key")?),
            };
            let suite = SkSuite::new(cipher_of(&encryption, key.len())?, integrity)
                .ok_or(Fault::Unsupported)?;
            let keys = DirectionKeys {
                encryption: KeyMaterial::new(key),
                integrity: KeyMaterial::new(integrity_key),
            };
            let opened = SkOpener::new(suite, keys)?.open(&encrypted)?;
            let mut answer = one("plain", &opened.content);
            // A fragment's payloads are known only when all fragments are.
            let list = match opened.fragment {
                Some(fragment) if fragment.total() > 1 => json!([]),
                _ => payloads(&Chain::parse_v2(opened.first, &opened.content)?),
            };
            answer.insert("payloads".to_owned(), list);
            Ok(answer)
        }
    }
}

/// The cipher whose key, with its salt, has this length.
fn cipher_of(field: &Request<'_>, len: usize) -> Result<SkCipher, Fault> {
    let icv: u8 = match field.optional_number("icv_len")? {
        Some(icv) => icv,
        None => field.optional_number("tag_len")?.unwrap_or(16),
    };
    let name = field.text("alg")?;
    let name = name.strip_prefix("ENCR_").unwrap_or(name);
    let (id, salt) = match (name, icv) {
        ("AES_CBC", _) => (EncryptionId::AesCbc, 0),
        ("AES_CTR", _) => (EncryptionId::AesCtr, 4),
        ("AES_GCM_8", _) | ("AES_GCM", 8) => (EncryptionId::AesGcm8, 4),
        ("AES_GCM_12", _) | ("AES_GCM", 12) => (EncryptionId::AesGcm12, 4),
        ("AES_GCM_16", _) | ("AES_GCM", 16) => (EncryptionId::AesGcm16, 4),
        ("AES_CCM_8", _) | ("AES_CCM", 8) => (EncryptionId::AesCcm8, 3),
        ("AES_CCM_12", _) | ("AES_CCM", 12) => (EncryptionId::AesCcm12, 3),
        ("AES_CCM_16", _) | ("AES_CCM", 16) => (EncryptionId::AesCcm16, 3),
        ("CHACHA20_POLY1305", _) => (EncryptionId::ChaCha20Poly1305, 4),
        _ => return Err(Fault::Unsupported),
    };
    let bits = match id {
        EncryptionId::ChaCha20Poly1305 => None,
        _ => Some(len.checked_sub(salt).and_then(|len| u16::try_from(len.checked_mul(8)?).ok()))
            .map(|bits| bits.ok_or(Fault::Malformed))
            .transpose()?,
    };
    SkCipher::new(id, bits).ok_or(Fault::Malformed)
}

fn integrity_of(field: &Request<'_>) -> Result<SkIntegrity, Fault> {
    let name = field.text("alg")?;
    match name.strip_prefix("AUTH_").unwrap_or(name) {
        "HMAC_SHA1_96" | "HMAC_SHA1" => Ok(SkIntegrity::HmacSha1_96),
        "HMAC_SHA2_256_128" | "HMAC_SHA2_256" => Ok(SkIntegrity::HmacSha2_256_128),
        "HMAC_SHA2_384_192" | "HMAC_SHA2_384" => Ok(SkIntegrity::HmacSha2_384_192),
        "HMAC_SHA2_512_256" | "HMAC_SHA2_512" => Ok(SkIntegrity::HmacSha2_512_256),
        "AES_XCBC_96" | "AES_XCBC" => Ok(SkIntegrity::AesXcbc96),
        "AES_CMAC_96" | "AES_CMAC" => Ok(SkIntegrity::AesCmac96),
        _ => Err(Fault::Unsupported),
    }
}
