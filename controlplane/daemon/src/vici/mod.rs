//! VICI, the control protocol of strongSwan: swanctl, the Python package and others speak it.
//!
//! ```text
//!   bytes ─► Session ─► Call ─► Request ─► the daemon's main loop
//!   bytes ◄─ Session ◄─ Message ◄─ reply ◄─┘   (events the same way)
//! ```
//!
//! | module | what |
//! |---|---|
//! | `message`, `packet` | the tree of sections, and what carries it |
//! | `session` | one connection's server side, without I/O |
//! | `server` | the socket and its sessions, for a loop that polls |
//! | `request` | commands and their arguments as types |
//! | `reply` | answers and events |
//! | `client` | the other side, for the command line |
//!
//! No secret goes out: there is no command that would ask for one.

mod client;
mod message;
mod packet;
pub mod reply;
mod request;
mod server;
mod session;

pub use client::{Client, ClientError};
pub use message::{Bytes, DecodeError, Element, MAX_PACKET, Message};
pub use request::{
    ConnectionRef, Counters, Initiate, ListPolicies, ListSas, Rekey, Request, RequestError,
    SaFilter, Terminate, Timeout,
};
pub use server::{ClientId, Interest, Server};
pub use session::{Call, Session, SessionError};
