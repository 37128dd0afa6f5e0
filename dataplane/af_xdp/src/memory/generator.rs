//! A device that has packets without end and swallows what it is given: the gateway's own cost, without a wire's.

use crate::pool::FramePool;
use crate::port::PortStatistics;
use crate::umem::Frame;

/// Source and sink. As a source it hands out copies of prepared packets in order, again and again, until a total is
/// reached; as a sink it frees every frame at once.
#[derive(Debug)]
pub struct Generator {
    /// The packets, one behind the other.
    bytes: Box<[u8]>,
    /// Where each begins, and where the last one ends.
    bounds: Box<[usize]>,
    next: usize,
    left: u64,
    statistics: PortStatistics,
}

impl Generator {
    /// A source of `total` packets, cycled through these Ethernet frames; without any, only a sink.
    ///
    /// Some thousand frames of different flows keep caches as busy as traffic does.
    pub fn new(packets: &[impl AsRef<[u8]>], total: u64) -> Self {
        let mut bounds = vec![0];
        let mut bytes = Vec::new();
        for packet in packets {
            bytes.extend_from_slice(packet.as_ref());
            bounds.push(bytes.len());
        }
        Self {
            bytes: bytes.into(),
            bounds: bounds.into(),
            next: 0,
            left: if packets.is_empty() { 0 } else { total },
            statistics: PortStatistics::default(),
        }
    }

    /// Packets that are still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// See [`Port::receive`](crate::Port::receive). A packet that does not fit a chunk is counted and skipped.
    pub fn receive(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> usize {
        let mut received = 0;
        while received < max && self.left > 0 {
            let Some(mut frame) = pool.alloc() else { break };
            let packet = &self.bytes[self.bounds[self.next]..self.bounds[self.next + 1]];
            self.next = (self.next + 1) % (self.bounds.len() - 1);
            self.left -= 1;
            if frame.copy_from(packet).is_some() {
                out.push(frame);
                received += 1;
            } else {
                self.statistics.rx_dropped += 1;
                pool.reclaim(frame);
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
        self.left == 0
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

    #[test]
    fn packets_come_in_order_and_around_until_the_total() {
        let config =
            UmemConfig { chunks: 4, chunk_size: ChunkSize::Bytes2048, jumbo: 0, huge_pages: false };
        let mut pool = FramePool::new(&config).unwrap();
        let mut generator = Generator::new(&[&b"one"[..], b"", b"three"], 8);
        let (mut frames, mut seen) = (Vec::new(), Vec::new());
        for got in [3, 3, 2, 0] {
            assert_eq!(generator.prepare_sleep(), got == 0);
            assert_eq!(generator.receive(&mut pool, &mut frames, 3), got);
            seen.extend(frames.iter().map(|f| f.data().to_vec()));
            assert_eq!(generator.transmit(&mut pool, &mut frames), got);
            assert_eq!(pool.gauges().free, 4);
        }
        let expect = [&b"one"[..], b"", b"three"].into_iter().cycle().take(8);
        assert!(seen.iter().map(Vec::as_slice).eq(expect));
        assert_eq!((generator.statistics().rx_packets, generator.statistics().tx_packets), (8, 8));
    }

    #[test]
    fn a_sink_has_no_packets_and_one_too_long_is_counted() {
        let config =
            UmemConfig { chunks: 4, chunk_size: ChunkSize::Bytes2048, jumbo: 0, huge_pages: false };
        let mut pool = FramePool::new(&config).unwrap();
        let mut sink = Generator::new(&[[0u8; 0]; 0], 100);
        assert_eq!(sink.receive(&mut pool, &mut Vec::new(), 3), 0);
        assert!(sink.prepare_sleep());
        let mut long = Generator::new(&[[0u8; 1793]], 2);
        assert_eq!(long.receive(&mut pool, &mut Vec::new(), 3), 0);
        assert_eq!((long.statistics().rx_dropped, pool.gauges().free), (2, 4));
    }
}
