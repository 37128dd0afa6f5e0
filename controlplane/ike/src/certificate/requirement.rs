//! What a connection demands of keys and signatures, and what a peer can check.

use super::PublicKey;
use crate::crypto::{SignatureHash, SignatureScheme};
use crate::message::HashAlgorithm;

/// The hashes that one side can check signatures with (RFC 7427 §4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignatureHashes(u8);

/// In the order of our preference.
const KNOWN: [HashAlgorithm; 4] = [
    HashAlgorithm::Sha2_256,
    HashAlgorithm::Sha2_384,
    HashAlgorithm::Sha2_512,
    HashAlgorithm::Identity,
];

impl SignatureHashes {
    /// What we announce.
    pub fn ours() -> Vec<u8> {
        KNOWN.iter().flat_map(|hash| hash.number().to_be_bytes()).collect()
    }

    /// Reads the data of SIGNATURE_HASH_ALGORITHMS; what is not known is left out, SHA-1 too (RFC 8247 §3).
    pub fn parse(data: &[u8]) -> Self {
        let numbers = data.as_chunks::<2>().0.iter().map(|n| u16::from_be_bytes(*n));
        let bits =
            numbers.filter_map(|number| KNOWN.iter().position(|known| known.number() == number));
        Self(bits.fold(0, |all, bit| all | 1 << bit))
    }

    /// Whether nothing was announced: the peer knows no RFC 7427.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a hash is among them.
    pub fn contains(self, hash: SignatureHash) -> bool {
        let number = match hash {
            SignatureHash::Sha1 => return false,
            SignatureHash::Sha2_256 => HashAlgorithm::Sha2_256,
            SignatureHash::Sha2_384 => HashAlgorithm::Sha2_384,
            SignatureHash::Sha2_512 => HashAlgorithm::Sha2_512,
        };
        self.has(number)
    }

    /// Whether signatures that hash by themselves can be checked (RFC 8420 §2).
    pub fn contains_identity(self) -> bool {
        self.has(HashAlgorithm::Identity)
    }

    fn has(self, hash: HashAlgorithm) -> bool {
        KNOWN.iter().position(|known| *known == hash).is_some_and(|bit| self.0 & 1 << bit != 0)
    }
}

/// A family of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// RSA.
    Rsa,
    /// ECDSA on P-256, P-384 or P-521.
    Ecdsa,
    /// Ed25519.
    Ed25519,
}

/// What `auth = pubkey`, `rsa-2048-sha256` and the like demand. The default demands nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirement {
    /// The kind of key.
    pub key: Option<KeyType>,
    /// Bits of the key at least; zero for no minimum of its own.
    pub bits: usize,
    /// The hashes allowed in signatures, in order of preference; empty allows every one.
    pub hashes: Vec<SignatureHash>,
    /// RSASSA-PSS instead of PKCS #1 v1.5.
    pub pss: bool,
}

impl Requirement {
    /// Whether a key of this kind will do.
    pub fn allows_key(&self, key: PublicKey) -> bool {
        let kind = match key {
            PublicKey::Rsa(_) => KeyType::Rsa,
            PublicKey::P256 | PublicKey::P384 | PublicKey::P521 => KeyType::Ecdsa,
            PublicKey::Ed25519 => KeyType::Ed25519,
            PublicKey::Other => return false,
        };
        self.key.is_none_or(|wanted| wanted == kind) && key.bits() >= self.bits
    }

    /// Whether a signature made like this will do.
    pub fn allows_scheme(&self, scheme: SignatureScheme, key: PublicKey) -> bool {
        if self.pss
            && !matches!(scheme, SignatureScheme::RsaPss(_))
            && matches!(key, PublicKey::Rsa(_))
        {
            return false;
        }
        let hash = match scheme {
            SignatureScheme::RsaPkcs1(hash)
            | SignatureScheme::RsaPss(hash)
            | SignatureScheme::Ecdsa(hash) => hash,
            SignatureScheme::EcdsaFixed => match key {
                PublicKey::P384 => SignatureHash::Sha2_384,
                PublicKey::P521 => SignatureHash::Sha2_512,
                _ => SignatureHash::Sha2_256,
            },
            // The hash of IKEv1 is the one negotiated; Ed25519 has its own.
            SignatureScheme::RsaRaw | SignatureScheme::EcdsaRaw | SignatureScheme::Ed25519 => {
                return true;
            }
        };
        self.hashes.is_empty() || self.hashes.contains(&hash)
    }
}
