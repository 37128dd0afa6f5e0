//! One worker: what it owns, one turn of its loop, and its sleep.

use crate::account::{Account, Drop};
use crate::command::{Binding, SaRef, WorkerShared};
use crate::config::{DataplaneConfig, Idle, Limits, PortId, Side, WorkerParts};
use crate::control::{Closing, InboundSide, OutboundSide, PairPlaces};
use crate::due::DueSas;
use crate::epochs::BindingEpochs;
use crate::event::Event;
use crate::flows::{Decision, Plain};
use crate::forward::Budget;
use crate::forwarding::ForwardingTable;
use crate::handle::Tables;
use crate::handoff::Crossing;
use crate::host::HostPort;
use crate::numbers::{LargeMap, NumberMap, NumberSet};
use crate::packet::Packet;
use crate::port_counters::PortReport;
use crate::sa_usage::AskedFor;
use crate::tunnels::TunnelDevice;
use crate::waiting::Waiting;
use crate::wake::Slept;
use af_xdp::wait::EventFd;
use af_xdp::{Frame, FramePool, PoolGauges, Port, PortStatistics, Retired};
use core::num::NonZeroU16;
use core::sync::atomic::Ordering;
use ipsec::fragments::{FRAGMENTED_PACKETS, FragmentTable};
use ipsec::inbound::InboundPacket;
use ipsec::large_pages::{self, Extent};
use ipsec::outbound::OutboundPacket;
use ipsec::sa::{PairId, Spi};
use ipsec::sad::{InboundSad, OutboundSad, Slot};
use ipsec::selector::PolicyId;
use ipsec::spd::{FlowCache, Spd};
use ipsec::spi::CoreId;
use stats::{BlockWriter, Worker as Row};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Packets taken from one source at once: what the batched cipher wants, and what the first-level cache holds.
pub(crate) const BURST: usize = 32;

/// Flows that a worker remembers at least: a megabyte. With more SAs it has four places for each: a flow each way, and as many empty ones, so that
/// nearly all lie where they are looked for first.
const FLOWS: usize = 1 << 14;

/// And at most: 256 MB, for a million SAs.
const MOST_FLOWS: usize = 1 << 22;

/// Turns of a spinning worker between two publications when nothing happens.
const IDLE_PUBLICATION: u64 = 1 << 10;

/// Cycles after which the clock is read again: some ten microseconds. Nothing here is timed more finely, and reading it
/// takes as long as sealing a short packet.
const TICK: u64 = 1 << 15;

/// The time as a busy worker knows it.
#[derive(Debug)]
pub struct Clock {
    now: Instant,
    read_at: u64,
}

impl Clock {
    /// Reads it.
    pub fn new() -> Self {
        Self { now: Instant::now(), read_at: stats::cycles() }
    }

    /// The time at `cycles` of the processor's counter, or a few microseconds before.
    #[inline]
    pub fn now(&mut self, cycles: u64) -> Instant {
        if cycles.wrapping_sub(self.read_at) >= TICK {
            *self = Self { now: Instant::now(), read_at: cycles };
        }
        self.now
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// What one turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Commands carried out.
    pub commands: usize,
    /// Packets taken in, from wherever.
    pub packets: usize,
}

impl Progress {
    /// Whether there was nothing to do.
    pub const fn is_idle(&self) -> bool {
        self.commands == 0 && self.packets == 0
    }
}

/// One port and what waits for its transmit ring within a turn.
#[derive(Debug)]
pub(crate) struct PortState {
    pub(crate) port: Port,
    pub(crate) side: Side,
    pub(crate) vlan: Option<NonZeroU16>,
    pub(crate) transmit: Vec<Frame>,
    /// The port by whose sockets it sends and receives.
    pub(crate) trunk: Option<PortId>,
    /// The ports that send and receive by this one's.
    pub(crate) members: Vec<PortId>,
    /// Queues beyond one for each worker, which came up while running; only received from.
    pub(crate) more: Vec<Port>,
    /// What closed sockets have counted.
    pub(crate) past: PortStatistics,
    report: Option<PortReport>,
}

/// One core's run-to-completion loop. Made by [`Dataplane::new`](crate::Dataplane::new).
pub struct Worker {
    pub(crate) core: CoreId,
    pub(crate) limits: Limits,
    idle: Idle,
    pub(crate) ike_port: u16,
    pub(crate) encap_port: u16,
    /// The time of this turn.
    pub(crate) now: Instant,
    pub(crate) epoch: Instant,

