//! The encrypted payload and its fragments (RFC 7296 §3.14, RFC 5282, RFC 7383 §2.5).
//!
//! ```text
//! | Next Payload  |C|  RESERVED   |         Payload Length        |   associated: the datagram up to here
//! [        Fragment Number        |        Total Fragments        ]   and, in SKF, to here
//! |                     Initialization Vector                     |
//! ~                   Encrypted IKE Payloads                      ~
//! |               |             Padding (0-255 octets)            |
//! |                                               |  Pad Length   |
//! ~                    Integrity Checksum Data                    ~
//! ```

use ipsec::algorithm::KeyMaterial;
use zeroize::Zeroizing;

use crate::message::v2::{Encrypted, FragmentNumber, PayloadType, Payloads};
use crate::message::{
    EncryptionId, GENERIC_HEADER_LEN, HEADER_LEN, Header, IntegrityId, InvalidMessage,
    MessageTooLong, PayloadList,
};

use super::aead::{Aead, IV_LEN};
use super::cipher::{AesBlock, AesCbc, AesCtr, BLOCK};
use super::{CryptoFailure, DirectionKeys, KeySizes, Prf, equal};

/// An encryption transform of an IKE SA with its key length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SkCipher {
    id: EncryptionId,
    key_len: usize,
}

impl SkCipher {
    /// `None` for a transform that cannot protect IKE messages here, or a key length that it does not have.
    pub const fn new(id: EncryptionId, key_bits: Option<u16>) -> Option<Self> {
        let key_len = match (id, key_bits) {
            (
                EncryptionId::AesCbc
                | EncryptionId::AesCtr
                | EncryptionId::AesCcm8
                | EncryptionId::AesCcm12
                | EncryptionId::AesCcm16
                | EncryptionId::AesGcm8
                | EncryptionId::AesGcm12
                | EncryptionId::AesGcm16,
                Some(bits),
            ) => match bits {
                128 => 16,
                192 => 24,
                256 => 32,
                _ => return None,
            },
            (EncryptionId::ChaCha20Poly1305, None) => 32,
            _ => return None,
        };
        Some(Self { id, key_len })
    }

    /// Whether it protects integrity itself.
    pub const fn is_aead(self) -> bool {
        !matches!(self.id, EncryptionId::AesCbc | EncryptionId::AesCtr)
    }

    /// Octets of SK_e: the key, and the salt behind it (RFC 5282 §7.1, RFC 5930 §2, RFC 7634 §4).
    pub const fn keymat_len(self) -> usize {
        let salt = match self.id {
            EncryptionId::AesCbc => 0,
            EncryptionId::AesCcm8 | EncryptionId::AesCcm12 | EncryptionId::AesCcm16 => 3,
            _ => 4,
        };
        self.key_len.saturating_add(salt)
    }

    const fn aead_icv_len(self) -> usize {
        match self.id {
            EncryptionId::AesGcm8 | EncryptionId::AesCcm8 => 8,
            EncryptionId::AesGcm12 | EncryptionId::AesCcm12 => 12,
            EncryptionId::AesGcm16 | EncryptionId::AesCcm16 | EncryptionId::ChaCha20Poly1305 => 16,
            _ => 0,
        }
    }
}

/// An integrity transform of an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SkIntegrity {
    /// AUTH_HMAC_SHA1_96.
    HmacSha1_96,
    /// AUTH_HMAC_SHA2_256_128.
    HmacSha2_256_128,
    /// AUTH_HMAC_SHA2_384_192.
    HmacSha2_384_192,
    /// AUTH_HMAC_SHA2_512_256.
    HmacSha2_512_256,
    /// AUTH_AES_XCBC_96.
    AesXcbc96,
    /// AUTH_AES_CMAC_96.
    AesCmac96,
}

impl SkIntegrity {
    /// Every transform.
    pub const ALL: [Self; 6] = [
        Self::HmacSha1_96,
        Self::HmacSha2_256_128,
        Self::HmacSha2_384_192,
        Self::HmacSha2_512_256,
        Self::AesXcbc96,
        Self::AesCmac96,
    ];

