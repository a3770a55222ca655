//! The privacy audit trail: records chained by their hashes, so that a change to one shows.
//!
//! Pure: the store writes the records and reads them back for [`super::chain`].

use std::fmt::Write;

use ring::digest::{SHA256, digest};
use serde_json::{Number, Value, json};

use super::Settings;
use super::key::push_hex;

/// One record, as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditRecord {
    /// Unix seconds UTC.
    pub timestamp: f64,
    pub action: String,
    /// Canonical JSON, to be stored as it is: its bytes are what is hashed.
    pub details: String,
    /// The `record_hash` of the record before, [`GENESIS`] for the first.
    pub prev_hash: String,
    /// SHA-256 in lower-case hexadecimal over the canonical JSON of the other four.
    pub record_hash: String,
}

/// The record that follows the one with the hash `prev_hash`.
///
/// `timestamp` is in Unix seconds UTC; one that is not finite has no JSON form and becomes 0.
pub fn next_record(prev_hash: &str, action: &str, details: &Value, timestamp: f64) -> AuditRecord {
    let mut record = AuditRecord {
        timestamp: if timestamp.is_finite() { timestamp } else { 0.0 },
        action: action.to_owned(),
        details: canonical(details),
        prev_hash: prev_hash.to_owned(),
        record_hash: String::new(),
    };
    record.record_hash = hash(&record);
    record
}

/// The JSON text of `value` with sorted keys and no spaces.
///
/// Byte for byte what CPython 3 prints for
/// `json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)`: keys sorted by
/// code point, control characters as `\b \f \n \r \t` or `\u00xx`, integers in decimal, floats in
/// the shortest form that reads back the same, with an exponent below 1e-4 and from 1e16 on.
pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    push_value(value, &mut out);
    out
}

impl Settings {
    /// What the record of a loaded policy says: whether it is on, its lists, and their hash
    /// (`policy_hash`, SHA-256 of the canonical JSON of the rest).
    pub fn audit_details(&self) -> Value {
        let mut details = self.lists();
        let policy_hash = sha256_hex(&canonical(&details));
        details["policy_hash"] = policy_hash.into();
        details
    }

    /// By which records refer to this policy.
    pub fn policy_hash(&self) -> String {
        sha256_hex(&canonical(&self.lists()))
    }

    fn lists(&self) -> Value {
        let rules = self.rules.iter();
        let mut details = json!({
            "enabled": self.enabled,
            "rules": rules
                .map(|rule| json!({ "sensor": rule.sensor, "action": rule.action.name() }))
                .collect::<Value>(),
        });
        for (name, _, list) in self.field_lists() {
            details[name] = list.iter().map(|pattern| Value::from(pattern.0.as_str())).collect();
        }
        details
    }
}

