//! An established ISAKMP SA: its messages, its tasks, its timers and how it ends.

use super::fragment;
use super::phase1::renewal_after;
use super::quick::{Exchange, Quick};
use super::sa::{Closed, State, Verified};
use super::session::Session;
use super::successor::{Succession, is_of_children};
use super::suite::Life as Offered;
use super::transaction::{Transactions, Verdict};
use super::vendor::Abilities;
use super::volume::Volume;
use crate::config::{ChildAction, Identity};
use crate::context::{Cx, Effect};
use crate::event::{Event, Failure, IkeId, Level, Limit, Outcome, Path, RequestId};
use crate::known::Known;
use crate::message::v1::{Body, Message, PayloadType};
use crate::message::{ExchangeType, MessageId};
use crate::proposal::Chosen;
use crate::v2::child::{ChildSa, Phase};
use crate::v2::create_child::retry_after;
use crate::v2::sa::{Head, Nat};
use crate::v2::task::Task;
use crate::v2::window::{Digest, Sent};
use crate::view::Role;
use core::net::SocketAddr;
use ipsec::sa::PairId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Message IDs that one ISAKMP SA remembers, ours and the peer's, so that none is used twice and nothing recorded can be
/// played again. At three quarters a successor is negotiated; with a liveness check from each side every 30 s that is
/// after two days. At the end nothing new is begun or taken.
const MAX_MESSAGE_IDS: usize = 16_384;

/// Quick modes of ours that may be under way at once; more wait for their turn.
const MAX_ASKING: usize = 8;

/// After what time an ISAKMP SA that was to end and could not yet looks whether it can.
const LOOKED_AGAIN: Duration = Duration::from_secs(1);

/// How long a deleted ISAKMP SA is remembered for a repeat of its delete.
const REMEMBERED: Duration = Duration::from_secs(12);

/// How long the replacement of one of two Child SAs for the same traffic waits for that of the other.
const SECOND_WAITS: Duration = Duration::from_secs(10);

/// How much later than its soft lifetime says the side that answered renews something, at most, so that both sides with the same lifetimes
/// do not begin at once.
pub(super) const ANSWERER_LATER: Duration = Duration::from_secs(5);

/// How long a pair still receives after the peer was told that it goes.
const TOLD: Duration = Duration::from_secs(2);

/// What an established ISAKMP SA begins with.
pub(crate) struct NewSa {
    pub(crate) session: Session,
    pub(crate) chosen: Chosen,
    pub(crate) abilities: Abilities,
    pub(crate) verified: Verified,
    /// The lifetime that the offer named.
    pub(crate) life: Offered,
}

/// Where an established ISAKMP SA is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// In use.
    Active,
    /// A successor is being negotiated.
    Renewing,
    /// The successor has the children; deleted at this time.
    Replaced { until: Instant },
}

/// A question whether the peer lives (RFC 3706 §5).
pub(crate) struct Probe {
    pub(crate) sent: Sent,
    pub(crate) sequence: u32,
}

/// An established ISAKMP SA.
pub(crate) struct Established {
    pub(crate) session: Session,
    pub(crate) chosen: Chosen,
    pub(crate) abilities: Abilities,
    pub(crate) local_id: Identity,
    pub(crate) remote_id: Identity,
    initial_contact: bool,
    pub(crate) life: Life,
    /// When it came up (`Registry::moment`).
    pub(crate) since: u64,
    pub(crate) succession: Succession,
    /// Quick modes by message ID, lately finished ones included.
    pub(crate) exchanges: BTreeMap<u32, Exchange>,
    used: BTreeSet<u32>,
    pub(crate) children: BTreeMap<PairId, ChildSa>,
    pub(crate) established: Instant,
    pub(crate) reauth_at: Option<Instant>,
    pub(crate) expire_at: Option<Instant>,
    pub(super) volume: Volume,
    pub(crate) last_inbound: Instant,
    pub(crate) last_outbound: Instant,
    /// The fifth message and our answer to it.
    sixth: Option<(Digest, Vec<u8>)>,
    /// The last message of aggressive mode, as long as it is not known whether the peer has it.
    pub(crate) third: Option<Vec<u8>>,
    /// The last informational exchange of the peer and our answer to it, if it has one.
    pub(crate) last_informational: Option<(Digest, Option<Vec<u8>>)>,
    /// XAUTH and Mode Config.
    pub(crate) transactions: Transactions,
    pub(crate) probe: Option<Probe>,
    /// The number of our last R-U-THERE.
    pub(crate) sequence: u32,
    /// The number of the peer's last one.
    pub(crate) peer_sequence: Option<u32>,
}

