//! `culvert check`: what a configuration means, and everything that is wrong with it.
//!
//! Opens the files that it is told to and nothing else: no socket, no interface, no daemon.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use daemon::config::{
    Configuration, DEFAULT_HOST_INTERFACE, DEFAULT_STATISTICS_FILE, DEFAULT_VICI_SOCKET,
    Diagnostics, Gateway, Idle, LeftOut, OnFailure, Options, Secret, SecretKind, Store, display,
    identity, patience,
};
use daemon::gateway::{SLOW_LOOKUPS, slow_lookups};
use ike::config::{AuthMethod, AuthRound, Child, ChildMode, Connection, Identity, Version, Xauth};
use ipsec::spd::Cost;
use std::time::Duration;

use crate::Failure;

/// Arguments of `culvert check`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The configuration: swanctl.conf with a `gateway` section, or without
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Say what would change for a daemon that runs with this configuration
    #[arg(long, value_name = "FILE")]
    running: Option<PathBuf>,
    /// Take secrets from files that every user can read
    #[arg(long)]
    allow_readable_secrets: bool,
}

/// Runs `culvert check`.
///
/// # Errors
///
/// Where the configuration has an error, or the output cannot be written.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let options = Options { readable_secrets: args.allow_readable_secrets };
    let configuration = load(&mut out, &args.config, options)?;
    let mut page = Page::default();
    describe(&mut page, &configuration);
    if let Some(path) = &args.running {
        let running = load(&mut out, path, options)?;
        compare(&mut page, Store::new(running), configuration);
    }
    out.write_all(page.text.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn load(out: &mut impl Write, path: &Path, options: Options) -> Result<Configuration, Failure> {
    match Configuration::load(path, options) {
        Ok(configuration) => Ok(configuration),
        Err(findings) => {
            let mut page = Page::default();
            for line in findings.to_string().lines() {
                page.paragraph("", line);
            }
            out.write_all(page.text.as_bytes())?;
            out.flush()?;
            Err(rejected(path, &findings))
        }
    }
}

fn rejected(path: &Path, findings: &Diagnostics) -> Failure {
    let errors = findings.iter().filter(|d| d.severity == daemon::config::Severity::Error).count();
    let s = if errors == 1 { "" } else { "s" };
    Failure::new(format!("{}: {errors} error{s}, so it would not be taken", path.display()))
}

const WIDTH: usize = 80;

/// Text in 80 columns.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn heading(&mut self, text: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// `  label      value value …`, continued under the value.
    fn entry(&mut self, indent: usize, label: &str, value: &str) {
        let margin = format!("{:indent$}", "");
        let column = 16;
        let head = format!("{margin}{label:<w$} ", w = column - indent.min(column));
        self.wrapped(&head, &" ".repeat(column + 1), value);
    }

    fn paragraph(&mut self, margin: &str, text: &str) {
        self.wrapped(margin, &format!("{margin}    "), text);
    }

    /// Breaks at spaces, and a word that fills a line by itself behind a slash or comma in it.
    fn wrapped(&mut self, first: &str, rest: &str, text: &str) {
        let mut line = first.to_owned();
        let mut empty = true;
        for word in text.split(' ') {
            if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.line(&line);
                line = rest.to_owned();
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            empty = false;
            let mut word = word;
            while line.chars().count() + word.chars().count() > WIDTH {
                let room = WIDTH.saturating_sub(line.chars().count());
                let fits = word.char_indices().nth(room).map_or(word.len(), |(at, _)| at);
                let Some(cut) = word[..fits].rfind(['/', ',']).map(|at| at + 1) else { break };
                line.push_str(&word[..cut]);
                self.line(&line);
                line = rest.to_owned();
                word = &word[cut..];
            }
            line.push_str(word);
        }
        self.line(&line);
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }
}

