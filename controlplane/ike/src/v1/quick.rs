//! Quick mode (RFC 2409 §5.5, RFC 2408 §3.1 for the commit bit).
//!
//! ```text
//! HDR*, HASH(1), SA, Ni [, KE] [, IDci, IDcr]  -->
//!                     <--  HDR*, HASH(2), SA, Nr [, KE] [, IDci, IDcr]
//! HDR*, HASH(3)        -->
//! ```
//!
//! Nothing is lost when a Child SA is replaced (design.md §2): the responder has its inbound half before it answers, the
//! initiator both halves before it confirms, the responder's outbound half follows the confirmation, and the inbound half
//! of the pair that was replaced stays for a while. What the initiator sends could overtake the third message, before which many
//! a responder does not receive on the new pair: so it goes on with the old one until something comes in on the new one.
//!
//! | module | what |
//! |---|---|
//! | `exchange` | where one is |
//! | `ask` | as initiator |
//! | `answer` | as responder |
//! | `install` | new pairs on their way into the dataplane |
//! | `held` | new pairs that are not to be sent on yet |

mod answer;
mod ask;
mod exchange;
mod held;
mod install;

use super::established::Established;
use super::offer::{self, Choice, Terms};
use super::session::Opened;
use super::suite::Life;
use crate::config::{self, ChildMode};
use crate::context::{Cx, Effect};
use crate::crypto::{CryptoFailure, DirectionKeys};
use crate::event::{Failure, Path};
use crate::job::Product;
use crate::message::v1::{Notify, NotifyType, Payload, Payloads, SaView};
use crate::message::v2::TrafficSelector;
use crate::message::{Flags, MessageId, v1};
use crate::narrowing;
use crate::proposal::integrity;
use crate::v2::child::{Agreed, ChildSa, MAX_CHILDREN, Phase, Prepared};
use crate::v2::create_child::retry_after;
use crate::v2::fault::{Fault, Incompatible, Misbehaved};
use crate::v2::sa::Head;
use crate::v2::window::{Digest, Due};
use core::net::IpAddr;
use core::time::Duration;
use exchange::over;
pub(crate) use exchange::{Exchange, Quick};
pub(crate) use held::Held;
use ipsec::algorithm::{Cipher, KeyMaterial};
use ipsec::sa::{Mode, PairId};
use ipsec::selector::Selector;
use keyexchange::KeyExchangeError;
use std::time::Instant;

/// Quick modes of one ISAKMP SA, finished ones that are remembered included. An authenticated peer gets no more of our
/// memory than this.
const MAX_EXCHANGES: usize = 512;

/// How long a finished quick mode answers repeats: longer than charon repeats itself.
const REMEMBERED: Duration = Duration::from_secs(170);

/// How long the side that asked for a replacement still receives on the old pair, as charon's `delete_rekeyed_delay`.
pub(super) const ASKER_LINGERS: Duration = Duration::from_secs(5);

/// How long the other side does, which waits for the first one's delete.
const ANSWERER_LINGERS: Duration = Duration::from_secs(30);

/// The lifetime of an SA whose offer names none (RFC 2407 §4.5).
const DEFAULT_LIFE: Duration = Duration::from_secs(28_800);

/// The first message of a quick mode of the peer, which is authentic.
pub(crate) struct First {
    id: MessageId,
    opened: Opened,
    digest: Digest,
    /// Whether the peer set the commit bit.
    committed: bool,
}

/// The payloads of a first or second message.
struct Content<'a> {
    sa: SaView<'a>,
    nonce: &'a [u8],
    ke: Option<&'a [u8]>,
    /// IDci and IDcr, or neither.
    clients: Option<(v1::Identification<'a>, v1::Identification<'a>)>,
    responder_lifetime: Life,
}

