//! AH in both modes and families (RFC 4302).

use crate::fixture::{Shape, Tunnel, addr, udp_packet};
use crate::round_trip::{MACS, ipv4_checksum};
use ipsec::algorithm::{Cipher, Integrity};
use ipsec::drop_cause::DropCause;
use ipsec::inbound::Outcome;
use ipsec::sa::{Mode, Protocol};
use proptest::prelude::*;
use wire::ip::Ip;

fn shape(integrity: Integrity, mode: Mode, outer_v6: bool, inner_v6: bool, esn: bool) -> Shape {
    Shape {
        protocol: Protocol::Ah,
        cipher: Cipher::Null,
        key_len: 0,
        integrity: Some(integrity),
        mode,
        outer_v6,
        inner_v6,
        esn,
        ..Shape::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_shape_and_length_comes_back_unchanged(
        integrity in prop::sample::select([&MACS[..], &[Integrity::AesGmac]].concat()),
        transport in any::<bool>(),
        outer_v6 in any::<bool>(),
        inner_v6 in any::<bool>(),
        esn in any::<bool>(),
        len in 0usize..1500,
    ) {
        let mode = if transport { Mode::Transport } else { Mode::Tunnel };
        let mut tunnel = Tunnel::new(shape(integrity, mode, outer_v6, inner_v6, esn));
        let packet = tunnel.shape.packet(len);
        let sealed = tunnel.sealed(&packet);
        let outer = Ip::parse(&sealed).unwrap();
        prop_assert_eq!(outer.total_len(), sealed.len());
        let ah = wire::ah::Ah::parse(outer.upper().unwrap().bytes).unwrap();
        prop_assert_eq!(ah.header_len() % if outer_v6 { 8 } else { 4 }, 0);
        prop_assert_eq!(tunnel.opened(&sealed), packet);
        prop_assert_eq!(tunnel.received, tunnel.sent);
        prop_assert_eq!(tunnel.received.confidential_bytes, 0);
        prop_assert_eq!(tunnel.received.authenticated_bytes, tunnel.received.bytes);
    }
}

/// RFC 4302 §3.3.3.1: the fields that routers change, and nothing else, may be changed.
#[test]
fn every_flipped_bit_outside_the_mutable_fields_is_refused() {
    for (integrity, mode, v6) in [
        (Integrity::HmacSha256_128, Mode::Tunnel, false),
        (Integrity::HmacSha256_128, Mode::Transport, false),
        (Integrity::HmacSha256_128, Mode::Tunnel, true),
        (Integrity::HmacSha256_128, Mode::Transport, true),
        (Integrity::AesGmac, Mode::Tunnel, false),
        (Integrity::AesGmac, Mode::Transport, true),
    ] {
        let mut tunnel = Tunnel::new(shape(integrity, mode, v6, v6, true));
        let packet = tunnel.shape.packet(13);
        let sealed = tunnel.sealed(&packet);
        let header = tunnel.classify(&sealed).unwrap();
        let mutable: &[usize] = if v6 { &[1, 2, 3, 7] } else { &[1, 6, 7, 8, 10, 11] };
        for bit in 0..sealed.len() * 8 {
            let byte = bit / 8;
            let mut flipped = sealed.clone();
            flipped[byte] ^= 0x80 >> (bit % 8);
            if mutable.contains(&byte) || (v6 && (4..8).contains(&bit)) {
                continue;
            }
            let (outcome, _, _) = tunnel.open_as(&flipped, header_of(&flipped, header));
            let Outcome::Dropped(cause) = outcome else { panic!("bit {bit}: {outcome:?}") };
            let at = byte.wrapping_sub(usize::from(header.offset));
            let expected = match at {
                1 => &[DropCause::BadLength, DropCause::TooShort][..],
                4..8 => &[DropCause::UnknownSpi],
                8..12 => &[DropCause::NotAuthentic, DropCause::ReplayedTooOld],
                _ => &[DropCause::NotAuthentic],
            };
            assert!(expected.contains(&cause), "bit {bit}: {cause:?}");
        }
        assert_eq!(tunnel.received, Default::default());
        // All mutable fields together.
        let mut routed = sealed.clone();
        for &byte in mutable {
            routed[byte] ^= 0xff;
        }
        let (outcome, _, _) = tunnel.open_as(&routed, header);
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    }
}

/// What steering would say of the changed packet, with the SPI as it now stands.
fn header_of(packet: &[u8], header: ipsec::classify::Protected) -> ipsec::classify::Protected {
    let at = usize::from(header.offset) + 4;
    let spi = u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
    ipsec::classify::Protected { spi, ..header }
}

/// RFC 4302 Appendix A: an option that routers write into is covered as zeros, one that they do not as it
/// is; and options come through transport mode.
#[test]
fn ipv4_options_are_covered_as_the_appendix_says() {
    const RECORD_ROUTE: [u8; 8] = [7, 7, 4, 0, 0, 0, 0, 0];
    const ROUTER_ALERT: [u8; 4] = [148, 4, 0, 0];
    let mode = Mode::Transport;
    let mut tunnel = Tunnel::new(shape(Integrity::HmacSha256_128, mode, false, false, false));
    let mut packet = tunnel.shape.packet(20);
    packet.splice(20..20, RECORD_ROUTE.into_iter().chain(ROUTER_ALERT));
    packet[0] = 0x48;
    packet[3] += 12;
    packet[10..12].fill(0);
    let sum = wire::checksum::of(&packet[..32]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let sealed = tunnel.sealed(&packet);
    let mut routed = sealed.clone();
    routed[23..27].copy_from_slice(&[10, 9, 8, 7]);
    routed[22] = 8;
    let header = tunnel.classify(&sealed).unwrap();
    let mut alerted = sealed.clone();
    alerted[30] = 1;
    let outcome = tunnel.open_as(&alerted, header).0;
    assert_eq!(outcome, Outcome::Dropped(DropCause::NotAuthentic));
    let (outcome, _, opened) = tunnel.open_as(&routed, header);
    assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    assert_eq!(opened[20..], [&routed[20..32], &packet[32..]].concat());
}

/// Scenario `tra_ext_hdrs_66`: AH goes behind the headers that each hop reads, whose changing options are
/// covered as zeros.
#[test]
fn ipv6_extension_headers_come_through_transport_mode() {
    let mode = Mode::Transport;
    for protocol in [Protocol::Ah, Protocol::Esp] {
        let mut shape = shape(Integrity::HmacSha512_256, mode, true, true, false);
        shape.protocol = protocol;
        let mut tunnel = Tunnel::new(shape);
        let mut packet = tunnel.shape.packet(20);
        // Hop-by-hop with an option that changes on the way (type bit 0x20) and one that does not.
        let hop_by_hop = [17, 1, 0x3e, 4, 1, 2, 3, 4, 0x1e, 4, 5, 6, 7, 8, 0, 0];
        packet.splice(40..40, hop_by_hop);
        (packet[5], packet[6]) = (packet[5] + 16, 0);
        let sealed = tunnel.sealed(&packet);
        assert_eq!(sealed[40], if protocol == Protocol::Ah { 51 } else { 50 });
        let mut routed = sealed.clone();
        routed[44..48].fill(0xaa);
        let opened = tunnel.opened(&routed);
        assert_eq!(opened[48..], packet[48..]);
        assert_eq!(opened[..44], packet[..44]);
        if protocol == Protocol::Ah {
            let mut changed = tunnel.sealed(&packet);
            changed[50] = 0xaa;
            assert_eq!(tunnel.refused(&changed), DropCause::NotAuthentic);
        }
    }
}

#[test]
fn the_other_protocol_does_not_reach_an_sa() {
    let mut ah = Tunnel::new(shape(Integrity::HmacSha256_128, Mode::Tunnel, false, false, false));
    let mut esp = Tunnel::new(Shape::default());
    let sealed_ah = ah.sealed(&ah.shape.packet(20));
    let sealed_esp = esp.sealed(&esp.shape.packet(20));
    assert_eq!(esp.refused(&sealed_ah), DropCause::ProtocolMismatch);
    assert_eq!(ah.refused(&sealed_esp), DropCause::ProtocolMismatch);
}

/// Attack class `esp-short` names AH's length field too: 0, and beyond the packet.
#[test]
fn an_ah_length_that_is_not_the_sas_is_refused() {
    let mode = Mode::Tunnel;
    let mut tunnel = Tunnel::new(shape(Integrity::HmacSha1_96, mode, false, false, false));
    let sealed = tunnel.sealed(&udp_packet(addr("10.1.0.1"), addr("10.2.0.2"), 0, 20));
    for len in 0..=255u8 {
        let mut changed = sealed.clone();
        changed[21] = len;
        ipv4_checksum(&mut changed);
        match len {
            4 => continue,
            // The fixed part alone is longer than this, or it ends behind the packet.
            0 | 17.. => assert_eq!(tunnel.refused(&changed), DropCause::TooShort, "{len}"),
            _ => assert_eq!(tunnel.refused(&changed), DropCause::BadLength, "{len}"),
        }
    }
    tunnel.opened(&sealed);
}

/// RFC 4543 §4: IV, then ICV, 24 bytes in all; §3.1: no IV twice under a key.
#[test]
fn gmac_has_its_iv_in_front_of_the_icv() {
    let mut tunnel = Tunnel::new(shape(Integrity::AesGmac, Mode::Tunnel, false, false, false));
    let packet = tunnel.shape.packet(40);
    for n in 1..=3u64 {
        let sealed = tunnel.sealed(&packet);
        let ah = wire::ah::Ah::parse(&sealed[20..]).unwrap();
        assert_eq!(ah.icv().len(), 24);
        assert_eq!(ah.icv()[..8], n.to_be_bytes());
        assert_eq!(tunnel.opened(&sealed), packet);
    }
    // Each key length with its salt, and nothing else.
    for (len, fits) in [(16, false), (20, true), (24, false), (28, true), (36, true), (40, false)] {
        let mut parameters = tunnel.shape.sending();
        let key = ipsec::algorithm::KeyMaterial::new(vec![7; len]);
        parameters.transform.integrity = Some((Integrity::AesGmac, key));
        assert_eq!(ipsec::esp::outbound::OutboundSa::new(&parameters).is_ok(), fits, "{len}");
    }
}

/// RFC 4303 §2.6 has dummies of ESP only: over AH, 59 is an IPv6 packet that ends with its headers (RFC 8200 §4.7), and in a tunnel no packet
/// at all.
#[test]
fn no_next_header_is_no_dummy() {
    let mac = Integrity::HmacSha256_128;
    let mut tunnel = Tunnel::new(shape(mac, Mode::Transport, true, true, false));
    let mut packet = tunnel.shape.packet(13);
    packet[6] = wire::protocol::NO_NEXT_HEADER;
    let sealed = tunnel.sealed(&packet);
    assert_eq!(tunnel.opened(&sealed), packet);
    assert_eq!(tunnel.received.bytes, packet.len() as u64);
}
