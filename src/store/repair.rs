//! What a start does with a damaged database, for who wants to see it done.

use std::path::Path;

use serde::Serialize;

use super::alive::Alive;
use super::check::check;
use super::quarantine::Kept;
use super::salvage::{self, Summary};
use super::{DATABASE_FILE, Error, open, quarantine, schema};

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Repaired {
    /// There was nothing to mend.
    Whole,
    Salvaged(Summary),
}

/// Salvages the database in `state_dir` when it is damaged; with `is_dry_run` only tells what would be kept and
/// lost. The caller holds the lock of the directory.
///
/// # Errors
///
/// The disk fails or is full, or the database is not this agent's; nothing was lost by it.
pub fn repair(state_dir: &Path, is_dry_run: bool) -> Result<Repaired, Error> {
    let alive = Alive::silent();
    if !is_dry_run {
        quarantine::finish(state_dir)?;
    }
    let path = state_dir.join(DATABASE_FILE);
    let io = |source| Error::Io { what: "cannot read", path: path.clone(), source };
    let suspicion = match quarantine::marked(state_dir)? {
        Some(reason) => Some(salvage::evidence(&reason, false, false)),
        None => salvage::suspect(&path, &|| ()).map_err(io)?.or_else(|| open::misses_wal(&path)),
    };
    let evidence = match suspicion {
        Some(evidence) => evidence,
        None => {
            // All of it, where a start trusts what was closed in order.
            let report = check(&path)?;
            if report.schema_version > schema::VERSION {
                return Err(Error::NewerSchema {
                    path,
                    found: report.schema_version,
                    known: schema::VERSION,
                });
            }
            let Some(first) = report.findings.first() else { return Ok(Repaired::Whole) };
            salvage::evidence(&format!("{}: {}", first.place, first.detail), false, false)
        }
    };
    if !is_dry_run {
        let summary = open::salvage_now(state_dir, &evidence, Kept::ALL, &alive)?;
        return Ok(Repaired::Salvaged(summary));
    }
    let scratch = quarantine::building(state_dir);
    let summary = salvage::rebuild(&path, &scratch, &evidence, "", &|| ());
    salvage::remove(&scratch)?;
    Ok(Repaired::Salvaged(summary?))
}
