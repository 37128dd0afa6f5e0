//! A device that has what packets it is given, and swallows what it is to send: the gateway's own cost, without a wire's.

use crate::pool::FramePool;
use crate::port::PortStatistics;
use crate::umem::Frame;
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;

/// Source and sink. As a source it hands out copies of the packets that its [`Feed`] was given, in order; as a sink it frees every frame at
/// once. It wakes nobody: it is for workers that spin, or that a bench turns.
#[derive(Debug)]
pub struct Generator {
    batches: Arc<Batches>,
    batch: Batch,
    /// The next packet of it, and where that begins.
    next: usize,
    at: usize,
    statistics: PortStatistics,
}

/// Gives a [`Generator`] packets, from any thread.
#[derive(Debug)]
pub struct Feed(Arc<Batches>);

/// What is between the two.
#[derive(Debug)]
struct Batches {
    given: ArrayQueue<Batch>,
    /// Those whose packets have all been handed out, for their memory.
    spent: ArrayQueue<Batch>,
}

/// Batches that may wait.
const WAITING: usize = 16;

/// Packets one behind the other, so that their memory is read on and on and costs little, as a device's own writing costs a worker nothing.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where each packet ends.
    ends: Vec<usize>,
}

impl Feed {
    /// Adds packets to those that are to come; how many, and none of them while many such batches wait.
    pub fn give<'a>(&mut self, packets: impl Iterator<Item = &'a [u8]>) -> usize {
        if self.0.given.is_full() {
            return 0;
        }
        let mut batch = self.0.spent.pop().unwrap_or_default();
        batch.bytes.clear();
        batch.ends.clear();
        for packet in packets {
            batch.bytes.extend_from_slice(packet);
            batch.ends.push(batch.bytes.len());
        }
        let count = batch.ends.len();
        // There is room: nobody else adds any.
        if self.0.given.push(batch).is_ok() { count } else { 0 }
    }
}

impl Generator {
    /// A source, and what it is given packets by.
    pub fn source() -> (Feed, Self) {
        let [given, spent] = [(); 2].map(|()| ArrayQueue::new(WAITING));
        let batches = Arc::new(Batches { given, spent });
        let feed = Feed(Arc::clone(&batches));
        let statistics = PortStatistics::default();
        (feed, Self { batches, batch: Batch::default(), next: 0, at: 0, statistics })
    }

    /// Only a sink.
    pub fn sink() -> Self {
        Self::source().1
    }

    /// Whether a packet is there, of the next batch if this one is through.
    #[inline]
    fn has_packet(&mut self) -> bool {
        self.next < self.batch.ends.len() || self.go_on()
    }

    #[cold]
    fn go_on(&mut self) -> bool {
        while let Some(batch) = self.batches.given.pop() {
            let spent = core::mem::replace(&mut self.batch, batch);
            // One too many is dropped.
            let _ = self.batches.spent.push(spent);
            (self.next, self.at) = (0, 0);
            if !self.batch.ends.is_empty() {
                return true;
            }
        }
        false
    }

