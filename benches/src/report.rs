//! Points, figures, and what machine it was.

use std::collections::BTreeMap;
use std::fs;

use hdrhistogram::Histogram;
use ipsec::aead::Engine;
use serde::Serialize;

use crate::plan::{Direction, Plan, Size};

/// A run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// What was asked for.
    pub plan: Plan,
    /// The ports, if it was measured over ports.
    pub ports: Option<PortFacts>,
    /// What was found.
    pub points: Vec<Point>,
}

/// What was measured under one set of parameters.
#[derive(Debug, Serialize)]
pub struct Point {
    /// Which way.
    pub direction: Direction,
    /// Inner IP length, in bytes.
    pub size: Size,
    /// Packets a burst.
    pub burst: usize,
    /// SAs of each worker.
    pub sas: usize,
    /// Threads.
    pub workers: usize,
    /// The gateway; none where the burst is longer than a worker takes.
    pub path: Option<Path>,
    /// The gateway over AF_XDP ports, instead of the in-memory device.
    pub over_ports: Option<OverPorts>,
    /// The AEAD alone on the same length, nanoseconds a packet, by who does it; ours in bursts, the libraries a packet
    /// at a time, one key.
    pub aead: BTreeMap<&'static str, Figure>,
}

/// The whole path.
#[derive(Debug, Serialize)]
pub struct Path {
    /// Nanoseconds a packet, the in-memory device included; of all workers together.
    pub gateway: Figure,
    /// The device alone: the same frames from source to sink without a gateway.
    pub device: Figure,
    /// The device with the cipher, and no gateway around it.
    pub device_and_cipher: Figure,
    /// What one worker takes, less the device: the median of what repetitions differ by, as are the two below.
    pub net: f64,
    /// And less the bare engine: everything that is neither device nor cipher.
    pub around: f64,
    /// What one worker takes, less the device with the cipher: the same as `around`, with the cipher on frames of the device instead of on
    /// some that the nearest cache holds.
    pub rest: f64,
    /// The same when the machine is let alone, of twenty repetitions and more.
    pub quiet: Option<Quiet>,
    /// Million packets a second, the device included.
    pub mpps: f64,
    /// Gigabits a second of inner IP, the device included.
    pub gbit: f64,
    /// Outputs that were opened and compared.
    pub verified: u64,
    /// Of the turns that took a burst.
    pub turn_ns: Latency,
    /// Latency and loss under chosen loads.
    pub loads: Vec<Load>,
}

/// What a machine that others share takes in its quiet moments: lower deciles, a tenth of the repetitions being below, and what those differ by.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quiet {
    /// See [`Path::gateway`].
    pub gateway: f64,
    /// See [`Path::device`].
    pub device: f64,
    /// See [`Path::device_and_cipher`].
    pub device_and_cipher: f64,
    /// See [`Path::net`].
    pub net: f64,
    /// See [`Path::around`].
    pub around: f64,
    /// See [`Path::rest`].
    pub rest: f64,
}

impl Quiet {
    /// Repetitions of which it says something.
    const ENOUGH: usize = 20;

    fn of(rounds: &[Round], workers: usize) -> Option<Self> {
        let low = |what: &dyn Fn(&Round) -> f64| {
            let mut samples: Vec<f64> = rounds.iter().map(what).collect();
            samples.sort_by(f64::total_cmp);
            samples.get(samples.len() / 10).copied().filter(|_| samples.len() >= Self::ENOUGH)
        };
        let gateway = low(&|round| round.gateway)?;
        let (device, engine) = (low(&|round| round.device)?, low(&|round| round.engine)?);
        let device_and_cipher = low(&|round| round.device_and_cipher)?;
        let one = gateway * workers as f64;
        let (net, rest) = (one - device, one - device_and_cipher);
        Some(Self { gateway, device, device_and_cipher, net, around: net - engine, rest })
    }
}

/// Which ports, and how packets go.
#[derive(Clone, Debug, Serialize)]
pub struct PortFacts {
    /// The sender's interface.
    pub sender: String,
    /// Zero copy, or who copies.
    pub sender_mode: &'static str,
    /// The gateway's interface.
    pub gateway: String,
    /// Zero copy, or who copies.
    pub gateway_mode: &'static str,
}

