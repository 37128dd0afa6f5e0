//! Commands and their arguments.

use super::message::{Bytes, Message};
use super::session::Call;
use crate::config::{
    Credential, Diagnostic, Diagnostics, Secret, SecretKind, connection_from_vici, identity,
};
use core::time::Duration;
use ike::certificate::Credentials;
use ike::config::{Connection, Settings};
use ipsec::algorithm::KeyMaterial;

/// How long the client waits for the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// Until there is one.
    Forever,
    /// Not at all: the answer says that it has begun.
    Immediate,
    /// So long.
    After(Duration),
}

/// A child, and the connection to look for it in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionRef {
    /// Name of the child; `None` means the IKE SA alone.
    pub child: Option<String>,
    /// Name of the connection.
    pub ike: Option<String>,
}

/// `initiate`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initiate {
    /// What.
    pub target: ConnectionRef,
    /// How long the client waits.
    pub timeout: Timeout,
    /// Highest level of `control-log` events it wants, -1 for none.
    pub loglevel: i64,
}

/// Which SAs are meant; all that is set must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaFilter {
    /// Child SAs by name.
    pub child: Option<String>,
    /// Child SAs by unique number.
    pub child_id: Option<u64>,
    /// IKE SAs by name.
    pub ike: Option<String>,
    /// IKE SAs by unique number.
    pub ike_id: Option<u64>,
}

/// `terminate`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminate {
    /// What.
    pub filter: SaFilter,
    /// Without waiting for the peer to confirm.
    pub force: bool,
    /// How long the client waits.
    pub timeout: Timeout,
    /// Highest level of `control-log` events it wants, -1 for none.
    pub loglevel: i64,
}

/// `rekey`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rekey {
    /// What.
    pub filter: SaFilter,
    /// Reauthenticate instead.
    pub reauth: bool,
}

/// `list-sas`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListSas {
    /// Which.
    pub filter: SaFilter,
}

/// `list-policies`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPolicies {
    /// Policies of `mode = drop`.
    pub drop: bool,
    /// Policies of `mode = pass`.
    pub pass: bool,
    /// Policies that wait for traffic.
    pub trap: bool,
    /// Of one child or connection.
    pub of: ConnectionRef,
}

/// `get-counters` and `reset-counters`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Of one connection.
    pub name: Option<String>,
    /// Of each connection.
    pub all: bool,
}

/// A command that the main loop answers.
#[derive(Debug)]
pub enum Request {
    /// Forget all shared secrets.
    ClearCreds,
    /// Names of loaded connections.
    GetConns,
    /// Counters of messages.
    GetCounters(Counters),
    /// Loaded pools.
    GetPools,
    /// Names of loaded shared secrets.
    GetShared,
    /// Bring a child up.
    Initiate(Initiate),
    /// Install the policy of a child.
    Install(ConnectionRef),
    /// Stream connections; of one name only.
    ListConns(Option<String>),
    /// Stream installed policies.
    ListPolicies(ListPolicies),
    /// Stream SAs.
    ListSas(ListSas),
    /// Add or replace a connection; see [`Request::connection`].
    LoadConn(Message),
    /// Add or replace a shared secret.
    LoadShared(Secret),
    /// Add a certificate, an authority, a revocation list or a private key.
    LoadCredential(Credential),
    /// IDs of loaded private keys.
    GetKeys,
    /// Forget a private key.
    UnloadKey(Vec<u8>),
    /// Rekey SAs.
    Rekey(Rekey),
    /// Read the configuration file again.
    ReloadSettings,
    /// Counters to zero.
    ResetCounters(Counters),
    /// Uptime and load.
    Stats,
    /// Close SAs.
    Terminate(Terminate),
    /// Remove the policy of a child.
    Uninstall(ConnectionRef),
    /// Remove a connection.
    UnloadConn(String),
    /// Forget a shared secret.
    UnloadShared(String),
    /// Who answers.
    Version,
}

