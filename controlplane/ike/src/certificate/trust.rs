//! Whom we trust, and whether a peer's certificate and signature prove what it says of itself.

use super::requirement::{Requirement, SignatureHashes};
use super::{Certificate, MAX_PRESENTED, PrivateKey};
use crate::config::{AuthRound, Identity};
use crate::crypto::{SignatureScheme, SignedOctets};
use core::time::Duration;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::sync::Arc;
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;

/// Keys, certificates and authorities that are loaded. Replaced as a whole on reload.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Our private keys.
    pub keys: Vec<Arc<PrivateKey>>,
    /// Certificates of ours, of peers that send none, and of authorities between (`x509`).
    pub certificates: Vec<Arc<Certificate>>,
    /// Authorities that are trusted (`x509ca`, `authorities`).
    pub authorities: Vec<Arc<Certificate>>,
    /// Revocation lists, the newest first (`x509crl`).
    pub revocation_lists: Vec<Arc<RevocationList>>,
}

/// `revocation`: what becomes of a certificate whose state is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revocation {
    /// Only one that is known to be revoked is refused.
    #[default]
    Relaxed,
    /// One that no current list speaks of is refused, too.
    Strict,
}

/// A certificate revocation list (RFC 5280 §5). Its signature is checked when it is used.
pub struct RevocationList {
    list: CertRevocationList<'static>,
    /// Seconds since 1970.
    issued: u64,
}

impl RevocationList {
    /// Parses DER; `None` when it is not a version 2 list.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let issued = CertificateList::<x509_cert::certificate::Rfc5280>::from_der(der).ok()?;
        Some(Self {
            list: OwnedCertRevocationList::from_der(der).ok()?.into(),
            issued: issued.tbs_cert_list.this_update.to_unix_duration().as_secs(),
        })
    }

    /// When it was issued, in seconds since 1970.
    pub const fn issued(&self) -> u64 {
        self.issued
    }
}

impl core::fmt::Debug for RevocationList {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "RevocationList(issued {})", self.issued)
    }
}

impl Credentials {
    /// The private key of a certificate.
    pub fn key_of(&self, certificate: &Certificate) -> Option<&Arc<PrivateKey>> {
        self.keys.iter().find(|key| certificate.is_for(key))
    }

    /// The certificate and key that we sign with as `round` says: of its certificates (or, when it names none, of those
    /// loaded that prove its identity) the first that a requested authority issued, else the first.
    pub fn own(
        &self,
        round: &AuthRound,
        id: &Identity,
        requested: &[[u8; super::KEY_HASH_LEN]],
    ) -> Option<(Arc<Certificate>, Arc<PrivateKey>)> {
        let named = round.certificates.iter();
        let loaded = self
            .certificates
            .iter()
            .filter(|c| round.certificates.is_empty() && !c.is_authority() && c.proves(id));
        let usable = named.chain(loaded).filter_map(|certificate| {
            let key = self.key_of(certificate)?;
            let fits = round.requirement.allows_key(certificate.public_key());
            fits.then(|| (Arc::clone(certificate), Arc::clone(key)))
        });
        let mut first = None;
        for (certificate, key) in usable {
            let wanted = self.chain(&certificate).iter().chain([&certificate]).any(|c| {
                let issuer = self.issuer(c);
                issuer.is_some_and(|issuer| requested.contains(issuer.key_hash()))
            });
            if wanted {
                return Some((certificate, key));
            }
            first.get_or_insert((certificate, key));
        }
        first
    }

    /// What goes with a certificate of ours into CERT payloads: the authorities between it and a root, the root not.
    pub fn chain(&self, certificate: &Certificate) -> Vec<Arc<Certificate>> {
        let mut chain: Vec<Arc<Certificate>> = Vec::new();
        let mut last = certificate;
        while chain.len() + 1 < MAX_PRESENTED && !last.is_self_issued() {
            let Some(issuer) = self.issuer(last) else { break };
            if issuer.is_self_issued() || chain.contains(issuer) {
                break;
            }
            chain.push(Arc::clone(issuer));
            last = issuer;
        }
        chain
    }

    fn issuer(&self, certificate: &Certificate) -> Option<&Arc<Certificate>> {
        let mut all = self.certificates.iter().chain(&self.authorities);
        all.find(|c| c.is_authority() && c.subject == certificate.issuer)
    }
}

