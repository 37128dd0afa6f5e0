//! IKE_AUTH as initiator (RFC 7296 §1.2, §2.15).
//!
//! ```text
//! HDR, SK {IDi, [N(INITIAL_CONTACT),] [IDr,] AUTH, [SAi2, TSi, TSr]}  -->
//!                                      <--  HDR, SK {IDr, AUTH, [SAr2, TSi, TSr]}
//! ```

use super::child::ChildRequest;
use super::established::{Established, NewSa};
use super::fault::{Fault, Misbehaved};
use super::fragments::Reassembly;
use super::init::{self, Abilities, OwnNonce};
use super::keys::{AuthKeys, Keys};
use super::sa::{Head, State};
use super::task::{Queued, Task};
use super::window::{Due, Sent, digest_of};
use crate::config::{Connection, Identity, Unique};
use crate::context::Cx;
use crate::crypto::{CryptoFailure, SharedKeyAuth, SkP};
use crate::event::{Failure, Path};
use crate::identity::{self, Fit};
use crate::message::v2::{
    Authentication, Identification, IdentificationI, IdentificationR, Message, Notify, Payloads,
};
use crate::message::{AuthMethod, ExchangeType, Flags, Header, MessageId, NotifyType, PayloadList};
use crate::proposal::Chosen;
use crate::proposal::select::KeyExchangeUse;
use std::sync::Arc;

/// What IKE_SA_INIT left.
pub(crate) struct Begin {
    pub(crate) keys: Keys,
    pub(crate) auth_keys: AuthKeys,
    pub(crate) chosen: Chosen,
    pub(crate) abilities: Abilities,
    pub(crate) request: Vec<u8>,
    pub(crate) response: Vec<u8>,
    pub(crate) ni: OwnNonce,
    pub(crate) nr: Vec<u8>,
    pub(crate) tries: u32,
}

/// IKE_AUTH is on its way.
pub(crate) struct AuthSent {
    pub(crate) sent: Sent,
    pub(crate) begin: Begin,
    local_id: Identity,
    child: Option<ChildRequest>,
    pub(crate) reassembly: Reassembly,
}

/// Our identity on a connection; `%any` stands for the IKE address.
pub(crate) fn local_id(connection: &Connection, path: Path) -> Identity {
    match &connection.local.id {
        Identity::Any => Identity::Address(path.local.ip()),
        id => id.clone(),
    }
}

/// Sends IKE_AUTH with the first child that waits.
pub(crate) fn start(head: &mut Head, cx: &mut Cx<'_>, begin: Begin) -> State {
    let child = match take_child(head, cx) {
        Ok(child) => child,
        Err(reason) => return head.fail(cx, reason),
    };
    match send(head, cx, begin, child) {
        Ok(state) => state,
        Err((child, reason)) => {
            if let Some(child) = child {
                cx.spis.release(child.spi);
                head.acquired(cx, &child.config.name, Err(reason));
            }
            head.fail(cx, reason)
        }
    }
}

/// The first child that waits becomes part of IKE_AUTH; the others follow by CREATE_CHILD_SA.
fn take_child(head: &mut Head, cx: &mut Cx<'_>) -> Result<Option<ChildRequest>, Failure> {
    let at = head.tasks.iter().position(|q| matches!(q.task, Task::CreateChild { .. }));
    let Some(Queued { task: Task::CreateChild { config, packet }, .. }) =
        at.and_then(|at| head.tasks.remove(at))
    else {
        return Ok(None);
    };
    let name = config.name.clone();
    match ChildRequest::new(cx, head, config, packet.as_ref(), KeyExchangeUse::None, None) {
        Ok(mut child) => {
            child.acquired = true;
            Ok(Some(child))
        }
        Err(_) => {
            head.acquired(cx, &name, Err(Failure::Dataplane));
            Err(Failure::Dataplane)
        }
    }
}

type Unsent = (Option<ChildRequest>, Failure);

