//! What ICMP says of the paths to the peers (RFC 4301 §6 and §8.2, RFC 1191, RFC 8201).
//!
//! Nobody signs an ICMP error, so what it says is taken only when it quotes the SPI of an SA that this gateway has towards the
//! quoted destination, only to make packets smaller, never below what every path takes, and not for ever. `gateway.icmp_path_mtu
//! = no` takes none (RFC 4301 §6.1.1 asks for the switch).

use core::net::IpAddr;
use stats::{Counter, Unit};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What a path of IPv4 is taken to carry at least: every host reassembles that much (RFC 791 §3.1), and a lower MTU would let a
/// stranger make of each packet a hundred.
const LEAST_V4: u16 = 576;

/// RFC 8200 §5.
const LEAST_V6: u16 = 1280;

/// RFC 1191 §6.3: after ten minutes the path may have changed for the better.
const BELIEVED: Duration = Duration::from_secs(600);

/// What became of ICMP errors that a packet was too big (RFC 4301 §6.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCounts {
    /// They made the packets of a peer smaller.
    pub believed: u64,
    /// They quote no SA that is sent on.
    pub not_ours: u64,
    /// They say nothing smaller than what is known.
    pub no_news: u64,
    /// Paths that were tried anew, ten minutes later.
    pub expired: u64,
}

/// The counters of the block `path_mtu`, in their order.
pub(crate) fn counters() -> [Counter; 5] {
    let count = |name, text| Counter::monotonic(name, Unit::Packets, text);
    [
        count("believed", "ICMP errors about ESP and AH that made the packets of a peer smaller."),
        count("not_ours", "Those that quote no SA towards that peer."),
        count("no_news", "Those that say nothing smaller than what is known."),
        count("ignored", "Those that came while gateway.icmp_path_mtu = no."),
        Counter::monotonic("expired", Unit::Events, "Paths tried anew ten minutes later."),
    ]
}

/// The outbound SAs that an ICMP error may quote, and what was believed.
#[derive(Debug, Default)]
pub(crate) struct PathMtus {
    counts: PathCounts,
    /// Peer and SPI of what is sent.
    sent: BTreeSet<(IpAddr, u32)>,
    /// One entry for each of those peers at most.
    known: BTreeMap<IpAddr, (u16, Instant)>,
}

impl PathMtus {
    /// An SA sends from now on; the MTU that is known of its path.
    pub(crate) fn enter(&mut self, peer: IpAddr, spi: u32) -> Option<u16> {
        self.sent.insert((peer, spi));
        self.known.get(&peer).map(|(mtu, _)| *mtu)
    }

    /// It does no more.
    pub(crate) fn leave(&mut self, peer: IpAddr, spi: u32) {
        self.sent.remove(&(peer, spi));
        if self.sent.range((peer, 0)..=(peer, u32::MAX)).next().is_none() {
            self.known.remove(&peer);
        }
    }

    /// An error that quotes a packet to `peer` with this SPI: the MTU of the path when it is news.
    pub(crate) fn learn(&mut self, now: Instant, peer: IpAddr, spi: u32, mtu: u32) -> Option<u16> {
        if !self.sent.contains(&(peer, spi)) {
            self.counts.not_ours += 1;
            return None;
        }
        let least = if peer.is_ipv4() { LEAST_V4 } else { LEAST_V6 };
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX).max(least);
        if self.known.get(&peer).is_some_and(|(known, _)| *known <= mtu) {
            self.counts.no_news += 1;
            return None;
        }
        self.counts.believed += 1;
        self.known.insert(peer, (mtu, now + BELIEVED));
        Some(mtu)
    }

    /// The peers whose paths are to be tried anew.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<IpAddr> {
        let over = self.known.iter().filter(|(_, (_, until))| *until <= now);
        let over: Vec<IpAddr> = over.map(|(peer, _)| *peer).collect();
        for peer in &over {
            self.known.remove(peer);
            self.counts.expired += 1;
        }
        over
    }

    pub(crate) fn counts(&self) -> PathCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_quotes_an_sa_makes_packets_smaller_and_not_for_ever() {
        let (peer, other): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let start = Instant::now();
        let mut paths = PathMtus::default();
        assert_eq!(paths.enter(peer, 0x1234), None);
        assert_eq!(paths.learn(start, peer, 0x1235, 1400), None, "another SPI");
        assert_eq!(paths.learn(start, other, 0x1234, 1400), None, "another peer");
        assert_eq!(paths.learn(start, peer, 0x1234, 1400), Some(1400));
        assert_eq!(paths.learn(start, peer, 0x1234, 1400), None, "known");
        assert_eq!(paths.learn(start, peer, 0x1234, 1500), None, "never larger");
        assert_eq!(paths.learn(start, peer, 0x1234, 68), Some(576), "never below what all take");
        assert_eq!(paths.learn(start, peer, 0x1234, 0), None);
        // The SA that replaces it begins with what is known.
        assert_eq!(paths.enter(peer, 0x9999), Some(576));
        paths.leave(peer, 0x1234);
        assert_eq!(paths.learn(start, peer, 0x1234, 100), None);
        assert_eq!(paths.expire(start + BELIEVED / 2), [] as [IpAddr; 0]);
        assert_eq!(paths.expire(start + BELIEVED), [peer]);
        assert_eq!(paths.learn(start + BELIEVED, peer, 0x9999, 70_000), Some(u16::MAX));
        paths.leave(peer, 0x9999);
        assert!(paths.known.is_empty() && paths.sent.is_empty());
        let counts = PathCounts { believed: 3, not_ours: 3, no_news: 3, expired: 1 };
        assert_eq!(paths.counts(), counts);
    }

    #[test]
    fn a_path_of_ipv6_takes_1280() {
        let peer: IpAddr = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into();
        let mut paths = PathMtus::default();
        paths.enter(peer, 300);
        assert_eq!(paths.learn(Instant::now(), peer, 300, 1000), Some(1280));
    }
}
