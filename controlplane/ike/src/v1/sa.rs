//! An ISAKMP SA: its states, and the dispatch of inputs to them.

use super::aggressive;
use super::established::Established;
use super::fragment::{self, Assembling, Pieces, Standing};
use super::initiate::aggressive::Aggressive;
use super::initiate::{
    AuthSent, Finishing, KeySent, Keying, Negotiation, SaSent, Signing, Verifying,
};
use super::phase1::Beside;
use super::respond::{Acceptance, Answering, AuthExpected, KeyExpected, Proving};
use crate::config::Identity;
use crate::context::{Cx, Installing, Registry};
use crate::event::{Failure, InstallId, InstallRefused, Outcome, Path, RequestId};
use crate::job::Product;
use crate::message::Header;
use crate::message::v1::{Fragment, Message};
use crate::v2::sa::Head;
use crate::v2::window::Digest;
use keyexchange::KeyExchangeError;
use std::time::{Duration, Instant};

/// Who is at the two ends, once it is proven.
pub(crate) struct Verified {
    pub(crate) local_id: Identity,
    pub(crate) remote_id: Identity,
    pub(crate) beside: Beside,
}

/// The states in the order of a negotiation.
pub(crate) enum State {
    /// Responder: a stranger's first message comes in pieces.
    Assembling(Assembling),
    /// Initiator of aggressive mode, until it is over.
    Aggressive(Box<Aggressive>),
    /// Responder of aggressive mode, until it is over.
    Answered(Box<aggressive::Answering>),
    /// Initiator: the first message is on its way.
    SaSent(Box<SaSent>),
    /// Initiator: our key exchange value is being made.
    Keying(Box<Keying>),
    /// Initiator: the third message is on its way.
    KeySent(Box<KeySent>),
    /// Initiator: the shared secret is being computed.
    Finishing(Box<Finishing>),
    /// Initiator: the signature of the fifth message is being made.
    Signing(Box<Signing>),
    /// Initiator: the fifth message is on its way.
    AuthSent(Box<AuthSent>),
    /// Initiator: the signature of the sixth message is being checked.
    Verifying(Box<Verifying>),
    /// Initiator: the second message chose GSS-API.
    Kerberos(Box<Negotiation>),
    /// Responder: the first message is answered.
    KeyExpected(Box<KeyExpected>),
    /// Responder: our value and the secret are being computed.
    Answering(Box<Answering>),
    /// Responder: the third message is answered.
    AuthExpected(Box<AuthExpected>),
    /// Responder: the signature of the fifth message is being checked and ours made.
    Proving(Box<Proving>),
    /// Responder: the third message brought a GSS-API token.
    Accepting(Box<Acceptance>),
    /// Both.
    Established(Box<Established>),
    /// Refused or deleted; remembered for repeats of the last message.
    Closed(Closed),
    /// To be forgotten.
    Gone,
}

/// An ISAKMP SA that ended by a message of the peer, which may come again.
pub(crate) struct Closed {
    pub(crate) digest: Digest,
    pub(crate) until: Instant,
    /// Whether it failed (and still is an entry of the ISADB) or was deleted in order.
    pub(crate) failed: bool,
}

/// An ISAKMP SA.
pub(crate) struct IsakmpSa {
    pub(crate) head: Head,
    pub(crate) state: State,
    /// Of the message that comes in pieces.
    pub(crate) pieces: Pieces,
    /// Which of several ISAKMP SAs came when.
    pub(crate) order: Order,
}

/// Where a main mode is in the order of everything (`Registry::moment`).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Order {
    /// When it began.
    pub(crate) begun: u64,
    /// The same by the clock, to tell what came after it.
    pub(crate) begun_at: Option<Instant>,
    /// The last pair that there was then.
    pub(crate) last_pair: u64,
    /// When our last message of it was sent, after which the peer has it: the order in which it was so for several is the order in
    /// which they came up at the peer.
    pub(crate) last_said: u64,
}

impl Order {
    pub(crate) fn begin(now: Instant, registry: &mut Registry) -> Self {
        Self {
            begun: registry.moment.next(),
            begun_at: Some(now),
            last_pair: registry.pair.last(),
            last_said: 0,
        }
    }
}

impl IsakmpSa {
    pub(crate) fn new(head: Head, state: State) -> Self {
        Self { head, state, pieces: Pieces::default(), order: Order::default() }
    }

    /// Takes a piece of a message with this SA's cookies; returns the whole message with its digest once it is there.
    pub(crate) fn take_piece(
        &mut self,
        cx: &mut Cx<'_>,
        header: &Header,
        piece: &Fragment<'_>,
    ) -> Option<(Vec<u8>, Digest)> {
        let standing = match &self.state {
            State::Closed(_) | State::Gone => return None,
            State::Established(_) => Standing::Proven,
            _ if header.spi_r.is_zero() => Standing::Stranger,
            _ => Standing::Unproven,
        };
        let whole = fragment::assemble(&mut self.pieces, &self.head, cx, piece, standing);
        if whole.is_some() && matches!(self.state, State::Assembling(_)) {
            // The message makes its own entry.
            self.state = State::Gone;
        }
        whole
    }

