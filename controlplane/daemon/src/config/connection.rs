//! `connections`: from settings to [`ike::config::Connection`].
//!
//! Sections of files and `load-conn` of VICI come through here alike.

use super::credentials::Files;
use super::diagnostic::{Diagnostics, Location};
use super::fields::{Fields, shown};
use super::keys;
use super::syntax::Section;
use super::value::{self, Endpoint};
use super::{LeftOut, authentication};
use core::time::Duration;
use ike::config::{
    AuthMethod, Child, ChildAction, ChildMode, Connection, Fragmentation, SendCertificate,
    Settings, TrafficSelector, Unique, Version,
};
use ike::proposal::{Proposal, ProposalError, ProposalProtocol, Weak};
use ipsec::sa::{DfRule, DscpRule, HeaderRules, Limits, Mode, TfcRule};
use ipsec::selector::{AddressRange, Ports};
use std::sync::Arc;

/// Traffic selectors of one side of a child: RFC 7296 §3.13 counts them in one octet.
pub(super) const MAX_SELECTORS: usize = 255;

/// What a section under `connections` comes to.
pub(crate) enum Resolved {
    /// A connection; complete only if no error was found.
    Connection(Box<Connection>),
    /// It needs what cannot be done.
    LeftOut(LeftOut),
}

/// Resolves one connection.
pub(crate) fn resolve(
    section: &Section,
    settings: &Settings,
    files: &Files<'_>,
    findings: &mut Diagnostics,
) -> Resolved {
    let path = format!("connections.{}", section.name);
    let left_out = unsupported_authentication(section);
    let second = |side| section.sections.iter().filter(move |s| is_round(&s.name, side)).nth(1);
    let mut f = Fields::new(section, keys::CONNECTION, path, findings).lenient(left_out.is_some());
    f.check(|_| false);
    f.check_sections("local, remote, children", |name| {
        name == "children" || is_round(name, "local") || is_round(name, "remote")
    });

    let version = f
        .word("version", &[("0", Version::Any), ("1", Version::Ikev1), ("2", Version::Ikev2)])
        .unwrap_or_default();
    let local_addrs = endpoints(&mut f, "local_addrs");
    let remote_addrs = endpoints(&mut f, "remote_addrs");
    let local_port = port(&mut f, "local_port").unwrap_or(settings.port);
    if local_port != settings.port && local_port != settings.port_nat_t {
        let message = format!(
            "the sockets are bound to {} and {} only; change gateway.ike.port instead",
            settings.port, settings.port_nat_t
        );
        f.error("local_port", message);
    }
    let remote_port = port(&mut f, "remote_port").unwrap_or(500);
    let weak = Weak { allowed: settings.legacy, ikev1: version == Version::Ikev1 };
    let proposals = proposals(&mut f, "proposals", ProposalProtocol::Ike, weak).unwrap_or_default();
    if version == Version::Ikev1 && !proposals.is_empty() {
        let usable = proposals.iter().any(Proposal::is_for_ikev1);
        if !usable {
            f.error("proposals", "IKEv1 has no combined modes and no PRF but the hash's: name cipher, hash and group, as in aes256-sha256-modp2048");
        }
    }
    let aggressive = aggressive(&mut f, version, settings);
    let encap = f.boolean("encap").unwrap_or(false);
    let mobike = f.boolean("mobike").unwrap_or(true);
    let fragmentation = f
        .word(
            "fragmentation",
            &[
                ("yes", Fragmentation::Yes),
                ("accept", Fragmentation::Accept),
                ("force", Fragmentation::Force),
                ("no", Fragmentation::No),
            ],
        )
        .unwrap_or_default();
    let dpd_delay = f.duration("dpd_delay").unwrap_or_default();
    let dpd_timeout = f.duration("dpd_timeout").unwrap_or_default();
    let unique = f
        .word(
            "unique",
            &[
                ("never", Unique::Never),
                ("no", Unique::No),
                ("replace", Unique::Replace),
                ("keep", Unique::Keep),
            ],
        )
        .unwrap_or_default();
    let keyingtries = f.number("keyingtries", 0, u32::MAX.into()).unwrap_or(1);
    let times = ike_times(&mut f);

    let send_certificate = f
        .word(
            "send_cert",
            &[
                ("ifasked", SendCertificate::IfAsked),
                ("always", SendCertificate::Always),
                ("never", SendCertificate::Never),
            ],
        )
        .unwrap_or_default();
    let request_certificate = f.boolean("send_certreq").unwrap_or(true);
    // The files of one that is left out are nobody's.
    let files = left_out.is_none().then_some(files);
    let local = authentication::round(&mut f, "local", files);
    let remote = authentication::round(&mut f, "remote", files);
    let hybrid = [local.method, remote.method].contains(&AuthMethod::Xauth);
    if version == Version::Ikev1 && local.method != remote.method && !hybrid {
        f.error("version", "IKEv1 has one method for both sides; write the same `auth` in both");
    }
    if aggressive && local.method == AuthMethod::Kerberos {
        f.error("aggressive", "aggressive mode has no Kerberos here: leave it away");
    }
    if version != Version::Ikev1 && [local.method, remote.method].contains(&AuthMethod::Kerberos) {
        f.error("version", "`auth = kerberos` is IKEv1's: it needs `version = 1`");
    }
    let asked = second("local").filter(|_| left_out.is_none());
    let asks = second("remote").filter(|_| left_out.is_none());
    let xauth = match left_out {
        None => authentication::xauth(&mut f, asked, asks, [&local, &remote]),
        Some(_) => None,
    };
    if xauth.is_some() && version != Version::Ikev1 {
        f.error("version", "only IKEv1 has XAuth");
    }
    let vips = addresses(&mut f, "vips");
    let pools: Vec<String> = f.list("pools").into_iter().map(str::to_owned).collect();
    let push = !f.boolean("pull").unwrap_or(true);
    if push && version != Version::Ikev1 {
        f.error("pull", "only IKEv1 has a push mode");
    }
    if [true, false].iter().any(|v4| vips.iter().filter(|vip| vip.is_ipv4() == *v4).count() > 1) {
        f.error("vips", "one address of each family at most");
    }
    let children = children(&mut f, &remote_addrs, settings, weak);

    if let Some(reason) = left_out {
        let message = format!("left out: {}", reason.message);
        f.findings.warn(
            &reason.at,
            &format!("connections.{}.{}", section.name, reason.key),
            message,
        );
        return Resolved::LeftOut(LeftOut {
            name: section.name.clone(),
            reason: reason.message.to_owned(),
            children,
        });
    }
    Resolved::Connection(Box::new(Connection {
        name: section.name.clone(),
        version,
        local_addrs,
        remote_addrs,
        local_port,
        remote_port,
        proposals,
        local,
        remote,
        children,
        aggressive,
        xauth,
        vips,
        pools,
        push,
        encap,
        mobike,
        fragmentation,
        dpd_delay,
        dpd_timeout,
        rekey_time: times.rekey,
        reauth_time: times.reauth,
        over_time: times.over,
        rand_time: times.rand,
        send_certificate,
        request_certificate,
        unique,
        keyingtries: u32::try_from(keyingtries).unwrap_or(u32::MAX),
    }))
}

