//! Informational exchanges: deletes, notifies and dead peer detection (RFC 2408 §3.14, §3.15, RFC 2409 §5.7, RFC 3706).
//!
//! Each is one message with a HASH over it and is not answered, but for R-U-THERE.

use super::established::{Established, Probe};
use super::sa::State;
use crate::context::{Cx, Effect};
use crate::event::{Failure, Level, Path};
use crate::message::v1::{DOI_IPSEC, Delete, DpdNotify, Notify, NotifyType, Payload};
use crate::message::{ExchangeType, MessageId, PayloadList, ProtocolId};
use crate::v2::create_child::protocol_id;
use crate::v2::sa::Head;
use crate::v2::window::{Digest, Due, Sent};
use ipsec::sa::{PairId, Protocol, Spi};

impl Established {
    // As the side that speaks.

    fn inform(&mut self, head: &Head, cx: &mut Cx<'_>, list: &PayloadList) -> Option<Vec<u8>> {
        let id = self.fresh_id(cx)?;
        let iv = self.session.iv(id);
        let exchange = ExchangeType::InformationalV1;
        let (datagram, _) = self.session.seal(exchange, id, iv, &[], list).ok()?;
        self.send(head, cx, datagram.clone());
        Some(datagram)
    }

    /// Tells the peer that SAs of ours are gone.
    pub(crate) fn send_delete(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        protocol: Protocol,
        spis: &[Spi],
    ) {
        let spis: Vec<[u8; 4]> = spis.iter().map(|spi| spi.get().to_be_bytes()).collect();
        let mut list = self.session.list();
        list.push(&Delete::children(protocol_id(protocol), &spis));
        self.inform(head, cx, &list);
    }

    /// Tells the peer that everything is gone: the children first, each protocol in one message, unless they go over to
    /// another ISAKMP SA.
    pub(crate) fn send_deletes(&mut self, head: &Head, cx: &mut Cx<'_>, with_children: bool) {
        for protocol in [Protocol::Esp, Protocol::Ah] {
            let of = |p| move |child: &&crate::v2::child::ChildSa| child.protocol == p;
            let spis: Vec<Spi> =
                self.children.values().filter(of(protocol)).map(|child| child.spi_in).collect();
            if with_children && !spis.is_empty() {
                self.send_delete(head, cx, protocol, &spis);
            }
        }
        let cookies = self.session.cookies();
        let mut list = self.session.list();
        list.push(&Delete::isakmp(&cookies));
        self.inform(head, cx, &list);
    }

    /// Tells the peer why its quick mode comes to nothing.
    pub(crate) fn send_refusal(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        protocol: ProtocolId,
        spi: &[u8],
        kind: NotifyType,
    ) {
        let mut list = self.session.list();
        list.push(&Notify { doi: DOI_IPSEC, protocol, spi, kind, data: &[] });
        self.inform(head, cx, &list);
    }

    fn dpd(&mut self, head: &Head, cx: &mut Cx<'_>, kind: NotifyType, n: u32) -> Option<Vec<u8>> {
        let spi = self.session.cookies();
        let data = n.to_be_bytes();
        let mut list = self.session.list();
        let protocol = ProtocolId::Ike;
        list.push(&Notify { doi: DOI_IPSEC, protocol, spi: &spi, kind, data: &data });
        self.inform(head, cx, &list)
    }

    /// Asks whether the peer lives (RFC 3706 §5.3).
    pub(crate) fn ask_liveness(&mut self, head: &mut Head, cx: &mut Cx<'_>) {
        if self.probe.is_some() || !self.abilities.dpd {
            return;
        }
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        self.dpd(head, cx, NotifyType::RUThere, sequence);
        let sent = Sent::new(cx.now, &cx.config.settings, 0, Vec::new());
        self.probe = Some(Probe { sent, sequence });
    }

    /// The time of the next question has come, or of the end. A repeat asks with the same number in a message of its
    /// own, as a peer may drop what it has seen. `None` when the peer is dead.
    pub(crate) fn liveness_due(&mut self, head: &mut Head, cx: &mut Cx<'_>) -> Option<()> {
        let dead = self.dead_at(head).is_some_and(|at| at <= cx.now);
        let Some(probe) = &mut self.probe else {
            self.ask_liveness(head, cx);
            return Some(());
        };
        if dead {
            return None;
        }
        let sequence = probe.sequence;
        match probe.sent.due(cx.now, &cx.config.settings) {
            Due::NotYet => {}
            Due::Repeat(_) => {
                cx.stats.retransmissions += 1;
                self.dpd(head, cx, NotifyType::RUThere, sequence);
            }
            // With `dpd_timeout` that time decides alone.
            Due::GiveUp if head.connection.dpd_timeout.is_zero() => return None,
            Due::GiveUp => {
                let sent = Sent::new(cx.now, &cx.config.settings, 0, Vec::new());
                self.probe = Some(Probe { sent, sequence });
                self.dpd(head, cx, NotifyType::RUThere, sequence);
            }
        }
        Some(())
    }

