//! What the engine is told: connections, children and secrets, parsed and resolved.
//!
//! The daemon makes these from swanctl.conf and from VICI; names are swanctl's. Times are
//! durations; zero means "never" where swanctl says so.

use crate::certificate::{Certificate, Credentials, Requirement, Revocation};
use crate::gss::Mechanism;
use crate::proposal::Proposal;
use core::net::IpAddr;
use core::time::Duration;
use ipsec::algorithm::KeyMaterial;
use ipsec::sa::{HeaderRules, Limits, Mode};
use ipsec::selector::{AddressRange, Ports};
use std::sync::Arc;

/// Everything the engine knows by configuration. Replaced as a whole on reload.
#[derive(Debug, Default)]
pub struct Config {
    /// In the order of the file: the first that fits is taken.
    pub connections: Vec<Arc<Connection>>,
    /// Preshared keys.
    pub psks: Vec<Psk>,
    /// Names and passwords of XAUTH users.
    pub users: Vec<Psk>,
    /// Pools that virtual addresses are taken from.
    pub pools: Vec<Pool>,
    /// Private keys, certificates and whom we trust.
    pub credentials: Arc<Credentials>,
    /// What authenticates by Kerberos; none where this build has none.
    pub mechanism: Option<Arc<dyn Mechanism>>,
    /// Bounds and timers.
    pub settings: Settings,
}

/// Which IKE versions a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// `version = 0`: IKEv2, as RFC 9395 deprecates IKEv1.
    #[default]
    Any,
    /// `version = 1`
    Ikev1,
    /// `version = 2`
    Ikev2,
}

/// `unique`: what a second IKE SA between the same identities means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unique {
    /// Never replace, ignore INITIAL_CONTACT.
    Never,
    /// Replace only when the peer sends INITIAL_CONTACT.
    #[default]
    No,
    /// Replace the existing one.
    Replace,
    /// Keep the existing one and refuse the new.
    Keep,
}

/// An identity (RFC 7296 §3.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// `%any`: matches every identity.
    Any,
    /// ID_IPV4_ADDR or ID_IPV6_ADDR.
    Address(IpAddr),
    /// ID_FQDN.
    Fqdn(String),
    /// ID_RFC822_ADDR.
    Email(String),
    /// ID_DER_ASN1_DN, DER bytes.
    Dn(Vec<u8>),
    /// ID_KEY_ID.
    KeyId(Vec<u8>),
}

/// How one side authenticates itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// Shared Key Message Integrity Code.
    Psk,
    /// Signature by a certified key.
    Pubkey,
    /// A ticket, by GSS-API in IKEv1.
    Kerberos,
    /// Nothing but the name and password of [`Connection::xauth`], opposite a certificate: hybrid authentication of IKEv1.
    Xauth,
}

/// `local` or `remote` of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthRound {
    /// The method.
    pub method: AuthMethod,
    /// The identity; [`Identity::Any`] locally means the certificate's subject, or without one the IKE address.
    pub id: Identity,
    /// Locally the certificates to choose from, remotely the only ones that are accepted; empty leaves it open.
    pub certificates: Vec<Arc<Certificate>>,
    /// Remotely the only authorities that are trusted; empty means all of ours.
    pub authorities: Vec<Arc<Certificate>>,
    /// What keys and signatures must be.
    pub requirement: Requirement,
    /// What becomes of a peer's certificate whose revocation is not known.
    pub revocation: Revocation,
}

impl AuthRound {
    /// A round that demands no more than its method and identity.
    pub fn new(method: AuthMethod, id: Identity) -> Self {
        Self {
            method,
            id,
            certificates: Vec::new(),
            authorities: Vec::new(),
            requirement: Requirement::default(),
            revocation: Revocation::default(),
        }
    }
}

/// `send_cert`: when our certificate goes to the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SendCertificate {
    /// When the peer asks for certificates.
    #[default]
    IfAsked,
    /// In any case.
    Always,
    /// Not at all: the peer has it.
    Never,
}

/// `fragmentation`: what is done about messages too long for one datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragmentation {
    /// They are sent whole; fragments of the peer are not taken.
    No,
    /// The peer's are taken; ours are sent whole.
    Accept,
    /// Ours are sent in fragments too, to a peer that announces that it takes them.
    #[default]
    Yes,
    /// The same, and the first message of IKEv1 before the peer has announced anything.
    Force,
}

