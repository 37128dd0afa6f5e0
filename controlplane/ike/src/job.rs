//! Public-key work, done away from the engine's thread.

use crate::event::IkeId;
use keyexchange::{Group, KeyExchangeError, PrivateKey, SharedSecret};

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
}

/// What came of a [`Job`].
pub struct JobDone {
    pub(crate) ike: IkeId,
    pub(crate) number: u64,
    pub(crate) result: Result<Product, KeyExchangeError>,
}

/// What was computed, by the kind of work.
pub(crate) enum Product {
    Key(Box<PrivateKey>),
    Response(Vec<u8>, SharedSecret),
    Secret(SharedSecret),
}

impl Job {
    /// Does the work; some 20 µs to a few ms.
    pub fn run(self) -> JobDone {
        let result = match self.work {
            Work::Generate(group) => {
                PrivateKey::generate(group).map(|key| Product::Key(Box::new(key)))
            }
            Work::Respond(group, peer) => keyexchange::respond(group, &peer)
                .map(|(public, secret)| Product::Response(public, secret)),
            Work::Agree(key, peer) => key.agree(&peer).map(Product::Secret),
        };
        JobDone { ike: self.ike, number: self.number, result }
    }

    /// Gives the work back undone, when the pool's queue is full: the negotiation fails as if the library had.
    pub fn refuse(self) -> JobDone {
        JobDone { ike: self.ike, number: self.number, result: Err(KeyExchangeError::Library) }
    }

    /// Whether it is for an established IKE SA, whose jobs go before those of strangers.
    pub const fn is_for_established(&self) -> bool {
        self.established
    }
}
