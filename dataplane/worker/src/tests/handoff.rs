//! Packets that land on another core than the one that owns their SA.

use super::bed::*;
use crate::handoff::{Choice, HandedOff, TURNS};
use crate::packet::Packet;
use crate::worker::BURST;
use crate::{Activation, Event, Limits, WorkerDrop};
use ipsec::drop_cause::DropCause;
use ipsec::sa::PairId;
use ipsec::selector::{Action, PolicyId};
use stats::Worker as Row;

#[test]
fn every_packet_crosses_and_every_frame_comes_home() {
    for outer in [Outer::V4, Outer::V6Udp] {
        let mut bed = Bed::new(BedConfig { workers: 2, ..Default::default() });
        bed.policies(Action::Protect);
        bed.install(1, outer, 1, 1);
        bed.force_queue(0);
        let total = 2000;
        let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
        for n in 0..total {
            bed.send_a(false, n, 100);
            bed.send_b(true, n, 1300);
            if n % 8 == 0 {
                bed.steps(1);
                at_a.extend(received(&mut bed.host_a).iter().map(|p| number(p)));
                at_b.extend(received(&mut bed.host_b).iter().map(|p| number(p)));
            }
        }
        bed.steps(8);
        at_a.extend(received(&mut bed.host_a).iter().map(|p| number(p)));
        at_b.extend(received(&mut bed.host_b).iter().map(|p| number(p)));
        bed.steps(1);
        assert!(at_a.iter().copied().eq(0..total), "{} at a", at_a.len());
        assert!(at_b.iter().copied().eq(0..total), "{} at b", at_b.len());
        for gateway in [&bed.a, &bed.b] {
            let crossed = u64::from(total) * 2;
            // Plain ones on their way out and protected ones on their way in: all of them.
            assert_eq!(gateway.workers[0].account().get(Row::HandedOut), crossed);
            assert_eq!(gateway.workers[1].account().get(Row::HandedIn), crossed);
            assert_eq!(gateway.workers[1].account().get(Row::Sent), crossed);
            assert_eq!(gateway.all_drops(), 0);
            gateway.assert_no_frame_is_missing();
            assert!(
                gateway
                    .events
                    .contains(&Event::FirstInbound { pair: PairId(1), arrived_at: core(0) })
            );
        }
    }
}

#[test]
fn a_full_handoff_ring_drops_and_counts() {
    let limits = Limits { handoff_ring: 16, ..BedConfig::default().limits };
    let mut bed = Bed::new(BedConfig { workers: 2, limits, ..Default::default() });
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 1, 1);
    bed.force_queue(0);
    // The first one asks for the flow, all others know it.
    for round in 1..=3 {
        for n in 0..30 {
            bed.send_a(false, n, 100);
        }
        // The owner does not turn.
        bed.a.workers[0].turn(bed.now);
        assert!(bed.a.workers[0].account().balances());
        assert_eq!(bed.a.drops(WorkerDrop::HandoffFull), 14 * round);
        bed.steps(4);
        assert_eq!(received(&mut bed.host_b).len(), 16);
    }
    bed.steps(1);
    bed.a.assert_no_frame_is_missing();
}

/// A way holds octets too, here five chunks of 12 KiB: eight packets of 44 granules each, as a frame and as an IP packet.
#[test]
fn a_way_full_of_long_packets_drops_and_counts() {
    let limits = Limits { handoff_octets: 0, ..BedConfig::default().limits };
    let mut bed = Bed::new(BedConfig { workers: 2, limits, ..Default::default() });
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 1, 1);
    bed.force_queue(0);
    for round in 1..=5 {
        for n in 0..60 {
            bed.send_a(false, n, 1394);
        }
        for _ in 0..2 {
            bed.a.workers[0].turn(bed.now);
        }
        assert!(bed.a.workers[0].account().balances());
        assert_eq!(bed.a.workers[0].account().get(Row::HandedOut), 40 * round);
        assert_eq!(bed.a.drops(WorkerDrop::HandoffFull), 20 * round);
        bed.steps(8);
        assert_eq!(received(&mut bed.host_b).len(), 40);
    }
    bed.steps(1);
    bed.a.assert_no_frame_is_missing();
}

