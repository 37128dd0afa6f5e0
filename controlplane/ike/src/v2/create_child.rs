//! CREATE_CHILD_SA for Child SAs, new ones and successors (RFC 7296 §1.3.1, §1.3.3, §2.8, §2.25.1).
//!
//! ```text
//! HDR, SK {[N(REKEY_SA),] SA, Ni, [KEi,] TSi, TSr}  -->
//!                             <--  HDR, SK {SA, Nr, [KEr,] TSi, TSr}
//! ```

use super::child::{Agreed, ChildRequest, ChildSa, Phase, Side, Values};
use super::established::{Answering, Current, Established, Finishing, Plan, Reply, Request};
use super::fault::{Fault, Incompatible, Local, Misbehaved};
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
    // As the side that asks.

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

    // As the side that answers.

    /// Takes a CREATE_CHILD_SA request.
    pub(crate) fn create_child_request(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        payloads: &Payloads<'_>,
    ) -> Result<(), Fault> {
        let missing = Fault::Misbehaved(Misbehaved::Missing);
        let sa = payloads.sa().ok_or(missing)?;
        if sa.proposals().any(|p| p.protocol == ProtocolId::Ike) {
            return self.ike_rekey_request(head, cx, payloads);
        }
        let busy = Fault::Local(Local::Busy);
        let gone = Fault::Local(Local::NoSuchChild);
        if !self.is_active() || self.is_rekeying() {
            // RFC 7296 §2.25.2.
            return Err(busy);
        }
        if !self.has_room() {
            return Err(Fault::Local(Local::Dataplane));
        }
        let old = match payloads.notify(NotifyType::RekeySa) {
            None => None,
            Some(notify) => {
                // RFC 7296 §2.25: what the answer on its way to us may tell of is not known to be missing.
                let unknown = if self.is_asking_child() { busy } else { gone };
                let old = self.named(&notify).ok_or(unknown)?;
                match old.phase {
                    Phase::Installing | Phase::Installed | Phase::Rekeying => Some(old),
                    // RFC 7296 §2.25.1: it is being closed.
                    Phase::Deleting | Phase::Rekeyed => return Err(busy),
                    Phase::Lingering { .. } => return Err(gone),
                }
            }
        };
        let ni = payloads.nonce().ok_or(missing)?.data().to_vec();
        let agreed = Agreed::choose(cx, head, payloads, KeyExchangeUse::Offered, old).inspect_err(
            |fault| {
                // The peer tries again with the right group: no failure yet.
                if !matches!(fault, Fault::Incompatible(Incompatible::Group(_))) {
                    cx.stats.negotiation_failures += 1;
                }
            },
        )?;
        let Some(group) = agreed.chosen.group.and_then(Group::from_number) else {
            return self.answer_child(head, cx, agreed, &ni, None);
        };
        let spi = agreed.spi_in;
        match payloads.key_exchange() {
            Some(ke) if ke.data.len() == group.public_len() => {
                let job = cx.job(head.id, true, Work::Respond(group, ke.data.to_vec()));
                let keying = Box::new(ChildKeying { agreed, ni, group });
                self.answering = Answering::ChildKeying { job, keying };
                Ok(())
            }
            _ => {
                cx.spis.release(spi);
                cx.stats.negotiation_failures += 1;
                Err(Fault::Misbehaved(Misbehaved::KeyValue))
            }
        }
    }

    /// The Child SA that a notify names by the SPI its sender receives on.
    fn named(&self, notify: &Notify<'_>) -> Option<&ChildSa> {
        let spi = u32::from_be_bytes(notify.spi.try_into().ok()?);
        let mut children = self.children.values();
        children.find(|c| c.spi_out.get() == spi && protocol_id(c.protocol) == notify.protocol)
    }

    pub(crate) fn child_keyed(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        keying: ChildKeying,
        result: Result<Product, KeyExchangeError>,
    ) -> Result<(), Fault> {
        let ChildKeying { agreed, ni, group } = keying;
        let fault = match result {
            Ok(Product::Response(public, shared)) => {
                return self.answer_child(head, cx, agreed, &ni, Some((group, public, shared)));
            }
            Err(KeyExchangeError::PeerValue) => Fault::Misbehaved(Misbehaved::KeyValue),
            _ => Fault::Local(Local::Library),
        };
        cx.spis.release(agreed.spi_in);
        cx.stats.negotiation_failures += 1;
        Err(fault)
    }

    fn answer_child(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        agreed: Agreed,
        ni: &[u8],
        exchanged: Option<(Group, Vec<u8>, SharedSecret)>,
    ) -> Result<(), Fault> {
        // While the key exchange was computed the SA may have got a successor or its delete, the child another fate.
        let replaces = agreed.replaces;
        let fits = match replaces {
            None => true,
            Some(old) => self.children.get(&old).is_some_and(ChildSa::is_live),
        };
        if !fits || !self.is_active() {
            cx.spis.release(agreed.spi_in);
            return Err(Fault::Local(Local::Busy));
        }
        let nr: OwnNonce = cx.random.array();
        let shared = exchanged.as_ref().map(|(_, _, shared)| shared);
        let values = Values { d: &self.keys.d, ni, nr: &nr, shared };
        let prepared = agreed
            .prepare(cx, head, &values, Side::Answering)
            .inspect_err(|_| cx.stats.negotiation_failures += 1)?;
        let mut accepted = PayloadList::new();
        prepared.push_sa(&mut accepted);
        init::push_nonce(&mut accepted, &nr);
        if let Some((group, public, _)) = &exchanged {
            let method = KeMethod::from_number(group.number());
            accepted.push(&KeyExchange { method, data: public });
        }
        prepared.push_selectors(&mut accepted);
        let mut refused = PayloadList::new();
        refused.push(&Notify::new(NotifyType::NoAdditionalSas, &[]));
        let reply = Reply {
            exchange: ExchangeType::CreateChildSa,
            accepted,
            refused,
            lowest: lowest(ni, &nr).to_vec(),
        };
        self.install_answering(head, cx, prepared, reply);
        Ok(())
    }

    /// A successor that the peer asked for is there and answered.
    pub(crate) fn answered_rekey(&mut self, cx: &mut Cx<'_>, pair: PairId, lowest: Vec<u8>) {
        let Some(old) = self.children.get(&pair).and_then(|child| child.replaces) else { return };
        self.replaced(cx, old);
        let ours = match &mut self.current {
            Current::Waiting { request: Request::Child(asking), .. } => asking.as_mut(),
            Current::Finishing { finishing: Finishing::Child(finishing), .. } => {
                &mut finishing.asking
            }
            _ => return,
        };
        if ours.child.replaces == Some(old) {
            ours.rival = Some(Rival { pair, lowest });
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
