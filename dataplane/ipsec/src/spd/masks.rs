//! Some hundred rules by the ports of both sides: which rules admit a port is a set of bits for each step of ports, and who is in both
//! sides' sets comes by an AND.
//!
//! ```text
//!  local port  ─► step ─► 0110 1100 …  (a bit a rule, in rank order)
//!                          AND          ─► first bit that is left
//!  remote port ─► step ─► 0011 0100 …
//! ```

use super::ports::PortSpan;

/// So many rules at most: the sets take half a byte a rule for each rule, here 256 bytes.
pub(super) const MOST: usize = 512;

const BITS: usize = u64::BITS as usize;

#[derive(Debug)]
pub(super) struct Masks {
    local: Side,
    remote: Side,
}

/// Who admits a port of one side.
#[derive(Debug)]
struct Side {
    /// Where steps begin; the first one at 0.
    from: Vec<u16>,
    /// For each step, a bit for each rule.
    masks: Vec<u64>,
    words: usize,
}

impl Masks {
    /// Of rules by their local and remote ports, at most [`MOST`]; `None` for one that is in no set.
    pub(super) fn new(rules: &[Option<(PortSpan, PortSpan)>]) -> Self {
        Self {
            local: Side::new(rules.iter().map(|rule| rule.map(|(local, _)| local))),
            remote: Side::new(rules.iter().map(|rule| rule.map(|(_, remote)| remote))),
        }
    }

    /// The first rule that admits both ports.
    #[inline]
    pub(super) fn first(&self, local: u16, remote: u16) -> Option<usize> {
        let words = self.local.at(local).iter().zip(self.remote.at(remote));
        let mut both = words.map(|(local, remote)| local & remote).enumerate();
        both.find(|(_, word)| *word != 0).map(|(n, word)| n * BITS + word.trailing_zeros() as usize)
    }

    /// Steps of the two searches, and words compared.
    pub(super) fn comparisons(&self) -> usize {
        let search =
            |side: &Side| side.from.len().checked_ilog2().map_or(0, |log| log as usize + 1);
        search(&self.local) + search(&self.remote) + self.local.words
    }
}

impl Side {
    fn new(spans: impl ExactSizeIterator<Item = Option<PortSpan>>) -> Self {
        let words = spans.len().div_ceil(BITS);
        // Where a rule begins or ends to admit ports.
        let mut changes: Vec<(u16, usize)> = Vec::new();
        for (n, span) in spans.enumerate() {
            let Some((first, last)) = span.and_then(PortSpan::visible) else { continue };
            changes.push((first, n));
            // Beyond the last port nothing ends.
            changes.extend(last.checked_add(1).map(|end| (end, n)));
        }
        changes.sort_unstable();
        let mut side = Self { from: Vec::new(), masks: Vec::new(), words };
        let mut now = vec![0; words];
        let mut changes = changes.into_iter().peekable();
        let mut at = 0;
        loop {
            while let Some((_, n)) = changes.next_if(|(port, _)| *port == at) {
                now[n / BITS] ^= 1 << (n % BITS);
            }
            side.from.push(at);
            side.masks.extend(&now);
            match changes.peek() {
                Some((port, _)) => at = *port,
                None => break,
            }
        }
        side.from.shrink_to_fit();
        side.masks.shrink_to_fit();
        side
    }

    #[inline]
    fn at(&self, port: u16) -> &[u64] {
        let step = self.from.partition_point(|from| *from <= port).saturating_sub(1);
        self.masks.get(step * self.words..).and_then(|rest| rest.get(..self.words)).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::super::Match;
    use super::super::ports::{Rule, Tree};
    use super::*;
    use crate::selector::{Action, PolicyId, Ports};
    use proptest::prelude::*;

    fn port() -> impl Strategy<Value = u16> {
        prop_oneof![0u16..40, 65_500u16..=u16::MAX, any::<u16>()]
    }

    fn ports() -> impl Strategy<Value = Ports> {
        prop_oneof![
            1 => Just(Ports::Any),
            1 => Just(Ports::Opaque),
            6 => (port(), port()).prop_map(|(a, b)| Ports::Range(a.min(b)..=a.max(b))),
        ]
    }

    proptest! {
        /// Sets and tree find the first rule of a linear scan.
        #[test]
        fn sets_and_tree_find_the_first_of_a_linear_scan(
            rules in prop::collection::vec((ports(), ports(), any::<bool>()), 1..200),
            packets in prop::collection::vec((port(), port()), 50),
        ) {
            // Every other rule is about less than its prefixes, and not searched by port.
            let spans: Vec<_> = rules.iter().map(|(local, remote, is_tight)| {
                is_tight.then(|| (PortSpan::of(local).unwrap(), PortSpan::of(remote).unwrap()))
            }).collect();
            let masks = Masks::new(&spans);
            let some = crate::selector::AddressRange::host(core::net::Ipv4Addr::LOCALHOST.into());
            let rules: Vec<_> = rules.iter().enumerate().map(|(n, (local, remote, is_tight))| Rule {
                rank: n as u32,
                found: Match { policy: PolicyId(n as u32), action: Action::Protect },
                local_ports: PortSpan::of(local).unwrap(),
                remote_ports: PortSpan::of(remote).unwrap(),
                protocol: Rule::ANY_PROTOCOL,
                selector: 0,
                ranges: (!is_tight).then(|| Box::new((some, some))),
            }).collect();
            let tree = Tree::new(&rules);
            for (local, remote) in packets {
                let admits = |span: PortSpan, port: u16| {
                    span.visible().is_some_and(|(first, last)| first <= port && port <= last)
                };
                let first = spans.iter().position(|span| {
                    span.is_some_and(|(l, r)| admits(l, local) && admits(r, remote))
                });
                prop_assert_eq!(masks.first(local, remote), first);
                let found = tree.search(&rules, (local, remote), None);
                prop_assert_eq!(found.map(|rule| rule.rank as usize), first);
            }
        }
    }

    /// As many rules as there may be, all of whose sets are of all words.
    #[test]
    fn the_last_of_many_rules_is_found() {
        let span = |first, last| PortSpan::of(&Ports::Range(first..=last)).unwrap();
        let spans: Vec<_> = (0..MOST as u16)
            .map(|n| Some((span(n, u16::MAX), span(0, MOST as u16 - 1 - n))))
            .collect();
        let masks = Masks::new(&spans);
        assert_eq!(masks.first(u16::MAX, 0), Some(0));
        assert_eq!(masks.first(0, MOST as u16 - 1), Some(0));
        assert_eq!(masks.first(0, MOST as u16), None);
        let only_last: Vec<_> =
            (0..MOST).map(|n| (n == MOST - 1).then(|| (span(7, 7), span(9, u16::MAX)))).collect();
        assert_eq!(Masks::new(&only_last).first(7, u16::MAX), Some(MOST - 1));
        assert_eq!(Masks::new(&only_last).first(7, 8), None);
    }
}
