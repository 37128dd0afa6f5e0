//! Explicit congestion notification across tunnels (RFC 6040).

/// The two ECN bits of a traffic class octet (RFC 3168 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ecn {
    /// 00, not ECN-capable.
    NotEct,
    /// 01.
    Ect1,
    /// 10.
    Ect0,
    /// 11, congestion experienced.
    Ce,
}

impl Ecn {
    /// The codepoint in the low two bits of a TOS or traffic class octet.
    #[inline]
    pub const fn of(traffic_class: u8) -> Self {
        match traffic_class & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The two bits.
    #[inline]
    pub const fn bits(self) -> u8 {
        match self {
            Self::NotEct => 0b00,
            Self::Ect1 => 0b01,
            Self::Ect0 => 0b10,
            Self::Ce => 0b11,
        }
    }

    /// What a tunnel egress forwards, `None` where the packet is to be dropped (RFC 6040 §4.2 Figure 4).
    #[inline]
    pub const fn decapsulate(inner: Self, outer: Self) -> Option<Self> {
        Some(match (inner, outer) {
            (Self::NotEct, Self::Ce) => return None,
            (Self::NotEct, _) => Self::NotEct,
            (_, Self::Ce) => Self::Ce,
            (Self::Ect0, Self::Ect1) => Self::Ect1,
            (_, _) => inner,
        })
    }
}
