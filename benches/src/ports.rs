//! The same gateway over AF_XDP ports: a sender on one port, the gateway on another, a cable or a veth pair between them.
//!
//! ```text
//!  this thread: Station            another core: the gateway's worker, or a bare forwarder
//!   frames ─► transmit ══════════► receive ─► work ─► transmit
//!   looked into ◄══════════════════════════════════════╯   the same port: one arm
//! ```
//!
//! Three ways to send. **Held**: packets wait in the receive ring before the other side may turn, so every burst is full and the
//! time of a turn does not hang on the sender. **Window**: so many packets are under way at most, which a ring holds, so
//! nothing is lost and the slower side sets the rate. **Paced**: packets at their times, whether they come back or not.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use af_xdp::steering::{Attachment, HostTraffic, Posture, Prefix, Steering, Tables};
use af_xdp::{AttachMode, Device, FramePool, Mode, Port, UmemConfig, XdpConfig, XdpPort};
use worker::{HostPort, Mac, PortId, Side, Worker, WorkerParts, WorkerPort};

use crate::Error;
use crate::plan::{Direction, Plan, PortMode, PortsPlan, Size};
use crate::report::{Figure, Latency, Load, OverPorts, PortFacts, histogram, median};
use crate::traffic::{HOST, Macs, OUTSIDE, PEER, Shape, remote};
use crate::tunnels::{Stream, Tunnels, account_for, check_all, counts};

mod fault;
mod station;
mod subject;

pub use fault::PortsError;
use station::{Station, Way};
use subject::{Forwarder, Subject, Turns, run};

/// Packets under way at most: half of what a receive ring holds, so that none finds it full.
const WINDOW: usize = 1024;

/// Packets under way while outputs are looked into, and while it is found out whether any come back.
const CALM: usize = 256;

/// Of so many packets one is opened to learn its number, so that the sender keeps its pace.
const OPENED: u64 = 8;

/// How often it is asked whether anything comes back; a device needs a moment after its program is attached.
const ASKED: u32 = 10;

/// A device with its program.
struct Attached {
    device: Device,
    attachment: Attachment,
}

impl Attached {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn mac(&self) -> Mac {
        Mac(self.device.address())
    }

    fn open(&self, queue: u32, pool: &mut FramePool, mode: Mode) -> Result<XdpPort, Error> {
        let config = XdpConfig { mode, ..XdpConfig::default() };
        XdpPort::open(&self.device, queue, &self.attachment, pool, &config)
            .map_err(|source| PortsError::opening(self.name(), queue, mode, source).into())
    }

    /// What users call the way that packets take.
    fn way(&self, zero_copy: bool) -> &'static str {
        match (self.attachment.mode(), zero_copy) {
            (_, true) => "zero copy",
            (AttachMode::Native, false) => "copy",
            (AttachMode::Generic, false) => "copy, program in the stack",
        }
    }
}

/// The two ports of a run.
pub(crate) struct Ports {
    sender: Attached,
    gateway: Attached,
    mode: Mode,
    station: Station,
    /// The gateway's queues, when one was opened.
    zero_copy: bool,
    // Maps that the programs read.
    _steering: Steering,
}

impl Ports {
    pub(crate) fn open(plan: &Plan, ports: &PortsPlan) -> Result<Self, Error> {
        let (sender, gateway) = fault::both(&ports.interfaces)?;
        let longest = plan.sizes.iter().map(|size| size.longest()).max().unwrap_or(0);
        let (sender, gateway) = (fault::find(&sender, longest)?, fault::find(&gateway, longest)?);
        if gateway.queues() as usize != plan.workers {
            let (interface, queues) = (gateway.name().to_owned(), gateway.queues());
            return Err(PortsError::Queues { interface, queues, workers: plan.workers }.into());
        }
        let mode = match ports.mode {
            PortMode::Auto => Mode::Auto,
            PortMode::Zerocopy => Mode::ZeroCopy,
            PortMode::Copy => Mode::Copy,
            PortMode::Generic => Mode::Generic,
        };
        let refused = |interface: &str| {
            let interface = interface.to_owned();
            |source| PortsError::steering(interface, source)
        };
        let steering = Steering::new(&tables()).map_err(refused(gateway.name()))?;
        let attach = |device: Device| -> Result<Attached, PortsError> {
            let attached = steering.attach(&device, None, mode.attach_modes());
            let attachment = attached.map_err(refused(device.name()))?;
            Ok(Attached { device, attachment })
        };
        let (sender, gateway) = (attach(sender)?, attach(gateway)?);
        let rings = XdpConfig::default();
        let queues = sender.device.queues();
        let memory = UmemConfig::for_ports(queues, rings.receive_ring, rings.transmit_ring);
        let mut pool = FramePool::new(&memory)?;
        let opened = (0..queues).map(|queue| sender.open(queue, &mut pool, mode));
        let station = Station::new(opened.collect::<Result<_, _>>()?, pool);
        steering.set_posture(Posture::Guarded).map_err(refused(gateway.name()))?;
        Ok(Self { sender, gateway, mode, station, zero_copy: false, _steering: steering })
    }

