//! The in-memory device: a wire between two ends, which may be in different threads, with faults on request.
//!
//! ```text
//!   end A, queue 0 ──frames──►  ┐                  ┌ end B, queue 0
//!   end A, queue 1 ◄─returns──  ┴─ one ring pair ──┴ end B, queue 1
//!                                  for each pair of queues, each way
//! ```
//!
//! The sender's frame travels; the receiver copies it into a frame of its own and sends it home, so that the
//! sender sees a transmission and its completion as with AF_XDP. The wire has flow control: what a receiver does
//! not take fills the sender's ring and [`MemoryPort::transmit`] takes no more, so nothing is lost but what
//! the wire was told to lose, and that is counted.

use crate::doorbell::{Doorbell, Sleep};
use crate::pool::FramePool;
use crate::port::PortStatistics;
use crate::ring::{Consumer, Heap, Producer, heap};
use crate::umem::Frame;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

mod faults;
mod generator;
mod station;

pub use faults::{FaultCounts, Faults, PartsPerMillion};
pub use generator::{Feed, Generator};
pub use station::Station;

use faults::{Fate, Fortune};

/// What [`link`] makes.
#[derive(Clone, Copy, Debug)]
pub struct LinkConfig {
    /// Queues of end A, at least one.
    pub queues_a: u16,
    /// Queues of end B, at least one.
    pub queues_b: u16,
    /// Frames that one queue can have on the wire, rounded up to a power of two.
    pub ring: u32,
    /// Faults of either direction to begin with.
    pub faults: Faults,
    /// The receive queue to begin with.
    pub receive_queue: ReceiveQueue,
    /// Seed of the faults: the same seed and the same packets meet the same faults.
    pub seed: u64,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            queues_a: 1,
            queues_b: 1,
            ring: 2048,
            faults: Faults::NONE,
            receive_queue: ReceiveQueue::ByAddresses,
            seed: 1,
        }
    }
}

/// Which queue of the far end a packet arrives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveQueue {
    /// By a hash of the two IP addresses, as a device's receive-side scaling does; what is not IP on
    /// queue 0.
    ByAddresses,
    /// All on this one (modulo the number there is).
    Forced(u16),
    /// What each port of the other end sends, on one queue after the other.
    InTurns,
}

/// Both ends of a wire and the handle that changes it.
#[derive(Debug)]
pub struct Link {
    /// One port for each queue of end A.
    pub a: Vec<MemoryPort>,
    /// One port for each queue of end B.
    pub b: Vec<MemoryPort>,
    /// Changes and watches the wire from any thread.
    pub wire: Wire,
}

/// A direction of a [`Link`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From end A to end B.
    AToB,
    /// From end B to end A.
    BToA,
}

/// Changes and watches a wire while its ends work; a change holds from each sender's next burst on.
#[derive(Clone, Debug)]
pub struct Wire(Arc<[Way; 2]>);

/// One direction's settings (written by a [`Wire`], read by the senders once a burst; Relaxed, nothing else
/// hangs on them) and counters.
#[derive(Debug)]
struct Way {
    /// A queue number, `BY_ADDRESSES` or `IN_TURNS`.
    receive_queue: AtomicU32,
    loss: AtomicU32,
    duplication: AtomicU32,
    reordering: AtomicU32,
    corruption: AtomicU32,
    /// One block for each sending queue.
    counters: Box<[Counters]>,
}

const BY_ADDRESSES: u32 = u32::MAX;
const IN_TURNS: u32 = u32::MAX - 1;

/// Written by one port, with Relaxed load and store; a reader gets each value at some moment.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counters {
    taken: AtomicU64,
    lost: AtomicU64,
    duplicated: AtomicU64,
    reordered: AtomicU64,
    corrupted: AtomicU64,
}

