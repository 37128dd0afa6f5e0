//! The settings of one section, read against the table of its keys.

use super::diagnostic::{Diagnostics, Location};
use super::keys::{Key, Support, nearest};
use super::syntax::{Section, Text, Value};
use super::value;

/// Reads the settings of a section; what is wrong goes to the findings, all of it.
pub(crate) struct Fields<'a> {
    pub(crate) section: &'a Section,
    /// The dotted path of the section, for messages.
    pub(crate) path: String,
    pub(crate) findings: &'a mut Diagnostics,
    keys: &'static [Key],
    /// Refused keys are warnings: the connection is left out anyway.
    lenient: bool,
}

impl<'a> Fields<'a> {
    /// Checks the keys of `section` against `keys`.
    pub(crate) fn new(
        section: &'a Section,
        keys: &'static [Key],
        path: String,
        findings: &'a mut Diagnostics,
    ) -> Self {
        Self { section, path, findings, keys, lenient: false }
    }

    pub(crate) fn lenient(mut self, lenient: bool) -> Self {
        self.lenient = lenient;
        self
    }

    /// Reports keys that the table does not have, or that are not done. `extra` tells names that
    /// are right without being in the table.
    pub(crate) fn check(&mut self, extra: impl Fn(&str) -> bool) {
        for setting in &self.section.settings {
            let path = self.path_of(&setting.key);
            let Some(key) = self.keys.iter().find(|k| k.name == setting.key) else {
                if !extra(&setting.key) {
                    let names = self.keys.iter().map(|k| k.name);
                    let message = match nearest(&setting.key, names) {
                        Some(name) => format!("unknown key; did you mean '{name}'?"),
                        None => "unknown key".to_owned(),
                    };
                    self.findings.error(&setting.at, &path, message);
                }
                continue;
            };
            if key.support == Support::Full || changes_nothing(key, setting.value.as_ref()) {
                continue;
            }
            let what = key.meaning.split(['.', ':', ';']).next().unwrap_or(key.meaning);
            if key.support == Support::Refused && !self.lenient {
                self.findings.error(
                    &setting.at,
                    &path,
                    format!("not supported: {what}; take the key out, or leave it at its default"),
                );
            } else {
                let message = format!("has no effect, not supported yet: {what}");
                self.findings.warn(&setting.at, &path, message);
            }
        }
    }

    /// Reports subsections other than those that `known` tells.
    pub(crate) fn check_sections(&mut self, names: &str, known: impl Fn(&str) -> bool) {
        for section in &self.section.sections {
            if !known(&section.name) {
                let path = self.path_of(&section.name);
                let message = if names.is_empty() {
                    "unknown section; there are none here".to_owned()
                } else {
                    format!("unknown section; there are: {names}")
                };
                self.findings.error(&section.at, &path, message);
            }
        }
    }

    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(crate) fn at(&self, key: &str) -> Location {
        let setting = self.section.settings.iter().find(|s| s.key == key);
        setting.map_or_else(|| self.section.at.clone(), |s| s.at.clone())
    }

    pub(crate) fn error(&mut self, key: &str, message: impl Into<String>) {
        let (at, path) = (self.at(key), self.path_of(key));
        self.findings.error(&at, &path, message);
    }

    pub(crate) fn warn(&mut self, key: &str, message: impl Into<String>) {
        let (at, path) = (self.at(key), self.path_of(key));
        self.findings.warn(&at, &path, message);
    }

    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        self.section.settings.iter().find(|s| s.key == key)?.value.as_ref()
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// The text of a setting.
    pub(crate) fn text(&mut self, key: &str) -> Option<&'a str> {
        match self.value(key)? {
            Value::Text(text) => Some(text.as_str()),
            Value::List(_) | Value::Blobs(_) | Value::Binary => {
                self.error(key, "takes one text, not a list or bytes");
                None
            }
        }
    }

    /// The items of a list, comma separated in files.
    pub(crate) fn list(&mut self, key: &str) -> Vec<&'a str> {
        match self.value(key) {
            None => Vec::new(),
            Some(Value::Text(text)) => {
                text.as_str().split(',').map(str::trim).filter(|i| !i.is_empty()).collect()
            }
            Some(Value::List(items)) => items.iter().map(Text::as_str).collect(),
            Some(Value::Blobs(_) | Value::Binary) => {
                self.error(key, "takes text, not bytes");
                Vec::new()
            }
        }
    }

    /// The value of a setting by `parse`; `wanted` says what would be right.
    pub(crate) fn parse<T>(
        &mut self,
        key: &str,
        wanted: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(key)?;
        let parsed = parse(text);
        if parsed.is_none() {
            self.error(key, format!("'{}' is not {wanted}", shown(text)));
        }
        parsed
    }

    pub(crate) fn boolean(&mut self, key: &str) -> Option<bool> {
        self.parse(key, "yes or no", value::boolean)
    }

    pub(crate) fn duration(&mut self, key: &str) -> Option<core::time::Duration> {
        let wanted = "a time in seconds, or with s, m, h or d behind it";
        self.parse(key, wanted, value::duration)
    }

    /// A number from `low` to `high`.
    pub(crate) fn number(&mut self, key: &str, low: u64, high: u64) -> Option<u64> {
        let wanted = format!("a number from {low} to {high}");
        self.parse(key, &wanted, |t| value::number(t).filter(|n| (low..=high).contains(n)))
    }

    /// One of `words`, in any case.
    pub(crate) fn word<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        self.parse(key, &format!("one of: {}", names.join(", ")), |text| {
            words.iter().find(|(name, _)| text.eq_ignore_ascii_case(name)).map(|(_, t)| *t)
        })
    }
}

/// Whether a value says what holds without it.
fn changes_nothing(key: &Key, value: Option<&Value>) -> bool {
    let text = match value {
        None => return true,
        Some(Value::Text(text)) => text.as_str(),
        Some(Value::List(items)) => return items.is_empty(),
        Some(Value::Blobs(_) | Value::Binary) => return false,
    };
    let same = |parse: fn(&str) -> Option<u64>| {
        parse(text).is_some_and(|value| Some(value) == parse(key.default))
    };
    // A mark of zero with any mask is no mark.
    let first = |text: &str| value::number(text.split('/').next().unwrap_or(text));
    text.is_empty()
        || text.eq_ignore_ascii_case(key.default)
        || same(|t| value::boolean(t).map(u64::from))
        || same(|t| value::duration(t).map(|d| d.as_secs()))
        || (key.default.contains('/') && first(text) == Some(0))
}

/// A value as it may stand in a message: short and in one line.
pub(crate) fn shown(text: &str) -> String {
    let mut short: String =
        text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
