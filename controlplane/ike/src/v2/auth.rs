//! IKE_AUTH as initiator (RFC 7296 §1.2, §2.15).
//!
//! ```text
//! HDR, SK {IDi, [CERT+,] [CERTREQ,] [N(INITIAL_CONTACT),] [IDr,] AUTH, [SAi2, TSi, TSr]}  -->
//!                                      <--  HDR, SK {IDr, [CERT+,] AUTH, [SAr2, TSi, TSr]}
//! ```

use super::addresses;
use super::child::ChildRequest;
use super::established::{Established, NewSa};
use super::fault::{Fault, Local, Misbehaved};
use super::fragments::Reassembly;
use super::init::{self, Abilities, OwnNonce};
use super::keys::{AuthKeys, Keys};
use super::prove::{self, OwnAuth, Requested, Signature};
use super::sa::{Head, State};
use super::task::{Queued, Task};
use super::window::{Due, Sent, digest_of};
use crate::config::{AuthMethod as Method, Connection, Identity, Unique};
use crate::context::Cx;
use crate::crypto::{CryptoFailure, Opened, SharedKeyAuth, SignedOctets, SkP};
use crate::event::{Failure, Path};
use crate::identity::{self, Fit};
use crate::job::{Product, Work};
use crate::message::v2::{
    Authentication, Identification, IdentificationI, IdentificationR, Message, Notify, Payloads,
};
use crate::message::{AuthMethod, ExchangeType, Flags, Header, MessageId, NotifyType, PayloadList};
use crate::proposal::Chosen;
use crate::proposal::select::KeyExchangeUse;
use keyexchange::KeyExchangeError;
use std::sync::Arc;

/// What IKE_SA_INIT left.
pub(crate) struct Begin {
    pub(crate) keys: Keys,
    pub(crate) auth_keys: AuthKeys,
    pub(crate) chosen: Chosen,
    pub(crate) abilities: Abilities,
    /// The certificates that the peer asks for.
    pub(crate) requested: Requested,
    pub(crate) request: Vec<u8>,
    pub(crate) response: Vec<u8>,
    pub(crate) ni: OwnNonce,
    pub(crate) nr: Vec<u8>,
    pub(crate) tries: u32,
}

/// Our signature is being made.
pub(crate) struct AuthSigning {
    pub(crate) job: u64,
    begin: Begin,
    local_id: Identity,
    child: Option<ChildRequest>,
    signature: Signature,
}

/// The peer's signature is being checked.
pub(crate) struct AuthVerifying {
    pub(crate) job: u64,
    sent: Box<AuthSent>,
    opened: Opened,
    remote_id: Identity,
}

/// IKE_AUTH is on its way.
pub(crate) struct AuthSent {
    pub(crate) sent: Sent,
    pub(crate) begin: Begin,
    local_id: Identity,
    child: Option<ChildRequest>,
    pub(crate) reassembly: Reassembly,
}

/// Our identity on a connection; `%any` stands for the subject of the certificate, or without one for the IKE address.
pub(crate) fn local_id(connection: &Connection, path: Path) -> Identity {
    let local = &connection.local;
    match (&local.id, local.certificates.first()) {
        (Identity::Any, Some(own)) if local.method == Method::Pubkey => own.subject(),
        (Identity::Any, _) => Identity::Address(path.local.ip()),
        (id, _) => id.clone(),
    }
}

/// Sends IKE_AUTH with the first child that waits.
pub(crate) fn start(head: &mut Head, cx: &mut Cx<'_>, begin: Begin) -> State {
    let child = match take_child(head, cx) {
        Ok(child) => child,
        Err(reason) => return head.fail(cx, reason),
    };
    match authenticate(head, cx, begin, child) {
        Ok(state) => state,
        Err((child, reason)) => abandon(head, cx, child, reason),
    }
}

