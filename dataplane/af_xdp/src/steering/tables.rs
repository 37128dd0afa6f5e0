//! What the steering program decides by, and its form in the maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// An address prefix; bits behind its length are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix of this length that `address` lies in; `None` when the length is more than the family has.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(a) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4((u32::from(a) & mask).into())
            }
            IpAddr::V6(a) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6((u128::from(a) & mask).into())
            }
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        Some(Self { address, length })
    }

    /// The prefix of one address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that matter.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether all of `other` lies in this prefix.
    pub fn covers(&self, other: &Self) -> bool {
        self.length <= other.length && Self::new(other.address, self.length) == Some(*self)
    }

    fn octets(&self) -> Vec<u8> {
        match self.address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        }
    }
}

/// Which sides of policies a prefix may stand on. A packet between a `near` and a `far` address, either way,
/// goes to the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sides {
    /// On our side: a policy's local selector.
    pub near: bool,
    /// On the peer's side: a policy's remote selector.
    pub far: bool,
}

impl Sides {
    /// The local selector of a policy.
    pub const NEAR: Self = Self { near: true, far: false };
    /// The remote selector of a policy.
    pub const FAR: Self = Self { near: false, far: true };
    /// Either, in different policies.
    pub const BOTH: Self = Self { near: true, far: true };

    /// On any side that one of the two is on.
    pub fn union(self, other: Self) -> Self {
        Self { near: self.near || other.near, far: self.far || other.far }
    }

    /// As the program has it: the sides in bits 0 and 1, the opposite sides in bits 8 and 9, so that one
    /// shift and one AND match two addresses.
    fn word(self) -> u32 {
        let (near, far) = (u32::from(self.near), u32::from(self.far));
        near | far << 1 | far << 8 | near << 9
    }
}

/// What happens to unprotected packets for one of the host's own addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostTraffic {
    /// They are the kernel's: a policy of 0.0.0.0/0 does not cut the host off.
    Kernel,
    /// They are matched like those in transit, the exempt ones first: a policy names this address, so what it
    /// protects must not reach the host in clear.
    Guarded,
}

/// Packets for a guarded address that are the kernel's nevertheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exempt {
    /// IP protocol.
    pub protocol: u8,
    /// Destination port; `None` for any, and for protocols without ports.
    pub port: Option<u16>,
    /// Where they come from.
    pub source: Prefix,
}

/// Everything the program decides by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// The host's own addresses.
    pub local: BTreeMap<IpAddr, HostTraffic>,
    /// UDP ports on which ESP arrives (RFC 3948 §2.1), usually 4500.
    pub encapsulation_ports: BTreeSet<u16>,
    /// What stays with the kernel though its destination is guarded.
    pub exempt: BTreeSet<Exempt>,
    /// Prefixes of policies. What holds for a prefix holds for every longer one in it.
    pub prefixes: BTreeMap<Prefix, Sides>,
}

impl Tables {
    /// No addresses and no policies, ESP in UDP on port 4500, IKE on 500 and 4500 exempt.
    pub fn new() -> Self {
        let everywhere =
            [IpAddr::from([0; 4]), IpAddr::from([0; 16])].map(|a| Prefix { address: a, length: 0 });
        let exempt = everywhere
            .into_iter()
            .flat_map(|source| {
                [500, 4500].map(|port| Exempt { protocol: 17, port: Some(port), source })
            })
            .collect();
        Self { encapsulation_ports: [4500].into(), exempt, ..Self::default() }
    }

    /// Adds the two ends of a policy.
    pub fn protect(&mut self, near: Prefix, far: Prefix) {
        for (prefix, sides) in [(near, Sides::NEAR), (far, Sides::FAR)] {
            let entry = self.prefixes.entry(prefix).or_default();
            *entry = entry.union(sides);
        }
    }

