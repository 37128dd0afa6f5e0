use super::*;
use core::time::Duration;
use ike::config::{AuthRound, ChildAction, ChildMode, Fragmentation, Unique, Version, Xauth};
use ike::proposal::{Proposal, ProposalProtocol};
use ipsec::sa::Mode;
use ipsec::selector::{AddressRange, Ports};
use proptest::prelude::*;
use std::path::PathBuf;

mod children;

fn source(name: &str) -> Source {
    Source { name: name.to_owned(), mode: Some(0o600), directory: PathBuf::new() }
}

fn parse(text: &str) -> Result<Configuration, Diagnostics> {
    Configuration::parse(text, source("t.conf"), Options::default())
}

fn errors(text: &str) -> Vec<String> {
    let findings = parse(text).expect_err("an error was expected");
    findings.iter().map(ToString::to_string).collect()
}

fn warnings(configuration: &Configuration) -> Vec<String> {
    configuration.warnings.iter().map(ToString::to_string).collect()
}

macro_rules! scenario {
    ($name:literal) => {
        Configuration::parse(
            include_str!(concat!("../../tests/scenarios/", $name, ".conf")),
            source($name),
            Options::default(),
        )
        .map_err(|e| e.to_string())
        .unwrap()
    };
}

fn prefix(address: &str, len: u8) -> Option<AddressRange> {
    AddressRange::prefix(address.parse().unwrap(), len)
}

fn fqdn(name: &str) -> Identity {
    Identity::Fqdn(name.to_owned())
}

#[test]
fn scenario_psk() {
    let configuration = scenario!("ikev2-psk-a");
    let gw = &configuration.ike.connections[0];
    assert_eq!(gw.name, "gw");
    assert_eq!(gw.version, Version::Ikev2);
    assert_eq!(gw.local_addrs, [AddressRange::host("192.168.77.1".parse().unwrap())]);
    assert_eq!(gw.remote_addrs, [AddressRange::host("192.168.77.2".parse().unwrap())]);
    assert_eq!((gw.local_port, gw.remote_port), (500, 500));
    assert_eq!(
        gw.proposals,
        [Proposal::parse(ProposalProtocol::Ike, "aes128-sha256-modp2048").unwrap()]
    );
    assert_eq!(gw.local, AuthRound::new(AuthMethod::Psk, fqdn("a.interop.test")));
    assert_eq!(gw.remote, AuthRound::new(AuthMethod::Psk, fqdn("b.interop.test")));
    assert!(!gw.mobike && !gw.encap && gw.fragmentation == Fragmentation::Yes);
    assert_eq!((gw.rekey_time, gw.reauth_time), (Duration::ZERO, Duration::ZERO));
    assert_eq!((gw.unique, gw.keyingtries), (Unique::No, 1));
    let net = &gw.children[0];
    assert_eq!(net.local_ts[0].addresses, prefix("10.77.1.0", 24));
    assert_eq!(net.remote_ts[0].addresses, prefix("10.77.2.0", 24));
    assert!(
        net.proposals
            .contains(&Proposal::parse(ProposalProtocol::Esp, "aes128gcm16-modp2048").unwrap())
    );
    assert_eq!(net.mode, ChildMode::Protect(Mode::Tunnel));
    assert_eq!(net.start_action, ChildAction::None);
    assert_eq!((net.rekey_time, net.life_time), (Duration::ZERO, Duration::ZERO));
    assert_eq!(net.replay_window, 32);

    let psk = &configuration.ike.psks[0];
    assert_eq!(configuration.ike.psks.len(), 1);
    assert_eq!(psk.owners, [fqdn("a.interop.test"), fqdn("b.interop.test")]);
    assert_eq!(psk.secret.expose(), b"interop-psk-0123456789");
    let names: Vec<&str> = configuration.secrets.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["ike-1", "eap-1", "xauth-1"]);
    assert_eq!(configuration.gateway, Gateway::default());
}

