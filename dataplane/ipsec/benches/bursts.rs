//! ESP alone, as a packet graph's ESP node is measured: no device, no flow, no route. 64 bytes in an AES-128-GCM tunnel, bursts of 1 to 32.
//!
//! ```text
//! cargo bench -p ipsec --bench bursts
//! ```
//!
//! Outbound: limits, sequence number, padding, headers, cipher. Inbound: SAD, window, cipher, window moved, trailer, inner header, selectors.
//! 256 packets are sealed, timed; then what was sealed is opened, timed; then it is compared with what it was made of, untimed.
#![expect(clippy::expect_used, reason = "a benchmark that cannot run stops")]
#![expect(clippy::print_stdout, reason = "a program that prints a table")]

use core::net::{IpAddr, Ipv4Addr};
use ipsec::accounting::Totals;
use ipsec::algorithm::{Cipher, KeyMaterial};
use ipsec::classify::Protected;
use ipsec::esp::inbound::InboundSa;
use ipsec::esp::outbound::OutboundSa;
use ipsec::inbound::{InboundPacket, IsAlone, Leaving, Opener, Outcome};
use ipsec::outbound::{Plan, Sealer};
use ipsec::packet::OwnedPacket;
use ipsec::sa::{HeaderRules, Lifetime, Mode, PairId, Protocol, SaParameters, Spi, Transform};
use ipsec::sad::{InboundSad, OutboundSad, Slot};
use ipsec::selector::{AddressRange, Ports, Selector};
use ipsec::spi::CoreId;
use std::time::{Duration, Instant};
use wire::ip::Ip;
use wire::{ethernet, ipv4, protocol, udp};

const PACKETS: usize = 256;
const SIZE: usize = 64;
const ROUNDS: usize = 2000;
const SAMPLES: usize = 5;
const BURSTS: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Room in front of and behind a frame of [`ethernet::HEADER_LEN`] + [`SIZE`] bytes.
const FRAME: usize = Plan::FRONT + ethernet::HEADER_LEN + SIZE + 64;

const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const FAR: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 2);
const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

fn main() {
    println!("ns a packet, median of {SAMPLES} samples, least .. greatest");
    println!("{:>5}  {:^22}  {:^22}", "burst", "outbound", "inbound");
    for burst in BURSTS {
        let mut node = Node::new();
        let samples: Vec<_> = (0..SAMPLES).map(|_| node.sample(burst)).collect();
        let (out, inbound) = samples.into_iter().unzip();
        println!("{burst:5}  {:22}  {:22}", told(out), told(inbound));
    }
}

fn told(mut samples: Vec<f64>) -> String {
    samples.sort_by(f64::total_cmp);
    let (least, greatest) = (samples[0], samples[SAMPLES - 1]);
    format!("{:6.1}  {least:.1} .. {greatest:.1}", samples[SAMPLES / 2])
}

fn parameters(local: Ipv4Addr, remote: Ipv4Addr, from: Ipv4Addr, to: Ipv4Addr) -> SaParameters {
    SaParameters {
        pair: PairId(1),
        // Slot 8 of core 0.
        spi: Spi::for_known_answer(8 << 6 | 1),
        protocol: Protocol::Esp,
        mode: Mode::Tunnel,
        local: local.into(),
        remote: remote.into(),
        encap: None,
        transform: Transform {
            cipher: Cipher::AesGcm(16),
            cipher_key: KeyMaterial::new(vec![7; 20]),
            integrity: None,
        },
        esn: false,
        replay_window: 1024,
        selectors: vec![Selector {
            local: AddressRange::host(IpAddr::V4(from)),
            remote: AddressRange::host(IpAddr::V4(to)),
            protocol: None,
            local_ports: Ports::Any,
            remote_ports: Ports::Any,
        }],
        later_fragments: false,
        lifetime: Lifetime::default(),
        headers: HeaderRules::default(),
    }
}

/// Both ends of a tunnel.
struct Node {
    outbound: OutboundSad,
    inbound: InboundSad,
    plain: Vec<u8>,
    frames: Vec<[u8; FRAME]>,
}

impl Node {
    fn new() -> Self {
        let mut outbound = OutboundSad::new(8);
        let mut sa = OutboundSa::new(&parameters(OURS, PEER, HOST, FAR)).expect("an SA");
        sa.set_link(Some((0, ipv4_ethernet())));
        outbound.insert(Slot(0), Box::new(sa)).map_err(|(error, _)| error).expect("a slot");
        let mut inbound = InboundSad::new(CoreId::new(0).expect("a core"), 64);
        let mut sa = InboundSa::new(&parameters(PEER, OURS, FAR, HOST)).expect("an SA");
        sa.set_forwarded(true);
        inbound.insert(Box::new(sa)).map_err(|(error, _)| error).expect("a slot");
        let header = ipv4::Header {
            traffic_class: 0,
            total_len: SIZE as u16,
            id: 0,
            dont_fragment: false,
            ttl: 64,
            protocol: protocol::UDP,
            source: HOST,
            destination: FAR,
        };
        let mut plain = ipv4_ethernet().to_vec();
        plain.extend(header.emit());
        plain.extend(udp::emit(4000, 5000, SIZE as u16 - 20, 0));
        plain.resize(ethernet::HEADER_LEN + SIZE, 0x5a);
        let mut node = Self { outbound, inbound, plain, frames: vec![[0; FRAME]; PACKETS] };
        node.begin();
        node
    }

