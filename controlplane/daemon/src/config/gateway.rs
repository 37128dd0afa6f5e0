//! `gateway`: what swanctl.conf has no words for.

use super::diagnostic::Diagnostics;
use super::fields::Fields;
use super::filters::{self, Filters};
use super::syntax::{Section, Value};
use super::{keys, value};
use core::num::NonZeroU16;
use core::time::Duration;
use ike::config::Settings;
use std::path::PathBuf;

/// How a port talks to its device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortMode {
    /// Zero copy where the driver has it, else native copy, else generic.
    #[default]
    Auto,
    /// Zero copy or an error.
    ZeroCopy,
    /// The native driver with copying, or an error.
    Copy,
    /// The generic hook of the stack.
    Generic,
}

impl PortMode {
    /// As it is configured.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::ZeroCopy => "zerocopy",
            Self::Copy => "copy",
            Self::Generic => "generic",
        }
    }
}

/// A device that AF_XDP takes packets from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The name of its section.
    pub name: String,
    /// The device that has the port's addresses, routes and neighbours.
    pub interface: String,
    /// The device whose queues are opened; `None` is the same.
    pub device: Option<String>,
    /// The tag of its frames.
    pub vlan: Option<NonZeroU16>,
    /// How many queues are used; `None` is all that the device has.
    pub queues: Option<u16>,
    /// How.
    pub mode: PortMode,
}

/// What a worker without packets does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Sleeps until it is woken.
    #[default]
    Sleep,
    /// Polls on.
    Spin,
}

/// What holds for protected traffic while the daemon is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// It stays blocked.
    #[default]
    Closed,
    /// It passes as the host's routes have it, in clear.
    Open,
}

/// Bounds; `None` is the default of whoever holds the things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayLimits {
    /// SAs of each direction that one worker can own.
    pub sas: Option<usize>,
    /// Packets of one worker that wait for an SA or a next hop.
    pub waiting_packets: Option<usize>,
    /// Of these, for one policy, SPI or next hop.
    pub waiting_per_policy: Option<usize>,
    /// ICMP errors of one worker in a second.
    pub icmp_per_second: Option<u32>,
    /// Of these, at once after a time without any.
    pub icmp_burst: Option<u32>,
}

/// The `gateway` section; what is `None` the daemon works out at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Worker cores.
    pub workers: Option<u16>,
    /// Ports in the order of the file; none means those that the connections' addresses tell.
    pub ports: Vec<Port>,
    /// The TUN.
    pub host_interface: Option<String>,
    /// The statistics segment.
    pub statistics_file: Option<PathBuf>,
    /// The control socket.
    pub vici_socket: Option<PathBuf>,
    /// Bounds.
    pub limits: GatewayLimits,
    /// Workers without packets.
    pub idle: Idle,
    /// While the daemon is down.
    pub on_failure: OnFailure,
    /// Whether unauthenticated ICMP errors may lower the MTU of a path (RFC 4301 §6.1.1).
    pub icmp_path_mtu: bool,
    /// What is said of children beyond swanctl.conf's words.
    pub filters: Filters,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            workers: None,
            ports: Vec::new(),
            host_interface: None,
            statistics_file: None,
            vici_socket: None,
            limits: GatewayLimits::default(),
            idle: Idle::default(),
            on_failure: OnFailure::default(),
            icmp_path_mtu: true,
            filters: Filters::default(),
        }
    }
}

/// The TUN's name unless configured.
pub const DEFAULT_HOST_INTERFACE: &str = "culvert0";
/// The statistics segment unless configured.
pub const DEFAULT_STATISTICS_FILE: &str = "/run/culvert/stats";
/// The control socket unless configured.
pub const DEFAULT_VICI_SOCKET: &str = "/run/culvert/vici";

