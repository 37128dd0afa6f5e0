//! Runs the fuzz entries without libFuzzer and without a nightly compiler: from packets that are whole, mutations that keep
//! lengths and checksums right half of the time, so that they get past the first check. A seed of its own by `FUZZ_SEED`, more
//! rounds by `FUZZ_ROUNDS`.
#![cfg(test)]

mod entries;

/// Enough for every entry to stay below two seconds.
const ROUNDS: u32 = 20_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// xorshift64*.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() >> 16) as usize % end }
    }
}

/// Octets on which checks turn.
const EDGES: [u8; 16] = [0, 1, 2, 4, 6, 17, 41, 44, 50, 51, 59, 60, 0x45, 0x7f, 0x80, 0xff];

fn mutate(rng: &mut Rng, input: &mut Vec<u8>, prefix: usize) {
    for _ in 0..=rng.below(5) {
        let at = rng.below(input.len());
        match rng.below(8) {
            0 | 1 => input[at] ^= 1 << rng.below(8),
            2 | 3 => input[at] = EDGES[rng.below(EDGES.len())],
            4 => input[at] = rng.next() as u8,
            5 => input.truncate(at + 1),
            6 => input.insert(at, rng.next() as u8),
            _ => {
                let end = at + rng.below(input.len() - at + 1).min(64);
                let copy = input[at..end].to_vec();
                let to = rng.below(input.len());
                input.splice(to..to, copy);
            }
        }
        input.truncate(4000);
    }
    if rng.below(2) == 0 && input.len() > prefix {
        repair(&mut input[prefix..]);
    }
}

/// Makes lengths and the header checksum right.
fn repair(packet: &mut [u8]) {
    let len = packet.len();
    match packet[0] >> 4 {
        4 if len >= 20 => {
            packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            let header = usize::from(packet[0] & 15) * 4;
            if (20..=len).contains(&header) {
                packet[10..12].fill(0);
                let sum = wire::checksum::of(&packet[..header]);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
                if packet[9] == 17 && len >= header + 8 {
                    packet[header + 4..header + 6]
                        .copy_from_slice(&((len - header) as u16).to_be_bytes());
                }
            }
        }
        6 if len >= 40 => {
            packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            if packet[6] == 17 && len >= 48 {
                packet[44..46].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            }
        }
        _ => {}
    }
}

fn run(corpus: &[Vec<u8>], prefix: usize, entry: fn(&[u8])) {
    let seed = setting("FUZZ_SEED", 1).max(1);
    let rounds = setting("FUZZ_ROUNDS", ROUNDS.into());
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for input in corpus {
        entry(input);
        for len in 0..input.len() {
            entry(&input[..len]);
        }
    }
    for round in 0..rounds {
        let mut input = corpus[rng.below(corpus.len())].clone();
        if prefix == 1 && rng.below(2) == 0 {
            input[0] = rng.next() as u8;
        }
        mutate(&mut rng, &mut input, prefix);
        let caught = std::panic::catch_unwind(|| entry(&input));
        assert!(caught.is_ok(), "FUZZ_SEED={seed}, round {round}: {}", hex(&input));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ipv4(protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45 + options.len() as u8 / 4, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0];
    packet.extend([192, 0, 2, 1, 192, 0, 2, 2]);
    packet.extend(options);
    packet.extend(payload);
    repair(&mut packet);
    packet
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    for end in [1, 2] {
        packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, end]);
    }
    packet.extend(payload);
    repair(&mut packet);
    packet
}

/// A packet of the receiver of the others, as an ICMP error quotes it.
fn quoted(v6: bool) -> Vec<u8> {
    let mut packet = if v6 { ipv6(17, &[7; 12]) } else { ipv4(17, &[], &[7; 12]) };
    packet[if v6 { 23 } else { 15 }] = 2;
    packet
}

/// ESP and AH, plain and in UDP, behind options and extension headers, whole and in fragments; and what is neither.
fn packets() -> Vec<Vec<u8>> {
    let spi = entries::SPI.to_be_bytes();
    let esp = [&spi[..], &[0, 0, 0, 1], &[9; 72]].concat();
    let ah = [&[4, 4, 0, 0][..], &spi, &[0, 0, 0, 1], &[0; 12], &ipv4(17, &[], &[5; 12])].concat();
    let udp = |ports: [u8; 4], payload: &[u8]| [&ports[..], &[0, 0, 0, 0], payload].concat();
    let encap = [0x11, 0x94, 0x11, 0x94];
    let hop_by_hop = |next| [next, 1, 0x3e, 4, 1, 2, 3, 4, 0x1e, 4, 5, 6, 7, 8, 0, 0];
    let fragment = |next| [next, 0, 0, 1, 0, 0, 0, 7];
    vec![
        ipv4(50, &[], &esp),
        ipv4(51, &[], &ah),
        ipv4(50, &[7, 7, 4, 0, 0, 0, 0, 0], &esp),
        ipv4(17, &[], &udp(encap, &esp)),
        ipv4(17, &[], &udp(encap, &[0xff])),
        ipv4(17, &[], &udp(encap, &[0, 0, 0, 0, 1, 2, 3])),
        ipv4(6, &[], &[3; 40]),
        ipv4(1, &[], &[8, 0, 0, 0, 0, 1, 0, 1]),
        ipv4(1, &[], &[&[3, 4, 0, 0, 0, 0, 5, 0][..], &quoted(false)].concat()),
        ipv6(58, &[&[2, 0, 0, 0, 0, 0, 5, 0][..], &quoted(true)].concat()),
        ipv6(50, &esp),
        ipv6(51, &ah),
        ipv6(17, &udp(encap, &esp)),
        ipv6(0, &[&hop_by_hop(50)[..], &esp].concat()),
        ipv6(0, &[&hop_by_hop(51)[..], &ah].concat()),
        ipv6(44, &[&fragment(50)[..], &esp].concat()),
        ipv6(60, &[&hop_by_hop(43)[..], &[17, 2, 3, 0], &[0; 20], &[1; 16]].concat()),
    ]
}

/// The same behind a byte that chooses.
fn chosen(choices: &[u8], packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let each =
        choices.iter().flat_map(|choice| packets.iter().map(move |p| [&[*choice][..], p].concat()));
    each.collect()
}

#[test]
fn classify() {
    run(&packets(), 0, entries::classify);
}

#[test]
fn esp_inbound() {
    let mut corpus = chosen(&[0, 1, 2, 3, 4, 0x10, 0x21, 0x30, 0x40], &packets());
    // Authentic: an inner packet and its trailer.
    for inner in packets() {
        let next = if inner[0] >> 4 == 4 { 4 } else { 41 };
        for choice in [8, 9, 10, 11, 12, 13, 14, 0x48] {
            let pad = (inner.len() + 2).next_multiple_of(4) - inner.len() - 2;
            let trailer = [&[1, 2, 3][..pad], &[pad as u8, next]].concat();
            corpus.push([&[choice][..], &inner, &trailer].concat());
        }
    }
    run(&corpus, 1, entries::esp_inbound);
}

#[test]
fn ah_inbound() {
    run(
        &chosen(&[0, 1, 2, 3, 8, 9, 10, 11, 0x18, 0x28, 0x39, 0x58], &packets()),
        1,
        entries::ah_inbound,
    );
}

#[test]
fn spd() {
    let mut rng = Rng(7);
    let corpus: Vec<Vec<u8>> = (0..64)
        .map(|n| [&[n % 24][..], &(0..600).map(|_| rng.next() as u8).collect::<Vec<_>>()].concat())
        .collect();
    run(&corpus, 0, entries::spd);
}
