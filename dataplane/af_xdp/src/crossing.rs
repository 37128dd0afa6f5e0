//! Packets of one thread for another to copy, shown to it a burst at a time.

pub use crate::ring::packets::Arrived;
use crate::ring::packets::{GRANULE, Leaving, Receiver, Sender, packets};
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
    #[inline]
    pub fn push(&mut self, packet: &Frame, mark: [u64; 2]) -> bool {
        self.0.push(&leaving(packet, 0, mark))
    }

    /// The same with many, in their order, each without the first `front` octets; how many there was room for. Not all are asked for
    /// where there is none.
    #[inline(always)]
    pub fn push_all<'a>(
        &mut self,
        front: usize,
        packets: impl Iterator<Item = ([u64; 2], &'a Frame)>,
    ) -> u32 {
        self.0.push_all(packets.map(|(mark, packet)| leaving(packet, front, mark)))
    }

    /// Shows the other end what was put in.
    #[inline]
    pub fn publish(&mut self) {
        self.0.publish();
    }
}

#[inline(always)]
fn leaving(packet: &Frame, front: usize, mark: [u64; 2]) -> Leaving<'_> {
    let (octets, whole) = (packet.len().saturating_sub(front), packet.to_end());
    Leaving { mark, octets, whole: whole.get(front..).unwrap_or_default() }
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

    /// The packets from the one that comes `after` others on, of those that [`len`](Self::len) has counted.
    #[inline(always)]
    pub fn packets(&self, after: u32) -> impl Iterator<Item = Arrived<'_>> {
        self.0.packets(after)
    }

    /// Is done with so many packets, the first of those that [`len`](Self::len) has counted.
    #[inline]
    pub fn give_back(&mut self, packets: u32) {
        self.0.give_back(packets);
    }
}

impl Arrived<'_> {
    /// Copies it behind the first `front` octets of a frame, which stay what they are, with its marks; `None`, and nothing changed,
    /// when it does not fit.
    #[inline(always)]
    pub fn fill(&self, frame: &mut Frame, front: usize) -> Option<()> {
        self.copy_to(frame.refill(front, self.octets(), GRANULE)?);
        frame.mark = self.mark();
        Some(())
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
                receiver.packets(n).next().unwrap().fill(&mut to, 0).unwrap();
                assert_eq!((to.headroom(), to.len()), (start, len));
                assert!(to.data().iter().all(|byte| *byte == round));
                assert_eq!(to.mark, [n.into(), 7]);
            }
            assert!(receiver.packets(4).next().is_none());
            receiver.give_back(4);
            // Without what it begins with, and behind what the other frame begins with.
            from.set_len(90).unwrap();
            from.data_mut().copy_from_slice(&[[round; 45], [!round; 45]].concat());
            to.set_len(30).unwrap();
            to.data_mut().fill(0x55);
            assert_eq!(sender.push_all(45, [([9, 9], &from)].into_iter()), 1);
            sender.publish();
            assert_eq!(receiver.len(), 1);
            receiver.packets(0).next().unwrap().fill(&mut to, 30).unwrap();
            assert_eq!(to.data(), [&[0x55; 30][..], &[!round; 45]].concat());
            receiver.give_back(1);
        }
        // Longer than the other frame: that one stays as it is.
        let mut long = here.alloc_for(2040).unwrap();
        long.set_len(2040).unwrap();
        assert!(sender.push(&long, [1; 2]));
        sender.publish();
        assert_eq!(receiver.len(), 1);
        let before = (to.len(), to.mark);
        assert!(receiver.packets(0).next().unwrap().fill(&mut to, 0).is_none());
        assert_eq!((to.len(), to.mark), before);
        let mut jumbo = there.alloc_for(2040).unwrap();
        assert!(receiver.packets(0).next().unwrap().fill(&mut jumbo, 0).is_some());
        assert_eq!(jumbo.data(), long.data());
    }
}
