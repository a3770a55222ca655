//! `store repair`: does what a start of the agent does with a damaged database, and says what came of it.

use std::path::PathBuf;

use super::{Target, table};
use crate::cli::{EXIT_FAILED, EXIT_OK};
use crate::lifecycle::lock::StateLock;
use crate::store::repair::{Repaired, repair};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Only say what would be kept and lost
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
    let state_dir = path.parent().map(PathBuf::from).unwrap_or_default();
    anyhow::ensure!(
        path.file_name().is_some_and(|name| name == crate::store::DATABASE_FILE),
        "{}: give the {} of a state directory; what is repaired is a whole directory",
        path.display(),
        crate::store::DATABASE_FILE
    );
    anyhow::ensure!(path.exists(), "{}: there is no such database", path.display());
    let _lock = StateLock::take(&state_dir)?;
    let repaired = repair(&state_dir, arguments.dry_run)?;
    match &repaired {
        found if arguments.json => println!("{}", serde_json::to_string_pretty(found)?),
        Repaired::Whole => println!("{}: nothing is wrong", path.display()),
        Repaired::Salvaged(summary) => {
            println!("{}: {}", path.display(), summary.reason);
            let rows = [
                ["kept".to_owned(), summary.items_kept.to_string()],
                ["of these to be delivered".to_owned(), summary.items_queued.to_string()],
                ["lost".to_owned(), summary.items_lost.to_string()],
            ];
            table::print(["items", "count"], &rows);
            if summary.is_uncertain {
                println!("of some numbers it cannot be told what became of them; they are declared as gaps");
            }
            if arguments.dry_run {
                println!("a dry run: nothing was changed");
            } else {
                println!("the damaged files are in {}", state_dir.join(&summary.folder).display());
            }
        }
    }
    let is_left_damaged = arguments.dry_run && matches!(repaired, Repaired::Salvaged(_));
    Ok(if is_left_damaged { EXIT_FAILED } else { EXIT_OK })
}
