//! CREATE_CHILD_SA for the IKE SA itself (RFC 7296 §1.3.2, §2.8.2, §2.18, §2.25.2).
//!
//! ```text
//! HDR, SK {SA, Ni, KEi}  -->
//!                        <--  HDR, SK {SA, Nr, KEr}
//! ```

use super::child::ChildSa;
use super::create_child::{lowest, retry_after};
use super::established::{
    Answering, Current, DELETE_AWAITED, Established, Finishing, Life, NewSa, Plan, Request,
};
use super::fault::{Fault, Incompatible, Local, Misbehaved};
use super::init::{self, OwnNonce};
use super::keys::{Exchanged, Keys, Origin};
use super::sa::{Head, IkeSa, State};
use super::task::{Queued, Task};
use super::window::Inbound;
use crate::context::{Cx, Effect};
use crate::event::{Failure, IkeId, Outcome, RequestId};
use crate::job::{Product, Work};
use crate::message::v2::{KeyExchange, Notify, Payloads, SaPayload};
use crate::message::{ExchangeType, IkeSpi, KeMethod, NotifyType, PayloadList};
use crate::proposal::Chosen;
use crate::proposal::select::{self, KeyExchangeUse, Selection};
use crate::view::Role;
use ipsec::sa::PairId;
use keyexchange::{Group, KeyExchangeError, PrivateKey};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A successor that we ask for.
pub(crate) struct IkeAsking {
    spi: IkeSpi,
    nonce: OwnNonce,
    group: Group,
    tried: Vec<u16>,
    key: Option<Box<PrivateKey>>,
    tag: Option<RequestId>,
}

/// An answered request that waits for its secret.
pub(crate) struct IkeFinishing {
    asking: IkeAsking,
    chosen: Chosen,
    spi_r: IkeSpi,
    nr: Vec<u8>,
}

/// The peer's request, while our value and the secret are computed.
pub(crate) struct IkeKeying {
    selection: Selection,
    group: Group,
    spi_i: IkeSpi,
    ni: Vec<u8>,
}

/// The successor that the peer asked for while our own request was under way.
pub(crate) struct PeerRekey {
    pub(crate) successor: IkeId,
    lowest: Vec<u8>,
}

impl IkeAsking {
    /// The request comes to nothing.
    pub(crate) fn give_back(self, cx: &mut Cx<'_>, reason: Failure) {
        cx.effect(Effect::NotLarval(self.spi));
        cx.tag_done(self.tag, Err(reason));
    }
}

impl IkeFinishing {
    pub(crate) fn give_back(self, cx: &mut Cx<'_>, reason: Failure) {
        self.asking.give_back(cx, reason);
    }
}

impl Established {
    /// Whether our own rekey of the IKE SA is under way.
    pub(crate) fn is_rekeying(&self) -> bool {
        matches!(
            self.current,
            Current::Generating { asking: Plan::Ike(_), .. }
                | Current::Waiting { request: Request::Ike(_), .. }
                | Current::Finishing { finishing: Finishing::Ike(_), .. }
        )
    }

    // As the side that asks.

    pub(crate) fn ask_ike_rekey(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        tag: Option<RequestId>,
    ) {
        let Some(group) = self.chosen.group.and_then(Group::from_number) else {
            return cx.tag_done(tag, Err(Failure::Local));
        };
        let asking = IkeAsking {
            spi: IkeSpi(cx.random.array()),
            nonce: cx.random.array(),
            group,
            tried: vec![group.number()],
            key: None,
            tag,
        };
        self.generate_ike(head, cx, asking);
    }

    fn generate_ike(&mut self, head: &Head, cx: &mut Cx<'_>, asking: IkeAsking) {
        let job = cx.job(head.id, true, Work::Generate(asking.group));
        self.current = Current::Generating { job, asking: Plan::Ike(Box::new(asking)) };
    }

    pub(crate) fn send_ike(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        mut asking: IkeAsking,
        result: Result<Product, KeyExchangeError>,
    ) {
        let Ok(Product::Key(key)) = result else {
            return self.ike_not_made(cx, asking, Failure::Local);
        };
        if !self.is_active() {
            return asking.give_back(cx, Failure::Replaced);
        }
        let mut list = PayloadList::new();
        let proposals =
            select::to_wire(&head.connection.proposals, &asking.spi.0, KeyExchangeUse::Offered);
        list.push(&SaPayload { proposals: &proposals });
        init::push_nonce(&mut list, &asking.nonce);
        let method = KeMethod::from_number(asking.group.number());
        list.push(&KeyExchange { method, data: key.public() });
        asking.key = Some(key);
        // The peer has its successor ready when it answers and may use it before ours is.
        cx.effect(Effect::Larval(asking.spi));
        let request = Request::Ike(Box::new(asking));
        let sent = self.request(head, cx, ExchangeType::CreateChildSa, &list, request);
        if let Err((Request::Ike(asking), fault)) = sent {
            self.ike_not_made(cx, *asking, fault.failure());
        }
    }