impl Gateway {
    /// The settings that differ in `new` and that a running daemon cannot take over.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let Self {
            workers,
            ports,
            host_interface,
            statistics_file,
            vici_socket,
            limits,
            idle,
            on_failure,
            icmp_path_mtu,
            // A reload is enough for these.
            filters: _,
        } = self;
        [
            ("gateway.workers", *workers != new.workers),
            ("gateway.ports", *ports != new.ports),
            ("gateway.host", *host_interface != new.host_interface),
            ("gateway.statistics", *statistics_file != new.statistics_file),
            ("gateway.vici", *vici_socket != new.vici_socket),
            ("gateway.limits", *limits != new.limits),
            ("gateway.idle", *idle != new.idle),
            ("gateway.on_failure", *on_failure != new.on_failure),
            ("gateway.icmp_path_mtu", *icmp_path_mtu != new.icmp_path_mtu),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

/// More queues or workers than any host has cores, so that a typing error is found.
const MAX_CORES: u64 = 1024;

/// Reads the `gateway` section, with the engine's settings in it.
pub(crate) fn resolve(section: &Section, findings: &mut Diagnostics) -> (Gateway, Settings) {
    let mut settings = Settings::default();
    let mut f = Fields::new(section, keys::GATEWAY, "gateway".to_owned(), findings);
    f.check(|_| false);
    f.check_sections("ports, host, statistics, vici, limits, ike, filters", |name| {
        ["ports", "host", "statistics", "vici", "limits", "ike", "filters"].contains(&name)
    });
    let mut gateway = Gateway {
        workers: f.number("workers", 1, MAX_CORES).and_then(|n| u16::try_from(n).ok()),
        idle: f.word("idle", &[("sleep", Idle::Sleep), ("spin", Idle::Spin)]).unwrap_or_default(),
        on_failure: f
            .word("on_failure", &[("closed", OnFailure::Closed), ("open", OnFailure::Open)])
            .unwrap_or_default(),
        icmp_path_mtu: f.boolean("icmp_path_mtu").unwrap_or(true),
        ..Gateway::default()
    };
    settings.clamp_mss = f.boolean("clamp_mss").unwrap_or(false);
    settings.legacy = f.boolean("legacy").unwrap_or(false);
    settings.aggressive_psk = f.boolean("aggressive_psk_for_anyone_to_guess").unwrap_or(false);
    if let Some(ports) = section.section("ports") {
        gateway.ports = self::ports(ports, findings);
    }
    if let Some(section) = section.section("filters") {
        gateway.filters = filters::resolve(section, findings);
    }
    if let Some(mut f) = part(section, "host", keys::HOST, findings) {
        gateway.host_interface = interface(&mut f);
    }
    if let Some(mut f) = part(section, "statistics", keys::STATISTICS, findings) {
        gateway.statistics_file = path(&mut f, "file");
    }
    if let Some(mut f) = part(section, "vici", keys::VICI, findings) {
        gateway.vici_socket = path(&mut f, "socket");
    }
    if let Some(mut f) = part(section, "limits", keys::LIMITS, findings) {
        let mut bound = |key, high| f.number(key, 1, high).and_then(|n| usize::try_from(n).ok());
        if let Some(half_open) = bound("half_open", 10_000_000) {
            settings.half_open_limit = half_open;
        }
        gateway.limits = GatewayLimits {
            sas: bound("sas", 1 << 24),
            waiting_packets: bound("waiting_packets", 1 << 20),
            waiting_per_policy: bound("waiting_per_policy", 1 << 20),
            icmp_per_second: bound("icmp_per_second", 1 << 20).and_then(|n| n.try_into().ok()),
            icmp_burst: bound("icmp_burst", 1 << 20).and_then(|n| n.try_into().ok()),
        };
    }
    if let Some(mut f) = part(section, "ike", keys::IKE, findings) {
        ike(&mut f, &mut settings);
    }
    (gateway, settings)
}

fn part<'a>(
    section: &'a Section,
    name: &str,
    keys: &'static [keys::Key],
    findings: &'a mut Diagnostics,
) -> Option<Fields<'a>> {
    let part = section.section(name)?;
    let mut f = Fields::new(part, keys, format!("gateway.{name}"), findings);
    f.check(|_| false);
    f.check_sections("", |_| false);
    Some(f)
}

fn interface(f: &mut Fields<'_>) -> Option<String> {
    interface_of(f, "interface")
}

fn interface_of(f: &mut Fields<'_>, key: &str) -> Option<String> {
    let wanted = "the name of an interface (up to 15 characters)";
    f.parse(key, wanted, |text| value::is_interface(text).then(|| text.to_owned()))
}

fn path(f: &mut Fields<'_>, key: &str) -> Option<PathBuf> {
    f.parse(key, "an absolute path", |text| {
        let path = PathBuf::from(text.strip_prefix("unix://").unwrap_or(text));
        path.is_absolute().then_some(path)
    })
}

