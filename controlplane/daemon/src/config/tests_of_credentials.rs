//! Certificates and keys in the directories beside a configuration.

use super::{Configuration, Credential, Options, Source, Store};
use ike::config::{AuthMethod, Identity};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

/// A directory with a PKI, gone at the end of the test.
struct Directory(PathBuf);

impl Directory {
    /// `rsa-a.crt` of the scenario (the key is another kind, which no file name decides), its authority and key.
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("culvert-{}-{name}", std::process::id()));
        for folder in ["x509", "x509ca", "x509crl", "private"] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        let directory = Self(path);
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let (root, own) = (key(), key());
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&root).unwrap();
        let end = CertificateParams::new(["a.interop.test".to_owned()]).unwrap();
        let end = end.signed_by(&own, &Issuer::from_params(&params, &root)).unwrap();
        directory.write("x509ca/rsa-ca.crt", authority.pem().as_bytes());
        directory.write("x509/rsa-a.crt", end.der());
        directory.write("private/rsa-a.key", own.serialize_pem().as_bytes());
        directory
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.0.join(name), content).unwrap();
        self.mode(name, 0o600);
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.0.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.0.join(name)).unwrap();
    }

    fn parse_with(&self, more: &str) -> Result<Configuration, String> {
        let text = include_str!("../../tests/scenarios/ikev2-rsa-a.conf").to_owned() + more;
        let source = Source { name: "a.conf".into(), mode: Some(0o600), directory: self.0.clone() };
        Configuration::parse(&text, source, Options::default()).map_err(|e| e.to_string())
    }

    fn parse(&self) -> Result<Configuration, String> {
        self.parse_with("")
    }

    /// The errors name the setting or the file, and this.
    fn is_refused(&self, wanted: &[&str]) {
        let errors = self.parse().expect_err("an error was expected");
        for part in wanted {
            assert!(errors.contains(part), "{part}: {errors}");
        }
    }

    fn warns(&self, wanted: &[&str]) {
        let configuration = self.parse().unwrap();
        let warnings: Vec<String> =
            configuration.warnings.iter().map(ToString::to_string).collect();
        let warnings = warnings.join("\n");
        for part in wanted {
            assert!(warnings.contains(part), "{part}: {warnings}");
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_scenario_with_certificates_loads_as_it_is() {
    let directory = Directory::new("scenario");
    let configuration = directory.parse().unwrap();
    assert_eq!(configuration.warnings, []);
    let gw = &configuration.ike.connections[0];
    assert_eq!((gw.local.method, gw.remote.method), (AuthMethod::Pubkey, AuthMethod::Pubkey));
    let own = &gw.local.certificates[0];
    assert_eq!(own.names(), [Identity::Fqdn("a.interop.test".into())]);
    let credentials = &configuration.ike.credentials;
    assert!(credentials.key_of(own).is_some());
    assert_eq!(gw.remote.authorities, credentials.authorities);
    assert!(credentials.certificates.contains(own));
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let directory = Directory::new("missing");
    directory.write("x509crl/x.crl", b"nothing");
    directory.warns(&["x.crl: is left out: not a revocation list"]);
    directory.remove("private/rsa-a.key");
    directory.warns(&["a.conf:14: connections.gw.local.certs: no private key for", "private/"]);
    directory.write("x509/rsa-a.crt", b"-----BEGIN CERTIFICATE-----\nAAAA\n");
    directory.is_refused(&[
        "a.conf:14: connections.gw.local.certs:",
        "'-----END CERTIFICATE-----' is missing",
    ]);
    directory
        .write("x509/rsa-a.crt", b"-----BEGIN CERTIFICATE-----\n%\n-----END CERTIFICATE-----\n");
    directory.is_refused(&["not Base64"]);
    directory.write("x509/rsa-a.crt", &[0x30; 20_000]);
    directory.is_refused(&["larger than 16384 octets"]);
    directory.remove("x509/rsa-a.crt");
    directory.is_refused(&["a.conf:14: connections.gw.local.certs: cannot read", "x509/rsa-a.crt"]);
    directory
        .write("private/x.key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    directory.is_refused(&["x.key: not an RSA"]);
    directory.remove("private/x.key");
    let errors = directory.parse_with("authorities { x {\n cacert = y.crt } }").unwrap_err();
    assert!(errors.contains("authorities.x.cacert: cannot read"), "{errors}");
}

#[test]
fn an_identity_that_is_not_certified_becomes_the_subject() {
    let directory = Directory::new("identity");
    let more = "connections { gw { local {\n id = other.test } } }";
    let configuration = directory.parse_with(more).unwrap();
    let gw = &configuration.ike.connections[0];
    assert_eq!(gw.local.id, gw.local.certificates[0].subject());
    assert!(configuration.warnings[0].message.contains("'other.test' is in no certificate"));
}

#[test]
fn keys_that_others_can_read_or_change_are_reported() {
    let directory = Directory::new("readable");
    directory.mode("private/rsa-a.key", 0o644);
    directory.warns(&["rsa-a.key: has mode 0644: every user can read", "chmod 600"]);
    directory.mode("private/rsa-a.key", 0o666);
    directory.is_refused(&["rsa-a.key: has mode 0666, so every user can change", "chmod 600"]);
    // In a directory that others cannot enter it is safe.
    directory.mode("private", 0o700);
    assert_eq!(directory.parse().unwrap().warnings, []);
}

#[test]
fn encrypted_keys_need_their_passphrase() {
    use pkcs8::pkcs5::pbes2::Parameters;
    let directory = Directory::new("encrypted");
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let parameters = Parameters::generate_pbkdf2_sha256_aes256cbc(1000, &[7; 16], [9; 16]).unwrap();
    let der = key.serialize_der();
    let plain = pkcs8::PrivateKeyInfoRef::try_from(der.as_slice()).unwrap();
    let encrypted = plain.encrypt_with_params(parameters, "pass").unwrap();
    directory.write("private/other.key", encrypted.as_bytes());
    directory.is_refused(&["other.key: is encrypted, and no secret is for it", "file = other.key"]);
    let secret = |file: &str, word: &str| {
        format!("secrets {{ private-1 {{\n file = {file}\n secret = {word} }} }}")
    };
    let keys = |more: &str| directory.parse_with(more).map(|c| c.ike.credentials.keys.len());
    assert_eq!(keys(&secret("other.key", "pass")), Ok(2));
    let wrong = keys(&secret("other.key", "guess")).unwrap_err();
    assert!(wrong.contains("other.key: cannot be decrypted"), "{wrong}");
    assert!(!wrong.contains("guess"), "{wrong}");
    let absent = keys(&secret("none.key", "pass")).unwrap_err();
    assert!(absent.contains("secrets.private-1.file: there is no file"), "{absent}");
}

/// What clients load stays beside what files have, once, until it is cleared.
#[test]
fn credentials_of_clients_join_those_of_files() {
    let directory = Directory::new("clients");
    let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&other).unwrap();
    let mut store = Store::new(directory.parse().unwrap());
    let counts = |store: &Store| {
        let c = store.credentials();
        [c.keys.len(), c.certificates.len(), c.authorities.len()]
    };
    assert_eq!(counts(&store), [1, 1, 1]);
    for _ in 0..2 {
        store.load_credential(Credential::key(other.serialize_pem().as_bytes()).unwrap());
        let load = |flag| Credential::certificate("X509", flag, authority.der()).unwrap();
        store.load_credential(load("CA"));
        store.load_credential(load("NONE"));
        assert_eq!(counts(&store), [2, 2, 2]);
    }
    store.reload(directory.parse().unwrap());
    assert_eq!(counts(&store), [2, 2, 2]);
    let id = store.credentials().keys[1].id();
    assert!(store.unload_key(&id) && !store.unload_key(&id));
    store.clear_secrets();
    assert_eq!(counts(&store), [0, 0, 0]);
    for (kind, flag) in [("X509_AC", "NONE"), ("X509", "OCSP"), ("X509_CRL", "NONE")] {
        assert!(Credential::certificate(kind, flag, authority.der()).is_err(), "{kind} {flag}");
    }
    assert!(Credential::key(b"nothing").is_err());
}
