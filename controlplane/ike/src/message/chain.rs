//! The chain of generic payload headers (RFC 7296 §3.2, RFC 2408 §3.2).
//!
//! ```text
//! | Next Payload  |C|  RESERVED   |         Payload Length        |
//! ```
//!
//! Guarantee of [`Chain`]: every payload in it lies within the bytes it was parsed from and is at least four octets
//! long, there are at most [`MAX_PAYLOADS`] of them, and iterating takes one step per payload.

use super::InvalidMessage;
use super::read::Reader;

/// Payloads in one message. The longest seen from real peers are main mode messages with some 25 vendor IDs and MOBIKE
/// address lists; 128 leaves room and keeps a datagram of 16,000 empty payloads from costing more than 128 steps.
pub const MAX_PAYLOADS: usize = 128;

/// Octets of the generic payload header.
pub const GENERIC_HEADER_LEN: usize = 4;

/// IKEv2 encrypted payload: its next-payload octet names the first payload inside.
pub(crate) const SK: u8 = 46;
/// IKEv2 encrypted fragment (RFC 7383).
pub(crate) const SKF: u8 = 53;

/// One payload, not yet interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawPayload<'a> {
    /// The payload type's number.
    pub number: u8,
    /// The critical bit (IKEv2; reserved in IKEv1).
    pub critical: bool,
    /// The next-payload octet of its header; for SK and SKF the type of the first payload inside.
    pub next: u8,
    /// What follows the generic header.
    pub body: &'a [u8],
}

impl RawPayload<'_> {
    /// Octets with the generic header.
    pub fn length(&self) -> usize {
        self.body.len().saturating_add(GENERIC_HEADER_LEN)
    }
}

/// A checked chain of payloads.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    first: u8,
    bytes: &'a [u8],
    encrypted_ends: bool,
}

impl<'a> Chain<'a> {
    /// An empty chain.
    pub const EMPTY: Self = Self { first: 0, bytes: &[], encrypted_ends: false };

    /// Checks a chain of IKEv2 payloads, which must fill `bytes`; SK and SKF end it.
    ///
    /// # Errors
    /// Truncation, bad lengths, trailing bytes, too many payloads, [`InvalidMessage::EncryptedNotLast`].
    pub fn parse_v2(first: u8, bytes: &'a [u8]) -> Result<Self, InvalidMessage> {
        let (chain, rest) = Self::parse(first, bytes, true)?;
        if rest.is_empty() { Ok(chain) } else { Err(InvalidMessage::TrailingBytes) }
    }

    /// Checks a chain of IKEv2 payloads in clear. Octets behind the last payload are left alone: no RFC forbids them
    /// and peers send them. Behind SK or SKF they are an error (RFC 7296 §3.14: "the last payload").
    ///
    /// # Errors
    /// Truncation, bad lengths, too many payloads, [`InvalidMessage::EncryptedNotLast`].
    pub fn parse_v2_outer(first: u8, bytes: &'a [u8]) -> Result<Self, InvalidMessage> {
        let (chain, rest) = Self::parse(first, bytes, true)?;
        if !rest.is_empty() && chain.iter().any(|p| matches!(p.number, SK | SKF)) {
            return Err(InvalidMessage::EncryptedNotLast);
        }
        Ok(chain)
    }

    /// Checks a chain of IKEv1 payloads and returns what follows it: padding, in a decrypted message
    /// (RFC 2409 appendix B).
    ///
    /// # Errors
    /// Truncation, bad lengths, too many payloads.
    pub fn parse_v1(first: u8, bytes: &'a [u8]) -> Result<(Self, &'a [u8]), InvalidMessage> {
        Self::parse(first, bytes, false)
    }

    fn parse(
        first: u8,
        bytes: &'a [u8],
        encrypted_ends: bool,
    ) -> Result<(Self, &'a [u8]), InvalidMessage> {
        let chain = Self { first, bytes, encrypted_ends };
        let rest = chain.walk()?;
        let used = bytes.len().saturating_sub(rest.len());
        let bytes = bytes.get(..used).unwrap_or_default();
        Ok((Self { bytes, ..chain }, rest))
    }

    /// The payloads in order.
    pub fn iter(&self) -> Payloads<'a> {
        Payloads {
            next: self.first,
            rest: Reader::new(self.bytes),
            encrypted_ends: self.encrypted_ends,
        }
    }

    /// The type of the first payload, zero when there is none.
    pub const fn first(&self) -> u8 {
        self.first
    }

    /// All octets of the chain.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Walks the chain once and returns what follows it.
    fn walk(&self) -> Result<&'a [u8], InvalidMessage> {
        let mut payloads = self.iter();
        for _ in 0..MAX_PAYLOADS {
            if payloads.step()?.is_none() {
                return Ok(payloads.rest.rest());
            }
        }
        if payloads.next == 0 {
            Ok(payloads.rest.rest())
        } else {
            Err(InvalidMessage::TooManyPayloads)
        }
    }
}

impl<'a> IntoIterator for &Chain<'a> {
    type Item = RawPayload<'a>;
    type IntoIter = Payloads<'a>;

    fn into_iter(self) -> Payloads<'a> {
        self.iter()
    }
}

/// The payloads of a [`Chain`] in order.
#[derive(Clone)]
pub struct Payloads<'a> {
    next: u8,
    rest: Reader<'a>,
    encrypted_ends: bool,
}

impl<'a> Payloads<'a> {
    fn step(&mut self) -> Result<Option<RawPayload<'a>>, InvalidMessage> {
        if self.next == 0 {
            return Ok(None);
        }
        let number = self.next;
        let next = self.rest.u8()?;
        let critical = self.rest.u8()? & 0x80 != 0;
        let length = self.rest.u16()?;
        let body = self.rest.body(length, GENERIC_HEADER_LEN)?;
        let ends = self.encrypted_ends && matches!(number, SK | SKF);
        self.next = if ends { 0 } else { next };
        Ok(Some(RawPayload { number, critical, next, body }))
    }
}

impl<'a> Iterator for Payloads<'a> {
    type Item = RawPayload<'a>;

    fn next(&mut self) -> Option<RawPayload<'a>> {
        // The chain was walked when it was made, so an error cannot come here; it would end the iteration.
        self.step().ok().flatten()
    }
}
