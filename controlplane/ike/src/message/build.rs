//! Putting messages together: payloads in order, their chaining and lengths filled in.

use super::MessageTooLong;
use super::header::{HEADER_LEN, Header};

/// A payload that can be written.
pub trait Emit {
    /// The payload type's number.
    fn payload_type(&self) -> u8;
    /// Appends the body, without the generic header.
    fn emit_body(&self, out: &mut Vec<u8>);

    /// The body alone: what AUTH and HASH computations cover.
    fn body(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.emit_body(&mut out);
        out
    }
}

/// A chain of payloads under construction. A payload too long for its length field is remembered and reported when the
/// message is finished.
#[derive(Default)]
pub struct PayloadList {
    first: u8,
    bytes: Vec<u8>,
    last: Option<usize>,
    too_long: bool,
}

impl PayloadList {
    /// A list without payloads.
    pub const fn new() -> Self {
        Self { first: 0, bytes: Vec::new(), last: None, too_long: false }
    }

    /// Appends a payload without the critical bit (RFC 7296 §3.2: never set for the types of that RFC).
    pub fn push(&mut self, payload: &impl Emit) -> &mut Self {
        self.push_with(payload.payload_type(), false, 0, |out| payload.emit_body(out))
    }

    /// Appends a payload of any type.
    pub fn push_raw(&mut self, number: u8, critical: bool, body: &[u8]) -> &mut Self {
        self.push_with(number, critical, 0, |out| out.extend_from_slice(body))
    }

    /// Appends the encrypted payload that ends a message; `inner` is the type of the first payload inside.
    pub fn push_encrypted(&mut self, number: u8, inner: u8, body: &[u8]) -> &mut Self {
        self.push_with(number, false, inner, |out| out.extend_from_slice(body))
    }

    /// The type of the first payload, zero for none.
    pub const fn first(&self) -> u8 {
        self.first
    }

    /// The chain's octets.
    ///
    /// # Errors
    /// [`MessageTooLong`] when a payload did not fit its length field.
    pub fn bytes(&self) -> Result<&[u8], MessageTooLong> {
        if self.too_long { Err(MessageTooLong) } else { Ok(&self.bytes) }
    }

    /// Puts the header before the chain.
    ///
    /// # Errors
    /// [`MessageTooLong`] when a payload or the whole exceeds 65,535 octets, the most a datagram holds.
    pub fn into_message(self, header: &Header) -> Result<Vec<u8>, MessageTooLong> {
        let chain = self.bytes()?;
        let length = chain.len().saturating_add(HEADER_LEN);
        let length = u16::try_from(length).map_err(|_| MessageTooLong)?;
        let mut out = Vec::with_capacity(usize::from(length));
        header.emit(self.first, u32::from(length), &mut out);
        out.extend_from_slice(chain);
        Ok(out)
    }

    fn push_with(
        &mut self,
        number: u8,
        critical: bool,
        next: u8,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> &mut Self {
        match self.last.and_then(|at| self.bytes.get_mut(at)) {
            Some(chaining) => *chaining = number,
            None => self.first = number,
        }
        let start = self.bytes.len();
        self.last = Some(start);
        self.bytes.extend_from_slice(&[next, if critical { 0x80 } else { 0 }, 0, 0]);
        body(&mut self.bytes);
        patch_length(&mut self.bytes, start, start.saturating_add(2), &mut self.too_long);
        self
    }
}

impl Drop for PayloadList {
    /// A list may hold what is to be encrypted, key exchange data of an EAP method among it.
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.bytes);
    }
}

/// Writes the length of what began at `start` into the two octets at `field`.
pub(crate) fn patch_length(out: &mut [u8], start: usize, field: usize, too_long: &mut bool) {
    let length = u16::try_from(out.len().saturating_sub(start));
    let slot = out.get_mut(field..).and_then(|tail| tail.first_chunk_mut::<2>());
    match (length, slot) {
        (Ok(length), Some(slot)) => *slot = length.to_be_bytes(),
        _ => *too_long = true,
    }
}
