//! How long a lookup in the SPD takes by how many policies, for rule sets with names; and a worker's turn while SAs come, are replaced
//! and go.
//!
//! ```text
//! cargo bench -p benches --bench lookups                 the tables of docs/lookups.md
//! cargo bench -p benches --bench lookups -- --quick      a tenth of it
//! cargo bench -p benches --bench lookups -- --million    SAs up to a million as well: 6 GB of memory
//! cargo bench -p benches --bench lookups -- --churn --worst 60000    turns that took longer, one by one
//! ```
#![expect(clippy::print_stdout, reason = "a table is what it is for")]

mod churn;

use core::hint::black_box;
use core::net::{IpAddr, Ipv4Addr};
use ipsec::flow::FlowKey;
use ipsec::selector::{Action, AddressRange, Policy, PolicyId, Ports, Selector};
use ipsec::spd::Spd;
use std::time::Instant;

/// Packets whose time is taken together.
const BLOCK: usize = 1000;

/// Small numbers that look random, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    fn below(&mut self, limit: u32) -> u32 {
        (((u64::from(self.next()) << 1) * u64::from(limit)) >> 32) as u32
    }
}

/// A rule set: what its policies are, and packets that match one of them or none.
struct Set {
    name: &'static str,
    selector: fn(n: u32, count: u32, numbers: &mut Numbers) -> Selector,
    hit: fn(selector: &Selector, numbers: &mut Numbers) -> FlowKey,
    miss: fn(numbers: &mut Numbers) -> FlowKey,
}

fn v4(bits: u32) -> IpAddr {
    Ipv4Addr::from_bits(bits).into()
}

fn prefix(bits: u32, len: u32) -> AddressRange {
    AddressRange::prefix(v4(bits), len as u8).unwrap_or(AddressRange::host(v4(bits)))
}

fn between(local: AddressRange, remote: AddressRange) -> Selector {
    Selector { local, remote, protocol: None, local_ports: Ports::Any, remote_ports: Ports::Any }
}

fn key(local: u32, remote: u32, ports: (u16, u16)) -> FlowKey {
    FlowKey { local: v4(local), remote: v4(remote), protocol: 17, ports: Some(ports) }
}

/// Some packet of a selector.
fn inside(selector: &Selector, numbers: &mut Numbers) -> FlowKey {
    let address = |range: &AddressRange, numbers: &mut Numbers| match (range.first(), range.last())
    {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let span = last.to_bits() - first.to_bits();
            first.to_bits()
                + if span == u32::MAX { numbers.next() } else { numbers.below(span + 1) }
        }
        _ => 0,
    };
    let port = |ports: &Ports, numbers: &mut Numbers| match ports {
        Ports::Range(range) => {
            range.start() + numbers.below(u32::from(range.end() - range.start()) + 1) as u16
        }
        Ports::Any | Ports::Opaque => numbers.next() as u16,
    };
    let (local, remote) = (address(&selector.local, numbers), address(&selector.remote, numbers));
    let ports = (port(&selector.local_ports, numbers), port(&selector.remote_ports, numbers));
    key(local, remote, ports)
}

const SETS: [Set; 4] = [
    // A concentrator: each peer has a network of its own.
    Set {
        name: "disjoint prefixes",
        selector: |n, _, _| between(prefix(0x0a00_0000, 8), prefix(0x1400_0000 + (n << 8), 24)),
        hit: inside,
        miss: |numbers| key(0x0a00_0001, 0xc000_0000 | numbers.next() >> 8, (1, 2)),
    },
    // Networks in networks, both sides of ten lengths: the narrower one comes first.
    Set {
        name: "nested prefixes",
        selector: |n, count, _| {
            let step = 9 - n * 10 / count;
            let bits = n.wrapping_mul(2_654_435_761) >> 8;
            between(
                prefix(0x0a00_0000 | bits, 10 + 2 * step),
                prefix(0x1400_0000 | bits, 12 + 2 * step),
            )
        },
        hit: inside,
        miss: |numbers| {
            key(0x0a00_0000 | numbers.next() >> 8, 0xc000_0000 | numbers.next() >> 8, (1, 2))
        },
    },
    // One pair of networks, and every policy a range of ports that overlaps many others.
    Set {
        name: "overlapping ports",
        selector: |_, _, numbers| {
            let mut range = || {
                let first = numbers.below(60_000) as u16;
                Ports::Range(first..=first + numbers.below(5_000) as u16)
            };
            let (local_ports, remote_ports) = (range(), range());
            let nets = between(prefix(0x0a00_0000, 8), prefix(0x1400_0000, 8));
            Selector { protocol: Some(17), local_ports, remote_ports, ..nets }
        },
        hit: inside,
        miss: |numbers| {
            let protocol = 6;
            FlowKey { protocol, ..key(0x0a00_0001, 0x1400_0001, (numbers.next() as u16, 7)) }
        },
    },
    // Every pair of prefix lengths above one pair of addresses, ports that differ in the last bits, and a packet of those addresses
    // that none of them is about.
    Set {
        name: "adversarial",
        selector: |n, _, numbers| {
            let (near, far) = (n % 33, n / 33 % 33);
            let first = numbers.below(30_000) as u16;
            let nets = between(prefix(0x0a01_0203, near), prefix(0x1401_0203, far));
            let ports = Ports::Range(first..=first + numbers.below(30_000) as u16);
            Selector { protocol: Some(17), local_ports: ports.clone(), remote_ports: ports, ..nets }
        },
        hit: |_, numbers| {
            key(
                0x0a01_0203,
                0x1401_0203,
                (numbers.below(60_000) as u16, numbers.below(60_000) as u16),
            )
        },
        miss: |numbers| key(0x0a01_0203, 0x1401_0203, (65_000 + numbers.below(500) as u16, 7)),
    },
];

