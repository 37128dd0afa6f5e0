//! The transforms an SA may use, with their sizes (RFC 8221, RFC 4303 §3.2).

use zeroize::Zeroizing;

/// Key bytes. Wiped on drop, never cloned, compared or printed.
pub struct KeyMaterial(Zeroizing<Vec<u8>>);

impl KeyMaterial {
    /// Takes ownership of `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The key itself, for the transform that is made from it.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key (NULL transforms).
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl core::fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "KeyMaterial({} bytes)", self.0.len())
    }
}

/// Encryption (or combined-mode) transforms of ESP, named as IANA names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// RFC 3602. Key of 16, 24 or 32 bytes.
    AesCbc,
    /// RFC 3686. Key of 16, 24 or 32 bytes and a 4-byte nonce behind it.
    AesCtr,
    /// RFC 4106, combined mode. Key of 16, 24 or 32 bytes and a 4-byte salt behind it; the
    /// argument is the ICV length in bytes: 8, 12 or 16.
    AesGcm(u8),
    /// RFC 4309, combined mode. Key and a 3-byte salt; ICV of 8, 12 or 16 bytes.
    AesCcm(u8),
    /// RFC 4543 ENCR_NULL_AUTH_AES_GMAC: integrity only, ICV of 16 bytes. Key and a 4-byte salt.
    AesGmac,
    /// RFC 7634, combined mode. Key of 32 bytes and a 4-byte salt; ICV of 16 bytes.
    ChaCha20Poly1305,
    /// RFC 2410.
    Null,
    /// RFC 2451; weak, only behind the legacy switch.
    TripleDesCbc,
}

impl Cipher {
    /// Whether the transform protects integrity itself, so that no separate one is used.
    pub fn is_combined(self) -> bool {
        matches!(self, Self::AesGcm(_) | Self::AesCcm(_) | Self::AesGmac | Self::ChaCha20Poly1305)
    }

    /// Whether no new SA should use it (RFC 8221 §5).
    pub fn is_weak(self) -> bool {
        matches!(self, Self::TripleDesCbc)
    }

    /// Whether it hides the payload (what the confidential byte counters ask).
    pub fn is_confidential(self) -> bool {
        !matches!(self, Self::Null | Self::AesGmac)
    }

    /// Bytes of salt (or nonce) that follow the key in the keying material.
    pub fn salt_len(self) -> usize {
        match self {
            Self::AesCtr | Self::AesGcm(_) | Self::AesGmac | Self::ChaCha20Poly1305 => 4,
            Self::AesCcm(_) => 3,
            Self::AesCbc | Self::Null | Self::TripleDesCbc => 0,
        }
    }

    /// Bytes of explicit IV in each packet.
    pub fn iv_len(self) -> usize {
        match self {
            Self::AesCbc => 16,
            Self::AesCtr
            | Self::AesGcm(_)
            | Self::AesCcm(_)
            | Self::AesGmac
            | Self::ChaCha20Poly1305
            | Self::TripleDesCbc => 8,
            Self::Null => 0,
        }
    }

    /// Key lengths in bytes that are valid, without salt.
    pub fn key_lens(self) -> &'static [usize] {
        match self {
            Self::AesCbc | Self::AesCtr | Self::AesGcm(_) | Self::AesCcm(_) | Self::AesGmac => {
                &[16, 24, 32]
            }
            Self::ChaCha20Poly1305 => &[32],
            Self::Null => &[0],
            Self::TripleDesCbc => &[24],
        }
    }
}

/// Integrity transforms of ESP and AH, named as IANA names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Integrity {
    /// RFC 4494, ICV of 12 bytes.
    AesCmac96,
    /// RFC 4543, in AH only: an ICV of 16 bytes behind an IV of 8. Key of 16, 24 or 32 bytes and a 4-byte salt.
    AesGmac,
    /// RFC 3566, ICV of 12 bytes.
    AesXcbc96,
    /// RFC 2403; weak, only behind the legacy switch. ICV of 12 bytes.
    HmacMd5_96,
    /// RFC 2404, ICV of 12 bytes.
    HmacSha1_96,
    /// RFC 4868, ICV of 16 bytes.
    HmacSha256_128,
    /// RFC 4868, ICV of 24 bytes.
    HmacSha384_192,
    /// RFC 4868, ICV of 32 bytes.
    HmacSha512_256,
}

impl Integrity {
    /// Length of the ICV in bytes.
    pub fn icv_len(self) -> usize {
        match self {
            Self::AesCmac96 | Self::AesXcbc96 | Self::HmacMd5_96 | Self::HmacSha1_96 => 12,
            Self::AesGmac | Self::HmacSha256_128 => 16,
            Self::HmacSha384_192 => 24,
            Self::HmacSha512_256 => 32,
        }
    }

    /// Whether a key may have this length in bytes, that of GMAC with its salt.
    pub fn takes_key(self, len: usize) -> bool {
        match self {
            Self::AesGmac => matches!(len, 20 | 28 | 36),
            other => len == other.key_len(),
        }
    }

    /// Whether no new SA should use it (RFC 8221 §6).
    pub fn is_weak(self) -> bool {
        matches!(self, Self::HmacMd5_96)
    }

    /// Length of the key in bytes; for [`Integrity::AesGmac`] the shortest one, with its salt.
    pub const fn key_len(self) -> usize {
        match self {
            Self::AesCmac96 | Self::AesXcbc96 | Self::HmacMd5_96 => 16,
            Self::HmacSha1_96 | Self::AesGmac => 20,
            Self::HmacSha256_128 => 32,
            Self::HmacSha384_192 => 48,
            Self::HmacSha512_256 => 64,
        }
    }
}
