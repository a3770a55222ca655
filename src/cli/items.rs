//! Stored items on standard output: for people as a table, for programs as CSV or JSON lines.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Deserialize;

use super::store::{table, time_text};
use crate::doctor::render::wants_colour;
use crate::store::Lane;
use crate::store::export::{Fields, Item};

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// Time, lane, sensor, value, unit, and what there is besides, for people
    Table,
    /// Lane, number, time, name, value, unit, metadata; for events rule, severity, message
    Csv,
    /// One item on each line, as it is delivered
    Jsonl,
}

/// An item that outlives the block it was read from.
#[derive(Clone, Debug)]
pub struct Kept {
    pub lane: Lane,
    pub sequence: u64,
    /// Unix seconds.
    pub timestamp: f64,
    text: String,
}

impl Kept {
    pub fn of(item: &Item<'_>) -> Self {
        let Item { lane, sequence, text, ref fields } = *item;
        Self { lane, sequence, timestamp: fields.timestamp, text: text.to_owned() }
    }
}

/// Prints items part by part; only the first part has a header.
pub struct Printer<W: Write> {
    out: W,
    format: Format,
    is_headed: bool,
    widths: [usize; 6],
    is_coloured: bool,
}

impl<W: Write> Printer<W> {
    pub fn new(out: W, format: Format) -> Self {
        let widths = HEADER.map(str::len);
        Self { out, format, is_headed: false, widths, is_coloured: wants_colour() }
    }

    /// Prints `items`, which whoever reads has when it returns.
    ///
    /// # Errors
    ///
    /// They cannot be written; with a broken pipe whoever read them had enough.
    pub fn print(&mut self, items: &[Kept]) -> io::Result<()> {
        let is_first = !std::mem::replace(&mut self.is_headed, true);
        match self.format {
            Format::Jsonl => items.iter().try_for_each(|item| writeln!(self.out, "{}", item.text))?,
            Format::Csv => {
                let mut rows = csv::Writer::from_writer(&mut self.out);
                if is_first {
                    rows.write_record(COLUMNS)?;
                }
                items.iter().try_for_each(|kept| write_row(&mut rows, &kept.item()))?;
                rows.flush()?;
            }
            Format::Table => {
                let mut rows: Vec<_> = items.iter().map(|item| row(&item.item(), self.is_coloured)).collect();
                if is_first {
                    rows.insert(0, HEADER.map(str::to_owned));
                }
                table::fit(&mut self.widths, &rows);
                self.out.write_all(table::lines(&self.widths, &rows).as_bytes())?;
            }
        }
        self.out.flush()
    }
}

impl Kept {
    pub(super) fn item(&self) -> Item<'_> {
        let fields = serde_json::from_str(&self.text).unwrap_or_default();
        Item { lane: self.lane, sequence: self.sequence, text: &self.text, fields }
    }
}

