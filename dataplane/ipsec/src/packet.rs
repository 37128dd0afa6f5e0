//! What a packet is to this crate: bytes with room before and behind them.

/// A packet that can grow and shrink at both ends without moving.
///
/// `data` begins with an IP header throughout this crate: a worker trims the link-layer header before it
/// hands a packet in, and pushes another one in front afterwards. The worker implements this on its own
/// packet type over a frame. A handed-off frame belongs to another worker and is not written: its bytes
/// are taken with [`PacketBuffer::copy_from`] into a buffer of the owner, and processed there.
pub trait PacketBuffer {
    /// The packet.
    fn data(&self) -> &[u8];

    /// The packet, to be written.
    fn data_mut(&mut self) -> &mut [u8];

    /// How many bytes [`PacketBuffer::push_front`] can add.
    fn headroom(&self) -> usize;

    /// How many bytes the packet can grow at its end.
    fn tailroom(&self) -> usize;

    /// Grows the packet at its front by `count` bytes of unspecified content.
    ///
    /// # Errors
    ///
    /// [`NoRoom`], and no change.
    fn push_front(&mut self, count: usize) -> Result<(), NoRoom>;

    /// Cuts `count` bytes off the front; all of them when there are fewer.
    fn trim_front(&mut self, count: usize);

    /// Cuts the packet at its end, or grows it there by bytes of unspecified content.
    ///
    /// # Errors
    ///
    /// [`NoRoom`], and no change.
    fn set_len(&mut self, len: usize) -> Result<(), NoRoom>;

    /// Makes the packet a copy of `source`, beginning where it begins now.
    ///
    /// # Errors
    ///
    /// [`NoRoom`], and no change.
    fn copy_from(&mut self, source: &[u8]) -> Result<(), NoRoom> {
        self.set_len(source.len())?;
        self.data_mut().copy_from_slice(source);
        Ok(())
    }
}

/// A buffer that is too small at the end where a packet has to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room in the packet buffer")]
pub struct NoRoom;

/// A packet in memory of its own, for callers that have no frames.
#[derive(Clone, Debug)]
pub struct OwnedPacket {
    bytes: Box<[u8]>,
    start: usize,
    len: usize,
}

impl OwnedPacket {
    /// Holds a copy of `data` with `headroom` bytes before it and `tailroom` bytes behind it.
    pub fn new(data: &[u8], headroom: usize, tailroom: usize) -> Self {
        let mut bytes = vec![0; headroom + data.len() + tailroom].into_boxed_slice();
        bytes[headroom..headroom + data.len()].copy_from_slice(data);
        Self { bytes, start: headroom, len: data.len() }
    }
}

impl PacketBuffer for OwnedPacket {
    fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }

    fn headroom(&self) -> usize {
        self.start
    }

    fn tailroom(&self) -> usize {
        self.bytes.len() - self.start - self.len
    }

    fn push_front(&mut self, count: usize) -> Result<(), NoRoom> {
        self.start = self.start.checked_sub(count).ok_or(NoRoom)?;
        self.len += count;
        Ok(())
    }

    fn trim_front(&mut self, count: usize) {
        let count = count.min(self.len);
        self.start += count;
        self.len -= count;
    }

    fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        if len > self.bytes.len() - self.start {
            return Err(NoRoom);
        }
        self.len = len;
        Ok(())
    }
}
