//! IKE_SA_INIT as initiator (RFC 7296 §1.2, §2.6, §2.7, §2.23).
//!
//! ```text
//! HDR, SAi1, KEi, Ni  -->
//!                     <--  HDR, SAr1, KEr, Nr
//! ```

use super::auth;
use super::fault::{Fault, Incompatible, Misbehaved};
use super::keys::{Exchanged, Keys, Origin};
use super::prove::{self, Requested};
use super::sa::{Head, Nat, State};
use super::window::{Due, Sent};
use crate::certificate::SignatureHashes;
use crate::context::{Cx, Effect};
use crate::crypto::nat_detection_hash;
use crate::event::{Failure, Level, Path};
use crate::job::{Product, Work};
use crate::message::v2::{KeyExchange, Message, Nonce, Notify, Payloads, SaPayload};
use crate::message::{
    ExchangeType, Flags, Header, IkeSpi, KeMethod, MessageId, NotifyType, PayloadList,
};
use crate::proposal::Chosen;
use crate::proposal::select::{self, KeyExchangeUse};
use core::net::SocketAddr;
use keyexchange::{Group, KeyExchangeError, PrivateKey};
use std::time::Instant;

/// Octets of our nonces: at least half the key size of the largest PRF (RFC 7296 §2.10).
pub(crate) const NONCE_LEN: usize = 32;

/// How often an IKE_SA_INIT is changed and sent anew for a COOKIE or INVALID_KE_PAYLOAD. An honest responder needs two;
/// one that asks for more is not talked to (RFC 7296 §2.6.1).
const MAX_RESTARTS: u8 = 4;

/// A nonce of ours.
pub(crate) type OwnNonce = [u8; NONCE_LEN];

/// What outlives a restart of the exchange: SPI and nonce stay the same (RFC 7296 §2.6).
pub(crate) struct Attempt {
    nonce: OwnNonce,
    cookie: Option<Vec<u8>>,
    group: Group,
    tried: Vec<u16>,
    restarts: u8,
    /// Which of `keyingtries` this is, from one.
    pub(crate) tries: u32,
}

/// Our key exchange value is being made.
pub(crate) struct InitKeying {
    pub(crate) job: u64,
    attempt: Attempt,
}

/// IKE_SA_INIT is on its way.
pub(crate) struct InitSent {
    pub(crate) sent: Sent,
    request: Vec<u8>,
    key: Box<PrivateKey>,
    attempt: Attempt,
    begun: Instant,
    /// An unauthenticated refusal, and after how many repeats it came. It ends the attempt only when it comes again
    /// for a repeated request (RFC 7296 §2.21.1, §2.4).
    refusal: Option<(NotifyType, u32)>,
}

/// What the peer told about itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Abilities {
    pub(crate) fragmentation: bool,
    /// Hashes that it checks signatures with (RFC 7427 §4).
    pub(crate) hashes: SignatureHashes,
}

/// The shared secret is being computed.
pub(crate) struct InitFinishing {
    pub(crate) job: u64,
    request: Vec<u8>,
    response: Vec<u8>,
    ni: OwnNonce,
    nr: Vec<u8>,
    chosen: Chosen,
    abilities: Abilities,
    requested: Requested,
    tries: u32,
}

/// Begins an IKE SA as initiator.
pub(crate) fn start(head: &Head, cx: &mut Cx<'_>, tries: u32) -> Option<State> {
    let groups = head.connection.proposals.iter().flat_map(|p| &p.groups);
    let group = groups.copied().find_map(Group::from_number)?;
    let nonce = cx.random.array();
    let attempt =
        Attempt { nonce, cookie: None, group, tried: vec![group.number()], restarts: 0, tries };
    Some(InitKeying::start(head, cx, attempt))
}

impl InitKeying {
    fn start(head: &Head, cx: &mut Cx<'_>, attempt: Attempt) -> State {
        let job = cx.job(head.id, false, Work::Generate(attempt.group));
        State::InitKeying(Box::new(Self { job, attempt }))
    }

    pub(crate) fn keyed(
        self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        result: Result<Product, KeyExchangeError>,
    ) -> State {
        let Ok(Product::Key(key)) = result else {
            return head.fail(cx, Failure::Local);
        };
        send(head, cx, key, self.attempt)
    }
}

