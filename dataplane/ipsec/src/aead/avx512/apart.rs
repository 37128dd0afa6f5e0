//! Up to four short packets of different keys and lengths: a packet in every lane, from its first block to its last.
//!
//! ```text
//!  block              0    1    2    3    4          of the longest packet
//!  packet 0  AAD ── text text text text text ── lengths
//!  packet 1  AAD ── text text text text text ── lengths
//!  packet 2       AAD ── text text text text ── lengths       shorter ones begin later: what is before is zero,
//!  packet 3            AAD ── text text text ── lengths       and adds nothing to a hash
//! ```
//!
//! Of each key one cache line is read, as in `abreast`.

use core::arch::x86_64::*;

use super::super::expanded::Start;
use super::super::job::Job;
use super::abreast::of_four;
use super::lockstep::finish_each;
use super::schedule::{Schedule, starts};
use super::vector::*;

/// The most blocks of text that a packet has here.
const MOST: usize = 8;

/// One to four jobs with text of 1 to 8 blocks each.
///
/// # Safety
///
/// Every job has a key of this engine and of `R` rounds, 10 or 14, and so much text; all have tags of one length, and are seal jobs if
/// `SEAL`. All have whole keys, or no more than one block of AAD.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn up_to_four<const SEAL: bool, const R: usize>(jobs: &mut [Job<'_>]) {
    match jobs.iter().map(Job::blocks).max() {
        // SAFETY: as the caller promised, and none has more blocks.
        Some(..=5) => unsafe { apart::<SEAL, R, 5>(jobs) },
        // SAFETY: likewise.
        _ => unsafe { apart::<SEAL, R, MOST>(jobs) },
    }
}

/// Packets of at most `M` blocks, which is 5 or 8.
///
/// # Safety
///
/// As [`up_to_four`], with text of so many blocks.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn apart<const SEAL: bool, const R: usize, const M: usize>(jobs: &mut [Job<'_>]) {
    let Some(first) = jobs.first() else { return };
    // A lane without a packet has the first one's key and address, and no block.
    let lane = |i: usize| jobs.get(i).unwrap_or(first);
    let four = [lane(0), lane(1), lane(2), lane(3)];
    // By how many blocks each begins later.
    let mut late = [M + 1; 4];
    for i in 0..4 {
        if let Some(job) = jobs.get(i) {
            late[i] = M - job.blocks();
        }
    }
    // First, for long AAD is a call, which would spill all that is in registers.
    // SAFETY: as the caller promised.
    let aads = unsafe { four_aads(four) };
    let lines = [
        // SAFETY: the job is of this engine, and was lent no key; so the others.
        unsafe { four[0].start() },
        // SAFETY: likewise.
        unsafe { four[1].start() },
        // SAFETY: likewise.
        unsafe { four[2].start() },
        // SAFETY: likewise.
        unsafe { four[3].start() },
    ];
    let Start { square, hash, keys } = starts(lines);

    // AES, with the schedule of the keys.
    let mut schedule = Schedule::new(keys);
    let zero = _mm512_setzero_si512();
    let mut masks = lanes(j0(four[0]), j0(four[1]), j0(four[2]), j0(four[3]));
    masks = _mm512_xor_si512(masks, schedule.key());
    let mut s = [zero; M];
    for t in 0..M {
        s[t] = _mm512_xor_si512(masks, late_counter(t, late));
    }
    each_round!(ROUND => {
        let rk = schedule.next::<R, ROUND>();
        for t in 0..M {
            s[t] = _mm512_aesenc_epi128(s[t], rk);
            in_order(&mut s[t]);
        }
        masks = _mm512_aesenc_epi128(masks, rk);
        in_order(&mut masks);
    });
    let rk = schedule.next::<R, R>();
    masks = _mm512_aesenclast_epi128(masks, rk);

    // H⁴ to H.
    let powers = [Sum::of(square, square).reduced(), Sum::of(square, hash).reduced(), square, hash];

    // Text, and the hash behind it: four blocks to a reduction, as many as are left over at first.
    let at = |p: usize| (p + 4 - (M + 2) % 4) % 4;
    let mut sum = Sum::zero();
    let mut x = blend(late, 0, zero, aads);
    for p in 0..=M + 1 {
        if p == M + 1 {
            let (a, b, c, d) = (four[0], four[1], four[2], four[3]);
            x = lanes(a.length_block(), b.length_block(), c.length_block(), d.length_block());
        } else if p > 0 {
            let t = p - 1;
            let mut mask = [0xffff_u16; 4];
            let mut from = [16 * t; 4];
            for i in 0..4 {
                if t == M - 1 {
                    mask[i] = block_mask(four[i].len());
                }
                mask[i] = if t < late[i] { 0 } else { mask[i] };
                from[i] = from[i].wrapping_sub(16 * late[i]);
            }
            let mut text = [_mm_setzero_si128(); 4];
            for i in 0..4 {
                // SAFETY: where the packet has begun this is a block of it, and the mask is that of the last one; otherwise no byte.
                text[i] = unsafe { Text::new(four[i]).load_block(from[i], mask[i]) };
            }
            let text = lanes(text[0], text[1], text[2], text[3]);
            let y = _mm512_aesenclast_epi128(s[t], _mm512_xor_si512(text, rk));
            let each = split(y);
            for i in 0..4 {
                // SAFETY: as the load.
                unsafe { Text::new(four[i]).store_block(from[i], mask[i], each[i]) };
            }
            let y = _mm512_maskz_mov_epi8(of_four(mask), y);
            x = blend(late, p, reversed(if SEAL { y } else { text }), aads);
        }
        if at(p) == 0 && p > 0 {
            x = _mm512_xor_si512(x, sum.reduced());
            sum = Sum::zero();
        }
        sum.add(x, powers[at(p)]);
    }
    let tags = _mm512_xor_si512(reversed(sum.reduced()), masks);
    // SAFETY: as the caller promised.
    unsafe { finish_each::<SEAL>(jobs, tags) };
}