/// `local`, `local-1`, `local1` and the like.
pub(super) fn is_round(name: &str, side: &str) -> bool {
    name.get(..side.len()).is_some_and(|start| start.eq_ignore_ascii_case(side))
}

struct Unsupported {
    at: Location,
    key: String,
    message: &'static str,
}

/// Authentication that the engine has no state machine for: the connection could never come up.
fn unsupported_authentication(section: &Section) -> Option<Unsupported> {
    for side in ["local", "remote"] {
        let mut rounds = section.sections.iter().filter(|s| is_round(&s.name, side));
        let first = rounds.next();
        let is_ikev1 = text_of(section, "version") == Some("1");
        let is_xauth = |s: &Section| {
            text_of(s, "auth").is_some_and(|auth| auth.to_ascii_lowercase().starts_with("xauth"))
        };
        let xauth = |s: &&Section| is_ikev1 && is_xauth(s);
        let second = rounds.next();
        let third = rounds.next();
        if let Some(second) = third.or(second.filter(|second| !xauth(second))) {
            return Some(Unsupported {
                at: second.at.clone(),
                key: second.name.clone(),
                message: "a second authentication round (RFC 4739, XAuth) is not supported yet",
            });
        }
        let auth = first.and_then(|s| s.settings.iter().find(|s| s.key == "auth"));
        if let (Some(round), Some(auth)) = (first, auth)
            && let Some(super::syntax::Value::Text(text)) = &auth.value
        {
            let lower = text.as_str().to_ascii_lowercase();
            let message = if lower.starts_with("eap") {
                "EAP is not supported yet"
            } else if lower.starts_with("xauth") && !is_ikev1 {
                "only IKEv1 has XAuth"
            } else {
                continue;
            };
            let key = format!("{}.auth", round.name);
            return Some(Unsupported { at: auth.at.clone(), key, message });
        }
    }
    None
}

