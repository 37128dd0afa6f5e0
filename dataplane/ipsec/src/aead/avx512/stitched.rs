//! Packets one after the other, each group of vectors hashed between the AES rounds of the next group.
//!
//! ```text
//!   AES      packet 0: group │ group │ last │ packet 1: group  │ group │ last │
//!   GHASH                    │ group │ group│ last ─► tag 0    │ group │ group│ last ─► tag 1
//! ```
//!
//! A text is groups of eight vectors and a last group of up to nine; one of up to nine vectors is a last group
//! alone. What `stage` does is a constant of its instance: whether its own group is the last one, and what is
//! pending from before.

use core::arch::x86_64::*;

use super::super::expanded::ExpandedKey;
use super::super::job::Job;
use super::vector::*;

/// Vectors in a group that is not the last.
const GROUP: usize = 8;

/// The groups of a text.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Shape {
    /// Vectors of the last group: 1 to 9, and at least 2 behind other groups; none if there is no text.
    last: usize,
    /// Whether the last is behind others.
    has_more: bool,
}

impl Shape {
    /// Of a text of `len` bytes.
    #[inline]
    pub(super) fn of(len: u32) -> Self {
        let count = vectors(len);
        let has_more = count > GROUP + 1;
        Self { last: if has_more { (count - 2) % GROUP + 2 } else { count }, has_more }
    }
}

/// A run of jobs with text, all of one shape.
///
/// # Safety
///
/// Every job has a key of this engine and of `R` rounds and a text of `shape`; all are seal jobs if `SEAL`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run<const SEAL: bool, const R: usize>(jobs: &mut [Job<'_>], shape: Shape) {
    let is_one_key = match &*jobs {
        [first, .., last] => first.key_address() == last.key_address(),
        _ => true,
    };
    let bytes = jobs.first().map_or(0, |job| job.len() as usize).saturating_mul(jobs.len());
    if is_one_key && bytes >= WORTH_SPREADING {
        // SAFETY: as the caller promised.
        unsafe { run_as::<SEAL, R, true>(jobs, shape) };
    } else {
        // SAFETY: likewise.
        unsafe { run_as::<SEAL, R, false>(jobs, shape) };
    }
}

/// The text of one key, in bytes, from which on it takes less time to spread what its groups share than to do so for each.
const WORTH_SPREADING: usize = 4096;

/// As [`run`].
///
/// # Safety
///
/// As [`run`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn run_as<const SEAL: bool, const R: usize, const SPREAD: bool>(
    jobs: &mut [Job<'_>],
    shape: Shape,
) {
    match shape.last {
        // SAFETY: as the caller promised; so in each arm.
        1 => unsafe { stitched::<SEAL, R, 1, SPREAD>(jobs, shape) },
        // SAFETY: likewise.
        2 => unsafe { stitched::<SEAL, R, 2, SPREAD>(jobs, shape) },
        // SAFETY: likewise.
        3 => unsafe { stitched::<SEAL, R, 3, SPREAD>(jobs, shape) },
        // SAFETY: likewise.
        4 => unsafe { stitched::<SEAL, R, 4, SPREAD>(jobs, shape) },
        // SAFETY: likewise.
        5 => unsafe { stitched::<SEAL, R, 5, SPREAD>(jobs, shape) },
        // SAFETY: likewise.
        6 => unsafe { stitched::<SEAL, R, 6, SPREAD>(jobs, shape) },
        // SAFETY: likewise.
        7 => unsafe { stitched::<SEAL, R, 7, SPREAD>(jobs, shape) },
        // SAFETY: likewise.
        8 => unsafe { stitched::<SEAL, R, 8, SPREAD>(jobs, shape) },
        // SAFETY: likewise.
        _ => unsafe { stitched::<SEAL, R, 9, SPREAD>(jobs, shape) },
    }
}

/// Nothing is pending.
const NOTHING: u8 = 0;
/// A group of the same packet is pending.
const MIDDLE: u8 = 1;
/// The last group of another packet is pending, and then its tag.
const LAST: u8 = 2;

