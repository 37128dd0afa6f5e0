//! The words charon prints for algorithms.

use super::{Chosen, Encryption, Proposal, ProposalProtocol};
use core::fmt::{Display, Formatter, Result, Write as _};

/// `AES_CBC`, without the key length.
pub const fn encryption_name(id: u16) -> &'static str {
    match id {
        3 => "3DES_CBC",
        11 => "NULL",
        12 => "AES_CBC",
        13 => "AES_CTR",
        14 => "AES_CCM_8",
        15 => "AES_CCM_12",
        16 => "AES_CCM_16",
        18 => "AES_GCM_8",
        19 => "AES_GCM_12",
        20 => "AES_GCM_16",
        21 => "NULL_AES_GMAC",
        28 => "CHACHA20_POLY1305",
        _ => "UNKNOWN_ENCR",
    }
}

/// `HMAC_SHA2_256_128`.
pub const fn integrity_name(id: u16) -> &'static str {
    match id {
        1 => "HMAC_MD5_96",
        2 => "HMAC_SHA1_96",
        5 => "AES_XCBC_96",
        8 => "AES_CMAC_96",
        9 => "AES_128_GMAC",
        10 => "AES_192_GMAC",
        11 => "AES_256_GMAC",
        12 => "HMAC_SHA2_256_128",
        13 => "HMAC_SHA2_384_192",
        14 => "HMAC_SHA2_512_256",
        _ => "UNKNOWN_AUTH",
    }
}

/// `PRF_HMAC_SHA2_256`.
pub const fn prf_name(id: u16) -> &'static str {
    match id {
        1 => "PRF_HMAC_MD5",
        2 => "PRF_HMAC_SHA1",
        4 => "PRF_AES128_XCBC",
        5 => "PRF_HMAC_SHA2_256",
        6 => "PRF_HMAC_SHA2_384",
        7 => "PRF_HMAC_SHA2_512",
        8 => "PRF_AES128_CMAC",
        _ => "UNKNOWN_PRF",
    }
}

/// `MODP_2048`.
pub const fn group_name(id: u16) -> &'static str {
    match id {
        0 => "NONE",
        1 => "MODP_768",
        2 => "MODP_1024",
        5 => "MODP_1536",
        14 => "MODP_2048",
        15 => "MODP_3072",
        16 => "MODP_4096",
        17 => "MODP_6144",
        18 => "MODP_8192",
        19 => "ECP_256",
        20 => "ECP_384",
        21 => "ECP_521",
        31 => "CURVE_25519",
        32 => "CURVE_448",
        35 => "ML_KEM_512",
        36 => "ML_KEM_768",
        37 => "ML_KEM_1024",
        _ => "UNKNOWN_KE",
    }
}

const fn protocol_name(protocol: ProposalProtocol) -> &'static str {
    match protocol {
        ProposalProtocol::Ah => "AH",
        ProposalProtocol::Esp => "ESP",
        ProposalProtocol::Ike => "IKE",
    }
}

impl Display for Encryption {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(encryption_name(self.id))?;
        if self.key_bits == 0 { Ok(()) } else { write!(f, "_{}", self.key_bits) }
    }
}

/// `IKE:AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048`.
impl Display for Proposal {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(protocol_name(self.protocol))?;
        let mut words = Words { f, separator: ':' };
        for e in &self.encryption {
            words.word(e)?;
        }
        for id in &self.integrity {
            words.word(&integrity_name(*id))?;
        }
        for id in &self.prf {
            words.word(&prf_name(*id))?;
        }
        for id in &self.groups {
            words.word(&group_name(*id))?;
        }
        for esn in &self.esn {
            words.word(&esn_name(*esn))?;
        }
        f.write_str(if self.is_weak() { WEAK } else { "" })
    }
}

/// The same style as a [`Proposal`]'s.
impl Display for Chosen {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(protocol_name(self.protocol))?;
        let mut words = Words { f, separator: ':' };
        if let Some(e) = &self.encryption {
            words.word(e)?;
        }
        if let Some(id) = self.integrity {
            words.word(&integrity_name(id))?;
        }
        if let Some(id) = self.prf {
            words.word(&prf_name(id))?;
        }
        if let Some(id) = self.group {
            words.word(&group_name(id))?;
        }
        if self.protocol != ProposalProtocol::Ike {
            words.word(&esn_name(self.esn))?;
        }
        f.write_str(if self.is_weak() { WEAK } else { "" })
    }
}

/// What is said behind weak algorithms.
const WEAK: &str = " (weak)";

const fn esn_name(esn: bool) -> &'static str {
    if esn { "EXT_SEQ" } else { "NO_EXT_SEQ" }
}

struct Words<'a, 'f> {
    f: &'a mut Formatter<'f>,
    separator: char,
}

impl Words<'_, '_> {
    fn word(&mut self, word: &dyn Display) -> Result {
        self.f.write_char(self.separator)?;
        self.separator = '/';
        word.fmt(self.f)
    }
}
