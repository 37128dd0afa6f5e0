//! AES-GCM with VAES and VPCLMULQDQ on 256-bit registers, for processors that have those without AVX-512: two blocks in every register.
//!
//! - `pairs`: two packets of up to 128 bytes and of as many blocks, one in each half of every register;
//! - `stitched`: packets of any length one after the other; what of one is not yet hashed is multiplied between the AES rounds of the next;
//! - where keys are far, `made` before those;
//! - text of less than a block, or none, and short packets that are left alone go through `aesni`.
//!
//! As in `avx512`, no branch or address depends on key, text or tag bytes.

mod made;
mod pairs;
mod stitched;
mod vector;

use super::aesni;
use super::job::Job;
pub(super) use made::run as run_far;
pub(super) use stitched::HIGHEST;

/// Seals (`SEAL`) or opens a run of jobs, all of this engine and of `R` AES rounds.
///
/// # Safety
///
/// Every job has a key of this engine and of `R` rounds, and is a seal job if `SEAL`.
#[target_feature(enable = "aes,pclmulqdq,avx2,vaes,vpclmulqdq")]
pub(super) unsafe fn run<const SEAL: bool, const R: usize>(jobs: &mut [Job<'_>]) {
    let mut rest = jobs;
    while let Some(first) = rest.first() {
        let alike = pairs::alike(rest);
        let run = match alike {
            0 if is_tiny(first) => rest.iter().take_while(|job| is_tiny(job)).count(),
            0 => 1 + (1..rest.len()).take_while(|i| goes_alone(&rest[*i..])).count(),
            pairs => 2 * pairs,
        };
        let is_little = is_tiny(first) || run == 1 && first.blocks() <= pairs::MOST;
        let (now, later) = rest.split_at_mut(run);
        rest = later;
        match alike {
            // SAFETY: as the caller promised: the instructions of `aesni` are some of these.
            0 if is_little => unsafe { aesni::run::<SEAL, R>(now) },
            // SAFETY: as the caller promised, and all have a block of text and more.
            0 => unsafe { stitched::run::<SEAL>(now, R) },
            // SAFETY: as the caller promised, and these are alike.
            _ => unsafe { pairs::run::<SEAL>(now.as_chunks_mut().0, R) },
        }
    }
}

/// Whether a packet has less than a block of text.
#[inline]
fn is_tiny(job: &Job<'_>) -> bool {
    job.len() < 16
}

/// Whether the first of some packets goes neither with the next nor is tiny.
#[inline]
fn goes_alone(jobs: &[Job<'_>]) -> bool {
    let pair = &jobs[..jobs.len().min(2)];
    !is_tiny(&jobs[0]) && pairs::alike(pair) == 0
}