fn policies(set: &Set, count: u32) -> Vec<Policy> {
    let mut numbers = Numbers(1);
    (0..count)
        .map(|n| Policy {
            id: PolicyId(n + 1),
            selectors: vec![(set.selector)(n, count, &mut numbers)],
            action: Action::Protect,
        })
        .collect()
}

/// Nanoseconds a lookup: the least and the median of blocks.
fn time(spd: &Spd, keys: &[FlowKey], blocks: usize) -> (f64, f64) {
    let mut samples: Vec<f64> = (0..blocks)
        .map(|block| {
            let start = block * BLOCK % keys.len();
            let begun = Instant::now();
            for key in &keys[start..(start + BLOCK).min(keys.len())] {
                black_box(spd.lookup(black_box(key)));
            }
            begun.elapsed().as_nanos() as f64 / BLOCK as f64
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    (samples[0], samples[samples.len() / 2])
}

fn lookups(quick: bool) {
    println!(
        "| rule set | policies | compiled, ms | hit, ns | no match, ns | probes at most | comparisons at most |"
    );
    println!("|---|---|---|---|---|---|---|");
    for set in &SETS {
        for count in [1, 1_000, 100_000] {
            let policies = policies(set, count);
            let begun = Instant::now();
            let spd = Spd::compile(&policies, 1);
            let compiled = begun.elapsed().as_secs_f64() * 1e3;
            let mut numbers = Numbers(7);
            let packets = 100 * BLOCK;
            let hits: Vec<FlowKey> = (0..packets)
                .map(|_| {
                    let policy = &policies[numbers.below(count) as usize];
                    (set.hit)(&policy.selectors[0], &mut numbers)
                })
                .collect();
            let misses: Vec<FlowKey> = (0..packets).map(|_| (set.miss)(&mut numbers)).collect();
            assert!(
                misses.iter().all(|key| spd.lookup(key).is_none()),
                "{}: a miss that matches",
                set.name
            );
            // The answers are right: opposite a linear scan of the list.
            for key in hits.iter().step_by(packets / 50) {
                let first = policies.iter().find(|p| p.selectors[0].matches(key)).map(|p| p.id);
                assert_eq!(spd.lookup(key).map(|found| found.policy), first, "{}", set.name);
            }
            let blocks = if quick { 100 } else { 1000 };
            let (hit, miss) = (time(&spd, &hits, blocks), time(&spd, &misses, blocks));
            let cost = spd.worst_case();
            println!(
                "| {} | {count} | {compiled:.1} | {:.0} ({:.0}) | {:.0} ({:.0}) | {} | {} |",
                set.name, hit.1, hit.0, miss.1, miss.0, cost.probes, cost.comparisons
            );
        }
    }
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let has = |name: &str| std::env::args().any(|argument| argument == name);
    if !has("--churn") {
        lookups(quick);
        println!();
    }
    if !has("--lookups") {
        let worst = std::env::args().skip_while(|a| a != "--worst").nth(1);
        let worst = worst.and_then(|cycles| cycles.parse().ok());
        churn::run(quick, if has("--million") { 1_000_000 } else { 100_000 }, worst);
    }
}
