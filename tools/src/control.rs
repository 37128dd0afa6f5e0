//! `culvert initiate`, `rekey`, `terminate`, `reload`: commands to a running daemon, over its
//! VICI socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::PathBuf,
};

use daemon::{
    config::DEFAULT_VICI_SOCKET,
    vici::{Client, ClientError, Element, Message},
};

use crate::Failure;

/// Where the daemon is.
#[derive(clap::Args, Debug)]
pub struct Socket {
    /// The control socket, as `gateway { vici { socket } }` names it
    #[arg(long, value_name = "PATH", default_value = DEFAULT_VICI_SOCKET)]
    socket: PathBuf,
}

/// Arguments of `culvert initiate`.
#[derive(clap::Args, Debug)]
#[command(group = clap::ArgGroup::new("what").args(["child", "ike"]).required(true).multiple(true))]
pub struct InitiateArgs {
    /// The child to bring up
    #[arg(long, value_name = "NAME")]
    child: Option<String>,
    /// The connection to look for it in; alone, its IKE SA without children
    #[arg(long, value_name = "NAME")]
    ike: Option<String>,
    /// Give up after so many seconds; 0 waits for the outcome
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    timeout: u32,
    #[command(flatten)]
    socket: Socket,
}

/// Which SAs are meant.
#[derive(clap::Args, Debug)]
#[group(required = true, multiple = true)]
pub struct Sas {
    /// Child SAs of this name
    #[arg(long, value_name = "NAME")]
    child: Option<String>,
    /// The Child SA of this number
    #[arg(long, value_name = "N")]
    child_id: Option<u64>,
    /// IKE SAs of this connection
    #[arg(long, value_name = "NAME")]
    ike: Option<String>,
    /// The IKE SA of this number
    #[arg(long, value_name = "N")]
    ike_id: Option<u64>,
}

/// Arguments of `culvert rekey`.
#[derive(clap::Args, Debug)]
pub struct RekeyArgs {
    #[command(flatten)]
    sas: Sas,
    /// Authenticate anew instead
    #[arg(long)]
    reauth: bool,
    #[command(flatten)]
    socket: Socket,
}

/// Arguments of `culvert terminate`.
#[derive(clap::Args, Debug)]
pub struct TerminateArgs {
    #[command(flatten)]
    sas: Sas,
    /// Do not wait for the peer
    #[arg(long)]
    force: bool,
    /// Give up after so many seconds; 0 waits for the outcome
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    timeout: u32,
    #[command(flatten)]
    socket: Socket,
}

/// Arguments of `culvert reload`.
#[derive(clap::Args, Debug)]
pub struct ReloadArgs {
    /// Close the SAs of connections and children that the configuration has no more
    #[arg(long)]
    terminate: bool,
    #[command(flatten)]
    socket: Socket,
}

/// Runs `culvert initiate`.
///
/// # Errors
///
/// Where no daemon answers, or it could not be done.
pub fn initiate(args: &InitiateArgs) -> Result<(), Failure> {
    let message = Message::new()
        .with_some("child", args.child.as_ref())
        .with_some("ike", args.ike.as_ref())
        .with("timeout", u64::from(args.timeout) * 1000);
    logged(&args.socket, "initiate", message)
}

/// Runs `culvert rekey`.
///
/// # Errors
///
/// Where no daemon answers, or no SA is meant.
pub fn rekey(args: &RekeyArgs) -> Result<(), Failure> {
    let message = args.sas.message().with_flag("reauth", args.reauth);
    plain(&args.socket, "rekey", message)
}

/// Runs `culvert terminate`.
///
/// # Errors
///
/// Where no daemon answers, or not all SAs that are meant could be closed.
pub fn terminate(args: &TerminateArgs) -> Result<(), Failure> {
    let message = args
        .sas
        .message()
        .with_flag("force", args.force)
        .with("timeout", u64::from(args.timeout) * 1000);
    logged(&args.socket, "terminate", message)
}

