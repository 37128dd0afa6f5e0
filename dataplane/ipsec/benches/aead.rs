//! The bare AEAD beside the best libraries, in one run.
//!
//! ```text
//! cargo bench -p ipsec --bench aead                     # everything, some minutes
//! cargo bench -p ipsec --bench aead -- seal/aes128/64   # what begins so
//! cargo bench -p ipsec --bench aead -- seal culvert     # of contenders whose name begins so
//! ```
//!
//! One line per case: nanoseconds per packet, the median of the repetitions and their least and greatest, and the
//! median's ratio to ring's. Contenders take turns within a repetition, so that a disturbance meets all of them.
//! Jobs are built inside the timing, sealing before an open outside it; every open must verify.

#![expect(clippy::print_stdout, reason = "the report is the program's output")]
#![expect(clippy::expect_used, reason = "a benchmark that cannot run stops")]

use std::hint::black_box;
use std::time::Instant;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use arrayvec::ArrayVec;
use ipsec::aead::{Aad, Engine, GcmKey, Key, Keys, OpenJob, SealJob, open_burst, seal_burst};

const TAG: usize = 16;
const BURST_MAX: usize = 256;
const REPETITIONS: usize = 9;

/// One packet buffer: text and tag.
struct Frame {
    bytes: Vec<u8>,
    key: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Seal,
    Open,
}

struct Case {
    direction: Direction,
    key_len: usize,
    text: usize,
    keys: usize,
    burst: usize,
    /// Frames cycled in order.
    pool: usize,
}

impl Case {
    fn name(&self) -> String {
        let direction = if self.direction == Direction::Seal { "seal" } else { "open" };
        let bits = 8 * self.key_len;
        let Self { text, keys, burst, pool, .. } = self;
        format!("{direction}/aes{bits}/{text}/keys{keys}/burst{burst}/pool{pool}")
    }
}

trait Contender {
    fn name(&self) -> String;
    fn seal(&self, frames: &mut [Frame], burst: usize);
    fn open(&self, frames: &mut [Frame], burst: usize);
}

fn nonce(frame: usize) -> [u8; 12] {
    let mut nonce = [7; 12];
    nonce[4..].copy_from_slice(&(frame as u64).to_be_bytes());
    nonce
}

fn aad(frame: usize) -> [u8; 8] {
    (frame as u64).to_be_bytes()
}

struct Ours {
    engine: Engine,
    keys: Vec<GcmKey>,
    kept: Keys,
}

impl Ours {
    #[inline(always)]
    fn key(&self, key: usize, len: usize) -> Key<'_> {
        let key = &self.keys[key];
        if self.kept == Keys::Near { key.into() } else { key.kept(self.kept, len) }
    }
}

impl Contender for Ours {
    fn name(&self) -> String {
        let far = if self.kept == Keys::Near { "" } else { ", far" };
        format!("culvert/{}{far}", self.engine.name())
    }

    #[inline(never)]
    fn seal(&self, frames: &mut [Frame], burst: usize) {
        for (b, frames) in frames.chunks_mut(burst).enumerate() {
            let mut jobs = ArrayVec::<SealJob<'_>, BURST_MAX>::new();
            for (i, frame) in frames.iter_mut().enumerate() {
                let i = b * burst + i;
                let at = frame.bytes.len() - TAG;
                let (data, tag) = frame.bytes.split_at_mut(at);
                let key = self.key(frame.key, data.len());
                if let Ok(job) = SealJob::in_place(key, nonce(i), Aad::from(aad(i)), data, tag) {
                    jobs.push(job);
                }
            }
            seal_burst(&mut jobs);
        }
    }

    #[inline(never)]
    fn open(&self, frames: &mut [Frame], burst: usize) {
        for (b, frames) in frames.chunks_mut(burst).enumerate() {
            let mut jobs = ArrayVec::<OpenJob<'_>, BURST_MAX>::new();
            for (i, frame) in frames.iter_mut().enumerate() {
                let i = b * burst + i;
                let at = frame.bytes.len() - TAG;
                let (data, tag) = frame.bytes.split_at_mut(at);
                let key = self.key(frame.key, data.len());
                if let Ok(job) = OpenJob::in_place(key, nonce(i), Aad::from(aad(i)), data, tag) {
                    jobs.push(job);
                }
            }
            open_burst(&mut jobs);
            assert!(jobs.iter().all(|job| job.verdict().is_ok()));
        }
    }
}

