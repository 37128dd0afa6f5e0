//! The control thread's handle: the verbs of RFC 2367 on all workers, and their upcalls.
//!
//! ```text
//!              allocate_spi ─► larval        (packets on the SPI wait)
//!              add_inbound  ─► keyed         (packets are opened)
//!              add_outbound ─► owned by the core that the inbound SPI names
//!              bind         ─► policy's packets take it: Now, or OnInboundTraffic
//!              delete       ─► Event::Deleted when no ring holds a packet for it; the SPI rests
//! ```

use crate::command::{
    Activation, Binding, Command, Delivery, Endpoints, NewInbound, NewOutbound, SaRef, WorkerShared,
};
use crate::config::{DataplaneConfig, PortId, WorkerParts};
use crate::event::Event;
use crate::forwarding::ForwardingTable;
use crate::sa_usage::{PairUsage, SaUsage};
use crate::tunnels::TunnelDevice;
use crate::worker::Worker;
use af_xdp::wait::EventFd;
use af_xdp::{BoundSocket, PacketMemory};
use core::sync::atomic::{AtomicBool, Ordering};
use ipsec::classify::{Class, Protected, classify};
use ipsec::esp::inbound::InboundSa;
use ipsec::esp::outbound::OutboundSa;
use ipsec::fragments::LaterFragments;
use ipsec::sa::{PairId, SaError, SaParameters, Spi};
use ipsec::selector::{Policy, PolicyId, Selector};
use ipsec::spd::{Spd, guard_fragments};
use ipsec::spi::{CoreId, SpiAllocator, SpiError};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

/// Why a command was refused. Nothing has reached a worker.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The pair has this SA already.
    #[error("the pair has this SA already")]
    DuplicateSa,
    /// The SPI is not one that [`Dataplane::allocate_spi`] gave, or it has a key already.
    #[error("the SPI is not allocated")]
    NotAllocated,
    /// The packet is no ESP or AH packet whose SPI names a worker.
    #[error("no worker owns this packet")]
    NotOwned,
    /// The parameters do not make an SA.
    #[error("the parameters do not make an SA")]
    Parameters(#[from] SaError),
    /// A worker's ring is full: it does not turn, or a great many commands came at once. Try again.
    #[error("a worker's ring is full")]
    RingFull,
    /// No SPI is to be had.
    #[error("no SPI is to be had")]
    Spi(#[from] SpiError),
    /// The worker owns as many outbound SAs as its limits allow.
    #[error("the worker has no place for another SA")]
    TooManySas,
    /// The pair has no such SA yet: the inbound SA comes before the outbound one, and both before a binding.
    #[error("the pair has no such SA")]
    UnknownPair,
    /// There is no such worker.
    #[error("there is no such worker")]
    UnknownWorker,
}

/// Names a command that was given to one worker or to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    sequence: u64,
    /// `None`: all of them.
    core: Option<CoreId>,
}

/// What the control thread knows of a pair.
#[derive(Debug)]
struct Pair {
    inbound: Spi,
    inbound_usage: Arc<SaUsage>,
    active: Arc<AtomicBool>,
    outbound: Option<Outbound>,
}

#[derive(Debug)]
struct Outbound {
    at: SaRef,
    usage: Arc<SaUsage>,
    selectors: Arc<[Selector]>,
    later_fragments: bool,
}

/// A pair whose delete was sent and is not complete.
#[derive(Debug)]
struct Deleting {
    ticket: Ticket,
    id: PairId,
    pair: Pair,
}

/// Places for outbound SAs in one worker's table.
#[derive(Debug)]
struct OutboundSlots {
    capacity: u32,
    fresh: u32,
    /// Slots that were in use, with the generation of the next SA there.
    free: Vec<(u32, u32)>,
}

/// The control thread's handle on all workers.
#[derive(Debug)]
pub struct Dataplane {
    shared: Arc<[WorkerShared]>,
    /// Rung by workers that raised an event or applied a command.
    upcall: Arc<EventFd>,
    spis: SpiAllocator,
    /// SPIs that have no key yet.
    larval: HashSet<Spi>,
    pairs: HashMap<PairId, Pair>,
    deleting: VecDeque<Deleting>,
    slots: Vec<OutboundSlots>,
    memories: Vec<PacketMemory>,
    /// Tables that workers have or had. The last of them is current; an older one is dropped here, off the packet path,
    /// when all workers have gone on.
    tables: VecDeque<(Ticket, Arc<ForwardingTable>)>,
    databases: VecDeque<(Ticket, Arc<Spd>)>,
    encap_port: u16,
    sequence: u64,
    epoch: Instant,
    threads: Vec<JoinHandle<Worker>>,
    next_event_from: usize,
}

