//! The attack classes `esp-*` (names as in the project's catalogue), one test each. `esp-short` and
//! `esp-seq-exhaust` are in `mangled` and `lifetimes`.

use crate::fixture::{Shape, Tunnel, addr, udp_packet};
use crate::round_trip::ipv4_checksum;
use ipsec::aead::{GcmKey, seal_one};
use ipsec::classify::{Class, LocalAddresses, classify};
use ipsec::drop_cause::{DropCause, QuickModeRow};
use ipsec::esp::inbound::InboundSa;
use ipsec::inbound::{self, InboundPacket};
use ipsec::packet::{OwnedPacket, PacketBuffer};
use ipsec::sa::{DscpRule, HeaderRules};
use ipsec::selector::{AddressRange, Ports, Selector};
use wire::{esp, ipv4};

/// What somebody who holds the keys of `Shape::default()` can send: any text, trailer included, behind
/// an outer header with this traffic class.
fn forge(sequence: u32, class: u8, text: &[u8]) -> Vec<u8> {
    let key = GcmKey::new(&(1..=16).collect::<Vec<_>>()).unwrap();
    let clear = esp::emit(0x3400, sequence);
    let iv = u64::from(sequence).to_be_bytes();
    let nonce = [&[17, 18, 19, 20][..], &iv].concat().try_into().unwrap();
    let (mut data, mut tag) = (text.to_vec(), [0; 16]);
    seal_one(&key, nonce, &clear, &mut data, &mut tag).unwrap();
    let header = ipv4::Header {
        traffic_class: class,
        total_len: (20 + 8 + 8 + text.len() + 16) as u16,
        id: 0,
        dont_fragment: true,
        ttl: 64,
        protocol: 50,
        source: [192, 0, 2, 1].into(),
        destination: [192, 0, 2, 2].into(),
    };
    [&header.emit()[..], &clear, &iv, &data, &tag].concat()
}

/// The text of `inner` with the padding and next header that a sender gives it.
fn text(inner: &[u8], next_header: u8) -> Vec<u8> {
    let pad = (4 - (inner.len() + 2) % 4) % 4;
    let mut text = inner.to_vec();
    text.extend(1..=pad as u8);
    text.extend([pad as u8, next_header]);
    text
}

fn refused(inner: &[u8]) -> DropCause {
    let mut tunnel = Tunnel::new(Shape::default());
    let cause = tunnel.refused(&forge(1, 0, inner));
    assert_eq!(tunnel.received, Default::default());
    // Authentic it was: the number is used up, whatever was inside (RFC 4303 §3.4.3).
    assert_eq!(tunnel.refused(&forge(1, 0, inner)), DropCause::ReplayedDuplicate);
    cause
}

#[test]
fn esp_pad_length() {
    // 48 bytes of packet, two of padding: only a pad length of 2 says so.
    let inner = Shape::default().packet(20);
    for pad_len in 0..=255u8 {
        let text = [&inner[..], &[1, 2], &[pad_len, 4]].concat();
        let mut tunnel = Tunnel::new(Shape::default());
        let (outcome, _, _) = tunnel.open(&forge(1, 0, &text));
        match pad_len {
            // Taken for padding of the length-hiding kind (RFC 4303 §2.7).
            0 | 2 => assert!(matches!(outcome, inbound::Outcome::Accepted(_))),
            _ => assert_eq!(outcome, inbound::Outcome::Dropped(DropCause::BadPadding)),
        }
    }
    // Longer than all of the text, all of it exactly, and one more.
    for len in [4usize, 8, 64] {
        for pad_len in [len - 1, len, 255] {
            let mut text = vec![0; len];
            text[len - 2..].copy_from_slice(&[pad_len as u8, 4]);
            assert_eq!(refused(&text), DropCause::BadPadding, "{len} {pad_len}");
        }
        // Exactly all of it: an empty payload is no packet.
        let mut text: Vec<u8> = (1..).take(len - 2).collect();
        text.extend([(len - 2) as u8, 4]);
        assert_eq!(refused(&text), DropCause::InnerMalformed);
    }
    // Padding that is not 1, 2, 3.
    let mut wrong = text(&Shape::default().packet(20), 4);
    let at = wrong.len() - 3;
    assert_eq!(wrong[at], 2);
    wrong[at] = 0;
    assert_eq!(refused(&wrong), DropCause::BadPadding);
    assert_eq!(DropCause::BadPadding.row(), Some(QuickModeRow::NotDecrypted));
}

