//! Each stage of the packet path by itself, on a burst of 32 packets of 64 bytes in an AES-128-GCM tunnel.
//!
//! ```text
//! cargo bench -p ipsec --bench stages              # all
//! cargo bench -p ipsec --bench stages -- replay    # what has that in its name
//! ```
//!
//! Times are a burst's. What a stage changes is made anew outside the timing.

#![expect(clippy::expect_used, reason = "a benchmark that cannot run stops")]

use core::net::{IpAddr, Ipv4Addr};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ipsec::accounting::Totals;
use ipsec::algorithm::{Cipher, KeyMaterial};
use ipsec::classify::{Class, LocalAddresses, Protected, classify};
use ipsec::esp::inbound::InboundSa;
use ipsec::esp::outbound::OutboundSa;
use ipsec::flow::{Flow, FlowId};
use ipsec::inbound::InboundPacket;
use ipsec::outbound::OutboundPacket;
use ipsec::packet::{OwnedPacket, PacketBuffer};
use ipsec::replay::ReplayWindow;
use ipsec::sa::{HeaderRules, Lifetime, Mode, PairId, Protocol, SaParameters, Spi, Transform};
use ipsec::sad::{InboundSad, OutboundSad, Slot};
use ipsec::selector::{Action, AddressRange, Policy, PolicyId, Ports, Selector};
use ipsec::spd::{Context, FlowCache, Spd};
use ipsec::spi::CoreId;
use std::hint::black_box;
use wire::ip::Ip;
use wire::{ipv4, protocol, udp};

const BURST: usize = 32;
const SIZE: u16 = 64;
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

fn remote(n: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(11, 0, 0, 0).to_bits() + n as u32)
}

fn plain(n: usize) -> Vec<u8> {
    let header = ipv4::Header {
        traffic_class: 0,
        total_len: SIZE,
        id: 0,
        dont_fragment: false,
        ttl: 64,
        protocol: protocol::UDP,
        source: HOST,
        destination: remote(n),
    };
    let mut packet = header.emit().to_vec();
    packet.extend(udp::emit(4000, 5000, SIZE - 20, 0));
    packet.resize(usize::from(SIZE), n as u8);
    packet
}

fn selector(first: Ipv4Addr, last: Ipv4Addr) -> Selector {
    Selector {
        local: AddressRange::host(HOST.into()),
        remote: AddressRange::new(first.into(), last.into()).expect("first is before last"),
        protocol: None,
        local_ports: Ports::Any,
        remote_ports: Ports::Any,
    }
}

fn spi() -> Spi {
    // Slot 8 of core 0.
    Spi::for_known_answer(8 << 6 | 1)
}

/// Of the gateway, or of its peer.
fn parameters(local: IpAddr, peer: IpAddr, selector: Selector) -> SaParameters {
    SaParameters {
        pair: PairId(1),
        spi: spi(),
        protocol: Protocol::Esp,
        mode: Mode::Tunnel,
        local,
        remote: peer,
        encap: None,
        transform: Transform {
            cipher: Cipher::AesGcm(16),
            cipher_key: KeyMaterial::new(vec![7; 20]),
            integrity: None,
        },
        esn: false,
        replay_window: 1024,
        selectors: vec![selector],
        later_fragments: false,
        lifetime: Lifetime::default(),
        headers: HeaderRules::default(),
    }
}

fn outbound_sad() -> OutboundSad {
    let mut sad = OutboundSad::new(8);
    let all = selector(remote(0), remote(255));
    let sa = OutboundSa::new(&parameters(OURS.into(), PEER.into(), all)).expect("an SA");
    assert!(sad.insert(Slot(0), Box::new(sa)).is_ok());
    sad
}

fn sealed(sad: &mut OutboundSad) -> Vec<OutboundPacket<OwnedPacket>> {
    let mut burst = to_seal();
    ipsec::outbound::process_burst(sad, &mut burst, &mut Totals::default());
    burst
}

fn to_seal() -> Vec<OutboundPacket<OwnedPacket>> {
    let packet = |n| OutboundPacket::new(OwnedPacket::new(&plain(n), 64, 64), Slot(0));
    (0..BURST).map(packet).collect()
}

