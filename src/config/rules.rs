//! Reads `[windows]` and `[[rules]]`, as lists or as named tables.

use std::collections::HashSet;
use std::time::Duration;

use super::composites::{check_members, composite, over_rules};
use super::section::{Section, nearest};
use super::stages::{bounded_name, given};
use crate::action;
use crate::pipeline::expr::Expression;
use crate::pipeline::{rule, window};
use crate::reading::Severity;

/// Reads `windows.definitions` and every `[windows.<name>]`.
pub fn windows(root: &mut Section<'_>) -> Vec<window::Settings> {
    let mut section = root.section("windows");
    let default_size = section.integer("default_size", 60, 1..=SPAN_SECONDS_MAX);
    let mut tables: Vec<_> = section.list("definitions").into_iter().map(|table| (None, table)).collect();
    tables.extend(section.named_sections().into_iter().map(|(name, table)| (Some(name), table)));
    limit(root, "windows", &mut tables, WINDOWS_MAX);
    let mut names = HashSet::new();
    let read = |(name, mut table)| {
        let name = unique_name(&mut table, name, &mut names, "the window's name");
        window(name, &mut table, default_size as f64)
    };
    tables.into_iter().map(read).collect()
}

/// Reads every `[[rules]]` or `[rules.<name>]`; `windows` and `actions` are those that a rule may name.
pub fn rules(
    root: &mut Section<'_>,
    windows: &[window::Settings],
    actions: &[action::Settings],
) -> Vec<rule::Settings> {
    let mut tables = named_tables(root, "rules");
    limit(root, "rules", &mut tables, RULES_MAX);
    let mut names = HashSet::new();
    let read = |(name, table): &mut (Option<String>, Section<'_>)| {
        let name = unique_name(table, name.take(), &mut names, "the rule's name");
        let settings = match composite(table) {
            Some(composite) => over_rules(name, table, composite),
            None => rule(name, table, windows),
        };
        rule::Settings { actions: actions_of_rule(table, actions), ..settings }
    };
    let rules: Vec<_> = tables.iter_mut().map(read).collect();
    check_members(&tables, &rules);
    rules
}

/// The tables under `key`, which is a list of tables or a table of named ones.
pub fn named_tables<'a>(root: &mut Section<'a>, key: &'static str) -> Vec<(Option<String>, Section<'a>)> {
    if root.is_list(key) {
        return root.list(key).into_iter().map(|table| (None, table)).collect();
    }
    let tables = root.section(key).named_sections();
    tables.into_iter().map(|(name, table)| (Some(name), table)).collect()
}

fn window(name: String, table: &mut Section<'_>, default_size: f64) -> window::Settings {
    let kinds = [("tumbling", window::Kind::Tumbling), ("rolling", window::Kind::Rolling)];
    let aggregations = [
        ("mean", window::Aggregation::Mean),
        ("max", window::Aggregation::Max),
        ("min", window::Aggregation::Min),
        ("std", window::Aggregation::Std),
        ("sum", window::Aggregation::Sum),
        ("count", window::Aggregation::Count),
        ("first", window::Aggregation::First),
        ("last", window::Aggregation::Last),
        ("rate", window::Aggregation::Rate),
        ("percentile", window::Aggregation::Percentile),
        ("ewma", window::Aggregation::Ewma),
    ];
    let span = SPAN_SECONDS_MIN..=SPAN_SECONDS_MAX as f64;
    let duration = table.seconds("duration_seconds", default_size, span.clone());
    let step = table.optional_float("step_seconds", span.clone()).map_or(duration, Duration::from_secs_f64);
    let lateness = table.optional_float("allowed_lateness_seconds", 0.0..=SPAN_SECONDS_MAX as f64);
    let allowed_lateness =
        lateness.map_or_else(|| window::Settings::usual_lateness(step), Duration::from_secs_f64);
    let settings = window::Settings {
        name,
        sensor_name: given(table.string("sensor_name")),
        duration,
        step,
        kind: table.choice("window_type", window::Kind::default(), &kinds),
        aggregation: table.choice("aggregation", window::Aggregation::default(), &aggregations),
        allowed_lateness,
        percentile: table.optional_float("percentile", 0.0..=100.0),
        half_life: table.optional_float("half_life_seconds", span).map(Duration::from_secs_f64),
    };
    check_window(&settings, table);
    settings
}

fn check_window(settings: &window::Settings, table: &mut Section<'_>) {
    let needed = match settings.aggregation {
        window::Aggregation::Percentile => Some(("percentile", "which one, 0 to 100")),
        window::Aggregation::Ewma => Some(("half_life_seconds", "the age at which a reading counts half")),
        _ => None,
    };
    if let Some((key, expected)) = needed.filter(|(key, _)| !table.has(key)) {
        table.missing(key, expected);
    }
    if let Err(fault) = check_step(settings) {
        table.refuse("step_seconds", fault);
    } else if let Err(fault) = settings.check() {
        // The message begins with the key.
        let (key, fault) = fault.split_once(": ").unwrap_or(("step_seconds", &fault));
        table.refuse(key, fault);
    }
}

/// Whether the steps of a window fit its kind.
fn check_step(settings: &window::Settings) -> Result<(), String> {
    let (step, duration) = (settings.step.as_secs_f64(), settings.duration.as_secs_f64());
    match settings.kind {
        window::Kind::Tumbling if step != duration => Err(format!(
            "{step} differs from the duration, {duration}; leave it out, or set window_type to rolling"
        )),
        window::Kind::Rolling if step > duration => Err(format!(
            "{step} is more than the duration, {duration}; readings between two windows would be left out"
        )),
        _ => Ok(()),
    }
}

