//! Security association payloads (RFC 7296 §3.3).
//!
//! ```text
//! | Last Substruc |   RESERVED    |        Proposal Length        |
//! | Proposal Num  |  Protocol ID  |    SPI Size   |Num  Transforms|
//! ~                        SPI (variable)                         ~
//!   | Last Substruc |   RESERVED    |       Transform Length        |
//!   |Transform Type |   RESERVED    |          Transform ID         |
//!   |A|       Attribute Type        |    AF=0  Length / AF=1 Value  |
//! ```
//!
//! Guarantee of [`SaView`]: every length and count in it agrees, so that iterating sees exactly the proposals and
//! transforms announced. A transform that we do not understand is not a fault of the message: it comes out as `None`
//! from [`ReceivedTransform::understood`] and is not acceptable (RFC 7296 §3.3.6).

use crate::message::InvalidMessage;
use crate::message::build::{Emit, patch_length};
use crate::message::numbers::{
    EncryptionId, IntegrityId, KeMethod, PrfId, ProtocolId, SequenceNumbers,
};
use crate::message::read::Reader;

use super::PayloadType;

/// Proposals in one SA payload. Peers send one per cipher family and protocol, below ten; the proposal number's octet
/// would allow 255, and each is compared with each of ours.
pub const MAX_PROPOSALS: usize = 64;

/// Transforms in one proposal. strongSwan's default IKE proposal has about 40; the count octet allows 255.
pub const MAX_TRANSFORMS: usize = 128;

/// Attributes of one transform. One is defined (key length); anything more makes the transform unacceptable, but the
/// walk over them is bounded.
const MAX_ATTRIBUTES: usize = 16;

const KEY_LENGTH: u16 = 14;

/// A received SA payload.
#[derive(Clone, Copy, Debug)]
pub struct SaView<'a> {
    body: &'a [u8],
}

impl<'a> SaView<'a> {
    /// # Errors
    /// Lengths, counts or chaining octets that disagree, too many elements, proposal numbers that do not count up
    /// from one, SPI sizes that the protocol cannot have.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        for expected in 1..=MAX_PROPOSALS {
            let (proposal, more) = ProposalView::read(&mut r)?;
            if usize::from(proposal.number) != expected {
                return Err(InvalidMessage::ProposalNumber);
            }
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

    /// The proposals in order.
    pub fn proposals(&self) -> impl Iterator<Item = ProposalView<'a>> + use<'a> {
        let mut r = Reader::new(self.body);
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
    /// Its number; an answer repeats it.
    pub number: u8,
    /// What the SPI and transforms are for.
    pub protocol: ProtocolId,
    /// The sender's SPI: empty for an initial IKE SA, 8 octets for its rekey, 4 for AH and ESP.
    pub spi: &'a [u8],
    count: u8,
    transforms: &'a [u8],
}

impl<'a> ProposalView<'a> {
    fn read(r: &mut Reader<'a>) -> Result<(Self, bool), InvalidMessage> {
        let more = match r.u8()? {
            0 => false,
            2 => true,
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
            (ProtocolId::Ike, 0 | 8) | (ProtocolId::Ah | ProtocolId::Esp, 4) => {}
            (ProtocolId::Ike | ProtocolId::Ah | ProtocolId::Esp, _) => {
                return Err(InvalidMessage::SpiSize);
            }
            // Of a protocol we do not know no size is wrong; the proposal is unacceptable all the same.
            _ => {}
        }
        let mut r = Reader::new(self.transforms);
        let mut seen = 0usize;
        let mut more = self.count != 0;
        while more {
            if seen == MAX_TRANSFORMS {
                return Err(InvalidMessage::TooManyElements);
            }
            (_, more) = ReceivedTransform::read(&mut r)?;
            seen = seen.saturating_add(1);
        }
        if seen != usize::from(self.count) {
            return Err(InvalidMessage::BadCount);
        }
        if r.is_empty() { Ok(()) } else { Err(InvalidMessage::BadLength) }
    }

    /// The transforms in order.
    pub fn transforms(&self) -> impl Iterator<Item = ReceivedTransform<'a>> + use<'a> {
        let mut r = Reader::new(self.transforms);
        core::iter::from_fn(move || ReceivedTransform::read(&mut r).ok().map(|(t, _)| t))
    }

    /// The SPI when it has four octets.
    pub fn esp_spi(&self) -> Option<[u8; 4]> {
        self.spi.try_into().ok()
    }

