use crate::ah::Ah;
use crate::arp::{Arp, Operation};
use crate::ecn::Ecn;
use crate::esp::{Encapsulated, Esp};
use crate::ethernet::{self, Frame, Mac};
use crate::icmp::{self, Icmp};
use crate::ip::{self, Fragment, Ip};
use crate::ipv4::Ipv4;
use crate::ipv6::{self, Ipv6};
use crate::tcp::{self, Tcp};
use crate::udp::{self, Udp};
use crate::{Malformed, checksum, ipv4, protocol};
use core::net::{IpAddr, Ipv6Addr};
use proptest::prelude::*;

/// Calls every accessor and every edit on `bytes` as each header in turn.
fn touch(bytes: &[u8]) {
    if let Ok(frame) = Frame::parse(bytes) {
        let _ = (frame.destination(), frame.source(), frame.ether_type());
        assert!(frame.vlans().count() <= 2);
        assert_eq!(frame.header_len() + frame.payload().len(), bytes.len());
    }
    if let Ok(arp) = Arp::parse(bytes) {
        let _ = (arp.operation(), arp.sender_mac(), arp.sender_ip());
        let _ = (arp.target_mac(), arp.target_ip());
    }
    if let Ok(ip) = Ipv4::parse(bytes) {
        let _ = (ip.id(), ip.dont_fragment(), ip.more_fragments(), ip.ttl(), ip.protocol());
        let _ = (ip.checksum(), ip.checksum_ok(), ip.source(), ip.destination());
        assert!(ip.fragment_offset() <= 65_528);
        assert_eq!(ip.options().len() + 20, ip.header_len());
        assert_eq!(ip.payload().len() + ip.header_len(), ip.total_len());
        assert!(ip.total_len() <= bytes.len());
    }
    if let Ok(ip) = Ipv6::parse(bytes) {
        let _ = (ip.next_header(), ip.hop_limit(), ip.source(), ip.destination());
        assert!(ip.flow_label() < 1 << 20);
        assert_eq!(ip.payload().len() + ipv6::HEADER_LEN, ip.total_len());
        for at in [ip.upper_layer(), ip.transport_insertion()].into_iter().flatten() {
            assert!(at.offset <= ip.total_len());
            assert_eq!(bytes[at.named_at], at.protocol);
        }
    }
    if let Ok(packet) = Ip::parse(bytes) {
        let _ = (packet.source(), packet.destination(), packet.traffic_class());
        let _ = (packet.hop_limit(), packet.dont_fragment());
        if let Ok(upper) = packet.upper() {
            let _ = upper.ports();
            assert_eq!(upper.offset + upper.bytes.len(), packet.total_len());
            assert_eq!(bytes[upper.named_at], upper.protocol);
            touch_upper(upper.bytes);
        }
    }
    touch_upper(bytes);
    let mut edited = bytes.to_vec();
    let _ = ip::decrement_hop_limit(&mut edited);
    ip::set_traffic_class(&mut edited, 0xff);
    ip::repair_upper_checksum(&mut edited);
    ipv4::set_len_and_protocol(&mut edited, 7, 7);
    ipv6::set_payload_len(&mut edited, 7);
    let _ = tcp::clamp_mss(&mut edited, 1000);
    assert_eq!(edited.len(), bytes.len());
    let mut out = [0; 1500];
    for source in [IpAddr::from([192, 0, 2, 1]), Ipv6Addr::LOCALHOST.into()] {
        if let Some(len) = icmp::emit_error(icmp::Error::TooBig(1400), source, bytes, &mut out) {
            assert!(len <= icmp::MAX_ERROR_LEN);
            assert_eq!(Ip::parse(&out[..len]).unwrap().total_len(), len);
        }
    }
}

