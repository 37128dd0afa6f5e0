use super::*;

use ProposalProtocol::{Esp, Ike};

fn shown(protocol: ProposalProtocol, text: &str) -> String {
    Proposal::parse(protocol, text).map_or_else(|e| e.to_string(), |p| p.to_string())
}

#[test]
fn keywords_become_charons_words() {
    const TABLE: &[(ProposalProtocol, &str, &str)] = &[
        (
            Ike,
            "aes128-sha256-modp2048",
            "IKE:AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048",
        ),
        (Ike, "aes256gcm16-prfsha512-ecp521", "IKE:AES_GCM_16_256/PRF_HMAC_SHA2_512/ECP_521"),
        (Ike, "aes256gcm16-sha384-x25519", "IKE:AES_GCM_16_256/PRF_HMAC_SHA2_384/CURVE_25519"),
        (Ike, "aes256gcm16-ecp521", "a proposal needs a PRF"),
        (Ike, "aes128-sha256", "a proposal needs a key exchange method"),
        (Ike, "aes128-modp2048", "a proposal needs a PRF"),
        (Ike, "aes128-prfsha256-modp2048", "a proposal needs an integrity algorithm"),
        (
            Ike,
            "aes128-aes128gcm16-sha256-modp2048",
            "combined-mode and other ciphers need separate proposals",
        ),
        (
            Ike,
            "aes128-sha256-x448-x25519",
            "IKE:AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/CURVE_25519",
        ),
        (Ike, "aes128-sha256-x448", "'x448' is not supported"),
        (
            Ike,
            "aes129-sha256-modp2048",
            "unknown algorithm 'aes129'; AES is aes128, aes192 or aes256, alone or with ctr, gmac, gcm8, gcm12, gcm16, ccm8, \
             ccm12 or ccm16 behind",
        ),
        (
            Esp,
            "aes128-sha3",
            "unknown algorithm 'sha3'; hashes are sha1, sha256, sha384 and sha512",
        ),
        (
            Esp,
            "aes128gcm16-x25518",
            "unknown algorithm 'x25518'; groups are modp2048, modp3072, modp4096, modp6144, modp8192, ecp256, ecp384, ecp521 and \
             x25519",
        ),
        (
            Ike,
            "",
            "unknown algorithm ''; a proposal is such as aes128-sha256-modp2048, aes256gcm16-prfsha384-ecp384 or \
             chacha20poly1305-x25519",
        ),
        (Esp, "aes128gcm16-x25519", "ESP:AES_GCM_16_128/CURVE_25519/NO_EXT_SEQ"),
        (Esp, "aes256gcm64", "ESP:AES_GCM_8_256/NO_EXT_SEQ"),
        (Esp, "aes128gcm12-esn-noesn", "ESP:AES_GCM_12_128/EXT_SEQ/NO_EXT_SEQ"),
        (Esp, "aes128gcm16-sha256", "ESP:AES_GCM_16_128/NO_EXT_SEQ"),
        (Esp, "aes128gcm16-x448", "'x448' is not supported"),
        (Esp, "aes128-sha256-modp2048", "ESP:AES_CBC_128/HMAC_SHA2_256_128/MODP_2048/NO_EXT_SEQ"),
        (Esp, "chacha20poly1305", "ESP:CHACHA20_POLY1305/NO_EXT_SEQ"),
        (Esp, "aes128ctr-sha1", "ESP:AES_CTR_128/HMAC_SHA1_96/NO_EXT_SEQ"),
        (Esp, "null-sha256", "ESP:NULL/HMAC_SHA2_256_128/NO_EXT_SEQ"),
        (Esp, "aes128", "a proposal needs an integrity algorithm"),
        (Esp, "3des-sha1", "'3des' is weak, and needs gateway.legacy = yes"),
        (Esp, "aes128-md5", "'md5' is weak, and needs gateway.legacy = yes"),
        (Esp, "3des-aes128-md5-sha1", "ESP:AES_CBC_128/HMAC_SHA1_96/NO_EXT_SEQ"),
        (Ike, "3des-sha256-modp2048", "'3des' is not supported"),
        (ProposalProtocol::Ah, "aes192gmac", "AH:AES_192_GMAC/NO_EXT_SEQ"),
        (ProposalProtocol::Ah, "sha256-esn", "AH:HMAC_SHA2_256_128/EXT_SEQ"),
        (Ike, "aes256-sha1-modp1024", "'modp1024' is not supported"),
        (Esp, "camellia128-sha256", "'camellia128' is not supported"),
    ];
    for (protocol, text, expected) in TABLE {
        assert_eq!(&shown(*protocol, text), expected, "{text}");
    }
}

