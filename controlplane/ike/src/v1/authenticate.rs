//! Which preshared key, and whose identity (RFC 2409 §5, §5.4).
//!
//! With preshared keys the key must be known before the peer's identity can be read. A connection that names its peer
//! has one key; one for `%any` may have several, which are tried: a wrong one shows itself by a HASH that is not right.

use super::phase1::{Beside, Phase1};
use super::sa::Verified;
use super::session::{Opened, Sealer};
use super::signature;
use super::suite::Suite;
use crate::config::{Config, Connection, Identity, Psk, Unique, Version};
use crate::context::Cx;
use crate::crypto::v1::{Iv, Skeyid, V1Keys};
use crate::event::Path;
use crate::identity::{self, Fit};
use crate::message::v1::{self, Identification, Payload, Payloads};
use crate::message::{Emit, v2};
use crate::v2::auth::local_id;
use crate::v2::fault::{Fault, Misbehaved};
use crate::v2::respond::covers;
use crate::view::Role;
use keyexchange::SharedSecret;
use std::sync::Arc;

/// Keys that are tried for one message of a peer whose identity is not known yet. Each costs some ten HMACs, all of them
/// less than the key exchange before them.
const MAX_TRIALS: usize = 16;

/// Whether an IKEv1 connection is for a pair of addresses.
pub(crate) fn connects(connection: &Connection, path: Path) -> bool {
    connection.version == Version::Ikev1 && covers(connection, path)
}

/// The key of two identities, or else of the addresses they have: what a peer that names its keys by address means.
pub(crate) fn psk_for<'a>(
    config: &'a Config,
    local: &Identity,
    remote: &Identity,
    path: Path,
) -> Option<&'a Psk> {
    identity::psk(&config.psks, local, remote).or_else(|| {
        let (local, remote) = (path.local.ip(), path.remote.ip());
        identity::psk(&config.psks, &Identity::Address(local), &Identity::Address(remote))
    })
}

/// An identity that names one peer: not `%any`, no pattern.
fn is_exact(id: &Identity) -> bool {
    match id {
        Identity::Any => false,
        Identity::Fqdn(name) | Identity::Email(name) => !name.starts_with('*'),
        Identity::Address(_) | Identity::Dn(_) | Identity::KeyId(_) => true,
    }
}

/// The keys that a connection's peer may have, the likeliest first.
fn keys_of<'a>(config: &'a Config, connection: &Connection, path: Path) -> Vec<&'a Psk> {
    let local = local_id(connection, path);
    let remote = &connection.remote.id;
    let named = if is_exact(remote) {
        psk_for(config, &local, remote, path)
    } else {
        psk_for(config, &local, &Identity::Address(path.remote.ip()), path)
    };
    let others = config.psks.iter().filter(|_| !is_exact(remote));
    named.into_iter().chain(others).collect()
}

/// Whether a responder could authenticate anyone on this connection.
pub(crate) fn has_key(config: &Config, connection: &Connection, path: Path) -> bool {
    !keys_of(config, connection, path).is_empty()
}

/// Derives the keys of phase 1 from a preshared key.
pub(crate) fn derive(
    suite: &Suite,
    psk: &Psk,
    phase1: &Phase1,
    shared: &SharedSecret,
) -> Result<V1Keys, Fault> {
    let prf = suite.hash.prf();
    let skeyid = Skeyid::from_psk(prf, psk.secret.expose(), &phase1.ni, &phase1.nr)?;
    Ok(skeyid.derive(shared.as_bytes(), phase1.cookies.i, phase1.cookies.r)?)
}

/// The identity of an ID payload of phase 1. Port and protocol are nothing or UDP 500, or 4500 behind a NAT
/// (RFC 2407 §4.6.2, RFC 3947 §4).
pub(crate) fn identity(id: &Identification<'_>) -> Option<Identity> {
    if !matches!((id.protocol, id.port), (0 | 17, 0 | 500 | 4500)) {
        return None;
    }
    Identity::from_wire(&v2::Identification { kind: id.kind, data: id.data })
}

/// A received ID payload by its body.
pub(super) fn id_view(body: &[u8]) -> Option<Identification<'_>> {
    Identification::parse(body).ok()
}

/// ID and HASH of a fifth or sixth message.
pub(crate) struct Proof<'a> {
    pub(crate) id: Identification<'a>,
    pub(crate) hash: &'a [u8],
}

pub(crate) fn proof<'a>(payloads: &Payloads<'a>) -> Result<Proof<'a>, Fault> {
    let (mut id, mut hash) = (None, None);
    for payload in payloads.iter() {
        match payload {
            Payload::Identification(payload) => id = Some(payload),
            Payload::Hash(payload) => hash = Some(payload.data),
            _ => {}
        }
    }
    let missing = Fault::Misbehaved(Misbehaved::Missing);
    Ok(Proof { id: id.ok_or(missing)?, hash: hash.ok_or(missing)? })
}

