//! What a cache line costs that one core wrote and another reads, and the writing of it afterwards: both of them happen to each line of
//! a packet that is handed over.
//!
//! ```text
//! cargo bench -p benches --bench crossing
//! ```
//!
//! Two threads, a core each, in turns: one writes 64 lines, the other asks for all of them and reads them. And then what handing over is
//! with nothing else to do: each copies bursts of short packets into frames, half of them onto the way to the other, and what comes from
//! there into their frames, by the ways and the frames that workers use; and the same by turns on one core, where no line has far to go.
#![expect(clippy::print_stdout, reason = "a program that prints a table")]

use core::hint::{black_box, spin_loop};
use core::sync::atomic::{AtomicU64, Ordering, fence};
use std::io;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use af_xdp::{ChunkSize, Frame, FramePool, PacketReceiver, PacketSender, UmemConfig, crossing};
use ipsec::prefetch::prefetch;

#[repr(align(64))]
#[derive(Default)]
struct Line(AtomicU64);

/// As many as the first two lines of a burst of packets.
const LINES: usize = 64;
const ROUNDS: u64 = 20_000;
const SAMPLES: usize = 5;

fn main() -> io::Result<()> {
    println!("ns a line, median of {SAMPLES}, least .. greatest");
    let samples: Vec<(f64, f64)> = (0..SAMPLES).map(|_| sample()).collect();
    print("written again", samples.iter().map(|(written, _)| *written).collect());
    print("read", samples.iter().map(|(_, read)| *read).collect());
    println!("\nns a packet that a core receives, of {PACKET} octets");
    for (what, handed) in [("none handed over", 0), ("half of them", BURST / 2)] {
        for (on, one_core) in [("", false), (", one core", true)] {
            let samples: io::Result<Vec<f64>> =
                (0..SAMPLES).map(|_| exchange(handed, one_core)).collect();
            print(&format!("{what}{on}"), samples?);
        }
    }
    Ok(())
}

fn print(what: &str, mut samples: Vec<f64>) {
    samples.sort_by(f64::total_cmp);
    let (least, greatest) = (samples[0], samples[SAMPLES - 1]);
    println!("{what:26} {:5.1}   {least:.1} .. {greatest:.1}", samples[SAMPLES / 2]);
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

const BURST: usize = 32;
/// What is before an IP packet and stays behind,
const LINK: usize = 14;
/// and a frame with an inner packet of 64 octets.
const PACKET: usize = LINK + 64;
const PACKETS: usize = 8192;
const TURNS: u32 = 40_000;

/// One of two cores.
struct Core {
    leaving: PacketSender,
    arriving: PacketReceiver,
    pool: FramePool,
    source: Vec<[u8; PACKET]>,
    frames: Vec<Frame>,
}

impl Core {
    /// Receives a burst, hands over so many of it and takes what the other has handed over in their place; then all of it is gone.
    fn turn(&mut self, number: usize, handed: usize) {
        let arriving = self.arriving.len().min(BURST as u32);
        for n in 0..BURST {
            let Some(mut frame) = self.pool.alloc_for(PACKET) else { break };
            let _ = frame.copy_from(&self.source[(number * BURST + n) % PACKETS]);
            self.frames.push(frame);
        }
        let leaving = self.frames.iter().take(handed);
        // Without room they are lost.
        let _ = self.leaving.push_all(LINK, leaving.map(|frame| ([0; 2], frame)));
        let places = self.frames.iter_mut().take(handed);
        for (packet, frame) in self.arriving.packets(0).take(BURST).zip(places) {
            let _ = packet.fill(frame, LINK);
        }
        self.arriving.give_back(arriving);
        self.leaving.publish();
        for frame in self.frames.drain(..) {
            let _ = self.pool.free(frame);
        }
    }
}

/// Nanoseconds a packet that a core receives, where each hands over so many of a burst.
fn exchange(handed: usize, one_core: bool) -> io::Result<f64> {
    let ((here, from_here), (there, from_there)) =
        (crossing(8192, 1 << 20), crossing(8192, 1 << 20));
    let config =
        UmemConfig { chunks: 4096, chunk_size: ChunkSize::Bytes2048, jumbo: 0, huge_pages: true };
    let ends = [(here, from_there), (there, from_here)];
    let cores = ends.into_iter().map(|(leaving, arriving)| {
        let source = vec![[0; PACKET]; PACKETS];
        Ok(Core { leaving, arriving, pool: FramePool::new(&config)?, source, frames: Vec::new() })
    });
    let mut cores = cores.collect::<io::Result<Vec<_>>>()?;
    let packets = f64::from(TURNS) * BURST as f64;
    if one_core {
        benches::pin(0);
        let begun = Instant::now();
        for turn in 0..TURNS {
            cores.iter_mut().for_each(|core| core.turn(turn as usize, handed));
        }
        return Ok(begun.elapsed().as_nanos() as f64 / (packets * cores.len() as f64));
    }
    let barrier = Barrier::new(cores.len());
    let times = std::thread::scope(|scope| {
        let threads = cores.into_iter().enumerate().map(|(index, mut core)| {
            let barrier = &barrier;
            scope.spawn(move || {
                benches::pin(index);
                barrier.wait();
                let begun = Instant::now();
                for turn in 0..TURNS {
                    core.turn(turn as usize, handed);
                }
                black_box(&core.frames);
                begun.elapsed()
            })
        });
        let threads: Vec<_> = threads.collect();
        // A thread that panicked has said so, and its time is missing.
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).max()
    });
    Ok(times.unwrap_or_default().as_nanos() as f64 / packets)
}
