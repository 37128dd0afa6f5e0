//! IKEv1 messages and payloads (RFC 2407, RFC 2408, RFC 2409, RFC 3947).

mod numbers;
mod payloads;
mod sa;

use super::chain::{Chain, RawPayload};
use super::{Flags, Header, InvalidMessage};

pub use numbers::{AttributeType, DpdNotify, IpsecAttributeType, NotifyType, PayloadType};
pub use payloads::{
    AttributesPayload, CertRequest, Certificate, Delete, Fragment, GssToken, Hash, Identification,
    KeyExchange, NatDetection, NatOriginalAddress, Nonce, Notify, Signature, VendorId,
};
pub use sa::{
    Attribute, AttributeValue, Attributes, MAX_ATTRIBUTES, MAX_PROPOSALS, MAX_TRANSFORMS, Proposal,
    ProposalView, SIT_IDENTITY_ONLY, SaPayload, SaView, Transform, TransformView,
};

/// The domain of interpretation of everything here (RFC 2407 §4.1).
pub const DOI_IPSEC: u32 = 1;

/// A parsed IKEv1 datagram.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The header.
    pub header: Header,
    /// What follows it.
    pub body: Body<'a>,
}

/// What follows the header.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// Payloads in clear.
    Plain(Payloads<'a>),
    /// Payloads under the phase 1 keys (RFC 2409 appendix B).
    Encrypted {
        /// The type of the first payload inside.
        first: u8,
        /// Whole cipher blocks, padding included.
        ciphertext: &'a [u8],
    },
}

impl<'a> Message<'a> {
    pub(super) fn parse(header: Header, first: u8, body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let body = if header.flags.contains(Flags::ENCRYPTED) {
            Body::Encrypted { first, ciphertext: body }
        } else {
            Body::Plain(Payloads::parse(first, body)?.0)
        };
        Ok(Self { header, body })
    }

    /// The chain in clear, empty for an encrypted message.
    pub const fn chain(&self) -> Chain<'a> {
        match self.body {
            Body::Plain(payloads) => payloads.chain,
            Body::Encrypted { .. } => Chain::EMPTY,
        }
    }
}

/// Checked payloads: the chain is sound and every payload of a known type is well formed.
#[derive(Clone, Copy, Debug)]
pub struct Payloads<'a> {
    chain: Chain<'a>,
}

impl<'a> Payloads<'a> {
    /// Checks a chain and returns what follows it: padding, in a decrypted message (RFC 2409 appendix B).
    ///
    /// # Errors
    /// The first fault in the chain or in a payload.
    pub fn parse(first: u8, bytes: &'a [u8]) -> Result<(Self, &'a [u8]), InvalidMessage> {
        let (chain, padding) = Chain::parse_v1(first, bytes)?;
        Ok((Self::check(chain)?, padding))
    }

    fn check(chain: Chain<'a>) -> Result<Self, InvalidMessage> {
        for raw in &chain {
            Payload::parse(raw)?;
        }
        Ok(Self { chain })
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
}

/// One payload, interpreted.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// SA.
    Sa(SaView<'a>),
    /// KE.
    KeyExchange(KeyExchange<'a>),
    /// ID.
    Identification(Identification<'a>),
    /// CERT.
    Certificate(Certificate<'a>),
    /// CR.
    CertRequest(CertRequest<'a>),
    /// HASH.
    Hash(Hash<'a>),
    /// SIG.
    Signature(Signature<'a>),
    /// NONCE.
    Nonce(Nonce<'a>),
    /// N.
    Notify(Notify<'a>),
    /// D.
    Delete(Delete<'a>),
    /// VID.
    VendorId(VendorId<'a>),
    /// Attributes of mode config and XAUTH.
    Attributes(AttributesPayload<'a>),
    /// A GSS-API token.
    GssToken(GssToken<'a>),
    /// NAT-D.
    NatDetection(NatDetection<'a>),
    /// NAT-OA.
    NatOriginalAddress(NatOriginalAddress),
    /// A fragment of a whole message.
    Fragment(Fragment<'a>),
    /// A type this engine does not know, IKEv2's among them.
    Unknown(RawPayload<'a>),
}

impl<'a> Payload<'a> {
    /// Interprets one payload.
    ///
    /// # Errors
    /// What is wrong with its body.
    pub fn parse(raw: RawPayload<'a>) -> Result<Self, InvalidMessage> {
        let body = raw.body;
        Ok(match PayloadType::from_number(raw.number) {
            PayloadType::Sa => Self::Sa(SaView::parse(body)?),
            PayloadType::KeyExchange => Self::KeyExchange(KeyExchange { data: body }),
            PayloadType::Identification => Self::Identification(Identification::parse(body)?),
            PayloadType::Certificate => Self::Certificate(Certificate::parse(body)?),
            PayloadType::CertRequest => Self::CertRequest(CertRequest::parse(body)?),
            PayloadType::Hash => Self::Hash(Hash { data: body }),
            PayloadType::Signature => Self::Signature(Signature { data: body }),
            PayloadType::Nonce => Self::Nonce(Nonce::new(body)?),
            PayloadType::Notify => Self::Notify(Notify::parse(body)?),
            PayloadType::Delete => Self::Delete(Delete::parse(body)?),
            PayloadType::VendorId => Self::VendorId(VendorId { data: body }),
            PayloadType::Attributes => Self::Attributes(AttributesPayload::parse(body)?),
            PayloadType::GssToken => Self::GssToken(GssToken::parse(body)?),
            PayloadType::NatDetection | PayloadType::NatDetectionDraft => {
                Self::NatDetection(NatDetection { hash: body })
            }
            PayloadType::NatOriginalAddress | PayloadType::NatOriginalAddressDraft => {
                Self::NatOriginalAddress(NatOriginalAddress::parse(body)?)
            }
            PayloadType::Fragment => Self::Fragment(Fragment::parse(body)?),
            PayloadType::Unknown(_) => Self::Unknown(raw),
        })
    }
}
