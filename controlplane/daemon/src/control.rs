//! The control socket's commands carried out.

use crate::config::{Credential, Diagnostics, Secret};
use crate::gateway::{Finished, Gateway, Item, Line};
use crate::vici::{
    ClientId, ConnectionRef, Initiate, Message, Rekey, Request, RequestError, SaFilter, Server,
    Terminate, Timeout, reply,
};
use ike::event::{ChildTarget, CommandError, IkeTarget, Origin};
use ike::view::IkeSaView;
use ike::{Command, IkeId, RequestId};
use ipsec::sa::PairId;
use nix::poll::{PollFd, PollFlags};
use std::io;
use std::path::Path;
use std::time::{Instant, SystemTime};

/// What a client's command is answered with once it has ended.
#[derive(Clone, Copy)]
enum Answer {
    Initiate,
    Rekey,
    Terminate,
}

/// A client that waits for the end of its command.
struct Waiting {
    client: ClientId,
    request: RequestId,
    until: Option<Instant>,
    answer: Answer,
    /// Connections whose log lines it gets, up to this level.
    about: (Vec<String>, i64),
}

/// The socket, and who waits.
pub(crate) struct Control {
    server: Server,
    waiting: Vec<Waiting>,
    started: (Instant, SystemTime),
}

/// What only the owner of the configuration can do.
pub(crate) enum Asked {
    ClearCreds,
    LoadConn(Message),
    LoadShared(Secret),
    LoadCredential(Credential),
    UnloadKey(Vec<u8>),
    Reload,
    UnloadConn(String),
    UnloadShared(String),
}

/// The owner of the configuration.
pub(crate) trait Configured {
    /// Carries out a change of the configuration.
    fn change(&mut self, asked: Asked, gateway: &mut Gateway, now: Instant) -> Result<(), Refused>;

    /// Names of the secrets that are loaded.
    fn secret_names(&self) -> Vec<&str>;

    /// IDs of the private keys that are loaded.
    fn key_ids(&self) -> Vec<String>;
}

/// Why a change was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{}", .0.errors_in_line())]
    Arguments(Diagnostics),
    #[error("{0}")]
    File(Diagnostics),
    #[error("there is none of this name")]
    Unknown,
}