    /// Rules that match all that either of two sets matches. On the way from one set to another they come between,
    /// for a packet whose source is looked up in the old one and its destination in the new one may match
    /// neither: every change up to here adds matches, and every change from here on takes only such away as
    /// the new set does not have.
    pub(super) fn union(&self, new: &Self) -> Self {
        let mut both = new.clone();
        for (address, traffic) in &self.local {
            both.local.entry(*address).or_insert(*traffic);
        }
        both.encapsulation_ports.extend(&self.encapsulation_ports);
        both.exempt.extend(&self.exempt);
        for (prefix, sides) in &self.prefixes {
            let entry = both.prefixes.entry(*prefix).or_default();
            *entry = entry.union(*sides);
        }
        both
    }

    /// The entries of the maps. A trie answers with the longest prefix only, so each carries what its covers
    /// say too.
    pub(super) fn entries(&self) -> Entries {
        let mut entries = Entries::default();
        for (address, traffic) in &self.local {
            let guarded = u32::from(*traffic == HostTraffic::Guarded);
            entries.insert(MapName::local(address), Prefix::host(*address).octets(), guarded);
        }
        for port in &self.encapsulation_ports {
            // As the program has it: the port as it stands in the packet, in a word.
            entries.insert(
                MapName::EncapsulationPorts,
                u32::from(port.to_be()).to_ne_bytes().to_vec(),
                1,
            );
        }
        for exempt in &self.exempt {
            // { prefix length, protocol, 0, port, address }
            let length = 32 + u32::from(exempt.source.length);
            let mut key = length.to_ne_bytes().to_vec();
            key.extend([exempt.protocol, 0]);
            key.extend(exempt.port.unwrap_or(0).to_be_bytes());
            key.extend(exempt.source.octets());
            entries.insert(MapName::exempt(&exempt.source.address), key, 1);
        }
        // In this order a prefix comes behind all that cover it, and those that cover it are a stack.
        let mut covers: Vec<(Prefix, Sides)> = Vec::new();
        for (prefix, sides) in &self.prefixes {
            while covers.last().is_some_and(|(c, _)| !c.covers(prefix)) {
                covers.pop();
            }
            let sides = covers.last().map_or(*sides, |(_, s)| s.union(*sides));
            covers.push((*prefix, sides));
            let mut key = u32::from(prefix.length).to_ne_bytes().to_vec();
            key.extend(prefix.octets());
            entries.insert(MapName::prefixes(&prefix.address), key, sides.word());
        }
        entries
    }
}

/// The maps that all devices share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum MapName {
    Local4,
    Local6,
    EncapsulationPorts,
    Exempt4,
    Exempt6,
    Prefixes4,
    Prefixes6,
}

impl MapName {
    fn local(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::Local4 } else { Self::Local6 }
    }
    fn exempt(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::Exempt4 } else { Self::Exempt6 }
    }
    fn prefixes(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::Prefixes4 } else { Self::Prefixes6 }
    }
}

/// Keys and values of all maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entries(pub(super) BTreeMap<(MapName, Vec<u8>), u32>);

/// One change of one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Set(MapName, Vec<u8>, u32),
    Remove(MapName, Vec<u8>),
}

impl Entries {
    /// The changes that lead from these entries to `to`.
    pub(super) fn changes(&self, to: &Self) -> Vec<Change> {
        let set =
            to.0.iter()
                .filter(|(key, value)| self.0.get(*key) != Some(value))
                .map(|((map, key), value)| Change::Set(*map, key.clone(), *value));
        let remove = self
            .0
            .keys()
            .filter(|key| !to.0.contains_key(*key))
            .map(|(map, key)| Change::Remove(*map, key.clone()));
        set.chain(remove).collect()
    }

