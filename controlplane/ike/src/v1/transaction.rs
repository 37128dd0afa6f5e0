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
//! ```
//!
//! One exchange of ours at a time. Until all are over no quick mode is begun or taken.

use super::established::Established;
use crate::config::{Identity, Xauth};
use crate::context::Cx;
use crate::crypto::v1::Iv;
use crate::event::{Event, Failure, Path};
use crate::message::v1::{Attribute, AttributeValue, Attributes, AttributesPayload, Payload};
use crate::message::{ExchangeType, MessageId};
use crate::v2::sa::Head;
use crate::v2::window::{Digest, Due, Sent};
use crate::view::Role;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

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

/// How long a client waits to be asked who it is.
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
    /// The address that the ISAKMP SA had which this one renews.
    pub(crate) wanted: Option<IpAddr>,
    /// Our virtual address.
    pub(crate) local: Option<IpAddr>,
    /// The peer's.
    pub(crate) remote: Option<IpAddr>,
}

impl Transactions {
    pub(crate) fn new(head: &Head, now: Instant) -> Self {
        let connection = &head.connection;
        let step = match (head.role, &connection.xauth) {
            (Role::Responder, Some(Xauth::Ask)) => Step::AskUser,
            (Role::Initiator, Some(Xauth::Answer { .. })) => {
                Step::Expecting { until: now + AWAITED }
            }
            (Role::Initiator, _) if !connection.vips.is_empty() => Step::AskAddress,
            _ => Step::Over,
        };
        Self {
            step,
            asked: None,
            answered: VecDeque::new(),
            user: None,
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
        match (&self.asked, self.step) {
            (Some(asked), _) => Some(asked.sent.deadline()),
            (None, Step::Expecting { until }) => Some(until),
            (None, _) => None,
        }
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
            Step::UserAsked
            | Step::Told { .. }
            | Step::Expecting { .. }
            | Step::AddressAsked
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

    /// What we answer to a request: who we are, or an address.
    fn requested(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        wanted: Attributes<'_>,
    ) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::new());
        if wanted.iter().any(|a| matches!(a.kind, USER_NAME | USER_PASSWORD)) {
            if let (Some(Xauth::Answer { user }), Step::Expecting { .. }) =
                (&head.connection.xauth, self.transactions.step)
            {
                let name = user.as_bytes();
                let mut users = cx.config.users.iter();
                let secret = users.find(|s| s.owners.iter().any(|owner| is_for(owner, name)));
                if wanted.iter().any(|a| a.kind == XAUTH_TYPE) {
                    Attribute::basic(XAUTH_TYPE, 0).emit(&mut out);
                }
                push(&mut out, USER_NAME, name);
                match secret {
                    Some(secret) => push(&mut out, USER_PASSWORD, secret.secret.expose()),
                    None => head.info(cx, format_args!("no xauth secret for {user}")),
                }
            }
            return out;
        }
        if self.transactions.are_over() && head.role == Role::Responder {
            self.assign(head, cx, wanted, &mut out);
        }
        out
    }

    /// Gives the peer an address of the connection's pools.
    fn assign(&mut self, head: &Head, cx: &mut Cx<'_>, wanted: Attributes<'_>, out: &mut Vec<u8>) {
        let owner = self.transactions.user.as_ref().unwrap_or(&self.remote_id).clone();
        for attribute in wanted.iter() {
            let (v4, dns) = match attribute.kind {
                IP4_ADDRESS => (true, IP4_DNS),
                IP6_ADDRESS => (false, IP6_DNS),
                _ => continue,
            };
            let pools = head.connection.pools.iter();
            let mut pools = pools
                .filter_map(|name| cx.config.pools.iter().find(|pool| pool.name == *name))
                .filter(|pool| pool.addresses.first().is_ipv4() == v4);
            let leases = &mut cx.registry.leases;
            let found = pools.find_map(|pool| {
                let given = leases.take(pool, &owner, head.id, address(&attribute))?;
                (given.is_ipv4() == v4).then_some((pool, given))
            });
            let Some((pool, given)) = found else {
                head.info(cx, format_args!("no address of a pool is free"));
                continue;
            };
            self.transactions.remote = Some(given);
            push(out, attribute.kind, &octets(given));
            for server in pool.dns.iter().filter(|server| server.is_ipv4() == v4) {
                push(out, dns, &octets(*server));
            }
            head.info(cx, format_args!("the peer has the virtual address {given}"));
            // One address for each peer.
            return;
        }
    }

    /// What is said to us: whether we are who we say, or an address.
    fn set(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        attributes: Attributes<'_>,
    ) -> (Zeroizing<Vec<u8>>, Verdict) {
        let mut out = Zeroizing::new(Vec::new());
        if let (Some(status), Step::Expecting { .. }) =
            (attributes.iter().find(|a| a.kind == STATUS), self.transactions.step)
        {
            push(&mut out, STATUS, &[]);
            if status.value.number() != Some(1) {
                return (out, Verdict::Ends(Failure::Authentication));
            }
            self.transactions.step = match head.connection.vips.is_empty() {
                true => Step::Over,
                false => Step::AskAddress,
            };
        }
        if head.role == Role::Initiator && !head.connection.vips.is_empty() {
            self.take_address(head, cx, attributes);
        }
        (out, Verdict::Stays)
    }

    fn take_address(&mut self, head: &Head, cx: &mut Cx<'_>, attributes: Attributes<'_>) -> bool {
        let Some(address) = attributes.iter().find_map(|a| address(&a)) else { return false };
        if self.transactions.local.is_none() {
            self.transactions.local = Some(address);
            cx.registry.own_addresses.insert(head.id, address);
            head.info(cx, format_args!("our virtual address is {address}"));
            cx.event(Event::VirtualAddress { ike: head.id, address, held: true });
        }
        true
    }

    /// The answer to an exchange of ours.
    fn answered_transaction(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        payload: &AttributesPayload<'_>,
    ) -> Verdict {
        match (self.transactions.step, payload.kind) {
            (Step::UserAsked, REPLY) => {
                let name = variable(payload.attributes, USER_NAME);
                let password = variable(payload.attributes, USER_PASSWORD);
                let right = name.zip(password).is_some_and(|(name, password)| {
                    cx.config.users.iter().any(|user| {
                        user.owners.iter().any(|owner| is_for(owner, name))
                            && bool::from(user.secret.expose().ct_eq(password))
                    })
                });
                if right {
                    let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
                    head.info(cx, format_args!("the peer is the user {name:?}"));
                    self.transactions.user = Some(Identity::Fqdn(name));
                }
                let mut out = Vec::new();
                Attribute::basic(STATUS, u16::from(right)).emit(&mut out);
                self.ask_transaction(head, cx, SET, &out);
                self.transactions.step = Step::Told { right };
                Verdict::Stays
            }
            (Step::Told { right: true }, ACK) => {
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
        } else if let Step::Expecting { until } = self.transactions.step
            && until <= cx.now
        {
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
