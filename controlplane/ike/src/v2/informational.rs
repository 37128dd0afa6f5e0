//! INFORMATIONAL: deletes and liveness (RFC 7296 §1.4, §2.4, §2.25).

use super::addresses;
use super::child::Phase;
use super::create_child::protocol_id;
use super::established::{Current, Established, Life, Request};
use super::sa::{Head, State};
use super::task::Task;
use crate::config;
use crate::context::Cx;
use crate::event::{Event, Failure, Outcome, RequestId};
use crate::message::v2::{Delete, Payloads};
use crate::message::{ExchangeType, NotifyType, PayloadList, ProtocolId};
use ipsec::sa::{PairId, Protocol, Spi};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Deletes that are remembered while an answer is on its way. It can tell of one SA only; the peer may close others that
/// we let go of meanwhile.
const MAX_DELETED_EARLY: usize = 16;

impl Established {
    // As the side that asks.

    pub(crate) fn ask_liveness(&mut self, head: &mut Head, cx: &mut Cx<'_>) {
        self.inform(head, cx, &PayloadList::new(), Request::Liveness);
    }

    pub(crate) fn ask_delete_child(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        pair: PairId,
        reason: Failure,
        tag: Option<RequestId>,
    ) {
        let live = |phase| !matches!(phase, Phase::Lingering { .. });
        let Some(child) = self.children.get_mut(&pair).filter(|child| live(child.phase)) else {
            let outcome = Outcome { matched: 1, ike: Some(head.id), pair: Some(pair) };
            return cx.tag_done(tag, Ok(outcome));
        };
        child.phase = Phase::Deleting;
        let mut list = PayloadList::new();
        let spi = child.spi_in.get().to_be_bytes();
        list.push(&Delete::children(protocol_id(child.protocol), &[spi]));
        self.inform(head, cx, &list, Request::DeleteChild { pair, reason, tag });
    }

    pub(crate) fn ask_delete_spi(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        protocol: Protocol,
        spi: Spi,
    ) {
        let mut list = PayloadList::new();
        list.push(&Delete::children(protocol_id(protocol), &[spi.get().to_be_bytes()]));
        self.inform(head, cx, &list, Request::DeleteSpi);
    }

    pub(crate) fn ask_delete_ike(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        reason: Failure,
        reauthenticate: bool,
        tag: Option<RequestId>,
    ) {
        // One with a successor ends quietly.
        if self.is_active() {
            self.life = Life::Deleting { reason, reauthenticate };
        }
        let mut list = PayloadList::new();
        list.push(&Delete::IKE);
        self.inform(head, cx, &list, Request::DeleteIke { tag });
    }

    fn inform(&mut self, head: &mut Head, cx: &mut Cx<'_>, list: &PayloadList, request: Request) {
        // A request that cannot even be protected is given up here; the hard lifetime ends such an SA.
        if let Err((Request::DeleteChild { tag, .. } | Request::DeleteIke { tag }, fault)) =
            self.request(head, cx, ExchangeType::Informational, list, request)
        {
            cx.tag_done(tag, Err(fault.failure()));
        }
    }

    /// Our delete is answered.
    pub(crate) fn deleted_child(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        pair: PairId,
        reason: Failure,
    ) {
        if reason == Failure::Replaced {
            self.linger(cx, pair);
        } else {
            self.remove_child(head, cx, pair, reason);
        }
    }

    /// Takes a Child SA away at once; the peer is told if nothing else is under way.
    pub(crate) fn force_delete_child(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        pair: PairId,
        tag: Option<RequestId>,
    ) {
        if let Some(child) = self.children.get(&pair) {
            let (protocol, spi) = (child.protocol, child.spi_in);
            head.push_task(Task::DeleteSpi { protocol, spi });
        }
        self.remove_child(head, cx, pair, Failure::Terminated);
        let outcome = Outcome { matched: 1, ike: Some(head.id), pair: Some(pair) };
        cx.tag_done(tag, Ok(outcome));
    }

    // As the side that answers.

