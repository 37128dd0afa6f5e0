//! A ring of packets by copy: slots that say where each lies, and memory of the ring's own, where one lies behind the other. So no frame
//! leaves its core, and whoever reads them reads on from where it was.
//!
//! ```text
//!   slots      mark, place, length │ mark, place, length │ …     behind the two words of a ring
//!                     │                      └──────┐
//!   chunks   ┌────────▼─────────────────────────────▼─────────┐ ┌─────────────── ─ ─
//!            │ packet │ packet │ packet             │ packet │ │ │ packet │ free
//!            └────────────────────────────────────────────────┘ └─────────────── ─ ─
//! ```
//!
//! Memory is cut into chunks. One is filled from its beginning, then another, and what has only packets that were given back is free. As
//! long as the receiver keeps up, the first [`NEAR`] octets are enough: memory that goes through the caches again and again costs
//! whatever else is in them.

use super::{Arc, Consumer, Heap, Memory, Ordering, Producer, UnsafeCell, heap_from};
use crate::umem::JUMBO;
use std::collections::VecDeque;

/// Octets that packets begin at a multiple of, and that are copied at a time: a line of the cache. An inner packet of 64 octets is one.
pub(crate) const GRANULE: usize = 64;

/// Octets that are used as long as they are enough (docs/handing-over.md).
const NEAR: usize = 1 << 20;

/// Granules of a chunk at least: those of the longest frame.
const LEAST: usize = JUMBO / GRANULE;

/// Chunks at least, as one that is being filled is not free before it is full, and at most, a bit each.
const CHUNKS: std::ops::RangeInclusive<usize> = 4..=64;

/// What a slot says of a packet.
#[derive(Clone, Copy, Debug)]
struct Place {
    mark: [u64; 2],
    /// Its first granule.
    first: u32,
    octets: u32,
}

#[derive(Debug)]
#[repr(C, align(64))]
struct Granule(UnsafeCell<[u8; GRANULE]>);

/// Where packets lie.
#[derive(Debug)]
struct Granules(Box<[Granule]>);

// SAFETY: shared by one sender and one receiver (`packets` makes one of each). The sender writes granules that no slot names which it has
// published and the receiver has not released; the receiver reads those of slots that it has found published and has not released. Both
// words are stored with Release and loaded with Acquire.
unsafe impl Sync for Granules {}

impl Granules {
    /// Those of a packet.
    #[inline(always)]
    fn at(&self, first: u32, octets: usize) -> &[Granule] {
        &self.0[first as usize..][..octets.div_ceil(GRANULE)]
    }
}

/// The end that packets are copied into.
#[derive(Debug)]
pub(crate) struct Sender {
    slots: Producer<Place, Heap<Place>>,
    granules: Arc<Granules>,
    /// Granules of a chunk.
    chunk: u32,
    /// The chunks that are used first,
    near: u64,
    /// and those that nothing is in, a bit each.
    free: u64,
    /// The chunk that is being filled,
    current: u32,
    /// where the next packet goes in it, and where it ends.
    next: u32,
    end: u32,
    /// The chunks before it, the oldest first, and the receiver's word when all of each is given back.
    filled: VecDeque<(u32, u32)>,
    /// The receiver's word as last asked for, bounded.
    given_back: u32,
}

/// A packet that is to be copied in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving<'a> {
    pub(crate) mark: [u64; 2],
    pub(crate) octets: usize,
    /// Its octets and whatever is behind them, which is copied up to the end of a granule, so that there is no rest; or no more than they.
    pub(crate) whole: &'a [u8],
}

/// The end where they are looked at.
#[derive(Debug)]
pub(crate) struct Receiver {
    slots: Consumer<Place, Heap<Place>>,
    granules: Arc<Granules>,
}

/// Makes a ring for so many packets (at most 2¹⁶, rounded up to a power of two) of so many octets together (at most 2³⁰, and at least four
/// jumbo frames).
pub(crate) fn packets(packets: u32, octets: u32) -> (Sender, Receiver) {
    let granules = octets.min(1 << 30) as usize / GRANULE;
    let chunk = granules.div_ceil(*CHUNKS.end()).max(LEAST);
    let chunks = (granules / chunk).max(*CHUNKS.start());
    packets_from(packets, chunk, chunks, NEAR.div_ceil(chunk * GRANULE), 0)
}

