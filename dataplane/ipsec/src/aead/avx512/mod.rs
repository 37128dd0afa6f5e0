//! AES-GCM with AVX-512, VAES and VPCLMULQDQ: four blocks in every register.
//!
//! AES and carry-less multiplication run on different ports of the processor, so the aim is to have both busy
//! all the time; a packet alone cannot, for its hash waits for its ciphertext and its tag for a chain of
//! reductions. Hence two shapes, by the number of 64-byte vectors of text:
//!
//! - `lockstep`: four packets of at most two vectors, whose AAD, length blocks, tag masks and reductions share
//!   registers, one lane each;
//! - `stitched`: packets of any length one after the other; what of one is not yet hashed is multiplied between
//!   the AES rounds of the next.
//!
//! No branch or address depends on key, text or tag bytes: only on lengths, on whether keys are the same key,
//! and on the verdict, which is public.

mod lockstep;
mod stitched;
mod vector;

use super::job::Job;
use stitched::last_of;
use vector::vectors;

/// The longest packets, in vectors, that go four at a time.
const LOCKSTEP_MAX: usize = 2;

/// Seals (`SEAL`) or opens a run of jobs, all of the AVX-512 engine and of `R` AES rounds.
///
/// # Safety
///
/// Every job has a key of this engine and of `R` rounds, all have tags of one length, and are seal jobs if `SEAL`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run<const SEAL: bool, const R: usize>(jobs: &mut [Job<'_>]) {
    let mut rest = jobs;
    while let Some(first) = rest.first() {
        let count = vectors(first.len());
        let mut run = rest.iter().take_while(|job| vectors(job.len()) == count).count();
        if count == 0 {
            let (now, later) = rest.split_at_mut(run);
            rest = later;
            for job in now {
                // SAFETY: as the caller promised.
                unsafe { stitched::empty::<SEAL, R>(job) };
            }
            continue;
        }
        if count <= LOCKSTEP_MAX && run >= 4 {
            let (now, later) = rest.split_at_mut(run - run % 4);
            rest = later;
            for four in now.chunks_exact_mut(4) {
                if let Ok(four) = four.try_into() {
                    // SAFETY: as the caller promised, and all have `count` vectors.
                    unsafe { lockstep::four::<SEAL, R>(four, count) };
                }
            }
            continue;
        }
        let last = last_of(count);
        if count > LOCKSTEP_MAX {
            run = rest.iter().take_while(|job| is_behind_lockstep(job, last)).count();
        }
        let (now, later) = rest.split_at_mut(run);
        rest = later;
        // SAFETY: as the caller promised, and all have text and such a last group.
        unsafe { stitched::run::<SEAL, R>(now, last) };
    }
}

/// Whether a packet is too long for lock step and its last group has `last` vectors.
#[inline]
fn is_behind_lockstep(job: &Job<'_>, last: usize) -> bool {
    let count = vectors(job.len());
    count > LOCKSTEP_MAX && last_of(count) == last
}

/// As [`run`], packet by packet: enough for AES-192, which peers hardly ever choose, and less code.
///
/// # Safety
///
/// As [`run`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run_stitched<const SEAL: bool, const R: usize>(jobs: &mut [Job<'_>]) {
    for job in jobs {
        match vectors(job.len()) {
            // SAFETY: as the caller promised.
            0 => unsafe { stitched::empty::<SEAL, R>(job) },
            // SAFETY: as the caller promised, and this is its last group.
            count => unsafe {
                stitched::run::<SEAL, R>(core::slice::from_mut(job), last_of(count))
            },
        }
    }
}
