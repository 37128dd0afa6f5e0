//! What both sides of main mode by GSS-API share: names, tokens and hashes (draft-ietf-ipsec-isakmp-gss-auth-07).
//!
//! ```text
//!  HDR, SA with GIi              -->
//!                                <--   HDR, SA with GIr
//!  HDR, KE, Ni, GSSi, NAT-D      -->
//!                                <--   HDR, KE, Nr, GSSr, NAT-D
//!  HDR*, IDii, GSSi(n) or HASH_I -->
//!                                <--   HDR*, IDir, GSSr(n) or HASH_R
//!  HDR*, GSSi(n) or HASH_I       -->            where the first pair were tokens
//!                                <--   HDR*, GSSr(n) or HASH_R
//! ```
//!
//! SKEYID is the one of signatures. The HASHes cover the names and all tokens, and are wrapped by the mechanism: who can
//! wrap is who the ticket says. The initiator sends HASH_I first, so that both sides send as many tokens; a mechanism
//! whose last token is the initiator's is not spoken (Kerberos takes two, RFC 4121).

use super::phase1::Phase1;
use crate::config::{AuthMethod, Connection, Identity};
use crate::context::Cx;
use crate::crypto::CryptoFailure;
use crate::crypto::v1::V1Keys;
use crate::event::{Failure, Level, Path};
use crate::gss::{Act, MAX_NAME, MAX_TOKEN, Passed, Talk, Whose};
use crate::job::{Product, Work};
use crate::message::PayloadList;
use crate::message::v1::{
    Attribute, AttributeType, AttributeValue, Attributes, GssToken, Payload, Payloads, Proposal,
};
use crate::v2::sa::Head;
use keyexchange::KeyExchangeError;
use std::sync::Arc;
use std::time::Instant;
use zeroize::Zeroizing;

/// Transforms of an offer that carries a name in each: a message that fits a packet or two.
const MAX_NAMED: usize = 8;

/// Tokens of one side. Kerberos takes one, two where clocks differ.
pub(super) const MAX_TOKENS: usize = 6;

/// Octets of all tokens of one side that a peer may make us keep. With 500 such peers at once it is 16 MiB.
const MAX_KEPT: usize = 32 * 1024;

/// The vendor encoding octet before a token.
const VENDOR: u8 = 0;

/// A Kerberos principal, `machine@REALM`, as an identity of the configuration has it.
pub(super) fn principal(id: &Identity) -> Option<&str> {
    match id {
        Identity::Email(name) => Some(name),
        _ => None,
    }
}

/// Whether a connection's identity means a principal. Unlike mail addresses, principals differ by case.
pub(super) fn allows(id: &Identity, peer: &str) -> bool {
    match id {
        Identity::Any => true,
        Identity::Email(pattern) => match pattern.strip_prefix('*') {
            Some(tail) => peer.len() > tail.len() && peer.ends_with(tail),
            None => pattern == peer,
        },
        _ => false,
    }
}

/// Whether an ID payload says what the ticket says, or merely where it comes from, as Windows does it.
pub(super) fn agrees(id: &Identity, peer: &str, path: Path) -> bool {
    match id {
        Identity::Email(name) => name == peer,
        Identity::Address(address) => *address == path.remote.ip(),
        _ => false,
    }
}

/// Whether both sides of a connection authenticate so, and we have a name.
pub(super) fn is_meant(connection: &Connection) -> bool {
    let methods = [connection.local.method, connection.remote.method];
    methods == [AuthMethod::Kerberos; 2] && principal(&connection.local.id).is_some()
}

