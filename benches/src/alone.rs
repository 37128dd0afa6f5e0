//! What the gateway is compared with: the device without a gateway, and ciphers without a packet around them.

use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit, consts::U12};
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm, aes::Aes192};
use af_xdp::memory::{Feed, Generator};
use af_xdp::{Frame, FramePool};
use arrayvec::ArrayVec;
use ipsec::aead::{Aad, GcmKey, OpenJob, SealJob, open_burst, seal_burst};
use rayon::prelude::*;
use wire::ethernet;

use crate::Error;
use crate::gateway::{BLOCK, Bed, give, pool};
use crate::plan::{Direction, MAX_PATH_BURST, Plan, Size, Suite};
use crate::report::median;
use crate::traffic::{ICV_LEN, TEXT_AT, frame_len, keying, text_len};

/// The name of this project's engine among the ciphers.
pub(crate) const OURS: &str = "culvert";

/// The longest burst.
const BURST_MAX: usize = 256;
/// Packets of a round at least, so that reading the clock shows in no digit; they stay in the caches, as packets do that
/// were just received.
const ROUND: usize = 128;

const REFUSED: Error = Error::Wrong { number: 0, what: "a cipher refuses its own packet" };

/// The source and the sink of a gateway, with nothing in between, or with a cipher alone. Its packets are written in the gateway's own
/// memory, so that they are as near as a gateway's are.
pub(crate) struct Device {
    cipher: Option<GcmKey>,
    direction: Direction,
    texts: Vec<usize>,
    lens: Vec<usize>,
    stride: usize,
    feed: Feed,
    source: Generator,
    pool: FramePool,
    sink: Generator,
    queue: Vec<Frame>,
}

impl Device {
    pub(crate) fn new(
        plan: &Plan,
        direction: Direction,
        size: Size,
        burst: usize,
        with_cipher: bool,
    ) -> Result<Self, Error> {
        let (feed, source) = Generator::source();
        let sizes = (0..plan.frames as u64).map(|n| size.of(n));
        Ok(Self {
            cipher: with_cipher.then(|| ours(plan.suite, direction)).transpose()?,
            direction,
            texts: sizes.clone().map(text_len).collect(),
            lens: sizes.map(|size| frame_len(direction, size)).collect(),
            stride: frame_len(direction, size.longest()),
            feed,
            source,
            pool: pool(burst as u32)?,
            sink: Generator::sink(),
            queue: Vec::with_capacity(MAX_PATH_BURST),
        })
    }

    /// Nanoseconds a packet.
    pub(crate) fn sample(&mut self, time: Duration, bed: &mut Bed) -> Result<f64, Error> {
        let Some(frames) = bed.lend() else { return Ok(f64::NAN) };
        let mut timed = Duration::ZERO;
        let mut blocks = Vec::new();
        while timed < time {
            self.write(frames);
            let mut left = give(&mut self.feed, frames, self.stride, self.lens.iter().copied());
            if left != self.lens.len() {
                return Err(Error::Plan("the device does not take a pass"));
            }
            let mut texts = self.texts.iter().enumerate();
            while left > 0 {
                let (start, mut moved) = (Instant::now(), 0);
                while moved < BLOCK && left > 0 {
                    let taken =
                        self.source.receive(&mut self.pool, &mut self.queue, MAX_PATH_BURST);
                    if taken == 0 {
                        return Err(Error::Plan("the device is empty too early"));
                    }
                    if let Some(key) = &self.cipher {
                        run(key, self.direction, &mut self.queue, &mut texts).ok_or(REFUSED)?;
                    }
                    moved += self.sink.transmit(&mut self.pool, &mut self.queue);
                    left = left.saturating_sub(taken);
                }
                let took = start.elapsed();
                timed += took;
                blocks.push(took.as_nanos() as f64 / moved as f64);
            }
        }
        Ok(median(blocks))
    }

    /// Writes the frames of a pass, all threads together, as those of a gateway are written.
    fn write(&self, frames: &mut [u8]) {
        let key = self.cipher.as_ref().filter(|_| self.direction == Direction::In);
        let frames = frames.par_chunks_exact_mut(self.stride).with_min_len(128);
        frames.zip(&self.texts).enumerate().for_each(|(n, (frame, text))| {
            frame.fill(0x45);
            if let Some(key) = key {
                // What this does not seal does not open either, and then there is no figure.
                let _ = seal_all(key, [(n, &mut frame[TEXT_AT..][..text + ICV_LEN])]);
            }
        });
    }
}

/// What a gateway's cipher does to the frames of a burst, and nothing else.
fn run<'a>(
    key: &GcmKey,
    direction: Direction,
    frames: &mut [Frame],
    texts: &mut impl Iterator<Item = (usize, &'a usize)>,
) -> Option<()> {
    let mut packets = ArrayVec::<_, MAX_PATH_BURST>::new();
    for (frame, (n, text)) in frames.iter_mut().zip(texts) {
        let at = match direction {
            Direction::Out => ethernet::HEADER_LEN,
            Direction::In => TEXT_AT,
        };
        frame.set_len(at + text + ICV_LEN)?;
        packets.push((n, frame.data_mut().get_mut(at..)?));
    }
    match direction {
        Direction::Out => seal_all(key, packets),
        Direction::In => open_all(key, packets),
    }
}

