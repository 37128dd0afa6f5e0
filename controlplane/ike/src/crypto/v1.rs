//! IKEv1 keys, hashes and encryption (RFC 2409 §5 and appendix B).

use aws_lc_rs::digest;
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
            Self::Sha1 => Prf::HmacSha1,
            Self::Sha2_256 => Prf::HmacSha2_256,
            Self::Sha2_384 => Prf::HmacSha2_384,
            Self::Sha2_512 => Prf::HmacSha2_512,
        }
    }

    /// The hash of concatenated parts.
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        let algorithm = match self {
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
pub struct Iv([u8; BLOCK]);

impl Iv {
    /// Of the first encrypted message of phase 1: hash(g^xi | g^xr).
    pub fn phase1(hash: V1Hash, public_i: &[u8], public_r: &[u8]) -> Self {
        Self::cut(&hash.digest(&[public_i, public_r]))
    }

    /// Of the first message of a later exchange: hash(last block of phase 1 | M-ID).
    pub fn phase2(self, hash: V1Hash, message_id: MessageId) -> Self {
        Self::cut(&hash.digest(&[&self.0, &message_id.0.to_be_bytes()]))
    }

    /// A vector as octets.
    pub const fn from_bytes(bytes: [u8; BLOCK]) -> Self {
        Self(bytes)
    }

    /// Its octets.
    pub const fn bytes(&self) -> &[u8; BLOCK] {
        &self.0
    }

    fn cut(digest: &[u8]) -> Self {
        // Every hash has at least 20 octets.
        Self(digest.first_chunk().copied().unwrap_or_default())
    }

    fn of_ciphertext(ciphertext: &[u8]) -> Option<Self> {
        ciphertext.last_chunk().copied().map(Self)
    }
}

/// Encryption of one ISAKMP SA, both directions: AES-CBC (RFC 3602).
pub struct V1Cipher(AesCbc);

impl V1Cipher {
    /// With a key of 16, 24 or 32 octets from [`SkeyidE::encryption_key`].
    ///
    /// # Errors
    /// [`CryptoFailure`] for another length.
    pub fn aes_cbc(key: &[u8]) -> Result<Self, CryptoFailure> {
        AesCbc::new(key).map(Self)
    }

    /// Pads with zeros to whole blocks and encrypts; returns the ciphertext and the next message's vector.
    ///
    /// # Errors
    /// [`CryptoFailure`], also for nothing to encrypt.
    pub fn encrypt(&self, iv: Iv, payloads: &[u8]) -> Result<(Vec<u8>, Iv), CryptoFailure> {
        let mut out = payloads.to_vec();
        out.resize(payloads.len().next_multiple_of(BLOCK), 0);
        self.0.encrypt(&iv.0, &mut out)?;
        let next = Iv::of_ciphertext(&out).ok_or(CryptoFailure)?;
        Ok((out, next))
    }

    /// Decrypts whole blocks; returns the plaintext, padding included, and the next message's vector. Nothing is
    /// authenticated here: the HASH payload inside is what does it.
    ///
    /// # Errors
    /// [`CryptoFailure`] for nothing or for less than whole blocks.
    pub fn decrypt(
        &self,
        iv: Iv,
        ciphertext: &[u8],
    ) -> Result<(Zeroizing<Vec<u8>>, Iv), CryptoFailure> {
        let next = Iv::of_ciphertext(ciphertext).ok_or(CryptoFailure)?;
        if !ciphertext.len().is_multiple_of(BLOCK) {
            return Err(CryptoFailure);
        }
        let mut out = Zeroizing::new(ciphertext.to_vec());
        self.0.decrypt(&iv.0, &mut out)?;
        Ok((out, next))
    }
}
