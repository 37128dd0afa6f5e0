//! Fours of short packets of as many blocks each and of different keys: a packet in every lane, from its first block to its last.
//!
//! ```text
//!  AES, with the schedules of four keys   four 0 │ four 1          │ four 2          │
//!  GHASH                                         │ four 0 ─► tags  │ four 1 ─► tags  │ four 2 ─► tags
//! ```
//!
//! Of each key one cache line is read, its [`start`](Job::start): round keys are made from the first ones while they are needed, and
//! the higher powers of H while AES is at work. With many keys that is worth more than the instructions it takes: whatever else is read
//! of a key has to come from memory.

use core::arch::x86_64::*;

use super::super::expanded::Start;
use super::super::job::Job;
use super::lockstep::finish_each;
use super::schedule::{Schedule, starts};
use super::vector::*;

/// How many jobs in front have as many blocks as the first, and AAD of one block.
#[inline]
pub(super) fn alike(jobs: &[Job<'_>]) -> usize {
    let Some(first) = jobs.first() else { return 0 };
    let so = |job: &&Job<'_>| job.blocks() == first.blocks() && job.has_short_aad();
    jobs.iter().take_while(so).count()
}

/// Fours of jobs of as many blocks each, 1 to 8.
///
/// # Safety
///
/// Every job has a key of this engine and of `R` rounds, 10 or 14; all have the same number of blocks, with so much text, and AAD of
/// one block; all have tags of one length, and are seal jobs if `SEAL`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run<const SEAL: bool, const R: usize>(fours: &mut [[Job<'_>; 4]]) {
    let Some([first, ..]) = fours.first() else { return };
    match first.blocks() {
        // SAFETY: as the caller promised, with so many blocks; so in each arm.
        1 => unsafe { abreast::<SEAL, R, 1>(fours) },
        // SAFETY: likewise.
        2 => unsafe { abreast::<SEAL, R, 2>(fours) },
        // SAFETY: likewise.
        3 => unsafe { abreast::<SEAL, R, 3>(fours) },
        // SAFETY: likewise.
        4 => unsafe { abreast::<SEAL, R, 4>(fours) },
        // SAFETY: likewise.
        5 => unsafe { abreast::<SEAL, R, 5>(fours) },
        // SAFETY: likewise.
        6 => unsafe { abreast::<SEAL, R, 6>(fours) },
        // SAFETY: likewise.
        7 => unsafe { abreast::<SEAL, R, 7>(fours) },
        // SAFETY: likewise.
        _ => unsafe { abreast::<SEAL, R, 8>(fours) },
    }
}

/// Four packets whose ciphertext is there and whose hash is not yet.
struct Pending<const M: usize> {
    /// H⁴ to H.
    powers: [__m512i; 4],
    aads: __m512i,
    /// The reversed ciphertext.
    text: [__m512i; M],
    lengths: __m512i,
    /// The encrypted J0s.
    masks: __m512i,
}

impl<const M: usize> Pending<M> {
    /// What is hashed: the AAD, the blocks of text and the length block.
    const PRODUCTS: usize = M + 2;

    /// Adds the product of the `i`th block of those. A sum is of four blocks, of as many as are left over at first; what is before goes
    /// into the first of the next.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    fn add(&self, i: usize, sum: &mut Sum) {
        let v = if i == 0 {
            self.aads
        } else if i <= M {
            self.text[i - 1]
        } else {
            self.lengths
        };
        let behind = (Self::PRODUCTS - 1 - i) % 4;
        if i > 0 && behind == 3 {
            let v = _mm512_xor_si512(v, sum.reduced());
            *sum = Sum::of(v, self.powers[3 - behind]);
        } else {
            sum.add(v, self.powers[3 - behind]);
        }
        sum.in_order();
    }
}

/// Four after four packets of `M` blocks.
///
/// # Safety
///
/// As [`run`], with so many blocks.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn abreast<const SEAL: bool, const R: usize, const M: usize>(fours: &mut [[Job<'_>; 4]]) {
    let Some((mut before, rest)) = fours.split_first_mut() else { return };
    let zero = _mm512_setzero_si512();
    let mut pending =
        Pending { powers: [zero; 4], aads: zero, text: [zero; M], lengths: zero, masks: zero };
    // SAFETY: as the caller promised; so in the loop.
    unsafe { stage::<SEAL, R, M, false>(before, &mut pending) };
    for four in rest {
        // SAFETY: likewise.
        let tags = unsafe { stage::<SEAL, R, M, true>(four, &mut pending) };
        // SAFETY: as the caller promised.
        unsafe { finish_each::<SEAL>(before, tags) };
        before = four;
    }
    let mut sum = Sum::zero();
    for i in 0..Pending::<M>::PRODUCTS {
        pending.add(i, &mut sum);
    }
    let tags = _mm512_xor_si512(reversed(sum.reduced()), pending.masks);
    // SAFETY: as the caller promised.
    unsafe { finish_each::<SEAL>(before, tags) };
}

