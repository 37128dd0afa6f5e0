//! What the three shapes of the kernel are made of: four blocks in a register.
//!
//! Lane `i` of a vector is the `i`th of four consecutive 16-byte blocks. Functions here are inlined into the
//! kernels: they enable the same features, and none is larger than a few instructions.

use core::arch::asm;
use core::arch::x86_64::*;

use super::super::counter;
pub(super) use super::super::counter::COUNTERS;
use super::super::expanded::{ExpandedKey, REDUCTION};
use super::super::job::Job;

/// The middle rounds of `R`, 1 to `R` - 1, one after the other with the number as a constant: a loop that the
/// compiler chooses not to unroll would index registers, that is, put them into memory.
macro_rules! each_round {
    ($round:ident => $body:block) => {
        each_round!(@ $round $body 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $round:ident $body:block $($n:literal)*) => {
        $({
            const $round: usize = $n;
            if $round < R $body
        })*
    };
}
pub(super) use each_round;

/// Holds `v` to its place in the order of the program.
///
/// The kernels write the AES rounds of many blocks side by side, with multiplications between them, because the
/// processor looks only so far ahead. The compiler, which saves registers, would do block after block and the
/// multiplications last: a quarter slower. What passes through here is computed before what is next to pass.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn in_order(v: &mut __m512i) {
    // SAFETY: there is no instruction; the register is declared as read and written.
    unsafe { asm!("/* {0} */", inout(zmm_reg) * v, options(nomem, nostack, preserves_flags)) };
}

/// A byte-reversed block is a polynomial as the carry-less multiplier takes it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn reversed(v: __m512i) -> __m512i {
    _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(reversal()))
}

/// As [`reversed`], one block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn reversed1(block: __m128i) -> __m128i {
    _mm_shuffle_epi8(block, reversal())
}

#[inline]
#[target_feature(enable = "sse2")]
fn reversal() -> __m128i {
    _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn xor3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0x96>(a, b, c)
}

/// One block in lane 0, zeros in the others.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn in_lane_0(block: __m128i) -> __m512i {
    _mm512_zextsi128_si512(block)
}

/// Two blocks in lanes 0 and 1, zeros in the others.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn in_lanes_01(a: __m128i, b: __m128i) -> __m512i {
    _mm512_zextsi256_si512(_mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b))
}

/// `v` with its last lane replaced.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn with_lane_3(v: __m512i, block: __m128i) -> __m512i {
    _mm512_mask_broadcast_i32x4(v, 0xf000, block)
}

/// `v` with lane `i` replaced.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn with_lane(v: __m512i, i: usize, block: __m128i) -> __m512i {
    _mm512_mask_broadcast_i32x4(v, 0xf << (4 * i), block)
}

/// Four blocks as the lanes of one vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn lanes(a: __m128i, b: __m128i, c: __m128i, d: __m128i) -> __m512i {
    let lo = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
    let hi = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(c), d);
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(lo), hi)
}

/// The XOR of the four lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn fold(v: __m512i) -> __m128i {
    let two = _mm256_xor_si256(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v));
    _mm_xor_si128(_mm256_castsi256_si128(two), _mm256_extracti128_si256::<1>(two))
}

/// Lane `i` of the result's vector `j` is lane `j` of vector `i`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn transposed(v: [__m512i; 4]) -> [__m512i; 4] {
    let ab01 = _mm512_shuffle_i64x2::<0x44>(v[0], v[1]);
    let ab23 = _mm512_shuffle_i64x2::<0xee>(v[0], v[1]);
    let cd01 = _mm512_shuffle_i64x2::<0x44>(v[2], v[3]);
    let cd23 = _mm512_shuffle_i64x2::<0xee>(v[2], v[3]);
    [
        _mm512_shuffle_i64x2::<0x88>(ab01, cd01),
        _mm512_shuffle_i64x2::<0xdd>(ab01, cd01),
        _mm512_shuffle_i64x2::<0x88>(ab23, cd23),
        _mm512_shuffle_i64x2::<0xdd>(ab23, cd23),
    ]
}

