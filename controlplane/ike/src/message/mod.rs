//! IKE messages as checked views, and their emitters.
//!
//! ```text
//! datagram ─► Message::parse ─┬─► v1::Message ─► v1::Payload …     PayloadList::push(&payload)
//!                             └─► v2::Message ─► v2::Payload …          └─► into_message(&header) ─► datagram
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`v2`] | IKEv2 payloads (RFC 7296 §3, RFC 7383) |
//! | [`v1`] | IKEv1 payloads (RFC 2407, RFC 2408, RFC 3947) |
//! | `header`, `chain` | what both share |
//! | `numbers` | IANA registries, unknown values kept |
//! | `build` | [`PayloadList`], [`Emit`] |
//!
//! Guarantee: parsing anything ends in a view or an [`InvalidMessage`], in time linear in its length and without
//! allocating; no accessor of a view panics or reads outside the datagram. Every payload of a known type in a parsed
//! message is itself well formed. Whether a message makes sense in its exchange is for the engine to say.
//!
//! These modules never decrypt, never keep state and never look at a clock.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

mod build;
mod chain;
mod error;
mod header;
#[macro_use]
mod numbers;
mod read;
pub mod v1;
pub mod v2;

pub use build::{Emit, PayloadList};
pub use chain::{Chain, GENERIC_HEADER_LEN, MAX_PAYLOADS, Payloads, RawPayload};
pub use error::{InvalidMessage, MessageTooLong};
pub use header::{Flags, HEADER_LEN, Header, IkeSpi, MessageId, Version};
pub use numbers::{
    AuthMethod, CertEncoding, ConfigAttributeType, ConfigType, EncryptionId, ExchangeType,
    HashAlgorithm, IdType, IntegrityId, KeMethod, NotifyType, PrfId, ProtocolId, SequenceNumbers,
    TsType,
};

/// A parsed datagram of either version.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// IKEv1.
    V1(v1::Message<'a>),
    /// IKEv2.
    V2(v2::Message<'a>),
}

impl<'a> Message<'a> {
    /// Parses a datagram, without the non-ESP marker.
    ///
    /// # Errors
    /// Whatever is wrong with the bytes; [`InvalidMessage::notify`] says what the sender may be told.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, InvalidMessage> {
        Self::parse_after(Header::parse(datagram)?, datagram)
    }

    /// Parses a datagram that nobody will answer, such as one of a capture, without asking whether its SPIs make sense.
    ///
    /// # Errors
    /// As [`Message::parse`], but for [`InvalidMessage::HeaderSpi`].
    pub fn parse_any_spi(datagram: &'a [u8]) -> Result<Self, InvalidMessage> {
        Self::parse_after(Header::parse_any_spi(datagram)?, datagram)
    }

    fn parse_after(
        (header, first): (Header, u8),
        datagram: &'a [u8],
    ) -> Result<Self, InvalidMessage> {
        let body = datagram.get(HEADER_LEN..).ok_or(InvalidMessage::Truncated)?;
        match header.version {
            Version::V1 => v1::Message::parse(header, first, body).map(Self::V1),
            Version::V2 => v2::Message::parse(header, first, datagram, body).map(Self::V2),
        }
    }

    /// The header.
    pub const fn header(&self) -> &Header {
        match self {
            Self::V1(message) => &message.header,
            Self::V2(message) => &message.header,
        }
    }

    /// The payloads that are not encrypted, uninterpreted.
    pub const fn chain(&self) -> Chain<'a> {
        match self {
            Self::V1(message) => message.chain(),
            Self::V2(message) => message.payloads.chain(),
        }
    }
}