    /// The answer to our request.
    pub(crate) fn asked_ike(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        mut asking: IkeAsking,
        payloads: &Payloads<'_>,
    ) -> State {
        let refusal = payloads.notifies().find(|n| n.kind.is_error());
        if payloads.sa().is_none()
            && let Some(refusal) = refusal
        {
            self.ike_refused(head, cx, asking, &refusal);
            return self.after_own_rekey_failed(head, cx);
        }
        let checked = self.check_ike(head, &asking, payloads);
        match (checked, asking.key.take()) {
            (Ok((chosen, spi_r, nr, peer)), Some(key)) => {
                let job = cx.job(head.id, true, Work::Agree(key, peer));
                let finishing =
                    Finishing::Ike(Box::new(IkeFinishing { asking, chosen, spi_r, nr }));
                self.current = Current::Finishing { job, finishing };
                State::Established(self)
            }
            (checked, _) => {
                let reason = checked.err().map_or(Failure::Local, Fault::failure);
                self.ike_not_made(cx, asking, reason);
                self.after_own_rekey_failed(head, cx)
            }
        }
    }

    fn check_ike(
        &self,
        head: &Head,
        asking: &IkeAsking,
        payloads: &Payloads<'_>,
    ) -> Result<(Chosen, IkeSpi, Vec<u8>, Vec<u8>), Fault> {
        let missing = Fault::Misbehaved(Misbehaved::Missing);
        let not_offered = Fault::Misbehaved(Misbehaved::NotOffered);
        let sa = payloads.sa().ok_or(missing)?;
        let ke = payloads.key_exchange().ok_or(missing)?;
        let nonce = payloads.nonce().ok_or(missing)?;
        let proposals = &head.connection.proposals;
        let selection =
            select::accepted(proposals, &sa, KeyExchangeUse::Offered).ok_or(not_offered)?;
        let spi_r = spi_of(&selection)?;
        let group = asking.group;
        let same =
            selection.chosen.group == Some(group.number()) && ke.method.number() == group.number();
        if !same {
            return Err(not_offered);
        }
        if ke.data.len() != group.response_len() {
            return Err(Fault::Misbehaved(Misbehaved::KeyValue));
        }
        Ok((selection.chosen, spi_r, nonce.data().to_vec(), ke.data.to_vec()))
    }

    fn ike_refused(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        mut asking: IkeAsking,
        refusal: &Notify<'_>,
    ) {
        match refusal.kind {
            NotifyType::InvalidKePayload => {
                let wanted = <[u8; 2]>::try_from(refusal.data).ok().map(u16::from_be_bytes);
                let proposals = &head.connection.proposals;
                let group = wanted
                    .filter(|id| proposals.iter().any(|p| p.groups.contains(id)))
                    .filter(|id| !asking.tried.contains(id))
                    .and_then(Group::from_number);
                match group {
                    Some(group) if self.peer_rekey.is_none() => {
                        asking.tried.push(group.number());
                        asking.group = group;
                        asking.key = None;
                        self.generate_ike(head, cx, asking);
                    }
                    _ => self.ike_not_made(cx, asking, Failure::KeyExchange),
                }
            }
            NotifyType::TemporaryFailure => {
                self.rekey_at = Some(cx.now + retry_after(cx));
                asking.give_back(cx, Failure::Refused(refusal.kind.number()));
            }
            kind => self.ike_not_made(cx, asking, Fault::Refused(kind).failure()),
        }
    }

    fn ike_not_made(&mut self, cx: &mut Cx<'_>, asking: IkeAsking, reason: Failure) {
        cx.stats.negotiation_failures += 1;
        self.rekey_at = Some(cx.now + retry_after(cx));
        asking.give_back(cx, reason);
    }

    /// Ours came to nothing; the peer's, if there is one, takes over.
    fn after_own_rekey_failed(mut self: Box<Self>, head: &mut Head, cx: &mut Cx<'_>) -> State {
        if matches!(self.current, Current::Idle)
            && let Some(peer) = self.peer_rekey.take()
        {
            self.hand_over(head, cx, peer.successor);
        }
        State::Established(self)
    }

