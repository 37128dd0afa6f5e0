//! Rekeys under traffic (RFC 7296 §2.8): nothing lost, nothing twice.

use super::bed::*;
use crate::{Activation, Event, WorkerDrop};
use ipsec::sa::{PairId, Spi};
use ipsec::selector::{Action, PolicyId};
use stats::Worker as Row;

#[derive(Default)]
struct Traffic {
    sent: u32,
    at_a: Vec<u32>,
    at_b: Vec<u32>,
}

impl Traffic {
    /// Some packets each way while `n` turns go by.
    fn flow(&mut self, bed: &mut Bed, n: usize) {
        for _ in 0..n {
            for _ in 0..3 {
                bed.send_a(self.sent.is_multiple_of(2), self.sent, 120);
                bed.send_b(self.sent.is_multiple_of(2), self.sent, 120);
                self.sent += 1;
            }
            bed.steps(1);
            self.at_a.extend(received(&mut bed.host_a).iter().map(|p| number(p)));
            self.at_b.extend(received(&mut bed.host_b).iter().map(|p| number(p)));
        }
    }

    fn assert_complete(mut self) {
        for numbers in [&mut self.at_a, &mut self.at_b] {
            // Sorted: the two families may overtake each other over a handoff.
            numbers.sort_unstable();
            assert_eq!(*numbers, (0..self.sent).collect::<Vec<_>>());
        }
    }
}

#[test]
fn twenty_rekeys_by_either_side_lose_nothing_and_repeat_nothing() {
    let mut bed = Bed::new(BedConfig { workers: 2, ..Default::default() });
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4Udp, 0, 1);
    let mut traffic = Traffic::default();
    traffic.flow(&mut bed, 5);
    for id in 2..22 {
        let (owner_a, owner_b) = (id as usize % 2, id as usize / 2 % 2);
        let (spi_a, spi_b) = bed.allocate(owner_a, owner_b);
        let (new, old) = (PairId(id), PairId(id - 1));
        let a_initiates = id % 3 != 0;
        let (first, second) = if a_initiates {
            (&mut bed.b, (spi_b, spi_a, 2, 1))
        } else {
            (&mut bed.a, (spi_a, spi_b, 1, 2))
        };
        // CREATE_CHILD_SA request received: the responder installs both and goes on sending on the old one.
        let (inbound, outbound, inbound_key, outbound_key) = second;
        first.add_inbound(id, Outer::V4Udp, inbound, inbound_key);
        first.add_outbound(id, Outer::V4Udp, outbound, outbound_key);
        first.dataplane.bind(PolicyId(1), new, Activation::OnInboundTraffic).unwrap();
        traffic.flow(&mut bed, 4);
        let responder = if a_initiates { &bed.b } else { &bed.a };
        assert!(!responder.events.contains(&Event::Activated { pair: new }));
        assert_eq!(responder.dataplane.usage(new).unwrap().outbound.packets, 0);
        // The response arrives: the initiator installs both and sends on the new one.
        let initiator = if a_initiates { &mut bed.a } else { &mut bed.b };
        initiator.add_inbound(id, Outer::V4Udp, outbound, outbound_key);
        initiator.add_outbound(id, Outer::V4Udp, inbound, inbound_key);
        initiator.dataplane.bind(PolicyId(1), new, Activation::Now).unwrap();
        traffic.flow(&mut bed, 6);
        let responder = if a_initiates { &bed.b } else { &bed.a };
        assert!(responder.events.contains(&Event::Activated { pair: new }));
        // INFORMATIONAL with the delete of the old one, and its answer.
        let (one, other) =
            if a_initiates { (&mut bed.b, &mut bed.a) } else { (&mut bed.a, &mut bed.b) };
        one.dataplane.delete(old).unwrap();
        other.dataplane.delete(old).unwrap();
        traffic.flow(&mut bed, 3);
        for gateway in [&bed.a, &bed.b] {
            assert!(gateway.events.contains(&Event::Deleted { pair: old }));
        }
    }
    let sent = traffic.sent;
    bed.steps(10);
    traffic.flow(&mut bed, 0);
    traffic.at_a.extend(received(&mut bed.host_a).iter().map(|p| number(p)));
    traffic.at_b.extend(received(&mut bed.host_b).iter().map(|p| number(p)));
    traffic.assert_complete();
    for gateway in [&bed.a, &bed.b] {
        assert_eq!(gateway.all_drops(), 0);
        assert_eq!(gateway.sum(Row::OpenedPackets), u64::from(sent));
        assert_eq!(gateway.sum(Row::InboundSas), 1);
        assert_eq!(gateway.sum(Row::OutboundSas), 1);
        gateway.assert_no_frame_is_missing();
    }
}

