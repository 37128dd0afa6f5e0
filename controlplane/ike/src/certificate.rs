//! X.509 certificates, private keys, and whom they prove a peer to be (RFC 5280, RFC 4945, RFC 7296 §3.6 to §3.8).
//!
//! ```text
//!   CERT payloads ─┐
//!   x509ca, CRLs ──┤► Verification ─► is the peer who it says?   (a job: milliseconds, for strangers too)
//!   AUTH payload ──┘
//!   private key ────► Signing ─► signature of ours                (a job)
//! ```
//!
//! | module | what |
//! |---|---|
//! | `algorithm` | AUTH payloads of signatures (RFC 7427) |
//! | `private_key` | RSA, ECDSA and Ed25519 keys, and what they sign with |
//! | `trust` | authorities, revocation lists, and the checks of a peer's certificate |
//! | `requirement` | what a connection demands of a key and its signatures |
//!
//! A certificate is parsed once, into what the checks need. Paths are built and verified by `webpki`; what RFC 4945 asks
//! beyond it (identities, key usage) is here. It reads no file and no clock, and prints no key.

mod algorithm;
mod private_key;
mod requirement;
#[cfg(test)]
pub(crate) mod tests;
mod trust;

pub(crate) use algorithm::{from_auth, to_auth};
pub use private_key::{KeyError, PrivateKey};
pub use requirement::{KeyType, Requirement, SignatureHashes};
pub use trust::{Credentials, Revocation, RevocationList, Signing, Untrusted, Verification};

use crate::config::Identity;
use aws_lc_rs::digest;
use core::net::IpAddr;
use x509_cert::Certificate as X509;
use x509_cert::der::asn1::UintRef;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName, SubjectKeyIdentifier,
};
use x509_cert::name::RdnSequence;

/// Octets of the largest certificate that is taken. Sixty long names make one of 5 KB; a stranger's larger one would cost
/// parsing before anything is proved.
pub const MAX_LEN: usize = 16 * 1024;

/// CERT payloads of one message that are looked at, and so the longest chain: an end, a root, and what is between in any
/// hierarchy met. charon takes as many.
pub const MAX_PRESENTED: usize = 8;

/// Octets of a key hash in CERTREQ (RFC 7296 §3.7).
pub const KEY_HASH_LEN: usize = 20;

/// Why bytes are not a certificate that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Larger than [`MAX_LEN`].
    #[error("larger than {MAX_LEN} octets")]
    TooLong,
    /// Not DER of a certificate.
    #[error("not an X.509 certificate in DER")]
    Malformed,
}

/// The kind and size of a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PublicKey {
    /// RSA with a modulus of so many bits.
    Rsa(usize),
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
    /// Ed25519.
    Ed25519,
    /// One that nothing here can use.
    Other,
}

/// A certificate, parsed.
pub struct Certificate {
    der: Vec<u8>,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    spki: Vec<u8>,
    /// The content of the key's BIT STRING.
    key_bits: Vec<u8>,
    key: PublicKey,
    key_hash: [u8; KEY_HASH_LEN],
    subject_key_id: Vec<u8>,
    names: Vec<Identity>,
    is_ca: bool,
    /// `None` when the extension is absent, which allows every use.
    usage: Option<KeyUsage>,
    extended: Option<Vec<ObjectIdentifier>>,
    /// Seconds since 1970, both ends included.
    valid: core::ops::RangeInclusive<u64>,
}

impl Certificate {
    /// Parses DER.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_LEN {
            return Err(CertificateError::TooLong);
        }
        Self::read(der).map_err(|_| CertificateError::Malformed)
    }

    fn read(der: &[u8]) -> x509_cert::der::Result<Self> {
        let x509 = X509::from_der(der)?;
        let tbs = x509.tbs_certificate();
        let info = tbs.subject_public_key_info();
        let spki = info.to_der()?;
        let key_bits = info.subject_public_key.raw_bytes().to_vec();
        let constraints = tbs.get_extension::<BasicConstraints>()?;
        let names = match tbs.get_extension::<SubjectAltName>()? {
            Some((_, names)) => names.0.iter().filter_map(identity).collect(),
            None => Vec::new(),
        };
        let key_id = tbs.get_extension::<SubjectKeyIdentifier>()?;
        let usage = tbs.get_extension::<KeyUsage>()?.map(|(_, usage)| usage);
        let extended = tbs.get_extension::<ExtendedKeyUsage>()?.map(|(_, usage)| usage.0);
        let validity = tbs.validity();
        Ok(Self {
            subject: tbs.subject().to_der()?,
            issuer: tbs.issuer().to_der()?,
            key: PublicKey::of(info),
            key_hash: key_hash(&spki),
            spki,
            key_bits,
            subject_key_id: key_id.map(|(_, id)| id.0.as_bytes().to_vec()).unwrap_or_default(),
            names,
            is_ca: constraints.is_some_and(|(_, c)| c.ca),
            usage,
            extended,
            valid: validity.not_before.to_unix_duration().as_secs()
                ..=validity.not_after.to_unix_duration().as_secs(),
            der: der.to_vec(),
        })
    }

    /// The certificate itself.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The subject as an identity (RFC 4945 §3.1.5).
    pub fn subject(&self) -> Identity {
        Identity::Dn(self.subject.clone())
    }

    /// The issuer's distinguished name in DER.
    pub fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    /// The names of the subjectAltName extension that can be identities.
    pub fn names(&self) -> &[Identity] {
        &self.names
    }

    /// What kind of key is certified.
    pub const fn public_key(&self) -> PublicKey {
        self.key
    }

    /// The key as a DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-1 of the SubjectPublicKeyInfo: how CERTREQ names an authority (RFC 7296 §3.7).
    pub const fn key_hash(&self) -> &[u8; KEY_HASH_LEN] {
        &self.key_hash
    }

    /// Whether it may certify others (RFC 5280 §4.2.1.9, §4.2.1.3).
    pub fn is_authority(&self) -> bool {
        self.is_ca && self.usage.as_ref().is_none_or(KeyUsage::key_cert_sign)
    }

    /// Whether it is its own issuer's: a root, or one that nobody else certified.
    pub fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Seconds since 1970 from and until which it holds, both included.
    pub const fn valid(&self) -> &core::ops::RangeInclusive<u64> {
        &self.valid
    }

    /// Whether `private` is the key of this certificate.
    pub fn is_for(&self, private: &PrivateKey) -> bool {
        self.key_bits == private.public_bits()
    }

    /// Whether its key may sign for the peer (RFC 4945 §5.1.3.2): without the extension, or with either bit of it.
    fn may_sign(&self) -> bool {
        self.usage.as_ref().is_none_or(|usage| usage.digital_signature() || usage.non_repudiation())
    }

    /// Whether it proves `id` (RFC 4945 §3.1): the subject, a name of subjectAltName, or for a key ID the identifier of the
    /// subject's key. Names are equal as a whole; no part of one is a pattern.
    pub fn proves(&self, id: &Identity) -> bool {
        match id {
            Identity::Any => false,
            Identity::Dn(dn) => {
                same_name(&self.subject, dn) || self.names.iter().any(|name| name.is_same(id))
            }
            Identity::KeyId(key) => {
                !key.is_empty() && (*key == self.subject_key_id || key.as_slice() == self.key_hash)
            }
            Identity::Fqdn(_) | Identity::Email(_) | Identity::Address(_) => {
                self.names.iter().any(|name| name.is_same(id))
            }
        }
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

impl core::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Certificate({:?}, {} octets)", self.key, self.der.len())
    }
}

