//! ESP as sent (RFC 4303 §3.3), and AH (RFC 4302 §3.3), which has no trailer and its ICV in its header.
//!
//! ```text
//!             push_front                                     set_len
//!            ◄────────────────────────────────┐            ┌──────────────────────────────►
//! tunnel:    outer IP │ UDP │ SPI, sequence │ IV │ IP packet  │ 1 2 3 … │ pad length │ next │ ICV
//! transport: IP       │ UDP │ SPI, sequence │ IV │ IP payload │ 1 2 3 … │ pad length │ next │ ICV
//! ```
//!
//! In transport mode the IP header moves to the new front and is told its new length and protocol.

use super::serial::Place;
use super::suite::{self, Keyed, Lodger, Sizes, Suite};
use crate::accounting::{Contribution, Events, Run, Totals, Usage};
use crate::aead::KeyStart;
use crate::drop_cause::DropCause;
use crate::flow::FlowKey;
use crate::fragments::admitted;
use crate::packet::PacketBuffer;
use crate::prefetch::{bring_lines, prefetch_lines};
use crate::sa::{
    DfRule, DscpRule, HeaderRules, Lifetime, PairId, SaError, SaParameters, Spi, TfcRule, UdpEncap,
};
use crate::sad::Mark;
use crate::selector::Selector;
use crate::spd::with_hidden_ports;
use core::cell::Cell;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use plain::{Rules, Template};
use wire::ecn::Ecn;
use wire::ip::{Fragment, Ip};
use wire::{ah, checksum, esp, ipv4, ipv6, protocol, udp};

pub(crate) mod plain;

/// TTL and hop limit of tunnel headers (RFC 4301 §5.1.2.1 note 4 leaves it to configuration; 64 is the
/// default of RFC 1700).
const OUTER_TTL: u8 = 64;

/// The path MTU of an SA until it is told another one.
const DEFAULT_PATH_MTU: u16 = 1500;

/// The longest explicit IV, that of CBC.
const MAX_IV_LEN: usize = 16;

/// The smallest MTU of an IPv6 link (RFC 8200 §5); no smaller one is told to an IPv6 sender.
const IPV6_MIN_MTU: u16 = 1280;

/// The runtime form of an SA that sends. One worker owns it, and so its sequence numbers.
///
/// ```text
///  lines  0                1         2              3 ..
///         a key's start  │ headers │ what moves    │ what only some packets look at
///         ◄───────────── a packet ────────────────►
/// ```
#[repr(C, align(64))]
pub struct OutboundSa {
    start: KeyStart,
    template: Template,
    path_mtu: u16,
    spi: Spi,
    rules: Rules,
    sizes: Sizes,
    lodger: Option<Lodger>,
    esn: bool,
    /// Whether packets may go the way of [`plain`].
    is_straight: bool,
    /// The last sequence number used. A cell, as a job that borrows the key is made while it counts.
    sequence: Cell<u64>,
    last_sequence: u64,
    mark: Mark,
    /// Which of the SAs it is that were in its slot.
    generation: u32,
    usage: Usage,
    contribution: Contribution,
    headers: HeaderRules,
    /// Bytes between the IP header and what is carried: UDP, clear header and IV, or AH.
    middle: u8,
    /// Bytes behind the padding: none with AH.
    trailer: u8,
    /// Whether the port and the Ethernet header in the template are those that its packets leave by.
    is_linked: bool,
    suite: Suite,
    encap: Option<UdpEncap>,
    /// For the one packet of [`OutboundSa::for_known_answer`].
    given: Option<Box<Given>>,
    endpoints: Endpoints,
    selectors: Box<[Selector]>,
    pair: PairId,
}

/// What a published packet prescribes instead of what the SA would choose.
#[derive(Clone, Copy, Debug)]
pub struct KnownAnswer<'a> {
    /// The whole sequence number.
    pub sequence: u64,
    /// The explicit IV.
    pub iv: &'a [u8],
    /// Bytes of padding, when they are not as few as possible.
    pub pad_len: Option<u8>,
    /// Identification of an IPv4 tunnel header, which AH covers.
    pub identification: Option<u16>,
}

struct Given {
    iv: [u8; MAX_IV_LEN],
    iv_len: usize,
    pad_len: Option<u8>,
    identification: Option<u16>,
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
    /// Cache lines that every packet touches beside the key: from the headers up to the counters of `usage`.
    const HOT: core::ops::Range<usize> = core::mem::offset_of!(Self, template) / 64
        ..(core::mem::offset_of!(Self, usage) + Usage::HOT_BYTES).div_ceil(64);

