//! `culvert demo`: two gateways in one process, over the in-memory device.
//!
//! ```text
//!   host 10.1.0.10 ══ west ═══ wire ═══ east ══ host 10.2.0.10
//!                     └──── IKE ────────┘
//! ```
//!
//! The gateways are those of `culvert run` without its sockets: the same engine, workers and
//! statistics. They negotiate, carry traffic both ways, rekey once on the way, and every packet
//! is accounted for at the end.

mod site;
mod traffic;

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ike::Command;
use ike::event::{ChildTarget, Failure as IkeFailure, Origin, Outcome};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use stats::{QuickMode, Snapshot, Worker};

use crate::{Failure, stats as dump};
use site::Site;
use traffic::{Host, MIX, Received};

/// Packets of one direction on the way at a time: some bursts for every queue there is.
const WINDOW: u64 = 512;

/// When the Child SA is rekeyed: early, for the old one is kept a few seconds longer for packets on
/// their way, and the tables shall show its end.
const REKEY_AFTER: Duration = Duration::from_secs(1);

/// Arguments of `culvert demo`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// How long to pass traffic
    #[arg(long, value_name = "SECONDS", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// What the run showed.
struct Figures {
    setup: Duration,
    elapsed: Duration,
    /// West to east, east to west.
    ways: [Received; 2],
    sent: [u64; 2],
    latency: Histogram<u64>,
    /// Nanoseconds of a worker's busy time per packet that it sealed or opened.
    ns_per_packet: f64,
}

/// Runs `culvert demo`.
///
/// # Errors
///
/// Where the two gateways do not come to terms, a packet is lost or not accounted for, or the
/// output cannot be written.
pub fn run(args: &Args) -> Result<(), Failure> {
    let system = |error: io::Error| Failure::new(format_args!("demo: {error}"));
    let (mut west, mut east, hosts) = site::pair().map_err(system)?;
    let [mut left, mut right] = hosts;

    let start = Instant::now();
    negotiate(&mut west, &mut east)?;
    let setup = start.elapsed();

    let progress = progress(args);
    let duration = Duration::from_secs(args.seconds);
    let mut latency = Histogram::new(3).map_err(Failure::new)?;
    let mut rekeyed = false;
    let begin = Instant::now();
    let first_cycle = stats::cycles();
    let mut shown = begin;
    loop {
        let now = Instant::now();
        let elapsed = now - begin;
        if elapsed >= duration {
            break;
        }
        if !rekeyed && elapsed >= REKEY_AFTER.min(duration / 2) {
            rekeyed = true;
            rekey(&mut west, now)?;
        }
        left.send(begin, right.received(), WINDOW);
        right.send(begin, left.received(), WINDOW);
        left.receive(begin, &mut latency);
        right.receive(begin, &mut latency);
        if now - shown >= Duration::from_millis(100) {
            site::exchange(&mut west, &mut east, now);
            progress.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
            progress.set_message(rate(&left, &right, elapsed));
            shown = now;
        }
    }
    let elapsed = begin.elapsed();
    let cycles = stats::cycles().wrapping_sub(first_cycle);
    // What is still on the way arrives.
    let patience = Instant::now() + Duration::from_secs(2);
    while (left.received() < right.sent() || right.received() < left.sent())
        && Instant::now() < patience
    {
        site::exchange(&mut west, &mut east, Instant::now());
        left.receive(begin, &mut latency);
        right.receive(begin, &mut latency);
        left.complete();
        right.complete();
    }
    progress.finish_and_clear();

    let sent = [left.sent(), right.sent()];
    let ways = [right.into_result(), left.into_result()];
    let rekey = west.finished();
    site::settle(&mut west, &mut east);
    let snapshots = [west.end().map_err(Failure::new)?, east.end().map_err(Failure::new)?];
    let ns_per_packet = ns_per_packet(&snapshots, cycles as f64 / elapsed.as_nanos() as f64);
    let figures = Figures { setup, elapsed, ways, sent, latency, ns_per_packet };
    if args.json {
        json(&figures, &snapshots)?;
    } else {
        text(&figures, &snapshots)?;
    }
    verdict(&figures, &snapshots, &rekey)
}

fn negotiate(west: &mut Site, east: &mut Site) -> Result<(), Failure> {
    let command = Command::InitiateChild {
        connection: Some("demo".to_owned()),
        child: "net".to_owned(),
        origin: Origin::Initiate,
    };
    west.gateway.handle_command(Instant::now(), command).map_err(Failure::new)?;
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        site::exchange(west, east, Instant::now());
        match west.finished().first() {
            Some(Ok(_)) if east.is_up() => return Ok(()),
            Some(Err(failure)) => return Err(Failure::new(format_args!("demo: IKE: {failure}"))),
            _ => std::thread::sleep(Duration::from_micros(200)),
        }
    }
    Err(Failure::new("demo: the gateways did not come to terms within 10 seconds"))
}

fn rekey(west: &mut Site, now: Instant) -> Result<(), Failure> {
    let target = ChildTarget::Named { connection: None, child: "net".to_owned() };
    west.gateway.handle_command(now, Command::RekeyChild(target)).map_err(Failure::new)?;
    Ok(())
}

fn progress(args: &Args) -> ProgressBar {
    let bar = ProgressBar::new(args.seconds * 1000);
    if args.json || !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("passing traffic {bar:30} {msg}") {
        bar.set_style(style);
    }
    bar
}

