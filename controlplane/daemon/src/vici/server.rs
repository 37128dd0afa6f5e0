//! The control socket and its clients, for a loop that polls.

use super::message::Message;
use super::session::{Call, Session};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Clients at a time. Each may hold a few megabytes; monitoring, a routing daemon and an operator
/// or two are a handful.
const MAX_CLIENTS: usize = 64;

/// Names a client as long as the daemon lives; numbers are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(u64);

/// What to poll a descriptor for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Bytes (or a client) to take.
    pub read: bool,
    /// Room for bytes that wait.
    pub write: bool,
}

/// The listening socket and the sessions.
///
/// Poll on [`Server::interests`], then call [`Server::service`]; answer each call it gives by
/// [`Server::reply`], at once or later.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    clients: BTreeMap<ClientId, Client>,
    next: u64,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    session: Session,
}

impl Server {
    /// Listens at `path`, for its owner alone (whoever may write to it configures the gateway). A
    /// socket that nobody answers at is replaced; the directory is made if need be.
    ///
    /// # Errors
    /// Of the file system; [`ErrorKind::AddrInUse`] when another daemon answers there.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(ErrorKind::AddrInUse, "another daemon answers there"));
        }
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        // Bound beside its place and moved there once its mode is right, so that nobody connects
        // in between.
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path: path.to_owned(), clients: BTreeMap::new(), next: 0 })
    }

    /// What to poll for.
    pub fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Interest)> {
        let room = self.clients.len() < MAX_CLIENTS;
        let listener = (self.listener.as_fd(), Interest { read: room, write: false });
        std::iter::once(listener).chain(self.clients.values().map(|client| {
            let Client { stream, session } = client;
            // A request that was read already makes no descriptor readable; a socket is writable
            // nearly always.
            let write = session.wants_write() || session.has_packet();
            let interest = Interest { read: session.wants_read(), write };
            (stream.as_fd(), interest)
        }))
    }

    /// Accepts, reads and writes whatever can be without waiting, and gives the requests that came
    /// in. Clients that went away or do not speak the protocol are gone afterwards.
    pub fn service(&mut self) -> Vec<(ClientId, Call)> {
        while self.clients.len() < MAX_CLIENTS {
            // An error other than that there is nobody is one of this client or of the process;
            // the next poll tries again.
            let Ok((stream, _)) = self.listener.accept() else { break };
            if stream.set_nonblocking(true).is_ok() {
                let client = Client { stream, session: Session::new() };
                self.clients.insert(ClientId(self.next), client);
                self.next += 1;
            }
        }
        let mut calls = Vec::new();
        self.clients.retain(|id, client| {
            let open = client.read();
            let alive = match client.session.poll() {
                Ok(Some(call)) => {
                    calls.push((*id, call));
                    true
                }
                Ok(None) => open,
                Err(error) => {
                    tracing::warn!(%error, "a VICI client does not speak the protocol");
                    false
                }
            };
            alive && client.write()
        });
        calls.retain(|(id, _)| self.clients.contains_key(id));
        calls
    }

    /// Whether a client is still there; work that only it asked for may end otherwise.
    pub fn is_connected(&self, client: ClientId) -> bool {
        self.clients.contains_key(&client)
    }

    /// Answers the request of a client; one that is gone needs no answer. A request of it that
    /// waited comes with the next [`Server::service`].
    pub fn reply(&mut self, client: ClientId, message: Message) {
        self.with(client, |session| session.reply(message));
    }

    /// Answers that the command is unknown.
    pub fn reply_unknown(&mut self, client: ClientId) {
        self.with(client, Session::reply_unknown);
    }

    /// Streams an event of a client's request under way.
    pub fn stream(&mut self, client: ClientId, name: &str, message: &Message) {
        self.with(client, |session| session.stream(name, message));
    }

    /// Whether any client listens to events that no command streams.
    pub fn is_listened_to(&self) -> bool {
        self.clients.values().any(|client| client.session.is_listening())
    }

    /// Sends an event to all who registered for it.
    pub fn event(&mut self, name: &str, message: &Message) {
        self.clients.retain(|_, client| {
            client.session.event(name, message);
            client.write()
        });
    }

    fn with(&mut self, id: ClientId, act: impl FnOnce(&mut Session)) {
        if let Some(client) = self.clients.get_mut(&id) {
            act(&mut client.session);
            if !client.write() {
                self.clients.remove(&id);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone with its directory already.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Client {
    /// Reads what there is; false once the client has closed.
    fn read(&mut self) -> bool {
        let mut buffer = Zeroizing::new([0; 16 * 1024]);
        // As much as one packet can be, so that one client does not keep the loop.
        for _ in 0..64 {
            if !self.session.wants_read() {
                return true;
            }
            match self.stream.read(buffer.as_mut_slice()) {
                Ok(0) => return false,
                Ok(count) => self.session.receive(buffer.get(..count).unwrap_or(&[])),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        true
    }

    /// Writes what there is room for; false once the client is gone.
    fn write(&mut self) -> bool {
        while self.session.wants_write() {
            match self.stream.write(self.session.transmit()) {
                Ok(count) => self.session.transmitted(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        true
    }
}