    /// The transform with an IANA number, if it can be done here.
    pub fn from_id(id: IntegrityId) -> Option<Self> {
        Self::ALL.into_iter().find(|integrity| integrity.id() == id)
    }

    /// The IANA number.
    pub const fn id(self) -> IntegrityId {
        match self {
            Self::HmacSha1_96 => IntegrityId::HmacSha1_96,
            Self::HmacSha2_256_128 => IntegrityId::HmacSha2_256_128,
            Self::HmacSha2_384_192 => IntegrityId::HmacSha2_384_192,
            Self::HmacSha2_512_256 => IntegrityId::HmacSha2_512_256,
            Self::AesXcbc96 => IntegrityId::AesXcbc96,
            Self::AesCmac96 => IntegrityId::AesCmac96,
        }
    }

    /// Octets of SK_a.
    pub const fn key_len(self) -> usize {
        self.function().output_len()
    }

    /// Octets of the checksum.
    pub const fn icv_len(self) -> usize {
        match self {
            Self::HmacSha1_96 | Self::AesXcbc96 | Self::AesCmac96 => 12,
            Self::HmacSha2_256_128 => 16,
            Self::HmacSha2_384_192 => 24,
            Self::HmacSha2_512_256 => 32,
        }
    }

    /// The function that is truncated (RFC 4868 §2.1, RFC 3566, RFC 4494).
    const fn function(self) -> Prf {
        match self {
            Self::HmacSha1_96 => Prf::HmacSha1,
            Self::HmacSha2_256_128 => Prf::HmacSha2_256,
            Self::HmacSha2_384_192 => Prf::HmacSha2_384,
            Self::HmacSha2_512_256 => Prf::HmacSha2_512,
            Self::AesXcbc96 => Prf::Aes128Xcbc,
            Self::AesCmac96 => Prf::Aes128Cmac,
        }
    }
}

/// What protects an IKE SA's messages: a cipher with an integrity transform, or an AEAD alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SkSuite {
    cipher: SkCipher,
    integrity: Option<SkIntegrity>,
}

impl SkSuite {
    /// `None` unless exactly one thing protects integrity (RFC 5282 §8).
    pub const fn new(cipher: SkCipher, integrity: Option<SkIntegrity>) -> Option<Self> {
        if cipher.is_aead() == integrity.is_some() {
            return None;
        }
        Some(Self { cipher, integrity })
    }

    /// The sizes of the SA's keys.
    pub const fn key_sizes(self, prf: Prf) -> KeySizes {
        let a = match self.integrity {
            Some(integrity) => integrity.key_len(),
            None => 0,
        };
        let e = self.cipher.keymat_len();
        KeySizes { d: prf.output_len(), a, e, p: prf.output_len() }
    }

    const fn block_len(self) -> usize {
        match self.cipher.id {
            EncryptionId::AesCbc => BLOCK,
            _ => 1,
        }
    }

    const fn iv_len(self) -> usize {
        match self.cipher.id {
            EncryptionId::AesCbc => BLOCK,
            _ => IV_LEN,
        }
    }

    const fn icv_len(self) -> usize {
        match self.integrity {
            Some(integrity) => integrity.icv_len(),
            None => self.cipher.aead_icv_len(),
        }
    }
}

/// Why a message of ours could not be protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It does not fit its length fields, or not into 65,535 fragments.
    #[error(transparent)]
    TooLong(#[from] MessageTooLong),
    /// Every initialization vector of the key has been used: the SA must be replaced.
    #[error("no initialization vector is left")]
    Exhausted,
    /// The library failed.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
}

