//! The commands behind `culvert`, one module each; `main.rs` only chooses between them.
//!
//! Every command takes its clap arguments, writes data to standard output and nothing else, and
//! returns a [`Failure`] that says what to do next.

pub mod bench;
pub mod check;
pub mod control;
pub mod demo;
mod failure;
pub mod kat;
pub mod monitor;
pub mod run;
pub mod show;
pub mod stats;

pub use failure::Failure;
