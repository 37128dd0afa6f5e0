//! The settings format that swanctl.conf is written in (strongswan.conf(5), SYNTAX).
//!
//! ```text
//! settings   := (section | setting | include)*
//! section    := name [: reference, reference …] { settings }
//! setting    := name = [value] NEWLINE
//! include    := include pattern NEWLINE
//! ```
//!
//! A value ends at the end of its line, at `#` or at `}`; words in it are joined by one space; a
//! quoted string may hold anything and span lines. Sections of one name extend each other, a
//! later setting replaces an earlier one, an empty one removes it. What is read is merged while it
//! is read, so that an included file counts as standing where it is included.

mod inherit;
mod lexer;

use super::diagnostic::{Diagnostics, Location, Source};
pub(crate) use inherit::flatten;
use lexer::{Lexer, Unterminated};
use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Included files may include others this deep, as in strongSwan.
const MAX_INCLUDE_DEPTH: u32 = 10;
/// A pattern that matches its own file multiplies at each depth; a real configuration has a few
/// files for each connection.
const MAX_FILES: u32 = 10_000;
/// Bounds what one file can make us read (a device, say).
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Real configurations nest six deep; the parser recurses.
const MAX_NESTING: u32 = 32;

/// The text of a value: it may be a secret, so it is wiped on drop and has no `Debug`.
pub(crate) struct Text(Zeroizing<String>);

impl Text {
    pub(crate) fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn duplicate(&self) -> Self {
        Self::new(self.as_str().to_owned())
    }
}

/// What a setting is set to.
pub(crate) enum Value {
    /// From a file: lists are comma separated.
    Text(Text),
    /// From VICI: lists are lists.
    List(Vec<Text>),
    /// From VICI: a list with bytes that are not text (certificates in DER).
    Blobs(Vec<Vec<u8>>),
    /// From VICI: bytes that are not text.
    Binary,
}

impl Value {
    fn duplicate(&self) -> Self {
        match self {
            Self::Text(text) => Self::Text(text.duplicate()),
            Self::List(items) => Self::List(items.iter().map(Text::duplicate).collect()),
            Self::Blobs(items) => Self::Blobs(items.clone()),
            Self::Binary => Self::Binary,
        }
    }
}

/// `key = value`
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) at: Location,
    /// `None` removes the setting, an inherited one too.
    pub(crate) value: Option<Value>,
}

/// A section with all that was merged into it.
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) at: Location,
    pub(crate) settings: Vec<Setting>,
    pub(crate) sections: Vec<Self>,
    references: Vec<(String, Location)>,
    /// Where in `sections` a name is: `connections` may have a hundred thousand.
    index: HashMap<String, usize>,
}

impl Section {
    pub(crate) fn new(name: String, at: Location) -> Self {
        Self {
            name,
            at,
            settings: Vec::new(),
            sections: Vec::new(),
            references: Vec::new(),
            index: HashMap::new(),
        }
    }

    pub(crate) fn section(&self, name: &str) -> Option<&Self> {
        self.index.get(name).and_then(|at| self.sections.get(*at))
    }

    /// Whether a reference in this section or below it begins with `name`.
    pub(crate) fn refers_to(&self, name: &str) -> bool {
        let first = |reference: &str| reference.split('.').next() == Some(name);
        self.references.iter().any(|(reference, _)| first(reference))
            || self.sections.iter().any(|s| s.refers_to(name))
    }

    pub(crate) fn push(&mut self, section: Self) {
        self.index.insert(section.name.clone(), self.sections.len());
        self.sections.push(section);
    }

    fn open(&mut self, name: String, at: Location) -> &mut Self {
        let index = match self.index.get(&name) {
            Some(index) => *index,
            None => {
                self.push(Self::new(name, at));
                self.sections.len() - 1
            }
        };
        &mut self.sections[index]
    }

    pub(crate) fn set(&mut self, setting: Setting) {
        match self.settings.iter_mut().find(|s| s.key == setting.key) {
            Some(existing) => *existing = setting,
            None => self.settings.push(setting),
        }
    }
}

