//! swanctl.conf and the `gateway` section: read, resolved, and every fault named.
//!
//! ```text
//!   files ─► syntax (sections, includes) ─► flatten (references) ─► fields against keys ─┐
//!   VICI load-conn ─► the same sections ─────────────────────────────────────────────────┤
//!                                         Configuration { ike, gateway, secrets, … } ◄───┘
//! ```
//!
//! | module | what |
//! |---|---|
//! | `syntax` | strongSwan's settings format |
//! | `keys` | the tables of keys, which the reference is generated from |
//! | `fields` | one section against its table |
//! | `connection`, `secrets`, `gateway` | one top-level section each |
//! | `filters` | `gateway.filters`: keywords in selectors, soft SAs |
//! | `authentication`, `credentials` | who proves what by which certificates, and the files they are in |
//! | `value`, `identity`, `display` | what values mean, and how they are written |
//! | `store` | what is loaded: files and VICI together, and what a reload changes |
//!
//! It opens the files it is told to and those in swanctl's directories for certificates and keys, and never prints a secret.

mod authentication;
mod connection;
mod credentials;
mod diagnostic;
pub mod display;
mod fields;
mod filters;
mod gateway;
pub mod identity;
mod keys;
mod pools;
mod secrets;
mod store;
mod syntax;
mod value;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_of_credentials;

pub use credentials::Credential;
pub use diagnostic::{Diagnostic, Diagnostics, Location, Severity, Source};
pub use filters::{Filter, Filters, GenericSelector};
pub use gateway::{
    DEFAULT_HOST_INTERFACE, DEFAULT_STATISTICS_FILE, DEFAULT_VICI_SOCKET, Gateway, GatewayLimits,
    Idle, OnFailure, Port, PortMode, patience,
};
pub use secrets::{Secret, SecretKind, psks};
pub use store::{Changes, Store};

use crate::kerberos;
use crate::vici::{Bytes, Element, Message};
use connection::Resolved;
use credentials::Files;
use ike::certificate::{Certificate, Credentials};
use ike::config::{AuthMethod, Child, Config, Connection, Identity, Settings};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use syntax::{Section, Setting, Text, Value};

/// How a configuration is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Takes secrets from files that every user can read.
    pub readable_secrets: bool,
}

/// A connection that is configured but cannot be done, so that it is not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
    /// Its children: their traffic is protected by nothing.
    pub children: Vec<Arc<Child>>,
}

/// A configuration without errors.
#[derive(Debug)]
pub struct Configuration {
    /// What the engine is told.
    pub ike: Config,
    /// The `gateway` section.
    pub gateway: Gateway,
    /// All shared secrets, with their names; the preshared keys among them are in `ike`, too.
    pub secrets: Vec<Secret>,
    /// Connections that are not loaded.
    pub left_out: Vec<LeftOut>,
    /// What has no effect or a different one.
    pub warnings: Vec<Diagnostic>,
}

const SECTIONS: [&str; 5] = ["connections", "secrets", "pools", "authorities", "gateway"];

impl Configuration {
    /// Reads the file at `path` and all that it includes.
    ///
    /// # Errors
    /// Every error and warning found, when one of them is an error.
    pub fn load(path: &Path, options: Options) -> Result<Self, Diagnostics> {
        let mut findings = Diagnostics::default();
        let root = syntax::read(path, &mut findings);
        let beside = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let beside = beside.unwrap_or(Path::new("."));
        Self::resolve(&root, Some(&credentials::base(beside)), options, findings)
    }

    /// Reads `text` as the content of a file of the name that `source` tells; only one that is in a directory has
    /// certificates and keys beside it.
    ///
    /// # Errors
    /// As [`Configuration::load`].
    pub fn parse(text: &str, source: Source, options: Options) -> Result<Self, Diagnostics> {
        let mut findings = Diagnostics::default();
        let beside = Some(source.directory.clone()).filter(|d| !d.as_os_str().is_empty());
        let base = beside.map(|directory| credentials::base(&directory));
        let root = syntax::read_text(text, source, &mut findings);
        Self::resolve(&root, base.as_deref(), options, findings)
    }

