//! Whether a tuple may hold a pair of prefixes, without a look into its table.
//!
//! Most packets have no bucket in most tuples. A hash table answers that by a line of its control bytes and, where those look alike in
//! one of ten cases, by the entry, which with many policies is in no cache. Here it is one word, and one of fifty looks further.

use super::flow_cache::fold;
use core::hash::BuildHasher;

/// Bits for each pair: two are set.
const BITS: usize = 16;

/// A set that says "no", or "perhaps".
#[derive(Debug, Default)]
pub(super) struct Filter(Box<[u64]>);

/// What pairs are hashed by: random, so that who sends packets cannot make them look alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys([u64; 4]);

impl Default for Keys {
    fn default() -> Self {
        let random = std::hash::RandomState::new();
        Self([0u8, 1, 2, 3].map(|n| random.hash_one(n)))
    }
}

impl Keys {
    /// Of the words of a pair. The last step is of no word: after one multiplication numbers that follow each other still do with one key in
    /// a hundred, and half of the strangers were let through.
    #[inline(always)]
    pub(super) fn hash<const N: usize>(&self, words: [u64; N]) -> u64 {
        let [a, b, c, d] = self.0;
        fold(words.into_iter().fold(a, |hash, word| fold(hash ^ word, b)) ^ c, d)
    }
}

impl Filter {
    /// Of the hashes of all pairs.
    pub(super) fn of(hashes: impl ExactSizeIterator<Item = u64>) -> Self {
        let words = (hashes.len() * BITS).div_ceil(u64::BITS as usize).next_power_of_two();
        let mut filter = Self(vec![0; words].into());
        for hash in hashes {
            let (word, bits) = filter.place(hash);
            filter.0[word] |= bits;
        }
        filter
    }

    /// Whether it may be there.
    #[inline(always)]
    pub(super) fn may_have(&self, hash: u64) -> bool {
        let (word, bits) = self.place(hash);
        self.0.get(word).is_some_and(|word| word & bits == bits)
    }

    #[inline(always)]
    fn place(&self, hash: u64) -> (usize, u64) {
        // A power of two.
        let word = (hash >> 32) as usize & self.0.len().wrapping_sub(1);
        (word, 1 << (hash & 63) | 1 << (hash >> 6 & 63))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_there_is_denied_and_little_else_is_let_through() {
        // With one multiplication less it is one key in a hundred that lets half of them through.
        for count in [1u64, 10, 1000, 100_000].repeat(100) {
            let keys = Keys::default();
            let hash = |n: u64| keys.hash([n << 8]);
            let all: Vec<u64> = (0..count).map(hash).collect();
            let filter = Filter::of(all.iter().copied());
            assert!(all.iter().all(|hash| filter.may_have(*hash)));
            let through = (count..count + 10_000).filter(|n| filter.may_have(hash(*n))).count();
            assert!(through < 800, "{through} of 10,000 strangers among {count}");
        }
        assert!(!Filter::default().may_have(0));
    }
}
