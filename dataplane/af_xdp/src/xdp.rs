//! AF_XDP sockets: one queue of a network device.
//!
//! ```text
//!            fill ──────────► chunks to receive into
//!   pool ◄─► completion ◄──── chunks that were sent            kernel, device
//!            receive ◄─────── descriptors of packets
//!            transmit ──────► descriptors of packets
//! ```
//!
//! Each socket registers its worker's packet memory for itself, so that every port has a mode and a life of its own:
//! with XDP_SHARED_UMEM the second device takes over the first one's zero-copy or copy mode and cannot be bound
//! where it lacks it, and the first socket could not be closed and opened again while the second lives. The
//! memory is the same either way, so a frame received on one port is sent on another as it lies.
//!
//! A packet that is longer than a chunk comes in several buffers (XDP_USE_SG), which are copied together into a jumbo frame, and
//! leaves in as many as it touches chunks. Where the driver cannot, a device whose MTU does not fit a chunk is refused.

use crate::bpf::AttachMode;
use crate::device::Device;
use crate::pool::{FramePool, Retired};
use crate::port::PortStatistics;
use crate::ring::{Consumer, Mapped, Producer, consumer_of_kernel, producer_to_kernel};
use crate::steering::{Attachment, SteeringError};
use crate::syscall;
use crate::umem::{Frame, HEADROOM, JUMBO, PacketMemory, Registration, TAILROOM, UmemId};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

/// Header octets beside the MTU: Ethernet and one VLAN tag.
const LINK_HEADER: u32 = 18;

/// Packets of several buffers (linux/if_xdp.h; libc has it not for every target).
const XDP_USE_SG: u16 = 1 << 4;

/// How long a queue may be busy: its former socket is torn down after the close that ended it.
const BUSY_PATIENCE: Duration = Duration::from_secs(3);

/// Packets that one call sends in copy mode (the kernel's TX_BATCH_SIZE).
const COPY_BATCH: u32 = 32;

/// Chunks lent at once at least, so that the fill ring's line is not passed to and fro for each packet.
const FILL_BATCH: u32 = 32;

/// Send buffer in copy mode: what the packets of a full transmit ring weigh while the device has them.
const SEND_BUFFER: u32 = 64 << 20;

/// Octets that an Ethernet frame has at least, its checksum apart (IEEE 802.3 §3.2.7).
const LEAST_FRAME: usize = 60;

/// Which way packets take between device and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The best that works: zero copy, then copies with the program in the driver, then copies with the program
    /// in the stack.
    #[default]
    Auto,
    /// The device reads and writes the packet memory.
    ZeroCopy,
    /// The kernel copies; the program runs in the driver.
    Copy,
    /// The kernel copies; the program runs in the stack. Any device can do this.
    Generic,
}

impl Mode {
    /// The ways to attach the steering program for this mode, best first.
    pub fn attach_modes(self) -> &'static [AttachMode] {
        match self {
            Self::Auto => &[AttachMode::Native, AttachMode::Generic],
            Self::ZeroCopy | Self::Copy => &[AttachMode::Native],
            Self::Generic => &[AttachMode::Generic],
        }
    }

    /// The ways to bind under a program attached so.
    fn bind_flags(self, attached: AttachMode) -> &'static [u16] {
        match (self, attached) {
            (Self::Auto, AttachMode::Native) => &[libc::XDP_ZEROCOPY, libc::XDP_COPY],
            (Self::ZeroCopy, _) => &[libc::XDP_ZEROCOPY],
            (Self::Auto, AttachMode::Generic) | (Self::Copy | Self::Generic, _) => {
                &[libc::XDP_COPY]
            }
        }
    }
}

/// How a queue is opened.
#[derive(Clone, Copy, Debug)]
pub struct XdpConfig {
    /// Which way packets take.
    pub mode: Mode,
    /// Slots of the receive and fill rings, and chunks lent for packets to come; a power of two.
    pub receive_ring: u32,
    /// Slots of the transmit and completion rings; a power of two.
    pub transmit_ring: u32,
}

impl Default for XdpConfig {
    fn default() -> Self {
        Self { mode: Mode::Auto, receive_ring: 2048, transmit_ring: 2048 }
    }
}

