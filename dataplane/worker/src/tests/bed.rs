//! The bed: host a ─ lan ─ gateway A ─ wan ─ gateway B ─ lan ─ host b.

use crate::*;
use af_xdp::memory::{Direction as Way, Link as Wire, LinkConfig, ReceiveQueue, Station, link};
use af_xdp::{FramePool, Port, UmemConfig};
use core::net::IpAddr;
use ipsec::algorithm::{Cipher, KeyMaterial};
use ipsec::sa::{
    HeaderRules, Lifetime, Mode, PairId, Protocol, SaParameters, Spi, Transform, UdpEncap,
};
use ipsec::selector::{Action, AddressRange, Policy, PolicyId, Ports, Selector};
use stats::Worker as Row;
use std::time::{Duration, Instant};
use wire::{checksum, ethernet, ipv4, ipv6, protocol, udp};

pub(crate) const LAN: PortId = PortId(0);
pub(crate) const WAN: PortId = PortId(1);

pub(crate) fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub(crate) fn core(index: usize) -> CoreId {
    CoreId::new(index).unwrap()
}

pub(crate) fn range(prefix: &str) -> AddressRange {
    let (address, len) = prefix.split_once('/').unwrap();
    AddressRange::prefix(ip(address), len.parse().unwrap()).unwrap()
}

/// The addresses of one side of the bed.
#[derive(Clone, Copy)]
pub(crate) struct SideOf {
    pub(crate) lan_mac: Mac,
    pub(crate) wan_mac: Mac,
    pub(crate) host_mac: Mac,
    pub(crate) lan4: &'static str,
    pub(crate) lan6: &'static str,
    pub(crate) gateway4: &'static str,
    pub(crate) gateway6: &'static str,
    pub(crate) wan4: &'static str,
    pub(crate) wan6: &'static str,
    pub(crate) host4: &'static str,
    pub(crate) host6: &'static str,
}

pub(crate) const A: SideOf = SideOf {
    lan_mac: Mac([2, 0, 0, 0, 1, 1]),
    wan_mac: Mac([2, 0, 0, 0, 1, 2]),
    host_mac: Mac([2, 0, 0, 0, 1, 3]),
    lan4: "10.77.1.0/24",
    lan6: "fd77:1::/64",
    gateway4: "10.77.1.1",
    gateway6: "fd77:1::1",
    wan4: "192.168.77.1",
    wan6: "fd77::1",
    host4: "10.77.1.2",
    host6: "fd77:1::2",
};

pub(crate) const B: SideOf = SideOf {
    lan_mac: Mac([2, 0, 0, 0, 2, 1]),
    wan_mac: Mac([2, 0, 0, 0, 2, 2]),
    host_mac: Mac([2, 0, 0, 0, 2, 3]),
    lan4: "10.77.2.0/24",
    lan6: "fd77:2::/64",
    gateway4: "10.77.2.1",
    gateway6: "fd77:2::1",
    wan4: "192.168.77.2",
    wan6: "fd77::2",
    host4: "10.77.2.2",
    host6: "fd77:2::2",
};

/// One gateway with all its workers.
pub(crate) struct Gateway {
    pub(crate) dataplane: Dataplane,
    pub(crate) workers: Vec<Worker>,
    pub(crate) hosts: Vec<MemoryHostEnd>,
    pub(crate) me: SideOf,
    pub(crate) peer: SideOf,
    pub(crate) events: Vec<Event>,
}

pub(crate) struct Bed {
    pub(crate) a: Gateway,
    pub(crate) b: Gateway,
    pub(crate) host_a: Station,
    pub(crate) host_b: Station,
    pub(crate) wan: af_xdp::memory::Wire,
    pub(crate) lans: [af_xdp::memory::Wire; 2],
    pub(crate) now: Instant,
}

#[derive(Clone, Copy)]
pub(crate) struct BedConfig {
    pub(crate) workers: u16,
    pub(crate) limits: Limits,
    pub(crate) chunks: u32,
    pub(crate) side: Side,
    pub(crate) vlan: Option<core::num::NonZeroU16>,
    pub(crate) wan_mtu: u16,
    /// Frames that the wan holds for one queue.
    pub(crate) wan_ring: u32,
}

impl Default for BedConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            limits: Limits { sas: 1024, ..Limits::default() },
            chunks: 1024,
            side: Side::Either,
            vlan: None,
            wan_mtu: 1500,
            wan_ring: 2048,
        }
    }
}

