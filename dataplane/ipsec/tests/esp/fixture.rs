//! A pair of SAs and packets to send through them.

use ipsec::accounting::{Events, Totals};
use ipsec::algorithm::{Cipher, Integrity, KeyMaterial};
use ipsec::classify::{Class, LocalAddresses, Protected, classify};
use ipsec::drop_cause::DropCause;
use ipsec::esp::inbound::InboundSa;
use ipsec::esp::outbound::OutboundSa;
use ipsec::inbound::{self, InboundPacket};
use ipsec::outbound::{self, OutboundPacket};
use ipsec::packet::{OwnedPacket, PacketBuffer};
use ipsec::sa::{
    HeaderRules, Lifetime, Mode, PairId, Protocol, SaParameters, Spi, Transform, UdpEncap,
};
use ipsec::sad::{InboundSad, OutboundSad, Slot};
use ipsec::selector::{AddressRange, Ports, Selector};
use std::net::IpAddr;
use wire::{ipv4, ipv6, udp};

/// What varies over the tests; everything else is fixed.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) protocol: Protocol,
    pub(crate) cipher: Cipher,
    pub(crate) integrity: Option<Integrity>,
    pub(crate) key_len: usize,
    pub(crate) mode: Mode,
    pub(crate) outer_v6: bool,
    pub(crate) inner_v6: bool,
    pub(crate) encap: bool,
    pub(crate) esn: bool,
    pub(crate) window: u32,
    pub(crate) headers: HeaderRules,
    pub(crate) lifetime: Lifetime,
    pub(crate) selectors: Option<Vec<Selector>>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            protocol: Protocol::Esp,
            cipher: Cipher::AesGcm(16),
            integrity: None,
            key_len: 16,
            mode: Mode::Tunnel,
            outer_v6: false,
            inner_v6: false,
            encap: false,
            esn: false,
            window: 64,
            headers: HeaderRules::default(),
            lifetime: Lifetime::default(),
            selectors: None,
        }
    }
}

pub(crate) fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn any(v6: bool) -> Selector {
    let all = AddressRange::prefix(addr(if v6 { "::" } else { "0.0.0.0" }), 0).unwrap();
    Selector {
        local: all,
        remote: all,
        protocol: None,
        local_ports: Ports::Any,
        remote_ports: Ports::Any,
    }
}

impl Shape {
    /// (sender's, receiver's) outer address.
    pub(crate) fn outer(&self) -> (IpAddr, IpAddr) {
        if self.outer_v6 {
            (addr("2001:db8::1"), addr("2001:db8::2"))
        } else {
            (addr("192.0.2.1"), addr("192.0.2.2"))
        }
    }

    /// (sender's, receiver's) inner address; in transport mode the outer ones.
    pub(crate) fn inner(&self) -> (IpAddr, IpAddr) {
        match (self.mode, self.inner_v6) {
            (Mode::Transport, _) => self.outer(),
            (Mode::Tunnel, true) => (addr("fd00:1::1"), addr("fd00:2::2")),
            (Mode::Tunnel, false) => (addr("10.1.0.1"), addr("10.2.0.2")),
        }
    }

    fn parameters(&self, sending: bool) -> SaParameters {
        let (sender, receiver) = self.outer();
        let (local, remote) = if sending { (sender, receiver) } else { (receiver, sender) };
        let key_len = self.key_len + self.cipher.salt_len();
        let inner_v6 = self.inner().0.is_ipv6();
        SaParameters {
            pair: PairId(7),
            spi: Spi::new(0x3400).unwrap(),
            protocol: self.protocol,
            mode: self.mode,
            local,
            remote,
            encap: self.encap.then_some(UdpEncap { local_port: 4500, remote_port: 4500 }),
            transform: Transform {
                cipher: self.cipher,
                cipher_key: KeyMaterial::new((1..).take(key_len).collect()),
                integrity: self
                    .integrity
                    .map(|i| (i, KeyMaterial::new((101..).take(i.key_len()).collect()))),
            },
            esn: self.esn,
            replay_window: self.window,
            selectors: self.selectors.clone().unwrap_or_else(|| vec![any(inner_v6)]),
            later_fragments: false,
            lifetime: self.lifetime,
            headers: self.headers,
        }
    }

    pub(crate) fn sending(&self) -> SaParameters {
        self.parameters(true)
    }

    pub(crate) fn receiving(&self) -> SaParameters {
        self.parameters(false)
    }
}

