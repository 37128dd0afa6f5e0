//! Packet memory: one mapping cut into chunks, and the token that owns one chunk.
//!
//! ```text
//!            chunk (2048 or 4096 octets)
//!  ┌──────────────┬───────────────────────────┬──────────────┐
//!  │   headroom   │           data            │   tailroom   │
//!  └──────────────┴───────────────────────────┴──────────────┘
//!  0            start                    start + len       size
//! ```
//!
//! A packet longer than a chunk has a jumbo frame: [`JUMBO`] octets of chunks that follow each other and stay together. The kernel
//! knows chunks only, so it takes such a packet in pieces and gives one in pieces, which are copied together.
//!
//! Every chunk is in exactly one state (see [`Owner`]), and only [`Umem`] makes a [`Frame`], only for a
//! chunk that has none. Whatever the kernel writes into a ring, two frames never name one chunk.

mod frame;

pub use frame::Frame;
use frame::Shape;
use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Octets of a line of a cache.
pub(crate) const LINE: usize = 64;

/// Octets the kernel keeps free before a received packet (`XDP_PACKET_HEADROOM`), and the headroom of an
/// allocated frame: room for an outer IPv6, UDP and ESP header in place.
pub const HEADROOM: usize = 256;

/// Octets of a jumbo frame: an MTU of 9000 with what stands before and behind it, in whole chunks of either size.
pub const JUMBO: usize = 12_288;

/// Octets behind a packet that a frame is chosen by: padding, trailer and the longest ICV of ESP.
pub const TAILROOM: usize = 96;

/// Names one UMEM in this process; a [`Frame`] carries it so that it finds its way home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UmemId(u16);

/// Where the memory of a pool is, for whoever opens sockets on it. It says nothing of who owns which chunk.
#[derive(Clone, Copy, Debug)]
pub struct PacketMemory {
    address: u64,
    length: u64,
    chunk_size: u16,
    has_jumbo: bool,
    id: UmemId,
}

impl PacketMemory {
    pub(crate) fn has_jumbo(&self) -> bool {
        self.has_jumbo
    }

    /// Address, octets and octets of a chunk, for registration with the kernel.
    pub(crate) fn extent(&self) -> (u64, u64, u32) {
        (self.address, self.length, self.chunk_size.into())
    }

    pub(crate) fn chunk_size(&self) -> usize {
        self.chunk_size.into()
    }

    pub(crate) fn id(&self) -> UmemId {
        self.id
    }
}

/// How much packet memory a worker has, and in what pieces.
#[derive(Clone, Copy, Debug)]
pub struct UmemConfig {
    /// Number of chunks, that is of packets that can exist at once. See [`UmemConfig::for_ports`].
    pub chunks: u32,
    /// Octets of one chunk: 2048 or 4096. A 4096-octet chunk holds a frame of 3840 octets.
    pub chunk_size: ChunkSize,
    /// Jumbo frames beside them, for packets that fit no chunk.
    pub jumbo: u32,
    /// Ask for 2 MiB pages, and take ordinary ones where there are none.
    pub huge_pages: bool,
}

impl Default for UmemConfig {
    fn default() -> Self {
        Self { chunks: 8192, chunk_size: ChunkSize::Bytes4096, jumbo: 512, huge_pages: true }
    }
}

impl UmemConfig {
    /// Enough for so many ports: what each has lent to receive into and to send, and a burst or two of each in the
    /// worker's hands. With less, ports take chunks from each other.
    pub fn for_ports(ports: u32, receive_ring: u32, transmit_ring: u32) -> Self {
        let lent = receive_ring.saturating_add(transmit_ring).saturating_mul(ports);
        Self { chunks: lent.saturating_add(2048), ..Self::default() }
    }
}

/// The chunk sizes that AF_XDP takes in aligned mode on 4 KiB pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkSize {
    /// 2048 octets, 1792 of them for a received packet.
    Bytes2048,
    /// 4096 octets, 3840 of them for a received packet.
    Bytes4096,
}

impl ChunkSize {
    /// The size in octets.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bytes2048 => 2048,
            Self::Bytes4096 => 4096,
        }
    }
}

