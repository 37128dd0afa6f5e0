use super::*;
use crate::umem::UmemConfig;
use crate::wait::PollSet;
use crate::{ChunkSize, Port};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

fn pool(chunks: u32) -> FramePool {
    FramePool::new(&UmemConfig {
        chunks,
        chunk_size: ChunkSize::Bytes2048,
        jumbo: 0,
        huge_pages: false,
    })
    .unwrap()
}

fn one(config: &LinkConfig) -> (MemoryPort, MemoryPort, Wire) {
    let Link { mut a, mut b, wire } = link(config).unwrap();
    (a.remove(0), b.remove(0), wire)
}

/// An IPv4 packet with these addresses and a number behind the header.
fn packet(source: u32, destination: u32, number: u64) -> Vec<u8> {
    let mut p = vec![0; 64];
    p[12] = 8;
    p[14] = 0x45;
    p[26..30].copy_from_slice(&source.to_be_bytes());
    p[30..34].copy_from_slice(&destination.to_be_bytes());
    p[34..42].copy_from_slice(&number.to_be_bytes());
    p
}

fn number(p: &[u8]) -> u64 {
    u64::from_be_bytes(p[34..42].try_into().unwrap())
}

fn queue_up(pool: &mut FramePool, frames: &mut Vec<Frame>, bytes: &[u8]) {
    let mut frame = pool.alloc().unwrap();
    frame.copy_from(bytes).unwrap();
    frames.push(frame);
}

#[test]
fn a_packet_crosses_and_its_frame_comes_home() {
    let (mut a, mut b, wire) = one(&LinkConfig::default());
    let (mut pool_a, mut pool_b) = (pool(8), pool(8));
    let mut frames = Vec::new();
    queue_up(&mut pool_a, &mut frames, b"hello over the wire");
    assert_eq!(a.transmit(&mut pool_a, &mut frames), 1);
    assert_eq!((pool_a.gauges().transmit, pool_a.gauges().free), (1, 7));

    let mut got = Vec::new();
    assert_eq!(b.receive(&mut pool_b, &mut got, 32), 1);
    assert_eq!(got[0].data(), b"hello over the wire");
    assert_eq!(got[0].home(), pool_b.id());
    assert!(got[0].headroom() >= 128);

    a.complete(&mut pool_a);
    assert_eq!((pool_a.gauges().transmit, pool_a.gauges().free), (0, 8));
    assert_eq!(wire.counts(Direction::AToB).taken, 1);
    assert_eq!(wire.counts(Direction::BToA), FaultCounts::default());
}

#[test]
fn a_full_wire_takes_no_more_and_loses_nothing() {
    let (mut a, mut b, _) = one(&LinkConfig { ring: 4, ..LinkConfig::default() });
    let (mut pool_a, mut pool_b) = (pool(16), pool(16));
    let mut frames = Vec::new();
    for n in 0..10 {
        queue_up(&mut pool_a, &mut frames, &packet(1, 2, n));
    }
    let mut got = Vec::new();
    for taken in [4, 0] {
        assert_eq!(a.transmit(&mut pool_a, &mut frames), taken);
    }
    assert_eq!(number(frames[0].data()), 4);
    while got.len() < 10 {
        b.receive(&mut pool_b, &mut got, 3);
        a.complete(&mut pool_a);
        a.transmit(&mut pool_a, &mut frames);
    }
    assert!(got.iter().map(|f| number(f.data())).eq(0..10));
}

#[test]
fn packets_wait_while_the_receiver_has_no_frames() {
    let (mut a, mut b, _) = one(&LinkConfig::default());
    let (mut pool_a, mut pool_b) = (pool(8), pool(2));
    let mut frames = Vec::new();
    for n in 0..3 {
        queue_up(&mut pool_a, &mut frames, &packet(1, 2, n));
    }
    a.transmit(&mut pool_a, &mut frames);
    let mut got = Vec::new();
    assert_eq!(b.receive(&mut pool_b, &mut got, 32), 2);
    assert_eq!(b.receive(&mut pool_b, &mut got, 32), 0);
    pool_b.free(got.remove(0)).unwrap();
    assert_eq!(b.receive(&mut pool_b, &mut got, 32), 1);
    assert_eq!(number(got[1].data()), 2);
}