    /// Takes an INFORMATIONAL request.
    pub(crate) fn informational_request(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        payloads: &Payloads<'_>,
    ) -> State {
        let exchange = ExchangeType::Informational;
        // RFC 7296 §2.21.2: the initiator found our AUTH wrong after we thought all was well.
        if payloads.notify(NotifyType::AuthenticationFailed).is_some() {
            cx.stats.authentication_failures_psk += 1;
            self.respond(head, cx, exchange, &PayloadList::new());
            return self.close(head, cx, Failure::Authentication);
        }
        if payloads.deletes().any(|delete| delete.protocol == ProtocolId::Ike) {
            self.respond(head, cx, exchange, &PayloadList::new());
            let reason = match self.life {
                Life::Deleting { reason, .. } => reason,
                Life::Active | Life::Rekeyed { .. } => Failure::DeletedByPeer,
            };
            return self.close(head, cx, reason);
        }
        let mut list = PayloadList::new();
        for protocol in [Protocol::Esp, Protocol::Ah] {
            let spis = self.delete_children(head, cx, protocol, payloads);
            if !spis.is_empty() {
                list.push(&Delete::children(protocol_id(protocol), &spis));
            }
        }
        addresses::push_what_the_peer_has(head, cx, payloads, &mut list);
        self.respond(head, cx, exchange, &list);
        State::Established(self)
    }

    /// Deletes what the peer names and returns our SPIs for the answer. A pair whose delete of ours is on its way is not
    /// among them, nor is one that we do not know (RFC 7296 §1.4.1, §2.25.1).
    fn delete_children(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        protocol: Protocol,
        payloads: &Payloads<'_>,
    ) -> Vec<[u8; 4]> {
        let by_spi: BTreeMap<u32, PairId> = self
            .children
            .values()
            .filter(|child| child.protocol == protocol)
            .filter(|child| !matches!(child.phase, Phase::Lingering { .. }))
            .map(|child| (child.spi_out.get(), child.pair))
            .collect();
        let mut answer = Vec::new();
        let named = payloads.deletes().filter(|d| d.protocol == protocol_id(protocol));
        for spi in named.flat_map(|delete| delete.spis()) {
            let spi = u32::from_be_bytes(spi);
            let Some(&pair) = by_spi.get(&spi) else {
                // It may be the one whose answer is still on its way to us.
                if self.is_asking_child() && self.deleted_early.len() < MAX_DELETED_EARLY {
                    self.deleted_early.push((protocol, spi));
                }
                continue;
            };
            // Named twice.
            let Some(child) = self.children.get(&pair) else { continue };
            let crossing = matches!(&self.current,
                Current::Waiting { request: Request::DeleteChild { pair: ours, .. }, .. }
                    if *ours == pair);
            if !crossing {
                answer.push(child.spi_in.get().to_be_bytes());
            }
            let replaced = child.phase == Phase::Rekeyed
                || matches!(&self.current,
                    Current::Waiting { request: Request::DeleteChild { pair: ours, reason, .. }, .. }
                        if *ours == pair && *reason == Failure::Replaced);
            if replaced {
                if let Some(successor) = self.successor_of(pair) {
                    cx.event(Event::ActivateOutbound { pair: successor });
                }
                self.linger(cx, pair);
            } else {
                self.remove_child(head, cx, pair, Failure::DeletedByPeer);
            }
        }
        answer
    }

    /// The pair whose outbound half takes over from a rekeyed one: its successor, or, for the loser of a collision, the
    /// winner that replaced the same pair.
    fn successor_of(&self, pair: PairId) -> Option<PairId> {
        let replaced = self.children.get(&pair)?.replaces;
        let live = |phase| matches!(phase, Phase::Installing | Phase::Installed | Phase::Rekeying);
        let mut newest_first = self.children.values().rev();
        newest_first
            .find(|child| {
                let follows = child.replaces == Some(pair)
                    || (replaced.is_some() && child.replaces == replaced);
                child.pair != pair && live(child.phase) && follows
            })
            .map(|child| child.pair)
    }

    /// What a reauthentication negotiates anew.
    pub(crate) fn children_to_renew(&self) -> Vec<Arc<config::Child>> {
        let mut renewed: Vec<Arc<config::Child>> = Vec::new();
        for child in self.children.values() {
            let known = renewed.iter().any(|config| config.name == child.config.name);
            if !known && !matches!(child.phase, Phase::Lingering { .. }) {
                renewed.push(Arc::clone(&child.config));
            }
        }
        renewed
    }
}
