//! What all ways through phase 1 have alike: what its HASHes cover, what a key exchange came to, the notifies beside a proof, and
//! the ISAKMP SA at its beginning.

use super::established::{Established, NewSa};
use super::session::{Cookies, Opened, Sealer, Session};
use super::suite::{Choice, KILOBYTES, Life, SECONDS, Suite};
use super::vendor::Abilities;
use crate::config::Connection;
use crate::context::Cx;
use crate::crypto::CryptoFailure;
use crate::crypto::v1::{Iv, V1Keys};
use crate::event::{Failure, IkeId, Path};
use crate::job::Product;
use crate::message::v1::{
    Attribute, AttributeValue, Attributes, DOI_IPSEC, IpsecAttributeType, Notify, NotifyType,
    Payload, Payloads,
};
use crate::message::{Header, IkeSpi, PayloadList, ProtocolId};
use crate::v1::sa::Verified;
use crate::v2::fault::Fault;
use crate::v2::sa::{Head, Nat};
use crate::view::Role;
use core::time::Duration;
use keyexchange::{KeyExchangeError, SharedSecret};
use std::collections::VecDeque;
use std::sync::Arc;

/// The shortest lifetime that is taken from beside a proof. The HASHes of phase 1 cover identities alone, so that whoever
/// sits on the path can bend what else is in their messages: that may cost a main mode each ten seconds, and no more.
const SHORTEST: Duration = Duration::from_secs(10);

/// What HASH_I, HASH_R and the keys of phase 1 are made of.
pub(crate) struct Phase1 {
    pub(crate) cookies: Cookies,
    /// The body of the initiator's SA payload.
    pub(crate) sa: Vec<u8>,
    pub(crate) ni: Vec<u8>,
    pub(crate) nr: Vec<u8>,
    /// g^xi and g^xr.
    pub(crate) public_i: Vec<u8>,
    pub(crate) public_r: Vec<u8>,
}

impl Phase1 {
    /// g^xi | g^xr | CKY-I | CKY-R | SAi_b | IDii_b.
    pub(crate) fn of_initiator<'a>(&'a self, id: &'a [u8]) -> [&'a [u8]; 6] {
        let Cookies { i, r } = &self.cookies;
        [&self.public_i, &self.public_r, &i.0, &r.0, &self.sa, id]
    }

    /// g^xr | g^xi | CKY-R | CKY-I | SAi_b | IDir_b.
    pub(crate) fn of_responder<'a>(&'a self, id: &'a [u8]) -> [&'a [u8]; 6] {
        let Cookies { i, r } = &self.cookies;
        [&self.public_r, &self.public_i, &r.0, &i.0, &self.sa, id]
    }
}

/// What a job made of the peer's value.
type Computed = Result<Product, KeyExchangeError>;

/// The secret, where the peer answered a value of ours.
pub(super) fn secret(cx: &mut Cx<'_>, computed: Computed) -> Result<SharedSecret, Failure> {
    match computed {
        Ok(Product::Secret(shared)) => Ok(shared),
        other => Err(why(cx, &other)),
    }
}

/// Our value and the secret, where we answer the peer's.
pub(super) fn response(
    cx: &mut Cx<'_>,
    computed: Computed,
) -> Result<(Vec<u8>, SharedSecret), Failure> {
    match computed {
        Ok(Product::Response(public, shared)) => Ok((public, shared)),
        other => Err(why(cx, &other)),
    }
}

fn why(cx: &mut Cx<'_>, computed: &Computed) -> Failure {
    if matches!(computed, Err(KeyExchangeError::PeerValue)) {
        // RFC 6989: a value that no honest peer sends.
        cx.stats.invalid_packets_received += 1;
        return Failure::KeyExchange;
    }
    Failure::Local
}

/// What a peer says beside its proof.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Beside {
    /// It knows of no other SA with us.
    pub(crate) initial_contact: bool,
    /// RESPONDER-LIFETIME (RFC 2407 §4.6.3.1).
    lifetime: Life,
}

impl Beside {
    pub(crate) fn read(payloads: &Payloads<'_>) -> Self {
        let mut beside = Self::default();
        for payload in payloads.iter() {
            if let Payload::Notify(notify) = payload {
                beside.add(&notify);
            }
        }
        beside
    }

    pub(crate) fn add(&mut self, notify: &Notify<'_>) {
        match notify.kind {
            NotifyType::InitialContact => self.initial_contact = true,
            NotifyType::ResponderLifetime => self.lifetime = lifetime_of(notify),
            _ => {}
        }
    }
}

/// The attributes of RESPONDER-LIFETIME.
pub(super) fn lifetime_of(notify: &Notify<'_>) -> Life {
    let mut life = Life::default();
    let Ok(attributes) = Attributes::parse(notify.data) else { return life };
    let mut kind = None;
    for attribute in attributes.iter() {
        let number = attribute.value.number();
        match IpsecAttributeType::from_number(attribute.kind) {
            IpsecAttributeType::LifeType => kind = number.and_then(|n| u16::try_from(n).ok()),
            IpsecAttributeType::LifeDuration => {
                if let (Some(kind), Some(number)) = (kind.take(), number) {
                    // An unknown life type says nothing to us.
                    let _ = life.add(kind, number);
                }
            }
            _ => {}
        }
    }
    life
}

