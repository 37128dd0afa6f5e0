//! `local` and `remote` of a connection: who authenticates how, and with which certificates.

use super::connection::is_round;
use super::credentials::Files;
use super::fields::{Fields, shown};
use super::syntax::{Section, Value};
use super::{identity, keys, value};
use ike::certificate::{Certificate, KeyType, PublicKey, Requirement, Revocation};
use ike::config::{AuthMethod, AuthRound, Identity, Xauth};
use ike::crypto::SignatureHash;
use std::sync::Arc;

/// Certificates that one side of a connection may name: each is compared with what a peer sends.
const MAX_CERTIFICATES: usize = 100;

/// Resolves the round of one side.
pub(super) fn round(
    f: &mut Fields<'_>,
    side: &'static str,
    files: Option<&Files<'_>>,
) -> AuthRound {
    let Some(section) = f.section.sections.iter().find(|s| is_round(&s.name, side)) else {
        let message =
            format!("there is no '{side}' section, so that public keys of any identity are meant");
        let (at, path) = (f.section.at.clone(), f.path.clone());
        f.findings.warn(&at, &path, message);
        return AuthRound::new(AuthMethod::Pubkey, Identity::Any);
    };
    let path = f.path_of(&section.name);
    let mut r = Fields::new(section, keys::AUTH, path, f.findings);
    r.check(|_| false);
    r.check_sections("cert<suffix>, cacert<suffix>", |name| {
        is_round(name, "cert") || is_round(name, "cacert")
    });
    let _ = r.number("round", 0, u32::MAX.into());
    let (method, requirement) = match r.text("auth") {
        Some(auth) if auth.eq_ignore_ascii_case("psk") => (AuthMethod::Psk, Requirement::default()),
        Some(auth) if auth.eq_ignore_ascii_case("kerberos") => {
            if crate::kerberos::mechanism().is_none() {
                r.error("auth", WITHOUT_KERBEROS.to_owned());
            }
            (AuthMethod::Kerberos, Requirement::default())
        }
        // With IKEv1, or reported already as the reason why the connection is left out.
        Some(auth) if is_round(auth, "xauth") => (AuthMethod::Xauth, Requirement::default()),
        Some(auth) if is_round(auth, "eap") => (AuthMethod::Pubkey, Requirement::default()),
        auth => {
            let wanted = self::requirement(auth.unwrap_or("pubkey"));
            if let Err(error) = &wanted {
                r.error("auth", format!("'{}': {error}", shown(auth.unwrap_or_default())));
            }
            (AuthMethod::Pubkey, wanted.unwrap_or_default())
        }
    };
    let mut id = match r.text("id") {
        None => Identity::Any,
        Some(text) => identity::parse(text).unwrap_or_else(|error| {
            r.error("id", format!("'{}': {error}", shown(text)));
            Identity::Any
        }),
    };
    if method == AuthMethod::Kerberos {
        check_principal(&mut r, side, &id);
    }
    let revocation = r
        .word("revocation", &[("relaxed", Revocation::Relaxed), ("strict", Revocation::Strict)])
        .unwrap_or_default();
    let Some(files) = files else { return AuthRound::new(method, id) };
    let certificates = certificates(&mut r, "certs", "cert", "x509", files);
    let authorities = certificates_of_authorities(&mut r, side, files);
    if method == AuthMethod::Pubkey && side == "local" {
        check_own(&mut r, &mut id, &certificates, files);
    }
    AuthRound { method, id, certificates, authorities, requirement, revocation }
}

const WITHOUT_KERBEROS: &str = "this culvert is built without Kerberos: build it with \
    `cargo build --release --features kerberos`, which needs libkrb5-dev and libclang";

/// Kerberos knows principals only, and we are one of them.
fn check_principal(r: &mut Fields<'_>, side: &str, id: &Identity) {
    match id {
        Identity::Email(_) => {}
        Identity::Any if side == "remote" => {}
        _ => {
            let wanted = "with `auth = kerberos` this is a principal, such as \
                          host/gateway.example.org@EXAMPLE.ORG";
            r.error("id", wanted.to_owned());
        }
    }
}

