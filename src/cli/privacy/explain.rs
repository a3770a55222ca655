//! `privacy explain`: what leaves of stored readings and events, field by field.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::app::privacy_key;
use crate::cli::items::{Kept, shown};
use crate::cli::store::{Target, Time, report_unreadable, table, time_text};
use crate::cli::{EXIT_CONFIG, EXIT_OK};
use crate::config::{LoadOptions, load};
use crate::doctor::render::wants_colour;
use crate::privacy::Action;
use crate::privacy::explain::{Event, Explained, Explainer, Field};
use crate::reading::Reading;
use crate::store::Lane;
use crate::store::export::{Filter, Item, Unreadable, export};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Readings and events of this time or later: ISO 8601, Unix seconds, or back from now such as 15m, 24h
    #[arg(long, value_name = "TIME", default_value = "1h")]
    last: Time,
    /// Only sensors that match, and events about them, by the name they are stored under: * stands for any characters, ? for one
    #[arg(long, value_name = "PATTERN")]
    sensor: Option<String>,
    /// The newest reading of so many sensors at most, and the newest event of so many rules and sensors
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<u8> {
    let Arguments { target, last, sensor, limit, json } = arguments;
    let loaded = match load(&LoadOptions::of_process(config.clone())) {
        Ok(loaded) => loaded.config,
        Err(error) => {
            eprintln!("{error}");
            return Ok(EXIT_CONFIG);
        }
    };
    let path = match target.resolve(config) {
        Ok(path) => path,
        Err(code) => return Ok(code),
    };
    let filter = Filter { since: Some(last.0), sensor, ..Filter::default() };
    let Samples { readings, events, unreadable } = samples(&path, &filter, limit as usize)?;
    // Who may read the store may not be who may read the key.
    let key = privacy_key(&loaded.store.state_dir).ok().flatten();
    let mut explainer = Explainer::new(&loaded.privacy, key);
    let mut explained = |samples: &[Kept]| -> Vec<Told> {
        samples.iter().filter_map(|sample| explain(&mut explainer, sample)).collect()
    };
    let (readings, events) = (explained(&readings), explained(&events));
    if json {
        let list = |told: &[Told]| told.iter().map(as_json).collect::<Vec<_>>();
        let all = json!({
            "delivery": loaded.cloud.enabled,
            "firewall": loaded.privacy.enabled,
            "readings": list(&readings),
            "events": list(&events),
        });
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(report_unreadable(&unreadable));
    }
    if !loaded.cloud.enabled {
        println!("delivery is disabled (cloud.enabled): nothing leaves the device. With it enabled:\n");
    }
    let is_empty = readings.is_empty() && events.is_empty();
    if is_empty {
        println!("there are no such readings or events; --last 7d looks further back");
    }
    let colour = wants_colour();
    for told in readings.iter().chain(&events) {
        println!("{}", text(told, colour));
    }
    Ok(if is_empty { EXIT_OK } else { report_unreadable(&unreadable) })
}

/// What there is to explain, the newest first.
struct Samples {
    readings: Vec<Kept>,
    events: Vec<Kept>,
    unreadable: Unreadable,
}

/// What is explained.
struct Told {
    lane: Lane,
    sequence: u64,
    timestamp: f64,
    /// Of the reading, or of that of the event.
    sensor_name: String,
    /// Of an event.
    rule_name: Option<String>,
    explained: Explained,
}

