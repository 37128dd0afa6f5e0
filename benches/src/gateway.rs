//! A gateway of one worker or two, with SAs, policies and routes as the daemon installs them, fed and turned by hand.
//!
//! ```text
//!   Feeder ══ wire ══► port 0   worker   port 1 ──► sink      (timed)
//!                                        port 2 ══► catcher   (verified: the route leads there)
//! ```
//!
//! A worker takes what its packet memory holds, so that has as many chunks as a burst is to have packets.

use std::io;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use af_xdp::memory::{Generator, LinkConfig, MemoryPort, link};
use af_xdp::{ChunkSize, Frame, FramePool, Port, UmemConfig};
use hdrhistogram::Histogram;
use ipsec::algorithm::{Cipher, KeyMaterial};
use ipsec::sa::{HeaderRules, Lifetime, Mode, PairId, Protocol, SaParameters, Spi, Transform};
use ipsec::selector::{Action, AddressRange, Policy, PolicyId, Ports, Selector};
use stats::Worker as Row;
use worker::{
    Activation, Clock, CoreId, Dataplane, DataplaneConfig, Delivery, ForwardingTable, HostPort,
    Idle, Limits, Link, LocalAddresses, NeighbourTable, PortId, Route, RouteTable, Side, Worker,
    WorkerParts, WorkerPort,
};

use crate::plan::{Direction, Plan};
use crate::report::median;
use crate::traffic::{
    FAR_MAC, HOST, INSIDE, NEAR_MAC, Next, OUTSIDE, PEER, SINK_MAC, SOURCE_MAC, Shape, frame_len,
    keying, remote, unused,
};
use crate::{Error, pin};

const SOURCE: PortId = PortId(0);
const SINK: PortId = PortId(1);
const CATCHER: PortId = PortId(2);

/// Turns without a packet after which a pass is over, whatever became of it.
const PATIENCE: u32 = 1000;

/// Packets whose time is taken together: some ten microseconds, in which another process seldom gets the core.
pub(crate) const BLOCK: usize = 256;

/// SAs installed before the workers turn: their commands fit a ring.
const INSTALLED_AT_ONCE: usize = 512;

/// Takes frames from the bench to a port of a worker.
pub(crate) struct Feeder {
    port: MemoryPort,
    pool: FramePool,
    queue: Vec<Frame>,
}

impl Feeder {
    /// And the port's end of the wire, which holds `frames`.
    pub(crate) fn new(frames: usize) -> io::Result<(Self, MemoryPort)> {
        let (port, near) = wire(frames as u32)?;
        let feeder = Self { port, pool: pool(frames as u32)?, queue: Vec::new() };
        Ok((feeder, near))
    }

    /// Puts frames of equal length on the wire, which is empty; how many fit.
    pub(crate) fn feed(&mut self, frames: &[u8], len: usize) -> usize {
        self.port.complete(&mut self.pool);
        for bytes in frames.chunks_exact(len) {
            let Some(mut frame) = self.pool.alloc() else { break };
            if frame.copy_from(bytes).is_some() {
                self.queue.push(frame);
            }
        }
        let fed = self.port.transmit(&mut self.pool, &mut self.queue);
        self.port.kick();
        fed
    }
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
    feeder: Feeder,
    catcher: MemoryPort,
    catcher_pool: FramePool,
    /// SPI and the last sequence number of each SA.
    sas: Vec<(u32, u64)>,
    /// The number of its first SA among all.
    first: usize,
    number: u64,
    pass: Vec<Next>,
    frames: Vec<u8>,
    turns: Vec<Turn>,
    nanoseconds_a_cycle: f64,
}

/// A turn that took packets, and turns without any before it.
#[derive(Clone, Copy, Default)]
struct Turn {
    packets: usize,
    cycles: u64,
}

/// The gateway of one point.
pub(crate) struct Bed {
    dataplane: Dataplane,
    lanes: Vec<Lane>,
    shape: Shape,
    order: Vec<u32>,
    per_pass: usize,
}

