//! Sleep and wake: a producer rings an eventfd only when the worker sleeps.
//!
//! ```text
//!   worker                                producer
//!   asleep = true        (1)              push to a queue      (3)
//!   SeqCst fence                          SeqCst fence
//!   any queue not empty? (2) ─ yes: stay  asleep?              (4) ─ yes: asleep = false, write eventfd
//!   poll(eventfd, …)
//!   asleep = false
//! ```
//!
//! Of (1) and (3) one is first in the order of the fences. If (1), then (4) sees it and rings; if (3), then (2) sees the
//! packet. So a push is never slept through; `a_push_is_never_slept_through` explores every interleaving of it.

use af_xdp::wait::{EventFd, PollSet};
use core::sync::atomic::{AtomicBool, Ordering, fence};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// The flag of the protocol, with the fence that orders it. A trait so that loom runs the same code as the workers.
pub(crate) trait Flag {
    /// `store(value, Relaxed)`; the fence orders it.
    fn set(&self, value: bool);
    /// `swap(false, Relaxed)`; the fence orders it.
    fn take(&self) -> bool;
    /// `load(Relaxed)`; the fence orders it.
    fn peek(&self) -> bool;
    /// `fence(SeqCst)`.
    fn fence();
}

impl Flag for AtomicBool {
    fn set(&self, value: bool) {
        self.store(value, Ordering::Relaxed);
    }
    fn take(&self) -> bool {
        self.swap(false, Ordering::Relaxed)
    }
    fn peek(&self) -> bool {
        self.load(Ordering::Relaxed)
    }
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// Steps (3) and (4) after the push: whether the bell must be rung.
pub(crate) fn must_ring<F: Flag>(asleep: &F) -> bool {
    F::fence();
    // The load keeps the cache line shared while the worker is awake; the swap makes one of many producers ring.
    asleep.peek() && asleep.take()
}

/// Steps (1) and (2): whether the worker may sleep; false when there is work.
pub(crate) fn may_sleep<F: Flag>(asleep: &F, has_work: impl FnOnce() -> bool) -> bool {
    asleep.set(true);
    F::fence();
    if has_work() {
        asleep.set(false);
        return false;
    }
    true
}

/// The bell of one sleeper.
#[derive(Debug)]
pub(crate) struct Doorbell {
    /// A: set by the sleeper, taken by whoever wakes it.
    asleep: AtomicBool,
    bell: EventFd,
}

impl Doorbell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { asleep: AtomicBool::new(false), bell: EventFd::new()? })
    }

    /// Tells the sleeper that something was pushed before this call.
    pub(crate) fn ring(&self) {
        if must_ring(&self.asleep) {
            self.bell.ring();
        }
    }

    /// Sleeps until rung, until one of `sources` has something to read, or until `timeout`; whether it slept and
    /// was woken before that.
    ///
    /// # Errors
    /// What poll(2) says.
    pub(crate) fn sleep<'a>(
        &'a self,
        sources: impl Iterator<Item = BorrowedFd<'a>>,
        timeout: Option<Duration>,
        has_work: impl FnOnce() -> bool,
    ) -> io::Result<Slept> {
        if !may_sleep(&self.asleep, has_work) {
            return Ok(Slept::No);
        }
        // Built anew each time: a port that went away must not be polled, and a sleep costs far more.
        let mut set = PollSet::new();
        set.add(self.bell.as_fd());
        for fd in sources {
            set.add(fd);
        }
        let result = set.wait(timeout);
        self.asleep.set(false);
        // So that the next sleep is not ended by this ring; a ring from now on leaves a count again.
        self.bell.clear();
        Ok(if result? == 0 { Slept::TimedOut } else { Slept::Woken })
    }
}

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slept {
    /// There was work.
    No,
    /// By the time-out.
    TimedOut,
    /// By a descriptor.
    Woken,
}
