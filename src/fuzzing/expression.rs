//! Conditions of rules, compiled and evaluated.
//!
//! The first line of the input is the metadata, the second `value timestamp unit sensor_name`, and the
//! rest the expression.

use rustix::time::{ClockId, clock_gettime};

use crate::pipeline::expr::{
    Context, ErrorClass, EvalError, Expression, SEQUENCE_ITEMS_MAX, TEXT_BYTES_MAX, Value,
};
use crate::reading::Reading;

pub(super) fn run(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let (metadata, rest) = text.split_once('\n').unwrap_or(("{}", text));
    let (fields, expression) = rest.split_once('\n').unwrap_or(("1", rest));
    let reading = reading(fields, metadata);

    let began_at = cpu_seconds();
    let compiled = Expression::compile(expression);
    assert!(cpu_seconds() - began_at < SECONDS_MAX, "compiling takes too long");
    let compiled = match compiled {
        Ok(compiled) => compiled,
        Err(error) => {
            assert!((1..=expression.chars().count() + 1).contains(&error.column), "{error}");
            assert!(!error.message.is_empty() && error.message.len() <= MESSAGE_BYTES_MAX);
            let again = Expression::compile(expression).map(|_| ());
            return assert_eq!(again, Err(error), "one text, two refusals");
        }
    };
    let ctx = Context::new(reading);
    let value = measured(|| compiled.evaluate(&ctx));
    let truth = measured(|| compiled.is_true(&ctx));
    match (&value, &truth) {
        (Ok(value), Ok(truth)) => {
            assert_eq!(value.is_true(), *truth);
            check_value(value);
        }
        (Err(error), Err(other)) => assert_eq!(error, other),
        // Without making the value the steps last longer.
        (Err(EvalError { class: ErrorClass::Limit, .. }), Ok(_)) => {}
        _ => panic!("{value:?} is {truth:?}"),
    }
    if let Err(error) = &value {
        assert!((1..=expression.chars().count() + 1).contains(&usize::from(error.column)), "{error}");
    }
    let again = compiled.evaluate(&Context::new(reading));
    assert_eq!(format!("{value:?}"), format!("{again:?}"), "one reading, two values");
}

fn reading<'t>(fields: &'t str, metadata: &'t str) -> Reading<'t> {
    let mut fields = fields.splitn(4, ' ');
    let mut number = |default: f64| {
        let number = fields.next().and_then(|text| text.parse::<f64>().ok());
        // The pipeline has seen to that.
        number.filter(|number| number.is_finite()).unwrap_or(default)
    };
    let (value, timestamp) = (number(1.0), number(1_717_156_800.0));
    let (unit, sensor_name) = (fields.next().unwrap_or("C"), fields.next().unwrap_or("boiler"));
    Reading { sensor_name, timestamp, value, unit, metadata }
}

/// Runs it within the time that its steps may take.
fn measured<T>(evaluate: impl FnOnce() -> T) -> T {
    let began_at = cpu_seconds();
    let result = evaluate();
    let took = cpu_seconds() - began_at;
    assert!(took < SECONDS_MAX, "one evaluation takes {took} s");
    result
}

fn check_value(value: &Value<'_>) {
    match value {
        Value::Str(text) => assert!(text.len() <= TEXT_BYTES_MAX),
        Value::List(items) | Value::Tuple(items) => assert!(items.len() <= SEQUENCE_ITEMS_MAX),
        Value::Set(_) => panic!("a set is only ever the right side of `in`"),
        _ => {}
    }
}

/// Of this thread: what else the machine does is of no account.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// 50,000 steps take a few milliseconds on a board; a build that checks every access of memory is slower.
const SECONDS_MAX: f64 = 0.5;
const MESSAGE_BYTES_MAX: usize = 1024;
