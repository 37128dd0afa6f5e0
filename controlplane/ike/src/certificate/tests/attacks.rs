//! The classes of attacks.json that go at certificates and signatures, each by its name.

use super::*;
use crate::message::AuthMethod as Auth;
use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CidrSubnet, GeneralSubtree, NameConstraints, PublicKeyData, SignatureAlgorithm};

/// DigestInfo of SHA-256 (RFC 8017 §9.2), before the hash.
const SHA256_INFO: [u8; 19] =
    [0x30, 0x31, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 32];

/// An RSA signature whose padding is right around something that is not quite a DigestInfo.
#[test]
fn ike2_signed_digest_der() {
    let key = private(&keys()[0]);
    let spki = Authority::root("Root").issue(&keys()[0], "peer", |_| {}).spki().to_vec();
    let hash = digest(&SHA256, b"message");
    let right = [&SHA256_INFO, hash.as_ref()].concat();
    let verifies = |info: &[u8]| {
        let signature = key.sign(SignatureScheme::RsaRaw, info).unwrap();
        SignatureScheme::RsaPkcs1(SignatureHash::Sha2_256).verify(&spki, b"message", &signature)
    };
    assert!(verifies(&right), "what the others differ from");
    let changed = |f: &dyn Fn(&mut Vec<u8>)| {
        let mut info = right.clone();
        f(&mut info);
        info
    };
    let wrong: [Vec<u8>; 9] = [
        hash.as_ref().to_vec(),
        changed(&|i| i.push(0)),
        changed(&|i| i.truncate(50)),
        changed(&|i| i[1] += 1),
        changed(&|i| i[3] += 1),
        changed(&|i| i[15] = 4),
        changed(&|i| i[18] = 31),
        // Without parameters: aws-lc wants the NULL that RFC 8017 §9.2 has.
        changed(&|i| {
            i.drain(15..17);
            i[1] -= 2;
            i[3] -= 2;
        }),
        // Something hidden where the parameters are.
        changed(&|i| {
            i.splice(15..17, [4, 4, 1, 2, 3, 4]);
            i[1] += 4;
            i[3] += 4;
        }),
    ];
    for info in wrong {
        assert!(!verifies(&info), "{info:x?}");
    }
}

/// What IKEv1 signs is the hash, neither less nor more.
#[test]
fn ike1_signed_hash_length() {
    let key = private(&keys()[0]);
    let spki = Authority::root("Root").issue(&keys()[0], "peer", |_| {}).spki().to_vec();
    let hash = [7; 32];
    let sign = |message: &[u8]| key.sign(SignatureScheme::RsaRaw, message);
    let verifies = |signature: &[u8]| SignatureScheme::RsaRaw.verify(&spki, &hash, signature);
    let right = sign(&hash).unwrap();
    assert!(verifies(&right));
    for message in [&hash[..31], &[7; 33], &[7; 245], &[], &[0, 7]] {
        assert!(!verifies(&sign(message).unwrap()), "{} octets", message.len());
    }
    // Eleven octets of padding are the least there is.
    assert_eq!(sign(&[7; 246]), None);
    for signature in [&right[1..], &[&right[..], &[0]].concat(), &[0; 256], &[0xff; 256], &[]] {
        assert!(!verifies(signature));
    }
}

#[test]
fn ike2_signature_hash_confusion() {
    let identifier = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 11, 5, 0];
    let sha1 = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 5, 5, 0];
    let read = |length: u8, identifier: &[u8]| {
        let data = [&[length], identifier, &[9; 256]].concat();
        from_auth(Auth::DigitalSignature, &data).map(|(scheme, _)| scheme)
    };
    assert_eq!(read(15, &identifier), Some(SignatureScheme::RsaPkcs1(SignatureHash::Sha2_256)));
    assert_eq!(read(15, &sha1), None);
    for length in [0, 14, 16, 255] {
        assert_eq!(read(length, &identifier), None, "length octet {length}");
    }
    assert_eq!(read(16, &[&identifier[..], &[0]].concat()), None);
    assert_eq!(from_auth(Auth::DigitalSignature, &[]), None);
    // A signature by a key of another curve or kind than its method says.
    let root = Authority::root("Root");
    let certificate = root.issue(&keys()[2], "peer", |_| {});
    for scheme in [
        SignatureScheme::EcdsaFixed,
        SignatureScheme::Ed25519,
        SignatureScheme::RsaRaw,
        SignatureScheme::RsaPkcs1(SignatureHash::Sha2_256),
        SignatureScheme::Ecdsa(SignatureHash::Sha2_256),
    ] {
        let mut verification = proof(&root, &keys()[2], &certificate);
        verification.scheme = scheme;
        assert_eq!(verification.run(NOW), Err(Untrusted::Signature), "{scheme:?}");
    }
}

