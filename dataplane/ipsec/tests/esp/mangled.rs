//! Packets that were changed on the way.

use crate::fixture::{Shape, Tunnel};
use ipsec::classify::{Class, LocalAddresses, classify};
use ipsec::drop_cause::DropCause;
use ipsec::inbound;
use ipsec::sa::Mode;
use proptest::prelude::*;

#[test]
fn every_flipped_bit_is_refused_and_lands_in_its_cause() {
    let mut shapes = Vec::new();
    for (cipher, key_len, integrity) in crate::round_trip::suites() {
        for (encap, esn) in [(false, false), (true, false), (false, true)] {
            shapes.push(Shape { cipher, key_len, integrity, encap, esn, ..Shape::default() });
        }
    }
    for shape in shapes {
        let encap = shape.encap;
        let mut tunnel = Tunnel::new(shape);
        let packet = tunnel.shape.packet(21);
        let sealed = tunnel.sealed(&packet);
        let esp = if encap { 28 } else { 20 };
        for bit in esp * 8..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 0x80 >> (bit % 8);
            let (outcome, events, _) = tunnel.open(&flipped);
            let inbound::Outcome::Dropped(cause) = outcome else {
                panic!("bit {bit}: {outcome:?}")
            };
            let expected = match bit / 8 - esp {
                0..4 => DropCause::UnknownSpi,
                _ => DropCause::NotAuthentic,
            };
            // A sequence number of zero is left of the window; all others are ahead of it.
            let zero = flipped[esp + 4..esp + 8] == [0; 4];
            let expected = if zero { DropCause::ReplayedTooOld } else { expected };
            assert_eq!(cause, expected, "bit {bit}");
            assert!(events.is_empty());
        }
        // Nothing of that moved the window, the counters or the peer.
        assert_eq!(tunnel.received, Default::default());
        assert_eq!(tunnel.opened(&sealed), packet);
    }
}

/// Attack class `esp-short`.
#[test]
fn esp_short() {
    for encap in [false, true] {
        let mut tunnel = Tunnel::new(Shape { encap, ..Shape::default() });
        let sealed = tunnel.sealed(&tunnel.shape.packet(40));
        let (ip_len, clear) = (20, if encap { 28 } else { 20 });
        for len in clear..sealed.len() {
            let mut short = sealed[..len].to_vec();
            short[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            if encap {
                short[24..26].copy_from_slice(&((len - ip_len) as u16).to_be_bytes());
            }
            crate::round_trip::ipv4_checksum(&mut short);
            let esp_len = len - clear;
            let cause = tunnel.refused(&short);
            match esp_len {
                // Without SPI and sequence number it is no ESP; with fewer than IV, trailer and ICV it
                // is too short for this SA.
                0..34 => assert_eq!(cause, DropCause::TooShort, "{esp_len}"),
                _ if (esp_len - 32) % 4 != 0 => assert_eq!(cause, DropCause::BadLength),
                _ => assert_eq!(cause, DropCause::NotAuthentic),
            }
            // The header claims more than there is.
            let local = LocalAddresses::new([tunnel.shape.outer().1]);
            assert_eq!(classify(&sealed[..len], &local, 4500), Err(DropCause::MalformedHeader));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_are_classified_without_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        first in prop_oneof![Just(0x45u8), Just(0x46), Just(0x60), any::<u8>()],
        protocol in prop_oneof![Just(50u8), Just(51), Just(17), Just(44), Just(0), any::<u8>()],
    ) {
        let mut bytes = bytes;
        if let Some(b) = bytes.first_mut() {
            *b = first;
        }
        let len = bytes.len() as u16;
        if first >> 4 == 4 && bytes.len() >= 20 {
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            bytes[9] = protocol;
        }
        if first >> 4 == 6 && bytes.len() >= 40 {
            bytes[4..6].copy_from_slice(&(len - 40).to_be_bytes());
            bytes[6] = protocol;
        }
        let us = wire::ip::Ip::parse(&bytes).map(|ip| ip.destination());
        let local = LocalAddresses::new(us.ok());
        if let Ok(Class::Protected(header)) = classify(&bytes, &local, 4500) {
            prop_assert!(usize::from(header.end) <= bytes.len());
            prop_assert!(header.offset <= header.end);
        }
    }

    #[test]
    fn a_mutated_packet_never_panics_and_is_never_accepted_changed(
        transport in any::<bool>(),
        encap in any::<bool>(),
        v6 in any::<bool>(),
        len in 0usize..100,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mode = if transport { Mode::Transport } else { Mode::Tunnel };
        let shape = Shape { mode, encap, outer_v6: v6, inner_v6: v6, ..Shape::default() };
        let mut tunnel = Tunnel::new(shape.clone());
        let packet = shape.packet(len);
        let sealed = tunnel.sealed(&packet);
        let mut mutated = sealed.clone();
        for (at, value) in edits {
            let at = at.index(mutated.len());
            mutated[at] = value;
        }
        if let Some(cut) = cut {
            mutated.truncate(cut.index(mutated.len()) + 1);
        }
        let us = wire::ip::Ip::parse(&mutated).map(|ip| ip.destination());
        let local = LocalAddresses::new(us.ok());
        if let Ok(Class::Protected(header)) = classify(&mutated, &local, 4500) {
            let (outcome, _, opened) = tunnel.open_as(&mutated, header);
            if let inbound::Outcome::Accepted(_) = outcome {
                // Only the outer header, which nothing protects, can have been changed.
                let esp = usize::from(tunnel.classify(&sealed).unwrap().offset);
                let moved = usize::from(header.offset);
                prop_assert_eq!(&mutated[moved..usize::from(header.end)], &sealed[esp..]);
                if mode == Mode::Tunnel {
                    prop_assert_eq!(&opened[2..], &packet[2..]);
                }
            }
        }
    }
}
