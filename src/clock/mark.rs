//! The mark of a reading whose wall time is not the clock's last word: how it is written into the
//! metadata, and how an item that bears one is put right.
//!
//! `"_clock": {"quality": "provisional", "boot_time": 12.345, "boot": "<id>"}` says that the wall clock was
//! not synchronised, and when it was on the boot's own clock. Without a mark the time is the source's own
//! or that of a synchronised clock.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// The reserved key of metadata.
pub const KEY: &str = "_clock";
/// What a source sends under [`KEY`] stands under this one: it may be an agent itself.
pub const SOURCE_KEY: &str = "_source_clock";
/// Also reserved: how many readings a deadband held back before this one.
pub const SUPPRESSED_KEY: &str = "_suppressed";
/// As [`SOURCE_KEY`] is for [`KEY`].
const SOURCE_SUPPRESSED_KEY: &str = "_source_suppressed";

/// A stamp that is provisional.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark<'a> {
    /// The kernel's name of the boot.
    pub boot: &'a str,
    /// Boot clock, in seconds.
    pub boot_time: f64,
}

/// How the time of a boot was found out afterwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quality {
    /// By a synchronisation in that boot.
    Corrected,
    /// From its neighbours; by how many seconds it may be wrong, where that is known.
    Inferred { uncertainty: Option<f64> },
}

/// What puts the items of one boot right.
#[derive(Clone, Debug, PartialEq)]
pub struct Correction {
    pub boot: String,
    /// Unix seconds minus boot clock.
    pub offset: f64,
    pub quality: Quality,
}

/// `{"quality": "provisional", ...}` as a JSON object.
pub fn provisional(mark: Mark<'_>) -> serde_json::Value {
    serde_json::json!({"quality": PROVISIONAL, "boot": mark.boot, "boot_time": micros(mark.boot_time)})
}

/// Appends the metadata object `metadata` with `mark` as its last member.
pub fn append(out: &mut Vec<u8>, metadata: &str, mark: Option<Mark<'_>>) {
    let Some(mark) = mark else { return out.extend_from_slice(metadata.as_bytes()) };
    let (open, comma) = opened(metadata);
    out.extend_from_slice(open.as_bytes());
    out.extend_from_slice(comma.as_bytes());
    let boot_time = micros(mark.boot_time);
    let body = Body { quality: PROVISIONAL, boot_time, boot: mark.boot, uncertainty_seconds: None };
    out.extend_from_slice(b"\"_clock\":");
    serde_json::to_writer(&mut *out, &body).expect("strings and finite numbers always encode");
    out.push(b'}');
}

/// The text of an object without its end, and what has to stand before a further member.
pub fn opened(object: &str) -> (&str, &'static str) {
    let open = object.trim_ascii_end().strip_suffix('}').unwrap_or("{").trim_ascii_end();
    (open, if open.len() > 1 { "," } else { "" })
}

/// `metadata`, which serializes as an object, with `mark` as its last member.
pub fn with_mark(metadata: &impl Serialize, mark: Option<Mark<'_>>) -> Box<RawValue> {
    let text = serde_json::to_string(metadata).expect("strings and finite numbers always encode");
    let mut out = Vec::with_capacity(text.len());
    append(&mut out, &text, mark);
    let text = String::from_utf8(out).expect("JSON text is UTF-8");
    RawValue::from_string(text).expect("it was just encoded")
}

