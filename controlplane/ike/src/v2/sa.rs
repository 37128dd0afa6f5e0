//! An IKE SA: what every state has, and the dispatch of inputs to the states.

use super::addresses::Addresses;
use super::auth::{AuthSent, AuthSigning, AuthVerifying};
use super::established::Established;
use super::init::{InitFinishing, InitKeying, InitSent};
use super::respond::{AuthExpected, InitAnswering};
use super::task::{MAX_TASKS, Queued, Task};
use super::verify::AuthAnswering;
use super::window::{Digest, Inbound, Verdict};
use crate::config::{AuthMethod, Connection};
use crate::context::{Cx, Effect};
use crate::event::{Event, Failure, IkeId, InstallRefused, Level, Outcome, Path, RequestId};
use crate::job::Product;
use crate::message::{Flags, IkeSpi, v2};
use crate::view::Role;
use keyexchange::KeyExchangeError;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What NAT detection found (RFC 7296 §2.23).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nat {
    /// The peer takes part in NAT detection.
    pub(crate) supported: bool,
    /// A NAT is before us.
    pub(crate) local: bool,
    /// A NAT is before the peer, or the peer says so to get UDP encapsulation.
    pub(crate) remote: bool,
    /// We say so ourselves (`encap = yes`).
    pub(crate) faked: bool,
}

impl Nat {
    /// Whether ESP travels in UDP.
    pub(crate) const fn encapsulates(self) -> bool {
        self.supported && (self.local || self.remote || self.faked)
    }
}

/// What an IKE SA has in every state.
pub(crate) struct Head {
    pub(crate) id: IkeId,
    /// Who sent the first message: the INITIATOR flag, for the whole life of the SA.
    pub(crate) role: Role,
    pub(crate) spi_i: IkeSpi,
    pub(crate) spi_r: IkeSpi,
    pub(crate) path: Path,
    /// IKEv1: whether the peer takes messages in pieces (`v1/fragment.rs`).
    pub(crate) in_pieces: bool,
    pub(crate) nat: Nat,
    /// Virtual addresses of IKEv2.
    pub(crate) addresses: Addresses,
    pub(crate) connection: Arc<Connection>,
    pub(crate) tasks: VecDeque<Queued>,
    /// Commands that wait for the SA itself.
    pub(crate) waiters: Vec<RequestId>,
}

impl Head {
    pub(crate) const fn own_spi(&self) -> IkeSpi {
        match self.role {
            Role::Initiator => self.spi_i,
            Role::Responder => self.spi_r,
        }
    }

    /// The flags of a message of ours.
    pub(crate) fn flags(&self, response: bool) -> Flags {
        let role = match self.role {
            Role::Initiator => Flags::INITIATOR,
            Role::Responder => Flags::NONE,
        };
        if response { role.with(Flags::RESPONSE) } else { role }
    }

    /// Whether a message's INITIATOR flag is the peer's.
    pub(crate) fn is_from_peer(&self, flags: Flags) -> bool {
        flags.contains(Flags::INITIATOR) == (self.role == Role::Responder)
    }

    pub(crate) fn push_task(&mut self, task: impl Into<Queued>) {
        if self.tasks.len() < MAX_TASKS {
            self.tasks.push_back(task.into());
        }
    }

    pub(crate) fn info(&self, cx: &mut Cx<'_>, text: core::fmt::Arguments<'_>) {
        cx.log(Level::Info, format!("IKE_SA {}[{}] {text}", self.connection.name, self.id.0));
    }

    /// The SA comes to its end: everything that waits for it fails.
    pub(crate) fn end(&mut self, cx: &mut Cx<'_>, reason: Failure) -> State {
        self.info(cx, format_args!("ended: {reason}"));
        for queued in core::mem::take(&mut self.tasks) {
            self.fail_task(cx, queued.task, reason);
        }
        for request in core::mem::take(&mut self.waiters) {
            cx.tag_done(Some(request), Err(reason));
        }
        let connection = self.connection.name.clone();
        cx.event(Event::IkeDown { ike: self.id, connection, reason });
        State::Gone
    }

    /// A negotiation of the SA itself fails. What a stranger began ends without an event.
    pub(crate) fn fail(&mut self, cx: &mut Cx<'_>, reason: Failure) -> State {
        cx.stats.negotiation_failures += 1;
        if reason == Failure::Authentication {
            let Connection { local, remote, .. } = &*self.connection;
            if local.method == AuthMethod::Kerberos {
                cx.stats.authentication_failures_kerberos += 1;
            } else if [local.method, remote.method].contains(&AuthMethod::Pubkey) {
                cx.stats.authentication_failures_certificate += 1;
            } else {
                cx.stats.authentication_failures_psk += 1;
            }
        }
        match self.role {
            Role::Initiator => self.end(cx, reason),
            Role::Responder => State::Gone,
        }
    }

