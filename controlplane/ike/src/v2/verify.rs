//! IKE_AUTH as responder (RFC 7296 §1.2, §2.15).
//!
//! ```text
//! HDR, SK {IDi, [CERT+,] [CERTREQ,] [IDr,] AUTH, [SAi2, TSi, TSr]}  -->
//!                <--  HDR, SK {IDr, [CERT+,] AUTH, [SAr2, TSi, TSr]}
//! ```

use super::addresses;
use super::auth::{self, Signed};
use super::child::{Agreed, Side, Values};
use super::established::{Established, NewSa, Reply};
use super::fault::{Fault, Local, Misbehaved};
use super::prove::{self, OwnAuth, Signature};
use super::respond::{AuthExpected, connects};
use super::sa::{Closed, Head, State};
use crate::config::{AuthMethod as Method, Connection, Identity, Unique};
use crate::context::Cx;
use crate::crypto::Opened;
use crate::event::Level;
use crate::identity::Fit;
use crate::job::{Product, Work};
use crate::known::Known;
use crate::message::v2::{Identification, IdentificationR, Notify, Payloads};
use crate::message::{AuthMethod, ExchangeType, Header, MessageId, NotifyType, PayloadList};
use crate::proposal::select::KeyExchangeUse;
use keyexchange::KeyExchangeError;
use std::sync::Arc;
use std::time::Duration;

/// How long a failed IKE SA is remembered for its answer: about two retransmissions of the peer with charon's defaults.
const REMEMBERED: Duration = Duration::from_secs(12);

/// Who talks to whom.
struct Peers {
    local_id: Identity,
    remote_id: Identity,
}

/// The peer's proof is being checked, and ours made.
pub(crate) struct AuthAnswering {
    pub(crate) job: u64,
    expected: Box<AuthExpected>,
    opened: Opened,
    peers: Peers,
    /// `None` when we prove ourselves by a preshared key.
    signature: Option<Signature>,
}

/// What an authentic IKE_AUTH comes to.
enum Asked {
    /// The peer is who it says, and ours can be said at once.
    Answer(Peers),
    /// A job finds out.
    Pending(u64, Peers, Option<Signature>),
}

impl AuthAnswering {
    /// The peer's proof is checked, and ours made.
    pub(crate) fn checked(
        self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        result: Result<Product, KeyExchangeError>,
    ) -> State {
        let Self { expected, opened, peers, signature, .. } = self;
        let fault = match (result, opened.payloads()) {
            (Ok(Product::Proved(made)), Ok(payloads)) => {
                let own = match (signature, made) {
                    (Some(signature), Some(made)) => signature.auth(&made),
                    (None, None) => expected.shared_key(cx, &peers),
                    _ => None,
                };
                match (own, expected.check_known(head, cx, &payloads, &peers)) {
                    (Some(own), Ok(())) => {
                        return expected.establish(head, cx, &payloads, peers, &own);
                    }
                    (None, _) => Fault::Authentication,
                    (_, Err(fault)) => fault,
                }
            }
            (Ok(Product::Refuted(reason)), _) => {
                prove::log(head, cx, reason);
                Fault::Authentication
            }
            _ => Fault::Local(Local::Library),
        };
        expected.refuse(head, cx, fault)
    }
}

impl AuthExpected {
    /// Takes the authentic content of IKE_AUTH.
    pub(crate) fn verify(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        opened: Opened,
    ) -> State {
        let payloads = match opened.payloads() {
            Ok(payloads) => payloads,
            Err(fault) => return self.refuse(head, cx, fault.into()),
        };
        match self.authenticate(head, cx, &payloads) {
            Ok(Asked::Answer(peers)) => match self.shared_key(cx, &peers) {
                Some(own) => self.establish(head, cx, &payloads, peers, &own),
                None => self.refuse(head, cx, Fault::Authentication),
            },
            Ok(Asked::Pending(job, peers, signature)) => {
                let state = AuthAnswering { job, expected: self, opened, peers, signature };
                State::AuthAnswering(Box::new(state))
            }
            Err(fault) => self.refuse(head, cx, fault),
        }
    }

