//! Several ports on one device: VLANs of it, and what has no tag. One of them has the sockets and is the trunk; the others send by it and
//! have what comes to it with their tag.

use crate::account::WorkerDrop;
use crate::config::PortId;
use crate::packet::Packet;
use crate::worker::{PortState, Worker};
use core::num::NonZeroU16;
use wire::ethernet;

impl Worker {
    /// Has `member` share the sockets of `trunk`, a port on the same device with another VLAN. Before the worker runs.
    pub fn share_port(&mut self, member: PortId, trunk: PortId) {
        if usize::from(trunk.0) < self.ports.len()
            && let Some(state) = self.ports.get_mut(usize::from(member.0))
        {
            state.trunk = Some(trunk);
            self.ports[usize::from(trunk.0)].members.push(member);
        }
    }

    /// A frame of a trunk is one of the port whose tag it has.
    #[cold]
    pub(crate) fn take_trunk_frame(&mut self, packet: Packet, trunk: PortId) {
        let vlan = match ethernet::Frame::parse(&packet) {
            Ok(frame) if !frame.is_service_tagged() => frame.vlans().next().unwrap_or(0),
            _ => 0,
        };
        let has_vlan = |id: &PortId| {
            let state = self.ports.get(usize::from(id.0));
            state.is_some_and(|s| s.vlan.map_or(0, NonZeroU16::get) == vlan)
        };
        let members = self.ports[usize::from(trunk.0)].members.iter().copied();
        let Some(id) = members.chain([trunk]).find(has_vlan) else {
            return self.drop_packet(packet, WorkerDrop::WrongVlan);
        };
        let PortState { vlan, side, .. } = self.ports[usize::from(id.0)];
        let station = self.forwarding.link(id).map(|link| link.mac);
        self.take_frame(packet, station, vlan, side);
    }
}
