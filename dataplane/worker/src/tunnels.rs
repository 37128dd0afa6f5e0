//! The devices of route-based tunnels: what the host routes into one enters an SA of its children, and what such an SA brings for the
//! host itself comes out of it.
//!
//! ```text
//!   routing daemon, host ──► device ──► the children of this device ──► protect
//!                              ▲ our addresses, multicast, link-local
//!   SA of such a child ── open ┴─► everything else: forwarded, as out of any SA
//! ```
//!
//! A packet's device decides whose it is, not its addresses: two tunnels may have the same multicast groups and the same link-local
//! addresses.

use crate::account::WorkerDrop;
use crate::command::Delivery;
use crate::host::TunQueue;
use crate::ingress::flow_of;
use crate::packet::{Origin, Packet};
use crate::worker::{BURST, Worker};
use af_xdp::Frame;
use core::net::IpAddr;
use ipsec::drop_cause::DropCause;
use ipsec::flow::{Flow, FlowKey};
use ipsec::sa::PairId;
use ipsec::selector::{PolicyId, Selector};
use stats::Worker as Row;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Turns of a busy worker between two looks at its devices, each of which is a system call.
pub(crate) const BUSY_TURNS: u64 = 8;

/// The selector that packets of a device wait for: one negotiation is for all of them.
pub(crate) const ANY_SELECTOR: u16 = u16::MAX;

/// Names a device within a dataplane, for as long as that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u16);

/// The device of one or more route-based children.
#[derive(Clone, Debug)]
pub struct TunnelDevice {
    /// Its name here.
    pub id: DeviceId,
    /// A queue of it. One worker reads it, all write to it.
    pub queue: Arc<TunQueue>,
    /// Its children's policies, and all that they are for: the first that fits takes a packet.
    pub policies: Vec<(PolicyId, Vec<Selector>)>,
}

impl TunnelDevice {
    fn policy(&self, key: &FlowKey) -> Option<PolicyId> {
        let fits = |selectors: &[Selector]| selectors.iter().any(|s| s.matches(key));
        self.policies.iter().find(|(_, selectors)| fits(selectors)).map(|(policy, _)| *policy)
    }
}

impl Worker {
    /// The devices that this worker reads.
    fn reads(&self, id: DeviceId) -> bool {
        usize::from(id.0) % self.shared.len() == self.core.index()
    }

    /// What poll() waits for.
    pub(crate) fn tunnel_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tunnels.iter().filter(|tunnel| self.reads(tunnel.id)).map(|tunnel| tunnel.queue.fd())
    }

    /// One burst of each device that this worker reads, unless there is much else to do.
    #[cold]
    pub(crate) fn read_tunnels(&mut self, frames: &mut Vec<Frame>, busy: bool) -> usize {
        if busy && !self.account.get(Row::Turns).is_multiple_of(BUSY_TURNS) {
            return 0;
        }
        let mut count = 0;
        // By index, as commands that are carried out on the way may change them.
        let mut at = 0;
        while let Some(tunnel) = self.tunnels.get(at) {
            at += 1;
            let id = tunnel.id;
            if !self.reads(id) {
                continue;
            }
            while frames.len() < BURST {
                // Without a frame to read into, packets stay with the host.
                let Some(mut frame) = self.pool.alloc() else { break };
                let room = frame.tailroom();
                let read = match (frame.set_len(room), self.tunnels.get(at - 1)) {
                    (Some(()), Some(tunnel)) => tunnel.queue.read(frame.data_mut()),
                    _ => None,
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
            if frames.is_empty() {
                continue;
            }
            count += frames.len();
            self.apply_commands_before(frames.len());
            for frame in frames.drain(..) {
                self.take_tunnel_packet(Packet(frame), id);
            }
            self.flush();
        }
        count
    }

    /// A packet that the host put into a device leaves through an SA of its children, or not at all.
    fn take_tunnel_packet(&mut self, packet: Packet, id: DeviceId) {
        let Some(flow) = flow_of(&packet) else {
            return self.drop_packet(packet, DropCause::MalformedHeader);
        };
        let tunnel = self.tunnels.iter().find(|tunnel| tunnel.id == id);
        match tunnel.and_then(|tunnel| tunnel.policy(&flow.outbound())) {
            Some(policy) => self.protect(packet, flow, policy, Origin::Device, None),
            None => self.drop_packet(packet, DropCause::NoPolicy),
        }
    }

    /// A packet of a device that has waited for an SA.
    pub(crate) fn resume_tunnel_packet(&mut self, packet: Packet, flow: Flow, policy: PolicyId) {
        let known =
            |tunnel: &TunnelDevice| tunnel.policies.iter().any(|(known, _)| *known == policy);
        if self.tunnels.iter().any(known) {
            self.protect(packet, flow, policy, Origin::Device, None);
        } else {
            self.drop_packet(packet, DropCause::NoPolicy);
        }
    }

    /// The device that the packets of a pair come out of.
    pub(crate) fn device_of(&self, pair: PairId) -> Option<DeviceId> {
        let spi = self.pairs.get(&pair)?.inbound?;
        match self.inbound.get(spi.slot())?.as_ref()?.delivery {
            Delivery::Device(id) | Delivery::DeviceOnly(id) => Some(id),
            Delivery::Forward | Delivery::Host => None,
        }
    }

    /// Gives a packet to the host by a device; by the host port, where that is not there yet.
    pub(crate) fn deliver_to_device(&mut self, packet: Packet, id: DeviceId) {
        let Some(tunnel) = self.tunnels.iter().find(|tunnel| tunnel.id == id) else {
            return self.deliver_to_host(packet);
        };
        match tunnel.queue.write(&packet) {
            Ok(()) => {
                self.account.add(Row::ToHost, 1);
                self.free(packet.0);
            }
            Err(_) => self.drop_packet(packet, WorkerDrop::HostFull),
        }
    }
}

/// Whether an address is nobody's beyond a link: what is sent to it is for who is at this end of the tunnel.
pub(crate) fn is_of_a_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_multicast() || a.is_link_local() || a.is_broadcast(),
        IpAddr::V6(a) => a.is_multicast() || a.is_unicast_link_local(),
    }
}
