//! RFC 4301, 4302 and 4303 processing against SAD and SPD.
//!
//! ```text
//!            control thread                         worker (one per core)
//!   SaParameters ──► compiled, checked ──►  Sad (inbound by SPI: index + compare)
//!   [Policy]     ──► compiled off worker ─► Spd (flow cache, then classifier)
//!
//!   inbound:  ESP/AH packet ─► SAD ─► replay check ─► ICV, decrypt ─► replay accept ─► selectors
//!   outbound: packet ─► SPD ─► SA ─► sequence number ─► headers ─► encrypt ─► outer packet
//! ```
//!
//! The crate does no I/O, reads no clock, starts no thread and never logs. Everything that can be
//! computed once is computed when an SA or a policy is installed.
#![deny(unsafe_code)]

pub mod aead;
pub mod algorithm;
pub mod sa;
pub mod selector;
