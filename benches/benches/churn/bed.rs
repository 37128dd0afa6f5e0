//! A gateway of one worker with many tunnels, and a wire to it.

use af_xdp::memory::{Generator, LinkConfig, MemoryPort, link};
use af_xdp::{ChunkSize, Frame, FramePool, Port, UmemConfig};
use core::net::{IpAddr, Ipv4Addr};
use hdrhistogram::Histogram;
use ipsec::algorithm::{Cipher, KeyMaterial};
use ipsec::sa::{HeaderRules, Lifetime, Mode, PairId, Protocol, SaParameters, Spi, Transform};
use ipsec::selector::{Action, AddressRange, Policy, PolicyId, Ports, Selector};
use nix::sys::resource::{UsageWho, getrusage};
use stats::Worker as Row;
use std::io;
use std::time::Instant;
use wire::{ethernet, ipv4, protocol};
use worker::{
    Activation, CoreId, Dataplane, DataplaneConfig, Delivery, ForwardingTable, HostPort, Idle,
    Limits, Link, LocalAddresses, Mac, NeighbourTable, PortId, Route, RouteTable, Side, Ticket,
    Worker, WorkerParts, WorkerPort,
};

pub(super) const BURST: usize = 32;
const SIZE: usize = 512;
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const NEAR: Mac = Mac([2, 0, 0, 0, 0, 1]);
const FAR: Mac = Mac([2, 0, 0, 0, 0, 2]);

pub(super) struct Bed {
    dataplane: Dataplane,
    worker: Worker,
    port: MemoryPort,
    pool: FramePool,
    queue: Vec<Frame>,
    /// What every packet is but for its destination.
    frame: Vec<u8>,
    /// One for each tunnel. All have traffic, a packet each in turn.
    pairs: Vec<PairId>,
    last: u64,
    /// The last verb.
    sent: Option<Ticket>,
    next: u32,
    given: u64,
}

/// What replaces a tunnel.
pub(super) const STEPS: [&str; 5] = ["SPI", "inbound SA", "outbound SA", "binding", "delete"];

/// What a turn took and met.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) cycles: u64,
    pub(super) packets: usize,
    pub(super) commands: usize,
    /// Pages that it was the first to touch.
    pub(super) faults: i64,
    /// The kernel took the processor away meanwhile.
    pub(super) preempted: bool,
}

fn pool(chunks: u32) -> io::Result<FramePool> {
    FramePool::new(&UmemConfig {
        chunks,
        chunk_size: ChunkSize::Bytes2048,
        huge_pages: false,
        jumbo: 0,
    })
}

fn remote(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x1400_0001 + (n << 8))
}

fn header(n: u32) -> ipv4::Header {
    ipv4::Header {
        traffic_class: 0,
        total_len: SIZE as u16,
        id: 0,
        dont_fragment: false,
        ttl: 64,
        protocol: protocol::UDP,
        source: INSIDE,
        destination: remote(n),
    }
}

fn selector(n: u32) -> Selector {
    Selector {
        local: AddressRange::host(IpAddr::V4(INSIDE)),
        remote: AddressRange::host(IpAddr::V4(remote(n))),
        protocol: None,
        local_ports: Ports::Any,
        remote_ports: Ports::Any,
    }
}

pub(super) type Result<T> = core::result::Result<T, Box<dyn core::error::Error>>;

impl Bed {
    pub(super) fn new(tunnels: u32) -> Result<Self> {
        let mut ends = link(&LinkConfig { ring: 256, ..LinkConfig::default() })?;
        let (Some(port), Some(near)) = (ends.a.pop(), ends.b.pop()) else {
            return Err("a wire without ends".into());
        };
        let sink = Port::Generator(Generator::sink());
        let ports = [Port::Memory(near), sink].map(|port| WorkerPort {
            port,
            side: Side::Either,
            vlan: None,
        });
        let parts = WorkerParts {
            // As many frames as a burst, so that a turn takes no more.
            pool: pool(BURST as u32)?,
            ports: ports.into(),
            host: HostPort::None,
            block: None,
        };
        // SPIs of deleted SAs rest for a while.
        let sas = tunnels as usize + (1 << 17);
        let limits = Limits { sas, ..Limits::default() };
        let config = DataplaneConfig { limits, idle: Idle::Spin, ..DataplaneConfig::default() };
        let (dataplane, mut workers) = Dataplane::new(&config, vec![parts])?;
        let Some(worker) = workers.pop() else { return Err("no worker".into()) };
        let mut bed = Self {
            dataplane,
            worker,
            port,
            pool: pool(256)?,
            queue: Vec::new(),
            frame: vec![0; ethernet::HEADER_LEN + SIZE],
            pairs: vec![PairId(0); tunnels as usize],
            last: 0,
            sent: None,
            next: 0,
            given: 0,
        };
        let policy = |n| Policy {
            id: PolicyId(n + 1),
            selectors: vec![selector(n)],
            action: Action::Protect,
        };
        bed.dataplane.set_policies(&(0..tunnels).map(policy).collect::<Vec<_>>())?;
        let mut routes = RouteTable::new();
        let mut neighbours = NeighbourTable::new();
        // Its length is an IPv4 prefix's.
        let _ = routes.insert(OUTSIDE.into(), 24, Route::OnLink(PortId(1)));
        neighbours.insert(PortId(1), PEER.into(), FAR);
        let own = |v4| Link { mac: NEAR, mtu: 1500, up: true, v4: Some(v4), v6: None };
        bed.dataplane.set_forwarding(ForwardingTable {
            routes: routes.into(),
            neighbours: neighbours.into(),
            addresses: LocalAddresses::new([INSIDE.into(), OUTSIDE.into()]).into(),
            links: [own(Ipv4Addr::new(10, 1, 0, 254)), own(OUTSIDE)].into(),
        })?;
        for tunnel in 0..tunnels {
            bed.replace(tunnel)?;
            while !bed.is_settled() {
                bed.worker.turn(Instant::now());
            }
        }
        while bed.dataplane.poll_event().is_some() {}
        Ok(bed)
    }

