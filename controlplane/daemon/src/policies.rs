//! The SPD as the configuration and the negotiated children make it (RFC 4301 §4.4.1).
//!
//! Every configured child has its policy from the moment it is loaded, whether or not it is up:
//! that is what fails closed. `start_action = trap` only decides whether traffic asks for the SA.
//! A child whose selectors are known only once negotiated (`dynamic` towards any peer) gets its
//! policy with the SA. What no policy names is bypassed, as the kernels' IPsec does it.

use ike::config::{ChildAction, ChildMode, Config, Connection, TrafficSelector};
use ipsec::sa::PairId;
use ipsec::selector::{Action, AddressRange, Policy, PolicyId, Ports, Selector};
use std::collections::{BTreeMap, BTreeSet};

/// The last entry of the SPD.
const DEFAULT_POLICY: PolicyId = PolicyId(0);

/// Names a child.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChildKey {
    /// The connection.
    pub connection: String,
    /// The child.
    pub child: String,
}

#[derive(Debug)]
struct Entry {
    id: PolicyId,
    key: ChildKey,
    order: u32,
    selectors: Vec<Selector>,
    action: Action,
    trap: bool,
    /// The pairs that brought it, empty for a configured one.
    pairs: BTreeSet<PairId>,
}

/// All policies, and which pairs use them.
#[derive(Debug, Default)]
pub struct Policies {
    configured: Vec<Entry>,
    negotiated: Vec<Entry>,
    ids: BTreeMap<ChildKey, PolicyId>,
    last: u32,
}

impl Policies {
    /// Takes the children of a configuration; unchanged ones keep their policy's number.
    pub fn configure(&mut self, config: &Config) {
        self.configured.clear();
        for connection in &config.connections {
            for child in &connection.children {
                let selectors =
                    selectors(connection, &child.local_ts, &child.remote_ts).collect::<Vec<_>>();
                if selectors.is_empty() {
                    continue;
                }
                let key = ChildKey {
                    connection: connection.name.clone(),
                    child: child.name.clone(),
                };
                let action = match child.mode {
                    ChildMode::Protect(_) => Action::Protect,
                    ChildMode::Pass => Action::Bypass,
                    ChildMode::Drop => Action::Discard,
                };
                let id = match self.ids.get(&key) {
                    Some(id) => *id,
                    None => {
                        let id = self.fresh();
                        self.ids.insert(key.clone(), id);
                        id
                    }
                };
                self.configured.push(Entry {
                    id,
                    key,
                    order: order(child.priority, action, &selectors),
                    selectors,
                    action,
                    trap: [child.start_action, child.close_action, child.dpd_action]
                        .contains(&ChildAction::Trap),
                    pairs: BTreeSet::new(),
                });
            }
        }
    }

    /// The policy that a negotiated pair serves, and whether the SPD changed by it.
    pub fn serve(&mut self, key: &ChildKey, pair: PairId, agreed: &[Selector]) -> (PolicyId, bool) {
        if let Some(entry) = self.configured.iter().find(|entry| {
            entry.key == *key && agreed.iter().all(|s| entry.selectors.iter().any(|c| covers(c, s)))
        }) {
            return (entry.id, false);
        }
        if let Some(entry) =
            self.negotiated.iter_mut().find(|e| e.key == *key && e.selectors == agreed)
        {
            entry.pairs.insert(pair);
            return (entry.id, false);
        }
        let id = self.fresh();
        self.negotiated.push(Entry {
            id,
            key: key.clone(),
            order: order(0, Action::Protect, agreed),
            selectors: agreed.to_vec(),
            action: Action::Protect,
            trap: false,
            pairs: BTreeSet::from([pair]),
        });
        (id, true)
    }

    /// Forgets a pair; true when a policy went with it.
    pub fn release(&mut self, pair: PairId) -> bool {
        let before = self.negotiated.len();
        self.negotiated.retain_mut(|entry| !entry.pairs.remove(&pair) || !entry.pairs.is_empty());
        self.negotiated.len() != before
    }

    /// The child that traffic of this policy may ask for.
    pub fn trapped(&self, id: PolicyId) -> Option<&ChildKey> {
        self.configured.iter().find(|entry| entry.id == id && entry.trap).map(|entry| &entry.key)
    }

    /// The child a policy belongs to.
    pub fn owner(&self, id: PolicyId) -> Option<&ChildKey> {
        self.configured.iter().chain(&self.negotiated).find(|e| e.id == id).map(|e| &e.key)
    }