/// Why a peer is not who it says. For the log: the peer is told AUTHENTICATION_FAILED and nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// It sent none, and none of ours proves its identity.
    #[error("no certificate proves the peer's identity")]
    NoCertificate,
    /// What it sent is not a certificate, or too large.
    #[error("the peer's certificate cannot be read")]
    Malformed,
    /// Another key or signature than the connection allows.
    #[error("the connection does not allow the peer's key or signature algorithm")]
    NotAllowed,
    /// Not the one that the connection names.
    #[error("not the certificate that is configured")]
    NotPinned,
    /// Its key is for other uses.
    #[error("the certificate's key is not for signatures of IKE")]
    KeyUsage,
    /// No path to an authority of ours.
    #[error("no trusted authority issued the certificate")]
    UnknownIssuer,
    /// Past its time, or one above it is.
    #[error("the certificate or one of its authorities has expired")]
    Expired,
    /// Before its time.
    #[error("the certificate is not valid yet")]
    NotValidYet,
    /// Revoked.
    #[error("the certificate is revoked")]
    Revoked,
    /// Nobody says that it is not revoked, and `revocation = strict`.
    #[error("no current revocation list speaks of the certificate")]
    RevocationUnknown,
    /// The path has a fault: a constraint, a length, a signature, an unknown critical extension.
    #[error("the certificate path is not valid")]
    Path,
    /// The signature in AUTH (or SIG) is not the key's.
    #[error("the signature is wrong")]
    Signature,
}

/// A signature to be made: work for the pool.
pub struct Signing {
    /// The key.
    pub key: Arc<PrivateKey>,
    /// How.
    pub scheme: SignatureScheme,
    /// Over what.
    pub octets: SignedOctets,
}

impl Signing {
    /// For IKEv2: how the peer can check it and our side is configured to; `None` when there is no such way.
    pub fn new(
        key: Arc<PrivateKey>,
        peer: SignatureHashes,
        requirement: &Requirement,
        octets: SignedOctets,
    ) -> Option<Self> {
        let scheme = key.scheme(peer, requirement)?;
        Some(Self { key, scheme, octets })
    }

    /// Makes it; `None` when the library fails.
    pub fn run(&self) -> Option<Vec<u8>> {
        self.key.sign(self.scheme, self.octets.as_bytes())
    }
}

/// A peer's proof of its identity to be checked: work for the pool, some 100 µs, and bounded for any input.
pub struct Verification {
    /// Who the peer says it is.
    pub id: Identity,
    /// How the signature is made.
    pub scheme: SignatureScheme,
    /// The signature.
    pub signature: Vec<u8>,
    /// Over what.
    pub octets: SignedOctets,
    /// What came in CERT payloads, in order; no more than [`MAX_PRESENTED`].
    pub presented: Vec<Vec<u8>>,
    /// What the connection demands of the peer.
    pub round: AuthRound,
    /// Whom we trust.
    pub credentials: Arc<Credentials>,
}

impl Verification {
    /// Checks everything, cheap things first.
    ///
    /// # Errors
    /// The first reason why the peer is not who it says.
    pub fn run(&self, now: Duration) -> Result<(), Untrusted> {
        let (end, between) = self.end()?;
        let round = &self.round;
        let key = end.public_key();
        if !round.requirement.allows_key(key) || !round.requirement.allows_scheme(self.scheme, key)
        {
            return Err(Untrusted::NotAllowed);
        }
        if !end.may_sign() {
            return Err(Untrusted::KeyUsage);
        }
        in_time(&end, now)?;
        // Revocation and path do not matter for a certificate that the operator named, or whose own issuer it is and that
        // was put among ours by hand.
        let loaded_here = end.is_self_issued() && self.credentials.certificates.contains(&end);
        if !round.certificates.is_empty() {
            if !round.certificates.contains(&end) {
                return Err(Untrusted::NotPinned);
            }
        } else if !loaded_here {
            self.path(&end, &between, now)?;
        }
        if self.scheme.verify(end.spki(), self.octets.as_bytes(), &self.signature) {
            Ok(())
        } else {
            Err(Untrusted::Signature)
        }
    }

    /// The peer's certificate, and what else it sent.
    fn end(&self) -> Result<(Arc<Certificate>, Vec<Certificate>), Untrusted> {
        if self.presented.is_empty() {
            let ours = self.round.certificates.iter().chain(&self.credentials.certificates);
            let found = ours.filter(|c| c.proves(&self.id)).find(|c| !c.is_authority());
            let end = found.ok_or(Untrusted::NoCertificate)?;
            return Ok((Arc::clone(end), Vec::new()));
        }
        let presented = self.presented.iter().take(MAX_PRESENTED);
        let mut parsed = presented.map(|der| Certificate::parse(der));
        // RFC 7296 §3.6: the first holds the key that signs.
        let Some(Ok(end)) = parsed.next() else { return Err(Untrusted::Malformed) };
        if !end.proves(&self.id) {
            return Err(Untrusted::NoCertificate);
        }
        Ok((Arc::new(end), parsed.filter_map(Result::ok).collect()))
    }

