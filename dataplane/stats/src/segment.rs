//! Creating a segment, adopting what an earlier daemon left, and handing out the writers.

#[cfg(not(loom))]
mod file;

use std::{fs, io, sync::Arc, time::SystemTime};

use thiserror::Error;

use crate::{
    description::ReadError,
    layout::{BLOCK_ALIGN, BlockId, Facts, Image, Layout, Place, WORD},
    memory::Memory,
    seqlock,
    snapshot::Reader,
};

/// One boot of this machine: the kernel's random boot identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BootId(pub [u64; 2]);

impl BootId {
    /// Returns the present boot's identifier.
    ///
    /// # Errors
    ///
    /// What reading `/proc/sys/kernel/random/boot_id` reports, or `InvalidData` where it holds no
    /// UUID.
    pub fn current() -> io::Result<Self> {
        let uuid = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).collect();
        match (digits.get(..16), digits.get(16..32)) {
            (Some(high), Some(low)) => {
                let parse = |digits| u64::from_str_radix(digits, 16).map_err(io::Error::other);
                Ok(Self([parse(high)?, parse(low)?]))
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// When and in which boot a daemon starts.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The main mode epoch; the quick mode epoch too, where nothing is adopted.
    pub at: SystemTime,
    /// The boot: counts of another one are not adopted.
    pub boot: BootId,
}

impl Start {
    /// Returns the present time and boot.
    ///
    /// # Errors
    ///
    /// As [`BootId::current`].
    pub fn now() -> io::Result<Self> {
        Ok(Self { at: SystemTime::now(), boot: BootId::current()? })
    }
}

/// What a new segment took over from the one at its path.
#[derive(Debug)]
pub enum Adoption {
    /// There was none.
    Nothing,
    /// The quick mode counters and their epoch go on.
    Continued,
    /// It was of an earlier boot, so all counters start at zero.
    OtherBoot,
    /// It could not be read, so all counters start at zero.
    Unreadable(ReadError),
}

/// Why a segment cannot be created.
#[derive(Debug, Error)]
pub enum CreateError {
    /// The segment at the path has a living writer.
    #[error("the segment belongs to a running process (pid {pid})")]
    InUse {
        /// The process that made it.
        pid: u32,
    },
    /// Creating, writing, mapping or renaming the file failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A segment this process writes. It outlives the `Segment` in its writers, readers and file.
pub struct Segment {
    memory: Arc<Memory>,
    bytes: u64,
    places: Vec<Place>,
    taken: Vec<bool>,
    adoption: Adoption,
}

impl Segment {
    /// Creates a segment in memory of this process alone.
    pub fn anonymous(layout: &Layout, start: Start) -> Self {
        let facts =
            Facts { boot: start.boot, main_mode_epoch: start.at, quick_mode_epoch: start.at };
        let Image { words, places } = layout.image(&facts);
        let memory = Memory::heap(&words, BLOCK_ALIGN);
        Self::new(layout, memory, words.len(), places, Adoption::Nothing)
    }

    fn new(
        layout: &Layout,
        memory: Memory,
        words: usize,
        places: Vec<Place>,
        adoption: Adoption,
    ) -> Self {
        let mut taken = vec![false; places.len()];
        taken[layout.quick_mode_base().0] = true;
        Self { memory: Arc::new(memory), bytes: (words * WORD) as u64, places, taken, adoption }
    }

    /// Returns what the segment took over from an earlier one.
    pub const fn adoption(&self) -> &Adoption {
        &self.adoption
    }

    /// Hands out the writer of a block of the segment's layout; each block's once, then `None`.
    pub fn writer(&mut self, block: BlockId) -> Option<BlockWriter> {
        let place = *self.places.get(block.0)?;
        let taken = self.taken.get_mut(block.0)?;
        if std::mem::replace(taken, true) {
            return None;
        }
        Some(BlockWriter { memory: Arc::clone(&self.memory), place, sequence: 0 })
    }

    /// Returns a reader within this process.
    ///
    /// # Errors
    ///
    /// Where the layout holds what no reader accepts: names that are not `[a-z0-9_]+`, strings
    /// over their bounds, too many counters.
    pub fn reader(&self) -> Result<Reader, ReadError> {
        Reader::new(Arc::clone(&self.memory), self.bytes)
    }
}

/// The one writer of one block.
pub struct BlockWriter {
    memory: Arc<Memory>,
    place: Place,
    /// The sequence word: only this writer stores it.
    sequence: u64,
}

impl BlockWriter {
    /// Publishes `values` as the block's values, in the order of its counters, as of one moment.
    ///
    /// Costs one store per value, no read-modify-write and no system call. `values` beyond the
    /// block's are left out, and where they are short the old ones stay.
    #[inline]
    pub fn publish(&mut self, values: &[u64]) {
        self.publish_parts(&[values]);
    }

    /// Publishes several tables that follow each other in the block, as of one moment: a worker's
    /// fixed counters and its drops, main mode's rows and their parts.
    #[inline]
    pub fn publish_parts(&mut self, parts: &[&[u64]]) {
        debug_assert_eq!(
            parts.iter().map(|part| part.len()).sum::<usize>(),
            self.place.words - seqlock::SEQUENCE_WORDS,
            "values published do not fit the block's layout"
        );
        let block = &self.memory.words()[self.place.first..self.place.first + self.place.words];
        seqlock::publish(block, &mut self.sequence, parts);
    }

    /// Begins a publication and never ends it, as a writer that is killed inside one.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn die_inside_a_write(self, values: &[u64]) {
        use crate::atomic::Ordering;
        let block = &self.memory.words()[self.place.first..self.place.first + self.place.words];
        block[0].store(self.sequence + 1, Ordering::Relaxed);
        for (slot, value) in block[seqlock::SEQUENCE_WORDS..].iter().zip(values) {
            slot.store(*value, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