/// [`packets`], with so many chunks of so many granules, the first ones near, and words that start at `first`, so that tests reach the wrap.
fn packets_from(
    packets: u32,
    chunk: usize,
    chunks: usize,
    near: usize,
    first: u32,
) -> (Sender, Receiver) {
    let (slots, consumer) = heap_from(packets, first);
    let bits = |count: usize| u64::MAX.checked_shr(64 - count.clamp(1, 64) as u32).unwrap_or(0);
    // Written here, so that the memory is there when packets come.
    let granules = (0..chunk * chunks).map(|_| Granule(UnsafeCell::new([0; GRANULE])));
    let granules = Arc::new(Granules(granules.collect()));
    let receiver = Receiver { slots: consumer, granules: Arc::clone(&granules) };
    let sender = Sender {
        slots,
        granules,
        chunk: chunk as u32,
        near: bits(near),
        free: bits(chunks) & !1,
        current: 0,
        next: 0,
        end: chunk as u32,
        filled: VecDeque::with_capacity(chunks),
        given_back: first,
    };
    (sender, receiver)
}

impl Sender {
    /// Copies packets in, not shown yet, in their order and with their marks; how many there was room for. What all of them need is at
    /// hand for all, and of short ones more is copied than they have, so that few lengths decide anything.
    #[inline(always)]
    pub(crate) fn push_all<'a>(&mut self, mut packets: impl Iterator<Item = Leaving<'a>>) -> u32 {
        let mut pushed = 0;
        loop {
            let mut other = None;
            let mut next = self.next;
            let current = next as usize..self.end as usize;
            let mut room = self.granules.0.get(current).unwrap_or_default();
            pushed += self.slots.fill(|| {
                let packet = packets.next()?;
                let granules = packet.octets.div_ceil(GRANULE);
                let copied = match granules {
                    0..=1 => copy_short::<1>(packet.whole, room),
                    2 => copy_short::<2>(packet.whole, room),
                    _ => None,
                };
                if copied.is_none() {
                    other = Some(packet);
                    return None;
                }
                let place = Place { mark: packet.mark, first: next, octets: packet.octets as u32 };
                next += granules as u32;
                room = room.get(granules..).unwrap_or_default();
                Some(place)
            });
            self.next = next;
            let Some(packet) = other else { return pushed };
            pushed += u32::from(self.push(&packet));
        }
    }

    /// Copies one packet of any length in; false when there is no room for it.
    #[inline(never)]
    pub(crate) fn push(&mut self, &Leaving { mark, octets, whole }: &Leaving<'_>) -> bool {
        if self.slots.room(1) == 0 {
            return false;
        }
        let Some(first) = self.room_for(octets) else { return false };
        let place = Place { mark, first, octets: octets as u32 };
        if self.slots.push(place).is_err() {
            return false;
        }
        let to = self.granules.at(first, octets);
        self.next += to.len() as u32;
        let (from, rest) = whole.as_chunks::<GRANULE>();
        for (to, from) in to.iter().zip(from) {
            // SAFETY: `fill_another` has seen, by the receiver's word read with Acquire, that it has released the slots of all packets
            // that were in this chunk, and `next` only goes on; it does not read here before `publish`.
            to.0.with_mut(|to| unsafe { *to = *from });
        }
        if let Some(to) = to.get(from.len())
            && !rest.is_empty()
        {
            let mut last = [0; GRANULE];
            last[..rest.len()].copy_from_slice(rest);
            // SAFETY: as above.
            to.0.with_mut(|to| unsafe { *to = last });
        }
        true
    }

    /// Where the next packet goes, if there is room for so many octets in one piece.
    #[inline(always)]
    fn room_for(&mut self, octets: usize) -> Option<u32> {
        let count = octets.div_ceil(GRANULE);
        if count > (self.end - self.next) as usize {
            if count > self.chunk as usize {
                return None;
            }
            self.fill_another()?;
        }
        Some(self.next)
    }

    /// Goes on with another chunk: in turns with those that are near, or else the first that is free.
    #[cold]
    fn fill_another(&mut self) -> Option<()> {
        // Pairs with the Release store in `Consumer::release`.
        let word = self.slots.memory.consumer().load(Ordering::Acquire);
        // A receiver that claims more than was pushed is wrong; nothing more is back then.
        let back = word.wrapping_sub(self.given_back);
        if back <= self.slots.head.wrapping_sub(self.given_back) {
            self.given_back = word;
            while let Some((chunk, until)) = self.filled.front()
                && word.wrapping_sub(*until) <= back
            {
                self.free |= 1 << chunk;
                self.filled.pop_front();
            }
        }
        let near = self.free & self.near;
        let behind = near & (u64::MAX << self.current);
        let from = [behind, near, self.free].into_iter().find(|chunks| *chunks != 0)?;
        self.filled.push_back((self.current, self.slots.head));
        self.current = from.trailing_zeros();
        self.free &= !(1 << self.current);
        self.next = self.current * self.chunk;
        self.end = self.next + self.chunk;
        Some(())
    }

    /// Shows the receiver what was pushed.
    #[inline]
    pub(crate) fn publish(&mut self) {
        self.slots.publish();
    }
}

