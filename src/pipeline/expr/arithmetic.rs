//! The unary and binary operators: 128-bit integers that never wrap, CPython's float algorithms, and
//! what strings and sequences make of `+`, `*` and `|`.

use super::error::{ErrorClass, EvalError};
use super::number::divide_exactly;
use super::sequence;
use super::tree::{BinaryOperator, UnaryOperator};
use super::value::{Budget, Number, Value};

/// # Errors
/// TypeError for anything but numbers, OverflowLimit beyond 128 bits.
pub(super) fn unary<'a>(operator: UnaryOperator, operand: &Value<'a>) -> Result<Value<'a>, EvalError> {
    let (symbol, number) = match (operator, operand.number()) {
        (UnaryOperator::Plus, number) => ("unary +", number),
        (UnaryOperator::Minus, number) => ("unary -", number),
        (UnaryOperator::Invert, Some(Number::Float(_))) => ("unary ~", None),
        (UnaryOperator::Invert, number) => ("unary ~", number),
    };
    match (operator, number) {
        (UnaryOperator::Plus, Some(Number::Int(integer))) => Ok(Value::Int(integer)),
        (UnaryOperator::Minus, Some(Number::Int(integer))) => integer_or_limit(integer.checked_neg()),
        (UnaryOperator::Invert, Some(Number::Int(integer))) => Ok(Value::Int(!integer)),
        (UnaryOperator::Plus, Some(Number::Float(float))) => Ok(Value::Float(float)),
        (UnaryOperator::Minus, Some(Number::Float(float))) => Ok(Value::Float(-float)),
        (UnaryOperator::Invert, Some(Number::Float(_))) | (_, None) => {
            Err(EvalError::operand(symbol, operand.kind()))
        }
    }
}

/// # Errors
/// Python's exception for the operator, or one of the limits.
pub(super) fn binary<'a>(
    operator: BinaryOperator,
    left: Value<'a>,
    right: Value<'a>,
    budget: &mut Budget,
) -> Result<Value<'a>, EvalError> {
    if let (Value::Bool(left), Value::Bool(right)) = (&left, &right) {
        match operator {
            BinaryOperator::And => return Ok(Value::Bool(left & right)),
            BinaryOperator::Or => return Ok(Value::Bool(left | right)),
            BinaryOperator::Xor => return Ok(Value::Bool(left ^ right)),
            _ => {}
        }
    }
    match (left.number(), right.number()) {
        (Some(Number::Int(left)), Some(Number::Int(right))) => integers(operator, left, right),
        (Some(left_number), Some(right_number)) => {
            match floats(operator, left_number.to_float(), right_number.to_float()) {
                Some(result) => Ok(Value::Float(result?)),
                None => Err(EvalError::operands(operator.symbol(), left.kind(), right.kind())),
            }
        }
        _ => sequence::binary(operator, left, right, budget),
    }
}

fn integers<'a>(operator: BinaryOperator, left: i128, right: i128) -> Result<Value<'a>, EvalError> {
    match operator {
        BinaryOperator::Or => Ok(Value::Int(left | right)),
        BinaryOperator::Xor => Ok(Value::Int(left ^ right)),
        BinaryOperator::And => Ok(Value::Int(left & right)),
        BinaryOperator::ShiftLeft => shift_left(left, right),
        BinaryOperator::ShiftRight => {
            require_shift(right)?;
            Ok(Value::Int(left >> right.min(127)))
        }
        BinaryOperator::Add => integer_or_limit(left.checked_add(right)),
        BinaryOperator::Subtract => integer_or_limit(left.checked_sub(right)),
        BinaryOperator::Multiply => integer_or_limit(left.checked_mul(right)),
        BinaryOperator::Divide => {
            require_divisor(right != 0)?;
            Ok(Value::Float(divide_exactly(left, right)))
        }
        BinaryOperator::FloorDivide => {
            require_divisor(right != 0)?;
            integer_or_limit(left.checked_div(right).map(|quotient| {
                let inexact = quotient.wrapping_mul(right) != left;
                quotient - i128::from(inexact && (left < 0) != (right < 0))
            }))
        }
        BinaryOperator::Modulo => {
            require_divisor(right != 0)?;
            // The least integer has no remainder by -1, though the division overflows.
            let remainder = left.wrapping_rem(right);
            let other_side = remainder != 0 && (remainder < 0) != (right < 0);
            Ok(Value::Int(if other_side { remainder + right } else { remainder }))
        }
        BinaryOperator::Power if right < 0 => Ok(Value::Float(power(left as f64, right as f64)?)),
        BinaryOperator::Power => match (left, u32::try_from(right)) {
            (0 | 1, _) => Ok(Value::Int(if right == 0 { 1 } else { left })),
            (-1, _) => Ok(Value::Int(if right % 2 == 0 { 1 } else { -1 })),
            (_, Ok(exponent)) => integer_or_limit(left.checked_pow(exponent)),
            (_, Err(_)) => Err(EvalError::integer_limit()),
        },
    }
}

