//! The SPD's word, and packets that wait for an SA.

use super::bed::*;
use crate::{Event, Limits, PortId, Side, WorkerDrop};
use af_xdp::memory::Direction as Way;
use ipsec::drop_cause::DropCause;
use ipsec::sa::PairId;
use ipsec::selector::{Action, AddressRange, Policy, PolicyId, Ports, Selector};
use stats::Worker as Row;
use std::time::Duration;

fn acquires(gateway: &Gateway) -> usize {
    gateway.events.iter().filter(|e| matches!(e, Event::Acquire { .. })).count()
}

#[test]
fn without_an_sa_packets_wait_one_acquire_is_raised_and_nothing_leaves_in_clear() {
    let mut bed = Bed::new(BedConfig::default());
    bed.policies(Action::Protect);
    for n in 0..10 {
        bed.send_a(false, n, 100);
        bed.steps(1);
    }
    assert_eq!(bed.wan.counts(Way::AToB).taken, 0);
    assert_eq!(bed.a.sum(Row::Waiting), 10);
    assert_eq!(acquires(&bed.a), 1);
    let port = |p| Ports::Range(p..=p);
    assert!(bed.a.events.contains(&Event::Acquire {
        policy: PolicyId(1),
        packet: Selector {
            local: AddressRange::host(ip(A.host4)),
            remote: AddressRange::host(ip(B.host4)),
            protocol: Some(17),
            local_ports: port(4000),
            remote_ports: port(5000),
        },
    }));
    bed.install(1, Outer::V4, 0, 0);
    bed.steps(3);
    let numbers: Vec<u32> = received(&mut bed.host_b).iter().map(|p| number(p)).collect();
    assert_eq!(numbers, (0..10).collect::<Vec<_>>());
    assert_eq!(bed.a.sum(Row::Waiting), 0);
    assert_eq!(bed.a.sum(Row::SealedPackets), 10);
    assert_eq!(bed.wan.counts(Way::AToB).taken, 10);
}

#[test]
fn what_waits_too_long_is_dropped_and_the_acquire_is_raised_again() {
    let mut bed = Bed::new(BedConfig::default());
    bed.policies(Action::Protect);
    bed.send_a(false, 1, 100);
    bed.steps(1);
    bed.now += Duration::from_secs(6);
    bed.send_a(false, 2, 100);
    bed.steps(1);
    assert_eq!(acquires(&bed.a), 2);
    bed.now += Duration::from_secs(3);
    bed.steps(1);
    assert_eq!(bed.a.drops(WorkerDrop::WaitedForSa), 1);
    bed.now += Duration::from_secs(10);
    bed.steps(1);
    assert_eq!(bed.a.drops(WorkerDrop::WaitedForSa), 2);
    assert_eq!(bed.a.sum(Row::Waiting), 0);
}

#[test]
fn a_policy_has_its_share_of_the_waiting_queue_and_the_queue_an_end() {
    let limits = Limits { waiting_packets: 12, waiting_per_key: 8, ..BedConfig::default().limits };
    let mut bed = Bed::new(BedConfig { limits, ..Default::default() });
    bed.policies(Action::Protect);
    for n in 0..20 {
        bed.send_a(false, n, 100);
        bed.steps(1);
    }
    assert_eq!(bed.a.sum(Row::Waiting), 8);
    assert_eq!(bed.a.drops(WorkerDrop::WaitingFull), 12);
    // The eight places are the policy's; a failed negotiation gives them back and lets the next packet ask again.
    bed.a.dataplane.acquire_failed(PolicyId(1)).unwrap();
    bed.steps(1);
    assert_eq!(bed.a.drops(WorkerDrop::NegotiationFailed), 8);
    bed.send_a(false, 20, 100);
    bed.steps(1);
    assert_eq!(acquires(&bed.a), 2);
}

