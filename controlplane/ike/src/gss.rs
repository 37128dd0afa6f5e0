//! Authentication by a security mechanism behind GSS-API, which in IKEv1 is Kerberos (draft-ietf-ipsec-isakmp-gss-auth-07).
//!
//! The engine knows no mechanism: it is given a [`Mechanism`] with its configuration and asks for each step as a job,
//! as the calls may wait for a server. A [`Context`] travels with the jobs of its negotiation.

use core::fmt;
use keyexchange::KeyExchangeError;
use std::sync::Arc;
use std::time::Instant;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Octets of one token. Tickets of Windows carry what groups somebody is in, 12,000 octets by default there. More than
/// twice that fits into no message that an unproven peer may send in fragments.
pub const MAX_TOKEN: usize = 30 * 1024;

/// Octets of an endpoint's name on the wire.
pub const MAX_NAME: usize = 1024;

/// Why a mechanism refused: for the log, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub Box<str>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What one step made.
pub struct Step {
    /// What the peer is to be sent; empty for nothing.
    pub token: Vec<u8>,
    /// The context is established, mutually, with integrity and confidentiality.
    pub complete: bool,
}

/// Makes contexts. Its calls may take as long as a server takes.
pub trait Mechanism: fmt::Debug + Send + Sync {
    /// A context of the initiator, from us to `target`, both names of the mechanism.
    ///
    /// # Errors
    /// The mechanism's reason.
    fn initiate(&self, own: &str, target: &str) -> Result<Box<dyn Context>, Refused>;

    /// A context of the acceptor.
    ///
    /// # Errors
    /// The mechanism's reason.
    fn accept(&self, own: &str) -> Result<Box<dyn Context>, Refused>;
}

/// One side of a negotiation.
pub trait Context: Send {
    /// Takes the peer's token; the initiator's first step has none.
    ///
    /// # Errors
    /// The mechanism's reason: the peer is not who it says, or we have nothing to prove who we are.
    fn step(&mut self, token: Option<&[u8]>) -> Result<Step, Refused>;

    /// The peer's name, once the context is established.
    ///
    /// # Errors
    /// The mechanism's reason.
    fn peer(&self) -> Result<String, Refused>;

    /// GSS_Wrap, with confidentiality.
    ///
    /// # Errors
    /// The mechanism's reason.
    fn wrap(&mut self, data: &[u8]) -> Result<Vec<u8>, Refused>;

    /// GSS_Unwrap.
    ///
    /// # Errors
    /// The mechanism's reason.
    fn unwrap(&mut self, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refused>;
}

/// Whose context a job is about.
pub(crate) enum Whose {
    Initiator { own: String, target: String },
    Acceptor { own: String },
    Known(Box<dyn Context>),
}

/// What is done with it.
pub(crate) enum Act {
    Step(Option<Vec<u8>>),
    /// The peer's wrapped HASH must hold this.
    Verify {
        wrapped: Vec<u8>,
        expected: Zeroizing<Vec<u8>>,
    },
}

/// One job for a mechanism.
pub(crate) struct Talk {
    pub(crate) mechanism: Arc<dyn Mechanism>,
    pub(crate) whose: Whose,
    pub(crate) act: Act,
    /// Our HASH, wrapped when nothing more is to be exchanged.
    pub(crate) wrap: Option<Zeroizing<Vec<u8>>>,
    /// When the engine no longer waits for it.
    pub(crate) until: Instant,
}

/// What came of it.
pub(crate) struct Passed {
    pub(crate) context: Box<dyn Context>,
    /// For the peer; empty for nothing.
    pub(crate) token: Vec<u8>,
    /// The peer's name, once the context is established.
    pub(crate) peer: Option<String>,
    pub(crate) wrapped: Option<Vec<u8>>,
}

impl Talk {
    /// Whether it may wait for a server; what goes on with a context has all it needs.
    pub(crate) const fn is_slow(&self) -> bool {
        matches!(self.whose, Whose::Initiator { .. })
    }

    /// Makes the calls.
    pub(crate) fn run(self) -> Result<Result<Passed, Refused>, KeyExchangeError> {
        // Nobody waits any more: a server that is not asked is not kept busy either.
        if self.until <= Instant::now() {
            return Err(KeyExchangeError::Library);
        }
        Ok(self.talk())
    }

    fn talk(self) -> Result<Passed, Refused> {
        let mut context = match self.whose {
            Whose::Initiator { own, target } => self.mechanism.initiate(&own, &target)?,
            Whose::Acceptor { own } => self.mechanism.accept(&own)?,
            Whose::Known(context) => context,
        };
        let (token, complete) = match self.act {
            Act::Step(token) => {
                let Step { token, complete } = context.step(token.as_deref())?;
                if token.len() > MAX_TOKEN {
                    return Err(Refused("a token that no message holds".into()));
                }
                (token, complete)
            }
            Act::Verify { wrapped, expected } => {
                let found = context.unwrap(&wrapped)?;
                if !bool::from(found.as_slice().ct_eq(&expected)) {
                    return Err(Refused("the HASH is not of this negotiation".into()));
                }
                (Vec::new(), true)
            }
        };
        let peer = if complete { Some(context.peer()?) } else { None };
        let wrapped = match self.wrap {
            Some(hash) if complete && token.is_empty() => Some(context.wrap(&hash)?),
            _ => None,
        };
        Ok(Passed { context, token, peer, wrapped })
    }
}
