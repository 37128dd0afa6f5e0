//! The SPD's word on plain packets, and the SA that a policy's packets take (RFC 4301 §5.1, §5.2 step 3).

use crate::account::WorkerDrop;
use crate::command::SaRef;
use crate::config::Side;
use crate::event::Event;
use crate::flows::{Decision, Question};
use crate::handoff::{Choice, HandedOff};
use crate::ingress::flow_of;
use crate::later::{is_later, without_ports};
use crate::packet::{Origin, Packet};
use crate::tunnels::ANY_SELECTOR;
use crate::waiting::Key;
use crate::worker::Worker;
use core::sync::atomic::Ordering;
use ipsec::drop_cause::DropCause;
use ipsec::flow::{Flow, FlowKey};
use ipsec::icmp_error::answered_traffic;
use ipsec::sa::PairId;
use ipsec::selector::{Action, AddressRange, PolicyId, Ports, Selector};
use stats::Worker as Row;
use wire::protocol;

impl Worker {
    /// A plain packet from a port, of a flow that nothing is known of.
    pub(crate) fn clear(
        &mut self,
        packet: Packet,
        flow: Flow,
        to_us: bool,
        side: Side,
        question: Option<Question>,
    ) {
        if to_us && is_udp_port(&flow, |f| f.1, &[self.ike_port]) {
            return self.deliver_to_host(packet);
        }
        let mut bypassed = false;
        if side != Side::Protected {
            match self.spd.lookup(&flow.inbound()).map(|found| found.action) {
                Some(Action::Protect) => {
                    return self.discard(packet, DropCause::ClearNotProtected, question);
                }
                Some(Action::Discard) => {
                    return self.discard(packet, DropCause::PolicyDiscard, question);
                }
                Some(Action::Bypass) => bypassed = true,
                None => {}
            }
        }
        // What no policy speaks of and is addressed to the host is for the host's own rules.
        if to_us {
            return self.deliver_to_host(packet);
        }
        self.outbound(packet, flow, Origin::Port, bypassed, question);
    }

    /// A plain packet on its way out. `bypassed`: a policy lets its kind come in in clear, so it may go on.
    /// The answer to `question` is remembered.
    pub(crate) fn outbound(
        &mut self,
        packet: Packet,
        flow: Flow,
        origin: Origin,
        bypassed: bool,
        question: Option<Question>,
    ) {
        // The gateway's own IKE passes any policy (RFC 4301 §5.1: it is the host's own and exempt).
        if origin == Origin::Host
            && is_udp_port(&flow, |f| f.0, &[self.ike_port, self.encap_port])
            && self.forwarding.addresses.contains(flow.source)
        {
            return self.forward(packet, &flow, origin, question);
        }
        match self.spd.lookup(&flow.outbound()) {
            Some(found) => match found.action {
                Action::Protect => self.protect(packet, flow, found.policy, origin, question),
                Action::Bypass => self.forward(packet, &flow, origin, question),
                Action::Discard => self.discard(packet, DropCause::PolicyDiscard, question),
            },
            None if bypassed => self.forward(packet, &flow, origin, question),
            None => match answered_traffic(&packet) {
                Some(answer) => self.outbound_error(packet, answer, origin),
                None => self.discard(packet, DropCause::NoPolicy, question),
            },
        }
    }

    /// An ICMP error that no policy speaks of takes the SA of the traffic that it is about, if there is one (RFC 4301 §6.2). It asks for
    /// none, and nothing is remembered of it: the next one of its flow may be about something else.
    fn outbound_error(&mut self, packet: Packet, answer: Flow, origin: Origin) {
        match self.sa_for(&answer) {
            Some(policy) => self.protect(packet, answer, policy, origin, None),
            None => self.drop_packet(packet, DropCause::NoPolicy),
        }
    }

    /// The policy that protects a packet, where it has an SA for that.
    pub(crate) fn sa_for(&self, flow: &Flow) -> Option<PolicyId> {
        let key = flow.outbound();
        let found = self.spd.lookup(&key)?;
        let protects = found.action == Action::Protect && self.choose(found.policy, &key).is_some();
        protects.then_some(found.policy)
    }

    /// Drops a packet as policy says, and the rest of its flow.
    pub(crate) fn discard(&mut self, packet: Packet, cause: DropCause, question: Option<Question>) {
        self.remember(question, Decision::Drop(cause.into()));
        self.drop_packet(packet, cause);
    }

