//! Local requests for Child SAs, and commands that consist of several steps.

use crate::context::{Outputs, Registry};
use crate::event::{Event, Failure, Origin, Outcome, RequestId};
use crate::statistics::Statistics;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How long a failed acquire keeps trapped packets from raising it anew.
const HOLD_DOWN: Duration = Duration::from_secs(5);

/// Commands that wait for one acquire. They come from operators; a loop of them does not grow without end.
const MAX_REQUESTS: usize = 256;

/// A connection's and a child's name.
pub(crate) type Key = (String, String);

enum Acquire {
    /// Being negotiated or queued; the commands that wait for it.
    Active(Vec<RequestId>),
    /// Failed a short while ago.
    Held,
}

/// The acquire table (statistics.md, `acquire_heap_size`).
#[derive(Default)]
pub(crate) struct Acquires {
    table: BTreeMap<Key, Acquire>,
    /// Ends of hold-downs, in order as all are equally long.
    held: VecDeque<(Instant, Key)>,
}

/// What an acquire is at its begin.
pub(crate) enum Begun {
    /// New: to be negotiated.
    New,
    /// Under way, and waited for by as many as may.
    Crowded,
    /// Already under way.
    Joined,
    HeldDown,
}

impl Acquires {
    pub(crate) fn begin(&mut self, key: &Key, origin: Origin, request: RequestId) -> Begun {
        match self.table.get_mut(key) {
            Some(Acquire::Active(requests)) => {
                if requests.len() >= MAX_REQUESTS {
                    return Begun::Crowded;
                }
                requests.push(request);
                Begun::Joined
            }
            Some(Acquire::Held) if origin == Origin::Trap => Begun::HeldDown,
            Some(Acquire::Held) | None => {
                self.held.retain(|(_, held)| held != key);
                self.table.insert(key.clone(), Acquire::Active(vec![request]));
                Begun::New
            }
        }
    }

    pub(crate) fn done(
        &mut self,
        now: Instant,
        key: Key,
        result: Result<Outcome, Failure>,
        out: &mut Outputs,
        stats: &mut Statistics,
    ) {
        let Some(Acquire::Active(requests)) = self.table.remove(&key) else { return };
        for request in requests {
            out.events.push_back(Event::RequestDone { request, result });
        }
        if result == Err(Failure::Unprotected) {
            // statistics.md: one that ends as a soft SA is not a failure. It is not held down either: the policy is BYPASS now.
            stats.soft_associations += 1;
            let (connection, child) = key;
            out.events.push_back(Event::Unprotected { connection, child });
        } else if result.is_err() {
            stats.acquire_failures += 1;
            self.table.insert(key.clone(), Acquire::Held);
            self.held.push_back((now + HOLD_DOWN, key));
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.held.front().map(|(at, _)| *at)
    }

    pub(crate) fn timeout(&mut self, now: Instant) {
        while let Some((at, _)) = self.held.front()
            && *at <= now
        {
            if let Some((_, key)) = self.held.pop_front() {
                self.table.remove(&key);
            }
        }
    }

    pub(crate) fn active(&self) -> usize {
        self.table.values().filter(|acquire| matches!(acquire, Acquire::Active(_))).count()
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }
}

struct Progress {
    remaining: u32,
    outcome: Outcome,
    failure: Option<Failure>,
}

/// Commands about several SAs at once.
#[derive(Default)]
pub(crate) struct Requests {
    table: BTreeMap<RequestId, Progress>,
}

impl Requests {
    /// A command of `steps` parts. Without any it is done at once.
    pub(crate) fn begin(&mut self, registry: &mut Registry, steps: u32) -> RequestId {
        let request = RequestId(registry.request.next());
        let outcome = Outcome { matched: steps, ike: None, pair: None };
        self.table.insert(request, Progress { remaining: steps, outcome, failure: None });
        request
    }

    pub(crate) fn finish_if_empty(&mut self, request: RequestId, out: &mut Outputs) {
        if self.table.get(&request).is_some_and(|progress| progress.remaining == 0) {
            self.finish(request, out);
        }
    }

    pub(crate) fn step_done(
        &mut self,
        request: RequestId,
        result: Result<Outcome, Failure>,
        out: &mut Outputs,
    ) {
        let Some(progress) = self.table.get_mut(&request) else { return };
        progress.remaining = progress.remaining.saturating_sub(1);
        match result {
            Ok(outcome) => {
                progress.outcome.ike = outcome.ike.or(progress.outcome.ike);
                progress.outcome.pair = outcome.pair.or(progress.outcome.pair);
            }
            Err(failure) => progress.failure = Some(failure),
        }
        if progress.remaining == 0 {
            self.finish(request, out);
        }
    }

    fn finish(&mut self, request: RequestId, out: &mut Outputs) {
        if let Some(progress) = self.table.remove(&request) {
            let result = progress.failure.map_or(Ok(progress.outcome), Err);
            out.events.push_back(Event::RequestDone { request, result });
        }
    }
}
