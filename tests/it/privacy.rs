//! Privacy, from a source to what leaves: nothing of a corpus full of personal data gets out, and the audit trail
//! says what did.

mod corpus;
mod trail;

use std::path::Path;

use pyvorin_edge::privacy::chain::{Finding, Verifier};
use pyvorin_edge::store::trail::read as trail_of;
use rusqlite::{Connection, OpenFlags};

use crate::harness::daemon::Home;
use crate::harness::process::finished;

/// Runs a subcommand to its end.
async fn run(home: &Home, arguments: &[&str]) -> (Option<i32>, String, String) {
    finished(home.command().args(arguments)).await
}

async fn verify(home: &Home) -> (Option<i32>, String) {
    let (code, out, error) = run(home, &["privacy", "verify", "--config", "config.toml"]).await;
    (code, out + &error)
}

/// Where the audit trail does not hold.
pub fn broken(state_dir: &Path) -> Vec<Finding> {
    let mut verifier = Verifier::default();
    let highest = trail_of(&state_dir.join("edge_store.db"), |id, record| verifier.take(id, record)).unwrap();
    verifier.finish(highest).broken
}

/// The audit records: action and details.
fn records(state_dir: &Path) -> Vec<(String, serde_json::Value)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = Connection::open_with_flags(state_dir.join("edge_store.db"), flags).unwrap();
    let mut select = db.prepare("SELECT action, details FROM privacy_audit ORDER BY id").unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?))).unwrap();
    rows.map(|row| row.unwrap())
        .map(|(action, details)| (action, serde_json::from_str(&details).unwrap()))
        .collect()
}

fn write_to(state_dir: &Path, sql: &str) {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let db = Connection::open_with_flags(state_dir.join("edge_store.db"), flags).unwrap();
    db.execute_batch(sql).unwrap();
}
