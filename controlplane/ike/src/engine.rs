//! The engine's outside: what goes in, what comes out, and in which order to call.

use crate::acquire::{Acquires, Requests};
use crate::config::{Config, Unique};
use crate::context::{Cx, Effect, Half, Outputs, Registry};
use crate::endpoint::Cookies;
use crate::event::{
    Command, CommandError, Event, Failure, IkeId, InstallId, InstallRefused, Level, Limit, Path,
    RequestId, SpiSource, Transmit,
};
use crate::job::{Job, JobDone};
use crate::known::Known;
use crate::random::Random;
use crate::sa::Sa;
use crate::statistics::Statistics;
use crate::succession::Between;
use crate::table::{Held, Table};
use crate::v1::aggressive::Allowance;
use crate::v1::sa::{Order, State as StateV1};
use crate::v2::established::{DELETE_AWAITED, Life};
use crate::v2::sa::State;
use crate::v2::task::Task;
use crate::view::{IkeSaView, Role};
use core::net::SocketAddr;
use ipsec::sa::PairId;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// All IKE SAs of this host.
///
/// Four kinds of methods, to be called like this: any `handle_*` or [`Engine::set_config`] when something happens, then
/// every `poll_*` until it has nothing more: first [`Engine::poll_event`] (installations come before the datagrams that
/// depend on them), [`Engine::poll_job`], [`Engine::poll_transmit`], and last [`Engine::poll_timeout`], whose deadline
/// replaces the one known before. Views may be taken at any time.
///
/// Time is always the caller's and never goes backwards; randomness comes from the seed given at the start.
pub struct Engine {
    pub(crate) config: Arc<Config>,
    pub(crate) random: Random,
    pub(crate) out: Outputs,
    pub(crate) stats: Statistics,
    pub(crate) registry: Registry,
    pub(crate) table: Table,
    pub(crate) effects: VecDeque<Effect>,
    pub(crate) acquires: Acquires,
    pub(crate) requests: Requests,
    pub(crate) cookies: Cookies,
    pub(crate) aggressive: Allowance,
    pub(crate) shutting_down: bool,
}

impl Engine {
    /// An engine without SAs. `seed` must come from the operating system's random source, except in tests.
    pub fn new(config: Arc<Config>, seed: [u8; 32]) -> Self {
        Self {
            config,
            random: Random::new(seed),
            out: Outputs::default(),
            stats: Statistics::default(),
            registry: Registry::default(),
            table: Table::default(),
            effects: VecDeque::new(),
            acquires: Acquires::default(),
            requests: Requests::default(),
            cookies: Cookies::default(),
            aggressive: Allowance::default(),
            shutting_down: false,
        }
    }

    /// Replaces the configuration. SAs keep the parameters they have until they are rekeyed.
    pub fn set_config(&mut self, config: Arc<Config>) {
        self.config = config;
    }

