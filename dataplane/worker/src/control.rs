//! Commands as a worker carries them out, between two bursts.

use crate::account::WorkerDrop;
use crate::command::{
    Binding, Command, Delivery, Endpoints, NewInbound, NewOutbound, WorkerShared,
};
use crate::forwarding::NextHop;
use crate::sa_usage::{Due, SaUsage};
use crate::tunnels::ANY_SELECTOR;
use crate::waiting::Key;
use crate::worker::Worker;
use core::sync::atomic::{AtomicBool, Ordering};
use ipsec::esp::inbound::Peer;
use ipsec::fragments::LaterFragments;
use ipsec::sa::{PairId, Spi};
use ipsec::sad::Slot;
use ipsec::selector::PolicyId;
use stats::Worker as Row;
use std::sync::Arc;

/// What the worker knows of an inbound SA beside its runtime form.
#[derive(Debug)]
#[repr(align(32))]
pub(crate) struct InboundSide {
    pub(crate) pair: PairId,
    pub(crate) delivery: Delivery,
    /// What connections that come out of the tunnel are told that it has room for the other way; 0 for nothing.
    pub(crate) clamp_mss: u16,
    pub(crate) later: LaterFragments,
    pub(crate) usage: Arc<SaUsage>,
    /// A: see [`Binding::active`].
    pub(crate) active: Arc<AtomicBool>,
}

/// What the worker knows of an outbound SA beside its runtime form.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct OutboundSide {
    pub(crate) pair: PairId,
    pub(crate) generation: u32,
    pub(crate) usage: Arc<SaUsage>,
    /// What an ICMP error or the control thread said of the path; the link's MTU holds as well.
    pub(crate) path_mtu: u16,
    /// Where the peer is reached, as the forwarding table of `hop_version` has it.
    pub(crate) hop: NextHop,
    pub(crate) hop_version: u64,
}

// A cache line, and half of one.
const _: () = assert!(size_of::<Option<OutboundSide>>() == 64);
const _: () = assert!(size_of::<Option<InboundSide>>() == 32);

/// Where the SAs of a pair are.
#[derive(Debug, Default)]
pub(crate) struct PairPlaces {
    pub(crate) inbound: Option<Spi>,
    pub(crate) outbound: Option<Slot>,
}

/// A delete that waits until the packets are through that were under way to its SAs.
#[derive(Debug)]
pub(crate) struct Closing {
    sequence: u64,
    pairs: Vec<PairId>,
    /// Complete when this many packets were taken from the handoff ring,
    handoffs: u64,
    /// and this many reassembled ones.
    injected: u64,
}

impl Worker {
    fn mine(&self) -> &WorkerShared {
        &self.shared[self.core.index()]
    }

