//! What is made of one line of each of four keys, a key in every lane: their round keys, one after the other.

use core::arch::x86_64::*;

use super::super::expanded::Start;
use super::vector::*;

/// A lane of each key's beginning.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn starts(keys: [&[u128; 4]; 4]) -> Start<__m512i> {
    let mut lines = [_mm512_setzero_si512(); 4];
    for i in 0..4 {
        // SAFETY: the line is 64 readable bytes.
        lines[i] = unsafe { _mm512_loadu_si512(keys[i].as_ptr().cast()) };
    }
    let [square, hash, first, second] = transposed(lines);
    Start { square, hash, keys: [first, second] }
}

/// The round keys of four keys, one round after the other (FIPS 197 §5.2).
pub(super) struct Schedule {
    before: __m512i,
    now: __m512i,
    second: __m512i,
}

impl Schedule {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) fn new([first, second]: [__m512i; 2]) -> Self {
        Self { before: first, now: first, second }
    }

    /// Of the round before.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) fn key(&self) -> __m512i {
        self.now
    }

    /// Of round `N` of `R`, the first being 1.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) fn next<const R: usize, const N: usize>(&mut self) -> __m512i {
        let next = match (R, N) {
            (10, _) => following::<true>(self.now, self.now, ROUND_CONSTANTS[N - 1]),
            (_, 1) => self.second,
            (..) if N.is_multiple_of(2) => {
                following::<true>(self.before, self.now, ROUND_CONSTANTS[N / 2 - 1])
            }
            (..) => following::<false>(self.before, self.now, 0),
        };
        (self.before, self.now) = (self.now, next);
        next
    }
}

const ROUND_CONSTANTS: [i32; 10] = [1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80, 0x1b, 0x36];

/// The round key that is one key length behind `before`, and just behind `last`, whose last word is `ROTATED` first or not.
///
/// Where all columns are the same word, what AES does to rows moves nothing, so its last round is the S-box and an XOR.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
fn following<const ROTATED: bool>(before: __m512i, last: __m512i, constant: i32) -> __m512i {
    let order = _mm512_set1_epi32(if ROTATED { 0x0c0f_0e0d } else { 0x0f0e_0d0c });
    let word = _mm512_shuffle_epi8(last, order);
    let word = _mm512_aesenclast_epi128(word, _mm512_set1_epi32(constant));
    let sums = _mm512_xor_si512(before, _mm512_bslli_epi128::<4>(before));
    xor3(sums, _mm512_bslli_epi128::<8>(sums), word)
}
