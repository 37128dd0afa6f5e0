//! The values of a packet that selectors look at (RFC 4301 §4.4.1.1).

use crate::selector::{Ports, Selector};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use wire::ip::{Fragment, Ip};
use wire::ipv4::Ipv4;
use wire::{Malformed, ipv4, protocol};

/// The protocol of a later fragment of IPv6 that shows an extension header and not what is behind it; whichever it is, it counts as
/// destination options.
pub(crate) const EXTENSION_HEADER: u8 = protocol::DESTINATION_OPTIONS;

/// What a packet shows as ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortView {
    /// Both, as the packet has them; of an ICMP message, type (high octet) and code in both places.
    Visible {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// None: a fragment without its upper-layer header, a protocol without ports, or a header that is cut
    /// short (RFC 4301 OPAQUE).
    Hidden,
}

/// The selector values of a packet in the order it shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Next layer protocol.
    pub protocol: u8,
    /// Its ports.
    pub ports: PortView,
}

/// The selector values of a packet as policies see them: `local` is the side behind this gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Address on our side.
    pub local: IpAddr,
    /// Address on the peer's side.
    pub remote: IpAddr,
    /// Next layer protocol.
    pub protocol: u8,
    /// Ports as (local, remote); `None` when the packet shows none.
    pub ports: Option<(u16, u16)>,
}

/// The selector values of a packet in five words: what caches keep and compare. It says exactly what [`Flow`] says.
///
/// ```text
///  addresses[0]  IPv4: source, destination     IPv6: source, upper half
///  addresses[1]        0                             source, lower half
///  addresses[2]        0                             destination, upper half
///  addresses[3]        0                             destination, lower half
///  rest          source port 16 │ destination port 16 │ 0 │ protocol 8 │ 0 │ ports visible 1 │ IPv6 1
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowId {
    pub(crate) addresses: [u64; 4],
    pub(crate) rest: u64,
}

/// What a protocol shows as ports that is not one of the two that most packets are of.
#[cold]
fn rare_ports(protocol: u8, upper: &[u8]) -> Option<u32> {
    match (protocol, upper) {
        (protocol::SCTP | protocol::UDP_LITE | protocol::DCCP, &[s1, s0, d1, d0, ..]) => {
            Some(u32::from_be_bytes([s1, s0, d1, d0]))
        }
        (protocol::ICMP | protocol::ICMPV6, &[kind, code, ..]) => {
            Some(u32::from_be_bytes([kind, code, kind, code]))
        }
        _ => None,
    }
}

const V6: u64 = 1;
const VISIBLE: u64 = 2;
const PROTOCOL_SHIFT: u32 = 8;
const DESTINATION_PORT_SHIFT: u32 = 32;

impl FlowId {
    /// Reads the selector values of a parsed packet.
    ///
    /// # Errors
    ///
    /// As [`Flow::of`].
    #[inline]
    pub fn of(ip: &Ip<'_>) -> Result<Self, Malformed> {
        match ip {
            Ip::V4(ip) => Ok(Self::of_v4(ip)),
            Ip::V6(_) => Flow::of(ip).map(Self::from),
        }
    }

    /// As [`FlowId::of`], of a version that has nothing to walk over.
    #[inline(always)]
    pub fn of_v4(ip: &Ipv4<'_>) -> Self {
        let number = |address: Ipv4Addr| u64::from(u32::from(address));
        let protocol = ip.protocol();
        let ports = match ip.payload() {
            _ if ip.fragment_offset() != 0 => None,
            &[s1, s0, d1, d0, ..] if protocol == protocol::UDP || protocol == protocol::TCP => {
                Some(u32::from_be_bytes([s1, s0, d1, d0]))
            }
            upper => rare_ports(protocol, upper),
        };
        let ports = ports.map_or(0, |p| u64::from(p) << DESTINATION_PORT_SHIFT | VISIBLE);
        Self {
            addresses: [number(ip.source()) << 32 | number(ip.destination()), 0, 0, 0],
            rest: ports | u64::from(protocol) << PROTOCOL_SHIFT,
        }
    }

    /// In short, where it is of IPv4.
    #[inline]
    pub(crate) fn v4(&self) -> Option<FlowIdV4> {
        let Self { addresses: [addresses, ..], rest } = *self;
        (rest & V6 == 0).then_some(FlowIdV4 { addresses, rest })
    }

