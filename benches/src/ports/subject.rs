//! Who is measured, on cores of their own: the gateway's workers, or forwarders that do nothing else.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use af_xdp::{Frame, FramePool, Port};
use worker::{Clock, Worker};

use crate::gateway::{BLOCK, Turn};
use crate::traffic::Macs;
use crate::{MAX_PATH_BURST, pin};

/// Takes packets from a port and sends others.
pub(super) trait Subject: Send {
    /// One burst at most of each source; how many packets.
    fn turn(&mut self, now: Instant) -> usize;
    /// The cycle counter at the end of the last turn.
    fn turned_at(&self) -> u64;
}

impl Subject for Worker {
    fn turn(&mut self, now: Instant) -> usize {
        Self::turn(self, now).packets
    }

    fn turned_at(&self) -> u64 {
        Self::turned_at(self)
    }
}

/// A queue whose packets go back where they came from: what AF_XDP takes without a gateway.
pub(super) struct Forwarder {
    port: Port,
    pool: FramePool,
    frames: Vec<Frame>,
    /// Destination and source of all that it sends.
    addresses: [u8; 12],
    at: u64,
}

impl Forwarder {
    pub(super) fn new(pool: FramePool, port: Port, macs: Macs) -> Self {
        let mut addresses = [0; 12];
        addresses[..6].copy_from_slice(&macs.sink.0);
        addresses[6..].copy_from_slice(&macs.far.0);
        Self { port, pool, frames: Vec::with_capacity(MAX_PATH_BURST), addresses, at: 0 }
    }
}

impl Subject for Forwarder {
    fn turn(&mut self, _: Instant) -> usize {
        self.port.complete(&mut self.pool);
        let packets = self.port.receive(&mut self.pool, &mut self.frames, MAX_PATH_BURST);
        for frame in &mut self.frames {
            if let Some(addresses) = frame.data_mut().first_chunk_mut() {
                *addresses = self.addresses;
            }
        }
        self.port.transmit(&mut self.pool, &mut self.frames);
        self.port.kick();
        self.at = stats::cycles();
        packets
    }

    fn turned_at(&self) -> u64 {
        self.at
    }
}

const HELD: u8 = 0;
const OPEN: u8 = 1;
const OVER: u8 = 2;

/// Whether subjects may turn.
pub(super) struct Gate(AtomicU8);

impl Gate {
    pub(super) fn hold(&self) {
        self.0.store(HELD, Ordering::Release);
    }

    pub(super) fn open(&self) {
        self.0.store(OPEN, Ordering::Release);
    }
}

/// Turns that took packets.
#[derive(Default)]
pub(super) struct Turns {
    blocks: Vec<f64>,
    block: Turn,
    turns: u64,
    packets: u64,
}

impl Turns {
    fn note(&mut self, packets: usize, cycles: u64) {
        self.turns += 1;
        self.packets += packets as u64;
        self.block.packets += packets;
        self.block.cycles += cycles;
        if self.block.packets >= BLOCK {
            self.blocks.push(self.block.cycles as f64 / self.block.packets as f64);
            self.block = Turn::default();
        }
    }

    /// Cycles a packet, by blocks of packets.
    pub(super) fn blocks(&self) -> Vec<f64> {
        self.blocks.clone()
    }

    pub(super) fn turns(&self) -> u64 {
        self.turns
    }

    pub(super) fn packets(&self) -> u64 {
        self.packets
    }
}

/// Has subjects turn, each on a core of its own, while `body` sends; they are held at first.
pub(super) fn run<T>(
    subjects: &mut [impl Subject],
    body: impl FnOnce(&Gate) -> T,
) -> (T, Vec<Turns>) {
    let gate = Gate(AtomicU8::new(HELD));
    std::thread::scope(|scope| {
        let subjects = subjects.iter_mut().enumerate().map(|(index, subject)| {
            let gate = &gate;
            scope.spawn(move || {
                pin(index);
                serve(subject, gate)
            })
        });
        let threads: Vec<_> = subjects.collect();
        let done = body(&gate);
        gate.0.store(OVER, Ordering::Release);
        // A thread that panicked has said so, and its packets are missing.
        (done, threads.into_iter().filter_map(|thread| thread.join().ok()).collect())
    })
}

fn serve(subject: &mut impl Subject, gate: &Gate) -> Turns {
    let mut turns = Turns::default();
    let mut clock = Clock::new();
    let mut begun = stats::cycles();
    loop {
        match gate.0.load(Ordering::Acquire) {
            OVER => return turns,
            HELD => {
                std::thread::yield_now();
                begun = stats::cycles();
                continue;
            }
            _ => {}
        }
        let packets = subject.turn(clock.now(begun));
        let end = subject.turned_at();
        if packets > 0 {
            turns.note(packets, end.wrapping_sub(begun));
        }
        begun = end;
    }
}
