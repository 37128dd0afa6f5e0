//! The free list of one worker's packet memory, and the gauges that show a leak.

use crate::umem::{Frame, HEADROOM, Owner, PacketMemory, Registration, Umem, UmemConfig, UmemId};
use std::io;
use std::time::{Duration, Instant};

/// The frames of one UMEM, owned by one worker.
///
/// ```text
///          alloc                    transmit
///   free ─────────► out (Frame) ─────────────► in transmission
///    ▲ ▲             ▲    │                          │
///    │ └─────────────┼────┘ free                     │ complete
///    │               │                               │
///    │  complete     │ receive                       │
///    └──────► fill ──┘                               │
///    ▲   (refill)                                    │
///    └───────────────────────────────────────────────┘
/// ```
#[derive(Debug)]
pub struct FramePool {
    umem: Umem,
    free: Vec<u32>,
    fill: u32,
    transmit: u32,
    /// Frames of other UMEMs that a port gave back to this worker.
    strays: Vec<Frame>,
    /// The sockets that the memory is registered with, closed ones until they are repossessed.
    registered: Vec<Registration>,
}

/// What is left of a closed socket: the chunks it was lent.
#[derive(Debug)]
#[must_use = "the chunks come back by FramePool::repossess"]
pub struct Retired {
    registration: Registration,
    since: Instant,
}

impl Retired {
    /// How long a device may use memory after its socket is closed: the kernel tears a queue down from a work
    /// queue, and packets sent in copy mode are read where they lie until they leave. Generous; nothing waits
    /// for it.
    pub const REST: Duration = Duration::from_secs(2);

    pub(crate) fn new(registration: Registration) -> Self {
        Self { registration, since: Instant::now() }
    }
}

/// Where the chunks of a pool are at one moment: `total = free + fill + transmit + out`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolGauges {
    /// Chunks of the UMEM.
    pub total: u32,
    /// Ready to be allocated.
    pub free: u32,
    /// With the kernel, for packets to come.
    pub fill: u32,
    /// In a transmit ring, a device or a completion ring.
    pub transmit: u32,
    /// [`Frame`]s somewhere: with the worker, with another worker, or lost.
    pub out: u32,
}

impl FramePool {
    /// Maps the memory and takes all of its chunks.
    ///
    /// # Errors
    /// The system's, when it has not that much memory, or `InvalidInput` for no chunks.
    pub fn new(config: &UmemConfig) -> io::Result<Self> {
        let umem = Umem::new(config)?;
        // Taken from the end, so the first frames are the lowest addresses.
        let free = (0..umem.chunks()).rev().collect();
        Ok(Self { umem, free, fill: 0, transmit: 0, strays: Vec::new(), registered: Vec::new() })
    }

    /// The UMEM whose frames this pool takes.
    pub fn id(&self) -> UmemId {
        self.umem.id()
    }

    /// Octets of one chunk.
    pub fn chunk_size(&self) -> usize {
        self.umem.chunk_size()
    }

    /// An empty frame with [`HEADROOM`] octets before it; `None` when all are in use.
    #[inline]
    pub fn alloc(&mut self) -> Option<Frame> {
        let chunk = self.free.pop()?;
        self.umem.take(u64::from(chunk), Owner::Pool, HEADROOM, 0)
    }

    /// Takes a frame back.
    ///
    /// # Errors
    /// A frame of another UMEM is handed back, to be sent home.
    #[inline]
    pub fn free(&mut self, frame: Frame) -> Result<(), Frame> {
        let chunk = self.umem.give(frame, Owner::Pool)?;
        self.free.push(chunk);
        Ok(())
    }

    /// How many frames [`alloc`](Self::alloc) can give.
    #[inline]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Where the chunks are.
    pub fn gauges(&self) -> PoolGauges {
        let (total, free) = (self.umem.chunks(), self.free.len() as u32);
        PoolGauges {
            total,
            free,
            fill: self.fill,
            transmit: self.transmit,
            out: total - free - self.fill - self.transmit,
        }
    }