impl Dataplane {
    /// Makes the workers, which do nothing until [`spawn`](Self::spawn) or until a test turns them.
    ///
    /// # Errors
    /// The system's, when descriptors have run out; `InvalidInput` for no workers, more than an SPI can name, or
    /// workers that do not list the same number of ports.
    pub fn new(
        config: &DataplaneConfig,
        parts: Vec<WorkerParts>,
    ) -> io::Result<(Self, Vec<Worker>)> {
        let ports = parts.first().map_or(0, |p| p.ports.len());
        if parts.is_empty()
            || parts.len() > ipsec::spi::MAX_CORES
            || parts.iter().any(|p| p.ports.len() != ports)
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let shared: Arc<[WorkerShared]> = parts
            .iter()
            .map(|p| WorkerShared::new(&config.limits, p.pool.gauges().total as usize))
            .collect::<io::Result<Vec<_>>>()?
            .into();
        let memories = parts.iter().map(|p| p.pool.memory()).collect();
        let upcall = Arc::new(EventFd::new()?);
        let epoch = Instant::now();
        let count = parts.len();
        let workers = parts
            .into_iter()
            .enumerate()
            .filter_map(|(index, parts)| Some((CoreId::new(index)?, parts)))
            .map(|(core, parts)| {
                Worker::new(core, config, parts, Arc::clone(&shared), Arc::clone(&upcall), epoch)
            })
            .collect();
        let sas = config.limits.sas;
        let slots = OutboundSlots {
            capacity: u32::try_from(sas).unwrap_or(u32::MAX),
            fresh: 0,
            free: Vec::new(),
        };
        let dataplane = Self {
            shared,
            upcall,
            spis: SpiAllocator::new(count, sas, sas.saturating_mul(count)),
            larval: HashSet::new(),
            pairs: HashMap::new(),
            deleting: VecDeque::new(),
            tables: VecDeque::new(),
            databases: VecDeque::new(),
            memories,
            encap_port: config.encap_port,
            slots: (0..count).map(|_| OutboundSlots { free: Vec::new(), ..slots }).collect(),
            sequence: 0,
            epoch,
            threads: Vec::new(),
            next_event_from: 0,
        };
        Ok((dataplane, workers))
    }
}