/// The newest reading of each sensor, in the fuller copy where there are two, and the newest event of each rule about
/// each sensor; results of windows stand apart.
fn samples(path: &Path, filter: &Filter, count_max: usize) -> anyhow::Result<Samples> {
    let (mut readings, mut events) = (BTreeMap::new(), BTreeMap::new());
    let unreadable = export(path, filter, |item| {
        let name = item.fields.sensor().to_owned();
        let (newest, what): (&mut BTreeMap<(String, String), Kept>, _) = match &item.fields.rule_name {
            Some(rule) => (&mut events, rule.to_string()),
            None if item.fields.sensor_name.is_none() => return true,
            None => {
                let is_result = |metadata: &RawValue| metadata.get().contains("\"window\":");
                (&mut readings, item.fields.metadata.is_some_and(is_result).to_string())
            }
        };
        let key = (name, what);
        let rank = |lane: Lane, timestamp: f64| (timestamp, lane == Lane::Local);
        let known = newest.get(&key).map(|kept| rank(kept.lane, kept.timestamp));
        if known.is_none_or(|known| rank(item.lane, item.fields.timestamp) >= known) {
            newest.insert(key, Kept::of(item));
        }
        if newest.len() > SENSORS_MAX {
            newest.pop_last();
        }
        true
    })?;
    let sorted = |newest: BTreeMap<_, Kept>| {
        let mut samples: Vec<_> = newest.into_values().collect();
        samples.sort_by(|a, b| b.timestamp.total_cmp(&a.timestamp));
        samples.truncate(count_max);
        samples
    };
    Ok(Samples { readings: sorted(readings), events: sorted(events), unreadable })
}

fn explain(explainer: &mut Explainer, kept: &Kept) -> Option<Told> {
    let item = kept.item();
    let fields = &item.fields;
    let explained = match fields.rule_name.as_deref() {
        Some(rule_name) => explainer.explain_event(event(&item, rule_name)),
        None => explainer.explain(Reading {
            sensor_name: fields.sensor_name.as_deref()?,
            timestamp: fields.timestamp,
            value: fields.value?,
            unit: fields.unit.as_deref().unwrap_or_default(),
            metadata: object(fields.metadata),
        }),
    };
    Some(Told {
        lane: item.lane,
        sequence: item.sequence,
        timestamp: fields.timestamp,
        sensor_name: fields.sensor().to_owned(),
        rule_name: fields.rule_name.as_deref().map(str::to_owned),
        explained,
    })
}

fn event<'i>(item: &'i Item<'_>, rule_name: &'i str) -> Event<'i> {
    let fields = &item.fields;
    let reading = fields.about().and_then(|about| {
        Some(Reading {
            sensor_name: &about.sensor_name,
            timestamp: about.timestamp,
            value: about.value?,
            unit: &about.unit,
            metadata: object(about.metadata),
        })
    });
    Event {
        rule_name,
        timestamp: fields.timestamp,
        severity: fields.severity.as_deref().unwrap_or_default(),
        message: fields.message.as_deref().unwrap_or_default(),
        reading,
        metadata: object(fields.metadata),
        stays: item.lane == Lane::Local,
    }
}

fn object(metadata: Option<&RawValue>) -> &str {
    metadata.map_or("{}", RawValue::get)
}

fn as_json(told: &Told) -> Value {
    let Told { explained, .. } = told;
    let fields: Vec<_> = explained
        .fields
        .iter()
        .map(|Field { name, stored, leaves, action, rule }| {
            json!({ "field": name, "stored": stored, "leaves": leaves, "action": action.name(), "rule": rule })
        })
        .collect();
    let mut json = json!({
        "sensor_name": told.sensor_name,
        "timestamp": told.timestamp,
        "lane": told.lane.name(),
        "sequence": told.sequence,
        "action": explained.action.name(),
        "rule": explained.rule,
        "fields": fields,
    });
    if let Some(rule_name) = &told.rule_name {
        json["rule_name"] = rule_name.as_str().into();
    }
    json
}

fn text(told: &Told, colour: bool) -> String {
    let Told { explained, lane, .. } = told;
    let name = shown(&told.sensor_name);
    let name = match &told.rule_name {
        Some(rule) if name.is_empty() => format!("event {}", shown(rule)),
        Some(rule) => format!("event of rule {} about {name},", shown(rule)),
        None => name,
    };
    let whole = match explained.action {
        Action::LocalOnly => "stays on the device",
        Action::Redact | Action::Drop => "neither stored nor delivered",
        Action::Allow | Action::Hash | Action::Mask => "leaves the device",
    };
    let rule = explained.rule.as_ref().map_or_else(String::new, |rule| format!(" ({})", shown(rule)));
    let time = time_text(told.timestamp);
    let rows: Vec<_> = explained.fields.iter().map(|field| row(field, colour)).collect();
    let table = table::format(["field", "stored", "leaves", "rule", "action"], &rows);
    format!("{name} of {time}, in lane {}: {whole}{rule}\n{table}", lane.name())
}

