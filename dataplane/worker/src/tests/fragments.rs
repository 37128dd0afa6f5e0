//! Fragments of the LAN against policies and SAs for some ports (RFC 4301 §7).

use super::bed::*;
use crate::{Activation, Delivery, Event};
use ipsec::drop_cause::DropCause;
use ipsec::sa::{PairId, SaParameters};
use ipsec::selector::{Action, Policy, PolicyId, Ports, Selector};
use stats::Worker as Row;
use wire::checksum;

/// Both ends of a child: selectors of the sender's side, and whether later fragments were agreed on.
#[derive(Clone, Copy)]
struct Child {
    ports: Which,
    later: bool,
}

#[derive(Clone, Copy)]
enum Which {
    Any,
    /// UDP to port 5000, where every packet of the bed goes.
    Named,
    Opaque,
}

impl Child {
    const fn new(ports: Which, later: bool) -> Self {
        Self { ports, later }
    }

    fn selectors(self, gateway: &Gateway, is_sender: bool) -> Vec<Selector> {
        let mut selectors = gateway.selectors();
        for selector in &mut selectors {
            let far = match self.ports {
                Which::Any => continue,
                Which::Named => Ports::Range(5000..=5000),
                Which::Opaque => Ports::Opaque,
            };
            selector.protocol = Some(17);
            *(if is_sender { &mut selector.remote_ports } else { &mut selector.local_ports }) = far;
        }
        selectors
    }
}

/// A sends, B receives; what each thinks of its children may differ. Children come by policies of the same number.
fn bed(children: &[(Child, Child)], last: Action) -> Bed {
    let mut bed = Bed::new(BedConfig::default());
    for (gateway, is_sender) in [(&mut bed.a, true), (&mut bed.b, false)] {
        let of = |(n, (a, b)): (usize, &(Child, Child))| Policy {
            id: PolicyId(n as u32 + 1),
            selectors: (if is_sender { a } else { b }).selectors(gateway, is_sender),
            action: Action::Protect,
        };
        let mut policies: Vec<Policy> = children.iter().enumerate().map(of).collect();
        policies.push(Policy { id: PolicyId(99), selectors: gateway.selectors(), action: last });
        gateway.dataplane.set_policies(&policies).unwrap();
    }
    bed.steps(2);
    bed
}

fn install(bed: &mut Bed, children: &[(Child, Child)]) {
    for (n, (a, b)) in children.iter().enumerate() {
        let id = n as u64 + 1;
        let (spi_a, spi_b) = bed.allocate(0, 0);
        let ends =
            [(&mut bed.a, a, true, spi_a, spi_b, 1, 2), (&mut bed.b, b, false, spi_b, spi_a, 2, 1)];
        for (gateway, child, is_sender, spi_in, spi_out, key_in, key_out) in ends {
            let parameters = |spi, key| SaParameters {
                selectors: child.selectors(gateway, is_sender),
                later_fragments: child.later,
                ..gateway.parameters(id, Outer::V4, spi, key)
            };
            let (inbound, outbound) = (parameters(spi_in, key_in), parameters(spi_out, key_out));
            gateway.dataplane.add_inbound(&inbound, Delivery::Forward).unwrap();
            gateway.dataplane.add_outbound(&outbound).unwrap();
            let policy = PolicyId(n as u32 + 1);
            gateway.dataplane.bind(policy, PairId(id), Activation::Now).unwrap();
        }
    }
    bed.steps(2);
}

