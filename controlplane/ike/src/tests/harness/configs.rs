//! Configurations of the two ends.

use super::{A, B, Who};
use crate::config::{
    AuthMethod, AuthRound, Child, ChildAction, ChildMode, Config, Connection, Fragmentation,
    Identity, Psk, SendCertificate, TrafficSelector, Unique, Version,
};
use crate::proposal::{Proposal, ProposalProtocol};
use ipsec::algorithm::KeyMaterial;
use ipsec::sa::{HeaderRules, Limits, Mode};
use ipsec::selector::{AddressRange, Ports};
use std::sync::Arc;
use std::time::Duration;

pub(in crate::tests) fn net(text: &str) -> AddressRange {
    let (address, len) = text.split_once('/').unwrap();
    AddressRange::prefix(address.parse().unwrap(), len.parse().unwrap()).unwrap()
}

pub(in crate::tests) fn ts(text: &str) -> TrafficSelector {
    TrafficSelector { addresses: Some(net(text)), protocol: None, ports: Ports::Any }
}

pub(in crate::tests) fn proposals(protocol: ProposalProtocol, text: &str) -> Vec<Proposal> {
    Proposal::parse_list(protocol, text).unwrap().proposals
}

pub(in crate::tests) fn child(name: &str, local: &str, remote: &str, esp: &str) -> Child {
    Child {
        name: name.to_owned(),
        local_ts: vec![ts(local)],
        remote_ts: vec![ts(remote)],
        proposals: proposals(ProposalProtocol::Esp, esp),
        mode: ChildMode::Protect(Mode::Tunnel),
        start_action: ChildAction::None,
        close_action: ChildAction::None,
        dpd_action: ChildAction::None,
        rekey_time: Duration::ZERO,
        life_time: Duration::ZERO,
        rand_time: Duration::ZERO,
        rekey_limits: Limits::default(),
        rand_limits: Limits::default(),
        life_limits: Limits::default(),
        replay_window: 64,
        headers: HeaderRules::default(),
        priority: 0,
        unprotected: None,
        if_id: None,
        deliver_to_host: false,
    }
}

/// One connection `gw` with the children `net` (PFS) and `more` (no PFS), seen from `who`.
pub(in crate::tests) fn connection(who: Who) -> Connection {
    let (local, remote) = match who {
        Who::A => (A, B),
        Who::B => (B, A),
    };
    let (near, far) = match who {
        Who::A => ("10.1.0.0/16", "10.2.0.0/16"),
        Who::B => ("10.2.0.0/16", "10.1.0.0/16"),
    };
    let (near6, far6) = match who {
        Who::A => ("fd00:1::/32", "fd00:2::/32"),
        Who::B => ("fd00:2::/32", "fd00:1::/32"),
    };
    Connection {
        name: "gw".to_owned(),
        version: Version::Ikev2,
        local_addrs: vec![AddressRange::host(local.parse().unwrap())],
        remote_addrs: vec![AddressRange::host(remote.parse().unwrap())],
        local_port: 500,
        remote_port: 500,
        proposals: proposals(
            ProposalProtocol::Ike,
            "aes128gcm16-prfsha256-x25519-ecp256,aes128-sha256-x25519-ecp256",
        ),
        local: AuthRound::new(AuthMethod::Psk, id(who)),
        remote: AuthRound::new(AuthMethod::Psk, id(who.other())),
        children: vec![
            Arc::new(child("net", near, far, "aes128gcm16-x25519-ecp256")),
            Arc::new(child("more", near6, far6, "aes256gcm16")),
        ],
        aggressive: false,
        xauth: None,
        vips: Vec::new(),
        pools: Vec::new(),
        push: false,
        encap: false,
        mobike: false,
        fragmentation: Fragmentation::Yes,
        dpd_delay: Duration::ZERO,
        dpd_timeout: Duration::ZERO,
        rekey_time: Duration::ZERO,
        reauth_time: Duration::ZERO,
        over_time: Duration::from_secs(360),
        rand_time: Duration::ZERO,
        send_certificate: SendCertificate::IfAsked,
        request_certificate: true,
        unique: Unique::No,
        keyingtries: 1,
    }
}

pub(in crate::tests) fn id(who: Who) -> Identity {
    Identity::Fqdn(match who {
        Who::A => "a.example".to_owned(),
        Who::B => "b.example".to_owned(),
    })
}

pub(in crate::tests) fn psk(secret: &str) -> Psk {
    Psk {
        owners: vec![id(Who::A), id(Who::B)],
        secret: KeyMaterial::new(secret.as_bytes().to_vec()),
    }
}

pub(in crate::tests) fn config_with(connection: Connection) -> Config {
    Config {
        connections: vec![Arc::new(connection)],
        psks: vec![psk("correct horse battery staple")],
        ..Config::default()
    }
}

pub(in crate::tests) fn config(who: Who) -> Config {
    config_with(connection(who))
}

/// A connection changed by `f`.
pub(in crate::tests) fn changed(who: Who, f: impl FnOnce(&mut Connection)) -> Config {
    let mut connection = connection(who);
    f(&mut connection);
    config_with(connection)
}

/// A child of a connection changed by `f`.
pub(in crate::tests) fn change_child(connection: &mut Connection, f: impl FnOnce(&mut Child)) {
    let mut child = (*connection.children[0]).clone();
    f(&mut child);
    connection.children[0] = Arc::new(child);
}
