//! The transforms that work packet by packet: everything but AES-GCM (RFC 8221 §5, §6).
//!
//! ```text
//!  seal:  text ─► cipher ─► MAC over header, IV, ciphertext (and the high sequence half) ─► ICV
//!  open:  MAC over the same, compared in constant time ─► only then the cipher
//! ```
//!
//! Ciphers, HMAC and ChaCha20-Poly1305 are the crypto library's; it has no XCBC, and its CMAC allocates
//! per message, so those two are written here over the AES block function ([`CbcMac`]).

use super::cbc_mac::{CbcMac, Subkeys};
use super::ccm::Ccm;
use crate::aead::{self, GcmKey, OpenJob, SealJob};
use crate::algorithm::{Cipher, Integrity};
use aws_lc_rs::aead::{CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{constant_time, hmac};
use wire::esp::HEADER_LEN;

/// Where ESP lies in a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The SPI.
    pub(crate) esp: usize,
    /// What is encrypted.
    pub(crate) text: usize,
    /// Its length; the ICV follows.
    pub(crate) text_len: usize,
    /// The full sequence number.
    pub(crate) sequence: u64,
    /// Whether its high half is authenticated.
    pub(crate) esn: bool,
}

impl Place {
    fn end(&self) -> usize {
        self.text + self.text_len
    }
}

/// A transform could not be done: its packet goes nowhere.
#[derive(Debug)]
pub(crate) struct Failed;

impl From<aws_lc_rs::error::Unspecified> for Failed {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self
    }
}

impl From<aead::JobError> for Failed {
    fn from(_: aead::JobError) -> Self {
        Self
    }
}

/// The transforms of one SA.
#[expect(clippy::large_enum_variant, reason = "each SA has one, behind a pointer")]
pub(crate) enum Serial {
    ChaCha { key: LessSafeKey, salt: [u8; 4] },
    Ccm { key: Box<Ccm>, salt: [u8; 3] },
    Gmac { key: GcmKey, salt: [u8; 4] },
    Separate { cipher: SeparateCipher, mac: Option<Mac> },
}

/// A cipher without integrity of its own.
#[expect(clippy::large_enum_variant, reason = "each SA has one, behind a pointer")]
pub(crate) enum SeparateCipher {
    Null,
    /// RFC 3602.
    Cbc {
        seal: EncryptingKey,
        open: DecryptingKey,
    },
    /// RFC 3686. Sealing and opening are the same.
    Ctr {
        key: EncryptingKey,
        nonce: [u8; 4],
    },
}

/// An integrity transform with the length it is cut to.
pub(crate) struct Mac {
    key: MacKey,
    icv_len: usize,
}

#[expect(clippy::large_enum_variant, reason = "each SA has one, behind a pointer")]
enum MacKey {
    Hmac(hmac::Key),
    CbcMac(Box<CbcMac>),
}

