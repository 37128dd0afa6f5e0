//! The free list of one worker's packet memory, and the gauges that show a leak.

use crate::umem::{Frame, HEADROOM, Owner, Umem, UmemConfig, UmemId};
use std::io;

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
        Ok(Self { umem, free, fill: 0, transmit: 0, strays: Vec::new() })
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

    pub(crate) fn umem(&self) -> &Umem {
        &self.umem
    }

    /// Takes a frame back, whosever it is.
    #[inline]
    pub(crate) fn reclaim(&mut self, frame: Frame) {
        if let Err(stray) = self.free(frame) {
            self.strays.push(stray);
        }
    }

    /// The address of a free chunk for the fill ring.
    #[inline]
    pub(crate) fn lend_for_fill(&mut self) -> Option<u64> {
        let chunk = self.free.pop()?;
        self.umem.pass(u64::from(chunk), Owner::Pool, Owner::Fill);
        self.fill += 1;
        Some(self.umem.address(chunk))
    }

    /// The frame of a receive descriptor; `None` for one that the kernel was not lent, or outside its chunk.
    #[inline]
    pub(crate) fn received(&mut self, address: u64, len: u32) -> Option<Frame> {
        let (chunk, start) = self.umem.locate(address);
        let frame = self.umem.take(chunk, Owner::Fill, start, len as usize)?;
        self.fill -= 1;
        Some(frame)
    }

    /// The address of a frame for the transmit ring.
    ///
    /// # Errors
    /// A frame of another UMEM is handed back: the socket cannot reach its memory.
    #[inline]
    pub(crate) fn lend_for_transmit(&mut self, frame: Frame) -> Result<u64, Frame> {
        let start = frame.headroom() as u64;
        let chunk = self.umem.give(frame, Owner::Transmit)?;
        self.transmit += 1;
        Ok(self.umem.address(chunk) + start)
    }

    /// Takes back the chunk of a completed transmission; false for one that was not lent.
    #[inline]
    pub(crate) fn completed(&mut self, address: u64) -> bool {
        let (chunk, _) = self.umem.locate(address);
        let ok = self.umem.pass(chunk, Owner::Transmit, Owner::Pool);
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
