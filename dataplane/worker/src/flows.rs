//! What is known of a flow, so that policies, bindings and routes are asked once per flow and not once per packet.
//!
//! ```text
//!  plain packet ─► classified, its place in the cache asked for ─► ... the rest of the burst ... ─► judged
//!                                                                        known: followed ◄──┤
//!                        asked (policy.rs, open.rs), done, and remembered where it will hold ◄┘
//! ```
//!
//! A decision holds while nothing that it was made from has changed: policies, routes, neighbours and own addresses by
//! [`Worker::decisions`], and what is bound to its policy by epochs. Which SA a flow takes after a rekey is
//! known without asking (`epochs.rs`).

use crate::account::Drop;
use crate::command::SaRef;
use crate::config::{PortId, Side};
use crate::handoff::{Choice, HandedOff};
use crate::packet::{Origin, Packet, put};
use crate::worker::Worker;
use ipsec::flow::{Flow, FlowId, FlowIdV4};
use ipsec::inbound::Hop;
use ipsec::prefetch::prefetch;
use ipsec::sad::Slot;
use ipsec::selector::PolicyId;
use ipsec::spd::{Context, Place};
use ipsec::spi::CoreId;
use wire::ethernet;

/// What happens to the packets of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Decision {
    /// Nothing is known.
    #[default]
    Ask,
    /// They are dropped.
    Drop(Drop),
    /// They take an SA, here or of another core.
    Protect { core: CoreId, slot: u32, generation: u32, policy: PolicyId, epoch: u32 },
    /// They are forwarded in clear, behind this Ethernet header.
    Send { port: PortId, mtu: u16, header: [u8; ethernet::HEADER_LEN] },
}

// With it, an entry of the cache is one line.
const _: () = assert!(size_of::<Decision>() == 20);

/// A plain packet whose fate is not decided yet.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) packet: Packet,
    pub(crate) flow: FlowId,
    pub(crate) place: Place,
    pub(crate) origin: Origin,
    pub(crate) to_us: bool,
    /// Of the port that it came from.
    pub(crate) side: Side,
}

/// What was asked, for the answer to be remembered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    flow: FlowId,
    place: Place,
    context: Context,
}

/// What came out of a tunnel.
const DECAPSULATED: Context = Context(3);

/// Which checks a packet meets, and so what of it may be remembered together.
#[inline]
fn context(origin: Origin, side: Side) -> Context {
    match (origin, side) {
        (Origin::Port, Side::Protected) => Context(1),
        (Origin::Port, Side::Either | Side::Unprotected) => Context(2),
        (Origin::Decapsulated(_), _) => DECAPSULATED,
        (Origin::Host, _) => Context(4),
        // Never asked with a question.
        (Origin::Device | Origin::Generated | Origin::Resumed, _) => Context(5),
    }
}

impl Worker {
    /// Takes a plain packet into the burst, and asks for what is known of its flow.
    #[inline]
    pub(crate) fn take_plain(
        &mut self,
        packet: Packet,
        flow: FlowId,
        origin: Origin,
        to_us: bool,
        side: Side,
    ) -> &mut Packet {
        // A run of packets of one flow is looked for once.
        let place = match self.plain.last() {
            Some(last) if last.flow == flow => last.place,
            _ => self.flows.place(&flow),
        };
        let plain = Plain { packet, flow, place, origin, to_us, side };
        let packet = &mut put(&mut self.plain, plain).packet;
        packet.set_origin(origin);
        packet
    }

    /// Decides about the plain packets in hand.
    pub(crate) fn judge_burst(&mut self) {
        if self.plain.is_empty() {
            return;
        }
        let mut plain = core::mem::take(&mut self.plain);
        for Plain { packet, flow, place, origin, to_us, side } in plain.drain(..) {
            if !to_us && let Some(whole) = self.as_the_first(&packet) {
                // Nothing is remembered of it: whole packets of its flow may take SAs that it may not.
                self.ask(packet, whole, None, origin, to_us, side);
                continue;
            }
            let context = context(origin, side);
            // What is addressed to us is decided anew each time: little is.
            let known = if to_us { None } else { self.known(place, &flow, context) };
            match known {
                Some(decision) => self.follow(packet, &flow, decision, origin),
                None => {
                    let question = Question { flow, place, context };
                    self.ask(packet, flow.flow(), Some(question), origin, to_us, side);
                }
            }
        }
        self.plain = plain;
    }

    /// What was decided about a flow, if that still holds or what holds now follows from it.
    #[inline]
    fn known(&mut self, place: Place, flow: &FlowId, context: Context) -> Option<Decision> {
        match self.flows.get(place, flow, context, self.decisions)? {
            Decision::Ask => None,
            &Decision::Protect { core, slot, generation, policy, epoch }
                if epoch != self.epochs.of(policy) =>
            {
                let sa = SaRef { core, slot, generation };
                let question = Question { flow: *flow, place, context };
                let SaRef { core, slot, generation } = self.renew(sa, policy, epoch, question)?;
                Some(Decision::Protect { core, slot, generation, policy, epoch })
            }
            decision => Some(*decision),
        }
    }

