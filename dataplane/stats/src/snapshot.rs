//! Reading a segment: each block as it was at one moment, and totals over blocks.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use crate::{
    accounting::Accounting,
    catalogue::{CAUSE, DROPS, MainMode, MainModePart, QuickMode, Worker},
    description::{BlockDescription, Description, ReadCounter, ReadError, SegmentHeader},
    layout::{MAIN_MODE, QUICK_MODE, WORD, WORKER},
    memory::Memory,
    seqlock::{self, Attempt, SEQUENCE_WORDS, Words},
};

/// Attempts at a block that is being written. A write takes well under a microsecond, so all but
/// the first few are for a writer that lost its processor inside one.
const ATTEMPTS: u32 = 200;

/// Attempts before the reader begins to sleep between them.
const EAGER_ATTEMPTS: u32 = 16;

/// Sleep between later attempts; all of them together stay under a fifth of a second.
const PAUSE: Duration = Duration::from_millis(1);

/// Whether the values of a block are of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// They are.
    Whole,
    /// The writer stopped inside a write, or lost its processor there for longer than a reader
    /// waits: each value is from before or after that write.
    Torn,
    /// The writer published faster than the block could be read.
    Overtaken,
}

/// Whether somebody still writes the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterState {
    /// The process holds the segment.
    Running,
    /// No process holds it: these are its last counts.
    Gone,
}

/// Values of all blocks of a segment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    description: Arc<Description>,
    writer: WriterState,
    blocks: Vec<Values>,
}

#[derive(Clone, Debug)]
struct Values {
    consistency: Consistency,
    values: Vec<u64>,
}

