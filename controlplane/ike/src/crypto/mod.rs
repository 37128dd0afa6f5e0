//! Key derivation and message protection of both IKE versions.
//!
//! ```text
//!  IKEv2   g^ir, Ni, Nr ─► Skeyseed ─► IkeKeys ─┬─► SkD ─► Keymat (children)     SkD ─► Skeyseed (rekey)
//!                                               ├─► SkP ─► signed octets ─► AUTH
//!                                               └─► DirectionKeys ─► SkSealer, SkOpener
//!  IKEv1   PSK or g^xy ─► Skeyid ─► V1Keys ─┬─► SkeyidD ─► KEYMAT
//!                                           ├─► SkeyidA ─► HASH(n)
//!                                           └─► SkeyidE ─► V1Cipher with its chain of IVs
//! ```
//!
//! | module | what |
//! |---|---|
//! | `prf` | pseudorandom functions and prf+ (RFC 7296 §2.13, RFC 4868, RFC 4434, RFC 4615) |
//! | `schedule` | SKEYSEED, SK_*, KEYMAT (RFC 7296 §2.14, §2.17, §2.18, RFC 8784, RFC 9370) |
//! | `auth` | shared-key AUTH and the octets that are signed (RFC 7296 §2.15) |
//! | `sk` | the SK and SKF payloads (RFC 7296 §3.14, RFC 5282, RFC 7383) |
//! | `signature` | verification of signatures (RFC 7427, RFC 4754, RFC 8420) |
//! | [`v1`] | SKEYID_*, KEYMAT, HASH and encryption of IKEv1 (RFC 2409) |
//! | `detect` | NAT detection hashes and cookies (RFC 7296 §2.23, §2.6) |
//! | `aead`, `cipher` | AEADs and block modes over the library |
//!
//! Each stage of a key schedule is its own type, made only from the stage before it. Every secret is wiped when dropped and
//! has neither `Clone` nor `Debug`; codes are compared in constant time. Nothing here draws randomness: initialization
//! vectors come from counters that refuse to repeat.

mod aead;
mod auth;
mod cipher;
mod detect;
mod prf;
mod schedule;
mod signature;
mod sk;
pub mod v1;

pub use auth::{SharedKeyAuth, SignedOctets};
pub use detect::{CookieSecret, nat_detection_hash};
pub use prf::Prf;
pub use schedule::{ChildKeys, DirectionKeys, IkeKeys, KeySizes, Keymat, SkD, SkP, Skeyseed};
pub(crate) use signature::as_digest;
pub use signature::{SignatureHash, SignatureScheme};
pub use sk::{OpenError, Opened, SealError, SkCipher, SkIntegrity, SkOpener, SkSealer, SkSuite};

/// The crypto library refused what its documentation promises to do for these arguments: no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the crypto library failed")]
pub struct CryptoFailure;

/// Equality that takes the same time for any content of one length.
fn equal(a: &[u8], b: &[u8]) -> bool {
    subtle::ConstantTimeEq::ct_eq(a, b).into()
}