impl Established {
    pub(crate) fn new(head: &Head, cx: &mut Cx<'_>, new: NewSa) -> Self {
        let now = cx.now;
        let connection = &head.connection;
        let rand = cx.random.below(connection.rand_time);
        let soft = renewal_after(head);
        let ours = soft.map(|soft| soft.saturating_add(connection.over_time));
        // RFC 2409 §4: the peer's lifetime binds us too.
        let hard = ours.into_iter().chain(new.life.time).min();
        let early = |t: Duration| t.saturating_sub(rand).max(Duration::from_secs(1));
        Self {
            session: new.session,
            chosen: new.chosen,
            abilities: new.abilities,
            local_id: new.verified.local_id,
            remote_id: new.verified.remote_id,
            initial_contact: new.verified.beside.initial_contact,
            life: Life::Active,
            since: cx.registry.moment.next(),
            succession: Succession::default(),
            exchanges: BTreeMap::new(),
            // Zero is phase 1's.
            used: BTreeSet::from([0]),
            children: BTreeMap::new(),
            established: now,
            reauth_at: soft
                .and_then(|soft| now.checked_add(early(soft)))
                .map(|at| later(head.role, at, hard.and_then(|hard| now.checked_add(hard)))),
            expire_at: hard.and_then(|hard| now.checked_add(hard)),
            volume: Volume::new(new.life.kilobytes),
            last_inbound: now,
            last_outbound: now,
            sixth: None,
            third: None,
            last_informational: None,
            transactions: Transactions::new(head, now, cx.config.settings.half_open_timeout),
            probe: None,
            // RFC 3706 §7: it begins at random, below the half.
            sequence: u32::from_be_bytes(cx.random.array()) >> 1,
            peer_sequence: None,
        }
    }

    /// Initiator of aggressive mode: what a repeat of the second message gets. Nothing answers the third, so it goes out again
    /// with what is repeated until the peer is heard.
    pub(crate) fn remember_third(&mut self, second: Digest, third: Vec<u8>) {
        self.third = Some(third.clone());
        self.sixth = Some((second, third));
    }

    /// Responder: what a repeat of the fifth message gets.
    pub(crate) fn remember_sixth(&mut self, fifth: Digest, sixth: Vec<u8>) {
        self.sixth = Some((fifth, sixth));
    }

    /// The SA begins its life in the eyes of everybody else.
    pub(crate) fn came_up(&mut self, head: &mut Head, cx: &mut Cx<'_>, replaces: Option<IkeId>) {
        if self.transactions.wait_for_user(replaces) {
            return;
        }
        self.transactions.wanted =
            replaces.and_then(|old| cx.registry.own_addresses.get(&old).copied());
        match replaces {
            None => cx.stats.ike_main_mode_initial += 1,
            Some(_) => cx.stats.ike_main_mode_rekey += 1,
        }
        head.info(cx, format_args!("established by main mode with {}", self.chosen));
        let connection = head.connection.name.clone();
        cx.event(Event::IkeUp { ike: head.id, connection: connection.clone(), replaces });
        let known = Known { connection, local: self.local_id.clone(), remote: self.peer().clone() };
        self.succession.enters = Some(replaces);
        cx.effect(Effect::Authenticated {
            id: head.id,
            known,
            initial_contact: self.initial_contact,
            fresh: replaces.is_none(),
        });
        for request in core::mem::take(&mut head.waiters) {
            let ike = Some(head.id);
            cx.tag_done(Some(request), Ok(Outcome { matched: 1, ike, pair: None }));
        }
    }

