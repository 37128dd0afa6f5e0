//! The two structures of `iscsiprf.h`, byte for byte.

use stats::{MainMode, QuickMode, Snapshot};

/// Members of `MSiSCSI_MMIPSECStats`, in its order. It has no TotalAcquire and no ISADB list size.
const MAIN_MODE: [MainMode; 21] = [
    MainMode::ActiveAcquire,
    MainMode::ActiveReceive,
    MainMode::AcquireFailures,
    MainMode::ReceiveFailures,
    MainMode::SendFailures,
    MainMode::AcquireHeapSize,
    MainMode::ReceiveHeapSize,
    MainMode::NegotiationFailures,
    MainMode::AuthenticationFailures,
    MainMode::InvalidCookiesReceived,
    MainMode::TotalGetSpi,
    MainMode::KeyAdditions,
    MainMode::KeyUpdates,
    MainMode::GetSpiFailures,
    MainMode::KeyAdditionFailures,
    MainMode::KeyUpdateFailures,
    MainMode::ConnectionListSize,
    MainMode::IkeMainMode,
    MainMode::IkeQuickMode,
    MainMode::InvalidPacketsReceived,
    MainMode::SoftAssociations,
];

/// Members of `MSiSCSI_QMIPSECStats`, in its order: the table without the offload rows.
const QUICK_MODE: [QuickMode; 18] = [
    QuickMode::ActiveSas,
    QuickMode::PendingKeyOperations,
    QuickMode::KeyAdditions,
    QuickMode::KeyDeletions,
    QuickMode::Rekeys,
    QuickMode::ActiveTunnels,
    QuickMode::BadSpiPackets,
    QuickMode::PacketsNotDecrypted,
    QuickMode::PacketsNotAuthenticated,
    QuickMode::PacketsWithReplayDetection,
    QuickMode::ConfidentialBytesSent,
    QuickMode::ConfidentialBytesReceived,
    QuickMode::AuthenticatedBytesSent,
    QuickMode::AuthenticatedBytesReceived,
    QuickMode::TransportBytesSent,
    QuickMode::TransportBytesReceived,
    QuickMode::TunnelBytesSent,
    QuickMode::TunnelBytesReceived,
];

/// Returns `MSiSCSI_MMIPSECStats`, 168 bytes.
pub(super) fn main_mode(snapshot: &Snapshot) -> Vec<u8> {
    MAIN_MODE.iter().flat_map(|row| snapshot.main_mode(*row).to_le_bytes()).collect()
}

/// Returns `MSiSCSI_QMIPSECStats`, 144 bytes.
pub(super) fn quick_mode(snapshot: &Snapshot) -> Vec<u8> {
    QUICK_MODE.iter().flat_map(|row| snapshot.quick_mode(*row).to_le_bytes()).collect()
}
