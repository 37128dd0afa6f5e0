//! Aggressive mode as responder (RFC 2409 §5): see `initiate/aggressive.rs` for the three messages.
//!
//! A stranger costs an exponentiation, and with a preshared key gets a HASH from which a weak one can be guessed. That is how the
//! exchange is made, so it is answered on connections that say `aggressive = yes` only, with preshared keys where
//! `aggressive_psk_for_anyone_to_guess` says so too, and no oftener than [`Allowance`] has it.

use super::authenticate::{self, Refused};
use super::fragment;
use super::initiate;
use super::initiate::aggressive::{hash_of, header, id_of};
use super::phase1::{self, Beside, Phase1, Secured};
use super::respond::{LONGEST_HALF_OPEN, Stored, give_notice, narrowest_first};
use super::sa::{State, Verified};
use super::session::Cookies;
use super::signature::{self, Own};
use super::suite::{self, Choice, Method};
use super::vendor::{self, Abilities};
use crate::config::{Config, Connection, Identity};
use crate::context::Cx;
use crate::crypto::v1::Iv;
use crate::event::{Failure, Path};
use crate::identity::Fit;
use crate::job::{Product, Work};
use crate::message::v1::{Body, KeyExchange, Message, Nonce, PayloadType, Payloads, SaPayload};
use crate::message::{ExchangeType, Flags, IkeSpi, MessageId, PayloadList};
use crate::v2::auth::local_id;
use crate::v2::init::OwnNonce;
use crate::v2::prove::{self, Requested};
use crate::v2::sa::{Head, Nat};
use crate::v2::window::Digest;
use crate::view::Role;
use keyexchange::{KeyExchangeError, SharedSecret};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// First messages of aggressive mode that are taken in a second, from all strangers together: each costs an
/// exponentiation, some ms of a core with MODP 2048, so that 20 of them leave most of it to others.
const IN_A_SECOND: u32 = 20;

/// How many of these are left.
#[derive(Default)]
pub(crate) struct Allowance {
    since: Option<Instant>,
    taken: u32,
}

impl Allowance {
    /// Takes one, if there is one left.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let second = Duration::from_secs(1);
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= second) {
            *self = Self { since: Some(now), taken: 0 };
        }
        let left = self.taken < IN_A_SECOND;
        self.taken = self.taken.saturating_add(u32::from(left));
        left
    }
}

/// A first message that can be answered.
pub(crate) struct Request {
    connection: Arc<Connection>,
    choice: Choice,
    abilities: Abilities,
    requested: Requested,
    sa: Vec<u8>,
    ni: Vec<u8>,
    public_i: Vec<u8>,
    local_id: Identity,
    remote_id: Identity,
    /// The body of the initiator's ID payload.
    id: Vec<u8>,
}

/// An aggressive mode that a peer began.
pub(crate) struct Answering {
    pub(crate) until: Instant,
    digest: Digest,
    request: Request,
    step: Step,
}

enum Step {
    /// Our value and the secret are being computed.
    Responding { job: u64 },
    /// Our signature is being made.
    Signing { job: u64, ready: Box<Secured>, own: Own },
    /// The first message is answered.
    Answered { stored: Stored, ready: Box<Secured> },
    /// The initiator's signature is being checked.
    Proving { job: u64, ready: Box<Secured>, third: Third },
}

/// A third message that could be read.
struct Third {
    path: Path,
    digest: Digest,
    next: Iv,
    nat: Nat,
    beside: Beside,
}

impl Request {
    /// Reads a first message and finds the connection and suite for it. `None` when there is none.
    pub(crate) fn read(config: &Config, path: Path, payloads: &Payloads<'_>) -> Option<Self> {
        let sa = initiate::sa_of(payloads)?;
        let (ke, ni) = initiate::values(payloads)?;
        let id = id_of(payloads)?;
        let remote_id = authenticate::identity(&id)?;
        let psk_too = config.settings.aggressive_psk;
        let fits = |c: &&Arc<Connection>| c.aggressive && c.remote.id.covers(&remote_id) != Fit::No;
        let (connection, choice) =
            narrowest_first(config, path).into_iter().filter(fits).find_map(|c| {
                let method = signature::method(config, c, path, Role::Responder)?;
                // Kerberos is main mode's.
                if method == Method::Kerberos {
                    return None;
                }
                let local = local_id(c, path);
                if method.is_psk()
                    && !(psk_too
                        && authenticate::psk_for(config, &local, &remote_id, path).is_some())
                {
                    return None;
                }
                let choice = suite::choose(&c.proposals, &sa, method)?;
                let fits = choice.suite.group.public_len() == ke.len();
                fits.then(|| (Arc::clone(c), choice))
            })?;
        let mut abilities = Abilities::read(payloads);
        abilities.fragments &= connection.fragmentation.accepts();
        let local_id = local_id(&connection, path);
        Some(Self {
            choice,
            abilities,
            requested: signature::requested(config, payloads),
            sa: sa.body().to_vec(),
            ni: ni.to_vec(),
            public_i: ke.to_vec(),
            local_id,
            remote_id,
            id: crate::message::Emit::body(&id),
            connection,
        })
    }

