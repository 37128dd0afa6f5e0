//! What a received IP packet is, before any database is asked.
//!
//! Steering brings packets to a worker that policies may touch; this decides which of them are
//! protected traffic addressed to this gateway and which are clear.

use crate::drop_cause::DropCause;
use crate::flow::FlowId;
use crate::sa::Protocol;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use wire::ah::Ah;
use wire::esp::{self, Encapsulated, Esp};
use wire::ip::{Fragment, Ip};
use wire::ipv4::{self, Ipv4};
use wire::protocol;
use wire::udp::Udp;

/// The addresses of this gateway.
#[derive(Clone, Debug, Default)]
pub struct LocalAddresses {
    v4: Box<[Ipv4Addr]>,
    v6: Box<[Ipv6Addr]>,
}

impl LocalAddresses {
    /// Collects them.
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in addresses {
            match address {
                IpAddr::V4(a) => v4.push(a),
                IpAddr::V6(a) => v6.push(a),
            }
        }
        v4.sort_unstable();
        v4.dedup();
        v6.sort_unstable();
        v6.dedup();
        Self { v4: v4.into(), v6: v6.into() }
    }

    /// Whether `address` is one of them.
    #[inline(always)]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            // A gateway has a few addresses: a scan over so many is faster than a search.
            IpAddr::V4(a) if self.v4.len() <= 8 => self.v4.contains(&a),
            IpAddr::V4(a) => self.v4.binary_search(&a).is_ok(),
            IpAddr::V6(a) => self.v6.binary_search(&a).is_ok(),
        }
    }
}

/// An ESP or AH packet addressed to this gateway: where it lies in the packet, and what the outer headers
/// said. Offsets count from the first byte of the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protected {
    /// ESP or AH.
    pub protocol: Protocol,
    /// The SPI as it stands in the packet, reserved values included.
    pub spi: u32,
    /// Where the ESP or AH header begins.
    pub offset: u16,
    /// Where the IP packet ends; link-layer padding may follow.
    pub end: u16,
    /// Outer DSCP and ECN.
    pub traffic_class: u8,
    /// Outer source address.
    pub source: IpAddr,
    /// UDP source port when encapsulated.
    pub source_port: Option<u16>,
    /// The offset of the next-header field that names ESP, AH or UDP.
    pub named_at: u16,
}

impl Protected {
    /// The sequence number of ESP as it stands in the packet, for asking for memory ahead.
    #[inline]
    pub fn low_sequence(&self, packet: &[u8]) -> u32 {
        esp::sequence_at(packet, self.offset.into())
    }

    /// Bytes of the IP header with its options or extension headers.
    #[inline]
    pub fn ip_len(&self) -> usize {
        let udp = if self.source_port.is_some() { wire::udp::HEADER_LEN } else { 0 };
        usize::from(self.offset).saturating_sub(udp)
    }

    /// ESP in an IPv4 packet without options that is whole: what nearly all protected traffic is. `None` for everything else,
    /// of which [`classify`] knows.
    #[inline]
    pub fn of_plain_esp(ip: &Ipv4<'_>) -> Option<Self> {
        let is_plain = ip.protocol() == protocol::ESP
            && !ip.is_fragment()
            && ip.header_len() == ipv4::MIN_HEADER_LEN;
        if !is_plain {
            return None;
        }
        let esp = Esp::parse(ip.payload()).ok()?;
        Some(Self {
            protocol: Protocol::Esp,
            spi: esp.spi(),
            offset: ipv4::MIN_HEADER_LEN as u16,
            end: ip.total_len() as u16,
            traffic_class: ip.traffic_class(),
            source: ip.source().into(),
            source_port: None,
            named_at: ipv4::PROTOCOL_AT as u16,
        })
    }
}

/// What a received packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// ESP or AH for this gateway, whole.
    Protected(Protected),
    /// A fragment of ESP, AH or UDP for this gateway: the kernel reassembles.
    Reassemble,
    /// A NAT keep-alive (RFC 3948 §2.3): swallowed.
    KeepAlive,
    /// IKE on the encapsulation port, for the host's own socket.
    Ike,
    /// Everything else: its selector values, and whether it is addressed to this gateway.
    Clear {
        /// What policies look at.
        flow: FlowId,
        /// Whether the destination is an address of this gateway.
        to_us: bool,
        /// Where the IP packet ends; link-layer padding may follow.
        end: u16,
    },
}

/// Classifies the packet that `packet` begins with; bytes behind its IP length are link-layer padding.
/// `encap_port` is the UDP port of encapsulated ESP on this gateway, usually 4500.
///
/// # Errors
///
/// [`DropCause::MalformedHeader`], [`DropCause::TooShort`].
#[inline]
pub fn classify(
    packet: &[u8],
    local: &LocalAddresses,
    encap_port: u16,
) -> Result<Class, DropCause> {
    let ip = Ip::parse(packet).map_err(|_| DropCause::MalformedHeader)?;
    let destination = ip.destination();
    if !local.contains(destination) {
        return clear(&ip, false);
    }
    let upper = ip.upper().map_err(|_| DropCause::MalformedHeader)?;
    if !matches!(upper.protocol, protocol::ESP | protocol::AH | protocol::UDP) {
        return clear(&ip, true);
    }
    if upper.fragment != Fragment::Whole {
        return Ok(Class::Reassemble);
    }
    let (protocol, spi, offset, source_port) = match upper.protocol {
        protocol::ESP => {
            let esp = Esp::parse(upper.bytes).map_err(|_| DropCause::TooShort)?;
            (Protocol::Esp, esp.spi(), upper.offset, None)
        }
        protocol::AH => {
            let ah = Ah::parse(upper.bytes).map_err(|_| DropCause::TooShort)?;
            (Protocol::Ah, ah.spi(), upper.offset, None)
        }
        _ => {
            let udp = Udp::parse(upper.bytes).map_err(|_| DropCause::MalformedHeader)?;
            if udp.destination_port() != encap_port {
                return clear(&ip, true);
            }
            match Encapsulated::parse(udp.payload()).map_err(|_| DropCause::TooShort)? {
                Encapsulated::KeepAlive => return Ok(Class::KeepAlive),
                Encapsulated::Ike(_) => return Ok(Class::Ike),
                Encapsulated::Esp(esp) => (
                    Protocol::Esp,
                    esp.spi(),
                    upper.offset + wire::udp::HEADER_LEN,
                    Some(udp.source_port()),
                ),
            }
        }
    };
    // With UDP the datagram may end before the IP packet does; with everything else they end together.
    let end = match source_port {
        Some(_) => upper.offset + udp_len(upper.bytes),
        None => ip.total_len(),
    };
    let narrow = |n: usize| u16::try_from(n).map_err(|_| DropCause::MalformedHeader);
    Ok(Class::Protected(Protected {
        protocol,
        spi,
        offset: narrow(offset)?,
        end: narrow(end)?,
        traffic_class: ip.traffic_class(),
        source: ip.source(),
        source_port,
        named_at: narrow(upper.named_at)?,
    }))
}

#[inline]
fn udp_len(bytes: &[u8]) -> usize {
    Udp::parse(bytes).map_or(0, |udp| udp.payload().len() + wire::udp::HEADER_LEN)
}

#[inline]
fn clear(ip: &Ip<'_>, to_us: bool) -> Result<Class, DropCause> {
    let flow = FlowId::of(ip).map_err(|_| DropCause::MalformedHeader)?;
    let end = u16::try_from(ip.total_len()).map_err(|_| DropCause::MalformedHeader)?;
    Ok(Class::Clear { flow, to_us, end })
}