/// The lanes of a vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn split(v: __m512i) -> [__m128i; 4] {
    [
        _mm512_castsi512_si128(v),
        _mm512_extracti32x4_epi32::<1>(v),
        _mm512_extracti32x4_epi32::<2>(v),
        _mm512_extracti32x4_epi32::<3>(v),
    ]
}

/// The key of round `r` in every lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn round_key(key: &ExpandedKey, r: usize) -> __m512i {
    _mm512_broadcast_i32x4(key.round_key(r))
}

/// The round keys of packets, in every lane, if they are `SPREAD`: to spread them each time would take the units that the packets need.
pub(super) struct RoundKeys<const SPREAD: bool>(pub(super) [__m512i; 15]);

impl<const SPREAD: bool> RoundKeys<SPREAD> {
    /// From the second on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) fn spread<const R: usize>(&mut self, key: &ExpandedKey) {
        for r in 1..=R {
            self.0[r] = round_key(key, r);
        }
    }

    /// Of round `r` of a packet whose key is `own`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) fn of(&self, own: &ExpandedKey, r: usize) -> __m512i {
        if SPREAD { self.0[r] } else { round_key(own, r) }
    }

    /// Of round `r` of four packets, a lane each.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) fn of_each(&self, [a, b, c, d]: [&ExpandedKey; 4], r: usize) -> __m512i {
        if SPREAD {
            return self.0[r];
        }
        lanes(a.round_key(r), b.round_key(r), c.round_key(r), d.round_key(r))
    }
}

/// One block through the rounds that follow the first key addition.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn encrypt<const R: usize>(key: &ExpandedKey, block: __m128i) -> __m128i {
    let mut block = block;
    for r in 1..R {
        block = _mm_aesenc_si128(block, key.round_key(r));
    }
    _mm_aesenclast_si128(block, key.round_key(R))
}

/// H to the powers of `e`, `e` - 1, `e` - 2 and `e` - 3, by lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn powers(key: &ExpandedKey, e: usize) -> __m512i {
    // SAFETY: the array is 64 readable bytes.
    unsafe { _mm512_loadu_si512(key.powers(e).as_ptr().cast()) }
}

/// The sums of the two halves of the blocks of `v` and of `w`, as the halves of a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn halves(v: __m512i, w: __m512i) -> __m512i {
    _mm512_xor_si512(_mm512_unpacklo_epi64(v, w), _mm512_unpackhi_epi64(v, w))
}

/// Unreduced products, summed lane by lane.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    lo: __m512i,
    mid: __m512i,
    hi: __m512i,
}

