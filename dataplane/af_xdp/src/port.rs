//! One queue of one device, whatever the device is.

use crate::memory::{Generator, MemoryPort};
use crate::pool::{FramePool, Retired};
use crate::umem::Frame;
use crate::xdp::XdpPort;
use std::io;
use std::os::fd::BorrowedFd;

/// One queue of one device, owned by one worker. The kind is told apart once a burst.
#[derive(Debug)]
pub enum Port {
    /// None: its device is gone, or not there yet.
    Absent,
    /// Packets from nowhere, for benches.
    Generator(Generator),
    /// The in-memory device.
    Memory(MemoryPort),
    /// A queue of a network device.
    Xdp(XdpPort),
}

/// What a port and the kernel under it have counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStatistics {
    /// Packets handed to the worker.
    pub rx_packets: u64,
    /// Packets taken from the worker; they may wait in the ring or fail in the device.
    pub tx_packets: u64,
    /// Dropped on arrival for want of room other than in the receive ring: too long for a chunk, or no chunk
    /// free.
    pub rx_dropped: u64,
    /// Dropped on arrival because the worker left the receive ring full.
    pub rx_ring_full: u64,
    /// Times the kernel found no chunk in the fill ring.
    pub fill_ring_empty: u64,
    /// Receive descriptors that the kernel rejected.
    pub rx_invalid: u64,
    /// Transmit descriptors that the kernel rejected; their packets are gone.
    pub tx_invalid: u64,
    /// Times the device looked for packets to send and found none.
    pub tx_ring_empty: u64,
    /// Descriptors from the kernel that name memory it was not lent; their chunks stay where they are.
    pub descriptors_refused: u64,
    /// Calls that asked the kernel to send and failed for another reason than want of room.
    pub kick_errors: u64,
    /// Frames of another UMEM that the worker asked to send; the socket cannot reach their memory.
    pub foreign_frames: u64,
}

impl PortStatistics {
    /// Adds what another socket counted.
    pub fn add(&mut self, other: &Self) {
        let Self {
            rx_packets,
            tx_packets,
            rx_dropped,
            rx_ring_full,
            fill_ring_empty,
            rx_invalid,
            tx_invalid,
            tx_ring_empty,
            descriptors_refused,
            kick_errors,
            foreign_frames,
        } = other;
        for (sum, n) in [
            (&mut self.rx_packets, rx_packets),
            (&mut self.tx_packets, tx_packets),
            (&mut self.rx_dropped, rx_dropped),
            (&mut self.rx_ring_full, rx_ring_full),
            (&mut self.fill_ring_empty, fill_ring_empty),
            (&mut self.rx_invalid, rx_invalid),
            (&mut self.tx_invalid, tx_invalid),
            (&mut self.tx_ring_empty, tx_ring_empty),
            (&mut self.descriptors_refused, descriptors_refused),
            (&mut self.kick_errors, kick_errors),
            (&mut self.foreign_frames, foreign_frames),
        ] {
            *sum += n;
        }
    }
}

impl Port {
    /// Moves up to `max` packets that have arrived into `out`; how many.
    #[inline]
    pub fn receive(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> usize {
        match self {
            Self::Absent => 0,
            Self::Generator(port) => port.receive(pool, out, max),
            Self::Memory(port) => port.receive(pool, out, max),
            Self::Xdp(port) => port.receive(pool, out, max),
        }
    }

    /// Takes as many packets from the front of `frames` as there is room for and leaves the rest; how
    /// many. They may wait until [`kick`](Self::kick).
    #[inline]
    pub fn transmit(&mut self, pool: &mut FramePool, frames: &mut Vec<Frame>) -> usize {
        match self {
            Self::Absent => 0,
            Self::Generator(port) => port.transmit(pool, frames),
            Self::Memory(port) => port.transmit(pool, frames),
            Self::Xdp(port) => port.transmit(pool, frames),
        }
    }

    /// Takes back frames that have been sent and lends free ones for packets to come. Belongs into every
    /// turn of the loop, idle ones too.
    #[inline]
    pub fn complete(&mut self, pool: &mut FramePool) {
        match self {
            Self::Absent | Self::Generator(_) => {}
            Self::Memory(port) => port.complete(pool),
            Self::Xdp(port) => port.complete(pool),
        }
    }

    /// Gets the device going on what was transmitted, if it has to be told. Belongs into every turn of the loop:
    /// what the device had no room for goes on then, and it costs little when there is nothing.
    #[inline]
    pub fn kick(&mut self) {
        match self {
            Self::Absent | Self::Generator(_) => {}
            Self::Memory(port) => port.kick(),
            Self::Xdp(port) => port.kick(),
        }
    }

    /// The descriptor to wait on, readable when packets arrive, and for a port whose transmit ring is full
    /// when there is room again.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Absent | Self::Generator(_) => None,
            Self::Memory(port) => Some(port.fd()),
            Self::Xdp(port) => Some(port.fd()),
        }
    }

    /// Says that the worker is about to sleep on [`fd`](Self::fd): true when it may, false when there is
    /// work already. After the sleep, or when another port says false, call [`wake`](Self::wake).
    pub fn prepare_sleep(&mut self) -> bool {
        match self {
            Self::Absent => true,
            Self::Generator(port) => port.prepare_sleep(),
            Self::Memory(port) => port.prepare_sleep(),
            Self::Xdp(port) => port.prepare_sleep(),
        }
    }

    /// Says that the worker polls again.
    pub fn wake(&mut self) {
        match self {
            Self::Memory(port) => port.wake(),
            Self::Absent | Self::Generator(_) | Self::Xdp(_) => {}
        }
    }

    /// What was counted, as far as it is known: the kernel's part is missing when the device is gone.
    pub fn counted(&self) -> PortStatistics {
        match self {
            Self::Xdp(port) => port.statistics().unwrap_or_else(|_| port.counted()),
            Self::Absent | Self::Generator(_) | Self::Memory(_) => {
                self.statistics().unwrap_or_default()
            }
        }
    }

    /// What was counted, the kernel's part asked for now.
    ///
    /// # Errors
    /// The system's, when the device is gone.
    pub fn statistics(&self) -> io::Result<PortStatistics> {
        match self {
            Self::Absent => Ok(PortStatistics::default()),
            Self::Generator(port) => Ok(port.statistics()),
            Self::Memory(port) => Ok(port.statistics()),
            Self::Xdp(port) => port.statistics(),
        }
    }

    /// Closes the port and leaves [`Port::Absent`]: what is left of a socket. The frames of an in-memory device go with it.
    pub fn close(&mut self, pool: &mut FramePool) -> Option<Retired> {
        match core::mem::replace(self, Self::Absent) {
            Self::Xdp(port) => Some(port.close(pool)),
            Self::Absent | Self::Generator(_) | Self::Memory(_) => None,
        }
    }

    /// What has befallen the device since the last call: `NetworkDown` when it was deleted or its queue taken
    /// away. The port is of no use then; see [`XdpPort::close`].
    ///
    /// # Errors
    /// The system's, when it does not say.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Absent | Self::Generator(_) | Self::Memory(_) => Ok(None),
            Self::Xdp(port) => port.take_error(),
        }
    }
}