impl Control {
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let started = (Instant::now(), SystemTime::now());
        Ok(Self { server: Server::bind(path)?, waiting: Vec::new(), started })
    }

    pub(crate) fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.server.interests().map(|(fd, interest)| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, interest.read);
            flags.set(PollFlags::POLLOUT, interest.write);
            PollFd::new(fd, flags)
        })
    }

    /// When the first client's patience ends.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|waiting| waiting.until).min()
    }

    /// Reads and answers; what concerns the configuration goes to its owner.
    pub(crate) fn serve(
        &mut self,
        gateway: &mut Gateway,
        configured: &mut impl Configured,
        now: Instant,
    ) {
        for (client, call) in self.server.service() {
            match Request::parse(&call) {
                Ok(request) => self.answer(client, request, gateway, configured, now),
                Err(RequestError::Unknown) => self.server.reply_unknown(client),
                Err(RequestError::Answer(message)) => self.server.reply(client, message),
            }
        }
        // What happened comes before the answer to who wanted it.
        while let Some(item) = gateway.poll_news() {
            match item {
                Item::Event(name, message) => self.server.event(name, &message),
                Item::Log(line) => self.log(&line),
            }
        }
        while let Some(finished) = gateway.poll_finished() {
            self.finish(&finished);
        }
        let server = &mut self.server;
        self.waiting.retain(|waiting| {
            let over = waiting.until.is_some_and(|until| until <= now);
            if over {
                server.reply(waiting.client, reply::failure("not finished within the timeout"));
            }
            !over && server.is_connected(waiting.client)
        });
        gateway.set_listened_to(self.server.is_listened_to());
    }

    /// Tells a line to those who listen to the log, and to who waits for a command about its connection.
    fn log(&mut self, line: &Line) {
        let sa = line.sa.as_ref().map(|(name, number)| (name.as_str(), *number));
        self.server.event("log", &reply::log("IKE", line.level, sa, &line.text));
        for Waiting { client, about: (connections, level), .. } in &self.waiting {
            if line.level <= *level
                && sa.is_some_and(|(name, _)| connections.iter().any(|known| known == name))
            {
                let message = reply::control_log("IKE", line.level, sa, &line.text);
                self.server.stream(*client, "control-log", &message);
            }
        }
    }

    fn answer(
        &mut self,
        client: ClientId,
        request: Request,
        gateway: &mut Gateway,
        configured: &mut impl Configured,
        now: Instant,
    ) {
        let mut change = |asked| match configured.change(asked, gateway, now) {
            Ok(()) => reply::success(),
            Err(refused) => reply::failure(&refused.to_string()),
        };
        let message = match request {
            Request::ClearCreds => change(Asked::ClearCreds),
            Request::LoadConn(arguments) => change(Asked::LoadConn(arguments)),
            Request::LoadShared(secret) => change(Asked::LoadShared(secret)),
            Request::LoadCredential(new) => {
                let id = match &new {
                    Credential::Key(key) => Some(reply::hex(&key.id())),
                    _ => None,
                };
                let done = change(Asked::LoadCredential(new));
                done.with_some("id", id)
            }
            Request::UnloadKey(id) => change(Asked::UnloadKey(id)),
            Request::GetKeys => Message::new().with_list("keys", configured.key_ids()),
            Request::ReloadSettings => change(Asked::Reload),
            Request::UnloadConn(name) => change(Asked::UnloadConn(name)),
            Request::UnloadShared(name) => change(Asked::UnloadShared(name)),
            Request::GetShared => reply::secret_names(configured.secret_names()),
            Request::Initiate(initiate) => {
                let about = (connections(gateway, &initiate.target), initiate.loglevel);
                let (command, timeout) = self::initiate(initiate);
                let waiting = (timeout, Answer::Initiate, about);
                return self.begin(client, gateway, now, command, waiting);
            }
            Request::Terminate(terminate) => {
                let sas = selected(gateway.engine().ike_sas(now), &terminate.filter);
                let names = sas.into_iter().map(|sa| sa.connection).collect();
                let about = (names, terminate.loglevel);
                let (command, timeout) = self::terminate(terminate);
                let waiting = (timeout, Answer::Terminate, about);
                return self.begin(client, gateway, now, command, waiting);
            }
            Request::Rekey(rekey) => {
                let command = self::rekey(rekey);
                let waiting = (Timeout::Forever, Answer::Rekey, (Vec::new(), -1));
                return self.begin(client, gateway, now, command, waiting);
            }
            Request::ListSas(list) => {
                for sa in selected(gateway.engine().ike_sas(now), &list.filter) {
                    let message = reply::sa(&sa, |pair| gateway.traffic(pair, now));
                    self.server.stream(client, "list-sa", &message);
                }
                for message in soft_sas(gateway, now, &list.filter) {
                    self.server.stream(client, "list-sa", &message);
                }
                Message::new()
            }
            Request::ListConns(name) => {
                for connection in &gateway.engine().config().connections {
                    if name.as_ref().is_none_or(|name| *name == connection.name) {
                        self.server.stream(client, "list-conn", &reply::connection(connection));
                    }
                }
                Message::new()
            }
            Request::ListPolicies(_) => {
                for connection in &gateway.engine().config().connections {
                    for child in &connection.children {
                        let message = {
                            let soft = gateway.soft_sas().has(&connection.name, &child.name);
                            reply::policy(&connection.name, child, soft)
                        };
                        self.server.stream(client, "list-policy", &message);
                    }
                }
                Message::new()
            }
            Request::GetConns => {
                let connections = &gateway.engine().config().connections;
                reply::connection_names(connections.iter().map(|c| c.name.as_str()))
            }
            Request::Stats => self.stats(gateway),
            Request::Version => reply::version(),
            Request::GetCounters(_) => reply::counters([]),
            Request::GetPools => Message::new(),
            Request::ResetCounters(_) => reply::success(),
            Request::Install(_) | Request::Uninstall(_) => {
                reply::failure("the policy of every loaded child is installed")
            }
        };
        self.server.reply(client, message);
    }

    /// Begins a command; the answer follows when it ends.
    fn begin(
        &mut self,
        client: ClientId,
        gateway: &mut Gateway,
        now: Instant,
        command: Command,
        (timeout, answer, about): (Timeout, Answer, (Vec<String>, i64)),
    ) {
        gateway.set_listened_to(self.server.is_listened_to());
        match gateway.handle_command(now, command) {
            Err(error) => {
                let message = match (error, answer) {
                    (CommandError::UnknownSa, Answer::Rekey) => reply::rekeyed(0),
                    (CommandError::UnknownSa, Answer::Terminate) => reply::terminated(0, 0),
                    _ => reply::failure(&error.to_string()),
                };
                self.server.reply(client, message);
            }
            Ok(_) if timeout == Timeout::Immediate => {
                self.server.reply(client, reply::success());
            }
            Ok(request) => {
                let until = match timeout {
                    Timeout::After(patience) => Some(now + patience),
                    Timeout::Forever | Timeout::Immediate => None,
                };
                self.waiting.push(Waiting { client, request, until, answer, about });
            }
        }
    }

    fn finish(&mut self, (request, result): &Finished) {
        let Some(at) = self.waiting.iter().position(|w| w.request == *request) else { return };
        let Waiting { client, answer, .. } = self.waiting.swap_remove(at);
        let message = match (result, answer) {
            (Ok(_), Answer::Initiate) => reply::success(),
            (Ok(outcome), Answer::Rekey) => reply::rekeyed(outcome.matched as usize),
            (Ok(outcome), Answer::Terminate) => {
                reply::terminated(outcome.matched as usize, outcome.matched as usize)
            }
            (Err(reason), _) => reply::failure(&reason.to_string()),
        };
        self.server.reply(client, message);
    }

    fn stats(&self, gateway: &Gateway) -> Message {
        let figures = gateway.engine().statistics();
        let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let (instant, started) = self.started;
        reply::stats(&reply::Stats {
            started,
            running: instant.elapsed(),
            threads: gateway.threads(),
            idle_threads: gateway.threads().saturating_sub(gateway.busy_threads()),
            queued_jobs: gateway.queued_jobs(),
            scheduled: usize::from(gateway.engine().poll_timeout().is_some()),
            ike_sas: count(figures.isadb_list_size),
            half_open: count(figures.half_open),
        })
    }
}