    /// Carries out some of the waiting commands; how many.
    pub(crate) fn apply_commands(&mut self) -> usize {
        let mut count = 0;
        if self.mine().commands.is_empty() {
            return 0;
        }
        while count < self.limits.commands_per_turn {
            let Some((sequence, command)) = self.mine().commands.pop() else { break };
            self.sequence = sequence;
            self.apply(command);
            count += 1;
        }
        self.account.add(Row::CommandsApplied, count as u64);
        count
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::AcquireFailed(policy) => {
                self.acquires.remove(&policy);
                self.refuse(WorkerDrop::NegotiationFailed, |k| is_for(k, policy));
            }
            Command::AddInbound(new) => self.add_inbound(*new),
            Command::AddOutbound(new) => self.add_outbound(*new),
            Command::AttachPort(port, socket) => self.attach_port(port, *socket),
            Command::Bind(binding) => self.bind(*binding),
            Command::Delete(pair) => self.delete(pair),
            Command::DetachPort(port) => self.detach_port(port),
            Command::Flush => self.flush_all(),
            Command::Larval(spi) => {
                // The allocator of the control thread and this table agree on what is free.
                if self.sad.reserve(spi).is_ok() {
                    self.larval.insert(spi);
                }
            }
            Command::ReleaseLarval(spi) => self.forget_larval(spi),
            Command::SetEndpoints(pair, endpoints) => self.set_endpoints(pair, endpoints),
            Command::SetForwarding(table) => {
                self.forwarding = table;
                self.forwarding_version += 1;
                self.forget_decisions();
                let table = Arc::clone(&self.forwarding);
                self.waiting.release(|key| match key {
                    Key::NextHop(port, address) => table.neighbours.get(*port, *address).is_some(),
                    Key::Policy(..) | Key::Larval(_) => false,
                });
            }
            Command::SetPathMtu(pair, mtu) => {
                if let Some(slot) = self.pairs.get(&pair).and_then(|places| places.outbound)
                    && let Some(Some(side)) = self.outbound.get_mut(slot.0 as usize)
                {
                    side.path_mtu = mtu;
                    self.refresh_hop(slot);
                }
            }
            Command::SetPolicies(spd) => {
                self.spd = spd;
                self.forget_decisions();
                // Some of them may be gone; of the others, a young one is remembered.
                let (now, repeat) = (self.now, self.limits.acquire_repeat);
                self.acquires.retain(|_, raised| {
                    raised.retain(|(_, at)| now.saturating_duration_since(*at) < repeat);
                    !raised.is_empty()
                });
                // Asked again: another policy may decide about them now.
                self.waiting.release(|key| matches!(key, Key::Policy(..)));
            }
            Command::SetTunnels(tunnels) => {
                self.tunnels = tunnels;
                // Asked again, as with policies.
                self.waiting.release(|key| matches!(key, Key::Policy(_, ANY_SELECTOR)));
            }
            Command::Stop => self.stopped = true,
            Command::Unbind(pair) => self.unbind(pair),
        }
    }

    fn add_inbound(&mut self, new: NewInbound) {
        let NewInbound { pair, mut sa, delivery, later, usage, active } = new;
        let spi = sa.spi();
        sa.set_forwarded(matches!(delivery, Delivery::Forward | Delivery::Device(_)));
        // The SPI was larval on this worker, and the control thread keys it once.
        if self.sad.insert(sa).is_err() {
            return;
        }
        self.larval.remove(&spi);
        let clamp_mss = 0;
        let side = InboundSide { pair, delivery, clamp_mss, later, usage, active };
        place(&mut self.inbound, spi.slot(), side);
        self.pairs.or_default(pair).inbound = Some(spi);
        self.waiting.release(|key| *key == Key::Larval(spi));
    }

    fn add_outbound(&mut self, new: NewOutbound) {
        let NewOutbound { pair, at, sa, usage } = new;
        let slot = Slot(at.slot);
        // The control thread gives a slot out again only when its delete was complete here.
        if self.outbound_sad.insert(slot, sa).is_err() {
            return;
        }
        let side = OutboundSide {
            pair,
            generation: at.generation,
            usage,
            path_mtu: u16::MAX,
            hop: NextHop::NoRoute,
            hop_version: 0,
        };
        place(&mut self.outbound, at.slot as usize, side);
        self.pairs.or_default(pair).outbound = Some(slot);
        self.refresh_hop(slot);
    }

    fn bind(&mut self, binding: Binding) {
        let (policy, pair) = (binding.policy, binding.pair);
        self.epochs.advance(policy);
        let bound = self.bindings.or_default(policy);
        bound.retain(|b| b.pair != pair);
        let served = self.served.or_default(pair);
        served.retain(|p| *p != policy);
        served.push(policy);
        bound.push(binding);
        self.acquires.remove(&policy);
        self.waiting.release(|key| is_for(key, policy));
    }

    fn set_endpoints(&mut self, pair: PairId, endpoints: Endpoints) {
        let Endpoints { local, remote, encap } = endpoints;
        let Some(PairPlaces { inbound, outbound }) = self.pairs.get(&pair) else { return };
        let (inbound, outbound) = (*inbound, *outbound);
        if let Some(sa) = inbound.and_then(|spi| self.sad.get_mut(spi)) {
            sa.set_peer(Peer { address: remote, port: encap.map(|e| e.remote_port) });
        }
        let Some(slot) = outbound else { return };
        if let Some(sa) = self.outbound_sad.get_mut(slot)
            && sa.set_endpoints(local, remote, encap).is_ok()
        {
            self.refresh_hop(slot);
        }
    }

    fn delete(&mut self, pair: PairId) {
        self.unbind(pair);
        self.close(vec![pair]);
    }

    fn flush_all(&mut self) {
        self.bindings.clear();
        self.served.clear();
        self.forget_decisions();
        let pairs = self.pairs.keys().copied().collect();
        self.close(pairs);
        for spi in self.larval.drain() {
            self.sad.remove(spi);
        }
        self.acquires.clear();
        self.refuse(WorkerDrop::SaGone, |_| true);
    }

    fn unbind(&mut self, pair: PairId) {
        for policy in self.served.remove(&pair).unwrap_or_default() {
            self.epochs.advance(policy);
            if let Some(bound) = self.bindings.get_mut(&policy) {
                bound.retain(|b| b.pair != pair);
                if bound.is_empty() {
                    self.bindings.remove(&policy);
                }
            }
        }
    }

    fn close(&mut self, pairs: Vec<PairId>) {
        let (handoffs, injected) = (self.mine().handoff.len(), self.mine().injected.len());
        self.closing.push_back(Closing {
            sequence: self.sequence,
            pairs,
            handoffs: self.handoffs_taken + handoffs as u64,
            injected: self.injected_taken + injected as u64,
        });
    }

    fn forget_larval(&mut self, spi: Spi) {
        self.larval.remove(&spi);
        self.sad.remove(spi);
        self.refuse(WorkerDrop::SaGone, |k| *k == Key::Larval(spi));
    }

    fn refuse(&mut self, cause: WorkerDrop, which: impl Fn(&Key) -> bool) {
        for _ in 0..self.waiting.refuse(which) {
            self.account.add(Row::ReleasedFromWaiting, 1);
            self.account.drop(cause);
        }
    }

    /// Removes SAs whose last packets are through, and tells the control thread how far its commands are.
    pub(crate) fn finish_deletes(&mut self) {
        while let Some(first) = self.closing.front()
            && first.handoffs <= self.handoffs_taken
            && first.injected <= self.injected_taken
            && let Some(closing) = self.closing.pop_front()
        {
            for pair in closing.pairs {
                self.remove_pair(pair);
            }
        }
        let applied = self.closing.front().map_or(self.sequence, |c| c.sequence - 1);
        if self.mine().applied.load(Ordering::Relaxed) != applied {
            // Release: pairs with the Acquire of `WorkerShared::applied`.
            self.mine().applied.store(applied, Ordering::Release);
            self.upcall_due = true;
        }
    }

    fn remove_pair(&mut self, pair: PairId) {
        let Some(PairPlaces { inbound, outbound }) = self.pairs.remove(&pair) else { return };
        if let Some(spi) = inbound {
            self.publish_usage_of(Due::Inbound(spi));
            self.sad.remove(spi);
            if let Some(side) = self.inbound.get_mut(spi.slot()) {
                *side = None;
            }
        }
        if let Some(slot) = outbound {
            self.publish_usage_of(Due::Outbound(slot));
            self.outbound_sad.remove(slot);
            if let Some(side) = self.outbound.get_mut(slot.0 as usize) {
                *side = None;
            }
        }
    }
}

/// Whether a packet waits for an SA of the policy, whatever its selector: one negotiation is about all of them.
fn is_for(key: &Key, policy: PolicyId) -> bool {
    matches!(key, Key::Policy(of, _) if *of == policy)
}

/// Puts an entry at an index of a table that grows as far as it is used, in memory that it has for `Limits::sas`.
fn place<T>(table: &mut Vec<Option<T>>, index: usize, entry: T) {
    if table.len() <= index {
        table.resize_with(index + 1, || None);
    }
    table[index] = Some(entry);
}
