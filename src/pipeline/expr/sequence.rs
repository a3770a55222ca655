//! Strings, lists, tuples and dicts: subscripts, slices, concatenation, repetition and iteration.
//! Strings count in characters, as Python's do.

use std::rc::Rc;

use super::compare;
use super::error::{ErrorClass, EvalError};
use super::tree::BinaryOperator;
use super::value::{Budget, Dict, Kind, SEQUENCE_ITEMS_MAX, TEXT_BYTES_MAX, Text, Value};

/// The binary operators where an operand is no number.
///
/// # Errors
/// TypeError where Python has none, Limit when the result is too long.
pub(super) fn binary<'a>(
    operator: BinaryOperator,
    left: Value<'a>,
    right: Value<'a>,
    budget: &mut Budget,
) -> Result<Value<'a>, EvalError> {
    match (operator, &left, &right) {
        (BinaryOperator::Add, Value::Str(head), Value::Str(tail)) => {
            require_length(head.len() + tail.len(), TEXT_BYTES_MAX)?;
            budget.charge_text(head.len() + tail.len())?;
            Ok(Value::shared([&**head, &**tail].concat()))
        }
        (BinaryOperator::Add, Value::List(head), Value::List(tail)) => {
            Ok(Value::List(concatenate(head, tail, budget)?))
        }
        (BinaryOperator::Add, Value::Tuple(head), Value::Tuple(tail)) => {
            Ok(Value::Tuple(concatenate(head, tail, budget)?))
        }
        (BinaryOperator::Or, Value::Dict(base), Value::Dict(over)) => {
            let mut merged = Dict::clone(base);
            budget.charge(base.entries.len())?;
            for (key, value) in &over.entries {
                insert(&mut merged, key.clone(), value.clone(), budget)?;
            }
            Ok(Value::Dict(Rc::new(merged)))
        }
        (BinaryOperator::Modulo, Value::Str(_), _) => {
            Err(EvalError::new(ErrorClass::Unsupported, "formatting by '%' is not available"))
        }
        (BinaryOperator::Multiply, Value::Str(_) | Value::List(_) | Value::Tuple(_), times)
            if times.index().is_some() =>
        {
            repeat(&left, times.index(), budget)
        }
        (BinaryOperator::Multiply, times, Value::Str(_) | Value::List(_) | Value::Tuple(_))
            if times.index().is_some() =>
        {
            repeat(&right, times.index(), budget)
        }
        _ => Err(EvalError::operands(operator.symbol(), left.kind(), right.kind())),
    }
}

/// Adds an entry or replaces its value, the key being hashable.
pub(super) fn insert<'a>(
    dict: &mut Dict<'a>,
    key: Value<'a>,
    value: Value<'a>,
    budget: &mut Budget,
) -> Result<(), EvalError> {
    for (candidate, old) in &mut dict.entries {
        budget.charge(1)?;
        if compare::equal(candidate, &key, budget)? {
            *old = value;
            return Ok(());
        }
    }
    dict.entries.push((key, value));
    Ok(())
}

/// `owner[key]`.
///
/// # Errors
/// IndexError, KeyError, or TypeError for an owner or key of the wrong type.
pub(super) fn index<'a>(
    owner: &Value<'a>,
    key: &Value<'_>,
    budget: &mut Budget,
) -> Result<Value<'a>, EvalError> {
    match owner {
        Value::Dict(dict) => {
            key.require_hashable()?;
            compare::find(dict, key, budget)?
                .cloned()
                .ok_or_else(|| EvalError::new(ErrorClass::KeyError, "the dict has no such key"))
        }
        Value::List(items) | Value::Tuple(items) => {
            let at = position(items.len(), owner.kind(), key)?;
            Ok(items[at].clone())
        }
        Value::Str(text) => {
            budget.charge_text(text.len())?;
            let at = position(length(text), owner.kind(), key)?;
            let start = byte_offset(text, at);
            Ok(Value::Str(text.part(start, start + byte_offset(&text[start..], 1))))
        }
        _ => Err(EvalError::operand("a subscript", owner.kind())),
    }
}

/// `owner[start:stop:step]`.
///
/// # Errors
/// TypeError, or ValueError for a step of zero.
pub(super) fn slice<'a>(
    owner: &Value<'a>,
    bounds: [&Value<'_>; 3],
    budget: &mut Budget,
) -> Result<Value<'a>, EvalError> {
    let len = match owner {
        Value::Str(text) => {
            budget.charge_text(text.len())?;
            length(text)
        }
        Value::List(items) | Value::Tuple(items) => items.len(),
        _ => return Err(EvalError::operand("a slice", owner.kind())),
    };
    let range = Range::new(len, bounds)?;
    budget.charge(range.count)?;
    Ok(match owner {
        Value::List(items) => Value::List(range.indices().map(|at| items[at].clone()).collect()),
        Value::Tuple(items) => Value::Tuple(range.indices().map(|at| items[at].clone()).collect()),
        Value::Str(text) if range.count == 0 => Value::Str(text.part(0, 0)),
        Value::Str(text) if range.step == 1 => {
            let start = byte_offset(text, range.start as usize);
            Value::Str(text.part(start, start + byte_offset(&text[start..], range.count)))
        }
        Value::Str(text) => {
            budget.charge(len)?;
            let characters: Vec<char> = text.chars().collect();
            Value::shared(range.indices().map(|at| characters[at]).collect())
        }
        _ => return Err(EvalError::operand("a slice", owner.kind())),
    })
}

