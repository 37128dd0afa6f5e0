//! A gateway of one worker or two, with SAs, policies and routes as the daemon installs them, fed and turned by hand.
//!
//! ```text
//!           feed ───► port 0   worker   port 1 ──► sink      (timed)
//!                                        port 2 ══► catcher   (verified: the route leads there)
//! ```
//!
//! A worker takes what its packet memory holds, so that has as many chunks as a burst is to have packets.

use std::io;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use af_xdp::memory::{Feed, Generator, LinkConfig, MemoryPort, link};
use af_xdp::{ChunkSize, FramePool, Port, UmemConfig};
use hdrhistogram::Histogram;
use stats::Worker as Row;
use worker::{Clock, HostPort, PortId, Side, Worker, WorkerParts, WorkerPort};

use crate::plan::{Direction, Plan, Size};
use crate::report::median;
use crate::traffic::{FAR_MAC, Macs, NEAR_MAC, Shape};
use crate::tunnels::{Stream, Tunnels, Turned, account_for, check_all, counts};
use crate::{Error, pin};

const SINK: PortId = PortId(1);
const CATCHER: PortId = PortId(2);

/// Turns without a packet after which a pass is over, whatever became of it.
const PATIENCE: u32 = 1000;

/// Packets whose time is taken together: some ten microseconds, in which another process seldom gets the core.
pub(crate) const BLOCK: usize = 256;

/// Gives a device frames that lie `stride` bytes apart; how many.
pub(crate) fn give(
    feed: &mut Feed,
    frames: &[u8],
    stride: usize,
    lens: impl Iterator<Item = usize>,
) -> usize {
    feed.give(frames.chunks_exact(stride).zip(lens).map(|(bytes, len)| &bytes[..len]))
}

pub(crate) fn pool(chunks: u32) -> io::Result<FramePool> {
    FramePool::new(&UmemConfig {
        chunks,
        chunk_size: ChunkSize::Bytes2048,
        jumbo: 0,
        huge_pages: true,
    })
}

/// Both ends of a wire of one queue.
fn wire(ring: u32) -> io::Result<(MemoryPort, MemoryPort)> {
    let mut ends = link(&LinkConfig { ring, ..LinkConfig::default() })?;
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    Ok((ends.a.pop().ok_or_else(missing)?, ends.b.pop().ok_or_else(missing)?))
}

/// One worker and what is around it.
struct Lane {
    worker: Worker,
    feed: Feed,
    catcher: MemoryPort,
    catcher_pool: FramePool,
    stream: Stream,
    turns: Vec<Turn>,
    nanoseconds_a_cycle: f64,
}

impl Turned for Lane {
    fn worker(&mut self) -> &mut Worker {
        &mut self.worker
    }
}

/// A turn that took packets, and turns without any before it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Turn {
    pub(crate) packets: usize,
    pub(crate) cycles: u64,
}

/// The gateway of one point.
pub(crate) struct Bed {
    tunnels: Tunnels,
    lanes: Vec<Lane>,
    per_pass: usize,
    handoff: bool,
}

impl Bed {
    pub(crate) fn new(
        plan: &Plan,
        direction: Direction,
        size: Size,
        burst: usize,
        sas: usize,
    ) -> Result<Self, Error> {
        let mut parts = Vec::new();
        let mut ends = Vec::new();
        for _ in 0..plan.workers {
            let (feed, source) = Generator::source();
            let (out, catcher) = wire(64)?;
            ends.push((feed, catcher, pool(256)?));
            let [source, sink] = [source, Generator::sink()].map(Port::Generator);
            parts.push(WorkerParts {
                // What is handed over needs frames beside those of a worker's own packets.
                pool: pool(if plan.handoff > 0 { 4 * burst as u32 } else { burst as u32 })?,
                ports: [source, sink, Port::Memory(out)]
                    .map(|port| WorkerPort { port, side: Side::Either, vlan: None })
                    .into(),
                host: HostPort::None,
                block: None,
            });
        }
        let shape = Shape::new(plan, direction, size, Macs::default());
        let macs = [NEAR_MAC, FAR_MAC, FAR_MAC];
        let (mut tunnels, workers) = Tunnels::new(plan, shape, sas, &macs, parts)?;
        let lanes = workers.into_iter().zip(ends).enumerate();
        let lanes = lanes.map(|(index, (worker, end))| (index, worker, end));
        let lanes = lanes.map(|(index, worker, (feed, catcher, catcher_pool))| Lane {
            worker,
            feed,
            catcher,
            catcher_pool,
            stream: Stream::new(plan, &shape, index, sas),
            turns: Vec::with_capacity(plan.frames),
            nanoseconds_a_cycle: 0.0,
        });
        let mut lanes: Vec<Lane> = lanes.collect();
        tunnels.install(plan, sas, SINK, &mut lanes)?;
        Ok(Self { tunnels, lanes, per_pass: plan.frames, handoff: plan.handoff > 0 })
    }

