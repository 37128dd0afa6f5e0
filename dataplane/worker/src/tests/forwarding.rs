//! TTL, MTU, next hops, ICMP errors and the host port.

use super::bed::*;
use crate::{
    Activation, Delivery, Event, ForwardingTable, Limits, Link, Route, RouteTable, WorkerDrop,
};
use af_xdp::memory::Direction as Way;
use ipsec::drop_cause::DropCause;
use ipsec::sa::PairId;
use ipsec::selector::{Action, Policy, PolicyId};
use stats::Worker as Row;
use std::time::Duration;
use wire::ip::Ip;
use wire::protocol;

fn tunnel(config: BedConfig) -> Bed {
    let mut bed = Bed::new(config);
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4, 0, 0);
    bed
}

/// Type, code and the second word of an ICMP packet, with its addresses.
fn icmp(packet: &[u8]) -> (String, String, u8, u8, u32) {
    let ip = Ip::parse(packet).unwrap();
    let upper = ip.upper().unwrap();
    assert!(matches!(upper.protocol, protocol::ICMP | protocol::ICMPV6), "{packet:02x?}");
    let message = wire::icmp::Icmp::parse(upper.bytes).unwrap();
    let (from, to) = (ip.source().to_string(), ip.destination().to_string());
    (from, to, message.kind(), message.code(), message.word())
}

#[test]
fn packets_wait_for_the_next_hop_and_go_when_it_is_known() {
    let mut bed = tunnel(BedConfig::default());
    bed.a.dataplane.set_forwarding(table(A, B, 1500, false)).unwrap();
    bed.steps(2);
    for n in 0..10 {
        bed.send_a(false, n, 100);
        bed.steps(1);
    }
    assert_eq!(bed.a.sum(Row::Waiting), 10);
    let asked: Vec<_> =
        bed.a.events.iter().filter(|e| matches!(e, Event::Resolve { .. })).cloned().collect();
    assert_eq!(asked, [Event::Resolve { port: WAN, address: ip(B.wan4) }]);
    bed.a.dataplane.set_forwarding(table(A, B, 1500, true)).unwrap();
    bed.steps(4);
    let numbers: Vec<u32> = received(&mut bed.host_b).iter().map(|p| number(p)).collect();
    assert_eq!(numbers, (0..10).collect::<Vec<_>>());
    bed.a.dataplane.set_forwarding(table(A, B, 1500, false)).unwrap();
    bed.steps(2);
    bed.send_a(false, 1, 100);
    bed.steps(1);
    bed.now += Duration::from_secs(4);
    bed.steps(1);
    assert_eq!(bed.a.drops(WorkerDrop::WaitedForNextHop), 1);
}

/// A deadline that nobody has any more would have a worker wake for it without end.
#[test]
fn what_waited_and_went_wakes_nobody() {
    let mut bed = tunnel(BedConfig::default());
    bed.a.dataplane.set_forwarding(table(A, B, 1500, false)).unwrap();
    bed.steps(2);
    bed.send_a(false, 1, 100);
    bed.steps(1);
    bed.a.dataplane.set_forwarding(table(A, B, 1500, true)).unwrap();
    bed.steps(4);
    assert_eq!(received(&mut bed.host_b).len(), 1);
    bed.now += Duration::from_secs(10);
    bed.steps(1);
    assert_eq!(bed.a.workers[0].waiting.next_deadline(), None);
}

