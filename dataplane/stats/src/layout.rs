//! Which blocks a segment has, and how that is written down in it.
//!
//! ```text
//!  header      24 words    magic, version, sizes, boot, epochs, writer, places of what follows
//!  blocks      6 words each    name, instance, place, values, first counter
//!  counters    8 words each    name, display name, label, label value, unit, help, row, kind
//!  strings     bytes
//!  data        each block: sequence word and values, from a multiple of 128 bytes
//! ```
//!
//! Words are u64 in the machine's own byte order. A string is one word: byte offset into the
//! strings in the low half, length in the high half. Places are byte offsets from the start of the
//! file. The header tells the size of each record, so that a later version may append fields.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{
    catalogue::{Counter, Kind, MainMode, MainModePart, QuickMode, Worker},
    segment::BootId,
    seqlock::SEQUENCE_WORDS,
};

/// Name of the block of main mode rows and their labelled parts.
pub const MAIN_MODE: &str = "main_mode";

/// Name of the blocks of quick mode rows that are not a worker's: the control thread's, and the
/// base that earlier daemons left (instance `base`).
pub const QUICK_MODE: &str = "quick_mode";

/// Name of a worker's block.
pub const WORKER: &str = "worker";

/// Instance of the quick mode block that holds what earlier daemons of this boot counted.
pub(crate) const BASE: &str = "base";

/// `CULVSTAT` in the byte order of the machine; in the other order it is no segment.
pub(crate) const MAGIC: u64 = u64::from_be_bytes(*b"CULVSTAT");

/// Version of the self-description. A reader lists any version under the same magic.
pub(crate) const VERSION: u64 = 1;

pub(crate) const HEADER_WORDS: usize = 24;
pub(crate) const BLOCK_WORDS: usize = 6;
pub(crate) const COUNTER_WORDS: usize = 8;

/// Blocks begin at multiples of this: two lines, as the prefetcher fetches lines in pairs.
pub(crate) const BLOCK_ALIGN: usize = 128;

/// Words of the header, by place.
pub(crate) mod header {
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const VERSION: usize = 1;
    pub(crate) const HEADER_BYTES: usize = 2;
    pub(crate) const TOTAL_BYTES: usize = 3;
    pub(crate) const BOOT: usize = 4;
    pub(crate) const MAIN_MODE_EPOCH: usize = 6;
    pub(crate) const QUICK_MODE_EPOCH: usize = 7;
    pub(crate) const WRITER_PID: usize = 8;
    pub(crate) const BLOCKS: usize = 9;
    pub(crate) const BLOCK_COUNT: usize = 10;
    pub(crate) const BLOCK_STRIDE: usize = 11;
    pub(crate) const COUNTERS: usize = 12;
    pub(crate) const COUNTER_COUNT: usize = 13;
    pub(crate) const COUNTER_STRIDE: usize = 14;
    pub(crate) const STRINGS: usize = 15;
    pub(crate) const STRING_BYTES: usize = 16;
    pub(crate) const DATA: usize = 17;
}

/// A block of a layout, to ask the segment for its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockId(pub(crate) usize);

/// The blocks a segment is to have. Main mode and quick mode are always there.
#[derive(Clone, Debug)]
pub struct Layout {
    blocks: Vec<BlockLayout>,
    workers: usize,
}

#[derive(Clone, Debug)]
struct BlockLayout {
    name: &'static str,
    instance: String,
    counters: Vec<Counter>,
}

impl Layout {
    /// Returns the layout with the blocks of the control thread alone.
    pub fn new() -> Self {
        let mut layout = Self { blocks: Vec::new(), workers: 0 };
        let parts = MainModePart::all().map(MainModePart::descriptor);
        let main_mode: Vec<Counter> =
            MainMode::descriptors().iter().copied().chain(parts).collect();
        layout.block(MAIN_MODE, "", &main_mode);
        layout.block(QUICK_MODE, "", QuickMode::descriptors());
        layout.block(QUICK_MODE, BASE, QuickMode::descriptors());
        layout
    }

    /// Returns the block of main mode: publish [`MainModeCounters`](crate::MainModeCounters), then
    /// [`MainModePartCounters`](crate::MainModePartCounters).
    pub const fn main_mode(&self) -> BlockId {
        BlockId(0)
    }

    /// Returns the control thread's block of quick mode: publish
    /// [`QuickModeCounters`](crate::QuickModeCounters).
    pub const fn quick_mode(&self) -> BlockId {
        BlockId(1)
    }

    pub(crate) const fn quick_mode_base(&self) -> BlockId {
        BlockId(2)
    }

    /// Adds the block of the next worker, the first being `0`: publish
    /// [`WorkerCounters`](crate::WorkerCounters), then the drops in the order of `drop_causes`
    /// (made by [`Counter::drop_cause`]).
    pub fn worker(&mut self, drop_causes: &[Counter]) -> BlockId {
        let counters: Vec<Counter> =
            Worker::descriptors().iter().chain(drop_causes).copied().collect();
        let instance = self.workers.to_string();
        self.workers += 1;
        self.block(WORKER, &instance, &counters)
    }

