//! The two planes joined: what the IKE engine decides is carried out by the workers, and what the
//! workers see goes back to the engine. No socket and no clock: `run` and `demo` bring those.
//!
//! ```text
//!   datagrams ──► Engine ── Install, Remove, Activate ──► Dataplane ──► workers
//!                   ▲  └── jobs ──► Jobs (rayon)              │
//!                   └────── acquire, expire, moved, applied ──┘
//! ```

use crate::config::LeftOut;
use crate::figures::Figures;
use crate::jobs::Jobs;
use crate::live::{Endpoints, Live};
use crate::path_mtu::{PathCounts, PathMtus};
use crate::policies::{ChildKey, Policies};
use crate::sockets::TooBig;
use crate::soft::SoftSas;
use crate::vici::reply::{PairTraffic, Traffic};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use ike::event::{CommandError, Failure, Limit, Outcome, SpiRefused};
use ike::{Command, Engine, InstallId, Path, RequestId, SpiSource, Transmit};
use ipsec::sa::{PairId, Spi};
use ipsec::selector::{AddressRange, PolicyId, Selector};
use ipsec::spi::CoreId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;
use worker::{Activation, Dataplane, DeviceId, ForwardingTable, PortId, Ticket, TunQueue};

mod devices;
mod lookups;
mod news;

use lookups::SlowLookups;
pub use lookups::{SLOW_LOOKUPS, slow_lookups};
use news::News;
pub(crate) use news::{Item, Line};

/// How often the workers' counters are looked at for liveness and published as gauges.
const TICK: Duration = Duration::from_secs(1);

/// How many next hops wait to be resolved by whoever mirrors the neighbours; beyond, the packet
/// that waits is dropped and the next one asks again.
const UNRESOLVED: usize = 1024;

/// How many peers' receive queues are remembered; one more forgets the first.
const REMEMBERED_PEERS: usize = 65_536;

/// Acquires of traffic whose end is waited for. The engine joins those of one child, and each worker repeats one every few seconds.
const TRAPS: usize = 4096;

/// A command that ended.
pub type Finished = (RequestId, Result<Outcome, Failure>);

/// A pair as the gateway knows it beside the engine.
#[derive(Debug)]
struct Pair {
    key: ChildKey,
    policy: Option<PolicyId>,
    /// What was agreed.
    selectors: Vec<Selector>,
    endpoints: Endpoints,
    remote: IpAddr,
    /// The SPI of what is sent, while there is an outbound half.
    spi_out: Option<Spi>,
    /// Both halves are installed.
    up: bool,
    /// The outbound half is not bound to its policy before the engine says so.
    held: bool,
    /// Inbound packets at the last tick.
    seen: u64,
}

/// What the gateway asks of whoever brings the sockets and routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// The SPD or the virtual addresses changed: routes, fail-closed rules and steering follow.
    pub policies: bool,
    /// Tunnels came or went: so may those whom hosts on our links take for neighbours.
    pub tunnels: bool,
}

/// The joined planes.
pub struct Gateway {
    engine: Engine,
    dataplane: Dataplane,
    jobs: Jobs,
    policies: Policies,
    left_out: Vec<LeftOut>,
    pairs: BTreeMap<PairId, Pair>,
    live: Live,
    soft: SoftSas,
    paths: PathMtus,
    installing: Vec<(InstallId, Ticket)>,
    finished: Vec<Finished>,
    /// The worker that a peer's packets arrive at, learned from them.
    arrivals: HashMap<IpAddr, CoreId>,
    next_core: usize,
    next_tick: Instant,
    figures: Figures,
    unresolved: Vec<(PortId, IpAddr)>,
    changed: Changed,
    /// Acquires that traffic raised, to tell the workers when they fail.
    traps: BTreeMap<RequestId, PolicyId>,
    /// Addresses that peers gave us, and by which IKE SAs.
    virtual_addresses: BTreeMap<IpAddr, BTreeSet<ike::IkeId>>,
    /// The workers do not have the policies as they are.
    policies_due: bool,
    slow_lookups: SlowLookups,
    /// The devices of route-based children, by their interface IDs, and what the workers call them.
    devices: BTreeMap<u32, (DeviceId, Option<Arc<TunQueue>>)>,
    /// The workers do not have the devices as they are.
    devices_due: bool,
    /// Worker commands given and not applied; a gauge of the quick mode table.
    outstanding: Vec<Ticket>,
    news: News,
}