#[test]
fn scenario_gcm() {
    let configuration = scenario!("c2-aes256gcm16-b");
    assert_eq!(warnings(&configuration), Vec::<String>::new());
    let gw = &configuration.ike.connections[0];
    assert_eq!(
        gw.proposals,
        [Proposal::parse(ProposalProtocol::Ike, "aes256gcm16-prfsha512-ecp521").unwrap()]
    );
    let net = &gw.children[0];
    assert_eq!(
        net.proposals,
        [Proposal::parse(ProposalProtocol::Esp, "aes256gcm16-ecp521").unwrap()]
    );
}

#[test]
fn scenario_rekey() {
    let gw = scenario!("ikev2-rekey-a").ike.connections[0].clone();
    let seconds = Duration::from_secs;
    assert_eq!((gw.rekey_time, gw.over_time, gw.rand_time), (seconds(12), seconds(10), seconds(0)));
    let net = &gw.children[0];
    assert_eq!(
        (net.rekey_time, net.life_time, net.rand_time),
        (seconds(5), seconds(20), seconds(0))
    );
}

#[test]
fn scenario_multi_child() {
    let configuration = scenario!("ikev2-multi-child-a");
    let children = &configuration.ike.connections[0].children;
    let names: Vec<&str> = children.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["n1", "n2", "n3"]);
    assert_eq!(children[2].local_ts[0].addresses, prefix("10.77.12.0", 24));
}

#[test]
fn scenario_virtual_ip_is_left_out() {
    for configuration in [scenario!("ikev2-vip-a"), scenario!("ikev2-vip-b")] {
        assert!(configuration.ike.connections.is_empty());
        assert_eq!(configuration.left_out[0].name, "gw");
        assert_eq!(configuration.left_out[0].reason, "EAP is not supported yet");
        assert_eq!(configuration.left_out[0].children[0].name, "net");
    }
}

#[test]
fn defaults_are_those_of_swanctl() {
    let text = "connections { c { local { auth = psk } remote { auth = psk } children { k { } } } }\n\
                secrets { ike { secret = x } }";
    let configuration = parse(text).unwrap();
    assert_eq!(warnings(&configuration), Vec::<String>::new());
    let c = &configuration.ike.connections[0];
    let seconds = Duration::from_secs;
    assert_eq!((c.rekey_time, c.reauth_time), (seconds(14_400), seconds(0)));
    assert_eq!((c.over_time, c.rand_time), (seconds(1440), seconds(1440)));
    assert_eq!((c.version, c.mobike, c.dpd_delay), (Version::Any, true, seconds(0)));
    assert!(c.local_addrs.is_empty() && c.remote_addrs.is_empty());
    let k = &c.children[0];
    assert_eq!(
        (k.rekey_time, k.life_time, k.rand_time),
        (seconds(3600), seconds(3960), seconds(360))
    );
    assert_eq!(k.local_ts, k.remote_ts);
    assert_eq!((&k.local_ts[0].addresses, &k.local_ts[0].ports), (&None, &Ports::Any));
    assert_eq!((k.replay_window, k.priority), (32, 0));
    assert_eq!(k.headers, ipsec::sa::HeaderRules::default());
    assert_eq!(k.rekey_limits, ipsec::sa::Limits::default());
    assert_eq!(k.proposals, Proposal::defaults(ProposalProtocol::Esp));
}

#[test]
fn times_depend_on_each_other_as_in_charon() {
    let times = |settings: &str| {
        let text = format!(
            "connections {{ c {{ {settings}\n local {{ auth = psk }} remote {{ auth = psk }} }} }}"
        );
        let c = parse(&text).unwrap().ike.connections[0].clone();
        [c.rekey_time, c.reauth_time, c.over_time, c.rand_time].map(|d| d.as_secs())
    };
    assert_eq!(times("reauth_time = 1h"), [0, 3600, 360, 360]);
    assert_eq!(times("reauth_time = 10h\nrekey_time = 1h"), [3600, 36_000, 3600, 1800]);
    assert_eq!(times("rekey_time = 100\nover_time = 7"), [100, 0, 7, 7]);
    assert_eq!(times("rekey_time = 0"), [0, 0, 0, 0]);
}

