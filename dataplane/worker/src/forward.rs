//! Out of the worker: next hop, TTL, MTU, ICMP errors, the host port, transmission.

use crate::account::WorkerDrop;
use crate::config::PortId;
use crate::flows::{Decision, Question};
use crate::forwarding::NextHop;
use crate::ingress::flow_of;
use crate::packet::{Origin, Packet, Sender, put};
use crate::waiting::Key;
use crate::worker::{BURST, Worker};
use af_xdp::{Frame, Port};
use core::net::IpAddr;
use core::num::NonZeroU16;
use ipsec::drop_cause::DropCause;
use ipsec::flow::Flow;
use ipsec::icmp_error::answered_traffic;
use ipsec::selector::Action;
use stats::Worker as Row;
use std::time::{Duration, Instant};
use wire::ethernet::Mac;
use wire::ip::Ip;
use wire::{ethernet, icmp};

impl Worker {
    /// Sends a packet on in clear, as a router does.
    ///
    /// The answer to `question` is remembered.
    pub(crate) fn forward(
        &mut self,
        mut packet: Packet,
        flow: &Flow,
        origin: Origin,
        question: Option<Question>,
    ) {
        packet.set_origin(origin);
        let hop = self.forwarding.resolve(flow.destination);
        let mtu = match hop {
            NextHop::Station { port, mtu, source, destination } => {
                let header = ethernet_header(&packet, source, destination);
                self.remember(question, Decision::Send { port, mtu, header });
                mtu
            }
            NextHop::Unresolved { mtu, .. } => mtu,
            // The host gave it to us: it would come back.
            NextHop::Host if origin == Origin::Host => {
                return self.drop_packet(packet, WorkerDrop::NoRoute);
            }
            NextHop::Host => return self.deliver_to_host(packet),
            NextHop::Blackhole => return self.drop_packet(packet, WorkerDrop::Blackhole),
            NextHop::Down => {
                self.error_about(&packet, icmp::Error::Unreachable);
                return self.drop_packet(packet, WorkerDrop::PortDown);
            }
            NextHop::NoRoute => {
                self.error_about(&packet, icmp::Error::Unreachable);
                return self.drop_packet(packet, WorkerDrop::NoRoute);
            }
        };
        if origin.is_hop() && !self.decrement_hop_limit(&mut packet) {
            return self.time_exceeded(packet);
        }
        if packet.len() <= usize::from(mtu) {
            return self.send(packet, hop);
        }
        if Ip::parse(&packet).is_ok_and(|ip| !ip.dont_fragment()) {
            return self.fragment(packet, mtu, |worker, fragment| worker.send(fragment, hop));
        }
        self.error_about(&packet, icmp::Error::TooBig(mtu));
        self.drop_packet(packet, WorkerDrop::LinkTooSmall);
    }

    /// Takes one from TTL or hop limit; false when it runs out here.
    #[inline]
    pub(crate) fn decrement_hop_limit(&self, packet: &mut Packet) -> bool {
        wire::ip::decrement_hop_limit(packet).is_some()
    }

    /// Drops a packet whose TTL ran out, and says so to its sender.
    pub(crate) fn time_exceeded(&mut self, packet: Packet) {
        self.error_about(&packet, icmp::Error::TimeExceeded);
        self.drop_packet(packet, WorkerDrop::TtlExpired);
    }

    /// Gives an IP packet to a station, or lets it wait for that one's address.
    #[inline]
    pub(crate) fn send(&mut self, packet: Packet, hop: NextHop) {
        match hop {
            NextHop::Station { port, source, destination, .. } => {
                let header = ethernet_header(&packet, source, destination);
                self.send_frame(packet, port, &header);
            }
            NextHop::Unresolved { port, address, .. } => {
                self.wait(packet, Key::NextHop(port, address));
            }
            NextHop::Host => self.deliver_to_host(packet),
            NextHop::Blackhole => self.drop_packet(packet, WorkerDrop::Blackhole),
            NextHop::Down => self.drop_packet(packet, WorkerDrop::PortDown),
            NextHop::NoRoute => self.drop_packet(packet, WorkerDrop::NoRoute),
        }
    }

    /// Puts an IP packet behind its Ethernet header and gives it to a port.
    #[inline]
    pub(crate) fn send_frame(
        &mut self,
        packet: Packet,
        port: PortId,
        header: &[u8; ethernet::HEADER_LEN],
    ) {
        if packet.0.headroom() < ethernet::HEADER_LEN {
            return self.drop_packet(packet, DropCause::NoRoom);
        }
        // The hop came from the links, which name only ports; one that is not there sends nothing.
        let Some(state) = self.ports.get_mut(usize::from(port.0)) else {
            return self.drop_packet(packet, WorkerDrop::NoRoute);
        };
        let frame = put(&mut state.transmit, packet.0);
        if let Some(front) = frame.push_front(ethernet::HEADER_LEN) {
            front.copy_from_slice(header);
        }
        if state.transmit.len() >= 2 * BURST {
            self.transmit_all();
        }
    }

