//! Main mode as responder (RFC 2409 §5), after the endpoint has let the first message through.
//!
//! A stranger costs one entry of the half-open table and no exponentiation: that comes with its third message, which
//! only somebody can send who got our cookie where the first message claimed to come from. While half open nothing is
//! sent by a timer, and an answer is not longer than its question.

mod kerberos;

pub(crate) use kerberos::Acceptance;

use super::authenticate::{self, Authenticated, Refused};
use super::fragment;
use super::initiate::{self, clear, encrypted, header};
use super::kerberos as names;
use super::phase1::{self, Beside, Phase1, Secured};
use super::sa::{Closed, State, Verified};
use super::session::{Cookies, Sealer};
use super::signature::{self, Own};
use super::suite::{self, Choice, Method};
use super::vendor::{self, Abilities};
use crate::config::{Config, Connection};
use crate::context::Cx;
use crate::event::{Failure, Level, Path};
use crate::job::{Product, Work};
use crate::message::v1::{
    DOI_IPSEC, Message, Notify, NotifyType, PayloadType, Payloads, SaPayload,
};
use crate::message::{
    Emit, ExchangeType, Flags, Header, IkeSpi, MessageId, PayloadList, ProtocolId,
};
use crate::v2::init::OwnNonce;
use crate::v2::prove;
use crate::v2::respond::narrowness;
use crate::v2::sa::Head;
use crate::v2::window::Digest;
use crate::view::Role;
use keyexchange::{KeyExchangeError, SharedSecret};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often one question is answered again. charon asks six times; a stranger who asks more gets nothing more.
const MAX_REPEATS: u8 = 8;

/// How long a refused peer's last message is remembered: the time of charon's repeats of it, so that each refusal
/// counts once.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Longer than a day is no bound on what strangers make us hold.
pub(crate) const LONGEST_HALF_OPEN: Duration = Duration::from_secs(86_400);

/// A first message that can be answered.
pub(crate) struct Request {
    connection: Arc<Connection>,
    choice: Choice,
    abilities: Abilities,
    sa: Vec<u8>,
}

/// An answer of ours while half open.
pub(super) struct Stored {
    digest: Digest,
    datagram: Vec<u8>,
    repeats: u8,
}

impl Stored {
    pub(super) const fn new(digest: Digest, datagram: Vec<u8>) -> Self {
        Self { digest, datagram, repeats: 0 }
    }

    /// Sends the answer again if this is its question.
    pub(super) fn repeat(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        path: Path,
        digest: &Digest,
    ) -> bool {
        if self.digest != *digest {
            return false;
        }
        if self.repeats < MAX_REPEATS {
            self.repeats += 1;
            cx.stats.answers_repeated += 1;
            fragment::send(head, cx, path, &self.datagram);
        } else {
            cx.stats.invalid_packets_received += 1;
        }
        true
    }
}

/// The first message is answered.
pub(crate) struct KeyExpected {
    pub(crate) until: Instant,
    stored: Stored,
    choice: Choice,
    abilities: Abilities,
    sa: Vec<u8>,
}

/// Our value and the secret are being computed.
pub(crate) struct Answering {
    pub(crate) job: u64,
    until: Instant,
    digest: Digest,
    choice: Choice,
    abilities: Abilities,
    sa: Vec<u8>,
    ni: Vec<u8>,
    public_i: Vec<u8>,
}

/// The third message is answered.
pub(crate) struct AuthExpected {
    pub(crate) until: Instant,
    stored: Stored,
    choice: Choice,
    abilities: Abilities,
    phase1: Phase1,
    shared: SharedSecret,
}

/// The initiator's signature is being checked, and ours made.
pub(crate) struct Proving {
    pub(crate) job: u64,
    expected: Box<AuthExpected>,
    path: Path,
    digest: Digest,
    authenticated: Authenticated,
    /// With a signature of ours.
    own: Option<Own>,
}

impl Proving {
    /// The initiator's signature is checked, and ours made.
    pub(crate) fn checked(
        self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        result: Result<Product, KeyExchangeError>,
    ) -> State {
        let Self { expected, path, digest, authenticated, own, .. } = self;
        let refused = match result {
            Ok(Product::Proved(made)) => {
                let Authenticated { connection, verified, .. } = &authenticated;
                if !authenticate::is_kept_out(cx, connection, verified) {
                    let proof = own.zip(made);
                    return expected.establish(head, cx, path, authenticated, digest, proof);
                }
                Refused::Identity
            }
            Ok(Product::Refuted(reason)) => {
                prove::log(head, cx, reason);
                Refused::Identity
            }
            _ => Refused::Library,
        };
        expected.refuse(head, cx, path, digest, refused)
    }
}