#[test]
fn volumes_and_actions() {
    let text = "connections { c { remote_addrs = 192.0.2.1, %any\n local { auth = psk } \
                remote { auth = psk\n id = %any } children { k {\n rekey_bytes = 1g\n \
                rekey_packets = 100\n life_packets = 1000\n start_action = trap|start\n \
                dpd_action = restart\n close_action = trap\n copy_df = no\n copy_dscp = in\n \
                replay_window = 8\n mode = transport } } } }\nsecrets { ike1 { secret = 0sYWI= } }";
    let configuration = parse(text).unwrap();
    let c = &configuration.ike.connections[0];
    assert_eq!(c.remote_addrs.len(), 3);
    let k = &c.children[0];
    assert_eq!(k.rekey_limits.bytes, Some(1 << 30));
    assert_eq!(k.life_limits.bytes, Some((1 << 30) + (1 << 30) / 10));
    assert_eq!((k.rekey_limits.packets, k.life_limits.packets), (Some(100), Some(1000)));
    assert_eq!((k.rand_limits.bytes, k.rand_limits.packets), (Some((1 << 30) / 10), Some(900)));
    assert_eq!(k.start_action, ChildAction::Trap);
    assert_eq!((k.dpd_action, k.close_action), (ChildAction::Start, ChildAction::Trap));
    assert_eq!(k.headers.df, ipsec::sa::DfRule::Clear);
    assert_eq!((k.replay_window, k.mode), (32, ChildMode::Protect(Mode::Transport)));
    assert_eq!(configuration.ike.psks[0].secret.expose(), b"ab");
}

#[test]
fn gateway_section() {
    let text = "gateway {\n workers = 2\n idle = spin\n on_failure = open\n ports {\n  \
                wan { interface = ita0 }\n  lan0 { queues = 4\n mode = zerocopy\n device = ita1\n vlan = 10 }\n }\n \
                host { interface = cv1 }\n statistics { file = /run/x/stats }\n \
                limits { half_open = 7\n sas = 9 }\n vici { socket = unix:///run/x/vici }\n \
                ike {\n retransmit_tries = 3\n retransmit_timeout = 1.5\n cookie_threshold = 0\n \
                port = 1500\n fragment_size = 1400\n keep_alive = 0\n }\n}";
    let configuration = parse(text).unwrap();
    let gateway = &configuration.gateway;
    assert_eq!((gateway.workers, gateway.idle), (Some(2), Idle::Spin));
    assert_eq!(gateway.on_failure, OnFailure::Open);
    assert_eq!(
        gateway.ports,
        [
            Port {
                name: "wan".into(),
                interface: "ita0".into(),
                device: None,
                vlan: None,
                queues: None,
                mode: PortMode::Auto
            },
            Port {
                name: "lan0".into(),
                interface: "lan0".into(),
                device: Some("ita1".into()),
                vlan: core::num::NonZeroU16::new(10),
                queues: Some(4),
                mode: PortMode::ZeroCopy
            },
        ]
    );
    assert_eq!(gateway.host_interface.as_deref(), Some("cv1"));
    assert_eq!(gateway.statistics_file, Some(PathBuf::from("/run/x/stats")));
    assert_eq!(gateway.vici_socket, Some(PathBuf::from("/run/x/vici")));
    assert_eq!(gateway.limits.sas, Some(9));
    let settings = &configuration.ike.settings;
    assert_eq!((settings.half_open_limit, settings.retransmit_tries), (7, 3));
    assert_eq!(settings.retransmit_timeout, Duration::from_millis(1500));
    assert_eq!((settings.cookie_threshold, settings.port, settings.fragment_size), (0, 1500, 1400));
    assert!(settings.keep_alive.is_zero());
    assert_eq!(gateway.needs_restart(&Gateway::default()).len(), 8);
    assert!(gateway.needs_restart(&gateway.clone()).is_empty());
}