/// The outer headers of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outer {
    V4,
    V6,
    V4Udp,
    V6Udp,
}

impl Bed {
    pub(crate) fn new(config: BedConfig) -> Self {
        let wires = || {
            link(&LinkConfig { queues_a: config.workers, queues_b: 1, ..Default::default() })
                .unwrap()
        };
        let (lan_a, lan_b) = (wires(), wires());
        let wan = link(&LinkConfig {
            queues_a: config.workers,
            queues_b: config.workers,
            ring: config.wan_ring,
            ..Default::default()
        })
        .unwrap();
        let Wire { a: wan_a, b: wan_b, wire: wan } = wan;
        let mut bed = Self {
            a: Gateway::new(config, lan_a.a, wan_a, A, B),
            b: Gateway::new(config, lan_b.a, wan_b, B, A),
            host_a: Station::new(lan_a.b).unwrap(),
            host_b: Station::new(lan_b.b).unwrap(),
            wan,
            lans: [lan_a.wire, lan_b.wire],
            now: Instant::now(),
        };
        bed.steps(2);
        bed
    }

    /// Turns every worker `n` times, checks the accounts after each, and collects events.
    pub(crate) fn steps(&mut self, n: usize) {
        for _ in 0..n {
            self.now += Duration::from_micros(20);
            for gateway in [&mut self.a, &mut self.b] {
                gateway.step(self.now);
            }
        }
    }

    /// All packets, of the lans and the wan, arrive on this queue of a gateway.
    pub(crate) fn force_queue(&self, queue: u16) {
        self.all_arrive(ReceiveQueue::Forced(queue));
    }

    /// The same with packets that arrive anywhere.
    pub(crate) fn all_arrive(&self, queue: ReceiveQueue) {
        for wire in self.lans.iter().chain([&self.wan]) {
            for way in [Way::AToB, Way::BToA] {
                wire.set_receive_queue(way, queue);
            }
        }
    }

    /// Installs a pair on both gateways and binds it to a policy.
    pub(crate) fn install(&mut self, id: u64, outer: Outer, owner_a: usize, owner_b: usize) {
        let (spi_a, spi_b) = self.allocate(owner_a, owner_b);
        self.add(id, outer, spi_a, spi_b);
        for gateway in [&mut self.a, &mut self.b] {
            gateway.dataplane.bind(PolicyId(1), PairId(id), Activation::Now).unwrap();
        }
        self.steps(2);
    }

    pub(crate) fn allocate(&mut self, owner_a: usize, owner_b: usize) -> (Spi, Spi) {
        let spi_a = self.a.dataplane.allocate_spi(core(owner_a)).unwrap();
        let spi_b = self.b.dataplane.allocate_spi(core(owner_b)).unwrap();
        (spi_a, spi_b)
    }

    pub(crate) fn add(&mut self, id: u64, outer: Outer, spi_a: Spi, spi_b: Spi) {
        self.a.add_inbound(id, outer, spi_a, 1);
        self.b.add_inbound(id, outer, spi_b, 2);
        self.a.add_outbound(id, outer, spi_b, 2);
        self.b.add_outbound(id, outer, spi_a, 1);
    }

    pub(crate) fn policies(&mut self, action: Action) {
        for gateway in [&mut self.a, &mut self.b] {
            let policy = Policy { id: PolicyId(1), selectors: gateway.selectors(), action };
            gateway.dataplane.set_policies(&[policy]).unwrap();
        }
        self.steps(2);
    }

    /// Sends a numbered packet from host a to host b.
    pub(crate) fn send_a(&mut self, v6: bool, number: u32, len: usize) {
        let (from, to) = if v6 { (A.host6, B.host6) } else { (A.host4, B.host4) };
        let packet = datagram(ip(from), ip(to), number, len);
        assert!(self.host_a.inject(&frame(A.host_mac, A.lan_mac, &packet)));
    }

    pub(crate) fn send_b(&mut self, v6: bool, number: u32, len: usize) {
        let (from, to) = if v6 { (B.host6, A.host6) } else { (B.host4, A.host4) };
        let packet = datagram(ip(from), ip(to), number, len);
        assert!(self.host_b.inject(&frame(B.host_mac, B.lan_mac, &packet)));
    }
}

