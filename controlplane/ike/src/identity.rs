//! Identities on the wire and in the configuration, and the preshared key that two of them share.

use crate::certificate;
use crate::config::{Identity, Psk};
use crate::message::IdType;
use crate::message::v2::Identification;
use core::net::IpAddr;

impl Identity {
    /// The payload's type and data; `None` for `%any`, which is nobody's identity.
    pub(crate) fn to_wire(&self) -> Option<(IdType, Vec<u8>)> {
        Some(match self {
            Self::Any => return None,
            Self::Address(IpAddr::V4(a)) => (IdType::Ipv4Addr, a.octets().to_vec()),
            Self::Address(IpAddr::V6(a)) => (IdType::Ipv6Addr, a.octets().to_vec()),
            Self::Fqdn(name) => (IdType::Fqdn, name.as_bytes().to_vec()),
            Self::Email(name) => (IdType::Rfc822Addr, name.as_bytes().to_vec()),
            Self::Dn(der) => (IdType::DerAsn1Dn, der.clone()),
            Self::KeyId(id) => (IdType::KeyId, id.clone()),
        })
    }

    /// What a peer says it is; `None` for a type we do not know, data that do not fit the type, or a name with octets
    /// that no name has (an embedded NUL must not make one name look like another).
    pub(crate) fn from_wire(id: &Identification<'_>) -> Option<Self> {
        let text = || {
            let text = core::str::from_utf8(id.data).ok()?;
            let plain = !text.is_empty() && !text.chars().any(char::is_control);
            plain.then(|| text.to_owned())
        };
        match id.kind {
            IdType::Ipv4Addr => {
                let octets: [u8; 4] = id.data.try_into().ok()?;
                Some(Self::Address(octets.into()))
            }
            IdType::Ipv6Addr => {
                let octets: [u8; 16] = id.data.try_into().ok()?;
                Some(Self::Address(octets.into()))
            }
            IdType::Fqdn => text().map(Self::Fqdn),
            IdType::Rfc822Addr => text().map(Self::Email),
            IdType::DerAsn1Dn if !id.data.is_empty() => Some(Self::Dn(id.data.to_vec())),
            IdType::KeyId if !id.data.is_empty() => Some(Self::KeyId(id.data.to_vec())),
            _ => None,
        }
    }

    /// How well a configured identity (which may be `%any` or begin with `*`) covers `peer`.
    pub(crate) fn covers(&self, peer: &Self) -> Fit {
        match (self, peer) {
            (Self::Any, _) => Fit::Any,
            (Self::Fqdn(pattern), Self::Fqdn(name)) | (Self::Email(pattern), Self::Email(name)) => {
                match pattern.strip_prefix('*') {
                    _ if pattern.eq_ignore_ascii_case(name) => Fit::Exact,
                    Some(tail) if ends_with_ignoring_case(name, tail) => Fit::Pattern,
                    _ => Fit::No,
                }
            }
            (a, b) if a.is_same(b) => Fit::Exact,
            _ => Fit::No,
        }
    }

    /// Whether two identities are one: names without regard to case, distinguished names as RFC 5280 §7.1 compares them.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fqdn(a), Self::Fqdn(b)) | (Self::Email(a), Self::Email(b)) => {
                a.eq_ignore_ascii_case(b)
            }
            (Self::Dn(a), Self::Dn(b)) => certificate::same_name(a, b),
            (a, b) => a == b,
        }
    }
}

fn ends_with_ignoring_case(name: &str, tail: &str) -> bool {
    let (name, tail) = (name.as_bytes(), tail.as_bytes());
    name.len() > tail.len() && name[name.len() - tail.len()..].eq_ignore_ascii_case(tail)
}

/// How well something configured covers something presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    No,
    Any,
    Pattern,
    Exact,
}

/// The key for a pair of identities: as in charon, the entry whose owners fit the peer best, then us. An entry without
/// owners fits every pair, one that names only strangers fits none.
pub(crate) fn psk<'a>(psks: &'a [Psk], local: &Identity, remote: &Identity) -> Option<&'a Psk> {
    let mut best = None;
    for psk in psks {
        let fit = |id: &Identity| {
            psk.owners.iter().map(|owner| owner.covers(id)).max().unwrap_or(Fit::Any)
        };
        let score = (fit(remote), fit(local));
        if score != (Fit::No, Fit::No) && best.is_none_or(|(s, _)| score > s) {
            best = Some((score, psk));
        }
    }
    best.map(|(_, psk)| psk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipsec::algorithm::KeyMaterial;

    fn fqdn(name: &str) -> Identity {
        Identity::Fqdn(name.to_owned())
    }

    /// attacks.json ike2-id-dn-length: data that do not fit the type match nothing.
    #[test]
    fn ike2_id_dn_length() {
        let cases: &[(IdType, &[u8])] = &[
            (IdType::Ipv4Addr, &[10, 0, 0]),
            (IdType::Ipv4Addr, &[10, 0, 0, 1, 2]),
            (IdType::Ipv6Addr, &[0; 15]),
            (IdType::Fqdn, b""),
            (IdType::Fqdn, b"good.example\0.evil.example"),
            (IdType::Rfc822Addr, b"\xff@x"),
            (IdType::DerAsn1Dn, b""),
            (IdType::KeyId, b""),
            (IdType::Null, b""),
            (IdType::Unknown(200), b"x"),
        ];
        for (kind, data) in cases {
            let id = Identification { kind: *kind, data };
            assert_eq!(Identity::from_wire(&id), None, "{kind:?} {data:?}");
        }
    }

    #[test]
    fn patterns_cover_names_below_them() {
        assert_eq!(fqdn("*.example").covers(&fqdn("a.EXAMPLE")), Fit::Pattern);
        assert_eq!(fqdn("*.example").covers(&fqdn(".example")), Fit::No);
        assert_eq!(fqdn("a.example").covers(&fqdn("A.example")), Fit::Exact);
        assert_eq!(fqdn("a.example").covers(&Identity::Email("a.example".into())), Fit::No);
        assert_eq!(Identity::Any.covers(&fqdn("x")), Fit::Any);
    }

    #[test]
    fn the_key_of_the_best_owner_is_taken() {
        let psk_of = |owners: &[&str], secret: &str| Psk {
            owners: owners.iter().map(|o| fqdn(o)).collect(),
            secret: KeyMaterial::new(secret.as_bytes().to_vec()),
        };
        let psks = [
            psk_of(&[], "any"),
            psk_of(&["b"], "b"),
            psk_of(&["a", "b"], "ab"),
            psk_of(&["c"], "c"),
        ];
        let found =
            |l: &str, r: &str| psk(&psks, &fqdn(l), &fqdn(r)).map(|p| p.secret.expose().to_vec());
        assert_eq!(found("a", "b"), Some(b"ab".to_vec()));
        assert_eq!(found("x", "b"), Some(b"b".to_vec()));
        assert_eq!(found("x", "y"), Some(b"any".to_vec()));
        assert_eq!(psk(&psks[3..], &fqdn("a"), &fqdn("b")).map(|_| ()), None);
    }
}