struct Ring(Vec<ring::aead::LessSafeKey>);

impl Contender for Ring {
    fn name(&self) -> String {
        "ring".into()
    }

    #[inline(never)]
    fn seal(&self, frames: &mut [Frame], _: usize) {
        use ring::aead::{Aad, Nonce};
        for (i, frame) in frames.iter_mut().enumerate() {
            let at = frame.bytes.len() - TAG;
            let (data, tag) = frame.bytes.split_at_mut(at);
            let nonce = Nonce::assume_unique_for_key(nonce(i));
            let key = &self.0[frame.key];
            let sealed = key.seal_in_place_separate_tag(nonce, Aad::from(aad(i)), data);
            tag.copy_from_slice(sealed.expect("seals").as_ref());
        }
    }

    #[inline(never)]
    fn open(&self, frames: &mut [Frame], _: usize) {
        use ring::aead::{Aad, Nonce};
        for (i, frame) in frames.iter_mut().enumerate() {
            let nonce = Nonce::assume_unique_for_key(nonce(i));
            let key = &self.0[frame.key];
            let opened = key.open_in_place(nonce, Aad::from(aad(i)), &mut frame.bytes);
            black_box(opened.expect("opens"));
        }
    }
}

struct AwsLc(Vec<aws_lc_rs::aead::LessSafeKey>);

impl Contender for AwsLc {
    fn name(&self) -> String {
        "aws-lc-rs".into()
    }

    #[inline(never)]
    fn seal(&self, frames: &mut [Frame], _: usize) {
        use aws_lc_rs::aead::{Aad, Nonce};
        for (i, frame) in frames.iter_mut().enumerate() {
            let at = frame.bytes.len() - TAG;
            let (data, tag) = frame.bytes.split_at_mut(at);
            let nonce = Nonce::assume_unique_for_key(nonce(i));
            let key = &self.0[frame.key];
            let sealed = key.seal_in_place_separate_tag(nonce, Aad::from(aad(i)), data);
            tag.copy_from_slice(sealed.expect("seals").as_ref());
        }
    }

    #[inline(never)]
    fn open(&self, frames: &mut [Frame], _: usize) {
        use aws_lc_rs::aead::{Aad, Nonce};
        for (i, frame) in frames.iter_mut().enumerate() {
            let nonce = Nonce::assume_unique_for_key(nonce(i));
            let key = &self.0[frame.key];
            let opened = key.open_in_place(nonce, Aad::from(aad(i)), &mut frame.bytes);
            black_box(opened.expect("opens"));
        }
    }
}

struct RustCrypto<A>(Vec<A>);

impl<A: AeadInOut> Contender for RustCrypto<A> {
    fn name(&self) -> String {
        "aes-gcm".into()
    }

    #[inline(never)]
    fn seal(&self, frames: &mut [Frame], _: usize) {
        for (i, frame) in frames.iter_mut().enumerate() {
            let at = frame.bytes.len() - TAG;
            let (data, tag) = frame.bytes.split_at_mut(at);
            let nonce = nonce(i);
            let nonce = nonce[..].try_into().expect("12 bytes");
            let key = &self.0[frame.key];
            let sealed = key.encrypt_inout_detached(nonce, &aad(i), InOutBuf::from(data));
            tag.copy_from_slice(&sealed.expect("seals"));
        }
    }

    #[inline(never)]
    fn open(&self, frames: &mut [Frame], _: usize) {
        for (i, frame) in frames.iter_mut().enumerate() {
            let at = frame.bytes.len() - TAG;
            let (data, tag) = frame.bytes.split_at_mut(at);
            let nonce = nonce(i);
            let nonce = nonce[..].try_into().expect("12 bytes");
            let key = &self.0[frame.key];
            let tag = (&*tag).try_into().expect("16 bytes");
            let opened = key.decrypt_inout_detached(nonce, &aad(i), InOutBuf::from(data), tag);
            opened.expect("opens");
        }
    }
}

