//! Main mode as initiator (RFC 2409 §5, RFC 3947 §3.2, §4).
//!
//! ```text
//! HDR, SA, VID…             -->
//!                           <--  HDR, SA, VID…
//! HDR, KE, Ni, NAT-D…       -->
//!                           <--  HDR, KE, Nr, NAT-D…
//! HDR*, IDii, HASH_I        -->
//!                           <--  HDR*, IDir, HASH_R
//! ```

pub(super) mod aggressive;
mod kerberos;
mod proof;

pub(crate) use kerberos::Negotiation;
use proof::begin_fifth;
pub(crate) use proof::{AuthSent, Signing, Verifying};

use super::fragment;
use super::kerberos as names;
use super::phase1::{self, Phase1};
use super::sa::State;
use super::session::Cookies;
use super::signature::{self};
use super::suite::{self, Choice, Life, Method};
use super::vendor::{self, Abilities};
use crate::config::Fragmentation;
use crate::context::{Cx, Effect};
use crate::event::{Failure, IkeId, Level, Path};
use crate::job::{Product, Work};
use crate::message::v1::{
    Body, KeyExchange, Message, Nonce, NotifyType, Payload, PayloadType, Payloads, SaPayload,
    SaView,
};
use crate::message::{Emit, ExchangeType, Flags, Header, IkeSpi, MessageId, PayloadList};
use crate::v2::init::OwnNonce;
use crate::v2::prove::{self, Requested};
use crate::v2::sa::{Head, Nat};
use crate::v2::window::{Due, Sent};
use crate::view::Role;
use keyexchange::{Group, KeyExchangeError, PrivateKey};
use std::time::Instant;

/// What an attempt keeps from its begin.
#[derive(Clone, Copy)]
pub(crate) struct Attempt {
    /// Which of `keyingtries` this is, from one.
    tries: u32,
    /// The ISAKMP SA whose children it takes over.
    pub(crate) replaces: Option<IkeId>,
    /// How both sides authenticate.
    method: Method,
    /// What the peer said in clear about why it does not go on: a reason to name, not one to stop.
    refusal: Option<NotifyType>,
}

/// The first message is on its way.
pub(crate) struct SaSent {
    pub(crate) sent: Sent,
    begun: Instant,
    pub(crate) sa: Vec<u8>,
    attempt: Attempt,
}

/// Our key exchange value is being made.
pub(crate) struct Keying {
    pub(crate) job: u64,
    sa: Vec<u8>,
    choice: Choice,
    abilities: Abilities,
    attempt: Attempt,
}

/// The third message is on its way.
pub(crate) struct KeySent {
    pub(crate) sent: Sent,
    key: Box<PrivateKey>,
    ni: OwnNonce,
    sa: Vec<u8>,
    choice: Choice,
    abilities: Abilities,
    attempt: Attempt,
}

/// The shared secret is being computed.
pub(crate) struct Finishing {
    pub(crate) job: u64,
    phase1: Phase1,
    choice: Choice,
    abilities: Abilities,
    requested: Requested,
    attempt: Attempt,
}

/// The lifetime of phase 1 that a connection asks for.
pub(crate) fn life_of(head: &Head) -> Life {
    let connection = &head.connection;
    let longest = connection.rekey_time.max(connection.reauth_time);
    let time = (!longest.is_zero()).then(|| longest.saturating_add(connection.over_time));
    Life { time, kilobytes: None }
}

/// Begins an ISAKMP SA.
pub(crate) fn start(
    head: &mut Head,
    cx: &mut Cx<'_>,
    tries: u32,
    replaces: Option<IkeId>,
) -> Option<State> {
    let proposals = &head.connection.proposals;
    if !proposals.iter().any(suite::usable) {
        return None;
    }
    let Some(method) = signature::method(cx.config, &head.connection, head.path, Role::Initiator)
    else {
        head.info(cx, format_args!("{}", prove::NO_KEY));
        return None;
    };
    let attempt = Attempt { tries, replaces, method, refusal: None };
    // Kerberos has more to say than three messages hold.
    if head.connection.aggressive && method != Method::Kerberos {
        return aggressive::start(head, cx, attempt);
    }
    let mut proposal = suite::offer(proposals, method, life_of(head));
    if method == Method::Kerberos {
        let name = names::principal(&head.connection.local.id)?;
        names::name_offer(&mut proposal, &names::encode_name(name));
    }
    let proposals = [proposal];
    let payload = SaPayload { proposals: &proposals };
    let sa = payload.body();
    let mut list = PayloadList::new();
    list.push(&payload);
    vendor::push_all(&mut list, &head.connection);
    if method == Method::Kerberos {
        vendor::push_gss(&mut list);
    }
    let message = list.into_message(&header(head, Flags::NONE)).ok()?;
    // Before anything is known of the peer.
    head.in_pieces = head.connection.fragmentation == Fragmentation::Force;
    fragment::send(head, cx, head.path, &message);
    let sent = Sent::new(cx.now, &cx.config.settings, 0, vec![message]);
    Some(State::SaSent(Box::new(SaSent { sent, begun: cx.now, sa, attempt })))
}