/// Each selector of a policy has its own acquire and its own share: a destination that nobody answers for does not hold up another.
#[test]
fn every_selector_of_a_policy_asks_for_itself() {
    let limits = Limits { waiting_packets: 12, waiting_per_key: 4, ..BedConfig::default().limits };
    let mut bed = Bed::new(BedConfig { limits, ..Default::default() });
    bed.policies(Action::Protect);
    for n in 0..6 {
        bed.send_a(false, n, 100);
        bed.steps(1);
    }
    assert_eq!((bed.a.sum(Row::Waiting), acquires(&bed.a)), (4, 1));
    for n in 6..9 {
        bed.send_a(true, n, 100);
        bed.steps(1);
    }
    assert_eq!((bed.a.sum(Row::Waiting), acquires(&bed.a)), (7, 2), "IPv6 is another selector");
    assert_eq!(bed.a.drops(WorkerDrop::WaitingFull), 2);
    // They are repeated each in its own time.
    bed.now += Duration::from_secs(6);
    bed.send_a(true, 9, 100);
    bed.steps(1);
    bed.send_a(true, 10, 100);
    bed.steps(1);
    assert_eq!(acquires(&bed.a), 3);
    // One negotiation is about all selectors of a child, so its failure is, too.
    bed.a.dataplane.acquire_failed(PolicyId(1)).unwrap();
    bed.steps(1);
    assert_eq!(bed.a.sum(Row::Waiting), 0);
}

#[test]
fn an_sa_with_narrower_selectors_leaves_the_rest_of_its_policy_waiting() {
    let mut bed = Bed::new(BedConfig::default());
    bed.policies(Action::Protect);
    let (spi_a, spi_b) = bed.allocate(0, 0);
    let mut outbound = bed.a.parameters(1, Outer::V4, spi_b, 2);
    outbound.selectors.truncate(1);
    bed.a.add_inbound(1, Outer::V4, spi_a, 1);
    bed.a.dataplane.add_outbound(&outbound).unwrap();
    bed.a.dataplane.bind(PolicyId(1), PairId(1), crate::Activation::Now).unwrap();
    bed.b.add_inbound(1, Outer::V4, spi_b, 2);
    bed.steps(2);
    bed.send_a(false, 4, 100);
    bed.send_a(true, 6, 100);
    bed.steps(3);
    let numbers: Vec<u32> = received(&mut bed.host_b).iter().map(|p| number(p)).collect();
    assert_eq!(numbers, [4]);
    assert_eq!((bed.a.sum(Row::Waiting), acquires(&bed.a)), (1, 1));
}

#[test]
fn discard_bypass_and_no_policy() {
    for (action, cause, passes) in [
        (Some(Action::Discard), Some(DropCause::PolicyDiscard), false),
        (Some(Action::Bypass), None, true),
        (None, Some(DropCause::NoPolicy), false),
    ] {
        let mut bed = Bed::new(BedConfig::default());
        match action {
            Some(action) => bed.policies(action),
            None => bed.steps(1),
        }
        // With the word of gateway A alone, B has to let it through.
        let policy =
            Policy { id: PolicyId(9), selectors: bed.b.selectors(), action: Action::Bypass };
        bed.b.dataplane.set_policies(&[policy]).unwrap();
        bed.steps(2);
        bed.send_a(false, 1, 100);
        bed.steps(3);
        assert_eq!(bed.wan.counts(Way::AToB).taken, u64::from(passes), "{action:?}");
        assert_eq!(received(&mut bed.host_b).len(), usize::from(passes), "{action:?}");
        if let Some(cause) = cause {
            assert_eq!(bed.a.drops(cause), 1);
        }
    }
}

/// What has come is judged by what was commanded before it came, also in the middle of a turn.
#[test]
fn a_command_that_came_before_a_packet_is_carried_out_before_it() {
    let mut bed = Bed::new(BedConfig::default());
    bed.steps(1);
    let handed_over = |bed: &mut Bed, action| {
        let policy = Policy { id: PolicyId(1), selectors: bed.a.selectors(), action };
        bed.a.dataplane.set_policies(&[policy]).unwrap();
    };
    let mut frames = Vec::new();
    handed_over(&mut bed, Action::Bypass);
    bed.a.hosts[0].send(datagram(ip(A.host4), ip(B.host4), 1, 100)).unwrap();
    assert_eq!(bed.a.workers[0].read_host(&mut frames, false), 1);
    assert_eq!(bed.a.all_drops(), 0);
    handed_over(&mut bed, Action::Discard);
    bed.send_a(false, 2, 100);
    assert_eq!(bed.a.workers[0].receive(PortId(0), &mut frames), 1);
    assert_eq!((bed.a.drops(DropCause::PolicyDiscard), bed.a.all_drops()), (1, 1));
}

