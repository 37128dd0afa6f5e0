//! The expanded key of one engine.

#[cfg(target_arch = "x86_64")]
use super::dispatch::expand;
use super::engine::{Engine, Kind};
#[cfg(target_arch = "x86_64")]
use super::expanded::ExpandedKey;
use super::portable::PortableKey;

/// An AES-GCM key expanded for one engine.
///
/// It is wiped on drop and can be neither cloned nor shown. The key material is behind one pointer, so that
/// moving the value about leaves no copies of it.
pub struct GcmKey {
    class: Class,
    body: Body,
}

/// What decides which monomorphised kernel a job runs in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Class {
    pub(super) kind: Kind,
    pub(super) length: KeyLength,
}

/// The length of an AES key (without the salt).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum KeyLength {
    /// 128 bits, ten rounds.
    Aes128,
    /// 192 bits, twelve rounds.
    Aes192,
    /// 256 bits, fourteen rounds.
    Aes256,
}

impl KeyLength {
    /// AES rounds (FIPS 197 §5).
    pub(super) const fn rounds(self) -> usize {
        match self {
            Self::Aes128 => 10,
            Self::Aes192 => 12,
            Self::Aes256 => 14,
        }
    }
}

/// The key is not 16, 24 or 32 bytes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an AES key has 16, 24 or 32 bytes")]
pub struct UnsupportedKeyLength;

enum Body {
    #[cfg(target_arch = "x86_64")]
    Expanded(Box<ExpandedKey>),
    Portable(Box<PortableKey>),
}

/// The key as a job carries it: one pointer, and the class says to what.
#[derive(Clone, Copy)]
pub(super) union KeyRef<'a> {
    #[cfg(target_arch = "x86_64")]
    pub(super) expanded: &'a ExpandedKey,
    pub(super) portable: &'a PortableKey,
}

impl GcmKey {
    /// Expands `key` (16, 24 or 32 bytes, without the salt) for the fastest engine of this processor.
    ///
    /// # Errors
    ///
    /// [`UnsupportedKeyLength`] for any other length.
    pub fn new(key: &[u8]) -> Result<Self, UnsupportedKeyLength> {
        Self::with_engine(Engine::best(), key)
    }

    /// Expands `key` for the engine named.
    ///
    /// # Errors
    ///
    /// [`UnsupportedKeyLength`] if the key has not 16, 24 or 32 bytes.
    pub fn with_engine(engine: Engine, key: &[u8]) -> Result<Self, UnsupportedKeyLength> {
        let length = match key.len() {
            16 => KeyLength::Aes128,
            24 => KeyLength::Aes192,
            32 => KeyLength::Aes256,
            _ => return Err(UnsupportedKeyLength),
        };
        let class = Class { kind: engine.kind(), length };
        #[cfg(target_arch = "x86_64")]
        if let Some(expanded) = expand(engine, key, length) {
            return Ok(Self { class, body: Body::Expanded(expanded) });
        }
        let body = Body::Portable(Box::new(PortableKey::new(key)?));
        Ok(Self { class, body })
    }

    /// The length of the key.
    pub fn length(&self) -> KeyLength {
        self.class.length
    }

    /// Asks for the cache lines that a packet of `len` bytes will need, so that they are there when its burst is.
    #[inline]
    pub fn prefetch(&self, len: usize) {
        match &self.body {
            #[cfg(target_arch = "x86_64")]
            Body::Expanded(key) => key.prefetch(len, self.class.length.rounds()),
            Body::Portable(_) => {}
        }
    }

    #[inline]
    pub(super) fn class(&self) -> Class {
        self.class
    }

    #[inline]
    pub(super) fn body(&self) -> KeyRef<'_> {
        match &self.body {
            #[cfg(target_arch = "x86_64")]
            Body::Expanded(key) => KeyRef { expanded: key },
            Body::Portable(key) => KeyRef { portable: key },
        }
    }
}
