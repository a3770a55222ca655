//! `store import`: takes over what a Python agent still holds.

use std::path::PathBuf;

use super::table;
use crate::app::import::{Imported, import};
use crate::cli::{EXIT_CONFIG, EXIT_FAILED, EXIT_OK};
use crate::config::{LoadOptions, load};
use crate::reading::Priority;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The Python agent's queue. It is only read, so it can be imported again after the other agent went on.
    #[arg(value_name = "SYNC_QUEUE_DB")]
    queue: PathBuf,
    /// Only say what would be taken over
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(config: Option<PathBuf>, arguments: &Arguments) -> anyhow::Result<u8> {
    let loaded = match load(&LoadOptions::of_process(config)) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return Ok(EXIT_CONFIG);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let imported = runtime.block_on(import(&loaded.config, &arguments.queue, arguments.dry_run))?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&imported)?);
    } else {
        print(&imported, arguments.dry_run);
    }
    Ok(if imported.refused == 0 { EXIT_OK } else { EXIT_FAILED })
}

fn print(imported: &Imported, is_dry_run: bool) {
    let mut rows = vec![["found".to_owned(), imported.found.to_string()]];
    for (priority, items) in Priority::ALL.into_iter().zip(imported.queued) {
        rows.push([format!("queued, {}", priority.name()), items.to_string()]);
    }
    rows.push(["kept on the device by privacy".to_owned(), imported.kept_local.to_string()]);
    rows.push(["dropped by privacy".to_owned(), imported.dropped.to_string()]);
    rows.push(["taken over before".to_owned(), imported.already.to_string()]);
    rows.push(["not taken over".to_owned(), imported.refused.to_string()]);
    table::print(["items", "count"], &rows);
    for refused in &imported.refusals {
        println!("row {}: {}", refused.id, refused.reason);
    }
    if imported.refused > imported.refusals.len() as u64 {
        println!("and further ones like these");
    }
    if is_dry_run {
        println!("a dry run: nothing was stored");
    }
}
