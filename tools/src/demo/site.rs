//! One gateway of the demo, and the wires between the two.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use af_xdp::memory::{self, LinkConfig, MemoryPort};
use af_xdp::{FramePool, Port, UmemConfig};
use daemon::config::{Configuration, Options, Source};
use daemon::figures::Figures;
use daemon::gateway::Gateway;
use ike::Path;
use ike::event::{Failure, Outcome};
use stats::{Layout, QuickMode, ReadError, Reader, Segment, Snapshot, Start};
use worker::{
    Dataplane, DataplaneConfig, ForwardingTable, HostPort, Link, LocalAddresses, Mac,
    NeighbourTable, PortId, Route, RouteTable, Side, WorkerParts, WorkerPort,
};

use super::traffic::{Host, Station};

const LAN: PortId = PortId(0);
const WAN: PortId = PortId(1);

/// Addresses of one side, numbered 1 (west) and 2 (east).
#[derive(Clone, Copy)]
struct Numbers(u8);

impl Numbers {
    fn host(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.0, 0, 10)
    }
    fn lan(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.0, 0, 1)
    }
    fn wan(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.0)
    }
    fn other(self) -> Self {
        Self(3 - self.0)
    }
    /// Locally administered.
    fn mac(self, device: u8) -> [u8; 6] {
        [2, 0, 0, 0, device, self.0]
    }
}

const HOST_DEVICE: u8 = 1;
const LAN_DEVICE: u8 = 2;
const WAN_DEVICE: u8 = 3;

/// One gateway.
pub(super) struct Site {
    pub(super) gateway: Gateway,
    reader: Reader,
    finished: Vec<Result<Outcome, Failure>>,
}

impl Site {
    /// What ended of the commands given so far.
    pub(super) fn finished(&mut self) -> Vec<Result<Outcome, Failure>> {
        while let Some((_, result)) = self.gateway.poll_finished() {
            self.finished.push(result);
        }
        core::mem::take(&mut self.finished)
    }

    /// Whether a pair of SAs is up.
    pub(super) fn is_up(&self) -> bool {
        self.reader.snapshot().is_ok_and(|s| s.quick_mode(QuickMode::ActiveSas) == 1)
    }

    /// Stops the workers and reads what was counted.
    pub(super) fn end(mut self) -> Result<Snapshot, ReadError> {
        self.gateway.dataplane().stop();
        self.reader.snapshot()
    }
}

/// Lets both gateways work and carries IKE messages between them.
pub(super) fn exchange(west: &mut Site, east: &mut Site, now: Instant) {
    west.gateway.step(now);
    east.gateway.step(now);
    loop {
        let to_east = west.gateway.poll_transmit();
        let to_west = east.gateway.poll_transmit();
        if to_east.is_none() && to_west.is_none() {
            return;
        }
        for (sent, to) in [(to_east, &mut *east), (to_west, &mut *west)] {
            if let Some(sent) = sent {
                let path = Path { local: sent.path.remote, remote: sent.path.local };
                to.gateway.handle_datagram(now, path, &sent.datagram);
            }
        }
    }
}

