//! A ring that lends: one end puts values in, the other looks at them and gives them back, and the first takes them out again where
//! they lie.
//!
//! ```text
//!     oldest          consumer's word     producer's word      head
//!        │                   │                   │               │
//!   ┌────▼────┬─────────┬────▼────┬─────────┬────▼────┬──────────▼┐
//!   │ given back, to be │  lent, the borrower's   │  not shown    │  free
//!   │ taken out         │  to look at             │  yet          │
//!   └───────────────────┴─────────────────────────┴───────────────┘
//! ```
//!
//! So nothing has to be sent home: the line of a slot that was read is still in the lender's cache, and what crosses back is one word
//! for all of a burst.

use super::{Consumer, Heap, Memory, Ordering, heap_from};

/// The end that values belong to.
#[derive(Debug)]
pub(crate) struct Lender<T> {
    memory: Heap<T>,
    /// The next slot to fill.
    head: u32,
    /// What is before it is shown.
    shown: u32,
    /// The next slot to take out of.
    oldest: u32,
    /// The borrower's word as last read, bounded: `oldest` may go up to it.
    given_back: u32,
}

/// The end that looks at them.
#[derive(Debug)]
pub(crate) struct Borrower<T>(Consumer<T, Heap<T>>);

/// Makes a ring that lends at least `size` values at once (at most 2¹⁶).
///
/// What is still in it when both ends are gone is leaked; frames have no destructor to run.
pub(crate) fn loan<T>(size: u32) -> (Lender<T>, Borrower<T>) {
    loan_from(size, 0)
}

/// [`loan`], with both words starting at `first`, so that tests reach the wrap.
fn loan_from<T>(size: u32, first: u32) -> (Lender<T>, Borrower<T>) {
    let (producer, consumer) = heap_from(size, first);
    // The producer end becomes the lender, so that there is still one end of each kind.
    let memory = producer.memory;
    (
        Lender { memory, head: first, shown: first, oldest: first, given_back: first },
        Borrower(consumer),
    )
}

impl<T> Lender<T> {
    /// Fills the next slot, not shown yet; `Err` gives the value back when all are filled.
    #[inline]
    pub(crate) fn push(&mut self, value: T) -> Result<(), T> {
        let slots = self.memory.slots();
        if self.head.wrapping_sub(self.oldest) as usize >= slots.len() {
            return Err(value);
        }
        let slot = &slots[(self.head as usize) & (slots.len() - 1)];
        // SAFETY: the slots that are shown or were given back are those from `oldest` to `head`, fewer than there are, so this is none
        // of them: its last value was taken out, after the borrower's word, read with Acquire, had gone past it; the borrower does not
        // touch it before `publish`.
        slot.with_mut(|p| unsafe { p.cast::<T>().write(value) });
        self.head = self.head.wrapping_add(1);
        Ok(())
    }

    /// Shows the borrower what was pushed.
    #[inline]
    pub(crate) fn publish(&mut self) {
        self.shown = self.head;
        // Pairs with the Acquire load in `Consumer::ready`.
        self.memory.producer().store(self.head, Ordering::Release);
    }

    /// How many were given back by now and not taken out.
    #[inline]
    pub(crate) fn back(&mut self) -> u32 {
        // Pairs with the Release store in `Consumer::release`.
        let word = self.memory.consumer().load(Ordering::Acquire);
        // A borrower that claims to be ahead of what it was shown is wrong; nothing more is back then.
        if word.wrapping_sub(self.oldest) <= self.shown.wrapping_sub(self.oldest) {
            self.given_back = word;
        }
        self.given_back.wrapping_sub(self.oldest)
    }

    /// Takes out the oldest value, if it was given back.
    #[inline]
    pub(crate) fn take_back(&mut self) -> Option<T> {
        if self.oldest == self.given_back && self.back() == 0 {
            return None;
        }
        let slots = self.memory.slots();
        let slot = &slots[(self.oldest as usize) & (slots.len() - 1)];
        // SAFETY: `oldest` is short of the borrower's word, read with Acquire, and of what was shown, so `push` has written this slot,
        // and the borrower, which only looked at it, does so no more; each is taken out once, as `oldest` moves on.
        let value = slot.with(|p| unsafe { p.cast::<T>().read() });
        self.oldest = self.oldest.wrapping_add(1);
        Some(value)
    }

    /// Whether something may be taken out, as far as the borrower has said by now.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn has_back(&self) -> bool {
        // Relaxed: a hint, no slot is touched because of it.
        self.memory.consumer().load(Ordering::Relaxed) != self.oldest
    }
}

impl<T> Borrower<T> {
    /// Values to look at, as many as are there by now.
    #[inline]
    pub(crate) fn ready(&mut self) -> u32 {
        self.0.ready(u32::MAX)
    }

    /// Those that [`ready`](Self::ready) has found and that were not given back.
    #[inline]
    pub(crate) fn counted(&self) -> u32 {
        self.0.limit.wrapping_sub(self.0.tail)
    }

    /// Whether something is there, as far as the lender has said by now.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn has_any(&self) -> bool {
        self.0.has_any()
    }

    /// Asks for the lender's word and for `count` slots from the next one on, which its cache may have.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn ask_ahead(&self, count: u32) {
        self.0.ask_ahead(count);
    }

    /// Shows the value that comes `after` others, of those that [`ready`](Self::ready) has found.
    #[inline]
    pub(crate) fn look<R>(&self, after: u32, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.0.peek(after, look)
    }

    /// Is done with so many, of those that [`ready`](Self::ready) has found.
    #[inline]
    pub(crate) fn give_back(&mut self, count: u32) {
        self.0.tail = self.0.tail.wrapping_add(count.min(self.counted()));
        self.0.release();
    }
}

