//! `store purge`: deletes what a person no longer wants to keep.

use std::path::PathBuf;

use super::{LaneName, Target, Time, table};
use crate::cli::EXIT_OK;
use crate::clock;
use crate::lifecycle::lock::StateLock;
use crate::store::purge::{Filter, LanePurge, plan, purge};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Only these lanes [default: all]
    #[arg(long, value_name = "LANE", ignore_case = true)]
    lane: Vec<LaneName>,
    /// Only what is older: ISO 8601, Unix seconds, or back from now such as 90s, 15m, 24h, 7d
    #[arg(long, value_name = "TIME")]
    before: Option<Time>,
    /// Also what was not delivered yet. It is declared as a gap and never arrives
    #[arg(long)]
    undelivered: bool,
    /// Only say what would go; also while the agent runs
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<u8> {
    let path = match arguments.target.resolve(config) {
        Ok(path) => path,
        Err(code) => return Ok(code),
    };
    let filter = Filter {
        lanes: arguments.lane.into_iter().map(|lane| lane.0).collect(),
        before: arguments.before.map(|time| time.0),
        undelivered: arguments.undelivered,
    };
    let lanes = if arguments.dry_run {
        plan(&path, &filter)?
    } else {
        anyhow::ensure!(path.exists(), "there is no database {}", path.display());
        let folder = path.parent().unwrap_or(&path);
        let _lock = StateLock::take(folder)?;
        purge(&path, &filter, clock::unix_seconds())?
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&lanes)?);
    } else {
        print(&lanes, arguments.dry_run);
    }
    Ok(EXIT_OK)
}

fn print(lanes: &[LanePurge], is_dry_run: bool) {
    let rows: Vec<_> = lanes
        .iter()
        .map(|lane| {
            [
                lane.name.to_owned(),
                lane.blocks.to_string(),
                lane.items.to_string(),
                lane.undelivered.to_string(),
                lane.bytes.to_string(),
            ]
        })
        .collect();
    table::print(["lane", "blocks", "items", "undelivered", "bytes"], &rows);
    println!("{}", if is_dry_run { "a dry run: nothing was deleted" } else { "deleted" });
}
