//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use core::net::{Ipv4Addr, Ipv6Addr};

/// A running sum of 16-bit words, not yet folded or complemented.
///
/// 2^32 bytes fit before the accumulator could overflow, far beyond any packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The empty sum.
    pub const ZERO: Self = Self(0);

    /// Adds bytes; an odd last byte counts as the high half of a word, so only the last piece may be odd.
    #[must_use]
    #[inline]
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        let mut sum = self.0;
        let (quads, rest) = bytes.as_chunks::<4>();
        for quad in quads {
            sum = sum.wrapping_add(u64::from(u32::from_be_bytes(*quad)));
        }
        let (pairs, rest) = rest.as_chunks::<2>();
        for pair in pairs {
            sum = sum.wrapping_add(u64::from(u16::from_be_bytes(*pair)));
        }
        if let [last] = rest {
            sum = sum.wrapping_add(u64::from(u16::from_be_bytes([*last, 0])));
        }
        Self(sum)
    }

    /// Adds one word.
    #[must_use]
    #[inline]
    pub fn add_u16(self, word: u16) -> Self {
        Self(self.0.wrapping_add(u64::from(word)))
    }

    /// Adds two words.
    #[must_use]
    #[inline]
    pub fn add_u32(self, words: u32) -> Self {
        Self(self.0.wrapping_add(u64::from(words)))
    }

    /// The folded sum; all ones over a header that carries its right checksum.
    #[inline]
    pub fn fold(self) -> u16 {
        // To at most 33, 18, 17 and 16 bits.
        let sum = (self.0 >> 32).wrapping_add(self.0 & 0xffff_ffff);
        let sum = (sum >> 16).wrapping_add(sum & 0xffff);
        let sum = (sum >> 16).wrapping_add(sum & 0xffff);
        let sum = (sum >> 16).wrapping_add(sum & 0xffff);
        let [.., high, low] = sum.to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    /// The checksum to put into a header.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// The checksum of `bytes`, whose own checksum field counts as it stands.
#[inline]
pub fn of(bytes: &[u8]) -> u16 {
    Sum::ZERO.add_bytes(bytes).checksum()
}

/// Whether an IPv4 header without options, which is not all zeros, carries its right checksum. The sum is the same in either order of
/// the octets (RFC 1071 §2 (B)) and in words of any length, and right if it is a multiple of 2^16 - 1: what carries counts as one.
#[inline(always)]
pub fn is_right(header: &[u8; 20]) -> bool {
    /// What 2^16 - 1 makes 1 with, modulo 2^64: its multiples, and no others, times this are small.
    const INVERSE: u64 =
        0xffff_u64.wrapping_mul(0x1_0001_0001_0001).wrapping_mul(0x1_0001_0001_0001);
    const { assert!(INVERSE.wrapping_mul(0xffff) == 1) };
    let word =
        |at| header.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |w| u64::from_ne_bytes(*w));
    let last = header.last_chunk().map_or(0, |w| u32::from_ne_bytes(*w));
    let (sum, carry) = word(0).overflowing_add(word(8));
    let (sum, carry) = sum.overflowing_add(u64::from(last).wrapping_add(u64::from(carry)));
    let sum = sum.wrapping_add(u64::from(carry));
    sum.wrapping_mul(INVERSE) <= u64::MAX / 0xffff
}

/// The checksum after one 16-bit word changed from `old` to `new` (RFC 1624 eqn. 3).
#[inline]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::ZERO.add_u16(!checksum).add_u16(!old).add_u16(new).checksum()
}

/// The pseudo header of an upper-layer packet over IPv4 (RFC 768, RFC 9293 §3.1).
pub fn pseudo_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: u16) -> Sum {
    Sum::ZERO
        .add_bytes(&source.octets())
        .add_bytes(&destination.octets())
        .add_u16(u16::from(protocol))
        .add_u16(len)
}

/// The pseudo header of an upper-layer packet over IPv6 (RFC 8200 §8.1).
pub fn pseudo_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, len: u32) -> Sum {
    Sum::ZERO
        .add_bytes(&source.octets())
        .add_bytes(&destination.octets())
        .add_u32(len)
        .add_u32(u32::from(protocol))
}
