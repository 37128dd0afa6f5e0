//! Certificates, revocation lists and private keys from the directories beside the configuration.
//!
//! `x509/`, `x509ca/`, `x509crl/`, `private/`, `rsa/`, `ecdsa/` and `pkcs8/`, as swanctl has them, in PEM or DER. What a
//! private key file holds appears in no message and is wiped.

use super::diagnostic::{Diagnostics, Location, Source};
use super::secrets::{DIRECTORIES, OTHERS, Passphrase};
use super::{Options, identity};
use base64::Engine as _;
use ike::certificate::{Certificate, CertificateError, Credentials, PrivateKey, RevocationList};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Octets of a certificate or key file: what the largest certificate takes in PEM, several times.
const MAX_FILE: usize = 128 * 1024;

/// Octets of a revocation list; those of large public authorities have some 10 MiB.
const MAX_LIST: usize = 32 * 1024 * 1024;

/// Files of one directory: each certificate may be compared with what a peer sends.
const MAX_FILES: usize = 10_000;

/// Where certificates of a connection come from.
pub(crate) struct Files<'a> {
    /// The directory that `x509/` and the others are in.
    base: PathBuf,
    /// All that is loaded.
    pub(crate) credentials: &'a Credentials,
}

/// The directory of `x509/` and the others: `SWANCTL_DIR`, or else where the configuration is.
pub(crate) fn base(configuration: &Path) -> PathBuf {
    std::env::var_os("SWANCTL_DIR").map_or_else(|| configuration.to_owned(), PathBuf::from)
}

impl<'a> Files<'a> {
    pub(crate) fn new(base: PathBuf, credentials: &'a Credentials) -> Self {
        Self { base, credentials }
    }

    /// A certificate by absolute path, or by name in `directory`.
    pub(crate) fn certificate(&self, directory: &str, file: &str) -> Result<Certificate, String> {
        let path = self.base.join(directory).join(file);
        let shown = path.display();
        let content =
            read(&path, MAX_FILE).map_err(|error| format!("cannot read {shown}: {error}"))?;
        certificate(&content).map_err(|error| format!("{shown}: {error}"))
    }
}

/// The one certificate in `content`, or the first.
pub(crate) fn certificate(content: &[u8]) -> Result<Certificate, String> {
    let blocks = blocks(content)?;
    let block =
        blocks.iter().find(|b| b.is_certificate()).ok_or("there is no certificate in it")?;
    Certificate::parse(&block.der).map_err(|error: CertificateError| error.to_string())
}

/// A certificate, authority, list or key that a client loads.
#[derive(Debug)]
pub enum Credential {
    /// `x509` of a file.
    Certificate(Arc<Certificate>),
    /// `x509ca` of a file.
    Authority(Arc<Certificate>),
    /// `x509crl` of a file.
    RevocationList(Arc<RevocationList>),
    /// `private` of a file.
    Key(Arc<PrivateKey>),
}

impl Credential {
    /// Reads VICI's `load-cert`: the content of a file, `type` and `flag`.
    ///
    /// # Errors
    /// What is wrong, for the answer.
    pub fn certificate(kind: &str, flag: &str, data: &[u8]) -> Result<Self, String> {
        if kind.eq_ignore_ascii_case("X509_CRL") {
            let list = blocks(data)?.iter().find_map(|block| RevocationList::parse(&block.der));
            return list
                .map(|list| Self::RevocationList(Arc::new(list)))
                .ok_or_else(|| "not a revocation list (version 2) in PEM or DER".to_owned());
        }
        if !kind.eq_ignore_ascii_case("X509") {
            return Err(format!("certificates of type {kind} are not supported"));
        }
        let certificate = Arc::new(certificate(data)?);
        match flag.to_ascii_uppercase().as_str() {
            "CA" if certificate.is_authority() => Ok(Self::Authority(certificate)),
            "CA" => Err("not a CA certificate".to_owned()),
            "NONE" | "" => Ok(Self::Certificate(certificate)),
            other => Err(format!("certificates with the flag {other} are not supported")),
        }
    }

    /// Reads VICI's `load-key`: the content of a file, unencrypted.
    ///
    /// # Errors
    /// What is wrong, for the answer.
    pub fn key(data: &[u8]) -> Result<Self, String> {
        let blocks = blocks(data)?;
        let block = blocks.iter().find(|b| b.is_key()).ok_or("there is no private key in it")?;
        let key = PrivateKey::from_der(&block.der).map_err(|error| error.to_string())?;
        Ok(Self::Key(Arc::new(key)))
    }

    /// Puts it with the others, once.
    pub(crate) fn add_to(&self, credentials: &mut Credentials) {
        let add = |list: &mut Vec<Arc<Certificate>>, new: &Arc<Certificate>| {
            if !list.contains(new) {
                list.push(Arc::clone(new));
            }
        };
        match self {
            Self::Certificate(new) => add(&mut credentials.certificates, new),
            Self::Authority(new) => add(&mut credentials.authorities, new),
            Self::RevocationList(new) => {
                credentials.revocation_lists.push(Arc::clone(new));
                credentials.revocation_lists.sort_by_key(|l| core::cmp::Reverse(l.issued()));
            }
            Self::Key(new) => {
                if credentials.keys.iter().all(|key| key.id() != new.id()) {
                    credentials.keys.push(Arc::clone(new));
                }
            }
        }
    }