fn contenders(case: &Case) -> Vec<Box<dyn Contender>> {
    let raw: Vec<Vec<u8>> = (0..case.keys)
        .map(|k| (0..case.key_len).map(|i| (k * 31 + i * 7) as u8).collect())
        .collect();
    let mut all: Vec<Box<dyn Contender>> = Vec::new();
    for engine in Engine::available() {
        let key = |k: &Vec<u8>| GcmKey::with_engine(engine, k).expect("a key");
        // A key that all packets have is never far.
        let kept: &[Keys] =
            if case.keys == 1 { &[Keys::Near] } else { &[Keys::Near, Keys::Farther] };
        for &kept in kept {
            all.push(Box::new(Ours { engine, keys: raw.iter().map(key).collect(), kept }));
        }
    }
    let ring_alg =
        if case.key_len == 16 { &ring::aead::AES_128_GCM } else { &ring::aead::AES_256_GCM };
    let aws_alg = if case.key_len == 16 {
        &aws_lc_rs::aead::AES_128_GCM
    } else {
        &aws_lc_rs::aead::AES_256_GCM
    };
    let ring = raw.iter().map(|k| ring::aead::UnboundKey::new(ring_alg, k).expect("a key"));
    all.push(Box::new(Ring(ring.map(ring::aead::LessSafeKey::new).collect())));
    let aws = raw.iter().map(|k| aws_lc_rs::aead::UnboundKey::new(aws_alg, k).expect("a key"));
    all.push(Box::new(AwsLc(aws.map(aws_lc_rs::aead::LessSafeKey::new).collect())));
    if case.key_len == 16 {
        let keys = raw.iter().map(|k| Aes128Gcm::new_from_slice(k).expect("a key")).collect();
        all.push(Box::new(RustCrypto(keys)));
    } else {
        let keys = raw.iter().map(|k| Aes256Gcm::new_from_slice(k).expect("a key")).collect();
        all.push(Box::new(RustCrypto(keys)));
    }
    all
}

/// Nanoseconds per packet of one repetition: the tenth percentile of its rounds, each a pass over the pool of
/// some microseconds, so that what else runs on the machine shows little.
fn measure(contender: &dyn Contender, case: &Case, frames: &mut [Frame]) -> f64 {
    let rounds = (4_000_000 / (case.pool * (case.text + 200))).max(20);
    let mut times: Vec<_> = (0..rounds)
        .map(|_| {
            if case.direction == Direction::Open {
                contender.seal(frames, case.burst);
                let start = Instant::now();
                contender.open(black_box(frames), case.burst);
                start.elapsed().as_nanos()
            } else {
                let start = Instant::now();
                contender.seal(black_box(frames), case.burst);
                start.elapsed().as_nanos()
            }
        })
        .collect();
    times.sort_unstable();
    times[rounds / 10] as f64 / case.pool as f64
}

fn run(case: &Case, who: &str) {
    let mut all = contenders(case);
    all.retain(|contender| contender.name().starts_with(who));
    let mut samples = vec![Vec::new(); all.len()];
    for repetition in 0..=REPETITIONS {
        for (contender, samples) in all.iter().zip(&mut samples) {
            let mut frames: Vec<_> = (0..case.pool)
                .map(|i| Frame { bytes: vec![i as u8; case.text + TAG], key: i * 7919 % case.keys })
                .collect();
            let ns = measure(&**contender, case, &mut frames);
            if repetition > 0 {
                samples.push(ns);
            }
        }
    }
    let medians: Vec<_> = samples
        .iter_mut()
        .map(|samples| {
            samples.sort_by(f64::total_cmp);
            samples[samples.len() / 2]
        })
        .collect();
    let ring = all.iter().position(|c| c.name() == "ring").map_or(f64::NAN, |i| medians[i]);
    println!("{}", case.name());
    for ((contender, samples), median) in all.iter().zip(&samples).zip(&medians) {
        println!(
            "    {:20} {:8.2} ns  ({:.2} to {:.2})  {:.3} of ring",
            contender.name(),
            median,
            samples[0],
            samples[samples.len() - 1],
            median / ring
        );
    }
}

fn main() {
    let mut filters = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let (filter, who) = (filters.next().unwrap_or_default(), filters.next().unwrap_or_default());
    for direction in [Direction::Seal, Direction::Open] {
        for key_len in [16, 32] {
            for text in [64, 68, 512, 516, 1420, 1424] {
                let bursts = [1, 4, 8, 16, 32, 64, 256];
                let one_key = bursts.map(|burst| (1, burst, burst.max(64)));
                let pools = [(1, 32, 1024), (1000, 32, 1024)];
                for (keys, burst, pool) in one_key.into_iter().chain(pools) {
                    let case = Case { direction, key_len, text, keys, burst, pool };
                    if case.name().starts_with(&filter) {
                        run(&case, &who);
                    }
                }
            }
        }
    }
}