#[test]
fn a_packet_too_long_for_the_receiver_is_counted() {
    let (mut a, mut b, _) = one(&LinkConfig::default());
    let mut pool_a = FramePool::new(&UmemConfig {
        chunks: 2,
        chunk_size: ChunkSize::Bytes4096,
        jumbo: 0,
        huge_pages: false,
    })
    .unwrap();
    let mut pool_b = pool(2);
    let mut frames = Vec::new();
    queue_up(&mut pool_a, &mut frames, &[0; 1793]);
    a.transmit(&mut pool_a, &mut frames);
    let mut got = Vec::new();
    assert_eq!(b.receive(&mut pool_b, &mut got, 32), 0);
    assert_eq!(b.statistics().rx_dropped, 1);
    a.complete(&mut pool_a);
    assert_eq!(pool_a.gauges().free, 2);
    assert_eq!(pool_b.gauges().free, 2);
}

#[test]
fn a_frame_of_another_umem_is_sent_and_becomes_a_stray() {
    let (mut a, mut b, _) = one(&LinkConfig::default());
    let (mut pool_a, mut pool_b, mut pool_c) = (pool(4), pool(4), pool(4));
    let mut frames = Vec::new();
    queue_up(&mut pool_c, &mut frames, &packet(1, 2, 3));
    a.transmit(&mut pool_a, &mut frames);
    let mut got = Vec::new();
    assert_eq!(b.receive(&mut pool_b, &mut got, 1), 1);
    a.complete(&mut pool_a);
    let strays: Vec<Frame> = pool_a.drain_strays().collect();
    assert_eq!(strays.len(), 1);
    for stray in strays {
        pool_c.free(stray).unwrap();
    }
    assert_eq!(pool_c.gauges().free, 4);
    assert_eq!(pool_a.gauges(), PoolGaugesOf(4).all_free());
}

struct PoolGaugesOf(u32);
impl PoolGaugesOf {
    fn all_free(&self) -> crate::PoolGauges {
        crate::PoolGauges { total: self.0, free: self.0, ..Default::default() }
    }
}

