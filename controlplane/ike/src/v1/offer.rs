//! What quick mode offers and chooses (RFC 2407 §4.4.3, §4.4.4, §4.5, RFC 3947 §5.1, RFC 4304 §2.1).

use super::suite::Life;
use super::vendor::NatT;
use crate::message::v1::{
    Attribute, IpsecAttributeType, NatOriginalAddress, Proposal as WireProposal, ProposalView,
    SaView, Transform, TransformView,
};
use crate::message::{Emit, PayloadList, ProtocolId};
use crate::proposal::{Chosen, Encryption, Proposal, ProposalProtocol};
use core::net::IpAddr;
use ipsec::sa::{Mode, Spi};

/// Transforms of one proposal of ours; see `suite::MAX_OFFERED`.
const MAX_OFFERED: usize = 100;

/// What quick mode settles besides algorithms, the same in every transform of an offer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) mode: Mode,
    /// How ESP travels in UDP, if it does.
    pub(crate) encap: Option<NatT>,
    /// The group of the KE payload.
    pub(crate) group: Option<u16>,
}

impl Terms {
    /// The encapsulation mode attribute.
    const fn mode_number(&self) -> u16 {
        match (self.mode, self.encap) {
            (Mode::Tunnel, None) => 1,
            (Mode::Transport, None) => 2,
            (Mode::Tunnel, Some(NatT::Rfc)) => 3,
            (Mode::Transport, Some(NatT::Rfc)) => 4,
            (Mode::Tunnel, Some(NatT::Draft(_))) => 61_443,
            (Mode::Transport, Some(NatT::Draft(_))) => 61_444,
        }
    }

    /// Transport mode in UDP: both addresses as the sender sees them, the initiator's first (RFC 3947 §5.2). The checksums
    /// that a NAT spoils need nothing of it here: they are computed anew (RFC 3948 §3.1.2).
    pub(crate) fn push_original(
        &self,
        list: &mut PayloadList,
        initiator: IpAddr,
        responder: IpAddr,
    ) {
        if let (Mode::Transport, Some(nat_t)) = (self.mode, self.encap) {
            for address in [initiator, responder] {
                let body = NatOriginalAddress { address }.body();
                list.push_raw(nat_t.original_address().number(), false, &body);
            }
        }
    }
}

/// What was chosen of an offer.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    /// The sender's SPI.
    pub(crate) spi: Spi,
    pub(crate) chosen: Chosen,
    pub(crate) life: Life,
    number: u8,
    transform: Transform,
}

impl Choice {
    /// The answer: the transform as it was offered, with our SPI (RFC 2408 §4.2).
    pub(crate) fn answer(&self, spi: Spi) -> WireProposal {
        WireProposal {
            number: self.number,
            protocol: protocol_id(self.chosen.protocol),
            spi: spi.get().to_be_bytes().to_vec(),
            transforms: vec![self.transform.clone()],
        }
    }
}

pub(crate) const fn protocol_id(protocol: ProposalProtocol) -> ProtocolId {
    match protocol {
        ProposalProtocol::Ah => ProtocolId::Ah,
        ProposalProtocol::Esp => ProtocolId::Esp,
        ProposalProtocol::Ike => ProtocolId::Ike,
    }
}

/// ESP transform identifiers (RFC 2407 §4.4.4 and IANA's): ours are IKEv2's numbers, the same but for GMAC.
const fn esp_id(encryption: Encryption) -> Option<u8> {
    match encryption.id {
        id @ (3 | 11..=16 | 18..=20) => Some(id as u8),
        21 => Some(23),
        _ => None,
    }
}

const fn encryption_of(id: u8, key_bits: u16) -> Option<Encryption> {
    let id = match id {
        id @ (3 | 11..=16 | 18..=20) => id as u16,
        23 => 21,
        _ => return None,
    };
    Some(Encryption { id, key_bits })
}

