//! Soft SAs: the traffic of a child goes in clear because its peer does not speak IKE and its policy allows that.
//!
//! ```text
//!   acquire ─► the peer is silent for `unprotected_after` ─► BYPASS in place of PROTECT, in the workers only
//!                                                              │ `unprotected_for` is over, the child comes up by the peer, or
//!                                                              ▼ the configuration no longer allows it
//!                                                            PROTECT: the next packet asks the peer again
//! ```
//!
//! Steering, routes and fail-closed rules stay as for PROTECT: the packets still pass the workers, and when the daemon ends, so does
//! the permission.

use crate::policies::ChildKey;
use core::time::Duration;
use ike::config::{Config, Unprotected};
use std::collections::BTreeMap;
use std::time::Instant;

/// The soft SAs there are; one for a child at most.
#[derive(Debug, Default)]
pub(crate) struct SoftSas(BTreeMap<ChildKey, Instant>);

impl SoftSas {
    /// Forms one, if the configuration still allows it; for how long.
    pub(crate) fn form(
        &mut self,
        now: Instant,
        key: ChildKey,
        config: &Config,
    ) -> Option<Duration> {
        let Unprotected { lasts, .. } = allowed(&key, config)?;
        // A time beyond what the clock can say: a day will do.
        let until = now.checked_add(lasts).unwrap_or(now + Duration::from_secs(86_400));
        self.0.insert(key, until);
        Some(lasts)
    }

    /// The child is protected, so its soft SA ends; whether there was one.
    pub(crate) fn end(&mut self, key: &ChildKey) -> bool {
        self.0.remove(key).is_some()
    }

    /// Those whose time is over, taken out.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<ChildKey> {
        self.take(|_, until| *until <= now)
    }

    /// Those that a configuration no longer allows, taken out.
    pub(crate) fn forbid(&mut self, config: &Config) -> Vec<ChildKey> {
        self.take(|key, _| allowed(key, config).is_none())
    }

    fn take(&mut self, which: impl Fn(&ChildKey, &Instant) -> bool) -> Vec<ChildKey> {
        let (gone, stay): (BTreeMap<_, _>, _) =
            core::mem::take(&mut self.0).into_iter().partition(|(key, until)| which(key, until));
        self.0 = stay;
        gone.into_keys().collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }

    /// All of them: the child, and how long its packets go in clear yet.
    pub(crate) fn iter(&self, now: Instant) -> impl Iterator<Item = (&ChildKey, Duration)> {
        self.0.iter().map(move |(key, until)| (key, until.saturating_duration_since(now)))
    }

    /// Whether a child has one.
    pub(crate) fn has(&self, connection: &str, child: &str) -> bool {
        self.0.keys().any(|key| key.connection == connection && key.child == child)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }
}

fn allowed(key: &ChildKey, config: &Config) -> Option<Unprotected> {
    let connection = config.connections.iter().find(|c| c.name == key.connection)?;
    connection.children.iter().find(|c| c.name == key.child)?.unprotected
}
