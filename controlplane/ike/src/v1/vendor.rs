//! Vendor IDs, and NAT detection, which they announce (RFC 3947 §3, RFC 3706 §5.1).

use super::session::Cookies;
use crate::config::Connection;
use crate::crypto::v1::V1Hash;
use crate::event::Path;
use crate::message::PayloadList;
use crate::message::v1::{Payload, PayloadType, Payloads, VendorId};
use crate::v2::sa::Nat;
use core::net::{IpAddr, SocketAddr};

/// RFC 3706 §5.1, version 1.0.
const DPD: [u8; 16] = *b"\xaf\xca\xd7\x13\x68\xa1\xf1\xc9\x6b\x86\x96\xfc\x77\x57\x01\x00";

/// Octets of the DPD ID without its version.
const DPD_NAME: usize = 14;

/// MD5 of "FRAGMENTATION". Windows sends it alone; Cisco and strongSwan put capabilities behind it.
const FRAGMENTATION: [u8; 16] =
    *b"\x40\x48\xb7\xd5\x6e\xbc\xe8\x85\x25\xe7\xde\x7f\x00\xd6\xc2\xd3";

/// The capability to put fragments together in phase 1 and behind it.
const BASE_MODE: u32 = 0x8000_0000;

/// MD5 of "RFC 3947".
const RFC_3947: [u8; 16] = *b"\x4a\x13\x1c\x81\x07\x03\x58\x45\x5c\x57\x28\xf2\x0e\x95\x45\x2f";

/// MD5 of "draft-ietf-ipsec-nat-t-ike-03".
const DRAFT_03: [u8; 16] = *b"\x7d\x94\x19\xa6\x53\x10\xca\x6f\x2c\x17\x9d\x92\x15\x52\x9d\x56";

/// MD5 of "draft-ietf-ipsec-nat-t-ike-02".
const DRAFT_02: [u8; 16] = *b"\xcd\x60\x46\x43\x35\xdf\x21\xf8\x7c\xfd\xb2\xfc\x68\xb6\xa4\x48";

/// The same with a line feed behind it, as the draft's own examples had it.
const DRAFT_02_N: [u8; 16] = *b"\x90\xcb\x80\x91\x3e\xbb\x69\x6e\x08\x63\x81\xb5\xec\x42\x7b\x1f";

/// MD5 of "A GSS-API Authentication Method for IKE" (draft-ietf-ipsec-isakmp-gss-auth-07 §3.4).
const GSS_API: [u8; 16] = *b"\xb4\x6d\x89\x14\xf3\xaa\xa3\xf2\xfe\xde\xb7\xc7\xdb\x29\x43\xca";

/// MD5 of "GSSAPI", which Windows waits for.
const GSS_API_WINDOWS: [u8; 16] =
    *b"\x62\x1b\x04\xbb\x09\x88\x2a\xc1\xe1\x59\x35\xfe\xfa\x24\xae\xee";

/// NAT-D payloads that are looked at: one for our address and as many for the peer's as a multihomed host has.
const MAX_HASHES: usize = 16;

/// Which NAT traversal the two sides speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NatT {
    /// RFC 3947: payloads 20 and 21, encapsulation modes 3 and 4.
    Rfc,
    /// The drafts 02 and 03: payloads 130 and 131, modes 61443 and 61444.
    Draft([u8; 16]),
}

impl NatT {
    const fn detection(self) -> PayloadType {
        match self {
            Self::Rfc => PayloadType::NatDetection,
            Self::Draft(_) => PayloadType::NatDetectionDraft,
        }
    }

    pub(crate) const fn original_address(self) -> PayloadType {
        match self {
            Self::Rfc => PayloadType::NatOriginalAddress,
            Self::Draft(_) => PayloadType::NatOriginalAddressDraft,
        }
    }

    const fn id(self) -> [u8; 16] {
        match self {
            Self::Rfc => RFC_3947,
            Self::Draft(id) => id,
        }
    }
}

/// What the peer says it can do, as far as we can too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Abilities {
    pub(crate) dpd: bool,
    pub(crate) nat_t: Option<NatT>,
    /// Whether the peer takes messages in pieces.
    pub(crate) fragments: bool,
}

