//! The fifth and sixth messages: proof of who the two are.

use super::{Attempt, encrypted, header, refusal, repeat};
use crate::config::{Identity, Unique};
use crate::context::Cx;
use crate::crypto::v1::Iv;
use crate::event::Failure;
use crate::identity::Fit;
use crate::job::{Product, Work};
use crate::message::v1::{Body, Message, Notify, NotifyType, Payload, PayloadType, Payloads};
use crate::message::{Emit, ExchangeType, Flags, PayloadList, ProtocolId};
use crate::v1::authenticate;
use crate::v1::fragment;
use crate::v1::phase1::{Beside, Phase1, Secured};
use crate::v1::sa::{State, Verified};
use crate::v1::session::{self, Cookies, Opened};
use crate::v1::signature::{self, Own};
use crate::v1::suite::Choice;
use crate::v1::vendor::Abilities;
use crate::v2::auth::local_id;
use crate::v2::fault::{Fault, Misbehaved};
use crate::v2::prove::{self, Requested};
use crate::v2::sa::Head;
use crate::v2::window::Sent;
use crate::view::Role;
use keyexchange::{KeyExchangeError, SharedSecret};

/// Notify types from here on are no errors (RFC 2408 §3.14.1).
const FIRST_STATUS: u16 = 16_384;

/// The signature of the fifth message is being made.
pub(crate) struct Signing {
    pub(crate) job: u64,
    fifth: Fifth,
    own: Own,
}

/// The signature of the sixth message is being checked.
pub(crate) struct Verifying {
    pub(crate) job: u64,
    sent: Box<AuthSent>,
    verified: Verified,
    next: Iv,
}

/// What the fifth message is made of, and what comes after it.
pub(super) struct Fifth {
    secured: Secured,
    choice: Choice,
    abilities: Abilities,
    attempt: Attempt,
    local_id: Identity,
    /// The body of our ID payload.
    id: Vec<u8>,
}

/// The fifth message is on its way.
pub(crate) struct AuthSent {
    pub(crate) sent: Sent,
    pub(crate) secured: Secured,
    choice: Choice,
    abilities: Abilities,
    local_id: Identity,
    attempt: Attempt,
    /// Whether the message says INITIAL-CONTACT.
    pub(crate) has_contact: bool,
}

/// Derives the keys of phase 1.
pub(super) fn begin_fifth(
    head: &Head,
    cx: &mut Cx<'_>,
    phase1: Phase1,
    choice: Choice,
    abilities: Abilities,
    attempt: Attempt,
    shared: &SharedSecret,
) -> Result<Fifth, Failure> {
    let local_id = local_id(&head.connection, head.path);
    let keys = if attempt.method.is_psk() {
        let peer = match &head.connection.remote.id {
            Identity::Any => &Identity::Address(head.path.remote.ip()),
            id => id,
        };
        let Some(psk) = authenticate::psk_for(cx.config, &local_id, peer, head.path) else {
            head.info(cx, format_args!("no preshared key for the two identities"));
            return Err(Failure::Authentication);
        };
        authenticate::derive(&choice.suite, psk, &phase1, shared)
    } else {
        signature::derive(&choice.suite, &phase1, shared)
    };
    let keys = keys.map_err(Fault::failure)?;
    let secured = Secured::new(&choice.suite, phase1, keys).map_err(|_| Failure::Local)?;
    let id = authenticate::id_payload(&local_id).ok_or(Failure::Local)?;
    Ok(Fifth { secured, choice, abilities, attempt, local_id, id })
}

impl Fifth {
    /// Sends HASH_I at once, or has it signed.
    pub(super) fn prove(
        self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        requested: &Requested,
    ) -> Result<State, Failure> {
        let Secured { phase1, keys, .. } = &self.secured;
        let hash = keys.skeyid.hash(&phase1.of_initiator(&self.id)).map_err(|_| Failure::Local)?;
        if !self.attempt.method.signs(Role::Initiator) {
            return self.send(head, cx, |list| {
                list.push_raw(PayloadType::Hash.number(), false, &hash);
            });
        }
        let found = signature::signing(cx, &head.connection, &self.local_id, requested, hash);
        let Some((signing, own)) = found else {
            head.info(cx, format_args!("{}", prove::NO_KEY));
            return Err(Failure::Authentication);
        };
        let job = cx.job(head.id, false, Work::Prove(None, Some(Box::new(signing))));
        Ok(State::Signing(Box::new(Signing { job, fifth: self, own })))
    }