/// The dataplane as the engine's source of SPIs.
struct Spis<'a> {
    dataplane: &'a mut Dataplane,
    arrivals: &'a HashMap<IpAddr, CoreId>,
    next: &'a mut usize,
}

impl SpiSource for Spis<'_> {
    fn allocate(&mut self, peer: IpAddr, inherit: Option<Spi>) -> Result<Spi, SpiRefused> {
        let learned = self.arrivals.get(&peer).copied();
        let core = learned.or_else(|| inherit.map(Spi::core)).or_else(|| {
            *self.next = (*self.next + 1) % self.dataplane.workers();
            CoreId::new(*self.next)
        });
        core.and_then(|core| self.dataplane.allocate_spi(core).ok()).ok_or(SpiRefused)
    }

    fn release(&mut self, spi: Spi) {
        // A refusal leaves the SPI larval: its packets time out and it is not reused.
        let _ = self.dataplane.release_spi(spi);
    }
}

/// Calls the engine with the dataplane as its SPI source; both are fields, so this is a macro.
macro_rules! engine {
    ($self:ident, $method:ident $(, $argument:expr)*) => {
        $self.engine.$method($($argument,)* &mut Spis {
            dataplane: &mut $self.dataplane,
            arrivals: &$self.arrivals,
            next: &mut $self.next_core,
        })
    };
}

// Behind the macro that it uses.
mod carry_out;

impl Gateway {
    /// Joins a configured engine to workers that run already (or are turned by a test).
    ///
    /// # Errors
    /// The system's, when it has no thread or descriptor left for the public-key pool.
    pub fn new(
        config: Arc<ike::config::Config>,
        left_out: Vec<LeftOut>,
        seed: [u8; 32],
        dataplane: Dataplane,
        public_key_threads: usize,
        figures: Figures,
        now: Instant,
    ) -> io::Result<Self> {
        let mut gateway = Self {
            engine: Engine::new(Arc::clone(&config), seed),
            dataplane,
            jobs: Jobs::new(public_key_threads)?,
            policies: Policies::default(),
            left_out: Vec::new(),
            pairs: BTreeMap::new(),
            live: Live::default(),
            soft: SoftSas::default(),
            paths: PathMtus::default(),
            installing: Vec::new(),
            finished: Vec::new(),
            arrivals: HashMap::new(),
            next_core: 0,
            next_tick: now,
            figures,
            unresolved: Vec::new(),
            changed: Changed::default(),
            traps: BTreeMap::new(),
            virtual_addresses: BTreeMap::new(),
            policies_due: false,
            slow_lookups: SlowLookups::default(),
            devices: BTreeMap::new(),
            devices_due: false,
            outstanding: Vec::new(),
            news: News::default(),
        };
        gateway.policies.configure(&config, &left_out);
        gateway.publish_policies();
        gateway.left_out = left_out;
        Ok(gateway)
    }

    /// Replaces the configuration; running SAs keep their parameters until they are rekeyed.
    /// `left_out` are connections that cannot be done, as a file has them; `None` leaves them as
    /// they are.
    pub fn set_config(&mut self, config: Arc<ike::config::Config>, left_out: Option<Vec<LeftOut>>) {
        if let Some(left_out) = left_out {
            self.left_out = left_out;
        }
        self.policies.configure(&config, &self.left_out);
        for key in self.soft.forbid(&config) {
            self.policies.set_soft(&key, false);
        }
        self.engine.set_config(config);
        // A pair outlives its child's place in the configuration: its traffic goes on being
        // protected by it.
        let mut moved = Vec::new();
        for (id, pair) in &mut self.pairs {
            if let Some(before) = pair.policy {
                let (policy, _) = self.policies.serve(&pair.key, *id, &pair.selectors);
                if policy != before {
                    pair.policy = Some(policy);
                    if !pair.held {
                        moved.push((policy, *id));
                    }
                }
            }
        }
        self.publish_policies();
        for (policy, pair) in moved {
            // Whether it is active stays as it was: this only names it under the new policy.
            if let Err(error) = self.dataplane.bind(policy, pair, Activation::OnInboundTraffic) {
                tracing::warn!(%error, pair = pair.0, "traffic waits for the next rekey");
            }
        }
    }