/// A group whose ciphertext is there and whose hash is not yet.
struct Pending<'k> {
    key: &'k ExpandedKey,
    /// The reversed ciphertext; of a last group, but for its last vector, which `sum` has.
    text: [__m512i; GROUP + 1],
    /// What is already multiplied: AAD, length block, last vector.
    sum: Sum,
    /// The hash of the groups before, to be added to the first vector: in lane 0, or, with [`Strides`], of every lane by itself.
    carried: __m512i,
    /// Of a last group, the encrypted J0.
    mask: __m128i,
    /// Of a last group, its blocks.
    blocks: usize,
}

/// H to the powers by which each vector of a group is in front of the first of the next, in every lane: then every lane is a hash of its own up to the
/// last group, and nobody has to add up four.
struct Strides {
    each: [__m512i; GROUP],
    /// What [`Sum::add2_halved`] takes beside those of every two vectors that are multiplied together.
    halves: [__m512i; GROUP / 2],
}

impl Strides {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    fn spread(&mut self, key: &ExpandedKey) {
        for g in 0..GROUP {
            self.each[g] = _mm512_broadcast_i32x4(key.power(4 * (GROUP - g)));
        }
        for i in 0..GROUP / 2 {
            self.halves[i] = halves(self.each[2 * i + 1], self.each[(2 * i + 2) % GROUP]);
        }
    }
}

/// # Safety
///
/// As [`run_as`], with `L` for `last`.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn stitched<const SEAL: bool, const R: usize, const L: usize, const SPREAD: bool>(
    jobs: &mut [Job<'_>],
    shape: Shape,
) {
    let Some(first) = jobs.first() else { return };
    let zero = _mm512_setzero_si512();
    let mut spread = (
        RoundKeys::<SPREAD>([zero; 15]),
        Strides { each: [zero; GROUP], halves: [zero; GROUP / 2] },
    );
    let mut whose = core::ptr::null();
    let mut pending = Pending {
        // SAFETY: the jobs are of this engine, as the caller promised.
        key: unsafe { first.expanded_key() },
        text: [zero; GROUP + 1],
        sum: Sum::zero(),
        carried: zero,
        mask: _mm_setzero_si128(),
        blocks: 0,
    };
    let mut before: Option<&mut Job<'_>> = None;
    for job in jobs {
        let whole = if shape.has_more { vectors(job.len()) - L } else { 0 };
        if SPREAD && job.key_address() != whose {
            whose = job.key_address();
            // SAFETY: the job is of this engine, as the caller promised.
            let key = unsafe { job.expanded_key() };
            spread.0.spread::<R>(key);
            if shape.has_more {
                spread.1.spread(key);
            }
        }
        let tag = match (whole, &before) {
            // SAFETY: the text has `L` vectors; so in the next arm.
            (0, None) => unsafe {
                stage::<SEAL, R, L, true, NOTHING, SPREAD>(job, 0, &spread, &mut pending)
            },
            // SAFETY: likewise.
            (0, Some(_)) => unsafe {
                stage::<SEAL, R, L, true, LAST, SPREAD>(job, 0, &spread, &mut pending)
            },
            // SAFETY: a group and more is in front of the last one; so in the next arm.
            (_, None) => unsafe {
                stage::<SEAL, R, L, false, NOTHING, SPREAD>(job, 0, &spread, &mut pending)
            },
            // SAFETY: likewise.
            (_, Some(_)) => unsafe {
                stage::<SEAL, R, L, false, LAST, SPREAD>(job, 0, &spread, &mut pending)
            },
        };
        if let Some(before) = before {
            // SAFETY: as the caller promised.
            unsafe { finish::<SEAL>(before, tag) };
        }
        if whole > 0 {
            let mut j = GROUP;
            while j < whole {
                // SAFETY: vectors from `j` to `whole` are whole groups in front of the last.
                unsafe {
                    stage::<SEAL, R, L, false, MIDDLE, SPREAD>(job, j, &spread, &mut pending)
                };
                j += GROUP;
            }
            // SAFETY: `L` vectors are left.
            unsafe { stage::<SEAL, R, L, true, MIDDLE, SPREAD>(job, j, &spread, &mut pending) };
        }
        before = Some(job);
    }
    let mut sum = pending.sum;
    for g in 1..L {
        let g = g % (L - 1);
        let v = pending.text[g];
        let v = if g == 0 { _mm512_xor_si512(v, pending.carried) } else { v };
        sum.add(v, powers(pending.key, pending.blocks + 1 - 4 * g));
    }
    let tag = _mm_xor_si128(reversed1(fold(sum.reduced())), pending.mask);
    if let Some(job) = before {
        // SAFETY: as the caller promised.
        unsafe { finish::<SEAL>(job, tag) };
    }
}

