//! What an in-memory wire does to packets.

use super::Direction;
use crate::umem::Frame;
use std::collections::VecDeque;

/// A probability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartsPerMillion(u32);

impl PartsPerMillion {
    /// At most one million, which is always.
    pub const fn new(parts: u32) -> Self {
        Self(if parts > 1_000_000 { 1_000_000 } else { parts })
    }

    /// The number of parts.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// The faults of one direction. A packet meets at most one of the first three, and may be corrupted besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Does not arrive.
    pub loss: PartsPerMillion,
    /// Arrives twice, if the sender's pool has a frame for the copy.
    pub duplication: PartsPerMillion,
    /// Arrives behind up to 16 packets that were sent after it.
    pub reordering: PartsPerMillion,
    /// Arrives with one bit of what follows the Ethernet header changed.
    pub corruption: PartsPerMillion,
}

impl Faults {
    /// A good wire.
    pub const NONE: Self = Self {
        loss: PartsPerMillion(0),
        duplication: PartsPerMillion(0),
        reordering: PartsPerMillion(0),
        corruption: PartsPerMillion(0),
    };
}

/// What happened to a direction's packets. What arrives, or is on its way, is
/// `taken - lost + duplicated`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Packets the wire took from its senders.
    pub taken: u64,
    /// Packets that did not arrive.
    pub lost: u64,
    /// Packets that arrived once more.
    pub duplicated: u64,
    /// Packets that were held back.
    pub reordered: u64,
    /// Packets that were changed, lost ones among them.
    pub corrupted: u64,
}

/// A packet's lot.
pub(super) enum Fate {
    Arrives,
    ArrivesTwice,
    IsLate,
    IsLost,
}

/// Packets held back at once, at most.
const HELD: usize = 16;

/// Calls of `complete` after which late packets go on though nothing has overtaken them.
const PATIENCE: u32 = 32;

/// One sender's dice, and the packets it holds back.
#[derive(Debug)]
pub(super) struct Fortune {
    state: u64,
    /// Each with the number of packets that may still overtake it; the oldest first.
    held: VecDeque<(Frame, u32)>,
    waited: u32,
}

impl Fortune {
    pub(super) fn new(seed: u64, direction: Direction, queue: usize) -> Self {
        let way = match direction {
            Direction::AToB => 1,
            Direction::BToA => 2,
        };
        let state = seed ^ (way << 56) ^ ((queue as u64) << 32);
        Self { state, held: VecDeque::with_capacity(HELD), waited: 0 }
    }

    /// Splitmix64: the same sequence for the same seed on every machine.
    fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    fn below(&mut self, n: u32) -> u32 {
        (((self.roll() >> 32) * u64::from(n)) >> 32) as u32
    }

    pub(super) fn strikes(&mut self, probability: PartsPerMillion) -> bool {
        probability.0 > 0 && self.below(1_000_000) < probability.0
    }

    pub(super) fn decide(&mut self, faults: &Faults) -> Fate {
        if self.strikes(faults.loss) {
            Fate::IsLost
        } else if self.strikes(faults.duplication) {
            Fate::ArrivesTwice
        } else if self.held.len() < HELD && self.strikes(faults.reordering) {
            Fate::IsLate
        } else {
            Fate::Arrives
        }
    }

    pub(super) fn corrupt(&mut self, frame: &mut [u8]) {
        let Some(packet) = frame.get_mut(14..).filter(|p| !p.is_empty()) else { return };
        let bit = self.below(packet.len() as u32 * 8) as usize;
        packet[bit / 8] ^= 1 << (bit % 8);
    }

    pub(super) fn hold(&mut self, frame: Frame) {
        let overtakers = 1 + self.below(HELD as u32);
        self.held.push_back((frame, overtakers));
        self.waited = 0;
    }

    /// A packet was sent, and so overtook those that are held.
    pub(super) fn overtake(&mut self) {
        for (_, left) in &mut self.held {
            *left = left.saturating_sub(1);
        }
    }

    /// A packet that has been overtaken often enough.
    pub(super) fn due(&mut self) -> Option<Frame> {
        let at = self.held.iter().position(|(_, left)| *left == 0)?;
        self.held.remove(at).map(|(frame, _)| frame)
    }

    /// Whether late packets have waited long enough for something to overtake them.
    pub(super) fn waited_enough(&mut self) -> bool {
        if self.held.is_empty() {
            return false;
        }
        self.waited += 1;
        self.waited >= PATIENCE
    }

    /// A late packet, whether overtaken or not.
    pub(super) fn release(&mut self) -> Option<Frame> {
        self.held.pop_front().map(|(frame, _)| frame)
    }
}
