//! The single fields of a reading, as JSON and plain text write them.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use time::format_description::well_known::{Iso8601, Rfc3339};
use time::{OffsetDateTime, PrimitiveDateTime};

use crate::reading::Refusal;

/// A number as text, `true` or `false`.
///
/// # Errors
///
/// Why a reading with this value is refused.
pub fn parse_scalar(text: &str) -> Result<f64, Refusal> {
    match text.trim() {
        "" => Err(Refusal::Incomplete),
        "true" => Ok(1.0),
        "false" => Ok(0.0),
        number => match number.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            Ok(_) => Err(Refusal::NotFinite),
            Err(_) => Err(Refusal::Malformed),
        },
    }
}

/// Unix seconds UTC from epoch seconds, milliseconds when above 1e11, or an ISO 8601 date and time.
/// Without an offset it is taken for UTC, as nothing says which zone the sender meant.
pub fn parse_timestamp(text: &str) -> Option<f64> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        return number.is_finite().then(|| seconds_of(number));
    }
    let instant = OffsetDateTime::parse(text, &Iso8601::DEFAULT)
        .or_else(|_| OffsetDateTime::parse(text, &Rfc3339))
        .or_else(|_| PrimitiveDateTime::parse(text, &Iso8601::DEFAULT).map(PrimitiveDateTime::assume_utc));
    // Nanoseconds since 1970 do not fit into an f64, but those of one second do.
    instant.ok().map(|instant| instant.unix_timestamp() as f64 + f64::from(instant.nanosecond()) / 1e9)
}

/// The text of a metadata object, checked and on one line; `{}` for null and none at all. Missing
/// when it is not an object, nests too deep, or holds text that another JSON reader would refuse.
pub fn parse_metadata(text: &str) -> Option<Cow<'_, str>> {
    let raw = serde_json::from_str::<&RawValue>(text).ok()?;
    object_on_one_line(Some(raw))
}

/// A string that is borrowed unless it has escapes. (In an `Option`, serde would always copy a `Cow`.)
pub(super) struct Text<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A JSON number or boolean.
pub(super) struct Number(pub f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;
        impl Visitor<'_> for NumberVisitor {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a boolean")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Number, E> {
                Ok(Number(f64::from(u8::from(value))))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Number, E> {
                Ok(Number(value))
            }
        }
        deserializer.deserialize_any(NumberVisitor)
    }
}

/// Unix seconds, out of a number or a string.
pub(super) struct Timestamp(pub f64);

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TimestampVisitor;
        impl Visitor<'_> for TimestampVisitor {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("seconds, milliseconds or an ISO 8601 date and time")
            }

            fn visit_i64<E>(self, value: i64) -> Result<Timestamp, E> {
                Ok(Timestamp(seconds_of(value as f64)))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Timestamp, E> {
                Ok(Timestamp(seconds_of(value as f64)))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Timestamp, E> {
                Ok(Timestamp(seconds_of(value)))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
                parse_timestamp(text).map(Timestamp).ok_or_else(|| E::custom("not a date and time"))
            }
        }
        deserializer.deserialize_any(TimestampVisitor)
    }
}

/// What [`parse_metadata`] promises.
pub(super) fn object_on_one_line(raw: Option<&RawValue>) -> Option<Cow<'_, str>> {
    let Some(text) = raw.map(RawValue::get) else { return Some(Cow::Borrowed(NO_METADATA)) };
    if matches!(text, "null" | NO_METADATA) {
        return Some(Cow::Borrowed(NO_METADATA));
    }
    if !text.starts_with('{') {
        return None;
    }
    // `RawValue` takes numbers and escapes that no reader can represent, and any nesting.
    Sound { depth_left: METADATA_DEPTH_MAX }
        .deserialize(&mut serde_json::Deserializer::from_str(text))
        .ok()?;
    Some(without_space(text))
}

/// Reads a JSON value to the end and keeps nothing of it.
#[derive(Clone, Copy)]
struct Sound {
    depth_left: u32,
}

impl Sound {
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth_left = self.depth_left.checked_sub(1).ok_or_else(|| E::custom("nested too deep"))?;
        Ok(Self { depth_left })
    }
}

impl<'de> DeserializeSeed<'de> for Sound {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Sound {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        while items.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let inner = self.inner::<A::Error>()?;
        while entries.next_key_seed(inner)?.is_some() {
            entries.next_value_seed(inner)?;
        }
        Ok(())
    }
}

/// `text`, which is valid JSON, without the white space between its tokens.
fn without_space(text: &str) -> Cow<'_, str> {
    let mut compact = String::new();
    let mut kept = 0;
    let (mut in_string, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b' ' | b'\n' | b'\r' | b'\t' if !in_string => {
                compact.reserve(text.len());
                compact.push_str(&text[kept..at]);
                kept = at + 1;
            }
            _ => {}
        }
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    compact.push_str(&text[kept..]);
    Cow::Owned(compact)
}

fn seconds_of(number: f64) -> f64 {
    if number > MILLISECONDS_ABOVE { number / 1000.0 } else { number }
}

/// The metadata of a reading that has none.
pub(super) const NO_METADATA: &str = "{}";
/// A timestamp above this is in milliseconds; as seconds it would be in the year 5138.
const MILLISECONDS_ABOVE: f64 = 1e11;
/// Objects within objects; readers further on, the receiver's included, stop at 128 for the whole body.
const METADATA_DEPTH_MAX: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_seconds_milliseconds_or_iso_8601() {
        for text in [
            "1717156800",
            " 1717156800.0 ",
            "1717156800000",
            "2024-05-31T12:00:00Z",
            "2024-05-31T14:00:00+02:00",
            "2024-05-31T12:00:00.000Z",
            "2024-05-31 12:00:00Z",
            "2024-05-31T12:00:00",
            "20240531T120000Z",
        ] {
            assert_eq!(parse_timestamp(text), Some(1_717_156_800.0), "{text}");
        }
        assert_eq!(parse_timestamp("2024-05-31T12:00:00.25Z"), Some(1_717_156_800.25));
        for text in ["", "nan", "inf", "noon", "2024-13-01T00:00:00Z", "2024-05-31"] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }

    #[test]
    fn metadata_is_one_line_and_keeps_its_strings() {
        assert_eq!(parse_metadata("null").as_deref(), Some("{}"));
        assert_eq!(parse_metadata("{ }").as_deref(), Some("{}"));
        let text = "{\n  \"a b\" : \"x \\\" y\",\r\n\t\"c\": [1, 2.0]\n}";
        assert_eq!(parse_metadata(text).as_deref(), Some(r#"{"a b":"x \" y","c":[1,2.0]}"#));
        let compact = r#"{"a":"b c"}"#;
        assert!(matches!(parse_metadata(compact), Some(Cow::Borrowed(text)) if text == compact));
    }

    #[test]
    fn metadata_that_others_could_not_read_is_refused() {
        let deep = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        assert!(parse_metadata(&deep(64)).is_some());
        for text in ["[]", "1", r#"{"a":1e999}"#, r#"{"a":"\ud800"}"#, "{", &deep(66), &deep(4000)] {
            assert_eq!(parse_metadata(text), None, "{text}");
        }
    }
}
