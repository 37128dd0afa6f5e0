//! Headers a gateway forwards or adds, as checked views and emitters.
//!
//! ```text
//!  Ethernet ─┬─ ARP
//!            ├─ IPv4 (options, fragments) ─┐        ┌─ UDP ─┬─ ESP
//!            └─ IPv6 (extension headers) ──┴─ Upper ┼─ TCP  ├─ IKE behind the non-ESP marker
//!                                                   ├─ ICMP └─ NAT keep-alive
//!                                                   └─ ESP, AH
//! ```
//!
//! # The guarantee
//!
//! A view is made by its `parse`, which checks once that every field an accessor reads lies inside the
//! bytes given. After that no accessor fails, panics, allocates or loops beyond the header's own
//! length, whatever the bytes say. What `parse` does not check (checksums, whether addresses make
//! sense) is said at its documentation. Walks over options and extension headers are bounded. The
//! crate's property test calls every accessor on random and on mutated packets.
//!
//! Views are for what arrived. What is sent is written by the emitters, whose arguments cannot be
//! wrong: fixed-size arrays and plain values.
//!
//! | module | header |
//! |---|---|
//! | [`ethernet`], [`arp`] | link layer |
//! | [`ip`] | either IP version behind one view, and the walk to the upper layer |
//! | [`ipv4`], [`ipv6`] | network layer, with the edits a router makes |
//! | [`udp`], [`tcp`], [`icmp`] | upper layer |
//! | [`esp`], [`ah`] | security protocols (RFC 4303, RFC 4302, RFC 3948) |
//! | [`checksum`] | the Internet checksum and its incremental update |
//! | [`ecn`] | combining ECN fields at tunnel ends (RFC 6040) |
//!
//! The crate never allocates, keeps no state and does no cryptography.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

pub mod ah;
pub mod arp;
pub mod checksum;
pub mod ecn;
pub mod esp;
pub mod ethernet;
pub mod icmp;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod tcp;
pub mod udp;

/// Why bytes are not the header they were taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// Fewer bytes than the header needs.
    Truncated,
    /// A version or type field that is not this header's.
    Version,
    /// A header length below the minimum or beyond the bytes.
    HeaderLength,
    /// A packet length below the header's or beyond the bytes.
    TotalLength,
    /// An option or extension header that does not fit, or too many of them.
    Options,
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Truncated => "truncated",
            Self::Version => "unexpected version or type",
            Self::HeaderLength => "header length out of bounds",
            Self::TotalLength => "packet length out of bounds",
            Self::Options => "malformed options or extension headers",
        })
    }
}

impl core::error::Error for Malformed {}

/// IP protocol numbers this gateway knows by name (IANA "Protocol Numbers").
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP; the next header of tunnelled IPv4.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP; the next header of tunnelled IPv6.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ESP.
    pub const ESP: u8 = 50;
    /// AH.
    pub const AH: u8 = 51;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// No next header; in ESP a dummy packet (RFC 4303 §2.6).
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// IPv6 mobility header.
    pub const MOBILITY: u8 = 135;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
    /// Host identity protocol.
    pub const HIP: u8 = 139;
    /// Shim6.
    pub const SHIM6: u8 = 140;
}

#[cfg(test)]
mod tests;