impl Request {
    /// Reads a first message and finds the connection and suite for it. `None` when there is none.
    pub(crate) fn read(config: &Config, path: Path, payloads: &Payloads<'_>) -> Option<Self> {
        let sa = initiate::sa_of(payloads)?;
        let main_mode = narrowest_first(config, path).into_iter().filter(|c| !c.aggressive);
        let (connection, choice) = main_mode.into_iter().find_map(|c| {
            let method = signature::method(config, c, path, Role::Responder)?;
            if method.is_psk() && !authenticate::has_key(config, c, path) {
                return None;
            }
            let mut choice = suite::choose(&c.proposals, &sa, method)?;
            if method == Method::Kerberos {
                let name = names::principal(&c.local.id)?;
                names::name_answer(&mut choice.answer, &names::encode_name(name));
            }
            Some((Arc::clone(c), choice))
        })?;
        let mut abilities = Abilities::read(payloads);
        abilities.fragments &= connection.fragmentation.accepts();
        Some(Self { connection, choice, abilities, sa: sa.body().to_vec() })
    }

    /// Makes the half-open ISAKMP SA and answers.
    pub(crate) fn accept(
        self,
        cx: &mut Cx<'_>,
        path: Path,
        spi_i: IkeSpi,
        digest: Digest,
    ) -> Option<(Head, State)> {
        let head = phase1::stranger(cx, path, spi_i, &self.connection, self.abilities);
        let mut list = PayloadList::new();
        list.push(&SaPayload { proposals: core::slice::from_ref(&self.choice.answer) });
        self.abilities.push(&mut list);
        if self.choice.suite.method == Method::Kerberos {
            vendor::push_gss(&mut list);
        }
        let datagram = list.into_message(&header(&head, Flags::NONE)).ok()?;
        fragment::send(&head, cx, path, &datagram);
        let state = State::KeyExpected(Box::new(KeyExpected {
            until: cx.now + cx.config.settings.half_open_timeout.min(LONGEST_HALF_OPEN),
            stored: Stored::new(digest, datagram),
            choice: self.choice,
            abilities: self.abilities,
            sa: self.sa,
        }));
        Some((head, state))
    }
}

/// The IKEv1 connections for a pair of addresses, those that name the peer's address first.
pub(super) fn narrowest_first(config: &Config, path: Path) -> Vec<&Arc<Connection>> {
    let usable = |c: &&Arc<Connection>| authenticate::connects(c, path);
    let mut fitting: Vec<_> = config.connections.iter().filter(usable).collect();
    fitting.sort_by_key(|c| core::cmp::Reverse(narrowness(c)));
    fitting
}

/// A notify in clear, which tells the peer and binds nobody (RFC 2408 §4.8).
pub(crate) fn refusal(spi_i: IkeSpi, spi_r: IkeSpi, id: u32, kind: NotifyType) -> Option<Vec<u8>> {
    let exchange = ExchangeType::InformationalV1;
    let header = Header::v1(spi_i, spi_r, exchange, Flags::NONE, MessageId(id));
    let mut list = PayloadList::new();
    let protocol = ProtocolId::Ike;
    list.push(&Notify { doi: DOI_IPSEC, protocol, spi: &[], kind, data: &[] });
    list.into_message(&header).ok()
}

impl KeyExpected {
    pub(crate) fn handle(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        path: Path,
        message: &Message<'_>,
        digest: Digest,
    ) -> State {
        if self.stored.repeat(head, cx, path, &digest) {
            return State::KeyExpected(self);
        }
        let group = self.choice.suite.group;
        let payloads = clear(message).filter(|_| message.header.spi_r == head.spi_r);
        let fits = payloads.as_ref().and_then(|payloads| {
            let (ke, nonce) = initiate::values(payloads)?;
            (ke.len() == group.public_len()).then(|| (ke.to_vec(), nonce.to_vec()))
        });
        let (Some(payloads), Some((public_i, ni))) = (payloads, fits) else {
            cx.stats.invalid_packets_received += 1;
            return State::KeyExpected(self);
        };
        let Self { until, choice, abilities, sa, .. } = *self;
        if abilities.nat_t.is_some() {
            let cookies = Cookies { i: head.spi_i, r: head.spi_r };
            let forced = head.connection.encap;
            head.nat = vendor::detect(&payloads, choice.suite.hash, cookies, path, forced);
        }
        if choice.suite.method == Method::Kerberos {
            let half_open = (until, choice, abilities);
            return kerberos::begin(head, cx, &payloads, half_open, (digest, sa), (ni, public_i));
        }
        let job = cx.job(head.id, false, Work::Respond(group, public_i.clone()));
        State::Answering(Box::new(Answering {
            job,
            until,
            digest,
            choice,
            abilities,
            sa,
            ni,
            public_i,
        }))
    }
}