impl Receiver {
    /// Packets to look at, as many as are there by now.
    #[inline]
    pub(crate) fn ready(&mut self) -> u32 {
        self.slots.ready(u32::MAX)
    }

    /// Those that [`ready`](Self::ready) has found and that were not given back.
    #[inline]
    pub(crate) fn counted(&self) -> u32 {
        self.slots.limit.wrapping_sub(self.slots.tail)
    }

    /// Whether something is there, as far as the sender has said by now.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn has_any(&self) -> bool {
        self.slots.has_any()
    }

    /// The packets from the one that comes `after` others on, of those that [`ready`](Self::ready) has found.
    #[inline(always)]
    pub(crate) fn packets(&self, after: u32) -> impl Iterator<Item = Arrived<'_>> {
        let granules = &*self.granules;
        self.slots.values(after).map(move |place| Arrived { place, granules })
    }

    /// Is done with so many, of those that [`ready`](Self::ready) has found.
    #[inline]
    pub(crate) fn give_back(&mut self, count: u32) {
        self.slots.tail = self.slots.tail.wrapping_add(count.min(self.counted()));
        self.slots.release();
    }
}

/// Copies so many granules, if there are so many on both sides.
#[inline(always)]
fn copy_short<const COUNT: usize>(from: &[u8], to: &[Granule]) -> Option<()> {
    let (from, to) =
        (from.as_chunks::<GRANULE>().0.first_chunk::<COUNT>()?, to.first_chunk::<COUNT>()?);
    for (to, from) in to.iter().zip(from) {
        // SAFETY: they are behind `next` in the chunk that is being filled, as in `Sender::push`.
        to.0.with_mut(|to| unsafe { *to = *from });
    }
    Some(())
}

/// A packet on the way, which its sender has shown and leaves alone until it is given back.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    place: Place,
    granules: &'a Granules,
}

