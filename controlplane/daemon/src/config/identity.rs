//! Identities as swanctl writes them (RFC 7296 §3.5), read and written.

use super::value::hex;
use core::net::IpAddr;
use ike::config::Identity;

/// Reads an identity: the type is told by a prefix or by the look of the text, as charon does it.
///
/// # Errors
/// What is wrong with it, for a message.
pub fn parse(text: &str) -> Result<Identity, &'static str> {
    if let Some((prefix, data)) = text.split_once(':')
        && let Some(kind) = Kind::from_prefix(prefix)
    {
        return kind.identity(data);
    }
    if text.contains('=') {
        // charon takes what is not a distinguished name for a key ID, too.
        return Ok(match distinguished_name(text) {
            Ok(der) => wildcards(text, Identity::Dn(der))?,
            Err(_) => Identity::KeyId(text.as_bytes().to_vec()),
        });
    }
    if let Some(rest) = text.strip_prefix('@') {
        if let Some(digits) = rest.strip_prefix('#') {
            return hex(digits)
                .map(|bytes| Identity::KeyId(bytes.to_vec()))
                .ok_or("what follows @# is not pairs of hexadecimal digits");
        }
        return match rest.strip_prefix('@') {
            Some(email) => wildcards(email, Identity::Email(email.to_owned())),
            None => wildcards(rest, Identity::Fqdn(rest.to_owned())),
        };
    }
    if text.contains('@') {
        return wildcards(text, Identity::Email(text.to_owned()));
    }
    match text {
        "%any" | "%any6" | "*" | "0.0.0.0" | "::" | "0::0" => return Ok(Identity::Any),
        "" => return Err("empty; leave the key away or write %any"),
        _ => {}
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Identity::Address(address));
    }
    if super::value::addresses(text).is_some() {
        return Err("prefixes and ranges are not supported as identities; write one address");
    }
    if text.contains(':') {
        return Ok(Identity::KeyId(text.as_bytes().to_vec()));
    }
    wildcards(text, Identity::Fqdn(text.to_owned()))
}

fn wildcards(text: &str, identity: Identity) -> Result<Identity, &'static str> {
    if text.contains('*') {
        Err("wildcards in an identity are not supported; write it out, or %any for every one")
    } else {
        Ok(identity)
    }
}

enum Kind {
    Address4,
    Address6,
    Email,
    Fqdn,
    Dn,
    KeyId,
    Unsupported,
}

impl Kind {
    fn from_prefix(prefix: &str) -> Option<Self> {
        Some(match prefix {
            "ipv4" => Self::Address4,
            "ipv6" => Self::Address6,
            "rfc822" | "email" | "userfqdn" => Self::Email,
            "fqdn" | "dns" => Self::Fqdn,
            "asn1dn" => Self::Dn,
            "keyid" => Self::KeyId,
            "asn1gn" | "ipv4net" | "ipv6net" | "ipv4range" | "ipv6range" => Self::Unsupported,
            // RFC 7296 §3.5 numbers, in curly brackets.
            "{1}" => Self::Address4,
            "{2}" => Self::Fqdn,
            "{3}" => Self::Email,
            "{5}" => Self::Address6,
            "{9}" => Self::Dn,
            "{11}" => Self::KeyId,
            other if other.starts_with('{') && other.ends_with('}') => Self::Unsupported,
            _ => return None,
        })
    }

    fn identity(self, data: &str) -> Result<Identity, &'static str> {
        let bytes = match data.strip_prefix('#') {
            Some(digits) => {
                hex(digits).ok_or("what follows # is not pairs of hexadecimal digits")?.to_vec()
            }
            None => data.as_bytes().to_vec(),
        };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| "not UTF-8 text");
        Ok(match self {
            Self::Address4 => {
                let octets: [u8; 4] = bytes.try_into().map_err(|_| {
                    "takes the address as ipv4:# and 8 hexadecimal digits; simpler is the address \
                     without a prefix"
                })?;
                Identity::Address(IpAddr::from(octets))
            }
            Self::Address6 => {
                let octets: [u8; 16] = bytes.try_into().map_err(|_| {
                    "takes the address as ipv6:# and 32 hexadecimal digits; simpler is the \
                     address without a prefix"
                })?;
                Identity::Address(IpAddr::from(octets))
            }
            Self::Email => {
                let email = text(bytes)?;
                wildcards(&email.clone(), Identity::Email(email))?
            }
            Self::Fqdn => {
                let name = text(bytes)?;
                wildcards(&name.clone(), Identity::Fqdn(name))?
            }
            Self::Dn if data.starts_with('#') => Identity::Dn(bytes),
            Self::Dn => {
                return Err(
                    "takes DER as asn1dn:# and hexadecimal digits; simpler is the name without \
                     a prefix",
                );
            }
            Self::KeyId => Identity::KeyId(bytes),
            Self::Unsupported => return Err("this type of identity is not supported"),
        })
    }
}

