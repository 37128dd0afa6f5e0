//! What goes in and out of the [`Engine`](crate::Engine) besides datagrams: commands, events and their names.

use crate::config::ChildAction;
use core::net::{IpAddr, SocketAddr};
use ipsec::sa::{PairId, SaParameters, Spi};
use ipsec::selector::Selector;

/// The two ends of a datagram. A local port of `settings.port_nat_t` means that the datagram travels behind the
/// non-ESP marker (RFC 3948 §2.2), which the caller adds and removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path {
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's, as seen here.
    pub remote: SocketAddr,
}

/// A datagram to send. The marker of port 4500 is not part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where it goes.
    pub path: Path,
    /// The IKE message; a single octet 0xff is a NAT keepalive (RFC 3948 §2.3), sent without the marker.
    pub datagram: Vec<u8>,
}

impl Transmit {
    /// Whether this is a NAT keepalive, the one datagram from port 4500 that has no marker.
    pub fn is_keepalive(&self) -> bool {
        self.datagram == [0xff]
    }
}

/// An IKE SA, unique while the engine lives; a rekeyed one gets a new number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IkeId(pub u64);

/// A command in progress; answered by one [`Event::RequestDone`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One half of a pair handed over for installation; answered through
/// [`Engine::handle_installed`](crate::Engine::handle_installed).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstallId(pub u64);

/// The worker did not take an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallRefused {
    /// A table is full.
    #[error("no room for the SA")]
    Full,
    /// The parameters are not something that the dataplane can do.
    #[error("the dataplane cannot do the SA")]
    Unsupported,
}

/// The SAD gave no SPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no SPI can be allocated")]
pub struct SpiRefused;

/// Where inbound SPIs come from (design.md §2, SAD).
///
/// An SPI belongs to the engine from `allocate` until it is either given back by `release`, or was part of an
/// [`Event::InstallInbound`] that was acknowledged: then it is the caller's, which frees it when it has carried out
/// [`Event::RemovePair`]. A refused installation ends with `release`.
pub trait SpiSource {
    /// Takes an SPI for traffic from `peer`; `inherit` names the SA that the new one replaces, whose core it keeps.
    ///
    /// # Errors
    /// [`SpiRefused`] when a limit is reached.
    fn allocate(&mut self, peer: IpAddr, inherit: Option<Spi>) -> Result<Spi, SpiRefused>;

    /// Gives back an SPI that was never installed.
    fn release(&mut self, spi: Spi);
}

/// Which limit a worker reports (RFC 4301 §4.4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Rekey now.
    Soft,
    /// The SA carries nothing more.
    Hard,
}

/// Where a local request for a Child SA comes from (statistics.md, `active_acquire`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// `initiate`.
    Initiate,
    /// `start_action`, `close_action` or `dpd_action`.
    StartAction,
    /// A packet that met a PROTECT policy without an SA.
    Trap,
}

/// An IKE SA or several, as an operator names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IkeTarget {
    /// By unique number.
    Id(IkeId),
    /// All of a connection.
    Connection(String),
}

/// A Child SA or several, as an operator names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChildTarget {
    /// By unique number.
    Pair(PairId),
    /// All of a name.
    Named {
        /// Within this connection only.
        connection: Option<String>,
        /// The child's name.
        child: String,
    },
}

