//! Virtual addresses: pools of them, and who has which.

use crate::config::{Identity, Pool};
use crate::event::IkeId;
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

/// Who has an address of a pool.
struct Lease {
    owner: Identity,
    holders: BTreeSet<IkeId>,
}

/// The addresses that peers have. As many as there are IKE SAs at most, each with one.
#[derive(Default)]
pub(crate) struct Leases {
    taken: BTreeMap<IpAddr, Lease>,
    by_ike: BTreeMap<IkeId, IpAddr>,
}

impl Leases {
    /// An address of a pool for the peer of an IKE SA: the one it asks for, if that is free or its own under another IKE SA, or
    /// else the lowest that is free. `None` when all are taken.
    pub(crate) fn take(
        &mut self,
        pool: &Pool,
        owner: &Identity,
        ike: IkeId,
        wanted: Option<IpAddr>,
    ) -> Option<IpAddr> {
        if let Some(known) = self.by_ike.get(&ike) {
            return Some(*known);
        }
        let (first, last) = (pool.addresses.first(), pool.addresses.last());
        let may = |lease: Option<&Lease>| lease.is_none_or(|lease| lease.owner == *owner);
        let wanted = wanted
            .filter(|wanted| wanted.is_ipv4() == first.is_ipv4())
            .filter(|wanted| (first..=last).contains(wanted) && may(self.taken.get(wanted)));
        let address = wanted.or_else(|| self.lowest(first, last))?;
        let lease = self
            .taken
            .entry(address)
            .or_insert_with(|| Lease { owner: owner.clone(), holders: BTreeSet::new() });
        lease.holders.insert(ike);
        self.by_ike.insert(ike, address);
        Some(address)
    }

    /// At most as many steps as there are leases.
    fn lowest(&self, first: IpAddr, last: IpAddr) -> Option<IpAddr> {
        let mut free = Some(first);
        for (taken, _) in self.taken.range(first..=last) {
            if free != Some(*taken) {
                break;
            }
            free = after(*taken).filter(|next| *next <= last);
        }
        free
    }

    /// An IKE SA is over.
    pub(crate) fn release(&mut self, ike: IkeId) {
        let Some(address) = self.by_ike.remove(&ike) else { return };
        if let Some(lease) = self.taken.get_mut(&address) {
            lease.holders.remove(&ike);
            if lease.holders.is_empty() {
                self.taken.remove(&address);
            }
        }
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
}