    /// Sends the message with the proof that `push` adds.
    fn send(
        self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        push: impl FnOnce(&mut PayloadList),
    ) -> Result<State, Failure> {
        let Self { mut secured, choice, abilities, attempt, local_id, id } = self;
        let mut list = PayloadList::new();
        list.push_raw(PayloadType::Identification.number(), false, &id);
        push(&mut list);
        signature::push_request(&mut list, cx.config, &head.connection);
        let has_contact = push_contact(&mut list, head, cx, &local_id, &head.connection.remote.id);
        let message = secured.seal(&header(head, Flags::ENCRYPTED), &list);
        let message = message.map_err(Fault::failure)?;
        fragment::send(head, cx, head.path, &message);
        let sent = Sent::new(cx.now, &cx.config.settings, 0, vec![message]);
        let state = AuthSent { sent, secured, choice, abilities, local_id, attempt, has_contact };
        Ok(State::AuthSent(Box::new(state)))
    }
}

impl Signing {
    /// Our signature is made.
    pub(crate) fn signed(
        self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        result: Result<Product, KeyExchangeError>,
    ) -> State {
        let Self { fifth, own, .. } = self;
        let attempt = fifth.attempt;
        let sent = match result {
            Ok(Product::Proved(Some(made))) => fifth.send(head, cx, |list| own.push(list, &made)),
            _ => Err(Failure::Local),
        };
        match sent {
            Ok(state) => state,
            Err(reason) => attempt.failed(head, cx, reason),
        }
    }

    pub(crate) fn destroy(self, head: &mut Head, cx: &mut Cx<'_>, why: Failure) -> State {
        self.fifth.attempt.failed(head, cx, why)
    }
}

impl Verifying {
    /// The peer's signature is checked.
    pub(crate) fn checked(
        self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        result: Result<Product, KeyExchangeError>,
    ) -> State {
        let Self { sent, verified, next, .. } = self;
        match result {
            Ok(Product::Proved(_)) => sent.establish(head, cx, verified, next),
            Ok(Product::Refuted(reason)) => {
                prove::log(head, cx, reason);
                sent.attempt.failed(head, cx, Failure::Authentication)
            }
            _ => sent.attempt.failed(head, cx, Failure::Local),
        }
    }

    pub(crate) fn destroy(self, head: &mut Head, cx: &mut Cx<'_>, why: Failure) -> State {
        self.sent.attempt.failed(head, cx, why)
    }
}

/// INITIAL-CONTACT, with the cookies as its SPI (RFC 2407 §4.6.3.3), where we know of no other SA with the peer and none of the peer's is
/// about to be: strongSwan would end that one, and its Child SAs, when this message comes after it is up. Says whether it is there.
pub(super) fn push_contact(
    list: &mut PayloadList,
    head: &Head,
    cx: &Cx<'_>,
    local_id: &Identity,
    remote_id: &Identity,
) -> bool {
    let peer = head.path.remote.ip();
    if head.connection.unique == Unique::Never
        || cx.registry.known.has(local_id, remote_id)
        || cx.registry.callers.values().any(|caller| *caller == peer)
    {
        return false;
    }
    let spi = Cookies { i: head.spi_i, r: head.spi_r }.octets();
    list.push(&Notify {
        doi: crate::message::v1::DOI_IPSEC,
        protocol: ProtocolId::Ike,
        spi: &spi,
        kind: NotifyType::InitialContact,
        data: &[],
    });
    true
}

impl AuthSent {
    pub(crate) fn handle(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        message: &Message<'_>,
    ) -> State {
        if self.attempt.told(head, cx, message) {
            return State::AuthSent(self);
        }
        if let Some(reason) = self.refused(message) {
            let text = format_args!("{} refuses: {reason}", head.path.remote);
            head.info(cx, text);
            return self.attempt.failed(head, cx, reason);
        }
        let Some((first, ciphertext)) = encrypted(message) else {
            // An earlier answer once more, or nothing of main mode.
            cx.stats.invalid_packets_received += 1;
            return State::AuthSent(self);
        };
        let opened = self.secured.open(first, ciphertext);
        if self.attempt.method.signs(Role::Responder) {
            return self.signed(head, cx, opened);
        }
        let verdict = opened.as_ref().map(|opened| {
            let payloads = opened.payloads()?;
            self.verify(head, &payloads)
        });
        match (verdict, opened) {
            (Some(Ok(verified)), Some(opened)) => self.establish(head, cx, verified, opened.next),
            // The HASH is right and the identity is not the one that is wanted.
            (Some(Err(Fault::Authentication)), _) => {
                self.attempt.failed(head, cx, Failure::Authentication)
            }
            // Not from the peer, or made with another key: the peer's own may still come.
            _ => {
                cx.stats.invalid_packets_received += 1;
                State::AuthSent(self)
            }
        }
    }