/// `None` for the operators floats do not have.
fn floats(operator: BinaryOperator, left: f64, right: f64) -> Option<Result<f64, EvalError>> {
    let divisible = || require_divisor(right != 0.0);
    Some(match operator {
        BinaryOperator::Add => Ok(left + right),
        BinaryOperator::Subtract => Ok(left - right),
        BinaryOperator::Multiply => Ok(left * right),
        BinaryOperator::Divide => divisible().map(|()| left / right),
        BinaryOperator::FloorDivide => divisible().map(|()| floor_divide(left, right).0),
        BinaryOperator::Modulo => divisible().map(|()| floor_divide(left, right).1),
        BinaryOperator::Power => power(left, right),
        _ => return None,
    })
}

/// Quotient and remainder (CPython's `_float_div_mod`).
fn floor_divide(left: f64, right: f64) -> (f64, f64) {
    let mut remainder = left % right;
    let mut quotient = (left - remainder) / right;
    if remainder == 0.0 {
        remainder = 0.0_f64.copysign(right);
    } else if (right < 0.0) != (remainder < 0.0) {
        remainder += right;
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return (0.0_f64.copysign(left / right), remainder);
    }
    let mut floor = quotient.floor();
    if quotient - floor > 0.5 {
        floor += 1.0;
    }
    (floor, remainder)
}

/// `base ** exponent` (CPython's `float_pow`).
fn power(base: f64, exponent: f64) -> Result<f64, EvalError> {
    if !base.is_finite() || !exponent.is_finite() {
        return Ok(base.powf(exponent));
    }
    if base == 0.0 && exponent < 0.0 {
        return Err(EvalError::new(ErrorClass::ZeroDivisionError, "zero to a negative power"));
    }
    let complex = base < 0.0 && exponent != exponent.floor();
    let result = if complex { base.abs().powf(exponent) } else { base.powf(exponent) };
    if result.is_infinite() {
        return Err(EvalError::new(ErrorClass::OverflowError, "the result of '**' is too large for a float"));
    }
    if complex {
        return Err(EvalError::new(
            ErrorClass::Unsupported,
            "a negative number to a fractional power is complex, which is not available",
        ));
    }
    Ok(result)
}

fn shift_left<'a>(left: i128, right: i128) -> Result<Value<'a>, EvalError> {
    require_shift(right)?;
    if left == 0 {
        return Ok(Value::Int(0));
    }
    let shifted = u32::try_from(right).ok().filter(|count| *count < 128).and_then(|count| {
        let shifted = left << count;
        (shifted >> count == left).then_some(shifted)
    });
    integer_or_limit(shifted)
}

fn require_shift(count: i128) -> Result<(), EvalError> {
    if count < 0 {
        return Err(EvalError::new(ErrorClass::ValueError, "a shift by a negative count"));
    }
    Ok(())
}

fn require_divisor(nonzero: bool) -> Result<(), EvalError> {
    if !nonzero {
        return Err(EvalError::new(ErrorClass::ZeroDivisionError, "a division by zero"));
    }
    Ok(())
}

pub(super) fn integer_or_limit<'a>(integer: Option<i128>) -> Result<Value<'a>, EvalError> {
    integer.map(Value::Int).ok_or_else(EvalError::integer_limit)
}
