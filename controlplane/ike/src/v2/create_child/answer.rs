//! CREATE_CHILD_SA for Child SAs as the side that answers.

use super::{ChildKeying, Rival, lowest, protocol_id};
use crate::context::Cx;
use crate::job::{Product, Work};
use crate::message::v2::{KeyExchange, Notify, Payloads};
use crate::message::{ExchangeType, KeMethod, NotifyType, PayloadList, ProtocolId};
use crate::proposal::select::KeyExchangeUse;
use crate::v2::child::{Agreed, ChildSa, Phase, Side, Values};
use crate::v2::established::{Answering, Current, Established, Finishing, Reply, Request};
use crate::v2::fault::{Fault, Incompatible, Local, Misbehaved};
use crate::v2::init::{self, OwnNonce};
use crate::v2::sa::Head;
use ipsec::sa::PairId;
use keyexchange::{Group, KeyExchangeError, SharedSecret};

impl Established {
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
}