/// Name and password of IKEv1: in the second round of one side, or alone in its only round, opposite a certificate.
pub(super) fn xauth(
    f: &mut Fields<'_>,
    asked: Option<&Section>,
    asks: Option<&Section>,
    [local, remote]: [&AuthRound; 2],
) -> Option<Xauth> {
    let hybrid = [local.method, remote.method].contains(&AuthMethod::Xauth);
    if hybrid && (asked.is_some() || asks.is_some()) {
        f.error("version", "`auth = xauth` is the only round of its side, or the second");
        return None;
    }
    let own = f.section;
    let round = |side| own.sections.iter().find(|s| is_round(&s.name, side)).filter(|_| hybrid);
    let (asked, asks) = match (local.method, remote.method) {
        (AuthMethod::Xauth, AuthMethod::Pubkey) => (round("local"), None),
        (AuthMethod::Pubkey, AuthMethod::Xauth) => (None, round("remote")),
        _ if hybrid => {
            let message = "`auth = xauth` alone needs a certificate opposite: `auth = pubkey` there, or a first round here";
            f.error("version", message);
            return None;
        }
        _ => (asked, asks),
    };
    let found = second_round(f, asked, asks)?;
    let rsa_only = [local, remote].into_iter().filter(|round| round.method == AuthMethod::Pubkey);
    let other = |round: &&AuthRound| {
        let is_rsa = |c: &Arc<Certificate>| matches!(c.public_key(), PublicKey::Rsa(_));
        round.requirement.key.is_some_and(|key| key != KeyType::Rsa)
            || !(round.certificates.is_empty() || round.certificates.iter().any(is_rsa))
    };
    if rsa_only.filter(other).count() > 0 {
        let message = "XAuth goes with RSA certificates and preshared keys: no draft gives it a number with ECDSA or Ed25519";
        f.error("version", message);
        return None;
    }
    Some(found)
}

fn second_round(
    f: &mut Fields<'_>,
    asked: Option<&Section>,
    asks: Option<&Section>,
) -> Option<Xauth> {
    let mut read = |section: &Section| {
        let path = f.path_of(&section.name);
        let mut r = Fields::new(section, keys::AUTH, path, f.findings);
        r.check(|_| false);
        r.check_sections("", |_| false);
        let _ = r.number("round", 0, u32::MAX.into());
        let name = r.text("xauth_id").or_else(|| r.text("id")).map(str::to_owned);
        if name.is_none() && asks.is_none() {
            r.error("xauth_id", "missing: the name to log in with");
        }
        name
    };
    if let (Some(_), Some(second)) = (asked, asks) {
        let (at, path) = (second.at.clone(), f.path_of(&second.name));
        f.findings.error(&at, &path, "one side alone is asked for a password");
        return None;
    }
    if let Some(section) = asks {
        read(section);
        return Some(Xauth::Ask);
    }
    let user = read(asked?)?;
    Some(Xauth::Answer { user })
}

/// charon's rule: without a certificate for the identity we are the certificate's subject.
fn check_own(
    r: &mut Fields<'_>,
    id: &mut Identity,
    certificates: &[Arc<Certificate>],
    files: &Files<'_>,
) {
    for certificate in certificates {
        if files.credentials.key_of(certificate).is_none() {
            let subject = identity::display(&certificate.subject());
            let message = format!(
                "no private key for '{}': put it into private/, or this certificate cannot be used",
                shown(&subject)
            );
            r.warn("certs", message);
        }
    }
    let Some(first) = certificates.first() else { return };
    if *id != Identity::Any && !certificates.iter().any(|c| c.proves(id)) {
        let subject = first.subject();
        let message = format!(
            "'{}' is in no certificate of 'certs', so '{}' is used",
            shown(&identity::display(id)),
            shown(&identity::display(&subject)),
        );
        r.warn("id", message);
        *id = subject;
    }
}

fn certificates_of_authorities(
    r: &mut Fields<'_>,
    side: &str,
    files: &Files<'_>,
) -> Vec<Arc<Certificate>> {
    let found = certificates(r, "cacerts", "cacert", "x509ca", files);
    if side == "local" && !found.is_empty() {
        r.warn("cacerts", "has no effect here: it says whom to trust, and belongs under 'remote'");
    }
    for certificate in found.iter().filter(|c| !c.is_authority()) {
        let subject = identity::display(&certificate.subject());
        let message = format!(
            "'{}' is not a CA certificate, so nothing it signs is accepted",
            shown(&subject)
        );
        r.error("cacerts", message);
    }
    found
}

