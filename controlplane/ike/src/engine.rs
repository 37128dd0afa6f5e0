//! The engine's outside: what goes in, what comes out, and in which order to call.

use crate::config::Config;
use crate::event::{
    Command, CommandError, Event, InstallId, InstallRefused, Limit, Path, RequestId, SpiSource,
    Transmit,
};
use crate::job::{Job, JobDone};
use crate::statistics::Statistics;
use crate::view::IkeSaView;
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
    config: Arc<Config>,
    out: Outputs,
    statistics: Statistics,
}

/// What waits to be polled.
#[derive(Default)]
pub(crate) struct Outputs {
    pub(crate) transmits: VecDeque<Transmit>,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) events: VecDeque<Event>,
}

impl Engine {
    /// An engine without SAs. `seed` must come from the operating system's random source, except in tests.
    pub fn new(config: Arc<Config>, seed: [u8; 32]) -> Self {
        let _ = seed;
        Self { config, out: Outputs::default(), statistics: Statistics::default() }
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
        let _ = (now, path, datagram, spis);
    }

    /// The deadline of [`Engine::poll_timeout`] has come. Calling early does no harm.
    pub fn handle_timeout(&mut self, now: Instant, spis: &mut dyn SpiSource) {
        let _ = (now, spis);
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
        let _ = (now, command, spis);
        Err(CommandError::UnknownConfig)
    }

    /// A job has been run.
    pub fn handle_job(&mut self, now: Instant, done: JobDone, spis: &mut dyn SpiSource) {
        let _ = (now, done.ike, done.generation, spis);
    }

    /// The owner worker has taken or refused one half of a pair.
    pub fn handle_installed(
        &mut self,
        now: Instant,
        id: InstallId,
        result: Result<(), InstallRefused>,
        spis: &mut dyn SpiSource,
    ) {
        let _ = (now, id, result, spis);
    }

    /// A byte or packet limit of a pair has been reached.
    pub fn handle_expire(
        &mut self,
        now: Instant,
        pair: PairId,
        limit: Limit,
        spis: &mut dyn SpiSource,
    ) {
        let _ = (now, pair, limit, spis);
    }

    /// Authentic ESP or AH has come in on a pair since the last such report: its peer lives, and the outbound half of a
    /// rekeyed pair may be used. Reported at least once for a new pair, and about every second while there is traffic.
    pub fn handle_inbound_traffic(&mut self, now: Instant, pair: PairId) {
        let _ = (now, pair);
    }

    /// Authentic UDP-encapsulated ESP of a pair has come from another address or port (RFC 7296 §2.23).
    pub fn handle_peer_moved(&mut self, now: Instant, pair: PairId, remote: SocketAddr) {
        let _ = (now, pair, remote);
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
        None
    }

    /// Counters and gauges of this moment.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Every IKE SA with its children, oldest first.
    pub fn ike_sas(&self, now: Instant) -> Vec<IkeSaView> {
        let _ = now;
        Vec::new()
    }

    /// Whether nothing is left: after [`Command::TerminateAll`], that the daemon may go.
    pub fn is_idle(&self) -> bool {
        true
    }
}
