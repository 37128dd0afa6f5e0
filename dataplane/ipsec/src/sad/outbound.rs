//! Outbound SAs by slot.

use super::SadError;
use crate::esp::outbound::OutboundSa;

/// The place of an outbound SA in its worker's table, given out by the control thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// The outbound SAs of one worker. Which policy a packet matched and which of its SAs it takes is decided
/// before, because that SA may be another worker's: [`OutboundSa::carries`] says whether it fits.
pub struct OutboundSad {
    entries: Box<[Option<Box<OutboundSa>>]>,
    live: usize,
}

impl OutboundSad {
    /// An empty table for `slots` SAs.
    pub fn new(slots: usize) -> Self {
        Self { entries: (0..slots).map(|_| None).collect(), live: 0 }
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
        match self.entries.get_mut(slot.0 as usize) {
            None => Err((SadError::OutOfRange, sa)),
            Some(Some(_)) => Err((SadError::InUse, sa)),
            Some(entry) => {
                *entry = Some(sa);
                self.live += 1;
                Ok(())
            }
        }
    }

    /// Takes an SA out of its slot, to be dropped off the packet path.
    pub fn remove(&mut self, slot: Slot) -> Option<Box<OutboundSa>> {
        let sa = self.entries.get_mut(slot.0 as usize)?.take()?;
        self.live -= 1;
        Some(sa)
    }

    /// The SA in `slot`.
    #[inline]
    pub fn get(&self, slot: Slot) -> Option<&OutboundSa> {
        self.entries.get(slot.0 as usize)?.as_deref()
    }

    /// The SA in `slot`, to be changed.
    #[inline]
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut OutboundSa> {
        self.entries.get_mut(slot.0 as usize)?.as_deref_mut()
    }

    /// Every SA with its slot.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &OutboundSa)> {
        (0..).map(Slot).zip(&self.entries).filter_map(|(slot, sa)| Some((slot, sa.as_deref()?)))
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
