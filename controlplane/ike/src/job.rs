//! Public-key work, done away from the engine's thread.

use crate::event::IkeId;

/// Work for the public-key pool. It owns what it needs and may run on any thread.
pub struct Job {
    pub(crate) ike: IkeId,
    pub(crate) generation: u64,
}

/// What came of a [`Job`].
pub struct JobDone {
    pub(crate) ike: IkeId,
    pub(crate) generation: u64,
}

impl Job {
    /// Does the work; some 20 µs to a few ms.
    pub fn run(self) -> JobDone {
        JobDone { ike: self.ike, generation: self.generation }
    }
}
