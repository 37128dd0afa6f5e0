//! What an SA has carried, readable by the control thread while its worker goes on.

use crate::due::Due;
use crate::worker::Worker;
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use core::time::Duration;
use ipsec::accounting;
use ipsec::prefetch::prefetch;

/// Packets, bytes and last use of one SA, one writer.
#[derive(Debug, Default)]
pub(crate) struct SaUsage(Words);

/// A: each written by the owner worker, read by the control thread. Relaxed: nothing else hangs on them, and a reader gets
/// each value at some moment of its own. Two SAs may share a line: each writes it once in sixteen packets, and with a million SAs what is small is
/// sooner found.
#[derive(Debug, Default)]
#[repr(align(32))]
struct Words {
    packets: AtomicU64,
    bytes: AtomicU64,
    /// Nanoseconds since the dataplane's epoch, plus one; zero is never.
    last: AtomicU64,
    /// The longest packet that the SA has room for, of an outbound one.
    mtu: AtomicU16,
}

/// So many SAs are all published whenever time moves on. Of more, one for so many packets: with a million a sixteenth of the memory that
/// each packet's own would be, and every SA within seconds.
pub(crate) const FEW: usize = 8;
const PACKETS_EACH: usize = 16;

/// SAs published in a turn that has nothing else to do.
const WHEN_IDLE: usize = 256;

/// SAs asked for at once: as many as are due of the packets that come between two looks at the clock.
const ASKED: usize = 32;

/// Words of the set of those that are due that a busy worker looks through at once: 4,096 SAs.
const WORDS: usize = 64;

/// SAs that are being published, in steps, as each must be there before the next can be asked for.
#[derive(Debug, Default)]
pub(crate) struct AskedFor {
    /// Those of which all was asked for.
    words: ArrayVec<Due, ASKED>,
    usage: ArrayVec<Due, ASKED>,
}

impl AskedFor {
    pub(crate) fn len(&self) -> usize {
        self.words.len() + self.usage.len()
    }
}

impl Worker {
    /// Publishes what SAs have carried, in turn.
    pub(crate) fn publish_usage(&mut self, is_idle: bool) {
        let packets = core::mem::take(&mut self.unpublished);
        if is_idle || self.due.len() + self.asked_for.len() <= FEW {
            let AskedFor { words, usage } = core::mem::take(&mut self.asked_for);
            words.into_iter().chain(usage).for_each(|due| self.publish_usage_of(due));
            let (count, mut words) = if is_idle { (WHEN_IDLE, usize::MAX) } else { (FEW, WORDS) };
            for _ in 0..count {
                let Some(due) = self.due.take(&mut words) else { break };
                self.publish_usage_of(due);
            }
            return;
        }
        self.unpublished = packets % PACKETS_EACH;
        // A step at a time: there is time for the memory to come.
        for due in core::mem::take(&mut self.asked_for.words) {
            self.publish_usage_of(due);
        }
        self.asked_for.words = core::mem::take(&mut self.asked_for.usage);
        self.asked_for.words.iter().for_each(|due| self.ask_for_words(*due));
        let mut words = WORDS;
        for _ in 0..(packets / PACKETS_EACH).min(ASKED) {
            let Some(due) = self.due.take(&mut words) else { break };
            self.ask_for_usage(due);
            self.asked_for.usage.push(due);
        }
    }

    /// Asks for what an SA has carried, and for where that is published.
    fn ask_for_usage(&self, due: Due) {
        match due {
            Due::Inbound(slot) => {
                self.sad.prefetch_usage(slot);
                self.inbound.get(slot.0 as usize).into_iter().for_each(prefetch);
            }
            Due::Outbound(slot) => {
                self.outbound_sad.prefetch_usage(slot);
                self.outbound.get(slot.0 as usize).into_iter().for_each(prefetch);
            }
        }
    }

    /// Asks for what is published.
    fn ask_for_words(&self, due: Due) {
        let usage = match due {
            Due::Inbound(slot) => {
                self.inbound.get(slot.0 as usize).and_then(Option::as_ref).map(|s| &s.usage)
            }
            Due::Outbound(slot) => {
                self.outbound.get(slot.0 as usize).and_then(Option::as_ref).map(|s| &s.usage)
            }
        };
        if let Some(usage) = usage {
            prefetch(&usage.0);
        }
    }

    /// Publishes what one SA has carried.
    pub(crate) fn publish_usage_of(&mut self, due: Due) {
        let now = self.now.saturating_duration_since(self.epoch);
        match due {
            Due::Inbound(slot) => {
                if let Some(Some(side)) = self.inbound.get(slot.0 as usize)
                    && let Some(sa) = self.sad.in_slot(slot)
                    && sa.usage().settle()
                {
                    side.usage.publish(sa.usage(), now);
                }
            }
            Due::Outbound(slot) => {
                if let Some(Some(side)) = self.outbound.get(slot.0 as usize)
                    && let Some(sa) = self.outbound_sad.get(slot)
                    && sa.usage().settle()
                {
                    side.usage.publish(sa.usage(), now);
                }
            }
        }
    }
}

impl SaUsage {
    /// Publishes what the SA has carried by now. The owner worker only.
    #[inline]
    pub(crate) fn publish(&self, usage: &accounting::Usage, now: Duration) {
        let Words { packets, bytes, last, .. } = &self.0;
        packets.store(usage.packets(), Ordering::Relaxed);
        bytes.store(usage.bytes(), Ordering::Relaxed);
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        last.store(now.saturating_add(1), Ordering::Relaxed);
    }

    /// Publishes what the SA has room for. The owner worker only.
    pub(crate) fn publish_mtu(&self, mtu: u16) {
        self.0.mtu.store(mtu, Ordering::Relaxed);
    }

    pub(crate) fn mtu(&self) -> u16 {
        self.0.mtu.load(Ordering::Relaxed)
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
    /// The longest packet, in bytes, that the SA that we send on has room for; 0 while there is none.
    pub mtu: u16,
}
