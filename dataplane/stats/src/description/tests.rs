use proptest::prelude::*;

use super::*;
use crate::{
    Counter, Layout, QuickMode, Unit,
    layout::{Facts, Image},
};

/// Words of a file, as an enemy left them.
struct Forged(Vec<u64>);

impl Forged {
    fn read(&self) -> Result<Description, ReadError> {
        Description::read(self, (self.0.len() * WORD) as u64)
    }
}

impl Words for Forged {
    fn load(&self, first: usize, out: &mut [u64]) -> io::Result<()> {
        let words = self.0.get(first..first + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(words);
        Ok(())
    }
}

fn image() -> Vec<u64> {
    let mut layout = Layout::new();
    layout.worker(&[
        Counter::drop_cause("unknown_spi", Some(QuickMode::BadSpiPackets), "No SA has the SPI."),
        Counter::drop_cause("no_route", None, "No route leads there."),
    ]);
    layout.block("port", "wan", &[Counter::gauge("queued", Unit::Frames, "Frames queued.")]);
    let Image { words, .. } = layout.image(&Facts {
        boot: BootId([1, 2]),
        main_mode_epoch: time(3),
        quick_mode_epoch: time(4),
    });
    words
}

/// What holds of every description that is accepted, whoever wrote it.
fn assert_sound(description: &Description, words: usize) {
    let machine = |name: &str| {
        let all = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_';
        !name.is_empty() && name.chars().all(all)
    };
    assert!(description.counters.len() <= MAX_COUNTERS);
    for block in &description.blocks {
        assert!(machine(&block.name));
        assert!(block.instance.chars().all(|char| char.is_ascii_graphic()));
        assert!(block.place.first + block.place.words <= words);
        assert_eq!(block.counters.len() + SEQUENCE_WORDS, block.place.words);
        assert!(block.counters.end <= description.counters.len());
    }
    for counter in &description.counters {
        assert!(machine(&counter.name) && machine(&counter.unit));
        assert!(!counter.display.chars().chain(counter.help.chars()).any(char::is_control));
    }
}

#[test]
fn the_description_is_what_the_layout_said() {
    let description = Forged(image()).read().unwrap();
    let blocks: Vec<_> = description
        .blocks
        .iter()
        .map(|block| (block.name.as_str(), block.instance.as_str(), block.counters.len()))
        .collect();
    let main_mode = crate::MainMode::COUNT + crate::MainModePart::COUNT;
    assert_eq!(
        blocks,
        [
            ("main_mode", "", main_mode),
            ("quick_mode", "", QuickMode::COUNT),
            ("quick_mode", "base", QuickMode::COUNT),
            ("worker", "0", crate::Worker::COUNT + 2),
            ("port", "wan", 1),
        ]
    );
    assert!(description.blocks.iter().all(|block| (block.place.first * WORD).is_multiple_of(128)));
    let last = description.counters.last().unwrap();
    assert_eq!(
        (last.name.as_str(), last.kind, last.unit.as_str()),
        ("queued", Kind::Gauge, "frames")
    );
    let drop = &description.counters[description.blocks[3].counters.end - 2];
    assert_eq!(drop.label, Some(("cause".to_owned(), "unknown_spi".to_owned())));
    assert_eq!(drop.row.as_deref(), Some("bad_spi_packets"));
    assert_eq!(description.header.main_mode_epoch, time(3));
    assert_eq!(description.header.quick_mode_epoch, time(4));
}

/// Rewrites a segment as a later version might: longer records, a kind and a unit of its own.
fn of_a_later_version(words: &[u64]) -> Vec<u64> {
    const EXTRA: usize = 3;
    let place = |field: usize| words[field] as usize / WORD;
    let (blocks, counters, strings) =
        (place(header::BLOCKS), place(header::COUNTERS), place(header::STRINGS));
    let data = place(header::DATA);
    let mut later = words[..blocks].to_vec();
    later.resize(blocks + EXTRA, 0xabcd);
    let longer = |table: &[u64], record: usize| -> Vec<u64> {
        table
            .chunks(record)
            .flat_map(|record| record.iter().copied().chain([0xabcd; EXTRA]))
            .collect()
    };
    let mut at = |field: usize, table: &[u64]| {
        later[field] = (later.len() * WORD) as u64;
        later.extend_from_slice(table);
    };
    at(header::BLOCKS, &longer(&words[blocks..counters], BLOCK_WORDS));
    at(header::COUNTERS, &longer(&words[counters..strings], COUNTER_WORDS));
    at(header::STRINGS, &words[strings..data]);
    let moved = later.len().next_multiple_of(16) - data;
    later.resize(data + moved, 0);
    later.extend_from_slice(&words[data..]);
    let block_words = BLOCK_WORDS + EXTRA;
    let first = later[header::BLOCKS] as usize / WORD;
    for index in 0..words[header::BLOCK_COUNT] as usize {
        later[first + index * block_words + 2] += (moved * WORD) as u64;
    }
    let last_counter = later[header::STRINGS] as usize / WORD - EXTRA - 1;
    later[last_counter] = 7;
    later[header::VERSION] = 2;
    later[header::HEADER_BYTES] += (EXTRA * WORD) as u64;
    later[header::TOTAL_BYTES] = (later.len() * WORD) as u64;
    later[header::BLOCK_STRIDE] = (block_words * WORD) as u64;
    later[header::COUNTER_STRIDE] = ((COUNTER_WORDS + EXTRA) * WORD) as u64;
    later[header::DATA] += (moved * WORD) as u64;
    later
}

#[test]
fn a_segment_of_a_later_version_is_listed() {
    let mut words = image();
    let first = Forged(words.clone()).read().unwrap();
    let slot = first.blocks[4].place.first + SEQUENCE_WORDS;
    words[slot] = 99;
    let later = Forged(of_a_later_version(&words));
    let description = later.read().unwrap();
    assert_eq!(description.header.version, 2);
    assert_eq!(description.blocks.len(), first.blocks.len());
    assert_eq!(description.counters[..10], first.counters[..10]);
    assert_eq!(description.counters.last().unwrap().kind, Kind::Gauge, "unknown kind");
    let place = description.blocks[4].place;
    assert_eq!(later.0[place.first + SEQUENCE_WORDS], 99);
}

#[test]
fn what_is_cut_off_is_refused_at_every_length() {
    let words = image();
    for len in (0..words.len()).step_by(if cfg!(miri) { 97 } else { 1 }) {
        let error = Forged(words[..len].to_vec()).read().unwrap_err();
        match len {
            0 => assert!(matches!(error, ReadError::NotASegment)),
            _ => assert!(matches!(error, ReadError::Truncated), "{len}: {error}"),
        }
    }
}

#[test]
fn text_that_a_terminal_would_act_on_is_defused() {
    let mut words = image();
    let strings = words[header::STRINGS] as usize / WORD..words[header::DATA] as usize / WORD;
    let mut bytes: Vec<u8> =
        words[strings.clone()].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let at = bytes.windows(14).position(|text| text == b"Frames queued.").unwrap();
    bytes[at..at + 4].copy_from_slice(b"\x1b[2J");
    for (word, bytes) in words[strings].iter_mut().zip(bytes.chunks(WORD)) {
        *word = u64::from_ne_bytes(bytes.try_into().unwrap());
    }
    let description = Forged(words).read().unwrap();
    assert_eq!(description.counters.last().unwrap().help, "\u{fffd}[2Jes queued.");
}

#[test]
#[cfg_attr(miri, ignore = "reads a megabyte word by word")]
fn blocks_that_share_counters_cannot_multiply_them_without_end() {
    let mut words = image();
    // 10,000 blocks of one record each would be a megabyte of file and a million counters.
    let record: Vec<u64> = {
        let at = words[header::BLOCKS] as usize / WORD;
        words[at..at + BLOCK_WORDS].to_vec()
    };
    let copies = 10_000;
    let at = words[header::DATA] as usize / WORD;
    words.splice(at..at, record.repeat(copies));
    words[header::BLOCKS] = (at * WORD) as u64;
    words[header::BLOCK_COUNT] = copies as u64;
    words[header::DATA] += (copies * BLOCK_WORDS * WORD) as u64;
    words[header::TOTAL_BYTES] = (words.len() * WORD) as u64;
    for index in 0..copies {
        words[at + index * BLOCK_WORDS + 2] = words[header::DATA];
    }
    let error = Forged(words).read().unwrap_err();
    assert!(matches!(error, ReadError::Damaged("number of counters")), "{error}");
}

/// Numbers that overflow, underflow or point just beyond something.
fn awkward() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        Just(u64::MAX),
        Just(u64::MAX - 7),
        Just(1 << 63),
        (0u64..64).prop_map(|bit| 1 << bit),
        0u64..4096,
        (0u64..4096).prop_map(|words| words * 8),
        (0u64..100, 0u64..4096).prop_map(|(len, at)| len << 32 | at),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

    #[test]
    fn any_words_are_read_or_refused(words in prop::collection::vec(any::<u64>(), 0..200)) {
        let mut words = words;
        if let Some(magic) = words.first_mut() {
            *magic = MAGIC;
        }
        if let Ok(description) = Forged(words.clone()).read() {
            assert_sound(&description, words.len());
        }
    }

    #[test]
    fn a_segment_with_some_words_changed_is_read_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), awkward()), 1..6),
        in_header in any::<bool>(),
        later in any::<bool>(),
    ) {
        let mut words = if later { of_a_later_version(&image()) } else { image() };
        let changeable = match in_header {
            true => HEADER_WORDS,
            false => words[header::DATA] as usize / WORD,
        };
        for (place, value) in changes {
            words[place.index(changeable)] = value;
        }
        if let Ok(description) = Forged(words.clone()).read() {
            assert_sound(&description, words.len());
        }
    }
}
