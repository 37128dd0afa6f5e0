//! Outbound SAs by slot.

use super::{SadError, Spent, keys_of};
use crate::aead::{Keys, Lodging};
use crate::esp::outbound::OutboundSa;
use crate::esp::suite::{Keyed, Settled};
use crate::large_pages::{self, Extent};
use crate::sa::Spi;

/// The place of an SA in its worker's table: of an outbound one given out by the control thread, of an inbound one in its SPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

impl From<Spi> for Slot {
    #[inline]
    fn from(spi: Spi) -> Self {
        // A slot has twenty bits.
        Self(spi.slot() as u32)
    }
}

/// The outbound SAs of one worker, by slot: nothing has to be read to know where one is. The table takes memory as far as slots are
/// used, and never moves an SA that is in it. Which policy a packet matched and which of its SAs it takes is decided
/// before, because that SA may be another worker's: [`OutboundSa::carries`] says whether it fits.
pub struct OutboundSad {
    entries: Vec<Option<OutboundSa>>,
    /// Of the same slots. Beside and not among the entries, so that what packets need lies close together: the less memory it is strewn over,
    /// the fewer translations of addresses it takes.
    keys: Vec<Lodging>,
    slots: usize,
    live: usize,
}

impl OutboundSad {
    /// An empty table for `slots` SAs. The addresses are taken now, the memory as it is used.
    pub fn new(slots: usize) -> Self {
        let (entries, keys) =
            (large_pages::with_capacity(slots), large_pages::with_capacity(slots));
        Self { entries, keys, slots, live: 0 }
    }

    /// Where its SAs lie, and their keys, by slot.
    pub fn extents(&self) -> [Extent; 2] {
        [Extent::of(&self.entries), Extent::of(&self.keys)]
    }

    /// Puts an SA into a free slot.
    ///
    /// # Errors
    ///
    /// The SA comes back with the reason.
    pub fn insert(
        &mut self,
        slot: Slot,
        sa: Box<OutboundSa>,
    ) -> Result<(), (SadError, Box<OutboundSa>)> {
        let mut sa = Some(*sa);
        match (self.insert_from(slot, &mut sa), sa) {
            (Err(error), Some(sa)) => Err((error, Box::new(sa))),
            _ => Ok(()),
        }
    }

    /// The same for who gives memory back elsewhere: the SA is taken out of `from`, if it is put there, and what it leaves over is
    /// returned.
    ///
    /// # Errors
    ///
    /// The reason. [`SadError::InUse`] also for no SA.
    pub fn insert_from(
        &mut self,
        slot: Slot,
        from: &mut Option<OutboundSa>,
    ) -> Result<Option<Spent>, SadError> {
        let at = slot.0 as usize;
        if at >= self.slots {
            return Err(SadError::OutOfRange);
        }
        if self.entries.len() <= at {
            // Within the capacity, so nothing moves.
            self.entries.resize_with(at + 1, || None);
            self.keys.resize_with(at + 1, || Lodging::EMPTY);
        }
        let (entry, key) = (&mut self.entries[at], &mut self.keys[at]);
        if entry.is_some() {
            return Err(SadError::InUse);
        }
        let sa = entry.insert(from.take().ok_or(SadError::InUse)?);
        self.live += 1;
        Ok(sa.settle(key))
    }

    /// Removes the SA in `slot`, where it lies, so that nothing of its key is left; whether there was one.
    pub fn remove(&mut self, slot: Slot) -> bool {
        let at = slot.0 as usize;
        let entry = self.entries.get_mut(at).filter(|entry| entry.is_some());
        let (Some(entry), Some(key)) = (entry, self.keys.get_mut(at)) else { return false };
        *entry = None;
        key.clear();
        self.live -= 1;
        true
    }

    /// Asks for what a packet needs first of the SA in `slot`. Nothing has to be known of it.
    #[inline(always)]
    pub fn bring(&self, slot: Slot) {
        if let Some(entry) = self.entries.get(slot.0 as usize) {
            OutboundSa::bring_in(entry);
        }
    }

    /// Asks for what the SA in `slot` has carried.
    #[inline]
    pub fn prefetch_usage(&self, slot: Slot) {
        if let Some(entry) = self.entries.get(slot.0 as usize) {
            OutboundSa::prefetch_usage_in(entry);
        }
    }

    /// The SA in `slot`.
    #[inline]
    pub fn get(&self, slot: Slot) -> Option<&OutboundSa> {
        self.entries.get(slot.0 as usize)?.as_ref()
    }

    /// The SA in `slot`, with its key.
    #[inline(always)]
    pub(crate) fn settled(&self, slot: Slot) -> Option<Settled<'_, OutboundSa>> {
        Some(Settled { sa: self.get(slot)?, lodging: self.keys.get(slot.0 as usize)? })
    }

    /// The SA in `slot`, to be changed.
    #[inline]
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut OutboundSa> {
        self.entries.get_mut(slot.0 as usize)?.as_mut()
    }

    /// Every SA with its slot.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &OutboundSa)> {
        (0..).map(Slot).zip(&self.entries).filter_map(|(slot, sa)| Some((slot, sa.as_ref()?)))
    }

    /// Where the keys of a burst are, as far as the number of SAs tells.
    #[inline]
    pub(crate) fn keys(&self) -> Keys {
        keys_of(self.live)
    }

    /// How many SAs there are.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }
}

impl core::fmt::Debug for OutboundSad {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("OutboundSad").field("live", &self.live).finish_non_exhaustive()
    }
}
