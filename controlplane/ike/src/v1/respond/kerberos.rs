//! Main mode by GSS-API as responder, from the third message on.
//!
//! ```text
//!  KeyExpected ─► Accepting ─job─► Keying ─job─► AuthExpected ─► Answering ─job─► Established
//!   message 3     (the ticket)     (g^xr, g^xy)  message 4 ▲      (HASH_I or a token)
//!                                                          └─ GSSr(n) ─┘
//! ```
//!
//! The ticket is looked at before the exponentiation: that costs a stranger's message no more than a symmetric
//! decryption, and most strangers have none.

use super::{REMEMBERED, Stored, refusal};
use crate::config::{Connection, Identity};
use crate::context::Cx;
use crate::event::{Failure, Level, Path};
use crate::gss::{Act, Context, Passed, Whose};
use crate::identity::Fit;
use crate::job::Work;
use crate::message::v1::{Message, NotifyType, Payload, PayloadType, Payloads};
use crate::message::{Emit, Flags, PayloadList};
use crate::proposal::Chosen;
use crate::v1::authenticate;
use crate::v1::fragment;
use crate::v1::initiate::{self, clear, encrypted, header};
use crate::v1::kerberos::{self, Said, Side, Waiting};
use crate::v1::phase1::{self, Beside, Phase1, Secured};
use crate::v1::sa::{Closed, State, Verified};
use crate::v1::session::Cookies;
use crate::v1::signature;
use crate::v1::suite::Choice;
use crate::v1::vendor::Abilities;
use crate::v2::init::OwnNonce;
use crate::v2::sa::Head;
use crate::v2::window::Digest;
use std::sync::Arc;
use std::time::Instant;

/// A responder's negotiation.
pub(crate) struct Acceptance {
    base: Base,
    step: Step,
}

struct Base {
    /// When the half-open SA is forgotten.
    until: Instant,
    choice: Choice,
    abilities: Abilities,
    /// The principal that we are, as the answer to the first message said.
    own: String,
    theirs: Side,
    ours: Side,
}

enum Step {
    /// The initiator's first token is being looked at.
    Accepting { waiting: Waiting, third: Third },
    /// Our value and the secret are being computed.
    Keying { job: u64, third: Third, passed: Box<Passed> },
    /// The third message, or one after it, is answered.
    AuthExpected {
        stored: Stored,
        talked: Box<Talked>,
        context: Box<dyn Context>,
        peer: Option<String>,
    },
    /// The mechanism has a token or HASH_I.
    Answering { waiting: Waiting, talked: Box<Talked>, path: Path, digest: Digest, last: Last },
}

/// What the third message brought.
struct Third {
    digest: Digest,
    sa: Vec<u8>,
    ni: Vec<u8>,
    public_i: Vec<u8>,
}

/// Whether HASH_I has come, and whom it makes an SA with.
enum Last {
    No,
    Yes(Verified, Arc<Connection>),
}

struct Talked {
    secured: Secured,
    /// The body of the initiator's ID payload, and what it says.
    peer_id: Option<(Vec<u8>, Option<Identity>)>,
    beside: Beside,
    /// Our ID payload has been sent.
    introduced: bool,
}

/// Goes on from the third message, whose value and nonce are there.
pub(super) fn begin(
    head: &mut Head,
    cx: &mut Cx<'_>,
    payloads: &Payloads<'_>,
    (until, choice, abilities): (Instant, Choice, Abilities),
    (digest, sa): (Digest, Vec<u8>),
    (ni, public_i): (Vec<u8>, Vec<u8>),
) -> State {
    let own = kerberos::principal(&head.connection.local.id).map(str::to_owned);
    // The answer has our name, and what we keep of the offer has theirs.
    let names = own.as_deref().map(kerberos::encode_name).zip(initiators_name(&sa, &choice));
    let token = kerberos::token_of(payloads).map(<[u8]>::to_vec);
    let (Some(own), Some((ours, theirs)), Some(token)) = (own, names, token) else {
        return refuse(head, cx, head.path, digest, Failure::Authentication);
    };
    let (ours, mut theirs) = (Side::new(ours), Side::new(theirs));
    let whose = Whose::Acceptor { own: own.clone() };
    let kept = theirs.add(&token);
    let asked = kerberos::ask(head, cx, whose, Act::Step(Some(token)), None);
    let (Some(()), Some(waiting)) = (kept, asked) else {
        return refuse(head, cx, head.path, digest, Failure::Authentication);
    };
    let base = Base { until, choice, abilities, own, theirs, ours };
    let third = Third { digest, sa, ni, public_i };
    Step::Accepting { waiting, third }.after(base)
}