/// Encrypts or decrypts the group of `job` at vector `j`, which has eight vectors, or `L` if it is the last
/// (`TAIL`); hashes what is `PENDING`; leaves this group pending. Gives the tag if a last group was.
///
/// # Safety
///
/// As [`run`], for this job; vector `j` begins a group, which is the last if `TAIL`, and the first of its text
/// unless `PENDING` is `MIDDLE`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn stage<
    'k,
    const SEAL: bool,
    const R: usize,
    const L: usize,
    const TAIL: bool,
    const PENDING: u8,
    const SPREAD: bool,
>(
    job: &Job<'k>,
    j: usize,
    (round_keys, strides): &(RoundKeys<SPREAD>, Strides),
    pending: &mut Pending<'k>,
) -> __m128i {
    // SAFETY: the job is of this engine, as the caller promised.
    let key = unsafe { job.expanded_key() };
    let begins = PENDING != MIDDLE;
    // First, for long AAD is a call, which would spill all that is in registers.
    let aad = if begins { aad_block(job, key) } else { _mm_setzero_si128() };
    let bytes = Text::new(job);
    let count = if TAIL { L } else { GROUP };
    let whole = if TAIL { L - 1 } else { GROUP };
    let multiplied = match PENDING {
        NOTHING => 0,
        MIDDLE => GROUP,
        _ => L - 1,
    };
    let zero = _mm512_setzero_si512();

    let j0 = _mm_xor_si128(j0(job), key.round_key(0));
    let base = _mm512_broadcast_i32x4(j0);
    let mut s = [zero; GROUP + 1];
    if begins {
        for g in 0..count {
            s[g] = _mm512_xor_si512(base, counters(g));
        }
    } else if j <= COUNTERS - (GROUP + 1) {
        for g in 0..count {
            s[g] = _mm512_xor_si512(base, counters(j + g));
        }
    } else {
        for g in 0..count {
            s[g] = _mm512_xor_si512(base, far_counters(j + g));
        }
    }
    // J0 rides in the last lane of the last vector, if that is free.
    let end = tail(job.len());
    let mut mask = pending.mask;
    if TAIL {
        if end.blocks < 4 {
            s[L - 1] = with_lane_3(s[L - 1], j0);
        } else {
            mask = encrypt::<R>(key, j0);
        }
    }

    let mut sum = pending.sum;
    // The first vector waits for the reduction before, so it is the last to be multiplied.
    let text = |i: usize| {
        let g = (i + 1) % multiplied;
        let v = pending.text[g];
        (g, if g == 0 { _mm512_xor_si512(v, pending.carried) } else { v })
    };
    let power = |g: usize| match PENDING {
        MIDDLE => powers(pending.key, 4 * (GROUP - g)),
        _ => powers(pending.key, pending.blocks + 1 - 4 * g),
    };
    if PENDING != NOTHING {
        sum = sum.halved();
    }
    each_round!(ROUND => {
        let rk = round_keys.of(key, ROUND);
        for g in 0..count {
            s[g] = _mm512_aesenc_epi128(s[g], rk);
            in_order(&mut s[g]);
        }
        // Two after each odd round up to the seventh.
        if !ROUND.is_multiple_of(2) && ROUND - 1 < multiplied {
            let (g, v) = text(ROUND - 1);
            if ROUND < multiplied {
                let (f, w) = text(ROUND);
                let (both, of_both) = if SPREAD && PENDING == MIDDLE {
                    ([strides.each[g], strides.each[f]], strides.halves[g / 2])
                } else {
                    ([power(g), power(f)], halves(power(g), power(f)))
                };
                sum.add2_halved([v, w], both, of_both);
            } else {
                sum.add_halved(v, power(g));
            }
            sum.in_order();
        }
    });
    if PENDING != NOTHING {
        sum = sum.halved();
    }
    let hash = if PENDING == NOTHING { zero } else { sum.reduced() };
    let tag = match PENDING {
        LAST => _mm_xor_si128(reversed1(fold(hash)), pending.mask),
        _ => _mm_setzero_si128(),
    };

    let rk = round_keys.of(key, R);
    for g in 0..whole {
        // SAFETY: the group has more than `whole` vectors or just as many; so the store.
        let x = unsafe { bytes.load(j + g) };
        let y = _mm512_aesenclast_epi128(s[g], _mm512_xor_si512(x, rk));
        // SAFETY: as the load.
        unsafe { bytes.store(j + g, y) };
        pending.text[g] = reversed(if SEAL { y } else { x });
    }
    pending.key = key;
    pending.carried = match begins {
        true => zero,
        false if SPREAD => hash,
        false => in_lane_0(fold(hash)),
    };
    if TAIL {
        // SAFETY: the mask is that of the text's last vector, and that is `j + L - 1`; so the store.
        let x = unsafe { bytes.load_tail(j + L - 1, end.mask) };
        let y = _mm512_aesenclast_epi128(s[L - 1], _mm512_xor_si512(x, rk));
        // SAFETY: as the load.
        unsafe { bytes.store_tail(j + L - 1, end.mask, y) };
        let last = reversed(if SEAL { _mm512_maskz_mov_epi8(end.mask, y) } else { x });
        pending.mask = if end.blocks < 4 { _mm512_extracti32x4_epi32::<3>(y) } else { mask };
        pending.blocks = 4 * (L - 1) + end.blocks;
        pending.sum = if begins {
            ends(key, last, end.blocks, pending.blocks, job.length_block(), aad)
        } else {
            end_only(key, last, end.blocks, job.length_block())
        };
    } else if begins {
        let power = key.power(4 * GROUP + 1);
        pending.sum = Sum::of(in_lane_0(aad), in_lane_0(power));
    } else {
        pending.sum = Sum::zero();
    }
    tag
}

