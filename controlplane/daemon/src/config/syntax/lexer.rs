//! Names, values, strings and patterns.

use super::Text;
use crate::config::diagnostic::{Location, Source};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The string ends nowhere.
pub(super) struct Unterminated;

/// A value.
pub(super) struct Found {
    pub(super) text: Option<Text>,
    pub(super) hash_in_word: bool,
}

/// What is left of a text, and where that begins.
pub(super) struct Lexer<'t> {
    pub(super) rest: &'t str,
    pub(super) line: u32,
    pub(super) source: Arc<Source>,
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

impl<'t> Lexer<'t> {
    pub(super) fn here(&self) -> Location {
        Location { source: self.source.clone(), line: self.line }
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub(super) fn peek_is_blank(&self) -> bool {
        self.peek().is_some_and(is_blank)
    }

    /// Past `count` bytes of ASCII, none of them a newline.
    pub(super) fn advance(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or("");
    }

    /// The longest start of the rest without any of `ends`.
    pub(super) fn until(&mut self, ends: &[char]) -> &'t str {
        let (taken, rest) = self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = rest;
        taken
    }

    pub(super) fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches(is_blank);
    }

    pub(super) fn skip_line(&mut self) {
        self.until(&['\n']);
    }

    /// Past blanks, newlines and comments.
    pub(super) fn skip_blank_lines(&mut self) {
        loop {
            self.skip_blanks();
            match self.peek() {
                Some('\n') => {
                    self.advance(1);
                    self.line = self.line.saturating_add(1);
                }
                Some('#') => self.skip_line(),
                _ => return,
            }
        }
    }

    pub(super) fn name(&mut self) -> &'t str {
        self.until(&['#', '{', '}', ':', ',', '=', '"', '\r', '\n', '\t', ' '])
    }

    /// The rest of the line behind `=`; `None` when there is nothing.
    pub(super) fn value(&mut self) -> Result<Found, Unterminated> {
        let mut text: Option<Zeroizing<String>> = None;
        let mut hash_in_word = false;
        loop {
            self.skip_blanks();
            let word = match self.peek() {
                None | Some('\n' | '}' | '#') => break,
                Some('"') => self.string()?,
                Some(_) => {
                    let word = self.until(&['#', '}', '"', '\r', '\n', '\t', ' ']);
                    hash_in_word |= self.peek() == Some('#');
                    Zeroizing::new(word.to_owned())
                }
            };
            text = Some(match text {
                None => word,
                Some(text) => Zeroizing::new(format!("{} {}", *text, *word)),
            });
        }
        let text = text.map(Text);
        Ok(Found { text, hash_in_word })
    }

    /// A string in double quotes, which may go over several lines.
    pub(super) fn string(&mut self) -> Result<Zeroizing<String>, Unterminated> {
        self.advance(1);
        // Room for all that can follow up to the closing quote, so that it never grows.
        let mut text = Zeroizing::new(String::with_capacity(self.quoted_len()));
        loop {
            let part = self.until(&['"', '\\', '\r', '\n']);
            text.push_str(part);
            let next = self.peek().ok_or(Unterminated)?;
            self.advance(1);
            match next {
                '"' => return Ok(text),
                '\n' => {
                    self.line = self.line.saturating_add(1);
                    text.push('\n');
                }
                '\\' => {
                    let escaped = self.peek().ok_or(Unterminated)?;
                    self.rest = self.rest.get(escaped.len_utf8()..).unwrap_or("");
                    match escaped {
                        'n' => text.push('\n'),
                        'r' => text.push('\r'),
                        't' => text.push('\t'),
                        '\n' => self.line = self.line.saturating_add(1),
                        '\r' if self.peek() == Some('\n') => {
                            self.advance(1);
                            self.line = self.line.saturating_add(1);
                        }
                        other => text.push(other),
                    }
                }
                _ => {} // a carriage return
            }
        }
    }

    pub(super) fn quoted_len(&self) -> usize {
        let mut escaped = false;
        self.rest
            .bytes()
            .position(|b| {
                let closes = b == b'"' && !escaped;
                escaped = b == b'\\' && !escaped;
                closes
            })
            .unwrap_or(self.rest.len())
    }

    /// The pattern behind `include`.
    pub(super) fn pattern(&mut self) -> Result<String, Unterminated> {
        let mut pattern = String::new();
        loop {
            pattern.push_str(self.until(&['"', '\\', '#', '}', '\r', '\n', '\t', ' ']));
            match self.peek() {
                Some('"') => {
                    pattern.push_str(&self.string()?);
                    return Ok(pattern);
                }
                Some('\\') => {
                    self.advance(1);
                    match self.peek() {
                        Some(c @ ('"' | '#' | '}' | ' ')) => {
                            self.advance(1);
                            pattern.push(c);
                        }
                        _ => pattern.push('\\'),
                    }
                }
                _ => return Ok(pattern),
            }
        }
    }
}
