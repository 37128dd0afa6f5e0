//! Packets whose keys are far and met once in a burst: the keys are made again, each from one line of it, four at a time, as far as the texts
//! need them. The other lines, of which a packet of 64 bytes takes five and one of 1420 bytes seven, would have to come from memory.

use core::arch::x86_64::*;

use super::super::expanded::ExpandedKey;
use super::super::job::Job;
use super::stitched::HIGHEST;
use super::vector::*;
use arrayvec::ArrayVec;

/// Keys that are made together: two registers with two each, as one alone would mostly wait for itself.
const TOGETHER: usize = 4;

/// Jobs whose keys there is room for on the stack: packets of one length go by pairs, one pair hashed beside the next.
const ROOMS: usize = 2 * TOGETHER;

/// And the highest that long AAD takes, in `aesni`.
const LONG_AAD: usize = 8;

/// Any jobs.
///
/// # Safety
///
/// As [`super::run`], but that of the keys there is only their [`start`](Job::start), and `R` is 10 or 14.
#[target_feature(enable = "aes,pclmulqdq,avx2,vaes,vpclmulqdq")]
pub(in super::super) unsafe fn run<const SEAL: bool, const R: usize>(jobs: &mut [Job<'_>]) {
    // Wiped when they go.
    let mut rooms = [const { ExpandedKey::ZERO }; ROOMS];
    for now in jobs.chunks_mut(ROOMS) {
        let (fours, _) = rooms.as_chunks_mut();
        for (jobs, rooms) in now.chunks(TOGETHER).zip(fours) {
            // SAFETY: as the caller promised.
            unsafe { make::<R>(jobs, rooms) };
        }
        let lent = now.iter_mut().zip(&rooms);
        // SAFETY: it is a key of this engine, and the job has its own again before the room is gone or changed.
        let own = lent.map(|(job, room)| unsafe { job.lend_key(room) });
        let own: ArrayVec<_, ROOMS> = own.collect();
        // SAFETY: as the caller promised: the keys that were made are of the same rounds.
        unsafe { super::run::<SEAL, R>(now) };
        for (job, own) in now.iter_mut().zip(own) {
            job.key = own;
        }
    }
}

/// Makes the keys of one to four jobs.
///
/// # Safety
///
/// Every job has a key of this engine and of `R` rounds, 10 or 14, and was lent none.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx2,vaes,vpclmulqdq")]
unsafe fn make<const R: usize>(jobs: &[Job<'_>], rooms: &mut [ExpandedKey; TOGETHER]) {
    let Some(first) = jobs.first() else { return };
    let mut lines = [[_mm256_setzero_si256(); 2]; 4];
    for pair in 0..2 {
        let [a, b] = [2 * pair, 2 * pair + 1].map(|i| jobs.get(i).unwrap_or(first));
        // SAFETY: the job is of this engine, as the caller promised, and was lent no key yet.
        let a = unsafe { a.start() };
        // SAFETY: likewise.
        let b = unsafe { b.start() };
        for i in 0..4 {
            lines[i][pair] = lanes(block(a, i), block(b, i));
        }
    }
    for (i, both) in lines.into_iter().enumerate() {
        put(rooms, (ExpandedKey::START_LINE.start, i), both);
    }
    let [square, hash, start, second] = lines;

    // FIPS 197 §5.2, for four keys side by side.
    let (mut before, mut now) = (start, start);
    for round in 1..=R {
        let mut next = second;
        for pair in 0..2 {
            let (far, near) = (before[pair], now[pair]);
            next[pair] = match (R, round) {
                (10, _) => following::<true>(near, near, ROUND_CONSTANTS[round - 1]),
                (_, 1) => second[pair],
                _ if round.is_multiple_of(2) => {
                    following::<true>(far, near, ROUND_CONSTANTS[round / 2 - 1])
                }
                _ => following::<false>(far, near, 0),
            };
        }
        (before, now) = (now, next);
        put(rooms, ExpandedKey::at_round(round), now);
    }

    // What a text and its AAD take; each power is the fourth below it times H⁴.
    let powers = |job: &Job<'_>| {
        let long_aad = if job.has_short_aad() { 0 } else { LONG_AAD };
        (job.blocks() + 2).min(HIGHEST).max(long_aad)
    };
    let most = jobs.iter().map(powers).max().unwrap_or(HIGHEST);
    let third = product(square, hash);
    let fourth = product(square, square);
    let mut below = [hash, square, third, fourth];
    put(rooms, ExpandedKey::at_power(3), third);
    put(rooms, ExpandedKey::at_power(4), fourth);
    for e in 5..=most {
        let next = product(below[(e - 1) % 4], fourth);
        below[(e - 1) % 4] = next;
        put(rooms, ExpandedKey::at_power(e), next);
    }
}

#[inline]
#[target_feature(enable = "avx2,vpclmulqdq")]
fn product(v: [__m256i; 2], w: [__m256i; 2]) -> [__m256i; 2] {
    let mut products = v;
    for pair in 0..2 {
        let mut sum = Sum::zero();
        sum.add(v[pair], w[pair], halves(w[pair]));
        products[pair] = sum.reduced();
    }
    products
}

/// A block of each of four keys to its place.
#[inline]
#[target_feature(enable = "avx2")]
fn put(rooms: &mut [ExpandedKey; TOGETHER], (line, i): (usize, usize), blocks: [__m256i; 2]) {
    let each = [split(blocks[0]), split(blocks[1])];
    for (room, block) in rooms.iter_mut().zip(each.as_flattened()) {
        let to: &mut u128 = &mut room.line_mut(line)[i];
        // SAFETY: sixteen writable bytes.
        unsafe { _mm_storeu_si128(core::ptr::from_mut(to).cast(), *block) };
    }
}

/// Block `i` of a line.
#[inline]
#[target_feature(enable = "sse2")]
fn block(line: &[u128; 4], i: usize) -> __m128i {
    let block: &u128 = &line[i];
    // SAFETY: sixteen readable bytes.
    unsafe { _mm_loadu_si128(core::ptr::from_ref(block).cast()) }
}

const ROUND_CONSTANTS: [i32; 10] = [1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80, 0x1b, 0x36];

/// The round key that is one key length behind `before`, and just behind `last`, whose last word is `ROTATED` first or not.
///
/// Where all columns are the same word, what AES does to rows moves nothing, so its last round is the S-box and an XOR.
#[inline]
#[target_feature(enable = "avx2,vaes")]
fn following<const ROTATED: bool>(before: __m256i, last: __m256i, constant: i32) -> __m256i {
    let order = _mm256_set1_epi32(if ROTATED { 0x0c0f_0e0d } else { 0x0f0e_0d0c });
    let word = _mm256_shuffle_epi8(last, order);
    let word = _mm256_aesenclast_epi128(word, _mm256_set1_epi32(constant));
    let sums = _mm256_xor_si256(before, _mm256_bslli_epi128::<4>(before));
    let sums = _mm256_xor_si256(sums, _mm256_bslli_epi128::<8>(sums));
    _mm256_xor_si256(sums, word)
}
