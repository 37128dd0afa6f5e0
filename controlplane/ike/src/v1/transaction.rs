//! Transaction exchanges: XAUTH (draft-ietf-ipsec-isakmp-xauth-06) and Mode Config (draft-dukes-ike-mode-cfg-02).
//!
//! ```text
//! gateway                                             client (initiator of phase 1)
//! HDR*, HASH, ATTR(REQUEST: name? password?)   -->
//!                                              <--   HDR*, HASH, ATTR(REPLY: name, password)
//! HDR*, HASH, ATTR(SET: status)                -->
//!                                              <--   HDR*, HASH, ATTR(ACK)
//!                                              <--   HDR*, HASH, ATTR(REQUEST: address?)
//! HDR*, HASH, ATTR(REPLY: address)             -->
//!
//! or, in push mode:
//! HDR*, HASH, ATTR(SET: address)               -->
//!                                              <--   HDR*, HASH, ATTR(ACK)
//! ```
//!
//! One exchange of ours at a time. Until all are over no quick mode is begun or taken. Where a gateway asks for a password, the
//! ISAKMP SA is up for everybody else once that is right, and its peer is the user: what an ID payload says is the group's
//! word, and in hybrid authentication nobody's.

mod answer;

use super::authenticate::keeps_out;
use super::established::Established;
use super::respond::LONGEST_HALF_OPEN;
use crate::config::{AuthMethod, Identity, Xauth};
use crate::context::{Cx, Effect};
use crate::crypto::v1::Iv;
use crate::event::{Failure, IkeId, Path};
use crate::message::v1::{Attribute, AttributeValue, Attributes, AttributesPayload, Payload};
use crate::message::{ExchangeType, MessageId};
use crate::v2::sa::Head;
use crate::v2::window::{Digest, Due, Sent};
use crate::view::Role;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;

// Kinds of an attribute payload (draft-dukes-ike-mode-cfg-02 §3.2).
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const SET: u8 = 3;
const ACK: u8 = 4;

// Attributes of Mode Config (§3.3).
const IP4_ADDRESS: u16 = 1;
const IP4_DNS: u16 = 3;
const IP6_ADDRESS: u16 = 8;
const IP6_DNS: u16 = 10;

// Attributes of XAUTH (draft-ietf-ipsec-isakmp-xauth-06 §4.2).
const XAUTH_TYPE: u16 = 16_520;
const USER_NAME: u16 = 16_521;
const USER_PASSWORD: u16 = 16_522;
const STATUS: u16 = 16_527;

/// How long a client waits to be asked who it is, or to be told its address.
const AWAITED: Duration = Duration::from_secs(30);

/// Answers that are remembered for repeats: XAUTH and Mode Config have three exchanges.
const MAX_ANSWERS: usize = 4;

/// Where the two are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Gateway: the client is to be asked who it is.
    AskUser,
    /// Gateway: it is asked.
    UserAsked,
    /// Gateway: it is being told.
    Told { right: bool },
    /// Client: we shall be asked.
    Expecting { until: Instant },
    /// Client: an address is to be asked for.
    AskAddress,
    /// Client: it is asked for.
    AddressAsked,
    /// Client: we shall be told an address.
    AwaitingAddress { until: Instant },
    /// Gateway: the client is to be told one.
    TellAddress,
    /// Gateway: it is told.
    AddressTold,
    /// Gateway that began phase 1: the client may ask for one before the first quick mode, which would lack it.
    AddressWanted { until: Instant },
    /// Both: all is settled.
    Over,
}

/// An exchange of ours that waits for its answer.
struct Asked {
    id: MessageId,
    iv: Iv,
    sent: Sent,
}

/// XAUTH and Mode Config of one ISAKMP SA.
pub(crate) struct Transactions {
    step: Step,
    asked: Option<Asked>,
    answered: VecDeque<(Digest, Vec<u8>)>,
    /// Who the client says it is, once that is proven.
    user: Option<Identity>,
    /// Gateway: the client is to prove who it is.
    asks: bool,
    /// The ISAKMP SA whose children this one takes over once that is done.
    replaces: Option<IkeId>,
    /// Hybrid authentication: when a client that has proven nothing is forgotten.
    stranger_until: Option<Instant>,
    /// The address that the ISAKMP SA had which this one renews.
    pub(crate) wanted: Option<IpAddr>,
    /// Our virtual address.
    pub(crate) local: Option<IpAddr>,
    /// The peer's.
    pub(crate) remote: Option<IpAddr>,
}

