//! IKE_AUTH as responder (RFC 7296 §1.2, §2.15).
//!
//! ```text
//! HDR, SK {IDi, [IDr,] AUTH, [SAi2, TSi, TSr]}  -->
//!                <--  HDR, SK {IDr, AUTH, [SAr2, TSi, TSr]}
//! ```

use super::auth::{self, Signed};
use super::child::{Agreed, Side, Values};
use super::established::{Established, NewSa, Reply};
use super::fault::{Fault, Misbehaved};
use super::respond::{AuthExpected, connects};
use super::sa::{Closed, Head, State};
use crate::config::{AuthMethod as Method, Connection, Identity, Unique};
use crate::context::Cx;
use crate::crypto::Opened;
use crate::event::Level;
use crate::identity::Fit;
use crate::message::v2::{Authentication, Identification, IdentificationR, Notify, Payloads};
use crate::message::{AuthMethod, ExchangeType, Header, MessageId, NotifyType, PayloadList};
use crate::proposal::select::KeyExchangeUse;
use std::sync::Arc;
use std::time::Duration;

/// How long a failed IKE SA is remembered for its answer: about two retransmissions of the peer with charon's defaults.
const REMEMBERED: Duration = Duration::from_secs(12);

/// Who talks to whom.
struct Peers {
    connection: Arc<Connection>,
    local_id: Identity,
    remote_id: Identity,
}

impl AuthExpected {
    /// Takes the authentic content of IKE_AUTH.
    pub(crate) fn verify(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        opened: &Opened,
    ) -> State {
        let payloads = match opened.payloads() {
            Ok(payloads) => payloads,
            Err(fault) => return self.refuse(head, cx, fault.into()),
        };
        match self.authenticate(head, cx, &payloads) {
            Ok(peers) => self.establish(head, cx, &payloads, peers),
            Err(fault) => self.refuse(head, cx, fault),
        }
    }

    fn authenticate(
        &self,
        head: &Head,
        cx: &Cx<'_>,
        payloads: &Payloads<'_>,
    ) -> Result<Peers, Fault> {
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
        let (connection, local_id) = self
            .connection_for(head, cx, &remote_id, wanted.as_ref())
            .ok_or(Fault::Authentication)?;
        let signed = Signed {
            prf: self.auth_keys.prf,
            message: &self.request,
            nonce: &self.nr,
            id: &auth::id_body(payloads, 35),
        };
        let key = &self.auth_keys.initiator;
        if !auth::psk_verify(cx, &local_id, &remote_id, key, &signed, &auth)? {
            return Err(Fault::Authentication);
        }
        let contact = payloads.notify(NotifyType::InitialContact).is_some();
        if connection.unique == Unique::Keep && !contact {
            let same = |known: &crate::context::Known| {
                known.connection == connection.name
                    && known.local == local_id
                    && known.remote == remote_id
            };
            // charon's answer to a second SA under `unique = keep`.
            if cx.registry.known.values().any(same) {
                return Err(Fault::Authentication);
            }
        }
        Ok(Peers { connection, local_id, remote_id })
    }

    /// The connection that fits the identities best; the first one among equals.
    fn connection_for(
        &self,
        head: &Head,
        cx: &Cx<'_>,
        remote_id: &Identity,
        wanted: Option<&Identity>,
    ) -> Option<(Arc<Connection>, Identity)> {
        let mut best = None;
        for connection in &cx.config.connections {
            let usable = connects(connection, head.path)
                && connection.local.method == Method::Psk
                && connection.remote.method == Method::Psk
                && connection.proposals.iter().any(|p| p.allows(&self.chosen));
            if !usable {
                continue;
            }
            let local_id = match (&connection.local.id, wanted) {
                (Identity::Any, Some(wanted)) => wanted.clone(),
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
    ) -> State {
        let Peers { connection, local_id, remote_id } = peers;
        head.connection = connection;
        let Some((kind, data)) = local_id.to_wire() else {
            return self.refuse(head, cx, Fault::Authentication);
        };
        let id = Identification { kind, data: &data };
        let signed = Signed {
            prf: self.auth_keys.prf,
            message: &self.response,
            nonce: &self.ni,
            id: &id.body(),
        };
        let key = &self.auth_keys.responder;
        let auth = auth::psk_auth(cx, &local_id, &remote_id, key, &signed);
        let Ok(Some(auth)) = auth else {
            return self.refuse(head, cx, Fault::Authentication);
        };
        let Self { inbound, keys, chosen, abilities, ni, nr, .. } = *self;
        let initial_contact = payloads.notify(NotifyType::InitialContact).is_some();
        let mut established = Established::new(
            head,
            cx,
            NewSa { keys, chosen, abilities, local_id, remote_id, next_id: 0, inbound },
        );
        established.came_up(head, cx, None, initial_contact);
        let answer = || {
            let mut list = PayloadList::new();
            list.push(&IdentificationR(id));
            list.push(&Authentication { method: AuthMethod::SharedKey, data: &auth });
            list
        };
        if payloads.sa().is_none() {
            // RFC 6023: an IKE SA without a child.
            established.respond(head, cx, ExchangeType::IkeAuth, &answer());
            return State::Established(Box::new(established));
        }
        let result =
            Agreed::choose(cx, head, payloads, KeyExchangeUse::None, None).and_then(|agreed| {
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
