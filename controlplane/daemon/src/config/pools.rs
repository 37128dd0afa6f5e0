//! `pools`: addresses for peers.

use super::diagnostic::Diagnostics;
use super::fields::{Fields, shown};
use super::syntax::Section;
use super::{check_only, keys, value};
use core::net::IpAddr;
use ike::config::{Connection, Pool};
use ipsec::selector::AddressRange;
use std::sync::Arc;

/// Name servers that one pool may name: each goes to every peer, in one message.
const MAX_SERVERS: usize = 16;

/// Reads all of `pools`.
pub(super) fn resolve(section: &Section, findings: &mut Diagnostics) -> Vec<Pool> {
    check_only(section, keys::POOL, findings);
    let mut pools = Vec::new();
    for part in &section.sections {
        let path = format!("pools.{}", part.name);
        let mut f = Fields::new(part, keys::POOL, path, findings);
        let wanted = "a prefix such as 10.9.0.0/24, or a range such as 10.9.0.1-10.9.0.99";
        let addresses = f.parse("addrs", wanted, addresses);
        let mut dns = Vec::new();
        for item in f.list("dns") {
            match item.parse() {
                Ok(server) if dns.len() < MAX_SERVERS => dns.push(server),
                Ok(_) => f.error("dns", format!("more than {MAX_SERVERS} servers")),
                Err(_) => f.error("dns", format!("'{}' is not an address", shown(item))),
            }
        }
        match addresses {
            Some(addresses) => pools.push(Pool { name: part.name.clone(), addresses, dns }),
            None if f.has("addrs") => {}
            None => f.error("addrs", "missing: the addresses of the pool"),
        }
    }
    pools
}

/// As charon has it: of an IPv4 prefix not the first and the last address, which hosts take for the subnet's own.
fn addresses(text: &str) -> Option<AddressRange> {
    let range = value::addresses(text)?;
    let (IpAddr::V4(first), IpAddr::V4(last)) = (range.first(), range.last()) else {
        return Some(range);
    };
    let (first, last) = (u32::from(first), u32::from(last));
    if !text.contains('/') || last - first < 3 {
        return Some(range);
    }
    AddressRange::new(IpAddr::V4((first + 1).into()), IpAddr::V4((last - 1).into()))
}

/// A connection whose pools are nowhere gives no address.
pub(super) fn check_used(
    root: &Section,
    connections: &[Arc<Connection>],
    pools: &[Pool],
    findings: &mut Diagnostics,
) {
    for connection in connections {
        for name in connection.pools.iter().filter(|name| !pools.iter().any(|p| p.name == **name)) {
            let path = format!("connections.{}.pools", connection.name);
            let message = format!("no pool '{}' is in 'pools'", shown(name));
            let at = root.section("connections").map_or(&root.at, |section| &section.at);
            findings.error(at, &path, message);
        }
    }
}
