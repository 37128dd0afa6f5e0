//! IKEv1 beyond the plain ladders: weak suites, fragments, aggressive mode.

use super::harness::{Pair, Who, change_child};
use super::ikev1::{IKE, v1_with};
use crate::config::Config;
use crate::proposal::{Proposal, ProposalProtocol, Weak};

fn weak(protocol: ProposalProtocol, text: &str) -> Vec<Proposal> {
    vec![Proposal::parse_with(protocol, text, Weak { allowed: true, ikev1: true }).unwrap()]
}

fn legacy(who: Who, ike: &str, esp: &str) -> Config {
    v1_with(who, IKE, |c| {
        c.proposals = weak(ProposalProtocol::Ike, ike);
        change_child(c, |child| child.proposals = weak(ProposalProtocol::Esp, esp));
    })
}

/// 3DES, MD5 and the groups 2 and 5 (RFC 2409 appendix A, §6.2; RFC 3526 §2), in phase 1 and as PFS; each named weak.
#[test]
fn weak_suites() {
    for (ike, esp) in [
        ("3des-md5-modp1024", "3des-md5-modp1024"),
        ("3des-sha1-modp1536", "aes128-sha1-modp1536"),
        ("3des-sha256-ecp256", "3des-sha1"),
        ("aes256-md5-modp2048", "aes128-md5"),
        ("aes128-sha1-modp1024", "aes128-sha1"),
    ] {
        let mut pair = Pair::new(legacy(Who::A, ike, esp), legacy(Who::B, ike, esp));
        pair.initiate(Who::A);
        pair.settle();
        pair.assert_in_use(1, 1);
        pair.initiate_child(Who::B, "net");
        pair.settle();
        let suite = pair.a.engine.ike_sas(pair.now)[0].suite.unwrap().to_string();
        assert!(suite.ends_with(" (weak)"), "{suite}");
        let other = legacy(Who::B, "aes128-sha256-ecp256", esp);
        let mut pair = Pair::new(legacy(Who::A, ike, esp), other);
        pair.initiate(Who::A);
        pair.settle();
        assert!(pair.a.engine.ike_sas(pair.now).iter().all(|sa| sa.suite.is_none()), "{ike}");
    }
}
