//! AEADs with an eight-octet explicit vector behind a salt (RFC 5282, RFC 7634).

use aws_lc_rs::aead::{
    AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use zeroize::Zeroizing;

use super::cipher::{AesCbc, AesCtr, BLOCK};
use super::sk::OpenError;
use super::{CryptoFailure, equal};

/// Octets of the explicit vector.
pub(super) const IV_LEN: usize = 8;

/// An AEAD with its key, salt and checksum length.
pub(super) enum Aead {
    /// The library's, with its 16-octet checksum.
    Whole { key: LessSafeKey, salt: [u8; 4] },
    /// AES-GCM with the checksum cut to 8 or 12 octets.
    CutGcm { key: LessSafeKey, ctr: AesCtr, salt: [u8; 4], icv_len: usize },
    /// AES-CCM (RFC 3610, nonce of 11 octets).
    Ccm { cbc: Box<AesCbc>, ctr: AesCtr, salt: [u8; 3], icv_len: usize },
}

impl Aead {
    pub(super) fn gcm(key: &[u8], salt: &[u8], icv_len: usize) -> Result<Self, CryptoFailure> {
        let algorithm = match key.len() {
            16 => &AES_128_GCM,
            24 => &AES_192_GCM,
            32 => &AES_256_GCM,
            _ => return Err(CryptoFailure),
        };
        let salt = salt.try_into().map_err(|_| CryptoFailure)?;
        let unbound = UnboundKey::new(algorithm, key).map_err(|_| CryptoFailure)?;
        let aead = LessSafeKey::new(unbound);
        match icv_len {
            8 | 12 => Ok(Self::CutGcm { key: aead, ctr: AesCtr::new(key)?, salt, icv_len }),
            16 => Ok(Self::Whole { key: aead, salt }),
            _ => Err(CryptoFailure),
        }
    }

    pub(super) fn chacha(key: &[u8], salt: &[u8]) -> Result<Self, CryptoFailure> {
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, key).map_err(|_| CryptoFailure)?;
        let salt = salt.try_into().map_err(|_| CryptoFailure)?;
        Ok(Self::Whole { key: LessSafeKey::new(unbound), salt })
    }

    pub(super) fn ccm(key: &[u8], salt: &[u8], icv_len: usize) -> Result<Self, CryptoFailure> {
        Ok(Self::Ccm {
            cbc: Box::new(AesCbc::new(key)?),
            ctr: AesCtr::new(key)?,
            salt: salt.try_into().map_err(|_| CryptoFailure)?,
            icv_len,
        })
    }

    /// Encrypts in place and returns the checksum. The caller never gives a vector twice.
    pub(super) fn seal(
        &self,
        iv: [u8; IV_LEN],
        associated: &[u8],
        text: &mut [u8],
    ) -> Result<Vec<u8>, CryptoFailure> {
        match self {
            Self::Whole { key, salt } => whole_tag(key, *salt, iv, associated, text),
            Self::CutGcm { key, salt, icv_len, .. } => {
                let mut tag = whole_tag(key, *salt, iv, associated, text)?;
                tag.truncate(*icv_len);
                Ok(tag)
            }
            Self::Ccm { cbc, ctr, salt, icv_len } => {
                let tag = ccm_tag(cbc, ctr, *salt, iv, associated, text, *icv_len)?;
                ctr.apply(&ccm_counter(*salt, iv, 1), text)?;
                Ok(tag)
            }
        }
    }

    /// Decrypts in place what is authentic; wipes what is not.
    pub(super) fn open(
        &self,
        iv: [u8; IV_LEN],
        associated: &[u8],
        text: &mut [u8],
        tag: &[u8],
    ) -> Result<(), OpenError> {
        let expected = match self {
            Self::Whole { key, salt } => {
                let (nonce, aad) = (nonce(*salt, iv), Aad::from(associated));
                let opened = key.open_in_place_separate_tag(nonce, aad, tag, text);
                return opened.map(drop).map_err(|_| {
                    text.fill(0);
                    OpenError::Integrity
                });
            }
            Self::CutGcm { key, ctr, salt, icv_len } => {
                // The library compares whole checksums only, so this one is computed: the plaintext, sealed again, gives
                // it. NIST SP 800-38D: the text's counter starts at two.
                let mut counter = [0; BLOCK];
                let octets = salt.iter().chain(&iv).chain(&[0, 0, 0, 2]);
                for (to, from) in counter.iter_mut().zip(octets) {
                    *to = *from;
                }
                ctr.apply(&counter, text)?;
                let mut again = Zeroizing::new(text.to_vec());
                let mut tag = whole_tag(key, *salt, iv, associated, &mut again)?;
                tag.truncate(*icv_len);
                tag
            }
            Self::Ccm { cbc, ctr, salt, icv_len } => {
                ctr.apply(&ccm_counter(*salt, iv, 1), text)?;
                ccm_tag(cbc, ctr, *salt, iv, associated, text, *icv_len)?
            }
        };
        if equal(&expected, tag) {
            return Ok(());
        }
        text.fill(0);
        Err(OpenError::Integrity)
    }
}

