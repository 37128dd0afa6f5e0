//! ICMP errors against policies (RFC 4301 §6.2): by SAs that are not for ICMP, and never by others.

use super::bed::*;
use crate::{Activation, Delivery, Event, WorkerDrop};
use af_xdp::memory::Direction as Way;
use ipsec::drop_cause::DropCause;
use ipsec::sa::PairId;
use ipsec::selector::{Action, Policy, PolicyId, Ports, Selector};
use stats::Worker as Row;
use std::net::IpAddr;
use wire::{icmp, protocol};

/// A child for UDP to port 5000 of B's side, which says nothing of ICMP.
fn datagrams_only(gateway: &Gateway, is_a: bool) -> Vec<Selector> {
    let port = Ports::Range(5000..=5000);
    let (local_ports, remote_ports) = if is_a { (Ports::Any, port) } else { (port, Ports::Any) };
    let narrow = |selector: Selector| Selector {
        protocol: Some(protocol::UDP),
        local_ports: local_ports.clone(),
        remote_ports: remote_ports.clone(),
        ..selector
    };
    gateway.selectors().into_iter().map(narrow).collect()
}

/// Two gateways with such a child; `b_sends_all`: B's outbound SA, and its policy, are for everything.
fn bed_of_datagrams(b_sends_all: bool) -> Bed {
    let mut bed = Bed::new(BedConfig::default());
    let (spi_a, spi_b) = bed.allocate(0, 0);
    for (is_a, gateway, inbound, outbound) in
        [(true, &mut bed.a, (spi_a, 1), (spi_b, 2)), (false, &mut bed.b, (spi_b, 2), (spi_a, 1))]
    {
        let narrow = datagrams_only(gateway, is_a);
        let sends = if b_sends_all && !is_a { gateway.selectors() } else { narrow.clone() };
        let policy = Policy { id: PolicyId(1), selectors: sends.clone(), action: Action::Protect };
        gateway.dataplane.set_policies(&[policy]).unwrap();
        let mut parameters = gateway.parameters(1, Outer::V4, inbound.0, inbound.1);
        parameters.selectors = narrow;
        gateway.dataplane.add_inbound(&parameters, Delivery::Forward).unwrap();
        let mut parameters = gateway.parameters(1, Outer::V4, outbound.0, outbound.1);
        parameters.selectors = sends;
        gateway.dataplane.add_outbound(&parameters).unwrap();
        gateway.dataplane.bind(PolicyId(1), PairId(1), Activation::Now).unwrap();
    }
    bed.steps(2);
    bed
}

