//! What workers tell the control thread: the upcalls of RFC 2367 and what a gateway needs beside them.

use crate::config::PortId;
use core::net::IpAddr;
use ipsec::sa::{PairId, Protocol, Spi};
use ipsec::selector::{PolicyId, Selector};
use ipsec::spi::CoreId;

/// Which of an SA's limits was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// A rekey is wanted; the SA goes on.
    Soft,
    /// The SA refuses packets.
    Hard,
}

/// Which SA of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The one that we receive on.
    Inbound,
    /// The one that we send on.
    Outbound,
}

/// One upcall.
///
/// What traffic raises again (acquire, resolve, unknown SPI) has half of the ring and is lost when that is full, and
/// [counted](crate::Dataplane::events_lost). What is said once waits in the worker until there is room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Traffic found a PROTECT policy without an SA (RFC 2367 SADB_ACQUIRE). Raised by each worker on its own, once
    /// per selector of the policy and `acquire_repeat`, until an SA is bound or the policy goes.
    Acquire {
        /// The policy.
        policy: PolicyId,
        /// The packet that asked: one address, protocol and port each side (RFC 7296 §2.9).
        packet: Selector,
    },
    /// An outbound SA that was bound with [`Activation::OnInboundTraffic`](crate::Activation::OnInboundTraffic) carries
    /// traffic from now on.
    Activated {
        /// Its pair.
        pair: PairId,
    },
    /// A deleted pair is gone: no ring or queue holds a packet of it, its SPI is in quarantine.
    Deleted {
        /// Its pair.
        pair: PairId,
    },
    /// A byte, packet or sequence number limit was reached (RFC 2367 SADB_EXPIRE).
    Expire {
        /// Its pair.
        pair: PairId,
        /// Which SA of it.
        direction: Direction,
        /// How far.
        limit: Limit,
    },
    /// The first authentic packet arrived on an inbound SA.
    FirstInbound {
        /// Its pair.
        pair: PairId,
        /// The worker that received it from a port: where rekeys of this peer are best owned.
        arrived_at: CoreId,
    },
    /// An authentic, fresh packet of an encapsulated SA came from elsewhere than the SA says (RFC 7296 §2.23).
    PeerMoved {
        /// Its pair.
        pair: PairId,
        /// Outer source address.
        address: IpAddr,
        /// UDP source port.
        port: u16,
    },
    /// Packets wait for the link-layer address of a next hop.
    Resolve {
        /// Where it is connected.
        port: PortId,
        /// The next hop.
        address: IpAddr,
    },
    /// A packet came with an SPI that no SA has (RFC 7296 §2.21.4). At most ten a second, as anybody can send such.
    UnknownSpi {
        /// The SPI.
        spi: Spi,
        /// Outer source address.
        source: IpAddr,
        /// ESP or AH.
        protocol: Protocol,
    },
}

impl Event {
    /// Whether the traffic that raised it will raise it again.
    pub(crate) fn is_repeated(&self) -> bool {
        match self {
            Self::Acquire { .. } | Self::Resolve { .. } | Self::UnknownSpi { .. } => true,
            Self::Activated { .. }
            | Self::Deleted { .. }
            | Self::Expire { .. }
            | Self::FirstInbound { .. }
            | Self::PeerMoved { .. } => false,
        }
    }
}