/// Why a queue could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The device's packets fit no frame, or no chunk where the driver does not do several buffers a packet.
    #[error("an MTU of {mtu} does not fit one buffer; at most {max} does")]
    Mtu {
        /// The device's.
        mtu: u32,
        /// What the chunk size allows.
        max: u32,
    },
    /// The device has no such queue.
    #[error("no queue {queue}; the device has {queues}")]
    NoQueue {
        /// The one asked for.
        queue: u32,
        /// How many there are.
        queues: u32,
    },
    /// Another socket has the queue and keeps it.
    #[error("the queue is in use")]
    Busy,
    /// 256 sockets' memory has not been repossessed.
    #[error("too many sockets were opened on this packet memory")]
    TooManySockets,
    /// A step failed in the system.
    #[error("{step}: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The socket was opened on the memory of another pool.
    #[error("the socket was opened on other packet memory")]
    OtherMemory,
    /// The steering program does not take the socket.
    #[error(transparent)]
    Steering(#[from] SteeringError),
}

/// A socket that is bound to its queue and has no chunks yet: opened by whoever has the time (opening waits for the kernel),
/// joined to the packet memory by that one's owner, which takes no time.
#[derive(Debug)]
pub struct BoundSocket {
    fill: Producer<u64, Mapped<u64>>,
    completion: Consumer<u64, Mapped<u64>>,
    receive: Consumer<libc::xdp_desc, Mapped<libc::xdp_desc>>,
    transmit: Producer<libc::xdp_desc, Mapped<libc::xdp_desc>>,
    socket: OwnedFd,
    memory: UmemId,
    zero_copy: bool,
    /// Packets of several buffers are had.
    several: bool,
    receive_ring: u32,
}

/// A packet of several buffers.
#[derive(Debug)]
enum Gathering {
    /// There was no frame for it: the rest of it is taken and dropped.
    Lost,
    /// What there is of it.
    Whole(Frame),
}

/// One queue of a network device.
#[derive(Debug)]
pub struct XdpPort {
    fill: Producer<u64, Mapped<u64>>,
    completion: Consumer<u64, Mapped<u64>>,
    receive: Consumer<libc::xdp_desc, Mapped<libc::xdp_desc>>,
    transmit: Producer<libc::xdp_desc, Mapped<libc::xdp_desc>>,
    socket: OwnedFd,
    registration: Registration,
    zero_copy: bool,
    /// What is longer is moved to a jumbo frame, so that a trailer fits behind it.
    plain_most: usize,
    /// A packet of which more is to come.
    gathering: Option<Gathering>,
    chunk_size: u64,
    /// Chunks in the fill ring, the device and the receive ring; at most `receive_ring`.
    lent: u32,
    receive_ring: u32,
    /// The last kick failed for another reason than want of room.
    stalled: bool,
    statistics: PortStatistics,
}

impl BoundSocket {
    /// Opens a queue of a device that the steering program is attached to, and has packets steered to it: they are dropped
    /// until it is joined to its memory. A queue that was just closed is waited for as long as `patience` says.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is left open then.
    pub fn open(
        device: &Device,
        queue: u32,
        attachment: &Attachment,
        memory: &PacketMemory,
        config: &XdpConfig,
        patience: Duration,
    ) -> Result<Self, OpenError> {
        if device.mtu() > MAX_MTU {
            return Err(OpenError::Mtu { mtu: device.mtu(), max: MAX_MTU });
        }
        if queue >= device.queues() {
            return Err(OpenError::NoQueue { queue, queues: device.queues() });
        }
        let mut failure = OpenError::Busy;
        let several = if memory.has_jumbo() { &[XDP_USE_SG, 0][..] } else { &[0] };
        for (flags, several) in config
            .mode
            .bind_flags(attachment.mode())
            .iter()
            .flat_map(|flags| several.iter().map(move |several| (flags, several)))
        {
            let max = plain_mtu(memory.chunk_size());
            if *several == 0 && device.mtu() > max {
                failure = OpenError::Mtu { mtu: device.mtu(), max };
                continue;
            }
            match Self::bind(device, queue, memory, config, flags | several, patience) {
                Ok(bound) => {
                    attachment.steer(queue, bound.socket.as_fd())?;
                    return Ok(bound);
                }
                // It is another's, whatever it is asked for.
                Err(OpenError::Busy) => return Err(OpenError::Busy),
                Err(e) => failure = e,
            }
        }
        Err(failure)
    }

