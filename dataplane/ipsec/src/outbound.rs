//! Outbound packets that a policy protects, in bursts (RFC 4301 §5.1).

use crate::accounting::{Events, Run, Totals};
use crate::aead::{Keys, SealJob, seal_burst};
use crate::drop_cause::DropCause;
pub use crate::esp::outbound::plain::Plan;
use crate::esp::outbound::{Prepared, Refusal};
use crate::esp::suite::{GCM_IV_LEN, Suite, aad, nonce};
use crate::esp::{Alone, BURST};
use crate::packet::PacketBuffer;
use crate::sad::{OutboundSad, Slot};
use arrayvec::ArrayVec;

/// A packet on its way through [`process_burst`].
#[derive(Debug)]
pub struct OutboundPacket<B> {
    /// The packet from its IP header, with TTL already taken care of; the outer one afterwards, when
    /// sealed.
    pub buffer: B,
    /// The SA that was chosen for it.
    pub sa: Slot,
    /// What became of it; set by [`process_burst`].
    pub outcome: Outcome,
    /// What happened to its SA on the way.
    pub events: Events,
}

impl<B> OutboundPacket<B> {
    /// A packet that was not looked at yet.
    pub fn new(buffer: B, sa: Slot) -> Self {
        Self { buffer, sa, outcome: Outcome::Pending, events: Events::NONE }
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet.
    Pending,
    /// The buffer holds the packet to send to the peer.
    Sealed,
    /// Dropped as [`DropCause::PacketTooBig`], unchanged: its sender is to be told this MTU (RFC 4301 §8,
    /// [`wire::icmp::emit_error`]).
    TooBig(u16),
    /// Unchanged: it may be fragmented into packets of at most this many bytes, which then fit.
    Fragment(u16),
    /// It goes no further; what the buffer holds is of no use.
    Dropped(DropCause),
}

/// Takes packets through sequence number, padding, tunnel header and cipher. Packets of different SAs
/// are encrypted together. Sets outcome and events of every packet that is pending, and adds what was
/// sealed to `totals`.
pub fn process_burst<B: PacketBuffer>(
    sad: &mut OutboundSad,
    packets: &mut [OutboundPacket<B>],
    totals: &mut Totals,
) {
    for chunk in packets.chunks_mut(BURST) {
        let alone = ask_ahead(sad, chunk);
        let mut prepared = Stage::new();
        prepare(sad, chunk, &mut prepared);
        if seal(sad, chunk, &prepared, alone, totals) {
            finish(sad, chunk, &prepared);
        }
    }
}

/// Frames that go the straight way: an untagged one with an IPv4 packet that is to be forwarded through a tunnel. What takes it is sealed by
/// [`Sealer::finish`], all SAs together.
pub struct Sealer<'a> {
    sad: &'a OutboundSad,
    jobs: ArrayVec<SealJob<'a>, BURST>,
    keys: Keys,
    packets: u64,
    bytes: u64,
}

impl<'a> Sealer<'a> {
    /// One that has nothing yet.
    #[inline]
    pub fn new(sad: &'a OutboundSad) -> Self {
        Self { sad, jobs: ArrayVec::new(), keys: sad.keys(), packets: 0, bytes: 0 }
    }

    /// Whether a frame goes the straight way with this SA, and how long it will be then. Nothing changes. `generation` says which of the SAs
    /// it is that were in the slot.
    #[inline(always)]
    pub fn plan(&self, slot: Slot, generation: u32, frame: &[u8]) -> Option<Plan<'a>> {
        if self.jobs.is_full() {
            return None;
        }
        self.sad.settled(slot)?.plan_frame(generation, frame)
    }

    /// Asks for what the frame of this plan needs of the key, `alone` or one of several in a row with its SA.
    #[inline(always)]
    pub fn prefetch_key(&self, plan: &Plan<'a>, alone: bool) {
        plan.prefetch_key(self.keys.of_one(alone));
    }

    /// Takes a frame that has the length of its plan by now, and begins [`Plan::FRONT`] bytes before where it began. What is false of it is
    /// not to be sent: it has not that length. `alone` as [`Sealer::prefetch_key`] was told, false of a frame that follows another one of its SA.
    #[inline(always)]
    #[must_use]
    pub fn take(&mut self, plan: &Plan<'a>, frame: &'a mut [u8], alone: bool) -> bool {
        // `plan` gives none when there is no room for another job.
        let begun = plan.begin(frame, self.keys.of_one(alone), &mut self.jobs).is_some();
        self.packets += u64::from(begun);
        self.bytes += if begun { plan.carried() } else { 0 };
        begun
    }

    /// Runs the cipher over all that was taken; what was sealed.
    ///
    /// It is not taken by value: moving it would copy room for a whole burst, however short that is.
    #[inline]
    pub fn finish(&mut self) -> Totals {
        seal_burst(&mut self.jobs);
        self.jobs.clear();
        let (packets, bytes) =
            (core::mem::take(&mut self.packets), core::mem::take(&mut self.bytes));
        Totals::of_plain(packets, bytes)
    }
}

