//! A bare AF_XDP forwarder: what comes by one port leaves by the other, with other Ethernet addresses and nothing else.
//! `tools/interop/speed.py` measures gateways against a chain of these.
//!
//! ```text
//! forward PORT NEXT-HOP-MAC PREFIX/LEN PORT NEXT-HOP-MAC PREFIX/LEN
//! ```
//!
//! Packets between the two prefixes are taken, in either direction and on either port; all others are the kernel's. It sleeps when there
//! is nothing to do, as a gateway's worker does, and runs until it is killed.

use af_xdp::steering::{Attachment, Posture, Prefix, Steering, Tables};
use af_xdp::wait::PollSet;
use af_xdp::{Device, Frame, FramePool, Port, UmemConfig, XdpConfig, XdpPort};
use std::error::Error;
use std::io::Write;
use std::time::Duration;

/// Turns without a packet before it sleeps, and packets at once: a worker's.
const EMPTY_TURNS: u32 = 64;
const BURST: usize = 32;

/// A port, and the addresses of all that leaves by it.
struct Side {
    port: Port,
    /// Destination and source.
    addresses: [u8; 12],
    // The program goes when this does.
    _attachment: Attachment,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port_a, mac_a, prefix_a, port_b, mac_b, prefix_b] = arguments.as_slice() else {
        return Err("forward PORT NEXT-HOP-MAC PREFIX/LEN PORT NEXT-HOP-MAC PREFIX/LEN".into());
    };
    let mut tables = Tables::new();
    tables.protect(prefix(prefix_a)?, prefix(prefix_b)?);
    let steering = Steering::new(&tables)?;
    let config = XdpConfig::default();
    let memory = UmemConfig::for_ports(2, config.receive_ring, config.transmit_ring);
    let mut pool = FramePool::new(&memory)?;
    let mut open = |name: &str, next_hop: &str| -> Result<Side, Box<dyn Error>> {
        let device = Device::by_name(name)?;
        let attachment = steering.attach(&device, None, config.mode.attach_modes())?;
        let port = Port::Xdp(XdpPort::open(&device, 0, &attachment, &mut pool, &config)?);
        let mut addresses = [0; 12];
        addresses[..6].copy_from_slice(&mac(next_hop)?);
        addresses[6..].copy_from_slice(&device.address());
        Ok(Side { port, addresses, _attachment: attachment })
    };
    let mut sides = [open(port_a, mac_a)?, open(port_b, mac_b)?];
    steering.set_posture(Posture::Guarded)?;
    writeln!(std::io::stdout(), "forwarding")?;

    let mut frames = Vec::with_capacity(BURST);
    let mut empty = 0;
    loop {
        let [a, b] = &mut sides;
        let moved = pass(a, b, &mut pool, &mut frames) + pass(b, a, &mut pool, &mut frames);
        empty = if moved > 0 { 0 } else { empty + 1 };
        if empty >= EMPTY_TURNS {
            sleep(&mut sides)?;
            empty = 0;
        }
    }
}

/// Takes a burst from one side to the other; how many packets.
fn pass(from: &mut Side, to: &mut Side, pool: &mut FramePool, frames: &mut Vec<Frame>) -> usize {
    from.port.complete(pool);
    let received = from.port.receive(pool, frames, BURST);
    for frame in &mut *frames {
        if let Some(addresses) = frame.data_mut().first_chunk_mut() {
            *addresses = to.addresses;
        }
    }
    to.port.transmit(pool, frames);
    to.port.kick();
    for frame in frames.drain(..) {
        // The transmit ring is full; its own frames come home.
        let _ = pool.free(frame);
    }
    received
}

fn sleep(sides: &mut [Side; 2]) -> std::io::Result<()> {
    // Both are asked even when one refuses: `wake` below is for both.
    let refused = sides.iter_mut().filter_map(|side| (!side.port.prepare_sleep()).then_some(()));
    if refused.count() == 0 {
        let mut set = PollSet::new();
        for fd in sides.iter().filter_map(|side| side.port.fd()) {
            set.add(fd);
        }
        set.wait(Some(Duration::from_secs(1)))?;
    }
    sides.iter_mut().for_each(|side| side.port.wake());
    Ok(())
}

fn prefix(text: &str) -> Result<Prefix, Box<dyn Error>> {
    let (address, length) = text.split_once('/').ok_or("a prefix is ADDRESS/LENGTH")?;
    Ok(Prefix::new(address.parse()?, length.parse()?).ok_or("a prefix is too long")?)
}

fn mac(text: &str) -> Result<[u8; 6], Box<dyn Error>> {
    let octets = text.split(':').map(|octet| u8::from_str_radix(octet, 16));
    let octets: Vec<u8> = octets.collect::<Result<_, _>>()?;
    Ok(octets.as_slice().try_into()?)
}
