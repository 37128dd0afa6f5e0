//! ESP (RFC 4303 §2) and what shares its UDP port (RFC 3948 §2).
//!
//! ```text
//!  0-3 SPI │ 4-7 sequence number │ payload … │ padding │ pad length │ next header │ ICV
//! ```

use crate::Malformed;

/// Bytes in clear before the payload: SPI and sequence number.
pub const HEADER_LEN: usize = 8;

/// Bytes behind the padding: pad length and next header.
pub const TRAILER_LEN: usize = 2;

/// The port of UDP encapsulation (RFC 3948 §2.1).
pub const UDP_PORT: u16 = 4500;

/// The clear part of an ESP packet. What follows cannot be judged without the SA.
#[derive(Clone, Copy, Debug)]
pub struct Esp<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Esp<'a> {
    /// Checks that the clear header is there.
    ///
    /// # Errors
    ///
    /// [`Malformed::Truncated`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, payload) =
            bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        Ok(Self { header, payload })
    }

    /// Security parameters index.
    #[inline]
    pub fn spi(&self) -> u32 {
        u32::from_be_bytes([self.header[0], self.header[1], self.header[2], self.header[3]])
    }

    /// The low 32 bits of the sequence number.
    #[inline]
    pub fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.header[4], self.header[5], self.header[6], self.header[7]])
    }

    /// IV, ciphertext and ICV.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// What would be the sequence number if ESP began `at` bytes into `bytes`, 0 where they end before it: for guessing ahead, not for
/// judging.
#[inline(always)]
pub fn sequence_at(bytes: &[u8], at: usize) -> u32 {
    let rest = bytes.get(at..).and_then(|bytes| bytes.get(4..));
    let low = rest.and_then(<[u8]>::first_chunk);
    low.map_or(0, |low| u32::from_be_bytes(*low))
}

/// A clear header.
#[inline]
pub fn emit(spi: u32, sequence: u32) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = spi.to_be_bytes();
    let [e, f, g, h] = sequence.to_be_bytes();
    [a, b, c, d, e, f, g, h]
}

/// What a UDP datagram on the encapsulation port carries (RFC 3948 §2).
#[derive(Clone, Copy, Debug)]
pub enum Encapsulated<'a> {
    /// One 0xff byte that keeps a NAT mapping alive.
    KeepAlive,
    /// IKE, behind the marker of four zero bytes.
    Ike(&'a [u8]),
    /// ESP.
    Esp(Esp<'a>),
}

impl<'a> Encapsulated<'a> {
    /// Tells the three apart by the first bytes.
    ///
    /// # Errors
    ///
    /// [`Malformed::Truncated`] for a datagram that is too short to be any.
    #[inline]
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Malformed> {
        match datagram {
            [0xff] => Ok(Self::KeepAlive),
            [0, 0, 0, 0, ike @ ..] => Ok(Self::Ike(ike)),
            _ => Esp::parse(datagram).map(Self::Esp),
        }
    }
}
