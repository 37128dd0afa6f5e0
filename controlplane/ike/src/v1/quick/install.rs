//! New pairs on their way into the dataplane (design.md §2, "Rekey loses nothing").

use super::answer::{Answered, Installing};
use super::ask::Confirming;
use super::{ASKER_LINGERS, Quick, over};
use crate::context::{Cx, Effect, Half};
use crate::event::{Event, Failure, InstallId, InstallRefused, Outcome};
use crate::message::MessageId;
use crate::message::v1::NotifyType;
use crate::v1::established::Established;
use crate::v2::child::Phase;
use crate::v2::sa::Head;
use crate::v2::window::Sent;
use core::time::Duration;
use ipsec::sa::PairId;

impl Established {
    /// The worker has taken or refused one half of a pair.
    pub(crate) fn installed(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        id: InstallId,
        installing: &crate::context::Installing,
        result: Result<(), InstallRefused>,
    ) {
        let pair = installing.pair;
        let waiting = self
            .exchanges
            .iter()
            .find(|(_, e)| matches!(&e.quick, Quick::Installing(state) if state.install == id));
        if let Some(exchange) = waiting.map(|(id, _)| MessageId(*id)) {
            self.inbound_installed(head, cx, exchange, result);
            if result.is_err() {
                return;
            }
        }
        let Some(child) = self.children.get_mut(&pair) else { return };
        if result.is_err() {
            cx.stats.negotiation_failures += 1;
            return self.half_refused(head, cx, pair);
        }
        match installing.half {
            Half::Inbound => child.up.0 = true,
            Half::Outbound => child.up.1 = true,
        }
        if child.up != (true, true) {
            return;
        }
        if child.phase == Phase::Installing {
            child.phase = Phase::Installed;
        }
        self.child_up(head, cx, pair);
        self.confirm(head, cx, pair);
    }

    /// Answering: the inbound half is there, or is not; the peer is told.
    fn inbound_installed(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        id: MessageId,
        result: Result<(), InstallRefused>,
    ) {
        let Some(mut exchange) = self.exchanges.remove(&id.0) else { return };
        let Quick::Installing(state) = core::mem::replace(&mut exchange.quick, over(cx.now)) else {
            return;
        };
        let Installing { pair, outbound, second, ni, nr, replaces, peer, .. } = state;
        if result.is_err() {
            cx.stats.negotiation_failures += 1;
            self.children.remove(&pair);
            cx.effect(Effect::Forget(pair));
            let (protocol, spi) = peer;
            return self.send_refusal(head, cx, protocol, &spi, NotifyType::NoProposalChosen);
        }
        self.send(head, cx, second.clone());
        exchange.reply = Some(second.clone());
        let sent = Sent::new(cx.now, &cx.config.settings, 0, vec![second]);
        exchange.quick = Quick::Answered(Answered { sent, pair, outbound, ni, nr, replaces });
        self.exchanges.insert(id.0, exchange);
    }

    /// Asking: both halves are there, so the peer may use its own.
    fn confirm(&mut self, head: &mut Head, cx: &mut Cx<'_>, pair: PairId) {
        let made = |quick: &Quick| matches!(quick, Quick::Confirming(state) if state.pair == pair);
        let Some(id) = self.exchanges.iter().find(|(_, e)| made(&e.quick)).map(|(id, _)| *id)
        else {
            return;
        };
        let Some(mut exchange) = self.exchanges.remove(&id) else { return };
        let Quick::Confirming(state) = core::mem::replace(&mut exchange.quick, over(cx.now)) else {
            return;
        };
        let Confirming { nonce, nr, replaces, tag, .. } = state;
        if let Ok((third, iv)) = self.session.seal_third(MessageId(id), exchange.iv, &nonce, &nr) {
            self.send(head, cx, third.clone());
            exchange.iv = iv;
            exchange.reply = Some(third);
        }
        self.finish(head, cx, MessageId(id), exchange, (pair, replaces), ASKER_LINGERS);
        let pair = Some(pair);
        cx.tag_done(tag, Ok(Outcome { matched: 1, ike: Some(head.id), pair }));
    }

    /// The pairs that a new one takes over from.
    pub(super) fn replaced(&mut self, cx: &mut Cx<'_>, pairs: &[PairId], after: Duration) {
        let live = |pair: &PairId| {
            self.children.get(pair).is_some_and(|c| !matches!(c.phase, Phase::Lingering { .. }))
        };
        let pairs: Vec<PairId> = pairs.iter().copied().filter(live).collect();
        if !pairs.is_empty() {
            cx.stats.child_rekeys += 1;
        }
        for pair in pairs {
            self.retire(cx, pair, after);
        }
    }

    /// Both halves are there.
    fn child_up(&mut self, head: &Head, cx: &mut Cx<'_>, pair: PairId) {
        let Some(child) = self.children.get_mut(&pair) else { return };
        cx.stats.ike_quick_mode += 1;
        let name = child.name(head);
        let selectors = child.selectors.clone();
        cx.event(Event::ChildUp { name, selectors, replaces: child.replaces });
        // While it waits to take over from another, that one carries the traffic.
        if !child.waits_for_traffic || child.replaces.is_some() {
            self.answer_acquire(head, cx, pair);
        }
    }

    /// Whoever asked for the Child SA hears that it may be used.
    pub(super) fn answer_acquire(&mut self, head: &Head, cx: &mut Cx<'_>, pair: PairId) {
        let Some(child) = self.children.get_mut(&pair) else { return };
        if core::mem::replace(&mut child.acquired, false) {
            let outcome = Outcome { matched: 1, ike: Some(head.id), pair: Some(pair) };
            head.acquired(cx, &child.config.name, Ok(outcome));
        }
    }

    /// Puts a pair out of use whose installation failed half way, and tells the peer.
    fn half_refused(&mut self, head: &mut Head, cx: &mut Cx<'_>, pair: PairId) {
        let mut tag = None;
        for exchange in self.exchanges.values_mut() {
            if let Quick::Confirming(state) = &mut exchange.quick
                && state.pair == pair
            {
                tag = state.tag.take();
                let old = state.replaces.clone();
                exchange.quick = over(cx.now);
                for pair in old {
                    if let Some(child) = self.children.get_mut(&pair)
                        && child.phase == Phase::Rekeying
                    {
                        child.phase = Phase::Installed;
                        child.rekey_at = cx.now.checked_add(Duration::from_secs(10));
                    }
                }
            }
        }
        cx.tag_done(tag, Err(Failure::Dataplane));
        self.delete_child(head, cx, pair, Failure::Dataplane);
    }
}
