//! Virtual addresses by configuration payloads (RFC 7296 §2.19, §3.15).
//!
//! ```text
//! HDR, SK {IDi, AUTH, CP(CFG_REQUEST: address?), SAi2, TSi, TSr}  -->
//!                    <--  HDR, SK {IDr, AUTH, CP(CFG_REPLY: address), SAr2, TSi, TSr}
//! ```
//!
//! One address of each family at most, for as long as the IKE SA and its successors live. `dynamic` selectors mean it. The
//! initiator asks in IKE_AUTH only, before it knows the address: TSi is then the whole of the family, and what the responder
//! narrows it to is narrowed once more here.

use super::fault::{Fault, Incompatible};
use super::sa::Head;
use crate::config::{Connection, Identity, Pool};
use crate::context::Cx;
use crate::event::{Event, IkeId};
use crate::message::v2::{ConfigAttribute, Configuration, Payloads};
use crate::message::{ConfigAttributeType as Attribute, ConfigType, PayloadList};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use ipsec::selector::AddressRange;

/// Virtual addresses of an IKE SA's two ends.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    /// Those that the IKE SA had which this one renews.
    wanted: Vec<IpAddr>,
    own: Pair,
    peer: Pair,
}

/// One of each family.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

impl Pair {
    fn iter(self) -> impl Iterator<Item = IpAddr> {
        self.v4.into_iter().chain(self.v6)
    }

    fn of(&mut self, v4: bool) -> &mut Option<IpAddr> {
        if v4 { &mut self.v4 } else { &mut self.v6 }
    }
}

/// The families that a side has addresses of.
const FAMILIES: [bool; 2] = [true, false];

impl Addresses {
    /// Asks for these again, where that is configured at all.
    pub(crate) fn want(&mut self, wanted: Vec<IpAddr>) {
        self.wanted = wanted;
    }

    /// Ours, from the peer.
    pub(crate) fn own(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.own.iter()
    }

    /// The peer's, from us.
    pub(crate) fn peers(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.peer.iter()
    }

    pub(crate) fn has_own(&self) -> bool {
        self.own().next().is_some()
    }

    /// The successor of an IKE SA has the same, from its beginning on.
    pub(crate) fn inherited(&self, cx: &mut Cx<'_>, from: IkeId, to: IkeId) -> Self {
        cx.registry.leases.share(from, to);
        for address in self.own() {
            cx.event(Event::VirtualAddress { ike: to, address, held: true });
        }
        Self { wanted: Vec::new(), own: self.own, peer: self.peer }
    }

    /// The IKE SA is over. What the peer has goes back with the engine's entry.
    pub(crate) fn let_go(&mut self, cx: &mut Cx<'_>, ike: IkeId) {
        for address in core::mem::take(&mut self.own).iter() {
            cx.event(Event::VirtualAddress { ike, address, held: false });
        }
    }

    /// CFG_REQUEST, if addresses are configured to be asked for.
    pub(crate) fn push_request(&self, connection: &Connection, list: &mut PayloadList) {
        let mut attributes = Vec::new();
        for v4 in FAMILIES {
            let Some(configured) = connection.vips.iter().find(|vip| vip.is_ipv4() == v4) else {
                continue;
            };
            let before = self.wanted.iter().find(|address| address.is_ipv4() == v4);
            let wanted = before.unwrap_or(configured);
            let value = if wanted.is_unspecified() { Vec::new() } else { value(*wanted) };
            let (address, dns) = kinds(v4);
            ConfigAttribute { kind: address, value: &value }.emit(&mut attributes);
            ConfigAttribute { kind: dns, value: &[] }.emit(&mut attributes);
        }
        if attributes.is_empty() {
            return;
        }
        if let Ok(request) = Configuration::new(ConfigType::Request, &attributes) {
            list.push(&request);
        }
    }
}

