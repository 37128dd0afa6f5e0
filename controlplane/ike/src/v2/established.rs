//! An established IKE SA: its exchanges in both directions, its children and its timers.

use super::child::{
    ChildSa, LINGER, MAX_CHILDREN, Phase, Prepared, install_inbound, install_outbound,
};
use super::create_child::{Asking, ChildKeying};
use super::fault::{Fault, Local};
use super::fragments::Reassembly;
use super::init::Abilities;
use super::keys::Keys;
use super::rekey_ike::{IkeAsking, IkeKeying, PeerRekey};
use super::sa::{Closed, Head, Nat, State};
use super::task::{Queued, Task};
use super::window::{Digest, Due, Inbound, Sent, Verdict};
use crate::config::Identity;
use crate::context::{Cx, Effect, Half, Installing, Known};
use crate::crypto::Opened;
use crate::event::{
    Activate, Event, Failure, IkeId, InstallId, InstallRefused, Outcome, Path, RequestId,
};
use crate::job::Product;
use crate::message::v2::{Message, Notify};
use crate::message::{
    ExchangeType, Flags, Header, InvalidMessage, MessageId, NotifyType, PayloadList,
};
use crate::proposal::Chosen;
use ipsec::sa::{PairId, SaParameters};
use keyexchange::KeyExchangeError;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long an IKE SA that the peer deleted is remembered for its last answer.
const REMEMBERED: Duration = Duration::from_secs(12);

/// How long the loser of a rekey collision, or a rekeyed IKE SA, waits for the peer's delete before it goes by itself.
/// Longer than charon takes to give up on a request.
pub(crate) const DELETE_AWAITED: Duration = Duration::from_secs(180);

/// What an established IKE SA begins with.
pub(crate) struct NewSa {
    pub(crate) keys: Keys,
    pub(crate) chosen: Chosen,
    pub(crate) abilities: Abilities,
    pub(crate) local_id: Identity,
    pub(crate) remote_id: Identity,
    /// The message ID of our first request.
    pub(crate) next_id: u32,
    pub(crate) inbound: Inbound,
}

/// Where an established IKE SA is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// In use.
    Active,
    /// A successor has its children; the peer deletes it, or it goes at this time.
    Rekeyed { until: Instant },
    /// Our delete is on its way.
    Deleting { reason: Failure, reauthenticate: bool },
}

/// The one request of ours that may be under way (RFC 7296 §2.3, window of one).
pub(crate) enum Current {
    Idle,
    /// Our key exchange value for it is being made.
    Generating {
        job: u64,
        asking: Plan,
    },
    /// It is on its way.
    Waiting {
        sent: Sent,
        exchange: ExchangeType,
        request: Request,
    },
    /// It is answered; the shared secret is being computed.
    Finishing {
        job: u64,
        finishing: Finishing,
    },
}

/// A request that waits for its key exchange value.
pub(crate) enum Plan {
    Child(Box<Asking>),
    Ike(Box<IkeAsking>),
}

/// A request that waits for its answer.
pub(crate) enum Request {
    Child(Box<Asking>),
    Ike(Box<IkeAsking>),
    DeleteChild { pair: PairId, reason: Failure, tag: Option<RequestId> },
    DeleteSpi,
    DeleteIke { tag: Option<RequestId> },
    Liveness,
}

/// An answered request that waits for its secret.
pub(crate) enum Finishing {
    Child(Box<super::create_child::ChildFinishing>),
    Ike(Box<super::rekey_ike::IkeFinishing>),
}

/// The peer's request that is being worked on.
pub(crate) enum Answering {
    Nothing,
    ChildKeying { job: u64, keying: Box<ChildKeying> },
    ChildInstalling { install: InstallId, outbound: Box<SaParameters>, reply: Reply },
    IkeKeying { job: u64, keying: Box<IkeKeying> },
}

/// The answer to a request that made a Child SA, either way the dataplane decides.
pub(crate) struct Reply {
    pub(crate) exchange: ExchangeType,
    pub(crate) accepted: PayloadList,
    pub(crate) refused: PayloadList,
    /// The lower of the exchange's nonces, for a collision (RFC 7296 §2.8.1).
    pub(crate) lowest: Vec<u8>,
}

