//! What `rules test` found: how often each rule fired, and where two configurations differ.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;

use serde::Serialize;

use crate::cli::store::{table, time_text};
use crate::config::Config;
use crate::pipeline::replay::Would;
use crate::pipeline::rule::Settings;
use crate::store::history::Past;

/// An event that would have been.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    rule_name: String,
    /// Unix seconds.
    timestamp: f64,
    severity: &'static str,
    sensor_name: String,
    value: f64,
}

impl Event {
    pub fn of(would: Would<'_>) -> Self {
        let Would { rule, severity, sensor, timestamp, value } = would;
        let (rule_name, severity, sensor_name) = (rule.to_owned(), severity.name(), sensor.to_owned());
        Self { rule_name, timestamp, severity, sensor_name, value }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.timestamp == other.timestamp
            && self.sensor_name == other.sensor_name
            && self.rule_name == other.rule_name
    }
}

/// One rule, by its name.
#[derive(Debug, Serialize)]
struct RuleLine {
    name: String,
    change: &'static str,
    old: u64,
    new: u64,
    only_old: u64,
    only_new: u64,
}

/// Events of one kind: their number, and the newest of them.
#[derive(Debug, Default, Serialize)]
struct List {
    count: u64,
    newest: VecDeque<Event>,
    #[serde(skip)]
    limit: usize,
}

/// All of it.
pub struct Report {
    is_comparison: bool,
    rules: Vec<RuleLine>,
    by_name: HashMap<String, usize>,
    /// Without a second configuration: all of the first.
    only_old: List,
    only_new: List,
}

impl Report {
    /// With at most `limit` events of each list.
    pub fn new(old: &Config, new: Option<&Config>, limit: usize) -> Self {
        let list = || List { limit, ..List::default() };
        let mut report = Self {
            is_comparison: new.is_some(),
            rules: Vec::new(),
            by_name: HashMap::new(),
            only_old: list(),
            only_new: list(),
        };
        for rule in &old.rules {
            report.add(rule, new.map_or("", |new| change(old, new, rule)));
        }
        for rule in new.iter().flat_map(|new| &new.rules) {
            if !report.by_name.contains_key(&rule.name) {
                report.add(rule, "new");
            }
        }
        report
    }

    fn add(&mut self, rule: &Settings, change: &'static str) {
        self.by_name.insert(rule.name.clone(), self.rules.len());
        let name = rule.name.clone();
        self.rules.push(RuleLine { name, change, old: 0, new: 0, only_old: 0, only_new: 0 });
    }

    /// Takes what the old and the new rules fired on the same occasion; nothing stays in the lists.
    pub fn note(&mut self, old: &mut Vec<Event>, new: &mut Vec<Event>) {
        let Self { rules, by_name, only_old, only_new, is_comparison } = self;
        for event in old.drain(..) {
            let line = by_name.get(&event.rule_name).and_then(|index| rules.get_mut(*index));
            let Some(line) = line else { continue };
            line.old += 1;
            if let Some(twin) = new.iter().position(|other| other.is_same(&event)) {
                new.swap_remove(twin);
                line.new += 1;
            } else {
                line.only_old += u64::from(*is_comparison);
                only_old.push(event);
            }
        }
        for event in new.drain(..) {
            let line = by_name.get(&event.rule_name).and_then(|index| rules.get_mut(*index));
            let Some(line) = line else { continue };
            line.new += 1;
            line.only_new += 1;
            only_new.push(event);
        }
    }

    /// For people.
    pub fn text(&self, past: &Past) -> String {
        let mut out = String::new();
        if self.is_comparison {
            let rows: Vec<_> = self.rules.iter().map(RuleLine::compared).collect();
            out += &table::format(["rule", "old", "new", "only old", "only new", "change"], &rows);
            self.only_old.write(&mut out, "only the old rules fire");
            self.only_new.write(&mut out, "only the new rules fire");
        } else {
            let rows: Vec<_> =
                self.rules.iter().map(|line| [printable(&line.name), line.old.to_string()]).collect();
            out += &table::format(["rule", "events"], &rows);
            self.only_old.write(&mut out, "events");
        }
        let Past { readings, summaries, masked, .. } = past;
        out += &format!("\n{readings} readings\n");
        if *summaries > 0 {
            out += &format!("{summaries} summaries of older readings were left out: rules judge readings\n");
        }
        if *masked > 0 {
            out += &format!(
                "{masked} of them are stored masked: rules judged the values that came in, this only 0\n"
            );
        }
        out
    }

