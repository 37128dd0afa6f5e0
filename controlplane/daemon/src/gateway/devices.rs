//! The devices of route-based children: what the workers call them, and which policies are theirs.

use super::Gateway;
use crate::policies::ChildKey;
use std::collections::BTreeMap;
use std::sync::Arc;
use worker::{Delivery, DeviceId, TunQueue, TunnelDevice};

impl Gateway {
    /// Takes the devices of route-based children: a queue of each, by interface ID.
    pub fn set_devices(&mut self, queues: &BTreeMap<u32, Arc<TunQueue>>) {
        for if_id in queues.keys() {
            self.device(*if_id);
        }
        for (if_id, (_, queue)) in &mut self.devices {
            *queue = queues.get(if_id).cloned();
        }
        self.devices_due = true;
        self.hand_over_policies();
    }

    /// What the workers call the device of an interface ID. One that is no longer configured keeps its number, for SAs that outlive their
    /// configuration; they are as many as interface IDs were ever configured.
    fn device(&mut self, if_id: u32) -> DeviceId {
        let next = DeviceId(u16::try_from(self.devices.len()).unwrap_or(u16::MAX));
        self.devices.entry(if_id).or_insert((next, None)).0
    }

    /// Where a child's decapsulated packets go.
    pub(super) fn delivery(&mut self, key: &ChildKey) -> Delivery {
        let mut connections = self.engine.config().connections.iter();
        let connection = connections.find(|c| c.name == key.connection);
        let child = connection.and_then(|c| c.children.iter().find(|c| c.name == key.child));
        let Some(child) = child else { return Delivery::Forward };
        let to_host = child.deliver_to_host;
        match child.if_id.map(|if_id| self.device(if_id)) {
            Some(device) if to_host => Delivery::DeviceOnly(device),
            Some(device) => Delivery::Device(device),
            None if to_host => Delivery::Host,
            None => Delivery::Forward,
        }
    }

    /// Tells the workers, if they do not know yet; a full ring is tried again at the next step.
    pub(super) fn hand_over_devices(&mut self) {
        if !self.devices_due {
            return;
        }
        let devices = self.devices.iter().filter_map(|(if_id, (id, queue))| {
            let queue = Arc::clone(queue.as_ref()?);
            Some(TunnelDevice { id: *id, queue, policies: self.policies.of_device(*if_id) })
        });
        match self.dataplane.set_tunnels(devices.collect()) {
            Ok(ticket) => {
                self.outstanding.push(ticket);
                self.devices_due = false;
            }
            Err(error) => tracing::warn!(%error, "devices not handed to the workers"),
        }
    }
}
