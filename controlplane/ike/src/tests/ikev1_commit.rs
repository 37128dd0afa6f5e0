//! The commit bit (RFC 2408 §3.1, §4.8) and RESPONDER-LIFETIME (RFC 2407 §4.5.4, §4.6.3.1), as ladders.

use super::harness::{Pair, Who, change_child};
use super::ikev1::{IKE, v1_with};
use crate::config::Config;
use crate::event::{ChildTarget, Command, Transmit};
use crate::message::v1::{
    Attribute, AttributeValue, DOI_IPSEC, IpsecAttributeType, Notify, NotifyType,
};
use crate::message::{ExchangeType, MessageId, ProtocolId};
use crate::sa::Sa;
use crate::v1::sa::State;
use ipsec::sa::Limits;
use std::time::Duration;

const QUICK_MODE: u8 = 32;
const COMMIT: u8 = 2;

/// Main mode is over and A's first message of quick mode is on its way.
fn asked(a: Config, b: Config) -> Pair {
    let mut pair = Pair::new(a, b);
    pair.initiate(Who::A);
    for _ in 0..3 {
        pair.deliver_next(Who::B);
        pair.deliver_next(Who::A);
    }
    assert_eq!(pair.to_b[0].datagram[18], QUICK_MODE);
    pair
}

fn pair() -> Pair {
    asked(v1_with(Who::A, IKE, |_| ()), v1_with(Who::B, IKE, |_| ()))
}

/// Delivers the next datagram with the commit bit set, which nothing authenticates.
fn deliver_committed(pair: &mut Pair, who: Who) {
    let queue = if who == Who::A { &mut pair.to_a } else { &mut pair.to_b };
    let mut transmit = queue.pop_front().unwrap();
    transmit.datagram[19] |= COMMIT;
    pair.deliver(who, &transmit);
}

/// CONNECTED from `who` in an informational exchange with this message ID.
fn connected(pair: &mut Pair, who: Who, id: MessageId, spi: [u8; 4]) -> Transmit {
    notify(pair, who, id, spi, NotifyType::Connected, &[])
}

fn notify(
    pair: &mut Pair,
    who: Who,
    id: MessageId,
    spi: [u8; 4],
    kind: NotifyType,
    data: &[u8],
) -> Transmit {
    let host = pair.host(who);
    let ike = *host.engine.table.ids().last().unwrap();
    let Sa::V1(sa) = host.engine.table.get_mut(ike).unwrap() else { panic!() };
    let path = sa.head.path;
    let State::Established(state) = &mut sa.state else { panic!() };
    let mut list = state.session.list();
    list.push(&Notify { doi: DOI_IPSEC, protocol: ProtocolId::Esp, spi: &spi, kind, data });
    let exchange = ExchangeType::InformationalV1;
    let (datagram, _) = state.session.seal(exchange, id, state.session.iv(id), &[], &list).unwrap();
    Transmit { path, datagram }
}

/// The message ID of the last quick mode.
fn quick_id(pair: &Pair) -> MessageId {
    let last = pair.trace.iter().rev().find(|(_, sent)| sent.datagram[18] == QUICK_MODE).unwrap();
    MessageId(u32::from_be_bytes(last.1.datagram[20..24].try_into().unwrap()))
}

/// Whether the newest pair of `who` sends, and how many pairs it has that do.
fn sends(pair: &mut Pair, who: Who) -> (bool, usize) {
    let slots = &pair.host(who).sad;
    let active = slots.values().filter(|slot| slot.active).count();
    (slots.values().last().unwrap().active, active)
}