#[test]
fn x509_pss_params() {
    // RFC 7427 appendix A.4.3, read by `the_identifiers_of_rfc_7427`; each of these has one field of it changed.
    let good = [
        0x30, 0x46, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 10, 0x30, 0x39, 0xa0, 15, 0x30,
        13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 0xa1, 28, 0x30, 26, 6, 9, 0x2a,
        0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 8, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1,
        5, 0, 0xa2, 3, 2, 1, 0x20, 0xa3, 3, 2, 1, 1,
    ];
    let read = |identifier: &[u8]| {
        let length = u8::try_from(identifier.len()).unwrap();
        let data = [&[length], identifier, &[9; 256]].concat();
        from_auth(Auth::DigitalSignature, &data).map(|(scheme, _)| scheme)
    };
    assert_eq!(read(&good), Some(SignatureScheme::RsaPss(SignatureHash::Sha2_256)));
    for at in 0..good.len() {
        for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
            let mut changed = good;
            changed[at] = value;
            let found = read(&changed);
            assert!(changed == good || found.is_none(), "{at} is {value}: {found:?}");
        }
    }
    // Without the mask, and with none at all (which means SHA-1).
    let maskless = [&good[..32], &good[62..]].concat();
    assert_eq!(read(&maskless), None);
    assert_eq!(read(&good[..13]), None);
}

/// A public key that is none.
struct Bad(Vec<u8>, &'static SignatureAlgorithm);

impl PublicKeyData for Bad {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.1
    }
}

#[test]
fn x509_bad_key() {
    let root = Authority::root("Root");
    let number = |octets: &[u8]| [&[2, 0x82, 1, 1], octets].concat();
    let rsa = |modulus: &[u8], exponent: &[u8]| {
        let content = [modulus, exponent].concat();
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        Bad([&[0x30, 0x82], &length[..], &content].concat(), &PKCS_RSA_SHA256)
    };
    let odd = number(&[&[0, 0xff], &[7; 254][..], &[1]].concat());
    let even = number(&[&[0, 0xff], &[7; 254][..], &[2]].concat());
    let small: &[u8] = &[2, 1, 15];
    let exponents: [&[u8]; 4] = [&[2, 1, 0], &[2, 1, 1], &[2, 1, 2], &[2, 3, 1, 0, 1]];
    let mut bad: Vec<Bad> = Vec::new();
    for exponent in exponents {
        for modulus in [&odd[..], &even, small, &[2, 1, 0], &[2, 1, 1], &[2, 0]] {
            bad.push(rsa(modulus, exponent));
        }
    }
    for (length, algorithm) in [(65, &PKCS_ECDSA_P256_SHA256), (97, &PKCS_ECDSA_P384_SHA384)] {
        // Not on the curve, at infinity, compressed nonsense, too short.
        for first in [4, 0, 2, 5] {
            bad.push(Bad([&[first], &vec![9; length - 1][..]].concat(), algorithm));
        }
        bad.push(Bad(vec![4], algorithm));
        bad.push(Bad(Vec::new(), algorithm));
    }
    bad.push(Bad(vec![0; 32], &PKCS_ED25519));
    bad.push(Bad(vec![1; 31], &PKCS_ED25519));
    for key in bad {
        let mut params = named("peer");
        params.subject_alt_names = vec![SanType::DnsName("peer".try_into().unwrap())];
        let certificate = params.signed_by(&key, &root.issuer()).unwrap();
        for of in keys() {
            let mut verification = proof(&root, of, &parsed(&certificate));
            for scheme in [verification.scheme, SignatureScheme::RsaRaw] {
                verification.scheme = scheme;
                assert!(verification.run(NOW).is_err(), "{:x?}", key.0);
            }
        }
    }
}

