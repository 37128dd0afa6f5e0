//! AES-GCM with AES-NI and PCLMULQDQ: eight blocks at a time, packet by packet.
//!
//! ```text
//!   seal   AES      group 0 │ group 1 │ tail             tail: 0 to 8 blocks and J0
//!          GHASH            │ group 0 │ group 1 │ tail ─► tag
//!   open   AES      group 0 │ group 1 │ tail
//!          GHASH    group 0 │ group 1 │ tail ─► tag
//! ```
//!
//! As in `avx512`, no branch or address depends on key, text or tag bytes.

use core::arch::asm;
use core::arch::x86_64::*;

use super::expanded::{ExpandedKey, reduce};
use super::job::Job;
use super::text::{Text, finish, first_bytes};

/// Blocks in a group.
pub(super) const GROUP: usize = 8;

/// The highest power of H that a packet takes: of the AAD in front of a tail of a whole group, with the length block behind.
pub(super) const HIGHEST: usize = GROUP + 2;

/// Seals (`SEAL`) or opens a run of jobs of `R` AES rounds.
///
/// # Safety
///
/// Every job has a key of a vector engine and of `R` rounds, and is a seal job if `SEAL`.
#[target_feature(enable = "aes,pclmulqdq,avx2")]
pub(super) unsafe fn run<const SEAL: bool, const R: usize>(jobs: &mut [Job<'_>]) {
    for job in jobs {
        // SAFETY: the key of a job of this engine, as the caller promised.
        let key = unsafe { job.expanded_key() };
        // SAFETY: as the caller promised.
        let tag = unsafe { one::<SEAL, R>(job, key) };
        // SAFETY: as the caller promised.
        unsafe { finish::<SEAL>(job, tag) };
    }
}

/// Encrypts or decrypts the text of a job, and gives its whole tag.
///
/// # Safety
///
/// As [`run`], for this job.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx2")]
unsafe fn one<const SEAL: bool, const R: usize>(job: &Job<'_>, key: &ExpandedKey) -> __m128i {
    let aad = aad_block(job, key);
    let len = job.len() as usize;
    // A last group that nothing is encrypted beside takes longer than a whole tail.
    let groups = len.saturating_sub(1) / (16 * GROUP);
    let behind = (len - 16 * GROUP * groups).div_ceil(16);
    let first = if groups > 0 { GROUP + 1 } else { behind + 2 };
    let mut hash = Hash { carried: _mm_setzero_si128(), sum: Sum::of(aad, key.power(first)) };
    if groups > 0 {
        let mut hashed = [_mm_setzero_si128(); GROUP];
        for g in 0..groups {
            // SAFETY: `groups` whole groups are in the text.
            unsafe { group::<SEAL, R>(job, key, g, &mut hashed, &mut hash) };
        }
        if SEAL {
            hash.absorb(&hashed, key);
        }
    }
    let at = 16 * GROUP * groups;
    macro_rules! tail {
        ($n:literal) => {
            // SAFETY: the text has so many blocks from `at` on.
            unsafe { tail::<SEAL, R, $n>(job, key, at, hash) }
        };
    }
    match behind {
        0 => tail!(0),
        1 => tail!(1),
        2 => tail!(2),
        3 => tail!(3),
        4 => tail!(4),
        5 => tail!(5),
        6 => tail!(6),
        7 => tail!(7),
        _ => tail!(8),
    }
}

/// Encrypts or decrypts group `g`. Between the rounds it multiplies the group before, which is `hashed`, when
/// sealing, and this group when opening.
///
/// # Safety
///
/// The text has group `g`.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx2")]
unsafe fn group<const SEAL: bool, const R: usize>(
    job: &Job<'_>,
    key: &ExpandedKey,
    g: usize,
    hashed: &mut [__m128i; GROUP],
    hash: &mut Hash,
) {
    let at = 16 * GROUP * g;
    let multiply = !SEAL || g > 0;
    let mut s = states::<GROUP>(job, key, GROUP * g);
    for r in 1..R {
        let rk = key.round_key(r);
        for v in &mut s {
            *v = _mm_aesenc_si128(*v, rk);
            in_order(v);
        }
        if multiply && r <= GROUP {
            // The first block waits for the reduction, so it is last.
            let i = r % GROUP;
            let block = if SEAL {
                hashed[i]
            } else {
                // SAFETY: block `i` of the group is in the text.
                reversed(unsafe { load(job, at + 16 * i) })
            };
            let block = if i == 0 { _mm_xor_si128(block, hash.carried) } else { block };
            hash.sum.add(block, key.power(GROUP - i));
            hash.sum.in_order();
        }
    }
    if multiply {
        hash.reduce();
    }
    let rk = key.round_key(R);
    for i in 0..GROUP {
        // SAFETY: block `i` of the group is in the text; so the store.
        let x = unsafe { load(job, at + 16 * i) };
        let y = _mm_aesenclast_si128(s[i], _mm_xor_si128(x, rk));
        // SAFETY: as the load.
        unsafe { store(job, at + 16 * i, y) };
        if SEAL {
            hashed[i] = reversed(y);
        }
    }
}

/// Encrypts or decrypts the last `N` blocks, which begin at byte `at`, and gives the tag.
///
/// # Safety
///
/// The text has `N` blocks from `at` on, the last perhaps not whole.
#[inline(never)]
#[target_feature(enable = "aes,pclmulqdq,avx2")]
unsafe fn tail<const SEAL: bool, const R: usize, const N: usize>(
    job: &Job<'_>,
    key: &ExpandedKey,
    at: usize,
    hash: Hash,
) -> __m128i {
    let mut s = states::<N>(job, key, at / 16);
    let mut mask = _mm_xor_si128(j0(job), key.round_key(0));
    for r in 1..R {
        let rk = key.round_key(r);
        for v in &mut s {
            *v = _mm_aesenc_si128(*v, rk);
            in_order(v);
        }
        mask = _mm_aesenc_si128(mask, rk);
        in_order(&mut mask);
    }
    let rk = key.round_key(R);
    mask = _mm_aesenclast_si128(mask, rk);
    let mut sum = hash.sum;
    // The end of the text first, before what is in front of it is written over.
    let last = at + 16 * N.saturating_sub(1);
    let rest = job.len() as usize - last;
    // SAFETY: the last block of the tail is in the text, with `rest` bytes.
    let end = if N > 0 { unsafe { load_last(job, last, rest) } } else { _mm_setzero_si128() };
    for i in 0..N {
        let at = at + 16 * i;
        let (x, y);
        if i + 1 < N {
            // SAFETY: block `i` of the tail is in the text; so the store.
            x = unsafe { load(job, at) };
            y = _mm_aesenclast_si128(s[i], _mm_xor_si128(x, rk));
            // SAFETY: as the load.
            unsafe { store(job, at, y) };
        } else {
            x = end;
            let whole = _mm_aesenclast_si128(s[i], _mm_xor_si128(x, rk));
            // SAFETY: as where `end` was read.
            unsafe { Text::new(job).store_end(at, rest, whole) };
            y = _mm_and_si128(whole, first_bytes(rest));
        }
        let block = reversed(if SEAL { y } else { x });
        let block = if i == 0 { _mm_xor_si128(block, hash.carried) } else { block };
        sum.add(block, key.power(N + 1 - i));
    }
    let lengths = job.length_block();
    let lengths = if N == 0 { _mm_xor_si128(lengths, hash.carried) } else { lengths };
    sum.add(lengths, key.power(1));
    _mm_xor_si128(reversed(sum.reduced()), mask)
}

/// The counter blocks of `N` text blocks from block `b` on, after the first key addition.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx2")]
fn states<const N: usize>(job: &Job<'_>, key: &ExpandedKey, b: usize) -> [__m128i; N] {
    let base = _mm_xor_si128(j0(job), key.round_key(0));
    let mut s = [base; N];
    for (i, v) in s.iter_mut().enumerate() {
        // J0 counts one, the first block two; jobs are bounded so that counters fit 32 bits.
        let difference = 1 ^ (b + i + 2) as u32;
        let difference = _mm_set_epi32(difference.swap_bytes() as i32, 0, 0, 0);
        *v = _mm_xor_si128(base, difference);
    }
    s
}

/// GHASH of a text so far.
pub(super) struct Hash {
    /// Reduced, to be added to the next block.
    pub(super) carried: __m128i,
    /// Not yet reduced, already multiplied for the next group.
    pub(super) sum: Sum,
}

impl Hash {
    /// Carries what is multiplied to the next group.
    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,avx2")]
    pub(super) fn reduce(&mut self) {
        *self = Self { carried: self.sum.reduced(), sum: Sum::zero() };
    }

    /// Multiplies a whole group.
    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,avx2")]
    fn absorb(&mut self, group: &[__m128i; GROUP], key: &ExpandedKey) {
        let mut sum = self.sum;
        sum.add(_mm_xor_si128(group[0], self.carried), key.power(GROUP));
        for (i, block) in group.iter().enumerate().skip(1) {
            sum.add(*block, key.power(GROUP - i));
        }
        *self = Self { carried: sum.reduced(), sum: Sum::zero() };
    }
}

/// Unreduced products.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    pub(super) lo: __m128i,
    pub(super) mid: __m128i,
    pub(super) hi: __m128i,
}

