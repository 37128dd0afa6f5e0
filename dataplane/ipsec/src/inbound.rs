//! Inbound protected packets, in bursts (RFC 4301 §5.2).

use crate::accounting::{Events, Run, Totals};
use crate::aead::{Keys, OpenJob, open_burst};
use crate::classify::Protected;
use crate::drop_cause::DropCause;
pub use crate::esp::inbound::Hop;
pub use crate::esp::inbound::plain::{Entered, Left, Opened};
use crate::esp::inbound::{Admitted, InboundSa, Inner};
use crate::esp::suite::{GCM_IV_LEN, Suite, aad, nonce};
use crate::esp::{Alone, BURST};
use crate::packet::PacketBuffer;
use crate::sa::Spi;
use crate::sad::{InboundSad, Lookup};
use arrayvec::ArrayVec;
use wire::{esp, ethernet, ipv4};

/// A packet on its way through [`process_burst`].
#[derive(Debug)]
pub struct InboundPacket<B> {
    /// The packet, from its outer IP header; the inner one afterwards, when accepted.
    pub buffer: B,
    /// What [`classify`](crate::classify::classify) found.
    pub header: Protected,
    /// What became of it; set by [`process_burst`].
    pub outcome: Outcome,
    /// What happened to its SA, `header.spi`, on the way.
    pub events: Events,
}

impl<B> InboundPacket<B> {
    /// A packet that was not looked at yet.
    pub fn new(buffer: B, header: Protected) -> Self {
        Self { buffer, header, outcome: Outcome::Pending, events: Events::NONE }
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet.
    Pending,
    /// The buffer holds the packet that was protected.
    Accepted(Inner),
    /// Its SPI has no keys yet: it may wait for them, unchanged.
    Larval,
    /// It goes no further; what the buffer holds is of no use.
    Dropped(DropCause),
}

/// Takes packets through SAD lookup, replay check, ICV and decryption, replay accept, trailer, tunnel
/// strip and selector check. Packets of different SAs are decrypted together. Sets outcome and events
/// of every packet that is pending, and adds what was accepted to `totals`.
pub fn process_burst<B: PacketBuffer>(
    sad: &mut InboundSad,
    packets: &mut [InboundPacket<B>],
    totals: &mut Totals,
) {
    for chunk in packets.chunks_mut(BURST) {
        let alone = ask_ahead(sad, chunk);
        let mut stage = Stage::new();
        admit(sad, chunk, &mut stage);
        open(sad, chunk, alone, &mut stage);
        conclude(sad, chunk, &mut stage, totals);
    }
}

/// Of the first frame of an SA in a row, whether the next one is another's.
#[derive(Clone, Copy, Debug)]
pub struct IsAlone(pub bool);

/// What is around the text of most packets: headers, IV and ICV of 16 bytes.
const AROUND_TEXT: usize = ipv4::MIN_HEADER_LEN + esp::HEADER_LEN + GCM_IV_LEN + 16;

/// Where ESP begins in a frame of the straight way.
const ESP_AT: usize = ethernet::HEADER_LEN + ipv4::MIN_HEADER_LEN;

/// Frames that go the straight way: an untagged one for us with ESP over IPv4 without options. What takes it is opened by
/// [`Opener::finish`], all SAs together, and concluded by [`Leaving`].
pub struct Opener<'a> {
    sad: &'a InboundSad,
    jobs: ArrayVec<OpenJob<'a>, BURST>,
    keys: Keys,
}

impl<'a> Opener<'a> {
    /// One that has nothing yet.
    #[inline]
    pub fn new(sad: &'a InboundSad) -> Self {
        Self { sad, jobs: ArrayVec::new(), keys: sad.keys() }
    }

