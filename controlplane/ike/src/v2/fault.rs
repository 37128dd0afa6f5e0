//! What can go wrong in an exchange, by who is at fault, and what the peer is told.

use crate::crypto::CryptoFailure;
use crate::event::Failure;
use crate::message::{InvalidMessage, MessageTooLong, NotifyType};

/// Why an exchange fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The bytes are wrong.
    Invalid(InvalidMessage),
    /// The bytes are right, the content breaks the protocol.
    Misbehaved(Misbehaved),
    /// Both sides are right and cannot agree.
    Incompatible(Incompatible),
    /// The peer is not who it says, or says that we are not.
    Authentication,
    /// The peer answered with this error.
    Refused(NotifyType),
    /// We cannot.
    Local(Local),
}

/// Breaches of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misbehaved {
    /// A payload that the exchange needs is not there.
    Missing,
    /// An answer takes what was not offered.
    NotOffered,
    /// A key exchange value that no honest peer sends (RFC 6989).
    KeyValue,
    /// Traffic selectors outside what was offered.
    WiderSelectors,
}

/// Lack of common ground.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Incompatible {
    Proposal,
    Selectors,
    /// The group is not the one wanted.
    Group(u16),
    /// No virtual address for who asks for one.
    NoAddress,
    /// No virtual address is asked for where everybody has one.
    AddressNotAsked,
}

/// Faults at our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Local {
    /// The SAD gave no SPI or did not take the SA.
    Dataplane,
    /// The crypto library, or a message that does not fit.
    Library,
    /// Not now.
    Busy,
    /// No such Child SA.
    NoSuchChild,
}

impl Fault {
    /// The error that a responder answers with.
    pub(crate) const fn notify(self) -> Option<NotifyType> {
        match self {
            Self::Invalid(fault) => fault.notify(),
            Self::Misbehaved(_) => Some(NotifyType::InvalidSyntax),
            Self::Incompatible(Incompatible::Proposal) => Some(NotifyType::NoProposalChosen),
            Self::Incompatible(Incompatible::Selectors) => Some(NotifyType::TsUnacceptable),
            Self::Incompatible(Incompatible::Group(_)) => Some(NotifyType::InvalidKePayload),
            Self::Incompatible(Incompatible::NoAddress) => Some(NotifyType::InternalAddressFailure),
            Self::Incompatible(Incompatible::AddressNotAsked) => Some(NotifyType::FailedCpRequired),
            Self::Authentication => Some(NotifyType::AuthenticationFailed),
            Self::Refused(_) => None,
            Self::Local(Local::Dataplane) => Some(NotifyType::NoAdditionalSas),
            Self::Local(Local::Library | Local::Busy) => Some(NotifyType::TemporaryFailure),
            Self::Local(Local::NoSuchChild) => Some(NotifyType::ChildSaNotFound),
        }
    }

    /// The data of that error.
    pub(crate) fn notify_data(self) -> Vec<u8> {
        match self {
            Self::Invalid(InvalidMessage::UnsupportedCritical(payload)) => vec![payload],
            Self::Incompatible(Incompatible::Group(group)) => group.to_be_bytes().to_vec(),
            _ => Vec::new(),
        }
    }

    /// What our own side is told.
    pub(crate) const fn failure(self) -> Failure {
        match self {
            Self::Invalid(_) | Self::Misbehaved(Misbehaved::Missing | Misbehaved::NotOffered) => {
                Failure::Misbehaved
            }
            Self::Misbehaved(Misbehaved::KeyValue) | Self::Incompatible(Incompatible::Group(_)) => {
                Failure::KeyExchange
            }
            Self::Misbehaved(Misbehaved::WiderSelectors)
            | Self::Incompatible(Incompatible::Selectors)
            | Self::Refused(NotifyType::TsUnacceptable) => Failure::Selectors,
            Self::Incompatible(Incompatible::Proposal)
            | Self::Refused(NotifyType::NoProposalChosen) => Failure::NoProposal,
            Self::Incompatible(Incompatible::NoAddress | Incompatible::AddressNotAsked)
            | Self::Refused(NotifyType::InternalAddressFailure | NotifyType::FailedCpRequired) => {
                Failure::NoAddress
            }
            Self::Authentication | Self::Refused(NotifyType::AuthenticationFailed) => {
                Failure::Authentication
            }
            Self::Refused(other) => Failure::Refused(other.number()),
            Self::Local(Local::Dataplane) => Failure::Dataplane,
            Self::Local(Local::Library | Local::Busy | Local::NoSuchChild) => Failure::Local,
        }
    }
}

impl From<InvalidMessage> for Fault {
    fn from(fault: InvalidMessage) -> Self {
        Self::Invalid(fault)
    }
}

impl From<CryptoFailure> for Fault {
    fn from(_: CryptoFailure) -> Self {
        Self::Local(Local::Library)
    }
}

impl From<MessageTooLong> for Fault {
    fn from(_: MessageTooLong) -> Self {
        Self::Local(Local::Library)
    }
}

impl From<crate::event::SpiRefused> for Fault {
    fn from(_: crate::event::SpiRefused) -> Self {
        Self::Local(Local::Dataplane)
    }
}
