//! The values of a packet that selectors look at (RFC 4301 §4.4.1.1).

use crate::selector::{Ports, Selector};
use core::net::IpAddr;
use wire::ip::{Fragment, Ip};
use wire::{Malformed, protocol};

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
        Ok(Self {
            source: ip.source(),
            destination: ip.destination(),
            protocol: upper.protocol,
            ports,
        })
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
