//! Main mode by GSS-API, with a mechanism that has no server: every failure of it, at every step.

use super::harness::{A, B, Pair, Who};
use super::ikev1::{IKE, v1_with};
use crate::config::{AuthMethod, Config, Identity};
use crate::event::{Command, IkeTarget};
use crate::gss::{Context, MAX_TOKEN, Mechanism, Refused, Step};
use crate::message::v1::{Body, Payload};
use crate::message::{ExchangeType, Message};
use crate::random::Random;
use core::net::IpAddr;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

const REALM: &str = "@CULVERT.TEST";

fn principal(who: Who) -> String {
    format!("host/{}{REALM}", if who == Who::A { "a" } else { "b" })
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    /// The step of this number (from one, all calls counted) fails.
    Call(usize),
    /// The ticket is for another name.
    OtherPeer,
    /// The first token is longer than any message.
    Huge,
    /// The mechanism's wraps do not unwrap.
    Wraps,
}

/// A mechanism that sends `tokens` in all, in turns, and believes everybody.
#[derive(Clone, Debug)]
struct Fake {
    tokens: usize,
    size: usize,
    fault: Fault,
}

struct FakeContext {
    fake: Fake,
    own: String,
    peer: String,
    initiator: bool,
    /// Tokens seen and sent by either side.
    seen: usize,
    calls: usize,
}

impl Default for Fake {
    fn default() -> Self {
        Self { tokens: 2, size: 300, fault: Fault::None }
    }
}

impl Mechanism for Fake {
    fn initiate(&self, own: &str, target: &str) -> Result<Box<dyn Context>, Refused> {
        let (own, peer) = (own.to_owned(), target.to_owned());
        let fake = self.clone();
        Ok(Box::new(FakeContext { fake, own, peer, initiator: true, seen: 0, calls: 0 }))
    }

    fn accept(&self, own: &str) -> Result<Box<dyn Context>, Refused> {
        let (own, peer) = (own.to_owned(), String::new());
        let fake = self.clone();
        Ok(Box::new(FakeContext { fake, own, peer, initiator: false, seen: 0, calls: 0 }))
    }
}

impl FakeContext {
    fn call(&mut self) -> Result<(), Refused> {
        self.calls += 1;
        match self.fake.fault {
            Fault::Call(number) if number == self.calls => Err(Refused("made to fail".into())),
            _ => Ok(()),
        }
    }
}

impl Context for FakeContext {
    /// A token is its number, the sender's name and padding.
    fn step(&mut self, token: Option<&[u8]>) -> Result<Step, Refused> {
        self.call()?;
        if let Some(token) = token {
            self.seen += 1;
            let number = usize::from(*token.first().ok_or(Refused("empty".into()))?);
            if number != self.seen {
                return Err(Refused("a token out of order".into()));
            }
            let name = token[1..].split(|octet| *octet == 0).next().unwrap_or_default();
            let name = String::from_utf8(name.to_vec()).map_err(|_| Refused("no name".into()))?;
            if self.initiator && name != self.peer {
                return Err(Refused("not who was asked for".into()));
            }
            self.peer = name;
        } else if !self.initiator {
            return Err(Refused("no token".into()));
        }
        let mut token = Vec::new();
        if self.seen < self.fake.tokens {
            self.seen += 1;
            token.push(u8::try_from(self.seen).unwrap());
            token.extend_from_slice(self.own.as_bytes());
            let huge = self.fake.fault == Fault::Huge;
            token.resize(if huge { MAX_TOKEN + 1 } else { self.fake.size }, 0);
        }
        Ok(Step { token, complete: self.seen == self.fake.tokens })
    }

    fn peer(&self) -> Result<String, Refused> {
        Ok(match self.fake.fault {
            Fault::OtherPeer => format!("host/mallory{REALM}"),
            _ => self.peer.clone(),
        })
    }

    fn wrap(&mut self, data: &[u8]) -> Result<Vec<u8>, Refused> {
        self.call()?;
        let key = if self.fake.fault == Fault::Wraps { 0x33 } else { 0x55 };
        Ok(data.iter().map(|octet| octet ^ key).collect())
    }

