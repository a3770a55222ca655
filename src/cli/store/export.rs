//! `store export`: items as JSON lines or CSV.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::PathBuf;

use clap::ValueEnum;

use super::{LaneName, Target, Time};
use crate::cli::{EXIT_FAILED, EXIT_OK};
use crate::store::export::{Filter, Item, export};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Only these lanes [default: all]
    #[arg(long, value_name = "LANE", ignore_case = true)]
    lane: Vec<LaneName>,
    /// Only what waits for delivery
    #[arg(long)]
    undelivered: bool,
    /// Only sensors that match: * stands for any characters, ? for one
    #[arg(long, value_name = "PATTERN")]
    sensor: Option<String>,
    /// Only items of this time or later: ISO 8601, Unix seconds, or back from now such as 90s, 15m, 24h, 7d
    #[arg(long, value_name = "TIME")]
    since: Option<Time>,
    /// Only items before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Time>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// One item on each line, as it is delivered
    #[default]
    Jsonl,
    /// Lane, number, time, name, value, unit, metadata; for events rule, severity, message
    Csv,
}

pub fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<u8> {
    let path = match arguments.target.resolve(config) {
        Ok(path) => path,
        Err(code) => return Ok(code),
    };
    let filter = Filter {
        lanes: arguments.lane.into_iter().map(|lane| lane.0).collect(),
        undelivered: arguments.undelivered,
        sensor: arguments.sensor,
        since: arguments.since.map(|time| time.0),
        until: arguments.until.map(|time| time.0),
    };
    let out = BufWriter::new(io::stdout().lock());
    let mut writer = match arguments.format {
        Format::Jsonl => Writer::Lines(out),
        Format::Csv => Writer::table(out)?,
    };
    let mut written = Ok(());
    let unreadable = export(&path, &filter, |item| {
        written = writer.write(item);
        written.is_ok()
    })?;
    match written.and_then(|()| writer.finish()) {
        // Whoever read it had enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(EXIT_OK),
        written => written?,
    }
    let Some(first) = unreadable.first else { return Ok(EXIT_OK) };
    eprintln!(
        "pyv-edge-agent: {} items cannot be read and were left out; the first: {first}",
        unreadable.items
    );
    Ok(EXIT_FAILED)
}

enum Writer<W: Write> {
    Lines(W),
    Table(Box<csv::Writer<W>>),
}

impl<W: Write> Writer<W> {
    fn table(out: W) -> io::Result<Self> {
        let mut table = csv::Writer::from_writer(out);
        table.write_record(COLUMNS)?;
        Ok(Self::Table(Box::new(table)))
    }

    fn write(&mut self, item: &Item<'_>) -> io::Result<()> {
        match self {
            Self::Lines(out) => writeln!(out, "{}", item.text),
            Self::Table(table) => {
                let fields = &item.fields;
                let sequence = item.sequence.to_string();
                let timestamp = fields.timestamp.to_string();
                let value = fields.value.map_or_else(String::new, |value| value.to_string());
                table.write_record([
                    item.lane.name(),
                    &sequence,
                    &timestamp,
                    fields.sensor_name.as_deref().unwrap_or_default(),
                    &value,
                    fields.unit.as_deref().unwrap_or_default(),
                    fields.metadata.map_or("", |metadata| metadata.get()),
                    fields.rule_name.as_deref().unwrap_or_default(),
                    fields.severity.as_deref().unwrap_or_default(),
                    fields.message.as_deref().unwrap_or_default(),
                ])?;
                Ok(())
            }
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Lines(out) => out.flush(),
            Self::Table(table) => table.flush(),
        }
    }
}

const COLUMNS: [&str; 10] = [
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
