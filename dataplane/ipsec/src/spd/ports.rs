//! The rules of one pair of prefixes: by protocol, then by ports.
//!
//! ```text
//!   protocol (and any) ─► tree over one side's ports ─► at each of its nodes above the packet's port (17 at most)
//!                                                         steps over the other side's ports: who comes first there
//! ```
//!
//! A port range is cut into nodes of a binary tree over all 65,536 ports, 30 at most. All rules of a node hold for every port below it, so
//! that of the other side's ports only who is first matters: a function in steps, found by binary search. Fewer than some hundred
//! rules are looked up in sets instead (spd/masks.rs).

use super::masks::{self, Masks};
use super::{Cost, Match};
use crate::flow::FlowKey;
use crate::selector::{AddressRange, Ports};
use core::net::IpAddr;
use foldhash::quality::RandomState;
use std::collections::{BTreeSet, HashMap};

/// Up to this many rules are compared one by one: two cache lines of them.
const FEW: usize = 8;

/// Levels of the tree: the root for all ports, and one for each bit.
const LEVELS: u32 = 17;

/// Ports as first and last; all of them admit hidden ones, and first beyond last only those (as RFC 7296 §3.13.1 writes OPAQUE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PortSpan {
    first: u16,
    last: u16,
}

impl PortSpan {
    const ALL: Self = Self { first: 0, last: u16::MAX };
    const OPAQUE: Self = Self { first: u16::MAX, last: 0 };

    /// `None` for an empty range, which nothing matches.
    pub(super) fn of(ports: &Ports) -> Option<Self> {
        match ports {
            Ports::Any => Some(Self::ALL),
            Ports::Opaque => Some(Self::OPAQUE),
            Ports::Range(range) => (range.start() <= range.end())
                .then(|| Self { first: *range.start(), last: *range.end() }),
        }
    }

    #[inline]
    fn matches(self, port: Option<u16>) -> bool {
        match port {
            Some(port) => self.first <= port && port <= self.last,
            None => self.admits_hidden(),
        }
    }

    /// First and last of the ports that are seen; `None` for hidden ones only.
    pub(super) fn visible(self) -> Option<(u16, u16)> {
        (self.first <= self.last).then_some((self.first, self.last))
    }

    #[inline]
    fn admits_hidden(self) -> bool {
        self == Self::ALL || self == Self::OPAQUE
    }
}

/// One selector, or the part of it that is about one pair of prefixes.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) rank: u32,
    pub(super) found: Match,
    pub(super) local_ports: PortSpan,
    pub(super) remote_ports: PortSpan,
    pub(super) protocol: u16,
    /// Which of its policy's.
    pub(super) selector: u16,
    /// What its prefixes only cover.
    pub(super) ranges: Option<Box<(AddressRange, AddressRange)>>,
}

impl Rule {
    pub(super) const ANY_PROTOCOL: u16 = 256;

    #[inline]
    fn matches(&self, key: &FlowKey) -> bool {
        (self.protocol == Self::ANY_PROTOCOL || self.protocol == u16::from(key.protocol))
            && self.local_ports.matches(key.ports.map(|(local, _)| local))
            && self.remote_ports.matches(key.ports.map(|(_, remote)| remote))
            && self.is_between(key.local, key.remote)
    }

    #[inline]
    fn is_between(&self, local: IpAddr, remote: IpAddr) -> bool {
        match &self.ranges {
            None => true,
            Some(ranges) => ranges.0.contains(local) && ranges.1.contains(remote),
        }
    }
}

/// The rules of one pair of prefixes.
#[derive(Debug, Default)]
pub(super) enum Bucket {
    #[default]
    Empty,
    /// Most have one: it lies in the table itself.
    One(Rule),
    /// In rank order once finished.
    Few(Vec<Rule>),
    Many(Box<ByProtocol>),
}

impl Bucket {
    pub(super) fn push(&mut self, rule: Rule) {
        *self = match core::mem::take(self) {
            Self::Empty => Self::One(rule),
            Self::One(first) => Self::Few(vec![first, rule]),
            Self::Few(mut rules) => {
                rules.push(rule);
                Self::Few(rules)
            }
            // Nothing comes after `finish`.
            Self::Many(groups) => Self::Many(groups),
        };
    }

