//! What the values of settings mean: times, volumes, addresses, traffic selectors.

use core::net::IpAddr;
use core::time::Duration;
use ike::config::TrafficSelector;
use ipsec::selector::{AddressRange, Ports};
use zeroize::Zeroizing;

/// `yes`, `true`, `enabled`, `1` and their opposites, in any case.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    let is = |words: [&str; 4]| words.iter().any(|w| text.eq_ignore_ascii_case(w));
    match () {
        () if is(["yes", "true", "enabled", "1"]) => Some(true),
        () if is(["no", "false", "disabled", "0"]) => Some(false),
        () => None,
    }
}

/// A number in decimal, or in hexadecimal behind `0x`.
pub(crate) fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    // `from_str_radix` takes a sign, which no number here has.
    if digits.starts_with('+') { None } else { u64::from_str_radix(digits, radix).ok() }
}

/// Splits off a unit of one letter, in any case.
fn with_unit(text: &str) -> Option<(u64, Option<char>)> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, letter)) if letter.is_ascii_alphabetic() && !text.starts_with("0x") => {
            (&text[..at], Some(letter.to_ascii_lowercase()))
        }
        _ => (text, None),
    };
    Some((number(digits.trim_end())?, unit))
}

/// Seconds, or with `s`, `m`, `h`, `d` behind.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (count, unit) = with_unit(text)?;
    let seconds = match unit {
        None | Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        Some(_) => return None,
    };
    // A thousand years are beyond any clock's arithmetic worry and any lifetime's use.
    let total = count.checked_mul(seconds)?;
    (total <= 1000 * 366 * 86_400).then(|| Duration::from_secs(total))
}

/// Bytes, or with `k`, `m`, `g` behind (powers of 1024).
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let (count, unit) = with_unit(text)?;
    let factor = match unit {
        None => 1,
        Some('k') => 1 << 10,
        Some('m') => 1 << 20,
        Some('g') => 1 << 30,
        Some(_) => return None,
    };
    count.checked_mul(factor)
}

/// Seconds with a fraction, as strongswan.conf has `retransmit_timeout = 4.0`; a unit may follow.
pub(crate) fn fractional_duration(text: &str) -> Option<Duration> {
    if let Some(whole) = duration(text) {
        return Some(whole);
    }
    let seconds: f64 = decimal(text.strip_suffix('s').unwrap_or(text))?;
    (seconds <= 86_400.0).then(|| Duration::from_secs_f64(seconds))
}

/// A number with a decimal point; no exponent, sign or word.
pub(crate) fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    plain.then(|| text.parse().ok()).flatten()
}

/// `192.0.2.1`, `192.0.2.0/24` or `192.0.2.1-192.0.2.9`, in either family.
pub(crate) fn addresses(text: &str) -> Option<AddressRange> {
    if let Some((address, len)) = text.split_once('/') {
        return AddressRange::prefix(address.parse().ok()?, u8::try_from(number(len)?).ok()?);
    }
    if let Some((first, last)) = text.split_once('-') {
        return AddressRange::new(first.trim().parse().ok()?, last.trim().parse().ok()?);
    }
    text.parse::<IpAddr>().ok().map(AddressRange::host)
}

/// An entry of `local_addrs` or `remote_addrs`.
pub(crate) enum Endpoint {
    /// `%any`
    Any,
    /// An address, a prefix or a range.
    Addresses(AddressRange),
    /// Something else, likely a host name.
    Name,
}

/// Parses an entry of `local_addrs` or `remote_addrs`.
pub(crate) fn endpoint(text: &str) -> Endpoint {
    let whole = |address: &str| address.parse().ok().and_then(|a| AddressRange::prefix(a, 0));
    let range = match text {
        "%any" | "%" => return Endpoint::Any,
        "%any4" | "0.0.0.0" => whole("0.0.0.0"),
        "%any6" | "::" | "0::0" => whole("::"),
        other => addresses(other),
    };
    range.map_or(Endpoint::Name, Endpoint::Addresses)
}