/// The frame of a short packet that leaves is too short for a long one that comes, which is dropped without a longer one.
#[test]
fn what_crosses_gets_a_frame_that_it_fits() {
    for is_short_of_frames in [false, true] {
        let mut bed = Bed::new(BedConfig { workers: 2, wan_mtu: 9000, ..Default::default() });
        bed.policies(Action::Protect);
        bed.install(1, Outer::V4, 1, 1);
        let (spi_a, spi_b) = bed.allocate(0, 0);
        bed.add(2, Outer::V4, spi_a, spi_b);
        bed.b.dataplane.bind(PolicyId(1), PairId(2), Activation::Now).unwrap();
        bed.steps(2);
        let mut taken = Vec::new();
        while is_short_of_frames && let Some(frame) = bed.a.workers[1].pool.alloc_for(9000) {
            taken.push(frame);
        }
        // One of a burst, or all of it, so that nothing else of it goes the straight way.
        let is_long = |n: u32, k: u32| (n + k).is_multiple_of(5) || n.is_multiple_of(7);
        let (mut sent, mut came) = (0, Vec::new());
        for n in 0..300u32 {
            for k in 0..4 {
                bed.force_queue(0);
                bed.send_a(false, 2 * sent, if is_long(n, k) { 3800 } else { 90 });
                // What of it comes to gateway a has its SA at the other worker too.
                bed.force_queue(1);
                bed.send_b(false, 2 * sent + 1, 90);
                sent += 1;
            }
            bed.steps(2);
            came.extend(received(&mut bed.host_a).iter().map(|packet| number(packet)));
            came.extend(received(&mut bed.host_b).iter().map(|packet| number(packet)));
        }
        bed.steps(12);
        came.extend(received(&mut bed.host_a).iter().map(|packet| number(packet)));
        came.extend(received(&mut bed.host_b).iter().map(|packet| number(packet)));
        let dropped = bed.a.drops(WorkerDrop::UmemEmpty);
        assert_eq!((bed.a.all_drops(), bed.b.all_drops()), (dropped, 0));
        assert_eq!(dropped > 100, is_short_of_frames, "{dropped}");
        assert_eq!(came.len() as u64 + dropped, 2 * u64::from(sent));
        came.sort_unstable();
        came.dedup();
        assert_eq!(came.len() as u64 + dropped, 2 * u64::from(sent), "some came twice");
        for worker in &bed.a.workers {
            assert!(worker.went_straight > 500, "{}", worker.went_straight);
        }
        taken.into_iter().for_each(|frame| bed.a.workers[1].free(frame));
        bed.a.assert_no_frame_is_missing();
    }
}

#[test]
fn an_owner_without_frames_drops() {
    let config = BedConfig { workers: 2, chunks: 64, ..Default::default() };
    let mut bed = Bed::new(config);
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 1, 1);
    bed.force_queue(0);
    // Worker 1 of A sends into a wire that nobody reads, until its 64 frames are all there.
    let mut n = 0;
    while bed.a.drops(WorkerDrop::UmemEmpty) == 0 {
        bed.send_a(false, n, 100);
        bed.a.step(bed.now);
        n += 1;
        assert!(n < 1000, "frames never ran out");
    }
    assert_eq!(bed.a.workers[0].account().get(Row::HandedOut), u64::from(n));
    bed.steps(8);
    bed.a.assert_no_frame_is_missing();
    let dropped = bed.a.drops(WorkerDrop::UmemEmpty) as usize;
    assert_eq!(received(&mut bed.host_b).len() + dropped, n as usize);
}

