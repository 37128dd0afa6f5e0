//! What a worker remembers of its flows, so that databases are asked once per flow and not once per packet.

use crate::flow::{FlowId, FlowIdV4};
use crate::large_pages;
use crate::prefetch::{bring, prefetch};
use core::hash::BuildHasher;

/// A bounded cache of what was found out about flows, one per worker. It never grows: a flow has two buckets of two places, and where
/// all are taken another one moves to its other bucket, so that none is forgotten before well over half of all places are taken (cuckoo
/// hashing). Every entry has the version of what it was made from; those of another version are not found.
///
/// `V` is what is remembered: with 20 bytes or less, an entry is one cache line.
#[derive(Debug)]
pub struct FlowCache<V> {
    buckets: Box<[Bucket<V>]>,
    /// Random, so that nobody outside can aim flows at one bucket.
    keys: [u64; 4],
}

type Bucket<V> = [Entry<V>; 2];

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Entry<V> {
    addresses: [u64; 4],
    /// Of the flow, and the context.
    rest: u64,
    /// 0 where there is none.
    version: u32,
    value: V,
}

/// Where a flow is remembered, if it is.
#[derive(Clone, Copy, Debug)]
pub struct Place(u64);

/// From whose view a flow is judged: the same addresses from the host, from a port and out of a tunnel are different questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context(pub u8);

/// Between the destination port and the protocol of [`FlowId`] there is room.
const CONTEXT_SHIFT: u32 = 16;

/// Entries that move for a new one, at most. With half of the places taken, which is what a worker's SAs take, one bucket in five is
/// full, and so none is after so many; with two thirds taken one new entry in 100,000 pushes another one out. In a full cache each new one
/// costs so many lines.
const MOVES: usize = 16;

impl<V: Copy + Default> FlowCache<V> {
    /// Room for at least `flows` flows, all of it taken now.
    pub fn new(flows: usize) -> Self {
        let random = std::hash::RandomState::new();
        let empty = Entry { addresses: [0; 4], rest: 0, version: 0, value: V::default() };
        let buckets = flows.div_ceil(2).next_power_of_two();
        let mut table = large_pages::with_capacity(buckets);
        table.resize(buckets, [empty; 2]);
        Self { buckets: table.into(), keys: [0u8, 1, 2, 3].map(|n| random.hash_one(n)) }
    }

    /// Where a flow would be, and asks for that memory.
    #[inline]
    pub fn place(&self, id: &FlowId) -> Place {
        let place = Place(self.hash(id));
        prefetch(&self.buckets[self.indices(place)[0]]);
        place
    }

    /// What is remembered of a flow since `version`, which is not 0.
    #[inline]
    pub fn get(&self, place: Place, id: &FlowId, context: Context, version: u32) -> Option<&V> {
        let rest = id.rest | u64::from(context.0) << CONTEXT_SHIFT;
        let [first, second] = self.indices(place);
        let is_it =
            |e: &&Entry<V>| e.rest == rest && e.version == version && e.addresses == id.addresses;
        let entry = self.buckets[first].iter().find(is_it);
        entry.or_else(|| self.buckets[second].iter().find(is_it)).map(|e| &e.value)
    }

    /// Where a flow would be, without asking for that memory.
    #[inline]
    pub fn place_v4(&self, id: FlowIdV4) -> Place {
        Place(self.hash_v4(id))
    }

    /// Asks for the memory of a place.
    #[inline]
    pub fn prefetch(&self, place: Place) {
        prefetch(&self.buckets[self.indices(place)[0]]);
    }

    /// The same for one of many.
    #[inline]
    pub fn bring(&self, place: Place) {
        bring(&self.buckets[self.indices(place)[0]]);
    }

    /// As [`FlowCache::get`], as far as that was asked for by [`FlowCache::bring`]. Where that is nothing, it asks for the rest.
    #[inline]
    pub fn get_near_v4(
        &self,
        place: Place,
        id: FlowIdV4,
        context: Context,
        version: u32,
    ) -> Option<&V> {
        let [first, second] = self.indices(place);
        let found = self.find_v4(first, id, context, version);
        if found.is_none() {
            prefetch(&self.buckets[second]);
        }
        found
    }

