//! AES key schedule and powers of H, as the vector engines read them.
//!
//! GHASH (SP 800-38D §6.4) numbers the bits of a block from the left; the carry-less multiplier numbers them
//! from the right. Blocks are therefore byte-reversed on the way in, and H is multiplied by x once, here, so
//! that the product of a reversed block and a stored power needs no shift afterwards. All powers below are in
//! that form: multiplying two of them and reducing as [`multiply`] does gives the next.

use core::arch::x86_64::*;

use zeroize::Zeroize;

use super::key::KeyLength;

/// The highest power of H that is kept: 9 vectors of text, AAD and length block take so many.
pub(super) const POWERS: usize = 38;

const ROUND_KEYS: usize = 15;

/// The expanded key of a vector engine, 14 cache lines.
///
/// The powers of H descend to H¹ and the round keys follow, so that a short packet finds all it needs in neighbouring lines. One of them,
/// the [`start`](Self::start), is enough to make the others from.
#[repr(C, align(64))]
pub(super) struct ExpandedKey {
    blocks: [u128; BLOCKS],
}

/// Three are of no use but to fill the last line.
const BLOCKS: usize = POWERS + ROUND_KEYS + 3;

/// What a key begins with: H², H and the key itself, which is one round key or two.
pub(super) struct Start<T> {
    pub(super) square: T,
    pub(super) hash: T,
    pub(super) keys: [T; 2],
}

/// The line of [`Start`].
const START: usize = (POWERS - 2) / 4;

const _: () = assert!((POWERS - 2).is_multiple_of(4));

const _: () = assert!(size_of::<ExpandedKey>() == 14 * 64);

impl ExpandedKey {
    /// Expands `key`, of exactly the length that `length` says.
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    pub(super) fn new(key: &[u8], length: KeyLength) -> Box<Self> {
        let mut expanded = Box::new(Self { blocks: [0; BLOCKS] });
        expanded.schedule(key, length.rounds());
        expanded.hash_powers(length.rounds());
        expanded
    }

    /// FIPS 197 §5.2; the S-box is the processor's, so no table is indexed by key bytes.
    #[target_feature(enable = "aes,ssse3,sse4.1")]
    fn schedule(&mut self, key: &[u8], rounds: usize) {
        let mut words = [0u32; 4 * ROUND_KEYS];
        let nk = key.len() / 4;
        for (word, bytes) in words.iter_mut().zip(key.chunks_exact(4)) {
            *word = bytes.iter().rev().fold(0, |w, b| w << 8 | u32::from(*b));
        }
        let mut round_constant = 1u32;
        for i in nk..4 * (rounds + 1) {
            let mut word = words[i - 1];
            if i % nk == 0 {
                word = substitute(word).rotate_right(8) ^ round_constant;
                round_constant = (round_constant << 1) ^ (if i / nk == 8 { 0x11b } else { 0 });
            } else if nk == 8 && i % 8 == 4 {
                word = substitute(word);
            }
            words[i] = words[i - nk] ^ word;
        }
        for (block, four) in self.blocks[POWERS..].iter_mut().zip(words.chunks_exact(4)) {
            *block = four.iter().rev().fold(0, |b, w| b << 32 | u128::from(*w));
        }
        words.zeroize();
    }

    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    fn hash_powers(&mut self, rounds: usize) {
        let mut block = self.round_key(0);
        for r in 1..rounds {
            block = _mm_aesenc_si128(block, self.round_key(r));
        }
        block = _mm_aesenclast_si128(block, self.round_key(rounds));
        // H·x: what leaves at the top comes back as the polynomial, without a branch on it.
        let h = to_u128(block).swap_bytes();
        let carry = 0u128.wrapping_sub(h >> 127);
        let first = (h << 1) ^ (carry & 0xc200_0000_0000_0000_0000_0000_0000_0001);
        let h = from_u128(first);
        let mut power = h;
        for block in self.blocks[..POWERS].iter_mut().rev() {
            *block = to_u128(power);
            power = multiply(power, h);
        }
    }

    /// The key of round `r`, at most 14.
    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn round_key(&self, r: usize) -> __m128i {
        from_u128(self.blocks[POWERS + r])
    }

    /// H to the power of `e`, which is 1 to [`POWERS`].
    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn power(&self, e: usize) -> __m128i {
        from_u128(self.blocks[POWERS - e])
    }

    /// H to the powers of `e`, `e` - 1, `e` - 2 and `e` - 3.
    ///
    /// Below H¹ come round keys: callers have zero blocks in those lanes.
    #[inline]
    pub(super) fn powers(&self, e: usize) -> &[u128; 4] {
        let i = POWERS - e;
        match self.blocks[i..i + 4].first_chunk() {
            Some(four) => four,
            None => unreachable!(),
        }
    }

    /// H to the power of `e` and of as many as fit below, with [`powers`](Self::powers)' word on those below H¹.
    #[inline]
    pub(super) fn powers_from<const N: usize>(&self, e: usize) -> &[u128; N] {
        match self.blocks[POWERS - e..].first_chunk() {
            Some(powers) => powers,
            None => unreachable!(),
        }
    }

