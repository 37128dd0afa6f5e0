//! A worker's turns while SAs are added, replaced and deleted under its traffic: how long they take, and that no packet is lost.

use af_xdp::memory::{Generator, LinkConfig, MemoryPort, link};
use af_xdp::{ChunkSize, Frame, FramePool, Port, UmemConfig};
use core::net::{IpAddr, Ipv4Addr};
use hdrhistogram::Histogram;
use ipsec::algorithm::{Cipher, KeyMaterial};
use ipsec::sa::{HeaderRules, Lifetime, Mode, PairId, Protocol, SaParameters, Spi, Transform};
use ipsec::selector::{Action, AddressRange, Policy, PolicyId, Ports, Selector};
use stats::Worker as Row;
use std::io;
use std::time::Instant;
use wire::{ethernet, ipv4, protocol};
use worker::{
    Activation, CoreId, Dataplane, DataplaneConfig, Delivery, ForwardingTable, HostPort, Idle,
    Limits, Link, LocalAddresses, Mac, NeighbourTable, PortId, Route, RouteTable, Side, Worker,
    WorkerParts, WorkerPort,
};

const BURST: usize = 32;
const SIZE: usize = 512;
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const NEAR: Mac = Mac([2, 0, 0, 0, 0, 1]);
const FAR: Mac = Mac([2, 0, 0, 0, 0, 2]);

/// What happens beside the traffic.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// A tunnel is replaced every so many turns: SPI, inbound, outbound, binding, and the old one's delete.
    Rekeys(u32),
    /// As many as the ring takes.
    AllTheTime,
}

struct Bed {
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
    next: u32,
    given: u64,
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

type Result<T> = core::result::Result<T, Box<dyn core::error::Error>>;

impl Bed {
    fn new(tunnels: u32) -> Result<Self> {
        let mut ends = link(&LinkConfig { ring: 256, ..LinkConfig::default() })?;
        let (Some(port), Some(near)) = (ends.a.pop(), ends.b.pop()) else {
            return Err("a wire without ends".into());
        };
        let sink = Port::Generator(Generator::new(&[[0u8; 0]; 0], 0));
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
            for _ in 0..4 {
                bed.worker.turn(Instant::now());
            }
        }
        while bed.dataplane.poll_event().is_some() {}
        Ok(bed)
    }

    /// Installs a new pair for a tunnel, and deletes the one before.
    fn replace(&mut self, tunnel: u32) -> Result<()> {
        let core = CoreId::new(0).ok_or("no core")?;
        self.last += 1;
        let pair = PairId(self.last);
        let spi = self.dataplane.allocate_spi(core)?;
        let parameters = parameters(pair, spi, tunnel);
        self.dataplane.add_inbound(&parameters, Delivery::Forward)?;
        self.dataplane.add_outbound(&parameters)?;
        self.dataplane.bind(PolicyId(tunnel + 1), pair, Activation::Now)?;
        let old = core::mem::replace(&mut self.pairs[tunnel as usize], pair);
        if old != PairId(0) {
            self.dataplane.delete(old)?;
        }
        Ok(())
    }

    fn feed(&mut self) {
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

    /// Cycles of the turns, and how many tunnels were replaced.
    fn run(&mut self, turns: u32, beside: Beside) -> Result<(Histogram<u64>, u32)> {
        let mut histogram = Histogram::new(3)?;
        let mut replaced = 0;
        for turn in 0..turns {
            let due = match beside {
                Beside::Nothing => false,
                Beside::Rekeys(every) => turn % every == 0,
                Beside::AllTheTime => true,
            };
            if due && self.replace(replaced % self.pairs.len() as u32).is_ok() {
                replaced += 1;
            }
            self.feed();
            let begun = stats::cycles();
            let progress = self.worker.turn(Instant::now());
            histogram.record(stats::cycles().wrapping_sub(begun))?;
            if progress.packets != BURST {
                return Err(format!("a turn took {} packets", progress.packets).into());
            }
            while self.dataplane.poll_event().is_some() {}
        }
        Ok((histogram, replaced))
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

/// The tables of turns, by how many tunnels there are. `most` is how many at most.
pub(crate) fn run(quick: bool, most: u32) {
    println!(
        "| tunnels | beside them | turns | replaced | median | 99 % | 99.9 % | of that without |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for tunnels in [1, 1_000, 100_000, 1_000_000] {
        if tunnels > most {
            continue;
        }
        if let Err(error) = rows(quick, tunnels) {
            println!("no figures for {tunnels}: {error}");
            std::process::exit(1);
        }
    }
    println!(
        "\nevery packet given was sent; at most {} commands a turn",
        Limits::default().commands_per_turn
    );
}

/// Runs take turns, so that a disturbance of the machine meets all of them.
fn rows(quick: bool, tunnels: u32) -> Result<()> {
    let mut bed = Bed::new(tunnels)?;
    let rows = [
        ("nothing", Beside::Nothing),
        ("one replaced in 100 turns", Beside::Rekeys(100)),
        ("one in 10 turns", Beside::Rekeys(10)),
        ("one a turn", Beside::AllTheTime),
    ];
    let mut sums: Vec<(Histogram<u64>, u32)> =
        rows.iter().map(|_| Ok((Histogram::new(3)?, 0))).collect::<Result<_>>()?;
    // Every tunnel has had a packet: nothing is touched for the first time.
    bed.run(1000 + tunnels / BURST as u32, Beside::Nothing)?;
    for _ in 0..if quick { 2 } else { 20 } {
        for ((_, beside), (sum, replaced)) in rows.iter().zip(&mut sums) {
            let (histogram, more) = bed.run(5000, *beside)?;
            sum.add(histogram)?;
            *replaced += more;
        }
    }
    let account = bed.worker.account();
    let sent = account.get(Row::Sent);
    if !account.balances() || sent != bed.given {
        return Err(format!("{sent} of {} packets were sent", bed.given).into());
    }
    let base = sums.first().map_or(1, |(h, _)| h.value_at_quantile(0.999)) as f64;
    for ((name, _), (histogram, replaced)) in rows.iter().zip(&sums) {
        let at = |q| histogram.value_at_quantile(q);
        println!(
            "| {tunnels} | {name} | {} | {replaced} | {} | {} | {} | {:.2} |",
            histogram.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            at(0.999) as f64 / base
        );
    }
    Ok(())
}
