//! What an IKE SA still has to ask of its peer, waiting for the one exchange that may be under way.

use crate::config;
use crate::event::{Failure, RequestId};
use ipsec::sa::{PairId, Spi};
use ipsec::selector::Selector;
use std::sync::Arc;
use std::time::Instant;

/// Tasks of one IKE SA that wait. They come from this host's configuration and operators, not from the peer; the bound
/// keeps a loop of commands from growing without end.
pub(crate) const MAX_TASKS: usize = 1024;

/// A task with what is known of earlier tries.
pub(crate) struct Queued {
    pub(crate) task: Task,
    /// After TEMPORARY_FAILURE (RFC 7296 §2.25).
    pub(crate) not_before: Option<Instant>,
    pub(crate) attempts: u8,
}

impl From<Task> for Queued {
    fn from(task: Task) -> Self {
        Self { task, not_before: None, attempts: 0 }
    }
}

/// One thing to do.
pub(crate) enum Task {
    /// A new Child SA, for the acquire of this connection and child.
    CreateChild { config: Arc<config::Child>, packet: Option<Selector> },
    /// A successor for a Child SA.
    RekeyChild { pair: PairId, tag: Option<RequestId> },
    /// A successor for the IKE SA.
    RekeyIke { tag: Option<RequestId> },
    /// The end of a Child SA.
    DeleteChild { pair: PairId, reason: Failure, tag: Option<RequestId> },
    /// The end of a Child SA that never came to be on our side.
    DeleteSpi { protocol: ipsec::sa::Protocol, spi: Spi },
    /// The end of the IKE SA.
    DeleteIke { reason: Failure, reauthenticate: bool, tag: Option<RequestId> },
    /// Whether the peer lives.
    Liveness,
}
