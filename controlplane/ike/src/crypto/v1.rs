//! IKEv1 keys, hashes and encryption (RFC 2409 §5 and appendix B).

use aws_lc_rs::digest;
use ipsec::legacy::{self, TripleDes};
use zeroize::Zeroizing;

use crate::message::{IkeSpi, MessageId, ProtocolId};

use super::cipher::{AesCbc, BLOCK};
use super::{CryptoFailure, Prf, equal};

/// SKEYID.
pub struct Skeyid {
    prf: Prf,
    key: Zeroizing<Vec<u8>>,
}

impl Skeyid {
    /// prf(pre-shared-key, Ni_b | Nr_b).
    ///
    /// # Errors
    /// [`CryptoFailure`].
    pub fn from_psk(prf: Prf, psk: &[u8], ni: &[u8], nr: &[u8]) -> Result<Self, CryptoFailure> {
        Ok(Self { prf, key: prf.compute(psk, &[ni, nr])? })
    }

    /// prf(Ni_b | Nr_b, g^xy), for signatures and for GSS-API.
    ///
    /// # Errors
    /// [`CryptoFailure`].
    pub fn from_exchange(
        prf: Prf,
        ni: &[u8],
        nr: &[u8],
        shared: &[u8],
    ) -> Result<Self, CryptoFailure> {
        let key = [ni, nr].concat();
        Ok(Self { prf, key: prf.compute(&key, &[shared])? })
    }

    /// SKEYID_d, SKEYID_a and SKEYID_e; the cookies are the SA's SPIs.
    ///
    /// # Errors
    /// [`CryptoFailure`].
    pub fn derive(
        self,
        shared: &[u8],
        cky_i: IkeSpi,
        cky_r: IkeSpi,
    ) -> Result<V1Keys, CryptoFailure> {
        let next = |before: &[u8], number: u8| {
            self.prf.compute(&self.key, &[before, shared, &cky_i.0, &cky_r.0, &[number]])
        };
        let d = next(&[], 0)?;
        let a = next(&d, 1)?;
        let e = next(&a, 2)?;
        let prf = self.prf;
        Ok(V1Keys {
            d: SkeyidD { prf, key: d },
            a: SkeyidA { prf, key: a },
            e: SkeyidE { prf, key: e },
            skeyid: self,
        })
    }

    /// HASH_I or HASH_R: prf(SKEYID, g^xi | g^xr | CKY-I | CKY-R | SAi_b | IDii_b), the signer's values first
    /// (RFC 2409 §5).
    ///
    /// # Errors
    /// [`CryptoFailure`].
    pub fn hash(&self, parts: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, CryptoFailure> {
        self.prf.compute(&self.key, parts)
    }

    /// Whether `hash` is the peer's HASH over `parts`.
    ///
    /// # Errors
    /// [`CryptoFailure`].
    pub fn verify(&self, parts: &[&[u8]], hash: &[u8]) -> Result<bool, CryptoFailure> {
        Ok(equal(&self.hash(parts)?, hash))
    }

    /// The octets, for known answers and for a key log that an operator asked for.
    pub fn expose(&self) -> &[u8] {
        &self.key
    }
}

/// The keys of one ISAKMP SA.
pub struct V1Keys {
    /// For HASH_I and HASH_R.
    pub skeyid: Skeyid,
    /// For IPsec SAs.
    pub d: SkeyidD,
    /// For the hashes of phase 2.
    pub a: SkeyidA,
    /// For encryption.
    pub e: SkeyidE,
}

/// SKEYID_d.
pub struct SkeyidD {
    prf: Prf,
    key: Zeroizing<Vec<u8>>,
}

impl SkeyidD {
    /// A known SKEYID_d, for known answers.
    pub fn from_bytes(prf: Prf, key: Vec<u8>) -> Self {
        Self { prf, key: Zeroizing::new(key) }
    }

    /// KEYMAT of one direction: K1 | K2 | …, Kn = prf(SKEYID_d, K(n-1) | [g(qm)^xy |] protocol | SPI | Ni_b | Nr_b), with the
    /// SPI of the SA's receiver (RFC 2409 §5.5).
    ///
    /// # Errors
    /// [`CryptoFailure`], also above 255 outputs, more than any transform needs.
    pub fn keymat(
        &self,
        shared: Option<&[u8]>,
        protocol: ProtocolId,
        spi: &[u8],
        ni: &[u8],
        nr: &[u8],
        len: usize,
    ) -> Result<Zeroizing<Vec<u8>>, CryptoFailure> {
        let protocol = [protocol.number()];
        let data = [shared.unwrap_or_default(), &protocol, spi, ni, nr];
        expand(self.prf, len, |last| {
            let [shared, protocol, spi, ni, nr] = data;
            self.prf.compute(&self.key, &[last, shared, protocol, spi, ni, nr])
        })
    }

