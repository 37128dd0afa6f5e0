//! Commands of operators, of the configuration and of the dataplane.

use crate::acquire::Begun;
use crate::config::{Child, ChildMode, Connection, Version};
use crate::context::Effect;
use crate::engine::Engine;
use crate::event::{
    ChildTarget, Command, CommandError, Event, Failure, IkeId, IkeTarget, Origin, Outcome, Path,
    RequestId, SpiSource,
};
use crate::message::IkeSpi;
use crate::sa::Sa;
use crate::v1;
use crate::v1::sa::IsakmpSa;
use crate::v2::addresses::Addresses;
use crate::v2::child::Phase;
use crate::v2::init;
use crate::v2::sa::{Head, IkeSa, Nat, State};
use crate::v2::task::Task;
use crate::view::Role;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use ipsec::sa::PairId;
use ipsec::selector::{AddressRange, Selector};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

impl Engine {
    pub(crate) fn command(
        &mut self,
        now: Instant,
        command: Command,
        spis: &mut dyn SpiSource,
    ) -> Result<RequestId, CommandError> {
        if self.shutting_down {
            return Err(CommandError::ShuttingDown);
        }
        match command {
            Command::InitiateChild { connection, child, origin } => {
                let (connection, child) = self.child_config(connection.as_deref(), &child)?;
                self.acquire(now, spis, connection, child, origin, None)
            }
            Command::Acquire { connection, child, packet } => {
                let (connection, child) = self.child_config(Some(&connection), &child)?;
                self.acquire(now, spis, connection, child, Origin::Trap, packet)
            }
            Command::InitiateIke { connection } => {
                let mut all = self.config.connections.iter();
                let connection = all.find(|c| c.name == connection);
                let connection = Arc::clone(connection.ok_or(CommandError::UnknownConfig)?);
                let request = self.requests.begin(&mut self.registry, 1);
                self.initiate(now, spis, connection, VecDeque::new(), Vec::new(), Some(request))?;
                Ok(request)
            }
            Command::RekeyIke(target) => {
                let ids = self.ike_targets(&target, Sa::is_active)?;
                Ok(self.each_ike(now, spis, &ids, |sa, tag| {
                    sa.head_mut().push_task(Task::RekeyIke { tag });
                }))
            }
            Command::ReauthIke(target) => {
                let ids = self.ike_targets(&target, Sa::is_active)?;
                Ok(self.each_ike(now, spis, &ids, |sa, tag| {
                    sa.head_mut().push_task(Task::DeleteIke {
                        reason: Failure::Replaced,
                        reauthenticate: true,
                        tag,
                    });
                }))
            }
            Command::RekeyChild(target) => {
                let targets = self.child_targets(&target)?;
                Ok(self.each_child(now, spis, &targets, |sa, _, pair, tag| {
                    sa.head_mut().push_task(Task::RekeyChild { pair, tag });
                }))
            }
            Command::TerminateChild { target, force } => {
                let targets = self.child_targets(&target)?;
                Ok(self.each_child(now, spis, &targets, |sa, cx, pair, tag| {
                    if force
                        && let Sa::V2(sa) = sa
                        && let State::Established(state) = &mut sa.state
                    {
                        state.force_delete_child(&mut sa.head, cx, pair, tag);
                    } else {
                        let reason = Failure::Terminated;
                        sa.head_mut().push_task(Task::DeleteChild { pair, reason, tag });
                    }
                }))
            }
            Command::TerminateIke { target, force } => {
                let ids = self.ike_targets(&target, |_| true)?;
                Ok(self.terminate(now, spis, &ids, force))
            }
            Command::TerminateAll => {
                self.shutting_down = true;
                let ids = self.table.ids();
                let request = self.terminate(now, spis, &ids, false);
                Ok(request)
            }
        }
    }

    fn child_config(
        &self,
        connection: Option<&str>,
        child: &str,
    ) -> Result<(Arc<Connection>, Arc<Child>), CommandError> {
        let fits = |c: &&Arc<Connection>| connection.is_none_or(|name| c.name == name);
        let found = self.config.connections.iter().filter(fits).find_map(|c| {
            let child = c.children.iter().find(|candidate| candidate.name == child)?;
            Some((Arc::clone(c), Arc::clone(child)))
        });
        let (connection, child) = found.ok_or(CommandError::UnknownConfig)?;
        if !matches!(child.mode, ChildMode::Protect(_)) {
            return Err(CommandError::NotNegotiable);
        }
        Ok((connection, child))
    }

