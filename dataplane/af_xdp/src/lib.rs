//! Frames and rings between one core and one NIC queue, and the XDP program that steers to them.
//!
//! A worker owns one [`FramePool`] and, for each device, one [`Port`]: one queue. Packets come and go in bursts
//! of [`Frame`]s, each the only owner of one chunk of packet memory.
//!
//! ```text
//!                         one worker, one core
//!   ┌────────────────────────────────────────────────────────────────────┐
//!   │        receive(pool, out, max)            transmit(pool, frames)   │
//!   │   Port ────────────────────► Vec<Frame> ─────────────────────► Port│
//!   │    ▲                             ▲ │                            │  │
//!   │    │ complete(pool): lend        │ │ alloc, free                │  │
//!   │    │ chunks to receive into      │ ▼                            │  │
//!   │    └───────────────────────── FramePool ◄───────────────────────┘  │
//!   │                                        complete(pool): sent frames │
//!   └────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! One turn of a worker's loop, for every port: `complete`, `receive`, work, `transmit`, `kick`. Before it
//! sleeps: `prepare_sleep` on every port, a [`wait::PollSet`] over their descriptors, then `wake` on every
//! port.
//!
//! This crate never looks into packets beyond the address hash of the in-memory device, never logs, and
//! allocates nothing once its ports are open.

#[expect(unsafe_code, reason = "bpf(2) attributes hold pointers")]
mod bpf;
#[expect(unsafe_code, reason = "rings shared with the kernel or with another thread")]
mod ring;
#[expect(unsafe_code, reason = "the system call boundary")]
mod syscall;
#[expect(unsafe_code, reason = "move-only tokens over mapped packet memory")]
mod umem;

mod asm;
mod device;
mod doorbell;
#[cfg(not(loom))]
pub mod memory;
#[cfg(not(loom))]
mod pool;
#[cfg(not(loom))]
mod port;
#[cfg(not(loom))]
pub mod steering;
pub mod wait;
#[cfg(not(loom))]
mod xdp;

pub use bpf::{AttachMode, Rejected};
pub use device::Device;
#[cfg(not(loom))]
pub use pool::{FramePool, PoolGauges, Retired};
#[cfg(not(loom))]
pub use port::{Port, PortStatistics};
pub use umem::{ChunkSize, Frame, HEADROOM, UmemConfig, UmemId};
#[cfg(not(loom))]
pub use xdp::{Mode, OpenError, XdpConfig, XdpPort};
