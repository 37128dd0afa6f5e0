//! Sockets, timers, configuration, control socket and the wiring of the two planes.
pub mod config;
pub mod host;
pub mod sockets;
pub mod vici;
