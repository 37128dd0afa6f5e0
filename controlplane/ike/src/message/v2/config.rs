//! Configuration payloads (RFC 7296 §3.15).
//!
//! ```text
//! |   CFG Type    |                    RESERVED                   |
//!   |R|         Attribute Type      |            Length             |
//! ```

use crate::message::InvalidMessage;
use crate::message::build::Emit;
use crate::message::numbers::{ConfigAttributeType, ConfigType};
use crate::message::read::Reader;

use super::PayloadType;

/// Attributes in one payload: requests name some ten, replies one per DNS server and subnet.
pub const MAX_CONFIG_ATTRIBUTES: usize = 128;

/// CP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configuration<'a> {
    /// Request, reply, set or acknowledgement.
    pub kind: ConfigType,
    attributes: &'a [u8],
}

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigAttribute<'a> {
    /// What it is.
    pub kind: ConfigAttributeType,
    /// Its value, often empty in a request.
    pub value: &'a [u8],
}

impl<'a> Configuration<'a> {
    /// # Errors
    /// Lengths past the end, or more than [`MAX_CONFIG_ATTRIBUTES`].
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        let kind = ConfigType::from_number(r.u8()?);
        r.take(3)?;
        let mut attributes = r;
        for _ in 0..MAX_CONFIG_ATTRIBUTES {
            if attributes.is_empty() {
                return Ok(Self { kind, attributes: r.rest() });
            }
            ConfigAttribute::read(&mut attributes)?;
        }
        if attributes.is_empty() {
            return Ok(Self { kind, attributes: r.rest() });
        }
        Err(InvalidMessage::TooManyElements)
    }

    /// A payload of ours over attributes written by [`ConfigAttribute::emit`].
    ///
    /// # Errors
    /// As [`Configuration::parse`], of the attributes.
    pub fn new(kind: ConfigType, attributes: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(attributes);
        for _ in 0..MAX_CONFIG_ATTRIBUTES {
            if r.is_empty() {
                return Ok(Self { kind, attributes });
            }
            ConfigAttribute::read(&mut r)?;
        }
        if r.is_empty() {
            Ok(Self { kind, attributes })
        } else {
            Err(InvalidMessage::TooManyElements)
        }
    }

    /// The attributes in order.
    pub fn attributes(&self) -> impl Iterator<Item = ConfigAttribute<'a>> + use<'a> {
        let mut r = Reader::new(self.attributes);
        core::iter::from_fn(move || ConfigAttribute::read(&mut r).ok())
    }
}

impl Emit for Configuration<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::Configuration.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kind.number(), 0, 0, 0]);
        out.extend_from_slice(self.attributes);
    }
}

impl<'a> ConfigAttribute<'a> {
    fn read(r: &mut Reader<'a>) -> Result<Self, InvalidMessage> {
        // The upper bit is reserved and ignored (RFC 7296 §3.15.1).
        let kind = ConfigAttributeType::from_number(r.u16()? & 0x7fff);
        let length = r.u16()?;
        Ok(Self { kind, value: r.take(usize::from(length))? })
    }

    /// Appends the attribute. A value longer than 65,535 octets makes the payload too long, which is reported there.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let length = u16::try_from(self.value.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&self.kind.number().to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(self.value);
    }
}