/// The two places where a certificate says how it is signed differ.
#[test]
fn x509_sig_alg_variant() {
    let root = Authority::root("Root");
    let certificate = root.issue(&keys()[1], "peer", |_| {});
    let oid = [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let der = certificate.der();
    let outer = der.windows(oid.len()).rposition(|window| window == oid).unwrap();
    for arc in [1, 3, 4, 0xff] {
        let mut verification = proof(&root, &keys()[1], &certificate);
        verification.presented[0][outer + oid.len() - 1] = arc;
        assert!(verification.run(NOW).is_err(), "arc {arc}");
    }
}

/// Nesting without end, lengths without end, and numbers without octets.
#[test]
fn x509_asn1_recursion() {
    let nested = |tag: u8, depth: usize| {
        let mut der: Vec<u8> = vec![5, 0];
        for _ in 0..depth {
            let length = u16::try_from(der.len()).unwrap().to_be_bytes();
            der.splice(0..0, [tag, 0x82, length[0], length[1]]);
        }
        der
    };
    let root = Authority::root("Root");
    for tag in [0x30, 0x31, 0xa0, 0xa3, 0x24] {
        let der = nested(tag, 4000);
        assert!(Certificate::parse(&der).is_err());
        assert!(RevocationList::parse(&der).is_none());
        assert!(PrivateKey::from_der(&der).is_err());
        assert!(!same_name(&der, b"x"));
        // Inside an extension that is known, and inside one that is not.
        for oid in [&[2, 5, 29, 17][..], &[2, 5, 29, 99]] {
            let certificate = {
                let mut params = named("peer");
                let extension = rcgen::CustomExtension::from_oid_content(oid, der.clone());
                params.custom_extensions.push(extension);
                params.signed_by(&keys()[1], &root.issuer()).unwrap()
            };
            let mut verification = proof(&root, &keys()[1], &root.certificate);
            verification.presented = vec![certificate.der().to_vec()];
            assert!(verification.run(NOW).is_err());
        }
    }
    for der in [&[0x30, 0x80, 0, 0][..], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 2, 2, 0]] {
        assert_eq!(Certificate::parse(der).unwrap_err(), CertificateError::Malformed);
    }
}

#[test]
fn x509_name_constraints() {
    let root = Authority::root("Root");
    let key = &keys()[1];
    let check = |constraints: NameConstraints, name: &str| {
        let sub = root.below("Sub", |p| p.name_constraints = Some(constraints));
        let end = sub.issue(key, name, |p| {
            p.subject_alt_names.push(SanType::IpAddress("192.0.2.9".parse().unwrap()));
        });
        let mut verification = proof(&root, key, &end);
        verification.id = fqdn(name);
        verification.presented.push(sub.certificate.der().to_vec());
        verification.run(NOW)
    };
    let only = |permitted: Vec<GeneralSubtree>, excluded: Vec<GeneralSubtree>| NameConstraints {
        permitted_subtrees: permitted,
        excluded_subtrees: excluded,
    };
    let dns = |name: &str| GeneralSubtree::DnsName(name.to_owned());
    let addresses = || GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([192, 0, 2, 0], 24));
    let named_so = || {
        let mut name = rcgen::DistinguishedName::new();
        name.push(DnType::OrganizationName, "Culvert");
        GeneralSubtree::DirectoryName(name)
    };
    assert_eq!(check(only(vec![dns("good.test")], vec![]), "peer.good.test"), Ok(()));
    assert_eq!(check(only(vec![dns("good.test")], vec![]), "peer.bad.test"), Err(Untrusted::Path));
    assert_eq!(check(only(vec![], vec![dns("bad.test")]), "peer.bad.test"), Err(Untrusted::Path));
    assert_eq!(check(only(vec![], vec![addresses()]), "peer.good.test"), Err(Untrusted::Path));
    assert_eq!(check(only(vec![], vec![named_so()]), "peer.good.test"), Err(Untrusted::Path));
}

/// A hundred certificates, the largest there are, and issuers in a circle: bounded work, and no belief.
#[test]
fn ike2_certreq_bomb() {
    let root = Authority::root("Root");
    let key = &keys()[1];
    // Four authorities that certify each other, and the end below the first.
    let circle: Vec<Authority> = (0..4).map(|n| root.below(&format!("Sub {n}"), |_| {})).collect();
    let end = circle[0].issue(key, "peer", |_| {});
    let mut verification = proof(&root, key, &end);
    with(&mut verification, |c| c.authorities.clear());
    for issuer in &circle {
        for subject in &circle {
            let certificate = subject.params.signed_by(&subject.key, &issuer.issuer()).unwrap();
            verification.presented.push(certificate.der().to_vec());
        }
    }
    for _ in 0..100 {
        verification.presented.push(vec![0x30; MAX_LEN]);
    }
    let start = std::time::Instant::now();
    assert!(verification.run(NOW).is_err());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}
