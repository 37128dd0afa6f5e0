//! What is loaded: connections and secrets of files and of VICI together.

use super::gateway::Gateway;
use super::secrets::{psks, users};
use super::{Configuration, Credential, Secret};
use crate::host::surroundings::Surroundings;
use ike::certificate::Credentials;
use ike::config::{Config, Connection, Pool, Settings};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    File,
    Vici,
}

/// Connections and secrets by name, in the order they are tried.
#[derive(Debug)]
pub struct Store {
    connections: Vec<(Arc<Connection>, Origin)>,
    secrets: Vec<(Secret, Origin)>,
    /// Of files and clients together.
    credentials: Arc<Credentials>,
    files: Arc<Credentials>,
    loaded: Vec<Credential>,
    pools: Vec<Pool>,
    settings: Settings,
    gateway: Gateway,
}

/// What a reload changed among the connections.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New ones, whose start actions are due.
    pub added: Vec<Arc<Connection>>,
    /// The old and the new form of changed ones: start actions of the old are undone.
    pub changed: Vec<(Arc<Connection>, Arc<Connection>)>,
    /// Gone ones, whose start actions are undone.
    pub removed: Vec<Arc<Connection>>,
    /// Settings of the gateway that take effect at the next start only.
    pub restart: Vec<&'static str>,
}

impl Store {
    /// A store of what a configuration has.
    pub fn new(configuration: Configuration) -> Self {
        let Configuration { ike, gateway, secrets, .. } = configuration;
        Self {
            connections: ike.connections.into_iter().map(|c| (c, Origin::File)).collect(),
            secrets: secrets.into_iter().map(|s| (s, Origin::File)).collect(),
            credentials: Arc::clone(&ike.credentials),
            files: ike.credentials,
            loaded: Vec::new(),
            pools: ike.pools,
            settings: ike.settings,
            gateway,
        }
    }

    /// What the engine is told, with what filters say and `around` as it is now.
    pub fn engine_config(&self, around: &Surroundings) -> Config {
        let filters = &self.gateway.filters;
        Config {
            connections: self.connections.iter().map(|(c, _)| filters.apply(c, around)).collect(),
            psks: psks(self.secrets.iter().map(|(s, _)| s)),
            users: users(self.secrets.iter().map(|(s, _)| s)),
            pools: self.pools.clone(),
            credentials: Arc::clone(&self.credentials),
            mechanism: crate::kerberos::mechanism(),
            settings: self.settings.clone(),
        }
    }

    /// Certificates and keys.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The engine's settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The gateway section of the last load.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// All connections.
    pub fn connections(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.connections.iter().map(|(c, _)| c)
    }

    /// A connection by name.
    pub fn connection(&self, name: &str) -> Option<&Arc<Connection>> {
        self.connections().find(|c| c.name == name)
    }

    /// Names of all secrets that have one.
    pub fn secret_names(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().map(|(s, _)| s.name.as_str()).filter(|name| !name.is_empty())
    }

    /// Adds or replaces a connection that a client loads, and says what changed. One that is as it
    /// was changes nothing.
    pub fn load_connection(&mut self, new: Connection) -> Changes {
        let mut changes = Changes::default();
        let new = Arc::new(new);
        match self.connections.iter_mut().find(|(c, _)| c.name == new.name) {
            Some((old, _)) if **old == *new => {}
            Some((old, origin)) => {
                let old = core::mem::replace(old, new.clone());
                *origin = Origin::Vici;
                changes.changed.push((old, new));
            }
            None => {
                self.connections.push((new.clone(), Origin::Vici));
                changes.added.push(new);
            }
        }
        changes
    }

    /// Removes a connection; `None` when there is none of that name.
    pub fn unload_connection(&mut self, name: &str) -> Option<Arc<Connection>> {
        let index = self.connections.iter().position(|(c, _)| c.name == name)?;
        Some(self.connections.remove(index).0)
    }

    /// Adds a secret, in place of one of the same name.
    pub fn load_secret(&mut self, new: Secret) {
        let same = |s: &Secret| !new.name.is_empty() && s.name == new.name;
        match self.secrets.iter_mut().find(|(s, _)| same(s)) {
            Some(old) => *old = (new, Origin::Vici),
            None => self.secrets.push((new, Origin::Vici)),
        }
    }

    /// Forgets a secret; false when there is none of that name.
    pub fn unload_secret(&mut self, name: &str) -> bool {
        let before = self.secrets.len();
        self.secrets.retain(|(s, _)| s.name.is_empty() || s.name != name);
        self.secrets.len() < before
    }

    /// Forgets all secrets, and all certificates and keys.
    pub fn clear_secrets(&mut self) {
        self.secrets.clear();
        self.loaded.clear();
        self.files = Arc::default();
        self.join();
    }

    /// Adds what a client loads.
    pub fn load_credential(&mut self, new: Credential) {
        self.loaded.push(new);
        // What says nothing new is not kept: a client may load the same files for ever.
        let before = Arc::clone(&self.credentials);
        self.join();
        let count = |c: &Credentials| {
            [c.keys.len(), c.certificates.len(), c.authorities.len(), c.revocation_lists.len()]
        };
        if count(&before) == count(&self.credentials) {
            self.loaded.pop();
        }
    }

