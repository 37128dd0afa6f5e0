//! Sockets, timers, configuration, control socket and the wiring of the two planes.
//!
//! ```text
//!   UDP, raw ─► sockets ─┐                       ┌─► worker::Dataplane ─► command rings
//!   signals ─────────────┤                       │
//!   netlink ─► host ─────┼─► run ─► gateway ─────┼─► ike::Engine
//!   VICI ─► vici, control┘     (one thread)      └─► jobs (rayon pool)
//!                │                   │
//!             config              figures ─► statistics segment
//! ```
//!
//! | module | what |
//! |---|---|
//! | `run` | the gateway on a real host: start, the loop, reload, end |
//! | `gateway` | engine and dataplane joined, without sockets: `run` and the demo drive it |
//! | `policies` | the SPD as configuration and negotiated children make it |
//! | `path_mtu` | what ICMP says of the paths to the peers, and how much of it is believed |
//! | `live` | pairs and tunnels that are up, counted |
//! | `jobs` | the pool for public-key work, and threads for what waits |
//! | `kerberos` | GSS-API with Kerberos, in builds that have it |
//! | `figures` | the control thread's share of the statistics |
//! | `sockets` | IKE, and ESP or AH that the kernel reassembled |
//! | `host` | netlink, the TUN, routes, the fail-closed rules |
//! | `ports` | AF_XDP devices, queues and packet memory |
//! | `config` | swanctl.conf and the `gateway` section |
//! | `vici`, `control` | the control protocol, and its commands carried out |
//!
//! One thread does all of it: no lock is taken, and nothing here is on the packet path.

pub mod config;
mod control;
pub mod figures;
pub mod gateway;
pub mod host;
mod jobs;
mod kerberos;
mod live;
mod path_mtu;
mod policies;
pub mod ports;
pub mod run;
pub mod sockets;
mod soft;
pub mod vici;
