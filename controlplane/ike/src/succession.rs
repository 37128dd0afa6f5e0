//! IKEv1: which ISAKMP SA is in use when there are several between the same two.
//!
//! RFC 2409 ties no Child SA to the ISAKMP SA that made it, and knows no message by which one main mode renews another. Peers see it in
//! two ways. To some a Child SA is whoever's; strongSwan keeps it inside an ISAKMP SA, moves all that it has to each new one as that
//! comes up, and with an ISAKMP SA ends the Child SAs that it holds there. What is done here loses nothing with either:
//!
//! - **One is in use**: the one that the peer had last, as far as we can tell. That is the order in which our last messages of phase 1 were
//!   sent, the fifth or the sixth. Quick modes of ours begin on it, it is renewed, it has the children. The others have it as their *heir*:
//!   they answer, and hand over what comes to be on them.
//! - **Who began the new one ends the old ones**, five seconds later and not while a quick mode is under way on them, or a pair is
//!   in use that was made there after the new main mode began: the peer may hold such a pair under the old one, so it is renewed
//!   under the new one first.
//! - **What began before the other was there is a race** (main modes of both sides at once): neither ends the other, neither is
//!   the other's first contact. Each side can see another one of the two as the one in use, until the other renews a pair under the
//!   one that it uses. The next renewal ends both.
//! - **A quick mode under one that is not in use** finds there what it replaces: it comes back for that long.
//! - An ISAKMP SA that a peer leaves behind without a delete goes when its heir has an heir in turn, or with its lifetime.
//! - Children of an ISAKMP SA that ends go to another one, if there is one.

use crate::config::Unique;
use crate::engine::Engine;
use crate::event::{Event, IkeId, SpiSource};
use crate::known::Known;
use crate::sa::Sa;
use crate::v1::established::{Established, Life};
use crate::v1::quick::First;
use crate::v1::sa::{IsakmpSa, State};
use crate::v2::child::{ChildSa, Phase};
use crate::v2::sa::Head;
use crate::v2::task::{Queued, Task};
use crate::view::Role;
use core::net::IpAddr;
use ipsec::sa::{PairId, Protocol, Spi};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long an ISAKMP SA with a successor of ours still answers, for quick modes that are under way on it.
const HANDED_OVER: Duration = Duration::from_secs(5);

/// How long one whose heir has an heir in turn is left to the peer to end.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// How long the initiator of a new main mode has time to renew pairs that the other side may hold under the old one, before we do.
const THEIR_TURN: Duration = Duration::from_secs(3);

/// The two ends of ISAKMP SAs that stand for each other.
#[derive(Clone)]
pub(crate) struct Between {
    known: Known,
    /// Many a road warrior has the name of its group: the address tells them apart.
    remote: Option<IpAddr>,
}

impl Between {
    pub(crate) fn new(known: Known, head: &Head) -> Self {
        let shared = head.connection.xauth.is_some();
        Self { known, remote: shared.then(|| head.path.remote.ip()) }
    }
}

impl Engine {
    fn v1(&self, id: IkeId) -> Option<(&IsakmpSa, &Established)> {
        match self.table.get(id) {
            Some(Sa::V1(sa)) => match &sa.state {
                State::Established(state) => Some((sa, state)),
                _ => None,
            },
            _ => None,
        }
    }

    fn v1_step(
        &mut self,
        now: Instant,
        spis: &mut dyn SpiSource,
        id: IkeId,
        f: impl FnOnce(&mut Established),
    ) {
        self.step(now, spis, id, |sa, _| {
            if let Sa::V1(sa) = sa
                && let State::Established(state) = &mut sa.state
            {
                f(state);
            }
        });
    }

    /// IKEv1: whether one ISAKMP SA began before the other was there.
    pub(crate) fn is_race(&self, id: IkeId, other: IkeId) -> bool {
        let (Some((sa, _)), Some((_, other))) = (self.v1(id), self.v1(other)) else { return false };
        sa.order.begun < other.since
    }

    /// IKEv1: whether something authentic came under `other` after the main mode of `id` began. Whoever sent that has lost nothing: its
    /// INITIAL-CONTACT is older, or it has made the two at once. RFC 2407 §4.6.3.3 lets the receiver choose: it "may then elect to delete"
    /// what it has, "under the assumption that the sending system has rebooted".
    pub(crate) fn was_heard_since(&self, id: IkeId, other: IkeId) -> bool {
        let (Some((sa, _)), Some((_, other))) = (self.v1(id), self.v1(other)) else { return false };
        sa.order.begun_at.is_some_and(|begun| other.last_inbound > begun)
    }