    fn acquire(
        &mut self,
        now: Instant,
        spis: &mut dyn SpiSource,
        connection: Arc<Connection>,
        child: Arc<Child>,
        origin: Origin,
        packet: Option<Selector>,
    ) -> Result<RequestId, CommandError> {
        let key = (connection.name.clone(), child.name.clone());
        let request = RequestId(self.registry.request.next());
        match self.acquires.begin(&key, origin, request) {
            Begun::New => {}
            Begun::Joined => return Ok(request),
            Begun::Crowded => {
                // Answered at once, as nobody would do it later; the negotiation goes on.
                self.out
                    .events
                    .push_back(Event::RequestDone { request, result: Ok(Outcome::default()) });
                return Ok(request);
            }
            Begun::HeldDown => return Err(CommandError::HeldDown),
        }
        match origin {
            Origin::Initiate => self.stats.total_acquire_initiate += 1,
            Origin::StartAction => self.stats.total_acquire_start_action += 1,
            Origin::Trap => self.stats.total_acquire_trap += 1,
        }
        let task = Task::CreateChild { config: child, packet };
        let takers = self.table.of_connection(&connection.name);
        let taker =
            takers.into_iter().find(|id| self.table.get(*id).is_some_and(Sa::takes_children));
        match taker {
            Some(id) => self.step(now, spis, id, |sa, _| sa.head_mut().push_task(task)),
            None => {
                let tasks = VecDeque::from([task]);
                if let Err(error) = self.initiate(now, spis, connection, tasks, Vec::new(), None) {
                    // The command's own answer says it; the acquire has failed all the same.
                    let (connection, child) = key;
                    let result = Err(Failure::Local);
                    self.queue(Effect::Acquired { connection, child, result });
                    return Err(error);
                }
            }
        }
        Ok(request)
    }

