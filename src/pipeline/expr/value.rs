//! Python's values as far as a condition meets them. Strings are borrowed from the reading or the
//! expression where they can be; what is made on the way is shared, never copied.

use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use super::error::{ErrorClass, EvalError};

/// A value; `'a` is the shorter life of expression and reading.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    None,
    Bool(bool),
    /// Python's `int` within 128 bits.
    Int(i128),
    Float(f64),
    Str(Text<'a>),
    List(Rc<[Value<'a>]>),
    Tuple(Rc<[Value<'a>]>),
    Dict(Rc<Dict<'a>>),
    /// Only ever the right side of `in`; not deduplicated, since nothing can count it.
    Set(Rc<[Value<'a>]>),
}

/// A string that is part of something longer-lived, or one made by the evaluation.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Shared(Rc<str>),
}

/// A dict in order of insertion, its keys distinct.
#[derive(Clone, Debug, Default)]
pub struct Dict<'a> {
    pub(super) entries: Vec<(Value<'a>, Value<'a>)>,
}

/// The type of a value, under Python's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    None,
    Bool,
    Int,
    Float,
    Str,
    List,
    Tuple,
    Dict,
    Set,
}

/// What arithmetic sees of a bool, an int or a float.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Int(i128),
    Float(f64),
}

/// The work one evaluation may still do.
#[derive(Debug)]
pub(super) struct Budget {
    steps: u32,
}

impl<'a> Value<'a> {
    pub fn kind(&self) -> Kind {
        match self {
            Self::None => Kind::None,
            Self::Bool(_) => Kind::Bool,
            Self::Int(_) => Kind::Int,
            Self::Float(_) => Kind::Float,
            Self::Str(_) => Kind::Str,
            Self::List(_) => Kind::List,
            Self::Tuple(_) => Kind::Tuple,
            Self::Dict(_) => Kind::Dict,
            Self::Set(_) => Kind::Set,
        }
    }

    /// Python's `bool(value)`.
    pub fn is_true(&self) -> bool {
        match self {
            Self::None => false,
            Self::Bool(truth) => *truth,
            Self::Int(integer) => *integer != 0,
            Self::Float(float) => *float != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::List(items) | Self::Tuple(items) | Self::Set(items) => !items.is_empty(),
            Self::Dict(dict) => !dict.entries.is_empty(),
        }
    }

    pub(super) fn number(&self) -> Option<Number> {
        match self {
            Self::Bool(truth) => Some(Number::Int(i128::from(*truth))),
            Self::Int(integer) => Some(Number::Int(*integer)),
            Self::Float(float) => Some(Number::Float(*float)),
            _ => None,
        }
    }

    /// What Python's `__index__` gives: ints and bools only.
    pub(super) fn index(&self) -> Option<i128> {
        match self.number() {
            Some(Number::Int(integer)) => Some(integer),
            _ => None,
        }
    }

    /// # Errors
    /// TypeError for lists, dicts and tuples that hold one.
    pub(super) fn require_hashable(&self) -> Result<(), EvalError> {
        match self {
            Self::List(_) | Self::Dict(_) | Self::Set(_) => {
                Err(EvalError::operand("a key or an element of a set", self.kind()))
            }
            Self::Tuple(items) => items.iter().try_for_each(Self::require_hashable),
            _ => Ok(()),
        }
    }

    pub(super) fn borrowed(text: &'a str) -> Self {
        Self::Str(Text::Borrowed(text))
    }

    pub(super) fn shared(text: String) -> Self {
        Self::Str(Text::Shared(text.into()))
    }
}

impl<'a> Text<'a> {
    /// The part between two byte offsets, which must lie between characters.
    pub(super) fn part(&self, start: usize, end: usize) -> Self {
        match self {
            Self::Borrowed(text) => Self::Borrowed(&text[start..end]),
            Self::Shared(text) => Self::Shared(text[start..end].into()),
        }
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl<'a> Dict<'a> {
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &(Value<'a>, Value<'a>)> {
        self.entries.iter()
    }
}

impl Number {
    /// Rounded to nearest, as Python's conversion does.
    pub(super) fn to_float(self) -> f64 {
        match self {
            Self::Int(integer) => integer as f64,
            Self::Float(float) => float,
        }
    }
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { steps: STEPS_MAX }
    }

    /// Takes `steps` off what is left.
    ///
    /// # Errors
    /// [`ErrorClass::Limit`] when nothing is left.
    #[inline]
    pub(super) fn charge(&mut self, steps: usize) -> Result<(), EvalError> {
        match u32::try_from(steps).ok().and_then(|steps| self.steps.checked_sub(steps)) {
            Some(left) => {
                self.steps = left;
                Ok(())
            }
            None => Err(EvalError::new(ErrorClass::Limit, "one evaluation takes more than 50000 steps")),
        }
    }

    /// Charges for looking at or copying this many bytes of text.
    pub(super) fn charge_text(&mut self, bytes: usize) -> Result<(), EvalError> {
        self.charge(1 + bytes / TEXT_BYTES_PER_STEP)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float",
            Self::Str => "str",
            Self::List => "list",
            Self::Tuple => "tuple",
            Self::Dict => "dict",
            Self::Set => "set",
        })
    }
}

/// Steps of one evaluation: one a node, one an element looked at. A few milliseconds on the
/// smallest board.
const STEPS_MAX: u32 = 50_000;
const TEXT_BYTES_PER_STEP: usize = 32;
/// Longest string an evaluation makes, in bytes of UTF-8.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Longest list or tuple an evaluation makes.
pub const SEQUENCE_ITEMS_MAX: usize = 4096;