impl Abilities {
    /// From the vendor IDs of a first message or its answer.
    pub(crate) fn read(payloads: &Payloads<'_>) -> Self {
        let mut abilities = Self::default();
        let ids = || {
            payloads.iter().filter_map(|payload| match payload {
                Payload::VendorId(id) => Some(id.data),
                _ => None,
            })
        };
        abilities.dpd = ids().any(|id| id.get(..DPD_NAME) == DPD.get(..DPD_NAME));
        let known =
            [NatT::Rfc, NatT::Draft(DRAFT_03), NatT::Draft(DRAFT_02_N), NatT::Draft(DRAFT_02)];
        abilities.fragments = ids().any(takes_fragments);
        abilities.nat_t = known.into_iter().find(|kind| ids().any(|id| id == kind.id()));
        abilities
    }

    /// What a responder answers with: what the initiator named too, so that the answer is never longer than the
    /// question.
    pub(crate) fn push(self, list: &mut PayloadList) {
        if let Some(nat_t) = self.nat_t {
            list.push(&VendorId { data: &nat_t.id() });
        }
        if self.dpd {
            list.push(&VendorId { data: &DPD });
        }
        if self.fragments {
            list.push(&VendorId { data: &FRAGMENTATION });
        }
    }
}

/// What an initiator names.
pub(crate) fn push_all(list: &mut PayloadList, connection: &Connection) {
    for id in [&RFC_3947, &DRAFT_03, &DRAFT_02_N, &DRAFT_02, &DPD] {
        list.push(&VendorId { data: id });
    }
    if connection.fragmentation.accepts() {
        list.push(&VendorId { data: &FRAGMENTATION });
    }
}

fn takes_fragments(id: &[u8]) -> bool {
    match id.split_at_checked(FRAGMENTATION.len()) {
        Some((name, [])) => name == FRAGMENTATION,
        Some((name, capabilities)) => {
            let known = <[u8; 4]>::try_from(capabilities).map(u32::from_be_bytes);
            name == FRAGMENTATION && known.is_ok_and(|known| known & BASE_MODE != 0)
        }
        None => false,
    }
}

/// What either side names where it offers or takes GSS-API.
pub(crate) fn push_gss(list: &mut PayloadList) {
    for id in [&GSS_API, &GSS_API_WINDOWS] {
        list.push(&VendorId { data: id });
    }
}

/// HASH(CKY-I | CKY-R | IP | port) with the negotiated hash (RFC 3947 §3.2).
fn nat_hash(hash: V1Hash, cookies: Cookies, address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => hash.digest(&[&cookies.i.0, &cookies.r.0, &ip.octets(), &port]),
        IpAddr::V6(ip) => hash.digest(&[&cookies.i.0, &cookies.r.0, &ip.octets(), &port]),
    }
}

/// Our NAT-D payloads: the peer's address first, then ours. `faked` makes the peer see a NAT (`encap = yes`).
pub(crate) fn push_detection(
    list: &mut PayloadList,
    nat_t: NatT,
    hash: V1Hash,
    cookies: Cookies,
    path: Path,
    faked: bool,
) {
    let number = nat_t.detection().number();
    list.push_raw(number, false, &nat_hash(hash, cookies, path.remote));
    let mut own = nat_hash(hash, cookies, path.local);
    if faked {
        own.fill(0);
    }
    list.push_raw(number, false, &own);
}

/// What the peer's NAT-D payloads say (RFC 3947 §3.2): the first is about our address, the others about the peer's.
pub(crate) fn detect(
    payloads: &Payloads<'_>,
    hash: V1Hash,
    cookies: Cookies,
    path: Path,
    faked: bool,
) -> Nat {
    let mut hashes = payloads.iter().filter_map(|payload| match payload {
        Payload::NatDetection(detection) => Some(detection.hash),
        _ => None,
    });
    let Some(ours) = hashes.next() else { return Nat::default() };
    let mut theirs = hashes.take(MAX_HASHES).peekable();
    if theirs.peek().is_none() {
        return Nat::default();
    }
    let local = ours != nat_hash(hash, cookies, path.local);
    let expected = nat_hash(hash, cookies, path.remote);
    let remote = !theirs.any(|hash| hash == expected);
    Nat { supported: true, local, remote, faked }
}