/// The responder has both SAs and sends at once (IKEv1: between message 2 and 3); the initiator's SPI, of one of its workers.
fn only_the_peer_has_keys(bed: &mut Bed, outer: Outer, core: usize) -> Spi {
    let (spi_a, spi_b) = bed.allocate(core, 0);
    bed.b.add_inbound(1, outer, spi_b, 2);
    bed.b.add_outbound(1, outer, spi_a, 1);
    bed.b.dataplane.bind(PolicyId(1), PairId(1), Activation::Now).unwrap();
    bed.steps(2);
    spi_a
}

#[test]
fn packets_on_a_larval_spi_wait_for_its_key() {
    let mut bed = Bed::new(BedConfig { workers: 2, ..Default::default() });
    bed.policies(Action::Protect);
    let spi = only_the_peer_has_keys(&mut bed, Outer::V6, 1);
    for n in 0..20 {
        bed.send_b(true, n, 300);
        bed.steps(1);
    }
    bed.steps(3);
    assert!(received(&mut bed.host_a).is_empty());
    assert_eq!(bed.a.sum(Row::Waiting), 20);
    assert_eq!(bed.a.sum(Row::BadSpiPackets), 0);
    bed.a.add_inbound(1, Outer::V6, spi, 1);
    bed.steps(3);
    let numbers: Vec<u32> = received(&mut bed.host_a).iter().map(|p| number(p)).collect();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
    assert_eq!(bed.a.sum(Row::Waiting), 0);
    assert_eq!(bed.a.all_drops(), 0);
}

#[test]
fn packets_on_a_larval_spi_that_is_released_are_dropped() {
    let mut bed = Bed::new(BedConfig::default());
    bed.policies(Action::Protect);
    let spi = only_the_peer_has_keys(&mut bed, Outer::V4, 0);
    bed.send_b(false, 1, 300);
    bed.steps(3);
    bed.a.dataplane.release_spi(spi).unwrap();
    bed.steps(1);
    assert_eq!(bed.a.drops(WorkerDrop::SaGone), 1);
    bed.send_b(false, 2, 300);
    bed.steps(3);
    assert_eq!(bed.a.sum(Row::BadSpiPackets), 1);
}

#[test]
fn the_delete_of_the_old_pair_activates_the_new_one_without_traffic() {
    let mut bed = Bed::new(BedConfig::default());
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 0, 0);
    let (spi_a, spi_b) = bed.allocate(0, 0);
    bed.add(2, Outer::V4, spi_a, spi_b);
    bed.b.dataplane.bind(PolicyId(1), PairId(2), Activation::OnInboundTraffic).unwrap();
    bed.steps(2);
    bed.send_b(false, 1, 100);
    bed.steps(3);
    bed.b.dataplane.delete(PairId(1)).unwrap();
    bed.steps(2);
    bed.send_b(false, 2, 100);
    bed.steps(3);
    assert_eq!(received(&mut bed.host_a).len(), 2);
    assert_eq!(bed.b.dataplane.usage(PairId(2)).unwrap().outbound.packets, 1);
}