    /// The engine, for its views.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The workers' handle, for forwarding tables and views.
    pub fn dataplane(&mut self) -> &mut Dataplane {
        &mut self.dataplane
    }

    /// Whether the workers have carried out every command.
    pub fn is_settled(&self) -> bool {
        self.outstanding.iter().all(|ticket| self.dataplane.applied(*ticket))
    }

    /// Replaces the forwarding table.
    pub fn set_forwarding(&mut self, table: ForwardingTable) {
        match self.dataplane.set_forwarding(table) {
            Ok(ticket) => self.outstanding.push(ticket),
            Err(error) => tracing::warn!(%error, "forwarding table not handed to the workers"),
        }
    }

    /// Takes the prefixes of the host's own links, which stay reachable under wider policies.
    pub fn set_connected(&mut self, prefixes: &[AddressRange]) {
        if self.policies.set_connected(prefixes) {
            self.publish_policies();
        }
    }

    /// Takes what the host routes to the devices of route-based children.
    pub fn set_routed(&mut self, routed: BTreeMap<u32, Vec<AddressRange>>) {
        if self.policies.set_routed(routed) {
            self.publish_policies();
        }
    }

    /// Single addresses behind tunnels that are up, but for those of the peers themselves.
    pub fn behind_tunnels(&self) -> Vec<IpAddr> {
        let up = self.pairs.values().filter(|pair| pair.up && pair.endpoints.is_tunnel());
        up.flat_map(|pair| {
            let remote = pair.selectors.iter().map(|selector| selector.remote);
            let single = remote.filter(|range| range.first() == range.last());
            single.map(|range| range.first()).filter(|address| *address != pair.remote)
        })
        .collect()
    }

    /// The outer addresses of peers, of SAs and of connections that name one.
    pub fn peers(&self) -> Vec<IpAddr> {
        let config = self.engine.config();
        let configured = config.connections.iter().flat_map(|c| &c.remote_addrs);
        self.pairs
            .values()
            .map(|pair| pair.remote)
            .chain(configured.filter(|r| r.first() == r.last()).map(AddressRange::first))
            .collect()
    }

    /// Threads for public-key work.
    pub fn threads(&self) -> usize {
        self.jobs.threads()
    }

    /// How many of them work.
    pub fn busy_threads(&self) -> usize {
        self.jobs.pending().min(self.jobs.threads())
    }

    /// Public-key jobs that wait for a thread.
    pub fn queued_jobs(&self) -> usize {
        self.jobs.pending().saturating_sub(self.jobs.threads())
    }

    /// What a pair has carried.
    pub(crate) fn traffic(&self, pair: PairId, now: Instant) -> PairTraffic {
        let since_epoch = now.saturating_duration_since(self.dataplane.epoch());
        let traffic = |usage: worker::Usage| Traffic {
            bytes: usage.bytes,
            packets: usage.packets,
            last: usage.last.map(|at| since_epoch.saturating_sub(at)),
        };
        let usage = self.dataplane.usage(pair).unwrap_or_default();
        PairTraffic {
            inbound: traffic(usage.inbound),
            outbound: traffic(usage.outbound),
            mtu: usage.mtu,
        }
    }

    /// The soft SAs.
    pub(crate) fn soft_sas(&self) -> &SoftSas {
        &self.soft
    }

