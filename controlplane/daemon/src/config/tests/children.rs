//! Proposals, and what a child says of its packets.

use super::*;

#[test]
fn what_cannot_be_done_is_left_out_while_something_remains() {
    let text = |proposals: &str| {
        format!(
            "connections {{ c {{ proposals = {proposals}\n local {{ auth = psk }} \
             remote {{ auth = psk }} }} }}\nsecrets {{ ike {{ secret = x }} }}"
        )
    };
    let configuration =
        parse(&text("camellia128-sha256-modp2048, aes128-sha256-modp2048")).unwrap();
    assert_eq!(configuration.ike.connections[0].proposals.len(), 1);
    let warnings = warnings(&configuration);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("'camellia128-sha256-modp2048' is left out"), "{warnings:?}");
    let found = errors(&text("camellia128-sha256-modp2048"));
    assert!(found[0].contains("none of the proposals can be done"), "{found:?}");
}

/// Padding is the child's, the segment size the gateway's.
#[test]
fn padding_and_segment_sizes() {
    use ipsec::sa::TfcRule;
    let text = |tfc: &str, clamp: &str| {
        format!(
            "connections {{ c {{ children {{ n {{ tfc_padding = {tfc} }} }}\n local {{ auth = psk }} \
             remote {{ auth = psk }} }} }}\nsecrets {{ ike {{ secret = x }} }}\ngateway {{ {clamp} }}"
        )
    };
    for (tfc, clamp, rule, clamps) in [
        ("0", "", TfcRule::None, false),
        ("mtu", "clamp_mss = no", TfcRule::PathMtu, false),
        ("1000", "clamp_mss = yes", TfcRule::To(1000), true),
    ] {
        let configuration = parse(&text(tfc, clamp)).unwrap();
        let headers = configuration.ike.connections[0].children[0].headers;
        assert_eq!((headers.tfc, headers.clamp_mss), (rule, clamps));
    }
    assert!(errors(&text("70000", ""))[0].contains("tfc_padding"));
}

/// 3DES and MD5 need `gateway.legacy`, and are named weak where they are taken.
#[test]
fn weak_algorithms_are_done_behind_the_switch_only() {
    let text = |legacy: &str| {
        format!(
            "connections {{ c {{ children {{ n {{ esp_proposals = 3des-md5, aes128-sha256 }} }}\n \
             local {{ auth = psk }} remote {{ auth = psk }} }} }}\nsecrets {{ ike {{ secret = x }} }}\n\
             gateway {{ {legacy} }}"
        )
    };
    for (legacy, count, warned) in [
        ("", 1, "'3des-md5' is left out: '3des' is weak, and needs gateway.legacy = yes"),
        ("legacy = no", 1, "'3des-md5' is left out"),
        ("legacy = yes", 2, "'3des-md5' is weak"),
    ] {
        let configuration = parse(&text(legacy)).unwrap();
        let child = &configuration.ike.connections[0].children[0];
        assert_eq!(child.proposals.len(), count, "{legacy}");
        let warnings = warnings(&configuration);
        assert!(warnings.iter().any(|w| w.contains(warned)), "{legacy}: {warnings:?}");
    }
}

/// Phase 1 of IKEv1 and the groups 2 and 5 too; without the switch an error says where, and IKEv2 has none of them.
#[test]
fn weak_algorithms_of_ikev1_are_done_behind_the_switch_only() {
    let text = |version: u8, ike: &str, esp: &str, legacy: &str| {
        format!(
            "connections {{ c {{ version = {version}\n proposals = {ike}\n children {{ n {{ esp_proposals = {esp} }} }}\n \
             local {{ auth = psk }} remote {{ auth = psk }} }} }}\nsecrets {{ ike {{ secret = x }} }}\n\
             gateway {{ legacy = {legacy} }}"
        )
    };
    let weak = |version, legacy| text(version, "3des-md5-modp1024", "3des-sha1-modp1536", legacy);
    let configuration = parse(&weak(1, "yes")).unwrap();
    let warned = warnings(&configuration);
    for what in ["'3des-md5-modp1024' is weak", "'3des-sha1-modp1536' is weak"] {
        assert!(warned.iter().any(|w| w.contains(what)), "{warned:?}");
    }
    let refused = errors(&weak(1, "no"));
    let said = "t.conf:2: connections.c.proposals: none of the proposals can be done: '3des-md5-modp1024': '3des' is \
                weak, and needs gateway.legacy = yes";
    assert!(refused.iter().any(|e| e.contains(said)), "{refused:?}");
    let groups = text(1, "aes128-sha1-modp1024", "aes128-sha1-modp1024", "no");
    let refused = errors(&groups);
    for key in ["proposals: none", "children.n.esp_proposals: none"] {
        let named = |e: &&String| e.contains(key) && e.contains("'modp1024' is weak, and needs");
        assert!(refused.iter().any(|e| named(&e)), "{refused:?}");
    }
    let refused = errors(&weak(2, "yes"));
    assert!(refused.iter().any(|e| e.contains("'3des' is not supported")), "{refused:?}");
}