/// The attributes of RESPONDER-LIFETIME, where ours is shorter than what was offered (RFC 2407 §4.6.3.1).
pub(super) fn responder_lifetime(offered: Life, ours: Life) -> Vec<u8> {
    let less = |ours: Option<u64>, theirs: Option<u64>| {
        ours.filter(|ours| theirs.is_none_or(|theirs| *ours < theirs))
    };
    let seconds = |life: Life| life.time.map(|time| time.as_secs());
    let mut data = Vec::new();
    let limits = [
        (SECONDS, less(seconds(ours), seconds(offered))),
        (KILOBYTES, less(ours.kilobytes, offered.kilobytes)),
    ];
    for (kind, value) in limits {
        let Some(value) = value else { continue };
        Attribute::basic(IpsecAttributeType::LifeType.number(), kind).emit(&mut data);
        let octets = u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes();
        let value = AttributeValue::Variable(&octets);
        Attribute { kind: IpsecAttributeType::LifeDuration.number(), value }.emit(&mut data);
    }
    data
}

/// RESPONDER-LIFETIME of phase 1, where ours is shorter than what was offered.
pub(super) fn push_lifetime(list: &mut PayloadList, head: &Head, offered: Life) {
    let hard = renewal_after(head).map(|soft| soft.saturating_add(head.connection.over_time));
    let data = responder_lifetime(offered, Life { time: hard, kilobytes: None });
    if data.is_empty() {
        return;
    }
    let spi = Cookies { i: head.spi_i, r: head.spi_r }.octets();
    let kind = NotifyType::ResponderLifetime;
    list.push(&Notify { doi: DOI_IPSEC, protocol: ProtocolId::Ike, spi: &spi, kind, data: &data });
}

/// When an ISAKMP SA is renewed, if it is. There is one way to do that, a new main mode: both times mean it.
pub(super) fn renewal_after(head: &Head) -> Option<Duration> {
    let connection = &head.connection;
    // A gateway that asks for a password cannot begin anew: who is asked is the initiator.
    let asks = head.role == Role::Responder && connection.xauth.is_some();
    let times = [connection.rekey_time, connection.reauth_time];
    times.into_iter().filter(|time| !time.is_zero() && !asks).min()
}

/// The responder's half-open ISAKMP SA with whoever sent a first message.
pub(super) fn stranger(
    cx: &mut Cx<'_>,
    path: Path,
    spi_i: IkeSpi,
    connection: &Arc<Connection>,
    abilities: Abilities,
) -> Head {
    Head {
        id: IkeId(cx.registry.ike.next()),
        role: Role::Responder,
        spi_i,
        spi_r: IkeSpi(cx.random.array()),
        path,
        in_pieces: abilities.fragments && connection.fragmentation.sends(),
        addresses: Default::default(),
        nat: Nat::default(),
        connection: Arc::clone(connection),
        tasks: VecDeque::new(),
        waiters: Vec::new(),
    }
}

/// Phase 1 with its keys.
pub(crate) struct Secured {
    pub(crate) phase1: Phase1,
    pub(crate) keys: V1Keys,
    pub(crate) sealer: Sealer,
    /// The vector of the next encrypted message.
    pub(crate) iv: Iv,
}

impl Secured {
    pub(crate) fn new(suite: &Suite, phase1: Phase1, keys: V1Keys) -> Result<Self, CryptoFailure> {
        let sealer = Sealer::new(suite, &keys)?;
        let iv = suite.first_iv(&phase1.public_i, &phase1.public_r);
        Ok(Self { phase1, keys, sealer, iv })
    }

    /// Decrypts; the vector moves on only when the caller says so, as nothing is authentic yet.
    pub(crate) fn open(&self, first: u8, ciphertext: &[u8]) -> Option<Opened> {
        self.sealer.open(first, ciphertext, self.iv)
    }

    /// Encrypts the next message.
    pub(crate) fn seal(&mut self, header: &Header, list: &PayloadList) -> Result<Vec<u8>, Fault> {
        let (message, next) = self.sealer.seal(header, list.first(), list.bytes()?, self.iv)?;
        self.iv = next;
        Ok(message)
    }

    /// The ISAKMP SA that phase 1 makes, between whom it proved.
    pub(crate) fn establish(
        self,
        head: &Head,
        cx: &mut Cx<'_>,
        choice: &Choice,
        abilities: Abilities,
        verified: Verified,
    ) -> Established {
        let Self { phase1, keys, sealer, iv } = self;
        let session = Session::new(sealer, keys, phase1.cookies, iv);
        let told = verified.beside.lifetime;
        let chosen = choice.suite.chosen();
        let new = NewSa { session, chosen, abilities, verified, life: choice.life };
        let mut established = Established::new(head, cx, new);
        if let (Role::Initiator, Some(time)) = (head.role, told.time) {
            established.responder_limits(time.max(SHORTEST));
        }
        established
    }
}

impl Established {
    /// The responder's lifetime of phase 1 binds us: the SA ends by then, and is renewed before.
    pub(super) fn responder_limits(&mut self, time: Duration) {
        let at = |time| self.established.checked_add(time);
        self.expire_at = self.expire_at.into_iter().chain(at(time)).min();
        // As with a child: where our own time would come too late, nine tenths of the agreed one.
        if self.reauth_at.is_some() && self.reauth_at >= self.expire_at {
            self.reauth_at = at(time / 10 * 9);
        }
    }
}