    pub(crate) pool: FramePool,
    pub(crate) ports: Vec<PortState>,
    pub(crate) host: HostPort,
    /// The devices of route-based tunnels.
    pub(crate) tunnels: Arc<[TunnelDevice]>,
    /// Closed sockets whose chunks the kernel may still use.
    pub(crate) retired: Vec<Retired>,

    pub(crate) shared: Arc<[WorkerShared]>,
    /// The ways to and from the other workers, by core.
    pub(crate) crossings: Vec<Option<Crossing>>,
    upcall: Arc<EventFd>,
    /// Workers that were pushed to since the last flush, a bit each.
    pub(crate) bells: u64,
    /// Whether the control thread has something to see.
    pub(crate) upcall_due: bool,

    pub(crate) sad: InboundSad,
    /// By slot of the SPI, beside `sad`; long as far as slots were used.
    pub(crate) inbound: Vec<Option<InboundSide>>,
    pub(crate) outbound_sad: OutboundSad,
    /// By slot, beside `outbound_sad`; long as far as slots were used.
    pub(crate) outbound: Vec<Option<OutboundSide>>,
    pub(crate) pairs: LargeMap<PairId, PairPlaces>,
    pub(crate) larval: NumberSet<Spi>,
    /// Bound SAs of all workers, by policy, newest last.
    pub(crate) bindings: LargeMap<PolicyId, Vec<Binding>>,
    /// The policies of `bindings` by pair.
    pub(crate) served: LargeMap<PairId, Vec<PolicyId>>,
    /// Policies whose acquires were raised: for which of their selectors, and when.
    pub(crate) acquires: NumberMap<PolicyId, Vec<(u16, Instant)>>,
    pub(crate) closing: VecDeque<Closing>,
    /// The last command seen, complete or not.
    pub(crate) sequence: u64,
    pub(crate) stopped: bool,
    /// Commands carried out in this turn.
    pub(crate) applied_now: usize,
    /// Whether the last turn had no packets.
    was_idle: bool,

    pub(crate) spd: Arc<Spd>,
    pub(crate) flows: FlowCache<Decision>,
    /// Changes with everything that decisions are made from but bindings; never 0.
    pub(crate) decisions: u32,
    pub(crate) epochs: BindingEpochs,
    /// What first fragments showed.
    pub(crate) fragments: FragmentTable,
    pub(crate) forwarding: Arc<ForwardingTable>,
    /// Changes with `forwarding`, so that what was made from it can tell that it is old.
    pub(crate) forwarding_version: u64,
    pub(crate) waiting: Waiting,
    pub(crate) errors: Budget,
    /// Reassembled packets taken so far, for deletes to know when their ring has drained.
    pub(crate) injected_taken: u64,
    /// The identification of the next IPv6 packet that is fragmented here, from a random one on (RFC 7739 §5.3).
    pub(crate) next_fragment: u32,
    /// How often unknown SPIs are told of.
    pub(crate) unknown_spis: Budget,
    /// Events that are said once, until the end of the turn or until the ring has room.
    late_events: VecDeque<Event>,

    /// The processor's cycle counter at the end of the last turn.
    turned_at: u64,
    /// Packets since usage was published.
    pub(crate) unpublished: usize,
    /// Whether something has happened since counters were published.
    is_dirty: bool,

    /// SAs whose usage is to be published.
    pub(crate) due: DueSas,
    pub(crate) asked_for: AskedFor,

    // Bursts, empty between two sources.
    pub(crate) frames: Vec<Frame>,
    /// Takes the place of `frames` while that is worked on.
    pub(crate) left: Vec<Frame>,
    pub(crate) plain: Vec<Plain>,
    pub(crate) opening: Vec<InboundPacket<Packet>>,
    pub(crate) sealing: Vec<OutboundPacket<Packet>>,
    /// Takes the place of `sealing` while that is worked on.
    pub(crate) spare: Vec<OutboundPacket<Packet>>,

