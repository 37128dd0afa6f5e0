//! What is answered to requests and to what is said: names, passwords, addresses.

use super::{
    IP4_ADDRESS, IP4_DNS, IP6_ADDRESS, IP6_DNS, STATUS, Step, USER_NAME, USER_PASSWORD, Verdict,
    XAUTH_TYPE, address, address_step, is_for, octets, push,
};
use crate::config::Xauth;
use crate::context::Cx;
use crate::event::{Event, Failure};
use crate::message::v1::{Attribute, Attributes};
use crate::v1::established::Established;
use crate::v2::sa::Head;
use core::net::IpAddr;
use zeroize::Zeroizing;

impl Established {
    /// What we answer to a request: who we are, or an address.
    pub(super) fn requested(
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
        // In push mode it may be told and ask at once.
        let serves = matches!(
            self.transactions.step,
            Step::Over | Step::TellAddress | Step::AddressTold | Step::AddressWanted { .. }
        );
        if serves {
            for attribute in wanted.iter() {
                // One address for each peer.
                if matches!(attribute.kind, IP4_ADDRESS | IP6_ADDRESS) && out.is_empty() {
                    self.assign(head, cx, attribute.kind, address(&attribute), &mut out);
                }
            }
            if !out.is_empty() && matches!(self.transactions.step, Step::AddressWanted { .. }) {
                self.transactions.step = Step::Over;
            }
        }
        out
    }

    /// Gives the peer an address of this family of the connection's pools.
    pub(super) fn assign(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        family: u16,
        wanted: Option<IpAddr>,
        out: &mut Vec<u8>,
    ) {
        let owner = self.peer().clone();
        let v4 = family == IP4_ADDRESS;
        let pools = head.connection.pools.iter();
        let mut pools = pools
            .filter_map(|name| cx.config.pools.iter().find(|pool| pool.name == *name))
            .filter(|pool| pool.addresses.first().is_ipv4() == v4);
        let leases = &mut cx.registry.leases;
        let found = pools.find_map(|pool| {
            let given = leases.take(pool, &owner, head.id, wanted)?;
            (given.is_ipv4() == v4).then_some((pool, given))
        });
        let Some((pool, given)) = found else {
            head.info(cx, format_args!("no address of a pool is free"));
            return;
        };
        self.transactions.remote = Some(given);
        push(out, family, &octets(given));
        for server in pool.dns.iter().filter(|server| server.is_ipv4() == v4) {
            push(out, if v4 { IP4_DNS } else { IP6_DNS }, &octets(*server));
        }
        head.info(cx, format_args!("the peer has the virtual address {given}"));
    }

    /// What is said to us: whether we are who we say, or an address.
    pub(super) fn set(
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
            self.transactions.step = address_step(head, cx.now);
        }
        // An address, in push mode or before we have asked: what is taken is said to be, without its value.
        let waits = matches!(
            self.transactions.step,
            Step::AskAddress | Step::AddressAsked | Step::AwaitingAddress { .. }
        );
        if waits && self.take_address(head, cx, attributes) {
            for attribute in attributes.iter() {
                if matches!(attribute.kind, IP4_ADDRESS | IP6_ADDRESS | IP4_DNS | IP6_DNS) {
                    push(&mut out, attribute.kind, &[]);
                }
            }
            self.transactions.asked = None;
            self.transactions.step = Step::Over;
        }
        (out, Verdict::Stays)
    }

    pub(super) fn take_address(
        &mut self,
        head: &Head,
        cx: &mut Cx<'_>,
        attributes: Attributes<'_>,
    ) -> bool {
        let Some(address) = attributes.iter().find_map(|a| address(&a)) else { return false };
        if self.transactions.local.is_none() {
            self.transactions.local = Some(address);
            cx.registry.own_addresses.insert(head.id, address);
            head.info(cx, format_args!("our virtual address is {address}"));
            cx.event(Event::VirtualAddress { ike: head.id, address, held: true });
        }
        true
    }
}
