//! The kernel's links, addresses, routes and neighbours, read and changed over rtnetlink.

use super::HostError;
use core::net::IpAddr;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

/// By whom a proxied neighbour was asked for, as `ip neighbour show proxy` has it; a number that no routing daemon is known by.
const OURS: RouteProtocol = RouteProtocol::Other(220);

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Name.
    pub name: String,
    /// Ethernet address, zero where the device has none.
    pub mac: [u8; 6],
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Carrier present.
    pub running: bool,
}

impl Link {
    /// Whether frames can be sent by it.
    pub fn has_carrier(&self) -> bool {
        self.up && self.running
    }
}

/// A route of the main or local table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Prefix.
    pub destination: IpAddr,
    /// Prefix length in bits.
    pub length: u8,
    /// Next hop, `None` on the link itself.
    pub gateway: Option<IpAddr>,
    /// Device, 0 for none.
    pub interface: u32,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Lower wins among equal prefixes.
    pub metric: u32,
    /// Packets are refused rather than forwarded (blackhole, unreachable, prohibit).
    pub refuse: bool,
    /// The lookup goes on in the next table.
    pub throw: bool,
}

/// What the kernel knows at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostView {
    /// By interface index.
    pub links: BTreeMap<u32, Link>,
    /// Interface, address, prefix length.
    pub addresses: Vec<(u32, IpAddr, u8)>,
    /// The main table.
    pub routes: Vec<Route>,
    /// Resolved neighbours.
    pub neighbours: BTreeMap<(u32, IpAddr), [u8; 6]>,
}

impl HostView {
    /// Index of the device called `name`.
    pub fn interface(&self, name: &str) -> Option<u32> {
        self.links.iter().find(|(_, link)| link.name == name).map(|(index, _)| *index)
    }

    /// Whether `address` is one of the host's own.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(_, own, _)| *own == address)
    }

    /// The route of the longest prefix, then the lowest metric, towards `destination`.
    pub fn route(&self, destination: IpAddr) -> Option<&Route> {
        self.routes
            .iter()
            .filter(|route| {
                ipsec::selector::AddressRange::prefix(route.destination, route.length)
                    .is_some_and(|range| range.contains(destination))
            })
            .max_by_key(|route| (route.length, core::cmp::Reverse(route.metric)))
    }
}

/// A socket for requests, each answered before the next.
pub struct Requests {
    socket: Socket,
    sequence: u32,
}

/// A socket that says when something changed.
pub struct Changes {
    socket: Socket,
}

fn io(what: &'static str) -> impl Fn(std::io::Error) -> HostError {
    move |source| HostError::Netlink { what, source }
}