impl Snapshot {
    /// Reads the segment file at `path`.
    ///
    /// Never waits for a writer longer than a fifth of a second a block.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read, or is no segment, or a damaged one.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        // Without O_NONBLOCK, opening a FIFO that somebody put there would hang.
        Self::read_file(&OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?)
    }

    pub(crate) fn read_file(file: &File) -> Result<Self, ReadError> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(ReadError::NotASegment);
        }
        let words = FileWords(file);
        let description = Arc::new(Description::read(&words, metadata.len())?);
        let writer = match file.try_lock_shared() {
            Ok(()) => {
                file.unlock()?;
                WriterState::Gone
            }
            Err(TryLockError::WouldBlock) => WriterState::Running,
            Err(TryLockError::Error(error)) => return Err(error.into()),
        };
        Self::take(&words, description, writer)
    }

    fn take(
        words: &impl Words,
        description: Arc<Description>,
        writer: WriterState,
    ) -> Result<Self, ReadError> {
        let blocks = description
            .blocks
            .iter()
            .map(|block| read_block(words, block, writer))
            .collect::<io::Result<_>>()
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => ReadError::Truncated,
                _ => error.into(),
            })?;
        Ok(Self { description, writer, blocks })
    }

    /// Returns the facts that do not change: epochs, boot, writer.
    pub fn header(&self) -> &SegmentHeader {
        &self.description.header
    }

    /// Returns whether the writer still lives.
    pub const fn writer(&self) -> WriterState {
        self.writer
    }

    /// Returns every block, in the order the writer declared them.
    pub fn blocks(&self) -> impl Iterator<Item = Block<'_>> + Clone {
        self.description.blocks.iter().zip(&self.blocks).map(|(block, values)| Block {
            block,
            counters: &self.description.counters[block.counters.clone()],
            values,
        })
    }

    /// Returns the value of a main mode row.
    pub fn main_mode(&self, row: MainMode) -> u64 {
        self.sum(|name| name == MAIN_MODE, row.name())
    }

    /// Returns the value of a labelled part of a main mode row.
    pub fn main_mode_part(&self, part: MainModePart) -> u64 {
        let label = part.label();
        self.blocks()
            .filter(|block| block.name() == MAIN_MODE)
            .flat_map(|block| block.readings())
            .filter(|reading| {
                reading.counter.name == part.row().name() && reading.label() == Some(label)
            })
            .fold(0, |sum, reading| sum.wrapping_add(reading.value))
    }

    /// Returns the value of a quick mode row: the control thread's part, what earlier daemons of
    /// this boot left, and every worker's.
    pub fn quick_mode(&self, row: QuickMode) -> u64 {
        self.sum(|name| name == QUICK_MODE || name == WORKER, row.name())
    }

    /// Returns the rows of a table ([`MAIN_MODE`] or [`QUICK_MODE`]) as the segment itself names
    /// and orders them, be it of another version, with the totals over blocks.
    pub fn table(&self, table: &str) -> Vec<Reading<'_>> {
        let mut blocks = self.blocks().filter(|block| block.name() == table);
        let Some(first) = blocks.next() else { return Vec::new() };
        let mut rows: Vec<Reading<'_>> =
            first.readings().filter(|reading| reading.counter.label.is_none()).collect();
        for row in &mut rows {
            let name = &row.counter.name;
            let workers =
                self.blocks().filter(|block| table == QUICK_MODE && block.name() == WORKER);
            let others = blocks.clone().chain(workers);
            row.value = others.fold(row.value, |sum, block| sum.wrapping_add(block.get(name)));
        }
        rows
    }

    /// Returns each worker's block, in the order of their numbers.
    pub fn workers(&self) -> impl Iterator<Item = WorkerReading<'_>> {
        self.blocks().filter(|block| block.name() == WORKER).map(WorkerReading)
    }

    /// Returns the drops by cause, summed over the workers, in the order the causes are declared.
    pub fn drops(&self) -> Vec<Drops<'_>> {
        let mut all: Vec<Drops<'_>> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        for worker in self.workers() {
            for drops in worker.drops() {
                match places.entry(drops.cause) {
                    Entry::Occupied(place) => {
                        let sum = &mut all[*place.get()].packets;
                        *sum = sum.wrapping_add(drops.packets);
                    }
                    Entry::Vacant(place) => {
                        place.insert(all.len());
                        all.push(drops);
                    }
                }
            }
        }
        all
    }

    fn sum(&self, blocks: impl Fn(&str) -> bool, name: &str) -> u64 {
        self.blocks()
            .filter(|block| blocks(block.name()))
            .fold(0, |sum, block| sum.wrapping_add(block.get(name)))
    }
}

fn read_block(
    words: &impl Words,
    block: &BlockDescription,
    writer: WriterState,
) -> io::Result<Values> {
    let mut values = vec![0; block.place.words - SEQUENCE_WORDS];
    let attempts = match writer {
        WriterState::Running => ATTEMPTS,
        // A dead writer's write does not end; twice, to tell torn from a file that still changes.
        WriterState::Gone => 2,
    };
    let mut stuck = None;
    let mut consistency = Consistency::Overtaken;
    for tried in 0..attempts {
        match seqlock::attempt(words, block.place.first, &mut values)? {
            Attempt::Whole => return Ok(Values { consistency: Consistency::Whole, values }),
            Attempt::Writing(sequence) => {
                consistency = match stuck {
                    None => Consistency::Torn,
                    Some(before) if before == sequence => Consistency::Torn,
                    Some(_) => Consistency::Overtaken,
                };
                stuck = Some(sequence);
            }
            Attempt::Overtaken => consistency = Consistency::Overtaken,
        }
        if tried < EAGER_ATTEMPTS {
            std::hint::spin_loop();
        } else {
            thread::sleep(PAUSE);
        }
    }
    Ok(Values { consistency, values })
}

/// Reads snapshots of a segment in this process.
#[derive(Clone)]
pub struct Reader {
    memory: Arc<Memory>,
    description: Arc<Description>,
}