#[test]
fn esp_inner_length() {
    let good = Shape::default().packet(20);
    let edited = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        edit(&mut packet);
        ipv4_checksum(&mut packet);
        refused(&text(&packet, 4))
    };
    let larger = edited(&|p| p[3] += 1);
    assert_eq!(larger, DropCause::InnerMalformed);
    assert_eq!(edited(&|p| p[2..4].fill(0)), DropCause::InnerMalformed);
    assert_eq!(edited(&|p| p[3] = 19), DropCause::InnerMalformed);
    assert_eq!(edited(&|p| p[0] = 0x44), DropCause::InnerMalformed);
    assert_eq!(edited(&|p| p[0] = 0x4f), DropCause::InnerMalformed);
    // A wrong header checksum, and next headers that promise the other version or none.
    let mut packet = good.clone();
    packet[10] ^= 1;
    assert_eq!(refused(&text(&packet, 4)), DropCause::InnerMalformed);
    assert_eq!(refused(&text(&good, 41)), DropCause::InnerMalformed);
    let v6 = udp_packet(addr("fd00::1"), addr("fd00::2"), 0, 4);
    assert_eq!(refused(&text(&v6, 4)), DropCause::InnerMalformed);
    let mut longer = v6.clone();
    longer[5] += 1;
    assert_eq!(refused(&text(&longer, 41)), DropCause::InnerMalformed);
    for next_header in (0..=255).filter(|n| ![4, 41, 59].contains(n)) {
        assert_eq!(refused(&text(&good, next_header)), DropCause::BadNextHeader);
    }
    // A dummy is swallowed, and is no error (RFC 4303 §2.6).
    assert_eq!(refused(&text(b"anything at all!", 59)), DropCause::Dummy);
    assert_eq!(DropCause::Dummy.row(), None);
    // What is behind the inner packet hides its length and is cut off (RFC 4303 §2.7).
    let mut tunnel = Tunnel::new(Shape::default());
    let hidden = [&good[..], &[0xaa; 700]].concat();
    assert_eq!(tunnel.opened(&forge(1, 0, &text(&hidden, 4))), good);
    assert_eq!(tunnel.received.bytes, good.len() as u64);
}

#[test]
fn esp_inner_policy() {
    let range = |text: &str, len| AddressRange::prefix(addr(text), len).unwrap();
    let selector = Selector {
        local: range("10.2.0.0", 16),
        remote: range("10.1.0.0", 16),
        protocol: Some(17),
        local_ports: Ports::Range(5002..=5002),
        remote_ports: Ports::Any,
    };
    let shape = Shape { selectors: Some(vec![selector]), ..Shape::default() };
    let (mut sequence, mut tunnel) = (0, Tunnel::new(shape));
    let mut send = |packet: &[u8]| {
        sequence += 1;
        tunnel.open(&forge(sequence, 0, &text(packet, 4))).0
    };
    let mismatch = inbound::Outcome::Dropped(DropCause::SelectorMismatch);
    let from_to =
        |source: &str, destination: &str| udp_packet(addr(source), addr(destination), 0, 8);
    let good = from_to("10.1.0.1", "10.2.0.2");
    assert!(matches!(send(&good), inbound::Outcome::Accepted(_)));
    // The subnet of another tunnel, our own side, loopback and multicast.
    for (source, destination) in [
        ("10.3.0.1", "10.2.0.2"),
        ("10.2.0.9", "10.2.0.2"),
        ("10.1.0.1", "10.4.0.2"),
        ("127.0.0.1", "10.2.0.2"),
        ("10.1.0.1", "127.0.0.1"),
        ("10.1.0.1", "224.0.0.1"),
    ] {
        assert_eq!(send(&from_to(source, destination)), mismatch);
    }
    let edit = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        edit(&mut packet);
        ipv4_checksum(&mut packet);
        packet
    };
    assert_eq!(send(&edit(&|p| p[9] = 6)), mismatch, "another protocol");
    assert_eq!(send(&edit(&|p| p[23] = 0)), mismatch, "another port");
    // A later fragment shows no ports, and this SA does not carry OPAQUE ones (RFC 4301 §7).
    assert_eq!(send(&edit(&|p| p[7] = 1)), mismatch, "later fragment");
    assert_eq!(DropCause::SelectorMismatch.row(), Some(QuickModeRow::NotDecrypted));
}