impl PublicKey {
    fn of(info: &x509_cert::spki::SubjectPublicKeyInfoOwned) -> Self {
        const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
        const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
        const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
        const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
        const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
        const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
        let algorithm = &info.algorithm;
        let curve = || algorithm.parameters.as_ref()?.decode_as::<ObjectIdentifier>().ok();
        if algorithm.oid == RSA {
            rsa_bits(info.subject_public_key.raw_bytes()).map_or(Self::Other, Self::Rsa)
        } else if algorithm.oid == ED25519 {
            Self::Ed25519
        } else if algorithm.oid == EC {
            match curve() {
                Some(P256) => Self::P256,
                Some(P384) => Self::P384,
                Some(P521) => Self::P521,
                _ => Self::Other,
            }
        } else {
            Self::Other
        }
    }

    /// Bits by which strengths of one kind are compared.
    pub const fn bits(self) -> usize {
        match self {
            Self::Rsa(bits) => bits,
            Self::P256 | Self::Ed25519 => 256,
            Self::P384 => 384,
            Self::P521 => 521,
            Self::Other => 0,
        }
    }
}

/// Bits of the modulus in a DER RSAPublicKey.
fn rsa_bits(key: &[u8]) -> Option<usize> {
    let mut reader = SliceReader::new(key).ok()?;
    let modulus = reader.sequence(|fields: &mut SliceReader<'_>| {
        let modulus = UintRef::decode(fields)?;
        UintRef::decode(fields)?;
        Ok::<_, x509_cert::der::Error>(modulus)
    });
    let bytes = modulus.ok()?.as_bytes();
    let leading = bytes.first().map_or(0, |first| first.leading_zeros() as usize);
    Some((bytes.len() * 8).saturating_sub(leading))
}

/// SHA-1 of a SubjectPublicKeyInfo, or of the key in it.
fn key_hash(spki: &[u8]) -> [u8; KEY_HASH_LEN] {
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, spki);
    digest.as_ref().try_into().unwrap_or([0; KEY_HASH_LEN])
}

/// A name of subjectAltName as an identity of IKE (RFC 4945 §3.1).
fn identity(name: &GeneralName) -> Option<Identity> {
    // An octet that no name has must not make one name look like another.
    let text = |text: &str| {
        let plain = !text.is_empty() && !text.chars().any(char::is_control);
        plain.then(|| text.to_owned())
    };
    match name {
        GeneralName::DnsName(name) => text(name.as_str()).map(Identity::Fqdn),
        GeneralName::Rfc822Name(name) => text(name.as_str()).map(Identity::Email),
        GeneralName::DirectoryName(name) => name.to_der().ok().map(Identity::Dn),
        GeneralName::IpAddress(octets) => {
            let octets = octets.as_bytes();
            let v4 = || <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(octets).ok().map(IpAddr::from);
            v4().or_else(v6).map(Identity::Address)
        }
        _ => None,
    }
}

/// Whether two distinguished names in DER are one (RFC 5280 §7.1, as charon has it): the same attributes in the same order,
/// text without regard to its encoding and the case of its ASCII letters.
pub fn same_name(a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    let (Ok(a), Ok(b)) = (RdnSequence::from_der(a), RdnSequence::from_der(b)) else { return false };
    let (a, b) = (a.as_ref(), b.as_ref());
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            a.as_ref().len() == b.as_ref().len()
                && a.as_ref().iter().zip(b.as_ref().iter()).all(|(a, b)| {
                    let (x, y) = (&a.value, &b.value);
                    let text = is_text(x) && is_text(y);
                    a.oid == b.oid
                        && match text {
                            true => x.value().eq_ignore_ascii_case(y.value()),
                            false => x == y,
                        }
                })
        })
}

fn is_text(value: &x509_cert::der::Any) -> bool {
    use x509_cert::der::{Tag, Tagged};
    matches!(
        value.tag(),
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::TeletexString
    )
}