    fn resolve(
        root: &Section,
        base: Option<&Path>,
        options: Options,
        mut findings: Diagnostics,
    ) -> Result<Self, Diagnostics> {
        let flat = |name, findings: &mut Diagnostics| syntax::flatten(root, name, findings);
        for setting in &root.settings {
            let message =
                format!("unknown key outside of a section; there are: {}", SECTIONS.join(", "));
            findings.error(&setting.at, &setting.key, message);
        }
        let (gateway, settings) = match flat("gateway", &mut findings) {
            Some(section) => gateway::resolve(&section, &mut findings),
            None => (Gateway::default(), Settings::default()),
        };
        let (secrets, passphrases) = match flat("secrets", &mut findings) {
            Some(section) => secrets::resolve(&section, options, &mut findings),
            None => (Vec::new(), Vec::new()),
        };
        let mut credentials = match base {
            Some(base) => credentials::load(base, &passphrases, options, &mut findings),
            None => Credentials::default(),
        };
        let base = base.unwrap_or(Path::new(""));
        if let Some(section) = flat("authorities", &mut findings) {
            let found = authorities(&section, base, &mut findings);
            credentials.authorities.extend(found);
        }
        let files = Files::new(base.to_owned(), &credentials);
        let mut connections = Vec::new();
        let mut left_out = Vec::new();
        if let Some(section) = flat("connections", &mut findings) {
            for setting in &section.settings {
                let path = format!("connections.{}", setting.key);
                let message = "unknown key; 'connections' has one section for each connection";
                findings.error(&setting.at, &path, message);
            }
            for section in &section.sections {
                match connection::resolve(section, &settings, &files, &mut findings) {
                    Resolved::Connection(connection) => connections.push(Arc::new(*connection)),
                    Resolved::LeftOut(connection) => left_out.push(connection),
                }
            }
        }
        let pools = match flat("pools", &mut findings) {
            Some(section) => pools::resolve(&section, &mut findings),
            None => Vec::new(),
        };
        pools::check_used(root, &connections, &pools, &mut findings);
        for section in &root.sections {
            if !SECTIONS.contains(&section.name.as_str()) && !root.refers_to(&section.name) {
                let known = SECTIONS.join(", ");
                let message =
                    format!("has no effect: no section refers to it, and it is none of: {known}");
                findings.warn(&section.at, &section.name, message);
            }
        }
        if findings.has_errors() {
            return Err(findings);
        }
        if let Some(section) = root.section("gateway").and_then(|g| g.section("filters")) {
            let children = connections.iter().map(|c| (&c.name, &c.children));
            let left = left_out.iter().map(|c| (&c.name, &c.children));
            let named: HashSet<_> = children
                .chain(left)
                .flat_map(|(name, all)| all.iter().map(move |c| (name.as_str(), c.name.as_str())))
                .collect();
            for filter in &gateway.filters.all {
                if !named.contains(&(filter.connection.as_str(), filter.child.as_str())) {
                    let at = section.section(&filter.name).map_or(&section.at, |s| &s.at);
                    let path = format!("gateway.filters.{}", filter.name);
                    let (c, child) =
                        (fields::shown(&filter.connection), fields::shown(&filter.child));
                    let message =
                        format!("no connection '{c}' with a child '{child}' is in these files");
                    findings.warn(at, &path, message);
                }
            }
        }
        if let Some(section) = root.section("connections") {
            warn_without_secret(section, &connections, &secrets, &mut findings);
        }
        let (psks, users) = (psks(&secrets), secrets::users(&secrets));
        let credentials = Arc::new(credentials);
        Ok(Self {
            ike: Config {
                connections,
                psks,
                users,
                pools,
                credentials,
                mechanism: kerberos::mechanism(),
                settings,
            },
            gateway,
            secrets,
            left_out,
            warnings: findings.into_vec(),
        })
    }
}

/// Resolves the one connection in the arguments of VICI's `load-conn`, as one of a file.
///
/// # Errors
/// What is wrong with it.
pub fn connection_from_vici(
    arguments: &Message,
    settings: &Settings,
    credentials: &Credentials,
) -> Result<(Connection, Vec<Diagnostic>), Diagnostics> {
    let mut findings = Diagnostics::default();
    let source = Source { name: "vici".to_owned(), mode: None, directory: PathBuf::new() };
    let at = Location { source: Arc::new(source), line: 0 };
    let mut connections = arguments.elements();
    let (Some((name, Element::Section(section))), None) = (connections.next(), connections.next())
    else {
        findings.error(&at, "load-conn", "takes one section, the connection");
        return Err(findings);
    };
    let section = &section_from_vici(name, section, &at);
    let files = Files::new(credentials::base(Path::new("")), credentials);
    match connection::resolve(section, settings, &files, &mut findings) {
        Resolved::Connection(connection) if !findings.has_errors() => {
            Ok((*connection, findings.into_vec()))
        }
        Resolved::Connection(_) => Err(findings),
        Resolved::LeftOut(left_out) => {
            findings.error(&section.at, &left_out.name, left_out.reason);
            Err(findings)
        }
    }
}

