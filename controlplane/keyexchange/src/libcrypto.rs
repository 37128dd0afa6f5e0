//! Calls into libcrypto that aws-lc-rs does not wrap, as functions over byte slices.
//!
//! Invariant: every pointer handed out by the library is owned by exactly one value here whose `Drop` frees it, and is
//! checked for null before it becomes one. No pointer leaves this module.

use core::ffi::c_int;
use core::ptr::{self, NonNull};

use aws_lc_sys as sys;
use zeroize::Zeroizing;

/// Declares an owner of a library object.
macro_rules! owner {
    ($name:ident, $object:ty, $free:path) => {
        struct $name(NonNull<$object>);

        impl $name {
            const fn new(object: *mut $object) -> Option<Self> {
                match NonNull::new(object) {
                    Some(object) => Some(Self(object)),
                    None => None,
                }
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the object came from the library, this value is its one owner, and it is not used after.
                unsafe { $free(self.0.as_ptr()) }
            }
        }
    };
}

owner!(Number, sys::BIGNUM, sys::BN_clear_free);
// The scratch numbers inside hold secrets; the library wipes memory whenever it frees it (OPENSSL_free).
owner!(Scratch, sys::BN_CTX, sys::BN_CTX_free);
owner!(Montgomery, sys::BN_MONT_CTX, sys::BN_MONT_CTX_free);
owner!(PkeyContext, sys::EVP_PKEY_CTX, sys::EVP_PKEY_CTX_free);
owner!(Pkey, sys::EVP_PKEY, sys::EVP_PKEY_free);
owner!(Rsa, sys::RSA, sys::RSA_free);

/// The primes that the library holds.
#[derive(Clone, Copy)]
pub(crate) enum Rfc3526 {
    Modp1536,
    Modp2048,
    Modp3072,
    Modp4096,
    Modp6144,
    Modp8192,
}

/// A prime of RFC 3526, big-endian.
pub(crate) fn rfc3526_prime(which: Rfc3526) -> Option<Vec<u8>> {
    let get = match which {
        Rfc3526::Modp1536 => sys::BN_get_rfc3526_prime_1536,
        Rfc3526::Modp2048 => sys::BN_get_rfc3526_prime_2048,
        Rfc3526::Modp3072 => sys::BN_get_rfc3526_prime_3072,
        Rfc3526::Modp4096 => sys::BN_get_rfc3526_prime_4096,
        Rfc3526::Modp6144 => sys::BN_get_rfc3526_prime_6144,
        Rfc3526::Modp8192 => sys::BN_get_rfc3526_prime_8192,
    };
    // SAFETY: a null argument asks for a new number, which the caller owns.
    let prime = Number::new(unsafe { get(ptr::null_mut()) })?;
    // SAFETY: `prime` is a live number.
    let bits = unsafe { sys::BN_num_bits(prime.0.as_ptr()) };
    let len = usize::try_from(bits).ok()?.div_ceil(8);
    prime.to_bytes(len).map(|bytes| bytes.to_vec())
}

/// `base ^ exponent mod prime`, in the prime's length, in a time that depends on the operands' lengths only.
/// The base must be below the prime; an odd prime is the caller's promise (`None` otherwise).
pub(crate) fn mod_exp(prime: &[u8], base: &[u8], exponent: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let modulus = Number::from_bytes(prime)?;
    let base = Number::from_bytes(base)?;
    let exponent = Number::from_bytes(exponent)?;
    let result = Number::from_bytes(&[])?;
    // SAFETY: takes nothing, gives a context that the caller owns, or null.
    let scratch = Scratch::new(unsafe { sys::BN_CTX_new() })?;
    let montgomery = Montgomery::new(
        // SAFETY: both arguments are live; the library answers an even or negative modulus with null.
        unsafe { sys::BN_MONT_CTX_new_for_modulus(modulus.0.as_ptr(), scratch.0.as_ptr()) },
    )?;
    // SAFETY: all six are live objects of the library, `result` is aliased by none of the others, and the Montgomery
    // context is the modulus' own. The call is the one that the library itself uses for private DH exponents.
    let ok = unsafe {
        sys::BN_mod_exp_mont_consttime(
            result.0.as_ptr(),
            base.0.as_ptr(),
            exponent.0.as_ptr(),
            modulus.0.as_ptr(),
            scratch.0.as_ptr(),
            montgomery.0.as_ptr(),
        )
    };
    if ok == 1 { result.to_bytes(prime.len()) } else { None }
}

impl Number {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        // SAFETY: pointer and length are one slice's, which the library only reads; null asks for a new number.
        Self::new(unsafe { sys::BN_bin2bn(bytes.as_ptr(), bytes.len(), ptr::null_mut()) })
    }

    /// In exactly `len` octets, `None` when it needs more.
    fn to_bytes(&self, len: usize) -> Option<Zeroizing<Vec<u8>>> {
        let mut out = Zeroizing::new(vec![0; len]);
        // SAFETY: pointer and length are of one buffer that nothing else refers to, and the number is live.
        let ok = unsafe { sys::BN_bn2bin_padded(out.as_mut_ptr(), out.len(), self.0.as_ptr()) };
        if ok == 1 { Some(out) } else { None }
    }
}

/// Which ML-KEM.
#[derive(Clone, Copy)]
pub(crate) enum Nid {
    MlKem512,
    MlKem768,
    MlKem1024,
}

