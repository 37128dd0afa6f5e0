//! The security policy database (RFC 4301 §4.4.1): an ordered list of policies, compiled.
//!
//! ```text
//!  [Policy] ──compile, off the worker──► Spd ── lookup(&FlowKey) ──► first match
//!                                         │
//!        tuples, by (local prefix, remote prefix) length, best rank first
//!          └─ hash of the two prefixes ─► filter ─► bucket: one rule, a few in rank order, or
//!                                                    by protocol ─► by ports (spd/ports.rs)
//! ```
//!
//! Every selector becomes rules of address prefixes; ranges that are none are cut into some. A lookup tries one bucket for each pair
//! of prefix lengths in use and stops when no untried tuple can hold an earlier policy; where there are many pairs, those that do not lie
//! above the packet's addresses are left out first. Within a bucket many rules are searched by port, not one by one. So its cost depends on
//! how many different pairs of lengths lie above one address pair, hardly on how many policies there are: [`Spd::worst_case`] says
//! what the worst packet costs.

mod filter;
mod flow_cache;
mod fragments;
mod masks;
mod ports;
#[cfg(test)]
mod tests;

pub use flow_cache::{Context, FlowCache, Place};
pub use fragments::guard_fragments;
pub(crate) use fragments::with_hidden_ports;

use crate::flow::FlowKey;
use crate::selector::{Action, AddressRange, Policy, PolicyId, Selector};
use core::fmt::Debug;
use core::hash::Hash;
use core::net::IpAddr;
use filter::{Filter, Keys};
use foldhash::quality::RandomState; // its seed is random: who sends packets cannot make them collide
use ports::{Bucket, PortSpan, Rule};
use std::collections::{HashMap, HashSet};

/// Prefixes that the two ranges of a selector may become together. Beyond, the rule is compared by its ranges: nobody writes such
/// selectors but to make the database large.
const MAX_PIECES: usize = 64;

/// With fewer tuples than this it is quicker to try all.
const MANY_TUPLES: usize = 8;

/// The policy that decides about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Its number.
    pub policy: PolicyId,
    /// What it says.
    pub action: Action,
}

/// A compiled database. Immutable: a change compiles another one, and workers are handed that.
#[derive(Debug)]
pub struct Spd {
    generation: u64,
    policies: usize,
    v4: Family<u64>,
    v6: Family<[u128; 2]>,
}

/// What a lookup costs at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Hash tables looked into.
    pub probes: usize,
    /// Rules compared and steps of binary searches.
    pub comparisons: usize,
}

impl Spd {
    /// Compiles `policies`, of which an earlier one wins over a later one. `generation` must differ from
    /// that of every other database a worker sees, as flow caches remember it.
    pub fn compile(policies: &[Policy], generation: u64) -> Self {
        let mut spd = Self {
            generation,
            policies: policies.len(),
            v4: Family::default(),
            v6: Family::default(),
        };
        for (rank, policy) in policies.iter().enumerate() {
            let found = Match { policy: policy.id, action: policy.action };
            for (n, selector) in policy.selectors.iter().enumerate() {
                let (Some(local_ports), Some(remote_ports)) =
                    (PortSpan::of(&selector.local_ports), PortSpan::of(&selector.remote_ports))
                else {
                    continue;
                };
                let rule = Rule {
                    // Beyond 2^32 policies or 2^16 selectors there is no memory for them.
                    rank: u32::try_from(rank).unwrap_or(u32::MAX),
                    selector: u16::try_from(n).unwrap_or(u16::MAX),
                    protocol: selector.protocol.map_or(Rule::ANY_PROTOCOL, u16::from),
                    local_ports,
                    remote_ports,
                    found,
                    ranges: None,
                };
                if selector.local.first().is_ipv4() {
                    spd.v4.insert(selector, rule);
                } else {
                    spd.v6.insert(selector, rule);
                }
            }
        }
        spd.v4.finish();
        spd.v6.finish();
        spd
    }

    /// The first policy that matches. For a packet that leaves, ask with [`Flow::outbound`]; for one that
    /// arrived in clear, with [`Flow::inbound`].
    ///
    /// [`Flow::outbound`]: crate::flow::Flow::outbound
    /// [`Flow::inbound`]: crate::flow::Flow::inbound
    #[inline]
    pub fn lookup(&self, key: &FlowKey) -> Option<Match> {
        self.find(key).map(|rule| rule.found)
    }

