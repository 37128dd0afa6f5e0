//! Packets one after the other, each group of vectors hashed between the AES rounds of the next group, be that of the same packet or of
//! the next one.
//!
//! ```text
//!   AES      packet 0: group │ group │ last │ packet 1: group  │ group │ last │
//!   GHASH                    │ group │ group│ last ─► tag 0    │ group │ group│ last ─► tag 1
//! ```
//!
//! A group is eight vectors of two blocks, as eight chains of rounds keep both units for AES busy where four do not; the last group of a
//! text is as many as are left. Packets may be of any lengths: how much is pending is asked for after each round, and the processor
//! foresees the answers.

use core::arch::x86_64::*;

use super::super::aesni::aad_block;
use super::super::expanded::ExpandedKey;
use super::super::job::Job;
use super::vector::*;

/// Vectors in a group that is not the last.
const GROUP: usize = 8;

/// Blocks in such a group.
const BLOCKS: usize = 2 * GROUP;

/// The powers of H of a group: one for the AAD in front, those of the text, and one of a vector behind with the length block.
const POWERS: usize = BLOCKS + 3;

/// The highest of those, of the AAD in front of a last group that is full.
pub(in super::super) const HIGHEST: usize = BLOCKS + 2;

/// A group whose ciphertext is there and whose hash is not yet.
///
/// By lines, as what crosses them takes longer.
#[repr(align(64))]
struct Pending<'k> {
    key: &'k ExpandedKey,
    /// The reversed ciphertext. Of a last group, the length block is behind it: the other half of its last vector or a vector of its own.
    text: [__m256i; GROUP + 1],
    /// So many vectors of it.
    count: usize,
    /// The power of H that its first block is multiplied by.
    power: usize,
    /// The AAD, if the group is the first of its packet.
    aad: Option<__m128i>,
    /// The hash of the groups before, to be added to the first block.
    carried: __m128i,
    /// Of a last group, the encrypted J0.
    mask: __m128i,
}

impl Pending<'_> {
    /// Multiplies vector `i` of the text.
    #[inline]
    #[target_feature(enable = "avx2,vpclmulqdq")]
    fn multiply(&self, i: usize, (powers, halves): Powers<'_>, sum: &mut Sum) {
        let v = self.text[i];
        let v = if i == 0 { _mm256_xor_si256(v, in_lane_0(self.carried)) } else { v };
        sum.add(v, pair(powers, 2 * i + 1), pair(halves, 2 * i + 1));
    }

    /// Multiplies the AAD.
    #[inline]
    #[target_feature(enable = "avx2,vpclmulqdq")]
    fn multiply_aad(&self, (powers, halves): Powers<'_>, sum: &mut Sum) {
        if let Some(aad) = self.aad {
            sum.add(in_lane_0(aad), pair(powers, 0), pair(halves, 0));
        }
    }
}

/// The powers of H of a group, and of each the sum of its halves.
type Powers<'a> = (&'a [u128; POWERS], &'a [u128; POWERS]);

/// What [`halves`] makes of the powers of H of one key.
#[repr(align(64))]
struct Halves([u128; 2 + 2 * HIGHEST]);

impl Halves {
    const ZERO: Self = Self([0; 2 + 2 * HIGHEST]);

    /// Where that of [`HIGHEST`] is: those of a group in front of the last do not cross lines then.
    const FIRST: usize = 2;

    /// Of those that a text of so many blocks takes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn spread(&mut self, key: &ExpandedKey, blocks: usize) {
        let most = (blocks + 2).min(HIGHEST).next_multiple_of(2);
        let (pairs, _) = self.0[Self::FIRST + HIGHEST - most..].as_chunks_mut::<2>();
        for (i, pair) in pairs.iter_mut().take(most / 2).enumerate() {
            let sums = halves(powers(key, most - 2 * i));
            // SAFETY: the array is 32 writable bytes.
            unsafe { _mm256_storeu_si256(pair.as_mut_ptr().cast(), sums) };
        }
    }

    /// Of a group whose first block is multiplied by H to the power of `power`.
    #[inline]
    fn of(&self, power: usize) -> &[u128; POWERS] {
        match self.0[Self::FIRST + HIGHEST - (power + 1)..].first_chunk() {
            Some(powers) => powers,
            None => unreachable!(),
        }
    }
}