impl Serial {
    pub(crate) fn chacha(key: &[u8], salt: [u8; 4]) -> Option<Self> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).ok()?;
        Some(Self::ChaCha { key: LessSafeKey::new(key), salt })
    }

    pub(crate) fn ccm(key: &[u8], salt: [u8; 3], icv: u8) -> Option<Self> {
        Some(Self::Ccm { key: Box::new(Ccm::new(key, icv)?), salt })
    }

    pub(crate) fn gmac(key: &[u8], salt: [u8; 4]) -> Option<Self> {
        Some(Self::Gmac { key: GcmKey::new(key).ok()?, salt })
    }

    /// A cipher and its MAC; `None` for a cipher that is none of these or a key it does not take.
    pub(crate) fn separate(
        cipher: Cipher,
        key: &[u8],
        salt: &[u8],
        mac: Option<Mac>,
    ) -> Option<Self> {
        let unbound = |key: &[u8]| {
            let algorithm = match key.len() {
                16 => &AES_128,
                24 => &AES_192,
                32 => &AES_256,
                _ => return None,
            };
            UnboundCipherKey::new(algorithm, key).ok()
        };
        let cipher = match cipher {
            Cipher::Null => SeparateCipher::Null,
            Cipher::AesCbc => SeparateCipher::Cbc {
                seal: EncryptingKey::cbc(unbound(key)?).ok()?,
                open: DecryptingKey::cbc(unbound(key)?).ok()?,
            },
            Cipher::AesCtr => SeparateCipher::Ctr {
                key: EncryptingKey::ctr(unbound(key)?).ok()?,
                nonce: salt.try_into().ok()?,
            },
            Cipher::AesGcm(_)
            | Cipher::AesCcm(_)
            | Cipher::AesGmac
            | Cipher::ChaCha20Poly1305
            | Cipher::TripleDesCbc => return None,
        };
        Some(Self::Separate { cipher, mac })
    }

    /// Writes the explicit IV for a sequence number: never twice the same under a key, and with CBC
    /// unpredictable too (RFC 3602 §3), by encrypting the number under the same key (SP 800-38A
    /// Appendix C).
    pub(crate) fn write_iv(&self, sequence: u64, iv: &mut [u8]) -> Result<(), Failed> {
        match self {
            Self::Separate { cipher: SeparateCipher::Cbc { seal, .. }, .. } => {
                let iv: &mut [u8; 16] = iv.try_into().map_err(|_| Failed)?;
                *iv = u128::from(sequence).to_be_bytes();
                seal.less_safe_encrypt(iv, EncryptionContext::Iv128(FixedLength::from([0; 16])))?;
            }
            Self::Separate { cipher: SeparateCipher::Null, .. } => {}
            Self::ChaCha { .. }
            | Self::Ccm { .. }
            | Self::Gmac { .. }
            | Self::Separate { cipher: SeparateCipher::Ctr { .. }, .. } => {
                let iv: &mut [u8; 8] = iv.try_into().map_err(|_| Failed)?;
                *iv = sequence.to_be_bytes();
            }
        }
        Ok(())
    }

    /// Encrypts and authenticates one packet.
    pub(crate) fn seal(&self, packet: &mut [u8], at: Place) -> Result<(), Failed> {
        let (before, rest) = packet.split_at_mut_checked(at.text).ok_or(Failed)?;
        let (text, icv) = rest.split_at_mut_checked(at.text_len).ok_or(Failed)?;
        let clear = before.get(at.esp..).ok_or(Failed)?;
        match self {
            Self::ChaCha { key, salt } => {
                let nonce = Nonce::assume_unique_for_key(nonce(*salt, clear)?);
                let aad = Header::new(clear, at)?;
                let tag = key.seal_in_place_separate_tag(nonce, aad.as_aad(), text)?;
                icv.get_mut(..16).ok_or(Failed)?.copy_from_slice(tag.as_ref());
            }
            Self::Ccm { key, salt } => {
                let aad = Header::new(clear, at)?;
                key.seal(&nonce(*salt, clear)?, aad.as_bytes(), text, icv).ok_or(Failed)?;
            }
            Self::Gmac { key, salt } => {
                let nonce = nonce(*salt, clear)?;
                with_contiguous_header(packet, at, |covered, icv| {
                    let aad = aead::Aad::new(covered);
                    let tag = icv.get_mut(..16).ok_or(Failed)?;
                    let job = SealJob::in_place(key, nonce, aad, &mut [], tag)?;
                    aead::seal_burst(&mut [job]);
                    Ok(())
                })?;
            }
            Self::Separate { cipher, mac } => {
                match cipher {
                    SeparateCipher::Null => {}
                    SeparateCipher::Cbc { seal, .. } => {
                        let iv: [u8; 16] = explicit_iv(clear)?;
                        let context = EncryptionContext::Iv128(FixedLength::from(iv));
                        seal.less_safe_encrypt(text, context)?;
                    }
                    SeparateCipher::Ctr { key, nonce } => count(key, *nonce, clear, text)?,
                }
                if let Some(mac) = mac {
                    let covered = packet.get(at.esp..at.end()).ok_or(Failed)?;
                    let tag = mac.tag(covered, at);
                    let icv = packet.get_mut(at.end()..).and_then(|p| p.get_mut(..mac.icv_len));
                    icv.ok_or(Failed)?.copy_from_slice(&tag[..mac.icv_len]);
                }
            }
        }
        Ok(())
    }

    /// Verifies and decrypts one packet. When it fails, what the text holds is of no use.
    pub(crate) fn open(&self, packet: &mut [u8], at: Place) -> Result<(), Failed> {
        let (before, rest) = packet.split_at_mut_checked(at.text).ok_or(Failed)?;
        let (text, icv) = rest.split_at_mut_checked(at.text_len).ok_or(Failed)?;
        let clear = before.get(at.esp..).ok_or(Failed)?;
        match self {
            Self::ChaCha { key, salt } => {
                let nonce = Nonce::assume_unique_for_key(nonce(*salt, clear)?);
                let aad = Header::new(clear, at)?;
                let tag = icv.get(..16).ok_or(Failed)?;
                key.open_in_place_separate_tag(nonce, aad.as_aad(), tag, text)?;
            }
            Self::Ccm { key, salt } => {
                let aad = Header::new(clear, at)?;
                key.open(&nonce(*salt, clear)?, aad.as_bytes(), text, icv).ok_or(Failed)?;
            }
            Self::Gmac { key, salt } => {
                let nonce = nonce(*salt, clear)?;
                with_contiguous_header(packet, at, |covered, icv| {
                    let aad = aead::Aad::new(covered);
                    let tag = icv.get(..16).ok_or(Failed)?;
                    let mut burst = [OpenJob::in_place(key, nonce, aad, &mut [], tag)?];
                    aead::open_burst(&mut burst);
                    burst[0].verdict().map_err(|_| Failed)
                })?;
            }
            Self::Separate { cipher, mac } => {
                if let Some(mac) = mac {
                    let icv = icv.get(..mac.icv_len).ok_or(Failed)?;
                    let mut expected = [0; MAX_TAG];
                    expected[..mac.icv_len].copy_from_slice(icv);
                    let covered = packet.get(at.esp..at.end()).ok_or(Failed)?;
                    let tag = mac.tag(covered, at);
                    let (tag, expected) = (&tag[..mac.icv_len], &expected[..mac.icv_len]);
                    constant_time::verify_slices_are_equal(tag, expected)?;
                }
                let (before, rest) = packet.split_at_mut_checked(at.text).ok_or(Failed)?;
                let text = rest.get_mut(..at.text_len).ok_or(Failed)?;
                let clear = before.get(at.esp..).ok_or(Failed)?;
                match cipher {
                    SeparateCipher::Null => {}
                    SeparateCipher::Cbc { open, .. } => {
                        let iv: [u8; 16] = explicit_iv(clear)?;
                        open.decrypt(text, DecryptionContext::Iv128(FixedLength::from(iv)))?;
                    }
                    SeparateCipher::Ctr { key, nonce } => count(key, *nonce, clear, text)?,
                }
            }
        }
        Ok(())
    }
}