    /// How packets go; known when something was measured.
    pub(crate) fn facts(&self) -> PortFacts {
        PortFacts {
            sender: self.sender.name().to_owned(),
            sender_mode: self.sender.way(self.station.is_zero_copy()),
            gateway: self.gateway.name().to_owned(),
            gateway_mode: self.gateway.way(self.zero_copy),
        }
    }

    /// A queue of the gateway's port, with packet memory of its own.
    fn queue(&mut self, queue: usize) -> Result<(FramePool, Port), Error> {
        let rings = XdpConfig::default();
        let memory = UmemConfig::for_ports(1, rings.receive_ring, rings.transmit_ring);
        let mut pool = FramePool::new(&memory)?;
        let port = self.gateway.open(queue as u32, &mut pool, self.mode)?;
        self.zero_copy = port.is_zero_copy();
        Ok((pool, Port::Xdp(port)))
    }

    /// One point; `engine` is what the bare AEAD takes.
    pub(crate) fn measure(
        &mut self,
        plan: &Plan,
        direction: Direction,
        size: Size,
        sas: usize,
        engine: f64,
    ) -> Result<OverPorts, Error> {
        let (station, gateway) = (self.sender.mac(), self.gateway.mac());
        let macs = Macs { source: station, near: gateway, far: gateway, sink: station };
        let shape = Shape::new(plan, direction, size, macs);
        // They want the same queues, so they take turns once: half of the forwarder's samples come before, half after.
        let mut bare = Samples::default();
        self.forward(plan, shape, &mut bare)?;
        let (samples, verified, loads) = self.protect(plan, shape, sas)?;
        self.forward(plan, shape, &mut bare)?;
        let (busy, forwarder) = (Figure::of(samples.busy), Figure::of(bare.busy));
        let mpps = median(samples.mpps);
        Ok(OverPorts {
            busy,
            forwarder,
            to_parts: busy.median / (forwarder.median + engine),
            mpps,
            gbit: 8e-3 * size.mean() * mpps,
            forwarder_mpps: median(bare.mpps),
            packets_a_turn: samples.turned.0 as f64 / samples.turned.1.max(1) as f64,
            given: samples.given,
            lost: samples.lost,
            verified,
            loads,
        })
    }

    /// Half of the repetitions with nothing but receive, other addresses, transmit.
    fn forward(&mut self, plan: &Plan, shape: Shape, samples: &mut Samples) -> Result<(), Error> {
        let mut streams: Vec<_> = (0..plan.workers).map(|_| Stream::blind(plan, &shape)).collect();
        let queues: Result<Vec<_>, _> = (0..plan.workers).map(|queue| self.queue(queue)).collect();
        let forwarder = |(pool, port)| Forwarder::new(pool, port, shape.macs);
        let mut forwarders: Vec<_> = queues?.into_iter().map(forwarder).collect();
        self.listen(&mut forwarders, &streams, &shape)?;
        for _ in 0..plan.repetitions.div_ceil(2) {
            self.sample(plan, &shape, &mut forwarders, &mut streams, |_| (), samples);
        }
        Ok(())
    }