    fn establish(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        verified: Verified,
        next: Iv,
    ) -> State {
        let Self { mut secured, choice, abilities, attempt, .. } = *self;
        secured.iv = next;
        let mut established = secured.establish(head, cx, &choice, abilities, verified);
        established.came_up(head, cx, attempt.replaces);
        State::Established(Box::new(established))
    }

    /// A notify under the keys of phase 1 that says why there is no sixth message. RFC 2409 §5.7 has it in clear before the SA is
    /// established; strongSwan protects it as soon as there are keys. Only whoever has the keys can have sent it.
    fn refused(&self, message: &Message<'_>) -> Option<Failure> {
        let Body::Encrypted { first, ciphertext } = message.body else { return None };
        if message.header.exchange != ExchangeType::InformationalV1 {
            return None;
        }
        let Secured { phase1, keys, sealer, iv } = &self.secured;
        let id = message.header.message_id;
        // After the last block of the fifth message, or of what was before it where that was not taken.
        let before = self.choice.suite.first_iv(&phase1.public_i, &phase1.public_r);
        let opened = [*iv, before].into_iter().find_map(|base| {
            let opened = sealer.open(first, ciphertext, base.phase2(sealer.hash, id))?;
            session::is_authentic(&keys.a, id, &opened).then_some(opened)
        })?;
        let payloads = opened.payloads().ok()?;
        payloads.iter().find_map(|payload| match payload {
            Payload::Notify(notify) if notify.kind.number() < FIRST_STATUS => {
                Some(refusal(notify.kind))
            }
            _ => None,
        })
    }

    /// A sixth message with a signature, which a job checks.
    fn signed(self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>, opened: Option<Opened>) -> State {
        let found = opened.as_ref().and_then(|opened| {
            let payloads = opened.payloads().ok()?;
            let signed = signature::signed(&payloads)?;
            let Secured { phase1, keys, .. } = &self.secured;
            let hash = keys.skeyid.hash(&phase1.of_responder(&signed.id.body())).ok()?;
            Some((payloads, signed, hash, opened.next))
        });
        let Some((payloads, signed, hash, next)) = found else {
            // Not from whom the keys are shared with.
            cx.stats.invalid_packets_received += 1;
            return State::AuthSent(self);
        };
        let remote_id = authenticate::identity(&signed.id)
            .filter(|id| head.connection.remote.id.covers(id) != Fit::No);
        let work = remote_id.and_then(|id| {
            let (connection, method) = (&head.connection, self.attempt.method);
            let work =
                signature::verification(cx, connection, method, &id, &payloads, &signed, hash)?;
            Some((id, work))
        });
        let Some((remote_id, work)) = work else {
            return self.attempt.failed(head, cx, Failure::Authentication);
        };
        let local_id = self.local_id.clone();
        let verified = Verified { local_id, remote_id, beside: Beside::read(&payloads) };
        let job = cx.job(head.id, false, Work::Prove(Some(Box::new(work)), None));
        State::Verifying(Box::new(Verifying { job, sent: self, verified, next }))
    }

    fn verify(&self, head: &Head, payloads: &Payloads<'_>) -> Result<Verified, Fault> {
        let proof = authenticate::proof(payloads)?;
        let parts = proof.id.body();
        let Secured { phase1, keys, .. } = &self.secured;
        if !keys.skeyid.verify(&phase1.of_responder(&parts), proof.hash)? {
            return Err(Fault::Misbehaved(Misbehaved::Missing));
        }
        let remote_id = authenticate::identity(&proof.id).ok_or(Fault::Authentication)?;
        if head.connection.remote.id.covers(&remote_id) == Fit::No {
            return Err(Fault::Authentication);
        }
        let local_id = self.local_id.clone();
        Ok(Verified { local_id, remote_id, beside: Beside::read(payloads) })
    }

    /// Whether the message says INITIAL-CONTACT and there is another SA with the peer by now, which it would end.
    fn is_outdated(&self, head: &Head, cx: &Cx<'_>) -> bool {
        self.has_contact && cx.registry.known.has(&self.local_id, &head.connection.remote.id)
    }

    pub(crate) fn timeout(mut self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>) -> State {
        if self.sent.deadline() <= cx.now && self.is_outdated(head, cx) {
            // A repeat must be the same octets (RFC 2408 §5.1), so there is another main mode instead, which does not say so.
            let attempt = self.attempt;
            return attempt
                .anew(head, cx, attempt.tries)
                .unwrap_or_else(|| attempt.failed(head, cx, Failure::Local));
        }
        match repeat(&mut self.sent, head, cx) {
            Some(()) => State::AuthSent(self),
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