    /// Installs a new pair for a tunnel, and deletes the one before.
    fn replace(&mut self, tunnel: u32) -> Result<()> {
        self.replace_by_steps(tunnel, |_, _| Ok(()))
    }

    /// The same for one tunnel after the other, in an order that has nothing to do with that of packets.
    pub(super) fn replace_next(&mut self) -> Result<()> {
        let tunnels = u64::from(self.tunnels());
        let tunnel = self.last.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        self.replace(((tunnel * tunnels) >> 32) as u32)
    }

    /// The same, with `then` called after each of [`STEPS`].
    fn replace_by_steps(
        &mut self,
        tunnel: u32,
        mut then: impl FnMut(&mut Self, usize) -> Result<()>,
    ) -> Result<()> {
        let core = CoreId::new(0).ok_or("no core")?;
        self.last += 1;
        let pair = PairId(self.last);
        let spi = self.dataplane.allocate_spi(core)?;
        then(self, 0)?;
        let parameters = parameters(pair, spi, tunnel);
        self.dataplane.add_inbound(&parameters, Delivery::Forward)?;
        then(self, 1)?;
        self.dataplane.add_outbound(&parameters)?;
        then(self, 2)?;
        self.sent = Some(self.dataplane.bind(PolicyId(tunnel + 1), pair, Activation::Now)?);
        then(self, 3)?;
        let old = core::mem::replace(&mut self.pairs[tunnel as usize], pair);
        if old != PairId(0) {
            self.sent = Some(self.dataplane.delete(old)?);
            then(self, 4)?;
        }
        Ok(())
    }

    /// Whether all that was asked for is done.
    pub(super) fn is_settled(&self) -> bool {
        self.sent.is_none_or(|sent| self.dataplane.applied(sent))
    }

    /// Cycles of turns without traffic, in which one of [`STEPS`] is carried out.
    pub(super) fn steps(&mut self, rounds: u32) -> Result<[Histogram<u64>; STEPS.len()]> {
        let empty = || Histogram::new(3);
        let mut sums = [empty()?, empty()?, empty()?, empty()?, empty()?];
        while !self.is_settled() {
            self.turn()?;
        }
        for round in 0..rounds {
            self.replace_by_steps(round % self.tunnels(), |bed, step| {
                let turn = bed.turn()?;
                if !turn.preempted {
                    sums[step].record(turn.cycles)?;
                }
                // Only one of them comes to a turn.
                (turn.commands == 1).then_some(()).ok_or("not one command a turn".into())
            })?;
        }
        Ok(sums)
    }

    pub(super) fn feed(&mut self) {
        self.port.complete(&mut self.pool);
        for _ in 0..BURST {
            let Some(mut frame) = self.pool.alloc() else { break };
            let (link, rest) = self.frame.split_at_mut(ethernet::HEADER_LEN);
            link.copy_from_slice(&ethernet::emit(NEAR, FAR, ethernet::IPV4));
            rest[..ipv4::MIN_HEADER_LEN].copy_from_slice(&header(self.next).emit());
            if frame.copy_from(&self.frame).is_some() {
                self.queue.push(frame);
            }
            self.next = (self.next + 1) % self.pairs.len() as u32;
        }
        self.given += self.port.transmit(&mut self.pool, &mut self.queue) as u64;
        self.port.kick();
    }

    /// A turn of the worker.
    pub(super) fn turn(&mut self) -> Result<Turn> {
        let commands = self.worker.account().get(Row::CommandsApplied);
        let before = getrusage(UsageWho::RUSAGE_THREAD)?;
        let begun = stats::cycles();
        let progress = self.worker.turn(Instant::now());
        let cycles = stats::cycles().wrapping_sub(begun);
        let after = getrusage(UsageWho::RUSAGE_THREAD)?;
        while self.dataplane.poll_event().is_some() {}
        Ok(Turn {
            cycles,
            packets: progress.packets,
            commands: (self.worker.account().get(Row::CommandsApplied) - commands) as usize,
            faults: after.minor_page_faults() - before.minor_page_faults(),
            preempted: after.involuntary_context_switches()
                != before.involuntary_context_switches(),
        })
    }

    /// Ends with an error unless all that was given was sent, and every packet is accounted for.
    pub(super) fn check(&self) -> Result<()> {
        let account = self.worker.account();
        let sent = account.get(Row::Sent);
        if !account.balances() || sent != self.given {
            return Err(format!("{sent} of {} packets were sent", self.given).into());
        }
        Ok(())
    }

    pub(super) fn tunnels(&self) -> u32 {
        self.pairs.len() as u32
    }
}

fn parameters(pair: PairId, spi: Spi, tunnel: u32) -> SaParameters {
    let mut key = [0x5a; 20];
    key[..8].copy_from_slice(&pair.0.to_be_bytes());
    SaParameters {
        pair,
        spi,
        protocol: Protocol::Esp,
        mode: Mode::Tunnel,
        local: OUTSIDE.into(),
        remote: PEER.into(),
        encap: None,
        transform: Transform {
            cipher: Cipher::AesGcm(16),
            cipher_key: KeyMaterial::new(key.to_vec()),
            integrity: None,
        },
        esn: true,
        replay_window: 1024,
        selectors: vec![selector(tunnel)],
        later_fragments: false,
        lifetime: Lifetime::default(),
        headers: HeaderRules::default(),
    }
}