    /// A packet that leaves only through an SA of `policy`: it never goes in clear, whatever happens here.
    pub(crate) fn protect(
        &mut self,
        mut packet: Packet,
        flow: Flow,
        policy: PolicyId,
        origin: Origin,
        question: Option<Question>,
    ) {
        let key = flow.outbound();
        // With ports it is one whose first fragment is known.
        let is_later = key.ports.is_some() && is_later(&packet);
        let chosen =
            if is_later { self.choose_for_later(policy, &key) } else { self.choose(policy, &key) };
        if is_later && chosen.is_none() && self.bindings.contains_key(&policy) {
            // The peer takes none in this SA: another may be for packets without ports.
            return self.outbound(packet, without_ports(flow), origin, false, None);
        }
        packet.set_origin(origin);
        if origin.is_hop() && !self.decrement_hop_limit(&mut packet) {
            return self.time_exceeded(packet);
        }
        if let Some(Chosen { sa, settled: true }) = chosen {
            self.remember_sa(question, policy, sa);
        }
        match chosen.map(|chosen| chosen.sa) {
            Some(sa) if sa.core == self.core => match self.owned_slot(sa) {
                Some(slot) => self.seal_with(packet, slot),
                None => self.drop_packet(packet, DropCause::NoSa),
            },
            Some(SaRef { core, slot, generation }) => {
                let choice = Choice { slot, generation, policy };
                self.hand_off(packet, core, HandedOff::Outbound(choice));
            }
            None if origin == Origin::Generated => self.drop_packet(packet, DropCause::NoSa),
            None => {
                // Not on the way of packets that have an SA: the database is asked again which of the policy's selectors it was.
                let selector = match origin {
                    Origin::Device => ANY_SELECTOR,
                    _ => self.spd.selector_of(&key),
                };
                self.acquire(policy, selector, &key);
                self.wait(packet, Key::Policy(policy, selector));
            }
        }
    }

    /// A packet whose SA went while it was handed over: it takes the one that its policy has now.
    pub(crate) fn protect_again(&mut self, packet: Packet, policy: PolicyId) {
        match flow_of(&packet) {
            // An error may have had it for what it quotes.
            Some(flow) if answered_traffic(&packet).is_some() => {
                self.outbound(packet, flow, Origin::Resumed, false, None);
            }
            Some(flow) => self.protect(packet, flow, policy, Origin::Resumed, None),
            None => self.drop_packet(packet, DropCause::MalformedHeader),
        }
    }

    /// Whether the outbound SA of `pair` is bound to `policy`.
    pub(crate) fn serves(&self, pair: PairId, policy: PolicyId) -> bool {
        self.bindings.get(&policy).is_some_and(|bound| bound.iter().any(|b| b.pair == pair))
    }

    /// The SA for a packet of a policy: the last bound one that is active and may carry it. One that waits for inbound traffic is
    /// taken when there is no other.
    pub(crate) fn choose(&self, policy: PolicyId, key: &FlowKey) -> Option<Chosen> {
        let mut pending = None;
        for binding in self.bindings.get(&policy)?.iter().rev() {
            if binding.selectors.iter().any(|s| s.matches(key)) {
                // Relaxed: see `Binding::active`.
                if binding.active.load(Ordering::Relaxed) {
                    return Some(Chosen { sa: binding.sa, settled: pending.is_none() });
                }
                pending = pending.or(Some(Chosen { sa: binding.sa, settled: false }));
            }
        }
        pending
    }

    /// Copies a packet into the side pool and frees its frame.
    pub(crate) fn wait(&mut self, packet: Packet, key: Key) {
        match self.waiting.take_in(key, &packet, self.now) {
            Some(before) => {
                self.account.add(Row::TakenIntoWaiting, 1);
                self.free(packet.0);
                if before == 0
                    && let Key::NextHop(port, address) = key
                {
                    self.raise(Event::Resolve { port, address });
                }
            }
            None => self.drop_packet(packet, WorkerDrop::WaitingFull),
        }
    }

    /// Raises an acquire for one of a policy's selectors, unless that was done a short while ago.
    fn acquire(&mut self, policy: PolicyId, selector: u16, key: &FlowKey) {
        let before = self.acquires.get(&policy);
        if before.into_iter().flatten().any(|(of, raised)| {
            *of == selector
                && self.now.saturating_duration_since(*raised) < self.limits.acquire_repeat
        }) {
            return;
        }
        // Not remembered when the ring is full: the next packet tries again.
        if self.raise(Event::Acquire { policy, packet: self::selector(key) }) {
            let raised = self.acquires.entry(policy).or_default();
            raised.retain(|(of, _)| *of != selector);
            raised.push((selector, self.now));
        }
    }
}

/// The SA for a packet of a policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen {
    pub(crate) sa: SaRef,
    /// Whether it stays so until bindings change: no SA that would be taken first waits for its activation.
    pub(crate) settled: bool,
}

/// The selector that one packet is: what a peer narrows from (RFC 7296 §2.9).
fn selector(key: &FlowKey) -> Selector {
    let port = |port: Option<u16>| port.map_or(Ports::Opaque, |p| Ports::Range(p..=p));
    Selector {
        local: AddressRange::host(key.local),
        remote: AddressRange::host(key.remote),
        protocol: Some(key.protocol),
        local_ports: port(key.ports.map(|(local, _)| local)),
        remote_ports: port(key.ports.map(|(_, remote)| remote)),
    }
}

fn is_udp_port(flow: &Flow, which: impl Fn((u16, u16)) -> u16, ports: &[u16]) -> bool {
    flow.protocol == protocol::UDP
        && flow.outbound().ports.is_some_and(|pair| ports.contains(&which(pair)))
}
