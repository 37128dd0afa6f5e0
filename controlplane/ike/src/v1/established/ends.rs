//! How an established ISAKMP SA and its children end, and who is told.

use super::{Established, Life};
use crate::config::ChildAction;
use crate::context::{Cx, Effect};
use crate::event::{Event, Failure, Level};
use crate::v1::quick::Exchange;
use crate::v1::sa::{Closed, State};
use crate::v2::child::{ChildSa, Phase};
use crate::v2::sa::Head;
use crate::v2::window::Digest;
use ipsec::sa::PairId;
use std::time::Duration;

/// How long a deleted ISAKMP SA is remembered for a repeat of its delete.
const REMEMBERED: Duration = Duration::from_secs(12);

/// How long a pair still receives after the peer was told that it goes.
const TOLD: Duration = Duration::from_secs(2);

impl Established {
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
    pub(super) fn part(&mut self, head: &Head, cx: &mut Cx<'_>, pair: PairId) {
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
        let lost = |exchange: &mut Exchange| exchange.lost(cx, pair, reason);
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
}

/// What is told of a Child SA that goes and had not been replaced.
pub(in crate::v1) fn down(head: &Head, child: &ChildSa, reason: Failure) -> Option<Event> {
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