    /// See [`Port::receive`](crate::Port::receive). Packets wait while `pool` is empty; one that no frame holds is counted and skipped.
    pub fn receive(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> usize {
        let mut received = 0;
        while received < max && pool.available() > 0 && self.has_packet() {
            let Some(end) = self.batch.ends.get(self.next).copied() else { break };
            let packet = self.batch.bytes.get(self.at..end).unwrap_or_default();
            (self.next, self.at) = (self.next + 1, end);
            match pool.alloc_for(packet.len()) {
                Some(mut own) => {
                    // It was asked for with this length.
                    let _ = own.copy_from(packet);
                    out.push(own);
                    received += 1;
                }
                None => self.statistics.rx_dropped += 1,
            }
        }
        self.statistics.rx_packets += received as u64;
        received
    }

    /// See [`Port::transmit`](crate::Port::transmit). There is always room.
    pub fn transmit(&mut self, pool: &mut FramePool, frames: &mut Vec<Frame>) -> usize {
        let taken = frames.len();
        for frame in frames.drain(..) {
            pool.reclaim(frame);
        }
        self.statistics.tx_packets += taken as u64;
        taken
    }

    /// See [`Port::prepare_sleep`](crate::Port::prepare_sleep).
    pub fn prepare_sleep(&mut self) -> bool {
        !self.has_packet()
    }

    /// What this port has counted.
    pub fn statistics(&self) -> PortStatistics {
        self.statistics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::umem::{ChunkSize, UmemConfig};

    fn pool() -> FramePool {
        let chunk_size = ChunkSize::Bytes2048;
        FramePool::new(&UmemConfig { chunks: 4, chunk_size, jumbo: 0, huge_pages: false }).unwrap()
    }

    #[test]
    fn packets_come_in_order_until_there_are_none() {
        let mut pool = pool();
        let (mut feed, mut generator) = Generator::source();
        assert!(generator.prepare_sleep());
        for round in 0..3u8 {
            let first = [&b"one"[..], b"", b"three", b"four", &[round; 300]];
            assert_eq!(feed.give(first.into_iter()), 5);
            assert_eq!(feed.give(core::iter::empty()), 0);
            assert_eq!(feed.give([&b"last"[..]].into_iter()), 1);
            let (mut frames, mut seen) = (Vec::new(), Vec::new());
            // As many as are asked for, or as there are frames.
            for (most, got) in [(3, 3), (1, 1), (3, 2), (3, 0)] {
                assert_eq!(generator.prepare_sleep(), got == 0);
                assert_eq!(generator.receive(&mut pool, &mut frames, most), got);
                seen.extend(frames.iter().map(|f| f.data().to_vec()));
                assert_eq!(generator.transmit(&mut pool, &mut frames), got);
                assert_eq!(pool.gauges().free, 4);
            }
            assert!(seen.iter().map(Vec::as_slice).eq(first.into_iter().chain([&b"last"[..]])));
        }
        let counted = generator.statistics();
        assert_eq!((counted.rx_packets, counted.tx_packets, counted.rx_dropped), (18, 18, 0));
    }

    #[test]
    fn packets_wait_for_frames_and_one_too_long_is_counted() {
        let mut pool = pool();
        let (mut feed, mut generator) = Generator::source();
        let long = vec![1; pool.longest() + 1];
        assert_eq!(feed.give([&long[..], b"short", &long].into_iter().chain([&b"x"[..]; 4])), 7);
        let mut frames = Vec::new();
        assert_eq!(generator.receive(&mut pool, &mut frames, 9), 4);
        assert_eq!(generator.receive(&mut pool, &mut frames, 9), 0, "no frames");
        assert!(!generator.prepare_sleep());
        assert_eq!(generator.transmit(&mut pool, &mut frames), 4);
        assert_eq!(generator.receive(&mut pool, &mut frames, 9), 1);
        assert_eq!((generator.statistics().rx_dropped, generator.statistics().rx_packets), (2, 5));
    }

    #[test]
    fn a_sink_has_no_packets() {
        let (mut pool, mut sink) = (pool(), Generator::sink());
        assert_eq!(sink.receive(&mut pool, &mut Vec::new(), 3), 0);
        assert!(sink.prepare_sleep());
    }

    #[test]
    fn batches_wait_in_bounded_number() {
        let mut pool = pool();
        let (mut feed, mut generator) = Generator::source();
        let given: usize = (0..20).map(|_| feed.give([&b"x"[..]].into_iter())).sum();
        assert_eq!(given, WAITING);
        assert_eq!(generator.receive(&mut pool, &mut Vec::new(), 1), 1);
        assert_eq!(feed.give([&b"y"[..]].into_iter()), 1, "there is room again");
    }
}
