//! A plain host at the end of an in-memory wire, for tests: bytes in, bytes out.

use super::MemoryPort;
use crate::pool::FramePool;
use crate::umem::{Frame, UmemConfig};
use std::io;

/// One end of a wire with packet memory of its own.
#[derive(Debug)]
pub struct Station {
    ports: Vec<MemoryPort>,
    pool: FramePool,
    queue: Vec<Frame>,
}

impl Station {
    /// Takes all ports of an end.
    ///
    /// # Errors
    /// As [`FramePool::new`]; `InvalidInput` without a port.
    pub fn new(ports: Vec<MemoryPort>) -> io::Result<Self> {
        if ports.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let pool = FramePool::new(&UmemConfig { chunks: 1024, jumbo: 8, ..UmemConfig::default() })?;
        Ok(Self { ports, pool, queue: Vec::new() })
    }

    /// Sends one Ethernet frame; false when the wire is full or the frame too long.
    pub fn inject(&mut self, bytes: &[u8]) -> bool {
        for port in &mut self.ports {
            port.complete(&mut self.pool);
        }
        let Some(mut frame) = self.pool.alloc() else { return false };
        if frame.copy_from(bytes).is_none() {
            self.pool.reclaim(frame);
            return false;
        }
        self.queue.push(frame);
        let sent = self.ports[0].transmit(&mut self.pool, &mut self.queue) == 1;
        for frame in self.queue.drain(..) {
            self.pool.reclaim(frame);
        }
        self.ports[0].kick();
        sent
    }

    /// Takes the Ethernet frames that have arrived, those of the first queue first.
    pub fn collect(&mut self) -> Vec<Vec<u8>> {
        let mut bytes = Vec::new();
        for port in &mut self.ports {
            port.complete(&mut self.pool);
            while port.receive(&mut self.pool, &mut self.queue, 64) > 0 {
                for frame in self.queue.drain(..) {
                    bytes.push(frame.data().to_vec());
                    self.pool.reclaim(frame);
                }
            }
        }
        bytes
    }

    /// The packet memory, for its gauges.
    pub fn pool(&self) -> &FramePool {
        &self.pool
    }

    /// The ports, for their statistics.
    pub fn ports(&self) -> &[MemoryPort] {
        &self.ports
    }
}
