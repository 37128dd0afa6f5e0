//! Main mode by GSS-API as initiator, from the second message on.
//!
//! ```text
//!  SaSent ─► Keying ─job─► Asking ─job─► KeySent ─► Agreeing ─job─► Proving ─job─► AuthSent ─► Verifying ─job─► Established
//!           (our value)  (ticket, GSSi)  message 3    (g^xy)          ▲  (GSSr, wrap)  │ message 5    (HASH_R)
//!                                                                    └── GSSr(n) ─────┘
//! ```

use super::proof::push_contact;
use super::{Attempt, clear, encrypted, header, push_values, repeat, sa_of, values};
use crate::config::Identity;
use crate::context::Cx;
use crate::event::Failure;
use crate::gss::{Act, Context, Passed, Whose};
use crate::job::{Product, Work};
use crate::message::v1::{Message, Payload, PayloadType};
use crate::message::{Emit, Flags, PayloadList};
use crate::v1::authenticate;
use crate::v1::fragment;
use crate::v1::kerberos::{self, Said, Side, Waiting};
use crate::v1::phase1::{self, Beside, Phase1, Secured};
use crate::v1::sa::{State, Verified};
use crate::v1::session::Cookies;
use crate::v1::signature;
use crate::v1::suite::Choice;
use crate::v1::vendor::{self, Abilities};
use crate::v2::init::OwnNonce;
use crate::v2::sa::Head;
use crate::v2::window::Sent;
use keyexchange::{PrivateKey, SharedSecret};
use std::time::Instant;

/// An initiator's negotiation.
pub(crate) struct Negotiation {
    base: Base,
    step: Step,
}

/// What is known from the answer to the first message on.
struct Base {
    sa: Vec<u8>,
    choice: Choice,
    abilities: Abilities,
    attempt: Attempt,
    /// Whom the ticket is for.
    target: String,
    ours: Side,
    theirs: Side,
}

enum Step {
    /// Our key exchange value is being made.
    Keying { job: u64 },
    /// The ticket is being fetched and the first token made.
    Asking { waiting: Waiting, key: Box<PrivateKey> },
    /// The third message is on its way.
    KeySent { sent: Sent, key: Box<PrivateKey>, ni: OwnNonce, context: Box<dyn Context> },
    /// The shared secret is being computed.
    Agreeing { job: u64, phase1: Phase1, context: Box<dyn Context>, token: Vec<u8> },
    /// The mechanism has the peer's token.
    Proving { waiting: Waiting, talked: Box<Talked> },
    /// A token or HASH_I is on its way.
    AuthSent { sent: Sent, talked: Box<Talked>, context: Box<dyn Context>, peer: Option<String> },
    /// HASH_R is being checked.
    Verifying { waiting: Waiting, talked: Box<Talked>, verified: Verified },
}

/// What the fifth message and those after it are made of.
struct Talked {
    secured: Secured,
    local_id: Identity,
    /// The body of our ID payload.
    id: Vec<u8>,
    /// Our ID payload has been sent.
    introduced: bool,
    /// The body of the peer's.
    peer_id: Option<Vec<u8>>,
    peer: Option<Identity>,
    beside: Beside,
}

/// Goes on from the second message.
pub(super) fn begin(
    head: &mut Head,
    cx: &mut Cx<'_>,
    sa: Vec<u8>,
    choice: Choice,
    abilities: Abilities,
    attempt: Attempt,
) -> State {
    // The peer's name in its answer is whatever somebody wrote there: where the configuration names one, that is whom
    // the ticket is for.
    let named = kerberos::name_in(&choice.answer);
    let offered = named.as_deref().and_then(kerberos::decode_name);
    let remote = &head.connection.remote.id;
    let target = match kerberos::principal(remote).filter(|name| !name.starts_with('*')) {
        Some(name) => Some(name.to_owned()),
        None => offered.filter(|name| kerberos::allows(remote, name)),
    };
    let own = kerberos::principal(&head.connection.local.id).map(kerberos::encode_name);
    let (Some(theirs), Some(target), Some(own)) = (named, target, own) else {
        head.info(cx, format_args!("the peer's Kerberos name is not one that is wanted"));
        return attempt.failed(head, cx, Failure::Authentication);
    };
    let job = cx.job(head.id, false, Work::Generate(choice.suite.group));
    let (ours, theirs) = (Side::new(own), Side::new(theirs));
    let base = Base { sa, choice, abilities, attempt, target, ours, theirs };
    State::Kerberos(Box::new(Negotiation { base, step: Step::Keying { job } }))
}