fn section_from_vici(name: &str, message: &Message, at: &Location) -> Section {
    let text = |bytes: &Bytes| bytes.as_str().map(|t| Text::new(t.to_owned()));
    let mut section = Section::new(name.to_owned(), at.clone());
    for (key, element) in message.elements() {
        let value = match element {
            Element::Section(sub) => {
                section.push(section_from_vici(key, sub, at));
                continue;
            }
            Element::Value(bytes) => text(bytes).map(Value::Text),
            Element::List(items) => {
                let texts = items.iter().map(text).collect::<Option<_>>().map(Value::List);
                let blobs = || items.iter().map(|item| item.as_slice().to_vec()).collect();
                Some(texts.unwrap_or_else(|| Value::Blobs(blobs())))
            }
        };
        let value = Some(value.unwrap_or(Value::Binary));
        section.set(Setting { key: key.to_owned(), at: at.clone(), value });
    }
    section
}

/// The ID of a private key as VICI writes it, in hexadecimal.
pub fn key_id(text: &str) -> Option<Vec<u8>> {
    value::hex(text).map(|id| id.to_vec())
}

/// The CA certificates that `authorities` names beside those in x509ca/.
fn authorities(
    section: &Section,
    base: &Path,
    findings: &mut Diagnostics,
) -> Vec<Arc<Certificate>> {
    check_only(section, keys::AUTHORITY, findings);
    let none = Credentials::default();
    let files = Files::new(base.to_owned(), &none);
    let mut found = Vec::new();
    for part in &section.sections {
        let path = format!("{}.{}", section.name, part.name);
        let mut f = fields::Fields::new(part, keys::AUTHORITY, path, findings);
        for key in ["cacert", "file"] {
            let Some(file) = f.text(key) else { continue };
            match files.certificate("x509ca", file) {
                Ok(certificate) if certificate.is_authority() => found.push(Arc::new(certificate)),
                Ok(_) => f.error(key, format!("'{}' is not a CA certificate", fields::shown(file))),
                Err(error) => f.error(key, error),
            }
        }
    }
    found
}

/// Checks the keys of sections that nothing is made of yet.
fn check_only(section: &Section, keys: &'static [keys::Key], findings: &mut Diagnostics) {
    for setting in &section.settings {
        let path = format!("{}.{}", section.name, setting.key);
        let message = format!("unknown key; '{}' has one section for each", section.name);
        findings.error(&setting.at, &path, message);
    }
    for part in &section.sections {
        let path = format!("{}.{}", section.name, part.name);
        let mut f = fields::Fields::new(part, keys, path, findings);
        f.check(|key| keys == keys::POOL && value::number(key).is_some());
        f.check_sections("", |_| false);
    }
}

/// A connection that authenticates by a preshared key fails without one.
fn warn_without_secret(
    section: &Section,
    connections: &[Arc<Connection>],
    secrets: &[Secret],
    findings: &mut Diagnostics,
) {
    let psks = || secrets.iter().filter(|s| s.kind == SecretKind::Ike);
    let owners: HashSet<&Identity> = psks().flat_map(|s| &s.owners).collect();
    if owners.contains(&Identity::Any) || psks().any(|s| s.owners.is_empty()) {
        return;
    }
    for connection in connections {
        let Connection { local, remote, .. } = &**connection;
        if local.method != AuthMethod::Psk && remote.method != AuthMethod::Psk {
            continue;
        }
        // For a peer of any identity it shows when it says who it is.
        let any_will_do = remote.id == Identity::Any && !owners.is_empty();
        if !any_will_do && !owners.contains(&remote.id) && !owners.contains(&local.id) {
            let at = section.section(&connection.name).map_or(&section.at, |s| &s.at);
            let path = format!("connections.{}", connection.name);
            let peer = fields::shown(&identity::display(&remote.id));
            findings.warn(at, &path, format!("no secret in 'secrets' is for the peer '{peer}'"));
        }
    }
}