    fn unwrap(&mut self, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refused> {
        self.call()?;
        Ok(Zeroizing::new(wrapped.iter().map(|octet| octet ^ 0x55).collect()))
    }
}

fn config(who: Who, fake: Fake, f: impl FnOnce(&mut crate::config::Connection)) -> Config {
    let mut config = v1_with(who, IKE, |connection| {
        for (round, who) in [(&mut connection.local, who), (&mut connection.remote, who.other())] {
            round.method = AuthMethod::Kerberos;
            round.id = Identity::Email(principal(who));
        }
        f(connection);
    });
    config.psks.clear();
    config.mechanism = Some(Arc::new(fake));
    config
}

fn pair(a: Fake, b: Fake) -> Pair {
    Pair::new(config(Who::A, a, |_| ()), config(Who::B, b, |_| ()))
}

fn failures(pair: &Pair, who: Who) -> (u64, u64) {
    let host = if who == Who::A { &pair.a } else { &pair.b };
    let statistics = host.engine.statistics();
    assert_eq!(statistics.authentication_failures_psk, 0);
    assert_eq!(statistics.authentication_failures_certificate, 0);
    (statistics.authentication_failures_kerberos, statistics.negotiation_failures)
}

/// Six messages, as the draft says for a mechanism with two tokens.
#[test]
fn main_mode_by_ticket() {
    let mut pair = pair(Fake::default(), Fake::default());
    let request = pair.initiate(Who::A);
    pair.settle();
    pair.assert_in_use(1, 1);
    pair.assert_done(Who::A, request);
    assert_eq!(pair.trace.len(), 9);
    for who in [Who::A, Who::B] {
        assert_eq!(failures(&pair, who), (0, 0));
    }
    let views = pair.b.engine.ike_sas(pair.now);
    assert_eq!(views[0].remote_id, Some(Identity::Email(principal(Who::A))));
}

/// Each side's name, UTF-16 as Windows has it, and the answer repeats all but the name.
#[test]
fn names_are_in_the_first_two_messages() {
    let mut pair = pair(Fake::default(), Fake::default());
    pair.initiate(Who::A);
    pair.settle();
    for (message, who) in [(0, Who::A), (1, Who::B)] {
        let datagram = &pair.trace[message].1.datagram;
        let name: Vec<u8> =
            principal(who).encode_utf16().flat_map(|unit| unit.to_le_bytes()).collect();
        let attribute = [&[0x40, 0, 0, u8::try_from(name.len()).unwrap()], &*name].concat();
        assert!(datagram.windows(attribute.len()).any(|octets| octets == attribute));
    }
    for message in [2, 3] {
        let Ok(Message::V1(message)) = Message::parse(&pair.trace[message].1.datagram) else {
            panic!("not a message")
        };
        let Body::Plain(payloads) = message.body else { panic!("not in clear") };
        assert!(payloads.iter().any(|p| matches!(p, Payload::GssToken(t) if t.vendor == 0)));
    }
}

/// More tokens make more pairs of messages, and the HASHes come with the last pair.
#[test]
fn a_mechanism_with_more_tokens() {
    for (tokens, messages) in [(2, 6), (4, 8), (6, 10)] {
        let fake = Fake { tokens, ..Fake::default() };
        let mut pair = pair(fake.clone(), fake);
        pair.initiate(Who::A);
        pair.settle();
        pair.assert_in_use(1, 1);
        let main_mode = pair.trace.iter().filter(|(_, transmit)| {
            transmit.datagram[18] == ExchangeType::IdentityProtection.number()
        });
        assert_eq!(main_mode.count(), messages);
    }
    // The last token would be the initiator's, or there are no ends to them.
    for tokens in [1, 3, 5, 14, 40] {
        let fake = Fake { tokens, ..Fake::default() };
        let mut pair = pair(fake.clone(), fake);
        pair.initiate(Who::A);
        pair.advance(Duration::from_secs(300));
        pair.assert_empty();
    }
}

/// What fits into no datagram of a few kilobytes goes in fragments or in large datagrams; what is longer is refused here.
#[test]
fn long_tokens() {
    for size in [100, 12_000, MAX_TOKEN - 1000] {
        let fake = Fake { size, ..Fake::default() };
        let mut pair = pair(fake.clone(), fake);
        pair.initiate(Who::A);
        pair.settle();
        pair.assert_in_use(1, 1);
    }
    let huge = Fake { fault: Fault::Huge, ..Fake::default() };
    let mut pair = pair(huge, Fake::default());
    pair.initiate(Who::A);
    pair.advance(Duration::from_secs(300));
    pair.assert_empty();
    assert_eq!(failures(&pair, Who::A), (1, 1));
}

/// Each call of either side fails in turn: the SA never comes up, and whoever finds out counts it.
#[test]
fn a_failure_at_every_call() {
    let wait = Duration::from_secs(300);
    // The initiator: token, token, wrap, unwrap. The responder: token, unwrap, wrap.
    for (who, calls) in [(Who::A, 4), (Who::B, 3)] {
        for call in 1..=calls {
            let bad = Fake { fault: Fault::Call(call), ..Fake::default() };
            let fakes = match who {
                Who::A => (bad, Fake::default()),
                Who::B => (Fake::default(), bad),
            };
            let mut pair = pair(fakes.0, fakes.1);
            pair.initiate(Who::A);
            pair.advance(wait);
            assert_eq!(failures(&pair, who), (1, 1), "{who:?} {call}");
            let up = pair.a.engine.statistics().ike_main_mode_initial;
            assert_eq!(up, 0, "{who:?} {call}");
        }
    }
}

#[test]
fn a_hash_of_somebody_else() {
    for (who, fault) in [(Who::A, Fault::Wraps), (Who::B, Fault::Wraps), (Who::A, Fault::OtherPeer)]
    {
        let bad = Fake { fault, ..Fake::default() };
        let fakes = match who {
            Who::A => (bad, Fake::default()),
            Who::B => (Fake::default(), bad),
        };
        let mut pair = pair(fakes.0, fakes.1);
        pair.initiate(Who::A);
        pair.advance(Duration::from_secs(300));
        let finder = if fault == Fault::Wraps { who.other() } else { who };
        assert_eq!(failures(&pair, finder), (1, 1), "{who:?} {fault:?}");
        assert_eq!(pair.a.engine.statistics().ike_main_mode_initial, 0);
    }
}

/// The connection says who may come, and by case: Kerberos names are not mail addresses.
#[test]
fn only_who_is_meant() {
    for (allowed, well) in [
        (Identity::Any, true),
        (Identity::Email(format!("*{REALM}")), true),
        (Identity::Email(principal(Who::A)), true),
        (Identity::Email(principal(Who::A).to_ascii_uppercase()), false),
        (Identity::Email("*@OTHER.TEST".to_owned()), false),
        (Identity::Email(REALM.to_owned()), false),
        (Identity::Fqdn(principal(Who::A)), false),
        (Identity::Address(A.parse::<IpAddr>().unwrap()), false),
    ] {
        let b = config(Who::B, Fake::default(), |c| c.remote.id = allowed.clone());
        let mut pair = Pair::new(config(Who::A, Fake::default(), |_| ()), b);
        pair.initiate(Who::A);
        pair.advance(Duration::from_secs(300));
        let up = pair.b.engine.statistics().ike_main_mode_initial;
        assert_eq!(up == 1, well, "{allowed:?}");
        assert_eq!(failures(&pair, Who::B).0, u64::from(!well), "{allowed:?}");
    }
    // The initiator asks for a ticket to whom its configuration names, whatever the answer says.
    for (allowed, well) in
        [(Identity::Any, true), (Identity::Email(format!("host/c{REALM}")), false)]
    {
        let a = config(Who::A, Fake::default(), |c| c.remote.id = allowed.clone());
        let mut pair = Pair::new(a, config(Who::B, Fake::default(), |_| ()));
        pair.initiate(Who::A);
        pair.advance(Duration::from_secs(300));
        assert_eq!(pair.a.engine.statistics().ike_main_mode_initial == 1, well, "{allowed:?}");
    }
    assert_ne!(A, B);
}

/// A server that does not answer: the negotiation ends in time, its answer is nobody's, others go on.
#[test]
fn a_mechanism_that_does_not_answer() {
    for who in [Who::A, Who::B] {
        let mut pair = pair(Fake::default(), Fake::default());
        pair.host(who).is_silent = true;
        pair.initiate(Who::A);
        pair.settle();
        assert_eq!(pair.host(who).waiting.len(), 1, "{who:?}");
        pair.advance(Duration::from_secs(11));
        assert_eq!(failures(&pair, who), (0, 1), "{who:?}");
        let now = pair.now;
        assert!(pair.host(who).engine.ike_sas(now).is_empty());
        pair.advance(Duration::from_secs(300));
        // The answer comes at last.
        let host = pair.host(who);
        host.is_silent = false;
        host.jobs.extend(host.waiting.drain(..));
        pair.settle();
        pair.assert_empty();
        assert_eq!(failures(&pair, who), (0, 1), "{who:?}");
        pair.initiate(Who::A);
        pair.settle();
        pair.assert_in_use(1, 1);
    }
}

/// Every single message lost in turn.
#[test]
fn loss_at_every_message_with_tickets() {
    let run = |tokens: usize, lose: Option<usize>| {
        let fake = Fake { tokens, ..Fake::default() };
        let mut pair = pair(fake.clone(), fake);
        pair.initiate(Who::A);
        let until = pair.now + Duration::from_secs(60);
        let mut sent = 0;
        loop {
            while let Some(who) = [Who::B, Who::A].into_iter().find(|who| pair.under_way(*who) > 0)
            {
                if Some(sent) == lose {
                    pair.lose_next(who);
                } else {
                    pair.deliver_next(who);
                }
                sent += 1;
            }
            match pair.next_timeout().filter(|at| *at <= until) {
                Some(at) => {
                    pair.now = pair.now.max(at);
                    pair.timeouts();
                }
                None => break,
            }
        }
        pair.assert_in_use(1, 1);
        sent
    };
    for tokens in [2, 4] {
        let messages = run(tokens, None);
        for lose in 0..messages.min(9 + tokens) {
            run(tokens, Some(lose));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Loss, duplication and reordering: nothing breaks, and with a whole link again the SA comes up.
    #[test]
    fn a_bad_link(seed: u8, tokens in prop_oneof![Just(2usize), Just(4)]) {
        let fake = Fake { tokens, ..Fake::default() };
        let mut pair = Pair::seeded_with(
            seed,
            config(Who::A, fake.clone(), |_| ()),
            config(Who::B, fake, |_| ()),
        );
        let mut random = Random::new([seed; 32]);
        pair.initiate(Who::A);
        for _ in 0..60 {
            pair.random_step(&mut random);
            let [what, who] = random.array::<2>();
            let who = if who & 1 == 0 { Who::A } else { Who::B };
            match what & 7 {
                0 => pair.repeat_any(who, &mut random),
                1 if pair.under_way(who) > 0 => pair.lose_next(who),
                2 => pair.timeouts(),
                _ => pair.now += Duration::from_millis(u64::from(what)),
            }
        }
        for who in [Who::A, Who::B] {
            pair.host(who).hold_jobs = false;
        }
        pair.pump();
        pair.advance(Duration::from_secs(300));
        let gw = IkeTarget::Connection("gw".to_owned());
        let _ = pair.a.engine.handle_command(
            pair.now,
            Command::TerminateIke { target: gw, force: false },
            &mut pair.a.spis,
        );
        pair.advance(Duration::from_secs(600));
        pair.initiate(Who::A);
        pair.advance(Duration::from_secs(300));
        prop_assert!(pair.a.engine.ike_sas(pair.now).iter().any(|sa| !sa.children.is_empty()));
    }
}

/// A new main mode by either side, with a new ticket, takes the children over.
#[test]
fn renewals_by_ticket() {
    for who in [Who::A, Who::B] {
        let mut pair = pair(Fake::default(), Fake::default());
        pair.initiate(Who::A);
        pair.settle();
        pair.command(who, Command::RekeyIke(IkeTarget::Connection("gw".to_owned())));
        pair.advance(Duration::from_secs(60));
        pair.assert_in_use(1, 1);
        let host = pair.host(who);
        assert_eq!(host.engine.statistics().ike_main_mode_rekey, 1);
        assert_eq!(host.events, ["ike up", "child net up", "ike up rekeyed"]);
    }
}