#[test]
fn clear_traffic_that_should_be_protected_is_dropped() {
    let mut bed = Bed::new(BedConfig::default());
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 0, 0);
    let bypass = Policy { id: PolicyId(2), selectors: bed.a.selectors(), action: Action::Bypass };
    bed.a.dataplane.set_policies(&[bypass]).unwrap();
    bed.steps(2);
    bed.send_a(false, 1, 100);
    bed.send_a(true, 2, 100);
    bed.steps(3);
    assert_eq!(bed.b.drops(DropCause::ClearNotProtected), 2);
    assert!(received(&mut bed.host_b).is_empty());
}

#[test]
fn a_policy_for_everything_does_not_take_the_answer_for_clear_traffic() {
    // 10.77.1.0/24 to anywhere at A: what a host of the lan sends is outbound, whatever its destination.
    let mut bed = Bed::new(BedConfig { side: Side::Either, ..Default::default() });
    let everywhere = |local: &str, remote: &str| {
        vec![Selector {
            local: range(local),
            remote: range(remote),
            protocol: None,
            local_ports: Ports::Any,
            remote_ports: Ports::Any,
        }]
    };
    let a = everywhere(A.lan4, "0.0.0.0/0");
    let b = everywhere("0.0.0.0/0", A.lan4);
    for (gateway, selectors) in [(&mut bed.a, a.clone()), (&mut bed.b, b.clone())] {
        let policy = Policy { id: PolicyId(1), selectors, action: Action::Protect };
        gateway.dataplane.set_policies(&[policy]).unwrap();
    }
    let (spi_a, spi_b) = bed.allocate(0, 0);
    for (gateway, selectors, inbound, outbound) in
        [(&mut bed.a, a, (spi_a, 1), (spi_b, 2)), (&mut bed.b, b, (spi_b, 2), (spi_a, 1))]
    {
        let mut parameters = gateway.parameters(1, Outer::V4, inbound.0, inbound.1);
        parameters.selectors = selectors.clone();
        gateway.dataplane.add_inbound(&parameters, crate::Delivery::Forward).unwrap();
        let mut parameters = gateway.parameters(1, Outer::V4, outbound.0, outbound.1);
        parameters.selectors = selectors;
        gateway.dataplane.add_outbound(&parameters).unwrap();
        gateway.dataplane.bind(PolicyId(1), PairId(1), crate::Activation::Now).unwrap();
    }
    bed.steps(2);
    bed.send_a(false, 1, 100);
    bed.send_b(false, 2, 100);
    bed.steps(4);
    assert_eq!(received(&mut bed.host_b).len(), 1);
    assert_eq!(received(&mut bed.host_a).len(), 1);
    assert_eq!((bed.a.all_drops(), bed.b.all_drops()), (0, 0));
}

#[test]
fn an_unbound_sa_receives_and_does_not_send() {
    let mut bed = Bed::new(BedConfig::default());
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 0, 0);
    bed.a.dataplane.unbind(PairId(1)).unwrap();
    bed.steps(1);
    bed.send_a(false, 1, 100);
    bed.send_b(false, 2, 100);
    bed.steps(3);
    assert_eq!(bed.a.sum(Row::Waiting), 1);
    assert_eq!(received(&mut bed.host_a).len(), 1);
    assert_eq!(bed.wan.counts(Way::AToB).taken, 0);
}

/// A hub: what comes out of one tunnel goes into another, and an error about it never leaves in clear.
#[test]
fn an_error_about_a_packet_out_of_a_tunnel_stays_inside() {
    let mut bed = Bed::new(BedConfig::default());
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 0, 0);
    // At B the way back is gone: the packet's TTL runs out there, and the error has no SA.
    bed.b.dataplane.unbind(PairId(1)).unwrap();
    bed.steps(1);
    let packet = ip_packet(ip(A.host4), ip(B.host4), 17, 2, &[0; 30]);
    assert!(bed.host_a.inject(&frame(A.host_mac, A.lan_mac, &packet)));
    bed.steps(4);
    assert_eq!(bed.b.drops(WorkerDrop::TtlExpired), 1);
    assert_eq!(bed.b.sum(Row::Generated), 0);
    assert_eq!(bed.wan.counts(Way::BToA).taken, 0);
    assert!(received(&mut bed.host_b).is_empty());
}
