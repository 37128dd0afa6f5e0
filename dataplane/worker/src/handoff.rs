//! Packets that come to another core than the one that owns their SA.
//!
//! ```text
//!  worker a: hand_off ──► ═══════ arriving ═══════ ──► take_handoffs: copied into a frame of its own   worker b
//!            take_home ◄─ ════════ coming home ═══ ◄── the frame that it came in
//! ```
//!
//! A way of its own for each two workers in each direction, so that neither waits for a third, and what a burst puts on it is shown to
//! the other core at once, when the burst ends. What is to be done with a packet is in the marks of its frame.

use crate::account::{Drop, WorkerDrop};
use crate::command::SaRef;
use crate::config::Side;
use crate::direct::{Kinds, Note, Notes};
use crate::packet::{Origin, Packet};
use crate::worker::{BURST, Worker};
use af_xdp::{Frame, FrameReceiver, FrameSender, crossing};
use ipsec::drop_cause::DropCause;
use ipsec::packet::PacketBuffer;
use ipsec::prefetch::prefetch;
use ipsec::sa::Spi;
use ipsec::sad::Slot;
use ipsec::selector::PolicyId;
use ipsec::spi::CoreId;
use stats::Worker as Row;
use std::vec::Drain;
use wire::ethernet;
use wire::ip::Ip;

/// Lines of a packet that are asked for ahead; the processor itself goes on from there.
const ASKED_FOR: usize = 4;

/// What the owner does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandedOff {
    /// Opens it: an IP packet addressed to us that carries ESP or AH.
    Inbound,
    /// The same with a frame that goes the straight way.
    InboundFrame { spi: Spi, sequence: u32 },
    /// Seals it: a plain IP packet that its policy was found for, its TTL taken care of.
    Outbound(Choice),
    /// The same with a frame that goes the straight way, its TTL as it came.
    OutboundFrame(Choice),
}

/// The outbound SA that was found for a packet, among those of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) policy: PolicyId,
}

/// As the marks of a frame. First word, from the lowest bit on: kind, core of arrival, how it came, 8 bits each; above 32 the slot or SPI.
/// Second word: policy or sequence number, and above 32 the generation.
impl HandedOff {
    const INBOUND: u64 = 0;
    const OUTBOUND: u64 = 1;
    const INBOUND_FRAME: u64 = 2;
    const OUTBOUND_FRAME: u64 = 3;

    /// The marks for a packet that has `mark` now.
    #[inline(always)]
    fn note(self, mark: [u64; 2]) -> [u64; 2] {
        let (kind, word, [high, low]) = match self {
            Self::Inbound => (Self::INBOUND, 0, [0, 0]),
            Self::InboundFrame { spi, sequence } => (Self::INBOUND_FRAME, spi.get(), [0, sequence]),
            Self::Outbound(sa) => (Self::OUTBOUND, sa.slot, [sa.generation, sa.policy.0]),
            Self::OutboundFrame(sa) => {
                (Self::OUTBOUND_FRAME, sa.slot, [sa.generation, sa.policy.0])
            }
        };
        let [core, way] = mark;
        let first = kind | (core & 0xff) << 8 | (way & 0xff) << 16 | u64::from(word) << 32;
        [first, u64::from(high) << 32 | u64::from(low)]
    }

    /// What was noted, and the marks from before.
    #[inline]
    fn read([first, second]: [u64; 2]) -> (Self, [u64; 2]) {
        let (word, high, low) = ((first >> 32) as u32, (second >> 32) as u32, second as u32);
        let choice = Choice { slot: word, generation: high, policy: PolicyId(low) };
        let what = match (first & 0xff, Spi::new(word)) {
            (Self::OUTBOUND, _) => Self::Outbound(choice),
            (Self::OUTBOUND_FRAME, _) => Self::OutboundFrame(choice),
            (Self::INBOUND_FRAME, Some(spi)) => Self::InboundFrame { spi, sequence: low },
            _ => Self::Inbound,
        };
        (what, [first >> 8 & 0xff, first >> 16 & 0xff])
    }

    /// Whether it is about a frame that goes the straight way.
    #[inline]
    fn is_straight(mark: [u64; 2]) -> bool {
        matches!(mark[0] & 0xff, Self::INBOUND_FRAME | Self::OUTBOUND_FRAME)
    }
}

