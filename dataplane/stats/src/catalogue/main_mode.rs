//! Main mode: what IKE does, IKEv1 main mode and IKEv2 IKE SAs alike.

use super::{Counter, table};

table! {
    /// A row of the main mode statistics, in IP Security Monitor's order.
    enum MainMode;
    /// The main mode table as the control thread counts it.
    struct MainModeCounters;

    ActiveAcquire, "active_acquire", "Active Acquire", Gauge, Acquires,
        "Acquires without an outcome, being negotiated or queued.";
    ActiveReceive, "active_receive", "Active Receive", Gauge, Messages,
        "Complete IKE messages read and not yet processed.";
    AcquireFailures, "acquire_failures", "Acquire Failures", Counter, Acquires,
        "Acquires that ended without an SA.";
    ReceiveFailures, "receive_failures", "Receive Failures", Counter, Events,
        "Errors of receiving on IKE sockets, truncations and losses the kernel reports included.";
    SendFailures, "send_failures", "Send Failures", Counter, Events,
        "Errors of sending on IKE sockets.";
    AcquireHeapSize, "acquire_heap_size", "Acquire Heap Size", Gauge, Acquires,
        "Entries of the acquire table: active, successful until installed, failed until the hold-down ends.";
    ReceiveHeapSize, "receive_heap_size", "Receive Heap Size", Gauge, Messages,
        "Buffers that hold IKE bytes: queued, in hand, and fragments not yet assembled.";
    AuthenticationFailures, "authentication_failures", "Authentication Failures", Counter, Negotiations,
        "Identity authentication failures, at the side that verifies and at the side that is told.";
    NegotiationFailures, "negotiation_failures", "Negotiation Failures", Counter, Negotiations,
        "IKE SA or Child SA negotiations that failed, authentication failures included.";
    InvalidCookiesReceived, "invalid_cookies_received", "Invalid Cookies Received", Counter, Messages,
        "Messages whose cookies (SPIs) match no IKE SA.";
    TotalAcquire, "total_acquire", "Total Acquire", Counter, Acquires,
        "Acquires submitted to IKE, those that end as soft SAs included.";
    TotalGetSpi, "total_get_spi", "Total Get SPI", Counter, Operations,
        "SPI allocations asked of the SAD.";
    KeyAdditions, "key_additions", "Key Additions", Counter, Sas,
        "Outbound IPsec SAs added by IKE and acknowledged by the worker.";
    KeyUpdates, "key_updates", "Key Updates", Counter, Sas,
        "Inbound IPsec SAs added by IKE and acknowledged by the worker.";
    GetSpiFailures, "get_spi_failures", "Get SPI Failures", Counter, Operations,
        "SPI allocations refused.";
    KeyAdditionFailures, "key_addition_failures", "Key Addition Failures", Counter, Sas,
        "Outbound IPsec SA additions refused.";
    KeyUpdateFailures, "key_update_failures", "Key Update Failures", Counter, Sas,
        "Inbound IPsec SA additions refused.";
    IsadbListSize, "isadb_list_size", "ISADB List Size", Gauge, Sas,
        "Main mode state entries: established, in progress, failed or expired and not yet deleted.";
    ConnectionListSize, "connection_list_size", "Connection List Size", Gauge, Negotiations,
        "Child SA negotiations in progress, from the first message to installation or failure.";
    IkeMainMode, "ike_main_mode", "IKE Main Mode", Counter, Sas,
        "IKE SAs established, by rekey too.";
    IkeQuickMode, "ike_quick_mode", "IKE Quick Mode", Counter, Sas,
        "Pairs of IPsec SAs established.";
    SoftAssociations, "soft_associations", "Soft Associations", Counter, Sas,
        "Soft SAs formed: policy allowed clear traffic with a peer that did not answer.";
    InvalidPacketsReceived, "invalid_packets_received", "Invalid Packets Received", Counter, Messages,
        "Invalid IKE messages: header fields, payload lengths, a cookie that should be zero, stale retransmissions.";
}

/// Who asked for a Child SA (label `origin`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AcquireOrigin {
    /// A packet that matched a policy without an SA.
    Trap,
    /// `start_action` of the configuration.
    StartAction,
    /// An `initiate` command.
    Initiate,
}

