//! What memory itself costs: items of 1 KiB among 1 GiB in random order, 32 at a time, some lines of each asked for and then read.
//!
//! ```text
//! cargo bench -p ipsec --bench lines
//! ```
//!
//! It is what a worker with a million SAs could not be below, were there nothing else to do.
#![expect(clippy::print_stdout, reason = "a program that prints a table")]

use core::hint::black_box;
use std::hash::BuildHasher;
use std::time::Instant;

use ipsec::large_pages;
use ipsec::prefetch::prefetch;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u64; 8]);

type Item = [Line; 16];

const ITEMS: usize = 1 << 20;
const BURST: usize = 32;
const SAMPLES: usize = 5;

fn main() {
    let mut items: Vec<Item> = large_pages::with_capacity(ITEMS);
    items.resize(ITEMS, [Line([1; 8]); 16]);
    let random = std::hash::RandomState::new();
    let order: Vec<usize> = (0..ITEMS).map(|n| random.hash_one(n) as usize % ITEMS).collect();
    println!("lines of an item   ns an item, median of {SAMPLES}   least .. greatest");
    for lines in [1, 2, 3, 4, 5, 6, 7, 8, 12, 16] {
        print(lines, (0..SAMPLES).map(|_| pass(&items, &order, lines)).collect());
    }
    let mut flows: Vec<[Line; 2]> = large_pages::with_capacity(ITEMS);
    flows.extend((0..ITEMS).map(|n| [Line([(n * 7919 % ITEMS) as u64; 8]); 2]));
    let mut epochs: Vec<u32> = large_pages::with_capacity(ITEMS);
    epochs.resize(ITEMS, 0);
    let samples = (0..SAMPLES).map(|_| outbound(&flows, &epochs, &mut items, &order)).collect();
    print("outbound", samples);
}

fn print(what: impl core::fmt::Display, mut samples: Vec<f64>) {
    samples.sort_by(f64::total_cmp);
    let (least, greatest) = (samples[0], samples[SAMPLES - 1]);
    println!("{what:>16}   {:27.1}   {least:.1} .. {greatest:.1}", samples[SAMPLES / 2]);
}

/// The same in the order in which a worker meets it on the way into a tunnel: a bucket of flows, which says where the SA is, what tells whether
/// that still holds, and three lines of the SA, of which one is written. Nanoseconds a packet.
fn outbound(flows: &[[Line; 2]], epochs: &[u32], items: &mut [Item], order: &[usize]) -> f64 {
    let begun = Instant::now();
    let mut sum = 0u64;
    for burst in order.chunks(BURST) {
        for &at in burst {
            prefetch(&flows[at]);
        }
        for &at in burst {
            let slot = flows[at][0].0[0] as usize;
            items[slot][..3].iter().for_each(prefetch);
            sum += u64::from(black_box(epochs[slot]));
        }
        for &at in burst {
            let item = &mut items[flows[at][0].0[0] as usize];
            sum += item[..3].iter().map(|line| black_box(line.0[0])).sum::<u64>();
            item[0].0[1] += 1;
        }
    }
    black_box(sum);
    begun.elapsed().as_nanos() as f64 / order.len() as f64
}

/// Nanoseconds an item.
fn pass(items: &[Item], order: &[usize], lines: usize) -> f64 {
    let begun = Instant::now();
    let mut sum = 0u64;
    for burst in order.chunks(BURST) {
        for &at in burst {
            items[at][..lines].iter().for_each(prefetch);
        }
        for &at in burst {
            sum += items[at][..lines].iter().map(|line| black_box(line.0[0])).sum::<u64>();
        }
    }
    black_box(sum);
    begun.elapsed().as_nanos() as f64 / order.len() as f64
}
