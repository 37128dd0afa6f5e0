//! Quick mode as initiator.

use super::{Content, Exchange, Quick, Values, clients, content, life_of, seen, terms};
use crate::config;
use crate::context::Cx;
use crate::crypto::v1::Iv;
use crate::event::{Activate, Failure, RequestId};
use crate::job::{Product, Work};
use crate::message::v1::{KeyExchange, Nonce, Proposal, SaPayload};
use crate::message::v2::TrafficSelector;
use crate::message::{ExchangeType, MessageId};
use crate::narrowing;
use crate::v1::clients::{Client, wanted};
use crate::v1::established::Established;
use crate::v1::offer::{self, Choice, Terms};
use crate::v1::session::Opened;
use crate::v1::suite::Life;
use crate::v2::child::{Agreed, Phase, Prepared, install_inbound, install_outbound};
use crate::v2::fault::{Fault, Incompatible, Misbehaved};
use crate::v2::init::OwnNonce;
use crate::v2::sa::Head;
use crate::v2::window::Sent;
use ipsec::sa::{PairId, Spi};
use ipsec::selector::Selector;
use keyexchange::{Group, KeyExchangeError, PrivateKey};
use std::sync::Arc;
use std::time::Instant;

/// A Child SA that we ask for.
pub(crate) struct Asking {
    pub(super) config: Arc<config::Child>,
    pub(crate) spi: Spi,
    pub(crate) nonce: OwnNonce,
    terms: Terms,
    local: TrafficSelector,
    remote: TrafficSelector,
    /// The pair that is to be replaced.
    pub(super) rekeys: Option<PairId>,
    /// Every pair for the same traffic when we began.
    pub(super) replaces: Vec<PairId>,
    tag: Option<RequestId>,
    acquired: bool,
}

impl Asking {
    pub(super) fn give_back(self, head: &mut Head, cx: &mut Cx<'_>, reason: Failure) {
        cx.spis.release(self.spi);
        cx.tag_done(self.tag, Err(reason));
        if self.acquired {
            head.acquired(cx, &self.config.name, Err(reason));
        }
    }
}

/// Our key exchange value is being made.
pub(crate) struct Generating {
    pub(super) job: u64,
    pub(super) asking: Asking,
}

/// The first message is on its way.
pub(crate) struct QuickSent {
    pub(super) sent: Sent,
    pub(super) since: Instant,
    pub(super) asking: Asking,
    key: Option<Box<PrivateKey>>,
}

/// Answered; the shared secret is being computed.
pub(crate) struct Agreeing {
    pub(super) job: u64,
    pub(super) asking: Asking,
    answer: Answer,
}

/// Both halves are on their way to the dataplane.
pub(crate) struct Confirming {
    pub(super) pair: PairId,
    pub(super) nonce: OwnNonce,
    pub(super) nr: Vec<u8>,
    pub(super) replaces: Vec<PairId>,
    pub(super) tag: Option<RequestId>,
}

/// What an answer agreed to.
struct Answer {
    choice: Choice,
    nr: Vec<u8>,
    local: TrafficSelector,
    remote: TrafficSelector,
    responder_lifetime: Life,
}

impl Established {
    pub(crate) fn ask_new_child(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        config: Arc<config::Child>,
        packet: Option<&Selector>,
    ) {
        let (local, remote) = self.hosts(head);
        let Some((local, remote)) = wanted(&config, local, remote, packet) else {
            return head.acquired(cx, &config.name, Err(Failure::Selectors));
        };
        let replaces = narrowing::selectors(&[local], &[remote])
            .map(|selectors| self.same_traffic(&config.name, &selectors))
            .unwrap_or_default();
        let held = |pair: &PairId| self.children.get(pair).is_some_and(|c| c.waits_for_traffic);
        if let Some(pair) = replaces.iter().copied().find(held)
            && let Some(child) = self.children.get_mut(&pair)
        {
            // What is held back is an outcome soon, or another carries the traffic until then.
            child.acquired = true;
            if child.replaces.is_some() {
                self.answer_acquire(head, cx, pair);
            }
            return;
        }
        self.ask(head, cx, config, (local, remote), None, replaces, None, true);
    }