/// Authentication algorithms (RFC 2407 §4.5, RFC 4868 §4, RFC 3566): attribute value.
const fn integrity_number(integrity: u16) -> Option<u16> {
    Some(match integrity {
        1 => 1,
        2 => 2,
        5 => 9,
        12 => 5,
        13 => 6,
        14 => 7,
        _ => return None,
    })
}

const fn integrity_of(number: u16) -> Option<u16> {
    Some(match number {
        1 => 1,
        2 => 2,
        5 => 12,
        6 => 13,
        7 => 14,
        9 => 5,
        _ => return None,
    })
}

/// AH transform identifiers (RFC 2407 §4.4.3): the attribute's numbers, but MD5 and SHA count from two.
const fn ah_id(number: u16) -> u8 {
    match number {
        1 => 2,
        2 => 3,
        other => other as u8,
    }
}

/// The group that an offer of these proposals has: all transforms of a quick mode share one KE payload
/// (RFC 2409 §5.5), so what has another group is left out.
pub(crate) fn group_of(proposals: &[Proposal]) -> Option<u16> {
    proposals.first().and_then(|p| p.groups.first()).copied()
}

/// Our offer. Empty when nothing of the proposals can be said in IKEv1.
pub(crate) fn offer(
    proposals: &[Proposal],
    spi: Spi,
    terms: Terms,
    life: Life,
) -> Vec<WireProposal> {
    proposals
        .iter()
        .filter(|p| match terms.group {
            Some(group) => p.groups.contains(&group),
            None => p.groups.is_empty(),
        })
        .map(|p| transforms(p, terms, life))
        .filter(|(_, transforms)| !transforms.is_empty())
        .zip(1u8..)
        .map(|((protocol, transforms), number)| WireProposal {
            number,
            protocol: protocol_id(protocol),
            spi: spi.get().to_be_bytes().to_vec(),
            transforms,
        })
        .collect()
}

/// Whether a proposal for ESP or AH has a transform that IKEv1 has numbers for.
pub(crate) fn is_sayable(proposal: &Proposal) -> bool {
    let terms = Terms { mode: Mode::Tunnel, encap: None, group: None };
    !transforms(proposal, terms, Life::default()).1.is_empty()
}

fn transforms(proposal: &Proposal, terms: Terms, life: Life) -> (ProposalProtocol, Vec<Transform>) {
    let ciphers: Vec<Option<Encryption>> = match proposal.protocol {
        ProposalProtocol::Ah => vec![None],
        ProposalProtocol::Esp | ProposalProtocol::Ike => {
            proposal.encryption.iter().copied().map(Some).collect()
        }
    };
    let integrities: Vec<Option<u16>> = if proposal.integrity.is_empty() {
        vec![None]
    } else {
        proposal.integrity.iter().copied().map(Some).collect()
    };
    let mut all = Vec::new();
    for cipher in &ciphers {
        for integrity in &integrities {
            for esn in &proposal.esn {
                let number = u8::try_from(all.len().saturating_add(1)).unwrap_or(u8::MAX);
                let made = transform(number, *cipher, *integrity, *esn, terms, life);
                all.extend(made.filter(|_| usize::from(number) <= MAX_OFFERED));
            }
        }
    }
    (proposal.protocol, all)
}

