//! CREATE_CHILD_SA for Child SAs, new ones and successors (RFC 7296 §1.3.1, §1.3.3, §2.8, §2.25.1).
//!
//! ```text
//! HDR, SK {[N(REKEY_SA),] SA, Ni, [KEi,] TSi, TSr}  -->
//!                             <--  HDR, SK {SA, Nr, [KEr,] TSi, TSr}
//! ```
//!
//! Here as the side that asks; `answer` is the other one.

mod answer;

use super::child::{Agreed, ChildRequest, Phase, Side, Values};
use super::established::{Current, Established, Finishing, Plan, Request};
use super::fault::{Fault, Misbehaved};
use super::init::{self, OwnNonce};
use super::sa::Head;
use super::task::{Queued, Task};
use crate::config;
use crate::context::Cx;
use crate::event::{Failure, Outcome, RequestId};
use crate::job::{Product, Work};
use crate::message::v2::{KeyExchange, Notify, Payloads};
use crate::message::{ExchangeType, KeMethod, NotifyType, PayloadList, ProtocolId};
use crate::proposal::select::KeyExchangeUse;
use core::time::Duration;
use ipsec::sa::{PairId, Protocol};
use ipsec::selector::Selector;
use keyexchange::{Group, KeyExchangeError, PrivateKey, SharedSecret};
use std::sync::Arc;

/// How often a new child is asked for again after TEMPORARY_FAILURE.
const MAX_ATTEMPTS: u8 = 5;

/// The wait after TEMPORARY_FAILURE or a failed rekey: 10 to 30 s as in charon, at random so that two sides do not meet
/// again.
pub(crate) fn retry_after(cx: &mut Cx<'_>) -> Duration {
    Duration::from_secs(10) + cx.random.below(Duration::from_secs(20))
}

/// A Child SA that we ask for by CREATE_CHILD_SA.
pub(crate) struct Asking {
    child: ChildRequest,
    nonce: OwnNonce,
    group: Option<Group>,
    tried: Vec<u16>,
    key: Option<Box<PrivateKey>>,
    packet: Option<Selector>,
    tag: Option<RequestId>,
    attempts: u8,
    rival: Option<Rival>,
}

/// The successor that the peer made for the same Child SA while our request was under way.
struct Rival {
    pair: PairId,
    lowest: Vec<u8>,
}

/// An answered request that waits for its secret.
pub(crate) struct ChildFinishing {
    asking: Asking,
    agreed: Agreed,
    nr: Vec<u8>,
}

/// The peer's request, while our value and the secret are computed.
pub(crate) struct ChildKeying {
    agreed: Agreed,
    ni: Vec<u8>,
    group: Group,
}

impl Asking {
    /// The request comes to nothing.
    pub(crate) fn give_back(self, head: &mut Head, cx: &mut Cx<'_>, reason: Failure) {
        cx.spis.release(self.child.spi);
        cx.tag_done(self.tag, Err(reason));
        if self.child.acquired {
            head.acquired(cx, &self.child.config.name, Err(reason));
        }
    }
}

impl ChildFinishing {
    pub(crate) fn give_back(self, head: &mut Head, cx: &mut Cx<'_>, reason: Failure) {
        self.asking.give_back(head, cx, reason);
    }
}

impl ChildKeying {
    pub(crate) fn give_back(self, cx: &mut Cx<'_>) {
        cx.spis.release(self.agreed.spi_in);
    }
}

impl Established {
    pub(crate) fn ask_new_child(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        config: Arc<config::Child>,
        packet: Option<Selector>,
        attempts: u8,
    ) {
        let name = config.name.clone();
        let use_ke = KeyExchangeUse::Offered;
        let child = if self.has_room() {
            ChildRequest::new(cx, head, config, packet.as_ref(), use_ke, None)
        } else {
            Err(crate::event::SpiRefused)
        };
        match child {
            Ok(mut child) => {
                child.acquired = true;
                self.generate(head, cx, child, packet, None, attempts);
            }
            Err(_) => {
                cx.stats.negotiation_failures += 1;
                head.acquired(cx, &name, Err(Failure::Dataplane));
            }
        }
    }

    pub(crate) fn ask_child_rekey(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        pair: PairId,
        tag: Option<RequestId>,
    ) {
        let Some(old) = self.children.get(&pair).filter(|old| old.phase == Phase::Installed) else {
            return cx.tag_done(tag, Err(Failure::Replaced));
        };
        let config = Arc::clone(&old.config);
        let use_ke = KeyExchangeUse::Offered;
        match ChildRequest::new(cx, head, config, None, use_ke, Some(old)) {
            Ok(child) => {
                self.set_phase(pair, Phase::Rekeying);
                self.generate(head, cx, child, None, tag, 0);
            }
            Err(_) => {
                cx.stats.negotiation_failures += 1;
                self.retry_rekey(cx, pair);
                cx.tag_done(tag, Err(Failure::Dataplane));
            }
        }
    }