#[test]
fn a_ttl_that_runs_out_is_answered_on_either_side_of_the_tunnel() {
    let mut bed = tunnel(BedConfig::default());
    for (ttl, from) in [(1, A.gateway4), (2, B.gateway4)] {
        let packet = ip_packet(ip(A.host4), ip(B.host4), protocol::UDP, ttl, &[0; 30]);
        assert!(bed.host_a.inject(&frame(A.host_mac, A.lan_mac, &packet)));
        bed.steps(4);
        let answers = received(&mut bed.host_a);
        assert_eq!(answers.len(), 1, "ttl {ttl}");
        assert_eq!(icmp(&answers[0]), (from.into(), A.host4.into(), 11, 0, 0));
    }
    for (ttl, from) in [(1, A.gateway6), (2, B.gateway6)] {
        let packet = ip_packet(ip(A.host6), ip(B.host6), protocol::UDP, ttl, &[0; 30]);
        assert!(bed.host_a.inject(&frame(A.host_mac, A.lan_mac, &packet)));
        bed.steps(4);
        let answers = received(&mut bed.host_a);
        assert_eq!(answers.len(), 1, "hop limit {ttl}");
        assert_eq!(icmp(&answers[0]), (from.into(), A.host6.into(), 3, 0, 0));
    }
    assert_eq!(bed.a.drops(WorkerDrop::TtlExpired), 2);
    assert_eq!(bed.b.drops(WorkerDrop::TtlExpired), 2);
    assert_eq!(bed.a.sum(Row::Generated), 2);
    assert_eq!(bed.b.sum(Row::Generated), 2);
}

#[test]
fn too_big_for_the_tunnel_is_told_with_an_mtu_that_fits() {
    for v6 in [false, true] {
        let mut bed = tunnel(BedConfig::default());
        let (from, to) = if v6 { (A.host6, B.host6) } else { (A.host4, B.host4) };
        let send = |bed: &mut Bed, len| {
            let mut packet = datagram(ip(from), ip(to), 1, len);
            if !v6 {
                dont_fragment(&mut packet);
            }
            assert!(bed.host_a.inject(&frame(A.host_mac, A.lan_mac, &packet)));
            bed.steps(4);
        };
        send(&mut bed, 1500);
        assert_eq!(bed.a.drops(DropCause::PacketTooBig), 1);
        let answers = received(&mut bed.host_a);
        let (source, _, kind, code, mtu) = icmp(&answers[0]);
        let (gateway, kinds) = if v6 { (A.gateway6, (2, 0)) } else { (A.gateway4, (3, 4)) };
        assert_eq!((source.as_str(), (kind, code)), (gateway, kinds));
        // 20 + 8 + 8 + 16 outer bytes and at least two of trailer.
        assert!((1400..=1446).contains(&mtu), "{mtu}");
        send(&mut bed, mtu as usize);
        assert_eq!(received(&mut bed.host_b).len(), 1);
        send(&mut bed, mtu as usize + 1);
        assert_eq!(bed.a.drops(DropCause::PacketTooBig), 2);
    }
}

#[test]
fn what_may_be_fragmented_is_fragmented_before_encryption() {
    let mut bed = tunnel(BedConfig::default());
    let packet = datagram(ip(A.host4), ip(B.host4), 7, 1500);
    assert!(bed.host_a.inject(&frame(A.host_mac, A.lan_mac, &packet)));
    bed.steps(4);
    let fragments = received(&mut bed.host_b);
    assert_eq!(fragments.len(), 2);
    assert_eq!(bed.a.sum(Row::Generated), 1);
    let mut whole: Vec<u8> = Vec::new();
    for (index, fragment) in fragments.iter().enumerate() {
        let ip = wire::ipv4::Ipv4::parse(fragment).unwrap();
        assert!(ip.checksum_ok());
        assert_eq!((ip.fragment_offset(), ip.more_fragments()), (whole.len(), index == 0));
        whole.extend(ip.payload());
    }
    assert_eq!(whole, packet[20..]);
    assert_eq!(bed.a.all_drops(), 0);
}

