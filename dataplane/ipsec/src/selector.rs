//! Selectors and policies (RFC 4301 §4.4.1).

use core::net::IpAddr;
use core::ops::RangeInclusive;

/// An inclusive range of addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// `None` when the families differ or `last` is below `first`.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Self { first, last })
    }

    /// The range that a prefix of `len` bits covers; `None` when `len` exceeds the address.
    pub fn prefix(address: IpAddr, len: u8) -> Option<Self> {
        match address {
            IpAddr::V4(a) => {
                let host = u32::MAX.checked_shr(u32::from(len)).unwrap_or(0);
                (len <= 32).then(|| Self {
                    first: IpAddr::V4((u32::from(a) & !host).into()),
                    last: IpAddr::V4((u32::from(a) | host).into()),
                })
            }
            IpAddr::V6(a) => {
                let host = u128::MAX.checked_shr(u32::from(len)).unwrap_or(0);
                (len <= 128).then(|| Self {
                    first: IpAddr::V6((u128::from(a) & !host).into()),
                    last: IpAddr::V6((u128::from(a) | host).into()),
                })
            }
        }
    }

    /// One address.
    pub fn host(address: IpAddr) -> Self {
        Self { first: address, last: address }
    }

    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether `address` lies inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && self.first <= address && address <= self.last
    }

    /// The overlap with `other`, if any.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last))
            .filter(|_| self.first.is_ipv4() == other.first.is_ipv4())
    }
}

/// Ports (or ICMP type in the high and code in the low octet, RFC 4301 §4.4.1.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ports {
    /// Every value, and packets that show none.
    Any,
    /// Only packets whose ports are hidden (RFC 4301 OPAQUE: fragments, nested encryption).
    Opaque,
    /// An inclusive range.
    Range(RangeInclusive<u16>),
}

/// What traffic a policy or an SA is about, seen from this gateway: `local` is the side behind us.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Addresses behind this gateway.
    pub local: AddressRange,
    /// Addresses behind the peer, of the same family.
    pub remote: AddressRange,
    /// Next layer protocol, `None` for any.
    pub protocol: Option<u8>,
    /// Ports on our side.
    pub local_ports: Ports,
    /// Ports on the peer's side.
    pub remote_ports: Ports,
}

impl Ports {
    /// Whether these are some ports, so that packets without any do not match.
    pub fn are_named(&self) -> bool {
        !self.matches(None)
    }
}

impl Selector {
    /// Whether it is for some ports of either side.
    pub fn names_ports(&self) -> bool {
        self.local_ports.are_named() || self.remote_ports.are_named()
    }
}

/// A policy's number, unique in the SPD and stable while the policy is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId(pub u32);

/// What happens to traffic that a policy matches (RFC 4301 §4.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Protected by the SA bound to the policy; without one an acquire is raised.
    Protect,
    /// Passes in clear.
    Bypass,
    /// Dropped and counted.
    Discard,
}

/// One entry of the SPD. The database is an ordered list: the first match decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its number.
    pub id: PolicyId,
    /// Any of these matches.
    pub selectors: Vec<Selector>,
    /// What to do.
    pub action: Action,
}