    /// Forgets a private key that a client loaded; false when there is none of that ID.
    pub fn unload_key(&mut self, id: &[u8]) -> bool {
        let before = self.loaded.len();
        self.loaded.retain(|credential| !credential.is_key(id));
        self.join();
        self.loaded.len() < before
    }

    fn join(&mut self) {
        let mut all = Credentials::clone(&self.files);
        for credential in &self.loaded {
            credential.add_to(&mut all);
        }
        self.credentials = Arc::new(all);
    }

    /// Takes over a configuration that was read again: all that came from files is as the files
    /// have it now; what clients loaded stays, unless a file has something of that name.
    pub fn reload(&mut self, configuration: Configuration) -> Changes {
        let mut changes = Changes {
            restart: self.gateway.needs_restart(&configuration.gateway),
            ..Changes::default()
        };
        let ports = |settings: &Settings| (settings.port, settings.port_nat_t);
        if ports(&self.settings) != ports(&configuration.ike.settings) {
            changes.restart.push("gateway.ike.port");
        }
        let new = Self::new(configuration);
        let old = core::mem::take(&mut self.connections);
        self.pools = new.pools;
        self.connections = new.connections;
        let before: HashMap<&str, &Arc<Connection>> =
            old.iter().map(|(c, _)| (c.name.as_str(), c)).collect();
        for (connection, _) in &self.connections {
            match before.get(connection.name.as_str()) {
                None => changes.added.push(connection.clone()),
                Some(old) if **old == *connection => {}
                Some(old) => changes.changed.push(((*old).clone(), connection.clone())),
            }
        }
        let names: HashSet<String> = self.connections().map(|c| c.name.clone()).collect();
        for (connection, origin) in old.into_iter().filter(|(c, _)| !names.contains(&c.name)) {
            match origin {
                Origin::File => changes.removed.push(connection),
                Origin::Vici => self.connections.push((connection, origin)),
            }
        }
        let old = core::mem::replace(&mut self.secrets, new.secrets);
        let names: HashSet<String> = self.secret_names().map(str::to_owned).collect();
        let kept =
            |(s, origin): &(Secret, Origin)| *origin == Origin::Vici && !names.contains(&s.name);
        self.secrets.extend(old.into_iter().filter(kept));
        self.files = new.files;
        self.join();
        self.settings = new.settings;
        self.gateway = new.gateway;
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Options, SecretKind, Source};
    use super::*;
    use ipsec::algorithm::KeyMaterial;

    fn configuration(connections: &[(&str, &str)], secrets: &str) -> Configuration {
        let mut text = String::from("connections {\n");
        for (name, settings) in connections {
            text.push_str(&format!(
                "{name} {{ {settings}\n local {{ auth = psk }} remote {{ auth = psk }} }}\n"
            ));
        }
        text.push_str(&format!("}}\nsecrets {{ {secrets} }}\n"));
        let source = Source { name: "t".into(), mode: Some(0o600), directory: "".into() };
        Configuration::parse(&text, source, Options::default()).unwrap()
    }

    fn names<'a>(connections: impl IntoIterator<Item = &'a Arc<Connection>>) -> Vec<&'a str> {
        connections.into_iter().map(|c| c.name.as_str()).collect()
    }

    fn secret(name: &str) -> Secret {
        let data = KeyMaterial::new(vec![1]);
        Secret { name: name.to_owned(), kind: SecretKind::Ike, owners: Vec::new(), data }
    }

    #[test]
    fn a_reload_touches_what_changed_only() {
        let mut store = Store::new(configuration(&[("a", ""), ("b", ""), ("c", "")], ""));
        let vici =
            Connection { name: "v".into(), ..Connection::clone(store.connection("a").unwrap()) };
        assert_eq!(names(&store.load_connection(vici.clone()).added), ["v"]);
        assert_eq!(store.load_connection(vici), Changes::default());
        let changes =
            store.reload(configuration(&[("a", ""), ("b", "version = 2"), ("d", "")], ""));
        assert_eq!(names(&changes.added), ["d"]);
        assert_eq!(names(changes.changed.iter().map(|(_, new)| new)), ["b"]);
        assert_eq!(names(&changes.removed), ["c"]);
        assert_eq!(names(store.connections()), ["a", "b", "d", "v"]);
        assert_eq!(store.unload_connection("a").unwrap().name, "a");
        assert!(store.unload_connection("a").is_none());
        assert_eq!(
            names(&store.engine_config(&Surroundings::default()).connections),
            ["b", "d", "v"]
        );
    }

    #[test]
    fn secrets_are_replaced_by_name() {
        let mut store =
            Store::new(configuration(&[], "ike-1 { secret = a }\n eap-1 { secret = b }"));
        store.load_secret(secret("ike-1"));
        store.load_secret(secret("x"));
        store.load_secret(secret(""));
        assert_eq!(store.secret_names().collect::<Vec<_>>(), ["ike-1", "eap-1", "x"]);
        assert_eq!(store.engine_config(&Surroundings::default()).psks.len(), 3);
        assert!(store.unload_secret("x") && !store.unload_secret("x") && !store.unload_secret(""));
        store.load_secret(secret("y"));
        store.reload(configuration(&[], "ike-2 { secret = a }"));
        // ike-1 was replaced over VICI, so it stays like the others of VICI.
        assert_eq!(store.secret_names().collect::<Vec<_>>(), ["ike-2", "ike-1", "y"]);
        store.clear_secrets();
        assert!(store.engine_config(&Surroundings::default()).psks.is_empty());
    }
}
