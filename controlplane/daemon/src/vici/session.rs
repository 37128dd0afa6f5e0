//! The server's side of one connection, without I/O.

use super::message::{DecodeError, MAX_PACKET, Message};
use super::packet::Packet;
use std::collections::BTreeSet;
use zeroize::Zeroizing;

/// Events that clients can register for.
const EVENTS: &[&str] = &[
    "alert",
    "child-rekey",
    "child-updown",
    "control-log",
    "ike-rekey",
    "ike-update",
    "ike-updown",
    "list-authority",
    "list-cert",
    "list-conn",
    "list-policy",
    "list-sa",
    "log",
];

/// Bytes that wait for a client from which on events are not added: a client that listens but does
/// not read loses events rather than costing memory.
const MAX_WAITING: usize = 4 * 1024 * 1024;

/// A request as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The command.
    pub name: String,
    /// Its arguments.
    pub arguments: Message,
}

/// What ends a session: a client that does not speak the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// A packet is longer than the protocol allows.
    #[error("a packet of {0} bytes")]
    TooLong(u32),
    /// A packet is malformed.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// A packet that only servers send.
    #[error("a packet that only servers send")]
    Direction,
}

/// One client's connection.
///
/// Bytes in: [`Session::receive`]. Then [`Session::poll`] until it gives nothing. Each call it gives
/// is answered by exactly one [`Session::reply`]; until then no further one is taken, and reading
/// stops once a packet waits. Bytes out: [`Session::transmit`] and [`Session::transmitted`].
#[derive(Debug, Default)]
pub struct Session {
    input: Zeroizing<Vec<u8>>,
    output: Vec<u8>,
    sent: usize,
    registered: BTreeSet<&'static str>,
    busy: bool,
    lost_events: u64,
}

impl Session {
    /// A session with nothing received.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether more bytes may be read now; false makes a client wait that sends faster than it is
    /// answered.
    pub fn wants_read(&self) -> bool {
        let packet_waits =
            self.input.len() >= 4 && self.packet_len().is_ok_and(|len| self.input.len() >= 4 + len);
        self.waiting() < MAX_WAITING && !(self.busy && packet_waits)
    }

    /// Whether bytes wait to be written.
    pub fn wants_write(&self) -> bool {
        self.waiting() > 0
    }

    /// Whether [`Session::poll`] has something to do without further bytes.
    pub fn has_packet(&self) -> bool {
        let packet_waits =
            self.input.len() >= 4 && self.packet_len().is_ok_and(|len| self.input.len() >= 4 + len);
        packet_waits && !self.busy && self.waiting() < MAX_WAITING
    }

