//! How an established IKE SA and its children end.

use super::{Answering, Current, Established, Finishing, Life, Plan, Request};
use crate::config::ChildAction;
use crate::context::{Cx, Effect};
use crate::event::{Event, Failure, Outcome};
use crate::v2::child::{LINGER, Phase};
use crate::v2::sa::{Closed, Head, State};
use crate::v2::window::Inbound;
use ipsec::sa::PairId;
use std::sync::Arc;
use std::time::Duration;

/// How long an IKE SA that the peer deleted is remembered for its last answer.
const REMEMBERED: Duration = Duration::from_secs(12);

impl Established {
    /// No answer to the last repeat (RFC 7296 §2.4).
    pub(super) fn peer_is_dead(mut self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>) -> State {
        if let Life::Deleting { .. } = self.life {
            return self.gone(head, cx);
        }
        if let Current::Waiting { request, .. } =
            core::mem::replace(&mut self.current, Current::Idle)
        {
            if matches!(request, Request::Child(_) | Request::Ike(_)) {
                cx.stats.negotiation_failures += 1;
            }
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
        self.reauthenticate(head, cx);
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

    /// The end of an SA whose delete is through, or that has a successor.
    pub(super) fn gone(self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>) -> State {
        let reason = match self.life {
            Life::Active => Failure::Terminated,
            Life::Rekeyed { .. } => Failure::Replaced,
            Life::Deleting { reason, .. } => reason,
        };
        self.reauthenticate(head, cx);
        self.destroy(head, cx, reason)
    }

    /// Begins anew what was closed for that (RFC 7296 §2.8.3, break before make as charon's default).
    fn reauthenticate(&self, head: &Head, cx: &mut Cx<'_>) {
        if let Life::Deleting { reauthenticate: true, .. } = self.life {
            let children = self.children_to_renew();
            let connection = Arc::clone(&head.connection);
            let wanted = head.addresses.own().collect();
            cx.effect(Effect::Reinitiate { connection, children, wanted, tag: None });
        }
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
        head.addresses.let_go(cx, head.id);
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
    pub(super) fn give_back(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        request: Request,
        reason: Failure,
    ) {
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
                _ => ChildAction::None,
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
