//! Private keys and what they sign with.

use super::requirement::{Requirement, SignatureHashes};
use super::{PublicKey, rsa_bits};
use crate::crypto::{SignatureHash, SignatureScheme, as_digest};
use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
    ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_ASN1_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
};
use x509_cert::der::asn1::{AnyRef, OctetStringRef};
use x509_cert::der::{Decode, Reader, SliceReader};
use zeroize::Zeroizing;

/// Why bytes are not a private key that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither PKCS #8, PKCS #1 nor SEC 1 of a kind of key that can be used.
    #[error(
        "not an RSA (2048 to 8192 bits), ECDSA (P-256, P-384, P-521) or Ed25519 private key in DER"
    )]
    Unusable,
}

/// A private key. Wiped on drop by the library that holds it; neither cloned nor printed.
pub struct PrivateKey {
    public: PublicKey,
    public_bits: Vec<u8>,
    key: Key,
}

enum Key {
    Rsa {
        pair: RsaKeyPair,
        /// RSAPrivateKey, for signatures that the library has no name for.
        pkcs1: Zeroizing<Vec<u8>>,
    },
    Ecdsa {
        der: Box<EcdsaKeyPair>,
        fixed: Box<EcdsaKeyPair>,
    },
    Ed25519(Ed25519KeyPair),
}

const CURVES: [(PublicKey, &EcdsaSigningAlgorithm, &EcdsaSigningAlgorithm); 3] = [
    (PublicKey::P256, &ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P256_SHA256_FIXED_SIGNING),
    (PublicKey::P384, &ECDSA_P384_SHA384_ASN1_SIGNING, &ECDSA_P384_SHA384_FIXED_SIGNING),
    (PublicKey::P521, &ECDSA_P521_SHA512_ASN1_SIGNING, &ECDSA_P521_SHA512_FIXED_SIGNING),
];