impl Requests {
    /// Opens the socket in the network namespace of the calling thread.
    pub fn open() -> Result<Self, HostError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(io("open"))?;
        socket.bind_auto().map_err(io("bind"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(io("connect"))?;
        Ok(Self { socket, sequence: 0 })
    }

    fn request(
        &mut self,
        what: &'static str,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<(), HostError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(io(what))?;
        loop {
            let (answer, _) = self.socket.recv_from_full().map_err(io(what))?;
            let mut rest = answer.as_slice();
            while rest.len() >= 16 {
                let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                if length < 16 || length > rest.len() {
                    break;
                }
                let parsed = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]);
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
                // A message of a kind the parser does not know is not ours to act on.
                let Ok(parsed) = parsed else { continue };
                if parsed.header.sequence_number != self.sequence {
                    continue;
                }
                match parsed.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(()),
                            Some(_) => Err(io(what)(error.to_io())),
                        };
                    }
                    NetlinkPayload::InnerMessage(inner) => each(inner),
                    _ => {}
                }
            }
        }
    }

    /// Reads links, addresses, the main table's routes and the resolved neighbours.
    pub fn view(&mut self) -> Result<HostView, HostError> {
        let mut view = HostView::default();
        let dump = NLM_F_DUMP;
        self.request(
            "dump links",
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            dump,
            |m| {
                if let RouteNetlinkMessage::NewLink(link) = m {
                    view.links.insert(link.header.index, link_of(&link));
                }
            },
        )?;
        self.request(
            "dump addresses",
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            dump,
            |m| {
                if let RouteNetlinkMessage::NewAddress(address) = m {
                    view.addresses.extend(address_of(&address));
                }
            },
        )?;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            self.request("dump routes", RouteNetlinkMessage::GetRoute(query), dump, |m| {
                if let RouteNetlinkMessage::NewRoute(route) = m {
                    view.routes.extend(routes_of(&route));
                }
            })?;
        }
        self.request(
            "dump neighbours",
            RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
            dump,
            |m| {
                if let RouteNetlinkMessage::NewNeighbour(neighbour) = m
                    && let Some((key, mac)) = neighbour_of(&neighbour)
                {
                    view.neighbours.insert(key, mac);
                }
            },
        )?;
        Ok(view)
    }

    /// Asks the kernel to resolve `address` on `interface`, and with `keep` to keep it resolved
    /// (NTF_EXT_MANAGED) instead of only now (NTF_USE).
    pub fn resolve_neighbour(
        &mut self,
        interface: u32,
        address: IpAddr,
        keep: bool,
    ) -> Result<(), HostError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = interface;
        message.header.state = NeighbourState::None;
        message.attributes = vec![NeighbourAttribute::Destination(match address {
            IpAddr::V4(a) => NeighbourAddress::Inet(a),
            IpAddr::V6(a) => NeighbourAddress::Inet6(a),
        })];
        if keep {
            message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        } else {
            message.header.flags = NeighbourFlags::Use;
        }
        self.request(
            "resolve neighbour",
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
            |_| {},
        )
    }

    /// Has the kernel answer for `address` on `interface` (NTF_PROXY), or no longer.
    pub fn proxy_neighbour(
        &mut self,
        interface: u32,
        address: IpAddr,
        answer: bool,
    ) -> Result<(), HostError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = interface;
        message.header.state = NeighbourState::Permanent;
        message.header.flags = NeighbourFlags::Proxy;
        message.attributes = vec![
            NeighbourAttribute::Destination(match address {
                IpAddr::V4(a) => NeighbourAddress::Inet(a),
                IpAddr::V6(a) => NeighbourAddress::Inet6(a),
            }),
            NeighbourAttribute::Protocol(OURS),
        ];
        if answer {
            let message = RouteNetlinkMessage::NewNeighbour(message);
            let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
            self.request("answer for a neighbour", message, flags, |_| {})
        } else {
            let message = RouteNetlinkMessage::DelNeighbour(message);
            let what = "no longer answer for a neighbour";
            gone_is_fine(self.request(what, message, NLM_F_ACK, |_| {}))
        }
    }

    /// For whom the kernel answers because a gateway here asked for it, this one or one before it.
    pub fn proxied_neighbours(&mut self) -> Result<Vec<(u32, IpAddr)>, HostError> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = NeighbourMessage::default();
            query.header.family = family;
            query.header.flags = NeighbourFlags::Proxy;
            let query = RouteNetlinkMessage::GetNeighbour(query);
            self.request("dump proxied neighbours", query, NLM_F_DUMP, |m| {
                if let RouteNetlinkMessage::NewNeighbour(neighbour) = m {
                    found.extend(proxied_of(&neighbour));
                }
            })?;
        }
        Ok(found)
    }

    /// Makes `address` one of the host's, on `interface` and of no subnet.
    pub fn add_address(&mut self, interface: u32, address: IpAddr) -> Result<(), HostError> {
        let message = RouteNetlinkMessage::NewAddress(address_message(interface, address));
        self.request("add address", message, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, |_| {})
    }

    /// Removes it; one that is gone already is no error.
    pub fn remove_address(&mut self, interface: u32, address: IpAddr) -> Result<(), HostError> {
        let message = RouteNetlinkMessage::DelAddress(address_message(interface, address));
        gone_is_fine(self.request("remove address", message, NLM_F_ACK, |_| {}))
    }

    /// Adds or replaces a route of `table`.
    pub fn add_route(&mut self, table: u8, route: &Route) -> Result<(), HostError> {
        self.request(
            "add route",
            RouteNetlinkMessage::NewRoute(route_message(table, route)),
            NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
            |_| {},
        )
    }

    /// Removes a route of `table`; one that is gone already is no error.
    pub fn remove_route(&mut self, table: u8, route: &Route) -> Result<(), HostError> {
        let message = RouteNetlinkMessage::DelRoute(route_message(table, route));
        gone_is_fine(self.request("remove route", message, NLM_F_ACK, |_| {}))
    }

    /// Adds the rule "unless marked `mark`, look up `table`" at priority `priority` for both
    /// families, as charon installs it.
    pub fn add_rule(&mut self, table: u8, priority: u32, mark: u32) -> Result<(), HostError> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let message = RouteNetlinkMessage::NewRule(rule_message(family, table, priority, mark));
            let done = self.request("add rule", message, NLM_F_ACK | NLM_F_CREATE | 0x200, |_| {});
            match done {
                Err(HostError::Netlink { source, .. })
                    if source.kind() == std::io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Removes what [`Requests::add_rule`] added.
    pub fn remove_rule(&mut self, table: u8, priority: u32, mark: u32) -> Result<(), HostError> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let message = RouteNetlinkMessage::DelRule(rule_message(family, table, priority, mark));
            gone_is_fine(self.request("remove rule", message, NLM_F_ACK, |_| {}))?;
        }
        Ok(())
    }

    /// Sets the MTU of a device and brings it up.
    pub fn bring_up(&mut self, interface: u32, mtu: u32) -> Result<(), HostError> {
        let mut message = LinkMessage::default();
        message.header.index = interface;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![LinkAttribute::Mtu(mtu)];
        self.request("set link", RouteNetlinkMessage::SetLink(message), NLM_F_ACK, |_| {})
    }
}

