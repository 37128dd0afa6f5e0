//! Packets of one thread for another to copy, shown to it a burst at a time.

use crate::ring::packets::{GRANULE, Receiver, Sender, packets};
use crate::umem::Frame;

/// The end of a crossing that packets are copied into.
#[derive(Debug)]
pub struct PacketSender(Sender);

/// The end of a crossing where packets are looked at and copied, in their order, and given back.
#[derive(Debug)]
pub struct PacketReceiver(Receiver);

/// Makes a way for so many packets at once (at most 2¹⁶, rounded up to a power of two) of so many octets together (at most 2³⁰); one that
/// was not given back counts. It has room for the longest frame at any rate.
pub fn crossing(most: u32, octets: u32) -> (PacketSender, PacketReceiver) {
    let (sender, receiver) = packets(most, octets);
    (PacketSender(sender), PacketReceiver(receiver))
}

impl PacketSender {
    /// Copies a packet in; it is not seen before [`publish`](Self::publish). False when there is no room for it.
    #[inline(always)]
    pub fn push(&mut self, packet: &Frame, mark: [u64; 2]) -> bool {
        self.0.push(mark, packet.whole(GRANULE), packet.len())
    }

    /// Shows the other end what was put in.
    #[inline]
    pub fn publish(&mut self) {
        self.0.publish();
    }
}

impl PacketReceiver {
    /// Packets that are there.
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

    /// Asks for what says how many packets are there and where the next `packets` of them are, to be looked at soon.
    #[inline]
    pub fn ask_ahead(&self, packets: u32) {
        self.0.ask_ahead(packets);
    }

    /// Asks for the first `octets` of the packet that comes `after` others, of those that [`len`](Self::len) has counted.
    #[inline(always)]
    pub fn ask_for(&self, after: u32, octets: usize) {
        self.0.ask_for(after, octets);
    }

    /// The marks of the packet that comes `after` others,
    #[inline(always)]
    #[must_use]
    pub fn mark(&self, after: u32) -> Option<[u64; 2]> {
        self.0.mark(after)
    }

    /// and how many octets it has.
    #[inline(always)]
    #[must_use]
    pub fn octets(&self, after: u32) -> Option<usize> {
        self.0.octets(after)
    }

    /// Copies it to where a frame begins, with its marks; `None`, and nothing changed, when it does not fit or is not there.
    #[inline(always)]
    pub fn copy_to(&self, after: u32, frame: &mut Frame) -> Option<()> {
        let octets = self.0.octets(after)?;
        frame.refill(octets, GRANULE, |to| self.0.copy_to(after, to))?;
        frame.mark = self.0.mark(after)?;
        Some(())
    }

    /// Is done with so many packets, the first of those that [`len`](Self::len) has counted.
    #[inline]
    pub fn give_back(&mut self, packets: u32) {
        self.0.give_back(packets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChunkSize, FramePool, UmemConfig};

    #[test]
    fn packets_cross_between_frames_that_stay() {
        let chunk_size = ChunkSize::Bytes2048;
        let config = UmemConfig { chunks: 2, chunk_size, jumbo: 1, huge_pages: false };
        let [mut here, mut there] = [(); 2].map(|()| FramePool::new(&config).unwrap());
        let (mut sender, mut receiver) = crossing(4, 4096);
        let mut from = here.alloc().unwrap();
        let mut to = there.alloc_for(64).unwrap();
        for round in 0..50u8 {
            assert!(receiver.is_empty());
            let sizes = [0, 1, 64 + usize::from(round), 1400];
            for (mark, len) in (0..).zip(sizes) {
                from.set_len(len).unwrap();
                from.data_mut().fill(round);
                assert!(sender.push(&from, [mark, 7]));
            }
            assert!(!sender.push(&from, [0; 2]), "there is room for four");
            assert!(receiver.is_empty(), "not published");
            sender.publish();
            assert_eq!(receiver.len(), 4);
            for (n, len) in (0..).zip(sizes) {
                let start = to.headroom();
                receiver.copy_to(n, &mut to).unwrap();
                assert_eq!((to.headroom(), to.len()), (start, len));
                assert!(to.data().iter().all(|byte| *byte == round));
                assert_eq!(to.mark, [n.into(), 7]);
            }
            assert!(receiver.copy_to(4, &mut to).is_none());
            receiver.give_back(4);
        }
        // Longer than the other frame: that one stays as it is.
        let mut long = here.alloc_for(2040).unwrap();
        long.set_len(2040).unwrap();
        assert!(sender.push(&long, [1; 2]));
        sender.publish();
        assert_eq!(receiver.len(), 1);
        let before = (to.len(), to.mark);
        assert!(receiver.copy_to(0, &mut to).is_none());
        assert_eq!((to.len(), to.mark), before);
        let mut jumbo = there.alloc_for(2040).unwrap();
        assert!(receiver.copy_to(0, &mut jumbo).is_some());
        assert_eq!(jumbo.data(), long.data());
    }
}