    /// Established ISAKMP SAs of a connection between the same two, oldest first.
    fn siblings(&self, between: &Between) -> Vec<IkeId> {
        let Between { known, remote } = between;
        let same = |(_, there): &(IkeId, &Known)| {
            there.local == known.local && there.connection == known.connection
        };
        let is_one = |id: &IkeId| {
            self.v1(*id).is_some_and(|(sa, state)| {
                state.succession.enters.is_none()
                    && remote.is_none_or(|remote| remote == sa.head.path.remote.ip())
            })
        };
        let ids = self.registry.known.of(&known.remote).filter(same).map(|(id, _)| id);
        ids.filter(is_one).collect()
    }

    /// The one of several that is in use.
    fn in_use(&self, ids: &[IkeId]) -> Option<IkeId> {
        let rank = |id: &IkeId| {
            let (sa, state) = self.v1(*id)?;
            let leaves = matches!(state.life, Life::Replaced { .. });
            Some((!leaves, sa.order.last_said, *id))
        };
        ids.iter().filter_map(rank).max().map(|(_, _, id)| id)
    }

    /// An ISAKMP SA has come up.
    pub(crate) fn succeed(
        &mut self,
        now: Instant,
        spis: &mut dyn SpiSource,
        id: IkeId,
        replaces: Option<IkeId>,
    ) {
        let Some(known) = self.registry.known.get(id).cloned() else { return };
        let Some((sa, _)) = self.v1(id) else { return };
        let (role, policy) = (sa.head.role, sa.head.connection.unique);
        let mut ids = self.siblings(&Between::new(known, &sa.head));
        ids.extend(replaces.filter(|old| !ids.contains(old) && self.v1(*old).is_some()));
        for other in ids.iter().copied().filter(|other| *other != id) {
            let Some((_, state)) = self.v1(other) else { continue };
            let was_heir = state.succession.heir.is_some();
            let left = match role {
                _ if self.is_race(id, other) => None,
                Role::Initiator => Some(HANDED_OVER),
                Role::Responder if policy == Unique::Replace => Some(HANDED_OVER),
                Role::Responder => was_heir.then_some(FORGOTTEN),
            };
            if let Some(left) = left {
                self.v1_step(now, spis, other, |state| state.leave_at(now + left));
            }
        }
        self.set_heirs(now, spis, &ids);
    }

    fn set_heirs(&mut self, now: Instant, spis: &mut dyn SpiSource, ids: &[IkeId]) {
        let Some(heir) = self.in_use(ids) else { return };
        let several = ids.len() > 1;
        self.v1_step(now, spis, heir, |state| state.set_heir(None, several));
        for id in ids.iter().copied().filter(|id| *id != heir) {
            self.v1_step(now, spis, id, |state| state.set_heir(Some(heir), several));
        }
    }

    /// IKEv1: an ISAKMP SA is gone.
    pub(crate) fn ended(&mut self, now: Instant, spis: &mut dyn SpiSource, between: &Between) {
        let ids = self.siblings(between);
        let is_heir = |id: &IkeId| ids.contains(id);
        let lost = ids.iter().any(|id| {
            self.v1(*id).is_some_and(|(_, s)| s.succession.heir.is_some_and(|heir| !is_heir(&heir)))
        });
        if lost || ids.len() == 1 {
            self.set_heirs(now, spis, &ids);
        }
    }

    /// IKEv1: an ISAKMP SA hands over what it can.
    pub(crate) fn adopt(&mut self, now: Instant, spis: &mut dyn SpiSource, from: IkeId, to: IkeId) {
        let Some((heir, _)) = self.v1(to) else { return };
        let (order, role) = (heir.order, heir.head.role);
        let renew_at = match role {
            Role::Initiator => now,
            Role::Responder => now + THEIR_TURN,
        };
        let race = self.is_race(to, from);
        let Some(Sa::V1(sa)) = self.table.get_mut(from) else { return };
        let State::Established(state) = &mut sa.state else { return };
        let (mut children, tasks) = state.hand_over(&mut sa.head);
        for child in children.values_mut().filter(|child| child.under == from && !race) {
            let late =
                child.pair.0 > order.last_pair || state.succession.late.contains(&child.pair);
            let leaves = matches!(child.phase, Phase::Lingering { .. });
            if late && !leaves && state.succession.wards.insert(child.pair) {
                child.rekey_at = Some(child.rekey_at.map_or(renew_at, |at| at.min(renew_at)));
            }
        }
        self.give(now, spis, to, children, tasks);
        self.step(now, spis, from, |_, _| {});
    }

