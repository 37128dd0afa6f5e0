//! Hashes over addresses: NAT detection (RFC 7296 §2.23) and cookies (RFC 7296 §2.6).

use core::net::{IpAddr, SocketAddr};

use aws_lc_rs::{digest, hmac};
use zeroize::Zeroizing;

use crate::message::IkeSpi;

use super::equal;

/// SHA-1 of SPIs, address and port: the data of NAT_DETECTION_SOURCE_IP and NAT_DETECTION_DESTINATION_IP. In the first
/// message the responder's SPI is zero.
pub fn nat_detection_hash(spi_i: IkeSpi, spi_r: IkeSpi, address: SocketAddr) -> [u8; 20] {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(&spi_i.0);
    context.update(&spi_r.0);
    update_ip(address.ip(), |octets| context.update(octets));
    context.update(&address.port().to_be_bytes());
    let mut out = [0; 20];
    for (to, from) in out.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    out
}

fn update_ip(address: IpAddr, mut update: impl FnMut(&[u8])) {
    match address {
        IpAddr::V4(address) => update(&address.octets()),
        IpAddr::V6(address) => update(&address.octets()),
    }
}

/// A secret for stateless cookies: VersionIDofSecret | HMAC(secret, Ni | IPi | port | SPIi).
///
/// The port is in it beside what RFC 7296 §2.6 suggests, so that a cookie is good for one initiator behind a NAT.
pub struct CookieSecret {
    version: u8,
    key: Zeroizing<[u8; 32]>,
}

impl CookieSecret {
    /// Octets of a cookie; RFC 7296 §2.6 allows 1 to 64.
    pub const COOKIE_LEN: usize = 33;

    /// `version` tells this secret from the one before it, whose cookies may still be on their way.
    pub const fn new(version: u8, key: Zeroizing<[u8; 32]>) -> Self {
        Self { version, key }
    }

    /// The cookie for an initiator.
    pub fn cookie(&self, ni: &[u8], from: SocketAddr, spi_i: IkeSpi) -> [u8; Self::COOKIE_LEN] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.key);
        let mut context = hmac::Context::with_key(&key);
        context.update(ni);
        update_ip(from.ip(), |octets| context.update(octets));
        context.update(&from.port().to_be_bytes());
        context.update(&spi_i.0);
        let mut out = [self.version; Self::COOKIE_LEN];
        for (to, from) in out.iter_mut().skip(1).zip(context.sign().as_ref()) {
            *to = *from;
        }
        out
    }

    /// Whether a returned cookie is this initiator's; one of another length or version is not.
    pub fn verify(&self, cookie: &[u8], ni: &[u8], from: SocketAddr, spi_i: IkeSpi) -> bool {
        cookie.first() == Some(&self.version) && equal(&self.cookie(ni, from, spi_i), cookie)
    }
}
