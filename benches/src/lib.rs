//! The throughput program behind `culvert bench`: what one core of the gateway does with a packet, and what of it
//! is cipher, device and the rest.
//!
//! ```text
//!            untimed                       timed                        untimed
//!  rayon ─► frames ─► feed ─► │ receive ─► worker.turn() ─► sink │ ─► account balances
//!                             │                         └► wire  │ ─► every output opened and compared
//! ```
//!
//! | module | what |
//! |---|---|
//! | `plan` | what is to be measured |
//! | `traffic` | packets before the gateway and behind it, by number, so that none has to be remembered |
//! | `tunnels` | SAs, policies and routes of a gateway, and the packets to come |
//! | `gateway` | its workers over the in-memory device, fed and turned by hand |
//! | `ports` | its workers over AF_XDP ports, with a sender on another core |
//! | `load` | latency and loss of packets that arrive evenly, at a share of what the gateway takes |
//! | `alone` | the device without a gateway, and ciphers without a packet: ours, `ring`, `aws-lc-rs`, `aes-gcm` |
//! | `report` | points, figures, and what machine it was |
//!
//! A point whose outputs are wrong, or whose packets are not accounted for, is an error and never a figure. Keys are
//! made from numbers: nothing here protects anything.
#![forbid(unsafe_code)]

mod alone;
mod gateway;
mod load;
mod plan;
mod ports;
mod report;
mod traffic;
mod tunnels;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use alone::{Cipher, Device};
use gateway::Bed;
pub use plan::{
    Direction, MAX_PATH_BURST, MAX_SAS, Order, Plan, PortMode, PortsPlan, SIZES, Size, Suite,
};
use ports::Ports;
pub use ports::PortsError;
use report::Round;
pub use report::{
    Figure, Latency, Load, Machine, OverPorts, Path, Point, PortFacts, Quiet, Report,
};

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Packets went in, and are neither out nor among the drops.
    #[error("the accounting identity does not hold: {0}")]
    Account(String),
    /// A packet was not sent on.
    #[error("{sent} of {given} packets were sent; dropped: {drops}")]
    Lost {
        /// Packets given.
        given: u64,
        /// Packets sent.
        sent: u64,
        /// The causes, with how many.
        drops: String,
    },
    /// The parameters are out of bounds.
    #[error("{0}")]
    Plan(&'static str),
    /// The ports cannot be had, or carry nothing.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// The dataplane refuses a command.
    #[error("the dataplane refuses a command: {0}")]
    Refused(#[from] worker::Refusal),
    /// The system's.
    #[error(transparent)]
    System(#[from] std::io::Error),
    /// A packet came out that is not what it should be.
    #[error("packet {number} came out wrong: {what}")]
    Wrong {
        /// The packet, from 0.
        number: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// Measures everything that a plan names; `done` sees each point when it is.
///
/// The calling thread is pinned to the last core, and stays there.
///
/// # Errors
///
/// See [`Error`]. What was measured before is lost.
pub fn run(plan: &Plan, mut done: impl FnMut(&Point)) -> Result<Report, Error> {
    plan.check()?;
    // Threads inherit the cores of who starts them, so these come first.
    let _ = rayon::current_num_threads();
    let mut machine = Machine::read();
    let mut ports = plan.ports.as_ref().map(|ports| Ports::open(plan, ports)).transpose()?;
    // Over ports this thread is the sender, and the workers have the last cores.
    pin(if ports.is_some() { plan.workers } else { 0 });
    let mut points = Vec::new();
    for &size in &plan.sizes {
        for &direction in &plan.directions {
            for &burst in &plan.bursts {
                for &sas in &plan.sas {
                    let point = measure(plan, direction, size, burst, sas, ports.as_mut())?;
                    done(&point);
                    points.push(point);
                }
            }
        }
    }
    machine.load = report::load();
    let ports = ports.map(|ports| ports.facts());
    Ok(Report { machine, plan: plan.clone(), ports, points })
}

/// Pins this thread, so that the first worker has the last core: the first one serves interrupts.
pub fn pin(worker: usize) {
    // Asked once, before anything is pinned: a thread has no other cores than the one that began it, and so would all share one.
    static CORES: OnceLock<Vec<core_affinity::CoreId>> = OnceLock::new();
    let cores = CORES.get_or_init(|| core_affinity::get_core_ids().unwrap_or_default());
    if let Some(core) = cores.iter().rev().nth(worker) {
        // A core that is not ours to take only makes figures less quiet.
        core_affinity::set_for_current(*core);
    }
}

/// One point: its subjects take turns, so that what else the machine does meets all of them.
fn measure(
    plan: &Plan,
    direction: Direction,
    size: Size,
    burst: usize,
    sas: usize,
    ports: Option<&mut Ports>,
) -> Result<Point, Error> {
    let time = Duration::from_secs_f64(plan.seconds / f64::from(plan.repetitions));
    let aside = time / 4;
    let mut bed = if burst <= MAX_PATH_BURST && ports.is_none() {
        Some(Bed::new(plan, direction, size, burst, sas)?)
    } else {
        None
    };
    let mut device = Device::new(plan, direction, size, burst, false)?;
    let mut ciphered = Device::new(plan, direction, size, burst, true)?;
    let mut ciphers = Cipher::all(plan.suite, direction, size)?;
    let verified = match &mut bed {
        Some(bed) => bed.verify()?,
        None => 0,
    };
    let mut latency = report::histogram();
    let mut rounds = Vec::new();
    let mut aead: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for _ in 0..plan.repetitions {
        let mut engine = f64::NAN;
        for cipher in &mut ciphers {
            let sample = cipher.sample(burst, aside)?;
            if cipher.name() == alone::OURS {
                engine = sample;
            }
            aead.entry(cipher.name()).or_default().push(sample);
        }
        if let Some(bed) = &mut bed {
            rounds.push(Round {
                gateway: bed.sample(time, &mut latency)?,
                device: device.sample(aside, bed)?,
                device_and_cipher: ciphered.sample(aside, bed)?,
                engine,
            });
        }
    }
    let mut loads = Vec::new();
    if let Some(bed) = &mut bed {
        let gateway = Figure::of(rounds.iter().map(|round| round.gateway).collect()).median;
        for &percent in &plan.loads {
            loads.push(load::measure(bed, burst, percent, gateway, time)?);
        }
    }
    // What was right at the beginning is right at the end: windows and counters are far on.
    let verified = verified + bed.as_mut().map_or(Ok(0), Bed::verify)?;
    let figures: BTreeMap<_, _> = aead.into_iter().map(|(n, v)| (n, Figure::of(v))).collect();
    let path = bed
        .is_some()
        .then(|| Path::new(&rounds, size, plan.workers, verified, Latency::of(&latency), loads));
    let over_ports = match (ports, figures.get(alone::OURS)) {
        (Some(ports), Some(ours)) => {
            Some(ports.measure(plan, direction, size, sas, ours.median)?)
        }
        _ => None,
    };
    let workers = plan.workers;
    Ok(Point { direction, size, burst, sas, workers, path, over_ports, aead: figures })
}
