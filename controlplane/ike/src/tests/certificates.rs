//! IKE_AUTH with certificates: two engines, each with a key and an authority.

use super::harness::{Pair, Who, connection, id};
use crate::certificate::Credentials;
use crate::certificate::tests::{Authority, private};
use crate::config::{AuthMethod, Config, Connection, Identity, SendCertificate, Version};
use crate::event::{Command, Failure};
use crate::proposal::{Proposal, ProposalProtocol};
use crate::view::{ChildState, IkeState};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    SignatureAlgorithm,
};
use std::sync::Arc;
use std::time::Duration;

pub(super) struct Site {
    root: Authority,
    keys: [KeyPair; 2],
}

impl Site {
    pub(super) fn new(algorithm: &'static SignatureAlgorithm) -> Self {
        let key = || KeyPair::generate_for(algorithm).unwrap();
        Self { root: Authority::root("Root"), keys: [key(), key()] }
    }

    fn config(&self, who: Who, change: impl FnOnce(&mut Connection, &mut Credentials)) -> Config {
        let mut connection = connection(who);
        connection.local.method = AuthMethod::Pubkey;
        connection.remote.method = AuthMethod::Pubkey;
        let (key, name) = match who {
            Who::A => (&self.keys[0], "a.example"),
            Who::B => (&self.keys[1], "b.example"),
        };
        let certificate = self.root.issue(key, name, |_| {});
        connection.local.certificates = vec![Arc::clone(&certificate)];
        let mut credentials = Credentials {
            keys: vec![private(key)],
            certificates: vec![certificate],
            authorities: vec![Arc::clone(&self.root.certificate)],
            ..Credentials::default()
        };
        change(&mut connection, &mut credentials);
        Config {
            connections: vec![Arc::new(connection)],
            psks: Vec::new(),
            users: Vec::new(),
            pools: Vec::new(),
            credentials: Arc::new(credentials),
            ..Config::default()
        }
    }

    fn as_it_is(&self, who: Who) -> Config {
        self.config(who, |_, _| {})
    }
}

fn is_up(pair: &mut Pair) {
    pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
}

fn fails(pair: &mut Pair) {
    let request = pair.initiate(Who::A);
    pair.settle();
    pair.advance(Duration::from_secs(200));
    assert_eq!(pair.a.done.get(&request), Some(&Err(Failure::Authentication)));
    assert!(pair.a.sad.is_empty() && pair.b.sad.is_empty());
    assert!(pair.a.spis.held.is_empty() && pair.b.spis.held.is_empty());
}

/// Who counted authentication failures by certificate; nobody by preshared key.
fn counted(pair: &Pair) -> [u64; 2] {
    [&pair.a, &pair.b].map(|host| {
        let statistics = host.engine.statistics();
        assert_eq!(statistics.authentication_failures_psk, 0);
        assert_eq!(statistics.negotiation_failures, statistics.authentication_failures_certificate);
        statistics.authentication_failures_certificate
    })
}

#[test]
fn both_prove_themselves_and_rekey() {
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519] {
        let site = Site::new(algorithm);
        let mut pair = Pair::new(site.as_it_is(Who::A), site.as_it_is(Who::B));
        is_up(&mut pair);
        assert_eq!(counted(&pair), [0, 0]);
        let gw = crate::event::IkeTarget::Connection("gw".to_owned());
        pair.command(Who::B, Command::RekeyIke(gw));
        pair.settle();
        pair.assert_in_use(1, 1);
    }
}

/// Without an identity of its own each is the subject of its certificate.
#[test]
fn the_subject_is_the_identity_of_one_without() {
    let site = Site::new(&PKCS_ECDSA_P256_SHA256);
    let nameless = |who| {
        site.config(who, |c, _| {
            c.local.id = Identity::Any;
            c.remote.id = Identity::Any;
        })
    };
    let mut pair = Pair::new(nameless(Who::A), nameless(Who::B));
    is_up(&mut pair);
    let seen = pair.b.engine.ike_sas(pair.now).remove(0).remote_id;
    assert!(matches!(seen, Some(Identity::Dn(_))), "{seen:?}");
}

/// A certificate that is not sent, since the other side has it.
#[test]
fn certificates_that_are_known_need_not_be_sent() {
    let site = Site::new(&PKCS_ECDSA_P256_SHA256);
    let quiet = |who: Who| {
        let key = match who {
            Who::A => &site.keys[1],
            Who::B => &site.keys[0],
        };
        let Identity::Fqdn(name) = id(who.other()) else { panic!("a name") };
        let peer = site.root.issue(key, &name, |_| {});
        site.config(who, |c, _| {
            c.send_certificate = SendCertificate::Never;
            c.request_certificate = false;
            c.remote.certificates = vec![peer];
        })
    };
    let mut pair = Pair::new(quiet(Who::A), quiet(Who::B));
    is_up(&mut pair);
    let longest = pair.trace.iter().map(|(_, sent)| sent.datagram.len()).max();
    assert!(longest < Some(500), "no certificate was sent: {longest:?}");
    // Not asked for, it is not sent by the default either, and then nobody knows it.
    let mut pair =
        Pair::new(site.as_it_is(Who::A), site.config(Who::B, |c, _| c.request_certificate = false));
    fails(&mut pair);
    assert_eq!(counted(&pair), [1, 1]);
}

