//! A client that waits, for the command line.

use super::message::{DecodeError, MAX_PACKET, Message};
use super::packet::Packet;
use core::time::Duration;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came back is not the protocol.
    #[error("the daemon's answer is not VICI: {0}")]
    Malformed(#[from] DecodeError),
    /// What came back does not belong there.
    #[error("the daemon's answer is out of order")]
    OutOfOrder,
    /// The daemon does not know the command.
    #[error("the daemon does not know the command '{0}'")]
    UnknownCommand(String),
    /// The daemon does not know the event.
    #[error("the daemon does not know the event '{0}'")]
    UnknownEvent(String),
    /// The request has more than the protocol can carry.
    #[error("the request is too long")]
    TooLong,
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// Of the socket: nobody listens, or permission is denied.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Ok(Self { stream: UnixStream::connect(path)? })
    }

    /// How long to wait for bytes of an answer; `None` is for ever.
    ///
    /// # Errors
    /// Of the socket.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) -> Result<(), ClientError> {
        Ok(self.stream.set_read_timeout(timeout)?)
    }

    /// Makes a request and waits for its answer.
    ///
    /// # Errors
    /// [`ClientError`]; an answer of `success = no` is not one.
    pub fn request(&mut self, name: &str, arguments: Message) -> Result<Message, ClientError> {
        self.send(&Packet::Request(name.to_owned(), arguments))?;
        self.answer(name, |_| {})
    }

    /// Makes a request that streams events, each of which goes to `each`.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn request_streamed(
        &mut self,
        name: &str,
        event: &str,
        arguments: Message,
        each: impl FnMut(Message),
    ) -> Result<Message, ClientError> {
        self.send(&Packet::Register(event.to_owned()))?;
        match self.receive()? {
            Packet::Confirm => {}
            Packet::UnknownEvent => return Err(ClientError::UnknownEvent(event.to_owned())),
            _ => return Err(ClientError::OutOfOrder),
        }
        self.send(&Packet::Request(name.to_owned(), arguments))?;
        let answer = self.answer(name, each)?;
        self.send(&Packet::Unregister(event.to_owned()))?;
        loop {
            // Events that were under way come before the confirmation.
            match self.receive()? {
                Packet::Event(..) => {}
                Packet::Confirm => return Ok(answer),
                _ => return Err(ClientError::OutOfOrder),
            }
        }
    }

    /// Registers for events and waits for them, for ever, or until `each` is done with it.
    ///
    /// # Errors
    /// As [`Client::request`]; of the socket once the daemon ends.
    pub fn listen(
        &mut self,
        events: &[&str],
        mut each: impl FnMut(&str, &Message) -> bool,
    ) -> Result<(), ClientError> {
        for event in events {
            self.send(&Packet::Register((*event).to_owned()))?;
        }
        let mut confirmed = events.iter();
        loop {
            // Those registered for first may come before the last is confirmed.
            match self.receive()? {
                Packet::Confirm => {
                    confirmed.next();
                }
                Packet::UnknownEvent => {
                    let name = confirmed.next().copied().unwrap_or_default();
                    return Err(ClientError::UnknownEvent(name.to_owned()));
                }
                Packet::Event(name, message) => {
                    if !each(&name, &message) {
                        return Ok(());
                    }
                }
                _ => return Err(ClientError::OutOfOrder),
            }
        }
    }

    fn answer(
        &mut self,
        name: &str,
        mut each: impl FnMut(Message),
    ) -> Result<Message, ClientError> {
        loop {
            match self.receive()? {
                Packet::Event(_, message) => each(message),
                Packet::Response(message) => return Ok(message),
                Packet::UnknownCommand => {
                    return Err(ClientError::UnknownCommand(name.to_owned()));
                }
                _ => return Err(ClientError::OutOfOrder),
            }
        }
    }

    fn send(&mut self, packet: &Packet) -> Result<(), ClientError> {
        let mut bytes = Vec::new();
        if !packet.encode(&mut bytes) {
            return Err(ClientError::TooLong);
        }
        Ok(self.stream.write_all(&bytes)?)
    }

    fn receive(&mut self) -> Result<Packet, ClientError> {
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix)?;
        let len = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
        if len > MAX_PACKET {
            return Err(ClientError::OutOfOrder);
        }
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes)?;
        Ok(Packet::decode(&bytes)?)
    }
}
