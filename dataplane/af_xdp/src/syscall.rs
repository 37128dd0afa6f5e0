//! The system calls of this crate, each behind a safe signature.

use crate::bpf::Attr;
use crate::umem::PacketMemory;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

/// What a huge page holds, and how it is aligned.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Maps `length` octets of zeroed private memory, present from the start.
pub(crate) fn map_anonymous(length: usize, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let p = unsafe {
        libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    if p == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(p.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// [`map_anonymous`] in transparent huge pages, where the system gives some.
pub(crate) fn map_transparent_huge(length: usize) -> io::Result<NonNull<u8>> {
    let length = length.next_multiple_of(HUGE_PAGE);
    // More by a page than is used, so that an aligned range is inside; the rest is never touched.
    let base = map_anonymous(length + HUGE_PAGE, 0)?;
    let skip = base.addr().get().next_multiple_of(HUGE_PAGE) - base.addr().get();
    // SAFETY: `skip` is less than the page that was mapped in excess.
    let base = unsafe { base.add(skip) };
    // SAFETY: advice on a range of our own mapping; it does not change what the memory holds.
    unsafe { libc::madvise(base.as_ptr().cast(), length, libc::MADV_HUGEPAGE) };
    // SAFETY: as above.
    let r = unsafe { libc::madvise(base.as_ptr().cast(), length, libc::MADV_POPULATE_WRITE) };
    if r < 0 {
        let error = io::Error::last_os_error();
        // A kernel before 5.14 does not know the advice, and makes the pages when they are touched.
        if error.raw_os_error() != Some(libc::EINVAL) {
            return Err(error);
        }
    }
    Ok(base)
}

/// An event counter that poll() can wait for.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor fresh from the kernel, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one to an event counter; a full counter is as good, it wakes too.
pub(crate) fn eventfd_add(fd: BorrowedFd<'_>) {
    let one = 1u64;
    // SAFETY: eight readable octets.
    unsafe { libc::write(fd.as_raw_fd(), (&raw const one).cast(), 8) };
}

/// Sets an event counter to zero.
pub(crate) fn eventfd_clear(fd: BorrowedFd<'_>) {
    let mut value = 0u64;
    // SAFETY: eight writable octets.
    unsafe { libc::read(fd.as_raw_fd(), (&raw mut value).cast(), 8) };
}

/// Waits for events; the number of descriptors that have some.
pub(crate) fn poll(fds: &mut [libc::pollfd], timeout: libc::c_int) -> io::Result<usize> {
    // SAFETY: the pointer and the length are one slice's.
    let n = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// Issues a bpf(2) command.
///
/// # Safety
/// The attribute's pointers and lengths describe memory that the command may use as it does.
pub(crate) unsafe fn bpf(command: u32, mut attr: Attr<'_>) -> io::Result<RawFd> {
    let length = attr.bytes_mut().len();
    // SAFETY: the caller's.
    unsafe { bpf_in_out(command, &mut attr, length) }
}

/// [`bpf`], with only the first `length` octets of the attribute, which the command may change.
///
/// # Safety
/// As for [`bpf`].
pub(crate) unsafe fn bpf_in_out(
    command: u32,
    attr: &mut Attr<'_>,
    length: usize,
) -> io::Result<RawFd> {
    let bytes = &mut attr.bytes_mut()[..length];
    // SAFETY: the attribute has `length` octets; for what it points to, the caller's contract.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, bytes.as_mut_ptr(), length) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r as RawFd) }
}

/// The number of a network device.
pub(crate) fn interface_index(name: &CStr) -> io::Result<u32> {
    // SAFETY: a string that ends in zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// A socket to put interface questions to.
pub(crate) fn ioctl_socket() -> io::Result<OwnedFd> {
    socket(libc::AF_INET, libc::SOCK_DGRAM)
}

/// A socket, closed on exec.
pub(crate) fn socket(family: libc::c_int, kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor fresh from the kernel, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Large receive offload is on.
pub(crate) const ETH_FLAG_LRO: u32 = 1 << 15;
/// VLAN tags are taken out of received frames.
pub(crate) const ETH_FLAG_RXVLAN: u32 = 1 << 8;

const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_SCHANNELS: u32 = 0x3d;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct EthtoolChannels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    _max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    _other: u32,
    combined: u32,
}

/// Questions about one device.
pub(crate) struct InterfaceQuery<'a> {
    socket: &'a OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

impl<'a> InterfaceQuery<'a> {
    pub(crate) fn new(socket: &'a OwnedFd, name: &CStr) -> io::Result<Self> {
        let mut bytes = [0; libc::IFNAMSIZ];
        let name = name.to_bytes_with_nul();
        let field = bytes.get_mut(..name.len()).ok_or(io::ErrorKind::InvalidInput)?;
        for (to, from) in field.iter_mut().zip(name) {
            *to = *from as libc::c_char;
        }
        Ok(Self { socket, name: bytes })
    }

    fn ask(&self, question: libc::c_ulong, data: *mut libc::c_void) -> io::Result<libc::ifreq> {
        let mut request = libc::ifreq {
            ifr_name: self.name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: data.cast() },
        };
        // SAFETY: a whole ifreq; `data`, for the questions that use it, points to a whole structure of the
        // kind that its command names (the two callers below).
        let r = unsafe { libc::ioctl(self.socket.as_raw_fd(), question as _, &raw mut request) };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(request) }
    }

    pub(crate) fn mtu(&self) -> io::Result<u32> {
        let answer = self.ask(libc::SIOCGIFMTU, std::ptr::null_mut())?;
        // SAFETY: SIOCGIFMTU sets this field, and every bit pattern is an integer.
        Ok(unsafe { answer.ifr_ifru.ifru_mtu } as u32)
    }

    /// Whether it is up and has a carrier.
    pub(crate) fn runs(&self) -> io::Result<bool> {
        let answer = self.ask(libc::SIOCGIFFLAGS, std::ptr::null_mut())?;
        // SAFETY: SIOCGIFFLAGS sets this field, and every bit pattern is a set of flags.
        let flags = i32::from(unsafe { answer.ifr_ifru.ifru_flags });
        Ok(flags & libc::IFF_UP != 0 && flags & libc::IFF_RUNNING != 0)
    }

    pub(crate) fn address(&self) -> io::Result<[u8; 6]> {
        let answer = self.ask(libc::SIOCGIFHWADDR, std::ptr::null_mut())?;
        // SAFETY: SIOCGIFHWADDR sets this field, and every bit pattern is an address.
        let address = unsafe { answer.ifr_ifru.ifru_hwaddr };
        let mut octets = [0; 6];
        for (to, from) in octets.iter_mut().zip(address.sa_data) {
            *to = from as u8;
        }
        Ok(octets)
    }

    /// Receive and transmit queues in use.
    pub(crate) fn channels(&self) -> io::Result<(u32, u32)> {
        let mut channels = EthtoolChannels { command: ETHTOOL_GCHANNELS, ..Default::default() };
        self.ask(libc::SIOCETHTOOL, (&raw mut channels).cast())?;
        Ok((channels.rx + channels.combined, channels.tx + channels.combined))
    }

    /// Has at least so many receive and transmit queues in use, by whichever kind of channel the device has.
    pub(crate) fn set_channels(&self, queues: u32) -> io::Result<()> {
        let mut channels = EthtoolChannels { command: ETHTOOL_GCHANNELS, ..Default::default() };
        self.ask(libc::SIOCETHTOOL, (&raw mut channels).cast())?;
        let max = match channels.max_combined {
            0 => channels.max_rx.min(channels.max_tx),
            max => max,
        };
        if queues > max {
            return Err(io::Error::other(format!("it has room for {max} at most")));
        }
        if channels.max_combined == 0 {
            channels.rx = channels.rx.max(queues);
            channels.tx = channels.tx.max(queues);
        } else {
            channels.combined = channels.combined.max(queues);
        }
        channels.command = ETHTOOL_SCHANNELS;
        self.ask(libc::SIOCETHTOOL, (&raw mut channels).cast()).map(drop)
    }

    pub(crate) fn ethtool_flags(&self) -> io::Result<u32> {
        self.ethtool_value(ETHTOOL_GFLAGS, 0)
    }

    pub(crate) fn set_ethtool_flags(&self, flags: u32) -> io::Result<()> {
        self.ethtool_value(ETHTOOL_SFLAGS, flags).map(drop)
    }

    pub(crate) fn generic_receive(&self) -> io::Result<bool> {
        self.ethtool_value(ETHTOOL_GGRO, 0).map(|on| on != 0)
    }

    pub(crate) fn set_generic_receive(&self, on: bool) -> io::Result<()> {
        self.ethtool_value(ETHTOOL_SGRO, u32::from(on)).map(drop)
    }

    fn ethtool_value(&self, command: u32, data: u32) -> io::Result<u32> {
        let mut value = EthtoolValue { command, data };
        self.ask(libc::SIOCETHTOOL, (&raw mut value).cast())?;
        Ok(value.data)
    }
}

/// Maps a ring of an AF_XDP socket.
pub(crate) fn map_shared(
    socket: BorrowedFd<'_>,
    length: usize,
    offset: libc::off_t,
) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let p = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_POPULATE,
            socket.as_raw_fd(),
            offset,
        )
    };
    if p == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(p.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Ends a mapping of [`map_shared`].
///
/// # Safety
/// The mapping is the caller's, and nothing borrows from it any more.
pub(crate) unsafe fn unmap(base: NonNull<u8>, length: usize) {
    // SAFETY: the caller's.
    unsafe { libc::munmap(base.as_ptr().cast(), length) };
}

/// Sets a whole-number option of a socket.
pub(crate) fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: u32,
) -> io::Result<()> {
    // SAFETY: four readable octets.
    let r =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), 4) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Registers packet memory with an AF_XDP socket. The kernel then reads and writes the chunks that descriptors
