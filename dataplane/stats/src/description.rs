//! Reading the self-description of a segment.
//!
//! The file may be of another version, cut off, or made by an enemy of whoever reads it. Every
//! place is checked against the file's length before use, every string is bounded and freed of
//! what a terminal would act on, and the sums of all of it are bounded too.

use std::{
    io,
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use thiserror::Error;

use crate::{
    catalogue::Kind,
    layout::{BLOCK_WORDS, COUNTER_WORDS, HEADER_WORDS, MAGIC, Place, WORD, header},
    segment::BootId,
    seqlock::{SEQUENCE_WORDS, Words},
};

/// Why a segment cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file cannot be opened or read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file does not begin as a segment does.
    #[error("not a statistics segment")]
    NotASegment,
    /// The file ends before what it describes.
    #[error("statistics segment is cut off")]
    Truncated,
    /// The file contradicts itself, or exceeds what a segment may be, in the field named.
    #[error("statistics segment is damaged: {0}")]
    Damaged(&'static str),
}

/// Facts of a segment that never change while it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Version of the self-description.
    pub version: u64,
    /// The boot in which it was made.
    pub boot: BootId,
    /// When the main mode counters were zero: the start of the daemon.
    pub main_mode_epoch: SystemTime,
    /// When the quick mode counters were zero: the first start of a daemon in this boot.
    pub quick_mode_epoch: SystemTime,
    /// Process that made it.
    pub writer_pid: u32,
}

/// What a segment says of one counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadCounter {
    /// Machine name without its block: `[a-z0-9_]+`.
    pub name: String,
    /// The name a person reads; no control characters.
    pub display: String,
    /// Label and value, where the counter is one part of a breakdown.
    pub label: Option<(String, String)>,
    /// Counter or gauge; what this version does not know reads as a gauge, which promises less.
    pub kind: Kind,
    /// What one of it is.
    pub unit: String,
    /// The meaning in one sentence; no control characters.
    pub help: String,
    /// The quick mode row that moves with it, by machine name.
    pub row: Option<String>,
}

/// Bytes a reader accepts. A segment of 1,000 workers with 200 drop causes each is 4 MiB.
const MAX_BYTES: u64 = 16 << 20;

/// Counters a reader accepts in all blocks together: 500 workers with 200 counters each. Blocks
/// may name the same counters, so the length of the file bounds them only weakly.
const MAX_COUNTERS: usize = 100_000;

/// Bytes of a name, label, unit or row.
const MAX_NAME: usize = 64;

/// Bytes of a display name or help text.
const MAX_TEXT: usize = 512;

#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) header: SegmentHeader,
    pub(crate) blocks: Vec<BlockDescription>,
    pub(crate) counters: Vec<ReadCounter>,
}

#[derive(Debug)]
pub(crate) struct BlockDescription {
    pub(crate) name: String,
    pub(crate) instance: String,
    pub(crate) place: Place,
    /// Its counters in [`Description::counters`].
    pub(crate) counters: Range<usize>,
}

impl Description {
    /// Reads the description of a segment of which `bytes` bytes exist.
    pub(crate) fn read(words: &impl Words, bytes: u64) -> Result<Self, ReadError> {
        let mut header = [0; HEADER_WORDS];
        if bytes < WORD as u64 {
            return Err(ReadError::NotASegment);
        }
        words.load(0, &mut header[..1])?;
        if header[header::MAGIC] != MAGIC {
            return Err(ReadError::NotASegment);
        }
        if bytes < (HEADER_WORDS * WORD) as u64 {
            return Err(ReadError::Truncated);
        }
        words.load(0, &mut header)?;
        let total = header[header::TOTAL_BYTES];
        if total > MAX_BYTES || total % WORD as u64 != 0 {
            return Err(ReadError::Damaged("size"));
        }
        if total > bytes {
            return Err(ReadError::Truncated);
        }
        let data = header[header::DATA];
        if data > total || data < (HEADER_WORDS * WORD) as u64 {
            return Err(ReadError::Damaged("place of the data"));
        }
        let total = total as usize / WORD;
        let mut text = vec![0; data as usize / WORD];
        words.load(0, &mut text)?;

        let tables = Tables::new(&header, &text)?;
        let mut budget = MAX_COUNTERS;
        let mut blocks = Vec::new();
        let mut counters: Vec<ReadCounter> = Vec::new();
        for record in tables.blocks.records() {
            let [name, instance, place, values, first, ..] = record else {
                return Err(ReadError::Damaged("block record"));
            };
            let values = usize::try_from(*values).map_err(|_| ReadError::Damaged("block size"))?;
            budget = budget.checked_sub(values).ok_or(ReadError::Damaged("number of counters"))?;
            let described = tables.counters.range(*first, values)?;
            let place = usize::try_from(*place)
                .ok()
                .filter(|place| place % WORD == 0 && *place as u64 >= data)
                .map(|place| Place { first: place / WORD, words: SEQUENCE_WORDS + values })
                .filter(|place| {
                    place.first.checked_add(place.words).is_some_and(|end| end <= total)
                })
                .ok_or(ReadError::Damaged("place of a block"))?;
            let from = counters.len();
            for record in described {
                counters.push(tables.counter(record)?);
            }
            blocks.push(BlockDescription {
                name: tables.name(*name)?,
                instance: tables.label(*instance)?,
                place,
                counters: from..counters.len(),
            });
        }
        let header = SegmentHeader {
            version: header[header::VERSION],
            boot: BootId([header[header::BOOT], header[header::BOOT + 1]]),
            main_mode_epoch: time(header[header::MAIN_MODE_EPOCH]),
            quick_mode_epoch: time(header[header::QUICK_MODE_EPOCH]),
            writer_pid: u32::try_from(header[header::WRITER_PID])
                .map_err(|_| ReadError::Damaged("process"))?,
        };
        Ok(Self { header, blocks, counters })
    }
}