#[test]
fn esp_nested_loop() {
    // A packet of 100 layers: one call takes off one of them, and there is no way to ask for more.
    let depth = 100;
    let mut packet = udp_packet(addr("10.1.0.1"), addr("192.0.2.2"), 0, 8);
    for layer in 0..depth {
        packet = forge(1 + layer, 0, &text(&packet, 4));
    }
    let mut tunnel = Tunnel::new(Shape { window: 256, ..Shape::default() });
    let mut lens = vec![packet.len()];
    for _ in 0..depth {
        packet = tunnel.opened(&packet);
        lens.push(packet.len());
    }
    assert!(lens.is_sorted_by(|a, b| a > b));
    assert_eq!(tunnel.received.packets, u64::from(depth));
    let local = LocalAddresses::new([addr("192.0.2.2")]);
    assert!(matches!(classify(&packet, &local, 4500), Ok(Class::Clear { to_us: true, .. })));
}

#[test]
fn esp_replay() {
    let mut tunnel = Tunnel::new(Shape::default());
    let inner = text(&Shape::default().packet(8), 4);
    let sequences = [1, 2, 100, 37, 36, 37, 100, 1, 164, 100, 101, 0];
    for (received, sequence) in sequences.into_iter().enumerate() {
        let (outcome, _, _) = tunnel.open(&forge(sequence, 0, &inner));
        let expected = match (received, sequence) {
            (4, 36) | (7, 1) | (9, 100) | (11, 0) => Some(DropCause::ReplayedTooOld),
            (5, 37) | (6, 100) => Some(DropCause::ReplayedDuplicate),
            _ => None,
        };
        match expected {
            Some(cause) => {
                assert_eq!(outcome, inbound::Outcome::Dropped(cause), "{received}: {sequence}");
                assert_eq!(cause.row(), Some(QuickModeRow::Replay));
            }
            None => assert!(
                matches!(outcome, inbound::Outcome::Accepted(_)),
                "{received}: {sequence} {outcome:?}"
            ),
        }
    }
}

#[test]
fn esp_replay_within_one_burst() {
    // VPP: batch processing must look at the window again for each packet.
    let mut tunnel = Tunnel::new(Shape::default());
    let inner = text(&Shape::default().packet(8), 4);
    tunnel.opened(&forge(79, 0, &inner));
    for (sequences, expected) in [
        ([200, 81, 201, 202], [None, Some(DropCause::ReplayedTooOld), None, None]),
        (
            [203, 203, 81, 203],
            [
                None,
                Some(DropCause::ReplayedDuplicate),
                Some(DropCause::ReplayedTooOld),
                Some(DropCause::ReplayedDuplicate),
            ],
        ),
    ] {
        let mut burst = sequences.map(|sequence| {
            let packet = forge(sequence, 0, &inner);
            let header = tunnel.classify(&packet).unwrap();
            InboundPacket::new(OwnedPacket::new(&packet, 0, 0), header)
        });
        inbound::process_burst(&mut tunnel.inbound, &mut burst, &mut tunnel.received);
        for (packet, cause) in burst.iter().zip(expected) {
            match cause {
                Some(cause) => assert_eq!(packet.outcome, inbound::Outcome::Dropped(cause)),
                None => assert!(matches!(packet.outcome, inbound::Outcome::Accepted(_))),
            }
        }
    }
    assert_eq!(tunnel.received.packets, 1 + 3 + 1);
}