impl Transactions {
    pub(crate) fn new(head: &Head, now: Instant, half_open: Duration) -> Self {
        let connection = &head.connection;
        let step = match &connection.xauth {
            Some(Xauth::Ask) => Step::AskUser,
            Some(Xauth::Answer { .. }) => Step::Expecting { until: now + AWAITED },
            None => address_step(head, now),
        };
        let asks = connection.xauth == Some(Xauth::Ask);
        let is_hybrid = asks && connection.remote.method == AuthMethod::Xauth;
        Self {
            step,
            asked: None,
            answered: VecDeque::new(),
            user: None,
            asks,
            replaces: None,
            stranger_until: is_hybrid.then(|| now + half_open.min(LONGEST_HALF_OPEN)),
            wanted: None,
            local: None,
            remote: None,
        }
    }

    /// Whether quick modes may begin.
    pub(crate) fn are_over(&self) -> bool {
        self.step == Step::Over
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let step = match (&self.asked, self.step) {
            (Some(asked), _) => Some(asked.sent.deadline()),
            (
                None,
                Step::Expecting { until }
                | Step::AwaitingAddress { until }
                | Step::AddressWanted { until },
            ) => Some(until),
            (None, _) => None,
        };
        step.into_iter().chain(self.stranger_until).min()
    }

    /// Whether the user is to prove itself before the SA comes up; remembers what it replaces then.
    pub(super) fn wait_for_user(&mut self, replaces: Option<IkeId>) -> bool {
        self.replaces = replaces;
        self.is_unproven()
    }

    const fn is_unproven(&self) -> bool {
        self.asks && self.user.is_none()
    }
}

/// What comes after XAUTH, or without it at once.
fn address_step(head: &Head, now: Instant) -> Step {
    let connection = &head.connection;
    // A client is who has `vips`; as responder it has been asked for a password, or is none.
    let is_client = head.role == Role::Initiator || connection.xauth.is_some();
    if is_client && !connection.vips.is_empty() {
        return match connection.push {
            true => Step::AwaitingAddress { until: now + AWAITED },
            false => Step::AskAddress,
        };
    }
    match (connection.pools.is_empty(), connection.push, head.role) {
        (true, ..) | (false, false, Role::Responder) => Step::Over,
        (false, true, _) => Step::TellAddress,
        (false, false, Role::Initiator) => Step::AddressWanted { until: now + AWAITED },
    }
}

/// What becomes of the ISAKMP SA.
pub(super) enum Verdict {
    Stays,
    Ends(Failure),
}

fn push(out: &mut Vec<u8>, kind: u16, bytes: &[u8]) {
    Attribute { kind, value: AttributeValue::Variable(bytes) }.emit(out);
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// The address of an attribute, if it is one; all zeros and nothing mean any.
fn address(attribute: &Attribute<'_>) -> Option<IpAddr> {
    let AttributeValue::Variable(bytes) = attribute.value else { return None };
    let address = match attribute.kind {
        IP4_ADDRESS => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        // A prefix length may stand behind it.
        IP6_ADDRESS => IpAddr::V6(Ipv6Addr::from(*bytes.first_chunk::<16>()?)),
        _ => return None,
    };
    Some(address).filter(|address| !address.is_unspecified())
}

fn variable<'a>(attributes: Attributes<'a>, kind: u16) -> Option<&'a [u8]> {
    attributes.iter().find(|a| a.kind == kind).and_then(|a| match a.value {
        AttributeValue::Variable(bytes) => Some(bytes),
        AttributeValue::Basic(_) => None,
    })
}

/// Whether a secret of the configuration is for a user of this name.
fn is_for(owner: &Identity, name: &[u8]) -> bool {
    match owner {
        Identity::Fqdn(text) | Identity::Email(text) => text.as_bytes() == name,
        Identity::KeyId(bytes) => bytes == name,
        Identity::Address(address) => address.to_string().as_bytes() == name,
        Identity::Any | Identity::Dn(_) => false,
    }
}

impl Established {
    /// Whose SA it is: the user's, where there is one, or else the identity's of phase 1.
    pub(super) fn peer(&self) -> &Identity {
        self.transactions.user.as_ref().unwrap_or(&self.remote_id)
    }

    /// Whether the peer has shown nothing that a stranger could not.
    pub(super) fn is_with_a_stranger(&self, head: &Head) -> bool {
        head.role == Role::Responder && self.transactions.stranger_until.is_some()
    }

    /// Whether the SA ends before anybody has heard of it.
    pub(super) fn never_came_up(&self, head: &Head, cx: &mut Cx<'_>) -> bool {
        if !self.transactions.is_unproven() {
            return false;
        }
        if let Some(old) = self.transactions.replaces {
            cx.effect(Effect::NotReplaced(old));
        }
        head.role == Role::Responder
    }

