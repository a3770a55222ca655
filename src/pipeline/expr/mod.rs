//! `condition_expr`: Python's expression language over `ctx`, and nothing else.
//!
//! The meaning is CPython's, which a test compares with it expression by expression. Neither
//! compiling nor evaluating takes unbounded time, memory or stack, whatever the text. Where this
//! language ends before Python does, it says so: a [`CompileError`] for what is not available, and
//! the classes `OverflowLimit`, `Limit` and `Unsupported` of an [`EvalError`]. These are the
//! differences:
//!
//! - Names are `ctx` with its five fields, `prev` and `win` with theirs, and nine builtins; the one method is `.get` of a dict.
//! - `is` takes None, True or False on one side; a set stands to the right of `in` only; `key=`,
//!   unpacking, comprehensions, `lambda`, `:=`, formatted strings, bytes and complex numbers are
//!   not available.
//! - Integers end at 128 bits, strings at 16 KiB, sequences at 4096 items, work at 50000 steps.
//! - `%` does not format strings; `int()` and `float()` read no digits but ASCII.
//! - Metadata is strict JSON: no NaN, no Infinity, no lone surrogates.
//! - `sum` adds floats plainly, as Python does up to 3.11.

mod arithmetic;
mod builtin;
mod compare;
mod error;
mod eval;
mod json;
mod lexer;
mod literal;
mod number;
mod parser;
mod primary;
mod repr;
mod sequence;
mod tree;
mod value;

#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::rc::Rc;

pub use error::{CompileError, ErrorClass, EvalError, Message};
pub use json::METADATA_BYTES_MAX;
use tree::Field;
pub use tree::{DEPTH_MAX, NODES_MAX};
pub use value::{Dict, Kind, SEQUENCE_ITEMS_MAX, TEXT_BYTES_MAX, Text, Value};

use crate::pipeline::window;
use crate::reading::Reading;

/// A condition, compiled once and evaluated for every reading.
#[derive(Debug)]
pub struct Expression {
    tree: tree::Tree,
}

/// What an expression sees as `ctx`. One context serves all the rules a reading meets, so that its
/// metadata is read at most once.
#[derive(Debug)]
pub struct Context<'a> {
    reading: Reading<'a>,
    previous: Option<Previous>,
    window: Option<window::Values>,
    metadata: OnceCell<Result<Rc<Dict<'a>>, EvalError>>,
}

/// What an expression sees as `prev`; both are None when there is no earlier reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Previous {
    pub value: f64,
    /// Unix seconds UTC.
    pub timestamp: f64,
}

impl Previous {
    pub fn of(reading: Reading<'_>) -> Self {
        Self { value: reading.value, timestamp: reading.timestamp }
    }
}

impl Expression {
    /// Reads a Python expression. White space around it is of no account, as are the line ends of a
    /// multi-line string that holds it.
    ///
    /// # Errors
    /// When the text is no expression, or uses what is not available; the message is for the person
    /// who wrote it.
    pub fn compile(text: &str) -> Result<Self, CompileError> {
        if text.len() > EXPRESSION_BYTES_MAX {
            let message =
                format!("the expression has {} bytes; the most is {EXPRESSION_BYTES_MAX}", text.len());
            return Err(CompileError { column: 1, message });
        }
        let body = text.trim_start_matches(lexer::BLANK);
        let skipped = text.len() - body.len();
        // What is skipped is ASCII, so bytes are columns.
        let shift = |error: CompileError| CompileError { column: error.column + skipped, ..error };
        if body.is_empty() {
            return Err(CompileError { column: 1, message: "the expression is empty".to_owned() });
        }
        let tree = lexer::tokens(body).and_then(parser::parse).map_err(shift)?;
        Ok(Self { tree: tree.shifted(skipped) })
    }

    /// Whether it asks for `prev`.
    pub fn uses_previous(&self) -> bool {
        self.tree.has_field(|field| matches!(field, Field::PreviousValue | Field::PreviousTimestamp))
    }

    /// Whether it asks for `ctx.metadata`.
    pub fn uses_metadata(&self) -> bool {
        self.tree.has_field(|field| matches!(field, Field::Metadata))
    }

    /// Whether it asks for `ctx.unit`.
    pub fn uses_unit(&self) -> bool {
        self.tree.has_field(|field| matches!(field, Field::Unit))
    }

    /// Whether it asks for `win`.
    pub fn uses_window(&self) -> bool {
        self.tree.has_field(|field| matches!(field, Field::Window(_)))
    }

    /// What Python's `eval` would return. It does not allocate unless the expression makes strings
    /// or sequences or asks for metadata.
    ///
    /// # Errors
    /// Python's exception, or the limit that was met. The reading is simply one the condition cannot
    /// judge: the next one may be different.
    pub fn evaluate<'v, 'c: 'v>(&'v self, ctx: &Context<'c>) -> Result<Value<'v>, EvalError> {
        eval::evaluate(&self.tree, ctx)
    }

    /// Whether Python's `if` would take it.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn is_true(&self, ctx: &Context<'_>) -> Result<bool, EvalError> {
        eval::is_true(&self.tree, ctx)
    }
}

impl<'a> Context<'a> {
    /// The reading's numbers are taken to be finite, which the pipeline has seen to.
    pub fn new(reading: Reading<'a>) -> Self {
        Self { reading, previous: None, window: None, metadata: OnceCell::new() }
    }

    /// With the result of a window as `win`.
    pub fn with_window(self, window: window::Values) -> Self {
        Self { window: Some(window), ..self }
    }

    /// Has the next expression see `previous` as `prev`.
    pub fn set_previous(&mut self, previous: Option<Previous>) {
        self.previous = previous;
    }

    fn metadata(&self) -> Result<Rc<Dict<'a>>, EvalError> {
        self.metadata.get_or_init(|| json::parse(self.reading.metadata)).clone()
    }
}

/// Longest text of an expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 4096;