    /// The policies in force.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// An IKE message arrived (without the non-ESP marker).
    pub fn handle_datagram(&mut self, now: Instant, path: Path, datagram: &[u8]) {
        engine!(self, handle_datagram, now, path, datagram);
        self.step(now);
    }

    /// The operator or the configuration wants something.
    ///
    /// # Errors
    /// Why the engine refuses at once.
    pub fn handle_command(
        &mut self,
        now: Instant,
        command: Command,
    ) -> Result<RequestId, CommandError> {
        let request = engine!(self, handle_command, now, command)?;
        self.step(now);
        Ok(request)
    }

    /// Time has passed, a worker rang or a job is done: carries on whatever can be.
    pub fn step(&mut self, now: Instant) {
        while let Some(done) = self.jobs.poll() {
            engine!(self, handle_job, now, done);
        }
        while let Some(event) = self.dataplane.poll_event() {
            self.upcall(now, event);
        }
        let mut index = 0;
        while let Some((id, ticket)) = self.installing.get(index).copied() {
            if self.dataplane.applied(ticket) {
                self.installing.swap_remove(index);
                engine!(self, handle_installed, now, id, Ok(()));
            } else {
                index += 1;
            }
        }
        if self.engine.poll_timeout().is_some_and(|at| at <= now) {
            engine!(self, handle_timeout, now);
        }
        let over = self.soft.expire(now);
        self.end_soft(&over);
        self.hand_over_policies();
        if self.next_tick <= now {
            self.next_tick = now + TICK;
            self.note_traffic(now);
            for peer in self.paths.expire(now) {
                self.set_path_mtu(peer, u16::MAX);
            }
        }
        while let Some(event) = self.engine.poll_event() {
            self.carry_out(now, event);
        }
        while let Some(job) = self.engine.poll_job() {
            self.jobs.submit(job);
        }
        self.publish();
    }

