//! `store export`: items as JSON lines or CSV.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::ValueEnum;

use super::{Target, Time, Wanted, report_unreadable};
use crate::cli::EXIT_OK;
use crate::cli::items::{COLUMNS, had_enough, write_row};
use crate::store::export::{Filter, Item, export};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    wanted: Wanted,
    /// Only what waits for delivery
    #[arg(long)]
    undelivered: bool,
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
        undelivered: arguments.undelivered,
        since: arguments.since.map(|time| time.0),
        until: arguments.until.map(|time| time.0),
        ..arguments.wanted.filter()
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
        Err(error) if had_enough(&error) => return Ok(EXIT_OK),
        written => written?,
    }
    Ok(report_unreadable(&unreadable))
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
            Self::Table(table) => write_row(table, item),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Lines(out) => out.flush(),
            Self::Table(table) => table.flush(),
        }
    }
}
