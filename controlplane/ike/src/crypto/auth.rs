//! What the AUTH payload covers, and its value with a shared key (RFC 7296 §2.15, RFC 9242 §3.3.2).

use zeroize::Zeroizing;

use super::{CryptoFailure, Prf, SkP, equal};

const KEY_PAD: &[u8] = b"Key Pad for IKEv2";

/// The octets that one side signs: its first message, the other's nonce, and its MACed identity.
pub struct SignedOctets(Zeroizing<Vec<u8>>);

impl SkP {
    /// `message` is the signer's IKE_SA_INIT from the first SPI to its end, `nonce` the other side's, `id` the body of the
    /// signer's ID payload as it was sent; `intermediate` is what RFC 9242 §3.3.2 appends as IntAuth, empty without it.
    ///
    /// # Errors
    /// [`CryptoFailure`].
    pub fn signed_octets(
        &self,
        message: &[u8],
        nonce: &[u8],
        id: &[u8],
        intermediate: &[u8],
    ) -> Result<SignedOctets, CryptoFailure> {
        let id = self.prf.compute(&self.key, &[id])?;
        let octets = [message, nonce, &id, intermediate].concat();
        Ok(SignedOctets(Zeroizing::new(octets)))
    }
}

impl SignedOctets {
    /// HASH_I or HASH_R of IKEv1, which is what its signatures cover (RFC 2409 §5.1).
    pub const fn from_hash(hash: Zeroizing<Vec<u8>>) -> Self {
        Self(hash)
    }

    /// The octets, for a signature.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// prf(Shared Secret, "Key Pad for IKEv2"): what a shared key is used through.
pub struct SharedKeyAuth {
    prf: Prf,
    key: Zeroizing<Vec<u8>>,
}

impl SharedKeyAuth {
    /// # Errors
    /// [`CryptoFailure`].
    pub fn new(prf: Prf, shared_key: &[u8]) -> Result<Self, CryptoFailure> {
        Ok(Self { prf, key: prf.compute(shared_key, &[KEY_PAD])? })
    }

    /// The AUTH payload's data.
    ///
    /// # Errors
    /// [`CryptoFailure`].
    pub fn compute(&self, octets: &SignedOctets) -> Result<Vec<u8>, CryptoFailure> {
        Ok(self.prf.compute(&self.key, &[octets.as_bytes()])?.to_vec())
    }

    /// Whether `data` is what the peer's AUTH payload must hold.
    ///
    /// # Errors
    /// [`CryptoFailure`].
    pub fn verify(&self, octets: &SignedOctets, data: &[u8]) -> Result<bool, CryptoFailure> {
        Ok(equal(&self.prf.compute(&self.key, &[octets.as_bytes()])?, data))
    }
}
