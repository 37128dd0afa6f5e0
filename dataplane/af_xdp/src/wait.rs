//! Sleeping without missing what arrives meanwhile: event counters and poll().

use crate::syscall;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// An event counter: any thread rings it, one thread waits for it with [`PollSet`].
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A counter at zero.
    ///
    /// # Errors
    /// The system's, when descriptors have run out.
    pub fn new() -> io::Result<Self> {
        syscall::eventfd().map(Self)
    }

    /// Makes the descriptor readable.
    pub fn ring(&self) {
        syscall::eventfd_add(self.0.as_fd());
    }

    /// Makes it unreadable again.
    pub fn clear(&self) {
        syscall::eventfd_clear(self.0.as_fd());
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The descriptors one thread sleeps on, put together once and used many times.
#[derive(Debug, Default)]
pub struct PollSet<'fd> {
    fds: Vec<libc::pollfd>,
    _borrowed: std::marker::PhantomData<BorrowedFd<'fd>>,
}

impl<'fd> PollSet<'fd> {
    /// No descriptor.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits for `fd` to be readable too; its number in the set.
    pub fn add(&mut self, fd: BorrowedFd<'fd>) -> usize {
        self.fds.push(libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
        self.fds.len() - 1
    }

    /// Removes all descriptors and keeps the memory, so that a set can be rebuilt before each sleep.
    pub fn clear<'other>(mut self) -> PollSet<'other> {
        self.fds.clear();
        PollSet { fds: self.fds, _borrowed: std::marker::PhantomData }
    }

    /// Sleeps until a descriptor is readable or in error, or the time is over (`None`: never); how many are.
    /// A signal ends it early with zero.
    ///
    /// # Errors
    /// The system's, when it lacks memory.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        // Rounded up, so that a short rest does not become a spin.
        let timeout = timeout.map_or(-1, |t| {
            t.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(libc::c_int::MAX)
        });
        match syscall::poll(&mut self.fds, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            result => result,
        }
    }

    /// Whether the descriptor of this number was readable or in error after the last [`wait`](Self::wait).
    pub fn fired(&self, number: usize) -> bool {
        self.fds.get(number).is_some_and(|f| f.revents != 0)
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_ring_before_or_during_the_sleep_ends_it() {
        let event = EventFd::new().unwrap();
        let mut set = PollSet::new();
        let n = set.add(event.as_fd());
        assert_eq!(set.wait(Some(Duration::ZERO)).unwrap(), 0);
        event.ring();
        event.ring();
        assert_eq!(set.wait(None).unwrap(), 1);
        assert!(set.fired(n));
        event.clear();
        assert_eq!(set.wait(Some(Duration::from_micros(10))).unwrap(), 0);
        std::thread::scope(|s| {
            s.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                event.ring();
            });
            let begin = Instant::now();
            assert_eq!(set.wait(Some(Duration::from_secs(20))).unwrap(), 1);
            assert!(begin.elapsed() < Duration::from_secs(10));
        });
    }
}
