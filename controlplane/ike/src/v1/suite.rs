//! What main mode offers and chooses (RFC 2409 §4, §5 and appendix A).
//!
//! A proposal of the configuration lists algorithms by kind, as IKEv2 sends them; IKEv1 sends whole suites, so that one
//! proposal becomes a transform for each combination. The hash is the integrity algorithm's, and makes the prf too.

use crate::crypto::v1::{Iv, V1Hash};
use crate::message::ProtocolId;
use crate::message::v1::{
    Attribute, AttributeType, AttributeValue, Proposal as WireProposal, SaView, Transform,
    TransformView,
};
use crate::proposal::{Chosen, Encryption, Proposal, ProposalProtocol};
use crate::view::Role;
use core::time::Duration;
use keyexchange::Group;

/// Transforms of an offer of ours. A peer's parser may be as careful as ours, which takes 128; the default proposal
/// alone would make 135.
const MAX_OFFERED: usize = 100;

/// The one transform identifier of phase 1 (RFC 2407 §4.4.2).
const KEY_IKE: u8 = 1;

/// What encrypts phase 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cipher {
    /// RFC 3602.
    AesCbc,
    /// RFC 2451: legacy.
    TripleDesCbc,
}

impl Cipher {
    const fn of(encryption: Encryption) -> Option<Self> {
        match encryption.id {
            3 => Some(Self::TripleDesCbc),
            12 => Some(Self::AesCbc),
            _ => None,
        }
    }

    /// Encryption algorithm numbers of RFC 2409 appendix A, RFC 3602 §5.
    const fn number(self) -> u16 {
        match self {
            Self::TripleDesCbc => 5,
            Self::AesCbc => 7,
        }
    }

    const fn block_len(self) -> usize {
        match self {
            Self::TripleDesCbc => 8,
            Self::AesCbc => 16,
        }
    }
}

/// Life type: seconds.
pub(super) const SECONDS: u16 = 1;
/// Life type: kilobytes.
pub(super) const KILOBYTES: u16 = 2;

/// Authentication methods of RFC 2409 appendix A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// A preshared key.
    Psk,
    /// RSA signatures.
    Rsa,
    /// ECDSA with SHA-256 on P-256 (RFC 4754).
    Ecdsa256,
    /// ECDSA with SHA-384 on P-384.
    Ecdsa384,
    /// ECDSA with SHA-512 on P-521.
    Ecdsa521,
    /// GSS-API with Kerberos (draft-ietf-ipsec-isakmp-gss-auth-07 §3.3.1).
    Kerberos,
    /// A preshared key, and XAUTH of the side with this role behind it (draft-ietf-ipsec-isakmp-xauth-06 §7).
    XauthPsk(Role),
    /// RSA signatures, and XAUTH of the side with this role behind them.
    XauthRsa(Role),
    /// An RSA signature of one side, and XAUTH of the other, the one with this role, which proves nothing else
    /// (draft-ietf-ipsec-isakmp-hybrid-auth-05 §3.2.1).
    HybridRsa(Role),
}

impl Method {
    /// Whether a preshared key proves both.
    pub(crate) const fn is_psk(self) -> bool {
        matches!(self, Self::Psk | Self::XauthPsk(_))
    }

    /// Whether the side with this role signs; otherwise it sends a HASH.
    pub(crate) fn signs(self, side: Role) -> bool {
        match self {
            Self::Psk | Self::XauthPsk(_) | Self::Kerberos => false,
            Self::Rsa | Self::Ecdsa256 | Self::Ecdsa384 | Self::Ecdsa521 | Self::XauthRsa(_) => {
                true
            }
            Self::HybridRsa(user) => user != side,
        }
    }

    /// The method with XAUTH of the side with this role behind it, if there is one: none was ever given a number for ECDSA
    /// or GSS-API.
    pub(crate) const fn with_xauth(self, user: Role) -> Option<Self> {
        match self {
            Self::Psk => Some(Self::XauthPsk(user)),
            Self::Rsa => Some(Self::XauthRsa(user)),
            _ => None,
        }
    }

