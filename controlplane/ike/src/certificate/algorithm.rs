//! The AUTH payload of a signature: method, and for method 14 the AlgorithmIdentifier (RFC 7427 §3, RFC 8420 §4).

use super::PublicKey;
use crate::crypto::{SignatureHash, SignatureScheme};
use crate::message::AuthMethod;

/// The OID that ends AlgorithmIdentifiers without parameters, or with NULL.
const RSA: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1];
const ECDSA: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3];
const SHA2: [u8; 8] = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2];
const ED25519: [u8; 7] = [0x30, 5, 6, 3, 0x2b, 0x65, 0x70];

const SEQUENCE: u8 = 0x30;
const OID: u8 = 6;
const NULL: [u8; 2] = [5, 0];

const HASHES: [SignatureHash; 3] =
    [SignatureHash::Sha2_256, SignatureHash::Sha2_384, SignatureHash::Sha2_512];

/// The method and data of AUTH for a signature by a key of this kind.
pub(crate) fn to_auth(
    scheme: SignatureScheme,
    key: PublicKey,
    signature: &[u8],
) -> Option<(AuthMethod, Vec<u8>)> {
    let method = match (scheme, key) {
        (SignatureScheme::RsaPkcs1(SignatureHash::Sha1), _) => AuthMethod::RsaSignature,
        (SignatureScheme::EcdsaFixed, PublicKey::P256) => AuthMethod::EcdsaSha256P256,
        (SignatureScheme::EcdsaFixed, PublicKey::P384) => AuthMethod::EcdsaSha384P384,
        (SignatureScheme::EcdsaFixed, PublicKey::P521) => AuthMethod::EcdsaSha512P521,
        _ => {
            let identifier = identifier(scheme)?;
            let length = u8::try_from(identifier.len()).ok()?;
            let data = [&[length], identifier.as_slice(), signature].concat();
            return Some((AuthMethod::DigitalSignature, data));
        }
    };
    Some((method, signature.to_vec()))
}

/// What an AUTH payload says of its signature, and the signature; `None` for a method that is none of these.
pub(crate) fn from_auth(method: AuthMethod, data: &[u8]) -> Option<(SignatureScheme, &[u8])> {
    let scheme = match method {
        AuthMethod::RsaSignature => SignatureScheme::RsaPkcs1(SignatureHash::Sha1),
        // The method's curve is the key's: a signature of another curve has another length.
        AuthMethod::EcdsaSha256P256 if data.len() == 64 => SignatureScheme::EcdsaFixed,
        AuthMethod::EcdsaSha384P384 if data.len() == 96 => SignatureScheme::EcdsaFixed,
        AuthMethod::EcdsaSha512P521 if data.len() == 132 => SignatureScheme::EcdsaFixed,
        AuthMethod::DigitalSignature => {
            let (length, rest) = data.split_first()?;
            let (identifier, signature) = rest.split_at_checked(usize::from(*length))?;
            return Some((parse(identifier)?, signature));
        }
        _ => return None,
    };
    Some((scheme, data))
}

/// The AlgorithmIdentifier that we send.
fn identifier(scheme: SignatureScheme) -> Option<Vec<u8>> {
    match scheme {
        SignatureScheme::RsaPkcs1(hash) => rsa(hash, true),
        SignatureScheme::RsaPss(hash) => pss(hash, true, false),
        SignatureScheme::Ecdsa(hash) => ecdsa(hash),
        SignatureScheme::Ed25519 => Some(ED25519.to_vec()),
        SignatureScheme::EcdsaFixed | SignatureScheme::EcdsaRaw | SignatureScheme::RsaRaw => None,
    }
}

/// DER has one form for each but for two freedoms that are met: NULL or no parameters of a hash, and a trailer field that
/// is its default (RFC 7427 appendix A.4.3 has it).
fn parse(bytes: &[u8]) -> Option<SignatureScheme> {
    if bytes == ED25519 {
        return Some(SignatureScheme::Ed25519);
    }
    let is = |identifier: Option<Vec<u8>>| identifier.is_some_and(|known| known == bytes);
    HASHES.into_iter().find_map(|hash| {
        let either = [true, false];
        if either.into_iter().any(|null| is(rsa(hash, null))) {
            Some(SignatureScheme::RsaPkcs1(hash))
        } else if is(ecdsa(hash)) {
            Some(SignatureScheme::Ecdsa(hash))
        } else if either
            .into_iter()
            .any(|null| either.into_iter().any(|trailer| is(pss(hash, null, trailer))))
        {
            Some(SignatureScheme::RsaPss(hash))
        } else {
            None
        }
    })
}

/// The last arcs: sha*WithRSAEncryption (RFC 8017), ecdsa-with-SHA* (RFC 5758 §3.2), id-sha* (RFC 5754), and the octets.
const fn arcs(hash: SignatureHash) -> Option<(u8, u8, u8, u8)> {
    match hash {
        SignatureHash::Sha1 => None,
        SignatureHash::Sha2_256 => Some((11, 2, 1, 32)),
        SignatureHash::Sha2_384 => Some((12, 3, 2, 48)),
        SignatureHash::Sha2_512 => Some((13, 4, 3, 64)),
    }
}

