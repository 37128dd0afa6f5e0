//! The straight way through the worker: untagged frames with whole IPv4 packets without options, of flows that are known, which go
//! into a tunnel of this core or come out of one.
//!
//! ```text
//!   handed over ─────────────────►──┐
//!                ┌─ plain ─► SA of the flow ─► headers, cipher ────────────────────────┐
//!  frames ─► noted ─ another core's SA ─► handed over, and its place taken             ├─► transmit rings
//!                └─ ESP ───► cipher ─► window, trailer, selectors ─► next hop of flow ─┘
//!   handed over ─────►─┘
//!                  everything else, from wherever it is: the way that fits all (ingress.rs, open.rs), unchanged
//! ```
//!
//! A burst is looked at whole, stage by stage, and a frame stays where it lies until it is sent. What is known of a flow was found
//! out the long way (flows.rs), so this way has no rules of its own.

mod open;
mod seal;

use crate::account::{Drop, WorkerDrop};
use crate::config::{PortId, Side};
use crate::handoff::{Choice, HandedOff};
use crate::packet::Packet;
use crate::worker::{BURST, Worker};
use af_xdp::Frame;
use arrayvec::ArrayVec;
use ipsec::flow::FlowIdV4;
use ipsec::inbound::Entered;
use ipsec::sa::Spi;
use ipsec::spd::Place;
use ipsec::spi::CoreId;
use wire::ethernet::{self, Mac};
use wire::{ipv4, protocol};

/// What is known of a frame.
pub(crate) enum Note {
    /// Not for here.
    Other,
    /// It was copied onto the way to another core.
    Left,
    /// A packet of a flow, and where that would be remembered.
    Plain(FlowIdV4, Place),
    /// It is to take this SA of that core, if it is still that one of those that were in its slot. Of other cores there are none left when
    /// the burst was exchanged.
    Seal(CoreId, Choice),
    /// ESP, for the core that its SPI names.
    Protected(Spi),
    /// It went into the cipher; whether that found it authentic.
    Entered(Spi, Entered, bool),
    /// It came out of this SA.
    Opened(Spi, FlowIdV4, Place),
    /// It leaves by this port.
    Send(PortId),
    /// It goes no further.
    Drop(Drop),
}

pub(crate) type Notes = ArrayVec<Note, BURST>;

/// Adds one for another frame; there is room for a burst.
#[inline(always)]
fn add(notes: &mut Notes, note: Note) {
    let _ = notes.try_push(note);
}

/// Which kinds of frames a burst has.
#[derive(Default)]
pub(crate) struct Kinds {
    pub(crate) plain: bool,
    pub(crate) protected: bool,
    /// A bit for each frame whose packet is for another core, and then for each of these whose place nothing has taken.
    pub(crate) others: u32,
}

/// SAs that are to be asked for in one row: slots, or SPIs.
#[derive(Default)]
struct Wanted {
    sas: [u32; BURST],
    count: usize,
}

impl Wanted {
    /// Adds one, or leaves it out. Whose SA the next packet takes cannot be foreseen, so that this decides how far to count, and not what to do.
    #[inline(always)]
    fn add(&mut self, sa: u32, is_own: bool) {
        if let Some(room) = self.sas.get_mut(self.count) {
            *room = sa;
            self.count += usize::from(is_own);
        }
    }

    #[inline(always)]
    fn all(&self) -> impl Iterator<Item = u32> {
        self.sas.iter().take(self.count).copied()
    }
}

impl Worker {
    /// Takes of a burst what goes the straight way, and some of what other workers have handed over along with it; the rest stays, in
    /// its order. How many more than it had went through.
    #[inline]
    pub(crate) fn direct(&mut self, frames: &mut Vec<Frame>, station: Mac, side: Side) -> usize {
        #[cfg(test)]
        if self.long_way {
            return 0;
        }
        let mut notes = Notes::new();
        let mut kinds = self.note(frames, station, &mut notes);
        if kinds.plain {
            self.choose_sas(side, &mut notes, &mut kinds);
        }
        // Even if all that came in their place was dropped.
        let some_left = kinds.others != 0;
        let along = match self.crossings.len() {
            0 | 1 if !some_left => 0,
            _ => self.exchange(frames, &mut notes, &mut kinds),
        };
        if kinds.plain | kinds.protected | some_left {
            self.go_straight(frames, &mut notes, &kinds);
        }
        along
    }

    /// Takes of a burst what its SA was found for; the rest stays, in its order.
    #[inline]
    pub(crate) fn go_straight(
        &mut self,
        frames: &mut Vec<Frame>,
        notes: &mut Notes,
        kinds: &Kinds,
    ) {
        if kinds.plain {
            self.seal_direct(frames, notes);
        }
        if kinds.protected {
            self.open_direct(frames, notes);
        }
        self.send_direct(frames, notes);
    }

