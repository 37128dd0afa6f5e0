//! Where packets go: routes, neighbours, the gateway's own addresses, and the links of its ports.
//!
//! The control thread makes the table and hands it over whole; its parts are shared, so that one new neighbour costs no copy of
//! the routes. Workers only read it.

use crate::config::PortId;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use ipsec::classify::LocalAddresses;
use prefix_trie::PrefixMap;
use std::collections::HashMap;
use std::sync::Arc;
use wire::ethernet::Mac;

/// What a route says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Dropped, without an answer.
    Blackhole,
    /// Given to the host port: the kernel decides.
    Host,
    /// The destination is a neighbour on this port.
    OnLink(PortId),
    /// Through a gateway on this port.
    Via(PortId, IpAddr),
}

/// Routes by longest prefix.
#[derive(Clone, Default)]
pub struct RouteTable {
    v4: PrefixMap<(u32, u8), Route>,
    v6: PrefixMap<(u128, u8), Route>,
}

impl core::fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "RouteTable({} v4, {} v6)", self.v4.len(), self.v6.len())
    }
}

impl RouteTable {
    /// An empty one: nothing is routed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces the route of a prefix; bits of `address` beyond `len` are ignored. `None`, and nothing
    /// changed, when `len` exceeds the address.
    pub fn insert(&mut self, address: IpAddr, len: u8, route: Route) -> Option<()> {
        match address {
            IpAddr::V4(a) if len <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                self.v4.insert((u32::from(a) & mask, len), route);
            }
            IpAddr::V6(a) if len <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                self.v6.insert((u128::from(a) & mask, len), route);
            }
            _ => return None,
        }
        Some(())
    }

    /// The route of the longest prefix that covers `destination`.
    #[inline]
    pub fn lookup(&self, destination: IpAddr) -> Option<Route> {
        match destination {
            IpAddr::V4(a) => self.v4.get_lpm(&(a.into(), 32)).map(|(_, r)| *r),
            IpAddr::V6(a) => self.v6.get_lpm(&(a.into(), 128)).map(|(_, r)| *r),
        }
    }
}

/// Link-layer addresses of neighbours. One that is not here is unresolved: packets to it wait.
#[derive(Clone, Debug, Default)]
pub struct NeighbourTable(HashMap<(PortId, IpAddr), Mac>);

impl NeighbourTable {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a neighbour.
    pub fn insert(&mut self, port: PortId, address: IpAddr, mac: Mac) {
        self.0.insert((port, address), mac);
    }

    /// Removes a neighbour.
    pub fn remove(&mut self, port: PortId, address: IpAddr) {
        self.0.remove(&(port, address));
    }

    /// The neighbour's address.
    #[inline]
    pub fn get(&self, port: PortId, address: IpAddr) -> Option<Mac> {
        self.0.get(&(port, address)).copied()
    }
}

/// The link of one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Our station address there.
    pub mac: Mac,
    /// Longest IP packet, in bytes.
    pub mtu: u16,
    /// Whether frames can be sent there: the device exists, is up and has a carrier.
    pub up: bool,
    /// Our IPv4 address there: the source of ICMP errors.
    pub v4: Option<Ipv4Addr>,
    /// Our IPv6 address there: the source of ICMP errors.
    pub v6: Option<Ipv6Addr>,
}

/// All that decides where a packet goes. Made by the control thread, shared by the workers.
#[derive(Clone, Debug, Default)]
pub struct ForwardingTable {
    /// Routes.
    pub routes: Arc<RouteTable>,
    /// Neighbours.
    pub neighbours: Arc<NeighbourTable>,
    /// Our addresses: ESP, AH and UDP-encapsulated ESP to them is ours to open, everything else to them is the host's.
    pub addresses: Arc<LocalAddresses>,
    /// The links, indexed by [`PortId`]; a port without one sends nothing.
    pub links: Arc<[Link]>,
}

/// Where a destination is reached, as far as the table knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Dropped by a blackhole route.
    Blackhole,
    /// The port is without carrier, down or gone.
    Down,
    /// The host port.
    Host,
    /// Nothing leads there.
    NoRoute,
    /// A frame can be sent.
    Station {
        /// Through this port,
        port: PortId,
        /// from this station,
        source: Mac,
        /// to that one.
        destination: Mac,
        /// Longest IP packet, in bytes.
        mtu: u16,
    },
    /// The neighbour's link-layer address is not known yet.
    Unresolved {
        /// Its port.
        port: PortId,
        /// Its address.
        address: IpAddr,
        /// Longest IP packet, in bytes.
        mtu: u16,
    },
}

impl ForwardingTable {
    /// The link of a port.
    #[inline]
    pub fn link(&self, port: PortId) -> Option<&Link> {
        self.links.get(usize::from(port.0))
    }

    /// Where `destination` is reached.
    #[inline]
    pub fn resolve(&self, destination: IpAddr) -> NextHop {
        if self.addresses.contains(destination) {
            return NextHop::Host;
        }
        let (port, address) = match self.routes.lookup(destination) {
            None => return NextHop::NoRoute,
            Some(Route::Blackhole) => return NextHop::Blackhole,
            Some(Route::Host) => return NextHop::Host,
            Some(Route::OnLink(port)) => (port, destination),
            Some(Route::Via(port, gateway)) => (port, gateway),
        };
        self.neighbour(port, address)
    }

    /// How a neighbour is reached.
    #[inline]
    pub fn neighbour(&self, port: PortId, address: IpAddr) -> NextHop {
        let Some(link) = self.link(port) else {
            return NextHop::NoRoute;
        };
        if !link.up {
            return NextHop::Down;
        }
        match self.neighbours.get(port, address) {
            Some(mac) => {
                NextHop::Station { port, source: link.mac, destination: mac, mtu: link.mtu }
            }
            None => NextHop::Unresolved { port, address, mtu: link.mtu },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_decides_in_both_families() {
        let mut routes = RouteTable::new();
        let on = |n| Route::OnLink(PortId(n));
        for (prefix, len, route) in [
            ("0.0.0.0", 0, on(0)),
            ("10.77.0.9", 16, on(1)),
            ("10.77.1.0", 24, on(2)),
            ("10.77.1.7", 32, Route::Blackhole),
            ("fd77::", 16, on(3)),
            ("fd77:1::1", 128, Route::Host),
        ] {
            routes.insert(ip(prefix), len, route).unwrap();
        }
        for (destination, expected) in [
            ("192.0.2.1", Some(on(0))),
            ("10.77.9.9", Some(on(1))),
            ("10.77.1.9", Some(on(2))),
            ("10.77.1.7", Some(Route::Blackhole)),
            ("fd77:1::2", Some(on(3))),
            ("fd77:1::1", Some(Route::Host)),
            ("2001:db8::1", None),
        ] {
            assert_eq!(routes.lookup(ip(destination)), expected, "{destination}");
        }
        assert_eq!(routes.insert(ip("10.0.0.0"), 33, on(0)), None);
        assert_eq!(routes.insert(ip("fd00::"), 129, on(0)), None);
    }
}