    /// Bytes that wait to be written.
    pub fn waiting(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Events that were not sent as the client does not read.
    pub fn lost_events(&self) -> u64 {
        self.lost_events
    }

    /// Takes bytes from the socket.
    pub fn receive(&mut self, bytes: &[u8]) {
        let needed = self.input.len() + bytes.len();
        if needed > self.input.capacity() {
            // Not by reallocation, which would leave a copy of what may be a secret.
            let room = needed.max(4 + self.packet_len().unwrap_or(0)).next_power_of_two();
            let mut larger = Zeroizing::new(Vec::with_capacity(room));
            larger.extend_from_slice(&self.input);
            self.input = larger;
        }
        self.input.extend_from_slice(bytes);
    }

    /// The length of the packet at the head of the input, 0 while it is not known.
    fn packet_len(&self) -> Result<usize, SessionError> {
        let Some((prefix, _)) = self.input.split_first_chunk() else { return Ok(0) };
        let len = u32::from_be_bytes(*prefix);
        match usize::try_from(len) {
            Ok(len) if len <= MAX_PACKET => Ok(len),
            _ => Err(SessionError::TooLong(len)),
        }
    }

    /// The next request, if there is one and the last one is answered.
    ///
    /// # Errors
    /// The client does not speak the protocol: the connection is to be closed.
    pub fn poll(&mut self) -> Result<Option<Call>, SessionError> {
        while !self.busy && self.waiting() < MAX_WAITING {
            let end = 4 + self.packet_len()?;
            let Some(packet) = self.input.get(4..end) else { return Ok(None) };
            let packet = Packet::decode(packet)?;
            let rest = Zeroizing::new(self.input.split_off(end));
            self.input = rest;
            match packet {
                Packet::Request(name, arguments) => {
                    self.busy = true;
                    return Ok(Some(Call { name, arguments }));
                }
                Packet::Register(name) => {
                    let event = EVENTS.iter().find(|e| **e == name);
                    self.registered.extend(event);
                    self.send(&if event.is_some() {
                        Packet::Confirm
                    } else {
                        Packet::UnknownEvent
                    });
                }
                Packet::Unregister(name) => {
                    let was = self.registered.remove(name.as_str());
                    self.send(&if was { Packet::Confirm } else { Packet::UnknownEvent });
                }
                Packet::Response(_)
                | Packet::UnknownCommand
                | Packet::Confirm
                | Packet::UnknownEvent
                | Packet::Event(..) => return Err(SessionError::Direction),
            }
        }
        Ok(None)
    }

    /// Answers the request under way.
    pub fn reply(&mut self, message: Message) {
        self.busy = false;
        if !self.send(&Packet::Response(message)) {
            self.send(&Packet::Response(super::reply::failure("the answer is too long")));
        }
    }

    /// Answers that the command is unknown.
    pub fn reply_unknown(&mut self) {
        self.busy = false;
        self.send(&Packet::UnknownCommand);
    }

    /// Sends an event if the client registered for it and reads what it is sent.
    pub fn event(&mut self, name: &str, message: &Message) {
        if !self.registered.contains(name) {
            return;
        }
        if self.waiting() >= MAX_WAITING {
            self.lost_events = self.lost_events.saturating_add(1);
            return;
        }
        self.stream(name, message);
    }

    /// Whether anything but what commands stream is listened to.
    pub fn is_listening(&self) -> bool {
        self.registered.iter().any(|name| !name.starts_with("list-"))
    }

    /// Sends an event of the request under way, whatever waits already: what a `list-` command
    /// streams is bounded by what is listed.
    pub fn stream(&mut self, name: &str, message: &Message) {
        if self.registered.contains(name)
            && !self.send(&Packet::Event(name.to_owned(), message.clone()))
        {
            self.lost_events = self.lost_events.saturating_add(1);
        }
    }

    /// What to write to the socket.
    pub fn transmit(&self) -> &[u8] {
        self.output.get(self.sent..).unwrap_or(&[])
    }

    /// The first `count` bytes of it were written.
    pub fn transmitted(&mut self, count: usize) {
        self.sent = (self.sent + count).min(self.output.len());
        if self.sent == self.output.len() {
            self.output = Vec::new();
            self.sent = 0;
        } else if self.sent >= MAX_PACKET {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
    }

    fn send(&mut self, packet: &Packet) -> bool {
        packet.encode(&mut self.output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(packet: &Packet) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(packet.encode(&mut out));
        out
    }

    fn request(name: &str) -> Vec<u8> {
        bytes(&Packet::Request(name.to_owned(), Message::new()))
    }

    fn sent(session: &mut Session) -> Vec<u8> {
        let out = session.transmit().to_vec();
        session.transmitted(out.len());
        out
    }

    #[test]
    fn one_request_at_a_time() {
        let mut session = Session::new();
        session.receive(&[request("stats"), request("version")].concat());
        assert_eq!(session.poll().unwrap().unwrap().name, "stats");
        assert_eq!(session.poll(), Ok(None));
        assert!(!session.wants_read());
        session.reply(Message::new());
        assert_eq!(session.poll().unwrap().unwrap().name, "version");
        session.reply_unknown();
        assert_eq!(sent(&mut session), [0, 0, 0, 1, 1, 0, 0, 0, 1, 2]);
        assert!(session.wants_read() && !session.wants_write());
    }

    #[test]
    fn events_reach_who_registered() {
        let mut session = Session::new();
        session.event("log", &Message::new());
        assert!(!session.wants_write());
        session.receive(&bytes(&Packet::Register("log".to_owned())));
        session.receive(&bytes(&Packet::Register("nonsense".to_owned())));
        session.poll().unwrap();
        assert_eq!(sent(&mut session), [0, 0, 0, 1, 5, 0, 0, 0, 1, 6]);
        session.event("log", &Message::new());
        assert_eq!(sent(&mut session), b"\0\0\0\x05\x07\x03log");
        session.receive(&bytes(&Packet::Unregister("log".to_owned())));
        session.poll().unwrap();
        sent(&mut session);
        session.event("log", &Message::new());
        assert!(!session.wants_write());
    }

    #[test]
    fn a_client_that_does_not_read_loses_events() {
        let mut session = Session::new();
        session.receive(&bytes(&Packet::Register("log".to_owned())));
        session.poll().unwrap();
        let message = Message::new().with("msg", "x".repeat(60_000));
        for _ in 0..200 {
            session.event("log", &message);
        }
        assert!(session.waiting() < MAX_WAITING + MAX_PACKET);
        assert!(session.lost_events() > 100);
        assert!(!session.wants_read());
    }

    #[test]
    fn what_is_not_the_protocol_ends_the_session() {
        let mut long = Session::new();
        long.receive(&[0x7f, 0, 0, 0]);
        assert_eq!(long.poll(), Err(SessionError::TooLong(0x7f00_0000)));
        let mut empty = Session::new();
        empty.receive(&[0, 0, 0, 0]);
        assert_eq!(empty.poll(), Err(SessionError::Malformed(DecodeError::Truncated)));
        let mut server = Session::new();
        server.receive(&bytes(&Packet::Confirm));
        assert_eq!(server.poll(), Err(SessionError::Direction));
    }

    proptest! {
        /// However the stream is cut, the same requests come out.
        #[test]
        fn cuts_do_not_matter(
            names in proptest::collection::vec("[a-z]{1,9}", 1..6),
            cuts in proptest::collection::vec(1..9_usize, 1..20),
        ) {
            let stream: Vec<u8> = names.iter().flat_map(|n| request(n)).collect();
            let mut session = Session::new();
            let mut seen = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*cut));
                session.receive(now);
                while let Some(call) = session.poll().unwrap() {
                    seen.push(call.name);
                    session.reply(Message::new());
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(seen, names);
        }

        #[test]
        fn no_bytes_panic(stream in proptest::collection::vec(0..9_u8, 0..100)) {
            let mut session = Session::new();
            session.receive(&stream);
            while let Ok(Some(_)) = session.poll() {
                session.reply(Message::new());
            }
        }
    }
}
