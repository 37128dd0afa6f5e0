//! Single-producer, single-consumer rings: of descriptors with the kernel, of frames between threads.
//!
//! ```text
//!              consumer            producer
//!                 │                   │
//!   ┌─────┬─────┬─▼───┬─────┬─────┬───▼─┬─────┬─────┐
//!   │ free│ free│ full│ full│ full│ free│ free│ free│      size: a power of two
//!   └─────┴─────┴─────┴─────┴─────┴─────┴─────┴─────┘
//! ```
//!
//! The two words count freely and wrap at 2³²; a slot's index is the count modulo the size. The producer
//! end publishes slots by a Release store of its word, which pairs with the consumer end's Acquire load of
//! it; the consumer end gives slots back by a Release store of its own word, which pairs with the
//! producer end's Acquire load. Each end caches the other's word and reads it only when the cached one is not
//! enough. The words come from elsewhere (the kernel), so what they say is bounded by the size.
//!
//! The same code runs over the kernel's mapping (`Mapped`) and over the heap ([`Heap`]), the latter also
//! under loom.

use std::mem::MaybeUninit;

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering, fence},
    },
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering, fence},
};

/// `std`'s cell with loom's two methods.
#[cfg(not(loom))]
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }
    #[inline]
    fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }
    #[inline]
    fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// Slots that the other end is asked for at once: those of a burst.
const FILLED: u32 = 32;

/// One slot of a ring.
pub(crate) type Slot<T> = UnsafeCell<MaybeUninit<T>>;

/// Where a ring lives.
///
/// # Safety
/// The slots are a power of two in number, at least one and at most 2³¹; the same words and slots every
/// time; at most one [`Producer`] and one [`Consumer`] use them.
pub(crate) unsafe trait Memory<T> {
    /// The producer's word: written by the producer end, read by the consumer end.
    fn producer(&self) -> &AtomicU32;
    /// The consumer's word: written by the consumer end, read by the producer end.
    fn consumer(&self) -> &AtomicU32;
    /// The slots.
    fn slots(&self) -> &[Slot<T>];
}

/// The end that puts values in.
#[derive(Debug)]
pub(crate) struct Producer<T, M> {
    memory: M,
    /// The next slot to fill; what is before it may not be published yet.
    head: u32,
    /// The consumer's word as last read, plus the size: `head` may go up to it.
    limit: u32,
    _values: std::marker::PhantomData<T>,
}

/// The end that takes values out.
#[derive(Debug)]
pub(crate) struct Consumer<T, M> {
    memory: M,
    /// The next slot to empty; what is before it may not be given back yet.
    tail: u32,
    /// The producer's word as last read, bounded: `tail` may go up to it.
    limit: u32,
    _values: std::marker::PhantomData<T>,
}

// The ends own values of `T` in transit, so crossing threads needs `T: Send`; `PhantomData<T>` and `M`
// see to that without an unsafe impl here.

impl<T, M: Memory<T>> Producer<T, M> {
    /// # Safety
    /// This is the only producer end on `memory`.
    pub(crate) unsafe fn new(memory: M) -> Self {
        // Relaxed: only this end writes its own word.
        let head = memory.producer().load(Ordering::Relaxed);
        Self { limit: head, head, memory, _values: std::marker::PhantomData }
    }

    fn size(&self) -> u32 {
        self.memory.slots().len() as u32
    }

    /// Free slots: at least `want` of them if there are so many.
    #[inline]
    pub(crate) fn room(&mut self, want: u32) -> u32 {
        let room = self.limit.wrapping_sub(self.head);
        if room >= want {
            return room;
        }
        // Pairs with the Release store in `Consumer::release` (or the kernel's).
        let consumer = self.memory.consumer().load(Ordering::Acquire);
        let used = self.head.wrapping_sub(consumer);
        // A consumer that claims to be ahead of us is wrong; nothing is free then.
        let room = self.size().saturating_sub(used);
        self.limit = self.head.wrapping_add(room);
        room
    }

