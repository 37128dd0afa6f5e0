//! One packet by itself, of any length.
//!
//! ```text
//!   seal   AES      group 0 │ group 1 │ group 2 │ last
//!          GHASH            │ group 0 │ group 1 │ group 2 │ last ─► tag
//!   open   AES      group 0 │ group 1 │ group 2 │ last
//!          GHASH    group 0 │ group 1 │ group 2 │ last ─► tag
//! ```

use core::arch::x86_64::*;

use super::super::expanded::ExpandedKey;
use super::super::job::Job;
use super::stitched::ends;
use super::vector::*;

/// Vectors in a group of a long text.
const GROUP: usize = 8;

/// The most vectors that are hashed with a single reduction.
const MAX: usize = GROUP + 1;

/// # Safety
///
/// The job has a key of this engine and of `R` rounds, and is a seal job if `SEAL`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn one<const SEAL: bool, const R: usize>(job: &mut Job<'_>) {
    // SAFETY: the job is of this engine, as the caller promised.
    let key = unsafe { job.expanded_key() };
    let tag = match vectors(job.len()) {
        0 => empty::<R>(job, key),
        // SAFETY: the job has that many vectors; so in each arm.
        1 => unsafe { short::<SEAL, R, 1>(job, key) },
        // SAFETY: likewise.
        2 => unsafe { short::<SEAL, R, 2>(job, key) },
        // SAFETY: likewise.
        3 => unsafe { short::<SEAL, R, 3>(job, key) },
        // SAFETY: likewise.
        4 => unsafe { short::<SEAL, R, 4>(job, key) },
        // SAFETY: likewise.
        5 => unsafe { short::<SEAL, R, 5>(job, key) },
        // SAFETY: likewise.
        6 => unsafe { short::<SEAL, R, 6>(job, key) },
        // SAFETY: likewise.
        7 => unsafe { short::<SEAL, R, 7>(job, key) },
        // SAFETY: likewise.
        8 => unsafe { short::<SEAL, R, 8>(job, key) },
        // SAFETY: likewise.
        MAX => unsafe { short::<SEAL, R, MAX>(job, key) },
        // SAFETY: the job has more than that.
        _ => unsafe { long::<SEAL, R>(job, key) },
    };
    // SAFETY: as the caller promised.
    unsafe { finish::<SEAL>(job, tag) };
}

/// The tag of AAD alone: GMAC (RFC 4543).
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
fn empty<const R: usize>(job: &Job<'_>, key: &ExpandedKey) -> __m128i {
    let mask = encrypt::<R>(key, _mm_xor_si128(j0(job), key.round_key(0)));
    let text = in_lanes_01(aad_block(job, key), job.length_block());
    let sum = Sum::of(text, in_lanes_01(key.power(2), key.power(1)));
    _mm_xor_si128(reversed1(fold(sum.reduced())), mask)
}

/// The tag of a text of `G` vectors, at most [`MAX`], which is encrypted or decrypted.
///
/// # Safety
///
/// The text has exactly `G` vectors.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn short<const SEAL: bool, const R: usize, const G: usize>(
    job: &Job<'_>,
    key: &ExpandedKey,
) -> __m128i {
    let aad = aad_block(job, key);
    let j0 = _mm_xor_si128(j0(job), key.round_key(0));
    let mut hashed = [_mm512_setzero_si512(); G];
    // SAFETY: the text has `G` vectors.
    let mask = unsafe { last_group::<SEAL, R, G, 0, true>(job, key, j0, 0, &mut hashed, None) };
    let end = tail(job.len());
    let blocks = 4 * (G - 1) + end.blocks;
    let mut sum = ends(aad, job, key, hashed[G - 1], end, blocks);
    for g in 0..G - 1 {
        sum.add(hashed[g], powers(key, blocks + 1 - 4 * g));
    }
    _mm_xor_si128(reversed1(fold(sum.reduced())), mask)
}

/// The hash of a long text so far.
struct Hash {
    /// Reduced, to be added to the first block of the next group.
    carried: __m128i,
    /// Not yet reduced, already multiplied for the next group.
    sum: Sum,
}

