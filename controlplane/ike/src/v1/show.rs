//! What can be seen of an ISAKMP SA.

use super::established::{Established, Life};
use super::sa::{IsakmpSa, State};
use crate::v2::child::Phase;
use crate::view::{ChildState, IkeSaView, IkeState};
use std::time::Instant;

impl IsakmpSa {
    /// `None` for one that is only remembered.
    pub(crate) fn view(&self, now: Instant) -> Option<IkeSaView> {
        let head = &self.head;
        let established = match &self.state {
            State::Established(state) => Some(state.as_ref()),
            State::Closed(_) | State::Gone => return None,
            _ => None,
        };
        let left = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(now));
        let children = established.map(|e| {
            e.children.values().map(|child| {
                let mut view = child.view(now);
                // Its delete comes at the end of the time, not before it.
                if let Phase::Lingering { .. } = child.phase {
                    view.state = ChildState::Rekeyed;
                }
                view
            })
        });
        Some(IkeSaView {
            id: head.id,
            connection: head.connection.name.clone(),
            version: 1,
            role: head.role,
            state: established.map_or(IkeState::Connecting, Established::view_state),
            path: head.path,
            local_id: established.map(|e| e.local_id.clone()),
            remote_id: established.map(|e| e.remote_id.clone()),
            spi_i: u64::from_be_bytes(head.spi_i.0),
            spi_r: u64::from_be_bytes(head.spi_r.0),
            nat_local: head.nat.local,
            nat_remote: head.nat.remote,
            local_vips: established.and_then(|e| e.transactions.local).into_iter().collect(),
            remote_vips: established.and_then(|e| e.transactions.remote).into_iter().collect(),
            suite: established.map(|e| e.chosen),
            age: established.map(|e| now.saturating_duration_since(e.established)),
            rekey_in: None,
            reauth_in: left(established.and_then(|e| e.reauth_at)),
            expires_in: left(established.and_then(|e| e.expire_at)),
            tasks: head.tasks.len() + established.map_or(0, Established::negotiations),
            children: children.map(Iterator::collect).unwrap_or_default(),
        })
    }
}

impl Established {
    const fn view_state(&self) -> IkeState {
        match self.life {
            // Another one has its children.
            _ if self.succession.heir.is_some() => IkeState::Rekeyed,
            Life::Active => IkeState::Established,
            Life::Renewing => IkeState::Rekeying,
            Life::Replaced { .. } => IkeState::Rekeyed,
        }
    }
}
