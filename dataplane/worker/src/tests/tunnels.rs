//! The devices of route-based tunnels. A pair of datagram sockets keeps packets apart as a TUN does.

use super::bed::*;
use crate::*;
use ipsec::drop_cause::DropCause;
use ipsec::sa::PairId;
use ipsec::selector::{Action, Policy, PolicyId, Ports, Selector};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

/// The same addresses in every tunnel.
const GROUP: &str = "224.0.0.5";
const LINK4: &str = "169.254.0.1";
const LINK6: &str = "fe80::1";

fn everything() -> Vec<Selector> {
    ["0.0.0.0/0", "::/0"]
        .map(|all| Selector {
            local: range(all),
            remote: range(all),
            protocol: None,
            local_ports: Ports::Any,
            remote_ports: Ports::Any,
        })
        .into()
}

/// Tunnels 1 and 2 for everything, with a device each; routed to them is nothing.
fn tunnels(workers: u16, deliver: fn(DeviceId) -> Delivery) -> (Bed, [[UnixDatagram; 2]; 2]) {
    let mut bed = Bed::new(BedConfig { workers, ..Default::default() });
    let spis = [1, 2].map(|n| bed.allocate(n % usize::from(workers), 0));
    let hosts = [0, 1].map(|side| {
        let gateway = if side == 0 { &mut bed.a } else { &mut bed.b };
        let default = Policy { id: PolicyId(9), selectors: everything(), action: Action::Bypass };
        gateway.dataplane.set_policies(&[default]).unwrap();
        for (n, (spi_a, spi_b)) in (1..).zip(spis) {
            let (spi_in, spi_out) = if side == 0 { (spi_a, spi_b) } else { (spi_b, spi_a) };
            let key = |from: u8| 2 * n as u8 + from;
            let parameters = |spi, key| {
                let mut found = gateway.parameters(n, Outer::V4, spi, key);
                found.selectors = everything();
                found
            };
            let inbound = parameters(spi_in, key(1 - side));
            let outbound = parameters(spi_out, key(side));
            let dataplane = &mut gateway.dataplane;
            dataplane.add_inbound(&inbound, deliver(DeviceId(n as u16))).unwrap();
            dataplane.add_outbound(&outbound).unwrap();
            dataplane.bind(PolicyId(n as u32), PairId(n), Activation::Now).unwrap();
        }
        let mut ends = Vec::new();
        let devices = [1, 2].map(|n| {
            let (host, queue) = UnixDatagram::pair().unwrap();
            for socket in [&host, &queue] {
                socket.set_nonblocking(true).unwrap();
            }
            ends.push(host);
            TunnelDevice {
                id: DeviceId(n),
                queue: Arc::new(TunQueue::new(queue.into())),
                policies: vec![(PolicyId(n.into()), everything())],
            }
        });
        gateway.dataplane.set_tunnels(devices.into()).unwrap();
        <[UnixDatagram; 2]>::try_from(ends).unwrap()
    });
    bed.steps(3);
    (bed, hosts)
}

fn read(socket: &UnixDatagram) -> Option<Vec<u8>> {
    let mut buffer = [0; 2048];
    socket.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec())
}

/// What enters a device comes out of the device of the same tunnel at the other end, though both carry the same addresses; and nothing
/// goes in clear.
#[test]
fn a_packet_stays_in_its_tunnel() {
    for workers in [1, 2] {
        let (mut bed, [a, b]) = tunnels(workers, Delivery::Device);
        for (number, (from, to)) in (0..).zip([
            (LINK4, GROUP),
            (LINK6, "ff02::5"),
            (LINK6, "fe80::2"),
            (A.wan4, B.gateway4),
            (A.wan6, B.gateway6),
        ]) {
            for n in [1, 0] {
                let packet = datagram(ip(from), ip(to), 10 * number + n as u32, 100);
                a[n].send(&packet).unwrap();
                bed.steps(12);
                assert_eq!(read(&b[n]), Some(packet), "{to} by {n}, {workers} workers");
                assert_eq!(read(&b[1 - n]), None);
            }
        }
        for gateway in [&bed.a, &bed.b] {
            assert_eq!(gateway.all_drops(), 0);
            gateway.assert_no_frame_is_missing();
        }
    }
}

/// For others than the host: forwarded, unless all is the host's.
#[test]
fn what_is_for_others_is_forwarded_or_the_hosts() {
    for (deliver, forwarded) in
        [(Delivery::Device as fn(DeviceId) -> Delivery, true), (Delivery::DeviceOnly, false)]
    {
        let (mut bed, [a, b]) = tunnels(1, deliver);
        let packet = datagram(ip(A.wan4), ip(B.host4), 7, 100);
        for _ in 0..3 {
            a[0].send(&packet).unwrap();
            bed.steps(4);
            let sent = received(&mut bed.host_b);
            if forwarded {
                assert_eq!((number(&sent[0]), sent[0][8], sent.len()), (7, 63, 1));
                assert_eq!(read(&b[0]), None);
            } else {
                assert_eq!((sent.len(), read(&b[0])), (0, Some(packet.clone())));
            }
        }
    }
}

/// Without an SA a packet of a device waits for one of its own policy, and takes that only.
#[test]
fn a_packet_waits_for_an_sa_of_its_device() {
    let (mut bed, [a, b]) = tunnels(1, Delivery::Device);
    bed.a.dataplane.unbind(PairId(1)).unwrap();
    bed.steps(2);
    let packet = datagram(ip(LINK4), ip(GROUP), 1, 100);
    a[0].send(&packet).unwrap();
    bed.steps(4);
    let acquired = |event: &Event| matches!(event, Event::Acquire { policy: PolicyId(1), .. });
    assert!(bed.a.events.iter().any(acquired));
    // Changed policies have it asked again, to the same end.
    let default = Policy { id: PolicyId(9), selectors: everything(), action: Action::Bypass };
    bed.a.dataplane.set_policies(&[default]).unwrap();
    bed.steps(4);
    assert_eq!((read(&b[0]), read(&b[1])), (None, None));
    bed.a.dataplane.bind(PolicyId(1), PairId(1), Activation::Now).unwrap();
    bed.steps(4);
    assert_eq!((read(&b[0]), read(&b[1])), (Some(packet.clone()), None));
    // One whose device goes meanwhile is dropped.
    bed.a.dataplane.unbind(PairId(1)).unwrap();
    bed.steps(2);
    a[0].send(&packet).unwrap();
    bed.steps(4);
    bed.a.dataplane.set_tunnels(Vec::new()).unwrap();
    bed.steps(4);
    assert_eq!(bed.a.drops(DropCause::NoPolicy), 1);
    assert!(a[0].send(&packet).is_err(), "the queue is closed");
}

/// What no child of the device is for does not leave, and what the host does not take is counted.
#[test]
fn what_a_device_drops() {
    let (mut bed, [a, b]) = tunnels(1, Delivery::Device);
    a[0].send(&[0x45, 0, 0]).unwrap();
    bed.steps(2);
    assert_eq!(bed.a.drops(DropCause::MalformedHeader), 1);
    drop(b);
    a[0].send(&datagram(ip(LINK4), ip(GROUP), 1, 100)).unwrap();
    bed.steps(4);
    assert_eq!(bed.b.drops(WorkerDrop::HostFull), 1);
}
