//! Out of a tunnel.

use super::{Note, Notes};
use crate::config::Side;
use crate::packet::{Origin, Packet};
use crate::sa_usage::Due;
use crate::worker::Worker;
use af_xdp::Frame;
use ipsec::classify::Protected;
use ipsec::drop_cause::DropCause;
use ipsec::flow::FlowIdV4;
use ipsec::inbound::{Entered, InboundPacket, Leaving, Left, Opened, Opener, Verdicts};
use ipsec::packet::PacketBuffer;
use ipsec::sa::Spi;
use wire::ethernet;
use wire::ip::Ip;

impl Worker {
    /// Opens ESP, and finds out where what was in it goes.
    #[inline]
    pub(super) fn open_direct(&mut self, frames: &mut [Frame], notes: &mut Notes) {
        self.ask_for_keys(frames, notes);
        let verdicts = self.enter_direct(frames, notes);
        self.leave_direct(frames, notes, verdicts);
        self.forward_direct(frames, notes);
    }

    /// Replay check and cipher.
    #[inline(never)]
    fn enter_direct(&self, frames: &mut [Frame], notes: &mut Notes) -> Verdicts {
        let mut opener = Opener::new(&self.sad);
        for (frame, note) in frames.iter_mut().zip(notes.iter_mut()) {
            let Note::Protected(spi) = *note else { continue };
            *note = match opener.take(spi, frame.data_mut()) {
                Some(entered) => Note::Entered(spi, entered, false),
                None => Note::Other,
            };
        }
        opener.finish()
    }

    /// Asks for windows and keys, once per run of packets of one SA.
    #[inline(never)]
    fn ask_for_keys(&self, frames: &[Frame], notes: &Notes) {
        let mut run = None;
        for (frame, note) in frames.iter().zip(notes) {
            let Note::Protected(spi) = *note else { continue };
            if run != Some(spi)
                && let Some(sa) = self.sad.get(spi)
            {
                sa.prefetch_frame(frame.data());
            }
            run = Some(spi);
        }
    }

    /// What follows decryption, packet by packet in the order of arrival.
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
            match leaving.leave(&mut self.sad, spi, entered, frame.data()) {
                Ok(Opened { at, len, flow }) => {
                    // The frame holds both.
                    let _ = frame.trim_front(at);
                    frame.truncate(len);
                    let place = match flows {
                        Some((run, place)) if run == flow => place,
                        _ => self.flows.place_v4(flow),
                    };
                    flows = Some((flow, place));
                    if run != Some(spi) {
                        run = Some(spi);
                        if self.sad.get(spi).is_some_and(|sa| sa.usage().fall_due()) {
                            self.due.push_back(Due::Inbound(spi));
                        }
                    }
                    *note = Note::Opened(spi, flow, place);
                }
                Err(Left::Dropped(cause)) => *note = Note::Drop(cause.into()),
                Err(Left::Unusual) => *authentic = true,
            }
        }
        self.account.opened(&leaving.finish());
    }

    /// Sends on what belongs to flows that are known.
    #[inline(never)]
    fn forward_direct(&self, frames: &mut [Frame], notes: &mut Notes) {
        let mut run: Option<(FlowIdV4, _)> = None;
        for (frame, note) in frames.iter_mut().zip(notes.iter_mut()) {
            let Note::Opened(_, flow, place) = *note else { continue };
            let hop = match run {
                Some((last, hop)) if last == flow => hop,
                _ => self.next_hop_of(flow, place),
            };
            run = Some((flow, hop));
            let Some((port, mtu, header)) = hop else { continue };
            if frame.len() > usize::from(mtu)
                || frame.headroom() < ethernet::HEADER_LEN
                || wire::ipv4::decrement_ttl(frame.data_mut()).is_none()
            {
                continue;
            }
            if let Some(front) = frame.push_front(ethernet::HEADER_LEN) {
                front.copy_from_slice(header);
            }
            *note = Note::Send(port);
        }
    }

    /// A packet out of an SA whose flow is not known, or that is unusual where it goes.
    #[cold]
    pub(super) fn opened_otherwise(&mut self, mut packet: Packet, spi: Spi, flow: FlowIdV4) {
        packet.set_arrival(self.core);
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
        mut packet: Packet,
        entered: Entered,
        authentic: bool,
    ) {
        packet.trim_front(ethernet::HEADER_LEN);
        packet.set_arrival(self.core);
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
            self.due.push_back(Due::Inbound(spi));
        }
    }
}