/// Threads, time and waiting.
impl Dataplane {
    /// Starts a thread for each worker, pinned to the core of the same index in `cores` where there is one.
    ///
    /// # Errors
    /// The system's, when it has no more threads; those already started go on until [`stop`](Self::stop).
    pub fn spawn(&mut self, workers: Vec<Worker>, cores: &[usize]) -> io::Result<()> {
        for (index, mut worker) in workers.into_iter().enumerate() {
            let core = cores.get(index).copied();
            let thread =
                std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                    if let Some(id) = core {
                        // A core that is not ours to take is no reason to forward nothing.
                        core_affinity::set_for_current(core_affinity::CoreId { id });
                    }
                    worker.run();
                    worker
                })?;
            self.threads.push(thread);
        }
        Ok(())
    }

    /// Stops the workers and waits for their threads; they are given back with what they own, in order.
    pub fn stop(&mut self) -> Vec<Worker> {
        self.sequence += 1;
        for shared in self.shared.iter() {
            // `room` keeps a place for it.
            let _ = shared.commands.push((self.sequence, Command::Stop));
            shared.bell.ring();
        }
        self.threads.drain(..).filter_map(|t| t.join().ok()).collect()
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.shared.len()
    }

    /// The moment that [`Usage::last`](crate::Usage::last) counts from.
    pub fn epoch(&self) -> Instant {
        self.epoch
    }

    /// Whether the workers have done what a verb asked; for a delete, whether all packets of the pair have left.
    pub fn applied(&self, ticket: Ticket) -> bool {
        match ticket.core {
            Some(core) => {
                self.shared.get(core.index()).is_some_and(|s| s.applied() >= ticket.sequence)
            }
            None => self.shared.iter().all(|s| s.applied() >= ticket.sequence),
        }
    }

    /// Readable when a worker has raised an event or applied a command, until [`poll_event`](Self::poll_event) says `None`.
    pub fn upcall_fd(&self) -> BorrowedFd<'_> {
        self.upcall.as_fd()
    }

    /// The next event, of all workers in turn.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.take_event() {
            return Some(event);
        }
        self.drop_retired();
        // Cleared before the last look, so that an event after it makes the descriptor readable again.
        self.upcall.clear();
        self.take_event()
    }

    fn take_event(&mut self) -> Option<Event> {
        if let Some(first) = self.deleting.front()
            && self.applied(first.ticket)
            && let Some(done) = self.deleting.pop_front()
        {
            self.spis.release(done.pair.inbound, Instant::now());
            if let Some(outbound) = done.pair.outbound
                && let Some(slots) = self.slots.get_mut(outbound.at.core.index())
            {
                slots.free.push((outbound.at.slot, outbound.at.generation.wrapping_add(1)));
            }
            return Some(Event::Deleted { pair: done.id });
        }
        let count = self.shared.len();
        (0..count).find_map(|n| {
            let index = (self.next_event_from + n) % count;
            let event = self.shared[index].events.pop()?;
            self.next_event_from = (index + 1) % count;
            Some(event)
        })
    }

    /// What a pair's SAs have carried; `None` for a pair that is not installed.
    pub fn usage(&self, pair: PairId) -> Option<PairUsage> {
        let pair = self.pairs.get(&pair)?;
        Some(PairUsage {
            inbound: pair.inbound_usage.read(),
            outbound: pair.outbound.as_ref().map_or_else(Default::default, |o| o.usage.read()),
            mtu: pair.outbound.as_ref().map_or(0, |o| o.usage.mtu()),
        })
    }

    /// The worker that owns a pair; a rekey's SPI is best allocated there.
    pub fn owner(&self, pair: PairId) -> Option<CoreId> {
        self.pairs.get(&pair).map(|p| p.inbound.core())
    }

    /// The pairs that are installed, in no order.
    pub fn pairs(&self) -> impl Iterator<Item = PairId> + '_ {
        self.pairs.keys().copied()
    }

    /// Events lost so far because a ring was full.
    pub fn events_lost(&self) -> u64 {
        self.shared.iter().map(|s| s.events_lost.load(Ordering::Relaxed)).sum()
    }

    /// SPIs given out and refused so far, and those that have no key yet.
    pub fn spi_counts(&self) -> SpiCounts {
        SpiCounts {
            allocated: self.spis.allocated(),
            refused: self.spis.refused(),
            larval: self.larval.len(),
        }
    }
}

/// What became of SPI requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpiCounts {
    /// Requests granted.
    pub allocated: u64,
    /// Requests refused.
    pub refused: u64,
    /// SPIs allocated and neither keyed nor released.
    pub larval: usize,
}

/// The verbs. Each is refused before it reaches a worker, or is carried out; [`applied`](Self::applied) says when.
impl Dataplane {
    /// Allocates an inbound SPI on `core`. Packets on it wait, bounded in number and time, for its key.
    ///
    /// # Errors
    /// [`Refusal::Spi`], [`Refusal::UnknownWorker`], [`Refusal::RingFull`].
    pub fn allocate_spi(&mut self, core: CoreId) -> Result<Spi, Refusal> {
        self.room(Some(core))?;
        let mut entropy = [0];
        // Without randomness the first generation is merely the same after every start.
        let _ = getrandom::fill(&mut entropy);
        let spi = self.spis.allocate(core, Instant::now(), entropy[0])?;
        self.larval.insert(spi);
        self.send(core, Command::Larval(spi));
        Ok(spi)
    }

    /// Gives an SPI back that got no key: the negotiation failed. Waiting packets are dropped.
    ///
    /// # Errors
    /// [`Refusal::NotAllocated`], [`Refusal::RingFull`].
    pub fn release_spi(&mut self, spi: Spi) -> Result<Ticket, Refusal> {
        if !self.larval.contains(&spi) {
            return Err(Refusal::NotAllocated);
        }
        self.room(Some(spi.core()))?;
        self.larval.remove(&spi);
        self.spis.release(spi, Instant::now());
        Ok(self.send(spi.core(), Command::ReleaseLarval(spi)))
    }