/// Why a received encrypted payload is not opened. All of them mean: drop the message, answer nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Too short for vector, pad length and checksum, or not whole blocks.
    #[error("the encrypted payload has an impossible length")]
    Length,
    /// The checksum is wrong.
    #[error("the integrity check failed")]
    Integrity,
    /// It is authentic, but says that it is padded by more octets than there are.
    #[error("the padding is longer than the content")]
    Padding,
    /// The library failed.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
}

/// The keys of one direction, ready for use.
struct Keys {
    suite: SkSuite,
    cipher: CipherKey,
    integrity: KeyMaterial,
}

enum CipherKey {
    Cbc { cbc: Box<AesCbc>, iv: Box<AesBlock> },
    Ctr { ctr: AesCtr, nonce: [u8; 4] },
    Aead(Aead),
}

impl Keys {
    fn new(suite: SkSuite, keys: DirectionKeys) -> Result<Self, CryptoFailure> {
        let DirectionKeys { encryption, integrity } = keys;
        let expected = suite.integrity.map_or(0, SkIntegrity::key_len);
        if encryption.len() != suite.cipher.keymat_len() || integrity.len() != expected {
            return Err(CryptoFailure);
        }
        let (key, salt) =
            encryption.expose().split_at_checked(suite.cipher.key_len).ok_or(CryptoFailure)?;
        let cipher = match suite.cipher.id {
            EncryptionId::AesCbc => CipherKey::Cbc {
                cbc: Box::new(AesCbc::new(key)?),
                iv: Box::new(AesBlock::new(key)?),
            },
            EncryptionId::AesCtr => CipherKey::Ctr {
                ctr: AesCtr::new(key)?,
                nonce: salt.try_into().map_err(|_| CryptoFailure)?,
            },
            EncryptionId::AesCcm8 | EncryptionId::AesCcm12 | EncryptionId::AesCcm16 => {
                CipherKey::Aead(Aead::ccm(key, salt, suite.cipher.aead_icv_len())?)
            }
            EncryptionId::ChaCha20Poly1305 => CipherKey::Aead(Aead::chacha(key, salt)?),
            _ => CipherKey::Aead(Aead::gcm(key, salt, suite.cipher.aead_icv_len())?),
        };
        Ok(Self { suite, cipher, integrity })
    }

    fn icv(&self, parts: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, CryptoFailure> {
        let integrity = self.suite.integrity.ok_or(CryptoFailure)?;
        let mut icv = integrity.function().compute(self.integrity.expose(), parts)?;
        icv.truncate(integrity.icv_len());
        Ok(icv)
    }
}

/// RFC 5930 §2.1, RFC 3686 §4: nonce, vector, and a block counter from one.
fn ctr_block(nonce: [u8; 4], iv: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let octets = nonce.iter().chain(iv.iter().take(IV_LEN));
    for (to, from) in block.iter_mut().zip(octets) {
        *to = *from;
    }
    if let Some(last) = block.last_mut() {
        *last = 1;
    }
    block
}

/// Protects what we send on one IKE SA.
pub struct SkSealer {
    keys: Keys,
    /// The next vector; never taken back, so that none comes twice under the key.
    counter: u64,
}

impl SkSealer {
    /// `keys` are the ones of our direction.
    ///
    /// # Errors
    /// [`CryptoFailure`] when the keys have not the suite's sizes.
    pub fn new(suite: SkSuite, keys: DirectionKeys) -> Result<Self, CryptoFailure> {
        Ok(Self { keys: Keys::new(suite, keys)?, counter: 0 })
    }

    /// A whole message whose only payload is SK.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal(&mut self, header: &Header, payloads: &PayloadList) -> Result<Vec<u8>, SealError> {
        self.message(header, None, payloads.first(), payloads.bytes()?)
    }

