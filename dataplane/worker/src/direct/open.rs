//! Out of a tunnel.

use super::{Note, Notes};
use crate::config::{PortId, Side};
use crate::due::Due;
use crate::packet::{Origin, Packet};
use crate::worker::Worker;
use af_xdp::Frame;
use ipsec::classify::Protected;
use ipsec::drop_cause::DropCause;
use ipsec::flow::FlowIdV4;
use ipsec::inbound::{
    Entered, Hop, InboundPacket, IsAlone, Leaving, Left, Opened, Opener, Verdicts,
};
use ipsec::packet::PacketBuffer;
use ipsec::sa::Spi;
use ipsec::spi::CoreId;
use wire::ethernet;
use wire::ip::Ip;

impl Worker {
    /// Opens ESP, and finds out where what was in it goes.
    #[inline]
    pub(super) fn open_direct(&mut self, frames: &mut [Frame], notes: &mut Notes) {
        let verdicts = self.enter_direct(frames, notes);
        self.leave_direct(frames, notes, verdicts);
        self.forward_direct(frames, notes);
    }

    /// Replay check and cipher.
    #[inline(never)]
    fn enter_direct(&self, frames: &mut [Frame], notes: &mut Notes) -> Verdicts {
        let mut opener = Opener::new(&self.sad);
        let (mut run, mut rest) = (None, notes.iter_mut());
        for frame in frames {
            let Some(note) = rest.next() else { break };
            let Note::Protected(spi) = *note else { continue };
            let first = (run != Some(spi)).then(|| {
                run = Some(spi);
                let next = rest.as_slice().first();
                IsAlone(!matches!(next, Some(Note::Protected(next)) if *next == spi))
            });
            *note = match opener.take(spi, frame.data_mut(), first) {
                Some(entered) => Note::Entered(spi, entered, false),
                None => Note::Other,
            };
        }
        opener.finish()
    }

    /// What follows decryption, packet by packet in the order of arrival. What goes the same way as the last one out of its SA is sent on.
    #[inline(never)]
    fn leave_direct(&mut self, frames: &mut [Frame], notes: &mut Notes, mut verdicts: Verdicts) {
        let mut leaving = Leaving::default();
        let (mut flows, mut run) = (None, None);
        for (frame, note) in frames.iter_mut().zip(notes.iter_mut()) {
            let Note::Entered(spi, entered, authentic) = note else { continue };
            if !verdicts.next_is_authentic() {
                continue;
            }
            let spi = *spi;
            let Some(sa) = self.sad.get_mut(spi) else {
                *note = Note::Drop(DropCause::UnknownSpi.into());
                continue;
            };
            match leaving.leave(sa, entered, frame.data(), self.decisions) {
                Ok(Opened { at, len, flow, goes_on }) => {
                    if run != Some(spi) {
                        run = Some(spi);
                        if sa.usage().fall_due() {
                            self.due.add(Due::Inbound(spi.into()));
                        }
                    }
                    // The frame holds both.
                    let _ = frame.trim_front(at);
                    frame.truncate(len);
                    let hop = sa.onward();
                    if goes_on && send_on(frame, hop) {
                        *note = Note::Send(PortId(hop.port));
                        continue;
                    }
                    let place = match flows {
                        Some((run, place)) if run == flow => place,
                        _ => {
                            let place = self.flows.place_v4(flow);
                            self.flows.prefetch(place);
                            place
                        }
                    };
                    flows = Some((flow, place));
                    *note = Note::Opened(spi, flow, place);
                }
                Err(Left::Dropped(cause)) => *note = Note::Drop(cause.into()),
                Err(Left::Unusual) => *authentic = true,
            }
        }
        self.account.opened(&leaving.finish());
    }

    /// Sends on what belongs to flows that are known, and remembers where.
    #[inline(never)]
    fn forward_direct(&mut self, frames: &mut [Frame], notes: &mut Notes) {
        for (frame, note) in frames.iter_mut().zip(notes.iter_mut()) {
            let Note::Opened(spi, flow, place) = *note else { continue };
            let Some(hop) = self.next_hop_of(flow, place) else { continue };
            if send_on(frame, &hop) {
                *note = Note::Send(PortId(hop.port));
            }
            if let Some(sa) = self.sad.get_mut(spi) {
                sa.set_onward(flow, self.decisions, hop);
            }
        }
    }

    /// A packet out of an SA whose flow is not known, or that is unusual where it goes.
    #[cold]
    pub(super) fn opened_otherwise(
        &mut self,
        frame: Frame,
        arrival: CoreId,
        spi: Spi,
        flow: FlowIdV4,
    ) {
        let mut packet = Packet(frame);
        packet.begin(arrival);
        match self.sad.get(spi).map(|sa| sa.pair()) {
            Some(pair) => {
                let origin = Origin::Decapsulated(pair);
                self.take_plain(packet, flow.into(), origin, false, Side::Protected);
            }
            None => self.drop_packet(packet, DropCause::UnknownSpi),
        }
    }

    /// A packet that went through the cipher and is unusual.
    #[cold]
    pub(super) fn conclude_otherwise(
        &mut self,
        frame: Frame,
        arrival: CoreId,
        entered: Entered,
        authentic: bool,
    ) {
        let mut packet = Packet(frame);
        packet.begin(arrival);
        packet.trim_front(ethernet::HEADER_LEN);
        let header = match Ip::parse(&packet) {
            Ok(Ip::V4(ip)) => Protected::of_plain_esp(&ip),
            _ => None,
        };
        // It was noted as ESP over IPv4, of which the cipher has changed nothing.
        let Some(header) = header else {
            return self.drop_packet(packet, DropCause::MalformedHeader);
        };
        let mut packet = InboundPacket::new(packet, header);
        let mut leaving = Leaving::default();
        leaving.conclude(&mut self.sad, entered, authentic, &mut packet);
        self.account.opened(&leaving.finish());
        self.concluded(packet);
    }

    /// Notes that the usage of an SA has changed.
    #[inline]
    pub(crate) fn note_use(&mut self, spi: Spi) {
        if self.sad.get(spi).is_some_and(|sa| sa.usage().fall_due()) {
            self.due.add(Due::Inbound(spi.into()));
        }
    }
}

/// Makes a frame of a packet that is forwarded; false, and the packet as it was, where that is not all there is to do.
#[inline(always)]
fn send_on(frame: &mut Frame, hop: &Hop) -> bool {
    if frame.len() > usize::from(hop.mtu)
        || frame.headroom() < ethernet::HEADER_LEN
        || wire::ipv4::decrement_ttl(frame.data_mut()).is_none()
    {
        return false;
    }
    if let Some(front) = frame.push_front(ethernet::HEADER_LEN) {
        front.copy_from_slice(&hop.header);
    }
    true
}
