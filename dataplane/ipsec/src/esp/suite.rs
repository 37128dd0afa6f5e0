//! The keyed transforms of an SA, chosen once (RFC 8221).

use super::serial::{AeadSalt, SeparateMac, Serial};
use super::transform::{BlockMode, Combined, Failed, Mac};
use crate::accounting::Contribution;
use crate::aead::{Aad, GcmKey, Key, KeyStart, Keys, Lodged, Lodging, NONCE_LEN};
use crate::ah::Ah;
use crate::algorithm::{Cipher, Integrity, KeyMaterial};
use crate::sa::{Mode, Protocol, SaError, SaParameters, Transform};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes of explicit IV that the batched path writes and reads.
pub(crate) const GCM_IV_LEN: usize = 8;

/// The transforms of one SA.
pub(crate) enum Suite {
    /// RFC 4106, by the batched engine.
    Gcm {
        /// Of an SA whose key does not lie in its table.
        keying: Option<Box<Keying>>,
    },
    /// Everything else of ESP, packet by packet.
    Serial(Box<Serial>),
    /// RFC 4302.
    Ah(Box<Ah>),
}

/// The first bytes of every nonce, which are negotiated with the key (RFC 4106 §8.1). Wiped on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Salt<const N: usize>([u8; N]);

impl<const N: usize> Salt<N> {
    /// `None` for another length.
    pub(crate) fn new(salt: &[u8]) -> Option<Self> {
        salt.try_into().ok().map(Self)
    }

    #[inline(always)]
    pub(crate) fn bytes(&self) -> [u8; N] {
        self.0
    }
}

/// Key and salt of AES-GCM. Each is wiped on drop.
pub(crate) struct Keying {
    key: GcmKey,
    salt: Salt<4>,
}

/// The key that an SA was made with, after it has been copied to where the SA lies. It is wiped when this is dropped, by whoever has the time.
pub struct Spent {
    _keying: Box<Keying>,
}

/// The key of [`Suite::Gcm`] that lies in the SA's table, and its salt.
pub(crate) struct Lodger {
    key: Lodged,
    salt: Salt<4>,
}

/// An SA with its transforms, and with room for a key's beginning amid what packets need. The whole key lies in its table of SAs.
pub(crate) trait Keyed {
    fn keying(&self) -> (&KeyStart, Option<&Lodger>, &Suite);

    fn keying_mut(&mut self) -> (&mut KeyStart, &mut Option<Lodger>, &mut Suite);

    /// Moves the key to where it stays, now that the SA lies where it stays. What was moved is given back, to be dropped.
    fn settle(&mut self, lodging: &mut Lodging) -> Option<Spent> {
        let (start, lodger, suite) = self.keying_mut();
        let Suite::Gcm { keying } = suite else { return None };
        let Keying { key, salt: Salt(salt) } = &**keying.as_ref()?;
        *lodger = Some(Lodger { key: lodging.take_in(start, key)?, salt: Salt(*salt) });
        keying.take().map(|keying| Spent { _keying: keying })
    }
}

/// An SA of a table, and its key there.
#[derive(Debug)]
pub(crate) struct Settled<'a, T> {
    pub(crate) sa: &'a T,
    pub(crate) lodging: &'a Lodging,
}

impl<T> Clone for Settled<'_, T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Settled<'_, T> {}

impl<'a, T: Keyed> Settled<'a, T> {
    /// Asks for the lines of the key that such a packet needs.
    #[inline(always)]
    pub(crate) fn prefetch_key(self, len: usize, keys: Keys) {
        if let (start, Some(lodger), _) = self.sa.keying() {
            self.lodging.prefetch(start, lodger.key, len, keys);
        }
    }

    /// Key and salt for a packet of `len` bytes of text, of an SA of the batched engine; by where `keys` are, `Near` if it is not alone with its SA.
    #[inline(always)]
    pub(crate) fn gcm(self, len: usize, keys: Keys) -> Option<(Key<'a>, [u8; 4])> {
        match self.sa.keying() {
            (start, Some(lodger), _) => {
                Some((self.lodging.key(start, lodger.key, len, keys), lodger.salt.bytes()))
            }
            (_, None, suite) => suite.gcm(),
        }
    }
}

/// What the transforms add to a packet, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) iv: u8,
    pub(crate) icv: u8,
    /// What payload, padding and trailer together are a multiple of.
    pub(crate) align: u8,
}