impl core::fmt::Debug for Sealer<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Sealer").field("frames", &self.jobs.len()).finish_non_exhaustive()
    }
}

type Stage = ArrayVec<Option<Prepared>, BURST>;

/// Asks for the keys of the burst's SAs; which packets have neighbours of other SAs.
#[inline]
fn ask_ahead<B: PacketBuffer>(sad: &OutboundSad, packets: &[OutboundPacket<B>]) -> Alone {
    let mut alone = Alone::default();
    for run in packets.chunk_by(|a, b| a.sa == b.sa) {
        alone.add_run(run.len());
        if let [first, rest @ ..] = run
            && let Some(settled) = sad.settled(first.sa)
        {
            let keys = sad.keys().of_one(rest.is_empty());
            settled.prefetch_key(first.buffer.data().len(), keys);
        }
    }
    alone
}

#[inline]
fn prepare<B: PacketBuffer>(
    sad: &mut OutboundSad,
    packets: &mut [OutboundPacket<B>],
    stage: &mut Stage,
) {
    for packet in packets {
        if packet.outcome != Outcome::Pending {
            stage.push(None);
            continue;
        }
        packet.outcome = match sad.get_mut(packet.sa) {
            None => Outcome::Dropped(DropCause::NoSa),
            Some(sa) => match sa.prepare(&mut packet.buffer, &mut packet.events) {
                Ok(prepared) => {
                    stage.push(Some(prepared));
                    continue;
                }
                Err(Refusal::Dropped(cause)) => Outcome::Dropped(cause),
                Err(Refusal::TooBig(mtu)) => Outcome::TooBig(mtu),
                Err(Refusal::Fragment(mtu)) => Outcome::Fragment(mtu),
            },
        };
        stage.push(None);
    }
}

/// The cipher over the whole burst; what is sealed is counted. Says whether something follows from the ciphertext.
#[inline]
fn seal<B: PacketBuffer>(
    sad: &OutboundSad,
    packets: &mut [OutboundPacket<B>],
    stage: &Stage,
    mut alone: Alone,
    totals: &mut Totals,
) -> bool {
    let mut jobs = ArrayVec::<SealJob<'_>, BURST>::new();
    let (mut run, mut to_finish) = (Run::default(), false);
    for (packet, prepared) in packets.iter_mut().zip(stage) {
        let is_alone = alone.next_is_alone();
        let Some(prepared) = prepared else { continue };
        let place = &prepared.place;
        // Until the cipher has run, the packet is in clear: it must not be taken for sealed.
        packet.outcome = Outcome::Dropped(DropCause::CipherFailed);
        let Some(settled) = sad.settled(packet.sa) else { continue };
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
                let Some(tag) = rest.get_mut(..sa.icv_len()) else { continue };
                let Some(iv) = before.last_chunk::<GCM_IV_LEN>() else { continue };
                let aad = aad(sa.spi().get(), place.sequence, place.esn);
                let Ok(job) = SealJob::in_place(key, nonce(salt, *iv), aad, data, tag) else {
                    continue;
                };
                jobs.push(job);
            }
            Suite::Serial(serial) => {
                if serial.seal(packet.buffer.data_mut(), *place).is_err() {
                    continue;
                }
            }
            Suite::Ah(ah) => {
                if ah.seal(packet.buffer.data_mut(), *place).is_err() {
                    continue;
                }
            }
        }
        packet.outcome = Outcome::Sealed;
        sa.count(prepared, &mut run, totals);
        to_finish |= sa.needs_finish();
    }
    run.end(totals);
    seal_burst(&mut jobs);
    to_finish
}

/// What follows from the ciphertext.
#[cold]
fn finish<B: PacketBuffer>(sad: &OutboundSad, packets: &mut [OutboundPacket<B>], stage: &Stage) {
    for (packet, prepared) in packets.iter_mut().zip(stage) {
        if let Some(prepared) = prepared
            && packet.outcome == Outcome::Sealed
            && let Some(sa) = sad.get(packet.sa)
        {
            sa.finish(packet.buffer.data_mut(), prepared);
        }
    }
}