fn nonce(salt: [u8; 4], iv: [u8; IV_LEN]) -> Nonce {
    let mut nonce = [0; 12];
    for (to, from) in nonce.iter_mut().zip(salt.iter().chain(&iv)) {
        *to = *from;
    }
    Nonce::assume_unique_for_key(nonce)
}

fn whole_tag(
    key: &LessSafeKey,
    salt: [u8; 4],
    iv: [u8; IV_LEN],
    associated: &[u8],
    text: &mut [u8],
) -> Result<Vec<u8>, CryptoFailure> {
    let (nonce, aad) = (nonce(salt, iv), Aad::from(associated));
    let tag = key.seal_in_place_separate_tag(nonce, aad, text).map_err(|_| CryptoFailure)?;
    Ok(tag.as_ref().to_vec())
}

/// RFC 3610 §2.3: A_i with a four-octet counter.
fn ccm_counter(salt: [u8; 3], iv: [u8; IV_LEN], counter: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let octets = [3].into_iter().chain(salt).chain(iv).chain([0, 0, 0, counter]);
    for (to, from) in block.iter_mut().zip(octets) {
        *to = from;
    }
    block
}

/// RFC 3610 §2.2: CBC-MAC over B_0, the associated octets and the text, encrypted with the first key stream block.
fn ccm_tag(
    cbc: &AesCbc,
    ctr: &AesCtr,
    salt: [u8; 3],
    iv: [u8; IV_LEN],
    associated: &[u8],
    text: &[u8],
    icv_len: usize,
) -> Result<Vec<u8>, CryptoFailure> {
    let tag_bits = match icv_len {
        8 => 3u8,
        12 => 5,
        16 => 7,
        _ => return Err(CryptoFailure),
    };
    let has_associated = if associated.is_empty() { 0 } else { 0x40 };
    let text_len = u32::try_from(text.len()).map_err(|_| CryptoFailure)?;
    let associated_len = u32::try_from(associated.len()).map_err(|_| CryptoFailure)?;
    let mut blocks = Zeroizing::new(Vec::new());
    blocks.push(has_associated | (tag_bits << 3) | 3);
    blocks.extend_from_slice(&salt);
    blocks.extend_from_slice(&iv);
    blocks.extend_from_slice(&text_len.to_be_bytes());
    match u16::try_from(associated_len) {
        Ok(0) => {}
        Ok(len) if len < 0xff00 => blocks.extend_from_slice(&len.to_be_bytes()),
        _ => {
            blocks.extend_from_slice(&[0xff, 0xfe]);
            blocks.extend_from_slice(&associated_len.to_be_bytes());
        }
    }
    for part in [associated, text] {
        blocks.extend_from_slice(part);
        let padded = blocks.len().next_multiple_of(BLOCK);
        blocks.resize(padded, 0);
    }
    cbc.encrypt(&[0; BLOCK], &mut blocks)?;
    let mut mac = blocks.last_chunk::<BLOCK>().copied().ok_or(CryptoFailure)?;
    ctr.apply(&ccm_counter(salt, iv, 0), &mut mac)?;
    Ok(mac.iter().copied().take(icv_len).collect())
}
