//! The payloads that are one header and one body (RFC 7296 §3.4 to §3.12, §3.16).

use crate::message::InvalidMessage;
use crate::message::build::Emit;
use crate::message::numbers::{AuthMethod, CertEncoding, IdType, KeMethod, NotifyType, ProtocolId};
use crate::message::read::Reader;

use super::PayloadType;

/// KE (RFC 7296 §3.4). The length of `data` is checked by the group, not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyExchange<'a> {
    /// The group.
    pub method: KeMethod,
    /// The public value.
    pub data: &'a [u8],
}

impl<'a> KeyExchange<'a> {
    /// # Errors
    /// [`InvalidMessage::Truncated`] below four octets.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        let method = KeMethod::from_number(r.u16()?);
        r.u16()?;
        Ok(Self { method, data: r.rest() })
    }
}

impl Emit for KeyExchange<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::KeyExchange.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.method.number().to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(self.data);
    }
}

/// An identity (RFC 7296 §3.5). Data that does not fit its type is kept: it matches no configured identity, and
/// that is an authentication failure, not a syntax error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identification<'a> {
    /// What the data are.
    pub kind: IdType,
    /// The identity.
    pub data: &'a [u8],
}

impl<'a> Identification<'a> {
    /// # Errors
    /// [`InvalidMessage::Truncated`] below four octets.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        let kind = IdType::from_number(r.u8()?);
        r.take(3)?;
        Ok(Self { kind, data: r.rest() })
    }

    /// The payload's body, `RestOfIDPayload` of RFC 7296 §2.15 with the reserved octets zero.
    pub fn body(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.emit(&mut out);
        out
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kind.number(), 0, 0, 0]);
        out.extend_from_slice(self.data);
    }
}

/// IDi, for emission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentificationI<'a>(pub Identification<'a>);

impl Emit for IdentificationI<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::IdI.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        self.0.emit(out);
    }
}

/// IDr, for emission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentificationR<'a>(pub Identification<'a>);

impl Emit for IdentificationR<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::IdR.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        self.0.emit(out);
    }
}

/// CERT (RFC 7296 §3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// What the data are.
    pub encoding: CertEncoding,
    /// The certificate or what stands for it.
    pub data: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// # Errors
    /// [`InvalidMessage::Truncated`] without the encoding octet.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        let encoding = CertEncoding::from_number(r.u8()?);
        Ok(Self { encoding, data: r.rest() })
    }
}

impl Emit for Certificate<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::Certificate.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        out.push(self.encoding.number());
        out.extend_from_slice(self.data);
    }
}

/// CERTREQ (RFC 7296 §3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertRequest<'a> {
    /// The encoding wanted.
    pub encoding: CertEncoding,
    /// Concatenated SHA-1 hashes of authorities' keys, for X.509.
    pub authorities: &'a [u8],
}

impl<'a> CertRequest<'a> {
    /// Octets of one authority's hash.
    pub const HASH_LEN: usize = 20;

    /// # Errors
    /// [`InvalidMessage::Truncated`] without the encoding octet.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        let encoding = CertEncoding::from_number(r.u8()?);
        Ok(Self { encoding, authorities: r.rest() })
    }

    /// The authorities' hashes; octets short of a whole hash at the end are left out.
    pub fn hashes(&self) -> impl Iterator<Item = &'a [u8; 20]> + use<'a> {
        self.authorities.as_chunks::<{ CertRequest::HASH_LEN }>().0.iter()
    }
}

impl Emit for CertRequest<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::CertRequest.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        out.push(self.encoding.number());
        out.extend_from_slice(self.authorities);
    }
}

/// AUTH (RFC 7296 §3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authentication<'a> {
    /// How the data were made.
    pub method: AuthMethod,
    /// Signature or code.
    pub data: &'a [u8],
}

impl<'a> Authentication<'a> {
    /// # Errors
    /// [`InvalidMessage::Truncated`] below four octets.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        let method = AuthMethod::from_number(r.u8()?);
        r.take(3)?;
        Ok(Self { method, data: r.rest() })
    }
}

impl Emit for Authentication<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::Authentication.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.method.number(), 0, 0, 0]);
        out.extend_from_slice(self.data);
    }
}

/// Ni, Nr (RFC 7296 §3.9): 16 to 256 octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce<'a> {
    data: &'a [u8],
}

impl<'a> Nonce<'a> {
    /// # Errors
    /// [`InvalidMessage::NonceLength`] outside 16 to 256 octets.
    pub const fn new(data: &'a [u8]) -> Result<Self, InvalidMessage> {
        match data.len() {
            16..=256 => Ok(Self { data }),
            _ => Err(InvalidMessage::NonceLength),
        }
    }