/// Names a socket among those that a pool's memory is registered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registration(pub(crate) u8);

/// Who has a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The pool's free list.
    Pool,
    /// A [`Frame`].
    Frame,
    /// A socket, for a packet to come (fill ring, or receive ring not yet read).
    Fill(Registration),
    /// A socket, to be sent (transmit ring, device, or completion ring not yet read).
    Transmit(Registration),
}

/// The mapping and the owner of each of its chunks.
///
/// The mapping is never unmapped: frames point into it from any thread without a count, and there is one
/// UMEM per worker for the life of the process.
pub(crate) struct Umem {
    base: NonNull<u8>,
    chunk_size: u16,
    /// log2 of `chunk_size`.
    shift: u32,
    /// Chunks that are lent to the kernel one by one; behind them come the jumbo frames.
    chunks: u32,
    /// Of the chunks, and then of the jumbo frames.
    owners: Box<[Owner]>,
    id: UmemId,
}

// SAFETY: the mapping is not bound to a thread, and `base` is only used to make frames.
unsafe impl Send for Umem {}

impl Umem {
    pub(crate) fn new(config: &UmemConfig) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Relaxed: only the distinctness of the numbers matters.
        let id = u16::try_from(NEXT.fetch_add(1, Ordering::Relaxed))
            .map_err(|_| io::Error::from(io::ErrorKind::QuotaExceeded))?;
        if config.chunks == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let size = config.chunk_size.bytes();
        let jumbo = (config.jumbo as usize).checked_mul(JUMBO);
        let length = (config.chunks as usize)
            .checked_mul(size)
            .and_then(|length| length.checked_add(jumbo?))
            .ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
        let owners = config.chunks as usize + config.jumbo as usize;
        Ok(Self {
            base: map(length, config.huge_pages)?,
            chunk_size: size as u16,
            shift: size.trailing_zeros(),
            chunks: config.chunks,
            owners: vec![Owner::Pool; owners].into(),
            id: UmemId(id),
        })
    }

    pub(crate) fn id(&self) -> UmemId {
        self.id
    }

    pub(crate) fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Chunks and jumbo frames.
    pub(crate) fn frames(&self) -> u32 {
        self.owners.len() as u32
    }

    pub(crate) fn chunk_size(&self) -> usize {
        usize::from(self.chunk_size)
    }

    /// What sockets are opened on. The mapping is never unmapped, so it holds for good.
    pub(crate) fn memory(&self) -> PacketMemory {
        PacketMemory {
            address: self.base.as_ptr().expose_provenance() as u64,
            length: self.address(self.frames()),
            chunk_size: self.chunk_size,
            has_jumbo: self.frames() > self.chunks,
            id: self.id,
        }
    }

    /// The offset of a chunk in the UMEM, which is its address in ring descriptors.
    #[inline]
    pub(crate) fn address(&self, chunk: u32) -> u64 {
        match chunk.checked_sub(self.chunks) {
            None => self.plain_offset(chunk),
            Some(jumbo) => (u64::from(self.chunks) << self.shift) + u64::from(jumbo) * JUMBO as u64,
        }
    }

    /// The chunk that an address from the kernel lies in, and the offset in it; it may not exist.
    #[inline]
    pub(crate) fn locate(&self, address: u64) -> (u64, usize) {
        let chunk = address >> self.shift;
        if chunk < u64::from(self.chunks) {
            return (chunk, (address as usize) & (self.chunk_size() - 1));
        }
        let behind = address - (u64::from(self.chunks) << self.shift);
        let jumbo = u64::from(self.chunks) + behind / JUMBO as u64;
        (jumbo, (behind % JUMBO as u64) as usize)
    }

    /// Hands a chunk that has no frame from one owner to the next; false, and nothing changed, when there
    /// is no such chunk or `from` is not its owner.
    #[inline]
    pub(crate) fn pass(&mut self, chunk: u64, from: Owner, to: Owner) -> bool {
        debug_assert!(from != Owner::Frame && to != Owner::Frame);
        match usize::try_from(chunk).ok().and_then(|c| self.owners.get_mut(c)) {
            Some(owner) if *owner == from => {
                *owner = to;
                true
            }
            _ => false,
        }
    }

    /// Whether an owner has a chunk.
    pub(crate) fn is_held_by(&self, chunk: u64, owner: Owner) -> bool {
        usize::try_from(chunk).ok().and_then(|c| self.owners.get(c)) == Some(&owner)
    }

    /// The chunks that an owner has.
    pub(crate) fn held_by(&self, owner: Owner) -> impl Iterator<Item = u32> + '_ {
        (0..).zip(&self.owners).filter(move |(_, o)| **o == owner).map(|(chunk, _)| chunk)
    }

    /// Makes the frame of a chunk that `from` has; `None` when there is no such chunk, when `from` is not
    /// its owner, or when the packet is not inside it.
    #[inline]
    pub(crate) fn take(
        &mut self,
        chunk: u64,
        from: Owner,
        start: usize,
        len: usize,
    ) -> Option<Frame> {
        debug_assert!(from != Owner::Frame);
        let index = usize::try_from(chunk).ok()?;
        let owner = self.owners.get_mut(index)?;
        if *owner != from || from == Owner::Frame {
            return None;
        }
        let end = start.checked_add(len)?;
        let size = if index < self.chunks as usize { self.chunk_size } else { JUMBO as u16 };
        if end > usize::from(size) {
            return None;
        }
        *owner = Owner::Frame;
        let offset = self.address(index as u32) as usize;
        // SAFETY: `index` is below the number of chunks and jumbo frames (the `get_mut` above), so the result lies in the
        // mapping, which has as many octets as the address behind the last of them says.
        let chunk = unsafe { self.base.add(offset) };
        Some(Frame {
            chunk,
            // Both fit: end <= size, a u16.
            shape: Shape::new(start as u16, len as u16, size, self.id),
            mark: [0; 2],
        })
    }

    /// Where a chunk is in the UMEM that is none of a jumbo frame.
    #[inline]
    pub(crate) fn plain_offset(&self, chunk: u32) -> u64 {
        u64::from(chunk) << self.shift
    }

    /// Turns a frame back into a bare chunk that `to` has; `Err` gives back a frame of another UMEM.
    #[inline]
    pub(crate) fn give(&mut self, frame: Frame, to: Owner) -> Result<u32, Frame> {
        debug_assert!(to != Owner::Frame);
        if frame.home() != self.id {
            return Err(frame);
        }
        let offset = frame.chunk.addr().get() - self.base.addr().get();
        let (index, _) = self.locate(offset as u64);
        let index = index as usize;
        match self.owners.get_mut(index) {
            Some(owner) => {
                debug_assert_eq!(*owner, Owner::Frame);
                *owner = to;
                Ok(index as u32)
            }
            None => Err(frame),
        }
    }
}

