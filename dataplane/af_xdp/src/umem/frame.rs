//! The token that owns one chunk. Only [`Umem`](super::Umem) makes one, for a chunk inside the mapping that has none.

use super::{HEADROOM, TAILROOM, UmemId};
use std::fmt;
use std::ptr::NonNull;
use std::slice;

/// A packet, or room for one: the only owner of one chunk of packet memory.
///
/// It may cross threads. Dropping one loses its chunk until the process ends (the pool's gauges show it as
/// out), so give it back with [`FramePool::free`](crate::FramePool::free).
#[must_use = "a dropped frame loses its chunk"]
#[repr(C)]
pub struct Frame {
    pub(super) chunk: NonNull<u8>,
    pub(super) shape: Shape,
    /// For the worker's own use; zero in a frame fresh from the pool or from a port.
    pub mark: [u64; 2],
}

const _: () = assert!(size_of::<Frame>() == 32, "two frames to a cache line");

/// Where the packet starts and how many octets it has, the octets of the chunk, and whose it is: 16 bits each, from the lowest on. In
/// one word, as fields so small are put together and taken apart in memory, and whoever moves a frame waits for its own stores.
#[derive(Clone, Copy)]
pub(super) struct Shape(u64);

impl Shape {
    pub(super) const fn new(start: u16, len: u16, size: u16, home: UmemId) -> Self {
        Self(start as u64 | (len as u64) << 16 | (size as u64) << 32 | (home.0 as u64) << 48)
    }

    const fn start(self) -> u16 {
        self.0 as u16
    }

    const fn len(self) -> u16 {
        (self.0 >> 16) as u16
    }

    pub(super) const fn size(self) -> u16 {
        (self.0 >> 32) as u16
    }

    pub(super) const fn home(self) -> UmemId {
        UmemId((self.0 >> 48) as u16)
    }

    /// The same chunk with another place for the packet.
    const fn placed(self, start: u16, len: u16) -> Self {
        Self(self.0 >> 32 << 32 | (len as u64) << 16 | start as u64)
    }
}

// SAFETY: a frame is the only owner of its chunk (see `Umem::take`), the mapping is never unmapped, and
// nothing in it is bound to a thread.
unsafe impl Send for Frame {}

/// Octets that are copied at a time.
const COPIED: usize = 256;

impl Frame {
    /// The packet.
    #[inline]
    pub fn data(&self) -> &[u8] {
        let start = self.pointer();
        // SAFETY: `start + len <= size` holds by construction and after every method, the chunk is mapped
        // and initialised for good, and only this frame names it.
        unsafe { slice::from_raw_parts(start, self.len()) }
    }

