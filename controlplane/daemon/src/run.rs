//! `culvert run`: the gateway on a real host.
//!
//! One thread waits for everything: IKE and raw sockets, the kernel's news, workers, finished
//! public-key jobs, signals and the control socket. Start and end are ordered so that protected
//! traffic is never in clear: the fail-closed rules stand before XDP attaches, the steering
//! program drops what is protected until workers and policies are ready, and the rules outlive
//! the process.

use crate::config::{self, Configuration, Diagnostics, OnFailure, Options, Store};
use crate::control::{Asked, Configured, Control};
use crate::figures::Figures;
use crate::gateway::Gateway;
use crate::host::netlink::{Changes, HostView, Requests, Route};
use crate::host::proxy::{self, Proxies};
use crate::host::surroundings::Surroundings;
use crate::host::{HostError, closed, mirror, tun};
use crate::path_mtu::{self, PathCounts};
use crate::ports::{self, PortsError};
use crate::sockets::{Arrival, Reassembled, SocketError, Sockets};
use af_xdp::steering::{Posture, SteeringError};
use core::net::IpAddr;
use core::time::Duration;
use ike::{Command, Path as IkePath};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use worker::{Dataplane, DataplaneConfig, TunQueue};

mod host;
mod loaded;

use loaded::{Loaded, start_children};

/// Routing table and rule priority of the host's own protected traffic, as charon has them.
const TABLE: u8 = 220;

/// Mark of our own sockets: their packets pass the rule above and the fail-closed rules.
const MARK: u32 = 0x00c0_1e27;

/// MTU of the host port: what fits into a tunnel over 1500 octets in every mode (charon's TUN has
/// the same).
const HOST_MTU: u16 = 1400;

/// Neighbours that the kernel keeps resolved for us: it never forgets one of these by itself, so
/// that a peer who scans the networks behind us must not make more.
const MANAGED: usize = 1024;

/// How long an orderly end waits for the peers to answer the deletes.
const FAREWELL: Duration = Duration::from_secs(3);

/// How often the files are read that name servers and leases are in; nothing announces a change of those.
const FILES: Duration = Duration::from_secs(2);

/// The kernel's news are gathered this long before the tables are rebuilt.
const SETTLE: Duration = Duration::from_millis(20);

/// Why the gateway did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration has errors.
    #[error("{0}")]
    Configuration(Diagnostics),
    /// The host refused something.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The ports could not be opened.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// The sockets could not be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The steering program.
    #[error("cannot steer packets: {0}")]
    Steering(#[from] SteeringError),
    /// The statistics segment.
    #[error("cannot create the statistics file {path}: {source}")]
    Statistics {
        /// Where.
        path: PathBuf,
        /// Why.
        source: stats::CreateError,
    },
    /// The control socket.
    #[error("cannot open the control socket {path}: {source}")]
    Control {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A system call that does not fail on a sound system.
    #[error("{what}: {source}")]
    System {
        /// The call.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

fn system(what: &'static str) -> impl Fn(std::io::Error) -> RunError {
    move |source| RunError::System { what, source }
}

/// What the daemon holds while it runs.
struct Daemon {
    loaded: Loaded,
    /// The `gateway` section, as it was at the start.
    section: config::Gateway,
    gateway: Gateway,
    control: Control,
    sockets: Sockets,
    requests: Requests,
    changes: Changes,
    view: HostView,
    ports: ports::Ports,
    host: String,
    tun: u32,
    /// The devices of route-based children: a queue of each, and its index.
    tunnels: BTreeMap<u32, (Arc<TunQueue>, u32)>,
    proxies: Proxies,
    /// Virtual addresses on the TUN.
    addresses: BTreeSet<IpAddr>,
    /// What is installed in [`TABLE`].
    routes: Vec<Route>,
    /// Neighbours that the kernel keeps resolved for us.
    managed: BTreeSet<(u32, IpAddr)>,
    /// When to look at the host again.
    refresh: Option<Instant>,
    send_failures: u64,
    /// When to look at the files again that address keywords come from.
    files_due: Instant,
    /// Where [`PathCounts`] go, and errors that were not to be believed (`gateway.icmp_path_mtu = no`).
    paths: Option<stats::BlockWriter>,
    path_errors_ignored: u64,
}

/// Runs the gateway until SIGTERM or SIGINT.
///
/// # Errors
/// Why it did not start; what it had changed on the host by then is undone, the fail-closed rules
/// excepted.
pub fn run(path: &Path, options: Options) -> Result<(), RunError> {
    // Blocked before any thread starts, so that every thread inherits it and only the descriptor sees them.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        signals.add(signal);
    }
    signals.thread_block().map_err(|e| system("block signals")(e.into()))?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|e| system("signalfd")(e.into()))?;
    forbid_core_dumps();
    let mut daemon = Daemon::start(path, options)?;
    // Nobody is told where there is no service manager.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!("running");
    let result = daemon.serve(&signals);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    daemon.end();
    result
}

/// Removes what a gateway that was killed left on the host: the fail-closed rules, the routing rule and proxied neighbours. The TUN
/// and its routes went with the process.
///
/// # Errors
/// What the host refuses.
pub fn cleanup() -> Result<(), HostError> {
    closed::remove()?;
    let mut requests = Requests::open()?;
    proxy::forget(&mut requests)?;
    requests.remove_rule(TABLE, u32::from(TABLE), MARK)
}

/// The device of route-based children with this interface ID.
fn device_name(if_id: u32) -> String {
    format!("culvert-{if_id}")
}

/// Keys must not end up in a file.
fn forbid_core_dumps() {
    if let Err(error) =
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)
    {
        tracing::warn!(%error, "core dumps are not disabled");
    }
}

