//! Where the words of a segment are.

use std::io;

use crate::{
    atomic::{AtomicU64, Ordering},
    seqlock::Words,
};

/// The words of a segment, for its writers and for readers in the same process.
pub(crate) enum Memory {
    /// Memory of this process alone; `start` makes the first word of a block begin a cache line.
    Heap { words: Box<[AtomicU64]>, start: usize },
    /// The mapped segment file.
    #[cfg(not(loom))]
    Mapped(crate::map::Mapping),
}

impl Memory {
    /// Copies `image` to the heap, its first word at a multiple of `align` bytes.
    pub(crate) fn heap(image: &[u64], align: usize) -> Self {
        let slack = align / size_of::<u64>();
        let words: Box<[AtomicU64]> = std::iter::repeat_n(0, slack)
            .chain(image.iter().copied())
            .chain(std::iter::repeat_n(0, slack))
            .map(AtomicU64::new)
            .collect();
        // An interpreter may refuse to tell alignments; then the block is merely not aligned.
        let start = match words.as_ptr().align_offset(align) {
            start if start <= slack => start,
            _ => slack,
        };
        for (word, value) in words[start..].iter().zip(image) {
            word.store(*value, Ordering::Relaxed);
        }
        Self::Heap { words, start }
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        match self {
            Self::Heap { words, start } => &words[*start..],
            #[cfg(not(loom))]
            Self::Mapped(mapping) => mapping.words(),
        }
    }
}

impl Words for Memory {
    fn load(&self, first: usize, out: &mut [u64]) -> io::Result<()> {
        let words = first
            .checked_add(out.len())
            .and_then(|end| self.words().get(first..end))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        for (value, word) in out.iter_mut().zip(words) {
            *value = word.load(Ordering::Relaxed);
        }
        Ok(())
    }
}
