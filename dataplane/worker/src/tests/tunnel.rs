//! Packets through a tunnel, every family inside and outside.

use super::bed::*;
use crate::{Event, PairUsage};
use ipsec::sa::PairId;
use ipsec::selector::Action;
use stats::Worker as Row;

#[test]
fn packets_of_both_families_cross_in_every_encapsulation() {
    for outer in [Outer::V4, Outer::V6, Outer::V4Udp, Outer::V6Udp] {
        for v6 in [false, true] {
            let mut bed = Bed::new(BedConfig::default());
            bed.policies(Action::Protect);
            bed.install(1, outer, 0, 0);
            for n in 0..100 {
                bed.send_a(v6, n, 60 + n as usize * 13);
                bed.send_b(v6, 1000 + n, 60 + n as usize * 13);
                bed.steps(1);
            }
            bed.steps(4);
            for (host, first) in [(&mut bed.host_b, 0), (&mut bed.host_a, 1000)] {
                let packets = received(host);
                let numbers: Vec<u32> = packets.iter().map(|p| number(p)).collect();
                assert_eq!(numbers, (first..first + 100).collect::<Vec<_>>(), "{outer:?} {v6}");
                for (n, packet) in packets.iter().enumerate() {
                    assert_eq!(packet.len(), 60 + n * 13);
                    // Two gateways, two hops (RFC 4301 §5.1.2.1).
                    let ttl = if v6 { packet[7] } else { packet[8] };
                    assert_eq!(ttl, 62);
                }
            }
            let bytes: u64 = (0..100).map(|n| 60 + n * 13).sum();
            for gateway in [&bed.a, &bed.b] {
                assert_eq!(gateway.all_drops(), 0);
                for row in [
                    Row::ConfidentialBytesSent,
                    Row::ConfidentialBytesReceived,
                    Row::AuthenticatedBytesSent,
                    Row::AuthenticatedBytesReceived,
                    Row::TunnelBytesSent,
                    Row::TunnelBytesReceived,
                ] {
                    assert_eq!(gateway.sum(row), bytes, "{row:?}");
                }
                assert_eq!(gateway.sum(Row::TransportBytesSent), 0);
                assert_eq!(gateway.sum(Row::TransportBytesReceived), 0);
                let PairUsage { inbound, outbound, mtu } =
                    gateway.dataplane.usage(PairId(1)).unwrap();
                assert!((1400..1450).contains(&mtu), "{mtu}");
                assert_eq!((inbound.packets, inbound.bytes), (100, bytes));
                assert_eq!((outbound.packets, outbound.bytes), (100, bytes));
                assert!(inbound.last.is_some());
                assert!(
                    gateway
                        .events
                        .contains(&Event::FirstInbound { pair: PairId(1), arrived_at: core(0) })
                );
                gateway.assert_no_frame_is_missing();
            }
        }
    }
}

#[test]
fn what_is_not_authentic_fresh_or_known_is_dropped_by_cause_and_row() {
    use af_xdp::memory::{Faults, PartsPerMillion};
    use ipsec::drop_cause::DropCause;
    let mut bed = Bed::new(BedConfig::default());
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 0, 0);
    // A captured packet: what gateway A sends while nobody else is on the wire.
    let always = PartsPerMillion::new(1_000_000);
    bed.wan.set_faults(
        af_xdp::memory::Direction::AToB,
        Faults { duplication: always, ..Faults::NONE },
    );
    bed.send_a(false, 1, 100);
    bed.steps(3);
    assert_eq!(received(&mut bed.host_b).len(), 1);
    assert_eq!(bed.b.drops(DropCause::ReplayedDuplicate), 1);
    assert_eq!(bed.b.sum(Row::PacketsWithReplayDetection), 1);

    bed.wan
        .set_faults(af_xdp::memory::Direction::AToB, Faults { corruption: always, ..Faults::NONE });
    for n in 0..200 {
        bed.send_a(false, n, 100);
        bed.steps(2);
    }
    // Every flipped bit is caught somewhere, and where it hits the ICV or what that covers, as not authentic; the outer
    // header's bits that nothing checks let the packet through.
    let through = received(&mut bed.host_b).len() as u64;
    assert_eq!(bed.b.drops(DropCause::NotAuthentic), bed.b.sum(Row::PacketsNotAuthenticated));
    assert!(bed.b.drops(DropCause::NotAuthentic) > 100);
    assert_eq!(bed.b.all_drops() - 1 + through + bed.b.sum(Row::ToHost), 200);

    bed.wan.set_faults(af_xdp::memory::Direction::AToB, Faults::NONE);
    let before = bed.b.sum(Row::BadSpiPackets);
    bed.b.dataplane.delete(PairId(1)).unwrap();
    bed.steps(2);
    assert!(bed.b.events.contains(&Event::Deleted { pair: PairId(1) }));
    bed.b.events.clear();
    // The flipped bits above have made some SPIs unknown already.
    bed.now += std::time::Duration::from_secs(2);
    for n in 0..50 {
        bed.send_a(false, n, 100);
    }
    bed.steps(5);
    assert_eq!(bed.b.sum(Row::BadSpiPackets) - before, 50);
    let unknown: Vec<_> =
        bed.b.events.iter().filter(|e| matches!(e, Event::UnknownSpi { .. })).collect();
    assert_eq!(unknown.len(), 10, "ten a second: {unknown:?}");
}