#[test]
fn esp_outer_frag() {
    // Fragments of protected packets never reach the cipher: the kernel puts them together, bounded.
    let mut tunnel = Tunnel::new(Shape::default());
    let local = LocalAddresses::new([tunnel.shape.outer().1]);
    for encap in [false, true] {
        tunnel = Tunnel::new(Shape { encap, ..Shape::default() });
        let sealed = tunnel.sealed(&tunnel.shape.packet(100));
        for flags in [0x2000u16, 0x0001, 0x2001, 0x1fff] {
            let mut fragment = sealed.clone();
            fragment[6..8].copy_from_slice(&flags.to_be_bytes());
            ipv4_checksum(&mut fragment);
            assert_eq!(classify(&fragment, &local, 4500), Ok(Class::Reassemble));
        }
    }
    let mut tunnel6 = Tunnel::new(Shape { outer_v6: true, ..Shape::default() });
    let sealed = tunnel6.sealed(&tunnel.shape.packet(100));
    let local = LocalAddresses::new([tunnel6.shape.outer().1]);
    let mut fragment = sealed.clone();
    fragment[6] = 44;
    fragment.splice(40..40, [50, 0, 0, 1, 0, 0, 0, 9]);
    let len = (fragment.len() - 40) as u16;
    fragment[4..6].copy_from_slice(&len.to_be_bytes());
    assert_eq!(classify(&fragment, &local, 4500), Ok(Class::Reassemble));
}

#[test]
fn esp_ecn() {
    // RFC 6040 §4.2 Figure 4, rows inner and columns outer: Not-ECT, ECT(0), ECT(1), CE.
    const NOT: u8 = 0b00;
    const ECT0: u8 = 0b10;
    const ECT1: u8 = 0b01;
    const CE: u8 = 0b11;
    let order = [NOT, ECT0, ECT1, CE];
    let figure_4: [[Option<u8>; 4]; 4] = [
        [Some(NOT), Some(NOT), Some(NOT), None],
        [Some(ECT0), Some(ECT0), Some(ECT1), Some(CE)],
        [Some(ECT1), Some(ECT1), Some(ECT1), Some(CE)],
        [Some(CE), Some(CE), Some(CE), Some(CE)],
    ];
    for dscp in [DscpRule::Out, DscpRule::In, DscpRule::Both, DscpRule::None] {
        let headers = HeaderRules { dscp, ..HeaderRules::default() };
        let mut tunnel = Tunnel::new(Shape { headers, ..Shape::default() });
        let (mut sequence, (source, destination)) = (0, tunnel.shape.inner());
        for (inner, row) in order.into_iter().zip(figure_4) {
            for (outer, expected) in order.into_iter().zip(row) {
                for v6 in [false, true] {
                    sequence += 1;
                    let (source, destination) = match v6 {
                        true => (addr("fd00::1"), addr("fd00::2")),
                        false => (source, destination),
                    };
                    let packet = udp_packet(source, destination, 0x28 | inner, 5);
                    let selectors = vec![crate::fixture::any(v6)];
                    let shape = Shape { headers, selectors: Some(selectors), ..Shape::default() };
                    tunnel = Tunnel::new(shape);
                    let sealed =
                        forge(sequence, 0xb8 | outer, &text(&packet, if v6 { 41 } else { 4 }));
                    let (outcome, _, opened) = tunnel.open(&sealed);
                    let Some(ecn) = expected else {
                        assert_eq!(outcome, inbound::Outcome::Dropped(DropCause::CongestionNotEct));
                        continue;
                    };
                    // DSCP comes from the outer header only where the SA says so.
                    let copied = matches!(dscp, DscpRule::In | DscpRule::Both);
                    let expected = ecn | if copied { 0xb8 } else { 0x28 };
                    let ip = wire::ip::Ip::parse(&opened).unwrap();
                    assert_eq!(ip.traffic_class(), expected);
                    if let wire::ip::Ip::V4(ip) = ip {
                        assert!(ip.checksum_ok());
                    }
                }
            }
        }
    }
}

/// Without ECN at this end the outer field says nothing, and nothing is dropped for it.
#[test]
fn an_sa_without_ecn_leaves_the_field_inside_alone() {
    let headers = HeaderRules { ecn: false, ..HeaderRules::default() };
    let mut tunnel = Tunnel::new(Shape { headers, ..Shape::default() });
    let (source, destination) = tunnel.shape.inner();
    for fields in 0..16u8 {
        let (inner, outer) = (fields & 3, fields >> 2);
        let packet = udp_packet(source, destination, 0x28 | inner, 5);
        let sealed = forge(1 + u32::from(fields), 0xb8 | outer, &text(&packet, 4));
        assert_eq!(tunnel.opened(&sealed), packet);
    }
}