/// An established IKE SA.
pub(crate) struct Established {
    pub(crate) keys: Keys,
    pub(crate) chosen: Chosen,
    pub(crate) abilities: Abilities,
    pub(crate) local_id: Identity,
    pub(crate) remote_id: Identity,
    pub(crate) life: Life,
    pub(crate) current: Current,
    pub(crate) answering: Answering,
    pub(crate) inbound: Inbound,
    pub(crate) children: BTreeMap<PairId, ChildSa>,
    /// The peer's own rekey of this IKE SA, while ours is under way (RFC 7296 §2.8.2).
    pub(crate) peer_rekey: Option<PeerRekey>,
    pub(crate) established: Instant,
    pub(crate) rekey_at: Option<Instant>,
    pub(crate) reauth_at: Option<Instant>,
    pub(crate) expire_at: Option<Instant>,
    next_id: u32,
    last_inbound: Instant,
    last_outbound: Instant,
    requests: Reassembly,
    answers: Reassembly,
}

impl Established {
    pub(crate) fn new(head: &Head, cx: &mut Cx<'_>, new: NewSa) -> Self {
        let now = cx.now;
        let connection = &head.connection;
        let time = |time: Duration| (!time.is_zero()).then_some(time);
        let rand = cx.random.below(connection.rand_time);
        let early = |t: Duration| now + t.saturating_sub(rand).max(Duration::from_secs(1));
        let rekey = time(connection.rekey_time);
        let reauth = time(connection.reauth_time);
        let hard = rekey.into_iter().chain(reauth).max();
        Self {
            keys: new.keys,
            chosen: new.chosen,
            abilities: new.abilities,
            local_id: new.local_id,
            remote_id: new.remote_id,
            life: Life::Active,
            current: Current::Idle,
            answering: Answering::Nothing,
            inbound: new.inbound,
            children: BTreeMap::new(),
            peer_rekey: None,
            established: now,
            rekey_at: rekey.map(early),
            reauth_at: reauth.map(early),
            expire_at: hard.map(|hard| now + hard + connection.over_time),
            next_id: new.next_id,
            last_inbound: now,
            last_outbound: now,
            requests: Reassembly::default(),
            answers: Reassembly::default(),
        }
    }

