//! ESP packet by packet: every suite but AES-GCM (RFC 8221 §5, §6).
//!
//! ```text
//!  seal:  text ─► cipher ─► MAC over header, IV, ciphertext (and the high sequence half) ─► ICV
//!  open:  MAC over the same, compared in constant time ─► only then the cipher
//! ```

use super::suite::{self, Salt};
use super::transform::{BlockMode, Combined, Failed, Mac};
use crate::aead::{self, GcmKey, OpenJob, SealJob};
use wire::esp::HEADER_LEN;

/// Where ESP or AH lies in a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The ESP or AH header.
    pub(crate) esp: usize,
    /// What is encrypted; with AH, what follows its header.
    pub(crate) text: usize,
    /// Its length; the ICV of ESP follows.
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

    pub(crate) fn high_half(&self) -> [u8; 4] {
        ((self.sequence >> 32) as u32).to_be_bytes()
    }
}

/// The transforms of one SA.
pub(crate) enum Serial {
    /// RFC 7634, RFC 4309.
    Combined { cipher: Combined, salt: AeadSalt },
    /// RFC 4543.
    Gmac { key: GcmKey, salt: Salt<4> },
    /// RFC 3602, RFC 2451.
    Cbc { cipher: BlockMode, mac: SeparateMac },
    /// RFC 3686, whose nonce is negotiated with the key.
    Ctr { cipher: BlockMode, nonce: Salt<4>, mac: SeparateMac },
    /// RFC 2410.
    Null { mac: SeparateMac },
}

/// The salt of a combined mode.
pub(crate) enum AeadSalt {
    Three(Salt<3>),
    Four(Salt<4>),
}

/// An integrity transform and the length it is cut to.
pub(crate) struct SeparateMac {
    pub(crate) mac: Mac,
    pub(crate) icv_len: usize,
}

impl Serial {
    /// Writes the explicit IV for a sequence number: never twice the same under a key, and with CBC
    /// unpredictable too (RFC 3602 §3), by encrypting the number under the same key (SP 800-38A
    /// Appendix C).
    pub(crate) fn write_iv(&self, sequence: u64, iv: &mut [u8]) -> Result<(), Failed> {
        match self {
            Self::Cbc { cipher, .. } => {
                // A block of 8 bytes is the number itself, one of 16 has zeros before it.
                let (zeros, number) = iv.split_last_chunk_mut().ok_or(Failed)?;
                zeros.fill(0);
                *number = sequence.to_be_bytes();
                const NO_CHAIN: [u8; 16] = [0; 16];
                cipher.encrypt(NO_CHAIN.get(..iv.len()).ok_or(Failed)?, iv)?;
            }
            Self::Null { .. } => {}
            Self::Combined { .. } | Self::Gmac { .. } | Self::Ctr { .. } => {
                let iv: &mut [u8; 8] = iv.try_into().map_err(|_| Failed)?;
                *iv = sequence.to_be_bytes();
            }
        }
        Ok(())
    }

    /// Encrypts and authenticates one packet.
    pub(crate) fn seal(&self, packet: &mut [u8], at: Place) -> Result<(), Failed> {
        let Parts { clear, text, icv } = Parts::of(packet, at)?;
        match self {
            Self::Combined { cipher, salt } => {
                let (nonce, len) = nonce(salt, explicit_iv(clear)?);
                let aad = Header::new(clear, at)?;
                return cipher.seal(&nonce[..len], aad.as_bytes(), text, icv);
            }
            Self::Gmac { key, salt } => {
                let nonce = suite::nonce(salt.bytes(), explicit_iv(clear)?);
                return with_contiguous_header(packet, at, |covered, icv| {
                    let aad = aead::Aad::new(covered);
                    let tag = icv.get_mut(..aead::TAG_LEN).ok_or(Failed)?;
                    aead::seal_burst(&mut [SealJob::in_place(key, nonce, aad, &mut [], tag)?]);
                    Ok(())
                });
            }
            Self::Cbc { cipher, .. } => cipher.encrypt(behind_header(clear)?, text)?,
            Self::Ctr { cipher, nonce, .. } => {
                cipher.encrypt(&counter_block(nonce.bytes(), explicit_iv(clear)?), text)?;
            }
            Self::Null { .. } => {}
        }
        let Some(SeparateMac { mac, icv_len }) = self.mac() else { return Err(Failed) };
        let (covered, icv) = packet.split_at_mut_checked(at.end()).ok_or(Failed)?;
        let covered = covered.get(at.esp..).ok_or(Failed)?;
        let high = at.high_half();
        let (tag, len) = mac.tag(&[covered, if at.esn { &high } else { &[] }]);
        let tag = tag[..len].get(..*icv_len).ok_or(Failed)?;
        icv.get_mut(..*icv_len).ok_or(Failed)?.copy_from_slice(tag);
        Ok(())
    }