/// Seals packets of these numbers together.
fn seal_all<'a>(
    key: &GcmKey,
    packets: impl IntoIterator<Item = (usize, &'a mut [u8])>,
) -> Option<()> {
    let mut jobs = ArrayVec::<SealJob<'_>, BURST_MAX>::new();
    for (n, packet) in packets {
        let (text, icv) = parts(packet);
        jobs.push(SealJob::in_place(key, nonce(n), Aad::from(aad(n)), text, icv).ok()?);
    }
    seal_burst(&mut jobs);
    Some(())
}

/// Opens packets of these numbers together; `None` where one does not verify.
fn open_all<'a>(
    key: &GcmKey,
    packets: impl IntoIterator<Item = (usize, &'a mut [u8])>,
) -> Option<()> {
    let mut jobs = ArrayVec::<OpenJob<'_>, BURST_MAX>::new();
    for (n, packet) in packets {
        let (text, icv) = parts(packet);
        jobs.push(OpenJob::in_place(key, nonce(n), Aad::from(aad(n)), text, icv).ok()?);
    }
    open_burst(&mut jobs);
    jobs.iter().all(|job| job.verdict().is_ok()).then_some(())
}

/// A cipher, the packets that it works on, and which way.
pub(crate) struct Cipher {
    name: &'static str,
    contender: Box<dyn Contender>,
    direction: Direction,
    /// Text and ICV behind it.
    packets: Vec<Vec<u8>>,
}

impl Cipher {
    /// Ours and every library's that has the suite.
    pub(crate) fn all(suite: Suite, direction: Direction, size: Size) -> Result<Vec<Self>, Error> {
        let keying = keying(suite, direction, 0);
        let key = &keying[..suite.key_len()];
        let ours = Ours(ours(suite, direction)?);
        let mut all: Vec<(_, Box<dyn Contender>)> = vec![(OURS, Box::new(ours))];
        let (ring, aws, aes_gcm): (_, _, Option<Box<dyn Contender>>) = match suite {
            Suite::Aes128Gcm16 => (
                Some(&ring::aead::AES_128_GCM),
                &aws_lc_rs::aead::AES_128_GCM,
                rust_crypto::<Aes128Gcm>(key),
            ),
            Suite::Aes192Gcm16 => {
                (None, &aws_lc_rs::aead::AES_192_GCM, rust_crypto::<AesGcm<Aes192, U12>>(key))
            }
            Suite::Aes256Gcm16 => (
                Some(&ring::aead::AES_256_GCM),
                &aws_lc_rs::aead::AES_256_GCM,
                rust_crypto::<Aes256Gcm>(key),
            ),
        };
        if let Some(key) = ring.and_then(|a| ring::aead::UnboundKey::new(a, key).ok()) {
            all.push(("ring", Box::new(Ring(ring::aead::LessSafeKey::new(key)))));
        }
        if let Ok(key) = aws_lc_rs::aead::UnboundKey::new(aws, key) {
            all.push(("aws-lc-rs", Box::new(AwsLc(aws_lc_rs::aead::LessSafeKey::new(key)))));
        }
        all.extend(aes_gcm.map(|c| ("aes-gcm", c)));
        all.push(("copy", Box::new(Copied(RefCell::new(vec![0; text_len(size.longest())])))));
        let packet = |n| vec![0x5a; text_len(size.of(n)) + ICV_LEN];
        let cipher = |(name, contender)| Self {
            name,
            contender,
            direction,
            packets: (0..BURST_MAX as u64).map(packet).collect(),
        };
        Ok(all.into_iter().map(cipher).collect())
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Nanoseconds a packet. What is opened was sealed outside the timing, and must verify.
    pub(crate) fn sample(&mut self, burst: usize, time: Duration) -> Result<f64, Error> {
        let packets = &mut self.packets[..burst.max(ROUND) / burst * burst];
        let begin = Instant::now();
        let mut rounds = Vec::new();
        while rounds.is_empty() || begin.elapsed() < time {
            let elapsed = match self.direction {
                Direction::Out => {
                    let start = Instant::now();
                    self.contender.seal(black_box(packets), burst).ok_or(REFUSED)?;
                    start.elapsed()
                }
                Direction::In => {
                    self.contender.seal(packets, burst).ok_or(REFUSED)?;
                    let start = Instant::now();
                    self.contender.open(black_box(packets), burst).ok_or(REFUSED)?;
                    start.elapsed()
                }
            };
            rounds.push(elapsed.as_nanos() as f64 / packets.len() as f64);
        }
        Ok(median(rounds))
    }
}

/// `None` where a cipher refuses.
trait Contender {
    fn seal(&self, packets: &mut [Vec<u8>], burst: usize) -> Option<()>;
    fn open(&self, packets: &mut [Vec<u8>], burst: usize) -> Option<()>;
}

fn nonce(packet: usize) -> [u8; 12] {
    let mut nonce = [7; 12];
    nonce[4..].copy_from_slice(&(packet as u64).to_be_bytes());
    nonce
}

fn aad(packet: usize) -> [u8; 8] {
    (packet as u64).to_be_bytes()
}

/// Text and ICV.
fn parts(packet: &mut [u8]) -> (&mut [u8], &mut [u8]) {
    packet.split_at_mut(packet.len() - ICV_LEN)
}

struct Ours(GcmKey);

/// Our engine's key.
fn ours(suite: Suite, direction: Direction) -> Result<GcmKey, Error> {
    GcmKey::new(&keying(suite, direction, 0)[..suite.key_len()])
        .map_err(|_| Error::Plan("our engine refuses the key"))
}

impl Contender for Ours {
    fn seal(&self, packets: &mut [Vec<u8>], burst: usize) -> Option<()> {
        let mut numbered = packets.iter_mut().map(Vec::as_mut_slice).enumerate();
        (0..numbered.len().div_ceil(burst))
            .try_for_each(|_| seal_all(&self.0, numbered.by_ref().take(burst)))
    }

