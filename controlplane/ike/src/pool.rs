//! Virtual addresses: pools of them, and who has which.

use crate::config::{Identity, Pool};
use crate::event::IkeId;
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Addresses that are remembered for peers who are away, over all pools: some 10 MB with identities of 500 octets. One more forgets
/// who went first.
const REMEMBERED: usize = 16_384;

/// Who has an address of a pool, or had it last.
struct Lease {
    owner: Identity,
    holders: BTreeSet<IkeId>,
    /// When the last holder went, if there is none: a number that grows.
    left: Option<u64>,
}

/// The addresses that peers have, as many as there are IKE SAs at most, each with one of each family; and those that peers had, who get
/// them again when they come back.
#[derive(Default)]
pub(crate) struct Leases {
    known: BTreeMap<IpAddr, Lease>,
    by_ike: BTreeMap<IkeId, BTreeSet<IpAddr>>,
    /// Nobody has them now: who left first comes first.
    away: BTreeMap<u64, IpAddr>,
    by_owner: HashMap<Identity, BTreeSet<IpAddr>>,
    departures: u64,
}

impl Leases {
    /// An address of a pool for the peer of an IKE SA. In this order: the one it asks for, if that is free or its own, also under another
    /// IKE SA; the one it had before; the lowest that nobody had; of those that others had the one that was left first. `None` when all
    /// are taken.
    pub(crate) fn take(
        &mut self,
        pool: &Pool,
        owner: &Identity,
        ike: IkeId,
        wanted: Option<IpAddr>,
    ) -> Option<IpAddr> {
        let range = pool.addresses;
        let v4 = range.first().is_ipv4();
        let held = self.by_ike.get(&ike).into_iter().flatten();
        if let Some(known) = held.copied().find(|address| address.is_ipv4() == v4) {
            return Some(known);
        }
        let may = |address: &IpAddr| {
            self.known
                .get(address)
                .is_none_or(|lease| lease.owner == *owner || lease.left.is_some())
        };
        let wanted = wanted.filter(|wanted| range.contains(*wanted) && may(wanted));
        let address = wanted
            .or_else(|| self.had(range.first(), range.last(), owner))
            .or_else(|| self.lowest(range.first(), range.last()))
            .or_else(|| self.away.values().copied().find(|address| range.contains(*address)))?;
        self.give(address, owner, ike);
        Some(address)
    }

    /// The successor of an IKE SA has what that has.
    pub(crate) fn share(&mut self, from: IkeId, to: IkeId) {
        let Some(addresses) = self.by_ike.get(&from).cloned() else { return };
        for address in &addresses {
            if let Some(lease) = self.known.get_mut(address) {
                lease.holders.insert(to);
            }
        }
        self.by_ike.insert(to, addresses);
    }

    /// An IKE SA is over.
    pub(crate) fn release(&mut self, ike: IkeId) {
        for address in self.by_ike.remove(&ike).unwrap_or_default() {
            let Some(lease) = self.known.get_mut(&address) else { continue };
            lease.holders.remove(&ike);
            if lease.holders.is_empty() {
                self.departures += 1;
                lease.left = Some(self.departures);
                self.away.insert(self.departures, address);
            }
        }
        while self.away.len() > REMEMBERED {
            let Some((_, address)) = self.away.pop_first() else { return };
            self.forget(address);
        }
    }

    fn give(&mut self, address: IpAddr, owner: &Identity, ike: IkeId) {
        let left = self.known.get(&address).and_then(|lease| lease.left);
        if let Some(left) = left {
            self.away.remove(&left);
            if self.known.get(&address).is_some_and(|lease| lease.owner != *owner) {
                self.forget(address);
            }
        }
        let lease = self.known.entry(address).or_insert_with(|| Lease {
            owner: owner.clone(),
            holders: BTreeSet::new(),
            left: None,
        });
        lease.left = None;
        lease.holders.insert(ike);
        self.by_ike.entry(ike).or_default().insert(address);
        self.by_owner.entry(owner.clone()).or_default().insert(address);
    }