    fn bind(
        device: &Device,
        queue: u32,
        memory: &PacketMemory,
        config: &XdpConfig,
        flags: u16,
        patience: Duration,
    ) -> Result<Self, OpenError> {
        let step = |step| move |source| OpenError::System { step, source };
        let owned = syscall::socket(libc::AF_XDP, libc::SOCK_RAW).map_err(step("AF_XDP socket"))?;
        let socket = owned.as_fd();
        syscall::register_umem(socket, memory).map_err(step("registering packet memory"))?;
        for (name, size) in [
            (libc::XDP_UMEM_FILL_RING, config.receive_ring),
            (libc::XDP_UMEM_COMPLETION_RING, config.transmit_ring),
            (libc::XDP_RX_RING, config.receive_ring),
            (libc::XDP_TX_RING, config.transmit_ring),
        ] {
            syscall::set_option(socket, libc::SOL_XDP, name, size).map_err(step("ring size"))?;
        }
        let at = syscall::ring_offsets(socket).map_err(step("ring layout"))?;
        let (rx, tx) = (config.receive_ring, config.transmit_ring);
        let map = step("mapping a ring");
        let fill_page = libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t;
        let fill = Mapped::new(socket, fill_page, &at.fr, rx).map_err(map)?;
        let completion_page = libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t;
        let completion = Mapped::new(socket, completion_page, &at.cr, tx).map_err(map)?;
        let receive = Mapped::new(socket, libc::XDP_PGOFF_RX_RING, &at.rx, rx).map_err(map)?;
        let transmit = Mapped::new(socket, libc::XDP_PGOFF_TX_RING, &at.tx, tx).map_err(map)?;

        let begin = Instant::now();
        while let Err(source) =
            syscall::bind_xdp(socket, device.index(), queue, flags | libc::XDP_USE_NEED_WAKEUP)
        {
            if source.raw_os_error() != Some(libc::EBUSY) {
                return Err(OpenError::System { step: "binding to the queue", source });
            }
            if begin.elapsed() >= patience {
                return Err(OpenError::Busy);
            }
            thread::sleep(Duration::from_millis(20));
        }
        let zero_copy = syscall::is_zero_copy(socket).map_err(step("asking for the mode"))?;
        if !zero_copy
            && syscall::set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER)
                .is_err()
        {
            // Without CAP_NET_ADMIN as much as is allowed; bursts are then sent in more calls.
            let _ = syscall::set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, SEND_BUFFER);
        }
        Ok(Self {
            fill: producer_to_kernel(fill),
            completion: consumer_of_kernel(completion),
            receive: consumer_of_kernel(receive),
            transmit: producer_to_kernel(transmit),
            socket: owned,
            memory: memory.id(),
            zero_copy,
            several: flags & XDP_USE_SG != 0,
            receive_ring: rx,
        })
    }

    /// Lends it chunks of the pool that it was opened for.
    ///
    /// # Errors
    /// [`OpenError::OtherMemory`], [`OpenError::TooManySockets`]; the socket is closed then.
    pub fn join(self, pool: &mut FramePool) -> Result<XdpPort, OpenError> {
        if self.memory != pool.id() {
            return Err(OpenError::OtherMemory);
        }
        let mut port = XdpPort {
            registration: pool.register().ok_or(OpenError::TooManySockets)?,
            fill: self.fill,
            completion: self.completion,
            receive: self.receive,
            transmit: self.transmit,
            socket: self.socket,
            zero_copy: self.zero_copy,
            plain_most: if self.several { pool.plain_most() } else { usize::MAX },
            gathering: None,
            chunk_size: pool.chunk_size() as u64,
            lent: 0,
            receive_ring: self.receive_ring,
            stalled: false,
            statistics: PortStatistics::default(),
        };
        port.complete(pool);
        Ok(port)
    }
}

/// The largest MTU of a port: a jumbo frame holds its packets, with room for the headers and trailers of a tunnel.
pub const MAX_MTU: u32 = (JUMBO - HEADROOM - TAILROOM) as u32 - LINK_HEADER;

/// The largest MTU whose packets are one buffer.
fn plain_mtu(chunk_size: usize) -> u32 {
    (chunk_size - HEADROOM) as u32 - LINK_HEADER
}

impl XdpPort {
    /// Opens a queue of a device that the steering program is attached to, lends it chunks and has packets
    /// steered to it. Waits up to three seconds for a queue that was just closed.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is left open then.
    pub fn open(
        device: &Device,
        queue: u32,
        attachment: &Attachment,
        pool: &mut FramePool,
        config: &XdpConfig,
    ) -> Result<Self, OpenError> {
        let memory = pool.memory();
        BoundSocket::open(device, queue, attachment, &memory, config, BUSY_PATIENCE)?.join(pool)
    }

