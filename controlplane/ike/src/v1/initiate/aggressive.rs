//! Aggressive mode as initiator (RFC 2409 §5, RFC 3947 §4): three messages, and identities in clear.
//!
//! ```text
//! HDR, SA, KE, Ni, IDii, VID…        -->
//!                                    <--  HDR, SA, KE, Nr, IDir, [CERT,] HASH_R or SIG_R, VID…, NAT-D…
//! HDR*, [CERT,] HASH_I or SIG_I, NAT-D…  -->
//! ```

use super::proof::push_contact;
use super::{Attempt, life_of, repeat, sa_of, values};
use crate::config::{Fragmentation, Identity};
use crate::context::Cx;
use crate::event::Failure;
use crate::identity::Fit;
use crate::job::{Product, Work};
use crate::message::v1::{
    Body, KeyExchange, Message, Nonce, Payload, PayloadType, Payloads, SaPayload,
};
use crate::message::{Emit, ExchangeType, Flags, Header, MessageId, PayloadList};
use crate::proposal::Proposal;
use crate::v1::phase1::{self, Beside, Phase1, Secured};
use crate::v1::sa::{State, Verified};
use crate::v1::session::Cookies;
use crate::v1::signature::{self, Own};
use crate::v1::suite::{self, Choice};
use crate::v1::vendor::{self, Abilities};
use crate::v1::{authenticate, fragment};
use crate::v2::auth::local_id;
use crate::v2::init::OwnNonce;
use crate::v2::prove::{self, Requested};
use crate::v2::sa::Head;
use crate::v2::window::{Digest, Sent};
use crate::view::Role;
use keyexchange::{Group, KeyExchangeError, PrivateKey, SharedSecret};
use std::time::Instant;
use zeroize::Zeroizing;

/// An aggressive mode that we began.
pub(crate) struct Aggressive {
    attempt: Attempt,
    /// Those of the connection with the group of our KE payload.
    proposals: Vec<Proposal>,
    /// The body of our SA payload.
    sa: Vec<u8>,
    local_id: Identity,
    /// The body of our ID payload.
    id: Vec<u8>,
    step: Step,
}

enum Step {
    /// Our key exchange value is being made.
    Keying { job: u64 },
    /// The first message is on its way.
    Asked { sent: Sent, key: Box<PrivateKey>, ni: OwnNonce },
    /// Answered; the shared secret is being computed.
    Agreeing { job: u64, answer: Box<Answer> },
    /// A signature is being checked or made, or both.
    Proving { job: u64, ready: Box<Ready>, own: Ours },
}

/// What proves who we are.
enum Ours {
    Signed(Own),
    Hash(Zeroizing<Vec<u8>>),
}

/// A second message.
struct Answer {
    phase1: Phase1,
    choice: Choice,
    abilities: Abilities,
    requested: Requested,
    /// Its payloads, which are looked at again with the keys.
    first: u8,
    payloads: Vec<u8>,
    digest: Digest,
}

/// All but the proofs.
struct Ready {
    secured: Secured,
    choice: Choice,
    abilities: Abilities,
    verified: Verified,
    digest: Digest,
}

pub(in crate::v1) fn header(head: &Head, flags: Flags) -> Header {
    Header::v1(head.spi_i, head.spi_r, ExchangeType::Aggressive, flags, MessageId(0))
}

/// The one ID payload of a message.
pub(in crate::v1) fn id_of<'a>(
    payloads: &Payloads<'a>,
) -> Option<crate::message::v1::Identification<'a>> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Identification(id) => Some(id),
        _ => None,
    })
}

/// The HASH of a message.
pub(in crate::v1) fn hash_of<'a>(payloads: &Payloads<'a>) -> Option<&'a [u8]> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Hash(hash) => Some(hash.data),
        _ => None,
    })
}

/// Begins: one group for all that is offered (RFC 2409 §5: its choice cannot be negotiated).
pub(super) fn start(head: &Head, cx: &mut Cx<'_>, attempt: Attempt) -> Option<State> {
    let usable = head.connection.proposals.iter().filter(|p| suite::usable(p));
    let usable: Vec<Proposal> = usable.cloned().collect();
    let known = |number: &u16| Group::from_number(*number).filter(|group| !group.is_kem());
    let group = usable.iter().flat_map(|p| &p.groups).find_map(known)?;
    let mut proposals: Vec<Proposal> =
        usable.into_iter().filter(|p| p.groups.contains(&group.number())).collect();
    for proposal in &mut proposals {
        proposal.groups = vec![group.number()];
    }
    let offer = [suite::offer(&proposals, attempt.method, life_of(head))];
    let sa = SaPayload { proposals: &offer }.body();
    let local_id = local_id(&head.connection, head.path);
    let id = authenticate::id_payload(&local_id)?;
    let job = cx.job(head.id, false, Work::Generate(group));
    let step = Step::Keying { job };
    Some(State::Aggressive(Box::new(Aggressive { attempt, proposals, sa, local_id, id, step })))
}

