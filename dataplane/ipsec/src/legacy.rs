//! Transforms that no new SA should have, for peers that know no others: 3DES-CBC (RFC 2451; blocks of 64 bits collide
//! after a few gigabytes under one key) and HMAC-MD5 (RFC 2403; RFC 8221 §6 says MUST NOT). What negotiates and configures
//! SAs lets them in behind a switch only; here they are like any other. IKEv1 (RFC 2409) uses them too.

use crate::esp::transform::Failed;
use des::TdesEde3;
use des::cipher::{Block, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use hmac::{Hmac, Mac as _};
use md5::{Digest as _, Md5};

/// Bytes of a block, and of an IV.
pub const BLOCK: usize = 8;

/// 3DES in CBC mode. The library looks its S-boxes up by secret index, so its time may tell of the key to who shares the core:
/// one more reason for the switch.
pub struct TripleDes(TdesEde3);

impl TripleDes {
    /// `None` for keys of another length than 24 bytes.
    pub fn new(key: &[u8]) -> Option<Self> {
        Some(Self(TdesEde3::new_from_slice(key).ok()?))
    }

    /// In place, over whole blocks.
    ///
    /// # Errors
    /// [`Failed`] for less than whole blocks.
    pub fn encrypt(&self, iv: [u8; BLOCK], text: &mut [u8]) -> Result<(), Failed> {
        let (blocks, []) = text.as_chunks_mut::<BLOCK>() else { return Err(Failed) };
        let mut chain = iv;
        for block in blocks {
            let mut mixed = Block::<TdesEde3>::from(xor(chain, *block));
            self.0.encrypt_block(&mut mixed);
            chain = mixed.into();
            *block = chain;
        }
        Ok(())
    }

    /// The reverse.
    ///
    /// # Errors
    /// As there.
    pub fn decrypt(&self, iv: [u8; BLOCK], text: &mut [u8]) -> Result<(), Failed> {
        let (blocks, []) = text.as_chunks_mut::<BLOCK>() else { return Err(Failed) };
        let mut chain = iv;
        for block in blocks {
            let mut plain = Block::<TdesEde3>::from(*block);
            self.0.decrypt_block(&mut plain);
            let before = core::mem::replace(&mut chain, *block);
            *block = xor(before, plain.into());
        }
        Ok(())
    }
}

/// RFC 2451 §2.3: a key whose first or last two thirds are equal makes it single DES, and must be refused. The lowest
/// bit of each byte is parity and takes no part.
pub fn is_single_des(key: &[u8]) -> bool {
    let (thirds, _) = key.as_chunks::<BLOCK>();
    let significant = |third: &[u8; BLOCK]| u64::from_be_bytes(*third) & 0xfefe_fefe_fefe_fefe;
    thirds.windows(2).any(|pair| significant(&pair[0]) == significant(&pair[1]))
}

/// HMAC-MD5 with its key taken in.
pub struct HmacMd5(Hmac<Md5>);

impl HmacMd5 {
    /// Of any length, as HMAC has it.
    pub fn new(key: &[u8]) -> Option<Self> {
        Some(Self(Hmac::new_from_slice(key).ok()?))
    }

    /// The whole code of text in pieces.
    pub fn tag(&self, pieces: &[&[u8]]) -> [u8; 16] {
        let mut hmac = self.0.clone();
        for piece in pieces {
            hmac.update(piece);
        }
        hmac.finalize().into_bytes().into()
    }
}

/// The bare hash of text in pieces (RFC 1321), of which IKEv1 makes initialization vectors.
pub fn md5(pieces: &[&[u8]]) -> [u8; 16] {
    let mut hash = Md5::new();
    for piece in pieces {
        hash.update(piece);
    }
    hash.finalize().into()
}

fn xor(a: [u8; BLOCK], b: [u8; BLOCK]) -> [u8; BLOCK] {
    (u64::from_ne_bytes(a) ^ u64::from_ne_bytes(b)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex<const N: usize>(text: &str) -> [u8; N] {
        core::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    /// NIST SP 800-67 Appendix B.1, its three blocks one by one under a zero IV, and chained.
    #[test]
    fn published_blocks() {
        let key: [u8; 24] = unhex("0123456789abcdef23456789abcdef01456789abcdef0123");
        let des = TripleDes::new(&key).unwrap();
        let plain: [u8; 24] = *b"The qufck brown fox jump";
        let cipher: [u8; 24] = unhex("a826fd8ce53b855fcce21c8112256fe668d5c05dd9b6b900");
        for at in [0, 8, 16] {
            let mut block: [u8; 8] = plain[at..at + 8].try_into().unwrap();
            des.encrypt([0; 8], &mut block).unwrap();
            assert_eq!(block, cipher[at..at + 8]);
        }
        let mut chained = plain;
        des.encrypt([7; 8], &mut chained).unwrap();
        des.decrypt([7; 8], &mut chained).unwrap();
        assert_eq!(chained, plain);
        assert!(des.encrypt([0; 8], &mut [0; 7]).is_err());
        assert!(TripleDes::new(&key[..16]).is_none());
    }

    #[test]
    fn keys_that_make_it_single_des() {
        let key: [u8; 24] = unhex("0123456789abcdef23456789abcdef01456789abcdef0123");
        assert!(!is_single_des(&key));
        assert!(is_single_des(&[[1; 8], [0; 8], [7; 8]].concat()), "they differ in parity only");
        assert!(is_single_des(&[[9; 8], [2; 8], [3; 8]].concat()));
        assert!(!is_single_des(&[[2; 8], [4; 8], [2; 8]].concat()), "two keys are three");
    }

    /// RFC 2202 §2.
    #[test]
    fn published_tags() {
        let jefe = HmacMd5::new(b"Jefe").unwrap();
        let expected = unhex("750c783e6ab0b503eaa86e310a5db738");
        assert_eq!(jefe.tag(&[b"what do ya want for nothing?"]), expected);
        assert_eq!(jefe.tag(&[b"what do ya ", b"", b"want for nothing?"]), expected);
        let long = HmacMd5::new(&[0xaa; 80]).unwrap();
        let text = b"Test Using Larger Than Block-Size Key - Hash Key First";
        assert_eq!(long.tag(&[text]), unhex("6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd"));
    }
}
