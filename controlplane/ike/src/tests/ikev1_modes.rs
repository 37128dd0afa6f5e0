//! IKEv1 beyond the plain ladders: weak suites, fragments, aggressive mode.

use super::harness::{Pair, Who, change_child, psk};
use super::ikev1::{IKE, v1_with};
use crate::config::{Config, Fragmentation};
use crate::event::{Command, Failure, IkeTarget, Transmit};
use crate::proposal::{Proposal, ProposalProtocol, Weak};
use crate::random::Random;
use std::time::Duration;

fn weak(protocol: ProposalProtocol, text: &str) -> Vec<Proposal> {
    vec![Proposal::parse_with(protocol, text, Weak { allowed: true, ikev1: true }).unwrap()]
}

fn legacy(who: Who, ike: &str, esp: &str) -> Config {
    v1_with(who, IKE, |c| {
        c.proposals = weak(ProposalProtocol::Ike, ike);
        change_child(c, |child| child.proposals = weak(ProposalProtocol::Esp, esp));
    })
}

/// 3DES, MD5 and the groups 2 and 5 (RFC 2409 appendix A, §6.2; RFC 3526 §2), in phase 1 and as PFS; each named weak.
#[test]
fn weak_suites() {
    for (ike, esp) in [
        ("3des-md5-modp1024", "3des-md5-modp1024"),
        ("3des-sha1-modp1536", "aes128-sha1-modp1536"),
        ("3des-sha256-ecp256", "3des-sha1"),
        ("aes256-md5-modp2048", "aes128-md5"),
        ("aes128-sha1-modp1024", "aes128-sha1"),
    ] {
        let mut pair = Pair::new(legacy(Who::A, ike, esp), legacy(Who::B, ike, esp));
        pair.initiate(Who::A);
        pair.settle();
        pair.assert_in_use(1, 1);
        pair.initiate_child(Who::B, "net");
        pair.settle();
        let suite = pair.a.engine.ike_sas(pair.now)[0].suite.unwrap().to_string();
        assert!(suite.ends_with(" (weak)"), "{suite}");
        let other = legacy(Who::B, "aes128-sha256-ecp256", esp);
        let mut pair = Pair::new(legacy(Who::A, ike, esp), other);
        pair.initiate(Who::A);
        pair.settle();
        assert!(pair.a.engine.ike_sas(pair.now).iter().all(|sa| sa.suite.is_none()), "{ike}");
    }
}

fn in_pieces(who: Who, fragmentation: Fragmentation, size: usize) -> Config {
    let mut config = v1_with(who, IKE, |c| c.fragmentation = fragmentation);
    config.settings.fragment_size = size;
    config
}

fn is_piece(transmit: &Transmit) -> bool {
    transmit.datagram[16] == 132
}

/// Every message in pieces, the first too, in both phases; lost, twice and out of order.
#[test]
fn messages_in_pieces() {
    let with = |who| in_pieces(who, Fragmentation::Force, 120);
    let mut pair = Pair::new(with(Who::A), with(Who::B));
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
    assert!(pair.trace.iter().all(|(_, sent)| sent.datagram.len() <= 120));
    assert!(pair.trace.iter().filter(|(_, sent)| is_piece(sent)).count() > 12);
    for host in [&pair.a, &pair.b] {
        let statistics = host.engine.statistics();
        assert_eq!((statistics.invalid_packets_received, statistics.receive_heap_size), (0, 0));
        assert_eq!(statistics.negotiation_failures, 0);
    }
    for seed in 1..30 {
        let mut pair = Pair::seeded_with(seed, with(Who::A), with(Who::B));
        let mut random = Random::new([seed; 32]);
        pair.initiate(Who::A);
        for _ in 0..60 {
            pair.random_step(&mut random);
        }
        (pair.a.hold_jobs, pair.b.hold_jobs) = (false, false);
        pair.settle();
        pair.advance(Duration::from_secs(120));
        pair.assert_in_use(1, 1);
    }
}

