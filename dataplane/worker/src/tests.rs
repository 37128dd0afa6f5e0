//! Two gateways on memory links, their workers turned by the test on one thread and a clock of its own.

mod accounting;
mod bed;
mod direct;
mod forged;
mod forwarding;
mod fragments;
mod frames;
mod handoff;
mod icmp;
mod policy;
mod reassembled;
mod rekey;
mod sleep;
mod soak;
mod tunnel;
mod tunnels;
