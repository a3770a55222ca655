//! Text into tokens, by the rules of Python's tokenizer for a single expression.

use super::error::CompileError;
use super::literal;
use super::tree::Constant;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token<'t> {
    pub(super) kind: TokenKind<'t>,
    /// In characters from 1.
    pub(super) column: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind<'t> {
    Name(&'t str),
    Literal(Constant),
    /// An operator, bracket or comma.
    Operator(&'static str),
    End,
}

/// All tokens of the text, the last one [`TokenKind::End`].
///
/// # Errors
/// Names the column of the first character that begins no token.
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, CompileError> {
    let mut lexer = Lexer { text, at: 0, counted: (0, 1), open: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_space()?;
        let column = lexer.column();
        let kind = lexer.next()?;
        let end = kind == TokenKind::End;
        tokens.push(Token { kind, column });
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    /// Byte offset of what comes next.
    at: usize,
    /// The last offset whose column was asked for, and that column: offsets only grow.
    counted: (usize, usize),
    /// Open brackets, inside which a line may end.
    open: usize,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn column(&mut self) -> usize {
        let (offset, column) = self.counted;
        self.counted = (self.at, column + self.text[offset..self.at].chars().count());
        self.counted.1
    }

    fn refuse<T>(&mut self, message: impl Into<String>) -> Result<T, CompileError> {
        Err(CompileError { column: self.column(), message: message.into() })
    }

    fn skip_space(&mut self) -> Result<(), CompileError> {
        loop {
            let rest = self.rest();
            match rest.bytes().next() {
                Some(b' ' | b'\t' | b'\x0c') => self.at += 1,
                Some(b'#') => self.at += rest.find('\n').unwrap_or(rest.len()),
                Some(b'\\') => match rest.get(1..).and_then(line_break) {
                    Some(len) if !rest[1 + len..].trim_matches(BLANK).is_empty() => self.at += 1 + len,
                    _ => return self.refuse("a '\\' may only stand at the end of a line that goes on"),
                },
                Some(b'\n' | b'\r') if self.open > 0 => self.at += 1,
                // Blank lines after the expression are what a multi-line string leaves.
                Some(b'\n' | b'\r') if rest.trim_matches(BLANK).is_empty() => {
                    self.at = self.text.len();
                }
                Some(b'\n' | b'\r') => {
                    return self
                        .refuse("the line ends here; put brackets around an expression of several lines");
                }
                _ => return Ok(()),
            }
        }
    }

    fn next(&mut self) -> Result<TokenKind<'t>, CompileError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(TokenKind::End);
        };
        let starts_number = |text: &str| text.starts_with(|character: char| character.is_ascii_digit());
        if starts_number(rest) || first == '.' && starts_number(&rest[1..]) {
            let (constant, len) = literal::number(rest).or_else(|message| self.refuse(message))?;
            self.at += len;
            return Ok(TokenKind::Literal(constant));
        }
        if first == '_' || first.is_alphabetic() {
            let len = rest.find(|character: char| character != '_' && !character.is_alphanumeric());
            let name = &rest[..len.unwrap_or(rest.len())];
            if rest[name.len()..].starts_with(['"', '\'']) {
                return self.string(name);
            }
            self.at += name.len();
            return Ok(TokenKind::Name(name));
        }
        if first == '"' || first == '\'' {
            return self.string("");
        }
        let Some(operator) = OPERATORS.iter().find(|operator| rest.starts_with(**operator)) else {
            return self.refuse(format!("{first:?} is not part of an expression{}", advice(rest)));
        };
        match *operator {
            "(" | "[" | "{" => self.open += 1,
            ")" | "]" | "}" => self.open = self.open.saturating_sub(1),
            _ => {}
        }
        self.at += operator.len();
        Ok(TokenKind::Operator(operator))
    }

    fn string(&mut self, prefix: &str) -> Result<TokenKind<'t>, CompileError> {
        let raw = match prefix {
            "" | "u" | "U" => false,
            "r" | "R" => true,
            _ if prefix.len() <= 2 && prefix.contains(['f', 'F', 't', 'T']) => {
                return self.refuse("formatted strings are not available; give a plain string");
            }
            _ if prefix.len() <= 2 && prefix.contains(['b', 'B']) => {
                return self.refuse("bytes are not available; give a plain string");
            }
            _ => return self.refuse(format!("{prefix:?} is no string prefix; r is the only one of use")),
        };
        let rest = &self.rest()[prefix.len()..];
        match literal::string(rest, raw) {
            Ok((value, len)) => {
                self.at += prefix.len() + len;
                Ok(TokenKind::Literal(Constant::Str(value.into())))
            }
            Err((offset, message)) => {
                self.at += prefix.len() + offset;
                self.refuse(message)
            }
        }
    }
}

/// Length of the line break the text starts with.
pub(super) fn line_break(text: &str) -> Option<usize> {
    match text.as_bytes() {
        [b'\r', b'\n', ..] => Some(2),
        [b'\r' | b'\n', ..] => Some(1),
        _ => None,
    }
}

/// What people write who come from other languages.
fn advice(rest: &str) -> &'static str {
    match rest.as_bytes() {
        [b'&', b'&', ..] => "; Python has 'and'",
        [b'!', ..] => "; Python has 'not'",
        [b'?', ..] => "; Python has 'a if condition else b'",
        _ => "",
    }
}

/// What may surround an expression.
pub(super) const BLANK: [char; 5] = [' ', '\t', '\x0c', '\n', '\r'];
/// Longest first. Those the parser has no use for are here so that it can refuse them by name.
const OPERATORS: [&str; 47] = [
    "...", "**=", "//=", ">>=", "<<=", "**", "//", "<<", ">>", "<=", ">=", "==", "!=", "->", "+=", "-=",
    "*=", "/=", "%=", "&=", "|=", "^=", "@=", ":=", "<", ">", "+", "-", "*", "/", "%", "@", "&", "|", "^",
    "~", "(", ")", "[", "]", "{", "}", ",", ":", ".", ";", "=",
];