impl Negotiation {
    pub(crate) fn handle(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        message: &Message<'_>,
    ) -> State {
        let Self { mut base, step } = *self;
        if matches!(step, Step::KeySent { .. } | Step::AuthSent { .. })
            && base.attempt.told(head, cx, message)
        {
            return step.after(base);
        }
        match step {
            Step::KeySent { sent, key, ni, context } => {
                base.fourth(head, cx, message, (sent, key, ni, context))
            }
            Step::AuthSent { sent, talked, context, peer } => {
                base.sixth(head, cx, message, (sent, talked, context, peer))
            }
            step => {
                cx.stats.parked_dropped += 1;
                step.after(base)
            }
        }
    }

    pub(crate) fn job_done(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        number: u64,
        result: Said,
    ) -> State {
        let Self { mut base, step } = *self;
        let attempt = base.attempt;
        let done = match step {
            Step::Keying { job } if job == number => base.asking(head, cx, result),
            Step::Asking { waiting, key } if waiting.job == number => {
                base.third(head, cx, key, result)
            }
            Step::Agreeing { job, phase1, context, token } if job == number => {
                base.secure(head, cx, phase1, context, token, result)
            }
            Step::Proving { waiting, talked } if waiting.job == number => {
                base.prove(head, cx, talked, result)
            }
            Step::Verifying { waiting, talked, verified } if waiting.job == number => {
                match kerberos::passed(head, cx, result) {
                    Ok(_) => return base.establish(head, cx, *talked, verified),
                    Err(reason) => Err(reason),
                }
            }
            // A result that nobody waits for any more.
            step => Ok(step),
        };
        match done {
            Ok(step) => step.after(base),
            Err(reason) => attempt.failed(head, cx, reason),
        }
    }

    pub(crate) fn timeout(self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>) -> State {
        let Self { base, mut step } = *self;
        let over = match &mut step {
            Step::KeySent { sent, .. } | Step::AuthSent { sent, .. } => {
                if repeat(sent, head, cx).is_none() {
                    return base.attempt.give_up(head, cx);
                }
                false
            }
            Step::Asking { waiting, .. }
            | Step::Proving { waiting, .. }
            | Step::Verifying { waiting, .. } => waiting.until <= cx.now,
            Step::Keying { .. } | Step::Agreeing { .. } => false,
        };
        if over {
            head.info(cx, format_args!("Kerberos gave no answer in time"));
            return base.attempt.failed(head, cx, Failure::Timeout);
        }
        step.after(base)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.step {
            Step::KeySent { sent, .. } | Step::AuthSent { sent, .. } => Some(sent.deadline()),
            Step::Asking { waiting, .. }
            | Step::Proving { waiting, .. }
            | Step::Verifying { waiting, .. } => Some(waiting.until),
            Step::Keying { .. } | Step::Agreeing { .. } => None,
        }
    }

    pub(crate) fn destroy(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        why: Failure,
    ) -> State {
        self.base.attempt.failed(head, cx, why)
    }
}

impl Step {
    fn after(self, base: Base) -> State {
        State::Kerberos(Box::new(Negotiation { base, step: self }))
    }
}

impl Base {
    /// Our value is made: the ticket comes next.
    fn asking(&self, head: &Head, cx: &mut Cx<'_>, result: Said) -> Result<Step, Failure> {
        let Ok(Product::Key(key)) = result else { return Err(Failure::Local) };
        let own = kerberos::principal(&head.connection.local.id).ok_or(Failure::Local)?.to_owned();
        let whose = Whose::Initiator { own, target: self.target.clone() };
        let waiting =
            kerberos::ask(head, cx, whose, Act::Step(None), None).ok_or(Failure::Local)?;
        Ok(Step::Asking { waiting, key })
    }

    /// The first token is there: sends the third message.
    fn third(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        key: Box<PrivateKey>,
        result: Said,
    ) -> Result<Step, Failure> {
        let Passed { context, token, peer, .. } = *kerberos::passed(head, cx, result)?;
        // Complete after one token, it would prove nothing about the peer.
        if peer.is_some() {
            return Err(Failure::Local);
        }
        self.ours.add(&token).ok_or(Failure::Local)?;
        let ni: OwnNonce = cx.random.array();
        let mut list = PayloadList::new();
        push_values(&mut list, head, key.public(), &ni, &self.choice, self.abilities);
        kerberos::push_token(&mut list, &token);
        let message = list.into_message(&header(head, Flags::NONE)).map_err(|_| Failure::Local)?;
        fragment::send(head, cx, head.path, &message);
        let sent = Sent::new(cx.now, &cx.config.settings, 0, vec![message]);
        Ok(Step::KeySent { sent, key, ni, context })
    }