/// The tag of a text of more than [`MAX`] vectors, which is encrypted or decrypted.
///
/// # Safety
///
/// The text has more than [`MAX`] vectors.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn long<const SEAL: bool, const R: usize>(job: &Job<'_>, key: &ExpandedKey) -> __m128i {
    let count = vectors(job.len());
    let j0 = _mm_xor_si128(j0(job), key.round_key(0));
    // What is left for the last group is 2 to 9 vectors.
    let groups = (count - 2) / GROUP;
    let aad = Sum::of(in_lane_0(aad_block(job, key)), in_lane_0(key.power(4 * GROUP + 1)));
    let mut hash = Hash { carried: _mm_setzero_si128(), sum: aad };
    let mut hashed = [_mm512_setzero_si512(); GROUP];
    let mut j = 0;
    if SEAL {
        // SAFETY: `groups` whole groups are in the text; so in the loop.
        unsafe { group::<SEAL, R, 0>(job, key, j0, 0, &mut hashed, &mut hash) };
        j = GROUP;
    }
    while j < GROUP * groups {
        // SAFETY: as above.
        unsafe { group::<SEAL, R, GROUP>(job, key, j0, j, &mut hashed, &mut hash) };
        j += GROUP;
    }
    macro_rules! last {
        ($g:literal) => {
            // SAFETY: that many vectors follow the whole groups.
            unsafe { last::<SEAL, R, $g>(job, key, j0, j, &hashed, hash) }
        };
    }
    match count - j {
        2 => last!(2),
        3 => last!(3),
        4 => last!(4),
        5 => last!(5),
        6 => last!(6),
        7 => last!(7),
        8 => last!(8),
        _ => last!(9),
    }
}

/// Encrypts or decrypts the group at vector `j`, and multiplies `H` vectors of ciphertext between the rounds: of
/// the group before when sealing, of this one when opening.
///
/// # Safety
///
/// The text has [`GROUP`] vectors from `j` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn group<const SEAL: bool, const R: usize, const H: usize>(
    job: &Job<'_>,
    key: &ExpandedKey,
    j0: __m128i,
    j: usize,
    hashed: &mut [__m512i; GROUP],
    hash: &mut Hash,
) {
    let text = Text::new(job);
    let mut s = first_states::<GROUP>(j0, j);
    let ready = if SEAL { *hashed } else { [_mm512_setzero_si512(); GROUP] };
    each_round!(ROUND => {
        let rk = round_key(key, ROUND);
        for v in &mut s {
            *v = _mm512_aesenc_epi128(*v, rk);
            in_order(v);
        }
        // Pairs after the even rounds up to the eighth. The first vector waits for the reduction, so it is last.
        if H == GROUP && ROUND.is_multiple_of(2) && ROUND <= GROUP {
            let (a, b) = (ROUND - 1, ROUND % GROUP);
            let vector = |g: usize| {
                if SEAL {
                    ready[g]
                } else {
                    // SAFETY: the vector is in the group.
                    reversed(unsafe { text.load(j + g) })
                }
            };
            let (va, mut vb) = (vector(a), vector(b));
            if b == 0 {
                vb = _mm512_xor_si512(vb, in_lane_0(hash.carried));
            }
            hash.sum.add2(va, powers(key, 4 * (GROUP - a)), vb, powers(key, 4 * (GROUP - b)));
            hash.sum.in_order();
        }
    });
    let rk = round_key(key, R);
    for g in 0..GROUP {
        // SAFETY: the vector is in the group; so the store.
        let x = unsafe { text.load(j + g) };
        let y = _mm512_aesenclast_epi128(s[g], _mm512_xor_si512(x, rk));
        // SAFETY: as the load.
        unsafe { text.store(j + g, y) };
        if SEAL {
            hashed[g] = reversed(y);
        }
    }
    if H == GROUP {
        hash.carried = fold(hash.sum.reduced());
        hash.sum = Sum::zero();
    }
}

/// The last `G` vectors, which begin at vector `j`, and the tag.
///
/// # Safety
///
/// The text has exactly `G` vectors from `j` on, and groups of [`GROUP`] before.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn last<const SEAL: bool, const R: usize, const G: usize>(
    job: &Job<'_>,
    key: &ExpandedKey,
    j0: __m128i,
    j: usize,
    before: &[__m512i; GROUP],
    mut hash: Hash,
) -> __m128i {
    let mut hashed = [_mm512_setzero_si512(); G];
    let mask = if SEAL {
        let pending = Some((before, &mut hash));
        // SAFETY: as the caller promised.
        unsafe { last_group::<SEAL, R, G, GROUP, false>(job, key, j0, j, &mut hashed, pending) }
    } else {
        // SAFETY: as the caller promised.
        unsafe { last_group::<SEAL, R, G, 0, false>(job, key, j0, j, &mut hashed, None) }
    };
    let end = tail(job.len());
    let blocks = 4 * (G - 1) + end.blocks;
    let lengths = job.length_block();
    let power = powers(key, end.blocks + 1);
    let mut sum;
    if end.blocks < 4 {
        sum = Sum::of(with_lane(hashed[G - 1], end.blocks, lengths), power);
    } else {
        sum = Sum::of(in_lane_0(lengths), in_lane_0(key.power(1)));
        sum.add(hashed[G - 1], power);
    }
    for g in 1..G - 1 {
        sum.add(hashed[g], powers(key, blocks + 1 - 4 * g));
    }
    let first = _mm512_xor_si512(hashed[0], in_lane_0(hash.carried));
    sum.add(first, powers(key, blocks + 1));
    _mm_xor_si128(reversed1(fold(sum.reduced())), mask)
}

