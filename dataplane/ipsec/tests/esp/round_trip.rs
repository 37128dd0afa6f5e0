//! What one end seals the other opens, whatever the shape.

use crate::fixture::{Shape, Tunnel, udp_packet};
use ipsec::algorithm::{Cipher, Integrity};
use ipsec::inbound::{self, InboundPacket};
use ipsec::outbound::{self, OutboundPacket};
use ipsec::packet::{OwnedPacket, PacketBuffer};
use ipsec::sa::{DfRule, DscpRule, HeaderRules, Mode, TfcRule};
use proptest::prelude::*;
use wire::ip::Ip;

pub(crate) const MACS: [Integrity; 7] = [
    Integrity::HmacSha1_96,
    Integrity::HmacSha256_128,
    Integrity::HmacSha384_192,
    Integrity::HmacSha512_256,
    Integrity::AesCmac96,
    Integrity::AesXcbc96,
    Integrity::HmacMd5_96,
];

/// Every suite: cipher, key lengths, and the integrity transforms that go with it.
pub(crate) fn suites() -> Vec<(Cipher, usize, Option<Integrity>)> {
    let ciphers = [8, 12, 16].into_iter().flat_map(|n| [Cipher::AesGcm(n), Cipher::AesCcm(n)]);
    let ciphers = ciphers.chain([
        Cipher::AesGmac,
        Cipher::ChaCha20Poly1305,
        Cipher::AesCbc,
        Cipher::AesCtr,
        Cipher::Null,
        Cipher::TripleDesCbc,
    ]);
    let mut suites = Vec::new();
    for cipher in ciphers {
        for &key_len in cipher.key_lens() {
            match cipher.is_combined() {
                true => suites.push((cipher, key_len, None)),
                false => suites.extend(MACS.map(|mac| (cipher, key_len, Some(mac)))),
            }
        }
    }
    suites
}

