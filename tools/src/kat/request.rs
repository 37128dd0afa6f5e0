//! The fields of a request, read with their faults.

use serde_json::{Map, Value};

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// An operation, algorithm, mode or length that is not there.
    Unsupported,
    /// A field is missing, of another type or out of range, or a message does not parse.
    Malformed,
    /// An integrity check failed.
    Auth,
    /// The SPI is not that of the SA.
    Spi,
    /// A key exchange value of the peer is refused.
    PeerValue,
}

impl Fault {
    /// The value of `error`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Unsupported => "unsupported",
            Self::Malformed => "malformed",
            Self::Auth => "auth",
            Self::Spi => "spi",
            Self::PeerValue => "peer_value",
        }
    }
}

/// The fields of a request or of an object inside one.
pub(super) struct Request<'a> {
    fields: &'a Map<String, Value>,
}

impl<'a> Request<'a> {
    pub(super) const fn new(fields: &'a Map<String, Value>) -> Self {
        Self { fields }
    }

    /// A field that may be absent or null.
    pub(super) fn optional(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn field(&self, name: &str) -> Result<&'a Value, Fault> {
        self.optional(name).ok_or(Fault::Malformed)
    }

    pub(super) fn text(&self, name: &str) -> Result<&'a str, Fault> {
        self.field(name)?.as_str().ok_or(Fault::Malformed)
    }

    pub(super) fn optional_text(&self, name: &str) -> Result<Option<&'a str>, Fault> {
        self.optional(name).map(|value| value.as_str().ok_or(Fault::Malformed)).transpose()
    }

    pub(super) fn bytes(&self, name: &str) -> Result<Vec<u8>, Fault> {
        from_hex(self.text(name)?)
    }

    pub(super) fn optional_bytes(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        self.optional_text(name)?.map(from_hex).transpose()
    }

    pub(super) fn array<const N: usize>(&self, name: &str) -> Result<[u8; N], Fault> {
        self.bytes(name)?.try_into().map_err(|_| Fault::Malformed)
    }

    pub(super) fn number<T: TryFrom<u64>>(&self, name: &str) -> Result<T, Fault> {
        let number = self.field(name)?.as_u64().ok_or(Fault::Malformed)?;
        T::try_from(number).map_err(|_| Fault::Malformed)
    }

    pub(super) fn optional_number<T: TryFrom<u64>>(&self, name: &str) -> Result<Option<T>, Fault> {
        match self.optional(name) {
            None => Ok(None),
            Some(_) => self.number(name).map(Some),
        }
    }

    pub(super) fn object(&self, name: &str) -> Result<Self, Fault> {
        self.field(name)?.as_object().map(Self::new).ok_or(Fault::Malformed)
    }

    pub(super) fn optional_object(&self, name: &str) -> Result<Option<Self>, Fault> {
        match self.optional(name) {
            None => Ok(None),
            Some(_) => self.object(name).map(Some),
        }
    }
}

/// Octets from hex digits of either case.
pub(super) fn from_hex(text: &str) -> Result<Vec<u8>, Fault> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Fault::Malformed);
    }
    let digit = |digit: u8| {
        let value = char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        value.ok_or(Fault::Malformed)
    };
    pairs.iter().map(|&[high, low]| Ok(digit(high)? << 4 | digit(low)?)).collect()
}

/// Lower-case hex digits.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        // A String takes whatever is written to it.
        let _ = write!(out, "{byte:02x}");
    }
    out
}
