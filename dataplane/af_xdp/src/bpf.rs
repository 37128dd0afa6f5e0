//! The bpf(2) commands this crate needs: maps, program load, XDP link, test run.

use crate::syscall::bpf;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Map kinds (`enum bpf_map_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum MapKind {
    Hash = 1,
    Array = 2,
    LpmTrie = 11,
    Sockets = 17,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// In the stack's receive path, for drivers without XDP.
    Generic,
}

// bpf(2) commands (`enum bpf_cmd`).
const MAP_CREATE: u32 = 0;
const MAP_LOOKUP_ELEM: u32 = 1;
const MAP_UPDATE_ELEM: u32 = 2;
const MAP_DELETE_ELEM: u32 = 3;
const PROG_LOAD: u32 = 5;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;

const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
/// The program looks at the first buffer of a packet only, and bears that there are more.
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;

const XDP_FLAGS_SKB_MODE: u32 = 2;
const XDP_FLAGS_DRV_MODE: u32 = 4;

/// Enough for the verifier's account of a program of some hundred instructions.
const LOG_BYTES: usize = 1 << 20;

/// `union bpf_attr` as octets; fields go to the offsets that linux/bpf.h gives them for a command. Pointers in it
/// are kept alive by its lifetime.
pub(crate) struct Attr<'a> {
    bytes: [u8; 144],
    _pointees: std::marker::PhantomData<&'a mut [u8]>,
}

impl<'a> Attr<'a> {
    fn new() -> Self {
        Self { bytes: [0; 144], _pointees: std::marker::PhantomData }
    }

    fn put(mut self, offset: usize, value: &[u8]) -> Self {
        self.bytes[offset..offset + value.len()].copy_from_slice(value);
        self
    }

    fn u32(self, offset: usize, value: u32) -> Self {
        self.put(offset, &value.to_ne_bytes())
    }

    fn fd(self, offset: usize, fd: BorrowedFd<'_>) -> Self {
        self.put(offset, &fd.as_raw_fd().to_ne_bytes())
    }

    /// Memory that the command reads.
    fn input<T>(self, offset: usize, memory: &'a [T]) -> Self {
        self.put(offset, &(memory.as_ptr() as u64).to_ne_bytes())
    }

    /// Memory that the command writes.
    fn output(self, offset: usize, memory: &'a mut [u8]) -> Self {
        self.put(offset, &(memory.as_mut_ptr() as u64).to_ne_bytes())
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: `fd` comes fresh from a bpf(2) command that returns a new descriptor; nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A map with keys and values of fixed length.
#[derive(Debug)]
pub(crate) struct Map {
    fd: OwnedFd,
    key: usize,
    value: usize,
}

impl Map {
    pub(crate) fn new(kind: MapKind, key: usize, value: usize, entries: u32) -> io::Result<Self> {
        let flags = match kind {
            // A trie must, and large hashes should not be paid for before they are used.
            MapKind::Hash | MapKind::LpmTrie => BPF_F_NO_PREALLOC,
            MapKind::Array | MapKind::Sockets => 0,
        };
        let attr = Attr::new()
            .u32(0, kind as u32)
            .u32(4, key as u32)
            .u32(8, value as u32)
            .u32(12, entries)
            .u32(16, flags);
        // SAFETY: no pointers in this command.
        let fd = unsafe { bpf(MAP_CREATE, attr) }?;
        Ok(Self { fd: owned(fd), key, value })
    }

    /// Sets the value of a key, whole or not at all for a program that looks it up meanwhile.
    pub(crate) fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if key.len() != self.key || value.len() != self.value {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let attr = Attr::new().fd(0, self.fd.as_fd()).input(8, key).input(16, value);
        // SAFETY: the kernel reads as many octets of key and value as the map was made with, just compared.
        unsafe { bpf(MAP_UPDATE_ELEM, attr) }.map(drop)
    }

    pub(crate) fn remove(&self, key: &[u8]) -> io::Result<()> {
        if key.len() != self.key {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let attr = Attr::new().fd(0, self.fd.as_fd()).input(8, key);
        // SAFETY: the kernel reads as many octets of the key as the map was made with, just compared.
        unsafe { bpf(MAP_DELETE_ELEM, attr) }.map(drop)
    }

    pub(crate) fn get(&self, key: &[u8]) -> io::Result<Vec<u8>> {
        if key.len() != self.key {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut value = vec![0; self.value];
        let attr = Attr::new().fd(0, self.fd.as_fd()).input(8, key).output(16, &mut value);
        // SAFETY: the kernel reads a key and writes a value of the lengths the map was made with; no per-CPU
        // map, whose values are longer, can be made here.
        unsafe { bpf(MAP_LOOKUP_ELEM, attr) }?;
        Ok(value)
    }

    /// For the assembler, which needs the number.
    pub(crate) fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Why the kernel did not take a program.
#[derive(Debug, thiserror::Error)]
#[error("{source}; the verifier says: {log}")]
pub struct Rejected {
    /// The system's error.
    pub source: io::Error,
    /// The verifier's log; empty if it did not come to that.
    pub log: String,
}

/// A loaded XDP program.
#[derive(Debug)]
pub(crate) struct Program {
    fd: OwnedFd,
}

impl Program {
    pub(crate) fn load(name: &str, code: &[u64]) -> Result<Self, Rejected> {
        // The kernel checks only whether it is compatible with the GPL, for helpers that ask for that; the
        // ones used here do not.
        let licence = b"Apache-2.0 OR MIT\0";
        let name = &name.as_bytes()[..name.len().min(15)];
        let load = |flags: u32, log: Option<&mut [u8]>| {
            let mut attr = Attr::new()
                .u32(0, BPF_PROG_TYPE_XDP)
                .u32(4, code.len() as u32)
                .input(8, code)
                .input(16, licence)
                .u32(44, flags)
                .put(48, name)
                .u32(68, BPF_XDP);
            if let Some(log) = log {
                attr = attr.u32(24, 1).u32(28, log.len() as u32).output(32, log);
            }
            // SAFETY: the code has the stated number of instructions, the licence and the name end in zero, and
            // the log, if any, has the stated length.
            unsafe { bpf(PROG_LOAD, attr) }
        };
        // A log costs a megabyte of work, so it is asked for only after a failure.
        // A kernel before 5.18 does not know the flag, and packets are one buffer there.
        if let Ok(fd) = load(BPF_F_XDP_HAS_FRAGS, None).or_else(|_| load(0, None)) {
            return Ok(Self { fd: owned(fd) });
        }
        let mut log = vec![0; LOG_BYTES];
        match load(0, Some(&mut log)) {
            Ok(fd) => Ok(Self { fd: owned(fd) }),
            Err(source) => {
                let log = CStr::from_bytes_until_nul(&log).unwrap_or_default();
                Err(Rejected { source, log: log.to_string_lossy().into_owned() })
            }
        }
    }

    /// Attaches to a device for as long as the returned link lives, at most as long as this process.
    pub(crate) fn attach(&self, device: u32, mode: AttachMode) -> io::Result<OwnedFd> {
        let flags = match mode {
            AttachMode::Native => XDP_FLAGS_DRV_MODE,
            AttachMode::Generic => XDP_FLAGS_SKB_MODE,
        };
        let attr = Attr::new().fd(0, self.fd.as_fd()).u32(4, device).u32(8, BPF_XDP).u32(12, flags);
        // SAFETY: no pointers in this command.
        unsafe { bpf(LINK_CREATE, attr) }.map(owned)
    }

    /// Takes the place of the program that a link attaches, without a gap.
    pub(crate) fn replace(&self, link: BorrowedFd<'_>) -> io::Result<()> {
        let attr = Attr::new().fd(0, link).fd(4, self.fd.as_fd());
        // SAFETY: no pointers in this command.
        unsafe { bpf(LINK_UPDATE, attr) }.map(drop)
    }

    /// Runs the program `repeat` times on a frame (BPF_PROG_TEST_RUN): its last verdict, and the mean time in
    /// nanoseconds.
    #[cfg(test)]
    pub(crate) fn test_run(&self, frame: &[u8], repeat: u32) -> io::Result<(u32, u32)> {
        const PROG_TEST_RUN: u32 = 10;
        let mut after = vec![0; frame.len() + 256];
        let mut answer = [0; 144];
        let mut attr = Attr::new()
            .fd(0, self.fd.as_fd())
            .u32(8, frame.len() as u32)
            .u32(12, after.len() as u32)
            .input(16, frame)
            .output(24, &mut after)
            .u32(32, repeat);
        // SAFETY: the lengths of both buffers are stated.
        unsafe { crate::syscall::bpf_in_out(PROG_TEST_RUN, &mut attr, 80) }?;
        answer.copy_from_slice(attr.bytes_mut());
        let word = |at: usize| {
            answer[at..at + 4].try_into().map(u32::from_ne_bytes).map_err(io::Error::other)
        };
        Ok((word(4)?, word(36)?))
    }
}