fn transform(
    number: u8,
    cipher: Option<Encryption>,
    integrity: Option<u16>,
    esn: bool,
    terms: Terms,
    life: Life,
) -> Option<Transform> {
    let integrity = match integrity {
        Some(id) => Some(integrity_number(id)?),
        None => None,
    };
    let id = match (cipher, integrity) {
        (Some(cipher), _) => esp_id(cipher)?,
        (None, Some(integrity)) => ah_id(integrity),
        (None, None) => return None,
    };
    let mut attributes = Vec::new();
    let mut basic = |kind: IpsecAttributeType, value| {
        Attribute::basic(kind.number(), value).emit(&mut attributes);
    };
    basic(IpsecAttributeType::EncapsulationMode, terms.mode_number());
    if let Some(integrity) = integrity {
        basic(IpsecAttributeType::AuthenticationAlgorithm, integrity);
    }
    if let Some(bits) = cipher.map(|c| c.key_bits).filter(|bits| *bits != 0) {
        basic(IpsecAttributeType::KeyLength, bits);
    }
    if let Some(group) = terms.group {
        basic(IpsecAttributeType::GroupDescription, group);
    }
    if esn {
        basic(IpsecAttributeType::ExtendedSequenceNumber, 1);
    }
    let (kind, duration) = (IpsecAttributeType::LifeType, IpsecAttributeType::LifeDuration);
    life.emit(kind.number(), duration.number(), &mut attributes);
    Some(Transform { number, id, attributes })
}

/// The responder's choice: the first of our proposals that meets a transform of theirs. `terms` come from our side but
/// for the group, which is the transform's.
pub(crate) fn choose(ours: &[Proposal], offer: &SaView<'_>, terms: Terms) -> Option<Choice> {
    ours.iter().find_map(|our| {
        offer.proposals().find_map(|view| {
            // Protocols under one number are to be taken together (RFC 2408 §4.2), which no child here is.
            let alone = offer.proposals().filter(|other| other.number == view.number).count() == 1;
            view.transforms().filter(|_| alone).find_map(|t| meet(our, &view, &t, terms))
        })
    })
}

/// The initiator's check of an answer: one proposal with one transform, which is one of ours.
pub(crate) fn accepted(ours: &[Proposal], answer: &SaView<'_>, terms: Terms) -> Option<Choice> {
    let mut views = answer.proposals();
    let (view, None) = (views.next()?, views.next()) else { return None };
    let mut transforms = view.transforms();
    let (_, None) = (transforms.next()?, transforms.next()) else { return None };
    choose(ours, answer, terms).filter(|choice| choice.chosen.group == terms.group)
}

fn meet(
    our: &Proposal,
    view: &ProposalView<'_>,
    transform: &TransformView<'_>,
    terms: Terms,
) -> Option<Choice> {
    if view.protocol != protocol_id(our.protocol) {
        return None;
    }
    let octets: [u8; 4] = view.spi.try_into().ok()?;
    // RFC 4303 §2.1: 0 to 255 are not given out.
    let spi = Spi::new(u32::from_be_bytes(octets))?;
    let theirs = read(transform)?;
    let integrity = match theirs.integrity {
        Some(number) => Some(integrity_of(number)?),
        None => None,
    };
    let encryption = match our.protocol {
        ProposalProtocol::Esp => {
            let encryption = encryption_of(transform.id, theirs.key_bits)?;
            our.encryption.contains(&encryption).then_some(())?;
            Some(encryption)
        }
        ProposalProtocol::Ah => {
            (theirs.integrity.map(ah_id) == Some(transform.id)).then_some(())?;
            None
        }
        ProposalProtocol::Ike => return None,
    };
    match integrity {
        Some(id) => our.integrity.contains(&id).then_some(())?,
        // Nothing without integrity: NULL and plain ciphers name an algorithm, combined modes have their own.
        None => encryption.is_some_and(Encryption::is_combined).then_some(())?,
    }
    let group = match theirs.group {
        Some(group) => our.groups.contains(&group),
        None => our.groups.is_empty(),
    };
    let mode = theirs.mode.is_none_or(|mode| mode == terms.mode_number());
    (group && mode && our.esn.contains(&theirs.esn)).then_some(())?;
    Some(Choice {
        spi,
        chosen: Chosen {
            protocol: our.protocol,
            encryption,
            integrity,
            prf: None,
            group: theirs.group,
            esn: theirs.esn,
        },
        life: theirs.life,
        number: view.number,
        transform: Transform {
            number: transform.number,
            id: transform.id,
            attributes: transform.attributes.bytes().to_vec(),
        },
    })
}

