//! Offers on the wire and the choice between them (RFC 7296 §2.7, §3.3).

use super::{Chosen, Encryption, Proposal, ProposalProtocol};
use crate::message::v2::{self, KeyLength, ProposalView, SaView, Transform, TransformId};
use crate::message::{EncryptionId, IntegrityId, KeMethod, PrfId, ProtocolId, SequenceNumbers};

/// Whether a negotiation has a key exchange of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyExchangeUse {
    /// As the proposals say.
    Offered,
    /// A child inside IKE_AUTH: keys come from the IKE SA's exchange, group transforms do not count (RFC 7296 §1.2).
    None,
}

/// What was taken of an offer.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// The number of the offered proposal, which the answer repeats.
    pub(crate) number: u8,
    /// The sender's SPI in it.
    pub(crate) spi: Vec<u8>,
    /// One of each.
    pub(crate) chosen: Chosen,
}

/// The responder's choice: the first of our proposals that meets one of theirs. Within it our order decides, except that
/// `prefer`, the group of a KE payload that is there already, goes first if both sides allow it.
pub(crate) fn choose(
    ours: &[Proposal],
    offer: &SaView<'_>,
    ke: KeyExchangeUse,
    prefer: Option<u16>,
) -> Option<Selection> {
    ours.iter().find_map(|our| {
        offer.proposals().find_map(|view| {
            let their = Offer::read(&view)?;
            let chosen = their.meet(our, ke, prefer)?;
            Some(Selection { number: view.number, spi: view.spi.to_vec(), chosen })
        })
    })
}

/// The initiator's check of an answer: exactly one proposal, one transform of each type, and nothing that was not
/// offered in the proposal of that number.
pub(crate) fn accepted(
    ours: &[Proposal],
    answer: &SaView<'_>,
    ke: KeyExchangeUse,
) -> Option<Selection> {
    let mut views = answer.proposals();
    let (view, None) = (views.next()?, views.next()) else { return None };
    let their = Offer::read(&view)?;
    let single = their.encryption.len() <= 1
        && their.integrity.len() <= 1
        && their.prf.len() <= 1
        && their.groups.len() <= 1
        && their.esn.len() <= 1;
    let our = ours.get(usize::from(view.number).checked_sub(1)?)?;
    let chosen = their.meet(our, ke, None)?;
    single.then(|| Selection { number: view.number, spi: view.spi.to_vec(), chosen })
}

/// Our proposals as an offer, numbered from one.
pub(crate) fn to_wire(ours: &[Proposal], spi: &[u8], ke: KeyExchangeUse) -> Vec<v2::Proposal> {
    ours.iter()
        .zip(1u8..)
        .map(|(our, number)| {
            let groups = our.groups.iter().filter(|_| ke == KeyExchangeUse::Offered);
            let transforms = our
                .encryption
                .iter()
                .map(|e| encryption(*e))
                .chain(our.prf.iter().map(|id| Transform::prf(PrfId::from_number(*id))))
                .chain(our.integrity.iter().map(|id| integrity(*id)))
                .chain(groups.map(|id| Transform::key_exchange(KeMethod::from_number(*id))))
                .chain(our.esn.iter().map(|esn| sequence_numbers(*esn)))
                .collect();
            let protocol = protocol_id(our.protocol);
            v2::Proposal { number, protocol, spi: spi.to_vec(), transforms }
        })
        .collect()
}

/// The answer to an offer.
pub(crate) fn answer(chosen: &Chosen, number: u8, spi: &[u8]) -> v2::Proposal {
    let esn = (chosen.protocol != ProposalProtocol::Ike).then_some(chosen.esn);
    let transforms = chosen
        .encryption
        .into_iter()
        .map(encryption)
        .chain(chosen.prf.map(|id| Transform::prf(PrfId::from_number(id))))
        .chain(chosen.integrity.map(integrity))
        .chain(chosen.group.map(|id| Transform::key_exchange(KeMethod::from_number(id))))
        .chain(esn.map(sequence_numbers))
        .collect();
    let protocol = protocol_id(chosen.protocol);
    v2::Proposal { number, protocol, spi: spi.to_vec(), transforms }
}

pub(crate) const fn protocol_id(protocol: ProposalProtocol) -> ProtocolId {
    match protocol {
        ProposalProtocol::Ah => ProtocolId::Ah,
        ProposalProtocol::Esp => ProtocolId::Esp,
        ProposalProtocol::Ike => ProtocolId::Ike,
    }
}

fn encryption(e: Encryption) -> Transform {
    let id = EncryptionId::from_number(e.id);
    let has_length = TransformId::Encryption(id).key_length() == KeyLength::Required;
    Transform::encryption(id, has_length.then_some(e.key_bits))
}