    fn fourth(
        mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        message: &Message<'_>,
        (sent, key, ni, context): (Sent, Box<PrivateKey>, OwnNonce, Box<dyn Context>),
    ) -> State {
        let payloads = clear(message);
        // The answer to the first message once more.
        let repeated = payloads.as_ref().is_some_and(|payloads| sa_of(payloads).is_some());
        let length = key.group().response_len();
        let found = payloads.as_ref().filter(|_| !repeated).and_then(|payloads| {
            let (ke, nonce) = values(payloads).filter(|(ke, _)| ke.len() == length)?;
            let token = kerberos::token_of(payloads)?;
            self.theirs.add(token)?;
            Some((payloads, ke, nonce, token.to_vec()))
        });
        let Some((payloads, ke, nonce, token)) = found else {
            cx.stats.invalid_packets_received += u64::from(!repeated);
            return Step::KeySent { sent, key, ni, context }.after(self);
        };
        let cookies = Cookies { i: head.spi_i, r: head.spi_r };
        if self.abilities.nat_t.is_some() {
            let (hash, forced) = (self.choice.suite.hash, head.connection.encap);
            head.nat = vendor::detect(payloads, hash, cookies, head.path, forced);
        }
        let phase1 = Phase1 {
            cookies,
            sa: core::mem::take(&mut self.sa),
            ni: ni.to_vec(),
            nr: nonce.to_vec(),
            public_i: key.public().to_vec(),
            public_r: ke.to_vec(),
        };
        let job = cx.job(head.id, false, Work::Agree(key, ke.to_vec()));
        Step::Agreeing { job, phase1, context, token }.after(self)
    }

    /// The shared secret is there: derives the keys and gives the mechanism the peer's token.
    fn secure(
        &self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        phase1: Phase1,
        context: Box<dyn Context>,
        token: Vec<u8>,
        result: Said,
    ) -> Result<Step, Failure> {
        let shared = phase1::secret(cx, result)?;
        super::float(head, cx);
        let talked = self.talked(head, phase1, &shared)?;
        self.go_on(head, cx, talked, context, token)
    }

    fn talked(
        &self,
        head: &Head,
        phase1: Phase1,
        shared: &SharedSecret,
    ) -> Result<Box<Talked>, Failure> {
        let suite = &self.choice.suite;
        let keys = signature::derive(suite, &phase1, shared).map_err(|_| Failure::Local)?;
        let secured = Secured::new(suite, phase1, keys).map_err(|_| Failure::Local)?;
        let local_id = head.connection.local.id.clone();
        let id = authenticate::id_payload(&local_id).ok_or(Failure::Local)?;
        Ok(Box::new(Talked {
            secured,
            local_id,
            id,
            introduced: false,
            peer_id: None,
            peer: None,
            beside: Beside::default(),
        }))
    }

    /// The mechanism takes a token, and HASH_I where that was the last.
    fn go_on(
        &self,
        head: &Head,
        cx: &mut Cx<'_>,
        talked: Box<Talked>,
        context: Box<dyn Context>,
        token: Vec<u8>,
    ) -> Result<Step, Failure> {
        let hash = self.ours.hash_i(&talked.secured.keys, &talked.secured.phase1, &talked.id);
        let hash = hash.map_err(|_| Failure::Local)?;
        let (whose, act) = (Whose::Known(context), Act::Step(Some(token)));
        let waiting = kerberos::ask(head, cx, whose, act, Some(hash)).ok_or(Failure::Local)?;
        Ok(Step::Proving { waiting, talked })
    }