impl Sum {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) fn zero() -> Self {
        let zero = _mm512_setzero_si512();
        Self { lo: zero, mid: zero, hi: zero }
    }

    /// The product of reversed blocks and powers of H.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) fn of(v: __m512i, h: __m512i) -> Self {
        Self {
            lo: _mm512_clmulepi64_epi128::<0x00>(v, h),
            mid: _mm512_xor_si512(
                _mm512_clmulepi64_epi128::<0x01>(v, h),
                _mm512_clmulepi64_epi128::<0x10>(v, h),
            ),
            hi: _mm512_clmulepi64_epi128::<0x11>(v, h),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) fn add(&mut self, v: __m512i, h: __m512i) {
        self.lo = _mm512_xor_si512(self.lo, _mm512_clmulepi64_epi128::<0x00>(v, h));
        self.hi = _mm512_xor_si512(self.hi, _mm512_clmulepi64_epi128::<0x11>(v, h));
        self.mid = xor3(
            self.mid,
            _mm512_clmulepi64_epi128::<0x01>(v, h),
            _mm512_clmulepi64_epi128::<0x10>(v, h),
        );
    }

    /// Two at once, which takes one XOR less for each half.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) fn add2(&mut self, v: __m512i, h: __m512i, w: __m512i, g: __m512i) {
        self.lo = xor3(
            self.lo,
            _mm512_clmulepi64_epi128::<0x00>(v, h),
            _mm512_clmulepi64_epi128::<0x00>(w, g),
        );
        self.hi = xor3(
            self.hi,
            _mm512_clmulepi64_epi128::<0x11>(v, h),
            _mm512_clmulepi64_epi128::<0x11>(w, g),
        );
        for (v, h) in [(v, h), (w, g)] {
            self.mid = xor3(
                self.mid,
                _mm512_clmulepi64_epi128::<0x01>(v, h),
                _mm512_clmulepi64_epi128::<0x10>(v, h),
            );
        }
    }

    /// From a sum to a halved one and back: what straddles the halves is the product of their sums less both other products (Karatsuba).
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) fn halved(self) -> Self {
        Self { mid: xor3(self.mid, self.lo, self.hi), ..self }
    }

    /// As [`add`](Self::add), of a halved sum.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) fn add_halved(&mut self, v: __m512i, h: __m512i) {
        self.lo = _mm512_xor_si512(self.lo, _mm512_clmulepi64_epi128::<0x00>(v, h));
        self.hi = _mm512_xor_si512(self.hi, _mm512_clmulepi64_epi128::<0x11>(v, h));
        let product = _mm512_clmulepi64_epi128::<0x00>(halves(v, v), halves(h, h));
        self.mid = _mm512_xor_si512(self.mid, product);
    }

    /// As [`add2`](Self::add2), of a halved sum: six products instead of eight. `of_powers` is [`halves`] of the powers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) fn add2_halved(
        &mut self,
        [v, w]: [__m512i; 2],
        [h, g]: [__m512i; 2],
        of_powers: __m512i,
    ) {
        self.lo = xor3(
            self.lo,
            _mm512_clmulepi64_epi128::<0x00>(v, h),
            _mm512_clmulepi64_epi128::<0x00>(w, g),
        );
        self.hi = xor3(
            self.hi,
            _mm512_clmulepi64_epi128::<0x11>(v, h),
            _mm512_clmulepi64_epi128::<0x11>(w, g),
        );
        let of_text = halves(v, w);
        self.mid = xor3(
            self.mid,
            _mm512_clmulepi64_epi128::<0x00>(of_text, of_powers),
            _mm512_clmulepi64_epi128::<0x11>(of_text, of_powers),
        );
    }

    /// As [`in_order`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) fn in_order(&mut self) {
        in_order(&mut self.lo);
        in_order(&mut self.mid);
        in_order(&mut self.hi);
    }

    /// Reduces every lane by itself to 128 bits (see `expanded::reduce`).
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) fn reduced(self) -> __m512i {
        let polynomial = _mm512_set1_epi64(REDUCTION);
        let folded = _mm512_clmulepi64_epi128::<0x00>(self.lo, polynomial);
        let mid = xor3(self.mid, _mm512_shuffle_epi32::<0x4e>(self.lo), folded);
        let folded = _mm512_clmulepi64_epi128::<0x00>(mid, polynomial);
        xor3(self.hi, _mm512_shuffle_epi32::<0x4e>(mid), folded)
    }
}

/// The counters of text vector `j`, below [`COUNTERS`], to be XORed to J0.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn counters(j: usize) -> __m512i {
    let vector: &[u32; 16] = &counter::TABLE.0[j];
    // SAFETY: the array is 64 readable bytes.
    unsafe { _mm512_loadu_si512(vector.as_ptr().cast()) }
}

/// The counter of text block `b`, below four times [`COUNTERS`], in every lane, to be XORed to J0s.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn block_counter(b: usize) -> __m512i {
    let (four, _) = counter::TABLE.0[b / 4].as_chunks::<4>();
    let one: &[u32; 4] = &four[b % 4];
    // SAFETY: the array is 16 readable bytes.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(one.as_ptr().cast()) })
}