    fn open(&self, packets: &mut [Vec<u8>], burst: usize) -> Option<()> {
        let mut numbered = packets.iter_mut().map(Vec::as_mut_slice).enumerate();
        (0..numbered.len().div_ceil(burst))
            .try_for_each(|_| open_all(&self.0, numbered.by_ref().take(burst)))
    }
}

/// No cipher: the text copied to one place, which is what any that does not work in place would cost more.
struct Copied(RefCell<Vec<u8>>);

impl Contender for Copied {
    fn seal(&self, packets: &mut [Vec<u8>], _: usize) -> Option<()> {
        let mut to = self.0.borrow_mut();
        for packet in packets {
            let (text, _) = parts(packet);
            to.get_mut(..text.len())?.copy_from_slice(text);
            black_box(to.as_mut_slice());
        }
        Some(())
    }

    fn open(&self, packets: &mut [Vec<u8>], burst: usize) -> Option<()> {
        self.seal(packets, burst)
    }
}

/// A library with ring's interface, a packet at a time.
macro_rules! one_by_one {
    ($name:ident, $library:ident) => {
        struct $name($library::aead::LessSafeKey);

        impl Contender for $name {
            fn seal(&self, packets: &mut [Vec<u8>], _: usize) -> Option<()> {
                use $library::aead::{Aad, Nonce};
                for (i, packet) in packets.iter_mut().enumerate() {
                    let (text, icv) = parts(packet);
                    let nonce = Nonce::assume_unique_for_key(nonce(i));
                    let tag =
                        self.0.seal_in_place_separate_tag(nonce, Aad::from(aad(i)), text).ok()?;
                    icv.copy_from_slice(tag.as_ref());
                }
                Some(())
            }

            fn open(&self, packets: &mut [Vec<u8>], _: usize) -> Option<()> {
                use $library::aead::{Aad, Nonce};
                for (i, packet) in packets.iter_mut().enumerate() {
                    let nonce = Nonce::assume_unique_for_key(nonce(i));
                    black_box(self.0.open_in_place(nonce, Aad::from(aad(i)), packet).ok()?);
                }
                Some(())
            }
        }
    };
}

one_by_one!(Ring, ring);
one_by_one!(AwsLc, aws_lc_rs);

struct RustCrypto<A>(A);

fn rust_crypto<A>(key: &[u8]) -> Option<Box<dyn Contender>>
where
    A: AeadInOut<NonceSize = U12> + KeyInit + 'static,
{
    Some(Box::new(RustCrypto(A::new_from_slice(key).ok()?)))
}

impl<A: AeadInOut<NonceSize = U12>> Contender for RustCrypto<A> {
    fn seal(&self, packets: &mut [Vec<u8>], _: usize) -> Option<()> {
        for (i, packet) in packets.iter_mut().enumerate() {
            let (text, icv) = parts(packet);
            let text = InOutBuf::from(text);
            let tag = self.0.encrypt_inout_detached((&nonce(i)).into(), &aad(i), text).ok()?;
            icv.copy_from_slice(&tag);
        }
        Some(())
    }

    fn open(&self, packets: &mut [Vec<u8>], _: usize) -> Option<()> {
        for (i, packet) in packets.iter_mut().enumerate() {
            let (text, icv) = parts(packet);
            let icv = (&*icv).try_into().ok()?;
            let text = InOutBuf::from(text);
            self.0.decrypt_inout_detached((&nonce(i)).into(), &aad(i), text, icv).ok()?;
        }
        Some(())
    }
}
