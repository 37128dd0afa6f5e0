//! A frame as IPsec processing sees it, and where it came from.

use af_xdp::Frame;
use core::ops::{Deref, DerefMut};
use ipsec::packet::{NoRoom, PacketBuffer};
use ipsec::sa::PairId;
use ipsec::spi::CoreId;

/// A packet in a frame of this worker's UMEM, beginning with its IP header.
///
/// The frame's marks are: in 0 the core it came to from a port, in 1 how it came, for what has to be known of it behind a
/// burst function.
#[derive(Debug)]
pub(crate) struct Packet(pub(crate) Frame);

/// Pushes something and gives it back to be changed where it lies now. What is changed first and moved afterwards waits for its own
/// stores: a processor does not forward two bytes into a load of sixteen.
#[inline]
pub(crate) fn put<T>(burst: &mut Vec<T>, what: T) -> &mut T {
    let at = burst.len();
    burst.push(what);
    &mut burst[at]
}

/// How a packet came into a worker's hands, which decides what forwarding means for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Out of a tunnel: the pair it came through.
    Decapsulated(PairId),
    /// Out of a tunnel's device: the host has forwarded it already.
    Device,
    /// Made here: an ICMP error. No error is sent about it, and it does not wait.
    Generated,
    /// From the host port: the host has forwarded it already.
    Host,
    /// In clear from a port.
    Port,
    /// From another worker or a waiting queue: all checks but that of the SA were made.
    Resumed,
}

impl Origin {
    /// Whether this gateway is a hop on the packet's way here, so that its TTL is decremented (RFC 4301 §5.1.2.1 note 4).
    pub(crate) fn is_hop(self) -> bool {
        matches!(self, Self::Port | Self::Decapsulated(_))
    }
}

/// Who hears of a packet that is too big.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// The gateway host, by the host port.
    Host,
    /// Somebody behind a tunnel: only through a tunnel.
    Inside,
    /// Nobody: it was made here.
    None,
    /// A host on a port.
    Outside,
}

impl Packet {
    /// Notes how it came; what is resumed keeps the note that it has.
    pub(crate) fn set_origin(&mut self, origin: Origin) {
        self.0.mark[1] = match origin {
            Origin::Port => 0,
            Origin::Decapsulated(_) => 1,
            Origin::Generated => 2,
            Origin::Host | Origin::Device => 3,
            Origin::Resumed => return,
        };
    }

    pub(crate) fn sender(&self) -> Sender {
        match self.0.mark[1] {
            1 => Sender::Inside,
            2 => Sender::None,
            3 => Sender::Host,
            _ => Sender::Outside,
        }
    }

    /// Which fragments belong together with it: those that came the same way.
    pub(crate) fn context(&self) -> u8 {
        self.0.mark[1] as u8
    }

    /// Marks it as one that came to a port of this core.
    pub(crate) fn begin(&mut self, core: CoreId) {
        self.0.mark = [core.index() as u64, 0];
    }

    pub(crate) fn set_arrival(&mut self, core: CoreId) {
        self.0.mark[0] = core.index() as u64;
    }

    pub(crate) fn arrival(&self) -> Option<CoreId> {
        usize::try_from(self.0.mark[0]).ok().and_then(CoreId::new)
    }
}

impl Deref for Packet {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.data()
    }
}

impl DerefMut for Packet {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.data_mut()
    }
}

impl PacketBuffer for Packet {
    #[inline]
    fn data(&self) -> &[u8] {
        self.0.data()
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        self.0.data_mut()
    }

    #[inline]
    fn headroom(&self) -> usize {
        self.0.headroom()
    }

    #[inline]
    fn tailroom(&self) -> usize {
        self.0.tailroom()
    }

    #[inline]
    fn push_front(&mut self, count: usize) -> Result<(), NoRoom> {
        self.0.push_front(count).map(|_| ()).ok_or(NoRoom)
    }

    #[inline]
    fn trim_front(&mut self, count: usize) {
        let count = count.min(self.0.len());
        // Fits, as it was cut to the length.
        let _ = self.0.trim_front(count);
    }

    #[inline]
    fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        self.0.set_len(len).ok_or(NoRoom)
    }
}
