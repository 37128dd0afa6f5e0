//! Quick mode as responder.

use super::{
    Content, DEFAULT_LIFE, Exchange, First, Quick, Values, clients, content, life_of, over, seen,
    terms,
};
use crate::config::{self, ChildMode};
use crate::context::Cx;
use crate::event::{Activate, InstallId};
use crate::job::{Product, Work};
use crate::message::v1::{
    DOI_IPSEC, KeyExchange, Nonce, Notify, NotifyType, PayloadType, SaPayload,
};
use crate::message::v2::TrafficSelector;
use crate::message::{ExchangeType, MessageId, ProtocolId};
use crate::narrowing;
use crate::v1::established::{Established, later};
use crate::v1::offer::{self, Choice, Terms};
use crate::v1::phase1;
use crate::v1::suite::Life;
use crate::v2::child::{Agreed, Prepared, install_inbound, install_outbound};
use crate::v2::fault::{Fault, Incompatible, Misbehaved};
use crate::v2::init::OwnNonce;
use crate::v2::sa::Head;
use crate::v2::window::Sent;
use crate::view::Role;
use ipsec::sa::{PairId, SaParameters, Spi};
use keyexchange::{Group, KeyExchangeError};
use std::sync::Arc;

/// The peer's key exchange value.
type PeerValue = (Group, Vec<u8>);

/// What was asked for and can be given.
pub(crate) struct Wanted {
    config: Arc<config::Child>,
    spi: Spi,
    choice: Choice,
    terms: Terms,
    local: TrafficSelector,
    remote: TrafficSelector,
    ni: Vec<u8>,
    /// The ID payloads' bodies, which the answer repeats.
    ids: Vec<Vec<u8>>,
    replaces: Vec<PairId>,
}

/// Our value and the secret are being computed.
pub(crate) struct Responding {
    pub(super) job: u64,
    wanted: Wanted,
}

impl Responding {
    pub(super) fn replaces(&self) -> &[PairId] {
        &self.wanted.replaces
    }

    pub(super) fn give_back(self, cx: &mut Cx<'_>) {
        cx.spis.release(self.wanted.spi);
    }
}

/// The inbound half is on its way to the dataplane.
pub(crate) struct Installing {
    pub(super) install: InstallId,
    pub(super) pair: PairId,
    pub(super) outbound: Box<SaParameters>,
    pub(super) second: Vec<u8>,
    pub(super) ni: Vec<u8>,
    pub(super) nr: OwnNonce,
    pub(super) replaces: Vec<PairId>,
    /// Where a refusal goes.
    pub(super) peer: (ProtocolId, [u8; 4]),
}

/// The second message is on its way.
pub(crate) struct Answered {
    pub(super) sent: Sent,
    pub(super) pair: PairId,
    pub(super) outbound: Box<SaParameters>,
    pub(super) ni: Vec<u8>,
    pub(super) nr: OwnNonce,
    pub(super) replaces: Vec<PairId>,
}

impl Established {
    /// A first message that is authentic.
    pub(crate) fn asked(&mut self, head: &mut Head, cx: &mut Cx<'_>, first: &First) {
        let First { id, opened, digest, committed } = first;
        let id = *id;
        let Ok(payloads) = opened.payloads() else {
            cx.stats.invalid_packets_received += 1;
            return;
        };
        let mut exchange = Exchange::new(opened.next, over(cx.now));
        exchange.heard = Some(*digest);
        exchange.committed = *committed;
        let Ok(content) = content(&payloads) else {
            cx.stats.invalid_packets_received += 1;
            return;
        };
        match self.choose(head, cx, &content) {
            Ok((mut wanted, peer)) => {
                wanted.ids = payloads
                    .chain()
                    .iter()
                    .filter(|raw| raw.number == PayloadType::Identification.number())
                    .map(|raw| raw.body.to_vec())
                    .collect();
                match peer {
                    Some((group, value)) => {
                        let job = cx.job(head.id, true, Work::Respond(group, value));
                        let quick = Quick::Responding(Responding { job, wanted });
                        self.exchanges.insert(id.0, Exchange { quick, ..exchange });
                    }
                    None => self.answer(head, cx, id, exchange, wanted, None),
                }
            }
            Err(fault) => {
                cx.stats.negotiation_failures += 1;
                head.info(cx, format_args!("quick mode refused: {}", fault.failure()));
                let kind = refusal(fault);
                let (protocol, spi) = named(&content);
                self.send_refusal(head, cx, protocol, &spi, kind);
            }
        }
    }

