use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, UNIX_EPOCH},
};

use stats::{
    AcquireOrigin, AcquireRow, AuthenticationMethod, BootId, Counter, IkeVersion, Layout, MainMode,
    MainModeCounters, MainModePart, MainModePartCounters, QuickMode, QuickModeCounters, Segment,
    Start, Unit, VersionedRow, Worker, WorkerCounters,
};

use super::*;

const CAUSES: [Counter; 3] = [
    Counter::drop_cause("unknown_spi", Some(QuickMode::BadSpiPackets), "No SA has the SPI."),
    Counter::drop_cause("no_route", None, "No route leads to the destination."),
    Counter::drop_cause("wait_timeout", None, "Waited too long for an \"SA\" or \\ next hop."),
];

/// Two gateways' worth of counting, written as the daemon and its workers write it. No two rows of
/// a table have the same value, so that none can stand in for another.
fn segment() -> Segment {
    let mut layout = Layout::new();
    let workers = [layout.worker(&CAUSES), layout.worker(&CAUSES)];
    let port = layout.block(
        "port",
        "wan",
        &[
            Counter::monotonic("rx_ring_full", Unit::Packets, "Packets the kernel dropped."),
            Counter::gauge("queued", Unit::Frames, "Frames in the transmit ring.")
                .with_label("queue", "0"),
        ],
    );
    let start =
        Start { at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_250), boot: BootId([7, 8]) };
    let mut segment = Segment::anonymous(&layout, start);

    let mut rows = MainModeCounters::new();
    for (value, row) in (100..).zip(MainMode::ALL) {
        rows.set(row, value);
    }
    let mut parts = MainModePartCounters::new();
    parts.add(MainModePart::Acquire(AcquireRow::Total, AcquireOrigin::Trap), 60);
    parts.add(MainModePart::Acquire(AcquireRow::Total, AcquireOrigin::Initiate), 50);
    parts.add(MainModePart::AuthenticationFailures(AuthenticationMethod::Psk), 107);
    parts.add(MainModePart::IkeMainModeRekey, 20);
    parts.add(MainModePart::Version(VersionedRow::IkeMainMode, IkeVersion::V2), 119);
    let mut writer = segment.writer(layout.main_mode()).unwrap();
    writer.publish_parts(&[rows.values(), parts.values()]);

    let mut control = QuickModeCounters::new();
    for (value, row) in (200..).zip(QuickMode::ALL) {
        if row.worker_counter().is_none() {
            control.set(row, value);
        }
    }
    segment.writer(layout.quick_mode()).unwrap().publish(control.values());

    for (index, worker) in (1..).zip(workers) {
        let mut counters = WorkerCounters::new();
        for (value, row) in (300..).zip(QuickMode::ALL) {
            row.worker_counter().into_iter().for_each(|row| counters.set(row, index * value));
        }
        for (row, value) in [
            (Worker::Received, 1000),
            (Worker::Generated, 5),
            (Worker::ReleasedFromWaiting, 3),
            (Worker::HandedIn, 40),
            (Worker::Sent, 900),
            (Worker::ToHost, 70),
            (Worker::TakenIntoWaiting, 8),
            (Worker::HandedOut, 60),
            (Worker::Waiting, 5),
            (Worker::ReceivedBytes, 64_000),
            (Worker::FramesFree, 4096),
        ] {
            counters.set(row, index * value);
        }
        let drops = [7, 0, 3].map(|packets| index * packets);
        segment.writer(worker).unwrap().publish_parts(&[counters.values(), &drops]);
    }
    segment.writer(port).unwrap().publish(&[u64::MAX, 12]);
    segment
}

fn snapshot() -> Snapshot {
    segment().reader().unwrap().snapshot().unwrap()
}

fn print(format: Format, detail: Detail) -> String {
    let mut out = Vec::new();
    write(&mut out, &snapshot(), format, detail).unwrap();
    String::from_utf8(out).unwrap()
}

/// Compares with the file of this name in golden/; with `UPDATE_GOLDEN` set, writes it instead, to
/// be reviewed as part of the change.
fn assert_golden(name: &str, found: &str) {
    let path = format!("{}/src/stats/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{name} differs (UPDATE_GOLDEN=1 rewrites it); found:\n{found}");
}

#[test]
fn text_is_as_reviewed() {
    assert_golden("totals.txt", &print(Format::Text, Detail::Totals));
    assert_golden("per_worker.txt", &print(Format::Text, Detail::PerWorker));
}

