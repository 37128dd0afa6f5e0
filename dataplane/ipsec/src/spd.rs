//! The security policy database (RFC 4301 §4.4.1): an ordered list of policies, compiled.
//!
//! ```text
//!  [Policy] ──compile, off the worker──► Spd ── lookup(&FlowKey) ──► first match
//!                                         │
//!        tuples, by (local prefix, remote prefix) length, best rank first
//!          └─ hash of the two prefixes ─► rules of that bucket, in rank order
//! ```
//!
//! Every selector becomes one rule in the bucket of the longest prefixes that cover its address ranges;
//! the exact ranges, protocol and ports are compared in the bucket. A lookup tries one bucket per pair of
//! prefix lengths in use and stops when no untried tuple can hold an earlier policy. Its cost so depends on
//! how many different pairs of lengths there are, not on how many policies, unless many policies share
//! both prefixes: those are scanned in order.

mod flow_cache;
mod fragments;
#[cfg(test)]
mod tests;

pub use flow_cache::{Context, FlowCache, Place};
pub use fragments::guard_fragments;

use crate::flow::FlowKey;
use crate::selector::{Action, AddressRange, Policy, PolicyId, Selector};
use core::net::IpAddr;
use foldhash::quality::RandomState; // its seed is random: who sends packets cannot make them collide
use std::collections::HashMap;

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
    v4: Family,
    v6: Family,
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
            for selector in &policy.selectors {
                let family =
                    if selector.local.first().is_ipv4() { &mut spd.v4 } else { &mut spd.v6 };
                family.insert(Rule { rank, selector: selector.clone(), found });
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
        match (key.local, key.remote) {
            (IpAddr::V4(_), IpAddr::V4(_)) => self.v4.lookup(key),
            (IpAddr::V6(_), IpAddr::V6(_)) => self.v6.lookup(key),
            _ => None,
        }
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

#[derive(Debug)]
struct Rule {
    rank: usize,
    selector: Selector,
    found: Match,
}

#[derive(Debug, Default)]
struct Family {
    tuples: Vec<Tuple>,
}

/// All rules whose covering prefixes have these two lengths.
#[derive(Debug)]
struct Tuple {
    local_len: u8,
    remote_len: u8,
    best_rank: usize,
    buckets: HashMap<(u128, u128), Vec<Rule>, RandomState>,
}

impl Family {
    fn insert(&mut self, rule: Rule) {
        let (local, local_len) = covering_prefix(&rule.selector.local);
        let (remote, remote_len) = covering_prefix(&rule.selector.remote);
        let at = self
            .tuples
            .iter()
            .position(|t| (t.local_len, t.remote_len) == (local_len, remote_len))
            .unwrap_or_else(|| {
                let buckets = HashMap::default();
                self.tuples.push(Tuple { local_len, remote_len, best_rank: rule.rank, buckets });
                self.tuples.len() - 1
            });
        let tuple = &mut self.tuples[at];
        tuple.best_rank = tuple.best_rank.min(rule.rank);
        tuple.buckets.entry((local, remote)).or_default().push(rule);
    }

    fn finish(&mut self) {
        self.tuples.sort_by_key(|tuple| tuple.best_rank);
        for bucket in self.tuples.iter_mut().flat_map(|tuple| tuple.buckets.values_mut()) {
            bucket.sort_by_key(|rule| rule.rank);
        }
    }

    fn lookup(&self, key: &FlowKey) -> Option<Match> {
        let (local, remote) = (bits(key.local), bits(key.remote));
        let mut best: Option<&Rule> = None;
        for tuple in &self.tuples {
            if best.is_some_and(|rule| rule.rank < tuple.best_rank) {
                break;
            }
            let at = (prefix(local, tuple.local_len), prefix(remote, tuple.remote_len));
            let Some(bucket) = tuple.buckets.get(&at) else { continue };
            let found = bucket
                .iter()
                .take_while(|rule| best.is_none_or(|best| rule.rank < best.rank))
                .find(|rule| rule.selector.matches(key));
            best = found.or(best);
        }
        best.map(|rule| rule.found)
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