/// What the operator, the configuration or the dataplane asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A child, with an IKE SA for it when there is none. Repeats join the negotiation that runs already.
    InitiateChild {
        /// The connection; `None` takes the first that has such a child.
        connection: Option<String>,
        /// The child.
        child: String,
        /// `Initiate` or `StartAction`.
        origin: Origin,
    },
    /// An IKE SA without a child (RFC 6023).
    InitiateIke {
        /// The connection.
        connection: String,
    },
    /// A packet wants a child; `packet` becomes the first traffic selector of the request (RFC 7296 §2.9).
    Acquire {
        /// The connection.
        connection: String,
        /// The child.
        child: String,
        /// What the packet showed, if it is known.
        packet: Option<Selector>,
    },
    /// RFC 7296 §1.3.2.
    RekeyIke(IkeTarget),
    /// RFC 7296 §1.3.3.
    RekeyChild(ChildTarget),
    /// The IKE SA is closed and made anew with its children (RFC 7296 §2.8.3).
    ReauthIke(IkeTarget),
    /// RFC 7296 §1.4.1.
    TerminateIke {
        /// Which.
        target: IkeTarget,
        /// Do not wait for the peer.
        force: bool,
    },
    /// RFC 7296 §1.4.1.
    TerminateChild {
        /// Which.
        target: ChildTarget,
        /// Do not wait for the peer.
        force: bool,
    },
    /// Shutdown: every IKE SA is deleted at its peer. Nothing new is begun or accepted afterwards.
    TerminateAll,
}

/// Why a command is refused at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such connection or child is configured.
    #[error("no such configuration")]
    UnknownConfig,
    /// No such SA exists.
    #[error("no matching SA")]
    UnknownSa,
    /// The connection has no peer address, or none of our address's family.
    #[error("the peer's address is not known")]
    NoPeerAddress,
    /// The child is a `pass` or `drop` policy, or cannot be negotiated by this version.
    #[error("not something to be negotiated")]
    NotNegotiable,
    /// The acquire follows a failure too soon.
    #[error("held down after a failure")]
    HeldDown,
    /// The engine is shutting down.
    #[error("shutting down")]
    ShuttingDown,
}

/// Why a negotiation, a command or an SA came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The peer did not answer.
    #[error("the peer does not answer")]
    Timeout,
    /// The peer does not speak IKE, and policy lets the traffic go in clear: a soft SA.
    #[error("no answer, so the traffic goes unprotected, as the policy allows")]
    Unprotected,
    /// No proposal in common.
    #[error("no proposal in common")]
    NoProposal,
    /// The key exchange failed: bad value, or no agreement on a group.
    #[error("key exchange failed")]
    KeyExchange,
    /// Authentication failed, at our side or at the peer's.
    #[error("authentication failed")]
    Authentication,
    /// No traffic in common.
    #[error("traffic selectors unacceptable")]
    Selectors,
    /// The peer sent what the protocol does not allow.
    #[error("protocol violation by the peer")]
    Misbehaved,
    /// The peer refused with the notify of this number.
    #[error("refused by the peer with notify {0}")]
    Refused(u16),
    /// The SAD refused an SPI or an SA.
    #[error("the dataplane refused the SA")]
    Dataplane,
    /// The peer deleted it.
    #[error("deleted by the peer")]
    DeletedByPeer,
    /// It was terminated here.
    #[error("terminated")]
    Terminated,
    /// Its lifetime ended.
    #[error("lifetime ended")]
    Expired,
    /// No virtual address from the peer.
    #[error("the peer gives no virtual address")]
    NoAddress,
    /// Another SA took its place.
    #[error("replaced")]
    Replaced,
    /// The configuration or the crypto library refused.
    #[error("local fault")]
    Local,
}

/// How a command ended well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// SAs that the command was about.
    pub matched: u32,
    /// The IKE SA made or used, where there is one.
    pub ike: Option<IkeId>,
    /// The Child SA made, where there is one.
    pub pair: Option<PairId>,
}

/// When an outbound SA begins to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activate {
    /// At once.
    Now,
    /// With the first authentic packet on the inbound half, or by [`Event::ActivateOutbound`], whichever is first;
    /// until then the SA that it replaces is used (design.md §2, "Rekey loses nothing").
    OnInboundTraffic,
    /// By [`Event::ActivateOutbound`] alone, also where there is no SA that it replaces: the peer's commit bit says so
    /// (RFC 2408 §3.1).
    WhenTold,
}

