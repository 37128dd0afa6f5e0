//! What somebody who holds the keys can send: any number, any trailer, any inner packet. A gateway that runs says of each what a slow
//! oracle says.

use super::bed::*;
use crate::{Delivery, WorkerDrop};
use af_xdp::memory::{Direction as Way, Link as Wire, LinkConfig, ReceiveQueue, Station, link};
use core::cell::RefCell;
use ipsec::aead::{GcmKey, seal_one};
use ipsec::drop_cause::DropCause;
use ipsec::sa::{Mode, PairId, SaParameters, Spi};
use ipsec::selector::{Action, AddressRange, Policy, PolicyId, Ports, Selector};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use stats::Worker as Row;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use wire::{checksum, esp, protocol, udp};

/// A gateway whose peer is the test.
struct Alone {
    gateway: Gateway,
    host: Station,
    peer: Station,
    now: Instant,
    spi: Spi,
    /// The pair in use; a new one for each case, as packet memory is not given back before the process ends.
    id: u64,
    outer: Outer,
    esn: bool,
    before: BTreeMap<&'static str, u64>,
}

const ROWS: [Row; 3] =
    [Row::OpenedPackets, Row::ConfidentialBytesReceived, Row::TunnelBytesReceived];

impl Alone {
    /// With one worker or two, of which the second has the SA and the first the packets; with and without the straight way.
    fn all() -> Vec<Self> {
        [(1, false), (1, true), (2, false), (2, true)].map(|(n, way)| Self::new(n, way)).into()
    }

    fn new(workers: u16, long_way: bool) -> Self {
        let config = LinkConfig { queues_a: workers, queues_b: 1, ..Default::default() };
        let (Wire { a: lan, b: host, wire: one }, Wire { a: wan, b: peer, wire: other }) =
            (link(&config).unwrap(), link(&config).unwrap());
        for wire in [one, other] {
            wire.set_receive_queue(Way::BToA, ReceiveQueue::Forced(0));
        }
        let mut gateway = Gateway::new(BedConfig { workers, ..Default::default() }, lan, wan, A, B);
        for worker in &mut gateway.workers {
            worker.long_way = long_way;
        }
        let policy =
            Policy { id: PolicyId(1), selectors: gateway.selectors(), action: Action::Protect };
        gateway.dataplane.set_policies(&[policy]).unwrap();
        let mut alone = Self {
            gateway,
            host: Station::new(host).unwrap(),
            peer: Station::new(peer).unwrap(),
            now: Instant::now(),
            spi: Spi::new(0x9999).unwrap(),
            id: 0,
            outer: Outer::V4,
            esn: false,
            before: BTreeMap::new(),
        };
        alone.steps(2);
        alone
    }

    /// A pair in place of the last one; what is counted begins anew.
    fn install(&mut self, outer: Outer, change: impl Fn(&mut SaParameters)) {
        if self.id > 0 {
            self.gateway.dataplane.delete(PairId(self.id)).unwrap();
            self.steps(4);
        }
        self.id += 1;
        let owner = self.gateway.workers.len() - 1;
        self.spi = self.gateway.dataplane.allocate_spi(core(owner)).unwrap();
        let mut parameters = self.gateway.parameters(self.id, outer, self.spi, 1);
        change(&mut parameters);
        (self.outer, self.esn) = (outer, parameters.esn);
        self.gateway.dataplane.add_inbound(&parameters, Delivery::Forward).unwrap();
        self.steps(2);
        received(&mut self.host);
        received(&mut self.peer);
        self.before = self.counts();
    }

    fn steps(&mut self, n: usize) {
        for _ in 0..n {
            self.now += Duration::from_micros(20);
            self.gateway.step(self.now);
        }
    }

