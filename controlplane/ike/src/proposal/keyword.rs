//! swanctl's proposal keywords.

use super::{Encryption, Proposal, ProposalError, ProposalProtocol};
use crate::crypto::{Prf, SkCipher, SkIntegrity};
use crate::message::{EncryptionId, IntegrityId, PrfId};
use ipsec::algorithm::{Cipher, Integrity};
use keyexchange::Group;

/// What a comma-separated list of proposals means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedList {
    /// Never empty.
    pub proposals: Vec<Proposal>,
    /// Proposals that cannot be done here, for a warning each.
    pub left_out: Vec<(String, ProposalError)>,
}

impl Proposal {
    /// Reads one proposal such as `aes128-sha256-modp2048`.
    ///
    /// Algorithms that are known but cannot be done here are left out while another of their type remains. A PRF that
    /// is not named is the one of the integrity algorithm, as in charon.
    ///
    /// # Errors
    /// Unknown words, nothing left of a needed type, missing transforms.
    pub fn parse(protocol: ProposalProtocol, text: &str) -> Result<Self, ProposalError> {
        Self::parse_with(protocol, text, Weak::default())
    }

    /// The same, where weak algorithms may be allowed.
    ///
    /// # Errors
    /// As there.
    pub fn parse_with(
        protocol: ProposalProtocol,
        text: &str,
        weak: Weak,
    ) -> Result<Self, ProposalError> {
        let mut proposal = Self {
            protocol,
            encryption: Vec::new(),
            integrity: Vec::new(),
            prf: Vec::new(),
            groups: Vec::new(),
            esn: Vec::new(),
        };
        let mut refused: [Option<&str>; 4] = [None; 4];
        for word in text.split('-').map(str::trim) {
            let keyword = keyword(word).ok_or_else(|| ProposalError::Unknown(word.to_owned()))?;
            if weak.forbids(keyword, protocol) {
                refused[keyword.kind()] = Some(word);
                continue;
            }
            match (keyword, protocol) {
                (Keyword::Esn(_), ProposalProtocol::Ike)
                | (Keyword::Prf(_), ProposalProtocol::Esp | ProposalProtocol::Ah) => {}
                (Keyword::Encryption(e), ProposalProtocol::Ah) => {
                    if let Some(id) = ah_gmac(e) {
                        add(&mut proposal.integrity, id);
                    }
                }
                (Keyword::Esn(on), ProposalProtocol::Esp | ProposalProtocol::Ah) => {
                    add(&mut proposal.esn, on);
                }
                (Keyword::Encryption(e), _) if encryption_supported(protocol, e) => {
                    add(&mut proposal.encryption, e);
                }
                (Keyword::Encryption(_), _) => refused[0] = Some(word),
                (Keyword::Integrity(id), _) if integrity_supported(protocol, id) => {
                    add(&mut proposal.integrity, id);
                }
                (Keyword::Integrity(_), _) => refused[1] = Some(word),
                (Keyword::Prf(id), ProposalProtocol::Ike) if prf_supported(id) => {
                    add(&mut proposal.prf, id);
                }
                (Keyword::Prf(_), ProposalProtocol::Ike) => refused[2] = Some(word),
                (Keyword::Group(id), _) if group_supported(id) => add(&mut proposal.groups, id),
                (Keyword::Group(_), _) => refused[3] = Some(word),
                (Keyword::Unsupported, _) => {
                    return Err(ProposalError::Unsupported(word.to_owned()));
                }
            }
        }
        proposal.complete(refused, weak)
    }