    /// Whether the device reads and writes packet memory itself.
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Closes the socket, as when its device has gone or is to be opened anew. The queue's packets go to the
    /// kernel, or nowhere, as the steering program's posture has it.
    pub fn close(self, pool: &mut FramePool) -> Retired {
        if let Some(Gathering::Whole(frame)) = self.gathering {
            pool.reclaim(frame);
        }
        Retired::new(self.registration)
    }

    /// See [`Port::receive`](crate::Port::receive).
    pub fn receive(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> usize {
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        let ready = self.receive.ready(max).min(max);
        let mut received = 0;
        for _ in 0..ready {
            let Some(descriptor) = self.receive.pop() else { break };
            match pool.received(self.registration, descriptor.addr, descriptor.len) {
                Some(frame) => {
                    self.lent = self.lent.saturating_sub(1);
                    let more = descriptor.options & libc::XDP_PKT_CONTD != 0;
                    if !more && frame.len() <= self.plain_most && self.gathering.is_none() {
                        out.push(frame);
                        received += 1;
                    } else if let Some(whole) = self.gather(pool, frame, more) {
                        out.push(whole);
                        received += 1;
                    }
                }
                None => self.statistics.descriptors_refused += 1,
            }
        }
        if ready > 0 {
            self.receive.release();
        }
        self.statistics.rx_packets += received as u64;
        received
    }

    /// Takes one buffer of a packet; the packet when it is whole.
    #[cold]
    fn gather(&mut self, pool: &mut FramePool, piece: Frame, more: bool) -> Option<Frame> {
        let gathering = self.gathering.take().unwrap_or_else(|| match pool.alloc_jumbo() {
            Some(frame) => Gathering::Whole(frame),
            None => Gathering::Lost,
        });
        let gathering = match gathering {
            Gathering::Whole(mut frame) => {
                let copied =
                    frame.extend(piece.len()).map(|room| room.copy_from_slice(piece.data()));
                match copied {
                    Some(()) => Gathering::Whole(frame),
                    None => {
                        pool.reclaim(frame);
                        Gathering::Lost
                    }
                }
            }
            Gathering::Lost => Gathering::Lost,
        };
        pool.reclaim(piece);
        if more {
            self.gathering = Some(gathering);
            return None;
        }
        match gathering {
            Gathering::Whole(frame) => Some(frame),
            Gathering::Lost => {
                self.statistics.rx_dropped += 1;
                None
            }
        }
    }

    /// See [`Port::transmit`](crate::Port::transmit).
    pub fn transmit(&mut self, pool: &mut FramePool, frames: &mut Vec<Frame>) -> usize {
        let want: u32 = frames.iter().map(|frame| pool.pieces(frame)).sum();
        let room = self.transmit.room(want);
        let taken = if room >= want {
            frames.len()
        } else {
            let mut slots = 0;
            let fits = frames.iter().take_while(|frame| {
                slots += pool.pieces(frame);
                slots <= room
            });
            fits.count()
        };
        for mut frame in frames.drain(..taken) {
            if frame.len() < LEAST_FRAME {
                if frame.is_empty() {
                    // The kernel would reject it and never give the chunk back.
                    self.statistics.tx_invalid += 1;
                    pool.reclaim(frame);
                    continue;
                }
                pad(pool, &mut frame);
            }
            let len = frame.len() as u32;
            match pool.lend_for_transmit(self.registration, frame) {
                Ok(addr) => {
                    self.statistics.tx_packets += 1;
                    if u64::from(len) > self.chunk_size - addr % self.chunk_size {
                        self.push_pieces(addr, len);
                        continue;
                    }
                    let descriptor = libc::xdp_desc { addr, len, options: 0 };
                    // There is room for `taken`.
                    let full = self.transmit.push(descriptor).is_err();
                    debug_assert!(!full);
                }
                Err(stray) => {
                    self.statistics.foreign_frames += 1;
                    pool.reclaim(stray);
                }
            }
        }
        if taken > 0 {
            self.transmit.publish();
        }
        taken
    }

    /// A packet in a jumbo frame, a descriptor for each chunk that it touches. There is room for them.
    #[cold]
    fn push_pieces(&mut self, mut addr: u64, mut len: u32) {
        while len > 0 {
            // Less than a chunk.
            let piece = len.min((self.chunk_size - addr % self.chunk_size) as u32);
            let options = if piece < len { libc::XDP_PKT_CONTD } else { 0 };
            let full = self.transmit.push(libc::xdp_desc { addr, len: piece, options }).is_err();
            debug_assert!(!full);
            addr += u64::from(piece);
            len -= piece;
        }
    }

    /// See [`Port::complete`](crate::Port::complete).
    pub fn complete(&mut self, pool: &mut FramePool) {
        let done = self.completion.ready(u32::MAX);
        for _ in 0..done {
            let Some(address) = self.completion.pop() else { break };
            if !pool.completed(self.registration, address) {
                self.statistics.descriptors_refused += 1;
            }
        }
        if done > 0 {
            self.completion.release();
        }

        // Bounded by what is lent, not by the room in the ring: chunks that wait in the receive ring count,
        // or a slow worker's ports would take all there is and leave none to send with.
        let want = self.receive_ring - self.lent;
        if want >= FILL_BATCH.min(self.receive_ring) {
            let want = self.fill.room(want).min(want);
            let mut moved = 0;
            for _ in 0..want {
                let Some(address) = pool.lend_for_fill(self.registration) else { break };
                let full = self.fill.push(address).is_err();
                debug_assert!(!full);
                moved += 1;
            }
            if moved > 0 {
                self.lent += moved;
                self.fill.publish();
            }
        }
        if self.fill.memory().needs_wakeup() {
            syscall::kick_receive(self.socket.as_fd());
        }
    }

    /// See [`Port::kick`](crate::Port::kick).
    pub fn kick(&mut self) {
        self.stalled = false;
        let mut pending = self.transmit.pending();
        if pending == 0 || !self.transmit.memory().needs_wakeup() {
            return;
        }
        // Each call in copy mode sends a batch, in this thread; the bound is for a device that takes none.
        for _ in 0..=pending / COPY_BATCH {
            match syscall::kick_transmit(self.socket.as_fd()) {
                Ok(()) => return,
                Err(e) => match e.raw_os_error() {
                    // More to send; unless nothing went, it goes on at once.
                    Some(libc::EAGAIN) => {
                        let left = self.transmit.pending();
                        if left == 0 || left == pending {
                            return;
                        }
                        pending = left;
                    }
                    // No room now: the next turn tries again.
                    Some(libc::ENOBUFS | libc::EBUSY) => return,
                    // The device is down or gone.
                    _ => {
                        self.statistics.kick_errors += 1;
                        self.stalled = true;
                        return;
                    }
                },
            }
        }
    }

    /// The socket, readable when packets arrive.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// See [`Port::prepare_sleep`](crate::Port::prepare_sleep).
    pub fn prepare_sleep(&mut self) -> bool {
        self.kick();
        // What a device that is down has not taken goes on with a later turn; waiting awake does not help it.
        (self.stalled || self.transmit.pending() == 0) && self.receive.is_empty()
    }

    /// See [`Port::take_error`](crate::Port::take_error).
    ///
    /// # Errors
    /// The system's.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        syscall::take_socket_error(self.socket.as_fd())
    }

