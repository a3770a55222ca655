//! `store`: looks at the database and mends it. One file per subcommand; what they share is here.

mod check;
mod export;
mod import;
mod purge;
mod repair;
mod stats;
pub(super) mod table;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{EXIT_CONFIG, EXIT_FAILED, EXIT_OK};
use crate::adapter::json::parse_timestamp;
use crate::clock;
use crate::config::{LoadOptions, load};
use crate::store::export::{Filter, Unreadable};
use crate::store::{DATABASE_FILE, Lane};

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Check the database, without changing anything: of an agent that runs, or a copy.
    ///
    /// Exits with 0 when it is whole, with 1 when it is damaged or cannot be read.
    Check(check::Arguments),
    /// Say what the database holds: of an agent that runs, or a copy.
    Stats(stats::Arguments),
    /// Print what is stored as JSON lines or CSV: of an agent that runs, or a copy.
    ///
    /// Exits with 1 when something was left out because it is damaged.
    Export(export::Arguments),
    /// Delete what is delivered, or more, and give the room back. The agent has to be stopped.
    ///
    /// Whole blocks go, and never a part of a batch that was begun. Try it with --dry-run first.
    Purge(purge::Arguments),
    /// Salvage a damaged database, as the next start would do. The agent has to be stopped.
    ///
    /// Exits with 0 when the database is whole or was mended.
    Repair(repair::Arguments),
    /// Take over what a Python agent still holds in its queue, each item once.
    ///
    /// The agent has to be stopped, and delivery enabled. Interrupted, it can be started again. Exits with 1
    /// when a row was not taken over: it is named, and stays where it is.
    Import(import::Arguments),
}

/// Which database.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The database file [default: that of the configuration's state directory]
    #[arg(value_name = "DATABASE")]
    database: Option<PathBuf>,
}

impl Target {
    /// The database file, in `state_dir` when none is named.
    pub(super) fn or_in(self, state_dir: &Path) -> PathBuf {
        let database = self.database.unwrap_or_else(|| state_dir.to_owned());
        if database.is_dir() { database.join(DATABASE_FILE) } else { database }
    }

    /// Whether it was named, and is not that of the configuration.
    pub(super) fn is_given(&self) -> bool {
        self.database.is_some()
    }

    /// The database file. What is wrong with the configuration was printed; the error is the exit code.
    pub(super) fn resolve(self, config: Option<PathBuf>) -> Result<PathBuf, u8> {
        if let Some(database) = self.database {
            return Ok(if database.is_dir() { database.join(DATABASE_FILE) } else { database });
        }
        match load(&LoadOptions::of_process(config)) {
            Ok(loaded) => Ok(loaded.config.store.state_dir.join(DATABASE_FILE)),
            Err(error) => {
                eprintln!("{error}");
                Err(EXIT_CONFIG)
            }
        }
    }
}

/// Which items.
#[derive(Debug, Args)]
pub(super) struct Wanted {
    /// Only these lanes [default: all]
    #[arg(long, value_name = "LANE", ignore_case = true)]
    lane: Vec<LaneName>,
    /// Only sensors that match: * stands for any characters, ? for one
    #[arg(long, value_name = "PATTERN")]
    sensor: Option<String>,
    /// Only events of rules that match; * for all of them
    #[arg(long, value_name = "PATTERN")]
    rule: Option<String>,
}

impl Wanted {
    pub(super) fn filter(self) -> Filter {
        let lanes = self.lane.into_iter().map(|lane| lane.0).collect();
        Filter { lanes, sensor: self.sensor, rule: self.rule, ..Filter::default() }
    }
}

/// Says what could not be read; returns the exit code.
pub(super) fn report_unreadable(unreadable: &Unreadable) -> u8 {
    let Some(first) = &unreadable.first else { return EXIT_OK };
    eprintln!(
        "pyv-edge-agent: {} items cannot be read and were left out; the first: {first}",
        unreadable.items
    );
    EXIT_FAILED
}

/// Does what `command` asks for; returns the exit code.
pub fn run(config: Option<PathBuf>, command: StoreCommand) -> u8 {
    let result = match command {
        StoreCommand::Check(arguments) => check::run(config, arguments),
        StoreCommand::Stats(arguments) => stats::run(config, arguments),
        StoreCommand::Export(arguments) => export::run(config, arguments),
        StoreCommand::Purge(arguments) => purge::run(config, arguments),
        StoreCommand::Repair(arguments) => repair::run(config, arguments),
        StoreCommand::Import(arguments) => import::run(config, &arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pyv-edge-agent: {error:#}");
            EXIT_FAILED
        }
    }
}

/// A lane by its name.
#[derive(Clone, Copy, Debug)]
struct LaneName(Lane);

impl clap::ValueEnum for LaneName {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [LaneName; Lane::ALL.len()] = {
            let mut all = [LaneName(Lane::Critical); Lane::ALL.len()];
            let mut index = 0;
            while index < all.len() {
                all[index] = LaneName(Lane::ALL[index]);
                index += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(self.0.name().into())
    }
}

/// An instant, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Time(pub(super) f64);

impl std::str::FromStr for Time {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let units = [('s', 1.0), ('m', 60.0), ('h', 3600.0), ('d', 86_400.0)];
        let back = units.into_iter().find_map(|(unit, seconds)| {
            text.strip_suffix(unit)?.parse::<f64>().ok().filter(|n| n.is_finite()).map(|n| n * seconds)
        });
        back.map(|back| clock::unix_seconds() - back)
            .or_else(|| parse_timestamp(text))
            .map(Self)
            .ok_or("give ISO 8601 such as 2024-05-31T12:00:00Z, Unix seconds, or back from now such as 24h")
    }
}

/// An instant in Unix seconds, for people; the number where no calendar reaches.
pub(super) fn time_text(unix_seconds: f64) -> String {
    OffsetDateTime::from_unix_timestamp(unix_seconds as i64)
        .ok()
        .and_then(|instant| instant.format(&Rfc3339).ok())
        .unwrap_or_else(|| unix_seconds.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_back_from_now() {
        assert_eq!("2024-05-31T12:00:00Z".parse(), Ok(Time(1_717_156_800.0)));
        assert_eq!("1717156800".parse(), Ok(Time(1_717_156_800.0)));
        let back = clock::unix_seconds() - "2h".parse::<Time>().unwrap().0;
        assert!((7199.0..7210.0).contains(&back), "{back}");
        for text in ["", "h", "yesterday", "1y", "infd"] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }
}
