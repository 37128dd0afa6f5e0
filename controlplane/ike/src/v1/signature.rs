//! Main mode with signatures (RFC 2409 §5.1, RFC 4754 §3): the method, CERT and CR payloads, and the jobs that sign and check.

use super::authenticate;
use super::kerberos;
use super::phase1::Phase1;
use super::suite::{Method, Suite};
use crate::certificate::{Certificate, MAX_PRESENTED, PublicKey, Signing, Verification};
use crate::config::{AuthMethod, Config, Connection, Identity, Xauth};
use crate::context::Cx;
use crate::crypto::v1::{Skeyid, V1Keys};
use crate::crypto::{SignatureScheme, SignedOctets};
use crate::event::Path;
use crate::identity::Fit;
use crate::message::v1::{
    CertRequest, Certificate as CertPayload, Identification, Payload, Payloads, Signature,
};
use crate::message::{CertEncoding, PayloadList};
use crate::proposal::Chosen;
use crate::v2::auth::local_id;
use crate::v2::fault::Fault;
use crate::v2::prove::{self, Requested};
use crate::view::Role;
use keyexchange::SharedSecret;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Authorities that one message asks for by name; with more, any is asked for.
const MAX_ASKED: usize = 4;

/// How a connection authenticates in IKEv1 where we have this role, alike on both sides but for hybrid authentication; `None`
/// when it cannot: mixed methods, or no key that IKEv1 has a method for.
pub(super) fn method(
    config: &Config,
    connection: &Connection,
    path: Path,
    role: Role,
) -> Option<Method> {
    // Which side is asked for name and password.
    let user = match connection.xauth {
        Some(Xauth::Answer { .. }) => Some(role),
        Some(Xauth::Ask) => Some(role.other()),
        None => None,
    };
    match (connection.local.method, connection.remote.method, user) {
        (AuthMethod::Psk, AuthMethod::Psk, None) => Some(Method::Psk),
        (AuthMethod::Psk, AuthMethod::Psk, Some(user)) => Method::Psk.with_xauth(user),
        (AuthMethod::Pubkey, AuthMethod::Pubkey, None) => by_own_key(config, connection, path),
        (AuthMethod::Pubkey, AuthMethod::Pubkey, Some(user)) => {
            by_own_key(config, connection, path)?.with_xauth(user)
        }
        // Hybrid authentication: the gateway has a certificate, the user none.
        (AuthMethod::Pubkey, AuthMethod::Xauth, Some(user)) => {
            let own = by_own_key(config, connection, path)?;
            (own == Method::Rsa).then_some(Method::HybridRsa(user))
        }
        (AuthMethod::Xauth, AuthMethod::Pubkey, Some(user)) => Some(Method::HybridRsa(user)),
        (AuthMethod::Kerberos, AuthMethod::Kerberos, None) => (config.mechanism.is_some()
            && kerberos::is_meant(connection))
        .then_some(Method::Kerberos),
        _ => None,
    }
}

fn by_own_key(config: &Config, connection: &Connection, path: Path) -> Option<Method> {
    let id = local_id(connection, path);
    let (own, _) = config.credentials.own(&connection.local, &id, &[])?;
    match own.public_key() {
        PublicKey::Rsa(_) => Some(Method::Rsa),
        PublicKey::P256 => Some(Method::Ecdsa256),
        PublicKey::P384 => Some(Method::Ecdsa384),
        PublicKey::P521 => Some(Method::Ecdsa521),
        PublicKey::Ed25519 | PublicKey::Other => None,
    }
}

/// The keys of phase 1, which do not depend on who the peer is.
pub(super) fn derive(
    suite: &Suite,
    phase1: &Phase1,
    shared: &SharedSecret,
) -> Result<V1Keys, Fault> {
    let shared = shared.as_bytes();
    let skeyid = Skeyid::from_exchange(suite.hash.prf(), &phase1.ni, &phase1.nr, shared)?;
    Ok(skeyid.derive(shared, phase1.cookies.i, phase1.cookies.r)?)
}

/// The CR payloads of a message. An authority is known by its name here, and by its key in IKEv2.
pub(super) fn requested(config: &Config, payloads: &Payloads<'_>) -> Requested {
    let mut requested = Requested::default();
    for payload in payloads.iter() {
        let Payload::CertRequest(request) = payload else { continue };
        if request.encoding != CertEncoding::X509Signature {
            continue;
        }
        requested.asked = true;
        let known = config.credentials.authorities.iter();
        let named = known.filter(|c| c.subject() == Identity::Dn(request.authority.to_vec()));
        // No more than there are authorities of ours.
        for authority in named {
            if !requested.authorities.contains(authority.key_hash()) {
                requested.authorities.push(*authority.key_hash());
            }
        }
    }
    requested
}

