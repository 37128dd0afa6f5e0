//! From every source to the stage that a packet belongs to.

use crate::account::WorkerDrop;
use crate::config::{PortId, Side};
use crate::handoff::HandedOff;
use crate::packet::{Origin, Packet, put};
use crate::tunnels::{ANY_SELECTOR, BUSY_TURNS};
use crate::waiting::{Key, Released};
use crate::worker::{BURST, Worker};
use af_xdp::Frame;
use core::num::NonZeroU16;
use core::sync::atomic::Ordering;
use ipsec::classify::{Class, Protected, classify};
use ipsec::drop_cause::DropCause;
use ipsec::flow::{Flow, FlowId};
use ipsec::inbound::InboundPacket;
use ipsec::packet::PacketBuffer;
use ipsec::prefetch::prefetch;
use ipsec::sa::Spi;
use ipsec::spi::CoreId;
use stats::Worker as Row;
use wire::ethernet::{self, Mac};
use wire::ip::Ip;

impl Worker {
    /// One burst of a port.
    #[inline]
    pub(crate) fn receive(&mut self, id: PortId, frames: &mut Vec<Frame>) -> usize {
        let state = &mut self.ports[usize::from(id.0)];
        state.port.complete(&mut self.pool);
        let count = state.port.receive(&mut self.pool, frames, BURST);
        if count > 0 { self.take_frames(id, frames, count) } else { 0 }
    }

    /// One burst of a further queue of a port.
    #[cold]
    pub(crate) fn receive_more(
        &mut self,
        id: PortId,
        queue: usize,
        frames: &mut Vec<Frame>,
    ) -> usize {
        let port = &mut self.ports[usize::from(id.0)].more[queue];
        port.complete(&mut self.pool);
        let count = port.receive(&mut self.pool, frames, BURST);
        if count > 0 { self.take_frames(id, frames, count) } else { 0 }
    }

    /// So many frames of a port, and what other workers have handed over along with them; how many that was.
    #[inline(never)]
    fn take_frames(&mut self, id: PortId, frames: &mut Vec<Frame>, count: usize) -> usize {
        self.apply_commands_before(count);
        let state = &self.ports[usize::from(id.0)];
        let bytes: usize = frames.iter().map(Frame::len).sum();
        self.account.add(Row::Received, count as u64);
        self.account.add(Row::ReceivedBytes, bytes as u64);
        self.account.add(Row::Bursts, 1);
        let (side, vlan, has_members) = (state.side, state.vlan, !state.members.is_empty());
        let station = self.forwarding.link(id).map(|link| link.mac);
        // The straight way is for untagged frames.
        let along = match station {
            Some(station) if vlan.is_none() => self.direct(frames, station, side),
            _ => 0,
        };
        for frame in frames.drain(..) {
            match has_members {
                false => self.take_frame(Packet(frame), station, vlan, side),
                true => self.take_trunk_frame(Packet(frame), id),
            }
        }
        self.flush();
        count + along
    }

    /// One burst of the host port, unless there is much else to do.
    #[inline]
    pub(crate) fn read_host(&mut self, frames: &mut Vec<Frame>, busy: bool) -> usize {
        let is_time = !busy || self.account.get(Row::Turns).is_multiple_of(BUSY_TURNS);
        if self.host.is_due(is_time) { self.read_host_burst(frames) } else { 0 }
    }

    fn read_host_burst(&mut self, frames: &mut Vec<Frame>) -> usize {
        while frames.len() < BURST {
            // Without a frame to read into, packets stay with the host.
            let Some(mut frame) = self.pool.alloc() else { break };
            let room = frame.tailroom();
            let read = match frame.set_len(room) {
                Some(()) => self.host.read(frame.data_mut()),
                None => None,
            };
            let Some(len) = read else {
                self.free(frame);
                break;
            };
            frame.truncate(len);
            self.account.add(Row::Received, 1);
            self.account.add(Row::ReceivedBytes, len as u64);
            frames.push(frame);
        }
        let count = frames.len();
        if count > 0 {
            self.apply_commands_before(count);
            for frame in frames.drain(..) {
                self.take_host_packet(Packet(frame));
            }
            self.flush();
        }
        count
    }

