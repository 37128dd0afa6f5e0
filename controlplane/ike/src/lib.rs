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

pub mod config;
pub mod crypto;
mod engine;
pub mod event;
pub mod job;
pub mod message;
pub mod proposal;
pub mod statistics;
pub mod view;

pub use engine::Engine;
pub use event::{Command, Event, IkeId, InstallId, Path, RequestId, SpiSource, Transmit};
