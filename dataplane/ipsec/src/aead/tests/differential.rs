//! Against the `aes-gcm` crate.

use proptest::prelude::*;

use super::*;

/// Seals `packets`, compares each with the oracle, breaks some, opens them and looks at every output.
fn check_burst(keys: &[GcmKey], raw: &[Vec<u8>], packets: &mut [Packet], dice: &mut Dice) {
    let expected: Vec<_> =
        packets.iter().map(|p| oracle(&raw[p.key], p.nonce, &p.aad, p.src.get())).collect();
    let plain: Vec<_> = packets.iter().map(|p| p.src.get().to_vec()).collect();

    let kept = [Keys::Near, Keys::Far, Keys::Farther];
    seal_packets(keys, packets, dice.pick(&kept));
    for (i, (p, (cipher, tag))) in packets.iter().zip(&expected).enumerate() {
        let what = || (i, p.key, raw[p.key].len(), p.src.len, p.aad.len(), p.tag.len);
        assert!(p.output() == cipher, "ciphertext {:?}", what());
        assert!(p.tag.get() == &tag[..p.tag.len], "tag {:?}", what());
        p.assert_margins();
    }

    let mut broken = vec![false; packets.len()];
    for (p, broken) in packets.iter_mut().zip(&mut broken) {
        p.turn_round(dice);
        *broken = dice.below(3) == 0;
        if *broken {
            let part = match dice.below(4) {
                0 if p.src.len > 0 => p.src.get_mut(),
                1 if !p.aad.is_empty() => &mut p.aad[..],
                2 => &mut p.nonce[..],
                _ => p.tag.get_mut(),
            };
            let at = dice.below(part.len());
            part[at] ^= 1 << dice.below(8);
        }
    }
    let verdicts = open_packets(keys, packets, dice.pick(&kept));
    for (i, p) in packets.iter().enumerate() {
        let what = || (i, p.key, raw[p.key].len(), p.src.len, p.aad.len(), p.tag.len);
        assert_eq!(verdicts[i], !broken[i], "verdict {:?}", what());
        if broken[i] {
            assert!(p.output().iter().all(|b| *b == 0), "not wiped {:?}", what());
        } else {
            assert!(p.output() == plain[i], "plaintext {:?}", what());
        }
        p.assert_margins();
    }
}

fn packet(dice: &mut Dice, key: usize, len: usize, aad_len: usize) -> Packet {
    let src = Margined::new(&dice.bytes(len), dice.below(64));
    let dst = (dice.below(2) == 0).then(|| Margined::new(&dice.bytes(len), dice.below(64)));
    let tag = Margined::new(&[0; 16][..dice.pick(&TAG_LENGTHS)], dice.below(64));
    Packet { key, nonce: dice.nonce(), aad: dice.bytes(aad_len), src, dst, tag }
}

fn keys(engine: Engine, raw: &[Vec<u8>]) -> Vec<GcmKey> {
    raw.iter().map(|key| GcmKey::with_engine(engine, key).unwrap()).collect()
}

/// Bursts of one length, one key size and mostly one tag length, so that every length meets the paths made for runs, which end
/// where any of these changes: fourteen packets of one key, three fours and two, and then six of several.
#[test]
fn every_length_in_runs() {
    for engine in Engine::available() {
        let mut dice = Dice(1);
        let raw: Vec<Vec<u8>> = (0..12).map(|i| dice.bytes(KEY_LENGTHS[i / 4])).collect();
        let keys = keys(engine, &raw);
        for len in 0..=2200 {
            let size = if len <= 700 { 0..3 } else { len % 3..len % 3 + 1 };
            // What is done to short ones depends on where their keys are, which the dice decide.
            let times = if len <= 130 { 6 } else { 1 };
            for base in size.flat_map(|i| core::iter::repeat_n(4 * i, times)) {
                let tag = dice.pick(&[Some(8), Some(12), Some(16), None]);
                let mut packets: Vec<_> = (0..20)
                    .map(|i| {
                        let key = base + if i < 14 { 0 } else { dice.below(4) };
                        let aad = dice.pick(&[8, 12, 0, 16]);
                        let packet = packet(&mut dice, key, len, aad);
                        match tag {
                            Some(len) => packet.with_tag_of(len),
                            None => packet,
                        }
                    })
                    .collect();
                check_burst(&keys, &raw, &mut packets, &mut dice);
            }
        }
    }
}

/// Of keys of one size and mostly one tag length, lengths near each other: what goes by blocks or by whole vectors meets others of as many, and
/// what goes by length meets two of one length and others between. Up to more than the table of counters serves.
#[test]
fn runs_of_about_one_length() {
    for engine in Engine::available() {
        let mut dice = Dice(6);
        let raw: Vec<Vec<u8>> = (0..12).map(|i| dice.bytes(KEY_LENGTHS[i / 4])).collect();
        let keys = keys(engine, &raw);
        for from in [1, 50, 60, 100, 125, 130, 255, 500, 1400, 2040, 4080, 4090, 5000] {
            for (spread, size) in
                [1, 3, 20].into_iter().flat_map(|s| (0..12).map(move |i| (s, i % 3)))
            {
                let mut packets: Vec<_> = (0..13)
                    .map(|_| {
                        let key = 4 * size + dice.below(4);
                        let (len, aad) =
                            (from + dice.below(spread), dice.pick(&[8, 8, 8, 8, 12, 40]));
                        packet(&mut dice, key, len, aad).with_tag_of(16)
                    })
                    .collect();
                check_burst(&keys, &raw, &mut packets, &mut dice);
            }
        }
    }
}