    /// A frame with this text under this number, as the SA's peer seals it.
    fn sealed(&self, sequence: u64, text: &[u8], class: u8) -> Vec<u8> {
        let key = GcmKey::new(&[[1; 12].as_slice(), &[0; 4]].concat()).unwrap();
        let clear = esp::emit(self.spi.get(), sequence as u32);
        let high = ((sequence >> 32) as u32).to_be_bytes();
        let aad = match self.esn {
            true => [&clear[..4], &high, &clear[4..]].concat(),
            false => clear.to_vec(),
        };
        let iv = sequence.to_be_bytes();
        let nonce = [&(self.id as u32).to_be_bytes()[..], &iv].concat().try_into().unwrap();
        let (mut data, mut tag) = (text.to_vec(), [0; 16]);
        seal_one(&key, nonce, &aad, &mut data, &mut tag).unwrap();
        let esp = [&clear[..], &iv, &data, &tag].concat();
        let v6 = matches!(self.outer, Outer::V6 | Outer::V6Udp);
        let (from, to) = if v6 { (B.wan6, A.wan6) } else { (B.wan4, A.wan4) };
        let mut packet = match self.outer {
            Outer::V4 | Outer::V6 => ip_packet(ip(from), ip(to), protocol::ESP, 64, &esp),
            Outer::V4Udp | Outer::V6Udp => {
                let head = udp::emit(4500, 4500, (esp.len() + 8) as u16, 0);
                ip_packet(ip(from), ip(to), protocol::UDP, 64, &[&head[..], &esp].concat())
            }
        };
        wire::ip::set_traffic_class(&mut packet, class);
        frame(B.wan_mac, A.wan_mac, &packet)
    }

    fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts: BTreeMap<_, _> = ROWS.map(|row| (row.name(), self.gateway.sum(row))).into();
        for worker in &self.gateway.workers {
            for (cause, count) in worker.account().dropped() {
                *counts.entry(cause).or_default() += count;
            }
        }
        counts
    }

    /// What has moved since the pair was installed.
    fn moved(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = self.counts();
        for (what, before) in &self.before {
            *counts.entry(what).or_default() -= before;
        }
        counts.retain(|_, count| *count > 0);
        counts
    }
}

/// Statistics of so many packets with so many bytes.
fn opened(packets: u64, bytes: u64) -> BTreeMap<&'static str, u64> {
    let rows = ROWS.iter().zip([packets, bytes, bytes]);
    rows.filter(|(_, n)| *n > 0).map(|(row, n)| (row.name(), n)).collect()
}

fn any_selectors() -> Vec<Selector> {
    ["0.0.0.0/0", "::/0"]
        .map(range)
        .map(|all: AddressRange| Selector {
            local: all,
            remote: all,
            protocol: None,
            local_ports: Ports::Any,
            remote_ports: Ports::Any,
        })
        .into()
}

/// `inner` with as much padding as a sender gives it.
fn text(inner: &[u8], next_header: u8) -> Vec<u8> {
    let pad = (inner.len() + 2).wrapping_neg() & 3;
    let mut text = inner.to_vec();
    text.extend(1..=pad as u8);
    text.extend([pad as u8, next_header]);
    text
}

/// Every number ever accepted, and RFC 4303 appendix A2 by its definition.
struct Numbers {
    esn: bool,
    size: u64,
    highest: u64,
    seen: BTreeSet<u64>,
}

impl Numbers {
    /// What becomes of an authentic packet with this true number.
    fn judge(&mut self, sequence: u64) -> Option<DropCause> {
        let epoch = 1i128 << 32;
        let left = i128::from(self.highest) - i128::from(self.size) + 1;
        let taken = if self.esn {
            let first = left.div_euclid(epoch) * epoch + i128::from(sequence as u32);
            if first < left { first + epoch } else { first }
        } else {
            i128::from(sequence as u32)
        };
        if taken <= 0 || taken < left {
            return Some(DropCause::ReplayedTooOld);
        }
        let taken = u64::try_from(taken).unwrap();
        if self.seen.contains(&taken) {
            return Some(DropCause::ReplayedDuplicate);
        }
        if taken != sequence {
            return Some(DropCause::NotAuthentic);
        }
        self.seen.insert(taken);
        self.highest = self.highest.max(taken);
        None
    }
}

/// Numbers on both sides of ends of epochs, in mixed order: steps from the highest so far.
fn steps(size: u64) -> impl Strategy<Value = Vec<i64>> {
    let (w, epoch) = (size as i64, 1i64 << 32);
    prop::collection::vec(
        prop_oneof![
            6 => -40i64..40,
            4 => -w - 2..w + 2,
            1 => prop_oneof![Just(-w), Just(1 - w), Just(-1 - w), Just(0)],
            1 => w..4 * w,
            1 => (epoch / 2 - 3)..(epoch / 2 + 3),
            1 => (epoch - w - 3)..(epoch - w + 3),
            1 => (epoch - 3)..(epoch + 3),
            1 => (-epoch - 3)..(-epoch + 3),
        ],
        1..120,
    )
}

const REFUSED: [DropCause; 3] =
    [DropCause::ReplayedTooOld, DropCause::ReplayedDuplicate, DropCause::NotAuthentic];

