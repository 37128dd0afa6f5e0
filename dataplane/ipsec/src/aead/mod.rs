//! The batched AES-GCM engine (NIST SP 800-38D, RFC 4106, RFC 4543).
//!
//! ```text
//!  GcmKey ──┐                                   ┌► avx512    four packets in lock step or side by side, or
//!  nonce    │                                   │            one packet's GHASH in the next one's AES
//!  AAD      ├► SealJob ─► seal_burst(&mut [..]) ┼► vaes256   two packets side by side, or as above
//!  src, dst │  OpenJob ─► open_burst(&mut [..]) ├► aesni     eight blocks at a time, packet by packet
//!  tag    ──┘                  └► verdict per job└► portable  the `aes-gcm` crate
//! ```
//!
//! A caller builds one job per packet on its stack and hands the burst over. Jobs may differ in key, key
//! size, engine, length, AAD and tag length; neighbours that agree are worked on together, so the best
//! throughput comes from neighbours of one key and of nearly one length, but any order is right.
//!
//! | module | what |
//! |---|---|
//! | `engine` | which implementations this processor can run: [`Engine`] |
//! | `dispatch` | [`seal_burst`], [`open_burst`]: from jobs to the kernel of their key |
//! | `key` | [`GcmKey`], the expanded key of one engine; [`Lodging`], where its owner may have room for it |
//! | `job` | [`SealJob`], [`OpenJob`], [`Aad`]: one packet's work and its bounds |
//! | `counter` | from J0 to counter blocks, for the vector engines |
//! | `expanded` | AES key schedule and powers of H for the vector engines |
//! | `text` | the ends of texts and tags, where there are no masks |
//! | `avx512`, `vaes256`, `aesni`, `portable` | the engines |
//!
//! What it never does: allocate in a burst, branch or index on key or payload bytes, hand on plaintext that
//! did not verify (it is overwritten with zeros), or see a nonce twice under a key: that one is the
//! caller's duty, because only the caller owns the counter.

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the AES-NI kernel: loads and stores at a job's pointers")]
#[expect(clippy::needless_range_loop, reason = "blocks of a group are numbered in several arrays")]
mod aesni;
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the AVX-512 kernel: loads and stores at a job's pointers")]
#[expect(clippy::needless_range_loop, reason = "vectors of a group are numbered in several arrays")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod counter;
#[expect(unsafe_code, reason = "calls kernels that need what the processor was asked for")]
mod dispatch;
mod engine;
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "prefetches the lines of a key")]
mod expanded;
#[expect(unsafe_code, reason = "jobs carry in-place and out-of-place buffers as one pointer pair")]
mod job;
mod key;
mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "loads and stores at a job's pointers, at the ends of texts and tags"
)]
mod text;
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the VAES kernel: loads and stores at a job's pointers")]
#[expect(clippy::needless_range_loop, reason = "vectors of a group are numbered in several arrays")]
mod vaes256;

pub use dispatch::{Keys, open_burst, seal_burst};
pub use engine::Engine;
pub use job::{Aad, JobError, MAX_LEN, OpenJob, SealJob, Unauthentic};
pub use key::{GcmKey, Key, KeyLength, KeyStart, Lodged, Lodging, UnsupportedKeyLength};

/// Bytes of a GCM nonce: the 4-byte salt of the SA and the 8-byte explicit IV (RFC 4106 §4).
pub const NONCE_LEN: usize = 12;

/// The longest tag, in bytes.
pub const TAG_LEN: usize = 16;

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
