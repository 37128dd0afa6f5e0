//! The AF_XDP ports of the gateway: which devices, how many queues, opened and steered.

use crate::config::{self, GatewayLimits};
use crate::host::netlink::HostView;
use crate::sockets::Reassembled;
use af_xdp::steering::{Steering, SteeringError, Tables};
use af_xdp::{
    AttachMode, Device, FramePool, Mode, Offload, OpenError, Port, UmemConfig, XdpConfig, XdpPort,
};
use core::net::IpAddr;
use core::num::NonZeroU16;
use ike::config::Config;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;
use worker::{Dataplane, HostPort, Idle, Limits, PortId, Side, TunQueue, WorkerParts, WorkerPort};

mod life;

use life::{Attached, PortLife};

/// Why the ports could not be opened; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// No device carries an address of the connections.
    #[error(
        "no device is known for the ports: no local address of a connection is on one; add \
         gateway.ports {{ wan {{ interface = … }} }}"
    )]
    None,
    /// There is no such device.
    #[error("port {interface}: {source}")]
    Device {
        /// Its name.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// The ports have different numbers of queues.
    #[error(
        "port {interface} has {queues} receive queues and another port {most}; every worker needs \
         a queue of each: `ethtool -L DEVICE combined N`, the same on all"
    )]
    Queues {
        /// The device.
        interface: String,
        /// Its queues.
        queues: u32,
        /// Those of another.
        most: u32,
    },
    /// A worker could not send.
    #[error(
        "port {interface} has {queues} transmit queues and each of the {workers} workers needs one: `ethtool -L {interface} tx {workers}`"
    )]
    TransmitQueues {
        /// The device.
        interface: String,
        /// Its queues.
        queues: u32,
        /// Those that want to send.
        workers: u32,
    },
    /// A device does something that a router's must not, and cannot be told to stop.
    #[error(
        "port {interface} {what} and does not stop: {source}; try `ethtool -K {interface} {feature} off`"
    )]
    Offload {
        /// The device.
        interface: String,
        /// What it does.
        what: &'static str,
        /// What ethtool calls it.
        feature: &'static str,
        /// Why it does not stop.
        source: io::Error,
    },
    /// The socket could not be opened.
    #[error("port {interface}, queue {queue}: {source}")]
    Open {
        /// The device.
        interface: String,
        /// The queue.
        queue: u32,
        /// Why.
        source: OpenError,
    },
    /// Packet memory could not be had.
    #[error("packet memory: {0}")]
    Memory(#[source] io::Error),
    /// The steering program.
    #[error(transparent)]
    Steering(#[from] SteeringError),
}

/// A device that is to be a port.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The device that has its addresses.
    interface: String,
    device: Device,
    vlan: Option<NonZeroU16>,
    mode: config::PortMode,
    /// The port before it with the same device, whose sockets it shares.
    trunk: Option<usize>,
}

/// The ports: the rules, and the life of each, in the order of the port numbers.
pub struct Ports {
    /// What all devices are steered by.
    pub steering: Steering,
    lives: Vec<PortLife>,
}

impl Ports {
    /// Interface indices, in the order of the port numbers; `None` for one whose device is not there.
    pub fn indices(&self) -> Vec<Option<u32>> {
        self.lives.iter().map(PortLife::index).collect()
    }

    /// Follows the devices, and what has changed of them; whether one came or went.
    pub fn follow(&mut self, view: &HostView, dataplane: &mut Dataplane, now: Instant) -> bool {
        let mut changed = false;
        for at in 0..self.lives.len() {
            // A trunk comes before its members.
            let trunk = self.lives[at].trunk().map(|trunk| self.lives[trunk].has_device());
            changed |= match trunk {
                None => self.lives[at].follow(view, &self.steering, dataplane, now),
                Some(there) => self.lives[at].follow_trunk(view, there, now),
            };
        }
        changed
    }