    /// One burst of what the kernel reassembled.
    pub(crate) fn take_injected(&mut self) -> usize {
        if !self.shared[self.core.index()].has_injected() {
            return 0;
        }
        let lost = self.count_lost_injected();
        let mut count = 0;
        while count < BURST
            && let Some(bytes) = self.shared[self.core.index()].injected.pop()
        {
            count += 1;
            self.injected_taken += 1;
            self.account.add(Row::Received, 1);
            self.account.add(Row::ReceivedBytes, bytes.len() as u64);
            if let Some(mut packet) = self.copy(&bytes) {
                packet.set_arrival(self.core);
                self.take_reassembled(packet);
            }
        }
        if count > 0 {
            self.flush();
        }
        count + lost
    }

    /// Counts what the kernel reassembled and had no place in the ring.
    fn count_lost_injected(&mut self) -> usize {
        let shared = &self.shared[self.core.index()];
        let lost = shared.injected_lost.swap(0, Ordering::Relaxed);
        let bytes = shared.injected_lost_bytes.swap(0, Ordering::Relaxed);
        self.account.add(Row::Received, lost);
        self.account.add(Row::ReceivedBytes, bytes);
        self.account.drop_many(WorkerDrop::ReassembledFull, lost);
        lost as usize
    }

    /// What the kernel reassembled came to one of the host's sockets for ESP, AH or encapsulated ESP, so it is nothing else, and
    /// never forwarded.
    fn take_reassembled(&mut self, packet: Packet) {
        match classify(&packet, &self.forwarding.addresses, self.encap_port) {
            Err(cause) => self.drop_packet(packet, cause),
            Ok(Class::Protected(header)) => self.protected(packet, header, Origin::Resumed),
            Ok(Class::KeepAlive) => self.drop_packet(packet, WorkerDrop::KeepAlive),
            Ok(_) => self.drop_packet(packet, WorkerDrop::NotOurAddress),
        }
    }

    /// One burst of what was released from waiting.
    pub(crate) fn take_released(&mut self) -> usize {
        let mut count = 0;
        while count < BURST && self.waiting.has_released() {
            let pool = &mut self.pool;
            let mut taken = None;
            self.waiting.next_released(|Released { key, marks, packet }| {
                // Without a frame it stays where it is.
                let Some(mut frame) = pool.alloc_for(packet.len()) else { return false };
                let fits = frame.copy_from(packet).is_some();
                frame.mark = marks;
                taken = Some((key, frame, fits));
                true
            });
            let Some((key, frame, fits)) = taken else { break };
            count += 1;
            self.account.add(Row::ReleasedFromWaiting, 1);
            let packet = Packet(frame);
            if !fits {
                self.drop_packet(packet, DropCause::NoRoom);
                continue;
            }
            match key {
                Key::Policy(policy, ANY_SELECTOR) => match flow_of(&packet) {
                    Some(flow) => self.resume_tunnel_packet(packet, flow, policy),
                    None => self.drop_packet(packet, DropCause::MalformedHeader),
                },
                Key::Policy(..) => match self.as_the_first(&packet).or_else(|| flow_of(&packet)) {
                    Some(flow) => self.outbound(packet, flow, Origin::Resumed, false, None),
                    None => self.drop_packet(packet, DropCause::MalformedHeader),
                },
                Key::Larval(_) => self.classify(packet, Origin::Resumed, Side::Either),
                Key::NextHop(port, address) => {
                    let hop = self.forwarding.neighbour(port, address);
                    self.send(packet, hop);
                }
            }
        }
        if count > 0 {
            self.flush();
        }
        count
    }

    /// Drops what has waited too long.
    pub(crate) fn expire_waiting(&mut self) {
        if self.waiting.next_deadline().is_none() && self.account.get(Row::Waiting) == 0 {
            return;
        }
        let account = &mut self.account;
        self.waiting.expire(self.now, |cause| {
            account.add(Row::ReleasedFromWaiting, 1);
            account.drop(cause);
        });
        self.account.set(Row::Waiting, self.waiting.len() as u64);
    }