/// Names of a Child SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildName {
    /// The connection.
    pub connection: String,
    /// The child.
    pub child: String,
    /// The pair of SAs.
    pub pair: PairId,
    /// The IKE SA that made it.
    pub ike: IkeId,
}

/// How urgent a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something failed.
    Warn,
    /// A state changed.
    Info,
    /// For finding faults.
    Debug,
}

/// What the engine wants done or known, in this order.
#[derive(Debug)]
pub enum Event {
    /// Install an inbound SA and answer with [`Engine::handle_installed`](crate::Engine::handle_installed). The
    /// answer to the peer waits for it where we are the responder.
    InstallInbound {
        /// Its name until answered.
        id: InstallId,
        /// Whose it is.
        name: ChildName,
        /// The SA.
        sa: Box<SaParameters>,
        /// The pair that it replaces.
        replaces: Option<PairId>,
    },
    /// Install an outbound SA and answer; always after the inbound half of the pair.
    InstallOutbound {
        /// Its name until answered.
        id: InstallId,
        /// Whose it is.
        name: ChildName,
        /// The SA.
        sa: Box<SaParameters>,
        /// The pair that it replaces.
        replaces: Option<PairId>,
        /// From when on.
        activate: Activate,
    },
    /// Use the outbound half now.
    ActivateOutbound {
        /// Which.
        pair: PairId,
    },
    /// Stop using the outbound half (the peer no longer accepts it); the inbound half still receives.
    RemoveOutbound {
        /// Which.
        pair: PairId,
    },
    /// Remove both halves, as far as they are installed, and free the inbound SPI.
    RemovePair {
        /// Which.
        pair: PairId,
    },
    /// Both halves are installed.
    ChildUp {
        /// Whose.
        name: ChildName,
        /// What was agreed, possibly less than configured.
        selectors: Vec<Selector>,
        /// The pair that it replaces, in a rekey.
        replaces: Option<PairId>,
    },
    /// A Child SA ended. Not sent for a pair that a rekey replaced.
    ChildDown {
        /// Whose.
        name: ChildName,
        /// Why.
        reason: Failure,
        /// What the configuration asks to be done now: `close_action` or `dpd_action`.
        action: ChildAction,
    },
    /// An IKE SA is established.
    IkeUp {
        /// Which.
        ike: IkeId,
        /// Its connection.
        connection: String,
        /// The IKE SA whose children it took over, in a rekey.
        replaces: Option<IkeId>,
    },
    /// An IKE SA ended, established or not; its children have ended before. Not sent for one that a rekey replaced.
    IkeDown {
        /// Which.
        ike: IkeId,
        /// Its connection.
        connection: String,
        /// Why.
        reason: Failure,
    },
    /// The peer gave us an address, to be one of the host's while it is held.
    VirtualAddress {
        /// By which IKE SA; one that renews another holds the address too, before the other lets it go.
        ike: IkeId,
        /// The address.
        address: IpAddr,
        /// Whether it is held from now on, or no longer.
        held: bool,
    },
    /// A command ended.
    RequestDone {
        /// Which.
        request: RequestId,
        /// How.
        result: Result<Outcome, Failure>,
    },
    /// A soft SA was formed: the peer does not speak IKE, and the child's policy lets its traffic go in clear for
    /// [`Unprotected::lasts`](crate::config::Unprotected::lasts).
    Unprotected {
        /// The connection.
        connection: String,
        /// The child.
        child: String,
    },
    /// The peer's address or port, or our own port, changed: the SAs of these pairs follow.
    PeerMoved {
        /// Which.
        pairs: Vec<PairId>,
        /// The new path.
        path: Path,
        /// Whether ESP is encapsulated in UDP from now on.
        encap: bool,
    },
    /// For the log. Holds no secret.
    Log {
        /// How urgent.
        level: Level,
        /// What.
        text: String,
    },
}
