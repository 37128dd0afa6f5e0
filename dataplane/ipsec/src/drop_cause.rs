//! Why a packet went no further: one variant per cause, which is its drop counter too.

use crate::replay::Replayed;

/// The quick mode statistic that a refused protected packet moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuickModeRow {
    /// `bad_spi_packets`: the SPI matches no inbound SA.
    BadSpi,
    /// `packets_not_decrypted`: decryption or a validation other than the integrity check failed.
    NotDecrypted,
    /// `packets_not_authenticated`: the ICV or tag does not verify.
    NotAuthenticated,
    /// `packets_with_replay_detection`: duplicate, or left of the window.
    Replay,
}

impl QuickModeRow {
    /// The machine name, without its table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadSpi => "bad_spi_packets",
            Self::NotDecrypted => "packets_not_decrypted",
            Self::NotAuthenticated => "packets_not_authenticated",
            Self::Replay => "packets_with_replay_detection",
        }
    }
}

/// Declares the causes once: variant, machine name, quick mode row, and the sentence that is both the
/// variant's documentation and [`DropCause::describe`].
macro_rules! causes {
    ($($variant:ident, $name:literal, $row:expr, $text:literal;)*) => {
        /// Why IPsec processing dropped a packet. Every drop has exactly one cause.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropCause {
            $(#[doc = $text] $variant,)*
        }

        impl DropCause {
            /// Every cause, in the order of the discriminants: `ALL[cause as usize] == cause`.
            pub const ALL: [Self; [$(Self::$variant),*].len()] = [$(Self::$variant),*];

            /// The machine name of the counter.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for people.
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The quick mode statistic that the drop moves, or none.
            pub const fn row(self) -> Option<QuickModeRow> {
                match self { $(Self::$variant => $row,)* }
            }
        }
    };
}

const BAD_SPI: Option<QuickModeRow> = Some(QuickModeRow::BadSpi);
const NOT_DECRYPTED: Option<QuickModeRow> = Some(QuickModeRow::NotDecrypted);
const NOT_AUTHENTICATED: Option<QuickModeRow> = Some(QuickModeRow::NotAuthenticated);
const REPLAY: Option<QuickModeRow> = Some(QuickModeRow::Replay);

causes! {
    MalformedHeader, "malformed_header", None,
        "The IP, UDP or extension headers do not fit into the packet, or the IPv4 header's checksum is wrong (RFC 1812 §5.2.2).";
    UnknownSpi, "unknown_spi", BAD_SPI,
        "The SPI matches no inbound SA (RFC 4301 §5.2).";
    ProtocolMismatch, "protocol_mismatch", BAD_SPI,
        "The SPI is that of an SA of the other protocol, ESP or AH.";
    TooShort, "too_short", NOT_DECRYPTED,
        "The packet is shorter than the header, IV, trailer and ICV of its SA.";
    BadLength, "bad_length", NOT_DECRYPTED,
        "The ciphertext is no multiple of the block, or the AH length is not that of its SA.";
    ReplayedDuplicate, "replayed_duplicate", REPLAY,
        "The sequence number was seen before (RFC 4303 §3.4.3).";
    ReplayedTooOld, "replayed_too_old", REPLAY,
        "The sequence number lies left of the replay window (RFC 4303 §3.4.3).";
    NotAuthentic, "not_authentic", NOT_AUTHENTICATED,
        "The ICV does not verify (RFC 4303 §3.4.4).";
    BadPadding, "bad_padding", NOT_DECRYPTED,
        "The padding is longer than the payload or not 1, 2, 3, … (RFC 4303 §2.4).";
    BadNextHeader, "bad_next_header", NOT_DECRYPTED,
        "The next header is not one that the mode of the SA carries.";
    InnerMalformed, "inner_malformed", NOT_DECRYPTED,
        "The protected packet's own header is wrong, or claims more bytes than there are.";
    SelectorMismatch, "selector_mismatch", NOT_DECRYPTED,
        "The protected packet is not traffic that its SA may carry (RFC 4301 §5.2 step 4).";
    FragmentAlone, "fragment_alone", None,
        "A later fragment in an SA for some ports, whose first one did not come before it by such an SA (RFC 4301 §7.3).";
    FragmentOverlap, "fragment_overlap", None,
        "A later fragment in an SA for some or for hidden ports that could lie over the ports of its packet (RFC 4301 §7.2).";
    CongestionNotEct, "congestion_not_ect", None,
        "Congestion was marked on a tunnel packet whose inner packet is not ECN-capable (RFC 6040 §4.2).";
    Dummy, "dummy", None,
        "A dummy packet, sent to hide traffic (RFC 4303 §2.6).";
    LifetimeReached, "lifetime_reached", None,
        "The SA has carried the bytes or packets of its hard lifetime (RFC 4301 §4.4.2.1).";
    SequenceExhausted, "sequence_exhausted", None,
        "The outbound sequence counter is at its end; it never wraps (RFC 4303 §3.3.3).";
    FragmentInTransport, "fragment_in_transport", None,
        "Transport mode protects whole packets, not fragments (RFC 4303 §3.3.4).";
    NoSa, "no_sa", None,
        "The outbound SA that the packet was given to is gone.";
    CipherFailed, "cipher_failed", None,
        "The crypto library refused to encrypt.";
    NoRoom, "no_room", None,
        "The packet buffer has no room for the headers or the trailer.";
    PacketTooBig, "packet_too_big", None,
        "The protected packet would exceed the path MTU and may not be fragmented (RFC 4301 §8).";
    PolicyDiscard, "policy_discard", None,
        "A policy says DISCARD.";
    NoPolicy, "no_policy", None,
        "No policy matches (RFC 4301 §5.1).";
    ClearNotProtected, "clear_not_protected", None,
        "It arrived in clear although policy requires protection (RFC 4301 §5.2 step 3).";
}

impl DropCause {
    /// How many causes there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The discriminant, for an array of counters.
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl From<Replayed> for DropCause {
    fn from(replayed: Replayed) -> Self {
        match replayed {
            Replayed::Duplicate => Self::ReplayedDuplicate,
            Replayed::TooOld => Self::ReplayedTooOld,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn all_is_in_the_order_of_the_discriminants_and_names_are_unique() {
        for (index, cause) in DropCause::ALL.into_iter().enumerate() {
            assert_eq!(cause.index(), index);
        }
        let names: HashSet<_> = DropCause::ALL.iter().map(|c| c.name()).collect();
        assert_eq!(names.len(), DropCause::COUNT);
    }
}