impl Aggressive {
    pub(crate) fn handle_job(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        number: u64,
        result: Result<Product, KeyExchangeError>,
    ) -> State {
        let Self { attempt, proposals, sa, local_id, id, step } = *self;
        let begun = |step| Box::new(Self { attempt, proposals, sa, local_id, id, step });
        let done = match step {
            Step::Keying { job } if job == number => match result {
                Ok(Product::Key(key)) => begun(Step::Keying { job }).ask(head, cx, key),
                _ => Err(Failure::Local),
            },
            Step::Agreeing { job, answer } if job == number => phase1::secret(cx, result)
                .and_then(|shared| begun(Step::Keying { job }).agreed(head, cx, *answer, &shared)),
            Step::Proving { job, ready, own } if job == number => match (result, own) {
                (Ok(Product::Proved(Some(made))), Ours::Signed(own)) => {
                    ready.confirm(head, cx, &attempt, |list| own.push(list, &made))
                }
                (Ok(Product::Proved(None)), Ours::Hash(hash)) => {
                    ready.confirm(head, cx, &attempt, |list| {
                        list.push_raw(PayloadType::Hash.number(), false, &hash);
                    })
                }
                (Ok(Product::Refuted(reason)), _) => {
                    prove::log(head, cx, reason);
                    Err(Failure::Authentication)
                }
                _ => Err(Failure::Local),
            },
            step => return State::Aggressive(begun(step)),
        };
        done.unwrap_or_else(|reason| attempt.failed(head, cx, reason))
    }

    fn ask(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        key: Box<PrivateKey>,
    ) -> Result<State, Failure> {
        let ni: OwnNonce = cx.random.array();
        let mut list = PayloadList::new();
        list.push_raw(PayloadType::Sa.number(), false, &self.sa);
        list.push(&KeyExchange { data: key.public() });
        list.push(&Nonce::new(&ni).map_err(|_| Failure::Local)?);
        list.push_raw(PayloadType::Identification.number(), false, &self.id);
        vendor::push_all(&mut list, &head.connection);
        signature::push_request(&mut list, cx.config, &head.connection);
        let message = list.into_message(&header(head, Flags::NONE)).map_err(|_| Failure::Local)?;
        // Before anything is known of the peer.
        head.in_pieces = head.connection.fragmentation == Fragmentation::Force;
        fragment::send(head, cx, head.path, &message);
        let sent = Sent::new(cx.now, &cx.config.settings, 0, vec![message]);
        self.step = Step::Asked { sent, key, ni };
        Ok(State::Aggressive(self))
    }

    pub(crate) fn handle(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        message: &Message<'_>,
        digest: Digest,
    ) -> State {
        if self.attempt.told(head, cx, message) {
            return State::Aggressive(self);
        }
        let Step::Asked { key, ni, .. } = &self.step else {
            cx.stats.parked_dropped += 1;
            return State::Aggressive(self);
        };
        let Some((answer, theirs)) = self.read(message, key, ni, digest, cx) else {
            // Anyone could have sent it: the true answer may still come.
            cx.stats.invalid_packets_received += 1;
            return State::Aggressive(self);
        };
        head.spi_r = message.header.spi_r;
        head.in_pieces = answer.abilities.fragments && head.connection.fragmentation.sends();
        if answer.abilities.nat_t.is_some()
            && let Ok((payloads, _)) = Payloads::parse(answer.first, &answer.payloads)
        {
            let cookies = answer.phase1.cookies;
            let (hash, forced) = (answer.choice.suite.hash, head.connection.encap);
            head.nat = vendor::detect(&payloads, hash, cookies, head.path, forced);
        }
        let sent = core::mem::replace(&mut self.step, Step::Keying { job: 0 });
        if let Step::Asked { key, .. } = sent {
            let job = cx.job(head.id, false, Work::Agree(key, theirs));
            self.step = Step::Agreeing { job, answer: Box::new(answer) };
        }
        State::Aggressive(self)
    }

    fn read(
        &self,
        message: &Message<'_>,
        key: &PrivateKey,
        ni: &OwnNonce,
        digest: Digest,
        cx: &Cx<'_>,
    ) -> Option<(Answer, Vec<u8>)> {
        let header = &message.header;
        let Body::Plain(payloads) = message.body else { return None };
        let fits = header.exchange == ExchangeType::Aggressive
            && header.message_id == MessageId(0)
            && !header.spi_r.is_zero();
        let sa = sa_of(&payloads).filter(|_| fits)?;
        let choice = suite::accepted(&self.proposals, &sa, self.attempt.method)?;
        let (ke, nr) = values(&payloads)?;
        id_of(&payloads)?;
        if ke.len() != key.group().response_len() {
            return None;
        }
        let phase1 = Phase1 {
            cookies: Cookies { i: header.spi_i, r: header.spi_r },
            sa: self.sa.clone(),
            ni: ni.to_vec(),
            nr: nr.to_vec(),
            public_i: key.public().to_vec(),
            public_r: ke.to_vec(),
        };
        let answer = Answer {
            phase1,
            choice,
            abilities: Abilities::read(&payloads),
            requested: signature::requested(cx.config, &payloads),
            first: payloads.chain().first(),
            payloads: payloads.chain().bytes().to_vec(),
            digest,
        };
        Some((answer, ke.to_vec()))
    }