/// Adds to a counter that this thread alone writes.
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Wire {
    fn way(&self, direction: Direction) -> &Way {
        match direction {
            Direction::AToB => &self.0[0],
            Direction::BToA => &self.0[1],
        }
    }

    /// Sets the faults of a direction.
    pub fn set_faults(&self, direction: Direction, faults: Faults) {
        let way = self.way(direction);
        way.loss.store(faults.loss.get(), Ordering::Relaxed);
        way.duplication.store(faults.duplication.get(), Ordering::Relaxed);
        way.reordering.store(faults.reordering.get(), Ordering::Relaxed);
        way.corruption.store(faults.corruption.get(), Ordering::Relaxed);
    }

    /// Sets the queue that a direction's packets arrive on.
    pub fn set_receive_queue(&self, direction: Direction, queue: ReceiveQueue) {
        let queue = match queue {
            ReceiveQueue::ByAddresses => BY_ADDRESSES,
            ReceiveQueue::Forced(queue) => u32::from(queue),
            ReceiveQueue::InTurns => IN_TURNS,
        };
        self.way(direction).receive_queue.store(queue, Ordering::Relaxed);
    }

    /// What happened to a direction's packets so far, all sending queues together.
    pub fn counts(&self, direction: Direction) -> FaultCounts {
        let mut sum = FaultCounts::default();
        for counters in &self.way(direction).counters {
            sum.taken += counters.taken.load(Ordering::Relaxed);
            sum.lost += counters.lost.load(Ordering::Relaxed);
            sum.duplicated += counters.duplicated.load(Ordering::Relaxed);
            sum.reordered += counters.reordered.load(Ordering::Relaxed);
            sum.corrupted += counters.corrupted.load(Ordering::Relaxed);
        }
        sum
    }
}

/// A queue of one end of a wire.
#[derive(Debug)]
pub struct MemoryPort {
    /// From each queue of the far end.
    receive: Box<[ReceiveLane]>,
    /// The lane to begin the next burst with.
    next: usize,
    /// To each queue of the far end.
    transmit: Box<[TransmitLane]>,
    bell: Arc<Doorbell>,
    /// Frames sent and not yet come home, those held back included; at most `ring`.
    outstanding: u32,
    /// Which lane was last, where lanes go in turns.
    turn: u32,
    ring: u32,
    fortune: Fortune,
    wire: Wire,
    direction: Direction,
    queue: usize,
    statistics: PortStatistics,
}

#[derive(Debug)]
struct ReceiveLane {
    packets: Consumer<Frame, Heap<Frame>>,
    home: Producer<Frame, Heap<Frame>>,
    sender: Arc<Doorbell>,
}

#[derive(Debug)]
struct TransmitLane {
    packets: Producer<Frame, Heap<Frame>>,
    home: Consumer<Frame, Heap<Frame>>,
    receiver: Arc<Doorbell>,
    /// Published to since the last kick.
    dirty: bool,
}

/// How many packets ahead the wire's memory is asked for.
const PREFETCHED: u32 = 3;

/// Makes a wire.
///
/// # Errors
/// The system's, when it has no descriptors left for the bells; `InvalidInput` for an end without queues.
pub fn link(config: &LinkConfig) -> io::Result<Link> {
    if config.queues_a == 0 || config.queues_b == 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let way = |queues: u16| Way {
        receive_queue: AtomicU32::new(BY_ADDRESSES),
        loss: AtomicU32::new(0),
        duplication: AtomicU32::new(0),
        reordering: AtomicU32::new(0),
        corruption: AtomicU32::new(0),
        counters: (0..queues).map(|_| Counters::default()).collect(),
    };
    let wire = Wire(Arc::new([way(config.queues_a), way(config.queues_b)]));
    for direction in [Direction::AToB, Direction::BToA] {
        wire.set_faults(direction, config.faults);
        wire.set_receive_queue(direction, config.receive_queue);
    }
    let bells = |queues: u16| -> io::Result<Vec<Arc<Doorbell>>> {
        (0..queues).map(|_| Doorbell::new().map(Arc::new)).collect()
    };
    let (bells_a, bells_b) = (bells(config.queues_a)?, bells(config.queues_b)?);
    let ring = config.ring.clamp(2, 1 << 16).next_power_of_two();
    let (transmit_a, receive_b) = lanes(&bells_a, &bells_b, ring);
    let (transmit_b, receive_a) = lanes(&bells_b, &bells_a, ring);
    let end = |bells: Vec<Arc<Doorbell>>, receive: Vec<_>, transmit: Vec<_>, direction| {
        let lanes = receive.into_iter().zip(transmit);
        bells
            .into_iter()
            .zip(lanes)
            .enumerate()
            .map(|(queue, (bell, (receive, transmit)))| MemoryPort {
                receive,
                next: 0,
                transmit,
                bell,
                outstanding: 0,
                turn: 0,
                ring,
                fortune: Fortune::new(config.seed, direction, queue),
                wire: wire.clone(),
                direction,
                queue,
                statistics: PortStatistics::default(),
            })
            .collect()
    };
    Ok(Link {
        a: end(bells_a, receive_a, transmit_a, Direction::AToB),
        b: end(bells_b, receive_b, transmit_b, Direction::BToA),
        wire: wire.clone(),
    })
}

/// One list of lanes for each sender, and one for each receiver.
type Lanes = (Vec<Box<[TransmitLane]>>, Vec<Box<[ReceiveLane]>>);

