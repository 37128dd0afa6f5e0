//! IKEv2 messages and payloads (RFC 7296 §3).

mod config;
mod payloads;
mod sa;
mod selectors;

use super::chain::{Chain, GENERIC_HEADER_LEN, RawPayload, SK, SKF};
use super::read::Reader;
use super::{HEADER_LEN, Header, InvalidMessage, NotifyType};

pub use config::{ConfigAttribute, Configuration, MAX_CONFIG_ATTRIBUTES};
pub use payloads::{
    Authentication, CertRequest, Certificate, Delete, Eap, Identification, IdentificationI,
    IdentificationR, KeyExchange, Nonce, Notify, VendorId,
};
pub use sa::{
    KeyLength, MAX_PROPOSALS, MAX_TRANSFORMS, Proposal, ProposalView, ReceivedTransform, SaPayload,
    SaView, Transform, TransformId,
};
pub use selectors::{
    MAX_SELECTORS, OPAQUE_PORTS, PortRange, SelectorRange, TrafficSelector, TrafficSelectors,
    TrafficSelectorsI, TrafficSelectorsR,
};

/// IKEv2 payload types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PayloadType {
    /// SA.
    Sa,
    /// KE.
    KeyExchange,
    /// IDi.
    IdI,
    /// IDr.
    IdR,
    /// CERT.
    Certificate,
    /// CERTREQ.
    CertRequest,
    /// AUTH.
    Authentication,
    /// Ni, Nr.
    Nonce,
    /// N.
    Notify,
    /// D.
    Delete,
    /// V.
    VendorId,
    /// TSi.
    TsI,
    /// TSr.
    TsR,
    /// SK.
    Encrypted,
    /// CP.
    Configuration,
    /// EAP.
    Eap,
    /// SKF (RFC 7383).
    EncryptedFragment,
    /// Any other, IKEv1's types among them.
    Unknown(u8),
}

impl PayloadType {
    /// The number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::Sa => 33,
            Self::KeyExchange => 34,
            Self::IdI => 35,
            Self::IdR => 36,
            Self::Certificate => 37,
            Self::CertRequest => 38,
            Self::Authentication => 39,
            Self::Nonce => 40,
            Self::Notify => 41,
            Self::Delete => 42,
            Self::VendorId => 43,
            Self::TsI => 44,
            Self::TsR => 45,
            Self::Encrypted => SK,
            Self::Configuration => 47,
            Self::Eap => 48,
            Self::EncryptedFragment => SKF,
            Self::Unknown(n) => n,
        }
    }

    /// The type for a number from the wire.
    pub const fn from_number(number: u8) -> Self {
        match number {
            33 => Self::Sa,
            34 => Self::KeyExchange,
            35 => Self::IdI,
            36 => Self::IdR,
            37 => Self::Certificate,
            38 => Self::CertRequest,
            39 => Self::Authentication,
            40 => Self::Nonce,
            41 => Self::Notify,
            42 => Self::Delete,
            43 => Self::VendorId,
            44 => Self::TsI,
            45 => Self::TsR,
            SK => Self::Encrypted,
            47 => Self::Configuration,
            48 => Self::Eap,
            SKF => Self::EncryptedFragment,
            n => Self::Unknown(n),
        }
    }
}

/// A parsed IKEv2 datagram.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The header.
    pub header: Header,
    /// The payloads outside the encryption.
    pub payloads: Payloads<'a>,
    encrypted: Option<Encrypted<'a>>,
}

impl<'a> Message<'a> {
    pub(super) fn parse(
        header: Header,
        first: u8,
        datagram: &'a [u8],
        body: &'a [u8],
    ) -> Result<Self, InvalidMessage> {
        let payloads = Payloads::check(Chain::parse_v2_outer(first, body)?)?;
        let encrypted = match payloads.chain.iter().last() {
            Some(raw) if matches!(raw.number, SK | SKF) => Some(Encrypted::parse(raw, datagram)?),
            _ => None,
        };
        Ok(Self { header, payloads, encrypted })
    }

    /// The encrypted payload or fragment that ends the message, if there is one.
    pub const fn encrypted(&self) -> Option<Encrypted<'a>> {
        self.encrypted
    }
}

/// The SK or SKF payload of a message (RFC 7296 §3.14, RFC 7383 §2.5), as `crypto` opens it.
#[derive(Clone, Copy, Debug)]
pub struct Encrypted<'a> {
    /// The type of the first payload inside; of the first fragment only in SKF, zero in the others.
    pub inner: u8,
    /// Which fragment, in an SKF payload.
    pub fragment: Option<FragmentNumber>,
    /// The datagram from its first octet to the last one before the initialization vector.
    pub associated: &'a [u8],
    /// Initialization vector, ciphertext and integrity checksum.
    pub content: &'a [u8],
}

