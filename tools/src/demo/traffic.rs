//! The hosts of the demo: numbered UDP packets out, checked and timed on arrival.

use std::io;
use std::net::Ipv4Addr;
use std::time::Instant;

use af_xdp::memory::MemoryPort;
use af_xdp::{Frame, FramePool, UmemConfig};
use hdrhistogram::Histogram;

/// IP lengths in bytes and how many of each in a round: the simple IMIX.
pub(super) const MIX: [(usize, usize); 3] = [(64, 7), (576, 4), (1400, 1)];

const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP: usize = 8;
const BURST: usize = 32;

/// Behind the UDP header: number, then nanoseconds since the start, both big-endian.
const NUMBER: usize = ETHERNET + IP + UDP;
const TIME: usize = NUMBER + 8;

/// One end.
#[derive(Clone, Copy)]
pub(super) struct Station {
    pub(super) address: Ipv4Addr,
    pub(super) mac: [u8; 6],
}

/// What a host received.
pub(super) struct Received {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) duplicates: u64,
    pub(super) wrong: u64,
}

/// One host.
pub(super) struct Host {
    near: Station,
    ports: Vec<MemoryPort>,
    pool: FramePool,
    out: Vec<Frame>,
    arrived: Vec<Frame>,
    /// One frame of each place in the mix, ready but for number and time.
    templates: Vec<Vec<u8>>,
    sent: u64,
    result: Received,
    /// Which numbers came, a bit each.
    seen: Vec<u64>,
}

impl Host {
    pub(super) fn new(near: Station, far: Station, ports: Vec<MemoryPort>) -> io::Result<Self> {
        let templates = MIX
            .iter()
            .flat_map(|(size, share)| std::iter::repeat_n(*size, *share))
            .map(|size| template(near, far, size))
            .collect();
        Ok(Self {
            near,
            ports,
            pool: FramePool::new(&UmemConfig::default())?,
            out: Vec::with_capacity(BURST),
            arrived: Vec::with_capacity(BURST),
            templates,
            sent: 0,
            result: Received { packets: 0, bytes: 0, duplicates: 0, wrong: 0 },
            seen: Vec::new(),
        })
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    pub(super) fn received(&self) -> u64 {
        self.result.packets
    }

    pub(super) fn bytes(&self) -> u64 {
        self.result.bytes
    }

    pub(super) fn into_result(self) -> Received {
        self.result
    }

    /// Sends a burst, as far as `window` leaves room beyond the `acknowledged` packets.
    pub(super) fn send(&mut self, start: Instant, acknowledged: u64, window: u64) {
        self.complete();
        let time = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        while self.out.len() < BURST && self.sent - acknowledged < window {
            let Some(mut frame) = self.pool.alloc() else { break };
            let number = self.sent;
            let template = &self.templates[number as usize % self.templates.len()];
            if frame.copy_from(template).is_none() {
                give_back(&mut self.pool, frame);
                break;
            }
            let data = frame.data_mut();
            data[NUMBER..TIME].copy_from_slice(&number.to_be_bytes());
            data[TIME..TIME + 8].copy_from_slice(&time.to_be_bytes());
            self.out.push(frame);
            self.sent += 1;
        }
        self.ports[0].transmit(&mut self.pool, &mut self.out);
        self.ports[0].kick();
    }

    /// Takes what has arrived.
    pub(super) fn receive(&mut self, start: Instant, latency: &mut Histogram<u64>) {
        self.complete();
        let now = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        for port in &mut self.ports {
            while port.receive(&mut self.pool, &mut self.arrived, BURST) > 0 {
                for frame in self.arrived.drain(..) {
                    match checked(self.near, frame.data(), &self.templates) {
                        Some((number, time)) if mark(&mut self.seen, number) => {
                            self.result.packets += 1;
                            self.result.bytes += (frame.len() - ETHERNET) as u64;
                            // The histogram grows to whatever is recorded.
                            let _ = latency.record(now.saturating_sub(time).max(1));
                        }
                        Some(_) => self.result.duplicates += 1,
                        None => self.result.wrong += 1,
                    }
                    give_back(&mut self.pool, frame);
                }
            }
        }
    }

    /// Takes back sent frames, lends frames for packets to come, and goes on with what did not fit.
    pub(super) fn complete(&mut self) {
        for port in &mut self.ports {
            port.complete(&mut self.pool);
        }
        self.ports[0].transmit(&mut self.pool, &mut self.out);
        self.ports[0].kick();
    }
}

/// Frees a frame of this host; ports give no others.
fn give_back(pool: &mut FramePool, frame: Frame) {
    let foreign = pool.free(frame);
    debug_assert!(foreign.is_ok(), "a host has one pool");
}

/// Notes a number; false when it was there already.
fn mark(seen: &mut Vec<u64>, number: u64) -> bool {
    let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
    if seen.len() <= word {
        seen.resize(word + 1, 0);
    }
    let fresh = seen[word] & bit == 0;
    seen[word] |= bit;
    fresh
}

/// Number and time of a frame that is what the other host sent: right length for its number, right
/// addresses, TTL less two gateways, payload unchanged.
fn checked(near: Station, frame: &[u8], templates: &[Vec<u8>]) -> Option<(u64, u64)> {
    let word = |at: usize| Some(u64::from_be_bytes(frame.get(at..at + 8)?.try_into().ok()?));
    let (number, time) = (word(NUMBER)?, word(TIME)?);
    let sent = &templates[number as usize % templates.len()];
    let right = frame.len() == sent.len()
        && frame[..6] == near.mac
        && frame[ETHERNET + 16..ETHERNET + 20] == near.address.octets()
        && frame[ETHERNET + 8] == TTL - 2
        && frame[TIME + 8..] == sent[TIME + 8..];
    right.then_some((number, time))
}

const TTL: u8 = 64;

fn template(near: Station, far: Station, length: usize) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET];
    frame[..6].copy_from_slice(&far.mac);
    frame[6..12].copy_from_slice(&near.mac);
    frame[12..14].copy_from_slice(&0x0800u16.to_be_bytes());
    let mut ip = vec![0x45, 0];
    ip.extend((length as u16).to_be_bytes());
    ip.extend([0, 0, 0, 0, TTL, 17, 0, 0]);
    ip.extend(near.address.octets());
    ip.extend(far.address.octets());
    let sum = wire::checksum::of(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    for field in [4000, 4001, (length - IP) as u16, 0] {
        frame.extend(u16::to_be_bytes(field));
    }
    // A payload that a slip of the cipher would not leave as it is.
    frame.extend((0..length - IP - UDP).map(|n| (n * 31 % 251) as u8));
    frame
}
