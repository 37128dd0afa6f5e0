//! Message IDs, retransmission and stored answers (RFC 7296 §2.1 to §2.3), with a window of one.

use crate::config::Settings;
use aws_lc_rs::digest;
use core::time::Duration;
use std::time::Instant;

/// A message's digest, by which a repeated request is told from another one under the same ID.
pub(crate) type Digest = [u8; 32];

/// SHA-256 of a datagram.
pub(crate) fn digest_of(datagram: &[u8]) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, datagram).as_ref());
    out
}

/// A request of ours that waits for its answer.
pub(crate) struct Sent {
    pub(crate) id: u32,
    datagrams: Vec<Vec<u8>>,
    repeats: u32,
    next_at: Instant,
}

/// What is to be done about an unanswered request.
pub(crate) enum Due<'a> {
    NotYet,
    Repeat(&'a [Vec<u8>]),
    GiveUp,
}

impl Sent {
    pub(crate) fn new(now: Instant, settings: &Settings, id: u32, datagrams: Vec<Vec<u8>>) -> Self {
        Self { id, datagrams, repeats: 0, next_at: now + interval(settings, 0) }
    }

    pub(crate) const fn deadline(&self) -> Instant {
        self.next_at
    }

    /// How often it was sent again.
    pub(crate) const fn repeats(&self) -> u32 {
        self.repeats
    }

    /// charon's rule: `retransmit_timeout * retransmit_base ^ n` after the nth transmission, `retransmit_tries` repeats,
    /// and one more interval before the peer is given up.
    pub(crate) fn due(&mut self, now: Instant, settings: &Settings) -> Due<'_> {
        if now < self.next_at {
            return Due::NotYet;
        }
        if self.repeats >= settings.retransmit_tries {
            return Due::GiveUp;
        }
        self.repeats += 1;
        self.next_at = now + interval(settings, self.repeats);
        Due::Repeat(&self.datagrams)
    }
}

fn interval(settings: &Settings, repeats: u32) -> Duration {
    // A day bounds what a large base and many tries would make of it, and keeps the sum with `now` in range.
    const LONGEST: f64 = 86_400.0;
    let exponent = i32::try_from(repeats).unwrap_or(i32::MAX);
    let seconds =
        settings.retransmit_timeout.as_secs_f64() * settings.retransmit_base.powi(exponent);
    Duration::try_from_secs_f64(seconds.min(LONGEST)).unwrap_or(Duration::from_secs(86_400))
}

/// The peer's requests: which one comes next, and the answer to the one before.
pub(crate) struct Inbound {
    next: u32,
    working: Option<Digest>,
    stored: Option<Stored>,
}

/// One answer is held: with a window of one the peer cannot ask for an older one again.
struct Stored {
    digest: Digest,
    datagrams: Vec<Vec<u8>>,
}

/// What a request is, by its message ID and content.
pub(crate) enum Verdict<'a> {
    /// The next one.
    New,
    /// The last one again: its answer goes out again as it was.
    Repeated(&'a [Vec<u8>]),
    /// The next one again, while its answer is being made.
    Working,
    /// Outside the window, or another content under a used ID.
    Stale,
}

impl Inbound {
    /// Waiting for request `next`.
    pub(crate) const fn new(next: u32) -> Self {
        Self { next, working: None, stored: None }
    }

    pub(crate) const fn next(&self) -> u32 {
        self.next
    }

    pub(crate) fn judge(&self, id: u32, digest: &Digest) -> Verdict<'_> {
        if id == self.next {
            return match &self.working {
                None => Verdict::New,
                Some(working) if working == digest => Verdict::Working,
                Some(_) => Verdict::Stale,
            };
        }
        match &self.stored {
            Some(stored) if id.checked_add(1) == Some(self.next) && stored.digest == *digest => {
                Verdict::Repeated(&stored.datagrams)
            }
            _ => Verdict::Stale,
        }
    }

    /// The next request has been taken up.
    pub(crate) fn begin(&mut self, digest: Digest) {
        self.working = Some(digest);
    }

    /// Its answer is ready; the returned datagrams are to be sent.
    pub(crate) fn answer(&mut self, datagrams: Vec<Vec<u8>>) {
        if let Some(digest) = self.working.take() {
            self.stored = Some(Stored { digest, datagrams });
            self.next = self.next.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// strongswan.conf's table of the defaults: 4, 7.2, 12.96, 23.3 and 42 s after one another, given up after 165 s.
    #[test]
    fn retransmission_follows_charons_table() {
        let settings = Settings::default();
        let start = Instant::now();
        let mut sent = Sent::new(start, &settings, 0, vec![vec![1]]);
        let mut at = Vec::new();
        loop {
            let deadline = sent.deadline();
            match sent.due(deadline, &settings) {
                Due::Repeat(_) => at.push((deadline - start).as_secs()),
                Due::GiveUp => {
                    at.push((deadline - start).as_secs());
                    break;
                }
                Due::NotYet => unreachable!(),
            }
        }
        assert_eq!(at, [4, 11, 24, 47, 89, 165]);
    }

    #[test]
    fn the_window_is_one() {
        let mut inbound = Inbound::new(1);
        let (a, b) = (digest_of(b"a"), digest_of(b"b"));
        assert!(matches!(inbound.judge(0, &a), Verdict::Stale));
        assert!(matches!(inbound.judge(2, &a), Verdict::Stale));
        assert!(matches!(inbound.judge(1, &a), Verdict::New));
        inbound.begin(a);
        assert!(matches!(inbound.judge(1, &a), Verdict::Working));
        assert!(matches!(inbound.judge(1, &b), Verdict::Stale));
        inbound.answer(vec![vec![9]]);
        assert!(matches!(inbound.judge(1, &a), Verdict::Repeated(d) if d == [vec![9]]));
        assert!(matches!(inbound.judge(1, &b), Verdict::Stale));
        assert!(matches!(inbound.judge(2, &b), Verdict::New));
    }
}
