//! The payloads that are one header and one body (RFC 2408 §3.7 to §3.16, RFC 3947, fragmentation).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::message::InvalidMessage;
use crate::message::build::Emit;
use crate::message::numbers::{CertEncoding, IdType, ProtocolId};
use crate::message::read::Reader;

use super::sa::Attributes;
use super::{DOI_IPSEC, NotifyType, PayloadType};

/// Declares a payload whose body is one field.
macro_rules! opaque {
    ($(#[$doc:meta])* $name:ident, $field:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name<'a> {
            /// The body.
            pub $field: &'a [u8],
        }

        impl Emit for $name<'_> {
            fn payload_type(&self) -> u8 {
                PayloadType::$name.number()
            }

            fn emit_body(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(self.$field);
            }
        }
    };
}

opaque! {
    /// KE (RFC 2408 §3.7): the public value alone, of the group that the SA negotiates.
    KeyExchange, data
}
opaque! {
    /// HASH (RFC 2408 §3.11).
    Hash, data
}
opaque! {
    /// SIG (RFC 2408 §3.12).
    Signature, data
}
opaque! {
    /// VID (RFC 2408 §3.16).
    VendorId, data
}
opaque! {
    /// NAT-D (RFC 3947 §3.2): a hash of cookies, address and port.
    NatDetection, hash
}

/// A GSS-API token (draft-ietf-ipsec-isakmp-gss-auth-07 §3.3.3).
///
/// ```text
/// |    Vendor     |                 Token Data                    ~
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GssToken<'a> {
    /// Vendor encoding, which says nothing to us.
    pub vendor: u8,
    /// The mechanism's token.
    pub data: &'a [u8],
}

impl<'a> GssToken<'a> {
    /// # Errors
    /// [`InvalidMessage::Truncated`] without the vendor octet.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        let vendor = r.u8()?;
        Ok(Self { vendor, data: r.rest() })
    }
}

impl Emit for GssToken<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::GssToken.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        out.push(self.vendor);
        out.extend_from_slice(self.data);
    }
}

/// ID (RFC 2407 §4.6.2). Data that does not fit its type is kept: it matches no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identification<'a> {
    /// What the data are.
    pub kind: IdType,
    /// An IP protocol, zero for any or in phase 1.
    pub protocol: u8,
    /// A port, zero for any.
    pub port: u16,
    /// The identity.
    pub data: &'a [u8],
}

impl<'a> Identification<'a> {
    /// # Errors
    /// [`InvalidMessage::Truncated`] below four octets.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        let kind = IdType::from_number(r.u8()?);
        let protocol = r.u8()?;
        let port = r.u16()?;
        Ok(Self { kind, protocol, port, data: r.rest() })
    }
}

impl Emit for Identification<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::Identification.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kind.number(), self.protocol]);
        out.extend_from_slice(&self.port.to_be_bytes());
        out.extend_from_slice(self.data);
    }
}

/// CERT (RFC 2408 §3.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// What the data are.
    pub encoding: CertEncoding,
    /// The certificate.
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

/// CR (RFC 2408 §3.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertRequest<'a> {
    /// The encoding wanted.
    pub encoding: CertEncoding,
    /// The authority's distinguished name in DER, or empty for any.
    pub authority: &'a [u8],
}

impl<'a> CertRequest<'a> {
    /// # Errors
    /// [`InvalidMessage::Truncated`] without the encoding octet.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        let encoding = CertEncoding::from_number(r.u8()?);
        Ok(Self { encoding, authority: r.rest() })
    }
}

impl Emit for CertRequest<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::CertRequest.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        out.push(self.encoding.number());
        out.extend_from_slice(self.authority);
    }
}

/// NONCE (RFC 2409 §5): 8 to 256 octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce<'a> {
    data: &'a [u8],
}

impl<'a> Nonce<'a> {
    /// # Errors
    /// [`InvalidMessage::NonceLength`] outside 8 to 256 octets.
    pub const fn new(data: &'a [u8]) -> Result<Self, InvalidMessage> {
        match data.len() {
            8..=256 => Ok(Self { data }),
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

/// N (RFC 2408 §3.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notify<'a> {
    /// The domain of interpretation: IPsec, or zero from some peers before phase 1 is over.
    pub doi: u32,
    /// What the SPI belongs to.
    pub protocol: ProtocolId,
    /// The SPI: for ISAKMP both cookies or nothing.
    pub spi: &'a [u8],
    /// What is notified.
    pub kind: NotifyType,
    /// Data of the type.
    pub data: &'a [u8],
}

impl<'a> Notify<'a> {
    /// # Errors
    /// [`InvalidMessage::Truncated`].
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        let doi = r.u32()?;
        let protocol = ProtocolId::from_number(r.u8()?);
        let spi_size = r.u8()?;
        let kind = NotifyType::from_number(r.u16()?);
        let spi = r.take(usize::from(spi_size))?;
        Ok(Self { doi, protocol, spi, kind, data: r.rest() })
    }
}

impl Emit for Notify<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::Notify.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.doi.to_be_bytes());
        // An SPI has at most 16 octets.
        let spi_size = u8::try_from(self.spi.len()).unwrap_or(u8::MAX);
        out.extend_from_slice(&[self.protocol.number(), spi_size]);
        out.extend_from_slice(&self.kind.number().to_be_bytes());
        out.extend_from_slice(self.spi);
        out.extend_from_slice(self.data);
    }
}

