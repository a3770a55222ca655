//! What is wrong in a configuration, collected until all of it is known, and values that no message
//! may show.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::read_bounded;
use super::tree::Place;
use crate::reading::clip;

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
pub struct Problems {
    found: RefCell<Vec<Problem>>,
    left_out: Cell<usize>,
}

impl Problems {
    /// Keeps the problem as one line; beyond [`PROBLEMS_MAX`] it is counted only.
    pub fn add(&self, place: Option<&Place>, message: String) {
        let mut found = self.found.borrow_mut();
        if found.len() >= PROBLEMS_MAX {
            self.left_out.set(self.left_out.get() + 1);
        } else {
            found.push(Problem { place: place.cloned(), message: one_line(&message) });
        }
    }

    pub fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// How many there are, with those that were only counted.
    pub fn count(&self) -> usize {
        self.found.borrow().len() + self.left_out.get()
    }

    /// In order of file, line and column.
    pub fn into_sorted(self) -> Vec<Problem> {
        let mut problems = self.found.into_inner();
        problems.sort();
        problems
    }
}

/// A value that must not be shown: its debug form is `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    text: String,
    /// What it was put together from, when files are among it.
    pieces: Option<Arc<[Piece]>>,
}

/// A part of a string with `${...}` in it.
#[derive(Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// Of `${file:...}` or `${credential:...}`.
    File(PathBuf),
}

impl Secret {
    pub fn new(text: String) -> Self {
        Self { text, pieces: None }
    }

    /// With what to put it together from again.
    pub fn with_pieces(text: String, pieces: Option<Arc<[Piece]>>) -> Self {
        Self { text, pieces }
    }

    /// The value itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// The files it comes from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.pieces.iter().flat_map(|pieces| pieces.iter()).filter_map(|piece| match piece {
            Piece::File(path) => Some(path.as_path()),
            Piece::Text(_) => None,
        })
    }

    /// The value as its files are now; environment variables stay as they were at load. Reads the disk.
    ///
    /// # Errors
    ///
    /// A file cannot be read: its path, and why.
    pub fn read_again(&self) -> Result<Self, String> {
        let Some(pieces) = &self.pieces else { return Ok(self.clone()) };
        let mut text = String::new();
        for piece in pieces.iter() {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::File(path) => {
                    let fault = |fault| format!("{}: the file {fault}", path.display());
                    text.push_str(&read_secret(path).map_err(fault)?);
                }
            }
        }
        Ok(Self { text, pieces: self.pieces.clone() })
    }
}

/// The text of a file without its last line break.
///
/// # Errors
///
/// What is wrong with the file.
pub fn read_secret(path: &Path) -> Result<String, String> {
    let bytes = read_bounded(path, SECRET_BYTES_MAX).map_err(|error| error.to_string())?;
    let mut text = String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A message that cannot break out of its line, nor fill a screen: keys are anybody's text.
fn one_line(message: &str) -> String {
    const MESSAGE_BYTES_MAX: usize = 1024;
    let clipped = clip(message, MESSAGE_BYTES_MAX);
    let mut line = String::with_capacity(clipped.len());
    for character in clipped.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    if clipped.len() < message.len() {
        line.push_str("...");
    }
    line
}

/// Of one `${file:...}` or `${credential:...}`.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;
/// Problems that are kept; more of them help nobody.
const PROBLEMS_MAX: usize = 200;