    fn forget(&mut self, address: IpAddr) {
        let Some(lease) = self.known.remove(&address) else { return };
        if let Some(addresses) = self.by_owner.get_mut(&lease.owner) {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.by_owner.remove(&lease.owner);
            }
        }
    }

    /// The address that a peer had, and nobody has now. At most as many steps as it had addresses.
    fn had(&self, first: IpAddr, last: IpAddr, owner: &Identity) -> Option<IpAddr> {
        let addresses = self.by_owner.get(owner)?.range(first..=last);
        let free = |address: &&IpAddr| self.known.get(address).is_some_and(|l| l.left.is_some());
        addresses.copied().find(|address| free(&address))
    }

    /// The lowest that nobody had. At most as many steps as there are leases.
    fn lowest(&self, first: IpAddr, last: IpAddr) -> Option<IpAddr> {
        let mut free = Some(first);
        for (taken, _) in self.known.range(first..=last) {
            if free != Some(*taken) {
                break;
            }
            free = after(*taken).filter(|next| *next <= last);
        }
        free
    }
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => u32::from(a).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(a) => u128::from(a).checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipsec::selector::AddressRange;

    fn pool(first: &str, last: &str) -> Pool {
        let range = AddressRange::new(first.parse().unwrap(), last.parse().unwrap()).unwrap();
        Pool { name: "p".to_owned(), addresses: range, dns: Vec::new() }
    }

    fn id(name: &str) -> Identity {
        Identity::Fqdn(name.to_owned())
    }

    #[test]
    fn a_pool_gives_each_address_once_and_takes_it_back() {
        for (first, last) in [("10.9.0.1", "10.9.0.3"), ("fd09::1", "fd09::3")] {
            let pool = pool(first, last);
            let mut leases = Leases::default();
            let given: Vec<_> =
                (1..=3).map(|n| leases.take(&pool, &id("x"), IkeId(n), None).unwrap()).collect();
            assert_eq!(given.first(), Some(&first.parse().unwrap()));
            assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 3);
            assert_eq!(leases.take(&pool, &id("x"), IkeId(4), None), None);
            // Twice is once.
            assert_eq!(leases.take(&pool, &id("x"), IkeId(2), None), Some(given[1]));
            leases.release(IkeId(2));
            leases.release(IkeId(2));
            assert_eq!(leases.take(&pool, &id("y"), IkeId(4), None), Some(given[1]));
        }
    }

    #[test]
    fn what_a_peer_asks_for() {
        let pool = pool("10.9.0.1", "10.9.0.9");
        let mut leases = Leases::default();
        let wanted = |text: &str| Some(text.parse().unwrap());
        assert_eq!(leases.take(&pool, &id("x"), IkeId(1), wanted("10.9.0.5")), wanted("10.9.0.5"));
        // Its own, under the IKE SA that renews the first; nobody else's.
        assert_eq!(leases.take(&pool, &id("x"), IkeId(2), wanted("10.9.0.5")), wanted("10.9.0.5"));
        assert_eq!(leases.take(&pool, &id("y"), IkeId(3), wanted("10.9.0.5")), wanted("10.9.0.1"));
        leases.release(IkeId(1));
        assert_eq!(leases.take(&pool, &id("y"), IkeId(4), wanted("10.9.0.5")), wanted("10.9.0.2"));
        leases.release(IkeId(2));
        assert_eq!(leases.take(&pool, &id("y"), IkeId(5), wanted("10.9.0.5")), wanted("10.9.0.5"));
        for outside in ["10.9.0.10", "192.0.2.1", "fd00::1"] {
            let mut leases = Leases::default();
            assert_eq!(leases.take(&pool, &id("x"), IkeId(1), wanted(outside)), wanted("10.9.0.1"));
        }
    }

    /// As charon: who comes back has the address from before, while there are others; then who left first loses it.
    #[test]
    fn a_peer_who_comes_back_has_its_address_again() {
        let pool = pool("10.9.0.1", "10.9.0.3");
        let mut leases = Leases::default();
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        for (n, name) in [(1, "a"), (2, "b")] {
            leases.take(&pool, &id(name), IkeId(n), None).unwrap();
            leases.release(IkeId(n));
        }
        assert_eq!(leases.take(&pool, &id("c"), IkeId(3), None), address("10.9.0.3"));
        assert_eq!(leases.take(&pool, &id("b"), IkeId(4), None), address("10.9.0.2"));
        assert_eq!(leases.take(&pool, &id("d"), IkeId(5), None), address("10.9.0.1"), "a's");
        assert_eq!(leases.take(&pool, &id("a"), IkeId(6), None), None);
        // The second SA of one peer has another address, unless it asks for the same.
        leases.release(IkeId(3));
        assert_eq!(leases.take(&pool, &id("b"), IkeId(7), None), address("10.9.0.3"));
    }

    #[test]
    fn a_successor_has_the_address_too() {
        let pool = pool("10.9.0.1", "10.9.0.1");
        let mut leases = Leases::default();
        let given = leases.take(&pool, &id("a"), IkeId(1), None);
        leases.share(IkeId(1), IkeId(2));
        leases.release(IkeId(1));
        assert_eq!(leases.take(&pool, &id("b"), IkeId(3), None), None, "still taken");
        leases.release(IkeId(2));
        assert_eq!(leases.take(&pool, &id("b"), IkeId(3), None), given);
    }

    #[test]
    fn as_many_as_are_remembered_and_no_more() {
        let pool = pool("10.0.0.0", "10.255.255.255");
        let mut leases = Leases::default();
        for n in 0..REMEMBERED as u64 + 100 {
            leases.take(&pool, &id(&n.to_string()), IkeId(n), None).unwrap();
        }
        for n in 0..REMEMBERED as u64 + 100 {
            leases.release(IkeId(n));
        }
        assert_eq!((leases.known.len(), leases.away.len()), (REMEMBERED, REMEMBERED));
        assert_eq!(leases.by_owner.len(), REMEMBERED);
        assert!(leases.by_ike.is_empty());
        let last = leases.take(&pool, &id(&(REMEMBERED + 99).to_string()), IkeId(0), None);
        assert_eq!(
            last,
            Some(IpAddr::from(u32::to_be_bytes(0x0a00_0000 + REMEMBERED as u32 + 99)))
        );
        assert_eq!(leases.take(&pool, &id("50"), IkeId(1), None), Some([10, 0, 0, 0].into()));
    }
}
