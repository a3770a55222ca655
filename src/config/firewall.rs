//! Reads `[privacy]`.

use super::section::Section;
use super::stages::given;
use crate::privacy::{Action, FieldPattern, Record, SensorRule, Settings};

/// Reads the section; the firewall is on unless it says otherwise.
pub fn privacy(root: &mut Section<'_>) -> Settings {
    let mut section = root.section("privacy");
    Settings {
        enabled: section.bool("enabled", true),
        rules: rules(&mut section),
        redact_fields: patterns(&mut section, "redact_fields"),
        mask_fields: patterns(&mut section, "mask_fields"),
        hash_fields: patterns(&mut section, "hash_fields"),
        drop_fields: patterns(&mut section, "drop_fields"),
        local_only: patterns(&mut section, "local_only"),
        record: record(section.section("record")),
    }
}

/// Nothing of it has to be there: who is asked for a record knows what belongs in it.
fn record(mut section: Section<'_>) -> Record {
    Record(Record::KEYS.map(|key| {
        let text = given(section.string(key))?;
        if text.len() > RECORD_BYTES_MAX {
            section
                .refuse(key, format_args!("is {} bytes long; give at most {RECORD_BYTES_MAX}", text.len()));
        }
        Some(text)
    }))
}

fn rules(section: &mut Section<'_>) -> Vec<SensorRule> {
    let actions = [
        ("allow", Action::Allow),
        ("hash", Action::Hash),
        ("mask", Action::Mask),
        ("local_only", Action::LocalOnly),
        ("redact", Action::Redact),
        ("drop", Action::Drop),
    ];
    let mut tables = section.list("rules");
    if tables.len() > PATTERNS_MAX {
        section.refuse("rules", format_args!("{} rules; give at most {PATTERNS_MAX}", tables.len()));
        tables.drain(PATTERNS_MAX..).for_each(|mut table| table.ignore_rest());
    }
    let read = |mut table: Section<'_>| {
        let sensor = table.required_string("sensor", "a sensor name; * and ? are wildcards");
        if sensor.len() > PATTERN_BYTES_MAX {
            too_long(&table, "sensor", sensor.len());
        }
        if !table.has("action") {
            table.missing("action", "allow, hash, mask, local_only, redact or drop");
        }
        // Where the word is refused nothing is loaded, and still the strictest stands in for it.
        SensorRule { sensor, action: table.choice("action", Action::Drop, &actions) }
    };
    tables.into_iter().map(read).collect()
}

fn patterns(section: &mut Section<'_>, key: &'static str) -> Vec<FieldPattern> {
    let patterns = section.strings(key);
    if patterns.len() > PATTERNS_MAX {
        section.refuse(key, format_args!("{} patterns; give at most {PATTERNS_MAX}", patterns.len()));
    }
    for pattern in &patterns {
        let is_half = pattern.starts_with(':') || pattern.ends_with(':');
        if pattern.is_empty() || is_half {
            section.refuse(key, format_args!("'{pattern}' is not a pattern; give key or sensor:key"));
        } else if pattern.len() > PATTERN_BYTES_MAX {
            too_long(section, key, pattern.len());
        }
    }
    patterns.into_iter().map(FieldPattern).collect()
}

fn too_long(section: &Section<'_>, key: &str, length: usize) {
    section.refuse(key, format_args!("a pattern is {length} bytes long; give at most {PATTERN_BYTES_MAX}"));
}

/// Of one list.
const PATTERNS_MAX: usize = 1024;
const PATTERN_BYTES_MAX: usize = 256;
/// Of one text of the record.
const RECORD_BYTES_MAX: usize = 2048;