    /// The next IKE message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.engine.poll_transmit()
    }

    /// The next command that ended.
    pub fn poll_finished(&mut self) -> Option<Finished> {
        self.finished.pop()
    }

    /// Addresses that peers gave us, to be the host's.
    pub fn virtual_addresses(&self) -> BTreeSet<IpAddr> {
        self.virtual_addresses.keys().copied().collect()
    }

    /// What changed since the last call.
    pub fn take_changed(&mut self) -> Changed {
        core::mem::take(&mut self.changed)
    }

    /// The next hops that packets wait for.
    pub fn take_unresolved(&mut self) -> Vec<(PortId, IpAddr)> {
        core::mem::take(&mut self.unresolved)
    }

    /// When [`step`](Self::step) is due at the latest.
    pub fn deadline(&self) -> Instant {
        [self.engine.poll_timeout(), self.soft.next_deadline()]
            .into_iter()
            .flatten()
            .fold(self.next_tick, Instant::min)
    }

    /// An ICMP error said that a packet to a peer was too big.
    pub fn handle_too_big(&mut self, now: Instant, said: TooBig) {
        let TooBig { destination, spi, mtu } = said;
        if let Some(mtu) = self.paths.learn(now, destination, spi, mtu) {
            tracing::info!(peer = %destination, mtu, "the path takes packets of this length only");
            self.set_path_mtu(destination, mtu);
        }
    }

    /// What became of ICMP errors about paths so far.
    pub fn path_counts(&self) -> PathCounts {
        self.paths.counts()
    }

    /// All SAs to one peer go the same way.
    fn set_path_mtu(&mut self, peer: IpAddr, mtu: u16) {
        for (id, _) in self.pairs.iter().filter(|(_, pair)| pair.remote == peer) {
            if let Err(error) = self.dataplane.set_path_mtu(*id, mtu) {
                tracing::warn!(%error, pair = id.0, "the path's MTU is not followed");
            }
        }
    }

    /// Readable when [`step`](Self::step) has something to do.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.dataplane.upcall_fd(), self.jobs.fd()]
    }

    /// The daemon's own part of the statistics, for what only it knows.
    pub fn figures(&mut self) -> &mut Figures {
        &mut self.figures
    }

    fn publish_policies(&mut self) {
        self.policies_due = true;
        self.changed.policies = true;
        self.hand_over_policies();
    }

    /// A full ring is tried again at the next step: the flag stays.
    fn hand_over_policies(&mut self) {
        if self.policies_due {
            match self.dataplane.set_policies(&self.policies.in_force()) {
                Ok(ticket) => {
                    self.outstanding.push(ticket);
                    self.policies_due = false;
                    self.slow_lookups.tell(self.dataplane.worst_lookup());
                    self.devices_due |= !self.devices.is_empty();
                }
                Err(error) => tracing::warn!(%error, "policies not handed to the workers"),
            }
        }
        if !self.policies_due {
            self.hand_over_devices();
        }
    }

    /// The children's traffic is protected again, or waits for that.
    fn end_soft(&mut self, keys: &[ChildKey]) {
        for key in keys {
            let ChildKey { connection, child } = key;
            tracing::info!(
                connection,
                child,
                "the soft SA ends: its traffic is protected or waits"
            );
            self.policies.set_soft(key, false);
        }
        if !keys.is_empty() {
            self.publish_policies();
        }
    }

    /// An event of the dataplane.
    fn upcall(&mut self, now: Instant, event: worker::Event) {
        match event {
            worker::Event::Acquire { policy, packet } => match self.policies.trapped(policy) {
                Some(key) => {
                    let command = Command::Acquire {
                        connection: key.connection.clone(),
                        child: key.child.clone(),
                        packet: Some(packet),
                    };
                    match engine!(self, handle_command, now, command) {
                        Ok(request) if self.traps.len() < TRAPS => {
                            self.traps.insert(request, policy);
                        }
                        // What waits ends by its own time.
                        Ok(_) => {}
                        Err(_) => self.acquire_failed(policy),
                    }
                }
                // Nothing asks for this SA but an operator: what waits is dropped, not passed.
                None => self.acquire_failed(policy),
            },
            worker::Event::Activated { .. } | worker::Event::Deleted { .. } => {}
            worker::Event::Expire { pair, limit, .. } => {
                let limit = match limit {
                    worker::Limit::Soft => Limit::Soft,
                    worker::Limit::Hard => Limit::Hard,
                };
                engine!(self, handle_expire, now, pair, limit);
            }
            worker::Event::FirstInbound { pair, arrived_at } => {
                if let Some(known) = self.pairs.get(&pair)
                    && (self.arrivals.len() < REMEMBERED_PEERS
                        || self.arrivals.contains_key(&known.remote))
                {
                    self.arrivals.insert(known.remote, arrived_at);
                }
                self.engine.handle_inbound_traffic(now, pair);
            }
            worker::Event::PeerMoved { pair, address, port } => {
                self.engine.handle_peer_moved(now, pair, SocketAddr::new(address, port));
            }
            worker::Event::Resolve { port, address } => {
                if self.unresolved.len() < UNRESOLVED {
                    self.unresolved.push((port, address));
                }
            }
            worker::Event::UnknownSpi { .. } => {}
        }
    }

    fn acquire_failed(&mut self, policy: PolicyId) {
        // Refused only when a ring is full; then the packets' own time-out ends the wait.
        let _ = self.dataplane.acquire_failed(policy);
    }

    /// Liveness wants to know which peers were heard of since the last tick (RFC 7296 §2.4).
    fn note_traffic(&mut self, now: Instant) {
        for (id, pair) in &mut self.pairs {
            let packets = self.dataplane.usage(*id).map_or(0, |usage| usage.inbound.packets);
            if packets != pair.seen {
                pair.seen = packets;
                self.engine.handle_inbound_traffic(now, *id);
            }
        }
    }

    fn publish(&mut self) {
        self.outstanding.retain(|ticket| !self.dataplane.applied(*ticket));
        let pending = self.outstanding.len() + self.dataplane.spi_counts().larval;
        self.figures.publish(
            &self.engine.statistics(),
            self.live.pairs() + self.soft.len(),
            self.live.tunnels(),
            pending as u64,
        );
    }
}
