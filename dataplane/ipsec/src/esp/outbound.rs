//! ESP as sent (RFC 4303 §3.3).
//!
//! ```text
//!  push_front                                                       set_len
//!  ◄────────────────────────────────────┐                     ┌──────────────────────────────►
//!  outer IP │ UDP │ SPI, sequence │ IV │ inner packet │ 1 2 3 … │ pad length │ next │ ICV
//! ```

use super::suite::{self, Sizes, Suite};
use crate::accounting::{Contribution, Events, Totals, Usage};
use crate::drop_cause::DropCause;
use crate::flow::FlowKey;
use crate::packet::PacketBuffer;
use crate::sa::{
    DfRule, DscpRule, HeaderRules, Lifetime, PairId, SaError, SaParameters, Spi, UdpEncap,
};
use crate::selector::Selector;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use wire::ecn::Ecn;
use wire::ip::Ip;
use wire::{checksum, esp, ipv4, ipv6, protocol, udp};

/// TTL and hop limit of tunnel headers (RFC 4301 §5.1.2.1 note 4 leaves it to configuration; 64 is the
/// default of RFC 1700).
const OUTER_TTL: u8 = 64;

/// The path MTU of an SA until it is told another one.
const DEFAULT_PATH_MTU: u16 = 1500;

/// The smallest MTU of an IPv6 link (RFC 8200 §5); no smaller one is told to an IPv6 sender.
const IPV6_MIN_MTU: u16 = 1280;

/// The runtime form of an SA that sends. One worker owns it, and so its sequence numbers.
pub struct OutboundSa {
    spi: Spi,
    esn: bool,
    sizes: Sizes,
    contribution: Contribution,
    headers: HeaderRules,
    path_mtu: u16,
    /// Bytes in front of the inner packet.
    front: u8,
    suite: Suite,
    /// The last sequence number used.
    sequence: u64,
    last_sequence: u64,
    endpoints: Endpoints,
    encap: Option<UdpEncap>,
    usage: Usage,
    selectors: Box<[Selector]>,
    pair: PairId,
    /// Instead of the sequence number, for the one packet of [`OutboundSa::for_known_answer`].
    given_iv: Option<[u8; suite::GCM_IV_LEN]>,
}

#[derive(Clone, Copy, Debug)]
enum Endpoints {
    V4 { local: Ipv4Addr, remote: Ipv4Addr },
    V6 { local: Ipv6Addr, remote: Ipv6Addr },
}

impl Endpoints {
    fn new(local: IpAddr, remote: IpAddr) -> Result<Self, SaError> {
        match (local, remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => Ok(Self::V4 { local, remote }),
            (IpAddr::V6(local), IpAddr::V6(remote)) => Ok(Self::V6 { local, remote }),
            _ => Err(SaError::AddressFamilies),
        }
    }

    fn header_len(self) -> usize {
        match self {
            Self::V4 { .. } => ipv4::MIN_HEADER_LEN,
            Self::V6 { .. } => ipv6::HEADER_LEN,
        }
    }
}

impl OutboundSa {
    /// Computes everything that does not change from packet to packet.
    ///
    /// # Errors
    ///
    /// What does not fit, as [`SaError`] says.
    pub fn new(parameters: &SaParameters) -> Result<Self, SaError> {
        let contribution = suite::check(parameters)?;
        let (suite, sizes) = Suite::new(&parameters.transform)?;
        let mut sa = Self {
            spi: parameters.spi,
            esn: parameters.esn,
            sizes,
            contribution,
            headers: parameters.headers,
            path_mtu: DEFAULT_PATH_MTU,
            front: 0,
            suite,
            sequence: 0,
            last_sequence: if parameters.esn { u64::MAX } else { u64::from(u32::MAX) },
            endpoints: Endpoints::new(parameters.local, parameters.remote)?,
            encap: parameters.encap,
            usage: Usage::new(&parameters.lifetime),
            selectors: parameters.selectors.clone().into(),
            pair: parameters.pair,
            given_iv: None,
        };
        sa.measure();
        Ok(sa)
    }

