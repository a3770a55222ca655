//! What can go wrong: an expression that is refused when it is compiled, and an evaluation that ends
//! in one of Python's exceptions or at one of our limits. Neither ever carries a reading's content.

use std::fmt;

use super::value::Kind;

/// Why a text is not an expression this agent evaluates.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}")]
pub struct CompileError {
    /// In characters of the text, from 1.
    pub column: usize,
    pub message: String,
}

/// Why an evaluation has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {message} (column {column})")]
pub struct EvalError {
    pub class: ErrorClass,
    pub message: Message,
    /// Where in the expression, in characters from 1.
    pub column: u16,
}

/// The name of the Python exception, or of one of the three documented differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    TypeError,
    ValueError,
    ZeroDivisionError,
    /// An integer beyond 128 bits, where Python would go on.
    OverflowLimit,
    /// A string, a sequence or the amount of work beyond what one evaluation may take.
    Limit,
    /// A value that Python has and this language has not: complex numbers, `%` on strings, digits
    /// other than ASCII.
    Unsupported,
}

/// The text of an [`EvalError`]: types and fixed words, formatted only when someone reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    Fixed(&'static str),
    /// What was asked of one value.
    Operand {
        what: &'static str,
        kind: Kind,
    },
    Operands {
        operator: &'static str,
        left: Kind,
        right: Kind,
    },
}

impl EvalError {
    pub(super) fn new(class: ErrorClass, message: &'static str) -> Self {
        Self { class, message: Message::Fixed(message), column: 0 }
    }

    pub(super) fn operand(what: &'static str, kind: Kind) -> Self {
        Self { class: ErrorClass::TypeError, message: Message::Operand { what, kind }, column: 0 }
    }

    pub(super) fn operands(operator: &'static str, left: Kind, right: Kind) -> Self {
        let message = Message::Operands { operator, left, right };
        Self { class: ErrorClass::TypeError, message, column: 0 }
    }

    pub(super) fn integer_limit() -> Self {
        Self::new(ErrorClass::OverflowLimit, "an integer needs more than 128 bits")
    }
}

impl ErrorClass {
    pub fn name(self) -> &'static str {
        match self {
            Self::AttributeError => "AttributeError",
            Self::IndexError => "IndexError",
            Self::KeyError => "KeyError",
            Self::OverflowError => "OverflowError",
            Self::TypeError => "TypeError",
            Self::ValueError => "ValueError",
            Self::ZeroDivisionError => "ZeroDivisionError",
            Self::OverflowLimit => "OverflowLimit",
            Self::Limit => "Limit",
            Self::Unsupported => "Unsupported",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(text) => f.write_str(text),
            Self::Operand { what, kind } => write!(f, "{what} does not take {kind}"),
            Self::Operands { operator, left, right } => {
                write!(f, "'{operator}' does not take {left} and {right}")
            }
        }
    }
}