/// The products of AAD, length block and the last vector of a text of `blocks` blocks, `filled` of them in that
/// vector. AAD and length block take lanes that the text leaves free.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
fn ends(
    key: &ExpandedKey,
    last: __m512i,
    filled: usize,
    blocks: usize,
    lengths: __m128i,
    aad: __m128i,
) -> Sum {
    let aad_power = key.power(blocks + 2);
    let power = powers(key, filled + 1);
    if filled < 3 {
        let v = with_lane_3(with_lane(last, filled, lengths), aad);
        Sum::of(v, with_lane_3(power, aad_power))
    } else {
        let mut sum = Sum::of(in_lanes_01(aad, lengths), in_lanes_01(aad_power, key.power(1)));
        sum.add(last, power);
        sum
    }
}

/// As [`ends`], of a text whose AAD is hashed already.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
fn end_only(key: &ExpandedKey, last: __m512i, filled: usize, lengths: __m128i) -> Sum {
    let power = powers(key, filled + 1);
    if filled < 4 {
        Sum::of(with_lane(last, filled, lengths), power)
    } else {
        let mut sum = Sum::of(in_lane_0(lengths), in_lane_0(key.power(1)));
        sum.add(last, power);
        sum
    }
}

/// A job without text: GMAC (RFC 4543).
///
/// # Safety
///
/// The job has a key of this engine and of `R` rounds, and is a seal job if `SEAL`.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn empty<const SEAL: bool, const R: usize>(job: &mut Job<'_>) {
    // SAFETY: the job is of this engine, as the caller promised.
    let key = unsafe { job.expanded_key() };
    let aad = aad_block(job, key);
    let mask = encrypt::<R>(key, _mm_xor_si128(j0(job), key.round_key(0)));
    let powers = in_lanes_01(key.power(2), key.power(1));
    let sum = Sum::of(in_lanes_01(aad, job.length_block()), powers);
    let tag = _mm_xor_si128(reversed1(fold(sum.reduced())), mask);
    // SAFETY: as the caller promised.
    unsafe { finish::<SEAL>(job, tag) };
}
