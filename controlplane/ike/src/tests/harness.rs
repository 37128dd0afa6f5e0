//! The pair of engines, the link between them and the dataplanes they install into.

mod configs;

pub(super) use configs::{
    change_child, changed, child, config, config_with, connection, id, net, proposals, psk, ts,
};

use crate::Engine;
use crate::config::Config;
use crate::event::{
    Activate, Command, Event, Failure, InstallRefused, Origin, Outcome, Path, RequestId,
    SpiRefused, SpiSource, Transmit,
};
use crate::job::Job;
use crate::random::Random;
use crate::view::{ChildState, IkeState};
use core::net::{IpAddr, SocketAddr};
use ipsec::sa::{PairId, SaParameters, Spi};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) const A: &str = "192.0.2.1";
pub(super) const B: &str = "192.0.2.2";

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    A,
    B,
}

impl Who {
    pub(super) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// Inbound SPIs, with an account of where each is.
#[derive(Default)]
pub(super) struct Spis {
    next: u32,
    pub(super) held: BTreeSet<u32>,
    pub(super) refuse: bool,
}

impl SpiSource for Spis {
    fn allocate(&mut self, _: IpAddr, _: Option<Spi>) -> Result<Spi, SpiRefused> {
        if self.refuse {
            return Err(SpiRefused);
        }
        self.next += 1;
        assert!(self.held.insert(self.next));
        Ok(Spi::new(self.next).unwrap())
    }

    fn release(&mut self, spi: Spi) {
        assert!(self.held.remove(&spi.get()), "released twice: {spi:?}");
    }
}

/// What a dataplane holds of one pair.
#[derive(Default)]
pub(super) struct Installed {
    pub(super) inbound: Option<SaParameters>,
    pub(super) outbound: Option<SaParameters>,
    pub(super) active: bool,
}

pub(super) struct Host {
    pub(super) engine: Engine,
    pub(super) spis: Spis,
    pub(super) sad: BTreeMap<PairId, Installed>,
    pub(super) events: Vec<String>,
    pub(super) done: BTreeMap<RequestId, Result<Outcome, Failure>>,
    pub(super) refuse_inbound: bool,
    pub(super) refuse_outbound: bool,
    /// Holds jobs back, for messages that overtake them.
    pub(super) hold_jobs: bool,
    pub(super) jobs: VecDeque<Job>,
    /// A server that the jobs which may wait do wait for.
    pub(super) is_silent: bool,
    pub(super) waiting: Vec<Job>,
}

impl Host {
    pub(super) fn new(config: Config, number: u32, seed: u8) -> Self {
        let spis = Spis { next: 0x1000_0000 * number, ..Spis::default() };
        Self {
            engine: Engine::new(Arc::new(config), [seed; 32]),
            spis,
            sad: BTreeMap::new(),
            events: Vec::new(),
            done: BTreeMap::new(),
            refuse_inbound: false,
            refuse_outbound: false,
            hold_jobs: false,
            jobs: VecDeque::new(),
            is_silent: false,
            waiting: Vec::new(),
        }
    }

    /// Does what the engine asks for until it asks for nothing more; returns what it sends.
    pub(super) fn pump(&mut self, now: Instant) -> Vec<Transmit> {
        let mut sent = Vec::new();
        loop {
            if let Some(event) = self.engine.poll_event() {
                self.event(now, event);
            } else if let Some(job) = self.engine.poll_job() {
                if self.is_silent && job.waits().is_some() {
                    self.waiting.push(job);
                } else {
                    self.jobs.push_back(job);
                }
            } else if !self.hold_jobs && !self.jobs.is_empty() {
                let job = self.jobs.pop_front().unwrap();
                self.engine.handle_job(now, job.run(), &mut self.spis);
            } else if let Some(transmit) = self.engine.poll_transmit() {
                sent.push(transmit);
            } else {
                return sent;
            }
        }
    }