/// A key that may be written once.
fn text_of<'a>(section: &'a Section, key: &str) -> Option<&'a str> {
    let setting = section.settings.iter().find(|s| s.key == key)?;
    match &setting.value {
        Some(super::syntax::Value::Text(text)) => Some(text.as_str()),
        _ => None,
    }
}

fn addresses(f: &mut Fields<'_>, key: &str) -> Vec<core::net::IpAddr> {
    let mut found = Vec::new();
    for item in f.list(key) {
        match item.parse() {
            Ok(address) => found.push(address),
            Err(_) => f.error(key, format!("'{}' is not an address", shown(item))),
        }
    }
    found
}

fn endpoints(f: &mut Fields<'_>, key: &str) -> Vec<AddressRange> {
    let mut ranges = Vec::new();
    let mut any = false;
    for item in f.list(key) {
        match value::endpoint(item) {
            Endpoint::Any => any = true,
            Endpoint::Addresses(range) => ranges.push(range),
            Endpoint::Name => {
                let message = format!(
                    "'{}' is not an address, a prefix or a range; host names are not looked up",
                    shown(item)
                );
                f.error(key, message);
            }
        }
    }
    // `%any` accepts every address, but a single one beside it still says where to initiate.
    if any && !ranges.is_empty() {
        for whole in ["0.0.0.0", "::"] {
            ranges.extend(whole.parse().ok().and_then(|a| AddressRange::prefix(a, 0)));
        }
    }
    ranges
}

/// `aggressive`, with a word about what it gives away.
fn aggressive(f: &mut Fields<'_>, version: Version, settings: &Settings) -> bool {
    let wanted = f.boolean("aggressive").unwrap_or(false);
    if wanted && version != Version::Ikev1 {
        f.warn("aggressive", "has no effect: only IKEv1 has an aggressive mode");
        return false;
    }
    if wanted {
        let psk = match settings.aggressive_psk {
            true => "and a weak preshared key can be guessed by whoever asks",
            false => {
                "and with preshared keys it is not answered without gateway.aggressive_psk_for_anyone_to_guess"
            }
        };
        f.warn("aggressive", format!("shows both identities to everyone on the path, {psk}"));
    }
    wanted
}

fn port(f: &mut Fields<'_>, key: &str) -> Option<u16> {
    f.number(key, 1, u16::MAX.into()).and_then(|n| u16::try_from(n).ok())
}

/// Proposals of `key`, `None` when it is not set; an error is reported when none can be done.
fn proposals(
    f: &mut Fields<'_>,
    key: &str,
    protocol: ProposalProtocol,
    weak: Weak,
) -> Option<Vec<Proposal>> {
    if !f.has(key) {
        return (protocol != ProposalProtocol::Ah).then(|| Proposal::defaults(protocol));
    }
    let mut proposals = Vec::new();
    let mut left_out = Vec::new();
    let mut wrong = false;
    for item in f.list(key) {
        if item == "default" {
            proposals.extend(Proposal::defaults(protocol));
            continue;
        }
        match Proposal::parse_with(protocol, item, weak) {
            Ok(proposal) => {
                if proposal.is_weak() {
                    f.warn(key, format!("'{}' is weak", shown(item)));
                }
                proposals.push(proposal);
            }
            Err(error @ (ProposalError::Unsupported(_) | ProposalError::Weak(_))) => {
                left_out.push((item, error))
            }
            Err(error) => {
                wrong = true;
                f.error(key, format!("'{}': {error}", shown(item)));
            }
        }
    }
    if proposals.is_empty() && !wrong {
        let reasons: Vec<String> =
            left_out.iter().map(|(item, error)| format!("'{}': {error}", shown(item))).collect();
        let message = match reasons.is_empty() {
            true => "empty; leave the key away for the default".to_owned(),
            false => format!("none of the proposals can be done: {}", reasons.join("; ")),
        };
        f.error(key, message);
    } else {
        for (item, error) in left_out {
            f.warn(key, format!("'{}' is left out: {error}", shown(item)));
        }
    }
    Some(proposals)
}

