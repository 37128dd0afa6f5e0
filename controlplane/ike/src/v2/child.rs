//! One Child SA: what is asked, what is agreed, its keys and its installation (RFC 7296 §1.3, §2.9, §2.17).

use super::fault::{Fault, Incompatible, Local, Misbehaved};
use super::sa::Head;
use crate::config::{self, ChildMode};
use crate::context::{Cx, Effect, Half, Installing};
use crate::crypto::{ChildKeys, DirectionKeys, SkD};
use crate::event::{Activate, ChildName, Event, IkeId, InstallId, SpiRefused};
use crate::message::v2::{
    Notify, Payloads, SaPayload, TrafficSelector, TrafficSelectorsI, TrafficSelectorsR,
};
use crate::message::{NotifyType, PayloadList};
use crate::narrowing;
use crate::proposal::select::{self, KeyExchangeUse, Selection};
use crate::proposal::{Chosen, ProposalProtocol, integrity, integrity_key_len};
use ipsec::algorithm::Cipher;
use ipsec::sa::{
    Lifetime, Limits, Mode, PairId, Protocol, SaParameters, Spi, TfcRule, Transform, UdpEncap,
};
use ipsec::selector::{Ports, Selector};
use keyexchange::SharedSecret;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the inbound half of a rekeyed and deleted pair still takes packets that were on their way, as charon's
/// `delete_rekeyed_delay`.
pub(crate) const LINGER: Duration = Duration::from_secs(5);

/// Child SAs of one IKE SA. charon's users have tens; an authenticated peer does not get more memory than this out of
/// us.
pub(crate) const MAX_CHILDREN: usize = 256;

/// Where a Child SA is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Halves are not acknowledged yet.
    Installing,
    /// In use.
    Installed,
    /// We are asking for a successor.
    Rekeying,
    /// A successor is there; whoever made it deletes this one.
    Rekeyed,
    /// Our delete is under way, or waits for its turn.
    Deleting,
    /// Deleted, and waiting for the last packets.
    Lingering { until: Instant },
}

/// A Child SA whose keys are agreed.
pub(crate) struct ChildSa {
    pub(crate) pair: PairId,
    pub(crate) config: Arc<config::Child>,
    pub(crate) protocol: Protocol,
    pub(crate) spi_in: Spi,
    pub(crate) spi_out: Spi,
    pub(crate) suite: Chosen,
    pub(crate) mode: Mode,
    pub(crate) encap: bool,
    pub(crate) selectors: Vec<Selector>,
    pub(crate) created: Instant,
    pub(crate) rekey_at: Option<Instant>,
    pub(crate) expire_at: Option<Instant>,
    pub(crate) phase: Phase,
    pub(crate) replaces: Option<PairId>,
    /// Halves acknowledged: inbound, outbound.
    pub(crate) up: (bool, bool),
    /// Whether an acquire waits for it.
    pub(crate) acquired: bool,
    /// Whether the first inbound packet puts the outbound half to use.
    pub(crate) waits_for_traffic: bool,
    /// IKEv1, lingering: whether the peer has been told that it goes.
    pub(crate) told: bool,
    /// IKEv1: the ISAKMP SA that it was negotiated under.
    pub(crate) under: IkeId,
}

impl ChildSa {
    /// Whether a rekey of it may begin or be answered.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Installing | Phase::Installed | Phase::Rekeying)
    }

    pub(crate) fn name(&self, head: &Head) -> ChildName {
        ChildName {
            connection: head.connection.name.clone(),
            child: self.config.name.clone(),
            pair: self.pair,
            ike: head.id,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Lingering { until } => Some(until),
            Phase::Installed => [self.rekey_at, self.expire_at].into_iter().flatten().min(),
            Phase::Installing | Phase::Rekeying | Phase::Rekeyed | Phase::Deleting => {
                self.expire_at
            }
        }
    }
}

