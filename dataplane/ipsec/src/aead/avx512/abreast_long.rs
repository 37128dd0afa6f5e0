//! Four packets of one length and of different keys that are far: a packet in every lane, as in `abreast`, eight blocks of each at a time.
//!
//! ```text
//!  keys, one line of each ─► round keys, H to H⁹ ─► room
//!  AES      eight blocks of each │ eight more           │ … │ what is left over, and the J0s
//!  GHASH                         │ the eight before     │ … │ the eight before │ the rest ─► tags
//! ```
//!
//! In lanes of their own keys need no more than nine powers of H, where one after the other they need 38, and never have to be turned.

use core::arch::x86_64::*;

use zeroize::Zeroize;

use super::super::expanded::Start;
use super::super::job::Job;
use super::SHORT;
use super::abreast::of_four;
use super::lockstep::finish_each;
use super::schedule::{Schedule, starts};
use super::vector::*;

/// Blocks of each packet that are done at a time.
const GROUP: usize = 8;

/// The longest packets, in bytes: as far as the table of counters goes.
const LONGEST: u32 = 64 * COUNTERS as u32;

/// How many jobs in front are as long as the first and have AAD of one block.
#[inline]
pub(super) fn alike(jobs: &[Job<'_>]) -> usize {
    let Some(first) = jobs.first() else { return 0 };
    let so = |job: &&Job<'_>| job.len() == first.len() && job.has_short_aad();
    let is_long = (SHORT as u32 + 1..=LONGEST).contains(&first.len());
    if is_long { jobs.iter().take_while(so).count() } else { 0 }
}

/// What is made of four keys.
#[repr(C, align(64))]
struct Room {
    round_keys: [Lanes; 15],
    /// H to H⁹, by the exponent.
    powers: [Lanes; GROUP + 2],
    /// What [`Sum::add2_halved`] takes beside those of two blocks, the second and third and so on, and the last and first.
    halves: [Lanes; GROUP / 2],
}

/// A vector in memory.
type Lanes = [u128; 4];

impl Drop for Room {
    fn drop(&mut self) {
        self.round_keys.as_flattened_mut().zeroize();
        self.powers.as_flattened_mut().zeroize();
        self.halves.as_flattened_mut().zeroize();
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
fn get(lanes: &Lanes) -> __m512i {
    // SAFETY: the array is 64 readable bytes.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
fn put(lanes: &mut Lanes, v: __m512i) {
    // SAFETY: the array is 64 writable bytes.
    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), v) };
}

impl Room {
    /// Makes what four keys need, each of its line; gives the keys of round 0.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    fn make<const R: usize>(&mut self, lines: [&Lanes; 4]) -> __m512i {
        let Start { square, hash, keys } = starts(lines);
        let mut schedule = Schedule::new(keys);
        let first = schedule.key();
        each_round!(ROUND => {
            put(&mut self.round_keys[ROUND], schedule.next::<R, ROUND>());
        });
        put(&mut self.round_keys[R], schedule.next::<R, R>());
        let third = Sum::of(square, hash).reduced();
        let fourth = Sum::of(square, square).reduced();
        let powers = [
            hash,
            square,
            third,
            fourth,
            Sum::of(fourth, hash).reduced(),
            Sum::of(fourth, square).reduced(),
            Sum::of(fourth, third).reduced(),
            Sum::of(fourth, fourth).reduced(),
        ];
        for (i, power) in powers.iter().enumerate() {
            put(&mut self.powers[i + 1], *power);
        }
        put(&mut self.powers[GROUP + 1], Sum::of(powers[GROUP - 1], hash).reduced());
        for i in 0..GROUP / 2 {
            let (a, b) = two(i);
            put(&mut self.halves[i], halves(powers[GROUP - a - 1], powers[GROUP - b - 1]));
        }
        first
    }

    /// H to the power of `e`, at most 9, a lane of each packet.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    fn power(&self, e: usize) -> __m512i {
        get(&self.powers[e])
    }
}

/// The `i`th two blocks of a group that are multiplied together. The first block waits for the reduction before, so it is the last.
const fn two(i: usize) -> (usize, usize) {
    (2 * i + 1, (2 * i + 2) % GROUP)
}