impl Daemon {
    fn start(path: &Path, options: Options) -> Result<Self, RunError> {
        let now = Instant::now();
        let configuration = Configuration::load(path, options).map_err(RunError::Configuration)?;
        for warning in &configuration.warnings {
            tracing::warn!("{warning}");
        }
        let left_out = configuration.left_out.clone();
        let store = Store::new(configuration);
        let section = store.gateway().clone();
        let mut requests = Requests::open()?;
        let changes = Changes::subscribe()?;
        let view = requests.view()?;
        let around = Surroundings::look(&view, &section.filters.sources);
        let loaded = Loaded { path: path.to_owned(), options, store, left_out, around };
        let engine_config = Arc::new(loaded.store.engine_config(&loaded.around));
        let left_out = loaded.left_out();
        let ike_ports = [engine_config.settings.port, engine_config.settings.port_nat_t];
        let devices = ports::choose(&section, &engine_config, &view)?;
        let workers = ports::workers(&section, &devices)?;

        let host = section
            .host_interface
            .clone()
            .unwrap_or_else(|| config::DEFAULT_HOST_INTERFACE.to_owned());
        let queues = tun::open(&host, workers)?;
        let view = requests.view()?;
        let tun = view.interface(&host).ok_or_else(|| HostError::Tun {
            name: host.clone(),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        tun::quieten(&host, false);
        requests.bring_up(tun, HOST_MTU.into())?;
        // The TUN is ours, so no other gateway runs here.
        proxy::forget(&mut requests)?;

        // From here on nothing that is protected leaves in clear.
        let mut policies = crate::policies::Policies::default();
        policies.configure(&engine_config, &left_out);
        policies.set_connected(&mirror::connected(&view));
        if section.on_failure == OnFailure::Closed {
            let (guarded, exempt) = policies.guarded();
            closed::install(&guarded, &exempt, core::slice::from_ref(&host), MARK, ike_ports)?;
        }

        let mut layout = stats::Layout::new();
        let blocks: Vec<_> =
            (0..workers).map(|_| layout.worker(&worker::drop_counters())).collect();
        let port_blocks = ports::blocks(&devices, workers, &mut layout);
        let life_blocks = ports::life_blocks(&devices, &mut layout);
        let path_block = layout.block("path_mtu", "", &path_mtu::counters());
        let file = section
            .statistics_file
            .clone()
            .unwrap_or_else(|| config::DEFAULT_STATISTICS_FILE.into());
        let mut segment = create_segment(&file, &layout)?;
        let writers = blocks.into_iter().map(|block| segment.writer(block)).collect();

        let tables = mirror::steering(&view, &policies.ordered(), ike_ports);
        let life_writers = life_blocks.into_iter().map(|block| segment.writer(block)).collect();
        let (ports, parts) =
            ports::open(&devices, workers, queues, writers, life_writers, &tables)?;
        let config = DataplaneConfig {
            limits: ports::limits(&section.limits),
            idle: ports::idle(section.idle),
            ike_port: ike_ports[0],
            encap_port: ike_ports[1],
        };
        let (mut dataplane, mut workers) =
            Dataplane::new(&config, parts).map_err(system("start the dataplane"))?;
        for (worker, blocks) in workers.iter_mut().zip(port_blocks) {
            for (port, block) in blocks {
                if let Some(writer) = segment.writer(block) {
                    worker.set_port_block(port, writer);
                }
            }
        }
        for worker in &mut workers {
            for (member, trunk) in ports.shared() {
                worker.share_port(member, trunk);
            }
        }
        dataplane.spawn(workers, &ports::cores()).map_err(system("start the workers"))?;

        let (Some(main_mode), Some(quick_mode)) =
            (segment.writer(layout.main_mode()), segment.writer(layout.quick_mode()))
        else {
            return Err(system("statistics")(std::io::ErrorKind::AlreadyExists.into()));
        };
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| system("getrandom")(std::io::Error::other(e)))?;
        let gateway = Gateway::new(
            Arc::clone(&engine_config),
            left_out,
            seed,
            dataplane,
            ports::public_key_threads(),
            Figures::new(main_mode, quick_mode),
            now,
        )
        .map_err(system("start the public-key pool"))?;
        let sockets = Sockets::open(ike_ports[0], ike_ports[1], MARK)?;
        let socket =
            section.vici_socket.clone().unwrap_or_else(|| config::DEFAULT_VICI_SOCKET.into());
        let mut daemon = Self {
            loaded,
            gateway,
            control: Control::bind(&socket)
                .map_err(|source| RunError::Control { path: socket, source })?,
            sockets,
            requests,
            changes,
            view: HostView::default(),
            ports,
            host,
            tun,
            tunnels: BTreeMap::new(),
            proxies: Proxies::default(),
            addresses: BTreeSet::new(),
            routes: Vec::new(),
            managed: BTreeSet::new(),
            refresh: None,
            send_failures: 0,
            files_due: now + FILES,
            paths: segment.writer(path_block),
            path_errors_ignored: 0,
            section,
        };
        daemon.requests.add_rule(TABLE, u32::from(TABLE), MARK)?;
        daemon.follow_host()?;
        daemon.gateway.step(now);
        daemon.await_workers();
        let posture = match daemon.section.on_failure {
            OnFailure::Closed => Posture::Guarded,
            OnFailure::Open => Posture::Open,
        };
        daemon.ports.steering.set_posture(posture)?;
        let connections: Vec<_> = daemon.loaded.store.connections().cloned().collect();
        start_children(&mut daemon.gateway, &connections, now);
        Ok(daemon)
    }

    /// Waits until the workers have the policies and the forwarding table.
    fn await_workers(&mut self) {
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end && !self.gateway.is_settled() {
            std::thread::sleep(Duration::from_millis(1));
            self.gateway.step(Instant::now());
        }
    }

    fn serve(&mut self, signals: &SignalFd) -> Result<(), RunError> {
        let mut arrivals = Vec::new();
        let mut farewell: Option<Instant> = None;
        loop {
            self.wait(signals, farewell)?;
            let now = Instant::now();
            while let Ok(Some(signal)) = signals.read_signal() {
                match i32::try_from(signal.ssi_signo).unwrap_or(0) {
                    libc::SIGHUP => self.reload(now),
                    _ if farewell.is_some() => return Ok(()),
                    _ => {
                        tracing::info!("deleting the SAs at the peers");
                        farewell = Some(now + FAREWELL);
                        // Refused only when it was said already.
                        let _ = self.gateway.handle_command(now, Command::TerminateAll);
                    }
                }
            }
            self.sockets.receive(&mut arrivals);
            for arrival in arrivals.drain(..) {
                match arrival {
                    Arrival::Ike { local, remote, message } => {
                        self.gateway.handle_datagram(now, IkePath { local, remote }, &message);
                    }
                    Arrival::Ipsec(packet) => self.inject(&packet),
                    Arrival::TooBig(said) if self.section.icmp_path_mtu => {
                        self.gateway.handle_too_big(now, said);
                    }
                    Arrival::TooBig(_) => self.path_errors_ignored += 1,
                }
            }
            if self.changes.drain() {
                self.refresh.get_or_insert(now + SETTLE);
            }
            self.control.serve(&mut self.gateway, &mut self.loaded, now);
            self.gateway.step(now);
            for (port, address) in self.gateway.take_unresolved() {
                if let Some(Some(interface)) = self.ports.indices().get(usize::from(port.0)) {
                    self.resolve((*interface, address));
                }
            }
            if self.files_due <= now {
                self.files_due = now + FILES;
                self.loaded.look_around(&self.view, &mut self.gateway);
            }
            let changed = self.gateway.take_changed();
            let policies_changed = changed.policies;
            if changed.tunnels {
                self.follow_proxies();
            }
            if self.ports.deadline().is_some_and(|at| at <= now)
                && self.ports.follow(&self.view, self.gateway.dataplane(), now)
            {
                self.refresh = Some(now);
            }
            if policies_changed || self.refresh.is_some_and(|at| at <= now) {
                self.refresh = None;
                if let Err(error) = self.follow_host() {
                    tracing::warn!(%error, "the host's tables are not followed");
                    self.refresh = Some(now + Duration::from_secs(1));
                }
            }
            self.flush();
            if farewell.is_some_and(|at| at <= now || self.gateway.engine().is_idle()) {
                return Ok(());
            }
        }
    }

    fn wait(&self, signals: &SignalFd, farewell: Option<Instant>) -> Result<(), RunError> {
        let deadline =
            [Some(self.gateway.deadline()), self.control.deadline(), self.refresh, farewell]
                .into_iter()
                .flatten()
                .chain(self.ports.deadline())
                .min()
                .unwrap_or_else(Instant::now);
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: a deadline reached too early is a turn for nothing.
        let timeout = PollTimeout::try_from(left.as_millis() + u128::from(!left.is_zero()))
            .unwrap_or(PollTimeout::MAX);
        let mut fds: Vec<PollFd<'_>> = self
            .sockets
            .fds()
            .chain(self.gateway.fds())
            .chain([self.changes.as_fd(), signals.as_fd()])
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .chain(self.control.poll_fds())
            .collect();
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(e) => Err(system("poll")(e.into())),
        }
    }

