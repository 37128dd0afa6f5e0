//! From a burst to the kernels.
//!
//! A kernel may run only where the processor has its instructions. The evidence travels in the types: an
//! [`Engine`](super::Engine) exists only where they were detected, a key of an engine is made only with it, a
//! job carries the class of its key, and here, nowhere else, a job's class chooses the kernel.

#[cfg(target_arch = "x86_64")]
use super::aesni;
#[cfg(target_arch = "x86_64")]
use super::avx512;
#[cfg(target_arch = "x86_64")]
use super::engine::Engine;
use super::engine::Kind;
#[cfg(target_arch = "x86_64")]
use super::expanded::ExpandedKey;
use super::job::{Job, OpenJob, SealJob};
use super::key::{Class, KeyLength};
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::vaes256;

/// Where keys are: what is read of one may take longer than to make it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// In a near cache, or asked for as a whole.
    Near,
    /// Of one that a packet is alone with in its burst only a line is at hand ([`KeyStart`](super::KeyStart)), if the packet has at most 128 bytes of
    /// text, the engine is that of AVX-512 and the key not of 192 bits.
    Far,
    /// Likewise, and however long the packet is; and with VAES on 256-bit registers too.
    Farther,
}

impl Keys {
    /// Of a packet that is `alone` with its key in a burst, or not.
    #[inline(always)]
    pub(crate) fn of_one(self, alone: bool) -> Self {
        if alone { self } else { Self::Near }
    }
}

/// Encrypts and authenticates every job of the burst.
///
/// A job is for one burst: a second one would encrypt its output under the same nonce.
pub fn seal_burst(burst: &mut [SealJob<'_>]) {
    run_by_class(SealJob::as_jobs_mut(burst), |class, jobs| match (class.kind, class.length) {
        (Kind::Portable, _) => jobs.iter_mut().for_each(portable::seal),
        // SAFETY: keys of the class Avx512 exist only where its instructions do, all jobs are of the class, whose
        // rounds these are, with tags of one length, and they are seal jobs; so in each arm.
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, KeyLength::Aes128) => unsafe { avx512::run::<true, 10>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise.
        (Kind::Avx512, KeyLength::Aes192) => unsafe { avx512::one_by_one::<true, 12>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise.
        (Kind::Avx512, KeyLength::Aes256) => unsafe { avx512::run::<true, 14>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise, of a class whose keys are one line.
        (Kind::Avx512Start, KeyLength::Aes128) => unsafe { avx512::run_far::<true, 10>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise; of this class there are keys of 128 and 256 bits alone.
        (Kind::Avx512Start, _) => unsafe { avx512::run_far::<true, 14>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise, with the instructions that the class Vaes256 stands for.
        (Kind::Vaes256Start, KeyLength::Aes128) => unsafe { vaes256::run_far::<true, 10>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise; of this class there are keys of 128 and 256 bits alone.
        (Kind::Vaes256Start, _) => unsafe { vaes256::run_far::<true, 14>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise, with the instructions that the class Aesni stands for.
        (Kind::Aesni, KeyLength::Aes128) => unsafe { aesni::run::<true, 10>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise, of the class Vaes256, which adds VAES and VPCLMULQDQ.
        (Kind::Vaes256, KeyLength::Aes128) => unsafe { vaes256::run::<true, 10>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise, with the instructions that the class Aesni stands for.
        (Kind::Aesni, KeyLength::Aes192) => unsafe { aesni::run::<true, 12>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise, of the class Vaes256, which adds VAES and VPCLMULQDQ.
        (Kind::Vaes256, KeyLength::Aes192) => unsafe { vaes256::run::<true, 12>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise, with the instructions that the class Aesni stands for.
        (Kind::Aesni, KeyLength::Aes256) => unsafe { aesni::run::<true, 14>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise, of the class Vaes256, which adds VAES and VPCLMULQDQ.
        (Kind::Vaes256, KeyLength::Aes256) => unsafe { vaes256::run::<true, 14>(jobs) },
    });
}

/// Verifies and decrypts every job of the burst; [`OpenJob::verdict`] then tells which were authentic.
///
/// The output of a job that is not authentic is all zeros. A job is for one burst.
pub fn open_burst(burst: &mut [OpenJob<'_>]) {
    run_by_class(OpenJob::as_jobs_mut(burst), |class, jobs| match (class.kind, class.length) {
        (Kind::Portable, _) => jobs.iter_mut().for_each(portable::open),
        // SAFETY: keys of the class Avx512 exist only where its instructions do, and all jobs are of the class,
        // whose rounds these are, with tags of one length; so in each arm.
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, KeyLength::Aes128) => unsafe { avx512::run::<false, 10>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise.
        (Kind::Avx512, KeyLength::Aes192) => unsafe { avx512::one_by_one::<false, 12>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise.
        (Kind::Avx512, KeyLength::Aes256) => unsafe { avx512::run::<false, 14>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise, of a class whose keys are one line.
        (Kind::Avx512Start, KeyLength::Aes128) => unsafe { avx512::run_far::<false, 10>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise; of this class there are keys of 128 and 256 bits alone.
        (Kind::Avx512Start, _) => unsafe { avx512::run_far::<false, 14>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise, with the instructions that the class Vaes256 stands for.
        (Kind::Vaes256Start, KeyLength::Aes128) => unsafe { vaes256::run_far::<false, 10>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise; of this class there are keys of 128 and 256 bits alone.
        (Kind::Vaes256Start, _) => unsafe { vaes256::run_far::<false, 14>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise, with the instructions that the class Aesni stands for.
        (Kind::Aesni, KeyLength::Aes128) => unsafe { aesni::run::<false, 10>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise, of the class Vaes256, which adds VAES and VPCLMULQDQ.
        (Kind::Vaes256, KeyLength::Aes128) => unsafe { vaes256::run::<false, 10>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise, with the instructions that the class Aesni stands for.
        (Kind::Aesni, KeyLength::Aes192) => unsafe { aesni::run::<false, 12>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise, of the class Vaes256, which adds VAES and VPCLMULQDQ.
        (Kind::Vaes256, KeyLength::Aes192) => unsafe { vaes256::run::<false, 12>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise, with the instructions that the class Aesni stands for.
        (Kind::Aesni, KeyLength::Aes256) => unsafe { aesni::run::<false, 14>(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise, of the class Vaes256, which adds VAES and VPCLMULQDQ.
        (Kind::Vaes256, KeyLength::Aes256) => unsafe { vaes256::run::<false, 14>(jobs) },
    });
}

/// Splits a burst where the class changes: engine, key length or tag length. Hands on what is of one class.
#[inline]
fn run_by_class<'a>(jobs: &mut [Job<'a>], mut run: impl FnMut(Class, &mut [Job<'a>])) {
    for jobs in jobs.chunk_by_mut(|a, b| a.class() == b.class()) {
        if let Some(class) = jobs.first().map(Job::class) {
            run(class.key, jobs);
        }
    }
}

/// Expands `key`, of the length that `length` says, for a vector engine; `None` for the portable one.
#[cfg(target_arch = "x86_64")]
pub(super) fn expand(engine: Engine, key: &[u8], length: KeyLength) -> Option<Box<ExpandedKey>> {
    match engine.kind() {
        Kind::Avx512 | Kind::Vaes256 | Kind::Aesni => {
            // SAFETY: an `Engine` of these kinds exists only where AES, PCLMULQDQ and SSE4.1 were detected, too.
            Some(unsafe { ExpandedKey::new(key, length) })
        }
        Kind::Avx512Start | Kind::Vaes256Start | Kind::Portable => None,
    }
}
