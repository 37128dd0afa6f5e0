//! Public-key work, done away from the engine's thread.

use crate::certificate::{Signing, Untrusted, Verification};
use crate::event::IkeId;
use crate::gss::{Passed, Refused, Talk};
use keyexchange::{Group, KeyExchangeError, PrivateKey, SharedSecret};
use std::time::SystemTime;

/// Work for the public-key pool. It owns what it needs and may run on any thread.
pub struct Job {
    pub(crate) ike: IkeId,
    pub(crate) number: u64,
    pub(crate) established: bool,
    pub(crate) work: Work,
}

/// What is to be computed.
pub(crate) enum Work {
    /// A fresh key for a KE payload of ours.
    Generate(Group),
    /// The responder's value and the secret, for the initiator's value.
    Respond(Group, Vec<u8>),
    /// The secret, for the responder's value.
    Agree(Box<PrivateKey>, Vec<u8>),
    /// A security mechanism takes a step, which may wait for a server.
    Gss(Box<Talk>),
    /// The peer's proof is checked, and if it holds (or none is to be checked), ours is made.
    Prove(Option<Box<Verification>>, Option<Box<Signing>>),
}

/// What came of a [`Job`].
pub struct JobDone {
    pub(crate) ike: IkeId,
    pub(crate) number: u64,
    waited: bool,
    pub(crate) result: Result<Product, KeyExchangeError>,
}

/// What was computed, by the kind of work.
pub(crate) enum Product {
    Key(Box<PrivateKey>),
    Response(Vec<u8>, SharedSecret),
    Secret(SharedSecret),
    /// The peer is who it says; our signature, if one was to be made.
    Proved(Option<Vec<u8>>),
    /// What the security mechanism did, or why it refused.
    Gss(Result<Box<Passed>, Refused>),
    /// It is not.
    Refuted(Untrusted),
}

impl JobDone {
    /// Whether the job was one that [waits](Job::waits).
    pub const fn waited(&self) -> bool {
        self.waited
    }
}

impl Job {
    /// Does the work; some 20 µs to a few ms.
    pub fn run(self) -> JobDone {
        let waited = self.waits().is_some();
        let result = match self.work {
            Work::Generate(group) => {
                PrivateKey::generate(group).map(|key| Product::Key(Box::new(key)))
            }
            Work::Respond(group, peer) => keyexchange::respond(group, &peer)
                .map(|(public, secret)| Product::Response(public, secret)),
            Work::Agree(key, peer) => key.agree(&peer).map(Product::Secret),
            Work::Gss(talk) => talk.run().map(|result| Product::Gss(result.map(Box::new))),
            Work::Prove(verification, signing) => {
                prove(verification.as_deref(), signing.as_deref())
            }
        };
        JobDone { ike: self.ike, number: self.number, waited, result }
    }

    /// Gives the work back undone, when the pool's queue is full: the negotiation fails as if the library had.
    pub fn refuse(self) -> JobDone {
        let waited = self.waits().is_some();
        let result = Err(KeyExchangeError::Library);
        JobDone { ike: self.ike, number: self.number, waited, result }
    }

    /// Whether it is for a security mechanism, and so may wait for a server or for the mechanism's own locks: such jobs
    /// do not belong on a pool that computes. `Some(true)` where a server is likely to be asked.
    pub const fn waits(&self) -> Option<bool> {
        match &self.work {
            Work::Gss(talk) => Some(talk.is_slow()),
            _ => None,
        }
    }

    /// Whether it is for an established IKE SA, whose jobs go before those of strangers.
    pub const fn is_for_established(&self) -> bool {
        self.established
    }
}

/// Certificates have times of day, which the engine does not know: the clock is read here, on the pool.
fn prove(
    verification: Option<&Verification>,
    signing: Option<&Signing>,
) -> Result<Product, KeyExchangeError> {
    if let Some(verification) = verification {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        if let Err(reason) = verification.run(now.unwrap_or_default()) {
            return Ok(Product::Refuted(reason));
        }
    }
    match signing.map(Signing::run) {
        None => Ok(Product::Proved(None)),
        Some(Some(signature)) => Ok(Product::Proved(Some(signature))),
        Some(None) => Err(KeyExchangeError::Library),
    }
}
