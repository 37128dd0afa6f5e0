//! Places in the tables of one worker: which are free, and that there is memory under them before the worker comes there.

use ipsec::large_pages::Extent;

/// Places for outbound SAs in one worker's table.
#[derive(Debug)]
pub(super) struct OutboundSlots {
    capacity: u32,
    fresh: u32,
    /// Slots that were in use, with the generation of the next SA there.
    free: Vec<(u32, u32)>,
}

impl OutboundSlots {
    pub(super) fn new(sas: usize) -> Self {
        Self { capacity: u32::try_from(sas).unwrap_or(u32::MAX), fresh: 0, free: Vec::new() }
    }

    /// A free slot and the generation of the SA that it is for; one that was in use before, where there is one.
    pub(super) fn take(&mut self) -> Option<(u32, u32)> {
        if let Some(used) = self.free.pop() {
            return Some(used);
        }
        if self.fresh == self.capacity {
            return None;
        }
        self.fresh += 1;
        Some((self.fresh - 1, 0))
    }

    /// Takes back a slot that its SA of `generation` has left.
    pub(super) fn give_back(&mut self, slot: u32, generation: u32) {
        self.free.push((slot, generation.wrapping_add(1)));
    }
}

/// Where the tables of one worker lie that are as long as the slots that were used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables {
    /// By slot of the SPI.
    pub(crate) inbound: [Extent; 3],
    /// By slot.
    pub(crate) outbound: [Extent; 3],
}

/// Keeps the memory of a worker's tables a step ahead of their use.
#[derive(Debug)]
pub(super) struct TablesAhead {
    pub(super) inbound: Ahead,
    pub(super) outbound: Ahead,
}

impl TablesAhead {
    pub(super) fn new(tables: Tables) -> Self {
        let Tables { inbound, outbound } = tables;
        Self { inbound: Ahead::new(inbound), outbound: Ahead::new(outbound) }
    }
}

/// Tables with one index, and as far as which entry of them there is memory.
#[derive(Debug)]
pub(super) struct Ahead {
    extents: [Extent; 3],
    /// How many entries at once: as many as lie in one large page.
    step: usize,
    ready: usize,
}

impl Ahead {
    fn new(extents: [Extent; 3]) -> Self {
        let step = extents.iter().map(Extent::entries_in_a_page).min().unwrap_or(1);
        Self { extents, step, ready: 0 }
    }

    /// Sees to it that a worker finds memory at `slot`. Takes some time now and then: that of clearing a large page.
    pub(super) fn reach(&mut self, slot: usize) {
        if slot < self.ready {
            return;
        }
        let to = slot + self.step;
        for extent in &self.extents {
            // Where it fails the worker waits for its pages, and nothing else is different.
            let _ = extent.populate(self.ready, to);
        }
        self.ready = to;
    }
}
