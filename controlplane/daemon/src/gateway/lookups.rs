//! Tells of policies that are slow to look packets up in.

use crate::config::Configuration;
use crate::policies::Policies;
use ipsec::spd::{Cost, Spd};

/// Hash tables and comparisons together that take about as long as a burst of packets.
const SLOW: usize = 2000;

/// What is said of such policies, beside what the worst lookup costs.
pub const SLOW_LOOKUPS: &str = "the selectors have very many pairs of prefix lengths above one pair of addresses: the first packet \
     of a flow may cost a worker as much as a burst of others";

/// What a lookup in a configuration's policies costs at most, if that is much: the gateway warns when it loads them.
pub fn slow_lookups(configuration: &Configuration) -> Option<Cost> {
    let mut policies = Policies::default();
    policies.configure(&configuration.ike, &configuration.left_out);
    let cost = Spd::compile(&policies.ordered(), 1).worst_case();
    is_slow(cost).then_some(cost)
}

fn is_slow(cost: Cost) -> bool {
    cost.probes + cost.comparisons > SLOW
}

/// What was told.
#[derive(Debug, Default)]
pub(super) struct SlowLookups {
    told: bool,
}

impl SlowLookups {
    /// Warns of policies, where those before were not as slow; says whether it did.
    pub(super) fn tell(&mut self, cost: Cost) -> bool {
        let is_slow = is_slow(cost);
        let tells = is_slow && !core::mem::replace(&mut self.told, is_slow);
        self.told = is_slow;
        if tells {
            let Cost { probes, comparisons } = cost;
            tracing::warn!(probes, comparisons, "{SLOW_LOOKUPS}");
        }
        tells
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipsec::selector::{Action, AddressRange, Policy, PolicyId, Ports, Selector};
    use ipsec::spd::Spd;

    /// Every pair of prefix lengths above one pair of addresses is told of once; networks side by side never.
    #[test]
    fn only_selectors_in_each_other_are_told_of() {
        let policy = |n: u32, local: (u32, u8), remote: (u32, u8)| {
            let prefix = |(bits, len): (u32, u8)| {
                AddressRange::prefix(core::net::Ipv4Addr::from_bits(bits).into(), len).unwrap()
            };
            let (local, remote) = (prefix(local), prefix(remote));
            let (local_ports, remote_ports) = (Ports::Any, Ports::Any);
            let selectors =
                vec![Selector { local, remote, protocol: None, local_ports, remote_ports }];
            Policy { id: PolicyId(n), selectors, action: Action::Protect }
        };
        let nested: Vec<_> = (0..33 * 33)
            .map(|n| policy(n, (0x0a01_0203, (n % 33) as u8), (0x1401_0203, (n / 33) as u8)))
            .collect();
        let apart: Vec<_> =
            (0..5000).map(|n| policy(n, (0x0a00_0000, 8), (0x1400_0000 + (n << 8), 24))).collect();
        let cost = |policies: &[Policy]| Spd::compile(policies, 1).worst_case();
        let mut slow = SlowLookups::default();
        let told: Vec<_> = [&apart, &nested, &nested, &apart, &nested]
            .map(|policies| slow.tell(cost(policies)))
            .into();
        assert_eq!(told, [false, true, false, false, true]);
    }
}