/// The name in the transform of the offer that was chosen.
fn initiators_name(sa: &[u8], choice: &Choice) -> Option<Vec<u8>> {
    let view = crate::message::v1::SaView::parse(sa).ok()?;
    let number = choice.answer.transforms.first()?.number;
    let chosen = view.proposals().find(|proposal| proposal.number == choice.answer.number)?;
    let transform = chosen.transforms().find(|transform| transform.number == number)?;
    kerberos::name_of(&transform.attributes)
}

/// The connection for a principal.
fn connection_for(
    cx: &Cx<'_>,
    path: Path,
    chosen: &Chosen,
    own: &str,
    peer: &str,
) -> Option<Arc<Connection>> {
    let remote = Identity::Email(peer.to_owned());
    let mut best: Option<(Fit, &Arc<Connection>)> = None;
    for connection in &cx.config.connections {
        let usable = authenticate::connects(connection, path)
            && kerberos::is_meant(connection)
            && kerberos::principal(&connection.local.id) == Some(own)
            && connection.proposals.iter().any(|p| p.allows(chosen))
            && kerberos::allows(&connection.remote.id, peer);
        let fit = connection.remote.id.covers(&remote);
        if usable && best.is_none_or(|(known, _)| fit > known) {
            best = Some((fit, connection));
        }
    }
    best.map(|(_, connection)| Arc::clone(connection))
}

/// The peer is not who it says, or says nothing that makes sense.
fn refuse(head: &mut Head, cx: &mut Cx<'_>, path: Path, digest: Digest, why: Failure) -> State {
    cx.log(Level::Warn, format!("main mode by Kerberos from {} refused: {why}", path.remote));
    head.fail(cx, why);
    let id = u32::from_be_bytes(cx.random.array());
    let kind = NotifyType::AuthenticationFailed;
    if let Some(datagram) = refusal(head.spi_i, head.spi_r, id, kind) {
        cx.transmit(path, datagram);
    }
    State::Closed(Closed { digest, until: cx.now + REMEMBERED, failed: true })
}