    /// The ports that share the sockets of another, with that one.
    pub fn shared(&self) -> Vec<(PortId, PortId)> {
        let number = |at: usize| PortId(u16::try_from(at).unwrap_or(u16::MAX));
        let trunks = self.lives.iter().map(PortLife::trunk).enumerate();
        trunks.filter_map(|(at, trunk)| Some((number(at), number(trunk?)))).collect()
    }

    /// When to [`follow`](Self::follow) though the kernel says nothing.
    pub fn deadline(&self) -> Option<Instant> {
        self.lives.iter().map(PortLife::deadline).min()
    }
}

/// The configured devices; or those that carry a local address of a connection, or lead to a
/// peer.
pub fn choose(
    section: &config::Gateway,
    connections: &Config,
    view: &HostView,
) -> Result<Vec<Chosen>, PortsError> {
    let mut chosen: Vec<config::Port> = section.ports.clone();
    if chosen.is_empty() {
        for connection in &connections.connections {
            let local = view
                .addresses
                .iter()
                .filter(|(_, a, _)| connection.local_addrs.iter().any(|r| r.contains(*a)))
                .map(|(index, ..)| *index);
            let remote = connection
                .remote_addrs
                .iter()
                .filter(|_| connection.local_addrs.is_empty())
                .filter_map(|range| view.route(range.first()).map(|route| route.interface));
            for link in local.chain(remote).filter_map(|index| view.links.get(&index)) {
                if link.name != "lo" && !chosen.iter().any(|port| port.interface == link.name) {
                    chosen.push(config::Port {
                        name: link.name.clone(),
                        interface: link.name.clone(),
                        device: None,
                        vlan: None,
                        queues: None,
                        mode: config::PortMode::Auto,
                    });
                }
            }
        }
    }
    if chosen.is_empty() {
        return Err(PortsError::None);
    }
    let mut found: Vec<Chosen> = Vec::with_capacity(chosen.len());
    for config::Port { interface, device, vlan, mode, .. } in chosen {
        let name = device.unwrap_or_else(|| interface.clone());
        let device = Device::by_name(&name)
            .map_err(|source| PortsError::Device { interface: name, source })?;
        let trunk =
            found.iter().position(|c| c.trunk.is_none() && c.device.name() == device.name());
        found.push(Chosen { interface, device, vlan, mode, trunk });
    }
    Ok(found)
}

/// How many workers: one for each queue of the ports, which must have the same number each. A
/// queue without a worker would leave its packets to the kernel, a worker without a queue could
/// not send, so a configured number that differs is corrected.
pub fn workers(section: &config::Gateway, devices: &[Chosen]) -> Result<usize, PortsError> {
    let most = devices.iter().map(|chosen| chosen.device.queues()).max().unwrap_or(1);
    if let Some(Chosen { device, .. }) = devices.iter().find(|c| c.device.queues() != most) {
        return Err(PortsError::Queues {
            interface: device.name().to_owned(),
            queues: device.queues(),
            most,
        });
    }
    if let Some(Chosen { device, .. }) = devices.iter().find(|c| c.device.transmit_queues() < most)
    {
        return Err(PortsError::TransmitQueues {
            interface: device.name().to_owned(),
            queues: device.transmit_queues(),
            workers: most,
        });
    }
    if let Some(configured) = section.workers
        && u32::from(configured) != most
    {
        tracing::warn!(
            configured,
            workers = most,
            "every receive queue needs a worker of its own; change the number of queues with \
             `ethtool -L` to have gateway.workers as configured"
        );
    }
    Ok(most as usize)
}

/// An offload that was turned off for as long as the gateway runs.
struct TurnedOff {
    /// `None`: the device is gone.
    device: Option<Device>,
    offload: Offload,
}

impl TurnedOff {
    fn forget(mut self) {
        self.device = None;
    }
}

impl Drop for TurnedOff {
    /// Leaves the device as it was.
    fn drop(&mut self) {
        if let Some(device) = &mut self.device
            && let Err(error) = device.set_offload(self.offload, true)
        {
            tracing::warn!(interface = device.name(), %error, "an offload stays off");
        }
    }
}