    const fn number(self) -> u16 {
        match self {
            Self::Psk => 1,
            Self::Rsa => 3,
            Self::Ecdsa256 => 9,
            Self::Ecdsa384 => 10,
            Self::Ecdsa521 => 11,
            Self::XauthPsk(Role::Initiator) | Self::Kerberos => 65_001,
            Self::XauthPsk(Role::Responder) => 65_002,
            Self::XauthRsa(Role::Initiator) => 65_005,
            Self::XauthRsa(Role::Responder) => 65_006,
            Self::HybridRsa(Role::Initiator) => 64_221,
            Self::HybridRsa(Role::Responder) => 64_222,
        }
    }
}

/// One phase 1 suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suite {
    pub(crate) encryption: Encryption,
    pub(crate) cipher: Cipher,
    /// The integrity transform (IKEv2 numbers) whose hash it is.
    integrity: u16,
    pub(crate) hash: V1Hash,
    pub(crate) group: Group,
    pub(crate) method: Method,
}

impl Suite {
    /// The vector of the first encrypted message (RFC 2409 appendix B).
    pub(crate) fn first_iv(&self, public_i: &[u8], public_r: &[u8]) -> Iv {
        Iv::phase1(self.hash, self.cipher.block_len(), public_i, public_r)
    }

    /// Its key length attribute: none where the cipher has one length only.
    fn key_bits(&self) -> Option<u16> {
        Some(self.encryption.key_bits).filter(|bits| *bits != 0)
    }

    /// As the views show it.
    pub(crate) fn chosen(&self) -> Chosen {
        Chosen {
            protocol: ProposalProtocol::Ike,
            encryption: Some(self.encryption),
            integrity: Some(self.integrity),
            prf: Some(self.hash.prf().id().number()),
            group: Some(self.group.number()),
            esn: false,
        }
    }
}

/// What was chosen of an offer.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) suite: Suite,
    /// The proposal that says so, its transform as it was offered (RFC 2408 §4.2).
    pub(crate) answer: WireProposal,
    pub(crate) life: Life,
}

/// A lifetime of an offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Life {
    /// `None` where the offer names none.
    pub(crate) time: Option<Duration>,
    /// Kilobytes of 1024 octets; `None` where the offer names none.
    pub(crate) kilobytes: Option<u64>,
}

impl Life {
    /// Takes a life duration of a life type. Zero and what no clock can say is no limit.
    pub(super) fn add(&mut self, kind: u16, duration: u64) -> Option<()> {
        let value = (duration != 0).then_some(duration);
        match kind {
            SECONDS => self.time = value.map(Duration::from_secs),
            KILOBYTES => self.kilobytes = value,
            _ => return None,
        }
        Some(())
    }

    /// The attributes that say it, with the attribute numbers of the phase.
    pub(super) fn emit(&self, life_type: u16, life_duration: u16, out: &mut Vec<u8>) {
        let seconds = self.time.map(|time| (SECONDS, time.as_secs().max(1)));
        let kilobytes = self.kilobytes.map(|kb| (KILOBYTES, kb.max(1)));
        for (kind, value) in seconds.into_iter().chain(kilobytes) {
            Attribute::basic(life_type, kind).emit(out);
            // Four octets, as every implementation reads them.
            let octets = u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes();
            let value = AttributeValue::Variable(&octets);
            Attribute { kind: life_duration, value }.emit(out);
        }
    }
}

const fn hash_of(integrity: u16) -> Option<V1Hash> {
    Some(match integrity {
        1 => V1Hash::Md5,
        2 => V1Hash::Sha1,
        12 => V1Hash::Sha2_256,
        13 => V1Hash::Sha2_384,
        14 => V1Hash::Sha2_512,
        _ => return None,
    })
}

const fn hash_number(hash: V1Hash) -> u16 {
    match hash {
        V1Hash::Md5 => 1,
        V1Hash::Sha1 => 2,
        V1Hash::Sha2_256 => 4,
        V1Hash::Sha2_384 => 5,
        V1Hash::Sha2_512 => 6,
    }
}

