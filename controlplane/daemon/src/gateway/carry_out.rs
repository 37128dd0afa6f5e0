//! What the engine asks for, carried out: pairs installed, put to use and taken away, and what else it says.

use super::{Gateway, Pair, Spis};
use crate::live::Endpoints;
use crate::policies::ChildKey;
use ike::event::{Activate, Failure, InstallRefused, Level, Origin};
use ike::{Command, Event, InstallId};
use ipsec::sa::{PairId, SaParameters, UdpEncap};
use std::time::Instant;
use worker::{Activation, Refusal, Ticket};

impl Gateway {
    /// What the engine wants done.
    pub(super) fn carry_out(&mut self, now: Instant, event: Event) {
        self.tell(now, &event);
        match event {
            Event::InstallInbound { id, name, sa, .. } => {
                let key = ChildKey { connection: name.connection, child: name.child };
                let delivery = self.delivery(&key);
                let result = self.dataplane.add_inbound(&sa, delivery);
                if result.is_ok() {
                    let pair = Pair {
                        key,
                        policy: None,
                        selectors: sa.selectors.clone(),
                        endpoints: Endpoints::of(&sa),
                        remote: sa.remote,
                        spi_out: None,
                        up: false,
                        held: false,
                        seen: 0,
                    };
                    self.pairs.insert(sa.pair, pair);
                }
                self.installed(now, id, result);
            }
            Event::InstallOutbound { id, sa, activate, .. } => {
                let result = self.install_outbound(&sa, activate);
                self.installed(now, id, result);
            }
            Event::ActivateOutbound { pair } => {
                let held = self.pairs.get_mut(&pair).filter(|known| known.held);
                if let Some(known) = held
                    && let Some(policy) = known.policy
                {
                    known.held = false;
                    if let Err(error) = self.dataplane.bind(policy, pair, Activation::Now) {
                        tracing::warn!(%error, pair = pair.0, "traffic waits for the next rekey");
                    }
                } else {
                    let _ = self.dataplane.activate(pair);
                }
            }
            Event::RemoveOutbound { pair } => {
                let _ = self.dataplane.unbind(pair);
            }
            Event::RemovePair { pair } => self.remove(pair),
            Event::ChildUp { name, selectors, replaces } => {
                if let Some(pair) = self.pairs.get_mut(&name.pair) {
                    pair.up = true;
                    self.live.enter(pair.endpoints);
                    self.figures.pair_added();
                    self.changed.tunnels = true;
                    let key = pair.key.clone();
                    if self.soft.end(&key) {
                        self.end_soft(&[key]);
                    }
                }
                tracing::info!(
                    connection = name.connection,
                    child = name.child,
                    pair = name.pair.0,
                    replaces = replaces.map(|p| p.0),
                    selectors = selectors.len(),
                    "Child SA established"
                );
            }
            Event::ChildDown { name, reason, action } => {
                tracing::info!(
                    connection = name.connection,
                    child = name.child,
                    pair = name.pair.0,
                    %reason,
                    "Child SA closed"
                );
                if action == ike::config::ChildAction::Start {
                    let command = Command::InitiateChild {
                        connection: Some(name.connection),
                        child: name.child,
                        origin: Origin::StartAction,
                    };
                    // Refused when the child is gone from the configuration: nothing to start.
                    let _ = engine!(self, handle_command, now, command);
                }
            }
            Event::IkeUp { ike, connection, replaces } => {
                let replaces = replaces.map(|i| i.0);
                tracing::info!(connection, ike = ike.0, replaces, "IKE SA established");
            }
            Event::IkeDown { ike, connection, reason } => {
                tracing::info!(connection, ike = ike.0, %reason, "IKE SA closed");
            }
            Event::RequestDone { request, result } => match self.traps.remove(&request) {
                // With a soft SA what waits goes in clear.
                Some(policy) => {
                    if result.is_err_and(|failure| failure != Failure::Unprotected) {
                        self.acquire_failed(policy);
                    }
                }
                None => self.finished.push((request, result)),
            },
            Event::VirtualAddress { ike, address, held } => {
                let holders = self.virtual_addresses.entry(address).or_default();
                if held {
                    holders.insert(ike);
                } else {
                    holders.remove(&ike);
                }
                if holders.is_empty() {
                    self.virtual_addresses.remove(&address);
                }
                self.changed.policies = true;
                tracing::info!(%address, held, ike = ike.0, "virtual address");
            }
            Event::PeerMoved { pairs, path, encap } => {
                for pair in pairs {
                    let port = encap.then_some(path.remote.port());
                    if let Some(known) = self.pairs.get_mut(&pair) {
                        let before = known.endpoints;
                        if let Some(spi) = known.spi_out {
                            self.paths.leave(known.remote, spi.get());
                            let mtu = self.paths.enter(path.remote.ip(), spi.get());
                            // Of the new path; refused with a full ring only, and then the old one's holds.
                            let _ = self.dataplane.set_path_mtu(pair, mtu.unwrap_or(u16::MAX));
                        }
                        known.endpoints.remote = path.remote.ip();
                        known.endpoints.port = port;
                        known.remote = path.remote.ip();
                        if known.up {
                            self.live.leave(before);
                            self.live.enter(known.endpoints);
                        }
                    }
                    let endpoints = worker::Endpoints {
                        local: path.local.ip(),
                        remote: path.remote.ip(),
                        encap: encap.then(|| UdpEncap {
                            local_port: path.local.port(),
                            remote_port: path.remote.port(),
                        }),
                    };
                    if let Err(error) = self.dataplane.set_endpoints(pair, endpoints) {
                        tracing::warn!(%error, pair = pair.0, "the peer's move is not followed");
                    }
                }
            }
            Event::Unprotected { connection, child } => {
                let key = ChildKey { connection, child };
                let config = self.engine.config();
                if let Some(lasts) = self.soft.form(now, key.clone(), config) {
                    let ChildKey { connection, child } = &key;
                    tracing::warn!(
                        connection,
                        child,
                        seconds = lasts.as_secs(),
                        "soft SA: the peer does not answer, its traffic goes UNPROTECTED"
                    );
                    self.policies.set_soft(&key, true);
                    self.publish_policies();
                }
            }
            Event::Log { level, text } => match level {
                Level::Warn => tracing::warn!("{text}"),
                Level::Info => tracing::info!("{text}"),
                Level::Debug => tracing::debug!("{text}"),
            },
        }
    }