/// A Child SA that we ask for.
pub(crate) struct ChildRequest {
    pub(crate) config: Arc<config::Child>,
    pub(crate) spi: Spi,
    pub(crate) ke: KeyExchangeUse,
    /// The pair that it is to replace.
    pub(crate) replaces: Option<PairId>,
    pub(crate) acquired: bool,
    local_ts: Vec<TrafficSelector>,
    remote_ts: Vec<TrafficSelector>,
    /// Whether later fragments are to take it, although it is for some ports.
    later_fragments: bool,
}

impl ChildRequest {
    pub(crate) fn new(
        cx: &mut Cx<'_>,
        head: &Head,
        config: Arc<config::Child>,
        packet: Option<&Selector>,
        ke: KeyExchangeUse,
        replaces: Option<&ChildSa>,
    ) -> Result<Self, SpiRefused> {
        let inherit = replaces.map(|old| old.spi_in);
        let spi = cx.allocate(head.path.remote.ip(), inherit)?;
        let (near, far) = head.hosts();
        let mut local_ts = narrowing::offered_for(&config.local_ts, &near);
        let mut remote_ts = narrowing::offered_for(&config.remote_ts, &far);
        if let Some((local, remote)) = packet.map(narrowing::of_packet) {
            // A packet from before we have the virtual address that is asked for is not what the SA will carry.
            if narrowing::all_within(&[local], &local_ts) || !head.addresses.has_own() {
                local_ts.insert(0, local);
            }
            remote_ts.insert(0, remote);
        }
        let replaces = replaces.map(|old| old.pair);
        let later_fragments = takes_later_fragments(head, &config);
        Ok(Self {
            config,
            spi,
            ke,
            replaces,
            acquired: false,
            local_ts,
            remote_ts,
            later_fragments,
        })
    }

    /// SA with what belongs to it; the nonce and KE payload come between it and the selectors.
    pub(crate) fn push_sa(&self, list: &mut PayloadList) {
        if matches!(self.config.mode, ChildMode::Protect(Mode::Transport)) {
            list.push(&Notify::new(NotifyType::UseTransportMode, &[]));
        }
        if self.later_fragments {
            list.push(&Notify::new(NotifyType::NonFirstFragmentsAlso, &[]));
        }
        let spi = self.spi.get().to_be_bytes();
        let proposals = select::to_wire(&self.config.proposals, &spi, self.ke);
        list.push(&SaPayload { proposals: &proposals });
    }

    pub(crate) fn push_selectors(&self, list: &mut PayloadList) {
        list.push(&TrafficSelectorsI(&self.local_ts));
        list.push(&TrafficSelectorsR(&self.remote_ts));
    }

    /// Checks an answer. The SPI stays the caller's to release when this fails.
    pub(crate) fn answered(&self, head: &Head, payloads: &Payloads<'_>) -> Result<Agreed, Fault> {
        let sa = payloads.sa().ok_or(Fault::Misbehaved(Misbehaved::Missing))?;
        let (Some(tsi), Some(tsr)) = (payloads.ts_i(), payloads.ts_r()) else {
            return Err(Fault::Misbehaved(Misbehaved::Missing));
        };
        let selection = select::accepted(&self.config.proposals, &sa, self.ke)
            .ok_or(Fault::Misbehaved(Misbehaved::NotOffered))?;
        let spi_out = spi_of(&selection)?;
        let (mut local, mut remote): (Vec<_>, Vec<_>) =
            (tsi.iter().collect(), tsr.iter().collect());
        let transport = payloads.notify(NotifyType::UseTransportMode).is_some();
        if transport && self.config.mode == ChildMode::Protect(Mode::Transport) {
            substitute(head, &mut local, &mut remote);
        }
        // RFC 7296 §2.9: the responder may narrow, never widen.
        if !narrowing::all_within(&local, &self.local_ts)
            || !narrowing::all_within(&remote, &self.remote_ts)
        {
            return Err(Fault::Misbehaved(Misbehaved::WiderSelectors));
        }
        if head.addresses.has_own() {
            // The request could not know which address it would be.
            let ours = narrowing::offered_for(&self.config.local_ts, &head.hosts().0);
            local = narrowing::narrow(&ours, &local);
        }
        let selectors = narrowing::selectors(&local, &remote)
            .ok_or(Fault::Incompatible(Incompatible::Selectors))?;
        let mode = match (self.config.mode, transport) {
            (ChildMode::Protect(Mode::Transport), true) => Mode::Transport,
            // RFC 7296 §1.3.1: without the peer's consent it would be a tunnel, which is not what is configured.
            (ChildMode::Protect(Mode::Transport), false) => {
                return Err(Fault::Incompatible(Incompatible::Selectors));
            }
            (ChildMode::Protect(Mode::Tunnel) | ChildMode::Pass | ChildMode::Drop, _) => {
                Mode::Tunnel
            }
        };
        let selectors_name_ports = selectors.iter().any(Selector::names_ports);
        Ok(Agreed {
            config: Arc::clone(&self.config),
            spi_in: self.spi,
            spi_out,
            number: selection.number,
            chosen: selection.chosen,
            mode,
            selectors,
            tsi: local,
            tsr: remote,
            replaces: self.replaces,
            acquired: self.acquired,
            no_tfc: payloads.notify(NotifyType::EspTfcPaddingNotSupported).is_some(),
            later_fragments: self.later_fragments
                && selectors_name_ports
                && payloads.notify(NotifyType::NonFirstFragmentsAlso).is_some(),
        })
    }
}