    /// Takes a frame; `None` where it does not go the straight way. The first of a run of one SA asks for the key and for what follows
    /// decryption: it says whether it is alone in it.
    #[inline(always)]
    pub fn take(
        &mut self,
        spi: Spi,
        frame: &'a mut [u8],
        first: Option<IsAlone>,
    ) -> Option<Entered> {
        if self.jobs.is_full() {
            return None;
        }
        let settled = self.sad.settled(spi)?;
        let keys = self.keys.of_one(matches!(first, Some(IsAlone(true))));
        if first.is_some() {
            let len = frame.len().saturating_sub(ethernet::HEADER_LEN + AROUND_TEXT);
            settled.prefetch_key(len, keys);
            settled.sa.prefetch_leaving(esp::sequence_at(frame, ESP_AT));
        }
        settled.enter(frame, keys, &mut self.jobs)
    }

    /// Runs the cipher over all that was taken. A bit for each of them in their order, from the lowest: whether it was authentic.
    ///
    /// It is not taken by value: moving it would copy room for a whole burst, however short that is.
    #[inline]
    pub fn finish(&mut self) -> Verdicts {
        open_burst(&mut self.jobs);
        let bit = |(n, job): (usize, &OpenJob<'_>)| u32::from(job.verdict().is_ok()) << n;
        let verdicts = Verdicts(self.jobs.iter().enumerate().map(bit).sum());
        self.jobs.clear();
        verdicts
    }
}

impl core::fmt::Debug for Opener<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Opener").field("frames", &self.jobs.len()).finish_non_exhaustive()
    }
}

/// What the cipher said about the packets that an [`Opener`] took, in their order.
#[derive(Clone, Copy, Debug)]
pub struct Verdicts(u32);

// A bit each.
const _: () = assert!(BURST == u32::BITS as usize);

impl Verdicts {
    /// Whether the next packet was authentic.
    #[inline(always)]
    pub fn next_is_authentic(&mut self) -> bool {
        let authentic = self.0 & 1 != 0;
        self.0 >>= 1;
        authentic
    }
}

/// Concludes packets of one burst that were opened.
#[derive(Debug, Default)]
pub struct Leaving {
    packets: u64,
    bytes: u64,
    others: Totals,
}

impl Leaving {
    /// What follows the decryption of an authentic packet, where nothing is unusual; `version` is that of decisions about flows.
    ///
    /// # Errors
    ///
    /// [`Left`].
    #[inline(always)]
    pub fn leave(
        &mut self,
        sa: &mut InboundSa,
        entered: &Entered,
        frame: &[u8],
        version: u32,
    ) -> Result<Opened, Left> {
        let opened = sa.leave(entered, frame, version)?;
        self.packets += 1;
        self.bytes += opened.len as u64;
        Ok(opened)
    }

    /// What follows decryption of the others. The packet begins with its outer IP header.
    pub fn conclude<B: PacketBuffer>(
        &mut self,
        sad: &mut InboundSad,
        entered: Entered,
        authentic: bool,
        packet: &mut InboundPacket<B>,
    ) {
        let Some(sa) = Spi::new(packet.header.spi).and_then(|spi| sad.get_mut(spi)) else {
            packet.outcome = Outcome::Dropped(DropCause::UnknownSpi);
            return;
        };
        let admitted = entered.admitted(sa, authentic);
        let mut run = Run::default();
        let (result, events) =
            sa.conclude(&packet.header, admitted, &mut packet.buffer, &mut run, &mut self.others);
        run.end(&mut self.others);
        packet.events = events;
        packet.outcome = match result {
            Ok(inner) => Outcome::Accepted(inner),
            Err(cause) => Outcome::Dropped(cause),
        };
    }

    /// What was accepted.
    #[inline]
    pub fn finish(mut self) -> Totals {
        self.others += Totals::of_plain(self.packets, self.bytes);
        self.others
    }
}

type Stage = ArrayVec<Option<Admitted>, BURST>;

/// Asks for the windows and keys of the burst's SAs; which packets have neighbours of other SAs.
#[inline]
fn ask_ahead<B: PacketBuffer>(sad: &InboundSad, packets: &[InboundPacket<B>]) -> Alone {
    let mut alone = Alone::default();
    for run in packets.chunk_by(|a, b| a.header.spi == b.header.spi) {
        alone.add_run(run.len());
        if let [first, rest @ ..] = run
            && let Some(settled) = sad.settled(Spi::for_known_answer(first.header.spi))
        {
            let data = first.buffer.data();
            let keys = sad.keys().of_one(rest.is_empty());
            settled.prefetch_key(data.len().saturating_sub(AROUND_TEXT), keys);
            settled.sa.prefetch_leaving(first.header.low_sequence(data));
        }
    }
    alone
}