    /// Whether the peer knew of no other SA with us when it came.
    pub(super) const fn has_initial_contact(&self) -> bool {
        self.initial_contact
    }

    /// Whether it is the one, of those between the same two, that quick modes of ours begin on and that is renewed.
    pub(crate) const fn is_active(&self) -> bool {
        matches!(self.life, Life::Active | Life::Renewing) && self.succession.heir.is_none()
    }

    /// Takes any message with the SA's cookies.
    pub(crate) fn handle(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        path: Path,
        message: &Message<'_>,
        digest: Digest,
    ) -> State {
        let header = &message.header;
        if let Some((question, answer)) = &self.sixth
            && *question == digest
        {
            cx.stats.answers_repeated += 1;
            fragment::send(head, cx, path, answer);
            return State::Established(self);
        }
        let Body::Encrypted { first, ciphertext } = message.body else {
            // A main mode message once more, or a notify in clear: neither changes anything.
            let told = matches!(
                header.exchange,
                ExchangeType::IdentityProtection
                    | ExchangeType::Aggressive
                    | ExchangeType::InformationalV1
            );
            if !told {
                cx.stats.invalid_packets_received += 1;
            }
            return State::Established(self);
        };
        match header.exchange {
            // Of phase 1, and nothing new.
            ExchangeType::IdentityProtection | ExchangeType::Aggressive => State::Established(self),
            // The first payload of both is HASH (RFC 2409 §5.5, §5.7).
            _ if first != PayloadType::Hash.number() => {
                cx.stats.invalid_packets_received += 1;
                State::Established(self)
            }
            ExchangeType::QuickMode => {
                let id = header.message_id;
                let parts = (id, header.flags, first, ciphertext);
                self.quick_message(head, cx, path, parts, digest);
                State::Established(self)
            }
            ExchangeType::Transaction => {
                let parts = (header.message_id, first, ciphertext);
                let verdict = self.transaction_message(head, cx, path, parts, digest);
                self.settle(head, cx, verdict)
            }
            ExchangeType::InformationalV1 => {
                let id = header.message_id;
                self.informational(head, cx, path, (id, first, ciphertext), digest)
            }
            _ => {
                cx.stats.invalid_packets_received += 1;
                State::Established(self)
            }
        }
    }

    fn settle(self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>, verdict: Verdict) -> State {
        match verdict {
            Verdict::Stays => State::Established(self),
            Verdict::Ends(reason) => {
                self.transactions_failed(cx, reason);
                self.delete(head, cx, reason)
            }
        }
    }

    /// An authentic message came in.
    pub(crate) fn heard(&mut self, head: &mut Head, cx: &mut Cx<'_>, path: Path) {
        self.last_inbound = cx.now;
        self.look_at_volume(head, cx);
        self.third = None;
        // A peer behind a NAT is followed where its messages come from, unless we are behind one too.
        if head.nat.remote && !head.nat.local && path.remote != head.path.remote {
            head.path.remote = path.remote;
            self.moved(head, cx);
        }
    }

    fn moved(&self, head: &Head, cx: &mut Cx<'_>) {
        let pairs: Vec<_> = self.children.keys().copied().collect();
        if !pairs.is_empty() {
            let encap = head.nat.encapsulates();
            cx.event(Event::PeerMoved { pairs, path: head.path, encap });
        }
    }

    /// Authentic ESP came from elsewhere.
    pub(crate) fn peer_moved(&mut self, head: &mut Head, remote: SocketAddr) -> Option<Event> {
        let Nat { remote: behind, local, .. } = head.nat;
        if !behind || local || head.path.remote == remote {
            return None;
        }
        head.path.remote = remote;
        let pairs: Vec<_> = self.children.keys().copied().collect();
        Some(Event::PeerMoved { pairs, path: head.path, encap: head.nat.encapsulates() })
    }