    fn installed(&mut self, now: Instant, id: InstallId, result: Result<Ticket, Refusal>) {
        match result {
            Ok(ticket) => {
                self.outstanding.push(ticket);
                self.installing.push((id, ticket));
            }
            Err(refusal) => {
                tracing::warn!(%refusal, "SA not installed");
                let refused = match refusal {
                    Refusal::Parameters(_) => InstallRefused::Unsupported,
                    _ => InstallRefused::Full,
                };
                engine!(self, handle_installed, now, id, Err(refused));
            }
        }
    }

    fn install_outbound(
        &mut self,
        sa: &SaParameters,
        activate: Activate,
    ) -> Result<Ticket, Refusal> {
        let added = self.dataplane.add_outbound(sa)?;
        let pair = self.pairs.get_mut(&sa.pair).ok_or(Refusal::UnknownPair)?;
        pair.spi_out = Some(sa.spi);
        let path_mtu = self.paths.enter(pair.remote, sa.spi.get());
        let (policy, new) = self.policies.serve(&pair.key, sa.pair, &sa.selectors);
        pair.policy = Some(policy);
        pair.held = activate == Activate::WhenTold;
        if new {
            self.publish_policies();
        }
        if let Some(mtu) = path_mtu {
            self.dataplane.set_path_mtu(sa.pair, mtu)?;
        }
        let activation = match activate {
            Activate::Now => Activation::Now,
            Activate::OnInboundTraffic => Activation::OnInboundTraffic,
            Activate::WhenTold => return Ok(added),
        };
        self.dataplane.bind(policy, sa.pair, activation)
    }

    fn remove(&mut self, pair: PairId) {
        if let Some(known) = self.pairs.remove(&pair) {
            if let Some(spi) = known.spi_out {
                self.paths.leave(known.remote, spi.get());
            }
            if known.up {
                self.live.leave(known.endpoints);
                self.figures.pair_deleted();
                self.changed.tunnels = true;
            }
        }
        if self.policies.release(pair) {
            self.publish_policies();
        }
        match self.dataplane.delete(pair) {
            Ok(ticket) => self.outstanding.push(ticket),
            Err(error) => tracing::warn!(%error, pair = pair.0, "pair not deleted"),
        }
    }
}
