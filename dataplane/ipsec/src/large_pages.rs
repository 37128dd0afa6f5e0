//! Tables in large pages.
//!
//! A table of a million SAs is a gigabyte that packets meet at random. In pages of 4 KiB nearly each of them would also wait for the
//! page's address to be found; a few hundred pages of 2 MiB are known to the processor.

/// A vector with room for `capacity` values, for the kernel to back with large pages as it is filled. Where it does not, nothing is lost
/// but time.
pub fn with_capacity<T>(capacity: usize) -> Vec<T> {
    let mut table = Vec::with_capacity(capacity);
    let room = table.spare_capacity_mut();
    let (start, len) = (room.as_mut_ptr().addr(), size_of_val(room));
    let first = start.next_multiple_of(LARGE);
    if let Some(len) = (start + len).checked_sub(first).map(|len| len - len % LARGE)
        && len > 0
    {
        let first = room.as_mut_ptr().cast::<u8>().wrapping_add(first - start);
        // SAFETY: the pages lie wholly within memory that the vector owns, and the advice leaves what is in them as it is.
        unsafe { libc::madvise(first.cast(), len, libc::MADV_HUGEPAGE) };
    }
    table
}

/// Bytes of a large page.
const LARGE: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// The capacity is as asked and what is pushed stays, whatever the alignment of what the allocator gave.
    #[test]
    fn a_table_is_a_vector() {
        for capacity in [0, 1, 1000, LARGE / 8, 5 * LARGE / 8 + 3] {
            let mut table = with_capacity::<u64>(capacity);
            assert!(table.capacity() >= capacity);
            let before = table.as_ptr();
            table.extend(0..capacity as u64);
            assert_eq!(table.as_ptr(), before);
            assert!(table.iter().copied().eq(0..capacity as u64));
        }
    }
}