/// What an operator sees of a starved worker and of one that has lost frames: free ones near zero, and ones that are in nobody's hands
/// between two turns.
#[test]
fn starvation_and_leaks_show_in_the_gauges() {
    let mut bed = Bed::new(BedConfig { chunks: 64, ..Default::default() });
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 0, 0);
    let gauges = |bed: &Bed| {
        let account = bed.a.workers[0].account();
        [Row::FramesFree, Row::FramesReceiving, Row::FramesSending, Row::FramesOut]
            .map(|row| account.get(row))
    };
    assert_eq!(gauges(&bed), [64, 0, 0, 0]);
    // Nobody reads the wire: frames pile up on their way out until there are none to receive into.
    for n in 0..200 {
        bed.send_a(false, n, 100);
        bed.now += std::time::Duration::from_micros(20);
        bed.a.step(bed.now);
    }
    assert_eq!(gauges(&bed), [0, 0, 64, 0]);
    for _ in 0..20 {
        bed.steps(2);
        received(&mut bed.host_b);
    }
    // An idle worker publishes each thousand turns.
    bed.steps(1 << 10);
    assert_eq!(gauges(&bed), [64, 0, 0, 0], "all are back");
    // A frame that is taken and not given back.
    let lost = bed.a.workers[0].pool.alloc().unwrap();
    bed.steps(1 << 10);
    assert_eq!(gauges(&bed), [63, 0, 0, 1]);
    bed.a.workers[0].free(lost);
    bed.steps(1 << 10);
    assert_eq!(gauges(&bed), [64, 0, 0, 0]);
}

#[test]
fn a_delete_completes_when_the_handoff_ring_has_drained() {
    let mut bed = Bed::new(BedConfig { workers: 2, ..Default::default() });
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 1, 1);
    bed.force_queue(0);
    // 80 protected packets lie in the handoff ring of B's worker 1, which takes 32 a turn.
    for n in 0..80 {
        bed.send_a(false, n, 100);
    }
    for _ in 0..8 {
        bed.a.step(bed.now);
    }
    for _ in 0..3 {
        bed.b.workers[0].turn(bed.now);
    }
    let ticket = bed.b.dataplane.delete(PairId(1)).unwrap();
    bed.b.workers[0].turn(bed.now);
    for _ in 0..2 {
        bed.b.workers[1].turn(bed.now);
        assert!(!bed.b.dataplane.applied(ticket));
        let deleted = Event::Deleted { pair: PairId(1) };
        assert_ne!(bed.b.dataplane.poll_event(), Some(deleted));
    }
    bed.b.workers[1].turn(bed.now);
    assert!(bed.b.dataplane.applied(ticket));
    bed.steps(1);
    assert!(bed.b.events.contains(&Event::Deleted { pair: PairId(1) }));
    assert_eq!(received(&mut bed.host_b).len(), 80);
}

/// Six bits of an SPI name a worker, of which there are fewer.
#[test]
fn an_spi_of_a_worker_that_is_not_there_is_unknown() {
    for workers in [1, 2] {
        let mut bed = Bed::new(BedConfig { workers, ..Default::default() });
        bed.policies(Action::Protect);
        bed.install(1, Outer::V4, 0, 0);
        for (n, worker) in (1..).zip([2u32, 3, 31, 63]) {
            let body = [(worker << 26 | 0x1234).to_be_bytes().as_slice(), &[9; 60]].concat();
            let packet = ip_packet(ip(B.wan4), ip(A.wan4), wire::protocol::ESP, 64, &body);
            assert!(bed.host_a.inject(&frame(A.host_mac, A.lan_mac, &packet)));
            bed.steps(2);
            assert_eq!(bed.a.drops(DropCause::UnknownSpi), n, "worker {worker} of {workers}");
            assert_eq!(bed.a.sum(Row::BadSpiPackets), n);
        }
        assert_eq!(bed.a.all_drops(), 4);
        bed.a.assert_no_frame_is_missing();
    }
}