/// Why a call is not a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// There is no such command: [`super::Server::reply_unknown`].
    Unknown,
    /// It is answered with this message without the main loop: arguments are wrong, or nothing is
    /// to be told.
    Answer(Message),
}

impl Request {
    /// Reads a call.
    ///
    /// # Errors
    /// [`RequestError`], with the answer to give.
    pub fn parse(call: &Call) -> Result<Self, RequestError> {
        let a = Arguments(&call.arguments);
        let target = || Ok(ConnectionRef { child: a.text("child")?, ike: a.text("ike")? });
        let filter = || {
            Ok(SaFilter {
                child: a.text("child")?,
                child_id: a.number("child-id")?,
                ike: a.text("ike")?,
                ike_id: a.number("ike-id")?,
            })
        };
        let counters = || Ok(Counters { name: a.text("name")?, all: a.flag("all") });
        Ok(match call.name.as_str() {
            "clear-creds" => Self::ClearCreds,
            "get-conns" => Self::GetConns,
            "get-counters" => Self::GetCounters(counters()?),
            "get-pools" => Self::GetPools,
            "get-shared" => Self::GetShared,
            "initiate" => Self::Initiate(Initiate {
                target: some(target()?, "child or ike")?,
                timeout: a.timeout()?,
                loglevel: a.loglevel()?,
            }),
            "install" => Self::Install(some(target()?, "child")?),
            "list-conns" => Self::ListConns(a.text("ike")?),
            "list-policies" => Self::ListPolicies(ListPolicies {
                drop: a.flag("drop"),
                pass: a.flag("pass"),
                trap: a.flag("trap"),
                of: target()?,
            }),
            "list-sas" => Self::ListSas(ListSas { filter: filter()? }),
            "load-conn" => Self::LoadConn(call.arguments.clone()),
            "load-shared" => Self::LoadShared(a.secret()?),
            "load-cert" => {
                let (kind, flag) = (a.required("type")?, a.text("flag")?.unwrap_or_default());
                let read = Credential::certificate(&kind, &flag, a.data()?);
                Self::LoadCredential(read.map_err(|error| answer(&error))?)
            }
            "load-key" => {
                Self::LoadCredential(Credential::key(a.data()?).map_err(|error| answer(&error))?)
            }
            "get-keys" => Self::GetKeys,
            "unload-key" => {
                let id = crate::config::key_id(&a.required("id")?);
                Self::UnloadKey(id.ok_or_else(|| answer("id is not hexadecimal"))?)
            }
            "rekey" => Self::Rekey(Rekey {
                filter: some(filter()?, "child, ike, child-id or ike-id")?,
                reauth: a.flag("reauth"),
            }),
            "reload-settings" => Self::ReloadSettings,
            "reset-counters" => Self::ResetCounters(counters()?),
            "stats" => Self::Stats,
            "terminate" => Self::Terminate(Terminate {
                filter: some(filter()?, "child, ike, child-id or ike-id")?,
                force: a.flag("force"),
                timeout: a.timeout()?,
                loglevel: a.loglevel()?,
            }),
            "uninstall" => Self::Uninstall(some(target()?, "child")?),
            "unload-conn" => Self::UnloadConn(a.required("name")?),
            "unload-shared" => Self::UnloadShared(a.required("id")?),
            "version" => Self::Version,
            other => return Err(without_main_loop(other)),
        })
    }

    /// Resolves the arguments of [`Request::LoadConn`] by the code that reads files.
    ///
    /// # Errors
    /// What is wrong with it; [`Diagnostics::errors_in_line`] is for the answer.
    pub fn connection(
        arguments: &Message,
        settings: &Settings,
        credentials: &Credentials,
    ) -> Result<(Connection, Vec<Diagnostic>), Diagnostics> {
        connection_from_vici(arguments, settings, credentials)
    }
}

