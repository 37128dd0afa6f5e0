//! Two blocks in a 256-bit register: what the kernels of this engine are made of.

use core::arch::asm;
use core::arch::x86_64::*;

pub(super) use super::super::text::{Text, finish, first_bytes};

use super::super::counter;
use super::super::expanded::{ExpandedKey, REDUCTION};

/// Runs `$body` for the rounds that every key has, 1 to 9, written out: in a loop the compiler would keep the registers in memory.
macro_rules! nine_rounds {
    ($round:ident => $body:block) => {
        nine_rounds!(@ $round $body 1 2 3 4 5 6 7 8 9)
    };
    (@ $round:ident $body:block $($n:literal)*) => {
        $({
            const $round: usize = $n;
            $body
        })*
    };
}
pub(super) use nine_rounds;

/// Holds `v` to its place in the order of the program, as its namesake in `avx512` does.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn in_order(v: &mut __m256i) {
    // SAFETY: there is no instruction; the register is declared as read and written.
    unsafe { asm!("/* {0} */", inout(ymm_reg) * v, options(nomem, nostack, preserves_flags)) };
}

/// Both blocks byte-reversed, which makes them polynomials as the carry-less multiplier takes them.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn reversed(v: __m256i) -> __m256i {
    _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(reversal()))
}

/// As [`reversed`], one block.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn reversed1(block: __m128i) -> __m128i {
    _mm_shuffle_epi8(block, reversal())
}

#[inline]
#[target_feature(enable = "sse2")]
fn reversal() -> __m128i {
    _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
}

/// Two blocks as the lanes of a vector.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn lanes(a: __m128i, b: __m128i) -> __m256i {
    _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b)
}

/// One block in lane 0, zeros in the other.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn in_lane_0(block: __m128i) -> __m256i {
    _mm256_zextsi128_si256(block)
}

/// `v` with its second lane replaced.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn with_lane_1(v: __m256i, block: __m128i) -> __m256i {
    _mm256_inserti128_si256::<1>(v, block)
}

/// The lanes of a vector.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn split(v: __m256i) -> [__m128i; 2] {
    [_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v)]
}

/// The XOR of both blocks.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn fold(v: __m256i) -> __m128i {
    let [a, b] = split(v);
    _mm_xor_si128(a, b)
}

/// The sum of the halves of each block, in both halves.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn halves(v: __m256i) -> __m256i {
    _mm256_xor_si256(v, _mm256_shuffle_epi32::<0x4e>(v))
}

/// The key of round `r` in both lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn round_key(key: &ExpandedKey, r: usize) -> __m256i {
    _mm256_broadcastsi128_si256(key.round_key(r))
}

/// H to the powers of `e` and `e` - 1.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn powers(key: &ExpandedKey, e: usize) -> __m256i {
    let four = key.powers(e);
    // SAFETY: half of an array.
    unsafe { _mm256_loadu_si256(four.as_ptr().cast()) }
}

/// Blocks `i` and `i` + 1.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn pair<const N: usize>(blocks: &[u128; N], i: usize) -> __m256i {
    match blocks[i..].first_chunk::<2>() {
        // SAFETY: the array is 32 readable bytes.
        Some(pair) => unsafe { _mm256_loadu_si256(pair.as_ptr().cast()) },
        None => unreachable!(),
    }
}

/// The counters of sixteen text blocks from block `b` on, to be XORed to J0, for the vectors of a group.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn counters<const L: usize>(b: usize) -> [__m256i; L] {
    let mut vectors = [_mm256_setzero_si256(); L];
    if let Some(words) = counter::TABLE.sixteen(b) {
        let (words, _) = words.as_chunks::<8>();
        for (v, words) in vectors.iter_mut().zip(words) {
            let words: &[u32; 8] = words;
            // SAFETY: the array is 32 readable bytes.
            *v = unsafe { _mm256_loadu_si256(words.as_ptr().cast()) };
        }
    } else {
        for (i, v) in vectors.iter_mut().enumerate() {
            let number = |lane| counter::difference(b + 2 * i + lane) as i32;
            *v = _mm256_set_epi32(number(1), 0, 0, 0, number(0), 0, 0, 0);
        }
    }
    vectors
}

/// The counter of text block `b` in both lanes, to be XORed to J0s.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn block_counter(b: usize) -> __m256i {
    let number = counter::difference(b) as i32;
    _mm256_set_epi32(number, 0, 0, 0, number, 0, 0, 0)
}

/// Unreduced products, summed lane by lane; in the middle those of the halves' sums (Karatsuba), three multiplications instead of four.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    lo: __m256i,
    mid: __m256i,
    hi: __m256i,
}

impl Sum {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn zero() -> Self {
        let zero = _mm256_setzero_si256();
        Self { lo: zero, mid: zero, hi: zero }
    }

    /// The product of reversed blocks and powers of H; `of_powers` is [`halves`] of these.
    ///
    /// The three multiplications are neighbours: each begins a cycle of its own of what decodes instructions, on Zen 3.
    #[inline]
    #[target_feature(enable = "avx2,vpclmulqdq")]
    pub(super) fn add(&mut self, v: __m256i, powers: __m256i, of_powers: __m256i) {
        let mut of_text = halves(v);
        in_order(&mut of_text);
        let mut lo = _mm256_clmulepi64_epi128::<0x00>(v, powers);
        in_order(&mut lo);
        let mut hi = _mm256_clmulepi64_epi128::<0x11>(v, powers);
        in_order(&mut hi);
        let mut mid = _mm256_clmulepi64_epi128::<0x00>(of_text, of_powers);
        in_order(&mut mid);
        self.lo = _mm256_xor_si256(self.lo, lo);
        self.hi = _mm256_xor_si256(self.hi, hi);
        self.mid = _mm256_xor_si256(self.mid, mid);
        in_order(&mut self.lo);
        in_order(&mut self.hi);
        in_order(&mut self.mid);
    }

    /// Reduces each lane by itself to 128 bits (see `expanded::reduce`).
    #[inline]
    #[target_feature(enable = "avx2,vpclmulqdq")]
    pub(super) fn reduced(self) -> __m256i {
        let polynomial = _mm256_set1_epi64x(REDUCTION);
        let Self { lo, hi, .. } = self;
        let mid = _mm256_xor_si256(self.mid, _mm256_xor_si256(lo, hi));
        let folded = _mm256_clmulepi64_epi128::<0x00>(lo, polynomial);
        let mid = _mm256_xor_si256(mid, _mm256_shuffle_epi32::<0x4e>(lo));
        let mid = _mm256_xor_si256(mid, folded);
        let folded = _mm256_clmulepi64_epi128::<0x00>(mid, polynomial);
        let hi = _mm256_xor_si256(hi, _mm256_shuffle_epi32::<0x4e>(mid));
        _mm256_xor_si256(hi, folded)
    }
}

impl Text {
    /// # Safety
    ///
    /// The text has 32 bytes from byte `at` on.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn load(self, at: usize) -> __m256i {
        // SAFETY: inside the source, by the caller's word and the invariants of a job.
        unsafe { _mm256_loadu_si256(self.src.wrapping_add(at).cast()) }
    }

    /// # Safety
    ///
    /// As [`load`](Self::load).
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn store(self, at: usize, v: __m256i) {
        // SAFETY: inside the destination, by the caller's word and the invariants of a job.
        unsafe { _mm256_storeu_si256(self.dst.wrapping_add(at).cast(), v) };
    }
}
