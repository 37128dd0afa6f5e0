//! What IKE_AUTH needs for certificates on either side: CERT and CERTREQ payloads, and the jobs that sign and check
//! (RFC 7296 §3.6 to §3.8, RFC 7427).

use super::fault::Fault;
use super::sa::Head;
use crate::certificate::{
    Certificate, Credentials, KEY_HASH_LEN, MAX_PRESENTED, PublicKey, SignatureHashes, Signing,
    Untrusted, Verification, from_auth, to_auth,
};
use crate::config::{AuthMethod as Method, Config, Connection, Identity, SendCertificate};
use crate::context::Cx;
use crate::crypto::{SignatureScheme, SignedOctets};
use crate::event::Level;
use crate::message::v2::{
    Authentication, CertRequest, Certificate as CertPayload, Payload, Payloads,
};
use crate::message::{AuthMethod, CertEncoding, PayloadList};
use std::sync::Arc;

/// Hashes that are kept of a peer's CERTREQ: more authorities than any real peer names, and 5 KB at most.
const MAX_REQUESTED: usize = 256;

/// Hashes that we send in the answer to a stranger's first message. With more authorities the list is left empty, which asks
/// for any certificate, so that the answer stays about as large as the question.
const MAX_ASKED: usize = 16;

/// What is logged when we cannot sign.
pub(crate) const NO_KEY: &str = "no private key for a certificate of ours that the peer can check";

/// The certificates that a peer asks for.
#[derive(Default)]
pub(crate) struct Requested {
    /// It asks at all.
    pub(crate) asked: bool,
    /// Hashes of authorities' keys.
    pub(crate) authorities: Vec<[u8; KEY_HASH_LEN]>,
}

/// Reads the CERTREQ payloads.
pub(crate) fn requested(payloads: &Payloads<'_>) -> Requested {
    let mut requested = Requested::default();
    for payload in payloads.iter() {
        if let Payload::CertRequest(request) = payload
            && request.encoding == CertEncoding::X509Signature
        {
            requested.asked = true;
            let room = MAX_REQUESTED.saturating_sub(requested.authorities.len());
            requested.authorities.extend(request.hashes().take(room));
        }
    }
    requested
}

/// Asks for certificates of the authorities that these connections trust; for none when no peer of theirs has one.
pub(crate) fn push_requests<'a>(
    list: &mut PayloadList,
    config: &Config,
    connections: impl IntoIterator<Item = &'a Connection>,
) {
    let mut hashes: Vec<[u8; KEY_HASH_LEN]> = Vec::new();
    let mut asks = false;
    for connection in connections {
        let remote = &connection.remote;
        if remote.method != Method::Pubkey || !connection.request_certificate {
            continue;
        }
        asks = true;
        let trusted = match remote.authorities.is_empty() {
            true => &config.credentials.authorities,
            false => &remote.authorities,
        };
        for authority in trusted {
            // One over the bound shows that there are too many.
            if hashes.len() <= MAX_ASKED && !hashes.contains(authority.key_hash()) {
                hashes.push(*authority.key_hash());
            }
        }
    }
    if hashes.len() > MAX_ASKED {
        hashes.clear();
    }
    if asks {
        let authorities = hashes.as_flattened();
        list.push(&CertRequest { encoding: CertEncoding::X509Signature, authorities });
    }
}

/// Our AUTH payload, with what goes with it.
pub(crate) struct OwnAuth {
    method: AuthMethod,
    data: Vec<u8>,
    certificates: Vec<Arc<Certificate>>,
}

impl OwnAuth {
    pub(crate) const fn shared_key(data: Vec<u8>) -> Self {
        Self { method: AuthMethod::SharedKey, data, certificates: Vec::new() }
    }

    /// The CERT payloads, which go behind the identity.
    pub(crate) fn push_certificates(&self, list: &mut PayloadList) {
        for certificate in &self.certificates {
            let encoding = CertEncoding::X509Signature;
            list.push(&CertPayload { encoding, data: certificate.der() });
        }
    }

    pub(crate) fn push(&self, list: &mut PayloadList) {
        list.push(&Authentication { method: self.method, data: &self.data });
    }
}

/// A signature of ours under way: what makes an AUTH payload of it.
pub(crate) struct Signature {
    scheme: SignatureScheme,
    key: PublicKey,
    certificates: Vec<Arc<Certificate>>,
}

impl Signature {
    pub(crate) fn auth(self, made: &[u8]) -> Option<OwnAuth> {
        let (method, data) = to_auth(self.scheme, self.key, made)?;
        Some(OwnAuth { method, data, certificates: self.certificates })
    }
}

/// Chooses our certificate and how to sign; `None` when there is none that will do.
pub(crate) fn signing(
    cx: &Cx<'_>,
    connection: &Connection,
    id: &Identity,
    requested: &Requested,
    peer: SignatureHashes,
    octets: SignedOctets,
) -> Option<(Signing, Signature)> {
    let credentials = &cx.config.credentials;
    let local = &connection.local;
    let (own, key) = credentials.own(local, id, &requested.authorities)?;
    let certificates = to_send(credentials, connection, own, requested);
    let signing = Signing::new(key, peer, &local.requirement, octets)?;
    let signature =
        Signature { scheme: signing.scheme, key: signing.key.public_key(), certificates };
    Some((signing, signature))
}

/// What goes into CERT payloads: our certificate and what is between it and a root, or nothing.
pub(crate) fn to_send(
    credentials: &Credentials,
    connection: &Connection,
    own: Arc<Certificate>,
    requested: &Requested,
) -> Vec<Arc<Certificate>> {
    let send = match connection.send_certificate {
        SendCertificate::IfAsked => requested.asked,
        SendCertificate::Always => true,
        SendCertificate::Never => false,
    };
    if !send {
        return Vec::new();
    }
    let chain = credentials.chain(&own);
    core::iter::once(own).chain(chain).collect()
}

/// What is to be checked of a peer that says it is `id`.
pub(crate) fn verification(
    cx: &Cx<'_>,
    connection: &Connection,
    id: &Identity,
    payloads: &Payloads<'_>,
    auth: &Authentication<'_>,
    octets: SignedOctets,
) -> Result<Verification, Fault> {
    let (scheme, signature) = from_auth(auth.method, auth.data).ok_or(Fault::Authentication)?;
    let presented = payloads.iter().filter_map(|payload| match payload {
        Payload::Certificate(c) if c.encoding == CertEncoding::X509Signature => {
            Some(c.data.to_vec())
        }
        _ => None,
    });
    Ok(Verification {
        id: id.clone(),
        scheme,
        signature: signature.to_vec(),
        octets,
        presented: presented.take(MAX_PRESENTED).collect(),
        round: connection.remote.clone(),
        credentials: Arc::clone(&cx.config.credentials),
    })
}

/// Says why a peer was not believed; it is told no more than that it was not.
pub(crate) fn log(head: &Head, cx: &mut Cx<'_>, reason: Untrusted) {
    let (name, remote) = (&head.connection.name, head.path.remote);
    cx.log(Level::Warn, format!("IKE_SA {name}[{}] {remote}: {reason}", head.id.0));
}
