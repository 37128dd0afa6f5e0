//! The way in for IKEv1 datagrams: cookies, first messages, limits.

use crate::config::Connection;
use crate::endpoint::NoSpis;
use crate::engine::Engine;
use crate::event::{IkeId, Path, SpiSource};
use crate::message::v1::{Body, Fragment, Message, NotifyType};
use crate::message::{ExchangeType, Header, IkeSpi, MessageId};
use crate::sa::Sa;
use crate::v1::aggressive;
use crate::v1::authenticate::connects;
use crate::v1::fragment::{self, Assembling};
use crate::v1::respond::{LONGEST_HALF_OPEN, Request, refusal};
use crate::v1::sa::{IsakmpSa, State};
use crate::v2::addresses::Addresses;
use crate::v2::sa::{Head, Nat};
use crate::v2::window::{Digest, digest_of};
use crate::view::Role;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// IKEv1 strangers may take up this part of the half-open table and no more: IKEv1 has no cookie before the first state
/// of its own, and a flood of forged first messages must leave room for IKEv2, which has.
const SHARE_OF_HALF_OPEN: usize = 2;

impl Engine {
    /// Finds who an IKEv1 message is for.
    pub(crate) fn receive_v1(
        &mut self,
        now: Instant,
        path: Path,
        message: &Message<'_>,
        datagram: &[u8],
        spis: &mut dyn SpiSource,
    ) {
        match fragment::piece(message) {
            Some(piece) => self.receive_piece(now, path, &message.header, &piece, spis),
            None => self.receive_whole(now, path, message, digest_of(datagram), spis),
        }
    }

    fn receive_whole(
        &mut self,
        now: Instant,
        path: Path,
        message: &Message<'_>,
        digest: Digest,
        spis: &mut dyn SpiSource,
    ) {
        let header = &message.header;
        let id = if header.spi_r.is_zero() {
            match self.first_or_repeated(path, header) {
                Some(id) => id,
                None => return self.first_message_v1(now, path, message, digest),
            }
        } else {
            match self.by_cookies(header) {
                Some(id) => id,
                None => {
                    self.stats.invalid_cookies_received += 1;
                    return;
                }
            }
        };
        self.step(now, spis, id, |sa, cx| {
            if let Sa::V1(sa) = sa {
                sa.handle_message(cx, path, message, digest);
            }
        });
    }

    /// A piece of a message: kept at the SA that its cookies name, until the message is whole.
    fn receive_piece(
        &mut self,
        now: Instant,
        path: Path,
        header: &Header,
        piece: &Fragment<'_>,
        spis: &mut dyn SpiSource,
    ) {
        let (id, unknown) = if header.spi_r.is_zero() {
            let known = self.first_or_repeated(path, header);
            (known.or_else(|| self.begin_assembling(now, path, header)), 0)
        } else {
            (self.by_cookies(header), 1)
        };
        let Some(id) = id else {
            self.stats.invalid_cookies_received += unknown;
            return;
        };
        let mut whole = None;
        self.step(now, spis, id, |sa, cx| {
            if let Sa::V1(sa) = sa {
                whole = sa.take_piece(cx, header, piece);
            }
        });
        let Some((datagram, digest)) = whole else { return };
        match fragment::whole(&datagram, (header.spi_i, header.spi_r)) {
            Some(message) => self.receive_whole(now, path, &message, digest, spis),
            None => self.stats.invalid_packets_received += 1,
        }
    }

    /// A stranger's first message comes in pieces: an entry of the half-open table keeps them.
    fn begin_assembling(&mut self, now: Instant, path: Path, header: &Header) -> Option<IkeId> {
        let config = Arc::clone(&self.config);
        let takes = |c: &&Arc<Connection>| connects(c, path) && c.fragmentation.accepts();
        let Some(connection) = config.connections.iter().find(takes) else {
            self.stats.invalid_packets_received += 1;
            return None;
        };
        if !self.has_room_for(path) {
            self.stats.initiations_dropped += 1;
            return None;
        }
        let id = IkeId(self.registry.ike.next());
        let head = Head {
            id,
            role: Role::Responder,
            spi_i: header.spi_i,
            spi_r: IkeSpi(self.random.array()),
            path,
            in_pieces: false,
            addresses: Addresses::default(),
            nat: Nat::default(),
            connection: Arc::clone(connection),
            tasks: VecDeque::new(),
            waiters: Vec::new(),
        };
        let until = now + config.settings.half_open_timeout.min(LONGEST_HALF_OPEN);
        let state = State::Assembling(Assembling { until });
        self.insert(now, Sa::V1(Box::new(IsakmpSa::new(head, state))));
        Some(id)
    }