#[test]
fn in_clear_too_the_link_decides() {
    let mut bed = Bed::new(BedConfig { wan_mtu: 1000, ..Default::default() });
    bed.policies(Action::Bypass);
    bed.send_a(false, 1, 1400);
    bed.send_a(true, 2, 1400);
    bed.steps(4);
    let at_b: Vec<usize> = received(&mut bed.host_b).iter().map(Vec::len).collect();
    assert_eq!(at_b, [996, 424]);
    let answers = received(&mut bed.host_a);
    let (source, _, kind, _, mtu) = icmp(&answers[0]);
    assert_eq!((source.as_str(), kind, mtu), (A.gateway6, 2, 1000));
    assert_eq!(bed.a.drops(WorkerDrop::LinkTooSmall), 1);
}

#[test]
fn errors_are_few_whatever_comes() {
    let limits = Limits { icmp_per_second: 10, icmp_burst: 5, ..BedConfig::default().limits };
    let mut bed = tunnel(BedConfig { limits, ..Default::default() });
    let packet = ip_packet(ip(A.host4), ip(B.host4), protocol::UDP, 1, &[0; 30]);
    let frame = frame(A.host_mac, A.lan_mac, &packet);
    for _ in 0..30 {
        assert!(bed.host_a.inject(&frame));
        bed.steps(1);
    }
    assert_eq!(received(&mut bed.host_a).len(), 5);
    bed.now += Duration::from_millis(300);
    for _ in 0..30 {
        assert!(bed.host_a.inject(&frame));
        bed.steps(1);
    }
    bed.steps(1);
    assert_eq!(received(&mut bed.host_a).len(), 3);
    assert_eq!(bed.a.drops(WorkerDrop::TtlExpired), 60);
    assert_eq!(bed.a.sum(Row::Generated), 8);
}

#[test]
fn the_host_sends_and_receives_inside_the_tunnel() {
    let mut bed = tunnel(BedConfig::default());
    let packet = datagram(ip(A.gateway4), ip(B.host4), 1, 100);
    bed.a.hosts[0].send(packet.clone()).unwrap();
    bed.steps(4);
    let got = received(&mut bed.host_b);
    // The host has forwarded it, so only B's hop counts.
    assert_eq!((number(&got[0]), got[0][8]), (1, 63));
    let answer = datagram(ip(B.host4), ip(A.gateway4), 2, 100);
    assert!(bed.host_b.inject(&frame(B.host_mac, B.lan_mac, &answer)));
    bed.steps(4);
    let got = bed.a.hosts[0].receive().unwrap();
    assert_eq!((number(&got), got[8]), (2, 63));
    assert_eq!(bed.a.sum(Row::ToHost), 1);
    // Too big, and told by the host port itself.
    let mut packet = datagram(ip(A.gateway4), ip(B.host4), 1, 1500);
    dont_fragment(&mut packet);
    bed.a.hosts[0].send(packet).unwrap();
    bed.steps(2);
    let (_, to, kind, code, _) = icmp(&bed.a.hosts[0].receive().unwrap());
    assert_eq!((to.as_str(), kind, code), (A.gateway4, 3, 4));
}

#[test]
fn a_pair_may_deliver_everything_to_the_host() {
    let mut bed = Bed::new(BedConfig::default());
    bed.policies(Action::Protect);
    let (spi_a, spi_b) = bed.allocate(0, 0);
    bed.a.add_inbound(1, Outer::V4, spi_a, 1);
    bed.a.add_outbound(1, Outer::V4, spi_b, 2);
    bed.a.dataplane.bind(PolicyId(1), PairId(1), Activation::Now).unwrap();
    let parameters = bed.b.parameters(1, Outer::V4, spi_b, 2);
    bed.b.dataplane.add_inbound(&parameters, Delivery::Host).unwrap();
    bed.steps(2);
    bed.send_a(false, 1, 100);
    bed.steps(3);
    assert!(received(&mut bed.host_b).is_empty());
    assert_eq!(number(&bed.b.hosts[0].receive().unwrap()), 1);
}