/// Runs `culvert reload`.
///
/// # Errors
///
/// Where no daemon answers, or the configuration has an error: then nothing has changed.
pub fn reload(args: &ReloadArgs) -> Result<(), Failure> {
    plain(&args.socket, "reload-settings", Message::new())?;
    if args.terminate { terminate_removed(&args.socket) } else { Ok(()) }
}

/// Closes what a reload has left of connections and children that are gone.
fn terminate_removed(socket: &Socket) -> Result<(), Failure> {
    let mut client = socket.connect()?;
    let mut configured = BTreeMap::new();
    client
        .request_streamed("list-conns", "list-conn", Message::new(), |event| {
            for (name, connection) in sections(&event) {
                let children = connection.section("children").map(sections).into_iter().flatten();
                let children: BTreeSet<String> = children.map(|(n, _)| n.to_owned()).collect();
                configured.insert(name.to_owned(), children);
            }
        })
        .map_err(Failure::new)?;
    let mut removed = Vec::new();
    client
        .request_streamed("list-sas", "list-sa", Message::new(), |event| {
            for (name, sa) in sections(&event) {
                let Some(children) = configured.get(name) else {
                    removed.push(Message::new().with_some("ike-id", sa.text("uniqueid")));
                    continue;
                };
                let held = sa.section("child-sas").map(sections).into_iter().flatten();
                let gone = held.filter(|(_, child)| {
                    child.text("name").is_some_and(|name| !children.contains(name))
                });
                removed.extend(gone.map(|(_, child)| {
                    Message::new().with_some("child-id", child.text("uniqueid"))
                }));
            }
        })
        .map_err(Failure::new)?;
    for target in removed {
        logged(socket, "terminate", target)?;
    }
    Ok(())
}

/// The values of a list, after one another.
pub(crate) fn texts(message: &Message, name: &str) -> String {
    let values = message.list(name).iter().filter_map(|value| value.as_str());
    values.map(|value| value.escape_debug().to_string()).collect::<Vec<_>>().join(" ")
}

/// The sections of a message, by name.
pub(crate) fn sections(message: &Message) -> impl Iterator<Item = (&str, &Message)> {
    message.elements().filter_map(|(name, element)| match element {
        Element::Section(section) => Some((name, section)),
        Element::Value(_) | Element::List(_) => None,
    })
}

impl Sas {
    fn message(&self) -> Message {
        Message::new()
            .with_some("child", self.child.as_ref())
            .with_some("child-id", self.child_id)
            .with_some("ike", self.ike.as_ref())
            .with_some("ike-id", self.ike_id)
    }
}

impl Socket {
    pub(crate) fn connect(&self) -> Result<Client, Failure> {
        Client::connect(&self.socket).map_err(|error| {
            let failure = Failure::new(format!("{}: {error}", self.socket.display()));
            match error {
                ClientError::Io(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    failure.next("run it as the user that the daemon runs as")
                }
                _ => failure.next("start the daemon with `culvert run`, or name its --socket"),
            }
        })
    }
}

/// A command that streams what happens until it is done.
fn logged(socket: &Socket, command: &str, message: Message) -> Result<(), Failure> {
    let mut client = socket.connect()?;
    let mut written = Ok(());
    let answer = client.request_streamed(command, "control-log", message, |event| {
        let part = |name| event.text(name).unwrap_or("").escape_debug().to_string();
        if written.is_ok() {
            written = writeln!(io::stdout(), "[{}] {}", part("group"), part("msg"));
        }
    });
    written?;
    outcome(command, &answer.map_err(Failure::new)?)
}

fn plain(socket: &Socket, command: &str, message: Message) -> Result<(), Failure> {
    let answer = socket.connect()?.request(command, message).map_err(Failure::new)?;
    outcome(command, &answer)
}

fn outcome(command: &str, answer: &Message) -> Result<(), Failure> {
    if answer.text("success") != Some("yes") {
        let reason = answer.text("errmsg").unwrap_or("the daemon gives no reason");
        return Err(Failure::new(format!("{command} failed: {reason}")));
    }
    let mut out = io::stdout();
    match answer.text("matches") {
        Some(matches) => writeln!(out, "{command}: done, {matches} matched")?,
        None => writeln!(out, "{command}: done")?,
    }
    Ok(())
}