    /// Makes the half-open ISAKMP SA and begins the exponentiation.
    pub(crate) fn accept(
        self,
        cx: &mut Cx<'_>,
        path: Path,
        spi_i: IkeSpi,
        digest: Digest,
    ) -> (Head, State) {
        cx.stats.aggressive_begun += 1;
        let head = phase1::stranger(cx, path, spi_i, &self.connection, self.abilities);
        let work = Work::Respond(self.choice.suite.group, self.public_i.clone());
        let job = cx.job(head.id, false, work);
        let until = cx.now + cx.config.settings.half_open_timeout.min(LONGEST_HALF_OPEN);
        let step = Step::Responding { job };
        (head, State::Answered(Box::new(Answering { until, digest, request: self, step })))
    }
}

impl Answering {
    pub(crate) fn handle_job(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        number: u64,
        result: Result<Product, KeyExchangeError>,
    ) -> State {
        let Self { until, digest, request, step } = *self;
        let begun = |step| Box::new(Self { until, digest, request, step });
        match step {
            Step::Responding { job } if job == number => match phase1::response(cx, result) {
                Ok((public, shared)) => {
                    begun(Step::Responding { job }).agreed(head, cx, public, &shared)
                }
                Err(reason) => failed(head, cx, reason),
            },
            Step::Signing { job, ready, own } if job == number => match result {
                Ok(Product::Proved(Some(made))) => {
                    begun(Step::Responding { job }).answer(head, cx, ready, |list| {
                        own.push(list, &made);
                    })
                }
                _ => failed(head, cx, Failure::Local),
            },
            Step::Proving { job, ready, third } if job == number => {
                let (path, digest) = (third.path, third.digest);
                match result {
                    Ok(Product::Proved(_)) => {
                        begun(Step::Responding { job }).establish(head, cx, *ready, third)
                    }
                    Ok(Product::Refuted(reason)) => {
                        prove::log(head, cx, reason);
                        give_notice(head, cx, path, digest, Refused::Identity)
                    }
                    _ => give_notice(head, cx, path, digest, Refused::Library),
                }
            }
            step => State::Answered(begun(step)),
        }
    }

    fn agreed(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        public: Vec<u8>,
        shared: &SharedSecret,
    ) -> State {
        let request = &self.request;
        let suite = &request.choice.suite;
        let nr: OwnNonce = cx.random.array();
        let phase1 = Phase1 {
            cookies: Cookies { i: head.spi_i, r: head.spi_r },
            sa: request.sa.clone(),
            ni: request.ni.clone(),
            nr: nr.to_vec(),
            public_i: request.public_i.clone(),
            public_r: public,
        };
        let keys = if suite.method.is_psk() {
            let (local, remote) = (&request.local_id, &request.remote_id);
            match authenticate::psk_for(cx.config, local, remote, head.path) {
                Some(psk) => authenticate::derive(suite, psk, &phase1, shared),
                // It was there when the message came.
                None => return failed(head, cx, Failure::Authentication),
            }
        } else {
            signature::derive(suite, &phase1, shared)
        };
        let made = keys.ok().and_then(|keys| {
            let id = authenticate::id_payload(&request.local_id)?;
            let hash = keys.skeyid.hash(&phase1.of_responder(&id)).ok()?;
            Some((Secured::new(suite, phase1, keys).ok()?, hash))
        });
        let Some((ready, hash)) = made else { return failed(head, cx, Failure::Local) };
        let ready = Box::new(ready);
        if !suite.method.signs(Role::Responder) {
            return self.answer(head, cx, ready, |list| {
                list.push_raw(PayloadType::Hash.number(), false, &hash);
            });
        }
        let (connection, asked) = (&request.connection, &request.requested);
        let found = signature::signing(cx, connection, &request.local_id, asked, hash);
        let Some((signing, own)) = found else { return failed(head, cx, Failure::Local) };
        let job = cx.job(head.id, false, Work::Prove(None, Some(Box::new(signing))));
        self.step = Step::Signing { job, ready, own };
        State::Answered(self)
    }

    /// Sends the second message with the proof that `push` adds.
    fn answer(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        ready: Box<Secured>,
        push: impl FnOnce(&mut PayloadList),
    ) -> State {
        let Request { choice, abilities, local_id, .. } = &self.request;
        let mut list = PayloadList::new();
        list.push(&SaPayload { proposals: core::slice::from_ref(&choice.answer) });
        list.push(&KeyExchange { data: &ready.phase1.public_r });
        // Ours have 32 octets, which is a nonce.
        if let Ok(nonce) = Nonce::new(&ready.phase1.nr) {
            list.push(&nonce);
        }
        if let Some(id) = authenticate::id_payload(local_id) {
            list.push_raw(PayloadType::Identification.number(), false, &id);
        }
        push(&mut list);
        abilities.push(&mut list);
        if let Some(nat_t) = abilities.nat_t {
            let (hash, faked) = (choice.suite.hash, head.connection.encap);
            let cookies = ready.phase1.cookies;
            vendor::push_detection(&mut list, nat_t, hash, cookies, head.path, faked);
        }
        signature::push_request(&mut list, cx.config, &head.connection);
        phase1::push_lifetime(&mut list, head, choice.life);
        let Ok(datagram) = list.into_message(&header(head, Flags::NONE)) else {
            return failed(head, cx, Failure::Local);
        };
        fragment::send(head, cx, head.path, &datagram);
        let stored = Stored::new(self.digest, datagram);
        self.step = Step::Answered { stored, ready };
        State::Answered(self)
    }

