//! Verification of digital signatures (RFC 7427, RFC 4754, RFC 8420, RFC 7296 §3.8).

use aws_lc_rs::digest::{Algorithm, Digest, SHA256, SHA384, SHA512};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA384_ASN1,
    ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA512_ASN1, ECDSA_P521_SHA256_ASN1,
    ECDSA_P521_SHA384_ASN1, ECDSA_P521_SHA512_ASN1, ECDSA_P521_SHA512_FIXED, ED25519,
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};

use x509_cert::spki::SubjectPublicKeyInfoRef;

/// Hash of a signature scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignatureHash {
    /// SHA-1: IKEv1 and AUTH method 1 only, never with AUTH method 14 (RFC 8247 §3).
    Sha1,
    /// SHA2-256.
    Sha2_256,
    /// SHA2-384.
    Sha2_384,
    /// SHA2-512.
    Sha2_512,
}

/// How a signature is made. RSA keys have 2048 to 8192 bits, curves are P-256, P-384 and P-521.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignatureScheme {
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1(SignatureHash),
    /// RSASSA-PSS with MGF1 of the same hash and a salt of its length.
    RsaPss(SignatureHash),
    /// ECDSA with the signature as a DER Ecdsa-Sig-Value (RFC 7427 appendix A.3).
    Ecdsa(SignatureHash),
    /// ECDSA with the signature as `r ‖ s` (RFC 4754 §7): the hash is the curve's.
    EcdsaFixed,
    /// Ed25519 (RFC 8420).
    Ed25519,
    /// RSA with PKCS #1 type 1 padding around the message itself: HASH_I and HASH_R of IKEv1 (RFC 2409 §5.1).
    RsaRaw,
    /// ECDSA over the message as it is, `r ‖ s`: HASH_I and HASH_R of IKEv1 are hashes already (RFC 2409 §5.1,
    /// RFC 4754 §7), and charon hashes them no second time.
    EcdsaRaw,
}

/// The message as the digest of a curve's own hash, so that ECDSA takes the same number from it (FIPS 186-5 §6.4.1): its
/// leftmost octets, or with zeros before it.
pub(crate) fn as_digest(message: &[u8], hash: &'static Algorithm) -> Option<Digest> {
    let len = hash.output_len();
    let taken = message.get(..len).unwrap_or(message);
    let mut padded = vec![0; len.checked_sub(taken.len())?];
    padded.extend_from_slice(taken);
    Digest::import_less_safe(&padded, hash).ok()
}

const RAW_CURVES: [(&dyn VerificationAlgorithm, &Algorithm); 3] = [
    (&ECDSA_P256_SHA256_FIXED, &SHA256),
    (&ECDSA_P384_SHA384_FIXED, &SHA384),
    (&ECDSA_P521_SHA512_FIXED, &SHA512),
];

impl SignatureScheme {
    /// Whether `signature` is the key's over `message`; `spki` is the key as a DER SubjectPublicKeyInfo. A key that does
    /// not parse or does not fit the scheme verifies nothing.
    pub fn verify(self, spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
        if self == Self::RsaRaw {
            let key = SubjectPublicKeyInfoRef::try_from(spki).ok();
            let bits = key.and_then(|key| key.subject_public_key.as_bytes());
            return bits.is_some_and(|key| keyexchange::rsa::verify_raw(key, message, signature));
        }
        if self == Self::EcdsaRaw {
            return RAW_CURVES.iter().any(|&(algorithm, hash)| {
                let key = UnparsedPublicKey::new(algorithm, spki);
                as_digest(message, hash)
                    .is_some_and(|digest| key.verify_digest(&digest, signature).is_ok())
            });
        }
        self.algorithms().iter().any(|&algorithm| {
            UnparsedPublicKey::new(algorithm, spki).verify(message, signature).is_ok()
        })
    }

    /// What the library has for the scheme. Of several, one per curve, the key fits one at most.
    fn algorithms(self) -> &'static [&'static dyn VerificationAlgorithm] {
        use SignatureHash::{Sha1, Sha2_256, Sha2_384, Sha2_512};
        match self {
            Self::RsaPkcs1(Sha1) => &[&RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY],
            Self::RsaPkcs1(Sha2_256) => &[&RSA_PKCS1_2048_8192_SHA256],
            Self::RsaPkcs1(Sha2_384) => &[&RSA_PKCS1_2048_8192_SHA384],
            Self::RsaPkcs1(Sha2_512) => &[&RSA_PKCS1_2048_8192_SHA512],
            Self::RsaPss(Sha2_256) => &[&RSA_PSS_2048_8192_SHA256],
            Self::RsaPss(Sha2_384) => &[&RSA_PSS_2048_8192_SHA384],
            Self::RsaPss(Sha2_512) => &[&RSA_PSS_2048_8192_SHA512],
            Self::Ecdsa(Sha2_256) => {
                &[&ECDSA_P256_SHA256_ASN1, &ECDSA_P384_SHA256_ASN1, &ECDSA_P521_SHA256_ASN1]
            }
            Self::Ecdsa(Sha2_384) => {
                &[&ECDSA_P256_SHA384_ASN1, &ECDSA_P384_SHA384_ASN1, &ECDSA_P521_SHA384_ASN1]
            }
            Self::Ecdsa(Sha2_512) => {
                &[&ECDSA_P256_SHA512_ASN1, &ECDSA_P384_SHA512_ASN1, &ECDSA_P521_SHA512_ASN1]
            }
            Self::EcdsaFixed => {
                &[&ECDSA_P256_SHA256_FIXED, &ECDSA_P384_SHA384_FIXED, &ECDSA_P521_SHA512_FIXED]
            }
            Self::Ed25519 => &[&ED25519],
            // Not among the library's; see `verify`.
            Self::RsaRaw | Self::EcdsaRaw => &[],
            // PSS and ECDSA came after SHA-1 was to be avoided; nothing accepts them with it.
            Self::RsaPss(Sha1) | Self::Ecdsa(Sha1) => &[],
        }
    }
}
