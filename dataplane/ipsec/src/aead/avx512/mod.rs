//! AES-GCM with AVX-512, VAES and VPCLMULQDQ: four blocks in every register.
//!
//! AES and carry-less multiplication run on different ports of the processor, so the aim is to have both busy
//! all the time; a packet alone cannot, for its hash waits for its ciphertext and its tag for a chain of
//! reductions. Hence three shapes, by the number of 64-byte vectors of text:
//!
//! - `lockstep`: four packets of at most two vectors, whose AAD, length blocks, tag masks and reductions share
//!   registers, one lane each;
//! - `stitched`: a run of packets of the same number of vectors, 3 to 9; the hash of each is multiplied between
//!   the AES rounds of the next;
//! - `alone`: one packet of any length; from 10 vectors on its own groups of eight vectors are stitched.
//!
//! No branch or address depends on key, text or tag bytes: only on lengths, on whether keys are the same key,
//! and on the verdict, which is public.

mod alone;
mod lockstep;
mod stitched;
mod vector;

use super::job::Job;
use vector::vectors;

/// Seals (`SEAL`) or opens a run of jobs, all of the AVX-512 engine and of `R` AES rounds.
///
/// # Safety
///
/// Every job has a key of this engine and of `R` rounds, and is a seal job if `SEAL`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run<const SEAL: bool, const R: usize>(jobs: &mut [Job<'_>]) {
    let mut rest = jobs;
    while let Some(first) = rest.first() {
        let count = vectors(first.len());
        let run = rest.iter().take_while(|job| vectors(job.len()) == count).count();
        let (now, later) = rest.split_at_mut(run);
        rest = later;
        match count {
            1 | 2 => {
                let mut fours = now.chunks_exact_mut(4);
                for four in &mut fours {
                    if let Ok(four) = four.try_into() {
                        // SAFETY: as the caller promised, and all have `count` vectors.
                        unsafe { lockstep::four::<SEAL, R>(four, count) };
                    }
                }
                for job in fours.into_remainder() {
                    // SAFETY: as the caller promised.
                    unsafe { alone::one::<SEAL, R>(job) };
                }
            }
            3..=stitched::MAX if run > 1 => {
                // SAFETY: as the caller promised, and all have `count` vectors.
                unsafe { stitched::run::<SEAL, R>(now, count) };
            }
            // SAFETY: as the caller promised.
            _ => unsafe { run_alone::<SEAL, R>(now) },
        }
    }
}

/// As [`run`], packet by packet: enough for AES-192, which peers hardly ever choose, and a third of the code.
///
/// # Safety
///
/// As [`run`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run_alone<const SEAL: bool, const R: usize>(jobs: &mut [Job<'_>]) {
    for job in jobs {
        // SAFETY: as the caller promised.
        unsafe { alone::one::<SEAL, R>(job) };
    }
}