/// The AAD blocks of four jobs, reversed, a lane each.
///
/// # Safety
///
/// All have whole keys of this engine, or no more than one block of AAD.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn four_aads(jobs: [&Job<'_>; 4]) -> __m512i {
    if let (Some(a), Some(b), Some(c), Some(d)) =
        (jobs[0].aad_block(), jobs[1].aad_block(), jobs[2].aad_block(), jobs[3].aad_block())
    {
        reversed(lanes(a, b, c, d))
    } else {
        // SAFETY: as the caller promised; so the others.
        let a = aad_block(jobs[0], unsafe { jobs[0].expanded_key() });
        // SAFETY: likewise.
        let b = aad_block(jobs[1], unsafe { jobs[1].expanded_key() });
        // SAFETY: likewise.
        let c = aad_block(jobs[2], unsafe { jobs[2].expanded_key() });
        // SAFETY: likewise.
        let d = aad_block(jobs[3], unsafe { jobs[3].expanded_key() });
        lanes(a, b, c, d)
    }
}

/// `there` in the lanes of packets that begin so `late`, `v` in the others.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
fn blend(late: [usize; 4], p: usize, v: __m512i, there: __m512i) -> __m512i {
    let mut mask = 0;
    for i in 0..4 {
        mask |= u8::from(late[i] == p) * (3 << (2 * i));
    }
    _mm512_mask_mov_epi64(v, mask, there)
}

/// The counters of block `t` of packets that begin so much later, to be XORed to J0.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
fn late_counter(t: usize, late: [usize; 4]) -> __m512i {
    let number =
        |i: usize| _mm_set_epi32((1 ^ (t + 2).wrapping_sub(late[i]) as i32) << 24, 0, 0, 0);
    lanes(number(0), number(1), number(2), number(3))
}