    /// Which selector of its first matching policy a packet is traffic of, counted from zero; 0 when there is none.
    pub fn selector_of(&self, key: &FlowKey) -> u16 {
        self.find(key).map_or(0, |rule| rule.selector)
    }

    #[inline]
    fn find(&self, key: &FlowKey) -> Option<&Rule> {
        match (key.local, key.remote) {
            (IpAddr::V4(_), IpAddr::V4(_)) => self.v4.lookup(key),
            (IpAddr::V6(_), IpAddr::V6(_)) => self.v6.lookup(key),
            _ => None,
        }
    }

    /// What the most expensive lookup costs, whatever the packet: the sum of each tuple's most expensive bucket.
    pub fn worst_case(&self) -> Cost {
        let (v4, v6) = (self.v4.worst_case(), self.v6.worst_case());
        Cost { probes: v4.probes.max(v6.probes), comparisons: v4.comparisons.max(v6.comparisons) }
    }

    /// The number given at compilation.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many policies there are.
    pub fn len(&self) -> usize {
        self.policies
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.policies == 0
    }
}

/// Two prefixes as what a bucket is found by.
trait Pair: Copy + Debug + Eq + Hash {
    fn of(local: u128, remote: u128) -> Self;

    /// For the filters.
    fn mixed(self, keys: &Keys) -> u64;
}

impl Pair for u64 {
    /// IPv4 addresses are the upper bits.
    #[inline]
    fn of(local: u128, remote: u128) -> Self {
        ((local >> 96) as Self) << 32 | (remote >> 96) as Self
    }

    #[inline(always)]
    fn mixed(self, keys: &Keys) -> u64 {
        keys.hash([self])
    }
}

impl Pair for [u128; 2] {
    #[inline]
    fn of(local: u128, remote: u128) -> Self {
        [local, remote]
    }

    #[inline]
    fn mixed(self, keys: &Keys) -> u64 {
        let [local, remote] = self;
        let high = |bits: u128| (bits >> 64) as u64;
        keys.hash([high(local), local as u64, high(remote), remote as u64])
    }
}

#[derive(Debug)]
struct Family<P> {
    tuples: Vec<Tuple<P>>,
    keys: Keys,
    local: Side,
    remote: Side,
}

impl<P> Default for Family<P> {
    fn default() -> Self {
        let (local, remote) = (Side::default(), Side::default());
        Self { tuples: Vec::new(), keys: Keys::default(), local, remote }
    }
}

/// The prefixes of one side, for leaving out tuples whose buckets cannot be there.
#[derive(Debug, Default)]
struct Side(Vec<(u8, HashSet<u128, RandomState>)>);

/// Prefix lengths, a bit each.
#[derive(Clone, Copy, Debug, Default)]
struct Lengths([u64; 3]);

impl Lengths {
    #[inline]
    fn has(&self, len: u8) -> bool {
        self.0[usize::from(len / 64)] >> (len % 64) & 1 != 0
    }
}

impl Side {
    fn insert(&mut self, prefix: u128, len: u8) {
        let at = self.0.iter().position(|(l, _)| *l == len).unwrap_or_else(|| {
            self.0.push((len, HashSet::default()));
            self.0.len() - 1
        });
        self.0[at].1.insert(prefix);
    }

    /// The lengths of those prefixes that hold an address.
    fn above(&self, bits: u128) -> Lengths {
        let mut found = Lengths::default();
        for (len, prefixes) in &self.0 {
            if prefixes.contains(&prefix(bits, *len)) {
                found.0[usize::from(len / 64)] |= 1 << (len % 64);
            }
        }
        found
    }
}

/// All rules whose prefixes have these two lengths.
#[derive(Debug)]
struct Tuple<P> {
    local_len: u8,
    remote_len: u8,
    best_rank: u32,
    /// What `buckets` may have.
    filter: Filter,
    buckets: HashMap<P, Bucket, RandomState>,
}

impl<P: Pair> Family<P> {
    fn insert(&mut self, selector: &Selector, rule: Rule) {
        let pieces = [&selector.local, &selector.remote].map(|range| range.prefixes(MAX_PIECES));
        if let [Some(local), Some(remote)] = &pieces
            && local.len() * remote.len() <= MAX_PIECES
        {
            for near in local {
                for far in remote {
                    self.place(*near, *far, rule.clone());
                }
            }
            return;
        }
        let ranges = Some(Box::new((selector.local, selector.remote)));
        let (local, remote) = (covering_prefix(&selector.local), covering_prefix(&selector.remote));
        self.place(local, remote, Rule { ranges, ..rule });
    }

