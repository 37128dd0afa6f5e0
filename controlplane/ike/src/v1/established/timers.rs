//! What an established ISAKMP SA does when a time or a limit has come: renewals, liveness, keepalives, rekeys.

use super::{Established, Life, MAX_MESSAGE_IDS};
use crate::context::{Cx, Effect};
use crate::event::{Failure, Limit};
use crate::v1::quick::Exchange;
use crate::v1::sa::State;
use crate::v1::transaction::Verdict;
use crate::v2::child::{ChildSa, Phase};
use crate::v2::sa::Head;
use crate::v2::task::Task;
use crate::view::Role;
use ipsec::sa::PairId;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After what time an ISAKMP SA that was to end and could not yet looks whether it can.
const LOOKED_AGAIN: Duration = Duration::from_secs(1);

/// How long the replacement of one of two Child SAs for the same traffic waits for that of the other.
const SECOND_WAITS: Duration = Duration::from_secs(10);

/// How much later than its soft lifetime says the side that answered renews something, at most, so that both sides with the same lifetimes
/// do not begin at once.
pub(in crate::v1) const ANSWERER_LATER: Duration = Duration::from_secs(5);

impl Established {
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
}

/// When the side with this role renews what is due at `soft` and ends at `hard`: a part of the time between them later, where it
/// answered.
pub(in crate::v1) fn later(role: Role, soft: Instant, hard: Option<Instant>) -> Instant {
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