    /// Fills in what swanctl lets one leave out, and checks what it does not.
    fn complete(mut self, refused: [Option<&str>; 4], weak: Weak) -> Result<Self, ProposalError> {
        let fault = |word: &str| match keyword(word) {
            Some(keyword) if weak.needs_switch(keyword, self.protocol) => {
                ProposalError::Weak(word.to_owned())
            }
            _ => ProposalError::Unsupported(word.to_owned()),
        };
        let missing = |slot: Option<&str>, what| slot.map_or(ProposalError::Missing(what), fault);
        let needs_cipher = self.protocol != ProposalProtocol::Ah;
        if needs_cipher && self.encryption.is_empty() {
            return Err(missing(refused[0], "an encryption algorithm"));
        }
        let combined = self.encryption.iter().filter(|e| e.is_combined()).count();
        if combined != 0 && combined != self.encryption.len() {
            return Err(ProposalError::Mixed);
        }
        if self.protocol == ProposalProtocol::Ike && self.prf.is_empty() {
            for id in &self.integrity {
                if let Some(prf) = prf_of_integrity(*id) {
                    add(&mut self.prf, prf);
                }
            }
            if self.prf.is_empty() {
                return Err(missing(refused[2].or(refused[1]), "a PRF"));
            }
        }
        if combined != 0 {
            self.integrity.clear();
        } else if self.integrity.is_empty() {
            return Err(missing(refused[1], "an integrity algorithm"));
        }
        if self.protocol == ProposalProtocol::Ike {
            if self.groups.is_empty() {
                return Err(missing(refused[3], "a key exchange method"));
            }
        } else {
            // A child with PFS configured does not quietly become one without.
            if self.groups.is_empty()
                && let Some(word) = refused[3]
            {
                return Err(fault(word));
            }
            if self.esn.is_empty() {
                self.esn.push(false);
            }
        }
        Ok(self)
    }

    /// Reads a comma-separated list, in which `default` stands for [`Proposal::defaults`].
    ///
    /// # Errors
    /// A word that means nothing, or the first proposal's fault when none can be done.
    pub fn parse_list(protocol: ProposalProtocol, text: &str) -> Result<ParsedList, ProposalError> {
        let mut list = ParsedList { proposals: Vec::new(), left_out: Vec::new() };
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            if part == "default" {
                list.proposals.extend(Self::defaults(protocol));
                continue;
            }
            match Self::parse(protocol, part) {
                Ok(proposal) => list.proposals.push(proposal),
                Err(error @ (ProposalError::Unsupported(_) | ProposalError::Weak(_))) => {
                    list.left_out.push((part.to_owned(), error));
                }
                Err(error) => return Err(error),
            }
        }
        match (list.proposals.is_empty(), list.left_out.first()) {
            (false, _) => Ok(list),
            (true, Some((_, error))) => Err(error.clone()),
            (true, None) => Err(ProposalError::Missing("an algorithm")),
        }
    }

    /// What `default` means: what can be done here of charon's defaults.
    pub fn defaults(protocol: ProposalProtocol) -> Vec<Self> {
        let texts: &[&str] = match protocol {
            ProposalProtocol::Ike => &[
                "aes128-aes192-aes256-sha256-sha384-sha512-prfsha256-prfsha384-prfsha512-x25519-ecp256-ecp384-ecp521\
                 -modp3072-modp4096-modp6144-modp8192-modp2048",
                "aes128gcm16-aes192gcm16-aes256gcm16-prfsha256-prfsha384-prfsha512-x25519-ecp256-ecp384-ecp521\
                 -modp3072-modp4096-modp6144-modp8192-modp2048",
            ],
            ProposalProtocol::Esp => &[
                "aes128gcm16-aes192gcm16-aes256gcm16",
                "aes128-aes192-aes256-sha256-sha384-sha512",
            ],
            ProposalProtocol::Ah => &["sha256-sha384-sha512"],
        };
        texts.iter().filter_map(|text| Self::parse(protocol, text).ok()).collect()
    }
}

/// Whether the dataplane can do an ESP cipher.
pub const fn esp_supported(encryption: Encryption) -> bool {
    match encryption.cipher() {
        Some(
            Cipher::AesCbc
            | Cipher::AesCtr
            | Cipher::AesGcm(_)
            | Cipher::AesCcm(_)
            | Cipher::AesGmac,
        ) => matches!(encryption.key_bits, 128 | 192 | 256),
        Some(Cipher::ChaCha20Poly1305 | Cipher::Null | Cipher::TripleDesCbc) => true,
        None => false,
    }
}

fn encryption_supported(protocol: ProposalProtocol, e: Encryption) -> bool {
    match protocol {
        ProposalProtocol::Ike => {
            let key_bits = (e.key_bits != 0).then_some(e.key_bits);
            // 3DES is IKEv1's, and was let through to here for it alone.
            e.id == 3 || SkCipher::new(EncryptionId::from_number(e.id), key_bits).is_some()
        }
        ProposalProtocol::Esp => esp_supported(e),
        ProposalProtocol::Ah => false,
    }
}

