//! Initiates many IKE SAs, each with one Child SA, at a responder, and says how long that took.
//!
//! ```text
//! set_ups CONFIG COUNT AT_ONCE keep|delete
//! ```
//!
//! CONFIG is a swanctl.conf with one connection and one child; each set-up has an identity and a selector of its own
//! (`N.gen.test`, one address out of 10.128.0.0/9). The engine is the gateway's; its SAs go nowhere. After every
//! quarter of COUNT it prints a line and waits for one on its input, so that somebody can read the responder's clock.
//! `tools/interop/setup_rate.py` drives it.

#![expect(clippy::print_stdout, reason = "the lines are what the program is for")]
#![expect(clippy::print_stderr, reason = "how a program says why it ends")]

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;
use daemon::config::{Configuration, Options};
use ike::config::{Child, Config, Connection, Identity};
use ike::event::{IkeTarget, Origin, SpiRefused};
use ike::{Command, Engine, Event, Path, RequestId, SpiSource};
use ipsec::sa::Spi;
use ipsec::selector::AddressRange;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::UdpSocket;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

type Failed = Box<dyn std::error::Error>;

/// The marker before IKE on port 4500 (RFC 3948 §2.2).
const NON_ESP: [u8; 4] = [0; 4];

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("set_ups: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Failed> {
    let [config, count, at_once, afterwards] = arguments else {
        return Err("set_ups CONFIG COUNT AT_ONCE keep|delete".into());
    };
    let (count, at_once): (u32, usize) = (count.parse()?, at_once.parse()?);
    let options = Options { readable_secrets: true };
    let mut config = match Configuration::load(config.as_ref(), options) {
        Ok(configuration) => configuration.ike,
        Err(faults) => return Err(format!("{faults:?}").into()),
    };
    let template = config.connections.first().cloned().ok_or("no connection")?;
    config.connections = (0..count).map(|n| Arc::new(numbered(&template, n))).collect();
    let local = template.local_addrs.first().ok_or("no local address")?.first();
    let mut generator = Generator::new(config, local)?;
    let quarter = count / 4;
    let mut next = 0;
    for part in 1..=4 {
        let end = if part == 4 { count } else { part * quarter };
        let began = Instant::now();
        generator.set_up(next..end, at_once, afterwards == "delete")?;
        let took = began.elapsed();
        println!("{{\"set_ups\": {}, \"seconds\": {:.6}}}", end - next, took.as_secs_f64());
        next = end;
        // Whoever measures says when to go on.
        io::stdin().read_line(&mut String::new())?;
    }
    Ok(())
}

/// The connection with an identity, a name and a selector of its own.
fn numbered(template: &Connection, n: u32) -> Connection {
    let mut connection = template.clone();
    connection.name = n.to_string();
    connection.local.id = Identity::Fqdn(format!("{n}.gen.test"));
    let address = IpAddr::V4(Ipv4Addr::from(0x0a80_0001 + n));
    let children = connection.children.iter().map(|child| {
        let mut child = Child::clone(child);
        for selector in &mut child.local_ts {
            selector.addresses = AddressRange::new(address, address);
        }
        Arc::new(child)
    });
    connection.children = children.collect();
    connection
}

/// SPIs one after the other; what is sent to them is nobody's.
struct Numbers(u32);

impl SpiSource for Numbers {
    fn allocate(&mut self, _: IpAddr, _: Option<Spi>) -> Result<Spi, SpiRefused> {
        self.0 += 1;
        Spi::new(self.0).ok_or(SpiRefused)
    }

    fn release(&mut self, _: Spi) {}
}

struct Generator {
    engine: Engine,
    spis: Numbers,
    sockets: [UdpSocket; 2],
    finished: VecDeque<(RequestId, bool)>,
}

