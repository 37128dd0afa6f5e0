//! What an SA has carried, and what a burst adds to the counters of a worker.

use crate::sa::{Lifetime, Limits};

/// What one burst moved, for a worker to add to its counters once per burst.
///
/// Bytes are those of the plaintext IP packets, header included, counted after replay, integrity and
/// selector acceptance (inbound) or when sealed (outbound).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packets that were protected or accepted.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes under ESP with encryption.
    pub confidential_bytes: u64,
    /// Bytes under AH, or under ESP with integrity.
    pub authenticated_bytes: u64,
    /// Bytes in transport mode.
    pub transport_bytes: u64,
    /// Bytes in tunnel mode.
    pub tunnel_bytes: u64,
}

/// Which byte counters an SA moves; fixed when it is installed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contribution {
    pub(crate) confidential: bool,
    pub(crate) authenticated: bool,
    pub(crate) tunnel: bool,
}

impl Totals {
    #[inline]
    pub(crate) fn add(&mut self, contribution: Contribution, bytes: u64) {
        self.packets += 1;
        self.bytes += bytes;
        self.confidential_bytes += if contribution.confidential { bytes } else { 0 };
        self.authenticated_bytes += if contribution.authenticated { bytes } else { 0 };
        self.tunnel_bytes += if contribution.tunnel { bytes } else { 0 };
        self.transport_bytes += if contribution.tunnel { 0 } else { bytes };
    }
}

/// What happened to an SA while a packet was processed; empty for nearly every packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events(u8);

impl Events {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// The soft lifetime was reached: a rekey is due. Said once.
    pub const SOFT_EXPIRED: Self = Self(1);
    /// The hard lifetime was reached, or the sequence counter is at its end: packets are refused from
    /// now on. Said once.
    pub const HARD_EXPIRED: Self = Self(2);
    /// The first authentic packet of an inbound SA.
    pub const FIRST_AUTHENTIC: Self = Self(4);
    /// An authentic packet, newer than all before it, came from another address or UDP port than the
    /// last one: the NAT in front of the peer has rebound (RFC 7296 §2.23). Said once per move.
    pub const PEER_MOVED: Self = Self(8);

    /// Whether nothing happened.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` happened.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl core::ops::BitOrAssign for Events {
    #[inline]
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Packets and bytes that an SA has carried, against its lifetime.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    packets: u64,
    bytes: u64,
    soft_packets: u64,
    soft_bytes: u64,
    hard_packets: u64,
    hard_bytes: u64,
    soft_said: bool,
    hard_said: bool,
}

impl Usage {
    pub(crate) fn new(lifetime: &Lifetime) -> Self {
        let limit = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        let Lifetime { soft, hard } = lifetime;
        Self {
            packets: 0,
            bytes: 0,
            soft_packets: limit(soft.packets),
            soft_bytes: limit(soft.bytes),
            hard_packets: limit(hard.packets),
            hard_bytes: limit(hard.bytes),
            soft_said: false,
            hard_said: false,
        }
    }

    /// Packets carried so far.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Bytes of plaintext IP packets carried so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Replaces the limits of a live SA; what was said stays said unless the new limits are not reached.
    pub(crate) fn set_lifetime(&mut self, lifetime: &Lifetime) {
        *self = Self { packets: self.packets, bytes: self.bytes, ..Self::new(lifetime) };
    }

    /// Whether one packet of `bytes` more fits below the hard limits. A packet that would pass the byte
    /// limit is refused, so that the limit is never exceeded.
    #[inline]
    pub(crate) fn admits(&self, bytes: u64) -> bool {
        self.packets < self.hard_packets && self.bytes.saturating_add(bytes) <= self.hard_bytes
    }

    /// Says a refusal once.
    #[cold]
    pub(crate) fn refuse(&mut self) -> Events {
        if core::mem::replace(&mut self.hard_said, true) {
            Events::NONE
        } else {
            Events::HARD_EXPIRED
        }
    }

    /// Counts one admitted packet.
    #[inline]
    pub(crate) fn charge(&mut self, bytes: u64) -> Events {
        self.packets += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if !self.soft_said && (self.packets >= self.soft_packets || self.bytes >= self.soft_bytes) {
            self.soft_said = true;
            return Events::SOFT_EXPIRED;
        }
        Events::NONE
    }
}

impl From<&Usage> for Limits {
    /// What was carried, in the shape of the limits it counts against.
    fn from(usage: &Usage) -> Self {
        Self { bytes: Some(usage.bytes), packets: Some(usage.packets) }
    }
}