fn integrity_supported(protocol: ProposalProtocol, id: u16) -> bool {
    match protocol {
        // HMAC-MD5 is IKEv1's, as 3DES is.
        ProposalProtocol::Ike => {
            id == 1 || SkIntegrity::from_id(IntegrityId::from_number(id)).is_some()
        }
        ProposalProtocol::Esp | ProposalProtocol::Ah => match super::integrity(id) {
            Some(
                Integrity::AesCmac96
                | Integrity::AesXcbc96
                | Integrity::HmacSha1_96
                | Integrity::HmacSha256_128
                | Integrity::HmacSha384_192
                | Integrity::HmacSha512_256
                | Integrity::HmacMd5_96,
            ) => true,
            // It comes by the name of a cipher, see `ah_gmac`.
            Some(Integrity::AesGmac) | None => false,
        },
    }
}

/// `aes128gmac` is a cipher in ESP; in AH it is an integrity transform of its own for each key length (RFC 4543 §5.3).
const fn ah_gmac(e: Encryption) -> Option<u16> {
    match (e.id, e.key_bits) {
        (21, 128) => Some(9),
        (21, 192) => Some(10),
        (21, 256) => Some(11),
        _ => None,
    }
}

fn prf_supported(id: u16) -> bool {
    Prf::from_id(PrfId::from_number(id)).is_some()
}

/// A KEM needs an exchange beside it (RFC 9370).
fn group_supported(id: u16) -> bool {
    Group::from_number(id).is_some_and(|g| !g.is_kem())
}

const fn prf_of_integrity(id: u16) -> Option<u16> {
    Some(match id {
        1 => 1,
        2 => 2,
        5 => 4,
        8 => 8,
        12 => 5,
        13 => 6,
        14 => 7,
        _ => return None,
    })
}

/// Which weak algorithms a proposal may have. 3DES and HMAC-MD5 are done in the children of both versions, in phase 1 of
/// IKEv1 alone; the groups below 2048 bits in IKEv1 alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weak {
    /// `gateway.legacy`.
    pub allowed: bool,
    /// Whether the connection speaks IKEv1.
    pub ikev1: bool,
}

impl Weak {
    fn is_weak(keyword: Keyword) -> bool {
        match keyword {
            Keyword::Encryption(e) => e.cipher().is_some_and(Cipher::is_weak),
            Keyword::Integrity(id) => super::integrity(id).is_some_and(Integrity::is_weak),
            Keyword::Prf(id) => id == PrfId::HmacMd5.number(),
            Keyword::Group(id) => super::is_weak_group(id),
            Keyword::Esn(_) | Keyword::Unsupported => false,
        }
    }

    fn forbids(self, keyword: Keyword, protocol: ProposalProtocol) -> bool {
        Self::is_weak(keyword) && (!self.allowed || !self.is_done(keyword, protocol))
    }

    fn needs_switch(self, keyword: Keyword, protocol: ProposalProtocol) -> bool {
        Self::is_weak(keyword) && !self.allowed && self.is_done(keyword, protocol)
    }

    const fn is_done(self, keyword: Keyword, protocol: ProposalProtocol) -> bool {
        let child = matches!(protocol, ProposalProtocol::Esp | ProposalProtocol::Ah);
        self.ikev1 || (child && !matches!(keyword, Keyword::Group(_)))
    }
}

#[derive(Clone, Copy)]
enum Keyword {
    Encryption(Encryption),
    Integrity(u16),
    Prf(u16),
    Group(u16),
    Esn(bool),
    /// A word of charon's for something that has no number in the registries used here.
    Unsupported,
}

impl Keyword {
    /// Its place among what is refused.
    const fn kind(self) -> usize {
        match self {
            Self::Encryption(_) => 0,
            Self::Integrity(_) => 1,
            Self::Prf(_) => 2,
            Self::Group(_) | Self::Esn(_) | Self::Unsupported => 3,
        }
    }
}