impl Arrived<'_> {
    /// Its marks,
    #[inline(always)]
    #[must_use]
    pub fn mark(&self) -> [u64; 2] {
        self.place.mark
    }

    /// and how many octets it has.
    #[inline(always)]
    #[must_use]
    pub fn octets(&self) -> usize {
        self.place.octets as usize
    }

    /// Copies it to the front of `to`, as far as there is room, with whatever is behind it up to the end of a granule.
    #[inline(always)]
    pub(crate) fn copy_to(&self, to: &mut [u8]) {
        let granules = self.granules.at(self.place.first, self.octets());
        let (to, rest) = to.as_chunks_mut::<GRANULE>();
        for (to, from) in to.iter_mut().zip(granules) {
            // SAFETY: the sender has written it before it published the slot, which `values` has seen with Acquire, and leaves it alone
            // until the slot is released, which takes the receiver mutably, of which this is a loan.
            from.0.with(|from| unsafe { *to = *from });
        }
        if let Some(from) = granules.get(to.len()) {
            // SAFETY: as above.
            let last = from.0.with(|from| unsafe { *from });
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::sync::atomic::Ordering;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Push(usize),
        Publish,
        Look,
        GiveBack(u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => prop_oneof![0usize..100, 0usize..1100].prop_map(Op::Push),
            1 => Just(Op::Publish),
            1 => Just(Op::Look),
            1 => (1u32..12).prop_map(Op::GiveBack),
        ]
    }

    /// A packet whose octets say which one it is.
    fn packet(number: u64, octets: usize) -> Vec<u8> {
        (0..octets).map(|at| (number as u8).wrapping_mul(31) ^ at as u8 | 1).collect()
    }

    /// As a frame with so many octets behind the packet would show it.
    fn followed(packet: &[u8], behind: usize) -> Vec<u8> {
        [packet, &vec![0xee; behind]].concat()
    }

    impl Sender {
        fn put(&mut self, mark: [u64; 2], whole: &[u8], octets: usize) -> bool {
            self.push(&Leaving { mark, octets, whole })
        }

        fn put_all(&mut self, packets: &[([u64; 2], Vec<u8>, usize)]) -> u32 {
            let all = packets.iter();
            self.push_all(all.map(|&(mark, ref whole, octets)| Leaving { mark, octets, whole }))
        }
    }

    fn seen(receiver: &Receiver, after: u32) -> Option<([u64; 2], Vec<u8>)> {
        let packet = receiver.packets(after).next()?;
        let octets = packet.octets();
        // Room for no more than the packet, or for whole granules.
        let room = if after.is_multiple_of(2) { octets } else { octets.next_multiple_of(GRANULE) };
        let mut bytes = vec![0; room];
        packet.copy_to(&mut bytes);
        bytes.truncate(octets);
        Some((packet.mark(), bytes))
    }

    proptest! {
        /// The oracle: three queues, with where each packet lies, and chunks that have none.
        #[test]
        fn packets_arrive_whole_and_in_order(
            log in 0u32..6,
            chunk in 1usize..40,
            chunks in 2usize..10,
            near in 1usize..12,
            first in prop_oneof![Just(0u32), (u32::MAX - 40)..=u32::MAX],
            ops in proptest::collection::vec(op(), 1..300),
        ) {
            let (mut sender, mut receiver) = packets_from(1 << log, chunk, chunks, near, first);
            let [mut hidden, mut shown, mut found] = [const { VecDeque::<(u64, usize, usize, usize)>::new() }; 3];
            let (mut next, mut place) = (0u64, 0usize);
            for op in ops {
                match op {
                    Op::Push(octets) => {
                        let granules = octets.div_ceil(GRANULE);
                        let there = || found.iter().chain(&shown).chain(&hidden);
                        let current = sender.current as usize;
                        let is_free = |n: &usize| *n != current
                            && there().all(|(.., chunk)| chunk != n);
                        let stays = place + granules <= (current + 1) * chunk;
                        let fits = there().count() < 1 << log && granules <= chunk;
                        let packet = packet(next, octets);
                        let followed = followed(&packet, next as usize * 7 % 200);
                        let pushed = match next % 3 == 0 {
                            true => sender.put([next, !next], &followed, octets),
                            false => sender.put_all(&[([next, !next], followed, octets)]) == 1,
                        };
                        let free: Vec<usize> = (0..chunks).filter(is_free).collect();
                        if !stays && fits {
                            prop_assert_eq!(sender.current as usize == current, free.is_empty());
                            let is_near = free.first().is_none_or(|least| *least >= near)
                                || (sender.current as usize) < near;
                            prop_assert!(is_near || free.is_empty());
                        }
                        prop_assert_eq!(pushed, fits && (stays || !free.is_empty()));
                        if sender.current as usize != current {
                            place = sender.current as usize * chunk;
                        }
                        if pushed {
                            let is_apart = |(_, octets, first, _): &(u64, usize, usize, usize)| {
                                place + granules <= *first || first + octets.div_ceil(GRANULE) <= place
                            };
                            prop_assert!(place + granules <= chunk * chunks && there().all(is_apart));
                            hidden.push_back((next, octets, place, sender.current as usize));
                            place += granules;
                            next += 1;
                        }
                    }
                    Op::Publish => { sender.publish(); shown.append(&mut hidden); }
                    Op::Look => {
                        found.append(&mut shown);
                        prop_assert_eq!(receiver.ready() as usize, found.len());
                    }
                    Op::GiveBack(n) => {
                        // More than were found are not given back.
                        receiver.give_back(n);
                        found.drain(..found.len().min(n as usize));
                    }
                }
                prop_assert_eq!(receiver.has_any(), !shown.is_empty() || !found.is_empty());
                prop_assert_eq!(receiver.counted() as usize, found.len());
                for (after, (number, octets, ..)) in (0..).zip(&found) {
                    let expected = ([*number, !number], packet(*number, *octets));
                    prop_assert_eq!(seen(&receiver, after), Some(expected));
                }
                prop_assert_eq!(seen(&receiver, found.len() as u32), None);
            }
        }
    }

    proptest! {
        /// Many at once find the same room as one after the other.
        #[test]
        fn many_are_as_one_after_the_other(
            log in 0u32..7,
            chunk in prop_oneof![1usize..40, 100usize..200],
            chunks in 2usize..6,
            bursts in proptest::collection::vec(
                (
                    proptest::collection::vec((prop_oneof![0usize..33, 0usize..300], 0usize..200), 0..90),
                    0u32..90,
                ),
                1..20,
            ),
        ) {
            let ((mut one, mut from_one), (mut all, mut from_all)) =
                (packets_from(1 << log, chunk, chunks, 2, 0), packets_from(1 << log, chunk, chunks, 2, 0));
            let mut number = 0;
            for (burst, back) in bursts {
                let burst: Vec<_> = burst.into_iter().map(|(octets, behind)| {
                    number += 1;
                    ([number, !number], followed(&packet(number, octets), behind), octets)
                }).collect();
                let room = burst.iter().filter(|(mark, whole, octets)| one.put(*mark, whole, *octets));
                prop_assert_eq!(room.count() as u32, all.put_all(&burst));
                one.publish();
                all.publish();
                prop_assert_eq!(from_one.ready(), from_all.ready());
                for after in 0..=from_one.counted() {
                    prop_assert_eq!(seen(&from_one, after), seen(&from_all, after));
                }
                from_one.give_back(back);
                from_all.give_back(back);
            }
        }
    }

    /// What was given back since the other end was asked last is found by a burst that takes more than was known.
    #[test]
    fn a_burst_finds_all_the_room_there_is() {
        let (mut sender, mut receiver) = packets(64, 1 << 20);
        let burst =
            |count: u64| -> Vec<_> { (0..count).map(|n| ([n, 0], vec![1; 200], 60)).collect() };
        assert_eq!(sender.put_all(&burst(20)), 20);
        sender.publish();
        assert_eq!(receiver.ready(), 20);
        receiver.give_back(20);
        assert_eq!(sender.put_all(&burst(70)), 64);
    }

    /// Every octet is of use if the receiver does not turn, but for what is left at the ends of chunks; and only those near if it does.
    #[test]
    fn as_much_memory_is_used_as_it_takes() {
        let (mut sender, mut receiver) = packets(1 << 16, 8 << 20);
        let far = (2 << 20) / GRANULE as u32;
        let mut last = 0;
        for n in 0..20_000 {
            assert!(sender.put([n, 0], &[1; 1440], 1440));
            last = last.max(sender.next);
            sender.publish();
            let there = receiver.ready();
            receiver.give_back(there.saturating_sub(64));
        }
        assert!(last < far, "{last}");
        let mut count = 0;
        while sender.put([0; 2], &[1; 1440], 1440) {
            count += 1;
        }
        assert!(count * 1440 > 7_700_000, "{count}");
    }

    #[test]
    fn the_longest_frame_finds_room_in_the_smallest_ring() {
        let (mut sender, mut receiver) = packets(8, 0);
        for n in 0..200 {
            let octets = if n % 3 == 0 { 61 * n } else { JUMBO };
            assert!(sender.put([0; 2], &vec![7; octets], octets), "{n}");
            sender.publish();
            assert_eq!(receiver.ready(), 1);
            receiver.give_back(1);
        }
        assert!(!sender.put([0; 2], &vec![7; JUMBO + 1], JUMBO + 1), "longer than any");
    }

    #[test]
    fn a_wild_receiver_s_word_frees_nothing() {
        // Room for more packets than octets, and the other way round.
        for (most, chunk) in [(16, 4), (8, 100)] {
            let (mut sender, receiver) = packets_from(most, chunk, 2, 2, 0);
            for n in 0..8 {
                assert!(sender.put([n, 0], &[1; 32], 32));
            }
            sender.publish();
            for word in [9, 17, 1 << 31, u32::MAX] {
                receiver.slots.memory().consumer().store(word, Ordering::Release);
                assert!(!sender.put([0; 2], &[2; 32], 32), "{word}: eight were shown");
            }
        }
    }

    /// Alone and in bursts; what finds no room is not pushed again.
    #[test]
    fn two_threads_mix_nothing_up() {
        const N: u64 = if cfg!(miri) { 100 } else { 300_000 };
        let octets = |n: u64| (n * 7 % 190) as usize;
        let (mut sender, mut receiver) = packets_from(16, 8, 4, 3, 0);
        let thread = std::thread::spawn(move || {
            let (mut next, mut pushed) = (0, 0);
            while next < N {
                let burst: Vec<_> = (next..(next + next % 7 + 1).min(N))
                    .map(|n| ([n, 0], followed(&packet(n, octets(n)), 100), octets(n)))
                    .collect();
                next += burst.len() as u64;
                pushed += match &burst[..] {
                    [(mark, whole, octets)] => u64::from(sender.put(*mark, whole, *octets)),
                    burst => u64::from(sender.put_all(burst)),
                };
                sender.publish();
                std::thread::yield_now();
            }
            while !sender.put([N, 0], &[], 0) {
                std::thread::yield_now();
            }
            sender.publish();
            pushed
        });
        let (mut least, mut seen_so_far) = (0, 0);
        while least <= N {
            let n = receiver.ready().min(4);
            for after in 0..n {
                let number = receiver.packets(after).next().unwrap().mark()[0];
                assert!(number >= least, "{number} after {least}");
                let packet = packet(number, if number < N { octets(number) } else { 0 });
                assert_eq!(seen(&receiver, after), Some(([number, 0], packet)));
                least = number + 1;
                seen_so_far += 1;
            }
            receiver.give_back(n);
            if n == 0 {
                std::thread::yield_now();
            }
        }
        assert_eq!(thread.join().unwrap() + 1, seen_so_far);
        assert!(cfg!(miri) || seen_so_far > N / 10, "{seen_so_far}");
    }
}