/// The metadata of a source with reserved keys, should it have any, renamed: what a source says under [`KEY`] and
/// [`SUPPRESSED_KEY`] is not believed of us, and not lost either.
pub fn disarm(metadata: &str) -> Cow<'_, str> {
    // A key may hide behind escapes.
    if !metadata.contains(KEY) && !metadata.contains(SUPPRESSED_KEY) && !metadata.contains('\\') {
        return Cow::Borrowed(metadata);
    }
    let Ok(mut members) = serde_json::from_str::<Members<'_>>(metadata) else {
        return Cow::Borrowed(metadata);
    };
    let renamed = |key: &str| match key {
        KEY => Some(SOURCE_KEY),
        SUPPRESSED_KEY => Some(SOURCE_SUPPRESSED_KEY),
        _ => None,
    };
    if !members.0.iter().any(|(key, _)| renamed(key).is_some()) {
        return Cow::Borrowed(metadata);
    }
    for (key, _) in &mut members.0 {
        if let Some(name) = renamed(key) {
            *key = Cow::Borrowed(name);
        }
    }
    let mut out = Vec::with_capacity(metadata.len() + SOURCE_SUPPRESSED_KEY.len());
    object(&mut out, &members, |out, _, value| out.extend_from_slice(value.get().as_bytes()));
    Cow::Owned(String::from_utf8(out).expect("JSON text is UTF-8"))
}

/// `metadata` as it came in, without what the agent adds to it.
pub fn without(metadata: &str) -> Cow<'_, str> {
    let is_ours = |key: &str| key == KEY || key == SUPPRESSED_KEY;
    if !metadata.contains(KEY) && !metadata.contains(SUPPRESSED_KEY) {
        return Cow::Borrowed(metadata);
    }
    let Ok(mut members) = serde_json::from_str::<Members<'_>>(metadata) else {
        return Cow::Borrowed(metadata);
    };
    members.0.retain(|(key, _)| !is_ours(key));
    let mut out = Vec::with_capacity(metadata.len());
    object(&mut out, &members, |out, _, value| out.extend_from_slice(value.get().as_bytes()));
    Cow::Owned(String::from_utf8(out).expect("JSON text is UTF-8"))
}

/// Appends the item of `line` with its provisional times put right; false, and nothing appended, when it
/// bears no mark that `correction` is for. Works on readings, window results and events.
pub fn correct(out: &mut Vec<u8>, line: &str, correction: &Correction) -> bool {
    if !line.contains(PROVISIONAL) {
        return false;
    }
    let Ok(members) = serde_json::from_str::<Members<'_>>(line) else { return false };
    let Some(shift) = shift_of(&members, correction) else { return false };
    object(out, &members, |out, key, value| match key {
        "timestamp" => number(out, shift.new),
        "metadata" => metadata(out, value, shift, correction),
        "sensor_readings" => readings(out, value, correction),
        _ => out.extend_from_slice(value.get().as_bytes()),
    });
    true
}

/// The `timestamp` of the item of `line`, Unix seconds.
pub fn timestamp(line: &str) -> Option<f64> {
    #[derive(Deserialize)]
    struct Item {
        timestamp: f64,
    }
    serde_json::from_str::<Item>(line).ok().map(|item| item.timestamp)
}

/// Whether the item of `line` bears any mark of ours.
pub fn is_marked(line: &str) -> bool {
    line.contains("\"_clock\":{\"quality\":\"")
}

/// From where to where an item moves, and its place on the boot clock.
#[derive(Clone, Copy)]
struct Shift {
    old: f64,
    new: f64,
    boot_time: f64,
}

/// The number that changes stands before the name, whose digits would hide it from the store's columns.
#[derive(Serialize, Deserialize)]
struct Body<'a> {
    quality: &'a str,
    boot_time: f64,
    boot: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uncertainty_seconds: Option<f64>,
}

fn shift_of(item: &Members<'_>, correction: &Correction) -> Option<Shift> {
    let old = serde_json::from_str(item.get("timestamp")?.get()).ok()?;
    let metadata: Members<'_> = serde_json::from_str(item.get("metadata")?.get()).ok()?;
    let body: Body<'_> = serde_json::from_str(metadata.get(KEY)?.get()).ok()?;
    let is_meant = body.quality == PROVISIONAL && body.boot == correction.boot;
    let new = micros(body.boot_time + correction.offset);
    is_meant.then_some(Shift { old, new, boot_time: body.boot_time })
}