    pub(crate) fn ask_child_rekey(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        pair: PairId,
        tag: Option<RequestId>,
    ) {
        let Some(old) = self.children.get_mut(&pair).filter(|old| old.phase == Phase::Installed)
        else {
            return cx.tag_done(tag, Err(Failure::Replaced));
        };
        let Some(selector) = old.selectors.first() else {
            return cx.tag_done(tag, Err(Failure::Selectors));
        };
        let between = narrowing::of_packet(selector);
        let (config, selectors) = (Arc::clone(&old.config), old.selectors.clone());
        old.phase = Phase::Rekeying;
        let replaces = self.same_traffic(&config.name, &selectors);
        self.ask(head, cx, config, between, Some(pair), replaces, tag, false);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the terms of one exchange, each of another kind"
    )]
    fn ask(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        config: Arc<config::Child>,
        (local, remote): (TrafficSelector, TrafficSelector),
        rekeys: Option<PairId>,
        replaces: Vec<PairId>,
        tag: Option<RequestId>,
        acquired: bool,
    ) {
        let inherit = replaces.last().and_then(|pair| self.children.get(pair)).map(|c| c.spi_in);
        let peer = head.path.remote.ip();
        let spi = if self.has_room() { cx.allocate(peer, inherit).ok() } else { None };
        let Some(spi) = spi else {
            cx.stats.negotiation_failures += 1;
            cx.tag_done(tag, Err(Failure::Dataplane));
            if acquired {
                head.acquired(cx, &config.name, Err(Failure::Dataplane));
            }
            if let Some(old) = rekeys {
                self.retry_rekey(cx, old);
            }
            return;
        };
        let group = offer::group_of(&config.proposals);
        let terms = terms(&config, head, self, group);
        let nonce = cx.random.array();
        let asking =
            Asking { config, spi, nonce, terms, local, remote, rekeys, replaces, tag, acquired };
        let Some(id) = self.fresh_id(cx) else {
            return self.not_made(head, cx, asking, Failure::Expired);
        };
        match group.and_then(Group::from_number) {
            Some(group) => {
                let job = cx.job(head.id, true, Work::Generate(group));
                let quick = Quick::Generating(Generating { job, asking });
                let iv = self.session.iv(id);
                self.exchanges.insert(id.0, Exchange::new(iv, quick));
            }
            None => self.send_first(head, cx, id, asking, None),
        }
    }

    pub(super) fn generated(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        id: MessageId,
        state: Generating,
        result: Result<Product, KeyExchangeError>,
    ) {
        match result {
            Ok(Product::Key(key)) => self.send_first(head, cx, id, state.asking, Some(key)),
            _ => self.not_made(head, cx, state.asking, Failure::Local),
        }
    }

    fn send_first(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        id: MessageId,
        asking: Asking,
        key: Option<Box<PrivateKey>>,
    ) {
        match self.first(head, id, &asking, key.as_deref()) {
            Ok((datagram, iv)) => {
                self.send(head, cx, datagram.clone());
                let sent = Sent::new(cx.now, &cx.config.settings, 0, vec![datagram]);
                let quick = Quick::Sent(QuickSent { sent, since: cx.now, asking, key });
                self.exchanges.insert(id.0, Exchange::new(iv, quick));
            }
            Err(fault) => self.not_made(head, cx, asking, fault.failure()),
        }
    }

    fn first(
        &self,
        head: &Head,
        id: MessageId,
        asking: &Asking,
        key: Option<&PrivateKey>,
    ) -> Result<(Vec<u8>, Iv), Fault> {
        let life = life_of(&asking.config);
        let proposals: Vec<Proposal> =
            offer::offer(&asking.config.proposals, asking.spi, asking.terms, life);
        if proposals.is_empty() {
            return Err(Fault::Incompatible(Incompatible::Proposal));
        }
        let unsayable = Fault::Incompatible(Incompatible::Selectors);
        let local = Client::of(&asking.local).ok_or(unsayable)?;
        let remote = Client::of(&asking.remote).ok_or(unsayable)?;
        let mut list = self.session.list();
        list.push(&SaPayload { proposals: &proposals });
        list.push(&Nonce::new(&asking.nonce)?);
        if let Some(key) = key {
            list.push(&KeyExchange { data: key.public() });
        }
        list.push(&local.payload());
        list.push(&remote.payload());
        asking.terms.push_original(&mut list, head.path.local.ip(), head.path.remote.ip());
        self.session.seal(ExchangeType::QuickMode, id, self.session.iv(id), &[], &list)
    }

    /// A second message that is authentic.
    pub(super) fn answered(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        id: MessageId,
        mut exchange: Exchange,
        state: QuickSent,
        opened: &Opened,
    ) {
        let QuickSent { asking, key, .. } = state;
        let read = opened
            .payloads()
            .map_err(Fault::from)
            .and_then(|payloads| content(&payloads))
            .and_then(|content| check(head, &asking, key.as_deref(), &content));
        let (answer, peer) = match read {
            Ok(read) => read,
            Err(fault) => {
                // The peer believes that it made an SA.
                if let Fault::Invalid(_) | Fault::Misbehaved(_) = fault {
                    cx.stats.invalid_packets_received += 1;
                }
                self.disown(head, cx, &asking);
                return self.not_made(head, cx, asking, fault.failure());
            }
        };
        match (peer, key) {
            (Some(peer), Some(key)) => {
                let job = cx.job(head.id, true, Work::Agree(key, peer));
                exchange.quick = Quick::Agreeing(Agreeing { job, asking, answer });
                self.exchanges.insert(id.0, exchange);
            }
            _ => self.conclude(head, cx, id, exchange, asking, answer, None),
        }
    }

    pub(super) fn agreed(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        id: MessageId,
        exchange: Exchange,
        state: Agreeing,
        result: Result<Product, KeyExchangeError>,
    ) {
        let Agreeing { asking, answer, .. } = state;
        let failure = match result {
            Ok(Product::Secret(shared)) => {
                let shared = Some(shared.as_bytes());
                return self.conclude(head, cx, id, exchange, asking, answer, shared);
            }
            Err(KeyExchangeError::PeerValue) => Failure::KeyExchange,
            _ => Failure::Local,
        };
        self.disown(head, cx, &asking);
        self.not_made(head, cx, asking, failure);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the values of one exchange, each of another kind"
    )]
    fn conclude(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        id: MessageId,
        mut exchange: Exchange,
        asking: Asking,
        answer: Answer,
        shared: Option<&[u8]>,
    ) {
        let Answer { choice, nr, local, remote, responder_lifetime } = answer;
        let live = |pair: &PairId| self.children.contains_key(pair);
        let replaces: Vec<PairId> = asking.replaces.iter().copied().filter(live).collect();
        let selectors = narrowing::selectors(&[local], &[remote]).unwrap_or_default();
        let agreed = Agreed {
            config: Arc::clone(&asking.config),
            spi_in: asking.spi,
            spi_out: choice.spi,
            number: 0,
            chosen: choice.chosen,
            mode: asking.terms.mode,
            selectors,
            tsi: Vec::new(),
            tsr: Vec::new(),
            replaces: replaces.last().copied(),
            acquired: asking.acquired,
            // IKEv1 has no word for it.
            no_tfc: true,
            later_fragments: false,
        };
        let life = shorter(choice.life, responder_lifetime);
        let values = Values { ni: &asking.nonce, nr: &nr, shared };
        let prepared = match self.prepare(head, cx, agreed, &choice, life, &values) {
            Ok(prepared) => prepared,
            Err(fault) => {
                // The SPI has gone back already.
                cx.stats.negotiation_failures += 1;
                cx.tag_done(asking.tag, Err(fault.failure()));
                if asking.acquired {
                    head.acquired(cx, &asking.config.name, Err(fault.failure()));
                }
                if let Some(old) = asking.rekeys {
                    self.retry_rekey(cx, old);
                }
                return;
            }
        };
        let Prepared { mut child, inbound, outbound, .. } = prepared;
        let pair = child.pair;
        let commit = exchange.committed;
        install_inbound(cx, head, &child, inbound);
        let activate = match (commit, replaces.is_empty()) {
            (true, _) => Activate::WhenTold,
            (false, true) => Activate::Now,
            (false, false) => Activate::OnInboundTraffic,
        };
        child.waits_for_traffic = activate != Activate::Now;
        install_outbound(cx, head, &child, outbound, activate);
        self.children.insert(pair, child);
        let Asking { nonce, tag, .. } = asking;
        exchange.quick = Quick::Confirming(Confirming { pair, nonce, nr, replaces, tag });
        self.exchanges.insert(id.0, exchange);
    }

    /// A quick mode of ours comes to nothing.
    pub(super) fn not_made(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        asking: Asking,
        reason: Failure,
    ) {
        cx.stats.negotiation_failures += 1;
        head.info(cx, format_args!("CHILD_SA {} not made: {reason}", asking.config.name));
        let rekeys = asking.rekeys;
        asking.give_back(head, cx, reason);
        if let Some(old) = rekeys {
            self.retry_rekey(cx, old);
        }
    }

    /// Tells the peer that an SA it believes in never came to be.
    fn disown(&mut self, head: &Head, cx: &mut Cx<'_>, asking: &Asking) {
        let protocol = match asking.config.proposals.first().map(|p| p.protocol) {
            Some(crate::proposal::ProposalProtocol::Ah) => ipsec::sa::Protocol::Ah,
            _ => ipsec::sa::Protocol::Esp,
        };
        self.send_delete(head, cx, protocol, &[asking.spi]);
    }
}

