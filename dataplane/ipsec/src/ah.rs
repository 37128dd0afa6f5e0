//! AH (RFC 4302): integrity over the whole packet, its IP header included as far as routers leave it.
//!
//! ```text
//!  IP header, extension headers │ next, length, SPI, sequence │ ICV │ payload
//!  ◄── fields that change: 0 ──►│                             │  0  │          │ high half of ESN
//! ```
//!
//! With GMAC the first eight bytes of the ICV field are an IV (RFC 4543 §4).

use crate::algorithm::Integrity;
use crate::esp::gmac::{self, Gmac};
use crate::esp::serial::Place;
use crate::esp::suite::{Salt, nonce};
use crate::esp::transform::{Failed, Mac};
use crate::sa::{SaError, Transform};
use wire::{ah, ipv4, ipv6, protocol};

/// The longest IP header, with options or extension headers, that is covered: 60 bytes of IPv4, and of IPv6
/// what a chain of short extension headers needs. A packet with a longer one is refused.
const MAX_HEADER_LEN: usize = 512;

/// The longest ICV, of HMAC-SHA-512-256, with the padding of IPv6.
const MAX_ICV_LEN: usize = 40;

/// Bytes of the explicit IV of GMAC.
const GMAC_IV_LEN: usize = 8;

/// The integrity transform of an SA.
pub(crate) struct Ah {
    transform: Keyed,
    /// Bytes of the ICV field without padding, and of the IV at its front.
    field_len: usize,
    iv_len: usize,
}

#[expect(clippy::large_enum_variant, reason = "each SA has one, behind a pointer")]
enum Keyed {
    Mac(Mac),
    Gmac { key: Gmac, salt: Salt<4> },
}

impl Ah {
    pub(crate) fn new(transform: &Transform) -> Result<Self, SaError> {
        let (integrity, key) =
            transform.integrity.as_ref().ok_or(SaError::MissingIntegrity(transform.cipher))?;
        let wrong_length = SaError::IntegrityKeyLength { integrity: *integrity, got: key.len() };
        if !integrity.takes_key(key.len()) {
            return Err(wrong_length);
        }
        let icv_len = integrity.icv_len();
        if *integrity == Integrity::AesGmac {
            let (key, salt) = key.expose().split_last_chunk::<4>().ok_or(wrong_length)?;
            let key = Gmac::new(key).ok_or(wrong_length)?;
            let transform = Keyed::Gmac { key, salt: Salt::new(salt).ok_or(wrong_length)? };
            return Ok(Self { transform, field_len: GMAC_IV_LEN + icv_len, iv_len: GMAC_IV_LEN });
        }
        let mac = Mac::new(*integrity, key.expose());
        let mac = mac.ok_or(SaError::UnsupportedIntegrity(*integrity))?;
        Ok(Self { transform: Keyed::Mac(mac), field_len: icv_len, iv_len: 0 })
    }

    /// Bytes of the header: a multiple of 4 over IPv4 and of 8 over IPv6 (RFC 4302 §2.2, §2.6).
    pub(crate) fn header_len(&self, v6: bool) -> usize {
        let len = ah::FIXED_LEN + self.field_len;
        if v6 { len.next_multiple_of(8) } else { len }
    }

    /// Bytes of the IV at the front of the ICV field.
    pub(crate) fn iv_len(&self) -> usize {
        self.iv_len
    }

    /// Writes the ICV of a packet whose other fields, the IV among them, are final.
    pub(crate) fn seal(&self, packet: &mut [u8], at: Place) -> Result<(), Failed> {
        let covered = Covered::of(packet, at)?;
        let pieces = covered.pieces(self.field_len)?;
        let tag = match &self.transform {
            Keyed::Mac(mac) => mac.tag(&pieces).0,
            Keyed::Gmac { key, salt } => {
                let mut tag = [0; crate::esp::transform::MAX_TAG_LEN];
                let nonce = self.nonce(salt, packet, at)?;
                tag[..gmac::TAG_LEN].copy_from_slice(&key.tag(nonce, &pieces));
                tag
            }
        };
        let icv_len = self.field_len - self.iv_len;
        let icv = packet.get_mut(at.esp + ah::FIXED_LEN + self.iv_len..);
        let icv = icv.and_then(|rest| rest.get_mut(..icv_len)).ok_or(Failed)?;
        icv.copy_from_slice(tag.get(..icv_len).ok_or(Failed)?);
        Ok(())
    }

    /// Verifies a packet.
    pub(crate) fn open(&self, packet: &[u8], at: Place) -> Result<(), Failed> {
        let covered = Covered::of(packet, at)?;
        let pieces = covered.pieces(self.field_len)?;
        let field =
            packet.get(at.esp + ah::FIXED_LEN..).and_then(|rest| rest.get(..self.field_len));
        let icv = field.and_then(|field| field.get(self.iv_len..)).ok_or(Failed)?;
        match &self.transform {
            Keyed::Mac(mac) => mac.verify(&pieces, icv),
            Keyed::Gmac { key, salt } => key.verify(self.nonce(salt, packet, at)?, &pieces, icv),
        }
    }

    fn nonce(
        &self,
        salt: &Salt<4>,
        packet: &[u8],
        at: Place,
    ) -> Result<[u8; gmac::NONCE_LEN], Failed> {
        let iv = packet.get(at.esp + ah::FIXED_LEN..).and_then(|rest| rest.first_chunk());
        Ok(nonce(salt.bytes(), *iv.ok_or(Failed)?))
    }
}