    /// The packet, to be changed in place.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let start = self.pointer();
        // SAFETY: as in `data`; `&mut self` makes the borrow exclusive.
        unsafe { slice::from_raw_parts_mut(start, self.len()) }
    }

    /// Asks for the front of the packet, which will be looked at soon.
    #[inline]
    pub(crate) fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch reads nothing and cannot fault; SSE is part of every x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.pointer().cast()) };
        }
    }

    /// The same frame with other marks. It is not changed where it lies: moved at once afterwards, it would wait for its own stores.
    #[inline(always)]
    pub fn marked(self, mark: [u64; 2]) -> Self {
        Self { mark, ..self }
    }

    /// Octets of packet.
    #[inline]
    pub const fn len(&self) -> usize {
        self.shape.len() as usize
    }

    /// Whether the packet has no octets.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets that [`push_front`](Self::push_front) can still add.
    #[inline]
    pub const fn headroom(&self) -> usize {
        self.shape.start() as usize
    }

    /// Octets that [`extend`](Self::extend) can still add.
    #[inline]
    pub const fn tailroom(&self) -> usize {
        self.size() - self.headroom() - self.len()
    }

    /// The UMEM that this frame must go back to.
    #[inline]
    pub const fn home(&self) -> UmemId {
        self.shape.home()
    }

    /// Adds `n` octets before the packet and returns them, with whatever they held before.
    #[inline]
    pub fn push_front(&mut self, n: usize) -> Option<&mut [u8]> {
        let n16 = u16::try_from(n).ok()?;
        let start = self.shape.start().checked_sub(n16)?;
        self.shape = self.shape.placed(start, self.shape.len() + n16);
        self.data_mut().get_mut(..n)
    }

    /// Removes `n` octets from the front; `None`, and nothing changed, when the packet is shorter.
    #[inline]
    pub fn trim_front(&mut self, n: usize) -> Option<()> {
        let n16 = u16::try_from(n).ok()?;
        let len = self.shape.len().checked_sub(n16)?;
        self.shape = self.shape.placed(self.shape.start() + n16, len);
        Some(())
    }

    /// Adds `n` octets behind the packet and returns them, with whatever they held before.
    #[inline]
    pub fn extend(&mut self, n: usize) -> Option<&mut [u8]> {
        let before = self.len();
        if n > self.tailroom() {
            return None;
        }
        // Cannot truncate: start + len + n <= size, a u16.
        self.resize((before + n) as u16);
        self.data_mut().get_mut(before..)
    }

    /// Shortens the packet to `len` octets; a shorter packet stays as it is.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        if let Ok(len) = u16::try_from(len) {
            self.resize(self.shape.len().min(len));
        }
    }

    /// Makes the packet `len` octets long, what is new with whatever it held before.
    #[inline]
    pub fn set_len(&mut self, len: usize) -> Option<()> {
        let len = u16::try_from(len).ok()?;
        if usize::from(len) > self.size() - self.headroom() {
            return None;
        }
        self.resize(len);
        Some(())
    }

    /// Lets the packet begin `front` octets earlier and be `len` octets long, what is new with whatever it held before; `None`, and
    /// nothing changed, without the room.
    #[inline(always)]
    pub fn reshape(&mut self, front: usize, len: usize) -> Option<&mut [u8]> {
        let start = self.headroom().checked_sub(front)?;
        if len > self.size() - start {
            return None;
        }
        // Both at most `size`, a u16.
        self.shape = self.shape.placed(start as u16, len as u16);
        Some(self.data_mut())
    }

    /// Empties the frame and places its start `headroom` octets into the chunk.
    #[inline]
    pub fn reset(&mut self, headroom: usize) -> Option<()> {
        let start = u16::try_from(headroom).ok()?;
        if start > self.shape.size() {
            return None;
        }
        self.shape = self.shape.placed(start, 0);
        Some(())
    }

    /// Replaces the packet by `bytes`, where the frame starts now; `None`, and nothing changed, when they
    /// do not fit.
    #[inline]
    pub fn copy_from(&mut self, bytes: &[u8]) -> Option<()> {
        self.set_len(bytes.len())?;
        // Not in one: on Zen 4 glibc's way of copying 513 to 576 octets made whatever waited for memory afterwards twice as slow
        // (docs/many-sas.md).
        let (to, to_rest) = self.data_mut().as_chunks_mut::<COPIED>();
        let (from, from_rest) = bytes.as_chunks::<COPIED>();
        for (to, from) in to.iter_mut().zip(from) {
            *to = *from;
        }
        to_rest.copy_from_slice(from_rest);
        Some(())
    }

    /// Whether a packet of `len` octets may take the place of this one, with room before it and behind it as in a frame that was
    /// allocated for it.
    #[inline]
    pub const fn can_hold(&self, len: usize) -> bool {
        let room = self.size() - self.headroom();
        self.headroom() >= HEADROOM && len <= room && room - len >= TAILROOM
    }

    /// The packet and all that is behind it in its chunk.
    #[inline(always)]
    pub(crate) fn to_end(&self) -> &[u8] {
        // SAFETY: all octets from where the packet begins to the end of its chunk, mapped and initialised for good, and only this frame
        // names it.
        unsafe { slice::from_raw_parts(self.pointer(), self.size() - self.headroom()) }
    }

    /// Makes the packet `len` octets long behind `front` that stay what they are, where the frame starts now, and returns the former to
    /// be written, with what is behind them up to a whole number of granules, as far as the chunk has them. `None`, and nothing changed,
    /// when it does not fit.
    #[inline(always)]
    pub(crate) fn refill(&mut self, front: usize, len: usize, granule: usize) -> Option<&mut [u8]> {
        let room = (self.size() - self.headroom()).checked_sub(front)?;
        if len > room {
            return None;
        }
        // Together at most `size`, a u16.
        self.resize((front + len) as u16);
        let whole = len.next_multiple_of(granule).min(room);
        let to = self.pointer().wrapping_add(front);
        // SAFETY: `front` octets from where the packet begins and `whole` behind them are in its chunk (just seen), mapped and
        // initialised for good; `&mut self` makes the borrow exclusive.
        Some(unsafe { slice::from_raw_parts_mut(to, whole) })
    }

    /// Octets of the chunk.
    #[inline]
    const fn size(&self) -> usize {
        self.shape.size() as usize
    }

    #[inline]
    fn resize(&mut self, len: u16) {
        self.shape = self.shape.placed(self.shape.start(), len);
    }

    #[inline]
    fn pointer(&self) -> *mut u8 {
        // SAFETY: `start <= size` holds by construction and after every method, so the result is in the
        // chunk or just behind it.
        unsafe { self.chunk.as_ptr().add(self.headroom()) }
    }
}

impl fmt::Debug for Frame {
    /// Where and how long, not the contents: they may be plaintext.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("home", &self.home())
            .field("start", &self.headroom())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