/// Checks an answer: what we offered, a KE payload if ours had one, and our identities or narrower ones.
fn check(
    head: &Head,
    asking: &Asking,
    key: Option<&PrivateKey>,
    content: &Content<'_>,
) -> Result<(Answer, Option<Vec<u8>>), Fault> {
    let choice = offer::accepted(&asking.config.proposals, &content.sa, asking.terms)
        .ok_or(Fault::Misbehaved(Misbehaved::NotOffered))?;
    let peer = match (key, content.ke) {
        (None, None) => None,
        (Some(key), Some(ke)) if ke.len() == key.group().response_len() => Some(ke.to_vec()),
        _ => return Err(Fault::Misbehaved(Misbehaved::KeyValue)),
    };
    // Without identities the answer means what we asked for.
    let (local, remote) = match content.clients {
        None => (asking.local, asking.remote),
        Some(_) => {
            let (near, far) = (head.path.local.ip(), head.path.remote.ip());
            let (local, remote) = clients(content, near, far)?;
            let terms = asking.terms;
            (seen(local, head.nat.local, near, terms), seen(remote, head.nat.remote, far, terms))
        }
    };
    if !narrowing::all_within(&[local], &[asking.local])
        || !narrowing::all_within(&[remote], &[asking.remote])
    {
        return Err(Fault::Misbehaved(Misbehaved::WiderSelectors));
    }
    narrowing::selectors(&[local], &[remote])
        .ok_or(Fault::Incompatible(Incompatible::Selectors))?;
    let nr = content.nonce.to_vec();
    let responder_lifetime = content.responder_lifetime;
    Ok((Answer { choice, nr, local, remote, responder_lifetime }, peer))
}

/// The shorter of two lifetimes, kind by kind.
pub(super) fn shorter(a: Life, b: Life) -> Life {
    Life {
        time: a.time.into_iter().chain(b.time).min(),
        kilobytes: a.kilobytes.into_iter().chain(b.kilobytes).min(),
    }
}
