//! Who is asked for a password and by whom: XAUTH behind each method of phase 1 in both its directions, hybrid authentication
//! (draft-ietf-ipsec-isakmp-hybrid-auth-05), and Mode Config in push mode; as ladders.

use super::certificates::{Site, ikev1};
use super::harness::{Pair, Who};
use super::ikev1_config::{client, gateway, virtual_address};
use crate::config::{AuthMethod, Config, Connection, Identity, Unique, Xauth};
use crate::event::{Command, Failure, IkeTarget, Origin};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use std::time::Duration;

fn changed(mut config: Config, change: impl FnOnce(&mut Connection)) -> Config {
    let mut connection = (*config.connections[0]).clone();
    change(&mut connection);
    config.connections = vec![connection.into()];
    config
}

/// A road warrior (A) and its gateway (B) that authenticate by certificates, and the user carol behind them.
fn certified(site: &Site) -> [Config; 2] {
    let with = |own: Config, who| {
        let known = own.connections[0].clone();
        let certified = ikev1(site, who, |c| {
            (c.xauth, c.vips) = (known.xauth.clone(), known.vips.clone());
            (c.pools, c.children) = (known.pools.clone(), known.children.clone());
        });
        Config { users: own.users, pools: own.pools, ..certified }
    };
    [with(client("secret"), Who::A), with(gateway("10.9.0.9"), Who::B)]
}

/// Without a certificate of the user's.
fn hybrid(site: &Site, change: impl Fn(&mut Connection)) -> [Config; 2] {
    let [a, b] = certified(site);
    let a = changed(a, |c| {
        c.local.method = AuthMethod::Xauth;
        c.local.certificates.clear();
        change(c);
    });
    let b = changed(b, |c| {
        c.remote.method = AuthMethod::Xauth;
        change(c);
    });
    [a, b]
}

/// The authentication method of the first message's transform (RFC 2409 appendix A: attribute 3).
fn method(pair: &Pair) -> u16 {
    let octets = &pair.trace[0].1.datagram;
    let at = octets.windows(2).position(|w| w == [0x80, 3]).unwrap();
    u16::from_be_bytes([octets[at + 2], octets[at + 3]])
}

fn comes_up(a: Config, b: Config, from: Who, number: u16) -> Pair {
    let mut pair = Pair::new(a, b);
    pair.initiate(from);
    pair.settle();
    pair.assert_in_use(1, 1);
    assert_eq!(method(&pair), number);
    for host in [&pair.a, &pair.b] {
        let statistics = host.engine.statistics();
        assert_eq!((statistics.ike_main_mode_initial, statistics.ike_quick_mode), (1, 1));
        assert_eq!((statistics.invalid_packets_received, statistics.negotiation_failures), (0, 0));
        assert_eq!(statistics.half_open, 0);
    }
    pair
}

/// draft-ietf-ipsec-isakmp-xauth-06 §7: a number for each method and for each role of who is asked.
#[test]
fn who_is_asked_for_a_password() {
    let psk = || [client("secret"), gateway("10.9.0.9")];
    let [a, b] = psk();
    comes_up(a, b, Who::A, 65_001);
    let [a, b] = psk();
    comes_up(a, b, Who::B, 65_002);
    let site = Site::new(&PKCS_RSA_SHA256);
    let [a, b] = certified(&site);
    comes_up(a, b, Who::A, 65_005);
    let [a, b] = certified(&site);
    comes_up(a, b, Who::B, 65_006);
    // In aggressive mode too.
    let mut both = psk().map(|config| changed(config, |c| c.aggressive = true));
    for config in &mut both {
        config.settings.aggressive_psk = true;
    }
    let [a, b] = both;
    comes_up(a, b, Who::A, 65_001);
}