#[test]
fn ike_passes_any_policy_between_the_hosts_of_the_gateways() {
    let mut bed = Bed::new(BedConfig::default());
    for gateway in [&mut bed.a, &mut bed.b] {
        let mut selectors = gateway.selectors();
        selectors.truncate(1);
        selectors[0].local = range("0.0.0.0/0");
        selectors[0].remote = range("0.0.0.0/0");
        let policy = Policy { id: PolicyId(1), selectors, action: Action::Protect };
        gateway.dataplane.set_policies(&[policy]).unwrap();
    }
    bed.steps(2);
    for (port, body) in [(500, vec![1; 40]), (4500, vec![0; 40])] {
        let udp = wire::udp::emit(port, port, 8 + body.len() as u16, 0);
        let datagram = [udp.as_slice(), &body].concat();
        let packet = ip_packet(ip(A.wan4), ip(B.wan4), protocol::UDP, 64, &datagram);
        bed.a.hosts[0].send(packet.clone()).unwrap();
        bed.steps(3);
        assert_eq!(bed.b.hosts[0].receive(), Some(packet));
    }
    // And nothing else does.
    bed.a.hosts[0].send(datagram(ip(A.wan4), ip(B.wan4), 1, 100)).unwrap();
    bed.steps(2);
    assert_eq!(bed.a.sum(Row::Waiting), 1);
    assert_eq!(bed.wan.counts(Way::AToB).taken, 2);
}

#[test]
fn what_leads_nowhere_is_dropped_by_cause() {
    let mut bed = Bed::new(BedConfig::default());
    let mut selectors = bed.a.selectors();
    selectors.truncate(1);
    selectors[0].remote = range("0.0.0.0/0");
    let policy = Policy { id: PolicyId(1), selectors, action: Action::Bypass };
    bed.a.dataplane.set_policies(&[policy]).unwrap();
    bed.steps(2);
    let to = |bed: &mut Bed, address: &str, mac| {
        let packet = datagram(ip(A.host4), ip(address), 1, 100);
        assert!(bed.host_a.inject(&frame(A.host_mac, mac, &packet)));
        bed.steps(2);
    };
    to(&mut bed, "203.0.113.9", A.lan_mac);
    assert_eq!(bed.a.drops(WorkerDrop::Blackhole), 1);
    to(&mut bed, B.host4, B.lan_mac);
    assert_eq!(bed.a.drops(WorkerDrop::NotOurStation), 1);
    let mut arp = wire::ethernet::emit(A.lan_mac, A.host_mac, wire::ethernet::ARP).to_vec();
    arp.resize(60, 0);
    assert!(bed.host_a.inject(&arp));
    assert!(bed.host_a.inject(&arp[..9]));
    bed.steps(2);
    assert_eq!(bed.a.drops(WorkerDrop::NotIp), 2);
    let mut tagged = wire::ethernet::emit(A.lan_mac, A.host_mac, wire::ethernet::VLAN).to_vec();
    tagged.extend([0, 5, 8, 0]);
    tagged.extend(datagram(ip(A.host4), ip(B.host4), 1, 100));
    assert!(bed.host_a.inject(&tagged));
    bed.steps(2);
    assert_eq!(bed.a.drops(WorkerDrop::WrongVlan), 1);
    // No route at all.
    let empty = ForwardingTable { routes: RouteTable::new().into(), ..table(A, B, 1500, true) };
    bed.a.dataplane.set_forwarding(empty).unwrap();
    bed.steps(2);
    // Nor for the error about it.
    to(&mut bed, B.host4, A.lan_mac);
    assert_eq!(bed.a.drops(WorkerDrop::NoRoute), 2);
    // A port that the links do not name.
    let mut routes = RouteTable::new();
    routes.insert(ip("0.0.0.0"), 0, Route::OnLink(crate::PortId(7))).unwrap();
    let links: Vec<Link> = table(A, B, 1500, true).links.to_vec();
    let strange =
        ForwardingTable { routes: routes.into(), links: links.into(), ..table(A, B, 1500, true) };
    bed.a.dataplane.set_forwarding(strange).unwrap();
    bed.steps(2);
    to(&mut bed, B.host4, A.lan_mac);
    assert_eq!(bed.a.drops(WorkerDrop::NoRoute), 4);
}