impl Head {
    /// What `dynamic` means at our side and at the peer's.
    pub(crate) fn hosts(&self) -> (Vec<AddressRange>, Vec<AddressRange>) {
        let hosts = |pair: Pair, seen: IpAddr| {
            let found: Vec<_> = pair.iter().map(AddressRange::host).collect();
            if found.is_empty() { vec![AddressRange::host(seen)] } else { found }
        };
        let far = hosts(self.addresses.peer, self.path.remote.ip());
        if self.addresses.has_own() || self.connection.vips.is_empty() {
            return (hosts(self.addresses.own, self.path.local.ip()), far);
        }
        // RFC 7296 §2.19: the responder narrows it to what it gives.
        let anything = |v4: bool| match v4 {
            true => AddressRange::prefix(Ipv4Addr::UNSPECIFIED.into(), 0),
            false => AddressRange::prefix(Ipv6Addr::UNSPECIFIED.into(), 0),
        };
        let asked = |v4: &bool| self.connection.vips.iter().any(|vip| vip.is_ipv4() == *v4);
        (FAMILIES.into_iter().filter(asked).filter_map(anything).collect(), far)
    }
}

/// CFG_REPLY.
pub(super) struct Reply(Vec<u8>);

impl Reply {
    pub(super) fn push(&self, list: &mut PayloadList) {
        if let Ok(reply) = Configuration::new(ConfigType::Reply, &self.0) {
            list.push(&reply);
        }
    }
}

/// Responder: gives the peer addresses of the connection's pools. `None` where it asks for nothing, and there is nothing to give.
///
/// # Errors
/// INTERNAL_ADDRESS_FAILURE when there is none for a peer that asks, FAILED_CP_REQUIRED for a peer that does not ask where
/// everybody gets one: the IKE SA stays, its child is not made (RFC 7296 §3.10.1).
pub(super) fn assign(
    head: &mut Head,
    cx: &mut Cx<'_>,
    payloads: &Payloads<'_>,
    owner: &Identity,
) -> Result<Option<Reply>, Fault> {
    let request = payloads.configuration().filter(|cp| cp.kind == ConfigType::Request);
    let asked: Vec<_> =
        request.iter().flat_map(Configuration::attributes).filter_map(asked).collect();
    if asked.is_empty() {
        if head.connection.pools.is_empty() {
            return Ok(None);
        }
        head.info(cx, format_args!("the peer asks for no virtual address"));
        return Err(Fault::Incompatible(Incompatible::AddressNotAsked));
    }
    let mut attributes = Vec::new();
    for (v4, wanted) in asked {
        if head.addresses.peer.of(v4).is_some() {
            continue;
        }
        let names = head.connection.pools.iter();
        let mut pools = names
            .filter_map(|name| cx.config.pools.iter().find(|pool| pool.name == *name))
            .filter(|pool| pool.addresses.first().is_ipv4() == v4);
        let leases = &mut cx.registry.leases;
        let found = pools.find_map(|pool| Some((pool, leases.take(pool, owner, head.id, wanted)?)));
        let Some((pool, given)) = found else { continue };
        *head.addresses.peer.of(v4) = Some(given);
        say(given, pool, &mut attributes);
        head.info(cx, format_args!("the peer has the virtual address {given}"));
    }
    if attributes.is_empty() {
        head.info(cx, format_args!("no address of a pool is free"));
        return Err(Fault::Incompatible(Incompatible::NoAddress));
    }
    Ok(Some(Reply(attributes)))
}

