//! Proposals as they are configured (swanctl's `proposals`, `esp_proposals`, `ah_proposals`).
//!
//! | module | what |
//! |---|---|
//! | `keyword` | `aes128-sha256-modp2048` and the like, and what of it can be done here |
//! | `select` | offers on the wire and the choice between them |
//! | `name` | the words charon prints, such as `AES_CBC_128/HMAC_SHA2_256_128` |

mod keyword;
mod name;
pub(crate) mod select;

#[cfg(test)]
mod tests;

pub use keyword::{ParsedList, Weak, esp_supported};
pub use name::{encryption_name, group_name, integrity_name, prf_name};

use ipsec::algorithm::{Cipher, Integrity};

/// An encryption transform: IANA number and key length in bits (0 where the transform has one
/// length only).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Encryption {
    /// IKEv2 transform type 1 identifier.
    pub id: u16,
    /// Key Length attribute, 0 for none.
    pub key_bits: u16,
}

impl Encryption {
    /// Whether it protects integrity itself (RFC 5282, RFC 4106): AES-CCM, AES-GCM, GMAC, ChaCha20-Poly1305.
    pub const fn is_combined(self) -> bool {
        matches!(self.id, 14..=16 | 18..=21 | 28)
    }

    /// The dataplane's name of it, `None` for what the dataplane has no name for.
    pub const fn cipher(self) -> Option<Cipher> {
        Some(match self.id {
            3 => Cipher::TripleDesCbc,
            11 => Cipher::Null,
            12 => Cipher::AesCbc,
            13 => Cipher::AesCtr,
            14 => Cipher::AesCcm(8),
            15 => Cipher::AesCcm(12),
            16 => Cipher::AesCcm(16),
            18 => Cipher::AesGcm(8),
            19 => Cipher::AesGcm(12),
            20 => Cipher::AesGcm(16),
            21 => Cipher::AesGmac,
            28 => Cipher::ChaCha20Poly1305,
            _ => return None,
        })
    }

    /// Bytes of the key, without salt.
    pub const fn key_len(self) -> usize {
        match self.id {
            3 => 24,
            28 => 32,
            _ => self.key_bits as usize / 8,
        }
    }
}

/// The dataplane's name of an integrity transform (type 3), `None` for what it has no name for.
pub const fn integrity(id: u16) -> Option<Integrity> {
    Some(match id {
        1 => Integrity::HmacMd5_96,
        2 => Integrity::HmacSha1_96,
        5 => Integrity::AesXcbc96,
        8 => Integrity::AesCmac96,
        9..=11 => Integrity::AesGmac,
        12 => Integrity::HmacSha256_128,
        13 => Integrity::HmacSha384_192,
        14 => Integrity::HmacSha512_256,
        _ => return None,
    })
}

/// Bytes of key that an integrity transform of ESP or AH takes from KEYMAT, a salt with it (RFC 4543 §5.4).
pub(crate) const fn integrity_key_len(id: u16) -> usize {
    match (id, integrity(id)) {
        (10, _) => 28,
        (11, _) => 36,
        (_, Some(integrity)) => integrity.key_len(),
        (_, None) => 0,
    }
}

/// Groups below 2048 bits are within reach of a state (RFC 8247 §2.4).
pub(crate) const fn is_weak_group(id: u16) -> bool {
    matches!(id, 2 | 5)
}

/// What a proposal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProposalProtocol {
    /// RFC 4302.
    Ah,
    /// RFC 4303.
    Esp,
    /// The IKE SA itself.
    Ike,
}

/// One proposal: any one of each list, in order of preference. Numbers are IANA's of IKEv2.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// What it is for.
    pub protocol: ProposalProtocol,
    /// Transform type 1.
    pub encryption: Vec<Encryption>,
    /// Transform type 3; empty with combined modes.
    pub integrity: Vec<u16>,
    /// Transform type 2; empty for ESP and AH.
    pub prf: Vec<u16>,
    /// Transform type 4; for ESP and AH empty means no PFS.
    pub groups: Vec<u16>,
    /// Transform type 5; empty for IKE.
    pub esn: Vec<bool>,
}

impl Proposal {
    /// Whether a weak algorithm is among it (RFC 8221 §5, §6, RFC 8247 §2).
    pub fn is_weak(&self) -> bool {
        self.encryption.iter().any(|e| e.cipher().is_some_and(Cipher::is_weak))
            || self.integrity.iter().any(|id| integrity(*id).is_some_and(Integrity::is_weak))
            || self.groups.iter().any(|id| is_weak_group(*id))
    }

    /// Whether IKEv1 can name something of it: for phase 1 a cipher with a hash, whose HMAC is the PRF, and a group of RFC 2409's kind;
    /// for a child an algorithm with a number.
    pub fn is_for_ikev1(&self) -> bool {
        match self.protocol {
            ProposalProtocol::Ike => crate::v1::is_usable(self),
            ProposalProtocol::Ah | ProposalProtocol::Esp => crate::v1::is_sayable(self),
        }
    }

    /// Whether a choice could have been made from this proposal.
    pub(crate) fn allows(&self, chosen: &Chosen) -> bool {
        let group = match chosen.group {
            Some(group) => self.groups.contains(&group),
            None => true,
        };
        self.protocol == chosen.protocol
            && chosen.encryption.is_none_or(|e| self.encryption.contains(&e))
            && chosen.integrity.is_none_or(|id| self.integrity.contains(&id))
            && chosen.prf.is_none_or(|id| self.prf.contains(&id))
            && group
    }
}

/// What two sides agreed on: one transform of each type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chosen {
    /// What it is for.
    pub protocol: ProposalProtocol,
    /// Transform type 1; `None` for AH.
    pub encryption: Option<Encryption>,
    /// Transform type 3; `None` with combined modes.
    pub integrity: Option<u16>,
    /// Transform type 2; `None` for ESP and AH.
    pub prf: Option<u16>,
    /// Transform type 4; `None` without a key exchange of its own.
    pub group: Option<u16>,
    /// Transform type 5; false for IKE.
    pub esn: bool,
}

impl Chosen {
    /// Whether an algorithm of it is weak (RFC 8221 §5, §6, RFC 8247 §2).
    pub fn is_weak(&self) -> bool {
        self.weak_names().next().is_some()
    }

    /// The names of those that are.
    pub fn weak_names(&self) -> impl Iterator<Item = &'static str> + use<> {
        let encryption = self.encryption.filter(|e| e.cipher().is_some_and(Cipher::is_weak));
        let integrity = self.integrity.filter(|id| integrity(*id).is_some_and(Integrity::is_weak));
        let group = self.group.filter(|id| is_weak_group(*id));
        let names = [
            encryption.map(|e| encryption_name(e.id)),
            integrity.map(integrity_name),
            group.map(group_name),
        ];
        names.into_iter().flatten()
    }
}

/// Why a proposal string is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposalError {
    /// The keyword means nothing.
    #[error("unknown algorithm '{0}'; {hint}", hint = keyword::like(.0))]
    Unknown(String),
    /// The keyword is known, but the algorithm cannot be done here.
    #[error("'{0}' is not supported")]
    Unsupported(String),
    /// The algorithm is done for peers that know no better only.
    #[error("'{0}' is weak, and needs gateway.legacy = yes")]
    Weak(String),
    /// A transform that the protocol needs is missing.
    #[error("a proposal needs {0}")]
    Missing(&'static str),
    /// Combined-mode and other ciphers in one proposal (RFC 7296 §3.3: they need proposals of their own).
    #[error("combined-mode and other ciphers need separate proposals")]
    Mixed,
}
