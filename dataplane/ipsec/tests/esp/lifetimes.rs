//! Limits of an SA, and what happens to it once.

use crate::fixture::{SLOT, Shape, Tunnel};
use ipsec::accounting::Events;
use ipsec::drop_cause::DropCause;
use ipsec::esp::inbound::InboundSa;
use ipsec::esp::outbound::OutboundSa;
use ipsec::inbound;
use ipsec::outbound::Outcome;
use ipsec::sa::{Lifetime, Limits};

fn lifetime(soft: Option<u64>, hard: Option<u64>, bytes: bool) -> Lifetime {
    let limits = |n| {
        if bytes { Limits { bytes: n, packets: None } } else { Limits { bytes: None, packets: n } }
    };
    Lifetime { soft: limits(soft), hard: limits(hard) }
}

#[test]
fn soft_is_said_once_and_hard_refuses_and_is_said_once() {
    // One packet of 38 bytes each: limits of 3 and 5 packets, in either unit.
    for lifetime in [lifetime(Some(3), Some(5), false), lifetime(Some(3 * 38), Some(5 * 38), true)]
    {
        let mut tunnel = Tunnel::new(Shape { lifetime, ..Shape::default() });
        let packet = tunnel.shape.packet(10);
        assert_eq!(packet.len(), 38);
        for n in 1..=8 {
            let (outcome, events, sealed) = tunnel.seal(&packet);
            match n {
                1..=5 => {
                    let expected = if n == 3 { Events::SOFT_EXPIRED } else { Events::NONE };
                    assert_eq!((outcome, events), (Outcome::Sealed, expected), "{n}");
                    let (outcome, events, _) = tunnel.open(&sealed);
                    assert!(matches!(outcome, inbound::Outcome::Accepted(_)));
                    assert_eq!(events.contains(Events::SOFT_EXPIRED), n == 3);
                    assert_eq!(events.contains(Events::FIRST_AUTHENTIC), n == 1);
                }
                _ => {
                    let expected = if n == 6 { Events::HARD_EXPIRED } else { Events::NONE };
                    let dropped = Outcome::Dropped(DropCause::LifetimeReached);
                    assert_eq!((outcome, events), (dropped, expected), "{n}");
                }
            }
        }
        assert_eq!(tunnel.sent.packets, 5);
        assert_eq!(tunnel.outbound.get(SLOT).unwrap().usage().bytes(), 5 * 38);
    }
}

#[test]
fn an_inbound_hard_limit_refuses_what_the_sender_still_sends() {
    let limited = Shape { lifetime: lifetime(None, Some(2), false), ..Shape::default() };
    let sending = OutboundSa::new(&Shape::default().sending()).unwrap();
    let receiving = InboundSa::new(&limited.receiving()).unwrap();
    let mut tunnel = Tunnel::with(limited, sending, receiving);
    let packet = tunnel.shape.packet(10);
    let mut said = 0;
    for n in 1..=4 {
        let sealed = tunnel.sealed(&packet);
        let (outcome, events, _) = tunnel.open(&sealed);
        let refused = outcome == inbound::Outcome::Dropped(DropCause::LifetimeReached);
        assert_eq!(refused, n > 2);
        said += u32::from(events.contains(Events::HARD_EXPIRED));
    }
    assert_eq!(said, 1);
    assert_eq!(tunnel.received.packets, 2);
}

/// RFC 3948 §2.2 with RFC 7296 §2.23: only an authentic packet that is the newest moves the peer.
#[test]
fn a_moved_peer_is_said_once_and_only_by_the_newest_packet() {
    let mut tunnel = Tunnel::new(Shape { encap: true, ..Shape::default() });
    let packet = tunnel.shape.packet(10);
    let sealed: Vec<_> = (0..4).map(|_| tunnel.sealed(&packet)).collect();
    let from_port = |sealed: &[u8], port: u16| {
        let mut moved = sealed.to_vec();
        moved[20..22].copy_from_slice(&port.to_be_bytes());
        moved
    };
    let mut forged = from_port(&sealed[0], 9999);
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(tunnel.open(&forged).1, Events::NONE);
    assert_eq!(tunnel.open(&sealed[0]).1, Events::FIRST_AUTHENTIC);
    assert_eq!(tunnel.open(&from_port(&sealed[2], 4501)).1, Events::PEER_MOVED);
    // Late, from the old port: no move back.
    assert_eq!(tunnel.open(&sealed[1]).1, Events::NONE);
    assert_eq!(tunnel.open(&from_port(&sealed[3], 4501)).1, Events::NONE);
    let sa = tunnel.inbound.iter().next().unwrap();
    assert_eq!(sa.peer().port, Some(4501));
}

