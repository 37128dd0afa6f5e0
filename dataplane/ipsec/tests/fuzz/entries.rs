//! The entries of the dataplane that bytes of strangers reach, each as a function of bytes. The driver beside this file runs them
//! on every compiler; the targets of `tools/fuzz` give them to libFuzzer.

use ipsec::accounting::Totals;
use ipsec::algorithm::{Cipher, Integrity, KeyMaterial};
use ipsec::classify::{Class, LocalAddresses, classify as classify_packet};
use ipsec::esp::inbound::InboundSa;
use ipsec::esp::outbound::OutboundSa;
use ipsec::esp::transform::Mac;
use ipsec::flow::FlowKey;
use ipsec::icmp_error::answered_traffic;
use ipsec::inbound::{self, InboundPacket};
use ipsec::outbound::{self, OutboundPacket};
use ipsec::packet::{OwnedPacket, PacketBuffer};
use ipsec::sa::{
    HeaderRules, Lifetime, Mode, PairId, Protocol, SaParameters, Spi, Transform, UdpEncap,
};
use ipsec::sad::{InboundSad, OutboundSad, Slot};
use ipsec::selector::{Action, AddressRange, Policy, PolicyId, Ports, Selector};
use ipsec::spd::{Match, Spd};
use std::net::IpAddr;
use wire::ip::Ip;
use wire::{esp, ipv4, ipv6};

/// The SPI of every SA here; a mutation of it is an unknown SPI.
pub(crate) const SPI: u32 = 0x3400;
const MAC_KEY: [u8; 32] = [0x5a; 32];

/// What `Protected` says lies inside the packet, whatever the packet.
pub(crate) fn classify(packet: &[u8]) {
    if let Some(answer) = answered_traffic(packet) {
        // An error goes to who sent what it quotes.
        assert_eq!(Ip::parse(packet).map(|ip| ip.destination()), Ok(answer.destination));
    }
    let destination = Ip::parse(packet).map(|ip| ip.destination());
    for local in [LocalAddresses::new(destination.ok()), LocalAddresses::default()] {
        match classify_packet(packet, &local, esp::UDP_PORT) {
            Ok(Class::Protected(header)) => {
                let (offset, end) = (usize::from(header.offset), usize::from(header.end));
                assert!(offset <= end && end <= packet.len());
                assert!(usize::from(header.named_at) < offset);
            }
            Ok(Class::Clear { flow, end, .. }) => {
                assert!(usize::from(end) <= packet.len());
                let _ = (flow.flow().outbound(), flow.flow().inbound());
            }
            Ok(Class::Reassemble | Class::KeepAlive | Class::Ike) | Err(_) => {}
        }
    }
}

/// The first byte chooses the SA, and whether the rest is a packet as received or the text of one that is authentic: behind
/// the ICV, padding, trailer, the inner header and the selectors are the peer's to write.
pub(crate) fn esp_inbound(bytes: &[u8]) {
    let Some((&choice, rest)) = bytes.split_first() else { return };
    let (transport, v6, encap, authentic) =
        (choice & 1 != 0, choice & 2 != 0, choice & 4 != 0, choice & 8 != 0);
    let cipher = match (authentic, choice >> 4 & 3) {
        (true, _) | (_, 0) => Cipher::Null,
        (_, 1) => Cipher::AesGcm(16),
        (_, 2) => Cipher::AesCbc,
        (_, _) => Cipher::ChaCha20Poly1305,
    };
    let integrity = (!cipher.is_combined()).then_some(Integrity::HmacSha256_128);
    let mode = if transport { Mode::Transport } else { Mode::Tunnel };
    let shape = Shape {
        protocol: Protocol::Esp,
        mode,
        v6,
        encap,
        cipher,
        integrity,
        esn: choice & 0x40 != 0,
    };
    let packet = if authentic { authentic_esp(&shape, rest) } else { rest.to_vec() };
    receive(&shape, &packet);
}

