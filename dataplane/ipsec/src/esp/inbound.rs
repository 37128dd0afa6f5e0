//! ESP as received (RFC 4303 §3.4), and AH (RFC 4302 §3.4), which has no trailer and encrypts nothing.
//!
//! ```text
//!  outer headers │ SPI, sequence │ IV │ inner packet │ TFC │ 1 2 3 … │ pad length │ next │ ICV
//!                │◄──── in clear ────►│◄────────────── ciphertext ──────────────────►│
//! ```

use super::serial::Place;
use super::suite::{self, Sizes, Suite};
use crate::accounting::{Contribution, Events, Run, Totals, Usage};
use crate::classify::Protected;
use crate::drop_cause::DropCause;
use crate::flow::{Admission, FlowId};
use crate::packet::PacketBuffer;
use crate::replay::{Candidate, Order, ReplayWindow};
use crate::sa::{DscpRule, HeaderRules, Lifetime, PairId, Protocol, SaError, SaParameters, Spi};
use core::net::IpAddr;
use wire::ah::Ah;
use wire::ecn::Ecn;
use wire::esp::Esp;
use wire::ip::Ip;
use wire::{esp, ipv4, ipv6, protocol};

pub(crate) mod plain;

/// Where the peer's packets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Outer source address.
    pub address: IpAddr,
    /// UDP source port when encapsulated.
    pub port: Option<u16>,
}

impl Peer {
    fn v4(self) -> Option<u32> {
        match self {
            Self { address: IpAddr::V4(address), port: None } => Some(address.to_bits()),
            Self { .. } => None,
        }
    }
}

/// The runtime form of an SA that receives. One worker owns it.
///
/// What every packet looks at lies in front.
#[repr(C, align(64))]
pub struct InboundSa {
    spi: Spi,
    esn: bool,
    /// Whether packets may go the way of [`plain`].
    is_plain: bool,
    seen: bool,
    sizes: Sizes,
    contribution: Contribution,
    headers: HeaderRules,
    /// The peer's address, when it is an IPv4 address without a port.
    peer_v4: Option<u32>,
    suite: Suite,
    replay: ReplayWindow,
    usage: Usage,
    selectors: Admission,
    peer: Peer,
    pair: PairId,
}

impl InboundSa {
    /// Cache lines that every packet touches: up to the first selector.
    pub(crate) const HOT_LINES: usize =
        (core::mem::offset_of!(Self, selectors) + Admission::HOT_BYTES).div_ceil(64);

    /// Computes everything that does not change from packet to packet.
    ///
    /// # Errors
    ///
    /// What does not fit, as [`SaError`] says.
    pub fn new(parameters: &SaParameters) -> Result<Self, SaError> {
        let contribution = suite::check(parameters)?;
        let (suite, sizes) = Suite::new(parameters)?;
        let peer = Peer {
            address: parameters.remote,
            port: parameters.encap.map(|encap| encap.remote_port),
        };
        Ok(Self {
            spi: parameters.spi,
            esn: parameters.esn,
            is_plain: false,
            peer_v4: peer.v4(),
            peer,
            sizes,
            contribution,
            headers: parameters.headers,
            seen: false,
            suite,
            replay: ReplayWindow::new(parameters.replay_window, parameters.esn)?,
            usage: Usage::new(&parameters.lifetime),
            selectors: Admission::new(&parameters.selectors),
            pair: parameters.pair,
        })
    }

    /// Starts with `highest` as the highest sequence number seen and an empty window, as when an SA is
    /// taken over from another gateway.
    ///
    /// # Errors
    ///
    /// [`SaError::Window`].
    pub fn resume_at(mut self, window: u32, highest: u64) -> Result<Self, SaError> {
        self.replay = ReplayWindow::resume(window, self.esn, highest)?;
        Ok(self)
    }

    /// Its SPI.
    #[inline]
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// The pair it belongs to.
    #[inline]
    pub fn pair(&self) -> PairId {
        self.pair
    }