    /// Begins the next exchange of ours, if one is due.
    pub(super) fn begin_transaction(&mut self, head: &Head, cx: &mut Cx<'_>) {
        let mut attributes = Vec::new();
        let (kind, next) = match self.transactions.step {
            Step::AskUser => {
                push(&mut attributes, USER_NAME, &[]);
                push(&mut attributes, USER_PASSWORD, &[]);
                (REQUEST, Step::UserAsked)
            }
            Step::AskAddress => {
                let Some(wanted) = head.connection.vips.first() else {
                    self.transactions.step = Step::Over;
                    return;
                };
                let (address, dns) = match wanted {
                    IpAddr::V4(_) => (IP4_ADDRESS, IP4_DNS),
                    IpAddr::V6(_) => (IP6_ADDRESS, IP6_DNS),
                };
                let before = self.transactions.wanted;
                let before = before.filter(|before| before.is_ipv4() == wanted.is_ipv4());
                let wanted = before.as_ref().unwrap_or(wanted);
                let any = wanted.is_unspecified();
                push(&mut attributes, address, &if any { Vec::new() } else { octets(*wanted) });
                push(&mut attributes, dns, &[]);
                (REQUEST, Step::AddressAsked)
            }
            Step::TellAddress => {
                for family in [IP4_ADDRESS, IP6_ADDRESS] {
                    if attributes.is_empty() {
                        self.assign(head, cx, family, None, &mut attributes);
                    }
                }
                if attributes.is_empty() {
                    self.transactions.step = Step::Over;
                    return;
                }
                (SET, Step::AddressTold)
            }
            Step::UserAsked
            | Step::Told { .. }
            | Step::Expecting { .. }
            | Step::AddressAsked
            | Step::AwaitingAddress { .. }
            | Step::AddressTold
            | Step::AddressWanted { .. }
            | Step::Over => return,
        };
        self.ask_transaction(head, cx, kind, &attributes);
        self.transactions.step = next;
    }

    fn ask_transaction(&mut self, head: &Head, cx: &mut Cx<'_>, kind: u8, attributes: &[u8]) {
        let Some(id) = self.fresh_id(cx) else { return };
        let iv = self.session.iv(id);
        let Some((datagram, iv)) = self.transaction(id, iv, kind, 0, attributes) else { return };
        self.send(head, cx, datagram.clone());
        let sent = Sent::new(cx.now, &cx.config.settings, 0, vec![datagram]);
        self.transactions.asked = Some(Asked { id, iv, sent });
    }

    fn transaction(
        &self,
        id: MessageId,
        iv: Iv,
        kind: u8,
        number: u16,
        attributes: &[u8],
    ) -> Option<(Vec<u8>, Iv)> {
        let attributes = Attributes::parse(attributes).ok()?;
        let mut list = self.session.list();
        list.push(&AttributesPayload { kind, id: number, attributes });
        self.session.seal(ExchangeType::Transaction, id, iv, &[], &list).ok()
    }

    /// Takes a message of a transaction exchange.
    pub(super) fn transaction_message(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        path: Path,
        (id, first, ciphertext): (MessageId, u8, &[u8]),
        digest: Digest,
    ) -> Verdict {
        if let Some((_, answer)) = self.transactions.answered.iter().find(|(d, _)| *d == digest) {
            let answer = answer.clone();
            cx.stats.answers_repeated += 1;
            self.send(head, cx, answer);
            return Verdict::Stays;
        }
        let ours = self.transactions.asked.as_ref().filter(|asked| asked.id == id);
        let is_answer = ours.is_some();
        let iv = match ours {
            Some(asked) => Some(asked.iv),
            None => self.may_begin(id).then(|| self.session.iv(id)),
        };
        let opened = iv
            .and_then(|iv| self.session.sealer.open(first, ciphertext, iv))
            .filter(|opened| self.session.verify(id, &[], opened));
        let payload = opened.as_ref().and_then(|opened| {
            let payloads = opened.payloads().ok()?;
            let next = opened.next;
            payloads.iter().find_map(|payload| match payload {
                Payload::Attributes(payload) => Some((payload, next)),
                _ => None,
            })
        });
        let Some((payload, next)) = payload else {
            cx.stats.invalid_packets_received += 1;
            return Verdict::Stays;
        };
        self.heard(head, cx, path);
        if is_answer {
            self.transactions.asked = None;
            return self.answered_transaction(head, cx, &payload);
        }
        self.has_begun(id);
        let (kind, attributes, verdict) = match payload.kind {
            REQUEST => (REPLY, self.requested(head, cx, payload.attributes), Verdict::Stays),
            SET => {
                let (attributes, verdict) = self.set(head, cx, payload.attributes);
                (ACK, attributes, verdict)
            }
            _ => {
                cx.stats.invalid_packets_received += 1;
                return Verdict::Stays;
            }
        };
        let answer = self.transaction(id, next, kind, payload.id, &attributes);
        if let Some((datagram, _)) = answer {
            self.send(head, cx, datagram.clone());
            if self.transactions.answered.len() >= MAX_ANSWERS {
                self.transactions.answered.pop_front();
            }
            self.transactions.answered.push_back((digest, datagram));
        }
        verdict
    }

