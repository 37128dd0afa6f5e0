//! The verbs, each checked here and then given to the worker or workers that it concerns.

use super::{Dataplane, Deleting, Outbound, Pair, Refusal, Ticket};
use crate::command::{
    Activation, Binding, Command, Delivery, Endpoints, NewInbound, NewOutbound, SaRef, WorkerShared,
};
use crate::config::PortId;
use crate::forwarding::ForwardingTable;
use crate::sa_usage::SaUsage;
use crate::tunnels::TunnelDevice;
use af_xdp::{BoundSocket, PacketMemory};
use core::sync::atomic::{AtomicBool, Ordering};
use ipsec::classify::{Class, Protected, classify};
use ipsec::esp::inbound::InboundSa;
use ipsec::esp::outbound::OutboundSa;
use ipsec::fragments::LaterFragments;
use ipsec::sa::{PairId, SaError, SaParameters, Spi};
use ipsec::selector::{Policy, PolicyId};
use ipsec::spd::{Spd, guard_fragments};
use ipsec::spi::CoreId;
use std::sync::Arc;
use std::time::Instant;

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
        if let Some(ahead) = self.tables_ahead.get_mut(core.index()) {
            ahead.inbound.reach(spi.slot());
        }
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
        let sa = Some(InboundSa::new(parameters)?);
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
        let usage = inbound_usage;
        let new = NewInbound { pair: id, sa, spent: None, delivery, later, usage, active };
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
        let mut sa = OutboundSa::new(parameters)?;
        let slots = self.slots.get_mut(core.index()).ok_or(Refusal::UnknownWorker)?;
        let (slot, generation) = slots.take().ok_or(Refusal::TooManySas)?;
        if let Some(ahead) = self.tables_ahead.get_mut(core.index()) {
            ahead.outbound.reach(slot as usize);
        }
        sa.set_generation(generation);
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
        let new = NewOutbound { pair: id, at, sa: Some(sa), spent: None, usage };
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

    /// Deletes both SAs of a pair. Packets already on their way to them are still processed; [`Event::Deleted`](crate::Event::Deleted) follows when
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

    /// Deletes all pairs, larval SPIs and waiting packets. [`Event::Deleted`](crate::Event::Deleted) follows for each pair.
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
    /// encapsulation included. What no worker owns is the first one's to drop and count. Each worker holds
    /// [`Limits::waiting_packets`](crate::Limits::waiting_packets) of them; it counts those for which there was no place.
    pub fn inject(&mut self, packet: Vec<u8>) {
        let table = self.tables.back();
        let class = table.map(|(_, t)| classify(&packet, &t.addresses, self.encap_port));
        let owner = match class {
            Some(Ok(Class::Protected(Protected { spi, .. }))) => Spi::new(spi).map(Spi::core),
            _ => None,
        };
        let owner = owner.and_then(|core| self.shared.get(core.index()));
        let Some(shared) = owner.or(self.shared.first()) else { return };
        if let Err(lost) = shared.injected.push(packet) {
            shared.injected_lost_bytes.fetch_add(lost.len() as u64, Ordering::Relaxed);
            shared.injected_lost.fetch_add(1, Ordering::Relaxed);
        }
        shared.bell.ring();
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
        self.drop_husks();
        self.sequence += 1;
        if let Some(shared) = self.shared.get(core.index()) {
            // Fits, as `room` said.
            let _ = shared.commands.push((self.sequence, command));
            shared.bell.ring();
        }
        Ticket { sequence: self.sequence, core: Some(core) }
    }

    fn send_all(&mut self, command: impl Fn() -> Command) -> Ticket {
        self.drop_husks();
        self.sequence += 1;
        for shared in self.shared.iter() {
            // Fits, as `room` said.
            let _ = shared.commands.push((self.sequence, command()));
            shared.bell.ring();
        }
        Ticket { sequence: self.sequence, core: None }
    }
}