impl<'a> Encrypted<'a> {
    fn parse(raw: RawPayload<'a>, datagram: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(raw.body);
        let fragment = if raw.number == SKF {
            let (number, total) = (r.u16()?, r.u16()?);
            Some(FragmentNumber::new(number, total)?)
        } else {
            None
        };
        let content = r.rest();
        let before = datagram.len().saturating_sub(content.len());
        let associated = datagram.get(..before).ok_or(InvalidMessage::Truncated)?;
        Ok(Self { inner: raw.next, fragment, associated, content })
    }
}

/// Which fragment of how many: 1 ≤ number ≤ total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentNumber {
    number: u16,
    total: u16,
}

impl FragmentNumber {
    /// Octets of the two fields.
    pub const LEN: usize = 4;

    /// # Errors
    /// [`InvalidMessage::FragmentNumber`] unless 1 ≤ number ≤ total.
    pub const fn new(number: u16, total: u16) -> Result<Self, InvalidMessage> {
        if number == 0 || number > total {
            return Err(InvalidMessage::FragmentNumber);
        }
        Ok(Self { number, total })
    }

    /// The fragment's number, from one.
    pub const fn number(self) -> u16 {
        self.number
    }

    /// How many fragments the message has.
    pub const fn total(self) -> u16 {
        self.total
    }
}

/// Checked payloads: the chain is sound, every payload of a known type is well formed, and no unknown one is critical.
#[derive(Clone, Copy, Debug)]
pub struct Payloads<'a> {
    chain: Chain<'a>,
}

impl<'a> Payloads<'a> {
    /// Checks the chain from inside an SK payload, which must fill `bytes` and where another SK has no meaning.
    ///
    /// # Errors
    /// The first fault in the chain or in a payload; [`InvalidMessage::EncryptedNotLast`] for a nested SK or SKF.
    /// [`InvalidMessage::UnsupportedCritical`] comes only for a chain that is sound otherwise, as RFC 7296 §2.5 wants
    /// unknown payloads skipped and then refused.
    pub fn parse_inner(first: u8, bytes: &'a [u8]) -> Result<Self, InvalidMessage> {
        let payloads = Self::check(Chain::parse_v2(first, bytes)?)?;
        if payloads.chain.iter().any(|raw| matches!(raw.number, SK | SKF)) {
            return Err(InvalidMessage::EncryptedNotLast);
        }
        Ok(payloads)
    }

    fn check(chain: Chain<'a>) -> Result<Self, InvalidMessage> {
        let mut unsupported = None;
        for raw in &chain {
            match Payload::parse(raw)? {
                Payload::Unknown(raw) if raw.critical => {
                    unsupported.get_or_insert(InvalidMessage::UnsupportedCritical(raw.number));
                }
                _ => {}
            }
        }
        match unsupported {
            Some(fault) => Err(fault),
            None => Ok(Self { chain }),
        }
    }

    /// The payloads in order.
    pub fn iter(&self) -> impl Iterator<Item = Payload<'a>> + use<'a> {
        // Each parsed once in `check`, so none is lost here.
        self.chain.iter().filter_map(|raw| Payload::parse(raw).ok())
    }

