//! A job's text and tag by single blocks, where there are no masked loads and stores.

use core::arch::x86_64::*;

use super::job::Job;

/// A job's text: read at one pointer, written at another or the same.
#[derive(Clone, Copy)]
pub(super) struct Text {
    pub(super) src: *const u8,
    pub(super) dst: *mut u8,
}

impl Text {
    #[inline]
    pub(super) fn new(job: &Job<'_>) -> Self {
        Self { src: job.src, dst: job.dst }
    }

    /// # Safety
    ///
    /// The text has 16 bytes from byte `at` on.
    #[inline]
    #[target_feature(enable = "sse4.1")]
    pub(super) unsafe fn load1(self, at: usize) -> __m128i {
        // SAFETY: inside the source, by the caller's word and the invariants of a job.
        unsafe { _mm_loadu_si128(self.src.wrapping_add(at).cast()) }
    }

    /// # Safety
    ///
    /// As [`load1`](Self::load1).
    #[inline]
    #[target_feature(enable = "sse4.1")]
    pub(super) unsafe fn store1(self, at: usize, block: __m128i) {
        // SAFETY: inside the destination, by the caller's word and the invariants of a job.
        unsafe { _mm_storeu_si128(self.dst.wrapping_add(at).cast(), block) };
    }

    /// The last `len` bytes, 1 to 16, which end in front of byte `end`; zeros behind.
    ///
    /// # Safety
    ///
    /// The text has 16 bytes in front of `end`.
    #[inline]
    #[target_feature(enable = "sse4.1")]
    pub(super) unsafe fn load_end(self, end: usize, len: usize) -> __m128i {
        // SAFETY: as the caller promised.
        let block = unsafe { self.load1(end - 16) };
        _mm_shuffle_epi8(block, window(&FORWARD, 16 - len))
    }

    /// Writes the first `len` bytes, 1 to 16, of `block` to byte `at`.
    ///
    /// By the bits of `len`, of which texts of one length have the same: to write sixteen bytes with those in front, read
    /// back, would wait until these are in the cache.
    ///
    /// # Safety
    ///
    /// The text has so many bytes there.
    #[inline]
    #[target_feature(enable = "sse4.1")]
    pub(super) unsafe fn store_end(self, at: usize, len: usize, block: __m128i) {
        if len == 16 {
            // SAFETY: as the caller promised.
            return unsafe { self.store1(at, block) };
        }
        let mut to = self.dst.wrapping_add(at);
        let mut word = _mm_cvtsi128_si64(block);
        if len & 8 != 0 {
            // SAFETY: of the bytes that are left to write, of which there are so many; so below.
            unsafe { to.cast::<i64>().write_unaligned(word) };
            word = _mm_extract_epi64::<1>(block);
            to = to.wrapping_add(8);
        }
        if len & 4 != 0 {
            // SAFETY: likewise.
            unsafe { to.cast::<i32>().write_unaligned(word as i32) };
            word >>= 32;
            to = to.wrapping_add(4);
        }
        if len & 2 != 0 {
            // SAFETY: likewise.
            unsafe { to.cast::<i16>().write_unaligned(word as i16) };
            word >>= 16;
            to = to.wrapping_add(2);
        }
        if len & 1 != 0 {
            // SAFETY: likewise.
            unsafe { to.write(word as u8) };
        }
    }
}

/// Sixteen bytes from byte `at` on, at most 16.
#[inline]
#[target_feature(enable = "sse2")]
fn window(table: &[u8; 32], at: usize) -> __m128i {
    let bytes = table[at..].first_chunk::<16>();
    match bytes {
        // SAFETY: sixteen readable bytes.
        Some(bytes) => unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) },
        None => unreachable!(),
    }
}

/// What moves bytes from the end of a block to its front.
static FORWARD: [u8; 32] = {
    let mut order = [0x80; 32];
    let mut i = 0;
    while i < 16 {
        order[i] = i as u8;
        i += 1;
    }
    order
};

/// All bits of sixteen bytes, and none of sixteen more.
static MASK: [u8; 32] = {
    let mut mask = [0; 32];
    let mut i = 0;
    while i < 16 {
        mask[i] = 0xff;
        i += 1;
    }
    mask
};

/// The first `len` bytes of a block, at most 16.
#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn first_bytes(len: usize) -> __m128i {
    window(&MASK, 16 - len)
}

/// Writes the tag, or compares all of it at once and records the verdict.
///
/// # Safety
///
/// With `SEAL` the job is a seal job.
#[inline]
#[target_feature(enable = "sse4.1")]
pub(super) unsafe fn finish<const SEAL: bool>(job: &mut Job<'_>, tag: __m128i) {
    let (to, len) = (job.tag, usize::from(job.tag_len()));
    if SEAL {
        // SAFETY: the tag of a seal job is writable for its length; as a text of that length.
        unsafe { Text { src: to, dst: to }.store_end(0, len, tag) };
        return;
    }
    let received = match len {
        // SAFETY: the tag is readable for its length, here 16; below 8, and 4 behind.
        16 => unsafe { _mm_loadu_si128(to.cast()) },
        12 => {
            // SAFETY: likewise.
            let first = unsafe { _mm_loadl_epi64(to.cast()) };
            // SAFETY: likewise.
            let word = unsafe { to.wrapping_add(8).cast::<i32>().read_unaligned() };
            _mm_insert_epi32::<2>(first, word)
        }
        // SAFETY: likewise.
        _ => unsafe { _mm_loadl_epi64(to.cast()) },
    };
    let wrong = _mm_xor_si128(received, _mm_and_si128(tag, first_bytes(len)));
    job.conclude(_mm_testz_si128(wrong, wrong) == 1);
}
