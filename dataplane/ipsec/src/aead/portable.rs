//! AES-GCM on the `aes-gcm` crate: runs anywhere, and is what the other engines are compared with.

use aes_gcm::aead::consts::{U8, U12, U16};
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, Tag};
use aes_gcm::aes::cipher::{BlockCipherEncrypt, BlockSizeUser, KeyInit};
use aes_gcm::aes::{Aes128Enc, Aes192Enc, Aes256Enc};
use aes_gcm::{AesGcm, TagSize};

use super::job::{Job, Unauthentic};
use super::key::UnsupportedKeyLength;

/// The AES key schedule alone: the hash key is derived again for each job, because `aes-gcm` has a type per
/// tag length and a schedule for each would triple the key.
pub(super) enum PortableKey {
    Aes128(Aes128Enc),
    Aes192(Aes192Enc),
    Aes256(Aes256Enc),
}

impl PortableKey {
    pub(super) fn new(key: &[u8]) -> Result<Self, UnsupportedKeyLength> {
        match key.len() {
            16 => Aes128Enc::new_from_slice(key).map(Self::Aes128),
            24 => Aes192Enc::new_from_slice(key).map(Self::Aes192),
            _ => Aes256Enc::new_from_slice(key).map(Self::Aes256),
        }
        .map_err(|_| UnsupportedKeyLength)
    }
}

/// Runs one job of the portable class.
pub(super) fn seal(job: &mut Job<'_>) {
    let nonce = job.nonce();
    let sealed = match job.portable_key() {
        PortableKey::Aes128(aes) => seal_with(aes, &nonce, job),
        PortableKey::Aes192(aes) => seal_with(aes, &nonce, job),
        PortableKey::Aes256(aes) => seal_with(aes, &nonce, job),
    };
    match sealed {
        Ok(tag) => job.put_tag(&tag.into()),
        // aes-gcm refuses lengths far above MAX_LEN only; what it refused must not leave in clear.
        Err(_) => job.wipe(),
    }
}

/// Runs one job of the portable class.
pub(super) fn open(job: &mut Job<'_>) {
    let verdict = match job.portable_key() {
        PortableKey::Aes128(aes) => open_with(aes, job),
        PortableKey::Aes192(aes) => open_with(aes, job),
        PortableKey::Aes256(aes) => open_with(aes, job),
    };
    job.conclude(verdict.is_ok());
}

fn seal_with<A>(
    aes: &A,
    nonce: &[u8; 12],
    job: &mut Job<'_>,
) -> Result<Tag<AesGcm<A, U12, U16>>, aes_gcm::Error>
where
    A: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>,
{
    let gcm = AesGcm::<&A, U12, U16>::from(aes);
    let (aad, data, _) = job.parts();
    gcm.encrypt_inout_detached(&(*nonce).into(), aad, data)
}

fn open_with<A>(aes: &A, job: &mut Job<'_>) -> Result<(), Unauthentic>
where
    A: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>,
{
    let nonce = job.nonce();
    let (aad, data, tag) = job.parts();
    match tag.len() {
        8 => open_tag::<A, U8>(aes, &nonce, aad, data, tag),
        12 => open_tag::<A, U12>(aes, &nonce, aad, data, tag),
        _ => open_tag::<A, U16>(aes, &nonce, aad, data, tag),
    }
}

fn open_tag<A, T>(
    aes: &A,
    nonce: &[u8; 12],
    aad: &[u8],
    data: InOutBuf<'_, '_, u8>,
    tag: &[u8],
) -> Result<(), Unauthentic>
where
    A: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>,
    T: TagSize,
{
    let gcm = AesGcm::<&A, U12, T>::from(aes);
    let tag = tag.try_into().map_err(|_| Unauthentic)?;
    gcm.decrypt_inout_detached(&(*nonce).into(), aad, data, tag).map_err(|_| Unauthentic)
}