    /// The SA begins its life in the eyes of everybody else.
    pub(crate) fn came_up(
        &self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        replaces: Option<IkeId>,
        initial_contact: bool,
    ) {
        match replaces {
            None => cx.stats.ike_main_mode_initial += 1,
            Some(_) => cx.stats.ike_main_mode_rekey += 1,
        }
        head.info(cx, format_args!("established with {}", self.chosen));
        let connection = head.connection.name.clone();
        cx.event(Event::IkeUp { ike: head.id, connection: connection.clone(), replaces });
        let (local, remote) = (self.local_id.clone(), self.remote_id.clone());
        let known = Known { connection, local, remote };
        cx.effect(Effect::Authenticated {
            id: head.id,
            known,
            initial_contact: initial_contact && replaces.is_none(),
            fresh: replaces.is_none(),
        });
        for request in core::mem::take(&mut head.waiters) {
            let ike = Some(head.id);
            cx.tag_done(Some(request), Ok(Outcome { matched: 1, ike, pair: None }));
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        self.life == Life::Active
    }

    /// Takes any message with the SA's SPIs.
    pub(crate) fn handle(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        path: Path,
        message: &Message<'_>,
        digest: Digest,
    ) -> State {
        let header = &message.header;
        if header.flags.contains(Flags::RESPONSE) {
            return self.handle_answer(head, cx, path, message, digest);
        }
        match self.inbound.judge(header.message_id.0, &digest) {
            Verdict::New => {}
            Verdict::Working => return State::Established(self),
            Verdict::Repeated(datagrams) => {
                cx.stats.answers_repeated += 1;
                for datagram in datagrams {
                    cx.transmit(path, datagram.clone());
                }
                return State::Established(self);
            }
            Verdict::Stale => {
                cx.stats.invalid_packets_received += 1;
                return State::Established(self);
            }
        }
        let exchange = header.exchange;
        let known = matches!(exchange, ExchangeType::CreateChildSa | ExchangeType::Informational);
        let opened = if known { self.keys.open(message) } else { None };
        let Some(opened) = opened else {
            cx.stats.invalid_packets_received += 1;
            return State::Established(self);
        };
        self.heard(head, cx, path);
        let Some((opened, digest)) = self.requests.add(cx, header.message_id.0, opened, digest)
        else {
            return State::Established(self);
        };
        self.inbound.begin(digest);
        self.handle_request(head, cx, exchange, &opened)
    }

    fn handle_request(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        exchange: ExchangeType,
        opened: &Opened,
    ) -> State {
        let payloads = match opened.payloads() {
            Ok(payloads) => payloads,
            Err(fault @ InvalidMessage::UnsupportedCritical(_)) => {
                cx.stats.invalid_packets_received += 1;
                self.refuse(head, cx, exchange, fault.into());
                return State::Established(self);
            }
            Err(fault) => {
                // RFC 7296 §2.21.3: fatal at both ends.
                cx.stats.invalid_packets_received += 1;
                self.refuse(head, cx, exchange, fault.into());
                return self.close(head, cx, Failure::Misbehaved);
            }
        };
        match exchange {
            ExchangeType::CreateChildSa => match self.create_child_request(head, cx, &payloads) {
                Ok(()) => State::Established(self),
                Err(fault) => self.refuse_or_close(head, cx, fault),
            },
            _ => self.informational_request(head, cx, &payloads),
        }
    }

    fn handle_answer(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        path: Path,
        message: &Message<'_>,
        digest: Digest,
    ) -> State {
        let header = &message.header;
        let id = header.message_id.0;
        let expected = matches!(&self.current, Current::Waiting { sent, exchange, .. }
            if sent.id == id && *exchange == header.exchange);
        let opened = if expected { self.keys.open(message) } else { None };
        let Some(opened) = opened else {
            cx.stats.invalid_packets_received += 1;
            return State::Established(self);
        };
        self.heard(head, cx, path);
        let Some((opened, _)) = self.answers.add(cx, id, opened, digest) else {
            return State::Established(self);
        };
        let Current::Waiting { request, .. } = core::mem::replace(&mut self.current, Current::Idle)
        else {
            return State::Established(self);
        };
        let Ok(payloads) = opened.payloads() else {
            // RFC 7296 §2.21.3: an answer that cannot be read leaves the two sides apart: the SA ends.
            cx.stats.invalid_packets_received += 1;
            self.give_back(head, cx, request, Failure::Misbehaved);
            return self.close(head, cx, Failure::Misbehaved);
        };
        // RFC 7296 §2.21.3: so does the peer's word that it could not read ours.
        if payloads.notify(NotifyType::InvalidSyntax).is_some() {
            self.give_back(head, cx, request, Failure::Refused(NotifyType::InvalidSyntax.number()));
            return self.close(head, cx, Failure::Misbehaved);
        }
        match request {
            Request::Child(asking) => self.asked_child(head, cx, *asking, &payloads),
            Request::Ike(asking) => return self.asked_ike(head, cx, *asking, &payloads),
            Request::DeleteChild { pair, reason, tag } => {
                self.deleted_child(head, cx, pair, reason);
                cx.tag_done(tag, Ok(Outcome { matched: 1, ike: Some(head.id), pair: Some(pair) }));
            }
            Request::DeleteIke { tag } => {
                cx.tag_done(tag, Ok(Outcome { matched: 1, ike: Some(head.id), pair: None }));
                return self.gone(head, cx);
            }
            Request::DeleteSpi | Request::Liveness => {}
        }
        State::Established(self)
    }

    /// An authentic message came in.
    fn heard(&mut self, head: &mut Head, cx: &mut Cx<'_>, path: Path) {
        self.last_inbound = cx.now;
        // RFC 7296 §2.23: a peer behind a NAT is followed where its messages come from, unless we are behind one too
        // (then its own address would be our NAT's guess).
        if head.nat.remote && !head.nat.local && path.remote != head.path.remote {
            head.path.remote = path.remote;
            self.moved(head, cx);
        }
    }

    /// Tells that the pairs of this SA have another path now.
    pub(crate) fn moved(&self, head: &Head, cx: &mut Cx<'_>) {
        let pairs: Vec<_> = self.children.keys().copied().collect();
        if !pairs.is_empty() {
            let encap = head.nat.encapsulates();
            cx.event(Event::PeerMoved { pairs, path: head.path, encap });
        }
    }

    /// Authentic ESP came from elsewhere (RFC 7296 §2.23).
    pub(crate) fn peer_moved(
        &mut self,
        head: &mut Head,
        remote: core::net::SocketAddr,
    ) -> Option<Event> {
        let Nat { remote: behind, local, .. } = head.nat;
        if !behind || local || head.path.remote == remote {
            return None;
        }
        head.path.remote = remote;
        let pairs: Vec<_> = self.children.keys().copied().collect();
        Some(Event::PeerMoved { pairs, path: head.path, encap: head.nat.encapsulates() })
    }

    /// Authentic ESP came in on a pair: the first on a successor puts its outbound half to use.
    pub(crate) fn inbound_traffic(&mut self, now: Instant, pair: PairId) -> Option<Event> {
        self.last_inbound = now;
        let child = self.children.get_mut(&pair)?;
        let waiting = core::mem::replace(&mut child.waits_for_traffic, false);
        waiting.then_some(Event::ActivateOutbound { pair })
    }

    // Sending.

    /// Sends a request. The caller has seen to it that none is under way.
    pub(crate) fn request(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        exchange: ExchangeType,
        list: &PayloadList,
        request: Request,
    ) -> Result<(), (Request, Fault)> {
        let id = self.next_id;
        let header = Header::v2(head.spi_i, head.spi_r, exchange, head.flags(false), MessageId(id));
        let limit = self.limit(cx);
        let Ok(datagrams) = self.keys.seal(&header, list, limit) else {
            return Err((request, Fault::Local(Local::Library)));
        };
        // RFC 7296 §2.2: the SA is rekeyed long before the IDs end; at the end nothing more is sent.
        let Some(next) = id.checked_add(1) else {
            return Err((request, Fault::Local(Local::Library)));
        };
        self.next_id = next;
        for datagram in &datagrams {
            cx.transmit(head.path, datagram.clone());
        }
        self.last_outbound = cx.now;
        let sent = Sent::new(cx.now, &cx.config.settings, id, datagrams);
        self.current = Current::Waiting { sent, exchange, request };
        Ok(())
    }

    /// Answers the request that is being worked on.
    pub(crate) fn respond(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        exchange: ExchangeType,
        list: &PayloadList,
    ) {
        let id = MessageId(self.inbound.next());
        let header = Header::v2(head.spi_i, head.spi_r, exchange, head.flags(true), id);
        let limit = self.limit(cx);
        if let Ok(datagrams) = self.keys.seal(&header, list, limit) {
            for datagram in &datagrams {
                cx.transmit(head.path, datagram.clone());
            }
            self.last_outbound = cx.now;
            self.inbound.answer(datagrams);
        }
    }

    /// Answers with an error.
    pub(crate) fn refuse(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        exchange: ExchangeType,
        fault: Fault,
    ) {
        let mut list = PayloadList::new();
        if let Some(kind) = fault.notify() {
            list.push(&Notify::new(kind, &fault.notify_data()));
        }
        self.respond(head, cx, exchange, &list);
    }

    /// Refuses a CREATE_CHILD_SA request; INVALID_SYNTAX ends the SA at both sides (RFC 7296 §2.21.3).
    fn refuse_or_close(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        fault: Fault,
    ) -> State {
        self.refuse(head, cx, ExchangeType::CreateChildSa, fault);
        if fault.notify() == Some(NotifyType::InvalidSyntax) {
            cx.stats.invalid_packets_received += 1;
            return self.close(head, cx, Failure::Misbehaved);
        }
        State::Established(self)
    }

    fn limit(&self, cx: &Cx<'_>) -> Option<usize> {
        self.abilities.fragmentation.then_some(cx.config.settings.fragment_size)
    }

    // Jobs and installations.

    pub(crate) fn job_done(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        number: u64,
        result: Result<Product, KeyExchangeError>,
    ) -> State {
        match core::mem::replace(&mut self.answering, Answering::Nothing) {
            Answering::ChildKeying { job, keying } if job == number => {
                return match self.child_keyed(head, cx, *keying, result) {
                    Ok(()) => State::Established(self),
                    Err(fault) => self.refuse_or_close(head, cx, fault),
                };
            }
            Answering::IkeKeying { job, keying } if job == number => {
                return match self.ike_keyed(head, cx, *keying, result) {
                    Ok(()) => State::Established(self),
                    Err(fault) => self.refuse_or_close(head, cx, fault),
                };
            }
            other => self.answering = other,
        }
        match core::mem::replace(&mut self.current, Current::Idle) {
            Current::Generating { job, asking } if job == number => {
                match asking {
                    Plan::Child(asking) => self.send_child(head, cx, *asking, Some(result)),
                    Plan::Ike(asking) => self.send_ike(head, cx, *asking, result),
                }
                State::Established(self)
            }
            Current::Finishing { job, finishing } if job == number => match finishing {
                Finishing::Child(finishing) => {
                    self.finish_child(head, cx, *finishing, result);
                    State::Established(self)
                }
                Finishing::Ike(finishing) => self.finish_ike(head, cx, *finishing, result),
            },
            other => {
                self.current = other;
                State::Established(self)
            }
        }
    }

    /// Responder: the inbound half first; the answer follows its acknowledgement.
    pub(crate) fn install_answering(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        prepared: Prepared,
        reply: Reply,
    ) {
        let Prepared { child, inbound, outbound, .. } = prepared;
        let install = install_inbound(cx, head, &child, inbound);
        self.children.insert(child.pair, child);
        self.answering = Answering::ChildInstalling { install, outbound, reply };
    }

    /// Initiator: both halves at once, the outbound one in use from now on.
    pub(crate) fn install_asked(&mut self, head: &Head, cx: &mut Cx<'_>, prepared: Prepared) {
        let Prepared { child, inbound, outbound, .. } = prepared;
        install_inbound(cx, head, &child, inbound);
        install_outbound(cx, head, &child, outbound, Activate::Now);
        self.children.insert(child.pair, child);
    }

    pub(crate) fn has_room(&self) -> bool {
        self.children.len() < MAX_CHILDREN
    }

    pub(crate) fn installed(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        id: InstallId,
        installing: &Installing,
        result: Result<(), InstallRefused>,
    ) {
        let pair = installing.pair;
        let waiting = matches!(&self.answering,
            Answering::ChildInstalling { install, .. } if *install == id);
        if waiting
            && let Answering::ChildInstalling { outbound, reply, .. } =
                core::mem::replace(&mut self.answering, Answering::Nothing)
        {
            match (result, self.children.get_mut(&pair)) {
                (Ok(()), Some(child)) => {
                    child.waits_for_traffic = child.replaces.is_some();
                    let activate = match child.replaces {
                        Some(_) => Activate::OnInboundTraffic,
                        None => Activate::Now,
                    };
                    install_outbound(cx, head, child, outbound, activate);
                    self.respond(head, cx, reply.exchange, &reply.accepted);
                    self.answered_rekey(cx, pair, reply.lowest);
                }
                _ => {
                    cx.stats.negotiation_failures += 1;
                    self.children.remove(&pair);
                    cx.effect(Effect::Forget(pair));
                    self.respond(head, cx, reply.exchange, &reply.refused);
                    return;
                }
            }
        }
        let Some(child) = self.children.get_mut(&pair) else { return };
        if result.is_err() {
            cx.stats.negotiation_failures += 1;
            self.drop_child(head, cx, pair, Failure::Dataplane);
            return;
        }
        match installing.half {
            Half::Inbound => child.up.0 = true,
            Half::Outbound => child.up.1 = true,
        }
        if child.up == (true, true) && child.phase == Phase::Installing {
            child.phase = Phase::Installed;
        }
        if child.up == (true, true) {
            self.child_up(head, cx, pair);
        }
    }

    /// Both halves are there.
    fn child_up(&mut self, head: &Head, cx: &mut Cx<'_>, pair: PairId) {
        let Some(child) = self.children.get_mut(&pair) else { return };
        cx.stats.ike_quick_mode += 1;
        let name = child.name(head);
        let selectors = child.selectors.clone();
        cx.event(Event::ChildUp { name, selectors, replaces: child.replaces });
        if core::mem::replace(&mut child.acquired, false) {
            let outcome = Outcome { matched: 1, ike: Some(head.id), pair: Some(pair) };
            head.acquired(cx, &child.config.name, Ok(outcome));
        }
    }

    /// Puts a pair out of use whose installation failed half way, and tells the peer.
    fn drop_child(&mut self, head: &mut Head, cx: &mut Cx<'_>, pair: PairId, reason: Failure) {
        let Some(child) = self.children.get_mut(&pair) else { return };
        if core::mem::replace(&mut child.acquired, false) {
            let name = child.config.name.clone();
            head.acquired(cx, &name, Err(reason));
        }
        child.phase = Phase::Deleting;
        head.push_task(Task::DeleteChild { pair, reason, tag: None });
    }

    // Timers.

    pub(crate) fn deadline(&self, head: &Head, keep_alive: Duration) -> Option<Instant> {
        let mut at: Vec<Option<Instant>> = Vec::with_capacity(8 + self.children.len());
        if let Current::Waiting { sent, .. } = &self.current {
            at.push(Some(sent.deadline()));
        }
        match self.life {
            Life::Active => {
                at.extend([self.rekey_at, self.reauth_at, self.expire_at, self.liveness_at(head)]);
            }
            Life::Rekeyed { until } => at.push(Some(until)),
            Life::Deleting { .. } => {}
        }
        if matches!(self.current, Current::Idle) {
            at.extend(head.tasks.iter().map(|queued| queued.not_before));
        }
        at.push(self.keepalive_at(head, keep_alive));
        at.extend(self.children.values().map(ChildSa::deadline));
        at.into_iter().flatten().min()
    }

    /// When the peer is asked whether it lives: after `dpd_delay` without a sign of it.
    fn liveness_at(&self, head: &Head) -> Option<Instant> {
        let delay = head.connection.dpd_delay;
        let idle = matches!(self.current, Current::Idle) && head.tasks.is_empty();
        (idle && !delay.is_zero()).then(|| self.last_inbound + delay)
    }

    /// When a NAT before us needs a packet to remember us (RFC 3948 §4).
    fn keepalive_at(&self, head: &Head, every: Duration) -> Option<Instant> {
        (head.nat.local && !every.is_zero()).then(|| self.last_outbound + every)
    }

    pub(crate) fn timeout(mut self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>) -> State {
        let now = cx.now;
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if let Current::Waiting { sent, .. } = &mut self.current {
            match sent.due(now, &cx.config.settings) {
                Due::NotYet => {}
                Due::Repeat(datagrams) => {
                    cx.stats.retransmissions += 1;
                    self.last_outbound = now;
                    for datagram in datagrams {
                        cx.transmit(head.path, datagram.clone());
                    }
                }
                Due::GiveUp => return self.peer_is_dead(head, cx),
            }
        }
        if let Life::Rekeyed { until } = self.life
            && until <= now
        {
            return self.gone(head, cx);
        }
        if self.is_active() {
            if due(self.expire_at) {
                self.expire_at = None;
                head.push_task(Task::DeleteIke {
                    reason: Failure::Expired,
                    reauthenticate: false,
                    tag: None,
                });
            }
            if due(self.reauth_at) {
                self.reauth_at = None;
                head.push_task(Task::DeleteIke {
                    reason: Failure::Replaced,
                    reauthenticate: true,
                    tag: None,
                });
            }
            if due(self.rekey_at) {
                self.rekey_at = None;
                head.push_task(Task::RekeyIke { tag: None });
            }
            if due(self.liveness_at(head)) {
                head.push_task(Task::Liveness);
            }
        }
        if due(self.keepalive_at(head, cx.config.settings.keep_alive)) {
            self.last_outbound = now;
            cx.transmit(head.path, vec![0xff]);
        }
        self.child_timers(head, cx);
        self.pump(head, cx);
        State::Established(self)
    }

    fn child_timers(&mut self, head: &mut Head, cx: &mut Cx<'_>) {
        let now = cx.now;
        let pairs: Vec<PairId> = self.children.keys().copied().collect();
        for pair in pairs {
            let Some(child) = self.children.get_mut(&pair) else { continue };
            if let Phase::Lingering { until } = child.phase {
                if until <= now {
                    self.children.remove(&pair);
                    cx.remove_pair(pair);
                }
                continue;
            }
            if child.expire_at.is_some_and(|at| at <= now) {
                child.expire_at = None;
                self.expire(head, pair);
                continue;
            }
            if child.phase == Phase::Installed && child.rekey_at.is_some_and(|at| at <= now) {
                child.rekey_at = None;
                head.push_task(Task::RekeyChild { pair, tag: None });
            }
        }
    }

    /// A limit of the dataplane is reached.
    pub(crate) fn limit_reached(
        &mut self,
        head: &mut Head,
        pair: PairId,
        limit: crate::event::Limit,
    ) {
        match limit {
            crate::event::Limit::Soft => {
                let queued = head.tasks.iter().any(
                    |q| matches!(q.task, Task::RekeyChild { pair: waiting, .. } if waiting == pair),
                );
                let live = self.children.get(&pair).is_some_and(|c| c.phase == Phase::Installed);
                if live && !queued {
                    head.push_task(Task::RekeyChild { pair, tag: None });
                }
            }
            crate::event::Limit::Hard => self.expire(head, pair),
        }
    }

    fn expire(&mut self, head: &mut Head, pair: PairId) {
        let Some(child) = self.children.get_mut(&pair) else { return };
        if !matches!(child.phase, Phase::Deleting | Phase::Lingering { .. }) {
            child.phase = Phase::Deleting;
            head.push_task(Task::DeleteChild { pair, reason: Failure::Expired, tag: None });
        }
    }

    /// Begins the next task, if nothing is under way.
    pub(crate) fn pump(&mut self, head: &mut Head, cx: &mut Cx<'_>) {
        while matches!(self.current, Current::Idle) && !matches!(self.life, Life::Deleting { .. }) {
            let eligible = |queued: &Queued| {
                let ready = queued.not_before.is_none_or(|at| at <= cx.now);
                // RFC 7296 §2.25.1: an IKE SA is not rekeyed while the peer makes a child on it.
                let free = !matches!(queued.task, Task::RekeyIke { .. })
                    || matches!(self.answering, Answering::Nothing);
                ready && free
            };
            let urgent = head.tasks.iter().position(|q| matches!(q.task, Task::DeleteIke { .. }));
            let next = urgent.or_else(|| head.tasks.iter().position(eligible));
            let Some(queued) = next.and_then(|at| head.tasks.remove(at)) else { return };
            self.begin(head, cx, queued);
        }
    }

    fn begin(&mut self, head: &mut Head, cx: &mut Cx<'_>, queued: Queued) {
        let Queued { task, attempts, .. } = queued;
        // On an SA that has a successor, what is left moves or ends.
        let active = self.is_active();
        match task {
            Task::CreateChild { config, packet } if active => {
                self.ask_new_child(head, cx, config, packet, attempts);
            }
            Task::RekeyChild { pair, tag } if active => self.ask_child_rekey(head, cx, pair, tag),
            Task::RekeyIke { tag } if active => self.ask_ike_rekey(head, cx, tag),
            Task::DeleteChild { pair, reason, tag } => {
                self.ask_delete_child(head, cx, pair, reason, tag);
            }
            Task::DeleteSpi { protocol, spi } => self.ask_delete_spi(head, cx, protocol, spi),
            Task::DeleteIke { reason, reauthenticate, tag } => {
                self.ask_delete_ike(head, cx, reason, reauthenticate, tag);
            }
            Task::Liveness if active => self.ask_liveness(head, cx),
            task @ (Task::CreateChild { .. }
            | Task::RekeyChild { .. }
            | Task::RekeyIke { .. }
            | Task::Liveness) => head.fail_task(cx, task, Failure::Replaced),
        }
    }

    // The end.

    /// No answer to the last repeat (RFC 7296 §2.4).
    fn peer_is_dead(mut self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>) -> State {
        if let Life::Deleting { .. } = self.life {
            return self.gone(head, cx);
        }
        if let Current::Waiting { request, .. } =
            core::mem::replace(&mut self.current, Current::Idle)
        {
            self.give_back(head, cx, request, Failure::Timeout);
        }
        self.destroy(head, cx, Failure::Timeout)
    }

    /// The SA ends after an answer of ours: it is remembered for that answer.
    pub(crate) fn close(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        reason: Failure,
    ) -> State {
        let inbound = core::mem::replace(&mut self.inbound, Inbound::new(0));
        self.destroy(head, cx, reason);
        State::Closed(Closed { inbound, until: cx.now + REMEMBERED, failed: false })
    }

    /// Ends the SA at once; the peer is told if nothing else is under way.
    pub(crate) fn force_delete(mut self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>) -> State {
        if matches!(self.current, Current::Idle) {
            self.ask_delete_ike(head, cx, Failure::Terminated, false, None);
        }
        self.destroy(head, cx, Failure::Terminated)
    }

    /// Child negotiations under way.
    pub(crate) fn negotiations(&self) -> usize {
        let asking = matches!(
            self.current,
            Current::Generating { asking: Plan::Child(_), .. }
                | Current::Waiting { request: Request::Child(_), .. }
                | Current::Finishing { finishing: Finishing::Child(_), .. }
        );
        let answering = matches!(self.answering, Answering::ChildKeying { .. });
        let installing =
            self.children.values().filter(|child| child.phase == Phase::Installing).count();
        usize::from(asking) + usize::from(answering) + installing
    }

    /// Fragments that wait for their others.
    pub(crate) fn fragments_held(&self) -> usize {
        self.requests.held() + self.answers.held()
    }

    /// The end of an SA whose delete is through, or that has a successor.
    fn gone(self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>) -> State {
        let reason = match self.life {
            Life::Active => Failure::Terminated,
            Life::Rekeyed { .. } => Failure::Replaced,
            Life::Deleting { reason, .. } => reason,
        };
        if let Life::Deleting { reauthenticate: true, .. } = self.life {
            let children = self.children_to_renew();
            let connection = head.connection.clone();
            cx.effect(Effect::Reinitiate { connection, children, tag: None });
        }
        self.destroy(head, cx, reason)
    }

    /// Ends the SA and its children without a word to the peer.
    pub(crate) fn destroy(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        reason: Failure,
    ) -> State {
        match core::mem::replace(&mut self.current, Current::Idle) {
            Current::Idle => {}
            Current::Generating { asking: Plan::Child(asking), .. } => {
                self.give_back(head, cx, Request::Child(asking), reason);
            }
            Current::Generating { asking: Plan::Ike(asking), .. } => {
                self.give_back(head, cx, Request::Ike(asking), reason);
            }
            Current::Waiting { request, .. } => self.give_back(head, cx, request, reason),
            Current::Finishing { finishing: Finishing::Child(finishing), .. } => {
                finishing.give_back(head, cx, reason);
            }
            Current::Finishing { finishing: Finishing::Ike(finishing), .. } => {
                finishing.give_back(cx, reason);
            }
        }
        match core::mem::replace(&mut self.answering, Answering::Nothing) {
            Answering::ChildKeying { keying, .. } => keying.give_back(cx),
            Answering::ChildInstalling { .. }
            | Answering::IkeKeying { .. }
            | Answering::Nothing => {}
        }
        if let Some(peer) = self.peer_rekey.take() {
            // The peer made a successor and the SA is gone: the children live on there.
            self.hand_over(head, cx, peer.successor);
        }
        let pairs: Vec<PairId> = self.children.keys().copied().collect();
        for pair in pairs {
            self.remove_child(head, cx, pair, reason);
        }
        if let Life::Rekeyed { .. } = self.life {
            for queued in core::mem::take(&mut head.tasks) {
                head.fail_task(cx, queued.task, reason);
            }
            return State::Gone;
        }
        head.end(cx, reason)
    }

    /// Undoes a request that will not be answered.
    fn give_back(&mut self, head: &mut Head, cx: &mut Cx<'_>, request: Request, reason: Failure) {
        match request {
            Request::Child(asking) => asking.give_back(head, cx, reason),
            Request::Ike(asking) => asking.give_back(cx, reason),
            Request::DeleteChild { tag, .. } | Request::DeleteIke { tag } => {
                cx.tag_done(tag, Ok(Outcome::default()));
            }
            Request::DeleteSpi | Request::Liveness => {}
        }
    }

    /// Takes a Child SA away at once.
    pub(crate) fn remove_child(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        pair: PairId,
        reason: Failure,
    ) {
        let Some(child) = self.children.remove(&pair) else { return };
        cx.remove_pair(pair);
        if child.acquired {
            head.acquired(cx, &child.config.name, Err(reason));
        }
        let replaced = matches!(child.phase, Phase::Rekeyed | Phase::Lingering { .. })
            || (child.phase == Phase::Deleting && reason == Failure::Replaced);
        if !replaced && child.up == (true, true) {
            let action = match reason {
                Failure::Timeout => child.config.dpd_action,
                Failure::DeletedByPeer => child.config.close_action,
                _ => crate::config::ChildAction::None,
            };
            cx.event(Event::ChildDown { name: child.name(head), reason, action });
        }
    }

    /// Lets the inbound half of a replaced pair wait for the last packets.
    pub(crate) fn linger(&mut self, cx: &mut Cx<'_>, pair: PairId) {
        if let Some(child) = self.children.get_mut(&pair) {
            child.phase = Phase::Lingering { until: cx.now + LINGER };
            cx.event(Event::RemoveOutbound { pair });
        }
    }
}
