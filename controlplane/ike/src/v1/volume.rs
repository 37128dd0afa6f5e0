//! Lifetimes of phase 1 in kilobytes (RFC 2409 §4, appendix A): octets under the keys of an ISAKMP SA, both directions.

use super::established::{ANSWERER_LATER, Established};
use crate::context::Cx;
use crate::v2::sa::Head;
use crate::view::Role;

/// In kilobytes. A limit below this counts as this: a quick mode with PFS has some two kilobytes, and before the end a successor is to be there.
const LEAST: u64 = 64;

/// What was agreed on, and whether it has had a successor begun.
pub(crate) struct Volume {
    /// In octets; `None` where nobody named a limit.
    limit: Option<u64>,
    is_soft: bool,
}

impl Volume {
    pub(crate) fn new(kilobytes: Option<u64>) -> Self {
        let limit = kilobytes.map(|kb| kb.max(LEAST).saturating_mul(1024));
        Self { limit, is_soft: false }
    }
}

impl Established {
    /// At three quarters of the limit a successor is negotiated, and at the limit the SA ends. A gateway that asks for a password cannot
    /// begin anew. Only what is authentic has been counted.
    pub(super) fn look_at_volume(&mut self, head: &Head, cx: &Cx<'_>) {
        let Some(limit) = self.volume.limit else { return };
        let octets = self.session.octets();
        let asks = head.role == Role::Responder && head.connection.xauth.is_some();
        if octets >= limit {
            self.expire_at = Some(cx.now);
        } else if octets >= limit / 4 * 3 && !self.volume.is_soft && !asks {
            self.volume.is_soft = true;
            self.reauth_at = match head.role {
                Role::Initiator => Some(cx.now),
                // Both count the same: not both at once.
                Role::Responder => cx.now.checked_add(ANSWERER_LATER),
            };
        }
    }
}
