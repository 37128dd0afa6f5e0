//! What an SA has carried, and what a burst adds to the counters of a worker.

use crate::sa::{Lifetime, Limits};
use core::cell::Cell;

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

impl Totals {
    /// Of packets in ESP tunnels with a combined mode.
    pub(crate) fn of_plain(packets: u64, bytes: u64) -> Self {
        Self {
            packets,
            bytes,
            confidential_bytes: bytes,
            authenticated_bytes: bytes,
            transport_bytes: 0,
            tunnel_bytes: bytes,
        }
    }
}

impl core::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.confidential_bytes += other.confidential_bytes;
        self.authenticated_bytes += other.authenticated_bytes;
        self.transport_bytes += other.transport_bytes;
        self.tunnel_bytes += other.tunnel_bytes;
    }
}

/// Which byte counters an SA moves; fixed when it is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contribution {
    pub(crate) confidential: bool,
    pub(crate) authenticated: bool,
    pub(crate) tunnel: bool,
}

/// Packets and bytes of one kind of SA in a row, added to [`Totals`] when the kind changes.
#[derive(Debug, Default)]
pub(crate) struct Run {
    kind: Option<Contribution>,
    packets: u64,
    bytes: u64,
}

impl Run {
    #[inline]
    pub(crate) fn add(&mut self, kind: Contribution, bytes: u64, totals: &mut Totals) {
        if self.kind != Some(kind) {
            self.end(totals);
            self.kind = Some(kind);
        }
        self.packets += 1;
        self.bytes += bytes;
    }