    /// The answer to an exchange of ours.
    fn answered_transaction(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        payload: &AttributesPayload<'_>,
    ) -> Verdict {
        match (self.transactions.step, payload.kind) {
            (Step::UserAsked, REPLY) => {
                let name = variable(payload.attributes, USER_NAME);
                let password = variable(payload.attributes, USER_PASSWORD);
                let known = name.zip(password).is_some_and(|(name, password)| {
                    cx.config.users.iter().any(|user| {
                        user.owners.iter().any(|owner| is_for(owner, name))
                            && bool::from(user.secret.expose().ct_eq(password))
                    })
                });
                let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
                let user = Identity::Fqdn(name);
                let right = known
                    && (self.has_initial_contact()
                        || !keeps_out(cx, &head.connection, &self.local_id, &user));
                if right {
                    if let Identity::Fqdn(name) = &user {
                        head.info(cx, format_args!("the peer is the user {name:?}"));
                    }
                    self.transactions.user = Some(user);
                    self.transactions.stranger_until = None;
                    self.came_up(head, cx, self.transactions.replaces);
                }
                let mut out = Vec::new();
                Attribute::basic(STATUS, u16::from(right)).emit(&mut out);
                self.ask_transaction(head, cx, SET, &out);
                self.transactions.step = Step::Told { right };
                Verdict::Stays
            }
            (Step::Told { right: true }, ACK) => {
                self.transactions.step = address_step(head, cx.now);
                Verdict::Stays
            }
            (Step::AddressTold, ACK) => {
                self.transactions.step = Step::Over;
                Verdict::Stays
            }
            (Step::Told { right: false }, _) | (Step::UserAsked, _) => {
                Verdict::Ends(Failure::Authentication)
            }
            (Step::AddressAsked, REPLY) => {
                if self.take_address(head, cx, payload.attributes) {
                    self.transactions.step = Step::Over;
                    return Verdict::Stays;
                }
                Verdict::Ends(Failure::NoAddress)
            }
            _ => {
                cx.stats.invalid_packets_received += 1;
                Verdict::Stays
            }
        }
    }

    /// Repeats and ends.
    pub(super) fn transaction_timers(&mut self, head: &Head, cx: &mut Cx<'_>) -> Verdict {
        if let Some(asked) = &mut self.transactions.asked {
            match asked.sent.due(cx.now, &cx.config.settings) {
                Due::NotYet => {}
                Due::Repeat(datagrams) => {
                    let datagrams = datagrams.to_vec();
                    cx.stats.retransmissions += 1;
                    for datagram in datagrams {
                        self.send(head, cx, datagram);
                    }
                }
                Due::GiveUp => {
                    return Verdict::Ends(match self.transactions.step {
                        Step::Told { right: false } => Failure::Authentication,
                        _ => Failure::Timeout,
                    });
                }
            }
        } else {
            match self.transactions.step {
                Step::Expecting { until } if until <= cx.now => {
                    return Verdict::Ends(Failure::Timeout);
                }
                Step::AwaitingAddress { until } if until <= cx.now => {
                    return Verdict::Ends(Failure::NoAddress);
                }
                Step::AddressWanted { until } if until <= cx.now => {
                    self.transactions.step = Step::Over;
                }
                _ => {}
            }
        }
        if self.transactions.stranger_until.is_some_and(|until| until <= cx.now) {
            return Verdict::Ends(Failure::Timeout);
        }
        Verdict::Stays
    }

    /// XAUTH or Mode Config came to nothing: it counts as a negotiation of the ISAKMP SA that failed.
    pub(super) fn transactions_failed(&self, cx: &mut Cx<'_>, reason: Failure) {
        cx.stats.negotiation_failures += 1;
        if reason == Failure::Authentication {
            // Of the user, whatever phase 1 authenticated by.
            cx.stats.authentication_failures_eap += 1;
        }
    }
}
