//! Four short packets in lock step.
//!
//! ```text
//!            text of packet 0 1 2 3          one lane per packet
//!   AES      s[0]  s[1]  s[2]  s[3]          j0: the four tag masks
//!   GHASH    sum[0] .. sum[3] ─► fold_each ─► total + AAD·Hⁿ⁺² + lengths·H ─► one reduction ─► four tags
//! ```

use core::arch::x86_64::*;
use core::array::from_fn;

use super::super::expanded::ExpandedKey;
use super::super::job::Job;
use super::vector::*;

/// Four jobs of `count` vectors each, which is 1 or 2.
///
/// # Safety
///
/// Every job has a key of this engine and of `R` rounds and exactly `count` vectors of text; all are seal jobs
/// if `SEAL`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn four<const SEAL: bool, const R: usize>(jobs: &mut [Job<'_>; 4], count: usize) {
    let key = jobs[0].key_address();
    let same = jobs.iter().all(|job| job.key_address() == key);
    match (count, same) {
        // SAFETY: as the caller promised.
        (1, true) => unsafe { lockstep::<SEAL, R, 1, true>(jobs) },
        // SAFETY: as the caller promised.
        (1, false) => unsafe { lockstep::<SEAL, R, 1, false>(jobs) },
        // SAFETY: as the caller promised.
        (_, true) => unsafe { lockstep::<SEAL, R, 2, true>(jobs) },
        // SAFETY: as the caller promised.
        (_, false) => unsafe { lockstep::<SEAL, R, 2, false>(jobs) },
    }
}

/// # Safety
///
/// As [`four`], with `G` for `count`; all jobs have the same key if `SAME`.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn lockstep<const SEAL: bool, const R: usize, const G: usize, const SAME: bool>(
    jobs: &mut [Job<'_>; 4],
) {
    // SAFETY: as the caller promised.
    let keys: [&ExpandedKey; 4] =
        from_fn(|i| unsafe { jobs[if SAME { 0 } else { i }].expanded_key() });
    let texts: [Text; 4] = from_fn(|i| Text::new(&jobs[i]));
    let tails: [Tail; 4] = from_fn(|i| tail(jobs[i].len()));

    let zero = _mm512_setzero_si512();
    let mut s = [[zero; G]; 4];
    let nonces: [__m128i; 4] = from_fn(|i| nonce(&jobs[i]));
    // One lane per packet where one key serves all; with several keys, a register each.
    let mut masks = if SAME {
        let four = lanes(nonces[0], nonces[1], nonces[2], nonces[3]);
        xor3(four, _mm512_broadcast_i32x4(counter_j0()), round_key(keys[0], 0))
    } else {
        zero
    };
    let mut mask_of = [_mm_setzero_si128(); 4];
    for i in 0..4 {
        let base = _mm512_xor_si512(_mm512_broadcast_i32x4(nonces[i]), round_key(keys[i], 0));
        for g in 0..G {
            s[i][g] = _mm512_xor_si512(base, counters(g));
        }
        if !SAME {
            mask_of[i] = _mm_xor_si128(_mm512_castsi512_si128(base), counter_j0());
        }
    }
    for r in 1..R {
        let shared = round_key(keys[0], r);
        for i in 0..4 {
            let rk = if SAME { shared } else { round_key(keys[i], r) };
            for g in 0..G {
                s[i][g] = _mm512_aesenc_epi128(s[i][g], rk);
            }
            if !SAME {
                mask_of[i] = _mm_aesenc_si128(mask_of[i], _mm512_castsi512_si128(rk));
            }
        }
        if SAME {
            masks = _mm512_aesenc_epi128(masks, shared);
        }
    }

    let mut sums = [Sum::zero(); 4];
    for i in 0..4 {
        let rk = round_key(keys[i], R);
        if !SAME {
            mask_of[i] = _mm_aesenclast_si128(mask_of[i], _mm512_castsi512_si128(rk));
        }
        let blocks = 4 * (G - 1) + tails[i].blocks;
        for g in 0..G {
            let last = g == G - 1;
            let mask = tails[i].mask;
            let x = if last {
                // SAFETY: the mask is that of the text's last vector, and that is `G - 1`.
                unsafe { texts[i].load_tail(g, mask) }
            } else {
                // SAFETY: the text has `G` vectors, and this is not the last.
                unsafe { texts[i].load(g) }
            };
            let y = _mm512_aesenclast_epi128(s[i][g], _mm512_xor_si512(x, rk));
            let hashed = if !SEAL {
                x
            } else if last {
                _mm512_maskz_mov_epi8(mask, y)
            } else {
                y
            };
            if last {
                // SAFETY: as the load.
                unsafe { texts[i].store_tail(g, mask, y) };
            } else {
                // SAFETY: as the load.
                unsafe { texts[i].store(g, y) };
            }
            let power =
                powers(keys[i], if last { tails[i].blocks + 1 } else { blocks + 1 - 4 * g });
            if g == 0 {
                sums[i] = Sum::of(reversed(hashed), power);
            } else {
                sums[i].add(reversed(hashed), power);
            }
        }
    }

    let block = |i: usize| 4 * (G - 1) + tails[i].blocks + 2;
    let masks = if SAME {
        _mm512_aesenclast_epi128(masks, round_key(keys[0], R))
    } else {
        lanes(mask_of[0], mask_of[1], mask_of[2], mask_of[3])
    };
    let aad = match [0, 1, 2, 3].map(|i: usize| jobs[i].aad_block()) {
        [Some(a), Some(b), Some(c), Some(d)] => reversed(lanes(a, b, c, d)),
        _ => {
            let aad: [__m128i; 4] = from_fn(|i| aad_block(&jobs[i], keys[i]));
            lanes(aad[0], aad[1], aad[2], aad[3])
        }
    };
    let len: [__m128i; 4] = from_fn(|i| jobs[i].length_block());
    let len = lanes(len[0], len[1], len[2], len[3]);
    let aad_power: [__m128i; 4] = from_fn(|i| keys[i].power(block(i)));
    let aad_power = lanes(aad_power[0], aad_power[1], aad_power[2], aad_power[3]);
    let len_power = if SAME {
        _mm512_broadcast_i32x4(keys[0].power(1))
    } else {
        lanes(keys[0].power(1), keys[1].power(1), keys[2].power(1), keys[3].power(1))
    };
    let mut total = Sum::fold_each(sums);
    total.add2(aad, aad_power, len, len_power);
    let tags = _mm512_xor_si512(reversed(total.reduced()), masks);
    let tags = [
        _mm512_castsi512_si128(tags),
        _mm512_extracti32x4_epi32::<1>(tags),
        _mm512_extracti32x4_epi32::<2>(tags),
        _mm512_extracti32x4_epi32::<3>(tags),
    ];
    for (job, tag) in jobs.iter_mut().zip(tags) {
        // SAFETY: as the caller promised.
        unsafe { finish::<SEAL>(job, tag) };
    }
}