#[test]
fn commands_are_refused_before_they_reach_a_worker() {
    use crate::{Delivery, Refusal};
    use ipsec::sa::Spi;
    let mut bed = Bed::new(BedConfig::default());
    let (spi_a, spi_b) = bed.allocate(0, 0);
    let dataplane = &mut bed.a.dataplane;
    assert!(matches!(dataplane.delete(PairId(1)), Err(Refusal::UnknownPair)));
    assert!(matches!(dataplane.allocate_spi(core(5)), Err(Refusal::UnknownWorker)));
    let bind = dataplane.bind(PolicyId(1), PairId(1), Activation::Now);
    assert!(matches!(bind, Err(Refusal::UnknownPair)));
    let outbound = bed.a.parameters(1, Outer::V4, spi_b, 1);
    assert!(matches!(bed.a.dataplane.add_outbound(&outbound), Err(Refusal::UnknownPair)));
    let mut wrong = bed.a.parameters(1, Outer::V4, spi_a, 1);
    wrong.selectors.clear();
    let refused = bed.a.dataplane.add_inbound(&wrong, Delivery::Forward);
    assert!(matches!(refused, Err(Refusal::Parameters(_))), "{refused:?}");
    let stranger = bed.a.parameters(1, Outer::V4, Spi::new(0x0100_0000).unwrap(), 1);
    let refused = bed.a.dataplane.add_inbound(&stranger, Delivery::Forward);
    assert!(matches!(refused, Err(Refusal::NotAllocated)), "{refused:?}");
    bed.a.add_inbound(1, Outer::V4, spi_a, 1);
    let again = bed.a.parameters(1, Outer::V4, spi_a, 1);
    let refused = bed.a.dataplane.add_inbound(&again, Delivery::Forward);
    assert!(matches!(refused, Err(Refusal::DuplicateSa)), "{refused:?}");
}

#[test]
fn a_worker_that_does_not_turn_fills_its_ring_and_stop_still_fits() {
    use crate::{Limits, Refusal};
    let limits = Limits { command_ring: 4, ..BedConfig::default().limits };
    let mut bed = Bed::new(BedConfig { limits, ..Default::default() });
    let refused = (0..10).find_map(|_| bed.a.dataplane.flush().err());
    assert!(matches!(refused, Some(Refusal::RingFull)), "{refused:?}");
    bed.a.dataplane.stop();
    bed.steps(1);
    assert!(bed.a.workers[0].is_stopped());
}

#[test]
fn packets_wait_for_a_key_no_longer_than_their_time() {
    let mut bed = Bed::new(BedConfig::default());
    bed.policies(Action::Protect);
    only_the_peer_has_keys(&mut bed, Outer::V4, 0);
    bed.send_b(false, 1, 300);
    bed.steps(2);
    bed.now += std::time::Duration::from_secs(9);
    bed.steps(1);
    assert_eq!(bed.a.drops(WorkerDrop::WaitedForKey), 1);
    assert_eq!(bed.a.sum(Row::Waiting), 0);
}

#[test]
fn a_flush_leaves_nothing_and_the_dataplane_goes_on() {
    let mut bed = Bed::new(BedConfig { workers: 2, ..Default::default() });
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 0, 1);
    bed.install(2, Outer::V6, 1, 0);
    let (larval, _) = bed.allocate(1, 1);
    for gateway in [&mut bed.a, &mut bed.b] {
        gateway.dataplane.flush().unwrap();
    }
    bed.steps(2);
    for gateway in [&bed.a, &bed.b] {
        assert_eq!((gateway.sum(Row::InboundSas), gateway.sum(Row::OutboundSas)), (0, 0));
        for id in [1, 2] {
            assert!(gateway.events.contains(&Event::Deleted { pair: PairId(id) }));
        }
        assert_eq!(gateway.dataplane.spi_counts().larval, 0);
    }
    assert!(bed.a.dataplane.release_spi(larval).is_err());
    bed.send_a(false, 1, 100);
    bed.steps(2);
    assert_eq!(bed.a.sum(Row::Waiting), 1);
    bed.install(3, Outer::V4, 0, 0);
    bed.steps(3);
    assert_eq!(received(&mut bed.host_b).len(), 1);
}