    /// Authentic ESP came in on a pair: the peer lives, and a held back outbound half may be used.
    pub(crate) fn inbound_traffic(&mut self, now: Instant, pair: PairId) -> Option<Event> {
        self.last_inbound = now;
        self.probe = None;
        self.exchanges.values_mut().for_each(|exchange| exchange.traffic(now, pair));
        let child = self.children.get_mut(&pair)?;
        let waiting = core::mem::replace(&mut child.waits_for_traffic, false);
        waiting.then_some(Event::ActivateOutbound { pair })
    }

    // Message IDs.

    /// A message ID for an exchange of ours; `None` when there is no more.
    pub(crate) fn fresh_id(&mut self, cx: &mut Cx<'_>) -> Option<MessageId> {
        if self.used.len() >= MAX_MESSAGE_IDS {
            return None;
        }
        // The set is small beside the space, so that a few draws always do.
        let drawn = (0..32).map(|_| u32::from_be_bytes(cx.random.array()));
        let id = drawn.into_iter().find(|id| !self.used.contains(id))?;
        self.used.insert(id);
        Some(MessageId(id))
    }

    /// Whether an exchange of the peer may begin with this ID.
    pub(crate) fn may_begin(&self, id: MessageId) -> bool {
        self.used.len() < MAX_MESSAGE_IDS && !self.used.contains(&id.0)
    }

    /// An authentic first message used the ID.
    pub(crate) fn has_begun(&mut self, id: MessageId) {
        self.used.insert(id.0);
    }

    pub(crate) fn send(&mut self, head: &Head, cx: &mut Cx<'_>, datagram: Vec<u8>) {
        fragment::send(head, cx, head.path, &datagram);
        self.last_outbound = cx.now;
        self.look_at_volume(head, cx);
    }

    // Tasks.

    /// Begins what waits, as far as it may.
    pub(crate) fn pump(mut self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>) -> State {
        self.begin_transaction(head, cx);
        self.follow(head, cx);
        let mut later = Vec::new();
        while let Some(queued) = head.tasks.pop_front() {
            let asking = self.exchanges.values().filter(|e| e.is_asking()).count();
            let waits = queued.not_before.is_some_and(|at| at > cx.now)
                || (self.succession.heir.is_some() && is_of_children(&queued.task))
                || ((asking >= MAX_ASKING || !self.transactions.are_over())
                    && matches!(queued.task, Task::CreateChild { .. } | Task::RekeyChild { .. }));
            if waits {
                later.push(queued);
                continue;
            }
            match queued.task {
                Task::DeleteIke { reason, reauthenticate: false, tag } => {
                    head.tasks.extend(later);
                    let done = Outcome { matched: 1, ike: Some(head.id), pair: None };
                    cx.tag_done(tag, Ok(done));
                    return self.delete(head, cx, reason);
                }
                task => self.begin(head, cx, task),
            }
        }
        head.tasks.extend(later);
        State::Established(self)
    }

    fn begin(&mut self, head: &mut Head, cx: &mut Cx<'_>, task: Task) {
        let active = self.is_active();
        match task {
            Task::CreateChild { config, packet } if active => {
                self.ask_new_child(head, cx, config, packet.as_ref());
            }
            Task::RekeyChild { pair, tag } if active => self.ask_child_rekey(head, cx, pair, tag),
            Task::RekeyIke { tag } | Task::DeleteIke { tag, .. } if active => {
                self.renew(head, cx, tag);
            }
            Task::DeleteChild { pair, reason, tag } => {
                self.delete_child(head, cx, pair, reason);
                let pair = Some(pair);
                cx.tag_done(tag, Ok(Outcome { matched: 1, ike: Some(head.id), pair }));
            }
            Task::DeleteSpi { protocol, spi } => self.send_delete(head, cx, protocol, &[spi]),
            Task::Liveness => self.ask_liveness(head, cx),
            task @ (Task::CreateChild { .. }
            | Task::RekeyChild { .. }
            | Task::RekeyIke { .. }
            | Task::DeleteIke { .. }) => head.fail_task(cx, task, Failure::Replaced),
        }
    }

