//! The pairs that are up and the tunnels they make, counted as they come and go.

use core::net::IpAddr;
use ipsec::sa::{Mode, SaParameters};
use std::collections::BTreeMap;

/// What tells one tunnel from another (statistics.md, `active_tunnels`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Endpoints {
    tunnel: bool,
    local: IpAddr,
    /// The peer's outer address.
    pub(crate) remote: IpAddr,
    /// The peer's UDP port where packets are encapsulated.
    pub(crate) port: Option<u16>,
}

impl Endpoints {
    pub(crate) const fn is_tunnel(&self) -> bool {
        self.tunnel
    }

    pub(crate) fn of(sa: &SaParameters) -> Self {
        Self {
            tunnel: sa.mode == Mode::Tunnel,
            local: sa.local,
            remote: sa.remote,
            port: sa.encap.map(|encap| encap.remote_port),
        }
    }
}

/// How many pairs there are between which endpoints.
#[derive(Debug, Default)]
pub(crate) struct Live {
    between: BTreeMap<Endpoints, u64>,
    pairs: u64,
    tunnels: u64,
}

impl Live {
    /// A pair is up.
    pub(crate) fn enter(&mut self, endpoints: Endpoints) {
        let count = self.between.entry(endpoints).or_default();
        *count += 1;
        self.pairs += 1;
        self.tunnels += u64::from(*count == 1 && endpoints.tunnel);
    }

    /// A pair that was up is gone.
    pub(crate) fn leave(&mut self, endpoints: Endpoints) {
        let Some(count) = self.between.get_mut(&endpoints) else { return };
        *count -= 1;
        self.pairs -= 1;
        if *count == 0 {
            self.between.remove(&endpoints);
            self.tunnels -= u64::from(endpoints.tunnel);
        }
    }

    /// Active pairs.
    pub(crate) const fn pairs(&self) -> u64 {
        self.pairs
    }

    /// Active tunnels.
    pub(crate) const fn tunnels(&self) -> u64 {
        self.tunnels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_pairs_of_a_rekey_are_one_tunnel_and_transport_is_none() {
        let tunnel = |port| Endpoints {
            tunnel: true,
            local: "192.0.2.1".parse().unwrap(),
            remote: "192.0.2.2".parse().unwrap(),
            port,
        };
        let transport = Endpoints { tunnel: false, ..tunnel(None) };
        let mut live = Live::default();
        for endpoints in [tunnel(None), tunnel(None), tunnel(Some(4500)), transport] {
            live.enter(endpoints);
        }
        assert_eq!((live.pairs(), live.tunnels()), (4, 2));
        live.leave(tunnel(None));
        assert_eq!((live.pairs(), live.tunnels()), (3, 2));
        live.leave(tunnel(None));
        live.leave(transport);
        live.leave(transport);
        assert_eq!((live.pairs(), live.tunnels()), (1, 1));
    }
}
