//! The run-to-completion loop of one core, and the handle that commands it.
//!
//! ```text
//!        control thread                                   worker: one core, one UMEM
//!  Dataplane ── commands ─────────► ┌───────────────────────────────────────────────────────┐
//!     │  ▲                          │ commands ≤ N                                          │
//!     │  └── events, applied ◄───── │ for each: ports, host port, reassembled, handed in,   │
//!     └───── reassembled ESP ─────► │           released from waiting                       │
//!                                   │   burst ─► classify ─► open ─► policy ─► seal ─► send │
//!   other workers ─── handoff ────► │                 │               │          │          │
//!                 ◄── return ────── │              hand off      wait for SA   wait for hop │
//!                                   │ counters published                                    │
//!                                   └───────────────────────────────────────────────────────┘
//! ```
//!
//! | module | what |
//! |---|---|
//! | `handle` | the control thread's verbs: SPIs, SAs, policies, forwarding, and the upcalls |
//! | `command`, `event` | what crosses between the control thread and a worker |
//! | `worker` | one turn of the loop, sleeping, publishing |
//! | `attach` | ports whose devices come and go |
//! | `control` | commands as the worker carries them out, deletes that wait for rings to drain |
//! | `ingress` | from a port, the host or another worker to the stage that a packet belongs to |
//! | `direct` | the straight way of what most packets are |
//! | `open` | the inbound burst and where decapsulated packets go |
//! | `flows` | what is known of a flow: plain packets are judged by it |
//! | `epochs` | when that holds no more because SAs were bound or unbound, and what follows then |
//! | `policy` | the SPD's word on plain packets; the outbound SA of a policy, or waiting for one |
//! | `seal` | the outbound burst |
//! | `forward` | TTL, MTU, next hop, ICMP errors; the host port; transmission |
//! | `fragment` | IPv4 fragments before encryption |
//! | `later` | fragments that came as such: later ones by the ports of the first |
//! | `waiting` | the side pool of packets that wait |
//! | `forwarding` | routes, neighbours and links, made by the control thread |
//! | `account` | the accounting identity, and the drop causes |
//! | `port_counters` | what the ports and the kernel under them have counted |
//! | `numbers` | maps from numbers that the control plane chose |
//! | `wake` | the protocol by which a sleeping worker is woken |
//!
//! On the packet path nothing is allocated, locked, logged or asked of the clock: time is read once per turn. A worker never
//! touches another's SA: a packet for it is handed over.
#![forbid(unsafe_code)]

mod account;
mod attach;
mod command;
mod config;
mod control;
mod direct;
mod due;
mod epochs;
mod event;
mod flows;
mod forward;
mod forwarding;
mod fragment;
mod handle;
mod handoff;
mod host;
mod ingress;
mod later;
mod numbers;
mod open;
mod packet;
mod policy;
mod port_counters;
mod sa_usage;
mod seal;
#[cfg(test)]
mod tests;
mod trunk;
mod tunnels;
mod waiting;
mod wake;
mod worker;

pub use account::{Account, Drop, WorkerDrop, drop_counters};
pub use command::{Activation, Delivery, Endpoints};
pub use config::{DataplaneConfig, Idle, Limits, PortId, Side, WorkerParts, WorkerPort};
pub use event::{Direction, Event, Limit};
pub use forwarding::{ForwardingTable, Link, NeighbourTable, NextHop, Route, RouteTable};
pub use handle::{Dataplane, Refusal, SpiCounts, Ticket};
pub use host::{HostPort, MemoryHost, MemoryHostEnd, TunQueue};
pub use ipsec::classify::LocalAddresses;
pub use ipsec::spi::CoreId;
pub use port_counters::port_counters;
pub use sa_usage::{PairUsage, Usage};
pub use tunnels::{DeviceId, TunnelDevice};
pub use wire::ethernet::Mac;
pub use worker::{Clock, Progress, Worker};
