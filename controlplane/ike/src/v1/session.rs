//! The keys of an ISAKMP SA in use: encryption with its chain of vectors, and HASH payloads (RFC 2409 §5.5, §5.7,
//! appendix B).

use super::suite::{Cipher, Suite};
use crate::crypto::CryptoFailure;
use crate::crypto::v1::{Iv, SkeyidA, SkeyidD, V1Cipher, V1Hash, V1Keys};
use crate::message::v1::{Hash, Payloads};
use crate::message::{
    ExchangeType, Flags, HEADER_LEN, Header, IkeSpi, InvalidMessage, MessageId, PayloadList,
};
use crate::v2::fault::{Fault, Local};
use core::cell::Cell;
use zeroize::Zeroizing;

/// Octets of the generic header before a HASH payload's data.
const GENERIC: usize = 4;

/// The two cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cookies {
    pub(crate) i: IkeSpi,
    pub(crate) r: IkeSpi,
}

impl Cookies {
    /// As the SPI of a notify.
    pub(crate) fn octets(&self) -> [u8; 16] {
        let mut both = [0; 16];
        both[..8].copy_from_slice(&self.i.0);
        both[8..].copy_from_slice(&self.r.0);
        both
    }
}

/// A decrypted message.
pub(crate) struct Opened {
    plain: Zeroizing<Vec<u8>>,
    first: u8,
    /// The next message's vector, if this one turns out to be authentic.
    pub(crate) next: Iv,
}

impl Opened {
    /// # Errors
    /// Whatever is wrong with the content, which is all that a wrong key shows.
    pub(crate) fn payloads(&self) -> Result<Payloads<'_>, InvalidMessage> {
        Payloads::parse(self.first, &self.plain).map(|(payloads, _)| payloads)
    }

    /// The octets behind the first payload, without padding: what HASH covers.
    fn behind_hash(&self) -> Option<(&[u8], &[u8])> {
        let (payloads, padding) = Payloads::parse(self.first, &self.plain).ok()?;
        let first = payloads.chain().iter().next()?;
        let chain = self.plain.len().checked_sub(padding.len())?;
        let rest = self.plain.get(first.length()..chain)?;
        (first.number == crate::message::v1::PayloadType::Hash.number())
            .then_some((first.body, rest))
    }
}

/// Encryption under an ISAKMP SA's key.
pub(crate) struct Sealer {
    cipher: V1Cipher,
    pub(crate) hash: V1Hash,
}

impl Sealer {
    /// Encrypts a chain of payloads as the message after `iv`.
    pub(crate) fn seal(
        &self,
        header: &Header,
        first: u8,
        plain: &[u8],
        iv: Iv,
    ) -> Result<(Vec<u8>, Iv), Fault> {
        let (ciphertext, next) = self.cipher.encrypt(iv, plain)?;
        let length = u16::try_from(ciphertext.len().saturating_add(HEADER_LEN))
            .map_err(|_| Fault::Local(Local::Library))?;
        let mut out = Vec::with_capacity(usize::from(length));
        header.emit(first, u32::from(length), &mut out);
        out.extend_from_slice(&ciphertext);
        Ok((out, next))
    }

    pub(crate) fn open(&self, first: u8, ciphertext: &[u8], iv: Iv) -> Option<Opened> {
        let (plain, next) = self.cipher.decrypt(iv, ciphertext).ok()?;
        Some(Opened { plain, first, next })
    }
}

/// Whether an informational message has the HASH that the two share: prf(SKEYID_a, M-ID | the payloads behind it) (RFC 2409 §5.7).
pub(crate) fn is_authentic(a: &SkeyidA, id: MessageId, opened: &Opened) -> bool {
    let Some((hash, rest)) = opened.behind_hash() else { return false };
    a.verify(&[&id.0.to_be_bytes(), rest], hash).unwrap_or(false)
}

/// The keys after SKEYID, and what phase 1 left.
pub(crate) struct Session {
    pub(crate) sealer: Sealer,
    pub(crate) d: SkeyidD,
    a: SkeyidA,
    hash_len: usize,
    cookies: Cookies,
    /// The last block of phase 1, from which each later exchange takes its first vector.
    base: Iv,
    octets: Cell<u64>,
}

impl Sealer {
    pub(crate) fn new(suite: &Suite, keys: &V1Keys) -> Result<Self, CryptoFailure> {
        let key = keys.e.encryption_key(suite.encryption.key_len())?;
        let cipher = match suite.cipher {
            Cipher::AesCbc => V1Cipher::aes_cbc(&key)?,
            Cipher::TripleDesCbc => V1Cipher::triple_des_cbc(&key)?,
        };
        Ok(Self { cipher, hash: suite.hash })
    }
}