    /// Gives a packet to the host.
    pub(crate) fn deliver_to_host(&mut self, packet: Packet) {
        match self.host.write(&packet) {
            Ok(()) => {
                self.account.add(Row::ToHost, 1);
                self.free(packet.0);
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotConnected => {
                self.drop_packet(packet, WorkerDrop::NoHost);
            }
            Err(_) => self.drop_packet(packet, WorkerDrop::HostFull),
        }
    }

    /// Gives to the ports what is for them; what they do not take is dropped, as the worker waits for nobody.
    pub(crate) fn transmit_all(&mut self) {
        for index in 0..self.ports.len() {
            if !self.ports[index].transmit.is_empty() {
                self.transmit_from(index);
            }
        }
    }

    #[inline]
    fn transmit_from(&mut self, index: usize) {
        if let Some(vlan) = self.ports[index].vlan {
            self.tag_all(index, vlan);
        }
        let state = &mut self.ports[index];
        let bytes: usize = state.transmit.iter().map(Frame::len).sum();
        let mut given = (0, bytes);
        if state.trunk.is_none() {
            given.0 = state.port.transmit(&mut self.pool, &mut state.transmit);
            state.port.kick();
        }
        if !state.transmit.is_empty() {
            given = self.transmit_rest(index, given);
        }
        self.account.add(Row::Sent, given.0 as u64);
        self.account.add(Row::SentBytes, given.1 as u64);
    }

    /// What is sent by another port's sockets, or what a port had no room for: so much of it was given by then, and so much afterwards.
    #[cold]
    fn transmit_rest(&mut self, index: usize, (sent, bytes): (usize, usize)) -> (usize, usize) {
        let state = &mut self.ports[index];
        let by = state.trunk.map_or(index, |trunk| usize::from(trunk.0));
        let mut frames = core::mem::take(&mut state.transmit);
        let port = &mut self.ports[by].port;
        // Room may have come up since the completions of this turn were taken.
        port.complete(&mut self.pool);
        let sent = sent + port.transmit(&mut self.pool, &mut frames);
        port.kick();
        let left: usize = frames.iter().map(Frame::len).sum();
        let cause = match port {
            Port::Absent => WorkerDrop::PortDown,
            Port::Generator(_) | Port::Memory(_) | Port::Xdp(_) => WorkerDrop::TransmitFull,
        };
        for frame in frames.drain(..) {
            self.drop_packet(Packet(frame), cause);
        }
        self.ports[index].transmit = frames;
        (sent, bytes - left)
    }

    /// Tags what is for a port that is a VLAN.
    #[cold]
    pub(crate) fn tag_all(&mut self, index: usize, vlan: NonZeroU16) {
        let mut frames = core::mem::take(&mut self.ports[index].transmit);
        for mut frame in frames.drain(..) {
            if tag(&mut frame, vlan) {
                self.ports[index].transmit.push(frame);
            } else {
                self.drop_packet(Packet(frame), DropCause::NoRoom);
            }
        }
    }

    /// Sends an ICMP error about a packet to whoever sent that, if one is due, the budget allows it, and policy lets it through.
    pub(crate) fn error_about(&mut self, packet: &Packet, error: icmp::Error) {
        let sender = packet.sender();
        let Some(flow) = flow_of(packet) else { return };
        if sender == Sender::None || !icmp::may_answer(packet) || !self.errors.take(self.now) {
            return;
        }
        // From the port that the sender is behind; behind a tunnel, from the one that the packet was on its way to.
        let towards = match sender {
            Sender::Inside => flow.destination,
            Sender::Host | Sender::Outside | Sender::None => flow.source,
        };
        let near = match self.forwarding.resolve(towards) {
            NextHop::Station { port, .. } | NextHop::Unresolved { port, .. } => {
                Some(usize::from(port.0))
            }
            NextHop::Blackhole | NextHop::Down | NextHop::Host | NextHop::NoRoute => None,
        };
        for index in near.into_iter().chain(0..self.forwarding.links.len()) {
            let source = match (self.forwarding.links.get(index), flow.source) {
                (Some(link), IpAddr::V4(_)) => link.v4.map(IpAddr::V4),
                (Some(link), IpAddr::V6(_)) => link.v6.map(IpAddr::V6),
                (None, _) => None,
            };
            if let Some(source) = source
                && self.send_error(packet, error, source, sender)
            {
                return;
            }
        }
    }

    /// Sends an error from one of our addresses; false when policy does not let it leave from there.
    fn send_error(
        &mut self,
        packet: &Packet,
        error: icmp::Error,
        source: IpAddr,
        sender: Sender,
    ) -> bool {
        // Without a frame there is no error, as without budget.
        let Some(mut frame) = self.pool.alloc() else { return true };
        let len = match frame.set_len(icmp::MAX_ERROR_LEN) {
            Some(()) => icmp::emit_error(error, source, packet, frame.data_mut()),
            None => None,
        };
        let Some(len) = len else {
            self.free(frame);
            return true;
        };
        frame.truncate(len);
        let message = Packet(frame);
        let Some(flow) = flow_of(&message) else {
            self.free(message.0);
            return true;
        };
        if sender == Sender::Host {
            self.account.add(Row::Generated, 1);
            self.deliver_to_host(message);
            return true;
        }
        match self.spd.lookup(&flow.outbound()) {
            Some(found) if found.action == Action::Protect => {
                if self.choose(found.policy, &flow.outbound()).is_none() {
                    self.free(message.0);
                    return false;
                }
                self.account.add(Row::Generated, 1);
                self.protect(message, flow, found.policy, Origin::Generated, None);
                true
            }
            // What came in clear is answered in clear; what came out of a tunnel is not, as the error quotes it.
            found
                if sender == Sender::Outside
                    && found.is_none_or(|found| found.action == Action::Bypass) =>
            {
                self.account.add(Row::Generated, 1);
                self.forward(message, &flow, Origin::Generated, None);
                true
            }
            // Where policy forbids it from the address that it should have, it does not leave from another.
            Some(found) if found.action == Action::Discard => {
                self.free(message.0);
                true
            }
            // What came out of a tunnel is answered by that tunnel, also where its SA is not for ICMP (RFC 4301 §6.2).
            _ if sender == Sender::Inside
                && let Some(answer) = answered_traffic(&message)
                && let Some(policy) = self.sa_for(&answer) =>
            {
                self.account.add(Row::Generated, 1);
                self.protect(message, answer, policy, Origin::Generated, None);
                true
            }
            _ => {
                self.free(message.0);
                false
            }
        }
    }
}

/// The Ethernet header of an IP packet.
#[inline]
pub(crate) fn ethernet_header(
    packet: &[u8],
    source: Mac,
    destination: Mac,
) -> [u8; ethernet::HEADER_LEN] {
    let is_v4 = packet.first().is_some_and(|b| b >> 4 == 4);
    ethernet::emit(destination, source, if is_v4 { ethernet::IPV4 } else { ethernet::IPV6 })
}

/// Puts a VLAN tag between the stations of a frame and its type; whether there is room for it.
fn tag(frame: &mut Frame, vlan: NonZeroU16) -> bool {
    const STATIONS: usize = 12;
    if frame.len() < ethernet::HEADER_LEN || frame.push_front(ethernet::TAG_LEN).is_none() {
        return false;
    }
    if let Some(front) = frame.data_mut().first_chunk_mut::<{ STATIONS + ethernet::TAG_LEN }>() {
        front.copy_within(ethernet::TAG_LEN.., 0);
        front[STATIONS..STATIONS + 2].copy_from_slice(&ethernet::VLAN.to_be_bytes());
        front[STATIONS + 2..].copy_from_slice(&vlan.get().to_be_bytes());
    }
    true
}

/// How many of something may be sent now: a token bucket (RFC 4443 §2.4 f).
#[derive(Debug)]
pub(crate) struct Budget {
    per_second: u32,
    burst: u32,
    tokens: u32,
    /// Up to here the tokens were given.
    from: Instant,
}

impl Budget {
    pub(crate) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        Self { per_second, burst, tokens: burst, from: now }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.from);
        let due = elapsed.as_nanos() * u128::from(self.per_second) / 1_000_000_000;
        if due > 0 {
            let due = u32::try_from(due).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(due).min(self.burst);
            // Up to the last whole token: what is begun of the next is not lost to who asks often.
            let given = u64::from(due) * 1_000_000_000 / u64::from(self.per_second.max(1));
            self.from = self.from.checked_add(Duration::from_nanos(given)).unwrap_or(now);
            if self.tokens == self.burst {
                self.from = now;
            }
        }
        let Some(left) = self.tokens.checked_sub(1) else { return false };
        self.tokens = left;
        true
    }
}
