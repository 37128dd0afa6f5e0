//! IKEv1 beyond the plain ladders: weak suites, fragments, aggressive mode.

use super::harness::{Pair, Who, change_child};
use super::ikev1::{IKE, v1_with};
use crate::config::{Config, Fragmentation};
use crate::event::Transmit;
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
