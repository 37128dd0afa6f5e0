//! The identity under any input, at the end of every turn (the bed asserts it after each).

use super::bed::*;
use crate::Activation;
use af_xdp::memory::{Direction as Way, Faults, PartsPerMillion};
use ipsec::sa::PairId;
use ipsec::selector::{Action, PolicyId};
use proptest::prelude::*;
use stats::Worker as Row;

/// What may be thrown at a gateway.
#[derive(Clone, Debug)]
enum Input {
    /// Any bytes on a port.
    Noise(bool, Vec<u8>),
    /// A packet that goes through, with one byte changed.
    Mutated { v6: bool, len: usize, at: usize, value: u8 },
    /// A packet that should go through.
    Sound { from_a: bool, v6: bool, len: usize },
    /// From the host port.
    Host(Vec<u8>),
    /// Turns.
    Steps(usize),
    /// The SAs go, and others come.
    Rekey(bool),
    /// The next hop is lost, or found.
    NextHop(bool),
    /// Time passes.
    Sleep(u64),
}

fn input() -> impl Strategy<Value = Input> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        2 => (any::<bool>(), bytes()).prop_map(|(port, bytes)| Input::Noise(port, bytes)),
        2 => bytes().prop_map(Input::Host),
        6 => (any::<bool>(), 60usize..1500, 0usize..80, any::<u8>())
            .prop_map(|(v6, len, at, value)| Input::Mutated { v6, len, at, value }),
        8 => (any::<bool>(), any::<bool>(), 60usize..1500)
            .prop_map(|(from_a, v6, len)| Input::Sound { from_a, v6, len }),
        6 => (1usize..4).prop_map(Input::Steps),
        1 => any::<bool>().prop_map(Input::Rekey),
        1 => any::<bool>().prop_map(Input::NextHop),
        1 => (1u64..9000).prop_map(Input::Sleep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_packet_is_somewhere(
        inputs in proptest::collection::vec(input(), 1..120),
        loss in 0u32..300_000,
        corruption in 0u32..300_000,
        queue in 0u16..3,
    ) {
        let mut bed = Bed::new(BedConfig { workers: 2, chunks: 256, ..Default::default() });
        bed.policies(Action::Protect);
        if queue < 2 {
            bed.force_queue(queue);
        }
        let parts = PartsPerMillion::new;
        let faults = Faults {
            loss: parts(loss),
            duplication: parts(loss),
            reordering: parts(loss),
            corruption: parts(corruption),
        };
        bed.wan.set_faults(Way::AToB, faults);
        bed.wan.set_faults(Way::BToA, faults);
        let mut id = 1;
        for input in inputs {
            match input {
                Input::Noise(ours, mut bytes) => {
                    if ours && bytes.len() >= 14 {
                        bytes[..6].copy_from_slice(&A.lan_mac.0);
                        bytes[12..14].copy_from_slice(&[0x08, 0x00]);
                    }
                    bed.host_a.inject(&bytes);
                }
                Input::Host(bytes) => drop(bed.a.hosts[0].send(bytes)),
                Input::Mutated { v6, len, at, value } => {
                    let (from, to) = if v6 { (A.host6, B.host6) } else { (A.host4, B.host4) };
                    let mut packet = datagram(ip(from), ip(to), 1, len);
                    let at = at % packet.len();
                    packet[at] = value;
                    bed.host_a.inject(&frame(A.host_mac, A.lan_mac, &packet));
                }
                Input::Sound { from_a, v6, len } => {
                    let (from, to, host_mac, mac) = match (from_a, v6) {
                        (true, false) => (A.host4, B.host4, A.host_mac, A.lan_mac),
                        (true, true) => (A.host6, B.host6, A.host_mac, A.lan_mac),
                        (false, false) => (B.host4, A.host4, B.host_mac, B.lan_mac),
                        (false, true) => (B.host6, A.host6, B.host_mac, B.lan_mac),
                    };
                    let frame = frame(host_mac, mac, &datagram(ip(from), ip(to), 1, len));
                    let station = if from_a { &mut bed.host_a } else { &mut bed.host_b };
                    station.inject(&frame);
                }
                Input::Steps(n) => bed.steps(n),
                Input::Rekey(delete_first) => {
                    let old = PairId(id);
                    id += 1;
                    if delete_first {
                        let _ = bed.a.dataplane.delete(old);
                        let _ = bed.b.dataplane.delete(old);
                    }
                    let (spi_a, spi_b) = bed.allocate(id as usize % 2, 1);
                    bed.steps(1);
                    bed.add(id, if delete_first { Outer::V4 } else { Outer::V6Udp }, spi_a, spi_b);
                    for (gateway, activation) in [
                        (&mut bed.a, Activation::Now),
                        (&mut bed.b, Activation::OnInboundTraffic),
                    ] {
                        gateway.dataplane.bind(PolicyId(1), PairId(id), activation).unwrap();
                    }
                }
                Input::NextHop(known) => {
                    bed.a.dataplane.set_forwarding(table(A, B, 1400, known)).unwrap();
                }
                Input::Sleep(ms) => bed.now += std::time::Duration::from_millis(ms),
            }
            received(&mut bed.host_a);
            received(&mut bed.host_b);
            while bed.a.hosts.iter().chain(&bed.b.hosts).any(|h| h.receive().is_some()) {}
        }
        bed.wan.set_faults(Way::AToB, Faults::NONE);
        bed.wan.set_faults(Way::BToA, Faults::NONE);
        // Long enough for what the wire holds back.
        for _ in 0..40 {
            bed.steps(4);
            received(&mut bed.host_a);
            received(&mut bed.host_b);
        }
        bed.now += std::time::Duration::from_secs(30);
        bed.steps(2);
        for gateway in [&bed.a, &bed.b] {
            prop_assert_eq!(gateway.sum(Row::Waiting), 0);
            prop_assert_eq!(gateway.sum(Row::HandedOut), gateway.sum(Row::HandedIn));
            for worker in &gateway.workers {
                prop_assert_eq!(worker.frames().out, 0);
            }
        }
    }
}