/// The ways between a worker and one other.
#[derive(Debug)]
pub(crate) struct Crossing {
    /// Frames of this worker for the other,
    leaving: FrameSender,
    /// and as they come back.
    coming_home: FrameReceiver,
    /// The other's for this one,
    arriving: FrameReceiver,
    /// and as they are given back.
    returning: FrameSender,
    /// What was taken in this turn and is not worked on yet.
    in_hand: Vec<Frame>,
    /// Packets taken so far.
    taken: u64,
}

impl Crossing {
    /// For each of so many workers the ways between it and every other, in the order of their cores; a way holds `packets`.
    pub(crate) fn between(workers: usize, packets: usize) -> Vec<Vec<Option<Self>>> {
        let packets = u32::try_from(packets).unwrap_or(u32::MAX);
        let mut all: Vec<Vec<_>> = (0..workers).map(|_| Vec::with_capacity(workers)).collect();
        for core in 0..workers {
            let (before, rest) = all.split_at_mut(core);
            let [own, ..] = rest else { break };
            for other in before {
                let (here, there) = Self::pair(packets);
                own.push(Some(here));
                other.push(Some(there));
            }
            own.push(None);
        }
        all
    }

    /// Both ends.
    fn pair(packets: u32) -> (Self, Self) {
        // What is on the way there, and what the other has in its hands.
        let frames = packets.saturating_add(BURST as u32);
        let ((leaving, there_arriving), (there_leaving, arriving)) =
            (crossing(packets), crossing(packets));
        let ((there_returning, coming_home), (returning, there_home)) =
            (crossing(frames), crossing(frames));
        let one = |leaving, coming_home, arriving, returning| {
            let in_hand = Vec::with_capacity(BURST);
            Self { leaving, coming_home, arriving, returning, in_hand, taken: 0 }
        };
        let here = one(leaving, coming_home, arriving, returning);
        (here, one(there_leaving, there_home, there_arriving, there_returning))
    }

    /// Whether there is something for this worker.
    pub(crate) fn has_work(&self) -> bool {
        !self.arriving.is_empty() || !self.coming_home.is_empty()
    }

    /// How many packets will have been taken when what is on the way now is through.
    pub(crate) fn drained(&mut self) -> u64 {
        self.taken + u64::from(self.arriving.len())
    }

    /// Packets taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }
}

impl Worker {
    /// Hands a packet to the core that owns its SA.
    #[inline]
    pub(crate) fn hand_off(&mut self, packet: Packet, to: CoreId, what: HandedOff) {
        let mark = packet.0.mark;
        self.hand_off_marked(packet.0, to, what.note(mark));
    }

    /// Hands a frame over as it came from a port.
    #[inline(never)]
    pub(crate) fn hand_off_frame(&mut self, frame: Frame, to: CoreId, what: HandedOff) {
        self.hand_off_marked(frame, to, what.note([self.core.index() as u64, 0]));
    }

    #[inline(always)]
    fn hand_off_marked(&mut self, frame: Frame, to: CoreId, mark: [u64; 2]) {
        let Some(Some(crossing)) = self.crossings.get_mut(to.index()) else {
            return self.drop_packet(Packet(frame), WorkerDrop::HandoffFull);
        };
        match crossing.leaving.push(frame.marked(mark)) {
            Ok(()) => {
                self.account.add(Row::HandedOut, 1);
                self.bells |= 1 << to.index();
            }
            Err(frame) => self.drop_packet(Packet(frame), WorkerDrop::HandoffFull),
        }
    }

    /// Shows the others what was put on the ways to them since the last time, and wakes them.
    #[inline]
    pub(crate) fn ring_bells(&mut self) {
        let mut bells = core::mem::take(&mut self.bells);
        while bells != 0 {
            let core = bells.trailing_zeros() as usize;
            bells &= bells - 1;
            if let Some(Some(crossing)) = self.crossings.get_mut(core) {
                crossing.leaving.publish();
                crossing.returning.publish();
                self.shared[core].bell.ring();
            }
        }
    }

