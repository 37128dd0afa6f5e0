//! One quick mode: where it is, and which pairs it is about.

use super::answer::{Answered, Installing, Responding};
use super::ask::{Agreeing, Confirming, Generating, QuickSent};
use super::{Held, REMEMBERED};
use crate::context::Cx;
use crate::crypto::v1::Iv;
use crate::event::Failure;
use crate::v2::sa::Head;
use crate::v2::window::Digest;
use ipsec::sa::PairId;
use std::time::Instant;

/// A quick mode, by its message ID.
pub(crate) struct Exchange {
    /// The next message's vector.
    pub(super) iv: Iv,
    /// The last message of the peer that was authentic.
    pub(super) heard: Option<Digest>,
    /// What a repeat of it gets.
    pub(super) reply: Option<Vec<u8>>,
    /// Whether the peer set the commit bit.
    pub(super) committed: bool,
    pub(crate) quick: Quick,
}

/// Where a quick mode is.
pub(crate) enum Quick {
    /// Asking: our key exchange value is being made.
    Generating(Generating),
    /// Asking: the first message is on its way.
    Sent(QuickSent),
    /// Asking: answered; the shared secret is being computed.
    Agreeing(Agreeing),
    /// Asking: both halves are on their way to the dataplane; then the third message.
    Confirming(Confirming),
    /// Answering: our value and the secret are being computed.
    Responding(Responding),
    /// Answering: the inbound half is on its way to the dataplane; then the second message.
    Installing(Installing),
    /// Answering: the second message is on its way.
    Answered(Answered),
    /// Done or failed; remembered for repeats.
    Over {
        until: Instant,
        /// What the peer's commit bit, or the third message on its way, holds back.
        held: Option<Held>,
    },
}

impl Exchange {
    pub(super) const fn new(iv: Iv, quick: Quick) -> Self {
        Self { iv, heard: None, reply: None, committed: false, quick }
    }

    pub(crate) const fn is_asking(&self) -> bool {
        matches!(
            self.quick,
            Quick::Generating(_) | Quick::Sent(_) | Quick::Agreeing(_) | Quick::Confirming(_)
        )
    }

    /// The pair that is being made.
    pub(crate) const fn pair(&self) -> Option<PairId> {
        match &self.quick {
            Quick::Confirming(confirming) => Some(confirming.pair),
            Quick::Installing(installing) => Some(installing.pair),
            Quick::Answered(answered) => Some(answered.pair),
            Quick::Generating(_)
            | Quick::Sent(_)
            | Quick::Agreeing(_)
            | Quick::Responding(_)
            | Quick::Over { .. } => None,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.quick {
            Quick::Sent(state) => Some(state.sent.deadline()),
            Quick::Answered(state) => Some(state.sent.deadline()),
            Quick::Over { until, held } => {
                Some(held.as_ref().map_or(*until, |held| held.until.min(*until)))
            }
            Quick::Generating(_)
            | Quick::Agreeing(_)
            | Quick::Confirming(_)
            | Quick::Responding(_)
            | Quick::Installing(_) => None,
        }
    }

    /// A pair is gone for a reason. When it was the one that is made here, the quick mode has failed, and the pairs that it was to
    /// replace are returned.
    pub(crate) fn lost(&mut self, cx: &mut Cx<'_>, pair: PairId, reason: Failure) -> Vec<PairId> {
        if self.made() != Some(pair) {
            return Vec::new();
        }
        match core::mem::replace(&mut self.quick, over(cx.now)) {
            Quick::Over { until, held } => {
                self.quick = Quick::Over { until, held: None };
                held.map(|held| held.replaces).unwrap_or_default()
            }
            Quick::Confirming(state) => {
                cx.stats.negotiation_failures += 1;
                cx.tag_done(state.tag, Err(reason));
                state.replaces
            }
            _ => {
                cx.stats.negotiation_failures += 1;
                Vec::new()
            }
        }
    }

    /// The pair that is being made, or waits to be used.
    const fn made(&self) -> Option<PairId> {
        match &self.quick {
            Quick::Over { held: Some(held), .. } => Some(held.pair),
            _ => self.pair(),
        }
    }

    /// Pairs that it makes or is about to replace: they stay with the ISAKMP SA until it is over.
    pub(crate) fn holds(&self) -> Vec<PairId> {
        let replaced: &[PairId] = match &self.quick {
            Quick::Generating(Generating { asking, .. })
            | Quick::Sent(QuickSent { asking, .. })
            | Quick::Agreeing(Agreeing { asking, .. }) => &asking.replaces,
            Quick::Confirming(state) => &state.replaces,
            Quick::Responding(state) => state.replaces(),
            Quick::Installing(state) => &state.replaces,
            Quick::Answered(state) => &state.replaces,
            Quick::Over { held: Some(held), .. } => &held.replaces,
            Quick::Over { held: None, .. } => &[],
        };
        self.made().into_iter().chain(replaced.iter().copied()).collect()
    }

    /// Whether it is a quick mode of ours that is to replace a pair.
    pub(super) fn replaces(&self, pair: PairId) -> bool {
        match &self.quick {
            Quick::Generating(Generating { asking, .. })
            | Quick::Sent(QuickSent { asking, .. })
            | Quick::Agreeing(Agreeing { asking, .. }) => asking.rekeys == Some(pair),
            Quick::Confirming(state) => state.replaces.contains(&pair),
            Quick::Over { held: Some(held), .. } => held.replaces.contains(&pair),
            _ => false,
        }
    }

    /// Something came in on a pair, which is in use then.
    pub(crate) fn traffic(&mut self, now: Instant, pair: PairId) {
        if let Quick::Over { held: Some(held), .. } = &mut self.quick
            && held.pair == pair
        {
            held.until = now;
        }
    }

    /// The exchange comes to nothing with its ISAKMP SA.
    pub(crate) fn give_back(self, head: &mut Head, cx: &mut Cx<'_>, reason: Failure) {
        match self.quick {
            Quick::Generating(Generating { asking, .. })
            | Quick::Sent(QuickSent { asking, .. })
            | Quick::Agreeing(Agreeing { asking, .. }) => {
                cx.stats.negotiation_failures += 1;
                asking.give_back(head, cx, reason);
            }
            Quick::Responding(responding) => {
                cx.stats.negotiation_failures += 1;
                responding.give_back(cx);
            }
            // The pair goes with the children.
            Quick::Confirming(_) | Quick::Installing(_) | Quick::Answered(_) => {
                cx.stats.negotiation_failures += 1;
            }
            Quick::Over { .. } => {}
        }
    }
}

pub(super) fn over(now: Instant) -> Quick {
    Quick::Over { until: now + REMEMBERED, held: None }
}