#[test]
fn addresses_choose_the_queue_until_it_is_forced() {
    let Link { mut a, mut b, wire } =
        link(&LinkConfig { queues_b: 4, ..LinkConfig::default() }).unwrap();
    let (mut pool_a, mut pool_b) = (pool(512), pool(512));
    let mut frames = Vec::new();
    let mut seen = BTreeMap::new();
    for round in 0..2 {
        for source in 0..64 {
            queue_up(&mut pool_a, &mut frames, &packet(source, 9, u64::from(source)));
        }
        assert_eq!(a[0].transmit(&mut pool_a, &mut frames), 64);
        let mut total = 0;
        for (queue, port) in b.iter_mut().enumerate() {
            let mut got = Vec::new();
            total += port.receive(&mut pool_b, &mut got, 128);
            assert!(got.len() > 4, "queue {queue} idle");
            for f in got {
                // The same flow on the same queue both times.
                assert_eq!(*seen.entry(number(f.data())).or_insert(queue), queue);
                pool_b.free(f).unwrap();
            }
        }
        assert_eq!(total, 64, "round {round}");
        a[0].complete(&mut pool_a);
    }
    for (queue, expected) in
        [(ReceiveQueue::Forced(2), [0, 0, 64, 0]), (ReceiveQueue::InTurns, [16; 4])]
    {
        wire.set_receive_queue(Direction::AToB, queue);
        for source in 0..64 {
            queue_up(&mut pool_a, &mut frames, &packet(source, 9, 0));
        }
        a[0].transmit(&mut pool_a, &mut frames);
        let counts = [0, 1, 2, 3].map(|queue: usize| {
            let mut got = Vec::new();
            b[queue].receive(&mut pool_b, &mut got, 128);
            let count = got.len();
            got.into_iter().for_each(|frame| pool_b.free(frame).unwrap());
            count
        });
        a[0].complete(&mut pool_a);
        assert_eq!(counts, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the wire does, `taken - lost + duplicated` arrive, none from nowhere, and every frame comes
    /// home on both sides.
    #[test]
    fn every_packet_is_accounted_for(
        loss in 0u32..500_000, duplication in 0u32..500_000, reordering in 0u32..500_000,
        corruption in 0u32..500_000, seed in any::<u64>(), queues in 1u16..4, ring in 2u32..64,
    ) {
        let faults = Faults {
            loss: PartsPerMillion::new(loss), duplication: PartsPerMillion::new(duplication),
            reordering: PartsPerMillion::new(reordering), corruption: PartsPerMillion::new(corruption),
        };
        let Link { mut a, mut b, wire } = link(&LinkConfig {
            queues_a: 2, queues_b: queues, ring, faults, seed, ..LinkConfig::default()
        }).unwrap();
        let (mut pool_a, mut pool_b) = (pool(256), pool(256));
        let mut frames = Vec::new();
        let mut arrived = 0u64;
        let mut next = 0u64;
        let mut turn = 0;
        while turn < 100 || pool_a.available() < 256 {
            turn += 1;
            prop_assert!(turn < 10_000, "{:?}", pool_a.gauges());
            for port in &mut a {
                if turn < 100 && pool_a.available() > 128 {
                    queue_up(&mut pool_a, &mut frames, &packet(next as u32, 1, next));
                    queue_up(&mut pool_a, &mut frames, &packet(next as u32, 2, next + 1));
                    next += 2;
                }
                port.transmit(&mut pool_a, &mut frames);
                port.kick();
            }
            for port in &mut b {
                let mut got = Vec::new();
                arrived += port.receive(&mut pool_b, &mut got, 32) as u64;
                for f in got {
                    prop_assert_eq!(f.len(), 64);
                    pool_b.free(f).unwrap();
                }
            }
            for port in &mut a {
                port.complete(&mut pool_a);
            }
        }
        prop_assert!(frames.is_empty());
        let counts = wire.counts(Direction::AToB);
        prop_assert_eq!(counts.taken, next);
        prop_assert_eq!(arrived, counts.taken - counts.lost + counts.duplicated);
        prop_assert_eq!(pool_a.gauges(), PoolGaugesOf(256).all_free());
        prop_assert_eq!(pool_b.gauges(), PoolGaugesOf(256).all_free());
    }
}

fn flood(faults: Faults, seed: u64) -> (Vec<Vec<u8>>, FaultCounts) {
    let Link { a, b, wire } = link(&LinkConfig { faults, seed, ..LinkConfig::default() }).unwrap();
    let (mut a, mut b) = (Station::new(a).unwrap(), Station::new(b).unwrap());
    let mut got = Vec::new();
    for n in 0..2000 {
        assert!(a.inject(&packet(1, 2, n)));
        got.append(&mut b.collect());
    }
    for _ in 0..100 {
        a.collect();
        got.append(&mut b.collect());
    }
    assert_eq!(a.pool().gauges().out, 0);
    (got, wire.counts(Direction::AToB))
}

#[test]
fn each_fault_does_what_it_says_and_nothing_else() {
    let half = PartsPerMillion::new(500_000);
    let sent: Vec<u64> = (0..2000).collect();
    let numbers = |got: &[Vec<u8>]| got.iter().map(|p| number(p)).collect::<Vec<_>>();

    let (got, counts) = flood(Faults { loss: half, ..Faults::NONE }, 1);
    assert_eq!(got.len() as u64, 2000 - counts.lost);
    assert!((800..1200).contains(&counts.lost));
    assert!(numbers(&got).is_sorted());

    let (got, counts) = flood(Faults { duplication: half, ..Faults::NONE }, 1);
    assert_eq!(got.len() as u64, 2000 + counts.duplicated);
    assert!((800..1200).contains(&counts.duplicated));
    let mut unique = numbers(&got);
    unique.dedup();
    assert_eq!(unique, sent);

    let (got, counts) = flood(Faults { reordering: half, ..Faults::NONE }, 1);
    assert!(counts.reordered > 100);
    let mut sorted = numbers(&got);
    assert!(!sorted.is_sorted());
    sorted.sort_unstable();
    assert_eq!(sorted, sent);

    let (got, counts) = flood(Faults { corruption: half, ..Faults::NONE }, 1);
    let wrong = got
        .iter()
        .zip(&sent)
        .map(|(p, n)| (p, packet(1, 2, *n)))
        .filter(|(p, whole)| *p != whole)
        .inspect(|(p, whole)| {
            let bits: u32 = p.iter().zip(whole).map(|(x, y)| (x ^ y).count_ones()).sum();
            assert_eq!(bits, 1);
            assert_eq!(p[..14], whole[..14]);
        })
        .count();
    assert_eq!(wrong as u64, counts.corrupted);
    assert!((800..1200).contains(&counts.corrupted));
}

#[test]
fn the_same_seed_meets_the_same_faults() {
    let tenth = PartsPerMillion::new(100_000);
    let faults = Faults { loss: tenth, duplication: tenth, reordering: tenth, corruption: tenth };
    assert_eq!(flood(faults, 7), flood(faults, 7));
    assert_ne!(flood(faults, 7).0, flood(faults, 8).0);
}

#[test]
fn a_late_packet_that_nothing_overtakes_still_arrives() {
    let always = PartsPerMillion::new(1_000_000);
    let (mut a, mut b, _) = one(&LinkConfig {
        faults: Faults { reordering: always, ..Faults::NONE },
        ..Default::default()
    });
    let (mut pool_a, mut pool_b) = (pool(4), pool(4));
    let mut frames = Vec::new();
    queue_up(&mut pool_a, &mut frames, b"late");
    a.transmit(&mut pool_a, &mut frames);
    let mut got = Vec::new();
    for _ in 0..100 {
        a.complete(&mut pool_a);
        b.receive(&mut pool_b, &mut got, 1);
    }
    assert_eq!(got.len(), 1);

    queue_up(&mut pool_a, &mut frames, b"late");
    a.transmit(&mut pool_a, &mut frames);
    assert!(a.prepare_sleep());
    assert_eq!(b.receive(&mut pool_b, &mut got, 1), 1);
}

/// Two threads, each asleep whenever it has nothing to do, bounce a packet; a lost wake-up would stop it.
#[test]
fn sleepers_are_woken() {
    let Link { a, b, .. } = link(&LinkConfig::default()).unwrap();
    let bounce = |mut ports: Vec<MemoryPort>, first: bool| {
        let mut port = Port::Memory(ports.remove(0));
        let mut pool = pool(8);
        let mut frames = Vec::new();
        if first {
            queue_up(&mut pool, &mut frames, &packet(1, 2, 0));
        }
        let mut bounces = 0;
        while bounces < 2000 {
            if port.transmit(&mut pool, &mut frames) > 0 {
                port.kick();
                bounces += 1;
            }
            port.complete(&mut pool);
            if port.receive(&mut pool, &mut frames, 8) == 0 {
                if bounces < 2000 && port.prepare_sleep() {
                    let mut set = PollSet::new();
                    set.add(port.fd().unwrap());
                    assert_eq!(set.wait(Some(Duration::from_secs(10))).unwrap(), 1, "slept on");
                }
                port.wake();
            }
        }
    };
    std::thread::scope(|s| {
        s.spawn(|| bounce(a, true));
        s.spawn(|| bounce(b, false));
    });
}

#[test]
fn a_sender_that_sleeps_on_a_full_wire_is_woken_by_its_frames() {
    let (mut a, mut b, _) = one(&LinkConfig { ring: 2, ..LinkConfig::default() });
    let (mut pool_a, mut pool_b) = (pool(8), pool(8));
    let mut frames = Vec::new();
    for n in 0..3 {
        queue_up(&mut pool_a, &mut frames, &packet(1, 2, n));
    }
    assert_eq!(a.transmit(&mut pool_a, &mut frames), 2);
    assert!(a.prepare_sleep());
    b.receive(&mut pool_b, &mut Vec::new(), 8);
    {
        let mut set = PollSet::new();
        set.add(a.fd());
        assert_eq!(set.wait(Some(Duration::from_secs(10))).unwrap(), 1);
    }
    a.wake();
    a.complete(&mut pool_a);
    assert_eq!(a.transmit(&mut pool_a, &mut frames), 1);
    assert!(b.prepare_sleep() || b.receive(&mut pool_b, &mut Vec::new(), 8) == 1);
}
