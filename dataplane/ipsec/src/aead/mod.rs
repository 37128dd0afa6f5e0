//! The batched AES-GCM engine (NIST SP 800-38D, RFC 4106, RFC 4543).
//!
//! ```text
//!  GcmKey ──┐                                   ┌► avx512    four packets in lock step, or
//!  nonce    │                                   │            one packet's GHASH in the next one's AES
//!  AAD      ├► SealJob ─► seal_burst(&mut [..]) ┼► aesni     eight blocks at a time, packet by packet
//!  src, dst │  OpenJob ─► open_burst(&mut [..]) │
//!  tag    ──┘                  └► verdict per job└► portable  the `aes-gcm` crate
//! ```
//!
//! A caller builds one job per packet on its stack and hands the burst over. Jobs may differ in key, key
//! size, engine, length, AAD and tag length; neighbours that agree are worked on together, so the best
//! throughput comes from neighbours of one key and of nearly one length, but any order is right.
//!
//! | module | what |
//! |---|---|
//! | [`engine`](self) | which implementations this processor can run: [`Engine`] |
//! | `key` | [`GcmKey`], the expanded key of one engine |
//! | `job` | [`SealJob`], [`OpenJob`], [`Aad`]: one packet's work and its bounds |
//! | `expanded` | AES key schedule and powers of H for the vector engines |
//! | `avx512`, `aesni`, `portable` | the three engines |
//!
//! What it never does: allocate in a burst, branch or index on key or payload bytes, hand on plaintext that
//! did not verify (it is overwritten with zeros), or see a nonce twice under a key: that one is the
//! caller's duty, because only the caller owns the counter.

mod engine;
#[expect(unsafe_code, reason = "jobs carry in-place and out-of-place buffers as one pointer pair")]
mod job;
mod key;
mod portable;
#[cfg(test)]
mod tests;

pub use engine::Engine;
pub use job::{Aad, JobError, MAX_LEN, OpenJob, SealJob, Unauthentic};
pub use key::{GcmKey, KeyLength, UnsupportedKeyLength};

use engine::Kind;
use job::Job;

/// Bytes of a GCM nonce: the 4-byte salt of the SA and the 8-byte explicit IV (RFC 4106 §4).
pub const NONCE_LEN: usize = 12;

/// The longest tag, in bytes.
pub const TAG_LEN: usize = 16;

/// Encrypts and authenticates every job of the burst.
pub fn seal_burst(burst: &mut [SealJob<'_>]) {
    for run in runs(SealJob::as_jobs_mut(burst)) {
        match run.kind() {
            Kind::Portable => run.jobs.iter_mut().for_each(portable::seal),
        }
    }
}

/// Verifies and decrypts every job of the burst; [`OpenJob::verdict`] then tells which were authentic.
///
/// The output of a job that is not authentic is all zeros.
pub fn open_burst(burst: &mut [OpenJob<'_>]) {
    for run in runs(OpenJob::as_jobs_mut(burst)) {
        match run.kind() {
            Kind::Portable => run.jobs.iter_mut().for_each(portable::open),
        }
    }
}

/// Seals a single packet in place, as a burst of one.
///
/// # Errors
///
/// As [`SealJob::in_place`].
pub fn seal_one(
    key: &GcmKey,
    nonce: [u8; NONCE_LEN],
    aad: &[u8],
    data: &mut [u8],
    tag: &mut [u8],
) -> Result<(), JobError> {
    let job = SealJob::in_place(key, nonce, Aad::new(aad), data, tag)?;
    seal_burst(&mut [job]);
    Ok(())
}

/// Opens a single packet in place, as a burst of one.
///
/// # Errors
///
/// [`OpenError::Job`] as [`OpenJob::in_place`]; [`OpenError::Unauthentic`] where the tag does not fit, and
/// `data` is zeroed then.
pub fn open_one(
    key: &GcmKey,
    nonce: [u8; NONCE_LEN],
    aad: &[u8],
    data: &mut [u8],
    tag: &[u8],
) -> Result<(), OpenError> {
    let mut burst = [OpenJob::in_place(key, nonce, Aad::new(aad), data, tag)?];
    open_burst(&mut burst);
    Ok(burst[0].verdict()?)
}

/// Why [`open_one`] gave no plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The caller asked for something that is not AES-GCM as ESP has it.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The packet was not made with this key, nonce and AAD.
    #[error(transparent)]
    Unauthentic(#[from] Unauthentic),
}

/// Neighbouring jobs of one engine and key length.
struct Run<'b, 'a> {
    class: key::Class,
    jobs: &'b mut [Job<'a>],
}

impl Run<'_, '_> {
    fn kind(&self) -> Kind {
        self.class.kind
    }
}

/// Splits a burst where engine or key length change.
fn runs<'b, 'a>(burst: &'b mut [Job<'a>]) -> impl Iterator<Item = Run<'b, 'a>> {
    burst.chunk_by_mut(|a, b| a.class() == b.class()).filter_map(|jobs| {
        let class = jobs.first()?.class();
        Some(Run { class, jobs })
    })
}