fn integrity(id: u16) -> Transform {
    Transform::integrity(IntegrityId::from_number(id))
}

fn sequence_numbers(esn: bool) -> Transform {
    Transform::sequence_numbers(if esn {
        SequenceNumbers::Extended
    } else {
        SequenceNumbers::Short
    })
}

/// A received proposal: its transforms that are understood.
struct Offer {
    protocol: ProposalProtocol,
    encryption: Vec<Encryption>,
    integrity: Vec<u16>,
    prf: Vec<u16>,
    groups: Vec<u16>,
    esn: Vec<bool>,
}

impl Offer {
    /// `None` for a protocol we do not speak, or when a transform type is there that we cannot answer
    /// (RFC 7296 §3.3.6: then the whole proposal is unacceptable).
    fn read(view: &ProposalView<'_>) -> Option<Self> {
        let protocol = match view.protocol {
            ProtocolId::Ike => ProposalProtocol::Ike,
            ProtocolId::Esp => ProposalProtocol::Esp,
            ProtocolId::Ah => ProposalProtocol::Ah,
            _ => return None,
        };
        let mut offer = Self {
            protocol,
            encryption: Vec::new(),
            integrity: Vec::new(),
            prf: Vec::new(),
            groups: Vec::new(),
            esn: Vec::new(),
        };
        // An additional key exchange (RFC 9370) that is not optional cannot be met.
        let optional = view
            .transforms()
            .filter(|t| matches!(t.kind, 6..=12))
            .all(|t| view.transforms().any(|other| other.kind == t.kind && other.id == 0));
        if !optional {
            return None;
        }
        for transform in view.transforms() {
            if !matches!(transform.kind, 1..=12) {
                return None;
            }
            let Some(understood) = transform.understood() else { continue };
            match understood.id {
                TransformId::Encryption(id) => offer.encryption.push(Encryption {
                    id: id.number(),
                    key_bits: understood.key_length.unwrap_or(0),
                }),
                TransformId::Prf(id) => offer.prf.push(id.number()),
                TransformId::Integrity(id) => offer.integrity.push(id.number()),
                TransformId::KeyExchange(id) => offer.groups.push(id.number()),
                TransformId::SequenceNumbers(SequenceNumbers::Short) => offer.esn.push(false),
                TransformId::SequenceNumbers(SequenceNumbers::Extended) => offer.esn.push(true),
                TransformId::SequenceNumbers(SequenceNumbers::Unknown(_))
                | TransformId::AdditionalKeyExchange(..)
                | TransformId::Unknown { .. } => {}
            }
        }
        Some(offer)
    }

    fn meet(&self, our: &Proposal, ke: KeyExchangeUse, prefer: Option<u16>) -> Option<Chosen> {
        if self.protocol != our.protocol {
            return None;
        }
        let encryption = match our.protocol {
            ProposalProtocol::Ah => None,
            ProposalProtocol::Esp | ProposalProtocol::Ike => {
                Some(first_common(&our.encryption, &self.encryption)?)
            }
        };
        let integrity = if encryption.is_some_and(Encryption::is_combined) {
            // RFC 5282 §8: with a combined mode either no integrity transform or NONE.
            if !self.integrity.is_empty() && !self.integrity.contains(&0) {
                return None;
            }
            None
        } else {
            Some(first_common(&our.integrity, &self.integrity)?)
        };
        let prf = match our.protocol {
            ProposalProtocol::Ike => Some(first_common(&our.prf, &self.prf)?),
            ProposalProtocol::Ah | ProposalProtocol::Esp => None,
        };
        let group = match ke {
            KeyExchangeUse::None => None,
            KeyExchangeUse::Offered if our.groups.is_empty() => {
                let optional = self.groups.is_empty() || self.groups.contains(&0);
                if !optional {
                    return None;
                }
                None
            }
            KeyExchangeUse::Offered => {
                let preferred = prefer
                    .filter(|group| our.groups.contains(group) && self.groups.contains(group));
                Some(preferred.or_else(|| first_common(&our.groups, &self.groups))?)
            }
        };
        let esn = match our.protocol {
            ProposalProtocol::Ike => false,
            // A peer that names no length means 32 bits.
            ProposalProtocol::Ah | ProposalProtocol::Esp if self.esn.is_empty() => {
                our.esn.contains(&false).then_some(false)?
            }
            ProposalProtocol::Ah | ProposalProtocol::Esp => first_common(&our.esn, &self.esn)?,
        };
        Some(Chosen { protocol: our.protocol, encryption, integrity, prf, group, esn })
    }
}

fn first_common<T: Copy + PartialEq>(ours: &[T], theirs: &[T]) -> Option<T> {
    ours.iter().copied().find(|our| theirs.contains(our))
}