/// A Child SA that both sides want, before it has keys.
pub(crate) struct Agreed {
    pub(crate) config: Arc<config::Child>,
    pub(crate) spi_in: Spi,
    pub(crate) spi_out: Spi,
    pub(crate) number: u8,
    pub(crate) chosen: Chosen,
    pub(crate) mode: Mode,
    pub(crate) selectors: Vec<Selector>,
    pub(crate) tsi: Vec<TrafficSelector>,
    pub(crate) tsr: Vec<TrafficSelector>,
    pub(crate) replaces: Option<PairId>,
    pub(crate) acquired: bool,
    /// The peer takes no padding behind packets (RFC 7296 §1.3.1).
    pub(crate) no_tfc: bool,
    /// Later fragments may take it, although it is for some ports.
    pub(crate) later_fragments: bool,
}

/// Which end of the exchange that makes a Child SA we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Asking,
    Answering,
}

impl Agreed {
    pub(crate) const fn protocol(&self) -> Protocol {
        protocol(self.chosen.protocol)
    }

    /// The responder's choice: the first child (or the one of `replaces` alone) whose selectors and proposals meet the
    /// peer's; one that the peer's selectors fit wholly goes before one that narrows them.
    pub(crate) fn choose(
        cx: &mut Cx<'_>,
        head: &Head,
        payloads: &Payloads<'_>,
        ke: KeyExchangeUse,
        replaces: Option<&ChildSa>,
    ) -> Result<Self, Fault> {
        let missing = Fault::Misbehaved(Misbehaved::Missing);
        let sa = payloads.sa().ok_or(missing)?;
        let tsi: Vec<_> = payloads.ts_i().ok_or(missing)?.iter().collect();
        let tsr: Vec<_> = payloads.ts_r().ok_or(missing)?.iter().collect();
        let group = payloads.key_exchange().map(|ke| ke.method.number());
        let asked = payloads.notify(NotifyType::UseTransportMode).is_some();
        let connection = Arc::clone(&head.connection);
        let only = replaces.map(|old| &old.config);
        let candidates =
            only.into_iter().chain(connection.children.iter().filter(|_| only.is_none()));
        let mut fault = Fault::Incompatible(Incompatible::Selectors);
        let mut narrowed: Option<(&Arc<config::Child>, Vec<_>, Vec<_>, Selection)> = None;
        let (near, far) = head.hosts();
        for child in candidates {
            if !matches!(child.mode, ChildMode::Protect(_)) {
                continue;
            }
            let local = narrowing::offered_for(&child.local_ts, &near);
            let remote = narrowing::offered_for(&child.remote_ts, &far);
            let (mut tsi, mut tsr) = (tsi.clone(), tsr.clone());
            if asked && child.mode == ChildMode::Protect(Mode::Transport) {
                substitute(head, &mut tsr, &mut tsi);
            }
            let (i, r) = (narrowing::narrow(&remote, &tsi), narrowing::narrow(&local, &tsr));
            if narrowing::selectors(&r, &i).is_none() {
                continue;
            }
            let Some(selection) = select::choose(&child.proposals, &sa, ke, group) else {
                fault = Fault::Incompatible(Incompatible::Proposal);
                continue;
            };
            let whole = narrowing::all_within(&tsi, &i) && narrowing::all_within(&tsr, &r);
            if whole || narrowed.is_none() {
                narrowed = Some((child, i, r, selection));
            }
            if whole {
                break;
            }
        }
        let (config, tsi, tsr, selection) = narrowed.ok_or(fault)?;
        if let Some(wanted) = selection.chosen.group
            && group != Some(wanted)
        {
            return Err(Fault::Incompatible(Incompatible::Group(wanted)));
        }
        let spi_out = spi_of(&selection)?;
        let selectors =
            narrowing::selectors(&tsr, &tsi).ok_or(Fault::Incompatible(Incompatible::Selectors))?;
        let mode = match config.mode {
            ChildMode::Protect(Mode::Transport) if asked => Mode::Transport,
            ChildMode::Protect(_) | ChildMode::Pass | ChildMode::Drop => Mode::Tunnel,
        };
        let later_fragments = takes_later_fragments(head, config)
            && selectors.iter().any(Selector::names_ports)
            && payloads.notify(NotifyType::NonFirstFragmentsAlso).is_some();
        let config = Arc::clone(config);
        let inherit = replaces.map(|old| old.spi_in);
        let spi_in = cx.allocate(head.path.remote.ip(), inherit)?;
        Ok(Self {
            config,
            spi_in,
            spi_out,
            number: selection.number,
            chosen: selection.chosen,
            mode,
            selectors,
            tsi,
            tsr,
            replaces: replaces.map(|old| old.pair),
            acquired: false,
            no_tfc: payloads.notify(NotifyType::EspTfcPaddingNotSupported).is_some(),
            later_fragments,
        })
    }

