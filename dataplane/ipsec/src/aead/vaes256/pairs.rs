//! Two short packets of as many blocks each, side by side: a block of each in every register, for AES and for GHASH, so that one sum
//! and one reduction give two tags. What two packets hash is multiplied between the AES rounds of the next two.

use core::arch::x86_64::*;

use super::super::expanded::ExpandedKey;
use super::super::job::Job;
use super::vector::*;

/// The longest packets that go by pairs, in blocks: so many chains of rounds there are registers for.
pub(super) const MOST: usize = 8;

/// Whether two packets can go side by side.
#[inline]
fn are_alike(a: &Job<'_>, b: &Job<'_>) -> bool {
    let blocks = a.blocks();
    blocks <= MOST
        && blocks == b.blocks()
        && a.len().min(b.len()) >= 16
        && a.has_short_aad()
        && b.has_short_aad()
}

/// How many pairs in front are alike, all of one number of blocks.
#[inline]
pub(super) fn alike(jobs: &[Job<'_>]) -> usize {
    let blocks = jobs.first().map_or(0, Job::blocks);
    let (pairs, _) = jobs.as_chunks::<2>();
    pairs.iter().take_while(|[a, b]| a.blocks() == blocks && are_alike(a, b)).count()
}

/// Pairs of packets, all of as many blocks.
///
/// # Safety
///
/// Every job has a key of this engine and of `rounds` rounds; all have the same number of blocks, 1 to [`MOST`], at least 16 bytes, and
/// AAD of one block; all are seal jobs if `SEAL`.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx2,vaes,vpclmulqdq")]
pub(super) unsafe fn run<const SEAL: bool>(pairs: &mut [[Job<'_>; 2]], rounds: usize) {
    let Some([first, _]) = pairs.first() else { return };
    let key = first.key_address();
    let is_one_key = pairs.as_flattened().iter().all(|job| job.key_address() == key);
    macro_rules! of {
        ($blocks:literal) => {
            // SAFETY: as the caller promised, with so many blocks; and of one key where that is said.
            unsafe {
                if is_one_key {
                    side_by_side::<SEAL, $blocks, true>(pairs, rounds)
                } else {
                    side_by_side::<SEAL, $blocks, false>(pairs, rounds)
                }
            }
        };
    }
    match first.blocks() {
        1 => of!(1),
        2 => of!(2),
        3 => of!(3),
        4 => of!(4),
        5 => of!(5),
        6 => of!(6),
        7 => of!(7),
        _ => of!(8),
    }
}

/// Two keys, which are one if `ONE_KEY`.
#[derive(Clone, Copy)]
struct Keys<'k, const ONE_KEY: bool>([&'k ExpandedKey; 2]);

impl<'k, const ONE_KEY: bool> Keys<'k, ONE_KEY> {
    /// # Safety
    ///
    /// As [`run`].
    #[inline]
    unsafe fn of(pair: &[Job<'k>; 2]) -> Self {
        let [a, b] = pair;
        // SAFETY: the job is of this engine, as the caller promised.
        let first = unsafe { a.expanded_key() };
        // SAFETY: likewise.
        let second = if ONE_KEY { first } else { unsafe { b.expanded_key() } };
        Self([first, second])
    }

    /// The keys of round `r`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn round(self, r: usize) -> __m256i {
        let Self([a, b]) = self;
        if ONE_KEY { round_key(a, r) } else { lanes(a.round_key(r), b.round_key(r)) }
    }

    /// H to the power of `e` of both.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn power(self, e: usize) -> __m256i {
        let Self([a, b]) = self;
        if ONE_KEY {
            _mm256_broadcastsi128_si256(a.power(e))
        } else {
            lanes(a.power(e), b.power(e))
        }
    }
}

/// Two packets whose ciphertext is there and whose hash is not yet.
struct Pending<'k, const M: usize, const ONE_KEY: bool> {
    keys: Keys<'k, ONE_KEY>,
    aads: __m256i,
    /// The reversed ciphertext.
    text: [__m256i; M],
    lengths: __m256i,
    /// The encrypted J0s.
    masks: __m256i,
}

impl<const M: usize, const ONE_KEY: bool> Pending<'_, M, ONE_KEY> {
    /// What is hashed: the AAD, the blocks of text and the length block.
    const PRODUCTS: usize = M + 2;

    /// Adds product `i`, if there are so many; the first has the highest power. `sums` are the halves' of the powers if there is one key.
    #[inline]
    #[target_feature(enable = "avx2,vpclmulqdq")]
    fn multiply(&self, i: usize, sums: &[__m256i; MOST + 2], sum: &mut Sum) {
        if i >= Self::PRODUCTS {
            return;
        }
        let v = if i == 0 {
            self.aads
        } else if i <= M {
            self.text[i - 1]
        } else {
            self.lengths
        };
        let power = self.keys.power(Self::PRODUCTS - i);
        sum.add(v, power, if ONE_KEY { sums[i] } else { halves(power) });
    }
}

