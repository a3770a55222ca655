//! Reads readings out of JSON text: one object, a whole document, or a bare number.
//!
//! Text is borrowed wherever JSON allows it and no tree is built, because this runs once per reading.

mod fields;
mod items;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use self::fields::{NO_METADATA, Number, Text, Timestamp, object_on_one_line};
pub use self::fields::{parse_metadata, parse_scalar, parse_timestamp};
pub use self::items::{Items, SyntaxError};
use crate::reading::{Batch, Reading, Refusal};

/// What stands in for the keys that a reading leaves out.
#[derive(Clone, Copy, Debug)]
pub struct Defaults<'a> {
    /// For readings that do not name their sensor; without it they are refused.
    pub sensor_name: Option<&'a str>,
    /// For readings without a unit.
    pub unit: &'a str,
    /// Units by sensor name, which go before `unit`.
    pub units: Option<&'a BTreeMap<String, String>>,
    /// Seconds on the boot clock, for readings without a timestamp or with 0: the agent stamps them.
    pub timestamp: f64,
    /// What a refusal is counted under when the sensor is not known: a topic, a file, a peer.
    pub origin: &'a str,
}

/// Adds the reading of one JSON object, or the reason why there is none.
///
/// The value may be a number or a boolean, which counts as 1 or 0; a number in quotes is refused. The
/// timestamp is what [`parse_timestamp`] reads. Unknown keys are ignored.
pub fn push_reading(batch: &mut Batch, text: &str, defaults: &Defaults<'_>) {
    // The derived reader would take an array for an object without keys.
    if !text.trim_ascii_start().starts_with('{') {
        return batch.refuse(Refusal::Malformed, defaults.origin());
    }
    let Ok(raw) = serde_json::from_str::<RawReading<'_>>(text) else {
        return batch.refuse(Refusal::Malformed, defaults.origin());
    };
    let name = raw.sensor_name.as_ref().map(|name| name.0.as_ref());
    let Some(sensor_name) = name.filter(|name| !name.is_empty()).or(defaults.sensor_name) else {
        return batch.refuse(Refusal::Incomplete, defaults.origin());
    };
    let Some(Number(value)) = raw.value else {
        return batch.refuse(Refusal::Incomplete, sensor_name);
    };
    let Some(metadata) = object_on_one_line(raw.metadata) else {
        return batch.refuse(Refusal::Malformed, sensor_name);
    };
    let timestamp = raw.timestamp.map(|Timestamp(seconds)| seconds).filter(|seconds| *seconds != 0.0);
    let unit = raw.unit.as_ref().map_or("", |unit| unit.0.as_ref());
    let unit = if unit.is_empty() { defaults.unit_of(sensor_name) } else { unit };
    defaults.push(
        batch,
        Reading { sensor_name, timestamp: 0.0, value, unit, metadata: &metadata },
        timestamp,
    );
}

/// Adds every reading of a document: an object, an array of them, or JSON lines.
///
/// # Errors
///
/// The document has no JSON value at all; nothing was added, not even a refusal.
pub fn push_document(batch: &mut Batch, text: &str, defaults: &Defaults<'_>) -> Result<(), SyntaxError> {
    let mut found = false;
    let mut first_error = None;
    let mut errors = 0;
    for item in Items::new(text) {
        match item {
            Ok(item) => {
                found = true;
                push_reading(batch, item, defaults);
            }
            Err(error) => {
                first_error.get_or_insert(error);
                errors += 1;
            }
        }
    }
    match first_error {
        Some(error) if !found => return Err(error),
        _ => (0..errors).for_each(|_| batch.refuse(Refusal::Malformed, defaults.origin())),
    }
    Ok(())
}

/// Adds the reading of a bare number, `true` or `false`; spaces around it do not matter.
///
/// Its sensor is `defaults.sensor_name`.
pub fn push_scalar(batch: &mut Batch, text: &str, defaults: &Defaults<'_>) {
    let Some(sensor_name) = defaults.sensor_name else {
        return batch.refuse(Refusal::Incomplete, defaults.origin());
    };
    match parse_scalar(text) {
        Ok(value) => batch.push_stamped(Reading {
            sensor_name,
            timestamp: defaults.timestamp,
            value,
            unit: defaults.unit_of(sensor_name),
            metadata: NO_METADATA,
        }),
        Err(reason) => batch.refuse(reason, sensor_name),
    }
}

