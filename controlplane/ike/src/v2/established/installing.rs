//! New pairs on their way into the dataplane (design.md §2, "Rekey loses nothing").

use super::{Answering, Established, Reply};
use crate::context::{Cx, Effect, Half, Installing};
use crate::event::{Activate, Event, Failure, InstallId, InstallRefused, Outcome};
use crate::v2::child::{MAX_CHILDREN, Phase, Prepared, install_inbound, install_outbound};
use crate::v2::sa::Head;
use crate::v2::task::Task;
use ipsec::sa::PairId;

impl Established {
    /// Responder: the inbound half first; the answer follows its acknowledgement.
    pub(crate) fn install_answering(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        prepared: Prepared,
        reply: Reply,
    ) {
        let Prepared { child, inbound, outbound, .. } = prepared;
        let install = install_inbound(cx, head, &child, inbound);
        self.children.insert(child.pair, child);
        self.answering = Answering::ChildInstalling { install, outbound, reply };
    }

    /// Initiator: both halves at once, the outbound one in use from now on.
    pub(crate) fn install_asked(&mut self, head: &Head, cx: &mut Cx<'_>, prepared: Prepared) {
        let Prepared { child, inbound, outbound, .. } = prepared;
        install_inbound(cx, head, &child, inbound);
        install_outbound(cx, head, &child, outbound, Activate::Now);
        self.children.insert(child.pair, child);
    }

    pub(crate) fn has_room(&self) -> bool {
        self.children.len() < MAX_CHILDREN
    }

    pub(crate) fn installed(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        id: InstallId,
        installing: &Installing,
        result: Result<(), InstallRefused>,
    ) {
        let pair = installing.pair;
        let waiting = matches!(&self.answering,
            Answering::ChildInstalling { install, .. } if *install == id);
        if waiting
            && let Answering::ChildInstalling { outbound, reply, .. } =
                core::mem::replace(&mut self.answering, Answering::Nothing)
        {
            match (result, self.children.get_mut(&pair)) {
                (Ok(()), Some(child)) => {
                    child.waits_for_traffic = child.replaces.is_some();
                    let activate = match child.replaces {
                        Some(_) => Activate::OnInboundTraffic,
                        None => Activate::Now,
                    };
                    install_outbound(cx, head, child, outbound, activate);
                    self.respond(head, cx, reply.exchange, &reply.accepted);
                    self.answered_rekey(cx, pair, reply.lowest);
                }
                _ => {
                    cx.stats.negotiation_failures += 1;
                    self.children.remove(&pair);
                    cx.effect(Effect::Forget(pair));
                    self.respond(head, cx, reply.exchange, &reply.refused);
                    return;
                }
            }
        }
        let Some(child) = self.children.get_mut(&pair) else { return };
        if result.is_err() {
            cx.stats.negotiation_failures += 1;
            self.drop_child(head, cx, pair, Failure::Dataplane);
            return;
        }
        match installing.half {
            Half::Inbound => child.up.0 = true,
            Half::Outbound => child.up.1 = true,
        }
        if child.up == (true, true) && child.phase == Phase::Installing {
            child.phase = Phase::Installed;
        }
        if child.up == (true, true) {
            self.child_up(head, cx, pair);
        }
    }

    /// Both halves are there.
    fn child_up(&mut self, head: &Head, cx: &mut Cx<'_>, pair: PairId) {
        let Some(child) = self.children.get_mut(&pair) else { return };
        cx.stats.ike_quick_mode += 1;
        let name = child.name(head);
        let selectors = child.selectors.clone();
        cx.event(Event::ChildUp { name, selectors, replaces: child.replaces });
        if core::mem::replace(&mut child.acquired, false) {
            let outcome = Outcome { matched: 1, ike: Some(head.id), pair: Some(pair) };
            head.acquired(cx, &child.config.name, Ok(outcome));
        }
    }

    /// Puts a pair out of use whose installation failed half way, and tells the peer.
    fn drop_child(&mut self, head: &mut Head, cx: &mut Cx<'_>, pair: PairId, reason: Failure) {
        let Some(child) = self.children.get_mut(&pair) else { return };
        if core::mem::replace(&mut child.acquired, false) {
            let name = child.config.name.clone();
            head.acquired(cx, &name, Err(reason));
        }
        child.phase = Phase::Deleting;
        head.push_task(Task::DeleteChild { pair, reason, tag: None });
    }
}
