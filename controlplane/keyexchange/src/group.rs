//! Groups by their IANA numbers, with the lengths of their values.

use aws_lc_rs::{agreement, kem};

use crate::libcrypto::Nid;
use crate::modp::Modp;

/// A key exchange method (IKEv2 transform type 4; the same numbers in IKEv1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Group {
    /// 1024-bit MODP (RFC 2409 §6.2): legacy, within reach of a state.
    Modp1024,
    /// 1536-bit MODP (RFC 3526 §2): legacy.
    Modp1536,
    /// 2048-bit MODP (RFC 3526 §3).
    Modp2048,
    /// 3072-bit MODP (RFC 3526 §4).
    Modp3072,
    /// 4096-bit MODP (RFC 3526 §5).
    Modp4096,
    /// 6144-bit MODP (RFC 3526 §6).
    Modp6144,
    /// 8192-bit MODP (RFC 3526 §7).
    Modp8192,
    /// NIST P-256 (RFC 5903).
    Ecp256,
    /// NIST P-384 (RFC 5903).
    Ecp384,
    /// NIST P-521 (RFC 5903).
    Ecp521,
    /// X25519 (RFC 8031).
    Curve25519,
    /// ML-KEM-512 (FIPS 203).
    MlKem512,
    /// ML-KEM-768 (FIPS 203).
    MlKem768,
    /// ML-KEM-1024 (FIPS 203).
    MlKem1024,
}

/// How a group's arithmetic is reached.
pub(crate) enum Kind {
    Modp(Modp),
    Curve(&'static agreement::Algorithm),
    Kem(&'static kem::Algorithm, Nid),
}

impl Group {
    /// Every group, by number.
    pub const ALL: [Self; 14] = [
        Self::Modp1024,
        Self::Modp1536,
        Self::Modp2048,
        Self::Modp3072,
        Self::Modp4096,
        Self::Modp6144,
        Self::Modp8192,
        Self::Ecp256,
        Self::Ecp384,
        Self::Ecp521,
        Self::Curve25519,
        Self::MlKem512,
        Self::MlKem768,
        Self::MlKem1024,
    ];

    /// The group with an IANA number, if it can be done here.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.number() == number)
    }

    /// The group with an IANA name as in `MODP_2048`, `ECP_256`, `CURVE25519`, `ML_KEM_768`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.name() == name)
    }

    /// The IANA number.
    pub const fn number(self) -> u16 {
        match self {
            Self::Modp1024 => 2,
            Self::Modp1536 => 5,
            Self::Modp2048 => 14,
            Self::Modp3072 => 15,
            Self::Modp4096 => 16,
            Self::Modp6144 => 17,
            Self::Modp8192 => 18,
            Self::Ecp256 => 19,
            Self::Ecp384 => 20,
            Self::Ecp521 => 21,
            Self::Curve25519 => 31,
            Self::MlKem512 => 35,
            Self::MlKem768 => 36,
            Self::MlKem1024 => 37,
        }
    }

    /// The IANA name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Modp1024 => "MODP_1024",
            Self::Modp1536 => "MODP_1536",
            Self::Modp2048 => "MODP_2048",
            Self::Modp3072 => "MODP_3072",
            Self::Modp4096 => "MODP_4096",
            Self::Modp6144 => "MODP_6144",
            Self::Modp8192 => "MODP_8192",
            Self::Ecp256 => "ECP_256",
            Self::Ecp384 => "ECP_384",
            Self::Ecp521 => "ECP_521",
            Self::Curve25519 => "CURVE25519",
            Self::MlKem512 => "ML_KEM_512",
            Self::MlKem768 => "ML_KEM_768",
            Self::MlKem1024 => "ML_KEM_1024",
        }
    }

    /// Octets of the initiator's value.
    pub const fn public_len(self) -> usize {
        match self {
            Self::Modp1024 => 128,
            Self::Modp1536 => 192,
            Self::Modp2048 => 256,
            Self::Modp3072 => 384,
            Self::Modp4096 => 512,
            Self::Modp6144 => 768,
            Self::Modp8192 => 1024,
            Self::Ecp256 => 64,
            Self::Ecp384 => 96,
            Self::Ecp521 => 132,
            Self::Curve25519 => 32,
            Self::MlKem512 => 800,
            Self::MlKem768 => 1184,
            Self::MlKem1024 => 1568,
        }
    }

    /// Octets of the responder's value: of a KEM the ciphertext, else the same as [`Group::public_len`].
    pub const fn response_len(self) -> usize {
        match self {
            Self::MlKem512 => 768,
            Self::MlKem768 => 1088,
            Self::MlKem1024 => 1568,
            _ => self.public_len(),
        }
    }

    /// Octets of the shared secret.
    pub const fn shared_len(self) -> usize {
        match self {
            Self::Ecp256 => 32,
            Self::Ecp384 => 48,
            Self::Ecp521 => 66,
            Self::Curve25519 | Self::MlKem512 | Self::MlKem768 | Self::MlKem1024 => 32,
            _ => self.public_len(),
        }
    }

    /// Whether the responder's value is an encapsulation, so that the responder cannot generate in advance.
    pub const fn is_kem(self) -> bool {
        matches!(self, Self::MlKem512 | Self::MlKem768 | Self::MlKem1024)
    }

    pub(crate) const fn kind(self) -> Kind {
        match self {
            Self::Modp1024 => Kind::Modp(Modp::Modp1024),
            Self::Modp1536 => Kind::Modp(Modp::Modp1536),
            Self::Modp2048 => Kind::Modp(Modp::Modp2048),
            Self::Modp3072 => Kind::Modp(Modp::Modp3072),
            Self::Modp4096 => Kind::Modp(Modp::Modp4096),
            Self::Modp6144 => Kind::Modp(Modp::Modp6144),
            Self::Modp8192 => Kind::Modp(Modp::Modp8192),
            Self::Ecp256 => Kind::Curve(&agreement::ECDH_P256),
            Self::Ecp384 => Kind::Curve(&agreement::ECDH_P384),
            Self::Ecp521 => Kind::Curve(&agreement::ECDH_P521),
            Self::Curve25519 => Kind::Curve(&agreement::X25519),
            Self::MlKem512 => Kind::Kem(&kem::ML_KEM_512, Nid::MlKem512),
            Self::MlKem768 => Kind::Kem(&kem::ML_KEM_768, Nid::MlKem768),
            Self::MlKem1024 => Kind::Kem(&kem::ML_KEM_1024, Nid::MlKem1024),
        }
    }
}
