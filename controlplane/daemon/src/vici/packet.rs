//! Packets: what goes over the stream, behind a length of 32 bits.

use super::message::{DecodeError, Input, MAX_PACKET, Message, encode_name};

/// A packet of either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    /// CMD_REQUEST
    Request(String, Message),
    /// CMD_RESPONSE
    Response(Message),
    /// CMD_UNKNOWN
    UnknownCommand,
    /// EVENT_REGISTER
    Register(String),
    /// EVENT_UNREGISTER
    Unregister(String),
    /// EVENT_CONFIRM
    Confirm,
    /// EVENT_UNKNOWN
    UnknownEvent,
    /// EVENT
    Event(String, Message),
}

impl Packet {
    /// Writes the packet with its length; false, and nothing written, if it is too long.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        out.extend([0; 4]);
        match self {
            Self::Request(name, message) => {
                out.push(0);
                encode_name(name, out);
                message.encode(out);
            }
            Self::Response(message) => {
                out.push(1);
                message.encode(out);
            }
            Self::UnknownCommand => out.push(2),
            Self::Register(name) => {
                out.push(3);
                encode_name(name, out);
            }
            Self::Unregister(name) => {
                out.push(4);
                encode_name(name, out);
            }
            Self::Confirm => out.push(5),
            Self::UnknownEvent => out.push(6),
            Self::Event(name, message) => {
                out.push(7);
                encode_name(name, out);
                message.encode(out);
            }
        }
        let len = out.len() - start - 4;
        match (u32::try_from(len), out.get_mut(start..start + 4)) {
            (Ok(encoded), Some(prefix)) if len <= MAX_PACKET => {
                prefix.copy_from_slice(&encoded.to_be_bytes());
                true
            }
            _ => {
                out.truncate(start);
                false
            }
        }
    }

    /// Reads what stands behind the length.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (kind, rest) = bytes.split_first().ok_or(DecodeError::Truncated)?;
        let mut input = Input(rest);
        Ok(match kind {
            0 => Self::Request(input.name()?, Message::decode(input.0)?),
            1 => Self::Response(Message::decode(input.0)?),
            2 => Self::UnknownCommand,
            3 => Self::Register(input.name()?),
            4 => Self::Unregister(input.name()?),
            5 => Self::Confirm,
            6 => Self::UnknownEvent,
            7 => Self::Event(input.name()?, Message::decode(input.0)?),
            other => return Err(DecodeError::Misplaced(*other)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_that_is_too_long_is_not_written() {
        let value = "x".repeat(60_000);
        let mut message = Message::new();
        for _ in 0..9 {
            message.push("a", &value);
        }
        let mut out = vec![1, 2];
        assert!(!Packet::Response(message).encode(&mut out));
        assert_eq!(out, [1, 2]);
        assert!(Packet::Confirm.encode(&mut out));
        assert_eq!(out, [1, 2, 0, 0, 0, 1, 5]);
    }
}