    /// KEYMAT of the Child SA.
    fn keys(&self, values: &Values<'_>) -> Result<ChildKeys, Fault> {
        let Values { d, ni, nr, shared } = *values;
        let encryption = self.chosen.encryption;
        let salt = encryption.and_then(|e| e.cipher()).map_or(0, Cipher::salt_len);
        let cipher_len = encryption.map_or(0, |e| e.key_len() + salt);
        let integrity_len = self.chosen.integrity.map_or(0, integrity_key_len);
        let shared = shared.map(SharedSecret::as_bytes);
        let keymat = d.keymat(shared, ni, nr, &[], 2 * (cipher_len + integrity_len))?;
        Ok(keymat.split(cipher_len, integrity_len)?)
    }

    /// Makes the Child SA and both of its halves. When that fails the SPI has been released.
    pub(crate) fn prepare(
        self,
        cx: &mut Cx<'_>,
        head: &Head,
        values: &Values<'_>,
        side: Side,
    ) -> Result<Prepared, Fault> {
        let spi = self.spi_in;
        let result = self.try_prepare(cx, head, values, side);
        if result.is_err() {
            cx.spis.release(spi);
        }
        result
    }

    fn try_prepare(
        self,
        cx: &mut Cx<'_>,
        head: &Head,
        values: &Values<'_>,
        side: Side,
    ) -> Result<Prepared, Fault> {
        let keys = self.keys(values)?;
        let (ours, theirs) = match side {
            Side::Asking => (keys.from_initiator, keys.from_responder),
            Side::Answering => (keys.from_responder, keys.from_initiator),
        };
        self.with_keys(cx, head, ours, theirs)
    }