    /// The configuration.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Takes a datagram from an IKE socket, without the non-ESP marker.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        path: Path,
        datagram: &[u8],
        spis: &mut dyn SpiSource,
    ) {
        // A NAT keepalive is nobody's message (RFC 3948 §2.3).
        if datagram == [0xff] {
            return;
        }
        self.receive(now, path, datagram, spis);
        self.run_effects(now, spis);
    }

    /// The deadline of [`Engine::poll_timeout`] has come. Calling early does no harm.
    pub fn handle_timeout(&mut self, now: Instant, spis: &mut dyn SpiSource) {
        self.acquires.timeout(now);
        for id in self.table.due(now) {
            self.step(now, spis, id, |sa, cx| sa.handle_timeout(cx));
            self.run_effects(now, spis);
        }
    }

    /// Begins what an operator, the configuration or a trapped packet asks for.
    ///
    /// # Errors
    /// What makes the command impossible from the start; everything later comes as
    /// [`Event::RequestDone`].
    pub fn handle_command(
        &mut self,
        now: Instant,
        command: Command,
        spis: &mut dyn SpiSource,
    ) -> Result<RequestId, CommandError> {
        let result = self.command(now, command, spis);
        self.run_effects(now, spis);
        result
    }

    /// A job has been run.
    pub fn handle_job(&mut self, now: Instant, done: JobDone, spis: &mut dyn SpiSource) {
        let JobDone { ike, number, result, .. } = done;
        self.step(now, spis, ike, |sa, cx| sa.handle_job(cx, number, result));
        self.run_effects(now, spis);
    }

    /// The owner worker has taken or refused one half of a pair.
    pub fn handle_installed(
        &mut self,
        now: Instant,
        id: InstallId,
        result: Result<(), InstallRefused>,
        spis: &mut dyn SpiSource,
    ) {
        let Some(installing) = self.registry.installing.remove(&id) else { return };
        match (installing.half, result) {
            (Half::Inbound, Ok(())) => self.stats.key_updates += 1,
            (Half::Outbound, Ok(())) => self.stats.key_additions += 1,
            (Half::Inbound, Err(_)) => {
                self.stats.key_update_failures += 1;
                spis.release(installing.spi);
            }
            (Half::Outbound, Err(_)) => self.stats.key_addition_failures += 1,
        }
        if let Some(ike) = self.table.owner(installing.pair) {
            self.step(now, spis, ike, |sa, cx| sa.handle_installed(cx, id, &installing, result));
        }
        self.run_effects(now, spis);
    }

    /// A byte or packet limit of a pair has been reached.
    pub fn handle_expire(
        &mut self,
        now: Instant,
        pair: PairId,
        limit: Limit,
        spis: &mut dyn SpiSource,
    ) {
        let Some(ike) = self.table.owner(pair) else { return };
        self.step(now, spis, ike, |sa, cx| sa.limit_reached(cx, pair, limit));
        self.run_effects(now, spis);
    }

    /// Authentic ESP or AH has come in on a pair since the last such report: its peer lives, and the outbound half of a
    /// rekeyed pair may be used. Reported at least once for a new pair, and about every second while there is traffic.
    pub fn handle_inbound_traffic(&mut self, now: Instant, pair: PairId) {
        let Some(ike) = self.table.owner(pair) else { return };
        if let Some(sa) = self.table.get_mut(ike) {
            let activate = sa.inbound_traffic(now, pair);
            self.out.events.extend(activate);
        }
        self.table.settle(ike, self.config.settings.keep_alive);
    }

    /// Authentic UDP-encapsulated ESP of a pair has come from another address or port (RFC 7296 §2.23).
    pub fn handle_peer_moved(&mut self, _now: Instant, pair: PairId, remote: SocketAddr) {
        let Some(ike) = self.table.owner(pair) else { return };
        if let Some(sa) = self.table.get_mut(ike) {
            let moved = sa.peer_moved(remote);
            self.out.events.extend(moved);
        }
    }

    /// The next thing to do or to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.events.pop_front()
    }

    /// The next public-key job for the pool; its [`JobDone`] goes to [`Engine::handle_job`].
    pub fn poll_job(&mut self) -> Option<Job> {
        self.out.jobs.pop_front()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmits.pop_front()
    }

    /// When [`Engine::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.table.next_deadline(), self.acquires.next_deadline()].into_iter().flatten().min()
    }

    /// Counters and gauges of this moment.
    pub fn statistics(&self) -> Statistics {
        let count = |n: usize| n as u64;
        let parked = count(self.table.parked());
        // Asked for at every turn of the daemon's loop: nothing here may depend on how many SAs there are.
        let Held { negotiations, fragments, counted } = self.table.held();
        Statistics {
            active_acquire: count(self.acquires.active()),
            acquire_heap_size: count(self.acquires.len()),
            active_receive: parked,
            receive_heap_size: parked + count(fragments),
            isadb_list_size: count(counted),
            connection_list_size: count(negotiations),
            half_open: count(self.table.half_open()),
            ..self.stats
        }
    }

    /// Every IKE SA with its children, oldest first.
    pub fn ike_sas(&self, now: Instant) -> Vec<IkeSaView> {
        self.table.iter().filter_map(|sa| sa.view(now)).collect()
    }

    /// One of them.
    pub fn ike_sa(&self, id: IkeId, now: Instant) -> Option<IkeSaView> {
        self.table.get(id)?.view(now)
    }

    /// Whether nothing is left: after [`Command::TerminateAll`], that the daemon may go.
    pub fn is_idle(&self) -> bool {
        self.table.iter().all(Sa::is_closed)
            && self.out.transmits.is_empty()
            && self.out.events.is_empty()
    }

    // Inside.

    /// Surroundings for something that is not a step of an IKE SA in the table.
    pub(crate) fn with_cx<R>(
        &mut self,
        now: Instant,
        spis: &mut dyn SpiSource,
        f: impl FnOnce(&mut Cx<'_>) -> R,
    ) -> R {
        let mut cx = Cx {
            now,
            config: &self.config,
            spis,
            random: &mut self.random,
            out: &mut self.out,
            stats: &mut self.stats,
            registry: &mut self.registry,
            effects: &mut self.effects,
        };
        f(&mut cx)
    }

    /// One step of an IKE SA: the input, then what waits for its turn, then the indexes.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        spis: &mut dyn SpiSource,
        id: IkeId,
        f: impl FnOnce(&mut Sa, &mut Cx<'_>),
    ) {
        let Some(sa) = self.table.get_mut(id) else { return };
        let mut cx = Cx {
            now,
            config: &self.config,
            spis,
            random: &mut self.random,
            out: &mut self.out,
            stats: &mut self.stats,
            registry: &mut self.registry,
            effects: &mut self.effects,
        };
        f(sa, &mut cx);
        sa.pump(&mut cx);
        let over = sa.is_closed() || sa.is_gone();
        let between = match self.registry.known.get(id) {
            Some(known) if over && matches!(sa, Sa::V1(_)) => {
                Some(Between::new(known.clone(), sa.head()))
            }
            _ => None,
        };
        self.table.settle(id, self.config.settings.keep_alive);
        if over {
            if let Some(between) = between {
                self.effects.push_back(Effect::Ended(between));
            }
            self.registry.known.remove(id);
            self.registry.leases.release(id);
            self.registry.own_addresses.remove(&id);
            self.registry.callers.remove(&id);
        }
    }

    pub(crate) fn insert(&mut self, now: Instant, mut sa: Sa) {
        if let Sa::V1(sa) = &mut sa {
            sa.order = Order::begin(now, &mut self.registry);
        }
        self.table.insert(sa, self.config.settings.keep_alive);
    }

    pub(crate) fn send(&mut self, path: Path, datagram: Vec<u8>) {
        self.out.transmits.push_back(Transmit { path, datagram });
    }

    pub(crate) fn run_effects(&mut self, now: Instant, spis: &mut dyn SpiSource) {
        while let Some(effect) = self.effects.pop_front() {
            match effect {
                Effect::Insert(sa) => {
                    let spi = sa.head.own_spi();
                    let id = sa.head.id;
                    self.insert(now, Sa::V2(sa));
                    self.step(now, spis, id, |_, _| {});
                    self.replay_parked(now, spi, spis);
                }
                Effect::Larval(spi) => self.table.begin_larval(spi),
                Effect::NotLarval(spi) => {
                    self.stats.parked_dropped += self.table.end_larval(spi).len() as u64;
                }
                Effect::Move { from, to, children, tasks } => {
                    let pairs: Vec<PairId> = children.keys().copied().collect();
                    let there = self.table.get(to).is_some_and(Sa::is_established);
                    if there {
                        for pair in &pairs {
                            self.table.own(*pair, to);
                        }
                        self.step(now, spis, to, |sa, cx| {
                            if let Sa::V2(sa) = sa
                                && let State::Established(state) = &mut sa.state
                            {
                                state.adopt(&mut sa.head, cx, from, children, tasks);
                            }
                        });
                    } else {
                        // The successor is gone already: its children go with it.
                        for pair in pairs {
                            self.table.forget(pair);
                            self.out.events.push_back(Event::RemovePair { pair });
                        }
                        for queued in tasks {
                            self.drop_task(queued.task);
                        }
                    }
                }
                Effect::Redundant(id) => self.step(now, spis, id, |sa, cx| {
                    if let Sa::V2(sa) = sa
                        && let State::Established(state) = &mut sa.state
                    {
                        state.life = Life::Rekeyed { until: cx.now + DELETE_AWAITED };
                        state.undecided = false;
                    }
                }),
                Effect::Renew { id, old, new } => self.table.renew(id, old, new),
                Effect::Own(pair, id) => self.table.own(pair, id),
                Effect::Forget(pair) => self.table.forget(pair),
                Effect::Authenticated { id, known, initial_contact, fresh } => {
                    if fresh {
                        self.check_unique(now, spis, id, &known, initial_contact);
                    }
                    self.registry.known.insert(id, known);
                }
                Effect::Acquired { connection, child, result } => {
                    let key = (connection, child);
                    self.acquires.done(now, key, result, &mut self.out, &mut self.stats);
                }
                Effect::TagDone { request, result } => {
                    self.requests.step_done(request, result, &mut self.out);
                }
                Effect::Reinitiate { connection, children, wanted, tag } => {
                    let tasks = children
                        .into_iter()
                        .map(|config| Task::CreateChild { config, packet: None })
                        .collect();
                    // The configuration may have changed since.
                    let current =
                        self.config.connections.iter().find(|c| c.name == connection.name);
                    let connection = current.map_or(connection, Arc::clone);
                    if self.shutting_down
                        || self.initiate(now, spis, connection, tasks, wanted, tag).is_err()
                    {
                        self.queue_tag_failed(tag);
                    }
                }
                Effect::Renewal { old, connection, path, tag } => {
                    let current =
                        self.config.connections.iter().find(|c| c.name == connection.name);
                    let connection = current.map_or(connection, Arc::clone);
                    if self.shutting_down
                        || self.initiate_v1(now, spis, connection, path, Some(old), tag).is_none()
                    {
                        self.queue_tag_failed(tag);
                        self.effects.push_back(Effect::NotReplaced(old));
                    }
                }
                Effect::NotReplaced(id) => self.step(now, spis, id, |sa, cx| {
                    if let Sa::V1(sa) = sa
                        && let StateV1::Established(state) = &mut sa.state
                    {
                        state.not_replaced(cx);
                    }
                }),
                Effect::Succeed { id, replaces } => self.succeed(now, spis, id, replaces),
                Effect::Adopt { from, to } => self.adopt(now, spis, from, to),
                Effect::Recall { from, to, first } => self.recall(now, spis, from, to, &first),
                Effect::Ended(between) => self.ended(now, spis, &between),
                Effect::Orphans { between, children, downs } => {
                    self.take_in(now, spis, &between, children, downs);
                }
                Effect::Wards(id) => self.wards(now, spis, id),
                Effect::TellDelete { ike, protocol, spi } => {
                    self.tell_delete(now, spis, ike, protocol, spi);
                }
                Effect::DeletedByPeer { ike, protocol, spi } => {
                    for other in self.same_ends(ike) {
                        self.step(now, spis, other, |sa, cx| {
                            if let Sa::V1(sa) = sa
                                && let StateV1::Established(state) = &mut sa.state
                            {
                                state.deleted_by_peer(&sa.head, cx, protocol, spi);
                            }
                        });
                    }
                }
                Effect::InitialContact(id) => {
                    let known = self.registry.known.get(id).cloned();
                    if let Some(known) = known {
                        self.check_unique(now, spis, id, &known, true);
                    }
                }
            }
        }
    }

    /// `unique`: what becomes of others with the same two ends (RFC 7296 §2.4, charon's rules).
    fn check_unique(
        &mut self,
        now: Instant,
        spis: &mut dyn SpiSource,
        id: IkeId,
        known: &Known,
        initial_contact: bool,
    ) {
        let Some(sa) = self.table.get(id) else { return };
        let (policy, role) = (sa.head().connection.unique, sa.head().role);
        let is_v1 = matches!(sa, Sa::V1(_));
        for other in self.others_of(id, known) {
            if self.is_race(id, other) {
                // The peer had it after it said so.
                continue;
            }
            let is_lost = initial_contact && !self.was_heard_since(id, other);
            if is_lost && policy != Unique::Never {
                // The peer has lost its state: there is nobody to tell.
                self.out.events.push_back(Event::Log {
                    level: Level::Info,
                    text: format!("IKE_SA [{}] ended by INITIAL_CONTACT", other.0),
                });
                self.step(now, spis, other, |sa, cx| {
                    if let Sa::V1(sa) = sa
                        && let StateV1::Established(state) = &mut sa.state
                    {
                        state.stands_alone();
                    }
                    sa.destroy(cx, Failure::Replaced);
                });
                continue;
            }
            // What an ISAKMP SA has in IKEv1 goes over to the new one first: `succeed`.
            let succeeds = is_v1
                && self.registry.known.get(other).is_some_and(|k| k.connection == known.connection);
            if policy == Unique::Replace && role == Role::Responder && !succeeds {
                self.step(now, spis, other, |sa, _| {
                    sa.head_mut().push_task(Task::DeleteIke {
                        reason: Failure::Replaced,
                        reauthenticate: false,
                        tag: None,
                    });
                });
            }
        }
    }

    /// Other IKE SAs between the same two ends.
    pub(crate) fn others_of(&self, id: IkeId, known: &Known) -> Vec<IkeId> {
        let same_ends =
            |(other, there): &(IkeId, &Known)| *other != id && there.local == known.local;
        self.registry.known.of(&known.remote).filter(same_ends).map(|(id, _)| id).collect()
    }

    pub(crate) fn same_ends(&self, id: IkeId) -> Vec<IkeId> {
        let known = self.registry.known.get(id);
        known.map(|known| self.others_of(id, known)).unwrap_or_default()
    }

    fn queue_tag_failed(&mut self, tag: Option<RequestId>) {
        if let Some(request) = tag {
            self.queue(Effect::TagDone { request, result: Err(Failure::Local) });
        }
    }

    fn drop_task(&mut self, task: Task) {
        match task {
            Task::RekeyChild { tag: Some(request), .. }
            | Task::RekeyIke { tag: Some(request) }
            | Task::DeleteChild { tag: Some(request), .. }
            | Task::DeleteIke { tag: Some(request), .. } => {
                self.queue(Effect::TagDone { request, result: Err(Failure::DeletedByPeer) });
            }
            _ => {}
        }
    }
}
