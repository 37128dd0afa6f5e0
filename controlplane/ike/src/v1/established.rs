//! An established ISAKMP SA: its messages, its message IDs and its tasks.
//!
//! | module | what |
//! |---|---|
//! | `timers` | what it does when a time or a limit has come |
//! | `ends` | how it and its children end |

mod ends;
mod timers;

pub(super) use ends::down;
pub(super) use timers::{ANSWERER_LATER, later};

use super::fragment;
use super::phase1::renewal_after;
use super::quick::{Exchange, Quick};
use super::sa::{State, Verified};
use super::session::Session;
use super::successor::{Succession, is_of_children};
use super::suite::Life as Offered;
use super::transaction::{Transactions, Verdict};
use super::vendor::Abilities;
use super::volume::Volume;
use crate::config::Identity;
use crate::context::{Cx, Effect};
use crate::event::{Event, Failure, IkeId, Outcome, Path, RequestId};
use crate::known::Known;
use crate::message::v1::{Body, Message, PayloadType};
use crate::message::{ExchangeType, MessageId};
use crate::proposal::Chosen;
use crate::v2::child::ChildSa;
use crate::v2::create_child::retry_after;
use crate::v2::sa::{Head, Nat};
use crate::v2::task::Task;
use crate::v2::window::{Digest, Sent};
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
            cx.stats.invalid_packets_received += 1;
            return State::Established(self);
        };
        match header.exchange {
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

    /// Quick modes under way.
    pub(crate) fn negotiations(&self) -> usize {
        self.exchanges.values().filter(|e| !matches!(e.quick, Quick::Over { .. })).count()
    }
}
