//! Answers and events, with the names that charon gives their parts.

use super::message::Message;

/// `success = yes`
pub fn success() -> Message {
    Message::new().with("success", "yes")
}

/// `success = no` with the reason.
pub fn failure(reason: &str) -> Message {
    Message::new().with("success", "no").with("errmsg", reason)
}