    /// The first packet of an SA goes the way that fits all, which notes where its peer is.
    fn begin(&mut self) {
        let mut frame = [0; FRAME];
        frame[Plan::FRONT..][..self.plain.len()].copy_from_slice(&self.plain);
        let mut sealer = Sealer::new(&self.outbound);
        let plan = sealer.plan(Slot(0), 0, &frame[Plan::FRONT..]).expect("the straight way");
        let len = plan.frame_len();
        assert!(sealer.take(&plan, &mut frame[..len], true));
        sealer.finish();
        drop(sealer);
        let packet = &frame[ethernet::HEADER_LEN..len];
        let Ok(Ip::V4(ip)) = Ip::parse(packet) else { unreachable!("it is IPv4") };
        let header = Protected::of_plain_esp(&ip).expect("it is ESP");
        let mut burst = [InboundPacket::new(OwnedPacket::new(packet, 64, 64), header)];
        ipsec::inbound::process_burst(&mut self.inbound, &mut burst, &mut Totals::default());
        assert!(matches!(burst[0].outcome, Outcome::Accepted(_)), "{:?}", burst[0].outcome);
    }

    /// Nanoseconds for a packet outbound and inbound.
    fn sample(&mut self, burst: usize) -> (f64, f64) {
        let mut times: [Vec<Duration>; 2] = Default::default();
        for _ in 0..ROUNDS {
            for frame in &mut self.frames {
                frame[Plan::FRONT..][..self.plain.len()].copy_from_slice(&self.plain);
            }
            let begun = Instant::now();
            let len = self.seal(burst);
            times[0].push(begun.elapsed());
            let begun = Instant::now();
            let at = self.open(burst, len);
            times[1].push(begun.elapsed());
            // A router has taken one off the TTL, and mended the checksum.
            let mut expected = self.plain[ethernet::HEADER_LEN..].to_vec();
            ipv4::decrement_ttl(&mut expected);
            assert!(self.frames.iter().all(|frame| frame[at..][..SIZE] == expected));
        }
        let [out, inbound] = times.map(|mut times| {
            times.sort();
            times[times.len() / 2].as_nanos() as f64 / PACKETS as f64
        });
        (out, inbound)
    }

    /// Seals all frames, and says how long they are then.
    fn seal(&mut self, burst: usize) -> usize {
        let mut sealed_len = 0;
        for frames in self.frames.chunks_mut(burst) {
            let mut sealer = Sealer::new(&self.outbound);
            let (mut first, alone) = (true, frames.len() == 1);
            for frame in frames {
                let given = &frame[Plan::FRONT..][..ethernet::HEADER_LEN + SIZE];
                let plan = sealer.plan(Slot(0), 0, given).expect("the straight way");
                if core::mem::take(&mut first) {
                    sealer.prefetch_key(&plan, alone);
                }
                sealed_len = plan.frame_len();
                assert!(sealer.take(&plan, &mut frame[..plan.frame_len()], alone));
            }
            sealer.finish();
        }
        sealed_len
    }

    /// Opens all frames, and says where the packets are then.
    fn open(&mut self, burst: usize, len: usize) -> usize {
        let spi = Spi::for_known_answer(8 << 6 | 1);
        let mut at = 0;
        for frames in self.frames.chunks_mut(burst) {
            let mut entered = arrayvec::ArrayVec::<_, 32>::new();
            let mut opener = Opener::new(&self.inbound);
            let (mut first, alone) = (true, frames.len() == 1);
            for frame in &mut *frames {
                let is_first = core::mem::take(&mut first).then_some(IsAlone(alone));
                let taken = opener.take(spi, &mut frame[..len], is_first);
                entered.push(taken.expect("the straight way"));
            }
            let mut verdicts = opener.finish();
            drop(opener);
            let mut leaving = Leaving::default();
            for (entered, frame) in entered.iter().zip(frames) {
                assert!(verdicts.next_is_authentic());
                let sa = self.inbound.get_mut(spi).expect("the SA");
                let opened = leaving.leave(sa, entered, &frame[..len], 1).expect("a usual packet");
                at = opened.at;
            }
            assert!(leaving.finish().packets == burst as u64);
        }
        at
    }
}

fn ipv4_ethernet() -> [u8; ethernet::HEADER_LEN] {
    let mut header = [2; ethernet::HEADER_LEN];
    [header[12], header[13]] = [8, 0];
    header
}