/// Counter mode with RFC 3686's block: nonce, IV, and a counter that begins at one.
fn count(key: &EncryptingKey, nonce: [u8; 4], clear: &[u8], text: &mut [u8]) -> Result<(), Failed> {
    let iv: [u8; 8] = explicit_iv(clear)?;
    let mut block = [0; 16];
    block[..4].copy_from_slice(&nonce);
    block[4..12].copy_from_slice(&iv);
    block[15] = 1;
    key.less_safe_encrypt(text, EncryptionContext::Iv128(FixedLength::from(block)))?;
    Ok(())
}

/// The IV behind the clear header.
fn explicit_iv<const N: usize>(clear: &[u8]) -> Result<[u8; N], Failed> {
    clear.get(HEADER_LEN..).and_then(|iv| iv.try_into().ok()).ok_or(Failed)
}

/// Salt and explicit IV.
fn nonce<const S: usize, const N: usize>(salt: [u8; S], clear: &[u8]) -> Result<[u8; N], Failed> {
    let iv: [u8; 8] = explicit_iv(clear)?;
    let mut nonce = [0; N];
    let (head, tail) = nonce.split_at_mut_checked(S).ok_or(Failed)?;
    head.copy_from_slice(&salt);
    tail.get_mut(..8).ok_or(Failed)?.copy_from_slice(&iv);
    Ok(nonce)
}