/// Packets of both directions come to both workers, each of which has the SAs of one: what one hands over takes the place of what the
/// other does, whatever there is more of. Those of IPv6 go the way that fits all, in between.
#[test]
fn what_two_workers_exchange_keeps_its_order() {
    let mut bed = Bed::new(BedConfig { workers: 2, ..Default::default() });
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 1, 1);
    let (spi_a, spi_b) = bed.allocate(0, 0);
    bed.add(2, Outer::V4, spi_a, spi_b);
    bed.b.dataplane.bind(PolicyId(1), PairId(2), Activation::Now).unwrap();
    bed.steps(2);
    let (mut to_a, mut to_b) = (0, 0);
    let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
    for n in 0..400u32 {
        bed.force_queue((n % 3 / 2) as u16);
        for k in 0..n % 37 {
            bed.send_a((n + k) % 29 == 0, to_b, 100);
            to_b += 1;
        }
        for k in 0..n % 23 {
            bed.send_b((n + k) % 31 == 0, to_a, 300);
            to_a += 1;
        }
        // Nothing overtakes anything that came to the other queue before it.
        bed.steps(if n % 3 == 0 { 1 } else { 12 });
        at_a.extend(received(&mut bed.host_a));
        at_b.extend(received(&mut bed.host_b));
    }
    bed.steps(12);
    at_a.extend(received(&mut bed.host_a));
    at_b.extend(received(&mut bed.host_b));
    for (sent, packets) in [(to_a, at_a), (to_b, at_b)] {
        assert_eq!(packets.len(), sent as usize);
        for version in [0x40, 0x60] {
            let of_it = packets.iter().filter(|packet| packet[0] & 0xf0 == version);
            assert!(of_it.map(|packet| number(packet)).is_sorted(), "{version:#x}");
        }
    }
    for gateway in [&bed.a, &bed.b] {
        for worker in &gateway.workers {
            assert!(worker.account().get(Row::HandedOut) > 1000);
            assert!(worker.account().get(Row::HandedIn) > 1000);
            assert!(worker.went_straight > 1000);
        }
        assert_eq!(gateway.all_drops(), 0);
        gateway.assert_no_frame_is_missing();
    }
}

/// What its sender has found is taken only if it is the same SA that is in the slot still; else its policy is asked.
#[test]
fn a_slot_that_another_sa_has_now_is_not_taken() {
    let mut bed = Bed::new(BedConfig { workers: 2, ..Default::default() });
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 1, 1);
    let (slot, generation) = {
        let (slot, sa) = bed.a.workers[1].outbound_sad.iter().next().unwrap();
        (slot.0, sa.generation())
    };
    for (number, generation, straight) in [(0, generation, 1), (1, generation.wrapping_sub(1), 0)] {
        let before = bed.a.workers[1].went_straight;
        let worker = &mut bed.a.workers[0];
        let packet = datagram(ip(A.host4), ip(B.host4), number, 100);
        let mut own = worker.pool.alloc().unwrap();
        own.copy_from(&packet).unwrap();
        worker.account.add(Row::Received, 1);
        let choice = Choice { slot, generation, policy: PolicyId(1) };
        worker.hand_off(Packet(own), core(1), HandedOff::OutboundFrame(choice));
        worker.ring_bells();
        bed.steps(3);
        assert_eq!(bed.a.workers[1].went_straight - before, straight);
        assert_eq!(received(&mut bed.host_b).len(), 1);
    }
    bed.steps(1);
    bed.a.assert_no_frame_is_missing();
}