fn describe(page: &mut Page, configuration: &Configuration) {
    gateway(page, configuration);
    for c in &configuration.ike.connections {
        connection(page, c);
    }
    for l in &configuration.left_out {
        left_out(page, l);
    }
    if !configuration.secrets.is_empty() {
        page.heading("secrets");
        for s in &configuration.secrets {
            secret(page, s);
        }
    }
    let slow = slow_lookups(configuration).map(|Cost { probes, comparisons }| {
        format!("warning: {SLOW_LOOKUPS} ({probes} tables, {comparisons} comparisons)")
    });
    let count = configuration.warnings.len() + usize::from(slow.is_some());
    page.heading(&match count {
        0 => "no errors, no warnings".to_owned(),
        1 => "no errors, 1 warning".to_owned(),
        n => format!("no errors, {n} warnings"),
    });
    for warning in &configuration.warnings {
        page.paragraph("  ", &format!("warning: {warning}"));
    }
    if let Some(slow) = slow {
        page.paragraph("  ", &slow);
    }
}

fn gateway(page: &mut Page, configuration: &Configuration) {
    let Gateway { workers, ports, host_interface, statistics_file, vici_socket, .. } =
        &configuration.gateway;
    let Gateway { limits, idle, on_failure, .. } = &configuration.gateway;
    page.heading("gateway");
    page.entry(
        2,
        "workers",
        &workers.map_or_else(
            || "one for each receive queue of the ports".to_owned(),
            |n| n.to_string(),
        ),
    );
    if ports.is_empty() {
        page.entry(2, "ports", "the devices that have the connections' addresses");
    }
    for port in ports {
        let queues = port.queues.map_or_else(|| "all queues".to_owned(), |n| format!("{n} queues"));
        let what = format!("{}, {queues}, {}", port.interface, port.mode.name());
        page.entry(2, &format!("port {}", port.name), &what);
    }
    page.entry(2, "host", host_interface.as_deref().unwrap_or(DEFAULT_HOST_INTERFACE));
    let file = |path: &Option<PathBuf>, default: &str| {
        path.as_ref().map_or_else(|| default.to_owned(), |p| p.display().to_string())
    };
    page.entry(2, "statistics", &file(statistics_file, DEFAULT_STATISTICS_FILE));
    page.entry(2, "control socket", &file(vici_socket, DEFAULT_VICI_SOCKET));
    page.entry(
        2,
        "idle",
        match idle {
            Idle::Sleep => "workers without packets sleep",
            Idle::Spin => "workers without packets poll on",
        },
    );
    page.entry(
        2,
        "on failure",
        match on_failure {
            OnFailure::Closed => "closed: protected traffic stays blocked without the daemon",
            OnFailure::Open => "open: protected traffic may pass in clear without the daemon",
        },
    );
    let settings = &configuration.ike.settings;
    let mut bounds = vec![format!("{} half-open IKE SAs", settings.half_open_limit)];
    let mut bound = |count: Option<usize>, what: &str| {
        bounds.extend(count.map(|n| format!("{n} {what}")));
    };
    bound(limits.sas, "SAs of a worker");
    bound(limits.waiting_packets, "waiting packets of a worker");
    bound(limits.waiting_per_policy, "waiting packets of a policy");
    bound(limits.icmp_per_second.and_then(|n| n.try_into().ok()), "ICMP errors a second");
    bound(limits.icmp_burst.and_then(|n| n.try_into().ok()), "ICMP errors at once");
    page.entry(2, "limits", &bounds.join(", "));
    let ike = format!(
        "UDP ports {} and {}, fragments above {} bytes, cookies from {} half-open SAs, peers \
         given up after {}",
        settings.port,
        settings.port_nat_t,
        settings.fragment_size,
        settings.cookie_threshold,
        time(whole_seconds(patience(settings))),
    );
    page.entry(2, "ike", &ike);
}

fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}

