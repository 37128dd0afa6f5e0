//! The real swanctl against our control socket. Skipped, with a line, where it is not installed.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "helpers of tests")]

use daemon::config::{Configuration, Options, Store};
use daemon::vici::{Request, RequestError, Server, reply};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// A daemon with a configuration store, and nothing behind it.
struct Daemon {
    directory: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Daemon {
    fn start(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("culvert-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let server = Server::bind(&directory.join("vici")).expect("a socket");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || serve(server, &stopped));
        Self { directory, stop, thread: Some(thread) }
    }

    /// Runs swanctl with the scenario's file as its configuration.
    fn swanctl(&self, scenario: &str, arguments: &[&str]) -> Option<(bool, String)> {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/scenarios/{scenario}.conf"));
        std::fs::copy(file, self.directory.join("swanctl.conf")).expect("a copy");
        // Not the host's: swanctl takes the plugins to load from it.
        let settings = self.directory.join("strongswan.conf");
        std::fs::write(&settings, "swanctl { }\n").expect("a file");
        let output = Command::new("swanctl")
            .args(arguments)
            .arg("--uri")
            .arg(format!("unix://{}", self.directory.join("vici").display()))
            .env("SWANCTL_DIR", &self.directory)
            .env("STRONGSWAN_CONF", &settings)
            .output();
        match output {
            Ok(output) => {
                let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.push_str(&String::from_utf8_lossy(&output.stderr));
                Some((output.status.success(), text))
            }
            Err(_) => {
                println!("swanctl is not installed: skipped");
                None
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn serve(mut server: Server, stop: &AtomicBool) {
    let source = daemon::config::Source { name: "none".into(), mode: None, directory: "".into() };
    let empty = Configuration::parse("", source, Options::default()).expect("it has no errors");
    let mut store = Store::new(empty);
    while !stop.load(Ordering::Relaxed) {
        for (client, call) in server.service() {
            let answer = match Request::parse(&call) {
                Ok(Request::LoadConn(arguments)) => {
                    match Request::connection(&arguments, store.settings(), store.credentials()) {
                        Ok((connection, _)) => {
                            store.load_connection(connection);
                            reply::success()
                        }
                        Err(findings) => reply::failure(&findings.errors_in_line()),
                    }
                }
                Ok(Request::UnloadConn(name)) => match store.unload_connection(&name) {
                    Some(_) => reply::success(),
                    None => reply::failure("no such connection"),
                },
                Ok(Request::GetConns) => {
                    reply::connection_names(store.connections().map(|c| c.name.as_str()))
                }
                Ok(Request::GetShared) => reply::secret_names(store.secret_names()),
                Ok(Request::LoadShared(secret)) => {
                    store.load_secret(secret);
                    reply::success()
                }
                Ok(Request::UnloadShared(name)) => {
                    store.unload_secret(&name);
                    reply::success()
                }
                Ok(Request::ListConns(_)) => {
                    for connection in store.connections() {
                        server.stream(client, "list-conn", &reply::connection(connection));
                    }
                    daemon::vici::Message::new()
                }
                Ok(Request::ListPolicies(_)) => {
                    for connection in store.connections() {
                        for child in &connection.children {
                            let policy = reply::policy(&connection.name, child, false);
                            server.stream(client, "list-policy", &policy);
                        }
                    }
                    daemon::vici::Message::new()
                }
                Ok(Request::Initiate(initiate)) => {
                    let name = initiate.target.child.unwrap_or_default();
                    let text = format!("establishing CHILD_SA {name}");
                    let log = reply::control_log("IKE", 0, Some(("gw", 1)), &text);
                    server.stream(client, "control-log", &log);
                    reply::failure("there is no engine")
                }
                Ok(Request::Terminate(_)) => reply::terminated(2, 2),
                Ok(Request::Rekey(_)) => reply::rekeyed(1),
                Ok(Request::Version) => reply::version(),
                Ok(Request::Stats) => reply::stats(&reply::Stats {
                    started: SystemTime::UNIX_EPOCH,
                    running: Duration::from_secs(18),
                    threads: 2,
                    idle_threads: 1,
                    queued_jobs: 0,
                    scheduled: 3,
                    ike_sas: 4,
                    half_open: 1,
                }),
                Ok(Request::GetCounters(_)) => {
                    reply::counters([("gw", vec![("ike-rekey-init", 7)])])
                }
                Ok(Request::GetPools) => daemon::vici::Message::new(),
                Ok(_) => reply::success(),
                Err(RequestError::Answer(answer)) => answer,
                Err(RequestError::Unknown) => {
                    server.reply_unknown(client);
                    continue;
                }
            };
            server.reply(client, answer);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn load_all_loads_connections_and_secrets_and_lists_them() {
    let daemon = Daemon::start("load");
    let Some((ok, output)) = daemon.swanctl("ikev2-psk-a", &["--load-all"]) else { return };
    assert!(ok, "{output}");
    for line in [
        "loaded ike secret 'ike-1'",
        "loaded eap secret 'eap-1'",
        "loaded connection 'gw'",
        "successfully loaded 1 connections, 0 unloaded",
    ] {
        assert!(output.contains(line), "{line}\n{output}");
    }
    // Once more with another file: the new one is known, the old secrets are kept by name.
    let (ok, output) =
        daemon.swanctl("ikev2-multi-child-a", &["--load-all"]).expect("it was there before");
    assert!(ok, "{output}");

    let (ok, output) = daemon.swanctl("ikev2-psk-a", &["--list-conns"]).expect("it was there");
    assert!(ok, "{output}");
    for line in [
        "gw: IKEv2, no reauthentication, no rekeying",
        "local:  192.168.77.1",
        "remote: 192.168.77.2",
        "local pre-shared key authentication:",
        "id: b.interop.test",
        "n3: TUNNEL, no rekeying",
        "local:  10.77.12.0/24",
    ] {
        assert!(output.contains(line), "{line}\n{output}");
    }
    let (ok, output) = daemon.swanctl("ikev2-psk-a", &["--list-pols"]).expect("it was there");
    assert!(ok && output.contains("gw/n1, TUNNEL"), "{output}");
}

#[test]
fn a_connection_with_an_error_is_refused_with_its_reason() {
    let daemon = Daemon::start("refuse");
    let Some((ok, output)) = daemon.swanctl("ikev2-vip-a", &["--load-conns"]) else { return };
    // Either swanctl misses the certificate it is told to send, or the daemon refuses EAP.
    assert!(!ok, "{output}");
    let (ok, output) = daemon.swanctl("ikev2-vip-b", &["--load-pools"]).expect("it was there");
    assert!(!ok && output.contains("load-pool is not supported yet"), "{output}");
}

#[test]
fn control_commands_are_answered() {
    let daemon = Daemon::start("control");
    let run = |arguments: &[&str]| daemon.swanctl("ikev2-psk-a", arguments);
    let Some((ok, output)) = run(&["--initiate", "--child", "net", "--timeout", "5"]) else {
        return;
    };
    assert!(!ok, "{output}");
    assert!(output.contains("[IKE] establishing CHILD_SA net"), "{output}");
    assert!(output.contains("initiate failed: there is no engine"), "{output}");
    for (arguments, expected) in [
        (&["--terminate", "--ike", "gw"][..], "terminate completed successfully"),
        (&["--rekey", "--child", "net"], "rekey completed successfully"),
        (&["--stats"], "IKE_SAs: 4 total, 1 half-open"),
        (&["--counters", "--all"], "ike-rekey-init"),
        (&["--version", "--daemon"], "culvert"),
        (&["--list-sas"], ""),
        (&["--list-pools"], ""),
        (&["--list-certs"], ""),
        (&["--list-authorities"], ""),
        (&["--list-algs"], ""),
        (&["--reload-settings"], ""),
        (&["--flush-certs"], ""),
        (&["--install", "--child", "net"], "install completed successfully"),
        (&["--uninstall", "--child", "net"], "uninstall completed successfully"),
    ] {
        let (ok, output) = run(arguments).expect("it was there");
        assert!(ok && output.contains(expected), "{arguments:?}: {output}");
    }
}
