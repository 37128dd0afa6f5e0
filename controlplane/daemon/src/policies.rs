//! The SPD as the configuration and the negotiated children make it (RFC 4301 §4.4.1).
//!
//! Every configured child has its policy from the moment it is loaded, whether or not it is up:
//! that is what fails closed. `start_action = trap` only decides whether traffic asks for the SA.
//! A child whose selectors are known only once negotiated (`dynamic` towards any peer) gets its
//! policy with the SA. What no policy names is bypassed, as the kernels' IPsec does it.

use crate::config::LeftOut;
use ike::config::{Child, ChildAction, ChildMode, Config, TrafficSelector};
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
    /// What is in force: of a route-based child, as much of `whole` as is routed to its device.
    selectors: Vec<Selector>,
    /// What is configured or agreed.
    whole: Vec<Selector>,
    if_id: Option<u32>,
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
    /// Traffic within one connected prefix that a wider policy would catch: the gateway's own
    /// neighbours stay reachable under 0.0.0.0/0.
    connected: Vec<Entry>,
    ids: BTreeMap<ChildKey, PolicyId>,
    /// The route-based children.
    if_ids: BTreeMap<ChildKey, u32>,
    /// What the host routes to the devices of route-based children.
    routed: BTreeMap<u32, Vec<AddressRange>>,
    /// Children whose traffic goes in clear for now.
    soft: BTreeSet<ChildKey>,
    last: u32,
}

impl Policies {
    /// Takes the children of a configuration; unchanged ones keep their policy's number.
    ///
    /// The children of connections that cannot be done (`left_out`) have their policy too: their
    /// traffic is meant to be protected, so it is dropped. `mode = pass` and `mode = drop` hold
    /// with `start_action = trap` only, as with charon.
    pub fn configure(&mut self, config: &Config, left_out: &[LeftOut]) {
        self.configured.clear();
        self.if_ids.clear();
        for connection in &config.connections {
            let ends = [connection.local_addrs.as_slice(), &connection.remote_addrs];
            for child in &connection.children {
                self.add(&connection.name, child, ends);
            }
        }
        for connection in left_out {
            for child in &connection.children {
                self.add(&connection.name, child, [&[], &[]]);
            }
        }
    }

    fn add(&mut self, connection: &str, child: &Child, ends: [&[AddressRange]; 2]) {
        let selectors: Vec<_> = selectors(child, ends).collect();
        let trap = child.start_action == ChildAction::Trap;
        let action = match child.mode {
            ChildMode::Protect(_) => Action::Protect,
            ChildMode::Pass if trap => Action::Bypass,
            ChildMode::Drop if trap => Action::Discard,
            ChildMode::Pass | ChildMode::Drop => return,
        };
        let key = ChildKey { connection: connection.to_owned(), child: child.name.clone() };
        if let Some(if_id) = child.if_id {
            self.if_ids.insert(key.clone(), if_id);
        }
        if selectors.is_empty() {
            return;
        }
        let id = match self.ids.get(&key) {
            Some(id) => *id,
            None => {
                let id = self.fresh();
                self.ids.insert(key.clone(), id);
                id
            }
        };
        let whole = selectors;
        let selectors = self.routed_to(child.if_id, &whole);
        self.configured.push(Entry {
            id,
            key,
            order: order(child.priority, action, &selectors),
            selectors,
            whole,
            if_id: child.if_id,
            action,
            trap: trap || [child.close_action, child.dpd_action].contains(&ChildAction::Trap),
            pairs: BTreeSet::new(),
        });
    }

    /// Takes what the host routes to the devices of route-based children; true when the SPD changed by it.
    ///
    /// A route names a tunnel by its device, so that several children for everything share out the traffic as routing decides.
    /// What the SAs may carry stays what was agreed: a packet that comes in is not asked for the way back.
    pub fn set_routed(&mut self, routed: BTreeMap<u32, Vec<AddressRange>>) -> bool {
        if self.routed == routed {
            return false;
        }
        self.routed = routed;
        let mut entries = core::mem::take(&mut self.configured);
        let mut negotiated = core::mem::take(&mut self.negotiated);
        for entry in entries.iter_mut().chain(&mut negotiated) {
            entry.selectors = self.routed_to(entry.if_id, &entry.whole);
        }
        (self.configured, self.negotiated) = (entries, negotiated);
        true
    }

    /// The policies of the device of `if_id`, in order, with all that they are for: what the host puts into the device is theirs.
    pub fn of_device(&self, if_id: u32) -> Vec<(PolicyId, Vec<Selector>)> {
        let mut entries: Vec<_> = self
            .configured
            .iter()
            .chain(&self.negotiated)
            .filter(|entry| entry.if_id == Some(if_id) && entry.action == Action::Protect)
            .map(|entry| (order(0, entry.action, &entry.whole), entry))
            .collect();
        entries.sort_by_key(|(order, entry)| (*order, entry.id));
        entries.into_iter().map(|(_, entry)| (entry.id, entry.whole.clone())).collect()
    }