    /// Whether it is the key of this ID.
    pub(crate) fn is_key(&self, id: &[u8]) -> bool {
        matches!(self, Self::Key(key) if key.id() == id)
    }
}

/// Loads all that the directories hold. A file that cannot be used is an error where it is a private key, as the
/// connection that needs it would fail, and else a warning.
pub(crate) fn load(
    base: &Path,
    passphrases: &[Passphrase],
    options: Options,
    findings: &mut Diagnostics,
) -> Credentials {
    let mut credentials = Credentials::default();
    for (directory, authorities) in [("x509", false), ("x509ca", true)] {
        for (path, at) in files(&base.join(directory), findings) {
            let parsed = read(&path, MAX_FILE)
                .map_err(|error| error.to_string())
                .and_then(|content| blocks(&content));
            let blocks = match parsed {
                Ok(blocks) => blocks,
                Err(error) => {
                    findings.warn(&at, "", format!("is left out: {error}"));
                    continue;
                }
            };
            for block in blocks.iter().filter(|block| block.is_certificate()) {
                match Certificate::parse(&block.der) {
                    Ok(certificate) if authorities && !certificate.is_authority() => {
                        findings.warn(
                            &at,
                            "",
                            "is left out: not a CA certificate; put it into x509/",
                        );
                    }
                    Ok(certificate) => {
                        warn_times(&certificate, &at, findings);
                        let list = match authorities {
                            true => &mut credentials.authorities,
                            false => &mut credentials.certificates,
                        };
                        list.push(Arc::new(certificate));
                    }
                    Err(error) => findings.warn(&at, "", format!("is left out: {error}")),
                }
            }
        }
    }
    for (path, at) in files(&base.join("x509crl"), findings) {
        let list = read(&path, MAX_LIST).ok().and_then(|content| {
            let blocks = blocks(&content).ok()?;
            blocks.iter().find_map(|block| RevocationList::parse(&block.der))
        });
        match list {
            Some(list) => credentials.revocation_lists.push(Arc::new(list)),
            None => findings.warn(
                &at,
                "",
                "is left out: not a revocation list (version 2) in PEM or DER",
            ),
        }
    }
    credentials.revocation_lists.sort_by_key(|list| core::cmp::Reverse(list.issued()));
    for directory in DIRECTORIES {
        let found = files(&base.join(directory), findings);
        for passphrase in passphrases.iter().filter(|p| p.directory == directory) {
            let path = base.join(directory).join(&passphrase.file);
            if !path.exists() {
                let key = format!("{}.file", passphrase.path);
                findings.error(
                    &passphrase.at,
                    &key,
                    format!("there is no file {}", path.display()),
                );
            }
        }
        for (path, at) in found {
            if !options.readable_secrets {
                report_open(&path, &at, findings);
            }
            let secret = passphrases
                .iter()
                .find(|p| p.directory == directory && base.join(directory).join(&p.file) == path);
            let secret = secret.map(|passphrase| passphrase.secret.expose());
            match private_key(&path, secret) {
                Ok(key) => credentials.keys.push(Arc::new(key)),
                Err(error) => findings.error(&at, "", error),
            }
        }
    }
    credentials
}

/// What is past its time helps nobody.
fn warn_times(certificate: &Certificate, at: &Location, findings: &mut Diagnostics) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map(|now| now.as_secs()).unwrap_or_default();
    if !certificate.valid().contains(&now) {
        let subject = identity::display(&certificate.subject());
        let when =
            if now > *certificate.valid().end() { "has expired" } else { "is not valid yet" };
        findings.warn(
            at,
            "",
            format!("the certificate of '{}' {when}", super::fields::shown(&subject)),
        );
    }
}

/// The regular files of a directory in the order of their names; hidden ones are left out.
fn files(directory: &Path, findings: &mut Diagnostics) -> Vec<(PathBuf, Location)> {
    let location = |path: &Path| Location {
        source: Arc::new(Source {
            name: path.display().to_string(),
            mode: None,
            directory: directory.to_owned(),
        }),
        line: 0,
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            findings.warn(&location(directory), "", format!("cannot be read: {error}"));
            return Vec::new();
        }
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_file())
        .filter(|path| {
            path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
        })
        .collect();
    paths.sort();
    if paths.len() > MAX_FILES {
        let message = format!("has more than {MAX_FILES} files: the others are left out");
        findings.warn(&location(directory), "", message);
        paths.truncate(MAX_FILES);
    }
    paths.into_iter().map(|path| (path.clone(), location(&path))).collect()
}