fn send(head: &mut Head, cx: &mut Cx<'_>, key: Box<PrivateKey>, attempt: Attempt) -> State {
    let mut list = PayloadList::new();
    // RFC 7296 §2.6: the cookie comes first.
    if let Some(cookie) = &attempt.cookie {
        list.push(&Notify::new(NotifyType::Cookie, cookie));
    }
    let proposals = select::to_wire(&head.connection.proposals, &[], KeyExchangeUse::Offered);
    list.push(&SaPayload { proposals: &proposals });
    push_values(&mut list, &key, &attempt.nonce);
    push_notifies(&mut list, head, IkeSpi::ZERO);
    let header = Header::v2(
        head.spi_i,
        IkeSpi::ZERO,
        ExchangeType::IkeSaInit,
        Flags::INITIATOR,
        MessageId(0),
    );
    let Ok(request) = list.into_message(&header) else {
        return head.fail(cx, Failure::Local);
    };
    cx.transmit(head.path, request.clone());
    let sent = Sent::new(cx.now, &cx.config.settings, 0, vec![request.clone()]);
    State::InitSent(Box::new(InitSent {
        sent,
        request,
        key,
        attempt,
        begun: cx.now,
        refusal: None,
    }))
}

/// KE and nonce, in this order.
pub(crate) fn push_values(list: &mut PayloadList, key: &PrivateKey, nonce: &[u8]) {
    let method = KeMethod::from_number(key.group().number());
    list.push(&KeyExchange { method, data: key.public() });
    push_nonce(list, nonce);
}

pub(crate) fn push_nonce(list: &mut PayloadList, nonce: &[u8]) {
    // Ours have 32 octets, which is a nonce.
    if let Ok(nonce) = Nonce::new(nonce) {
        list.push(&nonce);
    }
}

/// NAT detection and what we can do, the same in request and response.
pub(crate) fn push_notifies(list: &mut PayloadList, head: &Head, spi_r: IkeSpi) {
    let mut source = nat_detection_hash(head.spi_i, spi_r, head.path.local);
    if head.connection.encap {
        // `encap = yes`: a hash that fits no address makes the peer see a NAT.
        source = [0; 20];
    }
    let destination = nat_detection_hash(head.spi_i, spi_r, head.path.remote);
    list.push(&Notify::new(NotifyType::NatDetectionSourceIp, &source));
    list.push(&Notify::new(NotifyType::NatDetectionDestinationIp, &destination));
    if head.connection.fragmentation.accepts() {
        list.push(&Notify::new(NotifyType::Ikev2FragmentationSupported, &[]));
    }
    list.push(&Notify::new(NotifyType::SignatureHashAlgorithms, &SignatureHashes::ours()));
}

/// What the peer's hashes say about NATs (RFC 7296 §2.23); several source hashes are allowed, one has to fit.
pub(crate) fn detect_nat(
    payloads: &Payloads<'_>,
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    path: Path,
    faked: bool,
) -> Nat {
    let matches = |kind: NotifyType, address: SocketAddr| {
        let expected = nat_detection_hash(spi_i, spi_r, address);
        let mut hashes = payloads.notifies().filter(|n| n.kind == kind).peekable();
        hashes.peek()?;
        Some(hashes.any(|n| n.data == expected))
    };
    let source = matches(NotifyType::NatDetectionSourceIp, path.remote);
    let destination = matches(NotifyType::NatDetectionDestinationIp, path.local);
    match (source, destination) {
        (Some(source), Some(destination)) => {
            Nat { supported: true, local: !destination, remote: !source, faked }
        }
        _ => Nat::default(),
    }
}

/// What the peer says it can do, as far as we can too.
pub(crate) fn abilities(payloads: &Payloads<'_>, ours: bool) -> Abilities {
    let announced = payloads.notify(NotifyType::Ikev2FragmentationSupported).is_some();
    let hashes = payloads.notify(NotifyType::SignatureHashAlgorithms);
    let hashes = hashes.map(|n| SignatureHashes::parse(n.data)).unwrap_or_default();
    Abilities { fragmentation: ours && announced, hashes }
}

