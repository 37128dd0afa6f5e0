//! Does time depend on secrets? A statistical test in the manner of dudect (Reparaz, Balasch, Verbauwhede 2017).
//!
//! ```text
//! cargo bench -p ipsec --bench aead_timing
//! ```
//!
//! For every engine, two classes of inputs are drawn at random, measured in turn, cropped at quantiles and compared by
//! Welch's t. |t| above 10 on a quiet machine is evidence of a leak; below 5 there is none in that many measurements.
//! Not for CI: it needs a core of its own, and a large |t| once is a reason to run it again.

#![expect(clippy::print_stdout, reason = "the report is the program's output")]
#![expect(clippy::expect_used, reason = "a test that cannot run stops")]

use std::hint::black_box;
use std::time::Instant;

use ipsec::aead::{Aad, Engine, GcmKey, OpenJob, SealJob, open_burst, seal_burst};

const MEASUREMENTS: usize = 60_000;
const PACKETS: usize = 8;

/// Random numbers for inputs (splitmix64): no secrets of anyone.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Welch's t of two samples.
fn welch(samples: &[Vec<f64>; 2]) -> f64 {
    let moments = samples.each_ref().map(|s| {
        let n = s.len() as f64;
        let mean = s.iter().sum::<f64>() / n;
        let variance = s.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0);
        (mean, variance / n)
    });
    let [(m0, v0), (m1, v1)] = moments;
    (m0 - m1) / (v0 + v1).sqrt()
}

/// The largest |t| over the whole sample and its lower parts, where other load on the machine does not show.
fn compare(mut measure: impl FnMut(usize, &mut Dice) -> f64) -> f64 {
    let mut dice = Dice(0x0123_4567_89ab_cdef);
    let mut samples: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for i in 0..MEASUREMENTS {
        let class = (dice.next() & 1) as usize;
        let time = measure(class, &mut dice);
        if i >= MEASUREMENTS / 10 {
            samples[class].push(time);
        }
    }
    let mut all: Vec<f64> = samples.iter().flatten().copied().collect();
    all.sort_by(f64::total_cmp);
    [0.5, 0.75, 0.9]
        .map(|q| {
            let limit = all[(all.len() as f64 * q) as usize];
            let kept =
                samples.each_ref().map(|s| s.iter().copied().filter(|x| *x <= limit).collect());
            welch(&kept).abs()
        })
        .into_iter()
        .fold(0.0, f64::max)
}

/// Sealing a fixed text under a fixed key against random ones.
fn seal_fixed_or_random(engine: Engine, len: usize) -> f64 {
    let mut texts = vec![vec![0; len]; PACKETS];
    let mut tags = [[0; 16]; PACKETS];
    compare(|class, dice| {
        // Both classes draw, and both write every byte, so that only the values differ.
        for text in &mut texts {
            dice.fill(text);
            let keep = if class == 0 { 0 } else { 0xff };
            text.iter_mut().for_each(|b| *b &= black_box(keep));
        }
        // The key is made anew each time, so that both classes find it at the same address.
        let mut raw = [0; 16];
        dice.fill(&mut raw);
        let keep = if class == 0 { 0 } else { 0xff };
        raw.iter_mut().for_each(|b| *b &= black_box(keep));
        let key = &GcmKey::with_engine(engine, &raw).expect("a key");
        let mut jobs: Vec<_> = texts
            .iter_mut()
            .zip(&mut tags)
            .map(|(t, tag)| {
                SealJob::in_place(key, [1; 12], Aad::from([2; 8]), t, tag).expect("a job")
            })
            .collect();
        let start = Instant::now();
        seal_burst(black_box(&mut jobs));
        start.elapsed().as_nanos() as f64
    })
}

/// Opening packets whose tags are wrong in the first or in the last byte.
fn open_wrong_first_or_last(engine: Engine, len: usize) -> f64 {
    let key = GcmKey::with_engine(engine, &[3; 16]).expect("a key");
    let mut sealed = vec![5; len];
    let mut good = [0; 16];
    seal_burst(&mut [
        SealJob::in_place(&key, [1; 12], Aad::from([2; 8]), &mut sealed, &mut good).expect("a job")
    ]);
    let mut texts = vec![sealed.clone(); PACKETS];
    compare(|class, dice| {
        let flip = (dice.next() | 1) as u8;
        let mut tag = good;
        tag[if class == 0 { 0 } else { 15 }] ^= black_box(flip);
        for text in &mut texts {
            text.copy_from_slice(&sealed);
        }
        let mut jobs: Vec<_> = texts
            .iter_mut()
            .map(|t| OpenJob::in_place(&key, [1; 12], Aad::from([2; 8]), t, &tag).expect("a job"))
            .collect();
        let start = Instant::now();
        open_burst(black_box(&mut jobs));
        let time = start.elapsed().as_nanos() as f64;
        assert!(jobs.iter().all(|job| job.verdict().is_err()));
        time
    })
}

fn main() {
    println!("largest |t| of {MEASUREMENTS} bursts of {PACKETS} packets; above 10: look closer");
    for engine in Engine::available() {
        for len in [64, 68, 516, 1424] {
            let seal = seal_fixed_or_random(engine, len);
            let open = open_wrong_first_or_last(engine, len);
            println!(
                "{:10} {len:5} bytes   seal, fixed or random: {seal:6.2}   open, wrong first or last: {open:6.2}",
                engine.name()
            );
        }
    }
}