/// Writes an identity as charon does.
pub fn display(identity: &Identity) -> String {
    match identity {
        Identity::Any => "%any".to_owned(),
        Identity::Address(address) => address.to_string(),
        Identity::Fqdn(name) | Identity::Email(name) => name.clone(),
        Identity::Dn(der) => {
            distinguished_name_text(der).unwrap_or_else(|| format!("asn1dn:#{}", to_hex(der, "")))
        }
        Identity::KeyId(bytes) => match core::str::from_utf8(bytes) {
            Ok(text) if text.chars().all(|c| c.is_ascii_graphic() || c == ' ') => text.to_owned(),
            _ => to_hex(bytes, ":"),
        },
    }
}

fn to_hex(bytes: &[u8], between: &str) -> String {
    let pairs: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    pairs.join(between)
}

/// Attribute types by the keywords of strongSwan, and the contents of their OIDs
/// (RFC 4514 §3, RFC 4519, PKCS #9).
const ATTRIBUTES: &[(&str, &[u8])] = &[
    ("C", &[0x55, 4, 6]),
    ("CN", &[0x55, 4, 3]),
    ("D", &[0x55, 4, 13]),
    ("DC", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25]),
    ("dnQualifier", &[0x55, 4, 46]),
    ("E", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]),
    ("Email", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]),
    ("emailAddress", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]),
    ("G", &[0x55, 4, 42]),
    ("GN", &[0x55, 4, 42]),
    ("I", &[0x55, 4, 43]),
    ("ID", &[0x55, 4, 45]),
    ("L", &[0x55, 4, 7]),
    ("N", &[0x55, 4, 41]),
    ("O", &[0x55, 4, 10]),
    ("OU", &[0x55, 4, 11]),
    ("postalCode", &[0x55, 4, 17]),
    ("S", &[0x55, 4, 4]),
    ("SN", &[0x55, 4, 5]),
    ("serialNumber", &[0x55, 4, 5]),
    ("ST", &[0x55, 4, 8]),
    ("street", &[0x55, 4, 9]),
    ("T", &[0x55, 4, 12]),
    ("UID", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1]),
    ("UN", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 2]),
    ("unstructuredName", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 2]),
];

/// DER tags (X.690 §8).
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;

/// `C=CH, O=Example, CN=gateway`, or the same behind slashes, in DER (RFC 5280 §4.1.2.4).
fn distinguished_name(text: &str) -> Result<Vec<u8>, &'static str> {
    let (separators, text): (&[char], _) = match text.trim().strip_prefix('/') {
        Some(rest) => (&['/'], rest),
        None => (&[',', '/'], text.trim()),
    };
    let mut names = Vec::new();
    for part in text.split(separators).map(str::trim).filter(|p| !p.is_empty()) {
        let (keyword, value) = part.split_once('=').ok_or("a part has no '='")?;
        let (keyword, value) = (keyword.trim(), value.trim().trim_matches('"'));
        let (_, oid) = ATTRIBUTES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(keyword))
            .ok_or("unknown attribute")?;
        let printable = |b: u8| b.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&b);
        let tag = match *oid {
            [0x09, ..] | [0x2a, ..] => IA5_STRING,
            _ if value.bytes().all(printable) => PRINTABLE_STRING,
            _ => UTF8_STRING,
        };
        let mut attribute = der(OID, oid);
        attribute.extend(der(tag, value.as_bytes()));
        names.extend(der(SET, &der(SEQUENCE, &attribute)));
    }
    if names.is_empty() { Err("empty") } else { Ok(der(SEQUENCE, &names)) }
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    let len = content.len().to_be_bytes();
    match u8::try_from(content.len()) {
        Ok(short @ 0..=0x7f) => bytes.push(short),
        _ => {
            let significant = len.iter().skip_while(|b| **b == 0);
            bytes.push(0x80 | u8::try_from(significant.clone().count()).unwrap_or(0));
            bytes.extend(significant);
        }
    }
    bytes.extend(content);
    bytes
}

