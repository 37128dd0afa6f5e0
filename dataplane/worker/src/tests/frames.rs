//! Frames: VLAN tags, fragments of what has options, protected packets in fragments, ports without carrier.

use super::bed::*;
use crate::{Link, PortId, WorkerDrop};
use core::num::NonZeroU16;
use ipsec::drop_cause::DropCause;
use ipsec::selector::Action;
use stats::Worker as Row;

fn tunnel(config: BedConfig, outer: Outer) -> Bed {
    let mut bed = Bed::new(config);
    bed.policies(Action::Protect);
    bed.install(1, outer, 0, 0);
    bed
}

/// Puts tags, each type and control information, outermost first.
fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for (kind, tci) in tags {
        out.extend(kind.to_be_bytes());
        out.extend(tci.to_be_bytes());
    }
    out.extend(&frame[12..]);
    out
}

#[test]
fn a_port_that_is_a_vlan_takes_its_tag_off_and_puts_it_on() {
    let vlan = NonZeroU16::new(10);
    // Both ports of both gateways: ESP is tagged, too.
    let mut bed = tunnel(BedConfig { vlan, ..Default::default() }, Outer::V4);
    let plain = |n| frame(A.host_mac, A.lan_mac, &datagram(ip(A.host4), ip(B.host4), n, 200));
    // Several of one flow: what is remembered of it holds for tagged frames.
    for n in 0..20 {
        let tci = if n % 2 == 0 { 10 } else { 0xe00a };
        assert!(bed.host_a.inject(&tagged(&plain(n), &[(0x8100, tci)])));
        bed.steps(4);
    }
    let frames = bed.host_b.collect();
    assert_eq!(frames.len(), 20);
    for (n, got) in (0..).zip(&frames) {
        assert_eq!(got[12..16], [0x81, 0, 0, 10], "priority is not carried");
        assert_eq!((got[..6].to_vec(), number(&got[18..])), (B.host_mac.0.to_vec(), n));
    }
    let others: [&[(u16, u16)]; 6] = [
        &[],
        &[(0x8100, 0)],
        &[(0x8100, 11)],
        &[(0x8100, 10), (0x8100, 10)],
        &[(0x88a8, 10)],
        &[(0x88a8, 10), (0x8100, 10)],
    ];
    for tags in others {
        assert!(bed.host_a.inject(&tagged(&plain(99), tags)));
    }
    bed.steps(4);
    assert_eq!(bed.a.drops(WorkerDrop::WrongVlan), others.len() as u64);
    assert_eq!(bed.host_b.collect(), Vec::<Vec<u8>>::new());
    bed.a.assert_no_frame_is_missing();
    bed.b.assert_no_frame_is_missing();
}

#[test]
fn a_port_without_a_vlan_takes_priority_tags_for_none() {
    let mut bed = tunnel(BedConfig::default(), Outer::V4);
    let plain = frame(A.host_mac, A.lan_mac, &datagram(ip(A.host4), ip(B.host4), 5, 200));
    assert!(bed.host_a.inject(&tagged(&plain, &[(0x8100, 0xe000)])));
    assert!(bed.host_a.inject(&tagged(&plain, &[(0x8100, 1)])));
    assert!(bed.host_a.inject(&tagged(&plain, &[(0x88a8, 0)])));
    bed.steps(4);
    let packets = received(&mut bed.host_b);
    assert_eq!(packets.iter().map(|p| number(p)).collect::<Vec<_>>(), [5]);
    assert_eq!(bed.a.drops(WorkerDrop::WrongVlan), 2);
}

