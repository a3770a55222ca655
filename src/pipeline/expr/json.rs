//! A reading's metadata as Python's `json.loads` reads it: integers exact, floats correctly rounded,
//! the last of equal keys. `NaN`, `Infinity` and lone surrogates, which are no JSON, are refused.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use super::error::{ErrorClass, EvalError};
use super::value::{Dict, Text, Value};

/// Longest metadata an expression reads, in bytes.
pub const METADATA_BYTES_MAX: usize = 16 * 1024;

thread_local! {
    /// Of the many readings without any metadata: nothing is allocated for those.
    static NONE: Rc<Dict<'static>> = Rc::default();
}

/// Reads a whole text that holds one object.
///
/// # Errors
/// ValueError when it holds anything else, Limit or OverflowLimit when it holds too much.
pub(super) fn parse(text: &str) -> Result<Rc<Dict<'_>>, EvalError> {
    if text.len() > METADATA_BYTES_MAX {
        return Err(EvalError::new(ErrorClass::Limit, "the metadata is longer than 16384 bytes"));
    }
    if text == "{}" {
        return Ok(NONE.with(Rc::clone));
    }
    let mut reader = Reader { text, at: 0, depth: 0 };
    reader.skip_space();
    let value = reader.value()?;
    reader.skip_space();
    match value {
        Value::Dict(dict) if reader.at == text.len() => Ok(dict),
        _ => Err(malformed()),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Result<Value<'a>, EvalError> {
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => Ok(Value::Str(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'n') => self.word("null", Value::None),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            _ => Err(malformed()),
        }
    }

    fn nested(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<Value<'a>, EvalError>,
    ) -> Result<Value<'a>, EvalError> {
        if self.depth >= DEPTH_MAX {
            return Err(EvalError::new(ErrorClass::Limit, "the metadata is nested deeper than 64 levels"));
        }
        self.depth += 1;
        self.at += 1;
        let value = inner(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Value<'a>, EvalError> {
        let mut entries = Vec::new();
        self.skip_space();
        if self.accept(b'}') {
            return Ok(Value::Dict(Rc::new(Dict { entries })));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(malformed());
            }
            let key = Value::Str(self.string()?);
            self.skip_space();
            if !self.accept(b':') {
                return Err(malformed());
            }
            self.skip_space();
            entries.push((key, self.value()?));
            self.skip_space();
            if self.accept(b'}') {
                return Ok(Value::Dict(Rc::new(Dict { entries: last_of_equal_keys(entries) })));
            }
            if !self.accept(b',') {
                return Err(malformed());
            }
        }
    }

    fn array(&mut self) -> Result<Value<'a>, EvalError> {
        let mut items = Vec::new();
        self.skip_space();
        if self.accept(b']') {
            return Ok(Value::List(items.into()));
        }
        loop {
            self.skip_space();
            items.push(self.value()?);
            self.skip_space();
            if self.accept(b']') {
                return Ok(Value::List(items.into()));
            }
            if !self.accept(b',') {
                return Err(malformed());
            }
        }
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, EvalError> {
        if !self.text[self.at..].starts_with(word) {
            return Err(malformed());
        }
        self.at += word.len();
        Ok(value)
    }

    fn number(&mut self) -> Result<Value<'a>, EvalError> {
        let start = self.at;
        self.accept(b'-');
        if !self.accept(b'0') {
            self.digits()?;
        }
        let whole = self.at;
        if self.accept(b'.') {
            self.digits()?;
        }
        if self.accept(b'e') || self.accept(b'E') {
            let _sign = self.accept(b'+') || self.accept(b'-');
            self.digits()?;
        }
        let number = &self.text[start..self.at];
        if self.at > whole {
            return number.parse().map(Value::Float).map_err(|_| malformed());
        }
        number.parse().map(Value::Int).map_err(|_| EvalError::integer_limit())
    }

    fn digits(&mut self) -> Result<(), EvalError> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(malformed()) } else { Ok(()) }
    }

    fn string(&mut self) -> Result<Text<'a>, EvalError> {
        self.at += 1;
        let start = self.at;
        let mut owned: Option<String> = None;
        loop {
            let run = self.at;
            while self.peek().is_some_and(|byte| byte != b'"' && byte != b'\\' && byte >= b' ') {
                self.at += 1;
            }
            let plain = &self.text[run..self.at];
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(match owned {
                        None => Text::Borrowed(&self.text[start..self.at - 1]),
                        Some(text) => Text::Shared((text + plain).into()),
                    });
                }
                Some(b'\\') => {
                    self.at += 1;
                    let text = owned.get_or_insert_default();
                    text.push_str(plain);
                    text.push(self.escape()?);
                }
                _ => return Err(malformed()),
            }
        }
    }

    fn escape(&mut self) -> Result<char, EvalError> {
        let escaped = self.peek().ok_or_else(malformed)?;
        self.at += 1;
        Ok(match escaped {
            b'"' | b'\\' | b'/' => char::from(escaped),
            b'b' => '\x08',
            b'f' => '\x0c',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.unit()?;
                let units = if (0xd800..0xdc00).contains(&first) && self.accept(b'\\') && self.accept(b'u') {
                    [first, self.unit()?]
                } else {
                    [first, 0]
                };
                let len = if units[1] == 0 { 1 } else { 2 };
                let mut decoded = char::decode_utf16(units[..len].iter().copied());
                match (decoded.next(), decoded.next()) {
                    (Some(Ok(character)), None) => character,
                    _ => return Err(malformed()),
                }
            }
            _ => return Err(malformed()),
        })
    }

    /// Four hexadecimal digits.
    fn unit(&mut self) -> Result<u16, EvalError> {
        let digits = self
            .text
            .get(self.at..self.at + 4)
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let unit = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok()).ok_or_else(malformed)?;
        self.at += 4;
        Ok(unit)
    }
}

/// Each key at its first place with its last value, as a dict is filled.
fn last_of_equal_keys<'a>(entries: Vec<(Value<'a>, Value<'a>)>) -> Vec<(Value<'a>, Value<'a>)> {
    let few = entries.len() <= FEW_KEYS_MAX;
    let distinct = |at: usize| entries[..at].iter().all(|(key, _)| !same_text(key, &entries[at].0));
    if few && (0..entries.len()).all(distinct) {
        return entries;
    }
    let mut places: HashMap<Box<str>, usize> = HashMap::with_capacity(entries.len());
    let mut kept: Vec<(Value<'a>, Value<'a>)> = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let Value::Str(text) = &key else { continue };
        match places.entry(Box::from(&**text)) {
            Entry::Occupied(place) => kept[*place.get()].1 = value,
            Entry::Vacant(place) => {
                place.insert(kept.len());
                kept.push((key, value));
            }
        }
    }
    kept
}

fn same_text(left: &Value<'_>, right: &Value<'_>) -> bool {
    matches!((left, right), (Value::Str(left), Value::Str(right)) if **left == **right)
}

fn malformed() -> EvalError {
    EvalError::new(ErrorClass::ValueError, "the metadata is no JSON object")
}

const DEPTH_MAX: usize = 64;
/// Up to here comparing each key with each is cheaper than a table.
const FEW_KEYS_MAX: usize = 12;