/// The rings of one direction.
fn lanes(senders: &[Arc<Doorbell>], receivers: &[Arc<Doorbell>], ring: u32) -> Lanes {
    let mut transmit: Vec<Vec<TransmitLane>> = senders.iter().map(|_| Vec::new()).collect();
    let mut receive: Vec<Vec<ReceiveLane>> = receivers.iter().map(|_| Vec::new()).collect();
    for (sender, transmit) in senders.iter().zip(&mut transmit) {
        for (receiver, receive) in receivers.iter().zip(&mut receive) {
            let (packets_in, packets_out) = heap(ring);
            let (home_in, home_out) = heap(ring);
            transmit.push(TransmitLane {
                packets: packets_in,
                home: home_out,
                receiver: Arc::clone(receiver),
                dirty: false,
            });
            receive.push(ReceiveLane {
                packets: packets_out,
                home: home_in,
                sender: Arc::clone(sender),
            });
        }
    }
    (
        transmit.into_iter().map(Vec::into_boxed_slice).collect(),
        receive.into_iter().map(Vec::into_boxed_slice).collect(),
    )
}

impl MemoryPort {
    /// See [`Port::receive`](crate::Port::receive). Packets wait on the wire while `pool` is empty.
    pub fn receive(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) -> usize {
        let mut received = 0;
        let (later, first) = self.receive.split_at_mut(self.next);
        for lane in first.iter_mut().chain(later) {
            let mut moved = 0;
            while received < max && pool.available() > 0 {
                let Some(packet) = lane.packets.pop() else { break };
                moved += 1;
                lane.packets.peek(PREFETCHED, Frame::prefetch);
                match pool.alloc_for(packet.len()) {
                    Some(mut own) => {
                        // It was asked for with this length.
                        let _ = own.copy_from(packet.data());
                        out.push(own);
                        received += 1;
                    }
                    None => self.statistics.rx_dropped += 1,
                }
                // There is room: the sender has at most `ring` frames out, and this ring is as large.
                let full = lane.home.push(packet).is_err();
                debug_assert!(!full);
            }
            if moved > 0 {
                lane.packets.release();
                lane.home.publish();
                lane.sender.ring(Sleep::ForPacketsOrFrames);
            }
        }
        self.next = if self.next + 1 < self.receive.len() { self.next + 1 } else { 0 };
        self.statistics.rx_packets += received as u64;
        received
    }

    /// See [`Port::transmit`](crate::Port::transmit). Frames of other UMEMs may be sent too.
    pub fn transmit(&mut self, pool: &mut FramePool, frames: &mut Vec<Frame>) -> usize {
        let way = self.wire.way(self.direction);
        let faults = Faults {
            loss: PartsPerMillion::new(way.loss.load(Ordering::Relaxed)),
            duplication: PartsPerMillion::new(way.duplication.load(Ordering::Relaxed)),
            reordering: PartsPerMillion::new(way.reordering.load(Ordering::Relaxed)),
            corruption: PartsPerMillion::new(way.corruption.load(Ordering::Relaxed)),
        };
        // A packet may become two.
        let each = 1 + u32::from(faults.duplication.get() > 0);
        let taken = frames.len().min(((self.ring - self.outstanding) / each) as usize);
        if taken == 0 {
            return 0;
        }
        let forced = way.receive_queue.load(Ordering::Relaxed);
        let counters = &way.counters[self.queue];
        counters
            .taken
            .store(counters.taken.load(Ordering::Relaxed) + taken as u64, Ordering::Relaxed);
        let mut lanes = Senders {
            lanes: &mut self.transmit,
            forced,
            turn: &mut self.turn,
            outstanding: &mut self.outstanding,
        };
        for mut frame in frames.drain(..taken) {
            if faults != Faults::NONE {
                if self.fortune.strikes(faults.corruption) {
                    self.fortune.corrupt(frame.data_mut());
                    count(&counters.corrupted);
                }
                match self.fortune.decide(&faults) {
                    Fate::Arrives => {}
                    Fate::IsLost => {
                        count(&counters.lost);
                        pool.reclaim(frame);
                        continue;
                    }
                    Fate::ArrivesTwice => {
                        if let Some(mut copy) = pool.alloc_for(frame.len()) {
                            if copy.copy_from(frame.data()).is_some() {
                                count(&counters.duplicated);
                                lanes.send(pool, copy);
                            } else {
                                pool.reclaim(copy);
                            }
                        }
                    }
                    Fate::IsLate => {
                        count(&counters.reordered);
                        pool.note_lent(&frame);
                        *lanes.outstanding += 1;
                        self.fortune.hold(frame);
                        continue;
                    }
                }
            }
            lanes.send(pool, frame);
            self.fortune.overtake();
            while let Some(late) = self.fortune.due() {
                lanes.put(late);
            }
        }
        for lane in &mut self.transmit {
            lane.packets.publish();
        }
        self.statistics.tx_packets += taken as u64;
        taken
    }