#[test]
fn one_side_by_certificate_the_other_by_preshared_key() {
    let site = Site::new(&PKCS_ECDSA_P256_SHA256);
    let mixed = |who| {
        let mut config = site.config(who, |c, _| match who {
            Who::A => c.remote.method = AuthMethod::Psk,
            Who::B => c.local.method = AuthMethod::Psk,
        });
        config.psks = vec![super::harness::psk("correct horse battery staple")];
        config
    };
    is_up(&mut Pair::new(mixed(Who::A), mixed(Who::B)));
}

/// The responder does not believe the initiator: one failure at each side.
#[test]
fn an_initiator_of_another_authority_fails() {
    let (site, other) = (Site::new(&PKCS_ECDSA_P256_SHA256), Site::new(&PKCS_ECDSA_P256_SHA256));
    let mut pair = Pair::new(other.as_it_is(Who::A), site.as_it_is(Who::B));
    fails(&mut pair);
    assert_eq!(counted(&pair), [1, 1]);
}

/// The initiator does not believe the responder, which it tells it (RFC 7296 §2.21.2).
#[test]
fn a_responder_of_another_authority_fails() {
    let (site, other) = (Site::new(&PKCS_ECDSA_P256_SHA256), Site::new(&PKCS_ECDSA_P256_SHA256));
    let trusting = site.config(Who::B, |_, credentials| {
        credentials.authorities.push(Arc::clone(&other.root.certificate));
    });
    let mut pair = Pair::new(other.as_it_is(Who::A), trusting);
    fails(&mut pair);
    assert_eq!(pair.a.engine.statistics().authentication_failures_certificate, 1);
}

#[test]
fn without_a_private_key_nothing_is_sent() {
    let site = Site::new(&PKCS_ECDSA_P256_SHA256);
    let keyless = |who| site.config(who, |_, credentials| credentials.keys.clear());
    let mut pair = Pair::new(keyless(Who::A), site.as_it_is(Who::B));
    fails(&mut pair);
    let mut pair = Pair::new(site.as_it_is(Who::A), keyless(Who::B));
    fails(&mut pair);
    assert_eq!(counted(&pair), [1, 1]);
}

pub(super) fn ikev1(site: &Site, who: Who, change: impl FnOnce(&mut Connection)) -> Config {
    site.config(who, |connection, _| {
        connection.version = Version::Ikev1;
        let list = "aes128-sha256-ecp256,aes256-sha384-ecp384";
        connection.proposals = Proposal::parse_list(ProposalProtocol::Ike, list).unwrap().proposals;
        change(connection);
    })
}

/// Main mode with signatures (RFC 2409 §5.1, RFC 4754), of each kind that it has a method for.
#[test]
fn main_mode_signs_and_checks() {
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_RSA_SHA256] {
        let site = Site::new(algorithm);
        let mut pair = Pair::new(ikev1(&site, Who::A, |_| {}), ikev1(&site, Who::B, |_| {}));
        is_up(&mut pair);
        assert_eq!(counted(&pair), [0, 0]);
    }
}

#[test]
fn main_mode_with_strangers_fails() {
    let (site, other) = (Site::new(&PKCS_ECDSA_P256_SHA256), Site::new(&PKCS_ECDSA_P256_SHA256));
    // The responder does not believe, which it can tell nobody who would have to believe it.
    let mut pair = Pair::new(ikev1(&other, Who::A, |_| {}), ikev1(&site, Who::B, |_| {}));
    let request = pair.initiate(Who::A);
    pair.settle();
    pair.advance(Duration::from_secs(400));
    assert!(matches!(pair.a.done.get(&request), Some(Err(_))), "{:?}", pair.a.done);
    assert_eq!(pair.b.engine.statistics().authentication_failures_certificate, 1);
    // It says so, and who is told counts it too, once it has given up.
    assert_eq!(pair.a.engine.statistics().authentication_failures_certificate, 1);
    // The initiator does not believe.
    let trusting = {
        let mut config = ikev1(&site, Who::B, |_| {});
        let credentials = Arc::get_mut(&mut config.credentials).unwrap();
        credentials.authorities.push(Arc::clone(&other.root.certificate));
        config
    };
    let mut pair = Pair::new(ikev1(&other, Who::A, |_| {}), trusting);
    let request = pair.initiate(Who::A);
    pair.settle();
    assert_eq!(pair.a.done.get(&request), Some(&Err(Failure::Authentication)));
    assert_eq!(pair.a.engine.statistics().authentication_failures_certificate, 1);
    // Keys of two kinds have no method in common, and Ed25519 has none at all.
    let rsa = Site { root: Authority::root("Root"), ..Site::new(&PKCS_RSA_SHA256) };
    let mut pair = Pair::new(ikev1(&rsa, Who::A, |_| {}), ikev1(&site, Who::B, |_| {}));
    let request = pair.initiate(Who::A);
    pair.settle();
    pair.advance(Duration::from_secs(400));
    assert!(matches!(pair.a.done.get(&request), Some(Err(_))), "{:?}", pair.a.done);
    assert!(pair.a.sad.is_empty() && pair.b.sad.is_empty());
}