/// The counters of any text vector, to be XORed to J0.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn far_counters(j: usize) -> __m512i {
    let number = |lane| _mm_set_epi32(counter::difference(4 * j + lane) as i32, 0, 0, 0);
    lanes(number(0), number(1), number(2), number(3))
}

/// Where a text's last vector ends.
#[derive(Clone, Copy)]
pub(super) struct Tail {
    /// The bytes of the vector that are text.
    pub(super) mask: u64,
    /// Its blocks, the last perhaps not full: 1 to 4.
    pub(super) blocks: usize,
}

/// The tail of a text that is not empty.
#[inline]
#[target_feature(enable = "bmi2")]
pub(super) fn tail(len: u32) -> Tail {
    let last = (len - 1) % 64;
    Tail { mask: _bzhi_u64(!0, last + 1), blocks: (last / 16) as usize + 1 }
}

/// The bytes of a text's last block, if it is not empty.
#[inline]
#[target_feature(enable = "bmi2")]
pub(super) fn block_mask(len: u32) -> u16 {
    _bzhi_u32(!0, (len - 1) % 16 + 1) as u16
}

/// Vectors of text in `len` bytes.
#[inline]
pub(super) fn vectors(len: u32) -> usize {
    len.div_ceil(64) as usize
}

/// A job's text: read at one pointer, written at another or the same.
#[derive(Clone, Copy)]
pub(super) struct Text {
    src: *const u8,
    dst: *mut u8,
}

impl Text {
    #[inline]
    pub(super) fn new(job: &Job<'_>) -> Self {
        Self { src: job.src, dst: job.dst }
    }

    /// # Safety
    ///
    /// The text has at least `64 * (j + 1)` bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) unsafe fn load(self, j: usize) -> __m512i {
        // SAFETY: inside the source, by the caller's word and the invariants of a job.
        unsafe { _mm512_loadu_si512(self.src.wrapping_add(64 * j).cast()) }
    }

    /// The bytes of `mask`, zeros elsewhere.
    ///
    /// # Safety
    ///
    /// `mask` selects only bytes of vector `j` that the text has.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) unsafe fn load_tail(self, j: usize, mask: u64) -> __m512i {
        // SAFETY: as above; bytes that the mask leaves out are not read (masked loads suppress faults).
        unsafe { _mm512_maskz_loadu_epi8(mask, self.src.wrapping_add(64 * j).cast()) }
    }

    /// The bytes of `mask` of the block at byte `at`, zeros elsewhere.
    ///
    /// # Safety
    ///
    /// `mask` selects only bytes that the text has.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) unsafe fn load_block(self, at: usize, mask: u16) -> __m128i {
        // SAFETY: as above.
        unsafe { _mm_maskz_loadu_epi8(mask, self.src.wrapping_add(at).cast()) }
    }

    /// # Safety
    ///
    /// `mask` selects only bytes that the text has.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) unsafe fn store_block(self, at: usize, mask: u16, block: __m128i) {
        // SAFETY: inside the destination; bytes that the mask leaves out are not written.
        unsafe { _mm_mask_storeu_epi8(self.dst.wrapping_add(at).cast(), mask, block) };
    }

    /// # Safety
    ///
    /// The text has at least `64 * (j + 1)` bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) unsafe fn store(self, j: usize, v: __m512i) {
        // SAFETY: inside the destination, by the caller's word and the invariants of a job.
        unsafe { _mm512_storeu_si512(self.dst.wrapping_add(64 * j).cast(), v) };
    }

    /// # Safety
    ///
    /// `mask` selects only bytes of vector `j` that the text has.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    pub(super) unsafe fn store_tail(self, j: usize, mask: u64, v: __m512i) {
        // SAFETY: as above; bytes that the mask leaves out are not written.
        unsafe { _mm512_mask_storeu_epi8(self.dst.wrapping_add(64 * j).cast(), mask, v) };
    }
}

