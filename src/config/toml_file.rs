//! TOML into the tree, with the place of every key and value.

use std::rc::Rc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::lines::Lines;
use super::problem::Problem;
use super::tree::{Entry, KEY_BYTES_MAX, NESTING_MAX, Node, Table, Value};
use crate::reading::clip;

/// Parses a whole file; `file` is the name that messages show.
///
/// # Errors
///
/// All that is wrong with the syntax, as far as it can be told apart.
pub fn parse(file: Rc<str>, text: &str) -> Result<Node, Vec<Problem>> {
    let lines = Lines::new(file, text);
    if let Some(offset) = too_many_dots(text.as_bytes()) {
        let message = format!("a key has more than {DOTS_MAX} dots; configuration keys nest a few levels");
        return Err(vec![Problem { place: Some(lines.place(offset)), message }]);
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors.iter().take(ERRORS_MAX).map(|error| problem(error, text, &lines)).collect());
    }
    let mut reader = Reader { lines: &lines, problems: Vec::new() };
    let table = reader.table(table.into_inner(), 1);
    if reader.problems.is_empty() {
        Ok(Node { place: lines.place(0), value: Value::Table(table) })
    } else {
        Err(reader.problems)
    }
}

struct Reader<'t> {
    lines: &'t Lines<'t>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn table(&mut self, table: DeTable<'_>, depth: usize) -> Table {
        let mut entries = Table::new();
        for (key, value) in table {
            let (offset, key) = (key.span().start, key.into_inner());
            if key.len() > KEY_BYTES_MAX {
                self.refuse(offset, format!("the key is longer than {KEY_BYTES_MAX} bytes"));
                continue;
            }
            let key_place = self.lines.place(offset);
            let node = self.node(value, depth);
            entries.insert(key.into_owned(), Entry { key_place, node });
        }
        entries
    }

    fn node(&mut self, value: Spanned<DeValue<'_>>, depth: usize) -> Node {
        let offset = value.span().start;
        let place = self.lines.place(offset);
        let value = match value.into_inner() {
            DeValue::Array(_) | DeValue::Table(_) if depth >= NESTING_MAX => {
                self.refuse(offset, format!("tables and lists nest deeper than {NESTING_MAX} levels"));
                Value::Refused
            }
            DeValue::String(text) => Value::String(text.into_owned()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => self.refuse(offset, "the integer does not fit into 64 bits".to_owned()),
            },
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => Value::Float(number),
                Err(_) => self.refuse(offset, "the float cannot be read".to_owned()),
            },
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Datetime(_) => Value::DateTime,
            DeValue::Array(items) => {
                Value::List(items.into_iter().map(|item| self.node(item, depth + 1)).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table, depth + 1)),
        };
        Node { place, value }
    }

    fn refuse(&mut self, offset: usize, message: String) -> Value {
        self.problems.push(Problem { place: Some(self.lines.place(offset)), message });
        Value::Refused
    }
}

fn problem(error: &toml::de::Error, text: &str, lines: &Lines<'_>) -> Problem {
    let span = error.span().unwrap_or(text.len()..text.len());
    let mut message = error.message().to_owned();
    if message == "duplicate key"
        && let Some(key) = text.get(span.clone())
    {
        message = format!("{} is given a second time; remove one of the two", clip(key, KEY_BYTES_MAX));
    }
    Problem { place: Some(lines.place(span.start)), message }
}

/// The byte where a dotted key has more than [`DOTS_MAX`] dots.
///
/// The parser bounds brackets but not dots, and each dot is a table inside a table: a line of a
/// megabyte of them would exhaust the stack when they are dropped (toml 1.2). This walks over the
/// text with the tokens of that parser, which ends broken strings at the same bytes.
fn too_many_dots(text: &[u8]) -> Option<usize> {
    let mut dots = 0;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'.' => {
                dots += 1;
                if dots > DOTS_MAX {
                    return Some(at);
                }
            }
            b' ' | b'\t' => {}
            b'=' | b',' | b'[' | b']' | b'{' | b'}' | b'\r' | b'\n' => dots = 0,
            b'#' => at += find(&text[at..], |byte| matches!(byte, b'\r' | b'\n')) - 1,
            b'"' | b'\'' => at += string_length(&text[at..]) - 1,
            _ => at += find(&text[at..], |byte| b".=,[]{} \t#\r\n".contains(&byte)) - 1,
        }
        at += 1;
    }
    None
}

/// Length of the string with which `text` begins, quotes included, closed or not.
fn string_length(text: &[u8]) -> usize {
    let quote = text[0];
    let multiline = text.starts_with(&[quote; 3]);
    let closing: &[u8] = if multiline { &[quote; 3] } else { &[quote] };
    let mut at = closing.len();
    while at < text.len() {
        if text[at..].starts_with(closing) {
            at += closing.len();
            // Up to two more quotes belong to the content.
            let more = if multiline { find(&text[at..], |byte| byte != quote).min(2) } else { 0 };
            return at + more;
        }
        match text[at] {
            b'\\' if quote == b'"' && matches!(text.get(at + 1), Some(b'\\' | b'"')) => at += 2,
            b'\n' if !multiline => return at,
            _ => at += 1,
        }
    }
    text.len()
}

/// The first byte that `matches`, or the length.
fn find(text: &[u8], matches: impl Fn(u8) -> bool) -> usize {
    text.iter().position(|byte| matches(*byte)).unwrap_or(text.len())
}

/// Syntax errors of one file that are reported; what follows a broken line is guesswork anyway.
const ERRORS_MAX: usize = 20;
/// Of one dotted key.
const DOTS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> String {
        let problems = parse("f.toml".into(), text).expect_err("it must be refused");
        problems.iter().map(|problem| format!("{problem}\n")).collect()
    }

    #[test]
    fn a_megabyte_of_dots_or_brackets_is_refused_without_a_crash() {
        for line in [
            "a.".repeat(500_000),
            format!("[{}a]", "a.".repeat(500_000)),
            format!("[{}a]", "'a' . ".repeat(100_000)),
            format!("x = {}", "[".repeat(1_000_000)),
            format!("x = {}", "{a=".repeat(300_000)),
            format!("x = {}1{}", "[".repeat(60), "]".repeat(60)),
        ] {
            assert!(parse("f".into(), &line).is_err());
        }
    }

    #[test]
    fn dots_and_brackets_at_their_limits_together_do_not_exhaust_the_stack() {
        let key = "a.".repeat(DOTS_MAX) + "a";
        let text = format!("[{key}]\n{key} = {}1{}", format!("{{{key} = ").repeat(80), "}".repeat(80));
        assert_eq!(
            faults(&text).lines().next().unwrap(),
            "f.toml:2:29: tables and lists nest deeper than 32 levels"
        );
    }

    #[test]
    fn dots_in_text_and_numbers_do_not_count() {
        let text = "a = '........................'\nb = \"\"\"\n.....................\\\"\"\"\"\"\n\
                    # .......................\nc = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 1.0, 2.0, 3.0, \
                    4.0, 5.0, 6.0, 7.0, 8.0, 9.0]\n";
        assert!(parse("f".into(), text).is_ok());
    }

    #[test]
    fn a_key_given_twice_is_named_with_its_place() {
        assert_eq!(
            faults("[cloud]\nenabled = true\nenabled = false\n"),
            "f.toml:3:1: enabled is given a second time; remove one of the two\n"
        );
    }
}
