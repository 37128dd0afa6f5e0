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

/// The receive window of one SA.
#[derive(Debug)]
pub struct ReplayWindow {
    /// The highest number accepted; 0 before the first.
    highest: u64,
    /// Width in packets; 0 switches the check off.
    size: u64,
    extended: bool,
    /// Bit `n % (64 * len)` says whether `n` was seen; a power of two of words, none when off.
    seen: Box<[u64]>,
}

impl ReplayWindow {
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
            MIN_WINDOW..=MAX_WINDOW => {
                (u64::from(size).div_ceil(WORD_BITS) + 1).next_power_of_two() as usize
            }
            _ => return Err(WindowSize(size)),
        };
        let seen = vec![0; words].into_boxed_slice();
        Ok(Self { highest, size: u64::from(size), extended, seen })
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
    #[inline]
    pub fn accept(&mut self, candidate: &Candidate) -> Result<Order, Replayed> {
        let Candidate(sequence) = *candidate;
        self.examine(sequence)?;
        let order = if sequence > self.highest {
            self.advance(sequence);
            Order::Newest
        } else {
            Order::Late
        };
        if let Some((word, bit)) = self.position(sequence) {
            self.seen[word] |= bit;
        }
        Ok(order)
    }

    /// Asks for the word of a number on the wire. The high half does not matter: words are found by the low bits.
    #[inline]
    pub(crate) fn prefetch(&self, low: u32) {
        if let Some((word, _)) = self.position(low.into())
            && let Some(word) = self.seen.get(word)
        {
            prefetch(word);
        }
    }

    #[inline]
    fn examine(&self, sequence: u64) -> Result<(), Replayed> {
        let Some((word, bit)) = self.position(sequence) else { return Ok(()) };
        if sequence > self.highest {
            return Ok(());
        }
        // 0 is never sent (RFC 4303 §3.3.3), and as the initial `highest` it was never accepted.
        if self.highest - sequence >= self.size || sequence == 0 {
            return Err(Replayed::TooOld);
        }
        if self.seen[word] & bit != 0 { Err(Replayed::Duplicate) } else { Ok(()) }
    }

    /// Word and bit of a number; `None` when the check is off.
    #[inline]
    fn position(&self, sequence: u64) -> Option<(usize, u64)> {
        let mask = self.seen.len().checked_sub(1)?;
        Some(((sequence / WORD_BITS) as usize & mask, 1 << (sequence % WORD_BITS)))
    }

    #[inline]
    fn advance(&mut self, sequence: u64) {
        if let Some(mask) = self.seen.len().checked_sub(1) {
            let (from, to) = (self.highest / WORD_BITS, sequence / WORD_BITS);
            for step in 1..=(to - from).min(self.seen.len() as u64) {
                self.seen[(from + step) as usize & mask] = 0;
            }
        }
        self.highest = sequence;
    }

    /// Infers the high half (RFC 4303 Appendix A2.2): the number is taken to lie inside the window or
    /// ahead of it by less than 2^32. Without a window it is the nearest to the highest.
    #[inline]
    fn infer(&self, low: u32) -> Result<u64, Replayed> {
        let width = if self.size == 0 { EPOCH / 2 } else { self.size };
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

#[cfg(test)]
mod tests;
