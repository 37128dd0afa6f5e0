//! The counter catalogue and the shared-memory segment format.
//!
//! The catalogue says what is counted and what it means: the main mode and quick mode tables as
//! IP Security Monitor shows them, and the fixed counters of a worker. The segment is where the
//! counts are: a file that every writer maps and any reader may read, without a lock, a system
//! call or a word from the writer, even while the daemon is wedged or after it died.
//!
//! ```text
//!  worker 0 ──► block ┐  sequence │ received │ sent │ … │ drops{cause=…} │ …
//!  worker 1 ──► block ┤
//!  control  ──► block ┤  main_mode        ┌─ header: magic, version, epochs, writer
//!  control  ──► block ┤  quick_mode       ├─ blocks: name, instance, place
//!  (none)       block ┘  quick_mode/base  └─ counters: name, label, kind, unit, help
//!                 │
//!                 └──► Snapshot: each block as it was at one moment ──► culvert stats, demo, monitor
//! ```
//!
//! Each block has one writer, which counts in plain integers of its own and publishes them all at
//! once under a sequence number ([`BlockWriter::publish`]): relaxed stores between two fences, no
//! read-modify-write. A reader sees one moment of each block; two blocks are of two moments.
//!
//! | module | what |
//! |---|---|
//! | `catalogue` | the rows: names, kinds, units, meanings |
//! | `layout` | which blocks a segment has, and how they are written down |
//! | `seqlock` | publication and reading of one block |
//! | `memory`, `map` | where the words are: the heap, or a mapped file |
//! | `segment` | creating, adopting what an earlier daemon left, handing out the writers |
//! | `description` | reading the self-description of a file that nobody vouches for |
//! | `snapshot` | reading the values, totals over blocks |
//! | `cycles` | the time stamp counter, for the rows that count in it |
//! | `accounting` | the identity every worker's packets obey |
//!
//! This crate never counts anything itself, knows no packet and no SA, and takes no lock on the
//! packet path. Nothing secret is ever in the segment.

mod accounting;
mod atomic;
mod catalogue;
#[cfg_attr(
    all(target_arch = "x86_64", not(miri)),
    expect(unsafe_code, reason = "reading the time stamp counter")
)]
mod cycles;
mod description;
mod layout;
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "mapping the segment file into memory")]
mod map;
mod memory;
mod segment;
mod seqlock;
mod snapshot;

pub use accounting::Accounting;
pub use catalogue::{
    AcquireOrigin, AcquireRow, AuthenticationMethod, CAUSE, Counter, DROPS, IkeVersion, Kind,
    MainMode, MainModeCounters, MainModePart, MainModePartCounters, QuickMode, QuickModeCounters,
    Unit, VersionedRow, Worker, WorkerCounters,
};
pub use cycles::cycles;
pub use description::{ReadCounter, ReadError, SegmentHeader};
pub use layout::{BlockId, Layout, MAIN_MODE, QUICK_MODE, WORKER};
pub use segment::{Adoption, BlockWriter, BootId, CreateError, Segment, Start};
pub use snapshot::{
    Block, Consistency, Drops, Reader, Reading, Snapshot, WorkerReading, WriterState,
};