    /// Negotiates a successor by a new main mode; the children go over to it when it is there.
    fn renew(&mut self, head: &Head, cx: &mut Cx<'_>, tag: Option<RequestId>) {
        if self.life == Life::Renewing {
            return cx.tag_done(tag, Err(Failure::Replaced));
        }
        self.life = Life::Renewing;
        self.reauth_at = None;
        let (connection, path) = (Arc::clone(&head.connection), head.path);
        cx.effect(Effect::Renewal { old: head.id, connection, path, tag });
    }

    /// The successor came to nothing: tried again while the SA lives.
    pub(crate) fn not_replaced(&mut self, cx: &mut Cx<'_>) {
        if self.life == Life::Renewing {
            self.life = Life::Active;
            let after = retry_after(cx);
            self.reauth_at = cx.now.checked_add(after);
        }
    }

    // Timers.

    pub(crate) fn deadline(&self, head: &Head, keep_alive: Duration) -> Option<Instant> {
        let mut at: Vec<Option<Instant>> = Vec::with_capacity(8);
        match self.life {
            Life::Active if self.succession.heir.is_none() => at.push(self.reauth_at),
            Life::Active | Life::Renewing => {}
            Life::Replaced { until } => at.push(Some(until)),
        }
        at.push(self.expire_at);
        at.push(self.transactions.deadline());
        at.push(self.liveness_at(head));
        at.push(self.keepalive_at(head, keep_alive));
        at.extend(head.tasks.iter().map(|queued| queued.not_before));
        at.extend(self.children.values().map(ChildSa::deadline));
        at.extend(self.exchanges.values().map(Exchange::deadline));
        at.into_iter().flatten().min()
    }

    /// When the peer is asked whether it lives, or asked again, or given up.
    fn liveness_at(&self, head: &Head) -> Option<Instant> {
        if let Some(probe) = &self.probe {
            let dead = self.dead_at(head);
            return Some(dead.map_or(probe.sent.deadline(), |at| at.min(probe.sent.deadline())));
        }
        let delay = head.connection.dpd_delay;
        let lives = !matches!(self.life, Life::Replaced { .. });
        let asks = self.abilities.dpd && lives && !delay.is_zero();
        if asks { self.last_inbound.checked_add(delay) } else { None }
    }

    /// `dpd_timeout`: from then on a silent peer counts as dead, whatever the repeats.
    pub(crate) fn dead_at(&self, head: &Head) -> Option<Instant> {
        let timeout = head.connection.dpd_timeout;
        if timeout.is_zero() { None } else { self.last_inbound.checked_add(timeout) }
    }

    /// When a NAT before us needs a packet to remember us (RFC 3948 §4).
    fn keepalive_at(&self, head: &Head, every: Duration) -> Option<Instant> {
        if head.nat.local && !every.is_zero() {
            self.last_outbound.checked_add(every)
        } else {
            None
        }
    }

    pub(crate) fn timeout(mut self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>) -> State {
        let now = cx.now;
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if let Life::Replaced { until } = self.life
            && until <= now
        {
            if self.is_empty() {
                return self.delete(head, cx, Failure::Replaced);
            }
            // What is under way ends by itself, and the peer has a successor for what it begins.
            self.life = Life::Replaced { until: now + LOOKED_AGAIN };
            cx.effect(Effect::Wards(head.id));
        }
        if due(self.expire_at) {
            return self.delete(head, cx, Failure::Expired);
        }
        let worn = self.used.len() > MAX_MESSAGE_IDS / 4 * 3;
        if self.life == Life::Active && self.is_active() && (due(self.reauth_at) || worn) {
            self.renew(head, cx, None);
        }
        if due(self.liveness_at(head)) && self.liveness_due(head, cx).is_none() {
            return self.destroy(head, cx, Failure::Timeout);
        }
        if due(self.keepalive_at(head, cx.config.settings.keep_alive)) {
            self.last_outbound = now;
            cx.transmit(head.path, vec![0xff]);
        }
        if let verdict @ Verdict::Ends(_) = self.transaction_timers(head, cx) {
            return self.settle(head, cx, verdict);
        }
        if self.quick_timers(head, cx).is_none() {
            return self.destroy(head, cx, Failure::Timeout);
        }
        self.child_timers(head, cx);
        self.pump(head, cx)
    }

