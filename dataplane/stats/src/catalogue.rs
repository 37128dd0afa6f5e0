//! What is counted: one enum per table, each variant with its machine name, the name IP Security
//! Monitor prints, kind, unit and meaning.
//!
//! One enum is both catalogue and storage: a variant is the index of its counter in the block, as
//! OpenBSD's `enum ipsec_counters` has it. What a row means is said once, here; docs/statistics.md
//! says which event moves it.

mod main_mode;
mod quick_mode;
mod worker;

pub use main_mode::{
    AcquireOrigin, AcquireRow, AuthenticationMethod, IkeVersion, MainMode, MainModeCounters,
    MainModePart, MainModePartCounters, VersionedRow,
};
pub use quick_mode::{QuickMode, QuickModeCounters};
pub use worker::{Worker, WorkerCounters};

/// Whether a value only grows within its epoch, or goes both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Monotonic in its epoch.
    Counter,
    /// The value of the moment.
    Gauge,
}

/// What one unit of a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Acquires of Child SAs.
    Acquires,
    /// Receive and transmit bursts that held at least one packet.
    Bursts,
    /// Octets.
    Bytes,
    /// Commands of the control thread.
    Commands,
    /// Time stamp counter cycles.
    Cycles,
    /// Events that have no more exact unit.
    Events,
    /// UMEM frames or packet buffers.
    Frames,
    /// IKE messages.
    Messages,
    /// Negotiations.
    Negotiations,
    /// Key operations.
    Operations,
    /// IP packets.
    Packets,
    /// Security associations, or pairs of them where the row says so.
    Sas,
    /// Tunnels.
    Tunnels,
}

impl Unit {
    /// Returns the word that stands for the unit in the segment and in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Acquires => "acquires",
            Self::Bursts => "bursts",
            Self::Bytes => "bytes",
            Self::Commands => "commands",
            Self::Cycles => "cycles",
            Self::Events => "events",
            Self::Frames => "frames",
            Self::Messages => "messages",
            Self::Negotiations => "negotiations",
            Self::Operations => "operations",
            Self::Packets => "packets",
            Self::Sas => "sas",
            Self::Tunnels => "tunnels",
        }
    }
}

/// What the segment says of one counter, so that a reader needs no catalogue of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Machine name without its block: `[a-z0-9_]+`.
    pub name: &'static str,
    /// The name a person reads.
    pub display: &'static str,
    /// Label and value where the counter is one part of a breakdown: `("cause", "replayed")`.
    pub label: Option<(&'static str, &'static str)>,
    /// Counter or gauge.
    pub kind: Kind,
    /// What one of it is.
    pub unit: Unit,
    /// The meaning in one sentence.
    pub help: &'static str,
    /// The quick mode row that moves with this counter (drop causes only).
    pub row: Option<QuickMode>,
}

impl Counter {
    /// Describes a monotonic counter without label.
    pub const fn monotonic(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { name, display: name, label: None, kind: Kind::Counter, unit, help, row: None }
    }

    /// Describes a gauge without label.
    pub const fn gauge(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { name, display: name, label: None, kind: Kind::Gauge, unit, help, row: None }
    }

    /// Describes the drop counter of one cause: part of `drops`, told apart by its label.
    ///
    /// `row` is the quick mode row that a drop for this cause moves too, at most one
    /// (statistics.md: a refused protected packet moves at most one of the four packet rows).
    pub const fn drop_cause(
        cause: &'static str,
        row: Option<QuickMode>,
        help: &'static str,
    ) -> Self {
        Self {
            name: DROPS,
            display: cause,
            label: Some((CAUSE, cause)),
            kind: Kind::Counter,
            unit: Unit::Packets,
            help,
            row,
        }
    }

    /// Returns the same counter as one part of a breakdown by `label`.
    #[must_use]
    pub const fn with_label(mut self, label: &'static str, value: &'static str) -> Self {
        self.label = Some((label, value));
        self
    }
}

/// Machine name that all drop counters of a worker share; their label [`CAUSE`] tells them apart.
pub const DROPS: &str = "drops";

/// Label of a drop counter.
pub const CAUSE: &str = "cause";

/// Declares one table: the enum, its descriptors, and the plain array its owner counts in.
macro_rules! table {
    (
        $(#[$row_doc:meta])*
        enum $Row:ident;
        $(#[$counters_doc:meta])*
        struct $Counters:ident;
        $( $Variant:ident, $name:literal, $display:literal, $kind:ident, $unit:ident, $help:literal; )*
    ) => {
        $(#[$row_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum $Row {
            $( #[doc = $help] $Variant, )*
        }

        impl $Row {
            /// Every row, in the order it is stored and shown.
            pub const ALL: [Self; Self::COUNT] = [$( Self::$Variant, )*];

            /// How many rows there are.
            pub const COUNT: usize = [$( $name, )*].len();

            const DESCRIPTORS: [$crate::Counter; Self::COUNT] = [$(
                $crate::Counter {
                    name: $name,
                    display: $display,
                    label: None,
                    kind: $crate::Kind::$kind,
                    unit: $crate::Unit::$unit,
                    help: $help,
                    row: None,
                },
            )*];

            /// Returns the descriptor of every row, in stored order.
            pub const fn descriptors() -> &'static [$crate::Counter; Self::COUNT] {
                &Self::DESCRIPTORS
            }

            /// Returns the descriptor of the row.
            pub const fn descriptor(self) -> &'static $crate::Counter {
                &Self::DESCRIPTORS[self as usize]
            }

            /// Returns the machine name, without the block it belongs to.
            pub const fn name(self) -> &'static str {
                self.descriptor().name
            }
        }

        $(#[$counters_doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $Counters {
            values: [u64; $Row::COUNT],
        }

        impl $Counters {
            /// Returns a table of zeros.
            pub const fn new() -> Self {
                Self { values: [0; $Row::COUNT] }
            }

            /// Returns the value of a row.
            #[inline]
            pub const fn get(&self, row: $Row) -> u64 {
                self.values[row as usize]
            }

            /// Returns all values in stored order, as `BlockWriter::publish` takes them.
            #[inline]
            pub const fn values(&self) -> &[u64; $Row::COUNT] {
                &self.values
            }

            /// Adds to a row. A `u64` of packets or bytes does not wrap in a machine's life.
            #[inline]
            pub const fn add(&mut self, row: $Row, n: u64) {
                self.values[row as usize] = self.values[row as usize].wrapping_add(n);
            }

            /// Sets a gauge, or a counter that another owner accumulates.
            #[inline]
            pub const fn set(&mut self, row: $Row, value: u64) {
                self.values[row as usize] = value;
            }
        }

        impl Default for $Counters {
            fn default() -> Self {
                Self::new()
            }
        }
    };
}
use table;