    /// What it has carried.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Where authentic packets last came from.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The highest sequence number accepted.
    pub fn highest_sequence(&self) -> u64 {
        self.replay.highest()
    }

    /// Whether an authentic packet has arrived.
    pub fn is_used(&self) -> bool {
        self.seen
    }

    /// Replaces the lifetime of the live SA.
    pub fn set_lifetime(&mut self, lifetime: &Lifetime) {
        self.usage.set_lifetime(lifetime);
    }

    /// Tells where the peer is expected, so that only a move from there is an event.
    pub fn set_peer(&mut self, peer: Peer) {
        self.peer = peer;
        self.peer_v4 = peer.v4();
    }

    /// Sizes and the replay check (RFC 4303 §3.4.2, §3.4.3): what needs no key.
    #[inline]
    pub(crate) fn admit(&self, header: &Protected, data: &[u8]) -> Result<Admitted, DropCause> {
        let (offset, end) = (usize::from(header.offset), usize::from(header.end));
        let packet = data.get(offset..end).ok_or(DropCause::TooShort)?;
        let (sequence, text, text_len) = match (&self.suite, header.protocol) {
            (Suite::Ah(ah), Protocol::Ah) => {
                let parsed = Ah::parse(packet).map_err(|_| DropCause::TooShort)?;
                let header_len = ah.header_len(header.source.is_ipv6());
                if parsed.header_len() != header_len {
                    return Err(DropCause::BadLength);
                }
                (parsed.sequence(), offset + header_len, packet.len() - header_len)
            }
            (Suite::Gcm { .. } | Suite::Serial(_), Protocol::Esp) => {
                let parsed = Esp::parse(packet).map_err(|_| DropCause::TooShort)?;
                let Sizes { iv, icv, align } = self.sizes;
                let before = esp::HEADER_LEN + usize::from(iv);
                let text_len = packet.len().checked_sub(before + usize::from(icv));
                let text_len = text_len.filter(|&len| len >= esp::TRAILER_LEN);
                let text_len = text_len.ok_or(DropCause::TooShort)?;
                // A power of two.
                if text_len & (usize::from(align) - 1) != 0 {
                    return Err(DropCause::BadLength);
                }
                (parsed.sequence(), offset + before, text_len)
            }
            (Suite::Ah(_), Protocol::Esp)
            | (Suite::Gcm { .. } | Suite::Serial(_), Protocol::Ah) => {
                return Err(DropCause::ProtocolMismatch);
            }
        };
        let candidate = self.replay.check(sequence)?;
        let (sequence, esn) = (candidate.sequence(), self.esn);
        let place = Place { esp: offset, text, text_len, sequence, esn };
        Ok(Admitted { candidate, spi: self.spi, place, authentic: false })
    }

    /// Asks for what its next packet of `len` bytes needs beside the SA itself: the words of the window and the key.
    #[inline]
    pub(crate) fn prefetch(&self, header: &Protected, data: &[u8]) {
        if let Some([n3, n2, n1, n0]) =
            data.get(usize::from(header.offset) + 4..).and_then(<[u8]>::first_chunk)
        {
            self.replay.prefetch(u32::from_be_bytes([*n3, *n2, *n1, *n0]));
        }
        self.suite.prefetch(data.len());
    }

    #[inline]
    pub(crate) fn suite(&self) -> &Suite {
        &self.suite
    }

    #[inline]
    pub(crate) fn icv_len(&self) -> usize {
        usize::from(self.sizes.icv)
    }

    /// Everything behind decryption: replay window, trailer, tunnel strip, selectors and accounts
    /// (RFC 4303 §3.4.3, §3.4.4; RFC 4301 §5.2 steps 3 and 4). On success the buffer holds the inner
    /// packet.
    #[inline]
    pub(crate) fn conclude<B: PacketBuffer>(
        &mut self,
        header: &Protected,
        admitted: Admitted,
        buffer: &mut B,
        run: &mut Run,
        totals: &mut Totals,
    ) -> (Result<Inner, DropCause>, Events) {
        let mut events = Events::NONE;
        let result = self.unwrap(header, admitted, buffer, run, totals, &mut events);
        (result, events)
    }