    fn child_timers(&mut self, head: &mut Head, cx: &mut Cx<'_>) {
        let now = cx.now;
        let pairs: Vec<PairId> = self.children.keys().copied().collect();
        for pair in pairs {
            let Some(child) = self.children.get(&pair) else { continue };
            if let Phase::Lingering { until } = child.phase {
                if until <= now {
                    self.part(head, cx, pair);
                }
                continue;
            }
            if child.expire_at.is_some_and(|at| at <= now) {
                self.delete_child(head, cx, pair, Failure::Expired);
                continue;
            }
            if child.phase == Phase::Installed && child.rekey_at.is_some_and(|at| at <= now) {
                self.rekey_due(head, cx, pair);
            }
        }
    }

    /// A limit of the dataplane is reached.
    pub(crate) fn limit_reached(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        pair: PairId,
        limit: Limit,
    ) {
        let live = self.children.get(&pair).is_some_and(|c| c.phase == Phase::Installed);
        match limit {
            Limit::Soft if live => self.rekey_due(head, cx, pair),
            Limit::Soft => {}
            Limit::Hard => self.delete_child(head, cx, pair, Failure::Expired),
        }
    }

    /// A Child SA is to be replaced. Of two that came up at once, from both sides, one goes first, the same at both: what takes its
    /// place takes that of the other too.
    pub(crate) fn rekey_due(&mut self, head: &mut Head, cx: &mut Cx<'_>, pair: PairId) {
        let Some(child) = self.children.get_mut(&pair) else { return };
        child.rekey_at = None;
        let rank = rank(child);
        let (config, selectors) = (Arc::clone(&child.config), child.selectors.clone());
        let left = child.expire_at.map(|at| at.saturating_duration_since(cx.now) / 2);
        let later = left.map_or(SECOND_WAITS, |left| left.min(SECOND_WAITS));
        let is_second = self.children.values().any(|other| {
            other.pair != pair
                && matches!(other.phase, Phase::Installed | Phase::Rekeying)
                && other.config.name == config.name
                && other.selectors == selectors
                && self::rank(other) > rank
        });
        if is_second && later > LOOKED_AGAIN {
            if let Some(child) = self.children.get_mut(&pair) {
                child.rekey_at = cx.now.checked_add(later);
            }
        } else {
            head.push_task(Task::RekeyChild { pair, tag: None });
        }
    }

    // Ends.

    /// Ends the SA and its children and tells the peer, which does not answer (RFC 2408 §5.15).
    pub(crate) fn delete(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        reason: Failure,
    ) -> State {
        let with_children = self.is_last(reason);
        self.send_deletes(head, cx, with_children);
        self.destroy(head, cx, reason)
    }

    /// Ends the SA after a delete of the peer, which may come again.
    pub(crate) fn close(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        digest: Digest,
    ) -> State {
        let until = cx.now + REMEMBERED;
        self.destroy(head, cx, Failure::DeletedByPeer);
        State::Closed(Closed { digest, until, failed: false })
    }

    /// Ends the SA and its children without a word to the peer.
    pub(crate) fn destroy(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        reason: Failure,
    ) -> State {
        if let Some(address) = self.transactions.local.take() {
            cx.event(Event::VirtualAddress { ike: head.id, address, held: false });
        }
        if !self.is_last(reason) {
            self.leave_behind(head, cx, reason);
        }
        for (_, exchange) in core::mem::take(&mut self.exchanges) {
            exchange.give_back(head, cx, reason);
        }
        let pairs: Vec<PairId> = self.children.keys().copied().collect();
        for pair in pairs {
            self.remove_child(head, cx, pair, reason);
        }
        if let Life::Replaced { .. } = self.life {
            for queued in core::mem::take(&mut head.tasks) {
                head.fail_task(cx, queued.task, reason);
            }
            let name = &head.connection.name;
            cx.log(Level::Info, format!("IKE_SA {name}[{}] has its successor", head.id.0));
            return State::Gone;
        }
        if self.never_came_up(head, cx) {
            return State::Gone;
        }
        head.end(cx, reason);
        State::Gone
    }