    /// Computes everything that does not change from packet to packet.
    ///
    /// # Errors
    ///
    /// What does not fit, as [`SaError`] says.
    pub fn new(parameters: &SaParameters) -> Result<Self, SaError> {
        let contribution = suite::check(parameters)?;
        let (suite, sizes) = Suite::new(parameters)?;
        let mut sa = Self {
            spi: parameters.spi,
            esn: parameters.esn,
            sizes,
            contribution,
            headers: parameters.headers,
            path_mtu: DEFAULT_PATH_MTU,
            middle: 0,
            trailer: 0,
            is_straight: false,
            is_linked: false,
            start: KeyStart::EMPTY,
            mark: Mark::Live,
            generation: 0,
            lodger: None,
            suite,
            sequence: Cell::new(0),
            last_sequence: if parameters.esn { u64::MAX } else { u64::from(u32::MAX) },
            endpoints: Endpoints::new(parameters.local, parameters.remote)?,
            encap: parameters.encap,
            usage: Usage::new(&parameters.lifetime),
            selectors: admitted(parameters).into(),
            pair: parameters.pair,
            given: None,
            template: Template::NONE,
            rules: Rules::new(&parameters.headers),
        };
        sa.measure();
        sa.watch_numbers();
        Ok(sa)
    }

    /// Continues after `sequence`, as when an SA is taken over from another gateway. Numbers up to it
    /// are never used.
    #[must_use]
    pub fn resume_after(mut self, sequence: u64) -> Self {
        self.sequence = Cell::new(self.sequence.get().max(sequence));
        self.watch_numbers();
        self
    }

    /// Has a successor asked for while an eighth of the numbers is left: it has to be there before the last one is used (RFC 4303
    /// §3.3.3). A packet takes one number, so the soft limit for packets does it.
    fn watch_numbers(&mut self) {
        let due = self.last_sequence - self.last_sequence / 8;
        self.usage.ask_within(due.saturating_sub(self.sequence.get()));
    }

