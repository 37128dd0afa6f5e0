//! What the workers and the steering program are told of the host: the forwarding table, the
//! rules of which packets to take, and the routes that bring the host's own traffic to the TUN.

use super::netlink::{HostView, Link as HostLink, Route as HostRoute};
use af_xdp::steering::{HostTraffic, Prefix, Tables};
use core::net::IpAddr;
use ipsec::selector::{Action, AddressRange, Policy};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use worker::{
    ForwardingTable, Link, LocalAddresses, Mac, NeighbourTable, PortId, Route, RouteTable,
};

/// Turns the host's view into the workers' table. `ports` are interface indices in the order of
/// their [`PortId`], `None` for one whose device is not there; what leaves by any other device is given to the host port.
pub fn forwarding(view: &HostView, ports: &[Option<u32>]) -> ForwardingTable {
    let by_index: BTreeMap<u32, PortId> = ports
        .iter()
        .enumerate()
        .filter_map(|(n, index)| Some(((*index)?, PortId(u16::try_from(n).ok()?))))
        .collect();
    let mut routes = RouteTable::new();
    let mut best: BTreeMap<(IpAddr, u8), u32> = BTreeMap::new();
    for route in &view.routes {
        let key = (route.destination, route.length);
        if best.get(&key).is_some_and(|metric| *metric <= route.metric) {
            continue;
        }
        best.insert(key, route.metric);
        let said = match (route.refuse, by_index.get(&route.interface), route.gateway) {
            (true, ..) => Route::Blackhole,
            (false, None, _) => Route::Host,
            (false, Some(port), None) => Route::OnLink(*port),
            (false, Some(port), Some(gateway)) => Route::Via(*port, gateway),
        };
        // `None` is a prefix length that the kernel would not have.
        let _ = routes.insert(route.destination, route.length, said);
    }
    let mut neighbours = NeighbourTable::new();
    for ((interface, address), mac) in &view.neighbours {
        if let Some(port) = by_index.get(interface) {
            neighbours.insert(*port, *address, Mac(*mac));
        }
    }
    let links: Vec<Link> = ports
        .iter()
        .map(|index| {
            let link = index.and_then(|index| view.links.get(&index));
            let own = |v4: bool| {
                view.addresses
                    .iter()
                    .find(|(i, a, _)| Some(*i) == *index && a.is_ipv4() == v4 && !link_local(*a))
                    .map(|(_, a, _)| *a)
            };
            Link {
                mac: Mac(link.map_or([0; 6], |link| link.mac)),
                mtu: link.map_or(0, |link| link.mtu.min(af_xdp::MAX_MTU) as u16),
                up: link.is_some_and(HostLink::has_carrier),
                v4: own(true).and_then(|a| if let IpAddr::V4(a) = a { Some(a) } else { None }),
                v6: own(false).and_then(|a| if let IpAddr::V6(a) = a { Some(a) } else { None }),
            }
        })
        .collect();
    ForwardingTable {
        routes: Arc::new(routes),
        neighbours: Arc::new(neighbours),
        addresses: Arc::new(LocalAddresses::new(view.addresses.iter().map(|(_, a, _)| *a))),
        links: links.into(),
    }
}

/// What is routed to the devices of route-based children, by their numbers: of each address the route with the longest prefix counts.
pub fn routed(view: &HostView, devices: &BTreeMap<u32, u32>) -> BTreeMap<u32, Vec<AddressRange>> {
    let mut best: BTreeMap<(IpAddr, u8), &HostRoute> = BTreeMap::new();
    // In order of the first address, the wider before what is in it; the lowest metric of one prefix.
    for route in &view.routes {
        let at = best.entry((route.destination, route.length)).or_insert(route);
        if route.metric < at.metric {
            *at = route;
        }
    }
    let mut found: BTreeMap<u32, Vec<AddressRange>> = BTreeMap::new();
    for v4 in [true, false] {
        let routes = best.values().filter(|route| route.destination.is_ipv4() == v4);
        let mut painted = Painted { v4, at: 0, open: Vec::new(), found: &mut found };
        for route in routes {
            if let Some(range) = AddressRange::prefix(route.destination, route.length) {
                let device = devices.iter().find(|(_, index)| **index == route.interface);
                painted.begin(
                    number(range.first()),
                    number(range.last()),
                    device.map(|(id, _)| *id),
                );
            }
        }
        painted.end(None);
    }
    found
}

/// Address space that nested prefixes are painted on, from left to right.
struct Painted<'a> {
    v4: bool,
    /// Nothing below is open any more.
    at: u128,
    /// Prefixes around `at`, the innermost last: their last address, and what they lead to.
    open: Vec<(u128, Option<u32>)>,
    found: &'a mut BTreeMap<u32, Vec<AddressRange>>,
}