/// Every message of main mode and quick mode lost in turn.
#[test]
fn loss_at_every_message_of_main_mode() {
    let site = Site::new(&PKCS_ECDSA_P256_SHA256);
    let run = |lose: usize| {
        let mut pair = Pair::new(ikev1(&site, Who::A, |_| {}), ikev1(&site, Who::B, |_| {}));
        pair.initiate(Who::A);
        deliver_but(&mut pair, lose)
    };
    let messages = run(usize::MAX);
    assert!(messages >= 9, "{messages}");
    for lose in 0..messages {
        run(lose);
    }
}

/// The pool has no room: the negotiation fails and leaves nothing behind.
#[test]
fn refused_jobs_end_the_negotiation() {
    let site = Site::new(&PKCS_ECDSA_P256_SHA256);
    for refused in 0..6 {
        let mut pair = Pair::new(site.as_it_is(Who::A), site.as_it_is(Who::B));
        pair.a.hold_jobs = true;
        pair.b.hold_jobs = true;
        pair.initiate(Who::A);
        let mut count = 0;
        loop {
            pair.settle();
            let host = match (pair.a.jobs.is_empty(), pair.b.jobs.is_empty()) {
                (false, _) => &mut pair.a,
                (_, false) => &mut pair.b,
                (true, true) => break,
            };
            let job = host.jobs.pop_front().unwrap();
            let done = if count == refused { job.refuse() } else { job.run() };
            host.engine.handle_job(pair.now, done, &mut host.spis);
            count += 1;
        }
        assert!(count > refused, "six jobs, {count} done");
        pair.advance(Duration::from_secs(400));
        assert!(pair.a.sad.is_empty(), "job {refused} refused");
        assert!(pair.a.spis.held.is_empty() && pair.b.spis.held.len() == pair.b.sad.len());
    }
}

/// Every message lost in turn, with certificates in fragments.
#[test]
fn loss_at_every_message_of_ike_auth() {
    let site = Site::new(&PKCS_ECDSA_P256_SHA256);
    let small = |who| {
        let mut config = site.as_it_is(who);
        config.settings.fragment_size = 350;
        config
    };
    let run = |lose: usize| {
        let mut pair = Pair::new(small(Who::A), small(Who::B));
        pair.initiate(Who::A);
        deliver_but(&mut pair, lose)
    };
    let messages = run(usize::MAX);
    assert!(messages > 4, "{messages}: fragments");
    for lose in 0..messages {
        run(lose);
    }
}

/// Delivers all but one message until the SA is up, and says how many there were.
fn deliver_but(pair: &mut Pair, lose: usize) -> usize {
    let up = || vec![(IkeState::Established, vec![ChildState::Installed])];
    let mut sent = 0;
    for _ in 0..1000 {
        let who = match (pair.under_way(Who::A), pair.under_way(Who::B)) {
            (_, 1..) => Who::B,
            (1.., _) => Who::A,
            _ if [&pair.a, &pair.b].map(|host| host.states(pair.now)) == [up(), up()] => break,
            _ => {
                let at = pair.next_timeout().expect("something is repeated");
                pair.now = pair.now.max(at);
                pair.timeouts();
                continue;
            }
        };
        sent += 1;
        if sent - 1 == lose { pair.lose_next(who) } else { pair.deliver_next(who) }
    }
    pair.settle();
    pair.assert_in_use(1, 1);
    sent
}

/// attacks.json x509-fetch-before-auth: an address in a certificate is text. Whoever reads it, before or after authentication,
/// sends nothing anywhere but to the peer, and waits for nobody.
#[test]
fn x509_fetch_before_auth() {
    for version in [Version::Ikev1, Version::Ikev2] {
        let site = Site::new(&PKCS_ECDSA_P256_SHA256);
        let pointing = site.root.issue(&site.keys[0], "a.example", |params| {
            params.crl_distribution_points = vec![rcgen::CrlDistributionPoint {
                uris: vec!["http://198.51.100.66/slow.crl".to_owned()],
            }];
        });
        let a = site.config(Who::A, |connection, credentials| {
            connection.version = version;
            connection.local.certificates = vec![Arc::clone(&pointing)];
            credentials.certificates = vec![pointing];
        });
        let b = site.config(Who::B, |connection, _| connection.version = version);
        let mut pair = Pair::new(a, b);
        is_up(&mut pair);
        let near = |path: &crate::event::Path| {
            [path.local, path.remote].iter().all(|end| end.ip().to_string().starts_with("192.0.2."))
        };
        assert!(pair.trace.iter().all(|(_, sent)| near(&sent.path)));
        assert!(pair.a.waiting.is_empty() && pair.b.waiting.is_empty());
    }
}