/// Any jobs with at least 16 bytes of text.
///
/// # Safety
///
/// Every job has a key of this engine and of `rounds` rounds, and so much text; all are seal jobs if `SEAL`.
#[inline(never)]
#[target_feature(enable = "aes,pclmulqdq,avx2,vaes,vpclmulqdq")]
pub(super) unsafe fn run<const SEAL: bool>(jobs: &mut [Job<'_>], rounds: usize) {
    let Some(first) = jobs.first() else { return };
    let mut pending = Pending {
        // SAFETY: the jobs are of this engine, as the caller promised.
        key: unsafe { first.expanded_key() },
        text: [_mm256_setzero_si256(); GROUP + 1],
        count: 0,
        power: 1,
        aad: None,
        carried: _mm_setzero_si128(),
        mask: _mm_setzero_si128(),
    };
    let mut before: Option<&mut Job<'_>> = None;
    // Of the key now and, if there are more, of the one before, which may be pending.
    let (mut one, mut two);
    let key = first.key_address();
    let halves: &mut [Halves] = if jobs.iter().all(|job| job.key_address() == key) {
        one = [Halves::ZERO];
        &mut one
    } else {
        two = [Halves::ZERO, Halves::ZERO];
        &mut two
    };
    let mut whose = (core::ptr::null(), 0);
    let mut now = 0;
    for job in jobs {
        let blocks = job.blocks();
        let was = now;
        let is_other = job.key_address() != whose.0;
        if is_other || blocks > whose.1 {
            now = (now ^ usize::from(is_other)) & (halves.len() - 1);
            whose = (job.key_address(), blocks);
            // SAFETY: as above.
            halves[now].spread(unsafe { job.expanded_key() }, blocks);
        }
        let mask = pending.mask;
        // SAFETY: the text begins with this group.
        let hash = unsafe { edge::<SEAL>(job, rounds, 0, &halves[was], &mut pending) };
        pending.carried = _mm_setzero_si128();
        if let Some(before) = before {
            let tag = _mm_xor_si128(reversed1(hash), mask);
            // SAFETY: as the caller promised.
            unsafe { finish::<SEAL>(before, tag) };
        }
        if blocks > BLOCKS {
            let last = (blocks - 1) / BLOCKS;
            for g in 1..last {
                // SAFETY: a whole group behind the first, and in front of the last.
                pending.carried = unsafe {
                    stage::<SEAL, GROUP, false, true>(job, rounds, g, &halves[now], &mut pending)
                };
            }
            // SAFETY: what is left of the text.
            pending.carried =
                unsafe { edge::<SEAL>(job, rounds, last, &halves[now], &mut pending) };
        }
        before = Some(job);
    }
    let mut sum = Sum::zero();
    let powers = (pending.key.powers_from(pending.power + 1), halves[now].of(pending.power));
    pending.multiply_aad(powers, &mut sum);
    for i in 0..pending.count {
        pending.multiply(i, powers, &mut sum);
    }
    let tag = _mm_xor_si128(reversed1(fold(sum.reduced())), pending.mask);
    if let Some(job) = before {
        // SAFETY: as the caller promised.
        unsafe { finish::<SEAL>(job, tag) };
    }
}

/// Group `g` of `job`, whatever it is and whatever is pending.
///
/// # Safety
///
/// As [`run`], for this job, which has a group `g`.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx2,vaes,vpclmulqdq")]
unsafe fn edge<'k, const SEAL: bool>(
    job: &Job<'k>,
    rounds: usize,
    g: usize,
    halves: &Halves,
    pending: &mut Pending<'k>,
) -> __m128i {
    macro_rules! of {
        ($vectors:literal, $ends:literal) => {
            // SAFETY: as the caller promised, and so many vectors are left.
            unsafe { stage_apart::<SEAL, $vectors, $ends>(job, rounds, g, halves, pending) }
        };
    }
    match (job.blocks() - BLOCKS * g).div_ceil(2) {
        1 => of!(1, true),
        2 => of!(2, true),
        3 => of!(3, true),
        4 => of!(4, true),
        5 => of!(5, true),
        6 => of!(6, true),
        7 => of!(7, true),
        8 => of!(8, true),
        _ => of!(8, false),
    }
}

/// As [`stage`], not inlined.
///
/// # Safety
///
/// As [`stage`].
#[inline(never)]
#[target_feature(enable = "aes,pclmulqdq,avx2,vaes,vpclmulqdq")]
unsafe fn stage_apart<'k, const SEAL: bool, const L: usize, const ENDS: bool>(
    job: &Job<'k>,
    rounds: usize,
    g: usize,
    halves: &Halves,
    pending: &mut Pending<'k>,
) -> __m128i {
    // SAFETY: as the caller promised.
    unsafe { stage::<SEAL, L, ENDS, false>(job, rounds, g, halves, pending) }
}

