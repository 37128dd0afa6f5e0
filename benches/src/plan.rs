//! What is to be measured.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::Error;

/// The most packets that a worker takes from a port at once; beyond, only the bare AEAD is measured.
pub const MAX_PATH_BURST: usize = 32;

/// The most SAs of a worker that an SPI can name.
pub const MAX_SAS: usize = 1_000_000;

/// The most policies beside those of the SAs.
const MAX_POLICIES: usize = 1_000_000;

/// The most workers, which is what an SPI can name.
const MAX_WORKERS: usize = 64;

/// Inner IP lengths that can be measured: room for a number behind the headers, and an ESP packet within the MTU.
pub const SIZES: std::ops::RangeInclusive<u16> = 40..=1438;

/// What is measured, and for how long.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Which ways.
    pub directions: Vec<Direction>,
    /// Inner IP lengths.
    pub sizes: Vec<Size>,
    /// The transform of all SAs.
    pub suite: Suite,
    /// Packets a burst, 1 to 256.
    pub bursts: Vec<usize>,
    /// SAs of each worker, each with its own policy.
    pub sas: Vec<usize>,
    /// Policies beside those of the SAs, which no packet matches and all of which come first.
    pub policies: usize,
    /// In which order packets meet them.
    pub order: Order,
    /// Threads, each with its own SAs.
    pub workers: usize,
    /// 64-bit sequence numbers.
    pub esn: bool,
    /// Replay window, in packets.
    pub window: u32,
    /// Samples a point.
    pub repetitions: u32,
    /// Timed seconds a point; what is measured beside it takes a quarter of that each.
    pub seconds: f64,
    /// Frames of a pass.
    pub frames: usize,
    /// Loads under which latency and loss are measured, in percent of what the gateway was found to take.
    pub loads: Vec<u32>,
    /// Of a hundred packets, those that come to a worker whose SA is another's.
    pub handoff: u32,
    /// Devices instead of memory.
    pub ports: Option<PortsPlan>,
}

/// AF_XDP ports.
#[derive(Clone, Debug, Serialize)]
pub struct PortsPlan {
    /// The sender's interface and the gateway's; or the gateway's alone, a veth whose peer is the sender's.
    pub interfaces: Vec<String>,
    /// Which way packets take between device and memory.
    pub mode: PortMode,
}

/// As in `gateway { ports }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PortMode {
    /// The best that works.
    Auto,
    /// The device reads and writes packet memory.
    Zerocopy,
    /// The kernel copies; the program runs in the driver.
    Copy,
    /// The kernel copies; the program runs in the stack.
    Generic,
}

impl Plan {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let within = |ok, what| if ok { Ok(()) } else { Err(Error::Plan(what)) };
        let fits = |size: &Size| matches!(size, Size::Imix) || SIZES.contains(&size.longest());
        within(self.sizes.iter().all(fits), "a size is out of bounds")?;
        within(self.bursts.iter().all(|b| (1..=256).contains(b)), "a burst is 1 to 256 packets")?;
        within(self.sas.iter().all(|n| (1..=MAX_SAS).contains(n)), "1 to 1000000 SAs a worker")?;
        within((1..=MAX_WORKERS).contains(&self.workers), "1 to 64 workers")?;
        within(self.policies <= MAX_POLICIES, "at most 1000000 policies beside those of the SAs")?;
        within(self.repetitions > 0 && self.seconds > 0.0, "nothing to measure in no time")?;
        within((256..=1 << 15).contains(&self.frames), "a pass has 256 to 32768 frames")?;
        within(self.loads.iter().all(|l| (1..=1000).contains(l)), "a load is 1 to 1000 percent")?;
        within(self.loads.is_empty() || self.workers == 1, "loads are for one worker")?;
        within(self.handoff <= 100, "at most all packets are handed off")?;
        within(self.handoff == 0 || self.workers > 1, "one worker has nobody to hand off to")?;
        let here = self.ports.is_none();
        within(here || self.bursts == [MAX_PATH_BURST], "over ports bursts are of 32")?;
        within(here || self.handoff == 0, "over ports nothing is handed off")?;
        let full = self.bursts.iter().all(|burst| *burst == MAX_PATH_BURST);
        within(self.handoff == 0 || full, "what is handed off is measured in bursts of 32")
    }
}

/// Inner IP lengths of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// All packets have this many bytes.
    Bytes(u16),
    /// Of twelve packets seven have 64 bytes, four 576 and one 1420: the mix by which routers are compared, its longest packets as long
    /// as a tunnel takes.
    Imix,
}

/// The mix in the order of packets.
const IMIX: [u16; 12] = [64, 576, 64, 64, 576, 64, 1420, 64, 576, 64, 576, 64];

impl Size {
    /// The length of a packet by its number.
    pub(crate) fn of(self, number: u64) -> u16 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Imix => IMIX[(number % IMIX.len() as u64) as usize],
        }
    }

    /// The longest.
    pub(crate) fn longest(self) -> u16 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Imix => 1420,
        }
    }

    /// The average.
    pub(crate) fn mean(self) -> f64 {
        match self {
            Self::Bytes(bytes) => bytes.into(),
            Self::Imix => IMIX.iter().copied().map(f64::from).sum::<f64>() / IMIX.len() as f64,
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => f.pad(&bytes.to_string()),
            Self::Imix => f.pad("imix"),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "imix" {
            return Ok(Self::Imix);
        }
        let bytes = text.parse().ok().filter(|bytes| SIZES.contains(bytes));
        bytes
            .map(Self::Bytes)
            .ok_or_else(|| format!("a size is {} to {} bytes, or imix", SIZES.start(), SIZES.end()))
    }
}

impl Serialize for Size {
    /// A number, or the name of the mix.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bytes(bytes) => serializer.serialize_u16(*bytes),
            Self::Imix => serializer.serialize_str("imix"),
        }
    }
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Plain packets in, ESP out.
    Out,
    /// ESP in, plain packets out.
    In,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Out, Self::In];

    /// `out` or `in`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
        }
    }
}

/// In which order packets meet the SAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// One after the other, in the order of their installation.
    Sequential,
    /// In one random order, again and again: each SA as often as any other.
    Random,
}

impl Order {
    /// The SAs in order.
    pub(crate) fn of(self, sas: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..sas as u32).collect();
        if self == Self::Random {
            let mut state = 1;
            for i in (1..sas).rev() {
                order.swap(i, (split_mix(&mut state) % (i as u64 + 1)) as usize);
            }
        }
        order
    }
}

/// The transform of all SAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// AES-GCM with a 128-bit key and a 16-byte ICV (RFC 4106).
    Aes128Gcm16,
    /// The same with 192 bits.
    Aes192Gcm16,
    /// The same with 256 bits.
    Aes256Gcm16,
}

impl Suite {
    /// Bytes of key, without salt.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm16 => 16,
            Self::Aes192Gcm16 => 24,
            Self::Aes256Gcm16 => 32,
        }
    }

    /// The name that swanctl.conf has for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm16 => "aes128gcm16",
            Self::Aes192Gcm16 => "aes192gcm16",
            Self::Aes256Gcm16 => "aes256gcm16",
        }
    }
}

/// SplitMix64: numbers that look random and are the same in every run.
pub(crate) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_order_meets_every_sa_once() {
        let mut order = Order::Random.of(1000);
        assert_ne!(order, Order::Sequential.of(1000));
        order.sort_unstable();
        assert_eq!(order, Order::Sequential.of(1000));
    }
}