    /// Seals exactly one packet, as prescribed, and no other: a nonce cannot repeat. For published packets,
    /// whose IVs are not ours. One whose IV has not the cipher's length is refused.
    #[must_use]
    pub fn for_known_answer(mut self, answer: KnownAnswer<'_>) -> Self {
        let KnownAnswer { sequence, iv, pad_len, identification } = answer;
        self.sequence = Cell::new(sequence.saturating_sub(1));
        self.last_sequence = sequence;
        let iv_len = iv.len().min(MAX_IV_LEN);
        let mut given = Given { iv: [0; MAX_IV_LEN], iv_len, pad_len, identification };
        given.iv[..iv_len].copy_from_slice(&iv[..iv_len]);
        self.given = Some(Box::new(given));
        self.judge();
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

    /// Which of the SAs it is that are in its slot one after the other, as its owner counts them; 0 unless it was said.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Says which.
    pub fn set_generation(&mut self, generation: u32) {
        self.generation = generation;
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
        self.sequence.get()
    }

    /// Whether the SA may carry this traffic.
    #[inline]
    pub fn carries(&self, key: &FlowKey) -> bool {
        self.selectors.iter().any(|selector| selector.matches(key))
    }

    /// Replaces the lifetime of the live SA.
    pub fn set_lifetime(&mut self, lifetime: &Lifetime) {
        self.usage.set_lifetime(lifetime);
        self.watch_numbers();
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
        // That way is found anew.
        self.is_linked = false;
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

    /// Whether TCP connections are told what the tunnel has room for.
    pub fn clamps_mss(&self) -> bool {
        self.headers.clamp_mss && self.contribution.tunnel
    }

    /// The largest packet that fits the path MTU when it is protected (RFC 4301 §8.2.1).
    pub fn inner_mtu(&self) -> u16 {
        // In transport mode the IP header stays outside; options are not counted.
        let ip_len = self.endpoints.header_len() as u16;
        let fixed = ip_len + u16::from(self.middle) + u16::from(self.sizes.icv);
        let room = self.path_mtu.saturating_sub(fixed);
        let carried =
            (room - room % u16::from(self.sizes.align)).saturating_sub(u16::from(self.trailer));
        if self.contribution.tunnel { carried } else { carried + ip_len }
    }

    /// What IPv4 packets that are longer are fragmented to before they are sealed, where the SA takes what comes of that.
    #[cold]
    pub fn cuts_at(&self) -> Option<u16> {
        (self.contribution.tunnel && self.takes_later_fragments()).then(|| self.inner_mtu())
    }

    /// Whether fragments that show no ports may take it whenever the whole packet may (RFC 4301 §7).
    fn takes_later_fragments(&self) -> bool {
        let admits_fragments = |selector: &Selector| {
            with_hidden_ports(selector).is_none_or(|hidden| self.selectors.contains(&hidden))
        };
        self.selectors.iter().all(admits_fragments)
    }

    /// The most bytes that the SA puts in front of a packet.
    pub fn headroom(&self) -> usize {
        let ip_len = if self.contribution.tunnel { self.endpoints.header_len() } else { 0 };
        ip_len + usize::from(self.middle)
    }

    /// The most bytes that it puts behind one.
    pub fn tailroom(&self) -> usize {
        usize::from(self.sizes.align) - 1 + usize::from(self.trailer) + usize::from(self.sizes.icv)
    }

    fn measure(&mut self) {
        let udp = if self.encap.is_some() { udp::HEADER_LEN } else { 0 };
        let (header, trailer) = match &self.suite {
            Suite::Ah(ah) => (ah.header_len(matches!(self.endpoints, Endpoints::V6 { .. })), 0),
            Suite::Gcm { .. } | Suite::Serial(_) => {
                (esp::HEADER_LEN + usize::from(self.sizes.iv), esp::TRAILER_LEN)
            }
        };
        // At most 8 + 8 + 16, or 12 + 36.
        self.middle = (udp + header) as u8;
        self.trailer = trailer as u8;
        if let Endpoints::V4 { local, remote } = self.endpoints {
            self.template.write(local, remote, self.outer_protocol(), self.spi);
        }
        self.judge();
    }

    /// Finds out whether packets may go the way of [`plain`].
    fn judge(&mut self) {
        self.is_straight = self.is_linked
            && self.contribution.tunnel
            && self.encap.is_none()
            && self.given.is_none()
            && self.headers.tfc == TfcRule::None
            && !self.headers.clamp_mss
            && matches!(self.endpoints, Endpoints::V4 { .. })
            && matches!(self.suite, Suite::Gcm { .. });
    }

    /// Asks for what a packet needs first. Whether there is an SA does not matter.
    #[inline(always)]
    pub(crate) fn bring_in(entry: &Option<Self>) {
        bring_lines(entry, Self::HOT);
    }

    /// Asks for what it has carried.
    pub(crate) fn prefetch_usage_in(entry: &Option<Self>) {
        let end = core::mem::offset_of!(Self, usage) + Usage::CARRIED_BYTES;
        prefetch_lines(entry, Self::HOT.start..end.div_ceil(64));
    }

    #[inline]
    pub(crate) fn suite(&self) -> &Suite {
        &self.suite
    }

    #[inline]
    pub(crate) fn icv_len(&self) -> usize {
        usize::from(self.sizes.icv)
    }

    /// Takes a sequence number and writes everything that needs no key: padding, trailer, IV, ESP and
    /// outer headers (RFC 4303 §3.3.1 to §3.3.3, RFC 4301 §5.1.2).
    #[inline]
    pub(crate) fn prepare<B: PacketBuffer>(
        &mut self,
        buffer: &mut B,
        events: &mut Events,
    ) -> Result<Prepared, Refusal> {
        if self.clamps_mss() {
            wire::ip::clamp_mss(buffer.data_mut(), self.inner_mtu());
        }
        let mut plan = self.plan(buffer.data())?;
        let tfc = match self.headers.tfc {
            TfcRule::None => 0,
            rule => self.tfc_len(rule, &plan, buffer),
        };
        plan.carried += tfc;
        let Sizes { icv, align, .. } = self.sizes;
        let (align, icv) = (usize::from(align), usize::from(icv));
        let trailer_len = usize::from(self.trailer);
        // `align` is a power of two.
        let fewest = (plan.carried + trailer_len).wrapping_neg() & (align - 1);
        let given = self.given.as_ref().and_then(|given| given.pad_len);
        let pad_len = given.map_or(fewest, usize::from);
        let text_len = plan.carried + pad_len + trailer_len;
        let text = plan.ip_len + usize::from(self.middle);
        let outer_len = text + text_len + icv;
        if outer_len > usize::from(self.path_mtu) {
            // Padding that hides lengths is within the path's MTU, so this is the packet's own length.
            plan.oversize = self.stays_whole(&plan);
            if !plan.oversize {
                return Err(self.too_big(&plan));
            }
            *events |= Events::OVERSIZE;
        }
        let total_len = u16::try_from(outer_len).map_err(|_| DropCause::PacketTooBig)?;
        let trailer_end = plan.len + tfc + pad_len + trailer_len;
        if buffer.headroom() < self.headroom()
            || buffer.data().len() + buffer.tailroom() < trailer_end + icv
        {
            return Err(DropCause::NoRoom.into());
        }
        let bytes = plan.len as u64;
        if !self.usage.admits(bytes) {
            *events |= self.usage.refuse();
            return Err(DropCause::LifetimeReached.into());
        }
        let Some(sequence) = self.next_sequence() else {
            *events |= self.usage.refuse();
            return Err(DropCause::SequenceExhausted.into());
        };
        *events |= self.usage.charge(bytes);

        buffer.set_len(trailer_end + icv).map_err(|_| DropCause::NoRoom)?;
        let behind = buffer.data_mut().get_mut(plan.len..trailer_end).ok_or(DropCause::NoRoom)?;
        let (zeros, trailer) = behind.split_at_mut_checked(tfc).ok_or(DropCause::NoRoom)?;
        zeros.fill(0);
        write_trailer(trailer, plan.next_header);
        buffer.push_front(self.headroom()).map_err(|_| DropCause::NoRoom)?;
        let packet = buffer.data_mut();
        match plan.named_at {
            None => self.write_tunnel_header(packet, total_len, sequence, &plan),
            Some(named_at) => {
                let from = usize::from(self.middle);
                packet.copy_within(from..from + plan.ip_len, 0);
                self.patch_transport_header(packet, total_len, named_at);
            }
        }
        let middle = packet.get_mut(plan.ip_len..text).ok_or(DropCause::NoRoom)?;
        self.write_middle(middle, &plan, total_len, sequence)?;
        let udp = if self.encap.is_some() { udp::HEADER_LEN } else { 0 };
        let esp = plan.ip_len + udp;
        Ok(Prepared { bytes, place: Place { esp, text, text_len, sequence, esn: self.esn } })
    }

    /// Bytes of padding behind the packet inside, which its own length tells from it (RFC 4303 §2.7). As many as the buffer has
    /// room for: a packet goes rather short than not.
    #[cold]
    fn tfc_len<B: PacketBuffer>(&self, rule: TfcRule, plan: &Plan, buffer: &B) -> usize {
        if !self.contribution.tunnel || matches!(self.suite, Suite::Ah(_)) {
            return 0;
        }
        let most = self.inner_mtu();
        let to = match rule {
            TfcRule::None => 0,
            TfcRule::To(len) => len.min(most),
            TfcRule::PathMtu => most,
        };
        let room =
            (buffer.data().len() + buffer.tailroom()).saturating_sub(plan.len + self.tailroom());
        usize::from(to).saturating_sub(plan.len).min(room)
    }

    /// What of the packet is carried, and how (RFC 4303 §3.1).
    #[inline]
    fn plan(&self, packet: &[u8]) -> Result<Plan, DropCause> {
        let ip = Ip::parse(packet).map_err(|_| DropCause::MalformedHeader)?;
        let plan = Plan {
            len: ip.total_len(),
            carried: ip.total_len(),
            ip_len: self.endpoints.header_len(),
            next_header: if matches!(ip, Ip::V4(_)) { protocol::IPV4 } else { protocol::IPV6 },
            named_at: None,
            traffic_class: ip.traffic_class(),
            dont_fragment: ip.dont_fragment(),
            is_v4: matches!(ip, Ip::V4(_)),
            oversize: false,
        };
        if self.contribution.tunnel {
            return Ok(plan);
        }
        let (ip_len, next_header, named_at) = match ip {
            Ip::V4(ip) => (ip.header_len(), ip.protocol(), ipv4::PROTOCOL_AT),
            Ip::V6(ip) => {
                let at = ip.transport_insertion().map_err(|_| DropCause::MalformedHeader)?;
                (at.offset, at.protocol, at.named_at)
            }
        };
        if plan.is_v4 != matches!(self.endpoints, Endpoints::V4 { .. }) {
            return Err(DropCause::MalformedHeader);
        }
        // Transport mode protects whole packets only (RFC 4303 §3.3.4).
        let upper = ip.upper().map_err(|_| DropCause::MalformedHeader)?;
        if upper.fragment != Fragment::Whole {
            return Err(DropCause::FragmentInTransport);
        }
        let carried = plan.len.checked_sub(ip_len).ok_or(DropCause::MalformedHeader)?;
        Ok(Plan { carried, ip_len, next_header, named_at: Some(named_at), ..plan })
    }

    /// The next number, which is never one used before (RFC 4303 §3.3.3); `None` at the end.
    #[inline]
    fn next_sequence(&mut self) -> Option<u64> {
        let next = self.sequence.get_mut();
        if *next >= self.last_sequence {
            return None;
        }
        *next += 1;
        Some(*next)
    }

    /// Whether a packet that is too long is protected whole, and the protected packet fragmented: IPv6 that no sender makes smaller,
    /// and IPv4 whose later fragments would show no ports to an SA that asks for some and takes no others (RFC 4301 §7).
    #[cold]
    fn stays_whole(&self, plan: &Plan) -> bool {
        self.contribution.tunnel
            && if plan.is_v4 {
                !plan.dont_fragment && !self.takes_later_fragments()
            } else {
                plan.len <= usize::from(IPV6_MIN_MTU)
            }
    }

    #[cold]
    fn too_big(&self, plan: &Plan) -> Refusal {
        let mtu = self.inner_mtu();
        match (plan.is_v4, plan.dont_fragment) {
            (true, false) => Refusal::Fragment(mtu),
            (true, true) => Refusal::TooBig(mtu),
            (false, _) => Refusal::TooBig(mtu.max(IPV6_MIN_MTU)),
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
    fn write_tunnel_header(&self, out: &mut [u8], total_len: u16, sequence: u64, plan: &Plan) {
        let traffic_class = self.outer_traffic_class(plan.traffic_class);
        match self.endpoints {
            Endpoints::V4 { .. } => {
                let dont_fragment = match self.headers.df {
                    _ if plan.oversize => false,
                    DfRule::Copy => plan.dont_fragment,
                    DfRule::Set => true,
                    DfRule::Clear => false,
                };
                // A packet that may be fragmented needs an identification of its own (RFC 6864 §4).
                let id = if dont_fragment { 0 } else { sequence as u16 };
                let given = self.given.as_ref().and_then(|given| given.identification);
                if let Some(out) = out.first_chunk_mut() {
                    let id = given.unwrap_or(id);
                    self.template.fill(out, traffic_class, total_len, id, dont_fragment);
                }
            }
            Endpoints::V6 { local, remote } => {
                let header = ipv6::Header {
                    traffic_class,
                    // One label per SA keeps its packets on one path and tells nothing about the flows
                    // inside (RFC 6437 §3).
                    flow_label: self.spi.get(),
                    payload_len: total_len - ipv6::HEADER_LEN as u16,
                    next_header: self.outer_protocol(),
                    hop_limit: OUTER_TTL,
                    source: local,
                    destination: remote,
                };
                if let Some(out) = out.first_chunk_mut() {
                    *out = header.emit();
                }
            }
        }
    }

    #[inline]
    fn patch_transport_header(&self, packet: &mut [u8], total_len: u16, named_at: usize) {
        let protocol = self.outer_protocol();
        match self.endpoints {
            Endpoints::V4 { .. } => ipv4::set_len_and_protocol(packet, total_len, protocol),
            Endpoints::V6 { .. } => {
                ipv6::set_payload_len(packet, total_len - ipv6::HEADER_LEN as u16);
                if let Some(named) = packet.get_mut(named_at) {
                    *named = protocol;
                }
            }
        }
    }

    #[inline]
    fn outer_protocol(&self) -> u8 {
        match (&self.suite, self.encap) {
            (Suite::Ah(_), _) => protocol::AH,
            (Suite::Gcm { .. } | Suite::Serial(_), Some(_)) => protocol::UDP,
            (Suite::Gcm { .. } | Suite::Serial(_), None) => protocol::ESP,
        }
    }

    /// UDP header, clear header and IV, or AH without its ICV.
    #[inline]
    fn write_middle(
        &self,
        out: &mut [u8],
        plan: &Plan,
        total_len: u16,
        sequence: u64,
    ) -> Result<(), DropCause> {
        if let Suite::Ah(ah) = &self.suite {
            let header = ah::emit(plan.next_header, out.len(), self.spi.get(), sequence as u32);
            let (fixed, icv) = out.split_first_chunk_mut().ok_or(DropCause::NoRoom)?;
            *fixed = header;
            icv.fill(0);
            let iv = icv.get_mut(..ah.iv_len()).ok_or(DropCause::NoRoom)?;
            return self.write_iv(sequence, iv);
        }
        let payload_len = total_len - plan.ip_len as u16;
        let out = match self.encap {
            None => out,
            Some(UdpEncap { local_port, remote_port }) => {
                let (udp, rest) = out.split_first_chunk_mut().ok_or(DropCause::NoRoom)?;
                // RFC 3948 §2.1: no checksum over IPv4. That over IPv6 follows the ciphertext.
                *udp = udp::emit(local_port, remote_port, payload_len, 0);
                rest
            }
        };
        let (clear, iv) = out.split_first_chunk_mut().ok_or(DropCause::NoRoom)?;
        *clear = esp::emit(self.spi.get(), sequence as u32);
        self.write_iv(sequence, iv)
    }

    #[inline]
    fn write_iv(&self, sequence: u64, iv: &mut [u8]) -> Result<(), DropCause> {
        match &self.given {
            Some(given) if given.iv_len == iv.len() => iv.copy_from_slice(&given.iv[..iv.len()]),
            Some(_) => return Err(DropCause::CipherFailed),
            None => self.suite.write_iv(sequence, iv).map_err(|_| DropCause::CipherFailed)?,
        }
        Ok(())
    }

    /// Counts a packet.
    #[inline]
    pub(crate) fn count(&self, prepared: &Prepared, run: &mut Run, totals: &mut Totals) {
        run.add(self.contribution, prepared.bytes, totals);
    }

    /// Whether something of the packet follows from its ciphertext.
    #[inline]
    pub(crate) fn needs_finish(&self) -> bool {
        self.encap.is_some() && matches!(self.endpoints, Endpoints::V6 { .. })
    }

    /// Writes the UDP checksum that IPv6 requires (RFC 8200 §8.1). Receivers that do not ask for zero
    /// checksums (RFC 6935) drop them, and RFC 3948 does not ask for them over IPv6.
    pub(crate) fn finish(&self, packet: &mut [u8], prepared: &Prepared) {
        if !self.needs_finish() {
            return;
        }
        let Ok(Ip::V6(ip)) = Ip::parse(packet) else { return };
        let (source, destination) = (ip.source(), ip.destination());
        let datagram = prepared.place.text - usize::from(self.middle);
        let Some(datagram) = packet.get_mut(datagram..) else { return };
        let len = datagram.len() as u32;
        let sum = checksum::pseudo_v6(source, destination, protocol::UDP, len).add_bytes(datagram);
        // 0 would mean none (RFC 768).
        let sum = if sum.checksum() == 0 { 0xffff } else { sum.checksum() };
        if let Some(field) = datagram.get_mut(6..8) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
    }
}

// What every packet touches is three lines from the first on, and an entry of the table lies as the SA in it.
const _: () = assert!(core::mem::offset_of!(OutboundSa, start) == 0 && OutboundSa::HOT.start == 1);
const _: () = assert!(OutboundSa::HOT.end - OutboundSa::HOT.start == 2);
const _: () = assert!(size_of::<Option<OutboundSa>>() == size_of::<OutboundSa>());

impl Keyed for OutboundSa {
    #[inline(always)]
    fn keying(&self) -> (&KeyStart, Option<&Lodger>, &Suite) {
        (&self.start, self.lodger.as_ref(), &self.suite)
    }

    fn keying_mut(&mut self) -> (&mut KeyStart, &mut Option<Lodger>, &mut Suite) {
        (&mut self.start, &mut self.lodger, &mut self.suite)
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

/// How a packet is carried.
struct Plan {
    /// Bytes of the packet.
    len: usize,
    /// Bytes of it that are encrypted: all of it, or what follows its IP header.
    carried: usize,
    /// Bytes of the IP header in front of the ESP header.
    ip_len: usize,
    next_header: u8,
    /// Transport mode: the offset of the field that is to name ESP or UDP.
    named_at: Option<usize>,
    traffic_class: u8,
    dont_fragment: bool,
    is_v4: bool,
    /// The protected packet is to be fragmented.
    oversize: bool,
}

/// A packet whose headers are written and whose text waits for the cipher.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) place: Place,
    /// Bytes of the packet that is carried.
    bytes: u64,
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
