//! Pseudorandom functions and their expansion (RFC 7296 §2.13).

use aws_lc_rs::{cmac, hmac};
use ipsec::legacy::HmacMd5;
use zeroize::Zeroizing;

use crate::message::PrfId;

use super::CryptoFailure;
use super::cipher::{AesBlock, BLOCK};

/// A pseudorandom function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Prf {
    /// PRF_HMAC_MD5 (RFC 2104): legacy, of IKEv1 only.
    HmacMd5,
    /// PRF_HMAC_SHA1 (RFC 2104).
    HmacSha1,
    /// PRF_HMAC_SHA2_256 (RFC 4868).
    HmacSha2_256,
    /// PRF_HMAC_SHA2_384.
    HmacSha2_384,
    /// PRF_HMAC_SHA2_512.
    HmacSha2_512,
    /// PRF_AES128_XCBC (RFC 4434).
    Aes128Xcbc,
    /// PRF_AES128_CMAC (RFC 4615).
    Aes128Cmac,
}

impl Prf {
    /// Every function.
    pub const ALL: [Self; 7] = [
        Self::HmacMd5,
        Self::HmacSha1,
        Self::HmacSha2_256,
        Self::HmacSha2_384,
        Self::HmacSha2_512,
        Self::Aes128Xcbc,
        Self::Aes128Cmac,
    ];

    /// The function with an IANA number, if it can be done here.
    pub fn from_id(id: PrfId) -> Option<Self> {
        Self::ALL.into_iter().find(|prf| prf.id() == id)
    }

    /// The function with an IANA name as in `PRF_HMAC_SHA2_256`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|prf| prf.name() == name)
    }

    /// The IANA number.
    pub const fn id(self) -> PrfId {
        match self {
            Self::HmacMd5 => PrfId::HmacMd5,
            Self::HmacSha1 => PrfId::HmacSha1,
            Self::HmacSha2_256 => PrfId::HmacSha2_256,
            Self::HmacSha2_384 => PrfId::HmacSha2_384,
            Self::HmacSha2_512 => PrfId::HmacSha2_512,
            Self::Aes128Xcbc => PrfId::Aes128Xcbc,
            Self::Aes128Cmac => PrfId::Aes128Cmac,
        }
    }

    /// The IANA name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HmacMd5 => "PRF_HMAC_MD5",
            Self::HmacSha1 => "PRF_HMAC_SHA1",
            Self::HmacSha2_256 => "PRF_HMAC_SHA2_256",
            Self::HmacSha2_384 => "PRF_HMAC_SHA2_384",
            Self::HmacSha2_512 => "PRF_HMAC_SHA2_512",
            Self::Aes128Xcbc => "PRF_AES128_XCBC",
            Self::Aes128Cmac => "PRF_AES128_CMAC",
        }
    }

    /// Octets of output, which is the preferred key length too (RFC 7296 §2.13, RFC 4868 §2.1.2).
    pub const fn output_len(self) -> usize {
        match self {
            Self::HmacSha1 => 20,
            Self::HmacSha2_256 => 32,
            Self::HmacSha2_384 => 48,
            Self::HmacSha2_512 => 64,
            Self::HmacMd5 | Self::Aes128Xcbc | Self::Aes128Cmac => 16,
        }
    }

    /// prf(key, data), the data in parts.
    ///
    /// # Errors
    /// [`CryptoFailure`]; the HMAC functions never fail.
    pub fn compute(self, key: &[u8], data: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, CryptoFailure> {
        match self {
            Self::HmacMd5 => {
                let hmac = HmacMd5::new(key).ok_or(CryptoFailure)?;
                Ok(Zeroizing::new(hmac.tag(data).to_vec()))
            }
            Self::HmacSha1 => Ok(hmac_of(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key, data)),
            Self::HmacSha2_256 => Ok(hmac_of(hmac::HMAC_SHA256, key, data)),
            Self::HmacSha2_384 => Ok(hmac_of(hmac::HMAC_SHA384, key, data)),
            Self::HmacSha2_512 => Ok(hmac_of(hmac::HMAC_SHA512, key, data)),
            Self::Aes128Cmac => {
                // RFC 4615 §3: a key of another length is first made into one.
                let key = match <[u8; BLOCK]>::try_from(key) {
                    Ok(key) => Zeroizing::new(key.to_vec()),
                    Err(_) => cmac_of(&[0; BLOCK], &[key])?,
                };
                cmac_of(&key, data)
            }
            Self::Aes128Xcbc => {
                // RFC 4434 §2: a shorter key is padded with zeros, a longer one is first made into one.
                let key = if key.len() <= BLOCK {
                    let padding = vec![0; BLOCK.saturating_sub(key.len())];
                    Zeroizing::new([key, &padding].concat())
                } else {
                    xcbc_of(&[0; BLOCK], &[key])?
                };
                xcbc_of(&key, data)
            }
        }
    }

    /// prf+(key, seed), the seed in parts: `len` octets of T1 | T2 | … (RFC 7296 §2.13).
    ///
    /// # Errors
    /// [`CryptoFailure`], also for more than 255 outputs, where prf+ ends.
    pub fn plus(
        self,
        key: &[u8],
        seed: &[&[u8]],
        len: usize,
    ) -> Result<Zeroizing<Vec<u8>>, CryptoFailure> {
        if len > usize::from(u8::MAX).saturating_mul(self.output_len()) {
            return Err(CryptoFailure);
        }
        // The capacity is final, so that no reallocation leaves a copy behind.
        let mut out = Zeroizing::new(Vec::with_capacity(len));
        let mut last = Zeroizing::new(Vec::new());
        for counter in 1..=u8::MAX {
            let missing = len.saturating_sub(out.len());
            if missing == 0 {
                return Ok(out);
            }
            let mut parts = Vec::with_capacity(seed.len().saturating_add(2));
            let counter = [counter];
            parts.push(last.as_slice());
            parts.extend_from_slice(seed);
            parts.push(&counter);
            last = self.compute(key, &parts)?;
            out.extend(last.iter().take(missing));
        }
        if out.len() == len { Ok(out) } else { Err(CryptoFailure) }
    }
}