#[test]
fn charon_gives_a_peer_up_after_165_seconds() {
    // strongswan.conf(5), IKEV2 RETRANSMISSION: 4 + 7 + 13 + 23 + 42 + 76 s.
    assert_eq!(patience(&Settings::default()).as_secs(), 165);
}

/// One mistake each, with the whole message.
#[test]
fn messages_name_file_line_key_and_remedy() {
    for (text, message) in [
        (
            "connections {\n gw {\n  proposls = x\n } }",
            "t.conf:3: connections.gw.proposls: unknown key; did you mean 'proposals'?",
        ),
        (
            "connections { gw {\n rekey_time = 4w } }",
            "t.conf:2: connections.gw.rekey_time: '4w' is not a time in seconds, or with s, m, h \
             or d behind it",
        ),
        (
            "connections { gw {\n remote_addrs = gw.example.org } }",
            "t.conf:2: connections.gw.remote_addrs: 'gw.example.org' is not an address, a prefix \
             or a range; host names are not looked up",
        ),
        (
            "connections { gw { proposals = aes128-sha256-foo } }",
            "t.conf:1: connections.gw.proposals: 'aes128-sha256-foo': unknown algorithm 'foo'; a \
             proposal is such as aes128-sha256-modp2048, aes256gcm16-prfsha384-ecp384 or \
             chacha20poly1305-x25519",
        ),
        (
            "gateway { ports { a { interface = lan10\n device = lan0\n vlan = 10 }\n \
             b { interface = lan11\n vlan = 10\n device = lan0 } } }",
            "t.conf:6: gateway.ports.b.device: VLAN 10 of 'lan0' is port 'a' already",
        ),
        (
            "gateway { ports { lan0 { mode = copy }\n b { interface = lan11\n device = lan0\n vlan = 11 } } }",
            "t.conf:2: gateway.ports.b.mode: not the mode of port 'lan0', which has the same device",
        ),
        (
            "connections { gw {\n vips = 0.0.0.0, ::, 10.9.0.1 } }",
            "t.conf:2: connections.gw.vips: one address of each family at most",
        ),
        (
            "connections { gw { children { net {\n local_ts = 10.0.0.0/40 } } } }",
            "t.conf:2: connections.gw.children.net.local_ts: '10.0.0.0/40': neither an address, a \
             prefix such as 10.0.0.0/8, a range such as 10.0.0.1-10.0.0.9, nor 'dynamic'",
        ),
        (
            "connections { gw { children { net {\n local_ts = 10.0.0.0/8\n remote_ts = ::1 } } } }",
            "t.conf:3: connections.gw.children.net.remote_ts: is of another address family than \
             local_ts: no packet can match",
        ),
        (
            "connections { gw { children { net {\n mode = beet } } } }",
            "t.conf:2: connections.gw.children.net.mode: this mode is not supported; there are: \
             tunnel, transport, pass, drop",
        ),
        (
            "connections { gw { locl {\n } } }",
            "t.conf:1: connections.gw.locl: unknown section; there are: local, remote, children",
        ),
        (
            "connections { gw { local { auth = psk\n id = *@x } } }",
            "t.conf:2: connections.gw.local.id: '*@x': wildcards in an identity are not \
             supported; write it out, or %any for every one",
        ),
        (
            "secrets { ike-1 {\n id = x } }",
            "t.conf:1: secrets.ike-1.secret: missing: a secret needs its value",
        ),
        (
            "secrets { ike-1 {\n secret = 0x123 } }",
            "t.conf:2: secrets.ike-1.secret: what follows 0x is not pairs of hexadecimal digits",
        ),
        (
            "secrets { psk {\n secret = x } }",
            "t.conf:1: secrets.psk: unknown kind of secret; names begin with ike, eap, xauth, \
             ntlm, ppk, private, rsa, ecdsa, pkcs8, pkcs12 or token",
        ),
        (
            "gateway {\n wokers = 2 }",
            "t.conf:2: gateway.wokers: unknown key; did you mean 'workers'?",
        ),
        (
            "gateway { ports {\n wan = ita0 } }",
            "t.conf:2: gateway.ports.wan: a port is a section; write 'wan { interface = ita0 }'",
        ),
        (
            "gateway { filtres { x { } } }",
            "t.conf:1: gateway.filtres: unknown section; there are: ports, host, statistics, \
             vici, limits, ike, filters",
        ),
        (
            "gateway { ike { retransmit_base = -1 } }",
            "t.conf:1: gateway.ike.retransmit_base: '-1' is not a number from 1.0 to 10.0",
        ),
        (
            "connections { gw : nobody { } }",
            "t.conf:1: gw: there is no section 'nobody' to inherit from",
        ),
    ] {
        assert!(errors(text).contains(&message.to_owned()), "{message}\n{:#?}", errors(text));
    }
}

