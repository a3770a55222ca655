//! abs, max, min, sum, len, round, float, int and bool. The parser has checked how many arguments
//! there are.

use super::arithmetic::{self, integer_or_limit};
use super::compare;
use super::error::{ErrorClass, EvalError};
use super::number;
use super::sequence::{self, Items};
use super::tree::{BinaryOperator, Builtin, Comparison};
use super::value::{Budget, Number, Value};

/// # Errors
/// Python's exception for the call, or one of the limits.
pub(super) fn call<'a>(
    builtin: Builtin,
    arguments: &[Value<'a>],
    budget: &mut Budget,
) -> Result<Value<'a>, EvalError> {
    match (builtin, arguments) {
        (Builtin::Abs, [value]) => absolute(value),
        (Builtin::Len, [value]) => len(value),
        (Builtin::Bool, []) => Ok(Value::Bool(false)),
        (Builtin::Bool, [value]) => Ok(Value::Bool(value.is_true())),
        (Builtin::Float, []) => Ok(Value::Float(0.0)),
        (Builtin::Float, [value]) => float(value, budget),
        (Builtin::Int, []) => Ok(Value::Int(0)),
        (Builtin::Int, [value]) => integer(value, budget),
        (Builtin::Int, [value, base]) => integer_of_base(value, base, budget),
        (Builtin::Round, [value]) => round(value, &Value::None),
        (Builtin::Round, [value, digits]) => round(value, digits),
        (Builtin::Sum, [items]) => sum(items, Value::Int(0), budget),
        (Builtin::Sum, [items, start]) => sum(items, start.clone(), budget),
        (Builtin::Max | Builtin::Min, [items]) => {
            extremum(builtin, Items::new(items.clone(), builtin.name())?, budget)?.ok_or_else(|| {
                EvalError::new(ErrorClass::ValueError, "max() or min() of an empty sequence without default=")
            })
        }
        (Builtin::MaxDefault | Builtin::MinDefault, [items, default]) => {
            let found = extremum(builtin, Items::new(items.clone(), builtin.name())?, budget)?;
            Ok(found.unwrap_or_else(|| default.clone()))
        }
        (Builtin::Max | Builtin::Min, values) => {
            extremum(builtin, values.iter().cloned(), budget)?.ok_or_else(|| wrong_arguments(builtin))
        }
        _ => Err(wrong_arguments(builtin)),
    }
}

/// The first of the greatest or least values; `None` when there are none.
fn extremum<'a>(
    builtin: Builtin,
    values: impl Iterator<Item = Value<'a>>,
    budget: &mut Budget,
) -> Result<Option<Value<'a>>, EvalError> {
    let better = match builtin {
        Builtin::Max | Builtin::MaxDefault => Comparison::Greater,
        _ => Comparison::Less,
    };
    let mut best: Option<Value<'a>> = None;
    for value in values {
        budget.charge(1)?;
        match &best {
            Some(held) if !compare::holds(better, &value, held, budget)? => {}
            _ => best = Some(value),
        }
    }
    Ok(best)
}

/// Adds from the left without compensation, as Python does up to 3.11; later ones round a long sum
/// of floats more exactly.
fn sum<'a>(items: &Value<'a>, start: Value<'a>, budget: &mut Budget) -> Result<Value<'a>, EvalError> {
    let items = Items::new(items.clone(), "sum")?;
    if let Value::Str(_) = start {
        return Err(EvalError::operand("the start of sum", start.kind()));
    }
    let mut total = start;
    for item in items {
        budget.charge(1)?;
        total = arithmetic::binary(BinaryOperator::Add, total, item, budget)?;
    }
    Ok(total)
}

fn absolute<'a>(value: &Value<'_>) -> Result<Value<'a>, EvalError> {
    match value.number() {
        Some(Number::Int(integer)) => integer_or_limit(integer.checked_abs()),
        Some(Number::Float(float)) => Ok(Value::Float(float.abs())),
        None => Err(EvalError::operand("abs", value.kind())),
    }
}

fn len<'a>(value: &Value<'_>) -> Result<Value<'a>, EvalError> {
    let len = match value {
        Value::Str(text) => sequence::length(text),
        Value::List(items) | Value::Tuple(items) => items.len(),
        Value::Dict(dict) => dict.entries.len(),
        _ => return Err(EvalError::operand("len", value.kind())),
    };
    Ok(Value::Int(len as i128))
}

fn round<'a>(value: &Value<'_>, digits: &Value<'_>) -> Result<Value<'a>, EvalError> {
    let Some(number) = value.number() else {
        return Err(EvalError::operand("round", value.kind()));
    };
    if let Value::None = digits {
        return Ok(Value::Int(match number {
            Number::Int(integer) => integer,
            Number::Float(float) => number::truncate(float.round_ties_even())?,
        }));
    }
    let Some(digits) = digits.index() else {
        return Err(EvalError::operand("the count of digits", digits.kind()));
    };
    match number {
        Number::Int(integer) => Ok(Value::Int(number::round_integer(integer, digits)?)),
        Number::Float(float) => Ok(Value::Float(number::round_float(float, digits)?)),
    }
}

fn float<'a>(value: &Value<'_>, budget: &mut Budget) -> Result<Value<'a>, EvalError> {
    match (value, value.number()) {
        (Value::Str(text), _) => {
            budget.charge_text(text.len())?;
            Ok(Value::Float(number::parse_float(text)?))
        }
        (_, Some(number)) => Ok(Value::Float(number.to_float())),
        _ => Err(EvalError::operand("float", value.kind())),
    }
}

fn integer<'a>(value: &Value<'_>, budget: &mut Budget) -> Result<Value<'a>, EvalError> {
    match (value, value.number()) {
        (Value::Str(text), _) => {
            budget.charge_text(text.len())?;
            Ok(Value::Int(number::parse_integer(text, 10)?))
        }
        (_, Some(Number::Int(integer))) => Ok(Value::Int(integer)),
        (_, Some(Number::Float(float))) => Ok(Value::Int(number::truncate(float)?)),
        _ => Err(EvalError::operand("int", value.kind())),
    }
}

fn integer_of_base<'a>(
    value: &Value<'_>,
    base: &Value<'_>,
    budget: &mut Budget,
) -> Result<Value<'a>, EvalError> {
    let Some(given) = base.index() else {
        return Err(EvalError::operand("the base of int", base.kind()));
    };
    let base = u32::try_from(given).ok().filter(|base| *base == 0 || (2..=36).contains(base));
    let Some(base) = base else {
        return Err(EvalError::new(ErrorClass::ValueError, "the base of int is 0 or 2 to 36"));
    };
    match value {
        Value::Str(text) => {
            budget.charge_text(text.len())?;
            Ok(Value::Int(number::parse_integer(text, base)?))
        }
        _ => Err(EvalError::operand("int with a base", value.kind())),
    }
}

fn wrong_arguments(builtin: Builtin) -> EvalError {
    EvalError::new(ErrorClass::TypeError, builtin.name())
}
