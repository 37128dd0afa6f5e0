//! Tables in large pages.
//!
//! A table of a million SAs is a gigabyte that packets meet at random. In pages of 4 KiB nearly each of them would also wait for the
//! page's address to be found; a few hundred pages of 2 MiB are known to the processor.

use std::io;

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

/// Where a table lies, for another thread than its owner's to have pages ready before they are used: the kernel clears a page when it is
/// first touched, and a large one takes it some 100 microseconds; in a guest whose host has to find the memory as well, milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    start: usize,
    entry: usize,
    entries: usize,
}

impl Extent {
    /// That of a table, as far as it has room.
    pub fn of<T>(table: &Vec<T>) -> Self {
        Self { start: table.as_ptr().addr(), entry: size_of::<T>(), entries: table.capacity() }
    }

    /// Its address.
    #[cfg(test)]
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// How many entries lie in a large page; at least one.
    pub fn entries_in_a_page(&self) -> usize {
        (LARGE / self.entry.max(1)).max(1)
    }

    /// Has the pages that the entries `from` to `to` lie in backed by memory, as if they had been written to. Nothing that is in them changes,
    /// whoever uses them meanwhile.
    ///
    /// # Errors
    ///
    /// The system's: a kernel before 5.14 does not know how, or there is no memory. Whoever touches the pages first finds out then.
    pub fn populate(&self, from: usize, to: usize) -> io::Result<()> {
        let (from, to) = (from.min(self.entries), to.min(self.entries));
        let first = (self.start + from * self.entry) & !(PAGE - 1);
        let end = (self.start + to * self.entry).next_multiple_of(PAGE);
        if from >= to || self.entry == 0 {
            return Ok(());
        }
        let at = core::ptr::without_provenance_mut(first);
        // SAFETY: this kind of advice changes no byte of any page, and addresses without a mapping are refused; so it does not matter to
        // memory safety whether the table is still there, nor what else lies in its first and last page.
        let done = unsafe { libc::madvise(at, end - first, libc::MADV_POPULATE_WRITE) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Bytes of the smallest page of any machine.
const PAGE: usize = 4096;

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

    /// Bytes that are backed by memory, from an address on.
    fn resident_at(address: usize, len: usize) -> usize {
        let first = address.next_multiple_of(PAGE);
        let mut backed = vec![0u8; len / PAGE];
        let len = len / PAGE * PAGE - PAGE;
        // SAFETY: it writes a byte for each page of the range, and there is one for each.
        let told = unsafe {
            libc::mincore(core::ptr::without_provenance_mut(first), len, backed.as_mut_ptr())
        };
        assert_eq!(told, 0);
        backed.iter().filter(|page| **page & 1 == 1).count() * PAGE
    }

    /// What is populated is backed, what is not is not, and what was there before stays.
    #[test]
    fn populated_pages_are_there_and_unchanged() {
        let entries = 8 * LARGE / 8;
        let mut table = with_capacity::<u64>(entries);
        table.extend(0..1000u64);
        let extent = Extent::of(&table);
        assert_eq!(extent.entries_in_a_page(), LARGE / 8);
        extent.populate(500, 3 * LARGE / 8).unwrap();
        assert!(table.iter().copied().eq(0..1000));
        let at = table.as_ptr().addr();
        assert!(resident_at(at, 3 * LARGE) >= 3 * LARGE - 2 * PAGE);
        // The last page may be a large one.
        assert!(resident_at(at, 8 * LARGE) <= 5 * LARGE);
        // Beyond the end there is nothing to do.
        extent.populate(entries, entries + 1).unwrap();
        extent.populate(7, 7).unwrap();
    }

    /// An address without a mapping is refused, and nothing else happens.
    #[test]
    fn a_table_that_is_gone_is_refused() {
        let extent = Extent { start: PAGE, entry: 8, entries: 100 };
        assert!(extent.populate(0, 100).is_err());
    }
}
