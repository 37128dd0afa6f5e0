//! The expanded key of one engine.

#[cfg(target_arch = "x86_64")]
use super::dispatch::{Keys, expand};
use super::engine::{Engine, Kind};
#[cfg(target_arch = "x86_64")]
use super::expanded::ExpandedKey;
use super::portable::PortableKey;
#[cfg(target_arch = "x86_64")]
use crate::prefetch::prefetch;
#[cfg(target_arch = "x86_64")]
use zeroize::Zeroize;

/// An AES-GCM key expanded for one engine.
///
/// It is wiped on drop and can be neither cloned nor shown. The key material is behind one pointer, so that
/// moving the value about leaves no copies of it.
pub struct GcmKey {
    class: Class,
    body: Body,
}

/// What decides which monomorphised kernel a job runs in.
#[derive(Clone, Copy)]
#[repr(C)]
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

/// A key where it lies: what a job is made with.
#[derive(Clone, Copy)]
pub struct Key<'a> {
    pub(super) class: Class,
    pub(super) body: KeyRef<'a>,
}

impl<'a> From<&'a GcmKey> for Key<'a> {
    #[inline]
    fn from(key: &'a GcmKey) -> Self {
        let body = match &key.body {
            #[cfg(target_arch = "x86_64")]
            Body::Expanded(key) => KeyRef { expanded: key },
            Body::Portable(key) => KeyRef { portable: key },
        };
        Self { class: key.class, body }
    }
}

impl core::fmt::Debug for Key<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Key").field("length", &self.class.length).finish_non_exhaustive()
    }
}

/// Room for a key in a table of its owner's, so that nothing has to be read to know where it is. It is zeros while it is empty, and what holds
/// one may be moved only then: moving leaves a copy behind. It is wiped on drop.
#[repr(transparent)]
pub struct Lodging {
    #[cfg(target_arch = "x86_64")]
    expanded: ExpandedKey,
}

/// Room for the one line of a key that the others can be made from, amid what every packet needs. Otherwise as [`Lodging`].
#[cfg_attr(target_arch = "x86_64", repr(align(64)))]
pub struct KeyStart {
    #[cfg(target_arch = "x86_64")]
    line: [u128; 4],
}

impl KeyStart {
    /// One without a key.
    pub const EMPTY: Self = Self {
        #[cfg(target_arch = "x86_64")]
        line: [0; 4],
    };
}

impl Drop for KeyStart {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        self.line.zeroize();
    }
}

/// That a [`Lodging`] and a [`KeyStart`] hold a key, and which kind.
#[derive(Clone, Copy)]
pub struct Lodged {
    class: Class,
    /// Only vector engines have keys that are taken in.
    #[cfg(not(target_arch = "x86_64"))]
    never: core::convert::Infallible,
}

impl Lodging {
    /// One without a key.
    pub const EMPTY: Self = Self {
        #[cfg(target_arch = "x86_64")]
        expanded: ExpandedKey::ZERO,
    };

    /// Takes a key in, and the line that the others can be made from into `start`. `None` for one of the portable engine, which has a form of its own.
    pub fn take_in(&mut self, start: &mut KeyStart, key: &GcmKey) -> Option<Lodged> {
        match &key.body {
            #[cfg(target_arch = "x86_64")]
            Body::Expanded(expanded) => {
                self.expanded.copy_from(expanded);
                start.line.copy_from_slice(expanded.start());
                Some(Lodged { class: key.class })
            }
            Body::Portable(_) => {
                let _ = start;
                None
            }
        }
    }

    /// Forgets the key that was taken in.
    pub fn clear(&mut self) {
        #[cfg(target_arch = "x86_64")]
        self.expanded.clear();
    }

    /// The key that was taken in, for a packet of `len` bytes of text, by where keys are: `Near` if the packet is not alone with it in its burst.
    #[inline(always)]
    pub fn key<'a>(
        &'a self,
        start: &'a KeyStart,
        lodged: Lodged,
        len: usize,
        keys: Keys,
    ) -> Key<'a> {
        #[cfg(target_arch = "x86_64")]
        return match of_start(len, keys, lodged.class) {
            Some(class) => Key { class, body: KeyRef { start: &start.line } },
            None => Key { class: lodged.class, body: KeyRef { expanded: &self.expanded } },
        };
        #[cfg(not(target_arch = "x86_64"))]
        match lodged.never {}
    }

    /// Asks for the lines that such a packet needs.
    #[inline(always)]
    pub fn prefetch(&self, start: &KeyStart, lodged: Lodged, len: usize, keys: Keys) {
        #[cfg(target_arch = "x86_64")]
        match (of_start(len, keys, lodged.class), lodged.class) {
            (Some(_), _) => prefetch(start),
            (None, class) => {
                self.expanded.prefetch(len, class.length.rounds(), highest_power(class.kind));
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (start, lodged, len, keys);
    }
}

impl core::fmt::Debug for Lodging {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Lodging").finish_non_exhaustive()
    }
}

/// The class of a key of `class` of which one line is read, where that is enough for a packet of `len` bytes of text.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
fn of_start(len: usize, keys: Keys, class: Class) -> Option<Class> {
    let (kind, longest) = match (class.kind, keys) {
        (Kind::Avx512, Keys::Far) => (Kind::Avx512Start, super::avx512::SHORT),
        (Kind::Avx512, Keys::Farther) => (Kind::Avx512Start, usize::MAX),
        // To make a key takes longer there than to read it from the next cache.
        (Kind::Vaes256, Keys::Farther) => (Kind::Vaes256Start, usize::MAX),
        _ => return None,
    };
    let is_enough = (1..=longest).contains(&len) && class.length != KeyLength::Aes192;
    is_enough.then_some(Class { kind, ..class })
}

/// The highest power of H that the kernels of an engine take.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
fn highest_power(kind: Kind) -> usize {
    match kind {
        Kind::Aesni => super::aesni::HIGHEST,
        Kind::Vaes256 | Kind::Vaes256Start => super::vaes256::HIGHEST,
        _ => super::expanded::POWERS,
    }
}

/// The key as a job carries it: one pointer, and the class says to what.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union KeyRef<'a> {
    /// Whichever of the others it is.
    pub(super) address: *const u8,
    #[cfg(target_arch = "x86_64")]
    pub(super) expanded: &'a ExpandedKey,
    /// The line that the others can be made from.
    #[cfg(target_arch = "x86_64")]
    pub(super) start: &'a [u128; 4],
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

    /// The key for a packet of `len` bytes of text that is alone with it in its burst, by where keys are: the same packets come out.
    #[inline]
    pub fn kept(&self, keys: Keys, len: usize) -> Key<'_> {
        #[cfg(target_arch = "x86_64")]
        if let Body::Expanded(key) = &self.body
            && let Some(class) = of_start(len, keys, self.class)
        {
            return Key { class, body: KeyRef { start: key.start() } };
        }
        let _ = (keys, len);
        self.into()
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
            Body::Expanded(key) => {
                key.prefetch(len, self.class.length.rounds(), highest_power(self.class.kind));
            }
            Body::Portable(_) => {}
        }
    }
}
