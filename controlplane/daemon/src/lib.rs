//! Sockets, timers, configuration, control socket and the wiring of the two planes.
pub mod config;
mod control;
pub mod figures;
pub mod gateway;
pub mod host;
mod jobs;
mod policies;
pub mod ports;
pub mod run;
pub mod sockets;
pub mod vici;
