//! What can be wrong with the bytes of a message, and what the sender is told about it.

use super::numbers::NotifyType;

/// A fault in the bytes a peer sent. `Copy` and free of peer data, so that counting it costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMessage {
    /// A field or body runs past the end of what holds it.
    #[error("a field runs past the end of the message")]
    Truncated,
    /// A length field is smaller than its own header, or disagrees with the content.
    #[error("a length field disagrees with its content")]
    BadLength,
    /// The header's length is not the datagram's.
    #[error("the header length is not that of the datagram")]
    HeaderLength,
    /// The major version is neither 1 nor 2 and not higher than 2.
    #[error("unsupported major version")]
    Version,
    /// The major version is higher than 2 (RFC 7296 §2.5).
    #[error("the major version is higher than ours")]
    HigherMajorVersion,
    /// The initiator SPI is zero or equal to the responder SPI (RFC 7296 §3.1).
    #[error("impossible SPIs in the header")]
    HeaderSpi,
    /// Bytes follow the last payload.
    #[error("bytes follow the last payload")]
    TrailingBytes,
    /// More payloads than [`MAX_PAYLOADS`](super::MAX_PAYLOADS).
    #[error("too many payloads")]
    TooManyPayloads,
    /// More proposals, transforms, selectors or attributes than their bound.
    #[error("too many elements in a payload")]
    TooManyElements,
    /// An unknown payload carries the critical bit (RFC 7296 §2.5); the value is its type.
    #[error("unknown critical payload {0}")]
    UnsupportedCritical(u8),
    /// An encrypted payload is not the last one (RFC 7296 §3.14).
    #[error("payloads follow the encrypted payload")]
    EncryptedNotLast,
    /// A nonce is shorter or longer than allowed (RFC 7296 §3.9, RFC 2409 §5).
    #[error("nonce length out of range")]
    NonceLength,
    /// A next-payload or more-substructures octet has a value that it cannot have.
    #[error("bad chaining octet")]
    BadChaining,
    /// A count field disagrees with the elements present.
    #[error("a count disagrees with the elements present")]
    BadCount,
    /// Proposal numbers do not count up from one (RFC 7296 §3.3.1).
    #[error("proposal numbers out of order")]
    ProposalNumber,
    /// A traffic selector's range ends before it begins, or its length is not that of its type.
    #[error("bad traffic selector")]
    BadSelector,
    /// An SPI size is impossible for the protocol it names.
    #[error("bad SPI size")]
    SpiSize,
    /// A fragment number is zero or above its total (RFC 7383 §2.5).
    #[error("bad fragment number")]
    FragmentNumber,
    /// IKEv1: a domain of interpretation other than IPsec (RFC 2407).
    #[error("unsupported domain of interpretation")]
    Doi,
    /// IKEv1: a situation other than SIT_IDENTITY_ONLY (RFC 2407 §4.2).
    #[error("unsupported situation")]
    Situation,
}

impl InvalidMessage {
    /// The error notify an IKEv2 responder owes for this fault, `None` for silence.
    ///
    /// Whether a notify is sent at all depends on more than the fault: before authentication it is rate limited,
    /// and an unprotected one must not change an SA (RFC 7296 §2.21). Faults in the header get silence, because
    /// nothing in them can be trusted to be IKE, apart from a higher major version (RFC 7296 §2.5).
    pub const fn notify(self) -> Option<NotifyType> {
        match self {
            Self::HeaderLength | Self::Version | Self::HeaderSpi => None,
            Self::HigherMajorVersion => Some(NotifyType::InvalidMajorVersion),
            Self::UnsupportedCritical(_) => Some(NotifyType::UnsupportedCriticalPayload),
            Self::Truncated
            | Self::BadLength
            | Self::TrailingBytes
            | Self::TooManyPayloads
            | Self::TooManyElements
            | Self::EncryptedNotLast
            | Self::NonceLength
            | Self::BadChaining
            | Self::BadCount
            | Self::ProposalNumber
            | Self::BadSelector
            | Self::SpiSize
            | Self::FragmentNumber
            | Self::Doi
            | Self::Situation => Some(NotifyType::InvalidSyntax),
        }
    }
}

/// A message of ours does not fit its length fields (65,535 octets for a payload and for a datagram).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is longer than its length fields can say")]
pub struct MessageTooLong;