#[test]
fn every_length_alone() {
    for engine in Engine::available() {
        let mut dice = Dice(2);
        let raw: Vec<Vec<u8>> = (0..3).map(|i| dice.bytes(KEY_LENGTHS[i])).collect();
        let keys = keys(engine, &raw);
        for len in 0..=2200 {
            let aad = dice.pick(&[8, 12, 0, 1, 16, 17, 40]);
            let mut packets = [packet(&mut dice, len % 3, len, aad)];
            check_burst(&keys, &raw, &mut packets, &mut dice);
        }
    }
}

#[test]
fn long_packets() {
    for engine in Engine::available() {
        let mut dice = Dice(3);
        let raw: Vec<Vec<u8>> = (0..3).map(|i| dice.bytes(KEY_LENGTHS[i])).collect();
        let keys = keys(engine, &raw);
        let lengths = [
            4095, 4096, 4097, 8900, 9000, 16383, 16384, 16385, 20_000, 65_535, 65_536, 65_537,
            131_099,
        ];
        for len in lengths {
            let mut packets: Vec<_> =
                (0..3).map(|key| packet(&mut dice, key, len - key, 8 + 4 * (key % 2))).collect();
            check_burst(&keys, &raw, &mut packets, &mut dice);
        }
    }
}

/// The low byte of the block counter carries at 256 blocks, the next at 65,536: 1 MiB and some.
#[test]
fn the_block_counter_carries() {
    for engine in Engine::available() {
        let mut dice = Dice(4);
        let raw = [dice.bytes(16)];
        let keys = keys(engine, &raw);
        let mut packets = [packet(&mut dice, 0, (1 << 20) + 1000, 8)];
        check_burst(&keys, &raw, &mut packets, &mut dice);
    }
}

#[test]
fn gmac_and_long_aad() {
    for engine in Engine::available() {
        let mut dice = Dice(5);
        let raw: Vec<Vec<u8>> = (0..3).map(|i| dice.bytes(KEY_LENGTHS[i])).collect();
        let keys = keys(engine, &raw);
        for aad in (0..=600).chain([1420, 2047, 2048, 9000, 65_535, 70_001]) {
            let mut packets: Vec<_> = (0..5)
                .map(|i| {
                    let len = if i < 3 { 0 } else { dice.below(300) };
                    packet(&mut dice, i % 3, len, aad)
                })
                .collect();
            check_burst(&keys, &raw, &mut packets, &mut dice);
        }
    }
}

/// Any bit of the tag that the receiver compares, and of the text, matters.
#[test]
fn every_bit_counts() {
    for engine in Engine::available() {
        let key = GcmKey::with_engine(engine, &[3; 16]).unwrap();
        for tag_len in TAG_LENGTHS {
            for len in [0, 1, 64, 65, 200] {
                let mut sealed = vec![7; len];
                let mut tag = vec![0; tag_len];
                seal_one(&key, [1; 12], &[2; 8], &mut sealed, &mut tag).unwrap();
                for bit in 0..8 * (len + tag_len) {
                    let (mut data, mut tag) = (sealed.clone(), tag.clone());
                    let (at, flip) = (bit / 8, 1 << (bit % 8));
                    if at < len {
                        data[at] ^= flip
                    } else {
                        tag[at - len] ^= flip
                    }
                    let opened = open_one(&key, [1; 12], &[2; 8], &mut data, &tag);
                    assert_eq!(opened, Err(Unauthentic.into()), "bit {bit} of {len} + {tag_len}");
                    assert!(data.iter().all(|b| *b == 0), "bit {bit} of {len} + {tag_len}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Bursts of anything beside anything: keys, key sizes, engines, lengths, AAD, tag lengths, places.
    #[test]
    fn mixed_bursts(
        seed in any::<u64>(),
        shape in proptest::collection::vec((0usize..8, 0usize..4, 0usize..3), 0..65),
    ) {
        let mut dice = Dice(seed);
        let engines: Vec<_> = Engine::available().collect();
        let raw: Vec<Vec<u8>> = (0..8).map(|i| dice.bytes(KEY_LENGTHS[i % 3])).collect();
        // A shape that varies engines and one that stays in the best one.
        let keys: Vec<_> = raw
            .iter()
            .enumerate()
            .map(|(i, key)| {
                let engine = if seed % 2 == 0 { engines[i % engines.len()] } else { Engine::best() };
                GcmKey::with_engine(engine, key).unwrap()
            })
            .collect();
        let mut packets: Vec<_> = shape
            .iter()
            .map(|&(key, size, aad)| {
                let len = match size {
                    0 => dice.below(65),
                    1 => dice.below(200),
                    2 => dice.below(800),
                    _ => dice.below(2200),
                };
                let aad = match aad { 0 => 8, 1 => 12, _ => dice.below(40) };
                packet(&mut dice, key, len, aad)
            })
            .collect();
        check_burst(&keys, &raw, &mut packets, &mut dice);
    }
}
