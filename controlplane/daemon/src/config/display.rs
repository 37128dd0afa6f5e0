//! Addresses and traffic selectors as swanctl.conf has them and charon prints them.

use super::value::protocol_name;
use core::net::IpAddr;
use ike::config::{ChildAction, ChildMode, TrafficSelector};
use ipsec::sa::Mode;
use ipsec::selector::{AddressRange, Ports, Selector};

/// `10.0.0.0/8`, `10.0.0.1` or `10.0.0.1-10.0.0.9`.
pub fn addresses(range: &AddressRange) -> String {
    match prefix_len(range) {
        Some(_) if range.first() == range.last() => range.first().to_string(),
        Some(len) => format!("{}/{len}", range.first()),
        None => format!("{}-{}", range.first(), range.last()),
    }
}

/// A list of them, `%any` for none.
pub fn endpoints(ranges: &[AddressRange]) -> String {
    if ranges.is_empty() {
        return "%any".to_owned();
    }
    ranges.iter().map(addresses).collect::<Vec<_>>().join(", ")
}

fn prefix_len(range: &AddressRange) -> Option<u32> {
    // The bits that differ must be all of the low ones.
    let (differ, first, width) = match (range.first(), range.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            (u128::from(u32::from(first) ^ u32::from(last)), u128::from(u32::from(first)), 32)
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            (u128::from(first) ^ u128::from(last), u128::from(first), 128)
        }
        _ => return None,
    };
    let low_ones = differ & differ.wrapping_add(1) == 0;
    (low_ones && first & differ == 0).then_some(width - differ.count_ones())
}

/// `10.0.0.0/8[tcp/80]`; no addresses are `dynamic`.
pub fn selector(range: Option<&AddressRange>, protocol: Option<u8>, ports: &Ports) -> String {
    let mut text = match range {
        // A single address is written as a prefix, as charon does it.
        Some(range) if range.first() == range.last() => {
            format!("{}/{}", range.first(), if range.first().is_ipv4() { 32 } else { 128 })
        }
        Some(range) => addresses(range),
        None => "dynamic".to_owned(),
    };
    let is_icmp = matches!(protocol, Some(wire::protocol::ICMP | wire::protocol::ICMPV6));
    let protocol = match protocol {
        None => String::new(),
        Some(number) => protocol_name(number).map_or_else(|| number.to_string(), str::to_owned),
    };
    let ports = match ports {
        Ports::Any => String::new(),
        Ports::Opaque => "/opaque".to_owned(),
        // Types of ICMP with all their codes, as they are read.
        Ports::Range(range)
            if is_icmp && range.start() & 0xff == 0 && range.end() & 0xff == 0xff =>
        {
            match (range.start() >> 8, range.end() >> 8) {
                (first, last) if first == last => format!("/{first}"),
                (first, last) => format!("/{first}-{last}"),
            }
        }
        Ports::Range(range) if range.start() == range.end() => format!("/{}", range.start()),
        Ports::Range(range) => format!("/{}-{}", range.start(), range.end()),
    };
    if !protocol.is_empty() || !ports.is_empty() {
        text.push_str(&format!("[{protocol}{ports}]"));
    }
    text
}

/// A configured selector.
pub fn configured(ts: &TrafficSelector) -> String {
    selector(ts.addresses.as_ref(), ts.protocol, &ts.ports)
}

/// Our side's half of a negotiated selector.
pub fn local(s: &Selector) -> String {
    selector(Some(&s.local), s.protocol, &s.local_ports)
}

/// The peer's side's half of a negotiated selector.
pub fn remote(s: &Selector) -> String {
    selector(Some(&s.remote), s.protocol, &s.remote_ports)
}

/// The mode as it is configured.
pub const fn mode(mode: ChildMode) -> &'static str {
    match mode {
        ChildMode::Protect(Mode::Tunnel) => "tunnel",
        ChildMode::Protect(Mode::Transport) => "transport",
        ChildMode::Pass => "pass",
        ChildMode::Drop => "drop",
    }
}

/// The action as it is configured.
pub const fn action(action: ChildAction) -> &'static str {
    match action {
        ChildAction::None => "none",
        ChildAction::Trap => "trap",
        ChildAction::Start => "start",
    }
}

#[cfg(test)]
mod tests {
    use super::super::value;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn selectors_are_written_as_they_are_read() {
        for text in [
            "10.0.0.0/8[tcp/80]",
            "10.0.0.1/32",
            "fd00::/64[udp/1000-2000]",
            "0.0.0.0/0",
            "::/0[icmp]",
            "10.0.0.0/8[icmp/8]",
            "10.0.0.0/8[icmp/0-4]",
            "10.0.0.0/8[icmp/769]",
            "fd00::/64[ipv6-icmp/128]",
            "10.0.0.1-10.0.0.9",
            "10.0.0.1-10.0.0.254[/53]",
            "dynamic[47]",
            "dynamic[tcp/opaque]",
        ] {
            let shown = configured(&value::traffic_selector(text).unwrap());
            assert_eq!(shown, text.replace("[47]", "[gre]"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn ranges_survive(a: u32, len in 0..=32_u8, b: u32, v6: bool) {
            let address = |n: u32| match v6 {
                true => IpAddr::V6((u128::from(n) << 40).into()),
                false => IpAddr::V4(n.into()),
            };
            for range in [
                AddressRange::prefix(address(a), len),
                AddressRange::new(address(a.min(b)), address(a.max(b))),
            ] {
                let range = range.unwrap();
                prop_assert_eq!(value::addresses(&addresses(&range)), Some(range));
            }
        }
    }
}
