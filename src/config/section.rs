//! Reads one table of the configuration into usable values and collects every problem on the way.
//!
//! A key that nobody asked for is a problem too: it is reported when the section is dropped, with
//! the nearest name that was asked for.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::tree::{Node, Place, Table, Value};

/// Something that is wrong in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Missing when the problem is that nothing was written.
    pub place: Option<Place>,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// The problems found so far. Shared by all sections of one load, which is single-threaded.
#[derive(Debug, Default)]
pub struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub fn add(&self, place: Option<&Place>, message: String) {
        self.0.borrow_mut().push(Problem { place: place.cloned(), message });
    }

    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// In order of file, line and column.
    pub fn into_sorted(self) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        problems.sort();
        problems
    }
}

/// A value that must not be shown: its debug form is `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The value itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

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

    /// Reports a problem with the value of `key`; the message names the value, what was expected
    /// and what to do.
    pub fn refuse(&self, key: &str, message: impl fmt::Display) {
        let place = self.table.and_then(|table| table.get(key)).map(|entry| &entry.node.place);
        self.problems.add(place.or(self.place), format!("{}: {message}", self.path_of(key)));
    }

    /// Reports that `key` is needed and not there.
    pub fn missing(&self, key: &str, expected: &str) {
        self.refuse(key, format_args!("is missing; give {expected}"));
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    pub fn string(&mut self, key: &'static str) -> Option<String> {
        match &self.ask(key)?.value {
            Value::String(text) => Some(text.clone()),
            other => self.wrong_kind(key, other, "a string"),
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
        self.string(key).map(Secret::new)
    }

    pub fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.string(key).map(PathBuf::from)
    }

    pub fn bool(&mut self, key: &'static str, default: bool) -> bool {
        match self.ask(key).map(|node| &node.value) {
            None => default,
            Some(Value::Bool(value)) => *value,
            Some(other) => self.wrong_kind(key, other, "true or false").unwrap_or(default),
        }
    }

    pub fn integer(&mut self, key: &'static str, default: i64, range: RangeInclusive<i64>) -> i64 {
        let Some(node) = self.ask(key) else { return default };
        let value = match &node.value {
            Value::Integer(value) => *value,
            other => return self.wrong_kind(key, other, "an integer").unwrap_or(default),
        };
        if range.contains(&value) {
            return value;
        }
        let (min, max) = range.into_inner();
        self.refuse(key, format_args!("{value} is out of range; give {min} to {max}"));
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
        let value = match &self.ask(key)?.value {
            Value::Float(value) => *value,
            Value::Integer(value) => *value as f64,
            other => return self.wrong_kind(key, other, "a number"),
        };
        if range.contains(&value) {
            return Some(value);
        }
        let (min, max) = range.into_inner();
        self.refuse(key, format_args!("{value} is out of range; give {min} to {max}"));
        None
    }

    /// A duration written as a number of seconds.
    pub fn seconds(&mut self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> Duration {
        Duration::from_secs_f64(self.float(key, default, range))
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, default: T, choices: &[(&str, T)]) -> T {
        let Some(word) = self.string(key) else { return default };
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == word) {
            return *value;
        }
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        self.refuse(
            key,
            format_args!(
                "'{word}' is not known{}; give {}",
                nearest(&word, names.iter().copied()),
                names.join(", ")
            ),
        );
        default
    }

    pub fn strings(&mut self, key: &'static str) -> Vec<String> {
        let Some(node) = self.ask(key) else { return Vec::new() };
        let Value::List(items) = &node.value else {
            return self.wrong_kind(key, &node.value, "a list of strings").unwrap_or_default();
        };
        let mut strings = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match &item.value {
                Value::String(text) => strings.push(text.clone()),
                other => self.problems.add(
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
            match &entry.node.value {
                Value::String(text) => strings.push((name.clone(), text.clone())),
                other => self.problems.add(
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
        items.iter().enumerate().map(at).collect()
    }

    /// Every table of this one that has not been asked for by name, with its key; they count as known.
    pub fn named_sections(&mut self) -> Vec<(String, Section<'a>)> {
        self.open = true;
        let Some(table) = self.table else { return Vec::new() };
        let rest = table.iter().filter(|(key, _)| !self.known.contains(&key.as_str()));
        rest.map(|(key, entry)| {
            (key.clone(), Section::new(self.path_of(key), Some(&entry.node), self.problems))
        })
        .collect()
    }

    fn ask(&mut self, key: &'static str) -> Option<&'a Node> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table?.get(key).map(|entry| &entry.node)
    }

    fn wrong_kind<T>(&self, key: &str, found: &Value, expected: &str) -> Option<T> {
        self.refuse(key, format_args!("{} where {expected} is needed", found.kind()));
        None
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
                let hint = nearest(key, self.known.iter().copied());
                self.problems
                    .add(Some(&entry.key_place), format!("{}: is not a known key{hint}", self.path_of(key)));
            }
        }
    }
}

/// `; did you mean 'x'?` for the nearest of `names`, or nothing when none is near.
pub fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> String {
    /// Below this likeness (Jaro-Winkler, 0 to 1) a suggestion would puzzle more than help.
    const LIKENESS_MIN: f64 = 0.8;
    names
        .map(|name| (strsim::jaro_winkler(word, name), name))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, name)| format!("; did you mean '{name}'?"))
}
