//! AES-GCM with AVX-512, VAES and VPCLMULQDQ: four blocks in every register.
//!
//! A packet alone leaves most of the processor idle, for its hash waits for its ciphertext and its tag for a chain of reductions.
//! Hence several at once, in these shapes, by the number of 64-byte vectors of text:
//!
//! - `lockstep`: fours of packets of at most two vectors, of as many blocks each and of one key or of keys that are near, whose AAD, length
//!   blocks, tag masks and reductions share registers, one lane each;
//! - `abreast`: such fours of keys that are far, one lane each for everything, their round keys too;
//! - `apart`: up to four such packets of different lengths;
//! - `stitched`: packets of any length one after the other; what of one is not yet hashed is multiplied between
//!   the AES rounds of the next;
//! - where keys are far, `abreast_long` for fours of one length up to 4 KiB, and `made` before `stitched` for the others.
//!
//! No branch or address depends on key, text or tag bytes: only on lengths, on whether keys are the same key,
//! and on the verdict, which is public.

mod abreast;
mod abreast_long;
mod apart;
mod lockstep;
mod made;
mod schedule;
mod stitched;
mod vector;

use super::job::Job;
use stitched::Shape;
use vector::vectors;

/// The longest packets, in vectors, that go four at a time.
const LOCKSTEP_MAX: usize = 2;

/// And in bytes.
pub(super) const SHORT: usize = 64 * LOCKSTEP_MAX;

/// Seals (`SEAL`) or opens a run of jobs, all of the AVX-512 engine and of `R` AES rounds.
///
/// # Safety
///
/// Every job has a whole key of this engine and of `R` rounds, 10 or 14, all have tags of one length, and are seal jobs if `SEAL`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run<const SEAL: bool, const R: usize>(jobs: &mut [Job<'_>]) {
    let few = jobs.len() < 4;
    let mut before = core::ptr::null();
    let mut rest = jobs;
    while let Some(first) = rest.first() {
        let count = vectors(first.len());
        let shape = Shape::of(first.len());
        let (even, level) = match count {
            1..=LOCKSTEP_MAX => match lockstep::even(rest) / 4 {
                0 => (0, lockstep::level(rest.as_chunks().0)),
                even => (even, 0),
            },
            _ => (0, 0),
        };
        let run = match count {
            _ if even + level > 0 => 4 * (even + level),
            0 => rest.iter().take_while(|job| job.len() == 0).count(),
            1..=LOCKSTEP_MAX => rest.iter().take(4).take_while(|job| is_short(job)).count(),
            _ => rest.iter().take_while(|job| Shape::of(job.len()) == shape).count(),
        };
        let (now, later) = rest.split_at_mut(run);
        rest = later;
        let last_key = now.last().map_or(before, Job::key_address);
        match count {
            0 => {
                for job in now {
                    // SAFETY: as the caller promised.
                    unsafe { stitched::empty::<SEAL, R>(job) };
                }
            }
            // SAFETY: as the caller promised, and these go in step, with one key.
            _ if even > 0 => unsafe { lockstep::run::<SEAL, R, true>(now.as_chunks_mut().0) },
            // SAFETY: as the caller promised, and these go in step.
            _ if level > 0 => unsafe { lockstep::run::<SEAL, R, false>(now.as_chunks_mut().0) },
            1..=LOCKSTEP_MAX => {
                let beside = [Some(before), rest.first().map(Job::key_address)];
                if now.len() < 4 && is_at_hand(now, few, beside) {
                    for jobs in now.chunk_by_mut(|a, b| Shape::of(a.len()) == Shape::of(b.len())) {
                        let shape = jobs.first().map_or(shape, |job| Shape::of(job.len()));
                        // SAFETY: as the caller promised, and all are of this shape.
                        unsafe { stitched::run::<SEAL, R>(jobs, shape) };
                    }
                } else {
                    // SAFETY: as the caller promised, and they are short.
                    unsafe { apart::up_to_four::<SEAL, R>(now) };
                }
            }
            // SAFETY: as the caller promised, and all have text of this shape.
            _ => unsafe { stitched::run::<SEAL, R>(now, shape) },
        }
        before = last_key;
    }
}

/// The same for jobs whose keys are far, and a line of each at hand.
///
/// # Safety
///
/// As [`run`], but that of the keys there is only their [`start`](Job::start).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run_far<const SEAL: bool, const R: usize>(jobs: &mut [Job<'_>]) {
    let mut rest = jobs;
    while let Some(first) = rest.first() {
        let (is_apart, shape) = (goes_apart(first), Shape::of(first.len()));
        let fours = match is_apart {
            true => abreast::alike(rest) / 4,
            false => abreast_long::alike(rest) / 4,
        };
        let run = match is_apart {
            _ if fours > 0 => 4 * fours,
            true => rest.iter().take(4).take_while(|job| goes_apart(job)).count(),
            false => {
                let is_like = |job: &&Job<'_>| !goes_apart(job) && Shape::of(job.len()) == shape;
                rest.iter().take_while(is_like).count()
            }
        };
        let (now, later) = rest.split_at_mut(run);
        rest = later;
        match is_apart {
            // SAFETY: as the caller promised, they have as many blocks, and their AAD is short.
            true if fours > 0 => unsafe { abreast::run::<SEAL, R>(now.as_chunks_mut().0) },
            // SAFETY: as the caller promised, they are short, and so is their AAD.
            true => unsafe { apart::up_to_four::<SEAL, R>(now) },
            // SAFETY: as the caller promised, they are of one length, which is not short, and so is not their AAD long.
            false if fours > 0 => unsafe { abreast_long::run::<SEAL, R>(now.as_chunks_mut().0) },
            // SAFETY: as the caller promised, and all are of this shape.
            false => unsafe { made::run::<SEAL, R>(now, shape) },
        }
    }
}

/// Whether a packet goes four at a time where one line of its key is at hand: what it hashes is no more than that makes powers for.
#[inline]
fn goes_apart(job: &Job<'_>) -> bool {
    is_short(job) && job.has_short_aad()
}

/// Whether all that there is of the one key of some jobs is at hand, as another job needs it, or as they are of a burst of `few`.
#[inline]
fn is_at_hand(jobs: &[Job<'_>], few: bool, beside: [Option<*const u8>; 2]) -> bool {
    let key = jobs.first().map(Job::key_address);
    let one_key = jobs.iter().all(|job| Some(job.key_address()) == key);
    one_key && (few || jobs.len() > 1 || beside.contains(&key))
}

/// Whether a packet has text and not too much of it for lock step.
#[inline]
fn is_short(job: &Job<'_>) -> bool {
    (1..=SHORT as u32).contains(&job.len())
}

/// As [`run`], packet by packet, of any number of rounds: enough for AES-192, which peers hardly ever choose, and less code.
///
/// # Safety
///
/// As [`run`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn one_by_one<const SEAL: bool, const R: usize>(jobs: &mut [Job<'_>]) {
    for job in jobs {
        match job.len() {
            // SAFETY: as the caller promised.
            0 => unsafe { stitched::empty::<SEAL, R>(job) },
            // SAFETY: as the caller promised, and this is its shape.
            len => unsafe { stitched::run::<SEAL, R>(core::slice::from_mut(job), Shape::of(len)) },
        }
    }
}