    /// Installs an inbound SA on the core that its SPI names. What it opens goes where `delivery` says.
    ///
    /// # Errors
    /// [`Refusal::Parameters`], [`Refusal::NotAllocated`], [`Refusal::DuplicateSa`], [`Refusal::RingFull`].
    pub fn add_inbound(
        &mut self,
        parameters: &SaParameters,
        delivery: Delivery,
    ) -> Result<Ticket, Refusal> {
        let (id, spi) = (parameters.pair, parameters.spi);
        if self.is_known(id) {
            return Err(Refusal::DuplicateSa);
        }
        if !self.larval.contains(&spi) {
            return Err(Refusal::NotAllocated);
        }
        self.room(Some(spi.core()))?;
        let sa = Box::new(InboundSa::new(parameters)?);
        self.larval.remove(&spi);
        let inbound_usage = Arc::new(SaUsage::default());
        let active = Arc::new(AtomicBool::new(false));
        let pair = Pair {
            inbound: spi,
            inbound_usage: Arc::clone(&inbound_usage),
            active: Arc::clone(&active),
            outbound: None,
        };
        self.pairs.insert(id, pair);
        let later = LaterFragments::of(parameters);
        let new = NewInbound { pair: id, sa, delivery, later, usage: inbound_usage, active };
        Ok(self.send(spi.core(), Command::AddInbound(Box::new(new))))
    }

    /// Installs the outbound SA of a pair whose inbound SA is installed, on the same core. It carries nothing until it
    /// is [bound](Self::bind).
    ///
    /// # Errors
    /// [`Refusal::Parameters`], [`Refusal::UnknownPair`], [`Refusal::DuplicateSa`], [`Refusal::TooManySas`],
    /// [`Refusal::RingFull`].
    pub fn add_outbound(&mut self, parameters: &SaParameters) -> Result<Ticket, Refusal> {
        let id = parameters.pair;
        let pair = self.pairs.get(&id).ok_or(Refusal::UnknownPair)?;
        if pair.outbound.is_some() {
            return Err(Refusal::DuplicateSa);
        }
        let core = pair.inbound.core();
        self.room(Some(core))?;
        let sa = Box::new(OutboundSa::new(parameters)?);
        let slots = self.slots.get_mut(core.index()).ok_or(Refusal::UnknownWorker)?;
        let (slot, generation) = match slots.free.pop() {
            Some(used) => used,
            None if slots.fresh < slots.capacity => {
                slots.fresh += 1;
                (slots.fresh - 1, 0)
            }
            None => return Err(Refusal::TooManySas),
        };
        let at = SaRef { core, slot, generation };
        let usage = Arc::new(SaUsage::default());
        let selectors = parameters.selectors.as_slice().into();
        if let Some(pair) = self.pairs.get_mut(&id) {
            pair.outbound = Some(Outbound {
                at,
                usage: Arc::clone(&usage),
                selectors,
                later_fragments: parameters.later_fragments,
            });
        }
        let new = NewOutbound { pair: id, at, sa, usage };
        Ok(self.send(core, Command::AddOutbound(Box::new(new))))
    }

    /// Lets the packets of a policy take the outbound SA of `pair`, where its selectors admit them. Of several bound SAs the last
    /// one that is active is taken. Packets that wait for the policy go.
    ///
    /// # Errors
    /// [`Refusal::UnknownPair`], [`Refusal::RingFull`].
    pub fn bind(
        &mut self,
        policy: PolicyId,
        pair: PairId,
        activation: Activation,
    ) -> Result<Ticket, Refusal> {
        let known = self.pairs.get(&pair).ok_or(Refusal::UnknownPair)?;
        let outbound = known.outbound.as_ref().ok_or(Refusal::UnknownPair)?;
        self.room(None)?;
        if activation == Activation::Now {
            // Relaxed: the command ring orders it for the workers.
            known.active.store(true, Ordering::Relaxed);
        }
        let binding = Binding {
            policy,
            pair,
            sa: outbound.at,
            selectors: Arc::clone(&outbound.selectors),
            later_fragments: outbound.later_fragments,
            active: Arc::clone(&known.active),
        };
        Ok(self.send_all(|| Command::Bind(Box::new(binding.clone()))))
    }