#[cfg(all(test, not(loom)))]
mod sequential {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Push(u32),
        Publish,
        Look,
        GiveBack(u32),
        TakeBack(u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (1u32..12).prop_map(Op::Push),
            Just(Op::Publish),
            Just(Op::Look),
            (1u32..12).prop_map(Op::GiveBack),
            (1u32..12).prop_map(Op::TakeBack),
        ]
    }

    proptest! {
        /// The oracle: what was pushed, shown, found and given back, as four queues.
        #[test]
        fn what_is_lent_comes_back_once_and_in_order(
            log in 0u32..5,
            first in prop_oneof![Just(0u32), (u32::MAX - 40)..=u32::MAX],
            ops in proptest::collection::vec(op(), 1..200),
        ) {
            let size = 1usize << log;
            let (mut lender, mut borrower) = loan_from::<Box<u64>>(size as u32, first);
            let [mut hidden, mut shown, mut found, mut back] = [const { VecDeque::new() }; 4];
            let mut next = 0;
            for op in ops {
                match op {
                    Op::Push(n) => for _ in 0..n {
                        let full = hidden.len() + shown.len() + found.len() + back.len() == size;
                        prop_assert_eq!(lender.push(Box::new(next)).is_err(), full);
                        if !full { hidden.push_back(next); next += 1; }
                    },
                    Op::Publish => { lender.publish(); shown.append(&mut hidden); }
                    Op::Look => {
                        found.append(&mut shown);
                        prop_assert_eq!(borrower.ready() as usize, found.len());
                        prop_assert_eq!(borrower.counted() as usize, found.len());
                        for (at, value) in found.iter().enumerate() {
                            prop_assert_eq!(borrower.look(at as u32, |v| **v), Some(*value));
                        }
                        prop_assert_eq!(borrower.look(found.len() as u32, |_| ()), None);
                    }
                    // More than were found are not given back.
                    Op::GiveBack(n) => {
                        borrower.give_back(n);
                        back.extend(found.drain(..found.len().min(n as usize)));
                    }
                    Op::TakeBack(n) => for _ in 0..n {
                        prop_assert_eq!(lender.take_back(), back.pop_front().map(Box::new));
                    },
                }
                prop_assert_eq!(borrower.has_any(), !shown.is_empty() || !found.is_empty());
                prop_assert_eq!(lender.has_back(), !back.is_empty());
                prop_assert_eq!(lender.back() as usize, back.len());
                prop_assert_eq!(borrower.counted() as usize, found.len());
            }
            // Boxes have destructors, which a leak checker would miss.
            lender.publish();
            let _ = borrower.ready();
            borrower.give_back(u32::MAX);
            while lender.take_back().is_some() {}
        }
    }

    #[test]
    fn a_wild_borrower_s_word_gives_nothing_back() {
        let (mut lender, borrower) = loan::<u64>(8);
        for n in 0..5 {
            lender.push(n).unwrap();
            if n == 3 {
                lender.publish();
            }
        }
        for word in [5, 9, 1 << 31, u32::MAX] {
            borrower.0.memory().consumer().store(word, Ordering::Release);
            assert_eq!(lender.take_back(), None, "{word}: four were shown");
        }
    }

    #[test]
    fn two_threads_lose_and_swap_nothing() {
        const N: u64 = if cfg!(miri) { 300 } else { 200_000 };
        let (mut lender, mut borrower) = loan::<u64>(64);
        let sender = std::thread::spawn(move || {
            let (mut next, mut back) = (0, 0);
            while back < N {
                while next < N && lender.push(next).is_ok() {
                    next += 1;
                }
                lender.publish();
                while let Some(value) = lender.take_back() {
                    assert_eq!(value, back);
                    back += 1;
                }
                std::thread::yield_now();
            }
        });
        let mut expect = 0;
        while expect < N {
            let n = borrower.ready().min(16);
            for at in 0..n {
                assert_eq!(borrower.look(at, |value| *value), Some(expect));
                expect += 1;
            }
            borrower.give_back(n);
            if n == 0 {
                std::thread::yield_now();
            }
        }
        sender.join().unwrap();
    }
}

#[cfg(all(test, loom))]
mod interleavings {
    use super::*;

    /// Every interleaving of a lender and a borrower on a ring that is full and empty in turn: each value is seen once and in order
    /// and comes back, and loom's cells see no slot touched by both ends.
    #[test]
    fn what_is_lent_is_left_alone_until_it_is_given_back() {
        loom::model(|| {
            let (mut lender, mut borrower) = loan_from::<u32>(1, u32::MAX);
            let sender = loom::thread::spawn(move || {
                let (mut next, mut back) = (0, 0);
                while back < 2 {
                    let pushed = next < 2 && lender.push(next).is_ok();
                    if pushed {
                        next += 1;
                        lender.publish();
                    }
                    match lender.take_back() {
                        Some(value) => {
                            assert_eq!(value, back);
                            back += 1;
                        }
                        None if !pushed => loom::thread::yield_now(),
                        None => {}
                    }
                }
            });
            let mut expect = 0;
            while expect < 2 {
                if borrower.ready() == 0 {
                    loom::thread::yield_now();
                    continue;
                }
                assert_eq!(borrower.look(0, |value| *value), Some(expect));
                expect += 1;
                borrower.give_back(1);
            }
            sender.join().unwrap();
        });
    }
}