/// in the socket's rings lend it, and no others.
pub(crate) fn register_umem(socket: BorrowedFd<'_>, memory: &PacketMemory) -> io::Result<()> {
    let (addr, len, chunk_size) = memory.extent();
    let registration =
        libc::xdp_umem_reg { addr, len, chunk_size, headroom: 0, flags: 0, tx_metadata_len: 0 };
    // SAFETY: a whole xdp_umem_reg.
    let r = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_UMEM_REG,
            (&raw const registration).cast(),
            size_of_val(&registration) as libc::socklen_t,
        )
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An option structure of AF_XDP that the kernel fills in.
///
/// # Safety
/// Every bit pattern is a valid value, zero among them.
unsafe trait Plain: Copy {}

// SAFETY: whole numbers only.
unsafe impl Plain for libc::xdp_mmap_offsets {}
// SAFETY: whole numbers only.
unsafe impl Plain for libc::xdp_statistics {}
// SAFETY: whole numbers only.
unsafe impl Plain for libc::xdp_options {}

fn get_xdp_option<T: Plain>(socket: BorrowedFd<'_>, name: libc::c_int) -> io::Result<T> {
    // SAFETY: zero is a value of every `Plain` type.
    let mut value: T = unsafe { std::mem::zeroed() };
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `length` writable octets, of a type that takes any bit pattern.
    let r = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Where the words of the rings are.
pub(crate) fn ring_offsets(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    get_xdp_option(socket, libc::XDP_MMAP_OFFSETS)
}

/// The kernel's counters of a socket.
pub(crate) fn xdp_statistics(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_statistics> {
    get_xdp_option(socket, libc::XDP_STATISTICS)
}

/// Whether a bound socket works without copying.
pub(crate) fn is_zero_copy(socket: BorrowedFd<'_>) -> io::Result<bool> {
    get_xdp_option::<libc::xdp_options>(socket, libc::XDP_OPTIONS)
        .map(|o| o.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// Binds an AF_XDP socket to a queue.
pub(crate) fn bind_xdp(
    socket: BorrowedFd<'_>,
    device: u32,
    queue: u32,
    flags: u16,
) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: device,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    // SAFETY: a whole sockaddr_xdp.
    let r = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the kernel look at a transmit ring.
#[inline]
pub(crate) fn kick_transmit(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no data and no address.
    let r = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            std::ptr::null(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null(),
            0,
        )
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the kernel look at a fill ring. What fails now is tried again at the next call.
#[inline]
pub(crate) fn kick_receive(socket: BorrowedFd<'_>) {
    // SAFETY: no buffer and no address.
    unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
}

/// The error that a socket has met, which is forgotten by asking.
pub(crate) fn take_socket_error(socket: BorrowedFd<'_>) -> io::Result<Option<io::Error>> {
    let mut error: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: a writable int, and its length.
    let r = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut error).cast(),
            &raw mut length,
        )
    };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((error != 0).then(|| io::Error::from_raw_os_error(error)))
}
