//! Fragments of plain packets: a later one is judged by the ports that the first one showed (RFC 4301 §7).

use crate::account::Drop;
use crate::packet::Packet;
use crate::policy::Chosen;
use crate::worker::Worker;
use core::sync::atomic::Ordering;
use ipsec::drop_cause::DropCause;
use ipsec::flow::{Flow, FlowId, FlowKey, PortView};
use ipsec::fragments::{FragmentOf, LaterFragments, may_overlap};
use ipsec::sa::Spi;
use ipsec::selector::PolicyId;
use wire::ip::{Ip, Piece, may_be_fragment};

impl Worker {
    /// The selector values of a later fragment whose first one is known, with the ports of that. `None` for every other packet; a first
    /// fragment is noted.
    #[inline]
    pub(crate) fn as_the_first(&mut self, packet: &Packet) -> Option<Flow> {
        if may_be_fragment(packet) { self.note_or_find(packet) } else { None }
    }

    #[cold]
    fn note_or_find(&mut self, packet: &Packet) -> Option<Flow> {
        let (flow, piece, _) = look_at(packet)?;
        let of = FragmentOf::new(&flow, piece, packet.context());
        let now = self.seconds();
        if piece.offset == 0 {
            self.fragments.note(of, &flow, now);
            return None;
        }
        self.fragments.find(of, &flow, now)
    }

    /// Whether a fragment that came out of an SA goes no further, and why; a first one is noted.
    #[cold]
    pub(crate) fn refuse_fragment(
        &mut self,
        packet: &Packet,
        spi: Spi,
        later: LaterFragments,
    ) -> Option<Drop> {
        let (flow, piece, may_overlap) = look_at(packet)?;
        if piece.offset == 0 {
            let _ = self.note_or_find(packet);
            return None;
        }
        if may_overlap {
            return Some(DropCause::FragmentOverlap.into());
        }
        if later != LaterFragments::AfterTheFirst {
            return None;
        }
        // The first one may have come by another SA: what counts is that this one is for its ports.
        let of = FragmentOf::new(&flow, piece, packet.context());
        let whole = self.fragments.find(of, &flow, self.seconds());
        let is_admitted =
            |whole: Flow| self.sad.get(spi).is_some_and(|sa| sa.admits(&FlowId::from(whole)));
        (!whole.is_some_and(is_admitted)).then_some(DropCause::FragmentAlone.into())
    }

    /// The SA for a later fragment of a policy: as [`Worker::choose`], of those whose peer takes such fragments or that are for packets
    /// without ports.
    pub(crate) fn choose_for_later(&self, policy: PolicyId, key: &FlowKey) -> Option<Chosen> {
        let hidden = FlowKey { ports: None, ..*key };
        let mut pending = None;
        for binding in self.bindings.get(&policy)?.iter().rev() {
            let is_for = |key: &FlowKey| binding.selectors.iter().any(|s| s.matches(key));
            if is_for(key) && (binding.later_fragments || is_for(&hidden)) {
                let chosen = Chosen { sa: binding.sa, settled: false };
                // Relaxed: see `Binding::active`.
                if binding.active.load(Ordering::Relaxed) {
                    return Some(chosen);
                }
                pending = pending.or(Some(chosen));
            }
        }
        pending
    }

    /// Since the worker began.
    fn seconds(&self) -> u32 {
        let seconds = self.now.saturating_duration_since(self.epoch).as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }
}

/// Whether a packet is a later fragment.
pub(crate) fn is_later(packet: &[u8]) -> bool {
    may_be_fragment(packet) && look_at(packet).is_some_and(|(_, piece, _)| piece.offset != 0)
}

/// What a fragment shows, and whether it could lie over ports; `None` for a whole packet.
fn look_at(packet: &[u8]) -> Option<(Flow, Piece, bool)> {
    let ip = Ip::parse(packet).ok()?;
    let piece = ip.piece()?;
    Some((Flow::of(&ip).ok()?, piece, may_overlap(&ip, piece)))
}

/// The same packet as one that shows no ports.
pub(crate) fn without_ports(flow: Flow) -> Flow {
    Flow { ports: PortView::Hidden, ..flow }
}
