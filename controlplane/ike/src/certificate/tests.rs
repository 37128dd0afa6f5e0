//! Chains made on the spot, each with one fault.

mod attacks;

use super::*;
use crate::config::{AuthMethod, AuthRound};
use crate::crypto::{SignatureHash, SignatureScheme, SignedOctets};
use core::time::Duration;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints as Constraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519,
    PKCS_RSA_SHA256, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use std::sync::{Arc, OnceLock};

/// 2026-07-01.
const NOW: Duration = Duration::from_secs(1_782_864_000);

/// An authority that issues certificates.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pub(crate) certificate: Arc<Certificate>,
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::OrganizationName, "Culvert");
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2045, 1, 1);
    params
}

fn parsed(certificate: &rcgen::Certificate) -> Arc<Certificate> {
    Arc::new(Certificate::parse(certificate.der()).unwrap())
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = named(name);
        params.is_ca = IsCa::Ca(Constraints::Unconstrained);
        let certificate = parsed(&params.self_signed(&key).unwrap());
        Self { params, key, certificate }
    }

    fn below(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = named(name);
        params.is_ca = IsCa::Ca(Constraints::Constrained(0));
        change(&mut params);
        let certificate = parsed(&params.signed_by(&key, &self.issuer()).unwrap());
        Self { params, key, certificate }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    pub(crate) fn issue(
        &self,
        key: &KeyPair,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Arc<Certificate> {
        let mut params = named(name);
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        params.serial_number = Some(SerialNumber::from(7));
        change(&mut params);
        parsed(&params.signed_by(key, &self.issuer()).unwrap())
    }

    /// A list of 2026 in which one is revoked; `next` is when the next is due.
    fn revoke(&self, serial: u64, next: (i32, u8)) -> RevocationList {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(next.0, next.1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2026, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        RevocationList::parse(list.signed_by(&self.issuer()).unwrap().der()).unwrap()
    }
}

/// One key of each kind, made once: RSA takes a while.
fn keys() -> &'static [KeyPair] {
    static KEYS: OnceLock<Vec<KeyPair>> = OnceLock::new();
    KEYS.get_or_init(|| {
        [
            &PKCS_RSA_SHA256,
            &PKCS_ECDSA_P256_SHA256,
            &PKCS_ECDSA_P384_SHA384,
            &PKCS_ECDSA_P521_SHA512,
            &PKCS_ED25519,
        ]
        .map(|algorithm| KeyPair::generate_for(algorithm).unwrap())
        .into()
    })
}

pub(crate) fn private(key: &KeyPair) -> Arc<PrivateKey> {
    Arc::new(PrivateKey::from_der(&key.serialize_der()).unwrap())
}

fn octets() -> SignedOctets {
    SignedOctets::from_hash(b"what both sides said before".to_vec().into())
}

fn fqdn(name: &str) -> Identity {
    Identity::Fqdn(name.to_owned())
}

const ALL_HASHES: &[u8] = &[0, 2, 0, 3, 0, 4, 0, 5];

/// A peer called `peer` with a right proof, of which each test breaks one thing.
fn proof(root: &Authority, key: &KeyPair, certificate: &Certificate) -> Verification {
    let private = private(key);
    let hashes = SignatureHashes::parse(ALL_HASHES);
    let signing = Signing::new(private, hashes, &Requirement::default(), octets()).unwrap();
    Verification {
        id: fqdn("peer"),
        scheme: signing.scheme,
        signature: signing.run().unwrap(),
        octets: octets(),
        presented: vec![certificate.der().to_vec()],
        round: AuthRound::new(AuthMethod::Pubkey, Identity::Any),
        credentials: Arc::new(Credentials {
            authorities: vec![Arc::clone(&root.certificate)],
            ..Credentials::default()
        }),
    }
}

fn with(verification: &mut Verification, change: impl FnOnce(&mut Credentials)) {
    change(Arc::get_mut(&mut verification.credentials).unwrap());
}

#[test]
fn every_kind_of_key_proves_its_holder() {
    let root = Authority::root("Root");
    for key in keys() {
        let certificate = root.issue(key, "peer", |_| {});
        assert!(certificate.is_for(&private(key)));
        let right = proof(&root, key, &certificate);
        assert_eq!(right.run(NOW), Ok(()), "{certificate:?}");
        let wrong = Verification {
            octets: SignedOctets::from_hash(b"something else".to_vec().into()),
            ..proof(&root, key, &certificate)
        };
        assert_eq!(wrong.run(NOW), Err(Untrusted::Signature), "{certificate:?}");
    }
}

/// Methods 1 and 9 to 11, for a peer without RFC 7427; PSS; and what IKEv1 signs.
#[test]
fn every_scheme_of_a_key_verifies_by_it_alone() {
    use SignatureHash::{Sha1, Sha2_256, Sha2_384, Sha2_512};
    let root = Authority::root("Root");
    let none = SignatureHashes::default();
    for key in keys() {
        let certificate = root.issue(key, "peer", |_| {});
        let private = private(key);
        let old = private.scheme(none, &Requirement::default());
        let more: &[SignatureScheme] = match private.public_key() {
            PublicKey::Rsa(2048) => {
                assert_eq!(old, Some(SignatureScheme::RsaPkcs1(Sha1)));
                &[
                    SignatureScheme::RsaPkcs1(Sha1),
                    SignatureScheme::RsaPkcs1(Sha2_384),
                    SignatureScheme::RsaPkcs1(Sha2_512),
                    SignatureScheme::RsaPss(Sha2_256),
                    SignatureScheme::RsaPss(Sha2_384),
                    SignatureScheme::RsaPss(Sha2_512),
                    SignatureScheme::RsaRaw,
                ]
            }
            PublicKey::Ed25519 => {
                assert_eq!((old, private.scheme_v1()), (None, None));
                &[]
            }
            _ => {
                assert_eq!(old, Some(SignatureScheme::EcdsaFixed));
                assert_eq!(private.scheme_v1(), Some(SignatureScheme::EcdsaRaw));
                &[SignatureScheme::EcdsaFixed, SignatureScheme::EcdsaRaw]
            }
        };
        for scheme in more {
            let signature = private.sign(*scheme, b"message").unwrap();
            assert!(scheme.verify(certificate.spki(), b"message", &signature), "{scheme:?}");
            assert!(!scheme.verify(certificate.spki(), b"massage", &signature), "{scheme:?}");
            let mut other = signature.clone();
            *other.last_mut().unwrap() ^= 1;
            assert!(!scheme.verify(certificate.spki(), b"message", &other), "{scheme:?}");
            assert!(!scheme.verify(certificate.spki(), b"message", &signature[1..]), "{scheme:?}");
        }
    }
}

/// What IKEv1 signs is as long as the negotiated hash, whichever curve signs it: a raw signature of the curve's own hash is
/// the usual one of what was hashed, leading zeros change nothing, and what is too long counts by its beginning.
#[test]
fn ecdsa_takes_hashes_of_any_length() {
    use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
    let root = Authority::root("Root");
    for (key, hash) in keys()[1..4].iter().zip([&SHA256, &SHA384, &SHA512]) {
        let spki = root.issue(key, "peer", |_| {}).spki().to_vec();
        let private = private(key);
        let sign = |message: &[u8]| private.sign(SignatureScheme::EcdsaRaw, message).unwrap();
        let raw = |message: &[u8], signature: &[u8]| {
            SignatureScheme::EcdsaRaw.verify(&spki, message, signature)
        };
        let hashed = digest(hash, b"message");
        let signature = sign(hashed.as_ref());
        assert!(SignatureScheme::EcdsaFixed.verify(&spki, b"message", &signature));
        let longer = [hashed.as_ref(), &[1, 2, 3]].concat();
        assert!(raw(&longer, &signature));
        let short = sign(&[7; 20]);
        assert!(raw(&[7; 20], &short) && !raw(&[7; 19], &short));
        let padded = [&vec![0; hash.output_len() - 20][..], &[7; 20]].concat();
        assert!(raw(&padded, &short));
    }
}

#[test]
fn requirements_choose_and_refuse() {
    use SignatureHash::{Sha2_256, Sha2_512};
    let all = SignatureHashes::parse(ALL_HASHES);
    let rsa = private(&keys()[0]);
    let wants = |hashes: &[SignatureHash], pss| Requirement {
        hashes: hashes.to_vec(),
        pss,
        ..Requirement::default()
    };
    assert_eq!(
        rsa.scheme(all, &wants(&[Sha2_512], false)),
        Some(SignatureScheme::RsaPkcs1(Sha2_512))
    );
    assert_eq!(rsa.scheme(all, &wants(&[], true)), Some(SignatureScheme::RsaPss(Sha2_256)));
    // SHA-1 by method 1 is not what was asked for.
    assert_eq!(rsa.scheme(SignatureHashes::default(), &wants(&[Sha2_512], false)), None);
    assert_eq!(private(&keys()[1]).scheme(all, &wants(&[Sha2_512], false)), None);
    let root = Authority::root("Root");
    let certificate = root.issue(&keys()[0], "peer", |_| {});
    for requirement in [
        Requirement { key: Some(KeyType::Ecdsa), ..Requirement::default() },
        Requirement { bits: 3072, ..Requirement::default() },
        wants(&[Sha2_512], false),
        wants(&[], true),
    ] {
        let mut verification = proof(&root, &keys()[0], &certificate);
        verification.round.requirement = requirement;
        assert_eq!(verification.run(NOW), Err(Untrusted::NotAllowed));
    }
}

#[test]
fn identities_are_names_of_the_certificate() {
    let root = Authority::root("Root");
    let key = &keys()[1];
    let certificate = root.issue(key, "peer", |params| {
        params.subject_alt_names.push(SanType::Rfc822Name("me@peer".try_into().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress("192.0.2.9".parse().unwrap()));
        params.subject_alt_names.push(SanType::DnsName("*.wild".try_into().unwrap()));
    });
    let Identity::Dn(mut subject) = certificate.subject() else { panic!("a name") };
    let proves = |id: Identity| certificate.proves(&id);
    assert!(proves(Identity::Dn(subject.clone())));
    assert!(proves(fqdn("PEER")) && proves(Identity::Email("me@peer".to_owned())));
    assert!(proves(Identity::Address("192.0.2.9".parse().unwrap())));
    assert!(proves(Identity::KeyId(certificate.key_hash().to_vec())));
    // No pattern of a certificate covers a name, no name is found in the subject, nothing is proved by being empty.
    assert!(!proves(fqdn("a.wild")) && !proves(fqdn("peer2")) && !proves(fqdn("Culvert")));
    assert!(!proves(Identity::Email("peer".to_owned())) && !proves(Identity::Any));
    assert!(!proves(Identity::KeyId(Vec::new())));
    assert!(!proves(Identity::Address("192.0.2.8".parse().unwrap())));
    // The case of letters and the kind of string do not matter, anything else does.
    let at = subject.windows(4).position(|w| w == b"peer").unwrap();
    subject[at] = b'P';
    assert_eq!(subject[at - 2], 0x0c, "UTF8String");
    subject[at - 2] = 0x13;
    assert!(proves(Identity::Dn(subject.clone())));
    subject[at] = b'b';
    assert!(!proves(Identity::Dn(subject.clone())));
    assert!(!proves(Identity::Dn(subject[..at].to_vec())));
}

/// One fault each, and what is found.
#[test]
fn a_path_with_a_fault_proves_nothing() {
    let root = Authority::root("Root");
    let key = &keys()[1];
    let good = root.issue(key, "peer", |_| {});
    let check = |certificate: &Certificate, f: &dyn Fn(&mut Verification)| {
        let mut verification = proof(&root, key, certificate);
        f(&mut verification);
        verification.run(NOW)
    };
    let as_it_is: &dyn Fn(&mut Verification) = &|_| {};
    assert_eq!(check(&good, as_it_is), Ok(()));
    assert_eq!(check(&good, &|v| v.id = fqdn("other")), Err(Untrusted::NoCertificate));
    assert_eq!(check(&good, &|v| v.presented.clear()), Err(Untrusted::NoCertificate));
    assert_eq!(check(&good, &|v| v.presented[0].truncate(100)), Err(Untrusted::Malformed));
    assert_eq!(check(&good, &|v| v.presented[0].resize(MAX_LEN + 1, 0)), Err(Untrusted::Malformed));
    assert_eq!(
        check(&good, &|v| with(v, |c| c.authorities.clear())),
        Err(Untrusted::UnknownIssuer)
    );
    let stranger = Authority::root("Stranger");
    let trusted = Arc::clone(&stranger.certificate);
    assert_eq!(
        check(&good, &|v| v.round.authorities = vec![trusted.clone()]),
        Err(Untrusted::UnknownIssuer)
    );
    // An authority of the same name with another key.
    let double = Authority::root("Root");
    let of_double = double.issue(key, "peer", |_| {});
    assert_eq!(check(&of_double, as_it_is), Err(Untrusted::Path));
    let expired = root.issue(key, "peer", |p| p.not_after = date_time_ymd(2026, 1, 1));
    assert_eq!(check(&expired, as_it_is), Err(Untrusted::Expired));
    let early = root.issue(key, "peer", |p| p.not_before = date_time_ymd(2027, 1, 1));
    assert_eq!(check(&early, as_it_is), Err(Untrusted::NotValidYet));
    let encrypts =
        root.issue(key, "peer", |p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    assert_eq!(check(&encrypts, as_it_is), Err(Untrusted::KeyUsage));
    let mails = root.issue(key, "peer", |p| {
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
    });
    assert_eq!(check(&mails, as_it_is), Err(Untrusted::KeyUsage));
    let serves = root.issue(key, "peer", |p| {
        p.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::EmailProtection, ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert_eq!(check(&serves, as_it_is), Ok(()));
    let authority = root.issue(key, "peer", |p| p.is_ca = IsCa::Ca(Constraints::Unconstrained));
    assert_eq!(check(&authority, as_it_is), Err(Untrusted::Path));
    let alone = {
        let mut params = named("peer");
        params.subject_alt_names = vec![SanType::DnsName("peer".try_into().unwrap())];
        parsed(&params.self_signed(key).unwrap())
    };
    assert_eq!(check(&alone, as_it_is), Err(Untrusted::UnknownIssuer));
    // Put among ours by hand it is believed.
    assert_eq!(check(&alone, &|v| with(v, |c| c.certificates.push(alone.clone()))), Ok(()));
    // One that is named is the only one.
    assert_eq!(check(&good, &|v| v.round.certificates = vec![good.clone()]), Ok(()));
    assert_eq!(
        check(&good, &|v| v.round.certificates = vec![alone.clone()]),
        Err(Untrusted::NotPinned)
    );
}

#[test]
fn paths_have_authorities_between() {
    let root = Authority::root("Root");
    let key = &keys()[4];
    let check = |end: &Certificate, between: &[&Authority]| {
        let mut verification = proof(&root, key, end);
        verification.presented.extend(between.iter().map(|a| a.certificate.der().to_vec()));
        verification.run(NOW)
    };
    let sub = root.below("Sub", |_| {});
    let end = sub.issue(key, "peer", |_| {});
    assert_eq!(check(&end, &[&sub]), Ok(()));
    assert_eq!(check(&end, &[]), Err(Untrusted::UnknownIssuer));
    let mut known = proof(&root, key, &end);
    with(&mut known, |c| c.certificates.push(sub.certificate.clone()));
    assert_eq!(known.run(NOW), Ok(()));
    // The length that Sub is allowed, zero, is kept.
    let deep = sub.below("Deep", |_| {});
    assert_eq!(check(&deep.issue(key, "peer", |_| {}), &[&deep, &sub]), Err(Untrusted::Path));
    // One that may not certify does not.
    let signs = root.below("Signs", |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    assert_eq!(check(&signs.issue(key, "peer", |_| {}), &[&signs]), Err(Untrusted::UnknownIssuer));
    let end_as_issuer = root.below("End", |p| p.is_ca = IsCa::NoCa);
    let below_end = end_as_issuer.issue(key, "peer", |_| {});
    assert_eq!(check(&below_end, &[&end_as_issuer]), Err(Untrusted::UnknownIssuer));
    let old = root.below("Old", |p| p.not_after = date_time_ymd(2026, 1, 1));
    assert_eq!(check(&old.issue(key, "peer", |_| {}), &[&old]), Err(Untrusted::Expired));
    // Ours goes with what is between, and not with the root.
    let ours = Credentials {
        keys: vec![private(key)],
        certificates: vec![sub.certificate.clone(), end.clone()],
        authorities: vec![root.certificate.clone()],
        ..Credentials::default()
    };
    let round = AuthRound::new(AuthMethod::Pubkey, fqdn("peer"));
    let (own, _) = ours.own(&round, &fqdn("peer"), &[*root.certificate.key_hash()]).unwrap();
    assert_eq!(own, end);
    assert_eq!(ours.chain(&own), core::slice::from_ref(&sub.certificate));
    assert!(ours.own(&round, &fqdn("other"), &[]).is_none());
}

#[test]
fn revoked_is_refused_and_strict_wants_to_know() {
    let root = Authority::root("Root");
    let key = &keys()[1];
    let end = root.issue(key, "peer", |_| {});
    let check = |list: Option<RevocationList>, revocation| {
        let mut verification = proof(&root, key, &end);
        verification.round.revocation = revocation;
        with(&mut verification, |c| c.revocation_lists.extend(list.map(Arc::new)));
        verification.run(NOW)
    };
    use Revocation::{Relaxed, Strict};
    assert_eq!(check(Some(root.revoke(7, (2030, 1))), Relaxed), Err(Untrusted::Revoked));
    assert_eq!(check(Some(root.revoke(8, (2030, 1))), Relaxed), Ok(()));
    assert_eq!(check(Some(root.revoke(8, (2030, 1))), Strict), Ok(()));
    // A list that is too old still says who was revoked, but not that nobody was since.
    let old = || Some(root.revoke(8, (2026, 2)));
    assert_eq!(check(old(), Relaxed), Ok(()));
    assert_eq!(check(old(), Strict), Err(Untrusted::RevocationUnknown));
    assert_eq!(check(None, Strict), Err(Untrusted::RevocationUnknown));
    let stranger = Authority::root("Stranger");
    assert_eq!(check(Some(stranger.revoke(7, (2030, 1))), Relaxed), Ok(()));
    assert_eq!(
        check(Some(stranger.revoke(7, (2030, 1))), Strict),
        Err(Untrusted::RevocationUnknown)
    );
}

/// What mangled bytes are made of: a chain of two, a list, and keys.
struct Material {
    root: Authority,
    key: KeyPair,
    chain: [Vec<u8>; 2],
    list: Vec<u8>,
}

fn material() -> &'static Material {
    static MATERIAL: OnceLock<Material> = OnceLock::new();
    MATERIAL.get_or_init(|| {
        let root = Authority::root("Root");
        let sub = root.below("Sub", |_| {});
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let end = sub.issue(&key, "peer", |p| {
            p.subject_alt_names.push(SanType::IpAddress("192.0.2.9".parse().unwrap()));
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2030, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&root.issuer()).unwrap().der().to_vec();
        let chain = [end.der().to_vec(), sub.certificate.der().to_vec()];
        Material { root, key, chain, list }
    })
}

/// Changes `bytes` at places that the numbers choose: octets changed, removed, doubled, cut.
fn mangle(bytes: &mut Vec<u8>, changes: &[(u8, u16, u8)]) {
    for (kind, at, value) in changes {
        let at = usize::from(*at) % bytes.len().max(1);
        match (kind % 5, bytes.get_mut(at)) {
            (0, Some(octet)) => *octet = *value,
            (1, Some(octet)) => *octet ^= 1 << (value % 8),
            (2, Some(_)) => {
                bytes.remove(at);
            }
            (3, Some(_)) => bytes.insert(at, *value),
            (_, Some(_)) if *value < 8 => bytes.truncate(at),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever a peer sends in CERT and AUTH: no panic, and nothing but the true chain and signature is believed.
    #[test]
    fn mangled_certificates_never_pass(
        which in 0..3usize,
        changes in proptest::collection::vec(any::<(u8, u16, u8)>(), 0..4),
    ) {
        let Material { root, key, chain, .. } = material();
        let end = Certificate::parse(&chain[0]).unwrap();
        let mut verification = proof(root, key, &end);
        verification.presented.push(chain[1].clone());
        let before = (verification.presented.clone(), verification.signature.clone());
        match which {
            2 => mangle(&mut verification.signature, &changes),
            which => mangle(&mut verification.presented[which], &changes),
        }
        let same = before == (verification.presented.clone(), verification.signature.clone());
        prop_assert_eq!(verification.run(NOW).is_ok(), same);
    }

    #[test]
    fn mangled_files_never_panic(
        changes in proptest::collection::vec(any::<(u8, u16, u8)>(), 1..4),
        noise in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let Material { key, list, .. } = material();
        let mut list = list.clone();
        mangle(&mut list, &changes);
        let _ = RevocationList::parse(&list);
        let mut private = key.serialize_der();
        mangle(&mut private, &changes);
        let _ = PrivateKey::from_der(&private);
        let _ = PrivateKey::from_der(&noise);
        let _ = Certificate::parse(&noise);
        let _ = same_name(&noise, &list);
        for method in [1, 9, 10, 11, 14] {
            let _ = from_auth(crate::message::AuthMethod::from_number(method), &noise);
        }
    }
}