/// A traffic selector: addresses or `dynamic`, and `[protocol/port]` behind it.
pub(crate) fn traffic_selector(text: &str) -> Result<TrafficSelector, &'static str> {
    let (addresses, upper) = match text.split_once('[') {
        Some((addresses, upper)) => {
            let upper = upper.strip_suffix(']').ok_or("the ']' is missing")?;
            (addresses.trim_end(), Some(upper.trim()))
        }
        None => (text, None),
    };
    let addresses = match addresses {
        "dynamic" => None,
        other => Some(self::addresses(other).ok_or(
            "neither an address, a prefix such as 10.0.0.0/8, a range such as \
             10.0.0.1-10.0.0.9, nor 'dynamic'",
        )?),
    };
    let (mut protocol, mut ports) = (None, Ports::Any);
    if let Some(upper) = upper {
        let (name, port) = match upper.split_once('/') {
            Some((name, port)) => (name.trim(), Some(port.trim())),
            None => (upper, None),
        };
        // As strongSwan has it, zero and nothing both mean any protocol.
        if !name.is_empty() && name != "%any" {
            let number = self::protocol(name).ok_or(
                "the protocol is neither a number up to 255 nor a name such as tcp, udp or icmp",
            )?;
            protocol = (number != 0).then_some(number);
        }
        if let Some(port) = port.filter(|p| !p.is_empty() && *p != "%any") {
            ports = self::ports(port, protocol).ok_or(
                "the port is neither a number up to 65535, a range, a service name nor 'opaque'",
            )?;
        }
    }
    Ok(TrafficSelector { addresses, protocol, ports })
}

/// Ports, or of ICMP types: as charon has it, numbers up to 255 are types with all their codes, greater ones type * 256 + code
/// (RFC 4301 §4.4.1.1).
fn ports(text: &str, protocol: Option<u8>) -> Option<Ports> {
    if text == "opaque" {
        return Some(Ports::Opaque);
    }
    if let Some(port) = SERVICES.iter().find(|(name, _)| *name == text) {
        return Some(Ports::Range(port.1..=port.1));
    }
    let port = |text: &str| u16::try_from(number(text.trim())?).ok();
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if matches!(protocol, Some(wire::protocol::ICMP | wire::protocol::ICMPV6)) {
        let first = if first < 256 { first << 8 } else { first };
        let last = if last < 256 { last << 8 | 0xff } else { last };
        return (first <= last).then_some(Ports::Range(first..=last));
    }
    match (first, last) {
        // Port 0 alone is how strongSwan's users write any port.
        (0, 0 | u16::MAX) => Some(Ports::Any),
        (first, last) => (first <= last).then_some(Ports::Range(first..=last)),
    }
}

/// IP protocol numbers by the names of IANA's registry that policies use.
fn protocol(text: &str) -> Option<u8> {
    let name = PROTOCOLS.iter().find(|(name, _)| text.eq_ignore_ascii_case(name));
    name.map(|(_, number)| *number).or_else(|| number(text).and_then(|n| u8::try_from(n).ok()))
}

/// The name that [`traffic_selector`] takes for a protocol.
pub(super) fn protocol_name(number: u8) -> Option<&'static str> {
    PROTOCOLS.iter().find(|(_, n)| *n == number).map(|(name, _)| *name)
}

const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", 1),
    ("igmp", 2),
    ("ipencap", 4),
    ("tcp", 6),
    ("udp", 17),
    ("ipv6", 41),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ipv6-icmp", 58),
    ("icmpv6", 58),
    ("eigrp", 88),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", 132),
    ("udplite", 136),
];

/// Services that appear in IPsec policies; the host's own list is not read, so that a
/// configuration means the same everywhere.
const SERVICES: &[(&str, u16)] = &[
    ("bgp", 179),
    ("bootpc", 68),
    ("bootps", 67),
    ("domain", 53),
    ("ftp", 21),
    ("http", 80),
    ("https", 443),
    ("ipsec-nat-t", 4500),
    ("isakmp", 500),
    ("l2tp", 1701),
    ("ldap", 389),
    ("ldaps", 636),
    ("nfs", 2049),
    ("ntp", 123),
    ("radius", 1812),
    ("smtp", 25),
    ("snmp", 161),
    ("ssh", 22),
    ("syslog", 514),
    ("telnet", 23),
    ("vxlan", 4789),
];

