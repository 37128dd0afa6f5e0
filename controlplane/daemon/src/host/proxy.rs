//! Addresses behind tunnels that lie in the prefix of one of our links: hosts there ask for them by ARP or neighbour discovery, and the
//! kernel answers in their place (`ip neighbour add proxy`).
//!
//! A virtual address out of the LAN's own prefix is the usual case (charon answers for such by its farp plugin).

use super::HostError;
use super::netlink::{HostView, Requests};
use core::net::IpAddr;
use ipsec::selector::AddressRange;
use std::collections::BTreeSet;

/// Addresses answered for. A peer with many children could else make the kernel's list, which is searched in order, as long as it likes.
const MOST: usize = 4096;

/// An interface, and an address that is answered for there.
pub type Proxied = (u32, IpAddr);

/// Which addresses behind tunnels lie on which of our ports' links.
pub fn wanted(view: &HostView, ports: &[u32], behind: &[IpAddr]) -> BTreeSet<Proxied> {
    let own = |address: IpAddr| view.addresses.iter().any(|(_, a, _)| *a == address);
    behind
        .iter()
        .filter(|address| !own(**address))
        .flat_map(|address| {
            view.addresses
                .iter()
                .filter(|(interface, link, length)| {
                    ports.contains(interface)
                        && AddressRange::prefix(*link, *length)
                            .is_some_and(|prefix| prefix.contains(*address))
                })
                .map(|(interface, _, _)| (*interface, *address))
        })
        .take(MOST)
        .collect()
}

/// Takes back what a gateway that was killed had asked of the kernel: it would answer in the place of whoever has those addresses now.
///
/// # Errors
/// What the host refuses.
pub fn forget(requests: &mut Requests) -> Result<(), HostError> {
    for (interface, address) in requests.proxied_neighbours()? {
        requests.proxy_neighbour(interface, address, false)?;
        tracing::info!(%address, interface, "answered for by a gateway before, no longer");
    }
    Ok(())
}

/// What was asked of the kernel, to be taken back.
#[derive(Debug, Default)]
pub struct Proxies {
    installed: BTreeSet<Proxied>,
    /// Names of devices whose `proxy_ndp` we turned on.
    enabled: BTreeSet<String>,
    /// Names of devices that were warned of.
    warned: BTreeSet<String>,
}

impl Proxies {
    /// Makes it so; what the kernel refuses is logged and tried again with the next change.
    pub fn follow(&mut self, requests: &mut Requests, view: &HostView, wanted: BTreeSet<Proxied>) {
        let gone: Vec<Proxied> = self.installed.difference(&wanted).copied().collect();
        for proxied in gone {
            self.remove(requests, proxied);
        }
        for (interface, address) in wanted {
            if self.installed.contains(&(interface, address)) {
                continue;
            }
            let name = view.links.get(&interface).map_or("", |link| link.name.as_str());
            self.prepare(name, address);
            match requests.proxy_neighbour(interface, address, true) {
                Ok(()) => {
                    tracing::info!(%address, device = name, "answered for on the link");
                    self.installed.insert((interface, address));
                }
                Err(error) => tracing::warn!(%error, %address, device = name, "not answered for"),
            }
        }
    }

    /// Takes everything back.
    pub fn end(&mut self, requests: &mut Requests) {
        for proxied in core::mem::take(&mut self.installed) {
            self.remove(requests, proxied);
        }
        for name in core::mem::take(&mut self.enabled) {
            // A device that is gone has nothing to turn off.
            let _ = std::fs::write(proxy_ndp(&name), "0");
        }
    }

    fn remove(&mut self, requests: &mut Requests, (interface, address): Proxied) {
        self.installed.remove(&(interface, address));
        if let Err(error) = requests.proxy_neighbour(interface, address, false) {
            tracing::debug!(%error, %address, "no longer answered for");
        }
    }

    /// The kernel answers only on devices that it forwards from, and for IPv6 only where it is told to.
    fn prepare(&mut self, name: &str, address: IpAddr) {
        if address.is_ipv6() && read(&proxy_ndp(name)).is_some_and(|on| on == "0") {
            match std::fs::write(proxy_ndp(name), "1") {
                Ok(()) => {
                    self.enabled.insert(name.to_owned());
                }
                Err(error) => tracing::warn!(%error, device = name, "proxy_ndp stays off"),
            }
        }
        let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        let forwarding = format!("/proc/sys/net/{family}/conf/{name}/forwarding");
        if read(&forwarding).is_some_and(|on| on == "0") && self.warned.insert(name.to_owned()) {
            tracing::warn!(
                %address,
                device = name,
                "net.{family}.conf.{name}.forwarding is 0: the kernel answers for nobody there"
            );
        }
    }
}

fn proxy_ndp(name: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{name}/proxy_ndp")
}

fn read(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_others_addresses_on_our_links_are_answered_for() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let view = HostView {
            addresses: vec![
                (2, ip("10.1.0.254"), 24),
                (2, ip("fd00::fe"), 64),
                (3, ip("192.0.2.1"), 24),
            ],
            ..HostView::default()
        };
        let behind = ["10.1.0.200", "10.1.0.254", "10.2.0.1", "fd00::200", "192.0.2.9"].map(ip);
        assert_eq!(
            wanted(&view, &[2], &behind),
            BTreeSet::from([(2, ip("10.1.0.200")), (2, ip("fd00::200"))])
        );
    }
}