impl Suite {
    pub(crate) fn new(parameters: &SaParameters) -> Result<(Self, Sizes), SaError> {
        let SaParameters { protocol, transform, .. } = parameters;
        if *protocol == Protocol::Ah {
            // Nothing stands behind the packet, and nothing is aligned.
            let sizes = Sizes { iv: 0, icv: 0, align: 1 };
            return Ok((Self::Ah(Box::new(Ah::new(transform)?)), sizes));
        }
        let Transform { cipher, cipher_key, integrity } = transform;
        let cipher = *cipher;
        let key_lens = cipher.key_lens();
        let wrong_length = SaError::CipherKeyLength { cipher, got: cipher_key.len() };
        let key_len =
            cipher_key.len().checked_sub(cipher.salt_len()).filter(|len| key_lens.contains(len));
        let (key, salt) = cipher_key.expose().split_at(key_len.ok_or(wrong_length)?);
        match integrity {
            Some(_) if cipher.is_combined() => return Err(SaError::UnwantedIntegrity(cipher)),
            None if !cipher.is_combined() => return Err(SaError::MissingIntegrity(cipher)),
            Some((integrity, key)) if key.len() != integrity.key_len() => {
                return Err(SaError::IntegrityKeyLength { integrity: *integrity, got: key.len() });
            }
            Some(_) | None => {}
        }
        let iv = cipher.iv_len() as u8;
        let sizes = |icv, align| Sizes { iv, icv, align };
        let serial = |serial| Self::Serial(Box::new(serial));
        let (suite, sizes) = match cipher {
            Cipher::AesGcm(icv) | Cipher::AesCcm(icv) if !matches!(icv, 8 | 12 | 16) => {
                return Err(SaError::IcvLength(cipher));
            }
            Cipher::AesGcm(icv) => {
                let key = GcmKey::new(key).map_err(|_| wrong_length)?;
                let salt = Salt::new(salt).ok_or(wrong_length)?;
                (Self::Gcm { keying: Some(Box::new(Keying { key, salt })) }, sizes(icv, 4))
            }
            Cipher::AesCcm(icv) => {
                let salt = AeadSalt::Three(Salt::new(salt).ok_or(wrong_length)?);
                let cipher = Combined::new(cipher, key).ok_or(wrong_length)?;
                (serial(Serial::Combined { cipher, salt }), sizes(icv, 4))
            }
            Cipher::AesGmac => {
                let key = GcmKey::new(key).map_err(|_| wrong_length)?;
                let salt = Salt::new(salt).ok_or(wrong_length)?;
                (serial(Serial::Gmac { key, salt }), sizes(16, 4))
            }
            Cipher::ChaCha20Poly1305 => {
                let salt = AeadSalt::Four(Salt::new(salt).ok_or(wrong_length)?);
                let cipher = Combined::new(cipher, key).ok_or(wrong_length)?;
                (serial(Serial::Combined { cipher, salt }), sizes(16, 4))
            }
            Cipher::AesCbc | Cipher::AesCtr | Cipher::Null | Cipher::TripleDesCbc => {
                let mac = separate_mac(cipher, integrity.as_ref())?;
                if cipher == Cipher::TripleDesCbc && crate::legacy::is_single_des(key) {
                    return Err(SaError::WeakKey(cipher));
                }
                let icv = mac.icv_len as u8;
                let mode = BlockMode::new(cipher, key).ok_or(SaError::UnsupportedCipher(cipher))?;
                match cipher {
                    Cipher::AesCbc => (serial(Serial::Cbc { cipher: mode, mac }), sizes(icv, 16)),
                    Cipher::TripleDesCbc => {
                        (serial(Serial::Cbc { cipher: mode, mac }), sizes(icv, 8))
                    }
                    Cipher::AesCtr => {
                        let nonce = Salt::new(salt).ok_or(wrong_length)?;
                        (serial(Serial::Ctr { cipher: mode, nonce, mac }), sizes(icv, 4))
                    }
                    _ => (serial(Serial::Null { mac }), sizes(icv, 4)),
                }
            }
        };
        Ok((suite, sizes))
    }

    /// Key and salt of the batched engine, unless the key has moved.
    fn gcm(&self) -> Option<(Key<'_>, [u8; 4])> {
        match self {
            Self::Gcm { keying: Some(keying) } => Some(((&keying.key).into(), keying.salt.bytes())),
            _ => None,
        }
    }

    /// Writes the explicit IV of a packet; it never repeats under a key.
    #[inline]
    pub(crate) fn write_iv(&self, sequence: u64, iv: &mut [u8]) -> Result<(), Failed> {
        match self {
            Self::Gcm { .. } => {
                *iv.first_chunk_mut::<GCM_IV_LEN>().ok_or(Failed)? = sequence.to_be_bytes();
                Ok(())
            }
            Self::Serial(serial) => serial.write_iv(sequence, iv),
            Self::Ah(_) => {
                // Of GMAC only: the number itself (RFC 4543 §3.1).
                if let Some(iv) = iv.first_chunk_mut() {
                    *iv = sequence.to_be_bytes();
                }
                Ok(())
            }
        }
    }
}

fn separate_mac(
    cipher: Cipher,
    integrity: Option<&(Integrity, KeyMaterial)>,
) -> Result<SeparateMac, SaError> {
    let (integrity, key) = integrity.ok_or(SaError::MissingIntegrity(cipher))?;
    let mac = Mac::new(*integrity, key.expose());
    let mac = mac.ok_or(SaError::UnsupportedIntegrity(*integrity))?;
    Ok(SeparateMac { mac, icv_len: integrity.icv_len() })
}

/// What both directions check before they build anything.
pub(crate) fn check(parameters: &SaParameters) -> Result<Contribution, SaError> {
    let SaParameters { protocol, mode, local, remote, encap, transform, selectors, .. } =
        parameters;
    if local.is_ipv4() != remote.is_ipv4() {
        return Err(SaError::AddressFamilies);
    }
    if selectors.is_empty() {
        return Err(SaError::NoSelectors);
    }
    match protocol {
        Protocol::Ah if encap.is_some() => return Err(SaError::EncapWithAh),
        Protocol::Ah if transform.cipher != Cipher::Null => return Err(SaError::CipherWithAh),
        Protocol::Ah | Protocol::Esp => {}
    }
    Ok(Contribution {
        confidential: transform.cipher.is_confidential(),
        authenticated: true,
        tunnel: *mode == Mode::Tunnel,
    })
}

/// Salt and explicit IV (RFC 4106 §4).
#[inline]
pub(crate) fn nonce(salt: [u8; 4], iv: [u8; GCM_IV_LEN]) -> [u8; NONCE_LEN] {
    let [a, b, c, d] = salt;
    let [e, f, g, h, i, j, k, l] = iv;
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

/// SPI and sequence number, with its high half in the middle when that is 64 bits (RFC 4106 §5).
#[inline]
pub(crate) fn aad<'a>(spi: u32, sequence: u64, esn: bool) -> Aad<'a> {
    Aad::esp(spi, sequence, esn)
}