    pub(crate) account: Account,
    block: Option<BlockWriter>,

    /// Whether nothing is to go the straight way, which is compared with the other then.
    #[cfg(test)]
    pub(crate) long_way: bool,
    /// Frames that did.
    #[cfg(test)]
    pub(crate) went_straight: usize,
}

impl Worker {
    pub(crate) fn new(
        core: CoreId,
        config: &DataplaneConfig,
        parts: WorkerParts,
        shared: Arc<[WorkerShared]>,
        crossings: Vec<Option<Crossing>>,
        upcall: Arc<EventFd>,
        epoch: Instant,
    ) -> Self {
        let WorkerParts { pool, ports, host, block } = parts;
        let ports = ports
            .into_iter()
            .map(|p| PortState {
                port: p.port,
                side: p.side,
                vlan: p.vlan,
                transmit: Vec::with_capacity(2 * BURST),
                trunk: None,
                members: Vec::new(),
                more: Vec::new(),
                past: PortStatistics::default(),
                report: None,
            })
            .collect();
        host.attach(&shared, core.index());
        let limits = config.limits;
        Self {
            core,
            limits,
            idle: config.idle,
            ike_port: config.ike_port,
            encap_port: config.encap_port,
            now: epoch,
            epoch,
            waiting: Waiting::new(&limits, pool.longest()),
            pool,
            ports,
            host,
            tunnels: Arc::new([]),
            retired: Vec::new(),
            shared,
            crossings,
            upcall,
            bells: 0,
            upcall_due: false,
            sad: InboundSad::new(core, limits.sas),
            inbound: large_pages::with_capacity(limits.sas),
            outbound_sad: OutboundSad::new(limits.sas),
            outbound: large_pages::with_capacity(limits.sas),
            pairs: LargeMap::default(),
            larval: NumberSet::default(),
            bindings: LargeMap::default(),
            served: LargeMap::default(),
            acquires: NumberMap::default(),
            closing: VecDeque::new(),
            sequence: 0,
            stopped: false,
            applied_now: 0,
            was_idle: true,
            spd: Arc::new(Spd::compile(&[], 0)),
            flows: FlowCache::new((4 * limits.sas).clamp(FLOWS, MOST_FLOWS)),
            decisions: 1,
            epochs: BindingEpochs::new(limits.sas),
            fragments: FragmentTable::new(FRAGMENTED_PACKETS),
            forwarding: Arc::new(ForwardingTable::default()),
            forwarding_version: 0,
            errors: Budget::new(limits.icmp_per_second, limits.icmp_burst, epoch),
            injected_taken: 0,
            next_fragment: fragment_seed(),
            unknown_spis: Budget::new(10, 10, epoch),
            late_events: VecDeque::with_capacity(BURST),
            turned_at: stats::cycles(),
            unpublished: 0,
            is_dirty: false,
            due: DueSas::new(limits.sas),
            asked_for: AskedFor::default(),
            frames: Vec::with_capacity(2 * BURST),
            left: Vec::with_capacity(2 * BURST),
            plain: Vec::with_capacity(2 * BURST),
            opening: Vec::with_capacity(2 * BURST),
            sealing: Vec::with_capacity(2 * BURST),
            spare: Vec::with_capacity(2 * BURST),
            account: Account::new(),
            block,
            #[cfg(test)]
            long_way: false,
            #[cfg(test)]
            went_straight: 0,
        }
    }

    /// Where its tables of SAs lie.
    pub(crate) fn tables(&self) -> Tables {
        let sides = (Extent::of(&self.inbound), Extent::of(&self.outbound));
        let with = |[sas, keys]: [Extent; 2], sides| [sas, keys, sides];
        Tables {
            inbound: with(self.sad.extents(), sides.0),
            outbound: with(self.outbound_sad.extents(), sides.1),
        }
    }

    /// Which worker it is.
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// What it has counted.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Gives it a block of the statistics segment to publish to.
    pub fn set_block(&mut self, block: BlockWriter) {
        self.block = Some(block);
    }

