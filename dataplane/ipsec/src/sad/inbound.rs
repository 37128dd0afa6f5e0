//! Inbound SAs by SPI.

use super::{SadError, Slot, Spent, keys_of};
use crate::aead::{Keys, Lodging};
use crate::esp::inbound::InboundSa;
use crate::esp::suite::{Keyed, Settled};
use crate::large_pages::{self, Extent};
use crate::sa::Spi;
use crate::spi::{CoreId, MAX_SLOTS};
use core::ops::Range;

/// The inbound table of one worker. SAs lie in it by slot, so that nothing has to be read to know where one is; it takes memory as
/// far as slots are used, and never moves an SA that is in it.
pub struct InboundSad {
    core: CoreId,
    entries: Vec<Entry>,
    /// Of the same slots, as those of [`OutboundSad`](super::OutboundSad).
    keys: Vec<Lodging>,
    /// The slot of the first entry.
    first: usize,
    slots: usize,
    live: usize,
}

#[expect(clippy::large_enum_variant, reason = "the table is to hold the SAs, not pointers to them")]
enum Entry {
    Free,
    /// An SPI that was given out and has no keys yet.
    Larval(Spi),
    Live(InboundSa),
}

impl Entry {
    /// Whether `spi` may be put here.
    fn is_free_for(&self, spi: Spi) -> bool {
        match self {
            Self::Free => true,
            Self::Larval(there) => *there == spi,
            Self::Live(_) => false,
        }
    }
}

/// What the table has for an SPI.
#[derive(Debug)]
pub enum Lookup<T> {
    /// An SA.
    Live(T),
    /// The SPI was given out and has no keys yet: a packet may wait.
    Larval,
    /// Nothing.
    Unknown,
}

impl InboundSad {
    /// An empty table of `slots` entries for the worker `core`. The addresses are taken now, the memory as it is used.
    pub fn new(core: CoreId, slots: usize) -> Self {
        Self::over(core, 0..slots)
    }

    /// The same over a range of slots, for who knows in advance which SPIs there will be.
    pub fn over(core: CoreId, slots: Range<usize>) -> Self {
        let (first, slots) = (slots.start, slots.len().min(MAX_SLOTS));
        let (entries, keys) =
            (large_pages::with_capacity(slots), large_pages::with_capacity(slots));
        Self { core, entries, keys, first, slots, live: 0 }
    }

    /// Where its SAs lie, and their keys, by slot.
    pub fn extents(&self) -> [Extent; 2] {
        [Extent::of(&self.entries), Extent::of(&self.keys)]
    }

    /// Makes `spi` known as larval. Repeating it changes nothing.
    ///
    /// # Errors
    ///
    /// [`SadError`]; [`SadError::InUse`] also when the SA is there already.
    pub fn reserve(&mut self, spi: Spi) -> Result<(), SadError> {
        let (entry, _) = self.entry(spi)?;
        if !entry.is_free_for(spi) {
            return Err(SadError::InUse);
        }
        *entry = Entry::Larval(spi);
        Ok(())
    }

    /// Adds an SA under its SPI, which may be larval or unknown.
    ///
    /// # Errors
    ///
    /// The SA comes back with the reason.
    pub fn insert(&mut self, sa: Box<InboundSa>) -> Result<(), (SadError, Box<InboundSa>)> {
        let mut sa = Some(*sa);
        match (self.insert_from(&mut sa), sa) {
            (Err(error), Some(sa)) => Err((error, Box::new(sa))),
            _ => Ok(()),
        }
    }

    /// The same for who gives memory back elsewhere: the SA is taken out of `from`, if it is added, and what it leaves over is returned.
    ///
    /// # Errors
    ///
    /// The reason. [`SadError::InUse`] also for no SA.
    pub fn insert_from(&mut self, from: &mut Option<InboundSa>) -> Result<Option<Spent>, SadError> {
        let spi = from.as_ref().ok_or(SadError::InUse)?.spi();
        let (entry, key) = self.entry(spi)?;
        if !entry.is_free_for(spi) {
            return Err(SadError::InUse);
        }
        if let Some(sa) = from.take() {
            *entry = Entry::Live(sa);
        }
        let spent = match entry {
            Entry::Live(sa) => sa.settle(key),
            Entry::Free | Entry::Larval(_) => None,
        };
        self.live += 1;
        Ok(spent)
    }