/// Our ID payload.
pub(crate) fn id_payload(identity: &Identity) -> Option<Vec<u8>> {
    let (kind, data) = identity.to_wire()?;
    Some(v1::Identification { kind, protocol: 0, port: 0, data: &data }.body())
}

/// A fifth message that was understood.
pub(super) struct Authenticated {
    pub(super) keys: V1Keys,
    pub(super) sealer: Sealer,
    /// The vector of the answer.
    pub(super) next: Iv,
    pub(super) verified: Verified,
    pub(super) connection: Arc<Connection>,
}

/// Why a fifth message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// No key makes sense of it.
    Undecipherable,
    /// It can be read, and the peer is not who it says.
    Identity,
    /// The library failed.
    Library,
}

/// Responder: tries the keys that may be the peer's on its fifth message.
pub(super) fn fifth_message(
    cx: &Cx<'_>,
    path: Path,
    suite: &Suite,
    phase1: &Phase1,
    shared: &SharedSecret,
    (first, ciphertext, iv): (u8, &[u8], Iv),
) -> Result<Authenticated, Refused> {
    let chosen = suite.chosen();
    let fits = |c: &&Arc<Connection>| {
        connects(c, path)
            && !c.aggressive
            && signature::method(cx.config, c, path, Role::Responder) == Some(suite.method)
            && c.proposals.iter().any(|p| p.allows(&chosen))
    };
    let connections: Vec<&Arc<Connection>> = cx.config.connections.iter().filter(fits).collect();
    let mut trials: Vec<&Psk> = Vec::new();
    for psk in connections.iter().flat_map(|c| keys_of(cx.config, c, path)) {
        let known = trials.iter().any(|trial| core::ptr::eq(*trial, psk));
        if !known && trials.len() < MAX_TRIALS {
            trials.push(psk);
        }
    }
    let mut refused = Refused::Undecipherable;
    for psk in trials {
        let keys = derive(suite, psk, phase1, shared).map_err(|_| Refused::Library)?;
        let sealer = Sealer::new(suite, &keys).map_err(|_| Refused::Library)?;
        let Some(opened) = sealer.open(first, ciphertext, iv) else { continue };
        match read(cx, path, phase1, &connections, psk, &keys, &opened) {
            Ok((connection, verified)) => {
                return Ok(Authenticated { keys, sealer, next: opened.next, verified, connection });
            }
            Err(Refused::Undecipherable) => {}
            Err(other) => refused = other,
        }
    }
    Err(refused)
}

fn read(
    cx: &Cx<'_>,
    path: Path,
    phase1: &Phase1,
    connections: &[&Arc<Connection>],
    psk: &Psk,
    keys: &V1Keys,
    opened: &Opened,
) -> Result<(Arc<Connection>, Verified), Refused> {
    let payloads = opened.payloads().map_err(|_| Refused::Undecipherable)?;
    let proof = proof(&payloads).map_err(|_| Refused::Undecipherable)?;
    let right = keys
        .skeyid
        .verify(&phase1.of_initiator(&proof.id.body()), proof.hash)
        .map_err(|_| Refused::Library)?;
    if !right {
        return Err(Refused::Identity);
    }
    let remote_id = identity(&proof.id).ok_or(Refused::Identity)?;
    let mut best: Option<(Fit, &Arc<Connection>, Identity)> = None;
    for connection in connections {
        let local = local_id(connection, path);
        // The key is the one of these two identities, not merely one that somebody has.
        let own = psk_for(cx.config, &local, &remote_id, path);
        if !own.is_some_and(|own| core::ptr::eq(own, psk)) {
            continue;
        }
        let fit = connection.remote.id.covers(&remote_id);
        if fit != Fit::No && best.as_ref().is_none_or(|(known, ..)| fit > *known) {
            best = Some((fit, connection, local));
        }
    }
    let (_, connection, local_id) = best.ok_or(Refused::Identity)?;
    let verified = Verified { local_id, remote_id, beside: Beside::read(&payloads) };
    if is_kept_out(cx, connection, &verified) {
        return Err(Refused::Identity);
    }
    Ok((Arc::clone(connection), verified))
}

/// `unique = keep`: whether the peer has an SA that it does not say it has lost.
pub(super) fn is_kept_out(cx: &Cx<'_>, connection: &Connection, verified: &Verified) -> bool {
    !verified.beside.initial_contact
        && keeps_out(cx, connection, &verified.local_id, &verified.remote_id)
}

/// `unique = keep`: whether there is an SA between the two already.
pub(super) fn keeps_out(
    cx: &Cx<'_>,
    connection: &Connection,
    local: &Identity,
    remote: &Identity,
) -> bool {
    connection.unique == Unique::Keep
        && cx
            .registry
            .known
            .of(remote)
            .any(|(_, known)| known.connection == connection.name && known.local == *local)
}
