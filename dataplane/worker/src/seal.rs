//! The outbound burst (RFC 4301 §5.1).

use crate::event::{Direction, Event, Limit};
use crate::forwarding::NextHop;
use crate::packet::Packet;
use crate::worker::Worker;
use ipsec::accounting::{Events, Totals};
use ipsec::drop_cause::DropCause;
use ipsec::outbound::{OutboundPacket, Outcome, process_burst};
use ipsec::sad::Slot;
use wire::icmp;

impl Worker {
    /// Takes a packet into the burst of an SA of this worker.
    #[inline]
    pub(crate) fn seal_with(&mut self, packet: Packet, slot: Slot) {
        self.ask_for_outbound(slot);
        self.sealing.push(OutboundPacket::new(packet, slot));
    }

    /// Sees to it that the next hop and path MTU of every SA in hand are those of the present forwarding table.
    fn refresh_hops(&mut self, burst: &[OutboundPacket<Packet>]) {
        let mut run = None;
        for OutboundPacket { sa, .. } in burst {
            if run == Some(*sa) {
                continue;
            }
            run = Some(*sa);
            let side = self.outbound.get(sa.0 as usize).and_then(Option::as_ref);
            if side.is_some_and(|side| side.hop_version != self.forwarding_version) {
                self.refresh_hop(*sa);
            }
        }
    }

    /// Finds out anew where the peer of an SA is reached, and the MTU on the way.
    pub(crate) fn refresh_hop(&mut self, slot: Slot) {
        let Some(Some(side)) = self.outbound.get_mut(slot.0 as usize) else { return };
        side.hop = self.forwarding.resolve(side.remote);
        side.hop_version = self.forwarding_version;
        let link = match side.hop {
            NextHop::Station { mtu, .. } | NextHop::Unresolved { mtu, .. } => mtu,
            NextHop::Blackhole | NextHop::Host | NextHop::NoRoute => u16::MAX,
        };
        let mtu = side.path_mtu.min(link);
        if let Some(sa) = self.outbound_sad.get_mut(slot) {
            sa.set_path_mtu(mtu);
        }
    }

    /// Seals the packets in hand, all SAs together.
    pub(crate) fn seal_burst(&mut self) {
        // Fragments and ICMP errors come up on the way. It ends: fragments fit, and neither is answered.
        while !self.sealing.is_empty() {
            let spare = core::mem::take(&mut self.spare);
            let mut burst = core::mem::replace(&mut self.sealing, spare);
            self.refresh_hops(&burst);
            let mut totals = Totals::default();
            process_burst(&mut self.outbound_sad, &mut burst, &mut totals);
            self.account.sealed(&totals);
            let mut run = None;
            for OutboundPacket { buffer: packet, sa, outcome, events } in burst.drain(..) {
                if !events.is_empty() {
                    self.tell_outbound(sa, events);
                }
                match outcome {
                    Outcome::Sealed => {
                        if run != Some(sa) {
                            self.publish_outbound(run);
                            run = Some(sa);
                        }
                        self.send_sealed(packet, sa);
                    }
                    Outcome::TooBig(mtu) => {
                        self.error_about(&packet, icmp::Error::TooBig(mtu));
                        self.drop_packet(packet, DropCause::PacketTooBig);
                    }
                    Outcome::Fragment(mtu) => {
                        self.fragment(packet, mtu, |worker, fragment| {
                            worker.sealing.push(OutboundPacket::new(fragment, sa));
                        });
                    }
                    Outcome::Dropped(cause) => self.drop_packet(packet, cause),
                    // `process_burst` leaves none.
                    Outcome::Pending => self.drop_packet(packet, DropCause::NoSa),
                }
            }
            self.publish_outbound(run);
            self.spare = burst;
        }
    }

    fn send_sealed(&mut self, packet: Packet, slot: Slot) {
        let hop = match self.outbound.get(slot.0 as usize) {
            Some(Some(side)) => side.hop,
            _ => NextHop::NoRoute,
        };
        self.send(packet, hop);
    }

    fn publish_outbound(&self, slot: Option<Slot>) {
        if let Some(slot) = slot
            && let Some(Some(side)) = self.outbound.get(slot.0 as usize)
            && let Some(sa) = self.outbound_sad.get(slot)
        {
            side.usage.publish(sa.usage(), self.now.saturating_duration_since(self.epoch));
        }
    }

    fn tell_outbound(&mut self, slot: Slot, events: Events) {
        let Some(Some(side)) = self.outbound.get(slot.0 as usize) else { return };
        let pair = side.pair;
        for (event, limit) in
            [(Events::SOFT_EXPIRED, Limit::Soft), (Events::HARD_EXPIRED, Limit::Hard)]
        {
            if events.contains(event) {
                self.raise(Event::Expire { pair, direction: Direction::Outbound, limit });
            }
        }
    }
}