#[test]
fn text_has_every_row_in_80_columns() {
    let text = print(Format::Text, Detail::PerWorker);
    assert!(text.lines().all(|line| line.chars().count() <= 80));
    let rows = MainMode::descriptors().iter().chain(QuickMode::descriptors());
    for row in rows {
        assert!(text.lines().any(|line| line.trim_start().starts_with(row.display)), "{row:?}");
    }
}

#[test]
fn json_is_as_reviewed() {
    let pid = format!("\"writer_pid\":{}", std::process::id());
    for (name, detail) in [("totals.json", Detail::Totals), ("per_worker.json", Detail::PerWorker)]
    {
        assert_golden(name, &print(Format::Json, detail).replace(&pid, "\"writer_pid\":1"));
    }
}

#[test]
fn json_has_every_row_under_its_machine_name() {
    let json: serde_json::Value =
        serde_json::from_str(&print(Format::Json, Detail::Totals)).unwrap();
    let snapshot = snapshot();
    for row in MainMode::ALL {
        assert_eq!(json[format!("main_mode.{}", row.name())], snapshot.main_mode(row));
    }
    for row in QuickMode::ALL {
        assert_eq!(json[format!("quick_mode.{}", row.name())], snapshot.quick_mode(row));
    }
    assert_eq!(json["main_mode"]["key_additions"], json["main_mode.key_additions"]);
    assert_eq!(json["drops"][0]["cause"], "unknown_spi");
    assert_eq!(json["drops"][0]["packets"], 21);
    assert_eq!(json["workers"][1]["accounting"]["balanced"], true);
}

#[test]
fn the_main_mode_structure_has_its_members_at_their_offsets() {
    let mut out = Vec::new();
    write(&mut out, &snapshot(), Format::MmIpsecStats, Detail::Totals).unwrap();
    assert_eq!(out.len(), 168);
    // iscsiprf.h, in rows of the table: row N has the value 100 + N. TotalAcquire (10) and
    // ISADB list size (17) are no members.
    let members = [0, 1, 2, 3, 4, 5, 6, 8, 7, 9, 11, 12, 13, 14, 15, 16, 18, 19, 20, 22, 21]
        .map(|row| row + 100);
    assert_eq!(words(&out), members);
}

#[test]
fn the_quick_mode_structure_has_its_members_at_their_offsets() {
    let mut out = Vec::new();
    write(&mut out, &snapshot(), Format::QmIpsecStats, Detail::Totals).unwrap();
    assert_eq!(out.len(), 144);
    // Row N is 200 + N where the control thread counts it, else 300 + N by one worker and twice
    // that by the other. Offloaded SAs (1) and offloaded bytes (19, 20) are no members.
    let control = [0, 2, 3, 4, 5, 6].map(|row| 200 + row);
    let workers = (7..19).map(|row| 3 * (300 + row));
    assert_eq!(words(&out), control.into_iter().chain(workers).collect::<Vec<_>>());
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

#[test]
fn openmetrics_is_as_reviewed() {
    assert_golden("totals.om", &print(Format::Openmetrics, Detail::Totals));
    assert_golden("per_worker.om", &print(Format::Openmetrics, Detail::PerWorker));
}

#[test]
fn openmetrics_holds_to_the_format_and_to_the_snapshot() {
    let snapshot = snapshot();
    for detail in [Detail::Totals, Detail::PerWorker] {
        let samples = parse_openmetrics(&print(Format::Openmetrics, detail));
        for row in MainMode::ALL {
            let suffix = suffix(row.descriptor());
            let name = format!("culvert_main_mode_{}{suffix}", row.name());
            assert_eq!(samples[&name], snapshot.main_mode(row).to_string());
        }
        for row in QuickMode::ALL {
            let suffix = suffix(row.descriptor());
            let name = format!("culvert_quick_mode_{}{suffix}", row.name());
            assert_eq!(samples[&name], snapshot.quick_mode(row).to_string());
        }
        assert_eq!(
            samples["culvert_main_mode_total_acquire_by_origin_total{origin=\"trap\"}"],
            "60"
        );
        let drops = match detail {
            Detail::Totals => "culvert_worker_drops_total{cause=\"unknown_spi\"}",
            Detail::PerWorker => "culvert_worker_drops_total{worker=\"1\",cause=\"unknown_spi\"}",
        };
        assert_eq!(samples[drops], if detail == Detail::Totals { "21" } else { "14" });
        assert_eq!(
            samples["culvert_port_rx_ring_full_total{instance=\"wan\"}"],
            u64::MAX.to_string()
        );
        assert_eq!(samples["culvert_quick_mode_start_time_seconds"], "1700000000.250000000");
    }
}

fn suffix(row: &Counter) -> &'static str {
    match row.kind {
        stats::Kind::Counter => "_total",
        stats::Kind::Gauge => "",
    }
}