    #[inline]
    fn unwrap<B: PacketBuffer>(
        &mut self,
        header: &Protected,
        admitted: Admitted,
        buffer: &mut B,
        run: &mut Run,
        totals: &mut Totals,
        events: &mut Events,
    ) -> Result<Inner, DropCause> {
        let Admitted { candidate, place, authentic, .. } = admitted;
        let Place { text, text_len, .. } = place;
        if !authentic {
            return Err(DropCause::NotAuthentic);
        }
        let order = self.replay.accept(&candidate)?;
        self.note_peer(header, order, events);

        let data = buffer.data_mut();
        let ah_next_header = data.get(place.esp).copied();
        let plain = data.get_mut(text..text + text_len).ok_or(DropCause::TooShort)?;
        let (payload_len, next_header) = match (&self.suite, ah_next_header) {
            (Suite::Ah(_), Some(next_header)) => (text_len, next_header),
            _ => read_trailer(plain)?,
        };
        if next_header == protocol::NO_NEXT_HEADER {
            return Err(DropCause::Dummy);
        }
        let (start, len, admitted) = if self.contribution.tunnel {
            let payload = plain.get_mut(..payload_len).ok_or(DropCause::BadPadding)?;
            let inner = self.read_inner(payload, next_header)?;
            let traffic_class =
                self.inner_traffic_class(inner.traffic_class, header.traffic_class)?;
            if traffic_class != inner.traffic_class {
                wire::ip::set_traffic_class(payload, traffic_class);
            }
            (text, inner.len, inner.admitted)
        } else {
            let (start, end) =
                (join_transport(buffer.data_mut(), header, text), text + payload_len);
            let start = start.ok_or(DropCause::BadLength)?;
            let packet = buffer.data_mut().get_mut(start..end).ok_or(DropCause::BadPadding)?;
            let id = restore_transport(packet, next_header, header)?;
            (start, end - start, self.selectors.admits_inbound(&id))
        };
        if !admitted {
            return Err(DropCause::SelectorMismatch);
        }

        let bytes = len as u64;
        if !self.usage.admits(bytes) {
            *events |= self.usage.refuse();
            return Err(DropCause::LifetimeReached);
        }
        *events |= self.usage.charge(bytes);
        run.add(self.contribution, bytes, totals);
        buffer.trim_front(start);
        buffer.set_len(len).map_err(|_| DropCause::NoRoom)?;
        Ok(Inner { len: len as u16 })
    }

    #[inline]
    fn note_peer(&mut self, header: &Protected, order: Order, events: &mut Events) {
        if !self.seen {
            self.seen = true;
            *events |= Events::FIRST_AUTHENTIC;
        }
        let peer = Peer { address: header.source, port: header.source_port };
        if order == Order::Newest && peer != self.peer {
            self.set_peer(peer);
            *events |= Events::PEER_MOVED;
        }
    }

    /// Checks that the payload begins with the IP packet that the next header promises; what follows it is
    /// traffic flow confidentiality padding (RFC 4303 §2.7).
    #[inline]
    fn read_inner(&self, payload: &[u8], next_header: u8) -> Result<InnerHeader, DropCause> {
        let admits = |id: &FlowId| self.selectors.admits_inbound(id);
        match (next_header, Ip::parse(payload)) {
            (protocol::IPV4, Ok(Ip::V4(ip))) if ip.checksum_ok() => Ok(InnerHeader {
                len: ip.total_len(),
                traffic_class: ip.traffic_class(),
                admitted: admits(&FlowId::of_v4(&ip)),
            }),
            (protocol::IPV6, Ok(ip @ Ip::V6(_))) => {
                let id = FlowId::of(&ip).map_err(|_| DropCause::InnerMalformed)?;
                let (len, traffic_class) = (ip.total_len(), ip.traffic_class());
                Ok(InnerHeader { len, traffic_class, admitted: admits(&id) })
            }
            (protocol::IPV4 | protocol::IPV6, _) => Err(DropCause::InnerMalformed),
            _ => Err(DropCause::BadNextHeader),
        }
    }