    fn event(&mut self, now: Instant, event: Event) {
        match event {
            Event::InstallInbound { id, sa, .. } => {
                let result = if self.refuse_inbound { Err(InstallRefused::Full) } else { Ok(()) };
                if result.is_ok() {
                    let slot = self.sad.entry(sa.pair).or_default();
                    assert!(slot.inbound.replace(*sa).is_none());
                }
                self.engine.handle_installed(now, id, result, &mut self.spis);
            }
            Event::InstallOutbound { id, sa, activate, replaces, .. } => {
                let result = if self.refuse_outbound { Err(InstallRefused::Full) } else { Ok(()) };
                if result.is_ok() {
                    let pair = sa.pair;
                    if activate == Activate::Now
                        && let Some(old) = replaces.and_then(|old| self.sad.get_mut(&old))
                    {
                        old.active = false;
                    }
                    let slot = self.sad.entry(pair).or_default();
                    slot.active = activate == Activate::Now;
                    assert!(slot.outbound.replace(*sa).is_none());
                }
                self.engine.handle_installed(now, id, result, &mut self.spis);
            }
            Event::ActivateOutbound { pair } => {
                if let Some(slot) = self.sad.get_mut(&pair) {
                    slot.active = slot.outbound.is_some();
                }
            }
            Event::RemoveOutbound { pair } => {
                if let Some(slot) = self.sad.get_mut(&pair) {
                    slot.outbound = None;
                    slot.active = false;
                }
            }
            Event::RemovePair { pair } => {
                if let Some(sa) = self.sad.remove(&pair).and_then(|slot| slot.inbound) {
                    self.spis.release(sa.spi);
                }
            }
            Event::ChildUp { name, replaces, .. } => {
                let rekeyed = if replaces.is_some() { " rekeyed" } else { "" };
                self.events.push(format!("child {} up{rekeyed}", name.child));
            }
            Event::ChildDown { name, reason, .. } => {
                self.events.push(format!("child {} down: {reason}", name.child));
            }
            Event::IkeUp { replaces, .. } => {
                let rekeyed = if replaces.is_some() { " rekeyed" } else { "" };
                self.events.push(format!("ike up{rekeyed}"));
            }
            Event::IkeDown { reason, .. } => self.events.push(format!("ike down: {reason}")),
            Event::RequestDone { request, result } => {
                assert!(self.done.insert(request, result).is_none(), "answered twice");
            }
            Event::Unprotected { child, .. } => {
                self.events.push(format!("child {child} unprotected"));
            }
            Event::VirtualAddress { address, held, .. } => {
                let sign = if held { '+' } else { '-' };
                self.events.push(format!("{sign}{address}"));
            }
            Event::PeerMoved { path, .. } => {
                self.events.push(format!("moved to {}", path.remote));
            }
            Event::Log { .. } => {}
        }
    }

    /// SPIs of the inbound and outbound SAs of every pair.
    pub(super) fn spi_pairs(&self) -> Vec<(Option<u32>, Option<u32>)> {
        let spi = |sa: &Option<SaParameters>| sa.as_ref().map(|sa| sa.spi.get());
        self.sad.values().map(|slot| (spi(&slot.inbound), spi(&slot.outbound))).collect()
    }

    /// The states of IKE SAs and of their children.
    pub(super) fn states(&self, now: Instant) -> Vec<(IkeState, Vec<ChildState>)> {
        let views = self.engine.ike_sas(now);
        views
            .into_iter()
            .map(|sa| (sa.state, sa.children.iter().map(|child| child.state).collect()))
            .collect()
    }
}

pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) start: Instant,
    pub(super) a: Host,
    pub(super) b: Host,
    /// Under way to each.
    pub(super) to_a: VecDeque<Transmit>,
    pub(super) to_b: VecDeque<Transmit>,
    /// A NAT before A: the address that B sees, with ports 10,000 higher.
    pub(super) nat: Option<IpAddr>,
    /// Everything that was ever sent, oldest first: sender and datagram.
    pub(super) trace: Vec<(Who, Transmit)>,
}