struct IkeTimes {
    rekey: Duration,
    reauth: Duration,
    over: Duration,
    rand: Duration,
}

/// charon's defaults: they depend on each other.
fn ike_times(f: &mut Fields<'_>) -> IkeTimes {
    let reauth = f.duration("reauth_time");
    let rekey = f.duration("rekey_time").unwrap_or(match reauth {
        None => Duration::from_secs(4 * 3600),
        Some(_) => Duration::ZERO,
    });
    let reauth = reauth.unwrap_or_default();
    let longer = rekey.max(reauth);
    let over = f.duration("over_time").unwrap_or(whole_seconds(longer / 10));
    let rand = f.duration("rand_time").unwrap_or_else(|| {
        let shorter = if rekey.is_zero() || reauth.is_zero() { longer } else { rekey.min(reauth) };
        over.min(whole_seconds(shorter / 2))
    });
    IkeTimes { rekey, reauth, over, rand }
}

fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}

fn children(
    f: &mut Fields<'_>,
    remote_addrs: &[AddressRange],
    settings: &Settings,
    weak: Weak,
) -> Vec<Arc<Child>> {
    let Some(section) = f.section.section("children") else {
        return Vec::new();
    };
    let path = f.path_of("children");
    for setting in &section.settings {
        let message = "unknown key; 'children' has one section for each child";
        f.findings.error(&setting.at, &format!("{path}.{}", setting.key), message);
    }
    section
        .sections
        .iter()
        .map(|child| {
            let path = format!("{path}.{}", child.name);
            let mut c = Fields::new(child, keys::CHILD, path, f.findings);
            Arc::new(self::child(&mut c, remote_addrs, settings, weak))
        })
        .collect()
}

const ACTIONS: &[(&str, ChildAction)] = &[
    ("none", ChildAction::None),
    ("clear", ChildAction::None),
    ("trap", ChildAction::Trap),
    ("route", ChildAction::Trap),
    ("start", ChildAction::Start),
    ("restart", ChildAction::Start),
];

