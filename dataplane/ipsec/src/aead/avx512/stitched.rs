//! Runs of packets of the same number of vectors, each one's hash between the AES rounds of the next.
//!
//! ```text
//!   AES      packet 0 │ packet 1          │ packet 2          │
//!   GHASH             │ packet 0 ─► tag 0 │ packet 1 ─► tag 1 │ packet 2 ─► tag 2
//! ```

use core::arch::x86_64::*;

use super::super::expanded::ExpandedKey;
use super::super::job::Job;
use super::vector::*;

/// The longest packets, in vectors, that are stitched.
pub(super) const MAX: usize = 9;

/// A run of jobs of `count` vectors each, which is 3 to [`MAX`].
///
/// # Safety
///
/// Every job has a key of this engine and of `R` rounds and exactly `count` vectors of text; all are seal jobs
/// if `SEAL`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run<const SEAL: bool, const R: usize>(jobs: &mut [Job<'_>], count: usize) {
    match count {
        // SAFETY: as the caller promised; so in each arm.
        3 => unsafe { stitched::<SEAL, R, 3>(jobs) },
        // SAFETY: likewise.
        4 => unsafe { stitched::<SEAL, R, 4>(jobs) },
        // SAFETY: likewise.
        5 => unsafe { stitched::<SEAL, R, 5>(jobs) },
        // SAFETY: likewise.
        6 => unsafe { stitched::<SEAL, R, 6>(jobs) },
        // SAFETY: likewise.
        7 => unsafe { stitched::<SEAL, R, 7>(jobs) },
        // SAFETY: likewise.
        8 => unsafe { stitched::<SEAL, R, 8>(jobs) },
        // SAFETY: likewise.
        _ => unsafe { stitched::<SEAL, R, 9>(jobs) },
    }
}

/// A packet whose ciphertext is there and whose hash is not yet.
struct Pending<'k, const G: usize> {
    key: &'k ExpandedKey,
    /// The reversed ciphertext but for the last vector, which `sum` has.
    text: [__m512i; G],
    /// AAD, length block and last vector.
    sum: Sum,
    /// The encrypted J0.
    mask: __m128i,
    /// Blocks of text.
    blocks: usize,
}

/// # Safety
///
/// As [`run`], with `G` for `count`.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn stitched<const SEAL: bool, const R: usize, const G: usize>(jobs: &mut [Job<'_>]) {
    let mut jobs = jobs.iter_mut();
    let Some(mut job) = jobs.next() else { return };
    // SAFETY: the jobs are of this engine, as the caller promised.
    let key = unsafe { job.expanded_key() };
    let zero = _mm512_setzero_si512();
    let mask = _mm_setzero_si128();
    let mut pending = Pending { key, text: [zero; G], sum: Sum::zero(), mask, blocks: 0 };
    // SAFETY: as the caller promised.
    unsafe { step::<SEAL, R, G, false>(job, &mut pending) };
    for later in jobs {
        // SAFETY: as the caller promised.
        let tag = unsafe { step::<SEAL, R, G, true>(later, &mut pending) };
        // SAFETY: as the caller promised.
        unsafe { finish::<SEAL>(job, tag) };
        job = later;
    }
    let mut sum = pending.sum;
    for g in 0..G - 1 {
        sum.add(pending.text[g], powers(pending.key, pending.blocks + 1 - 4 * g));
    }
    let tag = _mm_xor_si128(reversed1(fold(sum.reduced())), pending.mask);
    // SAFETY: as the caller promised.
    unsafe { finish::<SEAL>(job, tag) };
}

/// Encrypts `job`, hashes what is pending (if `HAVE`) and gives its tag, and leaves `job` pending.
///
/// # Safety
///
/// As [`run`], for this job.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn step<'k, const SEAL: bool, const R: usize, const G: usize, const HAVE: bool>(
    job: &Job<'k>,
    pending: &mut Pending<'k, G>,
) -> __m128i {
    // SAFETY: the job is of this engine, as the caller promised.
    let key = unsafe { job.expanded_key() };
    let aad = aad_block(job, key);
    let text = Text::new(job);
    let end = tail(job.len());
    let blocks = 4 * (G - 1) + end.blocks;

    let mut mask = _mm_xor_si128(j0(job), key.round_key(0));
    let base = _mm512_broadcast_i32x4(mask);
    let mut s = [_mm512_setzero_si512(); G];
    for g in 0..G {
        s[g] = _mm512_xor_si512(base, counters(g));
    }
    // J0 rides in the last lane of the last vector, if that is free.
    if end.blocks < 4 {
        s[G - 1] = with_lane_3(s[G - 1], mask);
    } else {
        mask = encrypt::<R>(key, mask);
    }

    let mut sum = pending.sum;
    each_round!(ROUND => {
        let rk = round_key(key, ROUND);
        for g in 0..G {
            s[g] = _mm512_aesenc_epi128(s[g], rk);
            in_order(&mut s[g]);
        }
        if HAVE {
            for g in (ROUND - 1) * (G - 1) / (R - 2)..ROUND * (G - 1) / (R - 2) {
                if g < G - 1 {
                    sum.add(pending.text[g], powers(pending.key, pending.blocks + 1 - 4 * g));
                }
            }
            sum.in_order();
        }
    });
    let tag = if HAVE {
        _mm_xor_si128(reversed1(fold(sum.reduced())), pending.mask)
    } else {
        pending.mask
    };

    let rk = round_key(key, R);
    for g in 0..G - 1 {
        // SAFETY: the text has `G` vectors, and this is not the last.
        let x = unsafe { text.load(g) };
        let y = _mm512_aesenclast_epi128(s[g], _mm512_xor_si512(x, rk));
        // SAFETY: likewise.
        unsafe { text.store(g, y) };
        pending.text[g] = reversed(if SEAL { y } else { x });
    }
    // SAFETY: the mask is that of the text's last vector, and that is `G - 1`.
    let x = unsafe { text.load_tail(G - 1, end.mask) };
    let y = _mm512_aesenclast_epi128(s[G - 1], _mm512_xor_si512(x, rk));
    // SAFETY: likewise.
    unsafe { text.store_tail(G - 1, end.mask, y) };
    if end.blocks < 4 {
        mask = _mm512_extracti32x4_epi32::<3>(y);
    }
    let last = reversed(if SEAL { _mm512_maskz_mov_epi8(end.mask, y) } else { x });

    *pending = Pending {
        key,
        text: pending.text,
        sum: ends(aad, job, key, last, end, blocks),
        mask,
        blocks,
    };
    tag
}

/// The products of AAD, length block and the last vector of a text of `blocks` blocks.
///
/// AAD and length block take lanes that the text leaves free.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn ends(
    aad: __m128i,
    job: &Job<'_>,
    key: &ExpandedKey,
    last: __m512i,
    end: Tail,
    blocks: usize,
) -> Sum {
    let lengths = job.length_block();
    let aad_power = key.power(blocks + 2);
    let power = powers(key, end.blocks + 1);
    if end.blocks < 3 {
        let v = with_lane_3(with_lane(last, end.blocks, lengths), aad);
        Sum::of(v, with_lane_3(power, aad_power))
    } else {
        let mut sum = Sum::of(in_lanes_01(aad, lengths), in_lanes_01(aad_power, key.power(1)));
        sum.add(last, power);
        sum
    }
}