fn rate(left: &Host, right: &Host, elapsed: Duration) -> String {
    let packets = left.received() + right.received();
    let bytes = left.bytes() + right.bytes();
    let seconds = elapsed.as_secs_f64();
    format!(
        "{:.2} Mpps  {:.2} Gbit/s",
        packets as f64 / seconds / 1e6,
        bytes as f64 * 8.0 / seconds / 1e9
    )
}

/// Busy time of the workers over what they sealed and opened; `rate` is cycles a nanosecond.
fn ns_per_packet(snapshots: &[Snapshot; 2], rate: f64) -> f64 {
    let (mut busy, mut packets) = (0, 0);
    for worker in snapshots.iter().flat_map(Snapshot::workers) {
        busy += worker.get(Worker::BusyCycles);
        packets += worker.get(Worker::SealedPackets) + worker.get(Worker::OpenedPackets);
    }
    busy as f64 / rate / packets.max(1) as f64
}

const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

fn text(figures: &Figures, snapshots: &[Snapshot; 2]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let seconds = figures.elapsed.as_secs_f64();
    let packets: u64 = figures.ways.iter().map(|way| way.packets).sum();
    let bytes: u64 = figures.ways.iter().map(|way| way.bytes).sum();
    let mix: Vec<_> = MIX.iter().map(|(size, share)| format!("{share} x {size} B")).collect();
    writeln!(out, "Two gateways, one worker each, AES-128-GCM tunnel, in-memory device")?;
    writeln!(out, "  traffic       both ways, {} (IP length), {seconds:.1} s", mix.join(", "))?;
    writeln!(out, "  IKE set-up    {:.1} ms", figures.setup.as_secs_f64() * 1e3)?;
    writeln!(out, "  packets/s     {:.0}", packets as f64 / seconds)?;
    writeln!(out, "  Gbit/s        {:.3} (inner IP)", bytes as f64 * 8.0 / seconds / 1e9)?;
    writeln!(
        out,
        "  ns/packet     {:.0} (a worker's busy time per ESP packet)",
        figures.ns_per_packet
    )?;
    write!(out, "  latency us   ")?;
    for (name, quantile) in QUANTILES {
        write!(out, " {name} {:.0}", figures.latency.value_at_quantile(quantile) as f64 / 1e3)?;
    }
    writeln!(out, " (host to host, {WINDOW} packets on the way)")?;
    for (n, name) in ["west to east", "east to west"].into_iter().enumerate() {
        let way = &figures.ways[n];
        writeln!(
            out,
            "  {name}  {} sent, {} received, {} twice, {} wrong",
            figures.sent[n], way.packets, way.duplicates, way.wrong
        )?;
    }
    for (name, snapshot) in ["west", "east"].into_iter().zip(snapshots) {
        writeln!(out, "\n=== gateway {name} {}", "=".repeat(80 - 13 - name.len()))?;
        dump::write(&mut out, snapshot, dump::Format::Text, dump::Detail::Totals)?;
    }
    Ok(())
}

fn json(figures: &Figures, snapshots: &[Snapshot; 2]) -> Result<(), Failure> {
    let seconds = figures.elapsed.as_secs_f64();
    let packets: u64 = figures.ways.iter().map(|way| way.packets).sum();
    let bytes: u64 = figures.ways.iter().map(|way| way.bytes).sum();
    let latency: serde_json::Map<_, _> = QUANTILES
        .into_iter()
        .map(|(name, q)| (name.to_owned(), figures.latency.value_at_quantile(q).into()))
        .collect();
    let table = |snapshot: &Snapshot| -> Result<serde_json::Value, Failure> {
        let mut text = Vec::new();
        dump::write(&mut text, snapshot, dump::Format::Json, dump::Detail::PerWorker)?;
        serde_json::from_slice(&text).map_err(Failure::new)
    };
    let way = |n: usize| {
        let way = &figures.ways[n];
        serde_json::json!({
            "sent": figures.sent[n],
            "received": way.packets,
            "duplicates": way.duplicates,
            "wrong": way.wrong,
        })
    };
    let object = serde_json::json!({
        "setup_ms": figures.setup.as_secs_f64() * 1e3,
        "seconds": seconds,
        "packets_per_second": packets as f64 / seconds,
        "gbit_per_second": bytes as f64 * 8.0 / seconds / 1e9,
        "ns_per_packet": figures.ns_per_packet,
        "latency_ns": latency,
        "west_to_east": way(0),
        "east_to_west": way(1),
        "west": table(&snapshots[0])?,
        "east": table(&snapshots[1])?,
    });
    writeln!(io::stdout(), "{object}")?;
    Ok(())
}

/// A demo that loses packets or cannot account for them has failed, however fast it was.
fn verdict(
    figures: &Figures,
    snapshots: &[Snapshot; 2],
    rekey: &[Result<Outcome, IkeFailure>],
) -> Result<(), Failure> {
    for (n, way) in figures.ways.iter().enumerate() {
        if way.packets != figures.sent[n] || way.duplicates != 0 || way.wrong != 0 {
            return Err(Failure::new(format_args!(
                "demo: {} of {} packets arrived, {} twice, {} wrong",
                way.packets, figures.sent[n], way.duplicates, way.wrong
            )));
        }
    }
    for snapshot in snapshots {
        if let Some(worker) = snapshot.workers().find(|w| !w.accounting().holds()) {
            return Err(Failure::new(format_args!(
                "demo: packets are not accounted for: {:?}",
                worker.accounting()
            )));
        }
        if snapshot.quick_mode(QuickMode::Rekeys) != 1 {
            return Err(Failure::new(format_args!("demo: the rekey failed: {rekey:?}")));
        }
    }
    Ok(())
}