    /// Writes the next packets.
    pub(crate) fn write(&mut self) {
        for lane in &mut self.lanes {
            lane.stream.write(self.per_pass, &mut self.tunnels);
        }
    }

    /// Writes the next packets and gives them to the devices.
    fn prepare(&mut self) -> Result<(), Error> {
        self.write();
        for lane in &mut self.lanes {
            let (stream, shape) = (&lane.stream, &self.tunnels.shape);
            let lens = stream.pass.iter().map(|next| shape.frame_len(next));
            if give(&mut lane.feed, &stream.frames, shape.stride(), lens) != self.per_pass {
                return Err(Error::Plan("the device does not take a pass"));
            }
        }
        Ok(())
    }

    /// One pass; how long it took from the first worker's beginning to the last one's end.
    fn pass(&mut self) -> Result<Duration, Error> {
        self.prepare()?;
        let before = self.counts();
        let given = self.per_pass * self.lanes.len();
        let mut took = Duration::ZERO;
        match self.lanes.as_mut_slice() {
            [lane] => lane.drive(given),
            lanes => {
                let (barrier, done) = (Barrier::new(lanes.len()), AtomicUsize::new(0));
                let (count, handoff) = (self.per_pass, self.handoff);
                std::thread::scope(|scope| {
                    let threads = lanes.iter_mut().enumerate().map(|(index, lane)| {
                        let (barrier, done) = (&barrier, &done);
                        scope.spawn(move || {
                            pin(index);
                            barrier.wait();
                            let start = Instant::now();
                            if handoff {
                                lane.drive_together(given, done);
                            } else {
                                lane.drive(count);
                            }
                            start.elapsed()
                        })
                    });
                    let threads: Vec<_> = threads.collect();
                    // A thread that panicked has said so, and its packets are missing.
                    took = threads.into_iter().filter_map(|t| t.join().ok()).max().unwrap_or(took);
                });
            }
        }
        self.account_for(before, given as u64)?;
        self.tunnels.listen();
        Ok(took)
    }

    /// Packets received and sent.
    pub(crate) fn counts(&self) -> (u64, u64) {
        counts(self.lanes.iter().map(|lane| &lane.worker))
    }

    /// Whether so many packets went in and out, all of them, and none is in between.
    pub(crate) fn account_for(&self, before: (u64, u64), given: u64) -> Result<(), Error> {
        account_for(self.lanes.iter().map(|lane| &lane.worker), before, given)
    }

    /// Nanoseconds a packet, of all workers together: each worker's is the median of its blocks, as many as the time
    /// allows, and their rates add up.
    pub(crate) fn sample(
        &mut self,
        time: Duration,
        latency: &mut Histogram<u64>,
    ) -> Result<f64, Error> {
        let mut blocks = vec![Vec::new(); self.lanes.len()];
        let mut left = time.as_nanos() as u64;
        let (mut given, mut taken) = (0, 0);
        while left > 0 {
            let took = self.pass()?;
            given += self.per_pass * self.lanes.len();
            let mut longest = took.as_nanos() as u64;
            for (lane, blocks) in self.lanes.iter().zip(&mut blocks) {
                let (mut block, mut pass) = (Turn::default(), 0);
                let nanoseconds = |cycles| cycles as f64 * lane.nanoseconds_a_cycle;
                for turn in &lane.turns {
                    taken += turn.packets;
                    let time = nanoseconds(turn.cycles);
                    latency.saturating_record(time as u64);
                    pass += time as u64;
                    block.cycles += turn.cycles;
                    block.packets += turn.packets;
                    if block.packets >= BLOCK {
                        blocks.push(nanoseconds(block.cycles) / block.packets as f64);
                        block = Turn::default();
                    }
                }
                longest = longest.max(pass);
            }
            left = left.saturating_sub(longest);
        }
        // What was handed over is in two workers' turns.
        let times = taken as f64 / given as f64;
        let of_all = 1.0 / blocks.into_iter().map(|blocks| 1.0 / median(blocks)).sum::<f64>();
        Ok(of_all * times)
    }

    /// Packets of a pass.
    pub(crate) fn per_pass(&self) -> usize {
        self.per_pass
    }

    /// What a cycle of the last pass took, by the clock.
    pub(crate) fn nanoseconds_a_cycle(&self) -> f64 {
        self.lanes.first().map_or(0.0, |lane| lane.nanoseconds_a_cycle)
    }

    /// Where the first worker's packets are written, for whatever else is measured with the same memory.
    pub(crate) fn lend(&mut self) -> Option<&mut [u8]> {
        Some(&mut self.lanes.first_mut()?.stream.frames)
    }

    /// A frame of the pass that was written last, of the first worker.
    pub(crate) fn frame(&self, n: usize) -> &[u8] {
        let [lane, ..] = self.lanes.as_slice() else { return &[] };
        lane.stream.frame(&self.tunnels.shape, n)
    }

