//! The two CBC-MACs of IPsec: AES-XCBC-MAC (RFC 3566) and AES-CMAC (RFC 4493, RFC 4494).
//!
//! Both chain blocks under one key and mask the last block with one of two others, which tells a whole
//! last block from a padded one; they differ in where those keys come from.

use aes::cipher::{Block, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use zeroize::Zeroize;

const BLOCK: usize = 16;

/// How the three keys are made of one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subkeys {
    /// RFC 3566 §4.
    Xcbc,
    /// RFC 4493 §2.3.
    Cmac,
}

/// The expanded keys.
pub(crate) struct CbcMac {
    cipher: Cipher,
    whole: [u8; BLOCK],
    padded: [u8; BLOCK],
}

/// AES of any key length. RFC 4494 has CMAC with 16 bytes only, and so have SAs; SP 800-38B knows the others.
enum Cipher {
    Aes128(Aes128),
    Aes192(Aes192),
    Aes256(Aes256),
}

impl Cipher {
    fn new(key: &[u8]) -> Option<Self> {
        Some(match key.len() {
            16 => Self::Aes128(Aes128::new_from_slice(key).ok()?),
            24 => Self::Aes192(Aes192::new_from_slice(key).ok()?),
            32 => Self::Aes256(Aes256::new_from_slice(key).ok()?),
            _ => return None,
        })
    }
}

impl CbcMac {
    /// XCBC takes keys of 16 bytes, CMAC those of 24 and 32 too.
    pub(crate) fn new(subkeys: Subkeys, key: &[u8]) -> Option<Self> {
        let cipher = Cipher::new(key)?;
        Some(match (subkeys, &cipher) {
            (Subkeys::Xcbc, Cipher::Aes128(_)) => {
                let mut first = encrypt(&cipher, [1; BLOCK]);
                let (whole, padded) = (encrypt(&cipher, [2; BLOCK]), encrypt(&cipher, [3; BLOCK]));
                let cipher = Cipher::new(&first);
                first.zeroize();
                Self { cipher: cipher?, whole, padded }
            }
            (Subkeys::Xcbc, Cipher::Aes192(_) | Cipher::Aes256(_)) => return None,
            (Subkeys::Cmac, _) => {
                let whole = double(encrypt(&cipher, [0; BLOCK]));
                Self { cipher, whole, padded: double(whole) }
            }
        })
    }

    /// The tag over the pieces as if they were one message.
    pub(crate) fn tag(&self, pieces: &[&[u8]]) -> [u8; BLOCK] {
        let mut chain = [0; BLOCK];
        // A full block waits until it is known not to be the last.
        let (mut last, mut filled) = ([0; BLOCK], 0);
        for mut rest in pieces.iter().copied() {
            while !rest.is_empty() {
                if filled == BLOCK {
                    chain = encrypt(&self.cipher, xor(chain, last));
                    filled = 0;
                }
                let take = rest.len().min(BLOCK - filled);
                let (now, later) = rest.split_at(take);
                last[filled..filled + take].copy_from_slice(now);
                filled += take;
                rest = later;
            }
        }
        let mask = if filled == BLOCK {
            self.whole
        } else {
            last[filled..].fill(0);
            last[filled] = 0x80;
            self.padded
        };
        encrypt(&self.cipher, xor(xor(chain, last), mask))
    }
}

impl Drop for CbcMac {
    fn drop(&mut self) {
        // The cipher wipes itself.
        self.whole.zeroize();
        self.padded.zeroize();
    }
}

#[inline]
fn encrypt(cipher: &Cipher, block: [u8; BLOCK]) -> [u8; BLOCK] {
    let mut block = Block::<Aes128>::from(block);
    match cipher {
        Cipher::Aes128(key) => key.encrypt_block(&mut block),
        Cipher::Aes192(key) => key.encrypt_block(&mut block),
        Cipher::Aes256(key) => key.encrypt_block(&mut block),
    }
    block.into()
}

fn xor(a: [u8; BLOCK], b: [u8; BLOCK]) -> [u8; BLOCK] {
    (u128::from_ne_bytes(a) ^ u128::from_ne_bytes(b)).to_ne_bytes()
}

/// Multiplication by x in GF(2^128), without a branch on the key.
fn double(block: [u8; BLOCK]) -> [u8; BLOCK] {
    let n = u128::from_be_bytes(block);
    ((n << 1) ^ ((n >> 127) * 0x87)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex<const N: usize>(text: &str) -> [u8; N] {
        core::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    /// RFC 3566 §4.6, RFC 4493 §4; each over one piece, and over every split into two.
    #[test]
    fn published_tags() {
        let counting: Vec<u8> = (0..34).collect();
        let message: [u8; 64] = unhex(
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
        );
        let (xcbc, cmac) = ("000102030405060708090a0b0c0d0e0f", "2b7e151628aed2a6abf7158809cf4f3c");
        for (subkeys, key, message, len, tag) in [
            (Subkeys::Xcbc, xcbc, &counting[..], 0, "75f0251d528ac01c4573dfd584d79f29"),
            (Subkeys::Xcbc, xcbc, &counting, 3, "5b376580ae2f19afe7219ceef172756f"),
            (Subkeys::Xcbc, xcbc, &counting, 16, "d2a246fa349b68a79998a4394ff7a263"),
            (Subkeys::Xcbc, xcbc, &counting, 20, "47f51b4564966215b8985c63055ed308"),
            (Subkeys::Xcbc, xcbc, &counting, 32, "f54f0ec8d2b9f3d36807734bd5283fd4"),
            (Subkeys::Xcbc, xcbc, &counting, 34, "becbb3bccdb518a30677d5481fb6b4d8"),
            (Subkeys::Cmac, cmac, &message, 0, "bb1d6929e95937287fa37d129b756746"),
            (Subkeys::Cmac, cmac, &message, 16, "070a16b46b4d4144f79bdd9dd04a287c"),
            (Subkeys::Cmac, cmac, &message, 40, "dfa66747de9ae63030ca32611497c827"),
            (Subkeys::Cmac, cmac, &message, 64, "51f0bebf7e3b9d92fc49741779363cfe"),
        ] {
            let mac = CbcMac::new(subkeys, &unhex::<16>(key)).unwrap();
            for split in 0..=len {
                let (a, b) = message[..len].split_at(split);
                assert_eq!(mac.tag(&[a, b]), unhex(tag), "{subkeys:?} {len} split at {split}");
            }
        }
    }
}