/// What an INFORMATIONAL exchange with a configuration payload is answered with (RFC 7296 §1.4, §3.15): to a CFG_REQUEST what the peer has
/// from us already, as nobody gets more behind IKE_AUTH; to a CFG_SET that nothing of it is accepted.
pub(super) fn push_what_the_peer_has(
    head: &Head,
    cx: &Cx<'_>,
    payloads: &Payloads<'_>,
    list: &mut PayloadList,
) {
    let Some(asked) = payloads.configuration() else { return };
    let mut attributes = Vec::new();
    let kind = match asked.kind {
        ConfigType::Request => ConfigType::Reply,
        ConfigType::Set => ConfigType::Ack,
        _ => return,
    };
    for given in head.addresses.peers().filter(|_| kind == ConfigType::Reply) {
        let (address, dns) = kinds(given.is_ipv4());
        let is_asked = |asked: ConfigAttribute<'_>| asked.kind == address || asked.kind == dns;
        let of_connection = |pool: &&Pool| head.connection.pools.contains(&pool.name);
        let mut pools = cx.config.pools.iter().filter(of_connection);
        if asked.attributes().any(is_asked)
            && let Some(pool) = pools.find(|pool| pool.addresses.contains(given))
        {
            say(given, pool, &mut attributes);
        }
    }
    if let Ok(answer) = Configuration::new(kind, &attributes) {
        list.push(&answer);
    }
}

/// An address that the peer has, and the servers of its pool.
fn say(given: IpAddr, pool: &Pool, attributes: &mut Vec<u8>) {
    let v4 = given.is_ipv4();
    let (address, dns) = kinds(v4);
    ConfigAttribute { kind: address, value: &value(given) }.emit(attributes);
    for server in pool.dns.iter().filter(|server| server.is_ipv4() == v4) {
        // A server's address has no prefix length behind it.
        let octets = &value(*server)[..if v4 { 4 } else { 16 }];
        ConfigAttribute { kind: dns, value: octets }.emit(attributes);
    }
}

/// Initiator: takes the addresses that we are given, of those families that were asked for.
///
/// # Errors
/// [`Incompatible::NoAddress`] when we asked and there is none.
pub(super) fn take(head: &mut Head, cx: &mut Cx<'_>, payloads: &Payloads<'_>) -> Result<(), Fault> {
    if head.connection.vips.is_empty() {
        return Ok(());
    }
    let reply = payloads.configuration().filter(|cp| cp.kind == ConfigType::Reply);
    for attribute in reply.iter().flat_map(Configuration::attributes) {
        let Some((v4, Some(address))) = asked(attribute) else { continue };
        let expected = head.connection.vips.iter().any(|vip| vip.is_ipv4() == v4);
        let usable = !address.is_multicast() && !address.is_loopback();
        if !expected || !usable || head.addresses.own.of(v4).is_some() {
            continue;
        }
        *head.addresses.own.of(v4) = Some(address);
        head.info(cx, format_args!("our virtual address is {address}"));
        cx.event(Event::VirtualAddress { ike: head.id, address, held: true });
    }
    if head.addresses.has_own() {
        return Ok(());
    }
    head.info(cx, format_args!("the peer gives no virtual address"));
    Err(Fault::Incompatible(Incompatible::NoAddress))
}

/// An address attribute: the family, and the address if it says one; all zeros and nothing mean any.
fn asked(attribute: ConfigAttribute<'_>) -> Option<(bool, Option<IpAddr>)> {
    let (v4, address) = match attribute.kind {
        Attribute::InternalIp4Address => {
            (true, <[u8; 4]>::try_from(attribute.value).ok().map(IpAddr::from))
        }
        // A prefix length stands behind it, and in some requests does not.
        Attribute::InternalIp6Address => {
            (false, attribute.value.first_chunk::<16>().copied().map(IpAddr::from))
        }
        _ => return None,
    };
    Some((v4, address.filter(|address| !address.is_unspecified())))
}

fn kinds(v4: bool) -> (Attribute, Attribute) {
    match v4 {
        true => (Attribute::InternalIp4Address, Attribute::InternalIp4Dns),
        false => (Attribute::InternalIp6Address, Attribute::InternalIp6Dns),
    }
}

/// An address as INTERNAL_IP4_ADDRESS or INTERNAL_IP6_ADDRESS has it, the latter of a prefix of its own (RFC 7296 §3.15.1).
fn value(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => [&a.octets()[..], &[128]].concat(),
    }
}