    /// Forgets an SPI, larval or live, and removes the SA where it lies, so that nothing of its key is left; whether there was one.
    pub fn remove(&mut self, spi: Spi) -> bool {
        let place = self.place(spi);
        let (entry, key) = (self.entries.get_mut(place), self.keys.get_mut(place));
        let (Some(entry), Some(key)) = (entry, key) else { return false };
        let (is_it, is_live) = match entry {
            Entry::Free => (false, false),
            Entry::Larval(there) => (*there == spi, false),
            Entry::Live(sa) => (sa.spi() == spi, true),
        };
        if is_it {
            *entry = Entry::Free;
            key.clear();
        }
        self.live -= usize::from(is_it && is_live);
        is_it && is_live
    }

    /// Asks for what a packet needs first of the SA that its SPI stands for. Nothing has to be known of it.
    #[inline(always)]
    pub fn bring(&self, spi: u32) {
        if let Some(entry) = self.entries.get(self.place(Spi::for_known_answer(spi))) {
            InboundSa::bring_in(entry);
        }
    }

    /// Asks for what the SA in `slot` has carried.
    #[inline]
    pub fn prefetch_usage(&self, slot: Slot) {
        if let Some(entry) = self.entries.get(self.at(slot)) {
            InboundSa::prefetch_usage_in(entry);
        }
    }

    /// The SA in `slot`, whatever its SPI is.
    #[inline]
    pub fn in_slot(&self, slot: Slot) -> Option<&InboundSa> {
        match self.entries.get(self.at(slot))? {
            Entry::Live(sa) => Some(sa),
            Entry::Free | Entry::Larval(_) => None,
        }
    }

    /// Looks an SPI up as it stands in a packet.
    #[inline]
    pub fn lookup(&self, spi: u32) -> Lookup<&InboundSa> {
        // A reserved number is in no entry.
        let spi = Spi::for_known_answer(spi);
        match self.entries.get(self.place(spi)) {
            Some(Entry::Live(sa)) if sa.spi() == spi => Lookup::Live(sa),
            Some(Entry::Larval(there)) if *there == spi => Lookup::Larval,
            _ => Lookup::Unknown,
        }
    }

    /// The SA of `spi`, to be changed.
    #[inline]
    pub fn get_mut(&mut self, spi: Spi) -> Option<&mut InboundSa> {
        let place = self.place(spi);
        match self.entries.get_mut(place) {
            Some(Entry::Live(sa)) if sa.spi() == spi => Some(sa),
            _ => None,
        }
    }

    /// The SA of `spi`, with its key.
    #[inline(always)]
    pub(crate) fn settled(&self, spi: Spi) -> Option<Settled<'_, InboundSa>> {
        Some(Settled { sa: self.get(spi)?, lodging: self.keys.get(self.place(spi))? })
    }

    /// The SA of `spi`.
    #[inline]
    pub fn get(&self, spi: Spi) -> Option<&InboundSa> {
        match self.lookup(spi.get()) {
            Lookup::Live(sa) => Some(sa),
            Lookup::Larval | Lookup::Unknown => None,
        }
    }

    /// Every SA, in the order of slots.
    pub fn iter(&self) -> impl Iterator<Item = &InboundSa> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Live(sa) => Some(sa),
            Entry::Free | Entry::Larval(_) => None,
        })
    }

    /// Where the keys of a burst are, as far as the number of SAs tells.
    #[inline]
    pub(crate) fn keys(&self) -> Keys {
        keys_of(self.live)
    }

    /// How many SAs there are, larval SPIs not counted.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// The place of a slot's entry; of a slot before the first, one that is beyond all.
    #[inline]
    fn place(&self, spi: Spi) -> usize {
        self.at(spi.into())
    }

    #[inline]
    fn at(&self, slot: Slot) -> usize {
        (slot.0 as usize).wrapping_sub(self.first)
    }

    /// An entry, and where its key lies.
    fn entry(&mut self, spi: Spi) -> Result<(&mut Entry, &mut Lodging), SadError> {
        if spi.core() != self.core {
            return Err(SadError::OtherCore);
        }
        let slot = self.place(spi);
        if slot >= self.slots {
            return Err(SadError::OutOfRange);
        }
        if self.entries.len() <= slot {
            // Within the capacity, so nothing moves.
            self.entries.resize_with(slot + 1, || Entry::Free);
            self.keys.resize_with(slot + 1, || Lodging::EMPTY);
        }
        Ok((&mut self.entries[slot], &mut self.keys[slot]))
    }
}

impl core::fmt::Debug for InboundSad {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("InboundSad")
            .field("core", &self.core)
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}
