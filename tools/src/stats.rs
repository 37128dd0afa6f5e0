//! `culvert stats`: the statistics dump tool.
//!
//! Reads the segment file and nothing else, so that it works while the daemon is wedged, and after
//! it died.

mod json;
mod openmetrics;
mod text;
mod wmi;

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use stats::{ReadError, Snapshot};

use crate::Failure;

/// Where the daemon keeps its segment unless its configuration says otherwise.
pub const DEFAULT_FILE: &str = "/run/culvert/stats";

/// Arguments of `culvert stats`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The statistics segment, as `gateway { statistics { file } }` names it
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    file: PathBuf,
    /// What to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Print again every so many seconds, until interrupted
    #[arg(long, value_name = "SECONDS", value_parser = interval)]
    watch: Option<Duration>,
    /// Print each worker's counters too
    #[arg(long)]
    per_worker: bool,
}

/// What `culvert stats` can print.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Tables for people, 80 columns wide
    Text,
    /// One JSON object, the rows under their machine names
    Json,
    /// OpenMetrics 1.0 text, as Prometheus scrapes it
    Openmetrics,
    /// The main mode structure `MSiSCSI_MMIPSECStats`: 21 little-endian u64, 168 bytes
    MmIpsecStats,
    /// The quick mode structure `MSiSCSI_QMIPSECStats`: 18 little-endian u64, 144 bytes
    QmIpsecStats,
}

/// How much detail to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Totals over the workers.
    Totals,
    /// Each worker's counters too.
    PerWorker,
}

/// Runs `culvert stats`.
///
/// # Errors
///
/// Where the segment cannot be read or the output not be written.
pub fn run(args: &Args) -> Result<(), Failure> {
    let detail = if args.per_worker { Detail::PerWorker } else { Detail::Totals };
    let stdout = io::stdout();
    let redraw = args.watch.is_some() && args.format == Format::Text && stdout.is_terminal();
    loop {
        let snapshot = read(&args.file)?;
        let mut out = BufWriter::new(stdout.lock());
        if redraw {
            // Cursor home, clear the screen.
            out.write_all(b"\x1b[H\x1b[2J")?;
        }
        write(&mut out, &snapshot, args.format, detail)?;
        out.flush()?;
        match args.watch {
            Some(interval) => thread::sleep(interval),
            None => return Ok(()),
        }
    }
}

/// Writes a snapshot in one of the formats.
///
/// # Errors
///
/// What `out` reports.
pub fn write(
    out: &mut impl Write,
    snapshot: &Snapshot,
    format: Format,
    detail: Detail,
) -> io::Result<()> {
    match format {
        Format::Text => text::write(out, snapshot, detail),
        Format::Json => json::write(out, snapshot, detail),
        Format::Openmetrics => openmetrics::write(out, snapshot, detail),
        Format::MmIpsecStats => out.write_all(&wmi::main_mode(snapshot)),
        Format::QmIpsecStats => out.write_all(&wmi::quick_mode(snapshot)),
    }
}

pub(crate) fn read(file: &Path) -> Result<Snapshot, Failure> {
    Snapshot::read(file).map_err(|error| {
        let failure = Failure::new(format_args!("{}: {error}", file.display()));
        match error {
            ReadError::Io(error) => match error.kind() {
                io::ErrorKind::NotFound => failure.next(
                    "start the gateway with `culvert run --config FILE`, \
                     or name the segment of its configuration with --file",
                ),
                io::ErrorKind::PermissionDenied => {
                    failure.next("run as root, or as a member of the file's group")
                }
                _ => failure,
            },
            ReadError::NotASegment => {
                failure.next("name the file of `gateway { statistics { file } }` with --file")
            }
            ReadError::Truncated | ReadError::Damaged(_) => {
                failure.next("restart the gateway, which makes a new segment")
            }
        }
    })
}

pub(crate) fn interval(argument: &str) -> Result<Duration, String> {
    argument
        .parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|interval| *interval >= Duration::from_millis(100))
        .ok_or_else(|| "give seconds, at least 0.1".to_owned())
}

#[cfg(test)]
mod docs_tests;
#[cfg(test)]
mod tests;