    /// Takes back what was noted of a packet that will not be fed.
    pub(crate) fn forget(&mut self, n: usize) {
        if let Some(next) = self.lanes.first().map(|lane| lane.stream.pass[n]) {
            self.tunnels.forget(next);
        }
    }

    /// Gives the first worker's device frames; how many it took.
    pub(crate) fn feed<'a>(&mut self, frames: impl Iterator<Item = &'a [u8]>) -> usize {
        self.lanes.first_mut().map_or(0, |lane| lane.feed.give(frames))
    }

    /// Turns the first worker once: packets, and cycles that they took.
    pub(crate) fn turn(&mut self, clock: &mut Clock) -> (usize, u64) {
        let Some(lane) = self.lanes.first_mut() else { return (0, 0) };
        let begun = stats::cycles();
        let packets = lane.worker.turn(clock.now(begun)).packets;
        (packets, lane.worker.turned_at().wrapping_sub(begun))
    }

    /// Turns all workers until so many packets came out.
    fn drive_and_catch(&mut self, count: usize) -> Vec<Vec<u8>> {
        let mut caught = Vec::with_capacity(count);
        let mut frames = Vec::new();
        let mut idle = 0;
        while caught.len() < count && idle < PATIENCE {
            let before = caught.len();
            for lane in &mut self.lanes {
                lane.worker.turn(Instant::now());
                lane.catcher.receive(&mut lane.catcher_pool, &mut frames, 256);
                for frame in frames.drain(..) {
                    caught.push(frame.data().to_vec());
                    // Its own frames come home.
                    let _ = lane.catcher_pool.free(frame);
                }
            }
            idle = if caught.len() == before { idle + 1 } else { 0 };
        }
        caught
    }

    /// A pass of which every output is caught and looked into, and then two packets of every SA, so that a change of
    /// routes is forgotten: by its flow with the first, by the SA with the second. How many were looked into.
    pub(crate) fn verify(&mut self) -> Result<u64, Error> {
        self.tunnels.lead_to(CATCHER, &mut self.lanes)?;
        self.prepare()?;
        let (before, given) = (self.counts(), self.per_pass * self.lanes.len());
        let outputs = self.drive_and_catch(given);
        self.account_for(before, given as u64)?;
        let nexts = self.lanes.iter().flat_map(|lane| &lane.stream.pass);
        let verified = check_all(&self.tunnels.shape, nexts, &outputs)?;
        self.tunnels.lead_to(SINK, &mut self.lanes)?;
        let longest = self.lanes.iter().map(|lane| lane.stream.round()).max().unwrap_or(0);
        for _ in 0..(2 * longest).div_ceil(self.per_pass) {
            self.pass()?;
        }
        Ok(verified)
    }
}

impl Lane {
    /// Turns until it has taken a pass, as [`Worker::run`] does, and notes the time of every turn: its cycles, which the clock is read
    /// for before and after the pass.
    fn drive(&mut self, count: usize) {
        self.turns.clear();
        let mut clock = Clock::new();
        let (start, first) = (Instant::now(), stats::cycles());
        let (mut begun, mut taken, mut idle) = (first, 0, 0);
        while taken < count && idle < PATIENCE {
            let packets = self.worker.turn(clock.now(begun)).packets;
            let end = self.worker.turned_at();
            if packets == 0 {
                idle += 1;
                continue;
            }
            taken += packets;
            self.turns.push(Turn { packets, cycles: end.wrapping_sub(begun) });
            begun = end;
        }
        self.nanoseconds_a_cycle =
            start.elapsed().as_nanos() as f64 / begun.wrapping_sub(first).max(1) as f64;
    }

    /// Turns until all workers together have sent what was given to all; a packet that one took may be another's to send.
    fn drive_together(&mut self, given: usize, done: &AtomicUsize) {
        self.turns.clear();
        let (mut clock, mut idle) = (Clock::new(), 0);
        let (start, first) = (Instant::now(), stats::cycles());
        let mut begun = first;
        let through = |lane: &Self| {
            let account = lane.worker.account();
            account.get(Row::Sent) + account.all_drops()
        };
        let mut counted = through(self);
        while done.load(Ordering::Relaxed) < given && idle < 1000 * PATIENCE {
            let packets = self.worker.turn(clock.now(begun)).packets;
            let end = self.worker.turned_at();
            let cycles = end.wrapping_sub(begun);
            begun = end;
            if packets > 0 {
                // What is done is asked once there is nothing else to do: the other worker's cache has the count.
                self.turns.push(Turn { packets, cycles });
                idle = 0;
                continue;
            }
            idle += 1;
            let now = through(self);
            if now != counted {
                done.fetch_add((now - counted) as usize, Ordering::Relaxed);
                counted = now;
            }
        }
        self.nanoseconds_a_cycle =
            start.elapsed().as_nanos() as f64 / begun.wrapping_sub(first).max(1) as f64;
    }
}