impl Pair {
    pub(super) fn new(a: Config, b: Config) -> Self {
        Self::seeded_with(1, a, b)
    }

    pub(super) fn seeded(seed: u8) -> Self {
        Self::seeded_with(seed, config(Who::A), config(Who::B))
    }

    /// The seed decides SPIs, nonces (and so who wins a collision) and jitter.
    pub(super) fn seeded_with(seed: u8, a: Config, b: Config) -> Self {
        let now = Instant::now();
        Self {
            now,
            start: now,
            a: Host::new(a, 1, seed),
            b: Host::new(b, 2, seed.wrapping_add(1)),
            to_a: VecDeque::new(),
            to_b: VecDeque::new(),
            nat: None,
            trace: Vec::new(),
        }
    }

    pub(super) fn with_defaults() -> Self {
        Self::new(config(Who::A), config(Who::B))
    }

    pub(super) fn host(&mut self, who: Who) -> &mut Host {
        match who {
            Who::A => &mut self.a,
            Who::B => &mut self.b,
        }
    }

    /// Lets both engines act without delivering anything.
    pub(super) fn pump(&mut self) {
        for transmit in self.a.pump(self.now) {
            self.trace.push((Who::A, transmit.clone()));
            self.to_b.push_back(transmit);
        }
        for transmit in self.b.pump(self.now) {
            self.trace.push((Who::B, transmit.clone()));
            self.to_a.push_back(transmit);
        }
    }

    /// Delivers one datagram; its sender's path turned round is the receiver's.
    pub(super) fn deliver(&mut self, who: Who, transmit: &Transmit) {
        let now = self.now;
        let mut path = Path { local: transmit.path.remote, remote: transmit.path.local };
        if let Some(nat) = self.nat {
            const SHIFT: u16 = 10_000;
            match who {
                Who::A => path.local = socket(A, path.local.port() - SHIFT),
                Who::B => path.remote = SocketAddr::new(nat, path.remote.port() + SHIFT),
            }
        }
        let host = self.host(who);
        host.engine.handle_datagram(now, path, &transmit.datagram, &mut host.spis);
        self.pump();
    }

    /// Delivers the next datagram on its way to `who`.
    pub(super) fn deliver_next(&mut self, who: Who) {
        let queue = match who {
            Who::A => &mut self.to_a,
            Who::B => &mut self.to_b,
        };
        let transmit = queue.pop_front().expect("nothing is under way");
        self.deliver(who, &transmit);
    }

    /// Delivers everything, in turns, until nothing is under way.
    pub(super) fn settle(&mut self) {
        self.pump();
        for _ in 0..1000 {
            if !self.to_b.is_empty() {
                self.deliver_next(Who::B);
            } else if !self.to_a.is_empty() {
                self.deliver_next(Who::A);
            } else {
                return;
            }
        }
        panic!("the two never stop talking");
    }

    /// One packet on what `who` sends on; says whether the other side takes it. A peer that receives on a new pair only when the third
    /// message of quick mode is there is the stricter one.
    pub(super) fn send_data(&mut self, who: Who) -> bool {
        let sends = self.host(who).sad.values().rfind(|slot| slot.active);
        let Some(spi) = sends.and_then(|slot| slot.outbound.as_ref()).map(|sa| sa.spi) else {
            return false;
        };
        let now = self.now;
        let host = self.host(who.other());
        // What lingers has no outbound half any more, what is not confirmed has none yet and nothing older beside it.
        let newest = host.sad.keys().next_back().copied();
        let takes = host.sad.iter().find(|(pair, slot)| {
            slot.inbound.as_ref().is_some_and(|sa| sa.spi == spi)
                && (slot.outbound.is_some() || Some(**pair) != newest)
        });
        let Some(pair) = takes.map(|(pair, _)| *pair) else { return false };
        host.engine.handle_inbound_traffic(now, pair);
        self.pump();
        true
    }