    /// The octets, for known answers and for a key log that an operator asked for.
    pub fn expose(&self) -> &[u8] {
        &self.key
    }
}

/// SKEYID_a.
pub struct SkeyidA {
    prf: Prf,
    key: Zeroizing<Vec<u8>>,
}

impl SkeyidA {
    /// HASH(1) and HASH(2) of quick mode and the HASH of informational exchanges: prf(SKEYID_a, M-ID | …); HASH(3) is given
    /// its zero octet by the caller before the message ID (RFC 2409 §5.5, §5.7).
    ///
    /// # Errors
    /// [`CryptoFailure`].
    pub fn hash(&self, parts: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, CryptoFailure> {
        self.prf.compute(&self.key, parts)
    }

    /// Whether `hash` is the peer's HASH over `parts`.
    ///
    /// # Errors
    /// [`CryptoFailure`].
    pub fn verify(&self, parts: &[&[u8]], hash: &[u8]) -> Result<bool, CryptoFailure> {
        Ok(equal(&self.hash(parts)?, hash))
    }

    /// The octets, for known answers and for a key log that an operator asked for.
    pub fn expose(&self) -> &[u8] {
        &self.key
    }
}

/// SKEYID_e.
pub struct SkeyidE {
    prf: Prf,
    key: Zeroizing<Vec<u8>>,
}

impl SkeyidE {
    /// The encryption key: SKEYID_e cut, or, where it is too short, Ka = K1 | K2 | … with K1 = prf(SKEYID_e, 0) and
    /// Kn = prf(SKEYID_e, K(n-1)) (RFC 2409 appendix B).
    ///
    /// # Errors
    /// [`CryptoFailure`], also above 255 outputs.
    pub fn encryption_key(&self, len: usize) -> Result<Zeroizing<Vec<u8>>, CryptoFailure> {
        if let Some(key) = self.key.get(..len) {
            return Ok(Zeroizing::new(key.to_vec()));
        }
        expand(self.prf, len, |last| {
            let last = if last.is_empty() { &[0] } else { last };
            self.prf.compute(&self.key, &[last])
        })
    }

    /// The octets, for known answers and for a key log that an operator asked for.
    pub fn expose(&self) -> &[u8] {
        &self.key
    }
}

/// K1 | K2 | … to `len` octets, each from the one before it.
fn expand(
    prf: Prf,
    len: usize,
    next: impl Fn(&[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoFailure>,
) -> Result<Zeroizing<Vec<u8>>, CryptoFailure> {
    if len > usize::from(u8::MAX).saturating_mul(prf.output_len()) {
        return Err(CryptoFailure);
    }
    let mut out = Zeroizing::new(Vec::with_capacity(len));
    let mut last = Zeroizing::new(Vec::new());
    for _ in 0..u8::MAX {
        let missing = len.saturating_sub(out.len());
        if missing == 0 {
            return Ok(out);
        }
        last = next(&last)?;
        out.extend(last.iter().take(missing));
    }
    if out.len() == len { Ok(out) } else { Err(CryptoFailure) }
}

/// The negotiated hash, which makes initialization vectors and NAT-D payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V1Hash {
    /// MD5: legacy.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA2-256.
    Sha2_256,
    /// SHA2-384.
    Sha2_384,
    /// SHA2-512.
    Sha2_512,
}

impl V1Hash {
    /// By the number of RFC 2409 appendix A.
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Md5),
            2 => Some(Self::Sha1),
            4 => Some(Self::Sha2_256),
            5 => Some(Self::Sha2_384),
            6 => Some(Self::Sha2_512),
            _ => None,
        }
    }

    /// The HMAC of the hash, which is the prf unless another is negotiated (RFC 2409 §4).
    pub const fn prf(self) -> Prf {
        match self {
            Self::Md5 => Prf::HmacMd5,
            Self::Sha1 => Prf::HmacSha1,
            Self::Sha2_256 => Prf::HmacSha2_256,
            Self::Sha2_384 => Prf::HmacSha2_384,
            Self::Sha2_512 => Prf::HmacSha2_512,
        }
    }

    /// The hash of concatenated parts.
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        let algorithm = match self {
            Self::Md5 => return legacy::md5(parts).to_vec(),
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha2_256 => &digest::SHA256,
            Self::Sha2_384 => &digest::SHA384,
            Self::Sha2_512 => &digest::SHA512,
        };
        let mut context = digest::Context::new(algorithm);
        for part in parts {
            context.update(part);
        }
        context.finish().as_ref().to_vec()
    }
}

/// An initialization vector of one exchange: the last ciphertext block before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Iv {
    octets: [u8; BLOCK],
    /// Octets of the cipher's block.
    block: usize,
}

impl Iv {
    /// Of the first encrypted message of phase 1, for a cipher with blocks of `block` octets: hash(g^xi | g^xr).
    pub fn phase1(hash: V1Hash, block: usize, public_i: &[u8], public_r: &[u8]) -> Self {
        Self::cut(&hash.digest(&[public_i, public_r]), block)
    }