fn send(
    head: &mut Head,
    cx: &mut Cx<'_>,
    mut begin: Begin,
    child: Option<ChildRequest>,
) -> Result<State, Unsent> {
    let local_id = local_id(&head.connection, head.path);
    let remote_id = &head.connection.remote.id;
    let wire = local_id.to_wire();
    let Some((kind, data)) = &wire else { return Err((child, Failure::Local)) };
    let id = Identification { kind: *kind, data };
    // Without a configured peer identity its address decides which key is tried.
    let peer = match remote_id {
        Identity::Any => Identity::Address(head.path.remote.ip()),
        id => id.clone(),
    };
    let auth = psk_auth(
        cx,
        &local_id,
        &peer,
        &begin.auth_keys.initiator,
        &Signed {
            prf: begin.auth_keys.prf,
            message: &begin.request,
            nonce: &begin.nr,
            id: &id.body(),
        },
    );
    let auth = match auth {
        Ok(Some(auth)) => auth,
        Ok(None) => {
            head.info(cx, format_args!("no preshared key for the two identities"));
            return Err((child, Failure::Authentication));
        }
        Err(_) => return Err((child, Failure::Local)),
    };
    let mut list = PayloadList::new();
    list.push(&IdentificationI(id));
    let unknown = !cx
        .registry
        .known
        .values()
        .any(|known| known.local == local_id && remote_id.covers(&known.remote) == Fit::Exact);
    if head.connection.unique != Unique::Never && unknown {
        list.push(&Notify::new(NotifyType::InitialContact, &[]));
    }
    if let Some((kind, data)) = exact(remote_id).and_then(Identity::to_wire) {
        list.push(&IdentificationR(Identification { kind, data: &data }));
    }
    list.push(&Authentication { method: AuthMethod::SharedKey, data: &auth });
    if let Some(child) = &child {
        child.push_sa(&mut list);
        child.push_selectors(&mut list);
    }
    let header =
        Header::v2(head.spi_i, head.spi_r, ExchangeType::IkeAuth, Flags::INITIATOR, MessageId(1));
    let limit = begin.abilities.fragmentation.then_some(cx.config.settings.fragment_size);
    let Ok(datagrams) = begin.keys.seal(&header, &list, limit) else {
        return Err((child, Failure::Local));
    };
    for datagram in &datagrams {
        cx.transmit(head.path, datagram.clone());
    }
    let sent = Sent::new(cx.now, &cx.config.settings, 1, datagrams);
    let reassembly = Reassembly::default();
    Ok(State::AuthSent(Box::new(AuthSent { sent, begin, local_id, child, reassembly })))
}

/// An identity that names one peer: not `%any`, no pattern.
fn exact(id: &Identity) -> Option<&Identity> {
    match id {
        Identity::Fqdn(name) | Identity::Email(name) if name.starts_with('*') => None,
        id => Some(id),
    }
}

/// What one side signs.
pub(crate) struct Signed<'a> {
    pub(crate) prf: crate::crypto::Prf,
    pub(crate) message: &'a [u8],
    pub(crate) nonce: &'a [u8],
    pub(crate) id: &'a [u8],
}

/// The AUTH data of ours; `None` without a key.
pub(crate) fn psk_auth(
    cx: &Cx<'_>,
    local: &Identity,
    remote: &Identity,
    key: &SkP,
    signed: &Signed<'_>,
) -> Result<Option<Vec<u8>>, CryptoFailure> {
    let Some(psk) = identity::psk(&cx.config.psks, local, remote) else { return Ok(None) };
    let octets = key.signed_octets(signed.message, signed.nonce, signed.id, &[])?;
    SharedKeyAuth::new(signed.prf, psk.secret.expose())?.compute(&octets).map(Some)
}

/// Whether the peer's AUTH is right; no key means it is not.
pub(crate) fn psk_verify(
    cx: &Cx<'_>,
    local: &Identity,
    remote: &Identity,
    key: &SkP,
    signed: &Signed<'_>,
    auth: &Authentication<'_>,
) -> Result<bool, CryptoFailure> {
    if auth.method != AuthMethod::SharedKey {
        return Ok(false);
    }
    let Some(psk) = identity::psk(&cx.config.psks, local, remote) else { return Ok(false) };
    let octets = key.signed_octets(signed.message, signed.nonce, signed.id, &[])?;
    SharedKeyAuth::new(signed.prf, psk.secret.expose())?.verify(&octets, auth.data)
}

/// The body of an ID payload as it was sent: its reserved octets are signed too.
pub(crate) fn id_body(payloads: &Payloads<'_>, number: u8) -> Vec<u8> {
    let mut chain = payloads.chain().iter();
    chain.find(|raw| raw.number == number).map(|raw| raw.body.to_vec()).unwrap_or_default()
}

