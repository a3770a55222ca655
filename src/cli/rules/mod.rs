//! `rules`: tries conditions before they go live. One file per subcommand.

mod eval;

use std::path::PathBuf;

use clap::Subcommand;

use super::ended;

#[derive(Debug, Subcommand)]
pub enum RulesCommand {
    /// Evaluate one condition on one reading, and print what Python would make of it.
    ///
    /// Exits with 0 when there is a value, with 1 when the condition is refused or raises.
    Eval(eval::Arguments),
}

/// Does what `command` asks for; returns the exit code.
pub fn run(_config: Option<PathBuf>, command: &RulesCommand) -> u8 {
    ended(match command {
        RulesCommand::Eval(arguments) => eval::run(arguments),
    })
}