/// Turns off what would make packets wrong: a router must not join TCP segments, and the steering
/// program has to see VLAN tags.
fn quieten(device: &Device, generic: bool) -> Result<Vec<TurnedOff>, PortsError> {
    let mut off = Vec::new();
    for (on, offload, what, feature) in [
        (device.large_receive(), Offload::LargeReceive, "joins TCP segments", "lro"),
        (device.strips_vlan(), Offload::VlanStripping, "strips VLAN tags", "rxvlan"),
        (
            generic && device.generic_receive(),
            Offload::GenericReceive,
            "joins packets before the program sees them",
            "gro",
        ),
    ] {
        let mut device = device.clone();
        if on {
            device.set_offload(offload, false).map_err(|source| PortsError::Offload {
                interface: device.name().to_owned(),
                what,
                feature,
                source,
            })?;
            off.push(TurnedOff { device: Some(device), offload });
        }
    }
    Ok(off)
}

/// Adds a block for every port of every worker, `port wan0/1` being queue 1 of wan0.
pub fn blocks(
    devices: &[Chosen],
    workers: usize,
    layout: &mut stats::Layout,
) -> Vec<Vec<(PortId, stats::BlockId)>> {
    (0..workers)
        .map(|queue| {
            (0..)
                .zip(devices)
                .filter(|(_, chosen)| chosen.trunk.is_none())
                .map(|(port, chosen)| {
                    let instance = format!("{}/{queue}", chosen.device.name());
                    (PortId(port), layout.block("port", &instance, &worker::port_counters()))
                })
                .collect()
        })
        .collect()
}

/// Adds a block for the life of each port.
pub fn life_blocks(devices: &[Chosen], layout: &mut stats::Layout) -> Vec<stats::BlockId> {
    let block = |chosen: &Chosen| {
        let name = match chosen.trunk {
            None => chosen.device.name(),
            Some(_) => &chosen.interface,
        };
        layout.block("link", name, &life::counters())
    };
    devices.iter().map(block).collect()
}

/// Opens queue n of every device for worker n, and attaches the steering program, which drops
/// what is protected until its posture is changed.
pub fn open(
    devices: &[Chosen],
    workers: usize,
    tuns: Vec<OwnedFd>,
    writers: Vec<Option<stats::BlockWriter>>,
    life_writers: Vec<Option<stats::BlockWriter>>,
    tables: &Tables,
) -> Result<(Ports, Vec<WorkerParts>), PortsError> {
    let steering = Steering::new(tables)?;
    let attached = (0..)
        .zip(devices)
        .map(|(at, chosen)| {
            if chosen.trunk.is_some() {
                return Ok(None);
            }
            let modes = mode(chosen.mode).attach_modes();
            let attachment = steering.attach_to(&chosen.device, &vlans(devices, at), modes)?;
            let off = quieten(&chosen.device, attachment.mode() == AttachMode::Generic)?;
            Ok(Some(Attached { device: chosen.device.clone(), attachment, off }))
        })
        .collect::<Result<Vec<_>, PortsError>>()?;
    let rings = XdpConfig::default();
    let ports = u32::try_from(attached.iter().flatten().count()).unwrap_or(u32::MAX);
    let umem = UmemConfig::for_ports(ports, rings.receive_ring, rings.transmit_ring);
    let mut parts = Vec::with_capacity(workers);
    for (queue, (tun, block)) in (0u32..).zip(tuns.into_iter().zip(writers)) {
        let mut pool = FramePool::new(&umem).map_err(PortsError::Memory)?;
        let mut ports = Vec::with_capacity(devices.len());
        for (chosen, attached) in devices.iter().zip(&attached) {
            let config = XdpConfig { mode: mode(chosen.mode), ..rings };
            let port = match attached {
                Some(Attached { device, attachment, .. }) => {
                    XdpPort::open(device, queue, attachment, &mut pool, &config)
                        .map(Port::Xdp)
                        .map_err(|source| PortsError::Open {
                            interface: device.name().to_owned(),
                            queue,
                            source,
                        })?
                }
                // It sends and receives by its trunk.
                None => Port::Absent,
            };
            ports.push(WorkerPort { port, side: Side::Either, vlan: chosen.vlan });
        }
        parts.push(WorkerParts { pool, ports, host: HostPort::Tun(TunQueue::new(tun)), block });
    }
    let now = Instant::now();
    let lives = (0..)
        .map(PortId)
        .zip(devices)
        .zip(attached)
        .zip(life_writers)
        .map(|(((id, chosen), attached), block)| {
            PortLife::new(id, chosen, vlans(devices, id.0.into()), attached, block, now)
        })
        .collect();
    Ok((Ports { steering, lives }, parts))
}

