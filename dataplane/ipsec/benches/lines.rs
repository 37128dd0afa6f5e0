//! What memory itself costs: a million items in random order, 32 at a time, some lines of each asked for and then read; and what becomes of
//! prefetches when there are many.
//!
//! ```text
//! cargo bench -p ipsec --bench lines
//! ```
//!
//! It is what a worker with a million SAs could not be below, were there nothing else to do. How far apart the items lie matters as much as how
//! many lines are read: the more pages, the longer each translation of an address takes; and items a multiple of 512 bytes apart take twice as
//! long on some machines, so no table should have them.
#![expect(clippy::print_stdout, reason = "a program that prints a table")]

use core::hint::black_box;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use ipsec::large_pages;
use ipsec::prefetch::{bring, prefetch, read};

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u64; 8]);

const ITEMS: usize = 1 << 20;
const BURST: usize = 32;
const SAMPLES: usize = 5;

/// Lines of an outbound SA without its key, and those that a packet needs of it.
const SA: usize = 6;
const NEEDED: usize = 3;
/// Lines of an inbound one, and those that a packet needs of it.
const INBOUND_SA: usize = 10;
const NEEDED_INBOUND: [usize; 5] = [0, 1, 3, 6, 7];

/// Packets of a pass, and bytes of each: an inner packet of 1420 bytes and what ESP adds to it.
const PASS: usize = 8192;
const PACKET: usize = 1424;

fn main() {
    let random = std::hash::RandomState::new();
    let order: Vec<usize> = (0..ITEMS).map(|n| random.hash_one(n) as usize % ITEMS).collect();
    println!(
        "lines read, of items so far apart   ns an item, median of {SAMPLES}   least .. greatest"
    );
    apart::<3>(&order);
    apart::<SA>(&order);
    apart::<16>(&order);
    apart::<17>(&order);
    apart::<48>(&order);
    apart::<49>(&order);

    let mut flows: Vec<[Line; 2]> = large_pages::with_capacity(2 * ITEMS);
    flows.extend((0..2 * ITEMS).map(|n| [Line([(n * 7919 % ITEMS) as u64; 8]); 2]));
    let mut items = items::<SA>();
    let samples = (0..SAMPLES).map(|_| outbound(&flows, &mut items, &order)).collect();
    print("a flow's bucket, and then its SA", samples);

    println!("\nadded to packets of {PACKET} bytes that pass through the caches, {PASS} at a time");
    let mut wire = Wire::new();
    let alone: Vec<f64> = (0..SAMPLES).map(|_| wire.carry(&order, |_| ())).collect();
    let mut added = |what: &str, look_up: &mut dyn FnMut(&[usize])| {
        let with = alone.iter().map(|alone| wire.carry(&order, &mut *look_up) - alone);
        print(what, with.collect());
    };
    let mut look_up = |burst: &[usize]| {
        black_box(outbound(&flows, &mut items, burst));
    };
    added("a flow's bucket, and then its SA", &mut look_up);
    let mut items = self::items::<INBOUND_SA>();
    added("an inbound SA", &mut |burst| inbound(&mut items, burst));
    print("the packets themselves", alone);

    println!(
        "\n{} lines of an inbound SA, asked for and, a microsecond later, read one after the other",
        NEEDED_INBOUND.len()
    );
    for burst in [2, 4, 8, 16, BURST] {
        let unasked = (0..SAMPLES).map(|_| later(&items, &order, burst, |_| ()));
        print(&format!("not asked for, {burst} SAs at a time"), unasked.collect());
        let prefetched = (0..SAMPLES).map(|_| later(&items, &order, burst, prefetch));
        print(&format!("prefetched, {burst} SAs at a time"), prefetched.collect());
        let read = (0..SAMPLES).map(|_| later(&items, &order, burst, read));
        print(&format!("a word read, {burst} SAs at a time"), read.collect());
    }
}

/// Asks for some SAs, lets a microsecond go by and reads them, each address being known only when the line before has come. Nanoseconds an SA without
/// that microsecond: what is not there by then was forgotten.
fn later(items: &[[Line; INBOUND_SA]], order: &[usize], burst: usize, ask: impl Fn(&Line)) -> f64 {
    const MEANWHILE: Duration = Duration::from_micros(1);
    let (mut time, mut last) = (Duration::ZERO, 0);
    for burst in order.chunks(burst) {
        let begun = Instant::now();
        for &at in burst {
            NEEDED_INBOUND.iter().for_each(|line| ask(&items[at][*line]));
        }
        let asked = Instant::now();
        while asked.elapsed() < MEANWHILE {}
        let met = Instant::now();
        for &at in burst {
            for line in NEEDED_INBOUND {
                // What is read is 1.
                last = black_box(items[at + last / 2][line].0[0] as usize);
            }
        }
        time += met.elapsed() + (asked - begun);
    }
    time.as_nanos() as f64 / order.len() as f64
}