/// A burst whose packets belong to two other workers in turns.
#[test]
fn a_burst_goes_to_several_owners() {
    let mut bed = Bed::new(BedConfig { workers: 3, ..Default::default() });
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 1, 0);
    let (spi_a, spi_b) = bed.allocate(2, 0);
    bed.add(2, Outer::V4, spi_a, spi_b);
    bed.force_queue(0);
    let (mut sent, mut at_a) = (0, Vec::new());
    for _ in 0..20 {
        for pair in [2, 1, 2, 1] {
            bed.b.dataplane.bind(PolicyId(1), PairId(pair), Activation::Now).unwrap();
            bed.b.step(bed.now);
            bed.b.step(bed.now);
            for _ in 0..7 {
                bed.send_b(false, sent, 100);
                sent += 1;
            }
            bed.b.step(bed.now);
        }
        let received_before = bed.a.workers[0].account().get(Row::Bursts);
        bed.a.workers[0].turn(bed.now);
        assert_eq!(bed.a.workers[0].account().get(Row::Bursts), received_before + 1);
        bed.steps(4);
        at_a.extend(received(&mut bed.host_a).iter().map(|packet| number(packet)));
    }
    at_a.sort_unstable();
    assert!(at_a.iter().copied().eq(0..sent), "{} of {sent}", at_a.len());
    let handed = |worker: usize, row| bed.a.workers[worker].account().get(row);
    assert_eq!(handed(0, Row::HandedOut), u64::from(sent));
    assert_eq!([handed(1, Row::HandedIn), handed(2, Row::HandedIn)], [u64::from(sent) / 2; 2]);
    assert_eq!(bed.a.all_drops(), 0);
    bed.steps(1);
    bed.a.assert_no_frame_is_missing();
}

/// What arrives where there is no frame for it is dropped, and what it would have taken the place of is handed over all the same.
#[test]
fn workers_short_of_frames_exchange_what_they_can() {
    let mut bed = Bed::new(BedConfig { workers: 2, ..Default::default() });
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 1, 1);
    let (spi_a, spi_b) = bed.allocate(0, 0);
    bed.add(2, Outer::V4, spi_a, spi_b);
    bed.b.dataplane.bind(PolicyId(1), PairId(2), Activation::Now).unwrap();
    bed.steps(2);
    // Gateway a has a dozen frames a worker; the rest are in other hands.
    let mut taken = [Vec::new(), Vec::new()];
    for (worker, taken) in bed.a.workers.iter_mut().zip(&mut taken) {
        while worker.pool.available() > 12 {
            taken.push(worker.pool.alloc().unwrap());
        }
    }
    let (mut sent, mut came) = (0, 0);
    for n in 0..300 {
        for k in 0..n % 11 {
            bed.force_queue((n + k) as u16 % 2);
            bed.send_a(false, sent, 100);
            bed.send_b(false, sent, 100);
            sent += 1;
        }
        bed.steps(if n % 5 == 0 { 12 } else { 1 });
        came += received(&mut bed.host_a).len() + received(&mut bed.host_b).len();
    }
    bed.steps(12);
    came += received(&mut bed.host_a).len() + received(&mut bed.host_b).len();
    let dropped = bed.a.drops(WorkerDrop::UmemEmpty);
    assert_eq!(bed.a.all_drops() + bed.b.all_drops(), dropped);
    assert_eq!(came as u64 + dropped, 2 * u64::from(sent));
    assert!(dropped > 100 && came > 1000, "{dropped} dropped, {came} came");
    for worker in &bed.a.workers {
        assert!(worker.account().get(Row::HandedOut) > 100);
    }
    for (worker, taken) in bed.a.workers.iter_mut().zip(taken) {
        taken.into_iter().for_each(|frame| worker.free(frame));
    }
    bed.a.assert_no_frame_is_missing();
}