fn keyword(word: &str) -> Option<Keyword> {
    if let Some(cipher) = aes(word) {
        return Some(Keyword::Encryption(cipher));
    }
    let encryption = |id, key_bits| Keyword::Encryption(Encryption { id, key_bits });
    Some(match word {
        "3des" => encryption(3, 0),
        "null" => encryption(11, 0),
        "chacha20poly1305" | "chacha20poly1305compat" => encryption(28, 0),
        "md5" => Keyword::Integrity(1),
        "sha" | "sha1" => Keyword::Integrity(2),
        "aesxcbc" => Keyword::Integrity(5),
        "aescmac" => Keyword::Integrity(8),
        "sha256" | "sha2_256" => Keyword::Integrity(12),
        "sha384" | "sha2_384" => Keyword::Integrity(13),
        "sha512" | "sha2_512" => Keyword::Integrity(14),
        "prfmd5" => Keyword::Prf(1),
        "prfsha1" => Keyword::Prf(2),
        "prfaesxcbc" => Keyword::Prf(4),
        "prfsha256" => Keyword::Prf(5),
        "prfsha384" => Keyword::Prf(6),
        "prfsha512" => Keyword::Prf(7),
        "prfaescmac" => Keyword::Prf(8),
        "modp768" => Keyword::Group(1),
        "modp1024" => Keyword::Group(2),
        "modp1536" => Keyword::Group(5),
        "modp2048" => Keyword::Group(14),
        "modp3072" => Keyword::Group(15),
        "modp4096" => Keyword::Group(16),
        "modp6144" => Keyword::Group(17),
        "modp8192" => Keyword::Group(18),
        "ecp256" => Keyword::Group(19),
        "ecp384" => Keyword::Group(20),
        "ecp521" => Keyword::Group(21),
        "modp1024s160" => Keyword::Group(22),
        "modp2048s224" => Keyword::Group(23),
        "modp2048s256" => Keyword::Group(24),
        "ecp192" => Keyword::Group(25),
        "ecp224" => Keyword::Group(26),
        "ecp224bp" => Keyword::Group(27),
        "ecp256bp" => Keyword::Group(28),
        "ecp384bp" => Keyword::Group(29),
        "ecp512bp" => Keyword::Group(30),
        "x25519" | "curve25519" => Keyword::Group(31),
        "x448" | "curve448" => Keyword::Group(32),
        "esn" => Keyword::Esn(true),
        "noesn" => Keyword::Esn(false),
        "sha1_160" | "md5_128" | "sha256_96" | "sha2_256_96" | "ntru112" | "ntru128"
        | "ntru192" | "ntru256" | "newhope128" | "modpnull" => Keyword::Unsupported,
        _ => {
            const PREFIXES: [&str; 7] =
                ["camellia", "cast", "blowfish", "twofish", "serpent", "des", "ke"];
            if PREFIXES.iter().any(|prefix| word.starts_with(prefix)) {
                Keyword::Unsupported
            } else {
                return None;
            }
        }
    })
}

/// What somebody may have meant who wrote a word that is none.
pub(super) fn like(word: &str) -> &'static str {
    let begins = |all: &[&str]| all.iter().any(|beginning| word.starts_with(beginning));
    if begins(&["aes"]) {
        "AES is aes128, aes192 or aes256, alone or with ctr, gmac, gcm8, gcm12, gcm16, ccm8, ccm12 or ccm16 behind"
    } else if begins(&["sha", "md"]) {
        "hashes are sha1, sha256, sha384 and sha512"
    } else if begins(&["modp", "ecp", "x2", "curve"]) {
        "groups are modp2048, modp3072, modp4096, modp6144, modp8192, ecp256, ecp384, ecp521 and x25519"
    } else {
        "a proposal is such as aes128-sha256-modp2048, aes256gcm16-prfsha384-ecp384 or chacha20poly1305-x25519"
    }
}

/// `aes`, `aes256`, `aes128ctr`, `aes192ccm12` (or its bits, 96), `aes256gcm16`, `aes128gmac`.
fn aes(word: &str) -> Option<Encryption> {
    let rest = word.strip_prefix("aes")?;
    let (key_bits, rest) = match rest.get(..3) {
        Some("128") => (128, &rest[3..]),
        Some("192") => (192, &rest[3..]),
        Some("256") => (256, &rest[3..]),
        _ => (128, rest),
    };
    let id = match rest {
        "" => 12,
        "ctr" => 13,
        "ccm8" | "ccm64" => 14,
        "ccm12" | "ccm96" => 15,
        "ccm" | "ccm16" | "ccm128" => 16,
        "gcm8" | "gcm64" => 18,
        "gcm12" | "gcm96" => 19,
        "gcm" | "gcm16" | "gcm128" => 20,
        "gmac" => 21,
        _ => return None,
    };
    Some(Encryption { id, key_bits })
}

fn add<T: PartialEq>(list: &mut Vec<T>, value: T) {
    if !list.contains(&value) {
        list.push(value);
    }
}
