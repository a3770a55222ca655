//! `rules`: tries conditions before they go live. One file per subcommand.

mod eval;
mod report;
mod test;

use std::path::PathBuf;

use clap::Subcommand;

use super::ended;

#[derive(Debug, Subcommand)]
pub enum RulesCommand {
    /// Evaluate one condition on one reading, and print what Python would make of it.
    ///
    /// Exits with 0 when there is a value, with 1 when the condition is refused or raises.
    Eval(eval::Arguments),
    /// Hold the rules that run, and with --config those of another configuration, against what is stored, and print
    /// what they fire and where they differ.
    ///
    /// Nothing is changed, and no action is started. Exits with 1 when something was left out because it is damaged.
    Test(test::Arguments),
}

/// Does what `command` asks for; returns the exit code.
pub fn run(config: Option<PathBuf>, command: RulesCommand) -> u8 {
    ended(match command {
        RulesCommand::Eval(arguments) => eval::run(&arguments),
        RulesCommand::Test(arguments) => test::run(config, arguments),
    })
}
