//! Publication of one block: a sequence word, then the values.
//!
//! ```text
//!  word 0     sequence: odd while a write is under way, two more after each
//!  word 1..   the values
//! ```
//!
//! Who writes and who reads (A atomic word, W the block's one writer, R any reader):
//!
//! | word | writer | reader | partner |
//! |---|---|---|---|
//! | sequence, to odd | relaxed store, then release fence | last load, after an acquire fence | a reader that saw any new value sees this store and so a changed sequence |
//! | values | relaxed stores | relaxed loads | |
//! | sequence, to even | release store | first load, then an acquire fence | a reader that saw this store sees every value before it |

use std::io;

use crate::atomic::{AtomicU64, Ordering, fence};

/// Words that a block has before its values.
pub(crate) const SEQUENCE_WORDS: usize = 1;

/// Publishes `parts`, one after the other, as the values of `block`.
///
/// `block` is the sequence word and the values; what `parts` have beyond it is left out, and where
/// they are short the old values stay. `sequence` is the writer's own copy of the sequence word,
/// even before and after.
///
/// Every value is stored, changed or not: the writer's lines are its own until a reader looks, and
/// a reader looks once a second, so that comparing first would cost more than it saves.
#[inline]
pub(crate) fn publish(block: &[AtomicU64], sequence: &mut u64, parts: &[&[u64]]) {
    let Some((word, slots)) = block.split_first() else { return };
    word.store(sequence.wrapping_add(1), Ordering::Relaxed);
    fence(Ordering::Release);
    let mut slots = slots.iter();
    for part in parts {
        for (value, slot) in part.iter().zip(&mut slots) {
            slot.store(*value, Ordering::Relaxed);
        }
    }
    *sequence = sequence.wrapping_add(2);
    word.store(*sequence, Ordering::Release);
}

/// Words that a reader can load: memory of this process, or a file.
pub(crate) trait Words {
    /// Loads the words from `first` on into `out`; none of them may lie beyond the end.
    fn load(&self, first: usize, out: &mut [u64]) -> io::Result<()>;
}

/// What one attempt at reading a block found. The values are in the caller's buffer in each case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The values are of one moment.
    Whole,
    /// A write is under way, or its writer died inside it; this is the sequence word seen.
    Writing(u64),
    /// A write began or ended while the values were read.
    Overtaken,
}

/// Reads the values of the block whose sequence word is `first` into `out`, once.
pub(crate) fn attempt(words: &impl Words, first: usize, out: &mut [u64]) -> io::Result<Attempt> {
    let mut before = [0];
    words.load(first, &mut before)?;
    fence(Ordering::Acquire);
    words.load(first + SEQUENCE_WORDS, out)?;
    fence(Ordering::Acquire);
    let mut after = [0];
    words.load(first, &mut after)?;
    Ok(match (before, after) {
        (before, after) if before != after => Attempt::Overtaken,
        ([sequence], _) if sequence % 2 == 1 => Attempt::Writing(sequence),
        _ => Attempt::Whole,
    })
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;

    use super::*;

    struct Shared(Arc<[AtomicU64; 3]>);

    impl Words for Shared {
        fn load(&self, first: usize, out: &mut [u64]) -> io::Result<()> {
            for (value, word) in out.iter_mut().zip(&self.0[first..]) {
                *value = word.load(Ordering::Relaxed);
            }
            Ok(())
        }
    }

    #[test]
    fn a_whole_read_is_of_one_publication() {
        loom::model(|| {
            let block = Arc::new([AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)]);
            let writer = {
                let block = Arc::clone(&block);
                loom::thread::spawn(move || {
                    let mut sequence = 0;
                    publish(&*block, &mut sequence, &[&[1], &[10]]);
                    publish(&*block, &mut sequence, &[&[2, 20]]);
                })
            };
            let reader = Shared(block);
            let mut seen = [0; 2];
            if attempt(&reader, 0, &mut seen).unwrap() == Attempt::Whole {
                assert!(matches!(seen, [0, 0] | [1, 10] | [2, 20]), "torn: {seen:?}");
            }
            writer.join().unwrap();
            assert_eq!(attempt(&reader, 0, &mut seen).unwrap(), Attempt::Whole);
            assert_eq!(seen, [2, 20]);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;
    use crate::memory::Memory;

    #[test]
    fn readers_beside_a_writer_on_the_heap_see_whole_publications() {
        let memory = Arc::new(Memory::heap(&[0; 4], 128));
        let writer = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let mut sequence = 0;
                for count in 1..=100 {
                    publish(&memory.words()[..4], &mut sequence, &[&[count], &[count, count]]);
                    thread::yield_now();
                }
            })
        };
        let mut last = [0; 3];
        while last != [100; 3] {
            let mut seen = [0; 3];
            if attempt(&*memory, 0, &mut seen).unwrap() == Attempt::Whole {
                assert!(seen.iter().all(|count| *count == seen[0]) && seen[0] >= last[0]);
                last = seen;
            }
            thread::yield_now();
        }
        writer.join().unwrap();
    }

    #[test]
    fn an_open_write_is_seen_as_one() {
        let memory = Memory::heap(&[3, 10, 20], 128);
        let mut seen = [0; 2];
        assert_eq!(attempt(&memory, 0, &mut seen).unwrap(), Attempt::Writing(3));
        assert_eq!(seen, [10, 20]);
    }

    #[test]
    fn values_that_do_not_fit_the_block_stay_out_of_the_next_one() {
        let memory = Memory::heap(&[0, 1, 2, 77], 128);
        publish(&memory.words()[..3], &mut 0, &[&[5, 6, 7], &[8]]);
        let mut seen = [0; 4];
        memory.load(0, &mut seen).unwrap();
        assert_eq!(seen, [2, 5, 6, 77]);
        publish(&memory.words()[..3], &mut 2, &[&[9]]);
        memory.load(0, &mut seen).unwrap();
        assert_eq!(seen, [4, 9, 6, 77]);
    }
}
