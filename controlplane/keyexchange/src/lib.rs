//! Diffie-Hellman groups, key encapsulation and raw RSA over the crypto library.
//!
//! ```text
//!  initiator                                      responder
//!  PrivateKey::generate(group)
//!     .public() ── KE payload ──────────────────► respond(group, peer) ─► (public, SharedSecret)
//!  agree(peer) ◄────────────────── KE payload ──    public
//!     └─► SharedSecret
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`Group`] | the IANA numbers and the lengths on the wire |
//! | [`rsa`] | PKCS #1 signatures over octets that the caller made |
//! | `modp` | the RFC 2409 and RFC 3526 groups, and the checks of RFC 6989 |
//! | `libcrypto` | the calls that have no safe wrapper: modular exponentiation, ML-KEM keys from a seed, raw RSA |
//!
//! A group is what a KE payload's group number says it is: Diffie-Hellman over MODP or elliptic curves, where both sides
//! may generate in advance, or a KEM, where the responder's value is the encapsulation to the initiator's (RFC 9370,
//! draft-ietf-ipsecme-ikev2-mlkem). [`respond`] serves both.
//!
//! Peer values are checked before use; private keys and shared secrets are wiped when dropped and have neither `Clone` nor
//! `Debug`. This crate never derives keys, never keeps a key for a second exchange and never falls back to another group.

mod group;
#[expect(
    unsafe_code,
    reason = "MODP exponentiation, seeded ML-KEM keys and raw RSA have no safe wrapper in aws-lc-rs"
)]
mod libcrypto;
mod modp;
pub mod rsa;

#[cfg(test)]
mod tests;

use aws_lc_rs::{agreement, kem};
use zeroize::Zeroizing;

pub use group::Group;
use group::Kind;
use modp::ModpKey;

/// Why a key exchange failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyExchangeError {
    /// The peer's value has the wrong length, is out of range, not on the curve, or of small order (RFC 6989 §2).
    #[error("the peer's public value is not acceptable")]
    PeerValue,
    /// A private key given as bytes is not one of the group.
    #[error("not a private key of the group")]
    PrivateValue,
    /// The library failed: no memory or no randomness.
    #[error("the crypto library failed")]
    Library,
}

/// The result of a key exchange, wiped when dropped.
///
/// MODP values have leading zeros to the length of the prime (RFC 7296 §2.14), ECP ones are the x coordinate
/// (RFC 5903 §7).
pub struct SharedSecret(Zeroizing<Vec<u8>>);

impl SharedSecret {
    /// The octets, for the key derivation.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) const fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

/// A private key for one exchange, with its public value.
pub struct PrivateKey {
    group: Group,
    public: Vec<u8>,
    secret: Secret,
}

enum Secret {
    Modp(ModpKey),
    Curve(agreement::PrivateKey),
    Kem(kem::DecapsulationKey),
}

impl PrivateKey {
    /// A fresh key from the library's randomness.
    ///
    /// # Errors
    /// [`KeyExchangeError::Library`].
    pub fn generate(group: Group) -> Result<Self, KeyExchangeError> {
        match group.kind() {
            Kind::Modp(modp) => {
                let key = ModpKey::generate(modp)?;
                let public = key.public()?;
                Ok(Self { group, public, secret: Secret::Modp(key) })
            }
            Kind::Curve(algorithm) => {
                let key = agreement::PrivateKey::generate(algorithm)
                    .map_err(|_| KeyExchangeError::Library)?;
                Self::of_curve(group, key)
            }
            Kind::Kem(algorithm, _) => {
                let key = kem::DecapsulationKey::generate(algorithm)
                    .map_err(|_| KeyExchangeError::Library)?;
                let encapsulation =
                    key.encapsulation_key().map_err(|_| KeyExchangeError::Library)?;
                let public = encapsulation.key_bytes().map_err(|_| KeyExchangeError::Library)?;
                let public = public.as_ref().to_vec();
                Ok(Self { group, public, secret: Secret::Kem(key) })
            }
        }
    }

    /// A key with a known private value, for known answers and repeatable tests: big-endian for MODP and ECP (leading
    /// zeros may be left out), the 32 octets of X25519, the seed `d ‖ z` of ML-KEM (FIPS 203).
    ///
    /// # Errors
    /// [`KeyExchangeError::PrivateValue`] when it is not a private value of the group.
    pub fn from_bytes(group: Group, private: &[u8]) -> Result<Self, KeyExchangeError> {
        match group.kind() {
            Kind::Modp(modp) => {
                let key = ModpKey::from_bytes(modp, private)?;
                let public = key.public()?;
                Ok(Self { group, public, secret: Secret::Modp(key) })
            }
            Kind::Curve(algorithm) => {
                let private = match group {
                    Group::Curve25519 => Zeroizing::new(private.to_vec()),
                    _ => left_pad(private, group.shared_len())
                        .ok_or(KeyExchangeError::PrivateValue)?,
                };
                let key = agreement::PrivateKey::from_private_key(algorithm, &private)
                    .map_err(|_| KeyExchangeError::PrivateValue)?;
                Self::of_curve(group, key)
            }
            Kind::Kem(_, nid) => {
                let seed = private.try_into().map_err(|_| KeyExchangeError::PrivateValue)?;
                let (public, private) =
                    libcrypto::mlkem_from_seed(nid, seed).ok_or(KeyExchangeError::Library)?;
                Self::from_decapsulation_key(group, &private, public)
            }
        }
    }

    /// The key's group.
    pub const fn group(&self) -> Group {
        self.group
    }