impl Gateway {
    pub(crate) fn new(
        config: BedConfig,
        lan: Vec<af_xdp::memory::MemoryPort>,
        wan: Vec<af_xdp::memory::MemoryPort>,
        me: SideOf,
        peer: SideOf,
    ) -> Self {
        let mut hosts = Vec::new();
        let parts = lan
            .into_iter()
            .zip(wan)
            .map(|(lan, wan)| {
                let (host, end) = HostPort::memory(256);
                hosts.push(end);
                WorkerParts {
                    pool: FramePool::new(&UmemConfig {
                        chunks: config.chunks,
                        // Packet memory stays until the process ends, and properties make hundreds of beds.
                        jumbo: 8,
                        huge_pages: false,
                        ..Default::default()
                    })
                    .unwrap(),
                    ports: [lan, wan]
                        .into_iter()
                        .map(|port| WorkerPort {
                            port: Port::Memory(port),
                            side: config.side,
                            vlan: config.vlan,
                        })
                        .collect(),
                    host,
                    block: None,
                }
            })
            .collect();
        let (mut dataplane, workers) =
            Dataplane::new(&DataplaneConfig { limits: config.limits, ..Default::default() }, parts)
                .unwrap();
        let gateway_table = table(me, peer, config.wan_mtu, true);
        dataplane.set_forwarding(gateway_table).unwrap();
        Self { dataplane, workers, hosts, me, peer, events: Vec::new() }
    }

    pub(crate) fn step(&mut self, now: Instant) {
        for worker in &mut self.workers {
            worker.turn(now);
            assert!(worker.account().balances(), "{:?}", worker.account());
        }
        self.events.extend(core::iter::from_fn(|| self.dataplane.poll_event()));
    }

    pub(crate) fn selectors(&self) -> Vec<Selector> {
        [(self.me.lan4, self.peer.lan4), (self.me.lan6, self.peer.lan6)]
            .map(|(local, remote)| Selector {
                local: range(local),
                remote: range(remote),
                protocol: None,
                local_ports: Ports::Any,
                remote_ports: Ports::Any,
            })
            .into()
    }

    pub(crate) fn parameters(&self, id: u64, outer: Outer, spi: Spi, key: u8) -> SaParameters {
        let v6 = matches!(outer, Outer::V6 | Outer::V6Udp);
        let (local, remote) =
            if v6 { (self.me.wan6, self.peer.wan6) } else { (self.me.wan4, self.peer.wan4) };
        let encap = matches!(outer, Outer::V4Udp | Outer::V6Udp)
            .then_some(UdpEncap { local_port: 4500, remote_port: 4500 });
        SaParameters {
            pair: PairId(id),
            spi,
            protocol: Protocol::Esp,
            mode: Mode::Tunnel,
            local: ip(local),
            remote: ip(remote),
            encap,
            transform: Transform {
                cipher: Cipher::AesGcm(16),
                cipher_key: KeyMaterial::new(
                    [[key; 20].as_slice(), &id.to_be_bytes()].concat()[8..].to_vec(),
                ),
                integrity: None,
            },
            esn: false,
            replay_window: 1024,
            selectors: self.selectors(),
            later_fragments: false,
            lifetime: Lifetime::default(),
            headers: HeaderRules::default(),
        }
    }

    pub(crate) fn add_inbound(&mut self, id: u64, outer: Outer, spi: Spi, key: u8) -> Ticket {
        let parameters = self.parameters(id, outer, spi, key);
        self.dataplane.add_inbound(&parameters, Delivery::Forward).unwrap()
    }

    pub(crate) fn add_outbound(&mut self, id: u64, outer: Outer, spi: Spi, key: u8) -> Ticket {
        let parameters = self.parameters(id, outer, spi, key);
        self.dataplane.add_outbound(&parameters).unwrap()
    }

    /// A fixed counter over all workers.
    pub(crate) fn sum(&self, row: Row) -> u64 {
        self.workers.iter().map(|w| w.account().get(row)).sum()
    }

    /// The drops of a cause over all workers.
    pub(crate) fn drops(&self, cause: impl Into<Drop> + Copy) -> u64 {
        self.workers.iter().map(|w| w.account().drops(cause)).sum()
    }

    pub(crate) fn all_drops(&self) -> u64 {
        self.workers.iter().map(|w| w.account().all_drops()).sum()
    }

