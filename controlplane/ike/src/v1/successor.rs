//! What goes over from one ISAKMP SA to another between the same two (`crate::succession` says which).

use super::established::{Established, Life, down};
use super::quick::Exchange;
use crate::context::{Cx, Effect};
use crate::event::{Failure, IkeId};
use crate::known::Known;
use crate::succession::Between;
use crate::v2::child::{ChildSa, Phase};
use crate::v2::sa::Head;
use crate::v2::task::{Queued, Task};
use ipsec::sa::PairId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Where an ISAKMP SA stands among those between the same two.
#[derive(Default)]
pub(crate) struct Succession {
    /// It has come up and the others are not told yet; whom it was to replace.
    pub(crate) enters: Option<Option<IkeId>>,
    /// The ISAKMP SA that the children went over to. What is made here after that follows them.
    pub(crate) heir: Option<IkeId>,
    /// Whether there is another one.
    pub(crate) has_siblings: bool,
    /// Pairs that a quick mode was about when the heir took over.
    pub(crate) late: BTreeSet<PairId>,
    /// Pairs that went over and that the peer may hold under this ISAKMP SA: it is not ended before they are.
    pub(crate) wards: BTreeSet<PairId>,
}

impl Established {
    /// Pairs that a quick mode is about.
    fn busy(&self) -> BTreeSet<PairId> {
        self.exchanges.values().flat_map(Exchange::holds).collect()
    }

    /// Another ISAKMP SA has taken over, or none has any more.
    pub(crate) fn set_heir(&mut self, heir: Option<IkeId>, has_siblings: bool) {
        if heir.is_some() && self.succession.heir != heir {
            let busy = self.busy();
            self.succession.late.extend(busy);
        }
        self.succession.heir = heir;
        self.succession.has_siblings = has_siblings;
        if heir.is_none()
            && let Life::Replaced { .. } = self.life
        {
            // Of those that there are it is the one to go on with.
            self.life = Life::Active;
        }
    }

    /// It is to end at a time, or when nothing needs it any more.
    pub(crate) fn leave_at(&mut self, until: Instant) {
        if !matches!(self.life, Life::Replaced { .. }) {
            self.life = Life::Replaced { until };
        }
    }

    /// What it has ends with it.
    pub(crate) fn stands_alone(&mut self) {
        self.succession.heir = None;
        self.succession.has_siblings = false;
    }

    /// Whether its end is the end of its children.
    pub(super) fn is_last(&self, reason: Failure) -> bool {
        match reason {
            Failure::Replaced | Failure::DeletedByPeer | Failure::Expired | Failure::Timeout => {
                self.succession.heir.is_none() && !self.succession.has_siblings
            }
            _ => true,
        }
    }

    /// Whether nothing needs it any more.
    pub(super) fn is_empty(&self) -> bool {
        self.children.is_empty() && self.succession.wards.is_empty() && self.negotiations() == 0
    }

    /// What is not kept here any more goes over: pairs that no quick mode is about, and what waits for its turn.
    pub(crate) fn hand_over(
        &mut self,
        head: &mut Head,
    ) -> (BTreeMap<PairId, ChildSa>, Vec<Queued>) {
        let busy = self.busy();
        let all = core::mem::take(&mut self.children);
        let (stay, go) = all.into_iter().partition(|(pair, _)| busy.contains(pair));
        self.children = stay;
        let (tasks, stay): (Vec<Queued>, Vec<Queued>) =
            head.tasks.drain(..).partition(|queued: &Queued| leaves(&queued.task, &busy));
        head.tasks = stay.into();
        (go, tasks)
    }

    /// Tells the others that it is there; afterwards, what came to be after an heir took over follows.
    pub(super) fn follow(&mut self, head: &Head, cx: &mut Cx<'_>) {
        // Before XAUTH is over it is not known whether it stays.
        if self.transactions.are_over()
            && let Some(replaces) = self.succession.enters.take()
        {
            cx.effect(Effect::Succeed { id: head.id, replaces });
        }
        let Some(to) = self.succession.heir else { return };
        let busy = self.busy();
        if self.children.keys().any(|pair| !busy.contains(pair))
            || head.tasks.iter().any(|queued| leaves(&queued.task, &busy))
        {
            cx.effect(Effect::Adopt { from: head.id, to });
        }
    }

    /// The SA ends and its children need not: another ISAKMP SA between the same two takes them, if there is one.
    pub(super) fn leave_behind(&mut self, head: &Head, cx: &mut Cx<'_>, reason: Failure) {
        self.release_all(head, cx);
        let whole = |(pair, child): &(PairId, ChildSa)| {
            child.up == (true, true) && !self.exchanges.values().any(|e| e.pair() == Some(*pair))
        };
        let (whole, half): (Vec<_>, Vec<_>) =
            core::mem::take(&mut self.children).into_iter().partition(whole);
        self.children = half.into_iter().collect();
        let mut downs = Vec::new();
        let mut children = BTreeMap::new();
        for (pair, mut child) in whole {
            if core::mem::replace(&mut child.acquired, false) {
                head.acquired(cx, &child.config.name, Err(reason));
            }
            if child.phase == Phase::Rekeying {
                child.phase = Phase::Installed;
                let after = crate::v2::create_child::retry_after(cx);
                child.rekey_at = cx.now.checked_add(after);
            }
            downs.extend(down(head, &child, reason));
            children.insert(pair, child);
        }
        if !children.is_empty() {
            let connection = head.connection.name.clone();
            let (local, remote) = (self.local_id.clone(), self.peer().clone());
            let between = Between::new(Known { connection, local, remote }, head);
            cx.effect(Effect::Orphans { between, children, downs });
        }
    }
}

/// Whether a task goes over to another ISAKMP SA.
fn leaves(task: &Task, busy: &BTreeSet<PairId>) -> bool {
    match task {
        Task::RekeyChild { pair, .. } => !busy.contains(pair),
        task => is_of_children(task),
    }
}

/// Whether a task is about children, so that it can be done under any ISAKMP SA between the same two.
pub(super) const fn is_of_children(task: &Task) -> bool {
    matches!(task, Task::CreateChild { .. } | Task::RekeyChild { .. })
}