/// SPI and sequence number as combined modes authenticate them.
struct Header {
    bytes: [u8; 12],
    len: usize,
}

impl Header {
    fn new(clear: &[u8], at: Place) -> Result<Self, Failed> {
        let [a, b, c, d, e, f, g, h] = *clear.first_chunk::<8>().ok_or(Failed)?;
        let [i, j, k, l] = high_half(at);
        Ok(if at.esn {
            Self { bytes: [a, b, c, d, i, j, k, l, e, f, g, h], len: 12 }
        } else {
            Self { bytes: [a, b, c, d, e, f, g, h, 0, 0, 0, 0], len: 8 }
        })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn as_aad(&self) -> aws_lc_rs::aead::Aad<&[u8]> {
        aws_lc_rs::aead::Aad::from(self.as_bytes())
    }
}

fn high_half(at: Place) -> [u8; 4] {
    ((at.sequence >> 32) as u32).to_be_bytes()
}

/// Runs `f` over the bytes that GMAC covers, SPI to next header, and the ICV behind them. With 64-bit
/// numbers the high half belongs between SPI and low half (RFC 4543 §3.3), so the SPI moves four bytes
/// up into the header before it for as long as `f` runs.
fn with_contiguous_header(
    packet: &mut [u8],
    at: Place,
    f: impl FnOnce(&[u8], &mut [u8]) -> Result<(), Failed>,
) -> Result<(), Failed> {
    let start = if at.esn { at.esp.checked_sub(4).ok_or(Failed)? } else { at.esp };
    let (covered, icv) = packet.split_at_mut_checked(at.end()).ok_or(Failed)?;
    let covered = covered.get_mut(start..).ok_or(Failed)?;
    if !at.esn {
        return f(covered, icv);
    }
    let head = covered.first_chunk_mut::<8>().ok_or(Failed)?;
    let saved = *head;
    let [.., a, b, c, d] = saved;
    let [i, j, k, l] = high_half(at);
    *head = [a, b, c, d, i, j, k, l];
    let result = f(covered, icv);
    if let Some(head) = covered.first_chunk_mut::<8>() {
        *head = saved;
    }
    result
}

const MAX_TAG: usize = 64;

impl Mac {
    /// `None` for a transform that is not here or a key it does not take.
    pub(crate) fn new(integrity: Integrity, key: &[u8]) -> Option<Self> {
        let hmac = |algorithm| MacKey::Hmac(hmac::Key::new(algorithm, key));
        let key = match integrity {
            Integrity::HmacSha1_96 => hmac(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            Integrity::HmacSha256_128 => hmac(hmac::HMAC_SHA256),
            Integrity::HmacSha384_192 => hmac(hmac::HMAC_SHA384),
            Integrity::HmacSha512_256 => hmac(hmac::HMAC_SHA512),
            Integrity::AesCmac96 => {
                MacKey::CbcMac(Box::new(CbcMac::new(Subkeys::Cmac, key.try_into().ok()?)))
            }
            Integrity::AesXcbc96 => {
                MacKey::CbcMac(Box::new(CbcMac::new(Subkeys::Xcbc, key.try_into().ok()?)))
            }
            Integrity::AesGmac | Integrity::HmacMd5_96 => return None,
        };
        Some(Self { key, icv_len: integrity.icv_len() })
    }

    /// The whole tag over `covered` and, with 64-bit numbers, the high half behind it (RFC 4303 §2.2.1).
    fn tag(&self, covered: &[u8], at: Place) -> [u8; MAX_TAG] {
        let high = high_half(at);
        let high = if at.esn { &high[..] } else { &[] };
        let mut out = [0; MAX_TAG];
        match &self.key {
            MacKey::Hmac(key) => {
                let mut context = hmac::Context::with_key(key);
                context.update(covered);
                context.update(high);
                let tag = context.sign();
                let tag = tag.as_ref();
                out[..tag.len()].copy_from_slice(tag);
            }
            MacKey::CbcMac(key) => out[..16].copy_from_slice(&key.tag(&[covered, high])),
        }
        out
    }
}
