//! The segment file, mapped. The only unsafe code of the crate.
//!
//! Invariant: `address` is a live `MAP_SHARED` mapping of `words` words, readable and writable,
//! page-aligned, from `Mapping::new` to `drop`. All access is through `AtomicU64`, so that other
//! processes that map or write the file race with us only as atomics may.
//!
//! The file is as long as the mapping when it is made and belongs to the daemon. Whoever may
//! truncate it (root) can end the daemon by SIGBUS, as they can by other means; readers use
//! `pread` and have no such fear.

use std::{fs::File, io, os::fd::AsRawFd, ptr::NonNull, slice};

use crate::atomic::AtomicU64;

/// A shared mapping of a whole segment file, with the file and so the lock on it.
pub(crate) struct Mapping {
    address: NonNull<AtomicU64>,
    words: usize,
    _file: File,
}

// SAFETY: the mapping is not bound to a thread: mmap and munmap act on the process, and the words
// are reached only as `AtomicU64`, which is `Sync`.
unsafe impl Send for Mapping {}

// SAFETY: `&Mapping` gives out nothing but `&[AtomicU64]`, which threads may share.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `words` words of `file`, which must be that long already.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` where the file is shorter, else what mmap(2) reports.
    pub(crate) fn new(file: File, words: usize) -> io::Result<Self> {
        let bytes = words.checked_mul(size_of::<u64>()).ok_or(io::ErrorKind::InvalidInput)?;
        if file.metadata()?.len() < bytes as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: a null hint lets the kernel choose unused addresses, so no memory of ours is
        // replaced; the descriptor is open for reading and writing and `file` outlives the call.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { address, words, _file: file })
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has `words` words from `address` (checked against the file's length
        // in `new`), page-aligned, and lives until `drop`, which the borrow of `self` forbids; any
        // bytes are a valid `AtomicU64`, and nothing here makes a non-atomic reference to them.
        unsafe { slice::from_raw_parts(self.address.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped, unmapped once, with no borrow of it left.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.words * size_of::<u64>()) };
    }
}