impl PrivateKey {
    /// Takes a key in DER: PKCS #8 (RFC 5958), PKCS #1 (RFC 8017 §A.1.2) or SEC 1 (RFC 5915).
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let inner = pkcs8_content(der);
        if let Ok(pair) = RsaKeyPair::from_der(inner.unwrap_or(der)) {
            let public_bits = pair.public_key().as_ref().to_vec();
            let bits = rsa_bits(&public_bits).filter(|bits| keyexchange::rsa::BITS.contains(bits));
            return Ok(Self {
                public: PublicKey::Rsa(bits.ok_or(KeyError::Unusable)?),
                public_bits,
                key: Key::Rsa { pair, pkcs1: Zeroizing::new(inner.unwrap_or(der).to_vec()) },
            });
        }
        if inner.is_some()
            && let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
        {
            let public_bits = pair.public_key().as_ref().to_vec();
            return Ok(Self { public: PublicKey::Ed25519, public_bits, key: Key::Ed25519(pair) });
        }
        for (public, asn1, fixed) in CURVES {
            let pair = |algorithm| EcdsaKeyPair::from_private_key_der(algorithm, der).map(Box::new);
            if let (Ok(der), Ok(fixed)) = (pair(asn1), pair(fixed)) {
                let public_bits = der.public_key().as_ref().to_vec();
                return Ok(Self { public, public_bits, key: Key::Ecdsa { der, fixed } });
            }
        }
        Err(KeyError::Unusable)
    }

    /// What kind of key it is.
    pub const fn public_key(&self) -> PublicKey {
        self.public
    }

    /// SHA-1 of the public half as a certificate's BIT STRING has it: how VICI names a key.
    pub fn id(&self) -> [u8; super::KEY_HASH_LEN] {
        super::key_hash(&self.public_bits)
    }

    /// The content of the BIT STRING that a certificate has of the public half.
    pub(super) fn public_bits(&self) -> &[u8] {
        &self.public_bits
    }

    /// How to sign in IKEv2 so that a peer that announced `peer` can check it and `requirement` holds; `None` when there is
    /// no such way. Without RFC 7427 at the peer these are methods 1 and 9 to 11.
    pub fn scheme(
        &self,
        peer: SignatureHashes,
        requirement: &Requirement,
    ) -> Option<SignatureScheme> {
        use SignatureHash::{Sha1, Sha2_256, Sha2_384, Sha2_512};
        let scheme = match self.public {
            PublicKey::Rsa(_) if peer.is_empty() => SignatureScheme::RsaPkcs1(Sha1),
            PublicKey::Rsa(bits) => {
                // A hash no weaker than the modulus (NIST SP 800-57 part 1 table 2), as charon chooses.
                let order: &[SignatureHash] = match bits {
                    ..=3072 => &[Sha2_256, Sha2_384, Sha2_512],
                    3073..=7680 => &[Sha2_384, Sha2_512, Sha2_256],
                    _ => &[Sha2_512, Sha2_384, Sha2_256],
                };
                let order = if requirement.hashes.is_empty() { order } else { &requirement.hashes };
                let hash = *order.iter().find(|hash| peer.contains(**hash))?;
                match requirement.pss {
                    true => SignatureScheme::RsaPss(hash),
                    false => SignatureScheme::RsaPkcs1(hash),
                }
            }
            PublicKey::P256 if peer.contains(Sha2_256) => SignatureScheme::Ecdsa(Sha2_256),
            PublicKey::P384 if peer.contains(Sha2_384) => SignatureScheme::Ecdsa(Sha2_384),
            PublicKey::P521 if peer.contains(Sha2_512) => SignatureScheme::Ecdsa(Sha2_512),
            PublicKey::P256 | PublicKey::P384 | PublicKey::P521 => SignatureScheme::EcdsaFixed,
            PublicKey::Ed25519 if peer.contains_identity() => SignatureScheme::Ed25519,
            PublicKey::Ed25519 | PublicKey::Other => return None,
        };
        requirement.allows_scheme(scheme, self.public).then_some(scheme)
    }

    /// How to sign HASH_I and HASH_R of IKEv1 (RFC 2409 §5.1, RFC 4754 §3); `None` for a key that IKEv1 has no method for.
    pub const fn scheme_v1(&self) -> Option<SignatureScheme> {
        match self.public {
            PublicKey::Rsa(_) => Some(SignatureScheme::RsaRaw),
            PublicKey::P256 | PublicKey::P384 | PublicKey::P521 => Some(SignatureScheme::EcdsaRaw),
            PublicKey::Ed25519 | PublicKey::Other => None,
        }
    }

    /// Signs `message`; `None` when the key does not do the scheme, or the library fails.
    pub fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Option<Vec<u8>> {
        use SignatureHash::{Sha1, Sha2_256, Sha2_384, Sha2_512};
        let random = SystemRandom::new();
        match (&self.key, scheme) {
            (Key::Rsa { pkcs1, .. }, SignatureScheme::RsaRaw) => {
                keyexchange::rsa::sign_raw(pkcs1, message)
            }
            (Key::Rsa { pkcs1, .. }, SignatureScheme::RsaPkcs1(Sha1)) => {
                keyexchange::rsa::sign_raw(pkcs1, &sha1_digest_info(message))
            }
            (
                Key::Rsa { pair, .. },
                SignatureScheme::RsaPkcs1(hash) | SignatureScheme::RsaPss(hash),
            ) => {
                let pss = matches!(scheme, SignatureScheme::RsaPss(_));
                let encoding: &'static dyn RsaEncoding = match (hash, pss) {
                    (Sha2_256, false) => &RSA_PKCS1_SHA256,
                    (Sha2_384, false) => &RSA_PKCS1_SHA384,
                    (Sha2_512, false) => &RSA_PKCS1_SHA512,
                    (Sha2_256, true) => &RSA_PSS_SHA256,
                    (Sha2_384, true) => &RSA_PSS_SHA384,
                    (Sha2_512, true) => &RSA_PSS_SHA512,
                    (Sha1, _) => return None,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            (Key::Ecdsa { der, .. }, SignatureScheme::Ecdsa(hash)) => {
                let own = match self.public {
                    PublicKey::P256 => Sha2_256,
                    PublicKey::P384 => Sha2_384,
                    _ => Sha2_512,
                };
                let signature = (hash == own).then(|| der.sign(&random, message))?;
                Some(signature.ok()?.as_ref().to_vec())
            }
            (Key::Ecdsa { fixed, .. }, SignatureScheme::EcdsaRaw) => {
                let hash = match self.public {
                    PublicKey::P256 => &digest::SHA256,
                    PublicKey::P384 => &digest::SHA384,
                    _ => &digest::SHA512,
                };
                let digest = as_digest(message, hash)?;
                Some(fixed.sign_digest(&digest).ok()?.as_ref().to_vec())
            }
            (Key::Ecdsa { fixed, .. }, SignatureScheme::EcdsaFixed) => {
                Some(fixed.sign(&random, message).ok()?.as_ref().to_vec())
            }
            (Key::Ed25519(pair), SignatureScheme::Ed25519) => {
                Some(pair.try_sign(message).ok()?.as_ref().to_vec())
            }
            _ => None,
        }
    }
}

impl core::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PrivateKey({:?})", self.public)
    }
}

/// DigestInfo of SHA-1 (RFC 8017 §9.2).
fn sha1_digest_info(message: &[u8]) -> Vec<u8> {
    const PREFIX: [u8; 15] = [0x30, 0x21, 0x30, 9, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0, 4, 0x14];
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, message);
    [&PREFIX, digest.as_ref()].concat()
}

/// The key inside a PKCS #8 PrivateKeyInfo.
fn pkcs8_content(der: &[u8]) -> Option<&[u8]> {
    let mut reader = SliceReader::new(der).ok()?;
    let key = reader.sequence(|fields: &mut SliceReader<'_>| {
        u8::decode(fields)?;
        AnyRef::decode(fields)?;
        let key = <&OctetStringRef>::decode(fields)?;
        // Attributes and the public key may follow.
        while !fields.is_finished() {
            AnyRef::decode(fields)?;
        }
        Ok::<_, x509_cert::der::Error>(key)
    });
    Some(key.ok()?.as_bytes())
}