impl Bed {
    pub(crate) fn new(
        plan: &Plan,
        direction: Direction,
        size: u16,
        burst: usize,
        sas: usize,
    ) -> Result<Self, Error> {
        let mut parts = Vec::new();
        let mut ends = Vec::new();
        for _ in 0..plan.workers {
            let (feeder, near) = Feeder::new(plan.frames)?;
            let (out, catcher) = wire(64)?;
            ends.push((feeder, catcher, pool(256)?));
            let sink = Port::Generator(Generator::new(&[[0u8; 0]; 0], 0));
            parts.push(WorkerParts {
                pool: pool(burst as u32)?,
                ports: [Port::Memory(near), sink, Port::Memory(out)]
                    .map(|port| WorkerPort { port, side: Side::Either, vlan: None })
                    .into(),
                host: HostPort::None,
                block: None,
            });
        }
        let limits = Limits {
            // Four slots of the first core name no SPI.
            sas: (sas + 8).next_power_of_two(),
            commands_per_turn: 4096,
            ..Limits::default()
        };
        let config = DataplaneConfig { limits, idle: Idle::Spin, ..DataplaneConfig::default() };
        let (dataplane, workers) = Dataplane::new(&config, parts)?;
        let lanes = workers.into_iter().zip(ends).enumerate();
        let lanes = lanes.map(|(index, (worker, (feeder, catcher, catcher_pool)))| Lane {
            worker,
            feeder,
            catcher,
            catcher_pool,
            sas: Vec::with_capacity(sas),
            first: index * sas,
            number: 0,
            pass: Vec::with_capacity(plan.frames),
            frames: vec![0; plan.frames * frame_len(direction, size)],
            turns: Vec::with_capacity(plan.frames),
            nanoseconds_a_cycle: 0.0,
        });
        let mut bed = Self {
            dataplane,
            lanes: lanes.collect(),
            shape: Shape { direction, size, suite: plan.suite, esn: plan.esn },
            order: plan.order.of(sas),
            per_pass: plan.frames,
        };
        bed.install(plan, sas)?;
        Ok(bed)
    }

    fn install(&mut self, plan: &Plan, sas: usize) -> Result<(), Error> {
        let all = sas * self.lanes.len();
        let policy = |sa| Policy {
            id: PolicyId(sa as u32 + 1),
            selectors: vec![selector(sa)],
            action: Action::Protect,
        };
        // Addresses that no packet has, each policy with its own.
        let beside = |n| Policy {
            id: PolicyId((all + n) as u32 + 1),
            selectors: vec![Selector {
                remote: AddressRange::host(unused(n).into()),
                ..selector(0)
            }],
            action: Action::Discard,
        };
        let policies = (0..plan.policies).map(beside).chain((0..all).map(policy));
        self.dataplane.set_policies(&policies.collect::<Vec<_>>())?;
        self.lead_to(SINK)?;
        for index in 0..self.lanes.len() {
            let core = CoreId::new(index).ok_or(Error::Plan("too many workers"))?;
            for n in 0..sas {
                let sa = index * sas + n;
                let pair = PairId(sa as u64 + 1);
                let spi = self.dataplane.allocate_spi(core)?;
                let parameters = self.parameters(plan, sa, spi);
                self.dataplane.add_inbound(&parameters, Delivery::Forward)?;
                // The peer's SPI is the peer's to choose: here, the same.
                self.dataplane.add_outbound(&parameters)?;
                self.dataplane.bind(PolicyId(sa as u32 + 1), pair, Activation::Now)?;
                self.lanes[index].sas.push((spi.get(), 0));
                if n % INSTALLED_AT_ONCE == INSTALLED_AT_ONCE - 1 {
                    self.settle();
                }
            }
            self.settle();
        }
        Ok(())
    }

    fn parameters(&self, plan: &Plan, sa: usize, spi: Spi) -> SaParameters {
        SaParameters {
            pair: PairId(sa as u64 + 1),
            spi,
            protocol: Protocol::Esp,
            mode: Mode::Tunnel,
            local: OUTSIDE.into(),
            remote: PEER.into(),
            encap: None,
            transform: Transform {
                cipher: Cipher::AesGcm(16),
                cipher_key: KeyMaterial::new(keying(plan.suite, self.shape.direction, sa)),
                integrity: None,
            },
            esn: plan.esn,
            replay_window: plan.window,
            selectors: vec![selector(sa)],
            lifetime: Lifetime::default(),
            headers: HeaderRules::default(),
        }
    }

    /// Lets the workers carry out what they were told.
    fn settle(&mut self) {
        for _ in 0..2 {
            for lane in &mut self.lanes {
                lane.worker.turn(Instant::now());
            }
        }
        while self.dataplane.poll_event().is_some() {}
    }

    /// Routes all that the gateway sends to a port.
    fn lead_to(&mut self, port: PortId) -> Result<(), Error> {
        let mut routes = RouteTable::new();
        let mut neighbours = NeighbourTable::new();
        let next = match self.shape.direction {
            Direction::Out => PEER,
            Direction::In => HOST,
        };
        for (address, len) in [(INSIDE, 24), (OUTSIDE, 24)] {
            // These lengths are an IPv4 prefix's.
            let _ = routes.insert(address.into(), len, Route::OnLink(port));
        }
        neighbours.insert(port, next.into(), SINK_MAC);
        let own = |mac, address| Link { mac, mtu: 1500, up: true, v4: Some(address), v6: None };
        let (near, far) = match self.shape.direction {
            Direction::Out => (INSIDE, OUTSIDE),
            Direction::In => (OUTSIDE, INSIDE),
        };
        neighbours.insert(SOURCE, near.into(), SOURCE_MAC);
        self.dataplane.set_forwarding(ForwardingTable {
            routes: routes.into(),
            neighbours: neighbours.into(),
            addresses: LocalAddresses::new([INSIDE.into(), OUTSIDE.into()]).into(),
            links: [own(NEAR_MAC, near), own(FAR_MAC, far), own(FAR_MAC, far)].into(),
        })?;
        self.settle();
        Ok(())
    }

