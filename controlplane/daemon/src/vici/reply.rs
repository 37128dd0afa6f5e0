//! Answers and events, with the names that charon gives their parts.

use super::message::Message;
use crate::config::{display, identity};
use core::time::Duration;
use ike::config::{AuthMethod, AuthRound, Child, ChildMode, Connection, Identity, Unique, Version};
use ike::proposal::{Chosen, encryption_name, group_name, integrity_name, prf_name};
use ike::view::{ChildSaView, IkeSaView, Role};
use ipsec::sa::{Mode, PairId, Protocol};
use ipsec::selector::Selector;
use std::collections::BTreeSet;
use std::time::SystemTime;

/// Bytes as VICI writes IDs of keys.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `success = yes`
pub fn success() -> Message {
    Message::new().with("success", "yes")
}

/// `success = no` with the reason.
pub fn failure(reason: &str) -> Message {
    Message::new().with("success", "no").with("errmsg", reason)
}

/// The answer to `rekey`: how many SAs were meant.
pub fn rekeyed(matches: usize) -> Message {
    matched(matches, (matches == 0).then_some("no matching SAs to rekey found"), |m| m)
}

/// The answer to `terminate`: how many SAs were meant, and how many are gone.
pub fn terminated(matches: usize, terminated: usize) -> Message {
    let error = match matches {
        0 => Some("no matching SAs to terminate found"),
        1 if terminated == 0 => Some("terminating SA failed"),
        _ if terminated < matches => Some("not all matching SAs could be terminated"),
        _ => None,
    };
    matched(matches, error, |m| m.with("terminated", terminated))
}

fn matched(matches: usize, error: Option<&str>, more: impl FnOnce(Message) -> Message) -> Message {
    let message = Message::new()
        .with("success", if error.is_none() { "yes" } else { "no" })
        .with("matches", matches);
    more(message).with_some("errmsg", error)
}

/// The answer to `version`.
pub fn version() -> Message {
    let kernel = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
        text.trim().to_owned()
    };
    Message::new()
        .with("daemon", "culvert")
        .with("version", env!("CARGO_PKG_VERSION"))
        .with("sysname", kernel("ostype"))
        .with("release", kernel("osrelease"))
        .with("machine", std::env::consts::ARCH)
}

/// What `stats` tells.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// When the daemon was started.
    pub started: SystemTime,
    /// Since then.
    pub running: Duration,
    /// Threads of the public-key pool.
    pub threads: usize,
    /// Of these, without work.
    pub idle_threads: usize,
    /// Jobs that wait for one.
    pub queued_jobs: usize,
    /// Timers.
    pub scheduled: usize,
    /// IKE SAs.
    pub ike_sas: usize,
    /// Of these, half-open.
    pub half_open: usize,
}

/// The answer to `stats`. charon's priorities are not ours: all jobs count as `medium`.
pub fn stats(stats: &Stats) -> Message {
    let priorities = |medium: usize| {
        Message::new().with("critical", 0).with("high", 0).with("medium", medium).with("low", 0)
    };
    let uptime = Message::new()
        .with("running", in_words(stats.running))
        .with("since", calendar(stats.started));
    let workers = Message::new()
        .with("total", stats.threads)
        .with("idle", stats.idle_threads)
        .with_section("active", priorities(stats.threads.saturating_sub(stats.idle_threads)));
    let sas = Message::new().with("total", stats.ike_sas).with("half-open", stats.half_open);
    Message::new()
        .with_section("uptime", uptime)
        .with_section("workers", workers)
        .with_section("queues", priorities(stats.queued_jobs))
        .with("scheduled", stats.scheduled)
        .with_section("ikesas", sas)
        .with_list("plugins", ["culvert"])
}