#[test]
fn all_errors_are_told_at_once() {
    let found = errors(
        "connections { a { versio = 2\n rekey_time = x }\n b { version = 3 } }\n\
         gateway { idle = doze }\nsecrets { ike { secret = 0xq } }",
    );
    let count = |what: &str| found.iter().filter(|e| e.contains(what)).count();
    for key in ["a.versio:", "a.rekey_time:", "b.version:", "gateway.idle:", "ike.secret:"] {
        assert_eq!(count(key), 1, "{key} in {found:#?}");
    }
}

/// What the workers get of `gateway.limits`; what it leaves out is theirs.
#[test]
fn limits_reach_the_workers() {
    let own = worker::Limits::default();
    let of = |text: &str| {
        let configuration = parse(&format!("gateway {{ limits {{ {text} }} }}")).unwrap();
        let limits = crate::ports::limits(&configuration.gateway.limits);
        (limits.icmp_per_second, limits.icmp_burst, limits.waiting_packets)
    };
    assert_eq!(of(""), (own.icmp_per_second, own.icmp_burst, own.waiting_packets));
    assert_eq!(of("icmp_burst = 7"), (own.icmp_per_second, 7, own.waiting_packets));
    assert_eq!(of("icmp_per_second = 3\n waiting_packets = 9"), (3, own.icmp_burst, 9));
    assert!(errors("gateway { limits { icmp_burst = 0 } }")[0].contains("icmp_burst"));
}

#[test]
fn secrets_that_others_can_read_are_refused() {
    let load = |mode, options| {
        let source = Source { name: "w.conf".into(), mode: Some(mode), directory: PathBuf::new() };
        Configuration::parse("secrets { ike {\n secret = hush } }", source, options)
    };
    let refused = load(0o644, Options::default()).unwrap_err().to_string();
    assert_eq!(
        refused,
        "error: w.conf:2: secrets.ike.secret: the file has mode 0644, so every user can read this \
         secret; run: chmod 600 w.conf"
    );
    assert!(load(0o640, Options::default()).is_ok());
    assert!(load(0o644, Options { readable_secrets: true }).is_ok());
}

#[test]
fn a_connection_without_its_secret_is_told() {
    let text = "connections { c { local { auth = psk } remote { auth = psk\n id = moon } } }\n\
                secrets { ike { secret = x\n id = sun } }";
    assert_eq!(
        warnings(&parse(text).unwrap()),
        ["t.conf:1: connections.c: no secret in 'secrets' is for the peer 'moon'"]
    );
}

#[test]
fn a_misspelt_section_is_told() {
    let configuration = parse("conections { c { } }\nbase { }\nconnections : base { }").unwrap();
    assert_eq!(
        warnings(&configuration),
        ["t.conf:1: conections: has no effect: no section refers to it, and it is none of: \
         connections, secrets, pools, authorities, gateway"]
    );
}