/// SAD lookup, sizes and replay check; nothing changes yet.
#[inline]
fn admit<B: PacketBuffer>(sad: &InboundSad, packets: &mut [InboundPacket<B>], stage: &mut Stage) {
    for packet in packets {
        if packet.outcome != Outcome::Pending {
            stage.push(None);
            continue;
        }
        packet.outcome = match sad.lookup(packet.header.spi) {
            Lookup::Live(sa) => match sa.admit(&packet.header, packet.buffer.data()) {
                Ok(admitted) => {
                    stage.push(Some(admitted));
                    continue;
                }
                Err(cause) => Outcome::Dropped(cause),
            },
            Lookup::Larval => Outcome::Larval,
            Lookup::Unknown => Outcome::Dropped(DropCause::UnknownSpi),
        };
        stage.push(None);
    }
}

/// ICV and decryption of the whole burst.
#[inline]
fn open<B: PacketBuffer>(
    sad: &InboundSad,
    packets: &mut [InboundPacket<B>],
    mut alone: Alone,
    stage: &mut Stage,
) {
    let mut jobs = ArrayVec::<OpenJob<'_>, BURST>::new();
    let mut batched = ArrayVec::<&mut bool, BURST>::new();
    for (packet, admitted) in packets.iter_mut().zip(stage) {
        let is_alone = alone.next_is_alone();
        let Some(Admitted { spi, place, authentic, .. }) = admitted else {
            continue;
        };
        let Some(settled) = sad.settled(*spi) else { continue };
        let sa = settled.sa;
        match sa.suite() {
            Suite::Gcm { .. } => {
                let keys = sad.keys().of_one(is_alone);
                let Some((key, salt)) = settled.gcm(place.text_len, keys) else { continue };
                let Some((before, rest)) =
                    packet.buffer.data_mut().split_at_mut_checked(place.text)
                else {
                    continue;
                };
                let Some((data, rest)) = rest.split_at_mut_checked(place.text_len) else {
                    continue;
                };
                let Some(tag) = rest.get(..sa.icv_len()) else { continue };
                let Some(iv) = before.last_chunk::<GCM_IV_LEN>() else { continue };
                let aad = aad(spi.get(), place.sequence, place.esn);
                let Ok(job) = OpenJob::in_place(key, nonce(salt, *iv), aad, data, tag) else {
                    continue;
                };
                jobs.push(job);
                batched.push(authentic);
            }
            Suite::Serial(serial) => {
                *authentic = serial.open(packet.buffer.data_mut(), *place).is_ok();
            }
            Suite::Ah(ah) => *authentic = ah.open(packet.buffer.data(), *place).is_ok(),
        }
    }
    open_burst(&mut jobs);
    for (job, authentic) in jobs.iter().zip(batched) {
        *authentic = job.verdict().is_ok();
    }
}

/// What follows decryption, packet by packet in the order of arrival.
#[inline]
fn conclude<B: PacketBuffer>(
    sad: &mut InboundSad,
    packets: &mut [InboundPacket<B>],
    stage: &mut Stage,
    totals: &mut Totals,
) {
    let mut run = Run::default();
    for (packet, admitted) in packets.iter_mut().zip(stage) {
        let Some(admitted) = admitted.take() else { continue };
        let Some(sa) = sad.get_mut(admitted.spi) else { continue };
        let (result, events) =
            sa.conclude(&packet.header, admitted, &mut packet.buffer, &mut run, totals);
        packet.events = events;
        packet.outcome = match result {
            Ok(inner) => Outcome::Accepted(inner),
            Err(cause) => Outcome::Dropped(cause),
        };
    }
    run.end(totals);
}
