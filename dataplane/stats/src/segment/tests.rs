use std::{
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, UNIX_EPOCH},
};

use proptest::prelude::*;

use super::*;
use crate::{
    Consistency, Counter, MainMode, MainModeCounters, MainModePart, MainModePartCounters,
    QuickMode, QuickModeCounters, Snapshot, Unit, Worker, WorkerCounters, WriterState,
};

const CAUSES: [Counter; 2] = [
    Counter::drop_cause("bad_spi", Some(QuickMode::BadSpiPackets), "No SA has the SPI."),
    Counter::drop_cause("no_route", None, "No route leads to the destination."),
];

fn start(seconds: u64) -> Start {
    Start { at: UNIX_EPOCH + Duration::from_secs(seconds), boot: BootId([1, 2]) }
}

/// A directory of this test alone, removed with it.
struct Directory(PathBuf);

impl Directory {
    /// The directory is made with the first segment in it.
    fn new(test: &str) -> Self {
        Self(std::env::temp_dir().join(format!("stats-{}-{test}", std::process::id())))
    }

    fn segment(&self) -> PathBuf {
        self.0.join("stats")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn each_block_has_one_writer() {
    let mut layout = Layout::new();
    let worker = layout.worker(&CAUSES);
    let mut segment = Segment::anonymous(&layout, start(1));
    assert!(segment.writer(worker).is_some());
    assert!(segment.writer(worker).is_none());
    assert!(segment.writer(layout.main_mode()).is_some());
    assert!(segment.writer(layout.quick_mode_base()).is_none(), "nobody writes the base");
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn what_is_published_is_read_in_memory_and_from_the_file() {
    let directory = Directory::new("published");
    let mut layout = Layout::new();
    let worker = layout.worker(&CAUSES);
    let port = layout.block(
        "port",
        "wan 0",
        &[Counter::monotonic("rx_ring_full", Unit::Packets, "Packets the kernel dropped.")],
    );
    let mut segment = Segment::create(&directory.segment(), &layout, start(5)).unwrap();
    assert!(matches!(segment.adoption(), Adoption::Nothing));

    let mut rows = MainModeCounters::new();
    rows.add(MainMode::IkeMainMode, 3);
    let mut parts = MainModePartCounters::new();
    parts.add(MainModePart::IkeMainModeRekey, 2);
    segment.writer(layout.main_mode()).unwrap().publish_parts(&[rows.values(), parts.values()]);
    let mut counters = WorkerCounters::new();
    counters.add(Worker::Received, 10);
    counters.add(Worker::BadSpiPackets, 4);
    segment.writer(worker).unwrap().publish_parts(&[counters.values(), &[4, 6]]);
    segment.writer(port).unwrap().publish(&[7]);

    for snapshot in [
        segment.reader().unwrap().snapshot().unwrap(),
        Snapshot::read(&directory.segment()).unwrap(),
    ] {
        assert_eq!(snapshot.writer(), WriterState::Running);
        assert_eq!(snapshot.header().main_mode_epoch, start(5).at);
        assert_eq!(snapshot.header().writer_pid, std::process::id());
        assert_eq!(snapshot.main_mode(MainMode::IkeMainMode), 3);
        assert_eq!(snapshot.main_mode_part(MainModePart::IkeMainModeRekey), 2);
        assert_eq!(snapshot.main_mode_part(MainModePart::IkeMainModeFirst), 0);
        assert_eq!(snapshot.quick_mode(QuickMode::BadSpiPackets), 4);
        let drops = snapshot.drops();
        assert_eq!(drops.len(), 2);
        assert_eq!((drops[0].cause, drops[0].packets), ("bad_spi", 4));
        assert_eq!(drops[0].row, Some("bad_spi_packets"));
        assert_eq!((drops[1].cause, drops[1].packets, drops[1].row), ("no_route", 6, None));
        let worker = snapshot.workers().next().unwrap();
        assert!(worker.accounting().holds());
        let port = snapshot.blocks().find(|block| block.name() == "port").unwrap();
        assert_eq!((port.instance(), port.get("rx_ring_full")), ("wan_0", 7));
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn the_file_is_not_for_others_and_nothing_is_left_beside_it() {
    let directory = Directory::new("mode");
    let _segment = Segment::create(&directory.segment(), &Layout::new(), start(1)).unwrap();
    let mode = fs::metadata(directory.segment()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 1);
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn quick_mode_counters_and_epoch_outlive_the_daemon_main_mode_does_not() {
    let directory = Directory::new("outlive");
    let mut layout = Layout::new();
    let workers = [layout.worker(&CAUSES), layout.worker(&CAUSES)];
    for (life, at) in [100, 200, 300].into_iter().enumerate() {
        let mut segment = Segment::create(&directory.segment(), &layout, start(at)).unwrap();
        let earlier = life as u64;
        let snapshot = segment.reader().unwrap().snapshot().unwrap();
        assert_eq!(matches!(segment.adoption(), Adoption::Continued), life > 0);
        assert_eq!(snapshot.header().quick_mode_epoch, start(100).at);
        assert_eq!(snapshot.header().main_mode_epoch, start(at).at);
        assert_eq!(snapshot.quick_mode(QuickMode::TunnelBytesSent), 3000 * earlier);
        assert_eq!(snapshot.quick_mode(QuickMode::Rekeys), 2 * earlier);
        assert_eq!(snapshot.quick_mode(QuickMode::ActiveSas), 0, "a gauge is not carried over");
        assert_eq!(snapshot.main_mode(MainMode::KeyAdditions), 0);
        assert_eq!(snapshot.drops().iter().map(|drops| drops.packets).sum::<u64>(), 0);

        let mut control = QuickModeCounters::new();
        control.set(QuickMode::ActiveSas, 4);
        control.add(QuickMode::Rekeys, 2);
        segment.writer(layout.quick_mode()).unwrap().publish(control.values());
        for (worker, bytes) in workers.into_iter().zip([1000, 2000]) {
            let mut counters = WorkerCounters::new();
            counters.add(Worker::TunnelBytesSent, bytes);
            segment.writer(worker).unwrap().publish_parts(&[counters.values(), &[1, 2]]);
        }
        let mut rows = MainModeCounters::new();
        rows.add(MainMode::KeyAdditions, 9);
        let parts = MainModePartCounters::new();
        segment.writer(layout.main_mode()).unwrap().publish_parts(&[rows.values(), parts.values()]);
    }
    let last = Snapshot::read(&directory.segment()).unwrap();
    assert_eq!(last.writer(), WriterState::Gone);
    assert_eq!(last.quick_mode(QuickMode::TunnelBytesSent), 9000);
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn child_sas_that_died_with_the_daemon_count_as_deleted() {
    let directory = Directory::new("died");
    let layout = Layout::new();
    let mut segment = Segment::create(&directory.segment(), &layout, start(1)).unwrap();
    let mut control = QuickModeCounters::new();
    control.set(QuickMode::ActiveSas, 3);
    control.add(QuickMode::KeyAdditions, 5);
    control.add(QuickMode::KeyDeletions, 2);
    segment.writer(layout.quick_mode()).unwrap().publish(control.values());
    drop(segment);

    let segment = Segment::create(&directory.segment(), &layout, start(2)).unwrap();
    let snapshot = segment.reader().unwrap().snapshot().unwrap();
    assert_eq!(snapshot.quick_mode(QuickMode::KeyAdditions), 5);
    assert_eq!(snapshot.quick_mode(QuickMode::KeyDeletions), 5);
    assert_eq!(snapshot.quick_mode(QuickMode::ActiveSas), 0);
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn a_segment_of_another_boot_is_replaced_and_not_adopted() {
    let directory = Directory::new("boot");
    let layout = Layout::new();
    let mut segment = Segment::create(&directory.segment(), &layout, start(1)).unwrap();
    let mut control = QuickModeCounters::new();
    control.add(QuickMode::KeyAdditions, 5);
    segment.writer(layout.quick_mode()).unwrap().publish(control.values());
    drop(segment);

    let next = Start { boot: BootId([3, 4]), ..start(2) };
    let segment = Segment::create(&directory.segment(), &layout, next).unwrap();
    assert!(matches!(segment.adoption(), Adoption::OtherBoot));
    let snapshot = Snapshot::read(&directory.segment()).unwrap();
    assert_eq!(snapshot.quick_mode(QuickMode::KeyAdditions), 0);
    assert_eq!(snapshot.header().quick_mode_epoch, next.at);
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn what_is_no_segment_is_replaced_and_reported() {
    let directory = Directory::new("garbage");
    fs::create_dir_all(&directory.0).unwrap();
    fs::write(directory.segment(), "not a segment").unwrap();
    let segment = Segment::create(&directory.segment(), &Layout::new(), start(1)).unwrap();
    assert!(matches!(segment.adoption(), Adoption::Unreadable(ReadError::NotASegment)));
    Snapshot::read(&directory.segment()).unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn the_segment_of_a_living_writer_is_not_taken() {
    let directory = Directory::new("living");
    let layout = Layout::new();
    let mut first = Segment::create(&directory.segment(), &layout, start(1)).unwrap();
    let writer = first.writer(layout.quick_mode());
    drop(first);
    let second = Segment::create(&directory.segment(), &layout, start(2));
    let pid = std::process::id();
    assert!(matches!(second, Err(CreateError::InUse { pid: owner }) if owner == pid));
    drop(writer);
    Segment::create(&directory.segment(), &layout, start(2)).unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn a_writer_that_died_inside_a_write_is_reported() {
    let directory = Directory::new("torn");
    let layout = Layout::new();
    let mut segment = Segment::create(&directory.segment(), &layout, start(1)).unwrap();
    let control = QuickModeCounters::new();
    let mut writer = segment.writer(layout.quick_mode()).unwrap();
    writer.publish(control.values());
    writer.die_inside_a_write(&[1, 2, 3]);
    let running = segment.reader().unwrap().snapshot().unwrap();
    drop(segment);
    let gone = Snapshot::read(&directory.segment()).unwrap();
    for snapshot in [running, gone] {
        let torn: Vec<_> = snapshot
            .blocks()
            .filter(|block| block.consistency() != Consistency::Whole)
            .map(|block| (block.name(), block.instance(), block.consistency()))
            .collect();
        assert_eq!(torn, [("quick_mode", "", Consistency::Torn)]);
        assert_eq!(snapshot.quick_mode(QuickMode::PendingKeyOperations), 3);
    }
}

const VICTIM: &str = "STATS_TEST_VICTIM";

/// The process that `a_killed_daemon_leaves_its_counts` kills; by itself it does nothing.
#[test]
fn victim() {
    let Some(path) = std::env::var_os(VICTIM) else { return };
    let layout = Layout::new();
    let mut segment = Segment::create(path.as_ref(), &layout, start(1)).unwrap();
    let mut writer = segment.writer(layout.quick_mode()).unwrap();
    let mut control = QuickModeCounters::new();
    loop {
        control.add(QuickMode::KeyAdditions, 1);
        control.add(QuickMode::Rekeys, 1);
        writer.publish(control.values());
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn a_killed_daemon_leaves_its_counts() {
    let directory = Directory::new("killed");
    let path = directory.segment();
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["segment::tests::victim", "--exact"])
        .env(VICTIM, &path)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let counted = (0..1000).find_map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        let snapshot = Snapshot::read(&path).ok()?;
        let rekeys = snapshot.quick_mode(QuickMode::Rekeys);
        (snapshot.writer() == WriterState::Running && rekeys > 0).then_some(rekeys)
    });
    let refused = Segment::create(&path, &Layout::new(), start(2));
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(matches!(refused, Err(CreateError::InUse { pid }) if pid == victim.id()));

    let last = Snapshot::read(&path).unwrap();
    assert_eq!(last.writer(), WriterState::Gone);
    let rekeys = last.quick_mode(QuickMode::Rekeys);
    assert!(rekeys >= counted.unwrap());
    let segment = Segment::create(&path, &Layout::new(), start(3)).unwrap();
    assert!(matches!(segment.adoption(), Adoption::Continued));
    let next = segment.reader().unwrap().snapshot().unwrap();
    assert_eq!(next.quick_mode(QuickMode::Rekeys), rekeys);
    assert_eq!(next.quick_mode(QuickMode::KeyAdditions), next.quick_mode(QuickMode::KeyDeletions));
    assert_eq!(next.header().quick_mode_epoch, start(1).at);
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn readers_beside_a_busy_writer_see_whole_blocks_only() {
    let directory = Directory::new("busy");
    let mut layout = Layout::new();
    let block = layout.block(
        "pair",
        "",
        &[
            Counter::monotonic("first", Unit::Events, "Counts."),
            Counter::monotonic("second", Unit::Events, "Counts as the first does."),
        ],
    );
    let mut segment = Segment::create(&directory.segment(), &layout, start(1)).unwrap();
    let mut writer = segment.writer(block).unwrap();
    let reader = segment.reader().unwrap();
    let path = directory.segment();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = &done;
        scope.spawn(move || {
            let mut count = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                count += 1;
                writer.publish(&[count, count]);
                // A worker's turn is longer still.
                (0..20).for_each(|_| std::hint::spin_loop());
            }
        });
        let mut whole = 0;
        for _ in 0..200 {
            for snapshot in [reader.snapshot().unwrap(), Snapshot::read(&path).unwrap()] {
                let block = snapshot.blocks().find(|block| block.name() == "pair").unwrap();
                if block.consistency() == Consistency::Whole {
                    assert_eq!(block.get("first"), block.get("second"));
                    whole += 1;
                }
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(whole > 0);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 128 }))]

    #[test]
    fn a_reader_reads_what_the_writers_wrote(
        blocks in prop::collection::vec(prop::collection::vec(any::<u64>(), 1..40), 1..8)
    ) {
        const ANY: Counter = Counter::monotonic("any", Unit::Events, "Anything.");
        let mut layout = Layout::new();
        let ids: Vec<_> = blocks
            .iter()
            .enumerate()
            .map(|(index, values)| {
                layout.block("free", &index.to_string(), &vec![ANY; values.len()])
            })
            .collect();
        let mut segment = Segment::anonymous(&layout, start(1));
        for (id, values) in ids.iter().zip(&blocks) {
            let mut writer = segment.writer(*id).unwrap();
            writer.publish(&vec![1; values.len()]);
            writer.publish(values);
        }
        let snapshot = segment.reader().unwrap().snapshot().unwrap();
        let read: Vec<Vec<u64>> = snapshot
            .blocks()
            .filter(|block| block.name() == "free")
            .map(|block| block.readings().map(|reading| reading.value).collect())
            .collect();
        prop_assert_eq!(read, blocks);
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn a_worker_row_of_any_daemon_ends_up_in_the_base(
        lives in prop::collection::vec(prop::collection::vec(0u64..1 << 40, 3), 1..4)
    ) {
        let directory = Directory::new("base");
        let mut layout = Layout::new();
        let workers: Vec<_> = (0..3).map(|_| layout.worker(&[])).collect();
        for bytes in &lives {
            let mut segment = Segment::create(&directory.segment(), &layout, start(1)).unwrap();
            for (worker, bytes) in workers.iter().zip(bytes) {
                let mut counters = WorkerCounters::new();
                counters.add(Worker::AuthenticatedBytesReceived, *bytes);
                segment.writer(*worker).unwrap().publish(counters.values());
            }
        }
        let total = lives.iter().flatten().sum::<u64>();
        let snapshot = Snapshot::read(&directory.segment()).unwrap();
        prop_assert_eq!(snapshot.quick_mode(QuickMode::AuthenticatedBytesReceived), total);
    }
}
