//! The IKEv2 key schedule (RFC 7296 §2.14, §2.17 and §2.18).

use ipsec::algorithm::KeyMaterial;
use zeroize::Zeroizing;

use crate::message::IkeSpi;

use super::{CryptoFailure, Prf};

/// SKEYSEED, from which the keys of one IKE SA come.
pub struct Skeyseed(Zeroizing<Vec<u8>>);

impl Skeyseed {
    /// prf(Ni | Nr, g^ir), for an IKE SA that IKE_SA_INIT makes (RFC 7296 §2.14).
    ///
    /// # Errors
    /// [`CryptoFailure`].
    pub fn initial(prf: Prf, ni: &[u8], nr: &[u8], shared: &[u8]) -> Result<Self, CryptoFailure> {
        let key = match prf {
            // "only the first 64 bits of Ni and the first 64 bits of Nr are used"
            Prf::Aes128Xcbc | Prf::Aes128Cmac => [head(ni), head(nr)].concat(),
            Prf::HmacMd5
            | Prf::HmacSha1
            | Prf::HmacSha2_256
            | Prf::HmacSha2_384
            | Prf::HmacSha2_512 => [ni, nr].concat(),
        };
        prf.compute(&key, &[shared]).map(Self)
    }

    /// prf(SK_d (old), g^ir (new) | Ni | Nr), with the old SA's prf (RFC 7296 §2.18); and, with the result of each key
    /// exchange of IKE_INTERMEDIATE in turn, SKEYSEED(n) of RFC 9370 §2.2.2. A rekey with additional key exchanges
    /// appends their results (RFC 9370 §2.2.4).
    ///
    /// # Errors
    /// [`CryptoFailure`].
    pub fn rekey(
        old: &SkD,
        ni: &[u8],
        nr: &[u8],
        shared: &[u8],
        additional: &[&[u8]],
    ) -> Result<Self, CryptoFailure> {
        let data = [&[shared, ni, nr], additional].concat();
        old.prf.compute(&old.key, &data).map(Self)
    }

    /// The octets, for known answers and for a key log that an operator asked for.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

fn head(nonce: &[u8]) -> &[u8] {
    nonce.get(..8).unwrap_or(nonce)
}

/// Octets of each kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySizes {
    /// SK_d: the prf's output.
    pub d: usize,
    /// SK_ai, SK_ar: the integrity key, zero with AEAD (RFC 5282 §5.1).
    pub a: usize,
    /// SK_ei, SK_er: the cipher's key with its salt.
    pub e: usize,
    /// SK_pi, SK_pr: the prf's output.
    pub p: usize,
}

/// The keys of one IKE SA, each in the type of its use.
pub struct IkeKeys {
    /// For children and rekeys.
    pub d: SkD,
    /// The initiator's, for AUTH.
    pub pi: SkP,
    /// The responder's, for AUTH.
    pub pr: SkP,
    /// Of messages from the SA's original initiator.
    pub initiator: DirectionKeys,
    /// Of messages from its original responder.
    pub responder: DirectionKeys,
}

/// The keys of one direction.
pub struct DirectionKeys {
    /// SK_e, the salt behind it where the suite has one.
    pub encryption: KeyMaterial,
    /// SK_a, empty with AEAD.
    pub integrity: KeyMaterial,
}

impl IkeKeys {
    /// {SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+ (SKEYSEED, Ni | Nr | SPIi | SPIr).
    ///
    /// # Errors
    /// [`CryptoFailure`], also for sizes that prf+ cannot fill.
    pub fn derive(
        prf: Prf,
        seed: &Skeyseed,
        ni: &[u8],
        nr: &[u8],
        spi_i: IkeSpi,
        spi_r: IkeSpi,
        sizes: KeySizes,
    ) -> Result<Self, CryptoFailure> {
        let KeySizes { d, a, e, p } = sizes;
        let lens = [d, a, a, e, e, p, p];
        let len = lens.iter().try_fold(0usize, |sum, &len| sum.checked_add(len));
        let len = len.ok_or(CryptoFailure)?;
        let mut keymat = Keymat(prf.plus(&seed.0, &[ni, nr, &spi_i.0, &spi_r.0], len)?);
        let d = SkD { prf, key: keymat.take(d)? };
        let (ai, ar) = (keymat.take(a)?, keymat.take(a)?);
        let (ei, er) = (keymat.take(e)?, keymat.take(e)?);
        let (pi, pr) = (keymat.take(p)?, keymat.take(p)?);
        Ok(Self {
            d,
            pi: SkP { prf, key: pi },
            pr: SkP { prf, key: pr },
            initiator: DirectionKeys { encryption: material(ei), integrity: material(ai) },
            responder: DirectionKeys { encryption: material(er), integrity: material(ar) },
        })
    }

