//! The sockets of the control thread: IKE on UDP 500 and 4500, and the raw and UDP sockets on
//! which the kernel delivers ESP and AH that it has reassembled from fragments.
//!
//! IKE behind UDP 4500 carries the non-ESP marker (RFC 3948 §2.2); it is added and taken off
//! here. Whole ESP packets never come this way while AF_XDP takes them below the kernel.

use core::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrIn, SockaddrIn6, SockaddrStorage, bind, recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Four zero octets in front of IKE on the NAT traversal port (RFC 3948 §2.2).
const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// The largest UDP payload.
const MAX_DATAGRAM: usize = 65_507;

/// How many datagrams are read before the engine runs: bounds what waits unprocessed.
pub const RECEIVE_BATCH: usize = 32;

/// What arrived.
#[derive(Debug)]
pub enum Arrival {
    /// An IKE message, without the non-ESP marker.
    Ike {
        /// Our address and port.
        local: SocketAddr,
        /// The peer's.
        remote: SocketAddr,
        /// The message.
        message: Vec<u8>,
    },
    /// ESP or AH that the kernel reassembled.
    Ipsec(Reassembled),
    /// An ICMP error: a router on the way did not take a packet of ESP or AH. Anybody can send one.
    TooBig(TooBig),
}

/// What an ICMP error of type "fragmentation needed" or "packet too big" says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig {
    /// Where the packet that it quotes was going.
    pub destination: IpAddr,
    /// The SPI in it.
    pub spi: u32,
    /// What the next link takes, in bytes.
    pub mtu: u32,
}

/// A protected packet reassembled by the kernel, header fields apart (IPv6 raw sockets deliver
/// none).
#[derive(Debug)]
pub struct Reassembled {
    /// Outer source.
    pub source: SocketAddr,
    /// Outer destination.
    pub destination: SocketAddr,
    /// 17 (UDP encapsulation), 50 or 51.
    pub protocol: u8,
    /// TOS or traffic class of the outer header.
    pub traffic_class: u8,
    /// The IPv4 header as it came, with identification and options, which AH covers; empty where the socket gives none.
    pub header: Vec<u8>,
    /// From the ESP or AH header on.
    pub payload: Vec<u8>,
}

/// What went wrong while receiving, for the statistics (`receive_failures`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveFailures {
    /// Errors of recvmsg, those of the error queue and truncations.
    pub errors: u64,
    /// Datagrams that the kernel dropped for want of buffer (SO_RXQ_OVFL).
    pub overflows: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ike { marker: bool },
    Raw { protocol: u8 },
}

struct Bound {
    fd: OwnedFd,
    kind: Kind,
    local: SocketAddr,
    overflows: u32,
}

/// All of them.
pub struct Sockets {
    bound: Vec<Bound>,
    failures: ReceiveFailures,
    buffer: Vec<u8>,
}

/// Why the sockets cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {protocol} socket {local}: {source}{}", hint(*source))]
pub struct SocketError {
    what: &'static str,
    protocol: &'static str,
    local: SocketAddr,
    source: Errno,
}

fn hint(source: Errno) -> &'static str {
    match source {
        Errno::EADDRINUSE => " (is another IKE daemon running here?)",
        Errno::EPERM | Errno::EACCES => " (root or CAP_NET_ADMIN, CAP_NET_RAW is needed)",
        _ => "",
    }
}