impl InitSent {
    pub(crate) fn handle(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        path: Path,
        message: &Message<'_>,
        datagram: &[u8],
    ) -> State {
        let header = &message.header;
        let fits = header.flags.contains(Flags::RESPONSE)
            && header.exchange == ExchangeType::IkeSaInit
            && header.message_id == MessageId(0)
            && message.encrypted().is_none();
        if !fits {
            cx.stats.invalid_packets_received += 1;
            return State::InitSent(self);
        }
        let payloads = &message.payloads;
        if let Some(cookie) = payloads.notify(NotifyType::Cookie) {
            // RFC 7296 §2.6: 1 to 64 octets.
            if !(1..=64).contains(&cookie.data.len()) || self.attempt.restarts >= MAX_RESTARTS {
                cx.stats.invalid_packets_received += 1;
                return State::InitSent(self);
            }
            self.attempt.restarts += 1;
            self.attempt.cookie = Some(cookie.data.to_vec());
            return send(head, cx, self.key, self.attempt);
        }
        if let Some(wanted) = payloads.notify(NotifyType::InvalidKePayload) {
            return self.other_group(head, cx, wanted.data);
        }
        if let Some(refusal) = payloads.notifies().find(|n| n.kind.is_error()) {
            return self.refused(head, cx, refusal.kind);
        }
        match self.accept(head, payloads, header.spi_r) {
            Ok((chosen, peer, nr)) => {
                head.spi_r = header.spi_r;
                let forced = head.connection.encap;
                head.path.local.set_ip(path.local.ip());
                head.nat = detect_nat(payloads, head.spi_i, head.spi_r, head.path, forced);
                let abilities = abilities(payloads, head.connection.fragmentation.sends());
                let job = cx.job(head.id, false, Work::Agree(self.key, peer));
                State::InitFinishing(Box::new(InitFinishing {
                    job,
                    request: self.request,
                    response: datagram.to_vec(),
                    ni: self.attempt.nonce,
                    nr,
                    chosen,
                    abilities,
                    requested: prove::requested(payloads),
                    tries: self.attempt.tries,
                }))
            }
            // Anyone could have sent it: the true answer may still come (RFC 7296 §2.4).
            Err(_) => {
                cx.stats.invalid_packets_received += 1;
                State::InitSent(self)
            }
        }
    }

    fn accept(
        &self,
        head: &Head,
        payloads: &Payloads<'_>,
        spi_r: IkeSpi,
    ) -> Result<(Chosen, Vec<u8>, Vec<u8>), Fault> {
        let missing = Fault::Misbehaved(Misbehaved::Missing);
        let sa = payloads.sa().ok_or(missing)?;
        let ke = payloads.key_exchange().ok_or(missing)?;
        let nonce = payloads.nonce().ok_or(missing)?;
        if spi_r.is_zero() {
            return Err(missing);
        }
        let selection = select::accepted(&head.connection.proposals, &sa, KeyExchangeUse::Offered)
            .ok_or(Fault::Misbehaved(Misbehaved::NotOffered))?;
        let group = self.key.group();
        let same =
            selection.chosen.group == Some(group.number()) && ke.method.number() == group.number();
        if !same || !selection.spi.is_empty() {
            return Err(Fault::Misbehaved(Misbehaved::NotOffered));
        }
        if ke.data.len() != group.response_len() {
            return Err(Fault::Misbehaved(Misbehaved::KeyValue));
        }
        Ok((selection.chosen, ke.data.to_vec(), nonce.data().to_vec()))
    }

    /// INVALID_KE_PAYLOAD (RFC 7296 §1.2): one try for each group that our proposals have.
    fn other_group(mut self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>, data: &[u8]) -> State {
        let wanted = <[u8; 2]>::try_from(data).ok().map(u16::from_be_bytes);
        let offered = |id: &u16| head.connection.proposals.iter().any(|p| p.groups.contains(id));
        let group = wanted
            .filter(offered)
            .filter(|id| !self.attempt.tried.contains(id))
            .and_then(Group::from_number);
        match group {
            Some(group) if self.attempt.restarts < MAX_RESTARTS => {
                self.attempt.restarts += 1;
                self.attempt.tried.push(group.number());
                self.attempt.group = group;
                InitKeying::start(head, cx, self.attempt)
            }
            _ => self.refused(head, cx, NotifyType::InvalidKePayload),
        }
    }