#[cfg(all(test, loom))]
mod interleavings {
    use super::*;

    /// Every interleaving of both ends on a ring that is full and empty in turn: each packet is seen once, whole and in order, and loom's
    /// cells see no slot and no granule touched by both ends.
    fn model(chunk: usize, push: fn(&mut Sender, &Leaving<'_>) -> bool) {
        loom::model(move || {
            let (mut sender, mut receiver) = packets_from(2, chunk, 2, 2, u32::MAX);
            let thread = loom::thread::spawn(move || {
                let mut next = 0;
                while next < 2 {
                    let whole = [next as u8; 3 * GRANULE];
                    if push(&mut sender, &Leaving { mark: [next, 0], octets: 5, whole: &whole }) {
                        next += 1;
                        sender.publish();
                    } else {
                        loom::thread::yield_now();
                    }
                }
            });
            let mut expected = 0;
            while expected < 2 {
                if receiver.ready() == 0 {
                    loom::thread::yield_now();
                    continue;
                }
                let mut bytes = [0xff; 5];
                let packet = receiver.packets(0).next().unwrap();
                packet.copy_to(&mut bytes);
                assert_eq!((packet.mark(), bytes), ([expected, 0], [expected as u8; 5]));
                expected += 1;
                receiver.give_back(1);
            }
            thread.join().unwrap();
        });
    }

    #[test]
    fn a_packet_is_left_alone_until_it_is_given_back() {
        model(1, |sender, packet| sender.push(packet));
    }

    /// Of which the second one is copied over what is behind the first.
    #[test]
    fn a_short_packet_is_left_alone_until_it_is_given_back() {
        model(4, |sender, packet| sender.push_all([*packet].into_iter()) == 1);
    }
}
