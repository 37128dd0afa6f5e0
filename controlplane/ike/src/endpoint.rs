//! The way in for datagrams: header, cookie, SPI pair, version.

use crate::context::{Cx, Effect};
use crate::crypto::CookieSecret;
use crate::engine::Engine;
use crate::event::{IkeId, Path, SpiSource};
use crate::message::{
    ExchangeType, Flags, Header, IkeSpi, InvalidMessage, Message, MessageId, NotifyType,
    PayloadList, v2,
};
use crate::random::Random;
use crate::sa::Sa;
use crate::v2::fault::{Fault, Incompatible};
use crate::v2::respond::{self, Request};
use crate::v2::sa::IkeSa;
use crate::v2::window::digest_of;
use crate::view::Role;
use core::net::SocketAddr;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How long one cookie secret makes cookies; those of the one before are still taken (RFC 7296 §2.6).
const SECRET_LIFE: Duration = Duration::from_secs(120);

/// The two cookie secrets in use.
#[derive(Default)]
pub(crate) struct Cookies {
    current: Option<(CookieSecret, Instant)>,
    previous: Option<CookieSecret>,
    version: u8,
}

impl Cookies {
    fn current(&mut self, now: Instant, random: &mut Random) -> &CookieSecret {
        let old = self.current.take_if(|(_, until)| *until <= now);
        if let Some((old, until)) = old {
            // After a long silence the old one is too old for either.
            self.previous = (now < until + SECRET_LIFE).then_some(old);
        }
        let version = &mut self.version;
        let (secret, _) = self.current.get_or_insert_with(|| {
            *version = version.wrapping_add(1);
            let key = Zeroizing::new(random.array());
            (CookieSecret::new(*version, key), now + SECRET_LIFE)
        });
        secret
    }

    fn verify(&self, cookie: &[u8], ni: &[u8], from: SocketAddr, spi_i: IkeSpi) -> bool {
        let secrets = self.current.iter().map(|(secret, _)| secret).chain(&self.previous);
        secrets.into_iter().any(|secret| secret.verify(cookie, ni, from, spi_i))
    }
}

