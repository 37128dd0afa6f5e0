//! IKEv1 and IKEv2 as a sans-IO engine.
//!
//! ```text
//!   datagram ─┐                                          ┌─► datagram (poll_transmit)
//!   timeout  ─┤   Engine: endpoint ► IKE SA ► exchange   ├─► job for the public-key pool (poll_job)
//!   command  ─┤   (reads no clock, opens no socket)      ├─► event: install, delete, up, down … (poll_event)
//!   job done ─┤                                          └─► next deadline (poll_timeout)
//!   installed ┘
//! ```
#![forbid(unsafe_code)]

mod acquire;
pub mod certificate;
mod command;
pub mod config;
mod context;
pub mod crypto;
mod endpoint;
mod endpoint_v1;
mod engine;
pub mod event;
pub mod gss;
mod identity;
pub mod job;
mod known;
pub mod message;
mod narrowing;
mod pool;
pub mod proposal;
mod random;
mod sa;
pub mod statistics;
mod succession;
mod table;
mod v1;
mod v2;
pub mod view;

pub use engine::Engine;
pub use event::{Command, Event, IkeId, InstallId, Path, RequestId, SpiSource, Transmit};

#[cfg(test)]
mod tests;
