//! The groups of `aesni` with VAES and VPCLMULQDQ on 256-bit registers, for processors that have those without
//! AVX-512: two blocks in every register. Everything else of a packet is as in `aesni`.

use core::arch::asm;
use core::arch::x86_64::*;

use super::aesni::{GROUP, Hash};
use super::expanded::ExpandedKey;
use super::job::Job;

/// Registers of a group.
const PAIRS: usize = GROUP / 2;

/// Encrypts or decrypts the first `groups` groups and hashes them, the last one excepted when sealing: its
/// reversed ciphertext is left in `hashed`.
///
/// # Safety
///
/// The text has so many groups.
#[inline(never)]
#[target_feature(enable = "aes,pclmulqdq,avx2,vaes,vpclmulqdq")]
pub(super) unsafe fn groups<const SEAL: bool, const R: usize>(
    job: &Job<'_>,
    key: &ExpandedKey,
    groups: usize,
    hash: &mut Hash,
    hashed: &mut [__m128i; GROUP],
) {
    let j0 = _mm_xor_si128(super::aesni::j0(job), key.round_key(0));
    let base = _mm256_broadcastsi128_si256(j0);
    let reversal = _mm256_broadcastsi128_si256(_mm_set_epi8(
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
    ));
    let mut ready = [_mm256_setzero_si256(); PAIRS];
    for g in 0..groups {
        let at = 16 * GROUP * g;
        let multiply = !SEAL || g > 0;
        let mut s = [base; PAIRS];
        for (i, v) in s.iter_mut().enumerate() {
            // J0 counts one, the first block two; jobs are bounded so that counters fit 32 bits.
            let first = (GROUP * g + 2 * i + 2) as u32;
            let (low, high) = ((1 ^ first).swap_bytes(), (1 ^ (first + 1)).swap_bytes());
            let difference = _mm256_set_epi32(high as i32, 0, 0, 0, low as i32, 0, 0, 0);
            *v = _mm256_xor_si256(*v, difference);
        }
        let mut lo = _mm256_zextsi128_si256(hash.sum.lo);
        let mut mid = _mm256_zextsi128_si256(hash.sum.mid);
        let mut hi = _mm256_zextsi128_si256(hash.sum.hi);
        for r in 1..R {
            let rk = _mm256_broadcastsi128_si256(key.round_key(r));
            for v in &mut s {
                *v = _mm256_aesenc_epi128(*v, rk);
                in_order(v);
            }
            if multiply && r <= PAIRS {
                // The first pair waits for the reduction, so it is last.
                let i = r % PAIRS;
                let pair = if SEAL {
                    ready[i]
                } else {
                    // SAFETY: the pair is in the text.
                    _mm256_shuffle_epi8(unsafe { load(job, at + 32 * i) }, reversal)
                };
                let carried = _mm256_zextsi128_si256(hash.carried);
                let pair = if i == 0 { _mm256_xor_si256(pair, carried) } else { pair };
                let [high, low, ..] = key.powers(GROUP - 2 * i);
                let power = _mm256_set_epi64x(
                    (low >> 64) as i64,
                    *low as i64,
                    (high >> 64) as i64,
                    *high as i64,
                );
                lo = _mm256_xor_si256(lo, _mm256_clmulepi64_epi128::<0x00>(pair, power));
                hi = _mm256_xor_si256(hi, _mm256_clmulepi64_epi128::<0x11>(pair, power));
                mid = _mm256_xor_si256(mid, _mm256_clmulepi64_epi128::<0x01>(pair, power));
                mid = _mm256_xor_si256(mid, _mm256_clmulepi64_epi128::<0x10>(pair, power));
                in_order(&mut lo);
                in_order(&mut mid);
                in_order(&mut hi);
            }
        }
        if multiply {
            hash.sum.lo = fold(lo);
            hash.sum.mid = fold(mid);
            hash.sum.hi = fold(hi);
            hash.reduce();
        }
        let rk = _mm256_broadcastsi128_si256(key.round_key(R));
        for i in 0..PAIRS {
            // SAFETY: the pair is in the text; so the store.
            let x = unsafe { load(job, at + 32 * i) };
            let y = _mm256_aesenclast_epi128(s[i], _mm256_xor_si256(x, rk));
            // SAFETY: as the load.
            unsafe { store(job, at + 32 * i, y) };
            ready[i] = _mm256_shuffle_epi8(y, reversal);
        }
    }
    for i in 0..PAIRS {
        hashed[2 * i] = _mm256_castsi256_si128(ready[i]);
        hashed[2 * i + 1] = _mm256_extracti128_si256::<1>(ready[i]);
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