    pub(super) fn finish(&mut self) {
        let Self::Few(rules) = self else { return };
        rules.sort_by_key(|rule| rule.rank);
        if rules.len() > FEW {
            *self = Self::Many(Box::new(ByProtocol::new(core::mem::take(rules))));
        }
    }

    /// The first rule that matches, if it comes before `best`, else that.
    #[inline]
    pub(super) fn search<'a>(&'a self, key: &FlowKey, best: Option<&'a Rule>) -> Option<&'a Rule> {
        match self {
            Self::Empty => best,
            Self::One(rule) => first(core::slice::from_ref(rule), key, best),
            Self::Few(rules) => first(rules, key, best),
            Self::Many(groups) => groups.search(key, best),
        }
    }

    pub(super) fn worst_case(&self) -> Cost {
        match self {
            Self::Empty => Cost::default(),
            Self::One(_) => Cost { probes: 0, comparisons: 1 },
            Self::Few(rules) => Cost { probes: 0, comparisons: rules.len() },
            Self::Many(groups) => groups.worst_case(),
        }
    }
}

/// Whether `rule` comes before `best`.
#[inline]
fn is_before(rule: &Rule, best: Option<&Rule>) -> bool {
    best.is_none_or(|best| rule.rank < best.rank)
}

/// The first of `rules`, in rank order, that matches and comes before `best`, else that.
#[inline]
fn first<'a>(rules: &'a [Rule], key: &FlowKey, best: Option<&'a Rule>) -> Option<&'a Rule> {
    rules.iter().take_while(|rule| is_before(rule, best)).find(|rule| rule.matches(key)).or(best)
}

/// Many rules, by protocol.
#[derive(Debug)]
pub(super) struct ByProtocol(Vec<(u16, Group)>);

impl ByProtocol {
    fn new(rules: Vec<Rule>) -> Self {
        let mut sorted: Vec<(u16, Vec<Rule>)> = Vec::new();
        for rule in rules {
            match sorted.binary_search_by_key(&rule.protocol, |(protocol, _)| *protocol) {
                Ok(at) => sorted[at].1.push(rule),
                Err(at) => sorted.insert(at, (rule.protocol, vec![rule])),
            }
        }
        Self(sorted.into_iter().map(|(protocol, rules)| (protocol, Group::new(rules))).collect())
    }

    fn search<'a>(&'a self, key: &FlowKey, best: Option<&'a Rule>) -> Option<&'a Rule> {
        [u16::from(key.protocol), Rule::ANY_PROTOCOL].into_iter().fold(best, |best, protocol| {
            match self.0.binary_search_by_key(&protocol, |(protocol, _)| *protocol) {
                Ok(at) => self.0[at].1.search(key, best),
                Err(_) => best,
            }
        })
    }

    fn worst_case(&self) -> Cost {
        let mut costs: Vec<Cost> = self.0.iter().map(|(_, group)| group.worst_case()).collect();
        costs.sort_by_key(|cost| cost.comparisons);
        // Two groups are looked at.
        costs.iter().rev().take(2).fold(Cost::default(), |a, b| Cost {
            probes: a.probes + b.probes,
            comparisons: a.comparisons + b.comparisons,
        })
    }
}

/// The rules of one protocol, in rank order.
#[derive(Debug)]
struct Group {
    rules: Vec<Rule>,
    /// Rules that are about less than their prefixes: compared one by one.
    loose: Vec<u32>,
    /// The first for packets that show no ports.
    hidden: Option<u32>,
    by_ports: ByPorts,
}

/// The rules for packets that show ports.
#[derive(Debug)]
enum ByPorts {
    Masks(Masks),
    Tree(Tree),
}

#[derive(Debug)]
pub(super) struct Tree {
    /// By which side's ports it is; the steps are by the other's.
    is_remote: bool,
    /// Levels that have nodes, a bit each.
    levels: u32,
    nodes: HashMap<u32, Steps, RandomState>,
}

