//! New pairs that are not to be sent on yet: the commit bit (RFC 2408 §3.1, §4.8), and rekeys whose third message packets could
//! overtake.

use super::{Exchange, Payload, Quick, REMEMBERED};
use crate::context::Cx;
use crate::event::Event;
use crate::message::MessageId;
use crate::message::v1::{Notify, NotifyType};
use crate::v1::established::Established;
use crate::v1::session::Opened;
use crate::v2::child::Phase;
use crate::v2::sa::Head;
use core::time::Duration;
use ipsec::sa::PairId;
use std::time::Instant;

/// How long the commit bit holds back traffic (RFC 2408 §3.1: "MUST wait for CONNECTED").
const COMMIT_AWAITED: Duration = Duration::from_secs(10);

/// How long the side that asked for a replacement goes on sending on the old pair when nothing comes in on the new one: longer than
/// it takes a peer to repeat the second message (charon: 4 s) when the third one was lost, so that one way alone loses nothing.
const THIRD_ARRIVES: Duration = Duration::from_secs(5);

/// A pair whose outbound half waits for the peer's CONNECTED (RFC 2408 §3.1) or, where it replaces another, for what comes in on it.
/// Until then the pairs that it replaces go on.
pub(crate) struct Held {
    pub(super) pair: PairId,
    /// A peer that never sends the notify, or never sends anything, would have an SA for nothing.
    pub(super) until: Instant,
    pub(super) replaces: Vec<PairId>,
    /// How long the replaced ones still receive.
    linger: Duration,
}

impl Established {
    /// The message that the commit bit announced, as a fourth one of quick mode: CONNECTED.
    pub(super) fn fourth(&mut self, head: &Head, cx: &mut Cx<'_>, id: MessageId, opened: &Opened) {
        let Ok(payloads) = opened.payloads() else { return };
        let connected = payloads
            .iter()
            .any(|p| matches!(p, Payload::Notify(n) if n.kind == NotifyType::Connected));
        if connected {
            self.release(head, cx, id);
        }
    }

    /// An informational exchange under the message ID of a quick mode that the commit bit holds back: so RFC 2408 §3.1
    /// and §4.8 have it. Its vector is the first of that ID again (RFC 2409 §5.7), or goes on with quick mode's chain.
    pub(crate) fn open_commitment(
        &self,
        id: MessageId,
        first: u8,
        ciphertext: &[u8],
    ) -> Option<Opened> {
        let exchange = self.exchanges.get(&id.0)?;
        let Quick::Over { held: Some(_), .. } = exchange.quick else { return None };
        [self.session.iv(id), exchange.iv].into_iter().find_map(|iv| {
            let opened = self.session.sealer.open(first, ciphertext, iv)?;
            self.session.verify(id, &[], &opened).then_some(opened)
        })
    }

    /// CONNECTED in an informational exchange: of the quick mode whose message ID it has, or for the SPI that it names.
    pub(crate) fn connected(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        id: MessageId,
        notify: &Notify<'_>,
    ) {
        let spi = <[u8; 4]>::try_from(notify.spi).ok().map(u32::from_be_bytes);
        let children = &self.children;
        let named = |held: &Held| {
            children
                .get(&held.pair)
                .is_some_and(|c| spi.is_none_or(|s| s == c.spi_in.get() || s == c.spi_out.get()))
        };
        let is_meant = |(number, exchange): &(&u32, &Exchange)| match &exchange.quick {
            Quick::Over { held: Some(held), .. } => **number == id.0 || named(held),
            _ => false,
        };
        if let Some(id) = self.exchanges.iter().find(is_meant).map(|(id, _)| MessageId(*id)) {
            self.release(head, cx, id);
        }
    }

    /// A pair goes: what waits to take over from it alone does so now.
    pub(crate) fn release_heirs(&mut self, head: &Head, cx: &mut Cx<'_>, pair: PairId) {
        let stays = |other: &PairId| {
            *other != pair
                && self
                    .children
                    .get(other)
                    .is_some_and(|c| !matches!(c.phase, Phase::Lingering { .. }))
        };
        let is_heir = |(_, exchange): &(&u32, &Exchange)| match &exchange.quick {
            Quick::Over { held: Some(held), .. } => {
                held.replaces.contains(&pair) && !held.replaces.iter().any(stays)
            }
            _ => false,
        };
        let ids: Vec<u32> = self.exchanges.iter().filter(is_heir).map(|(id, _)| *id).collect();
        for id in ids {
            self.release(head, cx, MessageId(id));
        }
    }

    /// Puts to use everything that waits.
    pub(crate) fn release_all(&mut self, head: &Head, cx: &mut Cx<'_>) {
        let ids: Vec<u32> = self.exchanges.keys().copied().collect();
        for id in ids {
            self.release(head, cx, MessageId(id));
        }
    }

    /// Puts to use what was held back.
    pub(super) fn release(&mut self, head: &Head, cx: &mut Cx<'_>, id: MessageId) {
        let exchange = self.exchanges.get_mut(&id.0);
        let Some(Quick::Over { held, .. }) = exchange.map(|exchange| &mut exchange.quick) else {
            return;
        };
        let Some(Held { pair, replaces, linger, .. }) = held.take() else { return };
        if let Some(child) = self.children.get_mut(&pair) {
            if core::mem::replace(&mut child.waits_for_traffic, false) {
                cx.event(Event::ActivateOutbound { pair });
            }
            self.answer_acquire(head, cx, pair);
            self.replaced(cx, &replaces, linger);
        }
    }

    /// The end of a quick mode: the pair is in use, or waits for the peer's word.
    pub(super) fn finish(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        id: MessageId,
        mut exchange: Exchange,
        (pair, replaces): (PairId, Vec<PairId>),
        linger: Duration,
    ) {
        let live = |pair: &PairId| {
            self.children.get(pair).is_some_and(|c| !matches!(c.phase, Phase::Lingering { .. }))
        };
        let waits = self.children.get(&pair).is_some_and(|child| child.waits_for_traffic);
        let awaited = if exchange.committed {
            Some(COMMIT_AWAITED)
        } else {
            Some(THIRD_ARRIVES).filter(|_| waits && replaces.iter().any(live))
        };
        let until = cx.now + awaited.unwrap_or_default();
        let held = Some(Held { pair, until, replaces, linger });
        exchange.quick = Quick::Over { until: cx.now + REMEMBERED, held };
        self.exchanges.insert(id.0, exchange);
        if awaited.is_none() {
            self.release(head, cx, id);
        }
    }

    /// What was to replace these pairs is gone: another try, unless there is one already.
    pub(crate) fn retry_rekeys(&mut self, cx: &mut Cx<'_>, pairs: Vec<PairId>) {
        for pair in pairs {
            if !self.exchanges.values().any(|exchange| exchange.replaces(pair)) {
                self.retry_rekey(cx, pair);
            }
        }
    }
}
