//! When decisions about flows stop to hold because an SA was bound or unbound, and which SA flows take then.
//!
//! ```text
//!  policy  [ A ] ──bind B──► [ A, B ] ──unbind A──► [ B ]      selectors of A and B the same:
//!  epoch     7                  8                     8        a flow that took A at 7 takes B at 8, and nobody is asked
//! ```
//!
//! Policies count their epochs in groups, so that what nearly every packet asks, whether anything of its group has changed, is answered
//! by a line that is near. Only if something has, it matters whether it was its own policy.

use crate::command::{Binding, SaRef};
use core::sync::atomic::Ordering;
use ipsec::large_pages;
use ipsec::selector::PolicyId;

/// Groups: 16 KiB. With a million tunnels of an hour's life, one flow in fifty finds a change in its group when it sends its next packet.
const GROUPS: usize = 1 << 12;

/// Policies that are told apart at least, and at most: 32 MB.
const FEWEST: usize = GROUPS;
const MOST: usize = 1 << 20;

/// How often what is bound to policies has changed. A policy is known by its number modulo how many there are room for; where there are
/// more, a change makes others be asked again.
pub(crate) struct BindingEpochs {
    /// Of a policy's number modulo how many there are: changes so far.
    groups: Box<[u32; GROUPS]>,
    /// The epoch of the group that began with the last change of a policy.
    changed: Box<[u32]>,
    /// Of the policy whose bindings changed last, for each of the above.
    heirs: Box<[Option<Heir>]>,
}

/// Which SA the packets of a policy take that took another one of it before: after a rekey all flows would have to be decided about anew
/// otherwise, in one burst those of 32 packets.
#[derive(Clone, Copy, Debug)]
struct Heir {
    policy: PolicyId,
    /// All that was bound to the policy from this epoch on has the same selectors.
    since: u32,
    /// What all flows of the policy take that have taken one of these; `None` while that is to be asked.
    sa: Option<SaRef>,
}

impl BindingEpochs {
    /// For about so many policies.
    pub(crate) fn new(policies: usize) -> Self {
        let count = policies.next_power_of_two().clamp(FEWEST, MOST);
        let (mut changed, mut heirs) =
            (large_pages::with_capacity(count), large_pages::with_capacity(count));
        changed.resize(count, 0);
        heirs.resize(count, None);
        Self { groups: Box::new([0; GROUPS]), changed: changed.into(), heirs: heirs.into() }
    }

    #[inline]
    fn at(&self, policy: PolicyId) -> usize {
        policy.0 as usize & (self.changed.len() - 1)
    }

    /// The present one. What was decided in it holds.
    #[inline]
    pub(crate) fn of(&self, policy: PolicyId) -> u32 {
        self.groups[policy.0 as usize % GROUPS]
    }

    /// Whether what was decided in an epoch that is over holds: what has changed since was not this policy.
    #[cold]
    pub(crate) fn holds(&self, policy: PolicyId, epoch: u32) -> bool {
        // Epochs go round in billions of changes.
        let now = self.of(policy);
        now.wrapping_sub(epoch) <= now.wrapping_sub(self.changed[self.at(policy)])
    }

    /// The SA of packets that took one of the policy at another epoch, if that follows without asking.
    #[cold]
    pub(crate) fn heir(&self, policy: PolicyId, epoch: u32) -> Option<SaRef> {
        let Heir { policy: of, since, sa } = self.heirs[self.at(policy)].as_ref()?;
        let is_later = epoch.wrapping_sub(*since) <= self.of(policy).wrapping_sub(*since);
        if *of == policy && is_later { *sa } else { None }
    }

    /// An SA is about to be bound to a policy, to which `bound` are.
    pub(crate) fn bind(&mut self, policy: PolicyId, bound: &[Binding], new: &Binding) {
        let kept = bound.iter().filter(|b| b.pair != new.pair);
        self.change(policy, bound, kept.chain([new]));
    }