    /// Verifies and decrypts one packet. When it fails, what the text holds is of no use.
    pub(crate) fn open(&self, packet: &mut [u8], at: Place) -> Result<(), Failed> {
        if let Some(SeparateMac { mac, icv_len }) = self.mac() {
            let (covered, icv) = packet.split_at_checked(at.end()).ok_or(Failed)?;
            let covered = covered.get(at.esp..).ok_or(Failed)?;
            let icv = icv.get(..*icv_len).ok_or(Failed)?;
            let high = at.high_half();
            mac.verify(&[covered, if at.esn { &high } else { &[] }], icv)?;
        }
        let Parts { clear, text, icv } = Parts::of(packet, at)?;
        match self {
            Self::Combined { cipher, salt } => {
                let (nonce, len) = nonce(salt, explicit_iv(clear)?);
                let aad = Header::new(clear, at)?;
                cipher.open(&nonce[..len], aad.as_bytes(), text, icv)
            }
            Self::Gmac { key, salt } => {
                let nonce = suite::nonce(salt.bytes(), explicit_iv(clear)?);
                with_contiguous_header(packet, at, |covered, icv| {
                    let aad = aead::Aad::new(covered);
                    let tag = icv.get(..aead::TAG_LEN).ok_or(Failed)?;
                    let mut burst = [OpenJob::in_place(key, nonce, aad, &mut [], tag)?];
                    aead::open_burst(&mut burst);
                    burst[0].verdict().map_err(|_| Failed)
                })
            }
            Self::Cbc { cipher, .. } => cipher.decrypt(behind_header(clear)?, text),
            Self::Ctr { cipher, nonce, .. } => {
                cipher.decrypt(&counter_block(nonce.bytes(), explicit_iv(clear)?), text)
            }
            Self::Null { .. } => Ok(()),
        }
    }

    fn mac(&self) -> Option<&SeparateMac> {
        match self {
            Self::Combined { .. } | Self::Gmac { .. } => None,
            Self::Cbc { mac, .. } | Self::Ctr { mac, .. } | Self::Null { mac } => Some(mac),
        }
    }
}

/// A packet in the pieces that transforms take.
struct Parts<'a> {
    /// From the SPI to the IV.
    clear: &'a [u8],
    text: &'a mut [u8],
    /// ICV, and whatever follows it.
    icv: &'a mut [u8],
}

impl<'a> Parts<'a> {
    fn of(packet: &'a mut [u8], at: Place) -> Result<Self, Failed> {
        let (before, rest) = packet.split_at_mut_checked(at.text).ok_or(Failed)?;
        let (text, icv) = rest.split_at_mut_checked(at.text_len).ok_or(Failed)?;
        Ok(Self { clear: before.get(at.esp..).ok_or(Failed)?, text, icv })
    }
}

/// The IV behind the clear header.
fn behind_header(clear: &[u8]) -> Result<&[u8], Failed> {
    clear.get(HEADER_LEN..).ok_or(Failed)
}

fn explicit_iv<const N: usize>(clear: &[u8]) -> Result<[u8; N], Failed> {
    behind_header(clear)?.try_into().map_err(|_| Failed)
}

/// Salt and explicit IV, and how many bytes they are together.
fn nonce(salt: &AeadSalt, iv: [u8; 8]) -> ([u8; 12], usize) {
    let mut nonce = [0; 12];
    let (three, four);
    let salt: &[u8] = match salt {
        AeadSalt::Three(salt) => {
            three = salt.bytes();
            &three
        }
        AeadSalt::Four(salt) => {
            four = salt.bytes();
            &four
        }
    };
    for (to, from) in nonce.iter_mut().zip(salt.iter().chain(&iv)) {
        *to = *from;
    }
    (nonce, salt.len() + iv.len())
}

/// RFC 3686 §4: nonce, IV, and a counter that begins at one.
fn counter_block(nonce: [u8; 4], iv: [u8; 8]) -> [u8; 16] {
    let mut block = [0; 16];
    for (to, from) in block.iter_mut().zip(nonce.into_iter().chain(iv).chain([0, 0, 0, 1])) {
        *to = from;
    }
    block
}

/// SPI and sequence number as combined modes authenticate them.
struct Header {
    bytes: [u8; 12],
    len: usize,
}

impl Header {
    fn new(clear: &[u8], at: Place) -> Result<Self, Failed> {
        let [a, b, c, d, e, f, g, h] = *clear.first_chunk::<8>().ok_or(Failed)?;
        let [i, j, k, l] = at.high_half();
        Ok(if at.esn {
            Self { bytes: [a, b, c, d, i, j, k, l, e, f, g, h], len: 12 }
        } else {
            Self { bytes: [a, b, c, d, e, f, g, h, 0, 0, 0, 0], len: 8 }
        })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
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
    let [i, j, k, l] = at.high_half();
    *head = [a, b, c, d, i, j, k, l];
    let result = f(covered, icv);
    if let Some(head) = covered.first_chunk_mut::<8>() {
        *head = saved;
    }
    result
}