/// Who comes first, from which port on.
#[derive(Debug)]
struct Steps {
    best_rank: u32,
    from: Vec<u16>,
    /// [`NOBODY`], or a rule's place.
    winner: Vec<u32>,
}

const NOBODY: u32 = u32::MAX;

impl Group {
    fn new(rules: Vec<Rule>) -> Self {
        let loose = (0u32..).zip(&rules).filter(|(_, rule)| rule.ranges.is_some());
        let loose = loose.map(|(n, _)| n).collect();
        let is_tight = |rule: &Rule| rule.ranges.is_none();
        let hidden = rules.iter().position(|rule| {
            is_tight(rule) && rule.local_ports.admits_hidden() && rule.remote_ports.admits_hidden()
        });
        let by_ports = if rules.len() <= masks::MOST {
            let ports =
                |rule: &Rule| is_tight(rule).then_some((rule.local_ports, rule.remote_ports));
            ByPorts::Masks(Masks::new(&rules.iter().map(ports).collect::<Vec<_>>()))
        } else {
            ByPorts::Tree(Tree::new(&rules))
        };
        // No more rules than ranks.
        Self { rules, loose, hidden: hidden.map(|n| n as u32), by_ports }
    }

    fn search<'a>(&'a self, key: &FlowKey, mut best: Option<&'a Rule>) -> Option<&'a Rule> {
        // They are in the order of ranks.
        if self.rules.first().is_none_or(|rule| !is_before(rule, best)) {
            return best;
        }
        let found = match (key.ports, &self.by_ports) {
            (None, _) => self.hidden.map(|n| n as usize),
            (Some((local, remote)), ByPorts::Masks(masks)) => masks.first(local, remote),
            (Some(ports), ByPorts::Tree(tree)) => {
                best = tree.search(&self.rules, ports, best);
                None
            }
        };
        if let Some(rule) = found.and_then(|n| self.rules.get(n))
            && is_before(rule, best)
        {
            best = Some(rule);
        }
        let loose = self.loose.iter().filter_map(|n| self.rules.get(*n as usize));
        let rest = best;
        loose.take_while(|rule| is_before(rule, rest)).find(|rule| rule.matches(key)).or(best)
    }

    fn worst_case(&self) -> Cost {
        let Cost { probes, comparisons } = match &self.by_ports {
            ByPorts::Masks(masks) => Cost { probes: 0, comparisons: masks.comparisons() },
            ByPorts::Tree(tree) => tree.worst_case(),
        };
        Cost { probes, comparisons: comparisons + 1 + self.loose.len() }
    }
}

impl Tree {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let distinct = |ports: fn(&Rule) -> PortSpan| {
            rules
                .iter()
                .map(ports)
                .filter(|p| *p != PortSpan::ALL)
                .collect::<std::collections::HashSet<_>>()
                .len()
        };
        // The steps take the side with more to tell apart.
        let is_remote = distinct(|r| r.remote_ports) <= distinct(|r| r.local_ports);
        let mut tree = Self { is_remote, levels: 0, nodes: HashMap::default() };
        let mut at_node: HashMap<u32, Vec<u32>, RandomState> = HashMap::default();
        for (n, rule) in (0u32..).zip(rules).filter(|(_, rule)| rule.ranges.is_none()) {
            let (ports, _) = tree.sides(rule);
            each_node(ports, |node| at_node.entry(node).or_default().push(n));
        }
        for (node, at) in at_node {
            let steps = Steps::new(&at, |n| {
                let rule = &rules[n as usize];
                (tree.sides(rule).1, rule.rank)
            });
            // Nobody where all are about hidden ports on the other side.
            if let Some(steps) = steps {
                tree.levels |= 1 << node.ilog2();
                tree.nodes.insert(node, steps);
            }
        }
        tree
    }

    /// The ports of the tree's side and of the other.
    fn sides(&self, rule: &Rule) -> (PortSpan, PortSpan) {
        if self.is_remote {
            (rule.remote_ports, rule.local_ports)
        } else {
            (rule.local_ports, rule.remote_ports)
        }
    }

    pub(super) fn search<'a>(
        &self,
        rules: &'a [Rule],
        (local, remote): (u16, u16),
        mut best: Option<&'a Rule>,
    ) -> Option<&'a Rule> {
        let (own, other) = if self.is_remote { (remote, local) } else { (local, remote) };
        let mut levels = self.levels;
        while levels != 0 {
            let level = levels.trailing_zeros();
            levels &= levels - 1;
            let node = 1 << level | u32::from(own) >> (LEVELS - 1 - level);
            if let Some(steps) = self.nodes.get(&node)
                && best.is_none_or(|best| steps.best_rank < best.rank)
                && let Some(rule) = rules.get(steps.at(other) as usize)
                && is_before(rule, best)
            {
                best = Some(rule);
            }
        }
        best
    }

    fn worst_case(&self) -> Cost {
        let longest = self.nodes.values().map(|steps| steps.from.len()).max().unwrap_or(0);
        let levels = self.levels.count_ones() as usize;
        let search = longest.checked_ilog2().map_or(0, |log| log as usize + 1);
        Cost { probes: levels, comparisons: levels * search }
    }
}

