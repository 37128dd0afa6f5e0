//! IPv6 (RFC 8200), with a bounded walk over extension headers.
//!
//! ```text
//!  0-3 version, traffic class, flow label │ 4-5 payload length │ 6 next header │ 7 hop limit
//!  8-23 source │ 24-39 destination
//! ```

use crate::{Malformed, protocol};
use core::net::Ipv6Addr;

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 40;

/// Offset of the next-header field of the fixed header.
const NEXT_HEADER_AT: usize = 6;

/// How many extension headers a walk passes: RFC 8200 §4.1 names seven, and a chain longer than this is
/// an attempt to make us work.
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// A packet: the fixed header lies inside the bytes, and the payload is cut to the payload length.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

/// Where the walk over extension headers ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpperLayer {
    /// The first header that is no extension header: transport, ESP, AH, no next header or unknown. For
    /// a fragment that is not the first, what the fragment header names.
    pub protocol: u8,
    /// Its offset from the start of the IPv6 header.
    pub offset: usize,
    /// The offset of the next-header field that names it.
    pub named_at: usize,
    /// Fragment offset in bytes and the more-fragments flag, when there is a fragment header and it is
    /// not an atomic one (RFC 6946).
    pub fragment: Option<(usize, bool)>,
    /// Identification of the packet that this is a fragment of; 0 when it is none.
    pub id: u32,
}

impl<'a> Ipv6<'a> {
    /// Checks version and payload length against the bytes, which may be longer than the packet.
    /// A payload length of 0 is an empty payload: jumbograms (RFC 2675) are not taken.
    ///
    /// # Errors
    ///
    /// [`Malformed::Truncated`], [`Malformed::Version`], [`Malformed::TotalLength`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        if header[0] >> 4 != 6 {
            return Err(Malformed::Version);
        }
        let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let payload = rest.get(..payload_len).ok_or(Malformed::TotalLength)?;
        Ok(Self { header, payload })
    }

    /// Traffic class: DSCP and ECN.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (self.header[0] << 4) | (self.header[1] >> 4)
    }

    /// Flow label, 20 bits.
    pub fn flow_label(&self) -> u32 {
        u32::from_be_bytes([0, self.header[1] & 0x0f, self.header[2], self.header[3]])
    }

    /// Bytes of the packet, fixed header included.
    #[inline]
    pub fn total_len(&self) -> usize {
        self.payload.len().saturating_add(HEADER_LEN)
    }

    /// What follows the fixed header.
    pub fn next_header(&self) -> u8 {
        self.header[6]
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.header[7]
    }

    /// Source address.
    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        let mut octets = [0; 16];
        for (to, from) in octets.iter_mut().zip(self.header.iter().skip(8)) {
            *to = *from;
        }
        octets.into()
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        let mut octets = [0; 16];
        for (to, from) in octets.iter_mut().zip(self.header.iter().skip(24)) {
            *to = *from;
        }
        octets.into()
    }

    /// What follows the fixed header, cut to the payload length.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Walks to the upper layer; at most [`MAX_EXTENSION_HEADERS`] steps.
    ///
    /// # Errors
    ///
    /// [`Malformed::Options`] when a header does not fit or there are too many.
    #[inline]
    pub fn upper_layer(&self) -> Result<UpperLayer, Malformed> {
        let mut upper = UpperLayer {
            protocol: self.header[6],
            offset: HEADER_LEN,
            named_at: NEXT_HEADER_AT,
            fragment: None,
            id: 0,
        };
        let mut rest = self.payload;
        for _ in 0..=MAX_EXTENSION_HEADERS {
            let len = match upper.protocol {
                protocol::HOP_BY_HOP
                | protocol::ROUTING
                | protocol::DESTINATION_OPTIONS
                | protocol::MOBILITY
                | protocol::HIP
                | protocol::SHIM6 => {
                    let [_, units, ..] = *rest else { return Err(Malformed::Options) };
                    usize::from(units).saturating_add(1).saturating_mul(8)
                }
                protocol::FRAGMENT => {
                    let h = rest.first_chunk::<8>().ok_or(Malformed::Options)?;
                    let field = u16::from_be_bytes([h[2], h[3]]);
                    let (offset, more) = (usize::from(field & 0xfff8), field & 1 != 0);
                    if offset != 0 || more {
                        upper.fragment = Some((offset, more));
                        upper.id = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
                    }
                    if offset != 0 {
                        upper.protocol = h[0];
                        upper.named_at = upper.offset;
                        upper.offset = upper.offset.saturating_add(8);
                        return Ok(upper);
                    }
                    8
                }
                _ => return Ok(upper),
            };
            let next = rest.first().copied().ok_or(Malformed::Options)?;
            rest = rest.get(len..).ok_or(Malformed::Options)?;
            upper.protocol = next;
            upper.named_at = upper.offset;
            upper.offset = upper.offset.saturating_add(len);
        }
        Err(Malformed::Options)
    }

    /// Where transport mode puts its header: behind what routers on the way read, which is hop-by-hop
    /// options, routing headers and destination options before a routing header (RFC 4303 §3.1.1).
    ///
    /// # Errors
    ///
    /// [`Malformed::Options`] as [`Ipv6::upper_layer`].
    pub fn transport_insertion(&self) -> Result<UpperLayer, Malformed> {
        let mut at = UpperLayer {
            protocol: self.header[6],
            offset: HEADER_LEN,
            named_at: NEXT_HEADER_AT,
            fragment: None,
            id: 0,
        };
        let mut rest = self.payload;
        for _ in 0..=MAX_EXTENSION_HEADERS {
            let [next, units, ..] = *rest else { return Ok(at) };
            let per_hop = match at.protocol {
                protocol::HOP_BY_HOP | protocol::ROUTING => true,
                protocol::DESTINATION_OPTIONS => next == protocol::ROUTING,
                _ => false,
            };
            if !per_hop {
                return Ok(at);
            }
            let len = usize::from(units).saturating_add(1).saturating_mul(8);
            rest = rest.get(len..).ok_or(Malformed::Options)?;
            at.protocol = next;
            at.named_at = at.offset;
            at.offset = at.offset.saturating_add(len);
        }
        Err(Malformed::Options)
    }
}

