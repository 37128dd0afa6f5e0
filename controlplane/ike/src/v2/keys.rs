//! The keys of an IKE SA in use, for the suite that was chosen.

use super::fault::{Fault, Incompatible};
use crate::crypto::{
    IkeKeys, Opened, Prf, SealError, SkCipher, SkD, SkIntegrity, SkOpener, SkP, SkSealer, SkSuite,
    Skeyseed,
};
use crate::message::{EncryptionId, Header, IkeSpi, IntegrityId, PayloadList, PrfId, v2};
use crate::proposal::Chosen;
use crate::view::Role;
use keyexchange::SharedSecret;

/// What protects messages, and what children and successors are derived from.
pub(crate) struct Keys {
    pub(crate) d: SkD,
    sealer: SkSealer,
    opener: SkOpener,
}

/// SK_pi and SK_pr, for as long as AUTH is not done.
pub(crate) struct AuthKeys {
    pub(crate) prf: Prf,
    pub(crate) initiator: SkP,
    pub(crate) responder: SkP,
}

/// Where SKEYSEED comes from.
pub(crate) enum Origin<'a> {
    /// IKE_SA_INIT.
    Initial,
    /// A rekey of the SA with these keys (RFC 7296 §2.18).
    Rekey(&'a Keys),
}

/// The values of the exchange that makes the keys.
pub(crate) struct Exchanged<'a> {
    pub(crate) ni: &'a [u8],
    pub(crate) nr: &'a [u8],
    pub(crate) shared: &'a SharedSecret,
    pub(crate) spi_i: IkeSpi,
    pub(crate) spi_r: IkeSpi,
}

impl Keys {
    /// `role` is ours in the IKE SA that the keys are for.
    pub(crate) fn derive(
        origin: &Origin<'_>,
        chosen: &Chosen,
        role: Role,
        values: &Exchanged<'_>,
    ) -> Result<(Self, AuthKeys), Fault> {
        let incompatible = Fault::Incompatible(Incompatible::Proposal);
        let (prf, suite) = suite(chosen).ok_or(incompatible)?;
        let Exchanged { ni, nr, shared, spi_i, spi_r } = *values;
        let shared = shared.as_bytes();
        let seed = match origin {
            Origin::Initial => Skeyseed::initial(prf, ni, nr, shared)?,
            Origin::Rekey(old) => Skeyseed::rekey(&old.d, ni, nr, shared, &[])?,
        };
        let keys = IkeKeys::derive(prf, &seed, ni, nr, spi_i, spi_r, suite.key_sizes(prf))?;
        let (own, peer) = match role {
            Role::Initiator => (keys.initiator, keys.responder),
            Role::Responder => (keys.responder, keys.initiator),
        };
        let sealer = SkSealer::new(suite, own)?;
        let opener = SkOpener::new(suite, peer)?;
        let auth = AuthKeys { prf, initiator: keys.pi, responder: keys.pr };
        Ok((Self { d: keys.d, sealer, opener }, auth))
    }

    /// A protected message, in fragments of at most `max_len` octets where the peer understands them.
    pub(crate) fn seal(
        &mut self,
        header: &Header,
        list: &PayloadList,
        max_len: Option<usize>,
    ) -> Result<Vec<Vec<u8>>, SealError> {
        match max_len {
            Some(max_len) => self.sealer.seal_within(header, list, max_len),
            None => Ok(vec![self.sealer.seal(header, list)?]),
        }
    }

    /// What is inside a message; `None` for one that is not protected or not authentic.
    pub(crate) fn open(&self, message: &v2::Message<'_>) -> Option<Opened> {
        self.opener.open(&message.encrypted()?).ok()
    }
}

fn suite(chosen: &Chosen) -> Option<(Prf, SkSuite)> {
    let encryption = chosen.encryption?;
    let key_bits = (encryption.key_bits != 0).then_some(encryption.key_bits);
    let cipher = SkCipher::new(EncryptionId::from_number(encryption.id), key_bits)?;
    let integrity = match chosen.integrity {
        Some(id) => Some(SkIntegrity::from_id(IntegrityId::from_number(id))?),
        None => None,
    };
    let prf = Prf::from_id(PrfId::from_number(chosen.prf?))?;
    Some((prf, SkSuite::new(cipher, integrity)?))
}
