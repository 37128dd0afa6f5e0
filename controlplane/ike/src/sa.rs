//! An IKE SA of either version, as the engine and its table see it.

use crate::context::{Cx, Installing};
use crate::event::{Event, Failure, InstallId, InstallRefused, Limit};
use crate::job::Product;
use crate::v1::sa::{IsakmpSa, State as StateV1};
use crate::v2::child::ChildSa;
use crate::v2::sa::{Head, IkeSa, State as StateV2};
use crate::view::IkeSaView;
use core::net::SocketAddr;
use ipsec::sa::PairId;
use keyexchange::KeyExchangeError;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One IKE SA.
pub(crate) enum Sa {
    /// IKEv1: an ISAKMP SA.
    V1(Box<IsakmpSa>),
    /// IKEv2.
    V2(Box<IkeSa>),
}

/// Sends a call to the version's own method of the same name.
macro_rules! either {
    ($self:ident, $sa:ident => $call:expr) => {
        match $self {
            Sa::V1($sa) => $call,
            Sa::V2($sa) => $call,
        }
    };
}

impl Sa {
    pub(crate) fn head(&self) -> &Head {
        either!(self, sa => &sa.head)
    }

    pub(crate) fn head_mut(&mut self) -> &mut Head {
        either!(self, sa => &mut sa.head)
    }

    pub(crate) fn handle_job(
        &mut self,
        cx: &mut Cx<'_>,
        number: u64,
        result: Result<Product, KeyExchangeError>,
    ) {
        either!(self, sa => sa.handle_job(cx, number, result));
    }

    pub(crate) fn handle_timeout(&mut self, cx: &mut Cx<'_>) {
        either!(self, sa => sa.handle_timeout(cx));
    }

    pub(crate) fn pump(&mut self, cx: &mut Cx<'_>) {
        either!(self, sa => sa.pump(cx));
    }

    pub(crate) fn handle_installed(
        &mut self,
        cx: &mut Cx<'_>,
        id: InstallId,
        installing: &Installing,
        result: Result<(), InstallRefused>,
    ) {
        either!(self, sa => sa.handle_installed(cx, id, installing, result));
    }

    /// Ends the SA without telling the peer.
    pub(crate) fn destroy(&mut self, cx: &mut Cx<'_>, reason: Failure) {
        either!(self, sa => sa.destroy(cx, reason));
    }

    /// A byte or packet limit of a pair has been reached.
    pub(crate) fn limit_reached(&mut self, cx: &mut Cx<'_>, pair: PairId, limit: Limit) {
        match self {
            Self::V1(sa) => {
                if let StateV1::Established(state) = &mut sa.state {
                    state.limit_reached(&mut sa.head, cx, pair, limit);
                }
            }
            Self::V2(sa) => {
                if let StateV2::Established(state) = &mut sa.state {
                    state.limit_reached(&mut sa.head, pair, limit);
                }
            }
        }
    }

    /// Authentic traffic came in on a pair.
    pub(crate) fn inbound_traffic(&mut self, now: Instant, pair: PairId) -> Option<Event> {
        match self {
            Self::V1(sa) => match &mut sa.state {
                StateV1::Established(state) => state.inbound_traffic(now, pair),
                _ => None,
            },
            Self::V2(sa) => match &mut sa.state {
                StateV2::Established(state) => state.inbound_traffic(now, pair),
                _ => None,
            },
        }
    }

    /// Authentic traffic came from another address or port.
    pub(crate) fn peer_moved(&mut self, remote: SocketAddr) -> Option<Event> {
        match self {
            Self::V1(sa) => match &mut sa.state {
                StateV1::Established(state) => state.peer_moved(&mut sa.head, remote),
                _ => None,
            },
            Self::V2(sa) => match &mut sa.state {
                StateV2::Established(state) => state.peer_moved(&mut sa.head, remote),
                _ => None,
            },
        }
    }

    /// When [`Sa::handle_timeout`] has something to do.
    pub(crate) fn deadline(&self, keep_alive: Duration) -> Option<Instant> {
        either!(self, sa => sa.deadline(keep_alive))
    }

    /// Child negotiations under way.
    pub(crate) fn negotiations(&self) -> usize {
        either!(self, sa => sa.negotiations())
    }

    /// Fragments that wait for their others.
    pub(crate) fn fragments_held(&self) -> usize {
        match self {
            Self::V1(sa) => sa.pieces.held(),
            Self::V2(sa) => sa.fragments_held(),
        }
    }

    /// Whether a stranger made us keep it.
    pub(crate) fn is_half_open(&self) -> bool {
        either!(self, sa => sa.is_half_open())
    }

    /// Whether a new child may be asked for on it, now or once it is established.
    pub(crate) fn takes_children(&self) -> bool {
        either!(self, sa => sa.takes_children())
    }

    /// Whether it is established and has no successor.
    pub(crate) fn is_active(&self) -> bool {
        match self {
            Self::V1(sa) => matches!(&sa.state, StateV1::Established(state) if state.is_active()),
            Self::V2(sa) => matches!(&sa.state, StateV2::Established(state) if state.is_active()),
        }
    }

    pub(crate) const fn is_established(&self) -> bool {
        match self {
            Self::V1(sa) => matches!(sa.state, StateV1::Established(_)),
            Self::V2(sa) => matches!(sa.state, StateV2::Established(_)),
        }
    }

    /// Whether it is to be forgotten.
    pub(crate) const fn is_gone(&self) -> bool {
        match self {
            Self::V1(sa) => matches!(sa.state, StateV1::Gone),
            Self::V2(sa) => matches!(sa.state, StateV2::Gone),
        }
    }

    /// Whether it is over and only remembered.
    pub(crate) const fn is_closed(&self) -> bool {
        match self {
            Self::V1(sa) => matches!(sa.state, StateV1::Closed(_)),
            Self::V2(sa) => matches!(sa.state, StateV2::Closed(_)),
        }
    }

    /// Whether it is an entry of the ISADB: all but what was deleted in order (statistics.md).
    pub(crate) const fn is_counted(&self) -> bool {
        match self {
            Self::V1(sa) => !matches!(&sa.state, StateV1::Closed(closed) if !closed.failed),
            Self::V2(sa) => !matches!(&sa.state, StateV2::Closed(closed) if !closed.failed),
        }
    }

    /// Its Child SAs; none before it is established.
    pub(crate) fn children(&self) -> Option<&BTreeMap<PairId, ChildSa>> {
        match self {
            Self::V1(sa) => match &sa.state {
                StateV1::Established(state) => Some(&state.children),
                _ => None,
            },
            Self::V2(sa) => match &sa.state {
                StateV2::Established(state) => Some(&state.children),
                _ => None,
            },
        }
    }

    /// `None` for one that is only remembered.
    pub(crate) fn view(&self, now: Instant) -> Option<IkeSaView> {
        either!(self, sa => sa.view(now))
    }
}
