//! Reads one table of the configuration into usable values and collects every problem on the way.
//!
//! A key that nobody asked for is a problem too: it is reported when the section is dropped, with
//! the nearest name that was asked for.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

pub use super::problem::{Piece, Problem, Problems, Secret};
use super::tree::{Node, Place, Table, Value};

/// One table, and the keys that have been asked for.
pub struct Section<'a> {
    path: String,
    place: Option<&'a Place>,
    table: Option<&'a Table>,
    known: Vec<&'static str>,
    open: bool,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    /// The section of `node`, which must be a table; anything else is a problem. `path` is what
    /// messages put before a key: empty for the root.
    pub fn new(path: String, node: Option<&'a Node>, problems: &'a Problems) -> Self {
        let table = match node.map(|node| &node.value) {
            Some(Value::Table(table)) => Some(table),
            Some(Value::Null | Value::Refused) => None,
            Some(other) => {
                let place = node.map(|node| &node.place);
                problems.add(place, format!("{path}: {} where a table is needed", other.kind()));
                None
            }
            None => None,
        };
        Self { path, place: node.map(|node| &node.place), table, known: Vec::new(), open: false, problems }
    }

    /// Whether the file has this table at all.
    pub fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Where the table begins.
    pub fn place(&self) -> Option<&'a Place> {
        self.place
    }

    /// The dotted path of `key`, as messages show it.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Where the value of `key` stands, or else its table.
    pub fn place_of(&self, key: &str) -> Option<&'a Place> {
        self.node(key).map(|node| &node.place).or(self.place)
    }

    /// Whether `key` holds a list.
    pub fn is_list(&self, key: &str) -> bool {
        self.node(key).is_some_and(|node| matches!(node.value, Value::List(_)))
    }

    /// Reports a problem with the value of `key`; the message names the value, what was expected
    /// and what to do.
    ///
    /// Where the message repeats a substituted value, what was typed is shown instead.
    pub fn refuse(&self, key: &str, message: impl fmt::Display) {
        let message = message.to_string();
        self.report(
            key,
            match self.node(key) {
                Some(node) => conceal(node, message),
                None => message,
            },
        );
    }

    /// Reports that `key` is needed and not there.
    pub fn missing(&self, key: &str, expected: &str) {
        self.report(key, format!("is missing; give {expected}"));
    }

    /// Whether `key` is given; null is not.
    pub fn has(&self, key: &str) -> bool {
        self.node(key).is_some()
    }

    pub fn string(&mut self, key: &'static str) -> Option<String> {
        let value = &self.ask(key)?.value;
        match value.text() {
            Some(text) => Some(text.to_owned()),
            None => self.wrong_kind(key, value, "a string"),
        }
    }

    /// A string that must be there and not empty. Empty when it was refused.
    pub fn required_string(&mut self, key: &'static str, expected: &str) -> String {
        let present = self.has(key);
        match self.string(key) {
            Some(text) if !text.is_empty() => text,
            Some(_) => {
                self.refuse(key, format_args!("is empty; give {expected}"));
                String::new()
            }
            None => {
                if !present {
                    self.missing(key, expected);
                }
                String::new()
            }
        }
    }

    pub fn secret(&mut self, key: &'static str) -> Option<Secret> {
        let text = self.string(key)?;
        let pieces = match self.node(key).map(|node| &node.value) {
            Some(Value::Substituted(value)) => value.pieces.clone(),
            _ => None,
        };
        Some(Secret::with_pieces(text, pieces))
    }

    pub fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.string(key).map(PathBuf::from)
    }

    pub fn bool(&mut self, key: &'static str, default: bool) -> bool {
        match self.ask(key).map(|node| &node.value) {
            None => default,
            Some(Value::Bool(value)) => *value,
            Some(other) => match other.parsed() {
                Some(value) => value,
                None => self.wrong_kind(key, other, "true or false").unwrap_or(default),
            },
        }
    }

    pub fn integer(&mut self, key: &'static str, default: i64, range: RangeInclusive<i64>) -> i64 {
        let Some(node) = self.ask(key) else { return default };
        let found = match &node.value {
            Value::Integer(value) => Some(*value),
            other => other.parsed(),
        };
        let Some(value) = found else {
            return self.wrong_kind(key, &node.value, "an integer").unwrap_or(default);
        };
        if range.contains(&value) {
            return value;
        }
        let (min, max) = range.into_inner();
        self.report(key, format!("{} is out of range; give {min} to {max}", node.value.shown(value)));
        default
    }

    /// An integer in `range`, whose bounds fit the type `T`.
    pub fn count<T: TryFrom<i64>>(
        &mut self,
        key: &'static str,
        default: i64,
        range: RangeInclusive<i64>,
    ) -> T {
        T::try_from(self.integer(key, default, range)).ok().expect("the range fits the type")
    }

    /// A finite number; integers count as floats.
    pub fn float(&mut self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> f64 {
        self.optional_float(key, range).unwrap_or(default)
    }

    pub fn optional_float(&mut self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        let node = self.ask(key)?;
        let found = match &node.value {
            Value::Float(value) => Some(*value),
            Value::Integer(value) => Some(*value as f64),
            other => other.parsed(),
        };
        let Some(value) = found else { return self.wrong_kind(key, &node.value, "a number") };
        if range.contains(&value) {
            return Some(value);
        }
        let (min, max) = range.into_inner();
        self.report(key, format!("{} is out of range; give {min} to {max}", node.value.shown(value)));
        None
    }

    /// A duration written as a number of seconds.
    pub fn seconds(&mut self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> Duration {
        Duration::from_secs_f64(self.float(key, default, range))
    }

    /// One of a few words, in upper or lower case.
    pub fn choice<T: Copy>(&mut self, key: &'static str, default: T, choices: &[(&str, T)]) -> T {
        let Some(word) = self.string(key) else { return default };
        if let Some((_, value)) = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(&word)) {
            return *value;
        }
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let hint = nearest(&word, names.iter().copied());
        let shown =
            self.node(key).map_or_else(String::new, |node| node.value.shown(format_args!("'{word}'")));
        self.report(key, format!("{shown} is not known; give {}{hint}", names.join(", ")));
        default
    }

    pub fn strings(&mut self, key: &'static str) -> Vec<String> {
        let Some(node) = self.ask(key) else { return Vec::new() };
        let Value::List(items) = &node.value else {
            return self.wrong_kind(key, &node.value, "a list of strings").unwrap_or_default();
        };
        let mut strings = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match (&item.value, item.value.text()) {
                (_, Some(text)) => strings.push(text.to_owned()),
                (Value::Refused, None) => {}
                (other, None) => self.problems.add(
                    Some(&item.place),
                    format!("{}[{index}]: {} where a string is needed", self.path_of(key), other.kind()),
                ),
            }
        }
        strings
    }

    /// A table of strings whose keys the user chooses.
    pub fn string_table(&mut self, key: &'static str) -> Vec<(String, String)> {
        let Some(node) = self.ask(key) else { return Vec::new() };
        let Value::Table(table) = &node.value else {
            return self.wrong_kind(key, &node.value, "a table of strings").unwrap_or_default();
        };
        let mut strings = Vec::with_capacity(table.len());
        for (name, entry) in table {
            match (&entry.node.value, entry.node.value.text()) {
                (_, Some(text)) => strings.push((name.clone(), text.to_owned())),
                (Value::Refused, None) => {}
                (other, None) => self.problems.add(
                    Some(&entry.node.place),
                    format!("{}.{name}: {} where a string is needed", self.path_of(key), other.kind()),
                ),
            }
        }
        strings
    }

    /// The table under `key`; an absent one reads as empty.
    pub fn section(&mut self, key: &'static str) -> Section<'a> {
        let node = self.ask(key);
        Section::new(self.path_of(key), node, self.problems)
    }

    /// The tables of the list under `key`.
    pub fn list(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let Some(node) = self.ask(key) else { return Vec::new() };
        let Value::List(items) = &node.value else {
            return self.wrong_kind(key, &node.value, "a list of tables").unwrap_or_default();
        };
        let path = self.path_of(key);
        let at = |(index, item)| Section::new(format!("{path}[{index}]"), Some(item), self.problems);
        // What is not a table is reported by then; asking it for keys would only add to that.
        items.iter().enumerate().map(at).filter(Section::is_present).collect()
    }

    /// Every table of this one that has not been asked for by name, with its key; they count as known.
    pub fn named_sections(&mut self) -> Vec<(String, Section<'a>)> {
        self.open = true;
        let mut sections = Vec::new();
        for (key, entry) in self.table.into_iter().flatten() {
            if self.known.contains(&key.as_str()) {
                continue;
            }
            match &entry.node.value {
                Value::Null | Value::Refused => {}
                Value::Table(_) => {
                    let section = Section::new(self.path_of(key), Some(&entry.node), self.problems);
                    sections.push((key.clone(), section));
                }
                _ => self.unknown(key, &entry.key_place),
            }
        }
        sections
    }

    /// Takes every key that has not been asked for as known, where they cannot be judged.
    pub fn ignore_rest(&mut self) {
        self.open = true;
    }

    fn ask(&mut self, key: &'static str) -> Option<&'a Node> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.node(key).filter(|node| !matches!(node.value, Value::Refused))
    }

    /// What `key` holds; null is nothing.
    fn node(&self, key: &str) -> Option<&'a Node> {
        let node = &self.table?.get(key)?.node;
        (!matches!(node.value, Value::Null)).then_some(node)
    }

    fn report(&self, key: &str, message: impl fmt::Display) {
        self.problems.add(self.place_of(key), format!("{}: {message}", self.path_of(key)));
    }

    fn wrong_kind<T>(&self, key: &str, found: &Value, expected: &str) -> Option<T> {
        match found {
            Value::Substituted(value) if value.whole => {
                self.report(key, format_args!("what {} stands for is not {expected}", value.shown()));
            }
            _ => self.report(key, format_args!("{} where {expected} is needed", found.kind())),
        }
        None
    }

    fn unknown(&self, key: &str, place: &Place) {
        let hint = nearest(key, self.known.iter().copied());
        self.problems.add(Some(place), format!("{}: is not a known key{hint}", self.path_of(key)));
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let Some(table) = self.table else { return };
        if self.open {
            return;
        }
        for (key, entry) in table {
            if !self.known.contains(&key.as_str()) {
                self.unknown(key, &entry.key_place);
            }
        }
    }
}

/// `; did you mean 'x'?` for the nearest of `names`, or nothing when none is near.
pub fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> String {
    /// Below this likeness (Jaro-Winkler, 0 to 1) a suggestion would puzzle more than help.
    const LIKENESS_MIN: f64 = 0.8;
    /// Longer words are nobody's misspelling, and comparing them takes time.
    const WORD_BYTES_MAX: usize = 64;
    if word.len() > WORD_BYTES_MAX {
        return String::new();
    }
    names
        .map(|name| (strsim::jaro_winkler(word, name), name))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, name)| format!("; did you mean '{name}'?"))
}

/// `message` without any text that was substituted into `node` or an item of its list.
fn conceal(node: &Node, message: String) -> String {
    match &node.value {
        Value::Substituted(value) => value.conceal(message),
        Value::List(items) => items.iter().fold(message, |message, item| conceal(item, message)),
        _ => message,
    }
}
