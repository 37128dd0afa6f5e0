//! Proposals as they are configured (swanctl's `proposals`, `esp_proposals`, `ah_proposals`).

/// An encryption transform: IANA number and key length in bits (0 where the transform has one
/// length only).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Encryption {
    /// IKEv2 transform type 1 identifier.
    pub id: u16,
    /// Key Length attribute, 0 for none.
    pub key_bits: u16,
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

/// Why a proposal string is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposalError {
    /// The keyword means nothing.
    #[error("unknown algorithm '{0}'")]
    Unknown(String),
    /// The keyword is known, but the algorithm cannot be done here.
    #[error("'{0}' is not supported")]
    Unsupported(String),
    /// A transform that the protocol needs is missing.
    #[error("a proposal needs {0}")]
    Missing(&'static str),
}
