//! The free list of one worker's packet memory, and the gauges that show a leak.

use crate::umem::{
    Frame, HEADROOM, JUMBO, LINE, Owner, PacketMemory, Registration, TAILROOM, Umem, UmemConfig,
    UmemId,
};
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
    jumbo_free: Vec<u32>,
    /// Pieces of each jumbo frame that are in a transmit ring, a device or a completion ring.
    pieces: Box<[u8]>,
    fill: u32,
    transmit: u32,
    /// Frames of other UMEMs that a port gave back to this worker.
    strays: Vec<Frame>,
    /// The sockets that the memory is registered with, closed ones until they are repossessed.
    registered: Vec<Registration>,
}

/// Octets of a page; an address' place in a cache near the core hangs on where in its page the line is.
const PAGE: u64 = 4096;

/// Lines that packets begin at, one page after the other.
const STARTS: usize = 8;

/// Where a packet begins in the chunk at an offset. Were it the same everywhere, the packets of a burst would all lie in the few lines
/// of a cache that addresses a page apart share, and push each other out. Long ones fill the whole cache anyway.
#[inline(always)]
fn start(offset: u64) -> usize {
    HEADROOM + LINE * ((offset / PAGE) as usize % STARTS)
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
    /// Ready to be allocated, and to be lent to ports: without them nothing is received.
    pub free: u32,
    /// Those ready for packets longer than a chunk.
    pub free_large: u32,
    /// With the kernel, for packets to come.
    pub fill: u32,
    /// In a transmit ring, a device or a completion ring.
    pub transmit: u32,
    /// [`Frame`]s somewhere: with the worker, or lost.
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
        let jumbo_free: Vec<u32> = (umem.chunks()..umem.frames()).rev().collect();
        let pieces = vec![0; jumbo_free.len()].into();
        Ok(Self {
            umem,
            free,
            jumbo_free,
            pieces,
            fill: 0,
            transmit: 0,
            strays: Vec::new(),
            registered: Vec::new(),
        })
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

    /// An empty frame with at least [`HEADROOM`] octets before it for a packet of `len` octets, with room for a trailer behind it: a
    /// jumbo frame where it must be; `None` when all of those are in use, or none is as long.
    #[inline(always)]
    pub fn alloc_for(&mut self, len: usize) -> Option<Frame> {
        if len > self.plain_most() {
            return if len > JUMBO - HEADROOM { None } else { self.alloc_jumbo() };
        }
        let chunk = self.free.pop()?;
        let is_short = len + LINE * STARTS <= self.plain_most();
        let start = if is_short { start(self.umem.plain_offset(chunk)) } else { HEADROOM };
        self.umem.take(u64::from(chunk), Owner::Pool, start, 0)
    }

    /// An empty jumbo frame.
    #[cold]
    #[inline(never)]
    pub(crate) fn alloc_jumbo(&mut self) -> Option<Frame> {
        let frame = self.jumbo_free.pop()?;
        self.umem.take(u64::from(frame), Owner::Pool, HEADROOM, 0)
    }

    /// The longest packet that a chunk holds with room for a trailer.
    #[inline]
    pub(crate) fn plain_most(&self) -> usize {
        self.umem.chunk_size() - HEADROOM - TAILROOM
    }

    /// Octets of the longest frame there is.
    pub fn longest(&self) -> usize {
        if self.pieces.is_empty() { self.chunk_size() } else { JUMBO }
    }

    /// Takes a frame back.
    ///
    /// # Errors
    /// A frame of another UMEM is handed back, to be sent home.
    #[inline]
    pub fn free(&mut self, frame: Frame) -> Result<(), Frame> {
        let chunk = self.umem.give(frame, Owner::Pool)?;
        self.put_back(chunk);
        Ok(())
    }

    #[inline]
    fn put_back(&mut self, chunk: u32) {
        if chunk < self.umem.chunks() {
            self.free.push(chunk);
        } else {
            self.jumbo_free.push(chunk);
        }
    }

    /// The count of the pieces of a jumbo frame; `None` for a chunk.
    #[inline]
    fn pieces_of(&mut self, chunk: u64) -> Option<&mut u8> {
        let jumbo = chunk.checked_sub(u64::from(self.umem.chunks()))?;
        self.pieces.get_mut(usize::try_from(jumbo).ok()?)
    }

    /// How many frames [`alloc`](Self::alloc) can give.
    #[inline]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Where the chunks are.
    pub fn gauges(&self) -> PoolGauges {
        let total = self.umem.frames();
        let (free, free_large) = (self.free.len() as u32, self.jumbo_free.len() as u32);
        PoolGauges {
            total,
            free,
            free_large,
            fill: self.fill,
            transmit: self.transmit,
            out: total - free - free_large - self.fill - self.transmit,
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
        let before = self.free.len() + self.jumbo_free.len();
        for (owner, count) in [
            (Owner::Fill(retired.registration), &mut self.fill),
            (Owner::Transmit(retired.registration), &mut self.transmit),
        ] {
            let held: Vec<u32> = self.umem.held_by(owner).collect();
            for chunk in held {
                if self.umem.pass(u64::from(chunk), owner, Owner::Pool) {
                    *count -= 1;
                    if chunk < self.umem.chunks() {
                        self.free.push(chunk);
                    } else {
                        self.jumbo_free.push(chunk);
                    }
                }
            }
        }
        self.registered.retain(|r| *r != retired.registration);
        Ok(self.free.len() + self.jumbo_free.len() - before)
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
        let pieces = self.pieces(&frame);
        let chunk = self.umem.give(frame, Owner::Transmit(to))?;
        self.transmit += 1;
        if let Some(count) = self.pieces_of(u64::from(chunk)) {
            // At most as many as a jumbo frame has chunks.
            *count = pieces as u8;
        }
        Ok(self.umem.address(chunk) + start)
    }

    /// Descriptors that a frame takes: one for each chunk that its packet touches.
    #[inline]
    pub(crate) fn pieces(&self, frame: &Frame) -> u32 {
        let (from, to) = (frame.headroom(), frame.headroom() + frame.len());
        if to <= self.umem.chunk_size() {
            return 1;
        }
        let shift = self.umem.chunk_size().trailing_zeros();
        (((to - 1) >> shift) - (from >> shift) + 1) as u32
    }

    /// Takes back the chunk of a completed transmission; false for one that the socket was not lent.
    #[inline]
    pub(crate) fn completed(&mut self, from: Registration, address: u64) -> bool {
        let (chunk, _) = self.umem.locate(address);
        if chunk >= u64::from(self.umem.chunks()) {
            return self.completed_piece(from, chunk);
        }
        let ok = self.umem.pass(chunk, Owner::Transmit(from), Owner::Pool);
        if ok {
            self.transmit -= 1;
            self.free.push(chunk as u32);
        }
        ok
    }

    /// A jumbo frame comes back with the last of its pieces.
    #[cold]
    fn completed_piece(&mut self, from: Registration, chunk: u64) -> bool {
        if !self.umem.is_held_by(chunk, Owner::Transmit(from)) {
            return false;
        }
        let left = self.pieces_of(chunk).map_or(0, |count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == 0 && self.umem.pass(chunk, Owner::Transmit(from), Owner::Pool) {
            self.transmit -= 1;
            self.jumbo_free.push(chunk as u32);
        }
        true
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
            jumbo: 0,
            huge_pages: false,
        })
        .unwrap()
    }

    #[test]
    fn a_jumbo_frame_is_free_when_all_its_pieces_were_sent() {
        let chunk_size = ChunkSize::Bytes4096;
        let config = UmemConfig { chunks: 1, chunk_size, jumbo: 1, huge_pages: false };
        let mut pool = FramePool::new(&config).unwrap();
        let (one, two) = (pool.register().unwrap(), pool.register().unwrap());
        assert!(pool.alloc_for(JUMBO).is_none(), "longer than any");
        for (len, pieces) in [(3744, 1), (3745, 1), (3840, 1), (3841, 2), (9018, 3), (12032, 3)] {
            let mut frame = pool.alloc_for(len).unwrap();
            assert_eq!(frame.tailroom() >= 8192, len > 3744, "{len}");
            frame.set_len(len).unwrap();
            assert_eq!(pool.pieces(&frame), pieces, "{len}");
            let address = pool.lend_for_transmit(one, frame).unwrap();
            assert_eq!(pool.gauges().transmit, 1);
            assert!(!pool.completed(two, address), "another socket's");
            for piece in 0..pieces {
                assert_eq!(pool.gauges().transmit, 1, "{len}");
                assert!(pool.completed(one, address + 4096 * u64::from(piece)), "{len} {piece}");
            }
            assert!(!pool.completed(one, address), "{len}: once more");
            let gauges = PoolGauges { total: 2, free: 1, free_large: 1, ..Default::default() };
            assert_eq!(pool.gauges(), gauges, "{len}");
        }
        // A socket that is closed before they are.
        let mut frame = pool.alloc_for(9000).unwrap();
        frame.set_len(9000).unwrap();
        let address = pool.lend_for_transmit(one, frame).unwrap();
        assert!(pool.completed(one, address));
        let rested = Retired {
            registration: one,
            since: Instant::now().checked_sub(Retired::REST).unwrap(),
        };
        assert_eq!(pool.repossess(rested).unwrap(), 1);
        assert!(pool.alloc_for(9000).is_some());
    }

    /// A short packet has its line by its page, a long one the room that it needs, and neither less before or behind it than promised.
    #[test]
    fn short_packets_begin_at_different_lines() {
        for (chunk_size, a_page) in [(ChunkSize::Bytes2048, 2), (ChunkSize::Bytes4096, 1)] {
            let config = UmemConfig { chunks: 64, chunk_size, jumbo: 1, huge_pages: false };
            let mut pool = FramePool::new(&config).unwrap();
            let plain_most = pool.plain_most();
            for len in [0, 64, 1000, 1500, plain_most - 512, plain_most - 511, plain_most] {
                let mut starts = std::collections::BTreeMap::new();
                let frames: Vec<Frame> = (0..64).map(|_| pool.alloc_for(len).unwrap()).collect();
                for frame in frames {
                    *starts.entry(frame.headroom()).or_insert(0) += 1;
                    assert!(frame.tailroom() >= len + TAILROOM, "{len}");
                    assert!(frame.can_hold(len));
                    pool.free(frame).unwrap();
                }
                let expected = if len + 512 <= plain_most { STARTS } else { 1 };
                assert_eq!(starts.len(), expected, "{len} in {a_page} a page");
                assert!(
                    starts.into_iter().all(|(start, n)| start >= HEADROOM && n == 64 / expected)
                );
            }
        }
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
