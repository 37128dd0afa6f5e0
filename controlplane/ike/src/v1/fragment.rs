//! Fragments of IKEv1, as Cisco began them, and Windows and strongSwan do them too (vendor ID FRAGMENTATION).
//!
//! ```text
//! HDR(of phase 1, M-ID 0), Fragment(ID, 1, …)      a whole message, header and all, cut into pieces;
//! HDR(of phase 1, M-ID 0), Fragment(ID, 2, last)   neither encrypted nor authenticated itself
//! ```
//!
//! A piece proves nothing, so pieces may only cost what their sender is good for: a stranger one entry of the half-open
//! table, anybody a bounded number of octets. The whole is a message like any other, and is believed no more.

use crate::config::Fragmentation;
use crate::context::Cx;
use crate::event::Path;
use crate::message::v1::{Body, Fragment, Message, Payload};
use crate::message::{ExchangeType, Flags, GENERIC_HEADER_LEN, HEADER_LEN, Header, IkeSpi};
use crate::message::{MessageId, PayloadList};
use crate::v2::sa::Head;
use crate::v2::window::{Digest, digest_of};
use std::collections::BTreeMap;
use std::time::Instant;

/// Octets of the fragment payload before its data.
const FRAGMENT_HEADER_LEN: usize = 4;

/// What a stranger's first message may have: an SA payload with as many transforms as are read, and vendor IDs.
pub(super) const STRANGERS: usize = 8 * 1024;

/// What the messages of a peer may have that has returned our cookie and is not authenticated: the longest is the fifth
/// of main mode with a chain of certificates. With 500 such peers at once it is 16 MiB.
const UNPROVEN: usize = 32 * 1024;

/// What an authenticated peer may have: what an IKE message's payload lengths can say.
const PROVEN: usize = 65_535;

/// The pieces of one message. There is one such for an ISAKMP SA: the newest ID wins.
#[derive(Default)]
pub(crate) struct Pieces {
    id: u16,
    last: Option<u8>,
    parts: BTreeMap<u8, Vec<u8>>,
    octets: usize,
}

impl Pieces {
    /// Takes a piece; returns the whole once it is there. `room` is what all pieces may have together.
    fn add(&mut self, piece: &Fragment<'_>, room: usize) -> Result<Option<Vec<u8>>, Refused> {
        let (id, number, data) = (piece.id, piece.number(), piece.data());
        if id != self.id {
            *self = Self { id, ..Self::default() };
        }
        // Behind the last there is none, and there is one last.
        let beyond = self.last.is_some_and(|last| number > last || (piece.last && number != last));
        let above =
            piece.last && self.parts.keys().next_back().is_some_and(|known| *known > number);
        let octets = self.octets.saturating_add(data.len());
        if beyond || above || octets > room {
            *self = Self::default();
            return Err(Refused);
        }
        if self.parts.contains_key(&number) {
            return Ok(None);
        }
        self.parts.insert(number, data.to_vec());
        self.octets = octets;
        if piece.last {
            self.last = Some(number);
        }
        if self.last.map(usize::from) != Some(self.parts.len()) {
            return Ok(None);
        }
        let whole = core::mem::take(self).parts.into_values().flatten().collect();
        Ok(Some(whole))
    }

    /// Buffers held.
    pub(crate) fn held(&self) -> usize {
        self.parts.len()
    }
}

struct Refused;

/// How much is known of who sends pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing but an address, which may be forged.
    Stranger,
    /// It got our cookie.
    Unproven,
    /// It is authenticated.
    Proven,
}

impl Standing {
    const fn room(self) -> usize {
        match self {
            Self::Stranger => STRANGERS,
            Self::Unproven => UNPROVEN,
            Self::Proven => PROVEN,
        }
    }
}

/// The piece that a message is, if it is one.
pub(crate) fn piece<'a>(message: &Message<'a>) -> Option<Fragment<'a>> {
    let Body::Plain(payloads) = message.body else { return None };
    match payloads.iter().next()? {
        Payload::Fragment(fragment) => Some(fragment),
        _ => None,
    }
}

/// Takes a piece of a message for an ISAKMP SA; returns the whole with its digest once it is there.
pub(super) fn assemble(
    pieces: &mut Pieces,
    head: &Head,
    cx: &mut Cx<'_>,
    piece: &Fragment<'_>,
    standing: Standing,
) -> Option<(Vec<u8>, Digest)> {
    let whole = match head.connection.fragmentation {
        Fragmentation::No => Err(Refused),
        _ => pieces.add(piece, standing.room()),
    };
    match whole {
        Ok(whole) => whole.map(|whole| {
            let digest = digest_of(&whole);
            (whole, digest)
        }),
        Err(Refused) => {
            cx.stats.invalid_packets_received += 1;
            None
        }
    }
}

/// The whole of pieces as a message; it must be of the SA that the pieces said, and no piece again.
pub(crate) fn whole<'a>(whole: &'a [u8], (spi_i, spi_r): (IkeSpi, IkeSpi)) -> Option<Message<'a>> {
    let Ok(crate::message::Message::V1(message)) = crate::message::Message::parse(whole) else {
        return None;
    };
    let header = &message.header;
    let fits = header.spi_i == spi_i && header.spi_r == spi_r && piece(&message).is_none();
    fits.then_some(message)
}