    /// The nonce.
    pub const fn data(&self) -> &'a [u8] {
        self.data
    }
}

impl Emit for Nonce<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::Nonce.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.data);
    }
}

/// N (RFC 7296 §3.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notify<'a> {
    /// What the SPI belongs to.
    pub protocol: ProtocolId,
    /// The SPI, empty when the notify concerns none.
    pub spi: &'a [u8],
    /// What is notified.
    pub kind: NotifyType,
    /// Data of the type.
    pub data: &'a [u8],
}

impl<'a> Notify<'a> {
    /// A notify about no SA or about the IKE SA.
    pub const fn new(kind: NotifyType, data: &'a [u8]) -> Self {
        Self { protocol: ProtocolId::None, spi: &[], kind, data }
    }

    /// # Errors
    /// [`InvalidMessage::Truncated`].
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        let protocol = ProtocolId::from_number(r.u8()?);
        let spi_size = r.u8()?;
        let kind = NotifyType::from_number(r.u16()?);
        let spi = r.take(usize::from(spi_size))?;
        Ok(Self { protocol, spi, kind, data: r.rest() })
    }
}

impl Emit for Notify<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::Notify.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        // An SPI has at most 8 octets.
        let spi_size = u8::try_from(self.spi.len()).unwrap_or(u8::MAX);
        out.extend_from_slice(&[self.protocol.number(), spi_size]);
        out.extend_from_slice(&self.kind.number().to_be_bytes());
        out.extend_from_slice(self.spi);
        out.extend_from_slice(self.data);
    }
}

/// D (RFC 7296 §3.11): either the IKE SA, without SPIs, or AH or ESP SPIs of four octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delete<'a> {
    /// What the SPIs belong to.
    pub protocol: ProtocolId,
    spi_size: u8,
    spis: &'a [u8],
}

impl<'a> Delete<'a> {
    /// The IKE SA itself.
    pub const IKE: Self = Self { protocol: ProtocolId::Ike, spi_size: 0, spis: &[] };

    /// Child SAs of one protocol, by the SPIs their sender receives on.
    pub const fn children(protocol: ProtocolId, spis: &'a [[u8; 4]]) -> Self {
        Self { protocol, spi_size: 4, spis: spis.as_flattened() }
    }

    /// # Errors
    /// A size that the protocol cannot have, or a count that disagrees.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        let protocol = ProtocolId::from_number(r.u8()?);
        let spi_size = r.u8()?;
        let count = r.u16()?;
        let spis = r.rest();
        match (protocol, spi_size) {
            (ProtocolId::Ike, 0) | (ProtocolId::Ah | ProtocolId::Esp, 4) => {}
            (ProtocolId::Ike | ProtocolId::Ah | ProtocolId::Esp, _) => {
                return Err(InvalidMessage::SpiSize);
            }
            _ => {}
        }
        if protocol == ProtocolId::Ike && count != 0 {
            return Err(InvalidMessage::BadCount);
        }
        let announced = usize::from(count).checked_mul(usize::from(spi_size));
        if announced != Some(spis.len()) {
            return Err(InvalidMessage::BadCount);
        }
        Ok(Self { protocol, spi_size, spis })
    }

    /// The SPIs of an AH or ESP delete; nothing for any other.
    pub fn spis(&self) -> impl Iterator<Item = [u8; 4]> + use<'a> {
        let spis = if self.spi_size == 4 { self.spis } else { &[] };
        spis.as_chunks::<4>().0.iter().copied()
    }
}

impl Emit for Delete<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::Delete.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        let count = self.spis.len().checked_div(usize::from(self.spi_size)).unwrap_or(0);
        // More SPIs than the count can say do not fit the payload either, which is reported there.
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        out.extend_from_slice(&[self.protocol.number(), self.spi_size]);
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(self.spis);
    }
}

/// V (RFC 7296 §3.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VendorId<'a> {
    /// The identifier.
    pub data: &'a [u8],
}

impl Emit for VendorId<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::VendorId.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.data);
    }
}

/// EAP (RFC 7296 §3.16, RFC 3748 §4): a message whose own length is the payload's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eap<'a> {
    message: &'a [u8],
}

impl<'a> Eap<'a> {
    /// # Errors
    /// [`InvalidMessage::Truncated`] below four octets, [`InvalidMessage::BadLength`] when the EAP length is not
    /// that of the payload.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        r.u16()?;
        if usize::from(r.u16()?) == body.len() {
            Ok(Self { message: body })
        } else {
            Err(InvalidMessage::BadLength)
        }
    }

    /// The EAP message from its code octet.
    pub const fn message(&self) -> &'a [u8] {
        self.message
    }
}

impl Emit for Eap<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::Eap.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.message);
    }
}
