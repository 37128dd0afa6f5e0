//! What a worker remembers of its flows, so that the database is asked once per flow.

use super::{Match, Spd};
use crate::flow::FlowKey;
use core::hash::BuildHasher;

/// Entries per bucket: two flows that collide do not push each other out.
const WAYS: usize = 4;

/// A bounded cache of lookups, one per worker and direction. It never grows; a full bucket forgets its
/// oldest entry. A change of the database makes every entry stale at once, by its generation.
#[derive(Debug)]
pub struct FlowCache {
    buckets: Box<[Bucket]>,
    hasher: std::hash::RandomState,
    hits: u64,
    misses: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
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
        Self {
            buckets: vec![Bucket { next: 0, entries: [None; WAYS] }; buckets].into(),
            hasher: std::hash::RandomState::new(),
            hits: 0,
            misses: 0,
        }
    }

    /// The answer of `spd` to `key`, from memory where it is known.
    #[inline]
    pub fn lookup(&mut self, spd: &Spd, key: &FlowKey) -> Option<Match> {
        let at = self.hasher.hash_one(key) as usize & (self.buckets.len() - 1);
        let bucket = &mut self.buckets[at];
        for entry in bucket.entries.iter().flatten() {
            if entry.generation == spd.generation() && entry.key == *key {
                self.hits += 1;
                return entry.found;
            }
        }
        self.misses += 1;
        let found = spd.lookup(key);
        bucket.entries[usize::from(bucket.next)] =
            Some(Entry { key: *key, generation: spd.generation(), found });
        bucket.next = (bucket.next + 1) % WAYS as u8;
        found
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