    pub(crate) fn finish_ike(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        finishing: IkeFinishing,
        result: Result<Product, KeyExchangeError>,
    ) -> State {
        let IkeFinishing { asking, chosen, spi_r, nr } = finishing;
        let shared = match result {
            Ok(Product::Secret(shared)) => shared,
            result => {
                let reason = match result {
                    Err(KeyExchangeError::PeerValue) => Failure::KeyExchange,
                    _ => Failure::Local,
                };
                self.ike_not_made(cx, asking, reason);
                return self.after_own_rekey_failed(head, cx);
            }
        };
        let (spi_i, ni) = (asking.spi, &asking.nonce);
        let values = Exchanged { ni, nr: &nr, shared: &shared, spi_i, spi_r };
        let derived = Keys::derive(&Origin::Rekey(&self.keys), &chosen, Role::Initiator, &values);
        let keys = match derived {
            Ok((keys, _)) => keys,
            Err(fault) => {
                self.ike_not_made(cx, asking, fault.failure());
                return self.after_own_rekey_failed(head, cx);
            }
        };
        let mut new_head = successor_head(head, cx, Role::Initiator, spi_i, spi_r);
        let mut new = self.successor(&new_head, cx, keys, chosen);
        let ours_is_lowest =
            self.peer_rekey.as_ref().is_some_and(|peer| lowest(ni, &nr) < peer.lowest.as_slice());
        let delete =
            || Task::DeleteIke { reason: Failure::Replaced, reauthenticate: false, tag: None };
        let until = cx.now + DELETE_AWAITED;
        let id = new_head.id;
        match self.peer_rekey.take() {
            // RFC 7296 §2.8.2: the SA made with the lowest nonce is closed by the side that made it, and the other one
            // inherits the children.
            Some(peer) if ours_is_lowest => {
                new.life = Life::Rekeyed { until };
                new_head.push_task(delete());
                let state = State::Established(Box::new(new));
                cx.effect(Effect::Insert(Box::new(IkeSa { head: new_head, state })));
                self.hand_over(head, cx, peer.successor);
            }
            peer => {
                new.children = core::mem::take(&mut self.children);
                new_head.tasks = moved_tasks(head, cx);
                new.came_up(&mut new_head, cx, Some(head.id), false);
                let state = State::Established(Box::new(new));
                cx.effect(Effect::Insert(Box::new(IkeSa { head: new_head, state })));
                if let Some(peer) = peer {
                    cx.effect(Effect::Redundant(peer.successor));
                }
                self.life = Life::Rekeyed { until };
                head.push_task(delete());
            }
        }
        cx.tag_done(asking.tag, Ok(Outcome { matched: 1, ike: Some(id), pair: None }));
        State::Established(self)
    }

    // As the side that answers.

    pub(crate) fn ike_rekey_request(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        payloads: &Payloads<'_>,
    ) -> Result<(), Fault> {
        let missing = Fault::Misbehaved(Misbehaved::Missing);
        let busy = Fault::Local(Local::Busy);
        // RFC 7296 §2.25.2, and §2.25.1 for the children.
        if !self.is_active() || self.is_changing_children() || self.peer_rekey.is_some() {
            return Err(busy);
        }
        let sa = payloads.sa().ok_or(missing)?;
        let ke = payloads.key_exchange().ok_or(missing)?;
        let nonce = payloads.nonce().ok_or(missing)?;
        let prefer = Some(ke.method.number());
        let proposals = &head.connection.proposals;
        let selection = select::choose(proposals, &sa, KeyExchangeUse::Offered, prefer)
            .ok_or(Fault::Incompatible(Incompatible::Proposal));
        let selection = selection.inspect_err(|_| cx.stats.negotiation_failures += 1)?;
        let group = selection.chosen.group.and_then(Group::from_number).ok_or(missing)?;
        if ke.method.number() != group.number() {
            return Err(Fault::Incompatible(Incompatible::Group(group.number())));
        }
        let spi_i = spi_of(&selection)?;
        if ke.data.len() != group.public_len() {
            return Err(Fault::Misbehaved(Misbehaved::KeyValue));
        }
        let job = cx.job(head.id, true, Work::Respond(group, ke.data.to_vec()));
        let ni = nonce.data().to_vec();
        let keying = Box::new(IkeKeying { selection, group, spi_i, ni });
        self.answering = Answering::IkeKeying { job, keying };
        Ok(())
    }

