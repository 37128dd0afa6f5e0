//! Four workers on threads of their own, asleep whenever they can be, with rekeys under traffic, half of which comes to the wrong one.

use super::bed::*;
use crate::{Activation, Event, drop_counters};
use af_xdp::memory::ReceiveQueue;
use ipsec::sa::PairId;
use ipsec::selector::{Action, PolicyId};
use stats::{Layout, Reader, Segment, Start, Worker as Row};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Packets of one direction on their way at most: fewer than any ring or pool holds.
const WINDOW: u32 = 200;

#[derive(Default)]
struct Traffic {
    to_b: u32,
    to_a: u32,
    at_b: HashSet<u32>,
    at_a: HashSet<u32>,
    /// The blocks that the workers publish.
    blocks: Vec<Reader>,
    /// What they had received when they were read: so many different publications were.
    seen: HashSet<(usize, u64)>,
    turns: usize,
}

impl Traffic {
    /// Sends and collects until `done` says so.
    fn until(&mut self, bed: &mut Bed, what: &str, mut done: impl FnMut(&Self, &mut Bed) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !done(self, bed) {
            assert!(Instant::now() < end, "{what}: {} {}", self.at_a.len(), self.at_b.len());
            self.turn(bed);
        }
    }

    fn turn(&mut self, bed: &mut Bed) {
        self.turns += 1;
        if self.turns.is_multiple_of(4) {
            self.read_blocks();
        }
        if self.to_b < self.at_b.len() as u32 + WINDOW {
            bed.send_a(self.to_b.is_multiple_of(2), self.to_b, 200);
            self.to_b += 1;
        }
        if self.to_a < self.at_a.len() as u32 + WINDOW {
            bed.send_b(self.to_a.is_multiple_of(3), self.to_a, 200);
            self.to_a += 1;
        }
        self.collect(bed);
    }

    /// The identity holds in whatever is published when we look.
    fn read_blocks(&mut self) {
        for (n, reader) in self.blocks.iter().enumerate() {
            let snapshot = reader.snapshot().unwrap();
            for (worker, reading) in snapshot.workers().enumerate() {
                let accounting = reading.accounting();
                assert!(accounting.holds(), "{accounting:?}");
                self.seen.insert((n * 2 + worker, accounting.received));
            }
        }
    }

    fn collect(&mut self, bed: &mut Bed) {
        for packet in received(&mut bed.host_b) {
            assert!(self.at_b.insert(number(&packet)), "twice");
        }
        for packet in received(&mut bed.host_a) {
            assert!(self.at_a.insert(number(&packet)), "twice");
        }
        for gateway in [&mut bed.a, &mut bed.b] {
            gateway.events.extend(core::iter::from_fn(|| gateway.dataplane.poll_event()));
        }
    }
}

#[test]
fn threads_with_rekeys_and_handoff_lose_nothing() {
    let mut bed = Bed::new(BedConfig { workers: 2, ..Default::default() });
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4Udp, 0, 1);
    // A queue is one worker's, and each SA has one owner: half of what comes is at the other one.
    bed.all_arrive(ReceiveQueue::InTurns);
    let mut traffic = Traffic::default();
    for gateway in [&mut bed.a, &mut bed.b] {
        let mut workers = core::mem::take(&mut gateway.workers);
        let mut layout = Layout::new();
        let blocks = [0, 1].map(|_| layout.worker(&drop_counters()));
        let mut segment = Segment::anonymous(&layout, Start::now().unwrap());
        for (worker, block) in workers.iter_mut().zip(blocks) {
            worker.set_block(segment.writer(block).unwrap());
        }
        traffic.blocks.push(segment.reader().unwrap());
        gateway.dataplane.spawn(workers, &[]).unwrap();
    }
    traffic.until(&mut bed, "start", |t, _| t.at_a.len() > 500);
    for id in 2..12 {
        let (spi_a, spi_b) = bed.allocate(id as usize % 2, id as usize / 2 % 2);
        let (new, old) = (PairId(id), PairId(id - 1));
        bed.b.add_inbound(id, Outer::V4Udp, spi_b, 2);
        bed.b.add_outbound(id, Outer::V4Udp, spi_a, 1);
        let ready = bed.b.dataplane.bind(PolicyId(1), new, Activation::OnInboundTraffic).unwrap();
        traffic.until(&mut bed, "responder", |_, bed| bed.b.dataplane.applied(ready));
        bed.a.add_inbound(id, Outer::V4Udp, spi_a, 1);
        bed.a.add_outbound(id, Outer::V4Udp, spi_b, 2);
        let used = bed.a.dataplane.bind(PolicyId(1), new, Activation::Now).unwrap();
        traffic.until(&mut bed, "activation", |_, bed| {
            bed.a.dataplane.applied(used) && bed.b.events.contains(&Event::Activated { pair: new })
        });
        // The old pair goes when what was sent on it has arrived, as it does behind the delete's round trip.
        let (to_a, to_b) = (traffic.to_a, traffic.to_b);
        traffic.until(&mut bed, "the last of the old pair", |t, _| {
            (0..to_a).all(|n| t.at_a.contains(&n)) && (0..to_b).all(|n| t.at_b.contains(&n))
        });
        bed.a.dataplane.delete(old).unwrap();
        bed.b.dataplane.delete(old).unwrap();
        traffic.until(&mut bed, "delete", |_, bed| {
            [&bed.a, &bed.b].iter().all(|g| g.events.contains(&Event::Deleted { pair: old }))
        });
    }
    let end = Instant::now() + Duration::from_secs(60);
    while (traffic.at_a.len() as u32, traffic.at_b.len() as u32) != (traffic.to_a, traffic.to_b) {
        assert!(Instant::now() < end, "lost");
        traffic.collect(&mut bed);
    }
    for gateway in [&mut bed.a, &mut bed.b] {
        gateway.workers = gateway.dataplane.stop();
    }
    traffic.read_blocks();
    assert!(traffic.seen.len() > 16, "{} publications looked at", traffic.seen.len());
    for gateway in [&bed.a, &bed.b] {
        assert!(gateway.workers.iter().all(|w| w.account().balances()));
        assert_eq!(gateway.all_drops(), 0);
        assert_eq!(gateway.sum(Row::HandedOut), gateway.sum(Row::HandedIn));
        let (handed, received) = (gateway.sum(Row::HandedOut), gateway.sum(Row::Received));
        let half = received * 2 / 5..=received * 3 / 5;
        assert!(half.contains(&handed), "{handed} of {received} handed off");
        assert_eq!(
            gateway.sum(Row::OpenedPackets) + gateway.sum(Row::SealedPackets),
            u64::from(traffic.to_a + traffic.to_b)
        );
    }
}
