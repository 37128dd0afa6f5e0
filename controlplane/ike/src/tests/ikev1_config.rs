//! XAUTH and Mode Config (draft-ietf-ipsec-isakmp-xauth-06, draft-dukes-ike-mode-cfg-02), as ladders.

use super::harness::{Pair, Who, change_child, ts};
use super::ikev1::{IKE, v1_with};
use crate::config::{Config, Identity, Pool, Psk, TrafficSelector, Xauth};
use crate::event::{Command, Failure, IkeTarget};
use core::net::IpAddr;
use ipsec::algorithm::KeyMaterial;
use ipsec::selector::{AddressRange, Ports};
use std::time::Duration;

fn user(name: &str, password: &str) -> Psk {
    Psk {
        owners: vec![Identity::Fqdn(name.to_owned())],
        secret: KeyMaterial::new(password.as_bytes().to_vec()),
    }
}

fn dynamic() -> Vec<TrafficSelector> {
    vec![TrafficSelector { addresses: None, protocol: None, ports: Ports::Any }]
}

/// A road warrior: carol, with a virtual address.
pub(super) fn client(password: &str) -> Config {
    let mut config = v1_with(Who::A, IKE, |c| {
        c.xauth = Some(Xauth::Answer { user: "carol".to_owned() });
        c.vips = vec!["0.0.0.0".parse().unwrap()];
        change_child(c, |child| {
            child.local_ts = dynamic();
            child.remote_ts = vec![ts("10.2.0.0/16")];
        });
    });
    config.users = vec![user("dave", "no"), user("carol", password)];
    config
}

pub(super) fn gateway(last: &str) -> Config {
    let mut config = v1_with(Who::B, IKE, |c| {
        c.xauth = Some(Xauth::Ask);
        c.pools = vec!["none".to_owned(), "rw".to_owned()];
        change_child(c, |child| {
            child.local_ts = vec![ts("10.2.0.0/16")];
            child.remote_ts = dynamic();
        });
    });
    config.users = vec![user("carol", "secret"), user("dave", "other")];
    let addresses = AddressRange::new("10.9.0.1".parse().unwrap(), last.parse().unwrap());
    let dns = vec!["10.2.0.53".parse().unwrap()];
    config.pools = vec![Pool { name: "rw".to_owned(), addresses: addresses.unwrap(), dns }];
    config
}

pub(super) fn virtual_address(pair: &Pair) -> IpAddr {
    let slot = pair.a.sad.values().next().unwrap();
    slot.outbound.as_ref().unwrap().selectors[0].local.first()
}

/// Phase 1, XAUTH, Mode Config, quick mode; and the address goes back at the end.
#[test]
fn a_road_warrior() {
    let mut pair = Pair::new(client("secret"), gateway("10.9.0.9"));
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
    let exchanges: Vec<u8> = pair.trace.iter().map(|(_, sent)| sent.datagram[18]).collect();
    assert_eq!(exchanges, [2, 2, 2, 2, 2, 2, 6, 6, 6, 6, 6, 6, 32, 32, 32]);
    assert_eq!(virtual_address(&pair), "10.9.0.1".parse::<IpAddr>().unwrap());
    assert!(pair.a.events.contains(&"+10.9.0.1".to_owned()));
    for host in [&pair.a, &pair.b] {
        let statistics = host.engine.statistics();
        assert_eq!((statistics.ike_main_mode_initial, statistics.ike_quick_mode), (1, 1));
        assert_eq!((statistics.invalid_packets_received, statistics.negotiation_failures), (0, 0));
    }
    pair.command(
        Who::A,
        Command::TerminateIke { target: IkeTarget::Connection("gw".to_owned()), force: false },
    );
    pair.settle();
    pair.assert_empty();
    assert_eq!(pair.a.events.last().map(String::as_str), Some("ike down: terminated"));
    assert!(pair.a.events.contains(&"-10.9.0.1".to_owned()));
    pair.initiate(Who::A);
    pair.settle();
    assert_eq!(virtual_address(&pair), "10.9.0.1".parse::<IpAddr>().unwrap(), "it came back");
}

/// A renewed ISAKMP SA has the address of the one before, which lets it go after.
#[test]
fn the_address_outlives_the_isakmp_sa() {
    let mut pair = Pair::new(client("secret"), gateway("10.9.0.9"));
    pair.initiate(Who::A);
    pair.settle();
    pair.command(Who::A, Command::RekeyIke(IkeTarget::Connection("gw".to_owned())));
    pair.settle();
    pair.advance(Duration::from_secs(60));
    pair.assert_in_use(1, 1);
    let held = pair.a.events.iter().filter(|event| event.contains("10.9.0."));
    assert_eq!(held.collect::<Vec<_>>(), ["+10.9.0.1", "+10.9.0.1", "-10.9.0.1"]);
}

/// A wrong password: the SA goes, and the two count a failure each, once.
#[test]
fn a_wrong_password() {
    for password in ["wrong", "", "secret2", "other"] {
        let mut pair = Pair::new(client(password), gateway("10.9.0.9"));
        let request = pair.initiate(Who::A);
        pair.settle();
        assert_eq!(pair.a.done[&request], Err(Failure::Authentication), "{password:?}");
        for host in [&pair.a, &pair.b] {
            let statistics = host.engine.statistics();
            assert_eq!(statistics.authentication_failures_eap, 1, "{password:?}");
            assert_eq!(statistics.authentication_failures_psk, 0);
            assert_eq!((statistics.negotiation_failures, statistics.ike_quick_mode), (1, 0));
        }
        pair.advance(Duration::from_secs(60));
        pair.assert_empty();
    }
}

/// No quick mode before the password; one who leaves XAUTH out is another method, and no peer of this connection.
#[test]
fn nothing_goes_before_the_password() {
    let mut impatient = client("secret");
    let mut c = (*impatient.connections[0]).clone();
    c.xauth = None;
    c.vips.clear();
    impatient.connections = vec![c.into()];
    let mut pair = Pair::new(impatient, gateway("10.9.0.9"));
    let request = pair.initiate(Who::A);
    pair.settle();
    pair.advance(Duration::from_secs(200));
    assert!(pair.a.done[&request].is_err());
    assert_eq!(pair.b.engine.statistics().ike_main_mode_initial, 0);
    assert_eq!(pair.b.engine.statistics().ike_quick_mode, 0);
}

/// An empty pool: no address, no child, and it is said why.
#[test]
fn no_address_is_left() {
    let mut full = gateway("10.9.0.9");
    full.pools.clear();
    let mut pair = Pair::new(client("secret"), full);
    let request = pair.initiate(Who::A);
    pair.settle();
    assert_eq!(pair.a.done[&request], Err(Failure::NoAddress));
    pair.advance(Duration::from_secs(60));
    pair.assert_empty();
}

/// Whatever is lost, comes twice or late, all is there in the end.
#[test]
fn with_loss() {
    for seed in 1..60 {
        let mut pair = Pair::seeded_with(seed, client("secret"), gateway("10.9.0.9"));
        pair.initiate(Who::A);
        pair.stumble(25, seed);
        pair.advance(Duration::from_secs(100));
        pair.assert_in_use(1, 1);
        assert_eq!(virtual_address(&pair), "10.9.0.1".parse::<IpAddr>().unwrap());
    }
}