    /// Begins an IKE SA.
    pub(crate) fn initiate(
        &mut self,
        now: Instant,
        spis: &mut dyn SpiSource,
        connection: Arc<Connection>,
        tasks: VecDeque<Task>,
        wanted: Vec<IpAddr>,
        waiter: Option<RequestId>,
    ) -> Result<IkeId, CommandError> {
        let single = |range: &&AddressRange| range.first() == range.last();
        let remote = connection.remote_addrs.iter().find(single);
        let remote = remote.ok_or(CommandError::NoPeerAddress)?.first();
        let mut local = connection.local_addrs.iter().filter(single).map(AddressRange::first);
        // Without one of ours the caller's routing decides; the answer tells which it was.
        let unspecified = match remote {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let local = local.find(|a| a.is_ipv4() == remote.is_ipv4()).unwrap_or(unspecified);
        let path = Path {
            local: SocketAddr::new(local, connection.local_port),
            remote: SocketAddr::new(remote, connection.remote_port),
        };
        if connection.version == Version::Ikev1 {
            let mut head = self.initiator(connection, path, waiter);
            head.tasks.extend(tasks.into_iter().map(Into::into));
            return self.start_v1(now, spis, head, None).ok_or(CommandError::NotNegotiable);
        }
        let mut head = self.initiator(connection, path, waiter);
        head.addresses.want(wanted);
        head.tasks.extend(tasks.into_iter().map(Into::into));
        let id = head.id;
        let state = self.with_cx(now, spis, |cx| init::start(&head, cx, 1));
        let state = state.ok_or(CommandError::NotNegotiable)?;
        self.insert(now, Sa::V2(Box::new(IkeSa { head, state })));
        Ok(id)
    }

    fn initiator(
        &mut self,
        connection: Arc<Connection>,
        path: Path,
        waiter: Option<RequestId>,
    ) -> Head {
        Head {
            id: IkeId(self.registry.ike.next()),
            role: Role::Initiator,
            spi_i: IkeSpi(self.random.array()),
            spi_r: IkeSpi::ZERO,
            path,
            in_pieces: false,
            addresses: Addresses::default(),
            nat: Nat::default(),
            connection,
            tasks: VecDeque::new(),
            waiters: waiter.into_iter().collect(),
        }
    }

    /// Begins an ISAKMP SA on a known path, in the place of another.
    pub(crate) fn initiate_v1(
        &mut self,
        now: Instant,
        spis: &mut dyn SpiSource,
        connection: Arc<Connection>,
        path: Path,
        replaces: Option<IkeId>,
        waiter: Option<RequestId>,
    ) -> Option<IkeId> {
        if connection.version != Version::Ikev1 {
            return None;
        }
        let head = self.initiator(connection, path, waiter);
        self.start_v1(now, spis, head, replaces)
    }

    fn start_v1(
        &mut self,
        now: Instant,
        spis: &mut dyn SpiSource,
        mut head: Head,
        replaces: Option<IkeId>,
    ) -> Option<IkeId> {
        let id = head.id;
        let state =
            self.with_cx(now, spis, |cx| v1::initiate::start(&mut head, cx, 1, replaces))?;
        self.insert(now, Sa::V1(Box::new(IsakmpSa::new(head, state))));
        Some(id)
    }

    fn ike_targets(
        &self,
        target: &IkeTarget,
        fits: impl Fn(&Sa) -> bool,
    ) -> Result<Vec<IkeId>, CommandError> {
        let ids = match target {
            IkeTarget::Id(id) => vec![*id],
            IkeTarget::Connection(name) => self.table.of_connection(name),
        };
        let found: Vec<IkeId> = ids
            .into_iter()
            .filter(|id| match self.table.get(*id) {
                Some(sa) if sa.is_established() => fits(sa),
                Some(sa) => !sa.is_closed() && !sa.is_gone(),
                None => false,
            })
            .collect();
        if found.is_empty() { Err(CommandError::UnknownSa) } else { Ok(found) }
    }

    fn child_targets(&self, target: &ChildTarget) -> Result<Vec<(IkeId, PairId)>, CommandError> {
        let gone = |phase| matches!(phase, Phase::Lingering { .. } | Phase::Rekeyed);
        let mut found = Vec::new();
        for sa in self.table.iter() {
            let Some(children) = sa.children() else { continue };
            for child in children.values().filter(|child| !gone(child.phase)) {
                let fits = match target {
                    ChildTarget::Pair(pair) => child.pair == *pair,
                    ChildTarget::Named { connection, child: name } => {
                        child.config.name == *name
                            && connection.as_ref().is_none_or(|c| *c == sa.head().connection.name)
                    }
                };
                if fits {
                    found.push((sa.head().id, child.pair));
                }
            }
        }
        if found.is_empty() { Err(CommandError::UnknownSa) } else { Ok(found) }
    }

    fn each_ike(
        &mut self,
        now: Instant,
        spis: &mut dyn SpiSource,
        ids: &[IkeId],
        f: impl Fn(&mut Sa, Option<RequestId>),
    ) -> RequestId {
        let steps = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let request = self.requests.begin(&mut self.registry, steps);
        for id in ids {
            self.step(now, spis, *id, |sa, _| f(sa, Some(request)));
        }
        request
    }

    fn each_child(
        &mut self,
        now: Instant,
        spis: &mut dyn SpiSource,
        targets: &[(IkeId, PairId)],
        f: impl Fn(&mut Sa, &mut crate::context::Cx<'_>, PairId, Option<RequestId>),
    ) -> RequestId {
        let steps = u32::try_from(targets.len()).unwrap_or(u32::MAX);
        let request = self.requests.begin(&mut self.registry, steps);
        for (id, pair) in targets {
            self.step(now, spis, *id, |sa, cx| f(sa, cx, *pair, Some(request)));
        }
        request
    }

    fn terminate(
        &mut self,
        now: Instant,
        spis: &mut dyn SpiSource,
        ids: &[IkeId],
        force: bool,
    ) -> RequestId {
        let steps = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let request = self.requests.begin(&mut self.registry, steps);
        for id in ids {
            self.step(now, spis, *id, |sa, cx| {
                let tag = Some(request);
                let sa = match sa {
                    // There is no answer to a delete of IKEv1 that could be waited for.
                    Sa::V1(sa) => return sa.terminate(cx, tag),
                    Sa::V2(sa) => sa,
                };
                let done = Ok(Outcome { matched: 1, ike: Some(sa.head.id), pair: None });
                match core::mem::replace(&mut sa.state, State::Gone) {
                    State::Established(state) if force => {
                        sa.state = state.force_delete(&mut sa.head, cx);
                        cx.tag_done(tag, done);
                    }
                    state @ State::Established(_) => {
                        sa.state = state;
                        sa.head.push_task(Task::DeleteIke {
                            reason: Failure::Terminated,
                            reauthenticate: false,
                            tag,
                        });
                    }
                    state @ State::Closed(_) => {
                        sa.state = state;
                        cx.tag_done(tag, done);
                    }
                    state => {
                        sa.state = state;
                        sa.destroy(cx, Failure::Terminated);
                        cx.tag_done(tag, done);
                    }
                }
            });
        }
        self.requests.finish_if_empty(request, &mut self.out);
        request
    }
}