    #[inline]
    pub(crate) fn take_frame(
        &mut self,
        mut packet: Packet,
        station: Option<Mac>,
        vlan: Option<NonZeroU16>,
        side: Side,
    ) {
        let Ok(frame) = ethernet::Frame::parse(&packet) else {
            return self.drop_packet(packet, WorkerDrop::NotIp);
        };
        let ours = station.is_some_and(|station| station == frame.destination());
        let is_ip = matches!(frame.ether_type(), ethernet::IPV4 | ethernet::IPV6);
        let header_len = frame.header_len();
        let of_port =
            (header_len == ethernet::HEADER_LEN && vlan.is_none()) || is_tagged(&frame, vlan);
        if !ours {
            return self.drop_packet(packet, WorkerDrop::NotOurStation);
        }
        if !of_port {
            return self.drop_packet(packet, WorkerDrop::WrongVlan);
        }
        if !is_ip {
            return self.drop_packet(packet, WorkerDrop::NotIp);
        }
        // The two cases that traffic is made of; everything else is looked at as a whole.
        let bytes = packet.get(header_len..).unwrap_or_default();
        if let Ok(Ip::V4(ip)) = Ip::parse(bytes) {
            // RFC 1812 §5.2.2.
            if !ip.checksum_ok() {
                return self.drop_packet(packet, DropCause::MalformedHeader);
            }
            let core = self.core;
            let to_us = self.forwarding.addresses.contains(ip.destination().into());
            if !to_us {
                let (flow, len) = (FlowId::of_v4(&ip), ip.total_len());
                let packet = self.take_plain(packet, flow, Origin::Port, false, side);
                packet.trim_front(header_len);
                // Link-layer padding goes.
                packet.0.truncate(len);
                packet.set_arrival(core);
                return;
            }
            if let Some(header) = Protected::of_plain_esp(&ip)
                && self.owner(header.spi) == core
            {
                let packet = self.take_protected(packet, header);
                packet.trim_front(header_len);
                packet.set_arrival(core);
                return;
            }
        }
        packet.trim_front(header_len);
        packet.set_arrival(self.core);
        self.classify(packet, Origin::Port, side);
    }

    fn take_host_packet(&mut self, packet: Packet) {
        let Some(flow) = flow_of(&packet) else {
            return self.drop_packet(packet, DropCause::MalformedHeader);
        };
        self.take_plain(packet, flow.into(), Origin::Host, false, Side::Protected);
    }

    /// What an IP packet from a port, from another worker's port or from the kernel is.
    #[inline]
    pub(crate) fn classify(&mut self, packet: Packet, origin: Origin, side: Side) {
        let class = classify(&packet, &self.forwarding.addresses, self.encap_port);
        match class {
            Err(cause) => self.drop_packet(packet, cause),
            Ok(Class::Protected(header)) => self.protected(packet, header, origin),
            Ok(Class::Reassemble) => self.drop_packet(packet, WorkerDrop::FragmentToUs),
            Ok(Class::KeepAlive) => self.drop_packet(packet, WorkerDrop::KeepAlive),
            Ok(Class::Ike) => self.deliver_to_host(packet),
            Ok(Class::Clear { flow, to_us, end }) => {
                let packet = self.take_plain(packet, flow, Origin::Port, to_us, side);
                // Link-layer padding goes.
                packet.0.truncate(usize::from(end));
            }
        }
    }

    /// ESP and AH to this gateway: opened here, or by the core that the SPI names.
    fn protected(&mut self, packet: Packet, header: Protected, origin: Origin) {
        let owner = self.owner(header.spi);
        if owner != self.core && owner.index() < self.shared.len() && origin == Origin::Port {
            return self.hand_off(packet, owner, HandedOff::Inbound);
        }
        self.take_protected(packet, header);
    }

    /// The core that an SPI names.
    #[inline]
    fn owner(&self, spi: u32) -> CoreId {
        Spi::new(spi).map_or(self.core, Spi::core)
    }

    /// Takes a protected packet into the burst, and asks for its SA.
    #[inline]
    fn take_protected(&mut self, packet: Packet, header: Protected) -> &mut Packet {
        if self.opening.last().is_none_or(|last| last.header.spi != header.spi) {
            self.sad.bring(header.spi);
            if let Some(side) = self.inbound.get(Spi::for_known_answer(header.spi).slot()) {
                prefetch(side);
            }
        }
        &mut put(&mut self.opening, InboundPacket::new(packet, header)).buffer
    }
}

/// Whether a frame has the tag of a VLAN and no other; a priority tag (IEEE 802.1Q §6.9) is none.
#[cold]
fn is_tagged(frame: &ethernet::Frame<'_>, vlan: Option<NonZeroU16>) -> bool {
    let mut tags = frame.vlans();
    let tag = tags.next().unwrap_or(0);
    tag == vlan.map_or(0, NonZeroU16::get) && tags.next().is_none() && !frame.is_service_tagged()
}

/// The selector values of a whole packet.
pub(crate) fn flow_of(packet: &[u8]) -> Option<Flow> {
    Flow::of(&Ip::parse(packet).ok()?).ok()
}