    /// Gives it a block of the statistics segment, laid out with [`port_counters`](crate::port_counters), to publish there what a
    /// port has counted.
    pub fn set_port_block(&mut self, port: PortId, block: BlockWriter) {
        if let Some(state) = self.ports.get_mut(usize::from(port.0)) {
            state.report = Some(PortReport::new(block, self.now));
        }
    }

    /// The processor's cycle counter at the end of the last turn.
    pub fn turned_at(&self) -> u64 {
        self.turned_at
    }

    /// Where its frames are.
    pub fn frames(&self) -> PoolGauges {
        self.pool.gauges()
    }

    /// Whether it was told to stop.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// One iteration: commands as far as packets leave room for them, one burst of every source to its end. It never waits. Counters are published when time has
    /// moved on, and when there is nothing else to do.
    pub fn turn(&mut self, now: Instant) -> Progress {
        let ticked = now != self.now;
        self.now = now;
        self.begin_commands(self.was_idle);
        self.look_for_handed();
        let mut packets = 0;
        let mut frames = core::mem::take(&mut self.frames);
        for port in 0..self.ports.len() {
            packets += self.receive(PortId(port as u16), &mut frames);
            for queue in 0..self.ports[port].more.len() {
                packets += self.receive_more(PortId(port as u16), queue, &mut frames);
            }
        }
        if !self.retired.is_empty() {
            self.repossess();
        }
        packets += self.read_host(&mut frames, packets > 0);
        if !self.tunnels.is_empty() {
            packets += self.read_tunnels(&mut frames, packets > 0);
        }
        self.frames = frames;
        packets += self.take_injected();
        packets += self.take_handed(packets == 0);
        packets += self.take_released();
        self.expire_waiting();
        self.finish_deletes();
        self.raise_late();
        let progress = Progress { commands: self.applied_now, packets };
        self.was_idle = packets == 0;
        self.account.add(Row::Turns, 1);
        let end = stats::cycles();
        let row = if progress.is_idle() { Row::IdleCycles } else { Row::BusyCycles };
        self.account.add(row, end.wrapping_sub(self.turned_at));
        self.turned_at = end;
        self.unpublished += packets;
        self.is_dirty |= !progress.is_idle();
        if ticked || progress.is_idle() {
            self.publish_usage(progress.is_idle());
            if self.is_dirty || self.account.get(Row::Turns).is_multiple_of(IDLE_PUBLICATION) {
                self.is_dirty = false;
                self.publish();
            }
        }
        if self.upcall_due {
            self.upcall_due = false;
            self.upcall.ring();
        }
        progress
    }

    /// Turns until it is told to stop; sleeps when there is nothing to do, unless it is to spin.
    pub fn run(&mut self) {
        let mut empty_turns = 0u32;
        let mut clock = Clock::new();
        self.turned_at = stats::cycles();
        while !self.stopped {
            if !self.turn(clock.now(self.turned_at)).is_idle() {
                empty_turns = 0;
                continue;
            }
            empty_turns = empty_turns.saturating_add(1);
            match self.idle {
                Idle::Sleep { after_empty_turns } if empty_turns >= after_empty_turns => {
                    self.sleep();
                    empty_turns = 0;
                    self.turned_at = stats::cycles();
                    clock = Clock::new();
                }
                Idle::Sleep { .. } | Idle::Spin => core::hint::spin_loop(),
            }
        }
        self.publish();
    }

    fn sleep(&mut self) {
        self.publish();
        // All ports are asked even when one refuses: `wake` below is for all.
        let queues = self.ports.iter_mut().flat_map(|p| p.more.iter_mut().chain([&mut p.port]));
        let refused = queues.filter_map(|port| (!port.prepare_sleep()).then_some(())).count();
        if refused == 0 && !self.waiting.has_released() && self.due.len() == 0 {
            self.account.add(Row::Sleeps, 1);
            let shared = &self.shared[self.core.index()];
            let queues = self.ports.iter().flat_map(|p| p.more.iter().chain([&p.port]));
            let sources =
                queues.filter_map(Port::fd).chain(self.host.fd()).chain(self.tunnel_fds());
            let rest = (!self.retired.is_empty()).then_some(Retired::REST);
            let timeout = self
                .waiting
                .next_deadline()
                .map(|d| d.saturating_duration_since(self.now))
                .into_iter()
                .chain(rest)
                .min();
            let (host, crossings) = (&self.host, &self.crossings);
            let slept = shared.bell.sleep(sources, timeout, || {
                shared.has_work()
                    || host.has_input()
                    || crossings.iter().flatten().any(Crossing::has_work)
            });
            match slept {
                Ok(Slept::Woken) => self.account.add(Row::Wakes, 1),
                Ok(Slept::No | Slept::TimedOut) => {}
                // poll() lacks memory: turning on is all that can be done.
                Err(_) => std::thread::yield_now(),
            }
        }
        for port in self.ports.iter_mut().flat_map(|p| p.more.iter_mut().chain([&mut p.port])) {
            port.wake();
        }
    }

