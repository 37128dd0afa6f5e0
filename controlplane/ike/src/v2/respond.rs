//! IKE_SA_INIT as responder (RFC 7296 §1.2), after the endpoint has let the request through.
//!
//! ```text
//! HDR, SAi1, KEi, Ni  -->
//!                     <--  HDR, SAr1, KEr, Nr
//! ```

use super::addresses::Addresses;
use super::fault::{Fault, Incompatible, Misbehaved};
use super::init::{self, Abilities, OwnNonce};
use super::keys::{AuthKeys, Exchanged, Keys, Origin};
use super::prove;
use super::sa::{Head, Nat, State};
use super::window::{Digest, Inbound, Verdict};
use crate::config::{Config, Connection, Version};
use crate::context::Cx;
use crate::event::{Failure, IkeId, Path};
use crate::job::{Product, Work};
use crate::message::v2::{KeyExchange, Message, Notify, Payloads, SaPayload};
use crate::message::{
    ExchangeType, Flags, Header, IkeSpi, KeMethod, MessageId, NotifyType, PayloadList,
};
use crate::proposal::Chosen;
use crate::proposal::select::{self, KeyExchangeUse, Selection};
use crate::view::Role;
use ipsec::selector::AddressRange;
use keyexchange::{Group, KeyExchangeError};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A first request that can be answered: what is known before any key exchange is computed.
pub(crate) struct Request {
    connection: Arc<Connection>,
    selection: Selection,
    group: Group,
    peer_value: Vec<u8>,
    ni: Vec<u8>,
    nat: Nat,
    abilities: Abilities,
}

/// Our value and the secret are being computed.
pub(crate) struct InitAnswering {
    pub(crate) job: u64,
    request: Vec<u8>,
    inbound: Inbound,
    selection: Selection,
    group: Group,
    ni: Vec<u8>,
    abilities: Abilities,
    until: Instant,
}

/// The first exchange is done; waiting for IKE_AUTH.
pub(crate) struct AuthExpected {
    pub(crate) inbound: Inbound,
    pub(crate) until: Instant,
    pub(crate) keys: Keys,
    pub(crate) auth_keys: AuthKeys,
    pub(crate) chosen: Chosen,
    pub(crate) abilities: Abilities,
    pub(crate) request: Vec<u8>,
    pub(crate) response: Vec<u8>,
    pub(crate) ni: Vec<u8>,
    pub(crate) nr: OwnNonce,
    pub(crate) reassembly: super::fragments::Reassembly,
}

/// Whether an IKEv2 connection is for a pair of addresses.
pub(crate) fn connects(connection: &Connection, path: Path) -> bool {
    connection.version != Version::Ikev1 && covers(connection, path)
}

/// Whether a connection's addresses are a path's; the peer's port does not matter.
pub(crate) fn covers(connection: &Connection, path: Path) -> bool {
    let covers = |ranges: &[AddressRange], address| {
        ranges.is_empty() || ranges.iter().any(|range| range.contains(address))
    };
    covers(&connection.local_addrs, path.local.ip())
        && covers(&connection.remote_addrs, path.remote.ip())
}

/// How narrowly a connection's addresses fit: one for one address goes before one for `%any`, as in charon.
pub(crate) fn narrowness(connection: &Connection) -> u8 {
    let side = |ranges: &[AddressRange]| match ranges {
        [] => 0,
        ranges if ranges.iter().any(|r| r.first() == r.last()) => 2,
        _ => 1,
    };
    side(&connection.remote_addrs) * 3 + side(&connection.local_addrs)
}

impl Request {
    /// Reads a first request and finds the connection and proposal for it.
    pub(crate) fn read(
        config: &Config,
        path: Path,
        spi_i: IkeSpi,
        payloads: &Payloads<'_>,
    ) -> Result<Self, Fault> {
        let missing = Fault::Misbehaved(Misbehaved::Missing);
        let sa = payloads.sa().ok_or(missing)?;
        let ke = payloads.key_exchange().ok_or(missing)?;
        let nonce = payloads.nonce().ok_or(missing)?;
        let mut fitting: Vec<_> = config.connections.iter().filter(|c| connects(c, path)).collect();
        fitting.sort_by_key(|c| core::cmp::Reverse(narrowness(c)));
        let prefer = Some(ke.method.number());
        let (connection, selection) = fitting
            .into_iter()
            .find_map(|c| {
                let chosen = select::choose(&c.proposals, &sa, KeyExchangeUse::Offered, prefer)?;
                Some((c, chosen))
            })
            .ok_or(Fault::Incompatible(Incompatible::Proposal))?;
        let group = selection
            .chosen
            .group
            .and_then(Group::from_number)
            .ok_or(Fault::Incompatible(Incompatible::Proposal))?;
        if ke.method.number() != group.number() {
            return Err(Fault::Incompatible(Incompatible::Group(group.number())));
        }
        if ke.data.len() != group.public_len() || !selection.spi.is_empty() {
            return Err(Fault::Misbehaved(Misbehaved::KeyValue));
        }
        let nat = init::detect_nat(payloads, spi_i, IkeSpi::ZERO, path, connection.encap);
        Ok(Self {
            connection: Arc::clone(connection),
            abilities: init::abilities(payloads, connection.fragmentation.sends()),
            selection,
            group,
            peer_value: ke.data.to_vec(),
            ni: nonce.data().to_vec(),
            nat,
        })
    }

