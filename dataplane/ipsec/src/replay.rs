//! Anti-replay windows (RFC 4303 §3.4.3 and Appendix A, RFC 6479).
//!
//! ```text
//!        highest − size                         highest
//!  refused │ seen or not, one bit each            │ ahead: the window moves
//!  ────────┴──────────────────────────────────────┴──────────►
//! ```
//!
//! The bits lie in a ring of words with at least one word more than the window needs, so that moving
//! right clears whole words and shifts none (RFC 6479 §3). Checking changes nothing; it gives a
//! [`Candidate`], and only accepting that, after the ICV has verified, moves the window.

use crate::prefetch::prefetch;

/// The smallest window, in packets (RFC 4303 §3.4.3 asks for at least 32).
pub const MIN_WINDOW: u32 = 32;
/// The largest window, in packets: 8 KiB of bits.
pub const MAX_WINDOW: u32 = 65_536;

const WORD_BITS: u64 = 64;
const EPOCH: u64 = 1 << 32;

/// Why a sequence number is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Replayed {
    /// It was accepted before.
    #[error("duplicate")]
    Duplicate,
    /// It lies left of the window, or is none that a sender may use.
    #[error("left of the window")]
    TooOld,
}

/// A window size that is neither 0 nor within [`MIN_WINDOW`] to [`MAX_WINDOW`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a replay window has 0 or 32 to 65536 packets, not {0}")]
pub struct WindowSize(pub u32);

/// A sequence number that passed the check and whose packet is not yet known to be authentic.
///
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a packet is not accepted before the window has its sequence number"]
pub struct Candidate(u64);

impl Candidate {
    /// The full number: what the receiver inferred with 64-bit numbers, the low half is on the wire.
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.0
    }

    /// The high half, which the ICV covers with 64-bit numbers (RFC 4303 §2.2.1).
    #[inline]
    pub fn high(&self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// How an accepted number lies to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Above all before it.
    Newest,
    /// Inside the window.
    Late,
}

/// Words of a window that is part of its SA, in the same page: no other has to be found to reach one.
const NEAR: usize = 32;

/// The receive window of one SA.
#[derive(Debug)]
#[repr(C)]
pub struct ReplayWindow {
    /// The words of a window that has more than [`NEAR`]; none of others.
    far: Box<[u64]>,
    /// Bit `n % (64 * words)` says whether `n` was seen.
    near: [u64; NEAR],
    /// The highest number accepted; 0 before the first.
    highest: u64,
    /// Width in packets; 0 switches the check off.
    size: u32,
    extended: bool,
}

impl ReplayWindow {
    /// What every packet looks at, beside a word, lies behind this.
    pub(crate) const HOT_AT: usize = core::mem::offset_of!(Self, highest);

    /// A window of `size` packets, or 0 for none, for 32-bit or 64-bit (`extended`) numbers.
    ///
    /// # Errors
    ///
    /// [`WindowSize`].
    pub fn new(size: u32, extended: bool) -> Result<Self, WindowSize> {
        Self::resume(size, extended, 0)
    }

    /// A window whose highest number is `highest` and in which no number is marked as seen.
    ///
    /// # Errors
    ///
    /// [`WindowSize`].
    pub fn resume(size: u32, extended: bool, highest: u64) -> Result<Self, WindowSize> {
        let words = match size {
            0 => 0,
            MIN_WINDOW..=MAX_WINDOW => words_for(size) as usize,
            _ => return Err(WindowSize(size)),
        };
        let far = if words > NEAR { vec![0; words].into() } else { Box::default() };
        Ok(Self { far, near: [0; NEAR], highest, size, extended })
    }

    /// The highest number accepted, 0 before the first.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// Whether `low`, the number on the wire, may be new. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Replayed`].
    #[inline]
    pub fn check(&self, low: u32) -> Result<Candidate, Replayed> {
        let sequence = if self.extended { self.infer(low)? } else { u64::from(low) };
        self.examine(sequence)?;
        Ok(Candidate(sequence))
    }