fn hmac_of(algorithm: hmac::Algorithm, key: &[u8], data: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let key = hmac::Key::new(algorithm, key);
    let mut context = hmac::Context::with_key(&key);
    for part in data {
        context.update(part);
    }
    Zeroizing::new(context.sign().as_ref().to_vec())
}

fn cmac_of(key: &[u8], data: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, CryptoFailure> {
    let key = cmac::Key::new(cmac::AES_128, key).map_err(|_| CryptoFailure)?;
    let mut context = cmac::Context::with_key(&key);
    for part in data {
        context.update(part).map_err(|_| CryptoFailure)?;
    }
    let tag = context.sign().map_err(|_| CryptoFailure)?;
    Ok(Zeroizing::new(tag.as_ref().to_vec()))
}

/// AES-XCBC-MAC without truncation (RFC 3566 §4).
fn xcbc_of(key: &[u8], data: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, CryptoFailure> {
    let master = AesBlock::new(key)?;
    let mut subkeys = Zeroizing::new([[1u8; BLOCK], [2; BLOCK], [3; BLOCK]]);
    for subkey in subkeys.iter_mut() {
        master.encrypt(subkey)?;
    }
    let [mac_key, whole, padded] = &*subkeys;
    let cipher = AesBlock::new(mac_key)?;
    let mut state = Zeroizing::new([0u8; BLOCK]);
    let mut block = Zeroizing::new(Vec::with_capacity(BLOCK));
    for &octet in data.iter().copied().flatten() {
        // The last block is finished differently, so a full one waits until it is known not to be the last.
        if block.len() == BLOCK {
            xor(&mut *state, &block);
            cipher.encrypt(&mut state)?;
            block.clear();
        }
        block.push(octet);
    }
    let finisher = if block.len() == BLOCK {
        whole
    } else {
        block.push(0x80);
        block.resize(BLOCK, 0);
        padded
    };
    xor(&mut *state, &block);
    xor(&mut *state, finisher);
    cipher.encrypt(&mut state)?;
    Ok(Zeroizing::new(state.to_vec()))
}

fn xor(into: &mut [u8], other: &[u8]) {
    for (octet, other) in into.iter_mut().zip(other) {
        *octet ^= other;
    }
}