fn child(
    c: &mut Fields<'_>,
    remote_addrs: &[AddressRange],
    settings: &Settings,
    weak: Weak,
) -> Child {
    c.check(|_| false);
    c.check_sections("", |_| false);
    let mode = c
        .word(
            "mode",
            &[
                ("tunnel", Some(ChildMode::Protect(Mode::Tunnel))),
                ("transport", Some(ChildMode::Protect(Mode::Transport))),
                ("pass", Some(ChildMode::Pass)),
                ("drop", Some(ChildMode::Drop)),
                ("beet", None),
                ("transport_proxy", None),
            ],
        )
        .unwrap_or(Some(ChildMode::Protect(Mode::Tunnel)))
        .unwrap_or_else(|| {
            c.error("mode", "this mode is not supported; there are: tunnel, transport, pass, drop");
            ChildMode::Protect(Mode::Tunnel)
        });
    let local_ts = selectors(c, "local_ts");
    let remote_ts = selectors(c, "remote_ts");
    if !families_meet(&local_ts, &remote_ts) {
        c.error("remote_ts", "is of another address family than local_ts: no packet can match");
    }
    for (key, selectors) in [("local_ts", &local_ts), ("remote_ts", &remote_ts)] {
        if weak.ikev1 && !selectors.iter().all(TrafficSelector::is_for_ikev1) {
            c.warn(key, "IKEv1 says one port or all of them: quick modes for others cannot be asked for, only answered");
        }
    }
    let proposals = child_proposals(c, matches!(mode, ChildMode::Protect(_)), weak);
    let rekey_time = c.duration("rekey_time").unwrap_or(Duration::from_secs(3600));
    let life_time = c.duration("life_time").unwrap_or(whole_seconds(rekey_time * 11 / 10));
    if !life_time.is_zero() && life_time < rekey_time {
        c.warn("life_time", "is shorter than rekey_time, so the child ends instead of rekeying");
    }
    let rand_time = c.duration("rand_time").unwrap_or(life_time.saturating_sub(rekey_time));
    let bytes = volume(c, ["rekey_bytes", "life_bytes", "rand_bytes"], value::bytes);
    let packets = volume(c, ["rekey_packets", "life_packets", "rand_packets"], value::number);
    let start_action = start_action(c);
    if start_action != ChildAction::None
        && matches!(mode, ChildMode::Protect(_))
        && !remote_addrs.iter().any(|r| r.first() == r.last())
    {
        c.warn("start_action", "has no effect: remote_addrs has no single address to initiate to");
    }
    if matches!(mode, ChildMode::Pass | ChildMode::Drop) && start_action == ChildAction::None {
        c.warn(
            "start_action",
            "is 'none', so this policy is not installed; write start_action = trap",
        );
    }
    if mode == ChildMode::Protect(Mode::Transport) && c.has("tfc_padding") {
        c.warn(
            "tfc_padding",
            "has no effect: what is padded is the packet in a tunnel (RFC 4303 §2.7)",
        );
    }
    if c.text("hw_offload").is_some_and(|text| text.eq_ignore_ascii_case("yes")) {
        c.error("hw_offload", "not supported; write 'auto' or 'no'");
    }
    Child {
        name: c.section.name.clone(),
        local_ts,
        remote_ts,
        proposals,
        mode,
        start_action,
        close_action: c.word("close_action", ACTIONS).unwrap_or_default(),
        dpd_action: c.word("dpd_action", ACTIONS).unwrap_or_default(),
        rekey_time,
        life_time,
        rand_time,
        rekey_limits: Limits { bytes: bytes.rekey, packets: packets.rekey },
        rand_limits: Limits { bytes: bytes.rand, packets: packets.rand },
        life_limits: Limits { bytes: bytes.life, packets: packets.life },
        replay_window: match c.number("replay_window", 0, 65_536) {
            // The window works in words of at least 32; a wider one than asked for does no harm.
            Some(1..=31) | None => 32,
            Some(window) => u32::try_from(window).unwrap_or(32),
        },
        headers: headers(c, settings.clamp_mss),
        priority: c
            .number("priority", 0, u32::MAX.into())
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0),
        // A filter may allow it.
        unprotected: None,
        if_id: if_id(c),
        // As above.
        deliver_to_host: false,
    }
}

fn child_proposals(c: &mut Fields<'_>, protects: bool, weak: Weak) -> Vec<Proposal> {
    let ah = proposals(c, "ah_proposals", ProposalProtocol::Ah, weak);
    let esp = (ah.is_none() || c.has("esp_proposals"))
        .then(|| proposals(c, "esp_proposals", ProposalProtocol::Esp, weak))
        .flatten();
    if ah.is_some() && esp.is_some() {
        c.error("ah_proposals", "a child has AH or ESP proposals, not both: ESP over AH bundles are not done (RFC 4301 does not ask for them)");
    }
    let key = if ah.is_some() { "ah_proposals" } else { "esp_proposals" };
    let all = esp.iter().chain(&ah).flatten();
    if weak.ikev1 && all.clone().next().is_some() && !all.clone().any(Proposal::is_for_ikev1) {
        c.error(key, "IKEv1 has no number for any of these");
    }
    if protects { esp.or(ah).unwrap_or_default() } else { Vec::new() }
}

fn selectors(c: &mut Fields<'_>, key: &str) -> Vec<TrafficSelector> {
    if !c.has(key) {
        return vec![TrafficSelector { addresses: None, protocol: None, ports: Ports::Any }];
    }
    let items = c.list(key);
    if items.is_empty() {
        c.error(key, "empty; leave the key away for 'dynamic'");
    }
    if items.len() > MAX_SELECTORS {
        c.error(key, format!("more than {MAX_SELECTORS} selectors; use another child"));
    }
    let mut selectors = Vec::with_capacity(items.len());
    for item in items {
        match value::traffic_selector(item) {
            Ok(selector) => {
                if has_ports_in_vain(&selector) {
                    let what = "packets of this protocol show no ports, so it is for none of them";
                    c.warn(key, format!("'{}': {what}", shown(item)));
                }
                selectors.push(selector);
            }
            Err(error) => c.error(key, format!("'{}': {error}", shown(item))),
        }
    }
    selectors
}