fn time(nanoseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}

/// The three tables, each checked to lie within the text.
struct Tables<'a> {
    blocks: Table<'a>,
    counters: Table<'a>,
    strings: Vec<u8>,
}

impl<'a> Tables<'a> {
    fn new(header: &[u64; HEADER_WORDS], text: &'a [u64]) -> Result<Self, ReadError> {
        let blocks = Table::new(
            text,
            header[header::BLOCKS],
            header[header::BLOCK_COUNT],
            header[header::BLOCK_STRIDE],
            BLOCK_WORDS,
        )?;
        let counters = Table::new(
            text,
            header[header::COUNTERS],
            header[header::COUNTER_COUNT],
            header[header::COUNTER_STRIDE],
            COUNTER_WORDS,
        )?;
        let start = words(header[header::STRINGS])?;
        let bytes = usize::try_from(header[header::STRING_BYTES])
            .map_err(|_| ReadError::Damaged("strings"))?;
        let strings = start
            .checked_add(bytes.div_ceil(WORD))
            .and_then(|end| text.get(start..end))
            .ok_or(ReadError::Damaged("strings"))?;
        let strings = strings.iter().flat_map(|word| word.to_ne_bytes()).take(bytes).collect();
        Ok(Self { blocks, counters, strings })
    }

    fn counter(&self, record: &[u64]) -> Result<ReadCounter, ReadError> {
        let [name, display, label, value, unit, help, row, kind, ..] = record else {
            return Err(ReadError::Damaged("counter record"));
        };
        Ok(ReadCounter {
            name: self.name(*name)?,
            display: self.text(*display)?,
            label: match self.label(*label)? {
                label if label.is_empty() => None,
                _ => Some((self.name(*label)?, self.label(*value)?)),
            },
            kind: if *kind == 0 { Kind::Counter } else { Kind::Gauge },
            unit: self.name(*unit)?,
            help: self.text(*help)?,
            row: Some(self.label(*row)?).filter(|row| !row.is_empty()),
        })
    }

    /// A machine name: `[a-z0-9_]+`, so that every format may print it as it is.
    fn name(&self, place: u64) -> Result<String, ReadError> {
        let name = self.string(place, MAX_NAME)?;
        let machine =
            |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_';
        if name.is_empty() || !name.iter().all(machine) {
            return Err(ReadError::Damaged("name"));
        }
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    /// A label value or instance: printable ASCII without spaces, perhaps empty.
    fn label(&self, place: u64) -> Result<String, ReadError> {
        let label = self.string(place, MAX_NAME)?;
        if !label.iter().all(u8::is_ascii_graphic) {
            return Err(ReadError::Damaged("label"));
        }
        Ok(String::from_utf8_lossy(label).into_owned())
    }

    /// Text for people: anything but what a terminal acts on.
    fn text(&self, place: u64) -> Result<String, ReadError> {
        let text = String::from_utf8_lossy(self.string(place, MAX_TEXT)?);
        // Control characters, and those that reorder or hide their neighbours.
        let acts = |char: char| {
            char.is_control()
                || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        };
        Ok(text.chars().map(|char| if acts(char) { '\u{fffd}' } else { char }).collect())
    }

    fn string(&self, place: u64, max: usize) -> Result<&[u8], ReadError> {
        let start = (place & 0xffff_ffff) as usize;
        let len = (place >> 32) as usize;
        if len > max {
            return Err(ReadError::Damaged("length of a string"));
        }
        start
            .checked_add(len)
            .and_then(|end| self.strings.get(start..end))
            .ok_or(ReadError::Damaged("place of a string"))
    }
}

/// Records of one size, one after the other.
struct Table<'a> {
    words: &'a [u64],
    stride: usize,
}

impl<'a> Table<'a> {
    /// `known` is how many words of each record this version reads; a later one may have more.
    fn new(
        text: &'a [u64],
        place: u64,
        count: u64,
        stride: u64,
        known: usize,
    ) -> Result<Self, ReadError> {
        const DAMAGED: ReadError = ReadError::Damaged("table");
        let place = words(place)?;
        let stride = words(stride)?;
        if stride < known {
            return Err(DAMAGED);
        }
        let words = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(stride))
            .and_then(|len| place.checked_add(len))
            .and_then(|end| text.get(place..end))
            .ok_or(DAMAGED)?;
        Ok(Self { words, stride })
    }

    fn records(&self) -> std::slice::ChunksExact<'a, u64> {
        self.words.chunks_exact(self.stride)
    }

    fn range(
        &self,
        first: u64,
        count: usize,
    ) -> Result<std::slice::ChunksExact<'a, u64>, ReadError> {
        usize::try_from(first)
            .ok()
            .and_then(|first| {
                let start = first.checked_mul(self.stride)?;
                let end = first.checked_add(count)?.checked_mul(self.stride)?;
                self.words.get(start..end)
            })
            .map(|words| words.chunks_exact(self.stride))
            .ok_or(ReadError::Damaged("counters of a block"))
    }
}

/// Turns a number of bytes into one of words.
fn words(bytes: u64) -> Result<usize, ReadError> {
    usize::try_from(bytes)
        .ok()
        .filter(|bytes| bytes % WORD == 0)
        .map(|bytes| bytes / WORD)
        .ok_or(ReadError::Damaged("alignment"))
}

#[cfg(test)]
mod tests;
