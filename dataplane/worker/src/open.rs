//! The inbound burst, and where decapsulated packets go (RFC 4301 §5.2).

use crate::command::Delivery;
use crate::config::Side;
use crate::event::{Direction, Event, Limit};
use crate::flows::Question;
use crate::packet::{Origin, Packet};
use crate::tunnels::is_of_a_link;
use crate::waiting::Key;
use crate::worker::Worker;
use core::sync::atomic::Ordering;
use ipsec::accounting::{Events, Totals};
use ipsec::classify::Protected;
use ipsec::drop_cause::DropCause;
use ipsec::flow::{Flow, FlowId};
use ipsec::fragments::LaterFragments;
use ipsec::inbound::{InboundPacket, Outcome, process_burst};
use ipsec::sa::{PairId, Spi};
use ipsec::selector::Action;
use wire::ip::{Ip, may_be_fragment};

impl Worker {
    /// Opens the packets in hand, all SAs together.
    pub(crate) fn open_burst(&mut self) {
        let mut burst = core::mem::take(&mut self.opening);
        let mut totals = Totals::default();
        process_burst(&mut self.sad, &mut burst, &mut totals);
        self.account.opened(&totals);
        for packet in burst.drain(..) {
            self.concluded(packet);
        }
        self.opening = burst;
    }

    /// What becomes of a packet that went through the burst function.
    #[inline]
    pub(crate) fn concluded(&mut self, packet: InboundPacket<Packet>) {
        let InboundPacket { buffer: packet, header, outcome, events } = packet;
        let spi = Spi::new(header.spi);
        if !events.is_empty()
            && let Some(spi) = spi
        {
            self.tell_inbound(spi, &header, &packet, events);
        }
        match outcome {
            Outcome::Accepted(_) => {
                self.opened(packet, spi);
            }
            Outcome::Dropped(cause) => {
                if cause == DropCause::UnknownSpi {
                    self.tell_unknown_spi(&header);
                }
                self.drop_packet(packet, cause);
            }
            Outcome::Larval => match spi {
                Some(spi) => self.wait(packet, Key::Larval(spi)),
                None => self.drop_packet(packet, DropCause::UnknownSpi),
            },
            // The burst function leaves none.
            Outcome::Pending => self.drop_packet(packet, DropCause::UnknownSpi),
        }
    }

    #[inline]
    fn opened(&mut self, mut packet: Packet, spi: Option<Spi>) {
        // `process_burst` found it under its SPI.
        let (Some(spi), Some(Some(side))) = (spi, self.inbound.get(spi.map_or(0, Spi::slot)))
        else {
            return self.deliver_to_host(packet);
        };
        let (delivery, pair, clamp) = (side.delivery, side.pair, side.clamp_mss);
        let later = side.later;
        self.note_use(spi);
        packet.set_origin(Origin::Decapsulated(pair));
        if later != LaterFragments::AsOthers
            && may_be_fragment(&packet)
            && let Some(cause) = self.refuse_fragment(&packet, spi, later)
        {
            return self.drop_packet(packet, cause);
        }
        if clamp != 0 {
            wire::ip::clamp_mss(&mut packet, clamp);
        }
        match delivery {
            Delivery::Forward | Delivery::Device(_) => {
                let origin = Origin::Decapsulated(pair);
                let flow = match Ip::parse(&packet) {
                    Ok(Ip::V4(ip)) => Ok(FlowId::of_v4(&ip)),
                    Ok(ip @ Ip::V6(_)) => FlowId::of(&ip),
                    Err(malformed) => Err(malformed),
                };
                // What the SA accepted is well formed.
                let Ok(flow) = flow else {
                    return self.drop_packet(packet, DropCause::InnerMalformed);
                };
                self.take_plain(packet, flow, origin, false, Side::Protected);
            }
            Delivery::Host => self.deliver_to_host(packet),
            Delivery::DeviceOnly(id) => self.deliver_to_device(packet, id),
        }
    }

    /// A packet out of a tunnel is forwarded; where a policy protects its way on, it enters the next tunnel.
    pub(crate) fn decapsulated(
        &mut self,
        packet: Packet,
        flow: Flow,
        pair: PairId,
        question: Option<Question>,
    ) {
        let to_us = self.forwarding.addresses.contains(flow.destination);
        if to_us || is_of_a_link(flow.destination) {
            match self.device_of(pair) {
                Some(device) => return self.deliver_to_device(packet, device),
                None if to_us => return self.deliver_to_host(packet),
                None => {}
            }
        }
        let origin = Origin::Decapsulated(pair);
        match self.spd.lookup(&flow.outbound()) {
            Some(found) if found.action == Action::Discard => {
                self.discard(packet, DropCause::PolicyDiscard, question);
            }
            // A policy that covers both directions of its own traffic would send it back to where it came from. What hangs on the
            // pair is not remembered of the flow.
            Some(found) if found.action == Action::Protect => {
                if self.serves(pair, found.policy) {
                    self.forward(packet, &flow, origin, None);
                } else {
                    self.protect(packet, flow, found.policy, origin, None);
                }
            }
            _ => self.forward(packet, &flow, origin, question),
        }
    }

    fn tell_inbound(&mut self, spi: Spi, header: &Protected, packet: &Packet, events: Events) {
        let Some(Some(side)) = self.inbound.get(spi.slot()) else { return };
        let pair = side.pair;
        if events.contains(Events::FIRST_AUTHENTIC) {
            // Relaxed: see `Binding::active`.
            let was_active = side.active.swap(true, Ordering::Relaxed);
            self.raise(Event::FirstInbound {
                pair,
                arrived_at: packet.arrival().unwrap_or(self.core),
            });
            if !was_active {
                self.raise(Event::Activated { pair });
            }
        }
        if events.contains(Events::PEER_MOVED)
            && let Some(port) = header.source_port
        {
            self.raise(Event::PeerMoved { pair, address: header.source, port });
        }
        for (event, limit) in
            [(Events::SOFT_EXPIRED, Limit::Soft), (Events::HARD_EXPIRED, Limit::Hard)]
        {
            if events.contains(event) {
                self.raise(Event::Expire { pair, direction: Direction::Inbound, limit });
            }
        }
    }

    fn tell_unknown_spi(&mut self, header: &Protected) {
        if let Some(spi) = Spi::new(header.spi)
            && self.unknown_spis.take(self.now)
        {
            self.raise(Event::UnknownSpi { spi, source: header.source, protocol: header.protocol });
        }
    }
}