/// A sender and a receiver that share keys.
pub(crate) struct Tunnel {
    pub(crate) shape: Shape,
    pub(crate) outbound: OutboundSad,
    pub(crate) inbound: InboundSad,
    pub(crate) sent: Totals,
    pub(crate) received: Totals,
}

pub(crate) const SLOT: Slot = Slot(0);

impl Tunnel {
    pub(crate) fn new(shape: Shape) -> Self {
        let mut outbound_sa = OutboundSa::new(&shape.sending()).unwrap();
        outbound_sa.set_path_mtu(9000);
        let inbound_sa = InboundSa::new(&shape.receiving()).unwrap();
        Self::with(shape, outbound_sa, inbound_sa)
    }

    pub(crate) fn with(shape: Shape, outbound_sa: OutboundSa, inbound_sa: InboundSa) -> Self {
        let mut outbound = OutboundSad::new(4);
        outbound.insert(SLOT, Box::new(outbound_sa)).unwrap();
        let spi = inbound_sa.spi();
        let mut inbound = InboundSad::over(spi.core(), spi.slot()..spi.slot() + 1);
        inbound.insert(Box::new(inbound_sa)).unwrap();
        Self { shape, outbound, inbound, sent: Totals::default(), received: Totals::default() }
    }

    pub(crate) fn seal(&mut self, packet: &[u8]) -> (outbound::Outcome, Events, Vec<u8>) {
        let mut burst = [OutboundPacket::new(OwnedPacket::new(packet, 96, 96), SLOT)];
        outbound::process_burst(&mut self.outbound, &mut burst, &mut self.sent);
        let [packet] = burst;
        (packet.outcome, packet.events, packet.buffer.data().to_vec())
    }

    pub(crate) fn sealed(&mut self, packet: &[u8]) -> Vec<u8> {
        let (outcome, _, sealed) = self.seal(packet);
        assert_eq!(outcome, outbound::Outcome::Sealed);
        sealed
    }

    pub(crate) fn classify(&self, packet: &[u8]) -> Result<Protected, DropCause> {
        let local = LocalAddresses::new([self.shape.outer().1]);
        match classify(packet, &local, 4500)? {
            Class::Protected(header) => Ok(header),
            other => panic!("taken for {other:?}"),
        }
    }

    pub(crate) fn open(&mut self, packet: &[u8]) -> (inbound::Outcome, Events, Vec<u8>) {
        match self.classify(packet) {
            Ok(header) => self.open_as(packet, header),
            Err(cause) => (inbound::Outcome::Dropped(cause), Events::NONE, Vec::new()),
        }
    }

    pub(crate) fn open_as(
        &mut self,
        packet: &[u8],
        header: Protected,
    ) -> (inbound::Outcome, Events, Vec<u8>) {
        let mut burst = [InboundPacket::new(OwnedPacket::new(packet, 0, 0), header)];
        inbound::process_burst(&mut self.inbound, &mut burst, &mut self.received);
        let [packet] = burst;
        (packet.outcome, packet.events, packet.buffer.data().to_vec())
    }

    pub(crate) fn opened(&mut self, packet: &[u8]) -> Vec<u8> {
        let (outcome, _, plain) = self.open(packet);
        assert!(matches!(outcome, inbound::Outcome::Accepted(_)), "{outcome:?}");
        plain
    }

    pub(crate) fn refused(&mut self, packet: &[u8]) -> DropCause {
        match self.open(packet).0 {
            inbound::Outcome::Dropped(cause) => cause,
            other => panic!("not refused: {other:?}"),
        }
    }
}

/// A UDP packet with `len` bytes of payload.
pub(crate) fn udp_packet(source: IpAddr, destination: IpAddr, class: u8, len: usize) -> Vec<u8> {
    let udp_len = (udp::HEADER_LEN + len) as u16;
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4::Header {
            traffic_class: class,
            total_len: 20 + udp_len,
            id: 0x1234,
            dont_fragment: true,
            ttl: 63,
            protocol: 17,
            source,
            destination,
        }
        .emit()
        .to_vec(),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6::Header {
            traffic_class: class,
            flow_label: 0x54321,
            payload_len: udp_len,
            next_header: 17,
            hop_limit: 63,
            source,
            destination,
        }
        .emit()
        .to_vec(),
        _ => panic!("two families"),
    };
    packet.extend(udp::emit(5001, 5002, udp_len, 1));
    packet.extend((0..len).map(|i| i as u8));
    wire::ip::repair_upper_checksum(&mut packet);
    packet
}

impl Shape {
    pub(crate) fn packet(&self, len: usize) -> Vec<u8> {
        let (source, destination) = self.inner();
        udp_packet(source, destination, 0, len)
    }
}