    /// Replaces SK_d, SK_pi and SK_pr by prf+(PPK, each) (RFC 8784 §3).
    ///
    /// # Errors
    /// [`CryptoFailure`].
    pub fn mix_ppk(self, ppk: &[u8]) -> Result<Self, CryptoFailure> {
        let mix = |prf: Prf, key: &[u8]| prf.plus(ppk, &[key], key.len());
        Ok(Self {
            d: SkD { prf: self.d.prf, key: mix(self.d.prf, &self.d.key)? },
            pi: SkP { prf: self.pi.prf, key: mix(self.pi.prf, &self.pi.key)? },
            pr: SkP { prf: self.pr.prf, key: mix(self.pr.prf, &self.pr.key)? },
            ..self
        })
    }
}

/// SK_d with its prf.
pub struct SkD {
    prf: Prf,
    key: Zeroizing<Vec<u8>>,
}

impl SkD {
    /// A known SK_d, for known answers.
    pub fn from_bytes(prf: Prf, key: Vec<u8>) -> Self {
        Self { prf, key: Zeroizing::new(key) }
    }

    /// KEYMAT = prf+(SK_d, [g^ir (new) |] Ni | Nr) of one Child SA (RFC 7296 §2.17); results of additional key exchanges
    /// go behind (RFC 9370 §2.2.4).
    ///
    /// # Errors
    /// [`CryptoFailure`].
    pub fn keymat(
        &self,
        shared: Option<&[u8]>,
        ni: &[u8],
        nr: &[u8],
        additional: &[&[u8]],
        len: usize,
    ) -> Result<Keymat, CryptoFailure> {
        let seed = [&[shared.unwrap_or_default(), ni, nr], additional].concat();
        self.prf.plus(&self.key, &seed, len).map(Keymat)
    }

    /// The octets, for known answers and for a key log that an operator asked for.
    pub fn expose(&self) -> &[u8] {
        &self.key
    }
}

/// SK_pi or SK_pr with its prf.
pub struct SkP {
    pub(super) prf: Prf,
    pub(super) key: Zeroizing<Vec<u8>>,
}

impl SkP {
    /// The octets, for known answers and for a key log that an operator asked for.
    pub fn expose(&self) -> &[u8] {
        &self.key
    }
}

/// Keying material of a Child SA, taken from the front.
pub struct Keymat(Zeroizing<Vec<u8>>);

/// The keys of one Child SA.
pub struct ChildKeys {
    /// Of packets from the exchange's initiator to its responder.
    pub from_initiator: DirectionKeys,
    /// Of packets from the exchange's responder to its initiator.
    pub from_responder: DirectionKeys,
}

impl Keymat {
    /// Both directions' keys: the initiator's first, within each the encryption key (with its salt) first
    /// (RFC 7296 §2.17).
    ///
    /// # Errors
    /// [`CryptoFailure`] when there is too little.
    pub fn split(
        mut self,
        encryption: usize,
        integrity: usize,
    ) -> Result<ChildKeys, CryptoFailure> {
        let mut direction = || {
            let encryption = self.take(encryption)?;
            let integrity = self.take(integrity)?;
            Ok(DirectionKeys { encryption: material(encryption), integrity: material(integrity) })
        };
        Ok(ChildKeys { from_initiator: direction()?, from_responder: direction()? })
    }

    /// The octets, for known answers and for a key log that an operator asked for.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    fn take(&mut self, len: usize) -> Result<Zeroizing<Vec<u8>>, CryptoFailure> {
        let (front, rest) = self.0.split_at_checked(len).ok_or(CryptoFailure)?;
        let (front, rest) = (front.to_vec(), rest.to_vec());
        self.0 = Zeroizing::new(rest);
        Ok(Zeroizing::new(front))
    }
}

fn material(mut key: Zeroizing<Vec<u8>>) -> KeyMaterial {
    KeyMaterial::new(core::mem::take(&mut *key))
}