/// Whether a proposal has a phase 1 suite at all; combined modes have none in IKEv1.
pub(crate) fn usable(proposal: &Proposal) -> bool {
    suites(core::slice::from_ref(proposal), Method::Psk).next().is_some()
}

/// The suites of proposals, in order of preference. The PRF is HMAC with the hash: a proposal for another one has none.
fn suites(proposals: &[Proposal], method: Method) -> impl Iterator<Item = Suite> {
    proposals.iter().flat_map(move |proposal| {
        let groups = proposal.groups.iter().filter_map(|id| Group::from_number(*id));
        groups.filter(|group| !group.is_kem()).flat_map(move |group| {
            let ciphers = proposal.encryption.iter();
            let ciphers = ciphers.filter_map(|e| Some((*e, Cipher::of(*e)?)));
            ciphers.flat_map(move |(encryption, cipher)| {
                proposal.integrity.iter().filter_map(move |integrity| {
                    let hash = hash_of(*integrity)?;
                    Some(Suite { encryption, cipher, integrity: *integrity, hash, group, method })
                        .filter(|suite| proposal.allows(&suite.chosen()))
                })
            })
        })
    })
}

/// Our offer: one proposal with a transform for each suite.
pub(crate) fn offer(proposals: &[Proposal], method: Method, life: Life) -> WireProposal {
    let transforms = suites(proposals, method)
        .take(MAX_OFFERED)
        .zip(1u8..)
        .map(|(suite, number)| {
            let mut attributes = Vec::new();
            let mut basic = |kind: AttributeType, value| {
                Attribute::basic(kind.number(), value).emit(&mut attributes);
            };
            basic(AttributeType::EncryptionAlgorithm, suite.cipher.number());
            if let Some(bits) = suite.key_bits() {
                basic(AttributeType::KeyLength, bits);
            }
            basic(AttributeType::HashAlgorithm, hash_number(suite.hash));
            basic(AttributeType::GroupDescription, suite.group.number());
            basic(AttributeType::AuthenticationMethod, suite.method.number());
            let (kind, duration) = (AttributeType::LifeType, AttributeType::LifeDuration);
            life.emit(kind.number(), duration.number(), &mut attributes);
            Transform { number, id: KEY_IKE, attributes }
        })
        .collect();
    WireProposal { number: 1, protocol: ProtocolId::Ike, spi: Vec::new(), transforms }
}

/// The responder's choice: the first of our suites that the peer offers.
pub(crate) fn choose(proposals: &[Proposal], offer: &SaView<'_>, method: Method) -> Option<Choice> {
    suites(proposals, method).find_map(|suite| {
        offer.proposals().filter(|view| view.protocol == ProtocolId::Ike).find_map(|view| {
            view.transforms().find_map(|transform| {
                let (theirs, life) = read(&transform)?;
                let fits = theirs.fits(&suite);
                let answer = Transform {
                    number: transform.number,
                    id: transform.id,
                    attributes: transform.attributes.bytes().to_vec(),
                };
                fits.then(|| Choice {
                    suite,
                    life,
                    answer: WireProposal {
                        number: view.number,
                        protocol: ProtocolId::Ike,
                        spi: Vec::new(),
                        transforms: vec![answer],
                    },
                })
            })
        })
    })
}

/// The initiator's check of an answer: one proposal with one transform, which is one of ours.
pub(crate) fn accepted(
    proposals: &[Proposal],
    answer: &SaView<'_>,
    method: Method,
) -> Option<Choice> {
    let mut views = answer.proposals();
    let (view, None) = (views.next()?, views.next()) else { return None };
    let mut transforms = view.transforms();
    let (_, None) = (transforms.next()?, transforms.next()) else { return None };
    choose(proposals, answer, method)
}

/// What a transform of the peer says.
struct Offered {
    encryption: Option<u16>,
    key_bits: Option<u16>,
    hash: Option<u16>,
    group: Option<u16>,
    method: Option<u16>,
    /// With a GSS identity name.
    named: bool,
}