    /// What this side has counted, without the kernel's part.
    pub fn counted(&self) -> PortStatistics {
        self.statistics
    }

    /// See [`Port::statistics`](crate::Port::statistics).
    ///
    /// # Errors
    /// The system's.
    pub fn statistics(&self) -> io::Result<PortStatistics> {
        let kernel = syscall::xdp_statistics(self.socket.as_fd())?;
        Ok(PortStatistics {
            rx_dropped: self.statistics.rx_dropped + kernel.rx_dropped,
            rx_ring_full: kernel.rx_ring_full,
            fill_ring_empty: kernel.rx_fill_ring_empty_descs,
            rx_invalid: kernel.rx_invalid_descs,
            tx_invalid: self.statistics.tx_invalid + kernel.tx_invalid_descs,
            tx_ring_empty: kernel.tx_ring_empty_descs,
            ..self.statistics
        })
    }
}

/// Makes a short frame as long as Ethernet asks. Devices that do it themselves need not take what lies behind the packet, which is of
/// another (CVE-2003-0001). Not where it would take another descriptor than was reckoned with.
#[cold]
fn pad(pool: &FramePool, frame: &mut Frame) {
    let (len, pieces) = (frame.len(), pool.pieces(frame));
    if let Some(padding) = frame.extend(LEAST_FRAME.saturating_sub(len)) {
        padding.fill(0);
    }
    if pool.pieces(frame) != pieces {
        frame.truncate(len);
    }
}
