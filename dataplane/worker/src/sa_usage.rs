//! What an SA has carried, readable by the control thread while its worker goes on.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use crossbeam::utils::CachePadded;
use ipsec::accounting;

/// Packets, bytes and last use of one SA, one writer.
#[derive(Debug, Default)]
pub(crate) struct SaUsage(CachePadded<Words>);

/// A: each written by the owner worker, read by the control thread. Relaxed: nothing else hangs on them, and a reader gets
/// each value at some moment of its own.
#[derive(Debug, Default)]
struct Words {
    packets: AtomicU64,
    bytes: AtomicU64,
    /// Nanoseconds since the dataplane's epoch, plus one; zero is never.
    last: AtomicU64,
}

impl SaUsage {
    /// Publishes what the SA has carried by now. The owner worker only.
    #[inline]
    pub(crate) fn publish(&self, usage: &accounting::Usage, now: Duration) {
        let Words { packets, bytes, last } = &*self.0;
        packets.store(usage.packets(), Ordering::Relaxed);
        bytes.store(usage.bytes(), Ordering::Relaxed);
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        last.store(now.saturating_add(1), Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Usage {
        Usage {
            packets: self.0.packets.load(Ordering::Relaxed),
            bytes: self.0.bytes.load(Ordering::Relaxed),
            last: self.0.last.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_nanos),
        }
    }
}

/// What one SA has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Packets, received ones counted after replay, integrity and selector acceptance.
    pub packets: u64,
    /// Bytes of the plaintext IP packets.
    pub bytes: u64,
    /// When the last one was, since [`Dataplane::epoch`](crate::Dataplane::epoch).
    pub last: Option<Duration>,
}

/// What both SAs of a pair have carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PairUsage {
    /// The SA that we receive on.
    pub inbound: Usage,
    /// The SA that we send on.
    pub outbound: Usage,
}
