//! Where every packet of a worker went: its counters, and why it dropped what it dropped.
//!
//! ```text
//!   received + generated + released from waiting + handed in
//! = sent + to host + drops by cause + taken into waiting + handed out
//! ```
//!
//! A packet is counted where it changes hands, never in between, and a worker has none in its hands at the end of a turn,
//! when it publishes. So the identity holds in every published block.

use ipsec::accounting::Totals;
use ipsec::drop_cause::{DropCause, QuickModeRow};
use stats::{Counter, QuickMode, Worker as Row, WorkerCounters};

/// Declares the worker's own causes: variant, machine name, sentence.
macro_rules! causes {
    ($($variant:ident, $name:literal, $text:literal;)*) => {
        /// Why a worker dropped a packet, beside the causes of IPsec processing. None moves a quick mode row.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum WorkerDrop {
            $(#[doc = $text] $variant,)*
        }

        impl WorkerDrop {
            /// Every cause, in the order of the discriminants.
            pub const ALL: [Self; [$(Self::$variant),*].len()] = [$(Self::$variant),*];

            /// The machine name of the counter.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for people.
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

causes! {
    Blackhole, "blackhole", "A route says that packets there go nowhere.";
    FragmentToUs, "fragment_to_us", "A fragment of ESP, AH or UDP to this gateway; the kernel, which reassembles them, did not get it.";
    HandoffFull, "handoff_full", "The ring of the core that owns the SA is full.";
    HostFull, "host_full", "The host port did not take the packet.";
    KeepAlive, "keep_alive", "A NAT keep-alive, which carries nothing (RFC 3948 §2.3).";
    LinkTooSmall, "link_too_small", "The packet is longer than the next link's MTU and may not be fragmented, or its fragments do not help.";
    NegotiationFailed, "negotiation_failed", "It waited for an SA, and the negotiation failed.";
    NoHost, "no_host", "It is for the gateway host, and there is no host port.";
    NoRoute, "no_route", "No route leads to its destination.";
    NotIp, "not_ip", "The frame holds no IP packet.";
    NotOurStation, "not_our_station", "The frame is for another station.";
    NotOurAddress, "not_our_address", "The kernel put it together for an address that is not the gateway's, or not any more.";
    PortDown, "port_down", "The port that it is to leave by is without carrier, down or gone.";
    ReassembledFull, "reassembled_full", "The kernel put it together, and as many as may wait for its worker were waiting.";
    SaGone, "sa_gone", "The SA or SPI that it waited for was deleted.";
    TransmitFull, "transmit_full", "The port's transmit ring is full.";
    TtlExpired, "ttl_expired", "TTL or hop limit ran out (RFC 1812 §5.3.1, RFC 8200 §3).";
    UmemEmpty, "umem_empty", "The worker has no free frame for it.";
    WaitedForKey, "waited_for_key", "It waited for the key of its SPI until its time was over.";
    WaitedForNextHop, "waited_for_next_hop", "It waited for a link-layer address until its time was over.";
    WaitedForSa, "waited_for_sa", "It waited for an SA until its time was over.";
    WaitingFull, "waiting_full", "The waiting queue, or its share of one policy, SPI or next hop, is full.";
    WrongVlan, "wrong_vlan", "The frame's VLAN tag is not the one of the port.";
}

/// Any cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drop {
    /// IPsec processing says so.
    Ipsec(DropCause),
    /// The worker says so.
    Worker(WorkerDrop),
}

impl From<DropCause> for Drop {
    fn from(cause: DropCause) -> Self {
        Self::Ipsec(cause)
    }
}

impl From<WorkerDrop> for Drop {
    fn from(cause: WorkerDrop) -> Self {
        Self::Worker(cause)
    }
}

impl Drop {
    const COUNT: usize = DropCause::COUNT + WorkerDrop::ALL.len();

    const fn index(self) -> usize {
        match self {
            Self::Ipsec(cause) => cause.index(),
            Self::Worker(cause) => DropCause::COUNT + cause as usize,
        }
    }
}

/// The drop counters of a worker's block in their order, for [`stats::Layout::worker`].
pub fn drop_counters() -> Vec<Counter> {
    let row = |row| match row {
        QuickModeRow::BadSpi => QuickMode::BadSpiPackets,
        QuickModeRow::NotAuthenticated => QuickMode::PacketsNotAuthenticated,
        QuickModeRow::NotDecrypted => QuickMode::PacketsNotDecrypted,
        QuickModeRow::Replay => QuickMode::PacketsWithReplayDetection,
    };
    let ipsec = DropCause::ALL
        .into_iter()
        .map(|c| Counter::drop_cause(c.name(), c.row().map(row), c.describe()));
    let worker =
        WorkerDrop::ALL.into_iter().map(|c| Counter::drop_cause(c.name(), None, c.describe()));
    ipsec.chain(worker).collect()
}

/// The counters of one worker, which it alone writes.
#[derive(Clone, Debug)]
pub struct Account {
    counters: WorkerCounters,
    drops: [u64; Drop::COUNT],
}

impl Account {
    pub(crate) const fn new() -> Self {
        Self { counters: WorkerCounters::new(), drops: [0; Drop::COUNT] }
    }

    /// Returns the value of a fixed counter.
    pub const fn get(&self, row: Row) -> u64 {
        self.counters.get(row)
    }

    /// Returns how many packets were dropped for a cause.
    pub fn drops(&self, cause: impl Into<Drop>) -> u64 {
        self.drops[cause.into().index()]
    }

    /// Returns how many packets were dropped.
    pub fn all_drops(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Returns the causes that have dropped anything, with how many.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let ipsec = DropCause::ALL.into_iter().map(DropCause::name);
        let worker = WorkerDrop::ALL.into_iter().map(WorkerDrop::name);
        ipsec.chain(worker).zip(self.drops).filter(|(_, n)| *n > 0)
    }

    /// Returns whether the identity holds.
    pub fn balances(&self) -> bool {
        let sum = |rows: &[Row]| rows.iter().map(|r| self.get(*r)).sum::<u64>();
        let entered =
            sum(&[Row::Received, Row::Generated, Row::ReleasedFromWaiting, Row::HandedIn]);
        let left = sum(&[Row::Sent, Row::ToHost, Row::TakenIntoWaiting, Row::HandedOut]);
        entered == left + self.all_drops()
            && self.get(Row::TakenIntoWaiting) - self.get(Row::ReleasedFromWaiting)
                == self.get(Row::Waiting)
    }

    #[inline]
    pub(crate) fn add(&mut self, row: Row, n: u64) {
        self.counters.add(row, n);
    }

    #[inline]
    pub(crate) fn set(&mut self, row: Row, value: u64) {
        self.counters.set(row, value);
    }

    /// Counts a dropped packet, and the quick mode row that goes with the cause.
    #[inline]
    pub(crate) fn drop(&mut self, cause: impl Into<Drop>) {
        let cause = cause.into();
        self.drops[cause.index()] += 1;
        if let Drop::Ipsec(cause) = cause
            && let Some(row) = cause.row()
        {
            let row = match row {
                QuickModeRow::BadSpi => Row::BadSpiPackets,
                QuickModeRow::NotAuthenticated => Row::PacketsNotAuthenticated,
                QuickModeRow::NotDecrypted => Row::PacketsNotDecrypted,
                QuickModeRow::Replay => Row::PacketsWithReplayDetection,
            };
            self.counters.add(row, 1);
        }
    }

    /// Counts packets that were dropped for a cause that no quick mode row goes with.
    pub(crate) fn drop_many(&mut self, cause: WorkerDrop, packets: u64) {
        self.drops[Drop::Worker(cause).index()] += packets;
    }

    /// Adds what a burst opened.
    pub(crate) fn opened(&mut self, totals: &Totals) {
        self.add(Row::OpenedPackets, totals.packets);
        self.add(Row::ConfidentialBytesReceived, totals.confidential_bytes);
        self.add(Row::AuthenticatedBytesReceived, totals.authenticated_bytes);
        self.add(Row::TransportBytesReceived, totals.transport_bytes);
        self.add(Row::TunnelBytesReceived, totals.tunnel_bytes);
    }

    /// Adds what a burst sealed.
    pub(crate) fn sealed(&mut self, totals: &Totals) {
        self.add(Row::SealedPackets, totals.packets);
        self.add(Row::ConfidentialBytesSent, totals.confidential_bytes);
        self.add(Row::AuthenticatedBytesSent, totals.authenticated_bytes);
        self.add(Row::TransportBytesSent, totals.transport_bytes);
        self.add(Row::TunnelBytesSent, totals.tunnel_bytes);
    }

    /// The two tables of the block, in the order of [`drop_counters`].
    pub(crate) fn parts(&self) -> [&[u64]; 2] {
        [self.counters.values(), &self.drops]
    }
}
