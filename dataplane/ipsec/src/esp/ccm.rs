//! AES-CCM as ESP uses it (RFC 4309): nonces of 11 bytes, ICVs of 8, 12 and 16.

use aes::{Aes128, Aes192, Aes256};
use ccm::aead::inout::InOutBuf;
use ccm::aead::{AeadInOut, KeyInit, Tag};
use ccm::consts::{U8, U11, U12, U16};

/// Declares one variant for each key and ICV length, and the dispatch over them.
macro_rules! variants {
    ($($name:ident, $cipher:ty, $key_len:literal, $icv:ty, $icv_len:literal;)*) => {
        /// An expanded key, whose type holds key and ICV length.
        pub(crate) enum Ccm {
            $($name(ccm::Ccm<$cipher, $icv, U11>),)*
        }

        impl Ccm {
            /// `None` for key or ICV lengths that there are not.
            pub(crate) fn new(key: &[u8], icv_len: u8) -> Option<Self> {
                match (key.len(), icv_len) {
                    $(($key_len, $icv_len) => {
                        Some(Self::$name(ccm::Ccm::new_from_slice(key).ok()?))
                    })*
                    _ => None,
                }
            }

            pub(crate) fn seal(&self, nonce: &[u8; 11], aad: &[u8], text: &mut [u8], icv: &mut [u8]) -> Option<()> {
                match self {
                    $(Self::$name(key) => seal(key, nonce, aad, text, icv),)*
                }
            }

            pub(crate) fn open(&self, nonce: &[u8; 11], aad: &[u8], text: &mut [u8], icv: &[u8]) -> Option<()> {
                match self {
                    $(Self::$name(key) => open(key, nonce, aad, text, icv),)*
                }
            }
        }
    };
}

variants! {
    Aes128Icv8, Aes128, 16, U8, 8;
    Aes128Icv12, Aes128, 16, U12, 12;
    Aes128Icv16, Aes128, 16, U16, 16;
    Aes192Icv8, Aes192, 24, U8, 8;
    Aes192Icv12, Aes192, 24, U12, 12;
    Aes192Icv16, Aes192, 24, U16, 16;
    Aes256Icv8, Aes256, 32, U8, 8;
    Aes256Icv12, Aes256, 32, U12, 12;
    Aes256Icv16, Aes256, 32, U16, 16;
}

fn seal<A: AeadInOut<NonceSize = U11>>(
    key: &A,
    nonce: &[u8; 11],
    aad: &[u8],
    text: &mut [u8],
    icv: &mut [u8],
) -> Option<()> {
    let tag = key.encrypt_inout_detached(nonce.into(), aad, InOutBuf::from(text)).ok()?;
    icv.get_mut(..tag.len())?.copy_from_slice(&tag);
    Some(())
}

fn open<A: AeadInOut<NonceSize = U11>>(
    key: &A,
    nonce: &[u8; 11],
    aad: &[u8],
    text: &mut [u8],
    icv: &[u8],
) -> Option<()> {
    let tag = Tag::<A>::try_from(icv.get(..Tag::<A>::default().len())?).ok()?;
    key.decrypt_inout_detached(nonce.into(), aad, InOutBuf::from(text), &tag).ok()
}
