//! What can be seen of an IKE SA.

use super::child::{ChildSa, Phase};
use super::established::{Answering, Current, Established, Finishing, Life, Plan, Request};
use super::sa::{IkeSa, State};
use crate::view::{ChildSaView, ChildState, IkeSaView, IkeState};
use std::time::Instant;

impl IkeSa {
    /// `None` for one that is only remembered for its last answer.
    pub(crate) fn view(&self, now: Instant) -> Option<IkeSaView> {
        let head = &self.head;
        let established = match &self.state {
            State::Established(state) => Some(state.as_ref()),
            State::Closed(_) | State::Gone => return None,
            _ => None,
        };
        let left = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(now));
        Some(IkeSaView {
            id: head.id,
            connection: head.connection.name.clone(),
            version: 2,
            role: head.role,
            state: established.map_or(IkeState::Connecting, Established::view_state),
            path: head.path,
            local_id: established.map(|e| e.local_id.clone()),
            remote_id: established.map(|e| e.remote_id.clone()),
            spi_i: u64::from_be_bytes(head.spi_i.0),
            spi_r: u64::from_be_bytes(head.spi_r.0),
            nat_local: head.nat.local,
            nat_remote: head.nat.remote,
            local_vips: head.addresses.own().collect(),
            remote_vips: head.addresses.peers().collect(),
            suite: established.map(|e| e.chosen),
            age: established.map(|e| now.saturating_duration_since(e.established)),
            rekey_in: left(established.and_then(|e| e.rekey_at)),
            reauth_in: left(established.and_then(|e| e.reauth_at)),
            expires_in: left(established.and_then(|e| e.expire_at)),
            tasks: head.tasks.len() + established.map_or(0, |e| usize::from(e.is_asking())),
            children: established
                .map(|e| e.children.values().map(|child| child.view(now)).collect())
                .unwrap_or_default(),
        })
    }
}

impl Established {
    fn view_state(&self) -> IkeState {
        match self.life {
            Life::Active if self.is_rekeying() => IkeState::Rekeying,
            Life::Active => IkeState::Established,
            Life::Rekeyed { .. } => IkeState::Rekeyed,
            Life::Deleting { .. } => IkeState::Deleting,
        }
    }

    /// Child negotiations under way.
    pub(crate) fn negotiations(&self) -> usize {
        let asking = matches!(
            self.current,
            Current::Generating { asking: Plan::Child(_), .. }
                | Current::Waiting { request: Request::Child(_), .. }
                | Current::Finishing { finishing: Finishing::Child(_), .. }
        );
        let answering = matches!(self.answering, Answering::ChildKeying { .. });
        let installing =
            self.children.values().filter(|child| child.phase == Phase::Installing).count();
        usize::from(asking) + usize::from(answering) + installing
    }

    /// Fragments that wait for their others.
    pub(crate) fn fragments_held(&self) -> usize {
        self.requests.held() + self.answers.held()
    }

    const fn is_asking(&self) -> bool {
        !matches!(self.current, Current::Idle)
    }
}

impl ChildSa {
    pub(crate) fn view(&self, now: Instant) -> ChildSaView {
        let left = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(now));
        ChildSaView {
            pair: self.pair,
            name: self.config.name.clone(),
            state: match self.phase {
                Phase::Installing => ChildState::Installing,
                Phase::Installed => ChildState::Installed,
                Phase::Rekeying => ChildState::Rekeying,
                Phase::Rekeyed => ChildState::Rekeyed,
                Phase::Deleting => ChildState::Deleting,
                Phase::Lingering { .. } => ChildState::Deleted,
            },
            mode: self.mode,
            protocol: self.protocol,
            encap: self.encap,
            spi_in: self.spi_in,
            spi_out: self.spi_out,
            suite: self.suite,
            selectors: self.selectors.clone(),
            age: now.saturating_duration_since(self.created),
            rekey_in: left(self.rekey_at),
            expires_in: left(self.expire_at),
        }
    }
}