impl Sum {
    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,avx2")]
    fn zero() -> Self {
        let zero = _mm_setzero_si128();
        Self { lo: zero, mid: zero, hi: zero }
    }

    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,avx2")]
    fn of(block: __m128i, power: __m128i) -> Self {
        let mut sum = Self::zero();
        sum.add(block, power);
        sum
    }

    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,avx2")]
    fn add(&mut self, block: __m128i, power: __m128i) {
        self.lo = _mm_xor_si128(self.lo, _mm_clmulepi64_si128::<0x00>(block, power));
        self.hi = _mm_xor_si128(self.hi, _mm_clmulepi64_si128::<0x11>(block, power));
        self.mid = _mm_xor_si128(self.mid, _mm_clmulepi64_si128::<0x01>(block, power));
        self.mid = _mm_xor_si128(self.mid, _mm_clmulepi64_si128::<0x10>(block, power));
    }

    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,avx2")]
    fn in_order(&mut self) {
        in_order(&mut self.lo);
        in_order(&mut self.mid);
        in_order(&mut self.hi);
    }

    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,avx2")]
    fn reduced(self) -> __m128i {
        reduce(self.lo, self.mid, self.hi)
    }
}

/// Holds `v` to its place in the order of the program, as its namesake in `avx512` does.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx2")]
fn in_order(v: &mut __m128i) {
    // SAFETY: there is no instruction; the register is declared as read and written.
    unsafe { asm!("/* {0} */", inout(xmm_reg) * v, options(nomem, nostack, preserves_flags)) };
}

