//! How a sleeping queue owner is woken by the other end of an in-memory wire, at no cost while it is awake.

use crate::ring::{AtomicU32, Ordering, fence};

#[cfg(not(loom))]
use crate::wait::EventFd;

/// What the owner of a queue waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Sleep {
    /// Nothing: it polls.
    Awake = 0,
    /// Packets.
    ForPackets = 1,
    /// Packets, or frames that come back.
    ForPacketsOrFrames = 2,
}

/// One queue's bell.
///
/// The owner writes `sleep` and then looks at its rings once more; the other side publishes into a ring and
/// then reads `sleep`. A SeqCst fence stands between the two steps on either side, so at least one of them
/// sees the other's: no wake-up is lost (`a_wake_up_is_never_lost` under loom).
#[derive(Debug)]
pub(crate) struct Doorbell {
    /// Written by the owner, and by a ringer that turns it to awake; read by ringers.
    sleep: AtomicU32,
    #[cfg(not(loom))]
    event: EventFd,
    /// Stands in for the event counter.
    #[cfg(loom)]
    event: AtomicU32,
}

impl Doorbell {
    #[cfg(not(loom))]
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { sleep: AtomicU32::new(Sleep::Awake as u32), event: EventFd::new()? })
    }

    /// Owner: says what it will wait for; it must look at its rings after this and before it sleeps.
    pub(crate) fn arm(&self, sleep: Sleep) {
        self.sleep.store(sleep as u32, Ordering::Relaxed);
        // Pairs with the fence in `ring`.
        fence(Ordering::SeqCst);
    }

    /// Owner: is awake again.
    pub(crate) fn disarm(&self) {
        self.sleep.store(Sleep::Awake as u32, Ordering::Relaxed);
    }

    /// Other side: rings if the owner sleeps and waits for at least this; what it waits for must be
    /// published before.
    #[inline]
    pub(crate) fn ring(&self, cause: Sleep) {
        // Pairs with the fence in `arm`.
        fence(Ordering::SeqCst);
        let sleep = self.sleep.load(Ordering::Relaxed);
        if sleep >= cause as u32 && self.sleep.swap(Sleep::Awake as u32, Ordering::Relaxed) != 0 {
            #[cfg(not(loom))]
            self.event.ring();
            #[cfg(loom)]
            self.event.store(1, Ordering::Release);
        }
    }

    #[cfg(not(loom))]
    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }
}

#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use crate::ring::{Arc, heap};

    /// Whatever the interleaving, an owner that decides to sleep has been rung or will be.
    #[test]
    fn a_wake_up_is_never_lost() {
        loom::model(|| {
            let bell = Arc::new(Doorbell { sleep: AtomicU32::new(0), event: AtomicU32::new(0) });
            let (mut producer, mut consumer) = heap::<u32>(2);
            let sender = {
                let bell = Arc::clone(&bell);
                loom::thread::spawn(move || {
                    producer.push(7).unwrap();
                    producer.publish();
                    bell.ring(Sleep::ForPackets);
                })
            };
            bell.arm(Sleep::ForPackets);
            let slept = consumer.is_empty();
            sender.join().unwrap();
            if slept {
                assert_eq!(bell.event.load(Ordering::Acquire), 1);
            }
            bell.disarm();
            assert_eq!(consumer.pop(), Some(7));
        });
    }
}