/// D (RFC 2408 §3.15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delete<'a> {
    /// What the SPIs belong to.
    pub protocol: ProtocolId,
    spi_size: u8,
    spis: &'a [u8],
}

impl<'a> Delete<'a> {
    /// The ISAKMP SA with these cookies, initiator's first.
    pub const fn isakmp(cookies: &'a [u8; 16]) -> Self {
        Self { protocol: ProtocolId::Ike, spi_size: 16, spis: cookies }
    }

    /// IPsec SAs of one protocol, by the SPIs their sender receives on.
    pub const fn children(protocol: ProtocolId, spis: &'a [[u8; 4]]) -> Self {
        Self { protocol, spi_size: 4, spis: spis.as_flattened() }
    }

    /// # Errors
    /// Another DOI, a size that the protocol cannot have, or a count that disagrees.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        if r.u32()? != DOI_IPSEC {
            return Err(InvalidMessage::Doi);
        }
        let protocol = ProtocolId::from_number(r.u8()?);
        let spi_size = r.u8()?;
        let count = r.u16()?;
        let spis = r.rest();
        match (protocol, spi_size) {
            (ProtocolId::Ike, 16)
            | (ProtocolId::Ah | ProtocolId::Esp, 4)
            | (ProtocolId::IpComp, 2 | 4) => {}
            (ProtocolId::Ike | ProtocolId::Ah | ProtocolId::Esp | ProtocolId::IpComp, _) => {
                return Err(InvalidMessage::SpiSize);
            }
            _ => {}
        }
        let announced = usize::from(count).checked_mul(usize::from(spi_size));
        if announced != Some(spis.len()) {
            return Err(InvalidMessage::BadCount);
        }
        Ok(Self { protocol, spi_size, spis })
    }

    /// The SPIs, each of the payload's SPI size.
    pub fn spis(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        // A size of zero announces no SPI octets; one octet per chunk of nothing is nothing.
        self.spis.chunks_exact(usize::from(self.spi_size).max(1))
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
        out.extend_from_slice(&DOI_IPSEC.to_be_bytes());
        out.extend_from_slice(&[self.protocol.number(), self.spi_size]);
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(self.spis);
    }
}

/// The attributes payload of mode config and XAUTH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributesPayload<'a> {
    /// Request, reply, set or acknowledgement: 1 to 4.
    pub kind: u8,
    /// Matches requests and replies.
    pub id: u16,
    /// The attributes.
    pub attributes: Attributes<'a>,
}

impl<'a> AttributesPayload<'a> {
    /// # Errors
    /// Lengths past the end, or too many attributes.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        let kind = r.u8()?;
        r.u8()?;
        let id = r.u16()?;
        Ok(Self { kind, id, attributes: Attributes::parse(r.rest())? })
    }
}

impl Emit for AttributesPayload<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::Attributes.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kind, 0]);
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(self.attributes.bytes());
    }
}

/// NAT-OA (RFC 3947 §5.2): an address in the form of an ID payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatOriginalAddress {
    /// The address before translation.
    pub address: IpAddr,
}

impl NatOriginalAddress {
    /// # Errors
    /// [`InvalidMessage::BadLength`] unless the type is an address and the data are one.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        let kind = IdType::from_number(r.u8()?);
        r.take(3)?;
        let address = match kind {
            IdType::Ipv4Addr => IpAddr::V4(Ipv4Addr::from(r.array::<4>()?)),
            IdType::Ipv6Addr => IpAddr::V6(Ipv6Addr::from(r.array::<16>()?)),
            _ => return Err(InvalidMessage::BadLength),
        };
        if r.is_empty() { Ok(Self { address }) } else { Err(InvalidMessage::BadLength) }
    }
}

impl Emit for NatOriginalAddress {
    fn payload_type(&self) -> u8 {
        PayloadType::NatOriginalAddress.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        match self.address {
            IpAddr::V4(address) => {
                out.extend_from_slice(&[IdType::Ipv4Addr.number(), 0, 0, 0]);
                out.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                out.extend_from_slice(&[IdType::Ipv6Addr.number(), 0, 0, 0]);
                out.extend_from_slice(&address.octets());
            }
        }
    }
}

/// A fragment of a message, header included; never itself encrypted.
///
/// ```text
/// |          Fragment ID          |Fragment number|     Flags     |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// The message's number.
    pub id: u16,
    number: u8,
    /// Whether this is the last one.
    pub last: bool,
    data: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// # Errors
    /// [`InvalidMessage::FragmentNumber`] for number zero, [`InvalidMessage::Truncated`] without data.
    pub const fn new(
        id: u16,
        number: u8,
        last: bool,
        data: &'a [u8],
    ) -> Result<Self, InvalidMessage> {
        if number == 0 {
            return Err(InvalidMessage::FragmentNumber);
        }
        if data.is_empty() {
            return Err(InvalidMessage::Truncated);
        }
        Ok(Self { id, number, last, data })
    }

    /// # Errors
    /// As [`Fragment::new`].
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        let id = r.u16()?;
        let number = r.u8()?;
        let last = r.u8()? & 1 != 0;
        Self::new(id, number, last, r.rest())
    }

    /// The fragment's number, from one.
    pub const fn number(&self) -> u8 {
        self.number
    }

    /// Its part of the message, at least one octet.
    pub const fn data(&self) -> &'a [u8] {
        self.data
    }
}

impl Emit for Fragment<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::Fragment.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&[self.number, u8::from(self.last)]);
        out.extend_from_slice(self.data);
    }
}
