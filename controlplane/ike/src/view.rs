//! What can be seen of the SAs: the rows of VICI's `list-sas` and of the main mode and quick mode views.

use crate::config::Identity;
use crate::event::{IkeId, Path};
use core::time::Duration;
use ipsec::sa::{Mode, PairId, Protocol, Spi};
use ipsec::selector::Selector;

/// Where an IKE SA is in its life, in charon's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IkeState {
    /// Being negotiated.
    Connecting,
    /// In use.
    Established,
    /// A successor is being negotiated.
    Rekeying,
    /// A successor took over; waiting for the delete.
    Rekeyed,
    /// Being closed, or failed and remembered for its stored answer.
    Deleting,
}

impl IkeState {
    /// The word that VICI uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "CONNECTING",
            Self::Established => "ESTABLISHED",
            Self::Rekeying => "REKEYING",
            Self::Rekeyed => "REKEYED",
            Self::Deleting => "DELETING",
        }
    }
}

/// Where a Child SA is in its life, in charon's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildState {
    /// Its halves are being installed.
    Installing,
    /// In use.
    Installed,
    /// A successor is being negotiated.
    Rekeying,
    /// A successor took over.
    Rekeyed,
    /// Being deleted.
    Deleting,
    /// Deleted; the inbound half stays a little for packets on their way.
    Deleted,
}

impl ChildState {
    /// The word that VICI uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Installing => "INSTALLING",
            Self::Installed => "INSTALLED",
            Self::Rekeying => "REKEYING",
            Self::Rekeyed => "REKEYED",
            Self::Deleting => "DELETING",
            Self::Deleted => "DELETED",
        }
    }
}

/// Which side began the IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We did.
    Initiator,
    /// The peer did.
    Responder,
}

impl Role {
    /// The role of the side opposite.
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }
}

/// One IKE SA.
#[derive(Clone, Debug)]
pub struct IkeSaView {
    /// Its unique number.
    pub id: IkeId,
    /// The connection's name.
    pub connection: String,
    /// IKE version, 1 or 2.
    pub version: u8,
    /// Our role.
    pub role: Role,
    /// State.
    pub state: IkeState,
    /// Addresses and ports.
    pub path: Path,
    /// Our identity, once known.
    pub local_id: Option<Identity>,
    /// The peer's identity, once known.
    pub remote_id: Option<Identity>,
    /// Initiator's SPI.
    pub spi_i: u64,
    /// Responder's SPI, zero before it is known.
    pub spi_r: u64,
    /// Whether a NAT is before us.
    pub nat_local: bool,
    /// Whether a NAT is before the peer.
    pub nat_remote: bool,
    /// Virtual addresses that the peer gave us.
    pub local_vips: Vec<core::net::IpAddr>,
    /// Virtual addresses that the peer has of us.
    pub remote_vips: Vec<core::net::IpAddr>,
    /// Encryption: IANA number and key bits; `None` before it is agreed.
    pub suite: Option<crate::proposal::Chosen>,
    /// Since establishment.
    pub age: Option<Duration>,
    /// Until rekeying.
    pub rekey_in: Option<Duration>,
    /// Until reauthentication.
    pub reauth_in: Option<Duration>,
    /// Until it is given up.
    pub expires_in: Option<Duration>,
    /// Requests queued or under way.
    pub tasks: usize,
    /// Its Child SAs.
    pub children: Vec<ChildSaView>,
}

/// One Child SA. Packets and bytes are the dataplane's to know.
#[derive(Clone, Debug)]
pub struct ChildSaView {
    /// The pair; also its unique number.
    pub pair: PairId,
    /// The child's name.
    pub name: String,
    /// State.
    pub state: ChildState,
    /// Tunnel or transport.
    pub mode: Mode,
    /// ESP or AH.
    pub protocol: Protocol,
    /// Whether it travels in UDP.
    pub encap: bool,
    /// Our SPI.
    pub spi_in: Spi,
    /// The peer's SPI.
    pub spi_out: Spi,
    /// Algorithms.
    pub suite: crate::proposal::Chosen,
    /// What was agreed.
    pub selectors: Vec<Selector>,
    /// Since installation.
    pub age: Duration,
    /// Until rekeying.
    pub rekey_in: Option<Duration>,
    /// Until deletion.
    pub expires_in: Option<Duration>,
}
