//! UDP (RFC 768).

use crate::Malformed;

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;

/// A datagram: its length field lies inside the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Udp<'a> {
    /// Checks the length field against the bytes, which may be longer. The checksum is not verified.
    ///
    /// # Errors
    ///
    /// [`Malformed::Truncated`], [`Malformed::TotalLength`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header = bytes.first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let payload = bytes.get(HEADER_LEN..len).ok_or(Malformed::TotalLength)?;
        Ok(Self { header, payload })
    }

    /// Source port.
    #[inline]
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// Destination port.
    #[inline]
    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// The checksum field; 0 is none.
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// What follows the header, cut to the length field.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A header.
#[inline]
pub fn emit(source_port: u16, destination_port: u16, len: u16, checksum: u16) -> [u8; HEADER_LEN] {
    let [s1, s0] = source_port.to_be_bytes();
    let [d1, d0] = destination_port.to_be_bytes();
    let [l1, l0] = len.to_be_bytes();
    let [c1, c0] = checksum.to_be_bytes();
    [s1, s0, d1, d0, l1, l0, c1, c0]
}
