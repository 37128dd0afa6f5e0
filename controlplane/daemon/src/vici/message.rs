//! The message tree of VICI and its encoding.

use zeroize::Zeroizing;

/// The longest packet in bytes; strongSwan sets it.
pub const MAX_PACKET: usize = 512 * 1024;
/// Sections in sections: `load-conn` nests four deep.
const MAX_DEPTH: usize = 32;

/// A value: bytes that are wiped on drop, as they may be a secret. `Debug` shows their length only.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(Zeroizing<Vec<u8>>);

impl Bytes {
    /// The bytes as text, if they are.
    pub fn as_str(&self) -> Option<&str> {
        core::str::from_utf8(&self.0).ok()
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl core::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Bytes({})", self.0.len())
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

/// What a name in a message stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Element {
    /// KEY_VALUE
    Value(Bytes),
    /// LIST_START, LIST_ITEM…, LIST_END
    List(Vec<Bytes>),
    /// SECTION_START … SECTION_END
    Section(Message),
}

/// Named elements in order; the root of a message or a section in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    elements: Vec<(String, Element)>,
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends inside an element, or a section or list is not closed.
    #[error("the message ends too early")]
    Truncated,
    /// An element that cannot be where it is.
    #[error("element of type {0} out of place")]
    Misplaced(u8),
    /// A name that is not text.
    #[error("a name is not text")]
    Name,
    /// Nested deeper than any message that is meant.
    #[error("nested too deep")]
    Depth,
}

const SECTION_START: u8 = 1;
const SECTION_END: u8 = 2;
const KEY_VALUE: u8 = 3;
const LIST_START: u8 = 4;
const LIST_ITEM: u8 = 5;
const LIST_END: u8 = 6;

impl Message {
    /// An empty message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value; one longer than 65,535 bytes, which the encoding has no length for, is cut.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl core::fmt::Display) -> Self {
        self.push(name, value);
        self
    }

    /// Adds `name = yes`, or nothing, as charon does with flags.
    #[must_use]
    pub fn with_flag(self, name: &str, set: bool) -> Self {
        if set { self.with(name, "yes") } else { self }
    }

    /// Adds a value if there is one.
    #[must_use]
    pub fn with_some(self, name: &str, value: Option<impl core::fmt::Display>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds a list.
    #[must_use]
    pub fn with_list<T: AsRef<[u8]>>(
        mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
    ) -> Self {
        let items = items.into_iter().map(|i| i.as_ref().into()).collect();
        self.elements.push((name.to_owned(), Element::List(items)));
        self
    }

    /// Adds a section.
    #[must_use]
    pub fn with_section(mut self, name: &str, section: Self) -> Self {
        self.elements.push((name.to_owned(), Element::Section(section)));
        self
    }

    /// Adds a value.
    pub fn push(&mut self, name: &str, value: impl core::fmt::Display) {
        let text = Zeroizing::new(value.to_string());
        self.elements.push((name.to_owned(), Element::Value(text.as_str().into())));
    }

    /// Adds a section.
    pub fn push_section(&mut self, name: &str, section: Self) {
        self.elements.push((name.to_owned(), Element::Section(section)));
    }

    /// All elements in order.
    pub fn elements(&self) -> impl Iterator<Item = (&str, &Element)> {
        self.elements.iter().map(|(name, element)| (name.as_str(), element))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// The first element of a name.
    pub fn get(&self, name: &str) -> Option<&Element> {
        self.elements.iter().find(|(n, _)| n == name).map(|(_, e)| e)
    }

    /// A value as bytes.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        match self.get(name)? {
            Element::Value(bytes) => Some(bytes.as_slice()),
            Element::List(_) | Element::Section(_) => None,
        }
    }

    /// A value as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        core::str::from_utf8(self.bytes(name)?).ok()
    }

    /// A list; empty when there is none.
    pub fn list(&self, name: &str) -> &[Bytes] {
        match self.get(name) {
            Some(Element::List(items)) => items,
            Some(Element::Value(_) | Element::Section(_)) | None => &[],
        }
    }

    /// A section.
    pub fn section(&self, name: &str) -> Option<&Self> {
        match self.get(name)? {
            Element::Section(section) => Some(section),
            Element::Value(_) | Element::List(_) => None,
        }
    }

    /// Writes the message behind what `out` holds.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for (name, element) in &self.elements {
            match element {
                Element::Value(bytes) => {
                    out.push(KEY_VALUE);
                    encode_name(name, out);
                    encode_bytes(bytes, out);
                }
                Element::List(items) => {
                    out.push(LIST_START);
                    encode_name(name, out);
                    for item in items {
                        out.push(LIST_ITEM);
                        encode_bytes(item, out);
                    }
                    out.push(LIST_END);
                }
                Element::Section(section) => {
                    out.push(SECTION_START);
                    encode_name(name, out);
                    section.encode(out);
                    out.push(SECTION_END);
                }
            }
        }
    }

    /// Reads a message that fills `bytes`.
    ///
    /// # Errors
    /// When it is not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Input(bytes);
        let message = Self::decode_section(&mut input, 0)?;
        if input.0.is_empty() { Ok(message) } else { Err(DecodeError::Misplaced(SECTION_END)) }
    }

    fn decode_section(input: &mut Input<'_>, depth: usize) -> Result<Self, DecodeError> {
        if depth > MAX_DEPTH {
            return Err(DecodeError::Depth);
        }
        let mut message = Self::new();
        while let Some((kind, rest)) = input.0.split_first() {
            if *kind == SECTION_END {
                // The root has no end; the caller of a section takes it.
                return Ok(message);
            }
            input.0 = rest;
            let name = match *kind {
                SECTION_START | KEY_VALUE | LIST_START => input.name()?,
                other => return Err(DecodeError::Misplaced(other)),
            };
            let element = match *kind {
                SECTION_START => {
                    let section = Self::decode_section(input, depth + 1)?;
                    input.take(1)?; // its end; at the end of the input there is none
                    Element::Section(section)
                }
                KEY_VALUE => Element::Value(input.bytes()?),
                _ => {
                    let mut items = Vec::new();
                    loop {
                        match input.take(1)?.first() {
                            Some(&LIST_ITEM) => items.push(input.bytes()?),
                            Some(&LIST_END) => break Element::List(items),
                            Some(other) => return Err(DecodeError::Misplaced(*other)),
                            None => return Err(DecodeError::Truncated),
                        }
                    }
                }
            };
            message.elements.push((name, element));
        }
        Ok(message)
    }
}