    /// Looks at every frame, and asks for what is known of its flow or SA.
    #[inline(never)]
    fn note(&self, frames: &[Frame], station: Mac, notes: &mut Notes) -> Kinds {
        let mut kinds = Kinds::default();
        let (mut flows, mut ours) = (None, None);
        let mut places = ArrayVec::<Place, BURST>::new();
        let (mut spis, mut run) = (Wanted::default(), None);
        for (n, frame) in frames.iter().enumerate() {
            let Some(header) = ethernet::plain_ipv4(frame.data(), station) else {
                add(notes, Note::Other);
                continue;
            };
            match header[ipv4::PROTOCOL_AT] {
                protocol::UDP | protocol::TCP => {
                    let flow = FlowIdV4::of(header);
                    // A run of packets of one flow is looked for once.
                    let place = match flows {
                        Some((run, place)) if run == flow => place,
                        _ => {
                            let place = self.flows.place_v4(flow);
                            let _ = places.try_push(place);
                            place
                        }
                    };
                    flows = Some((flow, place));
                    kinds.plain = true;
                    add(notes, Note::Plain(flow, place));
                }
                protocol::ESP => {
                    let [.., d3, d2, d1, d0, s3, s2, s1, s0] = *header;
                    let destination = [d3, d2, d1, d0];
                    if ours != Some(destination)
                        && self.forwarding.addresses.contains(destination.into())
                    {
                        ours = Some(destination);
                    }
                    let spi = Spi::new(u32::from_be_bytes([s3, s2, s1, s0]));
                    let Some(spi) = spi.filter(|_| ours == Some(destination)) else {
                        add(notes, Note::Other);
                        continue;
                    };
                    let is_others =
                        spi.core() != self.core && spi.core().index() < self.shared.len();
                    kinds.others |= u32::from(is_others) << n;
                    if run.replace(spi) != Some(spi) {
                        spis.add(spi.get(), !is_others);
                    }
                    kinds.protected = true;
                    add(notes, Note::Protected(spi));
                }
                _ => add(notes, Note::Other),
            }
        }
        places.iter().for_each(|place| self.flows.bring(*place));
        spis.all().for_each(|spi| self.sad.bring(spi));
        kinds
    }

    /// To the transmit rings; what has left or goes no further, home.
    #[inline(never)]
    fn send_direct(&mut self, frames: &mut Vec<Frame>, notes: &mut Notes) {
        #[cfg(test)]
        {
            self.went_straight += notes.iter().filter(|note| matches!(note, Note::Send(_))).count();
        }
        // Nearly always it is all of the burst, by one port.
        if let Some(Note::Send(port)) = notes.first()
            && let Some(state) = self.ports.get_mut(usize::from(port.0))
            && state.transmit.is_empty()
            && notes.iter().all(|note| matches!(note, Note::Send(to) if to == port))
        {
            core::mem::swap(&mut state.transmit, frames);
            return;
        }
        let mut burst = core::mem::replace(frames, core::mem::take(&mut self.left));
        let (mut left, mut rest) = (burst.drain(..), notes.as_mut_slice());
        // Notes stay where they are, as most are only looked at.
        while let Some((note, later)) = rest.split_first_mut() {
            rest = later;
            // Those for one port at once: a frame that is looked at in between waits for its own stores (see `packet::put`).
            if let Note::Send(port) = *note
                && let Some(state) = self.ports.get_mut(usize::from(port.0))
            {
                let also = |note: &&Note| matches!(note, Note::Send(to) if *to == port);
                let run = rest.iter().take_while(also).count();
                rest = &mut rest[run..];
                state.transmit.extend(left.by_ref().take(1 + run));
                continue;
            }
            let Some(frame) = left.next() else { break };
            let arrival = HandedOff::arrival(frame.mark, self.core);
            match note {
                Note::Send(_) => self.drop_packet(Packet(frame), WorkerDrop::NoRoute),
                Note::Left => self.free(frame),
                Note::Drop(cause) => self.drop_packet(Packet(frame), *cause),
                Note::Opened(spi, flow, _) => self.opened_otherwise(frame, arrival, *spi, *flow),
                Note::Entered(..) => {
                    if let Note::Entered(_, entered, authentic) =
                        core::mem::replace(note, Note::Other)
                    {
                        self.conclude_otherwise(frame, arrival, entered, authentic);
                    }
                }
                _ if HandedOff::is_straight(frame.mark) => {
                    self.take_handed_otherwise(Packet(frame));
                }
                Note::Other | Note::Plain(..) | Note::Protected(_) | Note::Seal(..) => {
                    frames.push(frame);
                }
            }
        }
        drop(left);
        self.left = burst;
    }
}