impl Answering {
    pub(crate) fn keyed(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        result: Result<Product, KeyExchangeError>,
    ) -> State {
        let (public, shared) = match phase1::response(cx, result) {
            Ok(found) => found,
            Err(reason) => {
                head.fail(cx, reason);
                return State::Gone;
            }
        };
        let Self { until, digest, choice, abilities, sa, ni, public_i, .. } = *self;
        let nr: OwnNonce = cx.random.array();
        let mut list = PayloadList::new();
        initiate::push_values(&mut list, head, &public, &nr, &choice, abilities);
        signature::push_request(&mut list, cx.config, &head.connection);
        let Ok(datagram) = list.into_message(&header(head, Flags::NONE)) else {
            head.fail(cx, Failure::Local);
            return State::Gone;
        };
        fragment::send(head, cx, head.path, &datagram);
        let cookies = Cookies { i: head.spi_i, r: head.spi_r };
        let phase1 = Phase1 { cookies, sa, ni, nr: nr.to_vec(), public_i, public_r: public };
        let stored = Stored::new(digest, datagram);
        State::AuthExpected(Box::new(AuthExpected {
            until,
            stored,
            choice,
            abilities,
            phase1,
            shared,
        }))
    }
}

impl AuthExpected {
    pub(crate) fn handle(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        path: Path,
        message: &Message<'_>,
        digest: Digest,
    ) -> State {
        if self.stored.repeat(head, cx, path, &digest) {
            return State::AuthExpected(self);
        }
        let Some((first, ciphertext)) = encrypted(message) else {
            // The first message once more, or what does not belong here.
            cx.stats.invalid_packets_received += 1;
            return State::AuthExpected(self);
        };
        let Phase1 { public_i, public_r, .. } = &self.phase1;
        let suite = &self.choice.suite;
        if !suite.method.is_psk() {
            return match self.signed(head, cx, path, (first, ciphertext)) {
                Ok((job, authenticated, own)) => {
                    let expected = self;
                    let state = Proving { job, expected, path, digest, authenticated, own };
                    State::Proving(Box::new(state))
                }
                Err(refused) => self.refuse(head, cx, path, digest, refused),
            };
        }
        let iv = suite.first_iv(public_i, public_r);
        let read = authenticate::fifth_message(
            cx,
            path,
            suite,
            &self.phase1,
            &self.shared,
            (first, ciphertext, iv),
        );
        match read {
            Ok(authenticated) => self.establish(head, cx, path, authenticated, digest, None),
            Err(refused) => self.refuse(head, cx, path, digest, refused),
        }
    }