    /// IKEv1: the peer begins a quick mode on an ISAKMP SA that is not in use here: after main modes of both sides at once another one
    /// can be in use there, or the message was late. What it asks for replaces pairs that were handed over, so they come back until it
    /// is over.
    pub(crate) fn recall(
        &mut self,
        now: Instant,
        spis: &mut dyn SpiSource,
        from: IkeId,
        to: IkeId,
        first: &First,
    ) {
        if self.v1(to).is_none() {
            return;
        }
        let (mut children, mut tasks) = (BTreeMap::new(), Vec::new());
        if let Some(Sa::V1(sa)) = self.table.get_mut(from)
            && let State::Established(state) = &mut sa.state
        {
            (children, tasks) = state.hand_over(&mut sa.head);
        }
        self.step(now, spis, from, |_, _| {});
        for pair in children.keys() {
            self.table.own(*pair, to);
        }
        self.step(now, spis, to, |sa, cx| {
            if let Sa::V1(sa) = sa
                && let State::Established(state) = &mut sa.state
            {
                state.children.extend(children);
                sa.head.tasks.extend(tasks);
                state.asked(&mut sa.head, cx, first);
            }
        });
        // Of two that both sides began at once, the peer has that one in use on which it renews a pair.
        let renews = self.v1(to).is_some_and(|(_, state)| state.is_replacing(first));
        if renews && self.is_race(from, to) && self.is_race(to, from) {
            self.take_over(now, spis, to);
        }
    }

    /// An ISAKMP SA is the one in use from now on.
    fn take_over(&mut self, now: Instant, spis: &mut dyn SpiSource, id: IkeId) {
        let Some(known) = self.registry.known.get(id).cloned() else { return };
        let moment = self.registry.moment.next();
        let Some(Sa::V1(sa)) = self.table.get_mut(id) else { return };
        sa.order.last_said = moment;
        let between = Between::new(known, &sa.head);
        let ids = self.siblings(&between);
        self.set_heirs(now, spis, &ids);
    }

    /// An ISAKMP SA gets children that another one had.
    fn give(
        &mut self,
        now: Instant,
        spis: &mut dyn SpiSource,
        to: IkeId,
        children: BTreeMap<PairId, ChildSa>,
        tasks: Vec<Queued>,
    ) {
        for pair in children.keys() {
            self.table.own(*pair, to);
        }
        self.step(now, spis, to, |sa, _| {
            if let Sa::V1(sa) = sa
                && let State::Established(state) = &mut sa.state
            {
                state.children.extend(children);
                sa.head.tasks.extend(tasks);
            }
        });
    }

    /// IKEv1: children whose ISAKMP SA is gone.
    pub(crate) fn take_in(
        &mut self,
        now: Instant,
        spis: &mut dyn SpiSource,
        between: &Between,
        children: BTreeMap<PairId, ChildSa>,
        downs: Vec<Event>,
    ) {
        match self.in_use(&self.siblings(between)) {
            Some(to) => self.give(now, spis, to, children, Vec::new()),
            None => {
                for pair in children.into_keys() {
                    self.table.forget(pair);
                    self.out.events.push_back(Event::RemovePair { pair });
                }
                self.out.events.extend(downs);
            }
        }
    }

    /// IKEv1: which pairs still keep an ISAKMP SA from its end: those that are in use.
    pub(crate) fn wards(&mut self, now: Instant, spis: &mut dyn SpiSource, id: IkeId) {
        let Some((_, state)) = self.v1(id) else { return };
        let in_use = |pair: &PairId| {
            let owner = self.table.owner(*pair).and_then(|owner| self.table.get(owner));
            let child = owner.and_then(Sa::children).and_then(|children| children.get(pair));
            child.is_some_and(|child| !matches!(child.phase, Phase::Lingering { .. }))
        };
        let wards = state.succession.wards.iter().copied().filter(in_use).collect();
        self.v1_step(now, spis, id, |state| state.succession.wards = wards);
    }

    /// IKEv1: a peer that keeps Child SAs inside ISAKMP SAs may have this one under another of them.
    pub(crate) fn tell_delete(
        &mut self,
        now: Instant,
        spis: &mut dyn SpiSource,
        ike: IkeId,
        protocol: Protocol,
        spi: Spi,
    ) {
        for other in self.same_ends(ike) {
            if self.v1(other).is_some() {
                self.step(now, spis, other, |sa, _| {
                    sa.head_mut().push_task(Task::DeleteSpi { protocol, spi });
                });
            }
        }
    }
}