    /// Marks an authentic packet's number as seen and moves the window. The number is examined again,
    /// because other packets of the same burst may have been accepted since the check.
    ///
    /// # Errors
    ///
    /// [`Replayed`].
    #[inline(always)]
    pub fn accept(&mut self, candidate: &Candidate) -> Result<Order, Replayed> {
        let Candidate(sequence) = *candidate;
        self.examine(sequence)?;
        let order = if sequence > self.highest {
            self.advance(sequence);
            Order::Newest
        } else {
            Order::Late
        };
        if self.size != 0 {
            *self.word_mut(sequence / WORD_BITS) |= bit(sequence);
        }
        Ok(order)
    }

    /// Asks for the word of a number on the wire. The high half does not matter: words are found by the low bits.
    #[inline(always)]
    pub(crate) fn prefetch(&self, low: u32) {
        prefetch(self.word(u64::from(low) / WORD_BITS));
    }

    #[inline]
    fn examine(&self, sequence: u64) -> Result<(), Replayed> {
        if self.size == 0 || sequence > self.highest {
            return Ok(());
        }
        // 0 is never sent (RFC 4303 §3.3.3), and as the initial `highest` it was never accepted.
        if self.highest - sequence >= u64::from(self.size) || sequence == 0 {
            return Err(Replayed::TooOld);
        }
        if self.word(sequence / WORD_BITS) & bit(sequence) != 0 {
            Err(Replayed::Duplicate)
        } else {
            Ok(())
        }
    }

    /// How many words it has, without looking at the line that says so of far ones.
    #[inline(always)]
    fn words(&self) -> u64 {
        words_for(self.size).max(NEAR as u64)
    }

    /// Whether it has more words than are part of the SA; the same as whether there are far ones, without looking at them.
    #[inline(always)]
    fn is_far(&self) -> bool {
        u64::from(self.size) > (NEAR as u64 - 1) * WORD_BITS
    }

    /// The word of the numbers that are `place` times the bits of a word and above.
    #[inline(always)]
    fn word(&self, place: u64) -> &u64 {
        let place = place as usize;
        if self.is_far() {
            &self.far[place & (self.far.len() - 1)]
        } else {
            &self.near[place & (NEAR - 1)]
        }
    }

    #[inline(always)]
    fn word_mut(&mut self, place: u64) -> &mut u64 {
        let place = place as usize;
        if self.is_far() {
            let mask = self.far.len() - 1;
            &mut self.far[place & mask]
        } else {
            &mut self.near[place & (NEAR - 1)]
        }
    }

    #[inline]
    fn advance(&mut self, sequence: u64) {
        let (from, to) = (self.highest / WORD_BITS, sequence / WORD_BITS);
        for step in 1..=(to - from).min(self.words()) {
            *self.word_mut(from + step) = 0;
        }
        self.highest = sequence;
    }

    /// Infers the high half (RFC 4303 Appendix A2.2): the number is taken to lie inside the window or
    /// ahead of it by less than 2^32. Without a window it is the nearest to the highest.
    #[inline]
    fn infer(&self, low: u32) -> Result<u64, Replayed> {
        let width = if self.size == 0 { EPOCH / 2 } else { self.size.into() };
        let (epoch, top) = (self.highest / EPOCH, self.highest % EPOCH);
        let low = u64::from(low);
        let epoch = if top >= width - 1 {
            // Case A: the window lies inside one epoch.
            if low >= top - (width - 1) { Some(epoch) } else { epoch.checked_add(1) }
        } else {
            // Case B: the window reaches back into the epoch before.
            if low >= EPOCH + top - (width - 1) { epoch.checked_sub(1) } else { Some(epoch) }
        };
        // Before the first epoch and after the last one there are no numbers.
        let epoch = epoch.filter(|&epoch| epoch < EPOCH).ok_or(Replayed::TooOld)?;
        Ok(epoch * EPOCH + low)
    }
}

/// Words that a window of `size` packets takes.
#[inline(always)]
fn words_for(size: u32) -> u64 {
    (u64::from(size).div_ceil(WORD_BITS) + 1).next_power_of_two()
}

/// The bit of a number in its word.
#[inline(always)]
fn bit(sequence: u64) -> u64 {
    1 << (sequence % WORD_BITS)
}

#[cfg(test)]
mod tests;