    /// Uses a pair's outbound SA from now on, without waiting for inbound traffic: the SA that it replaces was deleted by the peer.
    ///
    /// # Errors
    /// [`Refusal::UnknownPair`].
    pub fn activate(&mut self, pair: PairId) -> Result<(), Refusal> {
        let known = self.pairs.get(&pair).ok_or(Refusal::UnknownPair)?;
        // Relaxed: see `Binding::active`.
        known.active.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Stops using a pair's outbound SA; its inbound SA still receives. Undoes every [`bind`](Self::bind) of it.
    ///
    /// # Errors
    /// [`Refusal::UnknownPair`], [`Refusal::RingFull`].
    pub fn unbind(&mut self, pair: PairId) -> Result<Ticket, Refusal> {
        if !self.pairs.contains_key(&pair) {
            return Err(Refusal::UnknownPair);
        }
        self.room(None)?;
        Ok(self.send_all(|| Command::Unbind(pair)))
    }

    /// Moves both SAs of a pair to other addresses or UDP ports (RFC 7296 §2.23, RFC 4555).
    ///
    /// # Errors
    /// [`Refusal::UnknownPair`], [`Refusal::Parameters`] for two families, [`Refusal::RingFull`].
    pub fn set_endpoints(&mut self, pair: PairId, endpoints: Endpoints) -> Result<Ticket, Refusal> {
        let core = self.owner(pair).ok_or(Refusal::UnknownPair)?;
        if endpoints.local.is_ipv4() != endpoints.remote.is_ipv4() {
            return Err(Refusal::Parameters(SaError::AddressFamilies));
        }
        self.room(Some(core))?;
        Ok(self.send(core, Command::SetEndpoints(pair, endpoints)))
    }

    /// Sets the longest outer packet, in bytes, that the path to a pair's peer takes (RFC 4301 §8.2.2); the port's MTU holds
    /// as well.
    ///
    /// # Errors
    /// [`Refusal::UnknownPair`], [`Refusal::RingFull`].
    pub fn set_path_mtu(&mut self, pair: PairId, mtu: u16) -> Result<Ticket, Refusal> {
        let core = self.owner(pair).ok_or(Refusal::UnknownPair)?;
        self.room(Some(core))?;
        Ok(self.send(core, Command::SetPathMtu(pair, mtu)))
    }

    /// Deletes both SAs of a pair. Packets already on their way to them are still processed; [`Event::Deleted`] follows when
    /// none is left, and then the SPI rests.
    ///
    /// # Errors
    /// [`Refusal::UnknownPair`], [`Refusal::RingFull`].
    pub fn delete(&mut self, pair: PairId) -> Result<Ticket, Refusal> {
        if !self.pairs.contains_key(&pair) {
            return Err(Refusal::UnknownPair);
        }
        self.room(None)?;
        let ticket = self.send_all(|| Command::Delete(pair));
        if let Some(known) = self.pairs.remove(&pair) {
            self.deleting.push_back(Deleting { ticket, id: pair, pair: known });
        }
        Ok(ticket)
    }

    /// Deletes all pairs, larval SPIs and waiting packets. [`Event::Deleted`] follows for each pair.
    ///
    /// # Errors
    /// [`Refusal::RingFull`].
    pub fn flush(&mut self) -> Result<Ticket, Refusal> {
        self.room(None)?;
        let ticket = self.send_all(|| Command::Flush);
        for (id, pair) in self.pairs.drain() {
            self.deleting.push_back(Deleting { ticket, id, pair });
        }
        for spi in self.larval.drain() {
            self.spis.release(spi, Instant::now());
        }
        Ok(ticket)
    }

    /// Replaces the SPD: an ordered list, of which an earlier policy wins, compiled here. What no policy matches is dropped (RFC 4301
    /// §5.1), and so are fragments that may belong to a policy with ports, unless one without protects them (§7). Bindings of policies whose id stays stay.
    ///
    /// # Errors
    /// [`Refusal::RingFull`].
    pub fn set_policies(&mut self, policies: &[Policy]) -> Result<Ticket, Refusal> {
        self.room(None)?;
        let spd = Arc::new(Spd::compile(&guard_fragments(policies), self.sequence + 1));
        let ticket = self.send_all(|| Command::SetPolicies(Arc::clone(&spd)));
        self.databases.push_back((ticket, spd));
        Ok(ticket)
    }

    /// Replaces the forwarding table. Packets that wait for a next hop it resolves go.
    ///
    /// # Errors
    /// [`Refusal::RingFull`].
    pub fn set_forwarding(&mut self, table: ForwardingTable) -> Result<Ticket, Refusal> {
        self.room(None)?;
        let table = Arc::new(table);
        let ticket = self.send_all(|| Command::SetForwarding(Arc::clone(&table)));
        self.tables.push_back((ticket, table));
        Ok(ticket)
    }

    /// Replaces the devices of route-based tunnels. A queue is closed when no worker has it any more.
    ///
    /// # Errors
    /// [`Refusal::RingFull`].
    pub fn set_tunnels(&mut self, tunnels: Vec<TunnelDevice>) -> Result<Ticket, Refusal> {
        self.room(None)?;
        let tunnels: Arc<[TunnelDevice]> = tunnels.into();
        Ok(self.send_all(|| Command::SetTunnels(Arc::clone(&tunnels))))
    }

    /// The packet memory of a worker, to open sockets for it on.
    pub fn memory(&self, core: CoreId) -> Option<PacketMemory> {
        self.memories.get(core.index()).copied()
    }

    /// Gives a worker a socket on a queue of a port: the first one of a port is the one by which it sends, further ones are only
    /// received from. Opened on the worker's own [`memory`](Self::memory); it is closed otherwise.
    ///
    /// # Errors
    /// [`Refusal::UnknownWorker`], [`Refusal::RingFull`]: the socket is closed.
    pub fn attach_port(
        &mut self,
        core: CoreId,
        port: PortId,
        socket: BoundSocket,
    ) -> Result<Ticket, Refusal> {
        self.room(Some(core))?;
        Ok(self.send(core, Command::AttachPort(port, Box::new(socket))))
    }

    /// Has all workers close their sockets on a port, whose device is gone. What was lent to the device comes back two seconds
    /// later.
    ///
    /// # Errors
    /// [`Refusal::RingFull`].
    pub fn detach_port(&mut self, port: PortId) -> Result<Ticket, Refusal> {
        self.room(None)?;
        Ok(self.send_all(|| Command::DetachPort(port)))
    }

    /// Says that the negotiation a policy's acquire began has failed: its waiting packets are dropped, and traffic may raise
    /// another acquire.
    ///
    /// # Errors
    /// [`Refusal::RingFull`].
    pub fn acquire_failed(&mut self, policy: PolicyId) -> Result<Ticket, Refusal> {
        self.room(None)?;
        Ok(self.send_all(|| Command::AcquireFailed(policy)))
    }

    /// Hands an ESP or AH packet that the kernel reassembled to the owner of its SA: a whole IP packet, UDP
    /// encapsulation included.
    ///
    /// # Errors
    /// [`Refusal::NotOwned`], [`Refusal::RingFull`]: the packet is gone.
    pub fn inject(&mut self, packet: Vec<u8>) -> Result<(), Refusal> {
        let (_, table) = self.tables.back().ok_or(Refusal::NotOwned)?;
        let class = classify(&packet, &table.addresses, self.encap_port);
        let Ok(Class::Protected(Protected { spi, .. })) = class else {
            return Err(Refusal::NotOwned);
        };
        let core = Spi::new(spi).ok_or(Refusal::NotOwned)?.core();
        let shared = self.shared.get(core.index()).ok_or(Refusal::NotOwned)?;
        shared.injected.push(packet).map_err(|_| Refusal::RingFull)?;
        shared.bell.ring();
        Ok(())
    }

    /// Drops tables that no worker has any more.
    fn drop_retired(&mut self) {
        while let Some((next, _)) = self.tables.get(1)
            && self.applied(*next)
        {
            self.tables.pop_front();
        }
        while let Some((next, _)) = self.databases.get(1)
            && self.applied(*next)
        {
            self.databases.pop_front();
        }
    }

    fn is_known(&self, id: PairId) -> bool {
        self.pairs.contains_key(&id) || self.deleting.iter().any(|d| d.id == id)
    }

    /// Whether one more command fits; only this thread adds any, so it stays true until then.
    fn room(&self, core: Option<CoreId>) -> Result<(), Refusal> {
        // One place is kept for Stop.
        let has_room = |s: &WorkerShared| s.commands.len() + 1 < s.commands.capacity();
        let fits = match core {
            Some(core) => has_room(self.shared.get(core.index()).ok_or(Refusal::UnknownWorker)?),
            None => self.shared.iter().all(has_room),
        };
        if fits { Ok(()) } else { Err(Refusal::RingFull) }
    }

    fn send(&mut self, core: CoreId, command: Command) -> Ticket {
        self.sequence += 1;
        if let Some(shared) = self.shared.get(core.index()) {
            // Fits, as `room` said.
            let _ = shared.commands.push((self.sequence, command));
            shared.bell.ring();
        }
        Ticket { sequence: self.sequence, core: Some(core) }
    }

    fn send_all(&mut self, command: impl Fn() -> Command) -> Ticket {
        self.sequence += 1;
        for shared in self.shared.iter() {
            // Fits, as `room` said.
            let _ = shared.commands.push((self.sequence, command()));
            shared.bell.ring();
        }
        Ticket { sequence: self.sequence, core: None }
    }
}

impl core::ops::Drop for Dataplane {
    /// Stops the workers: without their control thread nobody would.
    fn drop(&mut self) {
        self.stop();
    }
}