    /// Writes the next packets and puts them on the wires.
    fn prepare(&mut self) -> Result<(), Error> {
        for lane in &mut self.lanes {
            lane.pass.clear();
            for _ in 0..self.per_pass {
                let at = self.order[(lane.number % self.order.len() as u64) as usize] as usize;
                let (spi, sequence) = &mut lane.sas[at];
                *sequence += 1;
                let (spi, sequence) = (*spi, *sequence);
                lane.pass.push(Next { number: lane.number, sa: lane.first + at, spi, sequence });
                lane.number += 1;
            }
            self.shape.write(&lane.pass, &mut lane.frames);
            let len = frame_len(self.shape.direction, self.shape.size);
            let fed = lane.feeder.feed(&lane.frames, len);
            if fed != self.per_pass {
                return Err(Error::Plan("the wire does not hold a pass"));
            }
        }
        Ok(())
    }

    /// One pass.
    fn pass(&mut self) -> Result<(), Error> {
        self.prepare()?;
        let before: Vec<_> = self.lanes.iter().map(Lane::counts).collect();
        let count = self.per_pass;
        match self.lanes.as_mut_slice() {
            [lane] => lane.drive(count),
            lanes => {
                let barrier = Barrier::new(lanes.len());
                std::thread::scope(|scope| {
                    for (index, lane) in lanes.iter_mut().enumerate() {
                        let barrier = &barrier;
                        scope.spawn(move || {
                            pin(index);
                            barrier.wait();
                            lane.drive(count);
                        });
                    }
                });
            }
        }
        for (lane, before) in self.lanes.iter().zip(before) {
            lane.account_for(before, count as u64)?;
        }
        while self.dataplane.poll_event().is_some() {}
        Ok(())
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
        while left > 0 {
            self.pass()?;
            let mut longest = 0;
            for (lane, blocks) in self.lanes.iter().zip(&mut blocks) {
                let (mut block, mut pass) = (Turn::default(), 0);
                let nanoseconds = |cycles| cycles as f64 * lane.nanoseconds_a_cycle;
                for turn in &lane.turns {
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
        Ok(1.0 / blocks.into_iter().map(|blocks| 1.0 / median(blocks)).sum::<f64>())
    }

    /// A pass of which every output is caught and looked into, and then one packet of every SA, so that a change of
    /// routes is forgotten; how many were looked into.
    pub(crate) fn verify(&mut self) -> Result<u64, Error> {
        self.lead_to(CATCHER)?;
        self.prepare()?;
        let mut verified = 0;
        for lane in &mut self.lanes {
            let before = lane.counts();
            let outputs = lane.drive_and_catch(self.per_pass);
            lane.account_for(before, self.per_pass as u64)?;
            for (next, output) in lane.pass.iter().zip(&outputs) {
                let number = next.number;
                self.shape.check(next, output).map_err(|what| Error::Wrong { number, what })?;
            }
            if outputs.len() != lane.pass.len() {
                return Err(Error::Wrong { number: outputs.len() as u64, what: "it is missing" });
            }
            verified += outputs.len() as u64;
        }
        self.lead_to(SINK)?;
        for _ in 0..self.order.len().div_ceil(self.per_pass) {
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

    fn drive_and_catch(&mut self, count: usize) -> Vec<Vec<u8>> {
        let mut caught = Vec::with_capacity(count);
        let mut frames = Vec::new();
        let mut idle = 0;
        while caught.len() < count && idle < PATIENCE {
            self.worker.turn(Instant::now());
            self.catcher.receive(&mut self.catcher_pool, &mut frames, 256);
            idle = if frames.is_empty() { idle + 1 } else { 0 };
            for frame in frames.drain(..) {
                caught.push(frame.data().to_vec());
                // Its own frames come home.
                let _ = self.catcher_pool.free(frame);
            }
        }
        caught
    }

    fn counts(&self) -> (u64, u64) {
        let account = self.worker.account();
        (account.get(Row::Received), account.get(Row::Sent))
    }

    /// Whether a pass went in and out, all of it, and nothing is in between.
    fn account_for(&self, before: (u64, u64), count: u64) -> Result<(), Error> {
        let account = self.worker.account();
        let (received, sent) = (self.counts().0 - before.0, self.counts().1 - before.1);
        if !account.balances() {
            return Err(Error::Account(format!("{account:?}")));
        }
        if received != count || sent != count || account.all_drops() != 0 {
            let drops: Vec<_> =
                account.dropped().map(|(cause, n)| format!("{cause} {n}")).collect();
            return Err(Error::Lost { given: count, sent, drops: drops.join(", ") });
        }
        Ok(())
    }
}

fn selector(sa: usize) -> Selector {
    Selector {
        local: AddressRange::host(HOST.into()),
        remote: AddressRange::host(remote(sa).into()),
        protocol: None,
        local_ports: Ports::Any,
        remote_ports: Ports::Any,
    }
}