/// Fours of jobs, each of jobs of one length.
///
/// # Safety
///
/// Of every job's key there is at least the [`start`](Job::start), of this engine and of `R` rounds, 10 or 14; those of a four have texts of
/// one length, which is more than eight blocks and no more than [`LONGEST`], and AAD of one block; all have tags of one length, and are seal jobs if `SEAL`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run<const SEAL: bool, const R: usize>(fours: &mut [[Job<'_>; 4]]) {
    // Wiped when it goes.
    let mut room =
        Room { round_keys: [[0; 4]; 15], powers: [[0; 4]; GROUP + 2], halves: [[0; 4]; GROUP / 2] };
    for four in fours {
        // SAFETY: as the caller promised.
        let tags = unsafe { abreast::<SEAL, R>(four, &mut room) };
        // SAFETY: likewise.
        unsafe { finish_each::<SEAL>(four, tags) };
    }
}

/// Four packets whose ciphertext is there, as far as a group, and whose hash is not yet.
struct Pending {
    /// The reversed ciphertext.
    text: [__m512i; GROUP],
    /// The hash of what is before.
    carried: __m512i,
}

impl Pending {
    /// Adds the products of the `i`th two blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    fn add(&self, room: &Room, i: usize, sum: &mut Sum) {
        let (a, b) = two(i);
        let w = match b {
            0 => _mm512_xor_si512(self.text[0], self.carried),
            _ => self.text[b],
        };
        let both = [room.power(GROUP - a), room.power(GROUP - b)];
        sum.add2_halved([self.text[a], w], both, get(&room.halves[i]));
        sum.in_order();
    }
}

/// Encrypts or decrypts four packets; gives their tags.
///
/// # Safety
///
/// As [`run`], for these.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn abreast<const SEAL: bool, const R: usize>(
    jobs: &[Job<'_>; 4],
    room: &mut Room,
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
    let first = room.make::<R>(lines);
    let base = _mm512_xor_si512(lanes(j0(a), j0(b), j0(c), j0(d)), first);
    let aads = reversed(lanes(a.short_aad(), b.short_aad(), c.short_aad(), d.short_aad()));
    let zero = _mm512_setzero_si512();
    let mut pending =
        Pending { text: [zero; GROUP], carried: Sum::of(aads, room.power(1)).reduced() };
    let groups = (a.blocks() - 1) / GROUP;
    // SAFETY: there are more than eight blocks of text.
    unsafe { group::<SEAL, R, false>(jobs, room, base, 0, &mut pending) };
    for g in 1..groups {
        // SAFETY: there is text behind this group.
        unsafe { group::<SEAL, R, true>(jobs, room, base, g, &mut pending) };
    }
    match a.blocks() - GROUP * groups {
        // SAFETY: so many blocks are left over; so in each arm.
        1 => unsafe { rest::<SEAL, R, 1>(jobs, room, base, &pending) },
        // SAFETY: likewise.
        2 => unsafe { rest::<SEAL, R, 2>(jobs, room, base, &pending) },
        // SAFETY: likewise.
        3 => unsafe { rest::<SEAL, R, 3>(jobs, room, base, &pending) },
        // SAFETY: likewise.
        4 => unsafe { rest::<SEAL, R, 4>(jobs, room, base, &pending) },
        // SAFETY: likewise.
        5 => unsafe { rest::<SEAL, R, 5>(jobs, room, base, &pending) },
        // SAFETY: likewise.
        6 => unsafe { rest::<SEAL, R, 6>(jobs, room, base, &pending) },
        // SAFETY: likewise.
        7 => unsafe { rest::<SEAL, R, 7>(jobs, room, base, &pending) },
        // SAFETY: likewise.
        _ => unsafe { rest::<SEAL, R, 8>(jobs, room, base, &pending) },
    }
}

/// Encrypts or decrypts group `g` of four packets, hashes what is `PENDING`, and leaves this group pending.
///
/// # Safety
///
/// As [`run`]; the group is whole.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn group<const SEAL: bool, const R: usize, const PENDING: bool>(
    jobs: &[Job<'_>; 4],
    room: &Room,
    base: __m512i,
    g: usize,
    pending: &mut Pending,
) {
    let mut s = [base; GROUP];
    for t in 0..GROUP {
        s[t] = _mm512_xor_si512(base, block_counter(GROUP * g + t));
    }
    let mut sum = Sum::zero();
    each_round!(ROUND => {
        let rk = get(&room.round_keys[ROUND]);
        for t in 0..GROUP {
            s[t] = _mm512_aesenc_epi128(s[t], rk);
            in_order(&mut s[t]);
        }
        if PENDING && !ROUND.is_multiple_of(2) && ROUND < GROUP {
            pending.add(room, ROUND / 2, &mut sum);
        }
    });
    if PENDING {
        pending.carried = sum.halved().reduced();
    }
    let rk = get(&room.round_keys[R]);
    for v in 0..GROUP / 4 {
        let s = [s[4 * v], s[4 * v + 1], s[4 * v + 2], s[4 * v + 3]];
        // SAFETY: the vector is in a group that is whole.
        let (x, y) = unsafe { vector(jobs, GROUP / 4 * g + v, !0, s, rk) };
        for k in 0..4 {
            pending.text[4 * v + k] = reversed(if SEAL { y[k] } else { x[k] });
        }
    }
}