    /// The SPI when it has eight octets.
    pub fn ike_spi(&self) -> Option<crate::message::IkeSpi> {
        self.spi.try_into().ok().map(crate::message::IkeSpi)
    }
}

/// One received transform.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedTransform<'a> {
    /// The transform type's number.
    pub kind: u8,
    /// The transform's number within its type.
    pub id: u16,
    attributes: &'a [u8],
}

impl<'a> ReceivedTransform<'a> {
    fn read(r: &mut Reader<'a>) -> Result<(Self, bool), InvalidMessage> {
        let more = match r.u8()? {
            0 => false,
            3 => true,
            _ => return Err(InvalidMessage::BadChaining),
        };
        r.u8()?;
        let length = r.u16()?;
        let mut body = Reader::new(r.body(length, 4)?);
        let kind = body.u8()?;
        body.u8()?;
        let id = body.u16()?;
        Ok((Self { kind, id, attributes: body.rest() }, more))
    }

    /// The transform, unless its type or attributes are not understood, in which case RFC 7296 §3.3.6 makes it
    /// unacceptable: an unknown type, any attribute but one key length in its two-octet form, a key length of zero
    /// or not a whole number of octets, or one on a transform that takes none, or none where it is required.
    pub fn understood(&self) -> Option<Transform> {
        let id = TransformId::from_numbers(self.kind, self.id);
        if let TransformId::Unknown { .. } = id {
            return None;
        }
        let key_length = self.key_length()?;
        let fits = match id.key_length() {
            KeyLength::Forbidden => key_length.is_none(),
            KeyLength::Required => key_length.is_some(),
            // An algorithm unknown by number: it will match nothing of ours, with or without a length.
            KeyLength::Unspecified => true,
        };
        fits.then_some(Transform { id, key_length })
    }

    /// `None` when there are attributes that are not understood.
    fn key_length(&self) -> Option<Option<u16>> {
        let mut r = Reader::new(self.attributes);
        let mut key_length = None;
        for _ in 0..MAX_ATTRIBUTES {
            if r.is_empty() {
                return Some(key_length);
            }
            let kind = r.u16().ok()?;
            let value = r.u16().ok()?;
            let is_key_length = kind == KEY_LENGTH | 0x8000;
            if !is_key_length || key_length.is_some() || value == 0 || value % 8 != 0 {
                return None;
            }
            key_length = Some(value);
        }
        None
    }
}

/// What a transform says about key lengths (RFC 7296 §3.3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyLength {
    /// The key length attribute must not be there: the algorithm's length is fixed.
    Forbidden,
    /// It must be there.
    Required,
    /// We do not know the algorithm.
    Unspecified,
}

/// A transform's type and identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransformId {
    /// Type 1.
    Encryption(EncryptionId),
    /// Type 2.
    Prf(PrfId),
    /// Type 3.
    Integrity(IntegrityId),
    /// Type 4.
    KeyExchange(KeMethod),
    /// Type 5.
    SequenceNumbers(SequenceNumbers),
    /// Types 6 to 12 (RFC 9370): the additional key exchange's place, 1 to 7, and its method.
    AdditionalKeyExchange(u8, KeMethod),
    /// Another type.
    Unknown {
        /// The type's number.
        kind: u8,
        /// The identifier.
        id: u16,
    },
}

impl TransformId {
    /// From type and identifier on the wire.
    pub const fn from_numbers(kind: u8, id: u16) -> Self {
        match kind {
            1 => Self::Encryption(EncryptionId::from_number(id)),
            2 => Self::Prf(PrfId::from_number(id)),
            3 => Self::Integrity(IntegrityId::from_number(id)),
            4 => Self::KeyExchange(KeMethod::from_number(id)),
            5 => Self::SequenceNumbers(SequenceNumbers::from_number(id)),
            6..=12 => {
                Self::AdditionalKeyExchange(kind.saturating_sub(5), KeMethod::from_number(id))
            }
            _ => Self::Unknown { kind, id },
        }
    }

    /// The type's number.
    pub const fn kind(self) -> u8 {
        match self {
            Self::Encryption(_) => 1,
            Self::Prf(_) => 2,
            Self::Integrity(_) => 3,
            Self::KeyExchange(_) => 4,
            Self::SequenceNumbers(_) => 5,
            Self::AdditionalKeyExchange(place, _) => place.saturating_add(5),
            Self::Unknown { kind, .. } => kind,
        }
    }