    /// DSCP by the SA's rule and ECN by RFC 6040 §4.2.
    #[inline]
    fn inner_traffic_class(&self, inner: u8, outer: u8) -> Result<u8, DropCause> {
        let dscp = match self.headers.dscp {
            DscpRule::In | DscpRule::Both => outer & 0xfc,
            DscpRule::Out | DscpRule::None => inner & 0xfc,
        };
        let ecn = if self.headers.ecn {
            Ecn::decapsulate(Ecn::of(inner), Ecn::of(outer)).ok_or(DropCause::CongestionNotEct)?
        } else {
            Ecn::of(inner)
        };
        Ok(dscp | ecn.bits())
    }
}

impl core::fmt::Debug for InboundSa {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("InboundSa")
            .field("spi", &self.spi)
            .field("pair", &self.pair)
            .field("peer", &self.peer)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

/// A packet that may be decrypted.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) candidate: Candidate,
    pub(crate) spi: Spi,
    pub(crate) place: Place,
    /// What the cipher said.
    pub(crate) authentic: bool,
}

/// A packet that came out of its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Its length in bytes.
    pub len: u16,
}

struct InnerHeader {
    len: usize,
    traffic_class: u8,
    /// Whether the SA's selectors are for it.
    admitted: bool,
}

/// Reads and checks pad length, padding and next header (RFC 4303 §2.4 to §2.6): the length of what
/// comes before them.
#[inline]
fn read_trailer(plain: &[u8]) -> Result<(usize, u8), DropCause> {
    let (rest, &[pad_len, next_header]) =
        plain.split_last_chunk::<{ esp::TRAILER_LEN }>().ok_or(DropCause::TooShort)?;
    let payload_len = rest.len().checked_sub(usize::from(pad_len)).ok_or(DropCause::BadPadding)?;
    let padding = rest.get(payload_len..).ok_or(DropCause::BadPadding)?;
    if !padding.iter().zip(1u8..=255).all(|(&byte, expected)| byte == expected) {
        return Err(DropCause::BadPadding);
    }
    Ok((payload_len, next_header))
}

/// Moves the IP header of a transport-mode packet up to its payload at `text`; the offset where the
/// packet now begins.
#[inline]
fn join_transport(data: &mut [u8], header: &Protected, text: usize) -> Option<usize> {
    let ip_len = header.ip_len();
    let start = text.checked_sub(ip_len)?;
    data.get(..text)?;
    data.copy_within(..ip_len, start);
    Some(start)
}

/// Gives the joined packet the length and the protocol it had before it was protected, and repairs
/// checksums that a NAT made wrong (RFC 3948 §3.1.2).
#[inline]
fn restore_transport(
    packet: &mut [u8],
    next_header: u8,
    header: &Protected,
) -> Result<FlowId, DropCause> {
    let len = u16::try_from(packet.len()).map_err(|_| DropCause::InnerMalformed)?;
    if packet.first().is_some_and(|b| b >> 4 == 4) {
        ipv4::set_len_and_protocol(packet, len, next_header);
    } else {
        ipv6::set_payload_len(packet, len.saturating_sub(ipv6::HEADER_LEN as u16));
        let named = packet.get_mut(usize::from(header.named_at));
        *named.ok_or(DropCause::InnerMalformed)? = next_header;
    }
    if header.source_port.is_some() {
        wire::ip::repair_upper_checksum(packet);
    }
    let ip = Ip::parse(packet).map_err(|_| DropCause::InnerMalformed)?;
    FlowId::of(&ip).map_err(|_| DropCause::InnerMalformed)
}