/// ESP over AH: no child has both, by whichever order of the two keys, and a child has ESP's default only without AH.
#[test]
fn bundles_of_esp_and_ah_are_refused() {
    let text = |proposals: &str| {
        format!(
            "connections {{ c {{ children {{ n {{\n{proposals}\n}} }}\n local {{ auth = psk }} remote {{ auth = psk }} }} }}\n\
             secrets {{ ike {{ secret = x }} }}"
        )
    };
    for both in [
        "ah_proposals = sha256\n esp_proposals = aes128gcm16",
        "esp_proposals = aes128gcm16\n ah_proposals = sha256",
        "ah_proposals = default\n esp_proposals = default",
    ] {
        let errors = errors(&text(both));
        assert_eq!(errors.len(), 1, "{errors:?}");
        let said =
            "connections.c.children.n.ah_proposals: a child has AH or ESP proposals, not both";
        assert!(errors[0].contains(said), "{errors:?}");
    }
    for (one, protocol) in
        [("ah_proposals = sha256", ProposalProtocol::Ah), ("", ProposalProtocol::Esp)]
    {
        let configuration = parse(&text(one)).unwrap();
        let proposals = &configuration.ike.connections[0].children[0].proposals;
        assert!(!proposals.is_empty() && proposals.iter().all(|p| p.protocol == protocol), "{one}");
    }
}

/// What can be written and is for no packet.
#[test]
fn what_has_no_effect_is_told() {
    let text = |child: &str| {
        format!(
            "connections {{ c {{ children {{ n {{\n {child} }} }}\n local {{ auth = psk }} \
             remote {{ auth = psk }} }} }}\nsecrets {{ ike {{ secret = x }} }}"
        )
    };
    let in_vain = "packets of this protocol show no ports, so it is for none of them";
    for (child, expected) in [
        ("remote_ts = 10.0.0.0/8[gre/80]", Some(format!("'10.0.0.0/8[gre/80]': {in_vain}"))),
        ("local_ts = 10.0.0.0/8[gre], ::/0[47/5-9]", Some(format!("'::/0[47/5-9]': {in_vain}"))),
        ("local_ts = 10.0.0.0/8[udp/53], 10.0.0.0/8[icmp/8], 10.0.0.0/8[sctp/7-9]", None),
        ("local_ts = 10.0.0.0/8[gre/opaque], 10.0.0.0/8[gre/%any]", None),
        (
            "mode = transport\n tfc_padding = 100",
            Some("has no effect: what is padded is the packet in a tunnel (RFC 4303 §2.7)".into()),
        ),
        ("mode = tunnel\n tfc_padding = 100", None),
    ] {
        let found = warnings(&parse(&text(child)).unwrap());
        match expected {
            Some(expected) => {
                assert!(found.len() == 1 && found[0].ends_with(&expected), "{found:?}");
            }
            None => assert_eq!(found, Vec::<String>::new(), "{child}"),
        }
    }
}

/// What IKEv1 has no words for is said where it stands: another PRF than the hash's, algorithms without a number, ports that are not one or all.
#[test]
fn what_ikev1_cannot_say() {
    let text = |version: u8, ike: &str, child: &str| {
        format!(
            "connections {{ c {{ version = {version}\n proposals = {ike}\n children {{ n {{\n {child} }} }}\n \
             local {{ auth = psk }} remote {{ auth = psk }} }} }}\nsecrets {{ ike {{ secret = x }} }}"
        )
    };
    let ike = "aes128-sha256-modp2048";
    for (ike, child, said) in [
        ("aes128-sha256-prfsha512-modp2048", "", "t.conf:2: connections.c.proposals: IKEv1 has no"),
        (
            ike,
            "esp_proposals = chacha20poly1305",
            "t.conf:4: connections.c.children.n.esp_proposals: IKEv1 has no number for",
        ),
    ] {
        let found = errors(&text(1, ike, child));
        assert!(found.iter().any(|e| e.contains(said)), "{said}: {found:?}");
        assert!(parse(&text(2, ike, child)).is_ok());
    }
    // One that can be said is enough.
    assert!(parse(&text(1, ike, "esp_proposals = chacha20poly1305, aes128gcm16")).is_ok());
    for (child, is_warned) in [
        ("local_ts = 10.1.0.0/16[tcp/100-200]", true),
        ("local_ts = 10.1.0.0/16[icmp/8]", true),
        ("local_ts = 10.1.0.0/16[tcp/80]", false),
        ("local_ts = 10.1.0.0/16[tcp]", false),
    ] {
        for version in [1, 2] {
            let warned = warnings(&parse(&text(version, ike, child)).unwrap());
            let said = "t.conf:4: connections.c.children.n.local_ts: IKEv1 says one port or all";
            let found = warned.iter().any(|w| w.contains(said));
            assert_eq!(found, is_warned && version == 1, "{child}: {warned:?}");
        }
    }
}