    fn place(
        &mut self,
        (local, local_len): (u128, u8),
        (remote, remote_len): (u128, u8),
        rule: Rule,
    ) {
        let at = self
            .tuples
            .iter()
            .position(|t| (t.local_len, t.remote_len) == (local_len, remote_len))
            .unwrap_or_else(|| {
                self.tuples.push(Tuple {
                    local_len,
                    remote_len,
                    best_rank: rule.rank,
                    filter: Filter::default(),
                    buckets: HashMap::default(),
                });
                self.tuples.len() - 1
            });
        self.local.insert(local, local_len);
        self.remote.insert(remote, remote_len);
        let tuple = &mut self.tuples[at];
        tuple.best_rank = tuple.best_rank.min(rule.rank);
        tuple.buckets.entry(P::of(local, remote)).or_default().push(rule);
    }

    fn finish(&mut self) {
        self.tuples.sort_by_key(|tuple| tuple.best_rank);
        for tuple in &mut self.tuples {
            tuple.filter = Filter::of(tuple.buckets.keys().map(|pair| pair.mixed(&self.keys)));
        }
        for bucket in self.tuples.iter_mut().flat_map(|tuple| tuple.buckets.values_mut()) {
            bucket.finish();
        }
    }

    #[inline]
    fn lookup(&self, key: &FlowKey) -> Option<&Rule> {
        let (local, remote) = (bits(key.local), bits(key.remote));
        let above = (self.tuples.len() >= MANY_TUPLES)
            .then(|| (self.local.above(local), self.remote.above(remote)));
        let mut best: Option<&Rule> = None;
        for tuple in &self.tuples {
            if best.is_some_and(|rule| rule.rank < tuple.best_rank) {
                break;
            }
            let (near, far) = (tuple.local_len, tuple.remote_len);
            if above.is_some_and(|(local, remote)| !local.has(near) || !remote.has(far)) {
                continue;
            }
            let at = P::of(prefix(local, near), prefix(remote, far));
            if tuple.filter.may_have(at.mixed(&self.keys))
                && let Some(bucket) = tuple.buckets.get(&at)
            {
                best = bucket.search(key, best);
            }
        }
        best
    }

    fn worst_case(&self) -> Cost {
        let sides = self.local.0.len() + self.remote.0.len();
        let mut cost = Cost {
            probes: self.tuples.len() + if self.tuples.len() >= MANY_TUPLES { sides } else { 0 },
            comparisons: 0,
        };
        for tuple in &self.tuples {
            let worst = tuple.buckets.values().map(Bucket::worst_case);
            let most = worst.fold(Cost::default(), |a, b| Cost {
                probes: a.probes.max(b.probes),
                comparisons: a.comparisons.max(b.comparisons),
            });
            cost.probes += most.probes;
            cost.comparisons += most.comparisons;
        }
        cost
    }
}

/// An address with its bits at the top, so that one prefix function serves both families.
#[inline]
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)) << 96,
        IpAddr::V6(a) => a.into(),
    }
}

#[inline]
fn prefix(bits: u128, len: u8) -> u128 {
    bits & !u128::MAX.checked_shr(u32::from(len)).unwrap_or(0)
}

/// The longest prefix that holds the whole range.
fn covering_prefix(range: &AddressRange) -> (u128, u8) {
    let (first, last) = (bits(range.first()), bits(range.last()));
    let width = if range.first().is_ipv4() { 32 } else { 128 };
    let len = (first ^ last).leading_zeros().min(width) as u8;
    (prefix(first, len), len)
}

impl AddressRange {
    /// The fewest prefixes that make up the range, their bits at the top; `None` when they are more than `most`.
    fn prefixes(&self, most: usize) -> Option<Vec<(u128, u8)>> {
        let width = if self.first().is_ipv4() { 32 } else { 128 };
        let unused = 128 - width;
        let (first, last) = (bits(self.first()) >> unused, bits(self.last()) >> unused);
        let mut found = Vec::new();
        let mut at = first;
        loop {
            if found.len() == most {
                return None;
            }
            // As many low bits as are zero in `at` and still end at or before `last`.
            let mut free = at.trailing_zeros().min(width);
            let end = |free: u32| at | 1u128.checked_shl(free).map_or(u128::MAX, |one| one - 1);
            while end(free) > last {
                free -= 1;
            }
            found.push((at << unused, (width - free) as u8));
            if end(free) >= last {
                return Some(found);
            }
            at = end(free) + 1;
        }
    }
}