    /// Of the first message of a later exchange: hash(last block of phase 1 | M-ID).
    pub fn phase2(self, hash: V1Hash, message_id: MessageId) -> Self {
        Self::cut(&hash.digest(&[self.bytes(), &message_id.0.to_be_bytes()]), self.block)
    }

    /// A vector as octets, as many as a block has: 8 or 16.
    ///
    /// # Errors
    /// [`CryptoFailure`] for another length.
    pub fn from_bytes(octets: &[u8]) -> Result<Self, CryptoFailure> {
        match octets.len() {
            legacy::BLOCK | BLOCK => Ok(Self::cut(octets, octets.len())),
            _ => Err(CryptoFailure),
        }
    }

    /// Its octets.
    pub fn bytes(&self) -> &[u8] {
        self.octets.get(..self.block).unwrap_or(&self.octets)
    }

    /// The first block of octets; every hash has at least 16.
    fn cut(from: &[u8], block: usize) -> Self {
        let block = block.min(BLOCK);
        let mut octets = [0; BLOCK];
        for (to, from) in octets.iter_mut().zip(from.iter().take(block)) {
            *to = *from;
        }
        Self { octets, block }
    }

    fn of_ciphertext(ciphertext: &[u8], block: usize) -> Option<Self> {
        let at = ciphertext.len().checked_sub(block)?;
        Some(Self::cut(ciphertext.get(at..)?, block))
    }
}

/// Encryption of one ISAKMP SA, both directions.
pub struct V1Cipher(Mode);

enum Mode {
    Aes(Box<AesCbc>),
    TripleDes(Box<TripleDes>),
}

impl V1Cipher {
    /// AES-CBC (RFC 3602), with a key of 16, 24 or 32 octets from [`SkeyidE::encryption_key`].
    ///
    /// # Errors
    /// [`CryptoFailure`] for another length.
    pub fn aes_cbc(key: &[u8]) -> Result<Self, CryptoFailure> {
        AesCbc::new(key).map(|key| Self(Mode::Aes(Box::new(key))))
    }

    /// 3DES-CBC (RFC 2409 appendix B, RFC 2451), legacy, with a key of 24 octets.
    ///
    /// # Errors
    /// [`CryptoFailure`] for another length, and for a key that makes it single DES (RFC 2451 §2.3).
    pub fn triple_des_cbc(key: &[u8]) -> Result<Self, CryptoFailure> {
        let single = legacy::is_single_des(key);
        TripleDes::new(key)
            .filter(|_| !single)
            .map(|key| Self(Mode::TripleDes(Box::new(key))))
            .ok_or(CryptoFailure)
    }

    /// Octets of a block.
    pub const fn block_len(&self) -> usize {
        match self.0 {
            Mode::Aes(_) => BLOCK,
            Mode::TripleDes(_) => legacy::BLOCK,
        }
    }

    /// Pads with zeros to whole blocks and encrypts; returns the ciphertext and the next message's vector.
    ///
    /// # Errors
    /// [`CryptoFailure`], also for nothing to encrypt and for a vector of another cipher.
    pub fn encrypt(&self, iv: Iv, payloads: &[u8]) -> Result<(Vec<u8>, Iv), CryptoFailure> {
        let mut out = payloads.to_vec();
        out.resize(payloads.len().next_multiple_of(self.block_len()), 0);
        match &self.0 {
            Mode::Aes(key) => key.encrypt(&octets(&iv)?, &mut out)?,
            Mode::TripleDes(key) => {
                key.encrypt(octets(&iv)?, &mut out).map_err(|_| CryptoFailure)?;
            }
        }
        let next = Iv::of_ciphertext(&out, self.block_len()).ok_or(CryptoFailure)?;
        Ok((out, next))
    }

    /// Decrypts whole blocks; returns the plaintext, padding included, and the next message's vector. Nothing is
    /// authenticated here: the HASH payload inside is what does it.
    ///
    /// # Errors
    /// [`CryptoFailure`] for nothing, for less than whole blocks and for a vector of another cipher.
    pub fn decrypt(
        &self,
        iv: Iv,
        ciphertext: &[u8],
    ) -> Result<(Zeroizing<Vec<u8>>, Iv), CryptoFailure> {
        let next = Iv::of_ciphertext(ciphertext, self.block_len()).ok_or(CryptoFailure)?;
        if !ciphertext.len().is_multiple_of(self.block_len()) {
            return Err(CryptoFailure);
        }
        let mut out = Zeroizing::new(ciphertext.to_vec());
        match &self.0 {
            Mode::Aes(key) => key.decrypt(&octets(&iv)?, &mut out)?,
            Mode::TripleDes(key) => {
                key.decrypt(octets(&iv)?, &mut out).map_err(|_| CryptoFailure)?;
            }
        }
        Ok((out, next))
    }
}

fn octets<const N: usize>(iv: &Iv) -> Result<[u8; N], CryptoFailure> {
    iv.bytes().try_into().map_err(|_| CryptoFailure)
}
