//! Outbound SAs by the policy that they serve.

use super::SadError;
use crate::esp::outbound::OutboundSa;
use crate::flow::FlowKey;
use crate::selector::PolicyId;

/// The place of an outbound SA in its worker's table, given out by the control thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// The outbound SAs of one worker and which policies they serve.
///
/// A rekey inserts the new SA, binds it (from then on it is chosen) and later removes the old one: at no
/// moment is the policy without an SA.
pub struct OutboundSad {
    entries: Box<[Option<Entry>]>,
    /// By policy number, the slots bound to it, newest first.
    bindings: Box<[Vec<Slot>]>,
    live: usize,
}

struct Entry {
    sa: Box<OutboundSa>,
    /// What it is bound to, so that removing it looks nowhere else.
    policies: Vec<PolicyId>,
}

impl OutboundSad {
    /// An empty table for `slots` SAs and policy numbers below `policies`.
    pub fn new(slots: usize, policies: usize) -> Self {
        Self {
            entries: (0..slots).map(|_| None).collect(),
            bindings: (0..policies).map(|_| Vec::new()).collect(),
            live: 0,
        }
    }

    /// Puts an SA into a free slot. It carries nothing until it is bound.
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
                *entry = Some(Entry { sa, policies: Vec::new() });
                self.live += 1;
                Ok(())
            }
        }
    }

    /// Lets the SA of `slot` serve `policy`, before all that serve it now.
    ///
    /// # Errors
    ///
    /// [`SadError::OutOfRange`] for a policy number beyond the table or an empty slot.
    pub fn bind(&mut self, policy: PolicyId, slot: Slot) -> Result<(), SadError> {
        let entry = self.entries.get_mut(slot.0 as usize).and_then(Option::as_mut);
        let entry = entry.ok_or(SadError::OutOfRange)?;
        let bound = self.bindings.get_mut(policy.0 as usize).ok_or(SadError::OutOfRange)?;
        if !entry.policies.contains(&policy) {
            entry.policies.push(policy);
        }
        bound.retain(|&other| other != slot);
        bound.insert(0, slot);
        Ok(())
    }

    /// Ends that service.
    pub fn unbind(&mut self, policy: PolicyId, slot: Slot) {
        if let Some(bound) = self.bindings.get_mut(policy.0 as usize) {
            bound.retain(|&other| other != slot);
        }
        if let Some(Some(entry)) = self.entries.get_mut(slot.0 as usize) {
            entry.policies.retain(|&other| other != policy);
        }
    }

    /// Takes an SA out of its slot and all its bindings, and gives it back, to be dropped off the packet
    /// path.
    pub fn remove(&mut self, slot: Slot) -> Option<Box<OutboundSa>> {
        let Entry { sa, policies } = self.entries.get_mut(slot.0 as usize)?.take()?;
        self.live -= 1;
        for policy in policies {
            if let Some(bound) = self.bindings.get_mut(policy.0 as usize) {
                bound.retain(|&other| other != slot);
            }
        }
        Some(sa)
    }

    /// The newest SA of `policy` that may carry this traffic. `None`: an acquire is due.
    #[inline]
    pub fn resolve(&self, policy: PolicyId, key: &FlowKey) -> Option<Slot> {
        let bound = self.bindings.get(policy.0 as usize)?;
        bound.iter().copied().find(|&slot| self.get(slot).is_some_and(|sa| sa.carries(key)))
    }

    /// The SA in `slot`.
    #[inline]
    pub fn get(&self, slot: Slot) -> Option<&OutboundSa> {
        self.entries.get(slot.0 as usize)?.as_ref().map(|entry| &*entry.sa)
    }

    /// The SA in `slot`, to be changed.
    #[inline]
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut OutboundSa> {
        self.entries.get_mut(slot.0 as usize)?.as_mut().map(|entry| &mut *entry.sa)
    }

    /// Every SA with its slot.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &OutboundSa)> {
        (0..)
            .map(Slot)
            .zip(&self.entries)
            .filter_map(|(slot, entry)| Some((slot, &*entry.as_ref()?.sa)))
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
