//! Numbers as CPython computes them: exact division and comparison of integers with floats, `round`
//! half to even on the decimal value, and the texts `int()` and `float()` take.

use std::cmp::Ordering;
use std::fmt::Write;

use super::error::{ErrorClass, EvalError};

/// `left / right`, correctly rounded (CPython's `long_true_divide`). `right` is not zero.
pub(super) fn divide_exactly(left: i128, right: i128) -> f64 {
    let (dividend, divisor) = (left.unsigned_abs(), right.unsigned_abs());
    if dividend <= FLOAT_EXACT_MAX && divisor <= FLOAT_EXACT_MAX {
        return left as f64 / right as f64;
    }
    let (mut quotient, mut remainder) = (dividend / divisor, dividend % divisor);
    let mut scale = 1.0;
    // Two bits more than a float holds; what is below them only decides ties.
    while quotient < 1 << 55 && (quotient != 0 || remainder != 0) {
        remainder <<= 1;
        let bit = remainder >= divisor;
        if bit {
            remainder -= divisor;
        }
        quotient = quotient << 1 | u128::from(bit);
        scale *= 0.5;
    }
    let sticky = u128::from(remainder != 0);
    let magnitude = (quotient | sticky) as f64 * scale;
    if (left < 0) == (right < 0) { magnitude } else { -magnitude }
}

/// Compares without rounding either; `None` for NaN.
pub(super) fn compare_exactly(integer: i128, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    if float >= INTEGER_END {
        return Some(Ordering::Less);
    }
    if float < -INTEGER_END {
        return Some(Ordering::Greater);
    }
    let whole = float.trunc();
    Some(integer.cmp(&(whole as i128)).then_with(|| 0.0_f64.partial_cmp(&(float - whole)).expect("no NaN")))
}

/// `int(float)`.
pub(super) fn truncate(float: f64) -> Result<i128, EvalError> {
    if float.is_nan() {
        return Err(EvalError::new(ErrorClass::ValueError, "NaN has no integer value"));
    }
    if float.is_infinite() {
        return Err(EvalError::new(ErrorClass::OverflowError, "infinity has no integer value"));
    }
    let whole = float.trunc();
    if !(-INTEGER_END..INTEGER_END).contains(&whole) {
        return Err(EvalError::integer_limit());
    }
    Ok(whole as i128)
}

/// `round(integer, digits)` for negative digits.
pub(super) fn round_integer(integer: i128, digits: i128) -> Result<i128, EvalError> {
    if digits >= 0 {
        return Ok(integer);
    }
    // 10**39 is more than twice the largest integer, so all round to zero.
    let Some(unit) = u32::try_from(digits.unsigned_abs()).ok().and_then(|power| 10_u128.checked_pow(power))
    else {
        return Ok(0);
    };
    let magnitude = integer.unsigned_abs();
    let (mut count, rest) = (magnitude / unit, magnitude % unit);
    match rest.cmp(&(unit - rest)) {
        Ordering::Greater => count += 1,
        Ordering::Equal => count += count % 2,
        Ordering::Less => {}
    }
    let rounded = count.checked_mul(unit).and_then(|rounded| i128::try_from(rounded).ok());
    match rounded {
        Some(rounded) => Ok(if integer < 0 { -rounded } else { rounded }),
        None => Err(EvalError::integer_limit()),
    }
}

/// `round(float, digits)`: half to even on the exact decimal value.
pub(super) fn round_float(float: f64, digits: i128) -> Result<f64, EvalError> {
    if !float.is_finite() || digits > ROUND_DIGITS_MAX {
        return Ok(float);
    }
    if digits < ROUND_DIGITS_MIN {
        return Ok(0.0 * float);
    }
    let rounded = if digits >= 0 {
        let mut text = Digits::default();
        write!(text, "{float:.*}", digits as usize).expect("the buffer holds the longest float");
        text.as_str().parse().expect("Rust reads what it wrote")
    } else {
        round_left_of_point(float, digits.unsigned_abs() as usize)
    };
    if rounded.is_infinite() {
        return Err(EvalError::new(ErrorClass::OverflowError, "the rounded value is too large"));
    }
    Ok(rounded)
}

