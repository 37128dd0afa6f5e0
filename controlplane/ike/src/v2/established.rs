//! An established IKE SA: its messages in both directions.
//!
//! | module | what |
//! |---|---|
//! | `installing` | new pairs on their way into the dataplane |
//! | `timers` | deadlines, and what waits for its turn |
//! | `ending` | how it and its children end |

mod ending;
mod installing;
mod timers;

use super::child::ChildSa;
use super::create_child::{Asking, ChildKeying};
use super::fault::{Fault, Local};
use super::fragments::Reassembly;
use super::init::Abilities;
use super::keys::Keys;
use super::rekey_ike::{IkeAsking, IkeKeying, PeerRekey};
use super::sa::{Head, Nat, State};
use super::window::{Digest, Inbound, Sent, Verdict};
use crate::config::Identity;
use crate::context::{Cx, Effect};
use crate::crypto::Opened;
use crate::event::{Event, Failure, IkeId, InstallId, Outcome, Path, RequestId};
use crate::job::Product;
use crate::known::Known;
use crate::message::v2::{Delete, Message, Notify};
use crate::message::{
    ExchangeType, Flags, Header, InvalidMessage, MessageId, NotifyType, PayloadList, ProtocolId,
};
use crate::proposal::Chosen;
use ipsec::sa::{PairId, Protocol, SaParameters};
use keyexchange::KeyExchangeError;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

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
    /// SPIs that the peer deleted before the answer that would have told us of them.
    pub(crate) deleted_early: Vec<(Protocol, u32)>,
    /// Made by the peer while a rekey of ours is under way: which of the two takes over is not known yet.
    pub(crate) undecided: bool,
    /// The peer's own rekey of this IKE SA, while ours is under way (RFC 7296 §2.8.2).
    pub(crate) peer_rekey: Option<PeerRekey>,
    pub(crate) established: Instant,
    pub(crate) rekey_at: Option<Instant>,
    pub(crate) reauth_at: Option<Instant>,
    pub(crate) expire_at: Option<Instant>,
    next_id: u32,
    last_inbound: Instant,
    last_outbound: Instant,
    pub(super) requests: Reassembly,
    pub(super) answers: Reassembly,
}

impl Established {
    pub(crate) fn new(head: &Head, cx: &mut Cx<'_>, new: NewSa) -> Self {
        let now = cx.now;
        let connection = &head.connection;
        let time = |time: Duration| (!time.is_zero()).then_some(time);
        let rand = cx.random.below(connection.rand_time);
        // A time beyond what the clock can say is never, as zero is.
        let early =
            |t: Duration| now.checked_add(t.saturating_sub(rand).max(Duration::from_secs(1)));
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
            deleted_early: Vec::new(),
            undecided: false,
            peer_rekey: None,
            established: now,
            rekey_at: rekey.and_then(early),
            reauth_at: reauth.and_then(early),
            expire_at: hard
                .and_then(|hard| now.checked_add(hard.saturating_add(connection.over_time))),
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
        let Some((opened, digest)) = self.requests.add(cx, header.message_id.0, opened, digest)
        else {
            return State::Established(self);
        };
        self.heard(head, cx, path);
        if self.undecided && !closes_ike(&opened) {
            // Only a peer for which this one has taken over asks on it: it asks again when that is known here too.
            return State::Established(self);
        }
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
        let Some((opened, _)) = self.answers.add(cx, id, opened, digest) else {
            return State::Established(self);
        };
        self.heard(head, cx, path);
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

    /// An authentic message came in that had not come before; with one in fragments, all of it.
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

    // Jobs.

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
}

/// Whether a request deletes the IKE SA.
fn closes_ike(opened: &Opened) -> bool {
    let is_ike = |delete: Delete<'_>| delete.protocol == ProtocolId::Ike;
    opened.payloads().is_ok_and(|payloads| payloads.deletes().any(is_ike))
}
