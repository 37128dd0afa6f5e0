//! The host port: what the gateway host itself sends and receives inside tunnels, and what is delivered to it.

use crate::command::WorkerShared;
use crossbeam::queue::ArrayQueue;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

/// One worker's queue of the host port. What it carries are bare IP packets.
#[derive(Debug)]
pub enum HostPort {
    /// A queue in this process.
    Memory(MemoryHost),
    /// None: packets for the host are dropped and counted.
    None,
    /// One queue of a TUN device.
    Tun(TunQueue),
}

/// One queue of a multiqueue TUN (IFF_TUN, IFF_NO_PI, IFF_MULTI_QUEUE).
#[derive(Debug)]
pub struct TunQueue(File);

impl TunQueue {
    /// Takes over the descriptor of a queue, which must be non-blocking: a worker never waits in read().
    pub fn new(fd: OwnedFd) -> Self {
        Self(File::from(fd))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Reads one packet into `buffer`, cut to it; `None` when there is none now.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        // An error is EAGAIN, or a device that went away: then there is nothing to read either, and the daemon sees the device go by
        // netlink.
        (&self.0).read(buffer).ok().filter(|n| *n > 0)
    }

    /// Gives one packet to the host.
    ///
    /// # Errors
    /// As [`HostPort::write`].
    pub(crate) fn write(&self, packet: &[u8]) -> io::Result<()> {
        match (&self.0).write(packet)? {
            n if n == packet.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

/// The worker's end of a host port in memory.
#[derive(Debug)]
pub struct MemoryHost {
    /// Packets to the host.
    up: Arc<ArrayQueue<Vec<u8>>>,
    /// Packets from the host.
    down: Arc<ArrayQueue<Vec<u8>>>,
    reader: Reader,
}

/// Whom the host's end wakes: set once, by the worker that the port is given to.
type Reader = Arc<OnceLock<(Arc<[WorkerShared]>, usize)>>;

/// The host's end of a host port in memory.
#[derive(Clone, Debug)]
pub struct MemoryHostEnd {
    up: Arc<ArrayQueue<Vec<u8>>>,
    down: Arc<ArrayQueue<Vec<u8>>>,
    reader: Reader,
}

impl MemoryHostEnd {
    /// A packet that the gateway gave to the host.
    pub fn receive(&self) -> Option<Vec<u8>> {
        self.up.pop()
    }

    /// Sends a packet from the host.
    ///
    /// # Errors
    /// The packet, when the queue is full.
    pub fn send(&self, packet: Vec<u8>) -> Result<(), Vec<u8>> {
        self.down.push(packet)?;
        if let Some((shared, core)) = self.reader.get() {
            shared[*core].bell.ring();
        }
        Ok(())
    }
}

impl HostPort {
    /// A host port in memory that holds `capacity` packets each way, and the host's end of it.
    pub fn memory(capacity: usize) -> (Self, MemoryHostEnd) {
        let end = MemoryHostEnd {
            up: Arc::new(ArrayQueue::new(capacity)),
            down: Arc::new(ArrayQueue::new(capacity)),
            reader: Reader::default(),
        };
        let MemoryHostEnd { up, down, reader } = end.clone();
        (Self::Memory(MemoryHost { up, down, reader }), end)
    }

    /// Says who reads it.
    pub(crate) fn attach(&self, shared: &Arc<[WorkerShared]>, core: usize) {
        if let Self::Memory(memory) = self {
            // Set already only if a port was attached twice, which `Dataplane::new` does not do.
            let _ = memory.reader.set((Arc::clone(shared), core));
        }
    }

    /// What poll() waits for.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tun(tun) => Some(tun.fd()),
            Self::Memory(_) | Self::None => None,
        }
    }

    /// Whether a read would find something; a TUN says it by poll().
    pub(crate) fn has_input(&self) -> bool {
        match self {
            Self::Memory(m) => !m.down.is_empty(),
            Self::Tun(_) | Self::None => false,
        }
    }

    /// Whether to read now. A TUN has to be asked by a system call, so a busy worker does that in some turns only.
    #[inline]
    pub(crate) fn is_due(&self, is_time: bool) -> bool {
        match self {
            Self::Memory(m) => !m.down.is_empty(),
            Self::Tun(_) => is_time,
            Self::None => false,
        }
    }

    /// Reads one packet into `buffer`, cut to it; `None` when there is none now.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self {
            Self::Memory(m) => {
                let packet = m.down.pop()?;
                let len = packet.len().min(buffer.len());
                buffer[..len].copy_from_slice(&packet[..len]);
                Some(len)
            }
            Self::Tun(tun) => tun.read(buffer),
            Self::None => None,
        }
    }

    /// Gives one packet to the host.
    ///
    /// # Errors
    /// The device's: its queue is full, it is down, or it took the packet for malformed.
    pub(crate) fn write(&mut self, packet: &[u8]) -> io::Result<()> {
        match self {
            Self::Memory(m) => {
                m.up.push(packet.to_vec()).map_err(|_| io::ErrorKind::WouldBlock.into())
            }
            Self::None => Err(io::ErrorKind::NotConnected.into()),
            Self::Tun(tun) => tun.write(packet),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    /// A pair of datagram sockets keeps packets apart as a TUN queue does.
    #[test]
    fn a_tun_queue_gives_and_takes_whole_packets_and_never_waits() {
        let (kernel, queue) = UnixDatagram::pair().unwrap();
        queue.set_nonblocking(true).unwrap();
        let mut port = HostPort::Tun(TunQueue::new(queue.into()));
        let mut buffer = [0; 64];
        assert_eq!(port.read(&mut buffer), None);
        kernel.send(&[7; 40]).unwrap();
        kernel.send(&[8; 100]).unwrap();
        assert_eq!(port.read(&mut buffer), Some(40));
        assert_eq!(buffer[..40], [7; 40]);
        // Cut to the buffer: the rest of a packet is not the next one.
        assert_eq!(port.read(&mut buffer), Some(64));
        assert_eq!(port.read(&mut buffer), None);
        port.write(&[9; 50]).unwrap();
        assert_eq!(kernel.recv(&mut buffer).unwrap(), 50);
        drop(kernel);
        assert!(port.write(&[9; 50]).is_err());
    }
}
