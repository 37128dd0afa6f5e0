//! Traffic selector payloads (RFC 7296 §3.13).
//!
//! ```text
//! | Number of TSs |                 RESERVED                      |
//!   |   TS Type     |IP Protocol ID*|       Selector Length         |
//!   |           Start Port*         |           End Port*           |
//!   ~                         Starting Address*                     ~
//!   ~                         Ending Address*                       ~
//! ```

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::message::InvalidMessage;
use crate::message::build::Emit;
use crate::message::numbers::TsType;
use crate::message::read::Reader;

use super::PayloadType;

/// Selectors in one payload: what the count octet can say. Each is compared with each of a child's configuration once
/// per exchange of an authenticated peer.
pub const MAX_SELECTORS: usize = 255;

/// The OPAQUE port range (RFC 7296 §3.13.1, RFC 4301 §4.4.1.1).
pub const OPAQUE_PORTS: PortRange = PortRange { start: 65535, end: 0 };

/// Received selectors of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrafficSelectors<'a> {
    selectors: &'a [u8],
}

impl<'a> TrafficSelectors<'a> {
    /// # Errors
    /// A count of zero or one that disagrees, a selector whose length is not that of its type, or whose range ends
    /// before it begins. Selectors of unknown types are kept.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut r = Reader::new(body);
        let count = r.u8()?;
        r.take(3)?;
        let mut selectors = r;
        for _ in 0..count {
            TrafficSelector::read(&mut selectors)?;
        }
        if count == 0 || !selectors.is_empty() {
            return Err(InvalidMessage::BadCount);
        }
        Ok(Self { selectors: r.rest() })
    }

    /// The selectors in order, those of unknown types left out: they can match nothing of ours.
    pub fn iter(&self) -> impl Iterator<Item = TrafficSelector> + use<'a> {
        let mut r = Reader::new(self.selectors);
        core::iter::from_fn(move || TrafficSelector::read(&mut r).ok()).flatten()
    }
}

/// Ports, or ICMP type and code in the upper and lower octet. Either 0 ≤ start ≤ end, or [`OPAQUE_PORTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// The first.
    pub start: u16,
    /// The last.
    pub end: u16,
}

impl PortRange {
    /// Every port.
    pub const ANY: Self = Self { start: 0, end: 65535 };

    /// Whether this stands for packets whose ports cannot be seen.
    pub fn is_opaque(self) -> bool {
        self == OPAQUE_PORTS
    }
}

/// An address range of either family, first and last address inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SelectorRange {
    /// IPv4.
    V4(Ipv4Addr, Ipv4Addr),
    /// IPv6.
    V6(Ipv6Addr, Ipv6Addr),
}

/// One selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrafficSelector {
    /// The IP protocol, zero for any.
    pub protocol: u8,
    /// The ports.
    pub ports: PortRange,
    /// The addresses.
    pub range: SelectorRange,
}

impl TrafficSelector {
    /// `None` is a selector of an unknown type, skipped by its length.
    fn read(r: &mut Reader<'_>) -> Result<Option<Self>, InvalidMessage> {
        let kind = TsType::from_number(r.u8()?);
        let protocol = r.u8()?;
        let length = r.u16()?;
        let mut body = Reader::new(r.body(length, 4)?);
        if let TsType::Unknown(_) = kind {
            return Ok(None);
        }
        let ports = PortRange { start: body.u16()?, end: body.u16()? };
        let range = match kind {
            TsType::Ipv6AddrRange => {
                SelectorRange::V6(body.array::<16>()?.into(), body.array::<16>()?.into())
            }
            TsType::Ipv4AddrRange | TsType::Unknown(_) => {
                SelectorRange::V4(body.array::<4>()?.into(), body.array::<4>()?.into())
            }
        };
        let ascending = match range {
            SelectorRange::V4(start, end) => start <= end,
            SelectorRange::V6(start, end) => start <= end,
        };
        let ports_ascending = ports.start <= ports.end || ports.is_opaque();
        if !body.is_empty() || !ascending || !ports_ascending {
            return Err(InvalidMessage::BadSelector);
        }
        Ok(Some(Self { protocol, ports, range }))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        let (kind, length) = match self.range {
            SelectorRange::V4(..) => (TsType::Ipv4AddrRange, 16u16),
            SelectorRange::V6(..) => (TsType::Ipv6AddrRange, 40u16),
        };
        out.extend_from_slice(&[kind.number(), self.protocol]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&self.ports.start.to_be_bytes());
        out.extend_from_slice(&self.ports.end.to_be_bytes());
        match self.range {
            SelectorRange::V4(start, end) => {
                out.extend_from_slice(&start.octets());
                out.extend_from_slice(&end.octets());
            }
            SelectorRange::V6(start, end) => {
                out.extend_from_slice(&start.octets());
                out.extend_from_slice(&end.octets());
            }
        }
    }
}

fn emit(selectors: &[TrafficSelector], out: &mut Vec<u8>) {
    // More than the octet can say are cut off: `MAX_SELECTORS` bounds what a configuration may hold.
    let count = u8::try_from(selectors.len()).unwrap_or(u8::MAX);
    out.extend_from_slice(&[count, 0, 0, 0]);
    for selector in selectors.iter().take(MAX_SELECTORS) {
        selector.emit(out);
    }
}

/// TSi, for emission.
#[derive(Clone, Copy, Debug)]
pub struct TrafficSelectorsI<'a>(pub &'a [TrafficSelector]);

impl Emit for TrafficSelectorsI<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::TsI.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        emit(self.0, out);
    }
}

/// TSr, for emission.
#[derive(Clone, Copy, Debug)]
pub struct TrafficSelectorsR<'a>(pub &'a [TrafficSelector]);

impl Emit for TrafficSelectorsR<'_> {
    fn payload_type(&self) -> u8 {
        PayloadType::TsR.number()
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        emit(self.0, out);
    }
}