    /// An SA is about to be unbound from a policy, to which `bound` are.
    pub(crate) fn unbind(&mut self, policy: PolicyId, bound: &[Binding], old: &Binding) {
        let heir = self.heirs[self.at(policy)];
        // All that was decided in this epoch follows the heir already.
        let is_followed = |sa: SaRef| sa != old.sa;
        if heir.is_some_and(|h| h.policy == policy && h.sa.is_some_and(is_followed)) {
            return;
        }
        self.change(policy, bound, bound.iter().filter(|b| b.pair != old.pair));
    }

    fn change<'a>(
        &mut self,
        policy: PolicyId,
        before: &[Binding],
        after: impl Iterator<Item = &'a Binding>,
    ) {
        let at = self.at(policy);
        let group = &mut self.groups[policy.0 as usize % GROUPS];
        *group = group.wrapping_add(1);
        let before_that = core::mem::replace(&mut self.changed[at], *group);
        let known = self.heirs[at].take().filter(|heir| heir.policy == policy);
        let mut last: Option<&Binding> = None;
        let first = before.first();
        let mut are_alike = before.iter().all(|b| first.is_none_or(|f| f.selectors == b.selectors));
        for binding in after {
            let first = first.or(last);
            are_alike &= first.is_none_or(|first| first.selectors == binding.selectors);
            last = Some(binding);
        }
        // Without any the next ones may be about anything.
        let Some(last) = last.filter(|_| are_alike) else { return };
        // Relaxed: see `Binding::active`.
        let sa = last.active.load(Ordering::Relaxed).then_some(last.sa);
        // What was decided since the change before took one of `before`.
        let since = known.map_or(before_that, |heir| heir.since);
        self.heirs[at] = Some(Heir { policy, since, sa });
    }

    /// Nothing is bound any more. What was decided is forgotten by other means.
    pub(crate) fn clear(&mut self) {
        self.heirs.fill(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicBool;
    use ipsec::sa::PairId;
    use ipsec::selector::{AddressRange, Ports, Selector};
    use ipsec::spi::CoreId;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn binding(policy: u32, pair: u64, selectors: u8, active: bool) -> Binding {
        let host = |n| AddressRange::host(core::net::Ipv4Addr::new(10, 0, 0, n).into());
        let selector = Selector {
            local: host(1),
            remote: host(selectors),
            protocol: None,
            local_ports: Ports::Any,
            remote_ports: Ports::Any,
        };
        Binding {
            policy: PolicyId(policy),
            pair: PairId(pair),
            sa: SaRef { core: CoreId::new(0).unwrap(), slot: pair as u32, generation: 0 },
            selectors: [selector].into(),
            later_fragments: false,
            active: Arc::new(AtomicBool::new(active)),
        }
    }

    /// What would be found by asking: the SA of the last binding with these selectors that is active, and whether it may be remembered.
    fn ask(bound: &[Binding], selectors: &[Selector]) -> Option<SaRef> {
        let mut fits = bound.iter().rev().filter(|b| *b.selectors == *selectors);
        let newest = fits.next()?;
        newest.active.load(Ordering::Relaxed).then_some(newest.sa)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Bind { policy: u32, selectors: u8, active: bool },
        Unbind { policy: u32, which: usize },
        Activate { policy: u32, which: usize },
        Decide { policy: u32, selectors: u8 },
    }

    fn step() -> impl Strategy<Value = Step> {
        // Two that are not told apart, one more of their group, and one of another.
        const GROUP: u32 = GROUPS as u32;
        let policy = || prop::sample::select(vec![1, 1 + 4 * GROUP, 1 + GROUP, 2]);
        let selectors = || prop::sample::select(vec![1u8, 1, 1, 2]);
        prop_oneof![
            (policy(), selectors(), any::<bool>())
                .prop_map(|(policy, selectors, active)| Step::Bind { policy, selectors, active }),
            (policy(), any::<usize>()).prop_map(|(policy, which)| Step::Unbind { policy, which }),
            (policy(), any::<usize>()).prop_map(|(policy, which)| Step::Activate { policy, which }),
            (policy(), selectors())
                .prop_map(|(policy, selectors)| Step::Decide { policy, selectors }),
        ]
    }

    proptest! {
        /// Whatever is bound and unbound: a decision that is followed, as it holds or by an heir, is what asking gives.
        #[test]
        fn what_is_inherited_is_what_asking_gives(steps in prop::collection::vec(step(), 1..60)) {
            let mut epochs = BindingEpochs::new(4 * GROUPS);
            let mut bound: std::collections::HashMap<u32, Vec<Binding>> = Default::default();
            let mut decided: Vec<(u32, u8, u32, SaRef)> = Vec::new();
            for (n, step) in (1..).zip(steps) {
                match step {
                    Step::Bind { policy, selectors, active } => {
                        let new = binding(policy, n, selectors, active);
                        let list = bound.entry(policy).or_default();
                        epochs.bind(PolicyId(policy), list, &new);
                        list.push(new);
                    }
                    Step::Unbind { policy, which } => {
                        let list = bound.entry(policy).or_default();
                        if !list.is_empty() {
                            let at = which % list.len();
                            let old = list[at].clone();
                            epochs.unbind(PolicyId(policy), list, &old);
                            list.remove(at);
                        }
                    }
                    Step::Activate { policy, which } => {
                        let list = bound.entry(policy).or_default();
                        if !list.is_empty() {
                            list[which % list.len()].active.store(true, Ordering::Relaxed);
                        }
                    }
                    Step::Decide { policy, selectors } => {
                        let list = bound.entry(policy).or_default();
                        let wanted = binding(policy, 0, selectors, true).selectors;
                        if let Some(sa) = ask(list, &wanted) {
                            decided.push((policy, selectors, epochs.of(PolicyId(policy)), sa));
                        }
                    }
                }
                for (policy, selectors, epoch, sa) in &decided {
                    let holds = epochs.holds(PolicyId(*policy), *epoch);
                    prop_assert!(holds || *epoch != epochs.of(PolicyId(*policy)));
                    let followed = if holds { Some(*sa) } else { epochs.heir(PolicyId(*policy), *epoch) };
                    let Some(followed) = followed else { continue };
                    let list = bound.get(policy).map_or(&[][..], |l| l);
                    let wanted = binding(*policy, 0, *selectors, true).selectors;
                    // One that waits for its activation is not taken before that is asked.
                    let newest = list.iter().rev().find(|b| b.selectors == wanted && b.active.load(Ordering::Relaxed));
                    prop_assert_eq!(newest.map(|b| b.sa), Some(followed));
                }
            }
        }
    }

    /// What others of a group do takes nothing from a policy: its decisions hold, and its flows follow its own rekey.
    #[test]
    fn a_policy_is_told_from_others_of_its_group() {
        let mut epochs = BindingEpochs::new(4 * GROUPS);
        let (policy, other) = (PolicyId(9), PolicyId(9 + GROUPS as u32));
        let first = binding(9, 1, 1, true);
        epochs.bind(policy, &[], &first);
        let decided = epochs.of(policy);
        for pair in 100..200 {
            epochs.bind(other, &[], &binding(other.0, pair, 1, true));
            assert!(epochs.of(policy) != decided && epochs.holds(policy, decided));
        }
        let later = epochs.of(policy);
        let new = binding(9, 2, 1, true);
        epochs.bind(policy, core::slice::from_ref(&first), &new);
        for epoch in [decided, later] {
            assert!(!epochs.holds(policy, epoch));
            assert_eq!(epochs.heir(policy, epoch), Some(new.sa));
        }
        assert!(epochs.holds(policy, epochs.of(policy)));
    }

    /// After each of many rekeys, flows go on without being asked about.
    #[test]
    fn a_rekey_is_inherited() {
        let mut epochs = BindingEpochs::new(1);
        let policy = PolicyId(9);
        let first = binding(9, 1, 1, true);
        epochs.bind(policy, &[], &first);
        let decided = epochs.of(policy);
        let mut old = first;
        for pair in 2..20 {
            let new = binding(9, pair, 1, true);
            epochs.bind(policy, core::slice::from_ref(&old), &new);
            assert_eq!(epochs.heir(policy, decided), Some(new.sa));
            let both = [old.clone(), new.clone()];
            epochs.unbind(policy, &both, &old);
            assert_eq!(epochs.heir(policy, decided), Some(new.sa));
            old = new;
        }
        epochs.clear();
        assert_eq!(epochs.heir(policy, decided), None);
    }
}