/// Adds the reading of one line, which is an object or a bare number. An empty line adds nothing.
pub fn push_line(batch: &mut Batch, line: &str, defaults: &Defaults<'_>) {
    match line.trim_start().as_bytes().first() {
        None => {}
        Some(b'{') => push_reading(batch, line, defaults),
        Some(_) => push_scalar(batch, line, defaults),
    }
}

impl<'a> Defaults<'a> {
    /// Adds `reading` with the source's `timestamp`, or stamped when there is none.
    pub fn push(&self, batch: &mut Batch, reading: Reading<'_>, timestamp: Option<f64>) {
        match timestamp {
            Some(timestamp) => batch.push(Reading { timestamp, ..reading }),
            None => batch.push_stamped(Reading { timestamp: self.timestamp, ..reading }),
        }
    }

    fn origin(&self) -> &'a str {
        self.sensor_name.unwrap_or(self.origin)
    }

    fn unit_of(&self, sensor_name: &str) -> &'a str {
        self.units.and_then(|units| units.get(sensor_name)).map_or(self.unit, String::as_str)
    }
}

#[derive(Deserialize)]
struct RawReading<'a> {
    #[serde(borrow)]
    sensor_name: Option<Text<'a>>,
    timestamp: Option<Timestamp>,
    value: Option<Number>,
    #[serde(borrow)]
    unit: Option<Text<'a>>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Defaults<'_> =
        Defaults { sensor_name: None, unit: "", units: None, timestamp: 1e9, origin: "here" };

    fn one(text: &str) -> Batch {
        let mut batch = Batch::default();
        push_reading(&mut batch, text, &DEFAULTS);
        assert_eq!(batch.len(), 1, "{text}");
        batch
    }

    fn reading_of(text: &str) -> (String, f64, f64, String, String) {
        let batch = one(text);
        let reading = batch.readings().next().unwrap_or_else(|| panic!("{text} was refused"));
        (
            reading.sensor_name.to_owned(),
            reading.timestamp,
            reading.value,
            reading.unit.to_owned(),
            reading.metadata.to_owned(),
        )
    }

    fn refusal_of(text: &str) -> (Refusal, String) {
        let batch = one(text);
        let (reason, origin) = batch.refusals().next().unwrap_or_else(|| panic!("{text} was accepted"));
        (reason, origin.to_owned())
    }

    #[test]
    fn a_whole_reading_is_taken_as_it_is() {
        let text = r#" {"sensor_name":"a","timestamp":1717156800.5,"value":21.5,"unit":"C","metadata":{"k":1},"x":[{}]}"#;
        let expected = ("a".to_owned(), 1_717_156_800.5, 21.5, "C".to_owned(), r#"{"k":1}"#.to_owned());
        assert_eq!(reading_of(text), expected);
    }

    #[test]
    fn numbers_are_read_to_their_last_digit() {
        for number in [
            "1795634964.0850623",
            "0.30000000000000004",
            "5e-324",
            "9007199254740993",
            "1.7976931348623157e308",
        ] {
            let text = format!(r#"{{"sensor_name":"a","value":{number}}}"#);
            assert_eq!(Ok(reading_of(&text).2), number.parse(), "{number}");
        }
    }

    #[test]
    fn what_is_left_out_is_defaulted() {
        for text in [
            r#"{"sensor_name":"a","value":1}"#,
            r#"{"sensor_name":"a","value":1,"timestamp":0,"unit":null,"metadata":null}"#,
            r#"{"sensor_name":"a","value":true,"timestamp":null}"#,
        ] {
            assert_eq!(
                reading_of(text),
                ("a".to_owned(), 1e9, 1.0, String::new(), "{}".to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn default_name_and_units_fill_the_gaps() {
        let units = BTreeMap::from([("a".to_owned(), "C".to_owned())]);
        let defaults = Defaults { sensor_name: Some("a"), unit: "V", units: Some(&units), ..DEFAULTS };
        let mut batch = Batch::default();
        push_line(&mut batch, r#"{"value":1}"#, &defaults);
        push_line(&mut batch, r#"{"value":1,"sensor_name":"b"}"#, &defaults);
        push_line(&mut batch, " 3 \n", &defaults);
        push_line(&mut batch, " \n", &defaults);
        let seen: Vec<_> = batch.readings().map(|r| (r.sensor_name, r.unit, r.value)).collect();
        assert_eq!(seen, [("a", "C", 1.0), ("b", "V", 1.0), ("a", "C", 3.0)]);
    }

    #[test]
    fn a_refusal_says_why_and_where() {
        use Refusal::{Incomplete, Malformed};
        for (text, reason, origin) in [
            ("", Malformed, "here"),
            ("[\"a\",1,2]", Malformed, "here"),
            ("{\"value\":1", Malformed, "here"),
            (r#"{"value":1}"#, Incomplete, "here"),
            (r#"{"value":1,"sensor_name":""}"#, Incomplete, "here"),
            (r#"{"sensor_name":"a"}"#, Incomplete, "a"),
            (r#"{"sensor_name":"a","value":null}"#, Incomplete, "a"),
            (r#"{"sensor_name":"a","value":"1"}"#, Malformed, "here"),
            (r#"{"sensor_name":7,"value":1}"#, Malformed, "here"),
            (r#"{"sensor_name":"a","value":NaN}"#, Malformed, "here"),
            (r#"{"sensor_name":"a","value":1e999}"#, Malformed, "here"),
            (r#"{"sensor_name":"a","value":1} {}"#, Malformed, "here"),
            (r#"{"sensor_name":"a","value":1,"timestamp":"noon"}"#, Malformed, "here"),
            (r#"{"sensor_name":"a","value":1,"metadata":[]}"#, Malformed, "a"),
        ] {
            assert_eq!(refusal_of(text), (reason, origin.to_owned()), "{text}");
        }
    }

    #[test]
    fn an_object_an_array_and_json_lines_are_documents() {
        let (a, b) = (r#"{"sensor_name":"a","value":1}"#, r#"{"sensor_name":"b","value":2}"#);
        for (text, readings, refusals) in [
            (a.to_owned(), 1, 0),
            (format!("\u{feff}[{a},\n {b}]\n"), 2, 0),
            ("[]".to_owned(), 0, 0),
            (format!("{a}\n{b}\r\n\n"), 2, 0),
            (format!("{a}\n{{\"sensor_name\":\"c\n{b}\n"), 2, 1),
            (format!("{a}\n{{\"sensor_name\":\n{b}\n"), 2, 1),
            (format!("nonsense\n{b}"), 1, 1),
            (format!("[{a},{b}"), 2, 1),
            (format!("[{a} {b}]"), 1, 1),
            (format!("[{a}] tail"), 1, 1),
            (format!("[{a},[{b}],3]"), 1, 2),
            ("21.5".to_owned(), 0, 1),
        ] {
            let mut batch = Batch::default();
            push_document(&mut batch, &text, &DEFAULTS).unwrap();
            assert_eq!((batch.readings().len(), batch.refusals().len()), (readings, refusals), "{text}");
        }
    }

    #[test]
    fn a_document_without_any_json_is_an_error_with_its_place() {
        for (text, line, column) in [("", 1, 1), ("\n  hello", 2, 3), ("[", 1, 2), ("{\"a\":\n  x}", 2, 3)] {
            let mut batch = Batch::default();
            let error = push_document(&mut batch, text, &DEFAULTS).unwrap_err();
            assert_eq!((error.line, error.column, batch.len()), (line, column, 0), "{text:?}");
        }
    }

    #[test]
    fn hostile_nesting_is_read_once_and_refused() {
        for text in ["[".repeat(500_000), "{\"a\":[\n".repeat(100_000), "{\n".repeat(300_000)] {
            push_document(&mut Batch::default(), &text, &DEFAULTS).unwrap_err();
        }
        let text = format!(
            r#"{{"sensor_name":"a","value":1,"metadata":{}1{}}}"#,
            "{\"a\":".repeat(9999),
            "}".repeat(9999)
        );
        assert_eq!(refusal_of(&text).0, Refusal::Malformed);
    }

    #[test]
    fn a_bare_number_is_a_reading() {
        let defaults = Defaults { sensor_name: Some("a"), ..DEFAULTS };
        let value = |text| {
            let mut batch = Batch::default();
            push_scalar(&mut batch, text, &defaults);
            assert_eq!(batch.len(), 1);
            let value = batch.readings().next().map(|reading| reading.value);
            value.ok_or_else(|| batch.refusals().next().unwrap().0)
        };
        assert_eq!(value("21.5"), Ok(21.5));
        assert_eq!(value(" 3 \r\n"), Ok(3.0));
        assert_eq!(value("true"), Ok(1.0));
        assert_eq!(value("nan"), Err(Refusal::NotFinite));
        assert_eq!(value("1e999"), Err(Refusal::NotFinite));
        assert_eq!(value("21,5"), Err(Refusal::Malformed));
        assert_eq!(value(" "), Err(Refusal::Incomplete));
    }
}
