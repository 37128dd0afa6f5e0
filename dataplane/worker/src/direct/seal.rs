//! Into a tunnel.

use super::{Note, Notes};
use crate::config::{PortId, Side};
use crate::flows::Taken;
use crate::handoff::HandedOff;
use crate::sa_usage::Due;
use crate::worker::Worker;
use af_xdp::Frame;
use ipsec::drop_cause::DropCause;
use ipsec::flow::FlowIdV4;
use ipsec::outbound::{Plan, Sealer};

impl Worker {
    /// Finds the SAs of the flows, and asks for them.
    #[inline(never)]
    pub(super) fn choose_sas(&mut self, side: Side, notes: &mut Notes) {
        if !self.choose_sas_of::<true>(side, notes) {
            self.choose_sas_of::<false>(side, notes);
        }
    }

    /// Those of flows that are `NEAR`, or of all that are left; whether none is.
    #[inline(always)]
    fn choose_sas_of<const NEAR: bool>(&mut self, side: Side, notes: &mut Notes) -> bool {
        let mut run: Option<(FlowIdV4, Option<Taken>)> = None;
        let mut is_done = true;
        for note in notes {
            let Note::Plain(flow, place) = *note else { continue };
            let taken = match run {
                Some((last, taken)) if last == flow => taken,
                before => {
                    let taken = self.sa_of::<NEAR>(flow, place, side);
                    if let Some(Taken::Here(slot)) = taken
                        && before.is_none_or(|(_, last)| last != taken)
                    {
                        self.outbound_sad.prefetch(slot);
                    }
                    run = Some((flow, taken));
                    taken
                }
            };
            *note = match taken {
                Some(Taken::Here(slot)) => Note::Seal(slot),
                Some(Taken::There(core, choice)) => {
                    Note::HandOff(core, HandedOff::OutboundFrame(choice))
                }
                None if NEAR => {
                    is_done = false;
                    continue;
                }
                None => Note::Other,
            };
        }
        is_done
    }

    /// Writes headers and trailers, and runs the cipher over all together.
    #[inline(never)]
    pub(super) fn seal_direct(&mut self, frames: &mut [Frame], notes: &mut Notes) {
        let mut sealer = Sealer::new(&self.outbound_sad);
        let (mut run, mut rest) = (None, notes.iter_mut());
        for frame in frames {
            let Some(note) = rest.next() else { break };
            let Note::Seal(slot) = *note else { continue };
            *note = Note::Other;
            let Some(plan) = sealer.plan(slot, frame.data()) else { continue };
            let Some(bytes) = frame.reshape(Plan::FRONT, plan.frame_len()) else { continue };
            if run != Some(slot) {
                run = Some(slot);
                let next = rest.as_slice().first();
                let alone = !matches!(next, Some(Note::Seal(next)) if *next == slot);
                sealer.prefetch_key(&plan, alone);
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