    /// Sends what the engine has to send.
    fn flush(&mut self) {
        while let Some(transmit) = self.gateway.poll_transmit() {
            let (local, remote) = (transmit.path.local, transmit.path.remote);
            if let Err(error) = self.sockets.send(local, remote, &transmit.datagram) {
                self.send_failures += 1;
                tracing::debug!(%remote, %error, "IKE message not sent");
            }
        }
        if let Some(block) = &mut self.paths {
            let PathCounts { believed, not_ours, no_news, expired } = self.gateway.path_counts();
            block.publish(&[believed, not_ours, no_news, self.path_errors_ignored, expired]);
        }
        let failures = self.sockets.failures();
        let figures = &mut self.gateway.figures().sockets;
        figures.receive_failures = failures.errors + failures.overflows;
        figures.send_failures = self.send_failures;
    }

    /// A protected packet that the kernel reassembled goes to its worker as the IP packet it was.
    fn inject(&mut self, packet: &Reassembled) {
        if let Some(whole) = ports::whole_packet(packet) {
            self.gateway.dataplane().inject(whole);
        }
    }

    /// Has the kernel resolve a next hop; its answer comes as a change. Packets that bypass the
    /// kernel do not keep an entry alive, so it is asked to.
    fn resolve(&mut self, hop: (u32, IpAddr)) {
        let keep = self.managed.contains(&hop) || self.managed.len() < MANAGED;
        let fresh = keep && self.managed.insert(hop);
        if (fresh || !self.view.neighbours.contains_key(&hop))
            && let Err(error) = self.requests.resolve_neighbour(hop.0, hop.1, keep)
        {
            tracing::debug!(%error, address = %hop.1, "neighbour not resolved");
        }
    }