    /// The database without what has a device of its own, which the host's own packets find by their routes.
    pub fn without_devices(&self) -> Vec<Policy> {
        let of_device = |id: PolicyId| {
            self.configured.iter().chain(&self.negotiated).any(|e| e.id == id && e.if_id.is_some())
        };
        self.ordered().into_iter().filter(|policy| !of_device(policy.id)).collect()
    }

    /// As much of `whole` as is routed to the device of `if_id`; all of it without one.
    fn routed_to(&self, if_id: Option<u32>, whole: &[Selector]) -> Vec<Selector> {
        let Some(if_id) = if_id else { return whole.to_vec() };
        let routed = self.routed.get(&if_id).map_or(&[][..], Vec::as_slice);
        let within = |s: &Selector| {
            let s = s.clone();
            routed.iter().filter_map(move |to| {
                s.remote.intersect(to).map(|remote| Selector { remote, ..s.clone() })
            })
        };
        whole.iter().flat_map(within).collect()
    }

    /// Takes the prefixes of the host's own links; true when the SPD changed by it.
    ///
    /// Packets between two addresses of one such prefix never had to pass the gateway. Where a
    /// PROTECT policy covers the whole prefix on both its sides, as 0.0.0.0/0 does, they are
    /// bypassed; a policy that is about the prefix or less stays in force.
    pub fn set_connected(&mut self, prefixes: &[AddressRange]) -> bool {
        let caught: Vec<_> = prefixes
            .iter()
            .map(|prefix| between(*prefix, *prefix))
            .filter(|inside| {
                let wider = |entry: &&Entry| {
                    entry.action == Action::Protect
                        && entry.selectors.iter().any(|s| covers(s, inside) && s != inside)
                };
                self.configured.iter().chain(&self.negotiated).any(|e| wider(&e))
            })
            .collect();
        if self.connected.iter().map(|entry| &entry.selectors[0]).eq(&caught) {
            return false;
        }
        self.connected.clear();
        for inside in caught {
            let entry = Entry {
                id: self.fresh(),
                key: ChildKey { connection: String::new(), child: "connected".to_owned() },
                order: order(0, Action::Protect, core::slice::from_ref(&inside)),
                selectors: vec![inside.clone()],
                whole: vec![inside],
                if_id: None,
                action: Action::Bypass,
                trap: false,
                pairs: BTreeSet::new(),
            };
            self.connected.push(entry);
        }
        true
    }

    /// The policy that a negotiated pair serves, and whether the SPD changed by it.
    pub fn serve(&mut self, key: &ChildKey, pair: PairId, agreed: &[Selector]) -> (PolicyId, bool) {
        if let Some(entry) = self.configured.iter().find(|entry| {
            entry.key == *key && agreed.iter().all(|s| entry.whole.iter().any(|c| covers(c, s)))
        }) {
            return (entry.id, false);
        }
        if let Some(entry) = self.negotiated.iter_mut().find(|e| e.key == *key && e.whole == agreed)
        {
            entry.pairs.insert(pair);
            return (entry.id, false);
        }
        let id = self.fresh();
        let if_id = self.if_ids.get(key).copied();
        let selectors = self.routed_to(if_id, agreed);
        self.negotiated.push(Entry {
            id,
            key: key.clone(),
            order: order(0, Action::Protect, &selectors),
            selectors,
            whole: agreed.to_vec(),
            if_id,
            action: Action::Protect,
            trap: false,
            pairs: BTreeSet::from([pair]),
        });
        (id, true)
    }

    /// Lets the traffic of a child go in clear, or no longer; [`in_force`](Self::in_force) says so.
    pub(crate) fn set_soft(&mut self, key: &ChildKey, soft: bool) {
        if soft {
            self.soft.insert(key.clone());
        } else {
            self.soft.remove(key);
        }
    }

