//! Conditions mean what CPython makes of them: generated expressions are evaluated on both sides and
//! every value and every class of error is compared.

mod generator;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use pyvorin_edge::pipeline::expr::{Context, Expression, Previous, Value};
use pyvorin_edge::pipeline::window;
use pyvorin_edge::reading::Reading;
use serde_json::{Value as Json, json};

use generator::{Generator, Sample};

#[test]
fn generated_conditions_mean_what_cpython_makes_of_them() {
    let pairs = setting("RULES_ORACLE_PAIRS", 20_000);
    let mut generator = Generator::new(setting("RULES_ORACLE_SEED", 1));
    let samples: Vec<Sample> = (0..pairs).map(|_| generator.sample()).collect();
    let tally = compare(&samples);

    println!("{tally:?}");
    assert_eq!(tally.disagreements, 0);
    // The comparison means little when nearly everything fails on both sides.
    assert!(tally.values * 3 > samples.len(), "{tally:?}");
    assert!(tally.errors * 20 > samples.len(), "{tally:?}");
}

#[test]
fn what_this_language_accepts_cpython_accepts_too() {
    let mut generator = Generator::new(setting("RULES_ORACLE_SEED", 2));
    let samples: Vec<Sample> =
        (0..setting("RULES_ORACLE_PAIRS", 4_000)).map(|_| generator.token_soup()).collect();
    let tally = compare(&samples);

    println!("{tally:?}");
    assert_eq!(tally.disagreements, 0);
    assert!(tally.values + tally.errors > 100, "{tally:?}");
}

#[test]
fn operators_without_brackets_bind_as_in_cpython() {
    let mut generator = Generator::new(setting("RULES_ORACLE_SEED", 3));
    let samples: Vec<Sample> =
        (0..setting("RULES_ORACLE_PAIRS", 5_000)).map(|_| generator.unbracketed()).collect();
    let tally = compare(&samples);

    println!("{tally:?}");
    assert_eq!(tally.disagreements, 0);
    assert!(tally.values > 1_000, "{tally:?}");
}

#[test]
fn literals_are_those_of_cpython() {
    let mut generator = Generator::new(setting("RULES_ORACLE_SEED", 4));
    let samples: Vec<Sample> =
        (0..setting("RULES_ORACLE_PAIRS", 5_000)).map(|_| generator.literal()).collect();
    let tally = compare(&samples);

    println!("{tally:?}");
    assert_eq!(tally.disagreements, 0);
    assert!(tally.values > 500 && tally.refused > 500, "{tally:?}");
}

#[test]
fn chosen_conditions_mean_what_cpython_makes_of_them() {
    let samples: Vec<Sample> =
        include_str!("../oracle/conditions.txt").lines().map(Sample::of_text).collect();
    let tally = compare(&samples);

    println!("{tally:?}");
    assert_eq!(tally.disagreements, 0);
    assert_eq!(tally.refused, 0, "each of them is to be available");
}

/// A long run asks for more pairs, or others, by environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("the setting is a number"))
}

#[derive(Debug, Default)]
struct Tally {
    values: usize,
    errors: usize,
    /// One of the documented limits, on both sides.
    limits: usize,
    /// Refused by the compiler here.
    refused: usize,
    disagreements: usize,
}

