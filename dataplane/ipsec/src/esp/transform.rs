//! The keyed transforms beside AES-GCM, each as its own standard has it: what ESP adds (nonces, headers,
//! truncation to the ICV) is in `serial`.
//!
//! They are the crypto library's, except that it has no XCBC and its CMAC allocates per message: those two
//! are written over the AES block function; and the two of [`legacy`].

use super::cbc_mac::{CbcMac, Subkeys};
use super::ccm::Ccm;
use crate::algorithm::{Cipher, Integrity};
use crate::legacy::{self, HmacMd5, TripleDes};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{constant_time, hmac};

/// The longest tag of a [`Mac`] in bytes, before it is cut.
pub const MAX_TAG_LEN: usize = 64;

/// A transform could not be done: the tag does not fit, or a length is not one that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not authentic, or of a length that the transform does not take")]
pub struct Failed;

impl From<aws_lc_rs::error::Unspecified> for Failed {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self
    }
}

impl From<crate::aead::JobError> for Failed {
    fn from(_: crate::aead::JobError) -> Self {
        Self
    }
}

/// A combined mode that works packet by packet.
pub struct Combined(CombinedKey);

#[expect(clippy::large_enum_variant, reason = "each SA has one, behind a pointer")]
enum CombinedKey {
    ChaCha(LessSafeKey),
    Ccm(Ccm),
}

impl Combined {
    /// ChaCha20-Poly1305 (RFC 8439) and AES-CCM with nonces of 11 bytes; `key` is without salt. `None` for
    /// every other cipher and for lengths it does not take.
    pub fn new(cipher: Cipher, key: &[u8]) -> Option<Self> {
        match cipher {
            Cipher::ChaCha20Poly1305 => {
                let key = UnboundKey::new(&CHACHA20_POLY1305, key).ok()?;
                Some(Self(CombinedKey::ChaCha(LessSafeKey::new(key))))
            }
            Cipher::AesCcm(icv) => Some(Self(CombinedKey::Ccm(Ccm::new(key, icv)?))),
            Cipher::AesCbc
            | Cipher::AesCtr
            | Cipher::AesGcm(_)
            | Cipher::AesGmac
            | Cipher::Null
            | Cipher::TripleDesCbc => None,
        }
    }

    /// Encrypts `text` where it is and writes the tag to the beginning of `tag`. The nonce (12 bytes, of
    /// CCM 11) must never repeat under the key.
    ///
    /// # Errors
    ///
    /// [`Failed`] for a nonce or tag of another length.
    pub fn seal(
        &self,
        nonce: &[u8],
        aad: &[u8],
        text: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), Failed> {
        match &self.0 {
            CombinedKey::ChaCha(key) => {
                let nonce = Nonce::try_assume_unique_for_key(nonce)?;
                let made = key.seal_in_place_separate_tag(nonce, Aad::from(aad), text)?;
                tag.get_mut(..made.as_ref().len()).ok_or(Failed)?.copy_from_slice(made.as_ref());
                Ok(())
            }
            CombinedKey::Ccm(key) => {
                key.seal(nonce.try_into().map_err(|_| Failed)?, aad, text, tag).ok_or(Failed)
            }
        }
    }

    /// Decrypts `text` where it is if the tag at the beginning of `tag` verifies; otherwise what `text`
    /// holds is of no use.
    ///
    /// # Errors
    ///
    /// [`Failed`].
    pub fn open(
        &self,
        nonce: &[u8],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8],
    ) -> Result<(), Failed> {
        match &self.0 {
            CombinedKey::ChaCha(key) => {
                let nonce = Nonce::try_assume_unique_for_key(nonce)?;
                let tag = tag.get(..CHACHA20_POLY1305.tag_len()).ok_or(Failed)?;
                key.open_in_place_separate_tag(nonce, Aad::from(aad), tag, text)?;
                Ok(())
            }
            CombinedKey::Ccm(key) => {
                key.open(nonce.try_into().map_err(|_| Failed)?, aad, text, tag).ok_or(Failed)
            }
        }
    }
}

/// A cipher without integrity of its own.
pub struct BlockMode(ModeKey);

#[expect(clippy::large_enum_variant, reason = "each SA has one, behind a pointer")]
enum ModeKey {
    Null,
    Cbc { seal: EncryptingKey, open: DecryptingKey },
    Ctr(EncryptingKey),
    TripleDes(TripleDes),
}

impl BlockMode {
    /// AES-CBC, AES-CTR, NULL and 3DES-CBC; `key` is without nonce. `None` for every other cipher and for lengths it
    /// does not take.
    pub fn new(cipher: Cipher, key: &[u8]) -> Option<Self> {
        let unbound = || {
            let algorithm = match key.len() {
                16 => &AES_128,
                24 => &AES_192,
                32 => &AES_256,
                _ => return None,
            };
            UnboundCipherKey::new(algorithm, key).ok()
        };
        Some(Self(match cipher {
            Cipher::Null => ModeKey::Null,
            Cipher::AesCbc => ModeKey::Cbc {
                seal: EncryptingKey::cbc(unbound()?).ok()?,
                open: DecryptingKey::cbc(unbound()?).ok()?,
            },
            Cipher::AesCtr => ModeKey::Ctr(EncryptingKey::ctr(unbound()?).ok()?),
            Cipher::TripleDesCbc => ModeKey::TripleDes(TripleDes::new(key)?),
            Cipher::AesGcm(_) | Cipher::AesCcm(_) | Cipher::AesGmac | Cipher::ChaCha20Poly1305 => {
                return None;
            }
        }))
    }

