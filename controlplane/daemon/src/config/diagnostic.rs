//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where settings come from.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The path as it was opened, or `vici` for what a client loaded.
    pub name: String,
    /// Permission bits of the file, `None` for what is not a file.
    pub mode: Option<u32>,
    /// The directory that relative names in it start from.
    pub directory: PathBuf,
}

/// A line of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file.
    pub source: Arc<Source>,
    /// Counted from 1; 0 where there are no lines (VICI) or the whole file is meant.
    pub line: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source.name)?;
        if self.line > 0 { write!(f, ":{}", self.line) } else { Ok(()) }
    }
}

/// Whether the configuration can be used in spite of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but not all of it means what it says.
    Warning,
}

/// One finding: `file:line: key: what is wrong; what would be right`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// Where.
    pub at: Location,
    /// The dotted path of the setting, empty when the syntax is at fault.
    pub key: String,
    /// What is wrong and what would be right. Never the value of a secret.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.at)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Findings in the order they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

/// Nobody reads more of them, and each is compared with the others.
const MAX_FINDINGS: usize = 1000;

impl Diagnostics {
    /// The findings.
    pub fn iter(&self) -> core::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// Whether one of them is an error.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|d| d.severity == Severity::Error)
    }

    /// The errors alone, in one line, for a reply that has room for one string.
    pub fn errors_in_line(&self) -> String {
        let mut line = String::new();
        for error in self.0.iter().filter(|d| d.severity == Severity::Error) {
            if !line.is_empty() {
                line.push_str("; ");
            }
            line.push_str(&format!("{}: {}", error.key, error.message));
        }
        line
    }

    pub(crate) fn error(&mut self, at: &Location, key: &str, message: impl Into<String>) {
        self.push(Severity::Error, at, key, message.into());
    }

    pub(crate) fn warn(&mut self, at: &Location, key: &str, message: impl Into<String>) {
        self.push(Severity::Warning, at, key, message.into());
    }

    fn push(&mut self, severity: Severity, at: &Location, key: &str, message: String) {
        let finding = Diagnostic { severity, at: at.clone(), key: key.to_owned(), message };
        // An error is never lost to the bound, or what is wrong would count as right.
        let room =
            self.0.len() < MAX_FINDINGS || (severity == Severity::Error && !self.has_errors());
        if room && !self.0.contains(&finding) {
            self.0.push(finding);
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Diagnostic> {
        self.0
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.0.iter().enumerate() {
            let word = match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            write!(f, "{}{word}: {finding}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}