    /// Fills the next slot, unpublished; `Err` gives the value back when there is none.
    #[inline]
    pub(crate) fn push(&mut self, value: T) -> Result<(), T> {
        if self.head == self.limit && self.room(1) == 0 {
            return Err(value);
        }
        let slots = self.memory.slots();
        let slot = &slots[(self.head as usize) & (slots.len() - 1)];
        // SAFETY: `head` is short of `limit`, so by the consumer's word, read with Acquire, the consumer
        // end has left this slot, and it does not touch it before `publish`.
        slot.with_mut(|p| unsafe { p.cast::<T>().write(value) });
        self.head = self.head.wrapping_add(1);
        Ok(())
    }

    /// Fills slots, unpublished, with what `next` makes, until it makes none or there is no slot for more; how many.
    #[inline(always)]
    pub(crate) fn fill(&mut self, mut next: impl FnMut() -> Option<T>) -> u32 {
        let mut count = 0;
        loop {
            // Asked again at its end: there may be more by now than was known.
            let room = self.room(FILLED);
            let slots = self.memory.slots();
            let first = self.head;
            let mut head = first;
            while head.wrapping_sub(first) != room
                && let Some(value) = next()
            {
                let slot = &slots[(head as usize) & (slots.len() - 1)];
                // SAFETY: short of `limit`, as in `push`.
                slot.with_mut(|p| unsafe { p.cast::<T>().write(value) });
                head = head.wrapping_add(1);
            }
            let filled = head.wrapping_sub(first);
            self.head = head;
            count += filled;
            if filled == 0 || filled < room {
                return count;
            }
        }
    }

    /// Shows the consumer end what was pushed.
    #[inline]
    pub(crate) fn publish(&mut self) {
        // Pairs with the Acquire load in `Consumer::ready` (or the kernel's).
        self.memory.producer().store(self.head, Ordering::Release);
    }

    /// Pushed values that the consumer end has not given back, as far as it has said.
    #[inline]
    pub(crate) fn pending(&self) -> u32 {
        // Relaxed: a hint, no slot is touched because of it.
        self.head.wrapping_sub(self.memory.consumer().load(Ordering::Relaxed))
    }

    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }
}

impl<T, M: Memory<T>> Consumer<T, M> {
    /// # Safety
    /// This is the only consumer end on `memory`, and the producer end writes whole values of `T`.
    pub(crate) unsafe fn new(memory: M) -> Self {
        // Relaxed: only this end writes its own word.
        let tail = memory.consumer().load(Ordering::Relaxed);
        Self { limit: tail, tail, memory, _values: std::marker::PhantomData }
    }

    /// Values to be had, read again from the producer end when there are fewer than `want`.
    #[inline]
    pub(crate) fn ready(&mut self, want: u32) -> u32 {
        let ready = self.limit.wrapping_sub(self.tail);
        if ready >= want {
            return ready;
        }
        // Pairs with the Release store in `Producer::publish` (or the kernel's).
        let producer = self.memory.producer().load(Ordering::Acquire);
        let ready = producer.wrapping_sub(self.tail);
        // More than the ring holds is a broken producer: take nothing rather than stale slots.
        let ready = if ready > self.memory.slots().len() as u32 { 0 } else { ready };
        self.limit = self.tail.wrapping_add(ready);
        ready
    }