    /// The identifier's number.
    pub const fn number(self) -> u16 {
        match self {
            Self::Encryption(id) => id.number(),
            Self::Prf(id) => id.number(),
            Self::Integrity(id) => id.number(),
            Self::KeyExchange(id) | Self::AdditionalKeyExchange(_, id) => id.number(),
            Self::SequenceNumbers(id) => id.number(),
            Self::Unknown { id, .. } => id,
        }
    }

    /// Whether the key length attribute belongs to this transform.
    pub const fn key_length(self) -> KeyLength {
        match self {
            Self::Encryption(id) => match id {
                EncryptionId::AesCbc
                | EncryptionId::AesCtr
                | EncryptionId::AesCcm8
                | EncryptionId::AesCcm12
                | EncryptionId::AesCcm16
                | EncryptionId::AesGcm8
                | EncryptionId::AesGcm12
                | EncryptionId::AesGcm16
                | EncryptionId::NullAesGmac
                | EncryptionId::AesCcm8Iiv
                | EncryptionId::AesGcm16Iiv => KeyLength::Required,
                EncryptionId::TripleDes
                | EncryptionId::Null
                | EncryptionId::ChaCha20Poly1305
                | EncryptionId::ChaCha20Poly1305Iiv => KeyLength::Forbidden,
                EncryptionId::Unknown(_) => KeyLength::Unspecified,
            },
            Self::Prf(_)
            | Self::Integrity(_)
            | Self::KeyExchange(_)
            | Self::SequenceNumbers(_)
            | Self::AdditionalKeyExchange(..) => KeyLength::Forbidden,
            Self::Unknown { .. } => KeyLength::Unspecified,
        }
    }
}

/// A transform that is understood, or one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transform {
    /// Type and identifier.
    pub id: TransformId,
    /// The key length attribute, in bits.
    pub key_length: Option<u16>,
}

impl Transform {
    /// An encryption transform, with its key length in bits where it needs one.
    pub const fn encryption(id: EncryptionId, key_bits: Option<u16>) -> Self {
        Self { id: TransformId::Encryption(id), key_length: key_bits }
    }

    /// A pseudorandom function.
    pub const fn prf(id: PrfId) -> Self {
        Self { id: TransformId::Prf(id), key_length: None }
    }

    /// An integrity transform.
    pub const fn integrity(id: IntegrityId) -> Self {
        Self { id: TransformId::Integrity(id), key_length: None }
    }

    /// A key exchange method.
    pub const fn key_exchange(id: KeMethod) -> Self {
        Self { id: TransformId::KeyExchange(id), key_length: None }
    }

    /// Sequence number length.
    pub const fn sequence_numbers(id: SequenceNumbers) -> Self {
        Self { id: TransformId::SequenceNumbers(id), key_length: None }
    }
}

/// A proposal of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Its number: counting from one in an offer, the accepted one's in an answer.
    pub number: u8,
    /// What it is for.
    pub protocol: ProtocolId,
    /// Our SPI: 0, 4 or 8 octets.
    pub spi: Vec<u8>,
    /// The transforms, the preferred first within a type.
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
        for (n, proposal) in self.proposals.iter().enumerate() {
            let last = n.saturating_add(1) == self.proposals.len();
            proposal.emit(last, out);
        }
    }
}

impl Proposal {
    fn emit(&self, last: bool, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[if last { 0 } else { 2 }, 0, 0, 0]);
        out.extend_from_slice(&[
            self.number,
            self.protocol.number(),
            // More of either than an octet says is caught by no peer's count: our own proposals come from a bounded
            // configuration, and an SPI has at most eight octets.
            u8::try_from(self.spi.len()).unwrap_or(u8::MAX),
            u8::try_from(self.transforms.len()).unwrap_or(u8::MAX),
        ]);
        out.extend_from_slice(&self.spi);
        for (n, transform) in self.transforms.iter().enumerate() {
            let last = n.saturating_add(1) == self.transforms.len();
            transform.emit(last, out);
        }
        // A proposal too long for its field makes the payload around it too long too, which is reported there.
        patch_length(out, start, start.saturating_add(2), &mut false);
    }
}

impl Transform {
    fn emit(&self, last: bool, out: &mut Vec<u8>) {
        let length: u16 = if self.key_length.is_some() { 12 } else { 8 };
        out.extend_from_slice(&[if last { 0 } else { 3 }, 0]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&[self.id.kind(), 0]);
        out.extend_from_slice(&self.id.number().to_be_bytes());
        if let Some(bits) = self.key_length {
            out.extend_from_slice(&(KEY_LENGTH | 0x8000).to_be_bytes());
            out.extend_from_slice(&bits.to_be_bytes());
        }
    }
}