    /// Adds what there is.
    pub(crate) fn end(&mut self, totals: &mut Totals) {
        let Self { kind, packets, bytes } = core::mem::take(self);
        let Some(kind) = kind else { return };
        totals.packets += packets;
        totals.bytes += bytes;
        totals.confidential_bytes += if kind.confidential { bytes } else { 0 };
        totals.authenticated_bytes += if kind.authenticated { bytes } else { 0 };
        totals.tunnel_bytes += if kind.tunnel { bytes } else { 0 };
        totals.transport_bytes += if kind.tunnel { 0 } else { bytes };
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
    /// The sealed packet is longer than the path takes and goes in fragments: an IPv6 packet of at most 1280 bytes, which no
    /// sender makes smaller, in a tunnel that has room for less (RFC 2473 §7.1, RFC 4301 §8.2.1); or an IPv4 packet in an SA for
    /// some ports, which fragments inside would not show (RFC 4301 §7).
    pub const OVERSIZE: Self = Self(16);

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
///
/// They are counted down to the next limit, so that a packet looks at one number for each and not at two. What is counted lies in
/// cells, as a packet is counted while its job borrows the key.
#[derive(Debug)]
#[repr(C)]
pub struct Usage {
    /// More of them than this, or as many, and limits are to be looked at.
    packets_left: Cell<u64>,
    bytes_left: Cell<u64>,
    /// Whether it has changed since it was published.
    is_due: Cell<bool>,
    soft_said: bool,
    hard_said: bool,
    /// What will have been carried when nothing is left.
    packets_then: u64,
    bytes_then: u64,
    soft_packets: u64,
    soft_bytes: u64,
    hard_packets: u64,
    hard_bytes: u64,
}

impl Usage {
    /// What every packet looks at lies in front of this.
    pub(crate) const HOT_BYTES: usize = core::mem::offset_of!(Self, soft_said);

    /// And what was carried is known by what lies in front of this.
    pub(crate) const CARRIED_BYTES: usize = core::mem::offset_of!(Self, soft_packets);

    pub(crate) fn new(lifetime: &Lifetime) -> Self {
        let limit = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        let Lifetime { soft, hard } = lifetime;
        let mut usage = Self {
            packets_left: Cell::new(0),
            bytes_left: Cell::new(0),
            is_due: Cell::new(false),
            soft_said: false,
            hard_said: false,
            packets_then: 0,
            bytes_then: 0,
            soft_packets: limit(soft.packets),
            soft_bytes: limit(soft.bytes),
            hard_packets: limit(hard.packets),
            hard_bytes: limit(hard.bytes),
        };
        usage.count_from(0, 0);
        usage
    }

    /// Continues with these counts, down to the next limit that is not reached.
    fn count_from(&mut self, packets: u64, bytes: u64) {
        let soft = |limit: u64| if self.soft_said { u64::MAX } else { limit };
        let packets_left = soft(self.soft_packets).min(self.hard_packets).saturating_sub(packets);
        let bytes_left = soft(self.soft_bytes).min(self.hard_bytes).saturating_sub(bytes);
        // Neither sum is above the larger of count and limit.
        (self.packets_then, self.bytes_then) = (packets + packets_left, bytes + bytes_left);
        self.packets_left.set(packets_left);
        self.bytes_left.set(bytes_left);
    }

    /// Packets carried so far.
    pub fn packets(&self) -> u64 {
        self.packets_then - self.packets_left.get()
    }

    /// Bytes of plaintext IP packets carried so far.
    pub fn bytes(&self) -> u64 {
        self.bytes_then - self.bytes_left.get()
    }

    /// Notes that there is something to publish; whether that is new.
    #[inline]
    pub fn fall_due(&self) -> bool {
        !self.is_due.replace(true)
    }

    /// Notes that it is published; whether it was to be.
    pub fn settle(&self) -> bool {
        self.is_due.replace(false)
    }

    /// Replaces the limits of a live SA; what was said stays said unless the new limits are not reached.
    pub(crate) fn set_lifetime(&mut self, lifetime: &Lifetime) {
        let (packets, bytes, is_due) = (self.packets(), self.bytes(), self.is_due.clone());
        *self = Self { is_due, ..Self::new(lifetime) };
        self.count_from(packets, bytes);
    }

    /// Has the soft limit reached with this many packets more, if it is not before.
    pub(crate) fn ask_within(&mut self, packets: u64) {
        self.soft_packets = self.soft_packets.min(self.packets().saturating_add(packets));
        self.count_from(self.packets(), self.bytes());
    }

    /// Whether one packet of `bytes` more fits below the hard limits. A packet that would pass the byte
    /// limit is refused, so that the limit is never exceeded.
    #[inline]
    pub(crate) fn admits(&self, bytes: u64) -> bool {
        self.is_far(bytes)
            || (self.packets() < self.hard_packets
                && self.bytes().saturating_add(bytes) <= self.hard_bytes)
    }

    /// Whether after one packet of `bytes` more no limit is reached.
    #[inline]
    pub(crate) fn is_far(&self, bytes: u64) -> bool {
        self.packets_left.get() > 1 && self.bytes_left.get() > bytes
    }

    /// Counts one packet after which no limit is reached.
    #[inline]
    pub(crate) fn charge_far(&self, bytes: u64) {
        self.packets_left.set(self.packets_left.get() - 1);
        self.bytes_left.set(self.bytes_left.get() - bytes);
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
        if self.is_far(bytes) {
            self.charge_far(bytes);
            return Events::NONE;
        }
        self.charge_near(bytes)
    }

    /// Counts one admitted packet with which a limit is reached, or after one was.
    #[cold]
    fn charge_near(&mut self, bytes: u64) -> Events {
        let (packets, bytes) = (self.packets() + 1, self.bytes().saturating_add(bytes));
        let is_new = !self.soft_said && (packets >= self.soft_packets || bytes >= self.soft_bytes);
        self.soft_said |= is_new;
        self.count_from(packets, bytes);
        if is_new { Events::SOFT_EXPIRED } else { Events::NONE }
    }
}

impl From<&Usage> for Limits {
    /// What was carried, in the shape of the limits it counts against.
    fn from(usage: &Usage) -> Self {
        Self { bytes: Some(usage.bytes()), packets: Some(usage.packets()) }
    }
}