    /// The uninterpreted chain.
    pub const fn chain(&self) -> Chain<'a> {
        self.chain
    }

    /// The SA payload, if there is one.
    pub fn sa(&self) -> Option<SaView<'a>> {
        self.iter().find_map(|p| if let Payload::Sa(sa) = p { Some(sa) } else { None })
    }

    /// The KE payload, if there is one.
    pub fn key_exchange(&self) -> Option<KeyExchange<'a>> {
        self.iter().find_map(|p| if let Payload::KeyExchange(ke) = p { Some(ke) } else { None })
    }

    /// The nonce, if there is one.
    pub fn nonce(&self) -> Option<Nonce<'a>> {
        self.iter().find_map(|p| if let Payload::Nonce(nonce) = p { Some(nonce) } else { None })
    }

    /// The initiator's identity, if there is one.
    pub fn id_i(&self) -> Option<Identification<'a>> {
        self.iter().find_map(|p| if let Payload::IdI(id) = p { Some(id) } else { None })
    }

    /// The responder's identity, if there is one.
    pub fn id_r(&self) -> Option<Identification<'a>> {
        self.iter().find_map(|p| if let Payload::IdR(id) = p { Some(id) } else { None })
    }

    /// The AUTH payload, if there is one.
    pub fn authentication(&self) -> Option<Authentication<'a>> {
        self.iter().find_map(|p| if let Payload::Authentication(a) = p { Some(a) } else { None })
    }

    /// The configuration payload, if there is one.
    pub fn configuration(&self) -> Option<Configuration<'a>> {
        self.iter().find_map(|p| if let Payload::Configuration(c) = p { Some(c) } else { None })
    }

    /// The initiator's selectors, if there are any.
    pub fn ts_i(&self) -> Option<TrafficSelectors<'a>> {
        self.iter().find_map(|p| if let Payload::TsI(ts) = p { Some(ts) } else { None })
    }

    /// The responder's selectors, if there are any.
    pub fn ts_r(&self) -> Option<TrafficSelectors<'a>> {
        self.iter().find_map(|p| if let Payload::TsR(ts) = p { Some(ts) } else { None })
    }

    /// All notifies.
    pub fn notifies(&self) -> impl Iterator<Item = Notify<'a>> + use<'a> {
        self.iter().filter_map(|p| if let Payload::Notify(n) = p { Some(n) } else { None })
    }

    /// The first notify of a type.
    pub fn notify(&self, kind: NotifyType) -> Option<Notify<'a>> {
        self.notifies().find(|n| n.kind == kind)
    }

    /// All delete payloads.
    pub fn deletes(&self) -> impl Iterator<Item = Delete<'a>> + use<'a> {
        self.iter().filter_map(|p| if let Payload::Delete(d) = p { Some(d) } else { None })
    }
}

/// One payload, interpreted.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// SA.
    Sa(SaView<'a>),
    /// KE.
    KeyExchange(KeyExchange<'a>),
    /// IDi.
    IdI(Identification<'a>),
    /// IDr.
    IdR(Identification<'a>),
    /// CERT.
    Certificate(Certificate<'a>),
    /// CERTREQ.
    CertRequest(CertRequest<'a>),
    /// AUTH.
    Authentication(Authentication<'a>),
    /// Ni, Nr.
    Nonce(Nonce<'a>),
    /// N.
    Notify(Notify<'a>),
    /// D.
    Delete(Delete<'a>),
    /// V.
    VendorId(VendorId<'a>),
    /// TSi.
    TsI(TrafficSelectors<'a>),
    /// TSr.
    TsR(TrafficSelectors<'a>),
    /// SK; taken from [`Message::encrypted`].
    Encrypted,
    /// SKF; taken from [`Message::encrypted`].
    EncryptedFragment,
    /// CP.
    Configuration(Configuration<'a>),
    /// EAP.
    Eap(Eap<'a>),
    /// A type this engine does not know.
    Unknown(RawPayload<'a>),
}

impl<'a> Payload<'a> {
    /// Interprets one payload. The critical bit of a known type is ignored (RFC 7296 §3.2).
    ///
    /// # Errors
    /// What is wrong with its body.
    pub fn parse(raw: RawPayload<'a>) -> Result<Self, InvalidMessage> {
        let body = raw.body;
        Ok(match PayloadType::from_number(raw.number) {
            PayloadType::Sa => Self::Sa(SaView::parse(body)?),
            PayloadType::KeyExchange => Self::KeyExchange(KeyExchange::parse(body)?),
            PayloadType::IdI => Self::IdI(Identification::parse(body)?),
            PayloadType::IdR => Self::IdR(Identification::parse(body)?),
            PayloadType::Certificate => Self::Certificate(Certificate::parse(body)?),
            PayloadType::CertRequest => Self::CertRequest(CertRequest::parse(body)?),
            PayloadType::Authentication => Self::Authentication(Authentication::parse(body)?),
            PayloadType::Nonce => Self::Nonce(Nonce::new(body)?),
            PayloadType::Notify => Self::Notify(Notify::parse(body)?),
            PayloadType::Delete => Self::Delete(Delete::parse(body)?),
            PayloadType::VendorId => Self::VendorId(VendorId { data: body }),
            PayloadType::TsI => Self::TsI(TrafficSelectors::parse(body)?),
            PayloadType::TsR => Self::TsR(TrafficSelectors::parse(body)?),
            PayloadType::Encrypted => Self::Encrypted,
            PayloadType::EncryptedFragment => Self::EncryptedFragment,
            PayloadType::Configuration => Self::Configuration(Configuration::parse(body)?),
            PayloadType::Eap => Self::Eap(Eap::parse(body)?),
            PayloadType::Unknown(_) => Self::Unknown(raw),
        })
    }
}

/// Octets from the start of a datagram to the content of an SK payload that comes first: what the associated data of
/// a message of ours is.
pub const SK_PREFIX_LEN: usize = HEADER_LEN + GENERIC_HEADER_LEN;