    /// Moves the clock on, with all timeouts on the way, delivering everything.
    pub(super) fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        self.settle();
        while let Some(at) = self.next_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.timeouts();
            self.settle();
        }
        self.now = until;
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let (a, b) = (self.a.engine.poll_timeout(), self.b.engine.poll_timeout());
        a.into_iter().chain(b).min()
    }

    pub(super) fn timeouts(&mut self) {
        let now = self.now;
        self.a.engine.handle_timeout(now, &mut self.a.spis);
        self.b.engine.handle_timeout(now, &mut self.b.spis);
        self.pump();
    }

    pub(super) fn command(&mut self, who: Who, command: Command) -> RequestId {
        let now = self.now;
        let host = self.host(who);
        let request = host.engine.handle_command(now, command, &mut host.spis).unwrap();
        self.pump();
        request
    }

    pub(super) fn initiate(&mut self, who: Who) -> RequestId {
        self.initiate_child(who, "net")
    }

    pub(super) fn initiate_child(&mut self, who: Who, child: &str) -> RequestId {
        let child = child.to_owned();
        let origin = Origin::Initiate;
        self.command(who, Command::InitiateChild { connection: None, child, origin })
    }

    pub(super) fn under_way(&self, who: Who) -> usize {
        match who {
            Who::A => self.to_a.len(),
            Who::B => self.to_b.len(),
        }
    }

    pub(super) fn lose_next(&mut self, who: Who) {
        match who {
            Who::A => self.to_a.pop_front(),
            Who::B => self.to_b.pop_front(),
        };
    }

    /// So many steps in which messages are lost, come twice, late or out of order, as the seed has it; then all is well again.
    pub(super) fn stumble(&mut self, steps: usize, seed: u8) {
        let mut random = Random::new([seed; 32]);
        for _ in 0..steps {
            match random.array::<1>()[0] & 7 {
                0 if self.under_way(Who::A) > 0 => self.lose_next(Who::A),
                1 if self.under_way(Who::B) > 0 => self.lose_next(Who::B),
                2 => self.repeat_any(if seed & 1 == 0 { Who::A } else { Who::B }, &mut random),
                _ => self.random_step(&mut random),
            }
        }
        (self.a.hold_jobs, self.b.hold_jobs) = (false, false);
        self.settle();
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.to_a.is_empty()
            && self.to_b.is_empty()
            && self.a.jobs.is_empty()
            && self.b.jobs.is_empty()
    }

    /// Delivers some datagram, not always the oldest, or lets jobs be done, or holds them.
    pub(super) fn random_step(&mut self, random: &mut Random) {
        let [kind, which] = random.array::<2>();
        let who = if kind & 1 == 0 { Who::A } else { Who::B };
        match kind >> 1 & 7 {
            0 => self.host(who).hold_jobs = true,
            1 | 2 => {
                self.host(who).hold_jobs = false;
                self.pump();
            }
            _ => {
                let queue = match who {
                    Who::A => &mut self.to_a,
                    Who::B => &mut self.to_b,
                };
                if !queue.is_empty() {
                    let at = usize::from(which) % queue.len();
                    if let Some(transmit) = queue.remove(at) {
                        self.deliver(who, &transmit);
                    }
                }
            }
        }
    }

    /// Delivers a datagram of the past once more.
    pub(super) fn repeat_any(&mut self, who: Who, random: &mut Random) {
        let sent: Vec<Transmit> = self
            .trace
            .iter()
            .filter(|(from, _)| *from != who)
            .map(|(_, transmit)| transmit.clone())
            .collect();
        if !sent.is_empty() {
            let [high, low] = random.array::<2>();
            let at = usize::from(u16::from_be_bytes([high, low])) % sent.len();
            self.deliver(who, &sent[at]);
        }
    }

    /// Timeouts go by while the link holds everything back.
    pub(super) fn wait_without_delivery(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.next_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.timeouts();
        }
        self.now = until;
    }

    /// Whatever there is, both sides have the same.
    #[track_caller]
    pub(super) fn assert_consistent(&self, what: &str) {
        let spis = |host: &Host| {
            let views = host.engine.ike_sas(self.now);
            let mut spis: Vec<_> = views.iter().map(|sa| (sa.spi_i, sa.spi_r, sa.state)).collect();
            spis.sort_unstable_by_key(|(i, r, _)| (*i, *r));
            spis
        };
        assert_eq!(spis(&self.a), spis(&self.b), "{what}");
        let all = spis(&self.a);
        assert!(all.iter().all(|(_, _, state)| *state == IkeState::Established), "{what}: {all:?}");
        let children: usize = self.a.states(self.now).iter().map(|(_, c)| c.len()).sum();
        self.assert_in_use(all.len(), children);
    }

    /// Both established with one child each, nothing under way.
    pub(super) fn established() -> Self {
        let mut pair = Self::with_defaults();
        pair.initiate(Who::A);
        pair.settle();
        pair.assert_in_use(1, 1);
        pair
    }

    /// Both sides have this many IKE SAs and Child SAs in use and nothing else, and the SAs fit together.
    #[track_caller]
    pub(super) fn assert_in_use(&self, ikes: usize, children: usize) {
        for (host, who) in [(&self.a, Who::A), (&self.b, Who::B)] {
            let states = host.states(self.now);
            let established = states.iter().all(|(state, _)| *state == IkeState::Established);
            assert!(established && states.len() == ikes, "{who:?}: {states:?}");
            let installed: Vec<_> = states.iter().flat_map(|(_, children)| children).collect();
            assert!(
                installed.iter().all(|state| **state == ChildState::Installed)
                    && installed.len() == children,
                "{who:?}: {states:?}"
            );
        }
        self.assert_sads_match(children);
    }

    /// What one side sends on, the other receives on with the same keys; SPIs are held for installed SAs only.
    #[track_caller]
    pub(super) fn assert_sads_match(&self, pairs: usize) {
        for (from, to) in [(&self.a, &self.b), (&self.b, &self.a)] {
            assert_eq!(from.sad.len(), pairs, "{:?} / {:?}", self.a.events, self.b.events);
            let held: Vec<u32> = from.spis.held.iter().copied().collect();
            let installed: BTreeSet<u32> = from
                .sad
                .values()
                .filter_map(|s| s.inbound.as_ref())
                .map(|sa| sa.spi.get())
                .collect();
            assert_eq!(held, installed.into_iter().collect::<Vec<_>>(), "SPIs leak");
            for slot in from.sad.values() {
                let out = slot.outbound.as_ref().expect("no outbound half");
                let received = to
                    .sad
                    .values()
                    .filter_map(|slot| slot.inbound.as_ref())
                    .find(|sa| sa.spi == out.spi)
                    .expect("nobody receives on it");
                let key = |sa: &SaParameters| sa.transform.cipher_key.expose().to_vec();
                assert_eq!(key(out), key(received));
                assert_eq!(out.selectors.len(), received.selectors.len());
                // In transport mode each side means the address that it sees.
                if self.nat.is_none() {
                    assert_eq!(out.selectors[0].local, received.selectors[0].remote);
                }
            }
        }
    }

    #[track_caller]
    pub(super) fn assert_empty(&self) {
        for host in [&self.a, &self.b] {
            assert!(host.states(self.now).is_empty(), "{:?}", host.states(self.now));
            assert!(host.sad.is_empty());
            assert!(host.spis.held.is_empty(), "SPIs leak");
        }
    }

    #[track_caller]
    pub(super) fn assert_done(&mut self, who: Who, request: RequestId) -> Outcome {
        self.host(who).done.get(&request).expect("not done").expect("failed")
    }
}

pub(super) fn socket(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}
