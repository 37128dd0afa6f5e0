//! The daemon's share of the statistics: the main mode table, and the quick mode rows that only
//! the control thread knows. The workers publish theirs themselves.

use stats::{
    AcquireOrigin, AcquireRow, AuthenticationMethod, BlockWriter, MainMode, MainModeCounters,
    MainModePart, MainModePartCounters, QuickMode, QuickModeCounters,
};

/// What the sockets saw (statistics.md: socket and queue gauges are the daemon's).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketFigures {
    /// Errors of receiving, losses that the kernel reports included.
    pub receive_failures: u64,
    /// Errors of sending.
    pub send_failures: u64,
    /// Gauge: IKE messages read and not handed to the engine yet.
    pub unprocessed: u64,
}

/// Collects and publishes.
pub struct Figures {
    main_mode: BlockWriter,
    quick_mode: BlockWriter,
    rows: MainModeCounters,
    parts: MainModePartCounters,
    quick: QuickModeCounters,
    /// What the sockets saw; whoever owns them keeps it current.
    pub sockets: SocketFigures,
}

impl Figures {
    /// Takes the writers of the two blocks of a [`stats::Layout`].
    pub fn new(main_mode: BlockWriter, quick_mode: BlockWriter) -> Self {
        Self {
            main_mode,
            quick_mode,
            rows: MainModeCounters::new(),
            parts: MainModePartCounters::new(),
            quick: QuickModeCounters::new(),
            sockets: SocketFigures::default(),
        }
    }

    /// A pair of SAs is up.
    pub fn pair_added(&mut self) {
        self.quick.add(QuickMode::KeyAdditions, 1);
    }

    /// A pair that was up is gone.
    pub fn pair_deleted(&mut self) {
        self.quick.add(QuickMode::KeyDeletions, 1);
    }

    /// Publishes both blocks.
    pub fn publish(
        &mut self,
        engine: &ike::statistics::Statistics,
        active: u64,
        tunnels: u64,
        pending_key_operations: u64,
    ) {
        let sockets = self.sockets;
        for (row, value) in [
            (MainMode::ActiveAcquire, engine.active_acquire),
            (MainMode::ActiveReceive, engine.active_receive + sockets.unprocessed),
            (MainMode::AcquireFailures, engine.acquire_failures),
            (MainMode::ReceiveFailures, sockets.receive_failures),
            (MainMode::SendFailures, sockets.send_failures),
            (MainMode::AcquireHeapSize, engine.acquire_heap_size),
            (MainMode::ReceiveHeapSize, engine.receive_heap_size + sockets.unprocessed),
            (MainMode::AuthenticationFailures, engine.authentication_failures()),
            (MainMode::NegotiationFailures, engine.negotiation_failures),
            (MainMode::InvalidCookiesReceived, engine.invalid_cookies_received),
            (MainMode::TotalAcquire, engine.total_acquire()),
            (MainMode::TotalGetSpi, engine.total_get_spi),
            (MainMode::KeyAdditions, engine.key_additions),
            (MainMode::KeyUpdates, engine.key_updates),
            (MainMode::GetSpiFailures, engine.get_spi_failures),
            (MainMode::KeyAdditionFailures, engine.key_addition_failures),
            (MainMode::KeyUpdateFailures, engine.key_update_failures),
            (MainMode::IsadbListSize, engine.isadb_list_size),
            (MainMode::ConnectionListSize, engine.connection_list_size),
            (MainMode::IkeMainMode, engine.ike_main_mode()),
            (MainMode::IkeQuickMode, engine.ike_quick_mode),
            (MainMode::SoftAssociations, engine.soft_associations),
            (MainMode::InvalidPacketsReceived, engine.invalid_packets_received),
        ] {
            self.rows.set(row, value);
        }
        for (part, value) in [
            (
                MainModePart::Acquire(AcquireRow::Total, AcquireOrigin::Initiate),
                engine.total_acquire_initiate,
            ),
            (
                MainModePart::Acquire(AcquireRow::Total, AcquireOrigin::StartAction),
                engine.total_acquire_start_action,
            ),
            (
                MainModePart::Acquire(AcquireRow::Total, AcquireOrigin::Trap),
                engine.total_acquire_trap,
            ),
            (
                MainModePart::AuthenticationFailures(AuthenticationMethod::Psk),
                engine.authentication_failures_psk,
            ),
            (
                MainModePart::AuthenticationFailures(AuthenticationMethod::Certificate),
                engine.authentication_failures_certificate,
            ),
            (
                MainModePart::AuthenticationFailures(AuthenticationMethod::Kerberos),
                engine.authentication_failures_kerberos,
            ),
            (
                MainModePart::AuthenticationFailures(AuthenticationMethod::Eap),
                engine.authentication_failures_eap,
            ),
            (MainModePart::IkeMainModeFirst, engine.ike_main_mode_initial),
            (MainModePart::IkeMainModeRekey, engine.ike_main_mode_rekey),
        ] {
            self.parts.set(part, value);
        }
        self.main_mode.publish_parts(&[self.rows.values(), self.parts.values()]);

        self.quick.set(QuickMode::ActiveSas, active);
        self.quick.set(QuickMode::ActiveTunnels, tunnels);
        self.quick.set(QuickMode::PendingKeyOperations, pending_key_operations);
        self.quick.set(QuickMode::Rekeys, engine.child_rekeys);
        self.quick_mode.publish(self.quick.values());
    }
}
