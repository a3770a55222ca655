//! `doctor`: looks at the device and the service, and says what mends what is wrong.

use std::path::PathBuf;

use super::by_hand::{Service, load_as};
use super::{EXIT_CONFIG, EXIT_FAILED, EXIT_OK, on_runtime};
use crate::doctor::facts::gather;
use crate::doctor::{Level, Report, examine, render};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Exit with 1 for warnings as well
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    service: Service,
}

/// Prints the report; returns the exit code.
pub fn run(config: Option<PathBuf>, arguments: &Arguments) -> anyhow::Result<u8> {
    let (root, units) = (arguments.service.root(), arguments.service.units());
    let (config, _credentials) = load_as(&units.0, &root, config);
    let facts = on_runtime(gather(root, config, units))?;
    let report = examine(&facts);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", render::text(&report, render::wants_colour()));
    }
    Ok(exit_code(&report, facts.config.is_err(), arguments.strict))
}

fn exit_code(report: &Report, has_no_config: bool, strict: bool) -> u8 {
    match report.status {
        _ if has_no_config => EXIT_CONFIG,
        Level::Error => EXIT_FAILED,
        Level::Warning if strict => EXIT_FAILED,
        _ => EXIT_OK,
    }
}
