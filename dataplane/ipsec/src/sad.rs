//! The security association databases of one worker (RFC 4301 §4.4.2).
//!
//! ```text
//!  inbound:   SPI ── slot bits ──► entry ── whole SPI equal? ──► InboundSa
//!  outbound:  slot, as the control thread gave it out ──► OutboundSa
//! ```

mod inbound;
mod outbound;
#[cfg(test)]
mod tests;

use crate::aead::Keys;
pub use crate::esp::suite::Spent;
pub use inbound::{InboundSad, Lookup};
pub use outbound::{OutboundSad, Slot};

/// Why a database refused a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SadError {
    /// Another SA has the SPI's slot or this number already.
    #[error("the SPI or slot is in use")]
    InUse,
    /// The SPI belongs to another worker.
    #[error("the SPI belongs to another worker")]
    OtherCore,
    /// The slot lies beyond the table.
    #[error("beyond the table")]
    OutOfRange,
}

/// SAs whose keys stay in the first cache: with more of them a short packet reads one line of its key instead of six, with AVX-512.
const NEAR_KEYS: usize = 64;

/// SAs beyond which a long packet finds so little of its key in a near cache that making it again takes less time (docs/aead.md).
const FAR_KEYS: usize = 4096;

/// Where the keys of so many SAs are.
fn keys_of(sas: usize) -> Keys {
    if sas <= NEAR_KEYS {
        Keys::Near
    } else if sas <= FAR_KEYS {
        Keys::Far
    } else {
        Keys::Farther
    }
}

/// Where a table keeps whether there is an SA. Of all values of an SA this one has the most that it never takes, and that is what the
/// compiler chooses by: so the answer lies among what every packet looks at, and not in a line of its own.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub(crate) enum Mark {
    /// There is one.
    Live,
}