    /// Takes the frames of other UMEMs that ports gave back here; each goes to the worker that
    /// [`Frame::home`] names.
    pub fn drain_strays(&mut self) -> impl Iterator<Item = Frame> + '_ {
        self.strays.drain(..)
    }

    /// Takes back what a closed socket was lent; how many chunks.
    ///
    /// # Errors
    /// Hands `retired` back within [`Retired::REST`] of the close: the device may still read and write.
    pub fn repossess(&mut self, retired: Retired) -> Result<usize, Retired> {
        if retired.since.elapsed() < Retired::REST {
            return Err(retired);
        }
        let before = self.free.len();
        for (owner, count) in [
            (Owner::Fill(retired.registration), &mut self.fill),
            (Owner::Transmit(retired.registration), &mut self.transmit),
        ] {
            let held: Vec<u32> = self.umem.held_by(owner).collect();
            for chunk in held {
                if self.umem.pass(u64::from(chunk), owner, Owner::Pool) {
                    *count -= 1;
                    self.free.push(chunk);
                }
            }
        }
        self.registered.retain(|r| *r != retired.registration);
        Ok(self.free.len() - before)
    }

    /// Where the memory is, for [`BoundSocket::open`](crate::BoundSocket::open).
    pub fn memory(&self) -> PacketMemory {
        self.umem.memory()
    }

    /// A name for a socket that is about to be lent chunks; `None` when 256 of them have not been repossessed.
    pub(crate) fn register(&mut self) -> Option<Registration> {
        let name = (0..=u8::MAX).map(Registration).find(|r| !self.registered.contains(r))?;
        self.registered.push(name);
        Some(name)
    }

    /// Takes a frame back, whosever it is.
    #[inline]
    pub(crate) fn reclaim(&mut self, frame: Frame) {
        if let Err(stray) = self.free(frame) {
            self.strays.push(stray);
        }
    }

    /// The address of a free chunk for a fill ring.
    #[inline]
    pub(crate) fn lend_for_fill(&mut self, to: Registration) -> Option<u64> {
        let chunk = self.free.pop()?;
        let passed = self.umem.pass(u64::from(chunk), Owner::Pool, Owner::Fill(to));
        debug_assert!(passed);
        self.fill += 1;
        Some(self.umem.address(chunk))
    }

    /// The frame of a receive descriptor; `None` for one that the socket was not lent, or outside its chunk.
    #[inline]
    pub(crate) fn received(&mut self, from: Registration, address: u64, len: u32) -> Option<Frame> {
        let (chunk, start) = self.umem.locate(address);
        let frame = self.umem.take(chunk, Owner::Fill(from), start, len as usize)?;
        self.fill -= 1;
        Some(frame)
    }

    /// The address of a frame for a transmit ring.
    ///
    /// # Errors
    /// A frame of another UMEM is handed back: the socket cannot reach its memory.
    #[inline]
    pub(crate) fn lend_for_transmit(
        &mut self,
        to: Registration,
        frame: Frame,
    ) -> Result<u64, Frame> {
        let start = frame.headroom() as u64;
        let chunk = self.umem.give(frame, Owner::Transmit(to))?;
        self.transmit += 1;
        Ok(self.umem.address(chunk) + start)
    }

    /// Takes back the chunk of a completed transmission; false for one that the socket was not lent.
    #[inline]
    pub(crate) fn completed(&mut self, from: Registration, address: u64) -> bool {
        let (chunk, _) = self.umem.locate(address);
        let ok = self.umem.pass(chunk, Owner::Transmit(from), Owner::Pool);
        if ok {
            self.transmit -= 1;
            self.free.push(chunk as u32);
        }
        ok
    }

    /// Counts a frame that leaves as a token over the in-memory wire.
    #[inline]
    pub(crate) fn note_lent(&mut self, frame: &Frame) {
        self.transmit += u32::from(frame.home() == self.id());
    }

    /// Takes back a frame that was counted by [`note_lent`](Self::note_lent).
    #[inline]
    pub(crate) fn note_returned(&mut self, frame: Frame) {
        self.transmit -= u32::from(frame.home() == self.id());
        self.reclaim(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::umem::ChunkSize;

    fn pool() -> FramePool {
        FramePool::new(&UmemConfig {
            chunks: 4,
            chunk_size: ChunkSize::Bytes2048,
            huge_pages: false,
        })
        .unwrap()
    }

    /// What a kernel gone wrong could write into the rings.
    #[test]
    fn a_descriptor_for_what_was_not_lent_is_refused() {
        let mut pool = pool();
        let (one, two) = (pool.register().unwrap(), pool.register().unwrap());
        let address = pool.lend_for_fill(one).unwrap();

        assert!(pool.received(two, address + 256, 60).is_none(), "another socket's");
        assert!(!pool.completed(one, address), "lent to receive, not to send");
        assert!(pool.received(one, address + 2000, 60).is_none(), "beyond the chunk");
        assert!(pool.received(one, 4 * 2048, 60).is_none(), "beyond the memory");
        assert!(pool.received(one, u64::MAX, u32::MAX).is_none());
        assert!(pool.received(one, address, u32::MAX).is_none());
        let free = if address == 0 { 2048 } else { 0 };
        assert!(pool.received(one, free, 60).is_none(), "the pool's own");
        assert_eq!(pool.gauges(), PoolGauges { total: 4, free: 3, fill: 1, ..Default::default() });

        let frame = pool.received(one, address + 256, 60).unwrap();
        assert!(pool.received(one, address + 256, 60).is_none(), "the same one twice");
        let sent = pool.lend_for_transmit(one, frame).unwrap();
        assert_eq!(sent, address + 256);
        assert!(pool.received(one, address + 256, 60).is_none(), "lent to send, not to receive");
        assert!(!pool.completed(two, sent));
        assert!(pool.completed(one, sent));
        assert!(!pool.completed(one, sent), "the same one twice");
        assert_eq!(pool.gauges(), PoolGauges { total: 4, free: 4, ..Default::default() });
    }

    #[test]
    fn a_closed_socket_s_chunks_come_back_after_a_rest() {
        let mut pool = pool();
        let (one, two) = (pool.register().unwrap(), pool.register().unwrap());
        let frame = pool.alloc().unwrap();
        pool.lend_for_transmit(one, frame).unwrap();
        let _ = (pool.lend_for_fill(one).unwrap(), pool.lend_for_fill(two).unwrap());
        let retired = pool.repossess(Retired::new(one)).unwrap_err();
        let rested =
            Retired { since: retired.since.checked_sub(Retired::REST).unwrap(), ..retired };
        assert_eq!(pool.repossess(rested).unwrap(), 2);
        assert_eq!(pool.gauges(), PoolGauges { total: 4, free: 3, fill: 1, ..Default::default() });
        assert_eq!(pool.register(), Some(one), "the name is free again");
    }

    #[test]
    fn an_exhausted_pool_says_so_and_a_lost_frame_shows() {
        let mut pool = pool();
        let frames: Vec<Frame> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!(frames.len(), 4);
        assert!(frames.iter().all(|f| f.is_empty() && f.headroom() == HEADROOM));
        assert_eq!(pool.available(), 0);
        let mut frames = frames.into_iter();
        assert!(frames.next().is_some());
        for frame in frames {
            pool.free(frame).unwrap();
        }
        assert_eq!(pool.gauges(), PoolGauges { total: 4, free: 3, out: 1, ..Default::default() });
    }
}