/// Bytes from pairs of hexadecimal digits, which colons may separate.
pub(crate) fn hex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() / 2));
    let mut digits = text.bytes().filter(|b| *b != b':');
    while let Some(high) = digits.next() {
        let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok());
        bytes.push(nibble(high)? << 4 | nibble(digits.next()?)?);
    }
    Some(bytes)
}

/// A secret: text, `0x` and hexadecimal, or `0s` and Base64.
pub(crate) fn secret(text: &str) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return hex(digits).ok_or("what follows 0x is not pairs of hexadecimal digits");
    }
    if let Some(encoded) = text.strip_prefix("0s").or_else(|| text.strip_prefix("0S")) {
        use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
        // Padding or none: strongSwan's users write both.
        let engine = GeneralPurpose::new(
            &base64::alphabet::STANDARD,
            GeneralPurposeConfig::new()
                .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
        );
        // The output has its full size from the start, so that no copy is left behind.
        let mut bytes = Zeroizing::new(vec![0; encoded.len()]);
        let len = base64::Engine::decode_slice(&engine, encoded, &mut bytes)
            .map_err(|_| "what follows 0s is not Base64")?;
        bytes.truncate(len);
        return Ok(bytes);
    }
    Ok(Zeroizing::new(text.as_bytes().to_vec()))
}

/// A name that the kernel takes for an interface.
pub(crate) fn is_interface(text: &str) -> bool {
    // IFNAMSIZ is 16 with the NUL.
    (1..16).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, seconds) in [("0", 0), ("90", 90), ("90s", 90), ("4h", 14_400), ("2 m", 120)] {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "h", "-1", "+1", "4w", "1.5h", "4hh", "99999999999999999999"] {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(fractional_duration("1.5"), Some(Duration::from_millis(1500)));
        assert_eq!(fractional_duration("inf"), None);
    }

    #[test]
    fn volumes_are_powers_of_1024() {
        assert_eq!(bytes("10k"), Some(10_240));
        assert_eq!(bytes("1G"), Some(1 << 30));
        assert_eq!(bytes("0x10"), Some(16));
        assert_eq!(bytes("1t"), None);
        assert_eq!(bytes("18446744073709551615g"), None);
    }

    #[test]
    fn selectors_take_protocol_and_port() {
        let tcp = traffic_selector("10.0.0.0/8[tcp/80]").unwrap();
        assert_eq!(tcp.addresses, AddressRange::prefix("10.0.0.0".parse().unwrap(), 8));
        assert_eq!((tcp.protocol, tcp.ports), (Some(6), Ports::Range(80..=80)));
        let range = traffic_selector("fd00::1-fd00::9[udp/1000-2000]").unwrap();
        assert_eq!((range.protocol, range.ports), (Some(17), Ports::Range(1000..=2000)));
        let any = traffic_selector("dynamic[/%any]").unwrap();
        assert_eq!((any.addresses, any.protocol, any.ports), (None, None, Ports::Any));
        for (text, types) in [
            ("icmp/8", 0x0800..=0x08ff),
            ("icmp/0", 0..=0xff),
            ("icmp/3-4", 0x0300..=0x04ff),
            ("icmp/0x0301", 0x0301..=0x0301),
            ("ipv6-icmp/128-129", 0x8000..=0x81ff),
        ] {
            let icmp = traffic_selector(&format!("dynamic[{text}]")).unwrap();
            assert_eq!(icmp.ports, Ports::Range(types), "{text}");
        }
        let opaque = traffic_selector("dynamic[tcp/opaque]").unwrap();
        assert_eq!(opaque.ports, Ports::Opaque);
        for bad in
            ["10.0.0.0/33", "x", "10.0.0.9-10.0.0.1", "dynamic[tcp", "dynamic[300]", "::1[tcp/2-1]"]
        {
            assert!(traffic_selector(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_text_hex_or_base64() {
        assert_eq!(secret("abc").unwrap().as_slice(), b"abc");
        assert_eq!(secret("0x616263").unwrap().as_slice(), b"abc");
        assert_eq!(secret("0sYWJj").unwrap().as_slice(), b"abc");
        assert_eq!(secret("0sYWI").unwrap().as_slice(), b"ab");
        assert_eq!(secret("0sYWI=").unwrap().as_slice(), b"ab");
        assert!(secret("0x123").is_err());
        assert!(secret("0s!").is_err());
    }
}