/// RFC 791 §3.1: which options a fragment has.
#[test]
fn fragments_take_along_the_options_that_say_so() {
    let mut bed = tunnel(BedConfig::default(), Outer::V4);
    let mut packet = datagram(ip(A.host4), ip(B.host4), 7, 1480);
    // Record route, which only the first has, and router alert.
    let options = [7, 7, 4, 0, 0, 0, 0, 1, 0x94, 4, 0, 0];
    packet.splice(20..20, options);
    packet[0] = 0x48;
    packet[2..4].copy_from_slice(&1492u16.to_be_bytes());
    packet[10..12].fill(0);
    let sum = wire::checksum::of(&packet[..32]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    assert!(bed.host_a.inject(&frame(A.host_mac, A.lan_mac, &packet)));
    bed.steps(4);
    let fragments = received(&mut bed.host_b);
    assert_eq!(fragments.len(), 2, "{:?}", bed.a.workers[0].account());
    let mut whole: Vec<u8> = Vec::new();
    for (index, fragment) in fragments.iter().enumerate() {
        let ip = wire::ipv4::Ipv4::parse(fragment).unwrap();
        assert!(ip.checksum_ok());
        assert_eq!((ip.fragment_offset(), ip.more_fragments()), (whole.len(), index == 0));
        let header = &fragment[20..ip.header_len()];
        assert_eq!(header, if index == 0 { &options[..] } else { &[0x94, 4, 0, 0][..] });
        whole.extend(ip.payload());
    }
    assert_eq!(whole, packet[32..]);
    assert_eq!(bed.a.all_drops(), 0);
}

/// RFC 2473 §7.1: an IPv6 packet of 1280 bytes goes, whatever the path takes. (What reassembles it is the peer's kernel:
/// `tunnels_over_small_links`.)
#[test]
fn the_smallest_ipv6_packet_makes_protected_fragments() {
    for (outer, wan_mtu) in
        [(Outer::V6, 1280), (Outer::V6Udp, 1280), (Outer::V4, 1280), (Outer::V4, 600)]
    {
        let mut bed = tunnel(BedConfig { wan_mtu, ..Default::default() }, outer);
        bed.send_a(true, 1, 1280);
        bed.steps(4);
        assert_eq!((bed.a.sum(Row::SealedPackets), bed.a.all_drops()), (1, 0), "{outer:?}");
        let fragments = bed.b.drops(WorkerDrop::FragmentToUs);
        assert_eq!(fragments, if wan_mtu == 1280 { 2 } else { 3 }, "{outer:?} {wan_mtu}");
        assert_eq!(bed.a.sum(Row::Generated), fragments - 1);
        // One byte more, and its sender is told.
        bed.send_a(true, 2, 1281);
        bed.steps(4);
        assert_eq!(bed.a.sum(Row::SealedPackets), 1);
        assert_eq!(received(&mut bed.host_a).len(), 1, "an ICMP error");
        bed.a.assert_no_frame_is_missing();
    }
}

#[test]
fn what_is_for_a_port_without_carrier_is_dropped_and_goes_on_when_it_is_back() {
    let mut bed = tunnel(BedConfig::default(), Outer::V4);
    let carrier = |port: PortId, up: bool| {
        let mut table = table(B, A, 1500, true);
        let links: Vec<Link> = (0..)
            .map(PortId)
            .zip(table.links.iter())
            .map(|(id, link)| Link { up: link.up && (up || id != port), ..*link })
            .collect();
        table.links = links.into();
        table
    };
    // Known flows as well as new ones.
    for (n, (port, up)) in
        [(LAN, true), (LAN, false), (LAN, true), (WAN, false), (WAN, true)].into_iter().enumerate()
    {
        bed.b.dataplane.set_forwarding(carrier(port, up)).unwrap();
        bed.steps(2);
        let before = bed.b.drops(WorkerDrop::PortDown);
        for _ in 0..3 {
            bed.send_a(false, 7, 200);
            bed.send_b(false, 7, 200);
            bed.steps(4);
        }
        let (lan, wan) = (port == LAN && !up, port == WAN && !up);
        let at_a = received(&mut bed.host_a);
        // Who sent it hears of it, through the tunnel.
        let (errors, packets): (Vec<_>, Vec<_>) = at_a.iter().partition(|packet| packet[9] == 1);
        assert_eq!(errors.len(), if lan { 3 } else { 0 });
        let arrived = (received(&mut bed.host_b).len(), packets.len());
        let answers = if lan { 0 } else { 3 };
        assert_eq!(arrived, (answers, if wan { 0 } else { 3 }), "step {n}");
        assert_eq!(bed.b.drops(WorkerDrop::PortDown) - before, if lan || wan { 3 } else { 0 });
    }
    bed.b.assert_no_frame_is_missing();
}

/// RFC 1812 §5.2.2, RFC 1122 §3.2.1.2: what says of itself that it is broken goes no further, whichever way it would have taken.
#[test]
fn a_wrong_header_checksum_is_noticed() {
    let mut bed = tunnel(BedConfig::default(), Outer::V4);
    // The flow is known from here on.
    bed.send_a(false, 1, 100);
    bed.steps(2);
    assert_eq!(received(&mut bed.host_b).len(), 1);
    // TOS, identification, TTL, checksum, destination.
    for (dropped, at) in (1..).zip([1, 5, 8, 10, 19]) {
        let mut packet = datagram(ip(A.host4), ip(B.host4), 2, 100);
        packet[at] ^= 0x10;
        assert!(bed.host_a.inject(&frame(A.host_mac, A.lan_mac, &packet)));
        bed.steps(2);
        assert_eq!(bed.a.drops(DropCause::MalformedHeader), dropped, "octet {at}");
    }
    assert_eq!(bed.a.sum(Row::Sent), 1);
    // Around a protected packet: what it would say of congestion, for one.
    let esp = ip_packet(ip(B.wan4), ip(A.wan4), wire::protocol::ESP, 64, &[9; 60]);
    for (dropped, at) in (6..).zip([1, 8, 15]) {
        let mut packet = esp.clone();
        packet[at] ^= 1;
        assert!(bed.host_a.inject(&frame(A.host_mac, A.lan_mac, &packet)));
        bed.steps(2);
        assert_eq!(bed.a.drops(DropCause::MalformedHeader), dropped, "octet {at}");
    }
    assert_eq!(bed.a.sum(Row::Received), 9);
}
