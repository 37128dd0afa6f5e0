//! What turns J0 into counter blocks (SP 800-38D §7.1) by one XOR.

/// 64-byte vectors of text that the table serves: 4 KiB, which is 4 KiB of table.
pub(super) const COUNTERS: usize = 64;

/// What turns J0, whose counter is 1, into the counter blocks of a text's first [`COUNTERS`] vectors, whose counters are 2 and on.
pub(super) static TABLE: Table = Table::new();

#[repr(C, align(64))]
pub(super) struct Table(pub(super) [[u32; 16]; COUNTERS]);

impl Table {
    const fn new() -> Self {
        let mut table = [[0; 16]; COUNTERS];
        let mut b = 0;
        while b < 4 * COUNTERS {
            table[b / 4][4 * (b % 4) + 3] = difference(b);
            b += 1;
        }
        Self(table)
    }

    /// Of sixteen blocks from block `b` on, if the table has those.
    #[inline]
    pub(super) fn sixteen(&self, b: usize) -> Option<&[u32; 64]> {
        self.0.as_flattened().get(4 * b..).and_then(<[_]>::first_chunk)
    }
}

/// The difference (XOR) between the counter of J0 and that of text block `b`, in the last word of a block, big endian; jobs are bounded so
/// that counters fit 32 bits.
#[inline]
pub(super) const fn difference(b: usize) -> u32 {
    (1 ^ (b + 2) as u32).swap_bytes()
}