prop_compose! {
    fn shapes()(
        (cipher, key_len, integrity) in prop::sample::select(suites()),
        transport in any::<bool>(),
        outer_v6 in any::<bool>(),
        inner_v6 in any::<bool>(),
        encap in any::<bool>(),
        esn in any::<bool>(),
    ) -> Shape {
        let mode = if transport { Mode::Transport } else { Mode::Tunnel };
        Shape { cipher, key_len, integrity, mode, outer_v6, inner_v6, encap, esn, ..Shape::default() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn every_shape_and_length_comes_back_unchanged(
        shape in shapes(),
        lens in prop::collection::vec(0usize..1600, 1..5),
    ) {
        let mut tunnel = Tunnel::new(shape.clone());
        for len in lens {
            let packet = shape.packet(len);
            let sealed = tunnel.sealed(&packet);
            let outer = Ip::parse(&sealed).unwrap();
            prop_assert_eq!(outer.total_len(), sealed.len());
            if let Ip::V4(ip) = outer {
                prop_assert!(ip.checksum_ok());
            }
            prop_assert_eq!((outer.source(), outer.destination()), shape.outer());
            prop_assert_eq!(tunnel.opened(&sealed), packet);
        }
        prop_assert_eq!(tunnel.sent, tunnel.received);
    }

    #[test]
    fn a_burst_of_any_size_is_as_good_as_single_packets(
        lens in prop::collection::vec(0usize..1500, 1..100),
    ) {
        let shape = Shape { window: 128, ..Shape::default() };
        let mut tunnel = Tunnel::new(shape.clone());
        let plain: Vec<_> = lens.iter().map(|&len| shape.packet(len)).collect();
        let mut burst: Vec<_> = plain
            .iter()
            .map(|p| OutboundPacket::new(OwnedPacket::new(p, 64, 64), crate::fixture::SLOT))
            .collect();
        outbound::process_burst(&mut tunnel.outbound, &mut burst, &mut tunnel.sent);
        let mut burst: Vec<_> = burst
            .into_iter()
            .map(|sealed| {
                let header = tunnel.classify(sealed.buffer.data()).unwrap();
                InboundPacket::new(sealed.buffer, header)
            })
            .collect();
        inbound::process_burst(&mut tunnel.inbound, &mut burst, &mut tunnel.received);
        for (packet, plain) in burst.iter().zip(&plain) {
            prop_assert!(matches!(packet.outcome, inbound::Outcome::Accepted(_)));
            prop_assert_eq!(packet.buffer.data(), &plain[..]);
        }
        prop_assert_eq!(tunnel.received.packets, plain.len() as u64);
        let bytes: usize = plain.iter().map(Vec::len).sum();
        prop_assert_eq!(tunnel.received.tunnel_bytes, bytes as u64);
        prop_assert_eq!(tunnel.received.confidential_bytes, bytes as u64);
        prop_assert_eq!(tunnel.received.authenticated_bytes, bytes as u64);
        prop_assert_eq!(tunnel.received.transport_bytes, 0);
    }
}

/// RFC 3948 §3.1.2: the addresses that a NAT changed no longer fit the checksum inside.
#[test]
fn transport_mode_behind_a_nat_delivers_right_checksums() {
    for outer_v6 in [false, true] {
        let shape = Shape { mode: Mode::Transport, encap: true, outer_v6, ..Shape::default() };
        let mut tunnel = Tunnel::new(shape);
        let mut sealed = tunnel.sealed(&tunnel.shape.packet(33));
        let source = if outer_v6 { 8..24 } else { 12..16 };
        sealed[source.clone()].fill(0x21);
        let opened = tunnel.opened(&sealed);
        assert_eq!(opened[source.clone()], sealed[source]);
        let mut repaired = opened.clone();
        wire::ip::repair_upper_checksum(&mut repaired);
        assert_eq!(opened, repaired);
    }
}

#[test]
fn sequence_numbers_begin_at_one_and_the_iv_follows_them() {
    let mut tunnel = Tunnel::new(Shape::default());
    let packet = tunnel.shape.packet(10);
    for n in 1..=3u8 {
        let sealed = tunnel.sealed(&packet);
        assert_eq!(sealed[24..28], [0, 0, 0, n]);
        assert_eq!(sealed[28..36], [0, 0, 0, 0, 0, 0, 0, n]);
    }
}

#[test]
fn padding_is_counted_from_one_and_as_short_as_alignment_allows() {
    // RFC 4303 §2.4, seen by a receiver that checks it; and the text is a multiple of four.
    let mut tunnel = Tunnel::new(Shape::default());
    for len in 0..8 {
        let packet = tunnel.shape.packet(len);
        let sealed = tunnel.sealed(&packet);
        let text = sealed.len() - 20 - 8 - 8 - 16;
        assert_eq!(text % 4, 0);
        assert!(text - packet.len() - 2 < 4);
        assert_eq!(tunnel.opened(&sealed), packet);
    }
}

#[test]
fn udp_checksum_is_zero_over_ipv4_and_right_over_ipv6() {
    for outer_v6 in [false, true] {
        let mut tunnel = Tunnel::new(Shape { encap: true, outer_v6, ..Shape::default() });
        let packet = tunnel.shape.packet(33);
        let mut sealed = tunnel.sealed(&packet);
        if outer_v6 {
            let field: [u8; 2] = sealed[46..48].try_into().unwrap();
            assert_ne!(field, [0, 0]);
            wire::ip::repair_upper_checksum(&mut sealed);
            assert_eq!(sealed[46..48], field);
        } else {
            assert_eq!(sealed[26..28], [0, 0]);
        }
    }
}

/// RFC 4301 §5.1.2.1 and §8.1, RFC 6040 §4.1: the outer fields for every inner one.
#[test]
fn outer_dscp_ecn_and_df_follow_the_rules() {
    for (dscp, copied) in [
        (DscpRule::Out, true),
        (DscpRule::Both, true),
        (DscpRule::In, false),
        (DscpRule::None, false),
    ] {
        for ecn in [false, true] {
            for (outer_v6, inner_v6) in [(false, false), (false, true), (true, false), (true, true)]
            {
                let headers = HeaderRules { dscp, ecn, ..HeaderRules::default() };
                let shape = Shape { headers, outer_v6, inner_v6, ..Shape::default() };
                let mut tunnel = Tunnel::new(shape);
                for class in 0..=255u8 {
                    let (source, destination) = tunnel.shape.inner();
                    let packet = udp_packet(source, destination, class, 4);
                    let sealed = tunnel.sealed(&packet);
                    let dscp = if copied { class & 0xfc } else { 0 };
                    let ecn = if ecn { class & 3 } else { 0 };
                    let outer = Ip::parse(&sealed).unwrap();
                    assert_eq!(outer.traffic_class(), dscp | ecn);
                    // Of its own, whatever the packet inside has.
                    assert_eq!(outer.hop_limit(), 64);
                    if outer_v6 {
                        let first = u32::from_be_bytes(sealed[..4].try_into().unwrap());
                        assert_eq!(first & 0xf_ffff, 0x3400, "the SPI is the flow label");
                    }
                }
            }
        }
    }
    // What is inside IPv6 may not be fragmented on the way either.
    for (df, expected) in [(DfRule::Copy, true), (DfRule::Set, true), (DfRule::Clear, false)] {
        let headers = HeaderRules { df, ..HeaderRules::default() };
        let mut tunnel = Tunnel::new(Shape { headers, inner_v6: true, ..Shape::default() });
        let sealed = tunnel.sealed(&tunnel.shape.packet(4));
        assert_eq!(sealed[6] & 0x40 != 0, expected, "{df:?}");
    }
    for (df, inner, outer) in [
        (DfRule::Copy, true, true),
        (DfRule::Copy, false, false),
        (DfRule::Set, false, true),
        (DfRule::Clear, true, false),
    ] {
        let headers = HeaderRules { df, ..HeaderRules::default() };
        let mut tunnel = Tunnel::new(Shape { headers, ..Shape::default() });
        let mut packet = tunnel.shape.packet(4);
        if !inner {
            packet[6] = 0;
            ipv4_checksum(&mut packet);
        }
        let sealed = tunnel.sealed(&packet);
        assert_eq!(sealed[6] & 0x40 != 0, outer, "{df:?}");
        assert_eq!(tunnel.opened(&sealed), packet);
    }
}

pub(crate) fn ipv4_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = wire::checksum::of(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// RFC 4301 §8.1: what does not fit is refused with the MTU that would, and that one then fits.
#[test]
fn packets_beyond_the_path_mtu_are_refused_with_what_fits() {
    for (encap, outer_v6) in [(false, false), (true, false), (false, true), (true, true)] {
        for mode in [Mode::Tunnel, Mode::Transport] {
            let inner_v6 = outer_v6;
            let shape = Shape { encap, outer_v6, inner_v6, mode, ..Shape::default() };
            let mut tunnel = Tunnel::new(shape.clone());
            tunnel.outbound.get_mut(crate::fixture::SLOT).unwrap().set_path_mtu(1500);
            let header = if inner_v6 { 48 } else { 28 };
            let (outcome, _, _) = tunnel.seal(&shape.packet(1500 - header));
            let outbound::Outcome::TooBig(mtu) = outcome else { panic!("{outcome:?}") };
            let (outcome, _, _) = tunnel.seal(&shape.packet(usize::from(mtu) + 1 - header));
            assert_eq!(outcome, outbound::Outcome::TooBig(mtu));
            let sealed = tunnel.sealed(&shape.packet(usize::from(mtu) - header));
            assert!(sealed.len() <= 1500 && sealed.len() > 1496);
        }
    }
}

#[test]
fn a_packet_without_df_is_to_be_fragmented_before_protection() {
    let mut tunnel = Tunnel::new(Shape::default());
    tunnel.outbound.get_mut(crate::fixture::SLOT).unwrap().set_path_mtu(1000);
    let mut packet = tunnel.shape.packet(1200);
    packet[6] = 0;
    ipv4_checksum(&mut packet);
    assert!(matches!(tunnel.seal(&packet).0, outbound::Outcome::Fragment(_)));
}

/// Explicit IVs are never the same twice under a key, and those of CBC are not predicted by those before
/// (RFC 3602 §3): no two differ by a small step.
#[test]
fn explicit_ivs_are_unique_and_those_of_cbc_unpredictable() {
    for (cipher, key_len, integrity) in suites() {
        let mut tunnel = Tunnel::new(Shape { cipher, key_len, integrity, ..Shape::default() });
        let packet = tunnel.shape.packet(1);
        let iv_len = cipher.iv_len();
        let mut ivs: Vec<_> =
            (0..200).map(|_| tunnel.sealed(&packet)[28..28 + iv_len].to_vec()).collect();
        if matches!(cipher, Cipher::AesCbc | Cipher::TripleDesCbc) {
            let bits = 8 * iv_len as u32;
            for pair in ivs.windows(2) {
                let changed: u32 =
                    pair[0].iter().zip(&pair[1]).map(|(a, b)| (a ^ b).count_ones()).sum();
                assert!(changed > bits / 7, "{changed} bits of {bits}");
            }
        }
        ivs.sort();
        ivs.dedup();
        assert_eq!(ivs.len(), if cipher == Cipher::Null { 1 } else { 200 }, "{cipher:?}");
    }
}

#[test]
fn only_what_is_encrypted_counts_as_confidential() {
    for (cipher, key_len, integrity) in suites() {
        let mut tunnel = Tunnel::new(Shape { cipher, key_len, integrity, ..Shape::default() });
        let packet = tunnel.shape.packet(50);
        let sealed = tunnel.sealed(&packet);
        tunnel.opened(&sealed);
        let hidden = !sealed.windows(packet.len()).any(|window| window == packet);
        let confidential = if hidden { packet.len() as u64 } else { 0 };
        assert_eq!(tunnel.received.confidential_bytes, confidential, "{cipher:?}");
        assert_eq!(tunnel.received.authenticated_bytes, packet.len() as u64);
    }
}

/// RFC 4303 §2.7: all packets have one length, and come out as they went in.
#[test]
fn tfc_padding_hides_lengths_and_is_taken_off() {
    for (cipher, key_len, integrity) in suites() {
        for (tfc, len) in [(TfcRule::To(600), 600), (TfcRule::PathMtu, 9000)] {
            let headers = HeaderRules { tfc, ..HeaderRules::default() };
            let shape = Shape { cipher, key_len, integrity, headers, ..Shape::default() };
            let mut tunnel = Tunnel::new(shape);
            let mut sizes = Vec::new();
            for payload in [0, 1, 100, 333] {
                let packet = tunnel.shape.packet(payload);
                let mut burst = [OutboundPacket::new(
                    OwnedPacket::new(&packet, 96, 9000),
                    crate::fixture::SLOT,
                )];
                outbound::process_burst(&mut tunnel.outbound, &mut burst, &mut tunnel.sent);
                let sealed = burst[0].buffer.data().to_vec();
                assert_eq!(tunnel.opened(&sealed), packet);
                sizes.push(sealed.len());
            }
            assert!((len - 100..=len + 100).contains(&sizes[0]), "{sizes:?}");
            assert!(sizes.iter().all(|size| *size == sizes[0]), "{cipher:?} {tfc:?} {sizes:?}");
            // Without room it goes as it is; longer than asked for, too.
            let packet = tunnel.shape.packet(700);
            let sealed = tunnel.sealed(&packet);
            assert_eq!(tunnel.opened(&sealed), packet);
            assert_eq!(tunnel.sent.bytes, tunnel.received.bytes, "padding does not count");
        }
    }
}

/// RFC 4301 §8.2: connections learn what the tunnel has room for, when that is asked for, and nothing else changes.
#[test]
fn a_syn_through_the_tunnel_announces_what_fits() {
    for (inner_v6, clamp_mss) in [(false, true), (true, true), (false, false)] {
        let headers = HeaderRules { clamp_mss, ..HeaderRules::default() };
        let mut tunnel = Tunnel::new(Shape { headers, inner_v6, ..Shape::default() });
        let sa = tunnel.outbound.get_mut(crate::fixture::SLOT).unwrap();
        sa.set_path_mtu(1500);
        let inner_mtu = sa.inner_mtu();
        let segment =
            [4, 1, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 6 << 4, 2, 2, 0, 0, 0, 0, 0, 2, 4, 5, 0xb4];
        let mut packet = tunnel.shape.packet(segment.len() - 8);
        let at = if inner_v6 { 40 } else { 20 };
        packet[if inner_v6 { 6 } else { 9 }] = 6;
        packet[at..].copy_from_slice(&segment);
        if !inner_v6 {
            ipv4_checksum(&mut packet);
        }
        wire::ip::repair_upper_checksum(&mut packet);
        let sealed = tunnel.sealed(&packet);
        let opened = tunnel.opened(&sealed);
        let mut repaired = opened.clone();
        wire::ip::repair_upper_checksum(&mut repaired);
        assert_eq!(opened, repaired, "the checksum is right");
        let mss = wire::tcp::Tcp::parse(&opened[at..]).unwrap().mss().unwrap();
        let fits = inner_mtu - at as u16 - 20;
        assert!(fits < 1460);
        assert_eq!(mss, if clamp_mss { fits } else { 1460 });
    }
}