impl Painted<'_> {
    fn begin(&mut self, first: u128, last: u128, leads_to: Option<u32>) {
        self.end(Some(first));
        if let Some((_, around)) = self.open.last().copied()
            && self.at < first
        {
            self.paint(first - 1, around);
        }
        self.at = first;
        self.open.push((last, leads_to));
    }

    /// Ends the prefixes before `first`, or all.
    fn end(&mut self, first: Option<u128>) {
        while let Some((last, leads_to)) =
            self.open.pop_if(|(last, _)| first.is_none_or(|f| *last < f))
        {
            if self.at <= last {
                self.paint(last, leads_to);
                self.at = last.saturating_add(1);
                if last == u128::MAX {
                    self.open.clear();
                }
            }
        }
    }

    fn paint(&mut self, last: u128, leads_to: Option<u32>) {
        let address = |bits: u128| match self.v4 {
            true => IpAddr::V4(u32::try_from(bits).unwrap_or(u32::MAX).into()),
            false => IpAddr::V6(bits.into()),
        };
        if let Some(id) = leads_to
            && let Some(range) = AddressRange::new(address(self.at), address(last))
        {
            self.found.entry(id).or_default().push(range);
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

/// What the steering program decides by.
pub fn steering(view: &HostView, policies: &[Policy], ike_ports: [u16; 2]) -> Tables {
    let mut tables = Tables::new();
    tables.encapsulation_ports = BTreeSet::from([ike_ports[1]]);
    let protects = |policy: &&Policy| policy.action != Action::Bypass;
    let connected = connected(view);
    for selector in policies.iter().filter(protects).flat_map(|p| &p.selectors) {
        for near in prefixes(&selector.local) {
            for far in prefixes(&selector.remote) {
                tables.protect(near, far);
            }
        }
    }
    for (_, address, _) in &view.addresses {
        // A policy for everything would bring the neighbours' packets for the host here as well,
        // only to be given back: those stay with the kernel, whose fail-closed rules guard them.
        let named = policies.iter().filter(protects).flat_map(|p| &p.selectors).any(|selector| {
            selector.local.contains(*address)
                && !connected
                    .iter()
                    .any(|link| link.contains(*address) && covers(&selector.remote, link))
        });
        let traffic = if named { HostTraffic::Guarded } else { HostTraffic::Kernel };
        tables.local.insert(*address, traffic);
    }
    tables
}

/// The prefixes of the host's links, without those of one address.
pub fn connected(view: &HostView) -> Vec<AddressRange> {
    let mut found: Vec<_> = view
        .addresses
        .iter()
        .filter(|(_, address, _)| !link_local(*address) && !address.is_loopback())
        .filter_map(|(_, address, length)| AddressRange::prefix(*address, *length))
        .filter(|range| range.first() != range.last())
        .collect();
    found.sort_unstable_by_key(|range| (range.first(), range.last()));
    found.dedup();
    found
}

/// The routes that bring what the host itself sends to the TUN, as charon installs them: to the
/// remote side of each PROTECT policy, from an address of ours that its local side holds.
pub fn host_routes(view: &HostView, policies: &[Policy], tun: u32) -> Vec<HostRoute> {
    let mut routes: BTreeMap<(IpAddr, u8), HostRoute> = BTreeMap::new();
    for selector in
        policies.iter().filter(|p| p.action == Action::Protect).flat_map(|p| &p.selectors)
    {
        let Some(source) = view
            .addresses
            .iter()
            .map(|(_, address, _)| *address)
            .find(|address| selector.local.contains(*address) && !link_local(*address))
        else {
            continue;
        };
        for prefix in prefixes(&selector.remote) {
            routes.insert(
                (prefix.address(), prefix.length()),
                HostRoute {
                    destination: prefix.address(),
                    length: prefix.length(),
                    gateway: None,
                    interface: tun,
                    source: Some(source),
                    metric: 0,
                    refuse: false,
                    throw: false,
                },
            );
        }
        // The host's own links stay reachable where the remote side covers them.
        for link in connected(view).iter().filter(|link| covers(&selector.remote, link)) {
            for prefix in prefixes(link) {
                routes.entry((prefix.address(), prefix.length())).or_insert(HostRoute {
                    destination: prefix.address(),
                    length: prefix.length(),
                    gateway: None,
                    interface: 0,
                    source: None,
                    metric: 0,
                    refuse: false,
                    throw: true,
                });
            }
        }
    }
    routes.into_values().collect()
}

/// The next hops that tunnels and policies use, to be kept resolved: (interface, address).
pub fn next_hops(
    view: &HostView,
    ports: &[Option<u32>],
    peers: &[IpAddr],
) -> BTreeSet<(u32, IpAddr)> {
    peers
        .iter()
        .filter_map(|peer| {
            let route = view.route(*peer)?;
            ports
                .contains(&Some(route.interface))
                .then_some((route.interface, route.gateway.unwrap_or(*peer)))
        })
        .chain(view.routes.iter().filter_map(|route| {
            let gateway = route.gateway?;
            ports.contains(&Some(route.interface)).then_some((route.interface, gateway))
        }))
        .collect()
}

fn covers(wide: &AddressRange, narrow: &AddressRange) -> bool {
    wide.contains(narrow.first()) && wide.contains(narrow.last())
}

fn link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

/// The fewest prefixes that make up a range.
pub fn prefixes(range: &AddressRange) -> Vec<Prefix> {
    let (width, first, last) = match (range.first(), range.last()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (32, u128::from(u32::from(a)), u128::from(u32::from(b))),
        (IpAddr::V6(a), IpAddr::V6(b)) => (128, u128::from(a), u128::from(b)),
        _ => return Vec::new(),
    };
    let mut found = Vec::new();
    let mut at = first;
    loop {
        // As many low bits as are zero in `at` and still end at or before `last`.
        let mut bits = at.trailing_zeros().min(width);
        let end = |bits: u32| match bits {
            128 => u128::MAX,
            _ => at | ((1u128 << bits) - 1),
        };
        while end(bits) > last {
            bits -= 1;
        }
        let address = if width == 32 {
            IpAddr::V4(u32::try_from(at).unwrap_or(u32::MAX).into())
        } else {
            IpAddr::V6(at.into())
        };
        let length = u8::try_from(width - bits).unwrap_or(0);
        found.extend(Prefix::new(address, length));
        if end(bits) >= last {
            return found;
        }
        at = end(bits) + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv6Addr;

    fn range(first: &str, last: &str) -> AddressRange {
        AddressRange::new(first.parse().unwrap(), last.parse().unwrap()).unwrap()
    }

    fn text(range: &AddressRange) -> Vec<String> {
        prefixes(range).iter().map(|p| format!("{}/{}", p.address(), p.length())).collect()
    }

    #[test]
    fn a_route_names_a_tunnel_by_its_device_and_the_longest_prefix_counts() {
        let route = |text: &str, interface, metric| {
            let (address, length) = text.split_once('/').unwrap();
            HostRoute {
                destination: address.parse().unwrap(),
                length: length.parse().unwrap(),
                gateway: None,
                interface,
                source: None,
                metric,
                refuse: false,
                throw: false,
            }
        };
        let view = HostView {
            routes: vec![
                route("10.2.0.0/16", 12, 0),
                route("10.0.0.0/8", 11, 0),
                route("10.2.3.0/24", 11, 20),
                route("10.2.3.0/24", 2, 10),
                route("192.0.2.0/24", 2, 0),
                route("::/0", 12, 0),
                route("fd00::/16", 2, 0),
            ],
            ..HostView::default()
        };
        let found = routed(&view, &BTreeMap::from([(1, 11), (2, 12), (3, 13)]));
        let ranges =
            |list: &[(&str, &str)]| list.iter().map(|(a, b)| range(a, b)).collect::<Vec<_>>();
        assert_eq!(
            found[&1],
            ranges(&[("10.0.0.0", "10.1.255.255"), ("10.3.0.0", "10.255.255.255")])
        );
        assert_eq!(
            found[&2],
            ranges(&[
                ("10.2.0.0", "10.2.2.255"),
                ("10.2.4.0", "10.2.255.255"),
                ("::", "fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
                ("fd01::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ])
        );
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_range_is_the_fewest_prefixes() {
        assert_eq!(text(&range("10.0.0.0", "10.0.0.255")), ["10.0.0.0/24"]);
        assert_eq!(text(&range("0.0.0.0", "255.255.255.255")), ["0.0.0.0/0"]);
        assert_eq!(
            text(&range("10.0.0.1", "10.0.0.6")),
            ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/31", "10.0.0.6/32"]
        );
        assert_eq!(text(&range("255.255.255.254", "255.255.255.255")), ["255.255.255.254/31"]);
        let all = AddressRange::prefix(Ipv6Addr::UNSPECIFIED.into(), 0).unwrap();
        assert_eq!(text(&all), ["::/0"]);
        assert_eq!(text(&range("::", "fd00::")).last().unwrap(), "fd00::/128");
        assert_eq!(text(&range("fd00::1", "fd00::1")), ["fd00::1/128"]);
    }
}