proptest! {
    /// No setting of any key makes the resolution panic, and no message holds a secret.
    #[test]
    fn no_value_panics(
        table in 0..keys::TABLES.len(),
        key in 0..60_usize,
        value in r#"[-0-9a-z.:/\[\]%|, @#=*]{0,30}|[0-9]{1,25}[smhdkg]?|\PC{0,20}"#,
    ) {
        let table = &keys::TABLES[table];
        let key = table.keys[key % table.keys.len()].name;
        let path = table.section.split(',').next().unwrap_or("");
        let names: Vec<String> = path
            .split('.')
            .map(|p| p.replace(['<', '>'], "").replace("suffix", "1"))
            .collect();
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
        let text = format!(
            "{} {{ {key} = \"{escaped}\"\n {}", names.join(" { "), "}".repeat(names.len())
        );
        match parse(&text) {
            Ok(_) => {}
            Err(findings) => {
                let secret = table.section.starts_with("secrets") && key == "secret";
                prop_assert!(!secret || value.len() < 8 || !findings.to_string().contains(&value));
            }
        }
    }
}

/// Kerberos is IKEv1's, of both sides, between principals, in a build that has it.
#[test]
fn kerberos_is_for_builds_that_have_it() {
    let text = |version: &str, local: &str, remote: &str| {
        format!(
            "connections {{\n gw {{\n {version}\n remote_addrs = 192.0.2.1\n local {{\n auth = kerberos\n id = {local}\n }}\n \
             remote {{\n auth = kerberos\n id = {remote}\n }}\n children {{\n net {{\n remote_ts = 10.0.0.0/8\n }}\n }}\n }}\n}}"
        )
    };
    let (a, b) = ("host/a.example.org@EXAMPLE.ORG", "host/b.example.org@EXAMPLE.ORG");
    let told = |text: &str, what: &str| errors(text).iter().any(|error| error.contains(what));
    assert!(told(&text("", a, b), "needs `version = 1`"));
    assert!(told(&text("version = 1", "a.example.org", b), "is a principal"));
    assert!(told(&text("version = 1", "%any", b), "is a principal"));
    assert!(told(&text("version = 1", a, "192.0.2.1"), "is a principal"));
    if cfg!(feature = "kerberos") {
        let configuration = parse(&text("version = 1", a, "%any")).unwrap();
        let connection = &configuration.ike.connections[0];
        assert_eq!(connection.local.id, Identity::Email(a.to_owned()));
        assert!(configuration.ike.mechanism.is_some());
        assert!(warnings(&configuration).is_empty());
    } else {
        let without = "build it with `cargo build --release --features kerberos`";
        assert!(told(&text("version = 1", a, b), without));
    }
}