/// ECDSA has no number with XAUTH: nothing is offered or taken in its place.
#[test]
fn no_password_behind_ecdsa() {
    let [a, b] = certified(&Site::new(&PKCS_ECDSA_P256_SHA256));
    let mut pair = Pair::new(a, b);
    let command = Command::InitiateChild {
        connection: None,
        child: "net".to_owned(),
        origin: Origin::Initiate,
    };
    let host = &mut pair.a;
    assert!(host.engine.handle_command(pair.now, command, &mut host.spis).is_err());
    pair.settle();
    assert!(pair.trace.is_empty());
}

/// Hybrid authentication from the user's side and from the gateway's, in main mode and in aggressive mode.
#[test]
fn hybrid_authentication() {
    let site = Site::new(&PKCS_RSA_SHA256);
    for aggressive in [false, true] {
        for (from, number) in [(Who::A, 64_221), (Who::B, 64_222)] {
            let [a, b] = hybrid(&site, |c| c.aggressive = aggressive);
            let pair = comes_up(a, b, from, number);
            assert_eq!(virtual_address(&pair), "10.9.0.1".parse::<core::net::IpAddr>().unwrap());
            let view = &pair.b.engine.ike_sas(pair.now)[0];
            assert_eq!(view.remote_vips.len(), 1);
        }
    }
}

/// A gateway with another certificate is none; a user with another password has no SA, and leaves no trace of one.
#[test]
fn hybrid_authentication_refuses() {
    let site = Site::new(&PKCS_RSA_SHA256);
    let [a, _] = hybrid(&site, |_| ());
    let [_, other] = hybrid(&Site::new(&PKCS_RSA_SHA256), |_| ());
    let mut pair = Pair::new(a, other);
    let request = pair.initiate(Who::A);
    pair.settle();
    assert_eq!(pair.a.done[&request], Err(Failure::Authentication));
    assert_eq!(pair.a.engine.statistics().authentication_failures_certificate, 1);
    let [mut a, b] = hybrid(&site, |_| ());
    a.users = client("wrong").users;
    let mut pair = Pair::new(a, b);
    let request = pair.initiate(Who::A);
    pair.settle();
    assert_eq!(pair.a.done[&request], Err(Failure::Authentication));
    let statistics = pair.b.engine.statistics();
    assert_eq!((statistics.authentication_failures_eap, statistics.negotiation_failures), (1, 1));
    assert_eq!((statistics.ike_main_mode_initial, statistics.half_open), (0, 0));
    assert!(pair.b.events.is_empty(), "{:?}", pair.b.events);
    pair.advance(Duration::from_secs(60));
    pair.assert_empty();
}

/// Before the password is right the peer is a stranger: it counts as half open, is forgotten in the same time, and neither what
/// it says of itself nor its INITIAL-CONTACT does anything to another's SA.
#[test]
fn a_stranger_until_the_password() {
    let site = Site::new(&PKCS_RSA_SHA256);
    for deaf in [false, true] {
        let [a, b] = hybrid(&site, |c| c.unique = Unique::Replace);
        let mut pair = comes_up(a, b, Who::A, 64_221);
        // The same user's machine once more, with nothing but its name.
        let [mut stranger, _] = hybrid(&site, |_| ());
        stranger.users = client("guess").users;
        let mut host = super::harness::Host::new(stranger, 3, 77);
        core::mem::swap(&mut pair.a, &mut host);
        pair.initiate(Who::A);
        for _ in 0..3 {
            pair.deliver_next(Who::B);
            pair.deliver_next(Who::A);
        }
        assert_eq!(pair.b.engine.statistics().half_open, 1);
        if deaf {
            pair.to_a.clear();
            pair.to_b.clear();
            core::mem::swap(&mut pair.a, &mut host);
            // Nothing answers for the stranger; what is repeated to it is lost.
            for _ in 0..40 {
                pair.now += Duration::from_secs(1);
                let now = pair.now;
                pair.b.engine.handle_timeout(now, &mut pair.b.spis);
                pair.b.pump(now);
            }
        } else {
            pair.settle();
            core::mem::swap(&mut pair.a, &mut host);
        }
        assert_eq!(pair.b.engine.statistics().half_open, 0);
        assert_eq!(pair.b.engine.ike_sas(pair.now).len(), 1);
        assert_eq!(pair.b.sad.len(), 1, "carol has hers as before");
        assert_eq!(pair.b.events.iter().filter(|event| event.starts_with("ike")).count(), 1);
    }
}