/// `yes` waits for the peer's word, `accept` takes pieces and sends none, `no` is silent about them.
#[test]
fn who_sends_pieces() {
    use Fragmentation::{Accept, Force, No, Yes};
    for (a, b, from_a, from_b) in [
        (Yes, Yes, true, true),
        (Yes, Accept, true, false),
        (Accept, Force, false, true),
        (Yes, No, false, false),
        (No, Yes, false, false),
    ] {
        let mut pair = Pair::new(in_pieces(Who::A, a, 150), in_pieces(Who::B, b, 150));
        pair.initiate(Who::A);
        pair.settle();
        pair.assert_in_use(1, 1);
        assert!(!is_piece(&pair.trace[0].1), "the first message is whole");
        for (who, sends) in [(Who::A, from_a), (Who::B, from_b)] {
            let sent = pair.trace.iter().any(|(from, sent)| *from == who && is_piece(sent));
            assert_eq!(sent, sends, "{a:?} {b:?} {who:?}");
        }
    }
    // What is not taken is dropped.
    let mut pair = Pair::new(in_pieces(Who::A, Force, 150), in_pieces(Who::B, No, 150));
    pair.initiate(Who::A);
    pair.settle();
    assert_eq!(pair.b.engine.statistics().half_open, 0);
    assert!(pair.b.engine.statistics().invalid_packets_received > 1);
}

/// Pieces of first messages from strangers: an entry of the half-open table each, a bounded number of octets, and no
/// answer (attacks.json ike1-frag-null has the malformed ones).
#[test]
fn pieces_of_strangers() {
    let anyone = |who| {
        let mut config = in_pieces(who, Fragmentation::Force, 120);
        config.settings.half_open_limit = 40;
        let mut c = (*config.connections[0]).clone();
        if who == Who::B {
            c.remote_addrs.clear();
        }
        config.connections = vec![c.into()];
        config
    };
    let mut pair = Pair::new(anyone(Who::A), anyone(Who::B));
    pair.initiate(Who::A);
    let first = pair.to_b.pop_front().unwrap();
    pair.to_b.clear();
    let before = pair.trace.len();
    for n in 0..200_u32 {
        let mut forged = first.clone();
        forged.datagram[..4].copy_from_slice(&n.to_be_bytes());
        let [_, b, c, d] = n.to_be_bytes();
        forged.path.local.set_ip([198, b, c, d].into());
        pair.deliver(Who::B, &forged);
        // Many numbers, all of them full.
        for number in 2..=255 {
            forged.datagram[34] = number;
            pair.deliver(Who::B, &forged);
        }
    }
    assert_eq!(pair.trace.len(), before, "nobody is answered");
    let statistics = pair.b.engine.statistics();
    assert_eq!(statistics.half_open, 20);
    assert!(statistics.initiations_dropped > 0);
    assert!(statistics.receive_heap_size <= 20 * 100, "{}", statistics.receive_heap_size);
    pair.advance(Duration::from_secs(60));
    let statistics = pair.b.engine.statistics();
    assert_eq!((statistics.half_open, statistics.receive_heap_size), (0, 0));
    assert!(pair.b.jobs.is_empty());
}

fn aggressive(who: Who) -> Config {
    let mut config = v1_with(who, IKE, |c| c.aggressive = true);
    config.settings.aggressive_psk = true;
    config
}

/// RFC 2409 §5.4: three messages, then quick mode.
#[test]
fn aggressive_mode_takes_three_messages() {
    let mut pair = Pair::new(aggressive(Who::A), aggressive(Who::B));
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
    let exchanges: Vec<u8> = pair.trace.iter().map(|(_, sent)| sent.datagram[18]).collect();
    assert_eq!(exchanges, [4, 4, 4, 32, 32, 32]);
    assert_eq!(pair.b.engine.statistics().aggressive_begun, 1);
    for host in [&pair.a, &pair.b] {
        let statistics = host.engine.statistics();
        assert_eq!((statistics.ike_main_mode_initial, statistics.ike_quick_mode), (1, 1));
        assert_eq!((statistics.invalid_packets_received, statistics.half_open), (0, 0));
    }
    // Rekeyed, by a new one.
    pair.command(Who::A, Command::RekeyIke(IkeTarget::Connection("gw".to_owned())));
    pair.settle();
    pair.advance(Duration::from_secs(60));
    pair.assert_in_use(1, 1);
    assert_eq!(pair.a.engine.statistics().ike_main_mode_rekey, 1);
}

/// Every message lost in turn, or twice, or late: the third has no answer and goes out again with what follows.
#[test]
fn aggressive_mode_with_loss() {
    for seed in 1..60 {
        let mut pair = Pair::seeded_with(seed, aggressive(Who::A), aggressive(Who::B));
        pair.initiate(Who::A);
        pair.stumble(12, seed);
        pair.advance(Duration::from_secs(160));
        pair.assert_in_use(1, 1);
    }
}

/// RFC 3947 §4: NAT-D in the second and third messages, and port 4500 from the third on.
#[test]
fn aggressive_mode_through_a_nat() {
    let mut anyone = (*aggressive(Who::B).connections[0]).clone();
    anyone.remote_addrs.clear();
    let mut b = aggressive(Who::B);
    b.connections = vec![anyone.into()];
    let mut pair = Pair::new(aggressive(Who::A), b);
    pair.nat = Some("198.51.100.7".parse().unwrap());
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
    assert_eq!(pair.trace[2].1.path.local.port(), 4500);
    for host in [&pair.a, &pair.b] {
        assert!(host.sad.values().all(|slot| slot.inbound.as_ref().unwrap().encap.is_some()));
    }
}

