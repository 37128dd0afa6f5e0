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
//! | module | what |
//! |---|---|
//! | [`sa`], [`selector`], [`algorithm`] | the terms in which the control plane states SAs and policies |
//! | [`spi`] | inbound SPIs: what they say, and who gives them out |
//! | [`classify`](mod@classify), [`flow`] | what a received packet is, and what selectors look at |
//! | [`inbound`], [`outbound`] | the two burst functions, in the order of RFC 4301 §5.2 and §5.1 |
//! | [`sad`] | SAs of one worker, by SPI and by policy |
//! | [`spd`] | policies, compiled, and the flow cache |
//! | [`fragments`] | later fragments by the ports of the first |
//! | [`icmp_error`] | ICMP errors by what they quote |
//! | [`esp`], `ah` | what is done to a packet under one SA |
//! | [`replay`] | anti-replay windows |
//! | [`aead`], [`legacy`] | the batched AES-GCM engine; 3DES and MD5 |
//! | [`drop_cause`], [`accounting`] | what is counted |
//! | [`packet`] | what a packet is to this crate |
//! | [`prefetch`](mod@prefetch), [`large_pages`] | asking for memory ahead; tables that are quick to reach |
//!
//! The crate does no I/O, reads no clock, starts no thread and never logs. Everything that can be
//! computed once is computed when an SA or a policy is installed; per burst nothing is allocated.
#![deny(unsafe_code)]

pub mod accounting;
pub mod aead;
mod ah;
pub mod algorithm;
pub mod classify;
pub mod drop_cause;
pub mod esp;
pub mod flow;
pub mod fragments;
pub mod icmp_error;
pub mod inbound;
#[expect(unsafe_code, reason = "advice to the kernel about memory of our own")]
pub mod large_pages;
pub mod legacy;
pub mod outbound;
pub mod packet;
#[expect(unsafe_code, reason = "one instruction that is a hint")]
pub mod prefetch;
pub mod replay;
pub mod sa;
pub mod sad;
pub mod selector;
pub mod spd;
pub mod spi;