/// Reads a first or second message: one SA, one nonce, at most one KE, two identities or none.
fn content<'a>(payloads: &Payloads<'a>) -> Result<Content<'a>, Fault> {
    let missing = Fault::Misbehaved(Misbehaved::Missing);
    let (mut sa, mut nonce, mut ke) = (None, None, None);
    let mut ids = Vec::new();
    let mut responder_lifetime = Life::default();
    for payload in payloads.iter() {
        match payload {
            // Two SAs in one quick mode (RFC 2409 §5.5) are not for the children here.
            Payload::Sa(_) if sa.is_some() => return Err(missing),
            Payload::Sa(view) => sa = Some(view),
            Payload::Nonce(payload) => nonce = Some(payload.data()),
            Payload::KeyExchange(payload) => ke = Some(payload.data),
            Payload::Identification(id) => ids.push(id),
            Payload::Notify(notify) if notify.kind == NotifyType::ResponderLifetime => {
                responder_lifetime = super::phase1::lifetime_of(&notify);
            }
            _ => {}
        }
    }
    let clients = match ids.as_slice() {
        [] => None,
        [i, r] => Some((*i, *r)),
        _ => return Err(missing),
    };
    let (sa, nonce) = (sa.ok_or(missing)?, nonce.ok_or(missing)?);
    Ok(Content { sa, nonce, ke, clients, responder_lifetime })
}

/// How a child's traffic travels under an ISAKMP SA.
fn terms(config: &config::Child, head: &Head, state: &Established, group: Option<u16>) -> Terms {
    let mode = match config.mode {
        ChildMode::Protect(mode) => mode,
        ChildMode::Pass | ChildMode::Drop => Mode::Tunnel,
    };
    let encap = state.abilities.nat_t.filter(|_| head.nat.encapsulates());
    Terms { mode, encap, group }
}

/// The lifetime that a child's configuration asks for.
fn life_of(config: &config::Child) -> Life {
    let time = (!config.life_time.is_zero()).then_some(config.life_time);
    Life { time, kilobytes: config.life_limits.bytes.map(|bytes| bytes.div_ceil(1024)) }
}

/// What KEYMAT is made of.
struct Values<'a> {
    ni: &'a [u8],
    nr: &'a [u8],
    shared: Option<&'a [u8]>,
}

impl Established {
    /// The keys of one direction, by the SPI of its receiver (RFC 2409 §5.5).
    fn direction(
        &self,
        choice: &Choice,
        spi: u32,
        values: &Values<'_>,
    ) -> Result<DirectionKeys, CryptoFailure> {
        let chosen = &choice.chosen;
        let salt = chosen.encryption.and_then(|e| e.cipher()).map_or(0, Cipher::salt_len);
        let cipher_len = chosen.encryption.map_or(0, |e| e.key_len().saturating_add(salt));
        let integrity_len = chosen.integrity.and_then(integrity).map_or(0, |i| i.key_len());
        let len = cipher_len.saturating_add(integrity_len);
        let protocol = offer::protocol_id(chosen.protocol);
        let Values { ni, nr, shared } = *values;
        let spi = spi.to_be_bytes();
        let keymat = self.session.d.keymat(shared, protocol, &spi, ni, nr, len)?;
        let (encryption, integrity) = keymat.split_at_checked(cipher_len).ok_or(CryptoFailure)?;
        Ok(DirectionKeys {
            encryption: KeyMaterial::new(encryption.to_vec()),
            integrity: KeyMaterial::new(integrity.to_vec()),
        })
    }

    /// Makes a Child SA of what was agreed. When that fails the SPI has been released.
    fn prepare(
        &self,
        head: &Head,
        cx: &mut Cx<'_>,
        agreed: Agreed,
        choice: &Choice,
        life: Life,
        values: &Values<'_>,
    ) -> Result<Prepared, Fault> {
        let (spi_in, spi_out) = (agreed.spi_in, agreed.spi_out);
        let keys = self
            .direction(choice, spi_in.get(), values)
            .and_then(|theirs| Ok((self.direction(choice, spi_out.get(), values)?, theirs)));
        let prepared = match keys {
            Ok((ours, theirs)) => agreed.with_keys(cx, head, ours, theirs),
            Err(failure) => Err(failure.into()),
        };
        match prepared {
            Ok(mut prepared) => {
                limit(&mut prepared.child, life, cx.now);
                for sa in [&mut prepared.inbound, &mut prepared.outbound] {
                    let bytes = &mut sa.lifetime.hard.bytes;
                    let theirs = life.kilobytes.map(|kb| kb.saturating_mul(1024));
                    *bytes = (*bytes).into_iter().chain(theirs).min();
                    let soft = &mut sa.lifetime.soft.bytes;
                    // Nine tenths, so that there is time for a successor.
                    let early = theirs.map(|bytes| bytes / 10 * 9);
                    *soft = (*soft).into_iter().chain(early).min();
                }
                Ok(prepared)
            }
            Err(fault) => {
                cx.spis.release(spi_in);
                Err(fault)
            }
        }
    }

