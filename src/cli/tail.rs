//! `tail`: what was stored last, and what is stored from then on, as soon as it is committed.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::items::{Format, Kept, Printer, had_enough};
use super::store::{Target, Wanted};
use super::{EXIT_OK, on_runtime};
use crate::store::export::Filter;
use crate::store::follow::{Place, end, newest, since};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    wanted: Wanted,
    /// Begin with so many that are stored already
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=LAST_MAX))]
    last: u32,
    /// End after so many
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<u8> {
    let path = match arguments.target.resolve(config) {
        Ok(path) => path,
        Err(code) => return Ok(code),
    };
    let mut tail = Tail {
        filter: arguments.wanted.filter(),
        printer: Printer::new(BufWriter::new(io::stdout().lock()), arguments.format),
        left: arguments.count.unwrap_or(u64::MAX),
        place: Place::default(),
        damaged: 0,
    };
    let written = on_runtime(follow(&path, &mut tail, arguments.last as usize))?;
    match written {
        Err(error) if error.downcast_ref().is_some_and(had_enough) => Ok(EXIT_OK),
        written => written.map(|()| EXIT_OK),
    }
}

/// Ends when enough was printed; a signal ends the process.
async fn follow<W: Write>(path: &Path, tail: &mut Tail<W>, last: usize) -> anyhow::Result<()> {
    tail.place = end(path)?;
    let mut found = Vec::new();
    newest(path, &tail.place, &tail.filter, last, |item| found.push(Kept::of(item)))?;
    found.sort_by(|a, b| a.timestamp.total_cmp(&b.timestamp));
    tail.print(&found[found.len().saturating_sub(last)..])?;
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failures = 0;
    while tail.left > 0 {
        look.tick().await;
        match tail.look(path) {
            Ok(()) => failures = 0,
            // The agent may hold the database for a moment, or be about to put another in its place.
            Err(error) if failures < FAILURES_MAX && error.is::<crate::store::Error>() => failures += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

struct Tail<W: Write> {
    filter: Filter,
    printer: Printer<W>,
    /// How many are still to be printed.
    left: u64,
    place: Place,
    /// Items that could not be read.
    damaged: u64,
}

impl<W: Write> Tail<W> {
    /// Prints what is new.
    fn look(&mut self, path: &Path) -> anyhow::Result<()> {
        loop {
            let mut found = Vec::new();
            let unreadable = since(path, &mut self.place, &self.filter, |item| {
                found.push(Kept::of(item));
                true
            })?;
            if unreadable.items > 0 && self.damaged == 0 {
                eprintln!(
                    "pyv-edge-agent: items that cannot be read are left out; the first: {}",
                    unreadable.first.unwrap_or_default()
                );
            }
            self.damaged += unreadable.items;
            if found.is_empty() {
                return Ok(());
            }
            self.print(&found)?;
            if self.left == 0 {
                return Ok(());
            }
        }
    }

    fn print(&mut self, found: &[Kept]) -> io::Result<()> {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(found.len());
        self.printer.print(&found[..count])?;
        self.left -= count as u64;
        Ok(())
    }
}

/// The agent commits each second; looking costs a few reads of pages that are in memory.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Looks in a row that may fail.
const FAILURES_MAX: u32 = 20;
const LAST_MAX: i64 = 10_000;