    /// Where the key of round `r` is, at most 14: its line, and the block of that.
    pub(super) const fn at_round(r: usize) -> (usize, usize) {
        ((POWERS + r) / 4, (POWERS + r) % 4)
    }

    /// Where H to the power of `e` is, which is 1 to [`POWERS`].
    pub(super) const fn at_power(e: usize) -> (usize, usize) {
        ((POWERS - e) / 4, (POWERS - e) % 4)
    }

    /// The highest power of H in a line in front of [`ExpandedKey::START_LINE`].
    #[inline]
    pub(super) const fn highest_power(line: usize) -> usize {
        POWERS - 4 * line
    }

    /// A line, to be written.
    #[inline(always)]
    pub(super) fn line_mut(&mut self, line: usize) -> &mut [u128; 4] {
        &mut self.blocks.as_chunks_mut().0[line]
    }

    /// The highest power of H that a packet of `len` bytes needs.
    #[inline]
    pub(super) fn powers_for(len: usize) -> usize {
        (len / 16 + 3).min(POWERS)
    }

    /// Nothing.
    pub(super) const ZERO: Self = Self { blocks: [0; BLOCKS] };

    /// Becomes the same as another.
    pub(super) fn copy_from(&mut self, other: &Self) {
        self.blocks.copy_from_slice(&other.blocks);
    }

    /// Becomes nothing.
    pub(super) fn clear(&mut self) {
        self.blocks.zeroize();
    }

    /// Asks for the cache lines that a packet of `len` bytes will need where no power of H above `highest` is taken.
    #[inline(always)]
    pub(super) fn prefetch(&self, len: usize, rounds: usize, highest: usize) {
        let start = core::ptr::from_ref(self).cast::<i8>();
        for line in first_line(len, highest)..=line_of_round(rounds) {
            // SAFETY: a prefetch reads nothing and cannot fault; SSE is part of every x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(64 * line)) };
        }
    }

    /// The line that any packet needs.
    pub(super) const START_LINE: core::ops::Range<usize> = START..START + 1;

    /// [`Start`], in this order.
    #[inline]
    pub(super) fn start(&self) -> &[u128; 4] {
        match self.blocks[4 * START..].first_chunk() {
            Some(line) => line,
            None => unreachable!(),
        }
    }
}

/// The first line that a packet of `len` bytes needs: that of its highest power.
#[inline(always)]
fn first_line(len: usize, highest: usize) -> usize {
    let power = ExpandedKey::powers_for(len).min(highest);
    ((POWERS - power) * size_of::<u128>() / 64).min(START)
}

/// The line of a round key.
#[inline(always)]
const fn line_of_round(round: usize) -> usize {
    (POWERS + round) * size_of::<u128>() / 64
}

impl Drop for ExpandedKey {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The product of two hash powers.
#[target_feature(enable = "pclmulqdq")]
fn multiply(a: __m128i, b: __m128i) -> __m128i {
    let lo = _mm_clmulepi64_si128::<0x00>(a, b);
    let hi = _mm_clmulepi64_si128::<0x11>(a, b);
    let mid = _mm_xor_si128(_mm_clmulepi64_si128::<0x01>(a, b), _mm_clmulepi64_si128::<0x10>(a, b));
    reduce(lo, mid, hi)
}

/// Folds a 256-bit product (`mid` straddles the halves) to 128 bits: each step clears the lowest 64 bits.
#[inline]
#[target_feature(enable = "pclmulqdq")]
pub(super) fn reduce(lo: __m128i, mid: __m128i, hi: __m128i) -> __m128i {
    let polynomial = _mm_set1_epi64x(REDUCTION);
    let folded = _mm_clmulepi64_si128::<0x00>(lo, polynomial);
    let mid = _mm_xor_si128(_mm_xor_si128(mid, _mm_shuffle_epi32::<0x4e>(lo)), folded);
    let folded = _mm_clmulepi64_si128::<0x00>(mid, polynomial);
    _mm_xor_si128(_mm_xor_si128(hi, _mm_shuffle_epi32::<0x4e>(mid)), folded)
}

/// The upper half of x^128 + x^127 + x^126 + x^121 + 1, the reversed polynomial of GHASH.
pub(super) const REDUCTION: i64 = 0xc200_0000_0000_0000_u64 as i64;

/// The AES S-box over the four bytes of a word.
#[target_feature(enable = "aes,sse2")]
fn substitute(word: u32) -> u32 {
    let word = _mm_set1_epi32(word as i32);
    _mm_cvtsi128_si32(_mm_aeskeygenassist_si128::<0>(word)) as u32
}

#[inline]
#[target_feature(enable = "sse2")]
fn from_u128(block: u128) -> __m128i {
    _mm_set_epi64x((block >> 64) as i64, block as i64)
}

#[inline]
#[target_feature(enable = "sse4.1")]
fn to_u128(block: __m128i) -> u128 {
    let lo = _mm_cvtsi128_si64(block) as u64;
    let hi = _mm_extract_epi64::<1>(block) as u64;
    u128::from(hi) << 64 | u128::from(lo)
}
