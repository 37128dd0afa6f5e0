//! How a command ends when it cannot do what it was asked.

use std::{
    fmt::{self, Display},
    io,
};

/// What went wrong, for the person at the terminal, and what to do next.
#[derive(Debug)]
pub struct Failure {
    message: String,
    next: Option<String>,
    quiet: bool,
}

impl Failure {
    /// Returns a failure without advice, for what its message says plainly enough.
    pub fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), next: None, quiet: false }
    }

    /// Adds what to do next: an imperative without a full stop.
    #[must_use]
    pub fn next(mut self, advice: impl Display) -> Self {
        self.next = Some(advice.to_string());
        self
    }

    /// Returns whether the reader of our output went away, which is its right and no error.
    pub const fn is_broken_pipe(&self) -> bool {
        self.quiet
    }
}

impl From<io::Error> for Failure {
    /// For errors of writing to standard output; others deserve a message that names the file.
    fn from(error: io::Error) -> Self {
        Self { quiet: error.kind() == io::ErrorKind::BrokenPipe, ..Self::new(error) }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "culvert: {}", self.message)?;
        match &self.next {
            Some(next) => write!(f, "\nnext: {next}"),
            None => Ok(()),
        }
    }
}