fn connection(page: &mut Page, c: &Connection) {
    page.heading(&format!("connection {}", c.name));
    let version = match c.version {
        Version::Any => "IKEv2",
        Version::Ikev1 => "IKEv1",
        Version::Ikev2 => "IKEv2",
    };
    page.entry(2, "version", version);
    let end = |ranges: &[ipsec::selector::AddressRange], port: u16, round: &AuthRound| {
        let method = match round.method {
            AuthMethod::Psk => "preshared key",
            AuthMethod::Pubkey => "public key",
            AuthMethod::Kerberos => "Kerberos",
            AuthMethod::Xauth => "XAuth",
        };
        let port = if port == 500 { String::new() } else { format!(" port {port}") };
        let id = match (&round.id, method) {
            (Identity::Any, _) => "any identity".to_owned(),
            (id, _) => format!("identity {}", identity::display(id)),
        };
        format!("{}{port}, {id}, {method}", display::endpoints(ranges))
    };
    let local = end(&c.local_addrs, c.local_port, &c.local);
    let default = match c.local.certificates.first() {
        Some(own) => format!("identity {}", identity::display(&own.subject())),
        None => "identity is the address".to_owned(),
    };
    page.entry(2, "local", &local.replace("any identity", &default));
    page.entry(2, "remote", &end(&c.remote_addrs, c.remote_port, &c.remote));
    match &c.xauth {
        Some(Xauth::Ask) => page.entry(2, "XAUTH", "the peer is asked for name and password"),
        Some(Xauth::Answer { user }) => page.entry(2, "XAUTH", &format!("answered as {user}")),
        None => {}
    }
    let wanted: Vec<String> = c.vips.iter().map(ToString::to_string).collect();
    if !wanted.is_empty() {
        page.entry(2, "asks for", &format!("virtual address {}", wanted.join(", ")));
    }
    if !c.pools.is_empty() {
        page.entry(2, "gives", &format!("virtual address from {}", c.pools.join(", ")));
    }
    for proposal in &c.proposals {
        page.entry(2, "proposal", &proposal.to_string());
    }
    let mut times = vec![never("rekeyed", c.rekey_time), never("reauthenticated", c.reauth_time)];
    times.push(match c.dpd_delay {
        Duration::ZERO => "liveness not checked".to_owned(),
        delay => format!("liveness checked after {}", time(delay)),
    });
    page.entry(2, "IKE SA", &times.join(", "));
    let options: Vec<&str> = [
        (c.encap, "UDP encapsulation forced"),
        (c.aggressive, "aggressive mode"),
        (c.mobike && c.version != Version::Ikev1, "MOBIKE"),
        (c.fragmentation.accepts(), "fragmentation"),
    ]
    .into_iter()
    .filter_map(|(on, name)| on.then_some(name))
    .collect();
    if !options.is_empty() {
        page.entry(2, "options", &options.join(", "));
    }
    for child in &c.children {
        self::child(page, child);
    }
    if c.children.is_empty() {
        page.entry(2, "children", "none: nothing is protected");
    }
}

fn never(what: &str, after: Duration) -> String {
    if after.is_zero() { format!("never {what}") } else { format!("{what} after {}", time(after)) }
}

