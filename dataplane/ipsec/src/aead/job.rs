//! One packet's work, bounded when it is built.
//!
//! In-place and out-of-place work are the same to a kernel: read at one pointer, write at another, which may
//! be the same one. That is why a job holds pointers and not slices. Every job is built from slices, which it
//! borrows for `'a`, and this file is the only one that turns slices into the pointers:
//!
//! - `src` is readable and `dst` writable for `len` bytes; they are equal or do not overlap;
//! - `tag` is readable for `tag_len` bytes, and writable too in a [`SealJob`]; it overlaps neither;
//! - the AAD is readable for `aad_len` bytes, and overlaps nothing that is written;
//! - `len` and `aad_len` are at most [`MAX_LEN`], `tag_len` is 8, 12 or 16.

#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::{__m128i, _mm_loadu_si128};
use core::fmt;
use core::marker::PhantomData;
use core::slice;

use aes_gcm::aead::inout::InOutBuf;
use zeroize::Zeroize;

use super::engine::Kind;
#[cfg(target_arch = "x86_64")]
use super::expanded::ExpandedKey;
use super::key::{Class, Key, KeyRef};
use super::portable::PortableKey;
use super::{NONCE_LEN, TAG_LEN};

/// The longest text, and the longest AAD, of one job in bytes: 2^31.
///
/// GCM itself would allow 2^36 - 32 bytes of text (SP 800-38D §5.2.1.1); no packet is near either, and with
/// this bound lengths in bytes and block counters stay far inside 32 bits.
pub const MAX_LEN: usize = 1 << 31;

/// AAD of at most this many bytes is copied into the job: one GHASH block, and ESP's 8 or 12 bytes fit.
const INLINE_AAD: usize = 16;

/// Additional authenticated data.
///
/// The 8 or 12 bytes of ESP (RFC 4106 §5) travel inside the job (`Aad::from([u8; 8])`,
/// `Aad::from([u8; 12])`); anything longer is borrowed, as GMAC needs it ([`Aad::new`]).
#[derive(Clone, Copy)]
pub struct Aad<'a> {
    bytes: AadBytes,
    len: usize,
    borrowed: PhantomData<&'a [u8]>,
}

/// `len` says which: up to [`INLINE_AAD`] bytes are in `block`, zeros behind; more are at `long`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union AadBytes {
    pub(super) block: [u8; INLINE_AAD],
    pub(super) long: *const u8,
}

impl<'a> Aad<'a> {
    /// No AAD.
    pub const EMPTY: Self =
        Self { bytes: AadBytes { block: [0; INLINE_AAD] }, len: 0, borrowed: PhantomData };

    /// AAD of any length.
    #[inline]
    pub fn new(aad: &'a [u8]) -> Self {
        let bytes = if aad.len() <= INLINE_AAD {
            let mut block = [0; INLINE_AAD];
            for (to, from) in block.iter_mut().zip(aad) {
                *to = *from;
            }
            AadBytes { block }
        } else {
            AadBytes { long: aad.as_ptr() }
        };
        Self { bytes, len: aad.len(), borrowed: PhantomData }
    }
}

impl Aad<'_> {
    /// The AAD of ESP: SPI and sequence number, with its high half in the middle when that is 64 bits (RFC 4106 §5).
    ///
    /// It is put together in registers: bytes written one by one and read as a whole stall the processor.
    #[inline]
    pub fn esp(spi: u32, sequence: u64, esn: bool) -> Self {
        // As a number whose lowest byte comes first.
        let word = |n: u32| u128::from(n.swap_bytes());
        let (high, low) = ((sequence >> 32) as u32, sequence as u32);
        let (block, len) = if esn {
            (word(spi) | word(high) << 32 | word(low) << 64, 12)
        } else {
            (word(spi) | word(low) << 32, 8)
        };
        Self { bytes: AadBytes { block: block.to_le_bytes() }, len, borrowed: PhantomData }
    }
}

