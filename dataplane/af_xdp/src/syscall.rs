//! The system calls of this crate, each behind a safe signature.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
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
