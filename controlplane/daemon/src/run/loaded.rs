//! The configuration as it is now: of the files, and what clients have loaded or taken away.

use crate::config::{self, Configuration, Options, Store};
use crate::control::{Asked, Configured, Refused};
use crate::gateway::Gateway;
use crate::host::netlink::HostView;
use crate::host::surroundings::Surroundings;
use crate::vici::Request;
use ike::Command;
use ike::config::{ChildAction, Connection};
use ike::event::{ChildTarget, Origin};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// The configuration: of the files, and what clients have loaded.
pub(super) struct Loaded {
    pub(super) path: PathBuf,
    pub(super) options: Options,
    pub(super) store: Store,
    /// As the files have them.
    pub(super) left_out: Vec<config::LeftOut>,
    /// What address keywords stand for.
    pub(super) around: Surroundings,
}

impl Loaded {
    /// The connections that cannot be done, with what filters say of them.
    pub(super) fn left_out(&self) -> Vec<config::LeftOut> {
        let filters = &self.store.gateway().filters;
        let with_filters = |connection: &config::LeftOut| config::LeftOut {
            children: filters.children(&connection.name, &connection.children, &self.around),
            ..connection.clone()
        };
        self.left_out.iter().map(with_filters).collect()
    }

    /// Hands the configuration over as it is now.
    pub(super) fn hand_over(&self, gateway: &mut Gateway) {
        let config = Arc::new(self.store.engine_config(&self.around));
        gateway.set_config(config, Some(self.left_out()));
    }

    /// Looks around again; what keywords stand for is handed over when it has changed.
    pub(super) fn look_around(&mut self, view: &HostView, gateway: &mut Gateway) {
        let filters = &self.store.gateway().filters;
        if !filters.have_keywords() {
            return;
        }
        let around = Surroundings::look(view, &filters.sources);
        if around != self.around {
            tracing::info!("address keywords stand for other addresses now");
            self.around = around;
            self.hand_over(gateway);
        }
    }
}

impl Configured for Loaded {
    fn change(&mut self, asked: Asked, gateway: &mut Gateway, now: Instant) -> Result<(), Refused> {
        let changes = match asked {
            Asked::Reload => {
                let new = Configuration::load(&self.path, self.options).map_err(Refused::File)?;
                for warning in &new.warnings {
                    tracing::warn!("{warning}");
                }
                self.left_out.clone_from(&new.left_out);
                self.store.reload(new)
            }
            Asked::LoadConn(arguments) => {
                let (connection, warnings) = Request::connection(
                    &arguments,
                    self.store.settings(),
                    self.store.credentials(),
                )
                .map_err(Refused::Arguments)?;
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                self.store.load_connection(connection)
            }
            Asked::UnloadConn(name) => config::Changes {
                removed: vec![self.store.unload_connection(&name).ok_or(Refused::Unknown)?],
                ..config::Changes::default()
            },
            Asked::LoadShared(secret) => {
                self.store.load_secret(secret);
                config::Changes::default()
            }
            Asked::LoadCredential(new) => {
                self.store.load_credential(new);
                config::Changes::default()
            }
            Asked::UnloadKey(id) => {
                if !self.store.unload_key(&id) {
                    return Err(Refused::Unknown);
                }
                config::Changes::default()
            }
            Asked::UnloadShared(name) => {
                if !self.store.unload_secret(&name) {
                    return Err(Refused::Unknown);
                }
                config::Changes::default()
            }
            Asked::ClearCreds => {
                self.store.clear_secrets();
                config::Changes::default()
            }
        };
        for key in &changes.restart {
            tracing::warn!(key, "takes effect at the next start");
        }
        self.hand_over(gateway);
        // What was started because the configuration said so ends when it says so no longer.
        let gone = changes.changed.iter().map(|(old, _)| old).chain(&changes.removed);
        stop_children(gateway, gone, now);
        let new: Vec<_> = changes
            .added
            .into_iter()
            .chain(changes.changed.into_iter().map(|(_, new)| new))
            .collect();
        start_children(gateway, &new, now);
        Ok(())
    }

    fn key_ids(&self) -> Vec<String> {
        self.store.credentials().keys.iter().map(|key| crate::vici::reply::hex(&key.id())).collect()
    }

    fn secret_names(&self) -> Vec<&str> {
        self.store.secret_names().collect()
    }
}

/// The children whose `start_action` is `start`.
fn started<'a>(
    connections: impl IntoIterator<Item = &'a Arc<Connection>>,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    connections.into_iter().flat_map(|connection| {
        let children = connection.children.iter();
        children
            .filter(|child| child.start_action == ChildAction::Start)
            .map(|child| (connection.name.as_str(), child.name.as_str()))
    })
}

pub(super) fn start_children(gateway: &mut Gateway, connections: &[Arc<Connection>], now: Instant) {
    for (connection, child) in started(connections) {
        let command = Command::InitiateChild {
            connection: Some(connection.to_owned()),
            child: child.to_owned(),
            origin: Origin::StartAction,
        };
        if let Err(error) = gateway.handle_command(now, command) {
            tracing::warn!(connection, child, %error, "not started");
        }
    }
}

fn stop_children<'a>(
    gateway: &mut Gateway,
    connections: impl IntoIterator<Item = &'a Arc<Connection>>,
    now: Instant,
) {
    for (connection, child) in started(connections) {
        let target =
            ChildTarget::Named { connection: Some(connection.to_owned()), child: child.to_owned() };
        // Refused when it is not up: nothing to undo.
        let _ = gateway.handle_command(now, Command::TerminateChild { target, force: false });
    }
}