    fn authenticate(
        &self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        payloads: &Payloads<'_>,
    ) -> Result<Asked, Fault> {
        let missing = Fault::Misbehaved(Misbehaved::Missing);
        let id = payloads.id_i().ok_or(missing)?;
        // Without AUTH the initiator asks for EAP (RFC 7296 §2.16), which no connection here allows.
        let auth = payloads.authentication().ok_or(Fault::Authentication)?;
        let parts = [payloads.sa().is_some(), payloads.ts_i().is_some(), payloads.ts_r().is_some()];
        if parts.contains(&true) && parts.contains(&false) {
            return Err(missing);
        }
        let remote_id = Identity::from_wire(&id).ok_or(Fault::Authentication)?;
        let wanted = match payloads.id_r() {
            Some(id) => Some(Identity::from_wire(&id).ok_or(Fault::Authentication)?),
            None => None,
        };
        let method = match auth.method {
            AuthMethod::SharedKey => Method::Psk,
            _ => Method::Pubkey,
        };
        let (connection, local_id) = self
            .connection_for(head, cx, method, &remote_id, wanted.as_ref())
            .ok_or(Fault::Authentication)?;
        head.connection = connection;
        let connection = &head.connection;
        let signed = Signed {
            prf: self.auth_keys.prf,
            message: &self.request,
            nonce: &self.nr,
            id: &auth::id_body(payloads, 35),
        };
        let key = &self.auth_keys.initiator;
        let verification = match method {
            Method::Psk => {
                if !auth::psk_verify(cx, &local_id, &remote_id, key, &signed, &auth)? {
                    return Err(Fault::Authentication);
                }
                None
            }
            // IKEv2 has neither.
            Method::Kerberos | Method::Xauth => return Err(Fault::Authentication),
            Method::Pubkey => {
                let octets = signed.octets(key)?;
                let found =
                    prove::verification(cx, connection, &remote_id, payloads, &auth, octets)?;
                Some(Box::new(found))
            }
        };
        let (signing, signature) = match connection.local.method {
            Method::Psk => (None, None),
            Method::Kerberos | Method::Xauth => return Err(Fault::Authentication),
            Method::Pubkey => {
                let (kind, data) = local_id.to_wire().ok_or(Fault::Authentication)?;
                let id = Identification { kind, data: &data }.body();
                let octets = self.signed(&id).octets(&self.auth_keys.responder)?;
                let requested = prove::requested(payloads);
                let hashes = self.abilities.hashes;
                let found = prove::signing(cx, connection, &local_id, &requested, hashes, octets);
                let Some((signing, signature)) = found else {
                    head.info(cx, format_args!("{}", prove::NO_KEY));
                    return Err(Fault::Authentication);
                };
                (Some(Box::new(signing)), Some(signature))
            }
        };
        let peers = Peers { local_id, remote_id };
        if verification.is_none() && signing.is_none() {
            self.check_known(head, cx, payloads, &peers)?;
            return Ok(Asked::Answer(peers));
        }
        let job = cx.job(head.id, false, Work::Prove(verification, signing));
        Ok(Asked::Pending(job, peers, signature))
    }

    /// What we sign; `id` is the body of IDr.
    fn signed<'a>(&'a self, id: &'a [u8]) -> Signed<'a> {
        Signed { prf: self.auth_keys.prf, message: &self.response, nonce: &self.ni, id }
    }

    /// Our AUTH by a preshared key; `None` without one.
    fn shared_key(&self, cx: &Cx<'_>, peers: &Peers) -> Option<OwnAuth> {
        let (kind, data) = peers.local_id.to_wire()?;
        let id = Identification { kind, data: &data }.body();
        let key = &self.auth_keys.responder;
        let signed = self.signed(&id);
        let auth = auth::psk_auth(cx, &peers.local_id, &peers.remote_id, key, &signed);
        auth.ok().flatten().map(OwnAuth::shared_key)
    }

    /// `unique = keep`: charon's answer to a second SA of the same two ends.
    fn check_known(
        &self,
        head: &Head,
        cx: &Cx<'_>,
        payloads: &Payloads<'_>,
        peers: &Peers,
    ) -> Result<(), Fault> {
        let contact = payloads.notify(NotifyType::InitialContact).is_some();
        let same = |known: &Known| {
            known.connection == head.connection.name && known.local == peers.local_id
        };
        let keeps = head.connection.unique == Unique::Keep && !contact;
        let mut others = cx.registry.known.of(&peers.remote_id);
        if keeps && others.any(|(_, known)| same(known)) {
            return Err(Fault::Authentication);
        }
        Ok(())
    }