    /// Makes the Child SA and both of its halves, of keys for what we send and what the peer sends. The SPI stays the
    /// caller's to release when this fails.
    pub(crate) fn with_keys(
        self,
        cx: &mut Cx<'_>,
        head: &Head,
        ours: DirectionKeys,
        theirs: DirectionKeys,
    ) -> Result<Prepared, Fault> {
        let pair = PairId(cx.registry.pair.next());
        let encap = head.nat.encapsulates();
        let inbound = self.parameters(cx, head, pair, self.spi_in, theirs)?;
        let outbound = self.parameters(cx, head, pair, self.spi_out, ours)?;
        let now = cx.now;
        // A time beyond what the clock can say is never, as zero is.
        let after = |time: Duration| if time.is_zero() { None } else { now.checked_add(time) };
        let config = Arc::clone(&self.config);
        let rand = cx.random.below(config.rand_time);
        let rekey_at = after(config.rekey_time).and_then(|_| {
            let early = config.rekey_time.saturating_sub(rand);
            now.checked_add(early.max(Duration::from_secs(1)))
        });
        let child = ChildSa {
            pair,
            protocol: protocol(self.chosen.protocol),
            spi_in: self.spi_in,
            spi_out: self.spi_out,
            suite: self.chosen,
            mode: self.mode,
            encap,
            selectors: self.selectors,
            created: now,
            rekey_at,
            expire_at: after(config.life_time),
            phase: Phase::Installing,
            replaces: self.replaces,
            up: (false, false),
            acquired: self.acquired,
            waits_for_traffic: false,
            told: false,
            under: head.id,
            config,
        };
        cx.effect(Effect::Own(pair, head.id));
        Ok(Prepared {
            child,
            number: self.number,
            later_fragments: self.later_fragments,
            tsi: self.tsi,
            tsr: self.tsr,
            inbound: Box::new(inbound),
            outbound: Box::new(outbound),
        })
    }

    fn parameters(
        &self,
        cx: &mut Cx<'_>,
        head: &Head,
        pair: PairId,
        spi: Spi,
        keys: DirectionKeys,
    ) -> Result<SaParameters, Fault> {
        let unsupported = Fault::Local(Local::Library);
        let cipher = match self.chosen.encryption {
            Some(encryption) => encryption.cipher().ok_or(unsupported)?,
            None => Cipher::Null,
        };
        let integrity = match self.chosen.integrity {
            Some(id) => Some((integrity(id).ok_or(unsupported)?, keys.integrity)),
            None => None,
        };
        let encap = head.nat.encapsulates().then_some(UdpEncap {
            local_port: head.path.local.port(),
            remote_port: head.path.remote.port(),
        });
        let config = &self.config;
        let mut headers = config.headers;
        if self.no_tfc {
            headers.tfc = TfcRule::None;
        }
        Ok(SaParameters {
            pair,
            spi,
            protocol: protocol(self.chosen.protocol),
            mode: self.mode,
            local: head.path.local.ip(),
            remote: head.path.remote.ip(),
            encap,
            transform: Transform { cipher, cipher_key: keys.encryption, integrity },
            esn: self.chosen.esn,
            replay_window: config.replay_window,
            selectors: self.selectors.clone(),
            later_fragments: self.later_fragments,
            lifetime: Lifetime {
                soft: jittered(cx, config.rekey_limits, config.rand_limits),
                hard: config.life_limits,
            },
            headers,
        })
    }
}

/// Soft limits less a part of `rand`, so that not all SAs, nor both ends of one, ask for a successor at once (RFC 7296 §2.8).
fn jittered(cx: &mut Cx<'_>, limits: Limits, rand: Limits) -> Limits {
    let mut less = |limit: Option<u64>, rand: Option<u64>| {
        let early = rand.map_or(0, |rand| cx.random.up_to(rand));
        // At 0 the SA would be over before it carried anything.
        limit.map(|limit| limit.saturating_sub(early).max(1))
    };
    Limits { bytes: less(limits.bytes, rand.bytes), packets: less(limits.packets, rand.packets) }
}

/// What KEYMAT is made of (RFC 7296 §2.17).
pub(crate) struct Values<'a> {
    pub(crate) d: &'a SkD,
    pub(crate) ni: &'a [u8],
    pub(crate) nr: &'a [u8],
    pub(crate) shared: Option<&'a SharedSecret>,
}

/// A Child SA with keys, on its way to the dataplane.
pub(crate) struct Prepared {
    pub(crate) child: ChildSa,
    number: u8,
    later_fragments: bool,
    tsi: Vec<TrafficSelector>,
    tsr: Vec<TrafficSelector>,
    pub(crate) inbound: Box<SaParameters>,
    pub(crate) outbound: Box<SaParameters>,
}

