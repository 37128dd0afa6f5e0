//! RSA signatures over octets that are not a DigestInfo: what IKEv1 asks for (RFC 2409 §5.1), and SHA-1 in IKEv2.
//!
//! aws-lc-rs signs with SHA-2 and its DigestInfo alone. This is the operation below: PKCS #1 type 1 padding around what the
//! caller gives.

use crate::libcrypto;

/// Bits of the moduli that are taken: below, they can be factored; above, verifying costs what no peer is worth.
pub const BITS: core::ops::RangeInclusive<usize> = 2048..=8192;

/// Signs `message` with the DER RSAPrivateKey `key`; `None` when that is no such key or the message is too long for it.
pub fn sign_raw(key: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    libcrypto::rsa_sign_raw(key, message).filter(|signature| is_acceptable(signature.len()))
}

/// Whether `signature` is the one of the DER RSAPublicKey `key` over exactly `message`.
pub fn verify_raw(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    is_acceptable(signature.len())
        && libcrypto::rsa_recover(key, signature).is_some_and(|found| found == message)
}

/// The modulus' length in octets is the signature's.
fn is_acceptable(len: usize) -> bool {
    BITS.contains(&len.saturating_mul(8))
}