#[test]
fn a_reassembled_packet_reaches_the_owner_of_its_sa() {
    let mut bed = Bed::new(BedConfig { workers: 2, ..Default::default() });
    bed.policies(Action::Protect);
    bed.install(1, Outer::V4Udp, 0, 1);
    // What A sends is caught by hand and given to B as if the kernel had put it together.
    let mut frames = Vec::new();
    bed.send_a(false, 3, 1000);
    bed.a.step(bed.now);
    bed.a.step(bed.now);
    for worker in &mut bed.b.workers {
        let mut pool = Vec::new();
        worker.ports[1].port.receive(&mut worker.pool, &mut pool, 8);
        frames.extend(pool.iter().map(|f| f.data().to_vec()));
        for frame in pool {
            worker.free(frame);
        }
    }
    assert_eq!(frames.len(), 1);
    bed.b.dataplane.inject(frames[0][14..].to_vec());
    bed.steps(2);
    assert_eq!(number(&received(&mut bed.host_b)[0]), 3);
    assert_eq!(bed.b.workers[1].account().get(Row::Received), 1);
    let first = Event::FirstInbound { pair: PairId(1), arrived_at: core(1) };
    assert!(bed.b.events.contains(&first));
}

#[test]
fn what_is_for_the_gateway_and_carries_nothing_is_dropped_by_cause() {
    let mut bed = tunnel(BedConfig::default());
    let to_gateway = |bed: &mut Bed, mut packet: Vec<u8>, fragment: bool| {
        if fragment {
            packet[6] = 0x20;
            packet[10..12].fill(0);
            let sum = wire::checksum::of(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        assert!(bed.host_a.inject(&frame(A.host_mac, A.lan_mac, &packet)));
        bed.steps(1);
    };
    let udp = |port, body: &[u8]| {
        let header = wire::udp::emit(port, port, 8 + body.len() as u16, 0);
        let datagram = [header.as_slice(), body].concat();
        ip_packet(ip(A.host4), ip(A.wan4), protocol::UDP, 64, &datagram)
    };
    to_gateway(&mut bed, udp(4500, &[0xff]), false);
    assert_eq!(bed.a.drops(WorkerDrop::KeepAlive), 1);
    to_gateway(&mut bed, udp(4500, &[1; 64]), true);
    assert_eq!(bed.a.drops(WorkerDrop::FragmentToUs), 1);
    for _ in 0..257 {
        to_gateway(&mut bed, udp(500, &[1; 40]), false);
    }
    assert_eq!(bed.a.sum(Row::ToHost), 256);
    assert_eq!(bed.a.drops(WorkerDrop::HostFull), 1);
    bed.a.workers[0].host = crate::HostPort::None;
    to_gateway(&mut bed, udp(500, &[1; 40]), false);
    assert_eq!(bed.a.drops(WorkerDrop::NoHost), 1);
    bed.a.assert_no_frame_is_missing();
}

#[test]
fn a_full_transmit_ring_drops_and_counts_and_goes_on() {
    let mut bed = tunnel(BedConfig { wan_ring: 8, ..Default::default() });
    for n in 0..20 {
        bed.send_a(false, n, 100);
    }
    bed.a.step(bed.now);
    assert_eq!((bed.a.sum(Row::Sent), bed.a.drops(WorkerDrop::TransmitFull)), (8, 12));
    bed.steps(3);
    assert_eq!(received(&mut bed.host_b).len(), 8);
    bed.send_a(false, 20, 100);
    bed.steps(3);
    assert_eq!(received(&mut bed.host_b).len(), 1);
    bed.a.assert_no_frame_is_missing();
}