/// The first byte chooses the SA; the rest is a packet as received, or one that the sender seals, which must come out as it
/// went in.
pub(crate) fn ah_inbound(bytes: &[u8]) {
    let Some((&choice, rest)) = bytes.split_first() else { return };
    let (transport, v6, sealed) = (choice & 1 != 0, choice & 2 != 0, choice & 8 != 0);
    let integrity = [
        Integrity::HmacSha1_96,
        Integrity::AesGmac,
        Integrity::HmacSha512_256,
        Integrity::AesXcbc96,
    ][usize::from(choice >> 4 & 3)];
    let mode = if transport { Mode::Transport } else { Mode::Tunnel };
    let shape = Shape {
        protocol: Protocol::Ah,
        mode,
        v6,
        encap: false,
        cipher: Cipher::Null,
        integrity: Some(integrity),
        esn: choice & 0x40 != 0,
    };
    if !sealed {
        receive(&shape, rest);
        return;
    }
    let Ok(mut sa) = OutboundSa::new(&shape.parameters(true)) else { panic!("the SA is sound") };
    sa.set_path_mtu(u16::MAX);
    let mut sad = OutboundSad::new(1);
    assert!(sad.insert(Slot(0), Box::new(sa)).is_ok());
    let mut burst = [OutboundPacket::new(OwnedPacket::new(rest, 128, 128), Slot(0))];
    outbound::process_burst(&mut sad, &mut burst, &mut Totals::default());
    let [packet] = burst;
    if packet.outcome == outbound::Outcome::Sealed {
        let opened = receive(&shape, packet.buffer.data());
        if let (Some(opened), Ok(ip), Mode::Tunnel) = (opened, Ip::parse(rest), mode) {
            assert_eq!(opened, rest[..ip.total_len()], "a tunnel changes nothing");
        }
    }
}

struct Shape {
    protocol: Protocol,
    mode: Mode,
    v6: bool,
    encap: bool,
    cipher: Cipher,
    integrity: Option<Integrity>,
    esn: bool,
}

impl Shape {
    /// (sender, receiver)
    fn ends(&self) -> (IpAddr, IpAddr) {
        if self.v6 {
            ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into())
        } else {
            ([192, 0, 2, 1].into(), [192, 0, 2, 2].into())
        }
    }

    fn parameters(&self, sending: bool) -> SaParameters {
        let (sender, receiver) = self.ends();
        let (local, remote) = if sending { (sender, receiver) } else { (receiver, sender) };
        let key_len = self.cipher.key_lens().first().copied().unwrap_or(0) + self.cipher.salt_len();
        let all = |address: IpAddr| {
            let Some(range) = AddressRange::prefix(address, 0) else { panic!("a prefix") };
            Selector {
                local: range,
                remote: range,
                protocol: None,
                local_ports: Ports::Any,
                remote_ports: Ports::Any,
            }
        };
        let Some(spi) = Spi::new(SPI) else { panic!("not reserved") };
        SaParameters {
            pair: PairId(1),
            spi,
            protocol: self.protocol,
            mode: self.mode,
            local,
            remote,
            encap: self.encap.then_some(UdpEncap { local_port: 4500, remote_port: 4500 }),
            transform: Transform {
                cipher: self.cipher,
                cipher_key: KeyMaterial::new((0..key_len).map(|i| i as u8).collect()),
                integrity: self.integrity.map(|integrity| {
                    (
                        integrity,
                        KeyMaterial::new(
                            MAC_KEY.iter().copied().cycle().take(integrity.key_len()).collect(),
                        ),
                    )
                }),
            },
            esn: self.esn,
            replay_window: 64,
            selectors: vec![all([0, 0, 0, 0].into()), all([0u16; 8].into())],
            later_fragments: false,
            lifetime: Lifetime::default(),
            headers: HeaderRules::default(),
        }
    }
}

/// A packet of NULL and HMAC-SHA-256 around any text.
fn authentic_esp(shape: &Shape, text: &[u8]) -> Vec<u8> {
    let mut text = text.get(..text.len().min(8000)).unwrap_or_default().to_vec();
    // Of the length that every cipher here would have: the rest is the length check's, which other inputs meet.
    text.resize(text.len().next_multiple_of(4).max(4), 0);
    let covered = [&esp::emit(SPI, 1)[..], &text].concat();
    let Some(mac) = Mac::new(Integrity::HmacSha256_128, &MAC_KEY) else {
        panic!("a key of its length")
    };
    let (tag, _) = mac.tag(&[&covered, if shape.esn { &[0; 4] } else { &[] }]);
    let body = [&covered[..], &tag[..16]].concat();
    let udp = wire::udp::emit(4500, 4500, (8 + body.len()) as u16, 0);
    let body = if shape.encap { [&udp[..], &body].concat() } else { body };
    let protocol = if shape.encap { 17 } else { 50 };
    let header = match shape.ends() {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4::Header {
            traffic_class: 3,
            total_len: (20 + body.len()) as u16,
            id: 1,
            dont_fragment: false,
            ttl: 9,
            protocol,
            source,
            destination,
        }
        .emit()
        .to_vec(),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6::Header {
            traffic_class: 3,
            flow_label: 7,
            payload_len: body.len() as u16,
            next_header: protocol,
            hop_limit: 9,
            source,
            destination,
        }
        .emit()
        .to_vec(),
        _ => panic!("two families"),
    };
    [header, body].concat()
}