impl Fragmentation {
    /// Whether fragments of the peer are taken.
    pub const fn accepts(self) -> bool {
        !matches!(self, Self::No)
    }

    /// Whether messages of ours are sent in fragments.
    pub const fn sends(self) -> bool {
        matches!(self, Self::Yes | Self::Force)
    }
}

/// A proof by name and password, behind phase 1 of IKEv1: beside another (`auth = xauth` in a second round), or alone where
/// the other side has a certificate ([`AuthMethod::Xauth`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Xauth {
    /// We are asked, and say this name.
    Answer {
        /// Whose password is in [`Config::users`].
        user: String,
    },
    /// The peer is asked.
    Ask,
}

/// One entry of `pools`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// The addresses, each for one peer.
    pub addresses: AddressRange,
    /// Name servers that are told with an address.
    pub dns: Vec<IpAddr>,
}

/// One entry of `connections`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its name.
    pub name: String,
    /// IKE version.
    pub version: Version,
    /// Addresses we accept on and initiate from; empty is `%any`.
    pub local_addrs: Vec<AddressRange>,
    /// Addresses of the peer; empty is `%any`, which cannot be initiated to.
    pub remote_addrs: Vec<AddressRange>,
    /// UDP port to send from, usually 500.
    pub local_port: u16,
    /// UDP port to send to, usually 500.
    pub remote_port: u16,
    /// IKE proposals in order of preference, never empty.
    pub proposals: Vec<Proposal>,
    /// How we authenticate.
    pub local: AuthRound,
    /// How the peer must.
    pub remote: AuthRound,
    /// Children in the order of the file.
    pub children: Vec<Arc<Child>>,
    /// IKEv1: aggressive mode in the place of main mode, as initiator and as responder.
    pub aggressive: bool,
    /// IKEv1: name and password beside the proof of phase 1.
    pub xauth: Option<Xauth>,
    /// Virtual addresses to ask the peer for; unspecified ones leave the choice to it.
    pub vips: Vec<IpAddr>,
    /// Names of the pools that the peer gets a virtual address from.
    pub pools: Vec<String>,
    /// IKEv1: the gateway tells the virtual address unasked (Mode Config in push mode).
    pub push: bool,
    /// Force UDP encapsulation by faking a NAT.
    pub encap: bool,
    /// RFC 4555 (announced only once implemented).
    pub mobike: bool,
    /// Messages in fragments (RFC 7383, and what IKEv1 has for it).
    pub fragmentation: Fragmentation,
    /// Liveness checks after this idle time; zero for none.
    pub dpd_delay: Duration,
    /// IKEv1: a peer that is silent for this long while it is asked whether it lives is dead; zero leaves that to the
    /// retransmissions.
    pub dpd_timeout: Duration,
    /// IKE SA rekeying; zero for none.
    pub rekey_time: Duration,
    /// IKE SA reauthentication; zero for none.
    pub reauth_time: Duration,
    /// Grace after `rekey_time` before the SA is given up.
    pub over_time: Duration,
    /// Up to this much is taken off the rekey time at random.
    pub rand_time: Duration,
    /// When our certificate is sent.
    pub send_certificate: SendCertificate,
    /// Whether the peer is asked for its certificate.
    pub request_certificate: bool,
    /// What a second SA means.
    pub unique: Unique,
    /// How often initiation is tried before it fails; 0 is for ever.
    pub keyingtries: u32,
}

/// What is done when a child is loaded, closed by the peer, or its peer is found dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChildAction {
    /// Nothing.
    #[default]
    None,
    /// A PROTECT policy without an SA is installed, so that traffic raises an acquire.
    Trap,
    /// The child is initiated.
    Start,
}

/// A traffic selector as configured (RFC 7296 §3.13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficSelector {
    /// `None` is `dynamic`: the IKE address (or the virtual one) of that side.
    pub addresses: Option<AddressRange>,
    /// Next layer protocol.
    pub protocol: Option<u8>,
    /// Ports.
    pub ports: Ports,
}

impl TrafficSelector {
    /// Whether an identity of IKEv1's quick mode can say its ports (RFC 2407 §4.6.2): one or all, and one of a protocol.
    pub fn is_for_ikev1(&self) -> bool {
        match &self.ports {
            Ports::Any => true,
            Ports::Opaque => false,
            Ports::Range(ports) => {
                ports.start() == ports.end() && *ports.start() != 0 && self.protocol.is_some()
            }
        }
    }
}