    /// The message in one datagram if that has at most `max_len` octets, else as SKF fragments of at most that size
    /// (RFC 7383 §2.5.1).
    ///
    /// # Errors
    /// [`SealError`]; [`SealError::TooLong`] also when `max_len` leaves no room for content.
    pub fn seal_within(
        &mut self,
        header: &Header,
        payloads: &PayloadList,
        max_len: usize,
    ) -> Result<Vec<Vec<u8>>, SealError> {
        let content = payloads.bytes()?;
        if self.message_len(false, content.len()) <= max_len {
            return Ok(vec![self.seal(header, payloads)?]);
        }
        let block = self.keys.suite.block_len();
        let room = max_len.saturating_sub(self.overhead(true));
        // Whole blocks, of which the pad length takes the last octet.
        let room = room.saturating_sub(room.checked_rem(block).unwrap_or(0)).saturating_sub(1);
        if room == 0 {
            return Err(MessageTooLong.into());
        }
        let total = u16::try_from(content.len().div_ceil(room)).map_err(|_| MessageTooLong)?;
        let mut fragments = Vec::with_capacity(usize::from(total));
        for (number, part) in (1..=total).zip(content.chunks(room)) {
            let fragment = FragmentNumber::new(number, total).map_err(|_| MessageTooLong)?;
            let inner = if number == 1 { payloads.first() } else { 0 };
            fragments.push(self.message(header, Some(fragment), inner, part)?);
        }
        Ok(fragments)
    }

    /// Octets around the padded content.
    const fn overhead(&self, fragment: bool) -> usize {
        let suite = self.keys.suite;
        let fragment = if fragment { FragmentNumber::LEN } else { 0 };
        HEADER_LEN + GENERIC_HEADER_LEN + fragment + suite.iv_len() + suite.icv_len()
    }

    const fn message_len(&self, fragment: bool, content: usize) -> usize {
        let padded = content.saturating_add(1).next_multiple_of(self.keys.suite.block_len());
        padded.saturating_add(self.overhead(fragment))
    }

    fn message(
        &mut self,
        header: &Header,
        fragment: Option<FragmentNumber>,
        inner: u8,
        content: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let len = self.message_len(fragment.is_some(), content.len());
        let len = u16::try_from(len).map_err(|_| MessageTooLong)?;
        let payload_len = len.saturating_sub(28);
        let kind = match fragment {
            None => PayloadType::Encrypted,
            Some(_) => PayloadType::EncryptedFragment,
        };
        let mut out = Vec::with_capacity(usize::from(len));
        header.emit(kind.number(), u32::from(len), &mut out);
        out.extend_from_slice(&[inner, 0]);
        out.extend_from_slice(&payload_len.to_be_bytes());
        if let Some(fragment) = fragment {
            out.extend_from_slice(&fragment.number().to_be_bytes());
            out.extend_from_slice(&fragment.total().to_be_bytes());
        }
        self.protect(&mut out, content)?;
        Ok(out)
    }

    /// Appends vector, ciphertext and checksum to the associated octets.
    fn protect(&mut self, out: &mut Vec<u8>, content: &[u8]) -> Result<(), SealError> {
        let block = self.keys.suite.block_len();
        let padded = content.len().saturating_add(1).next_multiple_of(block);
        let padding = padded.saturating_sub(content.len()).saturating_sub(1);
        let mut text = Zeroizing::new(Vec::with_capacity(padded));
        text.extend_from_slice(content);
        // "The sender SHOULD set … Padding to … any value": zeros.
        text.resize(padded.saturating_sub(1), 0);
        text.push(u8::try_from(padding).map_err(|_| CryptoFailure)?);

        let counter = self.counter;
        self.counter = counter.checked_add(1).ok_or(SealError::Exhausted)?;
        match &self.keys.cipher {
            CipherKey::Cbc { cbc, iv } => {
                // A counter under the forward cipher is unpredictable without the key and never repeats
                // (NIST SP 800-38A appendix C, the first method).
                let mut vector = [0; BLOCK];
                for (to, from) in vector.iter_mut().rev().zip(counter.to_le_bytes()) {
                    *to = from;
                }
                iv.encrypt(&mut vector)?;
                cbc.encrypt(&vector, &mut text)?;
                out.extend_from_slice(&vector);
            }
            CipherKey::Ctr { ctr, nonce } => {
                let vector = counter.to_be_bytes();
                ctr.apply(&ctr_block(*nonce, &vector), &mut text)?;
                out.extend_from_slice(&vector);
            }
            CipherKey::Aead(aead) => {
                let vector = counter.to_be_bytes();
                let tag = aead.seal(vector, out, &mut text)?;
                out.extend_from_slice(&vector);
                out.extend_from_slice(&text);
                out.extend_from_slice(&tag);
                return Ok(());
            }
        }
        out.extend_from_slice(&text);
        let icv = self.keys.icv(&[out])?;
        out.extend_from_slice(&icv);
        Ok(())
    }
}