/// The VLANs of the port at this place and of those that share its device.
fn vlans(devices: &[Chosen], at: usize) -> Vec<Option<NonZeroU16>> {
    let own = devices.get(at).map(|chosen| chosen.vlan);
    own.into_iter()
        .chain(devices.iter().filter(|chosen| chosen.trunk == Some(at)).map(|chosen| chosen.vlan))
        .collect()
}

fn mode(configured: config::PortMode) -> Mode {
    match configured {
        config::PortMode::Auto => Mode::Auto,
        config::PortMode::ZeroCopy => Mode::ZeroCopy,
        config::PortMode::Copy => Mode::Copy,
        config::PortMode::Generic => Mode::Generic,
    }
}

/// The limits as configured, over the workers' defaults.
pub fn limits(section: &GatewayLimits) -> Limits {
    let default = Limits::default();
    Limits {
        sas: section.sas.unwrap_or(default.sas),
        waiting_packets: section.waiting_packets.unwrap_or(default.waiting_packets),
        waiting_per_key: section.waiting_per_policy.unwrap_or(default.waiting_per_key),
        icmp_per_second: section.icmp_per_second.unwrap_or(default.icmp_per_second),
        icmp_burst: section.icmp_burst.unwrap_or(default.icmp_burst),
        ..default
    }
}

/// What idle workers do.
pub fn idle(section: config::Idle) -> Idle {
    match section {
        config::Idle::Sleep => Idle::default(),
        config::Idle::Spin => Idle::Spin,
    }
}

/// The cores for the workers, in order: the first is left to the control thread where there are
/// several.
pub fn cores() -> Vec<usize> {
    let mut cores: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    if cores.len() > 1 {
        cores.rotate_left(1);
    }
    cores
}

/// Threads for public-key work: half of the cores, so that set-ups in bulk do not starve workers
/// that share them.
pub fn public_key_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2))
}

/// The IP packet that the kernel reassembled: as it was, or where the socket gives no header with the fields that processing
/// looks at.
pub fn whole_packet(packet: &Reassembled) -> Option<Vec<u8>> {
    const UDP_HEADER: usize = 8;
    if !packet.header.is_empty() {
        return Some([packet.header.as_slice(), &packet.payload].concat());
    }
    let udp = packet.protocol == 17;
    let length = packet.payload.len() + if udp { UDP_HEADER } else { 0 };
    let mut whole = Vec::with_capacity(40 + length);
    match (packet.source.ip(), packet.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = u16::try_from(20 + length).ok()?;
            whole.extend([0x45, packet.traffic_class]);
            whole.extend(total.to_be_bytes());
            whole.extend([0, 0, 0, 0, 64, packet.protocol, 0, 0]);
            whole.extend(source.octets());
            whole.extend(destination.octets());
            let sum = wire::checksum::of(&whole);
            whole[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            whole.extend((6 << 28 | u32::from(packet.traffic_class) << 20).to_be_bytes());
            whole.extend(u16::try_from(length).ok()?.to_be_bytes());
            whole.extend([packet.protocol, 64]);
            whole.extend(source.octets());
            whole.extend(destination.octets());
        }
        _ => return None,
    }
    if udp {
        whole.extend(packet.source.port().to_be_bytes());
        whole.extend(packet.destination.port().to_be_bytes());
        whole.extend(u16::try_from(length).ok()?.to_be_bytes());
        // No checksum: the kernel has verified the one there was.
        whole.extend([0, 0]);
    }
    whole.extend(&packet.payload);
    Some(whole)
}
