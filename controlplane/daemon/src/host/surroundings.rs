//! Where the host finds itself: its own addresses and the servers that it was told of. What address keywords of filters stand for.
//!
//! ```text
//!   addresses, routes (netlink) ─┐
//!   /etc/resolv.conf ────────────┼─► Surroundings ─► filters (config) ─► selectors of children
//!   leases of DHCP clients ──────┘
//! ```

use super::netlink::HostView;
use core::net::IpAddr;
use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Files read of one directory of leases; a host has one for each interface.
const MAX_LEASES: usize = 64;

/// Bytes read of a file that others write.
const MAX_FILE: u64 = 64 << 10;

/// Addresses taken for one keyword; a filter with more would be no filter.
const MAX_ADDRESSES: usize = 64;

/// A word that stands for addresses which the host learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keyword {
    /// `%my_ip`: the host's own addresses.
    MyAddress,
    /// `%dns`: the name servers.
    DnsServers,
    /// `%dhcp`: the DHCP servers.
    DhcpServers,
    /// `%wins`: the WINS (NetBIOS name) servers.
    WinsServers,
    /// `%gateway`: the next hops of default routes.
    DefaultGateway,
}

impl Keyword {
    /// All of them, as they are written.
    pub const ALL: [(&'static str, Self); 5] = [
        ("%my_ip", Self::MyAddress),
        ("%dns", Self::DnsServers),
        ("%dhcp", Self::DhcpServers),
        ("%wins", Self::WinsServers),
        ("%gateway", Self::DefaultGateway),
    ];

    /// The keyword that `text` is.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(name, _)| text.eq_ignore_ascii_case(name)).map(|(_, k)| *k)
    }
}

/// Where servers are found beside netlink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// resolv.conf(5).
    pub resolv_conf: PathBuf,
    /// Directories with leases of dhclient, systemd-networkd or NetworkManager.
    pub leases: Vec<PathBuf>,
    /// Servers that no file tells.
    pub dns: Vec<IpAddr>,
    /// The same for DHCP.
    pub dhcp: Vec<IpAddr>,
    /// The same for WINS.
    pub wins: Vec<IpAddr>,
}

impl Default for Sources {
    fn default() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            leases: ["/run/systemd/netif/leases", "/var/lib/dhcp", "/var/lib/NetworkManager"]
                .map(PathBuf::from)
                .into(),
            dns: Vec::new(),
            dhcp: Vec::new(),
            wins: Vec::new(),
        }
    }
}

/// What the keywords stand for now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    mine: Vec<IpAddr>,
    dns: Vec<IpAddr>,
    dhcp: Vec<IpAddr>,
    wins: Vec<IpAddr>,
    gateways: Vec<IpAddr>,
}

impl Surroundings {
    /// Looks around. A file that is not there tells nothing.
    pub fn look(view: &HostView, sources: &Sources) -> Self {
        let mut leased = Lease::default();
        for directory in &sources.leases {
            leased.read_directory(directory);
        }
        let with = |mut found: Vec<IpAddr>, given: &[IpAddr]| {
            found.extend(given);
            in_order(found)
        };
        let unusable = |a: &IpAddr| match a {
            IpAddr::V4(a) => a.is_loopback() || a.is_link_local(),
            IpAddr::V6(a) => a.is_loopback() || a.is_unicast_link_local(),
        };
        let mine = view.addresses.iter().map(|(_, a, _)| *a).filter(|a| !unusable(a)).collect();
        let gateways = view.routes.iter().filter(|r| r.length == 0).filter_map(|r| r.gateway);
        Self {
            mine: in_order(mine),
            dns: with(
                read(&sources.resolv_conf).map_or(Vec::new(), |t| name_servers(&t)),
                &sources.dns,
            ),
            dhcp: with(leased.servers, &sources.dhcp),
            wins: with(leased.wins, &sources.wins),
            gateways: in_order(gateways.collect()),
        }
    }

    /// The addresses of a keyword.
    pub fn of(&self, keyword: Keyword) -> &[IpAddr] {
        match keyword {
            Keyword::MyAddress => &self.mine,
            Keyword::DnsServers => &self.dns,
            Keyword::DhcpServers => &self.dhcp,
            Keyword::WinsServers => &self.wins,
            Keyword::DefaultGateway => &self.gateways,
        }
    }
}