    /// Whether something is there, as far as the producer end has said by now.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn has_any(&self) -> bool {
        // Relaxed: a hint, no slot is touched because of it.
        self.limit != self.tail || self.memory.producer().load(Ordering::Relaxed) != self.tail
    }

    /// Empties the next slot, without giving it back yet.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.tail == self.limit && self.ready(1) == 0 {
            return None;
        }
        let slots = self.memory.slots();
        let slot = &slots[(self.tail as usize) & (slots.len() - 1)];
        // SAFETY: `tail` is short of `limit`, so by the producer's word, read with Acquire, the producer
        // end has written this slot and leaves it alone until `release`; each is read once, as `tail`
        // moves on.
        let value = slot.with(|p| unsafe { p.cast::<T>().read() });
        self.tail = self.tail.wrapping_add(1);
        Some(value)
    }

    /// Shows the value that comes `after` others, if it is known to be there.
    #[inline]
    pub(crate) fn peek<R>(&self, after: u32, look: impl FnOnce(&T) -> R) -> Option<R> {
        if self.limit.wrapping_sub(self.tail) <= after {
            return None;
        }
        let slots = self.memory.slots();
        let slot = &slots[(self.tail.wrapping_add(after) as usize) & (slots.len() - 1)];
        // SAFETY: short of `limit`, as in `pop`, so written and left alone; it is read by nobody else, and stays where it is.
        Some(slot.with(|p| look(unsafe { &*p.cast::<T>() })))
    }

    /// The values from the one that comes `after` others on, as many as are known to be there. They stay where they are.
    #[inline(always)]
    pub(crate) fn values(&self, after: u32) -> impl Iterator<Item = T>
    where
        T: Copy,
    {
        let slots = self.memory.slots();
        let known = self.limit.wrapping_sub(self.tail);
        (after..known).map(move |n| {
            let slot = &slots[(self.tail.wrapping_add(n) as usize) & (slots.len() - 1)];
            // SAFETY: as in `peek`.
            slot.with(|p| unsafe { *p.cast::<T>() })
        })
    }

    /// Gives the producer end back the slots that were emptied.
    #[inline]
    pub(crate) fn release(&mut self) {
        // Pairs with the Acquire load in `Producer::room` (or the kernel's).
        self.memory.consumer().store(self.tail, Ordering::Release);
    }

    /// Whether nothing is published beyond what was popped.
    #[inline]
    pub(crate) fn is_empty(&mut self) -> bool {
        self.ready(1) == 0
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }
}

/// A ring on the heap, between two threads of this process.
///
/// What is still in it when both ends are gone is leaked; frames have no destructor to run.
#[derive(Debug)]
pub(crate) struct Heap<T>(Arc<Words<T>>);

#[derive(Debug)]
struct Words<T> {
    producer: Line,
    consumer: Line,
    slots: Box<[Slot<T>]>,
}

/// A word on a cache line pair of its own, so that the two ends do not share one.
#[derive(Debug)]
#[repr(align(128))]
struct Line(AtomicU32);

// SAFETY: the words and slots are shared by exactly one producer and one consumer end (`heap` makes one of
// each and `Heap` is not cloned elsewhere), which hand each slot over by Release and Acquire; the values
// move between the threads of the two ends, hence `T: Send`.
unsafe impl<T: Send> Send for Heap<T> {}

// SAFETY: `heap` rounds the number of slots up to a power of two, the words are fixed in the Arc, and it makes
// one end of each kind.
unsafe impl<T> Memory<T> for Heap<T> {
    #[inline]
    fn producer(&self) -> &AtomicU32 {
        &self.0.producer.0
    }
    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        &self.0.consumer.0
    }
    #[inline]
    fn slots(&self) -> &[Slot<T>] {
        &self.0.slots
    }
}

/// Makes a ring of at least `size` slots (at most 2¹⁶) on the heap.
pub(crate) fn heap<T>(size: u32) -> (Producer<T, Heap<T>>, Consumer<T, Heap<T>>) {
    heap_from(size, 0)
}

/// [`heap`], with both words starting at `first`, so that tests reach the wrap.
fn heap_from<T>(size: u32, first: u32) -> (Producer<T, Heap<T>>, Consumer<T, Heap<T>>) {
    let size = size.clamp(1, 1 << 16).next_power_of_two();
    let words = Arc::new(Words {
        producer: Line(AtomicU32::new(first)),
        consumer: Line(AtomicU32::new(first)),
        slots: (0..size).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
    });
    // SAFETY: the only producer end on these words.
    let producer = unsafe { Producer::new(Heap(Arc::clone(&words))) };
    // SAFETY: the only consumer end on these words; the producer end above writes values of `T`.
    let consumer = unsafe { Consumer::new(Heap(words)) };
    (producer, consumer)
}

pub(crate) mod packets;

#[cfg(not(loom))]
mod mapped;
#[cfg(not(loom))]
pub(crate) use mapped::{Mapped, consumer_of_kernel, producer_to_kernel};

#[cfg(test)]
mod tests;