    /// Makes the half-open IKE SA and its key exchange job.
    pub(crate) fn accept(
        self,
        cx: &mut Cx<'_>,
        path: Path,
        spi_i: IkeSpi,
        datagram: &[u8],
        digest: Digest,
    ) -> (Head, State) {
        let head = Head {
            id: IkeId(cx.registry.ike.next()),
            role: Role::Responder,
            spi_i,
            spi_r: IkeSpi(cx.random.array()),
            path,
            in_pieces: false,
            addresses: Addresses::default(),
            nat: self.nat,
            connection: self.connection,
            tasks: VecDeque::new(),
            waiters: Vec::new(),
        };
        let mut inbound = Inbound::new(0);
        inbound.begin(digest);
        let job = cx.job(head.id, false, Work::Respond(self.group, self.peer_value));
        let state = State::InitAnswering(Box::new(InitAnswering {
            job,
            request: datagram.to_vec(),
            inbound,
            selection: self.selection,
            group: self.group,
            ni: self.ni,
            abilities: self.abilities,
            // Longer than a day is no bound on what strangers make us hold.
            until: cx.now + cx.config.settings.half_open_timeout.min(Duration::from_secs(86_400)),
        }));
        (head, state)
    }
}

/// The unprotected error answer to a first request.
pub(crate) fn refusal(spi_i: IkeSpi, kind: NotifyType, data: &[u8]) -> Option<Vec<u8>> {
    let header =
        Header::v2(spi_i, IkeSpi::ZERO, ExchangeType::IkeSaInit, Flags::RESPONSE, MessageId(0));
    let mut list = PayloadList::new();
    list.push(&Notify::new(kind, data));
    list.into_message(&header).ok()
}

impl InitAnswering {
    pub(crate) fn keyed(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        result: Result<Product, KeyExchangeError>,
    ) -> State {
        let (public, shared) = match result {
            Ok(Product::Response(public, shared)) => (public, shared),
            Err(KeyExchangeError::PeerValue) => {
                // RFC 6989: a value that no honest peer sends.
                cx.stats.invalid_packets_received += 1;
                let kind = Fault::Misbehaved(Misbehaved::KeyValue).notify();
                if let Some(answer) = kind.and_then(|kind| refusal(head.spi_i, kind, &[])) {
                    cx.transmit(head.path, answer);
                }
                return head.fail(cx, Failure::KeyExchange);
            }
            _ => return head.fail(cx, Failure::Local),
        };
        let nr: OwnNonce = cx.random.array();
        let chosen = self.selection.chosen;
        let values = Exchanged {
            ni: &self.ni,
            nr: &nr,
            shared: &shared,
            spi_i: head.spi_i,
            spi_r: head.spi_r,
        };
        let (keys, auth_keys) = match Keys::derive(&Origin::Initial, &chosen, head.role, &values) {
            Ok(keys) => keys,
            Err(fault) => return head.fail(cx, fault.failure()),
        };
        let mut list = PayloadList::new();
        let proposal = select::answer(&chosen, self.selection.number, &[]);
        list.push(&SaPayload { proposals: &[proposal] });
        let method = KeMethod::from_number(self.group.number());
        list.push(&KeyExchange { method, data: &public });
        init::push_nonce(&mut list, &nr);
        let asking = cx.config.connections.iter().filter(|c| connects(c, head.path));
        prove::push_requests(&mut list, cx.config, asking.map(AsRef::as_ref));
        init::push_notifies(&mut list, head, head.spi_r);
        // RFC 6023 §3.
        list.push(&Notify::new(NotifyType::ChildlessIkev2Supported, &[]));
        let header = Header::v2(
            head.spi_i,
            head.spi_r,
            ExchangeType::IkeSaInit,
            Flags::RESPONSE,
            MessageId(0),
        );
        let Ok(response) = list.into_message(&header) else {
            return head.fail(cx, Failure::Local);
        };
        self.inbound.answer(vec![response.clone()]);
        cx.transmit(head.path, response.clone());
        State::AuthExpected(Box::new(AuthExpected {
            inbound: self.inbound,
            until: self.until,
            keys,
            auth_keys,
            chosen,
            abilities: self.abilities,
            request: self.request,
            response,
            ni: self.ni,
            nr,
            reassembly: super::fragments::Reassembly::default(),
        }))
    }
}

impl AuthExpected {
    pub(crate) fn handle(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        path: Path,
        message: &Message<'_>,
        digest: Digest,
    ) -> State {
        let header = &message.header;
        let id = header.message_id.0;
        if header.flags.contains(Flags::RESPONSE) {
            cx.stats.invalid_packets_received += 1;
            return State::AuthExpected(self);
        }
        match self.inbound.judge(id, &digest) {
            Verdict::New if header.exchange == ExchangeType::IkeAuth => {}
            Verdict::Repeated(datagrams) => {
                cx.stats.answers_repeated += 1;
                for datagram in datagrams {
                    cx.transmit(path, datagram.clone());
                }
                return State::AuthExpected(self);
            }
            // RFC 7296 §1.2: nothing but IKE_AUTH may come before the peer is authenticated.
            Verdict::New | Verdict::Working | Verdict::Stale => {
                cx.stats.invalid_packets_received += 1;
                return State::AuthExpected(self);
            }
        }
        // Not authentic: someone else's, the initiator's own may still come.
        let Some(opened) = self.keys.open(message) else {
            cx.stats.invalid_packets_received += 1;
            return State::AuthExpected(self);
        };
        let Some((opened, digest)) = self.reassembly.add(cx, id, opened, digest) else {
            return State::AuthExpected(self);
        };
        // The initiator may have floated to port 4500 (RFC 7296 §2.23).
        head.path = path;
        self.inbound.begin(digest);
        self.verify(head, cx, opened)
    }
}
