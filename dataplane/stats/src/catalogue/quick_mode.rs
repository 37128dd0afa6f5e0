//! Quick mode: what IPsec does. Pairs of Child SAs unless a row says packets or bytes.

use super::{Worker, table};

table! {
    /// A row of the quick mode statistics, in IP Security Monitor's order.
    ///
    /// Bytes are those of the plaintext IP packet, header included; received bytes count after
    /// replay, integrity and selector acceptance; TFC padding and dummies do not count.
    enum QuickMode;
    /// The control thread's part of the quick mode table; the workers' parts are in their blocks.
    struct QuickModeCounters;

    ActiveSas, "active_sas", "Active Security Associations", Gauge, Sas,
        "Active pairs, both of an overlapping rekey, soft SAs included.";
    OffloadedSas, "offloaded_sas", "Offloaded Security Associations", Gauge, Sas,
        "Active pairs whose crypto a device does.";
    PendingKeyOperations, "pending_key_operations", "Pending Key Operations", Gauge, Operations,
        "SPIs allocated and not yet keyed or released, and SA commands that workers have not acknowledged.";
    KeyAdditions, "key_additions", "Key Additions", Counter, Sas,
        "Pairs added.";
    KeyDeletions, "key_deletions", "Key Deletions", Counter, Sas,
        "Pairs deleted.";
    Rekeys, "rekeys", "Rekeys", Counter, Sas,
        "Child SAs replaced, begun by either side, a collision once.";
    ActiveTunnels, "active_tunnels", "Active Tunnels", Gauge, Tunnels,
        "Distinct pairs of tunnel endpoints that have a live tunnel-mode SA.";
    BadSpiPackets, "bad_spi_packets", "Bad SPI Packets", Counter, Packets,
        "Packets whose SPI matches no inbound SA.";
    PacketsNotDecrypted, "packets_not_decrypted", "Packets Not Decrypted", Counter, Packets,
        "Packets that fail decryption or a validation other than the integrity check.";
    PacketsNotAuthenticated, "packets_not_authenticated", "Packets Not Authenticated", Counter, Packets,
        "Packets whose ICV or AEAD tag does not verify.";
    PacketsWithReplayDetection, "packets_with_replay_detection", "Packets With Replay Detection", Counter, Packets,
        "Packets the replay check refuses: duplicate, or left of the window.";
    ConfidentialBytesSent, "confidential_bytes_sent", "Confidential Bytes Sent", Counter, Bytes,
        "Bytes sent under ESP with encryption.";
    ConfidentialBytesReceived, "confidential_bytes_received", "Confidential Bytes Received", Counter, Bytes,
        "Bytes received under ESP with encryption.";
    AuthenticatedBytesSent, "authenticated_bytes_sent", "Authenticated Bytes Sent", Counter, Bytes,
        "Bytes sent under AH, or under ESP with integrity.";
    AuthenticatedBytesReceived, "authenticated_bytes_received", "Authenticated Bytes Received", Counter, Bytes,
        "Bytes received under AH, or under ESP with integrity.";
    TransportBytesSent, "transport_bytes_sent", "Transport Bytes Sent", Counter, Bytes,
        "Bytes sent in transport mode.";
    TransportBytesReceived, "transport_bytes_received", "Transport Bytes Received", Counter, Bytes,
        "Bytes received in transport mode.";
    TunnelBytesSent, "tunnel_bytes_sent", "Bytes Sent in Tunnels", Counter, Bytes,
        "Bytes sent in tunnel mode.";
    TunnelBytesReceived, "tunnel_bytes_received", "Bytes Received in Tunnels", Counter, Bytes,
        "Bytes received in tunnel mode.";
    OffloadedBytesSent, "offloaded_bytes_sent", "Offloaded Bytes Sent", Counter, Bytes,
        "Bytes sent whose crypto a device did.";
    OffloadedBytesReceived, "offloaded_bytes_received", "Offloaded Bytes Received", Counter, Bytes,
        "Bytes received whose crypto a device did.";
}

impl QuickMode {
    /// Returns the worker counter that moves the row, or `None` for a row of the control thread.
    pub const fn worker_counter(self) -> Option<Worker> {
        match self {
            Self::ActiveSas
            | Self::OffloadedSas
            | Self::PendingKeyOperations
            | Self::KeyAdditions
            | Self::KeyDeletions
            | Self::Rekeys
            | Self::ActiveTunnels => None,
            Self::BadSpiPackets => Some(Worker::BadSpiPackets),
            Self::PacketsNotDecrypted => Some(Worker::PacketsNotDecrypted),
            Self::PacketsNotAuthenticated => Some(Worker::PacketsNotAuthenticated),
            Self::PacketsWithReplayDetection => Some(Worker::PacketsWithReplayDetection),
            Self::ConfidentialBytesSent => Some(Worker::ConfidentialBytesSent),
            Self::ConfidentialBytesReceived => Some(Worker::ConfidentialBytesReceived),
            Self::AuthenticatedBytesSent => Some(Worker::AuthenticatedBytesSent),
            Self::AuthenticatedBytesReceived => Some(Worker::AuthenticatedBytesReceived),
            Self::TransportBytesSent => Some(Worker::TransportBytesSent),
            Self::TransportBytesReceived => Some(Worker::TransportBytesReceived),
            Self::TunnelBytesSent => Some(Worker::TunnelBytesSent),
            Self::TunnelBytesReceived => Some(Worker::TunnelBytesReceived),
            Self::OffloadedBytesSent => Some(Worker::OffloadedBytesSent),
            Self::OffloadedBytesReceived => Some(Worker::OffloadedBytesReceived),
        }
    }

    /// Returns whether the row counts refused packets: the four that a drop cause may name.
    pub const fn counts_refused_packets(self) -> bool {
        matches!(
            self,
            Self::BadSpiPackets
                | Self::PacketsNotDecrypted
                | Self::PacketsNotAuthenticated
                | Self::PacketsWithReplayDetection
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_row_has_the_name_kind_and_unit_of_its_quick_mode_row() {
        for row in QuickMode::ALL {
            let Some(worker) = row.worker_counter() else { continue };
            let (row, worker) = (row.descriptor(), worker.descriptor());
            assert_eq!((row.name, row.kind, row.unit), (worker.name, worker.kind, worker.unit));
        }
    }
}