/// One by one, exactly; in bursts, what passes: there a number may be asked about before another of its burst has moved the window.
fn window_of_numbers(
    alone: &mut Alone,
    (esn, size, outer): (bool, u32, Outer),
    start: u64,
    (numbers, in_bursts): (&[i64], bool),
) {
    alone.install(outer, |p| (p.esn, p.replay_window) = (esn, size));
    let mut oracle = Numbers { esn, size: size.into(), highest: 0, seen: BTreeSet::new() };
    let (mut expected, mut passed, mut count) = (BTreeMap::new(), Vec::new(), 0u32);
    let limit = if esn { u64::MAX } else { u64::from(u32::MAX) };
    let far = i64::from(size) * 4;
    // Up to the start in steps that the receiver can follow.
    let approach = (1..).map(|n| (n << 31).min(start)).take_while(|n| *n < start).chain([start]);
    let approach: Vec<_> = approach.map(Err).chain(numbers.iter().map(|n| Ok(*n))).collect();
    for (n, next) in approach.into_iter().enumerate() {
        let sequence = match next {
            Err(sequence) => sequence,
            Ok(step) if in_bursts => oracle.highest.saturating_add_signed(step.clamp(-far, far)),
            Ok(step) => oracle.highest.saturating_add_signed(step),
        };
        let sequence = sequence.min(limit);
        count += 1;
        let packet = datagram(ip(B.host4), ip(A.host4), count, 64);
        assert!(alone.peer.inject(&alone.sealed(sequence, &text(&packet, 4), 0)));
        match oracle.judge(sequence) {
            Some(cause) => *expected.entry(cause.name()).or_insert(0) += 1,
            None => passed.push(count),
        }
        if !in_bursts || next.is_err() || n % 23 == 0 {
            alone.steps(3);
        }
    }
    alone.steps(4);
    let mut got: Vec<u32> = received(&mut alone.host).iter().map(|p| number(p)).collect();
    got.sort_unstable();
    assert_eq!(got, passed);
    let total = passed.len() as u64;
    expected.extend(opened(total, total * 64));
    let mut moved = alone.moved();
    if in_bursts {
        for counts in [&mut expected, &mut moved] {
            let refused = REFUSED.map(|cause| counts.remove(cause.name()).unwrap_or(0));
            counts.insert("refused", refused.iter().sum());
        }
    }
    assert_eq!(moved, expected);
    alone.gateway.assert_no_frame_is_missing();
}

/// RFC 4303 appendix A2 through a gateway: before and after the ends of epochs, twice, and jumps of more than a window and of more
/// than 2^31.
#[test]
fn numbers_around_the_ends_of_epochs() {
    let beds = RefCell::new(Alone::all());
    let sizes = prop_oneof![Just(32u32), Just(64), Just(1024), Just(65_536)];
    let case = (
        (0..4usize, prop::bool::weighted(0.75), any::<bool>()),
        sizes.prop_flat_map(|size| (Just(size), steps(size.into()))),
        prop_oneof![3 => Just(Outer::V4), 1 => Just(Outer::V6), 1 => Just(Outer::V4Udp)],
        (0u64..3, 0u64..100_000),
    );
    let config = ProptestConfig { cases: 160, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&case, |((bed, esn, in_bursts), (size, numbers), outer, (epoch, before))| {
            let end = (epoch + 1) << 32;
            let start = match esn {
                true => end - 1 - before.min(2 * u64::from(size)),
                false => u64::from(u32::MAX) - before,
            };
            let alone = &mut beds.borrow_mut()[bed];
            window_of_numbers(alone, (esn, size, outer), start, (&numbers, in_bursts));
            Ok(())
        })
        .unwrap();
}

/// Text behind an authentic header, more or less as it should be.
#[derive(Clone, Debug)]
struct Text {
    v6: bool,
    /// Bytes behind the IP header.
    body: usize,
    /// Added to the inner packet's own length.
    longer: i32,
    /// Replaces version and header length.
    first: Option<u8>,
    checksum_off: bool,
    tfc: usize,
    /// How many bytes of the whole are left in front of the trailer.
    keep: Option<usize>,
    pad: u8,
    /// Which byte of the padding is wrong.
    wrong: Option<u8>,
    /// What the trailer says of the padding, if not the truth.
    said: Option<u8>,
    next: u8,
    inner_class: u8,
    outer_class: u8,
}