/// What the ICV is computed over (RFC 4302 §3.3.3).
struct Covered<'a> {
    header: [u8; MAX_HEADER_LEN],
    header_len: usize,
    /// The header from its first byte to its end, the ICV as it stands.
    ah: &'a [u8],
    payload: &'a [u8],
    high: [u8; 4],
    high_len: usize,
}

impl<'a> Covered<'a> {
    fn of(packet: &'a [u8], at: Place) -> Result<Self, Failed> {
        let mut header = [0; MAX_HEADER_LEN];
        let ip = packet.get(..at.esp).ok_or(Failed)?;
        header.get_mut(..at.esp).ok_or(Failed)?.copy_from_slice(ip);
        zero_mutable(&mut header[..at.esp]).ok_or(Failed)?;
        let payload = packet.get(at.text..).and_then(|rest| rest.get(..at.text_len));
        Ok(Self {
            header,
            header_len: at.esp,
            ah: packet.get(at.esp..at.text).ok_or(Failed)?,
            payload: payload.ok_or(Failed)?,
            high: at.high_half(),
            high_len: if at.esn { 4 } else { 0 },
        })
    }

    /// In order. The ICV field counts as zeros, an IV in it too; padding behind it is covered as it stands (RFC 4302
    /// §3.3.3.2.1).
    fn pieces(&self, icv_len: usize) -> Result<[&[u8]; 6], Failed> {
        const ZEROS: [u8; MAX_ICV_LEN] = [0; MAX_ICV_LEN];
        let (fixed, icv) = self.ah.split_at_checked(ah::FIXED_LEN).ok_or(Failed)?;
        Ok([
            &self.header[..self.header_len],
            fixed,
            ZEROS.get(..icv_len).ok_or(Failed)?,
            icv.get(icv_len..).ok_or(Failed)?,
            self.payload,
            &self.high[..self.high_len],
        ])
    }
}

/// Zeroes what routers change in the headers before AH (RFC 4302 §3.3.3.1).
fn zero_mutable(header: &mut [u8]) -> Option<()> {
    match header.first()? >> 4 {
        4 => {
            let (fixed, options) = header.split_first_chunk_mut::<{ ipv4::MIN_HEADER_LEN }>()?;
            fixed[1] = 0;
            fixed[6..9].fill(0);
            fixed[10..12].fill(0);
            zero_mutable_ipv4_options(options)
        }
        6 => {
            let (fixed, extensions) = header.split_first_chunk_mut::<{ ipv6::HEADER_LEN }>()?;
            fixed[0] &= 0xf0;
            fixed[1..4].fill(0);
            let next = fixed[6];
            fixed[7] = 0;
            zero_mutable_extensions(next, extensions)
        }
        _ => None,
    }
}

/// RFC 4302 Appendix A1: these options do not change on the way, all others count as zeros.
fn zero_mutable_ipv4_options(mut options: &mut [u8]) -> Option<()> {
    const SECURITY: u8 = 130;
    const EXTENDED_SECURITY: u8 = 133;
    const COMMERCIAL_SECURITY: u8 = 134;
    const ROUTER_ALERT: u8 = 148;
    const MULTI_DESTINATION: u8 = 149;
    loop {
        let len = match *options {
            [] => return Some(()),
            // End of list: what follows is padding.
            [0, ..] => return Some(()),
            [1, ..] => 1,
            [_, len, ..] if len >= 2 => usize::from(len),
            _ => return None,
        };
        let (option, rest) = core::mem::take(&mut options).split_at_mut_checked(len)?;
        let immutable = matches!(
            option.first(),
            Some(
                &1 | &SECURITY
                    | &EXTENDED_SECURITY
                    | &COMMERCIAL_SECURITY
                    | &ROUTER_ALERT
                    | &MULTI_DESTINATION
            )
        );
        if !immutable {
            option.fill(0);
        }
        options = rest;
    }
}

/// RFC 4302 §3.3.3.1.2: options say by a bit of their type whether they change; a routing header is covered
/// as it arrives. Each step takes eight bytes at least.
fn zero_mutable_extensions(mut next: u8, mut extensions: &mut [u8]) -> Option<()> {
    while !extensions.is_empty() {
        let [following, units, ..] = *extensions else { return None };
        let len = (usize::from(units) + 1) * 8;
        let (extension, rest) = core::mem::take(&mut extensions).split_at_mut_checked(len)?;
        if matches!(next, protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS) {
            zero_mutable_ipv6_options(extension.get_mut(2..)?)?;
        }
        next = following;
        extensions = rest;
    }
    Some(())
}

fn zero_mutable_ipv6_options(mut options: &mut [u8]) -> Option<()> {
    const PAD1: u8 = 0;
    const MAY_CHANGE: u8 = 0x20;
    loop {
        let len = match *options {
            [] => return Some(()),
            [PAD1, ..] => 1,
            [_, len, ..] => usize::from(len) + 2,
            _ => return None,
        };
        let (option, rest) = core::mem::take(&mut options).split_at_mut_checked(len)?;
        if let [kind, _, data @ ..] = option
            && *kind & MAY_CHANGE != 0
        {
            data.fill(0);
        }
        options = rest;
    }
}