    fn refused(mut self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>, kind: NotifyType) -> State {
        let repeats = self.sent.repeats();
        match self.refusal {
            Some((known, before)) if known == kind && repeats > before => {
                let failure = match kind {
                    NotifyType::InvalidKePayload => {
                        Fault::Incompatible(Incompatible::Group(0)).failure()
                    }
                    kind => Fault::Refused(kind).failure(),
                };
                head.fail(cx, failure)
            }
            Some(_) => State::InitSent(self),
            None => {
                let text =
                    format!("IKE_SA_INIT refused with notify {}, trying once more", kind.number());
                cx.log(Level::Info, text);
                self.refusal = Some((kind, repeats));
                State::InitSent(self)
            }
        }
    }

    /// Whether nothing at all has come for our messages, neither a cookie nor a refusal: then nobody there speaks IKE.
    fn is_unanswered(&self) -> bool {
        self.attempt.restarts == 0 && self.refusal.is_none()
    }

    pub(crate) fn deadline(&self, head: &Head) -> Instant {
        let unprotected = if self.is_unanswered() { head.unprotected_at(self.begun) } else { None };
        unprotected.map_or(self.sent.deadline(), |at| at.min(self.sent.deadline()))
    }

    pub(crate) fn timeout(mut self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>) -> State {
        if self.is_unanswered()
            && head.peer_is_silent(cx, Some(cx.now.saturating_duration_since(self.begun)))
        {
            return head.fail(cx, Failure::Unprotected);
        }
        match self.sent.due(cx.now, &cx.config.settings) {
            Due::NotYet => {}
            Due::Repeat(datagrams) => {
                cx.stats.retransmissions += 1;
                for datagram in datagrams {
                    cx.transmit(head.path, datagram.clone());
                }
            }
            Due::GiveUp => {
                if self.is_unanswered() && head.peer_is_silent(cx, None) {
                    return head.fail(cx, Failure::Unprotected);
                }
                return give_up(head, cx, self.attempt.tries);
            }
        }
        State::InitSent(self)
    }
}

/// The peer does not answer: `keyingtries` says how often all begins anew, with a new SPI.
pub(crate) fn give_up(head: &mut Head, cx: &mut Cx<'_>, tries: u32) -> State {
    let limit = head.connection.keyingtries;
    if limit == 0 || tries < limit {
        cx.stats.negotiation_failures += 1;
        let settings = &cx.config.settings;
        if head.path.local.port() == settings.port_nat_t {
            head.path.local.set_port(head.connection.local_port);
            head.path.remote.set_port(head.connection.remote_port);
        }
        let (old, new) = (head.spi_i, IkeSpi(cx.random.array()));
        head.spi_i = new;
        head.spi_r = IkeSpi::ZERO;
        head.nat = Nat::default();
        cx.effect(Effect::Renew { id: head.id, old, new });
        if let Some(state) = start(head, cx, tries.saturating_add(1)) {
            return state;
        }
    }
    head.fail(cx, Failure::Timeout)
}

impl InitFinishing {
    pub(crate) fn agreed(
        self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        result: Result<Product, KeyExchangeError>,
    ) -> State {
        let shared = match result {
            Ok(Product::Secret(shared)) => shared,
            Err(KeyExchangeError::PeerValue) => {
                cx.stats.invalid_packets_received += 1;
                return head.fail(cx, Failure::KeyExchange);
            }
            _ => return head.fail(cx, Failure::Local),
        };
        let values = Exchanged {
            ni: &self.ni,
            nr: &self.nr,
            shared: &shared,
            spi_i: head.spi_i,
            spi_r: head.spi_r,
        };
        let (keys, auth_keys) =
            match Keys::derive(&Origin::Initial, &self.chosen, head.role, &values) {
                Ok(keys) => keys,
                Err(fault) => return head.fail(cx, fault.failure()),
            };
        // RFC 7296 §2.23: with a NAT between, port 4500 from IKE_AUTH on.
        let settings = &cx.config.settings;
        if head.nat.encapsulates() {
            if head.path.local.port() == settings.port {
                head.path.local.set_port(settings.port_nat_t);
            }
            if head.path.remote.port() == 500 {
                head.path.remote.set_port(4500);
            }
        }
        auth::start(
            head,
            cx,
            auth::Begin {
                keys,
                auth_keys,
                chosen: self.chosen,
                abilities: self.abilities,
                requested: self.requested,
                request: self.request,
                response: self.response,
                ni: self.ni,
                nr: self.nr,
                tries: self.tries,
            },
        )
    }
}