/// Packets in memory, and the frames that they are copied to, a burst at a time.
struct Wire {
    packets: Vec<[Line; 32]>,
    frames: Vec<[Line; 32]>,
}

impl Wire {
    fn new() -> Self {
        let mut packets = large_pages::with_capacity(PASS);
        packets.resize(PASS, [Line([1; 8]); 32]);
        Self { packets, frames: vec![[Line([0; 8]); 32]; BURST] }
    }

    /// Copies as many packets as `order` has items, and looks up those of each burst; nanoseconds a packet. They are written anew for
    /// each pass, outside the timing.
    fn carry(&mut self, order: &[usize], mut look_up: impl FnMut(&[usize])) -> f64 {
        const LINES: usize = PACKET.div_ceil(64);
        let mut time = 0;
        for (n, pass) in order.chunks_exact(PASS).enumerate() {
            self.packets.iter_mut().for_each(|packet| packet[..LINES].fill(Line([n as u64; 8])));
            let begun = Instant::now();
            for (packets, burst) in self.packets.chunks(BURST).zip(pass.chunks(BURST)) {
                for (frame, packet) in self.frames.iter_mut().zip(packets) {
                    frame[4..][..LINES].copy_from_slice(&packet[..LINES]);
                }
                black_box(&mut self.frames);
                look_up(burst);
            }
            time += begun.elapsed().as_nanos();
        }
        time as f64 / (order.len() / PASS * PASS) as f64
    }
}

fn items<const LINES: usize>() -> Vec<[Line; LINES]> {
    let mut items = large_pages::with_capacity(ITEMS);
    items.resize(ITEMS, [Line([1; 8]); LINES]);
    items
}

/// Some lines of items of `LINES` lines.
fn apart<const LINES: usize>(order: &[usize]) {
    let items = items::<LINES>();
    for lines in [1, NEEDED, SA] {
        if lines <= LINES {
            let what = format!("{lines} of {LINES}, {} bytes", 64 * LINES);
            print(&what, (0..SAMPLES).map(|_| pass(&items, order, lines)).collect());
        }
    }
}

fn print(what: &str, mut samples: Vec<f64>) {
    samples.sort_by(f64::total_cmp);
    let (least, greatest) = (samples[0], samples[SAMPLES - 1]);
    println!("{what:>33}   {:27.1}   {least:.1} .. {greatest:.1}", samples[SAMPLES / 2]);
}

/// What a packet on the way into a tunnel meets, in its order: a bucket of flows, which says where the SA is, and lines of the SA, of which one is
/// written. Nanoseconds a packet.
fn outbound(flows: &[[Line; 2]], items: &mut [[Line; SA]], order: &[usize]) -> f64 {
    let begun = Instant::now();
    let mut sum = 0u64;
    for burst in order.chunks(BURST) {
        for &at in burst {
            bring(&flows[2 * at]);
        }
        for &at in burst {
            let slot = flows[2 * at][0].0[0] as usize;
            items[slot][..NEEDED].iter().for_each(bring);
        }
        for &at in burst {
            let item = &mut items[flows[2 * at][0].0[0] as usize];
            sum += item[..NEEDED].iter().map(|line| black_box(line.0[0])).sum::<u64>();
            item[NEEDED - 1].0[1] += 1;
        }
    }
    black_box(sum);
    begun.elapsed().as_nanos() as f64 / order.len() as f64
}

/// What a packet out of a tunnel meets of its SA: five lines, of which three are written.
fn inbound(items: &mut [[Line; INBOUND_SA]], burst: &[usize]) {
    for &at in burst {
        NEEDED_INBOUND.iter().for_each(|line| bring(&items[at][*line]));
    }
    let mut sum = 0u64;
    for &at in burst {
        let item = &mut items[at];
        sum += [0, 1].iter().map(|line| black_box(item[*line].0[0])).sum::<u64>();
        [3, 6, 7].iter().for_each(|line| item[*line].0[1] += 1);
    }
    black_box(sum);
}

/// Nanoseconds an item.
fn pass<const LINES: usize>(items: &[[Line; LINES]], order: &[usize], lines: usize) -> f64 {
    let begun = Instant::now();
    let mut sum = 0u64;
    for burst in order.chunks(BURST) {
        for &at in burst {
            items[at][..lines].iter().for_each(bring);
        }
        for &at in burst {
            sum += items[at][..lines].iter().map(|line| black_box(line.0[0])).sum::<u64>();
        }
    }
    black_box(sum);
    begun.elapsed().as_nanos() as f64 / order.len() as f64
}
