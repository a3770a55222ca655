//! Number and string literals, as Python's tokenizer and `ast` read them.

use super::lexer::line_break;
use super::tree::Constant;

/// Reads the number the text starts with, and its length in bytes.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn number(text: &str) -> Result<(Constant, usize), String> {
    let radix = match text.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => 16,
        Some("0o") => 8,
        Some("0b") => 2,
        _ => return decimal(text),
    };
    // One underscore may follow the prefix.
    let skip = if text[2..].starts_with('_') { 3 } else { 2 };
    let len = skip + digits(&text[skip..], radix);
    if len == skip {
        return Err(format!("{:?} is followed by no digit", &text[..2]));
    }
    end_of_number(&text[len..])?;
    Ok((integer(&text[2..len], radix)?, len))
}

/// Reads the string whose opening quote the text starts with, and its length in bytes.
///
/// # Errors
/// What is wrong, and how many bytes into the text.
pub(super) fn string(text: &str, raw: bool) -> Result<(String, usize), (usize, String)> {
    let quote = &text[..1];
    let triple = text.get(..3).filter(|start| start.bytes().all(|byte| byte == quote.as_bytes()[0]));
    let closing = triple.unwrap_or(quote);
    let mut value = String::new();
    let mut at = closing.len();
    loop {
        let rest = &text[at..];
        if rest.starts_with(closing) {
            return Ok((value, at + closing.len()));
        }
        let Some(character) = rest.chars().next() else {
            return Err((0, "the string does not end".to_owned()));
        };
        if let Some(len) = line_break(rest) {
            if triple.is_none() {
                return Err((0, "the string does not end on its line".to_owned()));
            }
            // Python's universal newlines.
            value.push('\n');
            at += len;
        } else if character == '\0' {
            return Err((at, "a NUL character cannot stand in an expression".to_owned()));
        } else if character != '\\' {
            value.push(character);
            at += character.len_utf8();
        } else if raw {
            value.push('\\');
            at += 1;
            // A quote after a backslash does not end a raw string.
            match (text[at..].chars().next(), line_break(&text[at..])) {
                (Some(_), Some(len)) => {
                    value.push('\n');
                    at += len;
                }
                (Some(escaped), None) => {
                    value.push(escaped);
                    at += escaped.len_utf8();
                }
                (None, _) => return Err((0, "the string does not end".to_owned())),
            }
        } else {
            at += escape(rest, &mut value).map_err(|message| (at, message))?;
        }
    }
}

fn decimal(text: &str) -> Result<(Constant, usize), String> {
    let whole = digits(text, 10);
    let mut len = whole;
    if text[len..].starts_with('.') {
        len += 1;
        len += digits(&text[len..], 10);
    }
    if text[len..].starts_with(['e', 'E']) {
        let sign = usize::from(text[len + 1..].starts_with(['+', '-']));
        let exponent = digits(&text[len + 1 + sign..], 10);
        if exponent > 0 {
            len += 1 + sign + exponent;
        }
    }
    end_of_number(&text[len..])?;
    let number = &text[..len];
    if len > whole {
        let plain = number.replace('_', "");
        return Ok((Constant::Float(plain.parse().map_err(|_| format!("{number} is not a float"))?), len));
    }
    if number.starts_with('0') && number.bytes().any(|byte| !matches!(byte, b'0' | b'_')) {
        return Err("an integer does not start with 0; write 0o for octal".to_owned());
    }
    Ok((integer(number, 10)?, len))
}

/// Length of the digits at the start, single underscores between them included.
fn digits(text: &str, radix: u32) -> usize {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(|byte| char::from(*byte).is_digit(radix));
    let mut len = 0;
    loop {
        if is_digit(len) {
            len += 1;
        } else if len > 0 && bytes.get(len) == Some(&b'_') && is_digit(len + 1) {
            len += 2;
        } else {
            return len;
        }
    }
}

fn integer(digits: &str, radix: u32) -> Result<Constant, String> {
    i128::from_str_radix(&digits.replace('_', ""), radix)
        .map(Constant::Int)
        .map_err(|_| "the integer needs more than 128 bits".to_owned())
}

/// Python lets a keyword follow a number without a space, and nothing else.
fn end_of_number(rest: &str) -> Result<(), String> {
    let end = rest.find(|character: char| character != '_' && !character.is_alphanumeric());
    let word = &rest[..end.unwrap_or(rest.len())];
    if word.is_empty() || AFTER_NUMBER.iter().any(|keyword| word.starts_with(keyword)) {
        return Ok(());
    }
    if word.eq_ignore_ascii_case("j") {
        return Err("complex numbers are not available".to_owned());
    }
    Err(format!("{word:?} may not follow a number"))
}

/// Reads the escape the text starts with, and returns its length.
fn escape(text: &str, value: &mut String) -> Result<usize, String> {
    let after = &text[1..];
    if let Some(len) = line_break(after) {
        return Ok(1 + len);
    }
    let Some(character) = after.chars().next() else {
        return Err("the string does not end".to_owned());
    };
    let plain = match character {
        '\\' | '\'' | '"' => character,
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        'x' => return code_point(after, 2, value),
        'u' => return code_point(after, 4, value),
        'U' => return code_point(after, 8, value),
        'N' => return Err("characters by name are not available; write \\u and four digits".to_owned()),
        '0'..='7' => {
            let octal = after.bytes().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
            let code = u32::from_str_radix(&after[..octal], 8).expect("up to three octal digits");
            value.push(char::from_u32(code).expect("at most 0o777"));
            return Ok(1 + octal);
        }
        // An escape Python does not know stands for itself, backslash included.
        _ => {
            value.push('\\');
            return Ok(1);
        }
    };
    value.push(plain);
    Ok(2)
}

fn code_point(after: &str, count: usize, value: &mut String) -> Result<usize, String> {
    let digits = after.get(1..=count).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let Some(digits) = digits else {
        return Err(format!("\\{} takes {count} hexadecimal digits", &after[..1]));
    };
    let code = u32::from_str_radix(digits, 16).expect("at most eight hexadecimal digits");
    value.push(char::from_u32(code).ok_or_else(|| format!("\\{}{digits} is no character", &after[..1]))?);
    Ok(2 + count)
}

const AFTER_NUMBER: [&str; 7] = ["and", "else", "if", "in", "is", "not", "or"];
