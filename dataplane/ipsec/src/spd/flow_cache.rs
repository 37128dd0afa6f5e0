//! What a worker remembers of its flows, so that the database is asked once per flow.

use super::{Match, Spd, bits};
use crate::flow::FlowKey;
use core::hash::BuildHasher;

/// Entries per bucket: flows that collide do not push each other out at once.
const WAYS: usize = 4;

/// A bounded cache of lookups, one per worker and direction. It never grows; a full bucket forgets its
/// oldest entry. A change of the database makes every entry stale at once, by its generation.
#[derive(Debug)]
pub struct FlowCache {
    buckets: Box<[Bucket]>,
    /// Random, so that nobody outside can aim flows at one bucket.
    keys: [u64; 4],
    hits: u64,
    misses: u64,
}

#[derive(Clone, Debug)]
struct Bucket {
    /// Part of each entry's hash, so that entries of other flows are not looked at; 0 where there is none.
    tags: [u32; WAYS],
    next: u8,
    entries: [Option<Entry>; WAYS],
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: FlowKey,
    generation: u64,
    found: Option<Match>,
}

impl FlowCache {
    /// Room for at least `flows` flows, all of it taken now.
    pub fn new(flows: usize) -> Self {
        let buckets = flows.div_ceil(WAYS).next_power_of_two();
        let random = std::hash::RandomState::new();
        Self {
            buckets: vec![Bucket { tags: [0; WAYS], next: 0, entries: [None; WAYS] }; buckets]
                .into(),
            keys: [0u8, 1, 2, 3].map(|n| random.hash_one(n)),
            hits: 0,
            misses: 0,
        }
    }

    /// The answer of `spd` to `key`, from memory where it is known.
    #[inline]
    pub fn lookup(&mut self, spd: &Spd, key: &FlowKey) -> Option<Match> {
        let hash = self.hash(key);
        let tag = (hash >> 32) as u32 | 1;
        let at = hash as usize & (self.buckets.len() - 1);
        let bucket = &mut self.buckets[at];
        for (found, entry) in bucket.tags.iter().zip(&bucket.entries) {
            if *found == tag
                && let Some(entry) = entry
                && entry.generation == spd.generation()
                && entry.key == *key
            {
                self.hits += 1;
                return entry.found;
            }
        }
        self.misses += 1;
        let found = spd.lookup(key);
        let way = usize::from(bucket.next);
        bucket.tags[way] = tag;
        bucket.entries[way] = Some(Entry { key: *key, generation: spd.generation(), found });
        bucket.next = (bucket.next + 1) % WAYS as u8;
        found
    }

    /// Three multiplications of 64 bits, folded. Not a cryptographic hash: its answers never leave, so that
    /// who does not know the keys sees nothing to learn them from.
    #[inline]
    fn hash(&self, key: &FlowKey) -> u64 {
        let [a, b, c, d] = self.keys;
        let (local, remote) = (bits(key.local), bits(key.remote));
        let (local_port, remote_port) = key.ports.unwrap_or_default();
        let rest = u64::from(key.protocol) << 40
            | u64::from(key.ports.is_some()) << 32
            | u64::from(local_port) << 16
            | u64::from(remote_port);
        let hash = fold(local as u64 ^ a, (local >> 64) as u64 ^ b);
        let hash = fold(hash ^ remote as u64 ^ c, (remote >> 64) as u64 ^ d);
        fold(hash ^ rest ^ a, hash ^ c)
    }

    /// Lookups answered from memory.
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// Lookups that asked the database.
    pub fn misses(&self) -> u64 {
        self.misses
    }
}

/// Both halves of the product.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