impl AuthSent {
    pub(crate) const fn has_child(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn handle(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        message: &Message<'_>,
    ) -> State {
        let header = &message.header;
        let fits = header.flags.contains(Flags::RESPONSE)
            && header.exchange == ExchangeType::IkeAuth
            && header.message_id.0 == self.sent.id;
        let opened = if fits { self.begin.keys.open(message) } else { None };
        let Some(opened) = opened else {
            cx.stats.invalid_packets_received += 1;
            return State::AuthSent(self);
        };
        let Some((opened, _)) = self.reassembly.add(cx, self.sent.id, opened, digest_of(&[]))
        else {
            return State::AuthSent(self);
        };
        let payloads = match opened.payloads() {
            Ok(payloads) => payloads,
            Err(fault) => return self.fail(head, cx, fault.into()),
        };
        match self.verify(head, cx, &payloads) {
            Ok(remote_id) => self.establish(head, cx, &payloads, remote_id),
            Err(fault) => self.fail(head, cx, fault),
        }
    }

    fn verify(&self, head: &Head, cx: &Cx<'_>, payloads: &Payloads<'_>) -> Result<Identity, Fault> {
        let (Some(id), Some(auth)) = (payloads.id_r(), payloads.authentication()) else {
            let refusal = payloads.notifies().find(|n| n.kind.is_error());
            return Err(match refusal {
                Some(n) => Fault::Refused(n.kind),
                None => Fault::Misbehaved(Misbehaved::Missing),
            });
        };
        let remote_id = Identity::from_wire(&id).ok_or(Fault::Authentication)?;
        if head.connection.remote.id.covers(&remote_id) == Fit::No {
            return Err(Fault::Authentication);
        }
        let signed = Signed {
            prf: self.begin.auth_keys.prf,
            message: &self.begin.response,
            nonce: &self.begin.ni,
            id: &id_body(payloads, 36),
        };
        let key = &self.begin.auth_keys.responder;
        if psk_verify(cx, &self.local_id, &remote_id, key, &signed, &auth)? {
            Ok(remote_id)
        } else {
            Err(Fault::Authentication)
        }
    }

    fn establish(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        payloads: &Payloads<'_>,
        remote_id: Identity,
    ) -> State {
        let Self { begin, child, local_id, .. } = *self;
        let initial_contact = payloads.notify(NotifyType::InitialContact).is_some();
        let mut established = Established::new(
            head,
            cx,
            NewSa {
                keys: begin.keys,
                chosen: begin.chosen,
                abilities: begin.abilities,
                local_id,
                remote_id,
                next_id: 2,
                inbound: super::window::Inbound::new(0),
            },
        );
        established.came_up(head, cx, None, initial_contact);
        if let Some(child) = child {
            let refusal =
                payloads.notifies().find(|n| n.kind.is_error() && payloads.sa().is_none());
            let result = match refusal {
                Some(refusal) => Err(Fault::Refused(refusal.kind)),
                None => child.answered(payloads),
            };
            let (ni, nr) = (&begin.ni, &begin.nr);
            established.child_answered(head, cx, child, result, ni, nr, None);
        }
        State::Established(Box::new(established))
    }

    /// The negotiation fails. Where the peer believes that it succeeded, it is told so (RFC 7296 §2.21.2): once and without
    /// waiting for an answer, as nothing is left here to wait with.
    fn fail(mut self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>, fault: Fault) -> State {
        // A refusal by the peer has no notify of ours.
        if let Some(kind) = fault.notify() {
            let mut list = PayloadList::new();
            list.push(&Notify::new(kind, &fault.notify_data()));
            let header = Header::v2(
                head.spi_i,
                head.spi_r,
                ExchangeType::Informational,
                Flags::INITIATOR,
                MessageId(2),
            );
            if let Ok(datagrams) = self.begin.keys.seal(&header, &list, None) {
                for datagram in datagrams {
                    cx.transmit(head.path, datagram);
                }
            }
        }
        self.destroy_with(head, cx, fault.failure())
    }

    pub(crate) fn timeout(mut self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>) -> State {
        match self.sent.due(cx.now, &cx.config.settings) {
            Due::NotYet => State::AuthSent(self),
            Due::Repeat(datagrams) => {
                cx.stats.retransmissions += 1;
                for datagram in datagrams {
                    cx.transmit(head.path, datagram.clone());
                }
                State::AuthSent(self)
            }
            Due::GiveUp => {
                let tries = self.begin.tries;
                if let Some(child) = self.child.take() {
                    cx.spis.release(child.spi);
                    let config = Arc::clone(&child.config);
                    head.tasks.push_front(Task::CreateChild { config, packet: None }.into());
                }
                init::give_up(head, cx, tries)
            }
        }
    }

    pub(crate) fn destroy(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        reason: Failure,
    ) -> State {
        self.destroy_with(head, cx, reason)
    }

    fn destroy_with(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        reason: Failure,
    ) -> State {
        if let Some(child) = self.child.take() {
            cx.spis.release(child.spi);
            head.acquired(cx, &child.config.name, Err(reason));
        }
        head.fail(cx, reason)
    }
}
