//! The straight way against the way that fits all: whatever comes, both do the same.

use super::bed::*;
use crate::{Activation, Delivery};
use af_xdp::memory::{Direction as Way, Faults, PartsPerMillion, ReceiveQueue};
use ipsec::drop_cause::DropCause;
use ipsec::sa::PairId;
use ipsec::selector::{Action, AddressRange, PolicyId};
use proptest::prelude::*;
use stats::Worker as Row;
use std::collections::BTreeMap;
use wire::{checksum, protocol};

/// A packet from host to host, more or less as it should be.
#[derive(Clone, Debug)]
struct Shape {
    back: bool,
    len: usize,
    tos: u8,
    ttl: u8,
    flags: u16,
    protocol: u8,
    port: u16,
    options: bool,
    checksum_off: bool,
    /// Added to the total length.
    longer: i16,
    /// Bytes of link-layer padding.
    padding: usize,
}

impl Shape {
    fn packet(&self) -> Vec<u8> {
        let (from, to) = if self.back { (B.host4, A.host4) } else { (A.host4, B.host4) };
        let mut body = vec![0; self.len];
        for (n, byte) in body.iter_mut().enumerate() {
            *byte = n as u8;
        }
        if let Some(ports) = body.first_chunk_mut::<4>() {
            let [p1, p0] = self.port.to_be_bytes();
            *ports = [p1, p0, 7, 7];
        }
        let mut packet = ip_packet(ip(from), ip(to), self.protocol, self.ttl, &body);
        let mut header_len = 20;
        if self.options {
            // No operation, three times, and the end.
            packet.splice(20..20, [1, 1, 1, 0]);
            packet[0] = 0x46;
            header_len = 24;
        }
        let total = (packet.len() as i32 + i32::from(self.longer)).clamp(0, 0xffff) as u16;
        packet[1] = self.tos;
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[6..8].copy_from_slice(&self.flags.to_be_bytes());
        packet[10..12].fill(0);
        let sum = checksum::of(&packet[..header_len]) ^ u16::from(self.checksum_off);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.resize(packet.len() + self.padding, 0xaa);
        packet
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    let usual = || (any::<bool>(), prop_oneof![4usize..100, 4usize..1480], 0u16..3);
    let unusual = (
        any::<u8>(),
        prop_oneof![3 => Just(64u8), 1 => 0u8..4],
        prop_oneof![3 => Just(0u16), 2 => Just(0x4000), 1 => any::<u16>()],
        prop_oneof![3 => Just(protocol::UDP), 2 => Just(protocol::TCP), 1 => any::<u8>()],
        prop_oneof![4 => Just((false, false)), 1 => any::<(bool, bool)>()],
        prop_oneof![5 => Just(0i16), 1 => -40i16..40],
        prop_oneof![4 => Just(0usize), 1 => 0usize..30],
        0usize..100,
    );
    prop_oneof![
        2 => usual().prop_map(|(back, len, port)| Shape {
            back, len, tos: 0, ttl: 64, flags: 0, protocol: protocol::UDP, port, options: false,
            checksum_off: false, longer: 0, padding: 0,
        }),
        1 => (usual(), unusual).prop_map(|((back, len, port), u)| {
            let (tos, ttl, flags, protocol, (options, checksum_off), longer, padding, short) = u;
            let len = if short < 4 { short } else { len };
            Shape {
                back, len, tos, ttl, flags, protocol, port, options, checksum_off, longer, padding,
            }
        }),
    ]
}

/// Whose the SAs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The only worker's.
    Alone,
    /// Another's than the one that all packets come to.
    Other,
    /// Those of one direction one worker's, those of the other direction another's, and packets come to both in turns.
    Each,
}

/// What comes of bursts of packets: what the hosts get, in no order, and every counter that does not depend on time.
fn run(
    bursts: &[Vec<Shape>],
    replayed: bool,
    wan_mtu: u16,
    owner: Owner,
    long_way: bool,
) -> Vec<String> {
    let workers = if owner == Owner::Alone { 1 } else { 2 };
    let mut bed = Bed::new(BedConfig { wan_mtu, workers, ..Default::default() });
    for worker in bed.a.workers.iter_mut().chain(&mut bed.b.workers) {
        worker.long_way = long_way;
    }
    bed.policies(Action::Protect);
    let last = usize::from(workers) - 1;
    bed.install(1, Outer::V4, last, last);
    bed.all_arrive(ReceiveQueue::Forced(0));
    if owner == Owner::Each {
        let (spi_a, spi_b) = bed.allocate(0, 0);
        bed.add(2, Outer::V4, spi_a, spi_b);
        bed.b.dataplane.bind(PolicyId(1), PairId(2), Activation::Now).unwrap();
        bed.steps(2);
        bed.all_arrive(ReceiveQueue::InTurns);
    }
    if replayed {
        let duplication = PartsPerMillion::new(1_000_000);
        for way in [Way::AToB, Way::BToA] {
            bed.wan.set_faults(way, Faults { duplication, ..Faults::NONE });
        }
    }
    let mut outcome = Vec::new();
    for burst in bursts {
        for shape in burst {
            let (station, from, to) = if shape.back {
                (&mut bed.host_b, B.host_mac, B.lan_mac)
            } else {
                (&mut bed.host_a, A.host_mac, A.lan_mac)
            };
            assert!(station.inject(&frame(from, to, &shape.packet())));
        }
        bed.steps(if owner == Owner::Alone { 4 } else { 12 });
        for host in [&mut bed.host_a, &mut bed.host_b] {
            let mut packets = received(host);
            packets.sort();
            outcome.push(format!("{packets:02x?}"));
        }
    }
    bed.steps(2);
    for gateway in [&bed.a, &bed.b] {
        gateway.assert_no_frame_is_missing();
        let dropped = gateway.workers.iter().flat_map(|worker| worker.account().dropped());
        let mut drops = BTreeMap::new();
        for (cause, count) in dropped {
            *drops.entry(cause).or_insert(0) += count;
        }
        outcome.push(format!("{drops:?}"));
        for row in [
            Row::SealedPackets,
            Row::OpenedPackets,
            Row::ConfidentialBytesSent,
            Row::ConfidentialBytesReceived,
            Row::TunnelBytesSent,
            Row::TunnelBytesReceived,
            Row::Received,
            Row::ReceivedBytes,
            Row::Sent,
            Row::SentBytes,
            Row::Generated,
        ] {
            outcome.push(format!("{row:?} {}", gateway.sum(row)));
        }
        let counts = |usage: crate::Usage| (usage.packets, usage.bytes);
        for pair in [1, 2] {
            let usage = gateway.dataplane.usage(PairId(pair));
            let both = usage.map(|usage| (counts(usage.inbound), counts(usage.outbound)));
            outcome.push(format!("{both:?}"));
        }
    }
    outcome
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_straight_way_does_what_the_long_way_does(
        bursts in proptest::collection::vec(proptest::collection::vec(shape(), 1..40), 1..8),
        replayed in any::<bool>(),
        wan_mtu in prop_oneof![Just(1500u16), 600u16..1500],
        owner in prop_oneof![Just(Owner::Alone), Just(Owner::Other), Just(Owner::Each)],
    ) {
        prop_assert_eq!(
            run(&bursts, replayed, wan_mtu, owner, false),
            run(&bursts, replayed, wan_mtu, owner, true)
        );
    }
}