/// Opens what the peer sends on one IKE SA.
pub struct SkOpener {
    keys: Keys,
}

impl SkOpener {
    /// `keys` are the ones of the peer's direction.
    ///
    /// # Errors
    /// [`CryptoFailure`] when the keys have not the suite's sizes.
    pub fn new(suite: SkSuite, keys: DirectionKeys) -> Result<Self, CryptoFailure> {
        Ok(Self { keys: Keys::new(suite, keys)? })
    }

    /// Checks, then decrypts an SK payload or one SKF fragment.
    ///
    /// # Errors
    /// [`OpenError`]; the content is wiped then.
    pub fn open(&self, encrypted: &Encrypted<'_>) -> Result<Opened, OpenError> {
        let suite = self.keys.suite;
        let (iv, rest) =
            encrypted.content.split_at_checked(suite.iv_len()).ok_or(OpenError::Length)?;
        let text_len = rest.len().checked_sub(suite.icv_len()).ok_or(OpenError::Length)?;
        let (text, icv) = rest.split_at_checked(text_len).ok_or(OpenError::Length)?;
        if text.is_empty() || !text.len().is_multiple_of(suite.block_len()) {
            return Err(OpenError::Length);
        }
        let mut plain = Zeroizing::new(text.to_vec());
        match &self.keys.cipher {
            CipherKey::Aead(aead) => {
                let iv = iv.try_into().map_err(|_| OpenError::Length)?;
                aead.open(iv, encrypted.associated, &mut plain, icv)?;
            }
            CipherKey::Cbc { cbc, .. } => {
                self.check_icv(encrypted, iv, text, icv)?;
                let iv = iv.try_into().map_err(|_| OpenError::Length)?;
                cbc.decrypt(iv, &mut plain)?;
            }
            CipherKey::Ctr { ctr, nonce } => {
                self.check_icv(encrypted, iv, text, icv)?;
                ctr.apply(&ctr_block(*nonce, iv), &mut plain)?;
            }
        }
        let padding = plain.last().copied().ok_or(OpenError::Length)?;
        let content = plain.len().saturating_sub(1).checked_sub(usize::from(padding));
        plain.truncate(content.ok_or(OpenError::Padding)?);
        Ok(Opened { first: encrypted.inner, fragment: encrypted.fragment, content: plain })
    }

    fn check_icv(
        &self,
        encrypted: &Encrypted<'_>,
        iv: &[u8],
        text: &[u8],
        icv: &[u8],
    ) -> Result<(), OpenError> {
        let expected = self.keys.icv(&[encrypted.associated, iv, text])?;
        if equal(&expected, icv) { Ok(()) } else { Err(OpenError::Integrity) }
    }
}

/// The authentic content of an SK payload or of one fragment, padding removed.
pub struct Opened {
    /// The type of the first payload; zero in fragments after the first.
    pub first: u8,
    /// Which fragment, of an SKF payload.
    pub fragment: Option<FragmentNumber>,
    /// The octets of the payloads, or of a part of them.
    pub content: Zeroizing<Vec<u8>>,
}

impl Opened {
    /// The payloads inside, of a whole message.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn payloads(&self) -> Result<Payloads<'_>, InvalidMessage> {
        Payloads::parse_inner(self.first, &self.content)
    }
}
