//! Security association payloads (RFC 2408 §3.4 to §3.6, RFC 2407 §4.6.1).
//!
//! ```text
//! |              Domain of Interpretation  (DOI)                  |
//! |                           Situation                           |
//!   | Next Payload  |   RESERVED    |        Proposal Length        |
//!   |  Proposal #   |  Protocol-Id  |    SPI Size   |# of Transforms|
//!   |                        SPI (variable)                         |
//!     | Next Payload  |   RESERVED    |        Transform Length       |
//!     |  Transform #  |  Transform-Id |           RESERVED2           |
//!     |                        SA Attributes                          |
//! ```
//!
//! Guarantee of [`SaView`]: every length and count in it agrees. Proposals with the same number belong together
//! (RFC 2408 §4.2).

use crate::message::InvalidMessage;
use crate::message::build::{Emit, patch_length};
use crate::message::numbers::ProtocolId;
use crate::message::read::Reader;

use super::{DOI_IPSEC, PayloadType};

/// The only situation there is (RFC 2407 §4.2.1); secrecy and integrity levels change the payload's format.
pub const SIT_IDENTITY_ONLY: u32 = 1;

/// Proposals in one SA payload: AH with ESP takes two per suite, and a quick mode seldom offers ten suites.
pub const MAX_PROPOSALS: usize = 64;

/// Transforms in one proposal. A phase 1 offer enumerates whole suites, so it is longer than IKEv2's; the longest that
/// clients send have some 60. The count octet allows 255.
pub const MAX_TRANSFORMS: usize = 128;

/// Attributes of one transform; at most eleven are defined, two lifetimes take two each.
pub const MAX_ATTRIBUTES: usize = 32;

const LAST: u8 = 0;
const MORE_PROPOSALS: u8 = 2;
const MORE_TRANSFORMS: u8 = 3;

/// A received SA payload of the IPsec DOI.
#[derive(Clone, Copy, Debug)]
pub struct SaView<'a> {
    body: &'a [u8],
}

impl<'a> SaView<'a> {
    /// # Errors
    /// Another DOI or situation, lengths, counts or chaining octets that disagree, too many elements.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        if r.u32()? != DOI_IPSEC {
            return Err(InvalidMessage::Doi);
        }
        if r.u32()? != SIT_IDENTITY_ONLY {
            return Err(InvalidMessage::Situation);
        }
        for _ in 0..MAX_PROPOSALS {
            let (proposal, more) = ProposalView::read(&mut r)?;
            proposal.check()?;
            if !more {
                return if r.is_empty() {
                    Ok(Self { body })
                } else {
                    Err(InvalidMessage::BadLength)
                };
            }
        }
        Err(InvalidMessage::TooManyElements)
    }

    /// The whole body, `SAi_b` of RFC 2409 §5.
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The proposals in order.
    pub fn proposals(&self) -> impl Iterator<Item = ProposalView<'a>> + use<'a> {
        let mut r = Reader::new(self.body.get(8..).unwrap_or_default());
        core::iter::from_fn(move || ProposalView::read(&mut r).ok().map(|(proposal, _)| proposal))
    }
}

impl Emit for SaView<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::Sa.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.body);
    }
}

/// One received proposal.
#[derive(Clone, Copy, Debug)]
pub struct ProposalView<'a> {
    /// Its number; proposals with one number are to be taken together.
    pub number: u8,
    /// What it is for.
    pub protocol: ProtocolId,
    /// The SPI: for ISAKMP 0 to 16 octets and ignored (RFC 2408 §3.5), for AH and ESP four, for IPCOMP two or four.
    pub spi: &'a [u8],
    count: u8,
    transforms: &'a [u8],
}