    /// The connection that fits the identities best; the first one among equals.
    fn connection_for(
        &self,
        head: &Head,
        cx: &Cx<'_>,
        method: Method,
        remote_id: &Identity,
        wanted: Option<&Identity>,
    ) -> Option<(Arc<Connection>, Identity)> {
        let mut best = None;
        for connection in &cx.config.connections {
            let usable = connects(connection, head.path)
                && connection.remote.method == method
                && connection.proposals.iter().any(|p| p.allows(&self.chosen));
            if !usable {
                continue;
            }
            let own = &connection.local;
            let local_id = match (&own.id, wanted) {
                // With certificates we are who they say.
                (Identity::Any, Some(wanted))
                    if own.certificates.is_empty()
                        || own.certificates.iter().any(|c| c.proves(wanted)) =>
                {
                    wanted.clone()
                }
                _ => auth::local_id(connection, head.path),
            };
            let local = wanted.map_or(Fit::Any, |wanted| local_id.covers(wanted));
            let fit = (connection.remote.id.covers(remote_id), local);
            if fit.0 == Fit::No || fit.1 == Fit::No {
                continue;
            }
            if best.as_ref().is_none_or(|(known, _, _)| fit > *known) {
                best = Some((fit, Arc::clone(connection), local_id));
            }
        }
        best.map(|(_, connection, local_id)| (connection, local_id))
    }

    fn establish(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        payloads: &Payloads<'_>,
        peers: Peers,
        own: &OwnAuth,
    ) -> State {
        let Peers { local_id, remote_id } = peers;
        let Some((kind, data)) = local_id.to_wire() else {
            return self.refuse(head, cx, Fault::Authentication);
        };
        let id = Identification { kind, data: &data };
        let Self { inbound, keys, chosen, abilities, ni, nr, .. } = *self;
        let initial_contact = payloads.notify(NotifyType::InitialContact).is_some();
        let mut established = Established::new(
            head,
            cx,
            NewSa { keys, chosen, abilities, local_id, remote_id, next_id: 0, inbound },
        );
        let addressed = addresses::assign(head, cx, payloads, &established.remote_id);
        established.came_up(head, cx, None, initial_contact);
        let answer = || {
            let mut list = PayloadList::new();
            list.push(&IdentificationR(id));
            own.push_certificates(&mut list);
            own.push(&mut list);
            if let Ok(Some(reply)) = &addressed {
                reply.push(&mut list);
            }
            list
        };
        if payloads.sa().is_none() {
            // RFC 6023: an IKE SA without a child.
            let mut list = answer();
            if let Err(kind) = addressed.as_ref().map_err(|fault| fault.notify())
                && let Some(kind) = kind
            {
                list.push(&Notify::new(kind, &[]));
            }
            established.respond(head, cx, ExchangeType::IkeAuth, &list);
            return State::Established(Box::new(established));
        }
        let result = addressed
            .as_ref()
            .map_err(|fault| *fault)
            .and_then(|_| Agreed::choose(cx, head, payloads, KeyExchangeUse::None, None))
            .and_then(|agreed| {
                let values = Values { d: &established.keys.d, ni: &ni, nr: &nr, shared: None };
                agreed.prepare(cx, head, &values, Side::Answering)
            });
        match result {
            Ok(prepared) => {
                let mut accepted = answer();
                prepared.push_sa(&mut accepted);
                prepared.push_selectors(&mut accepted);
                let mut refused = answer();
                refused.push(&Notify::new(NotifyType::NoAdditionalSas, &[]));
                let exchange = ExchangeType::IkeAuth;
                let reply = Reply { exchange, accepted, refused, lowest: Vec::new() };
                established.install_answering(head, cx, prepared, reply);
            }
            Err(fault) => {
                cx.stats.negotiation_failures += 1;
                let mut list = answer();
                if let Some(kind) = fault.notify() {
                    list.push(&Notify::new(kind, &fault.notify_data()));
                }
                established.respond(head, cx, ExchangeType::IkeAuth, &list);
            }
        }
        State::Established(Box::new(established))
    }

    /// Refuses the peer and remembers the answer for a while.
    fn refuse(mut self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>, fault: Fault) -> State {
        let mut list = PayloadList::new();
        if let Some(kind) = fault.notify() {
            list.push(&Notify::new(kind, &fault.notify_data()));
        }
        let header = Header::v2(
            head.spi_i,
            head.spi_r,
            ExchangeType::IkeAuth,
            head.flags(true),
            MessageId(self.inbound.next()),
        );
        let remote = head.path.remote;
        cx.log(Level::Warn, format!("IKE_AUTH from {remote} refused: {}", fault.failure()));
        let over = head.fail(cx, fault.failure());
        match self.keys.seal(&header, &list, None) {
            Ok(datagrams) => {
                for datagram in &datagrams {
                    cx.transmit(head.path, datagram.clone());
                }
                self.inbound.answer(datagrams);
                let until = cx.now + REMEMBERED;
                State::Closed(Closed { inbound: self.inbound, until, failed: true })
            }
            Err(_) => over,
        }
    }
}