/// What a transform of the peer says.
#[derive(Default)]
struct Offered {
    mode: Option<u16>,
    integrity: Option<u16>,
    key_bits: u16,
    group: Option<u16>,
    esn: bool,
    life: Life,
}

/// `None` for a transform with an attribute that we do not know: then its meaning is not ours to guess.
fn read(transform: &TransformView<'_>) -> Option<Offered> {
    let mut offered = Offered::default();
    let mut life_type = None;
    for attribute in transform.attributes.iter() {
        let number = attribute.value.number()?;
        let short = || u16::try_from(number).ok();
        match IpsecAttributeType::from_number(attribute.kind) {
            IpsecAttributeType::LifeType => life_type = Some(short()?),
            IpsecAttributeType::LifeDuration => offered.life.add(life_type.take()?, number)?,
            IpsecAttributeType::GroupDescription => {
                offered.group = Some(short()?).filter(|group| *group != 0);
            }
            IpsecAttributeType::EncapsulationMode => offered.mode = Some(short()?),
            IpsecAttributeType::AuthenticationAlgorithm => offered.integrity = Some(short()?),
            IpsecAttributeType::KeyLength => offered.key_bits = short()?,
            IpsecAttributeType::ExtendedSequenceNumber => offered.esn = number == 1,
            IpsecAttributeType::KeyRounds | IpsecAttributeType::Unknown(_) => return None,
        }
    }
    Some(offered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Emit;
    use crate::message::v1::SaPayload;
    use core::time::Duration;

    const TUNNEL: Terms = Terms { mode: Mode::Tunnel, encap: None, group: None };

    fn proposals(text: &str) -> Vec<Proposal> {
        Proposal::parse_list(ProposalProtocol::Esp, text).unwrap().proposals
    }

    fn spi() -> Spi {
        Spi::new(0x1234_5678).unwrap()
    }

    fn body(proposals: &[WireProposal]) -> Vec<u8> {
        SaPayload { proposals }.body()
    }

    #[test]
    fn what_is_offered_is_understood() {
        for (text, modes) in [
            ("aes128-sha256", 1),
            ("aes256-sha512-modp2048", 1),
            ("aes128gcm16-esn-noesn", 2),
            ("null-sha1", 1),
            ("aes128gmac", 1),
            ("aes128ctr-aesxcbc", 1),
        ] {
            let ours = proposals(text);
            for encap in [None, Some(NatT::Rfc), Some(NatT::Draft([0; 16]))] {
                for mode in [Mode::Tunnel, Mode::Transport] {
                    let terms = Terms { mode, encap, group: group_of(&ours) };
                    let life = Life { time: Some(Duration::from_secs(3600)), kilobytes: Some(9) };
                    let wire = offer(&ours, spi(), terms, life);
                    assert_eq!(wire[0].transforms.len(), modes, "{text}");
                    let body = body(&wire);
                    let view = SaView::parse(&body).unwrap();
                    let choice = choose(&ours, &view, terms).expect(text);
                    assert_eq!(choice.spi, spi());
                    assert_eq!(choice.life, life);
                    assert_eq!(choice.chosen.encryption, Some(ours[0].encryption[0]));
                    let other = Terms { encap: Some(NatT::Draft([1; 16])), ..terms };
                    let fits = encap.is_some_and(|e| e != NatT::Rfc);
                    assert_eq!(choose(&ours, &view, other).is_some(), fits, "{text} {encap:?}");
                }
            }
        }
    }

    #[test]
    fn ah_names_its_algorithm_twice() {
        let ours = Proposal::parse_list(ProposalProtocol::Ah, "sha256-sha1").unwrap().proposals;
        let mut wire = offer(&ours, spi(), TUNNEL, Life::default());
        assert_eq!(wire[0].transforms.iter().map(|t| t.id).collect::<Vec<_>>(), [5, 3]);
        let bytes = body(&wire);
        assert!(choose(&ours, &SaView::parse(&bytes).unwrap(), TUNNEL).is_some());
        wire[0].transforms.truncate(1);
        wire[0].transforms[0].id = 6;
        let bytes = body(&wire);
        assert!(choose(&ours, &SaView::parse(&bytes).unwrap(), TUNNEL).is_none());
    }

    #[test]
    fn all_transforms_have_the_group_of_the_first_proposal() {
        let ours = proposals("aes128-sha256-modp2048,aes128-sha256-ecp256,aes256-sha256-modp2048");
        let terms = Terms { group: group_of(&ours), ..TUNNEL };
        let wire = offer(&ours, spi(), terms, Life::default());
        assert_eq!(wire.iter().map(|p| p.number).collect::<Vec<_>>(), [1, 2]);
        let bytes = body(&wire);
        let view = SaView::parse(&bytes).unwrap();
        assert!(choose(&proposals("aes128-sha256"), &view, TUNNEL).is_none());
        assert!(choose(&proposals("aes128-sha256-ecp256"), &view, TUNNEL).is_none());
    }

    /// RFC 2408 §4.2: what has one number is one choice, of both protocols; neither is taken alone, in an offer or in an answer.
    #[test]
    fn a_bundle_is_nobodys_choice() {
        let esp = offer(&proposals("aes128-sha256"), spi(), TUNNEL, Life::default()).remove(0);
        let of_ah = Proposal::parse_list(ProposalProtocol::Ah, "sha256").unwrap().proposals;
        let ah = offer(&of_ah, spi(), TUNNEL, Life::default()).remove(0);
        let chosen = |ours: &[Proposal], wire: &[WireProposal]| {
            let bytes = body(wire);
            let view = SaView::parse(&bytes).unwrap();
            [choose(ours, &view, TUNNEL), accepted(ours, &view, TUNNEL)]
                .map(|c| c.map(|c| c.number))
        };
        for ours in [proposals("aes128-sha256"), of_ah] {
            assert_eq!(chosen(&ours, &[esp.clone(), ah.clone()]), [None, None]);
            assert_eq!(chosen(&ours, &[ah.clone(), esp.clone()]), [None, None]);
        }
        let other = WireProposal { number: 2, ..esp.clone() };
        let ours = proposals("aes128-sha256");
        assert_eq!(chosen(&ours, &[ah, esp.clone(), other]), [Some(2), None]);
        assert_eq!(chosen(&ours, &[esp]), [Some(1), Some(1)]);
    }

    /// attacks.json ike1-quick-zero-keymat: what would end in an SA without keys is nobody's choice.
    #[test]
    fn ike1_quick_zero_keymat() {
        let ours = proposals("null-sha1,aes128gmac,aes128-sha256");
        let transform = |id, attributes: &[(IpsecAttributeType, u16)]| {
            let mut octets = Vec::new();
            for (kind, value) in attributes {
                Attribute::basic(kind.number(), *value).emit(&mut octets);
            }
            Transform { number: 1, id, attributes: octets }
        };
        let tunnel = (IpsecAttributeType::EncapsulationMode, 1);
        for transform in [
            // NULL without integrity.
            transform(11, &[tunnel]),
            // GMAC and AES without a key length.
            transform(23, &[tunnel]),
            transform(12, &[tunnel, (IpsecAttributeType::AuthenticationAlgorithm, 5)]),
            // GMAC with a key of no bits.
            transform(23, &[tunnel, (IpsecAttributeType::KeyLength, 0)]),
        ] {
            let spi = spi().get().to_be_bytes().to_vec();
            let transforms = vec![transform];
            let bytes =
                body(&[WireProposal { number: 1, protocol: ProtocolId::Esp, spi, transforms }]);
            assert!(choose(&ours, &SaView::parse(&bytes).unwrap(), TUNNEL).is_none());
        }
    }
}