#[test]
fn a_proposal_that_cannot_be_done_is_left_out_while_another_remains() {
    let list =
        Proposal::parse_list(Esp, "camellia128-sha256-modp2048, aes128gcm16-modp2048").unwrap();
    assert_eq!(list.proposals.len(), 1);
    assert_eq!(list.proposals[0].to_string(), "ESP:AES_GCM_16_128/MODP_2048/NO_EXT_SEQ");
    assert_eq!(list.left_out.len(), 1);
    assert_eq!(list.left_out[0].0, "camellia128-sha256-modp2048");
    assert_eq!(
        Proposal::parse_list(Esp, "3des-sha256"),
        Err(ProposalError::Weak("3des".to_owned()))
    );
}

/// What is weak is done behind the switch only, and named so.
#[test]
fn weak_algorithms_need_the_switch() {
    let parse =
        |protocol, text| Proposal::parse_with(protocol, text, Weak { allowed: true, ikev1: false });
    for (protocol, text, expected) in [
        (Esp, "3des-sha1", "ESP:3DES_CBC/HMAC_SHA1_96/NO_EXT_SEQ (weak)"),
        (Esp, "aes128-md5", "ESP:AES_CBC_128/HMAC_MD5_96/NO_EXT_SEQ (weak)"),
        (ProposalProtocol::Ah, "md5", "AH:HMAC_MD5_96/NO_EXT_SEQ (weak)"),
        (Esp, "aes128-sha1", "ESP:AES_CBC_128/HMAC_SHA1_96/NO_EXT_SEQ"),
    ] {
        assert_eq!(parse(protocol, text).unwrap().to_string(), expected);
    }
    for (protocol, text) in [
        (Ike, "3des-sha1-modp2048"),
        (Ike, "aes128-md5-modp2048"),
        (Ike, "aes128-sha1-modp1024"),
        (Esp, "aes128-sha1-modp1536"),
    ] {
        assert!(parse(protocol, text).is_err(), "{text} is for IKEv1");
    }
}

/// Phase 1 of IKEv1 has them too, and the groups below 2048 bits, in quick mode as well.
#[test]
fn weak_algorithms_of_ikev1_need_the_switch() {
    for (protocol, text, expected) in [
        (Ike, "3des-md5-modp1024", "IKE:3DES_CBC/HMAC_MD5_96/PRF_HMAC_MD5/MODP_1024 (weak)"),
        (Ike, "3des-sha1-modp2048", "IKE:3DES_CBC/HMAC_SHA1_96/PRF_HMAC_SHA1/MODP_2048 (weak)"),
        (Ike, "aes256-md5-ecp256", "IKE:AES_CBC_256/HMAC_MD5_96/PRF_HMAC_MD5/ECP_256 (weak)"),
        (
            Ike,
            "aes128-sha1-modp1536",
            "IKE:AES_CBC_128/HMAC_SHA1_96/PRF_HMAC_SHA1/MODP_1536 (weak)",
        ),
        (Esp, "aes128-sha1-modp1024", "ESP:AES_CBC_128/HMAC_SHA1_96/MODP_1024/NO_EXT_SEQ (weak)"),
    ] {
        let parse = |allowed| Proposal::parse_with(protocol, text, Weak { allowed, ikev1: true });
        assert_eq!(parse(true).unwrap().to_string(), expected);
        assert!(matches!(parse(false), Err(ProposalError::Weak(_))), "{text}");
    }
}

#[test]
fn defaults_exist_for_ike_and_esp() {
    assert_eq!(Proposal::defaults(Ike).len(), 2);
    assert_eq!(Proposal::defaults(Esp).len(), 2);
    assert_eq!(Proposal::parse_list(Esp, "default").unwrap().proposals, Proposal::defaults(Esp));
}
