//! Later fragments, which show no ports, judged by what the first fragment of their packet showed (RFC 4301 §7.3, §7.4).
//!
//! ```text
//!  first fragment ─► noted: addresses, identification ─► protocol and ports ─┐
//!  later fragment ─► asked ◄─────────────────────────────────────────────────┘ for half a minute, in a table that never grows
//! ```
//!
//! Fragments that overtake their first one, or whose note was pushed out, are judged as what they show. Where the same host has sent
//! two first ones with one identification, the newer counts.

use crate::flow::{Flow, FlowId, PortView};
use crate::sa::{Mode, SaParameters};
use crate::selector::{Ports, Selector};
use crate::spd::with_hidden_ports;
use core::hash::BuildHasher;
use core::net::IpAddr;
use foldhash::quality::RandomState; // its seed is random: who sends fragments cannot aim at the notes of others
use wire::ip::{Ip, Piece};

/// Notes a worker keeps, in sets of `WAYS`. Fragments of a packet follow each other at once: this is 25 ms of a link that carries
/// 4 Gbit/s in fragmented packets of 3,000 bytes and nothing else. A flood of first fragments makes later ones be judged as what they
/// show, which lets through no more than without the table.
pub const FRAGMENTED_PACKETS: usize = 4096;

/// Places where a note may be.
const WAYS: usize = 4;

/// How long a note counts, in seconds: as long as Linux waits for the rest of a packet (ipfrag_time). RFC 791 asks for 15 at least;
/// identifications come around.
const LASTS: u32 = 30;

/// A later fragment of IPv4 that begins before this byte of its packet could lie over ports: with the least MTU of 576 bytes and the
/// longest header they are in the first one, and no honest sender cuts so early (RFC 4301 §7.2, appendix D.3).
const LEAST_OFFSET: usize = 128;

/// What a worker remembers of first fragments.
#[derive(Debug)]
pub struct FragmentTable {
    sets: Box<[[Note; WAYS]]>,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug, Default)]
struct Note {
    addresses: [u64; 4],
    id: u32,
    kind: u16,
    protocol: u8,
    /// From when it is, in seconds and one; 0 where there is none.
    at: u32,
    source: u16,
    destination: u16,
}

/// Which packet a fragment is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentOf {
    addresses: [u64; 4],
    id: u32,
    /// Protocol, of IPv4; whether it is of IPv6; and the context.
    kind: u16,
}

impl FragmentOf {
    /// Of a fragment with these selector values. `context` is from whose view it is judged: what came out of a tunnel has nothing to do
    /// with what came in clear.
    pub fn new(flow: &Flow, piece: Piece, context: u8) -> Self {
        let FlowId { addresses, .. } = (*flow).into();
        // Over IPv6 the fragment header may name an extension header, and the first fragment shows what is behind it.
        let of_family = match flow.source {
            IpAddr::V4(_) => u16::from(flow.protocol) << 8,
            IpAddr::V6(_) => 1 << 7,
        };
        Self { addresses, id: piece.id, kind: of_family | u16::from(context & 0x7f) }
    }
}

impl FragmentTable {
    /// Room for `packets` of them, all of it taken now.
    pub fn new(packets: usize) -> Self {
        let sets = packets.div_ceil(WAYS).next_power_of_two();
        Self { sets: vec![[Note::default(); WAYS]; sets].into(), hasher: RandomState::default() }
    }

    /// Notes what a first fragment shows at second `now`. One that shows no ports has nothing to be noted.
    pub fn note(&mut self, of: FragmentOf, flow: &Flow, now: u32) {
        let PortView::Visible { source, destination } = flow.ports else { return };
        let FragmentOf { addresses, id, kind } = of;
        let protocol = flow.protocol;
        let at = now.saturating_add(1);
        let note = Note { addresses, id, kind, protocol, at, source, destination };
        let set = self.set(of);
        let Some(notes) = self.sets.get_mut(set) else { return };
        // Never twice: where it is, or else in place of the oldest.
        let place = match notes.iter().position(|note| note.is_of(of)) {
            Some(place) => Some(place),
            None => (0..WAYS).min_by_key(|place| notes[*place].at),
        };
        if let Some(place) = place {
            notes[place] = note;
        }
    }

    /// The selector values of a later fragment at second `now`, with protocol and ports of its first one.
    pub fn find(&self, of: FragmentOf, flow: &Flow, now: u32) -> Option<Flow> {
        let notes = self.sets.get(self.set(of))?;
        let note = notes.iter().find(|note| note.at != 0 && note.is_of(of))?;
        (now.saturating_add(1).saturating_sub(note.at) < LASTS).then_some(Flow {
            protocol: note.protocol,
            ports: PortView::Visible { source: note.source, destination: note.destination },
            ..*flow
        })
    }

    fn set(&self, FragmentOf { addresses, id, kind }: FragmentOf) -> usize {
        // A power of two.
        self.hasher.hash_one((addresses, id, kind)) as usize & (self.sets.len() - 1)
    }
}

impl Note {
    fn is_of(&self, of: FragmentOf) -> bool {
        self.id == of.id && self.kind == of.kind && self.addresses == of.addresses
    }
}

/// How later fragments are looked at that come out of an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaterFragments {
    /// As every packet: the SA is for any ports (RFC 4301 §7.1), or for some and takes none.
    AsOthers,
    /// They must not lie over ports: the SA is for them (§7.2).
    Apart,
    /// As [`LaterFragments::Apart`], and the first one must have come before (§7.3).
    AfterTheFirst,
}

