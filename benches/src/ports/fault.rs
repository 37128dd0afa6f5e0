//! What can be wrong with the ports, and what to do then.

use std::fs;
use std::io;
use std::path::Path;

use af_xdp::steering::SteeringError;
use af_xdp::{Device, Mode, OpenError};

/// Why the ports cannot be measured; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// One interface, and nobody knows the other.
    #[error(
        "{0} is no veth whose peer is in this network namespace: name both ends, as --interface \
         SENDER,GATEWAY"
    )]
    Alone(String),
    /// More or fewer than a sender and a gateway.
    #[error(
        "one veth, or two interfaces that are cabled to one another: --interface SENDER,GATEWAY"
    )]
    Count,
    /// There is no such device.
    #[error("no interface {0} in this network namespace; `ip link` lists those that there are")]
    Missing(String),
    /// The system does not tell of it.
    #[error("interface {interface}: {source}")]
    Device {
        /// Its name.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// It is down, or nothing is plugged in.
    #[error("{0} is down or has no carrier: `ip link set {0} up`, and its other end too")]
    Down(String),
    /// It takes no packet of this size.
    #[error(
        "{interface} has an MTU of {mtu} and packets have {needed} bytes: `ip link set {interface} mtu 1500`, or a smaller --sizes"
    )]
    Mtu {
        /// The device.
        interface: String,
        /// Its MTU.
        mtu: u32,
        /// What is needed.
        needed: u32,
    },
    /// Queues and workers differ.
    #[error(
        "{interface} has {queues} receive queue(s) and the bench {workers} worker(s), and each queue \
         needs one: --workers {queues}, or `ethtool -L {interface} combined {workers}`"
    )]
    Queues {
        /// The device.
        interface: String,
        /// Its queues.
        queues: u32,
        /// Workers.
        workers: usize,
    },
    /// The maps or programs are not allowed.
    #[error("AF_XDP ports need root, or CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF: run it with sudo")]
    Forbidden,
    /// The program is not attached.
    #[error(
        "{interface}: {source}; another XDP program may be there (`ip link set {interface} xdp off` \
         takes it away), or the driver has no XDP (--xdp-mode generic works with every one)"
    )]
    Steering {
        /// The device.
        interface: String,
        /// Why.
        source: SteeringError,
    },
    /// A queue is not opened.
    #[error("{interface}, queue {queue}: {source}; {advice}")]
    Open {
        /// The device.
        interface: String,
        /// The queue.
        queue: u32,
        /// Why.
        source: OpenError,
        /// What may help.
        advice: &'static str,
    },
    /// Packets are sent and nothing comes.
    #[error(
        "nothing that {sender} sends comes to {gateway}: are they cabled to one another, and does nothing \
         between them drop packets for {address}?"
    )]
    Deaf {
        /// Where packets leave.
        sender: String,
        /// Where they should come.
        gateway: String,
        /// The gateway's MAC address.
        address: String,
    },
    /// They come, and do not come back.
    #[error("{gateway} receives and sends, and nothing comes back to {sender}")]
    Mute {
        /// Where packets leave.
        sender: String,
        /// Where they come.
        gateway: String,
    },
}

impl PortsError {
    pub(super) fn opening(interface: &str, queue: u32, mode: Mode, source: OpenError) -> Self {
        let advice = match (&source, mode) {
            (OpenError::Busy, _) => "who has it? `ss --xdp -p` lists AF_XDP sockets",
            (_, Mode::ZeroCopy) => "its driver may lack zero copy: --xdp-mode auto takes the best",
            _ => "--xdp-mode generic works with every driver",
        };
        Self::Open { interface: interface.to_owned(), queue, source, advice }
    }

    pub(super) fn steering(interface: String, source: SteeringError) -> Self {
        match &source {
            SteeringError::Map(e) if e.kind() == io::ErrorKind::PermissionDenied => Self::Forbidden,
            _ => Self::Steering { interface, source },
        }
    }
}

/// The sender and the gateway that are named; of a veth its peer is the sender.
pub(super) fn both(interfaces: &[String]) -> Result<(String, String), PortsError> {
    match interfaces {
        [sender, gateway] if sender != gateway => Ok((sender.clone(), gateway.clone())),
        [gateway] => {
            if number(gateway, "ifindex").is_none() {
                return Err(PortsError::Missing(gateway.clone()));
            }
            let sender = peer(gateway).ok_or_else(|| PortsError::Alone(gateway.clone()))?;
            Ok((sender, gateway.clone()))
        }
        _ => Err(PortsError::Count),
    }
}

/// The other end of a veth pair, if it is here.
fn peer(name: &str) -> Option<String> {
    let (own, other) = (number(name, "ifindex")?, number(name, "iflink")?);
    let here = fs::read_dir("/sys/class/net").ok()?.flatten();
    let mut names = here.filter_map(|entry| entry.file_name().into_string().ok());
    names.find(|peer| {
        peer != name
            && number(peer, "ifindex") == Some(other)
            && number(peer, "iflink") == Some(own)
    })
}

fn number(interface: &str, file: &str) -> Option<u32> {
    let path = Path::new("/sys/class/net").join(interface).join(file);
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A device that can carry inner packets so long.
pub(super) fn find(name: &str, longest: u16) -> Result<Device, PortsError> {
    let interface = name.to_owned();
    let device = match Device::by_name(name) {
        Ok(device) => device,
        Err(e) if e.kind() == io::ErrorKind::NotFound || is_no_device(&e) => {
            return Err(PortsError::Missing(interface));
        }
        Err(source) => return Err(PortsError::Device { interface, source }),
    };
    // Outer header, ESP header, IV, padding, trailer and ICV.
    let (mtu, needed) = (device.mtu(), u32::from(longest) + 62);
    if mtu < needed {
        return Err(PortsError::Mtu { interface, mtu, needed });
    }
    if device.runs() { Ok(device) } else { Err(PortsError::Down(interface)) }
}

/// ENODEV, for which Rust has no kind.
fn is_no_device(error: &io::Error) -> bool {
    error.raw_os_error() == Some(19)
}