    /// What goes into the KE payload: MODP padded to the group's length, ECP `x ‖ y` (RFC 5903 §7), X25519 raw
    /// (RFC 8031 §3.1), the encapsulation key of a KEM.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Combines the key with the peer's KE data and uses it up.
    ///
    /// # Errors
    /// [`KeyExchangeError::PeerValue`], or [`KeyExchangeError::Library`].
    pub fn agree(self, peer: &[u8]) -> Result<SharedSecret, KeyExchangeError> {
        match self.secret {
            Secret::Modp(key) => key.agree(peer),
            Secret::Curve(key) => {
                if peer.len() != self.group.public_len() {
                    return Err(KeyExchangeError::PeerValue);
                }
                let encoded = match self.group {
                    Group::Curve25519 => peer.to_vec(),
                    _ => [&[UNCOMPRESSED], peer].concat(),
                };
                let peer = agreement::UnparsedPublicKey::new(key.algorithm(), encoded);
                agreement::agree(&key, peer, KeyExchangeError::PeerValue, |shared| {
                    Ok(SharedSecret(Zeroizing::new(shared.to_vec())))
                })
            }
            Secret::Kem(key) => {
                // FIPS 203 §7.3: a ciphertext of the right length always decapsulates, a forged one to a secret that
                // the sender does not know.
                if peer.len() != self.group.response_len() {
                    return Err(KeyExchangeError::PeerValue);
                }
                let shared = key
                    .decapsulate(kem::Ciphertext::from(peer))
                    .map_err(|_| KeyExchangeError::PeerValue)?;
                Ok(SharedSecret(Zeroizing::new(shared.as_ref().to_vec())))
            }
        }
    }

    fn of_curve(group: Group, key: agreement::PrivateKey) -> Result<Self, KeyExchangeError> {
        let encoded = key.compute_public_key().map_err(|_| KeyExchangeError::Library)?;
        let encoded = encoded.as_ref();
        let public = match group {
            Group::Curve25519 => encoded,
            _ => encoded.strip_prefix(&[UNCOMPRESSED]).ok_or(KeyExchangeError::Library)?,
        };
        Ok(Self { group, public: public.to_vec(), secret: Secret::Curve(key) })
    }

    fn from_decapsulation_key(
        group: Group,
        private: &[u8],
        public: Vec<u8>,
    ) -> Result<Self, KeyExchangeError> {
        let Kind::Kem(algorithm, _) = group.kind() else {
            return Err(KeyExchangeError::PrivateValue);
        };
        let key = kem::DecapsulationKey::new(algorithm, private)
            .map_err(|_| KeyExchangeError::PrivateValue)?;
        Ok(Self { group, public, secret: Secret::Kem(key) })
    }
}

/// The responder's half: a fresh value for the KE payload, and the secret it makes with the initiator's.
///
/// # Errors
/// [`KeyExchangeError::PeerValue`], or [`KeyExchangeError::Library`].
pub fn respond(group: Group, peer: &[u8]) -> Result<(Vec<u8>, SharedSecret), KeyExchangeError> {
    match group.kind() {
        Kind::Modp(_) | Kind::Curve(_) => {
            let key = PrivateKey::generate(group)?;
            let public = key.public().to_vec();
            Ok((public, key.agree(peer)?))
        }
        Kind::Kem(algorithm, _) => {
            let key = kem::EncapsulationKey::new(algorithm, peer)
                .map_err(|_| KeyExchangeError::PeerValue)?;
            // The library makes the modulus check of FIPS 203 §7.2 here.
            let (ciphertext, shared) =
                key.encapsulate().map_err(|_| KeyExchangeError::PeerValue)?;
            let shared = SharedSecret(Zeroizing::new(shared.as_ref().to_vec()));
            Ok((ciphertext.as_ref().to_vec(), shared))
        }
    }
}

/// An ML-KEM key pair from its seed, as octets: the encapsulation key and the decapsulation key.
///
/// # Errors
/// [`KeyExchangeError::PrivateValue`] for another group or a seed that is not 64 octets.
pub fn kem_keypair(
    group: Group,
    seed: &[u8],
) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), KeyExchangeError> {
    let Kind::Kem(_, nid) = group.kind() else {
        return Err(KeyExchangeError::PrivateValue);
    };
    let seed = seed.try_into().map_err(|_| KeyExchangeError::PrivateValue)?;
    libcrypto::mlkem_from_seed(nid, seed).ok_or(KeyExchangeError::Library)
}

/// Decapsulates with a key given as octets.
///
/// # Errors
/// [`KeyExchangeError::PrivateValue`] for another group or a key of the wrong length,
/// [`KeyExchangeError::PeerValue`] for a ciphertext of the wrong length or a key that fails its own hash check.
pub fn kem_decapsulate(
    group: Group,
    private: &[u8],
    ciphertext: &[u8],
) -> Result<SharedSecret, KeyExchangeError> {
    PrivateKey::from_decapsulation_key(group, private, Vec::new())?.agree(ciphertext)
}

/// SEC 1 §2.3.3: the octet before an uncompressed point.
const UNCOMPRESSED: u8 = 0x04;

/// A big-endian number in exactly `len` octets, `None` when it does not fit.
fn left_pad(number: &[u8], len: usize) -> Option<Zeroizing<Vec<u8>>> {
    let excess = number.len().saturating_sub(len);
    let (leading, number) = number.split_at(excess);
    if leading.iter().any(|&octet| octet != 0) {
        return None;
    }
    let mut out = Zeroizing::new(vec![0; len]);
    out.get_mut(len.checked_sub(number.len())?..)?.copy_from_slice(number);
    Some(out)
}