    /// The mechanism has spoken: sends its next token or HASH_I.
    fn prove(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        mut talked: Box<Talked>,
        result: Said,
    ) -> Result<Step, Failure> {
        let Passed { context, token, peer, wrapped } = *kerberos::passed(head, cx, result)?;
        let mut list = PayloadList::new();
        if !talked.introduced {
            list.push_raw(PayloadType::Identification.number(), false, &talked.id);
        }
        match (&peer, &wrapped) {
            (Some(peer), Some(wrapped)) => {
                if *peer != self.target || !kerberos::allows(&head.connection.remote.id, peer) {
                    head.info(cx, format_args!("the ticket is for another than is wanted"));
                    return Err(Failure::Authentication);
                }
                list.push_raw(PayloadType::Hash.number(), false, wrapped);
                let remote = Identity::Email(peer.clone());
                push_contact(&mut list, head, cx, &talked.local_id, &remote);
            }
            (None, None) => {
                self.ours.add(&token).ok_or(Failure::Local)?;
                kerberos::push_token(&mut list, &token);
            }
            // The last token would be ours.
            _ => {
                head.info(cx, format_args!("a mechanism with an odd number of tokens"));
                return Err(Failure::Local);
            }
        }
        let sealed = talked.secured.seal(&header(head, Flags::ENCRYPTED), &list);
        let message = sealed.map_err(|_| Failure::Local)?;
        talked.introduced = true;
        fragment::send(head, cx, head.path, &message);
        let sent = Sent::new(cx.now, &cx.config.settings, 0, vec![message]);
        Ok(Step::AuthSent { sent, talked, context, peer })
    }

    fn sixth(
        mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        message: &Message<'_>,
        (sent, mut talked, context, peer): (Sent, Box<Talked>, Box<dyn Context>, Option<String>),
    ) -> State {
        let Some((first, ciphertext)) = encrypted(message) else {
            // An earlier answer once more is nothing new.
            cx.stats.invalid_packets_received += u64::from(clear(message).is_none());
            return Step::AuthSent { sent, talked, context, peer }.after(self);
        };
        let opened = talked.secured.open(first, ciphertext);
        let found = opened.as_ref().and_then(|opened| {
            let payloads = opened.payloads().ok()?;
            let mut hash = None;
            for payload in payloads.iter() {
                match payload {
                    Payload::Hash(payload) => hash = Some(payload.data.to_vec()),
                    Payload::Identification(id) if talked.peer_id.is_none() => {
                        talked.peer = authenticate::identity(&id);
                        talked.peer_id = Some(id.body());
                    }
                    Payload::Notify(notify) => talked.beside.add(&notify),
                    _ => {}
                }
            }
            match (hash, &peer) {
                (Some(hash), Some(_)) => Some((opened.next, Err(hash))),
                (None, None) => {
                    let token = kerberos::token_of(&payloads)?;
                    self.theirs.add(token)?;
                    Some((opened.next, Ok(token.to_vec())))
                }
                _ => None,
            }
        });
        let Some((next, said)) = found else {
            // Not from whom the keys are shared with, or not what comes next.
            cx.stats.invalid_packets_received += 1;
            return Step::AuthSent { sent, talked, context, peer }.after(self);
        };
        talked.secured.iv = next;
        let done = match said {
            Ok(token) => self.go_on(head, cx, talked, context, token),
            Err(hash) => self.verify(head, cx, talked, context, peer.unwrap_or_default(), hash),
        };
        match done {
            Ok(step) => step.after(self),
            Err(reason) => self.attempt.failed(head, cx, reason),
        }
    }

    /// HASH_R has come.
    fn verify(
        &self,
        head: &Head,
        cx: &mut Cx<'_>,
        talked: Box<Talked>,
        context: Box<dyn Context>,
        peer: String,
        wrapped: Vec<u8>,
    ) -> Result<Step, Failure> {
        let agrees = |id: &Identity| kerberos::agrees(id, &peer, head.path);
        let (Some(id), true) = (&talked.peer_id, talked.peer.as_ref().is_some_and(agrees)) else {
            head.info(cx, format_args!("the peer's identity is not the one of its ticket"));
            return Err(Failure::Authentication);
        };
        let expected = self.theirs.hash_r(&talked.secured.keys, &talked.secured.phase1, id);
        let expected = expected.map_err(|_| Failure::Local)?;
        let (whose, act) = (Whose::Known(context), Act::Verify { wrapped, expected });
        let waiting = kerberos::ask(head, cx, whose, act, None).ok_or(Failure::Local)?;
        let verified = Verified {
            local_id: talked.local_id.clone(),
            remote_id: Identity::Email(peer),
            beside: talked.beside,
        };
        Ok(Step::Verifying { waiting, talked, verified })
    }

    fn establish(
        self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        talked: Talked,
        verified: Verified,
    ) -> State {
        let Self { choice, abilities, attempt, .. } = self;
        let mut established = talked.secured.establish(head, cx, &choice, abilities, verified);
        established.came_up(head, cx, attempt.replaces);
        State::Established(Box::new(established))
    }
}
