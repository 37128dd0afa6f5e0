//! A worker's turns while SAs are added, replaced and deleted under its traffic: how long they take, and that no packet is lost.

mod bed;

use bed::{BURST, Bed, Result, Turn};
use hdrhistogram::Histogram;
use std::time::Instant;
use worker::Limits;

/// Turns of one row before the next one has its: two milliseconds, so that whatever else the machine does meets all rows.
const ROUND: u32 = 200;

/// Rounds that are compared with each other: five thousand turns, of which five are in the last thousandth.
const GROUP: u32 = 25;

/// What happens beside the traffic: a tunnel is replaced every so many turns (SPI, inbound, outbound, binding, and the old one's
/// delete) when the one before is done, or never.
const ROWS: [(&str, Option<u32>); 4] = [
    ("nothing", None),
    ("one in 100 turns", Some(100)),
    ("one in 10", Some(10)),
    ("as many as it takes", Some(1)),
];

/// Turns of one kind.
struct Sample {
    /// Cycles of the turns in which the processor was not taken away.
    cycles: Histogram<u64>,
    preempted: u64,
    faults: i64,
    replaced: u32,
    /// Of `cycles`.
    sum: u64,
    most_commands: usize,
}

impl Sample {
    fn new() -> Result<Self> {
        Ok(Self {
            cycles: Histogram::new(3)?,
            preempted: 0,
            faults: 0,
            replaced: 0,
            sum: 0,
            most_commands: 0,
        })
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        self.cycles.add(&other.cycles)?;
        self.preempted += other.preempted;
        self.faults += other.faults;
        self.replaced += other.replaced;
        self.sum += other.sum;
        self.most_commands = self.most_commands.max(other.most_commands);
        Ok(())
    }

    fn worst(&self) -> f64 {
        self.cycles.value_at_quantile(0.999) as f64
    }
}

/// The tables of turns and commands, by how many tunnels there are. `most` is how many at most; with `worst`, turns that took longer than
/// that are told one by one.
pub(crate) fn run(quick: bool, most: u32, worst: Option<u64>) {
    println!(
        "| tunnels | replaced | turns | a second | commands a turn, at most | faults | preempted | median | 99 % | 99.9 % | of that without |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let mut commands = Vec::new();
    for tunnels in [1, 1_000, 100_000, 1_000_000] {
        if tunnels > most {
            continue;
        }
        match rows(quick, tunnels, worst) {
            Ok(row) => commands.push(row),
            Err(error) => {
                println!("no figures for {tunnels}: {error}");
                std::process::exit(1);
            }
        }
    }
    println!(
        "\nevery packet given was sent; at most {} commands a turn\n",
        Limits::default().commands_per_turn
    );
    println!("| tunnels | {} | all installed in |", bed::STEPS.join(" | "));
    println!("|---{}|---|", "|---".repeat(bed::STEPS.len()));
    commands.iter().for_each(|row| println!("{row}"));
}

/// Rows take turns, so that a disturbance of the machine meets all of them.
fn rows(quick: bool, tunnels: u32, worst: Option<u64>) -> Result<String> {
    let begun = Instant::now();
    let mut bed = Bed::new(tunnels)?;
    let installed = begun.elapsed().as_secs_f64();
    let (cycles, begun) = (stats::cycles(), Instant::now());
    let mut groups: Vec<Vec<Sample>> = Vec::new();
    // Every tunnel has had a packet: nothing is touched for the first time.
    turns(&mut bed, 1000 + tunnels / BURST as u32, None, None, &mut Sample::new()?)?;
    for _ in 0..if quick { 5 } else { 20 } {
        let mut group = ROWS.iter().map(|_| Sample::new()).collect::<Result<Vec<_>>>()?;
        for _ in 0..GROUP {
            for ((_, every), sample) in ROWS.iter().zip(&mut group) {
                turns(&mut bed, ROUND, *every, worst, sample)?;
            }
        }
        groups.push(group);
    }
    bed.check()?;
    let hertz = stats::cycles().wrapping_sub(cycles) as f64 / begun.elapsed().as_secs_f64();
    for (at, (name, _)) in ROWS.iter().enumerate() {
        let mut sum = Sample::new()?;
        groups.iter().try_for_each(|group| sum.add(&group[at]))?;
        let mut ratios: Vec<f64> =
            groups.iter().map(|group| group[at].worst() / group[0].worst()).collect();
        ratios.sort_by(f64::total_cmp);
        let q = |q| sum.cycles.value_at_quantile(q);
        println!(
            "| {tunnels} | {name} | {} | {:.0} | {} | {} | {} | {} | {} | {} | {:.2} ({:.2}) |",
            sum.cycles.len(),
            f64::from(sum.replaced) * hertz / sum.sum as f64,
            sum.most_commands,
            sum.faults,
            sum.preempted,
            q(0.5),
            q(0.99),
            q(0.999),
            ratios[ratios.len() / 2],
            ratios[0],
        );
    }
    let steps = bed.steps(if quick { 500 } else { 5000 })?;
    let cells: Vec<_> = steps
        .iter()
        .map(|s| format!("{} ({})", s.value_at_quantile(0.5), s.value_at_quantile(0.99)))
        .collect();
    Ok(format!("| {tunnels} | {} | {installed:.1} s |", cells.join(" | ")))
}

/// So many turns, with a tunnel replaced every so many of them.
fn turns(
    bed: &mut Bed,
    turns: u32,
    every: Option<u32>,
    worst: Option<u64>,
    sample: &mut Sample,
) -> Result<()> {
    // What the rows before have left over.
    while !bed.is_settled() {
        bed.turn()?;
    }
    for turn in 0..turns {
        if every.is_some_and(|every| turn % every == 0) && bed.is_settled() {
            bed.replace_next()?;
            sample.replaced += 1;
        }
        bed.feed();
        let took = bed.turn()?;
        let Turn { cycles, packets, commands, faults, preempted } = took;
        if packets != BURST {
            return Err(format!("a turn took {packets} packets").into());
        }
        if worst.is_some_and(|worst| cycles > worst) {
            println!("{every:?} {turn} {took:?}");
        }
        sample.faults += faults;
        sample.most_commands = sample.most_commands.max(commands);
        if preempted {
            sample.preempted += 1;
        } else {
            sample.cycles.record(cycles)?;
            sample.sum += cycles;
        }
    }
    Ok(())
}