impl Sockets {
    /// Binds IKE on `port` and `port_nat_t` and the raw ESP and AH sockets, for both families.
    /// Every one carries `mark`, so that the gateway's own policies do not catch it.
    pub fn open(port: u16, port_nat_t: u16, mark: u32) -> Result<Self, SocketError> {
        let mut bound = Vec::new();
        for any in [
            IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(core::net::Ipv6Addr::UNSPECIFIED),
        ] {
            for (kind, port) in [
                (Kind::Ike { marker: false }, port),
                (Kind::Ike { marker: true }, port_nat_t),
                (Kind::Raw { protocol: 50 }, 0),
                (Kind::Raw { protocol: 51 }, 0),
            ] {
                match open_one(SocketAddr::new(any, port), kind, mark) {
                    Ok(socket) => bound.push(socket),
                    // A host without IPv6 is served over IPv4.
                    Err(e) if any.is_ipv6() && e.source == Errno::EAFNOSUPPORT => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(Self { bound, failures: ReceiveFailures::default(), buffer: vec![0; 1 << 16] })
    }

    /// The descriptors to poll for reading.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.bound.iter().map(|socket| socket.fd.as_fd())
    }

    /// Totals since start.
    pub fn failures(&self) -> ReceiveFailures {
        self.failures
    }

    /// Reads up to [`RECEIVE_BATCH`] datagrams of every socket.
    pub fn receive(&mut self, out: &mut Vec<Arrival>) {
        for socket in &mut self.bound {
            for _ in 0..RECEIVE_BATCH {
                match receive_one(socket, &mut self.buffer, &mut self.failures) {
                    Ok(Some(arrival)) => out.push(arrival),
                    Ok(None) => {}
                    Err(Errno::EAGAIN) => break,
                    Err(Errno::EINTR) => {}
                    Err(_) => {
                        self.failures.errors += 1;
                        drain_error_queue(socket, out);
                    }
                }
            }
        }
    }

    /// Sends an IKE message from `local` to `remote`; the socket is the one bound to
    /// `local`'s port.
    pub fn send(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        message: &[u8],
    ) -> Result<(), Errno> {
        let socket = self
            .bound
            .iter()
            .find(|socket| {
                matches!(socket.kind, Kind::Ike { .. })
                    && socket.local.port() == local.port()
                    && socket.local.is_ipv4() == remote.is_ipv4()
            })
            .ok_or(Errno::EADDRNOTAVAIL)?;
        let marker: &[u8] = match socket.kind {
            // A keepalive of one octet is sent as it is (RFC 3948 §2.3).
            Kind::Ike { marker: true } if message.len() > 1 => &NON_ESP_MARKER,
            _ => &[],
        };
        let parts = [IoSlice::new(marker), IoSlice::new(message)];
        match (local.ip(), remote) {
            (IpAddr::V4(source), SocketAddr::V4(to)) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from(source).to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                sendmsg(
                    socket.fd.as_raw_fd(),
                    &parts,
                    &control,
                    MsgFlags::empty(),
                    Some(&SockaddrIn::from(to)),
                )
            }
            (IpAddr::V6(source), SocketAddr::V6(to)) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
                    ipi6_ifindex: to.scope_id(),
                };
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                sendmsg(
                    socket.fd.as_raw_fd(),
                    &parts,
                    &control,
                    MsgFlags::empty(),
                    Some(&SockaddrIn6::from(to)),
                )
            }
            _ => Err(Errno::EAFNOSUPPORT),
        }
        .map(drop)
    }
}

fn open_one(local: SocketAddr, kind: Kind, mark: u32) -> Result<Bound, SocketError> {
    let protocol = match kind {
        Kind::Ike { .. } => "UDP",
        Kind::Raw { protocol: 50 } => "ESP",
        Kind::Raw { .. } => "AH",
    };
    let fail = |what| move |source| SocketError { what, protocol, local, source };
    let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = match kind {
        Kind::Ike { .. } => socket(family, SockType::Datagram, flags, SockProtocol::Udp),
        Kind::Raw { protocol } => raw::socket(family, flags, protocol),
    }
    .map_err(fail("open"))?;
    let set = || -> Result<(), Errno> {
        setsockopt(&fd, sockopt::Mark, &mark)?;
        setsockopt(&fd, sockopt::RxqOvfl, &1)?;
        if local.is_ipv4() {
            setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
            setsockopt(&fd, sockopt::Ipv4RecvErr, &true)?;
            setsockopt(&fd, sockopt::IpRecvTos, &true)?;
        } else {
            if matches!(kind, Kind::Ike { .. }) {
                // A raw socket has its protocol for a port, and one that has a port refuses this.
                setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
            }
            setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
            setsockopt(&fd, sockopt::Ipv6RecvErr, &true)?;
            raw::receive_traffic_class(&fd)?;
            if matches!(kind, Kind::Ike { marker: true }) {
                // UDP-encapsulated ESP may carry no UDP checksum over IPv6 either (RFC 6935).
                raw::accept_zero_checksum(&fd)?;
            }
        }
        Ok(())
    };
    set().map_err(fail("set up"))?;
    if matches!(kind, Kind::Ike { .. }) {
        let address = match local {
            SocketAddr::V4(a) => SockaddrStorage::from(a),
            SocketAddr::V6(a) => SockaddrStorage::from(a),
        };
        bind(fd.as_raw_fd(), &address).map_err(fail("bind"))?;
    }
    Ok(Bound { fd, kind, local, overflows: 0 })
}

