//! `privacy explain`: what leaves of stored readings, field by field.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::app::privacy_key;
use crate::cli::items::{Kept, shown};
use crate::cli::store::{Target, Time, report_unreadable, table, time_text};
use crate::cli::{EXIT_CONFIG, EXIT_OK};
use crate::config::{LoadOptions, load};
use crate::doctor::render::wants_colour;
use crate::privacy::Action;
use crate::privacy::explain::{Explained, Explainer, Field};
use crate::reading::Reading;
use crate::store::Lane;
use crate::store::export::{Filter, Item, Unreadable, export};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Readings of this time or later: ISO 8601, Unix seconds, or back from now such as 15m, 24h
    #[arg(long, value_name = "TIME", default_value = "1h")]
    last: Time,
    /// Only sensors that match, by the name they are stored under: * stands for any characters, ? for one
    #[arg(long, value_name = "PATTERN")]
    sensor: Option<String>,
    /// The newest reading of so many sensors at most
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
    let (samples, unreadable) = samples(&path, &filter, limit as usize)?;
    // Who may read the store may not be who may read the key.
    let key = privacy_key(&loaded.store.state_dir).ok().flatten();
    let mut explainer = Explainer::new(&loaded.privacy, key);
    let explained = samples.iter().filter_map(|sample| explain(&mut explainer, sample));
    if json {
        let list: Vec<_> = explained.map(|(item, explained)| as_json(&item, &explained)).collect();
        let all =
            json!({ "delivery": loaded.cloud.enabled, "firewall": loaded.privacy.enabled, "readings": list });
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(report_unreadable(&unreadable));
    }
    if !loaded.cloud.enabled {
        println!("delivery is disabled (cloud.enabled): nothing leaves the device. With it enabled:\n");
    }
    if samples.is_empty() {
        println!("there are no such readings; --last 7d looks further back");
    }
    let colour = wants_colour();
    for (item, explained) in explained {
        println!("{}", text(&item, &explained, colour));
    }
    Ok(if samples.is_empty() { EXIT_OK } else { report_unreadable(&unreadable) })
}

/// The newest reading of each sensor, in the fuller copy where there are two; results of windows stand apart.
fn samples(path: &Path, filter: &Filter, count_max: usize) -> anyhow::Result<(Vec<Kept>, Unreadable)> {
    let mut newest: BTreeMap<(String, bool), Kept> = BTreeMap::new();
    let unreadable = export(path, filter, |item| {
        let Some(name) = item.fields.sensor_name.as_deref() else { return true };
        let is_result = item.fields.metadata.is_some_and(|metadata| metadata.get().contains("\"window\":"));
        let key = (name.to_owned(), is_result);
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
    let mut samples: Vec<_> = newest.into_values().collect();
    samples.sort_by(|a, b| b.timestamp.total_cmp(&a.timestamp));
    samples.truncate(count_max);
    Ok((samples, unreadable))
}

fn explain<'k>(explainer: &mut Explainer, kept: &'k Kept) -> Option<(Item<'k>, Explained)> {
    let item = kept.item();
    let fields = &item.fields;
    let reading = Reading {
        sensor_name: fields.sensor_name.as_deref()?,
        timestamp: fields.timestamp,
        value: fields.value?,
        unit: fields.unit.as_deref().unwrap_or_default(),
        metadata: fields.metadata.map_or("{}", |metadata| metadata.get()),
    };
    let explained = explainer.explain(reading);
    Some((item, explained))
}

fn as_json(item: &Item<'_>, explained: &Explained) -> Value {
    let fields: Vec<_> = explained
        .fields
        .iter()
        .map(|Field { name, stored, leaves, action, rule }| {
            json!({ "field": name, "stored": stored, "leaves": leaves, "action": action.name(), "rule": rule })
        })
        .collect();
    json!({
        "sensor_name": item.fields.sensor_name,
        "timestamp": item.fields.timestamp,
        "lane": item.lane.name(),
        "sequence": item.sequence,
        "action": explained.action.name(),
        "rule": explained.rule,
        "fields": fields,
    })
}

fn text(item: &Item<'_>, explained: &Explained, colour: bool) -> String {
    let name = shown(item.fields.sensor_name.as_deref().unwrap_or_default());
    let whole = match explained.action {
        Action::LocalOnly => "stays on the device",
        Action::Redact | Action::Drop => "neither stored nor delivered",
        Action::Allow | Action::Hash | Action::Mask => "leaves the device",
    };
    let rule = explained.rule.as_ref().map_or_else(String::new, |rule| format!(" ({})", shown(rule)));
    let time = time_text(item.fields.timestamp);
    let rows: Vec<_> = explained.fields.iter().map(|field| row(field, colour)).collect();
    let table = table::format(["field", "stored", "leaves", "rule", "action"], &rows);
    format!("{name} of {time}, in lane {}: {whole}{rule}\n{table}", item.lane.name())
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

/// Of which the newest reading is held in memory.
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
        let (item, explained) = explain(&mut explainer, &kept).unwrap();
        insta::assert_snapshot!(text(&item, &explained, false));
        assert!(text(&item, &explained, true).contains("\u{1b}[31mredact\u{1b}[0m"));
        let json = as_json(&item, &explained);
        assert_eq!(json["fields"][5]["rule"], "redact_fields: *name");
    }
}
