//! The system calls of this crate, each behind a safe signature.

use crate::bpf::Attr;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

/// Maps `length` octets of zeroed private memory, present from the start.
pub(crate) fn map_anonymous(length: usize, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE | flags;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let p = unsafe {
        libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    if p == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(p.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
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
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_value`.
#[repr(C)]
#[derive(Default)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct EthtoolChannels {
    command: u32,
    max: [u32; 4],
    rx: u32,
    _tx: u32,
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

    pub(crate) fn channels(&self) -> io::Result<u32> {
        let mut channels = EthtoolChannels { command: ETHTOOL_GCHANNELS, ..Default::default() };
        self.ask(libc::SIOCETHTOOL, (&raw mut channels).cast())?;
        let _ = channels.max;
        Ok(channels.rx + channels.combined)
    }

    pub(crate) fn ethtool_flags(&self) -> io::Result<u32> {
        let mut value = EthtoolValue { command: ETHTOOL_GFLAGS, ..Default::default() };
        self.ask(libc::SIOCETHTOOL, (&raw mut value).cast())?;
        Ok(value.data)
    }
}
