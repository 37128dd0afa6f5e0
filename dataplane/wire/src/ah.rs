//! AH (RFC 4302 §2).
//!
//! ```text
//!  0 next header │ 1 payload length (32-bit words less 2) │ 2-3 reserved
//!  4-7 SPI │ 8-11 sequence number │ 12… ICV and padding
//! ```

use crate::Malformed;

/// Bytes before the ICV.
pub const FIXED_LEN: usize = 12;

/// A header whose ICV lies inside the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Ah<'a> {
    fixed: &'a [u8; FIXED_LEN],
    icv: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Ah<'a> {
    /// Checks the payload length field: not below the fixed part, not beyond the bytes.
    ///
    /// # Errors
    ///
    /// [`Malformed::Truncated`], [`Malformed::HeaderLength`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let fixed = bytes.first_chunk::<FIXED_LEN>().ok_or(Malformed::Truncated)?;
        let header_len = usize::from(fixed[1]).saturating_add(2).saturating_mul(4);
        let icv = bytes.get(FIXED_LEN..header_len).ok_or(Malformed::HeaderLength)?;
        let payload = bytes.get(header_len..).ok_or(Malformed::HeaderLength)?;
        Ok(Self { fixed, icv, payload })
    }

    /// Protocol of the payload.
    pub fn next_header(&self) -> u8 {
        self.fixed[0]
    }

    /// Bytes of the header with its ICV.
    pub fn header_len(&self) -> usize {
        self.icv.len().saturating_add(FIXED_LEN)
    }

    /// Security parameters index.
    pub fn spi(&self) -> u32 {
        u32::from_be_bytes([self.fixed[4], self.fixed[5], self.fixed[6], self.fixed[7]])
    }

    /// The low 32 bits of the sequence number.
    pub fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.fixed[8], self.fixed[9], self.fixed[10], self.fixed[11]])
    }

    /// ICV with its padding.
    pub fn icv(&self) -> &'a [u8] {
        self.icv
    }

    /// What the header protects.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// The header before its ICV; `header_len` counts all of it, in bytes.
pub fn emit(next_header: u8, header_len: usize, spi: u32, sequence: u32) -> [u8; FIXED_LEN] {
    let words = (header_len / 4).saturating_sub(2);
    let [a, b, c, d] = spi.to_be_bytes();
    let [e, f, g, h] = sequence.to_be_bytes();
    [next_header, u8::try_from(words).unwrap_or(u8::MAX), 0, 0, a, b, c, d, e, f, g, h]
}