    /// From when on a child that waits may go unprotected, if nothing is heard of the peer since `begun`.
    pub(crate) fn unprotected_at(&self, begun: Instant) -> Option<Instant> {
        let after = |queued: &Queued| match &queued.task {
            Task::CreateChild { config, .. } => Some(config.unprotected?.after),
            _ => None,
        };
        self.tasks.iter().filter_map(|queued| begun.checked_add(after(queued)?)).min()
    }

    /// Nothing was heard of the peer for `silence`, or is waited for no longer: the children that may go unprotected do.
    /// Whether nobody waits for the SA any more.
    pub(crate) fn peer_is_silent(&mut self, cx: &mut Cx<'_>, silence: Option<Duration>) -> bool {
        let due = |queued: &Queued| match &queued.task {
            Task::CreateChild { config, .. } => config
                .unprotected
                .is_some_and(|policy| silence.is_none_or(|silence| policy.after <= silence)),
            _ => false,
        };
        let (over, stay): (VecDeque<_>, VecDeque<_>) =
            core::mem::take(&mut self.tasks).into_iter().partition(due);
        self.tasks = stay;
        let any = !over.is_empty();
        for queued in over {
            self.fail_task(cx, queued.task, Failure::Unprotected);
        }
        any && self.tasks.is_empty() && self.waiters.is_empty()
    }

    pub(crate) fn acquired(&self, cx: &mut Cx<'_>, child: &str, result: Result<Outcome, Failure>) {
        let connection = self.connection.name.clone();
        cx.effect(Effect::Acquired { connection, child: child.to_owned(), result });
    }

    pub(crate) fn fail_task(&self, cx: &mut Cx<'_>, task: Task, reason: Failure) {
        match task {
            Task::CreateChild { config, .. } => self.acquired(cx, &config.name, Err(reason)),
            Task::RekeyChild { tag, .. } | Task::RekeyIke { tag } => {
                cx.tag_done(tag, Err(reason));
            }
            // What was to be deleted is gone with the SA.
            Task::DeleteChild { tag, .. } | Task::DeleteIke { tag, .. } => {
                cx.tag_done(tag, Ok(Outcome::default()));
            }
            Task::DeleteSpi { .. } | Task::Liveness => {}
        }
    }
}

/// The states in the order of a negotiation.
pub(crate) enum State {
    /// Initiator: our key exchange value is being made.
    InitKeying(Box<InitKeying>),
    /// Initiator: IKE_SA_INIT is on its way.
    InitSent(Box<InitSent>),
    /// Initiator: the shared secret is being computed.
    InitFinishing(Box<InitFinishing>),
    /// Initiator: our signature is being made.
    AuthSigning(Box<AuthSigning>),
    /// Initiator: IKE_AUTH is on its way.
    AuthSent(Box<AuthSent>),
    /// Initiator: the peer's signature is being checked.
    AuthVerifying(Box<AuthVerifying>),
    /// Responder: our key exchange value and the secret are being computed.
    InitAnswering(Box<InitAnswering>),
    /// Responder: IKE_SA_INIT is answered.
    AuthExpected(Box<AuthExpected>),
    /// Responder: the peer's signature is being checked and ours made.
    AuthAnswering(Box<AuthAnswering>),
    /// Both.
    Established(Box<Established>),
    /// Over; remembered for its last answer.
    Closed(Closed),
    /// To be forgotten.
    Gone,
}

/// An IKE SA that ended with an answer of ours: the peer may ask for the answer again.
pub(crate) struct Closed {
    pub(crate) inbound: Inbound,
    pub(crate) until: Instant,
    /// Whether it failed (and still is an entry of the ISADB) or was deleted in order.
    pub(crate) failed: bool,
}

/// An IKE SA.
pub(crate) struct IkeSa {
    pub(crate) head: Head,
    pub(crate) state: State,
}

