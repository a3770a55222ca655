//! `privacy`: shows an auditor what leaves the device, what never does, and that the record of it is whole. One
//! file per subcommand.

mod explain;
mod report;
mod rotate_key;
mod verify;

use std::path::PathBuf;

use clap::Subcommand;

use super::ended;

#[derive(Debug, Subcommand)]
pub enum PrivacyCommand {
    /// Say for stored readings what leaves of them, field by field, and which rule decides.
    ///
    /// With --config FILE a policy is tried on what is stored before it goes live. Changes nothing.
    Explain(explain::Arguments),
    /// Say what left the device and what was filtered, by rule, with the fields of a record of processing
    /// activities (GDPR, Article 30).
    Report(report::Arguments),
    /// Check the audit trail: that no record was altered, removed or put elsewhere. Of an agent that runs, or a
    /// copy.
    ///
    /// Exits with 0 when it holds, with 1 when it does not or cannot be read.
    Verify(verify::Arguments),
    /// Make a new key for hashes in the place of the present one. It holds from the next reload or start on.
    ///
    /// What was hashed before cannot be linked with what is hashed from then on. The old key is gone.
    RotateKey(rotate_key::Arguments),
}

/// Does what `command` asks for; returns the exit code.
pub fn run(config: Option<PathBuf>, command: PrivacyCommand) -> u8 {
    ended(match command {
        PrivacyCommand::Explain(arguments) => explain::run(config, arguments),
        PrivacyCommand::Report(arguments) => report::run(config, arguments),
        PrivacyCommand::Verify(arguments) => verify::run(config, arguments),
        PrivacyCommand::RotateKey(arguments) => rotate_key::run(config, &arguments),
    })
}
