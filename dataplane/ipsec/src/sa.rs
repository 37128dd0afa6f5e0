//! What defines a security association, as the control plane states it (RFC 4301 §4.4.2.1).
//!
//! These are parameters: the runtime forms that a worker uses are made from them once, when the SA
//! is installed, by the inbound and outbound modules.

use crate::algorithm::{Cipher, Integrity, KeyMaterial};
use crate::selector::Selector;
use core::net::IpAddr;

/// A security parameters index outside the reserved range (RFC 4303 §2.1: 1 to 255 are IANA's).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spi(u32);

impl Spi {
    /// `None` for 0 and the reserved values 1 to 255.
    pub const fn new(value: u32) -> Option<Self> {
        if value < 256 { None } else { Some(Self(value)) }
    }

    /// Any number, reserved ones too: published packets carry such SPIs. No SPI that is negotiated is
    /// made by this.
    pub const fn for_known_answer(value: u32) -> Self {
        Self(value)
    }

    /// The number in host order.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// The IPsec protocol of an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RFC 4302, IP protocol 51.
    Ah,
    /// RFC 4303, IP protocol 50.
    Esp,
}

/// Transport or tunnel mode (RFC 4301 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The payload of the packet itself is protected.
    Transport,
    /// A whole IP packet is protected behind an outer header.
    Tunnel,
}

/// UDP encapsulation (RFC 3948): the ports as this gateway uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UdpEncap {
    /// Port on our side, usually 4500.
    pub local_port: u16,
    /// The peer's port as seen here.
    pub remote_port: u16,
}

/// How many bytes (of inner IP packets) and packets an SA may carry; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the plaintext IP packets.
    pub bytes: Option<u64>,
    /// Packets.
    pub packets: Option<u64>,
}

/// Soft limits ask for a rekey, hard limits refuse (RFC 4301 §4.4.2.1). Time is the control
/// plane's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// A rekey is asked for once when reached.
    pub soft: Limits,
    /// Packets are refused when reached.
    pub hard: Limits,
}

/// What a tunnel does with the DF bit of the outer IPv4 header (RFC 4301 §8.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DfRule {
    /// Copied from the inner header; IPv6 counts as set.
    #[default]
    Copy,
    /// Always set.
    Set,
    /// Always clear.
    Clear,
}

/// What a tunnel does with a DSCP at one end (swanctl's `copy_dscp`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DscpRule {
    /// Inner to outer on encapsulation only.
    #[default]
    Out,
    /// Outer to inner on decapsulation only.
    In,
    /// Both.
    Both,
    /// Neither.
    None,
}

/// To what length a tunnel pads the packets inside, so that their lengths tell less (RFC 4303 §2.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TfcRule {
    /// Not.
    #[default]
    None,
    /// To this many bytes, or to what the path takes where that is less.
    To(u16),
    /// To what the path takes.
    PathMtu,
}

/// How tunnel headers are made and stripped (RFC 4301 §5.1.2, RFC 6040).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderRules {
    /// DF of the outer header.
    pub df: DfRule,
    /// DSCP copying.
    pub dscp: DscpRule,
    /// RFC 6040 normal mode when true; otherwise the outer field is not-ECT.
    pub ecn: bool,
    /// Padding behind the packet inside; ESP tunnels only, and only where the peer takes it.
    pub tfc: TfcRule,
    /// Whether TCP connections are told the segment size that the tunnel has room for.
    pub clamp_mss: bool,
}

impl Default for HeaderRules {
    fn default() -> Self {
        Self {
            df: DfRule::Copy,
            dscp: DscpRule::Out,
            ecn: true,
            tfc: TfcRule::None,
            clamp_mss: false,
        }
    }
}

/// The pair of SAs that a Child SA or quick mode negotiation made; unique while the daemon lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PairId(pub u64);

