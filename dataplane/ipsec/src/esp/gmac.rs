//! AES-GMAC over a message in pieces (NIST SP 800-38D §6.4), as AH has it (RFC 4543 §4): its packets have fields that count
//! as zeros, so they are never one piece. ESP's are, and go through [`crate::aead`].

use super::transform::Failed;
use aes::cipher::{Block, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use aws_lc_rs::constant_time;
use ghash::GHash;
use ghash::universal_hash::UniversalHash;

/// Bytes of a tag, which AH never cuts.
pub(crate) const TAG_LEN: usize = 16;
/// Bytes of a nonce.
pub(crate) const NONCE_LEN: usize = 12;
const BLOCK: usize = 16;

/// An expanded key.
pub(crate) struct Gmac {
    cipher: Cipher,
    /// With the hash key of SP 800-38D §6.4, and nothing hashed yet.
    hash: GHash,
}

enum Cipher {
    Aes128(Aes128),
    Aes192(Aes192),
    Aes256(Aes256),
}

impl Cipher {
    fn encrypt(&self, block: [u8; BLOCK]) -> [u8; BLOCK] {
        let mut block = Block::<Aes128>::from(block);
        match self {
            Self::Aes128(key) => key.encrypt_block(&mut block),
            Self::Aes192(key) => key.encrypt_block(&mut block),
            Self::Aes256(key) => key.encrypt_block(&mut block),
        }
        block.into()
    }
}

impl Gmac {
    /// `None` for keys of none of 16, 24 and 32 bytes.
    pub(crate) fn new(key: &[u8]) -> Option<Self> {
        let cipher = match key.len() {
            16 => Cipher::Aes128(Aes128::new_from_slice(key).ok()?),
            24 => Cipher::Aes192(Aes192::new_from_slice(key).ok()?),
            32 => Cipher::Aes256(Aes256::new_from_slice(key).ok()?),
            _ => return None,
        };
        let hash_key = zeroize::Zeroizing::new(cipher.encrypt([0; BLOCK]));
        let hash = GHash::new((&*hash_key).into());
        Some(Self { cipher, hash })
    }

    /// The tag over the pieces as if they were one message. The nonce must never repeat under the key for
    /// another message.
    pub(crate) fn tag(&self, nonce: [u8; NONCE_LEN], pieces: &[&[u8]]) -> [u8; TAG_LEN] {
        let mut hash = self.hash.clone();
        let (mut block, mut filled, mut bits) = ([0; BLOCK], 0, 0u64);
        for mut rest in pieces.iter().copied() {
            bits = bits.wrapping_add((rest.len() as u64).wrapping_mul(8));
            while !rest.is_empty() {
                if filled == 0
                    && let (whole, tail) = rest.as_chunks::<BLOCK>()
                    && !whole.is_empty()
                {
                    for block in whole {
                        hash.update(&[(*block).into()]);
                    }
                    rest = tail;
                    continue;
                }
                let take = rest.len().min(BLOCK - filled);
                let (now, later) = rest.split_at(take);
                block[filled..filled + take].copy_from_slice(now);
                filled += take;
                rest = later;
                if filled == BLOCK {
                    hash.update(&[block.into()]);
                    filled = 0;
                }
            }
        }
        if filled != 0 {
            block[filled..].fill(0);
            hash.update(&[block.into()]);
        }
        // All of the message is additional data; the length of the text is 0.
        hash.update(&[(u128::from(bits) << 64).to_be_bytes().into()]);
        let mut counter = [0; BLOCK];
        counter[..NONCE_LEN].copy_from_slice(&nonce);
        counter[BLOCK - 1] = 1;
        let mask = u128::from_ne_bytes(self.cipher.encrypt(counter));
        let hash: [u8; BLOCK] = hash.finalize().into();
        (u128::from_ne_bytes(hash) ^ mask).to_ne_bytes()
    }

    /// Compares the tag with `icv`, in a time that does not tell where they differ.
    pub(crate) fn verify(
        &self,
        nonce: [u8; NONCE_LEN],
        pieces: &[&[u8]],
        icv: &[u8],
    ) -> Result<(), Failed> {
        Ok(constant_time::verify_slices_are_equal(&self.tag(nonce, pieces), icv)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aead::{self, Aad, GcmKey, SealJob};

    /// The batched engine, which has NIST's vectors, is the oracle: every length, in pieces of every kind.
    #[test]
    fn pieces_give_the_tag_of_the_whole() {
        let message: Vec<u8> = (0..=255).cycle().take(600).collect();
        for key_len in [16, 24, 32] {
            let key: Vec<u8> = (0..key_len).map(|i| i * 7 + 1).collect();
            let gmac = Gmac::new(&key).unwrap();
            let whole = GcmKey::new(&key).unwrap();
            for len in (0..100).chain([255, 256, 257, 600]) {
                let nonce = [len as u8; NONCE_LEN];
                let mut tag = [0; TAG_LEN];
                let aad = Aad::new(&message[..len]);
                let job = SealJob::in_place(&whole, nonce, aad, &mut [], &mut tag);
                aead::seal_burst(&mut [job.unwrap()]);
                for split in [0, 1, len / 3, len / 2, len] {
                    let (a, b) = message[..len].split_at(split.min(len));
                    let (b, c) = b.split_at(b.len().min(20));
                    assert_eq!(gmac.tag(nonce, &[a, b, &[], c]), tag, "{key_len} {len} {split}");
                }
                gmac.verify(nonce, &[&message[..len]], &tag).unwrap();
                tag[len % TAG_LEN] ^= 1;
                assert!(gmac.verify(nonce, &[&message[..len]], &tag).is_err());
                assert!(gmac.verify(nonce, &[&message[..len]], &tag[..8]).is_err());
            }
        }
        assert!(Gmac::new(&[0; 20]).is_none());
    }
}