impl IkeSa {
    /// Takes a message whose SPIs are this SA's. `digest` is the datagram's.
    pub(crate) fn handle_message(
        &mut self,
        cx: &mut Cx<'_>,
        path: Path,
        message: &v2::Message<'_>,
        datagram: &[u8],
        digest: Digest,
    ) {
        let head = &mut self.head;
        if !head.is_from_peer(message.header.flags) {
            cx.stats.invalid_packets_received += 1;
            return;
        }
        self.state = match core::mem::replace(&mut self.state, State::Gone) {
            State::InitSent(state) => state.handle(head, cx, path, message, datagram),
            State::AuthSent(state) => state.handle(head, cx, message),
            State::AuthExpected(state) => state.handle(head, cx, path, message, digest),
            State::Established(state) => state.handle(head, cx, path, message, digest),
            State::Closed(state) => {
                let request = !message.header.flags.contains(Flags::RESPONSE);
                let id = message.header.message_id.0;
                match state.inbound.judge(id, &digest) {
                    Verdict::Repeated(datagrams) if request => {
                        cx.stats.answers_repeated += 1;
                        for datagram in datagrams {
                            cx.transmit(path, datagram.clone());
                        }
                    }
                    _ => cx.stats.invalid_packets_received += 1,
                }
                State::Closed(state)
            }
            // Nothing can be read before the keys are there; the peer repeats what matters.
            state @ (State::InitKeying(_)
            | State::InitFinishing(_)
            | State::InitAnswering(_)
            | State::AuthSigning(_)
            | State::AuthVerifying(_)
            | State::AuthAnswering(_)
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
            State::InitKeying(state) if state.job == number => state.keyed(head, cx, result),
            State::InitFinishing(state) if state.job == number => state.agreed(head, cx, result),
            State::InitAnswering(state) if state.job == number => state.keyed(head, cx, result),
            State::AuthSigning(state) if state.job == number => state.signed(head, cx, result),
            State::AuthVerifying(state) if state.job == number => state.checked(head, cx, result),
            State::AuthAnswering(state) if state.job == number => state.checked(head, cx, result),
            State::Established(state) => state.job_done(head, cx, number, result),
            // A result that nobody waits for any more.
            other => other,
        };
    }

    pub(crate) fn handle_timeout(&mut self, cx: &mut Cx<'_>) {
        let head = &mut self.head;
        self.state = match core::mem::replace(&mut self.state, State::Gone) {
            State::InitSent(state) => state.timeout(head, cx),
            State::AuthSent(state) => state.timeout(head, cx),
            State::AuthExpected(state) if state.until <= cx.now => head.fail(cx, Failure::Timeout),
            State::Established(state) => state.timeout(head, cx),
            State::Closed(state) if state.until <= cx.now => State::Gone,
            other => other,
        };
    }

    /// Begins what waits, if nothing is under way.
    pub(crate) fn pump(&mut self, cx: &mut Cx<'_>) {
        if let State::Established(state) = &mut self.state {
            state.pump(&mut self.head, cx);
        }
    }

    pub(crate) fn handle_installed(
        &mut self,
        cx: &mut Cx<'_>,
        id: crate::event::InstallId,
        installing: &crate::context::Installing,
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
            State::Established(state) => state.destroy(head, cx, reason),
            state @ (State::Closed(_) | State::Gone) => state,
            State::InitKeying(_)
            | State::InitSent(_)
            | State::InitFinishing(_)
            | State::InitAnswering(_)
            | State::AuthExpected(_)
            | State::AuthAnswering(_) => head.fail(cx, reason),
            State::AuthSigning(state) => state.destroy(head, cx, reason),
            State::AuthSent(state) => state.destroy(head, cx, reason),
            State::AuthVerifying(state) => state.destroy(head, cx, reason),
        };
    }

    /// When [`IkeSa::handle_timeout`] has something to do.
    pub(crate) fn deadline(&self, keep_alive: Duration) -> Option<Instant> {
        match &self.state {
            State::InitSent(state) => Some(state.deadline(&self.head)),
            State::AuthSent(state) => Some(state.sent.deadline()),
            State::AuthExpected(state) => Some(state.until),
            State::Established(state) => state.deadline(&self.head, keep_alive),
            State::Closed(state) => Some(state.until),
            State::InitKeying(_)
            | State::InitFinishing(_)
            | State::InitAnswering(_)
            | State::AuthSigning(_)
            | State::AuthVerifying(_)
            | State::AuthAnswering(_)
            | State::Gone => None,
        }
    }

    /// Child negotiations under way, the one inside IKE_AUTH included.
    pub(crate) fn negotiations(&self) -> usize {
        match &self.state {
            State::AuthSigning(state) => usize::from(state.has_child()),
            State::AuthSent(state) => usize::from(state.has_child()),
            State::AuthVerifying(state) => usize::from(state.has_child()),
            State::Established(state) => state.negotiations(),
            _ => 0,
        }
    }

    /// Fragments that wait for their others.
    pub(crate) fn fragments_held(&self) -> usize {
        match &self.state {
            State::Established(state) => state.fragments_held(),
            State::AuthSent(state) => state.reassembly.held(),
            State::AuthExpected(state) => state.reassembly.held(),
            _ => 0,
        }
    }

    /// Whether a stranger made us keep it.
    pub(crate) const fn is_half_open(&self) -> bool {
        matches!(
            self.state,
            State::InitAnswering(_) | State::AuthExpected(_) | State::AuthAnswering(_)
        )
    }

    /// Whether a new child may be asked for on it, now or once it is established.
    pub(crate) fn takes_children(&self) -> bool {
        match &self.state {
            State::InitKeying(_)
            | State::InitSent(_)
            | State::InitFinishing(_)
            | State::AuthSigning(_)
            | State::AuthSent(_)
            | State::AuthVerifying(_) => true,
            State::Established(state) => state.is_active(),
            State::InitAnswering(_)
            | State::AuthExpected(_)
            | State::AuthAnswering(_)
            | State::Closed(_)
            | State::Gone => false,
        }
    }
}
