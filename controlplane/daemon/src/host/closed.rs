//! Fail closed: nftables rules that keep protected traffic off the wire in clear, whether the
//! daemon runs, starts, is killed or is down.
//!
//! The rules sit where the kernel would send (postrouting, for what the host sends and what it
//! forwards) and where it would accept (prerouting) and drop what a PROTECT policy covers unless
//! it passes the host port or the device of a route-based child. ESP leaves and arrives by AF_XDP, below netfilter, and is not seen
//! here; IKE and reassembled ESP carry the daemon's mark or its ports. The table outlives the
//! process on purpose: the next start replaces it in one transaction, `culvert cleanup` and an
//! orderly end with nothing left to protect remove it.

use super::HostError;
use core::fmt::Write as _;
use ipsec::selector::{AddressRange, Ports, Selector};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// The name of our table in the family `inet`.
pub const TABLE: &str = "culvert";

/// Replaces the rules in one transaction: whatever `protected` covers passes only through `devices`: the host port and the devices of
/// route-based children, which lead to the workers.
/// Sockets that carry `mark` are exempt, and so is what `exempt` covers (BYPASS before PROTECT).
pub fn install(
    protected: &[Selector],
    exempt: &[Selector],
    devices: &[String],
    mark: u32,
    ike_ports: [u16; 2],
) -> Result<(), HostError> {
    nft(&ruleset(protected, exempt, devices, mark, ike_ports))
}

/// Removes the table; absent is fine.
pub fn remove() -> Result<(), HostError> {
    nft(&format!("table inet {TABLE}\ndelete table inet {TABLE}\n"))
}

fn ruleset(
    protected: &[Selector],
    exempt: &[Selector],
    devices: &[String],
    mark: u32,
    ike_ports: [u16; 2],
) -> String {
    let own: String = devices.iter().map(|name| format!(", \"{name}\"")).collect();
    let mut text =
        format!("table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    let [ike, nat_t] = ike_ports;
    for (hook, device, outbound) in
        [("postrouting", "oifname", true), ("prerouting", "iifname", false)]
    {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  chain {hook} {{");
        let _ = writeln!(text, "    type filter hook {hook} priority 0; policy accept;");
        let _ = writeln!(text, "    {device} {{ \"lo\"{own} }} accept");
        let _ = writeln!(text, "    meta mark {mark:#x} accept");
        if !outbound {
            let _ = writeln!(text, "    udp dport {{ {ike}, {nat_t} }} accept");
            let _ = writeln!(text, "    meta l4proto {{ 50, 51 }} accept");
        }
        // Neighbour discovery must go on under a ::/0 policy: without it no peer is reachable.
        let _ = writeln!(
            text,
            "    icmpv6 type {{ nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert }} accept"
        );
        for (selectors, verdict) in [(exempt, "accept"), (protected, "drop")] {
            for selector in selectors {
                if let Some(matches) = matches(selector, outbound, verdict == "drop") {
                    let _ = writeln!(text, "    {matches} counter {verdict}");
                }
            }
        }
        text.push_str("  }\n");
    }
    text.push_str("}\n");
    text
}

/// What a selector covers, as nft writes it. Where nft has no exact word, `wider` says on which side to err: a rule that drops may cover
/// more, one that lets pass must not, and is left away.
fn matches(selector: &Selector, outbound: bool, wider: bool) -> Option<String> {
    let family = if selector.local.first().is_ipv4() { "ip" } else { "ip6" };
    let (near, far) = if outbound { ("saddr", "daddr") } else { ("daddr", "saddr") };
    let mut text = format!(
        "{family} {near} {} {family} {far} {}",
        range(&selector.local),
        range(&selector.remote)
    );
    if let Some(protocol) = selector.protocol {
        let _ = write!(text, " meta l4proto {protocol}");
    }
    let (near, far) = if outbound { ("sport", "dport") } else { ("dport", "sport") };
    for (side, ports) in [(near, &selector.local_ports), (far, &selector.remote_ports)] {
        match (ports, selector.protocol) {
            (Ports::Any, _) => {}
            (Ports::Range(range), Some(6 | 17 | 33 | 132 | 136)) => {
                let _ = write!(text, " th {side} {}-{}", range.start(), range.end());
            }
            // Type and code are where ports would begin.
            (Ports::Range(range), Some(1 | 58)) => {
                let _ = write!(text, " @th,0,16 {}-{}", range.start(), range.end());
            }
            // Of any protocol, or hidden ports: only packets of some protocols, or fragments, are meant.
            (Ports::Range(_) | Ports::Opaque, _) if wider => {}
            (Ports::Range(_) | Ports::Opaque, _) => return None,
        }
    }
    Some(text)
}

fn range(range: &AddressRange) -> String {
    if range.first() == range.last() {
        range.first().to_string()
    } else {
        format!("{}-{}", range.first(), range.last())
    }
}

fn nft(text: &str) -> Result<(), HostError> {
    let fail = |e: std::io::Error| HostError::FailClosed(format!("nft: {e}"));
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes()).map_err(fail)?;
    }
    let output = child.wait_with_output().map_err(fail)?;
    if output.status.success() {
        Ok(())
    } else {
        let text = String::from_utf8_lossy(&output.stderr);
        Err(HostError::FailClosed(text.lines().next().unwrap_or("nft failed").to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_lets_pass_never_covers_more_than_its_selector() {
        let net = AddressRange::prefix("10.1.0.0".parse().unwrap(), 16).unwrap();
        let said = |protocol, remote_ports, wider| {
            let local_ports = Ports::Any;
            let (local, remote) = (net, net);
            matches(&Selector { local, remote, protocol, local_ports, remote_ports }, true, wider)
        };
        let addresses = "ip saddr 10.1.0.0-10.1.255.255 ip daddr 10.1.0.0-10.1.255.255";
        for (protocol, ports, drops, passes) in [
            (None, Ports::Any, Some(""), Some("")),
            (Some(6), Ports::Range(80..=81), Some(" meta l4proto 6 th dport 80-81"), None),
            (
                Some(1),
                Ports::Range(0x0800..=0x08ff),
                Some(" meta l4proto 1 @th,0,16 2048-2303"),
                None,
            ),
            (None, Ports::Range(80..=80), Some(""), Some("nothing")),
            (Some(17), Ports::Opaque, Some(" meta l4proto 17"), Some("nothing")),
        ] {
            let whole = |text: &str| format!("{addresses}{text}");
            assert_eq!(said(protocol, ports.clone(), true), drops.map(whole));
            let passes = passes.or(drops).filter(|p| *p != "nothing").map(whole);
            assert_eq!(said(protocol, ports, false), passes);
        }
    }
}