    /// Takes a burst from each other worker, and asks for its bytes, which are in that one's cache: they come while this worker's own
    /// packets are worked on.
    #[inline]
    pub(crate) fn gather_handoffs(&mut self) {
        for crossing in self.crossings.iter_mut().flatten() {
            if crossing.arriving.is_empty() {
                continue;
            }
            let count = (crossing.arriving.len() as usize).min(BURST);
            for frame in core::iter::from_fn(|| crossing.arriving.pop()).take(count) {
                for line in frame.data().chunks(64).take(ASKED_FOR) {
                    prefetch(&line[0]);
                }
                crossing.in_hand.push(frame);
            }
            crossing.arriving.release();
            crossing.taken += count as u64;
        }
    }

    /// Works on what was gathered, takes this worker's own frames home, and asks for what may be there in the next turn.
    #[inline]
    pub(crate) fn take_handoffs(&mut self) -> usize {
        let mut count = 0;
        for from in 0..self.crossings.len() {
            let Some(Some(crossing)) = self.crossings.get_mut(from) else { continue };
            if !crossing.in_hand.is_empty() {
                count += self.take_handed_by(from);
            }
            self.take_home(from);
        }
        count
    }

    fn take_handed_by(&mut self, from: usize) -> usize {
        let Some(Some(crossing)) = self.crossings.get_mut(from) else { return 0 };
        let mut in_hand = core::mem::take(&mut crossing.in_hand);
        let count = in_hand.len();
        self.account.add(Row::HandedIn, count as u64);
        // As many as go the same way one after the other, so that packets keep their order.
        let is_straight = |frame: &Frame| HandedOff::is_straight(frame.mark);
        while let Some(first) = in_hand.first() {
            let straight = is_straight(first);
            let others = in_hand.iter().position(|frame| is_straight(frame) != straight);
            let run = in_hand.drain(..others.unwrap_or(in_hand.len()));
            if straight {
                self.take_handed_frames(run, from);
            } else {
                self.take_handed_packets(run, from);
            }
            if let Some(core) = CoreId::new(from) {
                self.bells |= 1 << core.index();
            }
            self.flush();
        }
        if let Some(Some(crossing)) = self.crossings.get_mut(from) {
            crossing.in_hand = in_hand;
        }
        count
    }

    /// Frames of this worker that another has copied.
    #[inline]
    fn take_home(&mut self, from: usize) {
        let Some(Some(crossing)) = self.crossings.get_mut(from) else { return };
        if !crossing.coming_home.is_empty() {
            let mut count = 0;
            while let Some(frame) = crossing.coming_home.pop() {
                count += 1;
                // Every frame that comes home is this worker's.
                let _ = self.pool.free(frame);
            }
            crossing.coming_home.release();
            self.account.add(Row::FramesReturned, count);
        }
        crossing.arriving.ask_ahead(BURST as u32);
        crossing.coming_home.ask_ahead(BURST as u32);
    }

    /// Frames for the straight way, which their sender has found the SAs of.
    fn take_handed_frames(&mut self, handed: Drain<'_, Frame>, from: usize) {
        self.ask_for_handed(handed.as_slice());
        let mut frames = core::mem::take(&mut self.frames);
        let (mut notes, mut kinds) = (Notes::new(), Kinds::default());
        // All frames first: one that is moved waits for all that was stored before, and that would be what is copied.
        for foreign in handed.as_slice() {
            if !self.pool.alloc_onto(&mut frames, foreign.len(), foreign.mark) {
                break;
            }
        }
        let mut owns = frames.iter_mut();
        for foreign in handed {
            let mark = foreign.mark;
            let Some(own) = owns.next() else {
                self.account.drop(WorkerDrop::UmemEmpty);
                self.send_home(foreign, from);
                continue;
            };
            // It was asked for with this length.
            let _ = own.copy_from(foreign.data());
            self.send_home(foreign, from);
            let note = match HandedOff::read(mark) {
                (HandedOff::InboundFrame { spi, .. }, _) => {
                    kinds.protected = true;
                    Note::Protected(spi)
                }
                (HandedOff::OutboundFrame(choice), _) => {
                    kinds.plain = true;
                    self.chosen(choice).map_or(Note::Other, Note::Seal)
                }
                _ => Note::Other,
            };
            // There is room for a burst.
            let _ = notes.try_push(note);
        }
        if let Some(arrival) = CoreId::new(from) {
            self.go_straight(&mut frames, &mut notes, &kinds, arrival);
        }
        for frame in frames.drain(..) {
            self.take_handed_otherwise(Packet(frame));
        }
        self.frames = frames;
    }

