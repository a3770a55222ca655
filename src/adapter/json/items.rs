//! Cuts a document into its top-level JSON values without reading them.

use std::fmt;

use serde_json::value::RawValue;

/// Where a document stops being JSON; lines and columns count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not JSON at line {}, column {}", self.line, self.column)
    }
}

/// The top-level values of a document, one after the other, as the text they were written in.
///
/// An array gives its elements. Where a line is broken, the next one that starts with `{` goes on.
pub struct Items<'a> {
    text: &'a str,
    at: usize,
    place: Place,
    /// Where the line of the last error began, and its number: errors come in order, so lines are
    /// counted only once, however many errors a hostile document holds.
    line_start: usize,
    line: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Start,
    Lines,
    ArrayStart,
    ArrayNext,
    End,
}

impl<'a> Items<'a> {
    pub fn new(text: &'a str) -> Self {
        Self {
            text: text.strip_prefix('\u{feff}').unwrap_or(text),
            at: 0,
            place: Place::Start,
            line_start: 0,
            line: 1,
        }
    }

    fn skip_space(&mut self) -> Option<u8> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_ascii_start().len();
        self.text.as_bytes().get(self.at).copied()
    }

    fn value(&mut self) -> Result<&'a str, usize> {
        let rest = &self.text[self.at..];
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>();
        match values.next() {
            Some(Ok(value)) => {
                self.at += values.byte_offset();
                Ok(value.get())
            }
            Some(Err(error)) => Err(self.at + offset_of(rest, error.line(), error.column())),
            None => Err(self.text.len()),
        }
    }

    /// Notes an error and finds where to go on. The search starts in the line of the error, not of
    /// the value, so that a document made of errors is still read in linear time.
    fn fail(&mut self, offset: usize) -> SyntaxError {
        let bytes = self.text.as_bytes();
        let offset = offset.min(bytes.len());
        while let Some(length) = bytes[self.line_start..offset].iter().position(|byte| *byte == b'\n') {
            self.line_start += length + 1;
            self.line += 1;
        }
        let search = (self.at + 1).max(self.line_start).min(bytes.len());
        // The line break in front of the error's line counts too.
        let next = bytes[search.saturating_sub(1)..].windows(2).position(|pair| pair == b"\n{");
        match next {
            Some(next) if self.place == Place::Lines => self.at = search + next,
            _ => self.place = Place::End,
        }
        SyntaxError { line: self.line, column: offset - self.line_start + 1 }
    }

    fn next_in_array(&mut self) -> Option<Result<&'a str, SyntaxError>> {
        let after_first = self.place == Place::ArrayNext;
        match self.skip_space() {
            Some(b']') => {
                self.at += 1;
                self.place = Place::End;
                return self.skip_space().map(|_| Err(self.fail(self.at)));
            }
            Some(b',') if after_first => self.at += 1,
            Some(_) if !after_first => {}
            _ => {
                self.place = Place::End;
                return Some(Err(self.fail(self.at)));
            }
        }
        self.place = Place::ArrayNext;
        Some(self.value().map_err(|offset| self.fail(offset)))
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<&'a str, SyntaxError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.place == Place::Start {
            self.place = match self.skip_space() {
                Some(b'[') => {
                    self.at += 1;
                    Place::ArrayStart
                }
                Some(_) => Place::Lines,
                None => {
                    self.place = Place::End;
                    return Some(Err(self.fail(self.at)));
                }
            };
        }
        match self.place {
            Place::End => None,
            Place::ArrayStart | Place::ArrayNext => self.next_in_array(),
            Place::Start | Place::Lines => {
                self.skip_space()?;
                Some(self.value().map_err(|offset| self.fail(offset)))
            }
        }
    }
}

/// The byte at `line` and `column` of `text` as serde_json counts them: lines from 1, columns in bytes
/// that were read, so 0 is the line break itself.
fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let mut start = 0;
    for _ in 1..line {
        match text[start..].find('\n') {
            Some(length) => start += length + 1,
            None => break,
        }
    }
    (start + column).saturating_sub(1)
}