fn rsa(hash: SignatureHash, null: bool) -> Option<Vec<u8>> {
    let (arc, ..) = arcs(hash)?;
    Some(sequence(&[&oid(&RSA, arc), parameters(null)]))
}

fn ecdsa(hash: SignatureHash) -> Option<Vec<u8>> {
    let (_, arc, ..) = arcs(hash)?;
    Some(sequence(&[&oid(&ECDSA, arc)]))
}

/// RSASSA-PSS-params (RFC 4055 §3.1) with MGF1 of the same hash and a salt of its length.
fn pss(hash: SignatureHash, null: bool, trailer: bool) -> Option<Vec<u8>> {
    let (_, _, arc, octets) = arcs(hash)?;
    let hash = sequence(&[&oid(&SHA2, arc), parameters(null)]);
    let mask = sequence(&[&oid(&RSA, 8), &hash]);
    let parts = [
        tagged(0xa0, &hash),
        tagged(0xa1, &mask),
        tagged(0xa2, &[2, 1, octets]),
        if trailer { tagged(0xa3, &[2, 1, 1]) } else { Vec::new() },
    ];
    Some(sequence(&[&oid(&RSA, 10), &sequence(&[&parts.concat()])]))
}

const fn parameters(null: bool) -> &'static [u8] {
    if null { &NULL } else { &[] }
}

fn oid(stem: &[u8], arc: u8) -> Vec<u8> {
    tagged(OID, &[stem, &[arc]].concat())
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tagged(SEQUENCE, &parts.concat())
}

/// All of these are shorter than 128 octets, whose lengths are one octet.
fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap_or(0x7f);
    [&[tag, length], content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            text.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    /// RFC 7427 appendix A, as printed there.
    #[test]
    fn the_identifiers_of_rfc_7427() {
        let cases = [
            (
                "300d 0609 2a86 4886 f70d 0101 0b05 00",
                SignatureScheme::RsaPkcs1(SignatureHash::Sha2_256),
            ),
            (
                "300d 0609 2a86 4886 f70d 0101 0c05 00",
                SignatureScheme::RsaPkcs1(SignatureHash::Sha2_384),
            ),
            (
                "300d 0609 2a86 4886 f70d 0101 0d05 00",
                SignatureScheme::RsaPkcs1(SignatureHash::Sha2_512),
            ),
            ("300a 0608 2a86 48ce 3d04 0302", SignatureScheme::Ecdsa(SignatureHash::Sha2_256)),
            ("300a 0608 2a86 48ce 3d04 0303", SignatureScheme::Ecdsa(SignatureHash::Sha2_384)),
            ("300a 0608 2a86 48ce 3d04 0304", SignatureScheme::Ecdsa(SignatureHash::Sha2_512)),
            (
                "3046 0609 2a86 4886 f70d 0101 0a30 39a0 0f30 0d06 0960 8648 0165 0304 0201 0500 \
                 a11c 301a 0609 2a86 4886 f70d 0101 0830 0d06 0960 8648 0165 0304 0201 0500 a203 \
                 0201 20a3 0302 0101",
                SignatureScheme::RsaPss(SignatureHash::Sha2_256),
            ),
            // RFC 8420 appendix A.
            ("3005 0603 2b65 70", SignatureScheme::Ed25519),
        ];
        for (printed, scheme) in cases {
            assert_eq!(parse(&hex(printed)), Some(scheme), "{printed}");
        }
        // SHA-1 is never taken with method 14 (RFC 8247 §3), nor PSS with its defaults, which are SHA-1.
        for printed in
            ["300d 0609 2a86 4886 f70d 0101 0505 00", "300d 0609 2a86 4886 f70d 0101 0a30 00", ""]
        {
            assert_eq!(parse(&hex(printed)), None, "{printed}");
        }
    }

    #[test]
    fn what_is_sent_is_read_again() {
        let schemes = HASHES
            .into_iter()
            .flat_map(|hash| {
                [
                    SignatureScheme::RsaPkcs1(hash),
                    SignatureScheme::RsaPss(hash),
                    SignatureScheme::Ecdsa(hash),
                ]
            })
            .chain([SignatureScheme::Ed25519]);
        for scheme in schemes {
            let (method, data) = to_auth(scheme, PublicKey::Other, b"signature").unwrap();
            assert_eq!(from_auth(method, &data), Some((scheme, &b"signature"[..])));
            for cut in 0..data.len() - b"signature".len() {
                assert_eq!(from_auth(method, &data[..cut]), None, "{cut} of {scheme:?}");
            }
        }
        let (method, data) =
            to_auth(SignatureScheme::EcdsaFixed, PublicKey::P384, &[7; 96]).unwrap();
        assert_eq!(method, AuthMethod::EcdsaSha384P384);
        assert_eq!(from_auth(method, &data), Some((SignatureScheme::EcdsaFixed, &[7; 96][..])));
        assert_eq!(from_auth(AuthMethod::EcdsaSha256P256, &data), None);
        assert_eq!(from_auth(AuthMethod::SharedKey, b"x"), None);
    }
}