    /// Follows a change.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Set(map, key, value) => self.0.insert((map, key), value),
            Change::Remove(map, key) => self.0.remove(&(map, key)),
        };
    }

    fn insert(&mut self, map: MapName, key: Vec<u8>, value: u32) {
        self.0.insert((map, key), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').unwrap();
        Prefix::new(address.parse().unwrap(), length.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_prefix_forgets_its_host_bits() {
        assert_eq!(prefix("10.1.2.3/16"), prefix("10.1.0.0/16"));
        assert_eq!(prefix("1.2.3.4/0").address(), IpAddr::from([0; 4]));
        assert_eq!(prefix("2001:db8::1/0").address(), IpAddr::from([0; 16]));
        assert_eq!(Prefix::new(IpAddr::from([0; 4]), 33), None);
        assert_eq!(Prefix::new(IpAddr::from([0; 16]), 129), None);
        assert!(prefix("0.0.0.0/0").covers(&prefix("10.0.0.0/8")));
        assert!(!prefix("::/0").covers(&prefix("10.0.0.0/8")));
    }

    type Rules = Vec<(u8, u8, bool, bool)>;

    fn rules() -> impl Strategy<Value = Rules> {
        proptest::collection::vec((any::<u8>(), 0u8..=8, any::<bool>(), any::<bool>()), 0..12)
    }

    fn tables(rules: Rules) -> Tables {
        let mut tables = Tables::default();
        for (bits, length, near, far) in rules {
            let prefix = Prefix::new(IpAddr::from([bits, 0, 0, 0]), length).unwrap();
            tables.prefixes.insert(prefix, Sides { near, far });
        }
        tables
    }

    /// What the program's two lookups and the AND make of two addresses.
    fn matches(entries: &Entries, source: u8, destination: u8) -> bool {
        let look_up = |address: u8| {
            let host = Prefix::host(IpAddr::from([address, 1, 2, 3]));
            (0..=32).rev().find_map(|length| {
                let prefix = Prefix::new(host.address(), length).unwrap();
                let mut key = u32::from(length).to_ne_bytes().to_vec();
                key.extend(prefix.octets());
                entries.0.get(&(MapName::Prefixes4, key)).copied()
            })
        };
        match (look_up(source), look_up(destination)) {
            (Some(s), Some(d)) => s & (d >> 8) & 3 != 0,
            _ => false,
        }
    }

    proptest! {
        /// At every step of a change, a packet that the old and the new rules match is matched.
        #[test]
        fn a_change_opens_no_gap(old in rules(), new in rules(), packets in any::<[(u8, u8); 16]>()) {
            let (old, new) = (tables(old), tables(new));
            let mut entries = old.entries();
            let always: Vec<_> = packets.into_iter()
                .filter(|(s, d)| matches(&entries, *s, *d) && matches(&new.entries(), *s, *d))
                .collect();
            for target in [old.union(&new), new.clone()] {
                for change in entries.changes(&target.entries()) {
                    entries.apply(change);
                    for (s, d) in &always {
                        prop_assert!(matches(&entries, *s, *d), "{s} {d}");
                    }
                }
            }
            prop_assert_eq!(entries, new.entries());
        }

        /// The oracle: the union over every prefix that holds the address. Few and short bits, so that prefixes
        /// do cover each other.
        #[test]
        fn the_longest_prefix_says_what_all_its_covers_say(
            rules in rules(),
            address in any::<u8>(),
        ) {
            let tables = tables(rules);
            let host = Prefix::host(IpAddr::from([address, 1, 2, 3]));
            let all = tables.prefixes.iter().filter(|(p, _)| p.covers(&host)).map(|(_, s)| *s)
                .reduce(Sides::union);
            let longest = tables.prefixes.keys().filter(|p| p.covers(&host)).max_by_key(|p| p.length());
            let word = longest.map(|p| {
                let mut key = u32::from(p.length()).to_ne_bytes().to_vec();
                key.extend(p.octets());
                tables.entries().0[&(MapName::Prefixes4, key)]
            });
            prop_assert_eq!(word, all.map(Sides::word));
        }
    }
}
