//! The host's tables follow the gateway, and the gateway the host's: addresses, routes, devices, neighbours and the fail-closed rules.

use super::{Daemon, HOST_MTU, MARK, RunError, TABLE, device_name};
use crate::config::OnFailure;
use crate::host::netlink::Route;
use crate::host::{closed, mirror, proxy, tun};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;
use worker::TunQueue;

impl Daemon {
    /// Has the kernel answer on our links for addresses behind tunnels.
    pub(super) fn follow_proxies(&mut self) {
        let ports: Vec<u32> = self.ports.indices().into_iter().flatten().collect();
        let behind = proxy::wanted(&self.view, &ports, &self.gateway.behind_tunnels());
        self.proxies.follow(&mut self.requests, &self.view, behind);
    }

    /// Makes the devices of route-based children, and asks what is routed to them.
    ///
    /// What comes from a port and is routed there is steered to the workers by that; what the host itself puts in, the workers read.
    pub(super) fn follow_tunnels(&mut self) -> Result<(), RunError> {
        let config = self.gateway.engine().config();
        let children = config.connections.iter().flat_map(|c| &c.children);
        let wanted: BTreeSet<u32> = children.filter_map(|child| child.if_id).collect();
        let before = self.tunnels.len();
        self.tunnels.retain(|id, _| wanted.contains(id));
        let mut changed = self.tunnels.len() != before;
        for id in wanted {
            if self.tunnels.contains_key(&id) {
                continue;
            }
            let name = device_name(id);
            let opened = tun::open(&name, 1)?.pop();
            let index = self.requests.view()?.interface(&name);
            if let (Some(queue), Some(index)) = (opened, index) {
                tun::quieten(&name, true);
                self.requests.bring_up(index, HOST_MTU.into())?;
                self.tunnels.insert(id, (Arc::new(TunQueue::new(queue)), index));
                changed = true;
            }
        }
        if changed {
            self.view = self.requests.view()?;
            let queues = self.tunnels.iter().map(|(id, (queue, _))| (*id, Arc::clone(queue)));
            self.gateway.set_devices(&queues.collect());
        }
        let devices = self.tunnels.iter().map(|(id, (_, index))| (*id, *index)).collect();
        // Who is behind a tunnel is no neighbour, whatever prefix the device's address has.
        for (interface, address, length) in &mut self.view.addresses {
            if self.tunnels.values().any(|(_, index)| index == interface) {
                *length = if address.is_ipv4() { 32 } else { 128 };
            }
        }
        self.gateway.set_routed(mirror::routed(&self.view, &devices));
        Ok(())
    }

    /// Virtual addresses come to the TUN and go.
    pub(super) fn follow_addresses(&mut self) -> Result<(), RunError> {
        let wanted = self.gateway.virtual_addresses();
        for address in self.addresses.difference(&wanted) {
            self.requests.remove_address(self.tun, *address)?;
        }
        for address in wanted.difference(&self.addresses) {
            self.requests.add_address(self.tun, *address)?;
        }
        self.addresses = wanted;
        Ok(())
    }

    /// Brings everything that depends on the host's tables or the policies up to date.
    pub(super) fn follow_host(&mut self) -> Result<(), RunError> {
        self.follow_addresses()?;
        self.view = self.requests.view()?;
        // First, as a peer may send what the host answers as soon as its SA is there.
        let policies = self.gateway.policies().without_devices();
        self.add_host_routes(&mirror::host_routes(&self.view, &policies, self.tun))?;
        self.ports.follow(&self.view, self.gateway.dataplane(), Instant::now());
        self.loaded.look_around(&self.view, &mut self.gateway);
        self.follow_tunnels()?;
        self.gateway.set_connected(&mirror::connected(&self.view));
        // The kernel has forgotten what it kept for a device that is gone.
        self.managed.retain(|(interface, _)| self.view.links.contains_key(interface));
        let indices = self.ports.indices();
        for hop in mirror::next_hops(&self.view, &indices, &self.gateway.peers()) {
            self.resolve(hop);
        }
        self.follow_proxies();
        let table = mirror::forwarding(&self.view, &indices);
        self.gateway.set_forwarding(table);
        let policies = self.gateway.policies().ordered();
        let without_devices = self.gateway.policies().without_devices();
        let wanted = mirror::host_routes(&self.view, &without_devices, self.tun);
        self.add_host_routes(&wanted)?;
        let settings = self.loaded.store.settings();
        let ike_ports = [settings.port, settings.port_nat_t];
        if self.section.on_failure == OnFailure::Closed {
            let (guarded, exempt) = self.gateway.policies().guarded();
            let devices: Vec<_> = core::iter::once(self.host.clone())
                .chain(self.tunnels.keys().map(|id| device_name(*id)))
                .collect();
            closed::install(&guarded, &exempt, &devices, MARK, ike_ports)?;
        }
        self.ports.steering.update(&mirror::steering(&self.view, &policies, ike_ports))?;
        // One for the same prefix was replaced; IPv6 would remove what replaced it.
        let kept = |old: &Route| {
            wanted.iter().any(|r| (r.destination, r.length) == (old.destination, old.length))
        };
        for route in self.routes.iter().filter(|r| !kept(r)) {
            self.requests.remove_route(TABLE, route)?;
        }
        self.routes = wanted;
        Ok(())
    }

    /// Leads what is protected to the TUN, where it is not yet.
    pub(super) fn add_host_routes(&mut self, wanted: &[Route]) -> Result<(), RunError> {
        // Exceptions first: the host's links are never led there, not even for a moment.
        for throw in [true, false] {
            for route in wanted.iter().filter(|route| route.throw == throw) {
                if !self.routes.contains(route) {
                    self.requests.add_route(TABLE, route)?;
                    let same =
                        |r: &Route| (r.destination, r.length) == (route.destination, route.length);
                    self.routes.retain(|r| !same(r));
                    self.routes.push(route.clone());
                }
            }
        }
        Ok(())
    }
}