/// Asks for a certificate of the peer's.
pub(super) fn push_request(list: &mut PayloadList, config: &Config, connection: &Connection) {
    let remote = &connection.remote;
    if remote.method != AuthMethod::Pubkey || !connection.request_certificate {
        return;
    }
    let trusted = match remote.authorities.is_empty() {
        true => &config.credentials.authorities,
        false => &remote.authorities,
    };
    let encoding = CertEncoding::X509Signature;
    if trusted.is_empty() || trusted.len() > MAX_ASKED {
        list.push(&CertRequest { encoding, authority: &[] });
        return;
    }
    for authority in trusted {
        if let Identity::Dn(authority) = authority.subject() {
            list.push(&CertRequest { encoding, authority: &authority });
        }
    }
}

/// Our signature of a HASH, with what goes before it.
pub(super) struct Own {
    pub(super) certificates: Vec<Arc<Certificate>>,
}

impl Own {
    /// CERT payloads and SIG.
    pub(super) fn push(&self, list: &mut PayloadList, signature: &[u8]) {
        for certificate in &self.certificates {
            let encoding = CertEncoding::X509Signature;
            list.push(&CertPayload { encoding, data: certificate.der() });
        }
        list.push(&Signature { data: signature });
    }
}

/// The job that signs a HASH of ours; `None` without a key for it.
pub(super) fn signing(
    cx: &Cx<'_>,
    connection: &Connection,
    id: &Identity,
    requested: &Requested,
    hash: Zeroizing<Vec<u8>>,
) -> Option<(Signing, Own)> {
    let credentials = &cx.config.credentials;
    let (own, key) = credentials.own(&connection.local, id, &requested.authorities)?;
    let scheme = key.scheme_v1()?;
    let certificates = prove::to_send(credentials, connection, own, requested);
    Some((Signing { key, scheme, octets: SignedOctets::from_hash(hash) }, Own { certificates }))
}

/// ID and SIG of a fifth or sixth message.
pub(super) struct Signed<'a> {
    pub(super) id: Identification<'a>,
    signature: &'a [u8],
}

/// `None` where one of them is missing.
pub(super) fn signed<'a>(payloads: &Payloads<'a>) -> Option<Signed<'a>> {
    let id = payloads.iter().find_map(|payload| match payload {
        Payload::Identification(id) => Some(id),
        _ => None,
    });
    signed_by(payloads, id?)
}

/// The same of a message whose sender has said before who it is.
pub(super) fn signed_by<'a>(payloads: &Payloads<'a>, id: Identification<'a>) -> Option<Signed<'a>> {
    let signature = payloads.iter().find_map(|payload| match payload {
        Payload::Signature(payload) => Some(payload.data),
        _ => None,
    });
    Some(Signed { id, signature: signature? })
}

/// What is to be checked of a peer that says it is `id` and signed `hash`.
pub(super) fn verification(
    cx: &Cx<'_>,
    connection: &Connection,
    method: Method,
    id: &Identity,
    payloads: &Payloads<'_>,
    signed: &Signed<'_>,
    hash: Zeroizing<Vec<u8>>,
) -> Option<Verification> {
    // The method says which curve, and so how long a signature is (RFC 4754 §7).
    let scheme = match (method, signed.signature.len()) {
        (Method::Rsa | Method::XauthRsa(_) | Method::HybridRsa(_), _) => SignatureScheme::RsaRaw,
        (Method::Ecdsa256, 64) | (Method::Ecdsa384, 96) | (Method::Ecdsa521, 132) => {
            SignatureScheme::EcdsaRaw
        }
        _ => return None,
    };
    let presented = payloads.iter().filter_map(|payload| match payload {
        Payload::Certificate(c) if c.encoding == CertEncoding::X509Signature => {
            Some(c.data.to_vec())
        }
        _ => None,
    });
    Some(Verification {
        id: id.clone(),
        scheme,
        signature: signed.signature.to_vec(),
        octets: SignedOctets::from_hash(hash),
        presented: presented.take(MAX_PRESENTED).collect(),
        round: connection.remote.clone(),
        credentials: Arc::clone(&cx.config.credentials),
    })
}

/// The connection for a peer that says it is `remote_id`, and who we are on it.
pub(super) fn connection_for(
    cx: &Cx<'_>,
    path: Path,
    chosen: &Chosen,
    wanted: Method,
    remote_id: &Identity,
) -> Option<(Arc<Connection>, Identity)> {
    let mut best: Option<(Fit, &Arc<Connection>)> = None;
    for connection in &cx.config.connections {
        let usable = authenticate::connects(connection, path)
            && !connection.aggressive
            && connection.proposals.iter().any(|p| p.allows(chosen))
            && method(cx.config, connection, path, Role::Responder) == Some(wanted);
        let fit = connection.remote.id.covers(remote_id);
        if usable && fit != Fit::No && best.is_none_or(|(known, _)| fit > known) {
            best = Some((fit, connection));
        }
    }
    let (_, connection) = best?;
    Some((Arc::clone(connection), local_id(connection, path)))
}