    /// The two hosts, as `dynamic` means them: by their virtual addresses, where they have some.
    fn hosts(&self, head: &Head) -> (IpAddr, IpAddr) {
        let (local, remote) = (head.path.local.ip(), head.path.remote.ip());
        (self.transactions.local.unwrap_or(local), self.transactions.remote.unwrap_or(remote))
    }

    /// Whether a quick mode of the peer that began so is to replace something.
    pub(crate) fn is_replacing(&self, first: &First) -> bool {
        match self.exchanges.get(&first.id.0).map(|exchange| &exchange.quick) {
            Some(Quick::Responding(state)) => !state.replaces().is_empty(),
            Some(Quick::Installing(state)) => !state.replaces.is_empty(),
            _ => false,
        }
    }

    /// Whether there is room for one more quick mode and its pair.
    fn has_room(&mut self) -> bool {
        if self.exchanges.len() >= MAX_EXCHANGES {
            // The oldest that is only remembered.
            let of = |(id, e): (&u32, &Exchange)| match e.quick {
                Quick::Over { until, held: None } => Some((until, *id)),
                _ => None,
            };
            let Some((_, id)) = self.exchanges.iter().filter_map(of).min() else { return false };
            self.exchanges.remove(&id);
        }
        self.children.len().saturating_add(self.negotiations()) < MAX_CHILDREN
    }

    /// Pairs in use for the same traffic of the same child, the newest last.
    fn same_traffic(&self, name: &str, selectors: &[Selector]) -> Vec<PairId> {
        let live = |child: &&ChildSa| {
            matches!(child.phase, Phase::Installed | Phase::Rekeying)
                && child.config.name == name
                && child.selectors == selectors
        };
        self.children.values().filter(live).map(|child| child.pair).collect()
    }

    // Messages.

    /// Takes a message of quick mode.
    pub(crate) fn quick_message(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        path: Path,
        (id, flags, first, ciphertext): (MessageId, Flags, u8, &[u8]),
        digest: Digest,
    ) {
        let Some(exchange) = self.exchanges.get(&id.0) else {
            if !self.transactions.are_over() {
                // Not before it is known who asks, and what address it has.
                cx.stats.parked_dropped += 1;
                return;
            }
            let opened = self
                .may_begin(id)
                .then(|| self.session.sealer.open(first, ciphertext, self.session.iv(id)))
                .flatten()
                .filter(|opened| self.session.verify(id, &[], opened));
            let Some(opened) = opened else {
                cx.stats.invalid_packets_received += 1;
                return;
            };
            self.has_begun(id);
            self.heard(head, cx, path);
            let first = First { id, opened, digest, committed: flags.contains(Flags::COMMIT) };
            if let Some(from) = self.succession.heir {
                let first = Box::new(first);
                return cx.effect(Effect::Recall { from, to: head.id, first });
            }
            return self.asked(head, cx, &first);
        };
        if exchange.heard == Some(digest) {
            match (exchange.reply.clone(), &exchange.quick) {
                (Some(reply), _) => {
                    cx.stats.answers_repeated += 1;
                    self.send(head, cx, reply);
                }
                (None, Quick::Over { .. }) => cx.stats.invalid_packets_received += 1,
                // The first copy is still being worked on.
                (None, _) => {}
            }
            return;
        }
        let opened = self.session.sealer.open(first, ciphertext, exchange.iv);
        let authentic = opened.filter(|opened| match &exchange.quick {
            Quick::Sent(state) => self.session.verify(id, &[&state.asking.nonce], opened),
            Quick::Answered(state) => self.session.verify_third(id, &state.ni, &state.nr, opened),
            Quick::Over { held: Some(_), .. } => self.session.verify(id, &[], opened),
            Quick::Generating(_)
            | Quick::Agreeing(_)
            | Quick::Confirming(_)
            | Quick::Responding(_)
            | Quick::Installing(_)
            | Quick::Over { held: None, .. } => false,
        });
        let Some(opened) = authentic else {
            cx.stats.invalid_packets_received += 1;
            return;
        };
        self.heard(head, cx, path);
        let Some(mut exchange) = self.exchanges.remove(&id.0) else { return };
        exchange.heard = Some(digest);
        exchange.reply = None;
        exchange.iv = opened.next;
        exchange.committed |= flags.contains(Flags::COMMIT);
        match core::mem::replace(&mut exchange.quick, over(cx.now)) {
            Quick::Sent(state) => self.answered(head, cx, id, exchange, state, &opened),
            Quick::Answered(state) => self.confirmed(head, cx, id, exchange, state),
            other => {
                exchange.quick = other;
                self.exchanges.insert(id.0, exchange);
                self.fourth(head, cx, id, &opened);
            }
        }
    }

