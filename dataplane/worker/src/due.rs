//! Which SAs have usage to publish.

use ipsec::sad::Slot;

/// An SA whose usage has changed since it was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Inbound(Slot),
    Outbound(Slot),
}

/// Slots in a word of the set.
const WORD: usize = u64::BITS as usize;

/// SAs whose usage has changed, each once. They are taken in the order of their slots, round and round, so that none waits for more than one round; and
/// as those that are published together lie side by side, they share pages: with a million SAs the translation of addresses is what takes the time.
#[derive(Debug)]
pub(crate) struct DueSas {
    /// A bit for each slot, as far as slots were used: a word of inbound SAs, one of outbound SAs, and so on.
    bits: Vec<u64>,
    /// The bits that are set.
    count: usize,
    /// The bit to go on from.
    next: usize,
}

impl DueSas {
    /// None yet, of two tables of so many slots.
    pub(crate) fn new(slots: usize) -> Self {
        Self { bits: Vec::with_capacity(2 * slots.div_ceil(WORD)), count: 0, next: 0 }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Adds one. Of a slot that no table has there is nothing to publish.
    #[inline]
    pub(crate) fn add(&mut self, due: Due) {
        let (Due::Inbound(Slot(slot)) | Due::Outbound(Slot(slot))) = due;
        let word = 2 * (slot as usize / WORD) + usize::from(matches!(due, Due::Outbound(_)));
        if word >= self.bits.len() {
            if word >= self.bits.capacity() {
                return;
            }
            self.bits.resize(word + 1, 0);
        }
        if let Some(word) = self.bits.get_mut(word) {
            let mask = 1 << (slot as usize % WORD);
            self.count += usize::from(*word & mask == 0);
            *word |= mask;
        }
    }

    /// Takes the next one, looking at no more than so many `words`.
    pub(crate) fn take(&mut self, words: &mut usize) -> Option<Due> {
        while *words > 0 && self.count > 0 {
            let at = self.next / WORD;
            let Some(word) = self.bits.get_mut(at) else {
                self.next = 0;
                continue;
            };
            let later = *word & (u64::MAX << (self.next % WORD));
            if later == 0 {
                *words -= 1;
                self.next = (at + 1) * WORD;
                continue;
            }
            let bit = later.trailing_zeros() as usize;
            *word &= !(1 << bit);
            self.count -= 1;
            self.next = at * WORD + bit + 1;
            let slot = Slot((at / 2 * WORD + bit) as u32);
            return Some(match at % 2 {
                0 => Due::Inbound(slot),
                _ => Due::Outbound(slot),
            });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Beside a set of numbers that are taken in their order, round and round.
        #[test]
        fn each_is_taken_once_in_its_turn(
            steps in prop::collection::vec((any::<bool>(), 0u32..200, 0usize..4), 1..200),
        ) {
            let mut due = DueSas::new(200);
            // The slot's number by 64, the way, the slot; and what comes after the last one that was taken.
            let (mut slow, mut after) = (BTreeSet::new(), (0, false, 0));
            for (is_outbound, slot, takes) in steps {
                due.add(if is_outbound { Due::Outbound(Slot(slot)) } else { Due::Inbound(Slot(slot)) });
                slow.insert((slot / 64, is_outbound, slot));
                prop_assert_eq!(due.len(), slow.len());
                for _ in 0..takes {
                    let next = slow.range(after..).next().or(slow.first()).copied();
                    let taken = due.take(&mut { usize::MAX }).map(|due| match due {
                        Due::Inbound(Slot(slot)) => (slot / 64, false, slot),
                        Due::Outbound(Slot(slot)) => (slot / 64, true, slot),
                    });
                    prop_assert_eq!(taken, next);
                    if let Some((block, way, slot)) = next {
                        slow.remove(&(block, way, slot));
                        after = (block, way, slot + 1);
                    }
                }
            }
        }
    }

    #[test]
    fn it_looks_at_so_many_words() {
        let mut due = DueSas::new(64 * 10);
        for slot in [0, 63, 64 * 5] {
            due.add(Due::Outbound(Slot(slot)));
        }
        let mut words = 1;
        assert_eq!((due.take(&mut words), words), (None, 0), "of inbound SAs");
        let mut words = 5;
        assert_eq!((due.take(&mut words), words), (Some(Due::Outbound(Slot(0))), 5));
        assert_eq!((due.take(&mut words), words), (Some(Due::Outbound(Slot(63))), 5));
        assert_eq!((due.take(&mut words), words), (None, 0));
        let mut words = 9;
        assert_eq!((due.take(&mut words), words), (Some(Due::Outbound(Slot(320))), 5));
        assert_eq!((due.take(&mut words), words), (None, 5), "there is none left");
    }

    #[test]
    fn a_slot_of_no_table_is_left_out() {
        let mut due = DueSas::new(64);
        let capacity = due.bits.capacity();
        due.add(Due::Outbound(Slot(1 << 20)));
        due.add(Due::Inbound(Slot(u32::MAX)));
        assert_eq!((due.len(), due.bits.capacity()), (0, capacity));
        assert_eq!(DueSas::new(0).take(&mut 9), None);
    }
}