    /// See [`Port::complete`](crate::Port::complete). Also moves late packets on when nothing overtakes them.
    pub fn complete(&mut self, pool: &mut FramePool) {
        for lane in &mut self.transmit {
            let mut moved = false;
            while let Some(frame) = lane.home.pop() {
                pool.note_returned(frame);
                self.outstanding -= 1;
                moved = true;
            }
            if moved {
                lane.home.release();
            }
        }
        if self.fortune.waited_enough() {
            self.release_late();
            self.kick();
        }
    }

    /// See [`Port::kick`](crate::Port::kick).
    pub fn kick(&mut self) {
        for lane in &mut self.transmit {
            if lane.dirty {
                lane.dirty = false;
                lane.receiver.ring(Sleep::ForPackets);
            }
        }
    }

    /// The descriptor that becomes readable when this port's owner sleeps and there is work.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.bell.event().as_fd()
    }

    /// See [`Port::prepare_sleep`](crate::Port::prepare_sleep).
    pub fn prepare_sleep(&mut self) -> bool {
        self.release_late();
        self.kick();
        // Less than a packet and its duplicate.
        let full = self.ring - self.outstanding < 2;
        self.bell.arm(if full { Sleep::ForPacketsOrFrames } else { Sleep::ForPackets });
        let idle = self.receive.iter_mut().all(|lane| lane.packets.is_empty())
            && (!full || self.transmit.iter_mut().all(|lane| lane.home.is_empty()));
        if !idle {
            self.bell.disarm();
        }
        idle
    }

    /// See [`Port::wake`](crate::Port::wake).
    pub fn wake(&mut self) {
        self.bell.disarm();
        self.bell.event().clear();
    }

    /// What this port has counted.
    pub fn statistics(&self) -> PortStatistics {
        self.statistics
    }

    fn release_late(&mut self) {
        let forced = self.wire.way(self.direction).receive_queue.load(Ordering::Relaxed);
        let mut lanes = Senders {
            lanes: &mut self.transmit,
            forced,
            turn: &mut self.turn,
            outstanding: &mut self.outstanding,
        };
        let mut any = false;
        while let Some(late) = self.fortune.release() {
            lanes.put(late);
            any = true;
        }
        if any {
            for lane in &mut self.transmit {
                lane.packets.publish();
            }
        }
    }
}

/// The sending half of a port during one burst.
struct Senders<'a> {
    lanes: &'a mut [TransmitLane],
    forced: u32,
    turn: &'a mut u32,
    outstanding: &'a mut u32,
}

impl Senders<'_> {
    fn send(&mut self, pool: &mut FramePool, frame: Frame) {
        pool.note_lent(&frame);
        *self.outstanding += 1;
        self.put(frame);
    }

    fn put(&mut self, frame: Frame) {
        let queues = self.lanes.len() as u32;
        let queue = if queues == 1 {
            0
        } else if self.forced == BY_ADDRESSES {
            // The high half of a 32 by 32 product: the hash scaled to the number of queues.
            ((u64::from(hash(frame.data())) * u64::from(queues)) >> 32) as u32
        } else if self.forced == IN_TURNS {
            *self.turn = self.turn.wrapping_add(1);
            *self.turn % queues
        } else {
            self.forced % queues
        };
        let lane = &mut self.lanes[queue as usize];
        lane.dirty = true;
        // There is room: at most `ring` frames are outstanding, and each lane is as large.
        let full = lane.packets.push(frame).is_err();
        debug_assert!(!full);
    }
}

/// Mixes the two addresses of an IP packet behind an untagged Ethernet header; zero for the rest.
fn hash(frame: &[u8]) -> u32 {
    let addresses = match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(26..34),
        Some([0x86, 0xdd]) => frame.get(22..54),
        _ => None,
    };
    let mut h = 0u64;
    for word in addresses.unwrap_or(&[]).chunks_exact(4) {
        let word = word.iter().fold(0, |w, b| w << 8 | u64::from(*b));
        // The multiplier of splitmix64; any odd one with well spread bits serves.
        h = (h ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        h ^= h >> 29;
    }
    (h >> 16) as u32
}

#[cfg(test)]
mod tests;
