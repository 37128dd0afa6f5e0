//! Asking for lines of memory before they are needed.
//!
//! A burst of packets of many SAs needs lines that no cache has. Asked for one stage ahead they come side by side; met one by one,
//! each costs a whole trip to memory.

/// Asks for all lines of something. It is a hint: nothing is read, and nothing can fail.
#[inline]
pub fn prefetch<T>(what: &T) {
    prefetch_lines(what, 0..size_of::<T>().div_ceil(LINE));
}

/// Asks for some lines of something, by their numbers.
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

const LINE: usize = 64;