/// Reads `path` and all that it includes.
pub(crate) fn read(path: &Path, findings: &mut Diagnostics) -> Section {
    let source = Arc::new(Source {
        name: path.display().to_string(),
        mode: None,
        directory: path.parent().unwrap_or(Path::new("")).to_owned(),
    });
    let mut root = Section::new(String::new(), Location { source: source.clone(), line: 0 });
    let mut reader = Reader { findings, files: 0 };
    reader.file(path, &Location { source, line: 0 }, &mut root, 0, 0);
    root
}

/// Reads `text` as the content of `source`.
pub(crate) fn read_text(text: &str, source: Source, findings: &mut Diagnostics) -> Section {
    let source = Arc::new(source);
    let mut root = Section::new(String::new(), Location { source: source.clone(), line: 0 });
    let mut reader = Reader { findings, files: 0 };
    reader.text(text, source, &mut root, 0, 0);
    root
}

struct Reader<'a> {
    findings: &'a mut Diagnostics,
    files: u32,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, at: &Location, into: &mut Section, depth: u32, nesting: u32) {
        self.files += 1;
        if self.files > MAX_FILES {
            if self.files == MAX_FILES + 1 {
                self.findings.error(at, "include", format!("more than {MAX_FILES} files"));
            }
            return;
        }
        let content = std::fs::File::open(path).and_then(|file| {
            use std::io::Read as _;
            let metadata = file.metadata()?;
            // Room from the start: growing would leave copies of secrets behind.
            let room = usize::try_from(metadata.len().min(MAX_FILE_BYTES)).unwrap_or(0);
            let mut bytes = Zeroizing::new(Vec::with_capacity(room + 1));
            file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
            Ok((bytes, metadata.permissions().mode() & 0o7777))
        });
        let (bytes, mode) = match content {
            Ok(content) => content,
            Err(error) => {
                return self.findings.error(at, "", format!("{}: {error}", path.display()));
            }
        };
        let source = Arc::new(Source {
            name: path.display().to_string(),
            mode: Some(mode),
            directory: path.parent().unwrap_or(Path::new("")).to_owned(),
        });
        if bytes.len() as u64 > MAX_FILE_BYTES {
            let limit = MAX_FILE_BYTES >> 20;
            return self.findings.error(
                &Location { source, line: 0 },
                "",
                format!("larger than {limit} MiB, which no configuration is"),
            );
        }
        match core::str::from_utf8(&bytes) {
            Ok(text) => self.text(text, source, into, depth, nesting),
            Err(error) => {
                let before = &bytes[..error.valid_up_to()];
                let line = 1 + before.iter().filter(|b| **b == b'\n').count();
                let at = Location { source, line: u32::try_from(line).unwrap_or(u32::MAX) };
                self.findings.error(&at, "", "not UTF-8 text");
            }
        }
    }

    fn text(
        &mut self,
        text: &str,
        source: Arc<Source>,
        into: &mut Section,
        depth: u32,
        nesting: u32,
    ) {
        let mut lexer = Lexer { rest: text, line: 1, source };
        while !self.settings(&mut lexer, into, depth, nesting) {
            self.findings.error(&lexer.here(), "", "'}' closes no section");
        }
    }

    /// Reads up to the end of the section; true at the end of the file.
    fn settings(
        &mut self,
        lexer: &mut Lexer<'_>,
        into: &mut Section,
        depth: u32,
        nesting: u32,
    ) -> bool {
        loop {
            lexer.skip_blank_lines();
            let at = lexer.here();
            let Some(next) = lexer.peek() else { return true };
            match next {
                '}' => {
                    lexer.advance(1);
                    return false;
                }
                '{' => {
                    self.findings.error(&at, "", "'{' needs the name of the section before it");
                    lexer.advance(1);
                    let mut nameless = Section::new(String::new(), at.clone());
                    if self.section(lexer, &mut nameless, &at, depth, nesting) {
                        return true;
                    }
                }
                '=' | ':' | ',' | '"' => {
                    self.findings.error(&at, "", format!("a name is needed before '{next}'"));
                    lexer.skip_line();
                }
                _ => {
                    let name = lexer.name();
                    if name == "include" && lexer.peek_is_blank() {
                        lexer.skip_blanks();
                        if lexer.peek() != Some('=') {
                            self.include(lexer, at, into, depth, nesting);
                            continue;
                        }
                    }
                    if self.named(lexer, name, at, into, depth, nesting) {
                        return true;
                    }
                }
            }
        }
    }

    /// What follows a name: a value, or a section. True at the end of the file.
    fn named(
        &mut self,
        lexer: &mut Lexer<'_>,
        name: &str,
        at: Location,
        into: &mut Section,
        depth: u32,
        nesting: u32,
    ) -> bool {
        lexer.skip_blanks();
        if lexer.peek() == Some('=') {
            lexer.advance(1);
            match lexer.value() {
                Ok(value) => {
                    if value.hash_in_word {
                        let message = "'#' begins a comment, so the value ends before it; put the \
                                       value in double quotes if the '#' belongs to it";
                        self.findings.warn(&at, name, message);
                    }
                    let value = value.text.map(Value::Text);
                    into.set(Setting { key: name.to_owned(), at, value });
                }
                Err(Unterminated) => {
                    self.findings.error(&at, name, "the string has no closing double quote");
                }
            }
            return false;
        }
        let mut references = Vec::new();
        if lexer.peek() == Some(':') {
            lexer.advance(1);
            loop {
                lexer.skip_blanks();
                let here = lexer.here();
                let reference = lexer.name();
                if reference.is_empty() {
                    self.findings.error(&here, name, "':' needs the name of a section behind it");
                } else {
                    references.push((reference.to_owned(), here));
                }
                lexer.skip_blanks();
                if lexer.peek() != Some(',') {
                    break;
                }
                lexer.advance(1);
            }
        }
        lexer.skip_blank_lines();
        if lexer.peek() != Some('{') {
            self.findings.error(
                &at,
                name,
                format!("neither a setting nor a section; write '{name} = value' or '{name} {{'"),
            );
            // The line that follows was looked at already; it is read as the next statement.
            if lexer.line == at.line {
                lexer.skip_line();
            }
            return false;
        }
        lexer.advance(1);
        let section = into.open(name.to_owned(), at.clone());
        section.references.extend(references);
        self.section(lexer, section, &at, depth, nesting)
    }

    /// The body of a section behind its `{`; true at the end of the file.
    fn section(
        &mut self,
        lexer: &mut Lexer<'_>,
        section: &mut Section,
        opened: &Location,
        depth: u32,
        nesting: u32,
    ) -> bool {
        if nesting >= MAX_NESTING {
            let message = format!("sections nested more than {MAX_NESTING} deep");
            self.findings.error(opened, &section.name, message);
            lexer.rest = "";
            return true;
        }
        let ended = self.settings(lexer, section, depth, nesting + 1);
        if ended {
            self.findings.error(opened, &section.name, "the section has no closing '}'");
        }
        ended
    }

    fn include(
        &mut self,
        lexer: &mut Lexer<'_>,
        at: Location,
        into: &mut Section,
        depth: u32,
        nesting: u32,
    ) {
        let pattern = match lexer.pattern() {
            Ok(pattern) if !pattern.is_empty() => pattern,
            Ok(_) => return self.findings.error(&at, "include", "needs the name of a file"),
            Err(Unterminated) => {
                return self.findings.error(&at, "include", "the name has no closing double quote");
            }
        };
        if depth >= MAX_INCLUDE_DEPTH {
            let message = format!("included more than {MAX_INCLUDE_DEPTH} deep: in a circle?");
            return self.findings.error(&at, "include", message);
        }
        let path = at.source.directory.join(&pattern);
        for path in self.matching(&path, &at) {
            self.file(&path, &at, into, depth + 1, nesting);
        }
    }

    fn matching(&mut self, path: &Path, at: &Location) -> Vec<PathBuf> {
        // A wildcard may match nothing (`include conf.d/*.conf`); a plain name must exist.
        let pattern = path.to_string_lossy();
        if !pattern.contains(['*', '?', '[']) {
            return vec![path.to_owned()];
        }
        match glob::glob(&pattern) {
            Ok(paths) => paths
                .filter_map(|found| match found {
                    Ok(path) => path.is_file().then_some(path),
                    Err(error) => {
                        self.findings.error(at, "include", error.to_string());
                        None
                    }
                })
                .collect(),
            Err(error) => {
                self.findings.error(at, "include", format!("'{pattern}': {}", error.msg));
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
#[path = "syntax_tests.rs"]
mod tests;