/// The connections that a target may be of.
fn connections(gateway: &Gateway, target: &ConnectionRef) -> Vec<String> {
    let known = gateway.engine().config().connections.iter();
    let meant = known.filter(|connection| match (&target.ike, &target.child) {
        (Some(name), _) => *name == connection.name,
        (None, Some(child)) => connection.children.iter().any(|c| c.name == *child),
        (None, None) => false,
    });
    meant.map(|connection| connection.name.clone()).collect()
}

fn initiate(initiate: Initiate) -> (Command, Timeout) {
    let target = initiate.target;
    let command = match (target.child, target.ike) {
        (Some(child), connection) => {
            Command::InitiateChild { connection, child, origin: Origin::Initiate }
        }
        (None, connection) => Command::InitiateIke { connection: connection.unwrap_or_default() },
    };
    (command, initiate.timeout)
}

fn terminate(terminate: Terminate) -> (Command, Timeout) {
    let force = terminate.force;
    let command = match target(terminate.filter) {
        Target::Child(target) => Command::TerminateChild { target, force },
        Target::Ike(target) => Command::TerminateIke { target, force },
    };
    (command, terminate.timeout)
}

fn rekey(rekey: Rekey) -> Command {
    match target(rekey.filter) {
        Target::Child(target) => Command::RekeyChild(target),
        Target::Ike(target) if rekey.reauth => Command::ReauthIke(target),
        Target::Ike(target) => Command::RekeyIke(target),
    }
}

enum Target {
    Child(ChildTarget),
    Ike(IkeTarget),
}

fn target(filter: SaFilter) -> Target {
    match filter {
        SaFilter { child_id: Some(pair), .. } => Target::Child(ChildTarget::Pair(PairId(pair))),
        SaFilter { child: Some(child), ike, .. } => {
            Target::Child(ChildTarget::Named { connection: ike, child })
        }
        SaFilter { ike_id: Some(id), .. } => Target::Ike(IkeTarget::Id(IkeId(id))),
        SaFilter { ike, .. } => Target::Ike(IkeTarget::Connection(ike.unwrap_or_default())),
    }
}

/// The SAs that a filter lets through, with their children that it lets through.
/// The soft SAs that a filter by names means; those by number mean none.
fn soft_sas(gateway: &Gateway, now: Instant, filter: &SaFilter) -> Vec<Message> {
    let is_meant = |of: &Option<String>, name: &str| of.as_ref().is_none_or(|of| of == name);
    let by_number = filter.ike_id.is_some() || filter.child_id.is_some();
    let connections = &gateway.engine().config().connections;
    let all = gateway.soft_sas().iter(now).filter(|(key, _)| {
        !by_number && is_meant(&filter.ike, &key.connection) && is_meant(&filter.child, &key.child)
    });
    all.filter_map(|(key, left)| {
        let connection = connections.iter().find(|c| c.name == key.connection)?;
        let child = connection.children.iter().find(|c| c.name == key.child)?;
        Some(reply::soft_sa(connection, child, left))
    })
    .collect()
}

fn selected(mut sas: Vec<IkeSaView>, filter: &SaFilter) -> Vec<IkeSaView> {
    sas.retain_mut(|sa| {
        let children = filter.child.is_some() || filter.child_id.is_some();
        sa.children.retain(|child| {
            filter.child.as_ref().is_none_or(|name| *name == child.name)
                && filter.child_id.is_none_or(|id| id == child.pair.0)
        });
        filter.ike.as_ref().is_none_or(|name| *name == sa.connection)
            && filter.ike_id.is_none_or(|id| id == sa.id.0)
            && (!children || !sa.children.is_empty())
    });
    sas
}