/// A byte-reversed block is a polynomial as the carry-less multiplier takes it.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx2")]
fn reversed(block: __m128i) -> __m128i {
    _mm_shuffle_epi8(block, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
}

/// The first counter block.
#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn j0(job: &Job<'_>) -> __m128i {
    job.j0()
}

/// The AAD as the one block in front of the text, reversed; of more than one block, the last with the hash of
/// those before.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx2")]
pub(super) fn aad_block(job: &Job<'_>, key: &ExpandedKey) -> __m128i {
    match job.aad_block() {
        Some(block) => reversed(block),
        None => hash_long_aad(job.aad(), key),
    }
}

#[cold]
#[inline(never)]
#[target_feature(enable = "aes,pclmulqdq,avx2")]
fn hash_long_aad(aad: &[u8], key: &ExpandedKey) -> __m128i {
    let (whole, rest) = aad.split_at((aad.len() - 1) & !15);
    let (blocks, _) = whole.as_chunks::<16>();
    let mut hash = Hash { carried: _mm_setzero_si128(), sum: Sum::zero() };
    let (groups, behind) = blocks.as_chunks::<GROUP>();
    for group in groups {
        let mut blocks = [_mm_setzero_si128(); GROUP];
        for (to, from) in blocks.iter_mut().zip(group) {
            *to = reversed(from_bytes(from));
        }
        hash.absorb(&blocks, key);
    }
    for block in behind {
        let block = _mm_xor_si128(hash.carried, reversed(from_bytes(block)));
        hash.carried = Sum::of(block, key.power(1)).reduced();
    }
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    _mm_xor_si128(hash.carried, reversed(from_bytes(&last)))
}

#[inline]
#[target_feature(enable = "sse2")]
fn from_bytes(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the array is 16 readable bytes.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// # Safety
///
/// The text has 16 bytes from byte `at` on.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx2")]
unsafe fn load(job: &Job<'_>, at: usize) -> __m128i {
    // SAFETY: inside the source, by the caller's word and the invariants of a job.
    unsafe { _mm_loadu_si128(job.src.wrapping_add(at).cast()) }
}

/// # Safety
///
/// As [`load`].
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx2")]
unsafe fn store(job: &Job<'_>, at: usize, block: __m128i) {
    // SAFETY: inside the destination, by the caller's word and the invariants of a job.
    unsafe { _mm_storeu_si128(job.dst.wrapping_add(at).cast(), block) };
}

/// The last `len` bytes of the text, 1 to 16, which begin at byte `at`; zeros behind.
///
/// # Safety
///
/// The text has them.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx2")]
unsafe fn load_last(job: &Job<'_>, at: usize, len: usize) -> __m128i {
    if at + len >= 16 {
        // SAFETY: as the caller promised, and the text has 16 bytes.
        return unsafe { Text::new(job).load_end(at + len, len) };
    }
    let mut bytes = [0; 16];
    // SAFETY: `len` bytes are in the source and in the array.
    unsafe { core::ptr::copy_nonoverlapping(job.src.wrapping_add(at), bytes.as_mut_ptr(), len) };
    from_bytes(&bytes)
}