/// What a child does with its traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildMode {
    /// Protected, tunnel or transport.
    Protect(Mode),
    /// `mode = pass`: a BYPASS policy.
    Pass,
    /// `mode = drop`: a DISCARD policy.
    Drop,
}

/// What a policy gives away towards a peer that does not speak IKE: a soft SA, under which traffic that was to be protected
/// goes in clear, and is taken in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unprotected {
    /// The peer is silent for this long after our first message.
    pub after: Duration,
    /// The soft SA ends after this; the next packet asks the peer again.
    pub lasts: Duration,
}

/// One entry of `children`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its name.
    pub name: String,
    /// Traffic on our side.
    pub local_ts: Vec<TrafficSelector>,
    /// Traffic on the peer's side.
    pub remote_ts: Vec<TrafficSelector>,
    /// ESP (or AH) proposals in order of preference.
    pub proposals: Vec<Proposal>,
    /// Mode.
    pub mode: ChildMode,
    /// On load.
    pub start_action: ChildAction,
    /// When the peer deletes it.
    pub close_action: ChildAction,
    /// When the peer is dead.
    pub dpd_action: ChildAction,
    /// Rekey after; zero for never.
    pub rekey_time: Duration,
    /// Deleted after; zero for never.
    pub life_time: Duration,
    /// Up to this much is taken off `rekey_time` at random.
    pub rand_time: Duration,
    /// Soft byte and packet limits.
    pub rekey_limits: Limits,
    /// Up to this much is taken off `rekey_limits` at random, anew for each SA.
    pub rand_limits: Limits,
    /// Hard byte and packet limits.
    pub life_limits: Limits,
    /// Replay window in packets; 0 turns the check off.
    pub replay_window: u32,
    /// Tunnel header rules (`copy_df`, `copy_ecn`, `copy_dscp`).
    pub headers: HeaderRules,
    /// Manual policy priority, 0 for one made from the selectors.
    pub priority: u32,
    /// Whether traffic goes in clear while the peer does not speak IKE.
    pub unprotected: Option<Unprotected>,
    /// Route-based: of its traffic only what the host routes to the device of this number.
    pub if_id: Option<u32>,
    /// Whether all that is decapsulated goes to the host, whose filters and routes then decide.
    pub deliver_to_host: bool,
}

/// A preshared key and the identities it is for; none means any.
#[derive(Debug)]
pub struct Psk {
    /// Identities.
    pub owners: Vec<Identity>,
    /// The key.
    pub secret: KeyMaterial,
}

/// Bounds and timers, with charon's names and defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// First retransmission after this.
    pub retransmit_timeout: Duration,
    /// Each further one after this many times the last.
    pub retransmit_base: f64,
    /// How many retransmissions before the peer is given up.
    pub retransmit_tries: u32,
    /// Half-open IKE SAs from which cookies are asked for; 0 for never.
    pub cookie_threshold: usize,
    /// Half-open IKE SAs of one address from which it is ignored; 0 for never.
    pub block_threshold: usize,
    /// Half-open IKE SAs altogether; more are refused (memory of a stranger is bounded by it).
    pub half_open_limit: usize,
    /// A half-open IKE SA is forgotten after this.
    pub half_open_timeout: Duration,
    /// How long an answer of Kerberos, which may ask a server, is waited for.
    pub gss_timeout: Duration,
    /// NAT keepalives when behind a NAT and idle for this long; zero for none.
    pub keep_alive: Duration,
    /// Largest IKE datagram sent unfragmented (RFC 7383), in bytes of the UDP payload.
    pub fragment_size: usize,
    /// The UDP ports of IKE and of IKE behind the non-ESP marker.
    pub port: u16,
    /// See `port`.
    pub port_nat_t: u16,
    /// Whether children may use 3DES and HMAC-MD5.
    pub legacy: bool,
    /// Whether aggressive mode with preshared keys is answered, which gives strangers what a weak key can be guessed from.
    pub aggressive_psk: bool,
    /// Whether TCP connections are told the segment size that a tunnel has room for.
    pub clamp_mss: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            retransmit_timeout: Duration::from_secs(4),
            retransmit_base: 1.8,
            retransmit_tries: 5,
            cookie_threshold: 30,
            block_threshold: 5,
            half_open_limit: 1000,
            half_open_timeout: Duration::from_secs(30),
            gss_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(20),
            fragment_size: 1280,
            port: 500,
            port_nat_t: 4500,
            legacy: false,
            aggressive_psk: false,
            clamp_mss: false,
        }
    }
}