    /// RESPONDER-LIFETIME in an informational exchange of its own, for the SPI that it names.
    pub(crate) fn responder_lifetime(&mut self, notify: &Notify<'_>) {
        let life = super::phase1::lifetime_of(notify);
        let Some(spi) = <[u8; 4]>::try_from(notify.spi).ok().map(u32::from_be_bytes) else {
            // Phase 1's: the cookies, or nothing.
            if let Some(time) = life.time {
                self.responder_limits(time);
            }
            return;
        };
        for child in self.children.values_mut() {
            if child.spi_out.get() == spi || child.spi_in.get() == spi {
                let created = child.created;
                limit(child, life, created);
            }
        }
    }

    /// The peer refuses a quick mode of ours: the one whose SPI it names, or the only one there is.
    pub(crate) fn quick_refused(&mut self, head: &mut Head, cx: &mut Cx<'_>, notify: &Notify<'_>) {
        let spi = <[u8; 4]>::try_from(notify.spi).ok().map(u32::from_be_bytes);
        let open: Vec<(u32, u32)> = self
            .exchanges
            .iter()
            .filter_map(|(id, exchange)| match &exchange.quick {
                Quick::Sent(state) => Some((*id, state.asking.spi.get())),
                _ => None,
            })
            .collect();
        let named = open.iter().find(|(_, ours)| spi == Some(*ours));
        let only = open.first().filter(|_| open.len() == 1);
        let Some((id, _)) = named.or(only).copied() else { return };
        let Some(exchange) = self.exchanges.remove(&id) else { return };
        if let Quick::Sent(state) = exchange.quick {
            let failure = match notify.kind {
                NotifyType::NoProposalChosen => Failure::NoProposal,
                NotifyType::InvalidIdInformation => Failure::Selectors,
                other => Failure::Refused(other.number()),
            };
            self.not_made(head, cx, state.asking, failure);
        }
    }

    /// A job of a quick mode is done.
    pub(crate) fn job_done(
        &mut self,
        head: &mut Head,
        cx: &mut Cx<'_>,
        number: u64,
        result: Result<Product, KeyExchangeError>,
    ) {
        let waits = |(_, exchange): &(&u32, &Exchange)| match &exchange.quick {
            Quick::Generating(state) => state.job == number,
            Quick::Agreeing(state) => state.job == number,
            Quick::Responding(state) => state.job == number,
            _ => false,
        };
        let Some(id) = self.exchanges.iter().find(waits).map(|(id, _)| *id) else { return };
        let Some(mut exchange) = self.exchanges.remove(&id) else { return };
        let id = MessageId(id);
        match core::mem::replace(&mut exchange.quick, over(cx.now)) {
            Quick::Generating(state) => self.generated(head, cx, id, state, result),
            Quick::Agreeing(state) => self.agreed(head, cx, id, exchange, state, result),
            Quick::Responding(state) => self.responded(head, cx, id, exchange, state, result),
            other => {
                exchange.quick = other;
                self.exchanges.insert(id.0, exchange);
            }
        }
    }

