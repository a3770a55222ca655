//! Reads `[[policies.delivery]]`.

use super::rules::named_tables;
use super::section::{Section, nearest};
use crate::pipeline::selection::{Deadband, Settings};

/// Reads the section, which files of the Python agent have empty, as a list or as a table.
pub fn delivery(root: &mut Section<'_>) -> Vec<Settings> {
    if root.is_list("policies") {
        drop(named_tables(root, "policies"));
        return Vec::new();
    }
    let mut policies = root.section("policies");
    let mut tables = policies.list("delivery");
    if tables.len() > ENTRIES_MAX {
        policies.refuse("delivery", format_args!("{} entries; give at most {ENTRIES_MAX}", tables.len()));
        tables.drain(ENTRIES_MAX..).for_each(|mut table| table.ignore_rest());
    }
    tables.into_iter().map(entry).collect()
}

fn entry(mut table: Section<'_>) -> Settings {
    const SEND: &str = "send";
    const DEADBAND: &str = "deadband";
    const HEARTBEAT: &str = "heartbeat_seconds";
    let sensor = table.required_string("sensor", "a sensor name; * and ? are wildcards");
    if sensor.len() > PATTERN_BYTES_MAX {
        let length = sensor.len();
        table.refuse("sensor", format_args!("is {length} bytes long; give at most {PATTERN_BYTES_MAX}"));
    }
    let is_chosen = table.has(SEND);
    let words = table.strings(SEND);
    for word in words.iter().filter(|word| !KINDS.contains(&word.as_str())) {
        let hint = nearest(word, KINDS.into_iter());
        table.refuse(SEND, format_args!("'{word}' is not known{hint}; give {}", KINDS.join(", ")));
    }
    let [readings, windows, events] = KINDS.map(|kind| !is_chosen || words.iter().any(|word| word == kind));
    let width = table.optional_float(DEADBAND, 0.0..=1e12);
    let heartbeat = table.seconds(HEARTBEAT, HEARTBEAT_SECONDS, 0.1..=SECONDS_MAX);
    if width.is_some() && !readings {
        table.refuse(DEADBAND, "is about readings, of which none are sent; add 'readings' to send");
    }
    if width.is_none() && table.has(HEARTBEAT) {
        table.refuse(HEARTBEAT, "goes with a deadband; without one every reading is sent");
    }
    Settings { sensor, readings, windows, events, deadband: width.map(|width| Deadband { width, heartbeat }) }
}

const KINDS: [&str; 3] = ["readings", "windows", "events"];
const ENTRIES_MAX: usize = 1024;
const PATTERN_BYTES_MAX: usize = 256;
/// A quarter of an hour: four readings an hour tell a flat line from silence.
const HEARTBEAT_SECONDS: f64 = 900.0;
/// A leap year.
const SECONDS_MAX: f64 = 366.0 * 86_400.0;