    /// Adds a block of any other counters: a port, a queue, a ring.
    ///
    /// Names are `[a-z0-9_]+`; `instance` tells blocks of one name apart and is printable ASCII.
    /// Other characters become `_`.
    pub fn block(&mut self, name: &'static str, instance: &str, counters: &[Counter]) -> BlockId {
        self.blocks.push(BlockLayout {
            name,
            instance: instance
                .chars()
                .map(|char| if char.is_ascii_graphic() { char } else { '_' })
                .collect(),
            counters: counters.to_vec(),
        });
        BlockId(self.blocks.len() - 1)
    }

    /// Writes the layout down as the first contents of a segment, all counts zero.
    pub(crate) fn image(&self, facts: &Facts) -> Image {
        let mut strings = Strings::default();
        let mut blocks = Vec::new();
        let mut counters = Vec::new();
        for block in &self.blocks {
            blocks.push((
                strings.intern(block.name),
                strings.intern(&block.instance),
                counters.len() as u64,
            ));
            counters.extend(block.counters.iter().map(|counter| {
                let (label, value) = counter.label.unwrap_or(("", ""));
                [
                    strings.intern(counter.name),
                    strings.intern(counter.display),
                    strings.intern(label),
                    strings.intern(value),
                    strings.intern(counter.unit.name()),
                    strings.intern(counter.help),
                    strings.intern(counter.row.map_or("", QuickMode::name)),
                    match counter.kind {
                        Kind::Counter => 0,
                        Kind::Gauge => 1,
                    },
                ]
            }));
        }

        let blocks_at = HEADER_WORDS;
        let counters_at = blocks_at + blocks.len() * BLOCK_WORDS;
        let strings_at = counters_at + counters.len() * COUNTER_WORDS;
        let data_at = align(strings_at + strings.bytes.len().div_ceil(WORD));
        let mut words = vec![0; data_at];
        let mut places = Vec::new();
        for (index, ((name, instance, first), block)) in blocks.iter().zip(&self.blocks).enumerate()
        {
            let values = block.counters.len();
            let place = Place { first: words.len(), words: SEQUENCE_WORDS + values };
            words.resize(align(place.first + place.words), 0);
            let record = blocks_at + index * BLOCK_WORDS;
            words[record..record + BLOCK_WORDS].copy_from_slice(&[
                *name,
                *instance,
                (place.first * WORD) as u64,
                values as u64,
                *first,
                0,
            ]);
            places.push(place);
        }
        words[counters_at..strings_at].copy_from_slice(counters.as_flattened());
        for (word, bytes) in words[strings_at..].iter_mut().zip(strings.bytes.chunks(WORD)) {
            let mut padded = [0; WORD];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(padded);
        }

        let total = (words.len() * WORD) as u64;
        words[header::MAGIC] = MAGIC;
        words[header::VERSION] = VERSION;
        words[header::HEADER_BYTES] = (HEADER_WORDS * WORD) as u64;
        words[header::TOTAL_BYTES] = total;
        words[header::BOOT] = facts.boot.0[0];
        words[header::BOOT + 1] = facts.boot.0[1];
        words[header::MAIN_MODE_EPOCH] = nanoseconds(facts.main_mode_epoch);
        words[header::QUICK_MODE_EPOCH] = nanoseconds(facts.quick_mode_epoch);
        words[header::WRITER_PID] = u64::from(std::process::id());
        words[header::BLOCKS] = (blocks_at * WORD) as u64;
        words[header::BLOCK_COUNT] = self.blocks.len() as u64;
        words[header::BLOCK_STRIDE] = (BLOCK_WORDS * WORD) as u64;
        words[header::COUNTERS] = (counters_at * WORD) as u64;
        words[header::COUNTER_COUNT] = counters.len() as u64;
        words[header::COUNTER_STRIDE] = (COUNTER_WORDS * WORD) as u64;
        words[header::STRINGS] = (strings_at * WORD) as u64;
        words[header::STRING_BYTES] = strings.bytes.len() as u64;
        words[header::DATA] = (data_at * WORD) as u64;
        Image { words, places }
    }
}

impl Default for Layout {
    fn default() -> Self {
        Self::new()
    }
}

/// What the header says beyond the layout.
pub(crate) struct Facts {
    pub(crate) boot: BootId,
    pub(crate) main_mode_epoch: SystemTime,
    pub(crate) quick_mode_epoch: SystemTime,
}

/// The first contents of a segment, and where each block of the layout is in it.
pub(crate) struct Image {
    pub(crate) words: Vec<u64>,
    pub(crate) places: Vec<Place>,
}

/// Where a block is: its sequence word, and how many words with its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) first: usize,
    pub(crate) words: usize,
}

pub(crate) const WORD: usize = size_of::<u64>();

const fn align(words: usize) -> usize {
    words.next_multiple_of(BLOCK_ALIGN / WORD)
}

/// Nanoseconds since 1970; the header holds them until the year 2554.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    places: std::collections::BTreeMap<String, u64>,
}

impl Strings {
    fn intern(&mut self, string: &str) -> u64 {
        if let Some(place) = self.places.get(string) {
            return *place;
        }
        let place = self.bytes.len() as u64 | (string.len() as u64) << 32;
        self.bytes.extend_from_slice(string.as_bytes());
        self.places.insert(string.to_owned(), place);
        place
    }
}