    fn generate(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        child: ChildRequest,
        packet: Option<Selector>,
        tag: Option<RequestId>,
        attempts: u8,
    ) {
        let old_group = child
            .replaces
            .and_then(|old| self.children.get(&old))
            .and_then(|old| old.suite.group)
            .and_then(Group::from_number);
        let mut groups = child.config.proposals.iter().flat_map(|p| &p.groups);
        let group = old_group.or_else(|| groups.find_map(|id| Group::from_number(*id)));
        let asking = Asking {
            nonce: cx.random.array(),
            tried: group.map(Group::number).into_iter().collect(),
            group,
            key: None,
            packet,
            tag,
            attempts,
            rival: None,
            child,
        };
        self.generate_for(head, cx, asking);
    }

    fn generate_for(&mut self, head: &mut Head, cx: &mut Cx<'_>, asking: Asking) {
        match asking.group {
            Some(group) => {
                let job = cx.job(head.id, true, Work::Generate(group));
                let asking = Plan::Child(Box::new(asking));
                self.current = Current::Generating { job, asking };
            }
            None => self.send_child(head, cx, asking, None),
        }
    }

    pub(crate) fn send_child(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        mut asking: Asking,
        key: Option<Result<Product, KeyExchangeError>>,
    ) {
        match key {
            None => {}
            Some(Ok(Product::Key(key))) => asking.key = Some(key),
            Some(_) => return self.child_not_made(head, cx, asking, Failure::Local),
        }
        if !self.is_active() {
            return asking.give_back(head, cx, Failure::Replaced);
        }
        let mut list = PayloadList::new();
        if let Some(old) = asking.child.replaces {
            let Some(old) = self.children.get(&old).filter(|old| old.phase == Phase::Rekeying)
            else {
                // The peer was faster, or the SA is gone.
                return asking.give_back(head, cx, Failure::Replaced);
            };
            let spi = old.spi_in.get().to_be_bytes();
            let protocol = protocol_id(old.protocol);
            list.push(&Notify { protocol, spi: &spi, kind: NotifyType::RekeySa, data: &[] });
        }
        asking.child.push_sa(&mut list);
        self.deleted_early.clear();
        init::push_nonce(&mut list, &asking.nonce);
        if let Some(key) = &asking.key {
            let method = KeMethod::from_number(key.group().number());
            list.push(&KeyExchange { method, data: key.public() });
        }
        asking.child.push_selectors(&mut list);
        let request = Request::Child(Box::new(asking));
        let sent = self.request(head, cx, ExchangeType::CreateChildSa, &list, request);
        if let Err((Request::Child(asking), fault)) = sent {
            self.child_not_made(head, cx, *asking, fault.failure());
        }
    }

    /// The answer to CREATE_CHILD_SA for a child.
    pub(crate) fn asked_child(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        mut asking: Asking,
        payloads: &Payloads<'_>,
    ) {
        if payloads.sa().is_none()
            && let Some(refusal) = payloads.notifies().find(|n| n.kind.is_error())
        {
            return self.child_refused(head, cx, asking, &refusal);
        }
        let checked = asking.child.answered(head, payloads).and_then(|agreed| {
            let missing = Fault::Misbehaved(Misbehaved::Missing);
            let nr = payloads.nonce().ok_or(missing)?.data().to_vec();
            let peer = match (agreed.chosen.group, payloads.key_exchange()) {
                (None, _) => None,
                (Some(group), Some(ke)) if ke.method.number() == group => Some(ke.data.to_vec()),
                (Some(_), _) => return Err(missing),
            };
            Ok((agreed, nr, peer))
        });
        let (agreed, nr, peer) = match checked {
            Ok(checked) => checked,
            Err(fault) => {
                self.disown(head, &asking.child);
                return self.child_not_made(head, cx, asking, fault.failure());
            }
        };
        match (peer, asking.key.take()) {
            (Some(peer), Some(key))
                if agreed.chosen.group == Some(key.group().number())
                    && peer.len() == key.group().response_len() =>
            {
                let job = cx.job(head.id, true, Work::Agree(key, peer));
                let finishing = Finishing::Child(Box::new(ChildFinishing { asking, agreed, nr }));
                self.current = Current::Finishing { job, finishing };
            }
            (Some(_), _) => {
                self.disown(head, &asking.child);
                self.child_not_made(head, cx, asking, Failure::KeyExchange);
            }
            (None, _) => self.conclude_child(head, cx, ChildFinishing { asking, agreed, nr }, None),
        }
    }

