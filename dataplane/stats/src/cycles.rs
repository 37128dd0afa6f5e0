//! What the rows of unit cycles are counted in.

/// Reads the processor's time stamp counter; where there is none, nanoseconds since the first call.
///
/// Not for telling the time: it is for the difference of two readings of one core.
#[inline]
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub fn cycles() -> u64 {
    // SAFETY: RDTSC is part of x86-64, reads a register and touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Reads the processor's time stamp counter; where there is none, nanoseconds since the first call.
///
/// Not for telling the time: it is for the difference of two readings of one core.
#[cfg(any(not(target_arch = "x86_64"), miri))]
pub fn cycles() -> u64 {
    use std::sync::OnceLock;
    use std::time::Instant;
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let first = *FIRST.get_or_init(Instant::now);
    u64::try_from(first.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