/// A wrong key shows at the initiator; a forged HASH_I at the responder.
#[test]
fn aggressive_mode_with_a_wrong_key() {
    let mut b = aggressive(Who::B);
    b.psks = vec![psk("another")];
    let mut pair = Pair::new(aggressive(Who::A), b);
    let request = pair.initiate(Who::A);
    pair.settle();
    assert_eq!(pair.a.done[&request], Err(Failure::Authentication));
    assert_eq!(pair.a.engine.statistics().authentication_failures_psk, 1);
    pair.advance(Duration::from_secs(120));
    pair.assert_empty();
    let mut pair = Pair::new(aggressive(Who::A), aggressive(Who::B));
    pair.initiate(Who::A);
    pair.deliver_next(Who::B);
    pair.deliver_next(Who::A);
    let third = pair.to_b.front_mut().unwrap();
    let last = third.datagram.len() - 40;
    third.datagram[last] ^= 1;
    pair.deliver_next(Who::B);
    let statistics = pair.b.engine.statistics();
    assert_eq!((statistics.authentication_failures_psk, statistics.ike_main_mode_initial), (1, 0));
    assert_eq!(statistics.negotiation_failures, 1);
}

/// attacks.json ike1-aggressive-psk-offline: with preshared keys it is refused unless the gateway says so too; and a
/// connection for main mode answers no aggressive mode, nor the other way round.
#[test]
fn aggressive_mode_needs_its_switches() {
    let mut careful = aggressive(Who::B);
    careful.settings.aggressive_psk = false;
    let mut pair = Pair::new(aggressive(Who::A), careful);
    let request = pair.initiate(Who::A);
    pair.settle();
    assert!(pair.b.jobs.is_empty() && pair.b.engine.ike_sas(pair.now).is_empty());
    assert_eq!(pair.b.engine.statistics().negotiation_failures, 1);
    pair.advance(Duration::from_secs(400));
    assert_eq!(pair.a.done[&request], Err(Failure::NoProposal));
    for (a, b) in [
        (v1_with(Who::A, IKE, |_| ()), aggressive(Who::B)),
        (aggressive(Who::A), v1_with(Who::B, IKE, |_| ())),
    ] {
        let mut pair = Pair::new(a, b);
        pair.initiate(Who::A);
        pair.settle();
        assert!(pair.b.engine.ike_sas(pair.now).is_empty());
        assert_eq!(pair.b.engine.statistics().aggressive_begun, 0);
    }
}

/// attacks.json ike1-aggr-reuse-spi, and a flood: what strangers cost is bounded by the table and by the second.
#[test]
fn a_flood_of_aggressive_mode() {
    let mut anyone = (*aggressive(Who::B).connections[0]).clone();
    anyone.remote_addrs.clear();
    let mut b = aggressive(Who::B);
    b.connections = vec![anyone.into()];
    let mut pair = Pair::new(aggressive(Who::A), b);
    pair.initiate(Who::A);
    let first = pair.to_b.pop_front().unwrap();
    let flood = |pair: &mut Pair, from: u32| {
        for n in from..from + 300 {
            let mut forged = first.clone();
            forged.datagram[..4].copy_from_slice(&n.to_be_bytes());
            let [_, b, c, d] = n.to_be_bytes();
            forged.path.local.set_ip([198, b, c, d].into());
            pair.deliver(Who::B, &forged);
        }
        pair.to_a.clear();
    };
    flood(&mut pair, 0);
    assert_eq!(pair.b.engine.statistics().aggressive_begun, 20);
    assert_eq!(pair.b.engine.statistics().initiations_dropped, 280);
    pair.now += Duration::from_secs(1);
    flood(&mut pair, 1000);
    assert_eq!(pair.b.engine.statistics().aggressive_begun, 40);
    assert_eq!(pair.b.engine.statistics().half_open, 40);
    pair.to_a.clear();
    let before = pair.trace.len();
    pair.advance(Duration::from_secs(60));
    assert_eq!(pair.b.engine.statistics().half_open, 0);
    // A itself asks on; of the others nobody is sent anything by a timer.
    let known = |sent: &Transmit| sent.path.remote.ip() == first.path.local.ip();
    assert!(pair.trace[before..].iter().all(|(who, sent)| *who == Who::A || known(sent)));
}