    // As the side that hears.

    pub(crate) fn informational(
        mut self: Box<Self>,
        head: &mut Head,
        cx: &mut Cx<'_>,
        path: Path,
        (id, first, ciphertext): (MessageId, u8, &[u8]),
        digest: Digest,
    ) -> State {
        if let Some((known, answer)) = &self.last_informational
            && *known == digest
        {
            if let Some(answer) = answer.clone() {
                cx.stats.answers_repeated += 1;
                self.send(head, cx, answer);
            }
            return State::Established(self);
        }
        let opened = self
            .may_begin(id)
            .then(|| self.session.sealer.open(first, ciphertext, self.session.iv(id)))
            .flatten()
            .filter(|opened| self.session.verify(id, &[], opened))
            .or_else(|| self.open_commitment(id, first, ciphertext));
        let payloads = opened.as_ref().and_then(|opened| opened.payloads().ok());
        let Some(payloads) = payloads else {
            cx.stats.invalid_packets_received += 1;
            return State::Established(self);
        };
        self.has_begun(id);
        self.heard(head, cx, path);
        self.last_informational = Some((digest, None));
        for payload in payloads.iter() {
            match payload {
                Payload::Delete(delete) if delete.protocol == ProtocolId::Ike => {
                    let ours = self.session.cookies();
                    if delete.spis().any(|spi| spi == ours) {
                        // Nothing behind it is for anyone any more.
                        return self.close(head, cx, digest);
                    }
                }
                Payload::Delete(delete) => self.peer_deletes(head, cx, &delete),
                Payload::Notify(notify) => self.peer_notifies(head, cx, &notify, id, digest),
                _ => {}
            }
        }
        State::Established(self)
    }

    fn peer_deletes(&mut self, head: &mut Head, cx: &mut Cx<'_>, delete: &Delete<'_>) {
        let protocol = match delete.protocol {
            ProtocolId::Esp => Protocol::Esp,
            ProtocolId::Ah => Protocol::Ah,
            _ => return,
        };
        for spi in delete.spis() {
            let Some(spi) = <[u8; 4]>::try_from(spi).ok().map(u32::from_be_bytes) else { continue };
            if !self.deleted_by_peer(head, cx, protocol, spi) {
                // A delete may come under another ISAKMP SA between the same two than the one that made the SA.
                cx.effect(Effect::DeletedByPeer { ike: head.id, protocol, spi });
            }
        }
    }

    /// The peer's inbound SA is gone, and with it the pair; says whether it was one of this SA's.
    pub(crate) fn deleted_by_peer(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        protocol: Protocol,
        spi: u32,
    ) -> bool {
        let named =
            |c: &&crate::v2::child::ChildSa| c.protocol == protocol && c.spi_out.get() == spi;
        let pair: Option<PairId> = self.children.values().find(named).map(|child| child.pair);
        let Some(pair) = pair else { return false };
        self.remove_child(head, cx, pair, Failure::DeletedByPeer);
        true
    }

    fn peer_notifies(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        notify: &Notify<'_>,
        id: MessageId,
        digest: Digest,
    ) {
        match notify.kind {
            NotifyType::RUThere => {
                let Some(DpdNotify { sequence }) = DpdNotify::from_data(notify.data) else {
                    cx.stats.invalid_packets_received += 1;
                    return;
                };
                // RFC 3706 §5.5: an older number is a replay; the message ID has been seen to already, so that the
                // number needs no window of its own.
                self.peer_sequence = Some(sequence);
                let answer = self.dpd(head, cx, NotifyType::RUThereAck, sequence);
                self.last_informational = Some((digest, answer));
            }
            NotifyType::RUThereAck => {
                let answered = DpdNotify::from_data(notify.data).map(|dpd| dpd.sequence);
                match &self.probe {
                    Some(probe) if answered == Some(probe.sequence) => self.probe = None,
                    // One that came late.
                    _ if answered == Some(self.sequence) => {}
                    _ => cx.stats.invalid_packets_received += 1,
                }
            }
            NotifyType::InitialContact => {
                cx.effect(Effect::InitialContact(head.id));
            }
            NotifyType::ResponderLifetime => self.responder_lifetime(notify),
            NotifyType::Connected => self.connected(head, cx, id, notify),
            kind if kind.number() < NotifyType::Connected.number() => {
                self.quick_refused(head, cx, notify);
            }
            kind => {
                let text = format!("notify {} from {}", kind.number(), head.path.remote);
                cx.log(Level::Debug, text);
            }
        }
    }
}