    /// For programs; times in Unix seconds.
    ///
    /// # Errors
    ///
    /// It cannot be encoded.
    pub fn json(&self, since: f64, until: f64, past: &Past) -> serde_json::Result<String> {
        let Past { readings, summaries, masked, unreadable } = past;
        let mut whole = serde_json::json!({
            "since": since, "until": until, "readings": readings, "summaries_left_out": summaries,
            "masked": masked, "unreadable": unreadable.items,
        });
        if self.is_comparison {
            whole["rules"] = serde_json::to_value(&self.rules)?;
            whole["only_old"] = serde_json::to_value(&self.only_old)?;
            whole["only_new"] = serde_json::to_value(&self.only_new)?;
        } else {
            let rules =
                self.rules.iter().map(|line| serde_json::json!({"name": line.name, "events": line.old}));
            whole["rules"] = rules.collect();
            whole["events"] = serde_json::to_value(&self.only_old)?;
        }
        serde_json::to_string_pretty(&whole).map(|text| text + "\n")
    }
}

/// What becomes of a rule, and of the window it judges.
fn change(old: &Config, new: &Config, rule: &Settings) -> &'static str {
    let window = |config: &Config| {
        config.windows.iter().find(|window| Some(&window.name) == rule.window.as_ref()).cloned()
    };
    match new.rules.iter().find(|other| other.name == rule.name) {
        None => "gone",
        Some(other) if other != rule => "changed",
        Some(_) if window(old) != window(new) => "window changed",
        Some(_) => "same",
    }
}

impl RuleLine {
    fn compared(&self) -> [String; 6] {
        let Self { name, change, old, new, only_old, only_new } = self;
        let [old, new, only_old, only_new] = [old, new, only_old, only_new].map(u64::to_string);
        [printable(name), old, new, only_old, only_new, (*change).to_owned()]
    }
}

impl List {
    fn push(&mut self, event: Event) {
        self.count += 1;
        if self.newest.len() >= self.limit {
            self.newest.pop_front();
        }
        if self.limit > 0 {
            self.newest.push_back(event);
        }
    }

    fn write(&self, out: &mut String, title: &str) {
        if self.count == 0 {
            return;
        }
        let row = |event: &Event| {
            let Event { rule_name, timestamp, severity, sensor_name, value } = event;
            [
                time_text(*timestamp),
                printable(rule_name),
                (*severity).to_owned(),
                printable(sensor_name),
                value.to_string(),
            ]
        };
        let rows: Vec<_> = self.newest.iter().map(row).collect();
        // Text in memory takes everything.
        writeln!(out, "\n{title}: {}", self.count).ok();
        *out += &table::format(["time", "rule", "severity", "sensor", "value"], &rows);
        let more = self.count - self.newest.len() as u64;
        if more > 0 {
            writeln!(out, "and {more} more before them").ok();
        }
    }
}

/// A name that cannot move a terminal's cursor.
fn printable(name: &str) -> String {
    name.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Severity;

    fn event(rule: &str, timestamp: f64, value: f64) -> Event {
        Event::of(Would { rule, severity: Severity::Warning, sensor: "boiler", timestamp, value })
    }

    fn report(is_comparison: bool) -> Report {
        let list = || List { limit: 2, ..List::default() };
        let mut report = Report {
            is_comparison,
            rules: Vec::new(),
            by_name: HashMap::new(),
            only_old: list(),
            only_new: list(),
        };
        for (name, change) in [("over heat", "changed"), ("fresh", "new"), ("\u{1b}[2J", "gone")] {
            report.add(&Settings { name: name.to_owned(), ..Settings::default() }, change);
        }
        for step in 0..5_u32 {
            let time = 1_717_156_800.0 + f64::from(step);
            let mut old = vec![event("over heat", time, f64::from(step)), event("\u{1b}[2J", time, 0.5)];
            let mut new = vec![event("fresh", time, 1.0)];
            if step % 2 == 0 {
                new.push(event("over heat", time, f64::from(step)));
            }
            if !is_comparison {
                new.clear();
            }
            report.note(&mut old, &mut new);
        }
        report
    }

    #[test]
    fn people_and_programs_are_told_where_two_configurations_differ() {
        let past = Past { readings: 1_000_000, summaries: 12, masked: 3, ..Past::default() };
        insta::assert_snapshot!(report(true).text(&past));
        insta::assert_snapshot!(report(false).text(&Past { readings: 5, ..Past::default() }));
        insta::assert_snapshot!(report(true).json(1.0, 2.0, &past).unwrap());
    }
}