impl Engine {
    /// Reads the header and finds who the datagram is for.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        path: Path,
        datagram: &[u8],
        spis: &mut dyn SpiSource,
    ) {
        let message = match Message::parse(datagram) {
            Ok(Message::V2(message)) => message,
            Ok(Message::V1(message)) => {
                return self.receive_v1(now, path, &message, datagram, spis);
            }
            Err(fault) => return self.unreadable(path, datagram, fault),
        };
        let header = &message.header;
        let is_response = header.flags.contains(Flags::RESPONSE);
        let digest = digest_of(datagram);
        if header.spi_r.is_zero() && !is_response {
            if let Some(id) = self.table.by_first_message(header.spi_i, path.remote) {
                self.step_v2(now, spis, id, |sa, cx| {
                    sa.handle_message(cx, path, &message, datagram, digest);
                });
                return;
            }
            return self.first_message(now, path, &message, datagram);
        }
        let own = if header.flags.contains(Flags::INITIATOR) { header.spi_r } else { header.spi_i };
        let known = self.table.by_spi(own).filter(|id| {
            self.table.get(*id).is_some_and(|sa| {
                let Sa::V2(sa) = sa else { return false };
                let head = &sa.head;
                // An initiator learns the responder's SPI from the answer.
                let open = head.role == Role::Initiator && head.spi_r.is_zero();
                head.spi_i == header.spi_i && (open || head.spi_r == header.spi_r)
            })
        });
        match known {
            Some(id) => {
                self.step_v2(now, spis, id, |sa, cx| {
                    sa.handle_message(cx, path, &message, datagram, digest);
                });
            }
            None => match self.table.park(own, path, datagram) {
                Some(true) => {}
                Some(false) => self.stats.parked_dropped += 1,
                None => self.stats.invalid_cookies_received += 1,
            },
        }
    }

    fn step_v2(
        &mut self,
        now: Instant,
        spis: &mut dyn SpiSource,
        id: IkeId,
        f: impl FnOnce(&mut IkeSa, &mut Cx<'_>),
    ) {
        self.step(now, spis, id, |sa, cx| match sa {
            Sa::V2(sa) => f(sa, cx),
            // The initiator's SPI is one that a peer of the other version chose too.
            Sa::V1(_) => cx.stats.invalid_cookies_received += 1,
        });
    }

    /// A datagram that is no message. Only a first request and a higher version get an answer.
    fn unreadable(&mut self, path: Path, datagram: &[u8], fault: InvalidMessage) {
        self.stats.invalid_packets_received += 1;
        if fault == InvalidMessage::HigherMajorVersion {
            return self.higher_version(path, datagram);
        }
        let Ok((header, _)) = Header::parse(datagram) else { return };
        let is_first = header.version == crate::message::Version::V2
            && header.spi_r.is_zero()
            && header.exchange == ExchangeType::IkeSaInit
            && header.message_id == MessageId(0)
            && header.flags.contains(Flags::INITIATOR)
            && !header.flags.contains(Flags::RESPONSE);
        if !is_first || self.is_under_load() {
            return;
        }
        if let Some(kind) = fault.notify() {
            let data = Fault::Invalid(fault).notify_data();
            if let Some(answer) = respond::refusal(header.spi_i, kind, &data) {
                self.send(path, answer);
            }
        }
    }

    /// RFC 7296 §2.5: a request of a higher major version is told ours.
    fn higher_version(&mut self, path: Path, datagram: &[u8]) {
        const FLAGS_AT: usize = 19;
        let flags = Flags(datagram.get(FLAGS_AT).copied().unwrap_or(0xff));
        let Some((spi_i, spi_r, message_id)) = Header::spis(datagram) else { return };
        // To an answer there is no answer.
        if flags.contains(Flags::RESPONSE) || self.is_under_load() {
            return;
        }
        let exchange = ExchangeType::from_number(datagram.get(18).copied().unwrap_or(0));
        let header = Header::v2(spi_i, spi_r, exchange, Flags::RESPONSE, message_id);
        let mut list = PayloadList::new();
        list.push(&v2::Notify::new(NotifyType::InvalidMajorVersion, &[0x20]));
        if let Ok(answer) = list.into_message(&header) {
            self.send(path, answer);
        }
    }

    fn is_under_load(&self) -> bool {
        let threshold = self.config.settings.cookie_threshold;
        threshold != 0 && self.table.half_open() >= threshold
    }

    /// The first request of a stranger (RFC 7296 §1.2, §2.6): limits first, then the cookie, then the content.
    fn first_message(
        &mut self,
        now: Instant,
        path: Path,
        message: &v2::Message<'_>,
        datagram: &[u8],
    ) {
        let header = &message.header;
        let is_first = header.exchange == ExchangeType::IkeSaInit
            && header.message_id == MessageId(0)
            && header.flags.contains(Flags::INITIATOR)
            && message.encrypted().is_none();
        if !is_first {
            self.stats.invalid_packets_received += 1;
            return;
        }
        let settings = &self.config.settings;
        let from = path.remote.ip();
        let blocked = settings.block_threshold != 0
            && self.table.half_open_from(from) >= settings.block_threshold;
        if self.shutting_down || blocked || self.table.half_open() >= settings.half_open_limit {
            self.stats.initiations_dropped += 1;
            return;
        }
        let payloads = &message.payloads;
        if self.is_under_load() && !self.has_cookie(now, path, header.spi_i, payloads) {
            return;
        }
        let config = std::sync::Arc::clone(&self.config);
        match Request::read(&config, path, header.spi_i, payloads) {
            Ok(request) => {
                let digest = digest_of(datagram);
                let mut no_spis = NoSpis;
                let spi_i = header.spi_i;
                let (head, state) = self.with_cx(now, &mut no_spis, |cx| {
                    request.accept(cx, path, spi_i, datagram, digest)
                });
                let keep_alive = self.config.settings.keep_alive;
                self.table.insert(Sa::V2(Box::new(IkeSa { head, state })), keep_alive);
            }
            Err(fault) => {
                match fault {
                    // The initiator tries again with the right group: no failure yet.
                    Fault::Incompatible(Incompatible::Group(_)) => {}
                    Fault::Incompatible(_) => self.stats.negotiation_failures += 1,
                    Fault::Invalid(_)
                    | Fault::Misbehaved(_)
                    | Fault::Authentication
                    | Fault::Refused(_)
                    | Fault::Local(_) => {
                        self.stats.invalid_packets_received += 1;
                    }
                }
                if let Some(kind) = fault.notify()
                    && let Some(answer) = respond::refusal(header.spi_i, kind, &fault.notify_data())
                {
                    self.send(path, answer);
                }
            }
        }
    }

    /// Whether a first request brings a cookie of ours; if not, it is asked for one and nothing is kept of it.
    fn has_cookie(
        &mut self,
        now: Instant,
        path: Path,
        spi_i: IkeSpi,
        payloads: &v2::Payloads<'_>,
    ) -> bool {
        let Some(nonce) = payloads.nonce() else {
            self.stats.invalid_packets_received += 1;
            return false;
        };
        let ni = nonce.data();
        let secret = self.cookies.current(now, &mut self.random);
        let cookie = secret.cookie(ni, path.remote, spi_i);
        let presented = payloads.notify(NotifyType::Cookie);
        if presented.is_some_and(|n| self.cookies.verify(n.data, ni, path.remote, spi_i)) {
            return true;
        }
        self.stats.cookies_sent += 1;
        if let Some(answer) = respond::refusal(spi_i, NotifyType::Cookie, &cookie) {
            self.send(path, answer);
        }
        false
    }

    /// An IKE SA whose keys were being computed is there: what waited for it is taken now.
    pub(crate) fn replay_parked(&mut self, now: Instant, spi: IkeSpi, spis: &mut dyn SpiSource) {
        for parked in self.table.end_larval(spi) {
            self.receive(now, parked.path, &parked.datagram, spis);
        }
    }

    pub(crate) fn queue(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }
}

/// For steps that cannot need an SPI.
pub(crate) struct NoSpis;

impl SpiSource for NoSpis {
    fn allocate(
        &mut self,
        _: core::net::IpAddr,
        _: Option<ipsec::sa::Spi>,
    ) -> Result<ipsec::sa::Spi, crate::event::SpiRefused> {
        Err(crate::event::SpiRefused)
    }

    fn release(&mut self, _: ipsec::sa::Spi) {}
}