    /// Continues after `sequence`, as when an SA is taken over from another gateway. Numbers up to it
    /// are never used.
    #[must_use]
    pub fn resume_after(mut self, sequence: u64) -> Self {
        self.sequence = self.sequence.max(sequence);
        self
    }

    /// Seals exactly one packet, with this sequence number and explicit IV, and then refuses: a nonce
    /// cannot repeat. For known answers, whose IVs are not ours.
    #[must_use]
    pub fn for_known_answer(mut self, sequence: u64, iv: [u8; suite::GCM_IV_LEN]) -> Self {
        self.sequence = sequence.saturating_sub(1);
        self.last_sequence = sequence;
        self.given_iv = Some(iv);
        self
    }

    /// Its SPI, which is the peer's.
    #[inline]
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// The pair it belongs to.
    #[inline]
    pub fn pair(&self) -> PairId {
        self.pair
    }

    /// Outer addresses, ours first.
    pub fn endpoints(&self) -> (IpAddr, IpAddr) {
        match self.endpoints {
            Endpoints::V4 { local, remote } => (local.into(), remote.into()),
            Endpoints::V6 { local, remote } => (local.into(), remote.into()),
        }
    }

    /// What it has carried.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// The last sequence number used.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether the SA may carry this traffic.
    #[inline]
    pub fn carries(&self, key: &FlowKey) -> bool {
        self.selectors.iter().any(|selector| selector.matches(key))
    }

    /// Replaces the lifetime of the live SA.
    pub fn set_lifetime(&mut self, lifetime: &Lifetime) {
        self.usage.set_lifetime(lifetime);
    }

    /// Sends to another address or port from now on (RFC 7296 §2.23, RFC 4555).
    ///
    /// # Errors
    ///
    /// [`SaError::AddressFamilies`], and no change.
    pub fn set_endpoints(
        &mut self,
        local: IpAddr,
        remote: IpAddr,
        encap: Option<UdpEncap>,
    ) -> Result<(), SaError> {
        self.endpoints = Endpoints::new(local, remote)?;
        self.encap = encap;
        self.measure();
        Ok(())
    }

    /// Tells the MTU of the path to the peer: of the egress link, or what an ICMP error said.
    pub fn set_path_mtu(&mut self, mtu: u16) {
        self.path_mtu = mtu;
    }

    /// The MTU of the path to the peer.
    pub fn path_mtu(&self) -> u16 {
        self.path_mtu
    }

    /// The largest inner packet whose outer packet fits the path MTU (RFC 4301 §8.2.1).
    pub fn inner_mtu(&self) -> u16 {
        let fixed = u16::from(self.front) + u16::from(self.sizes.icv);
        let room = self.path_mtu.saturating_sub(fixed);
        (room - room % u16::from(self.sizes.align)).saturating_sub(esp::TRAILER_LEN as u16)
    }

    /// Bytes that the SA puts in front of a packet.
    pub fn headroom(&self) -> usize {
        usize::from(self.front)
    }

    /// The most bytes that it puts behind one.
    pub fn tailroom(&self) -> usize {
        usize::from(self.sizes.align) - 1 + esp::TRAILER_LEN + usize::from(self.sizes.icv)
    }

    fn measure(&mut self) {
        let udp = if self.encap.is_some() { udp::HEADER_LEN } else { 0 };
        let front =
            self.endpoints.header_len() + udp + esp::HEADER_LEN + usize::from(self.sizes.iv);
        // At most 40 + 8 + 8 + 16.
        self.front = front as u8;
    }

    #[inline]
    pub(crate) fn suite(&self) -> &Suite {
        &self.suite
    }

    #[inline]
    pub(crate) fn icv_len(&self) -> usize {
        usize::from(self.sizes.icv)
    }

    #[inline]
    pub(crate) fn esn(&self) -> bool {
        self.esn
    }

