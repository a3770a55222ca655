//! Replaces `${...}` in every string of a tree, once, when the configuration is loaded.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::problem::{Piece, Problems, read_secret};
use super::tree::{Node, Substituted, Value};
use crate::reading::clip;

/// The value of an environment variable, `None` when it is not set.
pub type Environment = Box<dyn Fn(&str) -> Option<OsString>>;

/// Where the values come from.
pub struct Substituter<'a> {
    environment: &'a Environment,
    credentials_dir: Option<&'a Path>,
    problems: &'a Problems,
    /// What all values together may still take.
    bytes_left: usize,
}

impl<'a> Substituter<'a> {
    /// `credentials_dir` is the `$CREDENTIALS_DIRECTORY` of the service manager.
    pub fn new(
        environment: &'a Environment,
        credentials_dir: Option<&'a Path>,
        problems: &'a Problems,
    ) -> Self {
        Self { environment, credentials_dir, problems, bytes_left: SUBSTITUTED_BYTES_MAX }
    }

    /// Replaces in every string under `node`. A string in which something is wrong becomes
    /// [`Value::Refused`] once that is reported.
    pub fn substitute(&mut self, node: &mut Node) {
        self.walk(node, &mut String::new());
    }

    /// `path` is the key of `node`, as messages show it; the same when this returns.
    fn walk(&mut self, node: &mut Node, path: &mut String) {
        let length = path.len();
        match &mut node.value {
            Value::String(text) if text.contains('$') => {
                let typed = std::mem::take(text);
                let (value, faults) = self.expand(typed);
                for fault in faults {
                    self.problems.add(Some(&node.place), format!("{path}: {fault}"));
                }
                node.value = value;
            }
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    path.push_str(&format!("[{index}]"));
                    self.walk(item, path);
                    path.truncate(length);
                }
            }
            Value::Table(table) => {
                for (key, entry) in table {
                    if length > 0 {
                        path.push('.');
                    }
                    path.push_str(key);
                    self.walk(&mut entry.node, path);
                    path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn expand(&mut self, typed: String) -> (Value, Vec<String>) {
        let mut text = String::with_capacity(typed.len());
        let mut faults = Vec::new();
        let mut values = Vec::new();
        let mut files = Vec::new();
        let mut rest = typed.as_str();
        while let Some((before, after)) = rest.split_once('$') {
            text.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                text.push('$');
                rest = after;
            } else if let Some(inner) = after.strip_prefix('{') {
                let Some((expression, after)) = inner.split_once('}') else {
                    faults.push(format!("'{}' has no closing brace; {SYNTAX}", clip(inner, SHOWN_BYTES_MAX)));
                    return (Value::Refused, faults);
                };
                match self.evaluate(expression) {
                    Ok((value, file)) => {
                        files.extend(file.map(|path| (text.len(), value.len(), path)));
                        text.push_str(&value);
                        values.push(value);
                    }
                    Err(fault) if faults.len() < FAULTS_MAX => faults.push(fault),
                    Err(_) => {}
                }
                rest = after;
            } else {
                // Alone it stands for itself: MQTT topics begin with it ($SYS, $share).
                text.push('$');
                rest = after;
            }
        }
        text.push_str(rest);
        if !faults.is_empty() {
            return (Value::Refused, faults);
        }
        if values.is_empty() {
            return (Value::String(text), faults);
        }
        let whole = values.len() == 1 && typed.starts_with("${") && typed.find('}') == Some(typed.len() - 1);
        let pieces = (!files.is_empty()).then(|| pieces(&text, files).into());
        (Value::Substituted(Substituted { text, typed, values, whole, pieces }), faults)
    }

    /// What stands for the text between the braces and the file it comes from, or what is wrong with it.
    fn evaluate(&mut self, expression: &str) -> Result<(String, Option<PathBuf>), String> {
        let shown = format!("${{{}}}", clip(expression, SHOWN_BYTES_MAX));
        let mut file = None;
        let value = match expression.split_once(":-") {
            Some((name, default)) if is_variable(name) => self
                .variable(name, &shown)?
                .filter(|value| !value.is_empty())
                .unwrap_or_else(|| default.to_owned()),
            _ if is_variable(expression) => self.variable(expression, &shown)?.ok_or_else(|| {
                format!("{shown} is not set; set the variable, or give a default: ${{{expression}:-...}}")
            })?,
            _ => {
                let (value, path) = self.secret_file(expression, &shown)?;
                file = Some(path);
                value
            }
        };
        match self.bytes_left.checked_sub(value.len()) {
            Some(left) => self.bytes_left = left,
            None => {
                return Err(format!(
                    "{shown} does not fit: all substituted values together may take {SUBSTITUTED_BYTES_MAX} bytes"
                ));
            }
        }
        Ok((value, file))
    }

    fn variable(&self, name: &str, shown: &str) -> Result<Option<String>, String> {
        let value = (self.environment)(name).map(OsString::into_string).transpose();
        value.map_err(|_| format!("{shown} is not UTF-8 text"))
    }

    fn secret_file(&self, expression: &str, shown: &str) -> Result<(String, PathBuf), String> {
        let path = if let Some(path) = expression.strip_prefix("file:") {
            if !path.starts_with('/') {
                return Err(format!("{shown} needs a path that begins with /"));
            }
            PathBuf::from(path)
        } else if let Some(name) = expression.strip_prefix("credential:") {
            if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
                return Err(format!("{shown} needs the plain name of a credential"));
            }
            let Some(folder) = self.credentials_dir else {
                return Err(format!(
                    "{shown} needs $CREDENTIALS_DIRECTORY, which systemd sets for a unit with LoadCredential="
                ));
            };
            folder.join(name)
        } else {
            return Err(format!("{shown} is not understood; {SYNTAX}"));
        };
        // The check comes first: what does not fit into the rest need not be read.
        if self.bytes_left == 0 {
            return Err(format!(
                "{shown} is one too many; the limit is {SUBSTITUTED_BYTES_MAX} bytes in all"
            ));
        }
        let text = read_secret(&path).map_err(|fault| format!("{shown}: the file {fault}"))?;
        Ok((text, path))
    }
}