impl Steps {
    /// Of rules in rank order; `None` when none of them is about visible ports.
    fn new(rules: &[u32], of: impl Fn(u32) -> (PortSpan, u32)) -> Option<Self> {
        let spans =
            rules.iter().map(|n| (of(*n), *n)).filter(|((span, _), _)| span.first <= span.last);
        let mut begins: Vec<(u32, u32, u32)> = Vec::new();
        let mut ends: Vec<(u32, u32, u32)> = Vec::new();
        for ((span, rank), n) in spans {
            begins.push((span.first.into(), rank, n));
            ends.push((u32::from(span.last) + 1, rank, n));
        }
        let best_rank = begins.iter().map(|(_, rank, _)| *rank).min()?;
        begins.sort_unstable();
        ends.sort_unstable();
        let mut borders: Vec<u32> =
            [0].into_iter().chain(begins.iter().chain(&ends).map(|(at, ..)| *at)).collect();
        borders.sort_unstable();
        borders.dedup();
        let (mut begins, mut ends) = (begins.into_iter().peekable(), ends.into_iter().peekable());
        let mut active: BTreeSet<(u32, u32)> = BTreeSet::new();
        let mut steps = Self { best_rank, from: Vec::new(), winner: Vec::new() };
        for at in borders {
            while let Some((_, rank, n)) = ends.next_if(|(end, ..)| *end <= at) {
                active.remove(&(rank, n));
            }
            while let Some((_, rank, n)) = begins.next_if(|(begin, ..)| *begin <= at) {
                active.insert((rank, n));
            }
            let winner = active.first().map_or(NOBODY, |(_, n)| *n);
            // Beyond the last port nothing begins.
            let Ok(from) = u16::try_from(at) else { break };
            if steps.winner.last() != Some(&winner) {
                steps.from.push(from);
                steps.winner.push(winner);
            }
        }
        steps.from.shrink_to_fit();
        steps.winner.shrink_to_fit();
        Some(steps)
    }

    #[inline]
    fn at(&self, port: u16) -> u32 {
        // The first step begins at 0.
        let after = self.from.partition_point(|from| *from <= port);
        after.checked_sub(1).and_then(|at| self.winner.get(at)).copied().unwrap_or(NOBODY)
    }
}

/// The nodes that make up a range of ports; none for hidden ones. Node 1 is the root, those below n are 2n and 2n + 1.
fn each_node(span: PortSpan, mut each: impl FnMut(u32)) {
    if span.first > span.last {
        return;
    }
    let leaves = 1 << (LEVELS - 1);
    let (mut low, mut high) = (leaves + u32::from(span.first), leaves + u32::from(span.last) + 1);
    while low < high {
        if low & 1 == 1 {
            each(low);
            low += 1;
        }
        if high & 1 == 1 {
            high -= 1;
            each(high);
        }
        low >>= 1;
        high >>= 1;
    }
}