/// Certificates of a list of files (or of VICI's contents) and of the sections beside it.
fn certificates(
    r: &mut Fields<'_>,
    key: &str,
    prefix: &str,
    directory: &str,
    files: &Files<'_>,
) -> Vec<Arc<Certificate>> {
    let mut found = Vec::new();
    let mut take = |r: &mut Fields<'_>, result: Result<Certificate, String>| match result {
        Ok(_) if found.len() >= MAX_CERTIFICATES => {
            r.error(key, format!("more than {MAX_CERTIFICATES} certificates"));
        }
        Ok(certificate) => found.push(Arc::new(certificate)),
        Err(error) => r.error(key, error),
    };
    if let Some(Value::Blobs(items)) = r.value(key) {
        for item in items {
            take(r, super::credentials::certificate(item));
        }
    } else {
        for item in r.list(key) {
            let result = match item.contains("-----BEGIN") {
                true => super::credentials::certificate(item.as_bytes()),
                false => files.certificate(directory, item),
            };
            take(r, result);
        }
    }
    let section = r.section;
    for part in section.sections.iter().filter(|s| is_round(&s.name, prefix)) {
        let path = r.path_of(&part.name);
        let mut c = Fields::new(part, keys::CERTIFICATE, path, r.findings);
        c.check(|_| false);
        c.check_sections("", |_| false);
        match c.text("file").map(|file| files.certificate(directory, file)) {
            Some(Ok(certificate)) => found.push(Arc::new(certificate)),
            Some(Err(error)) => c.error("file", error),
            None => c.error("file", "missing: the name of a certificate file"),
        }
    }
    found
}

/// `pubkey`, `rsa-2048-sha256`, `ecdsa-sha384`, `rsa/pss-sha256`, `ed25519`; `ike:` before it changes nothing.
fn requirement(text: &str) -> Result<Requirement, String> {
    let lower = text.to_ascii_lowercase();
    let mut parts = lower.strip_prefix("ike:").unwrap_or(&lower).split('-');
    let mut requirement = Requirement::default();
    requirement.key = match parts.next().unwrap_or_default() {
        "pubkey" => None,
        "rsa" => Some(KeyType::Rsa),
        "rsa/pss" => {
            requirement.pss = true;
            Some(KeyType::Rsa)
        }
        "ecdsa" => Some(KeyType::Ecdsa),
        "ed25519" => Some(KeyType::Ed25519),
        _ => return Err("is not one of: psk, pubkey, rsa, rsa/pss, ecdsa, ed25519".to_owned()),
    };
    for part in parts {
        let hash = match part {
            "sha256" | "sha2_256" => SignatureHash::Sha2_256,
            "sha384" | "sha2_384" => SignatureHash::Sha2_384,
            "sha512" | "sha2_512" => SignatureHash::Sha2_512,
            "sha1" => SignatureHash::Sha1,
            // Ed25519 has its own.
            "identity" => continue,
            other => match value::number(other).and_then(|n| usize::try_from(n).ok()) {
                Some(bits) => {
                    requirement.bits = bits;
                    continue;
                }
                None => {
                    return Err(format!(
                        "'{}' is neither a key size nor one of: sha256, sha384, sha512",
                        shown(other)
                    ));
                }
            },
        };
        requirement.hashes.push(hash);
    }
    Ok(requirement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auth_says_what_keys_and_hashes_are_allowed() {
        assert_eq!(requirement("pubkey"), Ok(Requirement::default()));
        let strict = requirement("rsa-3072-sha384-sha512").unwrap();
        assert_eq!((strict.key, strict.bits, strict.pss), (Some(KeyType::Rsa), 3072, false));
        assert_eq!(strict.hashes, [SignatureHash::Sha2_384, SignatureHash::Sha2_512]);
        assert!(requirement("rsa/pss-sha256").unwrap().pss);
        assert_eq!(requirement("ike:ECDSA").unwrap().key, Some(KeyType::Ecdsa));
        assert_eq!(requirement("ed25519").unwrap().key, Some(KeyType::Ed25519));
        for bad in ["ed448", "pubkey-md5", "rsa-", "bliss", ""] {
            assert!(requirement(bad).is_err(), "{bad}");
        }
    }
}
