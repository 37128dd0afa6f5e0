//! Frames from one thread to another, shown to it a burst at a time.

use crate::ring::{Consumer, Heap, Producer, heap};
use crate::umem::Frame;

/// The end of a crossing that frames are put into.
#[derive(Debug)]
pub struct FrameSender(Producer<Frame, Heap<Frame>>);

/// The end of a crossing that frames come out of, in their order.
#[derive(Debug)]
pub struct FrameReceiver(Consumer<Frame, Heap<Frame>>);

/// Makes a way for `frames` frames at once, rounded up to a power of two and at most 2¹⁶.
///
/// Frames that are on it when both ends are gone are lost, as any dropped [`Frame`] is.
pub fn crossing(frames: u32) -> (FrameSender, FrameReceiver) {
    let (producer, consumer) = heap(frames);
    (FrameSender(producer), FrameReceiver(consumer))
}

impl FrameSender {
    /// Puts a frame in; it is not seen before [`publish`](Self::publish).
    ///
    /// # Errors
    /// The frame, when the way is full.
    #[inline]
    pub fn push(&mut self, frame: Frame) -> Result<(), Frame> {
        self.0.push(frame)
    }

    /// Shows the other end what was put in.
    #[inline]
    pub fn publish(&mut self) {
        self.0.publish();
    }
}

impl FrameReceiver {
    /// Frames that are there.
    #[inline]
    #[must_use]
    pub fn len(&mut self) -> u32 {
        self.0.ready(u32::MAX)
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.0.has_any()
    }

    /// Asks for what says how many frames are there and for the next `frames` of them, to be looked at soon.
    #[inline]
    pub fn ask_ahead(&self, frames: u32) {
        self.0.ask_ahead(frames);
    }

    /// Takes the next frame out.
    #[inline]
    pub fn pop(&mut self) -> Option<Frame> {
        self.0.pop()
    }

    /// Gives the other end the places of what was taken out.
    #[inline]
    pub fn release(&mut self) {
        self.0.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChunkSize, FramePool, UmemConfig};

    #[test]
    fn frames_cross_in_their_order_and_are_seen_when_published() {
        let chunk_size = ChunkSize::Bytes2048;
        let config = UmemConfig { chunks: 5, chunk_size, jumbo: 0, huge_pages: false };
        let mut pool = FramePool::new(&config).unwrap();
        let (mut sender, mut receiver) = crossing(4);
        let mut send = |pool: &mut FramePool, mark| {
            let mut frame = pool.alloc().unwrap();
            frame.mark[0] = mark;
            sender.push(frame).map_err(|frame| pool.free(frame)).is_ok().then(|| sender.publish())
        };
        for round in 0..3 {
            assert!(receiver.is_empty());
            for n in 0..5 {
                assert_eq!(send(&mut pool, round * 8 + n).is_some(), n < 4, "there is room for 4");
            }
            assert_eq!(receiver.len(), 4);
            for n in 0..4 {
                let frame = receiver.pop().unwrap();
                assert_eq!(frame.mark[0], round * 8 + n);
                pool.free(frame).unwrap();
            }
            assert!(receiver.pop().is_none());
            receiver.release();
        }
        let (mut sender, mut receiver) = crossing(4);
        sender.push(pool.alloc().unwrap()).unwrap();
        assert!(receiver.is_empty(), "not published");
        sender.publish();
        assert_eq!(receiver.len(), 1);
    }
}
