//! Inbound SPIs are ours to choose, so they say where their SA is.
//!
//! ```text
//!  31        26 25                         6 5        0
//! ┌────────────┬────────────────────────────┬──────────┐
//! │ core       │ slot                       │generation│
//! └────────────┴────────────────────────────┴──────────┘
//! ```
//!
//! Six bits of core, twenty of slot and six of generation: 64 workers with 1,048,576 inbound SAs each.
//! The lookup is an index by slot and one compare of the whole SPI. The generation changes each time
//! a slot is given out again, so that a packet for the SA before finds none instead of the wrong one.
//! Slots 0 to 3 of core 0 are never given out: their SPIs are 0 to 255 (RFC 4303 §2.1).

use crate::sa::Spi;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bits of the generation.
const GENERATION_BITS: u32 = 6;
/// Bits of the slot.
const SLOT_BITS: u32 = 20;

/// How many workers the split allows.
pub const MAX_CORES: usize = 1 << (32 - GENERATION_BITS - SLOT_BITS);
/// How many slots each worker's table can have.
pub const MAX_SLOTS: usize = 1 << SLOT_BITS;

const GENERATIONS: u32 = 1 << GENERATION_BITS;
/// The first slot of core 0 whose SPIs are not reserved.
const FIRST_SLOT_OF_CORE_0: u32 = 256 / GENERATIONS;

/// How long a released SPI's slot rests: as long as packets of its SA may still be under way (RFC 9293
/// §3.4.2 takes two minutes for the maximum segment lifetime).
pub const QUARANTINE: Duration = Duration::from_secs(120);

/// A worker, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CoreId(u8);

impl CoreId {
    /// `None` beyond [`MAX_CORES`].
    pub const fn new(index: usize) -> Option<Self> {
        if index < MAX_CORES { Some(Self(index as u8)) } else { None }
    }

    /// The index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl Spi {
    /// The worker that owns the inbound SA of this SPI. Meaningless for a peer's SPI.
    #[inline]
    pub const fn core(self) -> CoreId {
        CoreId((self.get() >> (GENERATION_BITS + SLOT_BITS)) as u8)
    }

    /// Its index in that worker's table.
    #[inline]
    pub const fn slot(self) -> usize {
        ((self.get() >> GENERATION_BITS) as usize) & (MAX_SLOTS - 1)
    }

    const fn assemble(core: CoreId, slot: u32, generation: u32) -> Option<Self> {
        Self::new(
            ((core.0 as u32) << (GENERATION_BITS + SLOT_BITS))
                | (slot << GENERATION_BITS)
                | (generation & (GENERATIONS - 1)),
        )
    }
}

/// Why no SPI was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiError {
    /// The configured number of SPIs is in use.
    #[error("the limit of inbound SPIs is reached")]
    Limit,
    /// The slots of this worker are in use or in quarantine.
    #[error("the SPI table of this worker is full")]
    Full,
    /// There is no such worker.
    #[error("no such worker")]
    NoSuchCore,
}

/// Gives out the SPIs of all workers; owned by the control thread.
#[derive(Debug)]
pub struct SpiAllocator {
    cores: Vec<CoreSlots>,
    limit: usize,
    in_use: usize,
    allocated: u64,
    refused: u64,
}

#[derive(Debug)]
struct CoreSlots {
    capacity: u32,
    /// Slots from here on were never given out.
    fresh: u32,
    /// Released slots with what their next generation is and when they may be given out, oldest first.
    resting: VecDeque<(u32, u32, Instant)>,
    /// The generation each used slot has; `None` while it rests.
    live: Vec<Option<u8>>,
}

impl SpiAllocator {
    /// For `cores` workers whose tables have `slots` entries each, and at most `limit` SPIs in use over
    /// all of them. Both are cut to what the SPI can express.
    pub fn new(cores: usize, slots: usize, limit: usize) -> Self {
        let capacity = slots.min(MAX_SLOTS) as u32;
        let cores = (0..cores.min(MAX_CORES))
            .map(|core| CoreSlots {
                capacity,
                fresh: if core == 0 { FIRST_SLOT_OF_CORE_0 } else { 0 },
                resting: VecDeque::new(),
                live: Vec::new(),
            })
            .collect();
        Self { cores, limit, in_use: 0, allocated: 0, refused: 0 }
    }

    /// Gives out an SPI whose SA `core` will own. `entropy` chooses the first generation of a fresh slot,
    /// so that SPIs of an earlier run of the daemon rarely come again at once.
    ///
    /// # Errors
    ///
    /// As [`SpiError`] says; each is counted in [`SpiAllocator::refused`].
    pub fn allocate(&mut self, core: CoreId, now: Instant, entropy: u8) -> Result<Spi, SpiError> {
        let result = self.try_allocate(core, now, entropy);
        match result {
            Ok(_) => {
                self.in_use += 1;
                self.allocated += 1;
            }
            Err(_) => self.refused += 1,
        }
        result
    }

    fn try_allocate(&mut self, core: CoreId, now: Instant, entropy: u8) -> Result<Spi, SpiError> {
        if self.in_use >= self.limit {
            return Err(SpiError::Limit);
        }
        let slots = self.cores.get_mut(core.index()).ok_or(SpiError::NoSuchCore)?;
        let (slot, generation) = match slots.resting.front() {
            Some(&(slot, generation, from)) if from <= now => {
                slots.resting.pop_front();
                (slot, generation)
            }
            _ if slots.fresh < slots.capacity => {
                slots.fresh += 1;
                (slots.fresh - 1, u32::from(entropy) % GENERATIONS)
            }
            _ => return Err(SpiError::Full),
        };
        let index = slot as usize;
        if slots.live.len() <= index {
            slots.live.resize(index + 1, None);
        }
        slots.live[index] = Some(generation as u8);
        Spi::assemble(core, slot, generation).ok_or(SpiError::Full)
    }

    /// Takes an SPI back; its slot rests for [`QUARANTINE`]. Says whether it was given out.
    pub fn release(&mut self, spi: Spi, now: Instant) -> bool {
        let Some(slots) = self.cores.get_mut(spi.core().index()) else { return false };
        let generation = spi.get() % GENERATIONS;
        match slots.live.get_mut(spi.slot()) {
            Some(live) if *live == Some(generation as u8) => *live = None,
            _ => return false,
        }
        let next = (generation + 1) % GENERATIONS;
        slots.resting.push_back((spi.slot() as u32, next, now + QUARANTINE));
        self.in_use -= 1;
        true
    }

    /// SPIs given out and not taken back.
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// How many were ever given out.
    pub fn allocated(&self) -> u64 {
        self.allocated
    }

    /// How many requests were refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}
