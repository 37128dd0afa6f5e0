//! The statistics as one JSON object.
//!
//! The rows of the two tables stand at the top under their machine names
//! (`"main_mode.key_additions"`), so that a name found anywhere else is the key here too; and once
//! more as one object for each table, for whoever wants a whole table or writes paths.

use std::io::{self, Write};

use humantime::format_rfc3339_nanos;
use serde_json::{Map, Value, json};
use stats::{
    Accounting, Block, Consistency, Drops, MAIN_MODE, QUICK_MODE, Snapshot, WORKER, WriterState,
};

use super::Detail;

pub(super) fn write(out: &mut impl Write, snapshot: &Snapshot, detail: Detail) -> io::Result<()> {
    let mut root = Map::new();
    for table in [MAIN_MODE, QUICK_MODE] {
        let mut rows = Map::new();
        for row in snapshot.table(table) {
            let name = &row.counter.name;
            root.insert(format!("{table}.{name}"), row.value.into());
            rows.insert(name.clone(), row.value.into());
        }
        root.insert(table.into(), rows.into());
    }
    root.insert("labels".into(), labels(snapshot));
    root.insert("segment".into(), segment(snapshot));
    root.insert("drops".into(), drops(snapshot.drops()));
    let sum = Accounting::default();
    let sum = snapshot.workers().fold(sum, |sum, worker| sum.plus(&worker.accounting()));
    let mut total = accounting(&sum);
    let balanced = snapshot.workers().all(|worker| worker.accounting().holds());
    total.insert("balanced".into(), balanced.into());
    root.insert("accounting".into(), total.into());
    root.insert("blocks".into(), others(snapshot));
    let workers = snapshot.workers().map(|worker| {
        let mut object = match detail {
            Detail::Totals => Map::new(),
            Detail::PerWorker => values(worker.block()),
        };
        object.insert("worker".into(), worker.block().instance().into());
        object.insert("accounting".into(), accounting(&worker.accounting()).into());
        if detail == Detail::PerWorker {
            object.insert("drops".into(), drops(worker.drops()));
        }
        Value::from(object)
    });
    root.insert("workers".into(), workers.collect());
    serde_json::to_writer(&mut *out, &root)?;
    writeln!(out)
}

fn segment(snapshot: &Snapshot) -> Value {
    let header = snapshot.header();
    let inconsistent = snapshot.blocks().filter(|block| block.consistency() != Consistency::Whole);
    json!({
        "version": header.version,
        "writer_pid": header.writer_pid,
        "writer_running": snapshot.writer() == WriterState::Running,
        "main_mode_start": format_rfc3339_nanos(header.main_mode_epoch).to_string(),
        "quick_mode_start": format_rfc3339_nanos(header.quick_mode_epoch).to_string(),
        "inconsistent_blocks": inconsistent.map(|block| name(&block)).collect::<Vec<_>>(),
    })
}

/// Main mode rows broken down: row, label, value of the label.
fn labels(snapshot: &Snapshot) -> Value {
    let mut rows = Map::new();
    for block in snapshot.blocks().filter(|block| block.name() == MAIN_MODE) {
        for reading in block.readings() {
            let Some((label, value)) = reading.label() else { continue };
            let row = format!("{MAIN_MODE}.{}", reading.counter.name);
            rows.entry(row).or_insert_with(|| json!({}))[label][value] = reading.value.into();
        }
    }
    rows.into()
}

fn drops<'a>(drops: impl IntoIterator<Item = Drops<'a>>) -> Value {
    drops
        .into_iter()
        .map(|Drops { cause, row, packets, .. }| {
            json!({ "cause": cause, "packets": packets, "row": row })
        })
        .collect()
}

fn accounting(terms: &Accounting) -> Map<String, Value> {
    let mut object = Map::new();
    for (term, packets) in [
        ("received", terms.received),
        ("generated", terms.generated),
        ("released_from_waiting", terms.released_from_waiting),
        ("handed_in", terms.handed_in),
        ("sent", terms.sent),
        ("to_host", terms.to_host),
        ("drops", terms.drops),
        ("taken_into_waiting", terms.taken_into_waiting),
        ("handed_out", terms.handed_out),
        ("waiting", terms.waiting),
    ] {
        object.insert(term.into(), packets.into());
    }
    object.insert("balanced".into(), terms.holds().into());
    object
}

/// The blocks that are neither table nor worker: ports, queues, rings.
fn others(snapshot: &Snapshot) -> Value {
    snapshot
        .blocks()
        .filter(|block| ![MAIN_MODE, QUICK_MODE, WORKER].contains(&block.name()))
        .map(|block| {
            json!({
                "name": block.name(),
                "instance": block.instance(),
                "values": values(&block),
            })
        })
        .collect()
}

fn values(block: &Block<'_>) -> Map<String, Value> {
    let mut object = Map::new();
    for reading in block.readings() {
        let name = &reading.counter.name;
        match reading.label() {
            None => {
                object.insert(name.clone(), reading.value.into());
            }
            // Drops by cause have an object of their own.
            Some(_) if name == stats::DROPS => {}
            Some((label, value)) => {
                object.insert(format!("{name}{{{label}={value}}}"), reading.value.into());
            }
        }
    }
    object
}

fn name(block: &Block<'_>) -> String {
    match block.instance() {
        "" => block.name().to_owned(),
        instance => format!("{}/{instance}", block.name()),
    }
}