/// The fragments of a packet from host a to host b that carries a number.
fn pieces(number: u32, v6: bool, cut: usize) -> Vec<Vec<u8>> {
    let (from, to) = if v6 { (ip(A.host6), ip(B.host6)) } else { (ip(A.host4), ip(B.host4)) };
    let header_len = if v6 { 40 } else { 20 };
    let whole = datagram(from, to, number, header_len + 2600);
    let chunks: Vec<&[u8]> = whole[header_len..].chunks(cut).collect();
    let piece = |(n, chunk): (usize, &&[u8])| {
        let more = n + 1 < chunks.len();
        if v6 {
            let field = (n * cut) as u16 | u16::from(more);
            let mut body = vec![17, 0];
            body.extend(field.to_be_bytes());
            body.extend(number.to_be_bytes());
            body.extend(*chunk);
            return ip_packet(from, to, 44, 64, &body);
        }
        let mut packet = ip_packet(from, to, 17, 64, chunk);
        packet[4..6].copy_from_slice(&(number as u16).to_be_bytes());
        let field = (n * cut / 8) as u16 | if more { 0x2000 } else { 0 };
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        packet[10..12].fill(0);
        let sum = checksum::of(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    };
    chunks.iter().enumerate().map(piece).collect()
}

fn send(bed: &mut Bed, pieces: &[Vec<u8>]) {
    for piece in pieces {
        assert!(bed.host_a.inject(&frame(A.host_mac, A.lan_mac, piece)));
    }
    bed.steps(4);
}

const ANY: Child = Child::new(Which::Any, false);
const NAMED: Child = Child::new(Which::Named, false);
const AGREED: Child = Child::new(Which::Named, true);
const OPAQUE: Child = Child::new(Which::Opaque, false);

/// RFC 4301 §7.3: only where both ends have agreed on it; and then they take the SA of the first.
#[test]
fn later_fragments_take_the_sa_of_the_first_where_that_was_agreed() {
    for v6 in [false, true] {
        for (children, arrive, discarded, mismatched) in [
            ((AGREED, AGREED), 3, 0, 0),
            ((NAMED, NAMED), 1, 2, 0),
            ((NAMED, AGREED), 1, 2, 0),
            ((AGREED, NAMED), 1, 0, 2),
            ((ANY, ANY), 3, 0, 0),
        ] {
            let mut bed = bed(&[children], Action::Bypass);
            install(&mut bed, &[children]);
            for number in 0..20 {
                send(&mut bed, &pieces(number, v6, 1000));
                assert_eq!(received(&mut bed.host_b).len(), arrive);
            }
            assert_eq!(bed.a.drops(DropCause::PolicyDiscard), 20 * discarded);
            assert_eq!(bed.b.drops(DropCause::SelectorMismatch), 20 * mismatched);
            assert_eq!(bed.a.all_drops() + bed.b.all_drops(), 20 * (discarded + mismatched));
            assert_eq!(bed.a.sum(Row::SealedPackets) + 20 * discarded, 60);
        }
    }
}

/// Fragments that do not fit into the tunnel are cut again, and none overtakes the first one.
#[test]
fn fragments_that_are_too_long_are_cut_in_their_order() {
    let children = (AGREED, AGREED);
    let mut bed = bed(&[children], Action::Bypass);
    install(&mut bed, &[children]);
    for number in 0..20 {
        send(&mut bed, &pieces(number, false, 1480));
        // The first one became two.
        assert_eq!(received(&mut bed.host_b).len(), 3);
    }
    assert_eq!(bed.a.all_drops() + bed.b.all_drops(), 0);
}

/// RFC 4301 §7.3: what does not comply with the policy of its whole packet is discarded by the receiver.
#[test]
fn a_receiver_asks_for_the_first_fragment() {
    let children = (ANY, AGREED);
    let mut bed = bed(&[children], Action::Bypass);
    install(&mut bed, &[children]);
    let [first, second, third] = pieces(1, false, 1000).try_into().unwrap();
    send(&mut bed, core::slice::from_ref(&second));
    assert_eq!(bed.b.drops(DropCause::FragmentAlone), 1);
    assert!(received(&mut bed.host_b).is_empty());
    // All of one burst.
    send(&mut bed, &[first, second, third.clone()]);
    assert_eq!(received(&mut bed.host_b).len(), 3);
    // Another packet's.
    send(&mut bed, &[pieces(2, false, 1000)[1].clone()]);
    assert_eq!(bed.b.drops(DropCause::FragmentAlone), 2);
    // Half a minute later nobody waits for it any more.
    bed.now += core::time::Duration::from_secs(31);
    send(&mut bed, &[third]);
    assert_eq!(bed.b.drops(DropCause::FragmentAlone), 3);
    assert!(received(&mut bed.host_b).is_empty());
    assert_eq!(bed.b.all_drops(), 3);
}

/// RFC 4301 §7.2: an SA of their own, whose receiver looks at their offsets.
#[test]
fn later_fragments_have_an_sa_of_their_own() {
    let children = [(NAMED, NAMED), (OPAQUE, OPAQUE)];
    let mut bed = bed(&children, Action::Bypass);
    install(&mut bed, &children);
    for number in 0..10 {
        send(&mut bed, &pieces(number, false, 1000));
        assert_eq!(received(&mut bed.host_b).len(), 3);
    }
    let [own, apart] =
        [1, 2].map(|pair| bed.b.dataplane.usage(PairId(pair)).unwrap().inbound.packets);
    assert_eq!((own, apart), (10, 20));
    assert_eq!(bed.a.all_drops() + bed.b.all_drops(), 0);
    // They lie over what the first one has.
    let early = pieces(11, false, 64);
    send(&mut bed, &early);
    assert_eq!(bed.b.drops(DropCause::FragmentOverlap), 1);
    assert_eq!(received(&mut bed.host_b).len(), early.len() - 1);
}

/// RFC 4301 §7.4: packets for some ports pass in clear, and so do their later fragments, but no others.
#[test]
fn later_fragments_pass_in_clear_where_the_whole_packet_does() {
    let mut bed = bed(&[], Action::Discard);
    let selectors = NAMED.selectors(&bed.a, true);
    let all = bed.a.selectors();
    let policies = [(1, selectors, Action::Bypass), (2, all, Action::Discard)]
        .map(|(id, selectors, action)| Policy { id: PolicyId(id), selectors, action });
    bed.a.dataplane.set_policies(&policies).unwrap();
    bed.steps(2);
    let [first, second, third] = pieces(1, false, 1000).try_into().unwrap();
    send(&mut bed, core::slice::from_ref(&second));
    assert_eq!((bed.a.sum(Row::Sent), bed.a.drops(DropCause::PolicyDiscard)), (0, 1));
    send(&mut bed, &[first, second, third]);
    assert_eq!((bed.a.sum(Row::Sent), bed.a.drops(DropCause::PolicyDiscard)), (3, 1));
}

/// All of the packet that asked for the SA waits for it.
#[test]
fn fragments_wait_for_the_sa_of_the_first() {
    for (children, arrive) in [((AGREED, AGREED), 3), ((NAMED, NAMED), 1)] {
        let mut bed = bed(&[children], Action::Bypass);
        send(&mut bed, &pieces(1, false, 1000));
        let asks = bed.a.events.iter().filter(|e| matches!(e, Event::Acquire { .. })).count();
        assert_eq!((asks, bed.a.sum(Row::Waiting)), (1, 3));
        install(&mut bed, &[children]);
        bed.steps(4);
        assert_eq!(received(&mut bed.host_b).len(), arrive);
        let refused = bed.a.drops(DropCause::PolicyDiscard);
        assert_eq!(refused, 3 - arrive as u64);
    }
}