impl Prepared {
    /// The SA payload of the answer, with what belongs to it.
    pub(crate) fn push_sa(&self, list: &mut PayloadList) {
        if self.child.mode == Mode::Transport {
            list.push(&Notify::new(NotifyType::UseTransportMode, &[]));
        }
        if self.later_fragments {
            list.push(&Notify::new(NotifyType::NonFirstFragmentsAlso, &[]));
        }
        let spi = self.child.spi_in.get().to_be_bytes();
        let proposal = select::answer(&self.child.suite, self.number, &spi);
        list.push(&SaPayload { proposals: &[proposal] });
    }

    pub(crate) fn push_selectors(&self, list: &mut PayloadList) {
        list.push(&TrafficSelectorsI(&self.tsi));
        list.push(&TrafficSelectorsR(&self.tsr));
    }
}

/// Whether later fragments may take the SAs of a child for some ports, which they do not show, if the peer says the same (RFC 7296
/// §1.3.1, RFC 4301 §7.3). Where a child of the connection is for hidden ports, they are meant to take that (§7.2).
fn takes_later_fragments(head: &Head, child: &config::Child) -> bool {
    let any = |child: &config::Child, is: fn(&Ports) -> bool| {
        child.local_ts.iter().chain(&child.remote_ts).any(|ts| is(&ts.ports))
    };
    child.mode == ChildMode::Protect(Mode::Tunnel)
        && any(child, Ports::are_named)
        && !head.connection.children.iter().any(|c| any(c, |ports| *ports == Ports::Opaque))
}

/// Hands over the inbound half.
pub(crate) fn install_inbound(
    cx: &mut Cx<'_>,
    head: &Head,
    child: &ChildSa,
    sa: Box<SaParameters>,
) -> InstallId {
    let id = InstallId(cx.registry.install.next());
    let installing = Installing { pair: child.pair, half: Half::Inbound, spi: child.spi_in };
    cx.registry.installing.insert(id, installing);
    let name = child.name(head);
    cx.event(Event::InstallInbound { id, name, sa, replaces: child.replaces });
    id
}

/// Hands over the outbound half.
pub(crate) fn install_outbound(
    cx: &mut Cx<'_>,
    head: &Head,
    child: &ChildSa,
    sa: Box<SaParameters>,
    activate: Activate,
) {
    let id = InstallId(cx.registry.install.next());
    let installing = Installing { pair: child.pair, half: Half::Outbound, spi: child.spi_in };
    cx.registry.installing.insert(id, installing);
    let name = child.name(head);
    cx.event(Event::InstallOutbound { id, name, sa, replaces: child.replaces, activate });
}

/// Transport mode is between the addresses that this host sees: where a NAT stands before an end, its selectors get the one
/// that the IKE SA has (RFC 7296 §2.23.1). Selectors that are not of one address stay, and do not match.
fn substitute(head: &Head, local: &mut Vec<TrafficSelector>, remote: &mut Vec<TrafficSelector>) {
    let ends = [
        (head.nat.local, head.path.local.ip(), local),
        (head.nat.remote, head.path.remote.ip(), remote),
    ];
    for (behind_nat, seen, selectors) in ends {
        if behind_nat && let Some(seen) = narrowing::substituted(selectors, seen) {
            *selectors = seen;
        }
    }
}

/// The peer's SPI of a chosen proposal.
fn spi_of(selection: &Selection) -> Result<Spi, Fault> {
    let octets: [u8; 4] = selection
        .spi
        .as_slice()
        .try_into()
        .map_err(|_| Fault::Misbehaved(Misbehaved::NotOffered))?;
    // RFC 4303 §2.1: 0 to 255 are not given out.
    Spi::new(u32::from_be_bytes(octets)).ok_or(Fault::Misbehaved(Misbehaved::NotOffered))
}

const fn protocol(protocol: ProposalProtocol) -> Protocol {
    match protocol {
        ProposalProtocol::Ah => Protocol::Ah,
        ProposalProtocol::Esp | ProposalProtocol::Ike => Protocol::Esp,
    }
}