/// Takes one element of `tag` off `input`.
fn element<'a>(input: &mut &'a [u8], wanted: impl Fn(u8) -> bool) -> Option<(u8, &'a [u8])> {
    let (tag, rest) = input.split_first()?;
    let (first, mut rest) = rest.split_first()?;
    let len = if *first < 0x80 {
        usize::from(*first)
    } else {
        let count = usize::from(first & 0x7f);
        // Names are shorter than 64 KiB; longer lengths are not worth following.
        let octets = rest.get(..count).filter(|o| (1..=2).contains(&o.len()))?;
        rest = rest.get(count..)?;
        octets.iter().fold(0, |len, o| len << 8 | usize::from(*o))
    };
    let content = rest.get(..len)?;
    *input = rest.get(len..)?;
    wanted(*tag).then_some((*tag, content))
}

fn distinguished_name_text(der: &[u8]) -> Option<String> {
    let mut input = der;
    let (_, mut names) = element(&mut input, |t| t == SEQUENCE)?;
    let mut parts = Vec::new();
    while !names.is_empty() {
        let (_, mut set) = element(&mut names, |t| t == SET)?;
        while !set.is_empty() {
            let (_, mut attribute) = element(&mut set, |t| t == SEQUENCE)?;
            let (_, oid) = element(&mut attribute, |t| t == OID)?;
            let (_, value) = element(&mut attribute, |_| true)?;
            let (keyword, _) = ATTRIBUTES.iter().find(|(_, known)| *known == oid)?;
            parts.push(format!("{keyword}={}", core::str::from_utf8(value).ok()?));
        }
    }
    Some(parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_by_look_or_prefix() {
        let fqdn = |s: &str| Identity::Fqdn(s.to_owned());
        let email = |s: &str| Identity::Email(s.to_owned());
        for (text, identity) in [
            ("%any", Identity::Any),
            ("a.interop.test", fqdn("a.interop.test")),
            ("carol", fqdn("carol")),
            ("@moon", fqdn("moon")),
            ("fqdn:10.0.0.1", fqdn("10.0.0.1")),
            ("{2}:moon", fqdn("moon")),
            ("carol@strongswan.org", email("carol@strongswan.org")),
            ("@@carol", email("carol")),
            ("email:carol", email("carol")),
            ("@#4d616c", Identity::KeyId(b"Mal".to_vec())),
            ("keyid:moon", Identity::KeyId(b"moon".to_vec())),
            ("keyid:#6d", Identity::KeyId(b"m".to_vec())),
            ("10.0.0.1", Identity::Address("10.0.0.1".parse().unwrap())),
            ("ipv4:#0a000001", Identity::Address("10.0.0.1".parse().unwrap())),
            ("fd00::1", Identity::Address("fd00::1".parse().unwrap())),
            ("fd00::zz", Identity::KeyId(b"fd00::zz".to_vec())),
            ("x=y", Identity::KeyId(b"x=y".to_vec())),
        ] {
            assert_eq!(parse(text), Ok(identity), "{text}");
        }
        for bad in ["", "*@strongswan.org", "C=CH, CN=*", "ipv4:10.0.0.1", "10.0.0.0/8", "{4}:#00"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_distinguished_name_becomes_der_and_text_again() {
        let Ok(Identity::Dn(der)) = parse("C=CH, O=strongSwan, CN=moon@x.org, E=a@b.c") else {
            panic!("not a DN");
        };
        // openssl asn1parse: SEQ { SET { SEQ { countryName, PRINTABLESTRING CH } } …
        let country = [0x31, 11, 0x30, 9, 6, 3, 0x55, 4, 6, 0x13, 2, b'C', b'H'];
        assert_eq!(der.get(2..15), Some(&country[..]));
        let text = display(&Identity::Dn(der));
        assert_eq!(text, "C=CH, O=strongSwan, CN=moon@x.org, E=a@b.c");
        assert_eq!(parse("/C=CH/CN=x"), parse("C=CH, CN=x"));
        assert_eq!(display(&Identity::Dn(vec![0x30, 0x84, 0xff])), "asn1dn:#3084ff");
    }
}