#[test]
fn two_gateways_lose_exactly_what_the_wire_and_their_drops_say() {
    let mut bed = Bed::new(BedConfig { workers: 2, ..Default::default() });
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 1, 0);
    let tenth = PartsPerMillion::new(100_000);
    let faults = Faults { loss: tenth, duplication: tenth, reordering: tenth, ..Faults::NONE };
    bed.wan.set_faults(Way::AToB, faults);
    let mut arrived = 0;
    for n in 0..3000 {
        bed.send_a(n % 2 == 0, n, 200);
        bed.steps(1);
        arrived += received(&mut bed.host_b).len() as u64;
    }
    // Long enough for what the wire holds back.
    bed.steps(200);
    arrived += received(&mut bed.host_b).len() as u64;
    let wire = bed.wan.counts(Way::AToB);
    assert_eq!(bed.a.sum(Row::Sent), wire.taken);
    assert_eq!(bed.b.sum(Row::Received), wire.taken - wire.lost + wire.duplicated);
    assert_eq!(bed.b.sum(Row::PacketsWithReplayDetection), wire.duplicated);
    assert_eq!(arrived, 3000 - wire.lost);
    assert!(wire.lost > 100 && wire.duplicated > 100);
}

#[test]
fn the_published_block_is_the_account() {
    use crate::drop_counters;
    use stats::{Layout, Segment, Start};
    let mut layout = Layout::new();
    let block = layout.worker(&drop_counters());
    let mut segment = Segment::anonymous(&layout, Start::now().unwrap());
    let writer = segment.writer(block).unwrap();
    let mut bed = Bed::new(BedConfig::default());
    bed.a.workers[0].set_block(writer);
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 0, 0);
    for n in 0..50 {
        bed.send_a(false, n, 500);
        bed.steps(1);
    }
    assert!(bed.host_a.inject(&[0; 20]));
    bed.steps(1);
    let reader = segment.reader().unwrap();
    let snapshot = reader.snapshot().unwrap();
    let worker = snapshot.workers().next().unwrap();
    let accounting = worker.accounting();
    assert!(accounting.holds(), "{accounting:?}");
    assert_eq!((accounting.received, accounting.sent, accounting.drops), (51, 50, 1));
    assert_eq!(worker.get(Row::TunnelBytesSent), 50 * 500);
    let drops: Vec<_> =
        worker.drops().filter(|d| d.packets > 0).map(|d| d.cause.to_owned()).collect();
    assert_eq!(drops, ["not_our_station"]);
}

#[test]
fn every_drop_counter_has_a_name_of_its_own() {
    let counters = crate::drop_counters();
    let names: std::collections::HashSet<_> = counters.iter().map(|c| c.label).collect();
    assert_eq!(names.len(), counters.len());
}

#[test]
fn turns_count_their_cycles() {
    let mut bed = Bed::new(BedConfig::default());
    bed.steps(10);
    let (busy, idle) = (bed.a.sum(Row::BusyCycles), bed.a.sum(Row::IdleCycles));
    assert!(idle > 0);
    bed.steps(10);
    assert_eq!(bed.a.sum(Row::BusyCycles), busy);
    assert!(bed.a.sum(Row::IdleCycles) > idle);
    bed.send_a(false, 1, 100);
    bed.steps(1);
    assert!(bed.a.sum(Row::BusyCycles) > busy);
}

/// Of many SAs whose usage is to be published, a busy worker publishes one for sixteen packets, in the order of their slots.
#[test]
fn a_busy_worker_publishes_usage_in_turn() {
    use crate::due::Due;
    use crate::sa_usage::FEW;
    use ipsec::sad::Slot;
    const OTHERS: usize = 40;
    let mut bed = Bed::new(BedConfig::default());
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 0, 0);
    // Of SAs that are gone, whose turns come before: they take them like others.
    let add_others = |bed: &mut Bed| {
        let gone = |n: usize| Due::Inbound(Slot(20 + n as u32));
        (0..OTHERS).for_each(|n| bed.a.workers[0].due.add(gone(n)));
    };
    add_others(&mut bed);
    let published = |bed: &Bed| bed.a.dataplane.usage(PairId(1)).unwrap().outbound.packets;
    let mut turns = 0;
    while published(&bed) == 0 && turns < 100 {
        (0..16).for_each(|n| bed.send_a(false, n, 100));
        bed.steps(1);
        turns += 1;
    }
    // Each is asked for in two turns before its own; the last few go together.
    let expected = 2 + (OTHERS + 1 - FEW) + 1;
    assert_eq!((turns, published(&bed)), (expected, 16 * expected as u64));
    assert_eq!(bed.a.workers[0].due.len(), 0);
    // With nothing to do, all at once.
    (0..16).for_each(|n| bed.send_a(false, n, 100));
    add_others(&mut bed);
    bed.steps(2);
    assert_eq!((bed.a.workers[0].due.len(), published(&bed)), (0, 16 * expected as u64 + 16));
}