/// An error that a router of B's LAN sends to `to` about `packet`.
fn error_about(packet: &[u8], error: icmp::Error, from: &str, to: IpAddr) -> Vec<u8> {
    let mut out = [0; icmp::MAX_ERROR_LEN];
    let len = icmp::emit_error(error, ip(from), packet, &mut out).unwrap();
    let mut message = out[..len].to_vec();
    match to {
        IpAddr::V4(to) => {
            message[16..20].copy_from_slice(&to.octets());
            message[10..12].fill(0);
            let sum = wire::checksum::of(&message[..20]);
            message[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        // The ICMPv6 checksum is the receiver's affair.
        IpAddr::V6(to) => message[24..40].copy_from_slice(&to.octets()),
    }
    message
}

/// What host A gets when B's LAN sends this.
fn passes(bed: &mut Bed, message: &[u8]) -> usize {
    assert!(bed.host_b.inject(&frame(B.host_mac, B.lan_mac, message)));
    bed.steps(4);
    received(&mut bed.host_a).len()
}

#[test]
fn an_error_that_no_policy_speaks_of_takes_the_sa_of_what_it_is_about() {
    for (v6, router) in [(false, "10.77.2.200"), (true, "fd77:2::200")] {
        let mut bed = bed_of_datagrams(false);
        let (from, to) = if v6 { (A.host6, B.host6) } else { (A.host4, B.host4) };
        let (from, to) = (ip(from), ip(to));
        // The far gateway's own: the hop limit ends there.
        let packet = datagram(from, to, 1, 80);
        let mut short_lived = packet.clone();
        short_lived[if v6 { 7 } else { 8 }] = 2;
        if !v6 {
            short_lived[10..12].fill(0);
            let sum = wire::checksum::of(&short_lived[..20]);
            short_lived[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        assert!(bed.host_a.inject(&frame(A.host_mac, A.lan_mac, &short_lived)));
        bed.steps(4);
        assert_eq!(bed.b.drops(WorkerDrop::TtlExpired), 1);
        assert_eq!(received(&mut bed.host_a).len(), 1, "the gateway's own, IPv6 {v6}");

        // Those of a router behind it, of any kind, however little they quote.
        for error in [icmp::Error::TooBig(1280), icmp::Error::Unreachable, icmp::Error::Prohibited]
        {
            let message = error_about(&packet, error, router, from);
            assert_eq!(passes(&mut bed, &message), 1, "{error:?}");
        }
        let sealed = bed.b.sum(Row::SealedPackets);
        assert_eq!(bed.b.all_drops(), 1);

        // About another port, from another host, to another host than who sent the packet.
        let mut others = vec![(packet.clone(), from); 3];
        let ports = if v6 { 40 } else { 20 };
        others[0].0[ports + 2..ports + 4].copy_from_slice(&[0, 53]);
        others[1].0[if v6 { 39 } else { 19 }] ^= 0x80;
        others[1].0 = datagram(from, ip(if v6 { "fd77:9::1" } else { "10.99.0.1" }), 1, 80);
        others[2].1 = ip(if v6 { "fd77:1::77" } else { "10.77.1.77" });
        for (number, (about, receiver)) in others.iter().enumerate() {
            let message = error_about(about, icmp::Error::Unreachable, router, *receiver);
            assert_eq!(passes(&mut bed, &message), 0, "{number}");
        }
        // Queries have no such way, whatever they quote; nor has an error whose quote is cut short.
        let mut query = error_about(&packet, icmp::Error::Unreachable, router, from);
        query[if v6 { 40 } else { 20 }] = if v6 { 128 } else { 8 };
        assert_eq!(passes(&mut bed, &query), 0);
        let message = error_about(&packet, icmp::Error::Unreachable, router, from);
        let headers = if v6 { 40 + 8 + 40 } else { 20 + 8 + 20 };
        let mut cut = message[..headers].to_vec();
        if v6 {
            cut[4..6].copy_from_slice(&48u16.to_be_bytes());
        } else {
            cut[2..4].copy_from_slice(&(headers as u16).to_be_bytes());
            cut[10..12].fill(0);
            let sum = wire::checksum::of(&cut[..20]);
            cut[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        assert_eq!(passes(&mut bed, &cut), 0, "no ports, and the SA is for some");
        assert_eq!(bed.b.drops(DropCause::NoPolicy), 5);
        assert_eq!(bed.b.sum(Row::SealedPackets), sealed);

        // Without an SA there is none to make (it is an audited event, no acquire).
        bed.b.dataplane.unbind(PairId(1)).unwrap();
        bed.steps(1);
        assert_eq!(passes(&mut bed, &message), 0);
        assert_eq!((bed.b.drops(DropCause::NoPolicy), bed.b.sum(Row::Waiting)), (6, 0));
        assert!(!bed.b.events.iter().any(|event| matches!(event, Event::Acquire { .. })));
        assert_eq!(bed.a.all_drops(), 0);
        bed.b.assert_no_frame_is_missing();
    }
}

/// Who has an SA with us cannot speak of our traffic with others.
#[test]
fn an_error_by_an_sa_is_only_about_what_that_sa_is_for() {
    let mut bed = bed_of_datagrams(true);
    let packet = datagram(ip(A.host4), ip(B.host4), 1, 80);
    let message = error_about(&packet, icmp::Error::Unreachable, "10.77.2.200", ip(A.host4));
    assert_eq!(passes(&mut bed, &message), 1);
    let elsewhere = datagram(ip(A.host4), ip("198.51.100.9"), 1, 80);
    let message = error_about(&elsewhere, icmp::Error::Unreachable, "10.77.2.200", ip(A.host4));
    assert_eq!(passes(&mut bed, &message), 0);
    assert_eq!(bed.a.drops(DropCause::SelectorMismatch), 1);
    let message = error_about(&packet, icmp::Error::Unreachable, "10.77.2.200", ip("10.77.1.77"));
    assert_eq!(passes(&mut bed, &message), 0);
    assert_eq!(bed.a.drops(DropCause::SelectorMismatch), 2);
    assert_eq!(bed.wan.counts(Way::BToA).taken, 3);
}

/// An error of ours to a host behind us leaves only where policy lets it, and by a tunnel where policy says so.
#[test]
fn our_own_errors_obey_policy() {
    let ours = |action, local: &str, remote: &str| Policy {
        id: PolicyId(5),
        selectors: vec![Selector {
            local: range(local),
            remote: range(remote),
            protocol: Some(protocol::ICMP),
            local_ports: Ports::Any,
            remote_ports: Ports::Any,
        }],
        action,
    };
    for (policy, answers) in [
        (None, 1),
        (Some(ours(Action::Bypass, A.lan4, A.lan4)), 1),
        (Some(ours(Action::Discard, A.lan4, A.lan4)), 0),
        // From any address of ours: then none of them will do.
        (Some(ours(Action::Discard, "0.0.0.0/0", A.lan4)), 0),
        // For which there is no SA: not in clear instead.
        (Some(ours(Action::Protect, "0.0.0.0/0", A.lan4)), 0),
    ] {
        let mut bed = Bed::new(BedConfig::default());
        let protected =
            Policy { id: PolicyId(1), selectors: bed.a.selectors(), action: Action::Protect };
        let policies: Vec<Policy> = policy.clone().into_iter().chain([protected]).collect();
        bed.a.dataplane.set_policies(&policies).unwrap();
        bed.steps(2);
        let packet = ip_packet(ip(A.host4), ip(B.host4), protocol::UDP, 1, &[0; 30]);
        assert!(bed.host_a.inject(&frame(A.host_mac, A.lan_mac, &packet)));
        bed.steps(3);
        assert_eq!(bed.a.drops(WorkerDrop::TtlExpired), 1);
        assert_eq!(received(&mut bed.host_a).len(), answers, "{policy:?}");
        assert_eq!(bed.a.sum(Row::Generated), answers as u64);
        assert_eq!(bed.wan.counts(Way::AToB).taken, 0);
        bed.a.assert_no_frame_is_missing();
    }
}