    /// The values one by one.
    pub fn flow(&self) -> Flow {
        let Self { addresses: [a, b, c, d], rest } = *self;
        let v6 = |high: u64, low: u64| {
            IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)))
        };
        let v4 = |bits: u64| IpAddr::V4(Ipv4Addr::from_bits(bits as u32));
        let (source, destination) =
            if rest & V6 == 0 { (v4(a >> 32), v4(a)) } else { (v6(a, b), v6(c, d)) };
        let ports = if rest & VISIBLE == 0 {
            PortView::Hidden
        } else {
            PortView::Visible {
                source: (rest >> (DESTINATION_PORT_SHIFT + 16)) as u16,
                destination: (rest >> DESTINATION_PORT_SHIFT) as u16,
            }
        };
        Flow { source, destination, protocol: (rest >> PROTOCOL_SHIFT) as u8, ports }
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> IpAddr {
        let [a, _, c, d] = self.addresses;
        if self.rest & V6 == 0 {
            IpAddr::V4(Ipv4Addr::from_bits(a as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(u128::from(c) << 64 | u128::from(d)))
        }
    }
}

/// The same of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowIdV4 {
    pub(crate) addresses: u64,
    pub(crate) rest: u64,
}

impl FlowIdV4 {
    /// Reads it from a header without options and the ports behind that, of UDP or TCP.
    #[inline(always)]
    pub fn of(header: &[u8; ipv4::MIN_HEADER_LEN + 4]) -> Self {
        let [.., s3, s2, s1, s0, d3, d2, d1, d0, p3, p2, p1, p0] = *header;
        let ports = u32::from_be_bytes([p3, p2, p1, p0]);
        let protocol = u64::from(header[ipv4::PROTOCOL_AT]);
        Self {
            addresses: u64::from_be_bytes([s3, s2, s1, s0, d3, d2, d1, d0]),
            rest: u64::from(ports) << DESTINATION_PORT_SHIFT | protocol << PROTOCOL_SHIFT | VISIBLE,
        }
    }
}

impl From<FlowIdV4> for FlowId {
    fn from(FlowIdV4 { addresses, rest }: FlowIdV4) -> Self {
        Self { addresses: [addresses, 0, 0, 0], rest }
    }
}

impl From<Flow> for FlowId {
    fn from(flow: Flow) -> Self {
        let halves = |bits: u128| [(bits >> 64) as u64, bits as u64];
        let (addresses, family) = match (flow.source, flow.destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let ([a, b], [c, d]) = (halves(source.to_bits()), halves(destination.to_bits()));
                ([a, b, c, d], V6)
            }
            // A packet's addresses are of one family.
            (source, destination) => {
                let v4 = |address| match address {
                    IpAddr::V4(a) => u64::from(u32::from(a)),
                    IpAddr::V6(_) => 0,
                };
                ([v4(source) << 32 | v4(destination), 0, 0, 0], 0)
            }
        };
        let ports = match flow.ports {
            PortView::Visible { source, destination } => {
                (u64::from(source) << 16 | u64::from(destination)) << DESTINATION_PORT_SHIFT
                    | VISIBLE
            }
            PortView::Hidden => 0,
        };
        Self { addresses, rest: ports | u64::from(flow.protocol) << PROTOCOL_SHIFT | family }
    }
}

impl Flow {
    /// Reads the selector values of a parsed packet.
    ///
    /// # Errors
    ///
    /// [`Malformed::Options`] from the walk over extension headers.
    #[inline]
    pub fn of(ip: &Ip<'_>) -> Result<Self, Malformed> {
        let upper = ip.upper()?;
        let ports = match upper.ports() {
            Some((source, destination)) => PortView::Visible { source, destination },
            None => match (upper.protocol, upper.fragment, upper.bytes) {
                // Type and code stand for ports (RFC 4301 §4.4.1.1).
                (
                    protocol::ICMP | protocol::ICMPV6,
                    Fragment::Whole | Fragment::First,
                    [kind, code, ..],
                ) => {
                    let both = u16::from_be_bytes([*kind, *code]);
                    PortView::Visible { source: both, destination: both }
                }
                _ => PortView::Hidden,
            },
        };
        let protocol = match (upper.fragment, upper.protocol) {
            (
                Fragment::Later,
                protocol::HOP_BY_HOP
                | protocol::ROUTING
                | protocol::MOBILITY
                | protocol::HIP
                | protocol::SHIM6,
            ) if matches!(ip, Ip::V6(_)) => EXTENSION_HEADER,
            (_, protocol) => protocol,
        };
        Ok(Self { source: ip.source(), destination: ip.destination(), protocol, ports })
    }