/// Carries on until the rekeyed SAs are gone, so that the tables show the end of it.
pub(super) fn settle(west: &mut Site, east: &mut Site) {
    let end = Instant::now() + Duration::from_secs(1);
    let done = |site: &Site| {
        site.reader.snapshot().is_ok_and(|s| {
            s.quick_mode(QuickMode::ActiveSas) == 1
                && s.quick_mode(QuickMode::PendingKeyOperations) == 0
        })
    };
    while Instant::now() < end && !(done(west) && done(east)) {
        exchange(west, east, Instant::now());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Two gateways with a wire between them and a host behind each.
pub(super) fn pair() -> io::Result<(Site, Site, [Host; 2])> {
    let wire = |seed| memory::link(&LinkConfig { seed, ..LinkConfig::default() });
    let (west_lan, wan, east_lan) = (wire(1)?, wire(2)?, wire(3)?);
    let west = site(Numbers(1), west_lan.b, wan.a)?;
    let east = site(Numbers(2), east_lan.b, wan.b)?;
    let hosts = [host(Numbers(1), west_lan.a)?, host(Numbers(2), east_lan.a)?];
    Ok((west, east, hosts))
}

fn host(n: Numbers, ports: Vec<MemoryPort>) -> io::Result<Host> {
    let near = Station { address: n.host(), mac: n.mac(HOST_DEVICE) };
    let far = Station { address: n.other().host(), mac: n.mac(LAN_DEVICE) };
    Host::new(near, far, ports)
}

fn site(n: Numbers, lan: Vec<MemoryPort>, wan: Vec<MemoryPort>) -> io::Result<Site> {
    let mut layout = Layout::new();
    let blocks: Vec<_> = lan.iter().map(|_| layout.worker(&worker::drop_counters())).collect();
    let mut segment = Segment::anonymous(&layout, Start::now()?);
    let mut parts = Vec::new();
    for ((lan, wan), block) in lan.into_iter().zip(wan).zip(blocks) {
        parts.push(WorkerParts {
            pool: FramePool::new(&UmemConfig::default())?,
            ports: [lan, wan]
                .map(|port| WorkerPort { port: Port::Memory(port), side: Side::Either, vlan: None })
                .into(),
            host: HostPort::None,
            block: segment.writer(block),
        });
    }
    let (mut dataplane, workers) = Dataplane::new(&DataplaneConfig::default(), parts)?;
    dataplane.spawn(workers, &[])?;
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let figures = Figures::new(
        segment.writer(layout.main_mode()).ok_or_else(missing)?,
        segment.writer(layout.quick_mode()).ok_or_else(missing)?,
    );
    let reader = segment.reader().map_err(io::Error::other)?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let source = Source { name: "demo".to_owned(), mode: None, directory: PathBuf::new() };
    let config = Configuration::parse(&configuration(n), source, Options::default())
        .map_err(|d| io::Error::other(d.to_string()))?;
    let mut gateway = Gateway::new(
        Arc::new(config.ike),
        Vec::new(),
        seed,
        dataplane,
        1,
        figures,
        Instant::now(),
    )?;
    gateway.set_forwarding(forwarding(n));
    Ok(Site { gateway, reader, finished: Vec::new() })
}

fn configuration(n: Numbers) -> String {
    format!(
        "connections {{ demo {{
           version = 2
           local_addrs = {}
           remote_addrs = {}
           proposals = aes128gcm16-prfsha256-x25519
           local {{ auth = psk
             id = side-{} }}
           remote {{ auth = psk
             id = side-{} }}
           children {{ net {{
             local_ts = 10.{}.0.0/24
             remote_ts = 10.{}.0.0/24
             esp_proposals = aes128gcm16-x25519
             replay_window = 1024
           }} }}
         }} }}
         secrets {{ ike-demo {{ secret = shown-to-everybody-who-reads-this }} }}",
        n.wan(),
        n.other().wan(),
        n.0,
        n.other().0,
        n.0,
        n.other().0,
    )
}

/// What the kernel's tables would say if there were a kernel in between.
fn forwarding(n: Numbers) -> ForwardingTable {
    let mut routes = RouteTable::new();
    let prefixes = [(n.lan().into(), 24, LAN), (n.wan().into(), 24, WAN)];
    for (address, length, port) in prefixes {
        // Fails for a length that an IPv4 address does not have.
        let _ = routes.insert(address, length, Route::OnLink(port));
    }
    let mut neighbours = NeighbourTable::new();
    neighbours.insert(LAN, n.host().into(), Mac(n.mac(HOST_DEVICE)));
    neighbours.insert(WAN, n.other().wan().into(), Mac(n.other().mac(WAN_DEVICE)));
    let link = |address: Ipv4Addr, device| Link {
        up: true,
        mac: Mac(n.mac(device)),
        mtu: 1500,
        v4: Some(address),
        v6: None,
    };
    ForwardingTable {
        routes: Arc::new(routes),
        neighbours: Arc::new(neighbours),
        addresses: Arc::new(LocalAddresses::new([n.lan(), n.wan()].map(IpAddr::V4))),
        links: [link(n.lan(), LAN_DEVICE), link(n.wan(), WAN_DEVICE)].into(),
    }
}