/// Sorted, each once, and not more than make sense: what is the same stays the same.
fn in_order(found: Vec<IpAddr>) -> Vec<IpAddr> {
    found.into_iter().collect::<BTreeSet<_>>().into_iter().take(MAX_ADDRESSES).collect()
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `nameserver` lines; a scope behind an address is left away with it, as link-local servers are no selectors.
fn name_servers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .filter(|address: &IpAddr| !address.is_loopback())
        .collect()
}

/// What leases say, all together.
#[derive(Debug, Default)]
struct Lease {
    servers: Vec<IpAddr>,
    wins: Vec<IpAddr>,
}

impl Lease {
    fn read_directory(&mut self, directory: &Path) {
        let Ok(entries) = std::fs::read_dir(directory) else { return };
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        let is_lease = |path: &PathBuf| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            // networkd's have the number of the interface for a name.
            name.ends_with(".lease") || name.ends_with(".leases") || name.parse::<u32>().is_ok()
        };
        for text in files.iter().filter(|f| is_lease(f)).take(MAX_LEASES).filter_map(|f| read(f)) {
            let lease = Self::parse(&text);
            self.servers.extend(lease.servers);
            self.wins.extend(lease.wins);
        }
    }

    /// Of dhclient's file the last lease counts; networkd's and NetworkManager's have one.
    fn parse(text: &str) -> Self {
        let mut lease = Self::default();
        for line in text.lines().map(str::trim) {
            if line.starts_with("lease ") {
                lease = Self::default();
            }
            let addresses = |list: &str| -> Vec<IpAddr> {
                list.split([',', ' ', ';']).filter_map(|a| a.trim().parse().ok()).collect()
            };
            for key in ["option dhcp-server-identifier ", "SERVER_ADDRESS="] {
                if let Some(list) = line.strip_prefix(key) {
                    lease.servers.extend(addresses(list));
                }
            }
            if let Some(list) = line.strip_prefix("option netbios-name-servers ") {
                lease.wins.extend(addresses(list));
            }
        }
        lease
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|a| a.parse().unwrap()).collect()
    }

    #[test]
    fn name_servers_of_resolv_conf() {
        let text = "# nameserver 9.9.9.9\nsearch x\nnameserver 192.0.2.53\n nameserver\tfd00::53\n\
                    nameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserverx 1.1.1.1\n";
        assert_eq!(name_servers(text), ips(&["192.0.2.53", "fd00::53"]));
    }

    #[test]
    fn leases_of_dhclient_and_networkd() {
        let text = "lease {\n  option dhcp-server-identifier 192.0.2.1;\n}\nlease {\n  \
                    option dhcp-server-identifier 192.0.2.9;\n  \
                    option netbios-name-servers 192.0.2.7,192.0.2.8;\n}\n";
        let lease = Lease::parse(text);
        assert_eq!(lease.servers, ips(&["192.0.2.9"]), "the last lease");
        assert_eq!(lease.wins, ips(&["192.0.2.7", "192.0.2.8"]));
        let lease =
            Lease::parse("# This is private data.\nADDRESS=192.0.2.5\nSERVER_ADDRESS=192.0.2.3\n");
        assert_eq!(lease.servers, ips(&["192.0.2.3"]));
    }

    #[test]
    fn own_addresses_and_gateways_come_from_netlink() {
        use crate::host::netlink::Route;
        let route = |destination: &str, length, gateway: &str| Route {
            destination: destination.parse().unwrap(),
            length,
            gateway: Some(gateway.parse().unwrap()),
            interface: 2,
            source: None,
            metric: 0,
            refuse: false,
            throw: false,
        };
        let mut view = HostView::default();
        for (address, length) in
            [("127.0.0.1", 8), ("192.0.2.5", 24), ("fe80::1", 64), ("fd00::5", 64)]
        {
            view.addresses.push((2, address.parse().unwrap(), length));
        }
        view.routes = vec![route("0.0.0.0", 0, "192.0.2.254"), route("10.0.0.0", 8, "192.0.2.253")];
        let sources = Sources {
            resolv_conf: "/nonexistent".into(),
            leases: vec!["/nonexistent".into()],
            wins: ips(&["192.0.2.7", "192.0.2.7"]),
            ..Sources::default()
        };
        let found = Surroundings::look(&view, &sources);
        assert_eq!(found.of(Keyword::MyAddress), ips(&["192.0.2.5", "fd00::5"]));
        assert_eq!(found.of(Keyword::DefaultGateway), ips(&["192.0.2.254"]));
        assert_eq!(found.of(Keyword::WinsServers), ips(&["192.0.2.7"]));
        assert!(found.of(Keyword::DnsServers).is_empty());
    }
}