/// A first message that comes in pieces from a stranger: an entry of the half-open table until all are there.
pub(crate) struct Assembling {
    pub(crate) until: Instant,
}

/// Sends a message of an ISAKMP SA, in pieces where the peer takes them and it is too long for one.
pub(super) fn send(head: &Head, cx: &mut Cx<'_>, path: Path, message: &[u8]) {
    let most = cx.config.settings.fragment_size;
    let pieces = (head.in_pieces && message.len() > most).then(|| cut(message, most)).flatten();
    match pieces {
        Some(pieces) => pieces.into_iter().for_each(|piece| cx.transmit(path, piece)),
        None => cx.transmit(path, message.to_vec()),
    }
}

/// `None` for what more pieces would be needed for than there are numbers.
fn cut(message: &[u8], most: usize) -> Option<Vec<Vec<u8>>> {
    let (header, _) = Header::parse(message).ok()?;
    let exchange = match header.exchange {
        ExchangeType::Aggressive => ExchangeType::Aggressive,
        // All others travel under the name of phase 1, as their pieces say nothing about what they are.
        _ => ExchangeType::IdentityProtection,
    };
    let around = HEADER_LEN.checked_add(GENERIC_HEADER_LEN)?.checked_add(FRAGMENT_HEADER_LEN)?;
    let room = most.checked_sub(around).filter(|room| *room > 0)?;
    let count = u8::try_from(message.len().div_ceil(room)).ok()?;
    let header = Header::v1(header.spi_i, header.spi_r, exchange, Flags::NONE, MessageId(0));
    // The same for a repeat, so that pieces of both fit together; hardly ever the same for another message.
    let [a, b, ..] = digest_of(message);
    let id = u16::from_be_bytes([a, b]).max(1);
    (1..=count)
        .zip(message.chunks(room))
        .map(|(number, data)| {
            let mut list = PayloadList::new();
            list.push(&Fragment::new(id, number, number == count, data).ok()?);
            list.into_message(&header).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let (i, r) = (IkeSpi([1; 8]), IkeSpi([2; 8]));
        Header::v1(i, r, ExchangeType::QuickMode, Flags::ENCRYPTED, MessageId(7))
    }

    fn message(len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        header().emit(8, u32::try_from(len).unwrap(), &mut out);
        out.extend((HEADER_LEN..len).map(|n| n as u8));
        out
    }

    fn pieces(message: &[u8], most: usize) -> Vec<Vec<u8>> {
        cut(message, most).unwrap()
    }

    fn add(into: &mut Pieces, datagram: &[u8], room: usize) -> Result<Option<Vec<u8>>, ()> {
        let Ok(crate::message::Message::V1(message)) = crate::message::Message::parse(datagram)
        else {
            panic!("not a message")
        };
        into.add(&piece(&message).unwrap(), room).map_err(|Refused| ())
    }

    #[test]
    fn what_is_cut_is_put_together_in_any_order() {
        for len in [1281, 2000, 9000] {
            let message = message(len);
            let cut = pieces(&message, 1280);
            assert!(cut.iter().all(|piece| piece.len() <= 1280));
            for turn in 0..cut.len() {
                let mut into = Pieces::default();
                for (n, _) in cut.iter().enumerate() {
                    let datagram = &cut[(n + turn) % cut.len()];
                    // Twice is once.
                    let first = add(&mut into, datagram, PROVEN).unwrap();
                    if n + 1 == cut.len() {
                        assert_eq!(first.as_deref(), Some(message.as_slice()));
                        assert_eq!(into.held(), 0);
                        continue;
                    }
                    assert_eq!(first, None);
                    assert_eq!(add(&mut into, datagram, PROVEN), Ok(None));
                }
            }
        }
    }

    #[test]
    fn limits() {
        assert!(cut(&message(60_000), 100).is_none(), "more than 255 pieces");
        let long = pieces(&message(9000), 576);
        let mut into = Pieces::default();
        let taken =
            long.iter().take_while(|piece| add(&mut into, piece, STRANGERS).is_ok()).count();
        assert!((14..17).contains(&taken), "{taken}");
        assert_eq!(into.held(), 0, "what is too long is dropped whole");
        // Another ID takes the place of what is there.
        let other = pieces(&message(2000), 576);
        add(&mut into, &long[0], PROVEN).unwrap();
        add(&mut into, &other[1], PROVEN).unwrap();
        assert_eq!(into.held(), 1);
    }

    /// Numbers behind the last one, and two last ones.
    #[test]
    fn pieces_that_contradict_each_other() {
        let piece = |number, last| Fragment::new(1, number, last, &[0; 8]).unwrap();
        for (first, second) in
            [((2, true), (3, false)), ((3, false), (2, true)), ((2, true), (1, true))]
        {
            let mut into = Pieces::default();
            assert!(into.add(&piece(first.0, first.1), PROVEN).is_ok());
            assert!(into.add(&piece(second.0, second.1), PROVEN).is_err(), "{first:?} {second:?}");
            assert_eq!(into.held(), 0);
        }
    }
}