    pub(crate) fn ike_keyed(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        keying: IkeKeying,
        result: Result<Product, KeyExchangeError>,
    ) -> Result<(), Fault> {
        let (public, shared) = match result {
            Ok(Product::Response(public, shared)) => (public, shared),
            Err(KeyExchangeError::PeerValue) => {
                cx.stats.negotiation_failures += 1;
                return Err(Fault::Misbehaved(Misbehaved::KeyValue));
            }
            _ => return Err(Fault::Local(Local::Library)),
        };
        if !self.is_active() || self.is_changing_children() {
            return Err(Fault::Local(Local::Busy));
        }
        let IkeKeying { selection, group, spi_i, ni } = keying;
        let nr: OwnNonce = cx.random.array();
        let spi_r = IkeSpi(cx.random.array());
        let chosen = selection.chosen;
        let values = Exchanged { ni: &ni, nr: &nr, shared: &shared, spi_i, spi_r };
        let origin = Origin::Rekey(&self.keys);
        let (keys, _) = Keys::derive(&origin, &chosen, Role::Responder, &values)?;
        let mut list = PayloadList::new();
        let proposal = select::answer(&chosen, selection.number, &spi_r.0);
        list.push(&SaPayload { proposals: &[proposal] });
        init::push_nonce(&mut list, &nr);
        let method = KeMethod::from_number(group.number());
        list.push(&KeyExchange { method, data: &public });
        self.respond(head, cx, ExchangeType::CreateChildSa, &list);

        let mut new_head = successor_head(head, cx, Role::Responder, spi_i, spi_r);
        let mut new = self.successor(&new_head, cx, keys, chosen);
        let colliding = matches!(
            self.current,
            Current::Waiting { request: Request::Ike(_), .. }
                | Current::Finishing { finishing: Finishing::Ike(_), .. }
        );
        if colliding {
            let lowest = lowest(&ni, &nr).to_vec();
            new.undecided = true;
            self.peer_rekey = Some(PeerRekey { successor: new_head.id, lowest });
        } else {
            new.children = core::mem::take(&mut self.children);
            new_head.tasks = moved_tasks(head, cx);
            new.came_up(&mut new_head, cx, Some(head.id), false);
            self.life = Life::Rekeyed { until: cx.now + DELETE_AWAITED };
        }
        let state = State::Established(Box::new(new));
        cx.effect(Effect::Insert(Box::new(IkeSa { head: new_head, state })));
        Ok(())
    }

    fn successor(&self, head: &Head, cx: &mut Cx<'_>, keys: Keys, chosen: Chosen) -> Self {
        let mut new = Self::new(
            head,
            cx,
            NewSa {
                keys,
                chosen,
                abilities: self.abilities,
                local_id: self.local_id.clone(),
                remote_id: self.remote_id.clone(),
                next_id: 0,
                inbound: Inbound::new(0),
            },
        );
        // Only a new authentication puts the next one off (RFC 7296 §2.8.3).
        new.reauth_at = self.reauth_at;
        new
    }

    /// The children go to the successor that the peer made.
    pub(crate) fn hand_over(&mut self, head: &mut Head, cx: &mut Cx<'_>, to: IkeId) {
        let children = core::mem::take(&mut self.children);
        let tasks = moved_tasks(head, cx);
        cx.effect(Effect::Move { from: head.id, to, children, tasks });
        self.life = Life::Rekeyed { until: cx.now + DELETE_AWAITED };
    }

    /// Takes over from the SA that this one succeeds.
    pub(crate) fn adopt(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        from: IkeId,
        children: BTreeMap<PairId, ChildSa>,
        tasks: VecDeque<Queued>,
    ) {
        self.undecided = false;
        self.children.extend(children);
        head.tasks.extend(tasks);
        self.came_up(head, cx, Some(from), false);
    }
}

/// What waits on the old SA and is about children goes along; what is about the SA itself is done by the rekey.
fn moved_tasks(head: &mut Head, cx: &mut Cx<'_>) -> VecDeque<Queued> {
    let mut moved = VecDeque::new();
    for queued in core::mem::take(&mut head.tasks) {
        match queued.task {
            Task::RekeyIke { tag } => {
                let outcome = Outcome { matched: 1, ike: Some(head.id), pair: None };
                cx.tag_done(tag, Ok(outcome));
            }
            Task::Liveness => {}
            Task::CreateChild { .. }
            | Task::RekeyChild { .. }
            | Task::DeleteChild { .. }
            | Task::DeleteSpi { .. }
            | Task::DeleteIke { .. } => moved.push_back(queued),
        }
    }
    moved
}

fn successor_head(old: &Head, cx: &mut Cx<'_>, role: Role, spi_i: IkeSpi, spi_r: IkeSpi) -> Head {
    let id = IkeId(cx.registry.ike.next());
    Head {
        id,
        role,
        spi_i,
        spi_r,
        path: old.path,
        in_pieces: false,
        addresses: old.addresses.inherited(cx, old.id, id),
        nat: old.nat,
        connection: Arc::clone(&old.connection),
        tasks: VecDeque::new(),
        waiters: Vec::new(),
    }
}

fn spi_of(selection: &Selection) -> Result<IkeSpi, Fault> {
    let not_offered = Fault::Misbehaved(Misbehaved::NotOffered);
    let octets: [u8; 8] = selection.spi.as_slice().try_into().map_err(|_| not_offered)?;
    let spi = IkeSpi(octets);
    if spi.is_zero() { Err(not_offered) } else { Ok(spi) }
}
