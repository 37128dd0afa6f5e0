//! ESP (RFC 4303) over one SA: the runtime forms of SAs, and what is done to a packet.
//!
//! | module | what |
//! |---|---|
//! | [`inbound`] | the receiving SA: sizes, replay, trailer, tunnel strip, selectors |
//! | [`outbound`] | the sending SA: sequence numbers, padding, tunnel headers |
//! | `suite` | the keyed transforms, chosen once when an SA is installed |
//! | [`transform`], `cbc_mac`, `ccm`, `gmac` | the transforms beside AES-GCM |
//! | `serial` | ESP over those, packet by packet |

mod cbc_mac;
mod ccm;
pub(crate) mod gmac;
pub mod inbound;
pub mod outbound;
pub(crate) mod serial;
pub(crate) mod suite;
pub mod transform;

/// How many packets go through the stages together: enough for the batched cipher to fill its lanes,
/// few enough that their state stays in the first-level cache.
pub(crate) const BURST: usize = 32;
