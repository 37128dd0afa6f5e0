//! ARP for IPv4 over Ethernet (RFC 826), as a view.

use crate::Malformed;
use crate::ethernet::Mac;
use core::net::Ipv4Addr;

/// Bytes of the packet.
pub const LEN: usize = 28;

/// What an ARP packet asks or says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// 1.
    Request,
    /// 2.
    Reply,
    /// Anything else, as it stands.
    Unknown(u16),
}

/// An ARP packet of hardware type Ethernet and protocol type IPv4.
#[derive(Clone, Copy, Debug)]
pub struct Arp<'a>(&'a [u8; LEN]);

impl<'a> Arp<'a> {
    /// Checks length and the four type and size fields.
    ///
    /// # Errors
    ///
    /// [`Malformed::Truncated`], [`Malformed::Version`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let b = bytes.first_chunk::<LEN>().ok_or(Malformed::Truncated)?;
        match b {
            [0, 1, 8, 0, 6, 4, ..] => Ok(Self(b)),
            _ => Err(Malformed::Version),
        }
    }

    /// Request or reply.
    pub fn operation(&self) -> Operation {
        match u16::from_be_bytes([self.0[6], self.0[7]]) {
            1 => Operation::Request,
            2 => Operation::Reply,
            other => Operation::Unknown(other),
        }
    }

    /// Hardware address of the sender.
    pub fn sender_mac(&self) -> Mac {
        let b = self.0;
        Mac([b[8], b[9], b[10], b[11], b[12], b[13]])
    }

    /// Protocol address of the sender.
    pub fn sender_ip(&self) -> Ipv4Addr {
        let b = self.0;
        Ipv4Addr::new(b[14], b[15], b[16], b[17])
    }

    /// Hardware address of the target; meaningless in requests.
    pub fn target_mac(&self) -> Mac {
        let b = self.0;
        Mac([b[18], b[19], b[20], b[21], b[22], b[23]])
    }

    /// Protocol address of the target.
    pub fn target_ip(&self) -> Ipv4Addr {
        let b = self.0;
        Ipv4Addr::new(b[24], b[25], b[26], b[27])
    }
}