impl LaterFragments {
    /// Of an SA that receives.
    pub fn of(parameters: &SaParameters) -> Self {
        let is_opaque =
            |s: &Selector| s.local_ports == Ports::Opaque || s.remote_ports == Ports::Opaque;
        match parameters {
            SaParameters { mode: Mode::Transport, .. } => Self::AsOthers,
            SaParameters { later_fragments: true, .. } => Self::AfterTheFirst,
            SaParameters { selectors, .. } if selectors.iter().any(is_opaque) => Self::Apart,
            SaParameters { .. } => Self::AsOthers,
        }
    }
}

/// Whether a later fragment begins where it could lie over the ports of its packet. Of IPv6 nobody can tell (RFC 4301 §7.2).
pub fn may_overlap(ip: &Ip<'_>, piece: Piece) -> bool {
    matches!(ip, Ip::V4(_)) && piece.offset != 0 && piece.offset < LEAST_OFFSET
}

/// What packets are admitted by out of an SA: its selectors, and where it takes later fragments the same for hidden ports.
pub(crate) fn admitted(parameters: &SaParameters) -> Vec<Selector> {
    let mut selectors = parameters.selectors.clone();
    if parameters.later_fragments && parameters.mode == Mode::Tunnel {
        selectors.extend(parameters.selectors.iter().filter_map(with_hidden_ports));
    }
    selectors
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn flow(n: u8, protocol: u8, ports: Option<(u16, u16)>) -> Flow {
        let ports = ports.map_or(PortView::Hidden, |(source, destination)| PortView::Visible {
            source,
            destination,
        });
        Flow { source: [10, 0, 0, n].into(), destination: [10, 0, 1, 1].into(), protocol, ports }
    }

    const LATER: Piece = Piece { id: 7, offset: 1480 };

    #[test]
    fn a_later_fragment_has_the_ports_of_the_first_for_half_a_minute() {
        let mut table = FragmentTable::new(16);
        let of = |f: &Flow| FragmentOf::new(f, LATER, 0);
        let (first, later) = (flow(1, 17, Some((1000, 53))), flow(1, 17, None));
        assert_eq!(table.find(of(&later), &later, 0), None);
        table.note(of(&first), &first, 5);
        assert_eq!(table.find(of(&later), &later, 5), Some(first));
        assert_eq!(table.find(of(&later), &later, 34), Some(first));
        assert_eq!(table.find(of(&later), &later, 35), None);
        // Anything else is another packet.
        for other in [flow(2, 17, None), flow(1, 6, None)] {
            assert_eq!(table.find(of(&other), &other, 5), None);
        }
        assert_eq!(table.find(FragmentOf::new(&later, LATER, 1), &later, 5), None);
        let id = Piece { id: 8, ..LATER };
        assert_eq!(table.find(FragmentOf::new(&later, id, 0), &later, 5), None);
    }

    #[test]
    fn over_ipv6_the_first_fragment_names_the_protocol() {
        let mut table = FragmentTable::new(16);
        let six = |protocol, ports| Flow {
            source: [1u16; 8].into(),
            destination: [2u16; 8].into(),
            ..flow(1, protocol, ports)
        };
        // Destination options are in the part that is fragmented.
        let (first, later) = (six(17, Some((1, 53))), six(60, None));
        table.note(FragmentOf::new(&first, LATER, 0), &first, 0);
        assert_eq!(table.find(FragmentOf::new(&later, LATER, 0), &later, 1), Some(first));
    }

    #[test]
    fn only_ipv4_fragments_near_the_front_may_overlap() {
        let mut packet = [0u8; 48];
        packet[0] = 0x45;
        packet[3] = 48;
        let v4 = |packet: &[u8], offset| {
            may_overlap(&Ip::parse(packet).unwrap(), Piece { id: 1, offset })
        };
        assert_eq!([0, 8, 120, 128].map(|at| v4(&packet, at)), [false, true, true, false]);
        let mut six = [0u8; 48];
        (six[0], six[5]) = (0x60, 8);
        assert!(!v4(&six, 8));
    }

    proptest! {
        /// What is found was noted, and a table that has room forgets nothing.
        #[test]
        fn it_is_a_map_that_forgets(
            steps in prop::collection::vec((0u8..8, 0u32..4, any::<bool>(), 0u16..3), 1..200),
            room in prop_oneof![Just(1usize), Just(4096)],
        ) {
            let mut table = FragmentTable::new(room);
            let mut all = HashMap::new();
            for (host, id, is_first, port) in steps {
                let piece = Piece { id, offset: if is_first { 0 } else { 1480 } };
                let shown = flow(host, 17, is_first.then_some((9, port)));
                let of = FragmentOf::new(&shown, piece, 0);
                if is_first {
                    table.note(of, &shown, 0);
                    all.insert((host, id), shown);
                } else {
                    let found = table.find(of, &shown, 0);
                    let expected = all.get(&(host, id)).copied();
                    prop_assert!(found.is_none() || found == expected);
                    // 32 packets among 4096 places: no set has five of them, nearly always.
                    prop_assert!(room == 1 || found.is_some() == expected.is_some() || all.len() > 4);
                }
            }
        }
    }
}