fn rule(name: String, table: &mut Section<'_>, windows: &[window::Settings]) -> rule::Settings {
    const SILENT: &str = "silent_seconds";
    const HOLD: &str = "for_seconds";
    let span_max = SPAN_SECONDS_MAX as f64;
    let silent = table.optional_float(SILENT, 1.0..=span_max).map(Duration::from_secs_f64);
    let window = window_of_rule(table, windows);
    let hold = table.seconds(HOLD, 0.0, 0.0..=span_max);
    if silent.is_some() && !hold.is_zero() {
        table.refuse(HOLD, "goes with readings, and silent_seconds with none; give one of them");
    }
    if silent.is_some() && window.is_some() {
        table
            .refuse(SILENT, "is about sensors, and a rule with a window about its results; give one of them");
    }
    rule::Settings {
        condition_expr: condition(table, table.has(SILENT), window.is_some()),
        clear_expr: clear(table, silent.is_some(), window.is_some()),
        hold,
        silent,
        window,
        ..about_events(name, table)
    }
}

/// What all rules have: how their events are.
pub(super) fn about_events(name: String, table: &mut Section<'_>) -> rule::Settings {
    let severities =
        [("info", Severity::Info), ("warning", Severity::Warning), ("critical", Severity::Critical)];
    rule::Settings {
        name,
        severity: table.choice("severity", Severity::default(), &severities),
        cooldown: table.seconds("cooldown_seconds", 0.0, 0.0..=SPAN_SECONDS_MAX as f64),
        message: given(table.string("message")),
        ..rule::Settings::default()
    }
}

/// Every sensor is meant where silence is waited for and nothing else is said.
fn condition(table: &mut Section<'_>, has_default: bool, has_window: bool) -> String {
    const KEY: &str = "condition_expr";
    if has_default && !table.has(KEY) {
        return "True".to_owned();
    }
    let text = table.required_string(KEY, "an expression such as ctx.value > 85.0");
    if text.is_empty() {
        return text;
    }
    check_expression(table, KEY, &text, has_window);
    text
}

/// What re-arms a rule that fired.
fn clear(table: &mut Section<'_>, is_of_silence: bool, has_window: bool) -> Option<String> {
    const KEY: &str = "clear_expr";
    let text = given(table.string(KEY))?;
    if is_of_silence {
        table.refuse(KEY, "goes with readings; a silence ends with the next one anyway");
    }
    check_expression(table, KEY, &text, has_window);
    Some(text)
}

fn check_expression(table: &Section<'_>, key: &str, text: &str, has_window: bool) {
    match Expression::compile(text) {
        Err(error) => table.refuse(key, format_args!("column {}: {}", error.column, error.message)),
        Ok(expression) if expression.uses_window() && !has_window => {
            table.refuse(key, "asks for win, the result of a window; name that with window = '...'")
        }
        Ok(_) => {}
    }
}

/// The window whose results a rule judges.
fn window_of_rule(table: &mut Section<'_>, windows: &[window::Settings]) -> Option<String> {
    const KEY: &str = "window";
    let name = given(table.string(KEY))?;
    let names = || windows.iter().map(|window| window.name.as_str());
    if !names().any(|known| known == name) {
        table.refuse(KEY, format_args!("there is no window '{name}'{}", nearest(&name, names())));
    }
    Some(name)
}

/// The actions that the events of a rule start.
fn actions_of_rule(table: &mut Section<'_>, actions: &[action::Settings]) -> Vec<String> {
    const KEY: &str = "actions";
    let names = table.strings(KEY);
    let known = || actions.iter().map(|action| action.name.as_str());
    for (index, name) in names.iter().enumerate() {
        if !known().any(|known| known == name) {
            table.refuse(KEY, format_args!("there is no action '{name}'{}", nearest(name, known())));
        } else if names[..index].contains(name) {
            table.refuse(KEY, format_args!("'{name}' stands there twice; an event starts an action once"));
        }
    }
    names
}

/// The `name` of a table, or else the name it was given by its place; once per list.
pub(super) fn unique_name(
    table: &mut Section<'_>,
    named: Option<String>,
    names: &mut HashSet<String>,
    expected: &str,
) -> String {
    const KEY: &str = "name";
    let name = match named {
        Some(named) if !table.has(KEY) && !named.is_empty() => {
            table.string(KEY);
            named
        }
        _ => table.required_string(KEY, expected),
    };
    bounded_name(table, KEY, &name);
    if !name.is_empty() && !names.insert(name.clone()) {
        table.refuse(KEY, format_args!("'{name}' is taken by an earlier one; names are unique"));
    }
    name
}

pub(super) fn limit(
    root: &Section<'_>,
    key: &str,
    tables: &mut Vec<(Option<String>, Section<'_>)>,
    max: usize,
) {
    if tables.len() > max {
        root.refuse(key, format_args!("{} are too many; give at most {max}", tables.len()));
        tables.drain(max..).for_each(|(_, mut table)| table.ignore_rest());
    }
}

const WINDOWS_MAX: usize = 256;
const RULES_MAX: usize = 1024;
/// Shorter than any clock of a sensor tells apart.
const SPAN_SECONDS_MIN: f64 = 0.001;
/// A leap year.
pub(super) const SPAN_SECONDS_MAX: i64 = 366 * 86_400;