/// A fixed header, to be emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label; bits above 20 are ignored.
    pub flow_label: u32,
    /// Bytes behind the fixed header.
    pub payload_len: u16,
    /// What follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
}

impl Header {
    /// The bytes.
    #[inline]
    pub fn emit(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        let word =
            0x6000_0000 | (u32::from(self.traffic_class) << 20) | (self.flow_label & 0x000f_ffff);
        let [l1, l0] = self.payload_len.to_be_bytes();
        let fields = word
            .to_be_bytes()
            .into_iter()
            .chain([l1, l0, self.next_header, self.hop_limit])
            .chain(self.source.octets())
            .chain(self.destination.octets());
        for (to, from) in header.iter_mut().zip(fields) {
            *to = from;
        }
        header
    }
}

/// Takes one from the hop limit of a packet. `None`, and no change, when it would reach zero (RFC 8200
/// §3) or these bytes hold no IPv6 header.
pub fn decrement_hop_limit(packet: &mut [u8]) -> Option<u8> {
    let header = packet.first_chunk_mut::<HEADER_LEN>().filter(|h| h[0] >> 4 == 6)?;
    header[7] = header[7].checked_sub(1).filter(|&limit| limit > 0)?;
    Some(header[7])
}

/// Replaces the payload length.
pub fn set_payload_len(packet: &mut [u8], payload_len: u16) {
    if let Some(header) = packet.first_chunk_mut::<HEADER_LEN>() {
        [header[4], header[5]] = payload_len.to_be_bytes();
    }
}

/// Replaces the traffic class.
pub fn set_traffic_class(packet: &mut [u8], traffic_class: u8) {
    let Some(header) = packet.first_chunk_mut::<HEADER_LEN>() else { return };
    header[0] = (header[0] & 0xf0) | (traffic_class >> 4);
    header[1] = (header[1] & 0x0f) | (traffic_class << 4);
}