/// The first packets of a flow go the way that fits all, and the next ones, handed over before the owner has turned, behind them.
#[test]
fn the_straight_way_overtakes_nothing_of_its_flow() {
    let mut bed = Bed::new(BedConfig { workers: 2, ..Default::default() });
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 1, 1);
    bed.force_queue(0);
    let mut n = 0;
    for round in 1..20 {
        // What was known of the flow is not known any more.
        bed.policies(Action::Protect);
        for _ in 0..3 {
            for _ in 0..round {
                bed.send_a(false, n, 100);
                n += 1;
            }
            bed.a.workers[0].turn(bed.now);
        }
        bed.steps(12);
    }
    let numbers: Vec<u32> = received(&mut bed.host_b).iter().map(|p| number(p)).collect();
    assert!(numbers.iter().copied().eq(0..n), "{numbers:?}");
    assert!(bed.a.workers[1].went_straight > 0);
    assert!(bed.a.workers[1].went_straight < n as usize);
}

/// A worker whose own bursts are all full takes what was handed over all the same.
#[test]
fn no_handed_packet_waits_for_room_in_vain() {
    let mut bed = Bed::new(BedConfig { workers: 2, ..Default::default() });
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 1, 1);
    bed.force_queue(0);
    bed.send_a(false, 0, 100);
    bed.steps(8);
    assert_eq!(received(&mut bed.host_b).len(), 1);
    bed.send_a(false, 1, 100);
    bed.a.workers[0].turn(bed.now);
    bed.force_queue(1);
    for n in 2..300 {
        bed.send_a(false, n, 100);
    }
    for turns in 1.. {
        bed.a.workers[1].turn(bed.now);
        if bed.a.workers[1].account().get(Row::HandedIn) > 1 {
            break;
        }
        assert!(turns < 3, "three full bursts of its own went before it");
    }
}

/// Handed packets fill up a worker's own bursts, and are worked on by themselves where that would take too many turns, or half of
/// the way is full.
#[test]
fn handed_packets_are_kept_for_bursts_that_have_room() {
    let (burst, room, turns) = (BURST as u32, 8, TURNS as u32);
    // Packets and octets of a way, and how many wait. Five jumbo frames have room in 64 KiB.
    let cases = [(2048, 4 << 20, turns * room), (64, 4 << 20, 32), (2048, 0, 2)];
    for (ring, octets, wait) in cases {
        let limits = BedConfig::default().limits;
        let limits = Limits { handoff_ring: ring, handoff_octets: octets, ..limits };
        for too_many in [0, 1] {
            let what = format!("{ring} {octets} {too_many}");
            let mut bed = Bed::new(BedConfig { workers: 2, limits, ..Default::default() });
            bed.policies(Action::Protect);
            bed.install(1, Outer::V4, 1, 1);
            let mut sent = 0;
            let mut send = |bed: &mut Bed, queue| {
                bed.force_queue(queue);
                bed.send_a(false, sent, 100);
                sent += 1;
            };
            // Both workers know the flow then.
            for queue in [0, 1] {
                send(&mut bed, queue);
                bed.steps(8);
            }
            let mut left = wait + too_many;
            for _ in 0..left + room {
                send(&mut bed, 0);
                bed.a.workers[0].turn(bed.now);
            }
            let mut turn_with = |own| {
                let handed_in = |bed: &Bed| bed.a.workers[1].account().get(Row::HandedIn) as u32;
                (0..own).for_each(|_| send(&mut bed, 1));
                let before = handed_in(&bed);
                bed.a.workers[1].turn(bed.now);
                handed_in(&bed) - before
            };
            let at_once = if too_many > 0 { left.min(burst) } else { 0 };
            assert_eq!(turn_with(burst - room), room + at_once, "{what}: as many wait");
            left -= at_once;
            let next = turn_with(burst - room);
            assert_eq!(next, left.min(room), "{what}: the rest waits");
            left -= next;
            if left <= burst + 1 {
                assert_eq!(turn_with(burst - 1), left, "{what}: but not for one place a turn");
            }
            bed.steps(8);
            assert_eq!(received(&mut bed.host_b).len() as u32, sent, "{what}");
            bed.a.assert_no_frame_is_missing();
        }
    }
}
