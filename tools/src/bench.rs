//! `culvert bench`: how many packets a worker moves, and how long it takes for one.
//!
//! One process: workers are fed over the in-memory device, which needs no root and no network, or over AF_XDP ports.
//! docs/benchmarking.md says what is measured, and how to repeat its figures.

use std::io::{self, IsTerminal, Write};

use benches::{
    Direction, Latency, Machine, Order, Plan, Point, PortFacts, PortMode, PortsPlan, Report, Size,
    Suite,
};
use clap::ValueEnum;

use crate::Failure;

const EXAMPLES: &str = "\
Examples:
  culvert bench                                     both ways, 64, 512, 1420 bytes
  culvert bench --sizes imix --suite aes256gcm16 --esn --window 4096
  culvert bench --sizes 64 --bursts 1,2,4,8,16,32   what short bursts cost
  culvert bench --sizes 64 --sas 1,1000,100000      what many SAs cost
  culvert bench --sas 1000 --workers 2              and --handoff 50
  culvert bench --sizes 64 --loads 50,80,95         latency and loss under load
  culvert bench --interface va,vb                   over AF_XDP; needs root";

/// Arguments of `culvert bench`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Inner IP lengths in bytes, 40 to 1438, or imix: 7 x 64, 4 x 576, 1 x 1420
    #[arg(long, value_name = "BYTES,…", value_delimiter = ',', default_values = ["64", "512", "1420"])]
    sizes: Vec<Size>,
    /// Which way packets go
    #[arg(long, value_enum, default_value_t = DirectionArg::Both)]
    direction: DirectionArg,
    /// Transform of the SAs
    #[arg(long, value_enum, default_value_t = SuiteArg::Aes128gcm16)]
    suite: SuiteArg,
    /// Packets a burst, 1 to 256; beyond 32, which is what a worker takes, only the bare AEAD
    #[arg(long, value_name = "PACKETS,…", value_delimiter = ',', default_values_t = [32])]
    bursts: Vec<usize>,
    /// SAs of each worker, 1 to 1000000, each with its own policy
    #[arg(long, value_name = "COUNT,…", value_delimiter = ',', default_values_t = [1])]
    sas: Vec<usize>,
    /// Order in which packets meet the SAs
    #[arg(long, value_enum, default_value_t = OrderArg::Random)]
    order: OrderArg,
    /// Policies beside those of the SAs, which no packet matches, up to 1000000
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    policies: usize,
    /// Threads, each with its own SAs, 1 to 64
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Of a hundred packets, those that come to a worker whose SA is another's
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    handoff: u32,
    /// Measure latency and loss under these loads, in percent of what the gateway takes; over
    /// ports 50,90 unless said otherwise
    #[arg(long, value_name = "PERCENT,…", value_delimiter = ',')]
    loads: Vec<u32>,
    /// Measure over AF_XDP ports instead of memory; needs root
    ///
    /// Two interfaces that are cabled to one another, or the ends of a veth
    /// pair: the first one sends and takes back, on the second one is the
    /// gateway, which receives and sends by it. Or one end of a veth pair,
    /// whose other end then sends. Both lie in this network namespace; they
    /// need no addresses, and nothing else should use them. Only the bench's
    /// own packets (10.0.0.0/24, 11.0.0.0/8, ESP of 192.0.2.1 and 192.0.2.2)
    /// are taken from the kernel. Each receive queue of the gateway's
    /// interface needs a worker. The programs are detached when the bench
    /// ends, however it does.
    #[arg(long, value_name = "SENDER,GATEWAY", value_delimiter = ',', verbatim_doc_comment)]
    interface: Vec<String>,
    /// Which way packets take between an interface and memory
    #[arg(long, value_enum, default_value_t = ModeArg::Auto, requires = "interface")]
    xdp_mode: ModeArg,
    /// 64-bit sequence numbers
    #[arg(long)]
    esn: bool,
    /// Replay window in packets
    #[arg(long, value_name = "PACKETS", default_value_t = 1024)]
    window: u32,
    /// Samples a point
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    repetitions: u32,
    /// Timed seconds a point; what is measured beside it takes a quarter of that each
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Frames of a pass, 256 to 32768
    #[arg(long, value_name = "COUNT", default_value_t = 8192)]
    frames: usize,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// The names that swanctl.conf has.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SuiteArg {
    Aes128gcm16,
    Aes192gcm16,
    Aes256gcm16,
}