impl Offered {
    fn fits(&self, suite: &Suite) -> bool {
        self.encryption == Some(suite.cipher.number())
            && self.key_bits == suite.key_bits()
            && self.hash == Some(hash_number(suite.hash))
            && self.group == Some(suite.group.number())
            && self.method == Some(suite.method.number())
            // XAUTH has the same number, without a name.
            && self.named == (suite.method == Method::Kerberos)
    }
}

/// `None` for a transform with an attribute that we do not know: then its meaning is not ours to guess.
fn read(transform: &TransformView<'_>) -> Option<(Offered, Life)> {
    if transform.id != KEY_IKE {
        return None;
    }
    let mut offered = Offered {
        encryption: None,
        key_bits: None,
        hash: None,
        group: None,
        method: None,
        named: false,
    };
    let mut life = Life::default();
    let mut life_type = None;
    for attribute in transform.attributes.iter() {
        let number = attribute.value.number();
        let short = || number.and_then(|n| u16::try_from(n).ok());
        match AttributeType::from_number(attribute.kind) {
            AttributeType::EncryptionAlgorithm => offered.encryption = Some(short()?),
            AttributeType::KeyLength => offered.key_bits = Some(short()?),
            AttributeType::HashAlgorithm => offered.hash = Some(short()?),
            AttributeType::GroupDescription => offered.group = Some(short()?),
            // MODP or an elliptic curve: the description says more.
            AttributeType::GroupType => {}
            AttributeType::AuthenticationMethod => offered.method = Some(short()?),
            AttributeType::LifeType => life_type = Some(short()?),
            AttributeType::LifeDuration => life.add(life_type.take()?, number?)?,
            AttributeType::GssIdentityName => offered.named = true,
            AttributeType::Prf | AttributeType::Unknown(_) => return None,
        }
    }
    Some((offered, life))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Emit;
    use crate::message::v1::SaPayload;

    fn proposals(text: &str) -> Vec<Proposal> {
        Proposal::parse_list(ProposalProtocol::Ike, text).unwrap().proposals
    }

    fn body(proposal: WireProposal) -> Vec<u8> {
        SaPayload { proposals: &[proposal] }.body()
    }

    #[test]
    fn every_combination_is_offered_and_the_first_common_one_chosen() {
        let ours = proposals("aes128-aes256-sha256-sha1-modp2048-ecp256");
        let wire = offer(&ours, Method::Psk, Life::default());
        assert_eq!(wire.transforms.len(), 8);
        let body = body(wire);
        let view = SaView::parse(&body).unwrap();
        let choice = choose(&proposals("aes256-sha1-ecp256-modp2048"), &view, Method::Psk).unwrap();
        assert_eq!(choice.suite.group, Group::Ecp256);
        assert_eq!(choice.suite.hash, V1Hash::Sha1);
        assert_eq!(choice.suite.encryption.key_bits, 256);
        assert!(choose(&proposals("aes192-sha1-modp2048"), &view, Method::Psk).is_none());
        let answer = super::tests::body(choice.answer);
        let answer = SaView::parse(&answer).unwrap();
        assert_eq!(accepted(&ours, &answer, Method::Psk).unwrap().suite, choice.suite);
        // More than one transform is no answer.
        assert!(accepted(&ours, &view, Method::Psk).is_none());
    }

    #[test]
    fn lifetimes_travel_with_the_offer() {
        let ours = proposals("aes128-sha256-modp2048");
        let life = Life { time: Some(Duration::from_secs(86_400)), kilobytes: Some(1000) };
        let body = body(offer(&ours, Method::Psk, life));
        let view = SaView::parse(&body).unwrap();
        assert_eq!(choose(&ours, &view, Method::Psk).unwrap().life, life);
    }

    #[test]
    fn combined_modes_and_kems_have_no_suite() {
        assert!(!usable(&proposals("aes128gcm16-prfsha256-modp2048")[0]));
        assert!(usable(&proposals("aes128-sha256-modp2048")[0]));
    }

    #[test]
    fn the_default_offer_stays_within_what_peers_parse() {
        let ours = Proposal::defaults(ProposalProtocol::Ike);
        assert_eq!(offer(&ours, Method::Psk, Life::default()).transforms.len(), 81);
    }
}