impl Session {
    pub(crate) fn new(sealer: Sealer, keys: V1Keys, cookies: Cookies, base: Iv) -> Self {
        let hash_len = sealer.hash.prf().output_len();
        Self { sealer, d: keys.d, a: keys.a, hash_len, cookies, base, octets: Cell::new(0) }
    }

    /// The first vector of an exchange.
    pub(crate) fn iv(&self, id: MessageId) -> Iv {
        self.base.phase2(self.sealer.hash, id)
    }

    /// Octets that were encrypted after phase 1, and decrypted where they were authentic.
    pub(crate) const fn octets(&self) -> u64 {
        self.octets.get()
    }

    fn count(&self, octets: usize) {
        let octets = u64::try_from(octets).unwrap_or(u64::MAX);
        self.octets.set(self.octets.get().saturating_add(octets));
    }

    fn sealed(
        &self,
        header: &Header,
        first: u8,
        plain: &[u8],
        iv: Iv,
    ) -> Result<(Vec<u8>, Iv), Fault> {
        let sealed = self.sealer.seal(header, first, plain, iv)?;
        self.count(sealed.0.len().saturating_sub(HEADER_LEN));
        Ok(sealed)
    }

    /// A chain that begins with the place of the HASH payload.
    pub(crate) fn list(&self) -> PayloadList {
        let mut list = PayloadList::new();
        list.push(&Hash { data: &vec![0; self.hash_len] });
        list
    }

    fn header(&self, exchange: ExchangeType, id: MessageId) -> Header {
        Header::v1(self.cookies.i, self.cookies.r, exchange, Flags::ENCRYPTED, id)
    }

    /// A message of a later exchange: HASH = prf(SKEYID_a, M-ID | `before` | the payloads behind it).
    pub(crate) fn seal(
        &self,
        exchange: ExchangeType,
        id: MessageId,
        iv: Iv,
        before: &[&[u8]],
        list: &PayloadList,
    ) -> Result<(Vec<u8>, Iv), Fault> {
        let mut plain = Zeroizing::new(list.bytes()?.to_vec());
        let end = GENERIC.saturating_add(self.hash_len);
        let rest = plain.get(end..).unwrap_or_default();
        let hash = self.hash(id, before, rest)?;
        self.put_hash(&mut plain, &hash);
        self.sealed(&self.header(exchange, id), list.first(), &plain, iv)
    }

    /// The third message of quick mode: HASH(3) = prf(SKEYID_a, 0 | M-ID | Ni_b | Nr_b).
    pub(crate) fn seal_third(
        &self,
        id: MessageId,
        iv: Iv,
        ni: &[u8],
        nr: &[u8],
    ) -> Result<(Vec<u8>, Iv), Fault> {
        let list = self.list();
        let mut plain = Zeroizing::new(list.bytes()?.to_vec());
        let hash = self.a.hash(&[&[0], &id.0.to_be_bytes(), ni, nr])?;
        self.put_hash(&mut plain, &hash);
        self.sealed(&self.header(ExchangeType::QuickMode, id), list.first(), &plain, iv)
    }

    fn put_hash(&self, plain: &mut [u8], hash: &[u8]) {
        let end = GENERIC.saturating_add(self.hash_len);
        if let Some(place) = plain.get_mut(GENERIC..end)
            && place.len() == hash.len()
        {
            place.copy_from_slice(hash);
        }
    }

    fn hash(
        &self,
        id: MessageId,
        before: &[&[u8]],
        rest: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoFailure> {
        let id = id.0.to_be_bytes();
        let parts = [&[id.as_slice()], before, &[rest]].concat();
        self.a.hash(&parts)
    }

    fn counted(&self, opened: &Opened, is_authentic: bool) -> bool {
        if is_authentic {
            self.count(opened.plain.len());
        }
        is_authentic
    }

    /// Whether a message's HASH is right; a message without one in the first place is not.
    pub(crate) fn verify(&self, id: MessageId, before: &[&[u8]], opened: &Opened) -> bool {
        let Some((hash, rest)) = opened.behind_hash() else { return false };
        let number = id.0.to_be_bytes();
        let parts = [&[number.as_slice()], before, &[rest]].concat();
        self.counted(opened, self.a.verify(&parts, hash).unwrap_or(false))
    }

    /// Whether a third message's HASH is right.
    pub(crate) fn verify_third(
        &self,
        id: MessageId,
        ni: &[u8],
        nr: &[u8],
        opened: &Opened,
    ) -> bool {
        let Some((hash, _)) = opened.behind_hash() else { return false };
        let parts: [&[u8]; 4] = [&[0], &id.0.to_be_bytes(), ni, nr];
        self.counted(opened, self.a.verify(&parts, hash).unwrap_or(false))
    }

    /// The cookies as one SPI (RFC 2408 §3.14, §3.15).
    pub(crate) fn cookies(&self) -> [u8; 16] {
        self.cookies.octets()
    }
}
