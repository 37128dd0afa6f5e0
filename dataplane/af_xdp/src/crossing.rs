//! Frames of one thread for another to look at, shown to it a burst at a time.

use crate::ring::{Borrower, Lender, loan};
use crate::umem::Frame;

/// The end of a crossing that lends frames, and takes them back.
#[derive(Debug)]
pub struct FrameLender(Lender<Frame>);

/// The end of a crossing that looks at frames, in their order, and gives them back.
#[derive(Debug)]
pub struct FrameBorrower(Borrower<Frame>);

/// Makes a way for `frames` frames at once, rounded up to a power of two and at most 2¹⁶; one that was given back counts until it is
/// taken back.
///
/// Frames that are on it when both ends are gone are lost, as any dropped [`Frame`] is.
pub fn crossing(frames: u32) -> (FrameLender, FrameBorrower) {
    let (lender, borrower) = loan(frames);
    (FrameLender(lender), FrameBorrower(borrower))
}

impl FrameLender {
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

    /// The next frame that the other end is done with.
    #[inline]
    pub fn take_back(&mut self) -> Option<Frame> {
        self.0.take_back()
    }

    /// Whether there is one.
    #[inline]
    #[must_use]
    pub fn has_back(&self) -> bool {
        self.0.has_back()
    }

    /// How many there are by now.
    #[inline]
    #[must_use]
    pub fn back(&mut self) -> u32 {
        self.0.back()
    }
}

impl FrameBorrower {
    /// Frames that are there.
    #[inline]
    #[must_use]
    pub fn len(&mut self) -> u32 {
        self.0.ready()
    }

    /// Those that the last [`len`](Self::len) has counted and that were not given back: nothing is asked of the other end.
    #[inline]
    #[must_use]
    pub fn counted(&self) -> u32 {
        self.0.counted()
    }

    /// Whether there is none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.0.has_any()
    }

    /// Asks for what says how many frames are there and for the next `frames` of them, to be looked at soon.
    #[inline]
    pub fn ask_ahead(&self, frames: u32) {
        self.0.ask_ahead(frames);
    }

    /// Shows the frame that comes `after` others, of those that [`len`](Self::len) has counted.
    #[inline]
    pub fn look<R>(&self, after: u32, look: impl FnOnce(&Frame) -> R) -> Option<R> {
        self.0.look(after, look)
    }

    /// Is done with so many frames, the first of those that [`len`](Self::len) has counted.
    #[inline]
    pub fn give_back(&mut self, frames: u32) {
        self.0.give_back(frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChunkSize, FramePool, UmemConfig};

    #[test]
    fn frames_are_seen_when_published_and_come_back_in_their_order() {
        let chunk_size = ChunkSize::Bytes2048;
        let config = UmemConfig { chunks: 5, chunk_size, jumbo: 0, huge_pages: false };
        let mut pool = FramePool::new(&config).unwrap();
        let (mut lender, mut borrower) = crossing(4);
        for round in 0..3 {
            assert!(borrower.is_empty());
            for n in 0..5 {
                let mut frame = pool.alloc().unwrap();
                frame.mark[0] = round * 8 + n;
                let there_is_room = match lender.push(frame) {
                    Ok(()) => true,
                    Err(frame) => pool.free(frame).is_err(),
                };
                assert_eq!(there_is_room, n < 4, "there is room for 4");
            }
            assert!(borrower.is_empty(), "not published");
            lender.publish();
            assert_eq!(borrower.len(), 4);
            for n in 0..4 {
                let mark = borrower.look(n, |frame| frame.mark[0]);
                assert_eq!(mark, Some(round * 8 + u64::from(n)));
            }
            assert!(borrower.look(4, |_| ()).is_none());
            assert!(!lender.has_back() && lender.take_back().is_none());
            borrower.give_back(3);
            assert!(lender.has_back());
            for n in 0..3 {
                let frame = lender.take_back().unwrap();
                assert_eq!(frame.mark[0], round * 8 + n);
                pool.free(frame).unwrap();
            }
            assert!(lender.take_back().is_none());
            borrower.give_back(4);
            pool.free(lender.take_back().unwrap()).unwrap();
            assert_eq!(pool.gauges().free, 5);
        }
    }
}