/// Ports of a protocol that has none: of ICMP they are types (RFC 4301 §4.4.1.1).
fn has_ports_in_vain(selector: &TrafficSelector) -> bool {
    use wire::protocol::{DCCP, ICMP, ICMPV6, MOBILITY, SCTP, TCP, UDP, UDP_LITE};
    const WITH: [u8; 8] = [TCP, UDP, SCTP, UDP_LITE, DCCP, ICMP, ICMPV6, MOBILITY];
    matches!(selector.ports, Ports::Range(_))
        && selector.protocol.is_some_and(|p| !WITH.contains(&p))
}

fn families_meet(local: &[TrafficSelector], remote: &[TrafficSelector]) -> bool {
    let family = |ts: &TrafficSelector| ts.addresses.map(|a| a.first().is_ipv4());
    // With a selector missing for an error there is nothing to compare.
    local.is_empty()
        || remote.is_empty()
        || local.iter().any(|l| {
            remote.iter().any(|r| match (family(l), family(r)) {
                (Some(l), Some(r)) => l == r,
                _ => true,
            })
        })
}

/// `if_id_in` and `if_id_out`: one number, as a device is for both directions.
fn if_id(c: &mut Fields<'_>) -> Option<u32> {
    // 15 characters of a device's name have room for 7 digits behind `culvert-`.
    let mut id = |key| c.number(key, 0, 9_999_999).and_then(|n| u32::try_from(n).ok());
    let (inbound, outbound) = (id("if_id_in").unwrap_or(0), id("if_id_out").unwrap_or(0));
    if inbound != outbound {
        c.error("if_id_in", "must be the same number as if_id_out");
    }
    (outbound != 0).then_some(outbound)
}

/// A soft limit and the hard one, 110 % of it unless set; zero is none.
struct Volume {
    rekey: Option<u64>,
    life: Option<u64>,
    rand: Option<u64>,
}

/// A lifetime by volume, with charon's defaults: they depend on each other.
fn volume(
    c: &mut Fields<'_>,
    [soft, hard, jitter]: [&str; 3],
    parse: impl Fn(&str) -> Option<u64>,
) -> Volume {
    let wanted = if soft == "rekey_bytes" {
        "a number of bytes, or with k, m or g behind it"
    } else {
        "a number"
    };
    let rekey = c.parse(soft, wanted, &parse).unwrap_or(0);
    let life = c.parse(hard, wanted, &parse).unwrap_or_else(|| rekey.saturating_add(rekey / 10));
    if life > 0 && life < rekey {
        c.warn(hard, format!("is less than {soft}, so the child ends instead of rekeying"));
    }
    let rand = c.parse(jitter, wanted, &parse).unwrap_or_else(|| life.saturating_sub(rekey));
    let some = |count: u64| (count > 0).then_some(count);
    Volume { rekey: some(rekey), life: some(life), rand: some(rand) }
}

fn start_action(c: &mut Fields<'_>) -> ChildAction {
    let both = |text: &str| {
        let mut parts: Vec<String> =
            text.split('|').map(|p| p.trim().to_ascii_lowercase()).collect();
        parts.sort();
        parts == ["start", "trap"]
    };
    if c.text("start_action").is_some_and(both) {
        c.warn("start_action", "taken as 'trap': the child comes up with its first packet");
        return ChildAction::Trap;
    }
    c.word("start_action", ACTIONS).unwrap_or_default()
}

fn headers(c: &mut Fields<'_>, clamp_mss: bool) -> HeaderRules {
    let tfc =
        c.parse("tfc_padding", "a number of bytes up to 65535, or 'mtu'", |text| match text {
            "mtu" => Some(TfcRule::PathMtu),
            text => match u16::try_from(value::number(text)?).ok()? {
                0 => Some(TfcRule::None),
                len => Some(TfcRule::To(len)),
            },
        });
    let dscp = [
        ("out", DscpRule::Out),
        ("in", DscpRule::In),
        ("yes", DscpRule::Both),
        ("no", DscpRule::None),
    ];
    HeaderRules {
        df: if c.boolean("copy_df").unwrap_or(true) { DfRule::Copy } else { DfRule::Clear },
        dscp: c.word("copy_dscp", &dscp).unwrap_or_default(),
        ecn: c.boolean("copy_ecn").unwrap_or(true),
        tfc: tfc.unwrap_or_default(),
        clamp_mss,
    }
}
