//! ESP as received (RFC 4303 §3.4), and AH (RFC 4302 §3.4), which has no trailer and encrypts nothing.
//!
//! ```text
//!  outer headers │ SPI, sequence │ IV │ inner packet │ TFC │ 1 2 3 … │ pad length │ next │ ICV
//!                │◄──── in clear ────►│◄────────────── ciphertext ──────────────────►│
//! ```

use super::serial::Place;
use super::suite::{self, Keyed, Lodger, Sizes, Suite};
use crate::accounting::{Contribution, Events, Run, Totals, Usage};
use crate::aead::KeyStart;
use crate::classify::Protected;
use crate::drop_cause::DropCause;
use crate::flow::{FlowId, FlowIdV4, QuickV4};
use crate::fragments::admitted;
use crate::icmp_error::answered_traffic;
use crate::packet::PacketBuffer;
use crate::prefetch::{bring_lines, prefetch, prefetch_lines};
use crate::replay::{Candidate, Order, ReplayWindow};
use crate::sa::{DscpRule, HeaderRules, Lifetime, PairId, Protocol, SaError, SaParameters, Spi};
use crate::sad::Mark;
use crate::selector::Selector;
use core::net::IpAddr;
use wire::ah::Ah;
use wire::ecn::Ecn;
use wire::esp::Esp;
use wire::ip::Ip;
use wire::{esp, ethernet, ipv4, ipv6, protocol};

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
    /// The number of an IPv4 address without a port; of others, one that no packet comes from.
    fn v4(self) -> u32 {
        match self {
            Self { address: IpAddr::V4(address), port: None } => address.to_bits(),
            Self { .. } => 0,
        }
    }
}

/// The runtime form of an SA that receives. One worker owns it.
///
/// ```text
///  lines  0               1        2 .. 5           6, 7         8 ..
///         a key's start │ onward │ window's words │ what moves │ what only some packets look at
///         ◄────── a packet ─────►   ◄─ one ─►       ◄────────►
/// ```
#[repr(C, align(64))]
pub struct InboundSa {
    start: KeyStart,
    onward: Onward,
    replay: ReplayWindow,
    spi: Spi,
    /// The peer's address, when it is an IPv4 address without a port.
    peer_v4: u32,
    lodger: Option<Lodger>,
    sizes: Sizes,
    esn: bool,
    /// Whether packets may go the way of [`plain`].
    is_straight: bool,
    seen: bool,
    headers: HeaderRules,
    quick: Option<QuickV4>,
    mark: Mark,
    usage: Usage,
    contribution: Contribution,
    suite: Suite,
    selectors: Box<[Selector]>,
    peer: Peer,
    pair: PairId,
}

/// Where the last packet went that came out of an SA: most that follow are of the same flow, and need not look for it among all flows.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Onward {
    flow: FlowIdV4,
    /// Of the decisions that it was made from; 0 for none.
    version: u32,
    hop: Hop,
}

impl Default for Onward {
    fn default() -> Self {
        Self { flow: FlowIdV4 { addresses: 0, rest: 0 }, version: 0, hop: Hop::default() }
    }
}

/// A way out of the gateway in clear, for whoever runs the table of SAs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hop {
    /// The number of the port.
    pub port: u16,
    /// The longest packet in bytes.
    pub mtu: u16,
    /// The Ethernet header.
    pub header: [u8; ethernet::HEADER_LEN],
}

// What every packet touches beside the key, a word of the window and where it goes on is two lines.
const _: () = assert!(InboundSa::HOT.end - InboundSa::HOT.start == 2);

impl InboundSa {
    /// Cache lines that every packet touches beside the key and a word of the window: up to the counters of `usage`.
    const HOT: core::ops::Range<usize> =
        (core::mem::offset_of!(Self, replay) + ReplayWindow::HOT_AT) / 64
            ..(core::mem::offset_of!(Self, usage) + Usage::HOT_BYTES).div_ceil(64);