impl From<[u8; 8]> for Aad<'_> {
    #[inline]
    fn from(aad: [u8; 8]) -> Self {
        let mut block = [0; INLINE_AAD];
        block[..8].copy_from_slice(&aad);
        Self { bytes: AadBytes { block }, len: 8, borrowed: PhantomData }
    }
}

impl From<[u8; 12]> for Aad<'_> {
    #[inline]
    fn from(aad: [u8; 12]) -> Self {
        let mut block = [0; INLINE_AAD];
        block[..12].copy_from_slice(&aad);
        Self { bytes: AadBytes { block }, len: 12, borrowed: PhantomData }
    }
}

impl fmt::Debug for Aad<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aad").field("len", &self.len).finish_non_exhaustive()
    }
}

/// A job that cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Source and destination differ in length.
    #[error("source and destination differ in length")]
    LengthMismatch,
    /// The tag has not 8, 12 or 16 bytes (RFC 4106 §6).
    #[error("a tag has 8, 12 or 16 bytes")]
    TagLength,
    /// Text or AAD is longer than [`MAX_LEN`].
    #[error("text or AAD too long")]
    TooLong,
}

/// The packet was not made with this key, nonce and AAD, or was changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not authentic")]
pub struct Unauthentic;

/// One packet to encrypt and authenticate.
///
/// A nonce must never repeat under a key: two packets under one nonce give away the difference of their
/// texts and then the authentication key.
#[repr(transparent)]
pub struct SealJob<'a>(Job<'a>);

/// One packet to verify and decrypt.
#[repr(transparent)]
pub struct OpenJob<'a>(Job<'a>);

impl<'a> SealJob<'a> {
    /// Encrypts `data` where it is and writes the 8, 12 or 16 bytes of `tag`.
    ///
    /// With empty `data` this is GMAC over the AAD (RFC 4543 §3).
    ///
    /// # Errors
    ///
    /// [`JobError::TagLength`], [`JobError::TooLong`].
    #[inline]
    pub fn in_place(
        key: impl Into<Key<'a>>,
        nonce: [u8; NONCE_LEN],
        aad: Aad<'a>,
        data: &'a mut [u8],
        tag: &'a mut [u8],
    ) -> Result<Self, JobError> {
        let dst = data.as_mut_ptr();
        Job::new(key.into(), nonce, aad, dst, dst, data.len(), tag.as_mut_ptr(), tag.len())
            .map(Self)
    }

    /// Encrypts `src` into `dst`, which is as long, and writes the 8, 12 or 16 bytes of `tag`.
    ///
    /// # Errors
    ///
    /// [`JobError::LengthMismatch`], [`JobError::TagLength`], [`JobError::TooLong`].
    #[inline]
    pub fn out_of_place(
        key: impl Into<Key<'a>>,
        nonce: [u8; NONCE_LEN],
        aad: Aad<'a>,
        src: &'a [u8],
        dst: &'a mut [u8],
        tag: &'a mut [u8],
    ) -> Result<Self, JobError> {
        if src.len() != dst.len() {
            return Err(JobError::LengthMismatch);
        }
        let (from, to) = (src.as_ptr(), dst.as_mut_ptr());
        Job::new(key.into(), nonce, aad, from, to, dst.len(), tag.as_mut_ptr(), tag.len()).map(Self)
    }

