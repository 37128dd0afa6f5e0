//! TCP (RFC 9293): the fields a gateway reads, and the MSS option it may lower.

use crate::{Malformed, checksum};

/// Bytes of a header without options.
pub const MIN_HEADER_LEN: usize = 20;

const SYN: u8 = 0x02;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;

/// A segment whose header, options included, lies inside the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    header: &'a [u8; MIN_HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Tcp<'a> {
    /// Checks the data offset against the bytes. The checksum is not verified.
    ///
    /// # Errors
    ///
    /// [`Malformed::Truncated`], [`Malformed::HeaderLength`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header = bytes.first_chunk::<MIN_HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let header_len = usize::from(header[12] >> 4).saturating_mul(4);
        let options = bytes.get(MIN_HEADER_LEN..header_len).ok_or(Malformed::HeaderLength)?;
        let payload = bytes.get(header_len..).ok_or(Malformed::HeaderLength)?;
        Ok(Self { header, options, payload })
    }

    /// Source port.
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// Destination port.
    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// Sequence number.
    pub fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.header[4], self.header[5], self.header[6], self.header[7]])
    }

    /// The flags octet.
    pub fn flags(&self) -> u8 {
        self.header[13]
    }

    /// Whether SYN is set.
    pub fn is_syn(&self) -> bool {
        self.flags() & SYN != 0
    }

    /// Bytes behind the options.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The maximum segment size option, when there is a well-formed one.
    pub fn mss(&self) -> Option<u16> {
        let at = mss_offset(self.options, 0)?;
        let [high, low] = *self.options.get(at..)?.first_chunk::<2>()?;
        Some(u16::from_be_bytes([high, low]))
    }
}

/// Offset of the two bytes of the next MSS in an option list, which is looked at from `at` on. The walk ends with the list, as each
/// step takes at least one byte.
fn mss_offset(options: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let rest = options.get(at..)?;
        match *rest {
            [] | [OPTION_END, ..] => return None,
            [OPTION_NOP, ..] => at = at.saturating_add(1),
            [OPTION_MSS, 4, _, _, ..] => return Some(at.saturating_add(2)),
            [_, len, ..] if len >= 2 => at = at.saturating_add(usize::from(len)),
            [_, ..] => return None,
        }
    }
}

/// Lowers the MSS options of a SYN segment to at most `limit`, keeping the checksum right. There should be one; of several each is
/// lowered, as who receives them may obey any. Says whether something changed.
pub fn clamp_mss(segment: &mut [u8], limit: u16) -> bool {
    let Ok(tcp) = Tcp::parse(segment) else { return false };
    if !tcp.is_syn() {
        return false;
    }
    let end = tcp.options.len().saturating_add(MIN_HEADER_LEN);
    let (mut from, mut changed) = (0, false);
    while let Some(at) =
        segment.get(MIN_HEADER_LEN..end).and_then(|options| mss_offset(options, from))
    {
        changed |= lower_mss(segment, at.saturating_add(MIN_HEADER_LEN), limit);
        from = at.saturating_add(2);
    }
    changed
}

/// Lowers the one whose two bytes are at `at`.
fn lower_mss(segment: &mut [u8], at: usize, limit: u16) -> bool {
    let Some(place) = segment.get_mut(at..).and_then(|s| s.first_chunk_mut::<2>()) else {
        return false;
    };
    let old = u16::from_be_bytes(*place);
    if old <= limit {
        return false;
    }
    *place = limit.to_be_bytes();
    // An option may begin at an odd offset: its value then lies across two checksum words.
    let (old, new) =
        if at.is_multiple_of(2) { (old, limit) } else { (old.swap_bytes(), limit.swap_bytes()) };
    if let Some(place) = segment.get_mut(16..).and_then(|s| s.first_chunk_mut::<2>()) {
        *place = checksum::update(u16::from_be_bytes(*place), old, new).to_be_bytes();
    }
    true
}
