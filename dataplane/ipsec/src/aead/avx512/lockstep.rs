//! Four short packets of as many blocks each, in lock step, as a burst of one flow mostly is.
//!
//! ```text
//!  vectors   packet 0..3 │ four blocks of one packet each, for AES
//!  tails     one block of each of the four packets, for AES and GHASH
//!  masks     J0 of the four packets
//!  GHASH     one block of each packet in every register: one sum, one reduction, four tags
//!
//!  AES       four 0 │ four 1          │ four 2          │
//!  GHASH            │ four 0 ─► tags  │ four 1 ─► tags  │ four 2 ─► tags
//! ```
//!
//! Blocks that do not fill a vector of their packet fill one of their four. With one key the powers of H are the same for all four lanes.

use core::arch::x86_64::*;

use super::super::expanded::ExpandedKey;
use super::super::job::Job;
use super::vector::*;

/// How many jobs in front have one number of blocks, AAD of one block and one key: fours of them go in step.
#[inline]
pub(super) fn even(jobs: &[Job<'_>]) -> usize {
    let Some(first) = jobs.first() else { return 0 };
    let (blocks, key) = (first.blocks(), first.key_address());
    let so =
        |job: &&Job<'_>| job.blocks() == blocks && job.key_address() == key && job.has_short_aad();
    jobs.iter().take_while(so).count()
}

/// How many fours in front have one number of blocks and AAD of one block, and no four one key.
#[inline]
pub(super) fn level(fours: &[[Job<'_>; 4]]) -> usize {
    let Some([first, ..]) = fours.first() else { return 0 };
    let so = |four: &&[Job<'_>; 4]| {
        let key = four[0].key_address();
        four.iter().all(|job| job.blocks() == first.blocks() && job.has_short_aad())
            && four.iter().any(|job| job.key_address() != key)
    };
    fours.iter().take_while(so).count()
}

/// Fours of jobs of as many blocks each, 1 to 8, all of one key if `ONE_KEY`.
///
/// # Safety
///
/// Every job has a key of this engine and of `R` rounds and all have the same number of blocks, with so much text, and AAD of one block;
/// all have one key if `ONE_KEY`; all have tags of one length, and are seal jobs if `SEAL`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run<const SEAL: bool, const R: usize, const ONE_KEY: bool>(
    fours: &mut [[Job<'_>; 4]],
) {
    let Some([first, ..]) = fours.first() else { return };
    match first.blocks() {
        // SAFETY: as the caller promised, with so many blocks; so in each arm.
        1 => unsafe { in_step::<SEAL, R, ONE_KEY, 0, 1>(fours) },
        // SAFETY: likewise.
        2 => unsafe { in_step::<SEAL, R, ONE_KEY, 0, 2>(fours) },
        // SAFETY: likewise.
        3 => unsafe { in_step::<SEAL, R, ONE_KEY, 0, 3>(fours) },
        // SAFETY: likewise.
        4 => unsafe { in_step::<SEAL, R, ONE_KEY, 1, 0>(fours) },
        // SAFETY: likewise.
        5 => unsafe { in_step::<SEAL, R, ONE_KEY, 1, 1>(fours) },
        // SAFETY: likewise.
        6 => unsafe { in_step::<SEAL, R, ONE_KEY, 1, 2>(fours) },
        // SAFETY: likewise.
        7 => unsafe { in_step::<SEAL, R, ONE_KEY, 1, 3>(fours) },
        // SAFETY: likewise.
        _ => unsafe { in_step::<SEAL, R, ONE_KEY, 2, 0>(fours) },
    }
}

/// Four packets whose ciphertext is there and whose hash is not yet.
struct Pending<'k, const G: usize, const M: usize> {
    keys: [&'k ExpandedKey; 4],
    aads: __m512i,
    /// The reversed ciphertext: of every vector its four blocks, then the blocks behind the vectors.
    vectors: [[__m512i; 4]; G],
    tails: [__m512i; M],
    lengths: __m512i,
    /// The encrypted J0s.
    masks: __m512i,
}

impl<const G: usize, const M: usize> Pending<'_, G, M> {
    /// What is hashed: the AAD, the blocks of text and the length block.
    const PRODUCTS: usize = 4 * G + M + 2;

    /// The `i`th block of those, and the power of H it is multiplied by: the first has the highest.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    fn factors<const ONE_KEY: bool>(
        &self,
        powers: &Powers<ONE_KEY>,
        i: usize,
    ) -> (__m512i, __m512i) {
        let v = if i == 0 {
            self.aads
        } else if i <= 4 * G {
            self.vectors[(i - 1) / 4][(i - 1) % 4]
        } else if i <= 4 * G + M {
            self.tails[i - 1 - 4 * G]
        } else {
            self.lengths
        };
        (v, powers.of_each(self.keys, Self::PRODUCTS - i))
    }

    /// Adds the products of blocks `i` and `i` + 1, if there are such.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    fn add<const ONE_KEY: bool>(&self, powers: &Powers<ONE_KEY>, i: usize, sum: &mut Sum) {
        if i >= Self::PRODUCTS {
            return;
        }
        let (v, h) = self.factors(powers, i);
        if i + 1 < Self::PRODUCTS {
            let (w, g) = self.factors(powers, i + 1);
            if ONE_KEY {
                sum.add2_halved([v, w], [h, g], powers.halves[i / 2]);
            } else {
                sum.add2(v, h, w, g);
            }
        } else if ONE_KEY {
            sum.add_halved(v, h);
        } else {
            sum.add(v, h);
        }
        sum.in_order();
    }
}

/// Four after four packets, each of `G` vectors and `M` blocks behind them. Without such blocks it is the last
/// vector that may not be full, with them the last of them.
///
/// # Safety
///
/// As [`run`]; the jobs have `4 * G + M` blocks each, and `M` is at most 3.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn in_step<
    const SEAL: bool,
    const R: usize,
    const ONE_KEY: bool,
    const G: usize,
    const M: usize,
>(
    fours: &mut [[Job<'_>; 4]],
) {
    let Some((mut before, rest)) = fours.split_first_mut() else { return };
    let zero = _mm512_setzero_si512();
    // SAFETY: as the caller promised.
    let keys = unsafe { keys_of::<ONE_KEY>(before) };
    let mut round_keys = RoundKeys::<ONE_KEY>([round_key(keys[0], 0); 15]);
    if ONE_KEY {
        round_keys.spread::<R>(keys[0]);
    }
    let powers = Powers::<ONE_KEY>::new(keys[0], Pending::<G, M>::PRODUCTS);
    let mut pending: Pending<'_, G, M> = Pending {
        keys,
        aads: zero,
        vectors: [[zero; 4]; G],
        tails: [zero; M],
        lengths: zero,
        masks: zero,
    };
    // SAFETY: as the caller promised; so in the loop.
    unsafe { stage::<SEAL, R, ONE_KEY, G, M, false>(before, &round_keys, &powers, &mut pending) };
    for four in rest {
        // SAFETY: likewise.
        let tags = unsafe {
            stage::<SEAL, R, ONE_KEY, G, M, true>(four, &round_keys, &powers, &mut pending)
        };
        // SAFETY: as the caller promised.
        unsafe { finish_each::<SEAL>(before, tags) };
        before = four;
    }
    let mut sum = Sum::zero();
    for i in 0..Pending::<G, M>::PRODUCTS {
        let (v, h) = pending.factors(&powers, i);
        sum.add(v, h);
    }
    let tags = _mm512_xor_si512(reversed(sum.reduced()), pending.masks);
    // SAFETY: as the caller promised.
    unsafe { finish_each::<SEAL>(before, tags) };
}

/// The keys of four jobs.
///
/// # Safety
///
/// As [`run`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn keys_of<'k, const ONE_KEY: bool>(jobs: &[Job<'k>; 4]) -> [&'k ExpandedKey; 4] {
    [
        // SAFETY: the key of a job of this engine, as the caller promised; so the others.
        unsafe { jobs[0].expanded_key() },
        // SAFETY: likewise.
        unsafe { jobs[if ONE_KEY { 0 } else { 1 }].expanded_key() },
        // SAFETY: likewise.
        unsafe { jobs[if ONE_KEY { 0 } else { 2 }].expanded_key() },
        // SAFETY: likewise.
        unsafe { jobs[if ONE_KEY { 0 } else { 3 }].expanded_key() },
    ]
}

/// Encrypts or decrypts four packets, hashes the four that are `PENDING`, gives their tags, and leaves these pending.
///
/// # Safety
///
/// As [`in_step`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
unsafe fn stage<
    'k,
    const SEAL: bool,
    const R: usize,
    const ONE_KEY: bool,
    const G: usize,
    const M: usize,
    const PENDING: bool,
>(
    jobs: &[Job<'k>; 4],
    round_keys: &RoundKeys<ONE_KEY>,
    powers: &Powers<ONE_KEY>,
    pending: &mut Pending<'k, G, M>,
) -> __m512i {
    // SAFETY: as the caller promised.
    let keys = unsafe { keys_of::<ONE_KEY>(jobs) };
    let (a, b, c, d) = (&jobs[0], &jobs[1], &jobs[2], &jobs[3]);
    let zero = _mm512_setzero_si512();
    let rk = round_keys.of_each(keys, 0);
    let mut masks = _mm512_xor_si512(lanes(j0(a), j0(b), j0(c), j0(d)), rk);
    let mut tails = [zero; M];
    for t in 0..M {
        tails[t] = _mm512_xor_si512(masks, block_counter(4 * G + t));
    }
    let mut s = [[zero; G]; 4];
    for i in 0..4 {
        for g in 0..G {
            let rk = round_keys.of(keys[i], 0);
            s[i][g] = xor3(_mm512_broadcast_i32x4(j0(&jobs[i])), rk, counters(g));
        }
    }
    let mut sum = Sum::zero();
    each_round!(ROUND => {
        for i in 0..4 {
            let rk = round_keys.of(keys[i], ROUND);
            for g in 0..G {
                s[i][g] = _mm512_aesenc_epi128(s[i][g], rk);
                in_order(&mut s[i][g]);
            }
        }
        let rk = round_keys.of_each(keys, ROUND);
        for t in 0..M {
            tails[t] = _mm512_aesenc_epi128(tails[t], rk);
            in_order(&mut tails[t]);
        }
        masks = _mm512_aesenc_epi128(masks, rk);
        in_order(&mut masks);
        // Two after each odd round up to the ninth, which are as many as there can be.
        if PENDING && !ROUND.is_multiple_of(2) {
            pending.add(powers, ROUND - 1, &mut sum);
        }
    });
    if ONE_KEY {
        sum = sum.halved();
    }
    let tags = _mm512_xor_si512(reversed(sum.reduced()), pending.masks);
    let rk = round_keys.of_each(keys, R);
    pending.keys = keys;
    pending.aads = reversed(lanes(a.short_aad(), b.short_aad(), c.short_aad(), d.short_aad()));
    pending.masks = _mm512_aesenclast_epi128(masks, rk);
    let alike = jobs.iter().all(|job| job.has_lengths_of(a));
    pending.lengths = if alike {
        _mm512_broadcast_i32x4(a.length_block())
    } else {
        lanes(a.length_block(), b.length_block(), c.length_block(), d.length_block())
    };
    let whole = alike && a.len() == 64 * G as u32;
    for g in 0..G {
        let mut hashed = [zero; 4];
        for i in 0..4 {
            let text = Text::new(&jobs[i]);
            let rk = if ONE_KEY { rk } else { round_keys.of(keys[i], R) };
            if M == 0 && g == G - 1 && !whole {
                let mask = _bzhi_u64(!0, jobs[i].len() - 64 * g as u32);
                // SAFETY: the mask is that of the text's last vector, and that is `g`.
                let x = unsafe { text.load_tail(g, mask) };
                let y = _mm512_aesenclast_epi128(s[i][g], _mm512_xor_si512(x, rk));
                // SAFETY: as the load.
                unsafe { text.store_tail(g, mask, y) };
                hashed[i] = reversed(if SEAL { _mm512_maskz_mov_epi8(mask, y) } else { x });
            } else {
                // SAFETY: there is text behind vector `g`; so the store.
                let x = unsafe { text.load(g) };
                let y = _mm512_aesenclast_epi128(s[i][g], _mm512_xor_si512(x, rk));
                // SAFETY: as the load.
                unsafe { text.store(g, y) };
                hashed[i] = reversed(if SEAL { y } else { x });
            }
        }
        pending.vectors[g] = transposed(hashed);
    }
    for t in 0..M {
        let at = 64 * G + 16 * t;
        let ends = t == M - 1;
        let bytes = |job: &Job<'_>| if ends { job.len() - at as u32 } else { 16 };
        let first = _bzhi_u32(!0, bytes(a)) as u16;
        let mut mask = [first; 4];
        let mut all = u64::from(first) * 0x0001_0001_0001_0001;
        if ends && !alike {
            for i in 1..4 {
                mask[i] = _bzhi_u32(!0, bytes(&jobs[i])) as u16;
            }
            all = u64::from(mask[0])
                | u64::from(mask[1]) << 16
                | u64::from(mask[2]) << 32
                | u64::from(mask[3]) << 48;
        }
        let mut x = [_mm_setzero_si128(); 4];
        for i in 0..4 {
            // SAFETY: block `4 * G + t` is in the text, and the mask is that of the last one.
            x[i] = unsafe { Text::new(&jobs[i]).load_block(at, mask[i]) };
        }
        let x = lanes(x[0], x[1], x[2], x[3]);
        let y = _mm512_aesenclast_epi128(tails[t], _mm512_xor_si512(x, rk));
        let each = split(y);
        for i in 0..4 {
            // SAFETY: as the load.
            unsafe { Text::new(&jobs[i]).store_block(at, mask[i], each[i]) };
        }
        let hashed = match (SEAL, ends) {
            (true, true) => _mm512_maskz_mov_epi8(all, y),
            (true, false) => y,
            (false, _) => x,
        };
        pending.tails[t] = reversed(hashed);
    }
    tags
}

/// The powers of H of four packets: of one key, each in every lane, and what [`Sum::add2_halved`] takes beside them.
struct Powers<const ONE_KEY: bool> {
    each: [__m512i; MOST + 1],
    halves: [__m512i; MOST / 2],
}

/// What is hashed of eight blocks of text.
const MOST: usize = 10;

impl<const ONE_KEY: bool> Powers<ONE_KEY> {
    /// For `products` products, the first of the highest power.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    fn new(key: &ExpandedKey, products: usize) -> Self {
        let zero = _mm512_setzero_si512();
        let mut powers = Self { each: [zero; MOST + 1], halves: [zero; MOST / 2] };
        if ONE_KEY {
            for e in 1..=products {
                powers.each[e] = _mm512_broadcast_i32x4(key.power(e));
            }
            for i in 0..products / 2 {
                let e = products - 2 * i;
                powers.halves[i] = halves(powers.each[e], powers.each[e - 1]);
            }
        }
        powers
    }

    /// H to the power of `e`, a lane of each packet.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
    fn of_each(&self, [a, b, c, d]: [&ExpandedKey; 4], e: usize) -> __m512i {
        if ONE_KEY { self.each[e] } else { lanes(a.power(e), b.power(e), c.power(e), d.power(e)) }
    }
}

/// Writes or compares up to four tags, a lane each.
///
/// # Safety
///
/// The tags are of one length; with `SEAL` the jobs are seal jobs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn finish_each<const SEAL: bool>(jobs: &mut [Job<'_>], tags: __m512i) {
    let Some(mask) = jobs.first().map(|job| tag_mask(job)) else { return };
    if SEAL {
        for (job, tag) in jobs.iter().zip(split(tags)) {
            // SAFETY: as the caller promised, and the tags are of one length.
            unsafe { put_tag(job, mask, tag) };
        }
        return;
    }
    let mut received = [_mm_setzero_si128(); 4];
    for (job, received) in jobs.iter().zip(&mut received) {
        // SAFETY: the tags are of one length.
        *received = unsafe { received_tag(job, mask) };
    }
    let received = lanes(received[0], received[1], received[2], received[3]);
    let compared = u64::from(mask) * 0x0001_0001_0001_0001;
    let wrong = _mm512_mask_cmpneq_epi8_mask(compared, tags, received);
    for (i, job) in jobs.iter_mut().enumerate() {
        job.conclude((wrong >> (16 * i)) as u16 == 0);
    }
}
