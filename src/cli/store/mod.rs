//! `store`: looks at the database and mends it. One file per subcommand; what they share is here.

mod check;
mod import;
pub(super) mod table;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{EXIT_CONFIG, EXIT_FAILED};
use crate::config::{LoadOptions, load};
use crate::store::DATABASE_FILE;

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Check the database, without changing anything: of an agent that runs, or a copy.
    ///
    /// Exits with 0 when it is whole, with 1 when it is damaged or cannot be read.
    Check(check::Arguments),
    /// Take over what a Python agent still holds in its queue, each item once.
    ///
    /// The agent has to be stopped, and delivery enabled. Interrupted, it can be started again. Exits with 1
    /// when a row was not taken over: it is named, and stays where it is.
    Import(import::Arguments),
}

/// Which database.
#[derive(Debug, Args)]
struct Target {
    /// The database file [default: that of the configuration's state directory]
    #[arg(value_name = "DATABASE")]
    database: Option<PathBuf>,
}

impl Target {
    /// The database file. What is wrong with the configuration was printed; the error is the exit code.
    fn resolve(self, config: Option<PathBuf>) -> Result<PathBuf, u8> {
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

/// Does what `command` asks for; returns the exit code.
pub fn run(config: Option<PathBuf>, command: StoreCommand) -> u8 {
    let result = match command {
        StoreCommand::Check(arguments) => check::run(config, arguments),
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
