//! Packets that come to another core than the one that owns their SA.
//!
//! ```text
//!  worker a: copied off its frame ──► ═════ crossing ═════ ──► exchange: copied into one   worker b
//! ```
//!
//! A way of its own for each two workers in each direction, so that neither waits for a third, and what a burst puts on it is shown to
//! the other core at once, when the burst ends. Packets cross and frames do not: the frame of one that leaves takes one that arrives.
//! It is IP packets that cross, and what is to be done with one is in its marks. On the straight way a frame begins with an Ethernet
//! header, for which there is room then: what it holds is looked at nowhere.

use crate::account::WorkerDrop;
use crate::config::{Limits, Side};
use crate::direct::{Kinds, Note, Notes};
use crate::packet::{Origin, Packet};
use crate::worker::{BURST, Worker};
use af_xdp::{Arrived, Frame, FramePool, JUMBO, PacketReceiver, PacketSender, crossing};
use ipsec::drop_cause::DropCause;
use ipsec::packet::PacketBuffer;
use ipsec::sa::Spi;
use ipsec::sad::{OutboundSad, Slot};
use ipsec::selector::PolicyId;
use ipsec::spi::CoreId;
use stats::Worker as Row;
use wire::ethernet;
use wire::ip::Ip;

/// Handed packets wait for room in this worker's own bursts while that takes so many turns at most, as many finding room in each as in
/// this one. They are a reserve, so that bursts are full in turns that nothing new came in as well: where only part of a burst was let wait,
/// four in ten were not (docs/handing-over.md).
pub(crate) const TURNS: u64 = 8;

/// Octets that a way has at least: room for a few jumbo frames.
const WAY: usize = 64 << 10;

/// What the owner does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandedOff {
    /// Opens it: an IP packet addressed to us that carries ESP or AH.
    Inbound,
    /// The same, and it goes the straight way.
    InboundFrame(Spi),
    /// Seals it: a plain IP packet that its policy was found for, its TTL taken care of.
    Outbound(Choice),
    /// The same, and it goes the straight way, its TTL as it came.
    OutboundFrame(Choice),
}

/// The outbound SA that was found for a packet, among those of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) policy: PolicyId,
}

impl Choice {
    /// Its slot in the table of its owner, if it is still there.
    #[inline(always)]
    fn slot_in(self, sad: &OutboundSad) -> Option<Slot> {
        let sa = sad.get(Slot(self.slot))?;
        (sa.generation() == self.generation).then_some(Slot(self.slot))
    }
}

/// As the marks of a frame. First word, from the lowest bit on: kind, core of arrival, how it came, 8 bits each; above 32 the slot or SPI.
/// Second word: policy, and above 32 the generation.
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
            Self::InboundFrame(spi) => (Self::INBOUND_FRAME, spi.get(), [0, 0]),
            Self::Outbound(sa) => (Self::OUTBOUND, sa.slot, [sa.generation, sa.policy.0]),
            Self::OutboundFrame(sa) => {
                (Self::OUTBOUND_FRAME, sa.slot, [sa.generation, sa.policy.0])
            }
        };
        let [core, way] = mark;
        let first = kind | (core & 0xff) << 8 | (way & 0xff) << 16 | u64::from(word) << 32;
        [first, u64::from(high) << 32 | u64::from(low)]
    }

    /// The marks for a frame that came to a port of this core.
    #[inline(always)]
    pub(crate) fn marks(self, arrival: CoreId) -> [u64; 2] {
        self.note([arrival.index() as u64, 0])
    }

    /// The core that a frame of this worker came to a port of, where it goes the straight way.
    pub(crate) fn arrival(mark: [u64; 2], here: CoreId) -> CoreId {
        let handed = Self::is_straight(mark).then_some((mark[0] >> 8 & 0xff) as usize);
        handed.and_then(CoreId::new).unwrap_or(here)
    }

    /// What was noted, and the marks from before.
    #[inline]
    fn read([first, second]: [u64; 2]) -> (Self, [u64; 2]) {
        let (word, high, low) = ((first >> 32) as u32, (second >> 32) as u32, second as u32);
        let choice = Choice { slot: word, generation: high, policy: PolicyId(low) };
        let what = match (first & 0xff, Spi::new(word)) {
            (Self::OUTBOUND, _) => Self::Outbound(choice),
            (Self::OUTBOUND_FRAME, _) => Self::OutboundFrame(choice),
            (Self::INBOUND_FRAME, Some(spi)) => Self::InboundFrame(spi),
            _ => Self::Inbound,
        };
        (what, [first >> 8 & 0xff, first >> 16 & 0xff])
    }

    /// Whether it is about a frame that goes the straight way. A frame that came to a port of this worker has no such marks.
    #[inline]
    pub(crate) fn is_straight(mark: [u64; 2]) -> bool {
        matches!(mark[0] & 0xff, Self::INBOUND_FRAME | Self::OUTBOUND_FRAME)
    }
}