    /// Takes a sequence number and writes everything that needs no key: padding, trailer, IV, ESP and
    /// tunnel headers (RFC 4303 §3.3.1 to §3.3.3, RFC 4301 §5.1.2).
    #[inline]
    pub(crate) fn prepare<B: PacketBuffer>(
        &mut self,
        buffer: &mut B,
        totals: &mut Totals,
        events: &mut Events,
    ) -> Result<Prepared, Refusal> {
        let inner = Ip::parse(buffer.data()).map_err(|_| DropCause::MalformedHeader)?;
        let (inner_len, traffic_class) = (inner.total_len(), inner.traffic_class());
        let (next_header, dont_fragment) = match inner {
            Ip::V4(ip) => (protocol::IPV4, ip.dont_fragment()),
            Ip::V6(_) => (protocol::IPV6, true),
        };
        let Sizes { icv, align, .. } = self.sizes;
        let align = usize::from(align);
        let pad_len = (align - (inner_len + esp::TRAILER_LEN) % align) % align;
        let text_len = inner_len + pad_len + esp::TRAILER_LEN;
        let front = usize::from(self.front);
        let outer_len = front + text_len + usize::from(icv);
        if outer_len > usize::from(self.path_mtu) {
            return Err(self.too_big(next_header, dont_fragment));
        }
        let total_len = u16::try_from(outer_len).map_err(|_| DropCause::PacketTooBig)?;
        if buffer.headroom() < front
            || buffer.data().len() + buffer.tailroom() < text_len + usize::from(icv)
        {
            return Err(DropCause::NoRoom.into());
        }
        let bytes = inner_len as u64;
        if !self.usage.admits(bytes) {
            *events |= self.usage.refuse();
            return Err(DropCause::LifetimeReached.into());
        }
        let Some(sequence) = self.next_sequence() else {
            *events |= self.usage.refuse();
            return Err(DropCause::SequenceExhausted.into());
        };
        *events |= self.usage.charge(bytes);
        totals.add(self.contribution, bytes);

        buffer.set_len(text_len + usize::from(icv)).map_err(|_| DropCause::NoRoom)?;
        let trailer = buffer.data_mut().get_mut(inner_len..text_len).ok_or(DropCause::NoRoom)?;
        write_trailer(trailer, next_header);
        buffer.push_front(front).map_err(|_| DropCause::NoRoom)?;
        let headers = buffer.data_mut().get_mut(..front).ok_or(DropCause::NoRoom)?;
        let dont_fragment = match self.headers.df {
            DfRule::Copy => dont_fragment,
            DfRule::Set => true,
            DfRule::Clear => false,
        };
        let traffic_class = self.outer_traffic_class(traffic_class);
        self.write_headers(headers, total_len, sequence, traffic_class, dont_fragment);
        Ok(Prepared { text_len, sequence })
    }

    /// The next number, which is never one used before (RFC 4303 §3.3.3); `None` at the end.
    #[inline]
    fn next_sequence(&mut self) -> Option<u64> {
        if self.sequence >= self.last_sequence {
            return None;
        }
        self.sequence += 1;
        Some(self.sequence)
    }

    #[cold]
    fn too_big(&self, next_header: u8, dont_fragment: bool) -> Refusal {
        let mtu = self.inner_mtu();
        match (next_header, dont_fragment) {
            (protocol::IPV4, false) => Refusal::Fragment(mtu),
            (protocol::IPV4, true) => Refusal::TooBig(mtu),
            _ => Refusal::TooBig(mtu.max(IPV6_MIN_MTU)),
        }
    }

    /// DSCP by the SA's rule and ECN by RFC 6040 §4.1: normal mode copies, otherwise not-ECT.
    #[inline]
    fn outer_traffic_class(&self, inner: u8) -> u8 {
        let dscp = match self.headers.dscp {
            DscpRule::Out | DscpRule::Both => inner & 0xfc,
            DscpRule::In | DscpRule::None => 0,
        };
        let ecn = if self.headers.ecn { Ecn::of(inner) } else { Ecn::NotEct };
        dscp | ecn.bits()
    }