/// Commands about what Culvert does not have: authorities by name, pools, tokens.
fn without_main_loop(name: &str) -> RequestError {
    use super::reply::{failure, success};
    RequestError::Answer(match name {
        "get-authorities" => Message::new().with_list("authorities", [""; 0]),
        "get-algorithms" | "list-authorities" | "list-certs" => Message::new(),
        // Nothing is kept that could be flushed.
        "flush-certs" => success(),
        "load-authority" | "load-pool" | "load-token" | "redirect" | "unload-authority"
        | "unload-pool" => failure(&format!("{name} is not supported yet")),
        _ => return RequestError::Unknown,
    })
}

fn answer(message: &str) -> RequestError {
    RequestError::Answer(super::reply::failure(message))
}

/// Refuses a selection of nothing, which would mean everything.
fn some<T: Default + PartialEq>(selection: T, wanted: &str) -> Result<T, RequestError> {
    if selection == T::default() {
        Err(answer(&format!("missing argument: {wanted}")))
    } else {
        Ok(selection)
    }
}

struct Arguments<'a>(&'a Message);

impl Arguments<'_> {
    fn text(&self, name: &str) -> Result<Option<String>, RequestError> {
        match self.0.bytes(name) {
            None => Ok(None),
            Some(bytes) => match core::str::from_utf8(bytes) {
                Ok(text) => Ok(Some(text.to_owned())),
                Err(_) => Err(answer(&format!("{name} is not text"))),
            },
        }
    }

    fn required(&self, name: &str) -> Result<String, RequestError> {
        self.text(name)?.ok_or_else(|| answer(&format!("missing argument: {name}")))
    }

    /// Numbers may be written with `-` or `_` in their names: clients differ.
    fn number(&self, name: &str) -> Result<Option<u64>, RequestError> {
        let text = match self.text(name)? {
            Some(text) => text,
            None => match self.text(&name.replace('-', "_"))? {
                Some(text) => text,
                None => return Ok(None),
            },
        };
        text.parse().map(Some).map_err(|_| answer(&format!("{name} is not a number")))
    }

    fn flag(&self, name: &str) -> bool {
        self.0.text(name).is_some_and(|t| t.eq_ignore_ascii_case("yes") || t == "1" || t == "true")
    }

    fn signed(&self, name: &str, default: i64) -> Result<i64, RequestError> {
        match self.text(name)? {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| answer(&format!("{name} is not a number"))),
        }
    }

    /// Milliseconds; 0 is for ever, -1 not at all.
    fn timeout(&self) -> Result<Timeout, RequestError> {
        Ok(match self.signed("timeout", 0)? {
            0 => Timeout::Forever,
            negative @ i64::MIN..0 => match negative {
                -1 => Timeout::Immediate,
                _ => return Err(answer("timeout is below -1")),
            },
            millis => Timeout::After(Duration::from_millis(millis.unsigned_abs())),
        })
    }

    fn loglevel(&self) -> Result<i64, RequestError> {
        self.signed("loglevel", 1)
    }

    /// The content of a file.
    fn data(&self) -> Result<&[u8], RequestError> {
        self.0.bytes("data").ok_or_else(|| answer("missing argument: data"))
    }

    fn secret(&self) -> Result<Secret, RequestError> {
        let kind = self.required("type")?;
        let kind = SecretKind::from_prefix(&kind)
            .ok_or_else(|| answer("type is none of: ike, eap, xauth, ntlm, ppk"))?;
        let data = self.0.bytes("data").ok_or_else(|| answer("missing argument: data"))?;
        if data.is_empty() {
            return Err(answer("the secret is empty"));
        }
        let owners = self
            .0
            .list("owners")
            .iter()
            .filter_map(Bytes::as_str)
            .map(|text| identity::parse(text).map_err(|error| answer(&format!("owners: {error}"))))
            .collect::<Result<_, _>>()?;
        Ok(Secret {
            name: self.text("id")?.unwrap_or_default(),
            kind,
            owners,
            data: KeyMaterial::new(data.to_vec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ike::config::Identity;

    fn call(name: &str, arguments: Message) -> Call {
        Call { name: name.to_owned(), arguments }
    }

    fn failure_of(name: &str, arguments: Message) -> String {
        match Request::parse(&call(name, arguments)) {
            Err(RequestError::Answer(answer)) => answer.text("errmsg").unwrap().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn initiate_as_swanctl_sends_it() {
        let arguments =
            Message::new().with("child", "net").with("timeout", 10_000).with("loglevel", 1);
        let Ok(Request::Initiate(initiate)) = Request::parse(&call("initiate", arguments)) else {
            panic!("not an initiate");
        };
        assert_eq!(initiate.target, ConnectionRef { child: Some("net".into()), ike: None });
        assert_eq!(initiate.timeout, Timeout::After(Duration::from_secs(10)));
        assert_eq!(initiate.loglevel, 1);
    }

    #[test]
    fn a_secret_is_taken_and_not_shown() {
        let arguments = Message::new()
            .with("id", "ike-1")
            .with("type", "ike")
            .with("data", "hush-hush")
            .with_list("owners", ["a.interop.test", "10.0.0.1"]);
        let shown = format!("{arguments:?}");
        assert!(!shown.contains("hush"), "{shown}");
        let Ok(Request::LoadShared(secret)) = Request::parse(&call("load-shared", arguments))
        else {
            panic!("not a secret");
        };
        assert_eq!((secret.name.as_str(), secret.kind), ("ike-1", SecretKind::Ike));
        assert_eq!(secret.data.expose(), b"hush-hush");
        assert_eq!(secret.owners[0], Identity::Fqdn("a.interop.test".into()));
        assert!(!format!("{secret:?}").contains("hush"));
    }

    #[test]
    fn wrong_arguments_are_answered() {
        assert_eq!(
            failure_of("terminate", Message::new()),
            "missing argument: child, ike, child-id or ike-id"
        );
        assert_eq!(failure_of("unload-conn", Message::new()), "missing argument: name");
        let timeout = Message::new().with("child", "x").with("timeout", "soon");
        assert_eq!(failure_of("initiate", timeout), "timeout is not a number");
        assert_eq!(failure_of("load-key", Message::new()), "missing argument: data");
        let unknown = Request::parse(&call("nonsense", Message::new())).unwrap_err();
        assert_eq!(unknown, RequestError::Unknown);
    }

    #[test]
    fn load_conn_goes_through_the_resolution_of_files() {
        let auth = |id: &str| Message::new().with("auth", "psk").with("id", id);
        let child = Message::new()
            .with_list("local_ts", ["10.77.1.0/24"])
            .with_list("esp_proposals", ["aes128-sha256-modp2048", "aes128gcm16-modp2048"])
            .with("rekey_time", 0);
        let gw = Message::new()
            .with("version", 2)
            .with_list("local_addrs", ["192.168.77.1"])
            .with_list("proposals", ["aes128-sha256-modp2048"])
            .with_section("local", auth("a.interop.test"))
            .with_section("remote", auth("b.interop.test"))
            .with_section("children", Message::new().with_section("net", child));
        let load = |gw| {
            let arguments = Message::new().with_section("gw", gw);
            Request::connection(&arguments, &Settings::default(), &Credentials::default())
        };
        let (connection, _) = load(gw.clone()).unwrap();
        assert_eq!(connection.name, "gw");
        assert_eq!(connection.local.id, Identity::Fqdn("a.interop.test".into()));
        assert_eq!(connection.children[0].name, "net");
        let error = load(gw.with("unqiue", "no")).unwrap_err();
        assert_eq!(
            error.errors_in_line(),
            "connections.gw.unqiue: unknown key; did you mean 'unique'?"
        );
    }
}