impl<'a> ProposalView<'a> {
    fn read(r: &mut Reader<'a>) -> Result<(Self, bool), InvalidMessage> {
        let more = match r.u8()? {
            LAST => false,
            MORE_PROPOSALS => true,
            _ => return Err(InvalidMessage::BadChaining),
        };
        r.u8()?;
        let length = r.u16()?;
        let mut body = Reader::new(r.body(length, 4)?);
        let number = body.u8()?;
        let protocol = ProtocolId::from_number(body.u8()?);
        let spi_size = body.u8()?;
        let count = body.u8()?;
        let spi = body.take(usize::from(spi_size))?;
        Ok((Self { number, protocol, spi, count, transforms: body.rest() }, more))
    }

    fn check(&self) -> Result<(), InvalidMessage> {
        match (self.protocol, self.spi.len()) {
            (ProtocolId::Ike, 0..=16)
            | (ProtocolId::Ah | ProtocolId::Esp, 4)
            | (ProtocolId::IpComp, 2 | 4) => {}
            (ProtocolId::Ike | ProtocolId::Ah | ProtocolId::Esp | ProtocolId::IpComp, _) => {
                return Err(InvalidMessage::SpiSize);
            }
            _ => {}
        }
        let mut r = Reader::new(self.transforms);
        let mut seen = 0usize;
        let mut more = self.count != 0;
        while more {
            if seen == MAX_TRANSFORMS {
                return Err(InvalidMessage::TooManyElements);
            }
            let transform;
            (transform, more) = TransformView::read(&mut r)?;
            transform.attributes.check()?;
            seen = seen.saturating_add(1);
        }
        if seen != usize::from(self.count) {
            return Err(InvalidMessage::BadCount);
        }
        if r.is_empty() { Ok(()) } else { Err(InvalidMessage::BadLength) }
    }

    /// The transforms in order.
    pub fn transforms(&self) -> impl Iterator<Item = TransformView<'a>> + use<'a> {
        let mut r = Reader::new(self.transforms);
        core::iter::from_fn(move || TransformView::read(&mut r).ok().map(|(t, _)| t))
    }
}

/// One received transform.
#[derive(Clone, Copy, Debug)]
pub struct TransformView<'a> {
    /// Its number; an answer repeats it.
    pub number: u8,
    /// The transform: KEY_IKE in phase 1, the cipher or authentication algorithm in phase 2.
    pub id: u8,
    /// Its attributes.
    pub attributes: Attributes<'a>,
}

impl<'a> TransformView<'a> {
    fn read(r: &mut Reader<'a>) -> Result<(Self, bool), InvalidMessage> {
        let more = match r.u8()? {
            LAST => false,
            MORE_TRANSFORMS => true,
            _ => return Err(InvalidMessage::BadChaining),
        };
        r.u8()?;
        let length = r.u16()?;
        let mut body = Reader::new(r.body(length, 4)?);
        let number = body.u8()?;
        let id = body.u8()?;
        body.u16()?;
        Ok((Self { number, id, attributes: Attributes { bytes: body.rest() } }, more))
    }
}

/// A list of data attributes (RFC 2408 §3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// # Errors
    /// Lengths past the end, or more than [`MAX_ATTRIBUTES`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InvalidMessage> {
        let attributes = Self { bytes };
        attributes.check()?;
        Ok(attributes)
    }

    fn check(&self) -> Result<(), InvalidMessage> {
        let mut r = Reader::new(self.bytes);
        for _ in 0..MAX_ATTRIBUTES {
            if r.is_empty() {
                return Ok(());
            }
            Attribute::read(&mut r)?;
        }
        if r.is_empty() { Ok(()) } else { Err(InvalidMessage::TooManyElements) }
    }

    /// The attributes in order.
    pub fn iter(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        let mut r = Reader::new(self.bytes);
        core::iter::from_fn(move || Attribute::read(&mut r).ok())
    }

    /// The octets, as an answer repeats them unchanged (RFC 2408 §4.2).
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its type, 15 bits; the registry depends on the phase.
    pub kind: u16,
    /// Its value.
    pub value: AttributeValue<'a>,
}