/// The last round of vector `j` of each of four packets: reads and writes them; gives what was read and what was written, a block of each packet in a vector.
///
/// # Safety
///
/// `mask` selects only bytes of the vector that the texts have.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn vector(
    jobs: &[Job<'_>; 4],
    j: usize,
    mask: u64,
    s: [__m512i; 4],
    rk: __m512i,
) -> ([__m512i; 4], [__m512i; 4]) {
    let mut x = s;
    for i in 0..4 {
        // SAFETY: as the caller promised.
        x[i] = unsafe { Text::new(&jobs[i]).load_tail(j, mask) };
    }
    let x = transposed(x);
    let mut y = s;
    for k in 0..4 {
        y[k] = _mm512_aesenclast_epi128(s[k], _mm512_xor_si512(x[k], rk));
    }
    let out = transposed(y);
    for i in 0..4 {
        // SAFETY: as the caller promised.
        unsafe { Text::new(&jobs[i]).store_tail(j, mask, out[i]) };
    }
    (x, y)
}

/// Encrypts or decrypts the last `K` blocks of four packets, hashes what is pending and these; gives the tags.
///
/// # Safety
///
/// As [`run`]; behind whole groups there are so many blocks.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn rest<const SEAL: bool, const R: usize, const K: usize>(
    jobs: &[Job<'_>; 4],
    room: &Room,
    base: __m512i,
    pending: &Pending,
) -> __m512i {
    let [a, b, c, d] = jobs;
    let before = a.blocks() - K;
    let mut masks = base;
    let mut s = [base; K];
    for t in 0..K {
        s[t] = _mm512_xor_si512(base, block_counter(before + t));
    }
    let mut sum = Sum::zero();
    each_round!(ROUND => {
        let rk = get(&room.round_keys[ROUND]);
        for t in 0..K {
            s[t] = _mm512_aesenc_epi128(s[t], rk);
            in_order(&mut s[t]);
        }
        masks = _mm512_aesenc_epi128(masks, rk);
        in_order(&mut masks);
        if !ROUND.is_multiple_of(2) && ROUND < GROUP {
            pending.add(room, ROUND / 2, &mut sum);
        }
    });
    let carried = sum.halved().reduced();
    let rk = get(&room.round_keys[R]);
    masks = _mm512_aesenclast_epi128(masks, rk);
    let lengths = lanes(a.length_block(), b.length_block(), c.length_block(), d.length_block());
    let mut sum = Sum::of(lengths, room.power(1));
    let end = block_mask(a.len());
    let mut text = s;
    for v in 0..K / 4 {
        let mask = if K == 4 * (v + 1) { u64::from(end) << 48 | 0xffff_ffff_ffff } else { !0 };
        let s = [s[4 * v], s[4 * v + 1], s[4 * v + 2], s[4 * v + 3]];
        // SAFETY: the mask is that of the texts' last vector, or there is text behind this one.
        let (x, y) = unsafe { vector(jobs, before / 4 + v, mask, s, rk) };
        for k in 0..4 {
            text[4 * v + k] = if SEAL { y[k] } else { x[k] };
        }
    }
    for t in K / 4 * 4..K {
        let mask = if t == K - 1 { end } else { 0xffff };
        let at = 16 * (before + t);
        let mut x = [_mm_setzero_si128(); 4];
        for i in 0..4 {
            // SAFETY: the block is in the text, and the mask is that of the last one.
            x[i] = unsafe { Text::new(&jobs[i]).load_block(at, mask) };
        }
        let x = lanes(x[0], x[1], x[2], x[3]);
        let y = _mm512_aesenclast_epi128(s[t], _mm512_xor_si512(x, rk));
        let each = split(y);
        for i in 0..4 {
            // SAFETY: as the load.
            unsafe { Text::new(&jobs[i]).store_block(at, mask, each[i]) };
        }
        text[t] = if SEAL { y } else { x };
    }
    if SEAL {
        text[K - 1] = _mm512_maskz_mov_epi8(of_four([end; 4]), text[K - 1]);
    }
    for t in 0..K {
        let v = reversed(text[t]);
        let v = if t == 0 { _mm512_xor_si512(v, carried) } else { v };
        sum.add(v, room.power(K + 1 - t));
    }
    _mm512_xor_si512(reversed(sum.reduced()), masks)
}
