//! A ring that the kernel maps into this process.

use super::{Consumer, Memory, Producer, Slot};
use crate::syscall;
use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

/// One of an AF_XDP socket's four rings, mapped for as long as this lives.
#[derive(Debug)]
pub(crate) struct Mapped<T> {
    base: NonNull<u8>,
    length: usize,
    producer: usize,
    consumer: usize,
    flags: usize,
    slots: usize,
    size: usize,
    _values: PhantomData<T>,
}

// SAFETY: the mapping is this value's own and not bound to a thread; the values are plain descriptors.
unsafe impl<T: Send> Send for Mapped<T> {}

impl<T: Copy> Mapped<T> {
    /// Maps the ring of `size` slots at `page_offset` of a socket, laid out as the kernel says.
    pub(crate) fn new(
        socket: BorrowedFd<'_>,
        page_offset: libc::off_t,
        layout: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let offset = |at: u64| usize::try_from(at).map_err(|_| invalid());
        let (producer, consumer, flags, slots) = (
            offset(layout.producer)?,
            offset(layout.consumer)?,
            offset(layout.flags)?,
            offset(layout.desc)?,
        );
        let size = size as usize;
        let length = slots.checked_add(size * size_of::<T>()).ok_or_else(invalid)?;
        let aligned = [producer, consumer, flags].iter().all(|w| w % 4 == 0 && w + 4 <= length)
            && slots % align_of::<T>() == 0;
        if !size.is_power_of_two() || !aligned {
            return Err(invalid());
        }
        let base = syscall::map_shared(socket, length, page_offset)?;
        Ok(Self { base, length, producer, consumer, flags, slots, size, _values: PhantomData })
    }

    /// Whether the kernel asks to be called when there is something to do (XDP_RING_NEED_WAKEUP).
    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        // Relaxed: written by the kernel; a hint that the next turn of the loop sees too.
        self.word(self.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

impl<T> Mapped<T> {
    #[inline]
    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: `new` has checked that the word is inside the mapping.
        let word = unsafe { self.base.add(offset) };
        // SAFETY: `new` has checked that it is aligned; the mapping lives as long as `self`, and both this
        // process and the kernel access the word atomically only.
        unsafe { word.cast().as_ref() }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, which is not handed out, and borrows of it end with `self`.
        unsafe { syscall::unmap(self.base, self.length) };
    }
}

// SAFETY: `new` has checked that the number of slots is a power of two (at most 2³¹, being made from a u32); the
// offsets never change. One producer and one consumer: this process has one end (`XdpPort::bind` maps each
// ring once), the kernel the other.
unsafe impl<T> Memory<T> for Mapped<T> {
    #[inline]
    fn producer(&self) -> &AtomicU32 {
        self.word(self.producer)
    }
    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        self.word(self.consumer)
    }
    #[inline]
    fn slots(&self) -> &[Slot<T>] {
        // SAFETY: inside the mapping, whose length comes from `slots` and `size`.
        let first = unsafe { self.base.add(self.slots) };
        // SAFETY: `size` slots of `T` begin there, aligned (checked in `new`); `Slot` has the layout of `T`
        // and allows writes by the other side.
        unsafe { slice::from_raw_parts(first.cast().as_ptr(), self.size) }
    }
}

/// This process's end of a fill or transmit ring.
pub(crate) fn producer_to_kernel<T: Copy>(ring: Mapped<T>) -> Producer<T, Mapped<T>> {
    // SAFETY: a mapping is consumed here, and a socket's ring is mapped once (`XdpPort::bind`), so there is no
    // other producer end.
    unsafe { Producer::new(ring) }
}

/// This process's end of a completion or receive ring.
pub(crate) fn consumer_of_kernel<T: Copy>(ring: Mapped<T>) -> Consumer<T, Mapped<T>> {
    // SAFETY: as above; the kernel writes whole descriptors, which take any bit pattern.
    unsafe { Consumer::new(ring) }
}