    /// A replaced pair has received long enough: the peer is told, and only then, when what it sent before it heard that has come,
    /// the pair goes.
    fn part(&mut self, head: &Head, cx: &mut Cx<'_>, pair: PairId) {
        let Some(child) = self.children.get_mut(&pair) else { return };
        if core::mem::replace(&mut child.told, true) {
            return self.remove_child(head, cx, pair, Failure::Replaced);
        }
        child.phase = Phase::Lingering { until: cx.now + TOLD };
        let (protocol, spi) = (child.protocol, child.spi_in);
        self.send_delete(head, cx, protocol, &[spi]);
        cx.effect(Effect::TellDelete { ike: head.id, protocol, spi });
    }

    /// Takes a Child SA away at once and tells the peer.
    pub(crate) fn delete_child(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        pair: PairId,
        reason: Failure,
    ) {
        if let Some(child) = self.children.get(&pair) {
            let (protocol, spi) = (child.protocol, child.spi_in);
            self.send_delete(head, cx, protocol, &[spi]);
            cx.effect(Effect::TellDelete { ike: head.id, protocol, spi });
        }
        self.remove_child(head, cx, pair, reason);
    }

    /// Takes a Child SA away at once.
    pub(crate) fn remove_child(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        pair: PairId,
        reason: Failure,
    ) {
        self.release_heirs(head, cx, pair);
        let Some(child) = self.children.remove(&pair) else { return };
        let lost = |exchange: &mut Exchange| exchange.lost(cx.now, pair);
        let spared: Vec<PairId> = self.exchanges.values_mut().flat_map(lost).collect();
        self.retry_rekeys(cx, spared);
        cx.remove_pair(pair);
        if child.acquired {
            head.acquired(cx, &child.config.name, Err(reason));
        }
        // Where another one serves the same traffic, nothing is down.
        let serves = |other: &ChildSa| {
            matches!(other.phase, Phase::Installed | Phase::Rekeying)
                && other.config.name == child.config.name
                && other.selectors == child.selectors
        };
        if !self.children.values().any(serves)
            && let Some(event) = down(head, &child, reason)
        {
            cx.event(event);
        }
    }

    /// Lets a replaced pair receive for a while longer; then it is deleted.
    pub(crate) fn retire(&mut self, cx: &mut Cx<'_>, pair: PairId, after: Duration) {
        if let Some(child) = self.children.get_mut(&pair)
            && !matches!(child.phase, Phase::Lingering { .. })
        {
            child.phase = Phase::Lingering { until: cx.now + after };
            child.waits_for_traffic = false;
            cx.event(Event::RemoveOutbound { pair });
        }
    }

    /// Quick modes under way.
    pub(crate) fn negotiations(&self) -> usize {
        self.exchanges.values().filter(|e| !matches!(e.quick, Quick::Over { .. })).count()
    }
}

/// What is told of a Child SA that goes and had not been replaced.
pub(super) fn down(head: &Head, child: &ChildSa, reason: Failure) -> Option<Event> {
    if matches!(child.phase, Phase::Lingering { .. }) || child.up != (true, true) {
        return None;
    }
    let action = match reason {
        Failure::Timeout => child.config.dpd_action,
        Failure::DeletedByPeer => child.config.close_action,
        _ => ChildAction::None,
    };
    Some(Event::ChildDown { name: child.name(head), reason, action })
}

/// When the side with this role renews what is due at `soft` and ends at `hard`: a part of the time between them later, where it
/// answered.
pub(super) fn later(role: Role, soft: Instant, hard: Option<Instant>) -> Instant {
    let between = hard.map(|hard| hard.saturating_duration_since(soft) / 8);
    match (role, between) {
        (Role::Responder, Some(between)) => soft + between.min(ANSWERER_LATER),
        _ => soft,
    }
}

/// Which of two Child SAs for the same traffic goes before the other; the same at both sides.
fn rank(child: &ChildSa) -> (u32, u32) {
    let (a, b) = (child.spi_in.get(), child.spi_out.get());
    (a.min(b), a.max(b))
}
