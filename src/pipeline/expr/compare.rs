//! Equality, order and membership. Numbers compare by value whatever their types; everything else
//! only with its own.

use std::cmp::Ordering;

use super::error::EvalError;
use super::number::compare_exactly;
use super::tree::Comparison;
use super::value::{Budget, Dict, Number, Value};

/// One link of a chain of comparisons.
///
/// # Errors
/// TypeError where Python has no such comparison, Limit when the work is used up.
#[inline]
pub(super) fn holds(
    operator: Comparison,
    left: &Value<'_>,
    right: &Value<'_>,
    budget: &mut Budget,
) -> Result<bool, EvalError> {
    match operator {
        Comparison::Equal => equal(left, right, budget),
        Comparison::NotEqual => Ok(!equal(left, right, budget)?),
        Comparison::In => contains(right, left, budget),
        Comparison::NotIn => Ok(!contains(right, left, budget)?),
        Comparison::Is => Ok(same_singleton(left, right)),
        Comparison::IsNot => Ok(!same_singleton(left, right)),
        Comparison::Less | Comparison::LessEqual | Comparison::Greater | Comparison::GreaterEqual => {
            if let (Value::Float(left), Value::Float(right)) = (left, right) {
                return Ok(ordered(operator, left.partial_cmp(right)));
            }
            in_order(operator, left, right, budget)
        }
    }
}

/// `left == right`.
pub(super) fn equal(left: &Value<'_>, right: &Value<'_>, budget: &mut Budget) -> Result<bool, EvalError> {
    if let (Value::Str(left), Value::Str(right)) = (left, right) {
        if left.len() != right.len() {
            return Ok(false);
        }
        budget.charge_text(left.len())?;
        return Ok(**left == **right);
    }
    if let (Some(left), Some(right)) = (left.number(), right.number()) {
        return Ok(compare_numbers(left, right) == Some(Ordering::Equal));
    }
    match (left, right) {
        (Value::None, Value::None) => Ok(true),
        (Value::List(left), Value::List(right)) | (Value::Tuple(left), Value::Tuple(right)) => {
            if left.len() != right.len() {
                return Ok(false);
            }
            Ok(first_difference(left, right, budget)?.is_none())
        }
        (Value::Dict(left), Value::Dict(right)) => {
            if left.entries.len() != right.entries.len() {
                return Ok(false);
            }
            for (key, value) in &left.entries {
                match find(right, key, budget)? {
                    Some(other) if equal(value, other, budget)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// The value under an equal key, the key being hashable.
pub(super) fn find<'d, 'a>(
    dict: &'d Dict<'a>,
    key: &Value<'_>,
    budget: &mut Budget,
) -> Result<Option<&'d Value<'a>>, EvalError> {
    for (candidate, value) in &dict.entries {
        budget.charge(1)?;
        if equal(candidate, key, budget)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn in_order(
    operator: Comparison,
    left: &Value<'_>,
    right: &Value<'_>,
    budget: &mut Budget,
) -> Result<bool, EvalError> {
    if let (Some(left), Some(right)) = (left.number(), right.number()) {
        return Ok(ordered(operator, compare_numbers(left, right)));
    }
    match (left, right) {
        // UTF-8 sorts by code point, as Python's strings do.
        (Value::Str(left), Value::Str(right)) => {
            budget.charge_text(left.len().min(right.len()))?;
            Ok(ordered(operator, Some((**left).cmp(&**right))))
        }
        (Value::List(left), Value::List(right)) | (Value::Tuple(left), Value::Tuple(right)) => {
            match first_difference(left, right, budget)? {
                Some(at) => in_order(operator, &left[at], &right[at], budget),
                None => Ok(ordered(operator, Some(left.len().cmp(&right.len())))),
            }
        }
        _ => Err(EvalError::operands(operator.symbol(), left.kind(), right.kind())),
    }
}

fn contains(container: &Value<'_>, item: &Value<'_>, budget: &mut Budget) -> Result<bool, EvalError> {
    match container {
        Value::Str(text) => match item {
            Value::Str(part) => {
                budget.charge_text(text.len() + part.len())?;
                Ok(text.contains(&**part))
            }
            _ => Err(EvalError::operands("in", item.kind(), container.kind())),
        },
        Value::List(items) | Value::Tuple(items) => any_equal(items, item, budget),
        Value::Set(items) => {
            item.require_hashable()?;
            any_equal(items, item, budget)
        }
        Value::Dict(dict) => {
            item.require_hashable()?;
            Ok(find(dict, item, budget)?.is_some())
        }
        _ => Err(EvalError::operands("in", item.kind(), container.kind())),
    }
}

fn any_equal(items: &[Value<'_>], item: &Value<'_>, budget: &mut Budget) -> Result<bool, EvalError> {
    for candidate in items {
        budget.charge(1)?;
        if equal(candidate, item, budget)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where two sequences first differ within the length of the shorter.
fn first_difference(
    left: &[Value<'_>],
    right: &[Value<'_>],
    budget: &mut Budget,
) -> Result<Option<usize>, EvalError> {
    for (at, (left, right)) in left.iter().zip(right).enumerate() {
        budget.charge(1)?;
        if !equal(left, right, budget)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Identity where the parser allows it: one side is None, True or False.
fn same_singleton(left: &Value<'_>, right: &Value<'_>) -> bool {
    match (left, right) {
        (Value::None, Value::None) => true,
        (Value::Bool(left), Value::Bool(right)) => left == right,
        _ => false,
    }
}

fn compare_numbers(left: Number, right: Number) -> Option<Ordering> {
    match (left, right) {
        (Number::Int(left), Number::Int(right)) => Some(left.cmp(&right)),
        (Number::Float(left), Number::Float(right)) => left.partial_cmp(&right),
        (Number::Int(left), Number::Float(right)) => compare_exactly(left, right),
        (Number::Float(left), Number::Int(right)) => compare_exactly(right, left).map(Ordering::reverse),
    }
}

fn ordered(operator: Comparison, ordering: Option<Ordering>) -> bool {
    match operator {
        Comparison::Less => ordering.is_some_and(Ordering::is_lt),
        Comparison::LessEqual => ordering.is_some_and(Ordering::is_le),
        Comparison::Greater => ordering.is_some_and(Ordering::is_gt),
        Comparison::GreaterEqual => ordering.is_some_and(Ordering::is_ge),
        _ => false,
    }
}