    /// The SA that packets of a flow from a port take and its core, if that was decided and still holds or follows. What is `NEAR` alone is looked at
    /// where that was asked for, and the rest asked for.
    #[inline]
    pub(crate) fn sa_of<const NEAR: bool>(
        &mut self,
        flow: FlowIdV4,
        place: Place,
        side: Side,
    ) -> Option<(CoreId, Choice)> {
        let context = context(Origin::Port, side);
        let found = match NEAR {
            true => self.flows.get_near_v4(place, flow, context, self.decisions),
            false => self.flows.get_v4(place, flow, context, self.decisions),
        };
        match *found? {
            Decision::Protect { core, slot, generation, policy, epoch } => {
                let mut sa = SaRef { core, slot, generation };
                if epoch != self.epochs.of(policy) {
                    let flow = flow.into();
                    sa = self.renew(sa, policy, epoch, Question { flow, place, context })?;
                }
                let SaRef { core, slot, generation } = sa;
                Some((core, Choice { slot, generation, policy }))
            }
            _ => None,
        }
    }

    /// The SA of a flow that took `sa` in another epoch: the same or its heir, which is remembered now.
    #[cold]
    fn renew(
        &mut self,
        sa: SaRef,
        policy: PolicyId,
        epoch: u32,
        question: Question,
    ) -> Option<SaRef> {
        let held = self.epochs.holds(policy, epoch).then_some(sa);
        let sa = held.or_else(|| self.epochs.heir(policy, epoch))?;
        self.remember_sa(Some(question), policy, sa);
        Some(sa)
    }

    /// Where packets of a flow that come out of a tunnel are sent, if that was decided and still holds.
    #[inline]
    pub(crate) fn next_hop_of(&self, flow: FlowIdV4, place: Place) -> Option<Hop> {
        match *self.flows.get_v4(place, flow, DECAPSULATED, self.decisions)? {
            Decision::Send { port: PortId(port), mtu, header } => Some(Hop { port, mtu, header }),
            _ => None,
        }
    }

    /// Does with a packet what was done with those of its flow before.
    #[inline]
    fn follow(&mut self, mut packet: Packet, flow: &FlowId, decision: Decision, origin: Origin) {
        match decision {
            Decision::Protect { core, slot, generation, policy, .. } => {
                if origin.is_hop() && !self.decrement_hop_limit(&mut packet) {
                    return self.time_exceeded(packet);
                }
                if core == self.core {
                    // It is there: what unbinds an SA, as every delete does first, advances the epoch, unless all follow another one.
                    return self.seal_with(packet, Slot(slot));
                }
                let choice = Choice { slot, generation, policy };
                self.hand_off(packet, core, HandedOff::Outbound(choice));
            }
            Decision::Send { port, mtu, header } => {
                if packet.len() > usize::from(mtu) {
                    return self.forward(packet, &flow.flow(), origin, None);
                }
                if origin.is_hop() && !self.decrement_hop_limit(&mut packet) {
                    return self.time_exceeded(packet);
                }
                self.send_frame(packet, port, &header);
            }
            Decision::Drop(cause) => self.drop_packet(packet, cause),
            Decision::Ask => self.drop_packet(packet, ipsec::drop_cause::DropCause::NoPolicy),
        }
    }

    #[cold]
    fn ask(
        &mut self,
        packet: Packet,
        flow: Flow,
        question: Option<Question>,
        origin: Origin,
        to_us: bool,
        side: Side,
    ) {
        match origin {
            Origin::Port => self.clear(packet, flow, to_us, side, question),
            Origin::Decapsulated(pair) => self.decapsulated(packet, flow, pair, question),
            Origin::Host | Origin::Device | Origin::Generated | Origin::Resumed => {
                self.outbound(packet, flow, origin, false, question);
            }
        }
    }

    /// Remembers what was decided about a flow.
    pub(crate) fn remember(&mut self, question: Option<Question>, decision: Decision) {
        if let Some(Question { flow, place, context }) = question {
            self.flows.insert(place, &flow, context, self.decisions, decision);
        }
    }

    /// Remembers the SA that a policy's packets of a flow take.
    pub(crate) fn remember_sa(&mut self, question: Option<Question>, policy: PolicyId, sa: SaRef) {
        let SaRef { core, slot, generation } = sa;
        let epoch = self.epochs.of(policy);
        self.remember(question, Decision::Protect { core, slot, generation, policy, epoch });
    }

    /// Makes all that was decided be decided again.
    pub(crate) fn forget_decisions(&mut self) {
        // 0 is what an empty place has. Coming around would take a change every millisecond for seven weeks, and a flow that was
        // silent for exactly as long.
        self.decisions = self.decisions.wrapping_add(1).max(1);
    }

    /// Asks for what sealing with an SA needs first.
    #[inline]
    pub(crate) fn ask_for_outbound(&self, slot: Slot) {
        self.outbound_sad.bring(slot);
        if let Some(side) = self.outbound.get(slot.0 as usize) {
            prefetch(side);
        }
    }
}