/// A name has an octet for its length; longer ones are cut where a character ends.
pub(super) fn encode_name(name: &str, out: &mut Vec<u8>) {
    let mut end = name.len().min(usize::from(u8::MAX));
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let name = name.get(..end).unwrap_or("");
    out.push(u8::try_from(name.len()).unwrap_or(0));
    out.extend(name.as_bytes());
}

fn encode_bytes(bytes: &Bytes, out: &mut Vec<u8>) {
    let bytes = bytes.as_slice();
    let bytes = bytes.get(..usize::from(u16::MAX)).unwrap_or(bytes);
    out.extend(u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(bytes);
}

/// What is left to read.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn name(&mut self) -> Result<String, DecodeError> {
        let len = self.take(1)?.first().copied().unwrap_or(0);
        let name = core::str::from_utf8(self.take(len.into())?).map_err(|_| DecodeError::Name)?;
        Ok(name.to_owned())
    }

    fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let (len, rest) = self.0.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(self.take(u16::from_be_bytes(*len).into())?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The example of strongSwan's README of the protocol.
    #[test]
    fn encoding_example() {
        let message = Message::new().with("key1", "value1").with_section(
            "section1",
            Message::new()
                .with_section("sub-section", Message::new().with("key2", "value2"))
                .with_list("list1", ["item1", "item2"]),
        );
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let expected = b"\x03\x04key1\x00\x06value1\x01\x08section1\x01\x0bsub-section\x03\x04key2\
                         \x00\x06value2\x02\x04\x05list1\x05\x00\x05item1\x05\x00\x05item2\x06\x02";
        assert_eq!(bytes, expected);
        assert_eq!(Message::decode(expected), Ok(message));
    }

    #[test]
    fn what_is_not_balanced_is_refused() {
        for (bytes, error) in [
            (&b"\x02"[..], DecodeError::Misplaced(SECTION_END)),
            (b"\x01\x01a", DecodeError::Truncated),
            (b"\x04\x01a", DecodeError::Truncated),
            (b"\x04\x01a\x03\x01b\x00\x00", DecodeError::Misplaced(KEY_VALUE)),
            (b"\x05\x00\x00", DecodeError::Misplaced(LIST_ITEM)),
            (b"\x03\x01a\x00\x02x", DecodeError::Truncated),
            (b"\x03\x01\xff\x00\x00", DecodeError::Name),
            (b"\x09", DecodeError::Misplaced(9)),
        ] {
            assert_eq!(Message::decode(bytes), Err(error), "{bytes:?}");
        }
        assert_eq!(Message::decode(&b"\x01\x00".repeat(100)), Err(DecodeError::Depth));
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..20);
        let leaf = prop_oneof![
            bytes().prop_map(|b| Element::Value(b.as_slice().into())),
            proptest::collection::vec(bytes(), 0..4)
                .prop_map(|l| Element::List(l.iter().map(|b| b.as_slice().into()).collect())),
        ];
        let element = leaf.prop_recursive(4, 40, 5, |inner| {
            proptest::collection::vec(("[a-z0-9-]{0,10}", inner), 0..5)
                .prop_map(|elements| Element::Section(Message { elements }))
        });
        proptest::collection::vec(("\\PC{0,10}", element), 0..6)
            .prop_map(|elements| Message { elements })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(message in any_message()) {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            prop_assert_eq!(Message::decode(&bytes), Ok(message));
        }

        #[test]
        fn what_is_read_is_written(bytes in proptest::collection::vec(0..8_u8, 0..60)) {
            if let Ok(message) = Message::decode(&bytes) {
                let mut again = Vec::new();
                message.encode(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