fn ports(section: &Section, findings: &mut Diagnostics) -> Vec<Port> {
    for setting in &section.settings {
        let path = format!("gateway.ports.{}", setting.key);
        let value = match &setting.value {
            Some(Value::Text(text)) => text.as_str(),
            _ => "DEVICE",
        };
        let key = &setting.key;
        let message = format!("a port is a section; write '{key} {{ interface = {value} }}'");
        findings.error(&setting.at, &path, message);
    }
    let mut ports: Vec<Port> = Vec::new();
    for port in &section.sections {
        let path = format!("gateway.ports.{}", port.name);
        let mut f = Fields::new(port, keys::PORT, path, findings);
        f.check(|_| false);
        f.check_sections("", |_| false);
        let interface = interface(&mut f).unwrap_or_else(|| port.name.clone());
        if !value::is_interface(&interface) {
            f.error("interface", "missing: the section's name is not one of an interface");
        }
        if let Some(other) = ports.iter().find(|p| p.interface == interface) {
            let message =
                format!("'{interface}' is the interface of port '{}' already", other.name);
            f.error("interface", message);
        }
        let device = interface_of(&mut f, "device");
        let opened = device.as_ref().unwrap_or(&interface);
        let vlan =
            f.number("vlan", 1, 4094).and_then(|n| u16::try_from(n).ok()).and_then(NonZeroU16::new);
        let mode = f
            .word(
                "mode",
                &[
                    ("auto", PortMode::Auto),
                    ("zerocopy", PortMode::ZeroCopy),
                    ("copy", PortMode::Copy),
                    ("generic", PortMode::Generic),
                ],
            )
            .unwrap_or_default();
        // A device has one set of sockets; its ports tell their frames by the tag.
        for other in ports.iter().filter(|p| p.device.as_ref().unwrap_or(&p.interface) == opened) {
            if other.interface == interface {
                continue;
            }
            if other.vlan == vlan {
                let message = match vlan {
                    Some(vlan) => {
                        format!("VLAN {vlan} of '{opened}' is port '{}' already", other.name)
                    }
                    None => format!("'{opened}' is the device of port '{}' already", other.name),
                };
                f.error("device", message);
            }
            if other.mode != mode {
                let message =
                    format!("not the mode of port '{}', which has the same device", other.name);
                f.error("mode", message);
            }
        }
        ports.push(Port {
            name: port.name.clone(),
            interface,
            device,
            vlan,
            queues: f.number("queues", 1, MAX_CORES).and_then(|n| u16::try_from(n).ok()),
            mode,
        });
    }
    ports
}

fn ike(f: &mut Fields<'_>, settings: &mut Settings) {
    let seconds = |t: &str| value::fractional_duration(t);
    let positive = |t: &str| value::fractional_duration(t).filter(|d| !d.is_zero());
    let wanted = "a time in seconds, such as 4.0";
    if let Some(timeout) = f.parse("retransmit_timeout", wanted, positive) {
        settings.retransmit_timeout = timeout;
    }
    let base = |t: &str| value::decimal(t).filter(|b| (1.0..=10.0).contains(b));
    if let Some(base) = f.parse("retransmit_base", "a number from 1.0 to 10.0", base) {
        settings.retransmit_base = base;
    }
    if let Some(tries) = f.number("retransmit_tries", 0, 100) {
        settings.retransmit_tries = u32::try_from(tries).unwrap_or(5);
    }
    for (key, place) in [
        ("cookie_threshold", &mut settings.cookie_threshold),
        ("block_threshold", &mut settings.block_threshold),
    ] {
        if let Some(count) = f.number(key, 0, 10_000_000) {
            *place = usize::try_from(count).unwrap_or(usize::MAX);
        }
    }
    if let Some(timeout) = f.parse("half_open_timeout", wanted, positive) {
        settings.half_open_timeout = timeout;
    }
    if let Some(timeout) = f.parse("kerberos_timeout", wanted, positive) {
        settings.gss_timeout = timeout;
    }
    if let Some(interval) = f.parse("keep_alive", wanted, seconds) {
        settings.keep_alive = interval;
    }
    // RFC 7383 §2.5.1: an IKE SA must work with 576 bytes (IPv4); charon's 0 is a default, too.
    if let Some(size) =
        f.parse("fragment_size", "0 for the default or a number from 576 to 65535", |t| {
            value::number(t).filter(|n| *n == 0 || (576..=65_535).contains(n))
        })
        && size != 0
    {
        settings.fragment_size = usize::try_from(size).unwrap_or(1280);
    }
    for (key, place) in [("port", &mut settings.port), ("port_nat_t", &mut settings.port_nat_t)] {
        if let Some(port) = f.number(key, 1, u16::MAX.into()) {
            *place = u16::try_from(port).unwrap_or(*place);
        }
    }
    if settings.port == settings.port_nat_t {
        f.error("port_nat_t", "must differ from port");
    }
}

/// The longest time that a request is repeated before its peer is given up.
pub fn patience(settings: &Settings) -> Duration {
    let mut total = Duration::ZERO;
    let mut step = settings.retransmit_timeout.as_secs_f64();
    for _ in 0..=settings.retransmit_tries {
        total = total.saturating_add(Duration::try_from_secs_f64(step).unwrap_or(Duration::MAX));
        step *= settings.retransmit_base;
    }
    total
}