    /// Computes everything that does not change from packet to packet.
    ///
    /// # Errors
    ///
    /// What does not fit, as [`SaError`] says.
    pub fn new(parameters: &SaParameters) -> Result<Self, SaError> {
        let contribution = suite::check(parameters)?;
        let (suite, sizes) = Suite::new(parameters)?;
        let selectors = admitted(parameters);
        let peer = Peer {
            address: parameters.remote,
            port: parameters.encap.map(|encap| encap.remote_port),
        };
        Ok(Self {
            spi: parameters.spi,
            esn: parameters.esn,
            start: KeyStart::EMPTY,
            onward: Onward::default(),
            mark: Mark::Live,
            lodger: None,
            is_straight: false,
            peer_v4: peer.v4(),
            peer,
            sizes,
            contribution,
            headers: parameters.headers,
            seen: false,
            suite,
            replay: ReplayWindow::new(parameters.replay_window, parameters.esn)?,
            usage: Usage::new(&parameters.lifetime),
            quick: QuickV4::first_of(&selectors),
            selectors: selectors.into(),
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

    /// Whether packets of a flow go where [`Self::onward`] says: the last packet was of it, and that is still so by the `version` of
    /// decisions, which is not 0.
    #[inline(always)]
    fn goes_on(&self, flow: FlowIdV4, version: u32) -> bool {
        self.onward.flow == flow && self.onward.version == version
    }

    /// Where the last packet went.
    #[inline(always)]
    pub fn onward(&self) -> &Hop {
        &self.onward.hop
    }

    /// Remembers where packets of a flow go on.
    #[inline]
    pub fn set_onward(&mut self, flow: FlowIdV4, version: u32, hop: Hop) {
        self.onward = Onward { flow, version, hop };
    }

    /// Asks for what a packet needs first. Whether there is an SA does not matter: an entry of a table lies as the SA in it.
    #[inline(always)]
    pub(crate) fn bring_in<T>(entry: &T) {
        const { assert!(size_of::<T>() == size_of::<Self>()) };
        bring_lines(entry, Self::HOT);
    }

    /// Asks for what the packet with this number on the wire needs when it is decrypted.
    #[inline(always)]
    pub(crate) fn prefetch_leaving(&self, low: u32) {
        prefetch(&self.onward);
        self.replay.prefetch(low);
    }

    /// Asks for what it has carried.
    pub(crate) fn prefetch_usage_in<T>(entry: &T) {
        const { assert!(size_of::<T>() == size_of::<Self>()) };
        let end = core::mem::offset_of!(Self, usage) + Usage::CARRIED_BYTES;
        prefetch_lines(entry, Self::HOT.start..end.div_ceil(64));
    }

    /// Whether a packet that arrived is traffic of the SA (RFC 4301 §5.2 step 4).
    #[inline]
    pub fn admits(&self, id: &FlowId) -> bool {
        let quickly = |(id, quick): (FlowIdV4, QuickV4)| quick.admits_inbound(id);
        id.v4().zip(self.quick).is_some_and(quickly) || self.asks_all(id)
    }

    #[cold]
    fn asks_all(&self, id: &FlowId) -> bool {
        let key = id.flow().inbound();
        self.selectors.iter().any(|selector| selector.matches(&key))
    }

    /// Whether a packet that is no traffic of the SA is an ICMP error about such traffic (RFC 4301 §6.2).
    #[cold]
    fn admits_error(&self, packet: Option<&[u8]>) -> bool {
        packet.and_then(answered_traffic).is_some_and(|answer| self.asks_all(&answer.into()))
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
        // Of ESP only: AH has no dummies.
        if next_header == protocol::NO_NEXT_HEADER && !matches!(self.suite, Suite::Ah(_)) {
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
            (start, end - start, self.admits(&id))
        };
        if !admitted && !self.admits_error(buffer.data().get(start..start + len)) {
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
        let admits = |id: &FlowId| self.admits(id);
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

impl Keyed for InboundSa {
    #[inline(always)]
    fn keying(&self) -> (&KeyStart, Option<&Lodger>, &Suite) {
        (&self.start, self.lodger.as_ref(), &self.suite)
    }

    fn keying_mut(&mut self) -> (&mut KeyStart, &mut Option<Lodger>, &mut Suite) {
        (&mut self.start, &mut self.lodger, &mut self.suite)
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
