//! Deadlines, and what waits for its turn.

use super::{Answering, Current, Established, Life};
use crate::context::Cx;
use crate::event::{Failure, Limit};
use crate::v2::child::{ChildSa, Phase};
use crate::v2::sa::{Head, State};
use crate::v2::task::{Queued, Task};
use crate::v2::window::Due;
use ipsec::sa::PairId;
use std::time::{Duration, Instant};

impl Established {
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
        if idle && !delay.is_zero() { self.last_inbound.checked_add(delay) } else { None }
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
    pub(crate) fn limit_reached(&mut self, head: &mut Head, pair: PairId, limit: Limit) {
        match limit {
            Limit::Soft => {
                let queued = head.tasks.iter().any(
                    |q| matches!(q.task, Task::RekeyChild { pair: waiting, .. } if waiting == pair),
                );
                let live = self.children.get(&pair).is_some_and(|c| c.phase == Phase::Installed);
                if live && !queued {
                    head.push_task(Task::RekeyChild { pair, tag: None });
                }
            }
            Limit::Hard => self.expire(head, pair),
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
}
