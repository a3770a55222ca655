//! The configuration as it was written: values that remember their file, line and column.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;

use super::problem::Piece;
use crate::reading::clip;

/// Where a value stands. Lines and columns count from 1; columns count characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: Rc<str>,
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A value and the place where it was written.
#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    String(String),
    /// A string in which `${...}` was replaced.
    Substituted(Substituted),
    /// TOML has them; no key of ours takes one.
    DateTime,
    List(Vec<Node>),
    Table(Table),
    /// A value with which something is wrong that was reported already: readers pass over it.
    Refused,
}

/// What `${...}` became. Its debug form shows what was typed, because the text may be a secret.
#[derive(Clone)]
pub struct Substituted {
    pub text: String,
    /// As it stands in the file; what messages show.
    pub typed: String,
    /// What each `${...}` of the string gave.
    pub values: Vec<String>,
    /// The string was nothing but one `${...}`, so it may stand for a number or a boolean too.
    pub whole: bool,
    /// What it is put together from, when files are among it.
    pub pieces: Option<Arc<[Piece]>>,
}

impl Substituted {
    /// What was typed, short enough for a message.
    pub fn shown(&self) -> &str {
        const SHOWN_BYTES_MAX: usize = 120;
        clip(&self.typed, SHOWN_BYTES_MAX)
    }

    /// `message` with what was typed wherever it repeats the text, and stars where it repeats a value
    /// within.
    pub fn conceal(&self, message: String) -> String {
        let message = replace(message, &self.text, self.shown());
        self.values.iter().fold(message, |message, value| replace(message, value, "***"))
    }
}

impl fmt::Debug for Substituted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Substituted({:?})", self.typed)
    }
}

/// Keys in order of their names; each remembers where the key itself stands.
pub type Table = BTreeMap<String, Entry>;

#[derive(Clone, Debug)]
pub struct Entry {
    pub key_place: Place,
    pub node: Node,
}

impl Value {
    /// What the value is, as an error message calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::String(_) | Self::Substituted(_) => "a string",
            Self::DateTime => "a date-time",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Refused => "a refused value",
        }
    }

    /// The text of a string, substituted or not.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            Self::Substituted(substituted) => Some(&substituted.text),
            _ => None,
        }
    }

    /// What a string that was wholly `${...}` reads as.
    pub fn parsed<T: FromStr>(&self) -> Option<T> {
        match self {
            Self::Substituted(Substituted { text, whole: true, .. }) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// `value` as messages show it: as it was typed when it came out of a substitution.
    pub fn shown(&self, value: impl fmt::Display) -> String {
        match self {
            Self::Substituted(substituted) => substituted.shown().to_owned(),
            _ => value.to_string(),
        }
    }
}

/// Short texts are replaced only as whole words: a `1` is no secret, and stands in other numbers.
fn replace(message: String, text: &str, with: &str) -> String {
    const SHORT_BYTES_MAX: usize = 3;
    if text.is_empty() || !message.contains(text) {
        return message;
    }
    if text.len() > SHORT_BYTES_MAX {
        return message.replace(text, with);
    }
    let mut shown = String::with_capacity(message.len());
    let mut rest = message.as_str();
    while let Some((before, after)) = rest.split_once(text) {
        let is_word = !before.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric);
        shown.push_str(before);
        shown.push_str(if is_word { with } else { text });
        rest = after;
    }
    shown + rest
}

/// Tables and lists inside each other; keeps every recursion over a tree shallow.
pub const NESTING_MAX: usize = 32;
/// Of one key. A key is repeated in each message about what stands below it.
pub const KEY_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_shows_what_was_typed_and_not_what_it_stands_for() {
        let value = |text: &str| Substituted {
            text: text.into(),
            typed: "${X}".into(),
            values: vec![text.into(), "inner".into()],
            whole: true,
            pieces: None,
        };
        for (text, message, shown) in [
            ("hunter2", "'hunter2' and prehunter2post", "'${X}' and pre${X}post"),
            ("whole inner", "part 'inner' of 'whole inner'", "part '***' of '${X}'"),
            ("1", "1 is out of range; give 10 to 21", "${X} is out of range; give 10 to 21"),
            ("", "'' is empty", "'' is empty"),
        ] {
            assert_eq!(value(text).conceal(message.to_owned()), shown);
        }
        assert!(!format!("{:?}", Value::Substituted(value("hunter2"))).contains("hunter2"));
    }
}