/// The user is whose SA it is: two of a group with one preshared key and one name are two, and the same user is one.
#[test]
fn users_are_told_apart() {
    let mut pair = Pair::new(client("secret"), gateway("10.9.0.9"));
    pair.initiate(Who::A);
    pair.settle();
    for (user, password, left) in [("dave", "other", 2), ("carol", "secret", 2)] {
        let mut config = changed(client("secret"), |c| {
            c.xauth = Some(Xauth::Answer { user: user.to_owned() });
        });
        config.users = client(password).users;
        config.users[1].owners = vec![Identity::Fqdn(user.to_owned())];
        config.users.remove(0);
        pair.a = super::harness::Host::new(config, 4 + left, user.len() as u8);
        pair.initiate(Who::A);
        pair.settle();
        assert_eq!(pair.b.engine.ike_sas(pair.now).len(), left as usize, "{user}");
    }
}

fn pushed(config: Config) -> Config {
    changed(config, |c| c.push = true)
}

/// draft-dukes-ike-mode-cfg-02 §3.3: the gateway sets, the client acknowledges; quick mode comes after.
#[test]
fn the_gateway_tells_the_address() {
    let mut pair = Pair::new(pushed(client("secret")), pushed(gateway("10.9.0.9")));
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
    let exchanges: Vec<u8> = pair.trace.iter().map(|(_, sent)| sent.datagram[18]).collect();
    assert_eq!(exchanges, [2, 2, 2, 2, 2, 2, 6, 6, 6, 6, 6, 6, 32, 32, 32]);
    // The last exchange before quick mode is the gateway's.
    assert_eq!(pair.trace[10].0, Who::B);
    assert_eq!(virtual_address(&pair), "10.9.0.1".parse::<core::net::IpAddr>().unwrap());
    pair.command(Who::A, Command::RekeyIke(IkeTarget::Connection("gw".to_owned())));
    pair.settle();
    pair.advance(Duration::from_secs(60));
    pair.assert_in_use(1, 1);
    assert_eq!(virtual_address(&pair), "10.9.0.1".parse::<core::net::IpAddr>().unwrap());
}

/// One side pushes and the other pulls: a client that asks is answered, one that waits for nothing says so in the end.
#[test]
fn pull_meets_push() {
    let mut pair = Pair::new(client("secret"), pushed(gateway("10.9.0.9")));
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
    let mut pair = Pair::new(pushed(client("secret")), gateway("10.9.0.9"));
    let request = pair.initiate(Who::A);
    pair.settle();
    pair.advance(Duration::from_secs(40));
    assert_eq!(pair.a.done[&request], Err(Failure::NoAddress));
    pair.advance(Duration::from_secs(60));
    pair.assert_empty();
}

/// Whatever is lost, comes twice or late, in push mode and in hybrid authentication.
#[test]
fn with_loss() {
    let site = Site::new(&PKCS_RSA_SHA256);
    for seed in 1..40 {
        let [a, b] = match seed % 2 {
            0 => [pushed(client("secret")), pushed(gateway("10.9.0.9"))],
            _ => hybrid(&site, |_| ()),
        };
        let mut pair = Pair::seeded_with(seed, a, b);
        pair.initiate(Who::A);
        pair.stumble(25, seed);
        pair.advance(Duration::from_secs(100));
        pair.assert_in_use(1, 1);
        assert_eq!(virtual_address(&pair), "10.9.0.1".parse::<core::net::IpAddr>().unwrap());
    }
}