fn receive_one(
    socket: &mut Bound,
    buffer: &mut [u8],
    failures: &mut ReceiveFailures,
) -> Result<Option<Arrival>, Errno> {
    let mut control = cmsg_space!(libc::in6_pktinfo, u32, libc::c_int, libc::sock_extended_err);
    let (length, remote, local_ip, traffic_class, truncated) = {
        let mut parts = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrStorage>(
            socket.fd.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let (mut local, mut class) = (None, 0);
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    local = Some(IpAddr::V4(u32::from_be(info.ipi_addr.s_addr).into()));
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    local = Some(IpAddr::V6(info.ipi6_addr.s6_addr.into()));
                }
                ControlMessageOwned::RxqOvfl(total) => {
                    failures.overflows += u64::from(total.wrapping_sub(socket.overflows));
                    socket.overflows = total;
                }
                ControlMessageOwned::Ipv4Tos(tos) => class = tos,
                ControlMessageOwned::Ipv6TClass(tc) => class = u8::try_from(tc).unwrap_or(0),
                _ => {}
            }
        }
        let remote = message.address.as_ref().and_then(address);
        (message.bytes, remote, local, class, message.flags.contains(MsgFlags::MSG_TRUNC))
    };
    let (Some(remote), Some(local_ip)) = (remote, local_ip) else { return Ok(None) };
    if truncated {
        failures.errors += 1;
        return Ok(None);
    }
    let local = SocketAddr::new(local_ip, socket.local.port());
    let Some(bytes) = buffer.get(..length.min(MAX_DATAGRAM)) else { return Ok(None) };
    let ipsec = |protocol, header: &[u8], payload: &[u8]| {
        Some(Arrival::Ipsec(Reassembled {
            source: remote,
            destination: local,
            protocol,
            traffic_class,
            header: header.to_vec(),
            payload: payload.to_vec(),
        }))
    };
    Ok(match socket.kind {
        Kind::Ike { marker: false } => {
            Some(Arrival::Ike { local, remote, message: bytes.to_vec() })
        }
        Kind::Ike { marker: true } => match bytes.split_at_checked(4) {
            // RFC 3948 §2.3: one octet 0xFF is a keepalive; shorter than an SPI is nothing.
            None => None,
            Some((first, message)) if first == NON_ESP_MARKER => {
                Some(Arrival::Ike { local, remote, message: message.to_vec() })
            }
            Some(_) => ipsec(17, &[], bytes),
        },
        Kind::Raw { protocol } if remote.is_ipv6() => ipsec(protocol, &[], bytes),
        Kind::Raw { protocol } => {
            // An IPv4 raw socket delivers the IP header too.
            let header = bytes.first().map_or(0, |b| usize::from(b & 15) * 4);
            bytes
                .split_at_checked(header)
                .and_then(|(header, payload)| ipsec(protocol, header, payload))
        }
    })
}

/// Takes what IP_RECVERR queued, so that the socket does not report it again.
fn drain_error_queue(socket: &Bound, out: &mut Vec<Arrival>) {
    let mut scratch = [0u8; 64];
    // The error with its sender, packet information, TOS and SO_RXQ_OVFL: all that is asked for on these sockets.
    let mut control = cmsg_space!(
        libc::sock_extended_err,
        libc::sockaddr_in6,
        libc::in6_pktinfo,
        libc::c_int,
        u32
    );
    for _ in 0..RECEIVE_BATCH {
        let (length, destination, mtu) = {
            let mut parts = [IoSliceMut::new(&mut scratch)];
            let Ok(message) = recvmsg::<SockaddrStorage>(
                socket.fd.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::MSG_ERRQUEUE,
            ) else {
                return;
            };
            let mtu = message.cmsgs().ok().and_then(|mut all| all.find_map(|one| too_big(&one)));
            (message.bytes, message.address.as_ref().and_then(address), mtu)
        };
        // What is quoted begins behind the IP header, or behind that of UDP (Linux, `ip_icmp_error`).
        let quoted = scratch.get(..length).unwrap_or_default();
        let at = match socket.kind {
            Kind::Raw { protocol: 51 } => 4,
            Kind::Raw { .. } | Kind::Ike { marker: true } => 0,
            Kind::Ike { marker: false } => continue,
        };
        let spi = quoted.get(at..).and_then(|rest| rest.first_chunk());
        if let (Some(destination), Some(mtu), Some(&spi)) = (destination, mtu, spi) {
            let (destination, spi) = (destination.ip(), u32::from_be_bytes(spi));
            out.push(Arrival::TooBig(TooBig { destination, spi, mtu }));
        }
    }
}

