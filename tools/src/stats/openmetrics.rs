//! The statistics as OpenMetrics 1.0 text.
//!
//! A machine name `main_mode.key_additions` is the metric family `culvert_main_mode_key_additions`;
//! the format demands `_total` after a counter's. Breakdowns of a row are families of their own
//! (`…_by_origin`), so that summing a family counts nothing twice. A unit is told where the name
//! ends in it, as the format demands.

use std::{
    collections::HashMap,
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use stats::{
    Block, Kind, MAIN_MODE, QUICK_MODE, ReadCounter, Reading, Snapshot, WORKER, WriterState,
};

use super::Detail;

pub(super) fn write(out: &mut impl Write, snapshot: &Snapshot, detail: Detail) -> io::Result<()> {
    let mut families = Families::default();
    for table in [MAIN_MODE, QUICK_MODE] {
        for Reading { counter, value } in snapshot.table(table) {
            let ReadCounter { name, kind, unit, help, .. } = counter;
            let name = format!("culvert_{table}_{name}");
            families.add(name, *kind, unit, help, Labels::default(), value);
        }
    }
    let quick_mode: Vec<&str> =
        snapshot.table(QUICK_MODE).iter().map(|row| row.counter.name.as_str()).collect();
    for block in snapshot.blocks() {
        match block.name() {
            MAIN_MODE => families.breakdowns(&block),
            QUICK_MODE => {}
            WORKER => families.worker(&block, detail, &quick_mode),
            _ => families.other(&block),
        }
    }
    families.write(out)?;

    let header = snapshot.header();
    let running = u8::from(snapshot.writer() == WriterState::Running);
    writeln!(out, "# TYPE culvert_running gauge")?;
    writeln!(out, "# HELP culvert_running Whether the daemon that writes the statistics lives.")?;
    writeln!(out, "culvert_running {running}")?;
    start_time(out, MAIN_MODE, header.main_mode_epoch)?;
    start_time(out, QUICK_MODE, header.quick_mode_epoch)?;
    writeln!(out, "# EOF")
}

fn start_time(out: &mut impl Write, table: &str, epoch: SystemTime) -> io::Result<()> {
    let since = epoch.duration_since(UNIX_EPOCH).unwrap_or_default();
    writeln!(out, "# TYPE culvert_{table}_start_time_seconds gauge")?;
    writeln!(out, "# UNIT culvert_{table}_start_time_seconds seconds")?;
    writeln!(out, "# HELP culvert_{table}_start_time_seconds When the counters were zero.")?;
    writeln!(
        out,
        "culvert_{table}_start_time_seconds {}.{:09}",
        since.as_secs(),
        since.subsec_nanos()
    )
}

/// Metric families in the order they are first met; a family's samples must stand together.
#[derive(Default)]
struct Families {
    families: Vec<Family>,
    by_name: HashMap<String, usize>,
}

struct Family {
    name: String,
    kind: Kind,
    unit: String,
    help: String,
    samples: Vec<(Labels, u64)>,
    by_labels: HashMap<Labels, usize>,
}

/// Label names with their values, in the order they are printed.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Labels(Vec<(String, String)>);

impl Labels {
    fn push(&mut self, (label, value): (&str, &str)) {
        self.0.push((label.to_owned(), value.to_owned()));
    }
}

impl Families {
    fn breakdowns(&mut self, block: &Block<'_>) {
        for reading in block.readings() {
            let Some(label) = reading.label() else { continue };
            let ReadCounter { name, kind, unit, help, .. } = reading.counter;
            let name = format!("culvert_{}_{name}_by_{}", block.name(), label.0);
            let mut labels = Labels::default();
            labels.push(label);
            self.add(name, *kind, unit, help, labels, reading.value);
        }
    }

    /// Without detail, a worker's counters merge into one sample for all workers. A worker's parts
    /// of quick mode rows are in the rows already and are told with detail only.
    fn worker(&mut self, block: &Block<'_>, detail: Detail, quick_mode: &[&str]) {
        for reading in block.readings() {
            let ReadCounter { name, kind, unit, help, .. } = reading.counter;
            let mut labels = Labels::default();
            match detail {
                Detail::Totals if quick_mode.contains(&name.as_str()) => continue,
                Detail::Totals => {}
                Detail::PerWorker => labels.push((WORKER, block.instance())),
            }
            reading.label().into_iter().for_each(|label| labels.push(label));
            // One family holds every cause, and a family has one help text.
            let help = match name.as_str() {
                stats::DROPS => "Packets dropped, by cause.",
                _ => help,
            };
            let name = format!("culvert_{WORKER}_{name}");
            self.add(name, *kind, unit, help, labels, reading.value);
        }
    }

    fn other(&mut self, block: &Block<'_>) {
        for reading in block.readings() {
            let ReadCounter { name, kind, unit, help, .. } = reading.counter;
            let mut name = format!("culvert_{}_{name}", block.name());
            let mut labels = Labels::default();
            if !block.instance().is_empty() {
                labels.push(("instance", block.instance()));
            }
            if let Some(label) = reading.label() {
                name = format!("{name}_by_{}", label.0);
                labels.push(label);
            }
            self.add(name, *kind, unit, help, labels, reading.value);
        }
    }

    /// Adds a sample; one with the same labels grows by it.
    fn add(
        &mut self,
        name: String,
        kind: Kind,
        unit: &str,
        help: &str,
        labels: Labels,
        value: u64,
    ) {
        let index = *self.by_name.entry(name).or_insert_with_key(|name| {
            self.families.push(Family {
                name: name.clone(),
                kind,
                unit: unit.to_owned(),
                help: help.to_owned(),
                samples: Vec::new(),
                by_labels: HashMap::new(),
            });
            self.families.len() - 1
        });
        let Family { samples, by_labels, .. } = &mut self.families[index];
        match by_labels.get(&labels) {
            Some(index) => samples[*index].1 = samples[*index].1.wrapping_add(value),
            None => {
                by_labels.insert(labels.clone(), samples.len());
                samples.push((labels, value));
            }
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for Family { name, kind, unit, help, samples, .. } in &self.families {
            let (kind, suffix) = match kind {
                Kind::Counter => ("counter", "_total"),
                Kind::Gauge => ("gauge", ""),
            };
            writeln!(out, "# TYPE {name} {kind}")?;
            if name.strip_suffix(unit.as_str()).is_some_and(|rest| rest.ends_with('_')) {
                writeln!(out, "# UNIT {name} {unit}")?;
            }
            writeln!(out, "# HELP {name} {}", escape(help))?;
            for (labels, value) in samples {
                write!(out, "{name}{suffix}")?;
                for (index, (label, value)) in labels.0.iter().enumerate() {
                    let open = if index == 0 { '{' } else { ',' };
                    write!(out, "{open}{label}=\"{}\"", escape(value))?;
                }
                let close = if labels.0.is_empty() { "" } else { "}" };
                writeln!(out, "{close} {value}")?;
            }
        }
        Ok(())
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