impl Text {
    fn bytes(&self) -> Vec<u8> {
        let (from, to) = if self.v6 { (B.host6, A.host6) } else { (B.host4, A.host4) };
        let mut packet = ip_packet(ip(from), ip(to), protocol::UDP, 64, &vec![0x5a; self.body]);
        wire::ip::set_traffic_class(&mut packet, self.inner_class);
        let at = if self.v6 { 4 } else { 2 };
        let len = i32::from(u16::from_be_bytes([packet[at], packet[at + 1]])) + self.longer;
        packet[at..at + 2].copy_from_slice(&(len.clamp(0, 0xffff) as u16).to_be_bytes());
        if let Some(first) = self.first {
            packet[0] = first;
            if first >> 4 == 6 {
                // No extension headers.
                packet[6] = protocol::UDP;
            }
        }
        if !self.v6 {
            packet[10..12].fill(0);
            let header = usize::from(packet[0] & 15) * 4;
            let sum =
                checksum::of(&packet[..header.min(packet.len())]) ^ u16::from(self.checksum_off);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packet.resize(packet.len() + self.tfc, 0xee);
        packet.truncate(self.keep.unwrap_or(usize::MAX));
        // As many more as the alignment needs.
        let pad = usize::from(self.pad);
        let pad = pad + ((packet.len() + pad + 2).wrapping_neg() & 3);
        let pad = if pad > 255 { pad - 4 } else { pad };
        let mut padding: Vec<u8> = (1..=255).take(pad).collect();
        if let Some(wrong) = self.wrong
            && let Some(byte) = padding.get_mut(usize::from(wrong) % pad.max(1))
        {
            *byte ^= 0x40;
        }
        packet.extend(padding);
        packet.extend([self.said.unwrap_or(pad as u8), self.next]);
        packet
    }

    /// What becomes of it in a tunnel, step by step from the RFCs: the cause, or the bytes of the packet.
    fn judge(&self) -> Result<usize, DropCause> {
        let text = self.bytes();
        let [rest @ .., pad_len, next] = &text[..] else { return Err(DropCause::TooShort) };
        if !text.len().is_multiple_of(4) {
            return Err(DropCause::BadLength);
        }
        let Some(len) = rest.len().checked_sub(usize::from(*pad_len)) else {
            return Err(DropCause::BadPadding);
        };
        let (payload, padding) = rest.split_at(len);
        if padding.iter().enumerate().any(|(n, byte)| usize::from(*byte) != n + 1) {
            return Err(DropCause::BadPadding);
        }
        let malformed = Err(DropCause::InnerMalformed);
        let (len, class) = match (*next, payload.first().map(|first| first >> 4)) {
            (59, _) => return Err(DropCause::Dummy),
            (4, Some(4)) if payload.len() >= 20 => {
                let header = usize::from(payload[0] & 15) * 4;
                let len = usize::from(u16::from_be_bytes([payload[2], payload[3]]));
                if header < 20
                    || len < header
                    || len > payload.len()
                    || checksum::of(&payload[..header]) != 0
                {
                    return malformed;
                }
                (len, payload[1])
            }
            (41, Some(6)) if payload.len() >= 40 => {
                let len = 40 + usize::from(u16::from_be_bytes([payload[4], payload[5]]));
                if len > payload.len() {
                    return malformed;
                }
                (len, payload[0] << 4 | payload[1] >> 4)
            }
            (4 | 41, _) => return malformed,
            _ => return Err(DropCause::BadNextHeader),
        };
        if self.outer_class & 3 == 3 && class & 3 == 0 {
            return Err(DropCause::CongestionNotEct);
        }
        Ok(len)
    }
}

fn texts() -> impl Strategy<Value = Text> {
    let mostly = |n: u32| prop::bool::weighted(f64::from(n) / 100.0);
    let inner = (
        any::<bool>(),
        prop_oneof![4 => 8usize..60, 1 => 8usize..1300, 1 => 0usize..8],
        prop_oneof![5 => Just(0i32), 1 => -70i32..0, 1 => 1i32..70, 1 => Just(60_000)],
        prop_oneof![8 => Just(None), 1 => any::<u8>().prop_map(Some), 1 => (0x40u8..0x70).prop_map(Some)],
        mostly(4),
        prop_oneof![3 => Just(0usize), 1 => 1usize..80, 1 => 0usize..300],
        prop_oneof![8 => Just(None), 1 => (0usize..64).prop_map(Some), 1 => Just(Some(0))],
    );
    let trailer = (
        prop_oneof![5 => Just(0u8), 1 => any::<u8>(), 1 => 252u8..=255],
        prop_oneof![8 => Just(None), 1 => any::<u8>().prop_map(Some)],
        prop_oneof![8 => Just(None), 1 => any::<u8>().prop_map(Some), 1 => Just(Some(255))],
        prop_oneof![9 => Just(0u8), 2 => Just(59), 1 => any::<u8>(), 1 => Just(4), 1 => Just(41)],
        0u8..4,
        0u8..4,
    );
    (inner, trailer).prop_map(|(inner, trailer)| {
        let (v6, body, longer, first, checksum_off, tfc, keep) = inner;
        let (pad, wrong, said, next, inner_class, outer_class) = trailer;
        // 0 stands for what is right.
        let next = match next {
            0 => {
                if v6 {
                    41
                } else {
                    4
                }
            }
            next => next,
        };
        Text {
            v6,
            body,
            longer,
            first,
            checksum_off,
            tfc,
            keep,
            pad,
            wrong,
            said,
            next,
            inner_class,
            outer_class,
        }
    })
}

/// Dummies, padding, padding behind the packet and inner headers that lie (RFC 4303 §2.4 to §2.7): each cause counted as it should
/// be, the numbers used up, the statistics those of what passed.
#[test]
fn texts_of_any_shape() {
    let beds = RefCell::new(Alone::all());
    let outers = [Outer::V4, Outer::V4, Outer::V6, Outer::V4Udp, Outer::V6Udp];
    let case =
        (0..4usize, prop::sample::select(outers.to_vec()), prop::collection::vec(texts(), 1..70));
    let config = ProptestConfig { cases: 200, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&case, |(bed, outer, texts)| {
            any_text(&mut beds.borrow_mut()[bed], outer, &texts);
            Ok(())
        })
        .unwrap();
}

fn any_text(alone: &mut Alone, outer: Outer, texts: &[Text]) {
    alone.install(outer, |p| p.selectors = any_selectors());
    let mut expected = BTreeMap::<&str, u64>::new();
    let (mut packets, mut bytes) = (0, 0);
    for (sequence, text) in (1..).zip(texts) {
        let sealed = alone.sealed(sequence, &text.bytes(), text.outer_class);
        assert!(alone.peer.inject(&sealed));
        match text.judge() {
            Ok(len) => (packets, bytes) = (packets + 1, bytes + len as u64),
            Err(cause) => *expected.entry(cause.name()).or_default() += 1,
        }
        if sequence % 7 == 0 {
            assert!(alone.peer.inject(&sealed));
            *expected.entry(DropCause::ReplayedDuplicate.name()).or_default() += 1;
        }
        if sequence % 30 == 0 {
            alone.steps(3);
        }
    }
    alone.steps(4);
    expected.extend(opened(packets, bytes));
    let usage = alone.gateway.dataplane.usage(PairId(alone.id)).unwrap().inbound;
    assert_eq!((usage.packets, usage.bytes), (packets, bytes));
    let mut moved = alone.moved();
    // Behind the tunnel: a packet that was opened may still be one that is not forwarded, or leave for the peer by the default route.
    let forwarded = (received(&mut alone.host).len() + received(&mut alone.peer).len()) as u64;
    let dropped: u64 = WorkerDrop::ALL.iter().filter_map(|cause| moved.remove(cause.name())).sum();
    assert!(forwarded + dropped >= packets, "{forwarded} + {dropped}, of {packets}: {moved:?}");
    assert_eq!(moved, expected);
    alone.gateway.assert_no_frame_is_missing();
}

/// RFC 4303 §2.6: swallowed, counted as what they are and in no statistic, their numbers used up.
#[test]
fn dummies_of_every_length() {
    const MOST: usize = 1500 - 40 - 8 - 8 - 8 - 16;
    for alone in &mut Alone::all() {
        let outers = [Outer::V4, Outer::V6, Outer::V4Udp, Outer::V6Udp];
        let modes = [Mode::Tunnel, Mode::Transport];
        for (outer, mode) in outers.into_iter().flat_map(|outer| modes.map(|mode| (outer, mode))) {
            alone.install(outer, |p| (p.selectors, p.mode) = (any_selectors(), mode));
            let mut sent = 0;
            for len in (0..300).chain((300..MOST - 2).step_by(37)).chain([MOST - 2]) {
                let dummy = text(&vec![0x33; len], 59);
                sent += 1;
                assert!(alone.peer.inject(&alone.sealed(sent, &dummy, 0)));
                alone.steps(1);
            }
            // The window has them.
            assert!(alone.peer.inject(&alone.sealed(sent, &text(&[0; 6], 59), 0)));
            alone.steps(4);
            assert_eq!(alone.moved(), [("dummy", sent), ("replayed_duplicate", 1)].into());
            alone.gateway.assert_no_frame_is_missing();
        }
    }
}