/// A name as Windows has it on the wire: UTF-16, little-endian.
pub(super) fn encode_name(name: &str) -> Vec<u8> {
    name.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// `None` for what is no text, or a name with octets that no name has.
pub(super) fn decode_name(octets: &[u8]) -> Option<String> {
    let (pairs, []) = octets.as_chunks::<2>() else { return None };
    let units = pairs.iter().map(|pair| u16::from_le_bytes(*pair));
    let name: String = char::decode_utf16(units).collect::<Result<_, _>>().ok()?;
    let plain = !name.is_empty() && !name.chars().any(char::is_control);
    plain.then_some(name)
}

/// Puts our name into every transform of an offer of ours.
pub(super) fn name_offer(proposal: &mut Proposal, name: &[u8]) {
    proposal.transforms.truncate(MAX_NAMED);
    for transform in &mut proposal.transforms {
        push_name(&mut transform.attributes, name);
    }
}

fn push_name(attributes: &mut Vec<u8>, name: &[u8]) {
    let kind = AttributeType::GssIdentityName.number();
    Attribute { kind, value: AttributeValue::Variable(name) }.emit(attributes);
}

/// The name in the one transform of an answer.
pub(super) fn name_in(proposal: &Proposal) -> Option<Vec<u8>> {
    name_of(&Attributes::parse(&proposal.transforms.first()?.attributes).ok()?)
}

/// The name in a transform.
pub(super) fn name_of(attributes: &Attributes<'_>) -> Option<Vec<u8>> {
    attributes.iter().find_map(|attribute| match attribute.value {
        AttributeValue::Variable(name)
            if attribute.kind == AttributeType::GssIdentityName.number() =>
        {
            (name.len() <= MAX_NAME).then(|| name.to_vec())
        }
        _ => None,
    })
}

/// The answer with our name in place of the initiator's: it is the one attribute that a responder does not repeat.
pub(super) fn name_answer(proposal: &mut Proposal, name: &[u8]) {
    for transform in &mut proposal.transforms {
        let Ok(offered) = Attributes::parse(&transform.attributes) else { continue };
        let mut attributes = Vec::new();
        for attribute in offered.iter() {
            if attribute.kind == AttributeType::GssIdentityName.number() {
                push_name(&mut attributes, name);
            } else {
                attribute.emit(&mut attributes);
            }
        }
        transform.attributes = attributes;
    }
}

/// The token of a message.
pub(super) fn token_of<'a>(payloads: &Payloads<'a>) -> Option<&'a [u8]> {
    let mut tokens = payloads.iter().filter_map(|payload| match payload {
        Payload::GssToken(token) => Some(token.data),
        _ => None,
    });
    let token = tokens.next()?;
    (tokens.next().is_none() && token.len() <= MAX_TOKEN).then_some(token)
}

pub(super) fn push_token(list: &mut PayloadList, token: &[u8]) {
    list.push(&GssToken { vendor: VENDOR, data: token });
}

/// One side's name, and the tokens it sent, one after the other.
pub(super) struct Side {
    pub(super) name: Vec<u8>,
    tokens: Vec<u8>,
    count: usize,
}

impl Side {
    pub(super) const fn new(name: Vec<u8>) -> Self {
        Self { name, tokens: Vec::new(), count: 0 }
    }

    /// Keeps a token for the HASH; `None` when they are too many.
    pub(super) fn add(&mut self, token: &[u8]) -> Option<()> {
        let fits = self.count < MAX_TOKENS && self.tokens.len() + token.len() <= MAX_KEPT;
        if !fits || token.is_empty() {
            return None;
        }
        self.count += 1;
        self.tokens.extend_from_slice(token);
        Some(())
    }

    /// prf(SKEYID, … | IDii_b | GIi | GSSi | GSSi(n)…), the initiator's before it is wrapped.
    pub(super) fn hash_i(
        &self,
        keys: &V1Keys,
        phase1: &Phase1,
        id: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoFailure> {
        self.hash(keys, phase1.of_initiator(id))
    }

    /// prf(SKEYID, … | IDir_b | GIr | GSSr | GSSr(n)…), the responder's before it is wrapped.
    pub(super) fn hash_r(
        &self,
        keys: &V1Keys,
        phase1: &Phase1,
        id: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoFailure> {
        self.hash(keys, phase1.of_responder(id))
    }

    fn hash(
        &self,
        keys: &V1Keys,
        [first, second, third, fourth, sa, id]: [&[u8]; 6],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoFailure> {
        let parts = [first, second, third, fourth, sa, id, &self.name, &self.tokens];
        keys.skeyid.hash(&parts)
    }
}

/// A job under way, and until when it is waited for.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    pub(super) job: u64,
    pub(super) until: Instant,
}

/// Has the mechanism do something; `None` without one.
pub(super) fn ask(
    head: &Head,
    cx: &mut Cx<'_>,
    whose: Whose,
    act: Act,
    wrap: Option<Zeroizing<Vec<u8>>>,
) -> Option<Waiting> {
    let mechanism = Arc::clone(cx.config.mechanism.as_ref()?);
    let until = cx.now + cx.config.settings.gss_timeout;
    let work = Work::Gss(Box::new(Talk { mechanism, whose, act, wrap, until }));
    Some(Waiting { job: cx.job(head.id, false, work), until })
}

/// What a job came to.
pub(super) type Said = Result<Product, KeyExchangeError>;

/// What the mechanism did. A refusal is a failed authentication: the other is not who it says, or we have no ticket.
pub(super) fn passed(head: &Head, cx: &mut Cx<'_>, result: Said) -> Result<Box<Passed>, Failure> {
    match result {
        Ok(Product::Gss(Ok(passed))) => Ok(passed),
        Ok(Product::Gss(Err(reason))) => {
            log(head, cx, &reason);
            Err(Failure::Authentication)
        }
        _ => Err(Failure::Local),
    }
}

/// Logs why the mechanism refused.
fn log(head: &Head, cx: &mut Cx<'_>, reason: &crate::gss::Refused) {
    let name = &head.connection.name;
    let text = format!("IKE_SA {name}[{}] {}: Kerberos: {reason}", head.id.0, head.path.remote);
    cx.log(Level::Warn, text);
}
