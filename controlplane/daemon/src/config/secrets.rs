//! `secrets`: named shared secrets. Their values appear in no message.

use super::diagnostic::{Diagnostics, Location};
use super::fields::{Fields, shown};
use super::syntax::{Section, Value};
use super::{Options, identity, keys, value};
use ike::config::{Identity, Psk};
use ipsec::algorithm::KeyMaterial;

/// What a secret is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// IKE preshared key.
    Ike,
    /// EAP or XAuth.
    Eap,
    /// The NT hash of an EAP-MSCHAPv2 password.
    Ntlm,
    /// Postquantum preshared key (RFC 8784).
    Ppk,
}

impl SecretKind {
    /// The kind that a section name begins with, or that VICI's `type` says.
    pub fn from_prefix(name: &str) -> Option<Self> {
        let kinds = [
            ("ike", Self::Ike),
            ("eap", Self::Eap),
            ("xauth", Self::Eap),
            ("ntlm", Self::Ntlm),
            ("ppk", Self::Ppk),
        ];
        let is = |prefix: &str| {
            name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        kinds.into_iter().find(|(prefix, _)| is(prefix)).map(|(_, kind)| kind)
    }
}

/// A shared secret. Wiped on drop; neither cloned, compared nor printed.
#[derive(Debug)]
pub struct Secret {
    /// The name of its section, or the `id` of VICI.
    pub name: String,
    /// What it is for.
    pub kind: SecretKind,
    /// Whom it is for; none means any.
    pub owners: Vec<Identity>,
    /// The secret.
    pub data: KeyMaterial,
}

/// The preshared keys among `secrets`, as the engine takes them.
pub fn psks<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Vec<Psk> {
    of_kind(secrets, SecretKind::Ike)
}

fn of_kind<'a>(secrets: impl IntoIterator<Item = &'a Secret>, kind: SecretKind) -> Vec<Psk> {
    secrets
        .into_iter()
        .filter(|s| s.kind == kind)
        .map(|s| Psk {
            owners: s.owners.clone(),
            secret: KeyMaterial::new(s.data.expose().to_vec()),
        })
        .collect()
}

/// The names and passwords among `secrets` (`xauth` and `eap` alike, as charon has it), as the engine takes them.
pub(super) fn users<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Vec<Psk> {
    of_kind(secrets, SecretKind::Eap)
}

/// Directories of private keys, which are the prefixes of their passphrases' sections, too.
pub(crate) const DIRECTORIES: [&str; 4] = ["private", "rsa", "ecdsa", "pkcs8"];

const KEY_SECRETS: [&str; 6] = ["private", "rsa", "ecdsa", "pkcs8", "pkcs12", "token"];

/// Bits of a file's mode that let everyone read or change it.
pub(crate) const OTHERS: u32 = 0o006;

/// Reads all of `secrets`.
pub(crate) fn resolve(
    section: &Section,
    options: Options,
    findings: &mut Diagnostics,
) -> (Vec<Secret>, Vec<Passphrase>) {
    let mut secrets = Vec::new();
    let mut passphrases = Vec::new();
    for setting in &section.settings {
        let path = format!("secrets.{}", setting.key);
        findings.error(&setting.at, &path, "unknown key; 'secrets' has one section for each");
    }
    for section in &section.sections {
        let path = format!("secrets.{}", section.name);
        if !options.readable_secrets {
            refuse_readable(section, &path, findings);
        }
        if let Some(kind) = SecretKind::from_prefix(&section.name) {
            secrets.extend(secret(section, kind, path, findings));
        } else if KEY_SECRETS.iter().any(|prefix| section.name.starts_with(prefix)) {
            passphrases.extend(passphrase(section, path, findings));
        } else {
            let message = "unknown kind of secret; names begin with ike, eap, xauth, ntlm, ppk, \
                           private, rsa, ecdsa, pkcs8, pkcs12 or token";
            findings.error(&section.at, &path, message);
        }
    }
    (secrets, passphrases)
}

/// A passphrase of a private key file.
pub(crate) struct Passphrase {
    /// Where it is written, and its dotted path.
    pub(crate) at: Location,
    pub(crate) path: String,
    /// `private`, `rsa`, `ecdsa` or `pkcs8`: the directory.
    pub(crate) directory: &'static str,
    pub(crate) file: String,
    pub(crate) secret: KeyMaterial,
}

/// Reads a section about a key file; one for PKCS #12 or a token has no effect but a warning.
fn passphrase(section: &Section, path: String, findings: &mut Diagnostics) -> Option<Passphrase> {
    let at = section.at.clone();
    let mut f = Fields::new(section, keys::KEY_SECRET, path.clone(), findings);
    f.check(|_| false);
    f.check_sections("", |_| false);
    let directory = DIRECTORIES.into_iter().find(|directory| section.name.starts_with(directory));
    let Some(directory) = directory else {
        f.findings.warn(
            &at,
            &path,
            "has no effect: PKCS #12 files and tokens are not supported yet",
        );
        return None;
    };
    let (file, secret) = (f.text("file"), f.text("secret"));
    let Some(file) = file else {
        f.error("file", format!("missing: the name of a key file in {directory}/"));
        return None;
    };
    let secret = match secret.map(value::secret) {
        Some(Ok(secret)) => secret,
        Some(Err(error)) => {
            f.error("secret", error);
            return None;
        }
        None => {
            f.error("secret", "missing: the passphrase of the key file");
            return None;
        }
    };
    let secret = KeyMaterial::new(secret.to_vec());
    Some(Passphrase { at, path, directory, file: file.to_owned(), secret })
}

fn refuse_readable(section: &Section, path: &str, findings: &mut Diagnostics) {
    for setting in &section.settings {
        let secret = matches!(setting.key.as_str(), "secret" | "pin");
        let source = &setting.at.source;
        if let Some(mode) = source.mode.filter(|mode| secret && mode & OTHERS != 0) {
            let message = format!(
                "the file has mode {mode:04o}, so every user can {} this secret; run: chmod 600 {}",
                if mode & 0o002 == 0 { "read" } else { "change" },
                source.name
            );
            findings.error(&setting.at, &format!("{path}.{}", setting.key), message);
        }
    }
}

fn secret(
    section: &Section,
    kind: SecretKind,
    path: String,
    findings: &mut Diagnostics,
) -> Option<Secret> {
    let mut f = Fields::new(section, keys::SECRET, path, findings);
    f.check(|key| key.starts_with("id"));
    f.check_sections("", |_| false);
    let mut owners = Vec::new();
    for setting in section.settings.iter().filter(|s| s.key.starts_with("id")) {
        let Some(Value::Text(text)) = &setting.value else { continue };
        match identity::parse(text.as_str()) {
            Ok(identity) => owners.push(identity),
            Err(error) => f.error(&setting.key, format!("'{}': {error}", shown(text.as_str()))),
        }
    }
    let Some(text) = f.text("secret") else {
        f.error("secret", "missing: a secret needs its value");
        return None;
    };
    match value::secret(text) {
        Ok(bytes) if bytes.is_empty() => {
            f.error("secret", "empty");
            None
        }
        Ok(bytes) => Some(Secret {
            name: section.name.clone(),
            kind,
            owners,
            data: KeyMaterial::new(bytes.to_vec()),
        }),
        Err(error) => {
            f.error("secret", error);
            None
        }
    }
}