fn metadata(out: &mut Vec<u8>, text: &RawValue, shift: Shift, correction: &Correction) {
    let Ok(members) = serde_json::from_str::<Members<'_>>(text.get()) else {
        return out.extend_from_slice(text.get().as_bytes());
    };
    let seconds =
        |key: &str| members.get(key).and_then(|value| serde_json::from_str::<f64>(value.get()).ok());
    let span = members.get("window").and_then(|_| seconds("start").zip(seconds("end")));
    // Only what the agent itself wrote: a result stands at the end of its span, a summary at its last reading.
    let span = span.filter(|(_, end)| *end == shift.old);
    let thinned = members.get("thinned").and_then(|_| seconds("from").zip(seconds("to")));
    let thinned = thinned.filter(|(_, to)| *to == shift.old);
    object(out, &members, |out, key, value| match (key, span, thinned) {
        (KEY, ..) => body(out, shift.boot_time, correction),
        ("start", Some((start, end)), _) => number(out, micros(shift.new - (end - start))),
        ("end", Some(_), _) | ("to", _, Some(_)) => number(out, shift.new),
        ("from", _, Some((from, to))) => number(out, micros(shift.new - (to - from))),
        _ => out.extend_from_slice(value.get().as_bytes()),
    });
}

fn body(out: &mut Vec<u8>, boot_time: f64, correction: &Correction) {
    let (quality, uncertainty_seconds) = match correction.quality {
        Quality::Corrected => ("corrected", None),
        Quality::Inferred { uncertainty } => ("inferred", uncertainty),
    };
    let body = Body { quality, boot_time, boot: &correction.boot, uncertainty_seconds };
    serde_json::to_writer(out, &body).expect("strings and finite numbers always encode");
}

fn readings(out: &mut Vec<u8>, text: &RawValue, correction: &Correction) {
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(text.get()) else {
        return out.extend_from_slice(text.get().as_bytes());
    };
    out.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        // An event holds readings and no further events, so this goes one level deep.
        if !correct(out, item.get(), correction) {
            out.extend_from_slice(item.get().as_bytes());
        }
    }
    out.push(b']');
}

fn object(out: &mut Vec<u8>, members: &Members<'_>, mut write: impl FnMut(&mut Vec<u8>, &str, &RawValue)) {
    out.push(b'{');
    for (index, (key, value)) in members.0.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, key).expect("strings always encode");
        out.push(b':');
        write(out, key, value);
    }
    out.push(b'}');
}

fn number(out: &mut Vec<u8>, number: f64) {
    serde_json::to_writer(out, &number).expect("finite numbers always encode");
}