/// `int(text, base)`; the base is 0 or 2 to 36.
pub(super) fn parse_integer(text: &str, base: u32) -> Result<i128, EvalError> {
    let malformed = || malformed(text, "int() was given a text that is no integer");
    let text = text.trim();
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let prefix = match unsigned.get(..2) {
        Some("0x" | "0X") => 16,
        Some("0o" | "0O") => 8,
        Some("0b" | "0B") => 2,
        _ => 0,
    };
    let (base, digits, plain_zero) = match (base, prefix) {
        (0, 0) => (10, unsigned, unsigned.starts_with('0')),
        (0, _) => (prefix, &unsigned[2..], false),
        _ if base == prefix => (base, &unsigned[2..], false),
        _ => (base, unsigned, false),
    };
    let prefixed = digits.len() != unsigned.len();
    let digits = if prefixed { digits.strip_prefix('_').unwrap_or(digits) } else { digits };

    let (mut count, mut after_digit, mut value) = (0, false, Some(0_i128));
    for character in digits.chars() {
        if character == '_' && after_digit {
            after_digit = false;
            continue;
        }
        let digit = character.to_digit(base).ok_or_else(malformed)?;
        if plain_zero && digit != 0 {
            return Err(malformed());
        }
        let digit = i128::from(digit);
        // Built up on the side of the sign, so that the least integer is reached too.
        let digit = if negative { -digit } else { digit };
        value = value.and_then(|value| value.checked_mul(i128::from(base))?.checked_add(digit));
        after_digit = true;
        count += 1;
    }
    if !after_digit {
        return Err(malformed());
    }
    if count > TEXT_DIGITS_MAX && !base.is_power_of_two() {
        return Err(EvalError::new(ErrorClass::ValueError, "int() was given more than 4300 digits"));
    }
    value.ok_or_else(EvalError::integer_limit)
}

/// `float(text)`.
pub(super) fn parse_float(text: &str) -> Result<f64, EvalError> {
    let malformed = || malformed(text, "float() was given a text that is no number");
    let text = text.trim();
    if !text.contains('_') {
        return text.parse().map_err(|_| malformed());
    }
    let bytes = text.as_bytes();
    let between_digits = |at: usize| {
        at > 0 && bytes[at - 1].is_ascii_digit() && bytes.get(at + 1).is_some_and(u8::is_ascii_digit)
    };
    if (0..bytes.len()).any(|at| bytes[at] == b'_' && !between_digits(at)) {
        return Err(malformed());
    }
    text.replace('_', "").parse().map_err(|_| malformed())
}

/// Rounds to a multiple of `10**power`, from all digits the float has.
fn round_left_of_point(float: f64, power: usize) -> f64 {
    let exact = format!("{:.*e}", SIGNIFICANT_DIGITS_MAX, float.abs());
    let (mantissa, exponent) = exact.split_once('e').expect("the exponent form has an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is an integer");
    let digits: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).collect();
    // How many digits stay; with none, the first digit decides between zero and one unit.
    let kept = exponent + 1 - power as i32;
    if kept < 0 {
        return 0.0_f64.copysign(float);
    }
    let (head, tail) = digits.split_at(kept as usize);
    let above_half = tail[0] > b'5' || tail[0] == b'5' && tail[1..].iter().any(|&digit| digit != b'0');
    let half = tail[0] == b'5' && !above_half;
    let odd = head.last().is_some_and(|digit| digit % 2 == 1);
    let mut head = head.to_vec();
    if above_half || half && odd {
        match head.iter().rposition(|&digit| digit != b'9') {
            Some(at) => {
                head[at] += 1;
                head[at + 1..].fill(b'0');
            }
            None => {
                head.fill(b'0');
                head.insert(0, b'1');
            }
        }
    }
    let head = String::from_utf8(head).expect("digits are ASCII");
    let magnitude: f64 = if head.is_empty() {
        0.0
    } else {
        format!("{head}e{power}").parse().expect("digits and an exponent are a float")
    };
    magnitude.copysign(float)
}

/// Python reads the decimal digits of every script. Those texts are told apart, so that the
/// difference shows.
fn malformed(text: &str, message: &'static str) -> EvalError {
    if text.chars().any(|character| !character.is_ascii() && character.is_numeric()) {
        return EvalError::new(ErrorClass::Unsupported, "digits other than 0 to 9 are not read");
    }
    EvalError::new(ErrorClass::ValueError, message)
}

/// A float in fixed notation, off the heap.
struct Digits {
    bytes: [u8; FIXED_BYTES_MAX],
    len: usize,
}

impl Default for Digits {
    fn default() -> Self {
        Self { bytes: [0; FIXED_BYTES_MAX], len: 0 }
    }
}

impl Digits {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("only strings are written")
    }
}

impl Write for Digits {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// 2**53: up to here every integer is a float.
const FLOAT_EXACT_MAX: u128 = 1 << 53;
/// 2**127, the first float beyond the integers.
const INTEGER_END: f64 = 170_141_183_460_469_231_731_687_303_715_884_105_728.0;
/// Beyond these CPython does not look at the digits (`float___round___impl`).
const ROUND_DIGITS_MAX: i128 = 323;
const ROUND_DIGITS_MIN: i128 = -308;
/// A double has at most 767 significant decimal digits.
const SIGNIFICANT_DIGITS_MAX: usize = 780;
/// Sign, 309 digits, the point, 323 digits.
const FIXED_BYTES_MAX: usize = 640;
/// CPython's limit on texts given to `int()` (since 3.10.7).
const TEXT_DIGITS_MAX: usize = 4300;