    /// As a policy sees a packet that leaves: its source is our side.
    #[inline]
    pub fn outbound(&self) -> FlowKey {
        FlowKey {
            local: self.source,
            remote: self.destination,
            protocol: self.protocol,
            ports: match self.ports {
                PortView::Visible { source, destination } => Some((source, destination)),
                PortView::Hidden => None,
            },
        }
    }

    /// As a policy sees a packet that arrives: its destination is our side.
    #[inline]
    pub fn inbound(&self) -> FlowKey {
        FlowKey {
            local: self.destination,
            remote: self.source,
            protocol: self.protocol,
            ports: match self.ports {
                PortView::Visible { source, destination } => Some((destination, source)),
                PortView::Hidden => None,
            },
        }
    }
}

impl Ports {
    /// Whether a packet with this port, or with none to be seen, matches.
    #[inline]
    pub fn matches(&self, port: Option<u16>) -> bool {
        match (self, port) {
            (Self::Any, _) | (Self::Opaque, None) => true,
            (Self::Range(range), Some(port)) => range.contains(&port),
            (Self::Opaque, Some(_)) => false,
            // A range over all ports is how an IKE peer writes "any" (RFC 7296 §3.13.1).
            (Self::Range(range), None) => *range.start() == 0 && *range.end() == u16::MAX,
        }
    }
}

impl Selector {
    /// Whether the packet is traffic of this selector.
    #[inline]
    pub fn matches(&self, key: &FlowKey) -> bool {
        self.local.contains(key.local)
            && self.remote.contains(key.remote)
            && self.protocol.is_none_or(|protocol| protocol == key.protocol)
            && self.local_ports.matches(key.ports.map(|(local, _)| local))
            && self.remote_ports.matches(key.ports.map(|(_, remote)| remote))
    }
}

/// A selector of IPv4 as packets are compared with it. Nearly every SA has one; the others are asked when that does not fit.
///
/// Ranges as first number and how many more there are: `value - first <= span` in wrapping arithmetic.
#[derive(Clone, Copy)]
pub(crate) struct QuickV4 {
    local: (u32, u32),
    remote: (u32, u32),
    /// Beyond a byte: any.
    protocol: u16,
    /// Port ranges as (first, span); all ports admit hidden ones too.
    local_ports: (u16, u16),
    remote_ports: (u16, u16),
}

impl QuickV4 {
    /// The first that can be written so.
    pub(crate) fn first_of(selectors: &[Selector]) -> Option<Self> {
        selectors.iter().find_map(Self::of)
    }