/// The ways between a worker and one other.
#[derive(Debug)]
pub(crate) struct Crossing {
    /// Packets of this worker for the other,
    leaving: PacketSender,
    /// and the other's for this one.
    arriving: PacketReceiver,
    /// Packets taken so far,
    taken: u64,
    /// and at the beginning of this turn.
    began: u64,
    /// Packets that may wait at most: half of those that the way has room for, were they as long as can be.
    most: u32,
}

impl Crossing {
    /// For each of so many workers the ways between it and every other, in the order of their cores.
    pub(crate) fn between(workers: usize, limits: &Limits) -> Vec<Vec<Option<Self>>> {
        let mut all: Vec<Vec<_>> = (0..workers).map(|_| Vec::with_capacity(workers)).collect();
        let octets = (limits.handoff_octets / workers.saturating_sub(1).max(1)).max(WAY);
        let bounded = |number| u32::try_from(number).unwrap_or(u32::MAX);
        let (packets, octets) = (bounded(limits.handoff_ring), bounded(octets));
        for core in 0..workers {
            let (before, rest) = all.split_at_mut(core);
            let [own, ..] = rest else { break };
            for other in before {
                let (here, there) = Self::pair(packets, octets);
                own.push(Some(here));
                other.push(Some(there));
            }
            own.push(None);
        }
        all
    }

    /// Both ends.
    fn pair(packets: u32, octets: u32) -> (Self, Self) {
        let (leaving, there_arriving) = crossing(packets, octets);
        let (there_leaving, arriving) = crossing(packets, octets);
        let most = packets.min(octets / JUMBO as u32) / 2;
        let one = |leaving, arriving| Self { leaving, arriving, taken: 0, began: 0, most };
        (one(leaving, arriving), one(there_leaving, there_arriving))
    }

    /// Whether there is something for this worker.
    pub(crate) fn has_work(&self) -> bool {
        !self.arriving.is_empty()
    }

    /// How many packets will have been taken when what is on the way now is through.
    pub(crate) fn drained(&mut self) -> u64 {
        self.taken + u64::from(self.arriving.len())
    }

    /// Packets taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// How many of the next packets, at most so many, go the straight way; none of them after one that does not.
    #[inline]
    fn straight(&self, most: u32) -> u32 {
        let packets = self.arriving.packets(0).take(most as usize);
        packets.take_while(|packet| HandedOff::is_straight(packet.mark())).count() as u32
    }

    /// Is done with the next packets.
    #[inline]
    fn give_back(&mut self, packets: u32) {
        self.arriving.give_back(packets);
        self.taken += u64::from(packets);
    }
}