    /// All repetitions with a gateway; how many outputs were looked into, and what loads did.
    fn protect(
        &mut self,
        plan: &Plan,
        shape: Shape,
        sas: usize,
    ) -> Result<(Samples, u64, Vec<Load>), Error> {
        let queues: Result<Vec<_>, _> = (0..plan.workers).map(|queue| self.queue(queue)).collect();
        let parts = queues?.into_iter().map(|(pool, port)| WorkerParts {
            pool,
            ports: vec![WorkerPort { port, side: Side::Either, vlan: None }],
            host: HostPort::None,
            block: None,
        });
        let (mut tunnels, mut workers) =
            Tunnels::new(plan, shape, sas, &[shape.macs.near], parts.collect())?;
        tunnels.install(plan, sas, PortId(0), &mut workers)?;
        let stream = |queue| Stream::new(plan, &shape, queue, sas);
        let mut streams: Vec<Stream> = (0..plan.workers).map(stream).collect();
        let mut verified = self.verify(plan, &mut tunnels, &mut workers, &mut streams)?;
        let mut samples = Samples::default();
        for _ in 0..plan.repetitions {
            let before = counts(workers.iter());
            let write = |streams: &mut [Stream]| write(plan, streams, &mut tunnels);
            self.sample(plan, &shape, &mut workers, &mut streams, write, &mut samples);
            // What the device lost is told, what the gateway loses is an error.
            let received = counts(workers.iter()).0 - before.0;
            account_for(workers.iter(), before, received)?;
        }
        // What was right at the beginning is right at the end: windows and counters are far on.
        verified += self.verify(plan, &mut tunnels, &mut workers, &mut streams)?;
        let takes = median(samples.mpps.clone());
        let mut loads = Vec::new();
        for &percent in &plan.loads {
            let mpps = takes * f64::from(percent) / 100.0;
            loads.push(self.load(plan, percent, mpps, &mut tunnels, &mut workers, &mut streams)?);
        }
        Ok((samples, verified, loads))
    }

    /// Whether anything comes, and comes back.
    fn listen(
        &mut self,
        forwarders: &mut [Forwarder],
        streams: &[Stream],
        shape: &Shape,
    ) -> Result<(), PortsError> {
        let mut heard = 0;
        for _ in 0..ASKED {
            let (asked, turns) = run(forwarders, |gate| {
                let [stream, ..] = streams else { return Default::default() };
                let first = std::slice::from_ref(stream);
                self.station.exchange(shape, first, CALM, Way::Knock, gate, |_, _| ())
            });
            if asked.back > 0 {
                return Ok(());
            }
            heard += turns.iter().map(Turns::packets).sum::<u64>();
        }
        let (sender, gateway) = (self.sender.name().to_owned(), self.gateway.name().to_owned());
        if heard > 0 {
            return Err(PortsError::Mute { sender, gateway });
        }
        Err(PortsError::Deaf { sender, gateway, address: self.gateway.mac().to_string() })
    }

    /// One sample: full bursts for the time of a packet, then a window for the rate.
    fn sample(
        &mut self,
        plan: &Plan,
        shape: &Shape,
        subjects: &mut [impl Subject],
        streams: &mut [Stream],
        mut write: impl FnMut(&mut [Stream]),
        samples: &mut Samples,
    ) {
        let time = Duration::from_secs_f64(plan.seconds / f64::from(plan.repetitions));
        let scale = (Instant::now(), stats::cycles());
        for way in [Way::Held(WINDOW), Way::Window(WINDOW)] {
            let (mut given, mut back, mut took) = (0, 0u64, Duration::ZERO);
            let begun = Instant::now();
            let ((), turns) = run(subjects, |gate| {
                while given == 0 || begun.elapsed() < time {
                    write(streams);
                    let count = plan.frames;
                    let done = self.station.exchange(shape, streams, count, way, gate, |_, _| ());
                    given += done.given;
                    back += done.back;
                    took += done.took;
                }
            });
            samples.given += given;
            samples.lost += given.saturating_sub(back);
            if let Way::Held(_) = way {
                let cycles = stats::cycles().wrapping_sub(scale.1);
                let scale = scale.0.elapsed().as_nanos() as f64 / cycles as f64;
                let rate = |turns: &Turns| 1.0 / (median(turns.blocks()) * scale);
                samples.busy.push(1.0 / turns.iter().map(rate).sum::<f64>());
            } else {
                samples.mpps.push(back as f64 / took.as_secs_f64() / 1e6);
                samples.turned.0 += turns.iter().map(Turns::packets).sum::<u64>();
                samples.turned.1 += turns.iter().map(Turns::turns).sum::<u64>();
            }
        }
    }