/// What came out, if anything did.
fn receive(shape: &Shape, packet: &[u8]) -> Option<Vec<u8>> {
    let destination = Ip::parse(packet).ok()?.destination();
    let local = LocalAddresses::new([destination]);
    let Ok(Class::Protected(header)) = classify_packet(packet, &local, esp::UDP_PORT) else {
        return None;
    };
    let Ok(sa) = InboundSa::new(&shape.parameters(false)) else { panic!("the SA is sound") };
    let spi = sa.spi();
    let mut sad = InboundSad::over(spi.core(), spi.slot()..spi.slot() + 1);
    assert!(sad.insert(Box::new(sa)).is_ok());
    let mut totals = Totals::default();
    // Twice in one burst: the second is a replay, whatever became of the first.
    let one = || InboundPacket::new(OwnedPacket::new(packet, 0, 0), header);
    let mut burst = [one(), one()];
    inbound::process_burst(&mut sad, &mut burst, &mut totals);
    let [first, second] = burst;
    assert!(!matches!(second.outcome, inbound::Outcome::Accepted(_) | inbound::Outcome::Pending));
    match first.outcome {
        inbound::Outcome::Accepted(_) => {
            let opened = first.buffer.data();
            let ip = Ip::parse(opened);
            assert!(
                ip.is_ok_and(|ip| ip.total_len() == opened.len()),
                "what comes out is one packet"
            );
            assert_eq!((totals.packets, totals.bytes), (1, opened.len() as u64));
            Some(opened.to_vec())
        }
        inbound::Outcome::Dropped(_) | inbound::Outcome::Larval => {
            assert_eq!(totals.packets, 0);
            None
        }
        inbound::Outcome::Pending => panic!("nothing was said of it"),
    }
}

/// Bytes become policies and questions about them; the compiled database answers as the list does.
pub(crate) fn spd(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let count = usize::from(bytes.next() % 24);
    let policies: Vec<Policy> = (0..count)
        .map(|number| Policy {
            id: PolicyId(number as u32),
            selectors: (0..=bytes.next() % 3).map(|_| bytes.selector()).collect(),
            action: [Action::Protect, Action::Bypass, Action::Discard]
                [usize::from(bytes.next() % 3)],
        })
        .collect();
    let compiled = Spd::compile(&policies, 1);
    for _ in 0..16 {
        let v6 = bytes.next() & 1 != 0;
        let key = FlowKey {
            local: bytes.address(v6),
            remote: bytes.address(v6),
            protocol: [6, 17, 50, 1, 58][usize::from(bytes.next() % 5)],
            ports: (bytes.next() & 3 != 0).then(|| (bytes.port(), bytes.port())),
        };
        let expected = policies
            .iter()
            .find(|policy| policy.selectors.iter().any(|selector| selector.matches(&key)))
            .map(|policy| Match { policy: policy.id, action: policy.action });
        assert_eq!(compiled.lookup(&key), expected, "{key:?} of {policies:?}");
    }
}

/// Bytes that never end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    /// Few addresses, so that ranges meet.
    fn address(&mut self, v6: bool) -> IpAddr {
        let (high, low) = (self.next(), self.next());
        if v6 {
            [0xfd00, u16::from(high & 7), 0, 0, 0, 0, 0, u16::from(low)].into()
        } else {
            [10, high & 7, 0, low].into()
        }
    }

    fn port(&mut self) -> u16 {
        u16::from(self.next() & 15) * 4369
    }

    fn range(&mut self, v6: bool) -> AddressRange {
        let (kind, a, b) = (self.next(), self.address(v6), self.address(v6));
        let range = match kind % 3 {
            0 => AddressRange::new(a.min(b), a.max(b)),
            1 => AddressRange::prefix(
                a,
                if v6 { kind / 3 * 2 } else { kind / 3 % 33 }.min(if v6 { 128 } else { 32 }),
            ),
            _ => Some(AddressRange::host(a)),
        };
        let Some(range) = range else { panic!("{kind} {a} {b} is a range") };
        range
    }

    fn ports(&mut self) -> Ports {
        match self.next() % 4 {
            0 => Ports::Opaque,
            1 => {
                let (a, b) = (self.port(), self.port());
                Ports::Range(a.min(b)..=a.max(b))
            }
            _ => Ports::Any,
        }
    }

    fn selector(&mut self) -> Selector {
        let v6 = self.next() & 1 != 0;
        Selector {
            local: self.range(v6),
            remote: self.range(v6),
            protocol: [None, Some(6), Some(17), Some(1)][usize::from(self.next() % 4)],
            local_ports: self.ports(),
            remote_ports: self.ports(),
        }
    }
}