    /// Bytes of an IV: of a block, or of a whole counter block; none of NULL.
    pub fn iv_len(&self) -> usize {
        match &self.0 {
            ModeKey::Null => 0,
            ModeKey::Cbc { .. } | ModeKey::Ctr(_) => 16,
            ModeKey::TripleDes(_) => legacy::BLOCK,
        }
    }

    /// Encrypts whole blocks of CBC, or any length of CTR, whose `iv` is the first counter block.
    ///
    /// # Errors
    ///
    /// [`Failed`] for a piece of a block, and for an IV of another length than [`BlockMode::iv_len`].
    pub fn encrypt(&self, iv: &[u8], text: &mut [u8]) -> Result<(), Failed> {
        match &self.0 {
            ModeKey::Null => {}
            ModeKey::Cbc { seal: key, .. } | ModeKey::Ctr(key) => {
                let iv: [u8; 16] = iv.try_into().map_err(|_| Failed)?;
                key.less_safe_encrypt(text, EncryptionContext::Iv128(FixedLength::from(iv)))?;
            }
            ModeKey::TripleDes(key) => key.encrypt(iv.try_into().map_err(|_| Failed)?, text)?,
        }
        Ok(())
    }

    /// The reverse of [`BlockMode::encrypt`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn decrypt(&self, iv: &[u8], text: &mut [u8]) -> Result<(), Failed> {
        match &self.0 {
            ModeKey::Null | ModeKey::Ctr(_) => self.encrypt(iv, text),
            ModeKey::TripleDes(key) => key.decrypt(iv.try_into().map_err(|_| Failed)?, text),
            ModeKey::Cbc { open, .. } => {
                let iv: [u8; 16] = iv.try_into().map_err(|_| Failed)?;
                open.decrypt(text, DecryptionContext::Iv128(FixedLength::from(iv)))?;
                Ok(())
            }
        }
    }
}

/// An integrity transform.
pub struct Mac(MacKey);

#[expect(clippy::large_enum_variant, reason = "each SA has one, behind a pointer")]
enum MacKey {
    Hmac(hmac::Key),
    CbcMac(CbcMac),
    Md5(HmacMd5),
}

impl Mac {
    /// HMAC with SHA-1, SHA-2 and MD5, AES-CMAC and AES-XCBC. HMAC takes keys of any length, as its standard
    /// does, and CMAC those of 24 and 32 bytes too; that an SA's has the one of its transform is the installer's
    /// business. `None` for GMAC, which takes a nonce, and for AES keys of other lengths.
    pub fn new(integrity: Integrity, key: &[u8]) -> Option<Self> {
        let hmac = |algorithm| MacKey::Hmac(hmac::Key::new(algorithm, key));
        let chained = |subkeys| Some(MacKey::CbcMac(CbcMac::new(subkeys, key)?));
        Some(Self(match integrity {
            Integrity::HmacSha1_96 => hmac(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            Integrity::HmacSha256_128 => hmac(hmac::HMAC_SHA256),
            Integrity::HmacSha384_192 => hmac(hmac::HMAC_SHA384),
            Integrity::HmacSha512_256 => hmac(hmac::HMAC_SHA512),
            Integrity::AesCmac96 => chained(Subkeys::Cmac)?,
            Integrity::AesXcbc96 => chained(Subkeys::Xcbc)?,
            Integrity::HmacMd5_96 => MacKey::Md5(HmacMd5::new(key)?),
            Integrity::AesGmac => return None,
        }))
    }

    /// The whole tag, and its length, over the pieces as if they were one message.
    pub fn tag(&self, pieces: &[&[u8]]) -> ([u8; MAX_TAG_LEN], usize) {
        let mut out = [0; MAX_TAG_LEN];
        let mut put = |tag: &[u8]| {
            out[..tag.len()].copy_from_slice(tag);
            tag.len()
        };
        let len = match &self.0 {
            MacKey::Hmac(key) => {
                let mut context = hmac::Context::with_key(key);
                for piece in pieces {
                    context.update(piece);
                }
                put(context.sign().as_ref())
            }
            MacKey::CbcMac(key) => put(&key.tag(pieces)),
            MacKey::Md5(key) => put(&key.tag(pieces)),
        };
        (out, len)
    }

    /// Compares the first bytes of the tag with `icv`, in a time that does not tell where they differ.
    ///
    /// # Errors
    ///
    /// [`Failed`].
    pub fn verify(&self, pieces: &[&[u8]], icv: &[u8]) -> Result<(), Failed> {
        let (tag, len) = self.tag(pieces);
        let tag = tag[..len].get(..icv.len()).ok_or(Failed)?;
        Ok(constant_time::verify_slices_are_equal(tag, icv)?)
    }
}