    /// RFC 5280 §6 from the peer's certificate to an authority of the connection's, or of ours where it names none.
    fn path(
        &self,
        end: &Certificate,
        between: &[Certificate],
        now: Duration,
    ) -> Result<(), Untrusted> {
        let credentials = &*self.credentials;
        let trusted = match self.round.authorities.is_empty() {
            true => &credentials.authorities,
            false => &self.round.authorities,
        };
        // An authority past its own time vouches for nobody.
        let roots: Vec<CertificateDer<'_>> = trusted
            .iter()
            .filter(|c| c.is_authority() && in_time(c, now).is_ok())
            .map(|c| CertificateDer::from(c.der()))
            .collect();
        let anchors: Vec<TrustAnchor<'_>> =
            roots.iter().filter_map(|root| anchor_from_trusted_cert(root).ok()).collect();
        let known = credentials.certificates.iter().chain(&credentials.authorities);
        let intermediates: Vec<CertificateDer<'_>> = between
            .iter()
            .chain(known.map(AsRef::as_ref))
            .filter(|c| c.is_authority() && !c.is_self_issued())
            .map(|c| CertificateDer::from(c.der()))
            .collect();
        let lists: Vec<&CertRevocationList<'_>> =
            credentials.revocation_lists.iter().map(|crl| &crl.list).collect();
        let revocation = match RevocationOptionsBuilder::new(&lists) {
            Err(_) if self.round.revocation == Revocation::Strict => {
                return Err(Untrusted::RevocationUnknown);
            }
            Err(_) => None,
            Ok(options) => Some(match self.round.revocation {
                Revocation::Relaxed => {
                    options.with_status_policy(UnknownStatusPolicy::Allow).build()
                }
                Revocation::Strict => {
                    options.with_expiration_policy(ExpirationPolicy::Enforce).build()
                }
            }),
        };
        let der = CertificateDer::from(end.der());
        let end_entity = EndEntityCert::try_from(&der).map_err(|_| Untrusted::Malformed)?;
        let time = UnixTime::since_unix_epoch(now);
        let mut result = Err(Untrusted::KeyUsage);
        for usage in usages(end) {
            let verified = end_entity.verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                &intermediates,
                time,
                KeyUsage::required_if_present(usage),
                revocation,
                None,
            );
            result = verified.map(|_| ()).map_err(|error| untrusted(&error));
            if result != Err(Untrusted::KeyUsage) {
                break;
            }
        }
        result
    }
}

fn in_time(certificate: &Certificate, now: Duration) -> Result<(), Untrusted> {
    let now = now.as_secs();
    if now < *certificate.valid().start() {
        Err(Untrusted::NotValidYet)
    } else if now > *certificate.valid().end() {
        Err(Untrusted::Expired)
    } else {
        Ok(())
    }
}

/// The extended key usages of which one is enough (RFC 4945 §5.1.3.12, and what authorities issue in practice): IKE, its
/// predecessor, TLS server and client, any. In DER without tag and length, and as object identifiers.
const USAGES: [(&[u8], ObjectIdentifier); 5] = [
    (&[0x2b, 6, 1, 5, 5, 7, 3, 17], ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.17")),
    (&[0x2b, 6, 1, 5, 5, 8, 2, 2], ObjectIdentifier::new_unwrap("1.3.6.1.5.5.8.2.2")),
    (&[0x2b, 6, 1, 5, 5, 7, 3, 1], ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1")),
    (&[0x2b, 6, 1, 5, 5, 7, 3, 2], ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2")),
    (&[0x55, 0x1d, 0x25, 0], ObjectIdentifier::new_unwrap("2.5.29.37.0")),
];

/// Those that the certificate has; without the extension one, which then is not looked for.
fn usages(end: &Certificate) -> impl Iterator<Item = &'static [u8]> {
    let has = |oid: &ObjectIdentifier| end.extended.as_ref().is_none_or(|all| all.contains(oid));
    let count = if end.extended.is_some() { USAGES.len() } else { 1 };
    let found: Vec<&'static [u8]> =
        USAGES.iter().filter(|(_, oid)| has(oid)).map(|(der, _)| *der).take(count).collect();
    found.into_iter()
}

fn untrusted(error: &webpki::Error) -> Untrusted {
    use webpki::Error;
    match error {
        Error::CertExpired { .. } => Untrusted::Expired,
        Error::CertNotValidYet { .. } => Untrusted::NotValidYet,
        Error::CertRevoked => Untrusted::Revoked,
        Error::UnknownRevocationStatus | Error::CrlExpired { .. } => Untrusted::RevocationUnknown,
        Error::UnknownIssuer => Untrusted::UnknownIssuer,
        Error::RequiredEkuNotFoundContext(_) => Untrusted::KeyUsage,
        _ => Untrusted::Path,
    }
}
