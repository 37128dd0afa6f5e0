//! Into a tunnel.

use super::{Note, Notes};
use crate::config::{PortId, Side};
use crate::sa_usage::Due;
use crate::worker::Worker;
use af_xdp::Frame;
use ipsec::drop_cause::DropCause;
use ipsec::flow::FlowIdV4;
use ipsec::outbound::{Plan, Sealer};
use ipsec::sad::Slot;

impl Worker {
    /// Finds the SAs of the flows, and asks for them.
    #[inline(never)]
    pub(super) fn choose_sas(&mut self, side: Side, notes: &mut Notes) {
        let mut run: Option<(FlowIdV4, Option<Slot>)> = None;
        for note in notes {
            let Note::Plain(flow, place) = *note else { continue };
            let slot = match run {
                Some((last, slot)) if last == flow => slot,
                before => {
                    let slot = self.sa_of(flow, place, side);
                    if let Some(slot) = slot
                        && before.is_none_or(|(_, last)| last != Some(slot))
                    {
                        self.outbound_sad.prefetch(slot);
                    }
                    run = Some((flow, slot));
                    slot
                }
            };
            *note = slot.map_or(Note::Other, Note::Seal);
        }
    }

    /// Writes headers and trailers, and runs the cipher over all together.
    #[inline(never)]
    pub(super) fn seal_direct(&mut self, frames: &mut [Frame], notes: &mut Notes) {
        let mut sealer = Sealer::new(&self.outbound_sad);
        let mut run = None;
        for (frame, note) in frames.iter_mut().zip(notes) {
            let Note::Seal(slot) = *note else { continue };
            *note = Note::Other;
            let Some(plan) = sealer.plan(slot, frame.data()) else { continue };
            let Some(bytes) = frame.reshape(Plan::FRONT, plan.frame_len()) else { continue };
            if run != Some(slot) {
                run = Some(slot);
                plan.prefetch_rest();
                if plan.fall_due() {
                    self.due.push_back(Due::Outbound(slot));
                }
            }
            *note = match sealer.take(&plan, bytes) {
                true => Note::Send(PortId(plan.egress())),
                false => Note::Drop(DropCause::CipherFailed.into()),
            };
        }
        self.account.sealed(&sealer.finish());
    }
}