impl AcquireOrigin {
    /// Every origin, in stored order.
    pub const ALL: [Self; 3] = [Self::Trap, Self::StartAction, Self::Initiate];

    const fn label(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::StartAction => "start_action",
            Self::Initiate => "initiate",
        }
    }
}

/// How a peer was to prove its identity (label `method`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthenticationMethod {
    /// Preshared key.
    Psk,
    /// Signature, with a certificate or a raw public key.
    Certificate,
    /// Kerberos by GSS-API.
    Kerberos,
    /// EAP, and XAUTH, which it took the place of: a user by name and password.
    Eap,
}

impl AuthenticationMethod {
    /// Every method, in stored order.
    pub const ALL: [Self; 4] = [Self::Psk, Self::Certificate, Self::Kerberos, Self::Eap];

    const fn label(self) -> &'static str {
        match self {
            Self::Psk => "psk",
            Self::Certificate => "certificate",
            Self::Kerberos => "kerberos",
            Self::Eap => "eap",
        }
    }
}

/// Which IKE (label `version`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IkeVersion {
    /// IKEv1 (RFC 2409).
    V1,
    /// IKEv2 (RFC 7296).
    V2,
}

impl IkeVersion {
    /// Both versions, in stored order.
    pub const ALL: [Self; 2] = [Self::V1, Self::V2];

    const fn label(self) -> &'static str {
        match self {
            Self::V1 => "1",
            Self::V2 => "2",
        }
    }
}

/// A row that is broken down by [`AcquireOrigin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AcquireRow {
    /// [`MainMode::ActiveAcquire`].
    Active,
    /// [`MainMode::AcquireFailures`].
    Failures,
    /// [`MainMode::TotalAcquire`].
    Total,
}

impl AcquireRow {
    const ALL: [Self; 3] = [Self::Active, Self::Failures, Self::Total];

    const fn row(self) -> MainMode {
        match self {
            Self::Active => MainMode::ActiveAcquire,
            Self::Failures => MainMode::AcquireFailures,
            Self::Total => MainMode::TotalAcquire,
        }
    }
}

/// A row that is broken down by [`IkeVersion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VersionedRow {
    /// [`MainMode::AuthenticationFailures`].
    AuthenticationFailures,
    /// [`MainMode::NegotiationFailures`].
    NegotiationFailures,
    /// [`MainMode::IsadbListSize`].
    IsadbListSize,
    /// [`MainMode::ConnectionListSize`].
    ConnectionListSize,
    /// [`MainMode::IkeMainMode`].
    IkeMainMode,
    /// [`MainMode::IkeQuickMode`].
    IkeQuickMode,
}

impl VersionedRow {
    /// Every row with a breakdown by version, in stored order.
    pub const ALL: [Self; 6] = [
        Self::AuthenticationFailures,
        Self::NegotiationFailures,
        Self::IsadbListSize,
        Self::ConnectionListSize,
        Self::IkeMainMode,
        Self::IkeQuickMode,
    ];

    const fn row(self) -> MainMode {
        match self {
            Self::AuthenticationFailures => MainMode::AuthenticationFailures,
            Self::NegotiationFailures => MainMode::NegotiationFailures,
            Self::IsadbListSize => MainMode::IsadbListSize,
            Self::ConnectionListSize => MainMode::ConnectionListSize,
            Self::IkeMainMode => MainMode::IkeMainMode,
            Self::IkeQuickMode => MainMode::IkeQuickMode,
        }
    }
}

/// One labelled part of a main mode row. The parts of one row under one label add up to the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MainModePart {
    /// Acquires by who asked.
    Acquire(AcquireRow, AcquireOrigin),
    /// [`MainMode::AuthenticationFailures`] by method.
    AuthenticationFailures(AuthenticationMethod),
    /// [`MainMode::IkeMainMode`] that began a new IKE SA (label `rekey` is `no`).
    IkeMainModeFirst,
    /// [`MainMode::IkeMainMode`] that replaced an IKE SA (label `rekey` is `yes`).
    IkeMainModeRekey,
    /// A row by IKE version.
    Version(VersionedRow, IkeVersion),
}