impl fmt::Debug for Umem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Umem")
            .field("id", &self.id)
            .field("chunks", &self.owners.len())
            .field("chunk_size", &self.chunk_size)
            .finish_non_exhaustive()
    }
}

#[cfg(not(miri))]
fn map(length: usize, huge: bool) -> io::Result<NonNull<u8>> {
    use crate::syscall::{HUGE_PAGE, map_anonymous, map_transparent_huge};
    // Less than one huge page would waste most of it.
    if !huge || length < HUGE_PAGE {
        return map_anonymous(length, libc::MAP_POPULATE);
    }
    // Those that the administrator has set aside, or else those that the kernel can put together.
    let reserved = libc::MAP_HUGETLB | libc::MAP_HUGE_2MB | libc::MAP_POPULATE;
    map_anonymous(length.next_multiple_of(HUGE_PAGE), reserved)
        .or_else(|_| map_transparent_huge(length))
}

/// Miri has no mmap with flags; a leaked page-aligned block stands in.
#[cfg(miri)]
fn map(length: usize, _huge: bool) -> io::Result<NonNull<u8>> {
    #[repr(C, align(4096))]
    #[derive(Clone, Copy)]
    struct Page([u8; 4096]);
    let pages = vec![Page([0; 4096]); length.div_ceil(4096)].leak();
    Ok(NonNull::from(pages).cast())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn small() -> Umem {
        let chunk_size = ChunkSize::Bytes2048;
        Umem::new(&UmemConfig { chunks: 4, chunk_size, jumbo: 0, huge_pages: false }).unwrap()
    }

    #[test]
    fn a_chunk_has_one_frame_at_a_time() {
        let mut umem = small();
        let frame = umem.take(1, Owner::Pool, 256, 10).unwrap();
        assert!(umem.take(1, Owner::Pool, 256, 10).is_none());
        assert!(umem.take(1, Owner::Fill(Registration(0)), 256, 10).is_none());
        assert_eq!(umem.give(frame, Owner::Pool).unwrap(), 1);
        let again = umem.take(1, Owner::Pool, 256, 10).unwrap();
        assert_eq!(umem.give(again, Owner::Pool).unwrap(), 1);
    }

    #[test]
    fn a_descriptor_outside_the_memory_makes_no_frame() {
        let mut umem = small();
        for (chunk, start, len) in [
            (4, 0, 0),
            (u64::MAX, 0, 0),
            (u64::MAX >> 11, 0, 1),
            (0, 0, 2049),
            (0, 2048, 1),
            (0, 1, usize::MAX),
        ] {
            assert!(umem.take(chunk, Owner::Pool, start, len).is_none(), "{chunk} {start} {len}");
        }
        assert!(umem.take(0, Owner::Pool, 2048, 0).is_some());
    }

    #[test]
    fn jumbo_frames_lie_behind_the_chunks_and_do_not_overlap() {
        for chunk_size in [ChunkSize::Bytes2048, ChunkSize::Bytes4096] {
            assert_eq!(JUMBO % chunk_size.bytes(), 0);
            let config = UmemConfig { chunks: 3, chunk_size, jumbo: 2, huge_pages: false };
            let mut umem = Umem::new(&config).unwrap();
            let size = chunk_size.bytes();
            let mut frames: Vec<Frame> = (0..5)
                .map(|n| {
                    let len = if n < 3 { size } else { JUMBO };
                    assert!(umem.take(n, Owner::Pool, 0, len + 1).is_none());
                    umem.take(n, Owner::Pool, 0, len).unwrap()
                })
                .collect();
            assert!(umem.take(5, Owner::Pool, 0, 0).is_none());
            for (i, f) in frames.iter_mut().enumerate() {
                f.data_mut().fill(i as u8 + 1);
            }
            for (i, f) in frames.iter().enumerate() {
                assert!(f.data().iter().all(|b| *b == i as u8 + 1));
            }
            let behind = umem.address(umem.frames());
            assert_eq!(behind as usize, 3 * size + 2 * JUMBO);
            for (address, expected) in [
                (3 * size - 1, (2, size - 1)),
                (3 * size, (3, 0)),
                (3 * size + JUMBO - 1, (3, JUMBO - 1)),
                (3 * size + JUMBO, (4, 0)),
                (3 * size + 2 * JUMBO, (5, 0)),
            ] {
                assert_eq!(umem.locate(address as u64), expected);
            }
            for (i, f) in frames.into_iter().enumerate() {
                assert_eq!(umem.give(f, Owner::Pool).unwrap(), i as u32);
            }
        }
    }

    #[test]
    fn a_frame_of_another_umem_is_given_back() {
        let (mut one, mut two) = (small(), small());
        assert_ne!(one.id(), two.id());
        let frame = one.take(0, Owner::Pool, 0, 0).unwrap();
        let frame = two.give(frame, Owner::Pool).unwrap_err();
        assert_eq!(one.give(frame, Owner::Pool).unwrap(), 0);
    }

    #[test]
    fn frames_do_not_overlap() {
        let mut umem = small();
        let mut frames: Vec<Frame> =
            (0..4).map(|c| umem.take(c, Owner::Pool, 0, 2048).unwrap()).collect();
        for (i, f) in frames.iter_mut().enumerate() {
            f.data_mut().fill(i as u8 + 1);
        }
        for (i, f) in frames.iter().enumerate() {
            assert!(f.data().iter().all(|b| *b == i as u8 + 1));
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        PushFront(usize),
        TrimFront(usize),
        Extend(usize),
        Truncate(usize),
        SetLen(usize),
        Reset(usize),
        Copy(usize),
        Refill(usize, usize, usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        let n = prop_oneof![0usize..300, 0usize..5000, Just(usize::MAX), Just(65536)];
        (0..8, n, 0usize..2049).prop_map(|(k, n, at)| match k {
            0 => Op::PushFront(n),
            1 => Op::TrimFront(n),
            2 => Op::Extend(n),
            3 => Op::Truncate(n),
            4 => Op::SetLen(n),
            5 => Op::Reset(n),
            6 => Op::Copy(n.min(6000)),
            _ => Op::Refill(at % 40, n.min(6000), 1 << (at % 8)),
        })
    }

    proptest! {
        /// The oracle: a plain array with two indices.
        #[test]
        fn a_frame_is_a_window_on_its_chunk(ops in proptest::collection::vec(op(), 1..60)) {
            let mut umem = small();
            let mut frame = umem.take(2, Owner::Pool, 256, 0).unwrap();
            let mut model = vec![0u8; 2048];
            let (mut start, mut len) = (256usize, 0usize);
            for (i, op) in ops.into_iter().enumerate() {
                let fill = i as u8 | 1;
                match op {
                    Op::PushFront(n) => {
                        let ok = n <= start;
                        let got = frame.push_front(n);
                        prop_assert_eq!(got.is_some(), ok);
                        if let Some(bytes) = got {
                            prop_assert_eq!(bytes.len(), n);
                            bytes.fill(fill);
                            start -= n;
                            len += n;
                            model[start..start + n].fill(fill);
                        }
                    }
                    Op::TrimFront(n) => {
                        let ok = n <= len;
                        prop_assert_eq!(frame.trim_front(n).is_some(), ok);
                        if ok { start += n; len -= n; }
                    }
                    Op::Extend(n) => {
                        let ok = n <= 2048 - start - len;
                        let got = frame.extend(n);
                        prop_assert_eq!(got.is_some(), ok);
                        if let Some(bytes) = got {
                            prop_assert_eq!(bytes.len(), n);
                            bytes.fill(fill);
                            model[start + len..start + len + n].fill(fill);
                            len += n;
                        }
                    }
                    Op::Truncate(n) => { frame.truncate(n); len = len.min(n); }
                    Op::SetLen(n) => {
                        let ok = n <= 2048 - start;
                        prop_assert_eq!(frame.set_len(n).is_some(), ok);
                        if ok { len = n; }
                    }
                    Op::Reset(n) => {
                        let ok = n <= 2048;
                        prop_assert_eq!(frame.reset(n).is_some(), ok);
                        if ok { start = n; len = 0; }
                    }
                    Op::Copy(n) => {
                        let bytes = vec![fill; n];
                        let ok = n <= 2048 - start;
                        prop_assert_eq!(frame.copy_from(&bytes).is_some(), ok);
                        if ok { len = n; model[start..start + n].copy_from_slice(&bytes); }
                    }
                    Op::Refill(front, n, granule) => {
                        let room = 2048 - start;
                        match frame.refill(front, n, granule) {
                            Some(bytes) => {
                                let room = room - front;
                                let whole = n.next_multiple_of(granule).min(room);
                                prop_assert_eq!(bytes.len(), whole);
                                bytes.fill(fill);
                                prop_assert!(n <= room);
                                len = front + n;
                                model[start + front..start + front + whole].fill(fill);
                            }
                            None => prop_assert!(front + n > room),
                        }
                        prop_assert_eq!(frame.to_end(), &model[start..]);
                        let can_hold = start >= HEADROOM && n + TAILROOM <= room;
                        prop_assert_eq!(frame.can_hold(n), can_hold);
                    }
                }
                prop_assert_eq!(frame.data(), &model[start..start + len]);
                prop_assert_eq!((frame.headroom(), frame.tailroom()), (start, 2048 - start - len));
            }
            prop_assert_eq!(umem.give(frame, Owner::Pool).unwrap(), 2);
        }
    }
}
