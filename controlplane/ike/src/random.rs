//! The engine's own random numbers: SPIs, nonces, jitter and cookie secrets.

use aws_lc_rs::hmac;
use core::time::Duration;
use zeroize::Zeroizing;

/// A generator with a secret key that is replaced after every use, so that what the engine gave out earlier cannot be
/// recomputed from a later state (fast key erasure). HMAC-SHA-256 is its one primitive.
pub(crate) struct Random {
    key: Zeroizing<[u8; 32]>,
}

impl Random {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { key: Zeroizing::new(seed) }
    }

    /// Fills `out` with unpredictable octets.
    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key.as_ref());
        for (counter, chunk) in out.chunks_mut(32).enumerate() {
            // Chunks are counted from one: zero makes the next key.
            let block = hmac::sign(&key, &(counter as u64 + 1).to_be_bytes());
            chunk.copy_from_slice(&block.as_ref()[..chunk.len()]);
        }
        self.key.copy_from_slice(hmac::sign(&key, &0u64.to_be_bytes()).as_ref());
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// A duration from zero to below `limit` (or zero).
    pub(crate) fn below(&mut self, limit: Duration) -> Duration {
        let fraction = u64::from(u32::from_be_bytes(self.array()));
        let nanos = limit.as_nanos().saturating_mul(u128::from(fraction)) >> 32;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// A number from zero to `limit`, that included.
    pub(crate) fn up_to(&mut self, limit: u64) -> u64 {
        let fraction = u128::from(u64::from_be_bytes(self.array()));
        // Below 2^64 * 2^64 by the last factor; the quotient is at most `limit`.
        u64::try_from(fraction.saturating_mul(u128::from(limit) + 1) >> 64).unwrap_or(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_no_number_twice() {
        let (mut a, mut b) = (Random::new([7; 32]), Random::new([7; 32]));
        let first: [u8; 72] = a.array();
        assert_eq!(first, b.array::<72>());
        assert_ne!(first[..32], first[32..64]);
        assert_ne!(first[..32], a.array::<32>());
    }

    #[test]
    fn up_to_reaches_both_ends() {
        let mut random = Random::new([1; 32]);
        let mut seen = [false; 4];
        for _ in 0..200 {
            seen[random.up_to(3) as usize] = true;
        }
        assert_eq!(seen, [true; 4]);
        assert_eq!(random.up_to(0), 0);
        random.up_to(u64::MAX);
    }

    #[test]
    fn below_stays_below() {
        let mut random = Random::new([1; 32]);
        for _ in 0..1000 {
            assert!(random.below(Duration::from_secs(10)) < Duration::from_secs(10));
        }
        assert_eq!(random.below(Duration::ZERO), Duration::ZERO);
    }
}