/// Encrypts or decrypts the last `G` vectors, from vector `j` on, and gives the encrypted J0; `hashed` receives
/// their ciphertext. Between the rounds, `H` vectors of a group before are multiplied. `SHORT` if there is no such
/// group; it also gives each caller its own instance, which the compiler then inlines.
///
/// # Safety
///
/// The text has exactly `G` vectors from `j` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn last_group<
    const SEAL: bool,
    const R: usize,
    const G: usize,
    const H: usize,
    const SHORT: bool,
>(
    job: &Job<'_>,
    key: &ExpandedKey,
    j0: __m128i,
    j: usize,
    hashed: &mut [__m512i; G],
    before: Option<(&[__m512i; GROUP], &mut Hash)>,
) -> __m128i {
    let text = Text::new(job);
    let end = tail(job.len());
    let mut s = first_states::<G>(j0, if SHORT { 0 } else { j });
    // J0 rides in the last lane of the last vector, if that is free.
    let mut mask = j0;
    if end.blocks < 4 {
        s[G - 1] = with_lane_3(s[G - 1], mask);
    } else {
        mask = encrypt::<R>(key, mask);
    }
    let zero = _mm512_setzero_si512();
    let (ready, mut sum, carried) = match &before {
        Some((ready, hash)) => (**ready, hash.sum, hash.carried),
        None => ([zero; GROUP], Sum::zero(), _mm_setzero_si128()),
    };
    each_round!(ROUND => {
        let rk = round_key(key, ROUND);
        for v in &mut s {
            *v = _mm512_aesenc_epi128(*v, rk);
            in_order(v);
        }
        if H == GROUP && ROUND.is_multiple_of(2) && ROUND <= GROUP {
            let (a, b) = (ROUND - 1, ROUND % GROUP);
            let mut vb = ready[b];
            if b == 0 {
                vb = _mm512_xor_si512(vb, in_lane_0(carried));
            }
            sum.add2(ready[a], powers(key, 4 * (GROUP - a)), vb, powers(key, 4 * (GROUP - b)));
            sum.in_order();
        }
    });
    if let Some((_, hash)) = before {
        hash.carried = fold(sum.reduced());
    }
    let rk = round_key(key, R);
    for g in 0..G - 1 {
        // SAFETY: the text has `G` vectors from `j` on, and this is not the last; so the store.
        let x = unsafe { text.load(j + g) };
        let y = _mm512_aesenclast_epi128(s[g], _mm512_xor_si512(x, rk));
        // SAFETY: as the load.
        unsafe { text.store(j + g, y) };
        hashed[g] = reversed(if SEAL { y } else { x });
    }
    // SAFETY: the mask is that of the text's last vector, and that is `j + G - 1`; so the store.
    let x = unsafe { text.load_tail(j + G - 1, end.mask) };
    let y = _mm512_aesenclast_epi128(s[G - 1], _mm512_xor_si512(x, rk));
    // SAFETY: as the load.
    unsafe { text.store_tail(j + G - 1, end.mask, y) };
    hashed[G - 1] = reversed(if SEAL { _mm512_maskz_mov_epi8(end.mask, y) } else { x });
    if end.blocks < 4 { _mm512_extracti32x4_epi32::<3>(y) } else { mask }
}

/// Counter blocks of the `G` vectors from `j` on, after the first key addition, which `j0` brings.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
fn first_states<const G: usize>(j0: __m128i, j: usize) -> [__m512i; G] {
    let base = _mm512_broadcast_i32x4(j0);
    let mut s = [base; G];
    if j <= COUNTERS - G {
        for (g, v) in s.iter_mut().enumerate() {
            *v = _mm512_xor_si512(*v, counters(j + g));
        }
    } else {
        for (g, v) in s.iter_mut().enumerate() {
            *v = _mm512_xor_si512(*v, far_counters(j + g));
        }
    }
    s
}
