//! The groups of `aesni` with VAES and VPCLMULQDQ on 256-bit registers, for processors that have those without
//! AVX-512: two blocks in every register, and sixteen in a group where there are so many, as eight chains of rounds keep both units for
//! AES busy where four do not. Everything else of a packet is as in `aesni`.

use core::arch::asm;
use core::arch::x86_64::*;

use super::aesni::Hash;
use super::expanded::ExpandedKey;
use super::job::Job;

/// Encrypts or decrypts `count` groups of `PAIRS` registers from block `first` on, and hashes them.
///
/// # Safety
///
/// The text has so many groups.
#[inline(never)]
#[target_feature(enable = "aes,pclmulqdq,avx2,vaes,vpclmulqdq")]
pub(super) unsafe fn groups<const SEAL: bool, const R: usize, const PAIRS: usize>(
    job: &Job<'_>,
    key: &ExpandedKey,
    first: usize,
    count: usize,
    hash: &mut Hash,
) {
    // A pair for each round but the last.
    const { assert!(PAIRS < R) };
    // J0 counts one. Without that, and with the first round key.
    let j0 = _mm_xor_si128(super::aesni::j0(job), _mm_set_epi32(1 << 24, 0, 0, 0));
    let base = _mm256_broadcastsi128_si256(_mm_xor_si128(j0, key.round_key(0)));
    let in_network_order = _mm256_broadcastsi128_si256(_mm_set_epi8(
        12, 13, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
    ));
    let mut ready = [_mm256_setzero_si256(); PAIRS];
    for g in 0..count {
        let block = first + 2 * PAIRS * g;
        let at = 16 * block;
        let multiply = !SEAL || g > 0;
        // The first block of a text counts two; jobs are bounded so that counters fit 32 bits.
        let counter = (block + 2) as i32;
        let counters = _mm256_set_epi32(counter + 1, 0, 0, 0, counter, 0, 0, 0);
        let mut s = [base; PAIRS];
        for (i, v) in s.iter_mut().enumerate() {
            let behind = 2 * i as i32;
            let step = _mm256_set_epi32(behind, 0, 0, 0, behind, 0, 0, 0);
            let count = _mm256_shuffle_epi8(_mm256_add_epi32(counters, step), in_network_order);
            *v = _mm256_xor_si256(*v, count);
        }
        let mut sum = Sum::zero();
        // Written out, as the compiler would keep the registers of a loop so long in memory.
        macro_rules! rounds {
            ($($r:literal)*) => {$(
                if $r < R {
                    let rk = _mm256_broadcastsi128_si256(key.round_key($r));
                    for v in &mut s {
                        *v = _mm256_aesenc_epi128(*v, rk);
                        in_order(v);
                    }
                    if multiply && $r <= PAIRS {
                        // The first pair waits for the reduction, so it is last.
                        let i = $r % PAIRS;
                        let pair = if SEAL {
                            ready[i]
                        } else {
                            // SAFETY: the pair is in the text.
                            reversed(unsafe { load(job, at + 32 * i) })
                        };
                        sum.add(carry(pair, i, hash), power(key, 2 * (PAIRS - i)));
                        sum.in_order();
                    }
                }
            )*};
        }
        rounds!(1 2 3 4 5 6 7 8 9 10 11 12 13);
        if multiply {
            sum.conclude(hash);
        }
        let rk = _mm256_broadcastsi128_si256(key.round_key(R));
        for i in 0..PAIRS {
            // SAFETY: the pair is in the text; so the store.
            let x = unsafe { load(job, at + 32 * i) };
            let y = _mm256_aesenclast_epi128(s[i], _mm256_xor_si256(x, rk));
            // SAFETY: as the load.
            unsafe { store(job, at + 32 * i, y) };
            ready[i] = reversed(y);
        }
    }
    if SEAL && count > 0 {
        let mut sum = Sum::zero();
        for (i, pair) in ready.into_iter().enumerate() {
            sum.add(carry(pair, i, hash), power(key, 2 * (PAIRS - i)));
        }
        sum.conclude(hash);
    }
}