    /// As [`FlowCache::get`].
    #[inline]
    pub fn get_v4(&self, place: Place, id: FlowIdV4, context: Context, version: u32) -> Option<&V> {
        let [first, second] = self.indices(place);
        let found = self.find_v4(first, id, context, version);
        found.or_else(|| self.find_v4(second, id, context, version))
    }

    #[inline(always)]
    fn find_v4(&self, bucket: usize, id: FlowIdV4, context: Context, version: u32) -> Option<&V> {
        let rest = id.rest | u64::from(context.0) << CONTEXT_SHIFT;
        // With the IPv6 bit of `rest` clear, an entry's other addresses are zero.
        let is_it = |e: &&Entry<V>| {
            e.rest == rest && e.version == version && e.addresses[0] == id.addresses
        };
        self.buckets[bucket].iter().find(is_it).map(|e| &e.value)
    }

    /// Remembers something of a flow, in place of what was remembered before.
    pub fn insert(&mut self, place: Place, id: &FlowId, context: Context, version: u32, value: V) {
        let rest = id.rest | u64::from(context.0) << CONTEXT_SHIFT;
        let entry = Entry { addresses: id.addresses, rest, version, value };
        let indices = self.indices(place);
        let is_same = |e: &Entry<V>| e.rest == rest && e.addresses == id.addresses;
        let is_stale = |e: &Entry<V>| e.version != version;
        // Never twice: where it is, or else where there is room.
        for is_free in [&is_same as &dyn Fn(&Entry<V>) -> bool, &is_stale] {
            for at in indices {
                if let Some(free) = self.buckets[at].iter_mut().find(|e| is_free(e)) {
                    *free = entry;
                    return;
                }
            }
        }
        // Or else in place of the older of its first bucket, which moves to its other one, and so on.
        let [mut at, _] = indices;
        let mut homeless = entry;
        for _ in 0..MOVES {
            let [newer, older] = &mut self.buckets[at];
            // The new one itself stays.
            let out = if is_same(older) {
                newer
            } else {
                core::mem::swap(newer, older);
                newer
            };
            core::mem::swap(out, &mut homeless);
            let [first, second] = self.indices(self.place_of(&homeless));
            at = if at == first { second } else { first };
            if let Some(free) = self.buckets[at].iter_mut().find(|e| is_stale(e)) {
                *free = homeless;
                return;
            }
        }
    }

    /// The place of the flow that an entry is about.
    fn place_of(&self, entry: &Entry<V>) -> Place {
        let rest = entry.rest & !(u64::from(u8::MAX) << CONTEXT_SHIFT);
        Place(self.hash(&FlowId { addresses: entry.addresses, rest }))
    }

    /// The two buckets of a place, which may be one.
    #[inline]
    fn indices(&self, Place(hash): Place) -> [usize; 2] {
        [hash, hash >> 32].map(|hash| hash as usize & (self.buckets.len() - 1))
    }

    /// Multiplications of 64 by 64 bits, folded: two with IPv4, four with IPv6. Not a cryptographic hash: its answers never
    /// leave, so that who does not know the keys sees nothing to learn them from.
    #[inline]
    fn hash(&self, id: &FlowId) -> u64 {
        if let Some(id) = id.v4() {
            return self.hash_v4(id);
        }
        let [a, b, c, d] = self.keys;
        let FlowId { addresses: [source, source_low, destination, destination_low], rest } = *id;
        let mut hash = fold(source ^ a, rest ^ b);
        hash = fold(hash ^ source_low ^ d, destination ^ destination_low.rotate_left(32) ^ c);
        hash = fold(hash ^ destination ^ b, destination_low ^ a);
        fold(hash ^ c, d)
    }

    #[inline(always)]
    fn hash_v4(&self, FlowIdV4 { addresses, rest }: FlowIdV4) -> u64 {
        let [a, b, c, d] = self.keys;
        fold(fold(addresses ^ a, rest ^ b) ^ c, d)
    }
}

/// Both halves of the product.
#[inline(always)]
pub(super) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
