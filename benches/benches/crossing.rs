//! What a cache line costs that one core wrote and another reads, and the writing of it afterwards: both of them happen to each line of
//! a packet that is handed over.
//!
//! ```text
//! cargo bench -p benches --bench crossing
//! ```
//!
//! Two threads, a core each, in turns: one writes 64 lines, the other asks for all of them and reads them.
#![expect(clippy::print_stdout, reason = "a program that prints a table")]

use core::hint::{black_box, spin_loop};
use core::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use ipsec::prefetch::prefetch;

#[repr(align(64))]
#[derive(Default)]
struct Line(AtomicU64);

/// As many as the first two lines of a burst of packets.
const LINES: usize = 64;
const ROUNDS: u64 = 20_000;
const SAMPLES: usize = 5;

fn main() {
    println!("ns a line, median of {SAMPLES}, least .. greatest");
    let samples: Vec<(f64, f64)> = (0..SAMPLES).map(|_| sample()).collect();
    print("written again", samples.iter().map(|(written, _)| *written).collect());
    print("read", samples.iter().map(|(_, read)| *read).collect());
}

fn print(what: &str, mut samples: Vec<f64>) {
    samples.sort_by(f64::total_cmp);
    let (least, greatest) = (samples[0], samples[SAMPLES - 1]);
    println!("{what:14} {:5.1}   {least:.1} .. {greatest:.1}", samples[SAMPLES / 2]);
}

/// Nanoseconds a line that was written, and that was read.
fn sample() -> (f64, f64) {
    let lines: Vec<Line> = (0..LINES).map(|_| Line::default()).collect();
    // Odd: the reader's turn.
    let turn = Line::default();
    let wait_for = |number| {
        while turn.0.load(Ordering::Acquire) != number {
            spin_loop();
        }
    };
    let mut times = (Duration::ZERO, Duration::ZERO);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            benches::pin(1);
            let mut time = Duration::ZERO;
            for round in 0..ROUNDS {
                wait_for(2 * round + 1);
                let begun = Instant::now();
                lines.iter().for_each(prefetch);
                black_box(lines.iter().map(|line| line.0.load(Ordering::Relaxed)).sum::<u64>());
                time += begun.elapsed();
                turn.0.store(2 * round + 2, Ordering::Release);
            }
            time
        });
        let writer = scope.spawn(|| {
            benches::pin(0);
            let mut time = Duration::ZERO;
            for round in 0..ROUNDS {
                let begun = Instant::now();
                for line in &lines {
                    line.0.store(round, Ordering::Relaxed);
                }
                // Until the writes are done.
                fence(Ordering::SeqCst);
                time += begun.elapsed();
                turn.0.store(2 * round + 1, Ordering::Release);
                wait_for(2 * round + 2);
            }
            time
        });
        // A thread that panicked has said so, and its time is missing.
        times = (writer.join().unwrap_or_default(), reader.join().unwrap_or_default());
    });
    let a_line = |time: Duration| time.as_nanos() as f64 / (ROUNDS as f64 * LINES as f64);
    (a_line(times.0), a_line(times.1))
}
