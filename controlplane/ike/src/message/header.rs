//! The fixed header, the same for both versions (RFC 7296 §3.1, RFC 2408 §3.1).
//!
//! ```text
//!  0                   1                   2                   3
//! |                       IKE SA Initiator's SPI                  | 8 octets
//! |                       IKE SA Responder's SPI                  | 8 octets
//! |  Next Payload | MjVer | MnVer | Exchange Type |     Flags     |
//! |                          Message ID                           |
//! |                            Length                             |
//! ```

use super::InvalidMessage;
use super::numbers::ExchangeType;
use super::read::Reader;

/// Octets of the fixed header.
pub const HEADER_LEN: usize = 28;

/// An IKE SA's SPI (IKEv1: cookie); zero is the absent responder's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IkeSpi(pub [u8; 8]);

impl IkeSpi {
    /// The responder's SPI in the first message.
    pub const ZERO: Self = Self([0; 8]);

    /// Whether every octet is zero.
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }
}

impl core::fmt::Debug for IkeSpi {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl core::fmt::Display for IkeSpi {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, f)
    }
}

/// A message ID: a counter in IKEv2, a random number of an exchange in IKEv1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub u32);

/// The major version of a message; the minor one is ignored on receipt (RFC 7296 §2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 2408, RFC 2409.
    V1,
    /// RFC 7296.
    V2,
}

impl Version {
    /// The major version number.
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}

/// The flags octet; bits without a name are kept as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// IKEv1: the body is encrypted.
    pub const ENCRYPTED: Self = Self(0x01);
    /// IKEv1: commit.
    pub const COMMIT: Self = Self(0x02);
    /// IKEv2: sent by the original initiator of the IKE SA.
    pub const INITIATOR: Self = Self(0x08);
    /// IKEv2: the sender speaks a higher major version.
    pub const VERSION: Self = Self(0x10);
    /// IKEv2: a response.
    pub const RESPONSE: Self = Self(0x20);
    /// No flag.
    pub const NONE: Self = Self(0);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of flags.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A header's fields without next payload and length, which follow from what is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The initiator's SPI, never zero in a parsed header.
    pub spi_i: IkeSpi,
    /// The responder's SPI.
    pub spi_r: IkeSpi,
    /// Major version.
    pub version: Version,
    /// Minor version, informative.
    pub minor: u8,
    /// What exchange the message belongs to.
    pub exchange: ExchangeType,
    /// The flags octet.
    pub flags: Flags,
    /// The message ID.
    pub message_id: MessageId,
}

impl Header {
    /// A header of an IKEv2 message of ours, minor version 0.
    pub const fn v2(
        spi_i: IkeSpi,
        spi_r: IkeSpi,
        exchange: ExchangeType,
        flags: Flags,
        message_id: MessageId,
    ) -> Self {
        Self { spi_i, spi_r, version: Version::V2, minor: 0, exchange, flags, message_id }
    }

    /// A header of an IKEv1 message of ours.
    pub const fn v1(
        spi_i: IkeSpi,
        spi_r: IkeSpi,
        exchange: ExchangeType,
        flags: Flags,
        message_id: MessageId,
    ) -> Self {
        Self { spi_i, spi_r, version: Version::V1, minor: 0, exchange, flags, message_id }
    }

    /// Reads a datagram's header and returns it with the first payload's type.
    ///
    /// # Errors
    /// [`InvalidMessage::Truncated`] below 28 octets, [`InvalidMessage::HeaderLength`] unless the length field is
    /// exactly the datagram's, [`InvalidMessage::Version`], [`InvalidMessage::HigherMajorVersion`], and
    /// [`InvalidMessage::HeaderSpi`] for SPIs that no peer can have chosen.
    pub fn parse(datagram: &[u8]) -> Result<(Self, u8), InvalidMessage> {
        let (header, first) = Self::parse_any_spi(datagram)?;
        if header.spi_i.is_zero() || header.spi_i == header.spi_r {
            return Err(InvalidMessage::HeaderSpi);
        }
        Ok((header, first))
    }

    pub(super) fn parse_any_spi(datagram: &[u8]) -> Result<(Self, u8), InvalidMessage> {
        let mut r = Reader::new(datagram);
        let spi_i = IkeSpi(r.array()?);
        let spi_r = IkeSpi(r.array()?);
        let next_payload = r.u8()?;
        let version = r.u8()?;
        let exchange = ExchangeType::from_number(r.u8()?);
        let flags = Flags(r.u8()?);
        let message_id = MessageId(r.u32()?);
        let length = r.u32()?;
        if usize::try_from(length) != Ok(datagram.len()) {
            return Err(InvalidMessage::HeaderLength);
        }
        let minor = version & 0x0f;
        let version = match version >> 4 {
            0 => return Err(InvalidMessage::Version),
            1 => Version::V1,
            2 => Version::V2,
            _ => return Err(InvalidMessage::HigherMajorVersion),
        };
        Ok((Self { spi_i, spi_r, version, minor, exchange, flags, message_id }, next_payload))
    }

    /// The two SPIs and the message ID of anything at least as long as a header, whatever its version says:
    /// what an INVALID_MAJOR_VERSION answer copies (RFC 7296 §2.5).
    pub fn spis(datagram: &[u8]) -> Option<(IkeSpi, IkeSpi, MessageId)> {
        let mut r = Reader::new(datagram.get(..HEADER_LEN)?);
        let spi_i = IkeSpi(r.array().ok()?);
        let spi_r = IkeSpi(r.array().ok()?);
        r.take(4).ok()?;
        Some((spi_i, spi_r, MessageId(r.u32().ok()?)))
    }

    /// Appends the 28 octets, for a message of `length` octets in all.
    pub fn emit(&self, next_payload: u8, length: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.spi_i.0);
        out.extend_from_slice(&self.spi_r.0);
        let version = (self.version.number() << 4) | (self.minor & 0x0f);
        out.extend_from_slice(&[next_payload, version, self.exchange.number(), self.flags.0]);
        out.extend_from_slice(&self.message_id.0.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
    }
}