    /// The keys are there: is it the peer?
    fn agreed(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        answer: Answer,
        shared: &SharedSecret,
    ) -> Result<State, Failure> {
        let Answer { phase1, choice, abilities, requested, first, payloads, digest } = answer;
        let (payloads, _) = Payloads::parse(first, &payloads).map_err(|_| Failure::Local)?;
        let id = id_of(&payloads).ok_or(Failure::Misbehaved)?;
        let remote_id = authenticate::identity(&id)
            .filter(|id| head.connection.remote.id.covers(id) != Fit::No)
            .ok_or(Failure::Authentication)?;
        let method = self.attempt.method;
        let keys = if method.is_psk() {
            let found = authenticate::psk_for(cx.config, &self.local_id, &remote_id, head.path);
            let psk = found.ok_or(Failure::Authentication)?;
            authenticate::derive(&choice.suite, psk, &phase1, shared)
        } else {
            signature::derive(&choice.suite, &phase1, shared)
        };
        let keys = keys.map_err(|_| Failure::Local)?;
        let parts = id.body();
        let theirs = keys.skeyid.hash(&phase1.of_responder(&parts)).map_err(|_| Failure::Local)?;
        let ours = keys.skeyid.hash(&phase1.of_initiator(&self.id)).map_err(|_| Failure::Local)?;
        let mut beside = Beside::read(&payloads);
        // In clear it is anybody's word.
        beside.initial_contact = false;
        let (local_id, remote) = (self.local_id.clone(), remote_id.clone());
        let verified = Verified { local_id, remote_id: remote, beside };
        super::float(head, cx);
        let (check, sign) = (method.signs(Role::Responder), method.signs(Role::Initiator));
        let mut checking = None;
        if check {
            let signed = signature::signed_by(&payloads, id).ok_or(Failure::Authentication)?;
            let connection = &head.connection;
            let work = signature::verification(
                cx, connection, method, &remote_id, &payloads, &signed, theirs,
            );
            checking = Some(Box::new(work.ok_or(Failure::Authentication)?));
        } else {
            let hash = hash_of(&payloads).ok_or(Failure::Authentication)?;
            if keys.skeyid.verify(&phase1.of_responder(&parts), hash) != Ok(true) {
                return Err(Failure::Authentication);
            }
        }
        let secured = Secured::new(&choice.suite, phase1, keys).map_err(|_| Failure::Local)?;
        let ready = Ready { secured, choice, abilities, verified, digest };
        let (signing, own) = if sign {
            let connection = &head.connection;
            let found = signature::signing(cx, connection, &self.local_id, &requested, ours);
            let Some((signing, own)) = found else {
                head.info(cx, format_args!("{}", prove::NO_KEY));
                return Err(Failure::Authentication);
            };
            (Some(Box::new(signing)), Ours::Signed(own))
        } else {
            (None, Ours::Hash(ours))
        };
        if let (None, None, Ours::Hash(hash)) = (&checking, &signing, &own) {
            return ready.confirm(head, cx, &self.attempt, |list| {
                list.push_raw(PayloadType::Hash.number(), false, hash);
            });
        }
        let job = cx.job(head.id, false, Work::Prove(checking, signing));
        self.step = Step::Proving { job, ready: Box::new(ready), own };
        Ok(State::Aggressive(self))
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.step {
            Step::Asked { sent, .. } => Some(sent.deadline()),
            Step::Keying { .. } | Step::Agreeing { .. } | Step::Proving { .. } => None,
        }
    }

    pub(crate) fn timeout(mut self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>) -> State {
        let Step::Asked { sent, .. } = &mut self.step else { return State::Aggressive(self) };
        match repeat(sent, head, cx) {
            Some(()) => State::Aggressive(self),
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

impl Ready {
    /// Sends the third message with the proof that `push` adds; there is no answer to it.
    fn confirm(
        self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        attempt: &Attempt,
        push: impl FnOnce(&mut PayloadList),
    ) -> Result<State, Failure> {
        let Self { mut secured, choice, abilities, verified, digest } = self;
        let mut list = PayloadList::new();
        push(&mut list);
        if let Some(nat_t) = abilities.nat_t {
            let (hash, faked) = (choice.suite.hash, head.connection.encap);
            let cookies = secured.phase1.cookies;
            vendor::push_detection(&mut list, nat_t, hash, cookies, head.path, faked);
        }
        push_contact(&mut list, head, cx, &verified.local_id, &head.connection.remote.id);
        let third = secured.seal(&header(head, Flags::ENCRYPTED), &list);
        let third = third.map_err(|_| Failure::Local)?;
        fragment::send(head, cx, head.path, &third);
        let mut established = secured.establish(head, cx, &choice, abilities, verified);
        established.remember_third(digest, third);
        established.came_up(head, cx, attempt.replaces);
        Ok(State::Established(Box::new(established)))
    }
}