/// Attack class `esp-seq-exhaust` (RFC 4303 §3.3.3): at its end the counter refuses, and is never seen
/// to wrap.
#[test]
fn esp_seq_exhaust() {
    for (esn, last) in [(false, u64::from(u32::MAX)), (true, u64::MAX)] {
        let shape = Shape { esn, ..Shape::default() };
        let sending = OutboundSa::new(&shape.sending()).unwrap().resume_after(last - 2);
        let receiving = InboundSa::new(&shape.receiving()).unwrap();
        let receiving = receiving.resume_at(64, last - 2).unwrap();
        let mut tunnel = Tunnel::with(shape, sending, receiving);
        let packet = tunnel.shape.packet(10);
        let mut ivs = Vec::new();
        for n in 0..20 {
            let (outcome, events, sealed) = tunnel.seal(&packet);
            if n < 2 {
                assert_eq!(outcome, Outcome::Sealed);
                ivs.push(sealed[28..36].to_vec());
                assert_eq!(tunnel.opened(&sealed), packet);
            } else {
                assert_eq!(outcome, Outcome::Dropped(DropCause::SequenceExhausted));
                assert_eq!(events.contains(Events::HARD_EXPIRED), n == 2);
            }
        }
        assert_eq!(ivs, [(last - 1).to_be_bytes(), last.to_be_bytes()]);
    }
}

/// RFC 4303 §3.3.3: a new SA is there before the last number is used, so it is asked for while some are left. Once, like any soft
/// limit, and whatever lifetime the SA has or is given later.
#[test]
fn a_successor_is_asked_for_before_the_numbers_end() {
    let last = u64::from(u32::MAX);
    let due = last - last / 8;
    let packets =
        |soft| Lifetime { soft: Limits { bytes: None, packets: soft }, hard: Limits::default() };
    for (lifetime, changed) in [
        (Lifetime::default(), None),
        (packets(Some(last)), None),
        (Lifetime::default(), Some(packets(Some(1 << 40)))),
    ] {
        let shape = Shape { lifetime, ..Shape::default() };
        let sending = OutboundSa::new(&shape.sending()).unwrap().resume_after(due - 5);
        let receiving = InboundSa::new(&shape.receiving()).unwrap();
        let mut tunnel = Tunnel::with(shape, sending, receiving);
        let packet = tunnel.shape.packet(10);
        let mut said = Vec::new();
        for n in 1..=20 {
            if n == 3
                && let Some(changed) = changed
            {
                tunnel.outbound.get_mut(SLOT).unwrap().set_lifetime(&changed);
            }
            let (outcome, events, _) = tunnel.seal(&packet);
            assert_eq!(outcome, Outcome::Sealed);
            if events.contains(Events::SOFT_EXPIRED) {
                said.push(n);
            }
        }
        assert_eq!(said, [5]);
        assert_eq!(tunnel.outbound.get(SLOT).unwrap().usage().packets(), 20);
    }
    // An earlier soft limit stays, and 64-bit numbers are far from their end.
    for (esn, after, soft, expected) in
        [(false, 0, Some(3), [3].as_slice()), (true, due - 5, None, &[])]
    {
        let shape = Shape { esn, lifetime: packets(soft), ..Shape::default() };
        let sending = OutboundSa::new(&shape.sending()).unwrap().resume_after(after);
        let receiving = InboundSa::new(&shape.receiving()).unwrap();
        let mut tunnel = Tunnel::with(shape, sending, receiving);
        let packet = tunnel.shape.packet(10);
        let said: Vec<_> =
            (1..=20).filter(|_| tunnel.seal(&packet).1.contains(Events::SOFT_EXPIRED)).collect();
        assert_eq!(said, expected);
    }
}