/// The first pair of a group with what is carried to it.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx2")]
fn carry(pair: __m256i, i: usize, hash: &Hash) -> __m256i {
    let carried = _mm256_zextsi128_si256(hash.carried);
    if i == 0 { _mm256_xor_si256(pair, carried) } else { pair }
}

/// H to the powers of `e` and `e` - 1.
#[inline]
#[target_feature(enable = "avx2")]
fn power(key: &ExpandedKey, e: usize) -> __m256i {
    let four = key.powers(e);
    // SAFETY: half of an array.
    unsafe { _mm256_loadu_si256(four.as_ptr().cast()) }
}

/// Byte-reversed blocks.
#[inline]
#[target_feature(enable = "avx2")]
fn reversed(pair: __m256i) -> __m256i {
    let order = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm256_shuffle_epi8(pair, _mm256_broadcastsi128_si256(order))
}

/// Unreduced products, of both blocks side by side; in the middle those of the halves' sums (Karatsuba), three multiplications instead
/// of four.
struct Sum {
    lo: __m256i,
    mid: __m256i,
    hi: __m256i,
}

impl Sum {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn zero() -> Self {
        let zero = _mm256_setzero_si256();
        Self { lo: zero, mid: zero, hi: zero }
    }

    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,avx2,vaes,vpclmulqdq")]
    fn add(&mut self, pair: __m256i, power: __m256i) {
        let halves = |v| _mm256_xor_si256(v, _mm256_shuffle_epi32::<0x4e>(v));
        let mid = _mm256_clmulepi64_epi128::<0x00>(halves(pair), halves(power));
        self.lo = _mm256_xor_si256(self.lo, _mm256_clmulepi64_epi128::<0x00>(pair, power));
        self.hi = _mm256_xor_si256(self.hi, _mm256_clmulepi64_epi128::<0x11>(pair, power));
        self.mid = _mm256_xor_si256(self.mid, mid);
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn in_order(&mut self) {
        in_order(&mut self.lo);
        in_order(&mut self.mid);
        in_order(&mut self.hi);
    }

    /// Adds itself to what was hashed, and carries all of it on.
    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,avx2")]
    fn conclude(self, hash: &mut Hash) {
        let (lo, mid, hi) = (fold(self.lo), fold(self.mid), fold(self.hi));
        let mid = _mm_xor_si128(mid, _mm_xor_si128(lo, hi));
        hash.sum.lo = _mm_xor_si128(hash.sum.lo, lo);
        hash.sum.mid = _mm_xor_si128(hash.sum.mid, mid);
        hash.sum.hi = _mm_xor_si128(hash.sum.hi, hi);
        hash.reduce();
    }
}

/// The XOR of both blocks.
#[inline]
#[target_feature(enable = "avx2")]
fn fold(v: __m256i) -> __m128i {
    _mm_xor_si128(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v))
}

/// Holds `v` to its place in the order of the program, as its namesake in `avx512` does.
#[inline]
#[target_feature(enable = "avx2")]
fn in_order(v: &mut __m256i) {
    // SAFETY: there is no instruction; the register is declared as read and written.
    unsafe { asm!("/* {0} */", inout(ymm_reg) * v, options(nomem, nostack, preserves_flags)) };
}

/// # Safety
///
/// The text has 32 bytes from byte `at` on.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(job: &Job<'_>, at: usize) -> __m256i {
    // SAFETY: inside the source, by the caller's word and the invariants of a job.
    unsafe { _mm256_loadu_si256(job.src.wrapping_add(at).cast()) }
}

/// # Safety
///
/// As [`load`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store(job: &Job<'_>, at: usize, pair: __m256i) {
    // SAFETY: inside the destination, by the caller's word and the invariants of a job.
    unsafe { _mm256_storeu_si256(job.dst.wrapping_add(at).cast(), pair) };
}