/// Encrypts or decrypts group `g` of `job`, which has `L` vectors; hashes what is pending, of whose key `halves` are, and gives that;
/// leaves this group pending.
///
/// # Safety
///
/// As [`run`], for this job; the text has `L` vectors in group `g`, and the last of them is its last if `ENDS`, and else not. If `FULL`,
/// a whole group of the same packet is pending.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx2,vaes,vpclmulqdq")]
unsafe fn stage<'k, const SEAL: bool, const L: usize, const ENDS: bool, const FULL: bool>(
    job: &Job<'k>,
    rounds: usize,
    g: usize,
    halves: &Halves,
    pending: &mut Pending<'k>,
) -> __m128i {
    // SAFETY: the job is of this engine, as the caller promised.
    let key = unsafe { job.expanded_key() };
    let text = Text::new(job);
    // First, for long AAD is a call, which would spill all that is in registers.
    let aad = (!FULL && g == 0).then(|| aad_block(job, key));

    let j0 = _mm_xor_si128(job.j0(), key.round_key(0));
    let mut mask = j0;
    let base = _mm256_broadcastsi128_si256(j0);
    let mut s = counters::<L>(BLOCKS * g);
    for v in &mut s {
        *v = _mm256_xor_si256(base, *v);
    }
    let count = if FULL { GROUP } else { pending.count };
    let power = if FULL { BLOCKS } else { pending.power };
    let whose = if FULL { key } else { pending.key };
    let powers = (whose.powers_from(power + 1), halves.of(power));
    let mut sum = Sum::zero();
    macro_rules! round {
        ($r:expr) => {
            let rk = round_key(key, $r);
            for v in &mut s {
                *v = _mm256_aesenc_epi128(*v, rk);
                in_order(v);
            }
            if ENDS {
                mask = _mm_aesenc_si128(mask, _mm256_castsi256_si128(rk));
            }
        };
    }
    nine_rounds!(ROUND => {
        round!(ROUND);
        match ROUND {
            1 => pending.multiply_aad(powers, &mut sum),
            // The first vector waits for the reduction before, so it is last.
            9 => {
                if !FULL && count > GROUP {
                    pending.multiply(GROUP, powers, &mut sum);
                }
                if count > 0 {
                    pending.multiply(0, powers, &mut sum);
                }
            }
            _ => if ROUND <= count {
                pending.multiply(ROUND - 1, powers, &mut sum);
            }
        }
    });
    if rounds > 10 {
        round!(10);
        round!(11);
        if rounds > 12 {
            round!(12);
            round!(13);
        }
    }
    let hash = fold(sum.reduced());

    let rk = round_key(key, rounds);
    let at = |i: usize| 16 * (BLOCKS * g + 2 * i);
    let whole = if ENDS { L - 1 } else { L };
    let (last, len) = (at(L - 1), job.len() as usize);
    // The end of the text first, before what is in front of it is written over.
    // SAFETY: from `last` on there are the bytes of one vector, and the text has at least 16.
    let end = if ENDS { unsafe { load_last(text, last, len) } } else { _mm256_setzero_si256() };
    for i in 0..whole {
        // SAFETY: the text has this vector and more; so the store.
        let x = unsafe { text.load(at(i)) };
        let y = _mm256_aesenclast_epi128(s[i], _mm256_xor_si256(x, rk));
        // SAFETY: as the load.
        unsafe { text.store(at(i), y) };
        pending.text[i] = reversed(if SEAL { y } else { x });
    }
    if ENDS {
        let y = _mm256_aesenclast_epi128(s[L - 1], _mm256_xor_si256(end, rk));
        // SAFETY: as where `end` was read.
        let y = unsafe { store_last(text, last, len, y) };
        let hashed = reversed(if SEAL { y } else { end });
        let lengths = job.length_block();
        let is_half = len - last <= 16;
        pending.text[L - 1] = if is_half { with_lane_1(hashed, lengths) } else { hashed };
        pending.text[L] = in_lane_0(lengths);
        pending.count = L + usize::from(!is_half);
        pending.power = 2 * L + usize::from(!is_half);
        pending.mask = _mm_aesenclast_si128(mask, _mm256_castsi256_si128(rk));
    } else if !FULL {
        pending.count = L;
        pending.power = BLOCKS;
    }
    if !FULL {
        pending.key = key;
    }
    pending.aad = aad;
    hash
}

/// The last vector of a text, which begins at byte `at`, zeros behind.
///
/// # Safety
///
/// The text has `len` bytes, at least 16, and 1 to 32 of them from `at` on.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_last(text: Text, at: usize, len: usize) -> __m256i {
    let rest = len - at;
    if rest == 32 {
        // SAFETY: the bytes from `at` on, as the caller promised; so below.
        unsafe { text.load(at) }
    } else if rest > 16 {
        // SAFETY: likewise.
        let first = unsafe { text.load1(at) };
        // SAFETY: there are 16 bytes in front of the end; so below.
        lanes(first, unsafe { text.load_end(len, rest - 16) })
    } else {
        // SAFETY: likewise.
        in_lane_0(unsafe { text.load_end(len, rest) })
    }
}

/// Writes the last vector, and gives it with zeros behind.
///
/// # Safety
///
/// As [`load_last`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_last(text: Text, at: usize, len: usize, v: __m256i) -> __m256i {
    let rest = len - at;
    let [a, b] = split(v);
    if rest == 32 {
        // SAFETY: the bytes from `at` on, as the caller promised; so below.
        unsafe { text.store(at, v) };
        v
    } else if rest > 16 {
        let rest = rest - 16;
        // SAFETY: likewise.
        unsafe { text.store1(at, a) };
        // SAFETY: likewise.
        unsafe { text.store_end(at + 16, rest, b) };
        lanes(a, _mm_and_si128(b, first_bytes(rest)))
    } else {
        // SAFETY: likewise.
        unsafe { text.store_end(at, rest, a) };
        in_lane_0(_mm_and_si128(a, first_bytes(rest)))
    }
}