    /// Repeats and ends. `None` when the peer is dead.
    pub(crate) fn quick_timers(&mut self, head: &mut Head, cx: &mut Cx<'_>) -> Option<()> {
        let due =
            |(_, exchange): &(&u32, &Exchange)| exchange.deadline().is_some_and(|at| at <= cx.now);
        let ids: Vec<u32> = self.exchanges.iter().filter(due).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(exchange) = self.exchanges.get_mut(&id) else { continue };
            if let Quick::Over { held: Some(held), .. } = &exchange.quick
                && held.until <= cx.now
            {
                self.release(head, cx, MessageId(id));
                continue;
            }
            let sent = match &mut exchange.quick {
                Quick::Sent(state) => &mut state.sent,
                Quick::Answered(state) => &mut state.sent,
                _ => {
                    self.exchanges.remove(&id);
                    continue;
                }
            };
            match sent.due(cx.now, &cx.config.settings) {
                Due::NotYet => {}
                Due::Repeat(datagrams) => {
                    let datagrams = datagrams.to_vec();
                    cx.stats.retransmissions += 1;
                    if let Some(third) = self.third.clone() {
                        self.send(head, cx, third);
                    }
                    for datagram in datagrams {
                        self.send(head, cx, datagram);
                    }
                }
                Due::GiveUp => {
                    let Some(exchange) = self.exchanges.remove(&id) else { continue };
                    match exchange.quick {
                        Quick::Sent(state) => {
                            let silent = self.last_inbound < state.since;
                            self.not_made(head, cx, state.asking, Failure::Timeout);
                            if silent {
                                return None;
                            }
                        }
                        Quick::Answered(state) => {
                            cx.stats.negotiation_failures += 1;
                            self.delete_child(head, cx, state.pair, Failure::Timeout);
                        }
                        _ => {}
                    }
                }
            }
        }
        Some(())
    }

    /// A replacement came to nothing: another try while the old pair lives.
    fn retry_rekey(&mut self, cx: &mut Cx<'_>, pair: PairId) {
        let after = retry_after(cx);
        if let Some(child) = self.children.get_mut(&pair)
            && child.phase == Phase::Rekeying
        {
            child.phase = Phase::Installed;
            child.rekey_at = cx.now.checked_add(after);
        }
    }
}

/// Shortens a pair's life to what was agreed, counted from `since`.
fn limit(child: &mut ChildSa, life: Life, since: Instant) {
    let Some(time) = life.time else { return };
    let hard = since.checked_add(time);
    child.expire_at = child.expire_at.into_iter().chain(hard).min();
    // Where our own time would come too late, nine tenths of the agreed one.
    if let (Some(rekey), Some(expire)) = (child.rekey_at, child.expire_at)
        && rekey >= expire
    {
        child.rekey_at = since.checked_add(time / 10 * 9);
    }
}

/// The two clients of an exchange as selectors, the initiator's first. Without identities they are the two hosts
/// (RFC 2409 §5.5).
fn clients(
    content: &Content<'_>,
    initiator: IpAddr,
    responder: IpAddr,
) -> Result<(TrafficSelector, TrafficSelector), Fault> {
    let unacceptable = Fault::Incompatible(Incompatible::Selectors);
    match &content.clients {
        None => Ok((super::clients::host(initiator), super::clients::host(responder))),
        Some((i, r)) => {
            let i = super::clients::selector(i).ok_or(unacceptable)?;
            let r = super::clients::selector(r).ok_or(unacceptable)?;
            Ok((i, r))
        }
    }
}

/// Transport mode is between the addresses that this host sees. A peer that a NAT stands before, or that reaches us through
/// one, names the address that it sees itself (RFC 3947 §5.2); what is not one address stays, and does not match.
fn seen(
    asked: TrafficSelector,
    is_behind_nat: bool,
    seen: IpAddr,
    terms: Terms,
) -> TrafficSelector {
    if terms.mode == Mode::Transport && terms.encap.is_some() && is_behind_nat {
        let one = narrowing::substituted(&[asked], seen);
        return one.and_then(|one| one.first().copied()).unwrap_or(asked);
    }
    asked
}
