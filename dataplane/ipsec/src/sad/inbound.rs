//! Inbound SAs by SPI.

use super::SadError;
use crate::esp::inbound::InboundSa;
use crate::sa::Spi;
use crate::spi::{CoreId, MAX_SLOTS};

/// The inbound table of one worker. It never grows: inserting moves one pointer.
pub struct InboundSad {
    core: CoreId,
    entries: Box<[Entry]>,
    live: usize,
}

struct Entry {
    /// `None` when the slot is empty.
    spi: Option<Spi>,
    /// `None` for a larval SPI.
    sa: Option<Box<InboundSa>>,
}

// Four to a cache line: a lookup touches one line of the table, whatever its size.
const _: () = assert!(size_of::<Entry>() == 16);

impl Entry {
    /// Whether `spi` may be put here.
    fn is_free_for(&self, spi: Spi) -> bool {
        self.sa.is_none() && self.spi.is_none_or(|there| there == spi)
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
    /// An empty table of `slots` entries for the worker `core`.
    pub fn new(core: CoreId, slots: usize) -> Self {
        let entries = (0..slots.min(MAX_SLOTS)).map(|_| Entry { spi: None, sa: None }).collect();
        Self { core, entries, live: 0 }
    }

    /// Makes `spi` known as larval. Repeating it changes nothing.
    ///
    /// # Errors
    ///
    /// [`SadError`]; [`SadError::InUse`] also when the SA is there already.
    pub fn reserve(&mut self, spi: Spi) -> Result<(), SadError> {
        let entry = self.entry(spi)?;
        if !entry.is_free_for(spi) {
            return Err(SadError::InUse);
        }
        entry.spi = Some(spi);
        Ok(())
    }

    /// Adds an SA under its SPI, which may be larval or unknown.
    ///
    /// # Errors
    ///
    /// The SA comes back with the reason.
    pub fn insert(&mut self, sa: Box<InboundSa>) -> Result<(), (SadError, Box<InboundSa>)> {
        let spi = sa.spi();
        match self.entry(spi) {
            Err(error) => Err((error, sa)),
            Ok(entry) if !entry.is_free_for(spi) => Err((SadError::InUse, sa)),
            Ok(entry) => {
                *entry = Entry { spi: Some(spi), sa: Some(sa) };
                self.live += 1;
                Ok(())
            }
        }
    }

    /// Forgets an SPI, larval or live, and gives the SA back, to be dropped off the packet path.
    pub fn remove(&mut self, spi: Spi) -> Option<Box<InboundSa>> {
        let entry = self.entry(spi).ok().filter(|entry| entry.spi == Some(spi))?;
        entry.spi = None;
        let sa = entry.sa.take();
        self.live -= usize::from(sa.is_some());
        sa
    }

    /// Looks an SPI up as it stands in a packet.
    #[inline]
    pub fn lookup(&self, spi: u32) -> Lookup<&InboundSa> {
        // A reserved number is in no entry.
        let spi = Spi::for_known_answer(spi);
        match self.entries.get(spi.slot()) {
            Some(Entry { spi: found, sa }) if *found == Some(spi) => match sa {
                Some(sa) => Lookup::Live(sa),
                None => Lookup::Larval,
            },
            _ => Lookup::Unknown,
        }
    }

    /// The SA of `spi`, to be changed.
    #[inline]
    pub fn get_mut(&mut self, spi: Spi) -> Option<&mut InboundSa> {
        self.entries
            .get_mut(spi.slot())
            .filter(|entry| entry.spi == Some(spi))
            .and_then(|entry| entry.sa.as_deref_mut())
    }

    /// The SA of `spi`.
    pub fn get(&self, spi: Spi) -> Option<&InboundSa> {
        match self.lookup(spi.get()) {
            Lookup::Live(sa) => Some(sa),
            Lookup::Larval | Lookup::Unknown => None,
        }
    }

    /// Every SA, in the order of slots.
    pub fn iter(&self) -> impl Iterator<Item = &InboundSa> {
        self.entries.iter().filter_map(|entry| entry.sa.as_deref())
    }

    /// How many SAs there are, larval SPIs not counted.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    fn entry(&mut self, spi: Spi) -> Result<&mut Entry, SadError> {
        if spi.core() != self.core {
            return Err(SadError::OtherCore);
        }
        self.entries.get_mut(spi.slot()).ok_or(SadError::OutOfRange)
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