/// Pair after pair, each of `M` blocks, the last perhaps not whole.
///
/// # Safety
///
/// As [`run`], with `M` blocks; all have one key if `ONE_KEY`.
#[inline(never)]
#[target_feature(enable = "aes,pclmulqdq,avx2,vaes,vpclmulqdq")]
unsafe fn side_by_side<const SEAL: bool, const M: usize, const ONE_KEY: bool>(
    pairs: &mut [[Job<'_>; 2]],
    rounds: usize,
) {
    let Some((mut before, rest)) = pairs.split_first_mut() else { return };
    let zero = _mm256_setzero_si256();
    // SAFETY: as the caller promised.
    let keys = unsafe { Keys::<ONE_KEY>::of(before) };
    let mut sums = [zero; MOST + 2];
    if ONE_KEY {
        for i in 0..M + 2 {
            sums[i] = halves(keys.power(M + 2 - i));
        }
    }
    let mut pending: Pending<'_, M, ONE_KEY> =
        Pending { keys, aads: zero, text: [zero; M], lengths: zero, masks: zero };
    // SAFETY: as the caller promised; so in the loop.
    unsafe { stage::<SEAL, M, ONE_KEY, false>(before, rounds, &sums, &mut pending) };
    for pair in rest {
        // SAFETY: likewise.
        let tags = unsafe { stage::<SEAL, M, ONE_KEY, true>(pair, rounds, &sums, &mut pending) };
        // SAFETY: as the caller promised.
        unsafe { finish_both::<SEAL>(before, tags) };
        before = pair;
    }
    let mut sum = Sum::zero();
    for i in 0..M + 2 {
        pending.multiply(i, &sums, &mut sum);
    }
    let tags = _mm256_xor_si256(reversed(sum.reduced()), pending.masks);
    // SAFETY: as the caller promised.
    unsafe { finish_both::<SEAL>(before, tags) };
}

/// Writes or compares two tags, a lane each.
///
/// # Safety
///
/// With `SEAL` the jobs are seal jobs.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn finish_both<const SEAL: bool>(pair: &mut [Job<'_>; 2], tags: __m256i) {
    for (job, tag) in pair.iter_mut().zip(split(tags)) {
        // SAFETY: as the caller promised.
        unsafe { finish::<SEAL>(job, tag) };
    }
}

/// Encrypts or decrypts two packets, hashes the two that are `PENDING`, gives their tags, and leaves these pending.
///
/// # Safety
///
/// As [`side_by_side`].
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx2,vaes,vpclmulqdq")]
unsafe fn stage<'k, const SEAL: bool, const M: usize, const ONE_KEY: bool, const PENDING: bool>(
    pair: &[Job<'k>; 2],
    rounds: usize,
    sums: &[__m256i; MOST + 2],
    pending: &mut Pending<'k, M, ONE_KEY>,
) -> __m256i {
    // SAFETY: as the caller promised.
    let keys = unsafe { Keys::<ONE_KEY>::of(pair) };
    let [a, b] = pair;
    let j0s = _mm256_xor_si256(lanes(a.j0(), b.j0()), keys.round(0));
    let mut masks = j0s;
    let mut s = [j0s; M];
    for t in 0..M {
        s[t] = _mm256_xor_si256(j0s, block_counter(t));
    }
    let mut sum = Sum::zero();
    macro_rules! round {
        ($r:expr) => {
            let rk = keys.round($r);
            for v in &mut s {
                *v = _mm256_aesenc_epi128(*v, rk);
                in_order(v);
            }
            masks = _mm256_aesenc_epi128(masks, rk);
            in_order(&mut masks);
        };
    }
    nine_rounds!(ROUND => {
        round!(ROUND);
        if PENDING {
            pending.multiply(ROUND - 1, sums, &mut sum);
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
    if PENDING {
        pending.multiply(MOST + 1, sums, &mut sum);
    }
    let tags = _mm256_xor_si256(reversed(sum.reduced()), pending.masks);

    let rk = keys.round(rounds);
    pending.keys = keys;
    pending.aads = reversed(lanes(a.short_aad(), b.short_aad()));
    pending.lengths = lanes(a.length_block(), b.length_block());
    pending.masks = _mm256_aesenclast_epi128(masks, rk);
    let texts = [Text::new(a), Text::new(b)];
    let lens = [a.len() as usize, b.len() as usize];
    let at = 16 * (M - 1);
    let [c, d] = lens.map(|len| len - at);
    // The ends first: what is in front of them may be written over.
    // SAFETY: the text has at least 16 bytes, of which 1 to 16 are from `at` on.
    let x0 = unsafe { texts[0].load_end(lens[0], c) };
    // SAFETY: likewise.
    let x1 = unsafe { texts[1].load_end(lens[1], d) };
    let x = lanes(x0, x1);
    let y = _mm256_aesenclast_epi128(s[M - 1], _mm256_xor_si256(x, rk));
    let hashed = if SEAL { _mm256_and_si256(y, lanes(first_bytes(c), first_bytes(d))) } else { x };
    pending.text[M - 1] = reversed(hashed);
    for t in 0..M - 1 {
        let at = 16 * t;
        // SAFETY: the text has this block and more; so the other, and the stores.
        let x0 = unsafe { texts[0].load1(at) };
        // SAFETY: likewise.
        let x = lanes(x0, unsafe { texts[1].load1(at) });
        let y = _mm256_aesenclast_epi128(s[t], _mm256_xor_si256(x, rk));
        for (text, y) in texts.iter().zip(split(y)) {
            // SAFETY: as the loads.
            unsafe { text.store1(at, y) };
        }
        pending.text[t] = reversed(if SEAL { y } else { x });
    }
    for ((text, rest), y) in texts.iter().zip([c, d]).zip(split(y)) {
        // SAFETY: the bytes from `at` on.
        unsafe { text.store_end(at, rest, y) };
    }
    tags
}