    /// The first child that has the asked for traffic and a common proposal.
    fn choose(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        content: &Content<'_>,
    ) -> Result<(Wanted, Option<PeerValue>), Fault> {
        // Also where another ISAKMP SA has taken over: the peer may not know of that one yet, and the pair follows.
        if !self.has_room() {
            return Err(crate::event::SpiRefused.into());
        }
        let (near, far) = self.hosts(head);
        let (asked_remote, asked_local) = clients(content, far, near)?;
        let mut fault = Fault::Incompatible(Incompatible::Selectors);
        let connection = Arc::clone(&head.connection);
        for child in &connection.children {
            let ChildMode::Protect(_) = child.mode else { continue };
            let terms = terms(child, head, self, None);
            let local = seen(asked_local, head.nat.local, near, terms);
            let remote = seen(asked_remote, head.nat.remote, far, terms);
            let within = |wanted, configured: &[config::TrafficSelector], host| {
                let offered = narrowing::offered(configured, host);
                offered.iter().any(|one| narrowing::all_within(&[wanted], &[*one]))
            };
            if !within(local, &child.local_ts, near) || !within(remote, &child.remote_ts, far) {
                continue;
            }
            let Some(choice) = offer::choose(&child.proposals, &content.sa, terms) else {
                fault = Fault::Incompatible(Incompatible::Proposal);
                continue;
            };
            let peer = key_exchange(&choice, content)?;
            let selectors = narrowing::selectors(&[local], &[remote])
                .ok_or(Fault::Incompatible(Incompatible::Selectors))?;
            let replaces = self.same_traffic(&child.name, &selectors);
            let inherit =
                replaces.last().and_then(|pair| self.children.get(pair)).map(|c| c.spi_in);
            let spi = cx.allocate(head.path.remote.ip(), inherit)?;
            let wanted = Wanted {
                config: Arc::clone(child),
                spi,
                choice,
                terms,
                local,
                remote,
                ni: content.nonce.to_vec(),
                ids: Vec::new(),
                replaces,
            };
            return Ok((wanted, peer));
        }
        Err(fault)
    }

    pub(super) fn responded(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        id: MessageId,
        exchange: Exchange,
        state: Responding,
        result: Result<Product, KeyExchangeError>,
    ) {
        match result {
            Ok(Product::Response(public, shared)) => {
                let made = Some((public.as_slice(), shared.as_bytes()));
                self.answer(head, cx, id, exchange, state.wanted, made);
            }
            result => {
                cx.stats.negotiation_failures += 1;
                if let Err(KeyExchangeError::PeerValue) = result {
                    cx.stats.invalid_packets_received += 1;
                }
                let Wanted { spi, choice, .. } = state.wanted;
                cx.spis.release(spi);
                let protocol = offer::protocol_id(choice.chosen.protocol);
                let theirs = choice.spi.get().to_be_bytes();
                let kind = NotifyType::InvalidKeyInformation;
                self.send_refusal(head, cx, protocol, &theirs, kind);
            }
        }
    }