impl Nid {
    const fn number(self) -> c_int {
        match self {
            Self::MlKem512 => sys::NID_MLKEM512,
            Self::MlKem768 => sys::NID_MLKEM768,
            Self::MlKem1024 => sys::NID_MLKEM1024,
        }
    }

    /// Octets of the encapsulation and the decapsulation key (FIPS 203 table 3).
    const fn key_lens(self) -> (usize, usize) {
        match self {
            Self::MlKem512 => (800, 1632),
            Self::MlKem768 => (1184, 2400),
            Self::MlKem1024 => (1568, 3168),
        }
    }
}

/// The encapsulation and the decapsulation key that a seed `d ‖ z` makes (FIPS 203 algorithm 16).
pub(crate) fn mlkem_from_seed(
    which: Nid,
    seed: &[u8; 64],
) -> Option<(Vec<u8>, Zeroizing<Vec<u8>>)> {
    // SAFETY: a known algorithm number and no engine; gives a context that the caller owns, or null.
    let context =
        PkeyContext::new(unsafe { sys::EVP_PKEY_CTX_new_id(sys::EVP_PKEY_KEM, ptr::null_mut()) })?;
    // SAFETY: the context is live and was made for KEMs.
    if unsafe { sys::EVP_PKEY_CTX_kem_set_params(context.0.as_ptr(), which.number()) } != 1 {
        return None;
    }
    // SAFETY: the context is live.
    if unsafe { sys::EVP_PKEY_keygen_init(context.0.as_ptr()) } != 1 {
        return None;
    }
    let mut seed_len = seed.len();
    let mut key = ptr::null_mut();
    // SAFETY: the context is live and initialised, `key` is null so that a new object comes back, and the seed's
    // pointer and length are of one array, which the library only reads.
    let ok = unsafe {
        sys::EVP_PKEY_keygen_deterministic(
            context.0.as_ptr(),
            &raw mut key,
            seed.as_ptr(),
            &raw mut seed_len,
        )
    };
    // Taken into ownership before the result is looked at, so that no path leaks it.
    let key = Pkey::new(key)?;
    if ok != 1 {
        return None;
    }
    let (public_len, private_len) = which.key_lens();
    let mut public = vec![0; public_len];
    let mut len = public.len();
    // SAFETY: the key is live, and `len` says how much room the buffer has.
    let ok = unsafe {
        sys::EVP_PKEY_get_raw_public_key(key.0.as_ptr(), public.as_mut_ptr(), &raw mut len)
    };
    if ok != 1 || len != public_len {
        return None;
    }
    let mut private = Zeroizing::new(vec![0; private_len]);
    let mut len = private.len();
    // SAFETY: the key is live, and `len` says how much room the buffer has.
    let ok = unsafe {
        sys::EVP_PKEY_get_raw_private_key(key.0.as_ptr(), private.as_mut_ptr(), &raw mut len)
    };
    if ok != 1 || len != private_len {
        return None;
    }
    Some((public, private))
}

/// `message` in PKCS #1 type 1 padding, raised to the private exponent of the RSAPrivateKey `key` (RFC 8017 §A.1.2).
pub(crate) fn rsa_sign_raw(key: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    // SAFETY: pointer and length are one slice's, which the library only reads; the caller owns the object, or gets null.
    let key = Rsa::new(unsafe { sys::RSA_private_key_from_bytes(key.as_ptr(), key.len()) })?;
    let mut out = rsa_buffer(&key)?;
    let mut len = 0;
    // SAFETY: the key is live; `out` and `message` are whole slices that do not overlap, and the room is the buffer's.
    let ok = unsafe {
        sys::RSA_sign_raw(
            key.0.as_ptr(),
            &raw mut len,
            out.as_mut_ptr(),
            out.len(),
            message.as_ptr(),
            message.len(),
            sys::RSA_PKCS1_PADDING,
        )
    };
    (ok == 1 && len == out.len()).then_some(out)
}

/// What a signature by the RSAPublicKey `key` holds in PKCS #1 type 1 padding (RFC 8017 §A.1.1).
pub(crate) fn rsa_recover(key: &[u8], signature: &[u8]) -> Option<Vec<u8>> {
    // SAFETY: pointer and length are one slice's, which the library only reads; the caller owns the object, or gets null.
    let key = Rsa::new(unsafe { sys::RSA_public_key_from_bytes(key.as_ptr(), key.len()) })?;
    let mut out = rsa_buffer(&key)?;
    let mut len = 0;
    // SAFETY: the key is live; `out` and `signature` are whole slices that do not overlap, and the room is the buffer's.
    let ok = unsafe {
        sys::RSA_verify_raw(
            key.0.as_ptr(),
            &raw mut len,
            out.as_mut_ptr(),
            out.len(),
            signature.as_ptr(),
            signature.len(),
            sys::RSA_PKCS1_PADDING,
        )
    };
    if ok != 1 || len > out.len() {
        return None;
    }
    out.truncate(len);
    Some(out)
}

/// Room for one number below the key's modulus.
fn rsa_buffer(key: &Rsa) -> Option<Vec<u8>> {
    // SAFETY: the key is live.
    let len = unsafe { sys::RSA_size(key.0.as_ptr()) };
    usize::try_from(len).ok().map(|len| vec![0; len])
}