/// The names that `gateway { ports }` has.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArg {
    /// The best that works
    Auto,
    /// The device reads and writes packet memory
    Zerocopy,
    /// The kernel copies, the program runs in the driver
    Copy,
    /// The kernel copies, the program runs in the stack
    Generic,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DirectionArg {
    Both,
    In,
    Out,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OrderArg {
    Sequential,
    Random,
}

impl Args {
    fn plan(&self) -> Plan {
        Plan {
            directions: match self.direction {
                DirectionArg::Both => Direction::ALL.to_vec(),
                DirectionArg::In => vec![Direction::In],
                DirectionArg::Out => vec![Direction::Out],
            },
            sizes: self.sizes.clone(),
            suite: match self.suite {
                SuiteArg::Aes128gcm16 => Suite::Aes128Gcm16,
                SuiteArg::Aes192gcm16 => Suite::Aes192Gcm16,
                SuiteArg::Aes256gcm16 => Suite::Aes256Gcm16,
            },
            bursts: self.bursts.clone(),
            sas: self.sas.clone(),
            policies: self.policies,
            order: match self.order {
                OrderArg::Sequential => Order::Sequential,
                OrderArg::Random => Order::Random,
            },
            workers: self.workers,
            esn: self.esn,
            window: self.window,
            repetitions: self.repetitions,
            seconds: self.seconds,
            frames: self.frames,
            loads: match (self.loads.is_empty(), self.interface.is_empty(), self.workers) {
                (true, false, 1) => vec![50, 90],
                _ => self.loads.clone(),
            },
            handoff: self.handoff,
            ports: (!self.interface.is_empty()).then(|| PortsPlan {
                interfaces: self.interface.clone(),
                mode: match self.xdp_mode {
                    ModeArg::Auto => PortMode::Auto,
                    ModeArg::Zerocopy => PortMode::Zerocopy,
                    ModeArg::Copy => PortMode::Copy,
                    ModeArg::Generic => PortMode::Generic,
                },
            }),
        }
    }
}

/// Runs `culvert bench`.
///
/// # Errors
///
/// Where parameters are out of bounds, an output is wrong, a packet is not accounted for, or the output cannot be
/// written.
pub fn run(args: &Args) -> Result<(), Failure> {
    let plan = args.plan();
    let watched = !args.json && io::stderr().is_terminal();
    let report = benches::run(&plan, |point| {
        if watched {
            // Nothing is lost with a line of progress.
            let _ = writeln!(io::stderr(), "{}", progress(point));
        }
    })
    .map_err(|error| Failure::new(format_args!("bench: {error}")))?;
    let mut out = io::stdout().lock();
    if args.json {
        let object = serde_json::to_string(&report).map_err(Failure::new)?;
        writeln!(out, "{object}")?;
    } else {
        text(&mut out, &report)?;
    }
    Ok(())
}

fn progress(point: &Point) -> String {
    let Point { direction, size, burst, sas, .. } = point;
    let memory = point.path.as_ref().map(|path| path.gateway.median);
    let ports = point.over_ports.as_ref().map(|path| path.busy.median);
    let ns = memory.or(ports).unwrap_or(f64::NAN);
    format!("{} {size} B, burst {burst}, {sas} SAs: {ns:.1} ns", direction.name())
}

/// Tables in 80 columns.
fn text(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let Report { machine, plan, ports, points } = report;
    let Machine { cpu, cores, kernel, engine, load } = machine;
    writeln!(out, "{cpu}, {cores} cores, Linux {kernel}, load {load}")?;
    writeln!(
        out,
        "{} tunnel, window {}{}, engine {engine}, {} worker{}, SAs in {} order",
        plan.suite.name(),
        plan.window,
        if plan.esn { ", ESN" } else { "" },
        plan.workers,
        if plan.workers == 1 { "" } else { "s" },
        match plan.order {
            Order::Sequential => "sequential",
            Order::Random => "random",
        },
    )?;
    writeln!(
        out,
        "Median of {} samples, least and greatest; every output of two passes of {}\nframes opened and compared",
        plan.repetitions, plan.frames
    )?;
    if let Some(ports) = ports {
        let PortFacts { sender, sender_mode, gateway, gateway_mode } = ports;
        writeln!(out, "Sender {sender}: {sender_mode}; gateway {gateway}: {gateway_mode}")?;
        for &direction in &plan.directions {
            over_ports(out, points, direction)?;
        }
        writeln!(
            out,
            "busy: from a receive ring that is not empty to the call that sends; ratio: to\n\
             forwarder and engine together; Mpps, Gbit/s: inner packets that come back\n\
             with 1024 under way; burst: packets a turn at that rate, 32 when the\n\
             gateway is what limits"
        )?;
    } else {
        for &direction in &plan.directions {
            path(out, points, direction)?;
        }
        turns(out, points)?;
    }
    if !plan.loads.is_empty() {
        loads(out, points, ports.is_some())?;
    }
    aead(out, points)
}

fn heading(direction: Direction) -> &'static str {
    match direction {
        Direction::Out => "Outbound: SPD, SAD, headers, seal, routes, counters",
        Direction::In => "Inbound: SAD, window, open, selectors, SPD, routes, counters",
    }
}

fn over_ports(out: &mut impl Write, points: &[Point], direction: Direction) -> io::Result<()> {
    writeln!(out, "\n{}; busy ns a packet", heading(direction))?;
    writeln!(
        out,
        " size     SAs    busy  least..greatest forward engine ratio   Mpps Gbit/s burst lost"
    )?;
    for point in points.iter().filter(|p| p.direction == direction) {
        let Some(path) = &point.over_ports else { continue };
        let spread = format!("{:.0}..{:.0}", path.busy.min, path.busy.max);
        let engine = point.aead.get("culvert").map_or(f64::NAN, |figure| figure.median);
        writeln!(
            out,
            "{:>5}{:8}{:8.0} {spread:>16}{:8.0}{engine:7.0}{:6.2}{:7.3}{:7.2}{:6.1}{:5}",
            point.size,
            point.sas,
            path.busy.median,
            path.forwarder.median,
            path.to_parts,
            path.mpps,
            path.gbit,
            path.packets_a_turn,
            path.lost,
        )?;
    }
    Ok(())
}