    fn publish(&mut self) {
        let gauges = self.pool.gauges();
        self.account.set(Row::FramesFree, gauges.free.into());
        self.account.set(Row::FramesReceiving, gauges.fill.into());
        self.account.set(Row::FramesSending, gauges.transmit.into());
        // Between two turns no frame is in this worker's hands.
        self.account.set(Row::FramesOut, gauges.out.into());
        self.account.set(Row::Waiting, self.waiting.len() as u64);
        self.account.set(Row::InboundSas, self.sad.len() as u64);
        self.account.set(Row::OutboundSas, self.outbound_sad.len() as u64);
        if let Some(block) = &mut self.block {
            block.publish_parts(&self.account.parts());
        }
        for state in &mut self.ports {
            if let Some(report) = &mut state.report {
                report.publish(&state.port, &state.more, &state.past, self.now);
            }
        }
    }

    /// Ends a source's burst: everything in hand is opened, sealed and sent.
    #[inline]
    pub(crate) fn flush(&mut self) {
        if !self.opening.is_empty() {
            self.open_burst();
        }
        if !self.plain.is_empty() {
            self.judge_burst();
        }
        if !self.sealing.is_empty() {
            self.seal_burst();
        }
        self.transmit_all();
        if self.bells != 0 {
            self.ring_bells();
        }
    }

    /// Gives a frame of this worker's UMEM back.
    pub(crate) fn free(&mut self, frame: Frame) {
        // Every frame in a worker's hands is its own: only packets go to others.
        let _ = self.pool.free(frame);
    }

    /// Counts a packet as dropped and frees its frame.
    pub(crate) fn drop_packet(&mut self, packet: Packet, cause: impl Into<Drop>) {
        self.account.drop(cause);
        self.free(packet.0);
    }

    /// Tells the control thread; says whether there was room for it.
    pub(crate) fn raise(&mut self, event: Event) -> bool {
        let shared = &self.shared[self.core.index()];
        self.upcall_due = true;
        let raised = if event.is_repeated() {
            shared.events.len() < shared.events.capacity() / 2 && shared.events.push(event).is_ok()
        } else if self.late_events.len() < self.limits.sas {
            // A few for each SA at most, in their order.
            self.late_events.push_back(event);
            true
        } else {
            false
        };
        if !raised {
            let lost = shared.events_lost.load(Ordering::Relaxed);
            shared.events_lost.store(lost + 1, Ordering::Relaxed);
        }
        raised
    }

    /// Passes on what is said once, as far as there is room.
    fn raise_late(&mut self) {
        if self.late_events.is_empty() {
            return;
        }
        let shared = &self.shared[self.core.index()];
        while let Some(event) = self.late_events.pop_front() {
            if let Err(event) = shared.events.push(event) {
                self.late_events.push_front(event);
                break;
            }
            self.upcall_due = true;
        }
    }

    /// The outbound SA that a reference names, if it is still there.
    pub(crate) fn owned_slot(&self, sa: SaRef) -> Option<Slot> {
        let there = self.outbound_sad.get(Slot(sa.slot))?;
        (sa.core == self.core && there.generation() == sa.generation).then_some(Slot(sa.slot))
    }
}

fn fragment_seed() -> u32 {
    let mut seed = [0; 4];
    // Without randomness the first one is merely known.
    let _ = getrandom::fill(&mut seed);
    u32::from_ne_bytes(seed)
}

impl core::fmt::Debug for Worker {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Worker").field("core", &self.core).finish_non_exhaustive()
    }
}
