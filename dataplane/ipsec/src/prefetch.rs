//! Asking for lines of memory before they are needed.
//!
//! A burst of packets of many SAs needs lines that no cache has. Asked for one stage ahead they come side by side; met one by one,
//! each costs a whole trip to memory.
//!
//! There are two ways to ask. A processor forgets a prefetch if as many misses are under way as it can keep (docs/many-sas.md): an older one at some twenty,
//! so that only a few lines now and then are prefetched there, and what is looked at first of a whole burst is read: that waits for room, and as nothing depends
//! on what was read, for no more than that. A newer one keeps all of a burst, and does not wait.

/// Asks for all lines of something. It is a hint: nothing is read, and nothing can fail.
#[inline]
pub fn prefetch<T>(what: &T) {
    prefetch_lines(what, 0..size_of::<T>().div_ceil(LINE));
}

/// Asks for some lines of something, by their numbers: into the second cache, as the first one forgets even where that does not.
#[inline(always)]
pub(crate) fn prefetch_lines<T>(what: &T, lines: core::ops::Range<usize>) {
    #[cfg(target_arch = "x86_64")]
    for line in lines {
        use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let address = core::ptr::from_ref(what).cast::<i8>().wrapping_add(line * LINE);
        // SAFETY: a prefetch reads nothing and cannot fault, whatever the address; SSE is part of every x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (what, lines);
}

/// Asks for all lines of something, as one of a whole burst.
#[inline(always)]
pub fn bring<T>(what: &T) {
    bring_lines(what, 0..size_of::<T>().div_ceil(LINE));
}

/// The same for some lines, by their numbers.
#[inline(always)]
pub(crate) fn bring_lines<T>(what: &T, lines: core::ops::Range<usize>) {
    match keeps_a_burst() {
        true => prefetch_lines(what, lines),
        false => read_lines(what, lines),
    }
}

/// Whether the second cache keeps as many misses as a burst has. Nothing tells; those that were seen to (Zen 4) and seen not to (Zen 3) differ in this.
#[inline(always)]
fn keeps_a_burst() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Reads a word of each line of something, and uses none.
#[inline]
pub fn read<T>(what: &T) {
    read_lines(what, 0..usize::MAX);
}

/// The same for some lines, by their numbers.
///
/// Lines that `what` does not have are left out.
#[inline(always)]
fn read_lines<T>(what: &T, lines: core::ops::Range<usize>) {
    type Word = core::mem::MaybeUninit<u64>;
    const { assert!(size_of::<T>() == 0 || align_of::<T>() >= align_of::<Word>()) };
    for line in lines.start..lines.end.min(size_of::<T>().div_ceil(LINE)) {
        let word = core::ptr::from_ref(what).wrapping_byte_add(line * LINE).cast::<Word>();
        // SAFETY: it is aligned as `what` is and within it: such a size is a multiple of a word's, and the line begins before its end. Any bytes
        // make such a word, padding too. Who has a reference may read.
        let _ = unsafe { word.read_volatile() };
    }
}

const LINE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// A line and a part of one, with padding.
    #[repr(C)]
    struct Uneven([u64; 8], u8, u64);

    #[test]
    fn what_is_read_is_only_what_is_there() {
        let two = [Uneven([1; 8], 2, 3), Uneven([4; 8], 5, 6)];
        // Miri sees what is read.
        read(&two[1]);
        read_lines(&two[0], 1..7);
        read(&());
        assert_eq!(two.map(|one| (one.0, one.1, one.2)), [([1; 8], 2, 3), ([4; 8], 5, 6)]);
    }
}