fn row(field: &Field, colour: bool) -> [String; 5] {
    let value = |value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut text = shown(&text);
        if text.chars().count() > VALUE_CHARS_MAX {
            text = text.chars().take(VALUE_CHARS_MAX - 1).chain(['…']).collect();
        }
        text
    };
    let action = match field.action {
        Action::Allow => field.action.name().to_owned(),
        // Who looks for what leaves unchanged sees at once where something is done.
        Action::Hash | Action::Mask if colour => format!("\u{1b}[33m{}\u{1b}[0m", field.action.name()),
        _ if colour => format!("\u{1b}[31m{}\u{1b}[0m", field.action.name()),
        _ => field.action.name().to_owned(),
    };
    let leaves = field.leaves.as_ref().map_or_else(|| "-".to_owned(), value);
    [
        shown(&field.name),
        value(&field.stored),
        leaves,
        field.rule.as_deref().map_or_else(String::new, shown),
        action,
    ]
}

/// Of which the newest reading is held in memory, and of which an event is, by rule.
const SENSORS_MAX: usize = 4096;
const VALUE_CHARS_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::{FieldPattern, HashKey, Settings};

    #[test]
    fn a_reading_is_a_table_for_people() {
        let settings = Settings {
            enabled: true,
            redact_fields: vec![FieldPattern("*name".to_owned())],
            hash_fields: vec![FieldPattern("email".to_owned())],
            ..Settings::default()
        };
        let metadata = r#"{"first_name":"ann\u001b[31m","gps":{"lat":1.5},"email":"a@b","note":"a text that is longer than the column may be wide"}"#;
        let text_of_item = format!(
            r#"{{"sensor_name":"door","timestamp":1700000000.5,"value":1.0,"unit":"","metadata":{metadata}}}"#
        );
        let fields = serde_json::from_str(&text_of_item).unwrap();
        let kept = Kept::of(&Item { lane: Lane::Local, sequence: 7, text: &text_of_item, fields });
        let mut explainer = Explainer::new(&settings, Some(HashKey::new(&[1; 32])));
        let told = explain(&mut explainer, &kept).unwrap();
        insta::assert_snapshot!(text(&told, false));
        assert!(text(&told, true).contains("\u{1b}[31mredact\u{1b}[0m"));
        let json = as_json(&told);
        assert_eq!(
            (&json["fields"][5]["rule"], json.get("rule_name")),
            (&json!("redact_fields: *name"), None)
        );
    }

    #[test]
    fn an_event_is_a_table_for_people() {
        let settings = Settings {
            enabled: true,
            local_only: vec![FieldPattern("room".to_owned())],
            ..Settings::default()
        };
        let reading =
            r#"{"sensor_name":"door","timestamp":1700000000.5,"value":1.0,"unit":"","metadata":{"room":7}}"#;
        let text_of_item = format!(
            r#"{{"rule_name":"open","timestamp":1700000001.0,"severity":"critical","message":"Rule 'open' fired","sensor_readings":[{reading}],"metadata":{{"silent_seconds":60.5}}}}"#
        );
        let fields = serde_json::from_str(&text_of_item).unwrap();
        let kept = Kept::of(&Item { lane: Lane::Critical, sequence: 3, text: &text_of_item, fields });
        let mut explainer = Explainer::new(&settings, Some(HashKey::new(&[1; 32])));
        let told = explain(&mut explainer, &kept).unwrap();
        insta::assert_snapshot!(text(&told, false));
        let json = as_json(&told);
        assert_eq!((&json["rule_name"], &json["sensor_name"]), (&json!("open"), &json!("door")));
    }
}
