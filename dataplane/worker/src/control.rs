//! Commands as a worker carries them out, between two bursts.

use crate::account::WorkerDrop;
use crate::command::{
    Binding, Command, Delivery, Endpoints, Husk, NewInbound, NewOutbound, WorkerShared,
};
use crate::due::Due;
use crate::forwarding::NextHop;
use crate::handoff::Crossing;
use crate::sa_usage::SaUsage;
use crate::tunnels::ANY_SELECTOR;
use crate::waiting::Key;
use crate::worker::{BURST, Worker};
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
    /// Complete when each other worker's packets were taken as far as this, by core,
    handed: Box<[u64]>,
    /// and this many reassembled ones.
    injected: u64,
}

/// A command takes about as long as so many packets.
const PACKETS_A_COMMAND: usize = 4;

impl Worker {
    fn mine(&self) -> &WorkerShared {
        &self.shared[self.core.index()]
    }

    /// Carries out the first waiting command of a turn, or some of them when the last turn had nothing else to do.
    #[inline]
    pub(crate) fn begin_commands(&mut self, was_idle: bool) {
        self.applied_now = 0;
        if !self.mine().commands.is_empty() {
            self.apply_commands(if was_idle { self.limits.commands_per_turn } else { 1 });
        }
    }

    /// Carries out waiting commands before a burst: as many of a turn's as its packets leave room for, and one in any turn.
    ///
    /// A packet that came after a command finds it carried out, however long ago the turn began: routes of the host lead here as soon as the
    /// policy for them was handed over, and peers send as soon as an SA is there. Only where packets come in full bursts, one
    /// command after the other has to wait, or they would wait for the commands.
    #[inline]
    pub(crate) fn apply_commands_before(&mut self, packets: usize) {
        if !self.mine().commands.is_empty() {
            let room = BURST.saturating_sub(packets) / PACKETS_A_COMMAND;
            self.apply_commands((1 + room).min(self.limits.commands_per_turn));
        }
    }

    /// Carries out waiting commands until there were so many in this turn.
    #[cold]
    fn apply_commands(&mut self, most: usize) {
        let before = self.applied_now;
        while self.applied_now < most {
            let Some((sequence, command)) = self.mine().commands.pop() else { break };
            self.sequence = sequence;
            self.apply(command);
            self.applied_now += 1;
        }
        self.account.add(Row::CommandsApplied, (self.applied_now - before) as u64);
    }

    /// Gives memory to the control thread.
    fn leave(&self, husk: Husk) {
        // There is room; otherwise it goes here.
        let _ = self.mine().husks.push(husk);
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::AcquireFailed(policy) => {
                self.acquires.remove(&policy);
                self.refuse(WorkerDrop::NegotiationFailed, |k| is_for(k, policy));
            }
            Command::AddInbound(mut new) => {
                self.add_inbound(&mut new);
                self.leave(Husk::Inbound(new));
            }
            Command::AddOutbound(mut new) => {
                self.add_outbound(&mut new);
                self.leave(Husk::Outbound(new));
            }
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

    fn add_inbound(&mut self, new: &mut NewInbound) {
        let NewInbound { pair, sa, spent, delivery, later, usage, active } = new;
        let Some(spi) = sa.as_mut().map(|sa| {
            sa.set_forwarded(matches!(delivery, Delivery::Forward | Delivery::Device(_)));
            sa.spi()
        }) else {
            return;
        };
        // The SPI was larval on this worker, and the control thread keys it once.
        let Ok(left) = self.sad.insert_from(sa) else { return };
        *spent = left;
        self.larval.remove(&spi);
        let (pair, delivery, later, clamp_mss) = (*pair, *delivery, *later, 0);
        let (usage, active) = (Arc::clone(usage), Arc::clone(active));
        let side = InboundSide { pair, delivery, clamp_mss, later, usage, active };
        place(&mut self.inbound, spi.slot(), side);
        self.pairs.or_default(pair).inbound = Some(spi);
        self.waiting.release(|key| *key == Key::Larval(spi));
    }

    fn add_outbound(&mut self, new: &mut NewOutbound) {
        let NewOutbound { pair, at, sa, spent, usage } = new;
        let (pair, slot) = (*pair, Slot(at.slot));
        // The control thread gives a slot out again only when its delete was complete here.
        let Ok(left) = self.outbound_sad.insert_from(slot, sa) else { return };
        *spent = left;
        let side = OutboundSide {
            pair,
            usage: Arc::clone(usage),
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
        let bound = self.bindings.or_default(policy);
        self.epochs.bind(policy, bound, &binding);
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
        self.epochs.clear();
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
            if let Some(bound) = self.bindings.get_mut(&policy) {
                if let Some(old) = bound.iter().find(|b| b.pair == pair) {
                    self.epochs.unbind(policy, bound, old);
                }
                bound.retain(|b| b.pair != pair);
                if bound.is_empty() {
                    self.bindings.remove(&policy);
                }
            }
        }
    }

    fn close(&mut self, pairs: Vec<PairId>) {
        let injected = self.mine().injected.len();
        let drained =
            |crossing: &mut Option<Crossing>| crossing.as_mut().map_or(0, Crossing::drained);
        let handed = self.crossings.iter_mut().map(drained).collect();
        self.closing.push_back(Closing {
            sequence: self.sequence,
            pairs,
            handed,
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
            && first.handed.iter().zip(&self.crossings).all(|(until, crossing)| {
                crossing.as_ref().is_none_or(|crossing| *until <= crossing.taken())
            })
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
            self.publish_usage_of(Due::Inbound(spi.into()));
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