/// Rounded to what an f64 of Unix seconds can tell apart.
fn micros(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

/// A JSON object in the order of its members, values as they were written: numbers do not change.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The last of that name, as every JSON reader takes it.
    fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| *value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((key, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// The quality of a time that is not the clock's last word.
pub const PROVISIONAL: &str = "provisional";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MARK: Mark<'_> = Mark { boot: "b1", boot_time: 12.5 };

    fn with_mark(metadata: &str) -> String {
        let mut out = Vec::new();
        append(&mut out, metadata, Some(MARK));
        String::from_utf8(out).unwrap()
    }

    fn correction(quality: Quality) -> Correction {
        Correction { boot: "b1".to_owned(), offset: 1_800_000_000.0, quality }
    }

    fn corrected(line: &str, by: &Correction) -> Option<Value> {
        let mut out = Vec::new();
        correct(&mut out, line, by).then(|| serde_json::from_slice(&out).unwrap())
    }

    #[test]
    fn a_mark_is_the_last_member_of_the_metadata() {
        let mark = r#""_clock":{"quality":"provisional","boot_time":12.5,"boot":"b1"}"#;
        assert_eq!(with_mark("{}"), format!("{{{mark}}}"));
        assert_eq!(with_mark(r#"{"a":1}"#), format!(r#"{{"a":1,{mark}}}"#));
    }

    #[test]
    fn a_reading_is_put_right_and_nothing_else_of_it_changes() {
        let line = format!(
            r#"{{"sensor_name":"a\u00e9","timestamp":22.5,"value":0.1000000000000000055,"unit":"","metadata":{}}}"#,
            with_mark(r#"{"n":1e400,"start":3}"#)
        );
        let mut out = Vec::new();
        assert!(correct(&mut out, &line, &correction(Quality::Inferred { uncertainty: Some(30.0) })));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"sensor_name":"a\u00e9","timestamp":1800000012.5,"value":0.1000000000000000055,"unit":"","metadata":{"n":1e400,"start":3,"_clock":{"quality":"inferred","boot_time":12.5,"boot":"b1","uncertainty_seconds":30.0}}}"#
        );
    }

    #[test]
    fn the_span_of_a_window_and_the_readings_of_an_event_move_along() {
        let window = format!(
            r#"{{"sensor_name":"a","timestamp":60.0,"metadata":{}}}"#,
            with_mark(r#"{"window":"w","start":0.0,"end":60.0}"#)
        );
        let window = corrected(&window, &correction(Quality::Corrected)).unwrap();
        let (end, start) = (1_800_000_012.5, 1_799_999_952.5);
        assert_eq!(window["timestamp"], end);
        assert_eq!((&window["metadata"]["start"], &window["metadata"]["end"]), (&json!(start), &json!(end)));

        let reading = format!(r#"{{"timestamp":1.0,"metadata":{}}}"#, with_mark("{}"));
        let event = format!(
            r#"{{"rule_name":"r","timestamp":1.0,"sensor_readings":[{reading}],"metadata":{}}}"#,
            with_mark("{}")
        );
        let event = corrected(&event, &correction(Quality::Corrected)).unwrap();
        assert_eq!(event["sensor_readings"][0]["timestamp"], end);
        assert_eq!(event["metadata"]["_clock"]["quality"], "corrected");
        assert_eq!(event["sensor_readings"][0]["metadata"]["_clock"]["quality"], "corrected");
    }

    #[test]
    fn what_bears_no_mark_of_this_boot_is_left_alone() {
        let by = correction(Quality::Corrected);
        let of_another = with_mark("{}").replace("b1", "b2");
        let nested = format!(r#"{{"a":{}}}"#, with_mark("{}"));
        let quoted = serde_json::to_string(&with_mark("{}")).unwrap();
        for metadata in ["{}", &of_another, &nested, &format!(r#"{{"a":{quoted}}}"#)] {
            assert_eq!(corrected(&format!(r#"{{"timestamp":1.0,"metadata":{metadata}}}"#), &by), None);
        }
        assert_eq!(corrected("provisional", &by), None);
    }

    #[test]
    fn what_was_put_right_once_stays() {
        let by = correction(Quality::Corrected);
        let line = format!(r#"{{"timestamp":1.0,"metadata":{}}}"#, with_mark("{}"));
        let first = corrected(&line, &by).unwrap().to_string();
        assert_eq!(corrected(&first, &Correction { offset: 5.0, ..by }), None);
    }

    #[test]
    fn a_source_cannot_speak_of_our_clock() {
        for (metadata, expected) in [
            ("{}", "{}"),
            (r#"{"a":{"_clock":1}}"#, r#"{"a":{"_clock":1}}"#),
            (r#"{"a":1,"_clock":{"b":2.50}}"#, r#"{"a":1,"_source_clock":{"b":2.50}}"#),
            (r#"{"\u005fclock":1,"b":"\\"}"#, r#"{"_source_clock":1,"b":"\\"}"#),
        ] {
            assert_eq!(disarm(metadata), expected);
        }
    }
}
