//! `gateway.filters`: what swanctl.conf has no words for about the traffic of a child.
//!
//! A filter names a child of a connection. It may give the child other traffic selectors, in which keywords stand for addresses
//! that the host learns, and say whether the traffic of a silent peer goes in clear. swanctl ignores the `gateway` section, so the
//! same file still loads into charon, with the selectors that the child itself has.

use super::diagnostic::Diagnostics;
use super::fields::{Fields, shown};
use super::syntax::Section;
use super::{connection, keys, value};
use crate::host::surroundings::{Keyword, Sources, Surroundings};
use core::net::IpAddr;
use core::time::Duration;
use ike::config::{Child, Connection, TrafficSelector, Unprotected};
use ipsec::selector::AddressRange;
use std::path::PathBuf;
use std::sync::Arc;

/// How long a peer is silent before it counts as one that does not speak IKE, as Windows has it.
const DEFAULT_AFTER: Duration = Duration::from_secs(3);

/// How long a soft SA lasts, as Windows has it.
const DEFAULT_FOR: Duration = Duration::from_secs(300);

/// A traffic selector whose addresses may be a keyword.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenericSelector {
    /// What the addresses are made of; without one they are those of `selector`.
    pub keyword: Option<Keyword>,
    /// The rest.
    pub selector: TrafficSelector,
}

/// One filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The name of its section.
    pub name: String,
    /// The connection.
    pub connection: String,
    /// The child of it.
    pub child: String,
    /// In place of the child's own.
    pub local_ts: Option<Vec<GenericSelector>>,
    /// In place of the child's own.
    pub remote_ts: Option<Vec<GenericSelector>>,
    /// Whether soft SAs are allowed.
    pub unprotected: Option<Unprotected>,
    /// `deliver = host`.
    pub deliver_to_host: bool,
}

/// All filters, and where their keywords come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// In the order of the file; for one child the first counts.
    pub all: Vec<Filter>,
    /// Of the keywords.
    pub sources: Sources,
}

impl Filters {
    /// Whether a change around the host may change a selector.
    pub fn have_keywords(&self) -> bool {
        let has = |ts: &Option<Vec<GenericSelector>>| {
            ts.iter().flatten().any(|selector| selector.keyword.is_some())
        };
        self.all.iter().any(|filter| has(&filter.local_ts) || has(&filter.remote_ts))
    }

    /// A connection with what filters say of its children.
    pub fn apply(&self, connection: &Arc<Connection>, around: &Surroundings) -> Arc<Connection> {
        if self.all.iter().all(|filter| filter.connection != connection.name) {
            return Arc::clone(connection);
        }
        let children = self.children(&connection.name, &connection.children, around);
        Arc::new(Connection { children, ..Connection::clone(connection) })
    }

    /// The children of a connection with what filters say of them. One whose keywords stand for nothing now has no traffic, and is
    /// left away.
    pub fn children(
        &self,
        connection: &str,
        children: &[Arc<Child>],
        around: &Surroundings,
    ) -> Vec<Arc<Child>> {
        children
            .iter()
            .filter_map(|child| {
                let mut named = self.all.iter().filter(|f| f.connection == connection);
                let Some(filter) = named.find(|f| f.child == child.name) else {
                    return Some(Arc::clone(child));
                };
                let ts = |generic: &Option<Vec<GenericSelector>>, own: &[TrafficSelector]| {
                    generic.as_ref().map_or(own.to_vec(), |generic| specific(generic, around))
                };
                let local_ts = ts(&filter.local_ts, &child.local_ts);
                let remote_ts = ts(&filter.remote_ts, &child.remote_ts);
                let Filter { unprotected, deliver_to_host, .. } = *filter;
                let has_traffic = !local_ts.is_empty() && !remote_ts.is_empty();
                has_traffic.then(|| {
                    Arc::new(Child {
                        local_ts,
                        remote_ts,
                        unprotected,
                        deliver_to_host,
                        ..Child::clone(child)
                    })
                })
            })
            .collect()
    }
}

/// Keywords expanded into addresses.
fn specific(generic: &[GenericSelector], around: &Surroundings) -> Vec<TrafficSelector> {
    let mut found: Vec<TrafficSelector> = Vec::new();
    for GenericSelector { keyword, selector } in generic {
        match keyword {
            None => found.push(selector.clone()),
            Some(keyword) => {
                found.extend(around.of(*keyword).iter().map(|address| TrafficSelector {
                    addresses: Some(AddressRange::host(*address)),
                    ..selector.clone()
                }))
            }
        }
    }
    found.truncate(connection::MAX_SELECTORS);
    found
}