impl Worker {
    /// Hands a packet to the core that owns its SA: copies it onto the way there, or drops it without room.
    #[inline]
    pub(crate) fn hand_off(&mut self, packet: Packet, to: CoreId, what: HandedOff) {
        let frame = packet.0;
        let mark = what.note(frame.mark);
        self.bells |= 1 << to.index();
        let crossing = self.crossings.get_mut(to.index()).and_then(Option::as_mut);
        match crossing.is_some_and(|crossing| crossing.leaving.push(&frame, mark)) {
            true => self.account.add(Row::HandedOut, 1),
            false => self.account.drop(WorkerDrop::HandoffFull),
        }
        self.free(frame);
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
                self.shared[core].bell.ring();
            }
        }
    }

    /// Looks for what other workers have handed over by now.
    #[inline]
    pub(crate) fn look_for_handed(&mut self) {
        for crossing in self.crossings.iter_mut().flatten() {
            crossing.began = crossing.taken;
            let _ = crossing.arriving.len();
        }
    }

    /// Hands over what of a burst other workers own the SAs of, and lets what they have handed over go along with the rest, in its place
    /// first: a full burst takes hardly longer than half of one. What finds no room stays, to be taken later. How many came along.
    #[inline]
    pub(crate) fn exchange(
        &mut self,
        frames: &mut Vec<Frame>,
        notes: &mut Notes,
        kinds: &mut Kinds,
    ) -> usize {
        if kinds.others != 0 {
            self.send_across(frames, notes, kinds.others);
        }
        let mut along = 0;
        for from in 0..self.crossings.len() {
            let Some(Some(crossing)) = self.crossings.get_mut(from) else { continue };
            let room = BURST - notes.len() + kinds.others.count_ones() as usize;
            let known = crossing.arriving.counted().min(room as u32);
            if known > 0 {
                along += self.bring_over(from, known, frames, notes, kinds);
            }
        }
        along as usize
    }

    /// Copies the packets of a burst that are for other workers, a bit each, onto the ways to them; their frames stay.
    #[inline(never)]
    fn send_across(&mut self, frames: &[Frame], notes: &mut Notes, others: u32) {
        let (mut rest, mut left, mut handed) = (others, 0, 0);
        let here = self.core;
        while let Some((to, _)) = notes.get(rest.trailing_zeros() as usize).and_then(owner) {
            self.bells |= 1 << to.index();
            // First all for one core.
            let mut later = 0;
            let mut packets = core::iter::from_fn(|| {
                while rest != 0 {
                    let at = rest.trailing_zeros() as usize;
                    rest &= rest - 1;
                    let (Some(frame), Some(note)) = (frames.get(at), notes.get_mut(at)) else {
                        break;
                    };
                    match owner(note) {
                        Some((core, what)) if core == to => {
                            *note = Note::Left;
                            left += 1;
                            return Some((what.marks(here), frame));
                        }
                        _ => later |= 1 << at,
                    }
                }
                None
            });
            if let Some(Some(crossing)) = self.crossings.get_mut(to.index()) {
                handed += crossing.leaving.push_all(ethernet::HEADER_LEN, &mut packets);
            }
            // What there is no room for.
            packets.for_each(drop);
            rest = later;
        }
        self.account.add(Row::HandedOut, handed.into());
        self.account.drop_many(WorkerDrop::HandoffFull, u64::from(left - handed));
    }

    /// Copies the next packets of another worker, at most so many and up to the first that does not go the straight way, into the frames
    /// of those that have left, as long as there are any, and then into new ones; then asks for their SAs in one row. How many it was.
    #[inline(never)]
    fn bring_over(
        &mut self,
        from: usize,
        most: u32,
        frames: &mut Vec<Frame>,
        notes: &mut Notes,
        kinds: &mut Kinds,
    ) -> u32 {
        let Self { core, crossings, pool, account, sad, outbound_sad, .. } = self;
        let Some(Some(crossing)) = crossings.get_mut(from) else { return 0 };
        let count = crossing.straight(most);
        let mut arrived = crossing.arriving.packets(0).take(count as usize);
        while let at = kinds.others.trailing_zeros() as usize
            && let (Some(frame), Some(note)) = (frames.get_mut(at), notes.get_mut(at))
            && let Some(packet) = arrived.next()
        {
            kinds.others &= kinds.others - 1;
            *note = match refill(packet, frame, pool) {
                Some(()) => note_handed(packet.mark(), *core, kinds),
                None => Note::Drop(WorkerDrop::UmemEmpty.into()),
            };
        }
        for packet in arrived {
            if let Some(own) = copied(packet, ethernet::HEADER_LEN, pool) {
                frames.push(own);
                // There is room for a burst.
                let _ = notes.try_push(note_handed(packet.mark(), *core, kinds));
            } else {
                account.drop(WorkerDrop::UmemEmpty);
            }
        }
        let mut run = None;
        for packet in crossing.arriving.packets(0).take(count as usize) {
            let mark = packet.mark();
            if run.replace(mark) == Some(mark) {
                continue;
            }
            match HandedOff::read(mark).0 {
                HandedOff::InboundFrame(spi) => sad.bring(spi.get()),
                HandedOff::OutboundFrame(choice) => outbound_sad.bring(Slot(choice.slot)),
                _ => {}
            }
        }
        crossing.give_back(count);
        account.add(Row::HandedIn, u64::from(count));
        count
    }

    /// Works on what no burst of this worker's own had room for, or did not go the straight way. What finds room in the next [`TURNS`] waits for it, unless this turn had `none`.
    #[inline]
    pub(crate) fn take_handed(&mut self, none: bool) -> usize {
        let mut count = 0;
        for from in 0..self.crossings.len() {
            let Some(Some(crossing)) = self.crossings.get_mut(from) else { continue };
            let counted = crossing.arriving.counted();
            let known = counted.min(BURST as u32);
            if known > 0 {
                let took = crossing.taken - crossing.began;
                // None is taken of those that do not go the straight way.
                let waits = u64::from(counted) <= TURNS * took && counted <= crossing.most;
                if none || !waits {
                    count += self.take_burst_of(from, known);
                }
            }
        }
        count
    }

    /// Works on the next packets of another worker: as many as go the same way one after the other, so that packets keep their order.
    #[inline(never)]
    fn take_burst_of(&mut self, from: usize, packets: u32) -> usize {
        let mut left = packets;
        while let Some(Some(crossing)) = self.crossings.get(from)
            && left > 0
        {
            if crossing.straight(1) > 0 {
                let mut frames = core::mem::take(&mut self.frames);
                let (mut notes, mut kinds) = (Notes::new(), Kinds::default());
                left -= self.bring_over(from, left, &mut frames, &mut notes, &mut kinds);
                self.go_straight(&mut frames, &mut notes, &kinds);
                self.frames = frames;
            }
            while left > 0 && self.take_handed_packet(from) {
                left -= 1;
            }
            self.flush();
        }
        packets as usize
    }

    /// A frame that does not go the straight way after all.
    #[cold]
    pub(crate) fn take_handed_otherwise(&mut self, mut packet: Packet) {
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

    /// The next packet of another worker, an IP packet on the way that fits all; false where it is to go the straight way.
    fn take_handed_packet(&mut self, from: usize) -> bool {
        let Some(Some(crossing)) = self.crossings.get(from) else { return false };
        if crossing.straight(1) > 0 {
            return false;
        }
        let copied =
            crossing.arriving.packets(0).next().and_then(|it| copied(it, 0, &mut self.pool));
        if let Some(Some(crossing)) = self.crossings.get_mut(from) {
            crossing.give_back(1);
        }
        self.account.add(Row::HandedIn, 1);
        let Some(own) = copied else {
            self.account.drop(WorkerDrop::UmemEmpty);
            return true;
        };
        let (what, mark) = HandedOff::read(own.mark);
        let packet = Packet(own.marked(mark));
        match what {
            HandedOff::Outbound(choice) => self.seal_handed(packet, choice),
            _ => self.classify(packet, Origin::Resumed, Side::Either),
        }
        true
    }

    fn seal_handed(&mut self, packet: Packet, choice: Choice) {
        match choice.slot_in(&self.outbound_sad) {
            Some(slot) => self.seal_with(packet, slot),
            None => self.protect_again(packet, choice.policy),
        }
    }

    /// A copy in a frame of this worker; without one it is dropped.
    #[inline]
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Option<Packet> {
        let Some(mut frame) = self.pool.alloc_for(bytes.len()) else {
            self.account.drop(WorkerDrop::UmemEmpty);
            return None;
        };
        if frame.copy_from(bytes).is_none() {
            self.drop_packet(Packet(frame), DropCause::NoRoom);
            return None;
        }
        Some(Packet(frame))
    }
}