/// Encrypts or decrypts four packets, hashes the four that are `PENDING`, gives their tags, and leaves these pending.
///
/// # Safety
///
/// As [`abreast`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn stage<const SEAL: bool, const R: usize, const M: usize, const PENDING: bool>(
    jobs: &[Job<'_>; 4],
    pending: &mut Pending<M>,
) -> __m512i {
    let [a, b, c, d] = jobs;
    let lines = [
        // SAFETY: the job is of this engine, and was lent no key; so the others.
        unsafe { a.start() },
        // SAFETY: likewise.
        unsafe { b.start() },
        // SAFETY: likewise.
        unsafe { c.start() },
        // SAFETY: likewise.
        unsafe { d.start() },
    ];
    let Start { square, hash, keys } = starts(lines);
    let mut schedule = Schedule::new(keys);
    let mut masks = lanes(j0(a), j0(b), j0(c), j0(d));
    masks = _mm512_xor_si512(masks, schedule.key());
    let mut s = [masks; M];
    for t in 0..M {
        s[t] = _mm512_xor_si512(masks, block_counter(t));
    }
    let zero = _mm512_setzero_si512();
    let mut powers = [square, square, square, hash];
    let mut sum = Sum::zero();
    each_round!(ROUND => {
        let rk = schedule.next::<R, ROUND>();
        for t in 0..M {
            s[t] = _mm512_aesenc_epi128(s[t], rk);
            in_order(&mut s[t]);
        }
        masks = _mm512_aesenc_epi128(masks, rk);
        in_order(&mut masks);
        match ROUND {
            2 => powers[0] = Sum::of(square, square).reduced(),
            4 => powers[1] = Sum::of(square, hash).reduced(),
            // Two after each odd round up to the ninth, which are as many as there can be.
            1 | 3 | 5 | 7 | 9 if PENDING => {
                for i in ROUND - 1..=ROUND {
                    if i < Pending::<M>::PRODUCTS {
                        pending.add(i, &mut sum);
                    }
                }
            }
            _ => (),
        }
    });
    let tags = _mm512_xor_si512(reversed(sum.reduced()), pending.masks);
    let rk = schedule.next::<R, R>();
    pending.powers = powers;
    pending.aads = reversed(lanes(a.short_aad(), b.short_aad(), c.short_aad(), d.short_aad()));
    pending.masks = _mm512_aesenclast_epi128(masks, rk);
    let alike = jobs.iter().all(|job| job.has_lengths_of(a));
    pending.lengths = if alike {
        _mm512_broadcast_i32x4(a.length_block())
    } else {
        lanes(a.length_block(), b.length_block(), c.length_block(), d.length_block())
    };
    // Of the last block.
    let mut ends = [block_mask(a.len()); 4];
    if !alike {
        for i in 1..4 {
            ends[i] = block_mask(jobs[i].len());
        }
    }
    for v in 0..M / 4 {
        let is_last = M == 4 * (v + 1);
        let mask =
            |i: usize| if is_last { u64::from(ends[i]) << 48 | 0xffff_ffff_ffff } else { !0 };
        let mut text = [zero; 4];
        for i in 0..4 {
            // SAFETY: vector `v` is in the text, and the mask is that of its last one.
            text[i] = unsafe { Text::new(&jobs[i]).load_tail(v, mask(i)) };
        }
        let text = transposed(text);
        let mut out = [zero; 4];
        for k in 0..4 {
            let t = 4 * v + k;
            out[k] = _mm512_aesenclast_epi128(s[t], _mm512_xor_si512(text[k], rk));
            let y = if t == M - 1 { _mm512_maskz_mov_epi8(of_four(ends), out[k]) } else { out[k] };
            pending.text[t] = reversed(if SEAL { y } else { text[k] });
        }
        let out = transposed(out);
        for i in 0..4 {
            // SAFETY: as the load.
            unsafe { Text::new(&jobs[i]).store_tail(v, mask(i), out[i]) };
        }
    }
    for t in M / 4 * 4..M {
        let mask = if t == M - 1 { ends } else { [0xffff; 4] };
        let mut text = [_mm_setzero_si128(); 4];
        for i in 0..4 {
            // SAFETY: block `t` is in the text, and the mask is that of the last one.
            text[i] = unsafe { Text::new(&jobs[i]).load_block(16 * t, mask[i]) };
        }
        let text = lanes(text[0], text[1], text[2], text[3]);
        let y = _mm512_aesenclast_epi128(s[t], _mm512_xor_si512(text, rk));
        let each = split(y);
        for i in 0..4 {
            // SAFETY: as the load.
            unsafe { Text::new(&jobs[i]).store_block(16 * t, mask[i], each[i]) };
        }
        let y = if t == M - 1 { _mm512_maskz_mov_epi8(of_four(ends), y) } else { y };
        pending.text[t] = reversed(if SEAL { y } else { text });
    }
    tags
}

/// The masks of four blocks, a lane each.
#[inline]
pub(super) fn of_four([a, b, c, d]: [u16; 4]) -> u64 {
    u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48
}
