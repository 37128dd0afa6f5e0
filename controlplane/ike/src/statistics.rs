//! The main mode rows that the engine owns (the catalogue's names and meanings), and what it knows beyond them.

/// Counters since the engine was made, and gauges. Rows about sockets are the daemon's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Gauge: acquires without an outcome.
    pub active_acquire: u64,
    /// Gauge: messages parked behind a public-key job; the daemon adds what it has read and not handed over.
    pub active_receive: u64,
    /// Acquires that ended without an SA.
    pub acquire_failures: u64,
    /// Gauge: entries of the acquire table.
    pub acquire_heap_size: u64,
    /// Gauge: buffers with IKE bytes inside the engine: parked messages and fragments.
    pub receive_heap_size: u64,
    /// Authentication failures by preshared key, at the side that verifies and at the side that is told.
    pub authentication_failures_psk: u64,
    /// Authentication failures by certificate.
    pub authentication_failures_certificate: u64,
    /// Authentication failures by Kerberos.
    pub authentication_failures_kerberos: u64,
    /// Authentication failures of a user by name and password: XAUTH, which EAP took the place of.
    pub authentication_failures_eap: u64,
    /// IKE SA or Child SA negotiations that failed, once each.
    pub negotiation_failures: u64,
    /// Messages whose SPIs match no IKE SA.
    pub invalid_cookies_received: u64,
    /// Acquires submitted, by `initiate`.
    pub total_acquire_initiate: u64,
    /// Acquires submitted, by `start_action` and its like.
    pub total_acquire_start_action: u64,
    /// Acquires submitted, by a trapped packet.
    pub total_acquire_trap: u64,
    /// SPI allocations asked for.
    pub total_get_spi: u64,
    /// Outbound SAs added and acknowledged.
    pub key_additions: u64,
    /// Inbound SAs added and acknowledged.
    pub key_updates: u64,
    /// SPI allocations refused.
    pub get_spi_failures: u64,
    /// Outbound additions refused.
    pub key_addition_failures: u64,
    /// Inbound additions refused.
    pub key_update_failures: u64,
    /// Gauge: IKE SAs, established, in progress, failed or expired and not yet deleted.
    pub isadb_list_size: u64,
    /// Gauge: Child SA negotiations in progress.
    pub connection_list_size: u64,
    /// IKE SAs established anew.
    pub ike_main_mode_initial: u64,
    /// IKE SAs established by rekeying.
    pub ike_main_mode_rekey: u64,
    /// Pairs of IPsec SAs established.
    pub ike_quick_mode: u64,
    /// Soft SAs formed: the policy let the traffic of a silent peer go in clear.
    pub soft_associations: u64,
    /// Invalid IKE messages and stale retransmissions.
    pub invalid_packets_received: u64,
    /// Child SAs replaced, begun by either side, a collision once (the quick mode row `rekeys`).
    pub child_rekeys: u64,
    /// Beyond the catalogue: half-open IKE SAs (gauge).
    pub half_open: u64,
    /// Beyond the catalogue: cookies demanded.
    pub cookies_sent: u64,
    /// Beyond the catalogue: first messages ignored for a limit (`block_threshold`, `half_open_limit`).
    pub initiations_dropped: u64,
    /// Beyond the catalogue: first messages of aggressive mode that cost us an exponentiation.
    pub aggressive_begun: u64,
    /// Beyond the catalogue: requests sent again.
    pub retransmissions: u64,
    /// Beyond the catalogue: requests answered from store.
    pub answers_repeated: u64,
    /// Beyond the catalogue: messages that found no room to wait.
    pub parked_dropped: u64,
}

impl Statistics {
    /// `authentication_failures`, all methods.
    pub const fn authentication_failures(&self) -> u64 {
        self.authentication_failures_psk
            .wrapping_add(self.authentication_failures_certificate)
            .wrapping_add(self.authentication_failures_kerberos)
            .wrapping_add(self.authentication_failures_eap)
    }

    /// `total_acquire`, all origins.
    pub const fn total_acquire(&self) -> u64 {
        self.total_acquire_initiate
            .wrapping_add(self.total_acquire_start_action)
            .wrapping_add(self.total_acquire_trap)
    }

    /// `ike_main_mode`, initial and rekeyed.
    pub const fn ike_main_mode(&self) -> u64 {
        self.ike_main_mode_initial.wrapping_add(self.ike_main_mode_rekey)
    }
}