fn classification(c: &mut Criterion) {
    let local = LocalAddresses::new([OURS.into()]);
    let packets: Vec<_> = (0..BURST).map(plain).collect();
    c.bench_function("classify, plain", |b| {
        b.iter(|| {
            for packet in &packets {
                let _ = black_box(classify(packet, &local, 4500));
            }
        });
    });
}

fn flows(c: &mut Criterion) {
    let ids: Vec<FlowId> = (0..BURST)
        .map(|n| FlowId::of(&Ip::parse(&plain(n)).expect("IP")).expect("a flow"))
        .collect();
    let mut cache = FlowCache::<u32>::new(1 << 14);
    for id in &ids {
        cache.insert(cache.place(id), id, Context(1), 1, 5);
    }
    c.bench_function("flow cache, known", |b| {
        b.iter(|| {
            for id in &ids {
                black_box(cache.get(cache.place(id), id, Context(1), 1));
            }
        });
    });
    for count in [1u32, 1000, 100_000] {
        let policy = |n: u32| Policy {
            id: PolicyId(n + 1),
            selectors: vec![selector(
                Ipv4Addr::from_bits(0x6400_0000 + n),
                Ipv4Addr::from_bits(0x6400_0000 + n),
            )],
            action: Action::Protect,
        };
        let spd = Spd::compile(&(0..count).map(policy).collect::<Vec<_>>(), 1);
        let keys: Vec<_> = ids.iter().map(|id| Flow::outbound(&id.flow())).collect();
        c.bench_function(&format!("SPD, no match among {count}"), |b| {
            b.iter(|| {
                for key in &keys {
                    black_box(spd.lookup(key));
                }
            });
        });
    }
}

fn replay(c: &mut Criterion) {
    c.bench_function("replay window, in order", |b| {
        let mut window = ReplayWindow::new(1024, false).expect("a size");
        let mut sequence = 0u32;
        b.iter(|| {
            for _ in 0..BURST {
                sequence = sequence.wrapping_add(1).max(1);
                if let Ok(candidate) = window.check(sequence) {
                    let _ = black_box(window.accept(&candidate));
                }
            }
        });
    });
}

fn bursts(c: &mut Criterion) {
    let mut sad = outbound_sad();
    c.bench_function("seal, headers and cipher", |b| {
        b.iter_batched_ref(
            to_seal,
            |burst| ipsec::outbound::process_burst(&mut sad, burst, &mut Totals::default()),
            BatchSize::SmallInput,
        );
    });
    let back = Selector {
        local: AddressRange::new(remote(0).into(), remote(255).into()).expect("in order"),
        remote: AddressRange::host(HOST.into()),
        ..selector(remote(0), remote(255))
    };
    let sa = InboundSa::new(&parameters(PEER.into(), OURS.into(), back)).expect("an SA");
    let mut inbound = InboundSad::new(CoreId::new(0).expect("a core"), 1 << 10);
    assert!(inbound.insert(Box::new(sa)).is_ok());
    let local = LocalAddresses::new([PEER.into()]);
    let to_open = |burst: Vec<OutboundPacket<OwnedPacket>>| -> Vec<InboundPacket<OwnedPacket>> {
        let packet = |packet: OutboundPacket<OwnedPacket>| {
            let header: Protected = match classify(packet.buffer.data(), &local, 4500) {
                Ok(Class::Protected(header)) => header,
                other => unreachable!("{other:?}"),
            };
            InboundPacket::new(packet.buffer, header)
        };
        burst.into_iter().map(packet).collect()
    };
    c.bench_function("open, cipher, window and selectors", |b| {
        b.iter_batched_ref(
            || to_open(sealed(&mut sad)),
            |burst| {
                let mut totals = Totals::default();
                ipsec::inbound::process_burst(&mut inbound, burst, &mut totals);
                totals
            },
            // In the order in which they were sealed.
            BatchSize::PerIteration,
        );
    });
}

criterion_group!(stages, classification, flows, replay, bursts);
criterion_main!(stages);
