//! The statistics as tables for people, 80 columns wide, under the names IP Security Monitor
//! prints.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use humantime::format_rfc3339_seconds;
use stats::{
    Accounting, Block, Consistency, DROPS, MAIN_MODE, QUICK_MODE, Snapshot, WORKER, WorkerReading,
    WriterState,
};

use super::Detail;

/// Columns of a line.
const WIDTH: usize = 80;

pub(super) fn write(out: &mut impl Write, snapshot: &Snapshot, detail: Detail) -> io::Result<()> {
    state(out, snapshot)?;
    main_mode(out, snapshot)?;
    quick_mode(out, snapshot)?;
    drops(out, snapshot)?;
    accounting(out, snapshot)?;
    for block in snapshot.blocks() {
        if ![MAIN_MODE, QUICK_MODE, WORKER].contains(&block.name()) {
            title(out, &format!("{} {}", block.name(), block.instance()), None)?;
            values(out, &block)?;
        }
    }
    if detail == Detail::PerWorker {
        for worker in snapshot.workers() {
            per_worker(out, &worker)?;
        }
    }
    Ok(())
}

/// What makes the numbers less than the present ones of a running gateway.
fn state(out: &mut impl Write, snapshot: &Snapshot) -> io::Result<()> {
    let pid = snapshot.header().writer_pid;
    if snapshot.writer() == WriterState::Gone {
        writeln!(out, "The gateway (pid {pid}) does not run; these are its last counts.\n")?;
    }
    for block in snapshot.blocks() {
        let name = format!("{} {}", block.name(), block.instance());
        let name = name.trim_end();
        match block.consistency() {
            Consistency::Whole => {}
            Consistency::Torn => {
                writeln!(
                    out,
                    "Block {name}: its writer stopped inside a write; it mixes two moments.\n"
                )?;
            }
            Consistency::Overtaken => {
                writeln!(out, "Block {name}: written faster than read; it mixes two moments.\n")?;
            }
        }
    }
    Ok(())
}

fn main_mode(out: &mut impl Write, snapshot: &Snapshot) -> io::Result<()> {
    title(out, "Main mode statistics", Some(snapshot.header().main_mode_epoch))?;
    let blocks: Vec<Block<'_>> =
        snapshot.blocks().filter(|block| block.name() == MAIN_MODE).collect();
    for row in snapshot.table(MAIN_MODE) {
        line(out, 2, &row.counter.display, row.value)?;
        let parts = blocks
            .iter()
            .flat_map(|block| block.readings())
            .filter(|reading| reading.counter.name == row.counter.name && reading.value > 0);
        for reading in parts {
            if let Some((label, value)) = reading.label() {
                line(out, 6, &format!("{label} {value}"), reading.value)?;
            }
        }
    }
    writeln!(out)
}

fn quick_mode(out: &mut impl Write, snapshot: &Snapshot) -> io::Result<()> {
    title(out, "Quick mode statistics", Some(snapshot.header().quick_mode_epoch))?;
    for row in snapshot.table(QUICK_MODE) {
        line(out, 2, &row.counter.display, row.value)?;
    }
    writeln!(out)
}

fn drops(out: &mut impl Write, snapshot: &Snapshot) -> io::Result<()> {
    title(out, "Packets dropped, by cause", Some(snapshot.header().main_mode_epoch))?;
    let mut all = 0_u64;
    for drops in snapshot.drops().iter().filter(|drops| drops.packets > 0) {
        let cause = match drops.row {
            Some(row) => format!("{} ({row})", drops.cause),
            None => drops.cause.to_owned(),
        };
        line(out, 2, &cause, drops.packets)?;
        all = all.wrapping_add(drops.packets);
    }
    line(out, 2, "All causes", all)?;
    writeln!(out)
}

fn accounting(out: &mut impl Write, snapshot: &Snapshot) -> io::Result<()> {
    title(out, "Where the workers' packets went", Some(snapshot.header().main_mode_epoch))?;
    let mut sum = Accounting::default();
    let mut failing = Vec::new();
    for worker in snapshot.workers() {
        let terms = worker.accounting();
        if !terms.holds() {
            failing.push(worker.block().instance());
        }
        sum = sum.plus(&terms);
    }
    let entered = [
        ("Received", sum.received),
        ("Generated", sum.generated),
        ("Released from waiting", sum.released_from_waiting),
        ("Handed in", sum.handed_in),
        ("", 0),
    ];
    let left = [
        ("Sent", sum.sent),
        ("To the host", sum.to_host),
        ("Dropped", sum.drops),
        ("Taken into waiting", sum.taken_into_waiting),
        ("Handed out", sum.handed_out),
    ];
    for ((name, packets), (other_name, other)) in entered.into_iter().zip(left) {
        let packets = if name.is_empty() { String::new() } else { packets.to_string() };
        writeln!(out, "  {name:<21} {packets:>14}    {other_name:<18} {other:>19}")?;
    }
    let (entered, left) = (sum.entered(), sum.left());
    writeln!(out, "  {:<21} {entered:>14}  = {:<18} {left:>19}", "In", "Out")?;
    if failing.is_empty() {
        writeln!(out, "  Every packet is accounted for; {} wait.\n", sum.waiting)
    } else {
        let torn = if sum.inconsistent > 0 { " (not read at one moment, see above)" } else { "" };
        writeln!(out, "  NOT ACCOUNTED FOR, in worker {}{torn}\n", failing.join(", "))
    }
}

fn per_worker(out: &mut impl Write, worker: &WorkerReading<'_>) -> io::Result<()> {
    title(out, &format!("Worker {}", worker.block().instance()), None)?;
    values(out, worker.block())
}

fn values(out: &mut impl Write, block: &Block<'_>) -> io::Result<()> {
    for reading in block.readings() {
        let display = &reading.counter.display;
        match reading.label() {
            None => line(out, 2, display, reading.value)?,
            Some(_) if reading.value == 0 => {}
            Some((_, cause)) if reading.counter.name == DROPS => {
                line(out, 2, &format!("Dropped: {cause}"), reading.value)?;
            }
            Some((label, value)) => {
                line(out, 2, &format!("{display}, {label} {value}"), reading.value)?;
            }
        }
    }
    writeln!(out)
}

fn title(out: &mut impl Write, title: &str, since: Option<SystemTime>) -> io::Result<()> {
    let title = title.trim_end();
    match since {
        Some(since) => {
            let since = format!("since {}", format_rfc3339_seconds(since));
            let width = WIDTH.saturating_sub(title.chars().count());
            writeln!(out, "{title}{since:>width$}")
        }
        None => writeln!(out, "{title}"),
    }
}

/// Writes a name and its number, the number's end at the last column.
fn line(out: &mut impl Write, indent: usize, name: &str, value: u64) -> io::Result<()> {
    let width = WIDTH.saturating_sub(indent + name.chars().count() + 1).max(1);
    writeln!(out, "{:indent$}{name} {value:>width$}", "")
}