impl Changes {
    /// Subscribes to links, addresses, routes and neighbours of both families.
    pub fn subscribe() -> Result<Self, HostError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(io("open"))?;
        socket.bind_auto().map_err(io("bind"))?;
        // RTNLGRP_LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE
        for group in [1, 3, 5, 7, 9, 11] {
            socket.add_membership(group).map_err(io("subscribe"))?;
        }
        socket.set_non_blocking(true).map_err(io("subscribe"))?;
        Ok(Self { socket })
    }

    /// Empties the socket; true when anything changed (or was lost: then a dump is due as well).
    pub fn drain(&mut self) -> bool {
        let mut any = false;
        let mut scratch = [0u8; 4096];
        loop {
            match self.socket.recv(&mut &mut scratch[..], 0) {
                Ok(_) => any = true,
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(_) => return any,
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn gone_is_fine(result: Result<(), HostError>) -> Result<(), HostError> {
    match result {
        Err(HostError::Netlink { ref source, .. })
            if matches!(
                source.raw_os_error(),
                Some(libc::ESRCH | libc::ENOENT | libc::ENODEV | libc::EADDRNOTAVAIL)
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn link_of(message: &LinkMessage) -> Link {
    let mut link = Link {
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        running: message.header.flags.contains(LinkFlags::Running),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => {
                if let Ok(mac) = <[u8; 6]>::try_from(bytes.as_slice()) {
                    link.mac = mac;
                }
            }
            _ => {}
        }
    }
    link
}

fn address_of(message: &AddressMessage) -> Option<(u32, IpAddr, u8)> {
    // On a point-to-point device Address is the peer's and Local is ours.
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => {
                return Some((message.header.index, *address, message.header.prefix_len));
            }
            AddressAttribute::Address(address) => found = Some(*address),
            _ => {}
        }
    }
    found.map(|address| (message.header.index, address, message.header.prefix_len))
}

fn routes_of(message: &RouteMessage) -> Vec<Route> {
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(core::net::Ipv6Addr::UNSPECIFIED),
        _ => return Vec::new(),
    };
    let refuse = match message.header.kind {
        RouteType::Unicast => false,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => true,
        _ => return Vec::new(),
    };
    let mut route = Route {
        destination: unspecified,
        length: message.header.destination_prefix_length,
        gateway: None,
        interface: 0,
        source: None,
        metric: 0,
        refuse,
        throw: false,
    };
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => {
                if let Some(address) = ip(address) {
                    route.destination = address;
                }
            }
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Oif(index) => route.interface = *index,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            // The first path of a multipath route is mirrored: one flow must not be spread over
            // paths by two parties, and the kernel's hash is not known here.
            RouteAttribute::MultiPath(hops) => {
                if let Some(hop) = hops.first() {
                    route.interface = hop.interface_index;
                    for attribute in &hop.attributes {
                        if let RouteAttribute::Gateway(address) = attribute {
                            route.gateway = ip(address);
                        }
                    }
                }
            }
            _ => {}
        }
    }
    if table == u32::from(RouteHeader::RT_TABLE_MAIN) { vec![route] } else { Vec::new() }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

fn neighbour_of(message: &NeighbourMessage) -> Option<((u32, IpAddr), [u8; 6])> {
    let usable = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => {
                address = Some(IpAddr::V4(*a));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => {
                address = Some(IpAddr::V6(*a));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).ok();
            }
            _ => {}
        }
    }
    usable.then_some(())?;
    Some(((message.header.ifindex, address?), mac?))
}

/// What a proxied neighbour that a gateway asked for is about.
fn proxied_of(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    let is_ours = message.header.flags.contains(NeighbourFlags::Proxy)
        && message.attributes.contains(&NeighbourAttribute::Protocol(OURS));
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(IpAddr::V4(*a)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => Some(IpAddr::V6(*a)),
        _ => None,
    });
    is_ours.then_some((message.header.ifindex, address?))
}

fn route_message(table: u8, route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.destination);
    message.header.destination_prefix_length = route.length;
    message.header.table = table;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = if route.gateway.is_some() || route.interface == 0 {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    message.header.kind = match (route.refuse, route.throw) {
        (true, _) => RouteType::BlackHole,
        (false, true) => RouteType::Throw,
        (false, false) => RouteType::Unicast,
    };
    message.attributes.push(RouteAttribute::Destination(route.destination.into()));
    if route.interface != 0 {
        message.attributes.push(RouteAttribute::Oif(route.interface));
    }
    if let Some(gateway) = route.gateway {
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
    }
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    if route.metric != 0 {
        message.attributes.push(RouteAttribute::Priority(route.metric));
    }
    message
}

fn address_message(interface: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = if address.is_ipv4() { 32 } else { 128 };
    message.header.index = interface;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    if address.is_ipv6() {
        // Nobody else can have it, and it is used at once.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

fn rule_message(family: AddressFamily, table: u8, priority: u32, mark: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    message.header.table = table;
    message.header.action = RuleAction::ToTable;
    message.header.flags = RuleFlags::Invert;
    message.attributes = vec![
        RuleAttribute::Priority(priority),
        RuleAttribute::FwMark(mark),
        RuleAttribute::FwMask(u32::MAX),
    ];
    message
}
