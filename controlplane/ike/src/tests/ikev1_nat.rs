//! IKEv1 through NATs (RFC 3947, RFC 3948, draft-ietf-ipsec-nat-t-ike-02 and -03), as ladders.

use super::harness::{A, B, Host, Pair, Who, change_child, net};
use super::ikev1::{IKE, v1_with};
use crate::config::{ChildMode, Config, TrafficSelector};
use crate::event::{ChildTarget, Command, IkeTarget};
use ipsec::sa::Mode;
use ipsec::selector::Ports;
use std::time::Duration;

const NAT: &str = "198.51.100.7";

/// MD5 of "RFC 3947", of "draft-ietf-ipsec-nat-t-ike-03", of "...-02" with and without a line feed.
const IDS: [[u8; 4]; 4] =
    [*b"\x4a\x13\x1c\x81", *b"\x7d\x94\x19\xa6", *b"\x90\xcb\x80\x91", *b"\xcd\x60\x46\x43"];

/// One end; B does not know where A comes from. In transport mode the child is between the two hosts.
fn end(who: Who, mode: Mode) -> Config {
    v1_with(who, IKE, |c| {
        if who == Who::B {
            c.remote_addrs.clear();
        }
        change_child(c, |child| {
            child.mode = ChildMode::Protect(mode);
            if mode == Mode::Transport {
                let dynamic =
                    TrafficSelector { addresses: None, protocol: None, ports: Ports::Any };
                child.local_ts = vec![dynamic.clone()];
                child.remote_ts = vec![dynamic];
            }
        });
    })
}

fn behind(mode: Mode) -> Pair {
    let mut pair = Pair::new(end(Who::A, mode), end(Who::B, mode));
    pair.nat = Some(NAT.parse().unwrap());
    pair
}

/// Brings the two up; the first message names the vendor IDs of `kept` (see `IDS`) only.
fn up(mut pair: Pair, kept: &[usize]) -> Pair {
    pair.initiate(Who::A);
    let mut first = pair.to_b.pop_front().unwrap();
    for (n, id) in IDS.iter().enumerate().filter(|(n, _)| !kept.contains(n)) {
        let at = first.datagram.windows(4).position(|four| four == id).expect("A names all");
        assert!(first.datagram[at..].len() >= 16, "{n}");
        first.datagram[at..at + 16].fill(0x55);
    }
    pair.deliver(Who::B, &first);
    pair.settle();
    pair.assert_in_use(1, 1);
    pair
}

/// The payloads of a clear message.
fn payloads(datagram: &[u8]) -> Vec<u8> {
    let (mut next, mut at, mut found) = (datagram[16], 28, Vec::new());
    while next != 0 {
        found.push(next);
        next = datagram[at];
        at += usize::from(u16::from_be_bytes([datagram[at + 2], datagram[at + 3]]));
    }
    found
}

fn all_in_udp(host: &Host) -> bool {
    host.sad.values().all(|slot| slot.inbound.as_ref().unwrap().encap.is_some())
}

/// What each ID means: the payloads of NAT-D and, behind the NAT, UDP in both modes; rekeys too, by both sides.
#[test]
fn the_rfc_and_the_drafts() {
    for mode in [Mode::Tunnel, Mode::Transport] {
        for (kept, detection) in [
            (vec![0, 1, 2, 3], 20),
            (vec![0], 20),
            (vec![1], 130),
            (vec![2], 130),
            (vec![3], 130),
            (vec![2, 3], 130),
        ] {
            let mut pair = up(behind(mode), &kept);
            for message in [2, 3] {
                let found = payloads(&pair.trace[message].1.datagram);
                let count = found.iter().filter(|number| **number == detection).count();
                assert_eq!(count, 2, "{kept:?}: {found:?}");
            }
            // The initiator goes to port 4500 with its fifth message (RFC 3947 §4).
            let ports: Vec<u16> =
                pair.trace.iter().map(|(_, sent)| sent.path.local.port()).collect();
            assert_eq!(ports[..5], [500, 500, 500, 500, 4500]);
            assert!(ports[4..].iter().all(|port| *port == 4500));
            for who in [Who::A, Who::B] {
                let target = ChildTarget::Named { connection: None, child: "net".to_owned() };
                pair.command(who, Command::RekeyChild(target));
                pair.settle();
                pair.advance(Duration::from_secs(60));
                pair.assert_in_use(1, 1);
            }
            assert!(all_in_udp(&pair.a) && all_in_udp(&pair.b));
            for host in [&pair.a, &pair.b] {
                let statistics = host.engine.statistics();
                assert_eq!(
                    (statistics.invalid_packets_received, statistics.negotiation_failures),
                    (0, 0)
                );
            }
        }
    }
}

/// A peer that knows none of it gets neither NAT-D nor UDP.
#[test]
fn without_a_vendor_id_there_is_no_nat_traversal() {
    let pair = up(behind(Mode::Tunnel), &[]);
    assert!(!pair.trace.iter().any(|(_, sent)| sent.path.local.port() == 4500));
    assert!(!all_in_udp(&pair.a) && !all_in_udp(&pair.b));
}

/// Transport mode: each side protects what goes between the two addresses that it sees itself.
#[test]
fn transport_mode_is_between_the_addresses_that_each_sees() {
    let pair = up(behind(Mode::Transport), &[0]);
    for (host, local, remote) in [(&pair.a, A, B), (&pair.b, B, NAT)] {
        let slot = host.sad.values().next().unwrap();
        let sa = slot.outbound.as_ref().unwrap();
        assert_eq!(sa.selectors[0].local, net(&format!("{local}/32")));
        assert_eq!(sa.selectors[0].remote, net(&format!("{remote}/32")));
    }
}

/// A new main mode through the NAT, by the side behind it; the children stay.
#[test]
fn the_isakmp_sa_is_renewed_behind_a_nat() {
    let mut pair = up(behind(Mode::Tunnel), &[0]);
    let before = pair.a.spi_pairs();
    pair.command(Who::A, Command::RekeyIke(IkeTarget::Connection("gw".to_owned())));
    pair.settle();
    pair.advance(Duration::from_secs(60));
    pair.assert_in_use(1, 1);
    assert_eq!(pair.a.spi_pairs(), before);
    assert!(all_in_udp(&pair.a));
}
