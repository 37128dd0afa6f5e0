//! Block modes over the library.

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptingKey, DecryptionContext, EncryptingKey,
    EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;

use super::CryptoFailure;

/// Octets of an AES block.
pub(super) const BLOCK: usize = 16;

fn algorithm(key: &[u8]) -> Result<&'static Algorithm, CryptoFailure> {
    match key.len() {
        16 => Ok(&AES_128),
        24 => Ok(&AES_192),
        32 => Ok(&AES_256),
        _ => Err(CryptoFailure),
    }
}

fn unbound(key: &[u8]) -> Result<UnboundCipherKey, CryptoFailure> {
    UnboundCipherKey::new(algorithm(key)?, key).map_err(|_| CryptoFailure)
}

/// The bare permutation, forward.
pub(super) struct AesBlock(EncryptingKey);

impl AesBlock {
    pub(super) fn new(key: &[u8]) -> Result<Self, CryptoFailure> {
        EncryptingKey::ecb(unbound(key)?).map(Self).map_err(|_| CryptoFailure)
    }

    pub(super) fn encrypt(&self, block: &mut [u8; BLOCK]) -> Result<(), CryptoFailure> {
        let context = EncryptionContext::None;
        self.0.less_safe_encrypt(block, context).map(drop).map_err(|_| CryptoFailure)
    }
}

/// Cipher block chaining, both directions, over whole blocks.
pub(super) struct AesCbc {
    encrypting: EncryptingKey,
    decrypting: DecryptingKey,
}

impl AesCbc {
    pub(super) fn new(key: &[u8]) -> Result<Self, CryptoFailure> {
        Ok(Self {
            encrypting: EncryptingKey::cbc(unbound(key)?).map_err(|_| CryptoFailure)?,
            decrypting: DecryptingKey::cbc(unbound(key)?).map_err(|_| CryptoFailure)?,
        })
    }

    /// The caller sees to it that no vector is predictable or comes twice.
    pub(super) fn encrypt(&self, iv: &[u8; BLOCK], in_out: &mut [u8]) -> Result<(), CryptoFailure> {
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        self.encrypting.less_safe_encrypt(in_out, context).map(drop).map_err(|_| CryptoFailure)
    }

    pub(super) fn decrypt(&self, iv: &[u8; BLOCK], in_out: &mut [u8]) -> Result<(), CryptoFailure> {
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        self.decrypting.decrypt(in_out, context).map(drop).map_err(|_| CryptoFailure)
    }
}

/// Counter mode; both directions are the same.
pub(super) struct AesCtr(EncryptingKey);

impl AesCtr {
    pub(super) fn new(key: &[u8]) -> Result<Self, CryptoFailure> {
        EncryptingKey::ctr(unbound(key)?).map(Self).map_err(|_| CryptoFailure)
    }

    /// `counter` is the first counter block.
    pub(super) fn apply(
        &self,
        counter: &[u8; BLOCK],
        in_out: &mut [u8],
    ) -> Result<(), CryptoFailure> {
        let context = EncryptionContext::Iv128(FixedLength::from(counter));
        self.0.less_safe_encrypt(in_out, context).map(drop).map_err(|_| CryptoFailure)
    }
}