    /// Takes a message whose cookies are this SA's. `digest` is the datagram's.
    pub(crate) fn handle_message(
        &mut self,
        cx: &mut Cx<'_>,
        path: Path,
        message: &Message<'_>,
        digest: Digest,
    ) {
        let head = &mut self.head;
        self.state = match core::mem::replace(&mut self.state, State::Gone) {
            State::Aggressive(state) => state.handle(head, cx, message, digest),
            State::Answered(state) => state.handle(head, cx, path, message, digest),
            State::SaSent(state) => state.handle(head, cx, path, message),
            State::KeySent(state) => state.handle(head, cx, message),
            State::AuthSent(state) => state.handle(head, cx, message),
            State::Kerberos(state) => state.handle(head, cx, message),
            State::Accepting(state) => state.handle(head, cx, path, message, digest),
            State::KeyExpected(state) => state.handle(head, cx, path, message, digest),
            State::AuthExpected(state) => state.handle(head, cx, path, message, digest),
            State::Established(state) => state.handle(head, cx, path, message, digest),
            state @ State::Assembling(_) => {
                cx.stats.invalid_packets_received += 1;
                state
            }
            State::Closed(state) => {
                if state.digest != digest {
                    cx.stats.invalid_packets_received += 1;
                }
                State::Closed(state)
            }
            // Nothing can be read before the keys are there; the peer repeats what matters.
            state @ (State::Keying(_)
            | State::Finishing(_)
            | State::Answering(_)
            | State::Signing(_)
            | State::Verifying(_)
            | State::Proving(_)
            | State::Gone) => {
                cx.stats.parked_dropped += 1;
                state
            }
        };
    }

    /// A job of this SA is done.
    pub(crate) fn handle_job(
        &mut self,
        cx: &mut Cx<'_>,
        number: u64,
        result: Result<Product, KeyExchangeError>,
    ) {
        let head = &mut self.head;
        self.state = match core::mem::replace(&mut self.state, State::Gone) {
            State::Aggressive(state) => state.handle_job(head, cx, number, result),
            State::Answered(state) => state.handle_job(head, cx, number, result),
            State::Keying(state) if state.job == number => state.keyed(head, cx, result),
            State::Finishing(state) if state.job == number => state.agreed(head, cx, result),
            State::Answering(state) if state.job == number => state.keyed(head, cx, result),
            State::Signing(state) if state.job == number => state.signed(head, cx, result),
            State::Verifying(state) if state.job == number => state.checked(head, cx, result),
            State::Proving(state) if state.job == number => state.checked(head, cx, result),
            State::Kerberos(state) => state.job_done(head, cx, number, result),
            State::Accepting(state) => state.job_done(head, cx, number, result),
            State::Established(mut state) => {
                state.job_done(head, cx, number, result);
                State::Established(state)
            }
            // A result that nobody waits for any more.
            other => other,
        };
    }

    pub(crate) fn handle_timeout(&mut self, cx: &mut Cx<'_>) {
        let head = &mut self.head;
        self.state = match core::mem::replace(&mut self.state, State::Gone) {
            State::Aggressive(state) => state.timeout(head, cx),
            State::Answered(state) if state.until <= cx.now => {
                head.fail(cx, Failure::Timeout);
                State::Gone
            }
            State::SaSent(state) => state.timeout(head, cx),
            State::KeySent(state) => state.timeout(head, cx),
            State::AuthSent(state) => state.timeout(head, cx),
            State::Kerberos(state) => state.timeout(head, cx),
            State::Accepting(state) => state.timeout(head, cx),
            // No word from where the first message said it came from: like an IKEv2 cookie that nobody returned.
            State::Assembling(state) if state.until <= cx.now => State::Gone,
            State::KeyExpected(state) if state.until <= cx.now => State::Gone,
            State::AuthExpected(state) if state.until <= cx.now => {
                head.fail(cx, Failure::Timeout);
                State::Gone
            }
            State::Established(state) => state.timeout(head, cx),
            State::Closed(state) if state.until <= cx.now => State::Gone,
            other => other,
        };
    }

    /// Begins what waits.
    pub(crate) fn pump(&mut self, cx: &mut Cx<'_>) {
        self.note_order(cx);
        self.note_caller(cx);
        if matches!(self.state, State::Established(_)) {
            let head = &mut self.head;
            if let State::Established(state) = core::mem::replace(&mut self.state, State::Gone) {
                self.state = state.pump(head, cx);
            }
        }
    }

    /// The last word of an initiator of main mode is the fifth message; of everybody else it comes as the SA does.
    fn note_order(&mut self, cx: &mut Cx<'_>) {
        let last_said = &mut self.order.last_said;
        match &self.state {
            // All begins anew, with other cookies.
            State::SaSent(_) if *last_said != 0 => self.order = Order::begin(cx.now, cx.registry),
            State::SaSent(_) => {}
            State::AuthSent(_) if *last_said == 0 => *last_said = cx.registry.moment.next(),
            State::Established(state) if *last_said == 0 => *last_said = state.since,
            _ => {}
        }
    }