    #[inline]
    pub(super) fn as_jobs_mut<'b>(burst: &'b mut [Self]) -> &'b mut [Job<'a>] {
        // SAFETY: `Self` is `repr(transparent)` over `Job`, and the lifetime of the burst is kept.
        unsafe { &mut *(core::ptr::from_mut(burst) as *mut [Job<'a>]) }
    }
}

impl<'a> OpenJob<'a> {
    /// Decrypts `data` where it is if the 8, 12 or 16 bytes of `tag` verify, and zeroes it if not.
    ///
    /// # Errors
    ///
    /// [`JobError::TagLength`], [`JobError::TooLong`].
    #[inline]
    pub fn in_place(
        key: impl Into<Key<'a>>,
        nonce: [u8; NONCE_LEN],
        aad: Aad<'a>,
        data: &'a mut [u8],
        tag: &'a [u8],
    ) -> Result<Self, JobError> {
        let dst = data.as_mut_ptr();
        let tag_len = tag.len();
        Job::new(key.into(), nonce, aad, dst, dst, data.len(), tag.as_ptr().cast_mut(), tag_len)
            .map(Self)
    }

    /// Decrypts `src` into `dst`, which is as long, if `tag` verifies; zeroes `dst` if not.
    ///
    /// # Errors
    ///
    /// [`JobError::LengthMismatch`], [`JobError::TagLength`], [`JobError::TooLong`].
    #[inline]
    pub fn out_of_place(
        key: impl Into<Key<'a>>,
        nonce: [u8; NONCE_LEN],
        aad: Aad<'a>,
        src: &'a [u8],
        dst: &'a mut [u8],
        tag: &'a [u8],
    ) -> Result<Self, JobError> {
        if src.len() != dst.len() {
            return Err(JobError::LengthMismatch);
        }
        let (from, to) = (src.as_ptr(), dst.as_mut_ptr());
        let tag_len = tag.len();
        Job::new(key.into(), nonce, aad, from, to, dst.len(), tag.as_ptr().cast_mut(), tag_len)
            .map(Self)
    }

    /// Whether the packet was authentic; [`Unauthentic`] until [`open_burst`](super::open_burst) says otherwise.
    ///
    /// # Errors
    ///
    /// [`Unauthentic`] if the tag does not fit key, nonce, AAD and text.
    #[inline]
    pub fn verdict(&self) -> Result<(), Unauthentic> {
        if self.0.class.authentic { Ok(()) } else { Err(Unauthentic) }
    }

    #[inline]
    pub(super) fn as_jobs_mut<'b>(burst: &'b mut [Self]) -> &'b mut [Job<'a>] {
        // SAFETY: `Self` is `repr(transparent)` over `Job`, and the lifetime of the burst is kept.
        unsafe { &mut *(core::ptr::from_mut(burst) as *mut [Job<'a>]) }
    }
}

impl fmt::Debug for SealJob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealJob").field("len", &self.0.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for OpenJob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenJob").field("len", &self.0.len()).finish_non_exhaustive()
    }
}

/// What jobs must have in common to be handed to a kernel together. And the verdict, which they have in common until then: it makes this a
/// word, which takes one comparison.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
pub(super) struct JobClass {
    pub(super) key: Class,
    tag_len: u8,
    authentic: bool,
}

impl JobClass {
    #[inline]
    fn word(self) -> u32 {
        let Class { kind, length } = self.key;
        u32::from_ne_bytes([kind as u8, length as u8, self.tag_len, self.authentic.into()])
    }
}

impl PartialEq for JobClass {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.word() == other.word()
    }
}

/// What both directions share: the invariants are those of the module.
///
/// `text_bits` and `aad_bits` are neighbours, and in bits, because together they are the length block of GHASH.
#[repr(C)]
pub(super) struct Job<'a> {
    pub(super) src: *const u8,
    pub(super) dst: *mut u8,
    pub(super) tag: *mut u8,
    pub(super) key: KeyRef<'a>,
    pub(super) aad: AadBytes,
    text_bits: u64,
    aad_bits: u64,
    j0: J0,
    class: JobClass,
    borrowed: PhantomData<&'a mut [u8]>,
}

