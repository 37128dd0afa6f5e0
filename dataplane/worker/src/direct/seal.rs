//! Into a tunnel.

use super::{Kinds, Note, Notes, Wanted};
use crate::config::{PortId, Side};
use crate::due::Due;
use crate::handoff::Choice;
use crate::worker::{BURST, Worker};
use af_xdp::Frame;
use arrayvec::ArrayVec;
use ipsec::drop_cause::DropCause;
use ipsec::flow::FlowIdV4;
use ipsec::outbound::{Plan, Sealer};
use ipsec::sad::Slot;
use ipsec::spi::CoreId;

impl Worker {
    /// Finds the SAs of the flows, first of those that are where flows are looked for first, as nearly all are; then asks for them in one row.
    #[inline(never)]
    pub(super) fn choose_sas(&mut self, side: Side, notes: &mut Notes, kinds: &mut Kinds) {
        let mut later = ArrayVec::<usize, BURST>::new();
        let mut wanted = Wanted::default();
        let mut run = None;
        for (n, note) in notes.iter_mut().enumerate() {
            if !self.choose_sa::<true>(side, note, &mut run, (kinds, &mut wanted, n)) {
                let _ = later.try_push(n);
            }
        }
        let mut run = None;
        for n in later {
            if let Some(note) = notes.get_mut(n) {
                self.choose_sa::<false>(side, note, &mut run, (kinds, &mut wanted, n));
            }
        }
        wanted.all().for_each(|slot| self.outbound_sad.bring(Slot(slot)));
    }

    /// That of a flow that is `NEAR`, or wherever it is; false where it may be elsewhere. Of a run of packets of one flow it is looked for once.
    #[inline(always)]
    fn choose_sa<const NEAR: bool>(
        &mut self,
        side: Side,
        note: &mut Note,
        run: &mut Option<(FlowIdV4, Option<(CoreId, Choice)>)>,
        (kinds, wanted, n): (&mut Kinds, &mut Wanted, usize),
    ) -> bool {
        let Note::Plain(flow, place) = *note else { return true };
        let taken = match *run {
            Some((last, taken)) if last == flow => taken,
            _ => {
                let taken = self.sa_of::<NEAR>(flow, place, side);
                if let Some((core, choice)) = taken {
                    wanted.add(choice.slot, core == self.core);
                }
                *run = Some((flow, taken));
                taken
            }
        };
        *note = match taken {
            Some((core, choice)) => {
                kinds.others |= u32::from(core != self.core) << n;
                Note::Seal(core, choice)
            }
            None if NEAR => return false,
            None => Note::Other,
        };
        true
    }

    /// Writes headers and trailers, and runs the cipher over all together.
    #[inline(never)]
    pub(super) fn seal_direct(&mut self, frames: &mut [Frame], notes: &mut Notes) {
        let mut sealer = Sealer::new(&self.outbound_sad);
        let (mut run, mut rest) = (None, notes.iter_mut());
        for frame in frames {
            let Some(note) = rest.next() else { break };
            let Note::Seal(core, Choice { slot, generation, .. }) = *note else { continue };
            debug_assert!(core == self.core, "an SA of another core");
            let slot = Slot(slot);
            *note = Note::Other;
            let Some(plan) = sealer.plan(slot, generation, frame.data()) else { continue };
            let Some(bytes) = frame.reshape(Plan::FRONT, plan.frame_len()) else { continue };
            let mut alone = false;
            if run != Some(slot) {
                run = Some(slot);
                let next = rest.as_slice().first();
                alone = !matches!(next, Some(Note::Seal(_, next)) if next.slot == slot.0);
                sealer.prefetch_key(&plan, alone);
                if plan.fall_due() {
                    self.due.add(Due::Outbound(slot));
                }
            }
            *note = match sealer.take(&plan, bytes, alone) {
                true => Note::Send(PortId(plan.egress())),
                false => Note::Drop(DropCause::CipherFailed.into()),
            };
        }
        self.account.sealed(&sealer.finish());
    }
}
