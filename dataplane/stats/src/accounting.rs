//! Where every packet of a worker went.
//!
//! ```text
//!   received + generated + released from waiting + handed in
//! = sent + to host + drops + taken into waiting + handed out
//! ```
//!
//! A packet enters a worker by one of the four terms on the left and leaves it by one of the five on
//! the right, once each. A packet that waits has left the worker (taken into waiting) and enters it
//! again when it is released, be it to be sent or to be dropped because it waited too long.
//! A packet handed to another worker leaves the one and enters the other; what is between them is
//! in the handoff ring. The frame that comes home carries no packet any more.
//!
//! A worker publishes at the end of a turn, when it has no packet in hand, so the identity holds
//! exactly in every block that was read whole. Between workers it holds up to what is in the rings.

use crate::{
    catalogue::Worker,
    snapshot::{Consistency, WorkerReading},
};

/// The terms of the identity, of one worker or summed over several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    /// Packets taken from ports, the host port and the kernel's reassembly.
    pub received: u64,
    /// Packets made by the worker.
    pub generated: u64,
    /// Packets that left a waiting queue.
    pub released_from_waiting: u64,
    /// Packets taken from other workers.
    pub handed_in: u64,
    /// Packets given to a port.
    pub sent: u64,
    /// Packets given to the host port.
    pub to_host: u64,
    /// Packets dropped, for all causes.
    pub drops: u64,
    /// Packets that went to wait.
    pub taken_into_waiting: u64,
    /// Packets given to other workers.
    pub handed_out: u64,
    /// Packets that wait: taken into waiting less released from it.
    pub waiting: u64,
    /// Blocks whose values are not of one moment, so that the identity may not hold in them.
    pub inconsistent: u64,
}

impl Accounting {
    pub(crate) fn of(worker: &WorkerReading<'_>) -> Self {
        Self {
            received: worker.get(Worker::Received),
            generated: worker.get(Worker::Generated),
            released_from_waiting: worker.get(Worker::ReleasedFromWaiting),
            handed_in: worker.get(Worker::HandedIn),
            sent: worker.get(Worker::Sent),
            to_host: worker.get(Worker::ToHost),
            drops: worker.drops().fold(0, |sum, drops| sum.wrapping_add(drops.packets)),
            taken_into_waiting: worker.get(Worker::TakenIntoWaiting),
            handed_out: worker.get(Worker::HandedOut),
            waiting: worker.get(Worker::Waiting),
            inconsistent: u64::from(worker.block().consistency() != Consistency::Whole),
        }
    }

    /// Returns the packets that entered: the left side.
    pub const fn entered(&self) -> u64 {
        self.received
            .wrapping_add(self.generated)
            .wrapping_add(self.released_from_waiting)
            .wrapping_add(self.handed_in)
    }

    /// Returns the packets that left: the right side.
    pub const fn left(&self) -> u64 {
        self.sent
            .wrapping_add(self.to_host)
            .wrapping_add(self.drops)
            .wrapping_add(self.taken_into_waiting)
            .wrapping_add(self.handed_out)
    }

    /// Returns whether the identity holds, and what waits is what went to wait and did not come
    /// back.
    pub const fn holds(&self) -> bool {
        self.entered() == self.left()
            && self.taken_into_waiting.wrapping_sub(self.released_from_waiting) == self.waiting
    }

    /// Returns the sum of two workers' terms; the identity of a sum holds if it holds in each.
    #[must_use]
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            received: self.received.wrapping_add(other.received),
            generated: self.generated.wrapping_add(other.generated),
            released_from_waiting: self
                .released_from_waiting
                .wrapping_add(other.released_from_waiting),
            handed_in: self.handed_in.wrapping_add(other.handed_in),
            sent: self.sent.wrapping_add(other.sent),
            to_host: self.to_host.wrapping_add(other.to_host),
            drops: self.drops.wrapping_add(other.drops),
            taken_into_waiting: self.taken_into_waiting.wrapping_add(other.taken_into_waiting),
            handed_out: self.handed_out.wrapping_add(other.handed_out),
            waiting: self.waiting.wrapping_add(other.waiting),
            inconsistent: self.inconsistent.wrapping_add(other.inconsistent),
        }
    }
}