fn touch_upper(bytes: &[u8]) {
    if let Ok(udp) = Udp::parse(bytes) {
        let _ = (udp.source_port(), udp.destination_port(), udp.checksum());
        let _ = Encapsulated::parse(udp.payload());
    }
    if let Ok(tcp) = Tcp::parse(bytes) {
        let _ = (tcp.source_port(), tcp.destination_port(), tcp.sequence(), tcp.flags());
        let _ = (tcp.is_syn(), tcp.mss(), tcp.payload());
    }
    if let Ok(icmp) = Icmp::parse(bytes) {
        let _ = (icmp.kind(), icmp.code(), icmp.word(), icmp.body());
    }
    if let Ok(esp) = Esp::parse(bytes) {
        let _ = (esp.spi(), esp.sequence(), esp.payload());
    }
    if let Ok(ah) = Ah::parse(bytes) {
        let _ = (ah.next_header(), ah.spi(), ah.sequence(), ah.icv());
        assert_eq!(ah.header_len() + ah.payload().len(), bytes.len());
    }
    let _ = Encapsulated::parse(bytes);
}

/// A packet of each kind, to be mutated.
fn good_packets() -> Vec<Vec<u8>> {
    let v4 = |protocol: u8, body: &[u8]| {
        let header = ipv4::Header {
            traffic_class: 0,
            total_len: 20 + body.len() as u16,
            id: 1,
            dont_fragment: true,
            ttl: 64,
            protocol,
            source: [192, 0, 2, 1].into(),
            destination: [192, 0, 2, 2].into(),
        };
        [&header.emit()[..], body].concat()
    };
    let v6 = |next_header: u8, body: &[u8]| {
        let header = ipv6::Header {
            traffic_class: 0,
            flow_label: 5,
            payload_len: body.len() as u16,
            next_header,
            hop_limit: 64,
            source: Ipv6Addr::LOCALHOST,
            destination: Ipv6Addr::LOCALHOST,
        };
        [&header.emit()[..], body].concat()
    };
    let udp = [&udp::emit(500, 4500, 12, 0)[..], &[1, 2, 3, 4]].concat();
    let tcp = [&[0; 12][..], &[0x70, 2], &[0; 6], &[1, 1, 2, 4, 5, 180, 1, 0], &[9; 4]].concat();
    let chain = [
        &[43, 0, 0, 0, 0, 0, 0, 0][..],
        &[60, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[44, 0, 1, 4, 0, 0, 0, 0],
        &[17, 0, 0, 1, 0, 0, 0, 9],
        &udp,
    ]
    .concat();
    vec![
        v4(17, &udp),
        v4(6, &tcp),
        v4(1, &[8, 0, 0, 0, 0, 0, 0, 1]),
        v6(17, &udp),
        v6(0, &chain),
        v4(51, &[4, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 7]),
        [&ethernet::emit(Mac::BROADCAST, Mac([2; 6]), ethernet::ARP)[..], &[0; 28]].concat(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_accessor_fails_on_random_bytes(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        first in prop_oneof![Just(0x45u8), Just(0x4f), Just(0x60), any::<u8>()],
    ) {
        if let Some(b) = bytes.first_mut() {
            *b = first;
        }
        touch(&bytes);
    }

    #[test]
    fn no_accessor_fails_on_mutated_packets(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let packets = good_packets();
        let mut bytes = packets[which.index(packets.len())].clone();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        touch(&bytes);
    }

    #[test]
    fn the_checksum_is_the_one_of_rfc_1071(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        prop_assert_eq!(checksum::of(&bytes), !(sum as u16));
    }

    /// RFC 1624: after any edit the checksum is what a new computation gives.
    #[test]
    fn edits_keep_ipv4_checksums_right(
        class in any::<u8>(),
        new_class in any::<u8>(),
        ttl in 2u8..,
        id in any::<u16>(),
        address in any::<u32>(),
    ) {
        let header = ipv4::Header {
            traffic_class: class,
            total_len: 20,
            id,
            dont_fragment: false,
            ttl,
            protocol: 17,
            source: address.into(),
            destination: (!address).into(),
        };
        let mut packet = header.emit();
        prop_assert!(Ipv4::parse(&packet).unwrap().checksum_ok());
        prop_assert_eq!(ip::decrement_hop_limit(&mut packet), Some(ttl - 1));
        prop_assert!(Ipv4::parse(&packet).unwrap().checksum_ok());
        ip::set_traffic_class(&mut packet, new_class);
        let ip = Ipv4::parse(&packet).unwrap();
        prop_assert!(ip.checksum_ok());
        prop_assert_eq!((ip.ttl(), ip.traffic_class()), (ttl - 1, new_class));
    }

    #[test]
    fn the_short_way_of_looking_at_a_header_s_checksum_is_the_long_one(
        mut header: [u8; 20],
        sound: bool,
        filled in prop_oneof![Just(None), any::<u8>().prop_map(Some)],
    ) {
        if let Some(octet) = filled {
            header[2..].fill(octet);
        }
        header[0] = 0x45;
        if sound {
            header[10..12].fill(0);
            let sum = checksum::of(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        let slow = checksum::Sum::ZERO.add_bytes(&header).fold() == 0xffff;
        prop_assert!(slow || !sound);
        prop_assert_eq!(checksum::is_right(&header), slow);
    }

    #[test]
    fn clamping_keeps_tcp_checksums_right(
        all in prop::collection::vec((any::<u16>(), 0usize..3), 1..5),
        limit in any::<u16>(),
        payload in prop::collection::vec(any::<u8>(), 0..10),
    ) {
        // Which of several a receiver obeys is its own affair, so all are lowered.
        let mut options = Vec::new();
        for (mss, nops) in &all {
            options.resize(options.len() + nops, 1);
            options.extend([2, 4]);
            options.extend(mss.to_be_bytes());
        }
        options.resize(options.len().next_multiple_of(4), 0);
        let mut segment = vec![0; 12];
        segment.push((((20 + options.len()) / 4) << 4) as u8);
        segment.extend([2, 0, 0, 0, 0, 0, 0]);
        segment.extend(&options);
        segment.extend(&payload);
        let sum = checksum::of(&segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        let is_over = all.iter().any(|(mss, _)| *mss > limit);
        prop_assert_eq!(tcp::clamp_mss(&mut segment, limit), is_over);
        prop_assert_eq!(Tcp::parse(&segment).unwrap().mss(), Some(all[0].0.min(limit)));
        let mut at = 20;
        for (mss, nops) in &all {
            at += nops + 4;
            prop_assert_eq!(&segment[at - 2..at], &mss.min(&limit).to_be_bytes());
        }
        prop_assert_eq!(checksum::Sum::ZERO.add_bytes(&segment).fold(), 0xffff);
    }
}

/// RFC 1624 §3: of every sum that is computed, the one that is computed anew with a TTL one less.
#[test]
fn a_ttl_less_keeps_every_checksum_right() {
    let mut header = [0x45, 0, 0, 20, 0, 0, 0, 0, 0, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    for id in 0..=u16::MAX {
        for ttl in [2, 64, 255] {
            [header[4], header[5]] = id.to_be_bytes();
            (header[8], header[10], header[11]) = (ttl, 0, 0);
            let sum = checksum::of(&header);
            [header[10], header[11]] = sum.to_be_bytes();
            assert_eq!(ip::decrement_hop_limit(&mut header), Some(ttl - 1));
            let decremented = [header[10], header[11]];
            (header[10], header[11]) = (0, 0);
            assert_eq!(decremented, checksum::of(&header).to_be_bytes(), "id {id}, TTL {ttl}");
        }
    }
}

#[test]
fn a_ttl_of_one_is_not_decremented() {
    for (at, mut packet) in [(8, good_packets()[0].clone()), (7, good_packets()[3].clone())] {
        packet[at] = 1;
        let before = packet.clone();
        assert_eq!(ip::decrement_hop_limit(&mut packet), None);
        assert_eq!(packet, before);
    }
}

#[test]
fn extension_headers_are_walked_to_the_upper_layer_and_not_forever() {
    let packet = &good_packets()[4];
    let ip = Ipv6::parse(packet).unwrap();
    let upper = ip.upper_layer().unwrap();
    assert_eq!((upper.protocol, upper.offset), (protocol::UDP, 80));
    assert_eq!(upper.fragment, Some((0, true)));
    // Behind hop-by-hop and routing, before the destination options that follow them.
    let insertion = ip.transport_insertion().unwrap();
    assert_eq!((insertion.protocol, insertion.offset), (protocol::DESTINATION_OPTIONS, 64));
    let chain = [60, 0, 0, 0, 0, 0, 0, 0].repeat(9);
    let mut long = packet[..40].to_vec();
    (long[4], long[5], long[6]) = (0, 72, 60);
    long.extend(chain);
    assert_eq!(Ipv6::parse(&long).unwrap().upper_layer(), Err(Malformed::Options));
}

#[test]
fn a_later_fragment_shows_no_ports() {
    let mut packet = good_packets()[0].clone();
    assert_eq!(Ip::parse(&packet).unwrap().upper().unwrap().ports(), Some((500, 4500)));
    packet[7] = 1;
    let ip = Ip::parse(&packet).unwrap();
    let upper = ip.upper().unwrap();
    assert_eq!((upper.fragment, upper.ports()), (Fragment::Later, None));
}

#[test]
fn vlan_tags_are_read_and_a_third_is_refused() {
    let mut frame = ethernet::emit(Mac([2; 6]), Mac([4; 6]), ethernet::SERVICE_VLAN).to_vec();
    frame.extend([0x20, 7, 0x81, 0, 0, 9, 8, 0, 0x45]);
    let parsed = Frame::parse(&frame).unwrap();
    assert_eq!(parsed.vlans().collect::<Vec<_>>(), [7, 9]);
    assert_eq!((parsed.ether_type(), parsed.payload()), (ethernet::IPV4, &[0x45][..]));
    frame.splice(14..14, [0, 1, 0x81, 0]);
    assert_eq!(Frame::parse(&frame).unwrap_err(), Malformed::Options);
}

#[test]
fn arp_is_read() {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend([2, 2, 2, 2, 2, 2, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    let arp = Arp::parse(&packet).unwrap();
    assert_eq!(arp.operation(), Operation::Request);
    assert_eq!((arp.sender_mac(), arp.sender_ip()), (Mac([2; 6]), [10, 0, 0, 1].into()));
    assert_eq!(arp.target_ip(), core::net::Ipv4Addr::new(10, 0, 0, 2));
    packet[4] = 8;
    assert_eq!(Arp::parse(&packet).unwrap_err(), Malformed::Version);
}

/// RFC 3948 §2.
#[test]
fn what_port_4500_carries_is_told_by_its_first_bytes() {
    assert!(matches!(Encapsulated::parse(&[0xff]), Ok(Encapsulated::KeepAlive)));
    assert!(matches!(Encapsulated::parse(&[0, 0, 0, 0, 9]), Ok(Encapsulated::Ike([9]))));
    assert!(matches!(Encapsulated::parse(&[0, 0, 1, 0, 0, 0, 0, 1]), Ok(Encapsulated::Esp(_))));
    for short in [&[][..], &[0xfe], &[0xff, 0xff], &[0, 0, 1, 0, 0, 0, 0]] {
        assert!(Encapsulated::parse(short).is_err());
    }
}

/// RFC 6040 §4.2 Figure 4 in full is tested where packets are decapsulated; here that the codepoints are
/// those of RFC 3168.
#[test]
fn ecn_codepoints_round_trip() {
    for bits in 0..4 {
        assert_eq!(Ecn::of(0xfc | bits).bits(), bits);
    }
    assert_eq!(Ecn::of(3), Ecn::Ce);
    assert_eq!(Ecn::of(2), Ecn::Ect0);
}

#[test]
fn icmp_errors_quote_the_packet_and_are_never_about_errors() {
    let packets = good_packets();
    let mut out = [0; 1500];
    let source = IpAddr::from([192, 0, 2, 9]);
    let len = icmp::emit_error(icmp::Error::TooBig(1400), source, &packets[0], &mut out).unwrap();
    let ip = Ipv4::parse(&out[..len]).unwrap();
    assert!(ip.checksum_ok());
    assert_eq!((ip.source(), ip.destination()), ([192, 0, 2, 9].into(), [192, 0, 2, 1].into()));
    let message = Icmp::parse(ip.payload()).unwrap();
    assert_eq!((message.kind(), message.code(), message.word()), (3, 4, 1400));
    assert_eq!(message.body(), packets[0]);
    assert_eq!(checksum::Sum::ZERO.add_bytes(ip.payload()).fold(), 0xffff);
    let about_error = out[..len].to_vec();
    assert_eq!(icmp::emit_error(icmp::Error::TimeExceeded, source, &about_error, &mut out), None);
    // An echo may be answered with an error, a packet from or to a group may not.
    assert!(icmp::may_answer(&packets[2]));
    let mut multicast = packets[0].clone();
    multicast[16] = 224;
    assert!(!icmp::may_answer(&multicast));

    let v6 = &packets[3];
    let source = Ipv6Addr::LOCALHOST;
    let len = icmp::emit_error(icmp::Error::TooBig(1280), source.into(), v6, &mut out).unwrap();
    let ip = Ipv6::parse(&out[..len]).unwrap();
    let sum = checksum::pseudo_v6(ip.source(), ip.destination(), 58, ip.payload().len() as u32);
    assert_eq!(sum.add_bytes(ip.payload()).fold(), 0xffff);
    assert_eq!(Icmp::parse(ip.payload()).unwrap().kind(), 2);
}

/// RFC 3948 §3.1.2.
#[test]
fn upper_checksums_are_right_after_repair() {
    let packets = good_packets();
    let mut tcp = packets[1].clone();
    tcp[12] ^= 0x55;
    ip::repair_upper_checksum(&mut tcp);
    let ip = Ipv4::parse(&tcp).unwrap();
    let sum = checksum::pseudo_v4(ip.source(), ip.destination(), 6, ip.payload().len() as u16);
    assert_eq!(sum.add_bytes(ip.payload()).fold(), 0xffff);
    let mut udp4 = packets[0].clone();
    ip::repair_upper_checksum(&mut udp4);
    assert_eq!(udp4, packets[0], "none stays none");
    udp4[26] = 1;
    ip::repair_upper_checksum(&mut udp4);
    let ip = Ipv4::parse(&udp4).unwrap();
    let sum = checksum::pseudo_v4(ip.source(), ip.destination(), 17, ip.payload().len() as u16);
    assert_eq!(sum.add_bytes(ip.payload()).fold(), 0xffff);
    // What lies behind the datagram is not part of it (RFC 768), and one that is longer than the packet is left alone.
    let datagram = udp4[20..].to_vec();
    for behind in 1..9usize {
        let mut longer = udp4.clone();
        longer.extend(vec![0xee; behind]);
        let len = longer.len() as u16;
        longer[2..4].copy_from_slice(&len.to_be_bytes());
        longer[26] ^= 0x77;
        ip::repair_upper_checksum(&mut longer);
        assert_eq!(longer[20..udp4.len()], datagram, "{behind}");
        longer[25] += behind as u8 + 1;
        let before = longer.clone();
        ip::repair_upper_checksum(&mut longer);
        assert_eq!(longer, before);
    }
    let mut udp6 = packets[3].clone();
    ip::repair_upper_checksum(&mut udp6);
    let ip = Ipv6::parse(&udp6).unwrap();
    let sum = checksum::pseudo_v6(ip.source(), ip.destination(), 17, ip.payload().len() as u32);
    assert_eq!(sum.add_bytes(ip.payload()).fold(), 0xffff);
}