    /// A fifth message where one side signs or both do: begins the job that checks what is there and makes ours.
    fn signed(
        &self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        path: Path,
        (first, ciphertext): (u8, &[u8]),
    ) -> Result<(u64, Authenticated, Option<Own>), Refused> {
        let suite = &self.choice.suite;
        let keys = signature::derive(suite, &self.phase1, &self.shared);
        let keys = keys.map_err(|_| Refused::Library)?;
        let sealer = Sealer::new(suite, &keys).map_err(|_| Refused::Library)?;
        let iv = suite.first_iv(&self.phase1.public_i, &self.phase1.public_r);
        let opened = sealer.open(first, ciphertext, iv).ok_or(Refused::Undecipherable)?;
        let payloads = opened.payloads().map_err(|_| Refused::Undecipherable)?;
        let id = initiate::aggressive::id_of(&payloads).ok_or(Refused::Undecipherable)?;
        let remote_id = authenticate::identity(&id).ok_or(Refused::Identity)?;
        let (connection, local_id) =
            signature::connection_for(cx, path, &suite.chosen(), suite.method, &remote_id)
                .ok_or(Refused::Identity)?;
        let hash = |parts: [&[u8]; 6]| keys.skeyid.hash(&parts).map_err(|_| Refused::Library);
        let theirs = id.body();
        let theirs = self.phase1.of_initiator(&theirs);
        let mut checking = None;
        if suite.method.signs(Role::Initiator) {
            let signed = signature::signed_by(&payloads, id).ok_or(Refused::Undecipherable)?;
            let (method, hash) = (suite.method, hash(theirs)?);
            let work = signature::verification(
                cx,
                &connection,
                method,
                &remote_id,
                &payloads,
                &signed,
                hash,
            );
            checking = Some(Box::new(work.ok_or(Refused::Identity)?));
        } else {
            let proof = authenticate::proof(&payloads).map_err(|_| Refused::Undecipherable)?;
            let right = keys.skeyid.verify(&theirs, proof.hash).map_err(|_| Refused::Library)?;
            if !right {
                return Err(Refused::Identity);
            }
        }
        let (mut signing, mut own) = (None, None);
        if suite.method.signs(Role::Responder) {
            let id = authenticate::id_payload(&local_id).ok_or(Refused::Library)?;
            let requested = signature::requested(cx.config, &payloads);
            let ours = hash(self.phase1.of_responder(&id))?;
            let found = signature::signing(cx, &connection, &local_id, &requested, ours);
            let (work, certificates) = found.ok_or(Refused::Identity)?;
            (signing, own) = (Some(Box::new(work)), Some(certificates));
        }
        let job = cx.job(head.id, false, Work::Prove(checking, signing));
        let verified = Verified { local_id, remote_id, beside: Beside::read(&payloads) };
        let next = opened.next;
        Ok((job, Authenticated { keys, sealer, next, verified, connection }, own))
    }

    fn establish(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        path: Path,
        authenticated: Authenticated,
        digest: Digest,
        signed: Option<(Own, Vec<u8>)>,
    ) -> State {
        let Authenticated { keys, sealer, next: iv, verified, connection } = authenticated;
        let mut secured = Secured { phase1: self.phase1, keys, sealer, iv };
        // The initiator may have floated to port 4500 (RFC 3947 §4).
        head.path = path;
        head.connection = connection;
        let mut sixth = || {
            let id = authenticate::id_payload(&verified.local_id)?;
            let mut list = PayloadList::new();
            list.push_raw(PayloadType::Identification.number(), false, &id);
            match &signed {
                Some((own, signature)) => own.push(&mut list, signature),
                None => {
                    let Secured { phase1, keys, .. } = &secured;
                    let hash = keys.skeyid.hash(&phase1.of_responder(&id)).ok()?;
                    list.push_raw(PayloadType::Hash.number(), false, &hash);
                }
            }
            phase1::push_lifetime(&mut list, head, self.choice.life);
            secured.seal(&header(head, Flags::ENCRYPTED), &list).ok()
        };
        let Some(datagram) = sixth() else {
            head.fail(cx, Failure::Local);
            return State::Gone;
        };
        fragment::send(head, cx, head.path, &datagram);
        let mut established = secured.establish(head, cx, &self.choice, self.abilities, verified);
        established.remember_sixth(digest, datagram);
        established.came_up(head, cx, None);
        State::Established(Box::new(established))
    }

    /// The peer is not who it says, or has another key (statistics.md: one invalid packet where nothing could be read).
    fn refuse(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        path: Path,
        digest: Digest,
        refused: Refused,
    ) -> State {
        give_notice(head, cx, path, digest, refused)
    }
}

/// Refuses a peer by its last message, which may come again.
pub(super) fn give_notice(
    head: &mut Head,
    cx: &mut Cx<'_>,
    path: Path,
    digest: Digest,
    refused: Refused,
) -> State {
    let (kind, failure) = match refused {
        Refused::Undecipherable => {
            cx.stats.invalid_packets_received += 1;
            (NotifyType::PayloadMalformed, Failure::Authentication)
        }
        Refused::Identity => (NotifyType::AuthenticationFailed, Failure::Authentication),
        Refused::Library => (NotifyType::AuthenticationFailed, Failure::Local),
    };
    let mode = if head.connection.aggressive { "aggressive" } else { "main" };
    let text = format!("{mode} mode from {} refused: {failure}", path.remote);
    cx.log(Level::Warn, text);
    head.fail(cx, failure);
    let id = u32::from_be_bytes(cx.random.array());
    if let Some(datagram) = refusal(head.spi_i, head.spi_r, id, kind) {
        cx.transmit(path, datagram);
    }
    State::Closed(Closed { digest, until: cx.now + REMEMBERED, failed: true })
}
