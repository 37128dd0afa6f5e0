//! Four short packets of as many blocks each, in lock step, as a burst of one flow mostly is.
//!
//! ```text
//!  vectors   packet 0..3 │ four blocks of one packet each, for AES
//!  tails     one block of each of the four packets, for AES and GHASH
//!  masks     J0 of the four packets
//!  GHASH     one block of each packet in every register: one sum, one reduction, four tags
//! ```
//!
//! Blocks that do not fill a vector of their packet fill one of their four. With one key the powers of H are the same for all four lanes.

use core::arch::x86_64::*;

use super::super::expanded::ExpandedKey;
use super::super::job::Job;
use super::vector::*;

/// Whether jobs have one number of blocks.
#[inline]
pub(super) fn is_level(jobs: &[Job<'_>; 4]) -> bool {
    jobs.iter().all(|job| blocks(job) == blocks(&jobs[0]))
}

/// And one key.
#[inline]
pub(super) fn is_even(jobs: &[Job<'_>; 4]) -> bool {
    let key = jobs[0].key_address();
    is_level(jobs) && jobs.iter().all(|job| job.key_address() == key)
}

/// Four jobs of as many blocks each, 1 to 8, and of one key if `ONE_KEY`.
///
/// # Safety
///
/// Every job has a key of this engine and of `R` rounds and they are [level](is_level), with so much text, or [even](is_even) if
/// `ONE_KEY`; all have tags of one length, and are seal jobs if `SEAL`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn four<const SEAL: bool, const R: usize, const ONE_KEY: bool>(
    jobs: &mut [Job<'_>; 4],
) {
    match blocks(&jobs[0]) {
        // SAFETY: as the caller promised, with so many blocks; so in each arm.
        1 => unsafe { level_four::<SEAL, R, ONE_KEY, 0, 1>(jobs) },
        // SAFETY: likewise.
        2 => unsafe { level_four::<SEAL, R, ONE_KEY, 0, 2>(jobs) },
        // SAFETY: likewise.
        3 => unsafe { level_four::<SEAL, R, ONE_KEY, 0, 3>(jobs) },
        // SAFETY: likewise.
        4 => unsafe { level_four::<SEAL, R, ONE_KEY, 1, 0>(jobs) },
        // SAFETY: likewise.
        5 => unsafe { level_four::<SEAL, R, ONE_KEY, 1, 1>(jobs) },
        // SAFETY: likewise.
        6 => unsafe { level_four::<SEAL, R, ONE_KEY, 1, 2>(jobs) },
        // SAFETY: likewise.
        7 => unsafe { level_four::<SEAL, R, ONE_KEY, 1, 3>(jobs) },
        // SAFETY: likewise.
        _ => unsafe { level_four::<SEAL, R, ONE_KEY, 2, 0>(jobs) },
    }
}

fn blocks(job: &Job<'_>) -> u32 {
    job.len().div_ceil(16)
}

/// Four packets, each of `G` vectors and `M` blocks behind them. Without such blocks it is the last
/// vector that may not be full, with them the last of them.
///
/// # Safety
///
/// As [`four`]; the jobs have `4 * G + M` blocks each, and `M` is at most 3.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn level_four<
    const SEAL: bool,
    const R: usize,
    const ONE_KEY: bool,
    const G: usize,
    const M: usize,
>(
    jobs: &mut [Job<'_>; 4],
) {
    let keys: [&ExpandedKey; 4] = [
        // SAFETY: the key of a job of this engine, as the caller promised; so the others.
        unsafe { jobs[0].expanded_key() },
        // SAFETY: likewise.
        unsafe { jobs[if ONE_KEY { 0 } else { 1 }].expanded_key() },
        // SAFETY: likewise.
        unsafe { jobs[if ONE_KEY { 0 } else { 2 }].expanded_key() },
        // SAFETY: likewise.
        unsafe { jobs[if ONE_KEY { 0 } else { 3 }].expanded_key() },
    ];
    // First, for long AAD is a call, which would spill all that is in registers.
    let aads = four_aads([&jobs[0], &jobs[1], &jobs[2], &jobs[3]], keys);
    let zero = _mm512_setzero_si512();
    let rk = round_key_of_each::<ONE_KEY>(keys, 0);
    let mut masks =
        _mm512_xor_si512(lanes(j0(&jobs[0]), j0(&jobs[1]), j0(&jobs[2]), j0(&jobs[3])), rk);
    let mut tails = [zero; M];
    for t in 0..M {
        tails[t] = _mm512_xor_si512(masks, block_counter(4 * G + t));
    }
    let mut s = [[zero; G]; 4];
    for i in 0..4 {
        for g in 0..G {
            let rk = round_key(keys[i], 0);
            s[i][g] = xor3(_mm512_broadcast_i32x4(j0(&jobs[i])), rk, counters(g));
        }
    }
    each_round!(ROUND => {
        for i in 0..4 {
            let rk = round_key(keys[i], ROUND);
            for g in 0..G {
                s[i][g] = _mm512_aesenc_epi128(s[i][g], rk);
                in_order(&mut s[i][g]);
            }
        }
        let rk = round_key_of_each::<ONE_KEY>(keys, ROUND);
        for t in 0..M {
            tails[t] = _mm512_aesenc_epi128(tails[t], rk);
            in_order(&mut tails[t]);
        }
        masks = _mm512_aesenc_epi128(masks, rk);
        in_order(&mut masks);
    });
    let rk = round_key_of_each::<ONE_KEY>(keys, R);
    masks = _mm512_aesenclast_epi128(masks, rk);

    // The block of AAD in front has the highest power, the length block behind H itself.
    let blocks = 4 * G + M;
    let (a, b, c, d) = (&jobs[0], &jobs[1], &jobs[2], &jobs[3]);
    let lengths = lanes(a.length_block(), b.length_block(), c.length_block(), d.length_block());
    let mut sum = Sum::of(lengths, power_of_each::<ONE_KEY>(keys, 1));
    sum.add(aads, power_of_each::<ONE_KEY>(keys, blocks + 2));

    for g in 0..G {
        let mut hashed = [zero; 4];
        for i in 0..4 {
            let text = Text::new(&jobs[i]);
            let rk = round_key(keys[i], R);
            if M == 0 && g == G - 1 {
                let end = tail(jobs[i].len());
                // SAFETY: the mask is that of the text's last vector, and that is `g`.
                let x = unsafe { text.load_tail(g, end.mask) };
                let y = _mm512_aesenclast_epi128(s[i][g], _mm512_xor_si512(x, rk));
                // SAFETY: as the load.
                unsafe { text.store_tail(g, end.mask, y) };
                hashed[i] = reversed(if SEAL { _mm512_maskz_mov_epi8(end.mask, y) } else { x });
            } else {
                // SAFETY: there is text behind vector `g`; so the store.
                let x = unsafe { text.load(g) };
                let y = _mm512_aesenclast_epi128(s[i][g], _mm512_xor_si512(x, rk));
                // SAFETY: as the load.
                unsafe { text.store(g, y) };
                hashed[i] = reversed(if SEAL { y } else { x });
            }
        }
        let by_block = transposed(hashed);
        let e = blocks + 1 - 4 * g;
        sum.add2(
            by_block[0],
            power_of_each::<ONE_KEY>(keys, e),
            by_block[1],
            power_of_each::<ONE_KEY>(keys, e - 1),
        );
        sum.add2(
            by_block[2],
            power_of_each::<ONE_KEY>(keys, e - 2),
            by_block[3],
            power_of_each::<ONE_KEY>(keys, e - 3),
        );
    }
    for t in 0..M {
        let mut mask = [0xffff_u16; 4];
        if t == M - 1 {
            for i in 0..4 {
                mask[i] = block_mask(jobs[i].len());
            }
        }
        let at = 64 * G + 16 * t;
        let mut x = [_mm_setzero_si128(); 4];
        for i in 0..4 {
            // SAFETY: block `4 * G + t` is in the text, and the mask is that of the last one.
            x[i] = unsafe { Text::new(&jobs[i]).load_block(at, mask[i]) };
        }
        let x = lanes(x[0], x[1], x[2], x[3]);
        let y = _mm512_aesenclast_epi128(tails[t], _mm512_xor_si512(x, rk));
        let each = split(y);
        for i in 0..4 {
            // SAFETY: as the load.
            unsafe { Text::new(&jobs[i]).store_block(at, mask[i], each[i]) };
        }
        let mut hashed = if SEAL { y } else { x };
        if SEAL && t == M - 1 {
            let all = u64::from(mask[0])
                | u64::from(mask[1]) << 16
                | u64::from(mask[2]) << 32
                | u64::from(mask[3]) << 48;
            hashed = _mm512_maskz_mov_epi8(all, y);
        }
        sum.add(reversed(hashed), power_of_each::<ONE_KEY>(keys, M + 1 - t));
    }
    let tags = _mm512_xor_si512(reversed(sum.reduced()), masks);
    // SAFETY: as the caller promised.
    unsafe { finish_each::<SEAL>(jobs, tags) };
}

/// The key of round `r` of each packet, or of all if `ONE_KEY`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
fn round_key_of_each<const ONE_KEY: bool>(keys: [&ExpandedKey; 4], r: usize) -> __m512i {
    if ONE_KEY {
        return round_key(keys[0], r);
    }
    let [a, b, c, d] = keys;
    lanes(a.round_key(r), b.round_key(r), c.round_key(r), d.round_key(r))
}

/// H to the power of `e`, likewise.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
fn power_of_each<const ONE_KEY: bool>(keys: [&ExpandedKey; 4], e: usize) -> __m512i {
    if ONE_KEY {
        return _mm512_broadcast_i32x4(keys[0].power(e));
    }
    let [a, b, c, d] = keys;
    lanes(a.power(e), b.power(e), c.power(e), d.power(e))
}

/// The AAD blocks of four jobs, reversed, a lane each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn four_aads(jobs: [&Job<'_>; 4], keys: [&ExpandedKey; 4]) -> __m512i {
    if let (Some(a), Some(b), Some(c), Some(d)) =
        (jobs[0].aad_block(), jobs[1].aad_block(), jobs[2].aad_block(), jobs[3].aad_block())
    {
        reversed(lanes(a, b, c, d))
    } else {
        lanes(
            aad_block(jobs[0], keys[0]),
            aad_block(jobs[1], keys[1]),
            aad_block(jobs[2], keys[2]),
            aad_block(jobs[3], keys[3]),
        )
    }
}

/// Writes or compares up to four tags, a lane each.
///
/// # Safety
///
/// The tags are of one length; with `SEAL` the jobs are seal jobs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn finish_each<const SEAL: bool>(jobs: &mut [Job<'_>], tags: __m512i) {
    let Some(mask) = jobs.first().map(|job| tag_mask(job)) else { return };
    if SEAL {
        for (job, tag) in jobs.iter().zip(split(tags)) {
            // SAFETY: as the caller promised, and the tags are of one length.
            unsafe { put_tag(job, mask, tag) };
        }
        return;
    }
    let mut received = [_mm_setzero_si128(); 4];
    for (job, received) in jobs.iter().zip(&mut received) {
        // SAFETY: the tags are of one length.
        *received = unsafe { received_tag(job, mask) };
    }
    let received = lanes(received[0], received[1], received[2], received[3]);
    let compared = u64::from(mask) * 0x0001_0001_0001_0001;
    let wrong = _mm512_mask_cmpneq_epi8_mask(compared, tags, received);
    for (i, job) in jobs.iter_mut().enumerate() {
        job.conclude((wrong >> (16 * i)) as u16 == 0);
    }
}