const _: () = assert!(size_of::<Job<'_>>() == 88);

impl<'a> Job<'a> {
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "private; the public constructors take slices")]
    fn new(
        key: Key<'a>,
        nonce: [u8; NONCE_LEN],
        aad: Aad<'a>,
        src: *const u8,
        dst: *mut u8,
        len: usize,
        tag: *mut u8,
        tag_len: usize,
    ) -> Result<Self, JobError> {
        if !matches!(tag_len, 8 | 12 | TAG_LEN) {
            return Err(JobError::TagLength);
        }
        if len > MAX_LEN || aad.len > MAX_LEN {
            return Err(JobError::TooLong);
        }
        Ok(Self {
            src,
            dst,
            tag,
            key: key.body,
            aad: aad.bytes,
            text_bits: 8 * len as u64,
            aad_bits: 8 * aad.len as u64,
            j0: J0::new(nonce),
            class: JobClass { key: key.class, tag_len: tag_len as u8, authentic: false },
            borrowed: PhantomData,
        })
    }

    #[inline]
    pub(super) fn class(&self) -> JobClass {
        self.class
    }

    /// Bytes of the tag: 8, 12 or 16.
    #[inline]
    pub(super) fn tag_len(&self) -> u8 {
        self.class.tag_len
    }

    pub(super) fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(self.j0.nonce.as_flattened());
        nonce
    }

    /// The first counter block, whose encryption masks the tag (SP 800-38D §7.1).
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(super) fn j0(&self) -> __m128i {
        // SAFETY: 16 readable bytes without padding, and SSE2 is part of every x86-64.
        unsafe { _mm_loadu_si128((&raw const self.j0).cast()) }
    }

    /// The key of a job of the portable class.
    pub(super) fn portable_key(&self) -> &'a PortableKey {
        assert!(
            matches!(self.class.key.kind, Kind::Portable),
            "a job runs in the engine its key was made for"
        );
        // SAFETY: a [`Key`] has this member for exactly this class.
        unsafe { self.key.portable }
    }

    /// The key of a job of a vector engine.
    ///
    /// # Safety
    ///
    /// The job's class is that of an engine other than the portable one, with whole keys, or it was lent one.
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn expanded_key(&self) -> &'a ExpandedKey {
        // SAFETY: a [`Key`] has this member for the classes that the caller vouches for.
        unsafe { self.key.expanded }
    }

    /// The line of the key that the others can be made from.
    ///
    /// # Safety
    ///
    /// The job's class is that of an engine other than the portable one, and it was lent no key.
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn start(&self) -> &'a [u128; 4] {
        match self.class.key.kind {
            // SAFETY: a [`Key`] has this member for exactly this class.
            Kind::Avx512Start | Kind::Vaes256Start => unsafe { self.key.start },
            // SAFETY: and the other one for all others that the caller leaves.
            _ => unsafe { self.key.expanded }.start(),
        }
    }

    /// Gives the job another key, and its own back, to be returned to it.
    ///
    /// # Safety
    ///
    /// The job is of a class of the vector engines, `key` is as long as its own, and there, unchanged, until the job has its own again or is gone.
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn lend_key(&mut self, key: *const ExpandedKey) -> KeyRef<'a> {
        // SAFETY: as the caller promised, for as long as the reference is used.
        core::mem::replace(&mut self.key, KeyRef { expanded: unsafe { &*key } })
    }

    /// Tells keys apart.
    #[inline]
    pub(super) fn key_address(&self) -> *const u8 {
        // SAFETY: all other members are references, of which this is the address.
        unsafe { self.key.address }
    }

    /// Bytes of text.
    #[inline]
    pub(super) fn len(&self) -> u32 {
        (self.text_bits / 8) as u32
    }

    /// Blocks of text.
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(super) fn blocks(&self) -> usize {
        ((self.text_bits + 127) >> 7) as usize
    }

    /// Whether text and AAD are as long as those of another.
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(super) fn has_lengths_of(&self, other: &Job<'_>) -> bool {
        self.text_bits == other.text_bits && self.aad_bits == other.aad_bits
    }

    /// Bytes of AAD.
    #[inline]
    fn aad_len(&self) -> usize {
        (self.aad_bits / 8) as usize
    }

    /// The length block of GHASH, byte-reversed: bits of text below, bits of AAD above (SP 800-38D §7.1).
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(super) fn length_block(&self) -> __m128i {
        let both =
            core::ptr::from_ref(self).wrapping_byte_add(core::mem::offset_of!(Self, text_bits));
        // SAFETY: `text_bits` and the `aad_bits` behind it (`repr(C)`) are 16 bytes of this job, and SSE2 is part
        // of every x86-64. The pointer is made of `self` as a whole.
        unsafe { _mm_loadu_si128(both.cast()) }
    }

    /// Whether the AAD fits one block.
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(super) fn has_short_aad(&self) -> bool {
        self.aad_len() <= INLINE_AAD
    }

    /// AAD that fits one block, zeros behind. Of longer AAD, sixteen bytes that mean nothing.
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(super) fn short_aad(&self) -> __m128i {
        // SAFETY: 16 readable bytes of this job, whatever is in them; SSE2 is part of every x86-64.
        unsafe { _mm_loadu_si128((&raw const self.aad).cast()) }
    }

    /// AAD that fits one block, zeros behind.
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(super) fn aad_block(&self) -> Option<__m128i> {
        self.has_short_aad().then(|| self.short_aad())
    }

    /// The AAD.
    pub(super) fn aad(&self) -> &[u8] {
        if self.aad_len() <= INLINE_AAD {
            // SAFETY: `Aad` puts up to INLINE_AAD bytes into `block`, which is plain bytes in any case.
            let block = unsafe { &self.aad.block };
            &block[..self.aad_len()]
        } else {
            // SAFETY: AAD longer than INLINE_AAD is at `long`.
            let long = unsafe { self.aad.long };
            // SAFETY: readable for `aad_len` bytes for 'a, by the invariants of the module.
            unsafe { slice::from_raw_parts(long, self.aad_len()) }
        }
    }

    /// AAD, text and tag as slices.
    pub(super) fn parts(&mut self) -> (&[u8], InOutBuf<'_, '_, u8>, &[u8]) {
        // SAFETY: `src` is readable and `dst` writable for `len` bytes, they are equal or do not overlap, and
        // the borrow of the job keeps others away.
        let data = unsafe { InOutBuf::from_raw(self.src, self.dst, self.len() as usize) };
        // SAFETY: readable for `tag_len` bytes, and written by nobody while the job is borrowed.
        let tag = unsafe { slice::from_raw_parts(self.tag, usize::from(self.tag_len())) };
        (self.aad(), data, tag)
    }

    /// Writes the tag of a seal job, cut to its length.
    pub(super) fn put_tag(&mut self, tag: &[u8; TAG_LEN]) {
        // SAFETY: writable for `tag_len` bytes (at most TAG_LEN) in a seal job.
        unsafe {
            core::ptr::copy_nonoverlapping(tag.as_ptr(), self.tag, usize::from(self.tag_len()))
        };
    }

    /// Records the verdict of an open job, and wipes the text of one that is not authentic.
    #[inline]
    pub(super) fn conclude(&mut self, authentic: bool) {
        self.class.authentic = authentic;
        if !authentic {
            self.wipe();
        }
    }

    /// Overwrites the output with zeros.
    #[cold]
    #[inline(never)]
    pub(super) fn wipe(&mut self) {
        // SAFETY: writable for `len` bytes, and the borrow of the job keeps others away.
        let text = unsafe { slice::from_raw_parts_mut(self.dst, self.len() as usize) };
        text.zeroize();
    }
}

/// The block J0 of a 96-bit nonce: that and a counter of one (SP 800-38D §7.1). In words, so that it takes no shifts to put together.
#[derive(Clone, Copy)]
#[repr(C)]
struct J0 {
    nonce: [[u8; 4]; 3],
    counter: [u8; 4],
}

impl J0 {
    #[inline]
    fn new(nonce: [u8; NONCE_LEN]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = nonce;
        Self { nonce: [[a, b, c, d], [e, f, g, h], [i, j, k, l]], counter: 1u32.to_be_bytes() }
    }
}
