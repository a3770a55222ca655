//! `store check`: everything that is wrong with a database, read and not changed.

use std::path::PathBuf;

use super::{Target, table};
use crate::cli::{EXIT_FAILED, EXIT_OK};
use crate::store::check::{Report, check};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<u8> {
    let path = match arguments.target.resolve(config) {
        Ok(path) => path,
        Err(code) => return Ok(code),
    };
    let report = check(&path)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(if report.findings.is_empty() { EXIT_OK } else { EXIT_FAILED })
}

fn print(report: &Report) {
    println!(
        "{}: schema version {}, store {}",
        report.path.display(),
        report.schema_version,
        report.store_id
    );
    let lanes: Vec<_> = report
        .lanes
        .iter()
        .map(|lane| [lane.name.to_owned(), lane.blocks.to_string(), lane.items.to_string()])
        .collect();
    table::print(["lane", "blocks", "items"], &lanes);
    if report.findings.is_empty() {
        println!("nothing is wrong");
        return;
    }
    println!();
    let findings: Vec<_> =
        report.findings.iter().map(|found| [found.place.clone(), found.detail.clone()]).collect();
    table::print(["where", "what is wrong"], &findings);
    println!("{} findings", report.findings.len());
}