/// Whether it failed because whoever read it had enough.
pub fn had_enough(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Writes one item as a row of [`COLUMNS`].
///
/// # Errors
///
/// It cannot be written.
pub fn write_row<W: Write>(rows: &mut csv::Writer<W>, item: &Item<'_>) -> io::Result<()> {
    let fields = &item.fields;
    rows.write_record([
        item.lane.name(),
        &item.sequence.to_string(),
        &fields.timestamp.to_string(),
        fields.sensor_name.as_deref().unwrap_or_default(),
        &number(fields.value),
        fields.unit.as_deref().unwrap_or_default(),
        fields.metadata.map_or("", |metadata| metadata.get()),
        fields.rule_name.as_deref().unwrap_or_default(),
        fields.severity.as_deref().unwrap_or_default(),
        fields.message.as_deref().unwrap_or_default(),
    ])?;
    Ok(())
}

fn row(item: &Item<'_>, colour: bool) -> [String; 6] {
    let fields = &item.fields;
    let (value, unit) = match fields.first_reading() {
        Some((value, unit)) => (value, unit),
        None => (fields.value, fields.unit.as_deref().unwrap_or_default()),
    };
    [
        time_with_millis(fields.timestamp),
        item.lane.name().to_owned(),
        shown(fields.sensor()),
        number(value),
        shown(unit),
        about(fields, colour),
    ]
}

/// An event's severity, rule and message; a window's name, aggregate and count; else the metadata.
fn about(fields: &Fields<'_>, colour: bool) -> String {
    if let Some(rule) = &fields.rule_name {
        let severity = fields.severity.as_deref().unwrap_or_default();
        let painted = match severity {
            "critical" if colour => format!("{RED}{severity}{PLAIN}"),
            "warning" if colour => format!("{YELLOW}{severity}{PLAIN}"),
            _ => shown(severity),
        };
        return format!(
            "{painted} {}: {}",
            shown(rule),
            shown(fields.message.as_deref().unwrap_or_default())
        );
    }
    let metadata = fields.metadata.map_or("{}", |metadata| metadata.get());
    if let Ok(Window { window: Some(window), aggregation: Some(aggregation), count: Some(count) }) =
        serde_json::from_str(metadata)
    {
        return format!("window {}: {} of {count}", shown(&window), shown(&aggregation));
    }
    if metadata == "{}" { String::new() } else { shown(metadata) }
}

/// What a window's result has in its metadata.
#[derive(Deserialize)]
struct Window {
    window: Option<String>,
    aggregation: Option<String>,
    count: Option<u64>,
}

/// An instant in Unix seconds, to the millisecond.
fn time_with_millis(unix_seconds: f64) -> String {
    let millis = (unix_seconds * 1e3).round();
    let whole = (millis / 1e3).floor();
    let text = time_text(whole);
    text.strip_suffix('Z').map_or(text.clone(), |text| format!("{text}.{:03}Z", millis - whole * 1e3))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// Names come from outside: what they hold is not for the terminal to obey.
pub(super) fn shown(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

pub const COLUMNS: [&str; 10] = [
    "lane",
    "sequence",
    "timestamp",
    "sensor_name",
    "value",
    "unit",
    "metadata",
    "rule_name",
    "severity",
    "message",
];
const HEADER: [&str; 6] = ["time", "lane", "sensor", "value", "unit", "about"];
const RED: &str = "\u{1b}[31m";
const YELLOW: &str = "\u{1b}[33m";
const PLAIN: &str = "\u{1b}[0m";

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(lane: Lane, sequence: u64, text: &str) -> Kept {
        Kept { lane, sequence, timestamp: 0.0, text: text.to_owned() }
    }

    fn samples() -> Vec<Kept> {
        let reading =
            r#"{"sensor_name":"boiler","timestamp":1717156800.25,"value":71.5,"unit":"C","metadata":{}}"#;
        let odd = r#"{"sensor_name":"a\u001b[2J, b","timestamp":1717156801.0,"value":-1,"unit":"","metadata":{"room":7}}"#;
        let window = r#"{"sensor_name":"boiler","timestamp":1717156860.0,"value":70.0,"unit":"C","metadata":{"window":"minute","aggregation":"mean","count":12}}"#;
        let event = format!(
            r#"{{"rule_name":"overheat","timestamp":1717156800.25,"severity":"critical","message":"too \"hot\"","sensor_readings":[{reading}],"metadata":{{}}}}"#
        );
        vec![
            kept(Lane::Telemetry, 1, reading),
            kept(Lane::Local, 12, odd),
            kept(Lane::Telemetry, 2, window),
            kept(Lane::Critical, 1, &event),
            kept(Lane::Logs, 9, "not what it was"),
        ]
    }

    fn printed(format: Format) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, format);
        let samples = samples();
        printer.print(&samples[..2]).unwrap();
        printer.print(&samples[2..]).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn items_are_a_table_for_people_and_rows_or_lines_for_programs() {
        insta::assert_snapshot!(printed(Format::Table));
        insta::assert_snapshot!(printed(Format::Csv));
        assert_eq!(printed(Format::Jsonl).lines().count(), samples().len());
    }

    #[test]
    fn severities_are_coloured_only_where_that_is_wanted() {
        let samples = samples();
        let event = samples[3].item();
        assert!(row(&event, true)[5].starts_with("\u{1b}[31mcritical\u{1b}[0m overheat"));
        assert!(row(&event, false)[5].starts_with("critical overheat"));
    }
}