/// The two forms of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttributeValue<'a> {
    /// Two octets in place of a length (TV).
    Basic(u16),
    /// Any length (TLV).
    Variable(&'a [u8]),
}

impl AttributeValue<'_> {
    /// The number it holds, if it has at most eight octets: lifetimes come in either form.
    pub fn number(&self) -> Option<u64> {
        match *self {
            Self::Basic(value) => Some(u64::from(value)),
            Self::Variable(bytes) if bytes.len() <= 8 && !bytes.is_empty() => {
                Some(bytes.iter().fold(0, |n, &octet| (n << 8) | u64::from(octet)))
            }
            Self::Variable(_) => None,
        }
    }
}

impl<'a> Attribute<'a> {
    /// An attribute in its two-octet form.
    pub const fn basic(kind: u16, value: u16) -> Self {
        Self { kind, value: AttributeValue::Basic(value) }
    }

    pub(super) fn read(r: &mut Reader<'a>) -> Result<Self, InvalidMessage> {
        let kind = r.u16()?;
        let word = r.u16()?;
        let value = if kind & 0x8000 != 0 {
            AttributeValue::Basic(word)
        } else {
            AttributeValue::Variable(r.take(usize::from(word))?)
        };
        Ok(Self { kind: kind & 0x7fff, value })
    }

    /// Appends the attribute. A value longer than 65,535 octets makes the payload too long, which is reported there.
    pub fn emit(&self, out: &mut Vec<u8>) {
        match self.value {
            AttributeValue::Basic(value) => {
                out.extend_from_slice(&(self.kind | 0x8000).to_be_bytes());
                out.extend_from_slice(&value.to_be_bytes());
            }
            AttributeValue::Variable(bytes) => {
                let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
                out.extend_from_slice(&(self.kind & 0x7fff).to_be_bytes());
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(bytes);
            }
        }
    }
}

/// A transform of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transform {
    /// Its number.
    pub number: u8,
    /// Its identifier.
    pub id: u8,
    /// Its attributes as octets, written by [`Attribute::emit`] or repeated from an offer.
    pub attributes: Vec<u8>,
}

/// A proposal of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Its number.
    pub number: u8,
    /// What it is for.
    pub protocol: ProtocolId,
    /// Our SPI.
    pub spi: Vec<u8>,
    /// The transforms, the preferred first.
    pub transforms: Vec<Transform>,
}

/// An SA payload of ours.
#[derive(Clone, Copy, Debug)]
pub struct SaPayload<'a> {
    /// Its proposals.
    pub proposals: &'a [Proposal],
}

impl Emit for SaPayload<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::Sa.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&DOI_IPSEC.to_be_bytes());
        out.extend_from_slice(&SIT_IDENTITY_ONLY.to_be_bytes());
        for (n, proposal) in self.proposals.iter().enumerate() {
            let last = n.saturating_add(1) == self.proposals.len();
            proposal.emit(if last { LAST } else { MORE_PROPOSALS }, out);
        }
    }
}

impl Proposal {
    fn emit(&self, next: u8, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[next, 0, 0, 0, self.number, self.protocol.number()]);
        // Our own SPIs have at most eight octets and our proposals come from a bounded configuration.
        out.push(u8::try_from(self.spi.len()).unwrap_or(u8::MAX));
        out.push(u8::try_from(self.transforms.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(&self.spi);
        for (n, transform) in self.transforms.iter().enumerate() {
            let last = n.saturating_add(1) == self.transforms.len();
            transform.emit(if last { LAST } else { MORE_TRANSFORMS }, out);
        }
        // A proposal too long for its field makes the payload around it too long too, which is reported there.
        patch_length(out, start, start.saturating_add(2), &mut false);
    }
}

impl Transform {
    fn emit(&self, next: u8, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[next, 0, 0, 0, self.number, self.id, 0, 0]);
        out.extend_from_slice(&self.attributes);
        patch_length(out, start, start.saturating_add(2), &mut false);
    }
}