    #[inline]
    fn write_headers(
        &self,
        headers: &mut [u8],
        total_len: u16,
        sequence: u64,
        traffic_class: u8,
        dont_fragment: bool,
    ) {
        let ip_len = self.endpoints.header_len();
        let payload_len = total_len - ip_len as u16;
        let Some((ip, rest)) = headers.split_at_mut_checked(ip_len) else { return };
        let protocol = if self.encap.is_some() { protocol::UDP } else { protocol::ESP };
        match self.endpoints {
            Endpoints::V4 { local, remote } => ip.copy_from_slice(
                &ipv4::Header {
                    traffic_class,
                    total_len,
                    // A packet that may be fragmented needs an identification of its own (RFC 6864 §4).
                    id: if dont_fragment { 0 } else { sequence as u16 },
                    dont_fragment,
                    ttl: OUTER_TTL,
                    protocol,
                    source: local,
                    destination: remote,
                }
                .emit(),
            ),
            Endpoints::V6 { local, remote } => ip.copy_from_slice(
                &ipv6::Header {
                    traffic_class,
                    // One label per SA keeps its packets on one path and tells nothing about the flows
                    // inside (RFC 6437 §3).
                    flow_label: self.spi.get(),
                    payload_len,
                    next_header: protocol,
                    hop_limit: OUTER_TTL,
                    source: local,
                    destination: remote,
                }
                .emit(),
            ),
        }
        let rest = match self.encap {
            None => rest,
            Some(UdpEncap { local_port, remote_port }) => {
                let Some((udp, rest)) = rest.split_at_mut_checked(udp::HEADER_LEN) else { return };
                // RFC 3948 §2.1: no checksum over IPv4. That over IPv6 follows the ciphertext.
                udp.copy_from_slice(&udp::emit(local_port, remote_port, payload_len, 0));
                rest
            }
        };
        let Some((clear, iv)) = rest.split_at_mut_checked(esp::HEADER_LEN) else { return };
        clear.copy_from_slice(&esp::emit(self.spi.get(), sequence as u32));
        if let Some(iv) = iv.first_chunk_mut::<{ suite::GCM_IV_LEN }>() {
            *iv = self.given_iv.unwrap_or(sequence.to_be_bytes());
        }
    }

    /// Writes the UDP checksum that IPv6 requires (RFC 8200 §8.1). Receivers that do not ask for zero
    /// checksums (RFC 6935) drop them, and RFC 3948 does not ask for them over IPv6.
    #[inline]
    pub(crate) fn finish(&self, packet: &mut [u8]) {
        let (Endpoints::V6 { local, remote }, Some(_)) = (self.endpoints, self.encap) else {
            return;
        };
        let Some(datagram) = packet.get_mut(ipv6::HEADER_LEN..) else { return };
        let len = datagram.len() as u32;
        let sum = checksum::pseudo_v6(local, remote, protocol::UDP, len).add_bytes(datagram);
        // 0 would mean none (RFC 768).
        let sum = if sum.checksum() == 0 { 0xffff } else { sum.checksum() };
        if let Some(field) = datagram.get_mut(6..8) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
    }
}

impl core::fmt::Debug for OutboundSa {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("OutboundSa")
            .field("spi", &self.spi)
            .field("pair", &self.pair)
            .field("endpoints", &self.endpoints)
            .field("sequence", &self.sequence)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

/// A packet whose headers are written and whose text waits for the cipher.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) text_len: usize,
    pub(crate) sequence: u64,
}

/// Why a packet was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Dropped(DropCause),
    TooBig(u16),
    Fragment(u16),
}

impl From<DropCause> for Refusal {
    fn from(cause: DropCause) -> Self {
        Self::Dropped(cause)
    }
}

/// Padding of 1, 2, 3, …, pad length and next header (RFC 4303 §2.4 to §2.6).
#[inline]
fn write_trailer(trailer: &mut [u8], next_header: u8) {
    let Some((padding, last)) = trailer.split_last_chunk_mut::<{ esp::TRAILER_LEN }>() else {
        return;
    };
    *last = [padding.len() as u8, next_header];
    for (byte, value) in padding.iter_mut().zip(1u8..) {
        *byte = value;
    }
}