/// Reads `gateway.filters`.
pub(super) fn resolve(section: &Section, findings: &mut Diagnostics) -> Filters {
    let mut f = Fields::new(section, keys::FILTERS, "gateway.filters".to_owned(), findings);
    f.check(|_| false);
    let mut sources = Sources::default();
    if let Some(path) = file(&mut f, "resolv_conf") {
        sources.resolv_conf = path;
    }
    if f.has("leases") {
        sources.leases = f.list("leases").into_iter().map(PathBuf::from).collect();
        if !sources.leases.iter().all(|path| path.is_absolute()) {
            f.error("leases", "takes absolute paths of directories");
        }
    }
    for (key, place) in [
        ("dns_servers", &mut sources.dns),
        ("dhcp_servers", &mut sources.dhcp),
        ("wins_servers", &mut sources.wins),
    ] {
        *place = servers(&mut f, key);
    }
    let all = section.sections.iter().filter_map(|part| filter(part, f.findings)).collect();
    Filters { all, sources }
}

fn file(f: &mut Fields<'_>, key: &str) -> Option<PathBuf> {
    f.parse(key, "an absolute path", |text| Some(PathBuf::from(text)).filter(|p| p.is_absolute()))
}

fn servers(f: &mut Fields<'_>, key: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for item in f.list(key) {
        match item.parse() {
            Ok(address) => found.push(address),
            Err(_) => f.error(key, format!("'{}' is not an address", shown(item))),
        }
    }
    found
}

fn filter(section: &Section, findings: &mut Diagnostics) -> Option<Filter> {
    let path = format!("gateway.filters.{}", section.name);
    let mut f = Fields::new(section, keys::FILTER, path, findings);
    f.check(|_| false);
    f.check_sections("", |_| false);
    let mut name = |key| {
        let found = f.text(key).map(str::to_owned);
        if found.is_none() {
            f.error(key, "missing: a filter is about one child of one connection");
        }
        found
    };
    let (connection, child) = (name("connection"), name("child"));
    let allowed = f.word("unprotected", &[("never", false), ("when_silent", true)]);
    let after = f.duration("unprotected_after").unwrap_or(DEFAULT_AFTER);
    let lasts = f.duration("unprotected_for").unwrap_or(DEFAULT_FOR);
    for (key, time) in [("unprotected_after", after), ("unprotected_for", lasts)] {
        if time.is_zero() {
            f.error(key, "must not be 0");
        }
    }
    if allowed == Some(true) {
        let message =
            "lets anybody who can keep the peer's IKE from answering read and forge this traffic";
        f.warn("unprotected", message);
    }
    let unprotected = (allowed == Some(true)).then_some(Unprotected { after, lasts });
    Some(Filter {
        name: section.name.clone(),
        connection: connection?,
        child: child?,
        local_ts: selectors(&mut f, "local_ts"),
        remote_ts: selectors(&mut f, "remote_ts"),
        unprotected,
        deliver_to_host: f
            .word("deliver", &[("forward", false), ("host", true)])
            .unwrap_or_default(),
    })
}