    /// The database, in order, with the default at its end.
    pub fn ordered(&self) -> Vec<Policy> {
        let mut entries: Vec<_> = self.configured.iter().chain(&self.negotiated).collect();
        entries.sort_by_key(|entry| (entry.order, entry.id));
        entries
            .into_iter()
            .map(|entry| Policy {
                id: entry.id,
                selectors: entry.selectors.clone(),
                action: entry.action,
            })
            .chain([Policy {
                id: DEFAULT_POLICY,
                selectors: everything(),
                action: Action::Bypass,
            }])
            .collect()
    }

    /// What must never be on a wire in clear, and what is exempt from that although it overlaps.
    pub fn guarded(&self) -> (Vec<Selector>, Vec<Selector>) {
        let of = |actions: &[Action]| {
            self.configured
                .iter()
                .chain(&self.negotiated)
                .filter(|entry| actions.contains(&entry.action))
                .flat_map(|entry| entry.selectors.iter().cloned())
                .collect()
        };
        (of(&[Action::Protect, Action::Discard]), of(&[Action::Bypass]))
    }

    fn fresh(&mut self) -> PolicyId {
        self.last += 1;
        PolicyId(self.last)
    }
}

/// The pairs of local and remote selectors that a child stands for, as far as they are known
/// before negotiation.
fn selectors<'a>(
    connection: &'a Connection,
    local: &'a [TrafficSelector],
    remote: &'a [TrafficSelector],
) -> impl Iterator<Item = Selector> + 'a {
    let resolve = |ts: &TrafficSelector, ends: &[AddressRange]| {
        ts.addresses.or_else(|| match ends {
            [one] if one.first() == one.last() => Some(*one),
            _ => None,
        })
    };
    local.iter().flat_map(move |near| {
        remote.iter().filter_map(move |far| {
            let local = resolve(near, &connection.local_addrs)?;
            let remote = resolve(far, &connection.remote_addrs)?;
            let protocol = match (near.protocol, far.protocol) {
                (Some(a), Some(b)) if a != b => return None,
                (a, b) => a.or(b),
            };
            (local.first().is_ipv4() == remote.first().is_ipv4()).then(|| Selector {
                local,
                remote,
                protocol,
                local_ports: near.ports.clone(),
                remote_ports: far.ports.clone(),
            })
        })
    })
}

/// Sort key: a manual priority first, then BYPASS before the others, then the narrower one, as
/// charon computes it.
fn order(manual: u32, action: Action, selectors: &[Selector]) -> u32 {
    if manual != 0 {
        return manual;
    }
    let base = if action == Action::Bypass { 100_000 } else { 200_000 };
    let narrowness = |s: &Selector| {
        let ports = |p: &Ports| if *p == Ports::Any { 0 } else { 16 };
        bits(&s.local)
            + bits(&s.remote)
            + if s.protocol.is_some() { 8 } else { 0 }
            + ports(&s.local_ports)
            + ports(&s.remote_ports)
    };
    base - selectors.iter().map(narrowness).min().unwrap_or(0)
}

/// Bits of an address that a range fixes.
fn bits(range: &AddressRange) -> u32 {
    use core::net::IpAddr;
    match (range.first(), range.last()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a) ^ u128::from(b)).leading_zeros(),
        _ => 0,
    }
}

fn covers(wide: &Selector, narrow: &Selector) -> bool {
    let range = |w: &AddressRange, n: &AddressRange| w.contains(n.first()) && w.contains(n.last());
    let ports = |w: &Ports, n: &Ports| match (w, n) {
        (Ports::Any, _) => true,
        (Ports::Range(w), Ports::Range(n)) => w.start() <= n.start() && n.end() <= w.end(),
        (w, n) => w == n,
    };
    range(&wide.local, &narrow.local)
        && range(&wide.remote, &narrow.remote)
        && (wide.protocol.is_none() || wide.protocol == narrow.protocol)
        && ports(&wide.local_ports, &narrow.local_ports)
        && ports(&wide.remote_ports, &narrow.remote_ports)
}

fn everything() -> Vec<Selector> {
    use core::net::{Ipv4Addr, Ipv6Addr};
    [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
        .into_iter()
        .filter_map(|any| AddressRange::prefix(any, 0))
        .map(|any| Selector {
            local: any,
            remote: any,
            protocol: None,
            local_ports: Ports::Any,
            remote_ports: Ports::Any,
        })
        .collect()
}