fn path(out: &mut impl Write, points: &[Point], direction: Direction) -> io::Result<()> {
    writeln!(out, "\n{}; ns a packet", heading(direction))?;
    writeln!(
        out,
        " size burst     SAs  gateway     spread  device    net around  rest  Mpps Gbit/s"
    )?;
    for point in points.iter().filter(|p| p.direction == direction) {
        let Some(path) = &point.path else { continue };
        let spread = format!("{:.0}..{:.0}", path.gateway.min, path.gateway.max);
        writeln!(
            out,
            "{:>5}{:6}{:8}{:9.1} {spread:>10}{:8.1}{:7.1}{:7.1}{:6.1}{:6.2}{:7.2}",
            point.size,
            point.burst,
            point.sas,
            path.gateway.median,
            path.device.median,
            path.net,
            path.around,
            path.rest,
            path.mpps,
            path.gbit,
        )?;
        if let Some(quiet) = path.quiet {
            writeln!(
                out,
                "{:19}{:9.1} {:>10}{:8.1}{:7.1}{:7.1}{:6.1}",
                "", quiet.gateway, "if quiet", quiet.device, quiet.net, quiet.around, quiet.rest,
            )?;
        }
    }
    if points.iter().any(|point| point.path.as_ref().is_some_and(|path| path.quiet.is_some())) {
        writeln!(
            out,
            "if quiet: the lower decile of the samples of each, and what those differ by"
        )?;
    }
    writeln!(
        out,
        "net: without the device; around: without device and cipher, that on packets in\n\
         the nearest cache; rest: the same with the cipher on the device's frames"
    )
}

fn turns(out: &mut impl Write, points: &[Point]) -> io::Result<()> {
    writeln!(out, "\nTime of a turn that took packets, ns")?;
    writeln!(out, "  way  size burst     SAs      p50      p90      p99     p99.9        max")?;
    for point in points {
        let Some(path) = &point.path else { continue };
        let t = path.turn_ns;
        writeln!(
            out,
            "{:>5}{:>6}{:6}{:8}{:9}{:9}{:9}{:10}{:11}",
            point.direction.name(),
            point.size,
            point.burst,
            point.sas,
            t.p50,
            t.p90,
            t.p99,
            t.p999,
            t.max
        )?;
    }
    Ok(())
}

fn loads(out: &mut impl Write, points: &[Point], over_ports: bool) -> io::Result<()> {
    let (unit, scale, until) = if over_ports { ("us", 1e3, "back") } else { ("ns", 1.0, "sent") };
    writeln!(
        out,
        "\nPackets that arrive evenly: latency until {until}, {unit}; lost to full rings"
    )?;
    writeln!(out, "  way  size burst  load   Mpps     p50     p90     p99   p99.9     max   lost")?;
    for point in points {
        let memory = point.path.iter().flat_map(|path| &path.loads);
        let ports = point.over_ports.iter().flat_map(|path| &path.loads);
        for load in memory.chain(ports) {
            let t: Latency = load.latency_ns;
            writeln!(
                out,
                "{:>5}{:>6}{:6}{:>5}%{:7.3}{:8.0}{:8.0}{:8.0}{:8.0}{:8.0}{:6.2}%",
                point.direction.name(),
                point.size,
                point.burst,
                load.percent,
                load.mpps,
                t.p50 as f64 / scale,
                t.p90 as f64 / scale,
                t.p99 as f64 / scale,
                t.p999 as f64 / scale,
                t.max as f64 / scale,
                100.0 * load.lost as f64 / load.offered.max(1) as f64,
            )?;
        }
    }
    Ok(())
}

fn aead(out: &mut impl Write, points: &[Point]) -> io::Result<()> {
    writeln!(
        out,
        "\nThe AEAD alone on the same length, one key, ns a packet (and share of ring's)"
    )?;
    writeln!(
        out,
        "  way  size burst          culvert     ring      aws-lc-rs        aes-gcm  copy"
    )?;
    let sas = points.first().map_or(0, |p| p.sas);
    for point in points.iter().filter(|p| p.sas == sas) {
        let figure = |name| point.aead.get(name).map_or(f64::NAN, |f: &benches::Figure| f.median);
        let ring = figure("ring");
        write!(out, "{:>5}{:>6}{:6}", point.direction.name(), point.size, point.burst)?;
        let share = |ns: f64| format!("{ns:.1} ({:.2})", ns / ring);
        writeln!(
            out,
            "{:>17}{ring:9.1}{:>15}{:>15}{:6.1}",
            share(figure("culvert")),
            share(figure("aws-lc-rs")),
            share(figure("aes-gcm")),
            figure("copy"),
        )?;
    }
    Ok(())
}