    /// SIGHUP.
    fn reload(&mut self, now: Instant) {
        match self.loaded.change(Asked::Reload, &mut self.gateway, now) {
            Ok(()) => tracing::info!("configuration reloaded"),
            Err(refused) => {
                tracing::error!("configuration not reloaded, the old one stays: {refused}");
            }
        }
    }

    /// Undoes what was done to the host, the fail-closed rules excepted.
    fn end(&mut self) {
        self.proxies.end(&mut self.requests);
        for address in core::mem::take(&mut self.addresses) {
            if let Err(error) = self.requests.remove_address(self.tun, address) {
                tracing::warn!(%error, %address, "a virtual address stays");
            }
        }
        for route in core::mem::take(&mut self.routes) {
            if let Err(error) = self.requests.remove_route(TABLE, &route) {
                tracing::warn!(%error, "a route stays in table {TABLE}");
            }
        }
        if let Err(error) = self.requests.remove_rule(TABLE, u32::from(TABLE), MARK) {
            tracing::warn!(%error, "the rule for table {TABLE} stays");
        }
        self.flush();
        self.gateway.dataplane().stop();
        tracing::info!("ended");
    }
}

fn create_segment(file: &Path, layout: &stats::Layout) -> Result<stats::Segment, RunError> {
    let fail = |source| RunError::Statistics { path: file.to_owned(), source };
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(|e| fail(e.into()))?;
    }
    let start = stats::Start::now().map_err(|e| fail(e.into()))?;
    stats::Segment::create(file, layout, start).map_err(fail)
}