    pub(crate) fn handle(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        path: Path,
        message: &Message<'_>,
        digest: Digest,
    ) -> State {
        let Self { until, digest: first_digest, request, step } = *self;
        let begun = |step| Box::new(Self { until, digest: first_digest, request, step });
        let Step::Answered { mut stored, ready } = step else {
            // Nothing can be read before the keys are there.
            cx.stats.parked_dropped += 1;
            return State::Answered(begun(step));
        };
        if stored.repeat(head, cx, path, &digest) {
            return State::Answered(begun(Step::Answered { stored, ready }));
        }
        let header = &message.header;
        let is_third = header.exchange == ExchangeType::Aggressive
            && header.message_id == MessageId(0)
            && header.spi_r == head.spi_r;
        if !is_third {
            // A quick mode that overtook the third message comes again.
            if header.exchange != ExchangeType::QuickMode {
                cx.stats.invalid_packets_received += 1;
            }
            return State::Answered(begun(Step::Answered { stored, ready }));
        }
        let this = begun(Step::Responding { job: 0 });
        match this.third(head, cx, path, message, digest, &ready) {
            Ok((third, None)) => this.establish(head, cx, *ready, third),
            Ok((third, Some(work))) => {
                let job = cx.job(head.id, false, work);
                let step = Step::Proving { job, ready, third };
                State::Answered(Box::new(Self { step, ..*this }))
            }
            Err(refused) => give_notice(head, cx, path, digest, refused),
        }
    }

    /// Reads a third message, which may come in clear (RFC 2409 §5); the proof of a preshared key is checked at once.
    fn third(
        &self,
        head: &Head,
        cx: &Cx<'_>,
        path: Path,
        message: &Message<'_>,
        digest: Digest,
        ready: &Secured,
    ) -> Result<(Third, Option<Work>), Refused> {
        let Secured { phase1, keys, iv, .. } = ready;
        let request = &self.request;
        let suite = &request.choice.suite;
        let opened = match message.body {
            Body::Encrypted { first, ciphertext } => {
                Some(ready.open(first, ciphertext).ok_or(Refused::Undecipherable)?)
            }
            Body::Plain(_) => None,
        };
        let (payloads, next) = match (&opened, message.body) {
            (Some(opened), _) => {
                (opened.payloads().map_err(|_| Refused::Undecipherable)?, opened.next)
            }
            (None, Body::Plain(payloads)) => (payloads, *iv),
            (None, Body::Encrypted { .. }) => return Err(Refused::Undecipherable),
        };
        let beside = Beside::read(&payloads);
        let mut nat = head.nat;
        if request.abilities.nat_t.is_some() {
            let forced = request.connection.encap;
            nat = vendor::detect(&payloads, suite.hash, phase1.cookies, path, forced);
        }
        let third = Third { path, digest, next, nat, beside };
        let parts = phase1.of_initiator(&request.id);
        if !suite.method.signs(Role::Initiator) {
            let hash = hash_of(&payloads).ok_or(Refused::Undecipherable)?;
            let right = keys.skeyid.verify(&parts, hash).map_err(|_| Refused::Library)?;
            return if right { Ok((third, None)) } else { Err(Refused::Identity) };
        }
        let hash = keys.skeyid.hash(&parts).map_err(|_| Refused::Library)?;
        let id = authenticate::id_view(&request.id).ok_or(Refused::Library)?;
        let signed = signature::signed_by(&payloads, id).ok_or(Refused::Undecipherable)?;
        let (connection, remote_id) = (&request.connection, &request.remote_id);
        let work = signature::verification(
            cx,
            connection,
            suite.method,
            remote_id,
            &payloads,
            &signed,
            hash,
        );
        let work = work.ok_or(Refused::Identity)?;
        Ok((third, Some(Work::Prove(Some(Box::new(work)), None))))
    }

    fn establish(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        mut ready: Secured,
        third: Third,
    ) -> State {
        let Third { path, digest, next, nat, beside } = third;
        let Request { choice, abilities, local_id, remote_id, connection, .. } = self.request;
        let verified = Verified { local_id, remote_id, beside };
        if authenticate::is_kept_out(cx, &connection, &verified) {
            return give_notice(head, cx, path, digest, Refused::Identity);
        }
        // The initiator may have floated to port 4500 (RFC 3947 §4).
        (head.path, head.nat) = (path, nat);
        ready.iv = next;
        let mut established = ready.establish(head, cx, &choice, abilities, verified);
        established.came_up(head, cx, None);
        State::Established(Box::new(established))
    }
}

fn failed(head: &mut Head, cx: &mut Cx<'_>, why: Failure) -> State {
    head.fail(cx, why);
    State::Gone
}