/// The keyed transforms of one SA.
#[derive(Debug)]
pub struct Transform {
    /// Encryption or combined mode; [`Cipher::Null`] for AH.
    pub cipher: Cipher,
    /// Key of the cipher, the salt behind it where the cipher has one.
    pub cipher_key: KeyMaterial,
    /// Separate integrity, `None` with combined modes.
    pub integrity: Option<(Integrity, KeyMaterial)>,
}

/// One security association as the control plane installs it.
#[derive(Debug)]
pub struct SaParameters {
    /// The pair it belongs to.
    pub pair: PairId,
    /// Inbound: ours, from the SPI allocator. Outbound: the peer's.
    pub spi: Spi,
    /// ESP or AH.
    pub protocol: Protocol,
    /// Tunnel or transport.
    pub mode: Mode,
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's outer address.
    pub remote: IpAddr,
    /// UDP encapsulation, when a NAT was detected or it is forced.
    pub encap: Option<UdpEncap>,
    /// Keys and algorithms.
    pub transform: Transform,
    /// 64-bit sequence numbers (RFC 4304).
    pub esn: bool,
    /// Replay window in packets, 0 (off) or 32 to 65536; inbound only.
    pub replay_window: u32,
    /// Traffic the SA may carry, seen from this gateway: `local` is our side's inner address.
    /// Inbound packets are checked against it after decryption (RFC 4301 §5.2 step 4).
    pub selectors: Vec<Selector>,
    /// Whether later fragments, which show no ports, may take the SA although it is for some ports: agreed with the peer
    /// (RFC 4301 §7.3, NON_FIRST_FRAGMENTS_ALSO of RFC 7296 §1.3.1).
    pub later_fragments: bool,
    /// Byte and packet lifetimes.
    pub lifetime: Lifetime,
    /// Tunnel header rules.
    pub headers: HeaderRules,
}

/// Why an SA cannot be installed. Everything is found before it reaches a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaError {
    /// The cipher's key with its salt has another length.
    #[error("{cipher:?} does not take {got} bytes of key and salt")]
    CipherKeyLength {
        /// The transform.
        cipher: Cipher,
        /// Bytes given.
        got: usize,
    },
    /// The integrity key has another length.
    #[error("{integrity:?} does not take a key of {got} bytes")]
    IntegrityKeyLength {
        /// The transform.
        integrity: Integrity,
        /// Bytes given.
        got: usize,
    },
    /// The ICV length that the cipher names is none of 8, 12 and 16 (RFC 4106 §6, RFC 4309 §6).
    #[error("{0:?} has an ICV of none of 8, 12 and 16 bytes")]
    IcvLength(Cipher),
    /// A cipher that protects no integrity stands alone (RFC 8221 §4).
    #[error("{0:?} needs an integrity transform beside it")]
    MissingIntegrity(Cipher),
    /// A combined mode has a separate integrity transform beside it.
    #[error("{0:?} is a combined mode and takes no integrity transform")]
    UnwantedIntegrity(Cipher),
    /// AH with a cipher.
    #[error("AH does not encrypt")]
    CipherWithAh,
    /// AH in UDP (RFC 3948 §1 knows only ESP).
    #[error("AH cannot be encapsulated in UDP")]
    EncapWithAh,
    /// The outer addresses are of two families.
    #[error("the tunnel addresses are of two families")]
    AddressFamilies,
    /// The key makes the cipher weaker than its name says (RFC 2451 §2.3: 3DES whose keys are not three).
    #[error("the key makes {0:?} no stronger than single DES")]
    WeakKey(Cipher),
    /// There is no traffic that the SA may carry.
    #[error("the SA has no selectors")]
    NoSelectors,
    /// The replay window is too small or over the limit.
    #[error(transparent)]
    Window(#[from] crate::replay::WindowSize),
    /// This transform is not implemented.
    #[error("{0:?} is not implemented")]
    UnsupportedCipher(Cipher),
    /// This transform is not implemented.
    #[error("{0:?} is not implemented")]
    UnsupportedIntegrity(Integrity),
}