/// `text` as parts, of which some are whole `files`: start, length and path of each.
fn pieces(text: &str, files: Vec<(usize, usize, PathBuf)>) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(2 * files.len() + 1);
    let mut from = 0;
    for (start, length, path) in files {
        pieces.push(Piece::Text(text[from..start].to_owned()));
        pieces.push(Piece::File(path));
        from = start + length;
    }
    pieces.push(Piece::Text(text[from..].to_owned()));
    pieces
}

/// A name as shells allow it: letters, digits and underscores, not beginning with a digit.
fn is_variable(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

const SYNTAX: &str =
    "write ${NAME}, ${NAME:-default}, ${file:/path} or ${credential:NAME}, and $$ for a dollar sign";
/// Of all values of one load.
const SUBSTITUTED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Of an expression in a message.
const SHOWN_BYTES_MAX: usize = 100;
/// Reported of one string.
const FAULTS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::super::problem::SECRET_BYTES_MAX;
    use super::super::tree::Place;
    use super::*;

    fn expand(typed: &str) -> Result<(String, bool), String> {
        let environment: Environment = Box::new(|name| match name {
            "NAME" => Some("value".into()),
            "EMPTY" => Some("".into()),
            "NESTED" => Some("${NAME}$$".into()),
            _ => None,
        });
        let problems = Problems::default();
        let place = Place { file: "f".into(), line: 1, column: 1 };
        let mut node = Node { place, value: Value::String(typed.to_owned()) };
        Substituter::new(&environment, None, &problems).substitute(&mut node);
        match node.value {
            Value::Substituted(Substituted { text, whole, .. }) => Ok((text, whole)),
            Value::String(text) => Ok((text, false)),
            _ => Err(problems.into_sorted().iter().map(|problem| problem.message.clone()).collect()),
        }
    }

    #[test]
    fn each_form_gives_what_it_says() {
        for (typed, text, whole) in [
            ("${NAME}", "value", true),
            ("${NAME:-other}", "value", true),
            ("${UNSET:-other}", "other", true),
            ("${UNSET:-}", "", true),
            ("${EMPTY:-other}", "other", true),
            ("${EMPTY}", "", true),
            ("a ${NAME} b ${NAME}", "a value b value", false),
            ("${NAME}${NAME}", "valuevalue", false),
            ("${NAME} ", "value ", false),
            ("$${NAME}", "${NAME}", false),
            ("$$$${NAME}", "$${NAME}", false),
            ("$$${NAME}", "$value", false),
            ("$SYS/broker/#", "$SYS/broker/#", false),
            ("5$", "5$", false),
            ("${NESTED}", "${NAME}$$", true),
        ] {
            assert_eq!(expand(typed), Ok((text.to_owned(), whole)), "{typed}");
        }
    }

    #[test]
    fn a_file_name_may_hold_what_marks_a_default() {
        assert!(expand("${file:/nowhere:-x}").unwrap_err().contains("the file does not exist"));
    }

    #[test]
    fn many_copies_of_a_large_file_do_not_fill_the_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        let mut file = std::fs::File::create(&path).unwrap();
        std::io::Write::write_all(&mut file, &vec![b'x'; SECRET_BYTES_MAX as usize]).unwrap();
        let fault = expand(&format!("${{file:{}}}", path.display()).repeat(100)).unwrap_err();
        assert!(fault.contains("4194304 bytes"), "{fault}");
    }
}
