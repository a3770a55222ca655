//! JSON into the tree, with the place of every key and value. Strict: no comments, no trailing commas.

use std::collections::btree_map::Entry as Slot;
use std::rc::Rc;

use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, ast, parse_to_ast};

use super::lines::Lines;
use super::problem::Problem;
use super::tree::{Entry, KEY_BYTES_MAX, NESTING_MAX, Node, Table, Value};

/// Parses a whole file; `file` is the name that messages show.
///
/// # Errors
///
/// The first syntax error, or every duplicate key and every number that is out of range.
pub fn parse(file: Rc<str>, text: &str) -> Result<Node, Vec<Problem>> {
    let lines = Lines::new(file, text);
    let mut reader = Reader { lines: &lines, problems: Vec::new() };
    let strict = ParseOptions {
        allow_comments: false,
        allow_loose_object_property_names: false,
        allow_trailing_commas: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let root = match parse_to_ast(text, &CollectOptions::default(), &strict) {
        Ok(parsed) => parsed.value,
        Err(error) => {
            // Its own message begins with a capital and ends without a point, like none of ours.
            let message = error.kind().to_string();
            reader.refuse(error.range().start, decapitalize(&message));
            return Err(reader.problems);
        }
    };
    let node = match root {
        Some(root @ ast::Value::Object(_)) => reader.node(root, 0),
        Some(other) => {
            reader.refuse(other.start(), "a configuration is one JSON object: { ... }".to_owned());
            return Err(reader.problems);
        }
        None => {
            reader.refuse(0, "the file is empty; a configuration without any setting is {}".to_owned());
            return Err(reader.problems);
        }
    };
    if reader.problems.is_empty() { Ok(node) } else { Err(reader.problems) }
}

struct Reader<'t> {
    lines: &'t Lines<'t>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn node(&mut self, value: ast::Value<'_>, depth: usize) -> Node {
        let offset = value.start();
        let place = self.lines.place(offset);
        let value = match value {
            ast::Value::Object(_) | ast::Value::Array(_) if depth >= NESTING_MAX => {
                self.refuse(offset, format!("tables and lists nest deeper than {NESTING_MAX} levels"))
            }
            ast::Value::Object(object) => Value::Table(self.table(object, depth + 1)),
            ast::Value::Array(array) => {
                Value::List(array.elements.into_iter().map(|item| self.node(item, depth + 1)).collect())
            }
            ast::Value::StringLit(string) => Value::String(string.value.into_owned()),
            ast::Value::NumberLit(number) => self.number(offset, number.value),
            ast::Value::BooleanLit(literal) => Value::Bool(literal.value),
            ast::Value::NullKeyword(_) => Value::Null,
        };
        Node { place, value }
    }

    fn table(&mut self, object: ast::Object<'_>, depth: usize) -> Table {
        let mut entries = Table::new();
        for property in object.properties {
            let offset = property.name.start();
            let key = property.name.into_string();
            if key.len() > KEY_BYTES_MAX {
                self.refuse(offset, format!("the key is longer than {KEY_BYTES_MAX} bytes"));
                continue;
            }
            match entries.entry(key) {
                Slot::Occupied(first) => {
                    let message = format!("{} is given a second time; remove one of the two", first.key());
                    self.refuse(offset, message);
                }
                Slot::Vacant(slot) => {
                    let key_place = self.lines.place(offset);
                    let node = self.node(property.value, depth);
                    slot.insert(Entry { key_place, node });
                }
            }
        }
        entries
    }

    fn number(&mut self, offset: usize, text: &str) -> Value {
        if text.contains(['.', 'e', 'E']) {
            return match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Value::Float(number),
                _ => self.refuse(offset, "the number is too large".to_owned()),
            };
        }
        match text.parse() {
            Ok(number) => Value::Integer(number),
            Err(_) => self.refuse(offset, "the integer does not fit into 64 bits".to_owned()),
        }
    }

    fn refuse(&mut self, offset: usize, message: String) -> Value {
        self.problems.push(Problem { place: Some(self.lines.place(offset)), message });
        Value::Refused
    }
}

fn decapitalize(message: &str) -> String {
    let mut characters = message.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_nesting_is_refused_without_a_crash() {
        for text in [
            "[".repeat(1_000_000),
            "{\"a\":".repeat(200_000),
            format!("{{\"a\":{}{}}}", "[".repeat(400), "]".repeat(400)),
            format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200)),
        ] {
            assert!(parse("f".into(), &text).is_err());
        }
    }

    #[test]
    fn an_error_behind_other_scripts_has_the_column_an_editor_shows() {
        let problems = parse("f.json".into(), "{\"größe\": \"äöü\", oops: 1}").unwrap_err();
        assert_eq!(problems[0].to_string(), "f.json:1:18: expected string for object property");
    }
}