const ORIGINS: usize = AcquireOrigin::ALL.len();
const ACQUIRE_PARTS: usize = AcquireRow::ALL.len() * ORIGINS;
const METHOD_PARTS: usize = AuthenticationMethod::ALL.len();
const REKEY_PARTS: usize = 2;
const VERSIONS: usize = IkeVersion::ALL.len();

impl MainModePart {
    /// How many parts there are.
    pub const COUNT: usize =
        ACQUIRE_PARTS + METHOD_PARTS + REKEY_PARTS + VersionedRow::ALL.len() * VERSIONS;

    /// Returns every part, in stored order.
    pub fn all() -> impl Iterator<Item = Self> {
        let acquires = AcquireRow::ALL
            .into_iter()
            .flat_map(|row| AcquireOrigin::ALL.map(|origin| Self::Acquire(row, origin)));
        let methods = AuthenticationMethod::ALL.map(Self::AuthenticationFailures);
        let versions = VersionedRow::ALL
            .into_iter()
            .flat_map(|row| IkeVersion::ALL.map(|version| Self::Version(row, version)));
        acquires
            .chain(methods)
            .chain([Self::IkeMainModeFirst, Self::IkeMainModeRekey])
            .chain(versions)
    }

    /// Returns the row this is a part of.
    pub const fn row(self) -> MainMode {
        match self {
            Self::Acquire(row, _) => row.row(),
            Self::AuthenticationFailures(_) => MainMode::AuthenticationFailures,
            Self::IkeMainModeFirst | Self::IkeMainModeRekey => MainMode::IkeMainMode,
            Self::Version(row, _) => row.row(),
        }
    }

    /// Returns the label and its value.
    pub const fn label(self) -> (&'static str, &'static str) {
        match self {
            Self::Acquire(_, origin) => ("origin", origin.label()),
            Self::AuthenticationFailures(method) => ("method", method.label()),
            Self::IkeMainModeFirst => ("rekey", "no"),
            Self::IkeMainModeRekey => ("rekey", "yes"),
            Self::Version(_, version) => ("version", version.label()),
        }
    }

    /// Returns the descriptor: the row's, with the label.
    pub const fn descriptor(self) -> Counter {
        let (label, value) = self.label();
        (*self.row().descriptor()).with_label(label, value)
    }

    const fn index(self) -> usize {
        match self {
            Self::Acquire(row, origin) => row as usize * ORIGINS + origin as usize,
            Self::AuthenticationFailures(method) => ACQUIRE_PARTS + method as usize,
            Self::IkeMainModeFirst => ACQUIRE_PARTS + METHOD_PARTS,
            Self::IkeMainModeRekey => ACQUIRE_PARTS + METHOD_PARTS + 1,
            Self::Version(row, version) => {
                ACQUIRE_PARTS
                    + METHOD_PARTS
                    + REKEY_PARTS
                    + row as usize * VERSIONS
                    + version as usize
            }
        }
    }
}

/// The labelled parts of the main mode table as the control thread counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MainModePartCounters {
    values: [u64; MainModePart::COUNT],
}

impl MainModePartCounters {
    /// Returns a table of zeros.
    pub const fn new() -> Self {
        Self { values: [0; MainModePart::COUNT] }
    }

    /// Returns the value of a part.
    pub const fn get(&self, part: MainModePart) -> u64 {
        self.values[part.index()]
    }

    /// Returns all values in stored order.
    pub const fn values(&self) -> &[u64; MainModePart::COUNT] {
        &self.values
    }

    /// Adds to a part; the caller adds to the row as well.
    pub const fn add(&mut self, part: MainModePart, n: u64) {
        self.values[part.index()] = self.values[part.index()].wrapping_add(n);
    }

    /// Sets a gauge, or a counter that another owner accumulates.
    pub const fn set(&mut self, part: MainModePart, value: u64) {
        self.values[part.index()] = value;
    }
}

impl Default for MainModePartCounters {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_own_slot_in_stored_order() {
        let slots: Vec<usize> = MainModePart::all().map(MainModePart::index).collect();
        assert_eq!(slots, (0..MainModePart::COUNT).collect::<Vec<_>>());
    }

    #[test]
    fn no_two_parts_share_row_and_label() {
        let mut labels: Vec<_> =
            MainModePart::all().map(|part| (part.row().name(), part.label())).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), MainModePart::COUNT);
    }
}