/// Sends all samples through one CPython and holds its answers against ours.
fn compare(samples: &[Sample]) -> Tally {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/expressions.py");
    let mut python = Command::new("python3")
        .args(["-I", "-X", "utf8", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is missing; install it with: apt-get install python3");
    let mut requests = python.stdin.take().expect("stdin is piped");
    let answers = BufReader::new(python.stdout.take().expect("stdout is piped"));
    let mut tally = Tally::default();
    let mut answered = 0;
    std::thread::scope(|scope| {
        // Beside the reader, since either pipe may fill up first.
        scope.spawn(move || {
            for sample in samples {
                writeln!(requests, "{}", sample.request()).expect("python3 reads to the end");
            }
        });
        for (sample, line) in samples.iter().zip(answers.lines()) {
            let theirs = serde_json::from_str(&line.expect("python3 writes to the end")).expect("JSON");
            judge(sample, &theirs, &mut tally);
            answered += 1;
        }
    });
    assert!(python.wait().expect("python3 ends").success());
    assert_eq!(answered, samples.len());
    tally
}

fn judge(sample: &Sample, theirs: &Json, tally: &mut Tally) {
    let ours = match Expression::compile(&sample.expression) {
        Err(refusal) => {
            tally.refused += 1;
            // Python notices an unknown name or attribute only when it evaluates it.
            let unknown = theirs["error"] == "NameError" || theirs["error"] == "AttributeError";
            let refused_as_well = theirs.get("syntax").is_some() || unknown;
            if sample.must_compile && !refused_as_well {
                tally.disagreements += 1;
                eprintln!("{}\n  ours: {refusal}\n  theirs: {theirs}", sample.expression);
            }
            return;
        }
        Ok(expression) => {
            let ctx = sample.context();
            let result = expression.evaluate(&ctx);
            let truth = result.as_ref().map(Value::is_true).map_err(|error| *error);
            assert_eq!(expression.is_true(&ctx), truth, "{}", sample.expression);
            match result {
                Ok(value) => json!({ "value": tagged(&value) }),
                Err(error) => match error.class.name() {
                    limit @ ("OverflowLimit" | "Limit" | "Unsupported") => json!({ "limit": limit }),
                    class => json!({ "error": class }),
                },
            }
        }
    };
    match ours.as_object().and_then(|ours| ours.keys().next()).map(String::as_str) {
        Some("value") => tally.values += 1,
        Some("error") => tally.errors += 1,
        _ => tally.limits += 1,
    }
    if ours != *theirs {
        tally.disagreements += 1;
        if tally.disagreements <= DISAGREEMENTS_SHOWN {
            eprintln!("{}\n  of {}\n  ours: {ours}\n  theirs: {theirs}", sample.expression, sample.request());
        }
    }
}

/// As the oracle writes values: with their types, floats to the last bit.
fn tagged(value: &Value<'_>) -> Json {
    let many = |name: &str, items: &[Value<'_>]| {
        Json::Array(std::iter::once(json!(name)).chain(items.iter().map(tagged)).collect())
    };
    match value {
        Value::None => json!("None"),
        Value::Bool(true) => json!("True"),
        Value::Bool(false) => json!("False"),
        Value::Int(integer) => json!(["int", integer.to_string()]),
        Value::Float(float) if float.is_nan() => json!(["float", "nan"]),
        Value::Float(float) => json!(["float", hexadecimal(*float)]),
        Value::Str(text) => json!(["str", &**text]),
        Value::List(items) => many("list", items),
        Value::Tuple(items) => many("tuple", items),
        Value::Set(items) => many("set", items),
        Value::Dict(dict) => {
            let entries = dict.entries().map(|(key, item)| json!([tagged(key), tagged(item)]));
            Json::Array(std::iter::once(json!("dict")).chain(entries).collect())
        }
    }
}

/// Python's `float.hex()`.
fn hexadecimal(float: f64) -> String {
    let sign = if float.is_sign_negative() { "-" } else { "" };
    let bits = float.to_bits();
    let (exponent, fraction) = (bits >> 52 & 0x7ff, bits & ((1 << 52) - 1));
    match (exponent, fraction) {
        (0x7ff, _) => format!("{sign}inf"),
        (0, 0) => format!("{sign}0x0.0p+0"),
        (0, _) => format!("{sign}0x0.{fraction:013x}p-1022"),
        _ => format!("{sign}0x1.{fraction:013x}p{:+}", exponent as i64 - 1023),
    }
}

impl Sample {
    fn reading(&self) -> Reading<'_> {
        Reading {
            sensor_name: &self.sensor_name,
            timestamp: self.timestamp,
            value: self.value,
            unit: &self.unit,
            metadata: &self.metadata,
        }
    }

    fn context(&self) -> Context<'_> {
        let mut ctx = Context::new(self.reading());
        ctx.set_previous(self.previous.map(|(value, timestamp)| Previous { value, timestamp }));
        let Some(count) = self.window else { return ctx };
        ctx.with_window(window::Values {
            mean: 70.25,
            max: 90.0,
            min: -0.0,
            std: 1.5,
            sum: 843.0,
            count: count.into(),
            start: 1_717_156_800.0,
            end: 1_717_156_860.0,
            ..window::Values::default()
        })
    }

    fn request(&self) -> Json {
        json!({
            "expression": self.expression,
            "sensor_name": self.sensor_name,
            "timestamp": format!("{:?}", self.timestamp),
            "value": format!("{:?}", self.value),
            "unit": self.unit,
            "metadata": self.metadata,
            "previous": self.previous.map(|(value, timestamp)| [format!("{value:?}"), format!("{timestamp:?}")]),
            "window": self.window,
        })
    }
}

const DISAGREEMENTS_SHOWN: usize = 20;