    /// Asks for the SAs of handed frames.
    #[inline]
    fn ask_for_handed(&self, handed: &[Frame]) {
        let mut run = None;
        for frame in handed {
            let word = frame.mark[0] >> 32;
            if run == Some(word) {
                continue;
            }
            run = Some(word);
            match HandedOff::read(frame.mark) {
                (HandedOff::InboundFrame { spi, sequence }, _) => {
                    self.sad.prefetch(spi.get(), sequence);
                }
                (HandedOff::OutboundFrame(Choice { slot, .. }), _) => {
                    self.ask_for_outbound(Slot(slot));
                }
                _ => {}
            }
        }
    }

    /// A frame that does not go the straight way after all.
    #[cold]
    fn take_handed_otherwise(&mut self, mut packet: Packet) {
        let (what, mark) = HandedOff::read(packet.0.mark);
        packet.0.mark = mark;
        packet.trim_front(ethernet::HEADER_LEN);
        let HandedOff::OutboundFrame(choice) = what else {
            return self.classify(packet, Origin::Resumed, Side::Either);
        };
        let Ok(Ip::V4(ip)) = Ip::parse(&packet) else {
            return self.drop_packet(packet, DropCause::MalformedHeader);
        };
        // Link-layer padding goes.
        let len = ip.total_len();
        packet.0.truncate(len);
        if !self.decrement_hop_limit(&mut packet) {
            return self.time_exceeded(packet);
        }
        self.seal_handed(packet, choice);
    }

    /// IP packets, on the way that fits all.
    fn take_handed_packets(&mut self, handed: Drain<'_, Frame>, from: usize) {
        for foreign in handed {
            let (what, mark) = HandedOff::read(foreign.mark);
            let Some(mut packet) = self.bring_over(foreign, from) else { continue };
            packet.0.mark = mark;
            match what {
                HandedOff::Outbound(choice) => self.seal_handed(packet, choice),
                _ => self.classify(packet, Origin::Resumed, Side::Either),
            }
        }
    }

    fn seal_handed(&mut self, packet: Packet, choice: Choice) {
        match self.chosen(choice) {
            Some(slot) => self.seal_with(packet, slot),
            None => self.protect_again(packet, choice.policy),
        }
    }

    /// The outbound SA of this worker that another one has found, if it is still there.
    #[inline]
    fn chosen(&self, Choice { slot, generation, .. }: Choice) -> Option<Slot> {
        self.owned_slot(SaRef { core: self.core, slot, generation })
    }

    /// Copies what another worker handed over into a frame of this one, and sends the other frame home.
    #[inline]
    fn bring_over(&mut self, foreign: Frame, from: usize) -> Option<Packet> {
        let copy = self.copy(foreign.data());
        self.send_home(foreign, from);
        copy
    }

    #[inline]
    fn send_home(&mut self, foreign: Frame, from: usize) {
        if let Some(Some(crossing)) = self.crossings.get_mut(from) {
            // Never full: it has a place for every frame on the way here and in hand.
            let _ = crossing.returning.push(foreign);
        }
    }

    /// A copy in a frame of this worker; without one it is dropped.
    #[inline]
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Option<Packet> {
        let Some(mut frame) = self.pool.alloc_for(bytes.len()) else {
            self.account.drop(Drop::from(WorkerDrop::UmemEmpty));
            return None;
        };
        if frame.copy_from(bytes).is_none() {
            self.drop_packet(Packet(frame), DropCause::NoRoom);
            return None;
        }
        Some(Packet(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn marks_say_what_was_noted(words: [u32; 3], kind in 0..4u8, core in 0..64u64, way in 0..4u64) {
            let [slot, generation, policy] = words;
            let choice = Choice { slot, generation, policy: PolicyId(policy) };
            let Some(spi) = Spi::new(slot) else { return Ok(()) };
            let what = match kind {
                0 => HandedOff::Inbound,
                1 => HandedOff::Outbound(choice),
                2 => HandedOff::InboundFrame { spi, sequence: policy },
                _ => HandedOff::OutboundFrame(choice),
            };
            let mark = what.note([core, way]);
            prop_assert_eq!(HandedOff::read(mark), (what, [core, way]));
            prop_assert_eq!(HandedOff::is_straight(mark), kind >= 2);
        }
    }
}
