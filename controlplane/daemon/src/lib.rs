//! Sockets, timers, configuration, control socket and the wiring of the two planes.
pub mod host;
pub mod sockets;