/// `3 hours`, as charon says it.
fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    let (count, unit) = match seconds {
        172_800.. => (seconds / 86_400, "day"),
        7200.. => (seconds / 3600, "hour"),
        120.. => (seconds / 60, "minute"),
        _ => (seconds, "second"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// `Nov 20 22:40:35 2026` in UTC.
fn calendar(time: SystemTime) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut days = seconds / 86_400;
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut name = MONTHS[0];
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    for (month, length) in MONTHS.into_iter().zip(lengths) {
        name = month;
        if days < length {
            break;
        }
        days -= length;
    }
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{name} {:02} {hour:02}:{minute:02}:{second:02} {year}", days + 1)
}

/// The answer to `get-conns`.
pub fn connection_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Message {
    Message::new().with_list("conns", names)
}

/// The answer to `get-shared`.
pub fn secret_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Message {
    Message::new().with_list("keys", names)
}

/// The answer to `get-counters`: for each connection, or under an empty name for all of them.
pub fn counters<'a>(of: impl IntoIterator<Item = (&'a str, Vec<(&'static str, u64)>)>) -> Message {
    let mut all = Message::new();
    for (connection, counters) in of {
        let mut section = Message::new();
        for (name, count) in counters {
            section.push(name, count);
        }
        all.push_section(connection, section);
    }
    Message::new().with_section("counters", all).with("success", "yes")
}

/// The event `control-log`, for the client of a command under way.
pub fn control_log(group: &str, level: i64, sa: Option<(&str, u64)>, text: &str) -> Message {
    Message::new()
        .with("group", group)
        .with("level", level)
        .with_some("ikesa-name", sa.map(|(name, _)| name))
        .with_some("ikesa-uniqueid", sa.map(|(_, id)| id))
        .with("msg", text)
}

/// The event `log`.
pub fn log(group: &str, level: i64, sa: Option<(&str, u64)>, text: &str) -> Message {
    // charon has many threads; all of the control plane is one here.
    control_log(group, level, sa, text).with("thread", 1)
}

/// The event `list-conn`.
pub fn connection(connection: &Connection) -> Message {
    let ranges = |ranges: &[ipsec::selector::AddressRange]| match ranges {
        [] => vec!["%any".to_owned()],
        ranges => ranges.iter().map(display::addresses).collect(),
    };
    let version = match connection.version {
        Version::Any => "IKEv1/2",
        Version::Ikev1 => "IKEv1",
        Version::Ikev2 => "IKEv2",
    };
    let unique = match connection.unique {
        Unique::Never => "UNIQUE_NEVER",
        Unique::No => "UNIQUE_NO",
        Unique::Replace => "UNIQUE_REPLACE",
        Unique::Keep => "UNIQUE_KEEP",
    };
    let mut children = Message::new();
    for c in &connection.children {
        children.push_section(&c.name, child(c));
    }
    let dpd = connection.dpd_delay;
    let section = Message::new()
        .with_list("local_addrs", ranges(&connection.local_addrs))
        .with_list("remote_addrs", ranges(&connection.remote_addrs))
        .with("version", version)
        .with("reauth_time", connection.reauth_time.as_secs())
        .with("rekey_time", connection.rekey_time.as_secs())
        .with("unique", unique)
        .with_some("dpd_delay", (!dpd.is_zero()).then_some(dpd.as_secs()))
        .with_section("local-1", round(&connection.local))
        .with_section("remote-1", round(&connection.remote))
        .with_section("children", children);
    Message::new().with_section(&connection.name, section)
}

fn round(round: &AuthRound) -> Message {
    let class = match round.method {
        AuthMethod::Psk => "pre-shared key",
        AuthMethod::Pubkey => "public key",
        AuthMethod::Kerberos => "Kerberos",
        AuthMethod::Xauth => "XAuth",
    };
    let id = (round.id != Identity::Any).then(|| identity::display(&round.id));
    let nothing = [""; 0];
    Message::new()
        .with_some("id", id)
        .with("class", class)
        .with_list("groups", nothing)
        .with_list("cert_policy", nothing)
        .with_list("certs", nothing)
        .with_list("cacerts", nothing)
}

fn child(child: &Child) -> Message {
    Message::new()
        .with("mode", display::mode(child.mode).to_uppercase())
        .with("rekey_time", child.rekey_time.as_secs())
        .with("rekey_bytes", child.rekey_limits.bytes.unwrap_or(0))
        .with("rekey_packets", child.rekey_limits.packets.unwrap_or(0))
        .with("dpd_action", display::action(child.dpd_action))
        .with("close_action", display::action(child.close_action))
        .with_list("local-ts", child.local_ts.iter().map(display::configured))
        .with_list("remote-ts", child.remote_ts.iter().map(display::configured))
}

/// The event `list-policy`: an installed policy of a child. That of a `soft` SA lets pass.
pub fn policy(connection: &str, child: &Child, soft: bool) -> Message {
    let mode = if soft { ChildMode::Pass } else { child.mode };
    let section = Message::new()
        .with("child", &child.name)
        .with("ike", connection)
        .with("mode", display::mode(mode).to_uppercase())
        .with_flag("unprotected", soft)
        .with_list("local-ts", child.local_ts.iter().map(display::configured))
        .with_list("remote-ts", child.remote_ts.iter().map(display::configured));
    Message::new().with_section(&format!("{connection}/{}", child.name), section)
}

/// What the dataplane knows of one direction of a pair.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Bytes of inner packets.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Since the last packet, if there was one.
    pub last: Option<Duration>,
}

/// What the dataplane knows of a pair.
#[derive(Clone, Copy, Debug, Default)]
pub struct PairTraffic {
    /// From the peer.
    pub inbound: Traffic,
    /// To the peer.
    pub outbound: Traffic,
    /// The longest packet, in bytes, that goes into the tunnel to the peer whole; 0 while none does.
    pub mtu: u16,
}