pub(super) fn header(head: &Head, flags: Flags) -> Header {
    let exchange = ExchangeType::IdentityProtection;
    Header::v1(head.spi_i, head.spi_r, exchange, flags, MessageId(0))
}

/// The payloads of a clear main mode message.
pub(super) fn clear<'a>(message: &Message<'a>) -> Option<Payloads<'a>> {
    let header = &message.header;
    let is_phase1 =
        header.exchange == ExchangeType::IdentityProtection && header.message_id == MessageId(0);
    match message.body {
        Body::Plain(payloads) if is_phase1 => Some(payloads),
        Body::Plain(_) | Body::Encrypted { .. } => None,
    }
}

/// The ciphertext of an encrypted main mode message.
pub(super) fn encrypted<'a>(message: &Message<'a>) -> Option<(u8, &'a [u8])> {
    let header = &message.header;
    let is_phase1 =
        header.exchange == ExchangeType::IdentityProtection && header.message_id == MessageId(0);
    match message.body {
        Body::Encrypted { first, ciphertext } if is_phase1 => Some((first, ciphertext)),
        Body::Plain(_) | Body::Encrypted { .. } => None,
    }
}

/// The one SA payload of a message, which is its first (RFC 2409 §5: "the SA payload MUST precede all others").
pub(super) fn sa_of<'a>(payloads: &Payloads<'a>) -> Option<SaView<'a>> {
    let mut found = payloads.iter().filter_map(|payload| match payload {
        Payload::Sa(view) => Some(view),
        _ => None,
    });
    let first = payloads.chain().iter().next()?;
    let sa = found.next()?;
    (first.number == PayloadType::Sa.number() && found.next().is_none()).then_some(sa)
}

/// KE and nonce of a message.
pub(super) fn values<'a>(payloads: &Payloads<'a>) -> Option<(&'a [u8], &'a [u8])> {
    let (mut ke, mut nonce) = (None, None);
    for payload in payloads.iter() {
        match payload {
            Payload::KeyExchange(payload) => ke = Some(payload.data),
            Payload::Nonce(payload) => nonce = Some(payload.data()),
            _ => {}
        }
    }
    Some((ke?, nonce?))
}

/// KE, nonce and NAT-D payloads.
pub(super) fn push_values(
    list: &mut PayloadList,
    head: &Head,
    public: &[u8],
    nonce: &[u8],
    choice: &Choice,
    abilities: Abilities,
) {
    list.push(&KeyExchange { data: public });
    // Ours have 32 octets, which is a nonce.
    if let Ok(nonce) = Nonce::new(nonce) {
        list.push(&nonce);
    }
    if let Some(nat_t) = abilities.nat_t {
        let cookies = Cookies { i: head.spi_i, r: head.spi_r };
        let faked = head.connection.encap;
        vendor::push_detection(list, nat_t, choice.suite.hash, cookies, head.path, faked);
    }
}

impl Attempt {
    /// The peer does not answer: `keyingtries` says how often all begins anew, with a new cookie.
    fn give_up(self, head: &mut Head, cx: &mut Cx<'_>) -> State {
        let limit = head.connection.keyingtries;
        if self.refusal.is_none() && (limit == 0 || self.tries < limit) {
            cx.stats.negotiation_failures += 1;
            if let Some(state) = self.anew(head, cx, self.tries.saturating_add(1)) {
                return state;
            }
        }
        let reason = self.refusal.map_or(Failure::Timeout, refusal);
        self.failed(head, cx, reason)
    }