/// What `record_hash` has to be. `details` goes in as it is stored, so checking needs no parser and no float is read back.
pub fn hash(record: &AuditRecord) -> String {
    let mut text = String::from(r#"{"action":"#);
    push_string(&record.action, &mut text);
    text.push_str(r#","details":"#);
    text.push_str(&record.details);
    text.push_str(r#","prev_hash":"#);
    push_string(&record.prev_hash, &mut text);
    text.push_str(r#","timestamp":"#);
    push_float(record.timestamp, &mut text);
    text.push('}');
    sha256_hex(&text)
}

fn sha256_hex(text: &str) -> String {
    let mut out = String::new();
    push_hex(digest(&SHA256, text.as_bytes()).as_ref(), &mut out);
    out
}

/// Recursion is bounded by the parser that made `value`, which stops at a depth of 128.
fn push_value(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => push_number(number, out),
        Value::String(text) => push_string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                push_value(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            // Sorted here, because another crate's feature can change the map's own order.
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (index, (key, item)) in members.into_iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                push_string(key, out);
                out.push(':');
                push_value(item, out);
            }
            out.push('}');
        }
    }
}

fn push_number(number: &Number, out: &mut String) {
    match number.as_f64() {
        Some(float) if number.is_f64() => push_float(float, out),
        _ => write!(out, "{number}").expect("writing to a string cannot fail"),
    }
}

/// CPython's `repr` of a finite float.
///
/// The digits are ryu's: of two equally near and equally short forms it takes the even one, as
/// CPython does and the standard library (Rust 1.95) does not.
fn push_float(float: f64, out: &mut String) {
    let mut buffer = ryu::Buffer::new();
    let shortest = buffer.format_finite(float.abs());
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((shortest, "0"));
    let exponent: i32 = exponent.parse().expect("ryu writes a decimal exponent");
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let leading_zeros = all.len() - all.trim_start_matches('0').len();
    let digits = all.trim_matches('0');
    if float.is_sign_negative() {
        out.push('-');
    }
    if digits.is_empty() {
        out.push_str("0.0");
        return;
    }
    // The value is 0.digits times ten to the power of `point`.
    let point = exponent + small(whole.len()) - small(leading_zeros);
    let count = small(digits.len());
    let written = if !(-3..=16).contains(&point) {
        let (first, rest) = digits.split_at(1);
        let dot = if rest.is_empty() { "" } else { "." };
        let sign = if point < 1 { '-' } else { '+' };
        write!(out, "{first}{dot}{rest}e{sign}{:02}", (point - 1).abs())
    } else if point <= 0 {
        write!(out, "0.{}{digits}", "0".repeat(point.unsigned_abs() as usize))
    } else if point >= count {
        write!(out, "{digits}{}.0", "0".repeat((point - count).unsigned_abs() as usize))
    } else {
        let (whole, fraction) = digits.split_at(point.unsigned_abs() as usize);
        write!(out, "{whole}.{fraction}")
    };
    written.expect("writing to a string cannot fail");
}

fn small(length: usize) -> i32 {
    i32::try_from(length).expect("a float has at most 17 digits")
}

fn push_string(text: &str, out: &mut String) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control < ' ' => {
                write!(out, "\\u{:04x}", u32::from(control)).expect("writing to a string cannot fail");
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// A policy takes effect: at each start, and at a reload that changes it, the key or whether anything is delivered.
pub const POLICY_LOADED: &str = "policy_loaded";
/// A batch was frozen: from then on it may leave the device.
pub const BATCH: &str = "batch";
/// What was filtered, where no batch takes that along.
pub const FILTERED: &str = "filtered";
/// The `prev_hash` of the first record.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[cfg(test)]
mod tests {
    use super::super::{Action, FieldPattern, SensorRule};
    use super::*;
    use crate::python;

    #[test]
    fn the_policy_hash_changes_with_the_policy() {
        let mut settings = Settings { enabled: true, ..Settings::default() };
        settings.rules.push(SensorRule { sensor: "cam*".to_owned(), action: Action::LocalOnly });
        settings.hash_fields.push(FieldPattern("id".to_owned()));
        let details = settings.audit_details();
        assert_eq!(details["rules"][0]["action"], "local_only");
        assert_eq!(details["hash_fields"][0], "id");
        assert_eq!(details["policy_hash"], settings.audit_details()["policy_hash"]);
        settings.hash_fields.push(FieldPattern("name".to_owned()));
        assert_ne!(details["policy_hash"], settings.audit_details()["policy_hash"]);
    }

    /// Floats around every turn of their written form, and as many random ones.
    fn hard_values() -> Vec<Value> {
        let mut random = fastrand::Rng::with_seed(7);
        let mut floats = vec![0.0, -0.0, 0.1, 100.0, 1e15, 1e16, 1e17, 123456789012345680.0, 1e22, 1e-4];
        floats.extend([
            9.999e-5,
            1e-5,
            5e-324,
            f64::MAX,
            f64::MIN_POSITIVE,
            1717156800.123456,
            2.0_f64.powi(53),
        ]);
        floats.extend((0..500).map(|_| f64::from_bits(random.u64(..))).filter(|float| float.is_finite()));
        floats.extend((0..500).map(|_| (random.f64() - 0.5) * 10_f64.powi(random.i32(-8..20))));
        // Quarters that lie between two equally short forms.
        floats.extend((0..200).map(|_| 2_f64.powi(50) + random.u64(..1 << 48) as f64 + 0.25));
        let mut values: Vec<Value> = floats.into_iter().map(Value::from).collect();
        let text: String = (0..0x180).chain([0x2028, 0xfffd, 0x1f600]).filter_map(char::from_u32).collect();
        values.push(Value::from(text.as_str()));
        values.push(json!({ text: 1, "b": [u64::MAX, i64::MIN, null, true], "a": {}, "\u{1f600}": [], "\u{ff5e}": false }));
        values.push(json!({ "z": { "y": [{ "x": 0.5, "A": "é" }] }, "": "" }));
        values
    }

    #[test]
    fn the_hash_is_the_one_that_python_computes() {
        const SCRIPT: &str = "\
import hashlib, json, sys
sys.stdin.reconfigure(encoding='utf-8', newline='\\n')
for line in sys.stdin:
    text = json.dumps(json.loads(line), sort_keys=True, separators=(',', ':'), ensure_ascii=False)
    print(hashlib.sha256(text.encode('utf-8')).hexdigest())
";
        let values = hard_values();
        let mut expected = Vec::new();
        let mut input = String::new();
        for (value, time) in values.iter().zip(0..) {
            let timestamp = 1.7e9 + f64::from(time) / 7.0;
            let record = next_record(GENESIS, "a \"né\" \u{1}", value, timestamp);
            let whole = json!({ "timestamp": timestamp, "details": value,
                "prev_hash": record.prev_hash, "action": record.action });
            writeln!(input, "{whole}").unwrap();
            expected.push(record.record_hash);
        }
        let answers = python::answers(SCRIPT, input);
        assert_eq!(answers.lines().count(), expected.len());
        for ((answer, hash), value) in answers.lines().zip(&expected).zip(&values) {
            assert_eq!(answer, hash, "{value}");
        }
    }
}