/// XAUTH in a second round of IKEv1, addresses and pools.
#[test]
fn xauth_virtual_addresses_and_pools() {
    let text = |version: u8, second: &str, more: &str| {
        format!(
            "connections {{ c {{ version = {version}\n remote_addrs = 192.0.2.1\n {more}\n local {{ auth = psk }}\n \
             remote {{ auth = psk }}\n {second} }} }}\n\
             secrets {{ ike {{ secret = x }}\n xauth-c {{ id = carol\n secret = y }} }}\n\
             pools {{ rw {{ addrs = 10.9.0.0/29\n dns = 10.9.1.1, fd00::1 }}\n six {{ addrs = fd00::/64 }} }}"
        )
    };
    let client = text(1, "local-2 { auth = xauth\n xauth_id = carol }", "vips = 0.0.0.0");
    let configuration = parse(&client).unwrap();
    let connection = &configuration.ike.connections[0];
    assert_eq!(connection.xauth, Some(Xauth::Answer { user: "carol".to_owned() }));
    assert_eq!(connection.vips, ["0.0.0.0".parse::<core::net::IpAddr>().unwrap()]);
    assert_eq!(configuration.ike.users.len(), 1);
    let gateway = parse(&text(1, "remote-2 { auth = xauth-generic }", "pools = rw, six")).unwrap();
    let connection = &gateway.ike.connections[0];
    assert_eq!((connection.xauth.as_ref(), connection.pools.len()), (Some(&Xauth::Ask), 2));
    let [rw, six] = gateway.ike.pools.as_slice() else { panic!("two pools") };
    assert_eq!(display::addresses(&rw.addresses), "10.9.0.1-10.9.0.6");
    assert_eq!((rw.dns.len(), display::addresses(&six.addresses).as_str()), (2, "fd00::/64"));

    for (text, said) in [
        (text(1, "local-2 { auth = xauth }", ""), "xauth_id: missing"),
        (text(2, "", "vips = ::, fd00::1"), "vips: one address of each family at most"),
        (text(1, "", "pools = nobody"), "no pool 'nobody' is in 'pools'"),
        (text(1, "", "vips = here"), "vips: 'here' is not an address"),
        (
            text(1, "local-2 { auth = xauth\n id = carol }\n remote-2 { auth = xauth }", ""),
            "one side alone is asked for a password",
        ),
    ] {
        let found = errors(&text);
        assert!(found.iter().any(|error| error.contains(said)), "{said}: {found:?}");
    }
    // Hybrid authentication: the only round of one side, opposite a certificate.
    let hybrid = |local: &str, remote: &str, more: &str| {
        format!(
            "connections {{ c {{ version = 1\n remote_addrs = 192.0.2.1\n {more}\n local {{ {local} }}\n remote {{ {remote} }} }} }}\n\
             secrets {{ xauth-c {{ id = carol\n secret = y }} }}"
        )
    };
    let user = hybrid("auth = xauth\n xauth_id = carol", "auth = pubkey", "pull = no");
    let connection = Arc::clone(&parse(&user).unwrap().ike.connections[0]);
    assert_eq!(connection.xauth, Some(Xauth::Answer { user: "carol".to_owned() }));
    assert_eq!(connection.local.method, AuthMethod::Xauth);
    assert!(connection.push);
    let gateway = hybrid("auth = rsa", "auth = xauth-generic", "");
    let connection = Arc::clone(&parse(&gateway).unwrap().ike.connections[0]);
    assert_eq!((connection.xauth.clone(), connection.push), (Some(Xauth::Ask), false));
    let without_number = "no draft gives it a number with ECDSA or Ed25519";
    for (text, said) in [
        (
            hybrid("auth = xauth\n xauth_id = carol", "auth = psk", ""),
            "needs a certificate opposite",
        ),
        (
            hybrid("auth = xauth\n xauth_id = carol", "auth = xauth", ""),
            "needs a certificate opposite",
        ),
        (hybrid("auth = xauth", "auth = pubkey", ""), "xauth_id: missing"),
        (hybrid("auth = ecdsa", "auth = xauth", ""), without_number),
        (hybrid("auth = rsa", "auth = ecdsa }\n remote-2 { auth = xauth", ""), without_number),
        (
            hybrid("auth = xauth\n xauth_id = c", "auth = pubkey }\n remote-2 { auth = xauth", ""),
            "the only round",
        ),
        (text(2, "", "pull = no"), "only IKEv1 has a push mode"),
    ] {
        let found = errors(&text);
        assert!(found.iter().any(|error| error.contains(said)), "{said}: {found:?}");
    }
    // Of IKEv2 a second round, and a third, are left out as before.
    for text in [
        text(2, "local-2 { auth = xauth\n id = carol }", ""),
        text(1, "local-2 { auth = psk }", ""),
        text(1, "remote-2 { auth = xauth }\n remote-3 { auth = xauth }", ""),
    ] {
        assert_eq!(parse(&text).unwrap().left_out.len(), 1);
    }
}
