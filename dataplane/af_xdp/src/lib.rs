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
//! The map, from the packet to the kernel:
//!
//! | module | what |
//! |---|---|
//! | `umem` | packet memory, and [`Frame`], the only owner of one chunk |
//! | `pool` | [`FramePool`], a worker's free list, and where its chunks are |
//! | `port` | [`Port`], one queue of whatever device |
//! | `xdp` | [`XdpPort`], an AF_XDP socket |
//! | [`memory`] | the in-memory wire, the generator |
//! | `ring` | the rings of both |
//! | `crossing` | packets from one worker to another, over such a ring |
//! | `doorbell`, [`wait`] | sleeping and waking |
//! | [`steering`] | which packets reach the sockets: rules, program, attachment |
//! | `asm`, `bpf`, `syscall` | what they stand on |
//!
//! This crate never looks into packets beyond the address hash of the in-memory wire, never logs, reads no clock on
//! the packet path, and allocates nothing once its ports are open. docs/af_xdp.md says what holds for a port,
//! docs/steering.md which packets reach it, docs/unsafe.md why the unsafe modules are right.

#[expect(unsafe_code, reason = "bpf(2) attributes hold pointers")]
mod bpf;
#[expect(unsafe_code, reason = "rings shared with the kernel or with another thread")]
mod ring;
#[expect(unsafe_code, reason = "the system call boundary")]
mod syscall;
#[expect(unsafe_code, reason = "move-only tokens over mapped packet memory")]
mod umem;

mod asm;
#[cfg(not(loom))]
mod crossing;
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
#[cfg(not(loom))]
pub use crossing::{Arrived, PacketReceiver, PacketSender, crossing};
pub use device::{Device, Offload};
#[cfg(not(loom))]
pub use pool::{FramePool, PoolGauges, Retired};
#[cfg(not(loom))]
pub use port::{Port, PortStatistics};
pub use umem::{ChunkSize, Frame, HEADROOM, JUMBO, PacketMemory, TAILROOM, UmemConfig, UmemId};
#[cfg(not(loom))]
pub use xdp::{BoundSocket, MAX_MTU, Mode, OpenError, XdpConfig, XdpPort};