    /// Every frame is where it belongs: none is lost, none is in a worker's hands, and each that was handed over came back.
    pub(crate) fn assert_no_frame_is_missing(&self) {
        for worker in &self.workers {
            let gauges = worker.frames();
            assert_eq!(gauges.out, 0, "{gauges:?}");
        }
    }
}

pub(crate) fn table(me: SideOf, peer: SideOf, wan_mtu: u16, resolved: bool) -> ForwardingTable {
    let mut routes = RouteTable::new();
    for (prefix, route) in [
        (me.lan4, Route::OnLink(LAN)),
        (me.lan6, Route::OnLink(LAN)),
        ("192.168.77.0/24", Route::OnLink(WAN)),
        ("fd77::/64", Route::OnLink(WAN)),
        ("0.0.0.0/0", Route::Via(WAN, ip(peer.wan4))),
        ("::/0", Route::Via(WAN, ip(peer.wan6))),
        ("203.0.113.0/24", Route::Blackhole),
    ] {
        let (address, len) = prefix.split_once('/').unwrap();
        routes.insert(ip(address), len.parse().unwrap(), route).unwrap();
    }
    let mut neighbours = NeighbourTable::new();
    neighbours.insert(LAN, ip(me.host4), me.host_mac);
    neighbours.insert(LAN, ip(me.host6), me.host_mac);
    if resolved {
        neighbours.insert(WAN, ip(peer.wan4), peer.wan_mac);
        neighbours.insert(WAN, ip(peer.wan6), peer.wan_mac);
    }
    let own = [me.gateway4, me.gateway6, me.wan4, me.wan6].map(ip);
    let link = |mac, mtu, v4: &str, v6: &str| Link {
        up: true,
        mac,
        mtu,
        v4: Some(v4.parse().unwrap()),
        v6: Some(v6.parse().unwrap()),
    };
    ForwardingTable {
        routes: routes.into(),
        neighbours: neighbours.into(),
        addresses: LocalAddresses::new(own).into(),
        links: [
            link(me.lan_mac, wan_mtu.max(1500), me.gateway4, me.gateway6),
            link(me.wan_mac, wan_mtu, me.wan4, me.wan6),
        ]
        .into(),
    }
}

/// A UDP packet of `len` bytes with a number in it.
pub(crate) fn datagram(from: IpAddr, to: IpAddr, number: u32, len: usize) -> Vec<u8> {
    let header_len = if from.is_ipv4() { 20 } else { 40 };
    let udp_len = (len - header_len) as u16;
    let mut body = udp::emit(4000, 5000, udp_len, 0).to_vec();
    body.extend(number.to_be_bytes());
    body.resize(usize::from(udp_len), number as u8);
    ip_packet(from, to, protocol::UDP, 64, &body)
}

/// The number in a packet of [`datagram`].
pub(crate) fn number(packet: &[u8]) -> u32 {
    let header_len = if packet[0] >> 4 == 4 { 20 } else { 40 };
    u32::from_be_bytes(packet[header_len + 8..][..4].try_into().unwrap())
}

pub(crate) fn ip_packet(from: IpAddr, to: IpAddr, protocol: u8, ttl: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = match (from, to) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4::Header {
            traffic_class: 0,
            total_len: (20 + body.len()) as u16,
            id: 7,
            dont_fragment: false,
            ttl,
            protocol,
            source,
            destination,
        }
        .emit()
        .to_vec(),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6::Header {
            traffic_class: 0,
            flow_label: 0,
            payload_len: body.len() as u16,
            next_header: protocol,
            hop_limit: ttl,
            source,
            destination,
        }
        .emit()
        .to_vec(),
        _ => unreachable!(),
    };
    packet.extend(body);
    packet
}

/// Sets DF of an IPv4 packet.
pub(crate) fn dont_fragment(packet: &mut [u8]) {
    packet[6] |= 0x40;
    packet[10..12].fill(0);
    let sum = checksum::of(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

pub(crate) fn frame(from: Mac, to: Mac, packet: &[u8]) -> Vec<u8> {
    let ether_type = if packet[0] >> 4 == 4 { ethernet::IPV4 } else { ethernet::IPV6 };
    [ethernet::emit(to, from, ether_type).as_slice(), packet].concat()
}

/// The IP packets that a station has received.
pub(crate) fn received(station: &mut Station) -> Vec<Vec<u8>> {
    station.collect().into_iter().map(|frame| frame[14..].to_vec()).collect()
}