#[test]
fn a_hard_lifetime_refuses_and_a_soft_one_asks() {
    use crate::{Activation, Delivery, Direction, Limit};
    use ipsec::drop_cause::DropCause;
    use ipsec::sa::{Lifetime, Limits as SaLimits};
    use ipsec::selector::PolicyId;
    let mut bed = Bed::new(BedConfig::default());
    bed.policies(Action::Protect);
    let (spi_a, spi_b) = bed.allocate(0, 0);
    let packets = |n| SaLimits { packets: Some(n), bytes: None };
    let mut inbound = bed.a.parameters(1, Outer::V4, spi_a, 1);
    let mut outbound = bed.a.parameters(1, Outer::V4, spi_b, 2);
    outbound.lifetime = Lifetime { soft: packets(3), hard: packets(5) };
    inbound.lifetime = outbound.lifetime;
    bed.a.dataplane.add_inbound(&inbound, Delivery::Forward).unwrap();
    bed.a.dataplane.add_outbound(&outbound).unwrap();
    bed.b.add_inbound(1, Outer::V4, spi_b, 2);
    bed.a.dataplane.bind(PolicyId(1), PairId(1), Activation::Now).unwrap();
    bed.steps(2);
    for n in 0..8 {
        bed.send_a(false, n, 100);
    }
    bed.steps(3);
    assert_eq!(received(&mut bed.host_b).len(), 5);
    assert_eq!(bed.a.drops(DropCause::LifetimeReached), 3);
    let expired = |limit| Event::Expire { pair: PairId(1), direction: Direction::Outbound, limit };
    let said: Vec<_> =
        bed.a.events.iter().filter(|e| matches!(e, Event::Expire { .. })).cloned().collect();
    assert_eq!(said, [expired(Limit::Soft), expired(Limit::Hard)]);
}

#[test]
fn a_peer_behind_a_rebinding_nat_is_reported_and_followed() {
    use crate::Endpoints;
    use ipsec::sa::UdpEncap;
    let mut bed = Bed::new(BedConfig::default());
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4Udp, 0, 0);
    bed.send_a(false, 1, 100);
    bed.steps(3);
    // The NAT gives A another source port from now on.
    let moved = |local_port| Endpoints {
        local: ip(A.wan4),
        remote: ip(B.wan4),
        encap: Some(UdpEncap { local_port, remote_port: 4500 }),
    };
    bed.a.dataplane.set_endpoints(PairId(1), moved(61000)).unwrap();
    bed.steps(1);
    bed.send_a(false, 2, 100);
    bed.steps(3);
    let event = Event::PeerMoved { pair: PairId(1), address: ip(A.wan4), port: 61000 };
    assert!(bed.b.events.contains(&event), "{:?}", bed.b.events);
    // B follows; A's gateway listens on 4500 only, so what comes to 61000 would have to be translated: it is clear to A.
    let follow = Endpoints {
        local: ip(B.wan4),
        remote: ip(A.wan4),
        encap: Some(UdpEncap { local_port: 4500, remote_port: 61000 }),
    };
    bed.b.dataplane.set_endpoints(PairId(1), follow).unwrap();
    bed.steps(1);
    bed.send_b(false, 3, 100);
    bed.steps(3);
    let datagram = bed.a.hosts[0].receive().expect("the datagram to the translated port");
    assert_eq!(u16::from_be_bytes([datagram[22], datagram[23]]), 61000);
}

#[test]
fn what_is_said_once_is_not_lost_to_a_full_ring() {
    use crate::{Direction, Limit, Limits};
    use ipsec::sa::{Lifetime, Limits as SaLimits};
    let limits = Limits { event_ring: 2, ..BedConfig::default().limits };
    let mut bed = Bed::new(BedConfig { limits, ..Default::default() });
    bed.policies(Action::Protect);
    for id in 1..8 {
        let (spi_a, spi_b) = bed.allocate(0, 0);
        let mut parameters = bed.a.parameters(id, Outer::V4, spi_b, 2);
        let soft = SaLimits { packets: Some(1), bytes: None };
        parameters.lifetime = Lifetime { soft, hard: SaLimits::default() };
        bed.a.add_inbound(id, Outer::V4, spi_a, 1);
        bed.a.dataplane.add_outbound(&parameters).unwrap();
        let (policy, pair) = (ipsec::selector::PolicyId(1), PairId(id));
        bed.a.dataplane.bind(policy, pair, crate::Activation::Now).unwrap();
        bed.send_a(false, 1, 100);
        // Nobody reads the events.
        bed.a.workers[0].turn(bed.now);
    }
    bed.steps(8);
    for id in 1..8 {
        let (direction, limit) = (Direction::Outbound, Limit::Soft);
        let expired = Event::Expire { pair: PairId(id), direction, limit };
        assert_eq!(bed.a.events.iter().filter(|e| **e == expired).count(), 1, "{id}");
    }
    assert_eq!(bed.a.dataplane.events_lost(), 0);
}