    /// The database as the workers have it: [`ordered`](Self::ordered), with soft SAs.
    pub fn in_force(&self) -> Vec<Policy> {
        let mut ordered = self.ordered();
        let is_soft =
            |entry: &&Entry| entry.action == Action::Protect && self.soft.contains(&entry.key);
        for entry in self.configured.iter().filter(is_soft) {
            for policy in ordered.iter_mut().filter(|policy| policy.id == entry.id) {
                policy.action = Action::Bypass;
            }
        }
        ordered
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

    /// The database as it is configured and negotiated, in order, with the default at its end.
    pub fn ordered(&self) -> Vec<Policy> {
        let mut entries: Vec<_> = self.all().collect();
        entries.sort_by_key(|entry| (entry.order, entry.id));
        entries
            .into_iter()
            .map(|entry| Policy {
                id: entry.id,
                selectors: entry.selectors.clone(),
                action: entry.action,
            })
            .chain([Policy { id: DEFAULT_POLICY, selectors: everything(), action: Action::Bypass }])
            .collect()
    }

    /// What must never be on a wire in clear, and what is exempt from that although it overlaps.
    pub fn guarded(&self) -> (Vec<Selector>, Vec<Selector>) {
        let of = |actions: &[Action]| {
            self.all()
                .filter(|entry| actions.contains(&entry.action))
                .flat_map(|entry| entry.selectors.iter().cloned())
                .collect()
        };
        (of(&[Action::Protect, Action::Discard]), of(&[Action::Bypass]))
    }

    fn all(&self) -> impl Iterator<Item = &Entry> {
        self.configured.iter().chain(&self.negotiated).chain(&self.connected)
    }

    fn fresh(&mut self) -> PolicyId {
        self.last += 1;
        PolicyId(self.last)
    }
}

/// The pairs of local and remote selectors that a child stands for, as far as they are known
/// before negotiation.
fn selectors<'a>(
    child: &'a Child,
    [near_ends, far_ends]: [&'a [AddressRange]; 2],
) -> impl Iterator<Item = Selector> + 'a {
    let resolve = |ts: &TrafficSelector, ends: &[AddressRange]| {
        ts.addresses.or_else(|| match ends {
            [one] if one.first() == one.last() => Some(*one),
            _ => None,
        })
    };
    child.local_ts.iter().flat_map(move |near| {
        child.remote_ts.iter().filter_map(move |far| {
            let local = resolve(near, near_ends)?;
            let remote = resolve(far, far_ends)?;
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
        .map(|any| between(any, any))
        .collect()
}

fn between(local: AddressRange, remote: AddressRange) -> Selector {
    Selector { local, remote, protocol: None, local_ports: Ports::Any, remote_ports: Ports::Any }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> AddressRange {
        let (address, length) = text.split_once('/').unwrap();
        AddressRange::prefix(address.parse().unwrap(), length.parse().unwrap()).unwrap()
    }

    fn key(child: &str) -> ChildKey {
        ChildKey { connection: "c".into(), child: child.into() }
    }

    fn entry(policies: &mut Policies, child: &str, action: Action, s: Selector) -> PolicyId {
        let id = policies.fresh();
        policies.configured.push(Entry {
            id,
            key: key(child),
            order: order(0, action, core::slice::from_ref(&s)),
            selectors: vec![s.clone()],
            whole: vec![s],
            if_id: None,
            action,
            trap: false,
            pairs: BTreeSet::new(),
        });
        id
    }

    #[test]
    fn bypass_goes_first_then_the_narrower_policy_then_the_default() {
        let mut policies = Policies::default();
        let any = range("0.0.0.0/0");
        let wide =
            entry(&mut policies, "wide", Action::Protect, between(range("10.1.0.0/16"), any));
        let narrow = entry(
            &mut policies,
            "narrow",
            Action::Discard,
            between(range("10.1.0.0/16"), range("10.2.0.0/16")),
        );
        let pass = entry(&mut policies, "pass", Action::Bypass, between(any, range("10.3.0.0/16")));
        let order: Vec<_> = policies.ordered().iter().map(|p| p.id).collect();
        assert_eq!(order, [pass, narrow, wide, DEFAULT_POLICY]);
    }

    #[test]
    fn what_cannot_be_negotiated_is_dropped_and_pass_needs_a_trap() {
        let text = "connections { a {
             local { auth = eap-mschapv2
               id = a }
             remote { auth = psk }
             children {
               net { local_ts = 10.1.0.0/16
                 remote_ts = 10.2.0.0/16 }
             } }
           b {
             local { auth = psk }
             remote { auth = psk }
             children {
               on { mode = pass
                 start_action = trap
                 local_ts = 10.1.0.0/16
                 remote_ts = 10.3.0.0/16 }
               off { mode = pass
                 local_ts = 10.1.0.0/16
                 remote_ts = 10.4.0.0/16 }
             } } }";
        let source = crate::config::Source {
            name: "test".to_owned(),
            mode: None,
            directory: std::path::PathBuf::new(),
        };
        let read = crate::config::Configuration::parse(text, source, Default::default()).unwrap();
        assert_eq!(read.left_out.len(), 1);
        let mut policies = Policies::default();
        policies.configure(&read.ike, &read.left_out);
        let ordered = policies.ordered();
        let found: Vec<_> =
            ordered.iter().map(|p| (p.action, p.selectors[0].remote)).take(2).collect();
        assert_eq!(
            found,
            [(Action::Bypass, range("10.3.0.0/16")), (Action::Protect, range("10.2.0.0/16"))]
        );
        assert_eq!(ordered.len(), 3, "and the default");
    }

    #[test]
    fn neighbours_stay_reachable_under_a_policy_for_everything() {
        let mut policies = Policies::default();
        let lan = range("10.1.0.0/24");
        let everything =
            entry(&mut policies, "all", Action::Protect, between(lan, range("0.0.0.0/0")));
        assert!(policies.set_connected(&[lan, range("192.0.2.0/24")]));
        assert!(!policies.set_connected(&[lan, range("192.0.2.0/24")]));
        let ordered = policies.ordered();
        assert_eq!(ordered.len(), 3, "{ordered:?}");
        assert_eq!(ordered[0].action, Action::Bypass);
        assert_eq!(ordered[0].selectors, [between(lan, lan)]);
        assert_eq!(ordered[1].id, everything);
        assert_eq!(policies.guarded().1, [between(lan, lan)]);
    }

    #[test]
    fn a_policy_about_the_neighbours_themselves_stays_in_force() {
        let mut policies = Policies::default();
        let lan = range("10.1.0.0/24");
        entry(&mut policies, "within", Action::Protect, between(lan, lan));
        entry(
            &mut policies,
            "hosts",
            Action::Protect,
            between(range("10.1.0.1/32"), range("10.1.0.2/32")),
        );
        assert!(!policies.set_connected(&[lan]));
        assert_eq!(policies.ordered().len(), 3);
    }

    #[test]
    fn a_route_based_child_is_about_what_is_routed_to_its_device() {
        let mut policies = Policies::default();
        let any = range("0.0.0.0/0");
        let id = entry(&mut policies, "all", Action::Protect, between(any, any));
        policies.configured[0].if_id = Some(4);
        let lan = between(range("10.1.0.0/24"), range("10.1.0.0/24"));
        assert!(policies.set_routed(BTreeMap::from([(5, vec![range("10.3.0.0/16")])])));
        assert!(policies.ordered()[0].selectors.is_empty(), "nothing is routed there");
        assert!(!policies.set_connected(&[range("10.1.0.0/24")]), "nobody's neighbours are caught");
        let routed = BTreeMap::from([(4, vec![range("10.2.0.0/16"), range("fd00::/16")])]);
        assert!(policies.set_routed(routed.clone()) && !policies.set_routed(routed));
        assert_eq!(policies.ordered()[0].selectors, [between(any, range("10.2.0.0/16"))]);
        assert_eq!(policies.guarded().0, [between(any, range("10.2.0.0/16"))]);
        // What is agreed is as configured, and serves the policy whatever is routed at the time.
        assert_eq!(policies.serve(&key("all"), PairId(1), &[between(any, any)]), (id, false));
        assert_eq!(policies.serve(&key("all"), PairId(2), &[lan]), (id, false));
    }

    #[test]
    fn a_soft_sa_changes_what_workers_do_and_nothing_else() {
        let mut policies = Policies::default();
        let net = between(range("10.1.0.0/24"), range("10.2.0.0/24"));
        let other = between(range("10.1.0.0/24"), range("10.3.0.0/24"));
        let id = entry(&mut policies, "net", Action::Protect, net);
        entry(&mut policies, "other", Action::Protect, other);
        let (configured, guarded) = (policies.ordered(), policies.guarded());
        policies.set_soft(&key("net"), true);
        let soft: Vec<_> = policies.in_force().iter().map(|p| (p.id == id, p.action)).collect();
        let (yes, no) = (Action::Bypass, Action::Protect);
        assert_eq!(soft, [(true, yes), (false, no), (false, Action::Bypass)]);
        assert_eq!((policies.ordered(), policies.guarded()), (configured.clone(), guarded));
        policies.set_soft(&key("net"), false);
        assert_eq!(policies.in_force(), configured);
    }

    #[test]
    fn a_negotiated_pair_serves_the_configured_policy_that_covers_it() {
        let mut policies = Policies::default();
        let configured = between(range("10.1.0.0/16"), range("10.2.0.0/16"));
        let id = entry(&mut policies, "net", Action::Protect, configured);
        let narrowed = [between(range("10.1.1.0/24"), range("10.2.0.0/16"))];
        assert_eq!(policies.serve(&key("net"), PairId(1), &narrowed), (id, false));
        assert!(!policies.release(PairId(1)));
        // Another peer's address is in nobody's policy: it comes and goes with its pairs.
        let dynamic = [between(range("10.1.0.0/16"), range("203.0.113.9/32"))];
        let (made, new) = policies.serve(&key("net"), PairId(2), &dynamic);
        assert!(new && made != id);
        assert_eq!(policies.serve(&key("net"), PairId(3), &dynamic), (made, false));
        assert!(!policies.release(PairId(2)), "the rekeyed pair still uses it");
        assert!(policies.release(PairId(3)));
        assert_eq!(policies.ordered().len(), 2);
    }
}