    /// Begins from the first message again, with a new cookie.
    fn anew(self, head: &mut Head, cx: &mut Cx<'_>, tries: u32) -> Option<State> {
        let settings = &cx.config.settings;
        if head.path.local.port() == settings.port_nat_t {
            head.path.local.set_port(head.connection.local_port);
            head.path.remote.set_port(head.connection.remote_port);
        }
        let (old, new) = (head.spi_i, IkeSpi(cx.random.array()));
        head.spi_i = new;
        head.spi_r = IkeSpi::ZERO;
        head.nat = Nat::default();
        cx.effect(Effect::Renew { id: head.id, old, new });
        start(head, cx, tries, self.replaces)
    }

    /// The negotiation is over without an SA. One that was to replace another leaves it as it is.
    pub(super) fn failed(self, head: &mut Head, cx: &mut Cx<'_>, reason: Failure) -> State {
        if let Some(old) = self.replaces {
            cx.effect(Effect::NotReplaced(old));
        }
        head.fail(cx, reason);
        State::Gone
    }

    /// A notify in clear: anyone may have sent it, so it is only remembered.
    fn told(&mut self, head: &Head, cx: &mut Cx<'_>, message: &Message<'_>) -> bool {
        let Body::Plain(payloads) = message.body else { return false };
        if message.header.exchange != ExchangeType::InformationalV1 {
            return false;
        }
        for payload in payloads.iter() {
            if let Payload::Notify(notify) = payload
                && self.refusal.is_none()
            {
                let text = format!(
                    "IKE_SA {}[{}] {} says in clear: notify {}",
                    head.connection.name,
                    head.id.0,
                    head.path.remote,
                    notify.kind.number()
                );
                cx.log(Level::Info, text);
                self.refusal = Some(notify.kind);
            }
        }
        true
    }
}

/// What a peer's notify says of a main mode.
const fn refusal(kind: NotifyType) -> Failure {
    match kind {
        NotifyType::NoProposalChosen => Failure::NoProposal,
        NotifyType::AuthenticationFailed => Failure::Authentication,
        other => Failure::Refused(other.number()),
    }
}

/// RFC 3947 §4: with a NAT between, port 4500 from here on.
fn float(head: &mut Head, cx: &Cx<'_>) {
    if head.nat.encapsulates() {
        let settings = &cx.config.settings;
        if head.path.local.port() == settings.port {
            head.path.local.set_port(settings.port_nat_t);
        }
        if head.path.remote.port() == 500 {
            head.path.remote.set_port(4500);
        }
    }
}

/// Sends again what is due. `None` when the peer is to be given up.
fn repeat(sent: &mut Sent, head: &Head, cx: &mut Cx<'_>) -> Option<()> {
    match sent.due(cx.now, &cx.config.settings) {
        Due::NotYet => {}
        Due::Repeat(datagrams) => {
            cx.stats.retransmissions += 1;
            for datagram in datagrams {
                fragment::send(head, cx, head.path, datagram);
            }
        }
        Due::GiveUp => return None,
    }
    Some(())
}

impl SaSent {
    pub(crate) fn handle(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        path: Path,
        message: &Message<'_>,
    ) -> State {
        if self.attempt.told(head, cx, message) {
            return State::SaSent(self);
        }
        let spi_r = message.header.spi_r;
        let choice = clear(message).filter(|_| !spi_r.is_zero()).and_then(|payloads| {
            let sa = sa_of(&payloads)?;
            let choice = suite::accepted(&head.connection.proposals, &sa, self.attempt.method)?;
            Some((choice, Abilities::read(&payloads)))
        });
        let Some((choice, abilities)) = choice else {
            // Anyone could have sent it: the true answer may still come.
            cx.stats.invalid_packets_received += 1;
            return State::SaSent(self);
        };
        head.spi_r = spi_r;
        head.in_pieces = abilities.fragments && head.connection.fragmentation.sends();
        head.path.local.set_ip(path.local.ip());
        let Self { sa, attempt, .. } = *self;
        if attempt.method == Method::Kerberos {
            return kerberos::begin(head, cx, sa, choice, abilities, attempt);
        }
        let job = cx.job(head.id, false, Work::Generate(choice.suite.group));
        State::Keying(Box::new(Keying { job, sa, choice, abilities, attempt }))
    }

    /// As of IKEv2: who refuses in clear speaks IKE.
    fn is_unanswered(&self) -> bool {
        self.attempt.refusal.is_none()
    }

    pub(crate) fn deadline(&self, head: &Head) -> Instant {
        let unprotected = if self.is_unanswered() { head.unprotected_at(self.begun) } else { None };
        unprotected.map_or(self.sent.deadline(), |at| at.min(self.sent.deadline()))
    }