/// The event `list-sa`: an IKE SA and its Child SAs.
pub fn sa(view: &IkeSaView, traffic: impl Fn(PairId) -> PairTraffic) -> Message {
    let children = view.children.iter().map(|c| (c, child_sa(c, &traffic)));
    named(view, with_children(ike_sa(view), children))
}

/// The event `list-sa` of a soft SA, of which charon knows nothing: an IKE SA that is none, with one child in the state `UNPROTECTED`.
/// `left` is how long its packets go in clear yet.
pub fn soft_sa(connection: &Connection, child: &Child, left: Duration) -> Message {
    let version = match connection.version {
        Version::Ikev1 => 1,
        Version::Any | Version::Ikev2 => 2,
    };
    let section = Message::new()
        .with("name", &child.name)
        .with("uniqueid", 0)
        .with("reqid", 0)
        .with("state", UNPROTECTED)
        .with("mode", "PASS")
        .with("protocol", "NONE")
        .with("spi-in", "00000000")
        .with("spi-out", "00000000")
        .with("bytes-in", 0)
        .with("packets-in", 0)
        .with("bytes-out", 0)
        .with("packets-out", 0)
        .with("install-time", 0)
        .with("life-time", left.as_secs())
        .with_list("local-ts", child.local_ts.iter().map(display::configured))
        .with_list("remote-ts", child.remote_ts.iter().map(display::configured));
    let ike = Message::new()
        .with("uniqueid", 0)
        .with("version", version)
        .with("state", UNPROTECTED)
        .with("local-host", display::endpoints(&connection.local_addrs))
        .with("local-port", connection.local_port)
        .with("local-id", identity::display(&connection.local.id))
        .with("remote-host", display::endpoints(&connection.remote_addrs))
        .with("remote-port", connection.remote_port)
        .with("remote-id", identity::display(&connection.remote.id))
        .with("initiator-spi", "0000000000000000")
        .with("responder-spi", "0000000000000000");
    let children = Message::new().with_section(&format!("{}-soft", child.name), section);
    Message::new().with_section(&connection.name, ike.with_section("child-sas", children))
}

/// What a soft SA is in.
const UNPROTECTED: &str = "UNPROTECTED";

/// The event `ike-updown`.
pub fn ike_updown(up: bool, view: &IkeSaView) -> Message {
    let section = ike_sa(view);
    Message::new().with_flag("up", up).with_section(&view.connection, section)
}

/// The event `ike-rekey`.
pub fn ike_rekey(old: &IkeSaView, new: &IkeSaView) -> Message {
    let both = Message::new().with_section("old", ike_sa(old)).with_section("new", ike_sa(new));
    named(new, both)
}

/// The event `child-updown`.
pub fn child_updown(
    up: bool,
    view: &IkeSaView,
    child: &ChildSaView,
    traffic: impl Fn(PairId) -> PairTraffic,
) -> Message {
    let section = with_children(ike_sa(view), [(child, child_sa(child, &traffic))]);
    Message::new().with_flag("up", up).with_section(&view.connection, section)
}

/// The event `child-rekey`.
pub fn child_rekey(
    view: &IkeSaView,
    old: &ChildSaView,
    new: &ChildSaView,
    traffic: impl Fn(PairId) -> PairTraffic,
) -> Message {
    let both = Message::new()
        .with_section("old", child_sa(old, &traffic))
        .with_section("new", child_sa(new, &traffic));
    let children = Message::new().with_section(&old.name, both);
    named(view, ike_sa(view).with_section("child-sas", children))
}

fn named(view: &IkeSaView, section: Message) -> Message {
    Message::new().with_section(&view.connection, section)
}

fn with_children<'a>(
    ike: Message,
    children: impl IntoIterator<Item = (&'a ChildSaView, Message)>,
) -> Message {
    let mut section = Message::new();
    for (view, message) in children {
        section.push_section(&format!("{}-{}", view.name, view.pair.0), message);
    }
    ike.with_section("child-sas", section)
}