fn selectors(f: &mut Fields<'_>, key: &str) -> Option<Vec<GenericSelector>> {
    if !f.has(key) {
        return None;
    }
    let mut found = Vec::new();
    for item in f.list(key) {
        let (addresses, upper) = item.split_at(item.find('[').unwrap_or(item.len()));
        let keyword = Keyword::parse(addresses.trim());
        let rest = keyword.map(|_| format!("dynamic{upper}"));
        match value::traffic_selector(rest.as_deref().unwrap_or(item)) {
            Ok(selector) => found.push(GenericSelector { keyword, selector }),
            Err(error) => {
                let words = Keyword::ALL.map(|(name, _)| name).join(", ");
                f.error(key, format!("'{}': {error}, nor one of {words}", shown(item)));
            }
        }
    }
    if found.is_empty() {
        f.error(key, "empty; leave the key away for the child's own");
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::super::{Configuration, Options, Source, Store};
    use super::*;
    use crate::host::netlink::HostView;

    fn parse(filters: &str) -> Result<Configuration, Diagnostics> {
        let text = format!(
            "connections {{ gw {{ remote_addrs = 192.0.2.1\n local {{ auth = psk }} \
             remote {{ auth = psk }} children {{ net {{ local_ts = 10.1.0.0/16\n \
             remote_ts = 10.2.0.0/16 }} other {{ }} }} }} }}\n\
             secrets {{ ike1 {{ secret = x }} }}\ngateway {{ filters {{\n{filters}\n}} }}"
        );
        let source = Source { name: "t".into(), mode: Some(0o600), directory: "".into() };
        Configuration::parse(&text, source, Options::default())
    }

    fn around(addresses: &[&str], sources: &Sources) -> Surroundings {
        let addresses = addresses.iter().map(|a| (2, a.parse().unwrap(), 32)).collect();
        let view = HostView { addresses, ..HostView::default() };
        Surroundings::look(&view, sources)
    }

    #[test]
    fn keywords_become_addresses_and_follow_them() {
        let read = parse(
            "resolv_conf = /nonexistent\n leases = /nonexistent\n dns_servers = 192.0.2.53, fd00::53\n\
             me { connection = gw\n child = net\n local_ts = %my_ip\n \
             remote_ts = %dns[udp/53], 10.2.0.0/16, %WINS }",
        )
        .unwrap();
        let store = Store::new(read);
        let filters = &store.gateway().filters;
        assert!(filters.have_keywords());
        let selectors = |addresses: &[&str]| -> Vec<Vec<String>> {
            let config = store.engine_config(&around(addresses, &filters.sources));
            let ranges = |ts: &[TrafficSelector]| {
                ts.iter().map(|t| t.addresses.unwrap().first().to_string()).collect::<Vec<_>>()
            };
            let found = config.connections[0].children.iter().find(|c| c.name == "net");
            found.map_or(Vec::new(), |net| vec![ranges(&net.local_ts), ranges(&net.remote_ts)])
        };
        assert_eq!(
            selectors(&["192.0.2.5", "127.0.0.1"]),
            [vec!["192.0.2.5"], vec!["192.0.2.53", "fd00::53", "10.2.0.0"]]
        );
        assert_eq!(selectors(&["192.0.2.6"])[0], ["192.0.2.6"]);
        assert!(selectors(&[]).is_empty(), "a child without traffic is left away");
        let config = store.engine_config(&around(&["192.0.2.5"], &filters.sources));
        let dns = &config.connections[0].children[0].remote_ts[0];
        assert_eq!((dns.protocol, &dns.ports), (Some(17), &ipsec::selector::Ports::Range(53..=53)));
        assert_eq!(config.connections[0].children.len(), 2, "the other child is as it was");
    }

    #[test]
    fn soft_sas_are_off_unless_a_filter_allows_them_and_then_warned_of() {
        let read = parse(
            "a { connection = gw\n child = net\n unprotected = when_silent\n unprotected_after = 5s }",
        );
        let read = read.unwrap();
        assert!(read.warnings.iter().any(|w| w.to_string().contains("read and forge")));
        let config = Store::new(read).engine_config(&Surroundings::default());
        let [net, other] = config.connections[0].children.as_slice() else { panic!() };
        let allowed = Unprotected { after: Duration::from_secs(5), lasts: DEFAULT_FOR };
        assert_eq!((net.unprotected, other.unprotected), (Some(allowed), None));
        assert_eq!(net.local_ts.len(), 1, "its own");
    }

    #[test]
    fn faults_are_named() {
        for (text, part) in [
            ("a { child = net }", "gateway.filters.a.connection"),
            ("a { connection = gw\n child = net\n remote_ts = %nds }", "%gateway"),
            ("a { connection = gw\n child = net\n local_ts = , }", "empty"),
            ("a { connection = gw\n child = net\n unprotected = always }", "when_silent"),
            ("a { connection = gw\n child = net\n unprotected_for = 0 }", "must not be 0"),
            ("dns_servers = x", "'x' is not an address"),
            ("resolv_conf = etc", "absolute"),
        ] {
            let said = parse(text).unwrap_err().to_string();
            assert!(said.contains(part), "{text}: {said}");
        }
        let warned = parse("a { connection = gw\n child = nte }").unwrap().warnings;
        assert!(warned.iter().any(|w| w.to_string().contains("nte")), "{warned:?}");
    }
}
