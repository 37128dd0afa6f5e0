//! The control thread's handle: the verbs of RFC 2367 on all workers, and their upcalls.
//!
//! ```text
//!              allocate_spi ─► larval        (packets on the SPI wait)
//!              add_inbound  ─► keyed         (packets are opened)
//!              add_outbound ─► owned by the core that the inbound SPI names
//!              bind         ─► policy's packets take it: Now, or OnInboundTraffic
//!              delete       ─► Event::Deleted when no ring holds a packet for it; the SPI rests
//! ```

mod places;
mod verbs;

use crate::command::{Command, SaRef, WorkerShared};
use crate::config::{DataplaneConfig, WorkerParts};
use crate::event::Event;
use crate::forwarding::ForwardingTable;
use crate::handoff::Crossing;
use crate::sa_usage::{PairUsage, SaUsage};
use crate::worker::Worker;
use af_xdp::PacketMemory;
use af_xdp::wait::EventFd;
use core::sync::atomic::{AtomicBool, Ordering};
use ipsec::sa::{PairId, SaError, Spi};
use ipsec::selector::Selector;
use ipsec::spd::{Cost, Spd};
use ipsec::spi::{CoreId, SpiAllocator, SpiError};
pub(crate) use places::Tables;
use places::{OutboundSlots, TablesAhead};
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
    /// The memory of the workers' tables.
    tables_ahead: Vec<TablesAhead>,
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
            .map(|_| WorkerShared::new(&config.limits))
            .collect::<io::Result<Vec<_>>>()?
            .into();
        let memories = parts.iter().map(|p| p.pool.memory()).collect();
        let upcall = Arc::new(EventFd::new()?);
        let epoch = Instant::now();
        let count = parts.len();
        let workers: Vec<_> = parts
            .into_iter()
            .enumerate()
            .filter_map(|(index, parts)| Some((CoreId::new(index)?, parts)))
            .zip(Crossing::between(count, &config.limits))
            .map(|((core, parts), crossings)| {
                let (shared, upcall) = (Arc::clone(&shared), Arc::clone(&upcall));
                Worker::new(core, config, parts, shared, crossings, upcall, epoch)
            })
            .collect();
        let sas = config.limits.sas;
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
            slots: (0..count).map(|_| OutboundSlots::new(sas)).collect(),
            tables_ahead: workers.iter().map(|w: &Worker| TablesAhead::new(w.tables())).collect(),
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
        self.drop_husks();
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
                slots.give_back(outbound.at.slot, outbound.at.generation);
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

    /// Drops what workers have taken SAs out of, with the keys that are left in it.
    fn drop_husks(&self) {
        for shared in self.shared.iter() {
            while shared.husks.pop().is_some() {}
        }
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

    /// What looking up a packet costs at most in the policies that were set last.
    pub fn worst_lookup(&self) -> Cost {
        self.databases.back().map_or_else(Cost::default, |(_, spd)| spd.worst_case())
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

impl core::ops::Drop for Dataplane {
    /// Stops the workers: without their control thread nobody would.
    fn drop(&mut self) {
        self.stop();
    }
}