    pub(crate) fn finish_child(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        finishing: ChildFinishing,
        result: Result<Product, KeyExchangeError>,
    ) {
        match result {
            Ok(Product::Secret(shared)) => self.conclude_child(head, cx, finishing, Some(&shared)),
            result => {
                let reason = match result {
                    Err(KeyExchangeError::PeerValue) => Failure::KeyExchange,
                    _ => Failure::Local,
                };
                self.disown(head, &finishing.asking.child);
                self.child_not_made(head, cx, finishing.asking, reason);
            }
        }
    }

    fn conclude_child(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        finishing: ChildFinishing,
        shared: Option<&SharedSecret>,
    ) {
        let ChildFinishing { asking, agreed, nr } = finishing;
        if self.deleted_early.contains(&(agreed.protocol(), agreed.spi_out.get())) {
            return self.deleted_before_it_was(head, cx, asking);
        }
        let Asking { child, nonce, tag, rival, .. } = asking;
        if let Some(rival) = rival
            && self.children.contains_key(&rival.pair)
        {
            // RFC 7296 §2.8.1: the SA made with the lowest of the four nonces is closed by the side that made it.
            if lowest(&nonce, &nr) < rival.lowest.as_slice() {
                self.disown(head, &child);
                cx.spis.release(child.spi);
                return cx.tag_done(tag, Ok(outcome(head, Some(rival.pair))));
            }
            // The peer deletes its own; until then it is a rekeyed one.
            self.set_phase(rival.pair, Phase::Rekeyed);
        }
        let replaces = child.replaces;
        let made = self.child_answered(head, cx, child, Ok(agreed), &nonce, &nr, shared);
        if let Some(old) = replaces.filter(|old| self.children.contains_key(old)) {
            if made.is_some() {
                self.replaced(cx, old);
                let reason = Failure::Replaced;
                head.push_task(Task::DeleteChild { pair: old, reason, tag: None });
            } else {
                self.retry_rekey(cx, old);
            }
        }
        let result = made.map(|pair| outcome(head, Some(pair))).ok_or(Failure::Local);
        cx.tag_done(tag, result);
    }

    /// The peer's delete overtook its answer: what that agreed to is gone already, and so is what it was to replace.
    fn deleted_before_it_was(&mut self, head: &mut Head, cx: &mut Cx<'_>, asking: Asking) {
        let reason = Failure::DeletedByPeer;
        let followed = asking.rival.as_ref().is_some_and(|r| self.children.contains_key(&r.pair));
        if let Some(old) = asking.child.replaces.filter(|old| self.children.contains_key(old)) {
            let reason = if followed { Failure::Replaced } else { reason };
            head.push_task(Task::DeleteChild { pair: old, reason, tag: None });
        }
        asking.give_back(head, cx, reason);
    }