/// Characters of a text.
pub(super) fn length(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

/// What iterating over a value gives.
pub(super) enum Items<'a> {
    Sequence(Rc<[Value<'a>]>, usize),
    Keys(Rc<Dict<'a>>, usize),
    Characters(Text<'a>, usize),
}

impl<'a> Items<'a> {
    /// # Errors
    /// TypeError when the value cannot be iterated.
    pub(super) fn new(value: Value<'a>, what: &'static str) -> Result<Self, EvalError> {
        match value {
            Value::List(items) | Value::Tuple(items) => Ok(Self::Sequence(items, 0)),
            Value::Dict(dict) => Ok(Self::Keys(dict, 0)),
            Value::Str(text) => Ok(Self::Characters(text, 0)),
            _ => Err(EvalError::operand(what, value.kind())),
        }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        match self {
            Self::Sequence(items, at) => {
                *at += 1;
                items.get(*at - 1).cloned()
            }
            Self::Keys(dict, at) => {
                *at += 1;
                dict.entries.get(*at - 1).map(|(key, _)| key.clone())
            }
            Self::Characters(text, at) => {
                let start = *at;
                *at += text[start..].chars().next()?.len_utf8();
                Some(Value::Str(text.part(start, *at)))
            }
        }
    }
}

/// A slice fitted to a length (CPython's `PySlice_Unpack` and `PySlice_AdjustIndices`).
struct Range {
    start: i64,
    step: i64,
    count: usize,
}

impl Range {
    fn new(len: usize, [start, stop, step]: [&Value<'_>; 3]) -> Result<Self, EvalError> {
        let step = bound(step)?.unwrap_or(1).max(-i64::MAX);
        if step == 0 {
            return Err(EvalError::new(ErrorClass::ValueError, "a slice with a step of zero"));
        }
        let len = i64::try_from(len).unwrap_or(i64::MAX);
        let (least, most) = if step < 0 { (-1, len - 1) } else { (0, len) };
        let fit = |at: i64| (if at < 0 { at.saturating_add(len) } else { at }).clamp(least, most);
        let start = bound(start)?.map_or(if step < 0 { most } else { least }, fit);
        let stop = bound(stop)?.map_or(if step < 0 { least } else { most }, fit);
        let distance = if step < 0 { start - stop } else { stop - start };
        let count = if distance <= 0 { 0 } else { (distance - 1) / step.abs() + 1 };
        Ok(Self { start, step, count: count as usize })
    }

    fn indices(&self) -> impl Iterator<Item = usize> {
        (0..self.count).map(|turn| (self.start + self.step * turn as i64) as usize)
    }
}

fn bound(value: &Value<'_>) -> Result<Option<i64>, EvalError> {
    match (value, value.index()) {
        (Value::None, _) => Ok(None),
        (_, Some(at)) => Ok(Some(at.clamp(i64::MIN.into(), i64::MAX.into()) as i64)),
        _ => Err(EvalError::operand("a bound of a slice", value.kind())),
    }
}

/// Where a subscript points, counted from the end when negative.
fn position(len: usize, owner: Kind, key: &Value<'_>) -> Result<usize, EvalError> {
    let Some(at) = key.index() else {
        return Err(EvalError::operands("[]", owner, key.kind()));
    };
    let len = len as i128;
    let from_start = if at < 0 { at.saturating_add(len) } else { at };
    if (0..len).contains(&from_start) {
        Ok(from_start as usize)
    } else {
        Err(EvalError::new(ErrorClass::IndexError, "the index is outside the sequence"))
    }
}

fn byte_offset(text: &str, characters: usize) -> usize {
    text.char_indices().nth(characters).map_or(text.len(), |(offset, _)| offset)
}

fn concatenate<'a>(
    head: &[Value<'a>],
    tail: &[Value<'a>],
    budget: &mut Budget,
) -> Result<Rc<[Value<'a>]>, EvalError> {
    require_length(head.len() + tail.len(), SEQUENCE_ITEMS_MAX)?;
    budget.charge(head.len() + tail.len())?;
    Ok(head.iter().chain(tail).cloned().collect())
}

fn repeat<'a>(
    sequence: &Value<'a>,
    times: Option<i128>,
    budget: &mut Budget,
) -> Result<Value<'a>, EvalError> {
    let times = times.unwrap_or(0);
    if i64::try_from(times).is_err() {
        return Err(EvalError::new(ErrorClass::OverflowError, "a repetition needs a smaller count"));
    }
    let (len, len_max) = match sequence {
        Value::Str(text) => (text.len(), TEXT_BYTES_MAX),
        Value::List(items) | Value::Tuple(items) => (items.len(), SEQUENCE_ITEMS_MAX),
        _ => return Err(EvalError::operand("'*'", sequence.kind())),
    };
    let total = times.max(0) * len as i128;
    require_length(usize::try_from(total).unwrap_or(usize::MAX), len_max)?;
    let total = total as usize;
    let cycle =
        |items: &Rc<[Value<'a>]>| -> Rc<[Value<'a>]> { items.iter().cycle().take(total).cloned().collect() };
    Ok(match sequence {
        Value::Str(text) => {
            budget.charge_text(total)?;
            Value::shared(text.repeat(if total == 0 { 0 } else { times as usize }))
        }
        Value::List(items) => {
            budget.charge(total)?;
            Value::List(cycle(items))
        }
        Value::Tuple(items) => {
            budget.charge(total)?;
            Value::Tuple(cycle(items))
        }
        _ => return Err(EvalError::operand("'*'", sequence.kind())),
    })
}

fn require_length(len: usize, len_max: usize) -> Result<(), EvalError> {
    if len > len_max {
        return Err(EvalError::new(
            ErrorClass::Limit,
            "a string of more than 16384 bytes or a sequence of more than 4096 items",
        ));
    }
    Ok(())
}