/// The responder sets the bit in the second message: the initiator has everything and sends nothing before CONNECTED, under the
/// same message ID or under another one with the SPI; or before something comes in on the SA, or ten seconds have gone by.
#[test]
fn the_responder_commits() {
    for how in 0..5 {
        let mut pair = pair();
        pair.deliver_next(Who::B);
        deliver_committed(&mut pair, Who::A);
        pair.settle();
        assert_eq!(sends(&mut pair, Who::A), (false, 0));
        assert_eq!(sends(&mut pair, Who::B), (true, 1));
        let id = quick_id(&pair);
        let theirs = pair.a.sad.values().next().unwrap().outbound.as_ref().unwrap().spi;
        match how {
            0 => {
                let told = connected(&mut pair, Who::B, id, [0; 4]);
                pair.deliver(Who::A, &told);
            }
            1 => {
                let told = connected(&mut pair, Who::B, MessageId(77), theirs.get().to_be_bytes());
                pair.deliver(Who::A, &told);
            }
            2 => {
                let now = pair.now;
                let slot = pair.a.sad.keys().next().copied().unwrap();
                pair.a.engine.handle_inbound_traffic(now, slot);
                pair.pump();
            }
            3 => {
                // Of another SA: it says nothing about this one.
                let told = connected(&mut pair, Who::B, MessageId(78), [9; 4]);
                pair.deliver(Who::A, &told);
                assert_eq!(sends(&mut pair, Who::A), (false, 0));
                pair.advance(Duration::from_secs(11));
            }
            _ => {
                // Mangled, and in clear: nothing.
                let mut told = connected(&mut pair, Who::B, id, [0; 4]);
                *told.datagram.last_mut().unwrap() ^= 1;
                pair.deliver(Who::A, &told);
                assert_eq!(sends(&mut pair, Who::A), (false, 0));
                pair.advance(Duration::from_secs(9));
                assert_eq!(sends(&mut pair, Who::A), (false, 0));
                pair.advance(Duration::from_secs(2));
            }
        }
        assert_eq!(sends(&mut pair, Who::A), (true, 1), "{how}");
        pair.assert_in_use(1, 1);
    }
}

/// The initiator sets it, in its first message or its last: so it is the responder that waits.
#[test]
fn the_initiator_commits() {
    for in_first in [true, false] {
        let mut pair = pair();
        if in_first {
            deliver_committed(&mut pair, Who::B);
        } else {
            pair.deliver_next(Who::B);
        }
        pair.deliver_next(Who::A);
        if in_first {
            pair.deliver_next(Who::B);
        } else {
            deliver_committed(&mut pair, Who::B);
        }
        pair.settle();
        assert_eq!(sends(&mut pair, Who::A), (true, 1));
        assert_eq!(sends(&mut pair, Who::B), (false, 0));
        let id = quick_id(&pair);
        let told = connected(&mut pair, Who::A, id, [0; 4]);
        pair.deliver(Who::B, &told);
        assert_eq!(sends(&mut pair, Who::B), (true, 1));
        pair.assert_in_use(1, 1);
        // Once more is nothing new.
        let invalid = pair.b.engine.statistics().invalid_packets_received;
        pair.deliver(Who::B, &told);
        assert_eq!(pair.b.engine.statistics().invalid_packets_received, invalid);
    }
}

/// While a replacement waits for CONNECTED the pair before it goes on sending, on whichever side waits.
#[test]
fn the_old_pair_goes_on_until_the_new_one_is_connected() {
    for committing in [Who::A, Who::B] {
        let mut pair = pair();
        pair.settle();
        let target = ChildTarget::Named { connection: None, child: "net".to_owned() };
        pair.command(Who::A, Command::RekeyChild(target));
        if committing == Who::A {
            deliver_committed(&mut pair, Who::B);
            pair.deliver_next(Who::A);
        } else {
            pair.deliver_next(Who::B);
            deliver_committed(&mut pair, Who::A);
        }
        pair.settle();
        let waiting = committing.other();
        assert_eq!(sends(&mut pair, waiting), (false, 1), "the old one, not the new one");
        let id = quick_id(&pair);
        let told = connected(&mut pair, committing, id, [0; 4]);
        pair.deliver(waiting, &told);
        assert_eq!(sends(&mut pair, waiting), (true, 1));
        pair.advance(Duration::from_secs(60));
        pair.assert_in_use(1, 1);
    }
}

fn lives(who: Who, seconds: u64, kilobytes: Option<u64>) -> Config {
    v1_with(who, IKE, |c| {
        change_child(c, |child| {
            child.life_time = Duration::from_secs(seconds);
            child.rekey_time = Duration::from_secs(seconds - 60);
            child.life_limits =
                Limits { bytes: kilobytes.map(|kb| kb * 1024), ..Limits::default() };
        });
    })
}