/// Copies a packet into a frame whose own packet is gone, or into another where that one is too small; `None` without one.
#[inline(always)]
fn refill(packet: Arrived<'_>, frame: &mut Frame, pool: &mut FramePool) -> Option<()> {
    if frame.can_hold(ethernet::HEADER_LEN + packet.octets()) {
        return packet.fill(frame, ethernet::HEADER_LEN);
    }
    replace(packet, frame, pool)
}

#[cold]
#[inline(never)]
fn replace(packet: Arrived<'_>, frame: &mut Frame, pool: &mut FramePool) -> Option<()> {
    let own = copied(packet, ethernet::HEADER_LEN, pool)?;
    // Every frame in a worker's hands is its own.
    let _ = pool.free(core::mem::replace(frame, own));
    Some(())
}

/// A copy of a packet; `None` without a frame.
#[inline(never)]
fn copied(packet: Arrived<'_>, front: usize, pool: &mut FramePool) -> Option<Frame> {
    let mut own = pool.alloc_for(front + packet.octets())?;
    // It was asked for with this length.
    let _ = packet.fill(&mut own, front);
    Some(own)
}

/// Who owns the SA of a frame, and what is to be done with it there.
#[inline(always)]
fn owner(note: &Note) -> Option<(CoreId, HandedOff)> {
    match *note {
        Note::Seal(core, choice) => Some((core, HandedOff::OutboundFrame(choice))),
        Note::Protected(spi) => Some((spi.core(), HandedOff::InboundFrame(spi))),
        _ => None,
    }
}

/// What its sender found out about a frame that goes the straight way.
#[inline(always)]
fn note_handed(mark: [u64; 2], here: CoreId, kinds: &mut Kinds) -> Note {
    match HandedOff::read(mark) {
        (HandedOff::InboundFrame(spi), _) => {
            kinds.protected = true;
            Note::Protected(spi)
        }
        (HandedOff::OutboundFrame(choice), _) => {
            kinds.plain = true;
            Note::Seal(here, choice)
        }
        _ => Note::Other,
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
                2 => HandedOff::InboundFrame(spi),
                _ => HandedOff::OutboundFrame(choice),
            };
            let mark = what.note([core, way]);
            prop_assert_eq!(HandedOff::read(mark), (what, [core, way]));
            prop_assert_eq!(HandedOff::is_straight(mark), kind >= 2);
        }
    }
}