fn child(page: &mut Page, c: &Child) {
    let what = match c.mode {
        ChildMode::Protect(_) => format!("protects, {} mode", display::mode(c.mode)),
        ChildMode::Pass => "passes in clear".to_owned(),
        ChildMode::Drop => "drops".to_owned(),
    };
    let priority =
        if c.priority == 0 { String::new() } else { format!(", priority {}", c.priority) };
    page.entry(2, &format!("child {}", c.name), &format!("{what}{priority}"));
    for local in &c.local_ts {
        for remote in &c.remote_ts {
            let family =
                |ts: &ike::config::TrafficSelector| ts.addresses.map(|a| a.first().is_ipv4());
            if let (Some(l), Some(r)) = (family(local), family(remote))
                && l != r
            {
                continue;
            }
            let policy =
                format!("{} <-> {}", display::configured(local), display::configured(remote));
            page.entry(4, "policy", &policy);
        }
    }
    if !matches!(c.mode, ChildMode::Protect(_)) {
        return;
    }
    for proposal in &c.proposals {
        page.entry(4, "proposal", &proposal.to_string());
    }
    let mut life = vec![never("rekeyed", c.rekey_time)];
    if !c.life_time.is_zero() {
        life.push(format!("ends after {}", time(c.life_time)));
    }
    let volumes = [
        (c.rekey_limits.bytes, "rekeyed after", "bytes"),
        (c.rekey_limits.packets, "rekeyed after", "packets"),
        (c.life_limits.bytes, "refused after", "bytes"),
        (c.life_limits.packets, "refused after", "packets"),
    ];
    for (limit, what, unit) in volumes {
        life.extend(limit.map(|n| format!("{what} {n} {unit}")));
    }
    life.push(match c.replay_window {
        0 => "replay not checked".to_owned(),
        window => format!("replay window {window}"),
    });
    page.entry(4, "SA", &life.join(", "));
    let action = format!(
        "on load {}, when closed {}, when the peer is dead {}",
        display::action(c.start_action),
        display::action(c.close_action),
        display::action(c.dpd_action)
    );
    page.entry(4, "action", &action);
}

fn left_out(page: &mut Page, l: &LeftOut) {
    page.heading(&format!("connection {} is left out", l.name));
    page.entry(2, "reason", &l.reason);
    for child in &l.children {
        page.entry(2, "child", &format!("{}: its traffic has no protection", child.name));
    }
}

fn secret(page: &mut Page, s: &Secret) {
    let kind = match s.kind {
        SecretKind::Ike => "IKE preshared key",
        SecretKind::Eap => "EAP or XAuth secret",
        SecretKind::Ntlm => "NT hash",
        SecretKind::Ppk => "postquantum preshared key",
    };
    let owners: Vec<String> = s.owners.iter().map(identity::display).collect();
    let owners = if owners.is_empty() { "anyone".to_owned() } else { owners.join(", ") };
    page.entry(2, &s.name, &format!("{kind} for {owners}"));
}

fn compare(page: &mut Page, mut running: Store, new: Configuration) {
    let changes = running.reload(new);
    page.heading("on reload");
    let mut same = true;
    for (what, names) in [
        ("added", changes.added.iter().map(|c| &c.name).collect::<Vec<_>>()),
        ("changed", changes.changed.iter().map(|(_, new)| &new.name).collect()),
        ("removed", changes.removed.iter().map(|c| &c.name).collect()),
    ] {
        for name in names {
            same = false;
            page.entry(2, what, &format!("connection {name}"));
        }
    }
    for setting in &changes.restart {
        same = false;
        page.entry(2, "needs a restart", setting);
    }
    if same {
        page.entry(2, "unchanged", "connections and gateway");
    }
}