/// That the way under test is taken at all: of a flow, all packets but the first.
#[test]
fn packets_of_known_flows_go_the_straight_way() {
    let mut bed = Bed::new(BedConfig::default());
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 0, 0);
    for n in 0..100 {
        bed.send_a(false, n, 100);
        bed.steps(2);
    }
    assert_eq!(received(&mut bed.host_b).len(), 100);
    for gateway in [&bed.a, &bed.b] {
        assert_eq!(gateway.workers[0].went_straight, 99);
    }
}

/// Of an SA whose last packet was admitted and went on, a packet of any other flow is asked about all the same (RFC 4301 §5.2 step 4).
#[test]
fn only_the_flow_that_went_on_is_not_asked_about_again() {
    let mut bed = Bed::new(BedConfig::default());
    bed.policies(Action::Protect);
    let (spi_a, spi_b) = bed.allocate(0, 0);
    bed.a.add_inbound(1, Outer::V4, spi_a, 1);
    bed.a.add_outbound(1, Outer::V4, spi_b, 2);
    // Our side takes less than the peer sends.
    let mut narrow = bed.b.parameters(1, Outer::V4, spi_b, 2);
    narrow.selectors.truncate(1);
    narrow.selectors[0].remote = AddressRange::host(ip(A.host4));
    narrow.selectors[0].protocol = Some(protocol::UDP);
    bed.b.dataplane.add_inbound(&narrow, Delivery::Forward).unwrap();
    bed.b.add_outbound(1, Outer::V4, spi_a, 1);
    for gateway in [&mut bed.a, &mut bed.b] {
        gateway.dataplane.bind(PolicyId(1), PairId(1), Activation::Now).unwrap();
    }
    bed.steps(2);
    let admitted = datagram(ip(A.host4), ip(B.host4), 1, 100);
    let elsewhere = datagram(ip("10.77.1.77"), ip(B.host4), 1, 100);
    let tcp = ip_packet(ip(A.host4), ip(B.host4), protocol::TCP, 64, &admitted[20..]);
    for n in 1..=10 {
        for packet in [&admitted, &elsewhere, &admitted, &tcp, &admitted] {
            assert!(bed.host_a.inject(&frame(A.host_mac, A.lan_mac, packet)));
        }
        bed.steps(4);
        assert_eq!(received(&mut bed.host_b).len(), 3);
        assert_eq!(bed.b.drops(DropCause::SelectorMismatch), 2 * n);
    }
    // The first burst met nothing that was known.
    assert_eq!(bed.b.workers[0].went_straight, 27);
}

/// After a rekey too: flows take the new SA without being decided about anew.
#[test]
fn flows_go_straight_on_after_a_rekey() {
    let mut bed = Bed::new(BedConfig::default());
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 0, 0);
    for n in 0..100 {
        if n % 10 == 5 {
            let id = u64::from(n / 10) + 2;
            bed.install(id, Outer::V4, 0, 0);
            for gateway in [&mut bed.a, &mut bed.b] {
                gateway.dataplane.delete(PairId(id - 1)).unwrap();
            }
            bed.steps(8);
        }
        bed.send_a(false, n, 100);
        bed.steps(2);
    }
    assert_eq!(received(&mut bed.host_b).len(), 100);
    assert_eq!(bed.a.workers[0].went_straight, 99);
}

/// The same where another core owns the SAs.
#[test]
fn handed_packets_of_known_flows_go_the_straight_way() {
    let mut bed = Bed::new(BedConfig { workers: 2, ..Default::default() });
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 1, 1);
    bed.force_queue(0);
    for n in 0..100 {
        bed.send_a(false, n, 100);
        bed.steps(4);
    }
    assert_eq!(received(&mut bed.host_b).len(), 100);
    for gateway in [&bed.a, &bed.b] {
        assert_eq!(gateway.workers[0].account().get(Row::HandedOut), 100);
        assert_eq!(gateway.workers[1].went_straight, 99);
    }
}