impl Reader {
    pub(crate) fn new(memory: Arc<Memory>, bytes: u64) -> Result<Self, ReadError> {
        let description = Arc::new(Description::read(&*memory, bytes)?);
        Ok(Self { memory, description })
    }

    /// Returns the counts of this moment, block by block.
    ///
    /// # Errors
    ///
    /// None in practice: the blocks were checked against the memory when the reader was made.
    pub fn snapshot(&self) -> Result<Snapshot, ReadError> {
        Snapshot::take(&*self.memory, Arc::clone(&self.description), WriterState::Running)
    }
}

/// One block of a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    block: &'a BlockDescription,
    counters: &'a [ReadCounter],
    values: &'a Values,
}

impl<'a> Block<'a> {
    /// Returns its name: `main_mode`, `quick_mode`, `worker`, or one the writer chose.
    pub fn name(&self) -> &'a str {
        &self.block.name
    }

    /// Returns what tells it from other blocks of its name; a worker's number.
    pub fn instance(&self) -> &'a str {
        &self.block.instance
    }

    /// Returns whether its values are of one moment.
    pub const fn consistency(&self) -> Consistency {
        self.values.consistency
    }

    /// Returns its counters with their values.
    pub fn readings(&self) -> impl Iterator<Item = Reading<'a>> + use<'a> {
        let values = &self.values.values;
        self.counters.iter().zip(values).map(|(counter, value)| Reading { counter, value: *value })
    }

    /// Returns the value of the counter of this name that has no label, 0 where there is none.
    pub fn get(&self, name: &str) -> u64 {
        self.readings()
            .find(|reading| reading.counter.label.is_none() && reading.counter.name == name)
            .map_or(0, |reading| reading.value)
    }
}

/// One counter and its value.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// What it is.
    pub counter: &'a ReadCounter,
    /// How much of it.
    pub value: u64,
}

impl<'a> Reading<'a> {
    /// Returns its label and the label's value.
    pub fn label(&self) -> Option<(&'a str, &'a str)> {
        self.counter.label.as_ref().map(|(label, value)| (label.as_str(), value.as_str()))
    }
}

/// One worker's block of a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct WorkerReading<'a>(Block<'a>);

impl<'a> WorkerReading<'a> {
    /// Returns the whole block.
    pub const fn block(&self) -> &Block<'a> {
        &self.0
    }

    /// Returns a fixed counter of the worker.
    pub fn get(&self, counter: Worker) -> u64 {
        self.0.get(counter.name())
    }

    /// Returns its drops by cause.
    pub fn drops(&self) -> impl Iterator<Item = Drops<'a>> + use<'a> {
        self.0.readings().filter(|reading| reading.counter.name == DROPS).map(|reading| Drops {
            cause: match reading.label() {
                Some((CAUSE, cause)) => cause,
                _ => "",
            },
            row: reading.counter.row.as_deref(),
            help: &reading.counter.help,
            packets: reading.value,
        })
    }

    /// Returns the terms of the worker's accounting identity.
    pub fn accounting(&self) -> Accounting {
        Accounting::of(self)
    }
}

/// Packets dropped for one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drops<'a> {
    /// The cause's machine name.
    pub cause: &'a str,
    /// The quick mode row that moves with it.
    pub row: Option<&'a str>,
    /// What the cause means.
    pub help: &'a str,
    /// How many.
    pub packets: u64,
}

/// A segment file, read by system calls: whoever cuts the file off under the reader gives it an
/// error and no signal. The kernel copies from the same page that writers have mapped.
struct FileWords<'a>(&'a File);

impl Words for FileWords<'_> {
    fn load(&self, first: usize, out: &mut [u64]) -> io::Result<()> {
        let mut bytes = vec![0; out.len() * WORD];
        self.0.read_exact_at(&mut bytes, (first * WORD) as u64)?;
        for (word, bytes) in out.iter_mut().zip(bytes.as_chunks::<WORD>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Ok(())
    }
}
