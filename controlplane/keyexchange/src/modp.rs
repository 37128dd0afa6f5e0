//! Diffie-Hellman modulo the safe primes of RFC 2409 §6.2 and RFC 3526, generator 2.

use std::sync::OnceLock;

use zeroize::Zeroizing;

use crate::libcrypto;
use crate::{KeyExchangeError, SharedSecret, left_pad};

/// A MODP group.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Modp {
    Modp1024,
    Modp1536,
    Modp2048,
    Modp3072,
    Modp4096,
    Modp6144,
    Modp8192,
}

/// A private exponent.
pub(crate) struct ModpKey {
    group: Modp,
    exponent: Zeroizing<Vec<u8>>,
}

const GENERATOR: [u8; 1] = [2];

impl ModpKey {
    pub(crate) fn generate(group: Modp) -> Result<Self, KeyExchangeError> {
        let mut exponent = Zeroizing::new(vec![0; group.exponent_len()]);
        // All zeros would be the one value to refuse; it comes once in 2^256 at most.
        aws_lc_rs::rand::fill(&mut exponent).map_err(|_| KeyExchangeError::Library)?;
        Ok(Self { group, exponent })
    }

    /// Accepts any exponent 0 < x < p.
    pub(crate) fn from_bytes(group: Modp, private: &[u8]) -> Result<Self, KeyExchangeError> {
        let prime = group.prime()?;
        let exponent = left_pad(private, prime.len()).ok_or(KeyExchangeError::PrivateValue)?;
        // Only known answers come here, so that this comparison takes a variable time does no harm.
        if exponent.iter().all(|&octet| octet == 0) || exponent.as_slice() >= prime {
            return Err(KeyExchangeError::PrivateValue);
        }
        Ok(Self { group, exponent })
    }

    pub(crate) fn public(&self) -> Result<Vec<u8>, KeyExchangeError> {
        let prime = self.group.prime()?;
        let power = libcrypto::mod_exp(prime, &GENERATOR, &self.exponent)
            .ok_or(KeyExchangeError::Library)?;
        Ok(power.to_vec())
    }

    pub(crate) fn agree(self, peer: &[u8]) -> Result<SharedSecret, KeyExchangeError> {
        let prime = self.group.prime()?;
        if !is_acceptable(peer, prime) {
            return Err(KeyExchangeError::PeerValue);
        }
        let power =
            libcrypto::mod_exp(prime, peer, &self.exponent).ok_or(KeyExchangeError::Library)?;
        Ok(SharedSecret::new(power))
    }
}

/// RFC 6989 §2.1, for safe primes: 1 < y < p - 1, in exactly the prime's length (RFC 7296 §3.4).
fn is_acceptable(peer: &[u8], prime: &[u8]) -> bool {
    if peer.len() != prime.len() {
        return false;
    }
    let (Some((&low, high)), Some((&prime_low, prime_high))) =
        (peer.split_last(), prime.split_last())
    else {
        return false;
    };
    let above_one = low > 1 || high.iter().any(|&octet| octet != 0);
    // The primes are odd, so p - 1 differs from p in the last octet only.
    let below = (high, low) < (prime_high, prime_low.saturating_sub(1));
    above_one && below
}

impl Modp {
    /// The prime, big-endian, without leading zeros.
    fn prime(self) -> Result<&'static [u8], KeyExchangeError> {
        static PRIMES: [OnceLock<Vec<u8>>; 6] = [const { OnceLock::new() }; 6];
        let (slot, number) = match self {
            Self::Modp1024 => return Ok(&OAKLEY_GROUP_2),
            Self::Modp1536 => (0, libcrypto::Rfc3526::Modp1536),
            Self::Modp2048 => (1, libcrypto::Rfc3526::Modp2048),
            Self::Modp3072 => (2, libcrypto::Rfc3526::Modp3072),
            Self::Modp4096 => (3, libcrypto::Rfc3526::Modp4096),
            Self::Modp6144 => (4, libcrypto::Rfc3526::Modp6144),
            Self::Modp8192 => (5, libcrypto::Rfc3526::Modp8192),
        };
        let cell = PRIMES.get(slot).ok_or(KeyExchangeError::Library)?;
        if let Some(prime) = cell.get() {
            return Ok(prime);
        }
        let prime = libcrypto::rfc3526_prime(number).ok_or(KeyExchangeError::Library)?;
        Ok(cell.get_or_init(|| prime))
    }

    /// Octets of a private exponent of ours. RFC 3526 §8 gives two estimates of each group's strength; these are twice
    /// the higher one, which is what an attack on the exponent costs less than, rounded up to octets. The legacy group
    /// of RFC 2409 has no row there and takes the 1536-bit group's.
    const fn exponent_len(self) -> usize {
        let bits: usize = match self {
            Self::Modp1024 | Self::Modp1536 => 256, // the row says 240
            Self::Modp2048 => 320,
            Self::Modp3072 => 420,
            Self::Modp4096 => 480,
            Self::Modp6144 => 540,
            Self::Modp8192 => 620,
        };
        bits.div_ceil(8)
    }
}

/// RFC 2409 §6.2: 2^1024 - 2^960 - 1 + 2^64 * { [2^894 pi] + 129093 }.
const OAKLEY_GROUP_2: [u8; 128] = *b"\
    \xff\xff\xff\xff\xff\xff\xff\xff\xc9\x0f\xda\xa2\x21\x68\xc2\x34\xc4\xc6\x62\x8b\x80\xdc\x1c\xd1\
    \x29\x02\x4e\x08\x8a\x67\xcc\x74\x02\x0b\xbe\xa6\x3b\x13\x9b\x22\x51\x4a\x08\x79\x8e\x34\x04\xdd\
    \xef\x95\x19\xb3\xcd\x3a\x43\x1b\x30\x2b\x0a\x6d\xf2\x5f\x14\x37\x4f\xe1\x35\x6d\x6d\x51\xc2\x45\
    \xe4\x85\xb5\x76\x62\x5e\x7e\xc6\xf4\x4c\x42\xe9\xa6\x37\xed\x6b\x0b\xff\x5c\xb6\xf4\x06\xb7\xed\
    \xee\x38\x6b\xfb\x5a\x89\x9f\xa5\xae\x9f\x24\x11\x7c\x4b\x1f\xe6\x49\x28\x66\x51\xec\xe6\x53\x81\
    \xff\xff\xff\xff\xff\xff\xff\xff";
