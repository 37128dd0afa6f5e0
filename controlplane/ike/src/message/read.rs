//! A cursor over received bytes whose every step is checked.
//!
//! Guarantee: no method panics, and none reads outside the slice it was made of.

use super::InvalidMessage;

/// A forward cursor; a failed step leaves it where it was.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], InvalidMessage> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(InvalidMessage::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], InvalidMessage> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(InvalidMessage::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, InvalidMessage> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, InvalidMessage> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, InvalidMessage> {
        self.array().map(u32::from_be_bytes)
    }

    /// All that is left, leaving nothing.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The body of a substructure that began `header` octets ago and says it is `length` long.
    pub(crate) fn body(&mut self, length: u16, header: usize) -> Result<&'a [u8], InvalidMessage> {
        let len = usize::from(length).checked_sub(header).ok_or(InvalidMessage::BadLength)?;
        self.take(len)
    }
}