/// A file of at most `limit` octets. Room is there from the start: growing would leave copies of keys behind.
fn read(path: &Path, limit: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = fs::File::open(path)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let too_long = || io::Error::other(format!("larger than {limit} octets"));
    if length > limit {
        return Err(too_long());
    }
    let mut content = Zeroizing::new(Vec::with_capacity(length + 1));
    file.take(u64::try_from(limit).unwrap_or(u64::MAX)).read_to_end(&mut content)?;
    Ok(content)
}

fn private_key(path: &Path, secret: Option<&[u8]>) -> Result<PrivateKey, String> {
    let content = read(path, MAX_FILE).map_err(|error| format!("cannot be read: {error}"))?;
    let blocks = blocks(&content)?;
    let block = blocks.iter().find(|b| b.is_key()).ok_or("there is no private key in it")?;
    if block.legacy_encryption {
        return Err(
            "is encrypted the old way of OpenSSL; run: openssl pkcs8 -topk8 -in OLD -out NEW"
                .to_owned(),
        );
    }
    let plain;
    let der: &[u8] = match pkcs8::EncryptedPrivateKeyInfoRef::try_from(block.der.as_slice()) {
        Ok(encrypted) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let secret = secret.ok_or_else(|| {
                format!(
                    "is encrypted, and no secret is for it: write secrets {{ private-1 {{ file = {name} secret = … }} }}"
                )
            })?;
            plain = encrypted.decrypt(secret).map_err(|_| {
                "cannot be decrypted: the passphrase is wrong, or it is not PBES2 with AES"
                    .to_owned()
            })?;
            plain.as_bytes()
        }
        Err(_) => &block.der,
    };
    PrivateKey::from_der(der).map_err(|error| error.to_string())
}

/// A key that others can change is not ours. One that others can read is a warning only, unlike a secret in the configuration:
/// the tools that make keys leave them so, and charon takes them.
fn report_open(path: &Path, at: &Location, findings: &mut Diagnostics) {
    let Some(mode) = open_to_others(path) else { return };
    let shown = path.display();
    if mode & 0o002 == 0 {
        let message = format!(
            "has mode {mode:04o}: every user can read this private key; run: chmod 600 {shown}"
        );
        findings.warn(at, "", message);
    } else {
        let message = format!(
            "has mode {mode:04o}, so every user can change this private key; run: chmod 600 {shown}"
        );
        findings.error(at, "", message);
    }
}

/// The mode of a file that every user can read or change: its own bits allow it, and each directory on the way.
fn open_to_others(path: &Path) -> Option<u32> {
    let mode = fs::metadata(path).ok()?.mode() & 0o7777;
    if mode & OTHERS == 0 {
        return None;
    }
    let absolute = fs::canonicalize(path).ok()?;
    let reachable = absolute
        .ancestors()
        .skip(1)
        .all(|directory| fs::metadata(directory).is_ok_and(|m| m.mode() & 0o001 != 0));
    reachable.then_some(mode)
}

/// One object of a file.
struct Block {
    /// What PEM calls it; empty for DER.
    label: String,
    der: Zeroizing<Vec<u8>>,
    /// PEM with headers of its own (RFC 1421), as OpenSSL encrypted keys before PKCS #8.
    legacy_encryption: bool,
}

impl Block {
    fn is_certificate(&self) -> bool {
        self.label.is_empty() || self.label.ends_with("CERTIFICATE")
    }

    fn is_key(&self) -> bool {
        self.label.is_empty() || self.label.ends_with("PRIVATE KEY")
    }
}

/// The objects of a file: those of PEM (RFC 7468), or the one in DER.
fn blocks(content: &[u8]) -> Result<Vec<Block>, String> {
    const BEGIN: &str = "-----BEGIN ";
    const END: &str = "-----END ";
    const CLOSE: &str = "-----";
    let text = core::str::from_utf8(content).ok().filter(|text| text.contains(BEGIN));
    let Some(text) = text else {
        let der = Zeroizing::new(content.to_vec());
        return Ok(vec![Block { label: String::new(), der, legacy_encryption: false }]);
    };
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix(BEGIN).and_then(|l| l.strip_suffix(CLOSE)) else {
            continue;
        };
        let mut encoded = Zeroizing::new(String::with_capacity(content.len()));
        let mut legacy_encryption = false;
        let mut ended = false;
        for line in lines.by_ref() {
            if line.starts_with(END) {
                ended = true;
                break;
            }
            if line.contains(':') {
                legacy_encryption |= line.contains("ENCRYPTED");
            } else {
                encoded.push_str(line);
            }
        }
        if !ended {
            return Err(format!("the line '-----END {label}-----' is missing"));
        }
        if legacy_encryption {
            // The line with the cipher and its initialization vector belongs to what is not read.
            encoded.clear();
        }
        let mut der = Zeroizing::new(vec![0; encoded.len()]);
        let length = base64::engine::general_purpose::STANDARD
            .decode_slice(encoded.as_bytes(), &mut der)
            .map_err(|_| format!("what is between the lines of '{label}' is not Base64"))?;
        der.truncate(length);
        blocks.push(Block { label: label.to_owned(), der, legacy_encryption });
    }
    Ok(blocks)
}
