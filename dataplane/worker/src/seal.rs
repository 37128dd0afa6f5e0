//! The outbound burst (RFC 4301 §5.1).

use crate::due::Due;
use crate::event::{Direction, Event, Limit};
use crate::forward::ethernet_header;
use crate::forwarding::NextHop;
use crate::packet::Packet;
use crate::worker::Worker;
use ipsec::accounting::{Events, Totals};
use ipsec::drop_cause::DropCause;
use ipsec::esp::outbound::OutboundSa;
use ipsec::outbound::{OutboundPacket, Outcome, process_burst};
use ipsec::sad::Slot;
use wire::ip::may_be_fragment;
use wire::ipv4::Ipv4;
use wire::{ethernet, icmp};

impl Worker {
    /// Takes a packet into the burst of an SA of this worker.
    #[inline]
    pub(crate) fn seal_with(&mut self, packet: Packet, slot: Slot) {
        if self.sealing.last().is_none_or(|last| last.sa != slot) {
            self.ask_for_outbound(slot);
        }
        if may_be_fragment(&packet) {
            return self.seal_piece(packet, slot);
        }
        self.sealing.push(OutboundPacket::new(packet, slot));
    }

    /// A fragment that is too long is cut before the ones behind it are sealed: a receiver that checks them asks for the first one first.
    #[cold]
    fn seal_piece(&mut self, packet: Packet, slot: Slot) {
        let mtu = self.outbound_sad.get(slot).and_then(OutboundSa::cuts_at);
        match (mtu, Ipv4::parse(&packet)) {
            (Some(mtu), Ok(ip)) if ip.total_len() > usize::from(mtu) && !ip.dont_fragment() => {
                self.fragment(packet, mtu, |worker, piece| {
                    worker.sealing.push(OutboundPacket::new(piece, slot));
                });
            }
            _ => self.sealing.push(OutboundPacket::new(packet, slot)),
        }
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
        let Some(sa) = self.outbound_sad.get_mut(slot) else { return };
        let (_, remote) = sa.endpoints();
        side.hop = self.forwarding.resolve(remote);
        side.hop_version = self.forwarding_version;
        let link = match side.hop {
            NextHop::Station { mtu, .. } | NextHop::Unresolved { mtu, .. } => mtu,
            NextHop::Blackhole | NextHop::Down | NextHop::Host | NextHop::NoRoute => u16::MAX,
        };
        sa.set_path_mtu(side.path_mtu.min(link));
        sa.set_link(match side.hop {
            // The straight way is for tunnels over IPv4.
            NextHop::Station { port, source, destination, .. } => {
                Some((port.0, ethernet::emit(destination, source, ethernet::IPV4)))
            }
            _ => None,
        });
        side.usage.publish_mtu(sa.inner_mtu());
        // What comes out of the tunnel announces what its connection's other end may send into it.
        let clamp = if sa.clamps_mss() { sa.inner_mtu() } else { 0 };
        if let Some(spi) = self.pairs.get(&side.pair).and_then(|places| places.inbound)
            && let Some(Some(inbound)) = self.inbound.get_mut(spi.slot())
        {
            inbound.clamp_mss = clamp;
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
            let (mut run, mut hop) = (None, NextHop::NoRoute);
            let mut header = [0; ethernet::HEADER_LEN];
            for OutboundPacket { buffer: packet, sa, outcome, events } in burst.drain(..) {
                if !events.is_empty() {
                    self.tell_outbound(sa, events);
                    if events.contains(Events::OVERSIZE) && outcome == Outcome::Sealed {
                        let hop = self.hop_of(sa);
                        self.send_oversize(packet, sa, hop);
                        continue;
                    }
                }
                match outcome {
                    Outcome::Sealed => {
                        if run != Some(sa) {
                            run = Some(sa);
                            hop = self.hop_of(sa);
                            if let NextHop::Station { source, destination, .. } = hop {
                                header = ethernet_header(&packet, source, destination);
                            }
                        }
                        // All packets of an SA have one outer IP version.
                        match hop {
                            NextHop::Station { port, .. } => self.send_frame(packet, port, &header),
                            _ => self.send(packet, hop),
                        }
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
            self.spare = burst;
        }
    }

    /// The next hop of an SA that has carried a packet.
    #[inline]
    fn hop_of(&mut self, slot: Slot) -> NextHop {
        match self.outbound.get(slot.0 as usize) {
            Some(Some(side)) => {
                if self.outbound_sad.get(slot).is_some_and(|sa| sa.usage().fall_due()) {
                    self.due.add(Due::Outbound(slot));
                }
                side.hop
            }
            _ => NextHop::NoRoute,
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