fn ike_sa(view: &IkeSaView) -> Message {
    let id = |id: &Option<Identity>| {
        // charon shows the identity that it knows, %any before it does.
        identity::display(id.as_ref().unwrap_or(&Identity::Any))
    };
    let seconds = |time: Option<Duration>| time.map(|t| t.as_secs());
    let message = Message::new()
        .with("uniqueid", view.id.0)
        .with("version", view.version)
        .with("state", view.state.name())
        .with("local-host", view.path.local.ip())
        .with("local-port", view.path.local.port())
        .with("local-id", id(&view.local_id))
        .with("remote-host", view.path.remote.ip())
        .with("remote-port", view.path.remote.port())
        .with("remote-id", id(&view.remote_id))
        .with_flag("initiator", view.role == Role::Initiator)
        .with("initiator-spi", format_args!("{:016x}", view.spi_i))
        .with("responder-spi", format_args!("{:016x}", view.spi_r))
        .with_flag("nat-local", view.nat_local)
        .with_flag("nat-remote", view.nat_remote)
        .with_flag("nat-any", view.nat_local || view.nat_remote);
    let vips = [("local-vips", &view.local_vips), ("remote-vips", &view.remote_vips)];
    let message = vips
        .into_iter()
        .filter(|(_, vips)| !vips.is_empty())
        .fold(message, |m, (name, vips)| m.with_list(name, vips.iter().map(ToString::to_string)));
    algorithms(message, view.suite.as_ref())
        .with_some("established", seconds(view.age))
        .with_some("rekey-time", seconds(view.rekey_in))
        .with_some("reauth-time", seconds(view.reauth_in))
        .with_some("life-time", seconds(view.expires_in))
}

fn algorithms(message: Message, suite: Option<&Chosen>) -> Message {
    let Some(suite) = suite else { return message };
    let bits = suite.encryption.map(|e| e.key_bits).filter(|bits| *bits != 0);
    // Not a key of charon's; the names themselves stay as clients know them.
    let message = match suite.is_weak() {
        true => message.with_list("weak", suite.weak_names()),
        false => message,
    };
    message
        .with_some("encr-alg", suite.encryption.map(|e| encryption_name(e.id)))
        .with_some("encr-keysize", bits)
        .with_some("integ-alg", suite.integrity.map(integrity_name))
        .with_some("prf-alg", suite.prf.map(prf_name))
        .with_some("dh-group", suite.group.map(group_name))
        .with_some("esn", suite.esn.then_some(1))
}

fn child_sa(view: &ChildSaView, traffic: &impl Fn(PairId) -> PairTraffic) -> Message {
    let PairTraffic { inbound, outbound, mtu } = traffic(view.pair);
    let seconds = |time: Option<Duration>| time.map(|t| t.as_secs());
    let halves = |half: fn(&Selector) -> String| view.selectors.iter().map(half).collect();
    let local: BTreeSet<String> = halves(display::local);
    let remote: BTreeSet<String> = halves(display::remote);
    let message = Message::new()
        .with("name", &view.name)
        .with("uniqueid", view.pair.0)
        // Culvert has no reqids; clients expect a number.
        .with("reqid", view.pair.0)
        .with("state", view.state.name())
        .with(
            "mode",
            match view.mode {
                Mode::Transport => "TRANSPORT",
                Mode::Tunnel => "TUNNEL",
            },
        )
        .with(
            "protocol",
            match view.protocol {
                Protocol::Ah => "AH",
                Protocol::Esp => "ESP",
            },
        )
        .with_flag("encap", view.encap)
        .with("spi-in", format_args!("{:08x}", view.spi_in.get()))
        .with("spi-out", format_args!("{:08x}", view.spi_out.get()));
    algorithms(message, Some(&view.suite))
        .with("bytes-in", inbound.bytes)
        .with("packets-in", inbound.packets)
        .with_some("use-in", seconds(inbound.last))
        .with("bytes-out", outbound.bytes)
        .with("packets-out", outbound.packets)
        .with_some("use-out", seconds(outbound.last))
        // Not charon's.
        .with_some("mtu", (mtu != 0).then_some(mtu))
        .with_some("rekey-time", seconds(view.rekey_in))
        .with_some("life-time", seconds(view.expires_in))
        .with("install-time", view.age.as_secs())
        .with_list("local-ts", local)
        .with_list("remote-ts", remote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_charon_does() {
        let at = |seconds| calendar(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "Jan 01 00:00:00 1970");
        assert_eq!(at(951_782_400), "Feb 29 00:00:00 2000");
        // date -u -d '2026-11-20 22:40:35' +%s
        assert_eq!(at(1_795_214_435), "Nov 20 22:40:35 2026");
        assert_eq!(in_words(Duration::from_secs(18)), "18 seconds");
        assert_eq!(in_words(Duration::from_secs(7300)), "2 hours");
    }

    #[test]
    fn outcomes_of_terminate() {
        let error = |matches, done| {
            terminated(matches, done).text("errmsg").map(str::to_owned).unwrap_or_default()
        };
        assert_eq!(error(0, 0), "no matching SAs to terminate found");
        assert_eq!(error(1, 0), "terminating SA failed");
        assert_eq!(error(3, 1), "not all matching SAs could be terminated");
        assert_eq!(error(3, 3), "");
        assert_eq!(terminated(3, 3).text("terminated"), Some("3"));
    }
}