/// The MTU in an error that came by ICMP: RFC 1191 §4, RFC 4443 §3.2.
fn too_big(control: &ControlMessageOwned) -> Option<u32> {
    let (ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _)) =
        control
    else {
        return None;
    };
    let said = matches!(
        (error.ee_origin, error.ee_type, error.ee_code),
        (libc::SO_EE_ORIGIN_ICMP, 3, 4) | (libc::SO_EE_ORIGIN_ICMP6, 2, 0)
    );
    said.then_some(error.ee_info)
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        Some(SocketAddr::V4(SocketAddrV4::from(*v4)))
    } else {
        storage.as_sockaddr_in6().map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6)))
    }
}

#[expect(unsafe_code, reason = "options and protocols that nix does not name; docs/unsafe.md")]
mod raw {
    use super::{AddressFamily, AsRawFd, Errno, OwnedFd, SockFlag};
    use std::os::fd::FromRawFd;

    pub(super) fn socket(
        family: AddressFamily,
        flags: SockFlag,
        protocol: u8,
    ) -> Result<OwnedFd, Errno> {
        // SAFETY: socket(2) takes no pointer.
        let fd = unsafe {
            libc::socket(family as libc::c_int, libc::SOCK_RAW | flags.bits(), protocol.into())
        };
        let fd = Errno::result(fd)?;
        // SAFETY: the descriptor was returned just now and nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn set(fd: &OwnedFd, level: i32, name: i32) -> Result<(), Errno> {
        let on: libc::c_int = 1;
        // SAFETY: the kernel reads one int, whose size is given and which outlives the call.
        let done = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                level,
                name,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        Errno::result(done).map(drop)
    }

    pub(super) fn accept_zero_checksum(fd: &OwnedFd) -> Result<(), Errno> {
        const UDP_NO_CHECK6_RX: libc::c_int = 102;
        set(fd, libc::SOL_UDP, UDP_NO_CHECK6_RX)
    }

    pub(super) fn receive_traffic_class(fd: &OwnedFd) -> Result<(), Errno> {
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On loopback, with ports of our own, IKE goes out and comes in with and without the marker
    /// and arrives with the address it was sent to.
    #[test]
    fn ike_and_reassembled_esp_are_told_apart() {
        let Ok(mut sockets) = Sockets::open(42_500, 42_501, 0) else {
            println!("skipped: raw sockets and SO_MARK need root");
            return;
        };
        let near: SocketAddr = "127.0.0.1:42501".parse().unwrap();
        let plain: SocketAddr = "127.0.0.1:42500".parse().unwrap();
        sockets.send(near, near, b"behind the marker").unwrap();
        sockets.send(plain, plain, b"bare").unwrap();
        let esp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        esp.send_to(&[1, 2, 3, 4, 5, 6, 7, 8, 9], near).unwrap();
        esp.send_to(&[0xff], near).unwrap();
        let mut arrivals = Vec::new();
        sockets.receive(&mut arrivals);
        let mut seen = arrivals.iter().map(|a| match a {
            Arrival::Ike { message, local, .. } => (0, message.clone(), local.port()),
            Arrival::Ipsec(p) => (p.protocol, p.payload.clone(), p.destination.port()),
            Arrival::TooBig(said) => panic!("{said:?}"),
        });
        assert_eq!(seen.next().unwrap(), (0, b"bare".to_vec(), 42_500));
        assert_eq!(seen.next().unwrap(), (0, b"behind the marker".to_vec(), 42_501));
        assert_eq!(seen.next().unwrap(), (17, vec![1, 2, 3, 4, 5, 6, 7, 8, 9], 42_501));
        assert_eq!(seen.next(), None, "a keepalive is no message");
        assert_eq!(sockets.failures(), ReceiveFailures::default());
    }
}