/// The first counter block, whose encryption masks the tag (SP 800-38D §7.1).
#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn j0(job: &Job<'_>) -> __m128i {
    job.j0()
}

/// The AAD as the one block in front of the text, reversed.
///
/// More than one block of AAD is hashed down to its last: that block with the hash so far added is what a
/// single block would have been.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) fn aad_block(job: &Job<'_>, key: &ExpandedKey) -> __m128i {
    match job.aad_block() {
        Some(block) => reversed1(block),
        None => hash_long_aad(job.aad(), key),
    }
}

/// All blocks of `aad`, which is longer than one: Horner's rule eight vectors at a time.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
fn hash_long_aad(aad: &[u8], key: &ExpandedKey) -> __m128i {
    let last = (aad.len() - 1) & !15;
    let (whole, rest) = aad.split_at(last);
    let mut hash = _mm_setzero_si128();
    let mut groups = whole.chunks_exact(512);
    for group in &mut groups {
        let mut sum = Sum::zero();
        for (i, vector) in group.chunks_exact(64).enumerate() {
            // SAFETY: `chunks_exact` gives 64 readable bytes.
            let v = reversed(unsafe { _mm512_loadu_si512(vector.as_ptr().cast()) });
            let v = if i == 0 { _mm512_xor_si512(v, in_lane_0(hash)) } else { v };
            sum.add(v, powers(key, 32 - 4 * i));
        }
        hash = fold(sum.reduced());
    }
    let first = in_lane_0(key.power(1));
    for block in groups.remainder().chunks_exact(16) {
        // SAFETY: `chunks_exact` gives 16 readable bytes.
        let v = reversed1(unsafe { _mm_loadu_si128(block.as_ptr().cast()) });
        hash = fold(Sum::of(in_lane_0(_mm_xor_si128(hash, v)), first).reduced());
    }
    let mask = _bzhi_u32(!0, rest.len() as u32) as u16;
    // SAFETY: the mask selects the `rest.len()` bytes, at most 16, that are there.
    let v = unsafe { _mm_maskz_loadu_epi8(mask, rest.as_ptr().cast()) };
    _mm_xor_si128(hash, reversed1(v))
}

/// The bytes of the tag.
#[inline]
#[target_feature(enable = "bmi2")]
pub(super) fn tag_mask(job: &Job<'_>) -> u16 {
    _bzhi_u32(!0, u32::from(job.tag_len())) as u16
}

/// The tag that came with the packet, zeros behind it.
///
/// # Safety
///
/// `mask` is the job's `tag_mask`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn received_tag(job: &Job<'_>, mask: u16) -> __m128i {
    // SAFETY: the tag is readable for `tag_len` bytes, and no others are read.
    unsafe { _mm_maskz_loadu_epi8(mask, job.tag.cast()) }
}

/// Writes the tag of a seal job.
///
/// # Safety
///
/// The job is a seal job, and `mask` is its `tag_mask`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn put_tag(job: &Job<'_>, mask: u16, tag: __m128i) {
    // SAFETY: the tag of a seal job is writable for `tag_len` bytes, and no others are written.
    unsafe { _mm_mask_storeu_epi8(job.tag.cast(), mask, tag) };
}

/// Writes the tag, or compares all of it at once and records the verdict.
///
/// # Safety
///
/// With `SEAL` the job is a seal job.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn finish<const SEAL: bool>(job: &mut Job<'_>, tag: __m128i) {
    let mask = tag_mask(job);
    if SEAL {
        // SAFETY: as the caller promised.
        unsafe { put_tag(job, mask, tag) };
    } else {
        // SAFETY: the mask is this job's.
        let received = unsafe { received_tag(job, mask) };
        job.conclude(_mm_mask_cmpneq_epi8_mask(mask, tag, received) == 0);
    }
}