    /// Whether one more stranger may have state here.
    fn has_room_for(&self, path: Path) -> bool {
        let settings = &self.config.settings;
        let blocked = settings.block_threshold != 0
            && self.table.half_open_from(path.remote.ip()) >= settings.block_threshold;
        let full = self.table.half_open() >= settings.half_open_limit / SHARE_OF_HALF_OPEN;
        !self.shutting_down && !blocked && !full
    }

    /// A message without a responder's cookie: the repeat of a first one, or a word in clear to an initiator.
    fn first_or_repeated(&self, path: Path, header: &Header) -> Option<IkeId> {
        let repeated = self.table.by_first_message(header.spi_i, path.remote);
        let own = || self.table.by_spi(header.spi_i).filter(|id| self.is_initiator(*id, header));
        let is_v1 = |id: &IkeId| matches!(self.table.get(*id), Some(Sa::V1(_)));
        repeated.or_else(own).filter(is_v1)
    }

    fn is_initiator(&self, id: IkeId, header: &Header) -> bool {
        self.table.get(id).is_some_and(|sa| {
            let head = sa.head();
            let open = head.spi_r.is_zero() || head.spi_r == header.spi_r;
            head.role == Role::Initiator && head.spi_i == header.spi_i && open
        })
    }

    /// The ISAKMP SA with both cookies. An initiator learns the responder's from its first answer.
    fn by_cookies(&self, header: &Header) -> Option<IkeId> {
        let responder = self.table.by_spi(header.spi_r).filter(|id| {
            matches!(self.table.get(*id), Some(Sa::V1(sa))
                if sa.head.role == Role::Responder && sa.head.spi_i == header.spi_i)
        });
        let initiator = || {
            let id = self.table.by_spi(header.spi_i)?;
            let is_v1 = matches!(self.table.get(id), Some(Sa::V1(_)));
            (is_v1 && self.is_initiator(id, header)).then_some(id)
        };
        responder.or_else(initiator)
    }

    /// The first message of a stranger: limits first, then the content. Only what could become an SA costs state, and
    /// nothing here costs an exponentiation.
    fn first_message_v1(
        &mut self,
        now: Instant,
        path: Path,
        message: &Message<'_>,
        digest: [u8; 32],
    ) {
        let header = &message.header;
        let Body::Plain(payloads) = message.body else {
            // Encrypted for an SA that cannot be.
            self.stats.invalid_packets_received += 1;
            return;
        };
        if header.exchange == ExchangeType::InformationalV1 {
            // About no SA of ours.
            self.stats.invalid_cookies_received += 1;
            return;
        }
        let aggressive = header.exchange == ExchangeType::Aggressive;
        let is_first = (aggressive || header.exchange == ExchangeType::IdentityProtection)
            && header.message_id == MessageId(0);
        let config = Arc::clone(&self.config);
        // Without a connection that says so, IKEv1 is not spoken (RFC 9395), and aggressive mode neither.
        let spoken = |c: &Arc<Connection>| connects(c, path) && (!aggressive || c.aggressive);
        if !is_first || !config.connections.iter().any(spoken) {
            self.stats.invalid_packets_received += 1;
            return;
        }
        if !self.has_room_for(path) {
            self.stats.initiations_dropped += 1;
            return;
        }
        let spi_i = header.spi_i;
        if aggressive {
            let Some(request) = aggressive::Request::read(&config, path, &payloads) else {
                return self.refuse_first(path, header);
            };
            if !self.aggressive.take(now) {
                self.stats.initiations_dropped += 1;
                return;
            }
            let (head, state) =
                self.with_cx(now, &mut NoSpis, |cx| request.accept(cx, path, spi_i, digest));
            return self.insert(now, Sa::V1(Box::new(IsakmpSa::new(head, state))));
        }
        let Some(request) = Request::read(&config, path, &payloads) else {
            return self.refuse_first(path, header);
        };
        let accepted = self.with_cx(now, &mut NoSpis, |cx| request.accept(cx, path, spi_i, digest));
        if let Some((head, state)) = accepted {
            self.insert(now, Sa::V1(Box::new(IsakmpSa::new(head, state))));
        }
    }

    fn refuse_first(&mut self, path: Path, header: &Header) {
        self.stats.negotiation_failures += 1;
        let id = u32::from_be_bytes(self.random.array());
        let kind = NotifyType::NoProposalChosen;
        if let Some(answer) = refusal(header.spi_i, header.spi_r, id, kind) {
            self.send(path, answer);
        }
    }
}