    /// Makes the pair and the second message, which waits for the inbound half.
    fn answer(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        id: MessageId,
        mut exchange: Exchange,
        wanted: Wanted,
        made: Option<(&[u8], &[u8])>,
    ) {
        let Wanted { config, spi, choice, terms, local, remote, ni, ids, replaces } = wanted;
        let protocol = offer::protocol_id(choice.chosen.protocol);
        let peer = (protocol, choice.spi.get().to_be_bytes());
        let live = |pair: &PairId| self.children.contains_key(pair);
        let replaces: Vec<PairId> = replaces.into_iter().filter(live).collect();
        let nr: OwnNonce = cx.random.array();
        let ours = life_of(&config);
        let offered = Life {
            // RFC 2407 §4.5: what names no time means eight hours; where we have none either, there is none.
            time: choice.life.time.or(ours.time.map(|_| DEFAULT_LIFE)),
            kilobytes: choice.life.kilobytes,
        };
        let agreed = Agreed {
            config,
            spi_in: spi,
            spi_out: choice.spi,
            number: 0,
            chosen: choice.chosen,
            mode: terms.mode,
            selectors: narrowing::selectors(&[local], &[remote]).unwrap_or_default(),
            tsi: Vec::new(),
            tsr: Vec::new(),
            replaces: replaces.last().copied(),
            acquired: false,
            // IKEv1 has no word for it.
            no_tfc: true,
            later_fragments: false,
        };
        let values = Values { ni: &ni, nr: &nr, shared: made.map(|(_, shared)| shared) };
        let life = super::ask::shorter(offered, ours);
        let Ok(prepared) = self.prepare(head, cx, agreed, &choice, life, &values) else {
            cx.stats.negotiation_failures += 1;
            let kind = NotifyType::NoProposalChosen;
            return self.send_refusal(head, cx, peer.0, &peer.1, kind);
        };
        let mut list = self.session.list();
        let proposals = [choice.answer(spi)];
        list.push(&SaPayload { proposals: &proposals });
        if let Ok(nonce) = Nonce::new(&nr) {
            list.push(&nonce);
        }
        if let Some((public, _)) = made {
            list.push(&KeyExchange { data: public });
        }
        for id in &ids {
            list.push_raw(PayloadType::Identification.number(), false, id);
        }
        terms.push_original(&mut list, head.path.remote.ip(), head.path.local.ip());
        let data = phase1::responder_lifetime(offered, ours);
        if !data.is_empty() {
            let spi = spi.get().to_be_bytes();
            let kind = NotifyType::ResponderLifetime;
            list.push(&Notify { doi: DOI_IPSEC, protocol, spi: &spi, kind, data: &data });
        }
        let sealed = self.session.seal(ExchangeType::QuickMode, id, exchange.iv, &[&ni], &list);
        let Prepared { mut child, inbound, outbound, .. } = prepared;
        let pair = child.pair;
        child.rekey_at = child.rekey_at.map(|at| later(Role::Responder, at, child.expire_at));
        let Ok((second, iv)) = sealed else {
            cx.stats.negotiation_failures += 1;
            cx.spis.release(spi);
            cx.effect(crate::context::Effect::Forget(pair));
            return;
        };
        let install = install_inbound(cx, head, &child, inbound);
        self.children.insert(pair, child);
        exchange.iv = iv;
        exchange.quick = Quick::Installing(Installing {
            install,
            pair,
            outbound,
            second,
            ni,
            nr,
            replaces,
            peer,
        });
        self.exchanges.insert(id.0, exchange);
    }

    /// A third message that is authentic: the outbound half follows.
    pub(super) fn confirmed(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        id: MessageId,
        mut exchange: Exchange,
        state: Answered,
    ) {
        let Answered { pair, outbound, replaces, .. } = state;
        let Some(child) = self.children.get_mut(&pair) else {
            exchange.quick = over(cx.now);
            self.exchanges.insert(id.0, exchange);
            return;
        };
        child.waits_for_traffic = exchange.committed;
        let activate = if exchange.committed { Activate::WhenTold } else { Activate::Now };
        install_outbound(cx, head, child, outbound, activate);
        self.finish(head, cx, id, exchange, (pair, replaces), super::ANSWERER_LINGERS);
    }
}

/// The group and the peer's value, where the chosen transform has one: both must be there or neither.
fn key_exchange(choice: &Choice, content: &Content<'_>) -> Result<Option<(Group, Vec<u8>)>, Fault> {
    let wrong = Fault::Misbehaved(Misbehaved::KeyValue);
    match (choice.chosen.group.map(Group::from_number), content.ke) {
        (None, None) => Ok(None),
        (Some(Some(group)), Some(ke)) if ke.len() == group.public_len() => {
            Ok(Some((group, ke.to_vec())))
        }
        _ => Err(wrong),
    }
}

/// The first proposal's protocol and SPI: what a refusal names.
fn named(content: &Content<'_>) -> (ProtocolId, Vec<u8>) {
    let first = content.sa.proposals().next();
    first.map_or((ProtocolId::Esp, Vec::new()), |p| (p.protocol, p.spi.to_vec()))
}

const fn refusal(fault: Fault) -> NotifyType {
    match fault {
        Fault::Incompatible(Incompatible::Selectors) => NotifyType::InvalidIdInformation,
        Fault::Misbehaved(Misbehaved::KeyValue) => NotifyType::InvalidKeyInformation,
        Fault::Invalid(_) | Fault::Misbehaved(_) => NotifyType::PayloadMalformed,
        Fault::Incompatible(_) | Fault::Authentication | Fault::Refused(_) | Fault::Local(_) => {
            NotifyType::NoProposalChosen
        }
    }
}