/// RFC 4301 §6.2: an ICMP error whose own addresses the SA is not for is taken for what it quotes.
#[test]
fn an_icmp_error_is_taken_by_the_sa_of_what_it_quotes() {
    let range = |text: &str, len| AddressRange::prefix(addr(text), len).unwrap();
    let selector = Selector {
        local: range("10.2.0.0", 16),
        remote: range("10.1.0.0", 16),
        protocol: Some(17),
        local_ports: Ports::Range(5001..=5001),
        remote_ports: Ports::Range(5002..=5002),
    };
    let shape = Shape { selectors: Some(vec![selector]), ..Shape::default() };
    let (mut sequence, mut tunnel) = (0, Tunnel::new(shape));
    let mut send = |packet: &[u8]| {
        sequence += 1;
        tunnel.open(&forge(sequence, 0, &text(packet, 4))).0
    };
    let about = |packet: &[u8], from: &str| {
        let mut out = [0; wire::icmp::MAX_ERROR_LEN];
        let error = wire::icmp::Error::TooBig(1200);
        let len = wire::icmp::emit_error(error, addr(from), packet, &mut out).unwrap();
        out[..len].to_vec()
    };
    // Ours to the peer's side, too long for a router there, which quotes what fits; and one that quotes no more than it must.
    let sent = udp_packet(addr("10.2.0.2"), addr("10.1.0.1"), 0, 1000);
    let good = about(&sent, "172.16.0.1");
    assert!(good.len() < sent.len());
    let mut least = good[..20 + 8 + 20 + 8].to_vec();
    least[2..4].copy_from_slice(&56u16.to_be_bytes());
    ipv4_checksum(&mut least);
    for message in [&good, &least] {
        assert!(matches!(send(message), inbound::Outcome::Accepted(_)));
    }
    let mismatch = inbound::Outcome::Dropped(DropCause::SelectorMismatch);
    let edit = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        edit(&mut packet);
        ipv4_checksum(&mut packet);
        packet
    };
    let between = |from: &str, to: &str| about(&udp_packet(addr(from), addr(to), 0, 8), "10.1.0.9");
    assert_eq!(send(&between("10.2.0.2", "10.9.0.1")), mismatch, "traffic with somebody else");
    assert_eq!(send(&between("10.9.0.2", "10.1.0.1")), mismatch, "of somebody else");
    assert_eq!(send(&edit(&|p| p[28 + 20] ^= 1)), mismatch, "another port");
    assert_eq!(send(&edit(&|p| p[28 + 9] = 6)), mismatch, "another protocol");
    assert_eq!(send(&edit(&|p| p[19] ^= 1)), mismatch, "to another host than sent it");
    assert_eq!(send(&edit(&|p| p[7] = 1)), mismatch, "a later fragment");
    for kind in [0, 4, 5, 8, 13] {
        assert_eq!(send(&edit(&|p| p[20] = kind)), mismatch, "type {kind} is no such error");
    }
    // A quote of every length: ports have to be there, and nothing is read beyond.
    for quote in 0..64usize {
        let mut short = good[..28 + quote].to_vec();
        short[2..4].copy_from_slice(&(28 + quote as u16).to_be_bytes());
        ipv4_checksum(&mut short);
        let taken = matches!(send(&short), inbound::Outcome::Accepted(_));
        assert_eq!(taken, quote >= 24, "{quote} bytes");
    }
}

#[test]
fn larval_and_unknown_spis_are_told_apart() {
    let mut tunnel = Tunnel::new(Shape::default());
    let sealed = tunnel.sealed(&tunnel.shape.packet(8));
    let header = tunnel.classify(&sealed).unwrap();
    let spi = ipsec::sa::Spi::new(header.spi).unwrap();
    assert!(tunnel.inbound.remove(spi));
    let sa = Box::new(InboundSa::new(&tunnel.shape.receiving()).unwrap());
    assert_eq!(tunnel.refused(&sealed), DropCause::UnknownSpi);
    tunnel.inbound.reserve(spi).unwrap();
    let mut burst = [InboundPacket::new(OwnedPacket::new(&sealed, 0, 0), header)];
    inbound::process_burst(&mut tunnel.inbound, &mut burst, &mut tunnel.received);
    let [waiting] = burst;
    assert_eq!(waiting.outcome, inbound::Outcome::Larval);
    assert_eq!(waiting.buffer.data(), sealed);
    // The keys arrive, and the packet that waited is as good as new.
    tunnel.inbound.insert(sa).unwrap();
    tunnel.opened(waiting.buffer.data());
}