    pub(crate) fn timeout(mut self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>) -> State {
        if self.is_unanswered()
            && head.peer_is_silent(cx, Some(cx.now.saturating_duration_since(self.begun)))
        {
            return self.attempt.failed(head, cx, Failure::Unprotected);
        }
        match repeat(&mut self.sent, head, cx) {
            Some(()) => State::SaSent(self),
            None if self.is_unanswered() && head.peer_is_silent(cx, None) => {
                self.attempt.failed(head, cx, Failure::Unprotected)
            }
            None => self.attempt.give_up(head, cx),
        }
    }

    pub(crate) fn destroy(self, head: &mut Head, cx: &mut Cx<'_>, why: Failure) -> State {
        self.attempt.failed(head, cx, why)
    }
}

impl Keying {
    pub(crate) fn keyed(
        self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        result: Result<Product, KeyExchangeError>,
    ) -> State {
        let Self { sa, choice, abilities, attempt, .. } = self;
        let Ok(Product::Key(key)) = result else {
            return attempt.failed(head, cx, Failure::Local);
        };
        let ni: OwnNonce = cx.random.array();
        let mut list = PayloadList::new();
        push_values(&mut list, head, key.public(), &ni, &choice, abilities);
        let Ok(message) = list.into_message(&header(head, Flags::NONE)) else {
            return attempt.failed(head, cx, Failure::Local);
        };
        fragment::send(head, cx, head.path, &message);
        let sent = Sent::new(cx.now, &cx.config.settings, 0, vec![message]);
        State::KeySent(Box::new(KeySent { sent, key, ni, sa, choice, abilities, attempt }))
    }

    pub(crate) fn destroy(self, head: &mut Head, cx: &mut Cx<'_>, why: Failure) -> State {
        self.attempt.failed(head, cx, why)
    }
}

impl KeySent {
    pub(crate) fn handle(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        message: &Message<'_>,
    ) -> State {
        if self.attempt.told(head, cx, message) {
            return State::KeySent(self);
        }
        let Some(payloads) = clear(message) else {
            cx.stats.invalid_packets_received += 1;
            return State::KeySent(self);
        };
        let group: Group = self.key.group();
        // With an SA it is the answer to the first message once more.
        let fits = values(&payloads)
            .filter(|(ke, _)| ke.len() == group.response_len() && sa_of(&payloads).is_none());
        let Some((ke, nonce)) = fits else {
            cx.stats.invalid_packets_received += 1;
            return State::KeySent(self);
        };
        let Self { key, ni, sa, choice, abilities, attempt, .. } = *self;
        let cookies = Cookies { i: head.spi_i, r: head.spi_r };
        if abilities.nat_t.is_some() {
            let forced = head.connection.encap;
            head.nat = vendor::detect(&payloads, choice.suite.hash, cookies, head.path, forced);
        }
        let phase1 = Phase1 {
            cookies,
            sa,
            ni: ni.to_vec(),
            nr: nonce.to_vec(),
            public_i: key.public().to_vec(),
            public_r: ke.to_vec(),
        };
        let requested = signature::requested(cx.config, &payloads);
        let job = cx.job(head.id, false, Work::Agree(key, ke.to_vec()));
        let state = Finishing { job, phase1, choice, abilities, requested, attempt };
        State::Finishing(Box::new(state))
    }

    pub(crate) fn timeout(mut self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>) -> State {
        match repeat(&mut self.sent, head, cx) {
            Some(()) => State::KeySent(self),
            None => self.attempt.give_up(head, cx),
        }
    }

    pub(crate) fn destroy(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        why: Failure,
    ) -> State {
        self.attempt.failed(head, cx, why)
    }
}

impl Finishing {
    pub(crate) fn agreed(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        result: Result<Product, KeyExchangeError>,
    ) -> State {
        let Self { phase1, choice, abilities, requested, attempt, .. } = *self;
        let shared = match phase1::secret(cx, result) {
            Ok(shared) => shared,
            Err(reason) => return attempt.failed(head, cx, reason),
        };
        float(head, cx);
        let begun = begin_fifth(head, cx, phase1, choice, abilities, attempt, &shared)
            .and_then(|fifth| fifth.prove(head, cx, &requested));
        match begun {
            Ok(state) => state,
            Err(reason) => attempt.failed(head, cx, reason),
        }
    }

    pub(crate) fn destroy(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        why: Failure,
    ) -> State {
        self.attempt.failed(head, cx, why)
    }
}
