//! The way in for IKEv1 datagrams: cookies, first messages, limits.

use crate::endpoint::NoSpis;
use crate::engine::Engine;
use crate::event::{IkeId, Path, SpiSource};
use crate::message::v1::{Body, Message, NotifyType};
use crate::message::{ExchangeType, Header, MessageId};
use crate::sa::Sa;
use crate::v1::authenticate::connects;
use crate::v1::respond::{Request, refusal};
use crate::v1::sa::IsakmpSa;
use crate::v2::window::digest_of;
use crate::view::Role;
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
        let header = &message.header;
        let digest = digest_of(datagram);
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
        let is_first = header.exchange == ExchangeType::IdentityProtection
            && header.message_id == MessageId(0);
        let config = Arc::clone(&self.config);
        // Without a connection that says so, IKEv1 is not spoken (RFC 9395).
        if !is_first || !config.connections.iter().any(|c| connects(c, path)) {
            self.stats.invalid_packets_received += 1;
            return;
        }
        let settings = &self.config.settings;
        let blocked = settings.block_threshold != 0
            && self.table.half_open_from(path.remote.ip()) >= settings.block_threshold;
        let full = self.table.half_open() >= settings.half_open_limit / SHARE_OF_HALF_OPEN;
        if self.shutting_down || blocked || full {
            self.stats.initiations_dropped += 1;
            return;
        }
        let spi_i = header.spi_i;
        let Some(request) = Request::read(&config, path, &payloads) else {
            self.stats.negotiation_failures += 1;
            let id = u32::from_be_bytes(self.random.array());
            let kind = NotifyType::NoProposalChosen;
            if let Some(answer) = refusal(spi_i, header.spi_r, id, kind) {
                self.send(path, answer);
            }
            return;
        };
        let accepted = self.with_cx(now, &mut NoSpis, |cx| request.accept(cx, path, spi_i, digest));
        if let Some((head, state)) = accepted {
            self.insert(Sa::V1(Box::new(IsakmpSa { head, state })));
        }
    }
}