    /// A peer that sent a third message has our cookie, and is about to have an SA with us.
    fn note_caller(&self, cx: &mut Cx<'_>) {
        let calls = matches!(
            self.state,
            State::Answering(_) | State::AuthExpected(_) | State::Accepting(_) | State::Proving(_)
        );
        if calls {
            cx.registry.callers.insert(self.head.id, self.head.path.remote.ip());
        } else {
            cx.registry.callers.remove(&self.head.id);
        }
    }

    pub(crate) fn handle_installed(
        &mut self,
        cx: &mut Cx<'_>,
        id: InstallId,
        installing: &Installing,
        result: Result<(), InstallRefused>,
    ) {
        if let State::Established(state) = &mut self.state {
            state.installed(&mut self.head, cx, id, installing, result);
        }
    }

    /// Ends the SA without telling the peer.
    pub(crate) fn destroy(&mut self, cx: &mut Cx<'_>, reason: Failure) {
        let head = &mut self.head;
        self.state = match core::mem::replace(&mut self.state, State::Gone) {
            State::Aggressive(state) => state.destroy(head, cx, reason),
            State::SaSent(state) => state.destroy(head, cx, reason),
            State::Keying(state) => state.destroy(head, cx, reason),
            State::KeySent(state) => state.destroy(head, cx, reason),
            State::Finishing(state) => state.destroy(head, cx, reason),
            State::Signing(state) => state.destroy(head, cx, reason),
            State::AuthSent(state) => state.destroy(head, cx, reason),
            State::Verifying(state) => state.destroy(head, cx, reason),
            State::Kerberos(state) => state.destroy(head, cx, reason),
            State::Established(state) => state.destroy(head, cx, reason),
            state @ (State::Closed(_) | State::Gone) => state,
            State::Assembling(_) => State::Gone,
            State::Answered(_)
            | State::KeyExpected(_)
            | State::Answering(_)
            | State::AuthExpected(_)
            | State::Accepting(_)
            | State::Proving(_) => {
                head.fail(cx, reason);
                State::Gone
            }
        };
    }

    /// An operator ends the SA. The peer is told; there is no answer to wait for (RFC 2408 §5.15).
    pub(crate) fn terminate(&mut self, cx: &mut Cx<'_>, tag: Option<RequestId>) {
        let head = &mut self.head;
        let done = Ok(Outcome { matched: 1, ike: Some(head.id), pair: None });
        match core::mem::replace(&mut self.state, State::Gone) {
            State::Established(state) => {
                self.state = state.delete(head, cx, Failure::Terminated);
            }
            state => {
                self.state = state;
                self.destroy(cx, Failure::Terminated);
            }
        }
        cx.tag_done(tag, done);
    }

    /// When [`IsakmpSa::handle_timeout`] has something to do.
    pub(crate) fn deadline(&self, keep_alive: Duration) -> Option<Instant> {
        match &self.state {
            State::Aggressive(state) => state.deadline(),
            State::Answered(state) => Some(state.until),
            State::SaSent(state) => Some(state.deadline(&self.head)),
            State::KeySent(state) => Some(state.sent.deadline()),
            State::AuthSent(state) => Some(state.sent.deadline()),
            State::Assembling(state) => Some(state.until),
            State::Kerberos(state) => state.deadline(),
            State::Accepting(state) => Some(state.deadline()),
            State::KeyExpected(state) => Some(state.until),
            State::AuthExpected(state) => Some(state.until),
            State::Established(state) => state.deadline(&self.head, keep_alive),
            State::Closed(state) => Some(state.until),
            State::Keying(_)
            | State::Finishing(_)
            | State::Answering(_)
            | State::Signing(_)
            | State::Verifying(_)
            | State::Proving(_)
            | State::Gone => None,
        }
    }

    /// Quick modes under way.
    pub(crate) fn negotiations(&self) -> usize {
        match &self.state {
            State::Established(state) => state.negotiations(),
            _ => 0,
        }
    }

    /// Whether a stranger made us keep it.
    pub(crate) fn is_half_open(&self) -> bool {
        if let State::Established(state) = &self.state {
            return state.is_with_a_stranger(&self.head);
        }
        matches!(
            self.state,
            State::Assembling(_)
                | State::Answered(_)
                | State::KeyExpected(_)
                | State::Answering(_)
                | State::AuthExpected(_)
                | State::Accepting(_)
                | State::Proving(_)
        )
    }

    /// Whether a new child may be asked for on it, now or once it is established.
    pub(crate) fn takes_children(&self) -> bool {
        match &self.state {
            State::Aggressive(_)
            | State::SaSent(_)
            | State::Keying(_)
            | State::KeySent(_)
            | State::Finishing(_)
            | State::Signing(_)
            | State::AuthSent(_)
            | State::Kerberos(_)
            | State::Verifying(_) => true,
            State::Established(state) => state.is_active(),
            State::Assembling(_)
            | State::Answered(_)
            | State::KeyExpected(_)
            | State::Answering(_)
            | State::AuthExpected(_)
            | State::Accepting(_)
            | State::Proving(_)
            | State::Closed(_)
            | State::Gone => false,
        }
    }
}