    /// A pass of which every output is looked into; how many.
    fn verify(
        &mut self,
        plan: &Plan,
        tunnels: &mut Tunnels,
        workers: &mut [Worker],
        streams: &mut [Stream],
    ) -> Result<u64, Error> {
        write(plan, streams, tunnels);
        let before = counts(workers.iter());
        let mut outputs = Vec::new();
        let (shape, count, calm) = (tunnels.shape, plan.frames, Way::Window(CALM));
        let (done, _) = run(workers, |gate| {
            let keep = |frame: &[u8], _| outputs.push(frame.to_vec());
            self.station.exchange(&shape, streams, count, calm, gate, keep)
        });
        account_for(workers.iter(), before, done.given)?;
        if done.back != done.given {
            let drops = "by the devices, or between them".to_owned();
            return Err(Error::Lost { given: done.given, sent: done.back, drops });
        }
        check_all(&shape, streams.iter().flat_map(|stream| &stream.pass), &outputs)
    }

    /// Packets at their times.
    fn load(
        &mut self,
        plan: &Plan,
        percent: u32,
        mpps: f64,
        tunnels: &mut Tunnels,
        workers: &mut [Worker],
        streams: &mut [Stream],
    ) -> Result<Load, Error> {
        let time = Duration::from_secs_f64(plan.seconds / f64::from(plan.repetitions));
        let (interval, shape) = (1e3 / mpps, tunnels.shape);
        let mut latency = histogram();
        let (mut offered, mut back, mut seen) = (0u64, 0, 0);
        let before = counts(workers.iter());
        let begun = Instant::now();
        run(workers, |gate| {
            while offered == 0 || begun.elapsed() < time {
                write(plan, streams, tunnels);
                let [Stream { pass, .. }] = &*streams else { break };
                let first = pass.first().map_or(0, |next| next.number);
                let sas: HashMap<u32, usize> = pass.iter().map(|n| (n.spi, n.sa)).collect();
                let look = |frame: &[u8], now: Duration| {
                    seen += 1;
                    if seen % OPENED == 0
                        && let Some(number) = shape.number_in(frame, &sas)
                    {
                        let due = (number - first) as f64 * interval;
                        latency.saturating_record((now.as_nanos() as f64 - due).max(0.0) as u64);
                    }
                };
                let way = Way::Paced(interval);
                let done = self.station.exchange(&shape, streams, plan.frames, way, gate, look);
                offered += done.given;
                back += done.back;
            }
        });
        let received = counts(workers.iter()).0 - before.0;
        account_for(workers.iter(), before, received)?;
        Ok(Load {
            percent,
            mpps,
            offered,
            lost: offered.saturating_sub(back),
            latency_ns: Latency::of(&latency),
        })
    }
}

/// What samples found.
#[derive(Default)]
struct Samples {
    busy: Vec<f64>,
    mpps: Vec<f64>,
    /// Packets, and turns that took them, where the sender did not wait for full rings.
    turned: (u64, u64),
    given: u64,
    lost: u64,
}

/// Writes the next pass of every worker.
fn write(plan: &Plan, streams: &mut [Stream], tunnels: &mut Tunnels) {
    tunnels.listen();
    for stream in streams {
        stream.write(plan.frames, tunnels);
    }
}

/// What both ports take from their devices: the packets of `traffic`.
fn tables() -> Tables {
    let mut tables = Tables::new();
    // Either end's ESP is for one of them.
    for end in [OUTSIDE, PEER] {
        tables.local.insert(end.into(), HostTraffic::Kernel);
    }
    if let (Some(inside), Some(remote)) =
        (Prefix::new(HOST.into(), 24), Prefix::new(remote(0).into(), 8))
    {
        tables.protect(inside, remote);
    }
    tables
}