    fn of(selector: &Selector) -> Option<Self> {
        let range = |range: &crate::selector::AddressRange| match (range.first(), range.last()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                Some((u32::from(first), u32::from(last) - u32::from(first)))
            }
            _ => None,
        };
        let ports = |ports: &Ports| match ports {
            Ports::Any => Some((0, u16::MAX)),
            Ports::Range(range) if range.is_empty() => None,
            Ports::Range(range) => Some((*range.start(), range.end() - range.start())),
            Ports::Opaque => None,
        };
        Some(Self {
            local: range(&selector.local)?,
            remote: range(&selector.remote)?,
            protocol: selector.protocol.map_or(u16::MAX, u16::from),
            local_ports: ports(&selector.local_ports)?,
            remote_ports: ports(&selector.remote_ports)?,
        })
    }

    /// Whether a packet that arrives, whose destination is our side, is traffic of this selector. False is not the last word.
    #[inline(always)]
    pub(crate) fn admits_inbound(&self, FlowIdV4 { addresses, rest }: FlowIdV4) -> bool {
        let within = |value: u32, (first, span): (u32, u32)| value.wrapping_sub(first) <= span;
        let port = |value: u64, (first, span): (u16, u16)| {
            span == u16::MAX || (rest & VISIBLE != 0 && (value as u16).wrapping_sub(first) <= span)
        };
        within(addresses as u32, self.local)
            && within((addresses >> 32) as u32, self.remote)
            && (self.protocol == u16::MAX
                || self.protocol == u16::from((rest >> PROTOCOL_SHIFT) as u8))
            && port(rest >> DESTINATION_PORT_SHIFT, self.local_ports)
            && port(rest >> (DESTINATION_PORT_SHIFT + 16), self.remote_ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selector::AddressRange;
    use proptest::prelude::*;

    fn header(bytes: &[u8]) -> Vec<u8> {
        let mut packet = bytes.to_vec();
        packet[0] = 0x45;
        let len = (packet.len() as u16).to_be_bytes();
        packet[2..4].copy_from_slice(&len);
        packet
    }

    fn flow() -> impl Strategy<Value = Flow> {
        let addresses = prop_oneof![
            (0u32..4, 0u32..4).prop_map(|(a, b)| (
                IpAddr::from(Ipv4Addr::from(u32::MAX - a)),
                IpAddr::from(Ipv4Addr::from(b))
            )),
            (any::<u128>(), any::<u128>()).prop_map(|(a, b)| (
                IpAddr::from(Ipv6Addr::from(a)),
                IpAddr::from(Ipv6Addr::from(b))
            )),
        ];
        let ports = prop_oneof![
            Just(PortView::Hidden),
            (any::<u16>(), 0u16..4)
                .prop_map(|(source, destination)| PortView::Visible { source, destination }),
        ];
        (addresses, prop_oneof![Just(6u8), Just(17), any::<u8>()], ports).prop_map(
            |((source, destination), protocol, ports)| Flow {
                source,
                destination,
                protocol,
                ports,
            },
        )
    }

    fn ports() -> impl Strategy<Value = Ports> {
        prop_oneof![
            Just(Ports::Any),
            Just(Ports::Opaque),
            (0u16..5, 0u16..5).prop_map(|(a, b)| Ports::Range(a.min(b)..=a.max(b))),
            Just(Ports::Range(0..=u16::MAX)),
            #[expect(clippy::reversed_empty_ranges, reason = "holds nothing")]
            Just(Ports::Range(3..=2)),
        ]
    }

    fn selector() -> impl Strategy<Value = Selector> {
        let range = |base: u32| {
            prop_oneof![
                Just(AddressRange::prefix(Ipv4Addr::UNSPECIFIED.into(), 0).unwrap()),
                (0u32..4, 0u32..4).prop_map(move |(a, b)| {
                    let address = |n: u32| IpAddr::from(Ipv4Addr::from(base.wrapping_add(n)));
                    AddressRange::new(address(a.min(b)), address(a.max(b))).unwrap()
                }),
                Just(AddressRange::prefix(Ipv6Addr::UNSPECIFIED.into(), 0).unwrap()),
            ]
        };
        let protocol = prop::option::of(prop_oneof![Just(6u8), Just(17)]);
        (range(0), range(u32::MAX - 3), protocol, ports(), ports()).prop_map(
            |(local, remote, protocol, local_ports, remote_ports)| Selector {
                local,
                remote,
                protocol,
                local_ports,
                remote_ports,
            },
        )
    }

    proptest! {
        /// Random IPv4 packets of the protocols that matter, whole and in fragments, with upper layers cut anywhere.
        #[test]
        fn an_id_says_what_the_flow_says(
            bytes in prop::collection::vec(any::<u8>(), 20..32),
            protocol in prop_oneof![Just(1u8), Just(6), Just(17), Just(58), any::<u8>()],
            fragment in prop_oneof![Just([0u8; 2]), Just([0x20, 0]), any::<[u8; 2]>()],
        ) {
            let mut packet = header(&bytes);
            packet[9] = protocol;
            packet[6..8].copy_from_slice(&fragment);
            let ip = Ip::parse(&packet).unwrap();
            let id = FlowId::of(&ip).unwrap();
            prop_assert_eq!(id.flow(), Flow::of(&ip).unwrap());
            prop_assert_eq!(id.destination(), ip.destination());
            prop_assert_eq!(FlowId::from(id.flow()), id);
        }

        #[test]
        fn a_flow_survives_being_packed(flow in flow()) {
            prop_assert_eq!(FlowId::from(flow).flow(), flow);
            prop_assert_eq!(FlowId::from(flow).destination(), flow.destination);
        }

        #[test]
        fn a_quick_selector_says_what_its_selector_says(
            selector in selector(),
            flows in prop::collection::vec(flow(), 20),
        ) {
            let Some(quick) = QuickV4::first_of(core::slice::from_ref(&selector)) else { return Ok(()) };
            for flow in flows {
                let Some(id) = FlowId::from(flow).v4() else { continue };
                prop_assert_eq!(quick.admits_inbound(id), selector.matches(&flow.inbound()));
            }
        }
    }
}