impl Generator {
    fn new(config: Config, local: IpAddr) -> Result<Self, Failed> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|_| "no random numbers")?;
        let bind = |port| {
            let socket = UdpSocket::bind(SocketAddr::new(local, port))?;
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(socket)
        };
        Ok(Self {
            engine: Engine::new(Arc::new(config), seed),
            spis: Numbers(0x1000),
            sockets: [bind(500)?, bind(4500)?],
            finished: VecDeque::new(),
        })
    }

    /// Brings up all of `numbers`, `at_once` of them at a time.
    fn set_up(
        &mut self,
        numbers: core::ops::Range<u32>,
        at_once: usize,
        delete: bool,
    ) -> Result<(), Failed> {
        let mut waiting: HashMap<RequestId, Instant> = HashMap::new();
        let mut numbers = numbers.map(|n| n.to_string());
        let child = self.engine.config().connections.first().and_then(|c| c.children.first());
        let child = child.ok_or("no child")?.name.clone();
        let mut going = true;
        while going || !waiting.is_empty() {
            while going && waiting.len() < at_once {
                let Some(name) = numbers.next() else {
                    going = false;
                    break;
                };
                let command = Command::InitiateChild {
                    connection: Some(name),
                    child: child.clone(),
                    origin: Origin::Initiate,
                };
                let now = Instant::now();
                let request = self.engine.handle_command(now, command, &mut self.spis)?;
                waiting.insert(request, now);
            }
            self.turn()?;
            while let Some((request, well)) = self.finished.pop_front() {
                if waiting.remove(&request).is_some() && !well {
                    return Err("a set-up failed".into());
                }
            }
        }
        if delete {
            let all: Vec<_> = self.engine.ike_sas(Instant::now()).iter().map(|sa| sa.id).collect();
            for ike in all {
                let command = Command::TerminateIke { target: IkeTarget::Id(ike), force: false };
                self.engine.handle_command(Instant::now(), command, &mut self.spis)?;
                self.turn()?;
            }
        }
        let end = Instant::now() + Duration::from_millis(200);
        while Instant::now() < end {
            self.turn()?;
        }
        Ok(())
    }

    /// Takes what came, does what is due, sends what is to be sent.
    fn turn(&mut self) -> Result<(), Failed> {
        let mut buffer = [0; 4096];
        let mut idle = true;
        for index in 0..self.sockets.len() {
            while let Some(socket) = self.sockets.get(index) {
                let (len, remote) = match socket.recv_from(&mut buffer) {
                    Ok(received) => received,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                };
                let path = Path { local: socket.local_addr()?, remote };
                let datagram = buffer.get(..len).unwrap_or_default();
                let message = match index {
                    0 => Some(datagram),
                    _ => datagram.strip_prefix(&NON_ESP),
                };
                idle = false;
                if let Some(message) = message {
                    self.engine.handle_datagram(Instant::now(), path, message, &mut self.spis);
                    self.drain()?;
                }
            }
        }
        let now = Instant::now();
        if self.engine.poll_timeout().is_some_and(|at| at <= now) {
            self.engine.handle_timeout(now, &mut self.spis);
        }
        self.drain()?;
        if idle {
            // The responder has the processor.
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), Failed> {
        loop {
            let mut more = false;
            while let Some(event) = self.engine.poll_event() {
                more = true;
                match event {
                    Event::InstallInbound { id, .. } | Event::InstallOutbound { id, .. } => {
                        let now = Instant::now();
                        self.engine.handle_installed(now, id, Ok(()), &mut self.spis);
                    }
                    Event::RequestDone { request, result } => {
                        if let Err(reason) = &result {
                            eprintln!("set_ups: {reason}");
                        }
                        self.finished.push_back((request, result.is_ok()));
                    }
                    _ => {}
                }
            }
            while let Some(job) = self.engine.poll_job() {
                more = true;
                self.engine.handle_job(Instant::now(), job.run(), &mut self.spis);
            }
            while let Some(transmit) = self.engine.poll_transmit() {
                let natted = transmit.path.local.port() == 4500;
                let Some(socket) = self.sockets.get(usize::from(natted)) else { continue };
                let datagram = match natted && !transmit.is_keepalive() {
                    true => [&NON_ESP, transmit.datagram.as_slice()].concat(),
                    false => transmit.datagram,
                };
                match socket.send_to(&datagram, transmit.path.remote) {
                    // A full buffer is a lost datagram.
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                        return Err(error.into());
                    }
                    _ => {}
                }
            }
            if !more {
                return Ok(());
            }
        }
    }
}