/// Nothing was sent that the peer would wait for.
fn abandon(
    head: &mut Head,
    cx: &mut Cx<'_>,
    child: Option<ChildRequest>,
    reason: Failure,
) -> State {
    if let Some(child) = child {
        cx.spis.release(child.spi);
        head.acquired(cx, &child.config.name, Err(reason));
    }
    head.fail(cx, reason)
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

/// Makes our AUTH: at once with a preshared key, by a job with a private one.
fn authenticate(
    head: &mut Head,
    cx: &mut Cx<'_>,
    begin: Begin,
    child: Option<ChildRequest>,
) -> Result<State, Unsent> {
    let local_id = local_id(&head.connection, head.path);
    let wire = local_id.to_wire();
    let Some((kind, data)) = &wire else { return Err((child, Failure::Local)) };
    let id = Identification { kind: *kind, data };
    let key = &begin.auth_keys.initiator;
    let signed = Signed {
        prf: begin.auth_keys.prf,
        message: &begin.request,
        nonce: &begin.nr,
        id: &id.body(),
    };
    if head.connection.local.method == Method::Pubkey {
        let Ok(octets) = signed.octets(key) else { return Err((child, Failure::Local)) };
        let hashes = begin.abilities.hashes;
        let found =
            prove::signing(cx, &head.connection, &local_id, &begin.requested, hashes, octets);
        let Some((signing, signature)) = found else {
            head.info(cx, format_args!("{}", prove::NO_KEY));
            return Err((child, Failure::Authentication));
        };
        let job = cx.job(head.id, false, Work::Prove(None, Some(Box::new(signing))));
        let state = AuthSigning { job, begin, local_id, child, signature };
        return Ok(State::AuthSigning(Box::new(state)));
    }
    // Without a configured peer identity its address decides which key is tried.
    let peer = match &head.connection.remote.id {
        Identity::Any => Identity::Address(head.path.remote.ip()),
        id => id.clone(),
    };
    match psk_auth(cx, &local_id, &peer, key, &signed) {
        Ok(Some(auth)) => send(head, cx, begin, child, local_id, &OwnAuth::shared_key(auth)),
        Ok(None) => {
            head.info(cx, format_args!("no preshared key for the two identities"));
            Err((child, Failure::Authentication))
        }
        Err(_) => Err((child, Failure::Local)),
    }
}

fn send(
    head: &mut Head,
    cx: &mut Cx<'_>,
    mut begin: Begin,
    child: Option<ChildRequest>,
    local_id: Identity,
    own: &OwnAuth,
) -> Result<State, Unsent> {
    let remote_id = &head.connection.remote.id;
    let wire = local_id.to_wire();
    let Some((kind, data)) = &wire else { return Err((child, Failure::Local)) };
    let id = Identification { kind: *kind, data };
    let mut list = PayloadList::new();
    list.push(&IdentificationI(id));
    own.push_certificates(&mut list);
    prove::push_requests(&mut list, cx.config, [&*head.connection]);
    let unknown = !cx.registry.known.has(&local_id, remote_id);
    if head.connection.unique != Unique::Never && unknown {
        list.push(&Notify::new(NotifyType::InitialContact, &[]));
    }
    if let Some((kind, data)) = exact(remote_id).and_then(Identity::to_wire) {
        list.push(&IdentificationR(Identification { kind, data: &data }));
    }
    own.push(&mut list);
    head.addresses.push_request(&head.connection, &mut list);
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

impl Signed<'_> {
    /// With the key that covers the signer's identity.
    pub(crate) fn octets(&self, key: &SkP) -> Result<SignedOctets, CryptoFailure> {
        key.signed_octets(self.message, self.nonce, self.id, &[])
    }
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
    let octets = signed.octets(key)?;
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
    let octets = signed.octets(key)?;
    SharedKeyAuth::new(signed.prf, psk.secret.expose())?.verify(&octets, auth.data)
}

/// The body of an ID payload as it was sent: its reserved octets are signed too.
pub(crate) fn id_body(payloads: &Payloads<'_>, number: u8) -> Vec<u8> {
    let mut chain = payloads.chain().iter();
    chain.find(|raw| raw.number == number).map(|raw| raw.body.to_vec()).unwrap_or_default()
}

impl AuthSigning {
    pub(crate) const fn has_child(&self) -> bool {
        self.child.is_some()
    }

    /// Our signature is made.
    pub(crate) fn signed(
        self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        result: Result<Product, KeyExchangeError>,
    ) -> State {
        let Self { begin, local_id, child, signature, .. } = self;
        let own = match result {
            Ok(Product::Proved(Some(made))) => signature.auth(&made),
            _ => None,
        };
        let Some(own) = own else { return abandon(head, cx, child, Failure::Local) };
        match send(head, cx, begin, child, local_id, &own) {
            Ok(state) => state,
            Err((child, reason)) => abandon(head, cx, child, reason),
        }
    }

    pub(crate) fn destroy(self, head: &mut Head, cx: &mut Cx<'_>, reason: Failure) -> State {
        abandon(head, cx, self.child, reason)
    }
}

impl AuthVerifying {
    pub(crate) const fn has_child(&self) -> bool {
        self.sent.has_child()
    }

    /// The peer's proof is checked.
    pub(crate) fn checked(
        self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        result: Result<Product, KeyExchangeError>,
    ) -> State {
        let Self { sent, opened, remote_id, .. } = self;
        let fault = match (result, opened.payloads()) {
            (Ok(Product::Proved(_)), Ok(payloads)) => {
                return sent.establish(head, cx, &payloads, remote_id);
            }
            (Ok(Product::Refuted(reason)), _) => {
                prove::log(head, cx, reason);
                Fault::Authentication
            }
            _ => Fault::Local(Local::Library),
        };
        sent.fail(head, cx, fault)
    }

    pub(crate) fn destroy(self, head: &mut Head, cx: &mut Cx<'_>, reason: Failure) -> State {
        self.sent.destroy(head, cx, reason)
    }
}

/// What the peer's AUTH comes to.
enum Answered {
    /// It is right.
    By(Identity),
    /// A job finds out.
    Pending(u64, Identity),
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
            Ok(Answered::By(remote_id)) => self.establish(head, cx, &payloads, remote_id),
            Ok(Answered::Pending(job, remote_id)) => {
                let state = AuthVerifying { job, sent: self, opened, remote_id };
                State::AuthVerifying(Box::new(state))
            }
            Err(fault) => self.fail(head, cx, fault),
        }
    }

    fn verify(
        &self,
        head: &Head,
        cx: &mut Cx<'_>,
        payloads: &Payloads<'_>,
    ) -> Result<Answered, Fault> {
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
        if head.connection.remote.method == Method::Pubkey {
            let octets = signed.octets(key)?;
            let verification =
                prove::verification(cx, &head.connection, &remote_id, payloads, &auth, octets)?;
            let job = cx.job(head.id, false, Work::Prove(Some(Box::new(verification)), None));
            return Ok(Answered::Pending(job, remote_id));
        }
        if psk_verify(cx, &self.local_id, &remote_id, key, &signed, &auth)? {
            Ok(Answered::By(remote_id))
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
        let addressed = addresses::take(head, cx, payloads);
        established.came_up(head, cx, None, initial_contact);
        if let Some(child) = child {
            let refusal =
                payloads.notifies().find(|n| n.kind.is_error() && payloads.sa().is_none());
            let result = match refusal {
                Some(refusal) => Err(Fault::Refused(refusal.kind)),
                None => addressed.and_then(|()| child.answered(head, payloads)),
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