/// The whole path from port to port.
#[derive(Debug, Serialize)]
pub struct OverPorts {
    /// Busy nanoseconds a packet, from a receive ring that is not empty to the transmit ring and the call that sends; of all
    /// workers together.
    pub busy: Figure,
    /// The same of a forwarder that changes Ethernet addresses and nothing else.
    pub forwarder: Figure,
    /// The gateway's to the sum of the forwarder's and the bare engine's.
    pub to_parts: f64,
    /// Million packets a second that come back while the sender keeps a window under way.
    pub mpps: f64,
    /// Gigabits a second of inner IP at that rate.
    pub gbit: f64,
    /// What the forwarder reaches in the same way.
    pub forwarder_mpps: f64,
    /// Packets that a turn took at that rate: near 32 the worker is what limits, well below it is the sender.
    pub packets_a_turn: f64,
    /// Packets sent to the gateway for these figures.
    pub given: u64,
    /// Of these, packets that did not come back.
    pub lost: u64,
    /// Outputs that were opened and compared.
    pub verified: u64,
    /// Latency and loss under chosen loads.
    pub loads: Vec<Load>,
}

/// What packets meet that arrive evenly, at a share of what the gateway takes.
#[derive(Debug, Serialize)]
pub struct Load {
    /// Percent of what the gateway takes when packets wait for it.
    pub percent: u32,
    /// Million packets a second that arrive.
    pub mpps: f64,
    /// Packets that arrived.
    pub offered: u64,
    /// Packets that found the receive ring full.
    pub lost: u64,
    /// From arrival until the worker has sent the packet's burst; over ports, from when it was due to be sent until it is back at the
    /// sender. In nanoseconds.
    pub latency_ns: Latency,
}

/// What the subjects of one repetition took, in nanoseconds a packet.
#[derive(Clone, Copy)]
pub(crate) struct Round {
    pub(crate) gateway: f64,
    pub(crate) device: f64,
    pub(crate) device_and_cipher: f64,
    pub(crate) engine: f64,
}

impl Path {
    pub(crate) fn new(
        rounds: &[Round],
        size: Size,
        workers: usize,
        verified: u64,
        turn_ns: Latency,
        loads: Vec<Load>,
    ) -> Self {
        let of = |what: &dyn Fn(&Round) -> f64| Figure::of(rounds.iter().map(what).collect());
        let one = |round: &Round| round.gateway * workers as f64;
        let gateway = of(&|round| round.gateway);
        Self {
            gateway,
            device: of(&|round| round.device),
            device_and_cipher: of(&|round| round.device_and_cipher),
            net: of(&|round| one(round) - round.device).median,
            around: of(&|round| one(round) - round.device - round.engine).median,
            rest: of(&|round| one(round) - round.device_and_cipher).median,
            quiet: Quiet::of(rounds, workers),
            mpps: 1e3 / gateway.median,
            gbit: 8.0 * size.mean() / gateway.median,
            verified,
            turn_ns,
            loads,
        }
    }
}

/// Repetitions in three numbers.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figure {
    /// Half of them are below.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Figure {
    /// Of at least one sample.
    pub(crate) fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |i: usize| samples.get(i).copied().unwrap_or(f64::NAN);
        Self { median: at(samples.len() / 2), min: at(0), max: at(samples.len().saturating_sub(1)) }
    }
}

/// The median of blocks, each of some ten microseconds, so that what else runs on the core shows little.
pub(crate) fn median(mut blocks: Vec<f64>) -> f64 {
    blocks.sort_by(f64::total_cmp);
    blocks.get(blocks.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Quantiles, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "quantiles say what they are")]
pub struct Latency {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max() }
    }
}

/// Up to a minute with three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "the bounds are constants that hdrhistogram takes")]
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds")
}

/// What the figures hang on.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// As /proc/cpuinfo says.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// The AES-GCM engine that was chosen.
    pub engine: &'static str,
    /// Processes that wanted a core in the last minute, at the end of the run: what disturbed it.
    pub load: String,
}

impl Machine {
    pub(crate) fn read() -> Self {
        let file = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu = file("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
        Self {
            cpu: cpu.map_or("unknown", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            engine: Engine::best().name(),
            load: load(),
        }
    }
}

pub(crate) fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_is_the_lower_decile_of_twenty_samples() {
        let round = |n: u32| Round {
            gateway: f64::from(100 + n),
            device: f64::from(39 - n),
            device_and_cipher: f64::from(50 + 2 * n),
            engine: 7.0,
        };
        let rounds: Vec<Round> = (0..20).map(round).collect();
        let quiet = Quiet::of(&rounds, 1).unwrap();
        let of = (quiet.gateway, quiet.device, quiet.device_and_cipher);
        assert_eq!(of, (102.0, 22.0, 54.0));
        assert_eq!((quiet.net, quiet.around, quiet.rest), (80.0, 73.0, 48.0));
        let two = Quiet::of(&rounds, 2).unwrap();
        assert_eq!((two.gateway, two.net), (102.0, 182.0), "what one worker takes");
        assert!(Quiet::of(&rounds[..19], 1).is_none());
    }
}
