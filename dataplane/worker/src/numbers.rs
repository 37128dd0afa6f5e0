//! Maps from numbers that the control plane chose.

use core::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::collections::{HashMap, HashSet};

/// Hashes numbers that the control plane chose, which nobody outside can make collide.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        // Fibonacci hashing: the top bits, which the table looks at, depend on all of the number's.
        self.0 = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

type Build = BuildHasherDefault<NumberHasher>;

pub(crate) type NumberMap<K, V> = HashMap<K, V, Build>;
pub(crate) type NumberSet<K> = HashSet<K, Build>;

/// A map of up to millions, in parts: one that grows, or clears away what was removed from it, goes over its part alone. With a single
/// map of a million that is some ten milliseconds between two bursts.
#[derive(Debug)]
pub(crate) struct LargeMap<K, V>(Box<[NumberMap<K, V>]>);

/// Parts: of a million entries, a thousand each, which are gone over in some ten microseconds.
const PARTS: usize = 1 << 10;

impl<K: Hash + Eq, V> LargeMap<K, V> {
    fn index(key: &K) -> usize {
        // Other bits than those by which a part finds the entry.
        (Build::default().hash_one(key) >> 16) as usize % PARTS
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.0[Self::index(key)].get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.0[Self::index(key)].get_mut(key)
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.0[Self::index(key)].remove(key)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().flat_map(HashMap::keys)
    }

    pub(crate) fn clear(&mut self) {
        self.0.iter_mut().for_each(HashMap::clear);
    }
}

impl<K: Hash + Eq, V: Default> LargeMap<K, V> {
    /// The value of a key, put there if there was none.
    pub(crate) fn or_default(&mut self, key: K) -> &mut V {
        self.0[Self::index(&key)].entry(key).or_default()
    }
}

impl<K, V> Default for LargeMap<K, V> {
    fn default() -> Self {
        Self((0..PARTS).map(|_| NumberMap::default()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// It is a map.
        #[test]
        fn a_large_map_is_a_map(steps in prop::collection::vec((any::<bool>(), 0u32..200, any::<u8>()), 0..400)) {
            let (mut large, mut map) = (LargeMap::<u32, u8>::default(), HashMap::new());
            for (adds, key, value) in steps {
                if adds {
                    *large.or_default(key) = value;
                    map.insert(key, value);
                } else {
                    prop_assert_eq!(large.remove(&key), map.remove(&key));
                }
                prop_assert_eq!(large.get(&key), map.get(&key));
                prop_assert_eq!(large.get_mut(&key).copied(), map.get(&key).copied());
                prop_assert_eq!(large.contains_key(&key), map.contains_key(&key));
            }
            let mut keys: Vec<_> = large.keys().copied().collect();
            let mut expected: Vec<_> = map.keys().copied().collect();
            keys.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(keys, expected);
            large.clear();
            prop_assert_eq!(large.keys().count(), 0);
        }
    }

    /// No part gets much more than its share, of numbers in a row and of multiples.
    #[test]
    fn parts_are_even() {
        for step in [1u64, 256, 1 << 20] {
            let mut counts = vec![0; PARTS];
            (0..64 * PARTS as u64)
                .for_each(|n| counts[LargeMap::<u64, ()>::index(&(n * step))] += 1);
            assert!(
                counts.iter().all(|count| *count < 2 * 64),
                "{step}: {:?}",
                counts.iter().max()
            );
        }
    }
}