/// What the responder has less of holds for both, in seconds and in kilobytes; what it has more of does not.
#[test]
fn the_responders_lifetime_holds_for_both() {
    for (a, b, kilobytes) in [(3600, 600, (None, Some(500))), (600, 3600, (Some(500), Some(900)))] {
        let mut pair = asked(lives(Who::A, a, kilobytes.0), lives(Who::B, b, kilobytes.1));
        pair.settle();
        pair.assert_in_use(1, 1);
        for host in [&pair.a, &pair.b] {
            let slot = host.sad.values().next().unwrap();
            let limits = slot.outbound.as_ref().unwrap().lifetime;
            assert_eq!(limits.hard.bytes, Some(500 * 1024));
        }
        pair.advance(Duration::from_secs(500));
        assert_eq!(pair.a.sad.len(), 1);
        // The initiator replaced it in time: nine tenths of 600 s.
        pair.advance(Duration::from_secs(95));
        assert!(pair.a.events.iter().any(|event| event == "child net up rekeyed"));
        pair.assert_sads_match(pair.a.sad.len());
    }
}

/// In an informational exchange of its own, for the SPI that it names; and for the ISAKMP SA by its cookies.
#[test]
fn a_lifetime_comes_later() {
    let mut pair = pair();
    pair.settle();
    let theirs = pair.a.sad.values().next().unwrap().outbound.as_ref().unwrap().spi.get();
    let mut data = Vec::new();
    Attribute::basic(IpsecAttributeType::LifeType.number(), 1).emit(&mut data);
    let seconds = 40_u32.to_be_bytes();
    let value = AttributeValue::Variable(&seconds);
    Attribute { kind: IpsecAttributeType::LifeDuration.number(), value }.emit(&mut data);
    let kind = NotifyType::ResponderLifetime;
    // Of nobody's SA, then of ours.
    let told = notify(&mut pair, Who::B, MessageId(5), [9; 4], kind, &data);
    pair.deliver(Who::A, &told);
    pair.advance(Duration::from_secs(50));
    pair.assert_in_use(1, 1);
    let told = notify(&mut pair, Who::B, MessageId(6), theirs.to_be_bytes(), kind, &data);
    pair.deliver(Who::A, &told);
    pair.advance(Duration::from_secs(1));
    assert!(pair.a.sad.is_empty(), "it is older than forty seconds");
}

/// Beside the sixth message's HASH, or in aggressive mode beside the second's, the responder says how long the ISAKMP SA
/// lasts: the initiator renews it before that, and what is longer than its own changes nothing.
#[test]
fn the_responders_lifetime_of_phase_1() {
    for aggressive in [false, true] {
        for (a, b, shorter) in [(3600, 600, true), (600, 3600, false)] {
            let with = |who, seconds| {
                let mut config = v1_with(who, IKE, |c| {
                    c.aggressive = aggressive;
                    c.rekey_time = Duration::ZERO;
                    c.reauth_time = Duration::from_secs(seconds);
                    c.over_time = Duration::from_secs(60);
                    c.rand_time = Duration::ZERO;
                });
                config.settings.aggressive_psk = true;
                config
            };
            let mut pair = Pair::new(with(Who::A, a), with(Who::B, b));
            pair.initiate(Who::A);
            pair.settle();
            let view = &pair.a.engine.ike_sas(pair.now)[0];
            assert_eq!(view.expires_in, Some(Duration::from_secs(660)));
            let renewed = if shorter { 660 / 10 * 9 } else { 600 };
            assert_eq!(view.reauth_in, Some(Duration::from_secs(renewed)));
            pair.advance(Duration::from_secs(renewed - 1));
            assert!(!pair.a.events.iter().any(|event| event == "ike up rekeyed"));
            pair.advance(Duration::from_secs(2));
            assert!(pair.a.events.iter().any(|event| event == "ike up rekeyed"));
        }
    }
}
