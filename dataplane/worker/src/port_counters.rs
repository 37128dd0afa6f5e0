//! What a port and the kernel under it have counted, reported beside the worker's own accounting: packets
//! that never reached the worker, or left it and were not sent.

use af_xdp::{Port, PortStatistics};
use core::time::Duration;
use stats::{BlockWriter, Counter, Unit};
use std::time::Instant;

/// How often the kernel is asked, at most.
const INTERVAL: Duration = Duration::from_secs(1);

/// The counters of a port's block, in the order in which a worker publishes them.
pub fn port_counters() -> [Counter; 11] {
    [
        Counter::monotonic("rx_packets", Unit::Packets, "Packets handed to the worker."),
        Counter::monotonic("tx_packets", Unit::Packets, "Packets taken from the worker."),
        Counter::monotonic(
            "rx_dropped",
            Unit::Packets,
            "Dropped by the kernel on arrival: too long, or no chunk free.",
        ),
        Counter::monotonic(
            "rx_ring_full",
            Unit::Packets,
            "Dropped by the kernel on arrival: the worker left the receive ring full.",
        ),
        Counter::monotonic(
            "fill_ring_empty",
            Unit::Events,
            "Times the kernel found no chunk to receive into.",
        ),
        Counter::monotonic(
            "rx_invalid",
            Unit::Packets,
            "Receive descriptors that the kernel rejected.",
        ),
        Counter::monotonic(
            "tx_invalid",
            Unit::Packets,
            "Transmit descriptors that the kernel rejected.",
        ),
        Counter::monotonic(
            "tx_ring_empty",
            Unit::Events,
            "Times the device found nothing to send.",
        ),
        Counter::monotonic(
            "descriptors_refused",
            Unit::Packets,
            "Descriptors from the kernel that name memory it was not lent.",
        ),
        Counter::monotonic("kick_errors", Unit::Events, "Failed calls to have packets sent."),
        Counter::monotonic("foreign_frames", Unit::Packets, "Frames of another packet memory."),
    ]
}

/// Asks one port and publishes the answer, now and then.
pub(crate) struct PortReport {
    block: BlockWriter,
    next: Instant,
}

impl PortReport {
    pub(crate) fn new(block: BlockWriter, now: Instant) -> Self {
        Self { block, next: now }
    }

    /// Publishes when it is due: what closed sockets of the port have counted in `past`, with those that are open.
    pub(crate) fn publish(
        &mut self,
        port: &Port,
        more: &[Port],
        past: &PortStatistics,
        now: Instant,
    ) {
        if now < self.next {
            return;
        }
        self.next = now + INTERVAL;
        let mut sum = *past;
        for queue in more.iter().chain([port]) {
            // A device that is gone does not say, until its port is closed.
            let Ok(counted) = queue.statistics() else { return };
            sum.add(&counted);
        }
        self.block.publish(&values(&sum));
    }
}

impl core::fmt::Debug for PortReport {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PortReport").field("next", &self.next).finish_non_exhaustive()
    }
}

fn values(counted: &PortStatistics) -> [u64; 11] {
    let PortStatistics {
        rx_packets,
        tx_packets,
        rx_dropped,
        rx_ring_full,
        fill_ring_empty,
        rx_invalid,
        tx_invalid,
        tx_ring_empty,
        descriptors_refused,
        kick_errors,
        foreign_frames,
    } = *counted;
    [
        rx_packets,
        tx_packets,
        rx_dropped,
        rx_ring_full,
        fill_ring_empty,
        rx_invalid,
        tx_invalid,
        tx_ring_empty,
        descriptors_refused,
        kick_errors,
        foreign_frames,
    ]
}