/// Reads OpenMetrics text as strictly as the specification allows, for the two metric types in
/// use; panics at the first breach. Returns each sample's value by its name and labels.
fn parse_openmetrics(text: &str) -> BTreeMap<String, String> {
    let body = text.strip_suffix("# EOF\n").expect("ends with # EOF and a line feed");
    let mut families: BTreeMap<String, String> = BTreeMap::new();
    let mut sample_names = BTreeSet::new();
    let mut samples = BTreeMap::new();
    let mut family = String::new();
    let mut metadata = BTreeSet::new();
    let mut sampled = false;
    for line in body.split_terminator('\n') {
        if let Some(descriptor) = line.strip_prefix("# ") {
            let mut words = descriptor.splitn(3, ' ');
            let (keyword, name, rest) =
                (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            assert_name(name);
            if name != family {
                assert!(keyword == "TYPE", "a family begins with its type: {line}");
                family = name.to_owned();
                metadata.clear();
                sampled = false;
            }
            assert!(!sampled, "metadata after samples: {line}");
            assert!(metadata.insert(keyword.to_owned()), "metadata twice: {line}");
            match keyword {
                "TYPE" => {
                    assert!(["counter", "gauge"].contains(&rest), "{line}");
                    let seen = families.insert(name.to_owned(), rest.to_owned());
                    assert!(seen.is_none(), "family twice or interleaved: {line}");
                    let sample =
                        if rest == "counter" { format!("{name}_total") } else { name.into() };
                    assert!(sample_names.insert(sample), "families share a sample name: {line}");
                }
                "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                "HELP" => assert_escaped(rest, line),
                _ => panic!("unknown keyword: {line}"),
            }
            continue;
        }
        sampled = true;
        let (sample, value) = line.rsplit_once(' ').expect("a sample has a value");
        let number = value.parse::<f64>().expect("a value is a number");
        assert!(number.is_finite() && number >= 0.0, "{line}");
        let (name, labels) = match sample.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').expect("labels are closed")),
            None => (sample, ""),
        };
        assert_name(name);
        let owner = match families[&family].as_str() {
            "counter" => name.strip_suffix("_total").expect("a counter's sample ends in _total"),
            _ => name,
        };
        assert_eq!(owner, family, "{line}");
        let mut rest = labels;
        let mut seen = BTreeSet::new();
        while !rest.is_empty() {
            let (label, after) = rest.split_once("=\"").expect("a label has a value");
            assert_name(label);
            assert!(seen.insert(label), "label twice: {line}");
            let end = closing_quote(after).expect("a label value is closed");
            assert_escaped(&after[..end], line);
            rest = &after[end + 1..];
            match rest.strip_prefix(',') {
                Some(next) => {
                    assert!(!next.is_empty(), "{line}");
                    rest = next;
                }
                None => assert!(rest.is_empty(), "{line}"),
            }
        }
        let twice = samples.insert(sample.to_owned(), value.to_owned());
        assert!(twice.is_none(), "sample twice: {line}");
    }
    samples
}

fn assert_name(name: &str) {
    assert!(!name.starts_with(|char: char| char.is_ascii_digit()), "{name}");
    assert!(!name.is_empty(), "empty name");
    assert!(name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_'), "{name}");
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(index, char)| {
        let end = char == '"' && !escaped;
        escaped = char == '\\' && !escaped;
        end.then_some(index)
    })
}

fn assert_escaped(text: &str, line: &str) {
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => assert!(matches!(chars.next(), Some('\\' | '"' | 'n')), "{line}"),
            char => assert!(char != '"' && !char.is_control(), "{line}"),
        }
    }
}

#[test]
fn a_missing_segment_says_what_to_do_next() {
    let failure = read(Path::new("/nonexistent/stats")).unwrap_err().to_string();
    assert!(failure.starts_with("culvert: /nonexistent/stats: "), "{failure}");
    assert!(failure.contains("\nnext: start the gateway with `culvert run"), "{failure}");
}

#[test]
fn an_output_that_closes_is_a_quiet_end() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for format in [Format::Text, Format::Json, Format::Openmetrics, Format::MmIpsecStats] {
        let error = write(&mut Closed, &snapshot(), format, Detail::Totals).unwrap_err();
        assert!(Failure::from(error).is_broken_pipe(), "{format:?}");
    }
}

#[test]
fn intervals_are_seconds_of_at_least_a_tenth() {
    assert_eq!(interval("2"), Ok(Duration::from_secs(2)));
    assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
    for refused in ["", "0", "-1", "NaN", "inf", "1e300", "fast"] {
        assert!(interval(refused).is_err(), "{refused}");
    }
}
