//! Long packets whose keys are far and met once in a burst: the keys are made again, each from one line of it, four at a time.
//!
//! ```text
//!  key, one line of fourteen   H², H, AES key ─┬─► round keys        a key in every lane
//!                                              └─► H to H³⁸ ─► room ─► stitched
//! ```
//!
//! The thirteen other lines would have to come from memory.

use core::arch::x86_64::*;

use super::super::expanded::{ExpandedKey, POWERS, Start};
use super::super::job::Job;
use super::schedule::{Schedule, starts};
use super::stitched::{self, Shape};
use super::vector::*;
use arrayvec::ArrayVec;

/// Keys that are made together.
const LANES: usize = 4;

/// A run of jobs of one shape, which may be that of no text.
///
/// # Safety
///
/// As [`stitched::run`], but that of the keys there is only their [`start`](Job::start).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run<const SEAL: bool, const R: usize>(jobs: &mut [Job<'_>], shape: Shape) {
    // Wiped when they go.
    let mut rooms = [const { ExpandedKey::ZERO }; LANES];
    for now in jobs.chunks_mut(LANES) {
        // SAFETY: as the caller promised.
        unsafe { make::<R>(now, &mut rooms) };
        let lent = now.iter_mut().zip(&rooms);
        // SAFETY: it is a key of this engine, and the job has its own again before the room is gone or changed.
        let own = lent.map(|(job, room)| unsafe { job.lend_key(room) });
        let own: ArrayVec<_, LANES> = own.collect();
        if shape != Shape::of(0) {
            // SAFETY: as the caller promised: the keys that were made are of the same rounds.
            unsafe { stitched::run::<SEAL, R>(now, shape) };
        } else {
            for job in now.iter_mut() {
                // SAFETY: likewise.
                unsafe { stitched::empty::<SEAL, R>(job) };
            }
        }
        for (job, own) in now.iter_mut().zip(own) {
            job.key = own;
        }
    }
}

/// Makes the keys of one to four jobs, as far as their texts need them.
///
/// # Safety
///
/// Every job has a key of this engine and of `R` rounds, 10 or 14, and was lent none.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn make<const R: usize>(jobs: &[Job<'_>], rooms: &mut [ExpandedKey; LANES]) {
    let Some(first) = jobs.first() else { return };
    let lane = |i: usize| jobs.get(i).unwrap_or(first);
    let keys = [
        // SAFETY: the job is of this engine, as the caller promised, and was lent no key yet; so the others.
        unsafe { lane(0).start() },
        // SAFETY: likewise.
        unsafe { lane(1).start() },
        // SAFETY: likewise.
        unsafe { lane(2).start() },
        // SAFETY: likewise.
        unsafe { lane(3).start() },
    ];
    // Long AAD takes powers of its own.
    let powers = |job: &Job<'_>| match job.has_short_aad() {
        true => ExpandedKey::powers_for(job.len() as usize),
        false => POWERS,
    };
    let most = jobs.iter().map(powers).max();
    for (room, key) in rooms.iter_mut().zip(keys) {
        *room.line_mut(ExpandedKey::START_LINE.start) = *key;
    }
    let Start { square, hash, keys } = starts(keys);
    // Round keys from the third on: the first two are in the line that there is.
    let mut schedule = Schedule::new(keys);
    let mut four = [_mm512_setzero_si512(); LANES];
    each_round!(ROUND => {
        four[ExpandedKey::at_round(ROUND).1] = schedule.next::<R, ROUND>();
        if let (line, 3) = ExpandedKey::at_round(ROUND)
            && ROUND > 1
        {
            put(rooms, line, four);
        }
    });
    four[0] = schedule.next::<R, R>();
    put(rooms, const { ExpandedKey::at_round(R).0 }, four);

    // Powers, four to a line, each line the one behind it times H⁴.
    let fourth = Sum::of(square, square).reduced();
    let third = Sum::of(square, hash).reduced();
    let fifth = Sum::of(fourth, hash).reduced();
    let mut four = [Sum::of(fourth, square).reduced(), fifth, fourth, third];
    for line in (0..ExpandedKey::START_LINE.start).rev() {
        put(rooms, line, four);
        if most.is_none_or(|most| most <= ExpandedKey::highest_power(line)) {
            break;
        }
        for power in &mut four {
            *power = Sum::of(*power, fourth).reduced();
        }
    }
}

/// Four blocks to a line of each room: a key in every lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
fn put(rooms: &mut [ExpandedKey; LANES], line: usize, blocks: [__m512i; LANES]) {
    for (room, blocks) in rooms.iter_mut().zip(transposed(blocks)) {
        let line: &mut [u128; 4] = room.line_mut(line);
        // SAFETY: the array is 64 writable bytes.
        unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), blocks) };
    }
}