impl Acceptance {
    pub(crate) fn handle(
        self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        path: Path,
        message: &Message<'_>,
        digest: Digest,
    ) -> State {
        let Self { base, step } = *self;
        match step {
            Step::AuthExpected { mut stored, talked, context, peer } => {
                if stored.repeat(head, cx, path, &digest) {
                    return Step::AuthExpected { stored, talked, context, peer }.after(base);
                }
                base.fifth(head, cx, (path, digest), message, (stored, talked, context, peer))
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
        let Self { base, step } = *self;
        match step {
            Step::Accepting { waiting, third } if waiting.job == number => {
                match kerberos::passed(head, cx, result) {
                    Ok(passed) => base.accepted(head, cx, third, passed),
                    Err(why) => refuse(head, cx, head.path, third.digest, why),
                }
            }
            Step::Keying { job, third, passed } if job == number => {
                base.fourth(head, cx, third, *passed, result)
            }
            Step::Answering { waiting, talked, path, digest, last } if waiting.job == number => {
                match kerberos::passed(head, cx, result) {
                    Ok(passed) => base.answer(head, cx, (path, digest), *talked, *passed, last),
                    Err(why) => refuse(head, cx, path, digest, why),
                }
            }
            // A result that nobody waits for any more.
            step => step.after(base),
        }
    }

    pub(crate) fn timeout(self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>) -> State {
        if self.deadline() > cx.now {
            return State::Accepting(self);
        }
        head.fail(cx, Failure::Timeout);
        State::Gone
    }

    pub(crate) fn deadline(&self) -> Instant {
        match &self.step {
            Step::Accepting { waiting, .. } | Step::Answering { waiting, .. } => {
                self.base.until.min(waiting.until)
            }
            Step::Keying { .. } | Step::AuthExpected { .. } => self.base.until,
        }
    }
}

impl Step {
    fn after(self, base: Base) -> State {
        State::Accepting(Box::new(Acceptance { base, step: self }))
    }
}

impl Base {
    /// The ticket is good, or there is more to say: now the exponentiation is worth while.
    fn accepted(self, head: &Head, cx: &mut Cx<'_>, third: Third, passed: Box<Passed>) -> State {
        let group = self.choice.suite.group;
        let job = cx.job(head.id, false, Work::Respond(group, third.public_i.clone()));
        Step::Keying { job, third, passed }.after(self)
    }

    /// Sends the fourth message.
    fn fourth(
        mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        third: Third,
        passed: Passed,
        result: Said,
    ) -> State {
        let (public, shared) = match phase1::response(cx, result) {
            Ok(found) => found,
            Err(reason) => {
                head.fail(cx, reason);
                return State::Gone;
            }
        };
        let Third { digest, sa, ni, public_i } = third;
        let Passed { context, token, peer, .. } = passed;
        // A mechanism that has nothing to answer does not prove who we are.
        if self.ours.add(&token).is_none() {
            return refuse(head, cx, head.path, digest, Failure::Local);
        }
        let nr: OwnNonce = cx.random.array();
        let mut list = PayloadList::new();
        initiate::push_values(&mut list, head, &public, &nr, &self.choice, self.abilities);
        kerberos::push_token(&mut list, &token);
        let cookies = Cookies { i: head.spi_i, r: head.spi_r };
        let phase1 = Phase1 { cookies, sa, ni, nr: nr.to_vec(), public_i, public_r: public };
        let suite = &self.choice.suite;
        let keys = signature::derive(suite, &phase1, &shared).ok();
        let secured = keys.and_then(|keys| Secured::new(suite, phase1, keys).ok());
        let datagram = list.into_message(&header(head, Flags::NONE)).ok();
        let (Some(secured), Some(datagram)) = (secured, datagram) else {
            head.fail(cx, Failure::Local);
            return State::Gone;
        };
        fragment::send(head, cx, head.path, &datagram);
        let talked = Box::new(Talked {
            secured,
            peer_id: None,
            beside: Beside::default(),
            introduced: false,
        });
        let stored = Stored { digest, datagram, repeats: 0 };
        Step::AuthExpected { stored, talked, context, peer }.after(self)
    }

    fn fifth(
        mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        (path, digest): (Path, Digest),
        message: &Message<'_>,
        (stored, mut talked, context, peer): (
            Stored,
            Box<Talked>,
            Box<dyn Context>,
            Option<String>,
        ),
    ) -> State {
        let Some((first, ciphertext)) = encrypted(message) else {
            // An earlier message once more is nothing new; anything else does not belong here.
            cx.stats.invalid_packets_received += u64::from(clear(message).is_none());
            return Step::AuthExpected { stored, talked, context, peer }.after(self);
        };
        let opened = talked.secured.open(first, ciphertext);
        let found = opened.as_ref().and_then(|opened| {
            let payloads = opened.payloads().ok()?;
            let mut hash = None;
            for payload in payloads.iter() {
                match payload {
                    Payload::Hash(payload) => hash = Some(payload.data.to_vec()),
                    Payload::Identification(id) if talked.peer_id.is_none() => {
                        talked.peer_id = Some((id.body(), authenticate::identity(&id)));
                    }
                    Payload::Notify(notify) => talked.beside.add(&notify),
                    _ => {}
                }
            }
            let said = match (hash, &peer) {
                (Some(hash), Some(peer)) => Err((hash, peer.clone())),
                (None, None) => Ok(kerberos::token_of(&payloads)?.to_vec()),
                _ => return None,
            };
            Some((opened.next, said))
        });
        let Some((next, said)) = found else {
            cx.stats.invalid_packets_received += 1;
            return refuse(head, cx, path, digest, Failure::Authentication);
        };
        talked.secured.iv = next;
        let asked = match said {
            Ok(token) => self.theirs.add(&token).and_then(|()| {
                let (whose, act) = (Whose::Known(context), Act::Step(Some(token)));
                Some((kerberos::ask(head, cx, whose, act, None)?, Last::No))
            }),
            Err((wrapped, peer)) => self.check(head, cx, path, &talked, context, wrapped, &peer),
        };
        match asked {
            Some((waiting, last)) => {
                Step::Answering { waiting, talked, path, digest, last }.after(self)
            }
            None => refuse(head, cx, path, digest, Failure::Authentication),
        }
    }

    /// HASH_I has come: has it checked and HASH_R wrapped.
    #[expect(clippy::too_many_arguments, reason = "what one message is checked against")]
    fn check(
        &self,
        head: &Head,
        cx: &mut Cx<'_>,
        path: Path,
        talked: &Talked,
        context: Box<dyn Context>,
        wrapped: Vec<u8>,
        peer: &str,
    ) -> Option<(Waiting, Last)> {
        let (id, identity) = talked.peer_id.as_ref()?;
        if !identity.as_ref().is_some_and(|id| kerberos::agrees(id, peer, path)) {
            head.info(cx, format_args!("the peer's identity is not the one of its ticket"));
            return None;
        }
        let chosen = self.choice.suite.chosen();
        let connection = connection_for(cx, path, &chosen, &self.own, peer)?;
        let Secured { keys, phase1, .. } = &talked.secured;
        let expected = self.theirs.hash_i(keys, phase1, id).ok()?;
        let own = authenticate::id_payload(&connection.local.id)?;
        let ours = self.ours.hash_r(keys, phase1, &own).ok()?;
        let verified = Verified {
            local_id: connection.local.id.clone(),
            remote_id: Identity::Email(peer.to_owned()),
            beside: talked.beside,
        };
        if authenticate::is_kept_out(cx, &connection, &verified) {
            return None;
        }
        let (whose, act) = (Whose::Known(context), Act::Verify { wrapped, expected });
        let waiting = kerberos::ask(head, cx, whose, act, Some(ours))?;
        Some((waiting, Last::Yes(verified, connection)))
    }

    /// The mechanism has spoken: sends its next token, or HASH_R, with which the SA is there.
    fn answer(
        mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        (path, digest): (Path, Digest),
        mut talked: Talked,
        passed: Passed,
        last: Last,
    ) -> State {
        let Passed { context, token, peer, wrapped } = passed;
        // The initiator may have floated to port 4500 (RFC 3947 §4).
        head.path = path;
        let mut list = PayloadList::new();
        if !talked.introduced {
            let Some(id) = authenticate::id_payload(&head.connection.local.id) else {
                return refuse(head, cx, path, digest, Failure::Local);
            };
            list.push_raw(PayloadType::Identification.number(), false, &id);
            talked.introduced = true;
        }
        match (&last, &wrapped) {
            (Last::Yes(..), Some(wrapped)) => {
                list.push_raw(PayloadType::Hash.number(), false, wrapped);
            }
            // The last token is ours, or there are more to come.
            (Last::No, None) if self.ours.add(&token).is_some() => {
                kerberos::push_token(&mut list, &token);
            }
            _ => return refuse(head, cx, path, digest, Failure::Local),
        }
        let Ok(datagram) = talked.secured.seal(&header(head, Flags::ENCRYPTED), &list) else {
            return refuse(head, cx, path, digest, Failure::Local);
        };
        fragment::send(head, cx, path, &datagram);
        match last {
            Last::No => {
                let stored = Stored { digest, datagram, repeats: 0 };
                let talked = Box::new(talked);
                Step::AuthExpected { stored, talked, context, peer }.after(self)
            }
            Last::Yes(verified, connection) => {
                head.connection = connection;
                let (choice, abilities) = (&self.choice, self.abilities);
                let mut established =
                    talked.secured.establish(head, cx, choice, abilities, verified);
                established.remember_sixth(digest, datagram);
                established.came_up(head, cx, None);
                State::Established(Box::new(established))
            }
        }
    }
}