    /// Installs what an answer agreed to, in IKE_AUTH or CREATE_CHILD_SA; returns the pair.
    #[expect(
        clippy::too_many_arguments,
        reason = "the values of one exchange, each of another kind"
    )]
    pub(crate) fn child_answered(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        child: ChildRequest,
        agreed: Result<Agreed, Fault>,
        ni: &[u8],
        nr: &[u8],
        shared: Option<&SharedSecret>,
    ) -> Option<PairId> {
        let fault = match agreed {
            Ok(agreed) => {
                let values = Values { d: &self.keys.d, ni, nr, shared };
                match agreed.prepare(cx, head, &values, Side::Asking) {
                    Ok(prepared) => {
                        let pair = prepared.child.pair;
                        self.install_asked(head, cx, prepared);
                        return Some(pair);
                    }
                    Err(fault) => fault,
                }
            }
            Err(fault) => {
                cx.spis.release(child.spi);
                fault
            }
        };
        cx.stats.negotiation_failures += 1;
        if child.acquired {
            head.acquired(cx, &child.config.name, Err(fault.failure()));
        }
        head.info(cx, format_args!("CHILD_SA {} not made: {}", child.config.name, fault.failure()));
        if !matches!(fault, Fault::Refused(_)) {
            self.disown(head, &child);
        }
        None
    }

    fn child_refused(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        mut asking: Asking,
        refusal: &Notify<'_>,
    ) {
        match (refusal.kind, asking.child.replaces) {
            (NotifyType::InvalidKePayload, _) => {
                let wanted = <[u8; 2]>::try_from(refusal.data).ok().map(u16::from_be_bytes);
                let proposals = &asking.child.config.proposals;
                let group = wanted
                    .filter(|id| proposals.iter().any(|p| p.groups.contains(id)))
                    .filter(|id| !asking.tried.contains(id))
                    .and_then(Group::from_number);
                if let Some(group) = group {
                    asking.tried.push(group.number());
                    asking.group = Some(group);
                    asking.key = None;
                    return self.generate_for(head, cx, asking);
                }
                self.child_not_made(head, cx, asking, Failure::KeyExchange);
            }
            (NotifyType::TemporaryFailure, None) if asking.attempts < MAX_ATTEMPTS => {
                cx.spis.release(asking.child.spi);
                let not_before = Some(cx.now + retry_after(cx));
                let config = asking.child.config;
                let task = Task::CreateChild { config, packet: asking.packet };
                head.push_task(Queued { task, not_before, attempts: asking.attempts + 1 });
            }
            (NotifyType::TemporaryFailure, Some(old)) => {
                // Not a failure of the negotiation: it is only put off.
                self.retry_rekey(cx, old);
                asking.give_back(head, cx, Failure::Refused(refusal.kind.number()));
            }
            (NotifyType::ChildSaNotFound, Some(old)) => {
                // RFC 7296 §2.25.1: the peer has it no more; a new one takes its place.
                let config = Arc::clone(&asking.child.config);
                asking.give_back(head, cx, Failure::DeletedByPeer);
                if let Some(child) = self.children.get(&old).filter(|child| child.is_live()) {
                    // It may be one that the peer has yet to hear of: our answer is still on its way there.
                    let (protocol, spi) = (child.protocol, child.spi_in);
                    head.push_task(Task::DeleteSpi { protocol, spi });
                    self.remove_child(head, cx, old, Failure::DeletedByPeer);
                    head.push_task(Task::CreateChild { config, packet: None });
                }
            }
            (kind, _) => {
                let reason = Fault::Refused(kind).failure();
                self.child_not_made(head, cx, asking, reason);
            }
        }
    }

    /// A child or successor is not made, and will not be tried at once again.
    fn child_not_made(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        asking: Asking,
        reason: Failure,
    ) {
        cx.stats.negotiation_failures += 1;
        if let Some(old) = asking.child.replaces {
            self.retry_rekey(cx, old);
        }
        asking.give_back(head, cx, reason);
    }

    /// A rekey failed: the old one stays in use and is tried again later.
    fn retry_rekey(&mut self, cx: &mut Cx<'_>, pair: PairId) {
        let at = cx.now + retry_after(cx);
        if let Some(child) = self.children.get_mut(&pair)
            && matches!(child.phase, Phase::Rekeying | Phase::Installed)
        {
            child.phase = Phase::Installed;
            child.rekey_at = Some(at);
        }
    }

    /// Tells the peer that its half of a child that we do not have is to go.
    pub(crate) fn disown(&mut self, head: &mut Head, child: &ChildRequest) {
        let protocol = match child.config.proposals.first().map(|p| p.protocol) {
            Some(crate::proposal::ProposalProtocol::Ah) => Protocol::Ah,
            _ => Protocol::Esp,
        };
        head.push_task(Task::DeleteSpi { protocol, spi: child.spi });
    }

    /// A successor is there.
    fn replaced(&mut self, cx: &mut Cx<'_>, old: PairId) {
        if let Some(old) = self.children.get_mut(&old) {
            if old.phase != Phase::Rekeyed {
                cx.stats.child_rekeys += 1;
            }
            old.phase = Phase::Rekeyed;
        }
    }

    fn set_phase(&mut self, pair: PairId, phase: Phase) {
        if let Some(child) = self.children.get_mut(&pair) {
            child.phase = phase;
        }
    }

    /// Whether the peer may have made a Child SA for us that we have not heard of yet.
    pub(crate) fn is_asking_child(&self) -> bool {
        matches!(
            &self.current,
            Current::Waiting { request: Request::Child(_), .. }
                | Current::Finishing { finishing: Finishing::Child(_), .. }
        )
    }

    /// Whether we are asking for or deleting a child: an IKE SA is not rekeyed then (RFC 7296 §2.25.1).
    pub(crate) fn is_changing_children(&self) -> bool {
        match &self.current {
            Current::Idle => false,
            Current::Generating { asking, .. } => matches!(asking, Plan::Child(_)),
            Current::Waiting { request, .. } => matches!(
                request,
                Request::Child(_) | Request::DeleteChild { .. } | Request::DeleteSpi
            ),
            Current::Finishing { finishing, .. } => matches!(finishing, Finishing::Child(_)),
        }
    }
}

/// The lower of two nonces, octet by octet (RFC 7296 §2.8.1).
pub(crate) fn lowest<'a>(a: &'a [u8], b: &'a [u8]) -> &'a [u8] {
    a.min(b)
}

pub(crate) const fn protocol_id(protocol: Protocol) -> ProtocolId {
    match protocol {
        Protocol::Ah => ProtocolId::Ah,
        Protocol::Esp => ProtocolId::Esp,
    }
}

fn outcome(head: &Head, pair: Option<PairId>) -> Outcome {
    Outcome { matched: 1, ike: Some(head.id), pair }
}