/// `90 s`, `1 h`, `1 h 30 min`.
fn time(time: Duration) -> String {
    let mut rest = time.as_secs();
    let mut parts = Vec::new();
    for (unit, seconds) in [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)] {
        let count = rest / seconds;
        rest %= seconds;
        if count > 0 {
            parts.push(format!("{count} {unit}"));
        }
    }
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use daemon::config::Source;

    fn parse(text: &str) -> Configuration {
        let source = Source { name: "t.conf".into(), mode: Some(0o600), directory: "".into() };
        Configuration::parse(text, source, Options::default()).map_err(|e| e.to_string()).unwrap()
    }

    const TEXT: &str = "\
gateway {\n workers = 2\n ports { wan { interface = ita0 } }\n }\n\
connections {\n gw {\n version = 2\n local_addrs = 192.168.77.1\n remote_addrs = 192.168.77.2\n\
 proposals = aes128gcm16-prfsha256-x25519\n\
 local {\n auth = psk\n id = a.interop.test\n }\n remote {\n auth = psk\n id = b.interop.test\n }\n\
 children { net {\n local_ts = 10.77.1.0/24[tcp/80]\n remote_ts = 10.77.2.0/24\n\
 esp_proposals = aes128gcm16-modp2048\n rekey_bytes = 1g\n start_action = trap\n } }\n }\n }\n\
secrets { ike-1 {\n id-1 = a.interop.test\n secret = hush-hush-hush\n } }\n";

    #[test]
    fn a_configuration_is_described_in_80_columns() {
        let mut page = Page::default();
        describe(&mut page, &parse(TEXT));
        let wanted = "\
gateway
  workers        2
  port wan       ita0, all queues, auto
  host           culvert0
  statistics     /run/culvert/stats
  control socket /run/culvert/vici
  idle           workers without packets sleep
  on failure     closed: protected traffic stays blocked without the daemon
  limits         1000 half-open IKE SAs
  ike            UDP ports 500 and 4500, fragments above 1280 bytes, cookies
                 from 30 half-open SAs, peers given up after 2 min 45 s

connection gw
  version        IKEv2
  local          192.168.77.1, identity a.interop.test, preshared key
  remote         192.168.77.2, identity b.interop.test, preshared key
  proposal       IKE:AES_GCM_16_128/PRF_HMAC_SHA2_256/CURVE_25519
  IKE SA         rekeyed after 4 h, never reauthenticated, liveness not checked
  options        MOBIKE, fragmentation
  child net      protects, tunnel mode
    policy       10.77.1.0/24[tcp/80] <-> 10.77.2.0/24
    proposal     ESP:AES_GCM_16_128/MODP_2048/NO_EXT_SEQ
    SA           rekeyed after 1 h, ends after 1 h 6 min, rekeyed after
                 1073741824 bytes, refused after 1181116006 bytes, replay window
                 32
    action       on load trap, when closed none, when the peer is dead none

secrets
  ike-1          IKE preshared key for a.interop.test

no errors, no warnings
";
        assert_eq!(page.text, wanted);
        assert!(page.text.lines().all(|l| l.chars().count() <= WIDTH));
        assert!(!page.text.contains("hush"));
    }

    #[test]
    fn a_road_warriors_rounds_and_addresses_are_told() {
        let text = "connections { gw {\n version = 1\n aggressive = yes\n pools = rw\n local { auth = psk\n }\n\
            remote { auth = psk\n }\n remote-2 { auth = xauth\n }\n children { net { } }\n } }\n\
            pools { rw { addrs = 10.9.0.0/24\n } }\n";
        let mut page = Page::default();
        describe(&mut page, &parse(text));
        for line in [
            "  XAUTH          the peer is asked for name and password",
            "  gives          virtual address from rw",
            "  options        aggressive mode, fragmentation",
        ] {
            assert!(page.text.lines().any(|l| l == line), "{line} is missing in\n{}", page.text);
        }
        let client = text
            .replace("pools = rw", "vips = 0.0.0.0")
            .replace("remote-2 {", "local-2 { xauth_id = carol\n");
        let mut page = Page::default();
        describe(&mut page, &parse(&client));
        for line in
            ["  XAUTH          answered as carol", "  asks for       virtual address 0.0.0.0"]
        {
            assert!(page.text.lines().any(|l| l == line), "{line} is missing in\n{}", page.text);
        }
    }

    #[test]
    fn a_reload_is_foreseen() {
        let new = TEXT.replace("workers = 2", "workers = 3").replace("gw {", "gw2 {");
        let mut page = Page::default();
        compare(&mut page, Store::new(parse(TEXT)), parse(&new));
        assert_eq!(
            page.text,
            "on reload\n  added          connection gw2\n  removed        connection gw\n  \
             needs a restart gateway.workers\n"
        );
    }

    #[test]
    fn long_words_are_broken_behind_a_slash() {
        let mut page = Page::default();
        page.entry(2, "proposal", &"AES_CBC_128/".repeat(20));
        assert!(page.text.lines().all(|l| l.chars().count() <= WIDTH), "{}", page.text);
        assert_eq!(
            page.text.split_whitespace().skip(1).collect::<String>(),
            "AES_CBC_128/".repeat(20)
        );
    }
}
